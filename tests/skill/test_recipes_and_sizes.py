"""Recipes say what the papers say; parameter counts and admissible sizes are exact."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
from mae_skill.archs import ARCHS, nearest_sizes, num_units, size_fits
from mae_skill.bundle import Bundle
from mae_skill.dotted import get_dotted
from mae_skill.errors import UsageError
from mae_skill.estimate import encoder_parameters, estimate
from mae_skill.merge import merge
from mae_skill.origin import OriginKind
from mae_skill.recipes import RECIPES, list_recipes, recipe_of, recipe_spec
from mae_skill.rules import Facts, check_rules
from mae_skill.schema_check import check_schema

SCHEMA = Bundle.load().schema("train")
TIMM = {name: name if not name.startswith("vit") else f"{name}_224" for name in ARCHS}


@pytest.mark.parametrize("arch", ARCHS)
def test_the_encoder_has_exactly_as_many_parameters_as_timms(arch: str) -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(TIMM[arch], pretrained=False, num_classes=0)
    assert encoder_parameters(ARCHS[arch]) == sum(
        parameter.numel() for parameter in model.parameters()
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_names_its_paper_and_breaks_no_rule(name: str) -> None:
    resolved = merge(
        [("recipe", recipe_spec(name)), ("override", {"dataset": {"train_data_sources": "/data"}})],
        SCHEMA,
    )
    assert check_schema(resolved.spec, SCHEMA) == []
    assert check_rules("train", resolved.spec, resolved.provenance)[0] == []
    assert re.search(r"arXiv:\d{4}\.\d{5}", RECIPES[name].paper)
    assert resolved.spec["train"]["stage"] == RECIPES[name].stage
    assert resolved.spec["train"]["optim"]["lr_scheduler"] == (
        "poly" if name in SEGMENT or "ade20k" in name else "cosine"
    )


# recipe: epochs, warm-up, rate, weight decay, and the rest by stage
PRETRAIN = {
    "mae_vit_base_pretrain": (800, 1.5e-4, "linear", 0.75, 8),
    "mae_vit_large_pretrain": (800, 1.5e-4, "linear", 0.75, 8),
    "mae_vit_huge_pretrain": (800, 1.5e-4, "linear", 0.75, 8),
    "fcmae_atto_pretrain": (1600, 1.5e-4, "linear", 0.6, 1),
    "fcmae_tiny_pretrain": (1600, 1.5e-4, "linear", 0.6, 1),
    "fcmae_base_pretrain": (1600, 1.5e-4, "linear", 0.6, 1),
    "hiera_tiny_pretrain": (1600, 8e-4, "none", 0.6, 8),
    "hiera_base_pretrain": (1600, 8e-4, "none", 0.6, 8),
}
FINETUNE = {
    "mae_vit_base_finetune": (100, 5, 5e-4, 0.65, 0.05, 0.1, (0.8, 1.0, 0.1)),
    "mae_vit_large_finetune": (50, 5, 1e-3, 0.75, 0.05, 0.2, (0.8, 1.0, 0.1)),
    "mae_vit_huge_finetune": (50, 5, 1e-3, 0.75, 0.05, 0.3, (0.8, 1.0, 0.1)),
    "fcmae_atto_finetune": (600, 0, 2e-4, 0.9, 0.3, 0.1, (0.0, 0.0, 0.2)),
    "fcmae_tiny_finetune": (300, 40, 8e-4, 0.9, 0.05, 0.2, (0.8, 1.0, 0.1)),
    "fcmae_base_finetune": (100, 20, 6.25e-4, 0.6, 0.05, 0.1, (0.8, 1.0, 0.1)),
    "hiera_base_finetune": (100, 5, 5e-4, 0.65, 0.05, 0.1, (0.8, 1.0, 0.1)),
}

# recipe for a short budget: epochs, warm-up, rate, batch
SHORT = {
    "mae_vit_base_short_pretrain": (100, 10, 1.5e-4, 64),
    "small_vit_pretrain": (400, 40, 1e-3, 128),
    "small_vit_finetune": (100, 10, 1e-3, 64),
    "mae_vit_base_ade20k_short": (32, 1, 1e-4, 16),
}
SEGMENT = {"mae_vit_base_ade20k": (100, 1, 1e-4, 0.65, 0.05, 0.1, (16, 512, 150, 768))}


def numbers(name: str, *keys: str) -> tuple[Any, ...]:
    spec = merge([(OriginKind.RECIPE, recipe_spec(name))], SCHEMA).spec
    return tuple(get_dotted(spec, key) for key in keys)


@pytest.mark.parametrize("name", PRETRAIN)
def test_a_pretraining_recipe_has_the_papers_numbers(name: str) -> None:
    keys = (
        "train.num_epochs",
        "train.optim.lr",
        "train.optim.lr_scaling",
        "train.mask_ratio",
        "model.decoder_depth",
    )
    assert numbers(name, *keys) == PRETRAIN[name]
    common = (
        "train.optim.warmup_epochs",
        "train.optim.momentum",
        "train.optim.beta2",
        "train.optim.weight_decay",
    )
    assert numbers(name, *common, "dataset.augmentation.min_scale", "model.decoder_embed_dim") == (
        40,
        0.9,
        0.95,
        0.05,
        0.2,
        512,
    )


@pytest.mark.parametrize("name", FINETUNE)
def test_a_finetuning_recipe_has_the_papers_numbers_and_learns_at_the_full_rate(name: str) -> None:
    optim = tuple(
        f"train.optim.{key}" for key in ("warmup_epochs", "lr", "layer_decay", "weight_decay")
    )
    mix = tuple(f"dataset.augmentation.{key}" for key in ("mixup", "cutmix", "smoothing"))
    found = numbers(name, "train.num_epochs", *optim, "model.drop_path_rate", *mix)
    assert (*found[:6], found[6:]) == FINETUNE[name]
    common = ("backbone_multiplier", "momentum", "beta2", "min_lr", "lr_scaling")
    assert numbers(name, *(f"train.optim.{key}" for key in common)) == (
        1.0,
        0.9,
        0.999,
        1e-6,
        "linear",
    )
    assert numbers(name, "dataset.augmentation.auto_aug", "dataset.augmentation.re_prob") == (
        "rand-m9-mstd0.5-inc1",
        0.25,
    )


@pytest.mark.parametrize("name", SEGMENT)
def test_a_segmentation_recipe_has_the_published_numbers(name: str) -> None:
    found = numbers(
        name,
        "train.num_epochs",
        "train.optim.warmup_epochs",
        "train.optim.lr",
        "train.optim.layer_decay",
    )
    found += numbers(name, "train.optim.weight_decay", "model.drop_path_rate")
    head = (
        "dataset.batch_size",
        "dataset.augmentation.input_size",
        "model.num_classes",
        "model.segmentation.channels",
    )
    assert (*found, numbers(name, *head)) == SEGMENT[name]
    assert numbers(name, "train.optim.backbone_multiplier", "train.optim.lr_scaling") == (
        1.0,
        "none",
    )


@pytest.mark.parametrize("name", FINETUNE)
def test_a_finetuning_recipe_averages_and_crops_as_its_accuracy_was_reached(name: str) -> None:
    decay, crop = numbers(name, "train.ema_decay", "dataset.augmentation.center_crop")
    assert decay == (0.9999 if name.startswith("fcmae") else None) and crop == 0.875
    assert ("EMA 0.9999" in RECIPES[name].description) == (decay is not None)


@pytest.mark.parametrize("name", SHORT)
def test_a_short_recipe_is_short_and_is_no_yardstick(name: str) -> None:
    keys = ("train.num_epochs", "train.optim.warmup_epochs", "train.optim.lr", "dataset.batch_size")
    assert numbers(name, *keys) == SHORT[name]
    recipe = RECIPES[name]
    own = str(recipe.settings.get("model.task", "classification"))
    published = recipe_of(str(recipe.settings["model.arch"]), recipe.stage, own)
    assert published is None or not published.short


def test_a_short_pretraining_masks_more_and_decodes_less_than_the_paper() -> None:
    short = numbers("mae_vit_base_short_pretrain", "train.mask_ratio", "model.decoder_depth")
    whole = numbers("mae_vit_base_pretrain", "train.mask_ratio", "model.decoder_depth")
    assert short[0] > whole[0] and short[1] < whole[1]


def test_every_recipe_is_in_the_tables_above_and_an_unknown_one_is_led_home() -> None:
    assert (
        set(RECIPES)
        == {*PRETRAIN, *FINETUNE, *SEGMENT, *SHORT}
        == {row["name"] for row in list_recipes()}
    )
    with pytest.raises(UsageError) as caught:
        recipe_spec("mae_vit_base_finetun")
    assert caught.value.hint == "did you mean mae_vit_base_finetune?"


@pytest.mark.parametrize(
    ("arch", "side", "near", "units"),
    [
        ("vit_base_patch16", 224, [224], 196),
        ("vit_huge_patch14", 230, [224, 238], None),
        ("convnextv2_atto", 100, [96, 128], None),
        ("hiera_base_224", 20, [32], None),
        ("hiera_base_224", 224, [224], 49),
    ],
)
def test_sizes_fit_by_patch_or_mask_unit_and_the_nearest_are_named(
    arch: str, side: int, near: list[int], units: int | None
) -> None:
    assert size_fits(ARCHS[arch], side) == (units is not None)
    assert nearest_sizes(ARCHS[arch], side) == near
    assert all(size_fits(ARCHS[arch], value) for value in near)
    if units is not None:
        assert num_units(ARCHS[arch], [side, side]) == units


def test_the_estimate_grows_with_the_batch_and_shrinks_with_checkpointing_and_says_its_basis() -> (
    None
):
    spec = merge([(OriginKind.RECIPE, recipe_spec("mae_vit_base_pretrain"))], SCHEMA).spec
    small = estimate("train", spec, Facts(device="NVIDIA H200", cores=16))
    spec["dataset"]["batch_size"] *= 2
    large = estimate("train", spec, Facts(device="NVIDIA H200", cores=16))
    spec["train"]["gradient_checkpointing"] = True
    lean = estimate("train", spec)
    assert large["memory_mb"]["activations"] == pytest.approx(
        2 * small["memory_mb"]["activations"], rel=1e-3
    )
    assert lean["memory_mb"]["total"] < large["memory_mb"]["total"]
    assert small["memory_mb"]["weights"] == pytest.approx(
        small["parameters"]["total"] * 8 / 2**20, abs=0.1
    )
    assert "linear model" in small["basis"] and "H200" in small["seconds_basis"]
    assert (
        1.5 * small["seconds_per_step"] < large["seconds_per_step"] <= 2 * small["seconds_per_step"]
    )
    assert "seconds_per_step" not in lean  # of a device that is not known no time is told
    assert estimate("export", spec)["memory_of"] == "host"  # no time, and no GPU's memory
    assert "seconds" not in estimate("export", spec)


# Thousand millions of multiply-adds of one 224×224 image, as the papers and timm's tables print
# them.
PRINTED = {
    "vit_tiny_patch16": 1.26,
    "vit_base_patch16": 17.6,
    "vit_huge_patch14": 167.4,
    "convnextv2_atto": 0.55,
    "convnextv2_base": 15.4,
    "convnextv2_huge": 115.0,
    "hiera_base_224": 9.4,
    "hiera_huge_224": 125.0,
}


@pytest.mark.parametrize("arch", PRINTED)
def test_the_work_of_an_image_is_what_the_papers_print(arch: str) -> None:
    layer = {
        "model": {"arch": arch},
        "dataset": {"augmentation": {"input_size": 224}},
        "train": {"stage": "finetune"},
    }
    spec = merge([(OriginKind.SPEC_FILE, layer)], SCHEMA).spec
    assert estimate("train", spec)["forward_gflops"] / 2 == pytest.approx(PRINTED[arch], rel=0.05)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "segmentation"])
@pytest.mark.parametrize(
    ("arch", "patch", "size"),
    [
        ("vit_tiny_patch16", None, 96),
        ("convnextv2_atto", None, 96),
        ("hiera_tiny_224", None, 96),
        ("vit_tiny_patch16", 4, 32),
        ("convnextv2_atto", 2, 48),
        ("hiera_tiny_224", 1, 24),
    ],
)
def test_estimated_parameters_are_the_models_and_activations_what_its_backward_pass_keeps(
    arch: str, patch: int | None, size: int, stage: str
) -> None:
    from mae_runners.models import build_classifier, build_mae, build_segmenter
    from mae_skill.spec import ExperimentSpec

    head = (
        {"task": "segmentation", "segmentation": {"channels": 64, "auxiliary_channels": 32}}
        if stage == "segmentation"
        else {}
    )
    layer = {
        "model": {"arch": arch, "patch_size": patch, "num_classes": 7, **head},
        "dataset": {"batch_size": 2, "augmentation": {"input_size": size}},
    }
    resolved = merge(
        [
            (
                "file",
                {**layer, "train": {"stage": "pretrain" if stage == "pretrain" else "finetune"}},
            )
        ],
        SCHEMA,
    ).spec
    spec = ExperimentSpec.model_validate(resolved)
    model: torch.nn.Module
    if stage == "pretrain":
        model = build_mae(spec.model, spec.train, (size, size))
    else:
        model = (build_segmenter if head else build_classifier)(spec.model, (size, size))
    found = estimate("train", resolved)
    assert found["parameters"]["total"] == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    own, kept = {p.data_ptr() for p in model.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.randn(2, 3, size, size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = (
            model.train()(images, torch.rand(2, model.num_units))
            if stage == "pretrain"
            else model.train()(images)
        )
    assert held is not None
    assert found["memory_mb"]["activations"] == pytest.approx(sum(kept.values()) / 2**20, rel=0.35)
