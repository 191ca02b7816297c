"""``mae jobs …``: every job of a results root, seen and steered from anywhere that can read it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from mae_sdk.cli.render import (
    MAX_LINES,
    bounded,
    dumps,
    emit,
    json_option,
    one_line,
    pairs,
    results_root_option,
    say,
    seconds,
    show,
    table,
)

if TYPE_CHECKING:
    from mae_sdk.job import Job
    from mae_sdk.jobs.records import JobRecord

TERMINAL = ("COMPLETE", "ERROR", "CANCELED")
STATES = ("PENDING", "RUNNING", *TERMINAL, "UNKNOWN")


@click.group()
def jobs() -> None:
    """Jobs: list, status, logs, wait, cancel, resume, metrics, show.

    JOB is an id or an unambiguous prefix of one.
    """


def _job(identifier: str, results_root: str | None) -> Job:
    from mae_sdk import Skill

    return Skill().job(identifier, results_root=results_root)


def root_flag(results_root: str | None) -> str:
    """`` --results-root X`` where one was given, so that suggested commands work as printed."""
    import shlex

    return f" --results-root {shlex.quote(results_root)}" if results_root else ""


def next_for(job_id: str, state: str, action: str, root: str = "") -> list[str]:
    """The sensible next commands for a job in this state."""
    if state in ("PENDING", "RUNNING"):
        return [
            f"mae jobs status {job_id}{root}",
            f"mae jobs wait {job_id}{root}",
            f"mae jobs logs {job_id} -f{root}",
        ]
    if state == "ERROR":
        return [f"mae jobs logs {job_id}{root}", f"mae jobs resume {job_id}{root}"]
    if state == "CANCELED":
        return [f"mae jobs resume {job_id}{root}"]
    if state == "UNKNOWN":
        return [f"mae jobs show {job_id}{root}", f"mae jobs logs {job_id}{root}"]
    if action == "train":
        return [
            f"mae jobs metrics {job_id}{root}",
            f"mae run evaluate --parent {job_id} --eval-dataset URI{root}",
            f"mae run export --parent {job_id}{root}",
        ]
    if action == "export":
        return [f"mae jobs show {job_id}{root}", f"mae run gen_trt_engine --parent {job_id}{root}"]
    return [f"mae jobs metrics {job_id}{root}", f"mae jobs show {job_id}{root}"]


def leave_as(job: Job) -> None:
    """End this command with the ended job's own exit code: 0, 5 (failed), 6 (canceled), 75
    (preempted)."""
    job.wait(timeout=0)


@jobs.command("list")
@click.option(
    "--state", type=click.Choice(STATES, case_sensitive=False), help="Only jobs in this state."
)
@click.option("--all", "everything", is_flag=True, help="AutoML trials too.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=30, show_default=True, help="The newest N."
)
@results_root_option
@json_option
def list_(
    state: str | None, everything: bool, limit: int, results_root: str | None, as_json: bool
) -> None:
    """The newest jobs first."""
    from mae_sdk import Skill
    from mae_sdk.job import observe_jobs

    found = Skill().jobs(results_root=results_root, all=everything)
    asked = found if state else found[:limit]  # only what is shown or judged is read
    seen = zip(asked, observe_jobs(asked), strict=True)
    rows = [row for job, observed in seen if (row := _row(job, observed))]
    unreadable = [row["id"] for row in rows if row["state"] is None]
    rows = [row for row in rows if row["state"] is not None]
    if unreadable:
        say(
            f"warning: the record of {', '.join(unreadable[:8])}"
            f"{' …' if len(unreadable) > 8 else ''} cannot be read"
        )
    if state:
        rows = [row for row in rows if row["state"] == state.upper()]
    rows.sort(key=lambda row: str(row["created"] or ""), reverse=True)
    total, shown = len(rows) if state else len(found) - len(unreadable), rows[:limit]
    text = table(
        [(row["id"], row["action"], row["state"], row["created"], row["parent"]) for row in shown],
        ("JOB", "ACTION", "STATE", "CREATED", "PARENT"),
    )
    if total > limit:
        text += f"\n… {total - limit} more: --limit {total}"
    if not rows:
        text = "no jobs here"
    root = root_flag(results_root)
    follow_up = (
        [f"mae jobs status {shown[0]['id']}{root}"]
        if shown
        else [f"mae plan train --train-datasets URI{root}"]
    )
    emit({"jobs": shown, "total": total}, as_json=as_json, text=text, next_commands=follow_up)


def _row(job: Job, observed: tuple[JobRecord, str] | None) -> dict[str, Any] | None:
    """What the list shows of a job, with no state where its record cannot be read.

    None where it has gone since the root was listed.
    """
    if observed is None:
        is_damaged = (job.folder / "job.json").exists()
        return {"id": job.id, "state": None, "created": None} if is_damaged else None
    record, state = observed
    return {
        "id": job.id,
        "action": record.get("action"),
        "state": state,
        "created": record.get("created_at"),
        "parent": record.get("parent"),
    }


@jobs.command()
@click.argument("job_id", metavar="JOB")
@results_root_option
@json_option
def status(job_id: str, results_root: str | None, as_json: bool) -> None:
    """State, progress, the newest figures; the reason when it failed."""
    job = _job(job_id, results_root)
    document = _status(job)
    root = root_flag(results_root)
    emit(
        document,
        as_json=as_json,
        text=_status_text(document),
        next_commands=next_for(job.id, document["state"], str(document["action"]), root),
    )


def _status(job: Job) -> dict[str, Any]:
    found = job.status()
    document = dict(found) if isinstance(found, dict) else {"progress": found}
    document = {"id": job.id, "action": job.record.get("action"), **document}
    document["state"] = str(document.get("state") or job.state)
    return document


def _status_text(document: dict[str, Any]) -> str:
    lines = {
        key: value
        for key, value in document.items()
        if value not in (None, [], {}) and key not in ("lines", "error", "next")
    }
    text = pairs(
        {key: seconds(value) if key.endswith("_seconds") else value for key, value in lines.items()}
    )
    failure = document.get("error")
    if isinstance(failure, dict):
        text += "\nerror:\n" + pairs(
            {key: value for key, value in failure.items() if value not in (None, [], {})}, "  "
        )
    return text


@jobs.command()
@click.argument("job_id", metavar="JOB")
@click.option("-f", "--follow", "following", is_flag=True, help="Keep printing until the job ends.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=MAX_LINES,
    show_default=True,
    help="The last N lines; 0 = all.",
)
@results_root_option
@json_option
def logs(job_id: str, following: bool, lines: int, results_root: str | None, as_json: bool) -> None:
    """The end of a job's log."""
    job = _job(job_id, results_root)
    text = job.logs()
    everything = text.splitlines()
    shown = everything[-lines:] if lines else everything
    if as_json and not following:
        click.echo(dumps({"id": job.id, "lines": shown, "total_lines": len(everything)}))
        return
    if len(shown) < len(everything):
        say(f"… {len(everything) - len(shown)} earlier lines: -n 0")
    for line in shown:
        _log_line(line, as_json)
    seen = len(text)
    while following:
        ended = str(job.state) in TERMINAL
        text = job.logs()
        # Whole lines only: the rest of a line that is being written comes with the next look.
        end = len(text) if ended else text.rfind("\n") + 1
        for line in text[seen:end].splitlines():
            _log_line(line, as_json)
        seen = max(seen, end)
        if ended:
            return
        time.sleep(0.5)


