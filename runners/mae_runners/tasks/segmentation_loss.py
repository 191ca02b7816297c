"""The training loss of a segmenter."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pixel_loss(logits: Tensor, masks: Tensor, ignore_index: int) -> Tensor:
    """Cross-entropy summed over the labelled pixels, divided by the number of all pixels.

    Published segmenters are trained like this (MMSegmentation's default): an ignored pixel adds
    nothing, and what an image adds does not depend on which others share its batch, so that
    splitting a batch over ranks or accumulating it changes nothing.

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
    """The loss of the head, plus ``auxiliary_weight`` × that of the auxiliary head if there is one.

    Args:
        outputs: logits ``[B, C, H, W]`` of the head and of the auxiliary head.
        masks: as in `pixel_loss`.
    """
    loss = pixel_loss(outputs[0], masks, ignore_index)
    for extra in outputs[1:]:
        loss = loss + auxiliary_weight * pixel_loss(extra, masks, ignore_index)
    return loss
