"""Several nodes of one run, as processes of their own on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.training import write_spec
from tests.training.test_nodes import free_port, made, start

__all__ = ["made"]  # a fixture


def test_two_nodes_are_one_run(made: dict[str, Any], tmp_path: Path) -> None:
    path = write_spec({**made, "train": {**made["train"], "num_nodes": 2}}, tmp_path / "spec.json")
    place = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    nodes = [start(path, NODE_RANK=number, **place) for number in (1, 0)]
    ended = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ended
    derived = json.loads((tmp_path / "out" / "train" / "derived.json").read_text())
    assert derived["effective_batch"] == 4, derived
