"""Shapes: input sizes that an architecture takes, mask units, widths and heads."""

from __future__ import annotations

from mae_skill.archs import ARCHS, hw, nearest_sizes, num_units, size_fits
from mae_skill.rules.base import Case, Rule

SIZE = "dataset.augmentation.input_size"


def input_size(case: Case) -> None:
    """Both sides of the input are multiples of the architecture's unit."""
    arch, size = case("model.arch"), case(SIZE)
    if arch not in ARCHS or size is None or not case.known("model.arch"):
        return

    if not size_fits(arch, size):
        near = " × ".join(
            " or ".join(str(value) for value in nearest_sizes(arch, side)) for side in hw(size)
        )
        case.error(
            SIZE,
            f"{arch} cannot take this size",
            f"multiples of {ARCHS[arch].size_multiple} px",
            f"the nearest that fit: {near}",
        )


def mask_units(case: Case) -> None:
    """Pretraining needs at least one visible and one hidden unit."""
    arch, size = case("model.arch"), case(SIZE)
    pretrains = case("train.stage") == "pretrain" and case.known("model.arch")
    if arch not in ARCHS or size is None or not pretrains or not size_fits(arch, size):
        return

    units = num_units(arch, size)
    visible = round(units * (1 - float(case("train.mask_ratio", 0.75))))
    if units < 2 or not 0 < visible < units:
        case.error(
            "train.mask_ratio",
            f"of {units} mask units {visible} would stay visible",
            "at least one visible and one hidden unit",
            "choose a larger input_size or a mask_ratio nearer 0.5",
        )


def export_size(case: Case) -> None:
    """The sides of an exported graph's input fit as well."""
    arch = case("model.arch")
    if arch not in ARCHS or case(SIZE) is None or not case.known("model.arch"):
        return

    for side in ("height", "width"):
        value = case(f"export.input_{side}")
        if value is None or size_fits(arch, [value, value]):
            continue
        near = " or ".join(str(item) for item in nearest_sizes(arch, value))
        case.error(
            f"export.input_{side}",
            f"{arch} cannot take this size",
            f"a multiple of {ARCHS[arch].size_multiple} px",
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
        )
    if arch.family == "vit" and width % 4:
        case.error(
            "model.decoder_embed_dim",
            "sin-cos position embeddings need a multiple of 4",
            "a multiple of 4",
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
        )
    elif width % 4:
        case.error(
            "model.embed_dim",
            "sin-cos position embeddings need a multiple of 4",
            "a multiple of 4",
        )


RULES = [
    Rule(input_size),
    Rule(mask_units),
    Rule(export_size),
    Rule(decoder_shape, ("train",)),
    Rule(encoder_shape, ("train",)),
]
