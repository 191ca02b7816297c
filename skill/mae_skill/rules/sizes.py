"""Shapes: input sizes that an architecture takes, mask units, widths and heads."""

from __future__ import annotations

from mae_skill.archs import (
    ARCHS,
    arch_of,
    hw,
    nearest_sizes,
    num_units,
    patch_sizes,
    patches_that_fit,
    size_fits,
)
from mae_skill.rules.base import Case, Rule

SIZE = "dataset.augmentation.input_size"
PATCH = "model.patch_size"
FEW_TOKENS = 4
"""Patches of a picture below which a transformer is a perceptron."""


def patch_size(case: Case) -> None:
    """The family takes patches of this size."""
    arch, patch = ARCHS.get(str(case("model.arch"))), case(PATCH)
    if arch is None or patch is None or not case.known("model.arch"):
        return

    allowed = patch_sizes(arch.family)
    if patch not in allowed:
        words = "2 to 32" if arch.family == "vit" else ", ".join(str(value) for value in allowed)
        nearest = min(allowed, key=lambda value: abs(value - patch))
        case.error(PATCH, f"{arch.name} takes no such patch", words, f"the nearest: {nearest}")


def input_size(case: Case) -> None:
    """Both sides of the input are multiples of the architecture's unit."""
    arch, size = arch_of(case.spec), case(SIZE)
    if arch is None or size is None or not case.known("model.arch") or size_fits(arch, size):
        return

    near = " × ".join(
        " or ".join(str(value) for value in nearest_sizes(arch, side)) for side in hw(size)
    )
    hint = f"the nearest that fit: {near}"
    patches = patches_that_fit(arch.family, size, arch.patch)
    if patches:
        hint += f"; or {PATCH}={patches[0]}"
        hint += f" (also {', '.join(str(value) for value in patches[1:4])})" if patches[1:] else ""
    case.error(
        SIZE,
        f"{arch.name} with a patch of {arch.patch} px cannot take this size",
        f"multiples of {arch.size_multiple} px",
        hint,
    )


def center_crop(case: Case) -> None:
    """Above 224 pixels the published protocols evaluate without a margin."""
    key = "dataset.augmentation.center_crop"
    size, crop = case(SIZE), case(key)
    judges = case("train.stage") == "finetune" and case("model.task") == "classification"
    if size is None or crop is None or not judges or case.given(key):
        return
    if max(hw(size)) > 224 and crop < 1:
        case.warn(
            key,
            f"{crop:g} at {max(hw(size))} pixels, where the published protocols evaluate at 1 "
            "above 224",
        )


def mask_units(case: Case) -> None:
    """Pretraining needs at least one visible and one hidden unit."""
    arch, size = arch_of(case.spec), case(SIZE)
    pretrains = case("train.stage") == "pretrain" and case.known("model.arch")
    if arch is None or size is None or not pretrains or not size_fits(arch, size):
        return
    if case.action != "train" and case.facts.model.get("stage") not in (None, "pretrain"):
        return  # the stage is not the model's: that is the error

    units = num_units(arch, size)
    visible = round(units * (1 - float(case("train.mask_ratio", 0.75))))
    if units < 2 or not 0 < visible < units:
        hint = f"a larger {SIZE}"
        if any(patch < arch.patch for patch in patch_sizes(arch.family)):
            hint += f" or a smaller {PATCH} (here {arch.patch})"
        ratio = float(case("train.mask_ratio", 0.75))
        if units >= 2:
            hint = f"a train.mask_ratio nearer 0.5, or {hint}"
        elif not 0.25 <= ratio <= 0.9:
            hint += f"; and another train.mask_ratio: {ratio:g} is far from the usual 0.6 to 0.75"
        if case.action == "train" and not case.given("train.stage"):
            hint = f"for a classifier train.stage=finetune; for pretraining, the default, {hint}"
        case.error(
            "train.mask_ratio",
            f"of {units} mask units {visible} would stay visible",
            "at least one visible and one hidden unit",
            hint,
        )


def tokens(case: Case) -> None:
    """A classifier sees a picture in several patches."""
    arch, size = arch_of(case.spec), case(SIZE)
    if arch is None or size is None or case("train.stage") != "finetune":
        return
    if arch.family != "vit" or not size_fits(arch, size):
        return
    count = num_units(arch, size)
    if count < FEW_TOKENS:
        case.warn(
            PATCH if case(PATCH) else SIZE,
            f"an input of {' × '.join(map(str, hw(size)))} pixels is {count} "
            f"patch{'es' if count > 1 else ''} of {arch.patch}: attention has nothing to compare; "
            "a smaller model.patch_size or a larger input_size",
            serious=True,
        )


def export_size(case: Case) -> None:
    """The sides of an exported graph's input fit as well."""
    arch = arch_of(case.spec)
    if arch is None or case(SIZE) is None or not case.known("model.arch"):
        return

    for side in ("height", "width"):
        value = case(f"export.input_{side}")
        if value is None or size_fits(arch, [value, value]):
            continue
        near = " or ".join(str(item) for item in nearest_sizes(arch, value))
        case.error(
            f"export.input_{side}",
            f"{arch.name} with a patch of {arch.patch} px cannot take this size",
            f"a multiple of {arch.size_multiple} px",
            f"the nearest: {near}",
        )


def decoder_shape(case: Case) -> None:
    """A transformer decoder's heads divide its width; ViT's position embeddings need four parts."""
    arch = ARCHS.get(str(case("model.arch")))
    if arch is None or case("train.stage") != "pretrain":
        return

    width, heads = case("model.decoder_embed_dim"), case("model.decoder_num_heads")
    if arch.family != "convnextv2" and heads and width % heads:
        case.error(
            "model.decoder_num_heads",
            f"does not divide model.decoder_embed_dim={width}",
            "a divisor of the decoder's width",
            "set model.decoder_num_heads to 8, say, and the width to a multiple of it",
        )
    if arch.family == "vit" and width % 4:
        case.error(
            "model.decoder_embed_dim",
            "sin-cos position embeddings need a multiple of 4",
            "a multiple of 4",
            f"set model.decoder_embed_dim={max(4, width // 4 * 4)}",
        )


def encoder_shape(case: Case) -> None:
    """The same for a ViT encoder of one's own width."""
    arch = ARCHS.get(str(case("model.arch")))
    if arch is None or arch.family != "vit":
        return

    width = case("model.embed_dim") or arch.dims[0]
    heads = case("model.num_heads") or arch.heads[0]
    if width % heads:
        case.error(
            "model.num_heads" if case("model.num_heads") else "model.embed_dim",
            f"width {width} is not a multiple of {heads} heads",
            "a width that the heads divide",
            f"set the width to {max(1, width // heads) * heads}, or other heads",
        )
    elif width % 4:
        case.error(
            "model.embed_dim",
            "sin-cos position embeddings need a multiple of 4",
            "a multiple of 4",
            f"set model.embed_dim={max(4, width // 4 * 4)}",
        )


RULES = [
    Rule(patch_size),
    Rule(input_size),
    Rule(mask_units),
    Rule(tokens, ("train",)),
    Rule(center_crop, ("train",)),
    Rule(export_size),
    Rule(decoder_shape, ("train",)),
    Rule(encoder_shape, ("train",)),
]
