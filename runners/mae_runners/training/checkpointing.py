"""Checkpoint files of a run: weights, optimiser, position, and what the run was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_runners.models import checkpoint
from mae_runners.training import position as resume
from mae_runners.training.fabric import full_states, optimizer_names

if TYPE_CHECKING:
    from mae_runners.training.loop import Loop


def save(loop: Loop, path: Path, metrics: dict[str, float] | None = None) -> None:
    """Writes a checkpoint of this position, all of whose steps were read; every rank calls it, rank 0 writes."""
    loop.trackers.flush()  # a checkpoint never stands without the rows that led to it
    live, optimizer_state = full_states(loop.task.model, loop.bare_optimizer)
    deployed = live
    if loop.ema is not None:
        live = {name: tensor.clone() for name, tensor in live.items()}
        loop.ema.swap()
        deployed, _ = full_states(loop.task.model, loop.bare_optimizer)
    try:
        if loop.context.is_main:
            _write(loop, path, live, deployed, optimizer_state, metrics or {})
    finally:
        if loop.ema is not None:
            loop.ema.swap()


def _write(
    loop: Loop,
    path: Path,
    live: Any,
    deployed: Any,
    optimizer_state: Any,
    metrics: dict[str, float],
) -> None:
    meta = checkpoint.CheckpointMeta.for_model(
        loop.task.model,
        classes=loop.task.train.classes if loop.task.stage == "finetune" else None,
        mean=list(loop.task.aug.mean),
        std=list(loop.task.aug.std),
    )
    data: dict[str, Any] = {
        "state_dict": {f"model.{name}": tensor for name, tensor in deployed.items()},
        "optimizer_states": [optimizer_state],
        "optimizer_names": optimizer_names(loop.task.model, loop.bare_optimizer),
        "epoch": loop.position.epoch,
        "global_step": loop.position.step,
        "position": resume.pack_position(loop.position),
        "precision_state": loop.fabric.strategy.precision.state_dict(),
        "identity": resume.identity(loop.plain_spec),
        "data": loop.data,
        "environment": loop.environment(),
        "metrics": metrics,
        "layerwise": loop.layerwise,
        "pretrained": loop.pretrained,
        "mae": meta.to_dict(),
    }
    if loop.ema is not None:
        data["live_state_dict"] = {f"model.{name}": tensor for name, tensor in live.items()}
    checkpoint.save(data, path, loop.context.encryption_key)
    epoch = loop.position.epoch - (1 if loop.position.batch == 0 else 0)
    loop.index.add(
        path,
        epoch,
        loop.position.step,
        metrics,
        stage=loop.task.stage,
        arch=loop.task.model.arch,
        input_size=list(loop.task.model.input_size),
        task=meta.task,
        num_classes=meta.num_classes if loop.task.stage == "finetune" else None,
        mean=meta.mean,
        std=meta.std,
    )
    resume.point_latest(loop.folder, loop.task.model.arch, path)
    if loop.train.keep_checkpoints is not None:
        for name in loop.index.thin(loop.train.keep_checkpoints):
            (loop.folder / name).unlink(missing_ok=True)
