"""The file in which a runner leaves its metrics (``metric_file`` of its entry), as status lines.

It may be one JSON document, a list of records, JSON lines, one record each, or CSV with a head
(commas, semicolons or tabs), in UTF-8 or, with a mark of its byte order, UTF-16. A
record's ``epoch`` and ``step`` place it; its other numbers are metrics, nested ones by dotted
names. A metric that stands nested is found by its last word too, where only one number has it.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mae_skill.dotted import flatten
from mae_skill.errors import MaeError
from mae_skill.spelling import and_more

from mae_sdk.files import read_small_bytes
from mae_sdk.jobs.status import (
    RUNNING,
    count_of,
    is_count,
    is_number,
    json_of_runner,
    numbers,
)

MAX_BYTES = 1 << 28
MAX_NAMED = 8

_STEPS = ("step", "global_step", "iteration", "iter")
_PLACES = frozenset({"epoch", "max_epoch", "max_step", *_STEPS})
_NOT_ITS_OWN = frozenset({"automl", "inputs", "ptm"})
"""Folders of a job that hold what its runner did not write."""


_LIKE_A_NUMBER = re.compile(
    r"[+-]?\d+(?:,\d+)+(?:\.\d+)?(?:[eE][+-]?\d+)?|[+-]?\d+(?:[.,]\d+)?\s*%"
)
"""Decimal commas, thousands with commas and shares in percent: which is meant is not known."""


def paths(job_dir: Path, name: str) -> list[Path]:
    """The files of a job that are this one: those of its path, else all of its name. A link that
    leads out of the job's folder is none of its files."""
    top = job_dir.resolve()
    there = [
        path
        for path in job_dir.glob(f"**/{PurePosixPath(name).name}")
        if path.is_file() and path.resolve().is_relative_to(top)
    ]
    names = matching([path.relative_to(job_dir).as_posix() for path in there], name)
    return [job_dir / one for one in names]


def leads_out(job_dir: Path, name: str) -> bool:
    """Whether a file of this name is there only as a link that leads out of the job's folder."""
    links = [path for path in job_dir.glob(f"**/{PurePosixPath(name).name}") if path.is_symlink()]
    return bool(links) and not paths(job_dir, name)


def matching(names: Iterable[str], name: str) -> list[str]:
    """Of the files of a job, as paths below its folder, those that are this one: those of its path,
    else all of its name."""
    wanted = PurePosixPath(name)
    found = [
        one
        for one in sorted(names)
        if PurePosixPath(one).name == wanted.name
        and PurePosixPath(one).parts[0] not in _NOT_ITS_OWN
    ]
    parts = [part for part in wanted.parts if part not in ("/", ".", "..")]
    return [one for one in found if list(PurePosixPath(one).parts[-len(parts) :]) == parts] or found


def lines(job_dir: Path, name: str, metrics: Iterable[str] = ()) -> list[dict[str, Any]]:
    """What the file says as status lines; none where it cannot be read.

    Args:
        metrics: the names that are looked for.
    """
    wanted, found = list(metrics), []
    for path in paths(job_dir, name):
        with contextlib.suppress(OSError):
            found += parsed(_decoded(read_small_bytes(path, MAX_BYTES)), wanted)
    return found


