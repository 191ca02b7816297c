"""The long example spec of the documentation runs unchanged in both stages: only paths, the number
of epochs and a small arch are put in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mae_runners.__main__ import main

from tests.support.images import write_imagefolder
from tests.support.specs import LONG_EXAMPLE


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_long_spec_runs_in_both_stages(
    tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_imagefolder(tmp_path / "train", classes=4, per_class=10, size=64)
    val = write_imagefolder(tmp_path / "val", classes=4, per_class=2, size=64, start=10)
    path = tmp_path / "spec.yaml"
    text = LONG_EXAMPLE.replace("stage: pretrain", f"stage: {stage}")
    for documented, real in (("/data/train/", train), ("/data/val/", val), ("/data/test/", val)):
        assert documented in text
        text = text.replace(documented, str(real))
    path.write_text(text)
    job = tmp_path / "job"
    overrides = [f"results_dir={job}", "train.num_epochs=1", "model.arch=convnextv2_atto"]
    overrides += (
        ["model.num_classes=4"] if stage == "finetune" else []
    )  # the images at hand have four classes
    assert main(["train", "-e", str(path), *overrides]) == 0
    assert (
        "train.optim.warmup_epochs: 40 epochs of warm-up in a run of 1" in capsys.readouterr().err
    )
    kpis = json.loads((job / "train/result.json").read_text())["kpis"]
    assert kpis.keys() >= (
        {"train_loss", "val_loss"} if stage == "pretrain" else {"train_loss", "val_loss", "ACC_all"}
    )
    assert (job / "train/model_epoch_000.pth").exists()
