"""A job, seen through its folder: nothing is kept in memory, so any process may hold one.

`Job` is a job whose folder is on this machine. `RemoteJob` is one behind a URL that runs, or ran,
elsewhere: it is read where it is, and brought here only to be resumed.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import numbers
import os
import shlex
import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from mae_skill.dotted import get_dotted
from mae_skill.errors import (
    DataError,
    DependencyError,
    JobCanceledError,
    JobFailedError,
    MaeError,
    NotFoundError,
    PreemptedError,
    StillRunningError,
    StorageError,
    UsageError,
)
from mae_skill.secret_names import is_secret_name
from mae_skill.spelling import and_more

from mae_sdk import files
from mae_sdk.jobs import metric_file, records
from mae_sdk.jobs import metrics as job_metrics
from mae_sdk.jobs.checkpoint_names import made_by_runner, results_of
from mae_sdk.jobs.checkpoints import INDEX_NAME, CheckpointIndex, read_index
from mae_sdk.jobs.config_file import SPEC
from mae_sdk.jobs.failure import explain_loss, failure
from mae_sdk.jobs.moved import former_folder, moved
from mae_sdk.jobs.outputs import BEST_NAME, ParentInfo, best_child, fetch, outputs_of
from mae_sdk.jobs.records import (
    Claimed,
    Failure,
    JobRecord,
    Launch,
    ProcessIdentity,
    ShownRecord,
    StudyRecord,
    misfit,
)
from mae_sdk.jobs.root import Root, check_id
from mae_sdk.jobs.status import (
    DONE,
    epochs_done,
    in_order,
    is_count,
    is_number,
    is_status_file,
    lines_of,
    metrics_of,
    parse_status,
    status_files,
    together,
    unreadable,
)
from mae_sdk.run import report_process
from mae_sdk.run.platform import (
    DEFAULT,
    EngineState,
    platform,
    platform_of,
    submit,
    was_submitted,
)
from mae_sdk.run.process import identify, is_alive
from mae_sdk.storage import urls

_NEVER_LAUNCHED_SECONDS = 60.0
_MAX_BYTES = 1 << 30
_NEVER_LAUNCHED = "it was never launched: its caller ended before that"
_SETTLING_SECONDS = 15.0
"""How long the record of a job that its engine does not know may still change."""
OUT_OF_SIGHT = "machine"
"""The field of the error of `Job.wait` for a job that cannot be seen."""
_UNSEEN_SECONDS = 120.0
"""How long `Job.wait` goes on for a job that cannot be seen."""
MAX_LINE = 20
"""Jobs that a model came through."""
_T = TypeVar("_T")


def children_of(job_dir: Path) -> list[str]:
    """The ids of the jobs beside a job's folder that name it, or a trial of it, as their parent."""
    found = []
    root, mine = Root(job_dir.parent), job_dir.name
    for name in root.ids():
        with contextlib.suppress(MaeError):
            parent = str(records.read_record(root.work_dir(name)).get("parent") or "")
            own = name == mine or name.startswith(f"{mine}.")
            if not own and (parent == mine or parent.startswith(f"{mine}.")):
                found.append(name)
    return found


def orphaned(job_id: str, children: Sequence[str]) -> str:
    """What is said of the jobs whose parent was removed."""
    return f"{job_id} was the parent of {and_more(children, 5)}: its model is gone"


def observe(job_dir: Path) -> tuple[JobRecord, str]:
    """The record and the true state of a job whose folder is here.

    A job that its platform no longer runs becomes ERROR, or CANCELED when that was asked for.
    """
    before = records.read_record(job_dir)
    seen = observe_all([(job_dir, before)])[0]
    was_over, is_over = (
        records.last_attempt(record)["state"] in records.TERMINAL for record in (before, seen[0])
    )
    if is_over and not was_over:  # nobody else is left to write its report
        report_process.start_report(job_dir)
    return seen


def observe_all(jobs: Sequence[tuple[Path, JobRecord]]) -> list[tuple[JobRecord, str]]:
    """The records and true states of many jobs; each platform is asked once for all of its own."""
    observed = [(record, records.state_of(record)) for _, record in jobs]
    unfinished: dict[str, list[int]] = defaultdict(list)
    for index, (_, record) in enumerate(jobs):
        if _may_go_on(record):
            unfinished[_engine(record)].append(index)

    for indices in unfinished.values():
        asked = [jobs[index] for index in indices]
        for index, (job_dir, record), seen in zip(indices, asked, ask(asked), strict=True):
            if records.is_terminal(seen.state):
                if _is_end(job_dir, record, seen):
                    observed[index] = _settle(job_dir, record, seen)
            elif seen.state != records.RUNNING:
                observed[index] = (record, seen.state)
    return observed


def _may_go_on(record: JobRecord) -> bool:
    """Whether only the engine of a job knows what became of it: its record holds no end, or that
    of an attempt which was preempted, and which the engine may start again."""
    attempt = records.last_attempt(record)
    if attempt["state"] == records.PREEMPTED:
        return "handle" in attempt
    return not records.is_terminal(attempt["state"])


def _is_end(job_dir: Path, record: JobRecord, seen: EngineState) -> bool:
    """Whether what an engine says of a job that it does not run is the end of the job: one that was
    preempted otherwise waits to be resumed."""
    if records.last_attempt(record)["state"] != records.PREEMPTED:
        return True
    return _ends_waiting(record, seen) or os.path.lexists(job_dir / records.CANCEL_NAME)


def _ends_waiting(record: JobRecord, seen: EngineState) -> bool:
    """Whether a preempted job waits for nothing any more: it was canceled in its engine, or the
    engine that was to start it again has forgotten it."""
    if seen.state == records.CANCELED:
        return True
    return seen.forgotten and platform_of(record).starts_again


def _was_forgotten(job_dir: Path, record: JobRecord) -> bool:
    """Whether the engine of a job does not know it."""
    attempt = records.last_attempt(record)
    if not _may_go_on(record) or not was_submitted(attempt):
        return False
    (seen,) = ask([(job_dir, record)])
    return seen.forgotten


def _engine(record: JobRecord) -> str:
    """The name of the platform that runs a job."""
    try:
        return platform_of(record).name
    except (UsageError, DependencyError):  # made where that platform is installed
        return record.get("platform") or DEFAULT


def ask(jobs: Sequence[tuple[Path, JobRecord]]) -> list[EngineState]:
    """What their common platform says of jobs; one that was not submitted yet is not asked for.

    An engine that does not answer tells nothing: the jobs are UNKNOWN until it does.
    """
    try:
        place = platform_of(jobs[0][1])
    except (UsageError, DependencyError):  # made where that platform is installed
        return [EngineState(records.UNKNOWN)] * len(jobs)

    known = [job for job in jobs if was_submitted(records.last_attempt(job[1]))]
    try:
        answers = iter(place.state(known) if known else [])
    except StorageError:
        answers = iter([EngineState(records.UNKNOWN)] * len(known))
    return [
        next(answers) if was_submitted(records.last_attempt(record)) else _launching(job_dir)
        for job_dir, record in jobs
    ]


def _launching(job_dir: Path) -> EngineState:
    """Of a job that no platform has taken: it is about to be submitted, or its caller died."""
    try:
        # A time in the future, by a clock that was set back since, is as old as it is far away.
        age = abs(time.time() - (job_dir / records.RECORD_NAME).stat().st_mtime)
    except OSError:
        return EngineState(records.UNKNOWN)
    if age < _NEVER_LAUNCHED_SECONDS:
        return EngineState(records.PENDING)
    return EngineState(records.ERROR, _NEVER_LAUNCHED)


