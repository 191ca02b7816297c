"""``job.json``: what was asked and every attempt at it. Atomic, locked, states only forward.

A record holds ``attempts``, each ``{number, state, transitions: [{state, at, reason}], process, exit_code, failure}``. The state of the
job is that of its last attempt, except that an attempt that ended PREEMPTED leaves the job PENDING: it waits for its next attempt.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mae_skill.errors import NotFoundError

from mae_sdk import files

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


def locked(job_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of a job's folder; it ends with the process that holds it."""
    return files.locked(job_dir / ".lock")


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
        files.write_json(job_dir / RECORD_NAME, record)
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
