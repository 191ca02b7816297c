"""The pruners of a study.

A pruner's resource is the epoch, counted from 1, or the step of a runner that reports by steps
alone; it compares the best values of trials so far. Optuna is imported inside functions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from mae_sdk.automl.options import AutoMLOptions

UNIT, OF_ALL = "unit", "of_all"
"""User attributes of a trial that reports by steps: that it does, and how many there will be."""

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


def pruner_name(options: AutoMLOptions, metrics: int, max_epochs: int | None) -> str:
    """The pruner that acts: ``none`` with several metrics, or where no epoch is left to save."""
    kind = "none" if metrics > 1 else options.pruner or "successive_halving"
    least = options.min_epochs or max(1, (max_epochs or 1) // 9)
    return "none" if max_epochs is not None and max_epochs <= least else kind


_TOO_SHORT = "none: the runs are too short; a runner that reports steps alone is judged by these"


def describe(options: AutoMLOptions, metrics: int, max_epochs: int | None) -> str:
    """The pruner of a study in words: where it decides, and what goes on there."""
    kind = pruner_name(options, metrics, max_epochs)
    if kind == "none":
        if metrics > 1:
            return "none: there is more than one metric"
        return "none" if options.pruner == "none" else _TOO_SHORT
    if kind == "successive_halving" and max_epochs is not None:
        going_on = rungs(max_epochs, options.min_epochs, options.reduction_factor)
        if not going_on:
            return _TOO_SHORT
        places = ", ".join(f"{share:.0%} after {epoch}" for epoch, share in going_on.items())
        least = options.reduction_factor
        return f"{kind}: go on {places} epochs, once {least} trials got there"
    if kind == "successive_halving" and options.min_epochs is None:
        going_on = rungs(100, None, options.reduction_factor)
        places = ", ".join(f"{share:.0%} after {part} %" for part, share in going_on.items())
        least = options.reduction_factor
        return f"{kind}: go on {places} of a complete run, once {least} trials got there"
    least = options.min_epochs or max(1, (max_epochs or 1) // 9)
    return f"{kind}: from {least} epochs on, or a ninth of a run that is reported by steps"


def shares_of_epochs(options: AutoMLOptions, metrics: int, max_epochs: int) -> tuple[float, float]:
    """The share of all epochs of a study that its trials run: at least, and likely; 1 is all.

    At least: no rung decides among fewer than ``reduction_factor`` trials, so those before run to
    their end, and every other one ends at the first rung. Likely: the trials after those first ones
    pass the rungs as often as the pruner lets them; of Hyperband and the median half the epochs.
    """
    kind, trials = pruner_name(options, metrics, max_epochs), options.max_trials
    if kind == "none":
        return 1.0, 1.0
    full = min(trials, options.reduction_factor - 1) if kind != "median" else min(trials, 4)
    if kind == "successive_halving":
        going_on = rungs(max_epochs, options.min_epochs, options.reduction_factor)
        if not going_on:
            return 1.0, 1.0
        first = min(going_on) / max_epochs
        likely, left, before = 0.0, 1.0, 0
        for rung, share in sorted(going_on.items()):
            likely += left * (rung - before) / max_epochs
            left, before = left * share, rung
        likely += left * (max_epochs - before) / max_epochs
    else:
        first, likely = (options.min_epochs or max(1, max_epochs // 9)) / max_epochs, 0.5
    rest = trials - full
    return (full + rest * first) / trials, (full + rest * max(first, likely)) / trials


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

    kind = pruner_name(options, metrics, max_epochs)
    if kind == "none" and metrics == 1 and options.pruner != "none":
        kind = options.pruner or "successive_halving"  # too short in epochs, not in steps
    min_epochs = options.min_epochs or max(1, (max_epochs or 1) // 9)
    if kind == "none":
        return pruners.NopPruner()
    if kind == "median":
        return _by_step_too(
            pruners.MedianPruner,
            (4, min_epochs - 1),
            lambda least, whole: pruners.MedianPruner(4, least - 1),
        )
    if kind == "hyperband":
        factor = options.reduction_factor
        return _by_step_too(
            pruners.HyperbandPruner,
            (min_epochs, max_epochs or "auto", factor),
            lambda least, whole: pruners.HyperbandPruner(least, whole, factor),
        )
    return _halving(options, max_epochs)


def _whole_steps(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> int | None:
    """How long a run is in steps: as its runner says (``max_step``), else as the longest complete
    trial; None before that is known."""
    from optuna.trial import TrialState

    if OF_ALL in trial.user_attrs:
        return int(trial.user_attrs[OF_ALL])
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max((max(t.intermediate_values) for t in ended if t.intermediate_values), default=None)


def _by_step_too(
    kind: type[optuna.pruners.BasePruner],
    of_epochs: tuple[Any, ...],
    of_steps: Callable[[int, int], optuna.pruners.BasePruner],
) -> optuna.pruners.BasePruner:
    """A pruner of Optuna, whose numbers are epochs, that waits for a ninth of a run of a trial that
    reports by steps.

    Its class stays: samplers look for Hyperband's.

    Args:
        of_epochs: its arguments.  of_steps: makes one, from a ninth of a run and the run in steps.
    """
    inner: dict[int, optuna.pruners.BasePruner] = {}

    class ByStepToo(kind):  # type: ignore[valid-type,misc]
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            if UNIT not in trial.user_attrs:
                return bool(super().prune(study, trial))
            whole = _whole_steps(study, trial)
            if not whole:
                return False
            if whole not in inner:
                inner[whole] = of_steps(max(1, math.ceil(whole / 9)), whole)
            return inner[whole].prune(study, trial)

    return ByStepToo(*of_epochs)


def _halving(options: AutoMLOptions, max_epochs: int | None) -> optuna.pruners.BasePruner:
    """Asynchronous successive halving (arXiv 1810.05934) over the rungs of a run.

    How long a run is in steps says its runner (``max_step``), else the longest complete trial.

    No rung decides among fewer than ``reduction_factor`` trials. Of two trials no third can be
    kept: in a small search each would have to beat all before it, on a few early epochs. A decision
    is a function of what is stored alone: a restarted controller and every worker of a shared study
    decide alike.
    """
    from optuna.pruners import BasePruner
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    factor = options.reduction_factor

    def marks(
        trial: optuna.trial.FrozenTrial, others: Sequence[optuna.trial.FrozenTrial]
    ) -> dict[int, float]:
        """The rungs of a trial, in what it counts by."""
        by_step = UNIT in trial.user_attrs
        if not by_step and max_epochs is not None:
            return rungs(max_epochs, options.min_epochs, factor)
        ended = [t for t in others if t.state == TrialState.COMPLETE and t.intermediate_values]
        longest = max((max(t.intermediate_values) for t in ended), default=0)
        whole = trial.user_attrs.get(OF_ALL, longest)
        return rungs(whole, None if by_step else options.min_epochs, factor) if whole else {}

    class Halving(BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
            beside = [
                t
                for t in study.get_trials(deepcopy=False, states=states)
                if t.number != trial.number and t.user_attrs.get(UNIT) == trial.user_attrs.get(UNIT)
            ]
            shares = marks(trial, beside)
            steps = sorted(trial.intermediate_values)
            before = steps[-2] if len(steps) > 1 else 0
            reached = [rung for rung in shares if steps and before < rung <= steps[-1]]
            if not reached:
                return False
            sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
            own = sign * trial.intermediate_values[steps[-1]]
            others = [t.intermediate_values for t in beside]
            for rung in reached:
                there = [value_at(values, rung) for values in others]
                ranked = sorted(
                    [own, *(sign * value for value in there if value is not None)], reverse=True
                )
                kept = max(1, math.floor(shares[rung] * len(ranked) + 1e-9))
                if len(ranked) >= factor and own < ranked[kept - 1]:
                    return True
            return False

    return Halving()
