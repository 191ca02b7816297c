"""A server that answers a thousand calls is no larger than one that answered a hundred."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from tests.support.images import write_imagefolder
from tests.support.reports import write_job, write_study

CALLS, WARM = 1000, 100
MAX_GROWTH_MIB = 50


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def server_of() -> int:
    """The process of the server: the one child of this one that runs ``mae mcp``."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (found,) = [int(pid) for pid in children if b"mcp" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


def test_a_thousand_calls_leave_the_server_as_large_as_it_was(tmp_path: Path) -> None:
    data = write_imagefolder(tmp_path / "data", classes=3, per_class=20, size=64)
    root = tmp_path / "results"
    for number in range(5):
        write_job(root, f"train-{number}", result={"kpis": {"ACC_all": 0.5}}, epochs=20)
    write_study(root, "search", 100, [0.5, None, 0.8])
    plan = {
        "action": "train",
        "train_datasets": str(data),
        "automl_policy": "off",
        "spec_overrides": {"model.arch": "vit_tiny_patch16", "dataset.augmentation.input_size": 32},
    }
    turns: list[tuple[str, dict[str, Any]]] = [
        ("plan", plan),
        ("inspect", {"source": str(data)}),
        ("explain", {"key": "train.mask_ratio"}),
        ("status", {"job_id": "train-1"}),
        ("metrics", {"job_id": "search"}),
        ("jobs", {}),
        ("best", {}),
        ("wait", {"job_id": "train-2", "seconds": 1}),
        ("report", {"job_id": "train-3"}),
        ("plan", {**plan, "spec_overrides": {"no.such.key": 1}}),
    ]

    async def go() -> tuple[float, float]:
        environment = {**os.environ, "MAE_RESULTS_ROOT": str(root), "MAE_CACHE_DIR": str(tmp_path)}
        command = str(Path(sys.executable).with_name("mae"))
        server = StdioServerParameters(command=command, args=["mcp"], env=environment)
        before = 0.0
        async with Client(server) as client:
            for number in range(CALLS):
                if number == WARM:
                    before = resident_mib(server_of())
                tool, arguments = turns[number % len(turns)]
                await client.call_tool(tool, arguments)
            return before, resident_mib(server_of())

    before, after = anyio.run(go)
    assert after - before < MAX_GROWTH_MIB, (before, after)