def lines_from(
    names: Iterable[str], read: Callable[[str], bytes], name: str, metrics: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """As `lines`, of a job whose files have these names in its folder, wherever that is."""
    wanted = list(metrics)
    return [line for one in matching(names, name) for line in parsed(_decoded(read(one)), wanted)]


def parsed(text: str, metrics: Iterable[str] = ()) -> list[dict[str, Any]]:
    """As `lines`, of the text of one such file."""
    wanted, found = list(metrics), []
    with contextlib.suppress(ValueError):
        found = [_line(one, wanted) for one in _placed(_records(text))]
    return [line for line in found if line.get("kpi")]


def looked(job_dir: Path, name: str) -> str:
    """What is there of the file, in words: for a metric that was not found."""
    there = paths(job_dir, name)
    if not there:
        return f"there is no file {name} below {job_dir.name}"
    said = []
    for path in there:
        shown = path.relative_to(job_dir)
        try:
            records = list(_records(_decoded(read_small_bytes(path, MAX_BYTES))))
        except (OSError, ValueError) as error:
            reason = f" ({error})" if isinstance(error, _UnreadError) else ""
            said.append(f"{shown} cannot be read{reason}: expected JSON, JSON lines or CSV")
            continue
        names = list(dict.fromkeys(key for one in records for key in _line(one, [])["kpi"]))
        odd = _no_numbers(records)
        said.append(
            f"{shown} has {and_more(names, MAX_NAMED) or 'no numbers'}"
            + (f", and values that are no numbers: {odd}" if odd else "")
        )
    return "; ".join(said)


def unread(names: Iterable[str], read: Callable[[str], bytes], name: str) -> list[str]:
    """A sentence for each such file of a job with values that look like numbers and are none, or
    that is a table whose lines do not fit its head.

    Args:
        names: the files of the job, as paths below its folder.
    """
    said = []
    for one in matching(names, name):
        try:
            records = list(_records(_decoded(read(one))))
        except _UnreadError as error:
            said.append(f"{one} cannot be read: {error}")
            continue
        except (MaeError, OSError, ValueError):
            continue
        if odd := _no_numbers(records):
            said.append(f"{one} has values that are no numbers, and are not read: {odd}")
        said += _unplaced(one, _placed(records))
    return said


def _unplaced(name: str, records: list[dict[str, Any]]) -> list[str]:
    """A sentence where records name an epoch that is none, and no step either."""
    odd = [
        record["epoch"]
        for record in records
        if record.get("epoch") not in (None, "")
        and not any(is_count(record.get(key)) for key in ("epoch", *_STEPS))
    ]
    if not odd:
        return []
    text = f"{name} has epochs that are no whole numbers ({odd[0]!r}): expected 0, 1, 2 …; these "
    return [text + "records belong to no epoch, and which is best cannot be told by them"]


def _no_numbers(records: Iterable[Mapping[str, Any]]) -> str:
    """The fields whose values look like numbers and are none, each with its first one; empty where
    there are none."""
    odd: dict[str, str] = {}
    for record in records:
        for key, value in flatten(record).items():
            if isinstance(value, str) and _LIKE_A_NUMBER.fullmatch(value.strip()):
                odd.setdefault(key, value.strip())
    shown = ", ".join(f"{key} {value!r}" for key, value in list(odd.items())[:MAX_NAMED])
    if any("," in value for value in odd.values()):
        shown += " (is the comma a decimal point? write 0.5)"
    return shown


class _UnreadError(ValueError):
    """A file is none of the forms; its text says why."""


def _decoded(content: bytes) -> str:
    """The text of a file: UTF-8, or UTF-16 where its mark says so."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="replace")


def _records(text: str) -> Iterator[Mapping[str, Any]]:
    """The records of a file.

    Raises:
        ValueError: it is none of the forms.
    """
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise _UnreadError("it is empty")
    try:
        document = json_of_runner(text)
    except ValueError:
        document = list(_json_lines(text))
        if not document:
            if text.lstrip().startswith(("{", "[")):
                raise _UnreadError("its JSON is broken") from None
            document = _table(text)
    for one in _rows(document):
        if isinstance(one, Mapping):
            yield one


def _rows(document: Any) -> list[Any]:
    """The records of a document: those of a list, by itself or as the only list of a mapping, and
    those of columns (Keras writes its history so)."""
    if not isinstance(document, Mapping):
        return document if isinstance(document, list) else [document]
    lists = [value for value in document.values() if isinstance(value, list)]
    if len(lists) == 1 and lists[0] and all(isinstance(one, Mapping) for one in lists[0]):
        return lists[0]
    of_numbers = {
        key: value
        for key, value in document.items()
        if isinstance(value, list) and value and all(is_number(one) for one in value)
    }
    has_own = any(is_number(value) for value in document.values())
    if has_own or len({len(value) for value in of_numbers.values()}) != 1:
        return [document]
    if not {"epoch", *_STEPS} & set(of_numbers):
        of_numbers["epoch"] = list(range(len(next(iter(of_numbers.values())))))
    return [
        dict(zip(of_numbers, row, strict=True)) for row in zip(*of_numbers.values(), strict=True)
    ]


def _json_lines(text: str) -> Iterator[Mapping[str, Any]]:
    """The records of whole lines; one that is being written is left out."""
    for raw in text.splitlines():
        with contextlib.suppress(ValueError):
            if isinstance(line := json_of_runner(raw), Mapping):
                yield line


def _table(text: str) -> list[dict[str, Any]]:
    head = text.lstrip("\r\n").partition("\n")[0]
    mark = max(",;\t", key=head.count)  # the first of them, where the head has one column
    reader = csv.DictReader(io.StringIO(text), delimiter=mark, skipinitialspace=True)
    rows = []
    try:
        for row in reader:
            if any(str(one).strip() for one in row.get(None) or ()):
                raise _UnreadError(
                    f"line {reader.line_num} has more values than its head has names "
                    f"(a decimal comma among values with {mark!r} between them?)"
                )
            rows.append({str(key).strip(): row[key] for key in row if key is not None})
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if rows and not any(numbers(row) for row in rows) and (odd := _no_numbers(rows)):
        raise _UnreadError(f"its values are no numbers: {odd}")
    if not rows or not any(numbers(row) for row in rows):
        raise ValueError("no table")
    return rows


def _placed(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records with whole numbers for their epochs and steps: of texts, of names in other case
    (``Epoch``), and of the floats that tables make of them, if no record counts steps. (An epoch
    beside a step may be a share: 0.5, 1.0, 1.5.)
    """
    named = [
        {_place_name(key, record): value for key, value in record.items()} for record in records
    ]
    has_steps = any(record.get(key) is not None for record in named for key in _STEPS)
    for record in named:
        for key in _PLACES & record.keys():
            value = record[key]
            count = value if is_count(value) else count_of(value)
            if count is None and not has_steps:
                count = _whole(value)
            record[key] = value if count is None else count
    return named


def _place_name(key: str, record: Mapping[str, Any]) -> str:
    plain = str(key).strip().lower()
    return plain if plain in _PLACES and plain not in record else key


def _whole(value: Any) -> int | None:
    """``3.0``, as a number or a text, as 3."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        number = float(value)
        if not isinstance(value, bool) and number.is_integer() and 0 <= number < 1e15:
            return int(number)
    return None


def _line(record: Mapping[str, Any], metrics: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"status": RUNNING}
    step = next((record[key] for key in _STEPS if is_count(record.get(key))), None)
    if step is not None:
        found["step"] = step
    counted = ("epoch", "max_epoch", "max_step")
    found |= {key: record[key] for key in counted if is_count(record.get(key))}
    kpi = numbers({key: value for key, value in record.items() if key not in _PLACES})
    for name in metrics:
        ends = [key for key in kpi if key.endswith(f".{name}")]
        if name not in kpi and len(ends) == 1:
            kpi[name] = kpi[ends[0]]
    return {**found, "kpi": kpi}
