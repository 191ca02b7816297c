"""The workers of a shared study: each sends heartbeats, and trials of a stale worker are requeued.

Whether a worker is stale is judged by the watcher's own clock (nothing about its trials has changed
for so long), so clocks of different machines are never compared. It works alike over an RDB and
over a journal on a shared disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mae_sdk.automl.study import AGAIN, INSTEAD_OF, LOST, SILENT

if TYPE_CHECKING:
    import optuna

HEARTBEAT = "signed"
"""User attribute of a running trial: a counter that its worker increases."""


class Workers:
    """What one worker knows of the others.

    Args:
        owner: this worker's name, as it stands in its trials.
        timeout: seconds without a heartbeat after which a worker is stale.
    """

    def __init__(
        self, study: optuna.Study, owner: str, timeout: float, say: Callable[[str], None]
    ) -> None:
        self.study, self.owner, self.timeout, self.say = study, owner, timeout, say
        self._beats = 0
        self._next_beat = self._next_check = 0.0
        self._seen: dict[int, tuple[Any, float]] = {}

    def others(self) -> list[optuna.trial.FrozenTrial]:
        """The running trials of other workers, and those without an owner yet."""
        from optuna.trial import TrialState

        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in running if trial.user_attrs.get("owner") != self.owner]

    def requeued(self, name: str) -> list[int]:
        """Numbers of the trials of the worker ``name`` that were requeued while it was silent."""
        from optuna.trial import TrialState

        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [
            trial.number
            for trial in failed
            if trial.user_attrs.get(LOST) == SILENT and trial.user_attrs.get("owner") == name
        ]

    def heartbeat(self, trials: Iterable[optuna.Trial]) -> None:
        """Mark these trials as alive, at most every tenth of the timeout."""
        now = time.monotonic()
        if now < self._next_beat:
            return

        self._next_beat = now + self.timeout / 10
        self._beats += 1
        for trial in trials:
            trial.set_user_attr(HEARTBEAT, f"{self.owner}:{now:.0f}:{self._beats}")

    def requeue_stale(self) -> bool:
        """Requeue the trials of stale workers, with the same parameters; whether there were any."""
        now = time.monotonic()
        if now < self._next_check:
            return False
        self._next_check = now + min(5.0, self.timeout / 10)

        moved = False
        for trial in self.others():
            mark = (
                trial.user_attrs.get("owner"),
                trial.user_attrs.get(HEARTBEAT),
                len(trial.intermediate_values),
                len(trial.params),
            )

            known = self._seen.get(trial.number)
            if known is None or known[0] != mark:
                self._seen[trial.number] = (mark, now)
            elif now - known[1] > self.timeout:
                moved |= self._requeue(trial)
        return moved

    def _requeue(self, trial: optuna.trial.FrozenTrial) -> bool:
        import optuna

        attrs = trial.user_attrs
        try:
            optuna.Trial(self.study, trial._trial_id).set_user_attr(LOST, SILENT)
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False  # its worker, or another watcher, was faster

        if trial.params:
            again = {
                AGAIN: attrs.get(AGAIN, trial.number),
                INSTEAD_OF: trial.number,
                **({"exact": attrs["exact"]} if "exact" in attrs else {}),
            }
            self.study.enqueue_trial(dict(trial.params), user_attrs=again)
        self.say(
            f"trial {trial.number}: {attrs.get('owner', 'its worker')} has been silent for"
            f" {self.timeout:.0f} s; it will run again, from its first epoch"
        )
        return True
