"""What cannot work ends before training: one clear error, its exit code, nothing half-written."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from mae_runners.context import make_folder
from mae_skill.errors import UsageError

from tests.support.images import write_flat
from tests.support.training import command, digits_folder, read, spec, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"))


def refused(made: dict[str, Any], code: int) -> dict[str, Any]:
    """Trains, expects the exit code, and returns what `error.json` says (a spec error: its first
    problem)."""
    assert train(made) == code
    folder = Path(made["results_dir"])
    assert (
        not list(folder.rglob("*.pth"))
        and not list(folder.rglob("checkpoints.json"))
        and not list(folder.rglob("result.json"))
    )
    error = read(folder, "error.json")
    assert error["exit_code"] == code and error["message"]
    assert error["hint"] or error["expected"]
    return error


def test_unlabeled_images_are_refused_for_fine_tuning(tmp_path: Path) -> None:
    flat = write_flat(tmp_path / "flat", count=4)
    error = refused(spec(flat, tmp_path / "job", "finetune"), 3)
    assert "no labels" in error["message"] and "per class" in error["expected"]


def test_another_number_of_classes_is_refused_with_the_right_number(
    data: Path, tmp_path: Path
) -> None:
    error = refused(spec(data, tmp_path / "job", "finetune", model__num_classes=7), 2)
    assert (error["field"], error["got"], error["expected"]) == ("model.num_classes", 7, "3")


def test_a_validation_class_that_training_lacks_is_refused(data: Path, tmp_path: Path) -> None:
    val = digits_folder(tmp_path / "val", classes=4, per_class=1)
    error = refused(spec(data, tmp_path / "job", "finetune", dataset__val_data_sources=str(val)), 3)
    assert "3" in str(error)


def test_one_image_a_class_leaves_nothing_to_hold_out(data: Path, tmp_path: Path) -> None:
    single = digits_folder(tmp_path / "single", per_class=1)
    error = refused(
        spec(
            single,
            tmp_path / "job",
            "finetune",
            dataset__val_data_sources=None,
            dataset__val_fraction=0.1,
        ),
        3,
    )
    assert error["field"] == "dataset.val_fraction" and "val_data_sources" in error["hint"]


def test_a_probe_that_cannot_work_is_refused_before_any_training(
    data: Path, tmp_path: Path
) -> None:
    made = {"train__num_epochs": 2, "train__probe__interval": 2, "train__checkpoint_interval": 1}
    single = digits_folder(tmp_path / "single", per_class=1)
    error = refused(
        spec(data, tmp_path / "one", dataset__probe_train_data_sources=str(single), **made), 3
    )
    assert (
        error["field"] == "dataset.probe_train_data_sources"
        and "probe_val_data_sources" in error["hint"]
    )
    sources = {
        "dataset__probe_train_data_sources": str(single),
        "dataset__probe_val_data_sources": str(tmp_path / "nowhere"),
    }
    assert "nowhere" in refused(spec(data, tmp_path / "two", **sources, **made), 3)["got"]


def test_compiling_without_a_compiler_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    error = refused(spec(data, tmp_path / "job", train__compile=True), 7)
    assert (error["field"], error["got"]) == ("train.compile", "no-such-compiler")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in str(refused(spec(tmp_path / "empty", tmp_path / "job"), 3))


def test_a_missing_tarball_is_refused(tmp_path: Path) -> None:
    assert "gone.tar.gz" in str(refused(spec(tmp_path / "gone.tar.gz", tmp_path / "job"), 3))


def test_weights_of_another_architecture_are_refused(data: Path, tmp_path: Path) -> None:
    assert train(spec(data, tmp_path / "pre", train__num_epochs=1)) == 0
    path = str(tmp_path / "pre/train/model_epoch_000.pth")
    size = {"dataset__augmentation__input_size": 64}
    error = refused(
        spec(
            data,
            tmp_path / "job",
            "finetune",
            "convnextv2_atto",
            train__pretrained_model_path=path,
            **size,
        ),
        4,
    )
    assert error["code"] == "checkpoint"
    error = refused(
        spec(
            data,
            tmp_path / "other",
            "pretrain",
            "convnextv2_atto",
            train__resume_training_checkpoint_path=path,
            **size,
        ),
        4,
    )
    assert error["field"] == "model.arch"


def test_pretrained_weights_that_are_not_there_are_refused(data: Path, tmp_path: Path) -> None:
    made = spec(data, tmp_path / "job", train__pretrained_model_path=str(tmp_path / "gone.pth"))
    assert train(made) != 0
    assert "gone.pth" in str(read(tmp_path / "job", "error.json"))
    assert not list((tmp_path / "job").rglob("*.pth"))


def test_more_devices_than_there_are_is_refused(data: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    error = refused(spec(data, tmp_path / "job", train__accelerator="auto", train__num_gpus=2), 7)
    assert error["field"] == "train.num_gpus" and "train.accelerator=cpu" in error["expected"]
    assert (
        refused(spec(data, tmp_path / "one", train__accelerator="gpu"), 7)["field"]
        == "train.accelerator"
    )


def test_all_mistakes_of_a_spec_are_told_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = spec(
        data, tmp_path / "job", train__num_epochz=3, train__optim__lr="fast", train__mask_ratio=1.5
    )
    assert train(made) == 2
    told = capsys.readouterr().err
    assert "num_epochs" in told and "train.optim.lr" in told and "train.mask_ratio" in told
    assert not list((tmp_path / "job").rglob("*.pth"))


def test_a_literal_key_on_the_command_line_is_refused(data: Path, tmp_path: Path) -> None:
    assert train(spec(data, tmp_path / "job"), "encryption_key=secret") == 2


def test_too_many_unreadable_images_end_the_run_and_a_tolerated_share_does_not(
    data: Path, tmp_path: Path
) -> None:
    broken = digits_folder(tmp_path / "broken")
    victim = sorted(broken.rglob("*.png"))[0]
    victim.write_bytes(b"no image")
    assert train(spec(broken, tmp_path / "job")) == 3
    assert victim.name in str(read(tmp_path / "job", "error.json"))
    made = spec(broken, tmp_path / "kind", dataset__max_corrupt_fraction=0.2)
    assert train({**made, "train": {**made["train"], "mask_ratio": 0.3}}) == 0
    result = read(tmp_path / "kind", "train/result.json")
    left = result["left_out"]["dataset.train_data_sources"]["unreadable"]
    assert left["count"] == 1 and victim.name in left["files"][0]
    assert any("mask_ratio" in warning for warning in result["warnings"])


FAULTY = """
import runpy, sys
from mae_runners.data.transforms import TrainTransform
def fail(*_): raise ValueError("no such picture")
TrainTransform.__call__ = fail
runpy.run_module("mae_runners", run_name="__main__", alter_sys=True)
"""


def test_an_error_in_a_data_worker_ends_the_process_though_workers_outlive_sigterm(
    data: Path, tmp_path: Path
) -> None:
    words = command(spec(data, tmp_path / "job", dataset__num_workers_per_gpu=1))
    ended = subprocess.run(
        [words[0], "-c", FAULTY, *words[3:]], capture_output=True, text=True, timeout=240
    )
    assert (
        ended.returncode == 1
        and "no such picture" in read(tmp_path / "job", "error.json")["message"]
    ), ended.stderr[-2000:]


def test_a_results_folder_that_cannot_be_made_is_an_error_of_its_field(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for field in ("results_dir", "train.results_dir"):
        with pytest.raises(UsageError, match="nothing can be written there") as caught:
            make_folder(tmp_path / "file" / "results", field)
        assert caught.value.field == field and caught.value.hint == f"choose another {field}"
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
