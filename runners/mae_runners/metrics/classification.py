"""Metrics of a classifier, from sums that add up over batches and ranks, and from its scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mae_skill.errors import DataError
from torch import Tensor

from mae_runners.distributed import Ranks
from mae_runners.metrics import scores
from mae_runners.metrics.confusion import count_pairs
from mae_runners.metrics.scores import Scores, area_under_roc

TOP_K = 5
BINS = 15
"""Bins of confidence of the calibration error, of equal width (Guo et al., "On Calibration of
Modern Neural Networks", arXiv 1706.04599)."""

DEFINITIONS = {
    "recall": "share of the class's images that were taken for it: the per-class accuracy",
    "precision": "share of the images taken for the class that are of it",
    "f1": "harmonic mean of the two; null where one of them is undefined",
    "balanced_accuracy": "mean recall of the classes that have images",
    "mean_class_accuracy": "balanced_accuracy under another name",
    "f1_macro": "mean F1 of the classes that have images or were predicted; 0 where there is no "
    "hit",
    "f1_weighted": "the same mean, weighted by the images of each class",
    "auroc": "area under the ROC curve of each class against all others; their mean over the "
    "classes that have images, and other images beside",
}


class ClassificationMetrics:
    """Accuracy and loss of a classifier; used by the validation of training and by evaluate.

    Attributes:
        sums: float64 ``[4]`` (loss, top-1 hits, top-5 hits, images), then, with ``confusion``, the
            ``C²`` counts of the confusion matrix and, for each bin of confidence, images, hits and
            the sum of the confidences. `join` adds those of other ranks; metrics are read after it.
        scores: with ``confusion``, the probabilities of every image, and its class.

    Args:
        confusion: also count which class was taken for which, and how sure the model was.
    """

    def __init__(self, num_classes: int, *, confusion: bool = False) -> None:
        self.num_classes, self.counts_confusion = num_classes, confusion
        more = num_classes**2 + 3 * BINS if confusion else 0
        self.sums = torch.zeros(4 + more, dtype=torch.float64)
        self.scores = Scores(scores.MAX_SCORES)

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
            pairs = count_pairs(labels, best, self.num_classes).flatten()
            bins = count_bins(logits, labels).flatten()
            self.sums[4:] += torch.cat([pairs.to(bins), bins]).cpu()
            self.scores.add(logits.softmax(dim=1), labels)

    def join(self, ranks: Ranks) -> None:
        """Adds what the other ranks counted; every rank calls it."""
        ranks.sum_over_ranks(self.sums)
        if self.counts_confusion:
            self.scores.join(ranks)

    def summary(self, source: object) -> dict[str, float]:
        """``val_loss``, ``ACC_all`` (top-1) and, with more than five classes, ``ACC_top5``; with
        the confusion matrix, `class_means`, ``auroc`` and ``ece`` too.

        Raises:
            DataError: no image was counted; ``source`` is the data set that the error names.
        """
        loss, top1, top5, images = self.sums[:4].tolist()
        if not images:
            raise DataError(
                "no validation image could be read", field="dataset.val_data_sources", got=source
            )
        found = {"val_loss": loss / images, "ACC_all": top1 / images}
        found |= {"ACC_top5": top5 / images} if self.num_classes > TOP_K else {}
        if not self.counts_confusion:
            return found
        found |= class_means(self.confusion)
        areas = [area for area in self.areas if area is not None]
        found |= {"auroc": sum(areas) / len(areas)} if areas else {}
        return found | {"ece": self.calibration_error}

    @cached_property
    def areas(self) -> list[float | None]:
        """The area under the ROC curve of each class against all others, ``[C]``; None for a class
        without images, or without others, and for all where there are too many scores to keep."""
        if self.scores.dropped:
            return [None] * self.num_classes
        probabilities, labels = self.scores.all()
        return area_under_roc(probabilities, F.one_hot(labels, self.num_classes))

    @property
    def images(self) -> int:
        return int(self.sums[3])

    @property
    def confusion(self) -> np.ndarray:
        """int64 ``[C, C]``, rows = true class, columns = predicted."""
        counts = self.sums[4 : 4 + self.num_classes**2]
        return counts.reshape(self.num_classes, self.num_classes).numpy().astype(np.int64)

    @property
    def calibration_error(self) -> float:
        """ECE: the mean distance of accuracy and confidence over the bins, weighted by their
        images; 0 is perfect."""
        return calibration_error(self._bins)

    @property
    def _bins(self) -> Tensor:
        return self.sums[4 + self.num_classes**2 :].reshape(3, BINS)

    @property
    def reliability(self) -> list[dict[str, Any]]:
        """``confidence, accuracy`` (means) and ``images`` of every bin of confidence, in order; the
        means are None in an empty one."""
        return reliability(self._bins)


def count_bins(logits: Tensor, labels: Tensor) -> Tensor:
    """`binned` of the probability of the class that was chosen."""
    confidence, best = logits.double().softmax(dim=1).max(dim=1)
    return binned(confidence, (best == labels).double())


def binned(confidence: Tensor, hits: Tensor) -> Tensor:
    """Images, hits and summed confidences by bin of confidence: float64 ``[3, BINS]``; bin i takes
    those in ``(i / BINS, (i + 1) / BINS]``.

    Args:
        confidence, hits: float64 ``[N]``.
    """
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    rows = torch.stack([torch.ones_like(confidence), hits, confidence])
    return rows.new_zeros(3, BINS).index_add_(1, place, rows)


def calibration_error(bins: Tensor) -> float:
    """ECE of `binned`."""
    images, hits, confidences = bins
    return float((hits - confidences).abs().sum() / images.sum())


def reliability(bins: Tensor) -> list[dict[str, Any]]:
    """Means of `binned`, and how many they are of."""
    return [
        {
            "confidence": confidences / images if images else None,
            "accuracy": hits / images if images else None,
            "images": int(images),
        }
        for images, hits, confidences in bins.T.tolist()
    ]


def class_means(confusion: np.ndarray) -> dict[str, float]:
    """``balanced_accuracy, f1_macro, f1_weighted`` of a confusion matrix ``[C, C]``, as
    scikit-learn defines them (``zero_division=0``)."""
    hits, truths, guesses = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    present, seen = truths > 0, truths + guesses > 0
    f1 = 2 * hits[seen] / (truths + guesses)[seen]
    return {
        "balanced_accuracy": float((hits[present] / truths[present]).mean()),
        "f1_macro": float(f1.mean()),
        "f1_weighted": float((f1 * truths[seen]).sum() / truths.sum()),
    }


def class_metrics(
    confusion: np.ndarray, classes: list[str], areas: Sequence[float | None] | None = None
) -> dict[str, Any]:
    """Metrics of single classes from a confusion matrix ``[C, C]``.

    Args:
        areas: the area under the ROC curve of each class.

    Returns:
        ``mean_class_accuracy`` over the classes present, ``per_class``: name → precision, recall,
        f1, with ``areas`` auroc, and images; and `DEFINITIONS`. A class that was never predicted
        has no precision, one without images no recall; either has no f1. What is undefined is None.
    """
    hits, truths, guesses = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    per_class = {
        name: {
            "precision": _share(hits[index], guesses[index]),
            "recall": _share(hits[index], truths[index]),
            "f1": _share(2 * hits[index], truths[index] + guesses[index])
            if truths[index] and guesses[index]
            else None,
            **({} if areas is None else {"auroc": areas[index]}),
            "images": int(truths[index]),
        }
        for index, name in enumerate(classes)
    }
    return {
        "mean_class_accuracy": class_means(confusion)["balanced_accuracy"],
        "per_class": per_class,
        "definitions": DEFINITIONS,
    }


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
