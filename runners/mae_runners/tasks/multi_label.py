"""Fine-tuning a classifier of images that may be of several classes, or of none."""

from __future__ import annotations

from typing import Any

import numpy as np
from mae_sdk.files import write_json
from torch import nn

from mae_runners.distributed import Ranks
from mae_runners.metrics.multi_label import DEFINITIONS, MORE, MultiLabelMetrics
from mae_runners.tasks.base import Batch, Images
from mae_runners.tasks.classify import ClassificationTask
from mae_runners.tasks.losses import label_loss


class MultiLabelTask(ClassificationTask):
    """Binary cross-entropy for each class, with soft targets (mixup, CutMix, label smoothing)."""

    criterion = staticmethod(label_loss)

    @property
    def accuracy(self) -> str | None:
        return "mAP" if self.val is not None else None

    def metrics_about(self) -> dict[str, dict[str, Any]]:
        losses = {name: {"direction": "minimize"} for name in ("train_loss", "val_loss")}
        return {**losses, **{name: {"direction": direction} for name, direction in MORE.items()}}

    def balanced_weights(self) -> np.ndarray:
        """Of the images that a class has: images without it / images of it."""
        assert self.train.targets is not None
        counts = self.train.targets[self.train_indices].sum(axis=0, dtype=np.int64)
        others = len(self.train_indices) - counts
        weights: np.ndarray = np.where(counts, others / np.maximum(counts, 1), 1.0)
        return weights

    def new_metrics(self) -> Any:
        return MultiLabelMetrics(self.spec.model.num_classes)

    def validation_step(self, module: nn.Module, batch: Batch, metrics: Any) -> None:
        keep = batch["valid"]
        metrics.add(module(self.inputs(batch))[keep], batch["label"][keep])

    def validation_metrics(self, metrics: Any) -> dict[str, float]:
        """As in `Task`; the thresholds of the best F1 become the model's."""
        found: dict[str, float] = metrics.summary(self.spec.dataset.val_data_sources)
        self.thresholds = list(metrics.chosen)
        if self.context.is_main:
            about = {
                "ece": found["ece"],
                "reliability": metrics.reliability,
                "images": metrics.images,
                "per_class": metrics.per_class(list(self.train.classes)),
                "definitions": DEFINITIONS,
            }
            write_json(self.context.action_dir / "validation.json", about)
        return found

    def after_epoch(
        self, ranks: Ranks, images: Images, *, step: int, epoch: int, final: bool
    ) -> dict[str, float]:
        return {}