def _settle(job_dir: Path, record: JobRecord, seen: EngineState) -> tuple[JobRecord, str]:
    """The end of a job that its platform no longer runs: written down where that is possible.

    Whoever may only read the folder, or has a full disk, sees the same end unwritten.
    """
    try:
        with records.locked(job_dir):
            record = records.read_record(job_dir)
            if not _may_go_on(record):
                return record, records.state_of(record)
            (seen,) = ask([(job_dir, record)])
            # Another caller, or its engine, may have started it again.
            if not records.is_terminal(seen.state) or not _is_end(job_dir, record, seen):
                return record, records.state_of(record)

            platform_of(record).cancel(job_dir, record)  # ends what it left behind
            _advance_to_end(job_dir, record, seen)
            records.write_record(job_dir, record)
            with contextlib.suppress(OSError):
                (job_dir / records.CANCEL_NAME).unlink(missing_ok=True)
                (job_dir / records.ROOM_NAME).unlink(missing_ok=True)
            files.remove_leftovers(job_dir)
            files.remove_leftovers(job_dir / record["action"])
    except StorageError:
        if _may_go_on(record):
            _advance_to_end(job_dir, record, seen)
    return record, records.state_of(record)


def spec_of(job: Job) -> dict[str, Any]:
    """A job's spec.

    Raises:
        MaeError: it cannot be read.
    """
    found = _parsed_spec(job._text("spec.yaml"))
    return copy.deepcopy(found) if isinstance(found, dict) else {}


@lru_cache(maxsize=64)
def _parsed_spec(text: str) -> Any:
    """A report asks for a spec, and its parents' specs, many times."""
    from mae_skill.reader import parse_yaml

    return parse_yaml(text, "spec.yaml")


def setting(job: Job, key: str) -> Any:
    """A field of a job's spec, by its dotted key; None where there is none that can be read."""

    try:
        return get_dotted(spec_of(job), key)
    except MaeError:
        return None


def kind_left_by(job: Job) -> str:
    """The kind of model that a job left: ``checkpoint``, ``onnx``, ``engine`` or ``none``."""
    return outputs_of(job.id, job._root).kind


def study_options(job: Job) -> dict[str, Any]:
    """The AutoML options of a study; empty where they cannot be read."""
    found = job._document("automl/study.json").get("options")
    return found if isinstance(found, dict) else {}


def _advance_to_end(job_dir: Path, record: JobRecord, seen: EngineState) -> None:
    """Move the record of a job that nobody runs any more to CANCELED or ERROR."""
    if os.path.lexists(job_dir / records.CANCEL_NAME):
        _end(record, records.CANCELED, records.cancel_reason(job_dir))
        return
    if seen.state == records.CANCELED:
        _end(record, records.CANCELED, seen.reason)
        return
    problem = _problem(record, seen)
    if seen.category == "lost_process":
        problem = explain_loss(job_dir, problem)
    _end(record, records.ERROR, problem["message"], failure=problem)


def _end(record: JobRecord, state: str, reason: str, **fields: Any) -> None:
    """End a job that nobody runs. One whose last attempt was preempted has waited for the next: it
    is that one which ends."""
    last = records.last_attempt(record)
    if last["state"] == records.PREEMPTED:
        records.new_attempt(record, "waited after preemption")
        if "handle" in last:  # the same job of the engine
            records.last_attempt(record)["handle"] = last["handle"]
    records.advance(record, state, reason, **fields)


def _problem(record: JobRecord, seen: EngineState) -> Failure:
    """Why a job that its engine does not run is in ERROR, in words that claim no more than what is
    known: a forgotten job that never started has lost no supervisor."""
    attempt, job_id = records.last_attempt(record), record["id"]
    if not seen.forgotten:
        hint = (seen.error or {}).get("hint")
        return failure(seen.category, seen.reason, hint=hint, error=seen.error)
    unknown = f"{seen.reason}: it was canceled there or lost"
    if attempt["state"] == records.PREEMPTED:
        hint = f"mae jobs resume {job_id} goes on from its newest checkpoint"
        return failure(seen.category, f"it was preempted, and {unknown}", hint=hint)
    if attempt["state"] == records.PENDING and attempt["process"] is None:
        hint = f"mae jobs resume {job_id} submits it again"
        return failure(seen.category, f"it never started, and {unknown}", hint=hint)
    return failure(seen.category, f"its supervisor is gone, and {seen.reason}")


class State(str):
    """The state of a job, which equals the same word in any case: other SDKs write ``Complete``."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.upper() == other.upper()

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class StatusCall(partial[dict[str, Any]]):
    """`Job.status`, which is called. Compared with a word it would be unequal for ever."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            raise UsageError(
                "job.status is a call, and no state",
                field="job.status",
                got=other,
                expected=f"job.state == {other.upper()!r}, or job.status()['state']",
            )
        return super().__eq__(other)

    __hash__ = partial.__hash__


