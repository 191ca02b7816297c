"""The ConvNeXt V2 encoder (Woo et al., arXiv 2301.00808): dense for images, and sparse for visible mask units.

Parameter names are timm's. A mask unit is 32×32 pixels, the total stride, so it is a square of 8, 4, 2, 1 cells in the four stages and the
visible count is the same for every sample. The sparse path holds **rows**: the visible cells only, ``[B·K·u·u, C]``, ordered (sample, unit,
row, column). Everything but the depthwise convolution works on rows; that one runs on the zero-filled grid. So masked positions are zero
wherever a neighbour could see them, and GRN is taken per sample over visible cells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, LayerNorm2d, NormMlpClassifierHead, calculate_drop_path_rates, trunc_normal_
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from .common import Backbone, run_block
from .masking import gather_rows, scatter_rows, take_patches

UNIT = 32  # pixels a side of a mask unit
STEM = 4


class Layout(NamedTuple):
    """Where the rows of a stage lie: ``index [R]`` into the flattened grid ``[B·H·W]``; ``shape = (B, H, W)``; ``side`` cells a unit."""

    index: Tensor
    shape: tuple[int, int, int]
    side: int


def stage_layout(visible: Tensor, units: tuple[int, int], side: int) -> Layout:
    """Layout of the units ``visible [B, K]`` of a ``units`` grid when a unit is ``side × side`` cells."""
    batch = visible.shape[0]
    height, width = units[0] * side, units[1] * side
    cell = torch.arange(side, device=visible.device)
    top = (visible // units[1]) * side
    left = (visible % units[1]) * side
    sample = torch.arange(batch, device=visible.device) * (height * width)
    rows = (top[:, :, None] + cell) * width + sample[:, None, None]
    index = rows[:, :, :, None] + (left[:, :, None] + cell)[:, :, None, :]
    return Layout(index.flatten(), (batch, height, width), side)


class Block(ConvNeXtBlock):
    """Depthwise 7×7, LayerNorm, pointwise, GELU, GRN, pointwise; dense on ``[B, C, H, W]``, or on the rows of a layout."""

    def __init__(self, dim: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__(dim, dim, mlp_ratio=mlp_ratio, use_grn=True, ls_init_value=None, norm_layer=LayerNorm, drop_path=drop_path)

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        if layout is None:
            return super().forward(x)
        batch, height, width = layout.shape
        grid = scatter_rows(x, layout.index, batch * height * width)
        y = self.conv_dw(grid.view(batch, height, width, -1).permute(0, 3, 1, 2))
        y = gather_rows(y.permute(0, 2, 3, 1).reshape(batch * height * width, -1), layout.index)
        y = self.mlp.act(self.mlp.fc1(self.norm(y)))
        y = global_response(y.view(batch, -1, y.shape[-1]), self.mlp.grn)
        return x + self.mlp.fc2(y).view_as(x)


def global_response(x: Tensor, grn: nn.Module) -> Tensor:
    """GRN over the visible cells of each sample: ``x [B, N, C]``."""
    response = x.norm(p=2, dim=1, keepdim=True)
    scale = response / (response.mean(dim=-1, keepdim=True) + grn.eps)
    return torch.addcmul(grn.bias, x, 1 + grn.weight * scale)


class Stage(nn.Module):
    """Blocks of one width, after a LayerNorm and a 2×2 convolution of stride 2 (not in the first stage)."""

    def __init__(self, dim_in: int, dim: int, drop_path: list[float]) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if dim_in != dim:
            self.downsample = nn.Sequential(LayerNorm2d(dim_in), nn.Conv2d(dim_in, dim, 2, stride=2))
        self.blocks = nn.Sequential(*[Block(dim, drop_path=rate) for rate in drop_path])

    def downsample_rows(self, x: Tensor, side: int) -> Tensor:
        """The downsampling on rows of units of ``side × side`` cells: a 2×2 patch never leaves its unit."""
        if isinstance(self.downsample, nn.Identity):
            return x
        norm, conv = self.downsample
        x = rows_norm(norm, x).view(-1, side // 2, 2, side // 2, 2, x.shape[-1])
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4 * x.shape[-1])
        return F.linear(x, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias)


def rows_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """A channels-first LayerNorm applied to rows ``[R, C]``."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class ConvNextBackbone(Backbone):
    """ConvNeXt V2. Dense output ``[B, C, H/32, W/32]``.

    Args:
        num_classes: 0 leaves the head out.
        pool: ``avg`` or ``max`` over positions, before the head's norm.
    """

    def __init__(self, *, depths: tuple[int, ...], dims: tuple[int, ...], num_classes: int, pool: str, drop_path: float) -> None:
        super().__init__()
        self.depths, self.num_features = depths, dims[-1]
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], STEM, stride=STEM), LayerNorm2d(dims[0]))
        rates = calculate_drop_path_rates(drop_path, list(depths), stagewise=True)
        widths = (dims[0], *dims)
        self.stages = nn.ModuleList(Stage(widths[i], dims[i], rates[i]) for i in range(4))
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = NormMlpClassifierHead(dims[-1], num_classes, pool_type=pool, norm_layer=LayerNorm2d)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def blocks_in_order(self) -> list[nn.Module]:
        """All blocks, first to last."""
        return [block for stage in self.stages for block in stage.blocks]

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """Output of each stage, ``[B, C_i, H/s_i, W/s_i]`` with strides 4, 8, 16, 32."""
        x = self.stem(images).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stages:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = run_block(self, block, x)
            maps.append(x)
        return maps

    def pyramid(self, images: Tensor) -> list[Tensor]:
        return self.stage_maps(images)

    def forward_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` → ``[B, C, H/32, W/32]``."""
        return self.stage_maps(images)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool, norm and (unless ``pre_logits``) classify."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """The units ``visible [B, K]`` alone → ``[B, K, C]``; equals the dense network with masked cells set to zero after every block."""
        units = (images.shape[2] // UNIT, images.shape[3] // UNIT)
        side = UNIT // STEM
        pixels = take_patches(images, visible, UNIT).unflatten(4, (side, STEM)).unflatten(3, (side, STEM))
        pixels = pixels.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 3 * STEM * STEM)
        conv, norm = self.stem
        x = rows_norm(norm, F.linear(pixels, conv.weight.flatten(1), conv.bias))
        for stage in self.stages:
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
        return self.head.fc

    def layer_id(self, name: str) -> tuple[int, int]:
        """The published rules of ConvNeXt V2: 12 groups for the deep models (27 blocks in stage 2), one id a block for the others."""
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
