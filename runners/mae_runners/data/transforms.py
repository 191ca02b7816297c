"""From a decoded image to the model's input size, every draw a function of (seed, epoch, index).

Training, both stages: random resized crop (``min_scale``–``max_scale`` of the area,
``min_ratio``–``max_ratio``), flips, an affine change (``rotation, shear, zoom, shift``), color
jitter. Fine-tuning adds ``auto_aug`` (timm) and random erasing. Evaluation: the short side to size
over ``center_crop`` (``eval_interpolation``), then the center.
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
import numpy.typing as npt
from mae_sdk.data.decode import DEFAULT, decode
from mae_sdk.data.pictures import jpeg_shape, orientation
from mae_sdk.data.reading import Reading
from mae_skill.archs import per_channel
from mae_skill.errors import SpecError
from mae_skill.spec import AugmentationSpec
from PIL import Image, ImageEnhance, ImageOps

Pixels = npt.NDArray[Any]
"""uint8 or float32 [H, W, C] on the scale of 0 … 255."""

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
    """To ``[height, width, C]``. Shrinking by 2 or more averages areas; below that OpenCV's kernels
    differ little from Pillow's."""
    shrink = min(pixels.shape[1] / width, pixels.shape[0] / height)
    if shrink >= 2:
        method = cv2.INTER_AREA
    else:
        method = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
    resized = in_fours(pixels, lambda part: cv2.resize(part, (width, height), interpolation=method))
    return within(resized) if method == cv2.INTER_CUBIC else resized


def in_fours(pixels: Pixels, change: Callable[[Any], Any]) -> Pixels:
    """What OpenCV makes of ``[H, W, C]``, at most four channels at a time; it drops a last axis of
    one."""
    channels = pixels.shape[2]
    if channels in (2, 3, 4):
        return cast(Pixels, change(pixels))
    parts = [
        change(np.ascontiguousarray(pixels[..., start : start + 4]))
        for start in range(0, channels, 4)
    ]
    return np.concatenate([part if part.ndim == 3 else part[..., None] for part in parts], axis=2)


def within(pixels: Pixels) -> Pixels:
    """Floating-point pixels brought back to 0 … 255, as bytes always are: cubic kernels
    overshoot."""
    return pixels if pixels.dtype == np.uint8 else pixels.clip(0.0, 255.0)


def change_affine(
    pixels: Pixels,
    rng: random.Random,
    rotation: float,
    shear: float,
    zoom: float,
    shift: float,
    interpolation: str,
) -> Pixels:
    """Rotate, shear, scale and shift about the center in one resampling: ``[H, W, C]`` → the same.

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
    border = cv2.BORDER_REFLECT_101
    warped = in_fours(
        pixels,
        lambda part: cv2.warpAffine(part, matrix, (width, height), flags=method, borderMode=border),
    )
    return within(warped)


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


def jitter_values(pixels: Pixels, strength: float, rng: random.Random) -> Pixels:
    """`jitter` of pixels that Pillow does not hold: other than three channels, or floating point.
    Saturation acts on three channels alone; the draws are the same."""
    out = pixels.astype(np.float32)
    steps = ["brightness", "contrast", "saturation"]
    rng.shuffle(steps)
    for step in steps:
        factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
        if step == "brightness":
            base: Any = 0.0
        elif step == "contrast":
            base = gray(out).mean()
        elif out.shape[2] == 3:
            base = gray(out)
        else:
            continue
        out = np.clip(base + (out - base) * np.float32(factor), 0.0, 255.0).astype(np.float32)
    return cast(Pixels, np.rint(out).astype(np.uint8) if pixels.dtype == np.uint8 else out)


def gray(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``[H, W, C]`` → ``[H, W, 1]``: luma of three channels, else the mean."""
    weights = (
        [0.299, 0.587, 0.114] if values.shape[2] == 3 else [1 / values.shape[2]] * values.shape[2]
    )
    return (values @ np.array(weights, np.float32))[..., None]


