"""The canaries of tests/sdk/test_secrets.py through the real chain, with encrypted checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_skill.errors import JobFailedError

from tests.support.canaries import MARK, SETTINGS, VARIABLES, files_with_mark, watched_argv
from tests.support.images import write_imagefolder

TRIAL = {"max_trials": 2, "pruner": "none", "parameters": ["train.optim.lr"]}


@pytest.mark.timeout(900)
def test_no_canary_of_the_real_chain_rests_or_shows_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    data = str(write_imagefolder(tmp_path / "data", classes=2, per_class=16))
    overrides: dict[str, Any] = {
        "arch": "vit_tiny_patch16",
        "image_size": 32,
        "batch_size": 8,
        "num_epochs": 1,
    }
    overrides |= {
        "stage": "finetune",
        "num_classes": 2,
        "train.accelerator": "cpu",
        "dataset.num_workers_per_gpu": 1,
    }
    skill, secret = Skill(), {"encryption_key": f"{MARK}-in-spec"}
    said = []
    with watched_argv() as argv:
        plan = skill.plan(
            "train",
            train_datasets=data,
            eval_dataset=data,
            automl_policy="off",
            spec=secret,
            spec_overrides=overrides,
        )
        said += [repr(plan), str(plan.to_dict()), plan.to_python()]
        train = skill.create_job(plan).wait(300)
        steps = {
            "evaluate": {"eval_dataset": data},
            "inference": {"inference_dataset": data},
            "export": {},
        }
        jobs = [
            skill.create_job(action, parent_job_id=train.id, spec=secret, **more).wait(300)
            for action, more in steps.items()
        ]
        study = skill.create_job(
            "train",
            train_datasets=data,
            eval_dataset=data,
            spec=secret,
            spec_overrides=overrides,
            automl=TRIAL,
            env=SETTINGS,
        )
        study.wait(300)
        wrong = skill.create_job(
            "evaluate",
            parent_job_id=train.id,
            eval_dataset=data,
            spec={"encryption_key": f"{MARK}-wrong"},
        )
        with pytest.raises(JobFailedError) as caught:
            wrong.wait(300)
    said += [
        str(caught.value),
        str(wrong.record),
        *(job.logs() for job in (train, *jobs, study, wrong)),
    ]
    assert argv == [] and [text for text in said if MARK in text] == []
    assert files_with_mark(tmp_path / "results") == [] and files_with_mark(tmp_path / "cache") == []
    assert b"state_dict" not in train.best_checkpoint().read_bytes()  # encrypted at rest
    assert 0.0 <= jobs[0].metrics()["ACC_all"] <= 1.0
