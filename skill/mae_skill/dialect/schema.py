"""Upstream's schemas as JSON Schema: type words such as ``int`` and ``collection``, ``Infinity``
bounds, ``valid_min``/``valid_options``, null for every type.

Its bounds and options were written for a search, and its own defaults break some of them. Such a
keyword is no rule: it is moved to the field's ``hints``, and said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mae_skill.dialect.keys import SCHEMA
from mae_skill.dotted import MISSING, get_dotted
from mae_skill.placeholders import NOT_GIVEN, has_reference
from mae_skill.spelling import and_more

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
_NUMBERED_LIST = re.compile(r"(optional_|subset_|union_)?list(_\d+)?(_of_\w+)?")
_OPTIONAL = re.compile(r"optional_(\w+)")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_JUDGES = (*_BOUNDS, "enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "items")
"""The keywords of a field that a default may break."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _are_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) for one in value)


def _is_type(value: Any) -> bool:
    return isinstance(value, str) or (_are_texts(value) and bool(value))


_KEYWORDS: dict[str, Callable[[Any], bool]] = {
    "type": _is_type,
    **dict.fromkeys(("properties", "items", "x_aliases", "option_aliases"), _is_mapping),
    **dict.fromkeys(("anyOf", "oneOf", "automl_metrics"), _are_mappings),
    **dict.fromkeys(("automl_default_parameters", "required", "related"), _are_texts),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
    **dict.fromkeys(
        ("pattern", "depends_on", "math_cond", "parent_param", "unit"),
        lambda value: value is None or isinstance(value, str),
    ),
    "uniqueItems": lambda value: isinstance(value, bool),
    # Upstream writes no bound as null, and as an infinity.
    **dict.fromkeys(
        (*_BOUNDS, "valid_min", "valid_max"),
        lambda value: value is None or _is_number(value),
    ),
    **dict.fromkeys(
        ("enum", "valid_options"), lambda value: value is None or isinstance(value, list)
    ),
}
"""Keywords, and what they hold; one that holds something else is dropped, and said."""

MAX_NAMED = 5
"""Fields that one note names."""


