"""Where jobs run: the contract of a platform, those installed, and the one way to start a job.

A job is a folder (`mae_sdk.jobs`) and a supervisor process that runs it: ``python -m
mae_sdk.run.supervisor JOB_DIR``. A platform is a thin layer over an engine that exists already
(this machine, SLURM, Ray, Kubernetes, Docker …): it starts that one process somewhere and reports
what became of it. Everything else goes through the folder, which every machine that takes part must
see: progress, results, failures, and the states that the supervisor writes.

To add a platform, write a subclass of `Platform` in one file and name it in one line::

    [project.entry-points."mae_sdk.platforms"]
    slurm = "my_package.slurm:SlurmPlatform"

What the methods are given, and what they promise:

``submit(job_dir, record, env)``
    is called once per attempt, under the lock of the folder, by `submit` of this module, which
    ensures that two callers start one supervisor. It returns as soon as the engine has accepted the
    job, with the fields of the attempt by which the engine finds it again: ``{"handle": {...}}``
    (JSON), or ``{"process": identity}`` for a process of this machine. `env` holds what the job
    needs beside the platform's own environment. Its values may be secrets: they belong into the
    engine's store for secrets or the environment of the process, never into a command line or a
    file. The adapter may change ``record["launch"]`` (paths, the interpreter); the record is
    written when it returns.
``state(jobs)``
    is asked about many jobs at once, so that a cluster is polled with one request, and only about
    those whose record holds no end yet. It answers for each with the states of a job: PENDING
    (queued, or about to start again after a preemption), RUNNING, UNKNOWN (cannot be seen from
    here), or one of COMPLETE, ERROR, CANCELED, which all mean that the engine no longer runs it.
    If the record still holds no end then, the job becomes CANCELED where that was asked for, else
    ERROR with the reason and the category of the answer.
``cancel(job_dir, record)``
    ends the attempt if it runs, waits or has left something behind, and returns at once. The
    supervisor gets SIGTERM; it finds the request to cancel in the folder and writes CANCELED.
``resources()``
    what the jobs of this platform have, not what the machine of the caller has.
``logs(job_dir, record)``
    what the engine itself has kept; shown when the job's own log is empty (it never started).

Preemption: a supervisor that gets SIGTERM lets the run save, and the attempt ends PREEMPTED. An
engine that starts preempted or lost jobs again runs the same command: a supervisor that finds its
attempt begun opens the next one, which resumes from the newest checkpoint. Until then `state`
answers PENDING; if the engine does not start it again, `state` answers with an end and the job
waits for `Job.resume`.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

from mae_skill.errors import DependencyError, MaeError, StorageError, UsageError

from mae_sdk.jobs import records
from mae_sdk.jobs.failure import category_of, failure
from mae_sdk.jobs.records import Attempt, JobRecord, ProcessIdentity
from mae_sdk.jobs.secrets import redact, redact_tree, secret_values

GROUP = "mae_sdk.platforms"
DEFAULT = "local"

_BUILT_IN = {"local": "mae_sdk.run.local:LocalPlatform"}
"""Found without an installation's metadata: they cost no search and work from a checkout."""

_loaded: dict[str, Platform] = {}


class EngineState(NamedTuple):
    """What an engine says of an attempt.

    Attributes:
        state: PENDING, RUNNING, UNKNOWN, or (it has ended) COMPLETE, ERROR, CANCELED.
        reason: of an end that the job's record does not tell, in plain words.
        category: of a failure, one of `mae_sdk.jobs.failure.CATEGORIES`.
    """

    state: str
    reason: str = "its supervisor is gone"
    category: str = "lost_process"


class Reference(TypedDict, total=False):
    """The fields of an attempt by which its platform finds it again: one of the two."""

    process: ProcessIdentity
    handle: dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """What one job of a platform can have; None where the platform cannot tell.

    Attributes:
        gpus: number of GPUs.  gpu_names: their names where the supervisor reserves them itself, as
            in ``CUDA_VISIBLE_DEVICES``; empty where the engine allots them.
        device: the name of the GPU's model, or ``cpu``.
        cores: CPU cores.  memory_mb: main memory in MiB.
        here: whether jobs run on the machine of the caller.
    """

    gpus: int | None = None
    gpu_names: tuple[str, ...] = ()
    device: str | None = None
    cores: int | None = None
    memory_mb: int | None = None
    here: bool = False


