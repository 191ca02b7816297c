"""Two CPU processes: the numbers of one, a common end on a signal, a prompt end on an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mae_sdk.run.process_group import start_and_watch

from tests.support.training import (
    command,
    curve,
    digits_folder,
    read,
    spec,
    start,
    status_lines,
    train,
)

QUICK = 20.0  # seconds, on a machine whose two cores other tests use too


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"))


def wait_for(process: subprocess.Popen[str], results: Path, seconds: float = 120) -> None:
    """Until the first step checkpoint is there."""
    deadline = time.monotonic() + seconds
    while not list((results / "train").glob("model_epoch_*_step_*.pth")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)


LONG = {
    "train__num_epochs": 5000,
    "train__checkpoint_interval": 3000,
    "train__checkpoint_interval_unit": "step",
    "dataset__batch_size": 2,
}


def test_a_signal_saves_and_exits_75_within_seconds_and_the_next_attempt_goes_on(
    data: Path, tmp_path: Path
) -> None:
    made = spec(data, tmp_path / "job", **{**LONG, "train__checkpoint_interval": 3})
    process = start(made)
    try:
        wait_for(process, tmp_path / "job")
        sent = time.monotonic()
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, output
    assert time.monotonic() - sent < QUICK
    assert "a checkpoint was written" in output
    assert status_lines(tmp_path / "job")[-1]["status"] == "RUNNING", (
        "preempted is neither success nor failure"
    )
    assert (
        not (tmp_path / "job/error.json").exists()
        and not (tmp_path / "job/train/result.json").exists()
    )
    done = max(curve(tmp_path / "job"))
    assert train({**made, "train": {**made["train"], "num_epochs": done // 6 + 2}}) == 0
    steps = sorted(curve(tmp_path / "job"))
    assert steps == list(range(1, (done // 6 + 2) * 6 + 1))


@pytest.mark.parametrize("whom", ["one rank", "the whole group"])
def test_a_signal_to_ranks_of_two_stops_both_after_the_same_step(
    data: Path, tmp_path: Path, whom: str
) -> None:
    made = spec(data, tmp_path / "job", **LONG, train__num_gpus=2)
    pids: list[int] = []
    sent: list[float] = []

    def tick() -> bool:
        rows = tmp_path / "job/train/tensorboard"
        if not sent and rows.exists() and (tmp_path / "job/ready").exists():
            sent.append(time.monotonic())
            if whom == "one rank":
                os.kill(int((tmp_path / "job/ready").read_text()), signal.SIGTERM)
            else:
                os.killpg(pids[0], signal.SIGTERM)
        return False

    program = (
        "import os, sys, pathlib\nfrom mae_runners.training.loop import TrainLoop\n"
        "whole = TrainLoop._train_step\n"
        f"ready = pathlib.Path({str(tmp_path / 'job/ready')!r})\n"
        "def step(self, *a):\n    whole(self, *a)\n"
        "    if self.context.rank == 1 and self.position.step == 5:\n"
        "        ready.write_text(str(os.getpid()))\n"
        "TrainLoop._train_step = step\nfrom mae_runners.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = [sys.executable, "-c", program, *command(made)[3:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    outcome = start_and_watch(
        arguments,
        2,
        environment,
        tick=tick,
        tick_seconds=0.05,
        started=pids.append,
        log=tmp_path / "log.txt",
    )
    assert outcome.exit_code == 75, (tmp_path / "log.txt").read_text()
    assert time.monotonic() - sent[0] < QUICK
    saved = [path.name for path in (tmp_path / "job/train").glob("model_epoch_*.pth")]
    assert len(saved) == 1, "both ranks stopped after one common step"
    assert not (tmp_path / "job/error.json").exists()


def test_an_error_on_one_rank_ends_the_other_promptly_and_is_the_one_recorded(
    data: Path, tmp_path: Path
) -> None:
    made = spec(data, tmp_path / "job", **LONG, train__num_gpus=2)
    program = (
        "import sys, time, pathlib\nfrom mae_runners.training.loop import TrainLoop\n"
        "whole = TrainLoop._train_step\n"
        f"failed = pathlib.Path({str(tmp_path / 'failed')!r})\n"
        "def step(self, *a):\n    whole(self, *a)\n"
        "    if self.context.rank == 1 and self.position.step == 3:\n"
        "        failed.write_text(repr(time.time()))\n"
        "        raise ValueError('rank one is out')\n"
        "TrainLoop._train_step = step\nfrom mae_runners.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    outcome = start_and_watch(
        [sys.executable, "-c", program, *command(made)[3:]],
        2,
        environment,
        log=tmp_path / "log.txt",
    )
    assert outcome.exit_code not in (0, 75)
    assert time.time() - float((tmp_path / "failed").read_text()) < QUICK
    error = read(tmp_path / "job", "error.json")
    assert error["rank"] == 1 and "rank one is out" in error["message"]


def test_two_processes_started_by_the_command_give_the_numbers_of_one(
    data: Path, tmp_path: Path
) -> None:
    """At equal global batch: the masks follow the samples, the validation set of 13 does not divide
    by two and nothing is counted twice. More of this in test_sharing.py."""
    odd = digits_folder(tmp_path / "odd", per_class=5, start=4)
    next(odd.rglob("*.png")).unlink()
    next(odd.rglob("*.png")).unlink()
    changes = {
        "train__clip_grad_norm": 1.0,
        "train__optim__lr": 1e-3,
        "dataset__val_data_sources": str(odd),
    }
    one = spec(data, tmp_path / "one", dataset__batch_size=4, **changes)
    two = spec(data, tmp_path / "two", dataset__batch_size=2, train__num_gpus=2, **changes)
    assert train(one) == 0
    process = start(two)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    for name in ("train_loss", "val_loss", "grad_norm"):
        single, pair = curve(tmp_path / "one", name), curve(tmp_path / "two", name)
        assert single.keys() == pair.keys() and single
        for step in single:
            assert float(single[step]) == pytest.approx(float(pair[step]), rel=2e-4), (name, step)
    assert read(tmp_path / "two", "train/derived.json")["processes"] == 2
