"""``job.json``: what was asked and every attempt at it. Atomic, locked, states only forward.

A record holds ``attempts``, each ``{number, state, transitions: [{state, at, reason}], process, exit_code, failure}``. The state of the
job is that of its last attempt, except that an attempt that ended PREEMPTED leaves the job PENDING: it waits for its next attempt.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mae_skill.errors import NotFoundError

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

Record = dict[str, Any]


def now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that is only ever replaced whole."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write whole: a temporary file in the same folder, then rename."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write whole: a temporary file in the same folder, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(descriptor, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(job_dir: Path, *, shared_name: str = ".lock") -> Iterator[None]:
    """Hold the lock of a folder; it ends with the process that holds it."""
    job_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(job_dir / shared_name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_record(job_dir: Path) -> Record:
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


def parse_record(text: str, job_id: str, where: str) -> Record:
    """The record in `text`.

    Raises:
        NotFoundError: it is not one: damaged, or another program's file of that name.
    """
    try:
        content = json.loads(text)
        if (
            isinstance(content["action"], str)
            and isinstance(content["launch"], dict)
            and content["attempts"][-1]["state"] in _RANK
        ):
            return dict(content)
    except (ValueError, KeyError, TypeError, IndexError):
        pass
    raise NotFoundError(
        f"the record of job {job_id} cannot be read",
        got=where,
        expected="job.json as this program writes it",
    )


def update_record(job_dir: Path, change: Callable[[Record], None]) -> Record:
    """Read, change and write a record under the folder's lock."""
    with locked(job_dir):
        record = read_record(job_dir)
        change(record)
        write_json(job_dir / RECORD_NAME, record)
    return record


def last_attempt(record: Record) -> dict[str, Any]:
    """The attempt that decides the state of the job."""
    attempt: dict[str, Any] = record["attempts"][-1]
    return attempt


def state_of(record: Record) -> str:
    """The recorded state of the job, liveness not looked at."""
    state: str = last_attempt(record)["state"]
    return PENDING if state == PREEMPTED else state


def is_terminal(state: str) -> bool:
    """Whether an attempt or job in this state is over."""
    return _RANK.get(state, 0) == 2


def new_attempt(record: Record, reason: str = "") -> dict[str, Any]:
    """Open the next attempt, PENDING."""
    attempts = record.setdefault("attempts", [])
    attempt: dict[str, Any] = {
        "number": len(attempts) + 1,
        "state": PENDING,
        "transitions": [{"state": PENDING, "at": now(), "reason": reason}],
        "process": None,
        "exit_code": None,
        "failure": None,
    }
    attempts.append(attempt)
    return attempt


def advance(record: Record, state: str, reason: str = "", **fields: Any) -> bool:
    """Move the last attempt forward. A step back, or out of a terminal state, changes nothing.

    Returns:
        Whether the state changed.
    """
    attempt = last_attempt(record)
    if _RANK[state] <= _RANK[attempt["state"]]:
        return False
    attempt["state"] = state
    attempt["transitions"].append({"state": state, "at": now(), "reason": reason})
    attempt.update(fields)
    return True


def beat(job_dir: Path) -> None:
    """Show other hosts that the supervisor lives."""
    (job_dir / HEARTBEAT_NAME).touch()


def heartbeat_age(job_dir: Path) -> float | None:
    """Seconds since the last heartbeat, or None where there never was one."""
    try:
        return max(0.0, time.time() - (job_dir / HEARTBEAT_NAME).stat().st_mtime)
    except OSError:
        return None
