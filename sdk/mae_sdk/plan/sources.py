"""Where an action's data lies: ``data_sources`` of the bundle applied to the sources that the user named.

An archive, by its name, is taken as given. Anything else is a place: ``<place>/<path of the bundle>`` when that is there, else the place
itself when it is a folder or prefix that holds something.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_skill.errors import DataError, MaeError, UsageError

from mae_sdk.storage import urls

Given = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None


def resolve(
    action: str, info: Mapping[str, Any], sources: Mapping[str, Given], given: Collection[str] = ()
) -> tuple[dict[str, Any], list[MaeError]]:
    """The data fields of an action.

    Args:
        sources: ``train_datasets``, ``eval_dataset`` … → a URI, a list of URIs, or None.
        given: dotted keys that the user set in the spec; they are left alone.

    Returns:
        Dotted key → URI or list of URIs (local paths made absolute), and every error: a source that is missing, empty, or not taken.
    """
    rows: dict[str, Mapping[str, Any]] = {
        str(key): row
        for key, row in ((info.get("data_sources") or {}).get(action) or {}).items()
        if isinstance(row, Mapping)
    }
    values: dict[str, Any] = {}
    errors: list[MaeError] = []
    taken = {str(row.get("source")) for row in rows.values()}
    for name, source in sources.items():
        if source is not None and name not in taken:
            expected = ", ".join(sorted(taken)) if taken else "no data source"
            errors.append(
                UsageError(
                    f"{action} does not read this source",
                    field=name,
                    got=_shown(source),
                    expected=expected,
                )
            )
    for key, row in rows.items():
        name = str(row.get("source"))
        source = sources.get(name)
        if key in given:
            continue
        if source is None:
            if row.get("required"):
                errors.append(
                    DataError(
                        f"{action} needs data",
                        field=name,
                        expected=f"--{name.replace('_', '-')} URI, or {key} in the spec",
                    )
                )
            continue
        many = not isinstance(source, (str, os.PathLike))
        found = []
        for one in [source] if isinstance(source, (str, os.PathLike)) else source:
            try:
                found.append(_one(os.fspath(one), row.get("path"), name))
            except MaeError as error:
                errors.append(error)
        if many and not source:
            errors.append(
                DataError(
                    "the list of sources is empty", field=name, got=[], expected="at least one URI"
                )
            )
        if found:
            values[key] = found if many else found[0]
    return values, errors


def _one(uri: str, path: Any, name: str) -> str:
    """One source.

    Raises:
        DataError: neither place holds anything.
    """
    if not uri.strip() or "\0" in uri:
        raise DataError("the source is no path", field=name, got=uri, expected="a path or URL")
    local = not urls.is_remote(uri)
    try:
        base = str(urls.local_path(uri).absolute()) if local else uri
    except RuntimeError as error:  # ~nobody
        raise DataError(
            f"the source is no path: {error}", field=name, got=uri, expected="a path or URL"
        ) from error
    if urls.is_archive(uri):
        if _is_file(base) or (local and _holds_something(base)):
            return base
        raise DataError("there is no such archive", field=name, got=urls.redact(uri))
    tried = [base]
    if isinstance(path, str) and path:
        below = urls.join(base, path)
        tried.insert(0, below)
        if _is_file(below) or (not urls.is_archive(path) and _holds_something(below)):
            return below
    if _holds_something(base):
        return base
    raise DataError(
        "no data was found",
        field=name,
        got=urls.redact(uri),
        expected="a file "
        + urls.redact(tried[0])
        + " or a folder that is not empty, "
        + urls.redact(base),
        hint="name the archive itself, or the folder with the images",
    )


def _is_file(uri: str) -> bool:
    from mae_sdk.storage import transfer

    if not urls.is_remote(uri):
        try:
            return Path(uri).is_file()
        except OSError:  # a name too long
            return False
    return transfer.exists(uri) and transfer.info(uri)["type"] == "file"


def _holds_something(uri: str) -> bool:
    """Whether a folder or prefix holds anything; a web server cannot say."""
    if not urls.is_remote(uri):
        try:
            with os.scandir(uri) as entries:
                return any(not entry.name.startswith(".") for entry in entries)
        except OSError:
            return False
    if urls.scheme(uri) in ("http", "https"):
        return False
    from mae_sdk.storage.retry import attempt

    fs, inside = urls.filesystem(uri)

    def request() -> list[str]:
        try:
            return list(fs.ls(inside, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    names = attempt(request, uri, "list")
    return any(item.rstrip("/") != inside.rstrip("/") for item in names)


def _shown(source: Any) -> Any:
    return (
        urls.redact(source)
        if isinstance(source, (str, os.PathLike))
        else [urls.redact(one) for one in source]
    )
