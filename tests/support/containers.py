"""Containers for the platform ``docker``: a daemon that answers, or podman on files of its own.

Nothing is pulled: the image is a tree of empty folders, into which the container gets this
machine's programs and this checkout as mounts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from mae_sdk.job import Job

from tests.support.platforms import Place

IMAGE = "localhost/mae-test:latest"
FOLDERS = ("usr", "lib", "lib64", "bin", "sbin", "etc", "opt", "root", "home", "work", "srv")
OF_A_CONTAINER = ("dev", "proc", "sys", "tmp", "run", "var")


def works(program: str) -> str | None:
    """Why a program of containers is of no use here; None where it works."""
    if shutil.which(program) is None:
        return f"{program} is not installed"
    done = subprocess.run([program, "info"], capture_output=True, text=True, timeout=60)
    return None if done.returncode == 0 else " ".join(done.stderr.split())[:200]


class DockerPlace(Place):
    """The platform ``docker`` with an image of its own.

    Args:
        home: for what podman keeps; removed by whoever made it.
        driver: how podman keeps images: ``vfs`` works everywhere and copies each layer whole.
    """

    name = "docker"

    def __init__(self, home: Path, driver: str = "vfs") -> None:
        super().__init__()
        self.home, self.driver = home, driver
        self.program = "docker"
        self.environment = {"MAE_PLATFORMS": str(home / "platforms.yaml")}

    def find_program(self) -> str | None:
        """Choose the program that works here; why none does, or None."""
        reasons = [works("docker")]
        if reasons[0] is not None:
            self.program = "podman"
            self._podman()
            with_files = {**os.environ, **self.environment}
            os.environ.update({k: with_files[k] for k in self.environment})
            reasons.append(works("podman"))
        return None if None in reasons else "; ".join(str(reason) for reason in reasons)

    def prepare(self) -> str | None:
        """Make the image and the site's file; why that cannot be, or None."""
        if reason := self.find_program():
            return reason

        archive = self.home / "image.tar"
        with tarfile.open(archive, "w") as tar:
            for name in (*FOLDERS, *OF_A_CONTAINER):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
        for command in (["import", str(archive), IMAGE], ["run", "--rm", *self._run(), "true"]):
            done = subprocess.run(
                [self.program, *command], capture_output=True, text=True, timeout=120
            )
            if done.returncode != 0:
                return f"{self.program} starts no container: {done.stderr.strip()[-200:]}"
        settings = {
            "program": self.program,
            "image": IMAGE,
            "python": sys.executable,
            "mounts": [*self._mounts(), "/tmp:/tmp"],
            "arguments": ["--pid=host"],  # the tests look for processes by their number
            "shm_size": "64m",
        }
        (self.home / "platforms.yaml").write_text(json.dumps({"docker": settings}))
        return None

    def _run(self) -> list[str]:
        return ["--network=host", *(f"--volume={mount}" for mount in self._mounts()), IMAGE]

    def _mounts(self) -> list[str]:
        there = [Path("/", name) for name in FOLDERS]
        return [f"{path}:{path}:ro" for path in there if path.is_dir() and any(path.iterdir())]

    def _podman(self) -> None:
        """Files of podman's own in `home`, and limits that this user may set."""
        import resource

        files, processes = resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096
        runtime = "runc" if shutil.which("runc") else "crun"
        (self.home / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", '
            f'"nproc={processes}:{processes}"]\n'
            f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
            f'runtime = "{runtime}"\n'
        )
        (self.home / "storage.conf").write_text(
            f'[storage]\ndriver = "{self.driver}"\ngraphroot = "{self.home}/graph"\n'
            f'runroot = "{self.home}/run"\n'
        )
        self.environment |= {
            "CONTAINERS_CONF": str(self.home / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.home / "storage.conf"),
        }

    def containers(self, job: Job) -> list[str]:
        """The containers of a job that are left."""
        command = [self.program, "ps", "--all", "--quiet", f"--filter=label=mae.job={job.id}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.split()
