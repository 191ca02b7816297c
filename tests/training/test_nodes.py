"""Ranks and nodes that an orchestrator, or a hand, sets: joined, refused, or waited for aloud."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mae_runners.__main__ import CLAIMED
from mae_runners.context import ranks_of_environment

from tests.support.ranks import train_on_ranks
from tests.support.training import digits_folder, spec, train, write_spec

MAE = str(Path(sys.executable).with_name("mae"))
OF_NODES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(path: Path, **variables: Any) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if k not in OF_NODES} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [MAE, "train", "-e", str(path)],
        env=kept | {name: str(value) for name, value in variables.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    data = digits_folder(tmp_path / "data", per_class=2)
    return spec(data, tmp_path / "out", train__num_epochs=1, dataset__batch_size=2)


@pytest.mark.parametrize(
    ("variables", "field", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE", "MASTER_ADDR and MASTER_PORT and NODE_RANK"),
        ({"WORLD_SIZE": "2", "NODE_RANK": "1"}, "WORLD_SIZE", "MASTER_ADDR"),
        (
            {"WORLD_SIZE": "2", "NODE_RANK": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "NODE_RANK",
            "no such node",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE", "MASTER_ADDR and MASTER_PORT are not"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK", "no such rank"),
        ({"RANK": "1"}, "RANK", "no such rank"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK", "not a number"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "70000"},
            "MASTER_PORT",
            "not a port",
        ),
        # The tasks of a launcher that know nothing of each other would all train the whole.
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"},
            "SLURM_STEP_NUM_TASKS",
            "one of 4 tasks of srun",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE", "one of 2 tasks of mpirun"),
        ({"PMI_SIZE": "2", "WORLD_SIZE": "1"}, "PMI_SIZE", "RANK, LOCAL_RANK and WORLD_SIZE"),
    ],
)
def test_variables_that_nobody_could_join_by_are_an_error_at_once(
    variables: dict[str, str],
    field: str,
    said: str,
    made: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("mae_runners.__main__.leave", lambda code: code)
    assert train(made) == 2
    shown = capfd.readouterr().err
    assert f"{field}: " in shown and said in shown


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a batch script, or the shell of salloc
        {"SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "1"},
        {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PTY_PORT": "4000"},  # a shell in an allocation
    ],
)
def test_one_process_inside_an_allocation_is_no_task_of_several(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in OF_NODES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks_of_environment() == (0, 0, 1)


def test_a_task_of_srun_that_is_told_its_rank_or_its_node_joins_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert ranks_of_environment() == (0, 0, 1), "of a node: its ranks are started here"
    monkeypatch.setenv("RANK", "1")
    assert ranks_of_environment() == (1, 0, 2)


def test_a_rank_says_for_whom_it_waits_and_ends_on_a_signal_and_by_the_time_limit(
    made: dict[str, Any], tmp_path: Path
) -> None:
    path = write_spec(made, tmp_path / "spec.json")
    port = free_port()
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    limited = start(path, RANK=0, WORLD_SIZE=3, MAE_NODES_TIMEOUT=3, **place)
    # The second of two nodes: its rank looks for a rank 0 that is not there.
    other = write_spec({**made, "results_dir": str(tmp_path / "two")}, tmp_path / "two.json")
    place["MASTER_PORT"] = free_port()
    told = start(other, WORLD_SIZE=2, NODE_RANK=1, **place)
    assert told.stdout is not None
    lines: list[str] = []
    for line in told.stdout:
        lines.append(line)
        if " waits at " in line:
            break
    assert f"rank 1 waits at 127.0.0.1:{place['MASTER_PORT']} for rank 0 of 2" in lines[-1]
    assert not [line for line in lines if "frame #" in line or "c10d" in line]
    began = time.monotonic()
    told.send_signal(signal.SIGINT if os.getpid() % 2 else signal.SIGTERM)
    told.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert told.returncode not in (0, 1)

    said, _ = limited.communicate(timeout=60)
    assert limited.returncode == 8, said
    assert f"ranks 1, 2 of 3 did not come to 127.0.0.1:{port} in 3 s" in said
    assert "Traceback" not in said


def test_the_true_error_of_a_rank_stands_alone(
    made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the rank that draws it meets the unreadable image.
    for picture in sorted((tmp_path / "data").rglob("*.png"))[:1]:
        picture.write_bytes(b"no picture")
    made["dataset"]["max_corrupt_fraction"] = 0.0
    codes, said = train_on_ranks((made, 2))
    assert codes == [[3, 3]], said
    assert said.count("error: ") == 1, said
    assert "Traceback" not in said and "gloo" not in said.lower(), said

    # An error that all ranks meet is printed once.
    monkeypatch.setenv(CLAIMED, "1")
    made |= {"results_dir": str(tmp_path / "two")}
    made["train"]["num_epochs"] = "many"
    codes, said = train_on_ranks((made, 2))
    assert codes == [[2, 2]] and said.count("error: ") == 1, said
