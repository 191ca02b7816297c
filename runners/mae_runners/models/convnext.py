"""The ConvNeXt V2 encoder (Woo et al., arXiv 2301.00808): dense for images, and sparse for visible mask units.

Parameter names are timm's. A mask unit is 32×32 pixels, the total stride, so it is a square of 8, 4, 2, 1 cells in the four stages and the
visible count is the same for every sample. The sparse path holds **rows**: the visible cells only, ``[B·K·u·u, C]``, ordered (sample, unit,
row, column). Everything but the depthwise convolution works on rows; that one runs on the zero-filled grid. So masked positions are zero
wherever a neighbour could see them, and GRN is taken per sample over visible cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import (
    LayerNorm,
    LayerNorm2d,
    NormMlpClassifierHead,
    calculate_drop_path_rates,
    trunc_normal_,
)
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mae_runners.models.common import Backbone, run_block
from mae_runners.models.linear import linear
from mae_runners.models.masking import gather_rows, scatter_rows, take_patches

UNIT = 32  # pixels a side of a mask unit
STEM = 4
SMALL_MAP = (
    28 * 28
)  # cells; up to here a depthwise weight gradient is taken from whole maps on the CPU
LEAST_SIDE = 4  # cells; smaller units make more windows than work


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


def window_products(x: Tensor, grad: Tensor, layout: Layout, kernel: int) -> Tensor:
    """Weight gradient ``[C, 1, k, k]`` of a depthwise convolution whose output gradient is zero outside the visible units: each unit's
    gradient slides over the window of ``x [B, C, H, W]`` that the unit saw."""
    batch, height, width = layout.shape
    side, channels, pad = layout.side, x.shape[1], kernel // 2
    kernels = (
        grad.permute(0, 2, 3, 1)
        .reshape(batch * height * width, channels)
        .index_select(0, layout.index)
    )
    kernels = kernels.view(-1, side * side, channels).transpose(1, 2).reshape(-1, 1, side, side)
    first = layout.index.view(-1, side * side)[:, 0]  # the top left cell of each unit
    windows = (
        F.pad(x.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))
        .unfold(1, side + kernel - 1, side)
        .unfold(2, side + kernel - 1, side)
    )
    windows = windows[
        first // (height * width), first // width % height // side, first % width // side
    ]
    windows = windows.reshape(1, -1, side + kernel - 1, side + kernel - 1)
    return (
        F.conv2d(windows, kernels, groups=kernels.shape[0])
        .view(-1, channels, kernel, kernel)
        .sum(dim=0)
        .unsqueeze(1)
    )


class _DepthwiseOnCpu(torch.autograd.Function):
    """Stride-1 "same" depthwise convolution whose weight gradient is itself a convolution, image with gradient, one group per image and
    channel, or per visible unit and channel.

    PyTorch's own weight gradient takes most of a training step: 20.6 ms against 0.9 ms for [8, 768, 7, 7] on one core, 5.0 against 1.9 for
    [8, 384, 14, 14], 9.4 against 5.4 for [8, 192, 28, 28]; on [8, 96, 56, 56] it is the faster one for whole maps (21 against 30), and unit by
    unit takes 4.4 ms at mask ratio 0.75.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layout: Layout | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layout = layout
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        batch, channels, height, width = x.shape
        pad = weight.shape[-1] // 2
        grad_x = None
        if ctx.needs_input_grad[0]:
            # The transpose of a "same" convolution with an odd kernel is the convolution with the kernel turned by 180 degrees.
            grad_x = F.conv2d(grad, weight.flip(2, 3), padding=pad, groups=channels)
        if height * width > SMALL_MAP:
            grad_weight = window_products(x, grad, ctx.layout, weight.shape[-1])
        else:
            images = x.transpose(0, 1).reshape(1, channels * batch, height, width)
            kernels = grad.transpose(0, 1).reshape(channels * batch, 1, height, width)
            products = F.conv2d(images, kernels, padding=pad, groups=channels * batch)
            grad_weight = products.view(channels, batch, *weight.shape[2:]).sum(dim=1).unsqueeze(1)
        return grad_x, grad_weight, grad.sum(dim=(0, 2, 3)), None


