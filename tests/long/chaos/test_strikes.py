"""Training, studies and machines that are struck at random: nothing is lost, and what comes out is
what a run that was left alone gives, to the bit."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk import job as jobs
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_skill.errors import MaeError, UsageError

from tests.support.callers import Caller
from tests.support.jobs import wait_until
from tests.support.s3 import MotoServer, environment
from tests.support.training import PLAIN, digits_folder

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.timeout(1800)
def test_two_hundred_strikes_on_training_leave_every_field_of_every_run_as_it_was(
    tmp_path: Path,
) -> None:
    strikes, module = 0, "tests.support.strikes"
    for seed in range(10):
        done = subprocess.run(
            [sys.executable, "-m", module, str(tmp_path / str(seed)), "30", str(seed)],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["different"] == []
        strikes += sum(report["strikes"].values())
        shutil.rmtree(tmp_path / str(seed))
        if strikes >= 200:
            break
    assert strikes >= 200


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def of_study(root: Path) -> dict[str, list[int]]:
    """What runs of a study: its controller, supervisors and runners; not its warm runner."""
    found: dict[str, list[int]] = {"controller": [], "supervisor": [], "runner": []}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        command = command_of(pid)
        if b"mae_sdk.automl.controller" in command and str(root).encode() in command:
            found["controller"].append(pid)
        elif b"mae_sdk.run.supervisor" in command and str(root).encode() in command:
            found["supervisor"].append(pid)
        elif b"mae_runners.warm" in command and b"mae_runners.warm" in command_of(parent_of(pid)):
            found["runner"].append(pid)  # a fork
    return found


def table(study: Job) -> list[tuple[str, ...]]:
    """The trials with their values, to the last digit."""
    with (study.folder / "automl" / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    clock = ("seconds", "duration", "started", "ended", "child", "datetime")
    names = [name for name in rows[0] if not any(word in name for word in clock)]
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_strikes_on_a_study_change_no_row_of_its_table(tmp_path: Path, seed: int) -> None:
    data = digits_folder(tmp_path / "digits", per_class=4)
    chance, skill = random.Random(seed), Skill()
    overrides: dict[str, Any] = {
        **PLAIN,
        "model.arch": "vit_tiny_patch16",
        "model.embed_dim": 32,
        "model.depth": 2,
        "model.num_heads": 2,
        "dataset.augmentation.input_size": 64,
        "dataset.batch_size": 4,
        "dataset.num_workers_per_gpu": 0,
        "train.stage": "finetune",
        "model.num_classes": 3,
        "train.num_epochs": 3,
        "train.accelerator": "cpu",
    }

    def study(name: str) -> Job:
        return skill.create_job(
            "train",
            train_datasets=str(data),
            eval_dataset=str(data),
            spec_overrides=overrides,
            automl={"max_trials": 4, "pruner": "none", "sampler": "random", "seed": 5},
            results_root=str(tmp_path / name),
        )

    calm = study("calm").wait(600)
    struck = study("struck")
    strikes = 0
    while struck.state != "COMPLETE":
        if struck.state in ("ERROR", "CANCELED") or struck.preempted:
            struck.resume()
        time.sleep(0.2 + 1.5 * chance.random())
        victims = of_study(tmp_path / "struck")
        kind = chance.choice(["runner", "runner", "supervisor", "controller"])
        if strikes < 12 and victims[kind]:
            try:
                os.kill(chance.choice(victims[kind]), signal.SIGKILL)
                strikes += 1
            except ProcessLookupError:
                continue
    assert strikes >= 3 and table(struck) == table(calm)
    for job in skill.jobs(tmp_path / "struck", all=True):
        if "." in job.id:
            assert [row["epoch"] for row in job.history()] == [0, 1, 2], job.id
    assert not list((tmp_path / "struck").rglob("*.part"))


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    with MotoServer() as found:
        yield found


HOST = """
import os, socket
if "FAKE_HOST" in os.environ:
    socket.gethostname = lambda: os.environ["FAKE_HOST"]
"""
CALL = """
import json, sys
from mae_sdk import Skill
bundle, options = json.loads(sys.argv[1])
Skill(bundle).create_job("train", **options).wait(100)
"""
MACHINES = int(os.environ.get("MAE_TEST_MACHINES", "60"))


def lose(scratch: Path) -> None:
    """A machine goes: every process of it, and its disk."""
    needle = f"MAE_SCRATCH={scratch}".encode()
    for _ in range(2):
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and needle in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
    shutil.rmtree(scratch, ignore_errors=True)


def finish(caller: Caller) -> Job:
    """From another machine: the same call, and a resume of what was begun, until it is done."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job = caller.calls()
        state = job.state
        if state == "COMPLETE":
            return job
        if state in ("ERROR", "UNKNOWN", "CANCELED") or job.preempted:
            try:
                job.resume()
            except UsageError:
                time.sleep(0.3)
        try:
            job.wait(5)
        except MaeError:
            time.sleep(0.3)
    raise AssertionError(f"lost: {job.id} is {job.state}")


@pytest.mark.timeout(1800)
def test_sixty_lost_machines_lose_no_job(
    tmp_path: Path, server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setattr(records, "STALE_SECONDS", 3.0)
    monkeypatch.setattr(jobs, "_NEVER_LAUNCHED_SECONDS", 3.0)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(HOST)
    chance, lost = random.Random(3), 0
    with environment({**server.env, "MAE_SYNC_SECONDS": "0.2"}):
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("machines")
        caller = Caller(tmp_path, "s3://machines/results")
        caller.options["spec_overrides"] = {"train.fault": "slow"}
        for number in range(MACHINES):
            caller.options["idempotency_key"] = f"machine {number}"
            scratch = tmp_path / f"scratch-{number}"
            arguments = json.dumps([str(caller.bundle), caller.options])
            process = subprocess.Popen(
                [sys.executable, "-c", CALL, arguments],
                env={
                    **os.environ,
                    "MAE_SCRATCH": str(scratch),
                    "FAKE_HOST": f"node{number}",
                    "PYTHONPATH": f"{tmp_path}/site",
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            # From the moment when it has a folder, a job, or a job that runs.
            sign = ("", "*/train-*/job.json", "*/train-*/status.json")[number % 3]

            def begun(sign: str = sign, scratch: Path = scratch) -> bool:
                return scratch.exists() and bool(not sign or list(scratch.glob(sign)))

            wait_until(lambda: begun() or process.poll() is not None, 60)  # noqa: B023
            time.sleep(chance.random() * 1.0)
            lose(scratch)
            process.wait()
            with environment({"MAE_SCRATCH": str(tmp_path / f"other-{number}")}):
                job = finish(caller)
                attempts = job.record["attempts"]
                lost += len(attempts) > 1
                assert sum(a["state"] == "COMPLETE" for a in attempts) == 1, attempts
                assert job.best_checkpoint().read_text() == "weights\n"
                shutil.rmtree(tmp_path / f"other-{number}", ignore_errors=True)
    print(f"{MACHINES} machines lost, {lost} jobs resumed, 0 jobs lost")
