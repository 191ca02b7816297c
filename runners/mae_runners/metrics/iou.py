"""Intersection over union from sums over a whole data set, never from means of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_sdk.files import write_csv
from mae_skill.errors import DataError
from torch import Tensor

from mae_runners.metrics.confusion import count_pairs
from mae_runners.metrics.windows import classify_pixels


class SegmentationMetrics:
    """IoU, accuracies and loss of a segmenter; used by training, evaluate and inference.

    Attributes:
        sums: float64 ``[C² + 4]``: the confusion matrix of pixels, then loss, labeled pixels,
            images and all pixels. Add those of other ranks before reading metrics.
        newest: the confusion matrix of the last image that was added, ``[C, C]``.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.sums = torch.zeros(num_classes**2 + 4, dtype=torch.float64)

    def add(self, logits: Tensor, mask: Tensor) -> np.ndarray:
        """Counts an image: ``logits [C, h, w]`` of any size, ``mask [H, W]``.

        Returns:
            The class of each pixel, integer ``[H, W]``.
        """
        size = (int(mask.shape[0]), int(mask.shape[1]))
        mask = mask.to(logits.device)
        labels, loss, pixels = classify_pixels(logits, size, mask, self.ignore_index)
        counts = count_pairs(mask, labels, self.num_classes, self.ignore_index)
        counts = counts.cpu()
        self.newest: np.ndarray = counts.numpy()
        self.sums[:-4] += counts.flatten()
        new = [loss, pixels, 1.0, float(mask.numel())]
        self.sums[-4:] += torch.tensor(new, dtype=torch.float64)
        found: np.ndarray = labels.cpu().numpy()
        return found

    @property
    def confusion(self) -> np.ndarray:
        """float64 ``[C, C]``, rows = true class, columns = predicted."""
        return self.sums[:-4].reshape(self.num_classes, self.num_classes).numpy()

    @property
    def labeled_pixels(self) -> int:
        return int(self.sums[-3])

    def summary(self, source: object) -> dict[str, Any]:
        """``val_loss``, ``images``, ``labeled_share`` (of all pixels, those that count) and all of
        `iou_metrics`.

        Raises:
            DataError: no pixel has a label; ``source`` is the data set that the error names.
        """
        loss, pixels, images, every = self.sums[-4:].tolist()
        if not pixels:
            raise DataError(
                "no validation pixel has a label",
                field="dataset.val_data_sources",
                got=source,
                expected="masks with classes other than dataset.segmentation.ignore_index",
            )
        return {
            "val_loss": loss / pixels,
            "images": int(images),
            "labeled_share": pixels / every,
            **iou_metrics(self.confusion),
        }


def iou_metrics(confusion: np.ndarray | Tensor) -> dict[str, Any]:
    """The metrics of a confusion matrix of pixels ``[C, C]``.

    Returns:
        ``mIoU``: mean over the classes that occur in truth or prediction.  ``mAcc``: mean recall
        of the classes that occur in truth.  ``aAcc``: share of the pixels that are right.
        ``iou``, ``accuracy``: per class, None where undefined.  ``pixels``: per class.
        All in [0, 1]; 0 where no pixel is labeled.
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    hits, truths, guesses = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    union = truths + guesses - hits

    iou = [float(hit / whole) if whole else None for hit, whole in zip(hits, union, strict=True)]
    accuracy = [
        float(hit / whole) if whole else None for hit, whole in zip(hits, truths, strict=True)
    ]
    return {
        "mIoU": _mean(iou),
        "mAcc": _mean(accuracy),
        "aAcc": float(hits.sum() / matrix.sum()) if matrix.sum() else 0.0,
        "iou": iou,
        "accuracy": accuracy,
        "pixels": [int(count) for count in truths],
    }


def judged_classes(metrics: dict[str, Any]) -> int:
    """How many classes the masks hold that a score was taken over."""
    return sum(count > 0 for count in metrics["pixels"])


def one_answer(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, Any] | None:
    """What always answering the most frequent class of the masks has: ``class, aAcc, mIoU``, from
    a confusion matrix of pixels ``[C, C]``; None where the masks hold fewer than two classes."""
    truths = np.asarray(confusion, dtype=np.float64).sum(axis=1)
    there = int(np.count_nonzero(truths))
    if there < 2:
        return None
    share = float(truths.max() / truths.sum())
    # Its own IoU is that share, and every other class of the masks has none.
    return {"class": classes[int(truths.argmax())], "aAcc": share, "mIoU": share / there}


def without_vacuous(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics; ``mIoU`` and ``mAcc`` are None where the masks hold one class alone, since a
    model that answers nothing else would have 1."""
    if judged_classes(metrics) > 1 or len(metrics["pixels"]) < 2:
        return metrics
    return {**metrics, "mIoU": None, "mAcc": None}


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def by_class(metrics: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The metrics with their lists folded into ``per_class``: name → IoU, accuracy, pixels."""
    lists = [metrics[name] for name in ("iou", "accuracy", "pixels")]
    table = {
        name: {"IoU": iou, "accuracy": accuracy, "pixels": pixels}
        for name, iou, accuracy, pixels in zip(classes, *lists, strict=True)
    }
    rest = {name: metrics[name] for name in metrics.keys() - {"iou", "accuracy", "pixels"}}
    return {**{name: rest[name] for name in metrics if name in rest}, "per_class": table}


def write_table(metrics: dict[str, Any], classes: Sequence[str], path: Path) -> Path:
    """``class, IoU, accuracy, pixels`` of every class; empty where undefined."""
    lists = [metrics[name] for name in ("iou", "accuracy", "pixels")]
    rows = (
        [name, *("" if share is None else f"{share:.6f}" for share in shares), pixels]
        for name, *shares, pixels in zip(classes, *lists, strict=True)
    )
    return write_csv(path, ["class", "IoU", "accuracy", "pixels"], rows)
