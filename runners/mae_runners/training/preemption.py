"""SIGTERM and SIGUSR1 of a training process: checkpoint and exit 75.

Imports no torch, so that it can be installed before torch loads.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
AGAIN_SECONDS = 0.1
"""How long a signal waits that comes while a module is being loaded."""


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

    @property
    def came_early(self) -> bool:
        """Whether a signal came before anything was trained."""
        return self.flag and not self.training

    def release(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _raise_flag(self, number: int, frame: FrameType | None) -> None:
        self.flag = True
        if self.training:
            return
        if _is_importing(frame):
            again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        raise StoppedBeforeTraining


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being loaded. Libraries of C++ abort on an exception that is not theirs
    there, and others go on with half of what they imported.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
