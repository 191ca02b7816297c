"""FCMAE: Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", arXiv 2301.00808.

No sparse-convolution library: see `convnext` for how the visible cells are computed alone.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from mae_runners.models.convnext import UNIT, Block, ConvNextBackbone
from mae_runners.models.mae import MaskedAutoencoder
from mae_runners.models.masking import Mask, put, take
from mae_runners.models.vit import mask_tokens


class FcMae(MaskedAutoencoder):
    """A sparse ConvNeXt V2 encoder and a decoder of dense ConvNeXt blocks on the grid of 32×32-pixel units.

    Parameter names follow facebookresearch/ConvNeXt-V2 (``proj``, ``mask_token``, ``decoder``, ``pred``), blocks as timm names them.
    """

    def __init__(self, encoder: ConvNextBackbone, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.unit = self.target_patch = UNIT
        self.units = (self.input_size[0] // UNIT, self.input_size[1] // UNIT)
        self.num_units = self.units[0] * self.units[1]
        width = int(config["decoder_embed_dim"])
        self.proj = nn.Linear(encoder.num_features, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = nn.Sequential(
            *[
                Block(width, mlp_ratio=float(config["decoder_mlp_ratio"]))
                for _ in range(int(config["decoder_depth"]))
            ]
        )
        self.pred = nn.Linear(width, UNIT * UNIT * 3)
        for part in (self.proj, self.decoder, self.pred):
            for module in part.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    trunc_normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def predict(self, images: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        latent = self.proj(self.encoder.forward_visible(images, mask.visible))
        x = put(mask_tokens(self.mask_token, latent, self.num_units), mask.visible, latent)
        x = self.decoder(x.view(x.shape[0], *self.units, -1).permute(0, 3, 1, 2))
        x = x.permute(0, 2, 3, 1).flatten(1, 2)
        return self.pred(take(x, mask.hidden)), mask.hidden

    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        x = self.encoder.forward_features(images)
        if not pool:
            return x.flatten(2).transpose(1, 2)
        return x.mean(dim=(2, 3))
