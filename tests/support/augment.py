"""The augmentation section of a spec with everything random switched off unless asked for."""

from __future__ import annotations

from typing import Any

from mae_skill.spec import AugmentationSpec

PLAIN: dict[str, Any] = {
    **dict.fromkeys(("hflip", "color_jitter", "re_prob", "mixup", "cutmix", "smoothing"), 0.0),
    "input_size": 64,
    "min_scale": 1.0,
    "max_scale": 1.0,
    "max_ratio": 4 / 3,
    "auto_aug": None,
    "interpolation": "bilinear",
}


def augmentation(**changed: Any) -> AugmentationSpec:
    return AugmentationSpec.model_validate({**PLAIN, **changed})
