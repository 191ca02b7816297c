"""Masks, gather and scatter by index, and image patches: the arithmetic that the three families
share.

A mask is drawn from noise ``[B, L]``: the units with the smallest noise stay visible (He et al.,
arXiv 2111.06377). The count of visible units is the same for every sample, so everything after it
is a gather with a fixed shape, never boolean indexing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Mask(NamedTuple):
    """Which units a sample shows. ``visible [B, K]`` and ``hidden [B, M]`` are ascending unit
    indices; ``hidden_map [B, L]`` is True where hidden. ``predicted``: the hidden units that are
    predicted, ascending too; all of them where nothing else is said."""

    visible: Tensor
    hidden: Tensor
    hidden_map: Tensor
    predicted: Tensor


def visible_count(units: int, mask_ratio: float) -> int:
    """``floor(units × (1 − mask_ratio))``, between 1 and ``units − 1``.

    A tolerance keeps 10 units at ratio 0.9 at one visible unit: in binary, ``10 × (1 − 0.9)`` falls
    just short of 1.
    """
    return max(1, min(units - 1, math.floor(units * (1.0 - mask_ratio) + 1e-6)))


def predicted_count(hidden: int, share: float) -> int:
    """``share`` of the hidden units, rounded, and at least one."""
    return max(1, round(hidden * share))


def random_masking(noise: Tensor, mask_ratio: float, share: float = 1.0) -> Mask:
    """The mask that ``noise [B, L]`` stands for. Ties fall to the lower index.

    Args:
        share: of the hidden units to predict: those whose noise is smallest.
    """
    keep = visible_count(noise.shape[1], mask_ratio)
    order = noise.argsort(dim=1, stable=True)
    visible = order[:, :keep].sort(dim=1).values
    hidden = order[:, keep:].sort(dim=1).values
    hidden_map = torch.ones(noise.shape, dtype=torch.bool, device=noise.device).scatter(
        1, visible, False
    )
    predicted = hidden
    if share < 1.0:
        count = predicted_count(hidden.shape[1], share)
        predicted = order[:, keep : keep + count].sort(dim=1).values
    return Mask(visible, hidden, hidden_map, predicted)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of ``x [B, N, …]`` at ``index [B, K]`` → ``[B, K, …]``."""
    shape = index.shape + (1,) * (x.dim() - 2)
    return x.gather(1, index.view(shape).expand(-1, -1, *x.shape[2:]))


def put(base: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """``base [B, N, …]`` with ``rows [B, K, …]`` at ``index [B, K]``; out of place."""
    shape = index.shape + (1,) * (base.dim() - 2)
    return base.scatter(1, index.view(shape).expand(-1, -1, *base.shape[2:]), rows)


def take_patches(images: Tensor, index: Tensor, patch: int) -> Tensor:
    """The square patches ``index [B, K]`` (row-major) of ``images [B, C, H, W]`` → ``[B, K, C,
    patch, patch]``; the rest is not copied."""
    batch, channels, height, width = images.shape
    columns = width // patch
    view = images.view(batch, channels, height // patch, patch, columns, patch).permute(
        0, 2, 4, 1, 3, 5
    )
    sample = torch.arange(batch, device=images.device).unsqueeze(1)
    return view[sample, index // columns, index % columns]


def put_patches(images: Tensor, index: Tensor, patches: Tensor) -> Tensor:
    """``images [B, C, H, W]`` with the patches ``index [B, K]`` replaced by ``patches [B, K, C, p,
    p]``; out of place."""
    batch, channels, height, width = images.shape
    patch = patches.shape[-1]
    columns = width // patch
    out = images.clone().contiguous()
    view = out.view(batch, channels, height // patch, patch, columns, patch).permute(
        0, 2, 4, 1, 3, 5
    )
    sample = torch.arange(batch, device=images.device).unsqueeze(1)
    view[sample, index // columns, index % columns] = patches.to(out.dtype)
    return out


def patch_statistics(target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (unbiased variance + 1e-6) of each patch, over the last
    dimension, kept."""
    return target.mean(dim=-1, keepdim=True), (target.var(dim=-1, keepdim=True) + 1.0e-6).sqrt()


def split(x: Tensor, dim: int, *sizes: int) -> Tensor:
    """Dimension ``dim`` (not negative) as several; `Tensor.unflatten` would need ONNX opset 13."""
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])
