"""The Hiera encoder: Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles", arXiv 2306.00989.

Parameter names are timm's. Tokens are kept by mask unit throughout, ``[B, K, T, C]``: K units of T tokens. So attention inside a unit is an
ordinary batch of ``B·K`` short sequences (four-dimensional, which the fused kernels need), pooling is a maximum over the leading factor
of T,
leaving a unit out is leaving an index out, and the same blocks serve visible units and whole images.

Inside a unit of 8×8 tokens the order is that of the pooling steps: the least significant bits of row and column come first ("unrolled").
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import (
    ClNormMlpClassifierHead,
    DropPath,
    LayerNorm,
    Mlp,
    calculate_drop_path_rates,
    trunc_normal_,
)
from torch import Tensor, nn

from mae_runners.models.common import Backbone, run_block, transformer_layer_id
from mae_runners.models.masking import split
from mae_runners.models.vit import attend

UNIT = 32  # pixels a side of a mask unit
STRIDE = 4  # pixels a side of a token
SIDE = UNIT // STRIDE
KERNEL, PAD = 7, 3
WINDOW = (SIDE - 1) * STRIDE + KERNEL  # pixels a side that the patch convolution reads for one unit


@cache
def unroll_order(side: int) -> tuple[int, ...]:
    """Row-major cell of each unrolled position in a unit of ``side × side`` tokens (side a power of two)."""
    bits = side.bit_length() - 1
    cells = []
    for position in range(side * side):
        row = column = 0
        for bit in range(bits):
            pair = position >> 2 * (bits - 1 - bit)
            row |= (pair >> 1 & 1) << bit
            column |= (pair & 1) << bit
        cells.append(row * side + column)
    return tuple(cells)


@cache
def roll_order(side: int) -> tuple[int, ...]:
    """Unrolled position of each row-major cell: the inverse of `unroll_order`."""
    order = unroll_order(side)
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def pool_max(x: Tensor, factor: int) -> Tensor:
    """Maximum over the leading ``factor`` of the tokens of each unit: ``[B, K, T, C]`` → ``[B, K, T / factor, C]``."""
    return x if factor == 1 else split(x, 2, factor, -1).amax(dim=2)


class UnitAttention(nn.Module):
    """Attention inside mask units, or over all tokens; the queries may be pooled."""

    def __init__(self, dim: int, dim_out: int, heads: int, pool: int, *, in_units: bool) -> None:
        super().__init__()
        self.heads, self.pool, self.in_units = heads, pool, in_units
        self.fused_attn = True
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, K, T, C]`` → ``[B, K, T / pool, C']``."""
        batch, units = x.shape[:2]
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = pool_max(q, self.pool)
        heads = [self._heads(part) for part in (q, k, v)]
        out = attend(*heads, fused=self.fused_attn).transpose(1, 2)
        return self.proj(out.reshape(batch, units, q.shape[2], q.shape[3]))

    def _heads(self, x: Tensor) -> Tensor:
        x = x.flatten(0, 1) if self.in_units else x.flatten(1, 2)
        return split(x, 2, self.heads, -1).transpose(1, 2)


