"""A trained ViT whose features another learns: frozen, and no part of the model that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mae_skill.weights.config import normalization, own_description
from mae_skill.weights.teacher import FIELD, Teacher, teacher_of
from torch import Tensor

from mae_runners.models.build import build_from_config
from mae_runners.models.checkpoint import digest, read
from mae_runners.models.masking import Mask, take
from mae_runners.models.pretrained import fill
from mae_runners.models.vit_mae import VitBackbone, embed_visible

Colors = tuple[Sequence[float], Sequence[float]]
"""Mean and deviation of each channel of the pictures that a model was trained on."""


class FrozenTeacher:
    """The first blocks of a teacher, in evaluation mode and without gradients.

    Args:
        found: what the file holds.
        encoder: with its weights.
        digest: of the file.
        sees: ``visible``: the visible patches alone; ``all``: the whole picture.
        colors: those of the teacher's own pictures, and those of the run's; None: they are alike,
            or the teacher's are not known.
    """

    def __init__(
        self,
        found: Teacher,
        encoder: VitBackbone,
        digest: str,
        *,
        sees: str,
        colors: tuple[Colors, Colors] | None = None,
    ) -> None:
        self.found, self.digest, self.sees = found, digest, sees
        encoder.blocks = encoder.blocks[: found.layer]
        self.encoder = encoder.eval().requires_grad_(False)
        self._scale = self._shift = torch.zeros(0)
        if colors is not None:
            (mean, std), (own_mean, own_std) = (map(torch.tensor, part) for part in colors)
            # x = (pixel − own mean) / own std, so pixel = x · own std + own mean.
            self._scale = (own_std / std).view(-1, 1, 1)
            self._shift = ((own_mean - mean) / std).view(-1, 1, 1)

    def to(self, device: torch.device) -> FrozenTeacher:
        """Moves it to a device."""
        self.encoder.to(device)
        self._scale, self._shift = self._scale.to(device), self._shift.to(device)
        return self

    @torch.no_grad()
    def features(self, images: Tensor, mask: Mask) -> Tensor:
        """The visible patches after the chosen block: ``[B, K, D]``.

        ``images [B, C, H, W]`` are normalized as the run's are.
        """
        if self._scale.numel():
            images = images * self._scale + self._shift
        visible = mask.visible
        if self.sees == "all":
            places = torch.arange(mask.hidden_map.shape[1], device=visible.device)
            x = embed_visible(self.encoder, images, places.expand(len(images), -1))
        else:
            x = embed_visible(self.encoder, images, visible)
        for block in self.encoder.blocks:
            x = block(x)
        patches = x[:, 1:]
        return take(patches, visible) if self.sees == "all" else patches


def load_teacher(
    path: str, key: str | None, spec: Mapping[str, Any], colors: Colors
) -> FrozenTeacher:
    """The teacher of a run from the file, or the folder, at ``path``.

    Args:
        key: of an encrypted checkpoint.
        spec: resolved, as plain data.
        colors: mean and deviation of each channel of the run's pictures.

    Raises:
        NotFoundError, CheckpointError, SpecError: as `read` and `teacher_of`.
    """
    contents, name = read(path, key), Path(path).name
    found = teacher_of(contents, name, spec)
    model = build_from_config(found.model)
    fill(model, contents, name, file_field=FIELD)
    pair = None
    said = own_description(contents) or normalization(Path(path))
    if said.get("mean") and said.get("std"):
        theirs = list(said["mean"]), list(said["std"])
        if len(theirs[0]) == len(colors[0]) and theirs != (list(colors[0]), list(colors[1])):
            pair = theirs, colors
    sees = str(spec["train"]["teacher"]["sees"])
    return FrozenTeacher(found, model.encoder, digest(Path(path)), sees=sees, colors=pair)
