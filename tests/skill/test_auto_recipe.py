"""The auto recipe: one row a rule, from what is known of a task to what it chooses."""

from __future__ import annotations

from typing import Any

import pytest
from mae_skill.auto_recipe import CPU_SECONDS, Choice, recommend
from mae_skill.bundle import Bundle
from mae_skill.dotted import set_dotted
from mae_skill.errors import UsageError
from mae_skill.rules.base import Facts
from mae_skill.schema_check import check_schema

CPU = Facts(images=4000, classes=0, device="cpu", cores=2, processes=1)
GPU = Facts(images=100_000, classes=0, device="NVIDIA A100-SXM4-80GB", cores=16, processes=1)
DIGITS = {"height": 28, "width": 28, "grey": True, "mirror": 6.8, "flip": 6.5}
PHOTOS = {"height": 375, "width": 500, "grey": False, "mirror": 1.1, "flip": 40.0}
SIDED = {"dataset.train_data_sources": {"class_counts": {"facingLeft": 75, "facing_right": 75}}}
PRETRAIN = {"train.stage": "pretrain"}
FINETUNE = {"train.stage": "finetune"}
WEIGHTS = {**FINETUNE, "train.pretrained_model_path": "/w.pth"}
DATASET = "dataset.augmentation."


def choices(
    spec: dict[str, Any],
    facts: Facts = CPU,
    look: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Choice]:
    """What is chosen, by key; what the spec names is settled."""
    full = Bundle.load().template("train")
    for key, value in spec.items():
        set_dotted(full, key, value)
    found = recommend(full, set(spec), facts, look or DIGITS, **options)
    return {choice.key: choice for choice in found}


def images(facts: Facts, number: int, classes: int = 0) -> Facts:
    from dataclasses import replace

    return replace(facts, images=number, classes=classes)


