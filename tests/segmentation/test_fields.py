"""No dead knob of segmentation: every field that acts only there changes a run, and is warned about
where it does not act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_skill.bundle import Bundle
from mae_skill.dotted import field_nodes, set_dotted
from mae_skill.merge import merge
from mae_skill.origin import OriginKind
from mae_skill.rules import check_rules
from PIL import Image

from tests.support.scenes import write_digit_scenes
from tests.support.segmentation import seg_spec
from tests.support.training import train

FIELDS = {
    key: node
    for key, node in field_nodes(Bundle.load().schema("train")).items()
    if key.split(".")[0] in ("model", "dataset", "train")
    and node.get("applies_when", {}).get("model.task") == "segmentation"
}
HEAD, MEANING, JOINT = (
    "model.segmentation.",
    "dataset.segmentation.",
    "dataset.augmentation.segmentation.",
)
MARKED, OTHERS = "<masks with 254>", "<other masks>"
SCHEDULE = "train.optim.lr_scheduler"

#: dotted key → another value, and what else must be set for it to matter
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    HEAD + "channels": (24, {}),
    HEAD + "auxiliary_channels": (16, {}),
    HEAD + "auxiliary_weight": (0.1, {}),
    HEAD + "dropout": (0.5, {}),
    HEAD + "pool_scales": ([1, 2], {}),
    MEANING + "train_mask_sources": (OTHERS, {}),
    MEANING + "val_mask_sources": (OTHERS, {}),
    MEANING + "class_list": ([f"class {i}" for i in range(12)], {}),
    MEANING + "ignore_index": (254, {MEANING + "train_mask_sources": MARKED}),
    MEANING + "reduce_zero_label": (False, {}),
    MEANING + "mask_values": (list(range(11, -1, -1)), {}),
    JOINT + "scale_jitter": ([2.0, 2.0], {}),
    JOINT + "max_class_share": (1.0, {}),
    JOINT + "photometric": (False, {}),
    "train.dice_weight": (1.0, {}),
}
#: fields that training does not read, and the test that shows what they do
ELSEWHERE = {MEANING + "test_mask_sources": "test_masks_of_the_test_images_are_for_inference"}
#: fields of both tasks that must act in this one too
SHARED: dict[str, tuple[Any, dict[str, Any]]] = {
    "dataset.augmentation.hflip": (0.0, {}),
    "dataset.augmentation.input_size": (64, {}),
    "dataset.val_fraction": (0.5, {"dataset.val_data_sources": None}),
    "dataset.train_fraction": (0.5, {}),
    "model.drop_path_rate": (0.5, {}),
    "train.loss": ("dice", {}),
    SCHEDULE: ("poly", {"train.optim.warmup_epochs": 0}),
    "train.optim.min_lr": (1e-4, {SCHEDULE: "poly", "train.optim.warmup_epochs": 0}),
}

MEMORY: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("knobs")
    write_digit_scenes(root / "scenes", training=4, validation=2, size=32)
    for split, count in (("training", 4), ("validation", 2)):
        for name in (MARKED, OTHERS):
            (root / name / split).mkdir(parents=True)
        for number in range(count):
            values = np.array(Image.open(root / f"scenes/annotations/{split}/{number:05d}.png"))
            Image.fromarray(np.where(values == 1, 3, values).astype(np.uint8)).save(
                root / OTHERS / split / f"{number:05d}.png"
            )
            values[:4] = 254
            Image.fromarray(values).save(root / MARKED / split / f"{number:05d}.png")
    return root


def observe(root: Path, flat: dict[str, Any]) -> dict[str, Any]:
    """What a run leaves, without anything that only repeats the spec."""
    name = str(sorted(flat.items(), key=str))
    if name in MEMORY:
        return MEMORY[name]
    job, data = root / f"job{len(MEMORY)}", str(root / "scenes")
    basis = {
        "model__num_classes": 12,
        "dataset__segmentation__class_list": None,
        "dataset__augmentation__input_size": 32,
    }
    made = seg_spec(root / "scenes", job, dataset__val_data_sources=data, **basis)
    for key, value in flat.items():
        split = "training" if "train" in key else "validation"
        set_dotted(made, key, str(root / value / split) if value in (MARKED, OTHERS) else value)
    seen: dict[str, Any] = {"code": train(made)}
    for file in ("metrics.csv", "per_class_iou.csv"):
        path = job / "train" / file
        seen[file] = path.read_text() if path.is_file() else None
    MEMORY[name] = seen
    return seen


def test_every_field_of_segmentation_is_accounted_for() -> None:
    assert FIELDS.keys() == CHANGES.keys() | ELSEWHERE.keys()
    assert all(name in globals() for name in ELSEWHERE.values())


@pytest.mark.parametrize("key", [*CHANGES, *SHARED])
def test_changing_the_field_changes_the_run(root: Path, key: str) -> None:
    value, extra = {**CHANGES, **SHARED}[key]
    before, after = observe(root, extra), observe(root, {**extra, key: value})
    assert after["code"] == 0 and before != after
    if key == MEANING + "ignore_index":
        assert before["code"] == 3, "254 is no class"
    elif key == MEANING + "class_list":
        assert (
            "class 11" in after["per_class_iou.csv"]
            and before["metrics.csv"] == after["metrics.csv"]
        )
    else:
        assert before["code"] == 0 and before["metrics.csv"] != after["metrics.csv"]


@pytest.mark.parametrize("key", FIELDS)
def test_a_field_of_segmentation_set_for_a_classifier_is_warned_about(key: str) -> None:
    given: dict[str, Any] = {
        "dataset": {"train_data_sources": "images"},
        "train": {"stage": "finetune"},
    }
    set_dotted(given, key, CHANGES.get(key, ("masks", {}))[0])
    merged = merge([(OriginKind.SPEC_FILE, given)], Bundle.load().schema("train"))
    _, warnings = check_rules("train", merged.spec, merged.provenance)
    reason = "it applies only when model.task=segmentation (here: classification)"
    assert any(w.field == key and reason in w.message for w in warnings)


def test_masks_of_the_test_images_are_for_inference(root: Path) -> None:
    from mae_runners.data import build_segmentation_dataset
    from mae_skill.spec import ExperimentSpec

    spec = ExperimentSpec.model_validate(
        {"dataset": {"segmentation": {"test_mask_sources": str(root / OTHERS / "validation")}}}
    )
    images, masks = (
        str(root / "scenes/images/validation"),
        spec.dataset.segmentation.test_mask_sources,
    )
    made = build_segmentation_dataset(
        images, masks, role="test", train=False, dataset=spec.dataset, num_classes=12, seed=1
    )
    assert made.has_masks and 0 not in made[0]["mask"]
