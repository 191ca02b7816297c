"""Faster ways to compute what PyTorch computes too, most of them for CPUs. No network is here.

=====================  =========================================================================
kernel                 its plain PyTorch equivalent, to the rounding of a sum
=====================  =========================================================================
`linear`               ``F.linear``
`depthwise_conv`       `plain_depthwise_conv`, where the output gradient is zero outside ``layout``
`global_response`      `plain_global_response`
`scatter_rows`         `plain_scatter_rows`
`gather_rows`          `plain_gather_rows`
`sum_over_ranks`       itself: it is the only one, and the identity for one rank
=====================  =========================================================================

``tests/models/test_kernels.py`` holds each to its equivalent, forward and backward.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parameter import Parameter

#: multiplications below which the call to oneDNN costs more than the product
MIN_PRODUCTS = 1 << 18
#: cells up to which a depthwise weight gradient is taken from whole maps
SMALL_MAP = 28 * 28
#: cells per side; smaller mask units make more windows than work
MIN_SIDE = 4

_PLAIN = (Tensor, Parameter)


# ---- linear layers by oneDNN -------------------------------------------------------------------
#
# PyTorch gives fp32 matrix products on the CPU to MKL, which leaves half of a processor with
# AVX-512 idle when Intel did not make it: [1568, 512] x [512, 2048] ran at 97 GFLOP/s a core on an
# AMD EPYC, and at 210 by oneDNN, which PyTorch ships for convolutions. The arithmetic is the same:
# fp32 products summed in fp32, in another order. Everywhere else (GPUs, other types, autocast,
# tracing, compiling, other processors) these layers are PyTorch's own.


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor with AVX-512 that MKL does not use in full, and PyTorch has
    oneDNN's linear layer."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():
        return False
    if not torch.backends.mkldnn.is_available() or "Intel" in processor():
        return False
    try:
        probe = _product(torch.ones(2, 3), torch.full((4, 3), 2.0), torch.ones(4))
    except (
        AttributeError,
        RuntimeError,
        TypeError,
    ):  # the operator is not part of PyTorch's public interface
        return False
    return torch.equal(probe, torch.full((2, 4), 7.0))


def processor() -> str:
    """The processor's vendor and model, as far as the system tells."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        return " ".join(
            line
            for line in table.read_text().splitlines()[:10]
            if line.startswith(("vendor_id", "model name"))
        )
    return platform.processor()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x [M, K] · weightᵀ [N, K] + bias`` by oneDNN; strides of the weight are free."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows, grads = x.flatten(0, -2), grad.flatten(0, -2)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grads, weight.t(), None).view(x.shape)
        if ctx.needs_input_grad[1]:
            # The left factor is copied to be contiguous: let it be the narrower one.
            if x.shape[-1] < grad.shape[-1]:
                grad_weight = _product(rows.t(), grads.t(), None).t()
            else:
                grad_weight = _product(grads.t(), rows.t(), None)
        if ctx.needs_input_grad[2]:
            grad_bias = grads.sum(dim=0)
        return grad_x, grad_weight, grad_bias


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
        and x.numel() * weight.shape[0] >= MIN_PRODUCTS
        and onednn_is_faster()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, by oneDNN where that is faster."""
    if not torch.compiler.is_compiling() and not torch.jit.is_tracing() and _by_onednn(x, weight):
        y: Tensor = _OneDnnLinear.apply(x, weight, bias)
        return y
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear`` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def speed_up(model: nn.Module) -> None:
    """Every ``nn.Linear`` inside ``model`` as a `Linear`: same parameters, same names."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


# ---- depthwise convolution ---------------------------------------------------------------------


class Layout(NamedTuple):
    """Where the visible cells of a stage lie.

    ``cells [R]``: their places in the flattened grid ``[B·H·W]``, unit by unit. ``shape = (B, H,
    W)``. ``side``: cells per side of a mask unit.
    """

    cells: Tensor
    shape: tuple[int, int, int]
    side: int


