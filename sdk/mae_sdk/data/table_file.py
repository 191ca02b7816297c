"""The rows of a file that is a table: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_skill.errors import DataError

from mae_sdk.data.tables import arrow
from mae_sdk.storage import urls

PATH = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
KEYS = ("image_id", "img_id", "image_name", "img_name", "img", "picture", "photo", "id", "name")
"""Names of a column that tells a picture where no column of `PATH` is there."""
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

Rows = tuple[list[str], list[Mapping[str, Any]]]
"""Columns and rows."""


def read_rows(file: str, where: str) -> Rows:
    """Columns and rows of a table.

    Args:
        file: a path or URL.
        where: how it is called in errors.

    Raises:
        DataError: it is no table, or has values that no column takes.
        StorageError: it could not be fetched.
    """
    suffix = Path(file.partition("?")[0]).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            "not a table of labels",
            got=where,
            expected=f"a file ending in {' '.join(SUFFIXES)}",
            hint="name the table itself, or save it as CSV with the columns path and label",
        )
    data = _bytes(file, where)
    if data[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(
            f"{where} is no table",
            got="a web page",
            expected="a table in the format that its name says",
            hint="it is a web page, such as a log-in or an error: fetch the table itself",
        )
    try:
        if suffix == ".parquet":
            return _parquet(data)
        text = data.decode("utf-8-sig")
        if suffix in (".jsonl", ".ndjson"):
            return _json_lines(text)
        return _separated(text, "\t" if suffix == ".tsv" else ",")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} cannot be read: {error}",
            got=where,
            expected="a table in UTF-8",
            hint="spreadsheets call it CSV UTF-8; or: iconv -f ENCODING -t UTF-8 TABLE",
        ) from error
    except (ValueError, csv.Error) as error:
        lines = "an object of JSON on each line"
        kinds = {".jsonl": lines, ".ndjson": lines, ".parquet": "a Parquet file"}
        raise DataError(
            f"{where} cannot be read: {error}",
            got=where,
            expected=kinds.get(suffix, "a line of column names, and a row for each picture"),
            hint="save the table again in the format that its name says",
        ) from error


def _json_lines(text: str) -> Rows:
    lines = enumerate(text.splitlines(), 1)
    rows: list[Mapping[str, Any]] = [_object(line, n) for n, line in lines if line.strip()]
    return list(dict.fromkeys(key for row in rows for key in row)), rows


def _object(line: str, number: int) -> dict[str, Any]:
    """A line of JSON.

    Raises:
        ValueError: it is no object, or has a key twice, of which one value would be lost.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = max(found, key=[key for key, _ in pairs].count)
            raise ValueError(f"the key {twice} is there more than once")
        return found

    try:
        found = json.loads(line, object_pairs_hook=once)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"line {number} is no object")
    return found


def _separated(text: str, usual: str) -> Rows:
    """Columns and rows of a text whose values are separated by one sign.

    Raises:
        ValueError: a line has more values than there are columns.
    """
    text = _without_comments(text)
    sign = _delimiter(text, usual)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
    lines = _lines(reader)
    columns = next(filter(None, lines), [])
    rows: list[Mapping[str, Any]] = []
    for values in filter(None, lines):
        if any(more := values[len(columns) :]):
            raise ValueError(
                f"line {reader.line_num} has more values than there are columns: "
                f"{', '.join(map(repr, more[:3]))}; a value that holds the separator {sign!r} "
                "belongs in quotes"
            )
        rows.append(dict(zip(columns, values, strict=False)))
    return columns, rows


def _without_comments(text: str) -> str:
    """A text whose first lines, where they begin with #, are empty: lines keep their number. Where
    the last of these names a column of paths, it is the line of column names."""
    lines = text.splitlines(keepends=True)
    top = next((i for i, line in enumerate(lines) if not _is_comment(line)), len(lines))
    if not any(line.strip() for line in lines[:top]):
        return text
    last = max(i for i, line in enumerate(lines[:top]) if line.strip())
    names = re.split(r"[,\t;|]", lines[last].strip().lstrip("#"))
    kept = lines[last].lstrip().lstrip("#").lstrip() if _names_path(names) else "\n"
    return "".join(["\n"] * last + [kept] + ["\n"] * (top - last - 1) + lines[top:])


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _names_path(names: Sequence[str]) -> bool:
    """Whether several column names have one of paths among them."""
    return len(names) > 1 and any(name.strip().lower() in (*PATH, *KEYS) for name in names)


def _lines(reader: Any) -> Iterator[list[str]]:
    """The values of each line.

    Raises:
        ValueError: a line is none; it is named, and of a quote that nothing closes the line that
            opens it.
    """
    begin = reader.line_num + 1
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                raise ValueError(f"line {begin} opens a quote that nothing closes") from error
            raise ValueError(f"line {reader.line_num}: {error}") from error
        yield values
        begin = reader.line_num + 1


def _delimiter(text: str, usual: str) -> str:
    """What separates the columns: the usual sign of the suffix, or another, with which the first
    line names a column of paths."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    signs: list[str] = [usual, *",\t;|"]
    for sign in signs:
        names = next(csv.reader([header], delimiter=sign), [])
        if _names_path(names):
            return sign
    return max(signs, key=header.count)


def _bytes(file: str, where: str) -> bytes:
    if urls.is_remote(file):
        from mae_skill.errors import NotFoundError

        from mae_sdk.storage import transfer
        from mae_sdk.storage.faults import as_data_error

        try:
            return transfer.read_bytes(file)
        except NotFoundError as error:
            raise as_data_error(error, where) from error
    try:
        return urls.local_path(file).read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the table of labels: {error.strerror}",
            got=where,
            expected="a file that can be read",
            hint="check the path and its rights: a relative one begins where the command runs",
        ) from error


def _parquet(data: bytes) -> Rows:
    lib = arrow("a table of labels in Parquet")
    table = lib.parquet.read_table(lib.BufferReader(data))
    return list(table.column_names), table.to_pylist()
