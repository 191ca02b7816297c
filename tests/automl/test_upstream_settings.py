"""Upstream's AutoML settings: each is understood, or answered with what does its work here."""

from __future__ import annotations

from typing import Any

import pytest
from mae_sdk.automl.options import parse
from mae_sdk.automl.ranges import Conditions, given_range
from mae_skill.errors import SpecError

UNDERSTOOD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"algorithm": "bayesian"}, {"sampler": "tpe"}),
    ({"algorithm": "bohb"}, {"sampler": "tpe", "pruner": "hyperband"}),
    ({"algorithm": "asha"}, {"sampler": "random", "pruner": "successive_halving"}),
    ({"algorithm": "hyperband"}, {"sampler": "random", "pruner": "hyperband"}),
    ({"automl_max_recommendations": 20}, {"max_trials": 20}),
    ({"num_recommendations": "20"}, {"max_trials": 20}),
    ({"automl_max_epochs": 27}, {"max_epochs": 27}),
    ({"automl_max_concurrent": 4}, {"concurrency": 4}),
    ({"automl_reduction_factor": 3}, {"reduction_factor": 3}),
    ({"automl_min_early_stop_epochs": 3}, {"min_epochs": 3}),
    ({"automl_hyperparameters": ["train.lr", "a.b"]}, {"parameters": ("train.lr", "a.b")}),
    ({"metric": "val_acc", "direction": "maximize"}, {"metric": ("val_acc",)}),
]

ANSWERED = {
    "epoch_multiplier": "max_epochs",
    "automl_population_size": "sampler=tpe",
    "automl_max_generations": "sampler=tpe",
    "automl_eval_interval": "sampler=tpe",
    "automl_perturbation_factor": "sampler=tpe",
    "automl_mutation_factor": "sampler=cmaes",
    "automl_crossover_prob": "sampler=cmaes",
    "automl_early_stop_threshold": "plateau=",
    "automl_kde_samples": "sampler=tpe",
    "automl_top_n_percent": "sampler=tpe",
    "automl_min_points_in_model": "sampler=tpe",
    "automl_min_top_configs": "max_trials",
    "automl_delete_intermediate_ckpt": "of another bundle by the fields of its own spec",
    "override_automl_disabled_params": "automl_enabled",
    "automl_retain_failed_artifacts": "mae jobs delete",
    "run_baseline": "trial 0",
    "run_final_evaluation": "mae run evaluate",
    "llm_model": "no language model",
    "objectives": "metric=[",
    "session_id": "--idempotency-key",
}


@pytest.mark.parametrize(("given", "ours"), UNDERSTOOD, ids=str)
def test_a_setting_with_the_same_meaning_is_understood(
    given: dict[str, Any], ours: dict[str, Any]
) -> None:
    options = parse(given)
    assert {name: getattr(options, name) for name in ours} == ours


@pytest.mark.parametrize(("name", "says"), ANSWERED.items())
def test_any_other_setting_is_answered_with_what_does_its_work(name: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse({name: 3})
    (problem,) = caught.value.problems
    assert problem.field == f"automl.{name}"
    assert says in str(problem.expected)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("pbt", "copies weights"),
        ("dehb", "BOHB"),
        ("hyperband_es", "plateau"),
        ("hybrid", "no language model"),
        ("nonsense", "bayesian, hyperband"),
    ],
)
def test_an_algorithm_that_there_is_not_says_why_and_what_instead(word: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse({"algorithm": word})
    assert says in str(caught.value.problems[0].expected)


def test_a_sampler_by_an_algorithms_name_says_ours() -> None:
    with pytest.raises(SpecError) as caught:
        parse({"sampler": "bayesian"})
    assert caught.value.problems[0].hint == "bayesian is sampler=tpe"


def test_ranges_are_read_in_upstreams_form() -> None:
    listed = [{"parameter": "train.optim.lr", "valid_min": 1e-5, "valid_max": 1e-3}]
    options = parse({"automl_range_override": listed})
    assert options.ranges == {"train.optim.lr": {"valid_min": 1e-5, "valid_max": 1e-3}}
    node = {"type": "number", "minimum": 0.0, "maximum": 0.5}
    found = given_range(node, 1e-4, {"valid_min": 0.1}, Conditions())
    assert (found.low, found.high) == (0.1, 0.5)
    found = given_range({"enum": ["a", "b", "c"]}, "a", {"valid_options": ["a", "b"]}, Conditions())
    assert found.choices == ("a", "b")


@pytest.mark.parametrize(
    ("value", "given", "log"),
    [
        (1e-4, {"valid_min": 1e-5, "valid_max": 1e-3}, True),
        (1e-4, [1e-5, 1e-4], True),
        (1e-4, {"low": 1e-5, "high": 1e-3, "log": False}, False),
        (0.5, [0.1, 0.9], False),
    ],
)
def test_a_range_of_the_users_keeps_the_scale_that_the_field_is_searched_on(
    value: float, given: Any, log: bool
) -> None:
    node = {"type": "number", "minimum": 0.0, "maximum": 1.0}
    assert given_range(node, value, given, Conditions()).log is log
