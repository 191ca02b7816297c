"""Checkpoints of a runner that keeps no index: epoch, step, best and latest by the files' names.

TAO's layout: ``model_epoch_001.pth``, ``model_epoch_001_step_00020.pth``, ``model_best_003.pth``,
``<arch>_model_latest.pth``. The highest epoch, then the highest step, is the latest; a name with
"best" is preferred where the best is asked for, and where there is none, the latest is taken and
said to be that. What a runner saves beside its weights, such as the state of its optimizer or an
averaged copy, is passed over (`checkpoint_files`). Where the job states a metric, and its status
lines a value for each epoch, or for each step where there are no epochs, these decide which is the
best.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mae_skill.errors import NotFoundError

from mae_sdk.jobs.checkpoint_files import averaged_beside, is_state, the_model, without_states
from mae_sdk.jobs.checkpoints import parse_policy

CHECKPOINT, ONNX, ENGINE = "checkpoint", "onnx", "engine"

_SUFFIXES = {
    ENGINE: (".engine", ".plan", ".trt"),
    ONNX: (".onnx",),
    CHECKPOINT: (".pth", ".pt", ".ckpt", ".safetensors", ".hdf5", ".tlt"),
}
_OTHER_MODELS = (
    *(".pkl", ".pickle", ".joblib", ".bin", ".h5", ".keras", ".npz", ".tflite", ".pb"),
    *(".ubj", ".cbm", ".gguf", ".mar", ".mlmodel", ".msgpack"),
)
"""Suffixes of models of other makes, which files that are none have too."""
_CALLED_MODEL = re.compile(r"model|weights|booster|checkpoint", re.IGNORECASE)
_MAYBE_MODEL = re.compile(r"model|weights|booster|checkpoint|ckpt|snapshot", re.IGNORECASE)
_NO_MODEL = (
    *(".json", ".jsonl", ".yaml", ".yml", ".toml", ".txt", ".log", ".csv", ".tsv", ".md", ".py"),
    *(".html", ".png", ".jpg", ".svg", ".onnx", ".engine", ".plan", ".trt"),
)
_FOREIGN_FOLDERS = frozenset({"inputs", "ptm", "automl", "__pycache__"})
"""Folders of a job whose model files are not its results."""

_EPOCH = re.compile(r"(?:^|[_\-.=/])(?:epoch|ep|best)[_\-=]?0*(\d+)(?!\d)", re.IGNORECASE)
_LATEST = re.compile(r"latest|(?:^|[_\-.])last(?:$|[_\-.])", re.IGNORECASE)
_STEP = re.compile(r"(?:^|[_\-.=/])(?:step|iter|iteration)[_\-=]?0*(\d+)(?!\d)", re.IGNORECASE)
_BARE = re.compile(
    r"(?:(?:ckpt|checkpoint|model|weights|snapshot|net)[_\-.=]?)?0*(\d+)", re.IGNORECASE
)
"""A number alone, or behind a word that says neither epoch nor step: ``ckpt_12``."""


def artifact_kind(name: str) -> str | None:
    """``checkpoint``, ``onnx`` or ``engine`` by the suffix of a file name; else None."""
    suffix = PurePosixPath(name).suffix.lower()
    return next((kind for kind, suffixes in _SUFFIXES.items() if suffix in suffixes), None)


def stated_model(result: str | None) -> str | None:
    """The result that a bundle states, where it is a model: by its suffix, or because its name says
    so, as that of ``model.json`` does and that of ``metrics.json`` does not.
    """
    path = PurePosixPath(result or "")
    by_name = _CALLED_MODEL.search(path.stem) and path.suffix
    return path.as_posix() if path.suffix.lower() in _OTHER_MODELS or by_name else None


def _called_model(name: str) -> bool:
    """Whether a file of another make is a model by its name, as ``pytorch_model.bin`` is and
    ``training_args.bin`` is not."""
    path = PurePosixPath(name)
    of_kind = path.suffix.lower() in _OTHER_MODELS
    return of_kind and bool(_CALLED_MODEL.search(path.stem)) and not is_state(name)


def models_of(names: Iterable[str]) -> list[str]:
    """The checkpoints among files, without what was saved beside them: the states of a training,
    and averaged copies. Where they are states alone, the models of other makes beside them."""
    everything = sorted(names)
    found = [name for name in everything if artifact_kind(name) == CHECKPOINT]
    if found and all(map(is_state, found)):
        found = [name for name in everything if _called_model(name)] or found
    found = without_states(found)
    averaged = averaged_beside(found)
    return [name for name in found if name not in averaged]


def results_of(names: Iterable[str], action: str) -> list[str]:
    """The files of a job that are its results: those in its action's folder; where there is no
    model, those of its other folders, since a runner may name its folder otherwise.
    """
    everything = sorted(names)
    own = [name for name in everything if name.startswith(f"{action}/")]
    if any(artifact_kind(name) for name in own):
        return own
    others = [
        name
        for name in everything
        if (artifact_kind(name) or _called_model(name))
        and not _FOREIGN_FOLDERS & set(PurePosixPath(name).parts[:-1])
    ]
    return sorted({*own, *others})


_OF_THE_JOB = re.compile(
    r"\..*|(job|sync|status|spec)\.(json|yaml|toml)|cancel\.request|(log|slurm)\.txt|warm\.log"
    r"|report\.html"
)
"""What a job itself keeps at the top of its folder."""


def made_by_runner(names: Iterable[str]) -> list[str]:
    """The files of a job folder that its runner left: all but the job's own and what was brought
    for it."""
    return [
        name
        for name in sorted(names)
        if (parts := PurePosixPath(name).parts)[0] not in _FOREIGN_FOLDERS
        and not (len(parts) == 1 and _OF_THE_JOB.fullmatch(name))
        and not (len(parts) == 2 and parts[1] == "status.json")
    ]


def place(name: str) -> tuple[int, int] | None:
    """The epoch and step (-1: not said) that a file name states, or, where it states neither, its
    folder (``checkpoint-20/model.safetensors``); None where that does not either."""
    path = PurePosixPath(name)
    return _place_in(path.stem) or _place_in(path.parent.name)


def is_numbered(name: str) -> bool:
    """Whether a name says which checkpoint of a training it is: its epoch or step, best or last."""
    stem = PurePosixPath(name).stem
    return place(name) is not None or "best" in stem.lower() or bool(_LATEST.search(stem))


def _place_in(word: str) -> tuple[int, int] | None:
    epochs = [int(number) for number in _EPOCH.findall(word)]
    steps = [int(number) for number in _STEP.findall(word)]
    if not epochs and not steps and (bare := _BARE.fullmatch(word)):
        epochs = [int(bare[1])]
    if not epochs and not steps:
        return None
    return max(epochs, default=-1), max(steps, default=-1)


def _place_in_words(name: str) -> str:
    """``, epoch 3``, as far as a name states it."""
    at = place(name)
    if at is None:
        return ""
    path = PurePosixPath(name)
    words = path.stem if _place_in(path.stem) else path.parent.name
    if _BARE.fullmatch(words):
        return f", number {at[0]}"
    return f", epoch {at[0]}" if at[0] >= 0 else f", step {at[1]}"


class Best(NamedTuple):
    """The best of a job's checkpoints, its epoch or step (None: it has none), the reason in words,
    and whether no other was better."""

    name: str
    epoch: int | None
    step: int | None
    value: float
    reason: str
    is_top: bool


@dataclass(frozen=True)
class Judged:
    """How good each epoch of a job is, or each step where its runner counts steps: its value of the
    metric that the job is judged by."""

    metric: str
    direction: str
    values: Mapping[int, float]
    steps: Mapping[int, float] = field(default_factory=dict)

    def best(self, names: Iterable[str]) -> Best | None:
        """The best of these checkpoints, the earliest of equals; None where no name states an epoch
        or a step that has a value."""
        placed = {name: at for name in models_of(names) if (at := place(name))}
        of_epochs = {name: at for name, at in placed.items() if at[0] >= 0}
        found = self._best("epoch", self.values, of_epochs)
        if found is not None:
            return found
        # A bare number is a step where nothing has an epoch.
        of_steps = {
            name: (step if step >= 0 or self.values else epoch, 0)
            for name, (epoch, step) in placed.items()
        }
        return self._best(
            "step", self.steps, {name: at for name, at in of_steps.items() if at[0] >= 0}
        )

    def _best(
        self, unit: str, values: Mapping[int, float], placed: Mapping[str, tuple[int, int]]
    ) -> Best | None:
        sign = -1.0 if self.direction == "maximize" else 1.0
        # Some runners count from 1 in the names of files, and from 0 in their status.
        shifts = [by for by in (0, 1) if all(at[0] - by in values for at in placed.values())]
        shift = next(iter(shifts), 0)
        scored = [
            (sign * values[number - shift], number, -within, name)
            for name, (number, within) in placed.items()
            if number - shift in values
        ]
        if not scored:
            return None
        _, number, _, name = min(scored)
        value = values[number - shift]
        extreme = "highest" if self.direction == "maximize" else "lowest"
        reason = f"best {self.metric} ({extreme}), {unit} {number}, {self.metric} {value:.6g}"
        top = min(values, key=lambda one: (sign * values[one], one))
        is_top = values[top] == value
        if not is_top:
            reason += f"; {unit} {top + shift} ({values[top]:.6g}) has no checkpoint"
        epoch, step = (number, None) if unit == "epoch" else (None, number)
        return Best(name, epoch, step, value, reason, is_top)


def choose_by_name(
    names: Iterable[str], policy: str, owner: str, judged: Judged | None = None
) -> tuple[str, str]:
    """The checkpoint of a policy, and the reason in words.

    Args:
        names: the job's results.
        owner: the job, for the error.
        judged: by what the best is found; None where the job does not say.

    Raises:
        NotFoundError: none fits.
        UsageError: the policy is unknown.
    """
    everything = list(names)
    found = models_of(everything)
    chosen, reason = _chosen(found, policy, owner, judged)
    chosen = _one_of_its_place(chosen, found, policy, owner)
    copies = averaged_beside([name for name in everything if artifact_kind(name) == CHECKPOINT])
    beside = [PurePosixPath(copy).name for copy, of in copies.items() if of == chosen]
    return chosen, reason + (f"; {', '.join(beside)} beside it is an averaged copy" * bool(beside))


def _one_of_its_place(chosen: str, found: list[str], policy: str, owner: str) -> str:
    """The model among the files of the same epoch and step as the chosen one.

    Raises:
        NotFoundError: their names do not say which it is.
    """
    at = place(chosen)
    if at is None:
        return chosen
    is_best = "best" in PurePosixPath(chosen).stem.lower()
    rivals = [
        name
        for name in found
        if place(name) == at and ("best" in PurePosixPath(name).stem.lower()) == is_best
    ]
    model = the_model(rivals)
    if model is None:
        raise NotFoundError(
            f"job {owner} has several files of one checkpoint, and no name says which is the model",
            field="checkpoint",
            got=policy,
            expected="one of them, named in the spec",
            hint=", ".join(rivals[:8]),
        )
    return model


def _chosen(found: list[str], policy: str, owner: str, judged: Judged | None) -> tuple[str, str]:
    """The checkpoint of a policy among models, and the reason, as `choose_by_name`."""
    kind, epoch = parse_policy(policy)
    placed = sorted(
        ((at, name) for name in found if (at := place(name)) is not None), key=lambda one: one[0]
    )
    if kind == "epoch":
        fitting = [name for at, name in placed if at[0] == epoch]
        if not fitting:
            known = sorted({at[0] for at, _ in placed if at[0] >= 0})
            raise NotFoundError(
                f"no checkpoint of epoch {epoch}",
                field="checkpoint",
                got=policy,
                expected=f"one of the epochs {', '.join(map(str, known)) or 'of its file names'}",
                hint="name one that is kept, or best or latest",
            )
        of_epoch = [name for name in fitting if "best" not in PurePosixPath(name).stem.lower()]
        return (of_epoch or fitting)[-1], f"epoch {epoch}, by its name"
    best = [name for name in found if "best" in PurePosixPath(name).stem.lower()]
    top = judged.best(found) if judged is not None and kind == "best" else None
    if top is not None and (top.is_top or not best):
        return top.name, top.reason
    if kind == "best" and best:
        numbered = [name for _, name in placed if name in best]
        return (numbered or best)[-1], "best, by its name"
    if len(found) == 1:
        return found[0], "the only one"
    if not found:
        raise NotFoundError(
            f"job {owner} has no checkpoint",
            field="checkpoint",
            got=policy,
            expected="a job that saved at least one",
            hint="train it first, or name another job",
        )
    latest = [name for name in found if _LATEST.search(PurePosixPath(name).stem)]
    others = [name for _, name in placed if name not in best] or [name for _, name in placed]
    chosen = others[-1] if others else latest[-1] if latest else None
    if chosen is None:
        raise NotFoundError(
            f"job {owner} has several checkpoints, and no name says which is {kind}",
            field="checkpoint",
            got=policy,
            expected="a checkpoint file named in the spec",
            hint=", ".join(found[:8]),
        )
    where = _place_in_words(chosen)
    if kind == "best":
        return chosen, f"the latest{where}: the job does not say which is best"
    return chosen, f"latest{where}, by its name"


def models_in(job_dir: Path) -> list[str]:
    """The files in a job's folder that may be models, by their suffix or because their name says
    so: to be named where none of them is known as a checkpoint."""
    return [
        name
        for name in made_by_runner(_files_in(job_dir))
        if (suffix := PurePosixPath(name).suffix.lower()) in _SUFFIXES[CHECKPOINT]
        or suffix in _OTHER_MODELS
        or (suffix not in _NO_MODEL and _MAYBE_MODEL.search(PurePosixPath(name).name))
    ]


def _files_in(job_dir: Path) -> list[str]:
    return [path.relative_to(job_dir).as_posix() for path in job_dir.rglob("*") if path.is_file()]


def newest_in(job_dir: Path, action: str) -> Path | None:
    """The newest checkpoint in a job's folder on this machine, for it to go on from; None where
    there is none.
    """
    names = [name for name in _files_in(job_dir) if artifact_kind(name) in (CHECKPOINT, None)]
    inside = [
        name
        for name in results_of(names, action)
        if (job_dir / name).resolve().is_relative_to(job_dir.resolve())
    ]
    try:
        chosen, _ = choose_by_name(inside, "latest", job_dir.name)
    except NotFoundError:
        return None
    return job_dir / chosen
