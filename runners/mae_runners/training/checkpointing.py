"""Checkpoint files of a run: weights, optimizer, position, and what the run was."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_skill.errors import CheckpointError, NotFoundError
from torch import nn

from mae_runners.data import ends_of
from mae_runners.models import checkpoint
from mae_runners.models.base import Backboned
from mae_runners.tasks.base import Task
from mae_runners.tasks.multi_label import MultiLabelTask
from mae_runners.training.ema import WeightAverage, averaged
from mae_runners.training.fabric import (
    full_states,
    load_weights,
    optimizer_names,
    restore_optimizer,
)
from mae_runners.training.lightning import Fabric
from mae_runners.training.position import Position, newest_first, point_latest

PREFIX = "model."

MAX_NAMES = 1000
"""Class names that the index of checkpoints repeats, for plans; each checkpoint holds them all."""


@dataclass
class CheckpointWriter:
    """Writes the checkpoints of a run and keeps their index.

    Attributes:
        fabric: for the state of its precision.  optimizer: the bare one.  ema: or None.
        constant: what every checkpoint of the run says beside its position, such as ``identity``.
    """

    task: Task
    fabric: Fabric
    optimizer: torch.optim.Optimizer
    ema: WeightAverage | None
    index: CheckpointIndex
    constant: dict[str, Any]

    def save(self, name: str, position: Position, metrics: dict[str, float] | None = None) -> None:
        """Writes a checkpoint of this position; every rank calls it, rank 0 writes."""
        model = self.task.model
        live, optimizer_state = full_states(model, self.optimizer)
        deployed = live
        if self.ema is not None:
            live = {key: tensor.clone() for key, tensor in live.items()}
            with averaged(self.ema):
                deployed, _ = full_states(model, self.optimizer)
                # Inside: the averaged weights are the model's own tensors, not copies.
                self._write(name, position, metrics or {}, deployed, optimizer_state, live)
            return
        self._write(name, position, metrics or {}, deployed, optimizer_state, None)

    def _write(
        self,
        name: str,
        position: Position,
        metrics: dict[str, float],
        deployed: dict[str, Any],
        optimizer_state: dict[str, Any],
        live: dict[str, Any] | None,
    ) -> None:
        task, context = self.task, self.task.context
        if not context.is_main:
            return
        folder, finetunes = context.action_dir, task.stage == "finetune"
        masks = task.spec.dataset.segmentation
        segments = finetunes and task.spec.model.task == "segmentation"
        meta = checkpoint.CheckpointMeta.for_model(
            task.model,
            classes=task.train.classes if finetunes else None,
            mean=list(task.aug.mean),
            std=list(task.aug.std),
            center_crop=float(task.aug.center_crop),
            eval_interpolation=str(task.aug.eval_interpolation),
            value_range=ends_of(task.reading),
            exif_orientation=task.reading.exif,
            multi_label=isinstance(task, MultiLabelTask),
            thresholds=task.thresholds,
            # Beside the values of the classes nothing is unlabeled but ignore_index.
            reduce_zero_label=masks.reduce_zero_label and not masks.mask_values
            if segments
            else None,
            mask_values=masks.mask_values if segments else None,
        )
        data: dict[str, Any] = {
            **self.constant,
            "state_dict": {PREFIX + key: tensor for key, tensor in deployed.items()},
            "optimizer_states": [optimizer_state],
            "optimizer_names": optimizer_names(task.model, self.optimizer),
            "epoch": position.epoch,
            "global_step": position.step,
            "position": asdict(position),
            "precision_state": self.fabric.strategy.precision.state_dict(),
            "metrics": metrics,
            "mae": meta.to_dict(),
        }
        if live is not None:
            data["live_state_dict"] = {PREFIX + key: tensor for key, tensor in live.items()}
        checkpoint.save(data, folder / name, context.encryption_key)
        self._list(folder / name, data)
        point_latest(folder, task.model.arch, folder / name)
        self._thin()

    def _list(self, path: Path, data: dict[str, Any]) -> None:
        """Records a checkpoint in the index, by what its file says."""
        position, meta = data["position"], data["mae"]
        self.index.add(
            path,
            position["epoch"] - (1 if position["batch"] == 0 else 0),
            position["step"],
            data["metrics"],
            stage=meta["stage"],
            arch=meta["arch"],
            input_size=meta["input_size"],
            task=meta["task"],
            num_classes=meta["num_classes"] if meta["stage"] == "finetune" else None,
            classes=meta["classes"] if len(meta["classes"] or ()) <= MAX_NAMES else None,
            mean=meta["mean"],
            std=meta["std"],
            center_crop=meta["center_crop"],
            eval_interpolation=meta["eval_interpolation"],
            channels=meta["model"].get("in_chans", 3),
            value_range=meta["value_range"],
            exif_orientation=meta["exif_orientation"],
            mask_values=meta.get("mask_values"),
        )

    def _thin(self) -> None:
        keep = self.task.spec.train.keep_checkpoints
        for old in self.index.thin(keep) if keep is not None else ():
            (self.index.train_dir / old).unlink(missing_ok=True)

    def adopt(self) -> None:
        """Records the checkpoints of this run that it had written when it was killed, and not yet
        recorded: a file has its name only once it is whole."""
        context = self.task.context
        for path in self.index.unlisted(newest_first(context.action_dir)):
            try:
                data = checkpoint.read(path, context.encryption_key)
            except (CheckpointError, NotFoundError) as error:
                context.warn(f"{path.name} is not listed and cannot be read ({error.message})")
                continue
            if all(data.get(key) == self.constant[key] for key in ("identity", "data")):
                self._list(path, data)
                context.log(f"{path.name} is whole; the run was stopped before it was listed")

        # What follows the listing may have been cut short too.
        if entries := self.index.read()["checkpoints"]:
            newest = max(entries, key=lambda entry: (entry["epoch"], entry["step"]))
            if (context.action_dir / newest["file"]).is_file():
                point_latest(
                    context.action_dir, self.task.model.arch, context.action_dir / newest["file"]
                )
        self._thin()


def live_weights(stored: dict[str, Any]) -> dict[str, Any]:
    """The weights that a checkpoint's run was training, by the bare model's names."""
    return _plain(stored.get("live_state_dict") or stored["state_dict"])


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}


def fill(model: nn.Module, stored: dict[str, Any]) -> None:
    """Loads a checkpoint's weights into the bare model that goes on from them.

    Raises:
        CheckpointError: the spec describes a model of another shape, or a weight is none that a
            training leaves.
    """
    field = "train.resume_training_checkpoint_path"
    checkpoint.check_values(live_weights(stored), "the checkpoint", field)
    try:
        model.load_state_dict(live_weights(stored))
    except RuntimeError as error:
        raise CheckpointError(
            "the spec describes another model than the checkpoint holds",
            field=field,
            got=" ".join(str(error).split("\n\t")[1:2])[:300],
            expected="the model and the input size that the run was started with",
            hint="start a new run from its weights with train.pretrained_model_path",
        ) from error
    described = stored.get("mae", {}).get("model", {})
    if isinstance(model, Backboned) and described.get("norm_eps") is not None:
        model.set_norm_eps(float(described["norm_eps"]))


def restore(
    stored: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: WeightAverage | None,
    fabric: Fabric,
) -> None:
    """Loads all but the weights: the average, the optimizer and the fp16 scaler."""
    if ema is not None:
        load_weights(model, _plain(stored["state_dict"]))
        ema.take()
        load_weights(model, live_weights(stored))
    state, names = stored["optimizer_states"][0], stored.get("optimizer_names")
    restore_optimizer(model, optimizer, state, names)
    if stored.get("precision_state"):
        fabric.strategy.precision.load_state_dict(stored["precision_state"])
