"""The pruners of a study.

A pruner's resource is the epoch, counted from 1; it compares the best values of trials so far.
Optuna is imported inside functions only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

    from mae_sdk.automl.options import AutoMLOptions

FIRST_SHARE = 0.4
"""Share of a run's epochs at the first rung that keeps one trial in `reduction_factor`."""
STEPS = (1.0, 1.5)
"""The rungs, as multiples of that first one."""
GATE = 0.25
"""A gate before the first rung, as a multiple of it."""
GATE_KEEPS = 2 / 3
"""The share of the trials that pass the gate: only the clearly hopeless end there."""


def rungs(
    epochs: int, min_epochs: int | None = None, reduction_factor: int = 3
) -> dict[int, float]:
    """Epoch → the share of the trials that go on beyond it.

    With the defaults two trials in three pass the gate at 10 % of the epochs, and one in three
    passes each of the rungs at 40 and 60 %. Between them nothing is decided: there, in the warm-up
    of real fine-tuning, low rates look best that end up worst. ``min_epochs`` moves the first rung
    there and leaves the gate out.

    The rungs were chosen on two analytic surfaces and on curves of real fine-tuning, and tested on
    two other surfaces; the gate's share was chosen on all of them: ``benchmarks/automl.py pruning``
    (41 to 46 % of the epochs saved on the surfaces; 50 % on the curves in random orders, 34 % in
    the order in which TPE drew them).
    """
    first = min_epochs or FIRST_SHARE * epochs
    wanted = [(first * step, 1 / reduction_factor) for step in STEPS]
    if min_epochs is None:
        wanted.insert(0, (first * GATE, GATE_KEEPS))
    found = {max(1, round(at)): share for at, share in wanted}
    return {at: share for at, share in found.items() if at < epochs}


def value_at(values: Mapping[int, float], rung: int) -> float | None:
    """A trial's first value at or after epoch `rung`; None where it did not get there."""
    reached = [step for step in values if step >= rung]
    return values[min(reached)] if reached else None


def make_pruner(
    options: AutoMLOptions, metrics: int, max_epochs: int | None
) -> optuna.pruners.BasePruner:
    """The pruner of the options.

    Args:
        metrics: the number of metrics.
        max_epochs: the epochs of every trial; None where the bundle does not say.
    """
    from optuna import pruners

    kind = "none" if metrics > 1 else options.pruner or "successive_halving"
    min_epochs = options.min_epochs or max(1, (max_epochs or 1) // 9)
    if kind == "none" or (max_epochs is not None and max_epochs <= min_epochs):
        return pruners.NopPruner()
    if kind == "median":
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=min_epochs - 1)
    if kind == "hyperband":
        return pruners.HyperbandPruner(min_epochs, max_epochs or "auto", options.reduction_factor)
    if max_epochs is None:
        return pruners.SuccessiveHalvingPruner(min_epochs, options.reduction_factor)
    return _halving(
        rungs(max_epochs, options.min_epochs, options.reduction_factor), options.reduction_factor
    )


def _halving(shares: Mapping[int, float], min_trials: int) -> optuna.pruners.BasePruner:
    """Asynchronous successive halving (arXiv 1810.05934) over given rungs.

    No rung decides among fewer than `min_trials` trials. Of two trials no third can be kept: in a
    small search each would have to beat all before it, on a few early epochs. A decision is a
    function of the stored reports alone: a restarted controller and every worker of a shared study
    decide alike.
    """
    from optuna.pruners import BasePruner
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    class Halving(BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            steps = sorted(trial.intermediate_values)
            before = steps[-2] if len(steps) > 1 else 0
            reached = [rung for rung in shares if steps and before < rung <= steps[-1]]
            if not reached:
                return False
            sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
            own = sign * trial.intermediate_values[steps[-1]]
            states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
            others = [
                t.intermediate_values
                for t in study.get_trials(deepcopy=False, states=states)
                if t.number != trial.number
            ]
            for rung in reached:
                there = [value_at(values, rung) for values in others]
                ranked = sorted(
                    [own, *(sign * value for value in there if value is not None)], reverse=True
                )
                kept = max(1, math.floor(shares[rung] * len(ranked) + 1e-9))
                if len(ranked) >= min_trials and own < ranked[kept - 1]:
                    return True
            return False

    return Halving()
