"""A job's state is true, though who ran it died, is a zombie, or runs on another host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.run.process import identify, is_alive
from mae_skill.errors import StorageError, UsageError

from tests.support.jobs import start, wait_until, write


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield process
    process.kill()
    process.wait()


def running(root: Path, identity: dict[str, Any]) -> Job:
    """A job whose record says that this process runs it."""
    folder = write(root, "true")
    records.update_record(
        folder, lambda record: (records.advance(record, "RUNNING", process=identity), None)[1]
    )
    records.beat(folder)
    return Job(folder)


@pytest.mark.parametrize(
    ("change", "alive"),
    [
        ({}, True),
        ({"boot_id": "another boot of this machine"}, False),
        ({"start_time": "1"}, False),
        ({"pid": 2**22 - 7}, False),
        ({"host": "elsewhere"}, None),
        ({"pid_namespace": "pid:[1]"}, None),
    ],
)
def test_a_process_is_known_again_by_host_boot_and_start(
    sleeper: Any, tmp_path: Path, change: dict[str, Any], alive: bool | None
) -> None:
    identity = {**identify(sleeper.pid), **change}
    assert is_alive(identity) is alive
    job = running(tmp_path, identity)
    assert job.state == ("ERROR" if alive is False else "RUNNING")
    if alive is False:
        assert (
            job.record["error"]["category"] == "lost_process"
            and "resume" in job.record["error"]["hint"]
        )


def test_a_zombie_does_not_run(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    try:
        identity = identify(process.pid)
        wait_until(
            lambda: is_alive(identity) is False
        )  # nobody has waited for it: the pid is still there
        assert Path(f"/proc/{process.pid}").exists()
        assert running(tmp_path, identity).state == "ERROR"
    finally:
        process.wait()


def test_a_run_of_another_host_is_unknown_once_its_heartbeat_is_old_and_is_never_judged_from_here(
    sleeper: Any, tmp_path: Path
) -> None:
    job = running(tmp_path, {**identify(sleeper.pid), "host": "elsewhere"})
    assert job.state == "RUNNING"
    old = time.time() - 2 * records.STALE_SECONDS
    os.utime(job.folder / records.HEARTBEAT_NAME, (old, old))
    assert job.state == "UNKNOWN"
    with pytest.raises(UsageError, match="--lost"):
        job.resume()
    assert (
        records.last_attempt(records.read_record(job.folder))["state"] == "RUNNING"
    )  # nothing was written
    job.resume(lost=True).wait(20)
    attempts = job.record["attempts"]
    assert [attempt["state"] for attempt in attempts] == ["ERROR", "COMPLETE"] and attempts[0][
        "failure"
    ]["category"] == "lost_process"


def test_a_wait_for_a_machine_that_is_out_of_sight_ends(
    sleeper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mae_sdk.cli.live import follow

    job = running(tmp_path, {**identify(sleeper.pid), "host": "elsewhere"})
    old = time.time() - 2 * records.STALE_SECONDS
    os.utime(job.folder / records.HEARTBEAT_NAME, (old, old))
    monkeypatch.setattr("mae_sdk.job._UNSEEN_SECONDS", 0.5)
    for call in (lambda: Job(job.folder).wait(), lambda: follow(job, as_json=False)):
        with pytest.raises(StorageError, match="has not shown itself") as caught:
            call()
    assert "--lost" in str(caught.value.hint) and job.state == "UNKNOWN"


def test_a_job_that_nobody_launched_does_not_wait_for_ever(tmp_path: Path) -> None:
    job = Job(write(tmp_path, "true"))
    assert job.state == "PENDING"
    old = time.time() - 3600
    os.utime(job.folder / records.RECORD_NAME, (old, old))
    assert job.state == "ERROR" and "never launched" in job.record["error"]["message"]


def test_states_only_move_forward() -> None:
    record: dict[str, Any] = {}
    records.new_attempt(record)
    assert records.advance(record, "RUNNING") and not records.advance(record, "RUNNING")
    assert records.advance(record, "CANCELED")
    for state in ("RUNNING", "COMPLETE", "ERROR"):
        assert not records.advance(record, state)
    assert records.state_of(record) == "CANCELED" and [
        step["state"] for step in record["attempts"][0]["transitions"]
    ] == [
        "PENDING",
        "RUNNING",
        "CANCELED",
    ]
    records.new_attempt(record)
    assert records.state_of(record) == "PENDING" and record["attempts"][0]["state"] == "CANCELED"


def test_an_observer_that_dies_is_replaced_by_any_other(tmp_path: Path) -> None:
    """The caller ends at once; the job goes on and another process waits for it."""
    script = (
        "import sys; from pathlib import Path; from tests.support.jobs import start; "
        "start(Path(sys.argv[1]), 'sleep 0.5')"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, cwd=Path(__file__).parents[2]
    )
    assert Job(tmp_path / "job").wait(60).state == "COMPLETE"
    assert start(tmp_path, "true", name="other").wait(60).state == "COMPLETE"
