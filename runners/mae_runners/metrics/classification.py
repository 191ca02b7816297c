"""Classification figures from a confusion matrix, and its table and picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

TOP_K = 5
NAMED_CLASSES = 40  # beyond this a picture has no room for names


def summarise(
    confusion: np.ndarray, top_k_hits: int, loss_sum: float, classes: list[str]
) -> dict[str, Any]:
    """All figures of an evaluation.

    Args:
        confusion: int64 [C, C], rows = true class, columns = predicted.
        top_k_hits: images whose class is among the `TOP_K` largest logits.
        loss_sum: cross-entropy summed over images.
        classes: names, in label order.

    Returns:
        ``ACC_all`` (top-1), ``ACC_top5`` (None with five classes or fewer, where it says nothing), ``val_loss``,
        ``mean_class_accuracy`` over the
        classes present, ``images``, and ``per_class``: name → precision, recall, f1 (None where undefined), images. Shares in [0, 1].
    """
    total = int(confusion.sum())
    hits, truths, guesses = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    per_class = {}
    for index, name in enumerate(classes):
        recall = _share(hits[index], truths[index])
        precision = _share(hits[index], guesses[index])
        f1 = _share(2 * hits[index], truths[index] + guesses[index])
        per_class[name] = {
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "images": int(truths[index]),
        }
    present = truths > 0
    return {
        "ACC_all": float(hits.sum() / total),
        "ACC_top5": top_k_hits / total if len(classes) > TOP_K else None,
        "val_loss": loss_sum / total,
        "mean_class_accuracy": float((hits[present] / truths[present]).mean()),
        "images": total,
        "per_class": per_class,
    }


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def write_confusion(confusion: np.ndarray, classes: list[str], folder: Path) -> list[Path]:
    """``confusion_matrix.csv`` (counts; rows = true) and ``confusion_matrix.png`` (share of each true class)."""
    table = folder / "confusion_matrix.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["true \\ predicted", *classes])
        writer.writerows(
            [name, *map(int, row)] for name, row in zip(classes, confusion, strict=True)
        )
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(classes)
    side = min(14.0, 3.0 + 0.35 * min(count, NAMED_CLASSES))
    figure = Figure(figsize=(side + 1.0, side), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(picture, ax=axes, label="share of the true class", fraction=0.046)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= NAMED_CLASSES:
        axes.set_xticks(range(count), classes, rotation=90)
        axes.set_yticks(range(count), classes)
    if count <= 20:
        for row, column in np.argwhere(confusion > 0):
            axes.text(
                column,
                row,
                int(confusion[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[row, column] > 0.6 else "black",
            )
    chart = folder / "confusion_matrix.png"
    figure.savefig(chart)
    return [table, chart]
