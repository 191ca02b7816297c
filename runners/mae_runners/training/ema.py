"""The moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class WeightAverage:
    """Exponential moving average of the trained parameters: ema ← decay · ema + (1 − decay) · live.

    The running statistics of batch normalization belong to the weights that made them, so they are
    averaged too.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        parameters = [p.detach() for p in module.parameters() if p.requires_grad]
        statistics = [
            buffer
            for name, buffer in module.named_buffers()
            if name.endswith((".running_mean", ".running_var"))
        ]
        # Of sharded weights each rank averages its own part.
        local = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
        self.live: list[Tensor] = [*local, *statistics]
        self.shadow = [tensor.clone() for tensor in self.live]

    @torch.no_grad()
    def take(self) -> None:
        """Starts anew from the live values."""
        for live, shadow in zip(self.live, self.shadow, strict=True):
            shadow.copy_(live)

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self.shadow, self.live, 1.0 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges live and averaged values in place; called twice it is the identity."""
        for live, shadow in zip(self.live, self.shadow, strict=True):
            kept = live.clone()
            live.copy_(shadow)
            shadow.copy_(kept)


@contextmanager
def averaged(average: WeightAverage | None) -> Iterator[None]:
    """The averaged weights in the model's place while inside, where there are any."""
    if average is None:
        yield
        return
    average.swap()
    try:
        yield
    finally:
        average.swap()
