"""``status.json``: progress as JSON lines, appended as a whole line at a time.

Each line holds ``date, time, status, verbosity, message`` and, where they apply, ``kpi`` and on
epoch lines ``epoch, step, max_epoch, max_step, time_per_epoch, time_per_step, eta,
peak_memory_mb``. A number that
is not finite is written as null.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from mae_sdk import files
from mae_sdk.files import read_small
from mae_sdk.jobs.secrets import known, redact, redact_tree

_MAX_BYTES = 1 << 30

STARTED, RUNNING, SUCCESS, FAILURE, SKIPPED = "STARTED", "RUNNING", "SUCCESS", "FAILURE", "SKIPPED"

_FAILED = frozenset({FAILURE, "FAILED", "FAIL", "ERROR"})
"""What runners of other makes call a failure, in any case."""


DONE = "epochs_done"
"""In the progress of a job of another bundle: the epochs that are done; null: not known."""

_COUNTS = ("epoch", "step", "max_epoch", "max_step")
_TIMES = ("time_per_epoch", "time_per_step", "eta")
_SPAN = re.compile(r"(?:(\d+) days?, ?)?(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
"""A span of time as Python writes it, and TAO with it: ``1 day, 2:03:04``."""


def finite(value: Any) -> Any:
    """`value` as JSON types: a number that is not finite becomes None, an unknown type its text."""
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    try:  # numpy scalars and zero-dimensional tensors
        return finite(value.item())
    except (AttributeError, ValueError, RuntimeError, TypeError):
        return str(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    try:
        is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_real and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is the number of an epoch or step."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def count_of(text: Any) -> int | None:
    """The number of an epoch or step in a text, as some runners write it."""
    is_number = isinstance(text, str) and len(text) < 20 and text.strip().isdecimal()
    return int(text) if is_number else None


def seconds_of(value: Any) -> float | None:
    """A span of time in seconds: of a number of them, or of a text such as ``0:01:30``; None of
    anything else."""
    if is_number(value):
        return value if value >= 0 else None
    found = _SPAN.fullmatch(value.strip()) if isinstance(value, str) and len(value) < 50 else None
    if found is None:
        return None
    days, hours, minutes = (int(part or 0) for part in found.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(found[4])


def counted(line: Mapping[str, Any]) -> tuple[int | None, int | None, str]:
    """What a status line says is done, of how many, and the unit: ``epoch``, else ``step``; None
    where it says nothing of it."""
    epoch, step = line.get("epoch"), line.get("step")
    unit = "step" if is_count(step) and not is_count(epoch) else "epoch"
    total = line.get(f"max_{unit}")
    total = total if is_count(total) and total else None
    done = epoch + 1 if is_count(epoch) else step if is_count(step) else None
    if DONE in line and is_count(epoch):
        done = epoch if line[DONE] is None else line[DONE]  # rather one behind than one ahead
    if done is not None and total and unit == "epoch":
        done = min(done, total)  # a runner of another make may count from 1
    return done, total, unit


def epochs_done(lines: Iterable[Mapping[str, Any]]) -> int | None:
    """How many epochs the status lines of a runner of another make say are done; None where they do
    not tell whether it counts from 0 or from 1, or name no epoch.

    It counts from 1 where an epoch is as high as all that there are, or where the first two of its
    epochs are 1 and 2; from 0 where it named an epoch 0.
    """
    places: list[tuple[int, Any]] = [
        (line["epoch"], line.get("max_epoch")) for line in lines if is_count(line.get("epoch"))
    ]
    if not places:
        return None
    last, named = places[-1][0], {epoch for epoch, _ in places}
    if any(is_count(most) and 0 < most <= epoch for epoch, most in places):
        return min(last, places[-1][1] or last)
    if 0 in named:
        return last + 1
    return last if {1, 2} <= named else None


class StatusWriter:
    """Appends to a status file. One `write` call per line: concurrent readers see whole lines.

    Args:
        path: the ``status.json`` of the job; its folder is created. None writes nowhere (for ranks
            above 0).
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def started(self, message: str, **fields: Any) -> None:
        self._write(STARTED, message, "INFO", fields)

    def running(self, message: str, **fields: Any) -> None:
        """Progress; `fields` are the documented epoch fields and ``kpi``."""
        self._write(RUNNING, message, "INFO", fields)

    def success(self, message: str, kpi: dict[str, Any] | None = None, **fields: Any) -> None:
        self._write(SUCCESS, message, "INFO", {**fields, **({"kpi": kpi} if kpi else {})})

    def skipped(self, message: str, **fields: Any) -> None:
        self._write(SKIPPED, message, "WARNING", fields)

    def failure(self, message: str, error: dict[str, Any] | None = None, **fields: Any) -> None:
        self._write(FAILURE, message, "ERROR", {**fields, **({"error": error} if error else {})})

    def _write(self, status: str, message: str, verbosity: str, fields: dict[str, Any]) -> None:
        if self.path is None:
            return
        now = datetime.now(timezone.utc)
        line = {
            "date": now.strftime("%m/%d/%Y"),
            "time": now.strftime("%H:%M:%S"),
            "status": status,
            "verbosity": verbosity,
            "message": redact(message, known()),
        }
        if "error" in fields:
            fields = {**fields, "error": redact_tree(fields["error"], known())}
        text = json.dumps({**line, **finite(fields)}, allow_nan=False) + "\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if (
                size and files.pread(descriptor, 1, size - 1) != b"\n"
            ):  # a writer died in the middle of a line: close it off
                text = "\n" + text
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def is_failure(line: Mapping[str, Any]) -> bool:
    """Whether a status line says that the run failed."""
    return str(line.get("status")).strip().upper() in _FAILED


