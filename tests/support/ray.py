"""A Ray cluster of two nodes on this machine. It runs where there is nothing but loopback."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.platforms import Place
from tests.support.s3 import free_port


def why_not() -> str | None:
    """Why there can be no cluster here; None where there can."""
    found = importlib.util.find_spec("ray")
    return None if found else "the package ray is not installed (pip install 'mae-skill[ray]')"


class RayPlace(Place):
    """The platform ``ray`` over a cluster of its own."""

    name = "ray"

    def __init__(self, home: Path, cpus: int = 8) -> None:
        super().__init__()
        self.home, self.cpus, self.port = home, cpus, free_port()
        self.environment = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.port}"}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start_node(self, *words: str) -> None:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *words]
        if not Path(command[0]).exists():
            command[:1] = [sys.executable, "-m", "ray.scripts.scripts"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={self.cpus}"]
        command += ["--object-store-memory=80000000", "--disable-usage-stats"]
        log = (self.home / "ray.log").open("ab")
        # No PYTHONPATH of the tests reaches the cluster, as none of a caller would.
        environment = {
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_MEMORY_MONITOR": "1",
        }
        self.daemons.append(
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd="/")
        )

    @contextmanager
    def engine(self) -> Iterator[None]:
        """Start both nodes, and stop them."""
        gcs = free_port()
        head = [f"--port={gcs}", f"--dashboard-port={self.port}", f"--temp-dir={self.home}/t"]
        try:
            self.start_node("--head", "--dashboard-host=127.0.0.1", *head)
            self.wait_for(1)
            self.start_node(f"--address=127.0.0.1:{gcs}")
            self.wait_for(2)
            yield
        finally:
            for daemon in reversed(self.daemons):
                daemon.terminate()
            for daemon in self.daemons:
                daemon.wait(60)

    def wait_for(self, nodes: int) -> None:
        from mae_sdk.run.ray import RayPlatform
        from mae_skill.errors import MaeError

        deadline = time.monotonic() + 120
        while True:
            try:
                options = {"address": self.environment["RAY_API_SERVER_ADDRESS"]}
                if RayPlatform().resources(options).nodes == nodes:
                    return
            except (MaeError, KeyError):
                pass
            assert time.monotonic() < deadline, (self.home / "ray.log").read_text()[-3000:]
            time.sleep(0.5)
