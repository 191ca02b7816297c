"""File systems that are full, have no locks, or are shared: said by name, and nothing is lost."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, files
from mae_sdk.data import cache
from mae_sdk.jobs import records
from mae_sdk.run import process_group, supervisor
from mae_skill.errors import JobFailedError

from tests.support.images import make_tarball, write_imagefolder
from tests.support.jobs import start, wait_until, write
from tests.support.locks import held_by_another
from tests.support.toy_bundle.make import write_bundle

NO_FLOCK = """
import errno, fcntl
def flock(descriptor, operation):
    raise OSError(errno.{name}, "no locks here")
fcntl.flock = flock
"""


@pytest.fixture(params=["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def no_flock(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``flock`` fails in this process and in every Python that it starts."""
    code = NO_FLOCK.format(name=request.param)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(getattr(errno, request.param), "no locks here")

    monkeypatch.setattr(files.fcntl, "flock", flock)


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_lock_keeps_others_out_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_by_another(path):
        assert files.in_use(path)
        with pytest.raises(BlockingIOError), files.locked(path, wait=False):
            pass
    with files.locked(path), pytest.raises(BlockingIOError):
        files.lock(path, wait=False)
    assert not files.in_use(path)
    assert [entry.name for entry in tmp_path.iterdir() if "holder" in entry.name] == []


@pytest.mark.parametrize("no_flock", ["ENOLCK"], indirect=True)
def test_without_flock_a_holder_on_another_machine_is_named(
    tmp_path: Path, no_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LINK_SECONDS", 0.2)
    (tmp_path / ".lock.holder").symlink_to("node7/boot/net:41:mae-0123")
    with pytest.raises(OSError, match=r"process 41 on node7 .* remove .*lock\.holder") as caught:
        files.lock(tmp_path / "lock")
    assert caught.value.errno == errno.ENOLCK
    (tmp_path / ".lock.holder").unlink()

    def refuse(self: Path, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(OSError, match="neither locks"):
        files.lock(tmp_path / "lock")


@pytest.mark.parametrize("no_flock", ["EOPNOTSUPP"], indirect=True)
def test_without_flock_jobs_and_the_cache_work(tmp_path: Path, no_flock: None) -> None:
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    skill = Skill(write_bundle(tmp_path / "bundle"))
    root = str(tmp_path / "results")
    job = skill.create_job(
        "train", train_datasets=str(data), automl_policy="off", results_root=root
    )
    assert job.wait(30).state == "COMPLETE"
    jobs = [start(tmp_path, "sleep 0.1", name=f"j{number}") for number in range(3)]
    assert [job.wait(30).state for job in jobs] == ["COMPLETE"] * 3
    archive = make_tarball(data, tmp_path / "a.tar.gz")
    assert cache.pack_of(str(archive)).names and cache.clear_cache() > 0


class FullDisk:
    """Every file that is replaced fails, until the kept room is given back and longer."""

    def __init__(self, patch: pytest.MonkeyPatch, job_dir: Path, seconds: float) -> None:
        self.job_dir, self.seconds = job_dir, seconds
        self.given: float | None = None
        self.refused = 0
        whole = files.write_json

        def write_json(path: Path, content: Any) -> None:
            if path.parent == job_dir and self.is_full():
                self.refused += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            whole(path, content)

        patch.setattr(files, "write_json", write_json)

    def is_full(self) -> bool:
        if not (self.job_dir / "full").exists():
            return False
        if not (self.job_dir / records.ROOM_NAME).exists() and self.given is None:
            self.given = time.monotonic()
        return self.given is None or time.monotonic() - self.given < self.seconds


def test_on_a_full_disk_the_true_reason_is_written_as_soon_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (
        f"touch {tmp_path}/job/full; echo 'OSError: [Errno 28] No space left on device'; exit 8"
    )
    folder = write(tmp_path, command)
    disk = FullDisk(monkeypatch, folder, seconds=0.5)
    assert supervisor.supervise(folder) == 8
    attempt = records.last_attempt(records.read_record(folder))
    assert disk.refused and attempt["state"] == "ERROR"
    assert attempt["failure"] is not None and attempt["failure"]["category"] == "storage"
    assert "No space left" in attempt["failure"]["message"]
    assert not (folder / records.ROOM_NAME).exists()


def test_a_log_on_a_full_disk_ends_no_run_and_its_last_words_are_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Log(process_group._Log):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.stream = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115

    monkeypatch.setattr(process_group, "_Log", Log)
    folder = write(tmp_path, "echo first; sleep 0.3; echo No space left on device; exit 1")
    assert supervisor.supervise(folder) == 1
    problem = records.last_attempt(records.read_record(folder))["failure"]
    assert problem is not None and problem["category"] == "storage"
    assert (folder / "log.txt").read_text() == "first\nNo space left on device\n"


def test_a_supervisor_that_a_full_disk_ended_is_not_just_gone(tmp_path: Path) -> None:
    job = start(tmp_path, "echo 'OSError: [Errno 28] No space left on device'; sleep 100")
    wait_until(lambda: "No space" in job.logs())
    process = records.last_attempt(records.read_record(job.folder))["process"]
    assert process is not None
    os.kill(process["pid"], 9)
    with pytest.raises(JobFailedError, match="No space left on device"):
        job.wait(30)
    error = job.record["error"]
    assert error is not None and error["category"] == "storage"


@pytest.mark.parametrize(
    ("umask", "folder_mode", "file_mode"), [(0o077, 0o700, 0o600), (0o002, 0o775, 0o664)]
)
def test_the_umask_of_the_caller_holds_for_everything_of_a_job(
    tmp_path: Path, umask: int, folder_mode: int, file_mode: int
) -> None:
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    skill, root = Skill(write_bundle(tmp_path / "bundle")), tmp_path / "results"
    before = os.umask(umask)
    try:
        skill.create_job(
            "train", train_datasets=str(data), results_root=str(root), automl_policy="off"
        ).wait(60)
    finally:
        os.umask(before)
    for path in [root, *root.rglob("*")]:
        wanted = folder_mode if path.is_dir() else file_mode
        assert oct(path.stat().st_mode & 0o777) == oct(wanted), path
