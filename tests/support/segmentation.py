"""Small segmenters, and the runs that train them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.models import build
from tests.support.scenes import write_digit_scenes
from tests.support.training import spec

#: every crop is the whole image as it is
PLAIN = {
    "dataset__augmentation__segmentation__scale_jitter": [1.0, 1.0],
    "dataset__augmentation__segmentation__photometric": False,
    "dataset__augmentation__segmentation__max_class_share": 1.0,
    "dataset__augmentation__hflip": 0.0,
}


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


def awake(arch: str, size: tuple[int, int] = (64, 96), **changes: Any) -> Any:
    """A segmenter whose statistics are those of some images, not 0 and 1."""
    model = build(segmenter_config(arch, size, **changes)).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 3, *size))
    return model.eval()


def scenes(root: Path, training: int = 8, validation: int = 4, size: int = 64) -> Path:
    """A small set of digits on photographs in ADE20K's layout, 11 classes."""
    return write_digit_scenes(root, training, validation, size)


def seg_spec(
    data: Path, results: Path, arch: str = "vit_tiny_patch16", **changes: Any
) -> dict[str, Any]:
    """A small train spec of a segmenter of the digit scenes; ``changes`` as in
    `tests.support.training.spec`."""
    head = {"model__task": "segmentation", "model__num_classes": 11, "model__drop_path_rate": 0.0}
    head |= {"model__segmentation__channels": 16, "model__segmentation__auxiliary_channels": 8}
    head |= {"dataset__segmentation__class_list": str(data / "classes.txt")}
    return spec(data, results, "finetune", arch, **{**head, **changes})
