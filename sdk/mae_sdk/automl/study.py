"""The Optuna side of a study: storage, its repair, samplers that depend on (seed, trial number).

Optuna is imported inside functions only: a plan needs none of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import json
import math
import os
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DependencyError, StorageError, UsageError

from mae_sdk import files
from mae_sdk.automl.objectives import Objective
from mae_sdk.automl.pruner import make_pruner
from mae_sdk.automl.space import Parameter, SearchSpace

if TYPE_CHECKING:
    import optuna

    from mae_sdk.automl.options import AutoMLOptions

JOURNAL = "journal.log"
FAILED = "failed"
"""User attribute of a trial: why it failed.

A configuration that failed is reported as pruned, so that the sampler learns to avoid it."""
LOST = "lost"
"""User attribute of a trial that ended through no fault of its configuration: not counted."""
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


def require_variable(storage: Any, environment: Mapping[str, str]) -> None:
    """Refuse a storage ``env:NAME`` whose variable the job would not find.

    Raises:
        UsageError: it is not set, or empty.
    """
    name = storage.removeprefix("env:") if isinstance(storage, str) else ""
    if name != (storage or "") and not environment.get(name):
        raise UsageError(
            "the variable that holds the study's database is not set",
            field="automl.storage",
            got=name,
            hint=f"export it, or give the job --env {name}=URL",
        )


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
        url = (
            storage.replace("postgresql://", "postgresql+psycopg://", 1)
            if storage.startswith("postgresql://")
            else storage
        )
        from sqlalchemy.exc import SQLAlchemyError

        try:
            # Workers that create the tables at the same moment get in each other's way.
            for pause in (0.2, 0.6, 1.5):
                with contextlib.suppress(SQLAlchemyError):
                    return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
                time.sleep(pause)
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except ImportError as error:
            hint = "pip install 'mae-skill[postgres]'"
            raise DependencyError(
                "the driver of this database is not installed",
                field="automl.storage",
                got=str(error),
                hint=hint,
            ) from None
        except SQLAlchemyError as error:
            first = str(error).splitlines()[0]
            raise StorageError(
                "the study's database does not answer",
                field="automl.storage",
                got=first,
                expected="a reachable RDB URL",
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


def trial_seed(seed: int, number: int) -> int:
    """The seed of one trial's proposals. A seeded sampler that is restarted would repeat itself."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def startup_trials(max_trials: int) -> int:
    """Trials before TPE starts to model: an eighth of the budget, between 3 and 10.

    Chosen by ``benchmarks/automl.py quality``.
    """
    return max(3, min(10, max_trials // 8))


def _grid(space: SearchSpace, options: AutoMLOptions) -> list[dict[str, Any]]:
    """Every combination of parameter values, in an order that is a function of the seed."""
    axes: list[list[Any]] = [
        _points(parameter, options.grid_points) for parameter in space.parameters
    ]
    names = [parameter.name for parameter in space.parameters]
    if math.prod(len(axis) for axis in axes) > 100_000:
        raise UsageError(
            "the grid is too large",
            field="automl.grid_points",
            got=options.grid_points,
            expected="at most 100,000 combinations",
        )
    points = [dict(zip(names, values, strict=True)) for values in itertools.product(*axes)]
    random.Random(trial_seed(options.seed, -1)).shuffle(points)
    return points


def _points(parameter: Parameter, count: int) -> list[Any]:
    if parameter.kind == "categorical":
        return list(parameter.choices)
    assert parameter.low is not None and parameter.high is not None
    shares = [i / (count - 1) for i in range(count)]
    if parameter.log:
        raw = [
            math.exp(
                math.log(parameter.low)
                + share * (math.log(parameter.high) - math.log(parameter.low))
            )
            for share in shares
        ]
    else:
        raw = [parameter.low + share * (parameter.high - parameter.low) for share in shares]
    return list(dict.fromkeys(parameter.nearest(value) for value in raw))


def grid_size(space: SearchSpace, options: AutoMLOptions, auto: bool = False) -> int | None:
    """Trials of a grid search, trial 0 included; None under another sampler.

    Args:
        auto: whether trial 1 is the auto recipe.
    """
    return 1 + auto + len(_grid(space, options)) if options.sampler == "grid" else None


def make_sampler(
    space: SearchSpace,
    spec: Mapping[str, Any],
    options: AutoMLOptions,
    metrics: int,
    auto_spec: Mapping[str, Any] | None = None,
) -> optuna.samplers.BaseSampler:
    """A sampler whose proposals depend on (seed, trial number) and on the finished trials alone.

    Trial 0 is the spec as given, trial 1 the auto recipe where there is one; then grid points are
    taken in order, or the points of a sequence (qmc); options with weights are drawn by them until
    TPE has a model.
    """
    from optuna import distributions, samplers
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState

    kind = options.sampler or ("nsga2" if metrics > 1 else "tpe")
    needs = {"cmaes": "cmaes", "qmc": "scipy"}.get(kind)
    if needs and importlib.util.find_spec(needs) is None:
        raise DependencyError(
            f"the sampler {kind} needs {needs}, which is not installed",
            field="automl.sampler",
            expected=needs,
            hint="pip install 'mae-skill[train]'",
        )
    startup = startup_trials(options.max_trials)
    dynamic = any(parameter.when or parameter.relations for parameter in space.parameters)
    weighted = {parameter.name: parameter for parameter in space.parameters if parameter.weights}
    first = [space.given(one)[0] for one in (spec, auto_spec) if one is not None]
    grid = _grid(space, options) if kind == "grid" else []

    def distribution_of(parameter: Parameter) -> BaseDistribution:
        if parameter.kind == "categorical":
            return distributions.CategoricalDistribution(parameter.choices)
        assert parameter.low is not None and parameter.high is not None
        if parameter.kind == "int":
            return distributions.IntDistribution(
                int(parameter.low), int(parameter.high), parameter.log, parameter.step or 1
            )
        return distributions.FloatDistribution(parameter.low, parameter.high, parameter.log)

    class SobolSequence(samplers.QMCSampler):
        """The point of a scrambled Sobol' sequence that belongs to a trial's number.

        Optuna counts the points in the study instead, where a controller that is killed between
        counting a point and using it loses the point.
        """

        def __init__(self, number: int) -> None:
            random_sampler = samplers.RandomSampler(trial_seed(options.seed, number))
            super().__init__(
                scramble=True,
                seed=options.seed,
                independent_sampler=random_sampler,
                warn_independent_sampling=False,
            )
            self._number = number

        def infer_relative_search_space(
            self, study: optuna.Study, trial: FrozenTrial
        ) -> dict[str, BaseDistribution]:
            drawn = [parameter for parameter in space.parameters if not parameter.weights]
            return {parameter.name: distribution_of(parameter) for parameter in drawn}

        def _find_sample_id(self, study: optuna.Study, search_space: Any) -> int:
            return self._number - len(first)

    def base(number: int) -> samplers.BaseSampler:
        seed = trial_seed(options.seed, number)
        if kind == "cmaes":
            return samplers.CmaEsSampler(
                seed=seed,
                warn_independent_sampling=False,
                independent_sampler=samplers.RandomSampler(seed),
            )
        if kind == "nsga2":
            population = max(4, min(50, options.max_trials // 4))
            return samplers.NSGAIISampler(population_size=population, seed=seed)
        if kind in ("random", "grid"):
            return samplers.RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `group` and QMCSampler are marked experimental
            if kind == "qmc":
                return SobolSequence(number)
            return samplers.TPESampler(
                seed=seed,
                n_startup_trials=startup,
                multivariate=True,
                group=dynamic,
                warn_independent_sampling=False,
                constant_liar=True,
            )

    class Sampler(samplers.BaseSampler):
        def __init__(self) -> None:
            self._bases: dict[int, samplers.BaseSampler] = {}

        def _for(self, number: int) -> samplers.BaseSampler:
            if number not in self._bases:
                self._bases = {number: base(number)}
            return self._bases[number]

        def _fixed(self, number: int) -> Mapping[str, Any]:
            if number < len(first):
                return first[number]
            place = number - len(first)
            return grid[place] if place < len(grid) else {}

        def infer_relative_search_space(
            self, study: optuna.Study, trial: FrozenTrial
        ) -> dict[str, BaseDistribution]:
            if self._fixed(trial.number):
                return {}
            return self._for(trial.number).infer_relative_search_space(study, trial)

        def sample_relative(
            self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
        ) -> dict[str, Any]:
            if self._fixed(trial.number):
                return {}
            return self._for(trial.number).sample_relative(study, trial, search_space)

        def sample_independent(
            self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
        ) -> Any:
            fixed = self._fixed(trial.number)
            if name in fixed and distribution._contains(distribution.to_internal_repr(fixed[name])):
                return fixed[name]
            if name in weighted:
                finished = study.get_trials(
                    deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
                )
                if kind != "tpe" or len(finished) < startup:
                    parameter = weighted[name]
                    draw = random.Random(
                        trial_seed(options.seed, trial.number) ^ trial_seed(0, len(name))
                    )
                    return draw.choices(parameter.choices, parameter.weights)[0]
            return self._for(trial.number).sample_independent(study, trial, name, distribution)

        def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
            self._for(trial.number).before_trial(study, trial)

        def after_trial(
            self,
            study: optuna.Study,
            trial: FrozenTrial,
            state: TrialState,
            values: Sequence[float] | None,
        ) -> None:
            self._for(trial.number).after_trial(study, trial, state, values)

    return Sampler()


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
