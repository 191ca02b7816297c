"""The MCP server when a call is canceled, its client leaves, or the arguments are hostile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, mcp_server

from tests.support.images import write_imagefolder

MAE = str(Path(sys.executable).with_name("mae"))


class Server:
    """``mae mcp``, spoken to line by line."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [MAE, "mcp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}}
        self.send("initialize", 1, {**hello, "clientInfo": {"name": "test", "version": "0"}})
        assert self.answer()["id"] == 1
        self.send("notifications/initialized")

    def send(self, method: str, number: int | None = None, params: Any = None) -> None:
        message = {"jsonrpc": "2.0", "method": method}
        message |= {} if number is None else {"id": number}
        message |= {} if params is None else {"params": params}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def call(self, number: int, tool: str, **arguments: Any) -> None:
        self.send("tools/call", number, {"name": tool, "arguments": arguments})

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def cpu_ticks(self) -> int:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(stat[11]) + int(stat[12])


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.process.kill()
    made.process.wait()


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A source that takes minutes to look at."""
    made = write_imagefolder(tmp_path / "data", classes=1, per_class=1, size=1500)
    first = next(made.rglob("*.png"))
    for number in range(1_000):
        os.link(first, first.with_name(f"{number}.png"))
    return tmp_path / "data"


def busy(server: Server) -> None:
    """Until the server computes."""
    before = server.cpu_ticks()
    deadline = time.monotonic() + 20
    while server.cpu_ticks() < before + 15:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_canceled_call_stops_its_work_and_the_end_of_stdin_ends_the_server(
    server: Server, slow: Path
) -> None:
    server.call(2, "inspect", source=str(slow))
    busy(server)
    server.send("notifications/cancelled", params={"requestId": 2, "reason": "enough"})
    server.call(3, "explain", key="train.seed")
    while server.answer().get("id") != 3:
        pass
    time.sleep(0.5)
    before = server.cpu_ticks()
    time.sleep(1.0)
    assert server.cpu_ticks() - before < 20, "the canceled inspection goes on"

    server.call(4, "inspect", source=str(slow))
    busy(server)
    assert server.process.stdin is not None
    server.process.stdin.close()
    began = time.monotonic()
    assert server.process.wait(timeout=30) == 0
    assert time.monotonic() - began < 3


def test_whatever_the_arguments_the_answer_is_coded_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill = Skill()
    offered = {tool.name: tool for tool in mcp_server.tools(skill)}
    (tmp_path / "file").write_text("")
    long = "x" * 100_000
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"a": deep}
    cases: list[tuple[str, dict[str, Any], set[str]]] = [
        ("status", {"job_id": long}, {"usage"}),
        ("status", {"job_id": "x" * 4000}, {"usage", "not_found", "storage"}),
        ("status", {"job_id": "a\0b"}, {"usage"}),
        ("status", {"job_id": 7}, {"usage"}),
        ("inspect", {"source": long}, {"usage"}),
        ("inspect", {"source": "y" * 4000}, {"data", "not_found", "storage"}),
        ("inspect", {"source": "/" + "z/" * 2000}, {"data", "not_found", "storage"}),
        ("inspect", {"source": "\udce9"}, {"data", "not_found", "storage", "usage"}),
        ("jobs", {"results_root": str(tmp_path / "file")}, {"storage"}),
        ("explain", {"key": long}, {"usage"}),
        ("plan", {"action": "train", "spec_overrides": {long: long}}, {"spec_invalid", "data"}),
        ("plan", {"action": "train", "spec": {long: [long] * 100}}, {"usage"}),
        ("plan", {"action": "train", "spec": deep}, {"usage"}),
        ("wait", {"job_id": "x", "seconds": 10**9}, {"usage"}),
        ("best", {"limit": 10**9}, {"usage"}),
        ("prune", {"states": ["COMPLETE"] * 99}, {"usage"}),
        ("delete", {"job_id": "x"}, {"usage"}),
        ("plan", {"action": "train", "idempotency_key": long}, {"usage"}),
        ("explain", {}, {"usage"}),
        ("logs", {"job_id": "x", "lines": 10**30}, {"usage"}),
    ]
    for tool, arguments, codes in cases:
        document, failed = mcp_server.answer(skill, offered[tool], arguments)
        text = json.dumps(document)
        assert failed and document["code"] in codes, (tool, str(arguments)[:80], text[:400])
        assert len(text) < 60_000, (tool, str(arguments)[:80], len(text))

    def broken(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr("mae_sdk.answers.inspect", broken)
    document, failed = mcp_server.answer(skill, offered["inspect"], {"source": "x"})
    assert failed and (document["code"], document["got"]) == ("storage", "/somewhere")
    monkeypatch.setattr("mae_sdk.answers.inspect", lambda source: 1 / 0)
    document, failed = mcp_server.answer(skill, offered["inspect"], {"source": "x"})
    assert failed and document["code"] == "internal" and document["exit_code"] == 1


@pytest.mark.parametrize(
    ("arguments", "field", "hint"),
    [
        ({"action": "trian"}, "action", "did you mean train?"),
        ({"action": "train", "spec_overides": {}}, "spec_overides", "did you mean spec_overrides?"),
        ({"action": "train", "image": "x"}, "image", "no image is named"),
        ({"action": "train", "count": "no"}, "count", ""),
        ({}, "action", ""),
    ],
)
def test_arguments_that_a_tool_does_not_take_are_answered_with_hints(
    arguments: dict[str, Any], field: str, hint: str
) -> None:
    skill = Skill()
    offered = {tool.name: tool for tool in mcp_server.tools(skill)}
    document, failed = mcp_server.answer(skill, offered["plan"], arguments)
    assert failed and document["code"] == "usage"
    assert document["field"] == field and document["expected"]
    assert hint in str(document["hint"])
