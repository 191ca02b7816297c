"""Dotted keys: ``train.optim.lr=1e-4``, shorthand keys, flattening."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.errors import UsageError
from mae_skill.reader import parse_value


def parse_override(text: str) -> tuple[str, Any]:
    """``"a.b=c"`` → ``("a.b", value)``; the value is read as a spec file would read it.

    Raises:
        UsageError: there is no ``=``, or the key is empty.
    """
    key, found, value = text.partition("=")
    key = key.strip()
    if not found or not key or any(not part for part in key.split(".")):
        raise UsageError(
            "an override is not key=value",
            field="override",
            got=text,
            expected="a dotted key, =, a value: train.num_epochs=10",
        )
    return key, parse_value(value.strip())


def expand_shorthand(overrides: Mapping[str, Any], shorthand: Mapping[str, str]) -> dict[str, Any]:
    """Overrides with the shorthand keys of ``skill_info.yaml`` (``num_epochs`` …) replaced by their dotted paths.

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
