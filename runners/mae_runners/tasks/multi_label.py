"""Fine-tuning a classifier of images that may be of several classes, or of none."""

from __future__ import annotations

from typing import Any

import numpy as np
from mae_sdk.files import write_json
from torch import nn

from mae_runners.distributed import Ranks
from mae_runners.metrics import doubts
from mae_runners.metrics.multi_label import DEFINITIONS, MORE, MultiLabelMetrics
from mae_runners.tasks.base import VALIDATION, Batch, Images
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
        self.counted, self.error = metrics, found["ece"]
        return found

    def keep_details(self, ranks: Ranks, epoch: int, *, best: bool) -> None:
        """``validation.json``: the validation class by class, with its ``epoch``."""
        metrics, self.counted = self.counted, None  # its scores may be large
        if not (best and self.context.is_main):
            return
        per_class = metrics.per_class(list(self.train.classes))
        about = {
            "epoch": epoch,
            "ece": self.error,
            "reliability": metrics.reliability,
            "images": metrics.images,
            "per_class": per_class,
            "definitions": DEFINITIONS,
            "doubts": doubts.of_labels(per_class, metrics.images),
        }
        write_json(self.context.action_dir / VALIDATION, about)

    def after_epoch(
        self, ranks: Ranks, images: Images, *, step: int, epoch: int, final: bool
    ) -> dict[str, float]:
        return {}