def _log_line(line: str, as_json: bool) -> None:
    click.echo(one_line({"line": line}) if as_json else line)
    sys.stdout.flush()


@jobs.command()
@click.argument("job_id", metavar="JOB")
@click.option(
    "--timeout",
    type=float,
    default=None,
    metavar="SECONDS",
    help="Stop waiting (exit 8, retryable); the job goes on.",
)
@results_root_option
@json_option
def wait(job_id: str, timeout: float | None, results_root: str | None, as_json: bool) -> None:
    """Stay until a job ends. Exit 0 complete, 5 failed, 6 canceled."""
    job = _job(job_id, results_root)
    follow(job, as_json=as_json, timeout=timeout)
    document = _status(job)
    emit(
        document,
        as_json=as_json,
        text=_status_text(document),
        next_commands=next_for(
            job.id, document["state"], str(document["action"]), root_flag(results_root)
        ),
    )
    leave_as(job)


def follow(job: Job, *, as_json: bool, timeout: float | None = None) -> None:
    """Wait for the end with a progress bar on a terminal, JSON lines on stderr for machines,
    silence in a plain pipe."""
    from mae_skill.errors import JobCanceledError, JobFailedError, StorageError

    deadline = None if timeout is None else time.monotonic() + timeout
    bar = _Bar() if sys.stderr.isatty() and not as_json else None
    last: Any = None
    try:
        while True:
            try:
                job.wait(timeout=0.2)
                return
            except (JobFailedError, JobCanceledError):
                return  # the caller prints how it ended, then `leave_as` raises
            except StorageError:
                if deadline is not None and time.monotonic() > deadline:
                    raise
            if bar is not None or as_json:
                progress = _progress(job)
                if progress != last:
                    last = progress
                    if bar is not None:
                        bar.show(progress)
                    else:
                        click.echo(_line(job, progress), err=True)
    finally:
        if bar is not None:
            bar.close()


