"""Samplers, masks, mixup and batches: nothing depends on workers, every sample once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.data import (
    FunctionalSampler,
    Mixup,
    build_dataset,
    build_loader,
    soft_targets,
    to_input,
)
from mae_runners.data import loader as loader_module
from mae_skill.errors import DataError

from tests.support.augment import augmentation
from tests.support.images import write_flat, write_imagefolder

RANDOM = {
    "min_scale": 0.2,
    "hflip": 0.5,
    "auto_aug": "rand-m9-mstd0.5-inc1",
    "re_prob": 0.5,
    "interpolation": "random",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imagefolder(
        tmp_path_factory.mktemp("images"), 3, 5, size=48, kind="photos", suffix=".jpg"
    )


def dataset(folder: Path, **changed: Any) -> Any:
    options: dict[str, Any] = {
        "train": True,
        "stage": "finetune",
        "augmentation": augmentation(**RANDOM),
        "seed": 5,
        "num_units": 16,
    }
    return build_dataset(str(folder), **{**options, **changed})


def batches(
    data: Any, workers: int, epoch: int = 0, start: int = 0, size: int = 4
) -> list[dict[str, torch.Tensor]]:
    sampler = FunctionalSampler(len(data), 5)
    sampler.set_place(epoch, start)
    return list(build_loader(data, sampler, size, workers))


def same(one: list[dict[str, torch.Tensor]], two: list[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a[key], b[key]) for a, b in zip(one, two, strict=True) for key in a
    )


def test_batches_do_not_depend_on_the_number_of_workers(folder: Path) -> None:
    assert same(batches(dataset(folder), 0), batches(dataset(folder), 2))


def test_a_position_in_the_middle_of_an_epoch_continues_it_exactly(folder: Path) -> None:
    assert same(
        batches(dataset(folder), 0, epoch=3)[2:], batches(dataset(folder), 0, epoch=3, start=8)
    )


def test_epochs_seeds_and_samples_differ_in_pixels_and_masks(folder: Path) -> None:
    data = dataset(folder)
    items = [data[0, 0], data[1, 0], data[0, 1], dataset(folder, seed=6)[0, 0]]
    for key in ("image", "noise"):
        for i, one in enumerate(items):
            assert all(not torch.equal(one[key], other[key]) for other in items[i + 1 :])


@pytest.mark.parametrize("n", [1, 7, 8, 9])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_together_see_every_sample_exactly_once(n: int, world: int, shuffle: bool) -> None:
    ranks = [list(FunctionalSampler(n, 1, rank, world, shuffle)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    assert sorted(index for rank in ranks for _, index, valid in rank if valid) == list(range(n))


def test_orders_differ_between_epochs_and_seeds_and_a_place_holds_for_its_epoch_alone() -> None:
    sampler = FunctionalSampler(100, 1)
    assert not np.array_equal(sampler.order(0), sampler.order(1))
    assert not np.array_equal(sampler.order(0), FunctionalSampler(100, 2).order(0))
    sampler.set_place(4, 30)
    assert len(sampler) == len(list(sampler)) == 70
    sampler.set_place(5)
    assert len(list(sampler)) == 100


def test_labels_are_required_where_asked_and_unknown_classes_refused(
    folder: Path, tmp_path: Path
) -> None:
    write_flat(tmp_path, 2, suffix=".jpg")
    with pytest.raises(DataError, match="no class folder"):
        dataset(tmp_path, require_labels=True)
    assert dataset(tmp_path)[0, 0]["label"] == -1
    with pytest.raises(DataError, match="class_2"):
        dataset(folder, classes=["class_0", "class_1"])
    assert (
        dataset(folder, classes=["class_0", "class_1", "class_2", "zebra"]).classes[-1] == "zebra"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_corrupt_images_fail_by_name_and_few_are_replaced_and_marked(
    workers: int, tmp_path: Path
) -> None:
    write_flat(tmp_path, 12)
    bad = tmp_path / "00003.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match="1 of 12 images cannot be read") as caught:
        batches(dataset(tmp_path), workers)
    assert "00003.jpg" in str(caught.value) and caught.value.field == "dataset.max_corrupt_fraction"
    data = dataset(tmp_path, max_corrupt_fraction=0.1)
    got = batches(data, workers)
    assert data.corrupt == [str(bad)]
    assert [
        int(i)
        for batch in got
        for i, valid in zip(batch["index"], batch["valid"], strict=True)
        if not valid
    ] == [3]
    assert all(image.float().std() > 1 for batch in got for image in batch["image"])


def test_normalizing_on_the_device_equals_torchvisions() -> None:
    from torchvision.transforms.functional import normalize

    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    torch.testing.assert_close(
        to_input(images, mean, std),
        normalize(images.float() / 255, mean, std),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("cuda", [False, True])
def test_workers_stay_between_epochs_and_memory_is_pinned_where_there_is_a_gpu(
    cuda: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(loader_module, "plan_workers", lambda workers, size: (workers, 3))
    data = dataset(folder)
    loader = build_loader(data, FunctionalSampler(len(data), 5), 4, 1)
    assert (loader.persistent_workers, loader.pin_memory, loader.prefetch_factor) == (True, cuda, 3)
    monkeypatch.undo()  # a batch in pinned memory needs a real GPU
    batch = next(iter(build_loader(data, FunctionalSampler(len(data), 5), 4, 0)))
    assert batch["image"].dtype == torch.uint8


def test_workers_and_prefetch_fit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(loader_module, "free_memory", lambda: 10 << 30)
    monkeypatch.setattr(
        loader_module.shutil, "disk_usage", lambda path: type("U", (), {"free": 8 << 30})()
    )
    assert loader_module.plan_workers(4, 1 << 20) == (4, 8)
    assert loader_module.plan_workers(20, 1 << 20)[0] == 8
    workers, prefetch = loader_module.plan_workers(8, 100 << 20)
    assert workers * prefetch * (100 << 20) <= 1 << 30
    assert loader_module.plan_workers(8, 1 << 30) == (0, 0)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixup_targets_say_how_much_of_each_image_is_there(
    mode: str, size: int, alphas: tuple[float, float]
) -> None:
    mix = Mixup(augmentation(mixup=alphas[0], cutmix=alphas[1], mixup_mode=mode), num_classes=size)
    images = (
        torch.eye(size).view(size, size, 1, 1).expand(size, size, 16, 16)[:, :, :, :].contiguous()
    )
    images = torch.cat(
        [images, torch.zeros(size, max(0, 3 - size), 16, 16)], 1
    )  # channel c of image i is 1 where i = c
    for step in range(6):
        mixed, targets = mix(images, torch.arange(size), (1, step, 0))
        torch.testing.assert_close(mixed[:, :size].mean((2, 3)), targets, atol=1e-5, rtol=0)
        torch.testing.assert_close(targets.sum(1), torch.ones(size))
        if size % 2:
            assert targets[size // 2, size // 2] > 0.999


def test_mixup_depends_on_its_key_alone_and_its_switches_act() -> None:
    images, labels = torch.rand(6, 3, 16, 16), torch.arange(6)
    kept = images.clone()
    both = Mixup(augmentation(mixup=0.8, cutmix=1.0, smoothing=0.1), 6)
    one, two, other = (
        both(images, labels, (1, 2, 0)),
        both(images, labels, (1, 2, 0)),
        both(images, labels, (1, 2, 1)),
    )
    assert torch.equal(one[0], two[0]) and not torch.equal(one[0], other[0])
    assert torch.equal(images, kept)
    never = Mixup(augmentation(mixup=0.8, cutmix=1.0, mixup_prob=0.0), 6)
    assert torch.equal(never(images, labels, (1, 2, 0))[0], images)
    cut = Mixup(augmentation(mixup=0.8, cutmix=1.0, mixup_switch_prob=1.0), 6)
    for step in range(5):
        mixed, _ = cut(images, labels, (1, step, 0))
        assert ((mixed == images) | (mixed == images.flip(0))).all()


def test_smoothed_targets_are_torchs() -> None:
    logits, labels = torch.randn(5, 7), torch.tensor([0, 6, 3, 3, 1])
    ours = torch.nn.functional.cross_entropy(logits, soft_targets(labels, 7, 0.1))
    torch.testing.assert_close(
        ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    )


ORPHAN = """
import os, signal, sys, time
from mae_runners.data import loader

loader.LOOK_SECONDS = 0.05
if sys.argv[1] == "handles":  # as a run does
    signal.signal(signal.SIGTERM, lambda *_: None)
run = os.getpid()
if os.fork() == 0:
    while os.getppid() == run:  # the run is killed while it starts its workers
        time.sleep(0.01)
    loader.start_worker(0, parent=run)
    time.sleep(120)
    os._exit(1)
os.kill(run, signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["handles", "default"])
def test_a_worker_whose_run_was_killed_while_it_began_ends_too(kind: str) -> None:
    """The worker has the pipe too: its end is that of what can be read."""
    run = subprocess.Popen([sys.executable, "-c", ORPHAN, kind], stdout=subprocess.PIPE)
    run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL
