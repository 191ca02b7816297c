"""The confusion matrix of a classifier or a segmenter: counting, and its table and image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mae_sdk.files import write_csv
from torch import Tensor

NAMED_CLASSES = 40  # beyond this an image has no room for names
COUNTED_CLASSES = 20  # nor for a number in every cell


def count_pairs(
    truth: Tensor, predicted: Tensor, num_classes: int, ignore_index: int | None = None
) -> Tensor:
    """Counts, float64 ``[C, C]``: rows = true class, columns = predicted.

    Args:
        truth, predicted: integer tensors of one shape; every label in 0 … C−1 or ``ignore_index``.
        ignore_index: true label of what is left out.
    """
    truth, predicted = truth.flatten().long(), predicted.flatten().long()
    if ignore_index is not None:
        kept = truth != ignore_index
        truth, predicted = truth[kept], predicted[kept]
    counts = torch.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).double()


def write_table(confusion: np.ndarray, classes: list[str], folder: Path) -> Path:
    """``confusion_matrix.csv``: counts; rows = true."""
    counts = ([name, *map(int, row)] for name, row in zip(classes, confusion, strict=True))
    return write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *classes], counts)


def write_confusion(confusion: np.ndarray, classes: list[str], folder: Path) -> list[Path]:
    """``confusion_matrix.csv`` (counts; rows = true) and ``.png`` (share of each true class)."""
    table = write_table(confusion, classes, folder)

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(classes)
    side = min(14.0, 3.0 + 0.35 * min(count, NAMED_CLASSES))
    figure = Figure(figsize=(side + 1.0, side), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)

    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(drawn, ax=axes, label="share of the true class", fraction=0.046)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= NAMED_CLASSES:
        axes.set_xticks(range(count), classes, rotation=90)
        axes.set_yticks(range(count), classes)
    if count <= COUNTED_CLASSES:
        for row, column in np.argwhere(confusion > 0):
            axes.text(
                column,
                row,
                str(int(confusion[row, column])),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[row, column] > 0.6 else "black",
            )

    chart = folder / "confusion_matrix.png"
    figure.savefig(chart)
    return [table, chart]
