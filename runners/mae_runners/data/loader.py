"""Batches: workers that stay, pinned memory, prefetch sized from the memory there is, uint8 to the device."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from mae_runners.data.dataset import ImageDataset, log

CONTEXT = "fork"  # a fresh interpreter per worker costs seconds of imports; workers touch neither CUDA nor sockets
PREFETCH_SHARE = 0.1
MAX_PREFETCH = 8


def to_input(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 [B, 3, H, W] on any device → (x / 255 - mean) / std in ``dtype``; computed in float32, one multiply and one add."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(1, 3, 1, 1)
    shift = torch.tensor(
        [-m / s for m, s in zip(mean, std, strict=True)], device=images.device
    ).view(1, 3, 1, 1)
    if images.device.type != "cpu":
        return torch.addcmul(shift, images.float(), scale).to(dtype)
    out = torch.empty(images.shape, dtype=torch.float32)
    for picture, place in zip(
        images, out, strict=True
    ):  # one at a time its float copy stays in the processor's cache: half the time
        torch.addcmul(shift[0], picture.float(), scale[0], out=place)
    return out.to(dtype)


class ImageLoader(DataLoader[dict[str, Tensor]]):
    """A `DataLoader` that stops the run when too many images proved unreadable."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(self.dataset, ImageDataset):
                self.dataset.check_corrupt()
            yield batch


def build_loader(
    dataset: ImageDataset,
    sampler: Sampler[Any],
    batch_size: int,
    workers: int,
    *,
    pin_memory: bool | None = None,
    drop_last: bool = False,
    persistent: bool = True,
) -> DataLoader[dict[str, Tensor]]:
    """The loader of one rank.

    Args:
        dataset: what `build_dataset` gave.
        sampler: usually a `FunctionalSampler`; set its position before the first ``iter``.
        batch_size: images a batch.
        workers: processes beside this one; fewer are used when the machine has fewer cores or too little shared memory, said in the log.
        pin_memory: ``None`` = when CUDA is there.
        drop_last: leave out a last batch that is not full.
        persistent: keep the workers between epochs.
    """
    workers, prefetch = plan_workers(workers, batch_size * dataset.item_bytes)
    options: dict[str, Any] = {}
    if workers:
        options = {
            "multiprocessing_context": CONTEXT,
            "prefetch_factor": prefetch,
            "persistent_workers": persistent,
            "worker_init_fn": start_worker,
        }
    return ImageLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=dataset.collate,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        drop_last=drop_last,
        **options,
    )


def start_worker(worker: int) -> None:
    """One thread a worker: the parallelism is in their number."""
    import cv2

    if callable(signal.getsignal(signal.SIGTERM)) and hasattr(signal, "sigwaitinfo"):
        _heed_parent_only()

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _heed_parent_only() -> None:
    """The run handles SIGTERM and SIGUSR1 itself, so one sent to all its processes must not end its workers first; one from the run itself,
    which it sends when it ends, must."""
    numbers = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def wait() -> None:
        while signal.sigwaitinfo(numbers).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def plan_workers(workers: int, batch_bytes: int) -> tuple[int, int]:
    """How many workers, and how many batches each prepares ahead: within a tenth of the free memory and half of the shared memory."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if workers > cores:
        log.warning("%d data workers asked for, %d cores there: using %d", workers, cores, cores)
        workers = cores
    if workers <= 0:
        return 0, 0
    shared = shutil.disk_usage("/dev/shm").free // 2 if Path("/dev/shm").is_dir() else free_memory()
    room = min(int(free_memory() * PREFETCH_SHARE), shared)
    if room < 2 * batch_bytes:
        log.warning(
            "too little (shared) memory for data workers: loading in the main process; docker run --shm-size mends it"
        )
        return 0, 0
    workers = max(1, min(workers, room // (2 * batch_bytes)))
    return workers, max(2, min(MAX_PREFETCH, room // (workers * batch_bytes)))


def free_memory() -> int:
    """Bytes this process may still use: the machine's, or its control group's where that is less."""
    free = 4 << 30
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
            free = min(
                free, max(0, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
            )
    except (OSError, ValueError):
        pass
    return free
