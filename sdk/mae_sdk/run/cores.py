"""CPU cores shared by the jobs of one machine: each that starts is told how many threads leave room for the others.

Several jobs with as many threads each as there are cores do not run half as fast but many times slower: a thread that waits for its team
spins on a core that another job's thread needs. So waiting threads sleep, and a job that starts beside others gets its share of the cores.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mae_sdk import files

THREADS, WAITING = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"


class CoreShare:
    """This job among those that compute on the CPU now; it counts until `release`, or until its process ends.

    Args:
        processes: how many the job starts.
    """

    def __init__(self, processes: int = 1) -> None:
        self.folder = files.cache_home() / "cpu-jobs"
        self.processes = processes
        self.others = 0
        self.path = self.folder / str(os.getpid())
        self._held: int | None = None

    def join(self) -> CoreShare:
        """Count the processes of the jobs that run, and be counted by those that start later."""
        with files.locked(self.folder / ".lock"):
            self.others = sum(_live(path) for path in self.folder.iterdir() if path.name.isdigit())
            self._held = files.lock(self.path, wait=False)
            os.ftruncate(self._held, 0)
            os.write(self._held, str(self.processes).encode())
        return self

    def threads(self) -> int | None:
        """Threads for each process of this job; None where it is alone and one process, and takes what it likes."""
        together = self.others + self.processes
        if together == 1:
            return None
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        return max(1, cores // together)

    def settings(
        self, environment: Mapping[str, str], threads: int | None = None
    ) -> dict[str, str]:
        """Variables to add to `environment`; what the user set is left alone.

        Args:
            threads: of an earlier attempt, which a later one keeps so that it computes the same.
        """
        found = {} if WAITING in environment else {WAITING: "PASSIVE"}
        count = threads or self.threads()
        if count and THREADS not in environment:
            found[THREADS] = str(count)
        return found

    def release(self) -> None:
        """Count no longer."""
        if self._held is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._held)
            self._held = None


def _live(path: Path) -> int:
    """The number of processes of the job that holds the file; 0, and the file removed, where nobody does."""
    try:
        if files.in_use(path):
            return int(path.read_text() or "1")
        path.unlink(missing_ok=True)
    except OSError:
        pass
    return 0
