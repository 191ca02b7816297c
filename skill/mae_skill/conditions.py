"""Conditions of a schema's annotations (``applies_when``, ``when``): a dotted key → the value it needs, a list of values, or operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.dotted import MISSING, get_dotted


def acts(
    conditions: Mapping[str, Any] | None,
    spec: Mapping[str, Any],
    searched: set[str] | frozenset[str] = frozenset(),
) -> str | None:
    """None when ``conditions`` hold in ``spec`` (or hang on a searched field), else the first that does not, in words."""
    for key, need in (conditions or {}).items():
        if key in searched:
            continue
        value = get_dotted(spec, key, MISSING)
        if not _meets(value, need):
            return (
                f"{key} is {'not set' if value is MISSING else repr(value)}, it needs {_say(need)}"
            )
    return None


def holds(conditions: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> bool:
    """Whether every condition holds in ``spec``."""
    return acts(conditions, spec) is None


def _meets(value: Any, need: Any) -> bool:
    if value is MISSING:
        return False
    if isinstance(need, list):
        return any(_meets(value, item) for item in need)
    if isinstance(need, Mapping):
        return all(
            _OPERATORS[name](value, limit) for name, limit in need.items() if name in _OPERATORS
        )
    if isinstance(need, bool) or isinstance(value, bool):
        return value is need
    return bool(value == need)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_OPERATORS: dict[str, Any] = {
    "not": lambda value, other: not _meets(value, other),
    "set": lambda value, wanted: (value not in (None, "", [])) is bool(wanted),
    "gt": lambda value, limit: _number(value) and value > limit,
    "ge": lambda value, limit: _number(value) and value >= limit,
    "lt": lambda value, limit: _number(value) and value < limit,
    "le": lambda value, limit: _number(value) and value <= limit,
    "startswith": lambda value, prefix: (
        isinstance(value, str)
        and value.startswith(tuple(prefix) if isinstance(prefix, list) else prefix)
    ),
}


def _say(need: Any) -> str:
    if isinstance(need, list):
        return " or ".join(_say(item) for item in need)
    if isinstance(need, Mapping):
        words = {
            "not": "anything but",
            "gt": "more than",
            "ge": "at least",
            "lt": "less than",
            "le": "at most",
            "startswith": "a name that starts with",
        }
        return " and ".join(
            ("a value" if limit else "no value")
            if name == "set"
            else f"{words.get(name, name)} {limit!r}"
            for name, limit in need.items()
        )
    return repr(need)
