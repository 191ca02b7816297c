"""What the three masked autoencoders share: masking, loss, pictures, and the transformer decoder.

The method names are those of the papers' code: `random_masking`, `forward_encoder`,
`forward_decoder`, `forward_loss`, `forward`. A family (`vit_mae`, `fcmae`, `hiera_mae`) supplies an
encoder under ``self.encoder``, whose parameter names are timm's, and the two halves of the network.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from mae_skill.errors import SpecError
from timm.layers import Mlp
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from mae_runners.models.base import Backboned, Config
from mae_runners.models.kernels import linear
from mae_runners.models.masking import (
    Mask,
    patch_statistics,
    put_patches,
    random_masking,
    take,
    take_patches,
)
from mae_runners.models.refine import RefineOutput, Refiner


class MaeOutput(NamedTuple):
    """What a step returns.

    ``loss``: scalar, fp32 or wider. ``pred [B, M, p·p·C]``: the predicted target patches only.
    ``mask [B, L]``: True where a unit is hidden.
    """

    loss: Tensor
    pred: Tensor
    mask: Tensor


class MaskedAutoencoder(Backboned):
    """A masked autoencoder over mask units (He et al., arXiv 2111.06377, section 3).

    ``mask_ratio``: the share of units hidden. ``norm_pix_loss``: standardize each target patch by
    its own mean and unbiased variance + 1e-6. ``prediction_share``: of the hidden units, those that
    a training step predicts. ``refiner``: the heads of a run that refines a trained encoder.
    """

    #: target pixels in the order (p, p, C), as MAE and FCMAE predict them; Hiera predicts (C, p, p)
    channels_last_target: ClassVar[bool] = True

    num_units: int
    unit: int  # pixels per side of a mask unit
    target_patch: int  # pixels per side of a predicted patch

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.mask_ratio = float(config["mask_ratio"])
        self.norm_pix_loss = bool(config["norm_pix_loss"])
        self.prediction_share = float(config.get("decoder_prediction_share", 1.0))
        self.refiner: Refiner | None = None

    # ---- what a family supplies ----------------------------------------------------------------

    @abstractmethod
    def forward_encoder(self, images: Tensor, mask: Mask) -> Tensor:
        """The latent of the visible units of ``images [B, C, H, W]``."""

    @abstractmethod
    def forward_decoder(self, latent: Tensor, mask: Mask) -> Tensor:
        """``pred [B, M, p·p·C]`` of the hidden target patches, from `forward_encoder`'s latent."""

    @abstractmethod
    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        """Deterministic, unmasked features ``[B, D]``.

        With ``pool=False`` the tokens ``[B, N, D]``, in row-major order of the grid.
        """

    # ---- shared --------------------------------------------------------------------------------

    def random_masking(self, noise: Tensor) -> Mask:
        """The mask of ``noise [B, L]``: the units with the smallest noise stay visible, and all
        others are predicted."""
        return random_masking(noise, self.mask_ratio)

    def hidden_patches(self, mask: Mask) -> Tensor:
        """Row-major numbers of the target patches to predict, ``[B, M]``: one per such unit."""
        return mask.predicted

    def patchify(self, images: Tensor, index: Tensor) -> Tensor:
        """Pixels of the target patches ``index [B, M]``, in the family's order: ``[B, M, p·p·C]``.

        The papers' ``patchify`` takes all patches; the hidden ones are enough for the loss.
        """
        patches = take_patches(images, index, self.target_patch)  # [B, M, C, p, p]
        if self.channels_last_target:
            patches = patches.permute(0, 1, 3, 4, 2)  # [B, M, p, p, C]
        return patches.flatten(2)

    def forward_loss(self, images: Tensor, pred: Tensor, mask: Mask) -> Tensor:
        """Squared error averaged over the predicted patches (arXiv 2111.06377, section 3)."""
        # Under mixed precision the loss is still taken in fp32.
        return self._errors(images, pred, mask).mean()

    def _errors(self, images: Tensor, pred: Tensor, mask: Mask) -> Tensor:
        """The squared error of every number that is predicted, ``[B, M, p·p·3]``."""
        wide = pred.dtype if pred.element_size() > 4 else torch.float32
        target = self.patchify(images, self.hidden_patches(mask))  # [B, M, p·p·C]
        pred, target = pred.to(wide), target.to(wide)

        if self.norm_pix_loss:
            mean, std = patch_statistics(target)
            target = (target - mean) / std

        return (pred - target).square()

    def patch_losses(self, images: Tensor, noise: Tensor) -> Tensor:
        """``[B, H, W]``: at every hidden pixel the loss of its target patch, NaN at visible ones.

        The mean over hidden pixels of a batch is its loss.
        """
        mask = self.random_masking(noise)
        index = self.hidden_patches(mask)
        pred = self.forward_decoder(self.forward_encoder(images, mask), mask)
        losses = self._errors(images, pred, mask).mean(dim=-1)  # [B, M]

        patch = self.target_patch
        empty = torch.full_like(images[:, :1], torch.nan, dtype=losses.dtype)
        spread = losses[..., None, None, None].expand(-1, -1, 1, patch, patch)
        return put_patches(empty, index, spread)[:, 0]

    def forward(
        self, images: Tensor, noise: Tensor, views: Tensor | None = None
    ) -> MaeOutput | RefineOutput:
        """``images [B, C, H, W]`` normalized, ``noise [B, L]`` → loss, prediction and mask.

        Where the encoder is refined, ``views`` are other views of the same pictures, and the
        features of both are what is learned; nothing is masked.
        """
        if self.refiner is not None and views is not None:
            return RefineOutput(self.refiner(self.encode(torch.cat([images, views]))))
        share = self.prediction_share if self.training else 1.0
        mask = random_masking(noise, self.mask_ratio, share)
        latent = self.forward_encoder(images, mask)
        pred = self.forward_decoder(latent, mask)
        loss = self.forward_loss(images, pred, mask)

        return MaeOutput(loss, pred, mask.hidden_map)

    def reconstruct(self, images: Tensor, noise: Tensor, *, true_colors: bool = True) -> Tensor:
        """``[B, C, H, W]`` in the space of ``images``: visible patches kept, hidden ones predicted.

        Under ``norm_pix_loss`` a prediction lacks a mean and a deviation. With ``true_colors`` it
        gets those of its own true patch, which the model never saw: the picture looks right, and
        better than the model is. Without, all get the mean over the image's visible patches.
        """
        mask = self.random_masking(noise)
        index = self.hidden_patches(mask)
        pred = self.forward_decoder(self.forward_encoder(images, mask), mask).to(images.dtype)

        if self.norm_pix_loss:
            source = index if true_colors else self.hidden_patches(_swapped(mask))
            mean, std = patch_statistics(self.patchify(images, source))
            if not true_colors:
                mean, std = mean.mean(dim=1, keepdim=True), std.mean(dim=1, keepdim=True)
            pred = pred * std + mean

        patch = self.target_patch
        if self.channels_last_target:
            patches = pred.unflatten(2, (patch, patch, self.in_chans)).permute(0, 1, 4, 2, 3)
        else:
            patches = pred.unflatten(2, (self.in_chans, patch, patch))
        return put_patches(images, index, patches)

    def refine(self, config: Config) -> None:
        """Adds the heads of refining; the encoder's last ``config["blocks"]`` blocks and what comes
        after them stay trained, all else of the model is frozen.

        Raises:
            SpecError: there are not so many blocks.
        """
        blocks, wanted = self.encoder.blocks_in_order(), int(config["blocks"])
        if wanted > len(blocks):
            raise SpecError(
                "the encoder has fewer blocks",
                field="train.refine.blocks",
                got=wanted,
                expected=f"1 to {len(blocks)} for {self.arch}",
            )
        # Parameters are in the order of the network: all from the first such block on.
        learned, first = False, next(blocks[-wanted].parameters())
        for name, parameter in self.named_parameters():
            learned = learned or parameter is first
            parameter.requires_grad_(learned and name.startswith("encoder."))
        self.refiner = Refiner(int(self.encoder.num_features), config)

    def head_parameter_names(self) -> set[str]:
        """Everything outside the encoder: mask token, decoder, prediction."""
        return {name for name, _ in self.named_parameters() if not name.startswith("encoder.")}

    def output_parameter_names(self) -> set[str]:
        """The layers that predict pixels, a teacher's features or a view's projection."""
        answers = ("decoder_pred.", "pred.", "teacher_projector.", "refiner.")
        return {name for name, _ in self.named_parameters() if name.startswith(answers)}


