"""Parameters, memory and time of a run before it starts. The bundle's ``estimator:`` entry point.

Counts are exact; memory and time are stated models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.archs import ARCHS, Arch, hw, num_units
from mae_skill.costs import (
    decoder_parameters,
    forward_operations,
    is_pretraining,
    kept_values,
    unlearned,
)
from mae_skill.dotted import get_dotted
from mae_skill.upernet import head_costs, is_segmentation

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

# Dense peak in tera-operations a second, (fp32 by tensor cores' TF32 or else plain, bf16 or fp16), from the makers' data sheets.
_GPUS = {
    "H200": (494, 989),
    "H100": (494, 989),
    "GH200": (494, 989),
    "B200": (1100, 2250),
    "A100": (156, 312),
    "A40": (75, 150),
    "A10": (62, 125),
    "A6000": (77, 155),
    "L40S": (183, 366),
    "L40": (90, 181),
    "L4": (60, 121),
    "V100": (15.7, 125),
    "T4": (8.1, 65),
    "4090": (82.6, 165),
    "3090": (35.6, 71),
}
_GPU_SHARE = 0.35  # of the peak, which well-tuned transformer training reaches
_CPU_GIGA = 64.0  # operations a second of one core in training: 48 to 98 were measured on a server's core with AVX-512
_OVERHEAD_SECONDS = (
    0.004  # of a step: launching kernels, the optimiser's loop, the loader's hand-over
)


def estimate(
    action: str, spec: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What one device of a train run needs.

    Args:
        facts: ``device`` (a GPU's name, or ``cpu``), ``cores`` and ``steps_per_epoch``, where known.

    Returns:
        ``parameters`` (learned ones: encoder, decoder or head, total), ``mask_units``, ``memory_mb`` (weights, optimizer, activations, total) with
        ``basis``, ``disk_mb`` of the checkpoints that stay (each, number, total), ``forward_gflops`` an image, and, where the device is
        known, ``seconds_per_step`` with ``seconds_basis``.

    Memory is weights and gradients and AdamW's two moments in fp32, and activations by a linear model (values a channel and position),
    without fragmentation or the framework's own 300–600 MB.
    """
    arch = ARCHS.get(str(get_dotted(spec, "model.arch")))
    if action != "train" or arch is None:
        return {}
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    encoder = encoder_parameters(arch, spec) - unlearned(arch, spec)
    part = "decoder" if is_pretraining(spec) else "head"
    rest = decoder_parameters(arch, spec) if part == "decoder" else _head_parameters(arch, spec)
    batch = int(get_dotted(spec, "dataset.batch_size", 1))
    precision = str(get_dotted(spec, "train.precision", "fp32"))
    mega = 1 / 2**20
    weights, optimizer = (encoder + rest) * 8 * mega, (encoder + rest) * 8 * mega
    activations = kept_values(arch, spec) * batch * BYTES[precision] * mega
    operations = forward_operations(arch, spec)
    return {
        "parameters": {"encoder": encoder, part: rest, "total": encoder + rest},
        "mask_units": num_units(arch.name, size),
        "memory_mb": {
            "weights": round(weights, 1),
            "optimizer": round(optimizer, 1),
            "activations": round(activations, 1),
            "total": round(weights + optimizer + activations, 1),
        },
        "basis": "a device: weights and gradients fp32, AdamW moments fp32, activations by a linear model; the framework's own comes on top",
        "disk_mb": _disk(spec, encoder + rest, dict(facts or {})),
        "forward_gflops": round(operations / 1e9, 4),
        **_seconds(
            operations * 3 * batch * int(get_dotted(spec, "train.accum_grad_batches", 1) or 1),
            precision,
            dict(facts or {}),
        ),
    }


def _disk(spec: Mapping[str, Any], parameters: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Checkpoints: weights, their moving average where there is one, and AdamW's two moments, all in fp32."""
    each = parameters * (16 if get_dotted(spec, "train.ema_decay") is not None else 12) / 2**20
    epochs, interval = (
        int(get_dotted(spec, "train.num_epochs", 1)),
        int(get_dotted(spec, "train.checkpoint_interval", 1) or 1),
    )
    if get_dotted(spec, "train.checkpoint_interval_unit") == "step":
        number = epochs * int(facts.get("steps_per_epoch") or 1) // interval + 1
    else:
        number = -(-epochs // interval)
    keep = get_dotted(spec, "train.keep_checkpoints")
    number = (
        number if keep is None else min(number, int(keep) + 1)
    )  # the best one may be older than the newest ones
    return {"checkpoint": round(each, 1), "checkpoints": number, "total": round(each * number, 1)}


def _seconds(operations: float, precision: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Time of an optimiser step: three forward passes' work over what the device does in a second."""
    device, cores = str(facts.get("device") or ""), facts.get("cores")
    if device == "cpu" and cores:
        rate, words = _CPU_GIGA * 1e9 * int(cores), f"{cores} cores at {_CPU_GIGA:g} GFLOP/s"
    else:
        name = max(
            (name for name in _GPUS if name in device.replace(" ", "-").split("-")),
            key=len,
            default=None,
        )
        if name is None:
            return {}
        peak = _GPUS[name][0 if precision == "fp32" else 1]
        rate, words = peak * 1e12 * _GPU_SHARE, f"{_GPU_SHARE:.0%} of {name}'s {peak:g} TFLOP/s"
    return {
        "seconds_per_step": round(operations / rate + _OVERHEAD_SECONDS, 5),
        "seconds_basis": f"analytic: 3 forward passes' work, {words}",
    }


def _head_parameters(arch: Arch, spec: Mapping[str, Any]) -> int:
    """A linear classifier, or a segmenter's neck, UperNet and auxiliary head."""
    if is_segmentation(spec):
        return head_costs(arch, spec).parameters
    return (_width(arch, spec) + 1) * int(get_dotted(spec, "model.num_classes", 0) or 0)


def _width(arch: Arch, spec: Mapping[str, Any]) -> int:
    return (
        int(get_dotted(spec, "model.embed_dim") or arch.dims[0])
        if arch.family == "vit"
        else arch.feature_dim
    )


def encoder_parameters(arch: Arch, spec: Mapping[str, Any] | None = None) -> int:
    """Parameters of the encoder without head; ViT position embeddings are counted at the spec's input size."""
    spec = spec or {}
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    if arch.family == "vit":
        dim = int(get_dotted(spec, "model.embed_dim") or arch.dims[0])
        depth = int(get_dotted(spec, "model.depth") or arch.depths[0])
        hidden = int(dim * float(get_dotted(spec, "model.mlp_ratio") or arch.mlp_ratio))
        tokens = (size[0] // arch.patch) * (size[1] // arch.patch) + 1
        block = (
            4 * dim
            + (3 * dim * dim + 3 * dim)
            + (dim * dim + dim)
            + (2 * dim * hidden + hidden + dim)
        )
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
            total += (
                2 * source
                + 3 * source * dim
                + 3 * dim
                + dim * dim
                + dim
                + 2 * dim
                + 2 * dim * hidden
                + hidden
                + dim
            )
            if source != dim:
                total += source * dim + dim
        before = dim
    return total + 2 * arch.dims[-1]
