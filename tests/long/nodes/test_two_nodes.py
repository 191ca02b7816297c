"""Several nodes of one run, as processes of their own on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import digits_folder, spec, write_spec

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


def test_two_nodes_are_one_run(made: dict[str, Any], tmp_path: Path) -> None:
    path = write_spec({**made, "train": {**made["train"], "num_nodes": 2}}, tmp_path / "spec.json")
    place = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    nodes = [start(path, NODE_RANK=number, **place) for number in (1, 0)]
    ended = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ended
    derived = json.loads((tmp_path / "out" / "train" / "derived.json").read_text())
    assert derived["effective_batch"] == 4, derived
