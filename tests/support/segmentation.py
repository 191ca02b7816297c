"""Small segmenters, and the runs that train them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.images import digits, photo
from tests.support.training import spec


def segmenter_config(arch: str, size: tuple[int, int], **overrides: Any) -> dict[str, Any]:
    """Plain arguments of a segmenter of 5 classes with a narrow head, without drop path."""
    return {
        "arch": arch,
        "input_size": list(size),
        "task": "segmentation",
        "num_classes": 5,
        "drop_path_rate": 0.0,
        "channels": 16,
        "scales": [1, 2, 3, 6],
        "dropout": 0.1,
        "auxiliary_channels": 8,
        **overrides,
    }


def write_scenes(root: Path, count: int = 6, size: int = 64, start: int = 0) -> Path:
    """ADE20K's layout, one split: ``images/`` with digits of two kinds on a photograph, ``annotations/`` with exact masks (0 unlabelled, 1
    background, 2 the kind below five, 3 the kind from five on)."""
    images, labels = digits()
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        rng = np.random.default_rng(number)
        picture = np.array(photo(number, size, size))
        mask = np.ones((size, size), np.uint8)
        for corner in range(2):
            index = int(rng.integers(0, len(images)))
            side = size // 2
            digit = np.asarray(Image.fromarray(images[index]).resize((side, side), Image.Resampling.BILINEAR))
            y, x = int(rng.integers(0, size - side + 1)), corner * side
            ink = digit > 48
            picture[y : y + side, x : x + side][ink] = (250, 40, 40) if labels[index] < 5 else (40, 40, 250)
            mask[y : y + side, x : x + side][ink] = 2 if labels[index] < 5 else 3
        mask[: size // 16] = 0
        Image.fromarray(picture).save(root / "images" / f"{number:04d}.png")
        Image.fromarray(mask).save(root / "annotations" / f"{number:04d}.png")
    return root


def seg_spec(data: Path, results: Path, arch: str = "vit_tiny_patch16", **changes: Any) -> dict[str, Any]:
    """A small train spec of a segmenter with three classes; ``changes`` as in `tests.support.training.spec`."""
    head = {"model__task": "segmentation", "model__num_classes": 3, "model__drop_path_rate": 0.0}
    head |= {"model__segmentation__channels": 16, "model__segmentation__auxiliary_channels": 8}
    return spec(data, results, "finetune", arch, **{**head, **changes})
