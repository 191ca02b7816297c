"""The search space: which parameters enter, over which range, and what is said about the rest."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import pytest
from mae_sdk.automl import space
from mae_sdk.automl.objectives import Objective, best, course, incomparable, objectives
from mae_sdk.automl.options import parse
from mae_skill.errors import SpecError
from mae_skill.origin import Origin, OriginKind
from mae_skill.spec.train import AUTOML_METRICS

SCHEMA: dict[str, Any] = {
    "automl_default_parameters": [
        "train.optim.lr",
        "train.optim.weight_decay",
        "train.optim.layer_decay",
        "train.optim.gamma",
        "train.optim.warmup_epochs",
        "model.drop_path_rate",
    ],
    "automl_disabled_parameters": ["train.seed"],
    "automl_metrics": AUTOML_METRICS,
    "properties": {
        "model": {
            "properties": {
                "drop_path_rate": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 1,
                    "search": {"low": 0.0, "high": 0.4},
                    "applies_when": {"train.stage": "finetune"},
                },
                "width": {"type": "integer", "minimum": 8, "maximum": 256, "math_cond": "^ 2"},
                "heads": {"type": "integer", "minimum": 1, "maximum": 64, "math_cond": "/ 8"},
                "pool": {
                    "type": "string",
                    "enum": ["mean", "cls", "max"],
                    "option_weights": [0.7, 0.3, 0.0],
                },
            }
        },
        "train": {
            "properties": {
                "stage": {"type": "string", "enum": ["pretrain", "finetune"]},
                "seed": {"type": "integer", "minimum": 1},
                "num_epochs": {"type": "integer", "minimum": 1},
                "mask_ratio": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "exclusiveMaximum": 1,
                    "search": {"low": 0.5, "high": 0.9},
                    "applies_when": {"train.stage": "pretrain"},
                },
                "note": {"type": ["string", "null"]},
                "optim": {
                    "properties": {
                        "lr": {
                            "type": "number",
                            "exclusiveMinimum": 0,
                            "maximum": 1,
                            "search": [
                                {
                                    "when": {"train.stage": "pretrain"},
                                    "low": 1e-5,
                                    "high": 1e-2,
                                    "log": True,
                                },
                                {
                                    "when": {"train.stage": "finetune"},
                                    "low": 1e-5,
                                    "high": 5e-3,
                                    "log": True,
                                },
                            ],
                        },
                        "weight_decay": {
                            "type": "number",
                            "minimum": 0,
                            "search": {"low": 1e-4, "high": 0.3, "log": True},
                        },
                        "layer_decay": {
                            "type": "number",
                            "exclusiveMinimum": 0,
                            "maximum": 1,
                            "search": {"low": 0.5, "high": 1.0},
                            "applies_when": {"train.stage": "finetune"},
                        },
                        "lr_scheduler": {"type": "string", "enum": ["MultiStep", "cosine"]},
                        "gamma": {
                            "type": "number",
                            "exclusiveMinimum": 0,
                            "maximum": 1,
                            "applies_when": {"train.optim.lr_scheduler": "MultiStep"},
                        },
                        "milestones": {
                            "type": "array",
                            "items": {"type": "integer", "minimum": 1, "maximum": 100},
                        },
                        "warmup_epochs": {
                            "type": "integer",
                            "minimum": 0,
                            "maximum": 50,
                            "math_cond": "< depends_on",
                            "depends_on": "train.num_epochs",
                        },
                        "rate": {
                            "type": "number",
                            "minimum": 0.0,
                            "maximum": 1.0,
                            "math_cond": "> 0.0",
                        },
                    }
                },
            }
        },
    },
}
SPEC: dict[str, Any] = {
    "model": {
        "drop_path_rate": 0.1,
        "width": 32,
        "heads": 16,
        "pool": "mean",
        "task": "classification",
        "multi_label": False,
    },
    "train": {
        "stage": "finetune",
        "seed": 1,
        "num_epochs": 6,
        "mask_ratio": 0.75,
        "note": None,
        "optim": {
            "lr": 2e-4,
            "weight_decay": 0.05,
            "layer_decay": 0.75,
            "lr_scheduler": "MultiStep",
            "gamma": 0.1,
            "milestones": [10, 20],
            "warmup_epochs": 1,
            "rate": 2e-4,
        },
    },
}


class Draw:
    """A trial that draws uniformly, as the samplers do."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        return (
            math.exp(self.rng.uniform(math.log(low), math.log(high)))
            if log
            else self.rng.uniform(low, high)
        )

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return self.rng.randrange(low, high + 1, step)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self.rng.choice(list(choices))


def _spec(**changes: Any) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    for key, value in changes.items():
        here = spec
        *path, last = key.split("__")
        for part in path:
            here = here[part]
        here[last] = value
    return spec