class Platform(ABC):
    """A place where jobs run; see the module's text for the contract."""

    @abstractmethod
    def submit(self, job_dir: Path, record: JobRecord, env: Mapping[str, str]) -> Reference:
        """Start the supervisor of the pending attempt.

        Raises:
            MaeError: the engine did not take it.
        """

    @abstractmethod
    def state(self, jobs: Sequence[tuple[Path, JobRecord]]) -> list[EngineState]:
        """What the engine says of the last attempt of each job, in the order given.

        Raises:
            StorageError: the engine cannot be reached; the caller may ask again.
        """

    @abstractmethod
    def cancel(self, job_dir: Path, record: JobRecord) -> None:
        """Have the last attempt ended, and whatever it left behind. Not waited for."""

    @abstractmethod
    def resources(self) -> Resources:
        """What a job can have there."""

    def logs(self, job_dir: Path, record: JobRecord) -> str:
        """What the engine has kept of the output of the last attempt."""
        return ""


def platform(name: str) -> Platform:
    """The platform of that name.

    Raises:
        UsageError: there is none.  DependencyError: it cannot be loaded.
    """
    if name not in _loaded:
        places = _BUILT_IN if name in _BUILT_IN else _places()
        if name not in places:
            raise UsageError(
                "no such platform", field="platform", got=name, expected=" or ".join(sorted(places))
            )
        module, _, attribute = places[name].partition(":")
        try:
            made = getattr(import_module(module), attribute)()
        except (ImportError, AttributeError) as error:
            raise DependencyError(
                f"the platform {name} cannot be loaded: {error}", field="platform", got=places[name]
            ) from error
        _loaded[name] = made
    return _loaded[name]


def _places() -> dict[str, str]:
    """Platform name → ``module:class``, of all that are installed."""
    from importlib.metadata import entry_points

    added = {point.name: point.value for point in entry_points(group=GROUP)}
    return {**added, **_BUILT_IN}


def platform_of(record: JobRecord) -> Platform:
    """The platform that a job runs on.

    Raises:
        UsageError, DependencyError: it is not installed here.
    """
    return platform(record.get("platform") or DEFAULT)


def submit(job_dir: Path, env: Mapping[str, str] | None = None) -> bool:
    """Start the pending attempt of a job on its platform, once, however many callers try.

    Args:
        env: what the job needs beside the platform's own environment; no record holds it. Settings
            that the record names are taken from this process where `env` lacks them.

    Returns:
        Whether this call started it.

    Raises:
        MaeError: the platform is not installed, or did not take the job. The attempt is ERROR then,
            with that reason.
    """
    with records.locked(job_dir):
        record = records.read_record(job_dir)
        attempt = records.last_attempt(record)
        if attempt["state"] != records.PENDING:
            return False

        try:
            place = platform_of(record)
            if was_submitted(attempt):
                (seen,) = place.state([(job_dir, record)])
                if not records.is_terminal(seen.state):
                    return False

            names = record.get("env_names") or []
            settings = {name: os.environ[name] for name in names if name in os.environ}
            reference = place.submit(job_dir, record, {**settings, **(env or {})})
        except Exception as error:
            _refused(job_dir, record, error)
            if isinstance(error, OSError):
                raise StorageError(
                    f"the job could not be started: {error.strerror or error}",
                    got=str(job_dir),
                    retryable=False,
                ) from error
            raise
        attempt.update(cast(Attempt, reference))
        records.write_record(job_dir, record)
    return True


def _refused(job_dir: Path, record: JobRecord, error: Exception) -> None:
    """Write down why the pending attempt did not start, unless it may have been started before."""
    if was_submitted(records.last_attempt(record)) and isinstance(error, StorageError):
        return
    secrets = secret_values(os.environ)
    details = redact_tree(error.to_dict(), secrets) if isinstance(error, MaeError) else None
    category = category_of(str((details or {}).get("code")))
    message = f"platform {record.get('platform') or DEFAULT} did not take the job: {error}"
    message = redact(message.partition("\n")[0], secrets)
    problem = failure(category, message, error=details)
    records.advance(record, records.ERROR, message, failure=problem)
    with contextlib.suppress(StorageError):
        records.write_record(job_dir, record)


def was_submitted(attempt: Attempt) -> bool:
    """Whether a platform has taken the attempt."""
    return bool(attempt["process"] or attempt.get("handle"))
