"""Merging layers of a spec, with the origin of every value.

Layers come lowest first, over the schema's defaults. Values are converted only where a schema
leaves one reading (``"3e-4"`` for a number, ``2.0`` for an integer, ``on`` for a boolean), and
every conversion is recorded.
"""

from __future__ import annotations

import copy
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mae_skill.dotted import MISSING, field_nodes, get_dotted, set_dotted, split_index
from mae_skill.errors import MaeError, SpecError
from mae_skill.origin import Origin, OriginKind
from mae_skill.placeholders import NOT_GIVEN, absent_items, given_only
from mae_skill.reader import parse_value
from mae_skill.texts import no_text, no_url, url_problem

TRUE_WORDS = frozenset({"true", "on", "yes"})
FALSE_WORDS = frozenset({"false", "off", "no"})


_BY_KEY = (OriginKind.DATA, OriginKind.SHORTHAND, OriginKind.OVERRIDE, OriginKind.INFERRED)
"""The layers that give fields by their keys, so that a section among them is a mistake."""

_INDEXED = re.compile(r"([^\[\]]+)((?:\[-?\d+\])+)")
"""A name with positions behind it, those that no list can have too."""

Layer = tuple[OriginKind, Mapping[str, Any]]
"""The layer's kind, and its values as nested sections."""


def url_error(text: str, key: str) -> SpecError:
    """The error of a value that `no_url` gave."""
    message, expected = url_problem(text) or ("not a URL", "scheme://host/path")
    hint = "correct the address, or write ./ before a path that looks like one"
    return SpecError(message, field=key, got=text, expected=expected, hint=hint)


@dataclass
class Resolved:
    """A merged spec, the origin of each dotted key, and notices for the user.

    ``absent``: the keys of ``???`` that no layer fills.
    """

    spec: dict[str, Any]
    provenance: dict[str, Origin] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)

    def given(self) -> set[str]:
        """The dotted keys that somebody set: those whose value is not a default."""
        return {
            key for key, origin in self.provenance.items() if origin.kind not in OriginKind.unset()
        }


def merge(layers: Sequence[Layer], schema: Mapping[str, Any]) -> Resolved:
    """``layers`` merged over the schema's defaults.

    A mapping merges into a section; anything else replaces; ``???`` says nothing.

    Raises:
        SpecError: both spellings of an aliased field are given and differ, a number is not finite,
            or a text is none that a file can hold.
    """
    defaults, absent = given_only(schema.get("default") or {})
    resolved = Resolved(copy.deepcopy(defaults))
    for key in _leaves(resolved.spec, schema):
        resolved.provenance[key] = Origin(OriginKind.DEFAULT)
    problems: list[MaeError] = []
    aliases: Mapping[str, str] = schema.get("x_aliases") or {}
    for layer, document in layers:
        stated, unstated = given_only(document)
        absent |= unstated
        moved = _move_aliases(copy.deepcopy(stated), aliases, layer, resolved.notices, problems)
        _merge_into(resolved, moved, schema, layer, "", problems)
    if problems:
        raise SpecError("the spec cannot be merged", problems=problems)
    absent = {aliases.get(key, key) for key in absent}
    resolved.absent = set(absent_items(resolved.spec))
    nodes = field_nodes(schema)
    for key in absent:
        if get_dotted(resolved.spec, key, MISSING) is not MISSING:
            continue
        default = nodes.get(key, {}).get("default")
        if default in (None, NOT_GIVEN):
            resolved.absent.add(key)
        else:
            set_dotted(resolved.spec, key, copy.deepcopy(default))
            resolved.provenance[key] = Origin(OriginKind.DEFAULT)
    return resolved


