"""Jobs of a results root that was moved: they are read, and go on, where they are now."""

from __future__ import annotations

import shutil
from pathlib import Path

from mae_sdk import Skill, files
from mae_sdk.automl.controller import control
from mae_sdk.job import Job
from mae_sdk.jobs.moved import bring_along, former_folder, moved
from mae_skill.reader import read_spec

from tests.support.automl_toy import children, make_job
from tests.support.images import write_imagefolder
from tests.support.jobs import start, wait_until
from tests.support.toy_bundle.make import write_bundle


def test_a_job_that_was_moved_goes_on_in_its_new_place(tmp_path: Path) -> None:
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    skill = Skill(write_bundle(tmp_path / "bundle"))
    options = {"train_datasets": str(tmp_path / "data"), "automl_policy": "off"}
    spec = {"spec_overrides": {"train.fault": "once"}}
    job = skill.create_job("train", results_root=str(tmp_path / "old"), **options, **spec)
    wait_until(lambda: job.state == "RUNNING")
    job.cancel()
    shutil.move(tmp_path / "old", tmp_path / "new")

    again = Job(tmp_path / "new" / job.id)
    assert again.resume().wait(30).state == "COMPLETE"
    assert not (tmp_path / "old").exists()
    assert again.best_checkpoint().parent == again.folder / "train"
    assert read_spec(again.folder / "spec.yaml")["out"] == str(again.folder)
    assert again.record["results_root"] == str(tmp_path / "new")
    assert former_folder(again.record, again.folder) is None


def test_a_study_that_was_moved_makes_its_trials_in_the_new_place(tmp_path: Path) -> None:
    make_job(tmp_path / "old", max_trials=2)
    shutil.move(tmp_path / "old", tmp_path / "new")
    folder = tmp_path / "new" / "study"
    bring_along(folder)
    assert control(folder) == 0
    assert len(children(folder)) == 2 and not (tmp_path / "old").exists()


def test_what_was_beside_a_job_is_taken_from_here_only_where_it_is_gone_there(
    tmp_path: Path,
) -> None:
    former, here = tmp_path / "old" / "train-1", tmp_path / "new" / "train-1"
    for place in ("old/kept", "new/kept", "new/parent"):
        (tmp_path / place).mkdir(parents=True)
    spec = {"a": [f"{former}/x"], "b": f"{former.parent}/parent", "c": f"{former.parent}/kept"}
    spec |= {"d": f"{former.parent}/nowhere", "e": str(former), "f": f"{former}-2", "g": 3}
    found = moved(spec, former, here)
    assert found["a"] == [f"{here}/x"] and found["e"] == str(here)
    assert found["b"] == str(tmp_path / "new" / "parent")
    assert {key: found[key] for key in "cdfg"} == {key: spec[key] for key in "cdfg"}


def test_files_that_a_result_names_by_their_former_path_are_found(tmp_path: Path) -> None:
    root = tmp_path / "old"
    script = f"mkdir -p train; touch train/a.csv; echo '{{}}' > train/result.json; : {root}/job/s"
    job = start(root, script, result="train/result.json", cwd=str(root / "job"))
    record = files.read_json(root / "job" / "job.json")
    job.wait(20)
    files.write_json(root / "job/train/result.json", {"artefacts": [f"{root}/job/train/a.csv"]})
    record = files.read_json(root / "job" / "job.json")
    record["launch"]["command"] += [f"{root}/job/spec.yaml"]
    files.write_json(root / "job" / "job.json", record)
    shutil.move(root, tmp_path / "new")
    assert Job(tmp_path / "new/job").files() == [tmp_path / "new/job/train/a.csv"]
