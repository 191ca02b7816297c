"""A study on a machine that others use too: trials slow down by their share, not by an order of
magnitude."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mae_sdk import Job, Skill
from mae_sdk.jobs.status import read_status

from tests.support.images import write_imagefolder

NEIGHBORS = 3
SPEC = {
    "model.arch": "vit_tiny_patch16",
    "train.stage": "finetune",
    "train.num_epochs": 12,
    "train.validation_interval": 12,
    "train.checkpoint_interval": 12,
    "model.num_classes": 3,
    "dataset.augmentation.input_size": 64,
    "dataset.batch_size": 12,
    "dataset.num_workers_per_gpu": 0,
}


@contextlib.contextmanager
def _neighbors(count: int) -> Iterator[None]:
    """Processes that never let go of a core."""
    program = [sys.executable, "-S", "-c", "while True: pass"]
    spinning = [subprocess.Popen(program) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def _step_seconds(job: Job) -> float:
    """The median time of a step, over the epochs of all trials but the first of each."""
    trials = sorted(job.folder.parent.glob(f"{job.id}.t*"))
    assert trials and all("warm" in Job(trial).record["launch"] for trial in trials)
    assert not any("starts cold" in Job(trial).logs() for trial in trials)
    lines = [line for trial in trials for line in read_status(trial / "status.json")]
    seconds = [
        float(line["time_per_step"])
        for line in lines
        if line.get("epoch", 0) > 0 and "time_per_step" in line
    ]
    assert len(seconds) >= 10
    return statistics.median(seconds)


def test_steps_of_warm_trials_take_at_most_three_times_as_long_beside_three_spinning_neighbors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm runner whose OpenMP threads spin instead of sleeping takes ten times as long."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    data = write_imagefolder(tmp_path / "train", classes=3, per_class=20, size=64)
    skill = Skill()

    def run(name: str) -> float:
        job = skill.create_job(
            "train",
            train_datasets=str(data),
            results_root=str(tmp_path / name),
            spec_overrides=SPEC,
            automl={"max_trials": 2, "pruner": "none", "sampler": "random", "concurrency": 1},
        )
        job.wait(900)
        return _step_seconds(job)

    quiet = run("quiet")
    with _neighbors(NEIGHBORS):
        busy = run("busy")
    assert busy <= 3 * quiet, f"{busy:.3f} s a step beside neighbors, {quiet:.3f} s alone"
