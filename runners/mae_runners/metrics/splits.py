"""Seeded splits of labeled images, stratified by class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from mae_sdk.data.split import held_out, share_of
from mae_skill.errors import DataError
from torch import Tensor

PROBE_SHARE = 0.2  # of a probe's bank that has no test half


def stratified_split(
    labels: np.ndarray, share: float, permutation: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out) indices, int64, sorted: `share` of every class, as `held_out` counts it.

    Args:
        labels: class of each image, ``[N]``.
        permutation: a seeded draw of 0 … n−1 in random order, called for one class after another.
    """
    mask = np.ones(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = held_out([len(members)], share)
        if count:
            mask[members[permutation(len(members))[:count]]] = False
    return np.flatnonzero(mask), np.flatnonzero(~mask)


def take_share(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The images of a share, int64, sorted: of every class as many as `share_of` counts.

    With one seed a larger share holds a smaller one.

    Args:
        labels: class of each image, ``[N]``; those without one are a class of their own.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        found.append(rng.permutation(members)[: share_of(len(members), share)])
    return np.sort(np.concatenate(found))


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation images of one source; a class of one image keeps it for training.

    Raises:
        DataError: every class has one image.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    kept, held = stratified_split(labels, share, rng.permutation)
    if not len(held):
        raise DataError(
            "nothing can be held out for validation: every image is the only one of its class",
            field="dataset.val_fraction",
            got=share,
            expected="two images of a class, or more",
            hint="name dataset.val_data_sources; or train without validation: "
            "dataset.val_fraction=null, and no AutoML",
        )
    return kept, held


def split_bank(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the images that a probe learns from, and of those it is judged on."""
    # torch's generator, not numpy's as above: a run that resumes keeps the split it began with.
    generator = torch.Generator().manual_seed(seed)

    def permutation(count: int) -> np.ndarray:
        drawn: np.ndarray = torch.randperm(count, generator=generator).numpy()
        return drawn

    kept, held = stratified_split(labels.numpy(), PROBE_SHARE, permutation)
    return torch.from_numpy(kept), torch.from_numpy(held)


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Fold of each image ``[N]``, every class spread evenly; a function of (labels, seed)."""
    fold = torch.empty(len(labels), dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    offset = 0
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        fold[members] = (torch.arange(len(members)) + offset) % folds
        offset += len(members)
    return fold
