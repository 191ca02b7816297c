"""ViT-MAE: He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mae_runners.models.common import run_block
from mae_runners.models.mae import MaskedAutoencoder, init_like_mae
from mae_runners.models.masking import Mask, put, take, take_patches
from mae_runners.models.position import sincos_2d
from mae_runners.models.vit import DecoderBlock, VitBackbone, decode, embed_patches, mask_tokens


class VitMae(MaskedAutoencoder):
    """The encoder sees the visible patches and a class token; a light decoder sees all positions and predicts the hidden patches.

    Parameter names follow facebookresearch/mae, with the encoder's under ``encoder.``. Both position tables are fixed sine-cosine tables.
    """

    def __init__(self, encoder: VitBackbone, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.encoder = encoder
        patch = int(encoder.patch_embed.patch_size[0])
        self.unit = self.target_patch = patch
        self.num_units = encoder.grid[0] * encoder.grid[1]
        width = int(config["decoder_embed_dim"])
        self.decoder_embed = nn.Linear(encoder.num_features, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(
            sincos_2d(width, encoder.grid, class_token=True), requires_grad=False
        )
        self.decoder_blocks = nn.ModuleList(
            DecoderBlock(
                width, int(config["decoder_num_heads"]), float(config["decoder_mlp_ratio"])
            )
            for _ in range(int(config["decoder_depth"]))
        )
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, patch * patch * 3)
        self._initialise()

    def _initialise(self) -> None:
        init_like_mae(self)
        projection = self.encoder.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.data.flatten(1))
        nn.init.zeros_(projection.bias)
        nn.init.normal_(self.encoder.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        self.encoder.pos_embed = nn.Parameter(
            sincos_2d(self.encoder.num_features, self.encoder.grid, class_token=True),
            requires_grad=False,
        )

    def encode_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """Normalised tokens ``[B, 1 + K, D]`` of the class token and the patches ``visible [B, K]``."""
        encoder = self.encoder
        x = embed_patches(encoder.patch_embed.proj, take_patches(images, visible, self.unit))
        table = encoder.pos_embed
        x = x + take(table[:, 1:].expand(x.shape[0], -1, -1), visible)
        x = torch.cat(
            [(encoder.cls_token + table[:, :1]).expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1
        )
        for block in encoder.blocks:
            x = run_block(encoder, block, x)
        return encoder.norm(x)

    def predict(self, images: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        latent = self.decoder_embed(self.encode_visible(images, mask.visible))
        body = put(
            mask_tokens(self.mask_token, latent, self.num_units), mask.visible, latent[:, 1:]
        )
        x = torch.cat([latent[:, :1], body], dim=1) + self.decoder_pos_embed
        x = decode(self.decoder_blocks, x, mask.hidden + 1)
        return self.decoder_pred(self.decoder_norm(x)), mask.hidden

    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        tokens = self.encoder.forward_features(images)
        if not pool:
            return tokens[:, 1:]
        return tokens[:, 1:].mean(dim=1)
