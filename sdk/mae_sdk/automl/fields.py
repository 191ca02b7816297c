"""Reading a schema's fields and conditions: dotted look-up, ``applies_when``, ``math_cond``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Any = _Missing()


def get(spec: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or `MISSING`."""
    here: Any = spec
    for part in key.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return MISSING
        here = here[part]
    return here


def put(spec: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in place, making sections as needed."""
    *path, last = key.split(".")
    for part in path:
        if not isinstance(spec.get(part), dict):
            spec[part] = {}
        spec = spec[part]
    spec[last] = value


def nodes(schema: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Dotted key → schema node of every leaf field (`$ref`s are inlined in packaged schemas)."""
    return dict(_walk(schema, prefix))


def _walk(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, node in (schema.get("properties") or {}).items():
        if not isinstance(node, Mapping):
            continue
        key = f"{prefix}{name}"
        if node.get("properties"):
            yield from _walk(node, f"{key}.")
        else:
            yield key, node


def acts(conditions: Mapping[str, Any] | None, spec: Mapping[str, Any], searched: set[str] | frozenset[str] = frozenset()) -> str | None:
    """None when ``conditions`` hold in ``spec`` (or hang on a searched field), else the first that does not, in words."""
    for key, need in (conditions or {}).items():
        if key in searched:
            continue
        value = get(spec, key)
        if not _meets(value, need):
            return f"{key} is {'not set' if value is MISSING else repr(value)}, it needs {_say(need)}"
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
        return all(_OPERATORS[name](value, limit) for name, limit in need.items() if name in _OPERATORS)
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
    "startswith": lambda value, prefix: isinstance(value, str) and value.startswith(tuple(prefix) if isinstance(prefix, list) else prefix),
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
            ("a value" if limit else "no value") if name == "set" else f"{words.get(name, name)} {limit!r}" for name, limit in need.items()
        )
    return repr(need)


@dataclass(frozen=True)
class Relation:
    """``knob op value-of(key)`` in every trial; ``op`` is one of ``< <= > >=``."""

    op: str
    key: str

    def __str__(self) -> str:
        return f"{self.op} {self.key}"

    @classmethod
    def parse(cls, text: str) -> Relation:
        """The inverse of ``str``."""
        op, key = text.split(" ", 1)
        return cls(op, key)


@dataclass(frozen=True)
class Conditions:
    """``math_cond`` taken apart: exclusive/inclusive bounds, base of a power, divisor, relations to other fields."""

    low: float | None = None
    low_open: bool = False
    high: float | None = None
    high_open: bool = False
    base: int | None = None
    divisor: int | None = None
    relations: tuple[Relation, ...] = ()


def math_conditions(node: Mapping[str, Any], key: str, fields: Mapping[str, Any]) -> Conditions:
    """``math_cond`` and ``depends_on`` of a field. Unknown words are ignored: foreign bundles have dialects."""
    texts = node.get("math_cond") or ()
    parts = [part for text in ([texts] if isinstance(texts, str) else texts) for part in re.split(r"[,;]|\band\b", text)]
    depends = [other for other in _listed(node.get("depends_on")) if other]
    found: dict[str, Any] = {}
    relations: list[Relation] = []
    for part in parts:
        match = re.fullmatch(r"\s*(<=|>=|<|>|\^|/)\s*(\S+)\s*", part)
        if not match:
            continue
        op, word = match.groups()
        try:
            number: float | None = float(word)
        except ValueError:
            number = None
        if op in ("<", "<=", ">", ">="):
            if number is not None:
                side = "low" if op[0] == ">" else "high"
                found[side], found[f"{side}_open"] = number, "=" not in op
            else:
                names = depends if word == "depends_on" else [word]
                relations += [Relation(op, resolved) for name in names if (resolved := _resolve(name, key, fields))]
        elif number is not None and number >= (2 if op == "^" else 1):
            found["base" if op == "^" else "divisor"] = int(number)
    return Conditions(**found, relations=tuple(relations))


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else [str(item) for item in value]


def _resolve(name: str, key: str, fields: Mapping[str, Any]) -> str | None:
    """A related field by its dotted key, or as a sibling of ``key``."""
    if name in fields:
        return name
    sibling = f"{key.rpartition('.')[0]}.{name}".lstrip(".")
    return sibling if sibling in fields else None
