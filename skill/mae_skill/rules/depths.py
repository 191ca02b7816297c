"""By which `dataset.value_range` pictures of one or of several types can be read together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mae_skill.rules.seen import Seen

RANGE = "dataset.value_range"
DIM, SMALL = 1 / 2, 1 / 8
"""Of the range that counts: deep values in less of it look dim, those of 8 bits nearly of one
shade."""

UNSAID = re.compile(r"has (floating-point pixels|pixels of 32 bits) \((\S+) … (\S+)\)")
"""The reason of a file whose type says no range, with its lowest and highest value."""
_ADVICE = re.compile(rf": set {re.escape(RANGE)} to auto, or to \[low, high\]$")


def of_all(found: Iterable[Seen]) -> dict[str, dict[str, Any]]:
    """Type → ``low``, ``high`` and ``own`` (the range of the type, None: it has none) of the
    pictures of several sources, also of those that have no range and so cannot be read yet."""
    kinds: dict[str, dict[str, Any]] = {}
    for source in found:
        for kind, facts in (source.get("values") or {}).items():
            _widen(kinds, kind, facts["low"], facts["high"], facts.get("own"))
        for reason in ((source.get("unreadable") or {}).get("reasons") or {}).values():
            if match := UNSAID.search(str(reason)):
                kind = "floating point" if match[1].startswith("floating") else "32 bits"
                _widen(kinds, kind, float(match[2]), float(match[3]), None)
    return kinds


def _widen(kinds: dict[str, dict[str, Any]], kind: str, low: float, high: float, own: Any) -> None:
    known = kinds.setdefault(kind, {"low": low, "high": high, "own": own})
    known |= {"low": min(known["low"], low), "high": max(known["high"], high)}


def mend(kinds: Mapping[str, Mapping[str, Any]], given: Any = None) -> str:
    """What to do about the range of pictures: a setting that a plan takes for all of their types,
    or how to bring them to one depth.

    Args:
        kinds: as `of_all` gives them.
        given: the value of `RANGE` that does not do.
    """
    if len(kinds) < 2 and given != "auto":
        return f"set {RANGE}=auto"
    if given != "dtype" and all(_suits(facts, facts["own"], kind) for kind, facts in kinds.items()):
        return f"set {RANGE}=dtype (each by the range of its own type)"
    both = _around(kinds)
    if both != given and all(_suits(facts, both, kind) for kind, facts in kinds.items()):
        return f"set {RANGE}=[{both[0]:g},{both[1]:g}]"
    return _convert(kinds)


def without_advice(reason: str) -> str:
    """The reason of a file without a setting that is right for its own type alone."""
    return _ADVICE.sub("", reason)


def _suits(facts: Mapping[str, Any], ends: Any, kind: str) -> bool:
    """Whether values fill so much of a range that nothing is said of it."""
    if not ends:
        return False
    inside = min(facts["high"], ends[1]) - max(facts["low"], ends[0])
    least = SMALL if kind.endswith("int8") else DIM
    return bool(inside / (ends[1] - ends[0]) > least)


def _around(kinds: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """A range in round numbers around the values of all types."""
    low = min(facts["low"] for facts in kinds.values())
    high = max(facts["high"] for facts in kinds.values())
    if low < 0:
        return [-1.0, 1.0] if low >= -1 and high <= 1 else [low, high]
    whole = float(2 ** int(high).bit_length() - 1) if high > 1 else 1.0
    return [0.0, max(whole, high)]


def _convert(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """How to bring pictures to one depth."""
    others = {
        kind: facts for kind, facts in kinds.items() if not _suits(facts, facts["own"], kind)
    } or kinds
    listed = " and ".join(
        f"{kind} ({facts['low']:g} … {facts['high']:g})" for kind, facts in others.items()
    )
    first = next(iter(others))
    seen = others[first]
    low, high = _around({first: seen})
    if not _suits(seen, [low, high], first) and seen["low"] < seen["high"]:
        low, high = seen["low"], seen["high"]
    above = f"(x - {low:g})" if low > 0 else f"(x + {-low:g})" if low < 0 else "x"
    formula = f"({above} / {high - low:g} * 65535).round().clip(0, 65535).astype('uint16')"
    which = f" of {first}" if len(others) > 1 else ""
    return (
        f"no one range suits these types: save those of {listed} as pictures of 16 bits with black "
        f"at 0 and white at 65535, in numpy {formula}{which}, and leave {RANGE} out; or train on "
        "each type by itself"
    )
