"""Devices shared by the jobs of one machine: one OS lock each, which ends with the supervisor that holds it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mae_sdk import files


class Reservation:
    """Reserve `count` of `devices`.

    Args:
        devices: names as in ``CUDA_VISIBLE_DEVICES``.
        count: how many of them.
    """

    def __init__(self, devices: Sequence[object], count: int) -> None:
        self.folder = files.cache_home() / "devices"
        self.devices = [str(device) for device in devices]
        self.count = min(count, len(self.devices))
        self.held: dict[str, int] = {}

    def wait(self, cancelled: Callable[[], bool], beat: Callable[[], None]) -> list[str] | None:
        """Wait until enough are free; None when cancelled first. All or none are held, so that two jobs never wait for each other."""
        beaten = time.monotonic()
        while not cancelled():
            if self._take():
                return list(self.held)
            time.sleep(0.2)
            if time.monotonic() - beaten > 10:
                beaten = time.monotonic()
                beat()
        return None

    def _take(self) -> bool:
        for device in self.devices:
            name = "".join(c if c.isalnum() or c in "-_" else "_" for c in device)
            try:
                self.held[device] = files.lock(self.folder / f"{name}.lock", wait=False)
            except BlockingIOError:
                continue
            if len(self.held) == self.count:
                return True
        self.release()
        return False

    def release(self) -> None:
        """Let go of all."""
        for descriptor in self.held.values():
            os.close(descriptor)
        self.held.clear()


def visible_gpus() -> list[str]:
    """The NVIDIA devices of this machine that ``CUDA_VISIBLE_DEVICES`` leaves, by the names it takes. No driver call is made."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    names = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name for name in names if name.isdigit()), key=int)
