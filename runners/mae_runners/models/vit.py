"""The ViT encoder (timm's `VisionTransformer`) and the transformer block that the ViT and Hiera decoders share."""

from __future__ import annotations

import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from mae_runners.models.common import transformer_layer_id
from mae_runners.models.linear import linear
from mae_runners.models.masking import take


class VitBackbone(VisionTransformer):
    """timm's ViT with a class token. Tokens ``[B, 1 + L, D]``, patches in row-major order.

    Args:
        pool: ``avg`` (mean of the patch tokens, then ``fc_norm``) or ``token`` (``norm``, then the class token).
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        *,
        patch: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        num_classes: int,
        pool: str,
        drop_path: float,
    ) -> None:
        super().__init__(
            img_size=input_size,
            patch_size=patch,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            num_classes=num_classes,
            global_pool=pool,
            drop_path_rate=drop_path,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.patch_embed.grid_size
        return int(rows), int(columns)

    def blocks_in_order(self) -> list[nn.Module]:
        """The transformer blocks, first to last."""
        return list(self.blocks)

    def layer_id(self, name: str) -> tuple[int, int]:
        """See `Backbone.layer_id`."""
        return transformer_layer_id(name, len(self.blocks))

    def head_names(self) -> tuple[str, ...]:
        """Parameters of the linear classifier."""
        return ("head.weight", "head.bias")

    def head_layer(self) -> nn.Module:
        """The linear classifier."""
        return self.head

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Outputs of blocks 3, 5, 7, 11 of 12 (scaled for other depths), all ``[B, D, H/p, W/p]``."""
        depth = len(self.blocks)
        taps = [max(1, depth * share // 12) - 1 for share in (4, 6, 8, 12)]
        unique = sorted(set(taps))
        maps = dict(
            zip(
                unique,
                self.forward_intermediates(images, indices=unique, intermediates_only=True),
                strict=True,
            )
        )
        return [maps[tap] for tap in taps]


def attend(q: Tensor, k: Tensor, v: Tensor, *, fused: bool) -> Tensor:
    """Scaled dot-product attention on ``[N, heads, tokens, head width]``; plain matrix products when not ``fused``."""
    if fused:
        return F.scaled_dot_product_attention(q, k, v)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return weights.softmax(dim=-1) @ v


class DecoderBlock(Block):
    """timm's transformer block that can answer for some tokens only."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__(dim, num_heads, mlp_ratio, qkv_bias=True)

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """``x [B, N, D]`` → ``[B, N, D]``, or ``[B, M, D]`` for the tokens ``index [B, M]``: these still attend to all N.

        In the last block of a decoder only the hidden tokens are of use, so queries, projection and MLP of the others are left out.
        """
        if index is None:
            return super().forward(x)
        attn, width = self.attn, x.shape[-1]
        normed = self.norm1(x)
        weight, bias = attn.qkv.weight, attn.qkv.bias
        q = linear(take(normed, index), weight[:width], bias[:width])
        k, v = linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        heads = [
            part.unflatten(2, (attn.num_heads, attn.head_dim)).transpose(1, 2) for part in (q, k, v)
        ]
        out = attend(*heads, fused=attn.fused_attn).transpose(1, 2).flatten(2)
        x = take(x, index) + attn.proj(out)
        return x + self.mlp(self.norm2(x))


def decode(blocks: nn.ModuleList, x: Tensor, index: Tensor) -> Tensor:
    """``x [B, N, D]`` through all ``blocks`` → the tokens ``index [B, M]`` of the last one, ``[B, M, D]``."""
    for block in blocks[:-1]:
        x = block(x)
    return blocks[-1](x, index)


def embed_patches(projection: nn.Conv2d, patches: Tensor) -> Tensor:
    """A patch convolution as a matrix product on gathered patches: ``[B, K, C, p, p]`` → ``[B, K, D]``."""
    return linear(patches.flatten(2), projection.weight.flatten(1), projection.bias)


def mask_tokens(token: Tensor, rows: Tensor, count: int) -> Tensor:
    """``count`` copies of the mask token ``[1, 1, D]`` for each sample of ``rows [B, …]``, in the dtype of ``rows``."""
    return token.to(rows.dtype).expand(rows.shape[0], count, -1)
