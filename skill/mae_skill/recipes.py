"""Published recipes as presets.

Rates are the papers' base rates (for an effective batch of 256) with ``lr_scaling: linear``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from mae_skill.dotted import set_dotted
from mae_skill.errors import UsageError
from mae_skill.spelling import nearest

MAE, FCMAE, HIERA = "arXiv:2111.06377", "arXiv:2301.00808", "arXiv:2306.00989"
EFFICIENT = f"{MAE}, changed as Wei et al., CVPR-W 2024, Secretly Efficient Learners"
SMALL = "arXiv:2212.05677"  # Mao et al.: on small sets a light decoder is the better one
UPERNET = f"arXiv:1807.10221, settings of {MAE}"


@dataclass(frozen=True)
class Recipe:
    """A named preset: its stage, its paper, what it sets (dotted keys), and the effective batch
    that the paper trained with.

    ``short``: for a short budget, after a paper but not its row of numbers; settings are not
    compared with it.
    """

    name: str
    stage: str
    paper: str
    description: str
    settings: dict[str, Any]
    batch: int
    short: bool = False

    @property
    def rate(self) -> float:
        """The peak learning rate at the paper's batch."""
        scale = self.batch / 256 if self.settings.get("train.optim.lr_scaling") == "linear" else 1.0
        return float(self.settings["train.optim.lr"]) * scale


def recipe_of(arch: str, stage: str, task: str) -> Recipe | None:
    """The published recipe of an architecture, stage and task; None where there is none."""
    for recipe in RECIPES.values():
        own = str(recipe.settings.get("model.task", "classification"))
        if (
            not recipe.short
            and recipe.stage == stage
            and recipe.settings["model.arch"] == arch
            and (stage == "pretrain" or own == task)
        ):
            return recipe
    return None


def recipe_spec(name: str) -> dict[str, Any]:
    """The sections that a recipe sets, nested as in a spec file.

    Raises:
        UsageError: no recipe has that name.
    """
    if name not in RECIPES:
        near = nearest(name, RECIPES)
        hint = f"did you mean {near}?" if near else "mae get-spec train --list-recipes"
        raise UsageError(
            "there is no such recipe",
            field="recipe",
            got=name,
            expected=f"one of {', '.join(RECIPES)}",
            hint=hint,
        )
    spec: dict[str, Any] = {}
    for key, value in RECIPES[name].settings.items():
        set_dotted(spec, key, copy.deepcopy(value))
    return spec


def list_recipes() -> list[dict[str, str]]:
    """``name, stage, paper, description`` of every recipe."""
    return [
        {
            "name": item.name,
            "stage": item.stage,
            "paper": item.paper,
            "description": item.description,
        }
        for item in RECIPES.values()
    ]


def _pretrain(
    arch: str,
    *,
    lr: float,
    mask: float,
    epochs: int,
    decoder: tuple[int, int],
    scaling: str = "linear",
) -> dict[str, Any]:
    return {
        "model.arch": arch,
        "model.decoder_depth": decoder[0],
        "model.decoder_embed_dim": decoder[1],
        "dataset.batch_size": 64,
        "dataset.augmentation.min_scale": 0.2,
        "dataset.augmentation.max_scale": 1.0,
        "dataset.augmentation.interpolation": "bicubic",
        "train.stage": "pretrain",
        "train.num_epochs": epochs,
        "train.mask_ratio": mask,
        "train.norm_pix_loss": True,
        "train.precision": "bf16",
        "train.optim.lr": lr,
        "train.optim.lr_scaling": scaling,
        "train.optim.momentum": 0.9,
        "train.optim.beta2": 0.95,
        "train.optim.weight_decay": 0.05,
        "train.optim.lr_scheduler": "cosine",
        "train.optim.warmup_epochs": 40,
    }