def _build(
    spec: dict[str, Any] = SPEC, provenance: dict[str, Origin] | None = None, **options: Any
) -> space.SearchSpace:
    return space.build(SCHEMA, spec, provenance, parse(options))


def _names(found: space.SearchSpace) -> set[str]:
    return {parameter.name for parameter in found.parameters}


def test_only_parameters_that_act_under_the_stage_and_scheduler_enter_and_the_rest_is_named() -> (
    None
):
    fine = _build()
    assert _names(fine) == {
        "train.optim.lr",
        "train.optim.weight_decay",
        "train.optim.layer_decay",
        "train.optim.gamma",
        "train.optim.warmup_epochs",
        "model.drop_path_rate",
    }
    pre = _build(_spec(train__stage="pretrain", train__optim__lr_scheduler="cosine"))
    assert _names(pre) == {
        "train.optim.lr",
        "train.optim.weight_decay",
        "train.optim.warmup_epochs",
    }
    assert "only when train.stage=finetune" in pre.left_out["train.optim.layer_decay"]
    assert "=MultiStep (here: " in pre.left_out["train.optim.gamma"]


def test_the_learning_rate_is_searched_on_a_log_scale_over_the_range_of_the_stage() -> None:
    (lr,) = (parameter for parameter in _build().parameters if parameter.name == "train.optim.lr")
    assert (lr.low, lr.high, lr.log) == (1e-5, 5e-3, True)
    (lr,) = (
        parameter
        for parameter in _build(_spec(train__stage="pretrain")).parameters
        if parameter.name == "train.optim.lr"
    )
    assert lr.high == 1e-2


def test_a_rate_bounded_by_zero_and_one_alone_is_not_searched_uniformly_on_that_interval() -> None:
    (rate,) = (parameter for parameter in _build(parameters=["train.optim.rate"]).parameters)
    assert rate.log
    assert rate.low == pytest.approx(2e-6) and rate.high == pytest.approx(2e-2)


def test_a_value_set_for_this_run_is_not_searched_unless_it_is_named() -> None:
    pinned = _build(provenance={"train.optim.lr": Origin(OriginKind.OVERRIDE)})
    assert "train.optim.lr" not in _names(pinned)
    assert "set to 0.0002" in pinned.left_out["train.optim.lr"]
    assert "train.optim.lr" in _names(
        _build(
            provenance={"train.optim.lr": Origin(OriginKind.OVERRIDE)},
            parameters=["train.optim.lr"],
        )
    )


