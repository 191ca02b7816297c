"""Jobs without a bundle: the command is a line of shell, run by the real supervisor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mae_sdk import files
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.run.platform import submit


def write(
    root: Path,
    command: str,
    result: str | None = None,
    name: str = "job",
    platform: str = "local",
    **launch: Any,
) -> Path:
    """The folder of a job that has not been started."""
    record: dict[str, Any] = {"id": name, "action": "train", "platform": platform}
    record["launch"] = {"command": ["sh", "-c", command], "result": result, **launch}
    records.new_attempt(record)
    files.write_json(root / name / records.RECORD_NAME, record)
    return root / name


def start(
    root: Path,
    command: str,
    result: str | None = None,
    name: str = "job",
    env: Mapping[str, str] | None = None,
    **launch: Any,
) -> Job:
    """A started job."""
    folder = write(root, command, result, name, **launch)
    assert submit(folder, env)
    return Job(folder)


def wait_until(ready: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `ready` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found