class Job:
    """One job of a local results root.

    Args:
        folder: its folder.

    Attributes:
        notices: what the caller of `create_job` should know of the job that it got.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.notices: list[str] = []
        self.folder = Path(os.path.realpath(folder))
        self.id = self.folder.name
        self._unseen_since: float | None = None

    @property
    def _longest_pause(self) -> float:
        """Longest polling interval of `wait`, in seconds."""
        return 0.25

    @property
    def record(self) -> ShownRecord:
        """``job.json``, with the failure of the last attempt under ``error``."""
        record = records.read_record(self.folder)
        return {**record, "error": records.last_attempt(record)["failure"]}

    @property
    def state(self) -> str:
        """PENDING, RUNNING, COMPLETE, ERROR, CANCELED, or UNKNOWN: it cannot be seen from here.

        It equals the same word in any case: ``job.state == "Complete"``.
        """
        return State(self.observe()[1])

    def observe(self) -> tuple[JobRecord, str]:
        """The record and the true state."""
        return observe(self.folder)

    @property
    def _awaits_launch(self) -> bool:
        """Whether nobody has handed the job to its platform: its caller is about to, or was lost.

        Raises:
            NotFoundError: there is no such job.
        """
        record = records.read_record(self.folder)
        attempt = records.last_attempt(record)
        is_first = len(record["attempts"]) == 1 and attempt["state"] == records.PENDING
        return is_first and not was_submitted(attempt)

    @property
    def preempted(self) -> bool:
        """Whether the job was preempted and waits for `resume` (no platform starts it again)."""
        record = records.read_record(self.folder)
        number = records.last_attempt(record)["number"]
        if records.last_attempt(record)["state"] != records.PREEMPTED:
            return False
        (seen,) = ask([(self.folder, record)])
        if not records.is_terminal(seen.state):
            return False

        # The next attempt may have begun, and even ended, since the record was read.
        return len(records.read_record(self.folder)["attempts"]) == number

    def _status_lines(self) -> list[dict[str, Any]]:
        return lines_of(self.folder)

    def _status_bytes(self) -> int:
        """The bytes of its status files together, and of its file of metrics where it has one."""
        total = 0
        name = records.read_record(self.folder)["launch"].get("metric_file")
        more = metric_file.paths(self.folder, name) if name else []
        for path in [*status_files(self.folder), *more]:
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    def _lines(self) -> list[dict[str, Any]]:
        launch = self._launch()
        found = self._status_lines()
        if name := launch.get("metric_file"):
            best = launch.get("best") or {}
            found += self._metric_lines(name, [*filter(None, [best.get("metric")])])
        return in_order(found)

    def _launch(self) -> Launch:
        return records.read_record(self.folder)["launch"]

    def _metric_lines(self, name: str, metrics: list[str]) -> list[dict[str, Any]]:
        return metric_file.lines(self.folder, name, metrics)

    def _unreported(self, record: ShownRecord, lines: list[dict[str, Any]]) -> list[str]:
        """A warning where a complete job did not report the metric that its bundle states."""
        launch = record["launch"]
        # Null stands for NaN and infinity, which are no value.
        kpis = [kpi for line in lines if isinstance(kpi := line.get("kpi"), dict)]
        found = {name: None for kpi in kpis for name, one in kpi.items() if is_number(one)}
        reported = list(found)
        metric = (launch.get("best") or {}).get("metric")
        is_over = records.last_attempt(record)["state"] == records.COMPLETE
        if metric is None or metric in reported or not is_over or record.get("kind") == "automl":
            return []
        known = f"it reported {', '.join(reported[:8]) or 'no metric'}"
        where = launch.get("metric_file")
        if where and not metric_file.matching(self._names(), where):
            known += f", and there is no file {where} in its folder"
        elif metric in metrics_of(lines):
            last = metrics_of(lines)[metric]
            known += (
                f", and of {metric} null alone, as which NaN and infinity are read"
                if last is None
                else f", and of {metric} {last!r}, which is no number"
            )
        elif where and metric_file.leads_out(self.folder, where):
            known += f"; {where} is a link that leads out of the job's folder, and is not read"
        elif where and not reported and metric_file.paths(self.folder, where):
            known += f"; {metric_file.looked(self.folder, where)}"
        return [f"the metric of its bundle, {metric}, was not reported: {known}"]

    def _unreadable(self, record: ShownRecord) -> list[str]:
        """A warning for each status file of a runner of another make that cannot be read."""
        is_over = records.last_attempt(record)["state"] in records.TERMINAL
        if record["launch"].get("result") or not is_over:
            return []
        return unreadable(self._names(), self._text)

    def _no_numbers(self, record: ShownRecord) -> list[str]:
        """A warning for each metric file of a job that is over with values that are not read."""
        name = record["launch"].get("metric_file")
        if not name or records.last_attempt(record)["state"] not in records.TERMINAL:
            return []
        return metric_file.unread(self._names(), self._bytes, name)

    def _not_written(self, record: ShownRecord) -> list[str]:
        """A warning where a complete job did not write the files that its bundle says it writes."""
        promised = record["launch"].get("outputs") or {}
        if not promised or records.last_attempt(record)["state"] != records.COMPLETE:
            return []
        there = {*self._names()}
        lost = [f"{key} ({name})" for key, name in promised.items() if name not in there]
        said = "files that its bundle calls outputs were not written: "
        return [said + ", ".join(lost)] if lost else []

    def wait(self, timeout: float | None = None) -> Job:
        """Wait for the end.

        Raises:
            JobFailedError, JobCanceledError, PreemptedError: it did not end COMPLETE.
            StillRunningError: `timeout` seconds are over; the job goes on.
            StorageError: its machine has been out of sight for minutes.
            UsageError: `timeout` is no number.
        """
        _require_number("timeout", timeout, numbers.Real)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.005
        while True:
            record, state = self.observe()
            attempt = records.last_attempt(record)
            if attempt["state"] == records.PREEMPTED and self.preempted:
                raise PreemptedError(
                    "the job was preempted after saving",
                    got=self.id,
                    hint=f"mae jobs resume {records.study_of(record) or self.id}",
                )
            if state == records.COMPLETE:
                return self
            if state == records.CANCELED:
                again = records.study_of(record) or self.id
                raise JobCanceledError(
                    "the job was canceled", got=self.id, hint=f"mae jobs resume {again}"
                )
            if state == records.ERROR:
                raise self._failed(attempt["failure"])
            if state != records.UNKNOWN:
                self._unseen_since = None
            elif self._unseen_since is None:
                self._unseen_since = time.monotonic()
            elif time.monotonic() - self._unseen_since > _UNSEEN_SECONDS:
                raise StorageError(
                    "the machine that runs the job has not shown itself for minutes",
                    field=OUT_OF_SIGHT,
                    got=self.id,
                    hint=f"wait again, or if it is gone: mae jobs resume {self.id} --lost",
                )
            if deadline is not None and time.monotonic() > deadline:
                raise StillRunningError(
                    "the time to wait is over, and the job goes on",
                    got=self.id,
                    hint=f"wait again, or look at it: mae jobs status {self.id}",
                )

            time.sleep(pause)
            pause = min(self._longest_pause, pause * 1.15)

    def _failed(self, problem: Mapping[str, Any] | None) -> JobFailedError:
        """The error for a job that ended in ERROR; one of its data has their exit code."""
        known = problem or {}
        cause = known.get("error") or {}
        message, hint = known.get("message") or "the job ended in ERROR", known.get("hint")
        if listed := [one for one in cause.get("problems") or () if isinstance(one, Mapping)]:
            said = (
                f"{one.get('field')}={one.get('got')!r}: {one.get('message')}" for one in listed
            )
            message = f"{message}: {'; '.join(said)}"
            first = {name: listed[0].get(name) for name in ("field", "got", "expected")}
            cause, hint = {**cause, **first}, listed[0].get("hint") or hint
        failed = JobFailedError(
            message,
            field=cause.get("field"),
            got=self.id if cause.get("got") is None else cause["got"],
            expected=cause.get("expected"),
            hint=hint,
        )
        if cause.get("exit_code") == DataError.exit_code:
            failed.exit_code = DataError.exit_code
        return failed

    @property
    def status(self) -> StatusCall:
        """``status()``: ``state, attempt, progress`` (the newest status line) and ``error``.

        Of a job that waits in the queue of its platform, ``waits_for`` is the reason that the
        engine gives.

        Of another bundle's job, ``epochs_done`` is added to a line that names an epoch: its runner
        may count from 0 or from 1. It is None where its lines do not tell.
        """
        return StatusCall(self._status)

    def _status(self) -> dict[str, Any]:
        record, state = self.observe()
        attempt = records.last_attempt(record)
        lines = self._lines()
        progress = lines[-1] if lines else {}
        if record.get("skill_dir") and is_count(progress.get("epoch")):
            progress = {**progress, DONE: epochs_done(lines)}
        waits = self._waits_for(record) if state == records.PENDING else None
        return {
            "state": state,
            **({"waits_for": waits} if waits else {}),
            "attempt": attempt["number"],
            "progress": progress,
            "error": attempt["failure"],
        }

    def _waits_for(self, record: JobRecord) -> str | None:
        """What the engine of a job that waits says it waits for."""
        if not was_submitted(records.last_attempt(record)):
            return None
        (seen,) = ask([(self.folder, record)])
        is_said = seen.state == records.PENDING and seen.reason != EngineState(seen.state).reason
        return seen.reason if is_said else None

    def data_warnings(self) -> list[str]:
        """What was said of the data by the last run, and by its plan: what was left out, and what
        makes its figures mean less. The plan alone knows what a parent was trained on."""
        planned = list(self.record.get("data_warnings") or [])
        for line in reversed(self._lines()):
            found = line.get("data")
            if isinstance(found, dict):
                said = [str(text) for text in found.get("warnings") or []]
                return [*said, *(text for text in planned if text not in said)]
        return planned

    def logs(self, tail: int | None = None) -> str:
        """What the runner has printed so far; before that, what the platform's engine has kept.

        Args:
            tail: only the last lines; 0: none (of `mae jobs logs`, ``-n 0`` is all of them).

        Raises:
            UsageError: `tail` is no whole number, or is below 0.
        """
        _require_number("tail", tail, numbers.Integral)
        if tail is not None and tail < 0:
            raise UsageError(
                "a number of lines cannot be negative",
                field="tail",
                got=tail,
                expected="0 for none, a number for as many of the last lines, None for all",
                hint=f"tail={-tail} gives the last {-tail}",
            )
        text = self._whole_log()
        if tail is None:
            return text
        return "".join(text.splitlines(keepends=True)[-tail:] if tail > 0 else [])

    def _whole_log(self) -> str:
        text = self._text("log.txt")
        if not text:
            record = self.record
            with contextlib.suppress(UsageError, DependencyError):  # not installed here
                text = platform_of(record).logs(self.folder, record)
        return text

    def metrics(self) -> dict[str, Any]:
        """The newest value of every metric."""
        return metrics_of(self._lines())

    def figures(self) -> dict[str, Any]:
        """The last and the best value of every metric; of an AutoML job its best trial too.

        ``last`` and ``best``: metric → value, epoch (from 0), step, both null where no record
        places the value; ``best_checkpoint``: the best one that is kept; ``study``: see
        `mae_sdk.jobs.metrics.study`; ``noise`` of an evaluation:
        metric → ``images, standard_error``; ``images``: field of a source → how many it has, and
        how many of them were trained on or held out; ``left_out``: field of a source → reason → how
        many files of it were not used, and the first of them; ``doubts``: why its result, or that
        of its best trial, says that nothing was learned, and of what was made of a model why that
        one's does; ``usage`` of an export: ``input`` and ``output``, what to feed it and what it
        answers, a sentence each; ``notes`` of the run on settings that nobody has set; its other
        ``warnings``.
        What is not known is left out.
        """
        record = self.record
        index = self._document(f"{record['action']}/{INDEX_NAME}")
        result = self._result()
        lines, stated = self._lines(), record["launch"].get("best")
        last, best = job_metrics.last_and_best(lines, job_metrics.described(index, stated))
        kept = job_metrics.best_checkpoint(index)
        if not index and stated and stated["metric"] in best:
            judged = job_metrics.judged(lines, stated)
            kept = job_metrics.best_by_name(results_of(self._names(), record["action"]), judged)
        is_study, doubts = record.get("kind") == "automl", self._doubts(record, result)
        inherited = self._inherited(record)
        notes = record.get("notes") or ()
        said = result.get("warnings")
        of_run = [str(one) for one in said] if isinstance(said, list) else []
        found = {
            "last": last,
            "best": best,
            "best_checkpoint": kept,
            "study": self._study(result) if is_study else None,
            "images": job_metrics.images(record.get("data") or {}, result),
            "left_out": job_metrics.left_out(record.get("data") or {}, result),
            "noise": job_metrics.noise_of(result),
            "usage": job_metrics.mapping(result.get("usage")),
            "doubts": [*doubts, *inherited],
            "notes": [one for one in of_run if one in notes],
            "warnings": [
                *(one for one in of_run if one not in notes),
                *inherited,
                *([f"the best trial: {one}" for one in doubts] if is_study else []),
                *(() if is_study or result else doubts),
                *self._unreported(record, lines),
                *self._unreadable(record),
                *self._no_numbers(record),
                *self._not_written(record),
            ],
        }
        return {name: value for name, value in found.items() if value}

    def stage(self) -> str | None:
        """``train.stage`` of its spec; None where there is none that can be read."""
        value = setting(self, "train.stage")
        return value if isinstance(value, str) else None

    def _doubts(self, record: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
        """Why the result, of a study that of its best trial, of a training without one its best
        checkpoint, says that nothing was learned."""
        if record.get("kind") == "automl":
            best = beside(self, str(self._document(f"automl/{BEST_NAME}").get("child")))
            return [] if best is None else doubts_of(best)
        found = result.get("doubts")
        if not result:  # it was stopped, or goes on: of the checkpoint that is the best until now
            name = "validation.json" if record["action"] == "train" else "metrics.json"
            found = self._document(f"{record['action']}/{name}").get("doubts")
        return [str(one) for one in found] if isinstance(found, list) else []

    def _inherited(self, record: Mapping[str, Any]) -> list[str]:
        """Why the model that it took is in doubt, where it says no such thing itself."""
        found: dict[str, list[str]] = {}
        own = self._doubts(record, self._result())
        for job in () if record["action"] in ("train", "evaluate") else made_from(self):
            with contextlib.suppress(MaeError):
                for doubt in job._doubts(job.record, job._result()):
                    if doubt not in own:
                        found.setdefault(doubt, []).append(job.id)
        return [of_model(doubt, names) for doubt, names in found.items()]

    def _study(self, result: Mapping[str, Any]) -> dict[str, Any]:
        top = self._document(f"automl/{BEST_NAME}")
        record = self._document("automl/study.json")
        if misfit(record, StudyRecord) is not None:
            record = {}
        about: dict[str, dict[str, Any]] = {}
        name = str(top.get("child"))
        with contextlib.suppress(UsageError):
            check_id(name)
            child = self._beside(name)
            about = job_metrics.described(child._document(f"{self.record['action']}/{INDEX_NAME}"))
        return job_metrics.study(
            self._text("automl/trials.csv"),
            top,
            record,
            {name: one.get("images") for name, one in about.items()},
            result.get("importance_note"),
        )

    def _result(self) -> dict[str, Any]:
        return self._document(f"{self.record['action']}/result.json")

    def _beside(self, job_id: str) -> Job:
        """Another job of the same root."""
        return open_job(common_root(self.folder, self.record), job_id)

    def _document(self, relative: str) -> dict[str, Any]:
        """A JSON file of the folder; empty where there is none that can be read."""
        try:
            found = files.parse_json(self._text(relative) or "{}")
            if relative.endswith(INDEX_NAME) and found:
                return read_index(self._text(relative), relative)
        except (ValueError, DataError):
            return {}
        return found if isinstance(found, dict) else {}

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows: the id, the state, the best and the last figures."""
        try:
            found = self.figures()
            lines = [f"{self.id}  {self.state}", *job_metrics.lines(found)]
        except MaeError as error:
            lines = [f"{self.id}  {error.message}"]
        printer.text("\n".join(lines))

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the first screen of the report. None where it cannot be read."""

        try:
            shown: str = importlib.import_module("mae_sdk.report.notebook").job_html(self)
        except MaeError:
            return None
        return shown

    def files(self) -> list[Path]:
        """What the job made, as its result names it; of a runner that names nothing, every file
        that it left in the job's folder.

        Empty before it is complete, and for a folder that is not on this machine.
        """
        record = self.record
        path = self.folder / str(record["launch"].get("result") or "")
        named = None
        with contextlib.suppress(OSError, ValueError):
            named = files.read_json(path).get("artefacts")
        if not isinstance(named, list):
            here = self.folder.is_dir() and records.state_of(record) == records.COMPLETE
            left = made_by_runner(Root(self.folder.parent).files(self.id)) if here else []
            return [self.folder / name for name in left]
        names = [name for name in named if isinstance(name, str)]
        former = former_folder(record, self.folder)
        if former is not None:
            names = moved(names, former, self.folder)
        found = [path.parent / name for name in names] + [self.folder / name for name in names]
        return [place for place in dict.fromkeys(found) if place.is_file()]

    def read(self, name: str) -> str:
        """The text of one file of the job's folder, wherever the folder is.

        Args:
            name: its path in the folder: ``train/status.json``.

        Raises:
            UsageError: it leads out of the folder. NotFoundError: there is no such file.
        """
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise UsageError(
                "not a file of the job", field="name", got=name, expected="a path in its folder"
            )
        return self._bytes(str(path)).decode(errors="replace")

    def _bytes(self, name: str) -> bytes:
        place = self.folder / name
        if not place.resolve().is_relative_to(self.folder):
            raise UsageError("a link leads out of the job's folder", field="name", got=name)
        try:
            return place.read_bytes()
        except OSError as error:
            raise NotFoundError(
                f"the job has no such file: {error.strerror}",
                field="name",
                got=name,
                expected=f"one of {', '.join(sorted(self._names())[:12])}",
            ) from None

    def _names(self) -> list[str]:
        """The files of its folder."""
        return list(Root(self.folder.parent).files(self.id))

    def events(self, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """The changes of its state, from the first on, as they happen; ends with the job.

        Each is ``attempt, state, at, reason``.

        Args:
            timeout: seconds without an end after which it stops.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        seen = 0
        while True:
            record, _ = self.observe()
            changes = [
                {"attempt": attempt["number"], **transition}
                for attempt in record["attempts"]
                for transition in attempt["transitions"]
            ]
            yield from changes[seen:]
            seen = max(seen, len(changes))
            if self._is_over(record) or (deadline is not None and time.monotonic() > deadline):
                return
            time.sleep(self._longest_pause)

    def delete(self) -> None:
        """Remove the job, its results and, of an AutoML job, its trials. It cannot be undone.

        A `UserWarning` names the jobs that took its model.

        Raises:
            UsageError: it has not ended; cancel it first.
        """
        doomed = [self, *self._trials()]
        for job in doomed:
            record, state = job.observe()
            if not job._is_over(record):
                raise UsageError(
                    f"a job that is {state} cannot be deleted",
                    field="job",
                    got=job.id,
                    expected="a job that has ended",
                    hint=f"mae jobs cancel {job.id}",
                )
        children = children_of(self.folder)
        for job in reversed(doomed):
            job._remove()
        if children:
            warnings.warn(orphaned(self.id, children), stacklevel=2)

    def _trials(self) -> list[Job]:
        root = common_root(self.folder, self.record)
        return [open_job(root, name) for name in root.ids() if name.startswith(f"{self.id}.")]

    def _remove(self) -> None:
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            raise StorageError(
                f"the job's folder cannot be removed: {error}", field="job", got=self.id
            ) from None

    def history(self) -> list[dict[str, Any]]:
        """One row per epoch with its metrics, in order, or per step where its runner counts no
        epochs; of an AutoML job one row per trial."""
        if self.record.get("kind") == "automl":
            import csv

            return [
                {name: job_metrics.number(text) for name, text in row.items()}
                for row in csv.DictReader(self._text("automl/trials.csv").splitlines())
            ]
        lines = self._lines()
        unit = "epoch" if job_metrics.by_epoch(lines) else "step"
        rows: dict[int, dict[str, Any]] = {}
        for line in lines:
            number, metrics = line.get(unit), line.get("kpi")
            if isinstance(number, int) and isinstance(metrics, dict):
                row = rows.setdefault(number, {unit: number})  # what was done again replaces it
                row.update({"step": line.get("step"), **metrics})
        return [rows[number] for number in sorted(rows)]

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
        """A file of the folder; empty where there is none that can be read."""
        try:
            return files.read_small(self.folder / relative, _MAX_BYTES)
        except OSError:
            return ""

    def _content(self, relative: str) -> bytes | None:
        """The content of a file of the folder; None where there is none that can be read."""
        try:
            return files.read_small_bytes(self.folder / relative, _MAX_BYTES)
        except OSError:
            return None

    def report(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        chain: bool = False,
        others: Sequence[Job] = (),
    ) -> Any:
        """The report of the job as it is now: one HTML file that opens offline.

        A notebook shows it; ``path`` is where it is.

        Args:
            output: where to write it, an ``.html``; None: ``report.html`` in the job's folder. An
                older report is replaced, another file is not.
            chain: with the reports of the jobs that it came from, in one page.
            others: with the reports of these jobs, in one page.

        Raises:
            UsageError: `output` is no name of a page, or a file that is no report.
            StorageError: it cannot be written.
        """

        # Reports are above jobs on the floor plan; this is the one door between them.
        make = importlib.import_module("mae_sdk.report.make")
        return make.make_report(self, output, chain=chain, others=others)

    @property
    def _root(self) -> str:
        return str(self.folder.parent)

    def best_checkpoint(self, policy: str = "best") -> Path:
        """The checkpoint by policy; of an AutoML job that of its best trial."""
        record = records.read_record(self.folder)
        if record.get("kind") == "automl":
            child = best_child(Root(self.folder.parent), self.id)
            return self._beside(child).best_checkpoint(policy)
        index = CheckpointIndex(self.folder / record["action"])
        if not index.path.exists():  # a runner that keeps none
            chosen = outputs_of(self.id, self.folder.parent).model(policy)
            return chosen.path
        return index.select(policy)

    def cancel(self, wait: float = 40.0, why: str = "") -> str:
        """Stop every process of the job: SIGTERM, then SIGKILL after the grace period.

        Args:
            wait: seconds to wait for its end.
            why: the reason that its record and its page will give; empty: it was asked for.

        Returns:
            The state; a job that has ended is left as it is. One that was preempted and waits to be
            resumed becomes CANCELED, and so does one that its engine has forgotten.

        Raises:
            UsageError, DependencyError: its platform is not installed here.
        """
        if _was_forgotten(self.folder, records.read_record(self.folder)):
            # Without the request it would be observed as canceled or lost, nobody knows which.
            records.request_cancel(self.folder, why)
        record, state = self.observe()
        if self._is_over(record):
            return self._stop_waiting(state)

        records.request_cancel(self.folder, why)
        with _asked():
            platform_of(record).cancel(self.folder, record)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and not self._is_over(record):
            time.sleep(0.02)
            record, state = self.observe()
        return self._stop_waiting(state) if self._is_over(record) else state

    def _stop_waiting(self, state: str) -> str:
        """End a job that was preempted and that nobody starts again; any other is left as it is.

        Args:
            state: that was observed.

        Returns:
            The state.
        """
        if state != records.PENDING:
            return state
        with records.locked(self.folder):
            record = records.read_record(self.folder)
            if records.last_attempt(record)["state"] == records.PREEMPTED and self.preempted:
                _end(record, records.CANCELED, records.cancel_reason(self.folder))
                records.write_record(self.folder, record)
                (self.folder / records.CANCEL_NAME).unlink(missing_ok=True)
        return records.state_of(record)

    def _is_over(self, record: JobRecord) -> bool:
        """Whether nothing of the job will run unless it is resumed."""
        state = records.last_attempt(record)["state"]
        return self.preempted if state == records.PREEMPTED else records.is_terminal(state)

    def _require_no_study(self, record: JobRecord) -> None:
        """A trial ends as its study says: one that went on by itself would be COMPLETE where the
        study, which never looks again, has it as pruned or failed."""
        study = beside(self, records.study_of(record) or "")
        if study is None:  # it was deleted: nothing is there to contradict
            return
        hint = f"mae jobs resume {study.id} goes on with its trials"
        if study.state == records.COMPLETE:
            spec = shlex.quote(str(self.folder / "spec.yaml"))
            again = f"mae run {record['action']} -e {spec} --automl-policy off"
            hint = f"its settings, run to the end as a job of their own: {again}"
        raise UsageError(
            f"a trial is started and ended by its study {study.id}, and is not resumed by itself",
            field="job",
            got=self.id,
            expected="a job that is no trial",
            hint=hint,
        )

    def resume(self, env: Mapping[str, str] | None = None, *, lost: bool = False) -> Job:
        """Open a new attempt in the same folder, from its newest checkpoint.

        A live job is left as it is.

        Args:
            env: settings of its environment. No record holds values: what the job was given must be
                given again, here or in this process.
            lost: the caller knows that the machine of a job in state UNKNOWN is gone; from here
                that cannot be seen.

        Raises:
            UsageError: it is complete, a trial of a study, its state cannot be seen from here, or a
                setting that it was given is missing.
        """
        record, state = self.observe()
        self._require_no_study(record)
        is_lost = state == records.UNKNOWN and lost
        if state in (records.COMPLETE, records.UNKNOWN) and not is_lost:
            hint = f"train on from it with a new job: mae run train --parent {self.id}"
            if record["action"] != "train":
                hint = f"run it anew: mae run {record['action']}"
            if state == records.UNKNOWN:
                hint = f"if its machine is gone for good: mae jobs resume {self.id} --lost"
            raise UsageError(
                f"a job that is {state} cannot be resumed",
                field="job",
                got=self.id,
                expected="ERROR, CANCELED or preempted",
                hint=hint,
            )
        if not is_lost and not self._is_over(record):
            return self

        # A root or a source that was named with its credentials need not be exported again.
        names = record.get("env_names") or []
        held = {k: v for k, v in urls.held_variables().items() if k in names}
        env = {**held, **(env or {})}
        self._require_settings(record, env)
        with records.locked(self.folder):
            record = records.read_record(self.folder)
            if is_lost:
                message = "its machine was reported gone"
                problem = failure("lost_process", message)
                records.advance(record, records.ERROR, message, failure=problem)
            if records.is_terminal(records.last_attempt(record)["state"]):
                records.new_attempt(record, "resumed")
                (self.folder / records.CANCEL_NAME).unlink(missing_ok=True)
                records.write_record(self.folder, record)

        from mae_sdk.jobs.resume import prepare

        self._know_places(record)
        try:
            prepare(self.folder)
        except MaeError as error:
            problem = failure("data", error.message, error=error.to_dict())
            records.update_record(
                self.folder,
                lambda record: records.advance(
                    record, records.ERROR, problem["message"], failure=problem
                ),
            )
            raise
        if why := records.last_attempt(records.read_record(self.folder)).get("anew"):
            self.notices.append(f"it starts anew: {why}")
        submit(self.folder, env)
        return self

    def _know_places(self, record: JobRecord) -> None:
        """Bring what an earlier version recorded up to what is checked of a command's words."""
        study = self.folder / "automl" / "study.json"
        trials = self._document("automl/study.json").get("launch") or {}
        if all("plain" in (one.get("words") or {"plain"}) for one in (record["launch"], trials)):
            return
        # Commands are made above jobs on the floor plan.
        know = importlib.import_module("mae_sdk.plan.command").know_places
        about = (record["action"], record.get("skill_dir"), self.folder / SPEC)
        records.update_record(self.folder, lambda record: know(record["launch"], *about))
        if know(trials, *about):
            files.write_json(study, {**files.read_json(study), "launch": trials})

    def _require_settings(self, record: JobRecord, env: Mapping[str, str]) -> None:
        """Refuse to resume without the settings that the job was started with.

        Raises:
            UsageError: one of them is neither in `env` nor in this process's environment.
        """
        names = record.get("env_names") or []
        missing = [name for name in names if name not in os.environ and name not in env]
        if not missing:
            return

        hint = "export them"
        open_names = [name for name in missing if not is_secret_name(name)]
        if open_names:  # a secret has no place on a command line, which everybody can see
            hint += f", or mae jobs resume {self.id} --env {open_names[0]}=VALUE"
        raise UsageError(
            "the job was started with settings of its environment that are not set here",
            field="env",
            got=missing,
            expected="each of them, with its value",
            hint=hint,
        )

    if not TYPE_CHECKING:  # its attributes stay checked

        def __getattr__(self, name: str) -> Any:
            """What upstream's SDK calls so, answered with ours."""
            from mae_sdk.jobs.other_sdk import no_attribute

            raise no_attribute(self, name)


