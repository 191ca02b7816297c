"""Dotted keys (``train.optim.lr``) of specs and of schemas.

The standard library only, so that every file may import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.errors import UsageError


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Any = _Missing()
"""Stands for a value that is not there, where null is a value."""


def expand_shorthand(overrides: Mapping[str, Any], shorthand: Mapping[str, str]) -> dict[str, Any]:
    """Overrides with the shorthand keys of ``skill_info.yaml`` (``num_epochs`` …) replaced by their
    dotted paths.

    Raises:
        UsageError: a shorthand and its dotted path are both given and differ.
    """
    found: dict[str, Any] = {}
    for key, value in overrides.items():
        full = shorthand.get(key, key)
        if full in found and found[full] != value:
            raise UsageError(
                f"{full} is given twice", field=full, got=[found[full], value], expected="one value"
            )
        found[full] = value
    return found


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


def get_dotted(document: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value at a dotted key, or ``default`` where a part of the path is missing."""
    here: Any = document
    for part in key.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return default
        here = here[part]
    return here


def set_dotted(document: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in place, making sections on the way.

    Raises:
        UsageError: a part of the path is a value, not a section.
    """
    *path, last = key.split(".")
    here = document
    for part in path:
        if not isinstance(here.setdefault(part, {}), dict):
            raise UsageError(
                f"{part} is a value, not a section", field=key, got=here[part], expected="a section"
            )
        here = here[part]
    here[last] = value


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
