"""Checkpoint files: written whole or not at all, read without running code, encrypted when there is
a key.

A file is ``{"state_dict": {"model.…": tensor}, "epoch", "global_step", "mae": meta,
"optimizer_states", …}`` with tensors and JSON types only, so `torch.load(weights_only=True)` always
opens it. ``mae`` is a `CheckpointMeta`: enough to build the module again from the file alone.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import pickle
import re
import shutil
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PosixPath
from typing import IO, Any, cast

import torch
from mae_sdk.files import atomic_file
from mae_sdk.jobs.checkpoints import sha256_of
from mae_skill.errors import CheckpointError, StorageError
from mae_skill.weights import header
from mae_skill.weights.config import is_own
from mae_skill.weights.fit import listed
from mae_skill.weights.pytorch_file import damaged, more_than_weights
from torch import Tensor, nn

from mae_runners.models.base import Backboned
from mae_runners.models.build import build_from_config
from mae_runners.models.cipher import SealReader, SealWriter

FORMAT = 1
PREFIX = "model."


@dataclass
class CheckpointMeta:
    """What a checkpoint says of itself. ``model`` holds the plain arguments that build the module;
    ``value_range`` the stored values that became 0 and 1 (None: those of the files' types);
    ``multi_label`` a sigmoid for each class, and ``thresholds`` the probability of each from which
    a picture is taken to be of it (None: 0.5); ``reduce_zero_label`` whether 0 was unlabeled in the
    masks (None: no segmenter, or one that does not say), and ``mask_values`` the value of each
    class in them (None: the numbers of the classes);
    ``spec_digest`` names the resolved spec."""

    arch: str
    stage: str
    input_size: list[int]
    model: dict[str, Any]
    task: str = "classification"
    num_classes: int | None = None
    classes: list[str] | None = None
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    center_crop: float = 0.875
    eval_interpolation: str = "bicubic"
    value_range: list[float] | None = None
    exif_orientation: bool = True
    global_pool: bool = True
    multi_label: bool = False
    thresholds: list[float] | None = None
    reduce_zero_label: bool | None = None
    mask_values: list[int] | None = None
    spec_digest: str | None = None
    format: int = FORMAT

    @classmethod
    def for_model(cls, model: Backboned, **details: Any) -> CheckpointMeta:
        """The meta of ``model``; ``details`` are the fields it does not know (classes, mean …)."""
        config = dict(model.config)
        stage = "pretrain" if "mask_ratio" in config else "finetune"
        known = {
            "arch": config["arch"],
            "stage": stage,
            "input_size": list(config["input_size"]),
            "model": config,
            "task": config.get("task", "classification"),
            "num_classes": config.get("num_classes"),
            "global_pool": config.get("global_pool", True),
        }
        return cls(**{**known, **details})

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return int(self.model.get("in_chans", 3))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str) -> CheckpointMeta:
        """From the ``mae`` entry of the file ``name``; fields of later formats are ignored."""
        if int(data.get("format", 0)) > FORMAT:
            raise CheckpointError(
                f"{name} was written by a newer version",
                got=data.get("format"),
                expected=f"format {FORMAT}",
                hint="upgrade mae-skill",
            )
        known = {item.name for item in fields(cls)}
        try:
            return cls(**{key: value for key, value in data.items() if key in known})
        except TypeError as error:
            raise CheckpointError(
                f"the description inside {name} is incomplete", got=str(error)
            ) from error


def save(obj: Mapping[str, Any], path: str | os.PathLike[str], key: str | None = None) -> None:
    """Write ``obj`` to ``path`` atomically (temporary file in the same folder, fsync, rename); with
    ``key``, encrypted.

    Raises:
        StorageError: the disk is full, or a quota or limit is reached; what was there before stays.
    """
    target = Path(path)
    with atomic_file(target, mode=0o600 if key else 0o666) as temporary:
        try:
            with temporary.open("wb") as file:
                if key:
                    with SealWriter(file, key) as sealed:
                        torch.save(dict(obj), cast("IO[bytes]", sealed))
                else:
                    torch.save(dict(obj), file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            if not _no_room(error):
                raise
            raise StorageError(
                f"no room for the checkpoint {target.name}: "
                f"the write broke off after {temporary.stat().st_size} bytes",
                field="results_dir",
                got=f"{shutil.disk_usage(target.parent).free} bytes free in {target.parent}",
                hint="make room, then resume the job; "
                "train.keep_checkpoints and train.checkpoint_interval make fewer files",
            ) from error


def _no_room(error: BaseException | None) -> bool:
    """Whether a full disk is at the root of it: PyTorch's writer raises an error of its own over
    the system's."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        error = error.__cause__ or error.__context__
    return False


def read(path: str | os.PathLike[str], key: str | None = None) -> dict[str, Any]:
    """The contents of a checkpoint, ours or foreign, on the CPU.

    Its content, not its name, says what a file is. A folder is one that transformers or timm saved
    a model into; its ``config.json`` comes along.

    Raises:
        NotFoundError: no such file.
        CheckpointError: unreadable, encrypted with another key, or holding more than tensors and
            plain data.
    """
    source = Path(path)
    contents: dict[str, Any] = {}
    for file in header.weight_files(source):
        contents |= _read_file(file, key)
    return contents | header.folder_config(source)


def _read_file(source: Path, key: str | None) -> dict[str, Any]:
    if header.is_sealed(source):
        if not key:
            raise header.encrypted(source)
        with source.open("rb") as file:
            return _unpickle(SealReader(file, key, source.name), source)
    header.look_at(source)  # what is wrong with a file is said as the plan says it
    if header.is_safetensors(source):
        return dict(_read_safetensors(source))
    with source.open("rb") as file:
        return _unpickle(file, source)


def _numpy_globals() -> list[Any]:
    """What a pickled NumPy scalar or array needs, under the names of NumPy 1 and 2: metrics that
    training scripts keep beside their weights."""
    import _codecs

    import numpy as np
    from numpy._core import multiarray

    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefdg"}
    functions = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ]
    return [np.ndarray, np.dtype, _codecs.encode, *kinds, *functions]


