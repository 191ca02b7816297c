"""How far a share of images, and the difference of two, can be trusted: intervals at 95 %, exact
tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

Z = 1.959964
"""Of the normal distribution: 95 % lie within ± Z."""
MIN_FOR_PERCENTILE = 20
"""Repetitions below which the 95th percentile is the largest of them, or lies beside it: it is not
told then."""


ALPHA = 0.05
"""Two figures are told apart where chance alone differs so much more rarely than this."""


def wilson(share: float, images: int, z: float = Z) -> tuple[float, float]:
    """The score interval of a share of `images` images (Wilson 1927).

    Unlike ±Z standard errors it stays in 0…1 and is right near the ends.
    """
    if images < 1:
        return 0.0, 1.0
    share = min(max(share, 0.0), 1.0)
    spread = z * z / images
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(
    first: float, first_images: int, second: float, second_images: int, z: float = Z
) -> tuple[float, float]:
    """The interval of `first` − `second`, two shares of different images (Newcombe 1998, method
    10). For shares of the same images it is too wide, never too narrow in practice: where the
    answers to each image are known, `paired_difference` is the right one."""
    low1, high1 = wilson(first, first_images, z)
    low2, high2 = wilson(second, second_images, z)
    gap = first - second
    low = gap - math.hypot(first - low1, high2 - second)
    high = gap + math.hypot(high1 - first, second - low2)
    return max(-1.0, low), min(1.0, high)


POWER = 0.841621
"""Of the normal distribution: 80 % lie below it."""


def images_needed(first: float, second: float) -> int | None:
    """About how many images tell two such shares apart in 4 of 5 repetitions (a power of 80 %);
    None where they are equal. So many that the interval only just ends at 0 would do so in half."""
    gap = abs(first - second)
    if gap == 0:
        return None
    spread = first * (1 - first) + second * (1 - second)
    return math.ceil((Z + POWER) ** 2 * spread / gap**2)


# ------------------------------------------------------------------ the same images


class Pairs(NamedTuple):
    """How two models have answered the same images.

    Attributes:
        both, first, second, neither: images that both models have right, that the first alone
            has, that the second alone has, that none has.
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def images(self) -> int:
        return sum(self)


def mcnemar(pairs: Pairs) -> float:
    """The two-sided p of McNemar's exact test: how often, were the two models equally good, the
    images on which one alone is right would fall so unevenly or more so (a binomial of 1/2; McNemar
    1947, Fay & Lumbard 2021)."""
    of = pairs.first + pairs.second
    term, tail = 1, 0
    for hits in range(min(pairs.first, pairs.second) + 1):  # comb(of, hits), each from the last
        tail += term
        term = term * (of - hits) // (hits + 1)
    return min(1.0, 2 * tail / (1 << of))


def paired_difference(pairs: Pairs) -> tuple[float, float]:
    """The interval of the share of the first model less that of the second, on the same images:
    Newcombe's for pairs (1998, Statistics in Medicine 17:2635, method 10, with the continuity
    correction of phi), widened to Clopper & Pearson's of the images on which one alone is right
    where that reaches further, so that it holds 0 wherever `mcnemar` finds no difference."""
    images = pairs.images
    if images < 1:
        return -1.0, 1.0
    one, other = (pairs.both + pairs.first) / images, (pairs.both + pairs.second) / images
    low1, high1 = wilson(one, images)
    low2, high2 = wilson(other, images)
    phi = _phi(pairs)
    gap = one - other
    low = gap - _joined(one - low1, high2 - other, phi)
    high = gap + _joined(high1 - one, other - low2, phi)
    if of := pairs.first + pairs.second:
        least, most = clopper_pearson(pairs.first, of)
        low = min(low, (2 * least - 1) * of / images)
        high = max(high, (2 * most - 1) * of / images)
    return max(-1.0, low), min(1.0, high)


def _phi(pairs: Pairs) -> float:
    """How alike the two answer, -1…1."""
    both, first, second, neither = pairs
    sides = (both + first) * (second + neither) * (both + second) * (first + neither)
    if not sides:
        return 0.0
    cross = both * neither - first * second
    if cross > 0:
        return max(cross - pairs.images / 2, 0.0) / math.sqrt(sides)
    return cross / math.sqrt(sides)


