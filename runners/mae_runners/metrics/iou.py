"""Intersection over union from sums over a whole data set, never from means of pictures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_sdk.files import atomic_file
from torch import Tensor


def confusion(truth: Tensor, predicted: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Pixel counts float64 ``[C, C]``, rows = true class, columns = predicted; ignored pixels are left out.

    Args:
        truth, predicted: integer tensors of one shape; every label that is not ``ignore_index`` lies in 0 … C−1.
    """
    truth, predicted = truth.flatten().long(), predicted.flatten().long()
    kept = truth != ignore_index
    pairs = truth[kept] * num_classes + predicted[kept]
    return (
        torch.bincount(pairs, minlength=num_classes * num_classes)
        .reshape(num_classes, num_classes)
        .double()
    )


def figures(counts: np.ndarray | Tensor) -> dict[str, Any]:
    """The figures of a confusion matrix.

    Returns:
        ``mIoU``: mean over the classes that occur in truth or prediction.  ``mAcc``: mean recall of the classes that occur in truth.
        ``aAcc``: share of the pixels that are right.  ``iou``, ``accuracy``: by class, None where undefined.  ``pixels``: by class.
        All in [0, 1]; 0 where no pixel is labelled.
    """
    matrix = np.asarray(counts, dtype=np.float64)
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


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def write_table(found: dict[str, Any], classes: Sequence[str], path: Path) -> Path:
    """``class, IoU, accuracy, pixels`` of every class; empty where undefined."""
    with atomic_file(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["class", "IoU", "accuracy", "pixels"])
        for name, iou, accuracy, pixels in zip(
            classes, found["iou"], found["accuracy"], found["pixels"], strict=True
        ):
            writer.writerow(
                [
                    name,
                    *("" if value is None else f"{value:.6f}" for value in (iou, accuracy)),
                    pixels,
                ]
            )
    return path
