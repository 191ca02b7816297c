"""Linear layers by the faster of PyTorch's two CPU libraries.

PyTorch gives fp32 matrix products on the CPU to MKL, which leaves half of a processor with AVX-512 idle when Intel did not make it:
``[1568, 512] × [512, 2048]`` ran at 97 GFLOP/s a core on an AMD EPYC, and at 210 by oneDNN, which PyTorch ships for convolutions. The
arithmetic is the same: fp32 products summed in fp32, in another order. Everywhere else (GPUs, other types, autocast, tracing, compiling,
other processors) these layers are PyTorch's own.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parameter import Parameter

#: below this many multiplications the call costs more than the product
LEAST = 1 << 18
_PLAIN = (Tensor, Parameter)


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor with AVX-512 that MKL does not use in full, and PyTorch has oneDNN's linear layer."""
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
        and x.numel() * weight.shape[0] >= LEAST
        and onednn_is_faster()
        and torch.backends.mkldnn.enabled
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
