"""Parameters and memory of a run before it starts. The bundle's ``estimator:`` entry point; counts are exact, memory is a stated model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .archs import ARCHS, Arch, hw, num_units
from .overrides import get_dotted

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def estimate(action: str, spec: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``{"encoder_parameters", "memory_mb": {"weights", "optimizer", "activations", "total"}, "basis"}`` of a train run for one device.

    The encoder's parameters are counted from its shape and equal the model's; memory is weights and gradients and AdamW's two moments in
    fp32, and activations by a linear model (bytes a token and layer) without fragmentation or the framework's own 300–600 MB.
    """
    arch = ARCHS.get(str(get_dotted(spec, "model.arch")))
    if action != "train" or arch is None:
        return {}
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    parameters = encoder_parameters(arch, spec)
    batch = int(get_dotted(spec, "dataset.batch_size", 1))
    width = BYTES[str(get_dotted(spec, "train.precision", "fp32"))]
    pretrain = get_dotted(spec, "train.stage") == "pretrain"
    visible = 1.0 - float(get_dotted(spec, "train.mask_ratio", 0.75)) if pretrain else 1.0
    values = activation_values(arch, size, spec) * visible
    if get_dotted(spec, "train.gradient_checkpointing"):
        values *= 0.2
    mega = 1 / 2**20
    weights, optimizer = parameters * 4 * 2 * mega, parameters * 8 * mega
    activations = values * batch * width * mega
    rounded = {
        "weights": round(weights, 1),
        "optimizer": round(optimizer, 1),
        "activations": round(activations, 1),
        "total": round(weights + optimizer + activations, 1),
    }
    basis = "encoder only: weights and gradients fp32, AdamW moments fp32, activations by a linear model; decoder and head come on top"
    return {"encoder_parameters": parameters, "mask_units": num_units(arch.name, size), "memory_mb": rounded, "basis": basis}


def encoder_parameters(arch: Arch, spec: Mapping[str, Any] | None = None) -> int:
    """Parameters of the encoder without head; ViT position embeddings are counted at the spec's input size."""
    spec = spec or {}
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    if arch.family == "vit":
        dim = int(get_dotted(spec, "model.embed_dim") or arch.dims[0])
        depth = int(get_dotted(spec, "model.depth") or arch.depths[0])
        hidden = int(dim * float(get_dotted(spec, "model.mlp_ratio") or arch.mlp_ratio))
        tokens = (size[0] // arch.patch) * (size[1] // arch.patch) + 1
        block = 4 * dim + (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (2 * dim * hidden + hidden + dim)
        return 3 * arch.patch**2 * dim + dim + dim + tokens * dim + depth * block + 2 * dim
    if arch.family == "convnextv2":
        total = 3 * 16 * arch.dims[0] + 3 * arch.dims[0]
        for stage, (dim, depth) in enumerate(zip(arch.dims, arch.depths, strict=True)):
            if stage:
                before = arch.dims[stage - 1]
                total += 2 * before + 4 * before * dim + dim
            total += depth * (49 * dim + dim + 2 * dim + 8 * dim * dim + 4 * dim + dim + 8 * dim)
        return total + 2 * arch.dims[-1]
    return _hiera_parameters(arch, size)


def _hiera_parameters(arch: Arch, size: tuple[int, int]) -> int:
    total = 3 * 49 * arch.dims[0] + arch.dims[0] + (size[0] // 4) * (size[1] // 4) * arch.dims[0]
    before = arch.dims[0]
    for stage, (dim, depth) in enumerate(zip(arch.dims, arch.depths, strict=True)):
        for block in range(depth):
            source = before if block == 0 and stage else dim
            hidden = int(dim * arch.mlp_ratio)
            total += 2 * source + 3 * source * dim + 3 * dim + dim * dim + dim + 2 * dim + 2 * dim * hidden + hidden + dim
            if source != dim:
                total += source * dim + dim
        before = dim
    return total + 2 * arch.dims[-1]


def activation_values(arch: Arch, size: tuple[int, int], spec: Mapping[str, Any]) -> float:
    """Values an image's forward pass keeps for the backward pass, all positions visible (about 17 a channel in a transformer block with
    fused attention, 22 in a ConvNeXt V2 block)."""
    if arch.family == "vit":
        dim = int(get_dotted(spec, "model.embed_dim") or arch.dims[0])
        depth = int(get_dotted(spec, "model.depth") or arch.depths[0])
        return 17.0 * dim * depth * (size[0] // arch.patch) * (size[1] // arch.patch)
    positions = (size[0] // 4) * (size[1] // 4)
    each = 22.0 if arch.family == "convnextv2" else 17.0
    stages = enumerate(zip(arch.dims, arch.depths, strict=True))
    return float(sum(each * dim * depth * positions / 4.0**stage for stage, (dim, depth) in stages))
