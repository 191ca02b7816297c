"""A supervisor whose job runs elsewhere by now, or is removed, ends, and its runner with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mae_sdk.jobs import records, sync
from mae_sdk.run import slurm, supervisor
from mae_sdk.run.process import identify, is_alive
from mae_sdk.storage import transfer
from mae_skill.errors import StorageError

from tests.support.jobs import start, wait_until, write


def runner_of(tmp_path: Path) -> str:
    """A command that runs until it is told to save."""
    return f"trap 'exit 75' TERM; echo $$ > {tmp_path}/pid; touch {tmp_path}/up; sleep 99 & wait"


def runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def take_over(record: records.JobRecord) -> None:
    """What a start of the job on another node writes, once its first one was silent for long."""
    handle = {"job": "7"}
    records.last_attempt(record)["handle"] = handle
    records.advance(record, records.PREEMPTED, "started again by its platform")
    records.new_attempt(record, records.AFTER_PREEMPTION)["handle"] = handle
    records.advance(record, records.RUNNING, process={**identify(), "host": "n2"})


@pytest.mark.parametrize("told", [False, True])
def test_a_batch_script_whose_job_runs_elsewhere_by_now_does_not_queue_it_again(
    tmp_path: Path, told: bool
) -> None:
    folder = write(tmp_path, runner_of(tmp_path), platform="slurm")
    programs = tmp_path / "bin"
    programs.mkdir()
    asked = programs / "asked"
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (programs / "scontrol").chmod(0o755)
    (tmp_path / "batch.sh").write_text(slurm.script(folder, {}))
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    with subprocess.Popen(["bash", str(tmp_path / "batch.sh")], env=environment) as script:
        wait_until((tmp_path / "up").exists)
        process = records.last_attempt(records.read_record(folder))["process"]
        assert process is not None
        os.kill(process["pid"], signal.SIGSTOP)  # its node is silent
        records.update_record(folder, take_over)
        before = (folder / "job.json").read_bytes()
        if told:
            script.send_signal(signal.SIGTERM)
        os.kill(process["pid"], signal.SIGCONT)
        assert script.wait(30) == 0
    assert not asked.exists()
    assert (folder / "job.json").read_bytes() == before
    assert not runs(int((tmp_path / "pid").read_text()))


def test_a_batch_script_whose_job_has_saved_queues_it_again(tmp_path: Path) -> None:
    folder = write(tmp_path, runner_of(tmp_path), platform="slurm")
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "batch.sh").write_text(slurm.script(folder, {}))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    with subprocess.Popen(["bash", str(tmp_path / "batch.sh")], env=environment) as script:
        wait_until((tmp_path / "up").exists)
        script.send_signal(signal.SIGTERM)
        assert script.wait(30) == 75
    assert (tmp_path / "asked").read_text() == "requeue 7\n"


def test_a_job_whose_folder_is_removed_while_it_runs_ends_and_leaves_no_orphan(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path, runner_of(tmp_path))
    command = [sys.executable, "-m", "mae_sdk.run.supervisor", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until((tmp_path / "up").exists)
        shutil.rmtree(folder)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 6 and "its folder was removed" in said
    assert "Traceback" not in said
    assert not folder.exists()
    assert not runs(int((tmp_path / "pid").read_text()))


def test_a_run_that_fails_as_its_folder_is_removed_leaves_no_orphan(tmp_path: Path) -> None:
    job = start(tmp_path, f"touch {tmp_path}/up; while [ -e job.json ]; do :; done; exit 3")
    wait_until((tmp_path / "up").exists)
    process = records.last_attempt(job.record)["process"]
    assert process is not None
    shutil.rmtree(job.folder)
    wait_until(lambda: not is_alive(process))
    assert not job.folder.exists()


def test_a_record_that_cannot_be_read_for_now_is_no_removed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, "true")
    supervisor._check_ours(folder, 1)

    def away(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(records.files, "read_small", away)
    supervisor._check_ours(folder, 1)
    monkeypatch.undo()
    (folder / "job.json").unlink()
    with pytest.raises(supervisor._NoLongerOursError, match="removed"):
        supervisor._check_ours(folder, 1)


def test_a_job_that_is_removed_behind_its_url_ends_and_is_not_copied_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_SYNC_SECONDS", "0.1")
    url = f"memory://{tmp_path.name}/job"
    folder = write(tmp_path, runner_of(tmp_path), remote=url)

    def remove() -> None:
        wait_until((tmp_path / "up").exists)
        wait_until(lambda: transfer.exists(f"{url}/job.json"))
        for name in transfer.list_files(url):
            transfer.delete(f"{url}/{name}")

    remover = threading.Thread(target=remove)
    remover.start()
    assert supervisor.supervise(folder) == 6
    remover.join()
    assert not transfer.list_files(url)
    assert not runs(int((tmp_path / "pid").read_text()))


def test_a_store_that_does_not_answer_has_not_removed_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{tmp_path.name}/job"
    follower = sync.FolderSync(write(tmp_path, "true"), url, seconds=0.05)
    wait_until(lambda: transfer.exists(f"{url}/job.json"))
    asked = threading.Event()

    def away(url: str) -> bool:
        asked.set()
        raise StorageError("the store does not answer", retryable=True)

    with monkeypatch.context() as patch:
        patch.setattr(sync.transfer, "exists", away)
        wait_until(asked.is_set)
        assert not follower.removed.is_set() and not follower.displaced.is_set()
    follower.finish()
    assert not follower.removed.is_set()


def test_a_working_copy_that_is_removed_takes_nothing_from_its_url(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/job"
    folder = write(tmp_path, "true")
    (folder / "weights.pth").write_bytes(b"weights")
    follower = sync.FolderSync(folder, url, seconds=0.05)
    wait_until(lambda: transfer.exists(f"{url}/job.json"))
    shutil.rmtree(folder)
    wait_until(follower.displaced.is_set)
    assert transfer.exists(f"{url}/weights.pth") and not folder.exists()
