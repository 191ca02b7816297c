"""Real training through the warm runner: nothing leaks from one trial into the next, and a trial is
what the same spec alone would be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Job, Skill, files
from mae_sdk.jobs.status import read_status
from mae_skill.reader import read_spec

from tests.support.images import write_imagefolder

SMALL = {
    "model.arch": "vit_tiny_patch16",
    "model.embed_dim": 48,
    "model.depth": 2,
    "model.num_heads": 3,
}
TRAIN = {
    "train.stage": "finetune",
    "train.num_epochs": 3,
    "model.num_classes": 3,
    "dataset.augmentation.input_size": 32,
}


def _curve(folder: Path) -> list[dict[str, Any]]:
    """What a run reports an epoch, clocks left out."""
    lines = [
        record
        for record in read_status(folder / "status.json")
        if "epoch" in record and record.get("kpi")
    ]
    assert lines
    return [
        {
            "epoch": line["epoch"],
            **{k: v for k, v in line["kpi"].items() if "time" not in k and "per_sec" not in k},
        }
        for line in lines
    ]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_trial_inside_a_sweep_and_the_same_spec_alone_give_the_same_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    data = write_imagefolder(tmp_path / "train", classes=3, per_class=10, size=32)
    val = write_imagefolder(tmp_path / "val", classes=3, per_class=5, size=32, start=10)
    job = Skill().create_job(
        "train",
        train_datasets=str(data),
        eval_dataset=str(val),
        results_root=str(tmp_path / "results"),
        spec_overrides={**SMALL, **TRAIN, "dataset.batch_size": 10},
        automl={"max_trials": 3, "pruner": "none", "sampler": "random", "concurrency": concurrency},
    )
    job.wait(600)
    assert "did not come up" not in job.logs()
    trials = [Job(path) for path in sorted((tmp_path / "results").glob(f"{job.id}.t*"))]
    curves = [_curve(trial.folder) for trial in trials]
    assert len(curves) == 3 and all(len(curve) >= 3 for curve in curves)
    assert all("warm" in trial.record["launch"] for trial in trials)
    assert not any("starts cold" in trial.logs() for trial in trials)
    specs = [read_spec(str(trial.folder / "spec.yaml")) for trial in trials]
    assert len({str(spec["train"]["optim"]["lr"]) for spec in specs}) == 3

    threads = (
        {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // concurrency))}
        if concurrency > 1
        else {}
    )
    for trial, curve in list(zip(trials, curves, strict=True))[
        1:
    ]:  # each came after a trial with other settings
        alone = tmp_path / f"alone-{trial.id}"
        command = [
            sys.executable,
            "-m",
            "mae_runners",
            "train",
            "-e",
            str(trial.folder / "spec.yaml"),
            f"results_dir={alone}",
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **threads}, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert _curve(alone) == curve
    assert files.read_json(job.folder / "train" / "result.json")["trials"] == 3
