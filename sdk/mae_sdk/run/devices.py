"""What the jobs of one machine share: GPUs, one at a time, and CPU cores, divided.

GPUs: one lock of the operating system each, which ends with the supervisor that holds it.

Cores: each job that starts learns how many threads leave room for the others. Several jobs with as
many threads each as there are cores do not run half as fast but many times slower: a thread that
waits for its team spins on a core that another job's thread needs. So waiting threads sleep, and a
job that starts beside others gets its share of the cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mae_sdk import files

THREADS, WAITING = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"
_BEAT_SECONDS = 10.0


class Reservation:
    """Reserve `count` of `devices`.

    Args:
        devices: names as in ``CUDA_VISIBLE_DEVICES``.
        count: how many of them.
    """

    def __init__(self, devices: Sequence[object], count: int) -> None:
        self.devices = [str(device) for device in devices]
        self.count = min(count, len(self.devices))
        self.held: dict[str, files.Lock] = {}

    @property
    def folder(self) -> Path:
        """Where the locks are; named when it is needed, since a user may have no home."""
        return files.cache_home() / "devices"

    def wait(self, canceled: Callable[[], bool], beat: Callable[[], None]) -> list[str] | None:
        """Wait until enough are free; None when canceled first.

        All or none are held, so that two jobs never wait for each other.
        """
        last_beat = time.monotonic()
        while not canceled():
            if self._take():
                return list(self.held)

            time.sleep(0.2)
            if time.monotonic() - last_beat > _BEAT_SECONDS:
                last_beat = time.monotonic()
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
        """Give all of them back."""
        for held in self.held.values():
            held.close()
        self.held.clear()


class CoreShare:
    """This job among those that compute on the CPU now, until `release` or the process's end.

    Args:
        processes: how many the job starts.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        self.others = 0
        self.path = Path()
        self._held: files.Lock | None = None

    @property
    def folder(self) -> Path:
        """Where the jobs of this machine are counted."""
        return files.cache_home() / "cpu-jobs"

    def join(self) -> CoreShare:
        """Count the processes of the jobs that run, and be counted by those that start later.

        Raises:
            OSError: there is no cache folder that can be written.
        """
        with files.locked(self.folder / ".lock"):
            jobs = [path for path in self.folder.iterdir() if path.name.isdigit()]
            self.others = sum(_live_processes(path) for path in jobs)

            self.path = self.folder / str(os.getpid())
            self._held = files.lock(self.path, wait=False)
            os.ftruncate(self._held.descriptor, 0)
            os.write(self._held.descriptor, str(self.processes).encode())
        return self

    def threads(self) -> int | None:
        """Threads per process of this job; None (the library's default) for one process alone."""
        together = self.others + self.processes
        return None if together == 1 else max(1, cpu_cores() // together)

    def settings(
        self, environment: Mapping[str, str], threads: int | None = None
    ) -> dict[str, str]:
        """Variables to add to `environment`; what the user set is left alone.

        Args:
            threads: of an earlier attempt, which a later one keeps so that it computes the same.
        """
        added = {} if WAITING in environment else {WAITING: "PASSIVE"}
        count = threads or self.threads()
        if count and THREADS not in environment:
            added[THREADS] = str(count)
        return added

    def release(self) -> None:
        """Count no longer."""
        if self._held is not None:
            self.path.unlink(missing_ok=True)
            self._held.close()
            self._held = None


def _live_processes(path: Path) -> int:
    """The processes of the job that holds the file; 0, and the file removed, where nobody does."""
    try:
        if files.in_use(path):
            return int(path.read_text() or "1")
        path.unlink(missing_ok=True)
    except OSError:
        pass
    return 0


def visible_gpus() -> list[str]:
    """The NVIDIA devices that ``CUDA_VISIBLE_DEVICES`` leaves, by the names it takes.

    No driver call is made.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    names = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name for name in names if name.isdigit()), key=int)


def gpu_model() -> str | None:
    """The name of the first GPU from the driver's files; None where they do not tell."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None


def cpu_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_mb() -> int | None:
    """Main memory of this machine in MiB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
