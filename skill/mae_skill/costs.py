"""Work and stored values of one image through a model, from its shape alone: what estimates of time and memory rest on.

A multiplication with its addition counts as two operations. Values are those that the forward pass keeps for the backward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mae_skill.archs import Arch, hw
from mae_skill.dotted import get_dotted
from mae_skill.upernet import head_costs, is_segmentation

# Values kept a channel and position of a block: fused attention keeps queries, keys, values, both norms and the MLP's hidden layer.
KEPT = {"vit": 17.0, "convnextv2": 20.0, "hiera": 19.0}


@dataclass(frozen=True)
class Blocks:
    """Equal blocks: ``depth`` of width ``dim`` over ``tokens`` positions; each position attends to ``window`` (0: a convolution)."""

    dim: int
    depth: int
    tokens: float
    window: float
    ratio: float
    kept: float

    @property
    def operations(self) -> float:
        """Of the forward pass of one image."""
        attention = 8 * self.dim**2 + 4 * self.window * self.dim if self.window else 98 * self.dim
        return self.depth * self.tokens * (attention + 4 * self.ratio * self.dim**2)

    @property
    def values(self) -> float:
        """Kept for the backward pass of one image."""
        return self.kept * self.dim * self.depth * self.tokens


def is_pretraining(spec: Mapping[str, Any]) -> bool:
    """Whether a decoder follows the encoder and masked units are left out."""
    return bool(get_dotted(spec, "train.stage") == "pretrain")


def encoder_blocks(arch: Arch, spec: Mapping[str, Any]) -> list[Blocks]:
    """The encoder's stages over what it sees: all positions, or in pretraining the visible ones."""
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    pretrain = is_pretraining(spec)
    visible = 1.0 - float(get_dotted(spec, "train.mask_ratio", 0.75)) if pretrain else 1.0
    positions = visible * (size[0] // arch.patch) * (size[1] // arch.patch)
    kept = KEPT[arch.family]
    if arch.family == "vit":
        dim = int(get_dotted(spec, "model.embed_dim") or arch.dims[0])
        depth = int(get_dotted(spec, "model.depth") or arch.depths[0])
        ratio = float(get_dotted(spec, "model.mlp_ratio") or arch.mlp_ratio)
        return [Blocks(dim, depth, positions + 1, positions + 1, ratio, kept)]
    found = []
    for stage, (dim, depth) in enumerate(zip(arch.dims, arch.depths, strict=True)):
        # Hiera pools twice in pretraining, so that its last stage keeps the third's resolution.
        halvings = min(stage, 2) if arch.family == "hiera" and pretrain else stage
        tokens = positions / 4.0**halvings
        window = 0.0 if arch.family == "convnextv2" else 64.0 / 4.0**stage if stage < 2 else tokens
        found.append(Blocks(dim, depth, tokens, window, arch.mlp_ratio, kept))
    return found


def decoder_blocks(arch: Arch, spec: Mapping[str, Any]) -> Blocks | None:
    """The decoder over all positions; None in fine-tuning."""
    if not is_pretraining(spec):
        return None
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    tokens = float((size[0] // arch.target_patch) * (size[1] // arch.target_patch))
    width, depth = (
        int(get_dotted(spec, "model.decoder_embed_dim", 512)),
        int(get_dotted(spec, "model.decoder_depth", 1)),
    )
    ratio = float(get_dotted(spec, "model.decoder_mlp_ratio") or 4.0)
    return Blocks(
        width,
        depth,
        tokens,
        0.0 if arch.family == "convnextv2" else tokens,
        ratio,
        KEPT[arch.family],
    )


def unlearned(arch: Arch, spec: Mapping[str, Any]) -> int:
    """Parameters of an encoder alone that the model has not: in pretraining ViT's position table is fixed and ConvNeXt's last norm is the
    head's; a segmenter has no last norm."""
    if is_segmentation(spec):
        return 2 * (
            int(get_dotted(spec, "model.embed_dim") or arch.dims[0])
            if arch.family == "vit"
            else arch.feature_dim
        )
    if not is_pretraining(spec):
        return 0
    if arch.family == "convnextv2":
        return 2 * arch.feature_dim
    if arch.family == "vit":
        size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
        return int(get_dotted(spec, "model.embed_dim") or arch.dims[0]) * (
            (size[0] // arch.patch) * (size[1] // arch.patch) + 1
        )
    return 0


def decoder_parameters(arch: Arch, spec: Mapping[str, Any]) -> int:
    """Weights between the encoder and the predicted pixels, learned ones only; 0 in fine-tuning."""
    blocks = decoder_blocks(arch, spec)
    if blocks is None:
        return 0
    width, hidden = blocks.dim, int(blocks.dim * blocks.ratio)
    features = (
        int(get_dotted(spec, "model.embed_dim") or arch.dims[0])
        if arch.family == "vit"
        else arch.feature_dim
    )
    around = (
        features * width + width + width + 3 * arch.target_patch**2 * (width + 1)
    )  # embedding, mask token, prediction
    if arch.family == "convnextv2":
        return around + blocks.depth * (
            49 * width + width + 2 * width + 2 * width * hidden + hidden + width + 2 * hidden
        )
    block = (
        4 * width
        + (3 * width * width + 3 * width)
        + (width * width + width)
        + (2 * width * hidden + hidden + width)
    )
    total = around + 2 * width + blocks.depth * block
    if arch.family == "hiera":
        fusing = sum(
            features * dim * (4 // 2**stage) ** 2 + features
            for stage, dim in enumerate(arch.dims[:2])
        )
        total += int(blocks.tokens) * width + fusing
    return total


def forward_operations(arch: Arch, spec: Mapping[str, Any]) -> float:
    """Of one image through encoder and, in pretraining, decoder; or a segmenter's head."""
    encoder = encoder_blocks(arch, spec)
    found = sum(stage.operations for stage in encoder)
    first = encoder[0]
    kernel = 49 if arch.family == "hiera" else arch.patch**2
    found += 2 * first.tokens * 3 * kernel * first.dim
    for before, stage in itertools.pairwise(
        encoder
    ):  # between stages: a 2×2 convolution, or a wider projection
        found += (
            2 * stage.tokens * before.dim * stage.dim * (4 if arch.family == "convnextv2" else 1)
        )
    decoder = decoder_blocks(arch, spec)
    if decoder is None:
        return found + (head_costs(arch, spec).operations if is_segmentation(spec) else 0.0)
    hidden = decoder.tokens * float(get_dotted(spec, "train.mask_ratio", 0.75))
    return (
        found
        + decoder.operations
        + 2
        * decoder.dim
        * (encoder[-1].tokens * encoder[-1].dim + hidden * 3 * arch.target_patch**2)
    )


def kept_values(arch: Arch, spec: Mapping[str, Any]) -> float:
    """Values an image's forward pass keeps for the backward pass; with gradient checkpointing about a fifth of the encoder's."""
    encoder = sum(stage.values for stage in encoder_blocks(arch, spec))
    if get_dotted(spec, "train.gradient_checkpointing"):
        encoder *= 0.2
    if is_segmentation(spec):
        return encoder + head_costs(arch, spec).values
    decoder = decoder_blocks(arch, spec)
    return encoder + (decoder.values if decoder else 0.0)
