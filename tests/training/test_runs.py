"""A run of training leaves what the contract says, in both stages and all families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mae_runners.models import checkpoint
from mae_sdk.jobs.checkpoints import CheckpointIndex

from tests.support.training import (
    PLAIN,
    curve,
    digits_folder,
    read,
    spec,
    status_lines,
    train,
    values,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize(
    "arch", ["vit_tiny_patch16", "convnextv2_atto"]
)  # Hiera: in test_golden.py
def test_the_loss_falls(data: Path, tmp_path: Path, arch: str, stage: str) -> None:
    # The same images without random crops: what is left to learn is the task itself.
    changes = (
        {key.replace(".", "__"): value for key, value in PLAIN.items()}
        if stage == "finetune"
        else {}
    )
    if stage == "finetune":
        changes |= {
            "dataset__augmentation__auto_aug": None,
            "dataset__augmentation__smoothing": 0.0,
        }
    changes |= {
        "dataset__augmentation__min_scale": 0.9,
        "dataset__augmentation__max_scale": 1.0,
        "dataset__augmentation__hflip": 0.0,
    }
    epochs = {"vit_tiny_patch16": 25, "convnextv2_atto": 15}[arch]
    rate = {"vit_tiny_patch16": 3e-3, "convnextv2_atto": 1e-3 if stage == "pretrain" else 3e-4}[
        arch
    ]
    if arch == "vit_tiny_patch16":
        changes |= {"model__embed_dim": 96, "model__num_heads": 4}
    made = spec(
        data,
        tmp_path / "job",
        stage,
        arch,
        train__num_epochs=epochs,
        train__optim__lr=rate,
        dataset__batch_size=6,
        **changes,
    )
    assert train(made) == 0
    losses = values(tmp_path / "job", "train_loss")
    assert len(losses) == epochs
    assert sum(losses[-2:]) / 2 < 0.97 * losses[0], losses


def test_files_of_a_run_have_the_documented_names_and_content(data: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    made = spec(data, job, "finetune", dataset__val_data_sources=str(data), train__num_epochs=3)
    assert train(made) == 0
    folder = job / "train"
    names = sorted(path.name for path in folder.glob("*.pth"))
    assert names == [
        "model_epoch_000.pth",
        "model_epoch_001.pth",
        "model_epoch_002.pth",
        "vit_tiny_patch16_latest.pth",
    ]
    assert (folder / "vit_tiny_patch16_latest.pth").resolve().name == "model_epoch_002.pth"
    loaded = torch.load(folder / "model_epoch_002.pth", weights_only=True)
    assert all(name.startswith("model.") for name in loaded["state_dict"])
    assert (loaded["epoch"], loaded["global_step"]) == (3, 9)
    assert loaded["mae"]["arch"] == "vit_tiny_patch16" and loaded["mae"]["classes"] == [
        "0",
        "1",
        "2",
    ]
    index = read(job, "train/checkpoints.json")
    assert [entry["epoch"] for entry in index["checkpoints"]] == [0, 1, 2]
    inherited = index["checkpoints"][0]  # what a child job must agree with
    assert (inherited["num_classes"], inherited["mean"], inherited["std"]) == (
        3,
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    assert (index["best"]["metric"], index["best"]["direction"]) == ("ACC_all", "maximize")
    best = CheckpointIndex(folder).select("best")
    accuracies = {entry["file"]: entry["metrics"]["ACC_all"] for entry in index["checkpoints"]}
    assert accuracies[best.name] == max(accuracies.values())
    assert CheckpointIndex(folder).select("latest").name == "model_epoch_002.pth"
    assert read(job, "train/result.json")["best"]["file"] == best.name


def test_status_lines_carry_epochs_steps_and_metrics(data: Path, tmp_path: Path) -> None:
    made = spec(data, tmp_path / "job", train__num_epochs=2, dataset__val_data_sources=str(data))
    assert train(made) == 0
    lines = status_lines(tmp_path / "job")
    assert [line["status"] for line in lines] == [
        "STARTED",
        "RUNNING",  # what was seen in the data
        "RUNNING",
        "RUNNING",
        "SUCCESS",
    ]
    for epoch, line in enumerate(lines[2:4]):
        assert (line["epoch"], line["max_epoch"], line["step"], line["max_step"]) == (
            epoch,
            2,
            3 * (epoch + 1),
            6,
        )
        assert {
            "date",
            "time",
            "verbosity",
            "message",
            "time_per_epoch",
            "time_per_step",
            "eta",
        } <= line.keys()
        assert line["kpi"].keys() == {"train_loss", "val_loss", "rankme"}


def test_a_fixed_mask_makes_validation_repeatable_while_training_masks_change(
    data: Path, tmp_path: Path
) -> None:
    made = spec(
        data,
        tmp_path / "job",
        train__num_epochs=3,
        dataset__val_data_sources=str(data),
        train__optim__lr=1e-7,
        train__optim__warmup_epochs=0,
        train__optim__lr_scheduler="MultiStep",
        train__optim__milestones=[1],
        train__optim__gamma=1e-3,
    )
    assert train(made) == 0
    validation, training = (
        values(tmp_path / "job", "val_loss"),
        values(tmp_path / "job", "train_loss"),
    )
    assert validation[0] == pytest.approx(validation[2], rel=1e-6)
    assert abs(training[0] - training[2]) > 1e-4


def test_checkpoints_come_every_so_many_steps_when_the_unit_is_step(
    data: Path, tmp_path: Path
) -> None:
    made = spec(
        data,
        tmp_path / "job",
        dataset__batch_size=2,
        train__checkpoint_interval=2,
        train__checkpoint_interval_unit="step",
    )
    assert train(made) == 0
    names = sorted(path.name for path in (tmp_path / "job/train").glob("model_*.pth"))
    assert names == [
        "model_epoch_000.pth",
        "model_epoch_000_step_00002.pth",
        "model_epoch_000_step_00004.pth",
        "model_epoch_001.pth",
        "model_epoch_001_step_00008.pth",
        "model_epoch_001_step_00010.pth",
    ]


def test_every_second_epoch_is_kept_and_the_last_always(data: Path, tmp_path: Path) -> None:
    assert (
        train(spec(data, tmp_path / "job", train__num_epochs=3, train__checkpoint_interval=2)) == 0
    )
    assert sorted(p.name for p in (tmp_path / "job/train").glob("model_*.pth")) == [
        "model_epoch_001.pth",
        "model_epoch_002.pth",
    ]


def test_the_newest_checkpoints_and_the_best_one_stay(data: Path, tmp_path: Path) -> None:
    """The rate rises until nothing is learned any more: an early epoch stays the best."""
    changes = {
        "train__keep_checkpoints": 2,
        "train__num_epochs": 6,
        "dataset__val_data_sources": str(data),
    }
    changes |= {"train__optim__lr": 0.3, "train__optim__warmup_epochs": 5}
    assert train(spec(data, tmp_path, **changes, train__optim__monitor_name="val_loss")) == 0
    folder = tmp_path / "train"
    index = CheckpointIndex(folder)
    best = index.select("best").name
    assert best not in ("model_epoch_004.pth", "model_epoch_005.pth"), (
        "the test's rate did not make a late epoch worse"
    )
    files = {"model_epoch_004.pth", "model_epoch_005.pth", best}
    assert {path.name for path in folder.glob("model_epoch_*.pth")} == files
    assert {entry["file"] for entry in index.read()["checkpoints"]} == files
    assert (folder / "vit_tiny_patch16_latest.pth").resolve().name == "model_epoch_005.pth"


def test_accumulated_batches_make_one_step(data: Path, tmp_path: Path) -> None:
    """12 images in batches of 2 with 4 to a step: 6 micro-batches, hence 2 steps per epoch, the
    second of them short."""
    assert (
        train(spec(data, tmp_path / "job", dataset__batch_size=2, train__accum_grad_batches=4)) == 0
    )
    assert sorted(curve(tmp_path / "job")) == [1, 2, 3, 4]
    assert read(tmp_path / "job", "train/derived.json")["effective_batch"] == 8


def test_a_checkpoint_is_found_again_as_pretrained_weights_of_fine_tuning(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "pre", train__num_epochs=1)) == 0
    weights = tmp_path / "pre/train/vit_tiny_patch16_latest.pth"
    made = spec(
        data,
        tmp_path / "fine",
        "finetune",
        train__num_epochs=1,
        train__optim__lr=1e-7,
        train__pretrained_model_path=str(weights),
    )
    assert train(made) == 0
    report = read(tmp_path / "fine", "train/derived.json")["pretrained"]
    assert report["share"] > 0.9
    before, after = (
        checkpoint.read(path)["state_dict"]
        for path in (weights, tmp_path / "fine/train/model_epoch_000.pth")
    )
    shared = [key for key in before if key.endswith(".1.attn.qkv.weight") and key in after]
    assert shared
    for name in shared:
        assert torch.allclose(before[name], after[name], atol=1e-6)
