"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) with soft targets; any batch size, odd
ones too."""

from __future__ import annotations

import numpy as np
import torch
from mae_skill.spec import AugmentationSpec
from torch import Tensor

from mae_runners.data.transforms import sample_key


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """One-hot [B, num_classes] float32 with label smoothing: off = s / C, on = 1 - s + s / C
    (arXiv 1512.00567). Labels of several classes, float [B, num_classes], are smoothed each as one
    of two: off = s / 2, on = 1 - s / 2."""
    if labels.ndim == 2:
        return labels.float() * (1.0 - smoothing) + smoothing / 2
    off = smoothing / num_classes
    out = torch.full((labels.shape[0], num_classes), off, device=labels.device)
    return out.scatter_(1, labels.long().view(-1, 1), 1.0 - smoothing + off)


class Mixup:
    """Mixes a batch with itself reversed.

    Modes: ``batch`` draws one λ for the batch; ``pair`` one for each two partners; ``elem`` one for
    each element. A draw decides between mixup and CutMix when both are on (``mixup_switch_prob`` =
    the chance of CutMix), and ``mixup_prob`` whether anything is mixed. The middle element of an
    odd batch is its own partner and stays as it is.

    Args:
        augmentation: the spec's ``dataset.augmentation``.
        num_classes: C.
        smoothing: label smoothing; ``None`` takes ``augmentation.smoothing``.
    """

    def __init__(
        self, augmentation: AugmentationSpec, num_classes: int, smoothing: float | None = None
    ) -> None:
        self.mixup, self.cutmix = augmentation.mixup, augmentation.cutmix
        self.prob = augmentation.mixup_prob
        self.switch_prob = augmentation.mixup_switch_prob
        self.mode = augmentation.mixup_mode
        self.num_classes = num_classes
        self.smoothing = augmentation.smoothing if smoothing is None else smoothing
        assert self.mode in ("batch", "pair", "elem"), self.mode

    def __call__(
        self, images: Tensor, labels: Tensor, key: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor]:
        """Mix one batch; the arguments stay as they are.

        Args:
            images: [B, 3, H, W], floating point.
            labels: int64 [B]; or float [B, C], 1 for each class that an image is of.
            key: (seed, step, rank): all that the draws depend on.

        Returns:
            images [B, 3, H, W] and soft targets [B, C] float32.
        """
        size = images.shape[0]
        targets = soft_targets(labels, self.num_classes, self.smoothing)
        if self.mixup <= 0 and self.cutmix <= 0:
            return images, targets

        seed, step, rank = key
        rng = np.random.Generator(np.random.Philox(key=sample_key(seed, step, rank, "mixup")))
        draws = 1 if self.mode == "batch" else size
        lam = np.ones(draws)
        cut = np.zeros(draws, dtype=bool)
        for i in range(draws):
            if rng.random() >= self.prob:
                continue
            cut[i] = self.cutmix > 0 and (self.mixup <= 0 or rng.random() < self.switch_prob)
            alpha = self.cutmix if cut[i] else self.mixup
            lam[i] = rng.beta(alpha, alpha)

        height, width = images.shape[-2:]
        boxes = [
            _box(rng, height, width, value) if is_cut else None
            for value, is_cut in zip(lam, cut, strict=True)
        ]
        for i, box in enumerate(boxes):
            if box is not None:
                # The border may have cut the box: λ follows the area that is really pasted.
                y0, y1, x0, x1 = box
                lam[i] = 1 - (y1 - y0) * (x1 - x0) / (height * width)

        # The draw that each element of the batch uses.
        place = np.zeros(size, dtype=int) if self.mode == "batch" else np.arange(size)
        if self.mode == "pair":
            place = np.minimum(place, size - 1 - place)

        # Elements with a box are not blended: the box is pasted over them below.
        weight = torch.as_tensor(lam[place], dtype=torch.float32, device=images.device)
        blend = torch.where(
            torch.as_tensor(cut[place], device=images.device), torch.ones_like(weight), weight
        )
        flipped = images.flip(0)
        scale = blend.view(-1, 1, 1, 1).to(images.dtype)
        mixed = images * scale + flipped * (1 - scale)
        for i in range(size):
            box = boxes[place[i]]
            if box is not None:
                y0, y1, x0, x1 = box
                mixed[i, :, y0:y1, x0:x1] = flipped[i, :, y0:y1, x0:x1]

        return mixed, targets * weight.view(-1, 1) + targets.flip(0) * (1 - weight.view(-1, 1))


def _box(
    rng: np.random.Generator, height: int, width: int, lam: float
) -> tuple[int, int, int, int]:
    """A box (y0, y1, x0, x1) around a random center, 1 - λ of the area, cut at the border."""
    share = np.sqrt(1 - lam)
    h, w = int(height * share), int(width * share)
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    return max(0, y - h // 2), min(height, y + h // 2), max(0, x - w // 2), min(width, x + w // 2)
