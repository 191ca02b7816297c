"""What differs between two specs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.dotted import flatten

_ABSENT = object()


def diff_specs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per differing key, sorted: ``{"key", "change": "changed" | "added" | "removed", "a",
    "b"}``; absent sides are null.
    """
    left, right = flatten(a), flatten(b)
    rows = []
    for key in sorted(left.keys() | right.keys()):
        old, new = left.get(key, _ABSENT), right.get(key, _ABSENT)
        if old is _ABSENT:
            rows.append({"key": key, "change": "added", "a": None, "b": new})
        elif new is _ABSENT:
            rows.append({"key": key, "change": "removed", "a": old, "b": None})
        elif old != new or type(old) is not type(new):
            rows.append({"key": key, "change": "changed", "a": old, "b": new})
    return rows
