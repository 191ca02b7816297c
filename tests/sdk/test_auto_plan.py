"""Plans under the auto recipe, and studies that try it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mae_runners.models import checkpoint
from mae_sdk import Plan, Skill
from mae_sdk.cli.main import main
from mae_sdk.launch import record_of
from mae_sdk.plan import cost
from mae_skill.errors import MaeError, UsageError

from tests.support.images import write_imagefolder
from tests.support.models import build, mae_config
from tests.support.scenes import write_digit_scenes

FINETUNE = {"train.stage": "finetune"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    return Path(write_imagefolder(root, classes=4, per_class=30, size=28))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    return Path(write_imagefolder(root, classes=2, per_class=20, size=96, kind="photos"))


def plan(data: Path, **options: Any) -> Plan:
    given = {"recipe": "auto", "automl_policy": "off", **options}
    return Skill().plan("train", train_datasets=str(data), **given)


def test_every_chosen_value_carries_its_rule(digits: Path) -> None:
    made = plan(digits, spec_overrides=FINETUNE)

    chosen = {key: str(origin) for key, origin in made.provenance.items() if origin.note}
    assert "pictures of some 28 pixels" in chosen["model.patch_size"]
    assert made.spec["model"]["patch_size"] == 2
    assert made.spec["model"]["num_classes"] == 4
    assert made.spec["dataset"]["augmentation"]["hflip"] == 0.0  # digits know left from right


def test_what_a_person_names_wins(digits: Path) -> None:
    made = plan(digits, spec_overrides={**FINETUNE, "num_epochs": 7, "arch": "hiera_tiny_224"})

    assert made.spec["train"]["num_epochs"] == 7
    assert made.spec["model"]["arch"] == "hiera_tiny_224"
    assert made.spec["model"]["patch_size"] == 2


def test_the_spec_of_a_job_by_the_recipe_is_not_warned_of_what_the_recipe_chose(
    tmp_path: Path,
) -> None:
    scenes = write_digit_scenes(tmp_path / "scenes", training=8, validation=2, size=32)
    task = {**FINETUNE, "model.task": "segmentation", "model.num_classes": 12}
    first = plan(scenes, spec_overrides=task, results_root=str(tmp_path / "results"))
    folder = tmp_path / "results" / first.job_id
    folder.mkdir(parents=True)
    first.spec["dataset"]["augmentation"]["vflip"] = 0.5  # as of cells, which have no top
    file = folder / "spec.yaml"
    file.write_text(json.dumps(first.spec))
    record = record_of(Skill().bundle, first)
    record["changed"]["dataset.augmentation.vflip"] = {"origin": "recipe (mirrors)"}
    (folder / "job.json").write_text(json.dumps(record))

    def warned(spec: Path, **overrides: Any) -> str:
        given = {"automl_policy": "off", "spec_overrides": overrides}
        return "\n".join(map(str, Skill().plan("train", spec=str(spec), **given).warnings))

    edited = tmp_path / "mine.yaml"
    edited.write_text(file.read_text().replace('"vflip": 0.5', '"vflip": 0.25'))
    assert "vflip: has no effect" in warned(edited)
    assert "has no effect" not in warned(file)
    named = warned(file, **{"dataset.augmentation.mixup": 0.7})
    assert "dataset.augmentation.mixup: has no effect" in named and "vflip" not in named


def test_mean_and_deviation_are_measured(digits: Path, photos: Path) -> None:
    dark = plan(digits).spec["dataset"]["augmentation"]["mean"]
    light = plan(photos).spec["dataset"]["augmentation"]["mean"]

    assert max(dark) < 0.25 < min(light)


LEAN = {"patch_size": 4, "embed_dim": 64, "depth": 3, "num_heads": 2}


def lean_checkpoint(path: Path) -> str:
    """A pretrained model of another shape than any architecture's, as training writes it."""
    model = build(mae_config("vit_tiny_patch16", (32, 32), **LEAN))
    about = checkpoint.CheckpointMeta.for_model(model, mean=[0.2] * 3, std=[0.3] * 3)
    checkpoint.save({"state_dict": model.state_dict(), "mae": about.to_dict()}, path)
    return str(path)


