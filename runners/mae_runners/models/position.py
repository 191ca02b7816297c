"""Position embeddings: the fixed sine-cosine table of MAE, and resizing of learned and fixed tables
to another grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 10_000.0
"""The papers' base of the wavelengths."""


def sincos_2d(
    dim: int, grid: tuple[int, int], *, class_token: bool, temperature: float = TEMPERATURE
) -> Tensor:
    """The fixed table of MAE (arXiv 2111.06377) for ``grid = (rows, columns)``: ``[1, rows ×
    columns (+ 1), dim]``, float32.

    The first half of the channels encodes the **column**, the second the row; public checkpoints
    depend on that order. A class token has zeros.
    """
    assert dim % 4 == 0, "the sine-cosine table needs a multiple of 4 channels"
    omega = 1.0 / temperature ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4.0))
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64),
        torch.arange(grid[1], dtype=torch.float64),
        indexing="ij",
    )
    parts = []
    for position in (columns, rows):
        angle = torch.outer(position.flatten(), omega)
        parts += [angle.sin(), angle.cos()]
    table = torch.cat(parts, dim=1)
    if class_token:
        table = torch.cat([table.new_zeros(1, dim), table])
    return table.unsqueeze(0).float()


def resize_table(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], *, prefix: int = 0
) -> Tensor:
    """``table [1, prefix + rows × columns, C]`` from grid ``old`` to grid ``new`` by bicubic
    interpolation; the prefix rows stay."""
    if old == new:
        return table
    head, body = table[:, :prefix], table[:, prefix:]
    picture = body.float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    picture = F.interpolate(picture, size=new, mode="bicubic", align_corners=False, antialias=True)
    body = picture.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).to(table.dtype)
    return torch.cat([head, body], dim=1)


def resize_windowed_table(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], window: int
) -> Tensor:
    """As `resize_table`, for a model that attends in windows of ``window × window`` tokens (Hiera).

    Such a table is close to one window pattern repeated over the image plus a smooth part.
    Interpolating the sum moves the pattern off the windows and costs accuracy (Bolya et al.,
    "Window Attention is Bugged", arXiv 2311.05613), so the mean window pattern is repeated as it
    is, and only the rest is interpolated.
    """
    if old == new:
        return table
    channels = table.shape[-1]
    grid = table.float().reshape(old[0] // window, window, old[1] // window, window, channels)
    pattern = grid.mean(dim=(0, 2))
    rest = (grid - pattern[None, :, None]).reshape(1, old[0] * old[1], channels)
    rest = resize_table(rest, old, new).reshape(
        new[0] // window, window, new[1] // window, window, channels
    )
    return (rest + pattern[None, :, None]).reshape(1, new[0] * new[1], channels).to(table.dtype)


def square_grid(tokens: int) -> tuple[int, int] | None:
    """The square grid of ``tokens`` tokens, or None when it is not square."""
    side = round(tokens**0.5)
    return (side, side) if side * side == tokens else None
