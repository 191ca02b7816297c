"""The platform ``docker``: jobs of this machine whose runner works in a container.

The supervisor is a process of this machine, as on `local`: it reserves GPUs, keeps the record and
copies results, and starts ``docker run`` (or ``podman run``) in place of the ranks. So an image
needs the runner alone, and one of another maker works too, by the command that it is given.

A variable reaches the container by its name (``--env NAME``), or by a file that the caller names
(``env_file``): no value of one stands in a command line or is written by us.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_skill.errors import DependencyError, MaeError, NotFoundError, StorageError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.command_words import fill
from mae_sdk.jobs.records import JobRecord
from mae_sdk.run.local import LocalPlatform
from mae_sdk.run.options import IMAGE, Option
from mae_sdk.run.platform import Missing, Reference, Resources, attempt_name, with_python
from mae_sdk.run.process_group import GRACE_SECONDS

_IMAGE = "mae-skill:cpu"
_SIZE = (r"[1-9]\d*[bkmgBKMG]?", "a size, such as 8g")
_SECONDS = 60.0
_NAMES = "MAE_ENV_NAMES"
"""Tells the supervisor which variables the job was given."""

_PASSED = ("AWS_", "MAE_", "GOOGLE_", "AZURE_", "NCCL_", "OMP_NUM_THREADS", "HF_", "WANDB_")
"""Beginnings of names of the variables that the runner is given; those of the job come on top."""


class DockerPlatform(LocalPlatform):
    """Jobs of this machine in containers."""

    about = "containers on this machine, through docker or podman"
    options = {  # noqa: RUF012  # as the contract declares it
        "image": Option("image of the runner; see docker/README.md", str, _IMAGE, form=IMAGE),
        "command": Option(
            "command of an image of another maker; {config_path} and {job_dir} are filled in"
        ),
        "program": Option("docker or podman", str, "docker"),
        "python": Option("the Python of the image", str, "python3"),
        "mounts": Option("further folders, as HOST:CONTAINER[:ro]", list),
        "env_file": Option("a file of NAME=VALUE lines for the container"),
        "shm_size": Option("shared memory, for the workers of the loader", str, "8g", form=_SIZE),
        "user": Option("who the runner is; default: the caller"),
        "network": Option("network of the container", str, "host"),
        "arguments": Option("further arguments of `docker run`", list),
    }

    def submit(self, job_dir: Path, record: JobRecord, env: Mapping[str, str]) -> Reference:
        """As on `local`, once the image is there. A container cannot be forked from a runner.

        Raises:
            DependencyError: no daemon answers.  NotFoundError: the image is not here.
        """
        settings = self.settings(record.get("platform_options") or {})
        _image(settings)
        record["launch"].pop("warm", None)
        return super().submit(job_dir, record, {**env, _NAMES: ",".join(env)})

    def cancel(self, job_dir: Path, record: JobRecord) -> None:
        """As on `local`; a container whose supervisor is gone is removed."""
        super().cancel(job_dir, record)
        (seen,) = self.state([(job_dir, record)])
        if records.is_terminal(seen.state):
            settings = self.settings(record.get("platform_options") or {})
            with contextlib.suppress(MaeError):
                _run([settings["program"], "rm", "--force", attempt_name(job_dir, record)])

    def resources(self, options: Mapping[str, Any]) -> Resources:
        _image(options)
        return super().resources(options)

    def mounted(self, options: Mapping[str, Any]) -> list[str]:
        """Where the folders of ``mounts`` are in the container."""
        parts = [str(mount).split(":") for mount in options.get("mounts") or ()]
        return [part[1] for part in parts if len(part) > 1]

    def missing(self, options: Mapping[str, Any]) -> list[Missing]:
        if here := super().missing(options):
            return here
        try:
            _image(options)
        except MaeError as error:
            return [Missing(error.message, error.hint or "")]
        return []

    def preview(self, job_dir: Path, record: JobRecord) -> list[dict[str, Any]]:
        """The command that starts the container; of a study nothing, whose trials have their own.

        Variables are named in it, and their values are nowhere.
        """
        if record.get("kind") == "automl":
            return []
        environment = {**os.environ, "MAE_JOB_DIR": str(job_dir)}
        words, _ = self.wrap(record["launch"]["command"], record, environment)
        return [{"run": shlex.join(words[words.index("--") + 1 :])}]

    def wrap(
        self, command: Sequence[str], record: JobRecord, environment: Mapping[str, str]
    ) -> tuple[list[str], int]:
        """``docker run`` of the command; the ranks of a job are in one container."""
        settings, launch = self.settings(record.get("platform_options") or {}), record["launch"]
        if record.get("kind") == "automl":  # its trials go into containers
            return super().wrap(command, record, environment)
        job_dir, processes = Path(environment["MAE_JOB_DIR"]), int(launch.get("processes") or 1)
        words = with_python(command, settings["python"])
        if own := settings.get("command"):
            values = {"config_path": str(job_dir / "spec.yaml"), "job_dir": str(job_dir)}
            words = [fill(word, values) for word in shlex.split(own)]
        elif processes > 1:
            ranks = ["-m", "mae_sdk.run.nodes", "ranks", str(processes), "--"]
            words = [settings["python"], *ranks, *words]

        given = [*(record.get("env_names") or []), *environment.get(_NAMES, "").split(",")]
        passed = {*given, *filter(_is_passed, environment)}
        devices = environment.get("CUDA_VISIBLE_DEVICES")
        # The container counts its devices from 0, as the spec does.
        names = sorted((passed & set(environment)) - {"CUDA_VISIBLE_DEVICES"})
        name = attempt_name(job_dir, record)
        arguments = [settings["program"], "run", "--rm", f"--name={name}"]
        arguments += [f"--label=mae.job={record['id']}", f"--shm-size={settings['shm_size']}"]
        arguments += [
            f"--network={settings['network']}",
            f"--workdir={_workdir(job_dir, record, settings)}",
        ]
        arguments += [f"--user={settings.get('user') or _caller(settings['program'])}"]
        arguments += [f"--env={name}" for name in names]
        arguments += [f"--volume={mount}" for mount in _mounts(job_dir, record, settings)]
        if settings.get("env_file"):
            arguments.append(f"--env-file={settings['env_file']}")
        if devices and launch.get("device_count"):
            arguments.append(f'--gpus="device={devices}"')
        # Before the supervisor's own patience ends, the container must have.
        grace = max(1, int(launch.get("grace_seconds") or GRACE_SECONDS) - 5)
        hold = [sys.executable, "-m", "mae_sdk.run.nodes", "container", settings["program"], name]
        run = [*arguments, *settings.get("arguments", []), settings["image"], *words]
        return [*hold, str(grace), "--", *run], 1


def _caller(program: str) -> str:
    """The caller as the container has it: Podman without root calls its caller root."""
    if Path(program).name == "podman" and os.getuid() != 0:
        return "0:0"
    return f"{os.getuid()}:{os.getgid()}"


def _is_passed(name: str) -> bool:
    return name.startswith(_PASSED)


def _mounts(job_dir: Path, record: JobRecord, settings: Mapping[str, Any]) -> list[str]:
    """The results root and the cache to write, local data to read, and what the caller names."""
    written = dict.fromkeys((job_dir.parent, files.cache_home().resolve()))
    read = []
    for seen in (record.get("data") or {}).values():
        path = Path(str(seen.get("uri") or ""))
        inside = any(path.is_relative_to(folder) for folder in written)
        if path.is_absolute() and path.exists() and not inside:
            read.append(path)
    own = [f"{path}:{path}" for path in written]
    return [*own, *(f"{path}:{path}:ro" for path in read), *settings.get("mounts", [])]


def _workdir(job_dir: Path, record: JobRecord, settings: Mapping[str, Any]) -> str:
    """Where the job was planned, if the container sees that folder; else the job's own."""
    planned = record["launch"].get("cwd") or ""
    seen = [mount.split(":")[1] for mount in _mounts(job_dir, record, settings)]
    inside = planned and any(Path(planned).is_relative_to(folder) for folder in seen)
    return planned if inside else str(job_dir)


def _image(settings: Mapping[str, Any]) -> None:
    """Make sure that a daemon answers and has the image.

    Raises:
        DependencyError: no program, or no daemon.  NotFoundError: no image.
    """
    program, image = settings["program"], settings["image"]
    if shutil.which(program) is None:
        raise DependencyError(
            f"the program {program} is not here",
            field="platform_options.program",
            got=program,
            hint=f"install {program}, or name the other one: --platform-option program=podman",
        )
    try:
        _run([program, "info"])
    except StorageError as error:
        raise DependencyError(
            f"no daemon of {program} answers: {error.message}",
            field="platform",
            got=program,
            hint="start it, or join its group; rootless podman needs none",
            retryable=True,
        ) from None
    try:
        _run([program, "image", "inspect", image])
    except StorageError:
        raise NotFoundError(
            "the image is not on this machine",
            field="platform_options.image",
            got=image,
            hint=f"{program} build --tag {image} --file docker/Dockerfile . "
            f"(ours), or {program} pull {image}",
        ) from None


def _run(command: list[str]) -> str:
    """What a program prints.

    Raises:
        StorageError: it failed, with what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(str(error)) from None
    if done.returncode != 0:
        raise StorageError(" ".join(done.stderr.split())[:300])
    return done.stdout
