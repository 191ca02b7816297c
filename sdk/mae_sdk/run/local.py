"""The local platform: a detached supervisor that outlives its caller."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.run.process import identify, is_alive
from mae_sdk.run.process_group import without_cluster

_started: list[subprocess.Popen[bytes]] = []


def submit(job_dir: Path, env: Mapping[str, str] | None = None) -> bool:
    """Start the supervisor of a pending attempt, once, whoever else tries at the same time.

    Returns:
        Whether this call started it.
    """
    reap()
    environment = {**without_cluster(os.environ), **(env or {})}
    for name in ("MAE_JOB_DIR", "MAE_ATTEMPT", "MAE_WARM_SOCKET"):
        environment.pop(name, None)
    with records.locked(job_dir):
        record = records.read_record(job_dir)
        attempt = records.last_attempt(record)
        if attempt["state"] != records.PENDING or (
            attempt["process"] and is_alive(attempt["process"]) is not False
        ):
            return False
        with (job_dir / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mae_sdk.run.supervisor", str(job_dir)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        _started.append(process)
        attempt["process"] = identify(process.pid)
        files.write_json(job_dir / records.RECORD_NAME, record)
    return True


def reap() -> None:
    """Collect supervisors that have ended, so that none stays a zombie of this process."""
    _started[:] = [process for process in _started if process.poll() is None]
