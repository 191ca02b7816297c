"""A run that is killed at any place of saving loses nothing: the next attempt ends with the files
of a run that never stopped, bit for bit."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import checkpoint
from mae_runners.training import checkpointing, loop
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.status import StatusWriter
from mae_skill.errors import DataError

from tests.support.training import curve, digits_folder, read, spec, status_lines, train
from tests.training.test_preemption import signaled, stopped

CHANGES = {
    "train__num_epochs": 3,
    "train__ema_decay": 0.9,
    "train__optim__lr_scheduler": "cosine",
    "train__optim__lr": 1e-3,
}


class Killed(BaseException):
    """Nothing catches it, and nothing is saved on the way out."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), per_class=3)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "job"
    assert train(spec(data, folder, **CHANGES)) == 0
    return folder


def run_killed(made: dict[str, Any], owner: Any, name: str, call: int) -> None:
    """Ends the run at the beginning of the `call`-th call of a function."""
    whole, calls = getattr(owner, name), []

    def wrapped(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return whole(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        with pytest.raises(Killed):
            train(made)


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Every field, to the bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_equal(left, right, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_run(one: Path, other: Path) -> None:
    first, second = (read(folder, "train/checkpoints.json") for folder in (one, other))
    for entries in (first["checkpoints"], second["checkpoints"]):
        for entry in entries:  # names of paths inside the files differ
            entry.pop("sha256")
            entry.pop("size")
    assert first == second
    for entry in first["checkpoints"]:
        left, right = (checkpoint.read(folder / "train" / entry["file"]) for folder in (one, other))
        assert_equal(left, right, entry["file"])
    assert models(one) == models(other)
    for name in ("train_loss_step", "lr", "grad_norm", "train_loss"):
        assert curve(one, name) == curve(other, name), name
    assert epochs(one) == epochs(other)


def models(folder: Path) -> dict[str, str]:
    """The checkpoint files, and where the link to the latest leads."""
    return {path.name: path.resolve().name for path in (folder / "train").glob("*.pth")}


def epochs(folder: Path) -> dict[int, Any]:
    """Epoch → its metrics, as a study reads them."""
    return {
        line["epoch"]: line["kpi"]
        for line in status_lines(folder)
        if "kpi" in line and "epoch" in line
    }


@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (CheckpointIndex, "add"),  # the file has its name, and is not listed
        (checkpointing, "point_latest"),  # listed
        (checkpoint, "save"),  # the epoch is reported, and not saved
        (StatusWriter, "running"),  # not even reported
    ],
)
def test_a_kill_around_a_checkpoint_loses_no_epoch(
    data: Path, whole: Path, tmp_path: Path, owner: Any, name: str, call: int
) -> None:
    made = spec(data, tmp_path / "job", **CHANGES)
    run_killed(made, owner, name, call)
    assert train(made) == 0
    assert_same_run(whole, tmp_path / "job")


def test_a_signal_in_the_last_step_leaves_the_rate_of_that_step(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spec(data, tmp_path / "job", **CHANGES)
    last = len(curve(whole))
    with monkeypatch.context() as patch:
        signaled(patch, loop.TrainLoop, "_train_step", call=last)
        stopped(made)
    extra = tmp_path / "job/train" / f"model_epoch_002_step_{last:05d}.pth"
    assert extra.exists()
    assert train(made) == 0
    left, right = (
        checkpoint.read(p / "train/model_epoch_002.pth") for p in (whole, extra.parents[1])
    )
    assert_equal(left, right)
    assert left["optimizer_states"][0]["param_groups"][0]["lr"] == float(curve(whole, "lr")[last])


def test_files_of_another_run_are_not_taken_for_checkpoints_of_this_one(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = spec(data, tmp_path / "job", **{**CHANGES, "train__optim__lr": 2e-3})
    run_killed(made, CheckpointIndex, "add", 2)
    folder = tmp_path / "job/train"
    shutil.copy(whole / "train/model_epoch_002.pth", folder / "model_epoch_007.pth")
    (folder / "model_epoch_008.pth").write_bytes(b"torn")
    index = CheckpointIndex(folder)
    made["train"]["resume_training_checkpoint_path"] = str(folder / "model_epoch_000.pth")
    assert train(made) == 0
    assert [entry["epoch"] for entry in index.read()["checkpoints"]] == [0, 1, 2]
    told = capsys.readouterr().err
    assert "model_epoch_008.pth is not listed and cannot be read" in told


def test_a_removed_index_is_written_anew_and_a_damaged_one_is_an_error_that_says_so(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "job", symlinks=True)
    made = spec(data, tmp_path / "job", **CHANGES)
    path = tmp_path / "job/train/checkpoints.json"
    path.write_text('{"checkpoints": [7]}')
    assert train(made) == 3 and "remove the index" in read(tmp_path / "job", "error.json")["hint"]
    with pytest.raises(DataError, match=r"checkpoints\[0\] is 7, not a mapping"):
        CheckpointIndex(path.parent).select("best")
    path.unlink()
    assert train(made) == 0
    assert_same_run(whole, tmp_path / "job")


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "job", symlinks=True)
    folder = tmp_path / "job/train"
    dead, alive = (folder / f".model_epoch_009.pth.{n}.part" for n in ("0123abcd", "4567abcd"))
    own = folder / ".mine.part"
    for path in (dead, alive, own):
        path.write_bytes(b"half")
    pointer = folder / ".vit_tiny_patch16_latest.pth.89abcdef.part"
    pointer.symlink_to("model_epoch_001.pth")  # killed a moment ago, while it was to be renamed
    with alive.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        assert train(spec(data, tmp_path / "job", **CHANGES)) == 0
    assert not dead.exists() and alive.exists() and own.exists()
    assert not pointer.is_symlink()
