"""The spec as the file that a runner reads. ``spec.yaml`` is always there; a runner that wants
JSON or TOML gets that beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_skill.errors import DependencyError, SpecError

from mae_sdk import files

SPEC = "spec.yaml"


def write_spec(folder: Path, spec: Mapping[str, Any], config: str | None = None) -> None:
    """Write a job's spec.

    Args:
        config: the file that its runner reads: ``spec.json``, ``spec.toml``; None: ``spec.yaml``.

    Raises:
        DependencyError: what writes TOML is not installed.
    """
    from mae_skill.reader import dump_yaml

    files.write_text(folder / SPEC, dump_yaml(dict(spec)))
    if config is None or config == SPEC:
        return
    if config.endswith(".json"):
        files.write_json(folder / config, dict(spec))
    else:
        files.write_text(folder / config, toml(spec))


def toml(spec: Mapping[str, Any]) -> str:
    """A spec as TOML, which has no null: what is null is left out.

    Raises:
        DependencyError: tomlkit is not installed.
    """
    require_toml()
    import tomlkit

    return tomlkit.dumps(_without_null(spec))


def require_toml() -> None:
    """Refuse a runner that reads TOML where none can be written.

    Raises:
        DependencyError: tomlkit is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("tomlkit") is None:
        raise DependencyError(
            "this bundle's runner reads TOML, and tomlkit is not installed",
            field="config_format",
            hint="pip install 'mae-skill[toml]'",
        )


def require_toml_values(value: Any, key: str = "") -> None:
    """Refuse a spec that TOML cannot hold: a null in a list, an integer beyond 64 bits.

    Raises:
        SpecError: the first such value.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            require_toml_values(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            if item is None:
                raise SpecError(
                    "TOML, which this runner reads, has no null in a list",
                    field=f"{key}[{at}]",
                    got=None,
                    expected="a value, or a list without this item",
                )
            require_toml_values(item, f"{key}[{at}]")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SpecError(
            "TOML, which this runner reads, has no integer beyond 64 bits",
            field=key,
            got=value,
            expected="an integer from -2^63 to 2^63 - 1",
        )


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_null(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value if item is not None]
    return value
