"""``job.json``: what was asked and every attempt at it. Atomic, locked, states only forward.

The types below are the job folder's contract; ``docs/job_folder.md`` shows them as one page. The
state of a job is that of its last attempt, except that an attempt that ended PREEMPTED leaves the
job PENDING: it waits for its next attempt.
"""

from __future__ import annotations

import contextlib
import errno
import math
import time
import types
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import (
    Any,
    TypedDict,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from mae_skill.errors import DataError, NotFoundError, StorageError

from mae_sdk import files

_T = TypeVar("_T")

SCHEMA_VERSION = 1
"""Of the records in a job folder. It rises when an older reader would misread a record; a new
optional field does not need that. A record without a version was written before there was one, and
is version 1."""

PENDING, RUNNING, COMPLETE, ERROR, CANCELED, UNKNOWN = (
    "PENDING",
    "RUNNING",
    "COMPLETE",
    "ERROR",
    "CANCELED",
    "UNKNOWN",
)
PREEMPTED = "PREEMPTED"  # of an attempt only
AFTER_PREEMPTION = "after preemption"
"""The reason of an attempt that no person asked for."""

TERMINAL = frozenset({COMPLETE, ERROR, CANCELED})
_RANK = {PENDING: 0, RUNNING: 1, COMPLETE: 2, ERROR: 2, CANCELED: 2, PREEMPTED: 2}

RECORD_NAME = "job.json"
CANCEL_NAME = "cancel.request"
"""The request to cancel a job; it holds the reason, where a program asked."""
ON_REQUEST = "canceled on request"
HEARTBEAT_NAME = ".heartbeat"
ROOM_NAME = ".room"
"""Room on the disk that a supervisor keeps for the end of its job."""
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 90.0
HANDED_OVER = "handed over"
"""The claim of a copy that a job has left on the machine that submitted it."""


class ProcessIdentity(TypedDict):
    """A process that can be recognized later: a pid alone is reused."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_time: str | None


class Transition(TypedDict):
    """One change of an attempt's state."""

    state: str
    at: str
    reason: str


class Failure(TypedDict):
    """Why an attempt failed; see `mae_sdk.jobs.failure`."""

    category: str
    message: str
    lines: list[str]
    hint: str
    error: dict[str, Any] | None


class _AttemptFields(TypedDict):
    number: int
    state: str
    transitions: list[Transition]
    process: ProcessIdentity | None
    exit_code: int | None
    failure: Failure | None


class Attempt(_AttemptFields, total=False):
    """One run of the job's command, from PENDING to a terminal state."""

    handle: dict[str, Any]
    checkpoints: list[list[Any]]
    progress: list[list[int]]
    told_to_stop: bool
    anew: str


class Warm(TypedDict):
    """The warm runner from which the local platform may fork the job; see `mae_sdk.run.warm`."""

    command: list[str]
    folder: str


class Words(TypedDict, total=False):
    """The words of a command that follow the spec; see `mae_sdk.jobs.command_words`.

    ``command``: the words, with placeholders. ``keys``: short word → field. ``where``: the action's
    entry, for errors; ``line``: the key of the words, where it is not the entry's ``command``.
    ``options``, ``names``, ``flags``: of ``mode: args``, option → how it is written, option → the
    field whose value it has, and the options without a value. ``plain``: placeholders that may have
    only plain values, with the reason. ``leading``: those that begin a word, where a value with a
    hyphen would be an option. ``texts``: option → its text, in which the bundle names
    fields. ``fields``: the placeholders in these that are fields. ``given``: the flags that are no
    fields, which are always given.
    """

    command: list[str]
    keys: dict[str, str]
    where: str
    line: str
    options: dict[str, str]
    names: dict[str, str]
    flags: dict[str, str]
    plain: dict[str, str]
    leading: list[str]
    texts: dict[str, str]
    fields: list[str]
    given: list[str]


class _LaunchFields(TypedDict):
    command: list[str]
    result: str | None


class Launch(_LaunchFields, total=False):
    """How the supervisor starts the ranks of a job.

    ``config``: the file that the runner reads, where it is not spec.yaml. ``metric_file``: the
    file of the runner that holds its metrics. ``best``: the ``metric`` that its bundle, or its
    study, judges it by, and the ``direction``. ``spawns``: the runner is one process that starts
    its own workers, and is told of no ranks. ``folders``: of the files that it is to
    write, which it finds there. ``outputs``: field → the file below the job's folder that its
    bundle says it writes. ``words``: the command before the values of the spec
    are in it, where it follows the spec.
    """

    config: str
    words: Words
    metric_file: str
    best: dict[str, str]
    spawns: bool
    folders: list[str]
    outputs: dict[str, str]
    cwd: str
    grace_seconds: float
    processes: int
    nodes: int
    devices: list[str]
    device_count: int
    threads: int
    warm: Warm
    remote: str
    upload_excludes: list[str]


class Claimed(TypedDict):
    """What whoever creates a job behind a URL writes there first: enough for another to launch it.

    It goes with the first copy of the folder.
    """

    process: ProcessIdentity
    folder: str
    files: dict[str, str]


class _JobFields(TypedDict):
    id: str
    action: str
    launch: Launch
    attempts: list[Attempt]


class JobRecord(_JobFields, total=False):
    """The content of ``job.json``. It holds no secret."""

    schema_version: int
    kind: str
    skill: str
    network_arch: str | None
    skill_dir: str
    created_at: str
    parent: str | None
    parent_automl: str
    automl_parent: str
    trial: int
    platform: str
    platform_options: dict[str, Any]
    results_root: str
    idempotency_key: str | None
    spec_digest: str
    data: dict[str, dict[str, Any]]
    data_digest: str
    data_warnings: list[str]
    warnings: list[str]
    notes: list[str]
    changed: dict[str, dict[str, Any]]
    model: dict[str, str | None]
    policy: dict[str, Any]
    cost_key: str | None
    env_names: list[str]
    versions: dict[str, str]
    resume_keys: list[str]
    resume_forms: dict[str, str]
    resume_lost: list[str]
    ptm_keys: list[str]
    references: dict[str, Any]
    aliases: dict[str, str]
    claim: str
    claimed: Claimed


class ShownRecord(JobRecord, total=False):
    """A job record as `Job.record` shows it: with the failure of its last attempt."""

    error: Failure | None


class _StudyFields(TypedDict):
    options: dict[str, Any]
    objectives: list[dict[str, Any]]
    space: dict[str, Any]
    keys: dict[str, str]
    concurrency: int
    spec: dict[str, Any]


class StudyRecord(_StudyFields, total=False):
    """The content of ``automl/study.json``: what the controller of an AutoML job needs."""

    schema_version: int
    launch: Launch
    action: str
    warm_command: list[str]
    auto_spec: dict[str, Any]
    """The spec of every trial but trial 0, where an auto recipe was made for the task."""
    references: dict[str, dict[str, Any]]
    """``values``: dotted key → what was written, of fields that refer to others; ``aliases``."""


def now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@contextlib.contextmanager
def locked(job_dir: Path) -> Iterator[None]:
    """Hold the lock of a job's folder; it ends with the process that holds it.

    Raises:
        StorageError: the folder cannot be locked.
    """
    try:
        held = files.lock(job_dir / ".lock")
    except OSError as error:
        raise _unusable(job_dir, "locked", error) from error
    try:
        yield
    finally:
        held.close()


def _unusable(job_dir: Path, what: str, error: OSError) -> StorageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "make room on its disk" if full else "use the account that made it, or another root"
    return StorageError(
        f"the folder of job {job_dir.name} cannot be {what}: {error.strerror or error}",
        field="results_root",
        got=str(job_dir),
        hint=None if error.errno in files.NO_LOCKS else hint,
        retryable=full,
    )


def read_record(job_dir: Path) -> JobRecord:
    """The record of a job folder.

    Raises:
        NotFoundError: the folder holds no record.  DataError: the record cannot be read.
    """
    path = f"{job_dir}/{RECORD_NAME}"  # a Path costs a tenth of a list of jobs
    try:
        text = files.read_small(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"no job {job_dir.name}", got=str(job_dir), expected="a folder with job.json"
        ) from None
    except OSError as error:
        raise _unreadable(job_dir.name, path, str(error.strerror or error)) from error
    return parse_record(text, job_dir.name, path)


def parse_record(text: str, job_id: str, where: str) -> JobRecord:
    """The record in `text`.

    Raises:
        DataError: it is not one (damaged, or another program's file of that name).
        NotFoundError: a newer version of this program wrote it.
    """
    try:
        content = files.parse_json(text)
    except ValueError as error:
        raise _unreadable(job_id, where, f"no JSON: {error}") from None

    version = content.get("schema_version", 1) if isinstance(content, dict) else 1
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NotFoundError(
            f"the record of job {job_id} was written by a newer version",
            got=f"schema_version {version} in {where}",
            expected=f"at most {SCHEMA_VERSION}",
            hint="update mae-skill",
        )

    problem = misfit(content, JobRecord)
    if problem is None and not content["attempts"]:
        problem = "attempts is empty"
    if problem is None:
        strange = [a["state"] for a in content["attempts"] if a["state"] not in _RANK]
        problem = f"attempts holds the state {strange[0]!r}" if strange else None
    if problem is not None:
        raise _unreadable(job_id, where, problem)

    content.setdefault("id", job_id)
    content["launch"] = {"command": [], "result": None, **content["launch"]}
    for number, attempt in enumerate(content["attempts"], 1):
        for name, value in _of_an_attempt(number).items():
            attempt.setdefault(name, value)
    return cast(JobRecord, content)


def _of_an_attempt(number: int) -> dict[str, Any]:
    """What a record may leave out of an attempt."""
    return {
        "number": number,
        "transitions": [],
        "process": None,
        "exit_code": None,
        "failure": None,
    }


_MAY_BE_MISSING = frozenset({"id", "command", "result", *_of_an_attempt(0)})


def _unreadable(job_id: str, where: str, problem: str) -> DataError:
    return DataError(
        f"the record of job {job_id} cannot be read: {problem}"[:400],
        got=where,
        expected="job.json as this program writes it, readable to this user",
    )


def misfit(value: Any, kind: Any, name: str = "") -> str | None:
    """What keeps a JSON value from being of a type of this page, in words; None where it fits.

    A field that the type does not have is a later version's, and passes.
    """
    if kind is Any:
        return None
    origin, arguments = _shape(kind)
    if origin is dict and not arguments:
        return _misfit_of_fields(value, kind, name)
    if origin is types.UnionType:
        found = [misfit(value, one, name) for one in arguments]
        return None if None in found else found[0]

    expected = float if kind is float else origin or kind
    fits = isinstance(value, (int, float) if expected is float else expected)
    if isinstance(value, bool) and expected is not bool:
        fits = False
    if isinstance(value, float) and not math.isfinite(value):
        fits = False
    if not fits:
        shown = "mapping" if expected is dict else str(getattr(expected, "__name__", "value"))
        return f"{name or 'it'} is {_shortly(value)}, not a {shown}"

    if origin in (list, dict):
        for where, item in enumerate(value) if origin is list else value.items():
            if misfit(item, arguments[-1]):  # a name for each item costs more than the look
                inner = f"{name}[{where}]" if origin is list else f"{name}.{where}"
                return misfit(item, arguments[-1], inner)
    return None


def _misfit_of_fields(value: Any, kind: Any, name: str) -> str | None:
    if not isinstance(value, dict):
        return f"{name or 'it'} is {_shortly(value)}, not a mapping"
    prefix = f"{name}." if name else ""
    for key, hint, plain, is_needed in _hints(kind):
        if key not in value:
            if is_needed:
                return f"{prefix}{key} is missing"
            continue
        if type(value[key]) in plain:  # most fields
            continue
        if problem := misfit(value[key], hint, prefix + key):
            return problem
    return None


@cache
def _shape(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """The origin and the arguments of a type; ``dict`` without arguments for a TypedDict. Kept: a
    list of thousands of jobs asks the same few types."""
    return (dict, ()) if is_typeddict(kind) else (get_origin(kind), get_args(kind))


@cache
def _hints(kind: Any) -> tuple[tuple[str, Any, frozenset[Any], bool], ...]:
    """The fields of a TypedDict: name, type, the types of which every value fits, and whether a
    record may not leave it out."""
    needed = kind.__required_keys__ - _MAY_BE_MISSING
    return tuple(
        (key, hint, _plain(hint), key in needed) for key, hint in get_type_hints(kind).items()
    )


def _plain(hint: Any) -> frozenset[Any]:
    """The types of which every value fits, without a look inside; a float may be no number."""
    options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    of_any = {dict[str, Any]: dict, list[Any]: list}
    found = (of_any.get(one, one) for one in options)
    return frozenset({str, int, bool, dict, list, types.NoneType} & set(found))


def _shortly(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    return text if len(text) <= 40 else text[:40] + "…"


def once_whole(read: Callable[[], _T]) -> _T:
    """What a store has of a record. While a store replaces it, it may show none, or half of one.

    Args:
        read: reads the record; called again, up to two times within half a second, where it is not
            there or is damaged.
    """
    for pause in (0.1, 0.4):
        try:
            return read()
        except (NotFoundError, DataError, ValueError):
            time.sleep(pause)
    return read()


def write_record(job_dir: Path, record: JobRecord) -> None:
    """Replace ``job.json``; the caller holds the folder's lock.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        files.write_json(job_dir / RECORD_NAME, record)
    except OSError as error:
        raise _unusable(job_dir, "written", error) from error


def update_record(job_dir: Path, change: Callable[[JobRecord], object]) -> JobRecord:
    """Read, change and write a record under the folder's lock."""
    with locked(job_dir):
        record = read_record(job_dir)
        change(record)
        write_record(job_dir, record)
    return record


def study_of(record: Mapping[str, Any]) -> str | None:
    """The study whose trial a job is; None where it is no trial."""
    return record.get("automl_parent") if record.get("kind") == "trial" else None


def last_attempt(record: JobRecord) -> Attempt:
    """The attempt that decides the state of the job."""
    return record["attempts"][-1]


def state_of(record: JobRecord) -> str:
    """The recorded state of the job, without asking whether it still runs."""
    state = last_attempt(record)["state"]
    return PENDING if state == PREEMPTED else state


def is_terminal(state: str) -> bool:
    """Whether an attempt or job in this state is over."""
    return _RANK.get(state, 0) == 2


def request_cancel(job_dir: Path, why: str = "") -> None:
    """Leave the request to cancel a job; one that is there keeps its reason."""
    path = job_dir / CANCEL_NAME
    with contextlib.suppress(FileExistsError):
        if why:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(why)
    path.touch()


def cancel_reason(job_dir: Path) -> str:
    """Why a job was asked to end, as its request says."""
    said = ""
    with contextlib.suppress(OSError):
        said = files.read_small(job_dir / CANCEL_NAME, 4096).strip()
    return said or ON_REQUEST


def new_attempt(record: JobRecord, reason: str = "") -> Attempt:
    """Open the next attempt, PENDING."""
    attempts = record.setdefault("attempts", [])
    attempt: Attempt = {
        "number": len(attempts) + 1,
        "state": PENDING,
        "transitions": [{"state": PENDING, "at": now(), "reason": reason}],
        "process": None,
        "exit_code": None,
        "failure": None,
    }
    attempts.append(attempt)
    return attempt


def advance(
    record: JobRecord, state: str, reason: str = "", *, at: str = "", **fields: Any
) -> bool:
    """Move the last attempt forward. A step back, or out of a terminal state, changes nothing.

    Args:
        at: the time, as `now` gives it; empty: now.
        fields: other fields of the attempt that change with it.

    Returns:
        Whether the state changed.
    """
    attempt = last_attempt(record)
    if _RANK[state] <= _RANK[attempt["state"]]:
        return False

    attempt["state"] = state
    attempt["transitions"].append({"state": state, "at": at or now(), "reason": reason})
    attempt.update(cast(Attempt, fields))
    return True


def ended_at(job_dir: Path, record: JobRecord) -> str:
    """When a job that is about to be COMPLETE ended: when its result was whole. The report, which
    the runner writes next, and the record, which its supervisor writes later, say the same time.

    Now, where there is no result of this attempt.
    """
    attempt, result = last_attempt(record), record["launch"].get("result")
    with contextlib.suppress(OSError):
        if result:
            written = (job_dir / str(result)).stat().st_mtime
            text = datetime.fromtimestamp(written, timezone.utc).isoformat(timespec="milliseconds")
            if attempt["transitions"] and attempt["transitions"][-1]["at"] <= text <= now():
                return text
    return now()


def beat(job_dir: Path) -> None:
    """Show other hosts that the supervisor is alive."""
    (job_dir / HEARTBEAT_NAME).touch()


def heartbeat_age(job_dir: Path) -> float | None:
    """Seconds since the last heartbeat, or None where there never was one.

    One from the future, by a clock that was set back since, is as old as it is far away.
    """
    try:
        return abs(time.time() - (job_dir / HEARTBEAT_NAME).stat().st_mtime)
    except OSError:
        return None
