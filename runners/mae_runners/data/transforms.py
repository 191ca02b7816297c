"""From a decoded image to the model's input size, every draw a function of (seed, epoch, index).

Training, both stages: random resized crop (``min_scale``–``max_scale`` of the area,
``min_ratio``–``max_ratio``), flips, an affine change (``rotation, shear, zoom, shift``), color
jitter. Fine-tuning adds ``auto_aug`` (timm) and random erasing. Evaluation: the short side to size
over ``center_crop`` (bicubic), then the center.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import cv2
import numpy as np
from mae_sdk.data.pictures import orientation
from mae_skill.errors import SpecError
from mae_skill.spec import AugmentationSpec
from PIL import Image, ImageEnhance, ImageOps

from mae_runners.data.decode import Pixels, decode, jpeg_shape

Policy = Callable[[Image.Image], Image.Image]

ATTEMPTS = 10


def sample_key(seed: int, epoch: int, index: int, purpose: str = "sample") -> int:
    """64 bits that depend on all four and on nothing else."""
    return int.from_bytes(
        hashlib.blake2b(f"{purpose}:{seed}:{epoch}:{index}".encode(), digest_size=8).digest(),
        "little",
    )


def input_shape(input_size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """``(height, width)`` from the spec's int or [height, width]."""
    if isinstance(input_size, int):
        return input_size, input_size
    height, width = input_size
    return int(height), int(width)


@contextmanager
def seeded_globals(key: int) -> Iterator[None]:
    """Seed ``random`` and numpy's global generator for a block (timm's policies draw from both),
    then restore their states."""
    python, numpy_state = random.getstate(), np.random.get_state()
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)


def random_box(
    rng: random.Random,
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """A crop ``(x, y, w, h)`` as RandomResizedCrop draws it (Szegedy et al., arXiv 1409.4842).

    The area is uniform in ``scale``, the ratio log-uniform in ``ratio``; a draw that does not fit
    is drawn again, ten times, and then the largest central crop within ``ratio`` is taken. So a
    ``scale`` above 1 only makes whole-image crops more frequent.
    """
    area = width * height
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(ATTEMPTS):
        target = rng.uniform(*scale) * area
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, width - w), rng.randint(0, height - h), w, h

    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    w, h = max(1, min(w, width)), max(1, min(h, height))
    return (width - w) // 2, (height - h) // 2, w, h


def resize(pixels: Pixels, width: int, height: int, interpolation: str) -> Pixels:
    """To ``[height, width, 3]``. Shrinking by 2 or more averages areas; below that OpenCV's kernels
    differ little from Pillow's."""
    shrink = min(pixels.shape[1] / width, pixels.shape[0] / height)
    if shrink >= 2:
        method = cv2.INTER_AREA
    else:
        method = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
    return cast(Pixels, cv2.resize(pixels, (width, height), interpolation=method))


def change_affine(
    pixels: Pixels,
    rng: random.Random,
    rotation: float,
    shear: float,
    zoom: float,
    shift: float,
    interpolation: str,
) -> Pixels:
    """Rotate, shear, scale and shift about the center in one resampling: ``[H, W, 3]`` → the same.

    Each draw is uniform, that of the scale in its logarithm, so that growing and shrinking are
    equally likely. Outside the image is its mirror image.

    Args:
        rotation, shear: largest angles in degrees.  zoom, shift: largest shares.
    """
    height, width = pixels.shape[:2]
    angle = math.radians(rng.uniform(-rotation, rotation))
    slant = math.tan(math.radians(rng.uniform(-shear, shear)))
    factor = math.exp(rng.uniform(-1.0, 1.0) * math.log1p(zoom))
    move_x, move_y = (rng.uniform(-shift, shift) * side for side in (width, height))

    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = factor * turn @ np.array([[1.0, slant], [0.0, 1.0]])
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = center + np.array([move_x, move_y]) - linear @ center
    matrix = np.concatenate([linear, offset[:, None]], axis=1)

    method = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
    warped = cv2.warpAffine(
        pixels, matrix, (width, height), flags=method, borderMode=cv2.BORDER_REFLECT_101
    )
    return cast(Pixels, warped)