@pytest.mark.parametrize("way", ["ptm", "field"])
def test_the_shape_and_the_pictures_of_our_own_weights_are_taken_over(
    way: str, digits: Path, tmp_path: Path
) -> None:
    path = lean_checkpoint(tmp_path / "own.pth")
    field = {"train.pretrained_model_path": path}
    more: dict[str, Any] = {"ptm": path} if way == "ptm" else {}
    made = plan(digits, spec_overrides={**FINETUNE, **({} if more else field)}, **more)

    model, pictures = made.spec["model"], made.spec["dataset"]["augmentation"]
    assert {name: model[name] for name in LEAN} == LEAN
    assert (model["arch"], pictures["input_size"]) == ("vit_tiny_patch16", 32)
    assert (pictures["mean"], pictures["std"]) == ([0.2] * 3, [0.3] * 3)
    assert any("100.0% of the backbone" in notice for notice in made.notices)
    assert "that of the pretrained weights" in str(made.provenance["model.patch_size"])


def test_published_weights_bring_their_architecture(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    model = timm.create_model("vit_small_patch16_224", num_classes=0)
    torch.save(model.state_dict(), path)
    made = plan(digits, spec_overrides=FINETUNE, ptm=str(path))
    assert made.spec["model"]["arch"] == "vit_small_patch16"
    assert any("100.0% of the backbone" in notice for notice in made.notices)


def test_without_the_recipe_the_shape_of_our_own_weights_is_named(
    digits: Path, tmp_path: Path
) -> None:
    path = lean_checkpoint(tmp_path / "own.pth")
    with pytest.raises(MaeError) as caught:
        plan(digits, recipe=None, spec_overrides={"arch": "vit_tiny_patch16"}, ptm=path)
    hint = str(caught.value.hint)
    assert "model.patch_size=4 model.embed_dim=64 model.depth=3 model.num_heads=2" in hint
    assert "--recipe auto" in hint


def timed(
    monkeypatch: pytest.MonkeyPatch, cache: Path, seconds: float, startup: float = 5.0
) -> list[Plan]:
    """Have a step take `seconds`; the plans that were measured."""
    asked: list[Plan] = []

    def measure(info: Any, made: Plan) -> dict[str, Any]:
        asked.append(made)
        found = {"seconds_per_step": seconds, "startup_seconds": startup}
        return {**found, "steps": 6, "device": "cpu"}

    monkeypatch.setenv("MAE_CACHE_DIR", str(cache))
    monkeypatch.setattr(cost, "measure", measure)
    return asked


def test_a_run_of_few_steps_from_scratch_is_said_with_the_budget_that_would_do(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, tmp_path / "paced", 0.2)  # whatever else this machine does

    def said(**more: Any) -> str:
        made = plan(digits, spec_overrides={**FINETUNE, "train.num_epochs": 3, **more})
        return " ".join(map(str, made.warnings))

    few = "steps are few for a network without weights"
    short = plan(digits, budget="60s", spec_overrides=FINETUNE)
    text = " ".join(map(str, short.warnings))
    steps = short.spec["train"]["num_epochs"] * short.steps_per_epoch
    assert f"{steps} {few}" in text and f"{600 / steps:.1f} times as long" in text
    shown = short.to_dict()
    assert few in str(shown["warnings"]) and few not in str(shown["notes"]), "it is serious"
    assert "where fcmae_atto_finetune" not in text, "what the recipe chose is not its warning"
    assert few not in said(), "a person's own number of epochs"
    long = plan(digits, budget="3h", spec_overrides=FINETUNE)
    assert few not in " ".join(map(str, long.warnings))


def test_a_budget_is_kept_by_the_measured_time_of_a_step(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, tmp_path / "fast", 0.02)
    fast = plan(digits, budget="60s")
    timed(monkeypatch, tmp_path / "slow", 0.2)
    slow = plan(digits, budget="60s")

    assert slow.spec["train"]["num_epochs"] < fast.spec["train"]["num_epochs"]
    assert fast.estimates["time"]["seconds_total"] <= 60
    assert slow.estimates["time"]["seconds_total"] <= 60


def test_a_start_that_was_measured_comes_out_of_the_budget(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, tmp_path / "slow", 0.2, startup=40.0)
    made = plan(digits, budget="60s")
    assert 40 < made.estimates["time"]["seconds_total"] <= 60

    timed(monkeypatch, tmp_path / "too slow", 0.2, startup=70.0)
    with pytest.raises(UsageError, match="one epoch") as caught:
        plan(digits, budget="60s")
    assert caught.value.field == "budget" and caught.value.got == "60s"


@pytest.mark.parametrize("budget", ["1h", "2h", "9h", "20gpuh", "64gpuh"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**FINETUNE, "num_classes": 1000},
        {"train.validation_interval": 1},
        {"train.num_gpus": 4},
    ],
)
def test_time_gpu_hours_and_money_of_a_plan_are_within_its_budget(
    budget: str, fields: dict[str, Any]
) -> None:
    made = Skill().plan(
        "train",
        recipe="auto",
        automl_policy="off",
        on="8xA100-80G",
        images="300K",
        price="2/gpuh",
        budget=budget,
        spec_overrides=fields,
    )
    number = float(budget.rstrip("gpuh"))
    hours = number / 8 if budget.endswith("gpuh") else number
    there = made.estimates["machine"]
    assert made.estimates["time"]["seconds_total"] <= hours * 3600
    assert there["gpu_hours"] <= 8 * hours and there["cost"] <= 2 * 8 * hours
    assert there["hours"] > 0.5 * hours or made.spec["train"]["num_epochs"] in (100, 300)