def normalize(
    schema: Mapping[str, Any], *documents: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """``schema`` as JSON Schema draft 2020-12, and notes of what could not be used.

    A schema that is one already comes back equal.

    Args:
        documents: specs that the bundle ships, such as the action's template: what breaks one of
            them is no rule.
    """
    walk = _Walk(is_foreign(schema), [schema.get("default"), *documents])
    found = walk.node(schema, "")
    if not isinstance(found.get("default", {}), Mapping):
        walk.notes.append("the schema's default is no spec and is not used")
        del found["default"]
    return found, walk.all_notes()


def is_foreign(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is written in upstream's dialect."""
    if "x_tao_schema" in schema:
        return True
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        kind = node.get("type")
        if isinstance(kind, str) and TYPES.get(kind) != kind:
            return True
        children = node.get("properties")
        waiting += [
            child
            for child in (*(children.values() if isinstance(children, Mapping) else ()),)
            if isinstance(child, Mapping)
        ]
    return False


class _Walk:
    """A schema on its way to JSON Schema.

    Args:
        foreign: whether null is a value of every field.
        documents: specs that must be accepted.
    """

    def __init__(self, foreign: bool, documents: Sequence[Any]) -> None:
        self.foreign = foreign
        self.documents = [item for item in documents if isinstance(item, Mapping)]
        self.notes: list[str] = []
        self.unchecked: dict[str, list[str]] = {}
        self.hints: list[str] = []
        self.odd: list[str] = []

    def all_notes(self) -> list[str]:
        """What the user is told, each kind once."""
        unchecked = [
            f"{and_more(keys, MAX_NAMED)}: unknown type {word!r} is not checked"
            for word, keys in self.unchecked.items()
        ]
        broken = [
            "bounds and options that the bundle's own values break are hints, not rules: "
            + and_more(self.hints, MAX_NAMED)
        ]
        odd = [
            "keywords of the schema that hold no value of their kind: "
            + and_more(self.odd, MAX_NAMED)
        ]
        return [
            *self.notes,
            *(odd if self.odd else ()),
            *unchecked,
            *(broken if self.hints else ()),
        ]

    def node(self, node: Mapping[str, Any], key: str) -> dict[str, Any]:
        found = self._of_their_kind(node, key)
        kind = found.get("type")
        if isinstance(kind, str):
            word = _type_word(kind)
            if word is None:
                self.unchecked.setdefault(kind, []).append(key or "schema")
                del found["type"]
            else:
                found["type"] = word
        _clean_bounds(found)
        if isinstance(found.get("pattern"), str) and not _compiles(found["pattern"]):
            self.notes.append(f"{key}: its pattern is no regular expression and is not checked")
            del found["pattern"]
        if self.foreign and isinstance(found.get("type"), str) and not found.get("properties"):
            _take_null(found)  # upstream's optional values have no nullable type
        properties = found.get("properties")
        if isinstance(properties, Mapping):
            found["properties"] = {
                name: self.node(child, f"{key}.{name}" if key else str(name))
                for name, child in properties.items()
                if isinstance(child, Mapping)
            }
            if self.foreign and found.get("required"):
                self._relax_required(found, key)
        if isinstance(found.get("items"), Mapping):
            found["items"] = self.node(found["items"], f"{key}[]")
        if key and "[]" not in key and not properties:
            self._relax(found, key)
        return found

    def _of_their_kind(self, node: Mapping[str, Any], key: str) -> dict[str, Any]:
        """A node without the keywords that hold another kind of value than they can."""
        found = {}
        for word, value in node.items():
            if word in _KEYWORDS and not _KEYWORDS[word](value):
                self.odd.append(f"{key}.{word}" if key else str(word))
                continue
            found[word] = value
        for name, child in (found.get("properties") or {}).items():
            if not isinstance(child, Mapping) and name not in SCHEMA:  # upstream has such there
                self.odd.append(f"{key}.{name}" if key else str(name))
        return found

    def _relax_required(self, found: dict[str, Any], key: str) -> None:
        """A key that the bundle's own spec lacks is not required of others."""
        sections = [get_dotted(item, key) if key else item for item in self.documents]
        known = [section for section in sections if isinstance(section, Mapping)]
        names = found["required"] if isinstance(found["required"], list) else []
        kept = [
            name
            for name in names
            if isinstance(name, str) and all(name in section for section in known)
        ]
        if kept != found["required"]:
            self.hints.append(f"{key or 'the spec'} (required)")
            found["required"] = kept

    def _relax(self, found: dict[str, Any], key: str) -> None:
        """Move what the bundle's own values break from the rules to the hints."""
        for value in self._own_values(found, key):
            if value is None:
                _take_null(found)
                continue
            broken = list(_broken(found, value))
            for word in broken:
                if word == "type":
                    found["type"] = [*_types(found), _type_of(value)]
                else:
                    found.setdefault("hints", {})[word] = found.pop(word)
            if broken:
                self.hints.append(f"{key} ({', '.join(sorted(broken))})")

    def _own_values(self, found: Mapping[str, Any], key: str) -> Iterator[Any]:
        """The values that the bundle itself has for a field."""
        values = [found.get("default", MISSING)]
        values += [get_dotted(document, key, MISSING) for document in self.documents]
        seen: list[str] = []  # most are the same value, and judging one is what takes time
        for value in values:
            if value is MISSING or value == NOT_GIVEN or has_reference(value):
                continue
            if repr(value) not in seen:
                seen.append(repr(value))
                yield value


def _take_null(found: dict[str, Any]) -> None:
    """Null is a value of the field: it is not given."""
    types = _types(found)
    if types and "null" not in types:
        found["type"] = [*types, "null"]
    if "enum" in found and None not in found["enum"]:
        found["enum"] = [*found["enum"], None]
        found["null_added"] = True


def _broken(node: Mapping[str, Any], value: Any) -> Iterator[str]:
    """The keywords of a field that a value breaks."""
    from mae_skill.schema_check import violated

    if value is MISSING:
        return
    judged = {word: node[word] for word in (*_JUDGES, "type") if word in node}
    if isinstance(value, float) and value.is_integer() and "integer" in _types(node):
        value = int(value)
    yield from violated(value, judged)


def _types(node: Mapping[str, Any]) -> list[str]:
    kind = node.get("type")
    return list(kind) if isinstance(kind, list) else [kind] if isinstance(kind, str) else []


def _type_of(value: Any) -> str:
    """The JSON type word of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _type_word(kind: str) -> str | None:
    """JSON Schema's word for one of upstream's; None where it is not known."""
    if kind in TYPES:
        return TYPES[kind]
    if _NUMBERED_LIST.fullmatch(kind):
        return "array"
    match = _OPTIONAL.fullmatch(kind)
    return TYPES.get(match[1]) if match else None


def _clean_bounds(found: dict[str, Any]) -> None:
    """Drop bounds that are no finite numbers; read upstream's other words for them."""
    for name in _BOUNDS:
        if name in found and not _finite(found[name]):
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
    if "enum" in found and not (found["enum"] and isinstance(found["enum"], (list, tuple))):
        del found["enum"]


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)
