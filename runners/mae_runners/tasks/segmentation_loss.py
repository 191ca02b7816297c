"""The training loss of a segmenter."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pixel_loss(logits: Tensor, masks: Tensor, ignore_index: int) -> Tensor:
    """Cross-entropy summed over the labelled pixels, divided by the number of all pixels.

    So the published segmenters are trained (MMSegmentation's default): an ignored pixel adds nothing, and what an image adds does not
    depend on which others share its batch, so that splitting a batch over ranks or accumulating it changes nothing.

    Args:
        logits: ``[B, C, H, W]``.
        masks: ``[B, H, W]`` class of each pixel, or ``ignore_index``.
    """
    total = F.cross_entropy(
        logits.float(), masks.long(), ignore_index=ignore_index, reduction="sum"
    )
    return total / masks.numel()


def segmentation_loss(
    outputs: Sequence[Tensor], masks: Tensor, *, ignore_index: int, auxiliary_weight: float
) -> Tensor:
    """``loss(outputs[0]) + auxiliary_weight · loss(outputs[1])``, the second where the model has an auxiliary head."""
    loss = pixel_loss(outputs[0], masks, ignore_index)
    for extra in outputs[1:]:
        loss = loss + auxiliary_weight * pixel_loss(extra, masks, ignore_index)
    return loss
