"""A real study, its warm runner and its trials in a folder whose files bear names of libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
from mae_sdk import Skill

from tests.sdk.test_working_folder import executed, hostile
from tests.support.images import write_imagefolder

__all__ = ["hostile"]  # the fixture


@pytest.mark.timeout(600)
def test_the_warm_runner_and_its_trials_import_nothing_of_the_folder(
    hostile: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = str(write_imagefolder(tmp_path / "data", classes=2, per_class=8))
    monkeypatch.chdir(hostile)
    monkeypatch.setenv("PYTHONPATH", ":")
    study = Skill().create_job(
        "train",
        train_datasets=data,
        automl={"max_trials": 2, "pruner": "none", "parameters": ["train.optim.lr"]},
        spec_overrides={
            "arch": "vit_tiny_patch16",
            "image_size": 32,
            "batch_size": 4,
            "num_epochs": 1,
            "train.accelerator": "cpu",
            "dataset.num_workers_per_gpu": 1,
        },
    )
    study.wait(500)
    assert executed(tmp_path) == ""
    assert len(Skill().jobs(all=True)) == 3
