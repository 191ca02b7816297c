"""Fine-tuning a classifier of images that may be of several classes, or of none."""

from __future__ import annotations

from typing import Any

import numpy as np
from mae_sdk.files import read_json, write_json
from mae_sdk.jobs.status import finite
from torch import nn

from mae_runners.distributed import Ranks
from mae_runners.metrics import doubts
from mae_runners.metrics.gallery import Gallery
from mae_runners.metrics.multi_label import DEFINITIONS, MORE, MultiLabelMetrics
from mae_runners.metrics.notable_labels import LabelMistakes, lines_of, show_pairs, surest
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
        self.wrong = LabelMistakes()
        return MultiLabelMetrics(self.spec.model.num_classes)

    def validation_step(self, module: nn.Module, batch: Batch, metrics: Any) -> None:
        keep = batch["valid"]
        logits, labels = module(self.inputs(batch))[keep], batch["label"][keep]
        metrics.add(logits, labels)
        self.wrong.add(logits, labels, batch["index"][keep])

    def validation_metrics(self, metrics: Any) -> dict[str, float]:
        """As in `Task`; the thresholds of the best F1 become the model's."""
        found: dict[str, float] = metrics.summary(self.spec.dataset.val_data_sources)
        self.thresholds = list(metrics.chosen)
        self.counted, self.error = metrics, found["ece"]
        return found

    def keep_details(self, ranks: Ranks, epoch: int, *, best: bool) -> None:
        """``validation.json``: the validation class by class, with its ``epoch``, and the
        ``notable`` mistakes: the place of each image, and what is said of it."""
        metrics, self.counted = self.counted, None  # its scores may be large
        cuts = self.thresholds or []
        parts = ranks.gather_on_first(self.wrong.found(cuts))
        if not (best and self.context.is_main):
            return
        classes = list(self.train.classes)
        per_class = metrics.per_class(classes)
        val: Any = self.val
        truth = val.targets
        pairs = [
            [one[1], lines_of(one, truth[one[1]], cuts, classes)]
            for one in surest(one for part in parts for one in part)
        ]
        about = {
            "epoch": epoch,
            "ece": self.error,
            "reliability": metrics.reliability,
            "images": metrics.images,
            "per_class": per_class,
            "definitions": DEFINITIONS,
            "doubts": doubts.of_labels(per_class, metrics.images, metrics.spreads),
            "notable": {"names": self.judged_names, "pairs": pairs},
        }
        write_json(self.context.action_dir / VALIDATION, finite(about))

    def after_epoch(
        self, ranks: Ranks, images: Images, *, step: int, epoch: int, final: bool
    ) -> dict[str, float]:
        """At the end, the surest mistakes of the validation whose checkpoint is the best that is
        kept go into the report's gallery."""
        if not final or self.val is None or not self.context.is_main:
            return {}
        kept = read_json(self.context.action_dir / VALIDATION)
        listed = kept.get("notable") or {}  # an older version kept none
        if listed.get("names") != self.judged_names:
            self.context.log("no pictures of mistakes: the best checkpoint saw other images")
            return {}
        gallery = Gallery(self.context.action_dir)
        show_pairs(gallery, self.val, listed.get("pairs") or [], kept.get("epoch"))
        gallery.save()
        return {}
