"""Metrics of a classifier, from sums that add up over batches and ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mae_skill.errors import DataError
from torch import Tensor

from mae_runners.metrics.confusion import count_pairs

TOP_K = 5

DEFINITIONS = {
    "recall": "share of the class's images that were taken for it: the per-class accuracy",
    "precision": "share of the images taken for the class that are of it",
    "f1": "harmonic mean of the two; null where one of them is undefined",
    "mean_class_accuracy": "mean recall of the classes that have images",
}


class ClassificationMetrics:
    """Accuracy and loss of a classifier; used by the validation of training and by evaluate.

    Attributes:
        sums: float64 ``[4]`` (loss, top-1 hits, top-5 hits, images), then, with ``confusion``, the
            ``C²`` counts of the confusion matrix. Add those of other ranks before reading metrics.

    Args:
        confusion: also count which class was taken for which.
    """

    def __init__(self, num_classes: int, *, confusion: bool = False) -> None:
        self.num_classes, self.counts_confusion = num_classes, confusion
        self.sums = torch.zeros(4 + confusion * num_classes**2, dtype=torch.float64)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Counts a batch: ``logits [B, C]``, ``labels [B]``."""
        if not len(labels):
            return
        logits = logits.float()
        best = logits.argmax(dim=1)
        leading = logits.topk(min(TOP_K, self.num_classes), dim=1).indices
        batch = torch.stack(
            [
                F.cross_entropy(logits, labels, reduction="sum").double(),
                (best == labels).sum().double(),
                (leading == labels[:, None]).sum().double(),
            ]
        )
        self.sums[:3] += batch.cpu()
        self.sums[3] += len(labels)
        if self.counts_confusion:
            self.sums[4:] += count_pairs(labels, best, self.num_classes).flatten().cpu()

    def summary(self, source: object) -> dict[str, float]:
        """``val_loss``, ``ACC_all`` (top-1) and, with more than five classes, ``ACC_top5``.

        Raises:
            DataError: no image was counted; ``source`` is the data set that the error names.
        """
        loss, top1, top5, images = self.sums[:4].tolist()
        if not images:
            raise DataError(
                "no validation image could be read", field="dataset.val_data_sources", got=source
            )
        found = {"val_loss": loss / images, "ACC_all": top1 / images}
        return found | ({"ACC_top5": top5 / images} if self.num_classes > TOP_K else {})

    @property
    def images(self) -> int:
        return int(self.sums[3])

    @property
    def confusion(self) -> np.ndarray:
        """int64 ``[C, C]``, rows = true class, columns = predicted."""
        return self.sums[4:].reshape(self.num_classes, self.num_classes).numpy().astype(np.int64)


def class_metrics(confusion: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Metrics of single classes from a confusion matrix ``[C, C]``.

    Returns:
        ``mean_class_accuracy`` over the classes present, ``per_class``: name → precision, recall,
        f1 and images, and `DEFINITIONS`. A class that was never predicted has no precision, one
        without images no recall; either has no f1. What is undefined is None.
    """
    hits, truths, guesses = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    per_class = {
        name: {
            "precision": _share(hits[index], guesses[index]),
            "recall": _share(hits[index], truths[index]),
            "f1": _share(2 * hits[index], truths[index] + guesses[index])
            if truths[index] and guesses[index]
            else None,
            "images": int(truths[index]),
        }
        for index, name in enumerate(classes)
    }
    present = truths > 0
    return {
        "mean_class_accuracy": float((hits[present] / truths[present]).mean()),
        "per_class": per_class,
        "definitions": DEFINITIONS,
    }


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
