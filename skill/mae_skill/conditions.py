"""Conditions of a schema's annotations (``applies_when``, ``when``).

A condition maps a dotted key to the value it needs, a list of values, or operators.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mae_skill.dotted import MISSING, field_nodes, get_dotted


def acts(
    conditions: Mapping[str, Any] | None,
    spec: Mapping[str, Any],
    searched: set[str] | frozenset[str] = frozenset(),
) -> str | None:
    """None when ``conditions`` hold in ``spec``, else the first that does not, in words.

    Conditions on a searched field count as met.
    """
    for key, need in (conditions or {}).items():
        if key in searched:
            continue
        value = get_dotted(spec, key, MISSING)
        if not _meets(value, need):
            here = "not set" if value is MISSING else _shown(value)
            return f"it applies only when {_condition(key, need)} (here: {here})"
    return None


def holds(conditions: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> bool:
    """Whether every condition holds in ``spec``."""
    return acts(conditions, spec) is None


def never_searched(schema: Mapping[str, Any], key: str, others: Collection[str] = ()) -> str | None:
    """Why no search may vary a field: ``disabled`` by the schema, ``elsewhere``, where another
    action alone reads it; None for a field that may be named for a search.

    Args:
        others: sections of the spec that belong to other actions.
    """
    if key.partition(".")[0] in others:
        return "elsewhere"
    disabled = key in (schema.get("automl_disabled_parameters") or ())
    node = field_nodes(schema).get(key) or {}
    return "disabled" if disabled or node.get("automl_enabled") is False else None


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


def _condition(key: str, need: Any) -> str:
    if not isinstance(need, Mapping):
        return f"{key}={_words(need)}"
    if set(need) == {"set"}:
        return f"{key} is {'' if need['set'] else 'not '}set"
    return f"{key} is {_words(need)}"


def _words(need: Any) -> str:
    if isinstance(need, list):
        return " or ".join(_words(item) for item in need)
    if isinstance(need, Mapping):
        return " and ".join(
            ("set" if limit else "not set")
            if name == "set"
            else f"{_OPERATOR_WORDS.get(name, name)} {_words(limit)}"
            for name, limit in need.items()
        )
    return _shown(need)


_OPERATOR_WORDS = {
    "not": "anything but",
    "gt": "more than",
    "ge": "at least",
    "lt": "less than",
    "le": "at most",
    "startswith": "a name that starts with",
}


def _shown(value: Any) -> str:
    """A value as a spec file writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
