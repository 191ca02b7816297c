"""Records that something has damaged, and folders of strangers: named, passed over, never trusted,
and never a fault of ours."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.job import Job, list_jobs, observe_jobs
from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.outputs import best_child, outputs_of
from mae_sdk.jobs.root import Root
from mae_skill.errors import CheckpointError, DataError, MaeError, StorageError

from tests.support.folders import add_checkpoints, job_folder
from tests.support.jobs import write

DEEP = "[" * 100_000 + "]" * 100_000
HUGE = '{"pad": "' + "x" * (33 << 20) + '"}'


def changed(place: str, value: Any) -> str:
    """A record with another value at a dotted place."""
    record: dict[str, Any] = {"id": "bad", "action": "train", "launch": {"command": ["true"]}}
    records.new_attempt(record)
    records.advance(record, "RUNNING", process={"host": "h", "boot_id": "b", "pid": 5})
    record["attempts"][0]["process"] |= {"pid_namespace": "", "start_time": "7"}
    record["created_at"] = records.now()
    at: Any = record
    *parts, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in parts:
        at = at[part]
    at[last] = value
    return json.dumps(record)


DAMAGED = {
    "empty": "",
    "half": '{"id": "bad", "act',
    "a list": "[]",
    "a number": "7",
    "deep": DEEP,
    "huge": HUGE,
    "not a number": '{"action": NaN}',
    "action": changed("action", 7),
    "launch": changed("launch", []),
    "command": changed("launch.command", "true"),
    "words": changed("launch.command.0", 3),
    "processes": changed("launch.processes", "two"),
    "no attempts": changed("attempts", []),
    "attempts": changed("attempts", {"0": {}}),
    "attempt": changed("attempts.0", "RUNNING"),
    "state": changed("attempts.0.state", "FLYING"),
    "number": changed("attempts.0.number", "1"),
    "transitions": changed("attempts.0.transitions", 5),
    "a text pid": changed("attempts.0.process.pid", "12"),
    "a true pid": changed("attempts.0.process.pid", True),
    "process": changed("attempts.0.process", [1]),
    "failure": changed("attempts.0.failure", "it broke"),
    "a time": changed("created_at", 10**30),
    "parent": changed("parent", {"id": "x"}),
    "platform": changed("platform", 1),
    "env_names": changed("env_names", "PATH"),
    "resume_keys": changed("resume_keys", [1]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_record_is_an_error_of_data_that_says_what_is_wrong(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/job.json").write_text(DAMAGED[name])
    job = Job(tmp_path / "bad")
    for call in (job.observe, job.status, job.cancel, job.resume, job.wait, job.figures, job.files):
        with pytest.raises(DataError, match="the record of job bad cannot be read: ") as caught:
            call()
    assert caught.value.exit_code == 3 and len(str(caught.value)) < 900
    assert [row["id"] for row in answers.jobs(list_jobs(Root(tmp_path)), limit=5)["jobs"]] == []


def test_strangers_in_a_root_hide_no_job_and_are_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mae_sdk import files
    from mae_sdk.cli.main import main

    job_folder(tmp_path, "train-good", "train")
    for name in ("train-folder", "train-pipe", "train-link", "train-private", "train-deep"):
        (tmp_path / name).mkdir()
    (tmp_path / "train-folder/job.json").mkdir()
    os.mkfifo(tmp_path / "train-pipe/job.json")
    (tmp_path / "train-link/job.json").symlink_to("nowhere")
    (tmp_path / "train-deep/job.json").write_text(DEEP)
    (tmp_path / "train-private/job.json").write_text("{}")
    (tmp_path / "train-broken").symlink_to("nowhere")
    (tmp_path / "train-circle").symlink_to("train-circle")
    (tmp_path / "train-file").write_text("")
    whole = files.read_small_bytes

    def read(path: str | Path, limit: int = 0) -> bytes:  # root may enter every folder
        if Path(path).parent.name == "train-private":
            raise PermissionError(13, "Permission denied")
        return whole(path, limit or files.SMALL_BYTES)

    monkeypatch.setattr(files, "read_small_bytes", read)
    with pytest.raises(SystemExit) as left:
        main(["jobs", "list", "--json", "--results-root", str(tmp_path)])
    out, err = capsys.readouterr()
    assert not left.value.code and [row["id"] for row in json.loads(out)["jobs"]] == ["train-good"]
    (notice,) = [line for line in err.splitlines() if "cannot be read" in line]
    for name in ("folder", "pipe", "link", "private", "deep"):
        assert f"train-{name}" in notice
    for name in ("broken", "circle", "file"):
        assert f"train-{name}" not in notice


def test_looking_takes_no_lock_and_writes_nothing_where_it_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, live = write(tmp_path, "true", name="dead"), write(tmp_path, "true", name="live")
    old = time.time() - 3600
    os.utime(dead / "job.json", (old, old))
    before = (dead / "job.json").read_bytes()

    def refuse(*args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    from mae_sdk import files

    with monkeypatch.context() as patch:
        patch.setattr(files, "lock", refuse)
        seen = observe_jobs([Job(dead), Job(live)])
    assert [state for _, state in filter(None, seen)] == ["ERROR", "PENDING"]
    assert (dead / "job.json").read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", refuse)
        assert Job(dead).state == "ERROR"
        with pytest.raises(StorageError, match="cannot be written: Permission denied"):
            Job(dead).resume()
    assert Job(dead).state == "ERROR" and (dead / "job.json").read_bytes() != before


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_a_time_far_away_in_either_direction_leaves_no_job_pending_for_ever(
    tmp_path: Path, ahead: float
) -> None:
    job = Job(write(tmp_path, "true"))
    at = time.time() + ahead
    os.utime(job.folder / "job.json", (at, at))
    assert job.state == "ERROR"


INDEXES = {
    "a list": "[]",
    "a number": "3",
    "deep": DEEP,
    "not a number": '{"checkpoints": NaN}',
    "entries": '{"checkpoints": {"a": 1}}',
    "entry": '{"checkpoints": [7]}',
    "no epoch": '{"checkpoints": [{"file": "a.pth", "step": 1, "metrics": {}}]}',
    "a text epoch": '{"checkpoints": [{"file": "a.pth", "epoch": "1", "step": 1, "metrics": {}}]}',
    "metrics": '{"checkpoints": [{"file": "a.pth", "epoch": 1, "step": 1, "metrics": []}]}',
    "best": '{"checkpoints": [], "best": "a.pth"}',
    "direction": '{"checkpoints": [], "best": {"metric": "m", "direction": "up"}}',
    "outside": '{"checkpoints": [{"file": "../../x.pth", "epoch": 1, "step": 1, "metrics": {}}]}',
    "absolute": '{"checkpoints": [{"file": "/x.pth", "epoch": 1, "step": 1, "metrics": {}}]}',
}


@pytest.mark.parametrize("name", INDEXES)
def test_a_damaged_index_is_an_error_of_data_wherever_a_checkpoint_is_asked_for(
    tmp_path: Path, name: str
) -> None:
    folder = job_folder(tmp_path, "t", "train")
    (tmp_path / "x.pth").write_bytes(b"outside")
    (folder / "train/checkpoints.json").write_text(INDEXES[name])
    index = CheckpointIndex(folder / "train")
    job = Job(folder)
    for call in (
        index.read,
        index.select,
        job.best_checkpoint,
        lambda: index.thin(1),
        lambda: outputs_of("t", tmp_path),
    ):
        with pytest.raises(DataError, match="the checkpoint index cannot be read"):
            call()
    assert answers.status(job)["state"] == "COMPLETE" and job.metrics() == {}


def test_a_link_that_leads_out_of_its_folder_is_no_checkpoint(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "t", "train")
    index = add_checkpoints(folder, [0.1, 0.9])
    outside = tmp_path / "outside.pth"
    (folder / "train/model_epoch_001.pth").rename(outside)
    (folder / "train/model_epoch_001.pth").symlink_to(outside)
    assert index.select("best").name == "model_epoch_000.pth" and "leads out" in index.notices[0]
    (folder / "train/checkpoints.json").unlink()
    (folder / "train/model_epoch_000.pth").unlink()
    with pytest.raises(CheckpointError, match="leads out"):
        outputs_of("t", tmp_path).model("best")


@pytest.mark.parametrize("child", ["../../x", "t", 7, None, "a1.\\u202e"])
def test_the_best_trial_is_a_trial_of_the_study(tmp_path: Path, child: Any) -> None:
    folder = job_folder(tmp_path, "a1", "train", kind="automl")
    (folder / "automl").mkdir()
    (folder / "automl/best.json").write_text(json.dumps({"child": child}))
    with pytest.raises(MaeError):
        best_child(Root(tmp_path), "a1")
    assert answers.status(Job(folder))["state"] == "COMPLETE"


LINES = [
    '{"status": "RUNNING", "epoch": 0, "kpi": {"loss": 0.5}}',
    '{"status": "RUNNING", "epoch": 1, "kpi": {"lo',
    '{"status": "RUNNING", "epoch": "two", "kpi": {"loss": 0.1}}',
    '{"status": "RUNNING", "epoch": 2, "kpi": ["loss"]}',
    '{"status": 5, "epoch": 3.5, "kpi": {"loss": {"deep": []}}}',
    '{"status": "RUNNING", "epoch": 4, "step": [], "kpi": {"loss": 1e400}}',
    '{"status": "RUNNING", "epoch": true, "kpi": 7}',
    DEEP,
    "\x00\xff",
    "7",
]


def test_strange_lines_of_a_status_file_are_passed_over(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "t", "train")
    (folder / "status.json").write_text("\n".join(LINES))
    add_checkpoints(folder, [0.5])
    job = Job(folder)
    assert job.history()[0]["loss"] == 0.5
    json.dumps([answers.status(job), answers.metrics(job), answers.show(job)])
    assert Skill().jobs(tmp_path)[0].state == "COMPLETE"
