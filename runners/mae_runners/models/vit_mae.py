"""ViT and its masked autoencoder.

He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377; the names are those
of facebookresearch/mae, ``models_mae.py``. The encoder is timm's `VisionTransformer`.

B images, L patches of which K are visible and M hidden, D the width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_runners.models.base import Config, run_block, transformer_layer_id
from mae_runners.models.kernels import linear
from mae_runners.models.mae import (
    MaeOutput,
    MaskedAutoencoder,
    cross_blocks,
    decode,
    decoder_blocks,
    init_like_mae,
    mask_tokens,
)
from mae_runners.models.masking import Mask, put, random_masking, take, take_patches
from mae_runners.models.position import TEMPERATURE, sincos_2d
from mae_runners.models.refine import RefineOutput

if TYPE_CHECKING:
    from mae_runners.models.teacher import FrozenTeacher


class VitBackbone(VisionTransformer):
    """timm's ViT with a class token. Tokens ``[B, 1 + L, D]``, patches in row-major order.

    Args:
        pool: ``avg`` (mean of the patch tokens, then ``fc_norm``) or ``token`` (``norm``, then the
            class token).
        channels: of an image.
    """

    cls_token: nn.Parameter
    pos_embed: nn.Parameter

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
        pool: Literal["avg", "token"],
        drop_path: float,
        channels: int = 3,
    ) -> None:
        super().__init__(
            img_size=input_size,
            in_chans=channels,
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

    def start_like_mae(self) -> None:
        """Initial weights of the MAE paper (A.1): Xavier-uniform layers, a sine-cosine table."""
        init_like_mae(self.blocks)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.zeros_(self.patch_embed.proj.bias)
        nn.init.normal_(self.cls_token, std=0.02)
        table = sincos_2d(self.num_features, self.grid, class_token=True)
        self.pos_embed.data.copy_(table)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Outputs of blocks 3, 5, 7, 11 of 12 (scaled for other depths), all ``[B, D, H/p,
        W/p]``."""
        depth = len(self.blocks)
        taps = [max(1, depth * share // 12) - 1 for share in (4, 6, 8, 12)]
        unique = sorted(set(taps))
        outputs = self.forward_intermediates(images, indices=unique, intermediates_only=True)
        maps = dict(zip(unique, cast("list[Tensor]", outputs), strict=True))
        return [maps[tap] for tap in taps]


def embed_patches(projection: nn.Conv2d, patches: Tensor) -> Tensor:
    """A patch convolution as a matrix product: ``[B, K, C, p, p]`` → ``[B, K, D]``."""
    return linear(patches.flatten(2), projection.weight.flatten(1), projection.bias)


def embed_visible(encoder: VitBackbone, images: Tensor, visible: Tensor) -> Tensor:
    """The class token and the patches ``visible [B, K]``, with their positions: ``[B, 1 + K, D]``.

    Only these patches are embedded: the patch convolution as a matrix product.
    """
    patch = int(encoder.patch_embed.patch_size[0])
    x = embed_patches(encoder.patch_embed.proj, take_patches(images, visible, patch))
    table = encoder.pos_embed  # [1, 1 + L, D]
    x = x + take(table[:, 1:].expand(x.shape[0], -1, -1), visible)  # [B, K, D]

    cls_token = (encoder.cls_token + table[:, :1]).expand(x.shape[0], -1, -1)
    return torch.cat([cls_token.to(x.dtype), x], dim=1)  # [B, 1 + K, D]


class VitMae(MaskedAutoencoder):
    """The encoder sees the visible patches and a class token; a light decoder sees all positions
    and predicts the hidden patches.

    Parameter names follow facebookresearch/mae, with the encoder's under ``encoder.``. Both
    position tables are fixed sine-cosine tables. With ``decoder_type`` ``cross`` the decoder is
    CrossMAE's: the hidden patches that it predicts attend to the encoder's output.

    With ``teacher`` in its config (``width`` and ``digest`` of one, ``layer`` of this encoder,
    ``weight``) a linear layer brings the output of block ``layer`` to the teacher's width; in
    training, once `set_teacher` has given it one, the teacher's features are learned beside the
    pixels (DMAE, arXiv 2208.12256).
    """

    encoder: VitBackbone
    teacher_projector: nn.Linear | None
    decoder_embed: nn.Linear | None

    def __init__(self, encoder: VitBackbone, config: Config) -> None:
        super().__init__(config)
        self.encoder = encoder
        patch = int(encoder.patch_embed.patch_size[0])
        self.unit = self.target_patch = patch
        self.num_units = encoder.grid[0] * encoder.grid[1]
        width = int(config["decoder_embed_dim"])
        self.crosses = config.get("decoder_type") == "cross"
        self.decoder_embed = None if self.crosses else nn.Linear(encoder.num_features, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(self._table(width), requires_grad=False)
        self.decoder_blocks = (
            cross_blocks(config, encoder.num_features) if self.crosses else decoder_blocks(config)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, patch * patch * self.in_chans)
        self._initialize()
        self.learned: dict[str, Any] = dict(config.get("teacher") or {})
        self.teacher_projector = None
        self._teacher: FrozenTeacher | None = None
        if self.learned:  # last, so that the rest starts as it does without a teacher
            self.teacher_projector = nn.Linear(encoder.num_features, int(self.learned["width"]))
            init_like_mae(self.teacher_projector)

    def _table(self, width: int) -> Tensor:
        """A position table of the encoder's grid. With another base than the papers' the part that
        is the same at every place is left out."""
        base = float(self.config.get("position_temperature", TEMPERATURE))
        table = sincos_2d(width, self.encoder.grid, class_token=True, temperature=base)
        if base != TEMPERATURE:
            table[:, 1:] -= table[:, 1:].mean(dim=1, keepdim=True)
        return table

    def _initialize(self) -> None:
        init_like_mae(self)
        projection = self.encoder.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.data.flatten(1))
        nn.init.zeros_(projection.bias)
        nn.init.normal_(self.encoder.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        self.encoder.pos_embed = nn.Parameter(
            self._table(self.encoder.num_features),
            requires_grad=False,
        )

    def forward_encoder(self, images: Tensor, mask: Mask) -> Tensor:
        """Normalized tokens of the class token and the visible patches: ``[B, 1 + K, D]``."""
        return self._encode(images, mask)[0]

    def _encode(self, images: Tensor, mask: Mask) -> tuple[Tensor, Tensor | None]:
        """What `forward_encoder` returns, and the visible patches ``[B, K, D]`` after the block
        that learns from a teacher, where there is one."""
        encoder, seen = self.encoder, None
        x = embed_visible(encoder, images, mask.visible)
        for number, block in enumerate(encoder.blocks, start=1):
            x = run_block(encoder, block, x)
            if self.learned and number == self.learned["layer"]:
                seen = x[:, 1:]
        normed: Tensor = encoder.norm(x)
        return normed, seen

    def set_teacher(self, teacher: FrozenTeacher) -> None:
        """Lets training steps learn from ``teacher``, which is no part of this module: it is not
        trained, saved, averaged or sent to other ranks."""
        self._teacher = teacher

    def forward(
        self, images: Tensor, noise: Tensor, views: Tensor | None = None
    ) -> MaeOutput | RefineOutput:
        """As `MaskedAutoencoder.forward`; a training step adds the teacher's loss."""
        if self._teacher is None or not self.training:
            return super().forward(images, noise, views)
        mask = random_masking(noise, self.mask_ratio, self.prediction_share)
        latent, seen = self._encode(images, mask)
        pred = self.forward_decoder(latent, mask)
        assert seen is not None
        loss = self.forward_loss(images, pred, mask)
        loss = loss + float(self.learned["weight"]) * self._teacher_loss(images, seen, mask)
        return MaeOutput(loss, pred, mask.hidden_map)

    def _teacher_loss(self, images: Tensor, seen: Tensor, mask: Mask) -> Tensor:
        """Mean absolute error of the projected features of the visible patches (DMAE, section 3).

        The teacher's are standardized over their channels, so that a weight means the same for
        every teacher.
        """
        assert self._teacher is not None and self.teacher_projector is not None
        target = self._teacher.features(images, mask)  # [B, K, D of the teacher]
        learned = self.teacher_projector(seen)
        wide = learned.dtype if learned.element_size() > 4 else torch.float32
        target = F.layer_norm(target.to(wide), target.shape[-1:])
        return F.l1_loss(learned.to(wide), target)

    def forward_decoder(self, latent: Tensor, mask: Mask) -> Tensor:
        """``latent [B, 1 + K, D]`` → the patches to predict ``[B, M, p·p·C]``."""
        if self.decoder_embed is None:
            return self._cross_decoder(latent, mask)
        x = self.decoder_embed(latent)
        body = put(mask_tokens(self.mask_token, x, self.num_units), mask.visible, x[:, 1:])
        x = torch.cat([x[:, :1], body], dim=1) + self.decoder_pos_embed  # [B, 1 + L, D']

        x = decode(self.decoder_blocks, x, mask.hidden + 1)  # [B, M, D']; token 0 is the class
        pred: Tensor = self.decoder_pred(self.decoder_norm(x))
        return pred

    def _cross_decoder(self, latent: Tensor, mask: Mask) -> Tensor:
        """`forward_decoder` of CrossMAE: a query for each patch, a mask token at its place."""
        table = self.decoder_pos_embed[:, 1:].expand(latent.shape[0], -1, -1)
        x = self.mask_token + take(table, mask.predicted)  # [B, M, D']
        for block in self.decoder_blocks:
            x = block(x, latent)
        pred: Tensor = self.decoder_pred(self.decoder_norm(x))
        return pred

    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        tokens: Tensor = self.encoder.forward_features(images)[:, 1:]  # without the class token
        return tokens.mean(dim=1) if pool else tokens
