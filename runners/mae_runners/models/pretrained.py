"""Weights into a model, with an account of what fitted and what did not; never in silence, never by
running code from the file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mae_skill.errors import CheckpointError
from torch import Tensor

from mae_runners.models.base import Backboned
from mae_runners.models.checkpoint import read
from mae_runners.models.conversion import guess_arch, to_our_names, unwrap
from mae_runners.models.heads import Classifier, Segmenter
from mae_runners.models.hiera_mae import SIDE
from mae_runners.models.mae import MaskedAutoencoder
from mae_runners.models.position import resize_table, resize_windowed_table, square_grid

#: the share of the backbone's values that must come from the file
MIN_SHARE = 0.9
_HEADS = ("head.", "fc_norm.", "norm.")
_DECODER = ("decoder", "mask_token", "proj.", "pred.", "multi_scale_fusion_heads.", "encoder_norm.")
_SEGMENTER = ("neck.", "uper.", "auxiliary.")
_STATISTICS = (
    ".running_mean",
    ".running_var",
    ".num_batches_tracked",
)  # the buffers that training changes


@dataclass
class LoadReport:
    """What became of a file.

    ``matched`` and ``missing``: parameters of the model, filled or left at their initial values.
    ``unexpected``: entries of the file that nothing here has a place for. ``ignored``: entries left
    out on purpose, with the reason. ``resized``: position tables brought to another grid.
    ``share``: the share of the backbone's values (encoder without head and final norm) that came
        from the file.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    share: float = 0.0

    def summary(self) -> str:
        """One line for logs and records."""
        parts = [
            f"{self.share:.1%} of the backbone",
            f"{len(self.matched)} matched",
            f"{len(self.missing)} missing",
            f"{len(self.unexpected)} unexpected",
        ]
        if self.ignored:
            parts.append(f"{len(self.ignored)} left out on purpose")
        if self.resized:
            parts.append(f"resized: {', '.join(self.resized)}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; long lists are kept whole."""
        return {**self.__dict__, "summary": self.summary()}


def load_pretrained(
    model: Backboned,
    path: str | os.PathLike[str],
    key: str | None = None,
    *,
    min_share: float = MIN_SHARE,
) -> LoadReport:
    """Fill ``model`` from a checkpoint of any of the sources in `conversion`.

    Position tables are resized to the model's grid. A classifier takes the encoder, and a head of
    the same number of classes; a masked autoencoder takes encoder and, where the shapes fit,
    decoder; a segmenter takes the encoder and, from another segmenter, what fits of its head.

    Raises:
        NotFoundError: no such file.
        CheckpointError: the file cannot be read, belongs to another architecture, or fills less
            than ``min_share`` of the backbone.
    """
    name = Path(path).name
    data = read(path, key)
    state, _ = unwrap(data)
    if not state:
        raise CheckpointError(
            f"{name} holds no weights", field="train.pretrained_model_path", expected="a state dict"
        )
    state = to_our_names(state)
    loader = _Loader(model, state, _grid_pixels(data), name)
    report = loader.run()
    if loader.clashes or report.share < min_share:
        found = guess_arch(state)
        clash = f"; {loader.clashes[0]}" if loader.clashes else ""
        raise CheckpointError(
            f"{name} does not fit {model.arch}: {report.share:.1%} of the backbone matched{clash}",
            field="train.pretrained_model_path",
            got=found or "an architecture that is not ours",
            expected=f"weights of {model.arch}: at least {min_share:.0%} of the backbone, "
            "every shape equal",
            hint=f"set model.arch to {found}"
            if found and found != model.arch
            else "choose weights of the same architecture",
        )
    return report


def _grid_pixels(data: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width that a checkpoint of ours was trained at."""
    meta = data.get("mae")
    if isinstance(meta, Mapping) and "input_size" in meta:
        height, width = meta["input_size"]
        return int(height), int(width)
    return None


class _Loader:
    def __init__(
        self,
        model: Backboned,
        state: Mapping[str, Tensor],
        pixels: tuple[int, int] | None,
        name: str,
    ) -> None:
        self.model, self.state, self.pixels, self.file = model, state, pixels, name
        self.arch = model.shape
        self.targets: dict[str, Tensor] = dict(model.named_parameters())
        self.targets |= {
            name: value for name, value in model.named_buffers() if name.endswith(_STATISTICS)
        }
        self.clashes: list[str] = []
        self.report = LoadReport()

    def run(self) -> LoadReport:
        chosen: dict[str, Tensor] = {}
        for name, value in self.state.items():
            target = next(
                (full for full in (f"encoder.{name}", name) if full in self.targets), None
            )
            reason = self._reason_to_leave(name, value, target)
            if reason:
                self.report.ignored[name] = reason
            elif target is None:
                self.report.unexpected.append(name)
            else:
                fitted = self._fit(target, value)
                if fitted is not None:
                    chosen[target] = fitted
        backbone = [name for name in self.targets if self._is_backbone(name)]
        total = sum(self.targets[name].numel() for name in backbone)
        self.report.share = (
            sum(self.targets[name].numel() for name in backbone if name in chosen) / total
        )
        self.report.matched = sorted(chosen)
        self.report.missing = sorted(set(self.targets) - set(chosen))
        if not self.clashes:
            with torch.no_grad():
                for name, value in chosen.items():
                    self.targets[name].copy_(value)
        return self.report

    def _is_backbone(self, name: str) -> bool:
        return name.startswith("encoder.") and not name.removeprefix("encoder.").startswith(_HEADS)

    def _reason_to_leave(self, name: str, value: Tensor, target: str | None) -> str | None:
        """Why an entry is left out on purpose, or None."""
        if target is None and name.startswith(_SEGMENTER):
            return "belongs to a segmenter"
        if isinstance(self.model, Segmenter):
            if target is None and name.startswith(_DECODER):
                return "belongs to the decoder"
            if target is None and name.startswith(_HEADS):
                return "belongs to a classifier, or is the last norm, which comes after the levels"
        elif isinstance(self.model, Classifier):
            if name in self.model.encoder.head_names():
                classes = self.model.num_classes
                return (
                    None
                    if value.shape[0] == classes
                    else f"the head has {value.shape[0]} classes, the model {classes}"
                )
            if target is None and name.startswith(_DECODER):
                return "belongs to the decoder"
            if target is None and name.startswith("norm."):
                return "mean pooling has a norm of its own (fc_norm)"
            if target is None and name.startswith("fc_norm."):
                return "token pooling uses norm"
        elif target is None and name.startswith(("head.", "fc_norm.")):
            return "belongs to a classifier"
        return None

    def _fit(self, target: str, value: Tensor) -> Tensor | None:
        """``value`` in the shape of the parameter ``target``; None (noted) when it cannot be."""
        shape = self.targets[target].shape
        if target.endswith("pos_embed"):
            return self._resize(target, value)
        if value.shape == shape:
            return value
        if _squeezed(value.shape) == _squeezed(shape):  # a 1×1 convolution is a linear layer
            return value.reshape(shape)
        text = f"{target} is {list(value.shape)} in the file and {list(shape)} in the model"
        if self._is_backbone(target):
            self.clashes.append(text)
        else:
            self.report.ignored[target] = text
        return None

    def _resize(self, target: str, value: Tensor) -> Tensor | None:
        parameter = self.targets[target]
        decoder = target == "decoder_pos_embed"
        family = self.arch.family
        prefix = 1 if family == "vit" else 0
        cell = self.arch.patch
        if decoder and isinstance(self.model, MaskedAutoencoder):
            cell = self.model.target_patch
        height, width = self.model.input_size
        new = (height // cell, width // cell)
        old = (self.pixels[0] // cell, self.pixels[1] // cell) if self.pixels else None
        tokens = value.shape[1] - prefix
        if old is None or math.prod(old) != tokens:
            old = new if tokens == math.prod(new) else square_grid(tokens)
        if value.ndim != 3 or value.shape[2] != parameter.shape[2] or old is None:
            text = (
                f"{target} is {list(value.shape)} in the file"
                f" and {list(parameter.shape)} in the model"
            )
            if decoder:
                self.report.ignored[target] = text
            else:
                self.clashes.append(text)
            return None
        if old != new:
            self.report.resized.append(f"{target} {old[0]}×{old[1]} → {new[0]}×{new[1]}")
        if family == "hiera" and not decoder and old[0] % SIDE == 0 and old[1] % SIDE == 0:
            return resize_windowed_table(value, old, new, SIDE)
        return resize_table(value, old, new, prefix=prefix)


def _squeezed(shape: torch.Size) -> list[int]:
    return [size for size in shape if size != 1]
