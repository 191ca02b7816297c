"""How far a share of images can be trusted: intervals at 95 %."""

from __future__ import annotations

import math

Z = 1.959964
"""Of the normal distribution: 95 % lie within ± Z."""
MIN_FOR_PERCENTILE = 20
"""Repetitions below which the 95th percentile is the largest of them, or lies beside it: it is not
told then."""


def wilson(share: float, images: int) -> tuple[float, float]:
    """The score interval of a share of `images` images (Wilson 1927).

    Unlike ±Z standard errors it stays in 0…1 and is right near the ends.
    """
    if images < 1:
        return 0.0, 1.0
    share = min(max(share, 0.0), 1.0)
    spread = Z * Z / images
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(
    first: float, first_images: int, second: float, second_images: int
) -> tuple[float, float]:
    """The interval of `first` − `second`, two shares of different images (Newcombe 1998, method
    10). For shares of the same images it is too wide, never too narrow in practice."""
    low1, high1 = wilson(first, first_images)
    low2, high2 = wilson(second, second_images)
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
