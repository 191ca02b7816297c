"""The 19 architectures: what they are made of and which input sizes they take. The one table; runners build from it, validation and estimates read it."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import SpecError


@dataclass(frozen=True)
class Arch:
    """One architecture.

    ``unit``: pixels a side of a mask unit; both sides of an input must be multiples of it. ``patch``: pixels a side of the first token (ViT patch,
    4 for the others). ``depths`` and ``dims``: blocks and widths by stage (one stage for ViT). ``heads``: attention heads of the first stage.
    """

    name: str
    family: str
    unit: int
    patch: int
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    heads: int = 0
    mlp_ratio: float = 4.0
    default_size: int = 224
    paper: str = ""

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of mask units for an input of ``(height, width)`` pixels."""
        return size[0] // self.unit, size[1] // self.unit


def _convnext(size: str, depths: tuple[int, ...], width: int) -> Arch:
    dims = (width, width * 2, width * 4, width * 8)
    return Arch(f"convnextv2_{size}", "convnextv2", 32, 4, depths, dims, paper="arXiv:2301.00808")


def _vit(size: str, patch: int, dim: int, depth: int, heads: int) -> Arch:
    return Arch(f"vit_{size}_patch{patch}", "vit", patch, patch, (depth,), (dim,), heads, paper="arXiv:2111.06377")


def _hiera(size: str, depths: tuple[int, ...], width: int, heads: int) -> Arch:
    return Arch(f"hiera_{size}_224", "hiera", 32, 4, depths, (width, width * 2, width * 4, width * 8), heads, paper="arXiv:2306.00989")


ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        _convnext("atto", (2, 2, 6, 2), 40),
        _convnext("femto", (2, 2, 6, 2), 48),
        _convnext("pico", (2, 2, 6, 2), 64),
        _convnext("nano", (2, 2, 8, 2), 80),
        _convnext("tiny", (3, 3, 9, 3), 96),
        _convnext("base", (3, 3, 27, 3), 128),
        _convnext("large", (3, 3, 27, 3), 192),
        _convnext("huge", (3, 3, 27, 3), 352),
        _vit("tiny", 16, 192, 12, 3),
        _vit("small", 16, 384, 12, 6),
        _vit("base", 16, 768, 12, 12),
        _vit("large", 16, 1024, 24, 16),
        _vit("huge", 14, 1280, 32, 16),
        _hiera("tiny", (1, 2, 7, 2), 96, 1),
        _hiera("small", (1, 2, 11, 2), 96, 1),
        _hiera("base", (2, 3, 16, 3), 96, 1),
        _hiera("base_plus", (2, 3, 16, 3), 112, 2),
        _hiera("large", (2, 6, 36, 4), 144, 2),
        _hiera("huge", (2, 6, 36, 4), 256, 4),
    )
}


def get_arch(name: str) -> Arch:
    """The architecture called ``name``; raises `SpecError` with the list of names."""
    try:
        return ARCHS[name]
    except KeyError:
        raise SpecError("unknown architecture", field="model.arch", got=name, expected=", ".join(ARCHS)) from None
