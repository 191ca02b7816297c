"""Relations and bounds that a schema's ``math_cond`` and ``depends_on`` state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    parts = [
        part
        for text in ([texts] if isinstance(texts, str) else texts)
        for part in re.split(r"[,;]|\band\b", text)
    ]
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
                relations += [
                    Relation(op, resolved)
                    for name in names
                    if (resolved := _resolve(name, key, fields))
                ]
        elif number is not None and number >= (2 if op == "^" else 1):
            found["base" if op == "^" else "divisor"] = int(number)
    return Conditions(**found, relations=tuple(relations))


def _listed(value: Any) -> list[str]:
    return (
        []
        if value is None
        else [value]
        if isinstance(value, str)
        else [str(item) for item in value]
    )


def _resolve(name: str, key: str, fields: Mapping[str, Any]) -> str | None:
    """A related field by its dotted key, or as a sibling of ``key``."""
    if name in fields:
        return name
    sibling = f"{key.rpartition('.')[0]}.{name}".lstrip(".")
    return sibling if sibling in fields else None
