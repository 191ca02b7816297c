"""What watches a run: the non-finite guard, early stopping, trackers, encryption."""

from __future__ import annotations

import csv
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.data import to_input
from mae_runners.models import build_mae, checkpoint
from mae_skill.errors import MaeError
from mae_skill.spec import ExperimentSpec

from tests.support.images import write_flat
from tests.support.training import curve, digits_folder, read, spec, train, values


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"))


def test_the_first_non_finite_loss_stops_the_run_and_its_capsule_replays_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rate times weight decay multiplies the weights by 1e8 a step, until they overflow; the
    capsule's weights and batch give the same non-finite loss again."""
    made = spec(
        data,
        tmp_path / "job",
        train__optim__lr=1e4,
        train__optim__warmup_epochs=0,
        train__optim__weight_decay=1e4,
    )
    assert train(made) == 5
    error = read(tmp_path / "job", "error.json")
    assert (
        error["field"] == "train.optim.lr"
        and "clip_grad_norm" in error["hint"]
        and error["got"]["images"]
    )
    [path] = (tmp_path / "job/train").glob("nonfinite_step_*.pth")
    capsule = checkpoint.read(path)
    built = ExperimentSpec.model_validate(made)
    model = build_mae(built.model, built.train, 64)
    model.load_state_dict(
        {name.removeprefix("model."): tensor for name, tensor in capsule["state_dict"].items()}
    )
    images = to_input(
        capsule["batch"]["image"], built.dataset.augmentation.mean, built.dataset.augmentation.std
    )
    assert not torch.isfinite(model(images, capsule["batch"]["noise"]).loss)
    assert capsule["seed_key"][0] == built.train.seed and capsule["step"] == max(
        curve(tmp_path / "job"), default=0
    )
    assert not list((tmp_path / "job/train").glob("model_epoch_*"))


def test_early_stopping_ends_a_run_whose_loss_no_longer_falls(data: Path, tmp_path: Path) -> None:
    changes = {
        "train__early_stopping__patience": 2,
        "train__early_stopping__min_delta": 5.0,
        "train__num_epochs": 9,
    }
    changes |= {
        "train__optim__monitor_name": "val_loss",
        "dataset__val_data_sources": str(data),
        "train__validation_interval": 1,
    }
    made = spec(data, tmp_path / "job", **changes)
    assert train(made) == 0
    assert len(values(tmp_path / "job", "train_loss")) == 3, (
        "one that counts, and two without a fall of 5"
    )
    assert (tmp_path / "job/train/model_epoch_002.pth").exists()
    assert train(made) == 0
    assert len(values(tmp_path / "job", "train_loss")) == 3, "a stopped run stays stopped"


def test_a_run_stopped_between_validations_still_has_a_best_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    changes = {
        "train__early_stopping__patience": 1,
        "train__early_stopping__min_delta": 5.0,
        "train__num_epochs": 9,
    }
    made = spec(
        data,
        tmp_path / "job",
        "finetune",
        dataset__val_data_sources=str(data),
        train__validation_interval=5,
        **changes,
    )
    assert train(made) == 0
    assert "ACC_all" in read(tmp_path / "job", "train/result.json")["kpis"]


def test_monitor_name_chooses_the_best_checkpoint_of_pretraining(
    data: Path, tmp_path: Path
) -> None:
    for name in ("train_loss", "val_loss"):
        made = spec(
            data,
            tmp_path / name,
            dataset__val_data_sources=str(data),
            train__optim__monitor_name=name,
            train__num_epochs=3,
        )
        assert train(made) == 0
        best = read(tmp_path / name, "train/checkpoints.json")["best"]
        assert (best["metric"], best["direction"]) == (name, "minimize")
        losses = values(tmp_path / name, name)
        chosen = read(tmp_path / name, "train/result.json")["best"]
        assert chosen["epoch"] == losses.index(min(losses))


def test_a_held_out_share_gives_an_accuracy_and_is_not_trained_on(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "job", "finetune", dataset__val_fraction=0.25)) == 0
    assert read(tmp_path / "job", "train/derived.json")["images"] == 9
    (seen,) = read(tmp_path / "job", "train/result.json")["data"]["sources"].values()
    assert seen["images"] - seen["held_out"] == 9
    assert (
        curve(tmp_path / "job", "ACC_all").keys()
        == curve(tmp_path / "job", "val_loss").keys()
        == {3, 6}
    )


def test_probes_of_pretraining_report_knn_and_linear_accuracy_and_choose_the_best(
    data: Path, tmp_path: Path
) -> None:
    held = digits_folder(tmp_path / "held", start=4)
    flat = write_flat(tmp_path / "flat", count=8)
    changes = {
        "dataset__probe_train_data_sources": str(data),
        "dataset__probe_val_data_sources": str(held),
    }
    made = spec(
        flat,
        tmp_path / "job",
        train__num_epochs=3,
        train__probe__interval=2,
        train__probe__k=3,
        **changes,
    )
    assert train(made) == 0
    assert sorted(curve(tmp_path / "job", "knn_acc")) == [4, 6] and sorted(
        curve(tmp_path / "job", "linear_acc")
    ) == [6]
    assert read(tmp_path / "job", "train/checkpoints.json")["best"]["metric"] == "knn_acc"
    assert 0 <= values(tmp_path / "job", "knn_acc")[0] <= 1