def _progress(job: Job) -> dict[str, Any]:
    document = _status(job)
    progress = document.get("progress")
    return (
        dict(progress)
        if isinstance(progress, dict)
        else {
            key: document[key]
            for key in ("epoch", "max_epoch", "step", "max_step", "eta", "kpi", "message")
            if key in document
        }
    )


def _line(job: Job, progress: dict[str, Any]) -> str:
    return one_line({"id": job.id, "state": str(job.state), **progress})


class _Bar:
    """One rich progress bar fed from a job's own status lines."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.progress.add_task("waiting", total=None, detail="")
        self.progress.start()

    def show(self, fields: dict[str, Any]) -> None:
        total, done = fields.get("max_epoch"), fields.get("epoch")
        kpi = fields.get("kpi")
        detail = (
            " ".join(f"{key} {show(value)}" for key, value in kpi.items())
            if isinstance(kpi, dict)
            else ""
        )
        described = f"epoch {done}/{total}" if total else str(fields.get("message") or "running")
        self.progress.update(
            self.task, description=described, total=total, completed=done or 0, detail=detail
        )

    def close(self) -> None:
        self.progress.stop()


@jobs.command()
@click.argument("job_id", metavar="JOB")
@results_root_option
@json_option
def cancel(job_id: str, results_root: str | None, as_json: bool) -> None:
    """Stop a job: every process of it, with a grace period.

    A job that has ended is left as it is.
    """
    job = _job(job_id, results_root)
    job.cancel()
    document = {"id": job.id, "state": str(job.state)}
    emit(
        document,
        as_json=as_json,
        text=pairs(document),
        next_commands=next_for(job.id, document["state"], "", root_flag(results_root)),
    )


@jobs.command()
@click.argument("job_id", metavar="JOB")
@click.option("--wait", "waiting", is_flag=True, help="Stay until it ends.")
@click.option(
    "--lost",
    is_flag=True,
    help="The machine of a job in state UNKNOWN is gone for good; nothing of it runs any more.",
)
@click.option(
    "--env",
    metavar="K=V",
    multiple=True,
    help="Environment of the job, which no record holds; may be repeated.",
)
@results_root_option
@json_option
def resume(
    job_id: str,
    waiting: bool,
    lost: bool,
    env: tuple[str, ...],
    results_root: str | None,
    as_json: bool,
) -> None:
    """A new attempt in the same folder, from its newest checkpoint."""
    from mae_sdk.cli.run import environment

    resumed = _job(job_id, results_root).resume(environment(env), lost=lost)
    if waiting:
        follow(resumed, as_json=as_json)
    record = resumed.record
    document = {
        "id": resumed.id,
        "state": str(resumed.state),
        "attempt": len(record.get("attempts") or []),
    }
    following = next_for(
        resumed.id, str(document["state"]), str(record.get("action")), root_flag(results_root)
    )
    emit(document, as_json=as_json, text=pairs(document), next_commands=following)
    if waiting:
        leave_as(resumed)


@jobs.command()
@click.argument("job_id", metavar="JOB")
@results_root_option
@json_option
def metrics(job_id: str, results_root: str | None, as_json: bool) -> None:
    """The newest value of every figure of a job; of an AutoML job those of its best trial."""
    job = _job(job_id, results_root)
    found = job.metrics()
    document = {"id": job.id, "metrics": found}
    text = bounded(_flat_lines(found), more="--json")
    emit(
        document,
        as_json=as_json,
        text=text or "no figures yet",
        next_commands=next_for(
            job.id, str(job.state), str(job.record.get("action")), root_flag(results_root)
        ),
    )


def _flat_lines(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, dict):
        return [
            line
            for key, item in value.items()
            for line in _flat_lines(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [f"{prefix}  {show(value)}"]


@jobs.command("show")
@click.argument("job_id", metavar="JOB")
@results_root_option
@json_option
def show_(job_id: str, results_root: str | None, as_json: bool) -> None:
    """The whole record of a job: spec, attempts, files."""
    job = _job(job_id, results_root)
    document = {
        **job.record,
        "state": str(job.state),
        "folder": str(job.folder),
        "files": [str(path) for path in job.files()],
    }
    text = bounded(_flat_lines(document), more="--json")
    emit(
        document,
        as_json=as_json,
        text=text,
        next_commands=next_for(
            job.id, str(document["state"]), str(document.get("action")), root_flag(results_root)
        ),
    )