def _finetune(
    arch: str,
    *,
    epochs: int,
    warmup: int,
    lr: float,
    decay: float,
    wd: float,
    drop: float,
    mix: tuple[float, float, float],
) -> dict[str, Any]:
    mixup, cutmix, smoothing = mix
    return {
        "model.arch": arch,
        "model.drop_path_rate": drop,
        "dataset.batch_size": 64,
        "dataset.augmentation.min_scale": 0.08,
        "dataset.augmentation.max_scale": 1.0,
        "dataset.augmentation.interpolation": "bicubic",
        "dataset.augmentation.auto_aug": "rand-m9-mstd0.5-inc1",
        "dataset.augmentation.re_prob": 0.25,
        "dataset.augmentation.center_crop": 0.875,
        "dataset.augmentation.mixup": mixup,
        "dataset.augmentation.cutmix": cutmix,
        "dataset.augmentation.smoothing": smoothing,
        "train.stage": "finetune",
        "train.num_epochs": epochs,
        "train.precision": "bf16",
        "train.optim.lr": lr,
        "train.optim.lr_scaling": "linear",
        "train.optim.min_lr": 1e-6,
        "train.optim.backbone_multiplier": 1.0,
        "train.optim.momentum": 0.9,
        "train.optim.beta2": 0.999,
        "train.optim.weight_decay": wd,
        "train.optim.layer_decay": decay,
        "train.optim.lr_scheduler": "cosine",
        "train.optim.warmup_epochs": warmup,
    }


def _segment(arch: str, *, channels: int) -> dict[str, Any]:
    return {
        "model.arch": arch,
        "model.task": "segmentation",
        "model.num_classes": 150,
        "model.drop_path_rate": 0.1,
        "model.segmentation.channels": channels,
        "dataset.batch_size": 16,
        "dataset.augmentation.input_size": 512,
        "train.stage": "finetune",
        "train.num_epochs": 100,
        "train.precision": "bf16",
        "train.optim.lr": 1e-4,
        "train.optim.backbone_multiplier": 1.0,
        "train.optim.momentum": 0.9,
        "train.optim.beta2": 0.999,
        "train.optim.weight_decay": 0.05,
        "train.optim.layer_decay": 0.65,
        "train.optim.lr_scheduler": "poly",
        "train.optim.warmup_epochs": 1,
    }


_MIX = (0.8, 1.0, 0.1)
_TOKENS = (8, 512)


def _pretraining() -> list[Recipe]:
    rows: list[Recipe] = []

    def add(name: str, paper: str, text: str, settings: dict[str, Any]) -> None:
        rows.append(Recipe(f"{name}_pretrain", "pretrain", paper, text, settings, 4096))

    for size, arch in (
        ("base", "vit_base_patch16"),
        ("large", "vit_large_patch16"),
        ("huge", "vit_huge_patch14"),
    ):
        settings = _pretrain(arch, lr=1.5e-4, mask=0.75, epochs=800, decoder=_TOKENS)
        text = f"MAE ViT-{size[0].upper()}: batch 4096, 800 epochs, mask 0.75"
        add(f"mae_vit_{size}", MAE, text, settings)

    for size in ("atto", "tiny", "base"):
        settings = _pretrain(
            f"convnextv2_{size}", lr=1.5e-4, mask=0.6, epochs=1600, decoder=(1, 512)
        )
        text = f"FCMAE ConvNeXt V2 {size}: batch 4096, 1600 epochs, mask 0.6"
        add(f"fcmae_{size}", FCMAE, text, settings)

    for size in ("tiny", "base"):
        settings = _pretrain(
            f"hiera_{size}_224", lr=8e-4, mask=0.6, epochs=1600, decoder=_TOKENS, scaling="none"
        )
        text = f"Hiera {size}: rate 8e-4 at batch 4096, 1600 epochs, mask 0.6"
        add(f"hiera_{size}", HIERA, text, settings)

    return rows