ROWS: list[tuple[str, dict[str, Any], Facts, dict[str, Any], dict[str, Any]]] = [
    (
        "a lean ViT to pretrain on a CPU",
        PRETRAIN,
        CPU,
        DIGITS,
        {"model.arch": "vit_tiny_patch16", "model.embed_dim": 128, "model.depth": 6},
    ),
    (
        "a small ViT for few images",
        PRETRAIN,
        images(GPU, 10_000),
        PHOTOS,
        {"model.arch": "vit_small_patch16", "model.embed_dim": None},
    ),
    ("a base ViT for more", PRETRAIN, GPU, PHOTOS, {"model.arch": "vit_base_patch16"}),
    (
        "a large ViT for millions",
        PRETRAIN,
        images(GPU, 6_000_000),
        PHOTOS,
        {"model.arch": "vit_large_patch16"},
    ),
    (
        "small patches for small pictures",
        PRETRAIN,
        CPU,
        DIGITS,
        {"model.patch_size": 4, f"{DATASET}input_size": 28},
    ),
    (
        "tinier pictures enlarged",
        PRETRAIN,
        CPU,
        {"height": 8, "width": 8, "grey": True},
        {"model.patch_size": 4, f"{DATASET}input_size": 28},
    ),
    (
        "a start like MAE's for a ViT from scratch",
        {**FINETUNE, "model.arch": "vit_tiny_patch16"},
        images(CPU, 150, 10),
        DIGITS,
        {"model.init": "xavier"},
    ),
    (
        "photographs from scratch on a CPU",
        FINETUNE,
        images(CPU, 150, 10),
        PHOTOS,
        {"model.arch": "vit_tiny_patch16", "model.embed_dim": 128, "model.init": "xavier"},
    ),
    (
        "convolutions from scratch on a CPU",
        FINETUNE,
        images(CPU, 150, 10),
        DIGITS,
        {
            "model.arch": "convnextv2_atto",
            "model.embed_dim": None,
            "model.patch_size": 2,
            f"{DATASET}input_size": 32,
            "model.init": "xavier",
            "train.optim.lr": 1e-3,
        },
    ),
    (
        "wide convolutions start as in their paper",
        {**FINETUNE, "model.arch": "convnextv2_tiny"},
        images(CPU, 150, 10),
        DIGITS,
        {"model.init": None, "train.optim.lr": 2.5e-4},
    ),
    (
        "a narrow head, and tokens no finer than UperNet needs, for a segmenter on a CPU",
        {**FINETUNE, "model.task": "segmentation"},
        images(CPU, 60),
        {**PHOTOS, "height": 48, "width": 48},
        {
            "model.segmentation.channels": 64,
            "model.segmentation.auxiliary_channels": 64,
            "model.patch_size": 6,
            "model.embed_dim": 128,
            "model.depth": 6,
        },
    ),
    (
        "the head of the paper for a segmenter on a GPU",
        {**FINETUNE, "model.task": "segmentation"},
        GPU,
        PHOTOS,
        {"model.segmentation.channels": None},
    ),
    (
        "convolutions of a segmenter as in their paper",
        {**FINETUNE, "model.task": "segmentation", "model.arch": "convnextv2_atto"},
        images(CPU, 150, 10),
        PHOTOS,
        {"model.init": None, "train.optim.lr": 3e-4},
    ),
    (
        "no start for convolutions beside weights",
        {**WEIGHTS, "model.arch": "convnextv2_atto"},
        images(CPU, 150, 10),
        DIGITS,
        {"model.init": None, "train.optim.lr": 5e-4},
    ),
    ("no start beside weights", WEIGHTS, images(CPU, 150, 10), DIGITS, {"model.init": None}),
    (
        "no more than 64 tokens on a CPU",
        PRETRAIN,
        CPU,
        PHOTOS,
        {"model.patch_size": None, f"{DATASET}input_size": 128},
    ),
    (
        "14 tokens a side on a GPU",
        PRETRAIN,
        GPU,
        PHOTOS,
        {"model.patch_size": None, f"{DATASET}input_size": 224},
    ),
    (
        "the stem's stride of a pyramid",
        {**PRETRAIN, "model.arch": "hiera_tiny_224"},
        CPU,
        {"height": 32, "width": 32},
        {"model.patch_size": 1, f"{DATASET}input_size": 32},
    ),
    (
        "the size of published weights",
        WEIGHTS,
        images(CPU, 500, 5),
        PHOTOS,
        {"model.patch_size": None, f"{DATASET}input_size": None, f"{DATASET}mean": None},
    ),
    (
        "a decoder in proportion",
        PRETRAIN,
        CPU,
        DIGITS,
        {"model.decoder_depth": 2, "model.decoder_embed_dim": 96},
    ),
    (
        "the decoder of the paper",
        {**PRETRAIN, "model.arch": "vit_base_patch16"},
        GPU,
        PHOTOS,
        {"model.decoder_depth": 8, "model.decoder_embed_dim": 512},
    ),
    (
        "the mask ratio of the family",
        {**PRETRAIN, "model.arch": "convnextv2_atto"},
        CPU,
        PHOTOS,
        {"train.mask_ratio": 0.6, "model.decoder_depth": 1},
    ),
    (
        "as many classes as the data have",
        FINETUNE,
        images(CPU, 500, 9),
        PHOTOS,
        {"model.num_classes": 9},
    ),
    ("no mirror for digits", FINETUNE, images(CPU, 150, 10), DIGITS, {f"{DATASET}hflip": 0.0}),
    (
        "a mirror for photographs, not upside down",
        FINETUNE,
        images(CPU, 150, 10),
        PHOTOS,
        {f"{DATASET}hflip": 0.5, f"{DATASET}vflip": 0.0},
    ),
    (
        "no mirror that makes one class of another, though all pictures together know no side",
        FINETUNE,
        images(CPU, 150, 2),
        {**PHOTOS, "mirror_told": 0.6, "flip": 1.0, "flip_told": 0.02},
        {f"{DATASET}hflip": 0.0, f"{DATASET}vflip": 0.5},
    ),
    (
        "a mirror for pretraining, which knows no classes",
        PRETRAIN,
        images(CPU, 150, 2),
        {**PHOTOS, "mirror_told": 0.6},
        {f"{DATASET}hflip": 0.5},
    ),
    (
        "no mirror where classes are named by a side",
        FINETUNE,
        Facts(images=150, classes=2, device="cpu", data=SIDED),
        {**PHOTOS, "flip": 1.0},
        {f"{DATASET}hflip": 0.0, f"{DATASET}vflip": 0.5},
    ),
    ("either way for satellites", PRETRAIN, CPU, {**PHOTOS, "flip": 1.2}, {f"{DATASET}vflip": 0.5}),
    (
        "affine changes for small pictures",
        FINETUNE,
        images(CPU, 150, 10),
        DIGITS,
        {f"{DATASET}rotation": 15.0, f"{DATASET}auto_aug": None, f"{DATASET}center_crop": 1.0},
    ),
    (
        "crops and a policy for photographs",
        FINETUNE,
        images(CPU, 150, 10),
        PHOTOS,
        {
            f"{DATASET}rotation": None,
            f"{DATASET}min_scale": 0.35,
            f"{DATASET}auto_aug": "rand-m6-mstd0.5-inc1",
        },
    ),
    (
        "no mixing of few images",
        FINETUNE,
        images(CPU, 150, 10),
        PHOTOS,
        {f"{DATASET}mixup": 0.0, f"{DATASET}cutmix": 0.0},
    ),
    (
        "mixing of many",
        FINETUNE,
        images(GPU, 100_000, 10),
        PHOTOS,
        {f"{DATASET}mixup": 0.8, f"{DATASET}cutmix": 1.0},
    ),
    (
        "small batches of few images",
        FINETUNE,
        images(CPU, 150, 10),
        DIGITS,
        {"dataset.batch_size": 16},
    ),
    (
        "layer decay alone from weights",
        WEIGHTS,
        images(CPU, 150, 10),
        DIGITS,
        {"train.optim.backbone_multiplier": 1.0, "train.optim.layer_decay": 0.8},
    ),
    (
        "neither from scratch",
        FINETUNE,
        images(CPU, 150, 10),
        DIGITS,
        {"train.optim.backbone_multiplier": None, "train.optim.layer_decay": None},
    ),
    ("bf16 on a GPU", PRETRAIN, GPU, PHOTOS, {"train.precision": "bf16"}),
    ("fp32 on a CPU", PRETRAIN, CPU, PHOTOS, {"train.precision": None}),
    ("a tenth held out", FINETUNE, images(CPU, 150, 10), DIGITS, {"dataset.val_fraction": 0.1}),
    (
        "unless there are validation data",
        {**FINETUNE, "dataset.val_data_sources": "/val"},
        images(CPU, 150, 10),
        DIGITS,
        {"dataset.val_fraction": None},
    ),
    (
        "fine-tuning where labels and weights are",
        {"train.pretrained_model_path": "/w.pth"},
        images(CPU, 150, 10),
        DIGITS,
        {"train.stage": "finetune"},
    ),
    (
        "a cosine with a tenth of warm-up",
        {**PRETRAIN, "train.num_epochs": 50},
        CPU,
        DIGITS,
        {"train.optim.lr_scheduler": "cosine", "train.optim.warmup_epochs": 5},
    ),
    (
        "the data's own mean",
        PRETRAIN,
        CPU,
        {**DIGITS, "mean": [0.13] * 3, "std": [0.31] * 3},
        {f"{DATASET}mean": [0.13] * 3},
    ),
    (
        "a large crop of masks",
        {**FINETUNE, "model.task": "segmentation"},
        images(GPU, 2000, 0),
        PHOTOS,
        {f"{DATASET}input_size": 368, f"{DATASET}min_scale": None},
    ),
]


