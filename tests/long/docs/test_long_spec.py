"""The long example spec of the documentation runs unchanged in both stages: only paths, the number of epochs and a small arch are put in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mae_runners.__main__ import main

from tests.support.images import write_imagefolder

LONG = """
dataset:
  train_data_sources: {train}
  val_data_sources: {val}
  test_data_sources: {val}
  batch_size: 32
  num_workers_per_gpu: 2
  augmentation:
    input_size: 224
    mean:
    - 0.485
    - 0.456
    - 0.406
    std:
    - 0.229
    - 0.224
    - 0.225
    min_scale: 0.1
    max_scale: 2.0
    smoothing: 0.1
    color_jitter: 0.0
    auto_aug: rand-m9-mstd0.5-inc1
    mixup: 0.8
    cutmix: 1.0
    mixup_prob: 1.0
    mixup_switch_prob: 0.5
    mixup_mode: batch
model:
  arch: convnextv2_base
  num_classes: 1000
  drop_path_rate: 0.1
  global_pool: True
  decoder_depth: 1
  decoder_embed_dim: 512
train:
  stage: {stage}
  accum_grad_batches: 1
  precision: bf16
  distributed_strategy: ddp
  optim:
    type: AdamW
    monitor_name: train_loss
    lr: 2e-4
    backbone_multiplier: 0.1
    momentum: 0.9
    weight_decay: 0.05
    layer_decay: 0.75
    lr_scheduler: cosine # MultiStep
    warmup_epochs: 40
  norm_pix_loss: True
  mask_ratio: 0.75
  num_epochs: 600
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_long_spec_runs_in_both_stages(tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_imagefolder(tmp_path / "train", classes=4, per_class=10, size=64)
    val = write_imagefolder(tmp_path / "val", classes=4, per_class=2, size=64, start=10)
    path = tmp_path / "spec.yaml"
    path.write_text(LONG.format(train=train, val=val, stage=stage))
    job = tmp_path / "job"
    overrides = [f"results_dir={job}", "train.num_epochs=1", "model.arch=convnextv2_atto"]
    overrides += ["model.num_classes=4"] if stage == "finetune" else []  # the images at hand have four classes
    assert main(["train", "-e", str(path), *overrides]) == 0
    assert "train.optim.warmup_epochs: 40 epochs of warm-up in a run of 1" in capsys.readouterr().err
    kpis = json.loads((job / "train/result.json").read_text())["kpis"]
    assert kpis.keys() >= ({"train_loss", "val_loss"} if stage == "pretrain" else {"train_loss", "val_loss", "ACC_all"})
    assert (job / "train/model_epoch_000.pth").exists()
