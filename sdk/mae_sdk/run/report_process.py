"""A job's report, written by a short process of its own: nothing that it needs is loaded here."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.records import JobRecord

REPORT_NAME = "report.html"
VARIABLE = "MAE_REPORT"
"""``off``: no job writes its report by itself; ``mae report`` still does."""
SECONDS = 20.0
SHORT_TRIAL_S = 30.0
_LEAST_ROOM = 16 << 20
"""Bytes free on the disk: what little there is belongs to the job's record."""


def wanted(job_dir: Path) -> bool:
    """Whether reports are on, and there is room for one."""
    if os.environ.get(VARIABLE, "").lower() in ("off", "0", "false", "no"):
        return False
    try:
        return files.free_bytes(job_dir) > _LEAST_ROOM
    except OSError:
        return False


def is_short_trial(record: JobRecord, state: str | None) -> bool:
    """Whether a trial ended (or goes on) so soon that a page of its own would cost more than it
    tells: the study's report shows it, and ``mae report`` writes its own when asked. A failed trial
    has one always."""
    if record.get("kind") != "trial" or state in (records.ERROR, records.CANCELED):
        return False
    began = datetime.fromisoformat(record["attempts"][-1]["transitions"][0]["at"])
    return (datetime.now(timezone.utc) - began).total_seconds() < SHORT_TRIAL_S


def is_newer(job_dir: Path, result: str | None) -> bool:
    """Whether the runner has written the report after its result."""
    with contextlib.suppress(OSError):
        written = (job_dir / REPORT_NAME).stat().st_mtime_ns
        return bool(result) and written >= (job_dir / str(result)).stat().st_mtime_ns
    return False


def write_report(
    job_dir: Path, ending: Mapping[str, Any] | None = None, *, seconds: float = SECONDS
) -> None:
    """Write it, for at most so many seconds; what goes wrong is nobody's concern.

    Args:
        ending: ``state, reason, failure`` of a job whose record does not say so yet.
    """
    if not wanted(job_dir):
        return
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            [sys.executable, "-m", "mae_sdk.report", str(job_dir), "-"],
            input=json.dumps(ending or {}).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=job_dir,
            timeout=seconds,
            check=False,
        )


def start_report(job_dir: Path) -> None:
    """Have it written by a process that nobody waits for."""
    if not wanted(job_dir):
        return
    with contextlib.suppress(OSError):
        subprocess.Popen(
            [sys.executable, "-m", "mae_sdk.report", str(job_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=job_dir,
            start_new_session=True,
        )
