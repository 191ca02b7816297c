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
    those whose record holds no end yet, or that were preempted and may go on. It answers for each
    with the states of a job: PENDING (queued, or about to start again after a preemption), RUNNING,
    UNKNOWN (cannot be seen from here), or one of COMPLETE, ERROR, CANCELED, which all mean that the
    engine no longer runs it.
    If the record still holds no end then, the job becomes CANCELED where that was asked for, else
    ERROR with the reason and the category of the answer. A job that the engine does not know is
    `forgotten_by` it.
``cancel(job_dir, record)``
    ends the attempt if it runs, waits or has left something behind, and returns at once. The
    supervisor gets SIGTERM; it finds the request to cancel in the folder and writes CANCELED.
``resources(options)``
    what the jobs of this platform have, not what the machine of the caller has. `options` are the
    settings of the job, as `Platform.options` declares them (`mae_sdk.run.options`); the record
    holds them for the other methods.
``plans_without(error, options)``, ``stretch(options)``
    for plans: whether one can be made though `resources` raised this error, since the engine is
    only out of reach; and after how many seconds the engine has a job save and starts it again.
``mounted(options)``
    the folders that the settings mount where the job runs. Data in them that are not on the machine
    of the caller are planned without a look at them.
``wrap(command, record, environment)``
    the command that the supervisor runs in place of the job's own, and how many processes of it:
    to start the ranks in a container, or on every node of a job that has several.
``logs(job_dir, record)``
    what the engine itself has kept; shown when the job's own log is empty (it never started).

Preemption: a supervisor that gets SIGTERM lets the run save, and the attempt ends PREEMPTED. An
engine that starts preempted or lost jobs again runs the same command: a supervisor that finds its
attempt begun opens the next one, which resumes from the newest checkpoint. Until then `state`
answers PENDING; if the engine does not start it again, `state` answers with an end and the job
waits for `Job.resume`. It ends with CANCELED where the engine says so, and where an engine that
starts jobs again (`starts_again`) has forgotten it.

Nothing is submitted twice: `submit` below holds the folder's lock, and an adapter gives its engine
the name of the attempt (`attempt_name`), by which it finds what a caller that was killed in between
has left there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypedDict, cast

from mae_skill.errors import DependencyError, MaeError, StorageError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.failure import category_of, failure
from mae_sdk.jobs.records import Attempt, JobRecord, ProcessIdentity
from mae_sdk.jobs.secrets import redact, redact_tree, secret_values
from mae_sdk.run.options import Option, settle
from mae_sdk.run.registry import find

DEFAULT = "local"

_loaded: dict[str, Platform] = {}


class EngineState(NamedTuple):
    """What an engine says of an attempt.

    Attributes:
        state: PENDING, RUNNING, UNKNOWN, or (it has ended) COMPLETE, ERROR, CANCELED.
        reason: of an end that the job's record does not tell, in plain words.
        category: of a failure, one of `mae_sdk.jobs.failure.CATEGORIES`.
        forgotten: the engine does not know the job: whether it was canceled there or lost, nobody
            can tell.
        error: of a failure that a setting has caused, as `MaeError.to_dict` gives it.
    """

    state: str
    reason: str = "its supervisor is gone"
    category: str = "lost_process"
    forgotten: bool = False
    error: dict[str, Any] | None = None


def forgotten_by(engine: str) -> EngineState:
    """What is said of a job that its engine does not know, or no longer."""
    return EngineState(records.ERROR, f"{engine} knows it no longer", forgotten=True)


class Reference(TypedDict, total=False):
    """The fields of an attempt by which its platform finds it again: one of the two."""

    process: ProcessIdentity
    handle: dict[str, Any]


class Resources(NamedTuple):
    """What one job of a platform can have; None where the platform cannot tell.

    Attributes:
        gpus: number of GPUs.  gpu_names: their names where the supervisor reserves them itself, as
            in ``CUDA_VISIBLE_DEVICES``; empty where the engine allots them.
        device: the name of the GPU's model, or ``cpu``.
        cores: CPU cores.  memory_mb: main memory in MiB.
        nodes: the most that one job can have.
        here: whether jobs run on the machine of the caller.
        where: whose the GPUs, cores and memory are, for errors: ``a node of the partition gpu``.
    """

    gpus: int | None = None
    gpu_names: tuple[str, ...] = ()
    device: str | None = None
    cores: int | None = None
    memory_mb: int | None = None
    nodes: int | None = 1
    here: bool = False
    where: str = ""

    @property
    def machine(self) -> str:
        """What has these resources, in words."""
        return self.where or ("this machine" if self.here else "a machine of the platform")


class Missing(NamedTuple):
    """What a platform lacks here, and how to get it."""

    what: str
    how: str


