"""``job.json``: what was asked and every attempt at it. Atomic, locked, states only forward.

The types below are the job folder's contract; ``docs/job_folder.md`` shows them as one page. The
state of a job is that of its last attempt, except that an attempt that ended PREEMPTED leaves the
job PENDING: it waits for its next attempt.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict, cast

from mae_skill.errors import NotFoundError

from mae_sdk import files

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
TERMINAL = frozenset({COMPLETE, ERROR, CANCELED})
_RANK = {PENDING: 0, RUNNING: 1, COMPLETE: 2, ERROR: 2, CANCELED: 2, PREEMPTED: 2}

RECORD_NAME = "job.json"
CANCEL_NAME = "cancel.request"
HEARTBEAT_NAME = ".heartbeat"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 90.0


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
    told_to_stop: bool


class Warm(TypedDict):
    """The warm runner from which the local platform may fork the job; see `mae_sdk.run.warm`."""

    command: list[str]
    folder: str


class _LaunchFields(TypedDict):
    command: list[str]
    result: str | None


class Launch(_LaunchFields, total=False):
    """How the supervisor starts the ranks of a job."""

    cwd: str
    grace_seconds: float
    processes: int
    devices: list[str]
    device_count: int
    threads: int
    warm: Warm
    remote: str
    upload_excludes: list[str]


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
    created_at: str
    parent: str | None
    parent_automl: str
    automl_parent: str
    trial: int
    platform: str
    results_root: str
    idempotency_key: str | None
    spec_digest: str
    data: dict[str, dict[str, Any]]
    data_digest: str
    data_warnings: list[str]
    policy: dict[str, Any]
    cost_key: str | None
    env_names: list[str]
    versions: dict[str, str]
    resume_keys: list[str]
    ptm_keys: list[str]
    claim: str


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


def now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def locked(job_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of a job's folder; it ends with the process that holds it."""
    return files.locked(job_dir / ".lock")


def read_record(job_dir: Path) -> JobRecord:
    """The record of a job folder.

    Raises:
        NotFoundError: the folder holds no readable record.
    """
    try:
        text = (job_dir / RECORD_NAME).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"no job {job_dir.name}", got=str(job_dir), expected="a folder with job.json"
        ) from None
    return parse_record(text, job_dir.name, str(job_dir / RECORD_NAME))


def parse_record(text: str, job_id: str, where: str) -> JobRecord:
    """The record in `text`.

    Raises:
        NotFoundError: it is not one (damaged, or another program's file of that name), or a newer
            version of this program wrote it.
    """
    try:
        content = json.loads(text)
        readable = (
            isinstance(content["action"], str)
            and isinstance(content["launch"], dict)
            and content["attempts"][-1]["state"] in _RANK
        )
        newer = content.get("schema_version", 1) > SCHEMA_VERSION
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        readable = newer = False

    if newer:
        raise NotFoundError(
            f"the record of job {job_id} was written by a newer version",
            got=f"schema_version {content['schema_version']} in {where}",
            expected=f"at most {SCHEMA_VERSION}",
            hint="update mae-skill",
        )
    if not readable:
        raise NotFoundError(
            f"the record of job {job_id} cannot be read",
            got=where,
            expected="job.json as this program writes it",
        )
    return cast(JobRecord, content)


def write_record(job_dir: Path, record: JobRecord) -> None:
    """Replace ``job.json``; the caller holds the folder's lock."""
    files.write_json(job_dir / RECORD_NAME, record)


def update_record(job_dir: Path, change: Callable[[JobRecord], object]) -> JobRecord:
    """Read, change and write a record under the folder's lock."""
    with locked(job_dir):
        record = read_record(job_dir)
        change(record)
        write_record(job_dir, record)
    return record


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


def advance(record: JobRecord, state: str, reason: str = "", **fields: Any) -> bool:
    """Move the last attempt forward. A step back, or out of a terminal state, changes nothing.

    Args:
        fields: other fields of the attempt that change with it.

    Returns:
        Whether the state changed.
    """
    attempt = last_attempt(record)
    if _RANK[state] <= _RANK[attempt["state"]]:
        return False

    attempt["state"] = state
    attempt["transitions"].append({"state": state, "at": now(), "reason": reason})
    attempt.update(cast(Attempt, fields))
    return True


def beat(job_dir: Path) -> None:
    """Show other hosts that the supervisor is alive."""
    (job_dir / HEARTBEAT_NAME).touch()


def heartbeat_age(job_dir: Path) -> float | None:
    """Seconds since the last heartbeat, or None where there never was one."""
    try:
        return max(0.0, time.time() - (job_dir / HEARTBEAT_NAME).stat().st_mtime)
    except OSError:
        return None