@contextlib.contextmanager
def _asked() -> Iterator[None]:
    """Where an engine cannot be told to cancel a job, say that its folder holds the request."""
    try:
        yield
    except MaeError as error:
        error.message = f"the job's folder holds the request to cancel, but {error.message}"
        error.hint = (
            "its supervisor follows the request by itself: look with `mae jobs status`. A job that "
            "still waits in a queue ends when it starts; cancel it again once the engine answers"
        )
        raise


class RemoteJob(Job):
    """A job of a remote results root.

    On the machine that runs it, its scratch folder is read instead.

    Args:
        root: the results root.
        job_id: its id.
    """

    def __init__(self, root: Root, job_id: str) -> None:
        super().__init__(root.work_dir(job_id))
        self.root = root

    @property
    def _here(self) -> bool:
        return self.root.holds(self.id)

    @property
    def _root(self) -> str:
        return self.root.url

    @property
    def _longest_pause(self) -> float:
        return super()._longest_pause if self._here else 2.0

    @property
    def record(self) -> ShownRecord:
        record = self._read() if self._here else self.observe()[0]
        return {**record, "error": records.last_attempt(record)["failure"]}

    def observe(self) -> tuple[JobRecord, str]:
        """The record and the state.

        UNKNOWN when a run elsewhere has been silent for a while, and ERROR when it was never
        launched; neither is written.
        """
        if self._here:
            return super().observe()
        record = self._read()
        if (claimed := record.pop("claimed", None)) is not None:
            if self._is_lost(claimed) or self._silent_seconds() > _NEVER_LAUNCHED_SECONDS:
                problem = failure("lost_process", _NEVER_LAUNCHED)
                records.advance(record, records.ERROR, _NEVER_LAUNCHED, failure=problem)
            return record, records.state_of(record)

        state = records.state_of(record)
        attempt = records.last_attempt(record)
        if not _may_go_on(record):
            return record, state
        if "handle" in attempt and (seen := self._by_engine(record)) is not None:
            return seen
        is_preempted = attempt["state"] == records.PREEMPTED
        if not is_preempted and self._silent_seconds() > records.STALE_SECONDS:
            state = records.UNKNOWN
        return record, state

    def _by_engine(self, record: JobRecord) -> tuple[JobRecord, str] | None:
        """The record and the state as its engine has it; None where that is not seen from here.

        An end that the record does not hold is not written.
        """
        (seen,) = ask([(self.folder, record)])
        if seen.state == records.UNKNOWN:
            return None
        if records.is_terminal(seen.state):
            record = self._read()  # its end may have come in between
            if _may_go_on(record):
                self._end_by_engine(record, seen)
        elif seen.state == records.RUNNING:
            return record, records.state_of(record)
        return record, seen.state if seen.state == records.PENDING else records.state_of(record)

    def _end_by_engine(self, record: JobRecord, seen: EngineState) -> None:
        """Advance a record that holds no end to that of a job which its engine does not run.

        Not while its caller may be about to submit it, or its supervisor to write the end.
        """
        from mae_sdk.jobs import sync
        from mae_sdk.storage import transfer

        is_unknown = seen.category == "lost_process"
        waits = records.last_attempt(record)["state"] in (records.PENDING, records.PREEMPTED)
        canceled = transfer.exists(urls.join(self.root.job_url(self.id), records.CANCEL_NAME))
        if is_unknown and (waits or canceled) and self._silent_seconds() < _SETTLING_SECONDS:
            return
        if canceled:
            _end(record, records.CANCELED, sync.asked(self.root.job_url(self.id)))
            return
        is_preempted = records.last_attempt(record)["state"] == records.PREEMPTED
        if is_preempted and not _ends_waiting(record, seen):
            return
        if seen.state == records.CANCELED:
            _end(record, records.CANCELED, seen.reason)
            return
        problem = _problem(record, seen)
        _end(record, records.ERROR, problem["message"], failure=problem)

    @staticmethod
    def _is_lost(claimed: Claimed) -> bool:
        """Whether the caller, a process of this machine, ended before it had made the folder."""
        made = Path(claimed["folder"]) / records.RECORD_NAME
        return is_alive(claimed["process"]) is False and not os.path.lexists(made)

    @property
    def _awaits_launch(self) -> bool:
        if self._here:
            return super()._awaits_launch
        record = self._read()
        return "claimed" in record and self.observe()[1] == records.ERROR

    def _take_over(self, seen: JobRecord) -> bool:
        """Become the one who launches a job that was claimed and never launched.

        Args:
            seen: its record, by which that was found.

        Returns:
            False where it was launched, or may yet be.
        """
        from mae_sdk.jobs import sync

        if (claimed := seen.get("claimed")) is None:
            return False
        silent = None if self._is_lost(claimed) else _NEVER_LAUNCHED_SECONDS
        url = self.root.job_url(self.id)
        return sync.take_over(url, seen, identify(), _has_ended, silent)

    @property
    def preempted(self) -> bool:
        if self._here:
            return super().preempted
        record = self._read()
        attempt = records.last_attempt(record)
        if attempt["state"] != records.PREEMPTED:
            return False
        if "handle" in attempt:  # its engine may start it again
            (seen,) = ask([(self.folder, record)])
            if seen.state != records.UNKNOWN:
                return records.is_terminal(seen.state)
        return bool(attempt.get("told_to_stop"))

    def _read(self) -> JobRecord:
        return records.once_whole(lambda: self.root.record(self.id))

    def _silent_seconds(self) -> float:
        from mae_sdk.storage import transfer

        changed = transfer.info(urls.join(self.root.job_url(self.id), records.RECORD_NAME))["mtime"]
        return 0.0 if changed is None else max(0.0, time.time() - float(changed))

    def _beside(self, job_id: str) -> Job:
        return RemoteJob(self.root, job_id)

    def _launch(self) -> Launch:
        return super()._launch() if self._here else self._read()["launch"]

    def _metric_lines(self, name: str, metrics: list[str]) -> list[dict[str, Any]]:
        if self._here:
            return super()._metric_lines(name, metrics)
        return metric_file.lines_from(self._names(), self._bytes, name, metrics)

    def _status_lines(self) -> list[dict[str, Any]]:
        if self._here:
            return super()._status_lines()
        nested = self._text(f"{self._read()['action']}/status.json")
        return together(parse_status(self._text("status.json")), parse_status(nested))

    def _status_bytes(self) -> int:
        if self._here:
            return super()._status_bytes()
        name = PurePosixPath(self._read()["launch"].get("metric_file") or "").name
        return sum(
            size
            for found, size in self.root.files(self.id).items()
            if is_status_file(found) or (name and PurePosixPath(found).name == name)
        )

    def _bytes(self, name: str) -> bytes:
        return super()._bytes(name) if self._here else self.root.read(self.id, name)

    def _names(self) -> list[str]:
        return list(self.root.files(self.id))

    def _trials(self) -> list[Job]:
        return [self._beside(name) for name in self.root.ids() if name.startswith(f"{self.id}.")]

    def _remove(self) -> None:
        from mae_sdk.storage import transfer

        for name in self.root.files(self.id):
            transfer.delete(urls.join(self.root.job_url(self.id), name))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _text(self, relative: str) -> str:
        if self._here:
            return super()._text(relative)
        try:
            return self.root.read(self.id, relative).decode(errors="replace")
        except NotFoundError:
            return ""

    def _content(self, relative: str) -> bytes | None:
        if self._here:
            return super()._content(relative)
        try:
            return self.root.read(self.id, relative)
        except (NotFoundError, StorageError):
            return None

    def best_checkpoint(self, policy: str = "best") -> Path:
        """The checkpoint by policy, brought into the local scratch folder."""
        if self._here:
            return super().best_checkpoint(policy)
        chosen = outputs_of(self.id, self.root.url).model(policy)
        fetch([chosen])
        return chosen.path

    def cancel(self, wait: float = 40.0, why: str = "") -> str:
        """Cancel from the machine that runs it.

        A job that an engine runs is canceled from any machine.

        Raises:
            UsageError: the job runs on another machine, by itself.
        """
        if self._here:
            return super().cancel(wait, why)
        record, state = self.observe()
        stored = self._read()  # without an end that only its engine tells
        attempt = records.last_attempt(stored)
        has_ended = records.last_attempt(record)["state"] in records.TERMINAL
        if has_ended and not _was_forgotten(self.folder, stored):
            return state
        if "handle" not in attempt:
            does = "waits" if attempt["state"] == records.PREEMPTED else "runs"
            raise UsageError(
                f"the job {does} on another machine; cancel it there", field="job", got=self.id
            )
        return self._cancel_there(stored, wait, why)

    def _cancel_there(self, record: JobRecord, wait: float, why: str) -> str:
        """Leave a request for the supervisor, and have the engine end it."""
        from mae_sdk.jobs import sync
        from mae_sdk.storage import transfer

        url = self.root.job_url(self.id)
        request = (why or records.ON_REQUEST).encode()
        transfer.write_bytes(urls.join(url, records.CANCEL_NAME), request)
        with _asked():
            platform_of(record).cancel(self.folder, record)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            record = self._read()
            if not _may_go_on(record):
                return records.state_of(record)
            (seen,) = ask([(self.folder, record)])
            is_gone = records.is_terminal(seen.state)
            if is_gone and self._silent_seconds() > _SETTLING_SECONDS:
                _end(record, records.CANCELED, why or records.ON_REQUEST)
                sync.replace_record(url, record)  # nobody else will
                break
            time.sleep(0.5)
        return records.state_of(record)

    def resume(self, env: Mapping[str, str] | None = None, *, lost: bool = False) -> Job:
        """Bring the folder here and open a new attempt from its newest checkpoint.

        Raises:
            UsageError: it is complete, or shows signs of life elsewhere.
        """
        self._require_no_study(self.record)
        if not self._here:
            self._bring()
        super().resume(env, lost=lost)
        self.root.forget(self.id)  # its platform may have handed it over
        return self

    def _bring(self) -> None:
        """Make the job this machine's.

        Of several machines that try, one succeeds; it also tells the store at once.
        """
        from mae_sdk.jobs import sync
        from mae_sdk.storage import transfer

        there = self._read()
        record, state = self.observe()
        ended = records.is_terminal(records.last_attempt(record)["state"])
        if state == records.COMPLETE or (not ended and state != records.UNKNOWN):
            raise UsageError(
                f"a job that is {state} elsewhere cannot be resumed", field="job", got=self.id
            )

        url = self.root.job_url(self.id)
        silent = None if ended else records.STALE_SECONDS
        claimed = there.get("claimed")
        taken = (
            sync.take_over(url, there, identify(), _has_ended, silent)
            if claimed is None
            else self._take_over(there)
        )
        if not taken:
            raise UsageError(
                "another machine is about to resume the job, or its own has shown itself again",
                field="job",
                got=self.id,
                hint=f"mae jobs status {self.id}",
            )

        shutil.rmtree(self.folder, ignore_errors=True)  # what it left when it went elsewhere
        transfer.delete(urls.join(url, records.CANCEL_NAME))  # of an attempt that is over
        sync.pull(url, self.folder, claim=sync.new_claim())
        self.root.forget(self.id)
        if not records.is_terminal(records.last_attempt(there)["state"]):
            message = "the machine that ran it has not shown itself"
            if claimed is not None:
                message = _NEVER_LAUNCHED
            problem = failure("lost_process", message)
            records.update_record(
                self.folder,
                lambda record: records.advance(record, records.ERROR, message, failure=problem),
            )
        sync.replace_record(url, records.read_record(self.folder))


