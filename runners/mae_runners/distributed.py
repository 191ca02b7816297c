"""Adding up over ranks, for actions that only need sums and files (no training strategy)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def process_group(context: Any) -> Iterator[None]:
    """A CPU process group of all ranks while inside; nothing when there is one rank."""
    if context.world_size == 1:
        yield
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=context.rank, world_size=context.world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def add_up(context: Any, tensor: Tensor) -> Tensor:
    """The sum of a CPU tensor over ranks, on every rank."""
    if context.world_size > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def gather(context: Any, value: Any) -> list[Any]:
    """Every rank's `value`, in rank order, on rank 0; ``[]`` elsewhere."""
    if context.world_size == 1:
        return [value]
    found: list[Any] | None = [None] * context.world_size if context.rank == 0 else None
    torch.distributed.gather_object(value, found, dst=0)
    return found or []
