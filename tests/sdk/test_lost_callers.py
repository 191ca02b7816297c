"""A job whose caller or machine is lost before it runs is launched by whoever comes next, or ends
in ERROR with the reason: it is never PENDING for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk import job as jobs
from mae_sdk.jobs import records, sync
from mae_sdk.jobs.root import Root
from mae_sdk.run.process import identify
from mae_sdk.storage import transfer
from mae_skill.errors import JobFailedError, StorageError, UsageError

from tests.support.callers import Caller, lose_the_machine
from tests.support.jobs import wait_until
from tests.support.s3 import MotoServer, environment, fresh_bucket


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    with MotoServer() as found:
        yield found


@pytest.fixture
def root(server: MotoServer, request: pytest.FixtureRequest) -> Iterator[str]:
    with fresh_bucket(server, request.node.name) as bucket:
        yield f"{bucket}/results"


@pytest.fixture
def caller(tmp_path: Path, root: str) -> Caller:
    return Caller(tmp_path, root)


def test_the_same_key_launches_what_killed_callers_had_only_claimed(caller: Caller) -> None:
    for place in ("claimed", "taken over"):
        caller.dies(place)
    job = caller.calls().wait(60)
    assert job.state == "COMPLETE" and [a["number"] for a in job.record["attempts"]] == [1]
    assert (job.folder / "spec.yaml").exists()
    assert list(job.folder.parent.glob(".*")) == [], "nothing of the killed callers is left"


def test_a_local_job_that_was_written_and_not_started_is_started_by_the_same_key(
    tmp_path: Path,
) -> None:
    caller = Caller(tmp_path, str(tmp_path / "local"))
    caller.dies("written")
    assert caller.calls().wait(60).state == "COMPLETE"


def test_a_machine_that_is_lost_before_it_launched_is_waited_for_and_then_given_up(
    caller: Caller, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.dies("claimed")
    job_id = lose_the_machine(root)
    job = caller.calls()
    assert job.id == job_id and job.state == "PENDING"
    assert not job.folder.exists(), "it may yet be launched over there"
    with pytest.raises(UsageError, match="PENDING elsewhere"):
        job.resume()

    monkeypatch.setattr(jobs, "_NEVER_LAUNCHED_SECONDS", 1.0)
    with pytest.raises(JobFailedError, match="never launched"):
        job.wait(30)
    assert "claimed" not in job.record and job.record["error"]
    resumed = job.resume().wait(60)
    assert [a["state"] for a in resumed.record["attempts"]] == ["ERROR", "COMPLETE"]
    assert (resumed.folder / "spec.yaml").exists(), "it came with the claim"
    assert wait_until(lambda: transfer.exists(f"{root}/{job_id}/spec.yaml"))


def test_a_scratch_folder_that_cannot_be_written_claims_nothing(
    caller: Caller, root: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with environment({"MAE_SCRATCH": str(tmp_path / "file")}), pytest.raises(StorageError):
        caller.calls()
    assert Root(root).ids() == []
    assert caller.calls().wait(60).state == "COMPLETE"


def test_of_many_that_take_a_job_over_one_succeeds(caller: Caller, root: str) -> None:
    caller.dies("claimed")
    url = f"{root}/{Root(root).ids()[0]}"
    seen = json.loads(transfer.read_bytes(f"{url}/job.json"))

    def take(number: int) -> bool:
        return sync.take_over(url, seen, identify(), lambda process: False, None)

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(take, range(6))) == 1
    assert not take(7), "the winner has time to launch it"


def test_a_run_that_was_given_up_stops_when_it_finds_that_out_and_overwrites_nothing(
    caller: Caller, root: str
) -> None:
    caller.options["spec_overrides"] = {"train.fault": "once"}
    caller.dies("written")
    (job_id,) = Root(root).ids()
    url = f"{root}/{job_id}/job.json"
    there = {**json.loads(transfer.read_bytes(url)), "claim": "of another machine"}
    transfer.write_bytes(url, json.dumps(there).encode())

    folder = Root(root).work_dir(job_id)
    from mae_sdk.run.platform import submit

    submit(folder)
    here = jobs.Job(folder)
    with pytest.raises(JobFailedError, match="another machine has taken"):
        here.wait(60)
    assert json.loads(transfer.read_bytes(url)) == there
    assert Skill(caller.bundle).job(job_id, root).record["claim"] == "of another machine"


@pytest.mark.parametrize("later", [False, True])
def test_a_job_that_a_platform_refuses_stays_with_its_reason_where_it_may_be_taken_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    from mae_sdk.run.local import LocalPlatform
    from mae_skill.errors import UsageError as Refusal

    def refuse(*args: Any) -> None:
        raise Refusal("no such partition", field="partition", got="gpu", retryable=later)

    caller = Caller(tmp_path, str(tmp_path / "local"))
    with monkeypatch.context() as patch:
        patch.setattr(LocalPlatform, "submit", refuse)
        with pytest.raises(Refusal):
            caller.calls()
    jobs = Skill(caller.bundle).jobs(results_root=tmp_path / "local")
    if not later:
        assert jobs == [] and not [*(tmp_path / "local").glob("train-*")]
        return
    (job,) = jobs
    problem = job.record["error"]
    assert (
        job.state == "ERROR" and problem is not None and "no such partition" in problem["message"]
    )
    assert problem["category"] == "spec" and problem["error"]["field"] == "partition"
    assert job.resume().wait(60).state == "COMPLETE"


def test_records_are_never_written_by_who_only_looks(caller: Caller, root: str) -> None:
    caller.dies("claimed")
    url = f"{root}/{Root(root).ids()[0]}"
    before = transfer.read_bytes(f"{url}/job.json")
    (job,) = Skill(caller.bundle).jobs(results_root=root)
    assert job.state == "ERROR" and records.last_attempt(job.record)["state"] == "ERROR"
    assert transfer.read_bytes(f"{url}/job.json") == before
    assert not job.folder.exists()
