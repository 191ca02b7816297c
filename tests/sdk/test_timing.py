"""Estimates of time: worked out, recorded from earlier jobs, measured; each says which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from mae_sdk import Plan, Skill
from mae_sdk.automl.options import parse
from mae_sdk.automl.pruner import shares_of_epochs
from mae_sdk.plan.cost import RANGES
from mae_sdk.run.platform import Resources
from mae_skill.errors import MaeError
from mae_skill.estimate import estimate
from mae_skill.rules import Facts

from tests.support.folders import write_own_checkpoint
from tests.support.images import write_imagefolder
from tests.support.toy_bundle.make import write_bundle


@pytest.fixture
def skill(tmp_path: Path) -> Skill:
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    return Skill(write_bundle(tmp_path / "bundle"))


def options(tmp_path: Path, **overrides: Any) -> dict[str, Any]:
    return {
        "train_datasets": str(tmp_path / "data"),
        "automl_policy": "off",
        "spec_overrides": {"train.rounds": 4, **overrides},
    }


def time_of(plan: Plan) -> Any:
    return plan.to_dict()["estimates"]["time"]


def test_the_time_of_a_step_is_taken_from_earlier_jobs_that_cost_the_same(
    skill: Skill, tmp_path: Path
) -> None:
    assert time_of(skill.plan("train", **options(tmp_path)))["basis"].startswith("not known")
    skill.create_job("train", **options(tmp_path)).wait(30)
    found = time_of(skill.plan("train", **options(tmp_path, **{"train.rate": 0.25})))
    assert found["seconds_per_step"] == 0.25 and found["basis"].startswith(
        "recorded: 1 earlier job of the same shape"
    )
    assert time_of(skill.plan("train", **options(tmp_path, **{"train.shade": "dark"})))[
        "basis"
    ].startswith("not known")


def test_measuring_runs_the_bundles_own_command_and_leaves_nothing(
    skill: Skill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    plan = skill.plan("train", measure=True, **options(tmp_path))
    assert time_of(plan)["seconds_per_step"] == 0.125
    assert time_of(plan)["basis"].startswith("measured: 3 steps of one process on paper")
    assert plan.estimates["measured"]["steps"] == 3
    assert list((tmp_path / "tmp").iterdir()) == [] and not (tmp_path / "results").exists()


def test_a_measurement_that_fails_is_a_warning_that_says_why(skill: Skill, tmp_path: Path) -> None:
    plan = skill.plan("train", measure=True, **options(tmp_path, **{"train.fault": "exit"}))
    assert "ended with exit code 1" in plan.to_dict()["warnings"][0]["message"]
    assert time_of(plan)["basis"].startswith("not known")


def test_a_measurement_has_a_limit_and_takes_its_processes_with_it(
    skill: Skill, tmp_path: Path
) -> None:
    from mae_sdk.plan import cost as timing
    from mae_skill.errors import UsageError

    plan = skill.plan("train", **options(tmp_path, **{"train.fault": "sleep"}))
    with pytest.raises(UsageError, match="did not end in time"):
        timing.measure(skill.bundle.info, plan, timeout=0.3)
    with pytest.raises(UsageError, match="cannot measure"):
        timing.measure({"actions": {"train": {}}}, plan)


def test_a_plan_of_the_packaged_bundle_tells_the_time_of_epoch_run_and_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Resources(gpus=0, device="cpu", cores=4, here=True)
    monkeypatch.setattr("mae_sdk.run.local.LocalPlatform.resources", lambda self, options: there)
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=8)
    overrides = {"arch": "vit_tiny_patch16", "image_size": 64, "batch_size": 4, "num_epochs": 5}
    plan = Skill().plan(
        "train", train_datasets=str(folder), spec_overrides=overrides, automl={"max_trials": 6}
    )
    time = time_of(plan)
    assert time["seconds_per_epoch"] == pytest.approx(time["seconds_per_step"] * 4, abs=0.01)
    parts = time["parts"]
    assert parts["training"] == pytest.approx(time["seconds_per_step"] * 20, abs=0.1)
    assert parts["start"] > 0 and parts["checkpoints"] > 0
    assert time["seconds_total"] == pytest.approx(sum(parts.values()), abs=0.3)
    assert "analytic" in time["basis"] and "4 cores" in time["basis"]
    options = {"max_trials": 6, "max_epochs": 2}
    shorter = time_of(
        Skill().plan("train", train_datasets=str(folder), spec_overrides=overrides, automl=options)
    )
    assert shorter["parts"]["training"] == pytest.approx(shorter["seconds_per_step"] * 8, abs=0.06)
    memory = plan.estimates["memory_mb"]
    assert memory["total"] == pytest.approx(
        memory["weights"] + memory["optimizer"] + memory["activations"], abs=0.2
    )
    disk = plan.estimates["disk_mb"]
    assert disk["checkpoints"] == 2 and disk["total"] == pytest.approx(
        6 * 2 * disk["checkpoint"], abs=0.1
    )


def test_a_plan_warns_where_the_checkpoints_do_not_fit_on_the_disk(tmp_path: Path) -> None:
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=2)
    overrides = {
        "arch": "vit_huge_patch14",
        "image_size": 224,
        "num_epochs": 1_000_000,
        "train.optim.warmup_epochs": 0,
    }
    options: dict[str, Any] = {"train_datasets": str(folder), "automl_policy": "off"}
    plan = Skill().plan("train", spec_overrides=overrides, **options)
    said = [
        warning for warning in plan.warnings if getattr(warning, "field", None) == "results_root"
    ]
    assert len(said) == 1 and "MiB free" in said[0].got and "train.keep_checkpoints" in said[0].hint
    kept = Skill().plan(
        "train", spec_overrides={**overrides, "train.keep_checkpoints": 2}, **options
    )
    assert kept.estimates["disk_mb"]["checkpoints"] == 3
    each = kept.estimates["disk_mb"]["checkpoint"]
    assert plan.estimates["disk_mb"]["total"] == pytest.approx(1_000_000 * each, rel=1e-3)


def planned(monkeypatch: pytest.MonkeyPatch, folder: Path, **options: Any) -> Plan:
    """A plan of the packaged bundle for two cores without a GPU."""
    there = Resources(gpus=0, device="cpu", cores=2, here=True)
    monkeypatch.setattr("mae_sdk.run.local.LocalPlatform.resources", lambda self, options: there)
    changes = options.pop("changes", {})
    overrides = {"arch": "vit_tiny_patch16", "image_size": 64, "train.accelerator": "cpu"}
    overrides |= {"num_epochs": 10, "train.optim.warmup_epochs": 0, **changes}
    automl = options.pop("automl_policy", "off")
    return Skill().plan(
        "train",
        train_datasets=str(folder),
        spec_overrides=overrides,
        automl_policy=automl,
        **options,
    )


def test_a_range_holds_the_likely_time_and_its_ends_are_those_of_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=8)
    time = time_of(planned(monkeypatch, folder))
    low, high = time["seconds_total_range"]
    assert 0 < low < time["seconds_total"] < high
    parts = {
        name: (value, *RANGES.get(name, RANGES["beside"]))
        for name, value in time["parts"].items()
        if name != "training"
    }
    parts["training"] = (time["parts"]["training"], *RANGES["analytic"])
    assert low == pytest.approx(sum(value * least for value, least, _ in parts.values()), rel=0.05)
    assert high == pytest.approx(sum(value * most for value, _, most in parts.values()), rel=0.05)


def test_validation_is_part_of_the_time_and_so_is_every_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=8)
    val = write_imagefolder(tmp_path / "v", classes=2, per_class=100)
    stage = {"train.stage": "finetune", "model.num_classes": 2}

    def parts(**changes: Any) -> Any:
        given = {"eval_dataset": str(val), "changes": {**stage, **changes}}
        return time_of(planned(monkeypatch, folder, **given))["parts"]

    every = parts()
    seldom = parts(**{"train.validation_interval": 5, "train.checkpoint_interval": 5})
    assert every["validation"] == pytest.approx(5 * seldom["validation"], rel=0.2, abs=0.1)
    assert every["checkpoints"] == pytest.approx(5 * seldom["checkpoints"], rel=0.2, abs=0.1)
    assert every["validation"] > 1


def test_processes_share_the_cores_of_a_machine_without_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=80)
    one = planned(monkeypatch, folder, changes={"dataset.num_workers_per_gpu": 0})
    eight = planned(
        monkeypatch, folder, changes={"train.num_gpus": 8, "dataset.num_workers_per_gpu": 0}
    )
    assert eight.launch["processes"] == 8
    step = time_of(eight)["seconds_per_step"] / time_of(one)["seconds_per_step"]
    assert 4 <= step <= 8.5, step  # as much work for each, an eighth of the cores
    assert time_of(eight)["parts"]["start"] == pytest.approx(4 * time_of(one)["parts"]["start"])
    epoch = time_of(eight)["seconds_per_epoch"] / time_of(one)["seconds_per_epoch"]
    assert 0.5 <= epoch <= 1.2, epoch  # eight processes are no faster than one with all cores
    assert "shared by 8 processes" in time_of(eight)["basis"]


def test_fsdp_divides_the_memory_of_weights_and_moments_and_ddp_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=8)

    def memory(strategy: str, processes: int) -> Any:
        changes = {"train.num_gpus": processes, "train.distributed_strategy": strategy}
        return planned(monkeypatch, folder, changes=changes).estimates["memory_mb"]

    alone, ddp, fsdp = memory("ddp", 1), memory("ddp", 4), memory("fsdp", 4)
    for part in ("weights", "optimizer"):
        assert ddp[part] == alone[part]
        assert fsdp[part] == pytest.approx(alone[part] / 4, abs=0.1)
    assert fsdp["activations"] == ddp["activations"] == alone["activations"]
    assert ddp["all_processes"] == pytest.approx(4 * ddp["total"], abs=0.1)


def test_a_study_has_a_range_from_every_trial_pruned_to_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=8)

    def study(**automl: Any) -> Any:
        found = planned(monkeypatch, folder, automl_policy="on", automl=automl)
        return time_of(found)

    pruned, whole = study(max_trials=9), study(max_trials=9, pruner="none")
    assert pruned["seconds_study_range"][0] < whole["seconds_study_range"][0]
    assert pruned["seconds_study_range"][1] == whole["seconds_study_range"][1]
    assert pruned["seconds_study"] < whole["seconds_study"] == whole["seconds_study_at_most"]
    assert study(max_trials=9, timeout=20)["seconds_study_range"][1] < 60
    assert study(max_trials=18, pruner="none")["seconds_study"] > 1.7 * whole["seconds_study"]
    grid = {"sampler": "grid", "parameters": ["train.optim.lr"], "grid_points": 2}
    assert (
        study(max_trials=90, pruner="none", **grid)["seconds_study"]
        < 10 * (study(max_trials=1, pruner="none")["seconds_study"])
    )
    patient = study(max_trials=9, pruner="none", plateau=2)["seconds_study_range"]
    assert patient[0] < whole["seconds_study_range"][0]
    assert patient[1] == whole["seconds_study_range"][1]
    # Two trials at a time share the cores: half the rounds, each twice as long.
    two = study(max_trials=8, pruner="none", concurrency=2)
    one = study(max_trials=8, pruner="none", concurrency=1)
    assert two["seconds_per_step"] == pytest.approx(2 * one["seconds_per_step"], rel=1e-3)
    assert 0.5 < two["seconds_study"] / one["seconds_study"] < 1.1


def test_the_plan_says_which_pruner_decides_where_and_how_long_a_trial_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=8)
    shown = planned(monkeypatch, folder, automl_policy="on", automl={"max_epochs": 5}).automl
    assert shown is not None and shown["epochs"] == 5
    assert shown["pruner"].startswith("successive_halving: go on 67% after 1, 33% after 2")
    shown = planned(monkeypatch, folder, automl_policy="on", automl={"pruner": "none"}).automl
    assert shown is not None and shown["pruner"] == "none" and shown["epochs"] == 10


@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband", "median", "none"])
@pytest.mark.parametrize("epochs", [1, 3, 10, 90])
@pytest.mark.parametrize("trials", [1, 2, 3, 10, 100])
def test_no_pruner_saves_more_than_is_said(pruner: str, epochs: int, trials: int) -> None:
    options = parse({"pruner": pruner, "max_trials": trials})
    least, likely = shares_of_epochs(options, 1, epochs)
    assert 0 < least <= likely <= 1
    if pruner == "none" or epochs == 1 or trials <= 2:
        assert least == likely == 1
    if pruner == "successive_halving" and epochs == 90 and trials == 100:
        assert least == pytest.approx((2 + 98 * 9 / 90) / 100)


def test_an_evaluation_has_a_time_only_where_its_model_is_known(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"model": {"arch": "vit_tiny_patch16"}}
    few, many = (
        estimate("evaluate", spec, Facts(device="cpu", cores=2, judged=count))["seconds"]
        for count in (10, 1000)
    )
    assert many["rest"] > few["rest"] and many["start"] == few["start"]
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=2)
    with pytest.raises(MaeError):
        Skill().plan("evaluate", eval_dataset=str(folder))


@pytest.mark.parametrize("action", ["evaluate", "inference"])
def test_an_action_that_the_memory_of_the_machine_does_not_hold_is_warned_of(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(write_imagefolder(tmp_path / "d", classes=2, per_class=4))
    write_own_checkpoint(tmp_path / "m.pth")

    def said(batch: int) -> list[str]:
        made = Skill().plan(
            action,
            **{f"{'eval' if action == 'evaluate' else action}_dataset": folder},
            spec_overrides={
                f"{action}.checkpoint": str(tmp_path / "m.pth"),
                f"{action}.batch_size": batch,
                "model.arch": "vit_tiny_patch16",
                "dataset.augmentation.input_size": 4096,
            },
        )
        return [str(one) for one in made.warnings if "memory of this machine" in str(one)]

    monkeypatch.setattr("mae_sdk.run.local.memory_mb", lambda: 1024)
    assert said(2) == []
    (warning,) = said(10**6)  # of which there are 8
    assert warning.startswith(f"{action}.batch_size: the run is estimated to take 2 GiB")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"export.batch_size": 5000}, "export.batch_size"),  # pictures, and what they attend to
        ({"export.input_height": 2048, "export.input_width": 2048}, "export.input_height"),
        ({"dataset.augmentation.input_size": 2048}, "model.arch"),
    ],
)
def test_an_export_that_the_memory_of_the_machine_does_not_hold_is_warned_of(
    settings: dict[str, Any], field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_own_checkpoint(tmp_path / "m.pth")
    model = {"export.checkpoint": str(tmp_path / "m.pth"), "model.arch": "vit_tiny_patch16"}

    def said(**more: Any) -> list[str]:
        made = Skill().plan("export", spec_overrides={**model, **more})
        return [str(one) for one in made.warnings if "memory of this machine" in str(one)]

    monkeypatch.setattr("mae_sdk.run.local.memory_mb", lambda: 4096)
    for device in ("cpu", "H100"):  # a graph is traced in main memory whatever the device
        monkeypatch.setattr("mae_sdk.run.local.gpu_model", lambda device=device: device)
        assert said() == []
        (warning,) = said(**settings)
        assert warning.startswith(f"{field}: the run is estimated to take ")
    # Folders of other libraries hold no graph: neither its batch nor attention as it is.
    assert said(**{"export.format": "timm", "export.batch_size": 5000}) == []


def test_an_engine_whose_onnx_file_the_memory_of_the_machine_does_not_hold_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mae_sdk.run.local.memory_mb", lambda: 4096)

    def said(batch: int | str) -> list[str]:
        images = onnx.helper.make_tensor_value_info("images", 1, [batch, 3, 224, 224])
        graph = onnx.helper.make_graph([], "g", [images], [])
        onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
        made = Skill().plan(
            "gen_trt_engine", spec_overrides={"gen_trt_engine.onnx_file": str(tmp_path / "m.onnx")}
        )
        assert made.estimates["memory_of"] == "host"
        return [str(one) for one in made.warnings if "memory of this machine" in str(one)]

    assert said("batch") == []
    (warning,) = said(10_000)
    assert "estimated to take 6 GiB" in warning


def test_int8_holds_the_pictures_that_it_is_calibrated_on() -> None:
    calibration = {"cal_batch_size": 64, "cal_batches": 1000}
    spec: dict[str, Any] = {
        "model": {"arch": "vit_tiny_patch16"},
        "dataset": {"val_data_sources": "/v"},
        "export": {"data_type": "int8"},
        "gen_trt_engine": {"tensorrt": {"calibration": calibration}},
    }
    data = {"dataset.val_data_sources": {"images": 2000}}
    few = estimate("export", spec, Facts())["memory_mb"]
    many = estimate("export", spec, Facts(data=data))["memory_mb"]
    assert many["pictures"] - few["pictures"] == pytest.approx(2000 * 3 * 224**2 * 4 / 2**20, 1e-3)


def test_nodes_divide_what_fsdp_shards_and_have_cores_of_their_own() -> None:
    spec: dict[str, Any] = {
        "model": {"arch": "vit_tiny_patch16"},
        "train": {"distributed_strategy": "fsdp"},
    }
    one = estimate("train", spec, Facts(device="cpu", cores=2, processes=2, nodes=1))
    two = estimate("train", spec, Facts(device="cpu", cores=2, processes=2, nodes=2))
    assert two["memory_mb"]["weights"] == pytest.approx(one["memory_mb"]["weights"] / 2, abs=0.1)
    assert two["seconds_per_step"] == one["seconds_per_step"]
