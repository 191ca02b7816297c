"""Jobs that share one machine: a device belongs to one of them at a time, and cores are divided."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from mae_sdk.run.devices import CoreShare
from mae_skill.errors import JobFailedError

from tests.support.jobs import start, wait_until

# Notes which devices it holds; a device that another job holds at the same time leaves a mark.
USE = """
for device in $(echo $CUDA_VISIBLE_DEVICES | tr , ' '); do
  mkdir {place}/busy-$device || touch {place}/clash
done
echo $CUDA_VISIBLE_DEVICES >> {place}/used; sleep 0.3
for device in $(echo $CUDA_VISIBLE_DEVICES | tr , ' '); do rmdir {place}/busy-$device; done
"""


@pytest.fixture(autouse=True)
def free_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


def test_a_device_belongs_to_one_job_at_a_time_and_all_jobs_get_theirs(tmp_path: Path) -> None:
    command = USE.format(place=tmp_path)
    wanted = [1, 2, 1, 1, 2]
    jobs = [
        start(tmp_path / "r", command, name=f"j{number}", devices=["0", "1"], device_count=count)
        for number, count in enumerate(wanted)
    ]
    for job in jobs:
        job.wait(60)
    assert not (tmp_path / "clash").exists()
    assert sorted(
        len(line.split(",")) for line in (tmp_path / "used").read_text().split()
    ) == sorted(wanted)


def test_a_job_that_waits_for_a_device_can_be_canceled_and_a_killed_holder_gives_it_back(
    tmp_path: Path,
) -> None:
    holder = start(
        tmp_path,
        "touch held; exec sleep 100",
        name="holder",
        devices=["7"],
        device_count=1,
        cwd=str(tmp_path),
    )
    wait_until((tmp_path / "held").exists)
    waiting = start(tmp_path, "true", name="waiting", devices=["7"], device_count=1)
    after = start(
        tmp_path, "echo device $CUDA_VISIBLE_DEVICES", name="after", devices=["7"], device_count=1
    )
    assert waiting.cancel(30) == "CANCELED" and after.state == "PENDING"
    os.kill(holder.record["attempts"][-1]["process"]["pid"], signal.SIGKILL)
    with pytest.raises(JobFailedError):
        holder.wait(30)
    assert "device 7" in after.wait(30).logs()


def test_jobs_on_the_cpu_divide_the_cores_unless_the_user_said_how_many_threads(
    tmp_path: Path,
) -> None:
    ask = "echo threads ${OMP_NUM_THREADS:-free} ${OMP_WAIT_POLICY:-busy}; "
    alone = start(tmp_path, ask, name="alone").wait(30)
    assert "threads free PASSIVE" in alone.logs()
    first = start(tmp_path, ask + "touch up; exec sleep 100", name="first", cwd=str(tmp_path))
    wait_until((tmp_path / "up").exists)
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    beside = start(tmp_path, ask + "exit 1", name="beside")
    with pytest.raises(JobFailedError):
        beside.wait(30)
    assert f"threads {share} PASSIVE" in beside.logs()
    told = start(
        tmp_path, ask, name="told", env={"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    ).wait(30)
    assert "threads 3 ACTIVE" in told.logs()
    first.cancel(30)
    with pytest.raises(
        JobFailedError
    ):  # the same number as its first attempt, so that it computes the same
        beside.resume().wait(30)
    assert beside.logs().count(f"threads {share} PASSIVE") == 2


def test_every_process_of_a_job_counts(tmp_path: Path) -> None:
    share = CoreShare(2).join()
    try:
        assert share.settings({}) == {
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2)),
        }
    finally:
        share.release()
    assert [path.name for path in share.folder.iterdir()] == [".lock"]
