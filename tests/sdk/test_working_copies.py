"""Working copies of jobs behind a URL go when all of them is there, and not before."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mae_sdk import Skill, answers
from mae_sdk.jobs import records, sync, working_copies
from mae_sdk.jobs.root import Root
from mae_sdk.run.platform import submit
from mae_sdk.storage import transfer

from tests.support.folders import job_folder
from tests.support.s3 import MotoServer, fresh_bucket


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    with MotoServer() as found:
        yield found


@pytest.fixture
def url(
    server: MotoServer,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    with fresh_bucket(server, request.node.name) as bucket:
        yield f"{bucket}/r"


def copy(url: str, name: str, state: str = records.COMPLETE, parent: str | None = None) -> Path:
    """A working copy with a model of 1,000 bytes, whole behind its URL."""
    base = Root(url).work_dir(name).parent
    launch = {"command": ["true"], "remote": f"{url}/{name}"}
    folder = job_folder(base, name, "train", launch=launch)
    (folder / "train").mkdir(exist_ok=True)
    (folder / "train/model.pth").write_bytes(b"x" * 1000)

    def end(record: records.JobRecord) -> None:
        record["parent"] = parent
        records.last_attempt(record)["state"] = state

    records.update_record(folder, end)
    sync.push(folder, f"{url}/{name}")
    return folder


def test_what_is_whole_behind_its_url_goes_and_is_read_there(url: str) -> None:
    done, failed = copy(url, "train-done"), copy(url, "train-failed", records.ERROR)
    assert answers.cache()["working_copies_bytes"] > 2000
    assert answers.clear_cache()["freed_bytes"] > 1000
    assert not done.exists() and failed.exists()
    job = Skill().job("train-done", url)
    assert (job.state, job._here) == ("COMPLETE", False)  # type: ignore[attr-defined]
    assert job._bytes("train/model.pth") == b"x" * 1000


def test_what_is_not_whole_there_stays(url: str) -> None:
    lost, cut, unsaid = (copy(url, f"train-{name}") for name in ("lost", "cut", "unsaid"))
    transfer.delete(f"{url}/train-lost/train/model.pth")
    transfer.write_bytes(f"{url}/train-cut/train/model.pth", b"x")
    there = transfer.read_bytes(f"{url}/train-unsaid/job.json").replace(b"COMPLETE", b"RUNNING")
    transfer.write_bytes(f"{url}/train-unsaid/job.json", there)
    assert working_copies.clear() == 0
    assert lost.exists() and cut.exists() and unsaid.exists()


def test_a_model_that_an_unfinished_job_took_stays_and_a_trial_goes_with_its_study(
    url: str,
) -> None:
    parent, child = copy(url, "train-a"), copy(url, "train-b", records.ERROR, parent="train-a")
    study, trial = copy(url, "train-s", records.ERROR), copy(url, "train-s.t000")
    working_copies.clear()
    assert parent.exists() and child.exists() and study.exists() and trial.exists()
    for folder in (child, study):
        name = folder.name
        records.update_record(
            folder, lambda record: records.last_attempt(record).update(state=records.COMPLETE)
        )
        sync.push(folder, f"{url}/{name}")
    working_copies.clear()
    assert not [one for one in (parent, child, study, trial) if one.exists()]


def test_the_end_of_a_job_removes_copies_that_are_older_than_a_day(url: str) -> None:
    old, new = copy(url, "train-old"), copy(url, "train-new")
    before = time.time() - working_copies.KEPT_SECONDS - 60
    os.utime(old / records.RECORD_NAME, (before, before))
    mine = copy(url, "train-mine", records.PENDING)
    assert submit(mine)
    deadline = time.monotonic() + 60
    while old.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not old.exists() and new.exists() and mine.exists()
    assert Skill().job("train-mine", url).wait(30).state == "COMPLETE"
