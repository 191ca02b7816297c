"""What a plan shows of a study, and what its controller is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.automl import setup
from mae_sdk.automl.options import AutoMLOptions, accepted, parse, properties
from mae_skill.bundle import Bundle
from mae_skill.errors import SpecError, UsageError
from mae_skill.merge import merge
from mae_skill.origin import Origin, OriginKind

from tests.support.automl_toy import SCHEMA, SPEC
from tests.support.images import write_imagefolder

SMALL = {
    "model": {"arch": "vit_tiny_patch16"},
    "train": {"stage": "pretrain"},
    "dataset": {"train_data_sources": "/data"},
}


def _describe(
    provenance: dict[str, Origin] | None = None,
    devices: list[int] | None = None,
    processes: int = 1,
    **options: Any,
) -> dict[str, Any]:
    return setup.describe(SCHEMA, SPEC, provenance, options, devices=devices, processes=processes)


def test_a_plan_names_parameters_ranges_metric_and_direction_as_json() -> None:
    shown = json.loads(json.dumps(_describe()))
    parameters = shown["space"]["knobs"]
    assert [(k["name"], k["low"], k["high"], k["log"]) for k in parameters] == [
        ("train.lr", 1e-6, 0.1, True),
        ("train.decay", 0.0, 1.0, False),
    ]
    assert [(o["metric"], o["direction"]) for o in shown["objectives"]] == [("acc", "maximize")]
    assert shown["options"]["max_trials"] == 10


def test_concurrency_is_the_devices_divided_by_the_devices_of_a_trial() -> None:
    assert _describe()["concurrency"] == 1
    assert _describe(devices=[0, 1, 2, 3])["concurrency"] == 4
    assert _describe(devices=[0, 1, 2, 3], processes=2)["concurrency"] == 2
    assert _describe(devices=[0], concurrency=3)["concurrency"] == 3


def test_every_value_set_for_the_run_survives_and_with_nothing_left_to_search_it_is_an_error() -> (
    None
):
    shown = _describe({"train.lr": Origin(OriginKind.OVERRIDE)})
    assert [parameter["name"] for parameter in shown["space"]["knobs"]] == ["train.decay"]
    assert shown["spec"]["train"]["lr"] == SPEC["train"]["lr"]
    with pytest.raises(SpecError) as caught:
        _describe(
            {"train.lr": Origin(OriginKind.OVERRIDE), "train.decay": Origin(OriginKind.OVERRIDE)}
        )
    assert "nothing is left to search" in str(caught.value)


def test_the_keys_of_batch_and_epochs_come_from_the_bundles_shorthand_keys() -> None:
    info = {
        "spec_shorthand_keys": {
            "batch_size": "dataset.batch_size",
            "num_epochs": "train.num_epochs",
        },
        "automl_keys": {"accumulate": "none.such"},
    }
    assert setup.keys_of(info, SPEC) == {
        "batch": "dataset.batch_size",
        "epochs": "train.num_epochs",
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"grid_points": 5}, "grid_points has no effect: it applies only with sampler=grid"),
        ({"study": "shared"}, "study has no effect: it applies only with a shared storage"),
        (
            {"reduction_factor": 4, "pruner": "median"},
            "reduction_factor has no effect: it applies only with a halving pruner",
        ),
        (
            {"plateau": 3, "metric": "acc:maximize,cost:minimize"},
            "plateau has no effect: it applies only with one metric",
        ),
        ({"min_epochs": 6}, "min_epochs=6 leaves no room for pruning in runs of 6 epochs"),
        (
            {"sampler": "grid", "grid_points": 4},
            "the grid has 17 trials, trial 0 included; max_trials is 10",
        ),
    ],
)
def test_an_option_that_changes_nothing_is_named_and_a_grid_is_counted(
    options: dict[str, Any], says: str
) -> None:
    assert says in _describe(**options)["space"]["notes"]
    assert not any(
        "no effect" in note for note in _describe(plateau=3, min_epochs=2)["space"]["notes"]
    )


def test_a_grid_that_is_too_large_is_refused_when_planned() -> None:
    with pytest.raises(UsageError, match="grid is too large"):
        _describe(sampler="grid", grid_points=400)


def test_every_option_says_what_it_takes_and_what_it_means_and_its_default_is_one() -> None:
    for name, node in properties().items():
        assert node["description"]
        assert "a value that the schema accepts" not in accepted(node)
        assert parse({name: node["default"]}) == AutoMLOptions()


def test_a_plan_needs_no_optuna_and_no_torch() -> None:
    modules = ", ".join(
        f"mae_sdk.automl.{name}" for name in ("setup", "controller", "results", "study", "trials")
    )
    code = f"import sys; import {modules};"
    code += "late = ('optuna', 'pydantic', 'torch', 'numpy', 'yaml', 'matplotlib')\n"
    code += "print([name for name in late if name in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_trials_keep_their_best_and_newest_checkpoint_unless_the_person_chose() -> None:
    schema = Bundle.load(None).schema("train")
    for value, layer, kept in (
        (None, OriginKind.TEMPLATE, 1),
        (4, OriginKind.OVERRIDE, 4),
        (None, OriginKind.OVERRIDE, None),
    ):
        layers = [(OriginKind.TEMPLATE, SMALL), (layer, {"train": {"keep_checkpoints": value}})]
        merged = merge(layers, schema)
        study = setup.describe(schema, merged.spec, merged.provenance, {})
        assert study["spec"]["train"]["keep_checkpoints"] == kept
        assert any("newest checkpoint" in note for note in study["space"]["notes"]) == (
            layer is OriginKind.TEMPLATE
        )
        assert merged.spec["train"]["keep_checkpoints"] == value


def test_a_field_that_refers_to_another_follows_it_where_its_reference_holds() -> None:
    base = {"train": {"lr": 0.5, "floor": 0.5, "own": 0.1, "seed": 22, "epochs": 2}}
    links = {
        "values": {
            "train.floor": "${rate}",
            "train.own": "${train.lr}",  # something else has set it since
            "train.seed": "${train.epochs}${train.epochs}",
        },
        "aliases": {"rate": "train.lr"},
    }
    varied = {"train": {**base["train"], "lr": 0.2, "epochs": 3}}
    found = setup.followed(base, varied, links)["train"]
    assert found == {"lr": 0.2, "floor": 0.2, "own": 0.1, "seed": 33, "epochs": 3}
    kept = setup.followed(base, varied, links, fixed={"train.floor"})["train"]
    assert kept["floor"] == 0.5 and varied["train"]["floor"] == 0.5


def test_a_plan_hands_its_references_to_the_study(tmp_path: Path) -> None:
    made = Skill().plan(
        "train",
        train_datasets=str(write_imagefolder(tmp_path / "data", classes=2, per_class=3)),
        automl={"max_epochs": 4},
        spec={
            "model": {"arch": "vit_tiny_patch16"},
            "train": {
                "optim": {"min_lr": "${train.optim.lr}", "warmup_epochs": "${train.num_epochs}"}
            },
        },
    )
    assert made.study is not None
    values = {"train.optim.min_lr": "${train.optim.lr}"}
    values["train.optim.warmup_epochs"] = "${train.num_epochs}"
    assert made.study["references"]["values"] == values
    assert made.spec["train"]["optim"]["warmup_epochs"] == 10
    assert made.study["spec"]["train"]["optim"]["warmup_epochs"] == 4
