"""What two models have answered to the same images, from the ``results.csv`` of each: it tells them
apart with fewer images than two shares alone do."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping

from mae_sdk.jobs.intervals import Pairs

METRIC = "ACC_all"
"""The share that the answers make: of images whose most probable class is the true one."""
_CLOSE = 1e-4
"""Between a share of the answers and the one that was reported: half precision and rounding."""

Answers = Mapping[str, tuple[str, bool]]


def answers_of(table: str, share: float, images: int) -> Answers | None:
    """Image → its true class, and whether the answer is that.

    None where the table does not hold the answers behind a share: it has no true classes, or those
    of several labels; it names an image twice; or its answers make another share.

    Args:
        table: the text of ``results.csv``.
        share, images: as the job reports them.
    """
    try:
        rows = [row for row in csv.DictReader(io.StringIO(table)) if row.get("true_label")]
    except csv.Error:  # other programs write such files too
        return None
    paths = [str(row.get("path")).replace("\\", "/") for row in rows]
    if not rows or len(rows) != images or len(set(paths)) != len(rows):
        return None

    # Copies of one folder lie in other places: what all have in common is left out.
    folders = [path.split("/")[:-1] for path in paths]
    ends = zip(min(folders), max(folders), strict=False)
    shared = list(itertools.takewhile(lambda two: two[0] == two[1], ends))
    start = sum(len(part) + 1 for part, _ in shared)
    found = {
        path[start:]: (str(row["true_label"]), row.get("label") == row["true_label"])
        for path, row in zip(paths, rows, strict=True)
    }
    hits = sum(right for _, right in found.values())
    return found if math.isclose(hits / images, share, abs_tol=_CLOSE) else None


def pairs_of(first: Answers | None, second: Answers | None) -> Pairs | None:
    """How often each is right where both have answered; None where the images or their true classes
    are others, or one of the two is not known."""
    if first is None or second is None or first.keys() != second.keys():
        return None
    counts = [0, 0, 0, 0]
    for name, (true, right) in first.items():
        other_true, other_right = second[name]
        if true != other_true:
            return None
        counts[2 * (not right) + (not other_right)] += 1
    both, alone, other_alone, neither = counts
    return Pairs(both, alone, other_alone, neither)
