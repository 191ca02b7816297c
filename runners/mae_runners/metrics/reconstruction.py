"""What a pretrained model makes of hidden patches, as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GRAY = 0.5  # of hidden pixels


def reconstruction_images(
    model: Any,
    images: Tensor,
    noise: Tensor,
    restored: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Original, masked and reconstructed image of each sample.

    Args:
        model: the bare MAE, for its mask ratio and the side of its mask unit.
        images: normalized model input ``[B, 3, H, W]``.
        noise: ``[B, L]``, which says what is hidden.
        restored: ``model.reconstruct(images, noise)``, ``[B, 3, H, W]``.
        mean, std: of the normalization.

    Returns:
        ``[B, 3 (which), 3, H, W]``, pixels in 0…1.
    """
    unit = model.unit
    rows, columns = images.shape[2] // unit, images.shape[3] // unit
    hidden = model.random_masking(noise).hidden_map.view(len(images), 1, rows, columns)
    hidden = hidden.repeat_interleave(unit, dim=2).repeat_interleave(unit, dim=3)

    shift, scale = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (mean, std)
    )
    original = images * scale + shift
    masked = torch.where(hidden, torch.full_like(images, GRAY), original)
    return torch.stack([original, masked, restored * scale + shift], dim=1).clamp(0.0, 1.0)


class MeanLoss:
    """The mean loss over images.

    Attributes:
        sums: float64 ``[2]``: loss, images. Add those of other ranks before reading the mean.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64)

    def add(self, loss: Tensor, count: int) -> None:
        """Counts a batch of `count` images with this mean loss."""
        value = float(loss)  # of fillers alone it may be anything
        self.sums += torch.tensor([value * count if count else 0.0, count], dtype=torch.float64)

    def summary(self, source: object) -> dict[str, float]:
        """``val_loss``."""
        total, count = self.sums.tolist()
        return {"val_loss": total / max(count, 1)}
