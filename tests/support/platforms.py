"""Platforms for the common suite: each with the ways to harm a job that only its engine has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mae_sdk.job import Job
from mae_sdk.jobs import records

from tests.support.jobs import start

TOY = Path(__file__).parent / "toy_platform"


class Place:
    """The platform ``local``.

    Attributes:
        name: of the platform.  environment: variables that a process needs to use it.
        starts_again: whether its engine starts a preempted job again by itself.
    """

    name = "local"
    starts_again = False

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}

    def start(
        self, root: Path, command: str, env: Mapping[str, str] | None = None, **more: Any
    ) -> Job:
        return start(root, command, env=env, platform=self.name, **more)

    def preempt(self, job: Job) -> None:
        """Announce to a running job that its machine is needed."""
        os.kill(self._supervisor(job), signal.SIGTERM)

    def lose(self, job: Job) -> None:
        """Kill the supervisor of a running job without warning."""
        os.kill(self._supervisor(job), signal.SIGKILL)

    def _supervisor(self, job: Job) -> int:
        process = records.last_attempt(job.record)["process"]
        assert process is not None
        return process["pid"]


class QueuePlace(Place):
    """The platform ``queue`` of the toy package, with its engine running."""

    name = "queue"
    starts_again = True

    def __init__(self, spool: Path, packages: Path) -> None:
        super().__init__()
        self.spool = spool
        paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"QUEUE_SPOOL": str(spool), "PYTHONPATH": os.pathsep.join(paths)}

    @contextmanager
    def engine(self, slots: int = 4) -> Iterator[None]:
        self.spool.mkdir(exist_ok=True)
        environment = {**os.environ, **self.environment, "QUEUE_SLOTS": str(slots)}
        process = subprocess.Popen(
            [sys.executable, "-m", "toy_queue.engine", str(self.spool)], env=environment
        )
        try:
            yield
        finally:
            (self.spool / "stop").touch()
            process.wait(20)

    def preempt(self, job: Job) -> None:
        number = records.last_attempt(job.record)["handle"]["number"]
        (self.spool / f"{number}.preempt").touch()


def install_toy(home: Path) -> Path:
    """A virtual environment with the toy platform installed beside the packages of this one.

    Returns:
        Its folder of packages.
    """
    venv.create(home, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    borrowed = [path for path in sys.path if path and Path(path).is_dir()]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))

    source = home / "source"  # a build writes beside the sources
    subprocess.run(["cp", "-r", str(TOY), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install"]
    command += ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return packages


def running(job: Job, marker: Path, seconds: float = 30.0) -> None:
    """Wait until the job's command has made the marker file."""
    deadline = time.monotonic() + seconds
    while not marker.exists():
        assert time.monotonic() < deadline, (job.state, job.logs())
        time.sleep(0.02)