class Platform(ABC):
    """A place where jobs run; see the module's text for the contract.

    Attributes:
        name: by which it is registered.
        about: it in one line.
        apart: whether its jobs see no folder of the caller's. Then `submit` copies the folder to
            its URL first, and whoever runs the job there is `mae_sdk.run.from_url`.
        supervised_here: whether the supervisor is a process of the caller's machine.
        starts_again: whether its engine starts a preempted job again by itself. One that it has
            forgotten is over then, and does not wait for anybody.
        options: the settings that a job may be given.
    """

    name: str = ""
    about: ClassVar[str] = ""
    apart: ClassVar[bool] = False
    supervised_here: ClassVar[bool] = False
    starts_again: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Option]] = {}

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
    def resources(self, options: Mapping[str, Any]) -> Resources:
        """What a job with these settings can have there.

        Raises:
            DependencyError, UsageError: the engine cannot be used from here, and why.
        """

    def preview(self, job_dir: Path, record: JobRecord) -> list[dict[str, Any]]:
        """What the engine would be given, as JSON types, for a plan to show.

        Raises:
            UsageError: such a job cannot be submitted.
        """
        return []

    def stretch(self, options: Mapping[str, Any]) -> float | None:
        """Seconds after which the engine has a job save, and starts it again; None: it does not."""
        return None

    def plans_without(self, error: MaeError, options: Mapping[str, Any]) -> bool:
        """Whether a job can be planned and shown though `resources` raised this error: the engine
        is out of reach, and nothing else is wrong. Such a plan is not launched."""
        return False

    def mounted(self, options: Mapping[str, Any]) -> list[str]:
        """Folders that these settings put into the place where a job runs: what lies in one may be
        seen there alone."""
        return []

    def missing(self, options: Mapping[str, Any]) -> list[Missing]:
        """What keeps jobs with these settings from running; empty where nothing does."""
        return []

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a job: those given, the site's, the defaults.

        Raises:
            UsageError: one is unknown or wrong.
        """
        return settle(self.name, self.options, given)

    def wrap(
        self, command: Sequence[str], record: JobRecord, environment: Mapping[str, str]
    ) -> tuple[list[str], int]:
        """What the supervisor runs in place of the command, and how many processes of it."""
        return list(command), int(record["launch"].get("processes") or 1)

    def logs(self, job_dir: Path, record: JobRecord) -> str:
        """What the engine has kept of the output of the last attempt."""
        return ""


def platform(name: str) -> Platform:
    """The platform of that name.

    Raises:
        UsageError: there is none.  DependencyError: it cannot be loaded.
    """
    if name not in _loaded:
        where = find(name)
        module, _, attribute = where.partition(":")
        try:
            made = getattr(import_module(module), attribute)()
        except (ImportError, AttributeError) as error:
            raise DependencyError(
                f"the platform {name} cannot be loaded: {error}", field="platform", got=where
            ) from error
        made.name = name
        _loaded[name] = made
    return _loaded[name]


def platform_of(record: JobRecord) -> Platform:
    """The platform that runs a job, as `platform_for`."""
    return platform_for(record.get("platform"), is_study=record.get("kind") == "automl")


def platform_for(name: str | None, *, is_study: bool) -> Platform:
    """The platform that runs a job which asks for this one.

    A study computes nothing itself: where the jobs of its platform see no folder of the caller's,
    it runs on the caller's machine, and its trials there.

    Raises:
        UsageError, DependencyError: it is not installed here.
    """
    place = platform(name or DEFAULT)
    return platform(DEFAULT) if place.apart and is_study else place


def last_lines(path: Path, most: int = 1 << 20) -> str:
    """The end of a file that an engine has written; empty where there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - most))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def with_python(command: Sequence[str], python: str | None) -> list[str]:
    """A command with another Python in place of this one; None leaves it."""
    return [python or command[0], *command[1:]] if command[0] == sys.executable else list(command)


def attempt_name(job_dir: Path, record: JobRecord) -> str:
    """The name of the last attempt at its engine: the same however often it is submitted.

    Lower-case letters, digits and dashes, at most 52 characters, so that every engine takes it.
    """
    import hashlib

    place = record["launch"].get("remote") or str(job_dir)
    digest = hashlib.sha256(place.encode()).hexdigest()[:8]
    word = "".join(c if c.isascii() and c.isalnum() else "-" for c in record["id"].lower())
    number = records.last_attempt(record)["number"]
    return f"mae-{word.strip('-')[-32:].strip('-')}-{digest}-{number}"


