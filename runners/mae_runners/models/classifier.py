"""The fine-tuned model: an encoder, a way to pool, and a linear head."""

from __future__ import annotations

from typing import Any

from timm.layers import trunc_normal_
from torch import Tensor, nn

from mae_runners.models.common import Backboned


class Classifier(Backboned):
    """Image classification on any of the encoders.

    Features are the mean over positions. ViT with ``global_pool`` false takes the class token instead (``norm``, not ``fc_norm``).
    """

    def __init__(self, encoder: Any, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.num_classes = int(config["num_classes"])
        head: nn.Module = encoder.head_layer()
        trunc_normal_(head.weight, std=2e-5)
        nn.init.zeros_(head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """``images [B, 3, H, W]`` normalised → logits ``[B, num_classes]``."""
        logits: Tensor = self.encoder(images)
        return logits

    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        """Features before the linear head ``[B, D]``; with ``pool=False`` the positions ``[B, N, D]`` in row-major order (no class
        token)."""
        if pool:
            return self.encoder.forward_head(self.encoder.forward_features(images), pre_logits=True)
        return self.encoder.pyramid(images)[-1].flatten(2).transpose(1, 2)

    def head_parameter_names(self) -> set[str]:
        return {f"encoder.{name}" for name in self.encoder.head_names()}
