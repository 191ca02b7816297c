"""Which of the files that a runner saves together is the model.

A runner may save the state of its optimizer beside its weights, an averaged copy (EMA) of these,
and a large model in several shards. Only the weights are a model that another job starts from.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath

FILE, FOLDER = "file", "folder"
"""What a field that takes a model may be declared to hold."""

_NUMBER = re.compile(r"\d+")
_SHARD = re.compile(r"(.+?)[-_.](\d+)[-_]of[-_](\d+)")
_VERSION = re.compile(r"-v\d+$")

_OF_TRAINING = {"training", "trainer", "random", "sampler", "dataloader", "scheduler", "schedulers"}
_SURELY = {"optimizer", "optimizers", "optim", "sched", "rng", "scaler", "gradscaler", "scheduler"}
"""Words of a file that holds a state of the training, as the last of a longer name too, such as
``resnet_optimizer``."""

_LOSSES = {"loss", "losses", "criterion"}
_STATES = _OF_TRAINING | _SURELY | _LOSSES | {"opt"}
_RANKS = {"rank", "zero", "pp", "mp", "dp", "tp", "bf", "fp"}
_COUNTS = {"epoch", "ep", "step", "iter", "iteration", "global", "latest", "last", "final"}
_BESIDE_STATES = _RANKS | _COUNTS | {"state", "states", "args", "dict", "lr", "grad"}
_AVERAGED = {"ema", "swa", "averaged", "average", "avg"}
_CALLED = {"model", "models", "weights", "adapter", "network", "net", "params", "pytorch"}
_MODEL = _CALLED | {"checkpoint", "ckpt", "snapshot"}
_PLAIN = _MODEL | _BESIDE_STATES | {"best"}


def _words(name: str) -> list[str]:
    """The words and numbers of a file's name, without its suffix."""
    return re.findall(r"[a-z]+|\d+", PurePosixPath(name).stem.lower())


def _letters(name: str) -> list[str]:
    return [word for word in _words(name) if not word.isdigit()]


def is_state(name: str) -> bool:
    """Whether a file is the state of an optimizer, a schedule, a random generator or the like, by
    its name: ``optimizer.pt``, ``rng_state_0.pth``, ``epoch_3_opt.pt``. A name that says "model"
    too, such as Megatron's ``model_optim_rng.pt``, is none."""
    words = _letters(name)
    if not words or _MODEL & {*words}:
        return False
    if _STATES & {*words} and {*words} <= _STATES | _BESIDE_STATES:
        # A loss with its value, ``epoch_3_loss_0.12``, says how good the model is.
        return _words(name)[-1] in _LOSSES or not {*words} & _LOSSES
    while words[1:] and words[-1] in _BESIDE_STATES:
        words.pop()
    return words[-1] in _SURELY


def _is_state_beside(name: str, stems: Collection[tuple[str, ...]]) -> bool:
    """Whether a file is the state that belongs to the model of the same name:
    ``model_epoch_3_optimizer.pth`` beside ``model_epoch_3.pth``."""
    words = _words(name)
    rest = [word for word in words if word not in _STATES | {"state", "states"}]
    return rest != words and (str(PurePosixPath(name).parent), *rest) in stems


def without_states(names: Iterable[str]) -> list[str]:
    """The files that are models; all of them where none is."""
    found = list(names)
    stems = {(str(PurePosixPath(name).parent), *_words(name)) for name in found}
    models = [name for name in found if not is_state(name) and not _is_state_beside(name, stems)]
    return models or found


def averaged_beside(names: Sequence[str]) -> dict[str, str]:
    """Averaged copy (EMA, SWA) → the weights that it is a copy of, of those that lie beside it."""
    folders = {name: str(PurePosixPath(name).parent) for name in names}
    plain = [name for name in names if not _AVERAGED & {*_words(name)}]
    by_words = {(folders[name], *_words(name)): name for name in plain}
    found: dict[str, str] = {}
    for name in names:
        rest = [word for word in _words(name) if word not in _AVERAGED]
        # Alone in its name, it is a copy of what its folder holds: ``checkpoint-20/ema.pt``.
        beside = [one for one in plain if folders[one] == folders[name]] if not rest else []
        original = by_words.get((folders[name], *rest)) or next(iter(beside), None)
        if name not in plain and original is not None:
            found[name] = original
    return found


def shards_of(name: str, names: Iterable[str]) -> list[str]:
    """The files of a model that is saved in several, ``model-00001-of-00002.safetensors``; none
    where this one is a model by itself."""
    own = _shard(name)
    return [] if own is None else sorted(one for one in names if _shard(one) == own)


def _shard(name: str) -> tuple[str, str, str, str] | None:
    path = PurePosixPath(name)
    match = _SHARD.fullmatch(path.stem)
    if match is None or int(match[3]) < 2:
        return None
    return str(path.parent), match[1], match[3], path.suffix


def the_model(names: Sequence[str]) -> str | None:
    """The model among files of the same epoch and step; None where their names do not say.

    Of names that differ in numbers alone (a folder of a restart, ``-v1``) the highest counts, of a
    model in shards the first; else a name that says "model", "weights" or the like, and of several
    the one that says nothing else.
    """
    called = [name for name in names if _MODEL & {*_letters(name)}]
    plain = [name for name in called if {*_letters(name)} <= _PLAIN]
    for left in (list(names), called, plain):
        if len({_pattern(name) for name in left}) == 1:
            newest = max(left, key=_order)
            return (shards_of(newest, left) or [newest])[0]
    return None


def _pattern(name: str) -> str:
    """A name without its numbers and its suffix: what is alike in files of one kind."""
    path = PurePosixPath(name)
    return _NUMBER.sub("#", str(path.with_name(_VERSION.sub("", path.stem))))


def _order(name: str) -> tuple[list[int], str]:
    return [int(number) for number in _NUMBER.findall(name)], name
