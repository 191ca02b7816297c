"""What every masked autoencoder here has in common: the loss, the pictures, and what the optimiser needs to know of the parameters.

A family (`vit_mae`, `fcmae`, `hiera_mae`) supplies an encoder under ``self.encoder`` whose parameter names are timm's, and ``predict``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mae_runners.models.common import Backboned
from mae_runners.models.masking import Mask, draw_mask, patch_statistics, put_patches, take_patches


class MaeOutput(NamedTuple):
    """``loss`` scalar (fp32 or wider); ``pred [B, M, p·p·3]`` for the hidden target patches only; ``mask [B, L]``, True = hidden unit."""

    loss: Tensor
    pred: Tensor
    mask: Tensor


class MaskedAutoencoder(Backboned):
    """A masked autoencoder over mask units.

    Args of every family: ``mask_ratio`` is the share of units hidden; ``norm_pix_loss`` standardises each target patch by its own mean and
    unbiased variance + 1e-6. The loss is the squared error averaged over hidden patches only (arXiv 2111.06377, eq. in section 3).
    """

    #: target pixels in the order (p, p, C), as MAE and FCMAE predict them; Hiera predicts (C, p, p)
    channels_last_target: ClassVar[bool] = True

    num_units: int
    unit: int  # pixels a side of a mask unit
    target_patch: int  # pixels a side of a predicted patch

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.mask_ratio = float(config["mask_ratio"])
        self.norm_pix_loss = bool(config["norm_pix_loss"])

    # ---- what a family supplies -------------------------------------------------------------------------------------------------
    @abstractmethod
    def predict(self, images: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        """``(pred [B, M, p·p·3], hidden target patches [B, M])`` for ``images [B, 3, H, W]``."""

    @abstractmethod
    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        """Deterministic, unmasked features: ``[B, D]``, or with ``pool=False`` the tokens ``[B, N, D]`` in row-major order of the grid."""

    # ---- shared -----------------------------------------------------------------------------------------------------------------
    def targets(self, images: Tensor, index: Tensor) -> Tensor:
        """Raw pixels of the target patches ``index [B, M]`` → ``[B, M, p·p·3]`` in the family's pixel order."""
        patches = take_patches(images, index, self.target_patch)
        if self.channels_last_target:
            patches = patches.permute(0, 1, 3, 4, 2)
        return patches.flatten(2)

    def forward(self, images: Tensor, noise: Tensor) -> MaeOutput:
        """``images [B, 3, H, W]`` normalised, ``noise [B, L]``: the units with the smallest noise stay visible."""
        mask = draw_mask(noise, self.mask_ratio)
        pred, index = self.predict(images, mask)
        target = self.targets(images, index)
        wide = pred.dtype if pred.element_size() > 4 else torch.float32
        pred_wide, target = pred.to(wide), target.to(wide)
        if self.norm_pix_loss:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        return MaeOutput((pred_wide - target).square().mean(), pred, mask.hidden_map)

    def reconstruct(self, images: Tensor, noise: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in the space of ``images``: visible patches as they are, hidden ones as predicted.

        Under ``norm_pix_loss`` a prediction is un-normalised with the mean and deviation of its own true patch, so that the picture looks
        right.
        """
        pred, index = self.predict(images, draw_mask(noise, self.mask_ratio))
        pred = pred.to(images.dtype)
        if self.norm_pix_loss:
            mean, std = patch_statistics(self.targets(images, index))
            pred = pred * std + mean
        patch = self.target_patch
        if self.channels_last_target:
            patches = pred.unflatten(2, (patch, patch, 3)).permute(0, 1, 4, 2, 3)
        else:
            patches = pred.unflatten(2, (3, patch, patch))
        return put_patches(images, index, patches)

    def head_parameter_names(self) -> set[str]:
        """Everything outside the encoder: mask token, decoder, prediction."""
        return {name for name, _ in self.named_parameters() if not name.startswith("encoder.")}


def init_like_mae(module: nn.Module) -> None:
    """Xavier-uniform linear layers, zero biases, unit norms: the initialisation of MAE."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
