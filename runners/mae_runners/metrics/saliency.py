"""Where a classifier's answer comes from: gradients of the chosen class by the pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

COPIES, NOISE = 8, 0.1


def gradient_map(model: Callable[[Tensor], Tensor], image: Tensor, chosen: int) -> Tensor:
    """How strongly the logit of a class depends on each pixel, in 0…1, ``[H, W]``.

    SmoothGrad (arXiv 1706.03825): the mean of the largest gradient over channels, over `COPIES`
    of the image with noise of `NOISE` times its range, then over 3 × 3 pixels; the 99th percentile
    is 1.

    Args:
        model: ``[B, 3, H, W]`` normalized → logits ``[B, C]``; in evaluation mode.
        image: ``[3, H, W]``, normalized.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((COPIES, *image.shape), generator=generator).to(image)
    inputs = (image[None] + noise * NOISE * (image.max() - image.min())).requires_grad_(True)
    with torch.enable_grad():
        total = model(inputs)[:, chosen].float().sum()
        (gradient,) = torch.autograd.grad(total, inputs)
    strength = gradient.abs().amax(dim=1).mean(dim=0)[None, None]
    smooth = F.avg_pool2d(strength, 3, stride=1, padding=1, count_include_pad=False)[0, 0]
    top = smooth.flatten().quantile(0.99)
    return (smooth / top if top > 0 else smooth).clamp(0.0, 1.0)