def awaits_launch(job: Job) -> bool:
    """Whether nobody has handed the job to its platform: its caller is about to, or was lost.

    Raises:
        NotFoundError: there is no such job.
    """
    return job._awaits_launch


def status_lines(job: Job) -> list[dict[str, Any]]:
    """The lines of its status files, wherever they are."""
    return job._status_lines()


def status_bytes(job: Job) -> int:
    """The bytes of the files with its metrics: what grows when there is something to read."""
    return job._status_bytes()


def content_of(job: Job, relative: str) -> bytes | None:
    """A file of a job's folder, wherever that is; None where there is none that can be read."""
    return job._content(relative)


def made_from(job: Job) -> list[Job]:
    """The jobs that a job's model came through, the nearest first, up to its training."""
    found: list[Job] = []
    last = job
    while len(found) < MAX_LINE and (not found or last.record["action"] != "train"):
        name = last.record.get("parent_automl") or last.record.get("parent")
        before = beside(last, str(name)) if name else None
        if before is None or before.id in {job.id, *(one.id for one in found)}:
            break
        found.append(before)
        last = before
    return found


def doubts_of(job: Job) -> list[str]:
    """Why a job's result says that nothing was learned; of a study why that of its best trial
    does."""
    with contextlib.suppress(MaeError):
        return job._doubts(job.record, job._result())
    return []


