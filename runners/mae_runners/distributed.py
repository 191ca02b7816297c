"""The processes of one run: what they add up, tell each other and agree on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from mae_runners.context import RunContext

T = TypeVar("T")


class Ranks:
    """All ranks of a run. They meet on the host (gloo), so that no GPU has to be waited for.

    Every rank must make the same calls in the same order; with one rank all answers are its own.

    Args:
        group: a gloo group of all ranks; None = the default group, or a single rank.
    """

    def __init__(self, context: RunContext, group: Any = None) -> None:
        self.rank, self.world_size, self.group = context.rank, context.world_size, group

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The sum of a CPU tensor over ranks, in place; on every rank."""
        if self.world_size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def agree_to_stop(self, wanted: bool, values: Sequence[float] = ()) -> tuple[bool, list[float]]:
        """(does any rank want to stop, the sums of `values` over ranks), in one exchange."""
        packed = torch.tensor([float(wanted), *values], dtype=torch.float64)
        stops, *sums = self.sum_over_ranks(packed).tolist()
        return stops > 0, sums

    def gather(self, value: T) -> list[T]:
        """`value` of every rank, in rank order; on every rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def gather_on_first(self, value: T) -> list[T]:
        """`value` of every rank, in rank order, on rank 0; ``[]`` elsewhere."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, gathered, dst=0, group=self.group)
        return gathered or []


@contextmanager
def connected(context: RunContext) -> Iterator[Ranks]:
    """The ranks of an action without a training strategy, connected while inside."""
    if context.world_size == 1:
        yield Ranks(context)
        return
    dist.init_process_group("gloo", rank=context.rank, world_size=context.world_size)
    try:
        yield Ranks(context)
    finally:
        dist.destroy_process_group()


def is_sharded(bare: nn.Module) -> bool:
    """Whether each rank holds only a part of the parameters (FSDP)."""
    return isinstance(bare, FSDPModule)


def call(bare: nn.Module, name: str, *args: Any, **options: Any) -> Any:
    """``bare.name(*args)`` of a model that may be sharded.

    Sharded weights are gathered for it: there all ranks must call it, with batches of their own.
    """
    if is_sharded(bare) and name not in vars(bare):
        register_fsdp_forward_method(bare, name)
    return getattr(bare, name)(*args, **options)
