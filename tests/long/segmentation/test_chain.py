"""Pretrain → fine-tune a segmenter → evaluate → inference → export → evaluate the export, as jobs
of the SDK, for every family."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_sdk import Skill
from PIL import Image

from tests.support.scenes import write_digit_scenes

SMALL = {
    "dataset.augmentation.input_size": 64,
    "dataset.batch_size": 8,
    "dataset.num_workers_per_gpu": 0,
    "train.accelerator": "cpu",
    "train.optim.lr_scheduler": "cosine",
}
ARCHS = {
    "vit_tiny_patch16": {"model.embed_dim": 96, "model.depth": 4, "model.num_heads": 3},
    "convnextv2_atto": {},
    "hiera_tiny_224": {},
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arch", ARCHS)
def test_the_chain_from_unlabeled_images_to_an_export_runs_as_jobs(
    tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    data = write_digit_scenes(tmp_path / "scenes", training=24, validation=8, size=64)
    skill = Skill()
    shared = {"results_root": str(tmp_path / "jobs")}
    model = {**SMALL, "model.arch": arch, **ARCHS[arch]}
    pretrain = skill.create_job(
        "train",
        train_datasets=str(data / "images" / "training"),
        automl_policy="off",
        spec_overrides={
            **model,
            "train.stage": "pretrain",
            "train.num_epochs": 2,
            "model.decoder_embed_dim": 64,
        },
        **shared,
    ).wait(600)
    finetune = skill.create_job(
        "train",
        parent_job_id=pretrain.id,
        train_datasets=str(data),
        eval_dataset=str(data),
        automl_policy="off",
        spec_overrides={
            **model,
            "train.stage": "finetune",
            "train.num_epochs": 3,
            "train.optim.lr": 1e-3,
            "model.task": "segmentation",
            "model.num_classes": 11,
            "model.segmentation.channels": 32,
            "model.segmentation.auxiliary_channels": 16,
            "dataset.segmentation.class_list": str(data / "classes.txt"),
        },
        **shared,
    ).wait(600)
    derived = json.loads((finetune.folder / "train" / "derived.json").read_text())
    assert (
        derived["pretrained"]["share"] == 1.0
        and derived["layerwise_rates"]
        and derived["best_checkpoint_by"] == "mIoU maximize"
    )
    judged = skill.create_job(
        "evaluate", parent_job_id=finetune.id, eval_dataset=str(data), **shared
    ).wait(600)
    kpis = result(judged, "evaluate")["kpis"]
    best = max(
        float(row["value"])
        for row in rows(finetune.folder / "train" / "metrics.csv")
        if row["name"] == "mIoU"
    )
    assert kpis["mIoU"] == pytest.approx(best, abs=1e-6), "the parent's best checkpoint"
    said = skill.create_job(
        "inference",
        parent_job_id=finetune.id,
        inference_dataset=str(data / "images" / "validation"),
        **shared,
    ).wait(600)
    labels = sorted((said.folder / "inference" / "labels").rglob("*.png"))
    assert len(labels) == 8
    for path in labels:
        picture = Image.open(data / "images" / "validation" / f"{path.stem}.jpg")
        assert Image.open(path).size == picture.size and np.asarray(Image.open(path)).max() < 11
    exported = skill.create_job("export", parent_job_id=finetune.id, **shared).wait(600)
    parity = result(exported, "export")["parity"]
    assert parity["top1_agreement"] >= 0.999 and parity["cosine_min"] > 0.9999
    again = skill.create_job(
        "evaluate", parent_job_id=exported.id, eval_dataset=str(data), **shared
    ).wait(600)
    assert result(again, "evaluate")["model"]["kind"] == "onnx"
    assert result(again, "evaluate")["kpis"]["mIoU"] == pytest.approx(kpis["mIoU"], abs=2e-3)


def result(job: Any, action: str) -> Any:
    return json.loads((job.folder / action / "result.json").read_text())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))