@pytest.mark.parametrize(
    ("spec", "facts", "look", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_a_rule_chooses(
    spec: dict[str, Any], facts: Facts, look: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = choices(spec, facts, look)

    chosen = {key: found[key].value if key in found else None for key in expected}
    assert chosen == expected
    assert all(choice.rule for choice in found.values())


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_it_chooses_is_a_valid_spec(row: tuple[Any, ...]) -> None:
    _, spec, facts, look, _ = row
    full = Bundle.load().template("train")
    for key, value in {
        **spec,
        **{key: choice.value for key, choice in choices(spec, facts, look).items()},
    }.items():
        set_dotted(full, key, value)

    problems = check_schema(full, Bundle.load().schema("train"))
    assert not problems


def test_nothing_that_is_settled_is_chosen() -> None:
    settled = {
        **FINETUNE,
        "train.num_epochs": 3,
        f"{DATASET}hflip": 0.5,
        "model.arch": "hiera_tiny_224",
    }

    assert not set(settled) & set(choices(settled))


def test_the_same_task_gives_the_same_spec() -> None:
    assert choices(PRETRAIN) == choices(PRETRAIN)


def test_more_time_gives_more_epochs_up_to_what_the_data_repay() -> None:
    epochs = [
        choices(PRETRAIN, seconds=seconds)["train.num_epochs"].value
        for seconds in (60, CPU_SECONDS, 1e9)
    ]

    assert epochs == sorted(epochs)
    assert epochs[0] < epochs[1] < epochs[2] == 800


SIGNS = {"height": 48, "width": 48, "grey": False, "mirror": 1.1, "flip": 1.1}
SIZE = "dataset.augmentation.input_size"


def test_pictures_get_smaller_where_the_steps_of_a_budget_are_too_few_to_learn_anything() -> None:
    def chosen(spec: dict[str, Any], seconds: float) -> tuple[int, int]:
        found = choices(spec, images(CPU, 90, 3), SIGNS, seconds=seconds)
        size = found[SIZE].value if SIZE in found else spec[SIZE]
        return size, found["train.num_epochs"].value * 12

    short, long = chosen(FINETUNE, 90), chosen(FINETUNE, 900)
    assert (short[0], long[0]) == (32, 48)
    assert short[1] > 1.5 * chosen({**FINETUNE, SIZE: 48}, 90)[1]  # what a person sets stays
    rule = choices(FINETUNE, images(CPU, 90, 3), SIGNS, seconds=90)[SIZE].rule
    assert rule.startswith("at 48 pixels the budget holds")


def test_of_very_few_images_an_epoch_is_a_few_steps_and_there_are_more_of_them() -> None:
    found = choices(FINETUNE, images(CPU, 16, 2), DIGITS, seconds=1e6)
    assert found["train.num_epochs"].value == 500
    assert (
        choices(FINETUNE, images(CPU, 900, 2), DIGITS, seconds=1e6)["train.num_epochs"].value == 200
    )


def test_a_step_that_was_measured_slower_gives_fewer_epochs() -> None:
    slow = choices(PRETRAIN, seconds=300, pace=4.0)["train.num_epochs"].value

    assert slow < choices(PRETRAIN, seconds=300)["train.num_epochs"].value


def test_a_budget_too_small_for_an_epoch_says_what_it_would_take() -> None:
    with pytest.raises(UsageError, match="one epoch") as caught:
        choices(PRETRAIN, seconds=1.0)

    assert caught.value.field == "budget"
    assert "at least" in str(caught.value.expected)


def test_the_rule_of_a_long_warmup_says_that_it_is_capped() -> None:
    long, short = (choices({**PRETRAIN, "train.num_epochs": n}, GPU) for n in (1200, 100))

    warm = long["train.optim.warmup_epochs"]
    assert (warm.value, warm.rule) == (40, "a tenth of the epochs, at most 40")
    assert short["train.optim.warmup_epochs"].rule == "a tenth of the epochs"
