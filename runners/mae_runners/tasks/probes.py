"""What an epoch of pretraining is worth: kNN and linear probes, images of reconstructions."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from mae_sdk.files import write_json
from torch import Tensor

from mae_runners.data import ImageDataset, collate
from mae_runners.distributed import Ranks, call, is_sharded
from mae_runners.metrics import reconstruction
from mae_runners.metrics.feature_map import show_features
from mae_runners.metrics.gallery import Gallery
from mae_runners.metrics.probe import probe_accuracy, rankme
from mae_runners.metrics.splits import split_bank
from mae_runners.tasks.base import VALIDATION, Task

MIN_LOOKED, MAX_LOOKED = 64, 400  # images of a map of features
MIN_TRAINED_FOR_UMAP = 1_000_000  # images: UMAP takes some ten seconds to begin
MIN_BATCH = 32  # features need no gradients, so more images fit than in training


def probe(
    task: Task, ranks: Ranks, bank: ImageDataset, queries: ImageDataset | None, *, linear: bool
) -> dict[str, float]:
    """``knn_acc`` (and ``linear_acc``) of the frozen, unmasked, pooled features.

    Every rank must call it and gets the same numbers.

    Args:
        queries: the images to judge; None: a fifth of the bank.
        linear: also train the linear probe.
    """
    known, labels = features(task, ranks, bank)
    if queries is not None:
        judged, wanted = features(task, ranks, queries)
    else:
        kept, held = split_bank(labels, task.seed)
        judged, wanted, known, labels = known[held], labels[held], known[kept], labels[kept]

    found: dict[str, float] = {}
    if task.context.is_main:
        k = task.spec.train.probe.k
        found = probe_accuracy(known, labels, judged, wanted, k=k, linear=linear)
    return ranks.gather(found)[0]


def look_at_features(
    task: Task, ranks: Ranks, dataset: ImageDataset, trained: int, epoch: int, whose: str
) -> None:
    """Puts a map of features, and the neighbors of some images, into the report's gallery.

    Every rank must call it.

    Args:
        trained: how many images the run has trained on: it looks at a hundredth of that, so that
            looking costs little; at least `MIN_LOOKED`, at most `MAX_LOOKED`.
        epoch: that has just ended, which is the last one.
        whose: the images, in words: ``validation images``.
    """
    count = min(len(dataset), MAX_LOOKED, max(MIN_LOOKED, trained // 100))
    chosen = reconstruction.spread(np.asarray(dataset.labels), task.seed, count)
    found, labels, places = _features(task, ranks, dataset, np.asarray(chosen))
    if not task.context.is_main:
        return
    labeled = bool(len(labels)) and bool((labels >= 0).all())
    gallery = Gallery(task.context.action_dir)
    show_features(
        gallery,
        found,
        labels if labeled else None,
        places.tolist(),
        dataset.classes,
        dataset,
        task.seed,
        umap=trained >= MIN_TRAINED_FOR_UMAP,
        epoch=epoch,
        whose=whose,
    )
    gallery.save()


def rank(task: Task, ranks: Ranks, dataset: ImageDataset) -> dict[str, float]:
    """``rankme`` of the frozen, unmasked, pooled features; what it could be at most goes into
    ``validation.json``. Every rank must call it."""
    known, _ = features(task, ranks, dataset)
    found = {"rankme": rankme(known)} if task.context.is_main else {}
    if found:
        about = {"rankme_max": min(known.shape), "rankme_images": len(known)}
        write_json(task.context.action_dir / VALIDATION, about)
    return ranks.gather(found)[0]


def features(task: Task, ranks: Ranks, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
    """Features ``[N, D]`` and labels int64 ``[N]`` in the order of the source.

    Each rank computes a share and gets all of them.
    """
    found, labels, _ = _features(task, ranks, dataset)
    return found, labels


def _features(
    task: Task, ranks: Ranks, dataset: ImageDataset, indices: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`features` of some images, and where these are in the source, int64 ``[N]``."""
    parts, labels, places = [], [], []
    size = max(MIN_BATCH, task.spec.dataset.batch_size)
    for batch in task.eval_batches(dataset, indices, size=size):
        keep = batch["valid"]
        pooled = call(task.model, "encode", task.inputs(batch), pool=True)
        parts.append(pooled.float()[keep].cpu())
        labels.append(batch["label"][keep].cpu())
        places.append(batch["index"][keep].cpu())

    shares = ranks.gather((torch.cat(parts), torch.cat(labels), torch.cat(places)))
    all_features, all_labels, all_places = (
        torch.cat(column) for column in zip(*shares, strict=True)
    )
    order = all_places.argsort()
    return all_features[order], all_labels[order], all_places[order]


def reconstructions(task: Task, dataset: ImageDataset, epoch: int, whose: str) -> np.ndarray | None:
    """`reconstruction.board` of images spread over the classes of a data set, the same images and
    masks at every epoch: uint8 ``[H, W, 3]``. The report's gallery gets them too, with words for
    `whose` images they are.

    Rank 0 draws; the others only lend their share of the weights, where these are sharded.
    """
    if not (task.context.is_main or is_sharded(task.model)):
        return None
    chosen = reconstruction.spread(dataset.labels, task.seed)
    samples = [dataset[0, index] for index in chosen]
    batch = task.to_device(collate(samples))
    images, noise = task.inputs(batch), batch["noise"]
    found = reconstruction.reconstruction_images(
        task.model,
        images,
        noise,
        task.aug.mean,
        task.aug.std,
        partial(call, task.model, "reconstruct"),
    )
    losses = call(task.model, "patch_losses", images, noise)
    found, top = reconstruction.with_losses(found, losses)
    # Where one is unreadable another stands in for it.
    names = [dataset.source.members[int(sample["index"])] for sample in samples]
    if task.context.is_main:
        gallery = Gallery(task.context.action_dir)
        reconstruction.show_reconstructions(gallery, found, names, top, epoch, whose)
        gallery.save()
    return reconstruction.board(found, names)
