"""What users of upstream's SDK look for: parents of other bundles, files, events, deletion, the
words of the other SDK, the MCP server and the score of a bundle.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mae_sdk import Skill, answers
from mae_sdk.automl.options import parse
from mae_sdk.job import Job, children_of
from mae_sdk.jobs.other_sdk import CALLS, CLASSES, OF_JOB, OPTIONS
from mae_skill.errors import NotFoundError, UsageError

from tests.support import jobs
from tests.support.docs import ROOT
from tests.support.folders import job_folder
from tests.support.upstream_bundle.make import write_bundle, write_data


@pytest.fixture
def skill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Skill:
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    write_data(tmp_path / "data")
    return Skill(write_bundle(tmp_path / "bundle"))


def test_a_parent_of_another_bundle_is_taken_only_where_the_caller_says_so(
    skill: Skill, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_bundle(other)
    info = other / "references" / "skill_info.yaml"
    info.write_text(info.read_text().replace("network_arch: lamp", "network_arch: torch_lamp"))
    data = str(tmp_path / "data")
    job = skill.create_job("train", train_datasets=data, automl_policy="off").wait(30)

    with pytest.raises(UsageError, match="another bundle") as caught:
        Skill(other).plan("evaluate", parent_job_id=job.id)
    assert "--foreign-parent" in str(caught.value.hint)
    made = Skill(other).plan("evaluate", parent_job_id=job.id, foreign_parent=True)
    assert any("that it fits is not checked" in notice for notice in made.notices)
    assert "foreign_parent=True" in made.to_python()

    from mae_sdk.cli.common import next_for

    shown = next_for(job, "COMPLETE", None)
    assert f"mae run evaluate --parent {job.id} --skill-dir {tmp_path}/bundle" in shown
    assert {words.split()[2] for words in shown if words.startswith("mae run")} == {
        "evaluate",
        "export",
        "tune",
    }

    made = [str(path.relative_to(job.folder)) for path in job.files()]
    assert made == [
        "train/lamp_model_latest.pth",
        "train/model_epoch_000_step_00000.pth",
        "train/model_epoch_001_step_00010.pth",
    ]
    text = job.read("train/status.json")
    assert text.count("RUNNING") == 2
    for name in ("../outside", "/etc/passwd", ""):
        with pytest.raises(UsageError):
            job.read(name)
    with pytest.raises(NotFoundError, match="no such file") as missing:
        job.read("train/nothing")
    assert "spec.json" in str(missing.value.expected)
    assert skill.jobs(state="complete")[0].id == job.id
    assert skill.jobs(state="RUNNING") == []
    child = skill.create_job("export", parent_job_id=job.id).wait(30)
    assert [path.name for path in child.files()] == ["model.onnx"]
    assert children_of(job.folder) == [child.id]
    with pytest.warns(UserWarning, match=f"was the parent of {child.id}"):
        job.delete()
    assert not job.folder.exists()
    child.delete()
    assert skill.jobs() == []


def test_a_job_without_a_list_of_its_results_has_the_files_that_its_runner_left(
    tmp_path: Path,
) -> None:
    command = "mkdir -p out inputs; echo 1 > out/a.csv; echo 1 > inputs/b.csv; echo 1 > c.txt"
    job = jobs.start(tmp_path, f"cd {tmp_path}/job; {command}", name="job").wait(30)
    assert [str(path.relative_to(job.folder)) for path in job.files()] == ["c.txt", "out/a.csv"]
    for at in range(answers.MAX_FILES):
        (job.folder / "out" / f"{at}.csv").touch()
    assert (len(answers.status(job)["files"]), answers.status(job)["more_files"]) == (20, 2)
    assert len(answers.show(job)["files"]) == 22


def test_events_are_the_changes_of_a_jobs_state_in_order(tmp_path: Path) -> None:
    job = jobs.start(tmp_path, "sleep 0.2; echo one; echo two")
    assert [event["state"] for event in job.events(30)] == ["PENDING", "RUNNING", "COMPLETE"]
    assert job.logs(tail=1) == "two\n"
    assert job.logs(tail=0) == ""
    running = jobs.start(tmp_path, "sleep 30", name="long")
    with pytest.raises(UsageError, match="cannot be deleted"):
        running.delete()
    running.cancel()


@pytest.mark.parametrize("name", ["image", "gpu_count", "specs", "train_dataset_uri"])
def test_an_argument_of_the_other_sdk_is_answered_with_ours(name: str, skill: Skill) -> None:
    with pytest.raises(UsageError, match="unknown option") as caught:
        skill.create_job("train", **{name: "x"})
    assert caught.value.hint == f"{name}: {OPTIONS[name]}"


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_the_other_sdk_is_answered_with_ours(name: str) -> None:
    with pytest.raises(AttributeError, match="there is no Skill"):
        getattr(Skill(), name)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("pause", "job.cancel(), and later job.resume()"),
        ("get_logs", "job.logs(tail=N)"),
        ("get_job_status", "job.status()"),
        ("wait_for_job", "job.wait()"),
        ("results_dir", "job.folder"),
        ("get_metrics", "job.metrics"),
    ],
)
def test_a_name_of_the_other_sdk_on_a_job_is_answered_with_ours(
    name: str, ours: str, tmp_path: Path
) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(Job(tmp_path), name)
    assert str(caught.value) == f"there is no Job.{name}: {ours}"


def test_a_name_that_nobody_has_is_a_plain_attribute_error(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match=r"^'Job' object has no attribute 'color'$"):
        getattr(Job(tmp_path), "color")  # noqa: B009
    assert not hasattr(Skill(), "__deepcopy__")


@pytest.mark.parametrize("table", [CALLS, OF_JOB, OPTIONS, CLASSES], ids=["calls", "job", *"oc"])
def test_the_page_of_the_other_sdk_says_what_the_errors_say(table: dict[str, str]) -> None:
    ours: dict[str, list[str]] = {}
    for name, words in table.items():
        ours.setdefault(words, []).append(f"`{name}`")
    rows = [f"| {', '.join(names)} | {words} |" for words, names in ours.items()]
    assert "\n".join(rows) in (ROOT / "docs" / "other_sdks.md").read_text()


@pytest.mark.parametrize("words", [*CALLS.values(), *OF_JOB.values(), *CLASSES.values()])
def test_what_the_other_sdk_is_answered_with_is_there(words: str) -> None:
    for name in re.findall(r"skill\.(\w+)|Skill\(FOLDER\)\.(\w+)", words):
        assert hasattr(Skill, "".join(name))
    for name in re.findall(r"(?:\)|\bjob)\.(\w+)", words.replace("Skill(FOLDER).", "")):
        assert name in {*dir(Job(Path())), "spec", "automl"}


@pytest.mark.parametrize("text", ["['train.lr', 'b']", '["train.lr", "b"]', "[train.lr, b]"])
def test_a_list_in_a_string_is_a_list(text: str) -> None:
    assert parse({"automl_hyperparameters": text}).parameters == ("train.lr", "b")


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_the_other_sdk_is_answered_with_ours(name: str) -> None:
    with pytest.raises(ImportError, match="Skill\\(FOLDER\\)"):
        exec(f"from mae_sdk import {name}")


def test_a_job_in_the_words_of_the_other_sdk_is_answered_word_by_word() -> None:
    with pytest.raises(UsageError, match="no action is named") as caught:
        Skill().create_job(image="tao:6", command="dino train", gpu_count=2)
    for name in ("image", "command", "gpu_count"):
        assert f"{name}: {OPTIONS[name]}" in str(caught.value.hint)


@pytest.mark.parametrize(("name", "ours"), [("cancel", "cancel()"), ("stop", "cancel()")])
def test_a_call_of_a_job_on_a_skill_is_answered_with_the_jobs(name: str, ours: str) -> None:
    with pytest.raises(AttributeError, match=rf"no Skill.{name}: skill.job\(JOB\)") as caught:
        getattr(Skill(), name)
    assert str(caught.value).endswith(ours)


def test_a_job_that_is_asked_to_stop_is_answered_with_cancel(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match=r"there is no Job.stop: job.cancel\(\)"):
        getattr(Job(tmp_path), "stop")  # noqa: B009


def test_a_state_is_the_same_word_in_any_case_and_the_call_of_status_is_no_word(
    tmp_path: Path,
) -> None:
    job = Job(job_folder(tmp_path, "t1", "train"))
    assert job.state == "Complete"
    assert "complete" in (job.state,)
    assert job.state != "Error"
    assert {job.state: 1}["COMPLETE"] == 1
    for compare in (lambda: job.status == "Complete", lambda: job.status != "Complete"):
        with pytest.raises(UsageError, match="is a call") as caught:
            compare()
        assert "job.state == 'COMPLETE'" in str(caught.value.expected)
    assert job.status()["state"] == "COMPLETE"


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("iter_log_chunks", "job.logs("),
        ("list_files", "job.files()"),
        ("download_files", "job.read(NAME)"),
        ("read_result_file", "job.read(NAME)"),
        ("delete_artifacts", "job.delete()"),
    ],
)
def test_a_call_of_a_job_in_the_other_sdks_words_is_answered_with_ours(
    tmp_path: Path, name: str, ours: str
) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(Job(tmp_path / "train-1"), name)
    assert ours in str(caught.value)
