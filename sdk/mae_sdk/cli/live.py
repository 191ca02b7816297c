"""Waiting for a job, and what a terminal shows meanwhile.

That is a bar of epochs with the time that is left, the newest and the best figures and, of an
AutoML job, its trials. Everything comes from the job's folder, so it is the same for a job on any
machine.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click
from mae_skill.errors import JobCanceledError, JobFailedError, StillRunningError
from mae_skill.spelling import one_line as one_line_of

from mae_sdk.cli.common import one_line, place_of, seconds, show
from mae_sdk.jobs.status import counted

if TYPE_CHECKING:
    from mae_sdk.job import Job

REFRESH_SECONDS = 0.4
"""Between two readings of the job's folder, at least."""

PATIENCE = 4
"""Times the duration of a reading that pass before the next: a folder behind a URL, or a study of
hundreds of trials, is read less often."""

MAX_RUNNING = 6
"""Running trials that are shown one by one."""


def follow(job: Job, *, as_json: bool, timeout: float | None = None) -> None:
    """Wait for the end of a job, whatever it is; `leave_as` then raises what it was.

    A terminal shows a live view, machines get JSON lines on stderr, a plain pipe nothing.

    Raises:
        StillRunningError: it has not ended after `timeout` seconds.
        StorageError: its machine is out of sight.
    """

    deadline = None if timeout is None else time.monotonic() + timeout
    view = LiveView(job) if sys.stderr.isatty() and not as_json else None
    last: dict[str, Any] | None = None
    try:
        while True:
            try:
                job.wait(timeout=0.2)
                return
            except (JobFailedError, JobCanceledError):
                return
            except StillRunningError:
                if deadline is not None and time.monotonic() > deadline:
                    raise

            if view is not None:
                view.update()
            if not as_json:
                continue
            status = job.status()
            progress = status["progress"]
            if progress == last:
                continue
            last = progress
            line = {"id": job.id, "state": status["state"], **progress}
            click.echo(one_line(line), err=True)
    finally:
        if view is not None:
            view.close()


def leave_as(job: Job) -> None:
    """End with the exit code of a job that has ended: 0, 5 failed, 3 for its data, 6 canceled, 75
    preempted."""
    job.wait(timeout=0)


class LiveView:
    """The view of one job; `update` as often as one likes, `close` when it has ended."""

    def __init__(self, job: Job) -> None:
        from rich.console import Console
        from rich.live import Live

        from mae_sdk.run.output import drawn_on

        self.job = job
        self.started = time.monotonic()
        self.next_at = float("-inf")
        self.live = Live(
            console=Console(file=drawn_on(sys.stderr)), transient=True, refresh_per_second=4
        )
        self.live.start()

    def update(self) -> None:
        """Read the job again where the last reading is old enough, and draw it."""
        began = time.monotonic()
        if began < self.next_at:
            return
        self.live.update(self._drawn(), refresh=True)
        now = time.monotonic()
        self.next_at = now + max(REFRESH_SECONDS, PATIENCE * (now - began))

    def close(self) -> None:
        self.live.stop()

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        status, figures = self.job.status(), self.job.figures()
        line = status["progress"]
        waited = seconds(time.monotonic() - self.started)
        rows: list[Any] = [Text(f"{self.job.id}  {status['state']}  {waited}")]

        study = figures.get("study")
        done, total, words = _trials(study) if study else _done(line)
        if total:
            row = Table.grid(padding=(0, 1))
            row.add_row(ProgressBar(total=total, completed=done, width=30), Text(words))
            rows.append(row)
        else:
            rows.append(Text(one_line_of(str(line.get("message") or "waiting to start"))))
        if kpi := line.get("kpi"):
            rows.append(Text(f"now   {_figures(kpi)}"))
        rows += [Text(text) for text in _best(figures)]
        if study:
            rows += [Text(text) for text in self._running()]
        return Group(*rows)

    def _running(self) -> list[str]:
        """How far the running trials of a study are."""
        from mae_sdk.job import trials_of

        shown = []
        for trial in trials_of(self.job):
            status = trial.status()
            if status["state"] != "RUNNING":
                continue
            _, _, words = _done(status["progress"])
            name = trial.id.rpartition(".")[2]
            figures = _figures(status["progress"].get("kpi") or {})
            shown.append(f"{name}  {words or 'starting'}  {figures}".rstrip())
        more = len(shown) - MAX_RUNNING
        return [*shown[:MAX_RUNNING], *([f"and {more} more running"] if more > 0 else [])]


def _done(line: dict[str, Any]) -> tuple[int, int, str]:
    """Epochs or steps that are done, all of them, and both in words with the time that is left."""
    done, total, unit = counted(line)
    if done is None:
        return 0, 0, ""
    left = f", about {seconds(line['eta'])} left" if line.get("eta") else ""
    return done, total or 0, f"{done}/{total or '?'} {unit}s{left}"


def _trials(study: dict[str, Any]) -> tuple[int, int, str]:
    """Trials that have ended, all that may be made, and both in words."""
    counts = dict(study["trials"])
    total = counts.pop("of", 0)
    ended = sum(count for state, count in counts.items() if state != "running")
    words = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none has ended"
    return (
        ended,
        total if isinstance(total, int) else 0,
        f"{ended}/{total or '?'} {'trial' if total == 1 else 'trials'} ({words})",
    )


def _best(figures: dict[str, Any]) -> list[str]:
    """The best figures so far; of a study its best trial."""
    study = figures.get("study") or {}
    if top := study.get("best"):
        return [f"best  {study['metric']} {show(top['value'])} (trial {top['trial']})"]
    best = figures.get("best") or {}
    said = "  ".join(
        f"{one_line_of(name)} {show(one['value'])} ({place_of(one)})" for name, one in best.items()
    )
    return [f"best  {said}"] if said else []


def _figures(kpi: dict[str, Any]) -> str:
    return "  ".join(f"{one_line_of(str(name))} {show(value)}" for name, value in kpi.items())
