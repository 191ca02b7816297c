"""SIGTERM and SIGUSR1 of a training process: stop, keep what there is to keep, exit 75. Imports no torch, so that it stands before it."""

from __future__ import annotations

import signal
import threading
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StoppedBeforeTraining(BaseException):
    """A signal came before anything was trained. No `Exception`: no handler of ordinary errors on the way may swallow it."""


class Preemption:
    """While a run is being set up a signal ends it at once: there is nothing to save. From `begin` on it raises a flag, and the ranks
    agree on it where all of them are at the same place. Outside the main thread no signal is taken."""

    def __init__(self) -> None:
        self.flag = False
        self.training = False
        self.group: Any = None
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._raise_flag) for number in SIGNALS}

    def begin(self) -> None:
        """From here on a signal waits until the loop is where a checkpoint can be taken."""
        self.training = True

    def release(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _raise_flag(self, number: int, frame: Any) -> None:
        self.flag = True
        if not self.training:
            raise StoppedBeforeTraining

    def agree(self, values: list[float] | None = None) -> tuple[bool, list[float]]:
        """(does any rank want to stop, the sums of `values` over ranks). A gloo group on the host: the GPU is not waited for."""
        values = values or []
        if self.group is None:
            return self.flag, values
        import torch
        import torch.distributed as dist

        packed = torch.tensor([float(self.flag), *values], dtype=torch.float64)
        dist.all_reduce(packed, group=self.group)
        return bool(packed[0] > 0), packed[1:].tolist()

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, in the order of ranks."""
        if self.group is None:
            return [value]
        import torch.distributed as dist

        out: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(out, value, group=self.group)
        return out
