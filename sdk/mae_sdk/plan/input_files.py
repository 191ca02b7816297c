"""The files and models that a person names for an action: they become absolute, and for a bundle
without rules of its own they are there when the runner looks for them.

Data has rules of its own (`mae_sdk.plan.data`); patterns and what is behind a URL are not looked at
here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.errors import DataError, MaeError, NotFoundError, UsageError
from mae_skill.origin import Origin, OriginKind
from mae_skill.placeholders import NOT_GIVEN

from mae_sdk.jobs.metrics import mapping
from mae_sdk.plan.inferred_fields import OF_PARENT, OF_PTM, function_of
from mae_sdk.storage import urls

ANY = "file or folder"
"""What an input of no declared type may be."""

_PATHS = (".checkpoint", ".trt_engine", "_path", "_file")
"""How fields of paths end."""
_OWN = (OriginKind.TEMPLATE, OriginKind.DEFAULT)


def take_from_here(bundle: Bundle, action: str, spec: dict[str, Any], given: set[str]) -> None:
    """A path that the caller's folder has becomes absolute, in place: a job is resumed, and its
    spec read again, from anywhere. In a bundle whose runner works in a folder of its own, what that
    folder has stays as it is."""
    here, runner = Path.cwd(), _folder(bundle, action)
    own = bool(bundle.info.get("validator"))
    keys = _named_paths(bundle, action, given) if own else given & _fields(bundle, action).keys()
    for key in keys:
        value = get_dotted(spec, key)
        listed = value if isinstance(value, list) else [value]
        moved = [_from_here(one, here, None if runner == here or own else runner) for one in listed]
        if moved != listed:
            set_dotted(spec, key, moved if isinstance(value, list) else moved[0])


def _from_here(value: Any, here: Path, runner: Path | None) -> Any:
    """A path of the caller's folder as an absolute one; anything else, and what the runner's folder
    has, unchanged."""
    if not isinstance(value, str) or not value or "://" in value:
        return value
    if runner is not None and _exists(value, runner):
        return value
    base = re.split(r"[*?\[{]", value, maxsplit=1)[0]  # of a pattern what stands before its signs
    base = base if base == value else base.rpartition("/")[0]
    return str(here / urls.local_path(value)) if _exists(base, here) else value


def _named_paths(bundle: Bundle, action: str, given: set[str]) -> set[str]:
    """Of the fields that a person gave, those of this project's spec that hold a path: data, what
    lies beside them, models."""
    rows = bundle.data_rows(action)
    beside = {
        str(mapping(row.get(name)).get("field"))
        for row in rows.values()
        for name in ("masks", "labels")
    }
    by_name = {key for key in given if key.endswith(_PATHS)}
    return given & (rows.keys() | beside | by_name)


def missing(
    bundle: Bundle,
    action: str,
    spec: Mapping[str, Any],
    provenance: Mapping[str, Origin],
    given: Collection[str],
    mounts: Collection[str] = (),
) -> tuple[list[MaeError], list[MaeError]]:
    """Errors for what the person named and is not there, and warnings for what may not be needed:
    pretrained weights, which a runner may fetch by their name, the bundle's own values, and what is
    in a folder that is mounted where the job runs.
    """
    errors: list[MaeError] = []
    warnings: list[MaeError] = []
    if bundle.info.get("validator"):
        return errors, warnings
    runner = _folder(bundle, action)
    models = {
        key
        for key, row in (bundle.spec_params.get(action) or {}).items()
        if function_of(row) in (*OF_PARENT, *OF_PTM)
    }
    for key, (kind, is_needed) in _fields(bundle, action).items():
        for path in _paths(get_dotted(spec, key)):
            if _exists(path, runner):
                other = _of_another_kind(runner / path, kind)
                if other is not None and key in given:  # a model may be a folder to its runner
                    found = warnings if key in models else errors
                    found.append(_wrong_kind(key, path, kind, other))
                continue
            if any((runner / path).absolute().is_relative_to(folder) for folder in mounts):
                said = "it is where the platform mounts a folder, and was not looked at"
                warnings.append(UsageError(said, field=key, got=path, expected=f"a {kind} there"))
            elif key in given and is_needed:
                expected = f"a {kind} that is there, or a URL"
                errors.append(
                    NotFoundError(
                        f"there is no such {kind}", field=key, got=path, expected=expected
                    )
                )
            elif key in given or _is_own(provenance.get(key)):
                whose = "named" if key in given else "named by the bundle's own spec"
                hint = f"{key}=PATH; the run may fail at its start"
                warnings.append(
                    UsageError(f"the {kind} {whose} is not here", field=key, got=path, hint=hint)
                )
    for key, kind in _typed_data(bundle, action).items():  # a warning: many are declared loosely
        for path in _paths(get_dotted(spec, key)):
            if (other := _of_another_kind(runner / path, kind)) is not None:
                warnings.append(_wrong_kind(key, path, kind, other))
    return errors, warnings


def _typed_data(bundle: Bundle, action: str) -> dict[str, str]:
    """The fields of data that the entry declares as a ``file`` or a ``folder``."""
    rows, inputs = bundle.data_rows(action), bundle.action(action).get("inputs")
    declared = inputs.items() if isinstance(inputs, Mapping) else ()
    kinds = {key: row.get("type") for key, row in declared if isinstance(row, Mapping)}
    return {key: kind for key, kind in kinds.items() if key in rows and kind in ("file", "folder")}


def _of_another_kind(path: Path, kind: str) -> str | None:
    """What a path is, where it is there and not the ``file`` or ``folder`` that is declared; an
    archive may stand for the folder that is in it."""
    if kind == "file" and path.is_dir():
        return "folder"
    is_archive = urls.is_archive(str(path))
    return "file" if kind == "folder" and path.is_file() and not is_archive else None


def _wrong_kind(key: str, path: str, kind: str, other: str) -> DataError:
    """The error of a path that is of another kind than the bundle declares."""
    return DataError(
        f"this is a {other}, and the bundle says that {key} is a {kind}",
        field=key,
        got=path,
        expected=f"a {kind}",
    )


def _fields(bundle: Bundle, action: str) -> dict[str, tuple[str, bool]]:
    """Field → what it holds, and whether the run needs it as it is named."""
    functions = {
        key: function_of(row) for key, row in (bundle.spec_params.get(action) or {}).items()
    }
    found = {key: (ANY, True) for key, word in functions.items() if word in OF_PARENT}
    inputs = bundle.action(action).get("inputs")
    for key, row in inputs.items() if isinstance(inputs, Mapping) else ():
        kind = (row.get("type") or ANY) if isinstance(row, Mapping) else None
        if kind in ("file", "folder", ANY):
            found[str(key)] = (str(kind), functions.get(str(key)) not in OF_PTM)
    rows = bundle.data_rows(action)
    return {key: about for key, about in found.items() if key not in rows}


def _folder(bundle: Bundle, action: str) -> Path:
    """Where the runner works."""
    execution = bundle.action(action).get("execution")
    if not isinstance(execution, Mapping):
        return Path.cwd()
    return bundle.root.resolve() / str(execution.get("cwd") or ".")


def _paths(value: Any) -> Iterator[str]:
    """The paths of this machine in a value."""
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, str) or one in ("", NOT_GIVEN) or "://" in one:
            continue
        if not set("*?[") & set(one):
            yield one


def _exists(path: str, folder: Path) -> bool:
    try:
        return (folder / path).exists()
    except (OSError, ValueError):
        return False


def _is_own(origin: Origin | None) -> bool:
    return origin is not None and origin.kind in _OWN
