"""Writing reports: for who asks, and for a run that keeps its own up to date."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_skill.errors import MaeError, StorageError, UsageError

from mae_sdk import files
from mae_sdk.job import Job, RemoteJob, beside
from mae_sdk.jobs import records
from mae_sdk.jobs.metrics import mapping
from mae_sdk.jobs.records import Failure, JobRecord
from mae_sdk.report.chain import render_chain, render_jobs
from mae_sdk.report.facts import facts_of
from mae_sdk.report.notebook import frame
from mae_sdk.report.page import REPORT_NAME, render
from mae_sdk.run.report_process import is_short_trial
from mae_sdk.storage.output_files import OutputKind, output_file


@dataclass(frozen=True)
class Ending:
    """How a job is about to end: its record says so a moment after its report is written, with the
    same time, ``at``."""

    state: str
    reason: str = ""
    failure: Failure | None = None
    at: str = ""


@dataclass(frozen=True)
class Report:
    """A report that was written. A notebook shows it.

    Attributes:
        path: the file.
        outcome: of several jobs which is best and whether the others are told apart from it.
    """

    path: Path
    outcome: str = ""

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style stays in it."""
        return frame(self.path.read_text(encoding="utf-8"), 720)


PAGE = OutputKind(
    "a report",
    (".html", ".htm"),
    lambda head: b'<meta name="generator" content="mae report">' in head,
)


def make_report(
    job: Job,
    output: str | os.PathLike[str] | None = None,
    *,
    chain: bool = False,
    others: Sequence[Job] = (),
) -> Report:
    """Write the report of a job as it is now.

    Args:
        output: the file; None: `REPORT_NAME` (with `chain`: ``chain.html``, with `others`:
            ``jobs.html``) in the job's folder, or where that is not on this machine,
            ``<job>.html`` in the working directory.
        chain: one page with the jobs that it came from.
        others: one page with these jobs, whatever they have to do with one another.

    Raises:
        NotFoundError, DataError: there is no such job, or its record cannot be read.
        UsageError: `output` is no name of a page, or a file that is no report.
        StorageError: the file cannot be written.
    """
    if chain and others:
        raise UsageError(
            "a chain is of one job",
            field="chain",
            got=f"{1 + len(others)} jobs",
            expected="one job with chain, or several without",
            hint="leave --chain out: one page shows the jobs that are named",
        )
    name = "jobs.html" if others else "chain.html" if chain else REPORT_NAME
    path, said = _target(job, output, name), ""
    if others:
        text, said = render_jobs([job, *others])
    elif chain:
        text = render_chain(job)
    else:
        at_home = path.absolute().parent == job.folder.absolute()
        if at_home and not isinstance(job, RemoteJob):
            _write_trials(job, job.record)
        text = render(facts_of(job), at_home=at_home)
    return Report(_write(text, path), said)


def _target(job: Job, output: str | os.PathLike[str] | None, name: str) -> Path:
    if output is not None:
        return output_file(output, PAGE, "output")
    if (job.folder / records.RECORD_NAME).exists():
        return job.folder / name
    return Path(f"{job.id}.html").absolute()


def _write(text: str, path: Path) -> Path:
    try:
        files.write_text(path, text)
    except OSError as error:
        raise StorageError(
            f"the report cannot be written: {error.strerror or error}",
            field="output",
            got=str(path),
            hint="name a file that can be written: -o FILE",
        ) from error
    return path


def _write_trials(study: Job, record: JobRecord) -> None:
    """The pages of the trials that the page of a complete study leads to, where a trial was too
    short to have written its own: the spec as given, the auto recipe, the best."""
    if record.get("kind") != "automl" or records.state_of(record) != records.COMPLETE:
        return
    best = mapping(study.figures().get("study")).get("best")
    names = {f"{study.id}.t000", f"{study.id}.t001", str(mapping(best).get("child"))}
    for name in sorted(names):
        trial = beside(study, name)
        if trial is None or isinstance(trial, RemoteJob) or (trial.folder / REPORT_NAME).exists():
            continue
        with contextlib.suppress(MaeError, OSError):
            make_report(trial)


def refresh(job_dir: Path, ending: Ending | None = None) -> bool:
    """Write the report into a job's folder; for a run, which no report may hurt.

    Returns:
        Whether it was written: not for a folder that is no job's, nor for a trial of a few seconds,
        nor where anything goes wrong.
    """
    if os.environ.get("MAE_REPORT", "").lower() in ("off", "0", "false", "no"):
        return False
    try:
        record = records.read_record(job_dir)
        if is_short_trial(record, None if ending is None else ending.state):
            return False
        if ending is not None:
            more: dict[str, Any] = {} if ending.failure is None else {"failure": ending.failure}
            at = ending.at
            if not at and ending.state == records.COMPLETE:
                at = records.ended_at(job_dir, record)
            records.advance(record, ending.state, ending.reason, at=at, **more)
        _write_trials(Job(job_dir), record)
        text = render(facts_of(Job(job_dir), record, records.state_of(record)))
        files.write_text(job_dir / REPORT_NAME, text)
    except Exception:  # a report is a comfort: whatever is wrong with it ends no run
        return False
    return True