def _finetuning() -> list[Recipe]:
    rows: list[Recipe] = []

    def add(name: str, paper: str, text: str, settings: dict[str, Any]) -> None:
        rows.append(Recipe(f"{name}_finetune", "finetune", paper, text, settings, 1024))

    for size, patch, top1, epochs, lr, decay, drop in (
        ("base", 16, 83.7, 100, 5e-4, 0.65, 0.1),
        ("large", 16, 86.0, 50, 1e-3, 0.75, 0.2),
        ("huge", 14, 86.9, 50, 1e-3, 0.75, 0.3),
    ):
        arch = f"vit_{size}_patch{patch}"
        settings = _finetune(
            arch, epochs=epochs, warmup=5, lr=lr, decay=decay, wd=0.05, drop=drop, mix=_MIX
        )
        text = f"ViT-{size[0].upper()}: batch 1024, {epochs} epochs; ImageNet-1k top-1 {top1}"
        add(f"mae_vit_{size}", MAE, text, settings)

    for size, top1, epochs, warmup, lr, decay, wd, drop, mix in (
        ("atto", 76.7, 600, 0, 2e-4, 0.9, 0.3, 0.1, (0.0, 0.0, 0.2)),
        ("tiny", 83.0, 300, 40, 8e-4, 0.9, 0.05, 0.2, _MIX),
        ("base", 84.9, 100, 20, 6.25e-4, 0.6, 0.05, 0.1, _MIX),
    ):
        arch = f"convnextv2_{size}"
        settings = _finetune(
            arch, epochs=epochs, warmup=warmup, lr=lr, decay=decay, wd=wd, drop=drop, mix=mix
        )
        settings["train.ema_decay"] = 0.9999  # the accuracies are those of the average
        text = f"ConvNeXt V2 {size}: batch 1024, EMA 0.9999; ImageNet-1k top-1 {top1}"
        add(f"fcmae_{size}", FCMAE, text, settings)

    settings = _finetune(
        "hiera_base_224", epochs=100, warmup=5, lr=5e-4, decay=0.65, wd=0.05, drop=0.1, mix=_MIX
    )
    text = "Hiera base by the ViT-B row: its own training script was never published"
    add("hiera_base", f"{HIERA}, settings of {MAE}", text, settings)

    return rows


def _segmentation() -> list[Recipe]:
    text = (
        "UperNet on ViT-B, ADE20K at 512: batch 16, 100 epochs, "
        "rate of BEiT's published code; mIoU 48.1"
    )
    settings = _segment("vit_base_patch16", channels=768)
    return [Recipe("mae_vit_base_ade20k", "finetune", MAE, text, settings, 16)]


def _short() -> list[Recipe]:
    """Recipes for a day of one GPU or less. The papers say what to change; the numbers are ours."""
    rows: list[Recipe] = []

    def add(name: str, paper: str, text: str, settings: dict[str, Any], batch: int) -> None:
        stage = str(settings["train.stage"])
        rows.append(Recipe(name, stage, paper, text, settings, batch, short=True))

    settings = _pretrain("vit_base_patch16", lr=1.5e-4, mask=0.9, epochs=100, decoder=(1, 512))
    settings["train.optim.warmup_epochs"] = 10
    text = (
        "MAE ViT-B in little time: more masked (0.9), one decoder block, 100 epochs; then "
        "mae_vit_base_finetune. The paper reaches top-1 82.9 after some 9 hours of one A100 so, "
        "and as well on a fifth of the images"
    )
    add("mae_vit_base_short_pretrain", EFFICIENT, text, settings, 4096)

    small = {"model.patch_size": 4, "dataset.augmentation.input_size": 32}
    rate = {"train.optim.lr_scaling": "none", "train.optim.lr": 1e-3, "train.precision": "fp32"}
    settings = _pretrain("vit_tiny_patch16", lr=1e-3, mask=0.75, epochs=400, decoder=(2, 128))
    settings |= {**small, **rate, "dataset.batch_size": 128, "model.decoder_num_heads": 4}
    text = "a small ViT for small pictures and few of them: patch 4 at 32, a light decoder"
    add("small_vit_pretrain", SMALL, text, settings, 128)

    settings = _finetune(
        "vit_tiny_patch16", epochs=100, warmup=10, lr=1e-3, decay=0.8, wd=0.05, drop=0.1, mix=_MIX
    )
    settings |= {**small, **rate, "dataset.augmentation.center_crop": 1.0}
    settings |= {"dataset.augmentation.auto_aug": "rand-m6-mstd0.5-inc1"}
    text = "the same, fine-tuned: batch 64, layer decay 0.8, a mild policy"
    add("small_vit_finetune", SMALL, text, settings, 64)

    settings = _segment("vit_base_patch16", channels=512)
    settings["train.num_epochs"] = 32
    text = (
        "UperNet on ViT-B, ADE20K at 512 in a third of the time: 32 epochs of batch 16 are the "
        "40,000 steps that are the short schedule of published segmenters; a head of 512 channels"
    )
    add("mae_vit_base_ade20k_short", UPERNET, text, settings, 16)

    return rows


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*_pretraining(), *_finetuning(), *_segmentation(), *_short())
}