def _joined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def clopper_pearson(hits: int, of: int) -> tuple[float, float]:
    """The exact interval of a share (Clopper & Pearson 1934): the shares that a two-sided binomial
    test at `ALPHA` does not refuse."""
    return _least(hits, of), 1 - _least(of - hits, of)


def _least(hits: int, of: int) -> float:
    """The share of which so many hits, or more, are as rare as half of `ALPHA`."""
    if hits == 0:
        return 0.0
    low, high = 0.0, hits / of
    for _ in range(60):
        middle = (low + high) / 2
        if _at_least(hits, of, middle) < ALPHA / 2:
            low = middle
        else:
            high = middle
    return low


def _at_least(hits: int, of: int, share: float) -> float:
    """How likely so many hits are, or more, of a share below `hits` / `of`."""
    if share <= 0:
        return 0.0
    ways = math.lgamma(of + 1) - math.lgamma(hits + 1) - math.lgamma(of - hits + 1)
    term = math.exp(ways + hits * math.log(share) + (of - hits) * math.log1p(-share))
    total, odds = 0.0, share / (1 - share)
    for more in range(hits, of + 1):  # each less likely than the last
        total += term
        if term <= 1e-17 * total:
            break
        term *= odds * (of - more) / (more + 1)
    return total


class Gap(NamedTuple):
    """The difference of two shares, the first less the second.

    Attributes:
        value, low, high: with its interval.
        p: how often chance alone differs so much; of several comparisons see `corrected`.
        pairs: where the answers of both to the same images are known, from which the rest is.
    """

    value: float
    low: float
    high: float
    p: float
    pairs: Pairs | None = None

    @property
    def is_told(self) -> bool:
        """Whether the images tell the two apart."""
        return self.p < ALPHA and not self.low <= 0 <= self.high

    @property
    def test(self) -> str:
        """By what, in words."""
        if self.pairs is None:
            return "Newcombe, as if judged on different images"
        return f"pairs of {self.pairs.images:,} images, exact McNemar {p_value(self.p)}"


def gap(
    first: float, first_images: int, second: float, second_images: int, pairs: Pairs | None = None
) -> Gap:
    """How far two shares differ: by pairs where they are known, else as if the two were judged on
    different images, which is too careful for the same ones."""
    value = first - second
    if pairs is not None:
        return Gap(value, *paired_difference(pairs), mcnemar(pairs), pairs)
    given = first, first_images, second, second_images
    return Gap(value, *difference(*given), _p_of(*given))


def _p_of(first: float, first_images: int, second: float, second_images: int) -> float:
    """The p of the widest interval of `difference` that does not hold 0."""
    least, most = 0.0, 38.0  # standard deviations; beyond, p is 0 in a float
    for _ in range(60):
        middle = (least + most) / 2
        low, high = difference(first, first_images, second, second_images, middle)
        if low <= 0 <= high:
            most = middle
        else:
            least = middle
    return math.erfc(least / math.sqrt(2))


def p_value(p: float) -> str:
    """``p = 0.031``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def corrected(found: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """The p of every pair of several models, corrected for there being so many pairs: of many,
    chance finds some. Holm's steps (1979) with Shaffer's counts (1986, S1), which take into account
    that where two models differ, both cannot be equal to a third.

    All pairs count, also where only those with the best are shown: the best was chosen by the very
    figures that are compared.

    Args:
        found: pair of two models, by number → its p; all pairs of them.
    """
    models = len({one for pair in found for one in pair})
    counts = sorted(_equal_pairs(models))
    adjusted: dict[tuple[int, int], float] = {}
    reached = 0.0
    for refused, pair in enumerate(sorted(found, key=lambda one: found[one])):
        left = len(found) - refused
        # The most pairs that can still be equal where so many are refused.
        possible = max((count for count in counts if count <= left), default=0)
        reached = max(reached, min(1.0, max(possible, 1) * found[pair]))
        adjusted[pair] = reached
    return adjusted


def _equal_pairs(models: int) -> set[int]:
    """How many pairs of so many models may be equal: those within the groups of a partition."""
    known: list[set[int]] = [{0}]
    for count in range(1, models + 1):
        known.append(
            {
                math.comb(group, 2) + rest
                for group in range(1, count + 1)
                for rest in known[count - group]
            }
        )
    return known[models]