class Polled(Platform):
    """A platform whose engine is asked about all jobs at once, and less often while nothing moves.

    `poll` is called with every job that somebody asked for; its answers hold for a pause that grows
    from `shortest` to `longest` seconds while they stay the same.

    Attributes:
        how: how to get the engine, where an error does not say it better.
    """

    how: ClassVar[str] = ""
    shortest: ClassVar[float] = 0.5
    longest: ClassVar[float] = 15.0

    def __init__(self) -> None:
        self._seen: dict[str, EngineState] = {}
        self._asked_at = 0.0
        self._pause = self.shortest

    def missing(self, options: Mapping[str, Any]) -> list[Missing]:
        """Whatever keeps the engine from saying what it has."""
        try:
            self.resources(options)
        except MaeError as error:
            return [Missing(error.message, error.hint or self.how)]
        return []

    @abstractmethod
    def poll(self, jobs: Sequence[tuple[Path, JobRecord]]) -> list[EngineState]:
        """As `state`, of the engine itself."""

    def state(self, jobs: Sequence[tuple[Path, JobRecord]]) -> list[EngineState]:
        """What the engine last said, asked again when that is old or tells nothing of a job."""
        keys = [_key(job_dir, record) for job_dir, record in jobs]
        is_old = time.monotonic() - self._asked_at > self._pause
        if is_old or any(key not in self._seen for key in keys):
            seen = dict(zip(keys, self.poll(jobs), strict=True))
            is_same = all(self._seen.get(key) == value for key, value in seen.items())
            self._pause = min(self.longest, self._pause * 1.5) if is_same else self.shortest
            self._seen = {**({} if is_old else self._seen), **seen}
            self._asked_at = time.monotonic()
        return [self._seen[key] for key in keys]

    def ask_again(self) -> None:
        """Forget what the engine said: a job was submitted or canceled."""
        self._seen, self._pause = {}, self.shortest


def _key(job_dir: Path, record: JobRecord) -> str:
    attempt = records.last_attempt(record)
    return f"{job_dir}#{attempt['number']}#{attempt['state']}"


NO_SUPERVISOR = Missing(
    "the supervisor of a job runs on Linux and macOS, not on Windows",
    "run it in WSL 2, or on a platform that is elsewhere: mae platforms",
)


def check_system(place: Platform) -> None:
    """Refuse to start a job on a system that its supervisor does not run on.

    Raises:
        DependencyError: this is one.
    """
    if place.supervised_here and not files.HAS_FLOCK:
        what, how = NO_SUPERVISOR
        raise DependencyError(what, field="platform", got=place.name, hint=how)


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
            check_system(place)
            if was_submitted(attempt):
                (seen,) = place.state([(job_dir, record)])
                if not records.is_terminal(seen.state):
                    return False

            names = record.get("env_names") or []
            settings = {name: os.environ[name] for name in names if name in os.environ}
            if record.get("claim") == records.HANDED_OVER:
                return False
            if place.apart:
                place.preview(job_dir, record)
            with _handed_over(job_dir, record) if place.apart else contextlib.nullcontext():
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


@contextlib.contextmanager
def _handed_over(job_dir: Path, record: JobRecord) -> Iterator[None]:
    """Put the folder behind its URL, for whoever starts the job to take.

    What stays here is a copy that is nobody's: the job is read at its URL from now on, unless its
    platform refuses it.
    """
    from mae_sdk.jobs import sync

    claim = record.setdefault("claim", sync.new_claim())
    records.last_attempt(record)["handle"] = {"job": attempt_name(job_dir, record)}
    records.write_record(job_dir, record)
    sync.push(job_dir, record["launch"]["remote"])
    record["claim"] = records.HANDED_OVER
    records.write_record(job_dir, record)
    try:
        yield
    except StorageError:  # the engine may have taken it before its answer was lost
        raise
    except Exception:
        record["claim"] = claim
        records.last_attempt(record).pop("handle", None)  # nothing is there under that name
        raise


def _refused(job_dir: Path, record: JobRecord, error: Exception) -> None:
    """Write down why the pending attempt did not start, unless it may have been started before."""
    if was_submitted(records.last_attempt(record)) and isinstance(error, StorageError):
        return
    secrets = secret_values(os.environ)
    details = redact_tree(error.to_dict(), secrets) if isinstance(error, MaeError) else None
    category = category_of(str((details or {}).get("code")))
    message = f"platform {record.get('platform') or DEFAULT} did not take the job: {error}"
    if not isinstance(error, StorageError):  # else its answer may have been lost
        message = f"refused, and never submitted: {message}"
    message = redact(message.partition("\n")[0], secrets)
    problem = failure(category, message, error=details)
    records.advance(record, records.ERROR, message, failure=problem)
    with contextlib.suppress(StorageError):
        records.write_record(job_dir, record)


def was_refused(job_dir: Path, error: MaeError) -> bool:
    """Whether a job was refused for good, before anything of it was started: its engine answered,
    did not take it, and would not take it later. Then nobody can do anything with its folder.

    Args:
        error: of `submit`.
    """
    if error.retryable or isinstance(error, StorageError):  # it may have been taken, or may yet be
        return False
    try:
        attempts = records.read_record(job_dir)["attempts"]
    except MaeError:
        return False
    return len(attempts) == 1 and not was_submitted(attempts[0])


def was_submitted(attempt: Attempt) -> bool:
    """Whether a platform has taken the attempt."""
    return bool(attempt["process"] or attempt.get("handle"))
