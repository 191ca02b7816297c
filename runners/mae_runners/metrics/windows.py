"""An image of any size through a model of one size: fitted whole, or window by window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Classes that are resized to an image at once: all 150 of a 12-megapixel photograph would be 7 GB.
CHUNK = 16
Model = Callable[[Tensor], Tensor]


def fitted_size(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """The largest (height, width) of the shape of ``size`` that fits into ``window``."""
    factor = min(window[0] / size[0], window[1] / size[1])
    return min(window[0], max(1, round(size[0] * factor))), min(
        window[1], max(1, round(size[1] * factor))
    )


def covering_size(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """The smallest (height, width) of the shape of ``size`` that covers ``window``."""
    factor = max(window[0] / size[0], window[1] / size[1])
    return max(window[0], round(size[0] * factor)), max(window[1], round(size[1] * factor))


def scale_pixels(image: Tensor, size: tuple[int, int]) -> Tensor:
    """``[C, H, W]`` in 0 … 255 → ``[C, *size]`` of the same type, bilinear with antialiasing."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    scaled = F.interpolate(
        image[None].float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )[0]
    if image.dtype != torch.uint8:
        return scaled.clamp_(0, 255)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def pad_pixels(image: Tensor, window: tuple[int, int], fill: Sequence[float]) -> Tensor:
    """``[C, h, w]`` in 0 … 255 at the upper left of a window; the rest is ``fill``: values in
    0…1, one per channel."""
    color = torch.tensor(
        [round(255 * value) for value in fill], dtype=image.dtype, device=image.device
    )
    padded = color[:, None, None].repeat(1, *window)
    padded[:, : image.shape[1], : image.shape[2]] = image
    return padded


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin on a side: every ``stride``, the last one flush with the end."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def whole(
    model: Model, images: Sequence[Tensor], window: tuple[int, int], fill: Sequence[float]
) -> list[Tensor]:
    """Logits of each image in one pass: it is resized until it fits, the rest of the window filled.

    Args:
        model: ``[B, C, *window]`` in 0 … 255 → logits ``[B, C, *window]``.
        images: ``[C, H_i, W_i]``.
        fill: mean color, which is 0 after normalization.

    Returns:
        ``[C, h_i, w_i]`` for the part of the window that the image fills; `classify_pixels`
        resizes them to the image.
    """
    sizes = [fitted_size((image.shape[1], image.shape[2]), window) for image in images]
    batch = torch.stack(
        [
            pad_pixels(scale_pixels(image, size), window, fill)
            for image, size in zip(images, sizes, strict=True)
        ]
    )
    return [
        logits[:, :height, :width]
        for logits, (height, width) in zip(model(batch), sizes, strict=True)
    ]


def slide(
    model: Model, image: Tensor, window: tuple[int, int], stride: tuple[int, int], batch: int
) -> Tensor:
    """Logits of an image, resized until it just covers a window: the mean of overlapping windows.

    Args:
        model: ``[B, C, *window]`` in 0 … 255 → logits ``[B, C, *window]``.
        image: ``[C, H, W]``.
        stride: rows and columns from one window to the next, at most the window.
        batch: windows per call.

    Returns:
        ``[C, h, w]`` of the resized image.
    """
    size = covering_size((image.shape[1], image.shape[2]), window)
    scaled = scale_pixels(image, size)
    corners = [
        (y, x)
        for y in starts(size[0], window[0], stride[0])
        for x in starts(size[1], window[1], stride[1])
    ]
    total: Tensor | None = None
    hits: Tensor | None = None
    for first in range(0, len(corners), batch):
        part = corners[first : first + batch]
        outputs = model(
            torch.stack([scaled[:, y : y + window[0], x : x + window[1]] for y, x in part])
        )
        if total is None or hits is None:
            total = outputs.new_zeros((outputs.shape[1], *size))
            hits = outputs.new_zeros(size)
        for logits, (y, x) in zip(outputs, part, strict=True):
            total[:, y : y + window[0], x : x + window[1]] += logits
            hits[y : y + window[0], x : x + window[1]] += 1
    assert total is not None and hits is not None, "every image has a window"
    return total / hits


def default_stride(window: tuple[int, int], asked: int | None) -> tuple[int, int]:
    """The stride of `slide`: ``asked`` on both sides (at most the window), or 2/3 of the window."""
    rows, columns = (min(asked, side) if asked else max(1, side * 2 // 3) for side in window)
    return rows, columns


def classify_pixels(
    logits: Tensor, size: tuple[int, int], mask: Tensor | None = None, ignore_index: int = 255
) -> tuple[Tensor, float, int]:
    """The most likely class of each pixel, and the loss.

    The logits ``[C, h, w]`` are resized to ``size`` (bilinear), a few classes at a time.

    Args:
        mask: true classes, integer ``[*size]``, or None.

    Returns:
        Classes, uint8 or int16 ``[*size]``; the cross-entropy summed over the labeled pixels; the
        number of these. The last two are 0 without a mask.
    """
    best: Tensor | None = None
    chosen = torch.empty(0)
    total, picked = torch.empty(0), torch.empty(0)
    count = logits.shape[0]
    for first in range(0, count, CHUNK):
        part = F.interpolate(
            logits[None, first : first + CHUNK].float(),
            size=size,
            mode="bilinear",
            align_corners=False,
        )[0]
        values, indices = part.max(dim=0)
        indices = (indices + first).to(torch.uint8 if count <= 256 else torch.int16)
        if best is None:
            best, chosen = values, indices
        else:
            chosen = torch.where(values > best, indices, chosen)
            best = torch.maximum(best, values)
        if mask is not None:
            summed = part.logsumexp(dim=0)
            inside = (mask.long() - first).clamp(0, len(part) - 1)
            own = part.gather(0, inside[None])[0]
            here = (mask >= first) & (mask < first + len(part))
            picked = torch.where(here, own, picked if first else torch.zeros_like(own))
            total = torch.logaddexp(total, summed) if first else summed
    if mask is None:
        return chosen, 0.0, 0
    known = mask != ignore_index
    return chosen, float((total - picked)[known].double().sum()), int(known.sum())
