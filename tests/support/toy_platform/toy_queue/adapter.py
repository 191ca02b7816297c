"""Jobs of mae-skill on the toy queue."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_sdk.jobs import records
from mae_sdk.jobs.records import JobRecord
from mae_sdk.run.platform import EngineState, Platform, Reference, Resources


class QueuePlatform(Platform):
    """The queue whose folder ``QUEUE_SPOOL`` names."""

    def submit(self, job_dir: Path, record: JobRecord, env: Mapping[str, str]) -> Reference:
        number = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"  # in the order of submission
        own = ("PATH", "PYTHONPATH", "QUEUE_SPOOL")  # a node has these, and nothing of the caller's
        variables = {name: os.environ[name] for name in own if name in os.environ}
        argv = [sys.executable, "-m", "mae_sdk.run.supervisor", str(job_dir)]
        if env.get("QUEUE_NODE") == "broken":
            argv[0] = "/no/python/on/this/node"

        (_spool() / f"{number}.state").write_text("QUEUED")
        request = _spool() / f"{number}.request"
        part = request.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_text(json.dumps({"argv": argv, "env": {**variables, **env}}))
        part.rename(request)
        return {"handle": {"number": number}}

    def state(self, jobs: Sequence[tuple[Path, JobRecord]]) -> list[EngineState]:
        return [_state(_number(record)) for _, record in jobs]

    def cancel(self, job_dir: Path, record: JobRecord) -> None:
        (_spool() / f"{_number(record)}.cancel").touch()

    def resources(self, options: Mapping[str, Any]) -> Resources:
        return Resources(gpus=int(os.environ.get("QUEUE_GPUS", "8")), device="paper", cores=7)

    def logs(self, job_dir: Path, record: JobRecord) -> str:
        path = _spool() / f"{_number(record)}.out"
        return path.read_text() if path.exists() else ""


def _spool() -> Path:
    return Path(os.environ["QUEUE_SPOOL"])


def _number(record: JobRecord) -> str:
    return str(records.last_attempt(record).get("handle", {}).get("number"))


def _state(number: str) -> EngineState:
    try:
        word, _, rest = (_spool() / f"{number}.state").read_text().partition(" ")
    except FileNotFoundError:
        return EngineState(records.UNKNOWN)
    if word == "ENDED":
        return EngineState(records.ERROR, f"the queue ended it: {rest}")
    return EngineState(records.RUNNING if word == "RUNNING" else records.PENDING)
