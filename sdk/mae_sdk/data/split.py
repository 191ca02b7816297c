"""How many images a run trains on and holds out for validation: plans count them, runners draw
them."""

from __future__ import annotations

from collections.abc import Iterable


def share_of(size: int, share: float) -> int:
    """Images that a share takes of a class of this size: at least one."""
    return min(size, max(1, round(share * size)))


def held_out(classes: Iterable[int], share: float) -> int:
    """Images held out of classes of these sizes: the share of each, at least one, and none of a
    class of one."""
    return sum(max(1, round(share * size)) for size in classes if size > 1)