def test_images_show_original_masked_and_restored_images(data: Path, tmp_path: Path) -> None:
    from PIL import Image

    for norm_pix, kinds in ((True, 5), (False, 4)):
        made = spec(data, tmp_path / f"j{kinds}", train__num_epochs=1)
        made["train"]["norm_pix_loss"] = norm_pix
        assert train(made) == 0
        pictures = tmp_path / f"j{kinds}/train/pictures"
        with Image.open(pictures / "reconstruction_epoch_000.png") as picture:
            # Images of 64 pixels are enlarged three times; a row is as high and has a name.
            assert picture.width == kinds * (192 + 2) - 2
            assert picture.height >= 8 * (192 + 16)


def test_the_end_of_a_run_says_the_best_beside_the_last(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = spec(data, tmp_path / "job", "finetune", dataset__val_data_sources=str(data))
    assert train(made) == 0
    said = capsys.readouterr().err
    best = read(tmp_path / "job", "train/result.json")["best_metrics"]["ACC_all"]
    found = values(tmp_path / "job", "ACC_all")
    losses = values(tmp_path / "job", "val_loss")
    ranked = sorted(range(len(found)), key=lambda at: (-found[at], losses[at]))
    assert best["value"] == max(found) and best["epoch"] == ranked[0]
    assert best["images"] == 12 and best["direction"] == "maximize"
    assert f"best ACC_all {max(found):.4g} at epoch {best['epoch']}" in said
    assert f"last {found[-1]:.4g}" in said


def test_tensorboard_and_csv_hold_the_same_numbers(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import (
        CRC_INIT,
        crc_finalize,
        crc_update,
        u32,
    )

    assert train(spec(data, tmp_path / "job")) == 0
    events = EventAccumulator(str(tmp_path / "job/train/tensorboard"))
    events.Reload()
    with (tmp_path / "job/train/metrics.csv").open() as file:
        names = {row["name"] for row in csv.DictReader(file)}
    of_the_machine = {"images_per_second", "peak_memory_mb"}
    scalars = set(events.Tags()["scalars"])
    assert {"train_loss", "train_loss_step", "lr"} <= names == scalars - of_the_machine
    assert of_the_machine <= scalars
    for event in events.Scalars("train_loss_step"):
        assert event.value == pytest.approx(float(curve(tmp_path / "job")[event.step]), rel=1e-6)
    assert events.Tags()["images"] == ["reconstruction", "neighbors"]

    file = next((tmp_path / "job/train/tensorboard").iterdir()).read_bytes()
    length = struct.unpack("<Q", file[:8])[0]
    for part, stored in ((file[:8], file[8:12]), (file[12:][:length], file[12:][length:])):
        computed = crc_finalize(crc_update(CRC_INIT, part))  # as TensorBoard has it, by hand
        masked = u32((computed >> 15 | u32(computed << 17)) + 0xA282EAD8)
        assert struct.unpack("<I", stored[:4])[0] == masked


def test_an_encrypted_run_resumes_with_its_key_only(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_ENCRYPTION_KEY", "correct horse")
    changes: dict[str, Any] = {"encryption_key": "env:MAE_ENCRYPTION_KEY"}
    assert train(spec(data, tmp_path / "job", train__num_epochs=1, **changes)) == 0
    path = tmp_path / "job/train/model_epoch_000.pth"
    with pytest.raises(MaeError):
        checkpoint.read(path)
    assert b"state_dict" not in path.read_bytes() and b"correct horse" not in path.read_bytes()
    assert checkpoint.read(path, "correct horse")["epoch"] == 1
    assert train(spec(data, tmp_path / "job", train__num_epochs=2, **changes)) == 0
    monkeypatch.setenv("MAE_ENCRYPTION_KEY", "another")
    assert train(spec(data, tmp_path / "job", train__num_epochs=3, **changes)) == 4
    assert "key" in read(tmp_path / "job", "error.json")["message"]
    for file in (tmp_path / "job").rglob("*"):
        if file.is_file():
            assert b"correct horse" not in file.read_bytes(), file


def test_wandb_offline_needs_no_key_and_is_silent_unless_enabled(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    made = spec(
        data,
        tmp_path / "job",
        train__num_epochs=1,
        wandb__enable=True,
        wandb__project="digits",
        wandb__tags=["small"],
    )
    assert train(made) == 0
    assert list((tmp_path / "job/train/wandb").glob("offline-run-*/*.wandb"))
    assert train(spec(data, tmp_path / "off", train__num_epochs=1)) == 0
    assert not list((tmp_path / "off").rglob("wandb"))


def test_wandb_without_a_key_is_left_out_and_said(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    made = spec(data, tmp_path / "job", train__num_epochs=1, wandb__enable=True)
    assert train(made) == 0
    assert "without Weights & Biases" in capsys.readouterr().err
    result = read(tmp_path / "job", "train/result.json")
    assert any("Weights & Biases" in warning for warning in result["warnings"])
