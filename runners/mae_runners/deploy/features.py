"""Features of every kind of model, pretrained or fine-tuned, unmasked and deterministic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mae_runners.models.heads import Segmenter

KINDS = ("pooled", "tokens", "patches")


def features(model: Any, images: Tensor, kind: str) -> Tensor:
    """Features of images ``[B, 3, H, W]``.

    Args:
        model: a `MaskedAutoencoder`, a `Classifier` (before its linear layer) or a `Segmenter`
            (the last level of its encoder).
        kind: ``pooled`` ``[B, D]``; ``tokens`` ``[B, T, D]``, a ViT's class token first;
            ``patches`` ``[B, rows, columns, D]``.
    """
    if kind == "pooled" and not isinstance(model, Segmenter):
        pooled: Tensor = model.encode(images)
        return pooled
    found: Tensor
    if isinstance(model, Segmenter):
        found = model.encoder.pyramid(images)[-1].flatten(2).transpose(1, 2)
    elif model.shape.family == "vit":
        found = model.encoder.forward_features(images)
        if kind != "tokens":
            found = found[:, 1:]
    else:
        found = model.encode(images, pool=False)
    if kind == "pooled":
        return found.mean(dim=1)
    return found if kind == "tokens" else on_grid(found, (images.shape[2], images.shape[3]))


def on_grid(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Row-major tokens ``[B, N, D]`` of an image of ``size`` → ``[B, rows, columns, D]``."""
    height, width = size
    side = round((height * width / tokens.shape[1]) ** 0.5)  # pixels a token
    return torch.unflatten(tokens, 1, (height // side, width // side))
