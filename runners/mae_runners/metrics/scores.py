"""Figures that need the scores of all images together: areas under curves."""

from __future__ import annotations

from collections.abc import Iterator

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
    found: list[float | None] = []
    for _, right, wrong in _curves(scores, truth):
        if not right[-1] or not wrong[-1]:
            found.append(None)
            continue
        recall, fallout = right / right[-1], wrong / wrong[-1]
        found.append(float(torch.trapezoid(_from_zero(recall), _from_zero(fallout))))
    return found


def average_precision(scores: Tensor, truth: Tensor) -> list[float | None]:
    """The average precision of each class, without interpolation, as scikit-learn has it.

    Args, Returns: as of `area_under_roc`; None where no image is of the class.
    """
    found: list[float | None] = []
    for _, right, wrong in _curves(scores, truth):
        if not right[-1]:
            found.append(None)
            continue
        precision = right / (right + wrong)
        found.append(float((_from_zero(right / right[-1]).diff() * precision).sum()))
    return found


def best_thresholds(scores: Tensor, truth: Tensor) -> list[float]:
    """The threshold of the best F1 of each class, the lowest of several, half way to the next lower
    score.

    Args:
        scores: probabilities ``[N, C]``.  truth: 0 or 1, ``[N, C]``.

    Returns:
        One for each class; 0.5 where no image is of it.
    """
    found = []
    for cuts, right, wrong in _curves(scores, truth):
        if not right[-1]:
            found.append(0.5)
            continue
        f1 = 2 * right / (right + wrong + right[-1])
        best = int((f1 == f1.max()).nonzero()[-1])  # cuts fall
        lower = float(cuts[best + 1]) if best + 1 < len(cuts) else 0.0
        found.append(min(max((float(cuts[best]) + lower) / 2, 1e-6), 1 - 1e-6))
    return found


def _curves(scores: Tensor, truth: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each class the scores that occur, falling, and how many images with at least that score
    are of the class, and are not. float64.

    The areas of torchmetrics and scikit-learn, which the tests compare with, cost 3.3 and 1.9 s of
    imports in each evaluation.
    """
    for values, of_class in zip(scores.T, truth.T, strict=True):
        ordered, places = values.double().sort(descending=True)
        last = torch.ones(len(ordered), dtype=torch.bool, device=ordered.device)
        last[:-1] = ordered[:-1] != ordered[1:]  # images of one score are told together
        right = of_class[places].double().cumsum(0)
        seen = torch.arange(1, len(ordered) + 1, device=ordered.device)
        yield ordered[last], right[last], (seen - right)[last]


def _from_zero(values: Tensor) -> Tensor:
    return torch.cat([values.new_zeros(1), values])
