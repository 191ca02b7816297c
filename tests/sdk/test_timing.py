"""Estimates of time: worked out, recorded from earlier jobs, measured; each says which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Plan, Skill
from mae_sdk.run.platform import Resources

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
    monkeypatch.setattr("mae_sdk.run.local.LocalPlatform.resources", lambda self: there)
    folder = write_imagefolder(tmp_path / "d", classes=2, per_class=8)
    overrides = {"arch": "vit_tiny_patch16", "image_size": 64, "batch_size": 4, "num_epochs": 5}
    plan = Skill().plan(
        "train", train_datasets=str(folder), spec_overrides=overrides, automl={"max_trials": 6}
    )
    time = time_of(plan)
    assert time["seconds_per_epoch"] == pytest.approx(time["seconds_per_step"] * 4, abs=0.01)
    assert time["seconds_total"] == pytest.approx(time["seconds_per_step"] * 20, abs=0.1)
    assert time["seconds_study_at_most"] >= time["seconds_total"] * 3
    assert "analytic" in time["basis"] and "4 cores" in time["basis"]
    options = {"max_trials": 6, "max_epochs": 2}
    shorter = time_of(
        Skill().plan("train", train_datasets=str(folder), spec_overrides=overrides, automl=options)
    )
    assert shorter["seconds_total"] == pytest.approx(shorter["seconds_per_step"] * 8, abs=0.06)
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