def test_a_budget_beside_given_epochs_is_said_not_to_act(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timed(monkeypatch, tmp_path, 0.02)

    made = plan(digits, budget="60s", spec_overrides={"num_epochs": 3})

    assert made.spec["train"]["num_epochs"] == 3
    assert not asked
    assert any("budget=60s is not used" in notice for notice in made.notices)


def test_steps_that_cost_the_same_are_measured_once(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timed(monkeypatch, tmp_path, 0.02)

    first, second = (plan(digits, budget="60s").spec for _ in range(2))

    assert len(asked) == 1
    assert {**first, "results_dir": None} == {**second, "results_dir": None}


def test_steps_of_the_smaller_pictures_that_a_slow_machine_needs_are_measured_too_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs = write_imagefolder(tmp_path / "signs", classes=3, per_class=30, size=48)
    asked = timed(monkeypatch, tmp_path, 0.5)

    made = plan(Path(signs), budget="5m", spec_overrides=FINETUNE)

    sizes = [one.spec["dataset"]["augmentation"]["input_size"] for one in asked]
    assert sizes == [48, 32]
    assert made.spec["dataset"]["augmentation"]["input_size"] == 32
    assert "at 48 pixels" in str(made.provenance["dataset.augmentation.input_size"].note)
    assert made.estimates["time"]["seconds_total"] <= 300


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"budget": "soon"}, "budget", "not a time"),
        ({"budget": "0m"}, "budget", "not a time"),
        ({"budget": "999999h"}, "budget", "too long a time"),
        ({"budget": "2gpuh"}, "budget", "GPU"),
        ({"budget": "1s"}, "budget", "one epoch"),
        ({"recipe": None, "budget": "1h"}, "budget", "auto recipe"),
        ({"recipe": "automatic"}, "recipe", "no such recipe"),
    ],
)
def test_what_cannot_be_is_refused(
    digits: Path, options: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(MaeError, match=message) as caught:
        plan(digits, **options)

    assert caught.value.field == field


def test_other_actions_take_their_settings_from_the_model(digits: Path) -> None:
    with pytest.raises(UsageError, match="from the model"):
        Skill().plan("evaluate", eval_dataset=str(digits), recipe="auto")


def test_trial_1_of_a_study_is_the_auto_recipe_and_the_search_goes_around_it(digits: Path) -> None:
    made = plan(
        digits, recipe=None, automl_policy="on", spec_overrides={**FINETUNE, "num_classes": 4}
    )

    study = made.study
    assert study is not None
    assert study["spec"]["dataset"]["batch_size"] == 3  # as given: the documented defaults
    auto = study["auto_spec"]
    assert auto["model"]["patch_size"] == 2
    rate = next(item for item in study["space"]["knobs"] if item["name"] == "train.optim.lr")
    assert rate["low"] < auto["train"]["optim"]["lr"] < rate["high"]
    assert rate["high"] / rate["low"] <= 25.1
    searched = {item["name"] for item in study["space"]["knobs"]}
    assert {"dataset.batch_size", "dataset.augmentation.rotation"} <= searched
    assert any("trial 1 is the auto recipe" in notice for notice in made.notices)


def test_the_auto_trial_keeps_what_a_published_recipe_sets(digits: Path) -> None:
    options = {"recipe": "mae_vit_base_finetune", "automl_policy": "on"}
    small = {"image_size": 32, "num_classes": 4, "num_epochs": 2, "train.precision": "fp32"}
    made = plan(digits, spec_overrides=small, **options)

    assert made.study is not None and "auto_spec" in made.study
    given, auto = made.study["spec"], made.study["auto_spec"]
    assert auto["dataset"]["batch_size"] == given["dataset"]["batch_size"] == 64
    assert auto["train"]["optim"]["layer_decay"] == given["train"]["optim"]["layer_decay"]
    assert auto["dataset"]["augmentation"]["mean"] != given["dataset"]["augmentation"]["mean"]


def test_a_study_can_leave_the_auto_recipe_out(digits: Path) -> None:
    options = {"recipe": None, "automl_policy": "on", "automl": {"auto_recipe": False}}
    made = plan(digits, spec_overrides={**FINETUNE, "num_classes": 4}, **options)

    assert made.study is not None and "auto_spec" not in made.study


def test_a_loss_of_reconstruction_does_not_compare_across_recipes(digits: Path) -> None:
    made = plan(digits, recipe=None, automl_policy="on")

    assert made.study is not None and "auto_spec" not in made.study
    assert any("does not compare" in notice for notice in made.notices)


def test_a_budget_is_shared_among_the_trials(digits: Path) -> None:
    options = {"recipe": None, "automl_policy": "on", "automl": {"max_trials": 4}}
    made = plan(digits, budget="4m", spec_overrides={**FINETUNE, "num_classes": 4}, **options)

    assert made.study is not None
    assert made.study["options"]["timeout"] == 240.0
    assert made.estimates["time"]["seconds_study"] <= 300


def study_of(
    digits: Path, budget: str, automl: dict[str, Any] | None = None, **fields: Any
) -> tuple[Any, Plan]:
    overrides = {**FINETUNE, "num_classes": 4, **fields}
    options = {"automl_policy": "on", "automl": automl or {}, "spec_overrides": overrides}
    made = plan(digits, recipe=None, budget=budget, **options)
    assert made.study is not None
    return made.study, made


def test_most_of_a_short_budget_goes_to_one_good_run(digits: Path) -> None:
    def epochs(automl: dict[str, Any]) -> int:
        study, _ = study_of(digits, "100s", automl)
        return int(study.get("auto_spec", study["spec"])["train"]["num_epochs"])

    assert epochs({}) > 2 * epochs({"max_trials": 10})
    compared = epochs({"parameters": ["train.optim.lr"]})
    assert 2 * compared < epochs({}), "several rates are to be compared, so several runs end"
    assert compared > epochs({"max_trials": 10})


def test_a_spec_that_is_too_long_for_the_budget_leaves_it_to_the_auto_recipe(digits: Path) -> None:
    study, made = study_of(digits, "60s")  # the documented defaults: ConvNeXt V2 base at 224 pixels

    assert "auto_spec" not in study
    assert study["spec"]["model"]["arch"] == "convnextv2_atto"
    assert "dataset.batch_size" in {item["name"] for item in study["space"]["knobs"]}
    assert any("the spec as given is not tried" in notice for notice in made.notices)
    assert any("trial 0 is the auto recipe" in notice for notice in made.notices)


def test_a_spec_that_fits_the_budget_stays_trial_0(digits: Path) -> None:
    small = {"arch": "vit_tiny_patch16", "image_size": 32, "num_epochs": 2}
    study, _ = study_of(digits, "10m", **small)

    assert study["spec"]["dataset"]["batch_size"] == 3
    assert study["auto_spec"]["model"]["patch_size"] == 4


def test_get_spec_writes_the_auto_recipe(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--recipe", "auto", "--train-datasets", str(digits), "stage=finetune", "--json"]

    with pytest.raises(SystemExit) as left:
        main(["get-spec", "train", *asked])
    assert not left.value.code

    written = json.loads(capsys.readouterr().out)
    assert written["model"]["patch_size"] == 2 and written["results_dir"] is None