def test_the_users_range_is_clamped_to_the_schema_with_a_note() -> None:
    found = _build(ranges={"train.optim.layer_decay": [0.3, 4.0]})
    (parameter,) = (k for k in found.parameters if k.name == "train.optim.layer_decay")
    assert (parameter.low, parameter.high, parameter.source) == (0.3, 1.0, "user")
    assert any("clamped" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        (
            {"ranges": {"train.optim.lr": [2, 3]}},
            "train.optim.lr",
            "outside what the schema allows",
        ),
        ({"ranges": {"train.optim.lr": [0.1, 0.01]}}, "train.optim.lr", "low is above high"),
        ({"ranges": {"train.optim.lr": {"low": 0.1}}}, "train.optim.lr", "needs low and high"),
        ({"ranges": {"model.pool": ["mean", "median"]}}, "model.pool", "not an option"),
        ({"ranges": {"model.pool": [0, 1]}}, "model.pool", "not an option"),
        ({"parameters": ["train.optim.lrr"]}, "train.optim.lrr", "no such field"),
        ({"parameters": ["train.seed"]}, "train.seed", "disables AutoML"),
        (
            {"ranges": {"train.optim.lr": [0, 0]}},
            "train.optim.lr",
            "outside what the schema allows",
        ),
        ({"ranges": {"train.optim.lr": [1e-3, 1e-3]}}, "train.optim.lr", "holds one value"),
        (
            {"ranges": {"train.optim.lr": {"low": 1e-4, "high": 1e-3, "choices": [1e-4]}}},
            "train.optim.lr",
            "choices and an interval",
        ),
        (
            {"ranges": {"train.optim.lr": {"choices": [1e-4], "weights": 1}}},
            "train.optim.lr",
            "weights must be",
        ),
        ({"parameters": ["train.optim.lr[0]"]}, "train.optim.lr[0]", "not a list"),
        (
            {"parameters": ["train.optim.milestones[a]"]},
            "train.optim.milestones[a]",
            "not an element",
        ),
        (
            {"parameters": "train.optim.milestones[-1]"},
            "train.optim.milestones[-1]",
            "not an element",
        ),
        (
            {"ranges": {"train.optim.weight_decay": {"low": 0, "high": 0.1, "log": True}}},
            "train.optim.weight_decay",
            "log scale",
        ),
    ],
)
def test_a_wrong_range_or_parameter_is_refused_with_its_reason(
    options: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        _build(**options)
    (problem,) = caught.value.problems
    assert problem.field == field and words in problem.message


def test_all_wrong_parameters_are_reported_together() -> None:
    with pytest.raises(SpecError) as caught:
        _build(parameters=["train.optim.lrr", "train.seed"], ranges={"train.optim.gamma": [3, 4]})
    assert len(caught.value.problems) == 3
    assert "train.optim.lr" in str(caught.value.problems[0].hint)
    with pytest.raises(SpecError, match=r"did you mean train\.optim\.gamma\?"):
        _build(parameters=["gamma"])


def test_powers_multiples_and_weighted_options_follow_their_annotations() -> None:
    found = {
        k.name: k
        for k in _build(parameters=["model.width", "model.heads", "model.pool"]).parameters
    }
    assert found["model.width"].choices == (8, 16, 32, 64, 128, 256)
    assert (found["model.heads"].low, found["model.heads"].high, found["model.heads"].step) == (
        8,
        64,
        8,
    )
    assert found["model.pool"].choices == ("mean", "cls") and found["model.pool"].weights == (
        0.7,
        0.3,
    )


def test_a_parameter_bound_to_another_field_stays_below_it_in_every_trial() -> None:
    found = _build(parameters=["train.optim.warmup_epochs"], ranges={"train.num_epochs": [2, 9]})
    assert next(k.name for k in found.parameters) == "train.num_epochs"
    for seed in range(100):
        drawn = found.suggest(Draw(seed), SPEC)
        assert drawn["train.optim.warmup_epochs"] < drawn["train.num_epochs"]
    fixed = _build(parameters=["train.optim.warmup_epochs"])
    assert {
        fixed.suggest(Draw(seed), SPEC)["train.optim.warmup_epochs"] for seed in range(100)
    } == set(range(6))


def test_a_parameter_that_hangs_on_a_searched_option_is_drawn_only_under_that_option() -> None:
    found = _build(parameters=["train.optim.gamma", "train.optim.lr_scheduler"])
    seen = {}
    for seed in range(30):
        drawn = found.suggest(Draw(seed), SPEC)
        assert ("train.optim.gamma" in drawn) == (drawn["train.optim.lr_scheduler"] == "MultiStep")
        seen[drawn["train.optim.lr_scheduler"]] = True
    assert len(seen) == 2


def test_list_elements_are_parameters_and_an_ascending_list_stays_ascending() -> None:
    found = _build(ranges={"train.optim.milestones": [1, 50]})
    assert {"train.optim.milestones[0]", "train.optim.milestones[1]"} <= _names(found)
    spec = found.apply(SPEC, {"train.optim.milestones[0]": 40, "train.optim.milestones[1]": 7})
    assert spec["train"]["optim"]["milestones"] == [7, 40]
    assert SPEC["train"]["optim"]["milestones"] == [10, 20]


def test_a_mask_ratio_is_not_searched_against_a_loss_and_is_against_a_probe() -> None:
    spec = _spec(train__stage="pretrain")
    assert (
        "train_loss does not compare"
        in _build(spec, parameters=["train.mask_ratio", "train.optim.lr"]).left_out[
            "train.mask_ratio"
        ]
    )
    probed = {
        **spec,
        "dataset": {"probe_train_data_sources": "a.tar"},
        "train": {**spec["train"], "probe": {"interval": 1}},
    }
    assert "train.mask_ratio" in _names(_build(probed, parameters=["train.mask_ratio"]))


def test_trial_zero_is_recorded_as_given_or_as_the_nearest_value_that_can_be() -> None:
    found = _build(_spec(train__optim__weight_decay=0.0))
    params, exact = found.given(_spec(train__optim__weight_decay=0.0))
    assert params["train.optim.lr"] == 2e-4
    assert params["train.optim.weight_decay"] == 1e-4 and exact == {"train.optim.weight_decay": 0.0}
    assert any("trial 0 still runs it as given" in note for note in found.notes)


def test_every_draw_satisfies_the_schema_bounds_and_survives_a_round_trip_through_the_plan() -> (
    None
):
    found = _build(
        parameters=[
            "train.optim.lr",
            "train.optim.gamma",
            "model.heads",
            "model.width",
            "train.optim.warmup_epochs",
        ]
    )
    again = space.SearchSpace.from_dict(found.to_dict())
    assert again.parameters == found.parameters
    for seed in range(50):
        drawn = again.suggest(Draw(seed), SPEC)
        for parameter in found.parameters:
            assert parameter.refuses(drawn[parameter.name]) is None
        assert drawn["model.heads"] % 8 == 0 and 0 < drawn["train.optim.gamma"] <= 1


def test_text_from_a_command_line_and_typed_values_give_the_same_options() -> None:
    text = parse(
        {
            "max_trials": "5",
            "timeout": "90m",
            "range.train.optim.lr": "[1e-5, 1e-3]",
            "warm": "false",
            "parameters": "a.b,c.d",
            "sampler": "NSGA-II",
        }
    )
    typed = parse(
        {
            "max_trials": 5,
            "timeout": 5400,
            "ranges": {"train.optim.lr": [1e-5, 1e-3]},
            "warm": False,
            "parameters": ["a.b", "c.d"],
            "sampler": "nsga2",
        }
    )
    assert text == typed == parse(typed.to_dict())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_trial": 3}, "max_trials"),
        ({"max_trials": 0}, "a whole number ≥ 1"),
        ({"max_trials": 2.5}, "whole number"),
        ({"sampler": "tpee"}, "tpe"),
        ({"timeout": "soon"}, "90m"),
        ({"metric": ["a", "b"], "direction": ["maximize"]}, "2 of"),
        ({"metric": "a:maximize,b:minimize", "pruner": "median"}, "none"),
        ({"metric": "a:upwards"}, "maximize"),
        ({"warm": "perhaps"}, "true or false"),
    ],
)
def test_a_wrong_option_is_refused_and_the_right_one_is_named(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parse(given)
    assert words in str(caught.value)


def test_the_default_metric_follows_the_stage_and_a_direction_is_never_guessed_from_a_name() -> (
    None
):
    assert objectives(SCHEMA, SPEC, parse({})) == (Objective("ACC_all", "maximize", "bundle"),)
    several = {**SPEC, "model": {**SPEC["model"], "multi_label": True}}
    assert objectives(SCHEMA, several, parse({})) == (Objective("mAP", "maximize", "bundle"),)
    assert objectives(SCHEMA, _spec(train__stage="pretrain"), parse({}))[0].direction == "minimize"
    with pytest.raises(SpecError, match="not known"):
        objectives(SCHEMA, SPEC, parse({"metric": "my_loss"}))
    assert (
        objectives(SCHEMA, SPEC, parse({"metric": "my_loss:maximize"}))[0].direction == "maximize"
    )
    assert objectives(SCHEMA, SPEC, parse({"direction": "maximize"})) == (
        Objective("ACC_all", "maximize", "bundle"),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"direction": "minimize"},
        {"metric": "ACC_all:minimize"},
        {"metric": "val_loss:maximize"},
        {"metric": "ACC_all:maximize,latency_ms:maximize"},
    ],
)
def test_a_direction_against_the_bundles_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="worst value of this metric") as caught:
        objectives(SCHEMA, SPEC, parse(options))
    assert "automl.direction" in str(caught.value)


