"""The augmentation section as the runner reads it, with everything random switched off unless asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def augmentation(**changed: Any) -> SimpleNamespace:
    values: dict[str, Any] = dict.fromkeys(
        ("hflip", "color_jitter", "re_prob", "mixup", "cutmix", "smoothing"), 0.0
    )
    values.update(
        input_size=64,
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        min_scale=1.0,
        max_scale=1.0,
        min_ratio=0.75,
    )
    values.update(
        max_ratio=4 / 3,
        auto_aug=None,
        interpolation="bilinear",
        mixup_prob=1.0,
        mixup_switch_prob=0.5,
        mixup_mode="batch",
    )
    values.update(reduced_decode=False)
    unknown = set(changed) - set(values)
    assert not unknown, unknown
    return SimpleNamespace(**{**values, **changed})
