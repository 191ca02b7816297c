"""What an epoch of pretraining is worth: kNN on a probe set, a linear probe at the end, pictures of reconstructions."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from mae_runners.data import ImageDataset
from mae_runners.metrics.probe import knn_accuracy, linear_probe_accuracy
from mae_runners.metrics.splits import split_bank
from mae_runners.models.masking import draw_mask
from mae_runners.tasks.base import Task

PICTURES = 8


class Ranks(Protocol):
    """What the loop offers to an evaluation on several ranks."""

    sharded: bool

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        """A method of the model, called by all ranks where the weights are sharded."""

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in the order of ranks."""


@torch.no_grad()
def after_epoch(
    task: Task, ranks: Ranks, trackers: Any, step: int, epoch: int, final: bool
) -> dict[str, float]:
    """``knn_acc`` every ``train.probe.interval`` epochs and at the end, ``linear_acc`` at the end, and a picture at validations.

    Every rank must call it: each runs a share of the probe sets, all get the same figures.
    """
    if task.stage != "pretrain":
        task.show(trackers, step, epoch)
        return {}
    train, data = task.spec.train, task.spec.dataset
    found: dict[str, float] = {}
    interval = int(train.probe.interval)
    if interval and data.probe_train_data_sources and (final or (epoch + 1) % interval == 0):
        found = probe(task, ranks, linear=final)
    if final or (epoch + 1) % int(train.validation_interval) == 0:
        picture(task, ranks, trackers, step, epoch)
    return found


def probe(task: Task, ranks: Ranks, linear: bool) -> dict[str, float]:
    """kNN (and linear) accuracy of the frozen, unmasked, pooled features on the probe sets; without a second set, on a fifth of the first."""
    bank_set, query_set = task.probe_sets  # type: ignore[attr-defined]
    bank, labels = features(task, ranks, bank_set)
    if query_set is not None:
        queries, wanted = features(task, ranks, query_set)
    else:
        kept, held = split_bank(labels, task.seed)
        queries, wanted, bank, labels = bank[held], labels[held], bank[kept], labels[kept]
    found: dict[str, float] = {}
    if task.context.is_main:
        found["knn_acc"] = knn_accuracy(
            bank, labels, queries, wanted, k=int(task.spec.train.probe.k)
        )
        if linear:
            found["linear_acc"] = linear_probe_accuracy(bank, labels, queries, wanted)
    result: dict[str, float] = ranks.gather(found)[0]
    return result


def features(task: Task, ranks: Ranks, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Pooled features [N, D], labels int64 [N] in the order of the source; every rank makes a share and gets them all."""
    from mae_runners.data import FunctionalSampler, build_loader

    sampler = FunctionalSampler(
        len(dataset), task.seed, task.context.rank, task.context.world_size, shuffle=False
    )
    size = max(32, int(task.spec.dataset.batch_size))
    parts, labels, places = [], [], []
    for batch in build_loader(
        dataset, sampler, size, int(task.spec.dataset.num_workers_per_gpu), persistent=False
    ):
        batch = task.to_device(batch)
        keep = batch["valid"]
        parts.append(ranks.call("encode", task.inputs(batch), pool=True).float()[keep].cpu())
        labels.append(batch["label"][keep].cpu())
        places.append(batch["index"][keep].cpu())
        task.between_batches()
    shares = ranks.gather((torch.cat(parts), torch.cat(labels), torch.cat(places)))
    order = torch.cat([share[2] for share in shares]).argsort()
    return torch.cat([share[0] for share in shares])[order], torch.cat(
        [share[1] for share in shares]
    )[order]


def picture(task: Task, ranks: Ranks, trackers: Any, step: int, epoch: int) -> None:
    """``pictures/reconstruction_epoch_NNN.png``: rows of original, masked, reconstruction; the same images and masks at every epoch.

    Rank 0 draws; the others only lend their share of the weights, where they are sharded.
    """
    if not (task.context.is_main or ranks.sharded):
        return
    if task.val is not None:
        dataset = task.val
    else:
        if not hasattr(task, "_picture_set"):
            task._picture_set = task._dataset(
                task.spec.dataset.train_data_sources, train=False, units=True
            )  # type: ignore[attr-defined]
        dataset = task._picture_set  # type: ignore[attr-defined]
    from mae_runners.data import collate

    count = min(PICTURES, len(dataset))
    batch = task.to_device(
        collate([dataset[0, index * len(dataset) // count] for index in range(count)])
    )
    images, model = task.inputs(batch), task.model
    restored = ranks.call("reconstruct", images, batch["noise"])
    unit = model.unit
    grid = (images.shape[2] // unit, images.shape[3] // unit)
    hidden = (
        draw_mask(batch["noise"], model.mask_ratio)
        .hidden_map.view(count, 1, *grid)
        .repeat_interleave(unit, 2)
        .repeat_interleave(unit, 3)
    )
    mean = torch.tensor(task.aug.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(task.aug.std, device=images.device).view(1, 3, 1, 1)
    shown = [
        images * std + mean,
        torch.where(hidden, torch.full_like(images, 0.5), images * std + mean),
        restored * std + mean,
    ]
    rows = torch.cat([torch.cat(list(group), dim=2) for group in shown], dim=1)
    path = task.context.action_dir / "pictures" / f"reconstruction_epoch_{epoch:03d}.png"
    trackers.picture(step, "reconstruction", rows, path)
