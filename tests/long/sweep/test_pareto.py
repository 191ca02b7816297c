"""Accuracy against what the model costs: a study with several metrics over real fine-tuning."""

from __future__ import annotations

import csv
from pathlib import Path

from mae_sdk import Skill

from tests.support.images import write_imagefolder


def test_accuracy_against_parameters_and_latency_gives_a_pareto_front(tmp_path: Path) -> None:
    data = write_imagefolder(tmp_path / "train", classes=3, per_class=8, size=32)
    val = write_imagefolder(tmp_path / "val", classes=3, per_class=4, size=32, start=8)
    overrides = {"model.arch": "vit_tiny_patch16", "train.stage": "finetune"}
    overrides |= {
        "model.num_classes": 3,
        "dataset.augmentation.input_size": 32,
        "train.num_epochs": 1,
        "dataset.batch_size": 8,
    }
    job = (
        Skill()
        .create_job(
            "train",
            train_datasets=str(data),
            eval_dataset=str(val),
            results_root=str(tmp_path / "results"),
            spec_overrides=overrides,
            automl={
                "max_trials": 5,
                "metric": ["ACC_all", "parameters", "latency_ms"],
                "parameters": ["train.optim.lr", "model.arch"],
                "ranges": {"model.arch": {"choices": ["vit_tiny_patch16", "convnextv2_atto"]}},
            },
        )
        .wait(600)
    )
    with (job.folder / "automl" / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["COMPLETE"] * 5
    by_arch = {row["model.arch"]: float(row["parameters"]) for row in rows}
    assert len(by_arch) == 2 and by_arch["convnextv2_atto"] < by_arch["vit_tiny_patch16"]
    assert all(float(row["latency_ms"]) > 0 for row in rows)
    front = [row for row in rows if row["pareto"] == "True"]
    smallest = min(rows, key=lambda row: float(row["parameters"]))
    assert front and smallest["parameters"] in {row["parameters"] for row in front}
    assert (job.folder / "automl" / "pareto.png").is_file()