def init_like_mae(module: nn.Module) -> None:
    """Xavier-uniform linear layers, zero biases, unit norms: the initialization of MAE."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


# ---- the transformer decoder of ViT-MAE and Hiera-MAE ------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, *, fused: bool) -> Tensor:
    """Scaled dot-product attention on ``[N, heads, tokens, head width]``.

    Plain matrix products when not ``fused``.
    """
    if fused:
        return F.scaled_dot_product_attention(q, k, v)

    weights: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return weights.softmax(dim=-1) @ v


def _swapped(mask: Mask) -> Mask:
    """The mask that hides what this one shows."""
    return Mask(mask.hidden, mask.visible, ~mask.hidden_map, mask.visible)


class DecoderBlock(Block):
    """timm's transformer block that can answer for some tokens only."""

    attn: Attention

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__(dim, num_heads, mlp_ratio, qkv_bias=True)

    # `decode` alone calls these blocks: they take tokens to answer for, not timm's masks.
    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """``x [B, N, D]`` → ``[B, N, D]``, or ``[B, M, D]`` for the tokens ``index [B, M]``.

        These still attend to all N. In the last block of a decoder only the hidden tokens are of
        use, so queries, projection and MLP of the others are left out.
        """
        if index is None:
            y: Tensor = super().forward(x)
            return y

        attn, width = self.attn, x.shape[-1]
        normed = self.norm1(x)
        weight, bias = attn.qkv.weight, attn.qkv.bias  # [3·D, D], [3·D]: queries, keys, values
        q = linear(take(normed, index), weight[:width], bias[:width])  # [B, M, D]
        k, v = linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)  # [B, N, D] each

        q, k, v = (
            part.unflatten(2, (attn.num_heads, attn.head_dim)).transpose(1, 2) for part in (q, k, v)
        )
        out = attend(q, k, v, fused=attn.fused_attn).transpose(1, 2).flatten(2)  # [B, M, D]

        x = take(x, index) + attn.proj(out)
        z: Tensor = x + self.mlp(self.norm2(x))
        return z


