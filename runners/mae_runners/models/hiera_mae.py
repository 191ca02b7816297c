"""Hiera-MAE: masked pretraining of Hiera (arXiv 2306.00989, section 3 and appendix; names follow facebookresearch/hiera)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mae_runners.models.hiera import SIDE, UNIT, HieraBackbone
from mae_runners.models.linear import linear
from mae_runners.models.mae import MaskedAutoencoder, init_like_mae
from mae_runners.models.masking import Mask, put, split
from mae_runners.models.vit import DecoderBlock, decode, mask_tokens


class HieraMae(MaskedAutoencoder):
    """Hiera on the visible units with two poolings; the stage outputs are fused to 2×2 tokens a unit, and decoded at 16 pixels a token."""

    channels_last_target: ClassVar[bool] = False

    def __init__(self, encoder: HieraBackbone, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.unit = UNIT
        self.num_units = encoder.units[0] * encoder.units[1]
        self.final_side = SIDE // 2**encoder.q_pool
        self.target_patch = UNIT // self.final_side
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
        self.decoder_blocks = nn.ModuleList(
            DecoderBlock(
                width, int(config["decoder_num_heads"]), float(config["decoder_mlp_ratio"])
            )
            for _ in range(int(config["decoder_depth"]))
        )
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, self.target_patch**2 * 3)
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
        """Stage outputs ``[B, K, T_i, C_i]`` → normalised ``[B, K, f·f, C]``, row-major in the unit."""
        fused = self.encoder.roll(stages[-1]).flatten(2, 3)
        for stage, head in enumerate(self.multi_scale_fusion_heads[:-1]):
            picture = self.encoder.roll(stages[stage])
            batch, units = picture.shape[:2]
            kernel = head.kernel_size[0]
            # The fusing convolution's kernel equals its stride: a matrix product on patches.
            patches = split(split(picture, 3, -1, kernel), 2, -1, kernel).permute(
                0, 1, 2, 4, 3, 5, 6
            )
            patches = patches.reshape(batch, units, self.final_side**2, -1)
            fused = fused + linear(patches, head.weight.permute(0, 2, 3, 1).flatten(1), head.bias)
        return self.encoder_norm(fused)

    def predict(self, images: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        tokens = self.encoder.embed_visible(images, mask.visible, mask.hidden_map)
        latent = self.decoder_embed(self.fuse(self.encoder.stages(tokens)))
        per_unit = latent.shape[2]
        base = (
            mask_tokens(self.mask_token, latent, self.num_units)
            .unsqueeze(2)
            .expand(-1, -1, per_unit, -1)
        )
        x = put(base, mask.visible, latent).flatten(1, 2)
        # The decoder attends to everything, so the order of its tokens is free: keep them by unit and bring the position table along.
        x = x + self.decoder_pos_embed[:, self.token_numbers.flatten()]
        hidden = (
            mask.hidden.unsqueeze(2) * per_unit + torch.arange(per_unit, device=x.device)
        ).flatten(1)
        x = decode(self.decoder_blocks, x, hidden)
        return self.decoder_pred(self.decoder_norm(x)), self.token_numbers[mask.hidden].flatten(1)

    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        fused = self.fuse(self.encoder.stages(self.encoder.embed(images)))
        tokens = fused.flatten(1, 2)
        if not pool:
            return tokens[:, self.token_numbers.flatten().argsort()]
        return tokens.mean(dim=1)
