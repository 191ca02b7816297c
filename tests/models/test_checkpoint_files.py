"""Checkpoint files: whole or absent, opened without running code, sealed when there is a key."""

from __future__ import annotations

import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from mae_runners.models import checkpoint
from mae_runners.models.cipher import CHUNK, SealReader, SealWriter
from mae_skill.errors import CheckpointError, NotFoundError, StorageError
from mae_skill.weights import header

from tests.support.models import SMALL, build, classifier_config, inputs, mae_config


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("key", [None, "correct horse"])
def test_a_model_comes_back_from_its_file_alone(arch: str, key: str | None, tmp_path: Path) -> None:
    model = build(mae_config(arch, (64, 96)))
    meta = checkpoint.CheckpointMeta.for_model(
        model, mean=[0.5] * 3, std=[0.2] * 3, spec_digest="d"
    )
    checkpoint.save(
        {"state_dict": checkpoint.model_state(model), "mae": meta.to_dict(), "epoch": 1},
        tmp_path / "c.pth",
        key,
    )
    again, found = checkpoint.load_model(tmp_path / "c.pth", key)
    images, noise = inputs(model)
    with torch.no_grad():
        assert torch.equal(again(images, noise).loss, model(images, noise).loss)
    assert found.stage == "pretrain" and found.input_size == [64, 96] and found.mean == [0.5] * 3
    assert list(tmp_path.iterdir()) == [tmp_path / "c.pth"]

    tuned = build(classifier_config(arch, (64, 96)))
    meta = checkpoint.CheckpointMeta.for_model(tuned, classes=list("abcde"))
    checkpoint.save(
        {"state_dict": checkpoint.model_state(tuned), "mae": meta.to_dict()},
        tmp_path / "c.pth",
        key,
    )
    again, found = checkpoint.load_model(tmp_path / "c.pth", key)
    with torch.no_grad():
        assert torch.equal(again(images), tuned(images))
    assert found.stage == "finetune" and found.num_classes == 5 and found.classes == list("abcde")


def test_an_encrypted_file_shows_nothing_and_opens_with_its_key_only(tmp_path: Path) -> None:
    path = tmp_path / "sealed.pth"
    checkpoint.save({"state_dict": {"model.secret_name": torch.arange(5000.0)}}, path, "right")
    assert b"secret_name" not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    assert torch.equal(
        checkpoint.read(path, "right")["state_dict"]["model.secret_name"], torch.arange(5000.0)
    )
    with pytest.raises(CheckpointError, match="the key does not open"):
        checkpoint.read(path, "wrong")
    with pytest.raises(CheckpointError, match="is encrypted") as caught:
        checkpoint.read(path)
    assert caught.value.field == "encryption_key"


@pytest.mark.parametrize("damage", ["flip", "cut chunk", "cut bytes", "swap", "header"])
def test_a_damaged_encrypted_file_is_named_as_such(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "sealed.pth"
    generator = torch.Generator().manual_seed(0)
    checkpoint.save(
        {"state_dict": {"w": torch.randn(3 * CHUNK // 4 + 1000, generator=generator)}}, path, "k"
    )
    data = bytearray(path.read_bytes())
    start, step = 36 + 16, CHUNK + 16
    if damage == "flip":
        data[start + step + 99] ^= 1
    elif damage == "cut chunk":
        del data[start + 3 * step :]
    elif damage == "cut bytes":
        del data[-7:]
    elif damage == "swap":
        data[start : start + 2 * step] = (
            data[start + step : start + 2 * step] + data[start : start + step]
        )
    else:
        data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        checkpoint.read(path, "k")


def test_the_cipher_streams_and_seeks(tmp_path: Path) -> None:
    payload = os.urandom(2 * CHUNK)  # an exact multiple: the last chunk must still be marked
    with (tmp_path / "f").open("wb") as file, SealWriter(file, "k") as sealed:
        for start in range(0, len(payload), 70_001):
            sealed.write(payload[start : start + 70_001])
    with (tmp_path / "f").open("rb") as file:
        reader = SealReader(file, "k", "f")
        assert reader.seek(0, os.SEEK_END) == len(payload)
        reader.seek(CHUNK - 10)
        assert reader.read(20) == payload[CHUNK - 10 : CHUNK + 10]
        reader.seek(0)
        assert reader.read() == payload


def test_a_file_that_an_older_release_encrypted_still_opens(tmp_path: Path) -> None:
    sealed = bytes.fromhex(
        "4d41455345414c31013715a9672d48e1b290b40fafacf01fc4d1012d3915350010000000e221c9eeda8cabc3"
        "d1e70ebb61df79c10d232f8578d05c09329f58de657eb684dee1c3a11db76800b385a4eaf2424433f5761c04"
        "ccb6755a60e4"
    )
    (tmp_path / "f").write_bytes(sealed)
    assert header.is_sealed(tmp_path / "f")
    with (tmp_path / "f").open("rb") as file:
        assert SealReader(file, "an old key", "f").read() == b"weights of an older release"
    with (tmp_path / "f").open("rb") as file, pytest.raises(CheckpointError, match="does not open"):
        SealReader(file, "another key", "f")


@pytest.mark.parametrize("cost", [0, 13, 21, 255])
def test_a_header_cannot_ask_for_a_cheap_key_or_for_all_memory(tmp_path: Path, cost: int) -> None:
    checkpoint.save({"epoch": 1}, tmp_path / "f", "k")
    data = bytearray((tmp_path / "f").read_bytes())
    assert data[8] == 17
    data[8] = cost
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(tmp_path / "f", "k")


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_a_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(CheckpointError, match="more than weights"):
        checkpoint.read(tmp_path / "harm.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"a": Harm()}))
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / "raw.pth")


def test_missing_empty_and_cut_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        checkpoint.read(tmp_path / "none.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / "empty.pth")
    torch.save({"state_dict": {"w": torch.zeros(9999)}}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-500])
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / "cut.pth")
    torch.save({"state_dict": {"w": torch.zeros(1)}}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="not written by this project"):
        checkpoint.load_model(tmp_path / "foreign.pth")


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    checkpoint.save({"epoch": 1}, tmp_path / "c.pth")
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        checkpoint.save({"epoch": (value for value in ())}, tmp_path / "c.pth")
    assert checkpoint.read(tmp_path / "c.pth") == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("key", [None, "k"])
def test_a_write_that_finds_no_room_says_so_and_leaves_what_was_there(
    tmp_path: Path, key: str | None
) -> None:
    path = tmp_path / "c.pth"
    checkpoint.save({"epoch": 1}, path, key)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (1 << 20, hard)
    )  # the system's own refusal to write on, as of a full disk
    try:
        with pytest.raises(StorageError, match=r"no room for the checkpoint c.pth") as caught:
            checkpoint.save({"state_dict": {"w": torch.randn(1 << 20)}, "epoch": 2}, path, key)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (
        "free in" in str(caught.value.got)
        and "resume" in str(caught.value.hint)
        and caught.value.exit_code == 8
    )
    assert checkpoint.read(path, key)["epoch"] == 1 and list(tmp_path.iterdir()) == [path]