def _unpickle(file: IO[bytes] | SealReader, source: Path) -> dict[str, Any]:
    allowed = [Namespace, PosixPath, *_numpy_globals()]
    try:
        with torch.serialization.safe_globals(allowed):
            data = torch.load(file, map_location="cpu", weights_only=True)  # type: ignore[arg-type]
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise more_than_weights(source, found[1]) from error
        raise damaged(source, "its description cannot be read") from error
    except Exception as error:
        raise CheckpointError(
            f"{source.name} cannot be read",
            got=f"{type(error).__name__} in PyTorch's reader",
            hint="the file may be incomplete",
        ) from error
    if isinstance(data, nn.Module) or not isinstance(data, Mapping):
        raise CheckpointError(
            f"{source.name} holds no state dict",
            got=type(data).__name__,
            expected="a mapping of names to tensors",
        )
    return dict(data)


def _read_safetensors(source: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(source)
    except (SafetensorError, OSError) as error:
        raise damaged(source, "it is not as its header tells") from error


def digest(path: Path) -> str:
    """SHA-256 of the file of weights at ``path``; of a folder, of its files' digests."""
    files = header.weight_files(path)
    if files == [path]:
        return sha256_of(path)
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` entry of a checkpoint: the model's tensors under ``model.``."""
    return {f"{PREFIX}{name}": tensor for name, tensor in model.state_dict().items()}


def read_meta(data: Mapping[str, Any], name: str = "the checkpoint") -> CheckpointMeta:
    """The meta of a checkpoint of ours.

    Raises:
        CheckpointError: the file is not one of ours.
    """
    if not is_own(data):
        raise CheckpointError(
            f"{name} was not written by this project's training",
            expected="a checkpoint of the train action",
            hint="weights of others go into train.pretrained_model_path to be trained on, or into "
            "evaluate.checkpoint and inference.checkpoint as they are: a file, or the folder of "
            "timm or transformers, with train.stage, model.arch and model.num_classes beside it",
        )
    return CheckpointMeta.from_dict(data["mae"], name)


def load_model(
    path: str | os.PathLike[str], key: str | None = None
) -> tuple[nn.Module, CheckpointMeta]:
    """The module of a checkpoint of ours, built and filled from the file alone, in evaluation mode.

    Raises:
        NotFoundError, CheckpointError: as `read`; also when the weights do not fit the description,
            or are none that a training leaves.
    """
    return model_of(read(path, key), Path(path).name)


def model_of(
    data: Mapping[str, Any], name: str, file_field: str | None = None
) -> tuple[nn.Module, CheckpointMeta]:
    """`load_model` from the contents of the file ``name``, which a field names."""

    meta = read_meta(data, name)
    model = build_from_config(meta.model)
    state = {
        k.removeprefix(PREFIX): v for k, v in data["state_dict"].items() if k.startswith(PREFIX)
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {name} do not fit its own description", got=str(error)[:500]
        ) from error
    check_values(state, name, file_field)
    return model.eval(), meta


HUGE = 1e10
"""Of a weight, which is some hundredths to some units large: the first sums of it overflow."""

HUGE_OF_A_MATRIX = 1e4
"""Of a weight of a matrix. What norms count and scale may be larger; a model whose norms hide it
would be trained without a word."""

_MAY_BE_ZERO = re.compile(r"(^|[._])(head|heads|classifier|pos|rel_pos|position\w*)([._]|$)")
"""Names of entries that start at 0 in some trainings, and may have stayed there."""


def check_values(state: Mapping[str, Tensor], name: str, file_field: str | None = None) -> None:
    """Refuses weights that no training leaves, by the names of their entries.

    Raises:
        CheckpointError: a value of ``state``, of the file ``name``, is NaN, infinite or above
            `HUGE`, or all values of a matrix inside the backbone are 0.
    """
    floats = {entry: value for entry, value in state.items() if value.is_floating_point()}
    largest = {
        entry: float(value.detach().float().abs().max())
        for entry, value in floats.items()
        if value.numel()
    }
    bad = [entry for entry, value in largest.items() if not math.isfinite(value)]
    if bad:
        raise CheckpointError(
            f"{name} holds values that are not finite (NaN or infinite)",
            field=file_field,
            got=listed(bad),
            expected="finite weights",
            hint="take a checkpoint from before the run diverged",
        )
    if large := [
        entry
        for entry, value in largest.items()
        if value > (HUGE_OF_A_MATRIX if _is_matrix(floats[entry]) else HUGE)
    ]:
        raise CheckpointError(
            f"{name} holds weights as large as {max(largest.values()):.1g}",
            field=file_field,
            got=listed(large),
            expected="weights of some hundredths to some units",
            hint="the file is damaged, or of a run that diverged: take another one",
        )
    empty = [
        entry
        for entry, value in largest.items()
        if value == 0 and _is_matrix(floats[entry]) and not _MAY_BE_ZERO.search(entry)
    ]
    if empty:
        raise CheckpointError(
            f"{name} holds matrices of zeros, through which nothing passes",
            field=file_field,
            got=listed(empty),
            expected="trained weights",
            hint="the file was never filled, or is damaged: take another one",
        )


def _is_matrix(value: Tensor) -> bool:
    """Whether it is more than a vector, whatever sides of 1 that has."""
    return sum(side > 1 for side in value.shape) > 1
