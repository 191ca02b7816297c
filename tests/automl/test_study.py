"""Samplers and pruners: every one that can be asked for searches, within its ranges, the same under
the same seed."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from mae_sdk.automl import results, study
from mae_sdk.automl.objectives import Objective
from mae_sdk.automl.options import PRUNERS, SAMPLERS, parse
from mae_sdk.automl.pruner import rungs
from mae_sdk.automl.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter("lr", "float", 1e-3, low=1e-5, high=1e-1, log=True),
        Parameter("depth", "int", 4, low=2, high=8, step=2),
        Parameter("kind", "categorical", "a", choices=("a", "b"), weights=(0.9, 0.1)),
    )
)
SPEC: dict[str, Any] = {"lr": 1e-3, "depth": 4, "kind": "a"}


def _search(trials: int = 12, metrics: int = 1, **options: Any) -> list[dict[str, Any]]:
    """The parameters of a study whose best lies at lr 1e-2; every other epoch is reported and
    pruners are asked."""
    parsed = parse({"max_trials": trials, **options})
    objectives = [Objective(f"m{i}", "maximize") for i in range(metrics)]
    opened = study.open_study(
        optuna.storages.InMemoryStorage(), "s", objectives, SPACE, SPEC, parsed, max_epochs=9
    )
    drawn = []
    for _ in range(trials):
        trial = opened.ask()
        params = SPACE.suggest(trial, SPEC)
        drawn.append(params)
        value = 1 - abs(params["lr"] - 1e-2)
        pruned = False
        for epoch in range(1, 10):
            if metrics == 1 and not pruned:
                trial.report(value * epoch / 9, epoch)
                pruned = trial.should_prune()
        if pruned:
            opened.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            opened.tell(trial, [value] * metrics)
    return drawn


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_starts_from_the_spec_stays_in_range_and_repeats_under_its_seed(
    sampler: str,
) -> None:
    metrics = 2 if sampler == "nsga2" else 1
    drawn = _search(sampler=sampler, metrics=metrics, seed=1)
    assert drawn[0] == SPEC
    for params in drawn:
        assert (
            1e-5 <= params["lr"] <= 1e-1
            and params["depth"] in (2, 4, 6, 8)
            and params["kind"] in ("a", "b")
        )
    assert len({str(params) for params in drawn}) > 6
    assert drawn == _search(sampler=sampler, metrics=metrics, seed=1)
    assert drawn != _search(sampler=sampler, metrics=metrics, seed=2)


SEQUENCE_SPACE = SearchSpace(
    (
        Parameter("depth", "int", 4, low=2, high=8, step=2),
        Parameter("lr", "float", 1e-3, low=1e-5, high=1e-1, log=True),
        Parameter("kind", "categorical", "a", choices=("a", "b", "c")),
    )
)


def _own_sequence_of_optuna(seed: int, trials: int) -> list[dict[str, Any]]:
    """What Optuna's sampler draws after its first trial, in a study that is never interrupted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=seed)
    plain = optuna.create_study(sampler=sampler)
    plain.tell(_ask(plain), 0.0)
    drawn = []
    for _ in range(trials):
        trial = _ask(plain)
        drawn.append(dict(trial.params))
        plain.tell(trial, 0.0)
    return drawn


def _ask(opened: optuna.Study) -> optuna.Trial:
    trial = opened.ask()
    SEQUENCE_SPACE.suggest(trial, SPEC)
    return trial


