"""What an option may write over: a missing file, an empty one, an older one of the same kind."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mae_sdk import Skill, answers
from mae_sdk.cli.bundle import install_bundle
from mae_sdk.cli.main import main
from mae_sdk.data import inspect_source
from mae_sdk.job import Job
from mae_skill.errors import UsageError
from PIL import Image

from tests.support.reports import write_job

ROOT = Path(__file__).resolve().parents[2]

SPEC = {"train": {"stage": "pretrain"}}
OPTIONS = {
    "report": (["report", "train-1", "--results-root", "{here}", "-o"], ".html"),
    "chain": (["report", "train-1", "--chain", "--results-root", "{here}", "-o"], ".html"),
    "get-spec": (["get-spec", "train", "-o"], ".yaml"),
    "inspect": (["inspect", "{here}/pictures", "--contact-sheet"], ".png"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_job(tmp_path, "train-1", spec=SPEC, result={"kpis": {}})
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        noise = random.Random(number).randbytes(40 * 40 * 3)
        Image.frombytes("RGB", (40, 40), noise).save(tmp_path / f"pictures/{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0), capsys.readouterr().err


def words_of(option: str, here: Path) -> list[str]:
    return [word.replace("{here}", str(here)) for word in OPTIONS[option][0]]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["", " ", "pictures", "pictures/", "new/", "page.pdf", "pictures/0.jpg", "page"]
)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_name_that_cannot_be_the_file_is_refused_and_nothing_is_written(
    option: str, name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_in(here)
    code, err = call(capsys, *words_of(option, here), name)
    assert code == 2 and "expected:" in err and "hint:" in err and OPTIONS[option][1] in err
    assert files_in(here) == before


@pytest.mark.parametrize("content", ["picture", "text", "data"])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_file_of_another_kind_is_left_as_it_is(
    option: str, content: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = here / f"mine{OPTIONS[option][1]}"
    if content == "picture":
        Image.new("RGB", (40, 40)).save(file, "PNG")
    else:
        file.write_text("<html>my page</html>\n" if content == "text" else "a: 1\nmodel: {b: 2}\n")
    before = files_in(here)
    code, err = call(capsys, *words_of(option, here), str(file))
    assert code == 2 and "there is a file already" in err and "hint:" in err
    assert files_in(here) == before


@pytest.mark.parametrize("option", OPTIONS)
def test_an_older_file_of_the_same_kind_is_replaced_and_so_is_an_empty_one(
    option: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = here / f"out{OPTIONS[option][1].upper()}"
    file.touch()
    assert call(capsys, *words_of(option, here), str(file))[0] == 0
    first = file.read_bytes()
    assert len(first) > 100
    assert call(capsys, *words_of(option, here), str(file))[0] == 0 and file.stat().st_size > 100


def test_a_spec_as_json_may_be_called_json_and_yaml_may_not(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "get-spec", "train", "-o", "spec.json")[0] == 2
    assert call(capsys, "get-spec", "train", "--json", "-o", "spec.json")[0] == 0
    assert json.loads((here / "spec.json").read_text())["train"]
    # A spec of another action has other sections, and is one all the same.
    assert call(capsys, "get-spec", "evaluate", "--json", "-o", "spec.json")[0] == 0


CALLS: dict[str, Callable[[Path, str], object]] = {
    "job.report": lambda here, to: Job(here / "train-1").report(to),
    "answers.report": lambda here, to: answers.report(Job(here / "train-1"), to),
    "inspect_source": lambda here, to: inspect_source(here / "pictures", contact_sheet=to),
    "answers.inspect": lambda here, to: answers.inspect(str(here / "pictures"), contact_sheet=to),
    "Skill.job.report": lambda here, to: Skill().job("train-1", results_root=here).report(to),
}


@pytest.mark.parametrize("to", ["", "pictures", "pictures/1.png", "x.pdf"])
@pytest.mark.parametrize("name", CALLS)
def test_calls_of_python_and_mcp_refuse_the_same(name: str, to: str, here: Path) -> None:
    before = files_in(here)
    with pytest.raises(UsageError) as error:
        CALLS[name](here, to)
    assert error.value.field in ("output", "contact_sheet") and error.value.hint
    assert files_in(here) == before


def test_a_folder_that_is_no_installed_copy_is_not_replaced_even_by_force(tmp_path: Path) -> None:
    theirs = tmp_path / "tao-run-automl"
    theirs.mkdir()
    (theirs / "work.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        install_bundle(ROOT, tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == [theirs.name]
    shutil.rmtree(theirs)
    install_bundle(ROOT, tmp_path)
    install_bundle(ROOT, tmp_path, force=True)
