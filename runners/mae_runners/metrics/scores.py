"""Figures that need the scores of all images together: areas under curves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mae_runners.distributed import Ranks

MAX_SCORES = 2**26
"""Scores kept at most, over all ranks: 256 MB. ImageNet's validation has 5 · 10⁷."""


class Scores:
    """The scores and the truth of every image.

    Attributes:
        dropped: there were too many; none is kept.

    Args:
        most: scores kept at most, over all ranks; None = all.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self._scores: list[Tensor] = []
        self._truth: list[Tensor] = []
        self._count, self.dropped = 0, False

    def add(self, scores: Tensor, truth: Tensor) -> None:
        """Keeps a batch: ``scores [B, C]``, ``truth`` int64 ``[B]`` or ``[B, C]``."""
        self._count += scores.numel()
        self._scores.append(scores.detach().float().cpu())
        self._truth.append(truth.detach().cpu())
        self._check()

    def join(self, ranks: Ranks) -> None:
        """Adds those of the other ranks; every rank calls it."""
        parts = ranks.gather((self._count, self._scores, self._truth))
        self._count = sum(count for count, _, _ in parts)
        self._scores = [one for _, scores, _ in parts for one in scores]
        self._truth = [one for _, _, truth in parts for one in truth]
        self._check()

    def _check(self) -> None:
        if self.most is not None and self._count > self.most:
            self.dropped, self._scores, self._truth = True, [], []

    def all(self) -> tuple[Tensor, Tensor]:
        """float32 ``[N, C]`` and the truth, ``[N]`` or ``[N, C]``."""
        return torch.cat(self._scores), torch.cat(self._truth)


def area_under_roc(scores: Tensor, truth: Tensor) -> list[float | None]:
    """The exact area under the ROC curve of each class, by the trapezoid rule.

    Args:
        scores: ``[N, C]``.  truth: 0 or 1, ``[N, C]``.

    Returns:
        One for each class; None where all images are of it, or none.
    """
    from torchmetrics.functional.classification import binary_auroc

    return _each(binary_auroc, scores, truth, whole=True)


def average_precision(scores: Tensor, truth: Tensor) -> list[float | None]:
    """The average precision of each class, without interpolation, as scikit-learn has it.

    Args, Returns: as of `area_under_roc`; None where no image is of the class.
    """
    from torchmetrics.functional.classification import binary_average_precision

    return _each(binary_average_precision, scores, truth, whole=False)


def _each(
    figure: Callable[[Tensor, Tensor], Tensor], scores: Tensor, truth: Tensor, *, whole: bool
) -> list[float | None]:
    """A figure of torchmetrics for each class.

    Args:
        whole: it is undefined too where all images are of the class.
    """
    found: list[float | None] = []
    for values, of_class in zip(scores.T, truth.T, strict=True):
        count = int(of_class.sum())
        defined = 0 < count < len(of_class) or (count and not whole)
        found.append(float(figure(values, of_class)) if defined else None)
    return found