def test_qmc_draws_the_points_of_one_sequence_whenever_its_controller_is_killed(
    tmp_path: Path,
) -> None:
    """After every second ask the controller is a new one; every third point was drawn in vain."""
    parsed = parse({"sampler": "qmc", "seed": 5, "max_trials": 17})

    def open_again() -> optuna.Study:
        storage = study.open_storage(tmp_path, None)
        objectives = [Objective("m", "maximize")]
        return study.open_study(
            storage, "s", objectives, SEQUENCE_SPACE, SPEC, parsed, max_epochs=None
        )

    opened = open_again()
    drawn = []
    for number in range(17):
        if number % 2:
            opened = open_again()
        trial = opened.ask()
        if number % 3 == 2:  # killed after the ask; the trial is found RUNNING and drawn again
            opened = open_again()
            trial = optuna.Trial(opened, trial._trial_id)
        SEQUENCE_SPACE.suggest(trial, SPEC)
        drawn.append(dict(trial.params))
        if number % 4:  # some trials are still running when the next one is asked for
            opened.tell(trial, 0.0)
    assert drawn[0] == SPEC
    assert drawn[1:] == _own_sequence_of_optuna(5, 16)
    assert drawn[1:] != _own_sequence_of_optuna(6, 16)


class _Killed(Exception):
    pass


class _DiesAfter:
    """A trial whose controller dies after so many draws."""

    def __init__(self, trial: optuna.Trial, draws: int) -> None:
        self.trial, self.left = trial, draws

    def __getattr__(self, name: str) -> Any:
        def suggest(*args: Any, **settings: Any) -> Any:
            if self.left == 0:
                raise _Killed
            self.left -= 1
            return getattr(self.trial, name)(*args, **settings)

        return suggest


@pytest.mark.parametrize("kind", ["random", "tpe", "qmc", "nsga2", "cmaes"])
def test_a_controller_killed_between_two_draws_of_a_trial_goes_on_with_the_second(
    tmp_path: Path, kind: str
) -> None:
    parsed = parse({"sampler": kind, "seed": 5, "max_trials": 12})
    curves = []
    for killed in (False, True):

        def open_again(killed: bool = killed) -> optuna.Study:
            storage = study.open_storage(tmp_path / f"{kind}-{killed}", None)
            objectives = [Objective("m", "maximize")]
            return study.open_study(
                storage, "s", objectives, SEQUENCE_SPACE, SPEC, parsed, max_epochs=None
            )

        (tmp_path / f"{kind}-{killed}").mkdir()
        opened, drawn = open_again(), []
        for number in range(4 if kind == "nsga2" else 8):  # of NSGA-II the first generation
            trial = opened.ask()
            if killed and number:
                with pytest.raises(_Killed):
                    SEQUENCE_SPACE.suggest(_DiesAfter(trial, 1), SPEC)
                opened = open_again()
                trial = optuna.Trial(opened, trial._trial_id)
            SEQUENCE_SPACE.suggest(trial, SPEC)
            drawn.append(dict(trial.params))
            opened.tell(trial, float(number))
        curves.append(drawn)
    assert curves[0] == curves[1]


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_ends_what_is_clearly_worse_and_never_the_best(pruner: str) -> None:
    parsed = parse({"max_trials": 20, "pruner": pruner, "sampler": "random"})
    opened = study.open_study(
        optuna.storages.InMemoryStorage(),
        "s",
        [Objective("m", "maximize")],
        SPACE,
        SPEC,
        parsed,
        max_epochs=9,
    )
    ended = {}
    for number in range(20):
        trial = opened.ask()
        SPACE.suggest(trial, SPEC)
        value = 1.0 if number == 10 else 0.5 - number / 100
        for epoch in range(1, 10):
            trial.report(value, epoch)
            if epoch < 9 and trial.should_prune():
                ended[number] = epoch
                opened.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            opened.tell(trial, value)
    assert 10 not in ended
    assert bool(ended) == (pruner != "none")
    assert opened.best_trial.number == 10


def test_options_with_weights_are_drawn_by_them_before_there_is_a_model() -> None:
    kinds = [params["kind"] for params in _search(200, sampler="random", pruner="none")[1:]]
    assert 0.8 < kinds.count("a") / len(kinds) < 0.97


