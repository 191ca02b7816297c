"""Small segmenters, and the runs that train them."""

from __future__ import annotations

from typing import Any


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
