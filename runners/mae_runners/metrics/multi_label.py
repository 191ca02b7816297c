"""Metrics of a classifier whose images may be of several classes."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mae_skill.errors import DataError
from torch import Tensor

from mae_runners.distributed import Ranks
from mae_runners.metrics.classification import binned, calibration_error, reliability
from mae_runners.metrics.scores import (
    Scores,
    area_under_roc,
    average_precision,
    best_thresholds,
)

MORE = {
    "mAP": "maximize",
    "f1_macro": "maximize",
    "f1_micro": "maximize",
    "auroc": "maximize",
    "ece": "minimize",
}
"""The figures beside the loss, and what is better."""

DEFINITIONS = {
    "mAP": "mean over the classes that have images of AP: the precision at each image of the "
    "class, in the order of the scores, averaged over them",
    "threshold": "probability from which an image is taken to be of the class",
    "precision": "share of the images taken to be of the class that are",
    "recall": "share of the class's images that were taken to be of it",
    "f1": "harmonic mean of the two; 0 where there is no hit, null without images of the class",
    "f1_macro": "mean F1 of the classes that have images",
    "f1_micro": "F1 of all answers together",
    "auroc": "area under the ROC curve of each class; their mean",
    "ece": "mean distance of the probability of a class and its share of the images, in 15 bins",
}


class MultiLabelMetrics:
    """Average precision, F1 and calibration of sigmoids.

    Attributes:
        sums: float64 ``[2]``: loss and images. `join` adds those of other ranks, and their scores;
            metrics are read after it.
        thresholds: of each class; None: they are chosen on these images.
    """

    def __init__(self, num_classes: int, thresholds: list[float] | None = None) -> None:
        self.num_classes, self.thresholds = num_classes, thresholds
        self.sums = torch.zeros(2, dtype=torch.float64)
        self.scores = Scores(most=None)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Counts a batch: ``logits [B, C]``, ``targets [B, C]`` of 0 and 1."""
        if not len(targets):
            return
        logits = logits.float()
        loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="sum")
        self.sums[0] += float(loss) / self.num_classes
        self.sums[1] += len(targets)
        self.scores.add(logits.sigmoid(), targets.to(torch.uint8))

    def join(self, ranks: Ranks) -> None:
        """Adds what the other ranks counted; every rank calls it."""
        ranks.sum_over_ranks(self.sums)
        self.scores.join(ranks)

    @property
    def images(self) -> int:
        return int(self.sums[1])

    @cached_property
    def _all(self) -> tuple[Tensor, Tensor]:
        scores, truth = self.scores.all()
        return scores, truth.long()

    @cached_property
    def chosen(self) -> list[float]:
        """The threshold of each class: the given one, or else the one of the best F1 here."""
        return self.thresholds or best_thresholds(*self._all)

    def summary(self, source: object) -> dict[str, float]:
        """``val_loss, mAP, f1_macro, f1_micro, auroc, ece``; AUROC where some class has images and
        lacks others.

        Raises:
            DataError: no image was counted, or none is of any class; ``source`` is the data set
                that the error names.
        """
        if not self.images:
            raise DataError(
                "no validation image could be read", field="dataset.val_data_sources", got=source
            )
        scores, truth = self._all
        found = self.per_class([str(index) for index in range(self.num_classes)])
        known = [one for one in found.values() if one["images"]]
        if not known:
            raise DataError(
                "no validation image is of any class: there is nothing to judge by",
                field="dataset.val_data_sources",
                got=source,
                expected="images of the classes",
            )
        said = scores >= torch.tensor(self.chosen)
        hits = int((said & (truth == 1)).sum())
        areas = [one["auroc"] for one in known if one["auroc"] is not None]
        return {
            "val_loss": float(self.sums[0] / self.sums[1]),
            "mAP": float(np.mean([one["AP"] for one in known])),
            "f1_macro": float(np.mean([one["f1"] for one in known])),
            "f1_micro": 2 * hits / int(said.sum() + truth.sum()),
            **({"auroc": float(np.mean(areas))} if areas else {}),
            "ece": calibration_error(self._bins),
        }

    @cached_property
    def _bins(self) -> Tensor:
        scores, truth = self._all
        return binned(scores.flatten().double(), truth.flatten().double())

    @property
    def reliability(self) -> list[dict[str, Any]]:
        """As of `ClassificationMetrics`: an image counts once for each class, ``accuracy`` is the
        share of those that are of the class."""
        return reliability(self._bins)

    def per_class(self, classes: list[str]) -> dict[str, dict[str, Any]]:
        """Class → AP, precision, recall, f1, auroc, threshold, images; what is undefined is
        None."""
        scores, truth = self._all
        said = scores >= torch.tensor(self.chosen)
        areas, precisions = self._curves
        table = {}
        for index, name in enumerate(classes):
            images, taken = int(truth[:, index].sum()), int(said[:, index].sum())
            hits = int((said[:, index] & (truth[:, index] == 1)).sum())
            table[name] = {
                "AP": precisions[index],
                "precision": hits / taken if taken else None,
                "recall": hits / images if images else None,
                "f1": 2 * hits / (images + taken) if images else None,
                "auroc": areas[index],
                "threshold": self.chosen[index],
                "images": images,
            }
        return table

    @property
    def spreads(self) -> list[tuple[float, float]]:
        """Of each class the lowest and the highest probability that an image is given."""
        low, high = torch.aminmax(self._all[0].double(), dim=0)
        return list(zip(low.tolist(), high.tolist(), strict=True))

    @cached_property
    def _curves(self) -> tuple[list[float | None], list[float | None]]:
        return area_under_roc(*self._all), average_precision(*self._all)