OF_MODEL = "its model is in doubt"


def of_model(doubt: str, names: Sequence[str]) -> str:
    """What a job says of a doubt that these jobs have found in the model that it took."""
    return f"{OF_MODEL} ({', '.join(names)}): {doubt}"


def beside(job: Job, job_id: str) -> Job | None:
    """Another job of the same root, by its whole id; None where there is none."""
    try:
        check_id(job_id)
        other = job._beside(job_id)
        return other if other.record else None
    except MaeError:
        return None


def common_root(job_dir: Path, record: Mapping[str, Any]) -> Root:
    """The root that a job shares with its trials: behind a URL where their platform takes them."""
    remote = record["launch"].get("remote")
    if remote is None or record.get("kind") not in ("automl", "trial"):
        return Root(job_dir.parent)
    with contextlib.suppress(UsageError, DependencyError):
        root = Root(remote.rpartition("/")[0])
        is_apart = platform(record.get("platform") or DEFAULT).apart
        if is_apart and root.work_dir(job_dir.name) == job_dir:
            return root
    return Root(job_dir.parent)


def bring(job: Job) -> None:
    """Make a job that ended behind a URL this machine's; one that is here is left as it is.

    Raises:
        UsageError: it is complete, runs, or another machine takes it.
    """
    if isinstance(job, RemoteJob) and not job._here:
        job._bring()


