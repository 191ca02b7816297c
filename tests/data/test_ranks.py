"""Two real processes under DDP's process group see every sample exactly once an epoch."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from tests.support.augment import augmentation
from tests.support.images import write_flat
from tests.support.s3 import free_port


def _rank(rank: int, port: int, folder: str, queue) -> None:  # type: ignore[no-untyped-def]
    import torch.distributed as dist
    from mae_runners.data import FunctionalSampler, build_dataset, build_loader

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    data = build_dataset(
        folder,
        train=True,
        stage="pretrain",
        augmentation=augmentation(hflip=0.5),
        seed=1,
        num_units=16,
    )
    sampler = FunctionalSampler(len(data), 1, rank, 2)
    loader = build_loader(data, sampler, 3, 1)
    for epoch in range(2):
        sampler.set_place(epoch)
        mine = [
            (int(i), bool(v), n.sum().item())
            for b in loader
            for i, v, n in zip(b["index"], b["valid"], b["noise"], strict=True)
        ]
        everyone: list[list[tuple[int, bool, float]]] = [[], []]
        dist.all_gather_object(everyone, mine)
        if rank == 0:
            queue.put(everyone)
    dist.destroy_process_group()


@pytest.mark.parametrize("count", [10, 11])
def test_two_processes_see_every_sample_once_and_with_masks_of_their_own(
    count: int, tmp_path: Path
) -> None:
    write_flat(tmp_path / "f", count)
    context = multiprocessing.get_context("fork")
    queue, port = context.Queue(), free_port()
    ranks = [
        context.Process(target=_rank, args=(rank, port, str(tmp_path / "f"), queue))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    epochs = [queue.get(timeout=60) for _ in range(2)]
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    for one, two in epochs:
        assert len(one) == len(two)
        seen = [index for index, valid, _ in one + two if valid]
        assert sorted(seen) == list(range(count))
        assert len({mask for _, valid, mask in one + two if valid}) == count
    assert [index for index, _, _ in epochs[0][0]] != [index for index, _, _ in epochs[1][0]]
