"""The Optuna side of a study: storage, its repair, and which trials count.

Optuna is imported inside functions only: a plan needs none of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DependencyError, StorageError, UsageError

from mae_sdk import files
from mae_sdk.automl.objectives import Objective
from mae_sdk.automl.pruner import make_pruner
from mae_sdk.automl.space import SearchSpace

if TYPE_CHECKING:
    import optuna

    from mae_sdk.automl.options import AutoMLOptions

JOURNAL = "journal.log"
STORAGES = (
    "postgresql://USER@HOST/DB, another database that SQLAlchemy knows (mysql+pymysql://…, "
    "sqlite:///PATH), env:NAME of a variable that holds such a URL, or the path of a journal file"
)
"""What a study can be kept in."""
FAILED = "failed"
"""User attribute of a trial: why it failed.

A configuration that failed is reported as pruned, so that the sampler learns to avoid it."""
LOST = "lost"
"""User attribute of a trial that ended through no fault of its configuration: not counted."""
PRUNED = "pruned"
"""User attribute of a trial that the pruner ended: after which epoch, and at which value."""
SILENT = "its worker went silent"
"""The value of `LOST` where another worker gave the trial up."""
INSTEAD_OF = "instead_of"
"""User attribute of a trial that runs the parameters of a lost one: that trial's number."""
AGAIN = "again"
"""User attribute of a trial that runs the parameters of a lost one: the number of the first draw.
"""


def require_optuna() -> None:
    """Raise `DependencyError` (exit 7) where Optuna 5 is not installed; imports nothing."""
    from importlib.metadata import PackageNotFoundError, version

    hint = "pip install 'mae-skill[train]', or run plain training with automl_policy=off"
    try:
        found = version("optuna")
    except PackageNotFoundError:
        raise DependencyError(
            "AutoML needs Optuna, which is not installed",
            field="automl_policy",
            expected="optuna>=5",
            hint=hint,
        ) from None
    if int(found.split(".")[0]) < 5:
        raise DependencyError(
            "AutoML needs a newer Optuna",
            field="automl_policy",
            got=found,
            expected="optuna>=5",
            hint=hint,
        )


def require_variable(storage: str | None, environment: Mapping[str, str]) -> None:
    """Refuse a storage ``env:NAME`` whose variable the job would not find.

    Raises:
        UsageError: it is not set, or empty.
    """
    name = (storage or "").removeprefix("env:")
    if name != (storage or "") and not environment.get(name):
        raise UsageError(
            "the variable that holds the study's database is not set",
            field="automl.storage",
            got=name,
            hint=f"export it, or give the job --env {name}=URL",
            expected="a variable that holds the URL",
        )


def check_storage(storage: Any, environment: Mapping[str, str], *, here: bool) -> None:
    """Refuse a storage that no study can be kept in.

    Args:
        storage: a URL of a database, ``env:NAME`` of one, a path, or None.
        environment: the job's.
        here: the study runs on this machine: its files and its packages are those of here.

    Raises:
        UsageError: its variable is not set; no such kind of database; a database in memory; a path
            at which something else is.
        DependencyError: the database's driver is not installed.
    """
    if not isinstance(storage, str) or not storage:
        return  # a wrong type is an error of the options
    require_variable(storage, environment)
    if storage.startswith("env:"):
        storage = environment[storage.removeprefix("env:")]
    if re.match(r"[A-Za-z][\w+.-]+:/|://", storage):  # a drive of Windows has one letter
        _check_database(storage, here=here)
    elif here:
        _check_journal(Path(storage))


def _check_database(url: str, *, here: bool) -> None:
    """`check_storage` of a URL; an error shows its scheme alone: the rest may hold a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    scheme = url.partition(":")[0]
    wrong: dict[str, Any] = {
        "field": "automl.storage",
        "got": f"{scheme}://…",
        "expected": STORAGES,
    }
    try:
        parts = make_url(_with_driver(url))
        dialect = parts.get_dialect()
    except (SQLAlchemyError, ValueError):
        hint = "postgresql:// is its name here" if scheme == "postgres" else None
        raise UsageError("no database of this kind is known", **wrong, hint=hint) from None
    except ImportError as error:
        raise _no_driver(scheme, error) from None
    if getattr(dialect, "is_async", False):
        hint = f"{scheme.partition('+')[0]}://… has a driver that waits"
        raise UsageError("an asynchronous driver keeps no study", **wrong, hint=hint)
    in_memory = parts.database in (None, "", ":memory:")
    if parts.get_backend_name() == "sqlite" and in_memory:
        hint = "sqlite:///PATH is one in a file"
        raise UsageError("a database in memory is lost with its process", **wrong, hint=hint)
    if here:
        try:
            dialect.import_dbapi()
        except ImportError as error:
            raise _no_driver(scheme, error) from None


def _no_driver(scheme: str, error: ImportError) -> DependencyError:
    hint = (
        f"install the driver {error.name}, or name another: {scheme.partition('+')[0]}+DRIVER://…"
    )
    return DependencyError(
        "the driver of this database is not installed",
        field="automl.storage",
        got=f"{scheme}://…: {error}",
        expected=STORAGES,
        hint="pip install 'mae-skill[postgres]'" if scheme.startswith("postgresql") else hint,
    )


def _check_journal(path: Path) -> None:
    """`check_storage` of a path: lines of JSON, or nothing yet."""
    wrong: dict[str, Any] = {"field": "automl.storage", "got": str(path), "expected": STORAGES}
    try:
        if path.is_dir():
            raise UsageError("this is a folder", **wrong, hint=f"{path}/{JOURNAL}")
        with path.open("rb") as file:
            start = file.read(1)
    except OSError:
        return  # it is made, or the study says why it cannot be
    if start not in (b"", b"{"):
        raise UsageError("this file is no journal of a study", **wrong, hint="name a new file")


def _with_driver(url: str) -> str:
    """The URL with the driver that the extra ``postgres`` installs."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme == "postgresql" else url


