"""Every error of an option, a budget, a search or a store says what was expected and how to mend
it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.automl.options import parse
from mae_sdk.automl.ranges import RANGE_FORMS
from mae_sdk.cli.main import main
from mae_sdk.jobs.checkpoints import parse_policy
from mae_sdk.mcp_server import answer, tools
from mae_sdk.plan.automl_policy import policy_word
from mae_sdk.plan.recommend import seconds_of
from mae_sdk.plan.request import Request
from mae_sdk.plan.sources import find_source
from mae_sdk.storage import faults, urls
from mae_skill.bundle import Bundle
from mae_skill.errors import MaeError, SpecError, StorageError
from PIL import Image

from tests.support.reports import write_job

ROOT = Path(__file__).resolve().parents[2]
CHECKED = (
    "sdk/mae_sdk/automl",
    "sdk/mae_sdk/storage",
    "sdk/mae_sdk/plan/recommend.py",
    "sdk/mae_sdk/plan/automl_policy.py",
    "sdk/mae_sdk/plan/request.py",
    "sdk/mae_sdk/plan/sources.py",
    "sdk/mae_sdk/jobs/checkpoints.py",
)
KINDS = {"UsageError", "SpecError", "DataError", "NotFoundError", "CheckpointError", "StorageError"}


def test_every_error_of_options_budgets_and_stores_has_a_hint_where_it_is_made() -> None:
    files = [file for place in CHECKED for file in sorted((ROOT / place).rglob("*.py"))]
    files += [ROOT / place for place in CHECKED if place.endswith(".py")]
    lacking, seen = [], 0
    for file in files:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            given = {word.arg for word in call.keywords}
            if call.func.id in KINDS and None not in given and "problems" not in given:
                words = ast.unparse(call.args[0]) if call.args else ""
                if words in ("''", ""):  # a carrier, which is caught where it is made
                    continue
                seen += 1
                lacking += [f"{file.name}:{call.lineno} {words}"] if "hint" not in given else []
    assert seen > 60 and lacking == []


@pytest.mark.parametrize("budget", ["10 minutes", "1h30m", "30", "PT1H", "0h", "99999999d"])
def test_a_budget_that_is_no_time_says_how_one_is_written(budget: str) -> None:
    with pytest.raises(MaeError) as error:
        seconds_of(budget, 1, 0)
    assert error.value.field == "budget" and error.value.hint and error.value.expected


@pytest.mark.parametrize(
    "given",
    [
        {"max_trials": 0},
        {"timeout": -1},
        {"sampler": "magic"},
        {"metric": "ACC_all:up"},
        {"min_epochs": 9, "max_epochs": 3},
        {"metric": "a:maximize,a:maximize"},
        {"nonsense": 1},
    ],
)
def test_a_wrong_option_of_a_search_says_how_it_is_mended(given: dict[str, object]) -> None:
    with pytest.raises(SpecError) as error:
        parse(given)
    for problem in error.value.problems:
        assert problem.hint and problem.expected and problem.field


def test_words_that_are_no_policy_say_which_there_are() -> None:
    for call, word in ((policy_word, "none"), (parse_policy, "last")):
        with pytest.raises(MaeError) as error:
            call(word)
        assert error.value.hint and error.value.expected
    assert "low" in RANGE_FORMS


@pytest.mark.parametrize("url", ["s3://", "hf://one", "https://", "s3://key:secret@b/x"])
def test_a_url_that_names_nothing_says_how_one_is_written(url: str) -> None:
    with pytest.raises(MaeError) as error:
        urls.check(url)
    assert error.value.hint and error.value.expected


def test_a_fault_of_a_store_says_what_was_expected() -> None:
    for cause in ("network", "exists", "changed", "credentials", "anything"):
        made = faults.fault(cause, "cannot read", "s3://b/x", hint="")
        assert made.expected and made.hint


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [("one.png", "one picture", "the folder that it is in"), ("t.csv", "a table", "labels")],
)
def test_a_file_that_holds_no_images_is_called_by_what_it_is(
    name: str, said: str, hint: str, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    (tmp_path / "t.csv").write_text("path,label\n")
    with pytest.raises(MaeError, match=said) as error:
        find_source(str(tmp_path / name), Bundle.load().info)
    assert hint in str(error.value.hint)
    with pytest.raises(MaeError, match="a device"):
        find_source("/dev/null", Bundle.load().info)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["best", "--action", "dance"], "action"),
        (["list", "--stage", "foo"], "stage"),
        (["list", "--arch", "resnet"], "arch"),
        (["list", "--action", "dance"], "action"),
    ],
)
def test_a_filter_by_a_word_that_no_job_can_have_is_refused(
    words: list[str], field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_job(tmp_path, "train-1", spec={"train": {"stage": "pretrain"}}, result={"kpis": {}})
    with pytest.raises(SystemExit) as end:
        main(["jobs", *words, "--results-root", str(tmp_path), "--json"])
    error = json.loads(capsys.readouterr().err)
    assert (end.value.code, error["field"]) == (2, field)
    assert error["expected"] and error["hint"]


def test_a_filter_by_a_word_that_no_job_has_yet_finds_none(tmp_path: Path) -> None:
    write_job(tmp_path, "train-1", spec={"train": {"stage": "pretrain"}}, result={"kpis": {}})
    with pytest.raises(SystemExit) as end:
        main(["jobs", "list", "--stage", "finetune", "--results-root", str(tmp_path)])
    assert not end.value.code


def test_a_place_of_a_request_is_called_by_its_field() -> None:
    request = Request.of("train", {"ptm": "s3://u:p@b/x", "spec_overrides": {"a.b": "s3://b/y"}})
    assert request.field_of(urls.redact("s3://u:p@b/x")) == "ptm"
    assert request.field_of("s3://b/y") == "a.b" and request.field_of("s3://b/z") is None


def test_a_results_root_that_cannot_be_listed_is_called_by_its_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StorageError("cannot list", got="s3://b", expected="a store", hint="again")

    monkeypatch.setattr("mae_sdk.job.list_jobs", refuse)
    with pytest.raises(StorageError) as error:
        Skill().jobs(results_root="s3://b")
    assert error.value.field == "results_root"


def test_over_mcp_a_missing_argument_a_wrong_filter_and_a_wrong_option_name_their_mend(
    tmp_path: Path,
) -> None:
    write_job(tmp_path, "train-1", spec={"train": {"stage": "pretrain"}}, result={"kpis": {}})
    named = {tool.name: tool for tool in tools(Skill())}
    said, failed = answer(Skill(), named["status"], {})
    assert failed and said["field"] == "job_id" and str(said["hint"]).startswith("give job_id")
    said, failed = answer(Skill(), named["jobs"], {"state": "DONE", "results_root": str(tmp_path)})
    assert failed and said["field"] == "state" and "COMPLETE" in said["expected"]
    said, failed = answer(Skill(), named["plan"], {"action": "train", "automl": {"max_trials": 0}})
    assert failed and said["field"] and said["hint"] and said["expected"]
