"""Samplers whose proposals depend on (seed, trial number) and on the finished trials alone.

One exception: a controller that dies between two draws of one trial of NSGA-II may draw the second
otherwise, from the second generation on, since Optuna notes the parents in the study.

Imports Optuna: `study` imports this file when a study is opened.
"""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from mae_skill.errors import DependencyError
from optuna import distributions, samplers
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from mae_sdk.automl.options import AutoMLOptions
from mae_sdk.automl.proposals import grid, trial_seed
from mae_sdk.automl.space import Parameter, SearchSpace


def startup_trials(max_trials: int) -> int:
    """Trials before TPE starts to model: an eighth of the budget, between 3 and 10.

    Chosen by ``benchmarks/automl.py quality``.
    """
    return max(3, min(10, max_trials // 8))


def make_sampler(
    space: SearchSpace,
    spec: Mapping[str, Any],
    options: AutoMLOptions,
    metrics: int,
    auto_spec: Mapping[str, Any] | None = None,
) -> samplers.BaseSampler:
    """The sampler of a study with so many metrics.

    Trial 0 is the spec as given, trial 1 the auto recipe where there is one; then grid points are
    taken in order, or the points of a sequence (qmc); options with weights are drawn by them until
    TPE has a model.

    Raises:
        DependencyError: it needs a package that is not installed.
        UsageError: the grid is too large.
    """
    kind = options.sampler or ("nsga2" if metrics > 1 else "tpe")
    needs = {"cmaes": "cmaes", "qmc": "scipy"}.get(kind)
    if needs and importlib.util.find_spec(needs) is None:
        raise DependencyError(
            f"the sampler {kind} needs {needs}, which is not installed",
            field="automl.sampler",
            expected=needs,
            hint="pip install 'mae-skill[train]'",
        )
    first = [space.given(one)[0] for one in (spec, auto_spec) if one is not None]
    return _PerTrial(kind, space, options, first)


def _sampler_of_trial(
    kind: str, number: int, first: int, space: SearchSpace, options: AutoMLOptions
) -> samplers.BaseSampler:
    """Optuna's own sampler for the trial `number`, seeded by it; `first` trials are not drawn."""
    seed = trial_seed(options.seed, number)
    if kind == "cmaes":
        return samplers.CmaEsSampler(
            seed=seed,
            warn_independent_sampling=False,
            independent_sampler=samplers.RandomSampler(seed),
        )
    if kind == "nsga2":
        population = max(4, min(50, options.max_trials // 4))
        return samplers.NSGAIISampler(population_size=population, seed=seed)
    if kind in ("random", "grid"):
        return samplers.RandomSampler(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `group` and QMCSampler are marked experimental
        if kind == "qmc":
            return _SobolSequence(number, number - first, space, options.seed)
        return samplers.TPESampler(
            seed=seed,
            n_startup_trials=startup_trials(options.max_trials),
            multivariate=True,
            group=any(parameter.when or parameter.relations for parameter in space.parameters),
            warn_independent_sampling=False,
            constant_liar=True,
        )


class _SobolSequence(samplers.QMCSampler):
    """The point of a scrambled Sobol' sequence that belongs to a trial's number.

    Optuna counts the points in the study instead, where a controller that is killed between
    counting a point and using it loses the point.
    """

    def __init__(self, number: int, point: int, space: SearchSpace, seed: int) -> None:
        super().__init__(
            scramble=True,
            seed=seed,
            independent_sampler=samplers.RandomSampler(trial_seed(seed, number)),
            warn_independent_sampling=False,
        )
        self._point = point
        self._drawn = {
            parameter.name: _distribution(parameter)
            for parameter in space.parameters
            if not parameter.weights
        }

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._drawn

    def _find_sample_id(self, study: optuna.Study, search_space: Any) -> int:
        return self._point


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.kind == "categorical":
        return distributions.CategoricalDistribution(parameter.choices)
    assert parameter.low is not None and parameter.high is not None
    if parameter.kind == "int":
        return distributions.IntDistribution(
            int(parameter.low), int(parameter.high), parameter.log, parameter.step or 1
        )
    return distributions.FloatDistribution(parameter.low, parameter.high, parameter.log)


class _PerTrial(samplers.BaseSampler):
    """A sampler made anew for every trial, from its number. `first`: trials that are not drawn."""

    def __init__(
        self,
        kind: str,
        space: SearchSpace,
        options: AutoMLOptions,
        first: Sequence[Mapping[str, Any]],
    ) -> None:
        self._kind, self._space, self._options = kind, space, options
        self._first = len(first)
        self._fixed_trials = [*first, *(grid(space, options) if kind == "grid" else [])]
        self._weighted = {
            parameter.name: parameter for parameter in space.parameters if parameter.weights
        }
        self._samplers: dict[int, samplers.BaseSampler] = {}  # of the trial at work
        self._drawing: int | None = None  # the trial whose earlier draws this process knows
        self._together: frozenset[str] = frozenset()  # its parameters that were drawn as one point

    def _for(self, number: int) -> samplers.BaseSampler:
        if number not in self._samplers:
            made = _sampler_of_trial(self._kind, number, self._first, self._space, self._options)
            self._samplers, self._drawing, self._together = {number: made}, None, frozenset()
        return self._samplers[number]

    def _fixed(self, number: int) -> Mapping[str, Any]:
        return self._fixed_trials[number] if number < len(self._fixed_trials) else {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._fixed(trial.number):
            return {}
        return self._for(trial.number).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._fixed(trial.number):
            return {}
        found = self._for(trial.number).sample_relative(study, trial, search_space)
        self._together = frozenset(found)
        return found

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        fixed = self._fixed(trial.number)
        if name in fixed and distribution._contains(distribution.to_internal_repr(fixed[name])):
            return fixed[name]
        if name in self._weighted and not self._has_model(study):
            parameter, seed = self._weighted[name], self._options.seed
            draw = random.Random(trial_seed(seed, trial.number) ^ trial_seed(0, len(name)))
            return draw.choices(parameter.choices, parameter.weights)[0]
        self._catch_up(study, trial, fixed)
        return self._for(trial.number).sample_independent(study, trial, name, distribution)

    def _catch_up(self, study: optuna.Study, trial: FrozenTrial, fixed: Mapping[str, Any]) -> None:
        """Repeat what a controller drew for this trial before it was killed between two draws: the
        next number of the generator is then the one that it would have been."""
        if self._drawing == trial.number:
            return
        self._drawing = trial.number
        sampler = self._for(trial.number)
        for name, distribution in trial.distributions.items():
            weighted = name in self._weighted and not self._has_model(study)
            if name not in fixed and name not in self._together and not weighted:
                sampler.sample_independent(study, trial, name, distribution)

    def _has_model(self, study: optuna.Study) -> bool:
        """Whether TPE has seen enough trials to propose by them."""
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return self._kind == "tpe" and len(finished) >= startup_trials(self._options.max_trials)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._for(trial.number).before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._for(trial.number).after_trial(study, trial, state, values)
