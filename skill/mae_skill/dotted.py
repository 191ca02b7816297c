"""Dotted keys (``train.optim.lr``, ``data.sources[0].folder``) of specs and of schemas.

``name[0]`` is the first item of a list. Where there is no list yet, as in a layer that says one
item alone, the part stands as it is written; `mae_skill.merge` puts it into the list.

The standard library only, so that every file may import it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mae_skill.errors import UsageError


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Any = _Missing()
"""Stands for a value that is not there, where null is a value."""

KEY = re.compile(r"[^.\[\]]+(\[\d{1,6}\])*(\.[^.\[\]]+(\[\d{1,6}\])*)*")
"""A dotted key without empty parts."""


def once(settings: Iterable[tuple[str, Any]], section: str = "") -> dict[str, Any]:
    """Settings of one command line as a mapping; one that is repeated says the same again.

    Args:
        section: before the key in an error, with its point.

    Raises:
        UsageError: a key has two values.
    """
    found: dict[str, Any] = {}
    for key, value in settings:
        if key in found and not _alike(found[key], value):
            raise _given_twice(section + key, [found[key], value])
        found[key] = value
    return found


def expand_shorthand(overrides: Mapping[str, Any], shorthand: Mapping[str, str]) -> dict[str, Any]:
    """Overrides with the shorthand keys of ``skill_info.yaml`` (``num_epochs`` …) replaced by their
    dotted paths.

    Raises:
        UsageError: a shorthand and its dotted path are both given and differ.
    """
    found: dict[str, Any] = {}
    written: dict[str, str] = {}
    for key, value in overrides.items():
        full = shorthand.get(key, key)
        if full in found and not _alike(found[full], value):
            raise _given_twice(full, {written[full]: found[full], key: value})
        found[full], written[full] = value, key
    return found


def _given_twice(key: str, got: Any) -> UsageError:
    return UsageError(
        f"{key} is given twice",
        field=key,
        got=got,
        expected="one value",
        hint="leave one of the two out",
    )


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are the same; true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def refuse_twice(values: Mapping[str, Any]) -> None:
    """Refuse a field with two values, by its dotted key and in its section, at whatever depth.

    Raises:
        UsageError: there is one.
    """
    seen: dict[str, tuple[str, Any]] = {}

    def walk(section: Mapping[str, Any], key: str, written: str) -> None:
        for name, value in section.items():
            full, spelled = f"{key}{name}", f"{written}{name}"
            if isinstance(value, Mapping) and value:
                walk(value, f"{full}.", f"{spelled}: ")
                continue
            first, other = seen.setdefault(full, (spelled, value))
            if first != spelled and not _alike(other, value):
                raise UsageError(
                    f"{full} is given twice",
                    field=full,
                    got={first: other, spelled: value},
                    expected="one value, by its dotted key or in its section",
                    hint="leave one of the two out",
                )

    walk(values, "", "")


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys; empty sections are left out."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found.update(flatten(value, f"{key}."))
        else:
            found[key] = value
    return found


def split_index(part: str) -> tuple[str, list[int]]:
    """``name[0][2]`` as the name and the positions; a part without one has none."""
    match = _INDEXED.fullmatch(part)
    if match is None:
        return part, []
    return match[1], [int(one) for one in _POSITION.findall(match[2])]


_INDEXED = re.compile(r"([^\[\]]+)((?:\[\d{1,6}\])+)")
_POSITION = re.compile(r"\[(\d+)\]")


def get_dotted(document: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value at a dotted key, or ``default`` where a part of the path is missing."""
    here: Any = document
    for part in key.split("."):
        if isinstance(here, Mapping) and part in here:
            here = here[part]
            continue
        name, positions = split_index(part) if "[" in part else (part, [])
        if not positions or not isinstance(here, Mapping) or name not in here:
            return default
        here = here[name]
        for position in positions:
            if not isinstance(here, list) or position >= len(here):
                return default
            here = here[position]
    return here


def set_dotted(document: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in place, making sections on the way.

    Raises:
        UsageError: a part of the path is a value, not a section.
    """
    *path, last = key.split(".")
    here: Any = document
    for part in path:
        holder, at = _place(here, part, key)
        if isinstance(holder, dict):
            holder.setdefault(at, {})
        if not isinstance(holder[at], dict):
            raise UsageError(
                f"{part} is a value, not a section", field=key, got=holder[at], expected="a section"
            )
        here = holder[at]
    holder, at = _place(here, last, key)
    holder[at] = value


def remove_dotted(document: dict[str, Any], key: str) -> None:
    """Takes a dotted key out in place, and the sections that are empty without it."""
    section, _, last = key.rpartition(".")
    holder = get_dotted(document, section) if section else document
    if not isinstance(holder, dict) or last not in holder:
        return
    del holder[last]
    if not holder and section:
        remove_dotted(document, section)


def _place(section: dict[str, Any], part: str, key: str) -> tuple[Any, Any]:
    """The mapping or list that holds a part of a key, and its name or position there.

    Raises:
        UsageError: the list has no such item.
    """
    name, positions = split_index(part) if "[" in part else (part, [])
    if not positions or part in section or not isinstance(section.get(name), list):
        return section, part
    holder: Any = section[name]
    for position in positions[:-1]:
        holder = holder[position] if position < len(holder) else None
        if not isinstance(holder, list):
            break
    if not isinstance(holder, list) or positions[-1] >= len(holder):
        raise UsageError("the list has no such item", field=key, got=part)
    return holder, positions[-1]


def field_nodes(schema: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Dotted key → schema node of every field below ``schema``; sections are walked, not listed."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, node in (schema.get("properties") or {}).items():
        if not isinstance(node, Mapping):
            continue
        if node.get("properties"):
            found.update(field_nodes(node, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = node
    return found
