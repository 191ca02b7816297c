"""Hiera and its masked autoencoder.

Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles", arXiv
2306.00989; the names are those of facebookresearch/hiera, ``hiera_mae.py``, and timm's for the
encoder.

Tokens are kept by mask unit throughout, ``[B, K, T, C]``: K units of T tokens. So attention inside
a unit is an ordinary batch of ``B·K`` short sequences (four-dimensional, which the fused kernels
need), pooling is a maximum over the leading factor of T, leaving a unit out is leaving an index
out, and the same blocks serve visible units and whole images.

Inside a unit of 8×8 tokens the order is that of the pooling steps: the least significant bits of
row and column come first ("unrolled").
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from mae_skill.archs import hiera_kernel
from timm.layers import (
    ClNormMlpClassifierHead,
    DropPath,
    LayerNorm,
    Mlp,
    calculate_drop_path_rates,
)
from torch import Tensor, nn

from mae_runners.models.base import (
    Backbone,
    Config,
    init_truncated,
    run_block,
    transformer_layer_id,
)
from mae_runners.models.kernels import linear
from mae_runners.models.mae import (
    MaskedAutoencoder,
    attend,
    decode,
    decoder_blocks,
    init_like_mae,
    mask_tokens,
)
from mae_runners.models.masking import Mask, put, split

SIDE = 8  # tokens per side of a mask unit


@cache
def unroll_order(side: int) -> tuple[int, ...]:
    """Row-major cell of each unrolled position in a unit of ``side × side`` tokens (side a power of
    two)."""
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
    """Maximum over the leading ``factor`` of the tokens of each unit: ``[B, K, T, C]`` → ``[B, K, T
    / factor, C]``."""
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
        mixed: Tensor = self.proj(out.reshape(batch, units, q.shape[2], q.shape[3]))
        return mixed

    def _heads(self, x: Tensor) -> Tensor:
        x = x.flatten(0, 1) if self.in_units else x.flatten(1, 2)
        return split(x, 2, self.heads, -1).transpose(1, 2)


class UnitBlock(nn.Module):
    """Pre-norm transformer block on ``[B, K, T, C]``; where the width grows, the shortcut is
    projected and pooled."""

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
        y: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return y


class PatchEmbed(nn.Module):
    """The overlapping patch convolution, under timm's name ``patch_embed.proj``."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        kernel = hiera_kernel(patch)
        self.proj = nn.Conv2d(channels, width, kernel, stride=patch, padding=kernel // 2)


class HieraBackbone(Backbone):
    """Hiera for images.

    Args:
        patch: pixels per side of a token, the stride of the patch convolution; 4 in the paper.
        q_pool: how many times queries are pooled: 2 in pretraining (a unit ends as 2×2 tokens), 3
            in fine-tuning (one token).
        num_classes: 0 leaves the head out.
        channels: of an image.
    """

    unroll: Tensor  # `unroll_order` of a unit

    def __init__(
        self,
        input_size: tuple[int, int],
        *,
        patch: int,
        embed_dim: int,
        num_heads: int,
        stages: tuple[int, ...],
        q_pool: int,
        num_classes: int,
        drop_path: float,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.unit = SIDE * patch
        self.units = (input_size[0] // self.unit, input_size[1] // self.unit)
        self.q_pool = q_pool
        self.stage_ends = [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
        self.patch_embed = PatchEmbed(channels, embed_dim, patch)
        self.pos_embed = nn.Parameter(
            torch.zeros(1, self.units[0] * self.units[1] * SIDE * SIDE, embed_dim)
        )
        for name, side in (("unroll", SIDE), *((f"roll{side}", side) for side in (8, 4, 2, 1))):
            order = unroll_order(side) if name == "unroll" else roll_order(side)
            self.register_buffer(name, torch.tensor(order), persistent=False)
        rates = cast("list[float]", calculate_drop_path_rates(drop_path, sum(stages)))
        pooled_at = {end + 1 for end in self.stage_ends[:q_pool]}
        blocks, dim, stage = [], embed_dim, 0
        for i in range(sum(stages)):
            # A stage's attention lags by one block: global attention starts after the pooling
            # block, at the lower resolution.
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
        init_truncated(self, nn.Linear)
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
        """The tokens of the units ``visible [B, K]`` → ``[B, K, 64, C]``. Hidden pixels
        (``hidden_map [B, L]``) are zero to the convolution."""
        batch, (rows, columns), count = images.shape[0], self.units, visible.shape[1]
        unit, conv = self.unit, self.patch_embed.proj
        kernel, patch = conv.kernel_size[0], conv.stride[0]
        pad = kernel // 2
        window = (SIDE - 1) * patch + kernel  # pixels per side that a unit's convolution reads

        shown = (~hidden_map).to(images.dtype).view(batch, 1, rows, 1, columns, 1)
        pixels = (images.view(batch, -1, rows, unit, columns, unit) * shown).view_as(images)
        windows = (
            F.pad(pixels, (pad, pad, pad, pad))
            .unfold(2, window, unit)
            .unfold(3, window, unit)
            .permute(0, 2, 3, 1, 4, 5)
        )
        sample = torch.arange(batch, device=images.device).unsqueeze(1)
        windows = windows[sample, visible // columns, visible % columns].flatten(0, 1)
        tokens = F.conv2d(windows, conv.weight, conv.bias, stride=patch).flatten(2).transpose(1, 2)
        tokens = split(tokens[:, self.unroll], 0, batch, count)
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
        order: Tensor = getattr(self, f"roll{side}")
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
        out: Tensor = self.head(x, pre_logits=True) if pre_logits else self.head(x)
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def head_names(self) -> tuple[str, ...]:
        """Parameters of the linear classifier."""
        return ("head.fc.weight", "head.fc.bias")

    def head_layer(self) -> nn.Module:
        """The linear classifier."""
        return self.head.get_submodule("fc")

    def layer_id(self, name: str) -> tuple[int, int]:
        """One id per block, in order: ViT's rule. No code of Hiera's fine-tuning is published."""
        return transformer_layer_id(name, len(self.blocks))


class HieraMae(MaskedAutoencoder):
    """Hiera on the visible units with two poolings; the stage outputs are fused to 2×2 tokens a
    unit, and decoded at half a unit a token (16 pixels in the paper)."""

    channels_last_target: ClassVar[bool] = False
    encoder: HieraBackbone
    token_numbers: Tensor

    def __init__(self, encoder: HieraBackbone, config: Config) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.unit = encoder.unit
        self.num_units = encoder.units[0] * encoder.units[1]
        self.final_side = SIDE // 2**encoder.q_pool
        self.target_patch = self.unit // self.final_side
        width, features = int(config["decoder_embed_dim"]), encoder.num_features
        self.encoder_norm = nn.LayerNorm(features, eps=1e-6)
        heads: list[nn.Module] = []
        for stage in range(encoder.q_pool):
            kernel = SIDE // 2**stage // self.final_side
            heads.append(nn.Conv2d(encoder.stage_dims[stage], features, kernel, stride=kernel))
        self.multi_scale_fusion_heads = nn.ModuleList([*heads, nn.Identity()])
        self.decoder_embed = nn.Linear(features, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(
            torch.zeros(1, self.num_units * self.final_side**2, width)
        )
        self.decoder_blocks = decoder_blocks(config)
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, self.target_patch**2 * self.in_chans)
        init_like_mae(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.decoder_pos_embed, std=0.02)
        nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
        nn.init.xavier_uniform_(encoder.patch_embed.proj.weight.data.flatten(1))
        # Row-major number in the decoder's picture of each token of each unit, [L, f·f].
        rows, columns = encoder.units
        side = self.final_side
        numbers = (
            torch.arange(self.num_units * side * side)
            .view(rows, side, columns, side)
            .permute(0, 2, 1, 3)
            .reshape(self.num_units, -1)
        )
        self.register_buffer("token_numbers", numbers, persistent=False)

    def fuse(self, stages: list[Tensor]) -> Tensor:
        """Stage outputs ``[B, K, T_i, C_i]`` → normalized ``[B, K, f·f, C]``, row-major in the
        unit."""
        fused = self.encoder.roll(stages[-1]).flatten(2, 3)
        heads = cast("list[nn.Conv2d]", self.multi_scale_fusion_heads[:-1])
        for stage, head in enumerate(heads):
            picture = self.encoder.roll(stages[stage])
            batch, units = picture.shape[:2]
            kernel = head.kernel_size[0]
            # The fusing convolution's kernel equals its stride: a matrix product on patches.
            patches = split(split(picture, 3, -1, kernel), 2, -1, kernel).permute(
                0, 1, 2, 4, 3, 5, 6
            )
            patches = patches.reshape(batch, units, self.final_side**2, -1)
            fused = fused + linear(patches, head.weight.permute(0, 2, 3, 1).flatten(1), head.bias)
        normed: Tensor = self.encoder_norm(fused)
        return normed

    def forward_encoder(self, images: Tensor, mask: Mask) -> Tensor:
        """The fused stages of the visible units: ``[B, K, f·f, D]``."""
        tokens = self.encoder.embed_visible(images, mask.visible, mask.hidden_map)
        return self.fuse(self.encoder.stages(tokens))

    def forward_decoder(self, latent: Tensor, mask: Mask) -> Tensor:
        """``latent [B, K, f·f, D]`` → the patches of the hidden units ``[B, M·f·f, p·p·C]``."""
        latent = self.decoder_embed(latent)
        per_unit = latent.shape[2]
        base = mask_tokens(self.mask_token, latent, self.num_units)  # [B, L, D']
        base = base.unsqueeze(2).expand(-1, -1, per_unit, -1)
        x = put(base, mask.visible, latent).flatten(1, 2)  # [B, L·f·f, D'], by unit

        # The decoder attends to everything, so the order of its tokens is free: keep them by unit
        # and bring the position table along.
        x = x + self.decoder_pos_embed[:, self.token_numbers.flatten()]

        inside = torch.arange(per_unit, device=x.device)
        hidden = (mask.hidden.unsqueeze(2) * per_unit + inside).flatten(1)  # [B, M·f·f]
        x = decode(self.decoder_blocks, x, hidden)
        pred: Tensor = self.decoder_pred(self.decoder_norm(x))
        return pred

    def hidden_patches(self, mask: Mask) -> Tensor:
        """Row-major numbers of the target patches, f·f a hidden unit: ``[B, M·f·f]``."""
        return self.token_numbers[mask.hidden].flatten(1)

    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        fused = self.fuse(self.encoder.stages(self.encoder.embed(images)))
        tokens = fused.flatten(1, 2)
        if not pool:
            return tokens[:, self.token_numbers.flatten().argsort()]
        return tokens.mean(dim=1)