def test_rungs_are_shares_of_the_run_and_follow_what_was_asked_for() -> None:
    assert rungs(100) == {10: 2 / 3, 40: 1 / 3, 60: 1 / 3}
    assert rungs(10) == {1: 2 / 3, 4: 1 / 3, 6: 1 / 3}
    assert rungs(100, min_epochs=20) == {20: 1 / 3, 30: 1 / 3}
    assert rungs(100, reduction_factor=4)[40] == 0.25
    assert all(at < epochs for epochs in range(1, 8) for at in rungs(epochs)) and rungs(1) == {}


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("every", [1, 5])
def test_halving_keeps_its_shares_whatever_the_direction_and_however_seldom_a_trial_reports(
    direction: str, every: int
) -> None:
    """Forty trials in a shuffled order, epochs 1 to 20; the controller is a new one before every
    decision."""
    parsed = parse({"max_trials": 40, "sampler": "random"})
    storage = optuna.storages.InMemoryStorage()
    sign = 1 if direction == "maximize" else -1
    order = random.Random(1).sample(range(40), 40)
    order[:2] = sorted(
        order[:2], reverse=True
    )  # the second is the worse of two, and no reason to end it
    ended: dict[int, int] = {}
    for rank in order:
        opened = study.open_study(
            storage, "s", [Objective("m", direction)], SPACE, SPEC, parsed, max_epochs=20
        )
        trial = opened.ask()
        for epoch in range(every, 21, every):
            trial.report(sign * rank / 40, epoch)
            opened = study.open_study(
                storage, "s", [Objective("m", direction)], SPACE, SPEC, parsed, max_epochs=20
            )
            if epoch < 20 and optuna.Trial(opened, trial._trial_id).should_prune():
                ended[rank] = epoch
                opened.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            opened.tell(trial, sign * rank / 40)
    judged = (
        {2: 2 / 3, 8: 1 / 3, 12: 1 / 3} if every == 1 else {5: 2 / 3, 10: 1 / 3, 15: 1 / 3}
    )  # the first report at or after a rung
    assert rungs(20) == {2: 2 / 3, 8: 1 / 3, 12: 1 / 3} and set(ended.values()) <= set(judged)
    for position, rank in enumerate(order):
        for at, share in judged.items():
            if ended.get(rank, 20) < at:
                break
            better = sum(other > rank for other in order[:position] if ended.get(other, 20) >= at)
            there = 1 + sum(ended.get(other, 20) >= at for other in order[:position])
            assert (ended.get(rank) == at) == (
                there >= 3 and better >= max(1, int(share * there + 1e-9))
            )
    assert 39 not in ended and not {*order[:2]} & {
        *ended
    }  # the best; trial 0, the spec as given; and the one after it
    assert len(ended) > 20


@pytest.mark.parametrize(("failed", "canceled", "warned"), [(2, 0, True), (0, 2, False)])
def test_a_study_most_of_whose_trials_failed_says_so_with_the_first_reason(
    tmp_path: Path, failed: int, canceled: int, warned: bool
) -> None:
    opened = optuna.create_study()
    for state in ("complete", *["failed"] * failed, *["canceled"] * canceled):
        trial = opened.ask()
        if state == "complete":
            trial.set_user_attr("child", "train-0")
            opened.tell(trial, 1.0)
            continue
        trial.set_user_attr(study.FAILED, f"the rate of trial {trial.number}")
        if state == "failed":
            trial.set_user_attr("category", "spec_error")
        opened.tell(trial, state=optuna.trial.TrialState.PRUNED)
    objective = Objective("loss", "minimize")
    job = tmp_path / "job"
    (job / "automl").mkdir(parents=True)
    summary = results.finish(
        opened, job / "automl", SearchSpace(()), [objective], lambda *_: None, "max_trials"
    )
    said = "2 of 3 trials failed, so that the search compared only 1; the first: the rate of trial"
    assert [text.startswith(said) for text in summary.get("warnings", ())] == [True] * warned
