"""The processes of one run: what they add up, tell each other and agree on."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mae_skill.errors import StorageError, UsageError
from torch import Tensor, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from mae_runners.context import RunContext, environment_number

TIMEOUT_VARIABLE = "MAE_NODES_TIMEOUT"
"""Seconds that a rank waits for the others to come."""

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


def meet(context: RunContext, backend: str) -> None:
    """Connect the ranks of a run as torch's default group; nothing where there is one rank.

    torch itself waits half an hour without a word, and no signal ends it. Here the ranks gather in
    a store that rank 0 keeps, and each says for whom it waits.

    Raises:
        UsageError: the port of rank 0 is taken.
        StorageError: not all have come in ``MAE_NODES_TIMEOUT`` seconds (600).
    """
    if context.world_size == 1 or dist.is_initialized():
        return
    place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    waiting = _Waiting(context, place)
    store = _store_of(context, place, waiting)
    arrived = PrefixStore(f"mae/{os.environ.get('MAE_ATTEMPT', '1')}", store)
    try:
        arrived.set(str(context.rank), "here")
        while missing := [r for r in range(context.world_size) if not arrived.check([str(r)])]:
            waiting.pause(missing)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise StorageError(
            "rank 0 went away before all ranks had come", got=f"{place[0]}:{place[1]}"
        ) from error
    # From here on a slow rank is waited for as torch waits; groups made later use the store too.
    store.set_timeout(timedelta(minutes=30))
    dist.init_process_group(
        backend,
        store=PrefixStore("ranks", arrived),
        rank=context.rank,
        world_size=context.world_size,
        device_id=context.device if backend == "nccl" else None,
    )
    if backend == "nccl":  # which warns at the end of a process that did not leave its group
        atexit.register(_leave_group)


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _store_of(context: RunContext, place: tuple[str, int], waiting: _Waiting) -> TCPStore:
    """The store of rank 0; torchrun keeps it itself."""
    keeps = context.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    while True:
        while not keeps and not _listens(place):
            waiting.pause([0])
        try:
            # A connection that does not come gives up soon, so that signals are seen.
            return TCPStore(
                *place, is_master=keeps, wait_for_workers=False, timeout=timedelta(seconds=1)
            )
        except (dist.DistNetworkError, dist.DistStoreError, RuntimeError) as error:
            if keeps:
                raise UsageError(
                    "rank 0 cannot listen for the other ranks",
                    field="MASTER_PORT",
                    got=f"{place[0]}:{place[1]}",
                    expected="a free port of this machine",
                    hint=str(error).splitlines()[0][:200],
                ) from None
            waiting.pause([0])


def _listens(place: tuple[str, int]) -> bool:
    """Whether anything takes connections there: a store that asks in vain prints a traceback of C++
    before it says so, as if the run had failed."""
    try:
        with socket.create_connection(place, timeout=1):
            return True
    except OSError:  # nobody there yet, or no such name yet
        return False


def _seconds_alive() -> float:
    """Since this process was started."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds since the machine's start
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


class _Waiting:
    """Says for whom a rank waits, and ends the wait."""

    def __init__(self, context: RunContext, place: tuple[str, int]) -> None:
        self.context, self.place = context, place
        self.failure = context.results_dir / "error.json"
        self.born = time.time() - _seconds_alive()
        self.limit = float(environment_number(TIMEOUT_VARIABLE, 600))
        self.began = time.monotonic()
        self.next_word = self.began + 2.0

    def pause(self, missing: Sequence[int]) -> None:
        """Wait a moment for these ranks.

        Raises:
            StorageError: the time is over.
            ConnectionError: one of them has failed, and says so in the results folder.
        """
        with contextlib.suppress(FileNotFoundError):
            if self.failure.stat().st_mtime >= self.born:
                raise ConnectionError("connection closed by peer: another rank has failed")
        now = time.monotonic()
        host, port = self.place
        shown = ", ".join(map(str, missing[:16])) + (" …" if len(missing) > 16 else "")
        who = f"rank{'s' if len(missing) > 1 else ''} {shown} of {self.context.world_size}"
        if now - self.began >= self.limit:
            raise StorageError(
                f"{who} did not come to {host}:{port} in {self.limit:g} s",
                field="WORLD_SIZE",
                got=self.context.world_size,
                expected="the same command on every node, each with its NODE_RANK",
                hint=f"start them, correct WORLD_SIZE, or wait longer: {TIMEOUT_VARIABLE}=SECONDS",
            )
        if now >= self.next_word and self.context.local_rank == 0:
            self.next_word = now + 30.0
            print(
                f"rank {self.context.rank} waits at {host}:{port} for {who}, at most "
                f"{self.limit - (now - self.began):.0f} s more",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(0.1)


@contextmanager
def connected(context: RunContext) -> Iterator[Ranks]:
    """The ranks of an action without a training strategy, connected while inside."""
    if context.world_size == 1:
        yield Ranks(context)
        return
    meet(context, "gloo")
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
