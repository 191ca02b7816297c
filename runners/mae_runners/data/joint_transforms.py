"""Transforms of an image and its mask together, every draw a function of (seed, epoch, index).

Training: random resize, crop, flip, photometric distortion, padding to the crop. Evaluation has no
transform: both keep their size.
"""

from __future__ import annotations

import random
from typing import cast

import cv2
import numpy as np
from mae_skill.archs import per_channel
from mae_skill.spec import AugmentationSpec

from mae_runners.data.masks import Mask
from mae_runners.data.transforms import ATTEMPTS, Pixels, input_shape, resize


class JointTrainTransform:
    """(uint8 or float32 [H, W, C], mask [H, W]) → the same of the input size.

    The scale at which the image just covers the input is multiplied by a uniform draw from
    ``scale_jitter``. A crop of the input size is drawn again, up to ten times, while one class
    holds more than ``max_class_share`` of its labeled pixels (the last draw is kept). What the
    image does not fill is padded at the right and bottom: with the mean color, and
    ``ignore_index`` in the mask.

    Args:
        augmentation: the spec's ``dataset.augmentation``.
        ignore_index: mask value of pixels that do not count.
        channels: of an image.
    """

    def __init__(
        self, augmentation: AugmentationSpec, ignore_index: int, channels: int = 3
    ) -> None:
        joint = augmentation.segmentation
        self.height, self.width = input_shape(augmentation.input_size)
        self.low, self.high = joint.scale_jitter
        self.max_share = joint.max_class_share
        self.photometric = joint.photometric
        self.hflip = augmentation.hflip
        self.fill = [
            min(255, max(0, round(255 * value)))
            for value in per_channel(augmentation.mean, channels)
        ]
        self.ignore_index = ignore_index

    def __call__(self, pixels: Pixels, mask: Mask, key: int) -> tuple[Pixels, Mask]:
        """Augment one pair; every draw comes from ``key``."""
        rng = random.Random(key)
        height, width = pixels.shape[:2]
        factor = max(self.height / height, self.width / width) * rng.uniform(self.low, self.high)
        new_h, new_w = max(1, round(height * factor)), max(1, round(width * factor))
        if (new_h, new_w) != (height, width):
            mask = resize_mask(mask, new_w, new_h)
            pixels = resize(pixels, new_w, new_h, "bilinear")

        y, x = self._corner(mask, rng)
        mask = mask[y : y + self.height, x : x + self.width]
        pixels = pixels[y : y + self.height, x : x + self.width]

        if rng.random() < self.hflip:
            pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        if self.photometric:
            pixels = distort(np.ascontiguousarray(pixels), rng)
        return self._pad(pixels, mask)

    def _corner(self, mask: Mask, rng: random.Random) -> tuple[int, int]:
        """The crop's upper left corner (y, x)."""
        for _ in range(ATTEMPTS):
            y = rng.randint(0, max(0, mask.shape[0] - self.height))
            x = rng.randint(0, max(0, mask.shape[1] - self.width))
            crop = mask[y : y + self.height, x : x + self.width]
            if self.max_share >= 1 or _largest_share(crop, self.ignore_index) <= self.max_share:
                break
        return y, x

    def _pad(self, pixels: Pixels, mask: Mask) -> tuple[Pixels, Mask]:
        height, width = mask.shape
        if (height, width) == (self.height, self.width):
            return pixels, mask

        padded = np.empty((self.height, self.width, pixels.shape[2]), dtype=pixels.dtype)
        padded[:] = self.fill
        padded[:height, :width] = pixels
        classes = np.full((self.height, self.width), self.ignore_index, dtype=mask.dtype)
        classes[:height, :width] = mask
        return padded, classes


def _largest_share(mask: Mask, ignore_index: int) -> float:
    """The largest class's share of the labeled pixels; 1 where nothing is labeled."""
    counts = np.bincount(mask.ravel(), minlength=ignore_index + 1)
    counts[ignore_index] = 0
    total = int(counts.sum())
    return float(counts.max() / total) if total else 1.0


def resize_mask(mask: Mask, width: int, height: int) -> Mask:
    """To [height, width] by the nearest pixel, its center where the image's resize has it."""
    return cast(Mask, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def distort(pixels: Pixels, rng: random.Random) -> Pixels:
    """Photometric distortion as in SSD (arXiv:1512.02325): brightness, contrast, saturation, hue,
    each with probability 0.5; saturation and hue of three channels alone.

    Brightness within ± 32, contrast and saturation by 0.5–1.5, hue within ± 18°; contrast comes
    last in half of the images.
    """
    bright = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    late = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-18, 18) if rng.random() < 0.5 else 0.0

    distorted = _linear(pixels, 1.0 if late else contrast, bright)
    if (saturation != 1.0 or hue != 0.0) and pixels.shape[2] == 3:
        if distorted.dtype != np.uint8:
            distorted = _recolor(distorted, saturation, hue)
            return _linear(distorted, contrast if late else 1.0, 0.0)
        hsv = cv2.cvtColor(distorted, cv2.COLOR_RGB2HSV_FULL)  # hue in 0–255 for 0–360°
        turn = round(hue * 256 / 360)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn).astype(np.uint8)
        hsv[..., 1] = cv2.convertScaleAbs(hsv[..., 1], alpha=saturation)
        distorted = cast(Pixels, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))
    return _linear(distorted, contrast if late else 1.0, 0.0)


def _recolor(pixels: Pixels, saturation: float, hue: float) -> Pixels:
    """Saturation and hue (degrees) of float32 RGB."""
    hsv = cv2.cvtColor(np.ascontiguousarray(pixels) / np.float32(255), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + np.float32(hue)) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] * np.float32(saturation), 0, 1)
    return cast(Pixels, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * np.float32(255))


def _linear(pixels: Pixels, factor: float, shift: float) -> Pixels:
    """``pixels * factor + shift``, clipped; bytes are rounded."""
    if factor == 1.0 and shift == 0.0:
        return pixels
    if pixels.dtype != np.uint8:
        changed = pixels * np.float32(factor) + np.float32(shift)
        return cast(Pixels, changed.clip(0.0, 255.0).astype(np.float32))
    table = np.clip(np.rint(np.arange(256) * factor + shift), 0, 255).astype(np.uint8)
    return cast(Pixels, table[pixels] if pixels.shape[2] != 3 else cv2.LUT(pixels, table))
