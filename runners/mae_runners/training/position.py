"""Where training is, written and read back exactly.

A checkpoint is taken at an optimizer-step boundary. Beside the weights it holds the optimizer, the
EMA, the fp16 scaler, the position (epoch, place in the epoch's order, optimizer step), the sums of
the running epoch and what early stopping remembers. Schedule and randomness are functions of the
position, so nothing else is needed. The place counts images in the order that all ranks share, so
that another number of ranks goes on with the images that are left, each once. With `ema_decay`,
`state_dict` holds the averaged weights (the ones to deploy) and `live_state_dict` those being
trained.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_sdk.data.survey import content_digest
from mae_sdk.files import atomic_file
from mae_skill.dotted import flatten
from mae_skill.errors import CheckpointError, NotFoundError, UsageError
from mae_skill.spec import ExperimentSpec
from mae_skill.spec.fields import free_between_attempts
from mae_skill.weights.resumed import other_classes, other_run, said_of

from mae_runners.context import RunContext
from mae_runners.data import ImageDataset, SegmentationDataset
from mae_runners.data.dataset import KeyedDataset
from mae_runners.models import checkpoint
from mae_runners.tasks.base import Task

NAME = re.compile(r"model_epoch_(\d+)(?:_step_(\d+))?\.pth$")


@dataclass
class Position:
    """How far training is.

    Attributes:
        epoch: the running epoch, from 0.
        batch, place: micro-batches, and images of the common order, that are done of it.
        step: optimizer steps done in all.
        loss_sum, loss_count: of the running epoch's images, over all ranks.
        best, stale_epochs: what early stopping remembers.
        metrics: of the last finished epoch.
    """

    epoch: int = 0
    batch: int = 0
    place: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_count: float = 0.0
    best: float | None = None
    stale_epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@cache
def _free_keys() -> frozenset[str]:
    return frozenset(free_between_attempts(ExperimentSpec))


def identity(spec: dict[str, Any]) -> dict[str, Any]:
    """The part of a resolved spec that decides what is trained, flattened to dotted keys.

    Each field of the spec says whether it belongs to it (`spec_field(affects_training=)`).
    """

    def free(key: str) -> bool:
        parts = key.split(".")
        return any(".".join(parts[:count]) in _free_keys() for count in range(1, len(parts) + 1))

    return {key: value for key, value in flatten(spec).items() if not free(key)}


def changed_fields(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key → (value then, value now) where two identities differ.

    A field that one of them lacks has its default there: a run that was made before the field
    existed was trained as the default says. A field that no longer exists is not compared.
    """
    pairs = {
        key: (before.get(key, default), now.get(key, default))
        for key, default in identity(ExperimentSpec().model_dump(mode="json")).items()
    }
    return {key: pair for key, pair in sorted(pairs.items()) if pair[0] != pair[1]}


def newest_first(train_dir: Path) -> list[Path]:
    """The checkpoints of a folder, newest first by their names.

    The end of an epoch is newer than every step of it.
    """

    def order(path: Path) -> tuple[int, float]:
        match = NAME.search(path.name)
        assert match
        return int(match[1]), float(match[2]) if match[2] else float("inf")

    return sorted(
        (path for path in train_dir.glob("model_epoch_*.pth") if NAME.search(path.name)),
        key=order,
        reverse=True,
    )


def find(
    train_dir: Path, explicit: str | None, spec: dict[str, Any], context: RunContext
) -> dict[str, Any] | None:
    """The checkpoint to continue from, or None.

    It is the one named, else the newest readable one of the folder.

    Raises:
        NotFoundError, CheckpointError: the named one cannot be used, or no checkpoint of the folder
            can be read.
        UsageError: the folder holds a run with another spec.
    """
    if explicit:
        data = checkpoint.read(explicit, context.encryption_key)
        _must_fit(data, spec, explicit, strict=False)
        context.log(f"resuming from {explicit}")
        return data
    first_error: CheckpointError | None = None
    for path in newest_first(train_dir):
        try:
            data = checkpoint.read(path, context.encryption_key)
            if "position" not in data:
                raise CheckpointError("it holds no training position", got=str(path))
        except (CheckpointError, NotFoundError) as error:
            first_error = first_error or (error if isinstance(error, CheckpointError) else None)
            context.warn(
                f"{path.name} cannot be read ({error.message}); taking the checkpoint before it"
            )
            continue
        _must_fit(data, spec, path.name, strict=True)
        position = data["position"]
        context.log(
            f"resuming from {path.name}: epoch {position['epoch']}, step {position['step']}"
        )
        return data
    if first_error is not None:
        raise first_error
    return None


