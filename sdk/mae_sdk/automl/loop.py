"""The loop of a study: keep as many trials running as allowed, watch their status, prune, retry, tell.

All decisions are here, in the controller, never in the ranks of a trial. Everything that a restart needs is in the storage and in the
children's folders: trial number → child job is a fixed name, so a trial that was RUNNING when the controller died is found again, and one
whose child was never made is started with the parameters that it was given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.errors import JobFailedError

from mae_sdk.automl.metrics import best, epochs, reports
from mae_sdk.automl.options import AutoMLOptions, Objective
from mae_sdk.automl.shared_workers import Workers
from mae_sdk.automl.space import SearchSpace
from mae_sdk.automl.study import (
    AGAIN,
    FAILED,
    LOST,
    SILENT,
    better_so_far,
    counted,
    grid_size,
    spent,
)
from mae_sdk.automl.trials import Trials, TrialStatus

if TYPE_CHECKING:
    import optuna

INFRASTRUCTURE = frozenset({"lost_process", "storage", "signal"})
"""Failure categories that are no fault of the configuration."""
HOPELESS = frozenset({"spec", "data", "dependency", "checkpoint", "no_metric"})
"""Failure categories that every trial would meet when trial 0, the spec as given, meets them."""
STOPPED = "stopped"
"""User attribute of a trial that ended because its study was cancelled: it goes on when the study does."""
WITHDRAWN = "another worker had taken the last trial of the budget"
POLL_SECONDS = 0.02
SLOW_POLL_SECONDS = 0.05


@dataclass
class Running:
    """A trial that has a child job."""

    number: int
    child: Path
    trial: optuna.Trial
    reported: set[int] = field(default_factory=set)
    pruning: bool = False
    size: int = -1


class StudyLoop:
    """One controller's work on one study; see the module.

    Args:
        keys: dotted keys of ``batch``, ``accumulate`` and ``epochs`` in this bundle's spec, for out-of-memory and ``max_epochs``.
        say: takes progress lines. changed: called after every trial that ends. stopped: whether to stop, and why.
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
    ) -> None:
        self.study, self.space, self.spec = study, space, spec
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
        size = grid_size(space, options)
        self.budget = options.max_trials if size is None else min(options.max_trials, size)

    def run(self) -> str:
        """Until the budget, the time or the patience is spent, and no other worker's trial is left to wait for. Returns why it ended.

        Raises:
            JobFailedError: no trial can succeed: the spec as given fails, or the first trials all do.
        """
        self._reconcile()
        idle = POLL_SECONDS
        while True:
            moved = False
            interrupt = self.stopped()
            if interrupt:
                self.reason = interrupt
                return interrupt
            if not self.reason:
                self.reason = self._enough()
            if self.reason in ("timeout", "plateau") and self.running:
                for item in self.running.values():
                    self._cancel(item)
            while (
                not self.reason
                and len(self.running) < self.concurrency
                and spent(self.study) < self.budget
            ):
                if not self._next():
                    break
                moved = True
            for item in list(self.running.values()):
                moved |= self._watch_or_lose(item)
            if self.workers is not None:
                moved |= self.workers.look()
            if not self.running and (
                self.reason
                or (
                    spent(self.study) >= self.budget
                    and not (self.workers and self.workers.others())
                )
            ):
                return self.reason or "max_trials"
            idle = POLL_SECONDS if moved else min(idle * 1.2, SLOW_POLL_SECONDS)
            time.sleep(idle)

    def _reconcile(self) -> None:
        """Take up every RUNNING trial of this study that is ours: its child is observed further, or started with the same parameters."""
        import optuna
        from optuna.trial import TrialState

        owner = self._owner()
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            stored = frozen.user_attrs.get("owner")
            if stored is not None and stored != owner:
                continue  # another worker's
            if stored is None and self.options.storage is not None:
                continue  # drawn by a worker that died before it signed, or is about to sign
            self._launch(optuna.Trial(self.study, frozen._trial_id), resumed=True)
        for number in self.workers.taken(owner) if self.workers is not None else ():
            if (child := self.trials.path(number)).exists():
                self.trials.cancel(child)  # others run it now

    def _owner(self) -> str:
        return self.trials.owner

    def _next(self) -> bool:
        """Ask for a trial and start it. Workers that asked at the same moment may overshoot the budget: the later numbers step back."""
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
        if trial.number == 0 and not exact:
            _, exact = self.space.given(self.spec)
            if exact:
                trial.set_user_attr("exact", exact)
        spec = self.space.apply(self.spec, {**params, **exact})
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
            self._cancel(item)
        shown = ", ".join(
            f"{name.rpartition('.')[2]}={value:.4g}"
            if isinstance(value, float)
            else f"{name.rpartition('.')[2]}={value}"
            for name, value in params.items()
        )
        again = trial.user_attrs.get(AGAIN)
        how = " taken up again" if resumed else "" if again is None else f" (trial {again} again)"
        self.say(
            f"trial {trial.number}{how}: {'the spec as given; ' if trial.user_attrs.get(AGAIN, trial.number) == 0 else ''}{shown}"
        )

    def _draw(self, trial: optuna.Trial) -> dict[str, Any]:
        skip = []
        if trial.user_attrs.get(AGAIN, trial.number) == 0:
            given, _ = self.space.given(self.spec)
            skip = [knob.name for knob in self.space.knobs if knob.name not in given]
        return self.space.suggest(trial, self.spec, skip)

    def _watch_or_lose(self, item: Running) -> bool:
        """`_watch`; a trial that others have given up, since this worker was silent for too long, is let go."""
        import optuna

        if item.number not in self.running:
            return False
        try:
            if self.workers is not None:
                self.workers.sign([other.trial for other in self.running.values()])
            return self._watch(item)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            gone = (
                [number for number in self.workers.taken(self._owner()) if number in self.running]
                if self.workers is not None
                else []
            )
            if not gone:
                raise
            for number in gone:
                self._cancel(self.running.pop(number))
                self.say(f"trial {number}: given to another worker while this one was silent")
            return True

    def _watch(self, item: Running) -> bool:
        """Look at one child; True when something changed."""
        from mae_sdk.jobs.records import CANCELED, COMPLETE, ERROR

        seen = self.trials.status(item.child)
        try:
            size = (item.child / "status.json").stat().st_size
        except OSError:
            size = 0
        ended = seen.state in (COMPLETE, ERROR, CANCELED)
        if not ended and size == item.size:
            return False
        item.size = size
        records = self.trials.lines(item.child)
        if len(self.objectives) == 1:
            self._report(item, records, ended)
        if ended:
            self._end(item, seen, records)
        return True

    def _report(self, item: Running, records: list[dict[str, Any]], ended: bool) -> None:
        for epoch, value in better_so_far(
            epochs(records, self.objectives[0].metric), self.objectives[0]
        ):
            step = epoch + 1
            if step in item.reported or item.pruning:
                continue
            item.trial.report(value, step)
            item.reported.add(step)
            last = get_dotted(self.trials.spec(item.child), self.keys.get("epochs", ""))
            if (
                not ended
                and not (isinstance(last, int) and step >= last)
                and item.trial.should_prune()
            ):
                item.trial.set_user_attr("pruned_at", epoch)
                item.pruning = True
                self._cancel(item)
                self.say(
                    f"trial {item.number}: pruned after epoch {epoch} at {self.objectives[0].metric} {value:.5g}"
                )

    def cancel(self) -> None:
        """Stop every trial because the study is cancelled; a resumed study takes them up again."""
        for item in self.running.values():
            if not item.pruning:
                item.trial.set_user_attr(STOPPED, True)
            self._cancel(item)

    def _cancel(self, item: Running) -> None:
        self.trials.cancel(item.child)

    def _end(self, item: Running, seen: TrialStatus, records: list[dict[str, Any]]) -> None:
        from optuna.trial import TrialState

        from mae_sdk.jobs.records import COMPLETE

        trial = item.trial
        values = [
            best(epochs(records, objective.metric), objective) for objective in self.objectives
        ]
        found = [value for value in values if value is not None]
        if seen.state == COMPLETE and len(found) == len(values):
            trial.set_user_attr("best_epoch", found[0][0])
            self._tell(item, records, [value for _, value in found], TrialState.COMPLETE)
            return
        if item.pruning:
            self._tell(item, records, None, TrialState.PRUNED)
            return
        if seen.state == "CANCELED" and trial.user_attrs.get(
            STOPPED
        ):  # the study was cancelled, and has been resumed
            trial.set_user_attr(STOPPED, False)
            self.trials.retry(item.child, None)
            item.size = -1
            return
        if seen.state == "CANCELED":
            cause = self.reason or "cancelled from outside"
            trial.set_user_attr(FAILED, cause)
            self._tell(
                item,
                records,
                None,
                TrialState.PRUNED if found and len(values) == 1 else TrialState.FAIL,
            )
            return
        if seen.category in INFRASTRUCTURE:
            tries = int(trial.user_attrs.get("retries", 0))
            if tries < self.options.retries:
                trial.set_user_attr("retries", tries + 1)
                self.say(
                    f"trial {item.number}: {seen.message}; started again ({tries + 1} of {self.options.retries})"
                )
                self.trials.retry(item.child, None)
                item.size = -1
                return
            trial.set_user_attr(LOST, seen.message)
            trial.set_user_attr(FAILED, seen.message)
            self._tell(item, records, None, TrialState.FAIL)
            return
        if seen.category == "out_of_memory" and self._halve(item):
            return
        missing = [
            o.metric for o, value in zip(self.objectives, values, strict=True) if value is None
        ]
        cause = seen.message or f"the trial reported no {' and no '.join(missing)}"
        category = seen.category
        if seen.state == COMPLETE and not all(
            any(reports(record, metric) for record in records) for metric in missing
        ):
            category = "no_metric"  # not even a value that is not finite
        trial.set_user_attr(FAILED, cause)
        trial.set_user_attr("category", category)
        self.say(f"trial {item.number}: failed: {cause}")
        bad = (
            TrialState.PRUNED
            if len(self.objectives) == 1 and category not in HOPELESS
            else TrialState.FAIL
        )
        self._tell(item, records, None, bad)

    def _halve(self, item: Running) -> bool:
        """Once a trial: half the batch with twice the accumulation, so that the effective batch stays."""
        batch_key, accumulate_key = self.keys.get("batch", ""), self.keys.get("accumulate", "")
        spec = self.trials.spec(item.child)
        batch, accumulate = get_dotted(spec, batch_key), get_dotted(spec, accumulate_key)
        halved = item.trial.user_attrs.get("halved")
        if (
            halved and halved.get(batch_key) != batch
        ):  # decided before the controller died; the retry was not made
            for key, value in halved.items():
                set_dotted(spec, key, value)
            self.trials.retry(item.child, spec)
            item.size = -1
            return True
        if (
            halved
            or not isinstance(batch, int)
            or not isinstance(accumulate, int)
            or batch < 2
            or batch % 2
        ):
            return False
        set_dotted(spec, batch_key, batch // 2)
        set_dotted(spec, accumulate_key, accumulate * 2)
        item.trial.set_user_attr("halved", {batch_key: batch // 2, accumulate_key: accumulate * 2})
        self.say(
            f"trial {item.number}: out of memory; started again with {batch_key}={batch // 2} and {accumulate_key}={accumulate * 2}"
        )
        self.trials.retry(item.child, spec)
        item.size = -1
        return True

    def _tell(
        self,
        item: Running,
        records: list[dict[str, Any]],
        values: list[float] | None,
        state: optuna.trial.TrialState,
    ) -> None:
        done = [record["epoch"] for record in records if isinstance(record.get("epoch"), int)]
        item.trial.set_user_attr("epochs", max(done) + 1 if done else 0)
        self.study.tell(item.trial, values, state=state)
        del self.running[item.number]
        self.changed()
        self.say(self.progress())
        self._give_up()

    def _give_up(self) -> None:
        trials = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        failed = [t for t in trials if FAILED in t.user_attrs]
        first = [t for t in failed if t.number == 0 and t.user_attrs.get("category") in HOPELESS]
        lost_in_a_row = 0
        for t in reversed(trials):
            if t.user_attrs.get(LOST, WITHDRAWN) in (WITHDRAWN, SILENT):
                break
            lost_in_a_row += 1
        if first or (len(trials) >= 3 and len(failed) == len(trials)) or lost_in_a_row >= 3:
            for item in self.running.values():
                self._cancel(item)
            cause = (first or failed)[-1].user_attrs[FAILED]
            which = (
                "the spec as given fails"
                if first
                else f"{len(failed)} trials failed and none succeeded"
                if len(failed) == len(trials)
                else "the machine keeps failing"
            )
            raise JobFailedError(
                f"{which}: {cause}",
                hint=f"see the log of {(first or failed)[-1].user_attrs.get('child')}",
            )

    def _enough(self) -> str:
        if self.options.timeout is not None and time.time() - self.started >= self.options.timeout:
            return "timeout"
        if (
            self.options.plateau
            and len(self.objectives) == 1
            and self._since_best() >= self.options.plateau
        ):
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
        line = f"{len(finished)} of {self.budget} trials"
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
            left = self.budget - len(finished)
            line += f"; about {math.ceil(left / self.concurrency) * sum(seconds) / max(1, len(seconds)):.0f} s left"
        return line
