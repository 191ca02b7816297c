"""Real training on every engine: ranks, a preemption that changes nothing, a search."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.run.platform import submit

from tests.support.automl_toy import make_job
from tests.support.jobs import wait_until
from tests.support.platforms import Place
from tests.support.training import digits_folder, spec


def options(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Of a small job: two images a step and rank, one thread."""
    data = tmp_path / "data"
    if not data.exists():
        digits_folder(data, per_class=8)
    made = spec(data, tmp_path / "unused", dataset__batch_size=2, **changes)
    del made["results_dir"]
    return {
        "spec": made,
        "automl_policy": "off",
        "results_root": str(tmp_path / "results"),
        "env": {"OMP_NUM_THREADS": "1"},
    }


def losses(job: Job) -> list[tuple[int, float]]:
    return [(row["epoch"], row["train_loss"]) for row in job.history() if "train_loss" in row]


def test_two_ranks_are_one_job(place: Place, tmp_path: Path) -> None:
    asked = options(tmp_path, train__num_gpus=2, train__num_epochs=1)
    job = Skill().create_job("train", platform=place.name, **asked).wait(240)
    derived = json.loads((job.folder / "train" / "derived.json").read_text())
    assert derived["effective_batch"] == 4, derived


def test_a_preempted_training_ends_with_the_curve_of_one_that_was_left_alone(
    place: Place, tmp_path: Path
) -> None:
    skill, asked = Skill(), options(tmp_path, train__num_epochs=12)
    job = skill.create_job("train", platform=place.name, **asked)
    wait_until(lambda: len(losses(job)) >= 1, 120)
    place.preempt(job)
    if not place.starts_again:
        wait_until(lambda: job.preempted, 60)
        job.resume(asked["env"])
    job.wait(240)
    states = [attempt["state"] for attempt in job.record["attempts"]]
    assert states == ["PREEMPTED", "COMPLETE"]

    alone = skill.create_job("train", **asked).wait(240)
    assert len(losses(alone)) == 12 and losses(job) == losses(alone)


def test_a_search_of_four_trials_prunes_and_names_its_best(place: Place, tmp_path: Path) -> None:
    study = make_job(
        tmp_path,
        platform=place.name,
        max_trials=4,
        sampler="random",
        pruner="successive_halving",
        spec={"num_epochs": 8, "sleep": 0.5},
    )
    records.update_record(study, lambda record: record.update(kind="automl"))
    assert submit(study)
    job = Job(study).wait(300)
    rows = list(csv.DictReader((study / "automl" / "trials.csv").read_text().splitlines()))
    states = [row["state"] for row in rows]
    assert len(states) == 4 and "PRUNED" in states and "COMPLETE" in states
    trials = [Job(tmp_path / row["child"]) for row in rows]
    assert {trial.record["platform"] for trial in trials} == {place.name}
    assert {trial.state for trial in trials} == {"COMPLETE", "CANCELED"}
    assert job.state == "COMPLETE"


def test_a_wrong_setting_is_refused_before_anything_is_written(
    place: Place, tmp_path: Path
) -> None:
    asked = {**options(tmp_path), "platform_options": {"partitoin": "x"}}
    with pytest.raises(Exception, match="no such setting"):
        Skill().create_job("train", platform=place.name, **asked)
    assert not (tmp_path / "results").exists()
