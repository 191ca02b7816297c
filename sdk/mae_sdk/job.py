"""A job, seen through its folder: nothing is kept in memory, so any process may hold one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_skill.errors import (
    DependencyError,
    JobCanceledError,
    JobFailedError,
    PreemptedError,
    StorageError,
    UsageError,
)

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.failure import failure
from mae_sdk.jobs.secrets import is_secret_name
from mae_sdk.jobs.status import metrics_of, read_status
from mae_sdk.run import local
from mae_sdk.run.process import is_alive, kill_leftovers

_NEVER_LAUNCHED_SECONDS = 60.0


def observe(job_dir: Path) -> tuple[records.Record, str]:
    """The record and the true state. A job of this host whose supervisor is gone becomes ERROR, or CANCELED when that was asked for."""
    local.reap()
    record = records.read_record(job_dir)
    attempt = records.last_attempt(record)
    if records.is_terminal(attempt["state"]):
        return record, records.state_of(record)
    alive = is_alive(attempt["process"]) if attempt["process"] else _launching(job_dir)
    if alive:
        return record, attempt["state"]
    if alive is None:
        age = records.heartbeat_age(job_dir)
        stale = age is not None and age > records.STALE_SECONDS
        return record, records.UNKNOWN if stale else attempt["state"]
    with records.locked(job_dir):
        record = records.read_record(job_dir)
        attempt = records.last_attempt(record)
        gone = (
            is_alive(attempt["process"]) is False if attempt["process"] else not _launching(job_dir)
        )
        if gone and not records.is_terminal(attempt["state"]):
            kill_leftovers(job_dir)
            if (job_dir / records.CANCEL_NAME).exists():
                records.advance(record, records.CANCELED, "cancelled on request")
                (job_dir / records.CANCEL_NAME).unlink(missing_ok=True)
            else:
                message = (
                    "its supervisor is gone" if attempt["process"] else "it was never launched"
                )
                records.advance(
                    record, records.ERROR, message, failure=failure("lost_process", message)
                )
            files.write_json(job_dir / records.RECORD_NAME, record)
    return record, records.state_of(record)


def _launching(job_dir: Path) -> bool:
    return time.time() - (job_dir / records.RECORD_NAME).stat().st_mtime < _NEVER_LAUNCHED_SECONDS


def _number(text: str) -> Any:
    """A cell of a table: a number where it is one, None where it is empty."""
    if text == "":
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


class Job:
    """One job of a local results root.

    Args:
        folder: its folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).resolve()
        self.id = self.folder.name

    @property
    def _longest_pause(self) -> float:
        """Seconds between two looks of `wait`."""
        return 0.25

    @property
    def record(self) -> records.Record:
        """``job.json``, with the failure of the last attempt under ``error``."""
        record = records.read_record(self.folder)
        return {**record, "error": records.last_attempt(record)["failure"]}

    @property
    def state(self) -> str:
        """PENDING, RUNNING, COMPLETE, ERROR, CANCELED, or UNKNOWN where it cannot be seen from here."""
        return self.observe()[1]

    def observe(self) -> tuple[records.Record, str]:
        """The record and the true state."""
        return observe(self.folder)

    def _lines(self) -> list[dict[str, Any]]:
        return read_status(self.folder / "status.json")

    def wait(self, timeout: float | None = None) -> Job:
        """Wait for the end.

        Raises:
            JobFailedError, JobCanceledError, PreemptedError: it did not end COMPLETE. StorageError: still running after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.005
        while True:
            record, state = self.observe()
            attempt = records.last_attempt(record)
            if attempt["state"] == records.PREEMPTED and attempt.get("told_to_stop"):
                raise PreemptedError(
                    "the job was preempted after saving",
                    got=self.id,
                    hint=f"mae jobs resume {self.id}",
                )
            if state == records.COMPLETE:
                return self
            if state == records.CANCELED:
                raise JobCanceledError(
                    "the job was cancelled", got=self.id, hint=f"mae jobs resume {self.id}"
                )
            if state == records.ERROR:
                problem = attempt["failure"] or {}
                raise JobFailedError(
                    problem.get("message") or "the job ended in ERROR",
                    got=self.id,
                    hint=problem.get("hint"),
                )
            if deadline is not None and time.monotonic() > deadline:
                raise StorageError(
                    "still running when the time to wait was over",
                    got=self.id,
                    hint="the job goes on",
                )
            time.sleep(pause)
            pause = min(self._longest_pause, pause * 1.3)

    def status(self) -> dict[str, Any]:
        """``state, attempt, progress`` (the newest status line) and ``error``."""
        record, state = self.observe()
        attempt = records.last_attempt(record)
        lines = self._lines()
        return {
            "state": state,
            "attempt": attempt["number"],
            "progress": lines[-1] if lines else {},
            "error": attempt["failure"],
        }

    def logs(self) -> str:
        """What the runner has printed so far."""
        return self._text("log.txt")

    def metrics(self) -> dict[str, Any]:
        """The newest value of every figure."""
        return metrics_of(self._lines())

    def files(self) -> list[Path]:
        """What the job made, as its result names it; empty before it is complete, and for a folder that is not on this machine."""
        record = self.record
        path = self.folder / str(record["launch"].get("result") or "")
        try:
            named = files.read_json(path).get("artefacts") or []
        except (OSError, ValueError, AttributeError):
            return []
        found = [path.parent / str(name) for name in named] + [
            self.folder / str(name) for name in named
        ]
        return [place for place in dict.fromkeys(found) if place.is_file()]

    def history(self) -> list[dict[str, Any]]:
        """One row an epoch with its figures, in order; of an AutoML job one row a trial, with its values and parameters."""
        if self.record.get("kind") == "automl":
            import csv

            return [
                {name: _number(text) for name, text in row.items()}
                for row in csv.DictReader(self._text("automl/trials.csv").splitlines())
            ]
        rows: dict[int, dict[str, Any]] = {}
        for line in self._lines():
            if isinstance(line.get("epoch"), int) and isinstance(
                line.get("kpi"), dict
            ):  # a resumed epoch takes its first run's place
                rows.setdefault(line["epoch"], {"epoch": line["epoch"]}).update(
                    {"step": line.get("step"), **line["kpi"]}
                )
        return [rows[epoch] for epoch in sorted(rows)]

    def frame(self) -> Any:
        """`history` as a pandas DataFrame.

        Raises:
            DependencyError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise DependencyError(
                "tables of results need pandas", got=str(error), hint="pip install pandas"
            ) from None
        return pandas.DataFrame(self.history())

    def _text(self, relative: str) -> str:
        path = self.folder / relative
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def best_checkpoint(self, policy: str = "best") -> Path:
        """The checkpoint by policy; of an AutoML job that of its best child."""
        record = records.read_record(self.folder)
        if record.get("kind") == "automl":
            from mae_sdk.automl.results import best_child

            return Job(self.folder.parent / best_child(self.folder)).best_checkpoint(policy)
        return CheckpointIndex(self.folder / record["action"]).select(policy)

    def cancel(self, wait: float = 40.0) -> str:
        """Stop every process of the job: SIGTERM, then SIGKILL after the grace period. Returns the state; an ended job is left as it is."""
        record, state = self.observe()
        attempt = records.last_attempt(record)
        if records.is_terminal(attempt["state"]):
            return state
        (self.folder / records.CANCEL_NAME).touch()
        process = attempt["process"]
        if process and is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process["pid"]), signal.SIGTERM)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and not records.is_terminal(state):
            time.sleep(0.02)
            state = self.observe()[1]
        return state

    def resume(self, env: Mapping[str, str] | None = None, *, lost: bool = False) -> Job:
        """Open a new attempt in the same folder, from its newest checkpoint. A live job is left as it is.

        Args:
            env: settings of its environment. No record holds values: what the job was given must be given again, here or in this process.
            lost: the caller knows that the machine of a job in state UNKNOWN is gone; from here that cannot be seen.

        Raises:
            UsageError: it is complete, its state cannot be seen from here, or a setting that it was given is missing.
        """
        record, state = self.observe()
        preempted = records.last_attempt(record)["state"] == records.PREEMPTED
        gone = state == records.UNKNOWN and lost
        if state in (records.COMPLETE, records.UNKNOWN) and not gone:
            hint = (
                f"if its machine is gone for good: mae jobs resume {self.id} --lost"
                if state == records.UNKNOWN
                else None
            )
            expected = "ERROR, CANCELED or preempted"
            raise UsageError(
                f"a job that is {state} cannot be resumed",
                field="job",
                got=self.id,
                expected=expected,
                hint=hint,
            )
        if gone or records.is_terminal(state) or preempted:
            missing = [
                name
                for name in record.get("env_names") or []
                if name not in os.environ and name not in (env or {})
            ]
            if missing:
                open_names = [
                    name for name in missing if not is_secret_name(name)
                ]  # a command line is seen by everybody
                raise UsageError(
                    "the job was started with settings of its environment that are not set here",
                    field="env",
                    got=missing,
                    expected="each of them, with its value",
                    hint="export them"
                    + (
                        f", or mae jobs resume {self.id} --env {open_names[0]}=VALUE"
                        if open_names
                        else ""
                    ),
                )
            with records.locked(self.folder):
                record = records.read_record(self.folder)
                if gone:
                    message = "its machine was said to be gone"
                    records.advance(
                        record, records.ERROR, message, failure=failure("lost_process", message)
                    )
                if records.is_terminal(records.last_attempt(record)["state"]):
                    records.new_attempt(record, "resumed")
                    (self.folder / records.CANCEL_NAME).unlink(missing_ok=True)
                    files.write_json(self.folder / records.RECORD_NAME, record)
            from mae_sdk.jobs.resume import prepare

            prepare(self.folder)
            local.submit(self.folder, env)
        return self
