"""Batch normalisation that sees the whole batch: over ranks on any device, and with a map of one value."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """Every rank's result depends on every rank's value alike, so the gradients are summed as the values are."""

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


class BatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with statistics over all ranks (`torch.nn.SyncBatchNorm` is for GPUs alone, and this is for processes on CPUs too).

    Segmentation trains with few images a device, and statistics of two images are noise: so they are summed over ranks, and n ranks of
    b images give what one rank of n·b gives. Gradient accumulation does not widen them. Where a channel has a single value (one image
    and a 1×1 map) there is no variance: there the running statistics stand in and are left as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if not self.training or x.numel() // x.shape[1] * ranks == 1:
            # Sharded training may hold weight and bias in half precision; the statistics never are.
            assert self.running_mean is not None
            weight, bias = (
                self.weight.to(self.running_mean.dtype),
                self.bias.to(self.running_mean.dtype),
            )
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, weight, bias, False, 0.0, self.eps
            )
        return super().forward(x) if ranks == 1 else self._over_ranks(x)

    def _over_ranks(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            own = values.new_tensor([values.numel() // values.shape[1]])
            total = sum_over_ranks(torch.cat([values.sum(dim=(0, 2, 3)), own]))
            count = total[-1].detach()
            mean = total[:-1] / count
            centred = values - mean[:, None, None]
            variance = sum_over_ranks(centred.square().sum(dim=(0, 2, 3))) / count
            scale = self.weight.float() * (variance + self.eps).rsqrt()
            with torch.no_grad():
                assert (
                    self.running_mean is not None
                    and self.running_var is not None
                    and self.num_batches_tracked is not None
                )
                momentum = float(self.momentum or 0.0)
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(
                    (variance * count / (count - 1)).to(self.running_var.dtype), momentum
                )
            return (centred * scale[:, None, None] + self.bias.float()[:, None, None]).to(x.dtype)
