"""ConvNeXt V2 and its fully convolutional masked autoencoder (FCMAE).

Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", arXiv
2301.00808; the names are those of facebookresearch/ConvNeXt-V2, ``fcmae.py``, and timm's for
blocks.

The encoder runs dense on images, and sparse on visible mask units, without a sparse-convolution
library. A mask unit is 8×8 cells of the stem (32×32 pixels at the paper's stride of 4), so it is a
square of 8, 4, 2, 1 cells in the four stages, and the visible count is the same for every sample.
The sparse path holds **rows**: the visible cells only, ``[B·K·u·u, C]``, ordered (sample, unit,
row, column). Everything but the depthwise convolution works on rows; that one runs on the
zero-filled grid. So masked positions are zero wherever a neighbor could see them, and GRN is taken
per sample over visible cells.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import (
    GlobalResponseNormMlp,
    LayerNorm,
    LayerNorm2d,
    NormMlpClassifierHead,
    calculate_drop_path_rates,
)
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from mae_runners.models.base import Backbone, Config, init_truncated, run_block
from mae_runners.models.kernels import (
    Layout,
    depthwise_conv,
    gather_rows,
    global_response,
    linear,
    scatter_rows,
)
from mae_runners.models.mae import MaskedAutoencoder, mask_tokens
from mae_runners.models.masking import Mask, put, take, take_patches

SIDE = 8  # cells per side of a mask unit after the stem: the three downsamplings leave one


def stage_layout(visible: Tensor, units: tuple[int, int], side: int) -> Layout:
    """Layout of the units ``visible [B, K]`` of a ``units`` grid when a unit is ``side × side``
    cells."""
    batch = visible.shape[0]
    height, width = units[0] * side, units[1] * side
    cell = torch.arange(side, device=visible.device)
    top = (visible // units[1]) * side
    left = (visible % units[1]) * side
    sample = torch.arange(batch, device=visible.device) * (height * width)
    rows = (top[:, :, None] + cell) * width + sample[:, None, None]
    index = rows[:, :, :, None] + (left[:, :, None] + cell)[:, :, None, :]
    return Layout(index.flatten(), (batch, height, width), side)


class DepthwiseConv(nn.Conv2d):
    """7×7 depthwise convolution; ``layout``: see `kernels.depthwise_conv`."""

    bias: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 7, padding=3, groups=dim)

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        return depthwise_conv(x, self.weight, self.bias, layout)


class Block(ConvNeXtBlock):
    """Depthwise 7×7, LayerNorm, pointwise, GELU, GRN, pointwise; dense on ``[B, C, H, W]``, or on
    the rows of a layout."""

    mlp: GlobalResponseNormMlp

    def __init__(self, dim: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__(
            dim,
            dim,
            mlp_ratio=mlp_ratio,
            use_grn=True,
            ls_init_value=None,
            norm_layer=LayerNorm,
            drop_path=drop_path,
        )
        self.conv_dw = DepthwiseConv(dim)

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        if layout is None:
            dense: Tensor = super().forward(x)
            return dense
        batch, height, width = layout.shape
        grid = scatter_rows(x, layout.cells, batch * height * width)
        y = self.conv_dw(grid.view(batch, height, width, -1).permute(0, 3, 1, 2), layout)
        y = gather_rows(y.permute(0, 2, 3, 1).reshape(batch * height * width, -1), layout.cells)
        y = self.mlp.act(self.mlp.fc1(self.norm(y)))
        grn = self.mlp.grn
        y = global_response(y.view(batch, -1, y.shape[-1]), grn.weight, grn.bias, grn.eps)
        rows: Tensor = x + self.mlp.fc2(y).view_as(x)
        return rows


class Stage(nn.Module):
    """Blocks of one width, after a LayerNorm and a 2×2 convolution of stride 2 (not in the first
    stage)."""

    def __init__(self, dim_in: int, dim: int, drop_path: list[float]) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if dim_in != dim:
            self.downsample = nn.Sequential(
                LayerNorm2d(dim_in), nn.Conv2d(dim_in, dim, 2, stride=2)
            )
        self.blocks = nn.Sequential(*[Block(dim, drop_path=rate) for rate in drop_path])

    def downsample_rows(self, x: Tensor, side: int) -> Tensor:
        """The downsampling on rows of units of ``side × side`` cells: a 2×2 patch never leaves its
        unit."""
        if isinstance(self.downsample, nn.Identity):
            return x
        norm, conv = cast("tuple[LayerNorm2d, nn.Conv2d]", self.downsample)
        x = rows_norm(norm, x).view(-1, side // 2, 2, side // 2, 2, x.shape[-1])
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4 * x.shape[-1])
        return linear(x, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias)


def rows_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A channels-first LayerNorm applied to rows ``[R, C]``."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class ConvNextBackbone(Backbone):
    """ConvNeXt V2 with a stem of stride s. Dense output ``[B, C, H/8s, W/8s]``.

    Args:
        patch: pixels per side of a cell after the stem, s; 4 in the paper.
        num_classes: 0 leaves the head out.
        channels: of an image.
    """

    def __init__(
        self,
        *,
        patch: int,
        depths: tuple[int, ...],
        dims: tuple[int, ...],
        num_classes: int,
        drop_path: float,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.depths, self.num_features = depths, dims[-1]
        self.patch, self.unit = patch, SIDE * patch
        self.stem = nn.Sequential(
            nn.Conv2d(channels, dims[0], patch, stride=patch), LayerNorm2d(dims[0])
        )
        rates = cast(
            "list[list[float]]",
            calculate_drop_path_rates(drop_path, list(depths), stagewise=True),
        )
        widths = (dims[0], *dims)
        self.stages = nn.ModuleList(Stage(widths[i], dims[i], rates[i]) for i in range(4))
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = NormMlpClassifierHead(dims[-1], num_classes, norm_layer=LayerNorm2d)
        init_truncated(self, nn.Conv2d, nn.Linear)

    def start_in_proportion(self) -> None:
        """Initial weights by the number of values that a layer sums: Xavier-uniform linear layers,
        convolutions of deviation 1/√n. The paper's 0.02 is for wide layers and hundreds of
        thousands of steps: where a block sums 40 values, it is near nothing for hundreds of them.
        """
        for part in (*self.stem.modules(), *self.stages.modules()):
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
            elif isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)

    def in_order(self) -> list[Stage]:
        """The stages, finest first."""
        return cast("list[Stage]", list(self.stages))

    def blocks_in_order(self) -> list[nn.Module]:
        """All blocks, first to last."""
        return [block for stage in self.in_order() for block in stage.blocks]

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """Output of each stage, ``[B, C_i, H/s_i, W/s_i]`` with strides s, 2s, 4s, 8s."""
        x = self.stem(images).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.in_order():
            x = stage.downsample(x)
            for block in stage.blocks:
                x = run_block(self, block, x)
            maps.append(x)
        return maps

    def pyramid(self, images: Tensor) -> list[Tensor]:
        return self.stage_maps(images)

    def forward_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` → ``[B, C, H/8s, W/8s]``."""
        return self.stage_maps(images)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, norm and (unless ``pre_logits``) classify."""
        out: Tensor = self.head(x, pre_logits=True) if pre_logits else self.head(x)
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """The units ``visible [B, K]`` alone → ``[B, K, C]``; equals the dense network with masked
        cells set to zero after every block."""
        unit, patch, side = self.unit, self.patch, SIDE
        units = (images.shape[2] // unit, images.shape[3] // unit)
        pixels = (
            take_patches(images, visible, unit)
            .unflatten(4, (side, patch))
            .unflatten(3, (side, patch))
        )
        pixels = pixels.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, self.channels * patch * patch)

        conv, norm = cast("tuple[nn.Conv2d, LayerNorm2d]", self.stem)
        x = rows_norm(norm, linear(pixels, conv.weight.flatten(1), conv.bias))
        for stage in self.in_order():
            if not isinstance(stage.downsample, nn.Identity):
                x, side = stage.downsample_rows(x, side), side // 2
            layout = stage_layout(visible, units, side)
            for block in stage.blocks:
                x = run_block(self, block, x, layout)
        return x.view(images.shape[0], -1, x.shape[-1])

    def head_names(self) -> tuple[str, ...]:
        """Parameters of the linear classifier."""
        return ("head.fc.weight", "head.fc.bias")

    def head_layer(self) -> nn.Module:
        """The linear classifier."""
        return self.head.get_submodule("fc")

    def layer_id(self, name: str) -> tuple[int, int]:
        """The published rules of ConvNeXt V2: 12 groups for the deep models (27 blocks in stage 2),
        one id per block for the others."""
        grouped = self.depths[2] >= 27
        layers = 13 if grouped else sum(self.depths) + 1
        if name.startswith("stem."):
            return (0 if grouped else 1), layers
        if not name.startswith("stages."):
            return layers, layers
        parts = name.split(".")
        stage = int(parts[1])
        block = int(parts[3]) if parts[2] == "blocks" else 0
        if not grouped:
            return sum(self.depths[:stage]) + block + 1, layers
        return (stage + 1, stage + 1, 3 + block // 3, 12)[stage], layers


class FcMae(MaskedAutoencoder):
    """A sparse ConvNeXt V2 encoder and a decoder of dense ConvNeXt blocks on the grid of mask units
    (u = 32 pixels per side at the paper's stride of 4).

    Parameter names follow facebookresearch/ConvNeXt-V2 (``proj``, ``mask_token``, ``decoder``,
    ``pred``), blocks as timm names them.
    """

    encoder: ConvNextBackbone

    def __init__(self, encoder: ConvNextBackbone, config: Config) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.unit = self.target_patch = unit = encoder.unit
        self.units = (self.input_size[0] // unit, self.input_size[1] // unit)
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
        self.pred = nn.Linear(width, unit * unit * self.in_chans)
        for part in (self.proj, self.decoder, self.pred):
            init_truncated(part, nn.Conv2d, nn.Linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward_encoder(self, images: Tensor, mask: Mask) -> Tensor:
        """The visible units alone: ``[B, K, D]``."""
        return self.encoder.forward_visible(images, mask.visible)

    def forward_decoder(self, latent: Tensor, mask: Mask) -> Tensor:
        """``latent [B, K, D]`` → the hidden units ``[B, M, u·u·C]``."""
        x = self.proj(latent)
        x = put(mask_tokens(self.mask_token, x, self.num_units), mask.visible, x)  # [B, L, D']

        x = self.decoder(x.view(x.shape[0], *self.units, -1).permute(0, 3, 1, 2))  # [B, D', h, w]
        x = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, L, D']

        pred: Tensor = self.pred(take(x, mask.hidden))
        return pred

    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        x = self.encoder.forward_features(images)
        if not pool:
            return x.flatten(2).transpose(1, 2)
        return x.mean(dim=(2, 3))
