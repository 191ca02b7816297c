"""A results root that was moved: its studies go on in their new place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mae_sdk import Skill
from mae_skill.reader import read_spec

from tests.support.images import write_imagefolder
from tests.support.jobs import wait_until
from tests.support.toy_bundle.make import write_bundle


def test_a_study_of_a_moved_root_goes_on_there_and_leaves_nothing_in_the_old_place(
    tmp_path: Path,
) -> None:
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    skill, old, new = Skill(write_bundle(tmp_path / "bundle")), tmp_path / "old", tmp_path / "new"
    common: dict[str, Any] = {"train_datasets": str(data), "results_root": str(old)}
    study = skill.create_job(
        "train",
        automl={"max_trials": 6, "pruner": "none", "concurrency": 1},
        spec_overrides={"train.fault": "slow"},
        **common,
    )
    wait_until(lambda: list(old.glob("*.t000/log.txt")))
    assert study.cancel() == "CANCELED"
    wait_until(lambda: all(job.state == "CANCELED" for job in skill.jobs(old, all=True)))
    old.rename(new)

    job = skill.job(study.id, new)
    assert job.state == "CANCELED" and job.resume().wait(120).state == "COMPLETE"
    for job in skill.jobs(new, all=True):
        text = (job.folder / "spec.yaml").read_text() + json.dumps(job.record["launch"])
        assert str(old) + "/" not in text and str(new) in text
    child = skill.create_job("check", parent_job_id=study.id, results_root=str(new)).wait(60)
    model = read_spec(child.folder / "spec.yaml")["check"]["model"]
    assert Path(model).is_relative_to(new) and not old.exists()
