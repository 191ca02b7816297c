"""Small data sets of noise, and plans over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mae_sdk import Plan, Skill
from PIL import Image

RNG = np.random.default_rng(0)
SMALL = {"arch": "vit_tiny_patch16", "image_size": 64, "batch_size": 2}
FINETUNE = {**SMALL, "stage": "finetune", "num_classes": 2}
FROM_ZERO = {
    **FINETUNE,
    "task": "segmentation",
    "dataset.segmentation.reduce_zero_label": False,
}


def picture(path: Path, top: int = 255, kind: Any = np.uint8, side: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (side, side, 3) if kind is np.uint8 else (side, side)
    Image.fromarray((RNG.random(shape) * (top + 1)).astype(kind)).save(path)


def classes(root: Path, *names: str, count: int = 3, suffix: str = ".png", **options: Any) -> Path:
    for name in names:
        for number in range(count):
            picture(root / name / f"{number}{suffix}", **options)
    return root


def masked(root: Path, values: Sequence[int], count: int = 3) -> Path:
    for number in range(count):
        picture(root / "images" / f"{number}.png")
        mask = RNG.choice(np.array(values, np.uint8), (16, 16))
        mask.flat[: len(set(values))] = sorted(set(values))  # chance leaves none of them out
        (root / "annotations").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "annotations" / f"{number}.png")
    return root


def plan(train: Any, val: Path | None = None, **settings: Any) -> Plan:
    return Skill().plan(
        "train",
        train_datasets=[str(one) for one in train] if isinstance(train, list) else str(train),
        eval_dataset=None if val is None else str(val),
        automl_policy="off",
        spec_overrides=settings,
    )


def warnings(made: Plan) -> str:
    return "\n".join(str(item) for item in made.warnings if "data_sources" in str(item))
