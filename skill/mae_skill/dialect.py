"""Upstream's schema dialect as JSON Schema: type words such as ``int`` and ``collection``,
``Infinity`` bounds, ``valid_min``/``valid_options``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TYPES = {
    "int": "integer",
    "integer": "integer",
    "ordered_int": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "string": "string",
    "str": "string",
    "categorical": "string",
    "ordered": "string",
    "list": "array",
    "array": "array",
    "subset_list": "array",
    "collection": "object",
    "dict": "object",
    "object": "object",
    "null": "null",
}
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def normalise(schema: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``schema`` as JSON Schema draft 2020-12, and notes of what could not be used.

    A schema that is one already comes back equal.
    """
    notes: list[str] = []
    return _node(schema, "", notes), notes


def _node(node: Mapping[str, Any], key: str, notes: list[str]) -> dict[str, Any]:
    found = dict(node)
    kind = found.get("type")
    foreign = False
    if isinstance(kind, str):
        if kind in TYPES:
            foreign = TYPES[kind] != kind
            found["type"] = TYPES[kind]
        else:
            notes.append(f"{key or 'schema'}: unknown type {kind!r} is not checked")
            del found["type"]
    for name in _BOUNDS:
        bound = found.get(name)
        if (
            isinstance(bound, bool)
            or (bound is not None and not isinstance(bound, (int, float)))
            or (isinstance(bound, float) and not math.isfinite(bound))
        ):
            del found[name]
    for name in ("valid_min", "valid_max"):
        if name in found and not _finite(found[name]):
            del found[name]
    if "valid_min" in found:
        found.setdefault("minimum", found["valid_min"])
    if "valid_max" in found:
        found.setdefault("maximum", found["valid_max"])
    if found.get("valid_options") and "enum" not in found:
        found["enum"] = list(found["valid_options"])
    if "enum" in found and not found["enum"]:
        del found["enum"]
    if (
        foreign
        and found.get("type") not in ("object", None)
        and found.get("default", 0) in (None, "")
    ):
        # Upstream writes optional values with a null or empty default and no nullable type.
        found["type"] = [found["type"], "null"]
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
    properties = found.get("properties")
    if isinstance(properties, Mapping):
        found["properties"] = {
            name: _node(child, f"{key}.{name}" if key else str(name), notes)
            for name, child in properties.items()
            if isinstance(child, Mapping)
        }
    if isinstance(found.get("items"), Mapping):
        found["items"] = _node(found["items"], f"{key}[]", notes)
    return found


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