def trials_of(job: Job) -> list[Job]:
    """The trials of an AutoML job, the first one first; none of any other."""
    return sorted(job._trials(), key=lambda trial: trial.id)


def lines_said_by(job: Job) -> list[dict[str, Any]]:
    """The status lines of a job, and those that its runner keeps in files of its own."""
    return job._lines()


def size_of(job: Job) -> int | None:
    """The bytes of a job's folder and of its trials'; None where that is not on this machine."""
    if not job.folder.is_dir():
        return None
    total = 0
    for one in [job, *trials_of(job)]:
        for path in one.folder.rglob("*"):
            with contextlib.suppress(OSError):
                total += path.lstat().st_size
    return total


def take_over(root: Root, job_id: str, seen: JobRecord) -> bool:
    """Become the one who launches a job behind a URL that was claimed and never launched.

    Args:
        seen: its record, by which that was found.

    Returns:
        False where it was launched, or may yet be.
    """
    return RemoteJob(root, job_id)._take_over(seen)


def _has_ended(process: ProcessIdentity) -> bool:
    return is_alive(process) is False


def open_job(root: Root, job_id: str) -> Job:
    """The job of an id that exists."""
    return RemoteJob(root, job_id) if root.remote else Job(root.work_dir(job_id))


def list_jobs(root: Root, *, trials: bool = False) -> list[Job]:
    """The jobs of a root, newest first; trials of AutoML jobs on request."""
    jobs = [open_job(root, job_id) for job_id in root.ids() if trials or "." not in job_id]
    if root.remote:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(16) as pool:
            times = list(pool.map(_created, jobs))
    else:
        times = [_changed(job.folder) for job in jobs]

    dated = [(at, job) for at, job in zip(times, jobs, strict=True) if at is not None]
    return [job for _, job in sorted(dated, key=lambda pair: pair[0], reverse=True)]


