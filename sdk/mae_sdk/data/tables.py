"""Pictures inside tables: Parquet, and the Arrow files of a Hugging Face data set on disk.

A row becomes two files of the cache: its picture, and its class as a ``.cls`` beside it, so that a
table is read as a shard is (`mae_sdk.data.shards`). Of the column of pictures and that of classes
the description counts that `datasets` leaves in the file; without one the kinds and names of the
columns.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mae_skill.errors import DataError, DependencyError, MaeError
from mae_skill.spelling import spelled

from mae_sdk.data.member import Member
from mae_sdk.data.names import ends_as_image, suffix_of
from mae_sdk.data.parts import split_of
from mae_sdk.data.shards import FIELDS
from mae_sdk.storage import urls

ROWS = 64
"""Rows that are held at once."""

PICTURES = ("image", "img", "picture", "photo", "jpg", "png", "image_bytes", "bytes", "content")
CLASSES = (*FIELDS, "fine_label", "labels")
SPLIT = ("split", "subset", "partition")
"""Names of a column that says of which part of a data set a row is."""
MAY_BE_CLASS = re.compile(
    r"(\w+[_ ])?(label|class|category|target)s?([_ ](name|id|text|index|idx)s?)?|class_?names?",
    re.IGNORECASE,
)
"""Names of columns that may hold classes."""

_MAGIC = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"\x93NUMPY", ".npy"),
)


def arrow(what: str) -> Any:
    """The package pyarrow, with its module for Parquet.

    Args:
        what: what needs it, for the error.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            f"{what} needs pyarrow",
            expected="the extra parquet",
            hint="pip install 'mae-skill[parquet]'",
        ) from error
    return pyarrow


def members(raw: Any, where: str) -> Iterator[Member]:
    """The pictures of a table, row after row, each followed by its class where it has one.

    Args:
        raw: the table, a seekable file.
        where: its redacted name, for errors.

    Raises:
        DataError: it is no table, has no column of pictures, or several, or its rows are of several
            parts of a data set.
        DependencyError: pyarrow is missing.
    """
    lib = arrow(f"{where}: a table of pictures")
    number = 0
    with _as_data_error(lib, where):
        schema, batches = _opened(lib, raw)
        features = _features(schema)
        pictures = _picture_column(lib, schema, features, where)
        classes = _class_column(schema, features, where)
        names = list((features.get(str(classes)) or {}).get("names") or ())
        part = next((name for name in schema.names if name.strip().lower() in SPLIT), None)
        parts: dict[str, str] = {}
        wanted = dict.fromkeys(name for name in (pictures, classes, part) if name)
        unread = () if classes else _unread(lib, schema, wanted)
        others = [name for name in _unread(lib, schema, wanted) if MAY_BE_CLASS.fullmatch(name)]
        named = (classes, *others) if classes and others else ()
        for batch in batches(list(wanted)):
            rows = batch.column(pictures).to_pylist()
            if part is not None:
                _one_part(batch.column(part).to_pylist(), parts, part, where)
            labels = batch.column(classes).to_pylist() if classes else [None] * len(rows)
            for row, label in zip(rows, labels, strict=True):
                data, path = _picture(row, number, pictures, where)
                key = f"{number:08d}"
                name = key + _suffix(data, path)
                unread, named = ((), ()) if number else (unread, named)
                yield Member(name, len(data), iter((data,)), unread=unread, class_columns=named)
                text = _class(label, names).encode()
                if text:
                    yield Member(f"{key}.cls", len(text), iter((text,)))
                number += 1


def _one_part(said: Sequence[Any], parts: dict[str, str], column: str, where: str) -> None:
    """Refuse rows of another part of a data set than those before.

    Args:
        parts: part → how the column calls it, of the rows so far; this batch is added.
    """
    for value in dict.fromkeys(value for value in said if isinstance(value, str)):
        if kind := split_of(value):
            parts.setdefault(kind, value)
    if len(parts) > 1:
        first = next(iter(parts.values()))
        raise DataError(
            f"the rows of {where} are of several parts of a data set",
            got=f"{column}: {', '.join(parts.values())}",
            expected="a table of one part",
            hint=f"write each to its own: in pandas, table[table.{column} == {first!r}]"
            f".to_parquet({first + '.parquet'!r})",
        )


@contextlib.contextmanager
def _as_data_error(lib: Any, where: str) -> Iterator[None]:
    try:
        yield
    except MaeError:
        raise
    except (lib.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{where} cannot be read as a table: {str(error)[:160]}",
            got=where,
            expected="Parquet, or Arrow as `datasets` saves it",
        ) from error


def _opened(lib: Any, raw: Any) -> tuple[Any, Any]:
    """The schema of a table, and a function that gives batches of some columns."""
    head = raw.read(6)
    raw.seek(0)
    if head[:4] == b"PAR1":
        file = lib.parquet.ParquetFile(raw)
        return file.schema_arrow, lambda columns: file.iter_batches(ROWS, columns=columns)
    if head == b"ARROW1":
        whole = lib.ipc.open_file(raw)
        found = (whole.get_batch(i) for i in range(whole.num_record_batches))
        return whole.schema, lambda columns: _cut(found)
    stream = lib.ipc.open_stream(raw)
    return stream.schema, lambda columns: _cut(stream)