def _leaves(
    document: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = ""
) -> Iterable[str]:
    for name, value in document.items():
        if isinstance(value, Mapping) and _is_section(_child(schema, name)):
            yield from _leaves(value, _child(schema, name), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _merge_into(
    resolved: Resolved,
    document: Mapping[str, Any],
    schema: Mapping[str, Any],
    layer: OriginKind,
    prefix: str,
    problems: list[MaeError],
) -> None:
    for name, value in document.items():
        key = f"{prefix}{name}"
        if "[" in str(name) and str(name) not in (schema.get("properties") or {}):
            found = _merge_indexed(resolved, str(name), value, schema, layer, prefix)
            if found is not None:
                problems += found
                continue

        child = _child(schema, str(name))
        if isinstance(value, Mapping) and (_is_section(child) or not child):
            wrong = _no_section(resolved, key, value, child, layer)
            if wrong is not None:
                problems.append(wrong)
                continue
            if not isinstance(get_dotted(resolved.spec, key), dict):
                set_dotted(resolved.spec, key, {})
            _merge_into(resolved, value, child, layer, f"{key}.", problems)
            continue

        if value is None and _is_section(child):
            continue  # "train:" with nothing under it leaves the section as it was
        section = get_dotted(resolved.spec, key)
        if isinstance(section, dict) and section and not accepted_types(child):
            listed = isinstance(value, list) and layer is not OriginKind.DATA  # data may be a list
            if layer in _BY_KEY and (listed or isinstance(value, (str, int, float))):
                problems.append(_replaces(key, value, section, layer))
                continue
            if layer is OriginKind.SPEC_FILE:
                resolved.notices.append(
                    f"{key} replaces a section that held {', '.join(list(section)[:5])}"
                )

        wrong = _unusable(key, name, value)
        if wrong is not None:
            problems.append(wrong)
            continue
        try:
            coerced, note = coerce(value, child)
        except SpecError as error:
            problems.append(
                SpecError(
                    error.message,
                    field=key,
                    got=value,
                    expected=error.expected,
                    hint=error.hint or f"see mae explain {key}",
                )
            )
            continue
        set_dotted(resolved.spec, key, coerced)
        resolved.provenance[key] = Origin(layer, note)


def _merge_indexed(
    resolved: Resolved,
    name: str,
    value: Any,
    schema: Mapping[str, Any],
    layer: OriginKind,
    prefix: str,
) -> list[MaeError] | None:
    """Merges ``NAME[0]``; None where it is the name of a field and no item of a list."""
    plain, positions = split_index(name)
    if len(positions) == 1:
        return list(_merge_item(resolved, value, schema, layer, f"{prefix}{plain}", positions[0]))

    key = f"{prefix}{name}"
    whole = _INDEXED.fullmatch(name)
    if whole and get_dotted(resolved.spec, key, MISSING) is MISSING:
        listed = get_dotted(resolved.spec, f"{prefix}{whole[1]}")
        return [_no_item(key, whole[2], len(listed) if isinstance(listed, list) else 0)]
    return None


def _no_section(
    resolved: Resolved,
    key: str,
    value: Mapping[str, Any],
    child: Mapping[str, Any],
    layer: OriginKind,
) -> MaeError | None:
    """The error of a section where an earlier layer gave a value: its mistake is not covered up."""
    here = get_dotted(resolved.spec, key)
    by_key = not child and layer in _BY_KEY and here not in ("", NOT_GIVEN)
    if here is None or isinstance(here, dict) or not (_is_section(child) or by_key):
        return None
    return SpecError(
        "a section is given as a value",
        field=key,
        got=here,
        expected="a section",
        hint=_below(key, here, value) if by_key else f"name a field of it: {key}.…",
    )


def _unusable(key: str, name: Any, value: Any) -> MaeError | None:
    """The error of a value that no field can hold, whatever its type."""
    odd = no_text(name) or no_text(value)
    if odd is not None:
        return SpecError(
            "holds a character that no file or path can hold",
            field=ascii(key)[1:-1],
            got=ascii(odd[:80]),
            expected="text without NUL and without halves of a character (surrogates)",
            hint="write the text again in UTF-8",
        )

    address = no_url(value)
    if address is not None:
        return url_error(address, key)

    bad = _non_finite(value)
    if bad is None:
        return None
    is_whole = isinstance(bad, int)
    return SpecError(
        "too large a number" if is_whole else "a number must be finite",
        field=key,
        got=bad if is_whole else repr(bad),
        expected="a finite number" + (", below 1.8e308" if is_whole else ""),
        hint=f"see mae explain {key}",
    )


def _replaces(key: str, value: Any, section: Mapping[str, Any], layer: OriginKind) -> SpecError:
    by_bundle = layer in (OriginKind.DATA, OriginKind.INFERRED)
    return SpecError(
        "this value would replace a whole section",
        field=key,
        got=value,
        expected=f"the key of a field in it: {', '.join(f'{key}.{one}' for one in [*section][:5])}",
        hint="the bundle's skill_info.yaml names it" if by_bundle else "a spec file can replace it",
    )


def _below(key: str, here: Any, value: Mapping[str, Any]) -> str:
    """How a field is named where its section is a list, or a value."""
    first = next(iter(value), "FIELD")
    return f"{key}[0].{first}" if isinstance(here, list) else f"{key}=VALUE, or a spec file"


def _no_item(key: str, position: Any, count: int) -> SpecError:
    return SpecError(
        "the list has no such item",
        field=key,
        got=position,
        expected=_positions(count),
        hint="the first item has the number 0, and the number after the last adds one",
    )


def _merge_item(
    resolved: Resolved,
    value: Any,
    schema: Mapping[str, Any],
    layer: OriginKind,
    key: str,
    position: int,
) -> list[MaeError]:
    """Put one item, or fields of one, into the list at `key`: an item that is there, or the next
    one. Returns what is wrong with it.
    """
    here = get_dotted(resolved.spec, key)
    items = list(here) if isinstance(here, list) else []
    if here not in (None, "", {}, NOT_GIVEN) and not isinstance(here, list):
        return [
            SpecError(
                "not a list",
                field=f"{key}[{position}]",
                got=here,
                expected="a list",
                hint=f"set {key} itself",
            )
        ]
    if position > len(items):
        return [_no_item(f"{key}[{position}]", position, len(items))]
    if position == len(items):
        items.append(None)
    child = _child(schema, key.rpartition(".")[2]).get("items")
    node = child if isinstance(child, Mapping) else {}
    inner = Resolved({"item": items[position]})
    problems: list[MaeError] = []
    if isinstance(value, Mapping) and not isinstance(items[position], Mapping):
        inner.spec = {"item": {}}
    _merge_into(inner, {"item": value}, {"properties": {"item": node}}, layer, "", problems)
    items[position] = inner.spec["item"]
    set_dotted(resolved.spec, key, items)
    resolved.provenance[key] = Origin(layer, f"its item [{position}]")
    for name, origin in inner.provenance.items():
        resolved.provenance[f"{key}[{position}]{name.removeprefix('item')}"] = origin
    for problem in problems:
        problem.field = f"{key}[{position}]{str(problem.field).removeprefix('item')}"
        for name in ("expected", "hint"):
            if (text := getattr(problem, name)) is not None:
                in_full = re.sub(r"(?<![\w.])item\.(?=\w)", f"{key}[{position}].", str(text))
                setattr(problem, name, in_full)
    return problems


def _positions(count: int) -> str:
    if not count:
        return "[0], which adds the first item"
    last = "[0]" if count == 1 else f"[0] to [{count - 1}]"
    return f"{last}, or [{count}], which adds an item"


def _move_aliases(
    document: dict[str, Any],
    aliases: Mapping[str, str],
    layer: OriginKind,
    notices: list[str],
    problems: list[MaeError],
) -> dict[str, Any]:
    missing = object()
    for old, new in aliases.items():
        value = get_dotted(document, old, missing)
        if value is missing:
            continue
        section, _, name = old.rpartition(".")
        del get_dotted(document, section)[name]
        both = get_dotted(document, new, missing)
        if both is not missing and both != value:
            problems.append(
                SpecError(
                    f"{old} and {new} are both given and differ",
                    field=new,
                    got={old: value, new: both},
                    expected=f"{new} alone",
                    hint=f"take {old} out",
                )
            )
            continue
        set_dotted(document, new, value)
        notices.append(f"{old} ({layer}) is read as {new}")
    return document


def _child(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = (schema.get("properties") or {}).get(name)
    return found if isinstance(found, Mapping) else {}


def _is_section(schema: Mapping[str, Any]) -> bool:
    return bool(schema.get("properties"))


def _non_finite(value: Any) -> float | int | None:
    """The first number in ``value`` that no float can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return value
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return value
    for item in (
        value
        if isinstance(value, (list, tuple))
        else value.values()
        if isinstance(value, Mapping)
        else ()
    ):
        bad = _non_finite(item)
        if bad is not None:
            return bad
    return None


def coerce(value: Any, schema: Mapping[str, Any]) -> tuple[Any, str | None]:
    """``value`` in the type that ``schema`` asks for where there is one reading, and a note of the
    change; else as it is.
    """
    types = accepted_types(schema)
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, bool) or not types:
        return value, None
    if value == "" and "null" in types and not _allows_empty(schema):
        return None, "an empty string is null"
    if isinstance(value, str) and "string" not in types:
        return _from_text(value, schema, types)
    if isinstance(value, str) and value not in schema.get("enum", [value]):
        return _enum_case(value, schema)
    if (
        isinstance(value, float)
        and "number" not in types
        and "integer" in types
        and value.is_integer()
    ):
        return int(value), f"{value!r} is a whole number"
    if isinstance(value, list) and "array" in types:
        items: Mapping[str, Any] = schema.get("items") or next(
            (branch["items"] for branch in schema.get("anyOf", ()) if "items" in branch), {}
        )
        pairs = [coerce(item, items) for item in value]
        notes = [note for _, note in pairs if note]
        return [item for item, _ in pairs], notes[0] if notes else None
    return value, None


def _from_text(text: str, schema: Mapping[str, Any], types: set[str]) -> tuple[Any, str | None]:
    word = text.strip().lower()
    if "boolean" in types and word in TRUE_WORDS | FALSE_WORDS:
        return word in TRUE_WORDS, f"{text!r} is a boolean"
    if types & {"number", "integer", "array"}:
        parsed = parse_value(text.strip())
        if "array" in types and isinstance(parsed, list):
            return coerce(parsed, schema)[0], f"{text!r} is a list"
        if isinstance(parsed, (int, float)) and not isinstance(parsed, bool):
            number, _ = coerce(parsed, schema)
            if "number" in types or isinstance(number, int):
                return number, f"{text!r} is a number"
    if "null" in types and word in ("null", "~", "none"):
        return None, f"{text!r} is null"
    return text, None


def _enum_case(text: str, schema: Mapping[str, Any]) -> tuple[Any, str | None]:
    alias = (schema.get("option_aliases") or {}).get(text.lower().replace(" ", ""))
    if alias is not None:
        return alias, f"{text!r} is {alias!r}"
    options = [
        option
        for option in schema["enum"]
        if isinstance(option, str) and option.lower() == text.lower()
    ]
    if len(options) == 1:
        return options[0], f"{text!r} is {options[0]!r}"
    return text, None


def _allows_empty(schema: Mapping[str, Any]) -> bool:
    return (
        "minLength" not in schema
        and "enum" not in schema
        and not any("minLength" in branch for branch in schema.get("anyOf", ()))
    )


def holds_lists(schema: Mapping[str, Any], key: str) -> bool:
    """Whether a schema says that a field holds a list and nothing else, but for null."""
    types = accepted_types(field_nodes(schema).get(key, {}))
    return "array" in types and not {*types} - {"array", "null"}


def accepted_types(schema: Mapping[str, Any]) -> set[str]:
    """The JSON type names that a schema node accepts; empty when it does not say."""
    found = schema.get("type")
    types = {found} if isinstance(found, str) else set(found or ())
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        types |= accepted_types(branch)
    return types
