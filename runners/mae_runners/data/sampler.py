"""The order of samples as a function of (seed, epoch), shared out between ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from mae_runners.data.transforms import sample_key

Key = tuple[int, int, bool]


class FunctionalSampler(Sampler[Key]):
    """Yields ``(epoch, index, valid)`` for one rank.

    Ranks take every ``world``-th place of one common order, so together they see each sample once.
    When ``n`` does not divide by ``world`` the order is filled up from its start, so that every
    rank does as many steps; those fillers carry ``valid`` false, so that metrics do not count them
    again.

    Args:
        n: samples in the data set.
        seed: of the order.
        rank, world: this process among how many.
        shuffle: a new order each epoch, else 0 … n-1.
    """

    def __init__(
        self, n: int, seed: int, rank: int = 0, world: int = 1, shuffle: bool = True
    ) -> None:
        if not 0 <= rank < world or n <= 0:
            raise ValueError(f"rank {rank} of {world} over {n} samples")
        self.n, self.seed, self.rank, self.world, self.shuffle = n, seed, rank, world, shuffle
        self.epoch, self.done = 0, 0

    def set_place(self, epoch: int, done: int = 0) -> None:
        """Begin at ``epoch``, after the first ``done`` places of the common order: the same for
        every number of ranks. Call it before the loader's iterator is made."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        return max(0, -(-(self.n - self.done) // self.world))

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The common order of all ranks: int64 [n]."""
        if not self.shuffle:
            return np.arange(self.n)
        bits = np.random.Philox(key=sample_key(self.seed, epoch, 0, "order"))
        return np.random.Generator(bits).permutation(self.n)

    def __iter__(self) -> Iterator[Key]:
        epoch, done = self.epoch, self.done
        order = self.order(epoch)
        for place in range(done + self.rank, done + len(self) * self.world, self.world):
            yield epoch, int(order[place % self.n]), place < self.n


class SubsetSampler(FunctionalSampler):
    """A `FunctionalSampler` over some indices of a data set, int64 ``[n]``."""

    def __init__(
        self, indices: np.ndarray, seed: int, rank: int, world: int, shuffle: bool
    ) -> None:
        super().__init__(len(indices), seed, rank, world, shuffle)
        self.indices = indices

    def __iter__(self) -> Iterator[Key]:
        for epoch, index, valid in super().__iter__():
            yield epoch, int(self.indices[index]), valid


class BalancedSampler(SubsetSampler):
    """Shows each class equally often, in an epoch of as many samples as there are indices.

    The samples of a small class come several times, all before any comes again; of a large one a
    part is drawn anew in each epoch. The order is a function of (seed, epoch), as that of its
    bases.

    Args:
        labels: the class of each index, int64 ``[n]``.
    """

    def __init__(
        self, indices: np.ndarray, labels: np.ndarray, seed: int, rank: int, world: int
    ) -> None:
        super().__init__(indices, seed, rank, world, shuffle=True)
        self.places = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        bits = np.random.Philox(key=sample_key(self.seed, epoch, 0, "balanced"))
        rng = np.random.Generator(bits)
        each, more = divmod(self.n, len(self.places))
        # Who gets one more where the classes do not divide the epoch changes with it.
        counts = each + (rng.permutation(len(self.places)) < more)
        parts = []
        for places, count in zip(self.places, counts.tolist(), strict=True):
            rounds = -(-count // len(places))
            parts.append(np.concatenate([rng.permutation(places) for _ in range(rounds)])[:count])
        return rng.permutation(np.concatenate(parts))
