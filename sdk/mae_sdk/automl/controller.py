"""``python -m mae_sdk.automl.controller JOB_DIR``: run, or take up again, the study of an AutoML
job.

The controller is the "runner" of an AutoML job: it writes ``status.json``, ``automl/*`` and, last,
``train/result.json``. It keeps as many trials running as allowed, watches them, prunes, retries and
tells the study; no rank of a trial decides anything.

Killed at any moment, it goes on where it was when it is started again: everything that a restart
needs is in the storage and in the trials' folders. The name of a trial's job is fixed by the
trial's number, so a trial that was RUNNING when the controller died is found again, and one whose
job was never made is started with the parameters that it was given. On SIGTERM the controller
leaves its trials running (exit 75), unless the job is being canceled.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.errors import JobFailedError, MaeError, StorageError
from mae_skill.spelling import count_of

from mae_sdk import files
from mae_sdk.automl import results
from mae_sdk.automl.objectives import (
    EPOCH,
    STEP,
    Objective,
    best,
    better_so_far,
    course,
    reports,
    spread,
)
from mae_sdk.automl.proposals import grid_size
from mae_sdk.automl.pruner import OF_ALL, UNIT
from mae_sdk.automl.setup import STUDY_NAME, followed, spec_of_trials
from mae_sdk.automl.shared_workers import Workers
from mae_sdk.automl.space import SearchSpace
from mae_sdk.automl.study import (
    AGAIN,
    FAILED,
    LOST,
    PRUNED,
    SILENT,
    controller_lock,
    counted,
    open_storage,
    open_study,
    require_optuna,
    spent,
)
from mae_sdk.automl.trials import Trials, TrialStatus
from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoints import TIE
from mae_sdk.jobs.records import CANCELED, COMPLETE, StudyRecord, is_terminal
from mae_sdk.jobs.status import StatusWriter, epochs_done, is_count
from mae_sdk.run import report_process, warm

if TYPE_CHECKING:
    import optuna

    from mae_sdk.automl.options import AutoMLOptions

INFRASTRUCTURE = frozenset({"lost_process", "storage", "signal"})
"""Failure categories that the configuration does not cause."""
HOPELESS = frozenset({"spec", "data", "dependency", "checkpoint", "no_metric"})
"""Failure categories that every trial would meet if trial 0, the spec as given, meets them."""
STOPPED = "stopped"
"""User attribute of a trial that was canceled with its study: it goes on when the study does."""
_ELSEWHERE = "another worker of its study runs it now"
_ENDS = {
    "timeout": "the time of its study was over",
    "plateau": "its study ended: its last trials were no better",
}
WITHDRAWN = "another worker had taken the last trial of the budget"
REPORT_SECONDS = 60.0
"""Between two reports of a study while it runs."""
POLL_SECONDS = 0.02
SLOW_POLL_SECONDS = 0.05
REMOTE_POLL_SECONDS = 2.0
BLIND_SECONDS = 600.0
"""How long a study goes on without a store that holds its trials; they run on."""


@dataclass
class Running:
    """A trial that has a job.

    Attributes:
        reported: places whose value the study knows: epochs from 1, or steps.
        size: of the trial's status files when they were last read, in bytes.
    """

    number: int
    child: Path
    trial: optuna.Trial
    reported: set[int] = field(default_factory=set)
    pruning: bool = False
    size: int = -1


class StudyLoop:
    """One controller's work on one study; see the module.

    Args:
        spec: that of trial 0, the spec as given.
        keys: dotted keys of ``batch``, ``accumulate`` and ``epochs`` in this bundle's spec.
        auto_spec: that of trial 1, around which the others vary; None: they vary `spec`.
        say: takes progress lines.
        changed: called after every trial that ends.
        stopped: why to stop now, or None.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        spec: Mapping[str, Any],
        objectives: Sequence[Objective],
        options: AutoMLOptions,
        trials: Trials,
        *,
        concurrency: int = 1,
        keys: Mapping[str, str] | None = None,
        started: float | None = None,
        say: Callable[[str], None] = print,
        changed: Callable[[], None] = lambda: None,
        stopped: Callable[[], str | None] = lambda: None,
        auto_spec: Mapping[str, Any] | None = None,
    ) -> None:
        self.study, self.space, self.spec = study, space, spec
        self.auto_spec = auto_spec
        self.objectives, self.options, self.trials = list(objectives), options, trials
        self.concurrency, self.keys = concurrency, dict(keys or {})
        self.started = time.time() if started is None else started
        self.say, self.changed, self.stopped = say, changed, stopped
        self.running: dict[int, Running] = {}
        self.workers = (
            Workers(study, self._owner(), options.worker_timeout, say)
            if options.storage is not None
            else None
        )
        self.reason = ""
        self.blind_since: float | None = None
        size = grid_size(space, options, auto_spec is not None)
        self.budget = options.max_trials if size is None else min(options.max_trials, size)

    def run(self) -> str:
        """Run until the budget, the time or the patience is spent.

        Trials of other workers are waited for, since theirs may have to run again here.

        Returns:
            Why it ended.

        Raises:
            JobFailedError: no trial can succeed: the spec as given fails, or the first trials all
                do.
        """
        self._reconcile()
        pause = POLL_SECONDS
        while True:
            moved = False

            # stop?
            interrupt = self.stopped()
            if interrupt:
                self.reason = interrupt
                return interrupt
            self.reason = self.reason or self._enough()
            if self.reason in ("timeout", "plateau"):
                for item in self.running.values():
                    self._cancel(item, _ENDS[self.reason])

            # start
            while not self.reason and len(self.running) < self.concurrency and self._has_budget():
                if not self._next():
                    break
                moved = True

            # watch
            for item in list(self.running.values()):
                moved |= self._watch_or_abandon(item)
            if self.workers is not None:
                moved |= self.workers.requeue_stale()

            # done?
            waits_for_others = self.workers is not None and bool(self.workers.others())
            is_spent = not self._has_budget() and not waits_for_others
            if not self.running and (self.reason or is_spent):
                return self.reason or "max_trials"

            longest = REMOTE_POLL_SECONDS if self.trials.root.remote else SLOW_POLL_SECONDS
            pause = POLL_SECONDS if moved else min(pause * 1.2, longest)
            time.sleep(pause)

    def _has_budget(self) -> bool:
        return spent(self.study) < self.budget

    def _reconcile(self) -> None:
        """Take up every RUNNING trial of ours: watch its job on, or start it as it was drawn."""
        import optuna
        from optuna.trial import TrialState

        owner = self._owner()
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            stored = frozen.user_attrs.get("owner")
            if stored is not None and stored != owner:
                continue  # another worker's
            if stored is None and self.options.storage is not None:
                continue  # its worker died before it could say so, or is about to
            self._launch(optuna.Trial(self.study, frozen._trial_id), resumed=True)

        for number in self.workers.requeued(owner) if self.workers is not None else ():
            if (child := self.trials.path(number)).exists():
                self.trials.cancel(child, _ELSEWHERE)

    def _owner(self) -> str:
        return self.trials.owner

    def _next(self) -> bool:
        """Ask for a trial and start it; whether there was room for it.

        Workers that ask at the same moment may overshoot the budget: the later numbers step back.
        """
        from optuna.trial import TrialState

        trial = self.study.ask()
        if sum(other.number < trial.number for other in counted(self.study)) >= self.budget:
            trial.set_user_attr(LOST, WITHDRAWN)
            self.study.tell(trial, state=TrialState.FAIL)
            return False
        self._launch(trial)
        return True

    def _launch(self, trial: optuna.Trial, resumed: bool = False) -> None:
        if "owner" not in trial.user_attrs:
            trial.set_user_attr("owner", self._owner())
        params = self._draw(trial)
        exact = dict(trial.user_attrs.get("exact") or {})
        if self._is_fixed(trial) and not exact:
            _, exact = self.space.given(self._spec(trial))
            if exact:
                trial.set_user_attr("exact", exact)
        drawn = {**params, **exact}
        base = self._spec(trial)
        searched = {item.key for item in self.space.parameters} | drawn.keys()
        links = self.trials.study.get("references")
        spec = followed(base, self.space.apply(base, drawn), links, fixed=searched)
        child = self.trials.create(trial.number, spec)
        if trial.user_attrs.get("child") != child.name:
            trial.set_user_attr("child", child.name)
        item = Running(trial.number, child, trial)
        frozen = self.study._storage.get_trial(trial._trial_id)
        item.reported = set(frozen.intermediate_values)
        item.pruning = "pruned_at" in frozen.user_attrs
        self.running[trial.number] = item
        self.trials.start(child)
        if item.pruning:  # decided before the controller died; the request may not have been made
            self._cancel(item, str(frozen.user_attrs.get(PRUNED, "pruned")))
        shown = ", ".join(
            f"{name.rpartition('.')[2]}={value:.4g}"
            if isinstance(value, float)
            else f"{name.rpartition('.')[2]}={value}"
            for name, value in drawn.items()  # what it runs with, in the range or not
        )
        again = trial.user_attrs.get(AGAIN)
        how = " taken up again" if resumed else "" if again is None else f" (trial {again} again)"
        which = "the auto recipe; " if self._is_fixed(trial) else ""
        which = "the spec as given; " if _draw_of(trial) == 0 else which
        self.say(f"trial {trial.number}{how}: {which}{shown}")

    def _draw(self, trial: optuna.Trial) -> dict[str, Any]:
        skip, spec = [], self._spec(trial)
        if self._is_fixed(trial):
            given, _ = self.space.given(spec)
            skip = [
                parameter.name for parameter in self.space.parameters if parameter.name not in given
            ]
        return self.space.suggest(trial, spec, skip)

    def _is_fixed(self, trial: optuna.Trial) -> bool:
        """Whether it runs a spec as it is: that given, or the auto recipe; or one of them again."""
        return _draw_of(trial) <= (self.auto_spec is not None)

    def _spec(self, trial: optuna.Trial) -> Mapping[str, Any]:
        """The spec that a trial varies."""
        return self.spec if _draw_of(trial) == 0 or self.auto_spec is None else self.auto_spec

    def _watch_or_abandon(self, item: Running) -> bool:
        """`_watch`; a trial that was requeued since this worker was silent too long is dropped."""
        import optuna

        if item.number not in self.running:
            return False
        try:
            if self.workers is not None:
                self.workers.heartbeat([other.trial for other in self.running.values()])
            moved = self._watch(item)
            self.blind_since = None
            return moved
        except StorageError as error:
            self._wait_for_store(error)
            return False
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            requeued = self.workers.requeued(self._owner()) if self.workers is not None else []
            lost = [number for number in requeued if number in self.running]
            if not lost:
                raise
            for number in lost:
                self._cancel(self.running.pop(number), _ELSEWHERE)
                self.say(f"trial {number}: given to another worker while this one was silent")
            return True

    def _wait_for_store(self, error: StorageError) -> None:
        """Go on though the trials cannot be read: behind a URL that passes.

        Raises:
            StorageError: it is no such failure, or has lasted too long.
        """
        if not (error.retryable and self.trials.root.remote):
            raise error
        if self.blind_since is None:
            self.blind_since = time.monotonic()
            self.say(f"the trials cannot be read now: {error}")
        if time.monotonic() - self.blind_since > BLIND_SECONDS:
            raise error

    def _watch(self, item: Running) -> bool:
        """Read one trial's status; whether something changed."""
        seen = self.trials.status(item.child)
        size = self.trials.size(item.child)
        ended = is_terminal(seen.state)
        if not ended and size == item.size:
            return False

        item.size = size
        lines = self.trials.lines(item.child)
        if len(self.objectives) == 1:
            self._report(item, lines, ended)
        if ended:
            self._end(item, seen, lines)
        return True

    def _report(self, item: Running, lines: list[dict[str, Any]], ended: bool) -> None:
        """Report new epochs or steps to the study; cancel the trial where the pruner says so."""
        objective = self.objectives[0]
        if _draw_of(item.trial) == 0 and not self._same_epochs():
            return
        unit, values = course(lines, objective.metric)
        if not self._counts_by(item, unit, lines):
            return
        so_far = better_so_far(values, objective)
        at = dict(values)
        for place, value in so_far if unit == EPOCH else spread(so_far):
            step = place + 1 if unit == EPOCH else place
            if step in item.reported or item.pruning:
                continue
            item.trial.report(value, step)
            item.reported.add(step)

            last = get_dotted(self.trials.spec(item.child), self.keys.get("epochs", ""))
            is_last = unit == EPOCH and isinstance(last, int) and step >= last
            if not (ended or is_last or self._is_kept(item)) and item.trial.should_prune():
                item.trial.set_user_attr("pruned_at", place)
                item.pruning = True
                # What is compared is the best so far, which may be of an epoch before this one.
                top = best([pair for pair in values if pair[0] <= place], objective)
                shown = f"{objective.metric} {at[place]:.5g}"
                if top is not None and top[0] != place:
                    shown += f" there, {top[1]:.5g} at best ({unit} {top[0]})"
                said = f"pruned after {unit} {place} at {shown}"
                item.trial.set_user_attr(PRUNED, said)
                self._cancel(item, said)
                self.say(f"trial {item.number}: {said}")

    def _counts_by(self, item: Running, unit: str, lines: list[dict[str, Any]]) -> bool:
        """Whether a trial's values are by epoch or step, the same as before; what a pruner has to
        know of that is stored with the trial."""
        attributes = item.trial.user_attrs
        if unit not in (EPOCH, STEP) or attributes.get(UNIT, unit) != unit:
            return False
        if unit == STEP:
            if UNIT not in attributes:
                item.trial.set_user_attr(UNIT, unit)
            steps = [line["max_step"] for line in lines if is_count(line.get("max_step"))]
            if steps and attributes.get(OF_ALL) != steps[-1]:
                item.trial.set_user_attr(OF_ALL, steps[-1])
        return True

    def _is_kept(self, item: Running) -> bool:
        """Whether no pruner ends it: those that the others are measured by, where they are two."""
        return self.auto_spec is not None and self._is_fixed(item.trial)

    def _same_epochs(self) -> bool:
        """Whether trial 0 runs as long as the others, so that its epochs compare with theirs."""
        key = self.keys.get("epochs", "")
        other = self.spec if self.auto_spec is None else self.auto_spec
        return bool(get_dotted(self.spec, key) == get_dotted(other, key))

    def cancel(self) -> None:
        """Cancel every trial with the study; a resumed study takes them up again."""
        for item in self.running.values():
            if not item.pruning:
                item.trial.set_user_attr(STOPPED, True)
            self._cancel(item, "canceled with its study")

    def _cancel(self, item: Running, why: str) -> None:
        self.trials.cancel(item.child, why)

    def _end(self, item: Running, seen: TrialStatus, lines: list[dict[str, Any]]) -> None:
        """Tell the study how a trial ended, or start it again."""
        from optuna.trial import TrialState

        trial = item.trial
        courses = [course(lines, objective.metric) for objective in self.objectives]
        losses = course(lines, TIE)
        found = [
            best(one.values, objective, losses.values if losses.unit == one.unit else ())
            for one, objective in zip(courses, self.objectives, strict=True)
        ]
        values = [pair for pair in found if pair is not None]

        if seen.state == COMPLETE and len(values) == len(found):
            if (unit := courses[0].unit) in (EPOCH, STEP):
                trial.set_user_attr(f"best_{unit}", values[0][0])
            self._tell(item, lines, [value for _, value in values], TrialState.COMPLETE)
        elif item.pruning:
            if values and (unit := courses[0].unit) in (EPOCH, STEP):
                trial.set_user_attr(f"best_{unit}", values[0][0])
            self._tell(item, lines, None, TrialState.PRUNED)
            # Its own page was written when the table of trials did not call it pruned yet.
            if (item.child / report_process.REPORT_NAME).exists():
                report_process.start_report(item.child)
        elif seen.state == CANCELED:
            self._end_canceled(item, lines, has_value=bool(values))
        elif seen.category in INFRASTRUCTURE:
            self._end_lost(item, seen, lines)
        elif not (seen.category == "out_of_memory" and self._halve(item)):
            self._end_failed(item, seen, lines)

    def _end_canceled(self, item: Running, lines: list[dict[str, Any]], has_value: bool) -> None:
        """It goes on if it was canceled with its study, which has been resumed."""
        from optuna.trial import TrialState

        if item.trial.user_attrs.get(STOPPED):
            item.trial.set_user_attr(STOPPED, False)
            self._retry(item, None)
            return

        item.trial.set_user_attr(FAILED, self.reason or "canceled from outside")
        judged = has_value and len(self.objectives) == 1
        self._tell(item, lines, None, TrialState.PRUNED if judged else TrialState.FAIL)

    def _end_lost(self, item: Running, seen: TrialStatus, lines: list[dict[str, Any]]) -> None:
        """Started again ``retries`` times; after that it counts as lost and spends no budget."""
        from optuna.trial import TrialState

        tries = int(item.trial.user_attrs.get("retries", 0))
        if tries < self.options.retries:
            item.trial.set_user_attr("retries", tries + 1)
            count = f"{tries + 1} of {self.options.retries}"
            self.say(f"trial {item.number}: {seen.message}; started again ({count})")
            self._retry(item, None)
            return

        item.trial.set_user_attr(LOST, seen.message)
        item.trial.set_user_attr(FAILED, seen.message)
        self._tell(item, lines, None, TrialState.FAIL)

    def _end_failed(self, item: Running, seen: TrialStatus, lines: list[dict[str, Any]]) -> None:
        """A configuration that failed counts as a bad one, so that the sampler learns from it."""
        from optuna.trial import TrialState

        missing = [
            objective.metric
            for objective in self.objectives
            if best(course(lines, objective.metric).values, objective) is None
        ]
        cause = seen.message
        if not cause:
            where = self.trials.looked(item.child, lines)
            cause = f"the trial reported no {' and no '.join(missing)}: {where}"
        category = seen.category
        if seen.state == COMPLETE and not all(
            any(reports(line, metric) for line in lines) for metric in missing
        ):
            category = "no_metric"  # not even a value that is not finite

        item.trial.set_user_attr(FAILED, cause)
        item.trial.set_user_attr("category", category)
        self.say(f"trial {item.number}: failed: {cause}")
        is_bad = len(self.objectives) == 1 and category not in HOPELESS
        self._tell(item, lines, None, TrialState.PRUNED if is_bad else TrialState.FAIL)

    def _retry(self, item: Running, spec: Mapping[str, Any] | None) -> None:
        self.trials.retry(item.child, spec)
        item.size = -1

    def _halve(self, item: Running) -> bool:
        """After a lack of memory, once per trial: half the batch, twice the accumulation.

        The effective batch stays. Whether the trial was started again.
        """
        batch_key, accumulate_key = self.keys.get("batch", ""), self.keys.get("accumulate", "")
        spec = self.trials.spec(item.child)
        batch, accumulate = get_dotted(spec, batch_key), get_dotted(spec, accumulate_key)
        halved = item.trial.user_attrs.get("halved")

        # Decided before the controller died; the retry was not made.
        if halved and halved.get(batch_key) != batch:
            for key, value in halved.items():
                set_dotted(spec, key, value)
            self._retry(item, spec)
            return True

        if halved or not isinstance(batch, int) or not isinstance(accumulate, int):
            return False
        if batch < 2 or batch % 2:
            return False

        halved = {batch_key: batch // 2, accumulate_key: accumulate * 2}
        for key, value in halved.items():
            set_dotted(spec, key, value)
        item.trial.set_user_attr("halved", halved)
        shown = " and ".join(f"{key}={value}" for key, value in halved.items())
        self.say(f"trial {item.number}: out of memory; started again with {shown}")
        self._retry(item, spec)
        return True

    def _tell(
        self,
        item: Running,
        lines: list[dict[str, Any]],
        values: list[float] | None,
        state: optuna.trial.TrialState,
    ) -> None:
        done = [line["epoch"] for line in lines if is_count(line.get("epoch"))]
        steps = [line["step"] for line in lines if is_count(line.get("step"))]
        known = epochs_done(lines)
        item.trial.set_user_attr("epochs", known or (max(done) + 1 if done else 0))
        if steps and not done:
            item.trial.set_user_attr("steps", max(steps))
        self.study.tell(item.trial, values, state=state)
        del self.running[item.number]
        self.changed()
        self.say(self.progress())
        self._give_up()

    def _give_up(self) -> None:
        """Raises `JobFailedError` where further trials cannot succeed either."""
        trials = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        failed = [t for t in trials if FAILED in t.user_attrs]
        first = [t for t in failed if t.number == 0 and t.user_attrs.get("category") in HOPELESS]
        all_failed = len(trials) >= 3 and len(failed) == len(trials)

        lost_in_a_row = 0
        for t in reversed(trials):
            if t.user_attrs.get(LOST, WITHDRAWN) in (WITHDRAWN, SILENT):
                break
            lost_in_a_row += 1

        if first:
            which = "the spec as given fails"
        elif all_failed:
            which = f"{count_of(len(failed), 'trial')} failed and none succeeded"
        elif lost_in_a_row >= 3:
            which = "the machine keeps failing"
        else:
            return

        for item in self.running.values():
            self._cancel(item, f"ended with its study: {which}")
        attributes = (first or failed)[-1].user_attrs
        raise JobFailedError(
            f"{which}: {attributes[FAILED]}", hint=f"see the log of {attributes.get('child')}"
        )

    def _enough(self) -> str:
        options = self.options
        if options.timeout is not None and time.time() - self.started >= options.timeout:
            return "timeout"
        if options.plateau and len(self.objectives) == 1 and self._since_best() >= options.plateau:
            return "plateau"
        return ""

    def _since_best(self) -> int:
        from optuna.trial import TrialState

        done = [
            t
            for t in self.study.get_trials(deepcopy=False)
            if t.state in (TrialState.COMPLETE, TrialState.PRUNED)
        ]
        done.sort(key=lambda t: (t.datetime_complete is not None, t.datetime_complete))
        since, top = 0, math.nan
        for trial in done:
            value = trial.value if trial.state == TrialState.COMPLETE else None
            if value is not None and (math.isnan(top) or self.objectives[0].better(value, top)):
                since, top = 0, value
            else:
                since += 1
        return since

    def progress(self) -> str:
        """One line: trials, best so far, and when it will be over at this pace."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        finished = [t for t in trials if t.state.is_finished() and LOST not in t.user_attrs]
        line = f"{len(finished)} of {count_of(self.budget, 'trial')}"
        complete = [t for t in finished if t.state == TrialState.COMPLETE]
        if complete and len(self.objectives) == 1:
            top = self.study.best_trial
            line += f"; best {self.objectives[0].metric} {top.value:.5g} (trial {top.number})"
        elif complete:
            line += f"; {len(self.study.best_trials)} on the Pareto front"
        if finished and len(finished) < self.budget:
            seconds = [
                (t.datetime_complete - t.datetime_start).total_seconds()
                for t in finished
                if t.datetime_complete and t.datetime_start
            ]
            rounds = math.ceil((self.budget - len(finished)) / self.concurrency)
            left = rounds * sum(seconds) / max(1, len(seconds))
            line += f"; about {left:.0f} s left"
        return line


def _draw_of(trial: optuna.Trial) -> int:
    """The number of the trial whose parameters it runs: its own, or that of one it runs again."""
    return int(trial.user_attrs.get(AGAIN, trial.number))


def main(argv: list[str] | None = None) -> int:
    """Run the study of the job folder named on the command line; the exit code is the job's."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m mae_sdk.automl.controller JOB_DIR", file=sys.stderr)
        return 2
    job_dir = Path(arguments[0]).resolve()
    try:
        return control(job_dir)
    except MaeError as error:
        print(f"error: {error}", file=sys.stderr)
        files.write_json(job_dir / "error.json", error.to_dict())
        return error.exit_code


def control(job_dir: Path) -> int:
    """Run the study to its end; returns 0, 6 (canceled) or 75 (told to stop, resumable).

    Raises:
        MaeError: the study cannot run or no trial succeeded.
    """
    from mae_sdk.automl.options import parse

    require_optuna()
    folder = job_dir / "automl"
    content = files.read_json(folder / STUDY_NAME)
    options = parse(content["options"])
    objectives = [Objective(**item) for item in content["objectives"]]
    space = SearchSpace.from_dict(content["space"])
    status = StatusWriter(job_dir / "status.json")
    stopped = _stop_requests(job_dir)

    with controller_lock(folder):
        files.remove_leftovers(job_dir.parent)  # trials whose making was cut short
        study, started = _open(job_dir, content, objectives, space, options)

        def say(line: str) -> None:
            print(line, flush=True)
            status.running(line)

        trials = Trials(job_dir, cast(StudyRecord, content), warm=options.warm)
        reported = time.monotonic()

        def changed() -> None:
            nonlocal reported
            results.write(study, folder, space, objectives, trials.content)
            if time.monotonic() - reported > REPORT_SECONDS:
                report_process.write_report(job_dir)
                reported = time.monotonic()

        status.started(f"AutoML over {', '.join(parameter.name for parameter in space.parameters)}")
        loop = StudyLoop(
            study,
            space,
            content["spec"],
            objectives,
            options,
            trials,
            concurrency=int(content["concurrency"]),
            keys=content["keys"],
            started=started,
            say=say,
            changed=changed,
            stopped=stopped,
            auto_spec=content.get("auto_spec"),
        )
        reason = loop.run()
        if reason == "preempted":
            return 75
        if reason == "canceled":
            loop.cancel()
            changed()
            return 6

        summary = results.finish(study, folder, space, objectives, trials.content, reason)
        if note := summary.get("importance_note"):
            say(str(note))
        of_data = (summary.get("data") or {}).get("warnings")
        more = {"data": {"warnings": of_data}} if of_data else {}
        status.success(f"AutoML ended ({reason})", kpi=summary["kpi"], **more)
        action = str(content.get("action", "train"))
        files.write_json(job_dir / action / "result.json", summary)
        warm.dismiss(folder)
    return 0


def _stop_requests(job_dir: Path) -> Callable[[], str | None]:
    """Notes SIGTERM and SIGINT from here on. What is returned tells whether a stop was asked for:
    ``canceled``, ``preempted`` or None."""
    signals: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def stopped() -> str | None:
        if (job_dir / records.CANCEL_NAME).exists():
            return "canceled"
        return "preempted" if signals else None

    return stopped


def _open(
    job_dir: Path,
    content: Mapping[str, Any],
    objectives: Sequence[Objective],
    space: SearchSpace,
    options: AutoMLOptions,
) -> tuple[optuna.Study, float]:
    """The study, and the moment when it was first started: a resumed one keeps its clock."""
    storage = open_storage(job_dir / "automl", options.storage)
    max_epochs = get_dotted(spec_of_trials(content), content["keys"].get("epochs", ""))
    study = open_study(
        storage,
        options.study or job_dir.name,
        objectives,
        space,
        content["spec"],
        options,
        max_epochs=max_epochs if isinstance(max_epochs, int) else None,
        auto_spec=content.get("auto_spec"),
    )
    started = study.user_attrs.get("started")
    if started is None:
        started = time.time()
        study.set_user_attr("started", started)
    return study, float(started)


if __name__ == "__main__":
    raise SystemExit(main())
