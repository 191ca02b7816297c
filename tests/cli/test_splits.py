"""`mae inspect --train … --eval …`: both parts of a data set are read, judged and compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.answers import plain
from mae_sdk.cli.main import main
from mae_sdk.mcp_server import answer, tools

from tests.support.images import make_tarball, write_imagefolder


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["inspect", *words])
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    train = write_imagefolder(tmp_path / "train", classes=3, per_class=4)
    other = write_imagefolder(tmp_path / "other", classes=2, per_class=3, start=10)
    shutil.copy(next(train.rglob("*.png")), other / "0" / "leak.png")
    return train, other


def test_both_parts_are_counted_and_compared_and_the_next_command_names_both(
    parts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    train, other = map(str, parts)
    code, out, _ = call(capsys, "--train", train, "--eval", other, "--json")
    found = json.loads(out)
    assert code == 0 and found["verdict"]["usable"]
    assert found["compared"]["shared"]["count"] == 1 and found["compared"]["missing"] == ["2"]
    assert found["compared"]["share"] == pytest.approx(7 / 19, abs=1e-3)
    assert {name: part["images"] for name, part in found["splits"].items()} == {
        "train": 12,
        "eval": 7,
    }
    assert f"--train-datasets {train}" in found["next"][0]
    assert f"--eval-dataset {other}" in found["next"][0] and "num_classes=3" in found["next"][0]

    code, out, _ = call(capsys, "--train", train, "--eval", other)
    assert code == 0 and out.startswith("verdict  these data can be trained on")
    assert "shared images  1" in out and "classes without a validation image  2" in out


def test_what_is_wrong_with_the_validation_data_alone_is_found_too(
    parts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    train, other = parts
    for path in sorted(other.rglob("*.png"))[:4]:
        path.write_bytes(b"no image")
    code, out, _ = call(capsys, "--train", str(train), "--eval", str(other), "--json")
    found = json.loads(out)
    assert code == 3 and not found["verdict"]["usable"] and "next" not in found
    assert any("4 of 7 images cannot be read" in text for text in found["verdict"]["problems"])
    assert found["splits"]["eval"]["unreadable"]["count"] == 4
    assert found["splits"]["train"]["unreadable"]["count"] == 0


def test_a_class_that_training_lacks_makes_the_two_unusable_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_imagefolder(tmp_path / "train", classes=2, per_class=3)
    other = write_imagefolder(tmp_path / "other", classes=3, per_class=3, start=10)
    make_tarball(other, tmp_path / "val" / "images_val.tar.gz")
    code, out, _ = call(capsys, "--train", str(train), "--eval", str(tmp_path / "val"), "--json")
    assert code == 3 and json.loads(out)["compared"]["unknown"] == {"2": 3}


def test_the_tool_gives_the_document_of_the_command(
    parts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    train, other = map(str, parts)
    shown = json.loads(call(capsys, "--train", train, "--eval", other, "--json")[1])
    skill = Skill()
    tool = {one.name: one for one in tools(skill)}["inspect"]
    arguments: dict[str, Any] = {"train": train, "eval": other}
    returned, failed = answer(skill, tool, arguments)
    assert not failed and shown.pop("next") and returned.pop("next")
    assert plain(shown) == returned
    for wrong in ({}, {"train": train}, {**arguments, "source": train}):
        document, failed = answer(skill, tool, wrong)
        assert failed and document["code"] == "usage"


@pytest.mark.parametrize("words", [[], ["--train", "x"], ["x", "--train", "y", "--eval", "z"]])
def test_one_source_or_both_parts_are_given(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, *words)
    assert code == 2 and "--train and --eval" in err
