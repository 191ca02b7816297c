"""Where an action's data is: the fields that the sources of a request fill.

A row of ``data_sources`` says which source a field takes and what lies where in it. Images are
opened, counted and judged later (`mae_sdk.plan.data`); whatever else a bundle's runner reads, such
as annotation files, folders and archives of its own, is carried: it must exist, and nothing of it
is opened.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mae_skill.dialect import is_nested
from mae_skill.errors import DataError, MaeError, NotFoundError, SpecError, UsageError
from mae_skill.placeholders import NOT_GIVEN
from mae_skill.spelling import source_option

from mae_sdk.data.fetch import is_archive
from mae_sdk.data.names import ends_as_image, name_archives
from mae_sdk.data.parts import split_within
from mae_sdk.data.patterns import expand, is_pattern
from mae_sdk.data.table_file import SUFFIXES
from mae_sdk.storage import transfer, urls
from mae_sdk.storage.faults import as_data_error
from mae_sdk.storage.retry import attempt

SourceArg = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None

IMAGES, FILE, FOLDER, ARCHIVE = "images", "file", "folder", "archive"

_NAMED = re.compile(r"\{([^{}]+)\}")


def is_images(row: Any) -> bool:
    """Whether a row of ``data_sources`` holds images that plans open, count and judge."""
    if not isinstance(row, Mapping):
        return False
    return row.get("data_kind") == IMAGES or row.get("runtime") == "indexed_archive"


def locate(
    action: str,
    info: Mapping[str, Any],
    sources: Mapping[str, SourceArg],
    given: Collection[str] = (),
    value_of: Callable[[str], Any] = lambda key: None,
    takes_list: Callable[[str], bool] = lambda key: True,
    is_list: Callable[[str], bool] = lambda key: False,
    mounts: Sequence[str] = (),
) -> tuple[dict[str, Any], list[MaeError]]:
    """The data fields of an action that the named sources fill.

    An archive of images, by its name, is taken as given. Anything else is a place: ``<place>/<path
    of the bundle>`` when that is there, else the place itself when it is a folder or prefix that
    holds something. Data that is carried is ``<place>/<path>``, and nothing else.

    Args:
        sources: ``train_datasets``, ``eval_dataset`` … → a URI, a list of URIs, or None.
        given: dotted keys that the user set in the spec; they are left alone.
        value_of: the value of a field of the spec, for paths that name one: ``{split}.json``.
        takes_list: whether a field may hold a list.  is_list: whether it holds nothing else.
        mounts: folders of the machine that runs the job; what is `hidden` there is taken as it is.

    Returns:
        Dotted key → URI, list of URIs or, where the row maps several files, a mapping of them
        (local paths made absolute), and every error: a source that does not exist, is empty, or is
        not read by the action.
    """
    rows: dict[str, Mapping[str, Any]] = {
        str(key): row
        for key, row in ((info.get("data_sources") or {}).get(action) or {}).items()
        if isinstance(row, Mapping)
    }
    rows = {key: row for key, row in rows.items() if row.get("source")}
    values: dict[str, Any] = {}
    errors = _not_read(action, sources, {str(row["source"]) for row in rows.values()})
    alone_of: dict[str, list[str]] = {}
    for key, row in rows.items():
        name = str(row.get("source"))
        source = sources.get(name)
        if key in given or source is None:
            continue

        many = isinstance(source, (list, tuple))
        uris = _uris(source)
        if many and not source:
            errors.append(
                DataError(
                    "the list of sources is empty",
                    field=name,
                    got=[],
                    expected="at least one URI",
                    hint="name at least one source",
                )
            )
        alone = sum(str(other.get("source")) == name for other in rows.values()) == 1
        kind = _type_of(((info.get("actions") or {}).get(action) or {}).get("inputs"), key)
        format_ = str(info.get("data_format") or "")
        place = _Place(key, row, name, format_, alone, value_of, kind, mounts)
        found = []
        for one in uris:
            try:
                images = is_images(row)
                found.append(_one(one, row.get("path"), name, mounts) if images else place.of(one))
            except MaeError as error:
                error.field = error.field or name
                errors.append(error)
        found = [one for one in found if one is not None]
        several = bool(row.get("list") or row.get("multiple_sources"))
        if isinstance(row.get("mapping"), Mapping):
            pattern = value_of(key)
            several = several or isinstance(pattern, list)
            found = _over_pattern(found, pattern)
        several = several or (many and takes_list(key)) or is_list(key)
        if len(uris) > 1 and not several:
            alone_of.setdefault(name, []).append(key)
        elif found:
            values[key] = found if several else found[0]
    errors += [_one_alone(keys, name, _uris(sources[name])) for name, keys in alone_of.items()]
    return values, errors


def _not_read(
    action: str, sources: Mapping[str, SourceArg], taken: Collection[str]
) -> list[MaeError]:
    """The errors of sources that were given and that the action does not take."""
    expected = ", ".join(sorted(taken)) or "no data source"
    return [
        UsageError(
            f"{action} does not read this source",
            field=name,
            got=_shown(source),
            expected=expected,
            hint="leave it out, or name the action that reads it",
        )
        for name, source in sources.items()
        if source is not None and name not in taken
    ]


def _type_of(inputs: Any, key: str) -> str | None:
    """The type of a declared input."""
    row = inputs.get(key) if isinstance(inputs, Mapping) else None
    found = row.get("type") if isinstance(row, Mapping) else None
    return found if isinstance(found, str) else None


def _one_alone(keys: Sequence[str], name: str, uris: Sequence[str]) -> UsageError:
    several = len(keys) > 1
    rows, they = ("rows", "they are lists") if several else ("row", "it is a list")
    return UsageError(
        f"{' and '.join(keys)} {'take one path each' if several else 'takes one path'}",
        field=name,
        got=[urls.redact(uri) for uri in uris],
        expected=f"one source: neither the bundle's {rows} nor its schema says that {they}",
        hint="one folder that holds it all, or "
        f"{' '.join(f'{key}=[PATH, PATH]' for key in keys)} where its runner reads a list",
    )


def _uris(source: Any) -> list[str]:
    """A source, or a list of them, as text."""
    return (
        [os.fspath(one) for one in source]
        if isinstance(source, (list, tuple))
        else [os.fspath(source)]
    )


STAND_IN = "/given"
"""Stands for a path in a source, before there is a source."""


def stand_in(row: Mapping[str, Any], present: Any, is_list: bool) -> Any:
    """A value of the form that a row of data gives its field.

    Args:
        present: what the bundle's own spec has there.
        is_list: whether the field holds lists alone.
    """
    mapping = row.get("mapping")
    several = bool(row.get("list") or row.get("multiple_sources")) or is_list
    if not isinstance(mapping, Mapping):
        value = row.get("value", STAND_IN)
        return [value] if several else value
    (found,) = _over_pattern([_mapped_stand_in(mapping)], present)
    return [found] if several or isinstance(present, list) else found


def _mapped_stand_in(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(name): _mapped_stand_in(row) if is_nested(row) else row.get("value", STAND_IN)
        for name, row in mapping.items()
        if isinstance(row, Mapping) and not row.get("optional")
    }


def asks_for(key: str, row: Mapping[str, Any], data_format: Any) -> tuple[bool, list[str]]:
    """Whether a source can fill a row of data, and the fields that its paths name."""
    place = _Place(key, row, "", str(data_format or ""), True, lambda name: None)
    mapping = row.get("mapping")
    if isinstance(mapping, Mapping) or "value" in row:
        return True, []
    try:
        paths = place._paths(row)
    except SpecError:
        return False, []
    return True, [name.strip() for path in paths for name in _NAMED.findall(path)]


def _over_pattern(found: list[Any], pattern: Any) -> list[Any]:
    """Mapped files over what the spec says of such an item beside them."""
    items = pattern if isinstance(pattern, list) else [pattern]
    items = [item for item in items if isinstance(item, Mapping)]
    if not items:
        return found
    return [
        {
            **{name: v for name, v in items[min(at, len(items) - 1)].items() if v != NOT_GIVEN},
            **one,
        }
        for at, one in enumerate(found)
    ]


class _NotGivenError(SpecError):
    """A path names a field that has no value."""


@dataclass(frozen=True)
class _Place:
    """One row of carried data.

    Attributes:
        key: the field it fills.
        name: its source.
        data_format: of the bundle, by which some rows choose their path.
        alone: whether no other row takes files of the source: then a source may be the file itself.
        kind: as what the action's ``inputs`` declare the field: ``file``, ``folder``,
            ``local_glob``; None: they do not.
        mounts: folders of the machine that runs the job.
    """

    key: str
    row: Mapping[str, Any]
    name: str
    data_format: str
    alone: bool
    value_of: Callable[[str], Any]
    kind: str | None = None
    mounts: Sequence[str] = ()

    def of(self, uri: str) -> Any:
        """What the row takes of one source: a path, or a mapping of them; None where an optional
        one is missing.

        Raises:
            DataError, UsageError: it is not there, or no path or URL.
            SpecError: the bundle's path leads out of the source, or names a field that is not
                given.
        """
        base = _checked(uri, self.name)
        mapping = self.row.get("mapping")
        if isinstance(mapping, Mapping):
            return self._mapped(mapping, base)
        if "value" in self.row:
            return self.row["value"]
        return self._first(self._paths(self.row), base, bool(self.row.get("optional")), self.alone)

    def _mapped(self, mapping: Mapping[str, Any], base: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, row in mapping.items():
            if not isinstance(row, Mapping):
                continue
            if is_nested(row):
                found[str(name)] = self._mapped(row, base)
                continue
            optional = bool(row.get("optional"))
            paths = self._paths(row)
            if "value" in row:
                found[str(name)] = row["value"]
            elif paths != [""] or not optional:
                value = self._first(paths, base, optional, False)
                if value is not None:
                    found[str(name)] = value
        return found

    def _paths(self, row: Mapping[str, Any]) -> list[str]:
        """The paths to look for, the first that exists is taken."""
        chosen: Any = row.get("path")
        for word, table in row.items():
            if chosen is not None or not str(word).startswith("path_from_"):
                continue
            if isinstance(table, Mapping):
                wanted = self.data_format if word == "path_from_format" else "*"
                chosen = table.get(wanted, table.get("*"))
                if chosen is None and word == "path_from_format" and table:
                    raise SpecError(
                        "path_from_format has no path for the bundle's data_format",
                        field=self.key,
                        got=self.data_format or None,
                        expected=", ".join(map(str, table)),
                        hint=f"{self.key}=PATH",
                    )
        if isinstance(chosen, (list, tuple)):
            return [str(one) for one in chosen] or [""]
        return [str(chosen or "")]

    def _first(self, paths: Sequence[str], base: str, optional: bool, alone: bool) -> str | None:
        try:
            places = [self._filled(path) for path in paths]
        except _NotGivenError:
            if optional:
                return None
            raise
        for path in places:
            if (there := _carried_at(base, path, alone)) is not None:
                return there
            if (matched := self._matched(base, path)) is not None:
                return matched
        if optional and any(places):
            return None
        if hidden(base, self.mounts):
            return urls.join(base, places[0]) if places[0] else base
        below = [urls.redact(urls.join(base, path) if path else base) for path in places]
        option = source_option(self.name)
        raise DataError(
            "no data was found",
            field=self.key,
            got=urls.redact(base),
            expected=" or ".join(below),
            hint=f"{option} of the place that holds it; or {self.key}=PATH of the "
            f"{self._kind(places)} itself",
        )

    def _kind(self, places: Sequence[str]) -> str:
        """What the row looks for, in a word."""
        if any(urls.is_archive(path) for path in places):
            return ARCHIVE
        if self.kind in (FILE, FOLDER):
            return str(self.kind)
        return FILE if all(PurePosixPath(path).suffix for path in places) else FOLDER

    def _matched(self, base: str, path: str) -> str | None:
        """A pattern of files, for a runner that takes one, else the one file that it matches; None
        where the path is no pattern or matches nothing.

        Raises:
            DataError: a field of one file or folder has several.
        """
        if not any(mark in path for mark in "*?["):
            return None
        pattern = urls.join(base, path)
        if urls.is_remote(base):
            return pattern
        found = sorted(map(str, Path(base).glob(path)))
        if self.kind not in (FILE, FOLDER):
            return pattern if found else None
        if len(found) > 1:
            raise DataError(
                f"{len(found)} of them match, and {self.key} takes one {self.kind}",
                field=self.key,
                got=found[:5],
                expected=f"one that matches {pattern}",
                hint=f"{self.key}=PATH",
            )
        return found[0] if found else None

    def _filled(self, path: str) -> str:
        """A path of the bundle with its ``{field}`` filled in."""

        def value(match: re.Match[str]) -> str:
            found = self.value_of(match[1].strip())
            if not isinstance(found, (str, int, float)) or found in ("", "???"):
                raise _NotGivenError(
                    f"the path of this data needs {match[1].strip()}, which is not given",
                    field=self.key,
                    got=path,
                    expected=f"{match[1].strip()}=VALUE, or {self.key}=PATH",
                )
            return str(found)

        filled = _NAMED.sub(value, path)
        _check_below(filled, self.key)
        return filled


def _check_below(path: str, key: str) -> None:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if path.startswith(("/", "~")) or ".." in parts or "\0" in path or "://" in path:
        raise SpecError(
            "a path of the bundle leads out of the source",
            field=f"data_sources.{key}",
            got=path,
            expected="a path below the source",
            hint="correct the path in the data_sources of the bundle",
        )


def check_row(key: str, row: Mapping[str, Any]) -> None:
    """Refuse a row whose paths lead out of its source, whatever the data and the spec.

    Raises:
        SpecError: one does.
    """
    for word, value in row.items():
        named = value.values() if isinstance(value, Mapping) else [value]
        if word == "mapping":
            for one in (item for item in named if isinstance(item, Mapping)):
                check_row(key, {"mapping": one} if is_nested(one) else one)
        elif word == "path" or str(word).startswith("path_from_"):
            paths = (one for item in named for one in (item if isinstance(item, list) else [item]))
            for path in paths:
                _check_below(str(path or ""), key)


def _checked(uri: str, name: str) -> str:
    """A source as a URL or an absolute path.

    Raises:
        DataError, UsageError: it is neither.
    """
    if not uri.strip() or "\0" in uri:
        raise DataError(
            "not a path or URL",
            field=name,
            got=uri,
            expected="a path or URL",
            hint="name a folder, an archive or a URL",
        )
    urls.check(uri)
    if urls.is_remote(uri):
        return uri
    try:
        return str(urls.local_path(uri).absolute())
    except RuntimeError as error:  # ~nobody
        raise DataError(
            f"not a path or URL: {error}",
            field=name,
            got=uri,
            expected="a path or URL",
            hint="name a folder, an archive or a URL",
        ) from error


def _carried_at(base: str, path: str, alone: bool) -> str | None:
    """Where the file or folder is that a row names in a source; None where it is not."""
    if not path:
        return base if _is_file(base) or _holds_something(base) else None
    below = urls.join(base, path)
    if _is_file(below) or _holds_something(below):
        return below
    if urls.is_archive(path):  # the same, unpacked
        name = PurePosixPath(path).name
        stem = path[: -len(name)] + name.partition(".")[0]
        if _holds_something(urls.join(base, stem)):
            return urls.join(base, stem)
    if not alone:
        return None
    if _is_file(base) and PurePosixPath(path).suffix == PurePosixPath(base).suffix:
        return base  # the file itself was named
    return base if urls.is_archive(path) and _holds_something(base) else None


def taken_whole(
    rows: Mapping[str, Any], sources: Mapping[str, SourceArg], values: Mapping[str, Any]
) -> list[str]:
    """A notice of each field that got the folder of its source, since the archive that the bundle
    names is not in it.

    Args:
        values: what `locate` found.
    """
    said = []
    for key, value in values.items():
        row = rows.get(key)
        path = row.get("path") if isinstance(row, Mapping) and not is_images(row) else None
        names = [one for one in (path if isinstance(path, list) else [path]) if one]
        if not names or not all(isinstance(one, str) and urls.is_archive(one) for one in names):
            continue
        given = sources.get(str(row["source"])) if isinstance(row, Mapping) else None
        places: set[str] = set()
        for one in _uris(given) if given is not None else ():
            with contextlib.suppress(MaeError):  # `locate` has its error
                places.add(_checked(one, key))
        for one in value if isinstance(value, list) else [value]:
            if one in places and not urls.is_archive(str(one)):
                said.append(
                    f"{key}: there is no {' or '.join(names)} in {urls.redact(one)}; the folder "
                    "itself is taken, as what is in the archive"
                )
    return said


def carried(
    key: str, row: Mapping[str, Any], value: Any, problems: list[MaeError]
) -> dict[str, Any]:
    """What a plan says of data that is carried: ``uri, data_kind, why``.

    A local path that does not exist is added to `problems`.
    """
    paths = paths_in(row, value)
    kinds = set()
    for path in paths:
        try:
            urls.check(path)
        except MaeError as error:
            error.field = error.field or key
            problems.append(error)
            continue
        if urls.is_remote(path):
            kinds.add(ARCHIVE if urls.is_archive(path) else "remote")
        elif urls.local_path(path).is_dir():
            kinds.add(FOLDER)
        elif urls.local_path(path).exists():
            kinds.add(ARCHIVE if urls.is_archive(path) else FILE)
        elif any(mark in path for mark in "*?["):  # a pattern is its runner's to read
            problems += no_match(key, path)
        else:
            problems.append(
                DataError(
                    "there is no such file or folder",
                    field=key,
                    got=path,
                    expected="a file or folder that exists",
                    hint="check the path: a relative one begins where the command runs",
                )
            )
    shown = [urls.redact(path) for path in paths]
    kind = kinds.pop() if len(kinds) == 1 else "several" if kinds else "value"
    return {
        "uri": shown[0] if len(shown) == 1 else shown,
        "data_kind": kind,
        "why": f"{kind}: not opened, only looked for",
    }


def no_match(key: str, pattern: str) -> list[MaeError]:
    """The error of a pattern of local paths that matches nothing."""
    if urls.is_remote(pattern):
        return []
    anchor = Path(pattern).anchor
    try:
        if next(Path(anchor or ".").glob(pattern[len(anchor) :]), None) is not None:
            return []
    except (ValueError, NotImplementedError):  # a pattern of another kind
        return []
    return [
        DataError(
            "no file matches",
            field=key,
            got=pattern,
            expected="a pattern of files that exist",
            hint="correct the pattern: * stands for text within a name, ** for any folders",
        )
    ]


def paths_in(row: Mapping[str, Any], value: Any) -> list[str]:
    """The paths and URLs in the value of a data field; of mapped files those that have a path."""
    if isinstance(value, str):
        return [value] if value and value != NOT_GIVEN else []
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in paths_in(row, item)]
    mapping = row.get("mapping")
    if not isinstance(value, Mapping) or not isinstance(mapping, Mapping):
        return []
    found = []
    for name, item in mapping.items():
        if not isinstance(item, Mapping):
            continue
        if is_nested(item):
            found += paths_in({"mapping": item}, value.get(name))
        elif names_files(item):
            found += paths_in({}, value.get(name))
    return found


def names_files(row: Mapping[str, Any]) -> bool:
    """Whether a row of data fills its field with files of the source, not with a value."""
    return "value" not in row and any(
        word == "path" or str(word).startswith("path_from_") for word in row
    )


def hidden(uri: str, mounts: Sequence[str]) -> bool:
    """Whether a path is in a folder that is mounted where the job runs, and nothing of it is on
    this machine: whether it is there, nobody can tell from here."""
    if not mounts or urls.is_remote(uri):
        return False
    path = urls.local_path(uri).absolute()
    if not any(path.is_relative_to(folder) for folder in mounts):
        return False
    if is_pattern(str(path)):
        try:
            return not expand(str(path))
        except MaeError:
            return True
    return not (_is_file(str(path)) or _holds_something(str(path)))


def _one(uri: str, path: Any, name: str, mounts: Sequence[str] = ()) -> str:
    """One source.

    Raises:
        DataError: neither place holds anything, or nothing matches a pattern.
    """
    if not uri.strip() or "\0" in uri:
        raise DataError(
            "not a path or URL",
            field=name,
            got=uri,
            expected="a path or URL",
            hint="name a folder, an archive or a URL",
        )
    urls.check(uri)
    local = not urls.is_remote(uri)
    try:
        base = str(urls.local_path(uri).absolute()) if local else uri
    except RuntimeError as error:  # ~nobody
        raise DataError(
            f"not a path or URL: {error}",
            field=name,
            got=uri,
            expected="a path or URL",
            hint="name a folder, an archive or a URL",
        ) from error
    where = urls.redact(uri)
    if hidden(base, mounts):
        return base
    if is_pattern(base):
        expand(base)
        return base
    try:
        if urls.is_archive(uri):
            if _is_file(base) or (local and _holds_something(base)):
                return base
            raise as_data_error(NotFoundError(""), where)
        tried = [base]
        if isinstance(path, str) and path:
            below = urls.join(base, path)
            tried.insert(0, below)
            if _is_file(below) or (not urls.is_archive(path) and _holds_something(below)):
                return below
        if local and (odd := _no_source(base)) is not None:
            if odd == ONE_PICTURE and name == UNJUDGED:
                return base
            raise DataError(
                f"this is {odd}, not a place of images",
                field=name,
                got=where,
                expected="a folder with images, or an archive of them",
                hint=f"name the folder that it is in: {Path(base).parent}"
                if odd == ONE_PICTURE
                else "a table of labels goes to dataset.labels, beside the folder of the images"
                if odd == "a table"
                else _pictures_of(Path(base)) or "name the folder or the archive itself",
            )
        if _holds_something(base) or is_archive(base):
            inside = _entries(base)
            archives = sorted(entry for entry in inside if urls.is_archive(entry))
            if archives and len(archives) == len(inside):
                raise _other_archives(where, base, tried[0], archives, str(path or "image"), name)
            return base
    except NotFoundError as error:
        raise as_data_error(error, where) from error
    raise DataError(
        "no data was found",
        field=name,
        got=where,
        expected="a file "
        + urls.redact(tried[0])
        + " or a folder that is not empty, "
        + urls.redact(base),
        hint="name the archive itself, or the folder with the images",
    )


UNJUDGED = "inference_dataset"
ONE_PICTURE = "one picture"


def _no_source(path: str) -> str | None:
    """What a file of this machine is that is there, and holds no images; else None."""
    place = Path(path)
    if not place.exists() or place.is_dir() or is_archive(path):
        return None
    if not place.is_file():
        return "a device or a pipe"
    if ends_as_image(path):
        return ONE_PICTURE
    return "a table" if path.lower().endswith((".csv", ".tsv")) else "a file of another kind"


def _pictures_of(path: Path) -> str:
    """Where the training pictures are that a ``data.yaml`` of YOLO describes, in words; empty where
    the file is none that says it."""
    from mae_sdk.data.detection import read_description

    said = read_description(path) if path.suffix.lower() in (".yaml", ".yml") else {}
    train = said.get("train")
    return f"it describes a set for YOLO: name its folder of pictures, {train}" if train else ""


def find_source(uri: str, info: Mapping[str, Any]) -> str:
    """A source as plans find it, whatever the action: the first of the bundle's paths that is a
    file in the place, else the place.

    Raises:
        DataError: there is nothing.
    """
    rows = (info.get("data_sources") or {}).values()
    paths = {str(row["path"]): None for table in rows for row in table.values() if row.get("path")}
    takes = uri.strip() and not urls.is_archive(uri) and not is_pattern(uri)
    for path in paths if takes else ():
        with contextlib.suppress(MaeError):
            if found := _file_below(uri, path):
                return found
    return _one(uri, next(iter(paths), None), "source")


def _file_below(uri: str, path: str) -> str | None:
    base = uri if urls.is_remote(uri) else str(urls.local_path(uri).absolute())
    below = urls.join(base, path)
    return below if _is_file(below) else None


def _is_file(uri: str) -> bool:

    if not urls.is_remote(uri):
        try:
            return Path(uri).is_file()
        except OSError:  # a name too long
            return False
    return transfer.exists(uri) and transfer.info(uri)["type"] == "file"


def _holds_something(uri: str) -> bool:
    """Whether a folder or prefix holds anything; a web server cannot say."""

    if urls.is_remote(uri):
        return transfer.holds_something(uri)
    try:
        with os.scandir(uri) as entries:
            return any(not entry.name.startswith(".") for entry in entries)
    except OSError:
        return False


def _other_archives(
    where: str, base: str, tried: str, archives: Sequence[str], path: str, name: str
) -> DataError:
    """The error for a place that holds archives alone, none of them the one that is looked for."""
    return DataError(
        f"there is no {path} and no image here, but {', '.join(archives[:5])}",
        field=name,
        got=where,
        expected=f"a file {urls.redact(tried)} or a folder that is not empty, {urls.redact(base)}",
        hint=name_archives(urls.redact(base), archives),
    )


def _entries(uri: str) -> list[str]:
    """The names in a folder or prefix, folders with their ``/``; none where there is nothing or, as
    on a web server, they cannot be had."""
    if not urls.is_remote(uri):
        try:
            with os.scandir(uri) as entries:
                return [
                    entry.name + ("/" if entry.is_dir() else "")
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        except OSError:
            return []
    if urls.scheme(uri) in ("http", "https"):
        return []

    fs, inside = urls.filesystem(uri)

    def request() -> list[dict[str, Any]]:
        try:
            return list(fs.ls(inside, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []

    found = [
        (item["name"].rstrip("/"), item.get("type") == "directory")
        for item in attempt(request, uri, "list")
    ]
    return [
        name.rpartition("/")[2] + "/" * is_folder
        for name, is_folder in found
        if name != inside.rstrip("/")
    ]


def labels_beside(uri: str, role: str) -> dict[str, str]:
    """What may hold the labels of pictures that have none, in their folder or beside it, here or in
    a store: ``table``, a table of labels, the only one or the one that is named for ``role``
    (``train``, ``val``), else ``archive``, one that is named for labels; empty where there is
    none, or they are several."""
    place = uri.rstrip("/")
    if not urls.is_remote(uri):
        place = str(urls.local_path(uri).absolute())
    found: dict[str, str] = {}
    for folder in (place, place.rpartition("/")[0]):
        names: list[str] = []
        with contextlib.suppress(MaeError):
            names = _entries(folder)
        tables = {name: _part_of(name) for name in names if name.lower().endswith(SUFFIXES)}
        of_role = [name for name, part in tables.items() if part == role]
        fit = of_role or [name for name, part in tables.items() if not part]
        if len(fit) == 1:
            return {"table": urls.redact(urls.join(folder, fit[0]))}
        packed = [
            name
            for name in names
            if urls.is_archive(name) and _OF_LABELS.search(name) and _part_of(name) in (role, "")
        ]
        if len(packed) == 1 and not tables:
            found.setdefault("archive", urls.redact(urls.join(folder, packed[0])))
    return found


_LABEL_WORDS = "labels?|annotations?|targets?|classes"
_OF_LABELS = re.compile(rf"(?<![a-z])({_LABEL_WORDS})(?![a-z])", re.IGNORECASE)


def _part_of(name: str) -> str:
    """The part of a data set that the name of a file mentions; empty: none, or several."""
    found = split_within(name.partition(".")[0])
    return found[0] if found else ""


def _shown(source: Any) -> Any:
    return (
        urls.redact(source)
        if isinstance(source, (str, os.PathLike))
        else [urls.redact(one) for one in source]
    )