def window_products(x: Tensor, grad: Tensor, layout: Layout, kernel: int) -> Tensor:
    """Weight gradient ``[C, 1, k, k]`` of a depthwise convolution, from the visible units alone.

    The output gradient is zero outside them. Each unit's gradient slides over the window of ``x [B,
    C, H, W]`` that the unit saw.
    """
    batch, height, width = layout.shape
    side, channels, pad = layout.side, x.shape[1], kernel // 2
    kernels = (
        grad.permute(0, 2, 3, 1)
        .reshape(batch * height * width, channels)
        .index_select(0, layout.cells)
    )
    kernels = kernels.view(-1, side * side, channels).transpose(1, 2).reshape(-1, 1, side, side)
    first = layout.cells.view(-1, side * side)[:, 0]  # the top left cell of each unit
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
    """Stride-1 "same" depthwise convolution whose weight gradient is itself a convolution, image
    with gradient, one group per image and channel, or per visible unit and channel.

    PyTorch's own weight gradient takes most of a training step: 20.6 ms against 0.9 ms for [8, 768,
    7, 7] on one core, 5.0 against 1.9 for [8, 384, 14, 14], 9.4 against 5.4 for [8, 192, 28, 28];
    on [8, 96, 56, 56] it is the faster one for whole maps (21 against 30), and unit by unit takes
    4.4 ms at mask ratio 0.75.
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
            # The transpose of a "same" convolution with an odd kernel is the convolution with the
            # kernel turned by 180 degrees.
            grad_x = F.conv2d(grad, weight.flip(2, 3), padding=pad, groups=channels)
        if height * width > SMALL_MAP:
            grad_weight = window_products(x, grad, ctx.layout, weight.shape[-1])
        else:
            images = x.transpose(0, 1).reshape(1, channels * batch, height, width)
            kernels = grad.transpose(0, 1).reshape(channels * batch, 1, height, width)
            products = F.conv2d(images, kernels, padding=pad, groups=channels * batch)
            grad_weight = products.view(channels, batch, *weight.shape[2:]).sum(dim=1).unsqueeze(1)
        return grad_x, grad_weight, grad.sum(dim=(0, 2, 3)), None


def plain_depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise "same" convolution: ``x [B, C, H, W]``, ``weight [C, 1, k, k]``."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor, layout: Layout | None = None) -> Tensor:
    """`plain_depthwise_conv`; in training on the CPU with a faster weight gradient, where one is.

    ``layout``: says that the output is of use in its cells alone: no gradient comes from others.
    """
    if torch.compiler.is_compiling():
        layout = None  # graphs hold tensors and numbers; whole maps need no more

    faster = (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and weight.requires_grad
        and not torch.is_autocast_enabled("cpu")
        and (
            x.shape[2] * x.shape[3] <= SMALL_MAP or (layout is not None and layout.side >= MIN_SIDE)
        )
    )
    if not faster:
        return plain_depthwise_conv(x, weight, bias)

    y: Tensor = _DepthwiseOnCpu.apply(x, weight, bias, layout)
    return y


# ---- global response normalization -------------------------------------------------------------


def _norm(x: Tensor) -> Tensor:
    """L2 norm of ``x [B, N, C]`` over N, kept. On the CPU PyTorch's own takes five to forty times
    as long as the sum of squares."""
    if x.device.type == "cpu" and x.element_size() >= 4:
        return x.square().sum(dim=1, keepdim=True).sqrt()
    norm: Tensor = x.norm(p=2, dim=1, keepdim=True)
    return norm


class _GlobalResponse(torch.autograd.Function):
    """GRN on ``[B, N, C]`` with a backward pass of three sweeps over the values; left to autograd
    it takes seven."""

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


def global_response(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GRN (arXiv 2301.00808, section 3.2) of ``x [B, N, C]`` over N."""
    y: Tensor = _GlobalResponse.apply(x, weight, bias, eps)
    return y


def plain_global_response(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`global_response` as the paper writes it (algorithm 1), the residual included."""
    response: Tensor = x.norm(p=2, dim=1, keepdim=True)  # [B, 1, C]
    response = response / (response.mean(dim=-1, keepdim=True) + eps)

    return x + bias + weight * (x * response)


# ---- rows of a grid ----------------------------------------------------------------------------


class _Scatter(torch.autograd.Function):
    """Rows into a zero grid. The rows are unique, so the gradient is a plain gather: no atomic
    adds."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(index)
        return rows.new_zeros(size, rows.shape[1]).index_copy_(0, index, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return grads[0].contiguous().index_select(0, index), None, None


class _Gather(torch.autograd.Function):
    """Rows of a grid. The rows are unique, so the gradient is a plain scatter."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = grid.shape[0]
        return grid.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        grad = grads[0].contiguous()
        return grad.new_zeros(ctx.size, grad.shape[1]).index_copy_(0, index, grad), None


def scatter_rows(rows: Tensor, index: Tensor, size: int) -> Tensor:
    """``rows [R, C]`` at the unique positions ``index [R]`` of a zero grid ``[size, C]``."""
    grid: Tensor = _Scatter.apply(rows, index, size)
    return grid


def gather_rows(grid: Tensor, index: Tensor) -> Tensor:
    """Rows of ``grid [S, C]`` at the unique positions ``index [R]`` → ``[R, C]``."""
    rows: Tensor = _Gather.apply(grid, index)
    return rows


def plain_scatter_rows(rows: Tensor, index: Tensor, size: int) -> Tensor:
    """`scatter_rows` by indexing."""
    return rows.new_zeros(size, rows.shape[1]).index_put((index,), rows)


def plain_gather_rows(grid: Tensor, index: Tensor) -> Tensor:
    """`gather_rows` by indexing."""
    return grid[index]


# ---- sums over ranks ---------------------------------------------------------------------------


class _Sum(torch.autograd.Function):
    """Every rank's result depends on every rank's value alike, so the gradients are summed as the
    values are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of ``x`` over all ranks, on each of them; differentiable."""
    total: Tensor = _Sum.apply(x)
    return total
