"""The whole GPU benchmark as a rehearsal on the CPU: every kind of check and every case, on tiny
shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_rehearsal_runs_every_part_and_passes(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [
        "bash",
        str(ROOT / "benchmarks" / "gpu.sh"),
        "--device",
        "cpu",
        "--smoke",
        "-o",
        str(out),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
        timeout=1700,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(out.read_text())
    names = [check["name"] for check in report["numerics"]]
    assert all(check["passed"] for check in report["numerics"]) and len(names) == 17
    assert {
        "vit compiled against eager",
        "hiera fp32 against hiera-transformer",
        "runner: vit ddp on 2 devices",
    } <= set(names)
    assert [case["case"] for case in report["speed"]] == [
        "fcmae_0.6",
        "fcmae_0.75",
        "vit_base",
        "hiera_tiny",
    ]
    assert not any("ours" in name for case in report["speed"] for name in case["errors"])
    assert report["engines"] and all(
        check["passed"] is None and check["reason"] for check in report["engines"]
    )
