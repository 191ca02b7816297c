"""Small models for tests, and ways to compare them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from mae_runners.models import build_from_config
from torch import Tensor

#: one small architecture a family
SMALL = ("vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224")


def mae_config(arch: str, size: tuple[int, int], **overrides: Any) -> dict[str, Any]:
    """Plain arguments of a masked autoencoder with a small decoder."""
    return {
        "arch": arch,
        "input_size": list(size),
        "mask_ratio": 0.6,
        "norm_pix_loss": True,
        "decoder_depth": 2,
        "decoder_embed_dim": 64,
        "decoder_num_heads": 4,
        "decoder_mlp_ratio": 4.0,
        **overrides,
    }


def classifier_config(arch: str, size: tuple[int, int], **overrides: Any) -> dict[str, Any]:
    """Plain arguments of a classifier of 5 classes without drop path."""
    return {
        "arch": arch,
        "input_size": list(size),
        "global_pool": True,
        "num_classes": 5,
        "drop_path_rate": 0.0,
        **overrides,
    }


def build(config: dict[str, Any], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A model in evaluation mode whose every parameter is off its initial symmetric value (zero
    biases and GRN hide mistakes)."""
    return copy.deepcopy(_built(json.dumps(config, sort_keys=True), seed, dtype))


@lru_cache(maxsize=8)
def _built(config: str, seed: int, dtype: torch.dtype) -> Any:
    torch.manual_seed(seed)
    model = build_from_config(json.loads(config)).to(dtype).eval()
    disturb(model.parameters())
    return model


def disturb(parameters: Iterable[Tensor], scale: float = 0.05) -> None:
    """Add seeded noise to every parameter."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(
                    parameter.dtype
                ),
                alpha=scale,
            )


def inputs(
    model: Any, batch: int = 2, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Seeded images and noise for a masked autoencoder."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(batch, 3, *model.input_size, generator=generator, dtype=torch.float64)
    noise = torch.rand(batch, model.num_units, generator=generator)
    return images.to(dtype), noise


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value."""
    a, b = a.detach(), b.detach()
    scale = max(float(a.abs().max()), float(b.abs().max()), 1e-300)
    return float((a - b).abs().max()) / scale


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """The same names, each tensor within the relative tolerance; names the worst."""
    assert found.keys() == expected.keys()
    worst = {name: relative(tensor, expected[name]) for name, tensor in found.items()}
    assert max(worst.values()) < tolerance, max(worst, key=worst.__getitem__)


def gradients(model: Any) -> dict[str, Tensor]:
    """Gradients of the parameters that have one."""
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def write_vit_tiny(path: Path, **options: Any) -> Path:
    """The weights of a timm ViT-Tiny for 64 pixels and 3 classes."""
    shape = {"img_size": 64, "embed_dim": 192, "depth": 12, "num_heads": 3, "num_classes": 3}
    model = timm.models.vision_transformer.VisionTransformer(**{**shape, **options})
    torch.save({"model": model.state_dict()}, path)
    return path