def observe_jobs(jobs: Sequence[Job]) -> list[tuple[JobRecord, str] | None]:
    """The record and state of each job of a root, a platform being asked once for all of its own.

    None where the record cannot be read.
    """
    if any(isinstance(job, RemoteJob) for job in jobs):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(16) as pool:  # a remote root answers slowly
            return list(pool.map(lambda job: _unless_unreadable(job.observe), jobs))

    found = [_unless_unreadable(partial(records.read_record, job.folder)) for job in jobs]
    readable = [(job.folder, record) for job, record in zip(jobs, found, strict=True) if record]
    observed = iter(observe_all(readable))
    return [next(observed) if record else None for record in found]


def _unless_unreadable(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except (NotFoundError, DataError):
        return None


def _created(job: Job) -> str | None:
    try:
        return job.record.get("created_at") or ""
    except NotFoundError:
        return None
    except DataError:
        return ""


def _changed(folder: Path) -> str | None:
    """When a local job was made, from the time of its spec file: nothing is read.

    None where the folder holds no job. One that this user may not enter may hold one.
    """
    for name in ("spec.yaml", records.RECORD_NAME):
        try:
            return f"{os.lstat(f'{folder}/{name}').st_mtime:020.6f}"
        except FileNotFoundError:
            continue
        except OSError:
            return ""
    return None


def parent_info(parent_job_id: str, results_root: str | Path | None = None) -> ParentInfo:
    """What a job that is COMPLETE has left for the next one; see `outputs_of`.

    Raises:
        NotFoundError: no such job, or an AutoML job without a successful trial.
        UsageError: it is not COMPLETE, or the prefix is ambiguous.
    """
    return outputs_of(parent_job_id, results_root, record_of=_complete_record)


def _complete_record(root: Root, job_id: str) -> JobRecord:
    record, state = open_job(root, job_id).observe()
    if state == records.COMPLETE:
        return record

    verb = "wait" if state in (records.PENDING, records.RUNNING) else "resume"
    hint = f"mae jobs {verb} {job_id}"
    if record.get("kind") == "automl":
        hint += "; or pass one of its finished trials as the parent: mae jobs list --all"
    raise UsageError(
        f"the parent job is {state}",
        field="parent_job_id",
        got=job_id,
        expected="a job that is COMPLETE",
        hint=hint,
    )


def _require_number(name: str, value: Any, kind: type) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
        raise UsageError(
            "not a number",
            field=name,
            got=value,
            expected="a whole number" if kind is numbers.Integral else "seconds: a number",
        )
