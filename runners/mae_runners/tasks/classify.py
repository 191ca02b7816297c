"""Fine-tuning a classifier."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
from mae_sdk.files import read_json, write_json
from mae_sdk.jobs.status import finite
from mae_skill.errors import SpecError
from torch import Tensor, nn

from mae_runners.data import (
    BalancedSampler,
    ImageDataset,
    Mixup,
    SubsetSampler,
    build_dataset,
    soft_targets,
    table_of,
)
from mae_runners.distributed import Ranks
from mae_runners.metrics import doubts
from mae_runners.metrics.classification import ClassificationMetrics, class_metrics
from mae_runners.metrics.confusion import write_table
from mae_runners.metrics.gallery import Gallery
from mae_runners.metrics.notable import Answer, Notable
from mae_runners.models import build_classifier
from mae_runners.models.heads import Classifier
from mae_runners.tasks.base import VALIDATION, Batch, Images, Task
from mae_runners.tasks.losses import class_loss

MAX_CONFUSED = 300
"""Classes up to which every validation counts which was taken for which."""

MORE = {
    "balanced_accuracy": "maximize",
    "f1_macro": "maximize",
    "f1_weighted": "maximize",
    "auroc": "maximize",
    "ece": "minimize",
}
"""Figures of up to so many classes, and what is better."""


class ClassificationTask(Task):
    """Classification with soft targets (mixup, CutMix, label smoothing)."""

    stage = "finetune"
    train: ImageDataset
    judged = 0
    """Images of the last validation, without those that could not be read; 0 before the first."""
    criterion = staticmethod(class_loss)
    """The loss of logits and soft targets ``[B, C]``: see `losses`."""

    @property
    def accuracy(self) -> str | None:
        return "ACC_all" if self.val is not None else None

    def metrics_about(self) -> dict[str, dict[str, Any]]:
        share: dict[str, Any] = {"direction": "maximize"}
        if self.val_indices is not None:
            share |= {"images": self.judged or len(self.val_indices)}
        more = {name: {"direction": direction} for name, direction in MORE.items()}
        return {**super().metrics_about(), "ACC_all": share, "ACC_top5": share, **more}

    def open_source(self, role: str, *, train: bool) -> ImageDataset:
        """As in `Task`.

        Raises:
            SpecError: the training data has another number of classes than the spec.
        """
        classes = self.spec.model.num_classes
        dataset = build_dataset(
            getattr(self.spec.dataset, f"{role}_data_sources"),
            train=train,
            stage=self.stage,
            augmentation=self.aug,
            seed=self.seed,
            classes=None if train else self.train.classes,
            require_labels=True,
            chosen=self.spec.dataset.classes,
            labels=table_of(self.spec.dataset, role, several=bool(self.spec.model.multi_label)),
            max_corrupt_fraction=self.spec.dataset.max_corrupt_fraction,
            reading=self.reading,
        )
        if train and len(dataset.classes) != classes:
            raise SpecError(
                f"the training data has {len(dataset.classes)} classes",
                field="model.num_classes",
                got=classes,
                expected=str(len(dataset.classes)),
                hint=f"set model.num_classes={len(dataset.classes)}",
            )
        return dataset

    def strata(self) -> np.ndarray:
        return np.asarray(self.train.labels)

    def build_model(self) -> Classifier:
        mixes = self.aug.mixup > 0 or self.aug.cutmix > 0
        self.mixup = Mixup(self.aug, self.spec.model.num_classes) if mixes else None
        self.weights = self.class_weights()
        return build_classifier(self.spec.model, self.aug.input_size, self.reading.bands)

    def balanced_weights(self) -> np.ndarray:
        """Images / (classes × images of the class)."""
        classes = len(self.train.classes)
        counts = np.bincount(self.strata()[self.train_indices], minlength=classes)
        weights: np.ndarray = counts.sum() / (classes * np.maximum(counts, 1))
        return weights

    def train_sampler(self) -> SubsetSampler:
        if not self.spec.dataset.balanced_sampling:
            return super().train_sampler()
        labels = self.strata()[self.train_indices]
        ranks = self.context.rank, self.context.world_size
        return BalancedSampler(self.train_indices, labels, self.seed, *ranks)

    def training_step(self, module: nn.Module, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        images = self.inputs(batch)
        if self.mixup is not None:
            images, targets = self.mixup(images, batch["label"], key)
        else:
            targets = soft_targets(batch["label"], self.spec.model.num_classes, self.aug.smoothing)
        train = self.spec.train
        gamma = train.focal_gamma if train.loss == "focal" else 0.0
        return self.criterion(module(images), targets, self.weights, gamma)

    def new_metrics(self) -> ClassificationMetrics:
        classes = self.spec.model.num_classes
        self.notable = Notable()
        return ClassificationMetrics(classes, confusion=classes <= MAX_CONFUSED)

    def validation_step(self, module: nn.Module, batch: Batch, metrics: Any) -> None:
        keep = batch["valid"]
        logits, labels = module(self.inputs(batch))[keep], batch["label"][keep]
        metrics.add(logits, labels)
        self.notable.add(logits, labels, batch["index"][keep])

    def join(self, metrics: Any, ranks: Ranks) -> None:
        metrics.join(ranks)

    def validation_metrics(self, metrics: Any) -> dict[str, float]:
        self.counted: Any = metrics
        self.judged = int(metrics.images)
        return super().validation_metrics(metrics)

    def keep_details(self, ranks: Ranks, epoch: int, *, best: bool) -> None:
        """``validation.json``: the validation class by class, as evaluate's ``metrics.json`` has
        it, its ``epoch``, and its ``notable`` answers; and the confusion matrix as a table."""
        counted, self.counted = self.counted, None  # its scores may be large
        parts = ranks.gather_on_first((self.notable.mistakes, self.notable.uncertain))
        if not (best and self.context.is_main):
            return
        notable = Notable()
        notable.merge({one for part in parts for kind in part for one in kind})
        answers = {"mistakes": notable.mistakes, "uncertain": notable.uncertain}
        about = {
            "epoch": epoch,
            **self.details(counted),
            "notable": {"names": self.judged_names, **answers},
        }
        write_json(self.context.action_dir / VALIDATION, finite(about))

    @cached_property
    def judged_names(self) -> str:
        """What tells the places of validation images from those of another source: a digest of its
        names."""
        found = hashlib.sha256()
        for name in self.val.source.members if self.val is not None else ():
            found.update(f"{name}\n".encode("utf-8", "surrogateescape"))
        return found.hexdigest()

    def details(self, metrics: Any) -> dict[str, Any]:
        """A validation class by class; the confusion matrix goes into a table."""
        folder, classes = self.context.action_dir, list(self.train.classes)
        if not metrics.counts_confusion:
            share = float(metrics.summary(self.spec.dataset.val_data_sources)["ACC_all"])
            assert self.val_indices is not None
            labels = np.asarray(self.val.labels)[self.val_indices]  # type: ignore[union-attr]
            counts = np.bincount(labels, minlength=len(classes))
            found = doubts.of_share("accuracy", share, counts, classes)
            return {"images": metrics.images, "doubts": found}
        write_table(metrics.confusion, classes, folder)
        return {
            "ece": metrics.calibration_error,
            "reliability": metrics.reliability,
            "images": metrics.images,
            **class_metrics(metrics.confusion, classes, metrics.areas),
            "doubts": doubts.of_classes(metrics.confusion, classes),
        }

    def after_epoch(
        self, ranks: Ranks, images: Images, *, step: int, epoch: int, final: bool
    ) -> dict[str, float]:
        """At the end, the mistakes and the uncertain images of the validation whose checkpoint is
        the best that is kept go into the report's gallery."""
        if not final or self.val is None or not self.context.is_main:
            return {}
        kept = read_json(self.context.action_dir / VALIDATION)
        listed = kept.get("notable") or {}  # an older version kept none
        if listed.get("names") != self.judged_names:
            self.context.log("no pictures of mistakes: the best checkpoint saw other images")
            return {}
        notable, gallery = Notable(), Gallery(self.context.action_dir)
        parts = listed["mistakes"], listed["uncertain"]
        notable.merge({Answer(*one) for part in parts for one in part if None not in one})
        notable.show(gallery, self.val, self.train.classes, kept.get("epoch"))
        gallery.save()
        return {}
