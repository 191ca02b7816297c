"""SIGTERM and SIGUSR1 of a training process: checkpoint and exit 75.

Imports no torch, so that it can be installed before torch loads.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StoppedBeforeTraining(BaseException):
    """A signal came before anything was trained.

    No `Exception`: no handler of ordinary errors on the way may swallow it.
    """


class Preemption:
    """Watches for the signals of a scheduler that wants its machine back.

    While a run is being set up a signal ends it at once: there is nothing to save. From `begin` on
    it raises a flag, on which the ranks agree where all of them are at the same place
    (`Ranks.agree_to_stop`). Outside the main thread no signal is taken.
    """

    def __init__(self) -> None:
        self.flag = False
        self.training = False
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

    def _raise_flag(self, number: int, frame: FrameType | None) -> None:
        self.flag = True
        if not self.training:
            raise StoppedBeforeTraining