class UnitBlock(nn.Module):
    """Pre-norm transformer block on ``[B, K, T, C]``; where the width grows, the shortcut is projected and pooled."""

    def __init__(
        self, dim: int, dim_out: int, heads: int, pool: int, *, in_units: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.pool = pool
        self.norm1 = LayerNorm(dim)
        self.proj = nn.Linear(dim, dim_out) if dim != dim_out else None
        self.attn = UnitAttention(dim, dim_out, heads, pool, in_units=in_units)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = LayerNorm(dim_out)
        self.mlp = Mlp(dim_out, int(dim_out * 4.0))
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        if self.proj is not None:
            x = pool_max(self.proj(normed), self.pool)
        x = x + self.drop_path1(self.attn(normed))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class HieraBackbone(Backbone):
    """Hiera for images.

    Args:
        q_pool: how many times queries are pooled: 2 in pretraining (a unit ends as 2×2 tokens), 3 in fine-tuning (one token).
        num_classes: 0 leaves the head out.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        *,
        embed_dim: int,
        num_heads: int,
        stages: tuple[int, ...],
        q_pool: int,
        num_classes: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.units = (input_size[0] // UNIT, input_size[1] // UNIT)
        self.q_pool = q_pool
        self.stage_ends = [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, embed_dim, KERNEL, stride=STRIDE, padding=PAD)
        self.pos_embed = nn.Parameter(
            torch.zeros(1, self.units[0] * self.units[1] * SIDE * SIDE, embed_dim)
        )
        for name, side in (("unroll", SIDE), *((f"roll{side}", side) for side in (8, 4, 2, 1))):
            order = unroll_order(side) if name == "unroll" else roll_order(side)
            self.register_buffer(name, torch.tensor(order), persistent=False)
        rates = calculate_drop_path_rates(drop_path, sum(stages))
        pooled_at = {end + 1 for end in self.stage_ends[:q_pool]}
        blocks, dim, stage = [], embed_dim, 0
        for i in range(sum(stages)):
            # A stage's attention lags by one block: global attention starts after the pooling block, at the lower resolution.
            in_units, dim_out = stage < 2, dim
            if i - 1 in self.stage_ends:
                dim_out, num_heads, stage = dim * 2, num_heads * 2, stage + 1
            blocks.append(
                UnitBlock(
                    dim,
                    dim_out,
                    num_heads,
                    4 if i in pooled_at else 1,
                    in_units=in_units,
                    drop_path=rates[i],
                )
            )
            dim = dim_out
        self.blocks = nn.ModuleList(blocks)
        self.num_features = dim
        self.stage_dims = [embed_dim * 2**i for i in range(len(stages))]
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = ClNormMlpClassifierHead(
                dim, num_classes, norm_layer=LayerNorm, input_fmt="NLC"
            )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for depth, block in enumerate(blocks):
            block.attn.proj.weight.data.div_((2.0 * (depth + 1)) ** 0.5)
            block.mlp.fc2.weight.data.div_((2.0 * (depth + 1)) ** 0.5)

    def blocks_in_order(self) -> list[nn.Module]:
        """All blocks, first to last."""
        return list(self.blocks)

    def by_unit(self, grid: Tensor) -> Tensor:
        """``[B, 8·rows, 8·columns, C]`` → ``[B, L, 64, C]``, unrolled."""
        rows, columns = self.units
        x = grid.reshape(-1, rows, SIDE, columns, SIDE, grid.shape[-1]).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, rows * columns, SIDE * SIDE, grid.shape[-1])[:, :, self.unroll]

    def position(self) -> Tensor:
        """The position table by unit, ``[1, L, 64, C]``."""
        rows, columns = self.units
        return self.by_unit(self.pos_embed.view(1, rows * SIDE, columns * SIDE, -1))

    def embed(self, images: Tensor) -> Tensor:
        """All tokens, ``[B, L, 64, C]``."""
        return self.by_unit(self.patch_embed.proj(images).permute(0, 2, 3, 1)) + self.position()

    def embed_visible(self, images: Tensor, visible: Tensor, hidden_map: Tensor) -> Tensor:
        """The tokens of the units ``visible [B, K]`` → ``[B, K, 64, C]``. Hidden pixels (``hidden_map [B, L]``) are zero to the
        convolution."""
        batch, (rows, columns), count = images.shape[0], self.units, visible.shape[1]
        shown = (~hidden_map).to(images.dtype).view(batch, 1, rows, 1, columns, 1)
        pixels = (images.view(batch, 3, rows, UNIT, columns, UNIT) * shown).view_as(images)
        windows = (
            F.pad(pixels, (PAD, PAD, PAD, PAD))
            .unfold(2, WINDOW, UNIT)
            .unfold(3, WINDOW, UNIT)
            .permute(0, 2, 3, 1, 4, 5)
        )
        sample = torch.arange(batch, device=images.device).unsqueeze(1)
        windows = windows[sample, visible // columns, visible % columns].flatten(0, 1)
        conv = self.patch_embed.proj
        tokens = F.conv2d(windows, conv.weight, conv.bias, stride=STRIDE).flatten(2).transpose(1, 2)
        tokens = tokens[:, self.unroll].unflatten(0, (batch, count))
        return tokens + self.position()[0][visible]

    def stages(self, x: Tensor) -> list[Tensor]:
        """Tokens at the end of each stage, ``[B, K, T_i, C_i]``."""
        outputs = []
        for i, block in enumerate(self.blocks):
            x = run_block(self, block, x)
            if i in self.stage_ends:
                outputs.append(x)
        return outputs

    def roll(self, x: Tensor) -> Tensor:
        """Unrolled tokens ``[B, K, s·s, C]`` → the picture of each unit ``[B, K, s, s, C]``."""
        side = int(x.shape[2] ** 0.5)
        order: Any = getattr(self, f"roll{side}")
        return split(x[:, :, order], 2, side, side)

    def to_map(self, x: Tensor) -> Tensor:
        """Unrolled tokens of all units ``[B, L, s·s, C]`` → ``[B, rows·s, columns·s, C]``."""
        rows, columns = self.units
        x = split(self.roll(x), 1, rows, columns).permute(0, 1, 3, 2, 4, 5)
        return x.flatten(3, 4).flatten(1, 2)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        return [self.to_map(x).permute(0, 3, 1, 2) for x in self.stages(self.embed(images))]

    def forward_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` → the tokens of the last stage, ``[B, N, C]``, by unit."""
        return self.stages(self.embed(images))[-1].flatten(1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, norm and (unless ``pre_logits``) classify."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def head_names(self) -> tuple[str, ...]:
        """Parameters of the linear classifier."""
        return ("head.fc.weight", "head.fc.bias")

    def head_layer(self) -> nn.Module:
        """The linear classifier."""
        return self.head.fc

    def layer_id(self, name: str) -> tuple[int, int]:
        """One id a block, in order (published code for Hiera's fine-tuning does not exist; this is ViT's rule)."""
        return transformer_layer_id(name, len(self.blocks))
