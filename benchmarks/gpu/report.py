"""What the three parts of the GPU benchmark hand back, and how it is written."""

from __future__ import annotations

import datetime
import json
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "timm", "transformers", "hiera-transformer", "tensorrt", "tensorrt-rtx")


@dataclass
class Check:
    """One statement about numbers.

    ``passed`` is None where it could not be tried, and then ``reason`` says why.
    """

    name: str
    passed: bool | None
    figures: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None

    def line(self) -> str:
        """For the terminal."""
        verdict = {True: "ok", False: "FAILED", None: "not run"}[self.passed]
        figures = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.figures.items()
        )
        return (
            f"{verdict:8} {self.name}"
            + (f": {self.reason}" if self.reason else "")
            + (f" ({figures})" if figures else "")
        )


def attempt(name: str, check: Callable[[], Check]) -> Check:
    """``check()``, printed; an exception inside is a failure of this check and not the end of the
    others."""
    try:
        result = check()
    except Exception as error:
        traceback.print_exc()
        result = Check(name, False, reason=f"{type(error).__name__}: {str(error)[:300]}")
    print(result.line(), flush=True)
    return result


def hardware(device: str) -> dict[str, Any]:
    """Devices and versions; nothing that names the machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    if device == "cpu":
        return {"gpus": [], "versions": versions}
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    described = [
        {
            "name": gpu.name,
            "memory_gib": round(gpu.total_memory / 2**30, 1),
            "capability": f"{gpu.major}.{gpu.minor}",
        }
        for gpu in gpus
    ]
    return {
        "gpus": described,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "versions": versions,
    }


def write(path: Path, command: str, device: str, smoke: bool, parts: dict[str, Any]) -> None:
    """The figures with date, hardware and command, as JSON."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    plain = {
        name: [asdict(row) if isinstance(row, Check) else row for row in rows]
        for name, rows in parts.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "command": command,
        "date": now,
        "smoke": smoke,
        "hardware": hardware(device),
        **plain,
    }
    path.write_text(json.dumps(report, indent=2) + "\n")