def _cut(batches: Any) -> Iterator[Any]:
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            yield batch.slice(start, ROWS)


def _features(schema: Any) -> Mapping[str, Any]:
    """What `datasets` says of each column; empty where it says nothing."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        found = said["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: one for name, one in found.items() if isinstance(one, dict)}


def _picture_column(lib: Any, schema: Any, features: Mapping[str, Any], where: str) -> str:
    said = [name for name, one in features.items() if one.get("_type") == "Image"]
    kinds = {field.name: field.type for field in schema}
    found = [name for name in said if name in kinds] or [
        name for name, kind in kinds.items() if _holds_pictures(lib, kind)
    ]
    named = [name for name in PICTURES if name in found]
    if len(found) == 1 or named:
        return named[0] if named else found[0]
    raise DataError(
        f"{where} has {'several columns' if found else 'no column'} of pictures",
        got=[f"{name}: {kind}" for name, kind in kinds.items()][:20],
        expected=f"one column of bytes, or of {{bytes, path}}, such as {PICTURES[0]}",
        hint=None
        if found
        else "a table of paths and labels is dataset.labels.train, beside the "
        "source of the pictures",
    )


def _holds_pictures(lib: Any, kind: Any) -> bool:
    types = lib.types
    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _class_column(schema: Any, features: Mapping[str, Any], where: str) -> str | None:
    columns = list(schema.names)
    said = [
        name
        for name, one in features.items()
        if one.get("_type") == "ClassLabel" and name in columns
    ]
    named = [name for name in CLASSES if name in (said or columns)]
    if named:
        return named[0]
    if len(said) > 1:
        raise DataError(
            f"{where} has several columns of classes",
            got=said,
            expected=f"one of them called {CLASSES[0]}",
        )
    return said[0] if said else None


def _unread(lib: Any, schema: Any, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of texts and whole numbers that are not read: one of them may be the class."""
    types = lib.types
    kinds = ("string", "large_string", "integer", "boolean", "dictionary")
    return tuple(
        field.name
        for field in schema
        if field.name not in wanted
        and any(getattr(types, f"is_{kind}")(field.type) for kind in kinds)
    )


def _picture(row: Any, number: int, column: str, where: str) -> tuple[bytes, str]:
    """The bytes and the path of a picture; a row without one is an empty, unreadable file."""
    path = str((row.get("path") or "") if isinstance(row, Mapping) else "")
    data = row.get("bytes") if isinstance(row, Mapping) else row
    if data is None and path:
        raise DataError(
            f"row {number} of {where} names a picture and does not hold it",
            got=spelled(path),
            expected=f"bytes in the column {column}",
            hint="name the folder of the pictures as the source, and this table in "
            "dataset.labels.train",
        )
    return bytes(data or b""), path


def _suffix(data: bytes, path: str) -> str:
    if ends_as_image(path):
        return suffix_of(path) or ".jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[128:132] == b"DICM":
        return ".dcm"
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), ".jpg")


def _class(label: Any, names: Sequence[str]) -> str:
    """The class that a value of the column stands for; empty where it is none."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, int) and not isinstance(label, bool) and names:
        return str(names[label]) if 0 <= label < len(names) else ""
    return str(label).strip() if isinstance(label, (str, int)) else ""


def tables_of(uri: str, names: Sequence[str]) -> list[str]:
    """The tables of a folder or prefix without pictures, as sources; none where there are none.

    Args:
        uri: the folder.
        names: relative paths of all files in it.

    Raises:
        DataError: they are several parts of a data set.
    """
    found = sorted(name for name in names if urls.is_table(name) and not _is_scratch(name))
    parts: dict[str, list[str]] = {}
    for name in found:
        parts.setdefault(_part(name), []).append(name)
    if len(parts) > 1:
        first = min(parts)
        name = parts[first][0]
        folder, _, last = name.rpartition("/")
        one = f"{folder}/{first}-*" if folder and last.startswith(first) else f"{first}-*"
        one = one if last.startswith(first) else folder
        raise DataError(
            f"{urls.redact(uri)} holds several parts of a data set",
            got=sorted(parts),
            expected="one of them",
            hint=f"name the one you mean: {urls.redact(urls.join(uri, one))}",
        )
    return [urls.join(uri, name) for name in found]


def _is_scratch(name: str) -> bool:
    """Whether a file is one that `datasets` computes again when it is gone."""
    return name.rpartition("/")[2].startswith(("cache-", "tmp", ".", "_"))


def _part(name: str) -> str:
    """The part of a data set that a table belongs to, by its name or folders; empty: none."""
    folders, _, last = name.rpartition("/")
    for text in (last.partition("-")[0].partition(".")[0], *reversed(folders.split("/"))):
        if text and split_of(text):
            return text
    return ""