@contextlib.contextmanager
def controller_lock(folder: Path) -> Iterator[None]:
    """One controller per study: an OS lock that dies with its holder.

    Raises:
        StorageError: another controller holds it.
    """
    try:
        held = files.lock(folder / "controller.lock", wait=False)
    except BlockingIOError:
        raise StorageError(
            "another controller runs this study",
            field="automl",
            got=str(folder),
            hint="wait for it, or cancel the job",
            expected="one controller for a study",
        ) from None
    try:
        yield
    finally:
        held.close()


def repair_journal(path: Path) -> int:
    """Cut a journal back to its last newline and remove Optuna's stale lock.

    Call only while holding the controller's lock. A torn last line would otherwise be glued to the
    next record and corrupt the study.

    Returns:
        Bytes cut off.
    """
    for stale in path.parent.glob(f"{path.name}.lock*"):
        stale.unlink(missing_ok=True)
    return cut_torn_line(path)


def cut_torn_line(path: Path) -> int:
    """Cut a file back to its last newline; returns the bytes cut off.

    Call only while holding the lock.
    """
    try:
        with path.open("r+b") as stream:
            size = stream.seek(0, os.SEEK_END)
            keep, position = 0, size
            while position > 0:
                start = max(0, position - 65536)
                stream.seek(start)
                found = stream.read(position - start).rfind(b"\n")
                if found >= 0:
                    keep = start + found + 1
                    break
                position = start
            if keep < size:
                stream.truncate(keep)
                os.fsync(stream.fileno())
            return size - keep
    except FileNotFoundError:
        return 0


def open_storage(automl_dir: Path, storage: str | None) -> optuna.storages.BaseStorage:
    """The storage of a study: a journal file in ``automl_dir`` (or at a path), or an RDB URL.

    ``env:NAME`` is what that variable holds.

    Raises:
        UsageError: that variable is not set.
        StorageError: the database does not answer. DependencyError: its driver is missing.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    require_variable(storage, os.environ)
    if storage and storage.startswith("env:"):
        storage = os.environ[storage.removeprefix("env:")]
    if storage and "://" in storage:
        url = _with_driver(storage)
        from sqlalchemy.exc import SQLAlchemyError

        try:
            # Workers that create the tables at the same moment get in each other's way.
            for pause in (0.2, 0.6, 1.5):
                with contextlib.suppress(SQLAlchemyError):
                    return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
                time.sleep(pause)
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except ImportError as error:
            raise _no_driver(storage.partition("://")[0], error) from None
        except SQLAlchemyError as error:
            first = str(error).splitlines()[0]
            raise StorageError(
                "the study's database does not answer",
                field="automl.storage",
                got=first,
                expected="a reachable RDB URL",
                hint="see that its server runs and can be reached from here; then again",
            ) from None
    path = Path(storage) if storage else automl_dir / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    if storage is None:
        repair_journal(path)
        return JournalStorage(JournalFileBackend(str(path)))
    lock = JournalFileSymlinkLock(str(path))

    class SharedJournal(JournalFileBackend):
        """A worker that dies while it writes leaves half a line: the next writer cuts it off."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            lock.acquire()
            try:
                cut_torn_line(path)
                with path.open("ab") as stream:
                    stream.write(text.encode())
                    stream.flush()
                    os.fsync(stream.fileno())
            finally:
                # Stopped in here for so long, another worker may have broken the lock.
                with contextlib.suppress(RuntimeError):
                    lock.release()

    return JournalStorage(SharedJournal(str(path), lock_obj=lock))


def open_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    objectives: Sequence[Objective],
    space: SearchSpace,
    spec: Mapping[str, Any],
    options: AutoMLOptions,
    *,
    max_epochs: int | None,
    auto_spec: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """Create the study or load it.

    Directions and metric names are stored in it; a study with others is refused.

    Raises:
        UsageError: the stored study has other metrics or directions.
    """
    import optuna

    from mae_sdk.automl.samplers import make_sampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = make_sampler(space, spec, options, len(objectives), auto_spec)
    pruner = make_pruner(options, len(objectives), max_epochs)
    directions: list[Any] = [objective.direction for objective in objectives]
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=directions,
            load_if_exists=True,
            sampler=sampler,
            pruner=pruner,
        )
    except optuna.exceptions.DuplicatedStudyError:  # two workers created it at once
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    names = [objective.metric for objective in objectives]
    stored = study.metric_names
    if [direction.name.lower() for direction in study.directions] != directions or (
        stored is not None and stored != names
    ):
        raise UsageError(
            "the storage already holds a study of this name with other metrics",
            field="automl.study",
            got=f"{stored} {[direction.name.lower() for direction in study.directions]}",
            expected=f"{names} {directions}",
            hint="choose another study name",
        )
    if stored is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metric names are marked experimental
            study.set_metric_names(names)
    return study


def spent(study: optuna.Study) -> int:
    """Trials that count against ``max_trials``; see `counted`."""
    return len(counted(study))


def counted(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """All trials but those lost to the machine and those that wait to be run again.

    The trial of a worker that is gone counts until the one that replaces it is queued, so that no
    other trial takes its place in between.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    replaced = {trial.user_attrs.get(INSTEAD_OF) for trial in trials}

    def counts(trial: optuna.trial.FrozenTrial) -> bool:
        lost = trial.user_attrs.get(LOST)
        waits_for_another = lost == SILENT and bool(trial.params) and trial.number not in replaced
        return trial.state != TrialState.WAITING and (lost is None or waits_for_another)

    return [trial for trial in trials if counts(trial)]
