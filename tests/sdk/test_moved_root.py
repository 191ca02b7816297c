"""A results root that was moved: its jobs are read, are parents, and go on in their new place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mae_sdk import Skill
from mae_sdk.automl.trials import Trials
from mae_sdk.jobs import records
from mae_skill.reader import read_spec

from tests.support.folders import job_folder
from tests.support.images import write_imagefolder
from tests.support.jobs import wait_until
from tests.support.toy_bundle.make import write_bundle


def test_jobs_of_a_moved_root_go_on_there_and_leave_nothing_in_the_old_place(
    tmp_path: Path,
) -> None:
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    skill, old, new = Skill(write_bundle(tmp_path / "bundle")), tmp_path / "old", tmp_path / "new"
    plain = skill.create_job(
        "train",
        automl_policy="off",
        spec_overrides={"train.fault": "once"},
        train_datasets=str(data),
        results_root=str(old),
    )
    wait_until(lambda: plain.state == "RUNNING")
    assert plain.cancel() == "CANCELED"
    old.rename(new)

    job = skill.job(plain.id, new)
    assert job.state == "CANCELED"
    assert job.resume().wait(60).state == "COMPLETE"
    text = (job.folder / "spec.yaml").read_text() + json.dumps(job.record["launch"])
    assert str(old) + "/" not in text and str(new) in text
    child = skill.create_job("check", parent_job_id=job.id, results_root=str(new)).wait(60)
    model = read_spec(child.folder / "spec.yaml")["check"]["model"]
    assert Path(model).is_relative_to(new) and not old.exists()


def test_trials_have_their_own_time(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "a1", "train", kind="automl", created_at="2020-01-01T00:00:00")
    study: Any = {"launch": {"command": ["true"]}, "objectives": [], "concurrency": 1}
    trials = Trials(folder, study)
    made = [records.read_record(trials.create(number, {})) for number in (0, 1)]
    assert all(str(record["created_at"]) > "2025" for record in made)
    assert made[0]["automl_parent"] == "a1"