def test_the_best_epoch_of_a_trial_counts_and_not_the_last() -> None:
    records = [
        {"epoch": 0, "kpi": {"ACC_all": 0.2}},
        {"epoch": 1, "kpi": {"ACC_all": 0.9}},
        {"message": "x"},
        {"epoch": 2, "kpi": {"ACC_all": 0.5}},
    ]
    assert best(course(records, "ACC_all").values, Objective("ACC_all", "maximize")) == (1, 0.9)
    assert best([(0, math.nan), (1, 0.3)], Objective("x", "minimize")) == (1, 0.3)
    assert best([(0, math.nan)], Objective("x", "minimize")) is None


@pytest.mark.parametrize(
    "key",
    [
        *("train.loss", "dataset.augmentation.mixup"),
        *("train.refine.blocks", "train.refine.temperature", "train.refine.neighbors"),
    ],
)
def test_a_loss_is_not_compared_across_what_makes_it_another(key: str) -> None:
    from mae_skill.bundle import Bundle

    schema = Bundle.load().schema("train")
    found = incomparable(schema, ["train_loss"])
    assert found[key] == "train_loss"
    assert "train.optim.lr" not in found
    assert ("train.loss" in incomparable(schema, ["val_loss"])) and not incomparable(
        schema, ["ACC_all"]
    )


def test_a_batch_is_searched_against_a_reconstruction_and_not_against_a_contrast() -> None:
    from mae_skill.bundle import Bundle

    schema = Bundle.load().schema("train")
    for blocks in (0, 2):
        spec = {"train": {"stage": "pretrain", "refine": {"blocks": blocks}}}
        found = incomparable(schema, ["train_loss"], spec)
        assert ("dataset.batch_size" in found) == bool(blocks)
        assert ("dataset.augmentation.shift" in found) == bool(blocks)
        assert "train.mask_ratio" in found and "train.optim.lr" not in found
        assert "train.focal_gamma" not in found  # of the other stage
