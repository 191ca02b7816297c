"""`mae doctor` and what `mae quickstart` refuses: the first commands on a machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from mae_sdk import answers
from mae_sdk.cli.main import main
from mae_sdk.cli.quickstart import PER_CLASS, write_parts
from mae_sdk.run.doctor import CREDENTIALS, examine

NEEDS = ["torch>=2; extra == 'train'", "s3fs; extra == 's3'", 'pytest; extra == "dev"', "click"]


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(words))
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


def test_the_doctor_names_what_is_missing_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: NEEDS)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = examine(str(tmp_path))
    assert set(found["extras"]) == {"train", "s3"}
    assert found["extras"]["train"]["missing"] == ["torch"]
    assert found["extras"]["train"]["get"] == "pip install 'mae-skill[train]'"
    assert found["extras"]["s3"]["installed"] == {"s3fs": "1.2"}
    assert found["verdict"]["can_train"] is False
    code, out, _ = call(capsys, "doctor", "--results-root", str(tmp_path))
    assert code == 0 and out.startswith("verdict  this machine can plan")
    assert "missing torch" in out and "next:\n  pip install 'mae-skill[train]'" in out


def test_the_doctor_says_which_credentials_are_there_and_never_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name for variables, _ in CREDENTIALS.values() for name in variables]
    for name in names:
        monkeypatch.setenv(name, f"canary-{name.lower()}")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("canary-file")
    for more in ((), ("--json",)):
        code, out, err = call(capsys, "doctor", "--results-root", str(tmp_path), *more)
        assert code == 0 and "canary" not in out + err
        assert all(name in out for name in names) and "~/.aws/credentials" in out
    monkeypatch.delenv("HF_TOKEN")
    found = json.loads(call(capsys, "doctor", "--json", "--results-root", str(tmp_path))[1])
    assert found["credentials"]["model hub"] == {"set": [], "files": []}


def test_the_doctor_warns_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = namedtuple("full", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    problems = examine(str(tmp_path / "not" / "there"))["problems"]
    assert any("less than 1 GiB is free for results" in text for text in problems)


def test_the_quickstart_writes_nothing_where_a_package_is_missing_or_a_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "mlxtend" else find(name)
        )
        code, _, err = call(capsys, "quickstart", "--out", str(tmp_path / "new"))
    assert code == 7 and "pip install 'mae-skill[quickstart]'" in err
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("words")
    assert call(capsys, "quickstart", "--out", str(tmp_path / "mine"))[0] == 2
    assert (tmp_path / "mine/thesis.txt").read_text() == "words"


def test_the_digits_of_the_quickstart_are_parts_of_different_images(tmp_path: Path) -> None:
    write_parts(tmp_path)
    archives = {
        "labelled": tmp_path / "labelled/images_train.tar.gz",
        "heldout": tmp_path / "heldout/images_val.tar.gz",
    }
    for name, path in archives.items():
        found = answers.inspect(str(path))
        assert found["images"] == 10 * PER_CLASS[name] and len(found["classes"]) == 10