def _must_fit(data: dict[str, Any], spec: dict[str, Any], name: str, *, strict: bool) -> None:
    if wrong := other_run(data, spec, name):
        raise wrong
    changed = changed_fields(data.get("identity") or {}, identity(spec))
    if strict and data.get("identity") and changed:
        shown = [f"{key}: {then!r} → {now!r}" for key, (then, now) in changed.items()]
        raise UsageError(
            "the results folder holds a run with another spec",
            field=next(iter(changed)),
            got="; ".join(shown[:8]),
            expected="the spec that the run was started with",
            hint="choose another results_dir, or name the file in "
            "train.resume_training_checkpoint_path to continue under the new spec",
        )


def environment(world_size: int, effective_batch: int) -> dict[str, Any]:
    """What bit-identity depends on beside the spec."""
    return {
        "world_size": world_size,
        "effective_batch": effective_batch,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def warn_when_not_identical(data: dict[str, Any], now: dict[str, Any], context: RunContext) -> None:
    """Says which of the conditions of bit-identity changed since the checkpoint was written."""
    before = data.get("environment") or {}
    changed = [
        f"{key} {before.get(key)} → {now[key]}" for key in now if before.get(key) != now[key]
    ]
    if changed:
        context.warn("the curve continues, but not bit for bit: " + ", ".join(changed))


def data_identity(task: Task) -> dict[str, Any]:
    """What tells one training set from another: how many images, digests of their names and of
    their content, and where they are learned one of their labels or masks; and the same of the
    validation images.

    The names are those inside the source, wherever it is.
    """
    images = task.train.source
    found = {
        "images": len(task.train_indices),
        "names": _digest(images.members),
        "content": content_digest(images.sizes.tolist(), images.read),
    }
    if task.stage == "finetune":
        found["labels"] = _digest_of_labels(task.train)
    if task.val is not None:
        judged = task.val.source
        found["judged_by"] = _digest(judged.members)
        found["judged_content"] = content_digest(judged.sizes.tolist(), judged.read)
        if task.stage == "finetune":
            found["judged_labels"] = _digest_of_labels(task.val)
    return found


def _digest_of_labels(images: KeyedDataset) -> str:
    if isinstance(images, SegmentationDataset):
        return images.pairs.mask_digest()
    assert isinstance(images, ImageDataset)
    labels = images.labels if images.targets is None else images.targets
    return hashlib.sha256(labels.tobytes()).hexdigest()


def _digest(names: Iterable[str]) -> str:
    found = hashlib.sha256()
    for name in names:
        found.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def same_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two training sets are one, as far as both say; an earlier checkpoint says less."""
    return not any(_differ(before, now, key) for key in ("images", "names", "content", "labels"))


def _differ(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> bool:
    return key in before and key in now and before[key] != now[key]


def is_of_another_run(named: str | Path | None, train_dir: Path) -> bool:
    """Whether somebody chose a checkpoint of another run to go on from.

    A further attempt is pointed at a checkpoint of its own folder; that is no choice of a person.
    """
    return bool(named) and Path(str(named)).expanduser().resolve().parent != train_dir.resolve()


def check_data(
    stored: dict[str, Any],
    now: dict[str, Any],
    context: RunContext,
    *,
    explicit: bool,
    spec: ExperimentSpec,
) -> None:
    """Compares the training images with those that the checkpoint was trained on.

    Args:
        explicit: the user named the checkpoint of another run.
        spec: of this run.

    Raises:
        UsageError: they are others, and the checkpoint was not named by the user.
    """
    before = stored.get("data") or now
    of = "masks" if spec.model.task == "segmentation" else "labels"
    for key, what in (
        ("judged_by", "images"),
        ("judged_content", "images, under the same names,"),
        ("judged_labels", f"{of} of the images"),
    ):
        judged = [found.get(key) for found in (before, now)]
        if None not in judged and judged[0] != judged[1]:
            context.warn(
                f"dataset.val_data_sources: the validation {what} are not those of the "
                "checkpoint's run: the best checkpoint is chosen between scores of both"
            )
            break
    if same_data(before, now):
        return
    more, labels = f" → {now['images']}", False
    if before["images"] == now["images"]:
        other = next(key for key in ("names", "content", "labels") if _differ(before, now, key))
        labels = other == "labels"
        more = f" with other {of if labels else other}"
    difference = f"{before['images']} images{more}"
    if not explicit:
        wrong = f"with other {of} of its training images" if labels else "on other training images"
        kept, field = "images", "dataset.train_data_sources"
        if labels:
            kept = of
            if of == "labels" and spec.dataset.labels.train:
                field = "dataset.labels.train"
            if of == "masks" and spec.dataset.segmentation.train_mask_sources:
                field = "dataset.segmentation.train_mask_sources"
        raise UsageError(
            f"the results folder holds a run {wrong}",
            field=field,
            got=difference,
            expected=f"the {kept} that the run was started with; they may be elsewhere",
            hint=f"give it these {kept} again; or start a new run in another results_dir: with "
            "train.resume_training_checkpoint_path=FILE it goes on from a checkpoint of this one",
        )
    context.warn(
        f"the training images are not those of the checkpoint ({difference}): "
        "the epoch it was in starts over"
    )


def check_classes(stored: dict[str, Any], task: Task) -> None:
    """Refuses a classifier whose outputs are of other classes than the training data's.

    Raises:
        CheckpointError: they are.
    """
    if task.stage != "finetune" or task.spec.model.task != "classification":
        return
    if wrong := other_classes(stored, task.train.classes):
        raise wrong


def warn_of_changes(stored: dict[str, Any], spec: dict[str, Any], context: RunContext) -> None:
    """Says under which other settings a named checkpoint goes on."""
    before = stored.get("identity")
    changes = changed_fields(before, identity(spec)) if before else {}
    said = f"train.resume_training_checkpoint_path: {said_of(changes)}"
    if changes and said not in context.warnings:  # the plan of the run may have said it
        context.warn(said)


def check_teacher(
    stored: dict[str, Any], now: Mapping[str, Any], context: RunContext, *, explicit: bool
) -> None:
    """Compares the teacher of this attempt with that of the checkpoint, by the digest of its file.

    Args:
        now: plain arguments of the model.

    Raises:
        UsageError: it is another, and the checkpoint was not named by the user.
    """
    before, after = (
        (model.get("teacher") or {}).get("digest")
        for model in ((stored.get("mae") or {}).get("model") or {}, now)
    )
    if before == after:
        return
    shown = " → ".join("none" if one is None else f"sha256 {one[:12]}" for one in (before, after))
    if not explicit or None in (before, after):
        raise UsageError(
            "the results folder holds a run with another teacher",
            field="train.teacher.checkpoint",
            got=shown,
            expected="the file that the run was started with; it may be elsewhere",
            hint="choose another results_dir, or start from its weights with "
            "train.pretrained_model_path",
        )
    context.warn(f"the teacher is not that of the checkpoint ({shown})")


def restore_position(stored: dict[str, Any], data: dict[str, Any]) -> Position:
    """The position of a checkpoint; on other images (`data`) at the start of its epoch."""
    known = Position.__dataclass_fields__
    position = Position(
        **{key: stored["position"][key] for key in stored["position"] if key in known}
    )
    if not same_data(stored.get("data") or data, data):
        position.batch, position.place, position.loss_sum, position.loss_count = 0, 0, 0.0, 0.0
    return position


def point_latest(train_dir: Path, arch: str, target: Path) -> None:
    """Lets `<arch>_latest.pth` point at `target`, atomically."""
    link = train_dir / f"{arch}_latest.pth"
    with atomic_file(link) as temporary:
        temporary.unlink()
        temporary.symlink_to(target.name)
