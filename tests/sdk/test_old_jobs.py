"""Job folders of an earlier version of the program are read, chained from and resumed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_skill.reader import read_spec

from tests.support.images import write_imagefolder

OLD = Path(__file__).resolve().parents[1] / "support" / "old_jobs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The results root, its paths as if the jobs had run here."""
    base = tmp_path / "old"
    shutil.copytree(OLD, base / "results", symlinks=True)
    write_imagefolder(base / "data", classes=2, per_class=16, size=32)
    for path in (*base.glob("results/*/job.json"), *base.glob("results/*/spec.yaml")):
        text = path.read_text().replace("/the-old-python", sys.executable)
        path.write_text(text.replace("/the-old-place", str(base)))
    return base / "results"


def test_they_are_read(root: Path) -> None:
    skill = Skill()
    assert {job.id: job.state for job in skill.jobs(root)} == {
        "train-whole": "COMPLETE",
        "train-killed": "ERROR",
    }
    whole, killed = skill.job("train-whole", root), skill.job("train-killed", root)
    assert [row["epoch"] for row in whole.history()] == [0, 1]
    assert whole.metrics()["train_loss"] == whole.history()[-1]["train_loss"] > 0
    assert whole.best_checkpoint() == whole.folder / "train" / "model_epoch_001.pth"
    assert whole.best_checkpoint() in whole.files() and "epoch 1" in whole.logs()
    error = killed.record["error"]
    assert error is not None and error["category"] == "lost_process"


def test_a_fine_tuning_starts_from_one(root: Path) -> None:
    skill = Skill()
    data = write_imagefolder(root.parent / "labelled", classes=2, per_class=2, size=32)
    job = skill.create_job(
        "train",
        train_datasets=str(data),
        parent_job_id="train-whole",
        results_root=str(root),
        automl_policy="off",
        spec_overrides={
            "stage": "finetune",
            "num_classes": 2,
            "model.embed_dim": 8,
            "model.depth": 1,
            "model.num_heads": 1,
            "num_epochs": 1,
            "batch_size": 4,
            "train.accelerator": "cpu",
            "dataset.num_workers_per_gpu": 0,
        },
    )
    job.wait(200)
    spec = read_spec(job.folder / "spec.yaml")
    parent = skill.job("train-whole", root)
    assert spec["train"]["pretrained_model_path"] == str(parent.best_checkpoint())
    assert spec["model"]["arch"] == "vit_tiny_patch16"  # inherited
    assert job.record["parent"] == "train-whole" and job.best_checkpoint().is_file()


def test_one_that_was_killed_goes_on(root: Path) -> None:
    job = Skill().job("train-killed", root)
    before = CheckpointIndex(job.folder / "train").read()["checkpoints"]
    job.resume().wait(200)
    assert [attempt["state"] for attempt in job.record["attempts"]] == ["ERROR", "COMPLETE"]
    assert [entry["epoch"] for entry in before] == [0]
    assert [row["epoch"] for row in job.history()] == [0, 1, 2, 3]
    assert job.logs().count("epoch 0: train_loss") == 1  # it did not start from scratch

    # Another job by its spec does not begin at the checkpoint that this one was resumed from.
    field = "train.resume_training_checkpoint_path"
    spec = read_spec(job.folder / "spec.yaml")
    assert Path(spec["train"]["resume_training_checkpoint_path"]).is_relative_to(job.folder)
    longer = {"parent_job_id": job.id, "results_root": str(root), "automl_policy": "off"}
    made = Skill().plan("train", spec=spec, spec_overrides={"num_epochs": 2}, **longer)
    assert made.spec["train"]["resume_training_checkpoint_path"] is None
    assert [one for one in made.notices if f"{field} of the spec is not used: {job.id}" in one]
    named = {field: str(job.best_checkpoint())}
    made = Skill().plan("train", spec=spec, spec_overrides={"num_epochs": 9, **named}, **longer)
    assert made.spec["train"]["resume_training_checkpoint_path"] == named[field]


@pytest.mark.parametrize(("named", "told"), [({}, True), ({"parent_job_id": "train-whole"}, False)])
def test_weights_that_a_resume_took_out_of_a_spec_are_told(
    named: dict[str, str], told: bool, root: Path
) -> None:
    path = root / "train-killed" / "job.json"
    record = json.loads(path.read_text())
    field = "train.pretrained_model_path"
    record["changed"] = {field: {"origin": "parent train-whole", "default": None}}
    record["attempts"] += record["attempts"]
    path.write_text(json.dumps(record))
    spec = read_spec(root / "train-killed" / "spec.yaml")
    given = {"results_root": str(root), "automl_policy": "off", **named}
    made = Skill().plan("train", spec=spec, **given)
    found = [one for one in made.notices if f"{field} is empty in the spec" in str(one)]
    assert bool(found) is told
