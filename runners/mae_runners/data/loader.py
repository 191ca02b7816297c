"""Batches: persistent workers, pinned memory, prefetch sized from the free memory, uint8 to the
device."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from mae_skill.archs import per_channel
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from mae_runners.data.dataset import KeyedDataset, log

# A fresh interpreter per worker costs seconds of imports; workers touch neither CUDA nor sockets.
CONTEXT = "fork"
PREFETCH_SHARE = 0.1  # of the free memory
MAX_PREFETCH = 8


def to_input(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 or float32 [B, C, H, W] in 0 … 255 on any device → (x / 255 - mean) / std in
    ``dtype``; computed in float32, one multiply and one add."""
    mean, std = per_channel(mean, images.shape[1]), per_channel(std, images.shape[1])
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(1, -1, 1, 1)
    shift = torch.tensor(
        [-m / s for m, s in zip(mean, std, strict=True)], device=images.device
    ).view(1, -1, 1, 1)
    if images.device.type != "cpu":
        return torch.addcmul(shift, images.float(), scale).to(dtype)

    out = torch.empty(images.shape, dtype=torch.float32)
    # One at a time, its float copy stays in the processor's cache: half the time.
    for image, target in zip(images, out, strict=True):
        torch.addcmul(shift[0], image.float(), scale[0], out=target)
    return out.to(dtype)


class ImageLoader(DataLoader[dict[str, Tensor]]):
    """A `DataLoader` that stops the run when too many images are unreadable."""

    # A generator, where torch promises its own iterator class.
    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(self.dataset, KeyedDataset):
                self.dataset.check_corrupt()
            yield batch


def build_loader(
    dataset: KeyedDataset,
    sampler: Sampler[Any],
    batch_size: int,
    workers: int,
    *,
    persistent: bool = True,
) -> DataLoader[dict[str, Tensor]]:
    """The loader of one rank.

    Args:
        dataset: what `build_dataset` gave.
        sampler: usually a `FunctionalSampler`; set its position before the first ``iter``.
        batch_size: images per batch.
        workers: processes beside this one; fewer are used when the machine has fewer cores or too
            little shared memory, with a warning in the log.
        persistent: keep the workers between epochs.
    """
    workers, prefetch = plan_workers(workers, batch_size * dataset.item_bytes)
    options: dict[str, Any] = {}
    if workers:
        options = {
            "multiprocessing_context": CONTEXT,
            "prefetch_factor": prefetch,
            "persistent_workers": persistent,
            "worker_init_fn": functools.partial(start_worker, parent=os.getpid()),
        }
    return ImageLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=dataset.collate,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


LOOK_SECONDS = 5.0
"""How often a worker looks whether its run is still there."""


def start_worker(worker: int, *, parent: int) -> None:
    """One thread per worker: the parallelism is in their number.

    Args:
        parent: the process of the run.
    """
    _follow(parent)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _follow(parent: int) -> None:
    """Ends this worker with its run, and at a SIGTERM or SIGUSR1 from its run, and at no other.

    The run handles both signals itself, so one sent to all its processes must not end its workers
    first; the one that the run sends to them when it ends must. PyTorch's own watch takes whoever
    is the parent when a worker begins: of a run that was killed while it started its workers that
    is the system, and the worker stayed for ever.
    """
    numbers: set[signal.Signals] = set()
    if callable(signal.getsignal(signal.SIGTERM)) and hasattr(signal, "sigtimedwait"):
        numbers = {signal.SIGTERM, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def wait() -> None:
        while os.getppid() == parent:
            if not numbers:
                time.sleep(LOOK_SECONDS)
                continue
            told = signal.sigtimedwait(numbers, LOOK_SECONDS)
            if told is not None and told.si_pid == parent:
                break
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def plan_workers(workers: int, batch_bytes: int) -> tuple[int, int]:
    """How many workers, and how many batches each prepares ahead: within a tenth of the free memory
    and half of the shared memory."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if workers > cores:
        log.warning("%d data workers on %d cores: using %d", workers, cores, cores)
        workers = cores
    if workers <= 0:
        return 0, 0
    shared = shutil.disk_usage("/dev/shm").free // 2 if Path("/dev/shm").is_dir() else free_memory()
    budget = min(int(free_memory() * PREFETCH_SHARE), shared)
    if budget < 2 * batch_bytes:
        log.warning(
            "too little (shared) memory for data workers: loading in the main process; "
            "docker run --shm-size fixes it"
        )
        return 0, 0

    workers = max(1, min(workers, budget // (2 * batch_bytes)))
    return workers, max(2, min(MAX_PREFETCH, budget // (workers * batch_bytes)))


def free_memory() -> int:
    """Bytes this process may still use: the machine's, or its control group's where that is
    less."""
    free = 4 << 30  # where the system does not say
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration, ValueError):
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return free
