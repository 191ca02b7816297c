"""A controller killed twenty times over a sweep."""

from __future__ import annotations

import csv
import os
import random
import signal
import time
from pathlib import Path

import pytest
from mae_sdk.automl import controller
from mae_sdk.jobs import records
from mae_sdk.jobs.outputs import best_child
from mae_sdk.jobs.root import Root

from tests.support.automl_toy import children, make_job, start_controller


def _rows(job: Path) -> list[tuple[str, ...]]:
    with (job / "automl" / "trials.csv").open() as stream:
        return [
            (
                row["trial"],
                row["state"],
                row["acc"],
                row["best_epoch"],
                row["train.lr"],
                row["train.decay"],
            )
            for row in csv.DictReader(stream)
        ]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_twenty_kills_change_nothing_but_the_clock(tmp_path: Path, sampler: str) -> None:
    options = {"max_trials": 20, "sampler": sampler, "seed": 3}
    job = make_job(tmp_path, "killed", spec={"num_epochs": 3, "sleep": 0.12}, **options)
    draw = random.Random(5)
    kills = 0
    while kills < 20:
        process = start_controller(job)
        time.sleep(draw.uniform(0.25, 1.4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        if (job / "train" / "result.json").exists():
            break
    assert kills >= 10
    assert controller.main([str(job)]) == 0
    calm = make_job(tmp_path, "calm", spec={"num_epochs": 3}, **options)
    assert controller.main([str(calm)]) == 0
    assert _rows(job) == _rows(calm)
    assert (
        best_child(Root(job.parent), job.name).split(".")[1]
        == best_child(Root(calm.parent), calm.name).split(".")[1]
    )
    ran = children(job)
    assert len(ran) == 20
    assert all(len((child / "starts.txt").read_text().splitlines()) == 1 for child in ran)
    assert all(len(records.read_record(child)["attempts"]) == 1 for child in ran)


def test_kills_with_pruning_and_concurrency_lose_no_trial(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        "killed",
        max_trials=16,
        concurrency=2,
        pruner="successive_halving",
        sampler="random",
        spec={"num_epochs": 9, "sleep": 0.06},
    )
    draw = random.Random(7)
    for _ in range(12):
        process = start_controller(job)
        time.sleep(draw.uniform(0.3, 1.2))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert controller.main([str(job)]) == 0
    rows = _rows(job)
    assert [row[0] for row in rows] == [str(i) for i in range(16)]
    assert {row[1] for row in rows} <= {"COMPLETE", "PRUNED"}
    assert all(len((child / "starts.txt").read_text().splitlines()) == 1 for child in children(job))
