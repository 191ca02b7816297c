"""Plans of the packaged bundle: nothing starts, everything is said."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_sdk import Plan, Skill
from mae_sdk.cli.plan_run import plan_text
from mae_sdk.launch import record_of
from mae_skill.errors import DataError, MaeError, NotFoundError, SpecError, UsageError

from tests.support.images import make_tarball, write_flat, write_imagefolder

CIRCLE: dict[str, Any] = {}
CIRCLE["train"] = CIRCLE
SMALL = {"arch": "vit_tiny_patch16", "image_size": 64}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_tarball(
        write_imagefolder(tmp_path / "pictures", classes=3, per_class=4),
        tmp_path / "data" / "images_train.tar.gz",
    )
    return tmp_path / "data"


def plan(data: Path, **options: Any) -> Plan:
    overrides = {**SMALL, **options.pop("spec_overrides", {})}
    return Skill().plan("train", train_datasets=str(data), spec_overrides=overrides, **options)


def test_a_train_plan_names_automl_its_knobs_and_ranges_and_writes_no_job(
    data: Path, tmp_path: Path
) -> None:
    shown = plan(data).to_dict()
    assert shown["policy"]["enabled"] and "train.optim.lr" in shown["automl"]["knobs"]
    assert "log" in shown["automl"]["knobs"]["train.optim.lr"]
    assert "< train.num_epochs" in shown["automl"]["knobs"]["train.optim.warmup_epochs"]
    assert shown["automl"]["metric"] == "train_loss (minimize)"
    assert not (tmp_path / "results").exists()
    json.dumps(shown, allow_nan=False)


@pytest.mark.parametrize(
    "words",
    [
        {"automl_policy": "off"},
        {"automl_policy": False},
        {"request": "please train, no HPO this time"},
        {"request": "Don't use AutoML."},
    ],
)
def test_automl_is_off_for_this_run_when_asked(data: Path, words: dict[str, Any]) -> None:
    assert plan(data, **words).automl is None


@pytest.mark.parametrize(
    "request_text",
    ["Please do not turn off AutoML", "never disable HPO", "this is not a plain run"],
)
def test_words_that_forbid_turning_automl_off_leave_it_on(data: Path, request_text: str) -> None:
    assert plan(data, request=request_text).automl is not None


def test_automl_options_of_a_plain_run_are_named_as_unused(data: Path) -> None:
    made = plan(data, automl_policy="off", automl={"max_trials": 3})
    assert any("AutoML options are not used (max_trials)" in notice for notice in made.notices)


def test_an_explicit_policy_wins_over_the_words_of_the_request(data: Path) -> None:
    assert plan(data, automl_policy="auto", request="plain training").automl is not None


def test_images_and_classes_are_counted_and_steps_follow(data: Path) -> None:
    made = plan(data, spec_overrides={"dataset.batch_size": 5, "train.accum_grad_batches": 2})
    seen = made.sources["dataset.train_data_sources"]
    assert (seen["images"], seen["classes"], seen["unlabelled"]) == (12, 3, 0)
    assert (made.effective_batch, made.steps_per_epoch) == (10, 2)


def test_every_value_says_where_it_comes_from(data: Path) -> None:
    spec = {"train": {"num_epochs": 7}}
    origins = plan(data, spec=spec, spec_overrides={"train.optim.lr": 1e-3}).to_dict()["provenance"]
    found = {
        key: origins[key]["origin"]
        for key in ("train.num_epochs", "train.optim.lr", "model.arch", "train.seed", "results_dir")
    }
    assert found == {
        "train.num_epochs": "spec file",
        "train.optim.lr": "override",
        "model.arch": "shorthand",
        "train.seed": "template",
        "results_dir": "inferred",
    }
    assert origins["dataset.train_data_sources"]["origin"] == "argument"


def test_class_count_and_num_classes_must_agree_before_anything_starts(data: Path) -> None:
    with pytest.raises(MaeError) as caught:
        plan(data, spec_overrides={"stage": "finetune", "num_classes": 5})
    assert caught.value.field == "model.num_classes" and caught.value.expected == "3"


def test_unlabeled_images_cannot_be_fine_tuned_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labels"):
        plan(write_flat(tmp_path / "flat"), spec_overrides={"stage": "finetune", "num_classes": 3})


@pytest.mark.parametrize("where", ["nowhere", "empty", "missing.tar.gz"])
def test_data_that_is_not_there_is_a_data_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        plan(tmp_path / where)
    assert caught.value.exit_code == 3


def test_all_problems_of_a_spec_come_together(data: Path) -> None:
    with pytest.raises(SpecError) as caught:
        plan(data, spec_overrides={"train.num_epochs": 0, "train.optim.lrr": 1.0, "arch": "resnet"})
    assert {problem.field for problem in caught.value.problems} == {
        "train.num_epochs",
        "train.optim.lrr",
        "model.arch",
    }


def test_fine_tuning_under_automl_without_validation_data_holds_some_out(data: Path) -> None:
    made = plan(data, spec_overrides={"stage": "finetune", "num_classes": 3})
    assert made.spec["dataset"]["val_fraction"] == 0.1 and any(
        "held out" in notice for notice in made.notices
    )
    assert (
        plan(
            data, spec_overrides={"stage": "finetune", "num_classes": 3}, automl_policy="off"
        ).spec["dataset"]["val_fraction"]
        is None
    )


def test_images_held_out_are_no_steps_of_training(data: Path) -> None:
    overrides = {
        "stage": "finetune",
        "num_classes": 3,
        "batch_size": 3,
        "dataset.val_fraction": 0.5,
    }
    made = plan(data, spec_overrides=overrides, automl_policy="off")
    (seen,) = made.sources.values()
    assert (seen["images"], seen["held_out"], made.steps_per_epoch) == (12, 6, 2)
    archive = str(data / "images_train.tar.gz")
    validated = Skill().plan(
        "train",
        train_datasets=str(data),
        eval_dataset=archive,
        spec_overrides={**SMALL, **overrides},
        automl_policy="off",
    )
    assert validated.steps_per_epoch == 4


def test_a_model_that_is_not_there_is_not_planned_with(data: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        plan(data, spec_overrides={"train.pretrained_model_path": "/nowhere/w.pth"})
    assert caught.value.field == "train.pretrained_model_path"


def test_a_key_in_a_file_moves_to_the_environment_and_is_shown_nowhere(data: Path) -> None:
    made = plan(data, spec={"encryption_key": "canary-4711"}, automl_policy="off")
    assert made.spec["encryption_key"] == "env:MAE_ENCRYPTION_KEY" and made.secrets == {
        "MAE_ENCRYPTION_KEY": "canary-4711"
    }
    assert "canary" not in json.dumps(made.to_dict()) + made.to_python() + repr(made.to_dict())


def test_a_key_among_the_overrides_is_refused(data: Path) -> None:
    with pytest.raises(UsageError, match="visible"):
        plan(data, spec_overrides={"encryption_key": "canary-4711"})


def test_an_argument_beside_a_field_with_another_value_is_refused(
    data: Path, tmp_path: Path
) -> None:
    field, other = "dataset.train_data_sources", tmp_path / "pictures"
    with pytest.raises(UsageError, match="given twice") as caught:
        plan(data, spec_overrides={field: str(other)})
    assert caught.value.field == field and caught.value.hint
    assert caught.value.got == {"train_datasets": str(data), field: str(other)}
    same = str(data / "images_train.tar.gz")  # what the folder stands for
    plan(data, spec_overrides={field: same}, automl_policy="off")

    weights = tmp_path / "w.pth"
    weights.write_bytes(b"")
    field = "train.pretrained_model_path"
    for named in ({"spec_overrides": {field: "/other.pth"}}, {"spec": {field: "/other.pth"}}):
        with pytest.raises(UsageError, match="given twice") as caught:
            plan(data, ptm=str(weights), **named)
        assert caught.value.got == {"ptm": str(weights), field: "/other.pth"}


def test_an_unknown_option_gets_a_did_you_mean(data: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Skill().plan("train", train_dataset=str(data))
    assert caught.value.hint == "did you mean train_datasets?"


def test_the_printed_script_is_python_and_names_the_same_call(data: Path) -> None:
    script = plan(
        data, automl_policy="off", env={"HF_TOKEN": "canary-1", "COLOR": "red"}
    ).to_python()
    call = next(
        node
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "create_job"
    )
    assert {word.arg for word in call.keywords} == {
        "train_datasets",
        "automl_policy",
        "env",
        "spec_overrides",
    }
    assert "canary" not in script and "os.environ['HF_TOKEN']" in script


def test_paths_and_numpys_numbers_are_taken_and_the_printed_script_needs_neither(
    data: Path,
) -> None:
    spec = {"train": {"num_epochs": np.int64(3), "optim": {"milestones": np.array([1, 2])}}}
    made = Skill().plan(
        "train",
        train_datasets=[data],
        spec=spec,
        spec_overrides={**SMALL, "train.optim.lr": np.float64(1e-4)},
        automl_policy="off",
    )
    assert (
        made.spec["train"]["num_epochs"] == 3 and type(made.spec["train"]["optim"]["lr"]) is float
    )
    call = ast.parse(made.to_python()).body[-4]
    assert isinstance(call, ast.Assign) and isinstance(call.value, ast.Call)
    words = {word.arg: ast.literal_eval(word.value) for word in call.value.keywords}
    assert (
        words["train_datasets"] == [str(data)] and words["spec_overrides"]["train.optim.lr"] == 1e-4
    )
    assert words["spec"] == {"train": {"num_epochs": 3, "optim": {"milestones": [1, 2]}}}


@pytest.mark.parametrize("missing", ["schema", "template"])
def test_without_schema_or_template_training_is_plain_and_says_why(
    data: Path, tmp_path: Path, missing: str
) -> None:
    import shutil

    from mae_skill.bundle import find_bundle_root

    for name in ("schemas", "references"):
        shutil.copytree(find_bundle_root() / name, tmp_path / "bundle" / name)
    path = (
        "schemas/train.schema.json"
        if missing == "schema"
        else "references/spec_template_train.yaml"
    )
    if missing == "schema":
        (tmp_path / "bundle" / path).write_text("{ not: [readable")
    else:  # one that cannot be read is refused
        (tmp_path / "bundle" / path).unlink()
    made = Skill(tmp_path / "bundle").plan("train", train_datasets=str(data), spec_overrides=SMALL)
    assert made.automl is None
    assert (
        "AutoML is enabled but not runnable until schemas are generated"
        in made.to_dict()["notices"]
    )
    assert made.spec["model"]["arch"] == "vit_tiny_patch16"


def test_a_written_out_template_is_no_choice_of_every_default(data: Path) -> None:
    skill = Skill()
    spec = skill.bundle.template("train")
    spec["train"]["num_epochs"] = 3
    made = skill.plan("train", spec=spec, train_datasets=str(data), spec_overrides=SMALL)
    assert made.automl is not None and made.spec["train"]["num_epochs"] == 3


def test_a_job_writes_into_its_own_folder_whatever_the_spec_says_and_says_so(data: Path) -> None:
    made = plan(data, spec_overrides={"train.results_dir": "/elsewhere"}, automl_policy="off")
    assert made.spec["train"]["results_dir"] is None and made.spec["results_dir"] == str(
        made.job_dir
    )
    assert any("train.results_dir of the spec is not used" in notice for notice in made.notices)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"spec_overrides": {"train.seed": object}}, "spec_overrides"),
        ({"spec": {"train": {"seed": [{"a": b"x"}]}}}, "spec"),
        ({"spec": CIRCLE}, "spec"),
        ({"spec_overrides": 3.5}, "spec_overrides"),
        ({"spec_overrides": {1: 2}}, "spec_overrides"),
        ({"automl": []}, "automl"),
        ({"env": {"A=B": "c"}}, "env.A=B"),
        ({"env": {"A": None}}, "env.A"),
        ({"ptm": 7}, "ptm"),
        ({"recipe": ["x"]}, "recipe"),
        ({"eval_dataset": {"a": 1}}, "eval_dataset"),
        ({"parent_job_id": ""}, "parent_job_id"),
        ({"ptm": ""}, "ptm"),
        ({"eval_dataset": ""}, "eval_dataset"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"results_root": ""}, "results_root"),
        ({"checkpoint": "epoch:3"}, "checkpoint"),
        ({"automl": {"storage": "env:NO_SUCH_DATABASE"}}, "automl.storage"),
    ],
)
def test_an_option_of_the_wrong_kind_is_named(
    data: Path, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Skill().plan("train", train_datasets=str(data), **options)
    assert caught.value.field == field


def test_warnings_of_settings_that_nobody_has_set_are_notes_unless_they_are_serious(
    data: Path,
) -> None:
    def told(**overrides: Any) -> tuple[list[str], list[str]]:
        made = plan(data, spec_overrides=overrides, automl_policy="off")
        shown, record = made.to_dict(), record_of(Skill().bundle, made)
        said = {f"{one['field']}: {one['message']}" for one in shown["notes"]}
        assert set(record["notes"]) == said <= set(record["warnings"])
        notes, warnings = (
            [item["field"] for item in shown[kind] if isinstance(item, dict)]
            for kind in ("notes", "warnings")
        )
        assert not set(notes) & set(warnings)
        return notes, warnings

    labeled = {"train.stage": "finetune", "model.num_classes": 3}
    late, warm, held = (
        *("train.optim.milestones", "train.optim.warmup_epochs", "dataset.val_data_sources"),
    )
    notes, warnings = told(**labeled, **{"train.num_epochs": 2})
    assert {late, warm} <= set(notes)
    assert held in warnings  # of a field without a value it is a lack

    # What somebody has set is a warning, in a list too.
    notes, warnings = told(**labeled, **{"train.num_epochs": 2, late: [1, 88], warm: 1})
    assert not {late, warm} & set(notes) and {late, warm} <= set(warnings)

    # A rate that never reaches its peak is serious, whoever has set it.
    notes, warnings = told(**labeled, **{"train.num_epochs": 1})
    assert warm in warnings and late in notes


def test_a_plan_shows_how_a_value_was_read(data: Path) -> None:
    made = plan(data, spec_overrides={"arch": "vit_tiny_patch16_224"}, automl_policy="off")
    (line,) = [one for one in plan_text(made.to_dict()).splitlines() if "model.arch " in one]
    assert "vit_tiny_patch16 " in line and "'vit_tiny_patch16_224' is 'vit_tiny_patch16'" in line