class CrossAttention(nn.Module):
    """Attention of some tokens to others: queries of width ``dim``, the others of width ``source``.

    CrossMAE (Fu et al., arXiv 2401.14391), section 3.3.
    """

    fused_attn = True

    def __init__(self, dim: int, source: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(source, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """``x [B, M, D]``, ``latent [B, K, D']`` → ``[B, M, D]``."""
        q, k, v = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(x), *self.kv(latent).chunk(2, dim=-1))
        )
        out: Tensor = self.proj(attend(q, k, v, fused=self.fused_attn).transpose(1, 2).flatten(2))
        return out


class CrossBlock(nn.Module):
    """A decoder block of CrossMAE: cross-attention and an MLP. No query sees another."""

    def __init__(self, dim: int, source: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = CrossAttention(dim, source, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """``x [B, M, D]``, ``latent [B, K, D']`` → ``[B, M, D]``."""
        x = x + self.attn(self.norm1(x), latent)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


def cross_blocks(config: Config, source: int) -> nn.ModuleList:
    """As `decoder_blocks`, of `CrossBlock` over an encoder's output of width ``source``."""
    return nn.ModuleList(
        CrossBlock(
            int(config["decoder_embed_dim"]),
            source,
            int(config["decoder_num_heads"]),
            float(config["decoder_mlp_ratio"]),
        )
        for _ in range(int(config["decoder_depth"]))
    )


def decoder_blocks(config: Config) -> nn.ModuleList:
    """The decoder's blocks as ``decoder_depth``, ``…_embed_dim``, ``…_num_heads`` … say."""
    return nn.ModuleList(
        DecoderBlock(
            int(config["decoder_embed_dim"]),
            int(config["decoder_num_heads"]),
            float(config["decoder_mlp_ratio"]),
        )
        for _ in range(int(config["decoder_depth"]))
    )


def decode(blocks: nn.ModuleList, x: Tensor, index: Tensor) -> Tensor:
    """``x [B, N, D]`` through ``blocks`` → the tokens ``index [B, M]`` of the last, ``[B, M,
    D]``."""
    for block in blocks[:-1]:
        x = block(x)
    last: Tensor = blocks[-1](x, index)
    return last


def mask_tokens(token: Tensor, rows: Tensor, count: int) -> Tensor:
    """``count`` mask tokens ``[1, 1, D]`` per sample of ``rows [B, …]``, in their type: ``[B,
    count, D]``."""
    return token.to(rows.dtype).expand(rows.shape[0], count, -1)