def json_of_runner(text: str) -> Any:
    """JSON as runners of any make write it: NaN and infinity, which Python writes, are null.

    Raises:
        ValueError: it is not JSON, or is nested too deeply to be read.
    """
    try:
        return finite(json.loads(text))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_status(text: str) -> list[dict[str, Any]]:
    """The records of a status file, oldest first: of whole lines, or, where none is one, of
    documents and lists over several lines. Torn ones are left out.

    What a runner wrote as text is read as the number that it is: an epoch, a step, a metric, and a
    span of time (``0:01:30``) in seconds. A ``kpi`` that is no mapping, and a time that is none,
    are left out of their record.
    """
    return [_well_formed(line) for line in _records(text)]


def _records(text: str) -> list[dict[str, Any]]:
    """The records of a status file as they are written."""
    lines = []
    for raw in text.splitlines():
        try:
            line = json_of_runner(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    # Of a document over several lines, no line but an inner one is a record: it has no status.
    if not any("status" in line for line in lines) and text.strip():
        lines = _documents(text) or lines
    return lines


def _well_formed(line: dict[str, Any]) -> dict[str, Any]:
    """A record in which the fields of others' makes are of the types that ours have."""
    read: dict[str, Any] = {key: seconds_of(line[key]) for key in _TIMES if key in line}
    wrong = {key for key, value in read.items() if value is None}
    read |= {key: one for key in _COUNTS if (one := count_of(line.get(key))) is not None}
    kpi = line.get("kpi", {})
    if not isinstance(kpi, dict):
        wrong.add("kpi")
    elif kpi:
        texts = {key: value for key, value in kpi.items() if isinstance(value, str)}
        read["kpi"] = kpi | numbers(texts)
    return {key: read.get(key, value) for key, value in line.items() if key not in wrong}


def _documents(text: str) -> list[dict[str, Any]]:
    """The records of JSON documents, and of lists of records, one after another."""
    found: list[dict[str, Any]] = []
    reader, end = json.JSONDecoder(), 0
    for start in re.finditer(r"^\ufeff?\s*(?=[\[{])", text, re.MULTILINE):
        at = start.end()
        if at < end:  # inside the document before
            continue
        try:
            document, end = reader.raw_decode(text, at)
        except ValueError:
            continue
        except RecursionError:  # every further bracket would be as deep
            break
        listed = document if isinstance(document, list) else [document]
        found += [finite(one) for one in listed if isinstance(one, dict)]
    return found


def read_status(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a status file, oldest first, without torn ones; none of a file that cannot be
    read."""
    try:
        return parse_status(read_small(Path(path), _MAX_BYTES))
    except OSError:
        return []


_NOT_STATUS = frozenset({"automl", "inputs", "ptm"})


def status_files(job_dir: Path) -> list[Path]:
    """The status files of a job: its own, and those that a runner keeps in folders of results, as
    TAO's does (``<results_dir>/train/status.json``).
    """
    nested = [path for path in job_dir.glob("*/status.json") if path.parent.name not in _NOT_STATUS]
    return [job_dir / "status.json", *sorted(nested)]


def lines_of(job_dir: Path) -> list[dict[str, Any]]:
    """Every status line of a job whose folder is here, oldest first."""
    own, *others = status_files(job_dir)
    nested = [line for path in others for line in read_status(path)]
    return together(read_status(own), nested)


def is_status_file(name: str) -> bool:
    """Whether a file of a job's folder is one of its status files."""
    *folders, last = PurePosixPath(name).parts
    return last == "status.json" and len(folders) < 2 and not _NOT_STATUS.intersection(folders)


def lines_from(names: Iterable[str], read: Callable[[str], str]) -> list[dict[str, Any]]:
    """Every status line of a job whose files have these names in its folder, wherever that is."""
    nested = [
        line
        for name in sorted(names)
        if is_status_file(name) and name != "status.json"
        for line in parse_status(read(name))
    ]
    return together(parse_status(read("status.json")) if "status.json" in names else [], nested)


def together(own: list[dict[str, Any]], nested: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A job's own lines and those of a runner that keeps its own file: the runner's come last,
    except that the end of a job is its supervisor's to say.
    """
    if not nested:
        return own
    end = own[-1:] if own and own[-1].get("status") == FAILURE else []
    return [*own[: len(own) - len(end)], *map(_as_ours, nested), *end]


def in_order(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of each attempt by epoch, and those of one epoch by step: a runner of several
    processes may write them in another order. What names neither stays where it is.
    """
    starts = [
        at
        for at, line in enumerate(lines)
        if "attempt" in line or str(line.get("status")).upper() == STARTED
    ]
    edges = [0, *starts, len(lines)]
    parts = (lines[start:end] for start, end in pairwise(edges))
    return [line for part in parts for line in _by_place(part)]


def _by_place(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with_epoch = [at for at, line in enumerate(lines) if is_count(line.get("epoch"))]
    _sort_at(lines, with_epoch, "epoch")
    of_epochs: dict[Any, list[int]] = {}
    for at, line in enumerate(lines):
        if is_count(line.get("step")):
            of_epochs.setdefault(line.get("epoch"), []).append(at)
    for places in of_epochs.values():
        _sort_at(lines, places, "step")
    return lines


def _sort_at(lines: list[dict[str, Any]], places: list[int], unit: str) -> None:
    """Sort the lines of these places among themselves."""
    ordered = sorted((lines[at] for at in places), key=lambda line: int(line[unit]))
    for at, line in zip(places, ordered, strict=True):
        lines[at] = line


def _as_ours(line: dict[str, Any]) -> dict[str, Any]:
    """A line of TAO's: its curves (``graphical``) are metrics beside its ``kpi``."""
    found = {**numbers(line.get("graphical")), **numbers(line.get("kpi"))}
    return {**line, "kpi": found} if found else line


def numbers(value: Any, prefix: str = "") -> dict[str, Any]:
    """The numbers inside a mapping, by dotted names; text that is a number is one."""
    found: dict[str, Any] = {}
    for name, item in value.items() if isinstance(value, Mapping) else ():
        key = f"{prefix}{name}"
        if isinstance(item, Mapping):
            found |= numbers(item, f"{key}.")
        elif isinstance(item, str):
            with contextlib.suppress(ValueError):
                found[key] = finite(float(item))
        elif item is None or (isinstance(item, (int, float)) and not isinstance(item, bool)):
            found[key] = item
    return found


Mark = tuple[int, int]
"""The size of a status file and the time of its last change."""


def marks(job_dir: Path) -> dict[str, Mark]:
    """The status files of a job as they are now, for `reported_failure`."""
    found: dict[str, Mark] = {}
    for path in status_files(job_dir):
        with contextlib.suppress(OSError):
            there = path.stat()
            found[str(path)] = (there.st_size, there.st_mtime_ns)
    return found


def reported_failure(job_dir: Path, since: Mapping[str, Mark]) -> str | None:
    """The message of a runner that ended a status file with a failure; None without one.

    Args:
        since: `marks` before the run: what is older does not count.
    """
    for path in status_files(job_dir):
        try:
            there = path.stat()
            text = read_small(path, _MAX_BYTES)
        except OSError:
            continue
        size, changed = since.get(str(path), (0, 0))
        if (there.st_size, there.st_mtime_ns) == (size, changed):
            continue
        # A runner that keeps one document writes it anew: what was added to it is no record.
        lines = parse_status(text.encode()[size:].decode(errors="replace")) or parse_status(text)
        if lines and is_failure(lines[-1]):
            word = str(lines[-1]["status"]).strip()
            return str(lines[-1].get("message") or f"the runner reported {word}")
    return None


def unreadable(names: Iterable[str], read: Callable[[str], str]) -> list[str]:
    """A sentence for each status file of a job that says something and has no record, and for what
    its records say that cannot be read.

    Args:
        names: the files of the job, as paths below its folder.
    """
    found: list[str] = []
    for name in sorted(names):
        text = read(name) if is_status_file(name) else ""
        if not text.strip():
            continue
        lines = _records(text)
        if not lines:
            said = "has no record that can be read: expected JSON lines, each with a status"
            found.append(f"{name} {said}")
        for key, kind, expected in (("kpi", dict, "a mapping of metrics"), ("status", str, "text")):
            said_there = [value for line in lines if (value := line.get(key)) is not None]
            wrong = [value for value in said_there if not isinstance(value, kind)]
            if wrong:
                records = "1 record" if len(wrong) == 1 else f"{len(wrong)} records"
                found.append(
                    f"{name}: the {key} of {records} is not used: {json.dumps(wrong[0])[:80]}; "
                    f"expected {expected}"
                )
    return found


def metrics_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest value of every kpi."""
    latest: dict[str, Any] = {}
    for line in lines:
        kpi = line.get("kpi")
        if isinstance(kpi, dict):
            latest.update(kpi)
    return latest