def jitter(picture: Image.Image, strength: float, rng: random.Random) -> Image.Image:
    """Brightness, contrast and saturation, each by a factor within 1 ± ``strength``, in random
    order."""
    steps: list[Callable[[Image.Image], ImageEnhance._Enhance]] = [
        ImageEnhance.Brightness,
        ImageEnhance.Contrast,
        ImageEnhance.Color,
    ]
    rng.shuffle(steps)
    for step in steps:
        picture = step(picture).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return picture


class TrainTransform:
    """Bytes → uint8 [height, width, 3], augmented.

    Args:
        augmentation: the spec's ``dataset.augmentation``.
        finetune: whether ``auto_aug`` and ``re_prob`` act.

    Raises:
        SpecError: ``auto_aug`` is no policy that timm knows.
    """

    def __init__(self, augmentation: AugmentationSpec, finetune: bool) -> None:
        self.height, self.width = input_shape(augmentation.input_size)
        self.scale = (augmentation.min_scale, augmentation.max_scale)
        self.ratio = (augmentation.min_ratio, augmentation.max_ratio)
        self.interpolation = augmentation.interpolation
        self.hflip = augmentation.hflip
        self.vflip = augmentation.vflip
        self.affine = (
            augmentation.rotation,
            augmentation.shear,
            augmentation.zoom,
            augmentation.shift,
        )
        self.color_jitter = augmentation.color_jitter
        self.re_prob = augmentation.re_prob if finetune else 0.0
        self.mean, self.std = list(augmentation.mean), list(augmentation.std)
        self.reduced = augmentation.reduced_decode
        self.max_pixels = augmentation.max_pixels
        self.policy: Policy | None = None
        if finetune:
            self.policy = _policy(
                augmentation.auto_aug, self.height, self.width, self.mean, self.interpolation
            )

    def __call__(self, data: bytes, name: str, key: int) -> Pixels:
        """Decode and augment one image; every draw comes from ``key``."""
        rng = random.Random(key)
        pixels, (x, y, w, h) = self._crop(data, name, rng)
        kernel: str = self.interpolation
        if kernel == "random":
            kernel = rng.choice(("bilinear", "bicubic"))
        pixels = resize(pixels[y : y + h, x : x + w], self.width, self.height, kernel)
        if rng.random() < self.hflip:
            pixels = pixels[:, ::-1]
        if self.vflip > 0 and rng.random() < self.vflip:
            pixels = pixels[::-1]
        if any(self.affine):
            pixels = change_affine(np.ascontiguousarray(pixels), rng, *self.affine, kernel)

        if self.policy is not None or self.color_jitter > 0:
            picture = Image.fromarray(np.ascontiguousarray(pixels))
            if self.policy is not None:
                with seeded_globals(key):
                    picture = self.policy(picture)
            if self.color_jitter > 0:
                picture = jitter(picture, self.color_jitter, rng)
            pixels = np.array(picture)

        if self.re_prob > 0 and rng.random() < self.re_prob:
            pixels = self._erase(np.ascontiguousarray(pixels), rng)
        return pixels

    def _crop(
        self, data: bytes, name: str, rng: random.Random
    ) -> tuple[Pixels, tuple[int, int, int, int]]:
        """The decoded image, and the crop ``(x, y, w, h)`` to cut from it."""
        if self.reduced and (shape := jpeg_shape(data)) is not None and shape[2] in (1, 3):
            # The crop is drawn on the full size, so it is the same crop; decoding shrinks only as
            # long as the crop is no smaller than the input.
            width, height = _upright(data, shape[0], shape[1])
            x, y, w, h = random_box(rng, width, height, self.scale, self.ratio)
            factor = next(
                (f for f in (8, 4, 2) if w // f >= self.width and h // f >= self.height), 1
            )
            pixels = decode(data, name, max_pixels=self.max_pixels, reduce=factor)

            # libjpeg rounds reduced sizes up; a decoder that cannot reduce returns the full size.
            sx, sy = pixels.shape[1] / width, pixels.shape[0] / height
            x, y, w, h = int(x * sx), int(y * sy), max(1, round(w * sx)), max(1, round(h * sy))
            return pixels, (min(x, pixels.shape[1] - 1), min(y, pixels.shape[0] - 1), w, h)

        pixels = decode(data, name, max_pixels=self.max_pixels)
        return pixels, random_box(rng, pixels.shape[1], pixels.shape[0], self.scale, self.ratio)

    def _erase(self, pixels: Pixels, rng: random.Random) -> Pixels:
        """Random erasing (arXiv 1708.04896) with normal noise per pixel in normalized space, as in
        the MAE recipe (``pixel`` mode)."""
        area = self.height * self.width
        for _ in range(ATTEMPTS):
            target = rng.uniform(0.02, 1 / 3) * area
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < w < self.width and 0 < h < self.height:
                y, x = rng.randint(0, self.height - h), rng.randint(0, self.width - w)
                bits = np.random.Philox(key=rng.getrandbits(64))
                noise = np.random.Generator(bits).standard_normal((h, w, 3), dtype=np.float32)
                mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
                fill = 255 * (noise * std + mean)
                pixels[y : y + h, x : x + w] = np.clip(np.rint(fill), 0, 255).astype(np.uint8)
                break
        return pixels


class EvalTransform:
    """Bytes → uint8 [height, width, 3]: the same for validation, evaluation, inference and the kNN
    probe."""

    def __init__(self, augmentation: AugmentationSpec) -> None:
        self.height, self.width = input_shape(augmentation.input_size)
        self.share = augmentation.center_crop
        self.max_pixels = augmentation.max_pixels

    def __call__(self, data: bytes, name: str, key: int = 0) -> Pixels:
        """Decode, resize with Pillow's bicubic filter, cut the center. ``key`` is not used: nothing
        here is random."""
        return self.fit(decode(data, name, max_pixels=self.max_pixels))

    def fit(self, pixels: Pixels) -> Pixels:
        """uint8 [H, W, 3] of any size → [height, width, 3]; to the pixel what timm's evaluation
        transform gives, which reads other people's pictures for an exported model."""
        height, width = pixels.shape[:2]
        want_w, want_h = math.floor(self.width / self.share), math.floor(self.height / self.share)
        if want_w == want_h:  # torchvision's Resize of the short side
            short = min(width, height)
            new_w, new_h = int(want_w * width / short), int(want_h * height / short)
        else:  # timm's ResizeKeepRatio
            ratio = min(width / want_w, height / want_h)
            new_w, new_h = round(width / ratio), round(height / ratio)
        resized = np.asarray(
            Image.fromarray(pixels).resize((new_w, new_h), Image.Resampling.BICUBIC)
        )
        y, x = round((new_h - self.height) / 2), round((new_w - self.width) / 2)
        return resized[y : y + self.height, x : x + self.width]


def _upright(data: bytes, width: int, height: int) -> tuple[int, int]:
    """The size after EXIF orientation."""
    turned = orientation(data) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _policy(
    text: str | None, height: int, width: int, mean: list[float], interpolation: str
) -> Policy | None:
    """timm's policy of this name, or None."""
    if not text or text.lower() == "none":
        return None

    from timm.data.auto_augment import (
        augment_and_mix_transform,
        auto_augment_transform,
        rand_augment_transform,
    )

    options: dict[str, Any] = {
        "translate_const": int(min(height, width) * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in mean),
    }
    if interpolation != "random":
        options["interpolation"] = (
            Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
        )
    try:
        if text.startswith("rand"):
            policy = rand_augment_transform(text, options)
        elif text.startswith("augmix"):
            policy = augment_and_mix_transform(text, {**options, "translate_pct": 0.3})
        else:
            policy = auto_augment_transform(text, options)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise SpecError(
            "no such augmentation policy",
            field="dataset.augmentation.auto_aug",
            got=text,
            expected="rand-m9-mstd0.5-inc1 and the like, augmix-m3-w3, original, v0, originalr, "
            "v0r, 3a, or none",
        ) from error

    for step in getattr(policy, "ops", None) or [step for steps in policy.policy for step in steps]:
        if step.name.startswith("Posterize"):
            step.aug_fn = _posterize
    return cast(Policy, policy)


def _posterize(picture: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keeps at least one bit: the strongest levels of timm's policies ask for none, which Pillow
    rejects."""
    return picture if bits >= 8 else ImageOps.posterize(picture, max(1, bits))
