"""Devices shared by the jobs of one machine: one OS lock each, which ends with the supervisor that holds it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class Reservation:
    """Reserve `count` of `devices`.

    Args:
        devices: names as in ``CUDA_VISIBLE_DEVICES``.
        count: how many of them.
    """

    def __init__(self, devices: Sequence[object], count: int) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.folder = Path(base) / "mae" / "devices"
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
        self.folder.mkdir(parents=True, exist_ok=True)
        for device in self.devices:
            name = "".join(c if c.isalnum() or c in "-_" else "_" for c in device)
            descriptor = os.open(
                self.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                continue
            self.held[device] = descriptor
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
