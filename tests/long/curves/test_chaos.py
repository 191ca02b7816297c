"""A run killed with kill -9 at ten random moments, and continued each time, follows the curve of
one that never stopped, bit for bit."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from mae_runners.models import checkpoint

from tests.support.training import FAMILIES, curve, digits_folder, spec, start

KILLS = 10
SERIES = ("train_loss_step", "train_loss", "lr", "grad_norm", "val_loss", "knn_acc", "ACC_all")


def newest_step(results: Path) -> int:
    """The step of the newest row that was flushed."""
    path = results / "train/metrics.csv"
    rows = path.read_text().splitlines()[1:] if path.exists() else []
    steps = [row.split(",")[0] for row in rows]
    return max((int(step) for step in steps if step.isdigit()), default=0)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("arch", FAMILIES)
def test_ten_kills_leave_no_trace_in_the_curve(tmp_path: Path, arch: str, stage: str) -> None:
    """The moments are drawn from a seed: some while the process starts, some in an epoch, some
    while a checkpoint is written."""
    data = digits_folder(tmp_path / "digits", per_class=5)
    changes = {
        "train__num_epochs": 40,
        "dataset__batch_size": 2,
        "train__accum_grad_batches": 2,
        "train__ema_decay": 0.9,
    }
    changes |= {
        "train__checkpoint_interval": 3,
        "train__checkpoint_interval_unit": "step",
        "train__validation_interval": 2,
    }
    changes |= {
        "dataset__val_data_sources": str(data),
        "train__optim__lr_scheduler": "cosine",
        "dataset__num_workers_per_gpu": 1,
    }
    if stage == "pretrain":
        changes |= {
            "dataset__probe_train_data_sources": str(data),
            "train__probe__interval": 4,
            "train__probe__k": 3,
        }
    else:
        changes |= {"model__drop_path_rate": 0.2}
    whole = spec(data, tmp_path / "whole", stage, arch, **changes)
    whole["train"]["keep_checkpoints"] = 1  # every one of Hiera's is 0.4 GB
    process = start(whole)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    made = spec(data, tmp_path / "parts", stage, arch, **changes, train__keep_checkpoints=3)
    rng = random.Random(f"{arch} {stage}")
    total, kills, reached = 160, 0, []
    while kills < KILLS:
        goal = rng.randint(0, total * (kills + 1) // (KILLS + 1))
        process = start(made)
        deadline = time.monotonic() + 600
        while (
            newest_step(tmp_path / "parts") < goal
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.2)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, output
        kills += 1
        reached.append(newest_step(tmp_path / "parts"))
    assert kills == KILLS, output
    assert reached[-1] > 0
    process = start(made)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    for name in SERIES:
        assert curve(tmp_path / "whole", name) == curve(tmp_path / "parts", name), (name, reached)
    one, other = (
        checkpoint.read(tmp_path / name / "train/model_epoch_039.pth")
        for name in ("whole", "parts")
    )
    for part in ("state_dict", "live_state_dict"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
