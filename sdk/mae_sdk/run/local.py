"""The platform ``local``: a detached supervisor on this machine, which outlives its caller."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.records import Attempt, JobRecord, Launch
from mae_sdk.run import warm
from mae_sdk.run.devices import cpu_cores, gpu_model, memory_mb, visible_gpus
from mae_sdk.run.platform import NO_SUPERVISOR, EngineState, Missing, Platform, Reference, Resources
from mae_sdk.run.process import identify, is_alive, kill_leftovers
from mae_sdk.run.process_group import child_environment

_OF_A_JOB = ("MAE_JOB_DIR", "MAE_ATTEMPT", warm.SOCKET_VARIABLE)
"""Variables of the job that is the caller, which the new one must not take for its own."""


class LocalPlatform(Platform):
    """Jobs on the caller's machine. They share devices and cores by locks of the system."""

    about = "this machine: a process that outlives its caller"
    supervised_here = True

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self._without_warm: set[str] = set()

    def missing(self, options: Mapping[str, Any]) -> list[Missing]:
        return [] if files.HAS_FLOCK else [NO_SUPERVISOR]

    def submit(self, job_dir: Path, record: JobRecord, env: Mapping[str, str]) -> Reference:
        """Start a supervisor in a session of its own, with the caller's environment and `env`."""
        self._reap()
        inherited = {k: v for k, v in child_environment(os.environ).items() if k not in _OF_A_JOB}
        socket = self._warm_socket(record["launch"])
        given = {**env, **({warm.SOCKET_VARIABLE: str(socket)} if socket else {})}

        with (job_dir / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mae_sdk.run.supervisor", str(job_dir)],
                env={**inherited, **given},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        self._started.append(process)
        return {"process": identify(process.pid)}

    def state(self, jobs: Sequence[tuple[Path, JobRecord]]) -> list[EngineState]:
        """By the supervisor's process; of another host by the heartbeat in the folder."""
        self._reap()
        return [_state(job_dir, records.last_attempt(record)) for job_dir, record in jobs]

    def cancel(self, job_dir: Path, record: JobRecord) -> None:
        """SIGTERM to the supervisor; where it is gone, kill the processes that it left."""
        process = records.last_attempt(record)["process"]
        alive = is_alive(process) if process else False
        if process and alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process["pid"], signal.SIGTERM)
        elif alive is False:
            kill_leftovers(job_dir)

    def resources(self, options: Mapping[str, Any]) -> Resources:
        names = tuple(visible_gpus())
        return Resources(
            gpus=len(names),
            gpu_names=names,
            device=gpu_model() if names else "cpu",
            cores=cpu_cores(),
            memory_mb=memory_mb(),
            here=True,
        )

    def _warm_socket(self, launch: Launch) -> Path | None:
        """Of the warm runner that the job may fork from; None where it is to start cold.

        Ranks of one run start cold: each needs its own process from the first moment on.
        """
        wanted = launch.get("warm")
        if wanted is None or int(launch.get("processes") or 1) > 1:
            return None
        if wanted["folder"] in self._without_warm:
            return None

        socket = warm.start(wanted["command"], Path(wanted["folder"]))
        if socket is None:
            self._without_warm.add(wanted["folder"])
            log = Path(wanted["folder"]) / warm.LOG_NAME
            print(f"the warm runner did not come up ({log}); jobs start cold", flush=True)
        return socket

    def _reap(self) -> None:
        """Collect supervisors that have ended, so that none stays a zombie of this process."""
        self._started[:] = [process for process in self._started if process.poll() is None]


def _state(job_dir: Path, attempt: Attempt) -> EngineState:
    waiting = EngineState(records.ERROR, "it was preempted and waits to be resumed", "signal")
    if attempt["state"] == records.PREEMPTED and attempt.get("told_to_stop"):
        return waiting

    state = records.RUNNING if attempt["state"] == records.RUNNING else records.PENDING
    alive = is_alive(attempt["process"]) if attempt["process"] else False
    if alive:
        return EngineState(state)
    if alive is False:
        return EngineState(records.ERROR)

    age = records.heartbeat_age(job_dir)
    silent = age is not None and age > records.STALE_SECONDS
    return EngineState(records.UNKNOWN if silent else state)
