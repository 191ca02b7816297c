"""How far a job has come, by its files: what tells a restart that went on from one that did not.

A runner that asks to be started again (exit code 75) and never gets further would be started for
ever. That its checkpoints are new files is no progress: their epochs and steps must be.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_sdk import files
from mae_sdk.jobs.checkpoint_names import CHECKPOINT, artifact_kind, newest_in, place, results_of
from mae_sdk.jobs.records import AFTER_PREEMPTION, PREEMPTED, Attempt, JobRecord
from mae_sdk.jobs.status import is_count, lines_of

MAX_WITHOUT_PROGRESS = 3
"""Starts in a row, after the first one that was preempted, that may get no further."""

MAX_PREEMPTIONS = 1000
"""Preemptions in a row, whatever progress each made, unless `MOST` says another number."""

MOST = "MAE_MAX_PREEMPTIONS"

_NOWHERE = [-1, -1]


def reached(job_dir: Path, record: JobRecord) -> dict[str, Any]:
    """What an attempt that was preempted records at its end.

    ``checkpoints``: the indexes of checkpoints, or the newest checkpoint, with their times;
    ``progress``: the highest epoch and step (-1: not said) of its checkpoints, and of its status
    lines. A study has the number of its finished trials there, and its newest trial with how far
    that is.
    """
    indexes = list(job_dir.glob("*/checkpoints.json"))
    seen = indexes
    if not indexes:  # a runner that keeps none
        newest = newest_in(job_dir, record["action"])
        seen = [] if newest is None else [newest]
    marks = sorted([str(path.relative_to(job_dir)), path.stat().st_mtime_ns] for path in seen)
    if record.get("kind") == "automl":
        found = [[_finished_trials(job_dir), -1], _newest_trial(job_dir, record["action"])]
        return {"checkpoints": marks, "progress": found}
    saved = _saved(job_dir, record["action"])
    # What a runner reports and does not save is lost with the attempt.
    told = _highest(lines_of(job_dir)) if marks else _NOWHERE
    return {"checkpoints": marks, "progress": [saved, told]}


def _saved(job_dir: Path, action: str) -> list[int]:
    """The highest epoch and step of the checkpoints in a job's folder."""
    indexes = list(job_dir.glob("*/checkpoints.json"))
    return _of_indexes(indexes) if indexes else _of_names(job_dir, action)


def _highest(rows: Iterable[Mapping[str, Any]]) -> list[int]:
    """The highest epoch, and the highest step of that."""
    found = [
        [one if is_count(one := row.get(unit)) else -1 for unit in ("epoch", "step")]
        for row in rows
    ]
    return max(found, default=_NOWHERE)


def _of_indexes(indexes: Iterable[Path]) -> list[int]:
    rows: list[Mapping[str, Any]] = []
    for path in indexes:
        try:
            content = files.parse_json(files.read_small(path))
        except (OSError, ValueError):
            continue
        listed = content.get("checkpoints") if isinstance(content, Mapping) else None
        rows += [one for one in listed or () if isinstance(one, Mapping)]
    return _highest(rows)


def _of_names(job_dir: Path, action: str) -> list[int]:
    names = [
        path.relative_to(job_dir).as_posix()
        for path in job_dir.rglob("*")
        if artifact_kind(path.name) == CHECKPOINT and path.is_file()
    ]
    places = (place(name) for name in results_of(names, action))
    return max((list(one) for one in places if one is not None), default=_NOWHERE)


def _finished_trials(job_dir: Path) -> int:
    """The rows of a study's table of trials; -1 where there is none."""
    try:
        return len(files.read_small(job_dir / "automl" / "trials.csv").splitlines())
    except OSError:
        return -1


def _newest_trial(job_dir: Path, action: str) -> list[int]:
    """The number of a study's newest trial, with the epoch and step of its checkpoints."""
    trials = sorted(path for path in job_dir.parent.glob(f"{job_dir.name}.t*") if path.is_dir())
    if not trials:
        return _NOWHERE
    number = trials[-1].name.rpartition(".t")[2]
    return [int(number) if number.isdecimal() else len(trials), *_saved(trials[-1], action)]


def in_a_row(record: JobRecord) -> list[Attempt]:
    """The last attempts of a job that ended PREEMPTED, one after another, since a person started
    it; an attempt that has not ended is left out."""
    found: list[Attempt] = []
    for attempt in reversed(record["attempts"]):
        if attempt["state"] == PREEMPTED:
            found.append(attempt)
        elif found or attempt is not record["attempts"][-1]:
            break
        first = next(iter(attempt["transitions"]), None)
        if first is None or first["reason"] != AFTER_PREEMPTION:
            break
    return found[::-1]


def without_progress(attempts: Sequence[Attempt]) -> int:
    """How many of these attempts, the last ones, got no further than those before them; the first
    of them counts."""
    count = 0
    for at, attempt in enumerate(attempts):
        count = 1 if at == 0 or _got_further(attempts[:at], attempt) else count + 1
    return count


def _got_further(before: Sequence[Attempt], attempt: Attempt) -> bool:
    there = attempt.get("progress")
    if there is None or all(one == _NOWHERE for one in there):  # nothing says how far it is
        return attempt.get("checkpoints", []) != before[-1].get("checkpoints", [])
    known = [one["progress"] for one in before if "progress" in one]
    return any(
        now > max((one[at] for one in known if at < len(one)), default=_NOWHERE)
        for at, now in enumerate(there)
    )


def most_preemptions() -> int:
    """How often in a row a job may be preempted: `MOST` of the environment, else
    `MAX_PREEMPTIONS`."""
    text = os.environ.get(MOST, "").strip()
    return int(text) if _is_most(text) else MAX_PREEMPTIONS


def _is_most(text: str) -> bool:
    return text.isdecimal() and int(text) > 0


def odd_setting() -> str | None:
    """What is wrong with `MOST` in the environment; None where it is a number, or not set."""
    text = os.environ.get(MOST, "").strip()
    if not text or _is_most(text):
        return None
    return (
        f"{MOST}={text[:40]} is not used: expected a whole number from 1; it is {MAX_PREEMPTIONS}"
    )


def why_no_more(record: JobRecord) -> str | None:
    """Why a job that was preempted is not started again; None where it is."""
    attempts = in_a_row(record)
    idle = without_progress(attempts)
    if idle > MAX_WITHOUT_PROGRESS:
        return (
            f"preempted {idle} times without progress{_where(record, attempts)}: it asks to be "
            "started again (exit code 75) and gets no further; see its log, then mae jobs resume "
            f"{record['id']}"
        )
    most = most_preemptions()
    if len(attempts) >= most:
        return (
            f"preempted {len(attempts)} times in a row, which are the most that there may be: "
            f"{MOST} says another number; mae jobs resume {record['id']} goes on"
        )
    return None


def _where(record: JobRecord, attempts: Sequence[Attempt]) -> str:
    """Where the checkpoints stay, in words."""
    if record.get("kind") == "automl":
        return ""
    if not any(attempt.get("checkpoints") for attempt in attempts):
        return ", and without a checkpoint"
    (epoch, step), *_ = attempts[-1].get("progress") or [_NOWHERE]
    words = [f"epoch {epoch}"] if epoch >= 0 else []
    words += [f"step {step}"] if step >= 0 else []
    return f", at {', '.join(words)} of its checkpoints" if words else ""