class TrainTransform:
    """Bytes → pixels [height, width, C], augmented: uint8, or float32 on the same scale where the
    file is deeper.

    ``auto_aug`` works on 8 bits, on each channel by the same draws.

    Args:
        augmentation: the spec's ``dataset.augmentation``.
        finetune: whether ``auto_aug`` and ``re_prob`` act.
        reading: how a picture is read.

    Raises:
        SpecError: ``auto_aug`` is no policy that timm knows.
    """

    def __init__(
        self, augmentation: AugmentationSpec, finetune: bool, reading: Reading = DEFAULT
    ) -> None:
        self.reading = reading
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
        self.mean = per_channel(augmentation.mean, reading.bands)
        self.std = per_channel(augmentation.std, reading.bands)
        self.reduced = augmentation.reduced_decode
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
            pixels = self._recolor(pixels, key, rng)
        if self.re_prob > 0 and rng.random() < self.re_prob:
            pixels = self._erase(np.ascontiguousarray(pixels), rng)
        return pixels

    def _recolor(self, pixels: Pixels, key: int, rng: random.Random) -> Pixels:
        """``auto_aug``, then color jitter."""
        if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
            picture = Image.fromarray(np.ascontiguousarray(pixels))
            if self.policy is not None:
                with seeded_globals(key):
                    picture = self.policy(picture)
            if self.color_jitter > 0:
                picture = jitter(picture, self.color_jitter, rng)
            return np.array(picture)

        if self.policy is not None and pixels.shape[2] == 3:
            picture = Image.fromarray(np.rint(pixels).astype(np.uint8))
            with seeded_globals(key):
                picture = self.policy(picture)
            pixels = np.array(picture).astype(pixels.dtype)
        elif self.policy is not None:
            channels = []
            for band in np.moveaxis(np.rint(pixels).astype(np.uint8), 2, 0):
                with seeded_globals(key):  # every band the same way
                    picture = self.policy(Image.fromarray(np.ascontiguousarray(band)))
                channels.append(np.asarray(picture))
            pixels = np.stack(channels, axis=2).astype(pixels.dtype)
        return jitter_values(pixels, self.color_jitter, rng) if self.color_jitter > 0 else pixels

    def _crop(
        self, data: bytes, name: str, rng: random.Random
    ) -> tuple[Pixels, tuple[int, int, int, int]]:
        """The decoded image, and the crop ``(x, y, w, h)`` to cut from it."""
        if self.reduced and (shape := jpeg_shape(data)) is not None and shape[2] in (1, 3):
            # The crop is drawn on the full size, so it is the same crop; decoding shrinks only as
            # long as the crop is no smaller than the input.
            width, height = _upright(data, shape[0], shape[1], self.reading)
            x, y, w, h = random_box(rng, width, height, self.scale, self.ratio)
            factor = next(
                (f for f in (8, 4, 2) if w // f >= self.width and h // f >= self.height), 1
            )
            pixels = decode(data, name, self.reading, reduce=factor)

            # libjpeg rounds reduced sizes up; a decoder that cannot reduce returns the full size.
            sx, sy = pixels.shape[1] / width, pixels.shape[0] / height
            x, y, w, h = int(x * sx), int(y * sy), max(1, round(w * sx)), max(1, round(h * sy))
            return pixels, (min(x, pixels.shape[1] - 1), min(y, pixels.shape[0] - 1), w, h)

        pixels = decode(data, name, self.reading)
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
                noise = np.random.Generator(bits).standard_normal(
                    (h, w, pixels.shape[2]), dtype=np.float32
                )
                mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
                fill = 255 * (noise * std + mean)
                fill = np.rint(fill) if pixels.dtype == np.uint8 else fill
                pixels[y : y + h, x : x + w] = np.clip(fill, 0, 255).astype(pixels.dtype)
                break
        return pixels


class EvalTransform:
    """Bytes → pixels [height, width, C], uint8 or float32: the same for validation, evaluation,
    inference and the kNN probe."""

    def __init__(self, augmentation: AugmentationSpec, reading: Reading = DEFAULT) -> None:
        self.reading = reading
        self.height, self.width = input_shape(augmentation.input_size)
        self.share = augmentation.center_crop
        self.filter = Image.Resampling[augmentation.eval_interpolation.upper()]

    def __call__(self, data: bytes, name: str, key: int = 0) -> Pixels:
        """Decode, resize with Pillow's filter, cut the center. ``key`` is not used: nothing
        here is random."""
        return self.fit(decode(data, name, self.reading))

    def fit(self, pixels: Pixels) -> Pixels:
        """[H, W, C] of any size → [height, width, C]; to the pixel what timm's evaluation
        transform gives, which reads other people's pictures for an exported model."""
        height, width = pixels.shape[:2]
        want_w, want_h = math.floor(self.width / self.share), math.floor(self.height / self.share)
        if want_w == want_h:  # torchvision's Resize of the short side
            short = min(width, height)
            new_w, new_h = int(want_w * width / short), int(want_h * height / short)
        else:  # timm's ResizeKeepRatio
            ratio = min(width / want_w, height / want_h)
            new_w, new_h = round(width / ratio), round(height / ratio)
        resized = filtered(pixels, new_w, new_h, self.filter)
        y, x = round((new_h - self.height) / 2), round((new_w - self.width) / 2)
        return resized[y : y + self.height, x : x + self.width]


def filtered(pixels: Pixels, width: int, height: int, by: Image.Resampling) -> Pixels:
    """Resized by Pillow's filter, which antialiases: ``[H, W, C]`` → ``[height, width, C]``."""
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(picture.resize((width, height), by))
    bands = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels[..., i])).resize((width, height), by)
        )
        for i in range(pixels.shape[2])
    ]
    return within(np.stack(bands, axis=2))


def _upright(data: bytes, width: int, height: int, reading: Reading) -> tuple[int, int]:
    """The size after EXIF orientation."""
    turned = reading.exif and orientation(data, reading.max_pixels) in (5, 6, 7, 8)
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
        # Of other than three channels each is changed alone.
        "img_mean": tuple(min(255, round(255 * value)) for value in mean)
        if len(mean) == 3
        else min(255, round(255 * sum(mean) / len(mean))),
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