class DepthwiseConv(nn.Conv2d):
    """7×7 depthwise convolution; in training on the CPU, with a faster weight gradient where there is one.

    ``layout``: says that the output is of use in its cells alone, so that no gradient comes from others.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 7, padding=3, groups=dim)

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        if torch.compiler.is_compiling():
            layout = None  # graphs hold tensors and numbers; whole maps need no more
        if (
            x.device.type == "cpu"
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and not torch.is_autocast_enabled("cpu")
            and (
                x.shape[2] * x.shape[3] <= SMALL_MAP
                or (layout is not None and layout.side >= LEAST_SIDE)
            )
        ):
            return _DepthwiseOnCpu.apply(x, self.weight, self.bias, layout)
        return super().forward(x)


class Block(ConvNeXtBlock):
    """Depthwise 7×7, LayerNorm, pointwise, GELU, GRN, pointwise; dense on ``[B, C, H, W]``, or on the rows of a layout."""

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
            return super().forward(x)
        batch, height, width = layout.shape
        grid = scatter_rows(x, layout.index, batch * height * width)
        y = self.conv_dw(grid.view(batch, height, width, -1).permute(0, 3, 1, 2), layout)
        y = gather_rows(y.permute(0, 2, 3, 1).reshape(batch * height * width, -1), layout.index)
        y = self.mlp.act(self.mlp.fc1(self.norm(y)))
        y = global_response(y.view(batch, -1, y.shape[-1]), self.mlp.grn)
        return x + self.mlp.fc2(y).view_as(x)


def _norm(x: Tensor) -> Tensor:
    """L2 norm of ``x [B, N, C]`` over N, kept. On the CPU PyTorch's own takes five to forty times as long as the sum of squares."""
    if x.device.type == "cpu" and x.element_size() >= 4:
        return x.square().sum(dim=1, keepdim=True).sqrt()
    return x.norm(p=2, dim=1, keepdim=True)


class _GlobalResponse(torch.autograd.Function):
    """GRN on ``[B, N, C]`` with a backward pass of three sweeps over the values; left to autograd it takes seven."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        response = _norm(x)
        level = response.mean(dim=-1, keepdim=True) + eps
        scale = torch.addcmul(torch.ones_like(weight), weight, response / level)
        ctx.save_for_backward(x, weight, response, level, scale)
        return torch.addcmul(bias, x, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, response, level, scale = ctx.saved_tensors
        by_scale = (grad * x).sum(dim=1, keepdim=True)
        by_ratio = by_scale * weight
        by_level = -(by_ratio * response).sum(dim=-1, keepdim=True) / level.square()
        by_response = by_ratio / level + by_level / x.shape[-1]
        # A channel that is zero everywhere has no direction: its norm has the subgradient 0.
        along = torch.where(
            response > 0, by_response / response.clamp_min(torch.finfo(x.dtype).tiny), 0.0
        )
        grad_x = torch.addcmul(grad * scale, x, along.to(x.dtype))
        return grad_x, (by_scale * response / level).sum(dim=(0, 1)), grad.sum(dim=(0, 1)), None


def global_response(x: Tensor, grn: nn.Module) -> Tensor:
    """GRN over the visible cells of each sample: ``x [B, N, C]``."""
    return _GlobalResponse.apply(x, grn.weight, grn.bias, grn.eps)


class Stage(nn.Module):
    """Blocks of one width, after a LayerNorm and a 2×2 convolution of stride 2 (not in the first stage)."""

    def __init__(self, dim_in: int, dim: int, drop_path: list[float]) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if dim_in != dim:
            self.downsample = nn.Sequential(
                LayerNorm2d(dim_in), nn.Conv2d(dim_in, dim, 2, stride=2)
            )
        self.blocks = nn.Sequential(*[Block(dim, drop_path=rate) for rate in drop_path])

    def downsample_rows(self, x: Tensor, side: int) -> Tensor:
        """The downsampling on rows of units of ``side × side`` cells: a 2×2 patch never leaves its unit."""
        if isinstance(self.downsample, nn.Identity):
            return x
        norm, conv = self.downsample
        x = rows_norm(norm, x).view(-1, side // 2, 2, side // 2, 2, x.shape[-1])
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4 * x.shape[-1])
        return linear(x, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias)


def rows_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """A channels-first LayerNorm applied to rows ``[R, C]``."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class ConvNextBackbone(Backbone):
    """ConvNeXt V2. Dense output ``[B, C, H/32, W/32]``.

    Args:
        num_classes: 0 leaves the head out.
    """

    def __init__(
        self, *, depths: tuple[int, ...], dims: tuple[int, ...], num_classes: int, drop_path: float
    ) -> None:
        super().__init__()
        self.depths, self.num_features = depths, dims[-1]
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], STEM, stride=STEM), LayerNorm2d(dims[0]))
        rates = calculate_drop_path_rates(drop_path, list(depths), stagewise=True)
        widths = (dims[0], *dims)
        self.stages = nn.ModuleList(Stage(widths[i], dims[i], rates[i]) for i in range(4))
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = NormMlpClassifierHead(dims[-1], num_classes, norm_layer=LayerNorm2d)
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
        pixels = (
            take_patches(images, visible, UNIT)
            .unflatten(4, (side, STEM))
            .unflatten(3, (side, STEM))
        )
        pixels = pixels.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 3 * STEM * STEM)
        conv, norm = self.stem
        x = rows_norm(norm, linear(pixels, conv.weight.flatten(1), conv.bias))
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
