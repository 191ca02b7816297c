"""Several nodes: counted in a plan, and never started as jobs that know nothing of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.plan.launch_record import task_of_several
from mae_sdk.plan.request import Request
from mae_skill.errors import UsageError

from tests.support.images import write_imagefolder

SMALL = {"arch": "vit_tiny_patch16", "image_size": 32, "train.accelerator": "cpu"}


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=24)
    return {"train_datasets": str(data), "automl_policy": "off"}


def overrides(**more: Any) -> dict[str, Any]:
    return {**SMALL, **{key.replace("__", "."): value for key, value in more.items()}}


def test_a_plan_counts_the_processes_of_all_nodes(options: dict[str, Any]) -> None:
    asked = overrides(batch_size=3, train__num_nodes=4, train__num_gpus=2)
    plan = Skill().plan("train", spec_overrides=asked, **options)
    assert (plan.nodes, plan.launch["processes"], plan.effective_batch) == (4, 2, 24)
    assert plan.steps_per_epoch == 2, "48 images, 24 a step"
    assert plan.to_dict()["nodes"] == 4
    assert any("on one machine, not on 4" in str(item) for item in plan.warnings)
    memory = plan.estimates["memory_mb"]
    assert memory["all_processes"] == pytest.approx(2 * memory["total"], abs=0.2)

    sharded = Skill().plan(
        "train", spec_overrides={**asked, "train.distributed_strategy": "fsdp"}, **options
    )
    assert sharded.estimates["memory_mb"]["weights"] == pytest.approx(
        memory["weights"] / 8, abs=0.1
    )


@pytest.mark.parametrize("way", ["exported", "env", "spec", "exported and spec", "exported rank"])
def test_a_job_over_several_nodes_is_refused_with_what_to_start(
    way: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "WORLD_SIZE": "2",
        "NODE_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }
    if way == "exported rank":  # as torchrun would set it
        variables["RANK"] = "1"
    if "exported" in way:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    asked = overrides(**({"train__num_nodes": 2} if "spec" in way else {}))
    more = {"env": variables} if way == "env" else {}
    with pytest.raises(UsageError) as caught:
        Skill().create_job("train", spec_overrides=asked, **options, **more)
    assert "WORLD_SIZE=2 NODE_RANK=K" in str(caught.value.hint)
    assert "mae train -e SPEC.yaml train.num_nodes=2" in str(caught.value.hint)
    assert not (tmp_path / "results").exists(), "nothing was started or written"


def test_tasks_of_srun_do_not_each_start_a_job_but_share_one_by_its_key(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mae_sdk.launch.submit", lambda folder, env: None)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    options["results_root"] = str(tmp_path / "results")
    plan = Skill().plan("train", spec_overrides=SMALL, **options)
    assert any("one of 4 tasks of srun" in str(item) for item in plan.warnings)
    with pytest.raises(UsageError, match="one of 4 tasks of srun") as caught:
        Skill().create_job(plan)
    assert "idempotency_key" in str(caught.value.hint)
    assert not (tmp_path / "results").exists(), "nothing was started or written"

    options["idempotency_key"] = "one for all"
    jobs = [Skill().create_job("train", spec_overrides=SMALL, **options) for _ in range(2)]
    assert jobs[0].id == jobs[1].id


def test_tasks_of_srun_may_be_workers_of_one_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    shared = {"storage": "sqlite:///study.db", "study": "one"}
    assert task_of_several(Request("train", automl=shared)) is None
    assert task_of_several(Request("train", automl={"max_trials": 3})) is not None
