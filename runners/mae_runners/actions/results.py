"""``results.csv``: what a classifier says of every image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mae_sdk.data.label_file import BETWEEN
from mae_sdk.files import write_csv
from torch import Tensor


class Leading(NamedTuple):
    """The most probable classes of images, first the best.

    Attributes:
        probabilities: float64 ``[N, k]``.
        classes: int64 ``[N, k]``.
    """

    probabilities: Tensor
    classes: Tensor

    @classmethod
    def of(cls, logits: Tensor, k: int, *, sigmoid: bool = False) -> Leading:
        """Of ``logits [N, C]``; k is C where that is less. ``sigmoid``: each class has a
        probability of its own."""
        scores = logits.double()
        shares = scores.sigmoid() if sigmoid else scores.softmax(dim=1)
        values, indices = shares.topk(min(k, shares.shape[1]), dim=1)
        return cls(values.cpu(), indices.cpu())

    @classmethod
    def joined(cls, parts: Sequence[Leading]) -> Leading:
        """One after another."""
        return cls(
            torch.cat([part.probabilities for part in parts]),
            torch.cat([part.classes for part in parts]),
        )

    def least_certain_first(self) -> list[int]:
        """Rows by the lead of the most probable class over the next, the smallest first."""
        values = self.probabilities
        lead = values[:, 0] - values[:, 1] if values.shape[1] > 1 else values[:, 0]
        order: list[int] = lead.argsort(stable=True).tolist()
        return order


def true_labels(dataset: Any, positions: Sequence[int], known: Sequence[str]) -> list[str] | None:
    """The class that a table or a folder gives each image (of several ``a|b``), empty where there
    is none; None where nothing is said of any, or folders are named that are no classes of the
    model.

    Args:
        positions: of the images in the data set.
        known: the model's classes.
    """
    if dataset.targets is not None:
        return [labels_of(dataset.classes, dataset.targets[place]) for place in positions]
    names, labels = [*dataset.classes, ""], dataset.labels
    if not dataset.classes or not set(dataset.classes) <= set(known):
        return None
    return [names[int(labels[place])] for place in positions]


def labels_of(classes: Sequence[str], taken: Iterable[Any]) -> str:
    """The classes of one image: ``a|b``; empty where it is of none."""
    return BETWEEN.join(name for name, one in zip(classes, taken, strict=True) if one)


def write_label_results(
    folder: Path,
    paths: Sequence[str],
    logits: Tensor,
    cuts: Sequence[float],
    classes: Sequence[str],
    top_k: int,
    *,
    order: Sequence[int] | None = None,
    true: Sequence[str] | None = None,
) -> Path:
    """Of images that may be of several classes: path, labels (``a|b``, those at or above their
    thresholds), probabilities (of these), then label_1, probability_1 … of the ``top_k`` most
    probable classes; last ``true_labels``, where a table gives labels.

    Args:
        logits: ``[N, C]``.
        cuts: the logit of each class from which an image is taken to be of it.
    """
    taken = (logits >= torch.tensor(cuts)).tolist()
    shares = logits.double().sigmoid().tolist()
    leading = Leading.of(logits, top_k, sigmoid=True)
    values, indices = leading.probabilities.tolist(), leading.classes.tolist()
    header = ["path", "labels", "probabilities"]
    for place in range(1, leading.classes.shape[1] + 1):
        header += [f"label_{place}", f"probability_{place}"]
    header += [] if true is None else ["true_labels"]

    def row(place: int) -> list[object]:
        said = (f"{p:.6f}" for p, one in zip(shares[place], taken[place], strict=True) if one)
        cells: list[object] = [paths[place], labels_of(classes, taken[place]), BETWEEN.join(said)]
        for index, value in zip(indices[place], values[place], strict=True):
            cells += [classes[index], f"{value:.6f}"]
        return cells if true is None else [*cells, true[place]]

    chosen = range(len(paths)) if order is None else order
    return write_csv(folder / "results.csv", header, map(row, chosen))


def nearest_thresholds_first(logits: Tensor, cuts: Sequence[float]) -> list[int]:
    """Rows by the distance of the nearest class's logit from its threshold."""
    distances = (logits.double() - torch.tensor(cuts)).abs().min(dim=1).values
    order: list[int] = distances.argsort(stable=True).tolist()
    return order


def write_results(
    folder: Path,
    paths: Sequence[str],
    leading: Leading,
    classes: Sequence[str],
    *,
    order: Sequence[int] | None = None,
    true: Sequence[str] | None = None,
) -> Path:
    """path, label, probability, class_index, then label_2, probability_2 … of the other leading
    classes; last ``true_label``, where it is known of some image.

    Args:
        order: of the rows; else that of the images.
        true: the true class of each image; empty where it is not known.
    """
    header = ["path", "label", "probability", "class_index"]
    for place in range(2, leading.classes.shape[1] + 1):
        header += [f"label_{place}", f"probability_{place}"]
    header += [] if true is None else ["true_label"]
    values, indices = leading.probabilities.tolist(), leading.classes.tolist()

    def row(place: int) -> list[object]:
        first, *others = zip(indices[place], values[place], strict=True)
        cells: list[object] = [paths[place], classes[first[0]], f"{first[1]:.6f}", first[0]]
        for index, value in others:
            cells += [classes[index], f"{value:.6f}"]
        return cells if true is None else [*cells, true[place]]

    chosen = range(len(paths)) if order is None else order
    return write_csv(folder / "results.csv", header, map(row, chosen))
