"""The training loss of a segmenter."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pixel_loss(logits: Tensor, masks: Tensor, ignore_index: int) -> Tensor:
    """Mean cross-entropy over the labelled pixels; 0 (with zero gradients) where none is labelled.

    Args:
        logits: ``[B, C, H, W]``.
        masks: ``[B, H, W]`` class of each pixel, or ``ignore_index``.
    """
    masks = masks.long()
    total = F.cross_entropy(logits.float(), masks, ignore_index=ignore_index, reduction="sum")
    return total / (masks != ignore_index).sum().clamp_min(1)


def segmentation_loss(outputs: Sequence[Tensor], masks: Tensor, *, ignore_index: int, auxiliary_weight: float) -> Tensor:
    """``loss(outputs[0]) + auxiliary_weight · loss(outputs[1])``, the second where the model has an auxiliary head."""
    loss = pixel_loss(outputs[0], masks, ignore_index)
    for extra in outputs[1:]:
        loss = loss + auxiliary_weight * pixel_loss(extra, masks, ignore_index)
    return loss
