"""Something of the chain is killed thirty times: each job ends truly, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Job, Skill
from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.run.process import is_alive
from mae_skill.errors import MaeError

from tests.support.images import write_imagefolder
from tests.support.jobs import wait_until
from tests.support.toy_bundle.make import write_bundle

TRIALS = 3
TERMINAL = ("COMPLETE", "ERROR", "CANCELED")
CALLER = """
import json, sys
from mae_sdk import Skill
bundle, first, second = json.loads(sys.argv[1])
skill = Skill(bundle)
job = skill.create_job(**first).wait(120)
skill.create_job(parent_job_id=job.id, **second).wait(120)
"""


class Chain:
    """Train, then check, called from another process, with keys so that it can be called again.

    Args:
        bundle: None for the packaged one.
    """

    def __init__(
        self, base: Path, bundle: Path | None, train: dict[str, Any], second: dict[str, Any]
    ) -> None:
        self.root, self.bundle = base / "results", bundle
        self.first = {
            "action": "train",
            "results_root": str(self.root),
            "idempotency_key": "first",
            **train,
        }
        self.second = {"results_root": str(self.root), "idempotency_key": "second", **second}
        self.skill = Skill(bundle)

    def call(self) -> subprocess.Popen[bytes]:
        import json

        arguments = json.dumps(
            [None if self.bundle is None else str(self.bundle), self.first, self.second]
        )
        return subprocess.Popen(
            [sys.executable, "-c", CALLER, arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def jobs(self) -> list[Job]:
        return self.skill.jobs(results_root=self.root, all=True)

    def supervisors(self) -> list[int]:
        found = []
        for job in self.jobs():
            process = records.last_attempt(records.read_record(job.folder))["process"]
            if process and is_alive(process):
                found.append(int(process["pid"]))
        return found

    def runners(self, controllers: bool) -> list[int]:
        """Processes that runners are, or those that steer a study."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                environment = (
                    (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
                )
                command = (entry / "cmdline").read_bytes() if environment else b""
            except OSError:
                continue
            ours = any(
                item.startswith(f"MAE_JOB_DIR={self.root}/".encode()) for item in environment
            )
            if (
                ours
                and (b"automl.controller" in command) == controllers
                and b"mae_sdk.run.supervisor" not in command
            ):
                found.append(int(entry.name))
        return found

    def all_end(self) -> None:
        """Every job that was created is seen in a final state, and no process of any is left."""
        wait_until(lambda: all(job.state in TERMINAL for job in self.jobs()), 120)
        wait_until(
            lambda: not self.supervisors() and not self.runners(False) and not self.runners(True),
            30,
        )

    def finish(self) -> tuple[Job, Job]:
        """The same calls again; what did not complete is resumed."""
        train = self._complete(lambda: self.skill.create_job(**self.first))
        return train, self._complete(
            lambda: self.skill.create_job(parent_job_id=train.id, **self.second)
        )

    def _complete(self, create: Callable[[], Job]) -> Job:
        job = create()
        wait_until(lambda: job.state in TERMINAL, 120)
        return job if job.state == "COMPLETE" else job.resume().wait(120)


def strike(
    chain: Chain, victim: str, caller: subprocess.Popen[bytes], chance: random.Random, delay: float
) -> bool:
    """Kill one process of that kind at a random moment of its life; whether there was one."""
    find: dict[str, Callable[[], list[int]]] = {
        "caller": lambda: [caller.pid],
        "supervisor": chain.supervisors,
        "runner": lambda: chain.runners(False),
        "controller": lambda: chain.runners(True),
    }
    deadline = time.monotonic() + 60
    while not find[victim]():
        if caller.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    time.sleep(chance.random() * delay)
    alive = find[victim]()
    for pid in alive[:1]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
    return bool(alive)


def check_records(chain: Chain) -> None:
    for job in chain.jobs():
        record = records.read_record(job.folder)
        attempts = record["attempts"]
        assert [attempt["number"] for attempt in attempts] == list(range(1, len(attempts) + 1))
        assert all(records.is_terminal(attempt["state"]) for attempt in attempts)
        assert (
            sum(attempt["state"] == "COMPLETE" for attempt in attempts) <= 1
        )  # nothing that was done is done again
        for attempt in attempts:
            assert (
                attempt["state"] != "ERROR"
                or attempt["failure"]
                or "trial" in str(record.get("kind"))
            ), attempt
        for name in ("job.json", "spec.yaml"):
            assert (job.folder / name).stat().st_size > 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(26))
def test_whatever_is_killed_every_job_ends_truly_and_the_chain_completes(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    study = seed % 4 == 3
    victim = [
        "runner",
        "caller",
        "supervisor",
        chance.choice(["controller", "runner", "supervisor"]),
    ][seed % 4]
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    options: dict[str, Any] = {
        "train_datasets": str(tmp_path / "data"),
        "spec_overrides": {"train.fault": "slow"},
    }
    options |= (
        {"automl": {"max_trials": TRIALS, "pruner": "none"}} if study else {"automl_policy": "off"}
    )
    chain = Chain(
        tmp_path,
        write_bundle(tmp_path / "bundle"),
        options,
        {"action": "check", "spec_overrides": {"train.fault": "slow"}},
    )
    caller = chain.call()
    strike(chain, victim, caller, chance, 3.0 if study else 1.2)
    caller.wait(240)
    chain.all_end()
    check_records(chain)
    train, check = chain.finish()
    chain.all_end()
    check_records(chain)
    assert (train.state, check.state) == ("COMPLETE", "COMPLETE")
    assert train.best_checkpoint().read_text() == "weights\n"
    if study:
        trials = [job for job in chain.jobs() if job.id.startswith(f"{train.id}.")]
        assert sum(job.state == "COMPLETE" for job in trials) == TRIALS
        assert len(trials) == TRIALS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["runner", "supervisor", "caller", "late runner"])
def test_a_real_training_that_is_killed_goes_on_from_its_last_checkpoint(
    tmp_path: Path, victim: str
) -> None:
    data = write_imagefolder(tmp_path / "d", classes=2, per_class=24)
    overrides = {
        "arch": "vit_tiny_patch16",
        "image_size": 32,
        "batch_size": 8,
        "num_epochs": 4,
        "stage": "finetune",
        "num_classes": 2,
    }
    options = {
        "train_datasets": str(data),
        "spec_overrides": {**overrides, "train.accelerator": "cpu"},
        "automl_policy": "off",
    }
    chain = Chain(tmp_path, None, options, {"action": "evaluate", "eval_dataset": str(data)})
    caller = chain.call()
    if victim == "late runner":
        wait_until(lambda: list(chain.root.glob("*/train/checkpoints.json")), 120)
    struck = strike(chain, victim.removeprefix("late "), caller, random.Random(7), 0.2)
    if victim == "caller":
        time.sleep(1.0)
    before = [
        entry["epoch"]
        for job in chain.jobs()
        for entry in CheckpointIndex(job.folder / "train").read()["checkpoints"]
    ]
    caller.wait(240)
    chain.all_end()
    train, evaluated = chain.finish()
    check_records(chain)
    assert struck and (train.state, evaluated.state) == ("COMPLETE", "COMPLETE")
    entries = CheckpointIndex(train.folder / "train").read()["checkpoints"]
    assert sorted({entry["epoch"] for entry in entries}) == [0, 1, 2, 3] and set(before) <= {
        0,
        1,
        2,
        3,
    }
    assert train.best_checkpoint().is_file() and 0.0 <= evaluated.metrics()["ACC_all"] <= 1.0
    with pytest.raises(MaeError):
        train.resume()
