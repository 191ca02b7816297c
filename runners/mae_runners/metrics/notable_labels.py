"""The pairs of image and class of which a model of several labels is surest, and wrong."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mae_skill.spelling import and_more
from torch import Tensor

from mae_runners.metrics.gallery import Gallery, tile_of_item
from mae_runners.metrics.notable import SHOWN

LIKELIEST = 8  # classes of an image that are kept beside a mistake

NOTE = (
    "Pairs of image and class, the surest wrong answers first: the class was given to an image "
    "that lacks it, or not to one that has it; images as the model saw them."
)

Pair = tuple[float, int, int, bool, list[tuple[int, float]]]
"""How far off the probability is, place of the image, class, whether the image has it, and the
image's likeliest classes with their probabilities."""


class LabelMistakes:
    """Keeps, for each class, the images that lack it and are likeliest to have it, and those that
    have it and are least likely to.

    Which of them are mistakes is told by the thresholds, which may be chosen after the last image:
    those on the wrong side of a class's threshold are the first of its list.
    """

    def __init__(self) -> None:
        # has the class? → how far off [K, C], place of the image [K, C], likeliest [K, C, L] twice
        self._kept: dict[bool, list[Tensor]] = {}

    def add(self, logits: Tensor, targets: Tensor, indices: Tensor) -> None:
        """Looks at a batch: ``logits [B, C]``, ``targets [B, C]`` of 0 and 1, ``indices [B]``."""
        if not len(targets):
            return
        shares = logits.detach().float().sigmoid().cpu().double()
        truth, places = targets.cpu() > 0.5, indices.cpu()
        likeliest = shares.topk(min(LIKELIEST, shares.shape[1]), dim=1)
        for has in (False, True):
            distance = torch.where(truth == has, (1 - shares) if has else shares, -1.0)
            values, rows = distance.topk(min(SHOWN, len(distance)), dim=0)
            new = [values, places[rows], likeliest.indices[rows], likeliest.values[rows]]
            if old := self._kept.get(has):
                new = [torch.cat(pair) for pair in zip(old, new, strict=True)]
                best = new[0].topk(min(SHOWN, len(new[0])), dim=0).indices
                deep = best[:, :, None].expand(-1, -1, new[2].shape[2])
                new = [one.gather(0, best if one.ndim == 2 else deep) for one in new]
            self._kept[has] = new

    def found(self, thresholds: Sequence[float]) -> list[Pair]:
        """The `SHOWN` surest mistakes at a threshold of each class."""
        pairs: list[Pair] = []
        for has, (values, places, classes, shares) in self._kept.items():
            cuts = torch.tensor(thresholds, dtype=torch.float64)
            wrong = (values >= 0) & ((1 - values < cuts) if has else (values >= cuts))
            for row, label in wrong.nonzero().tolist():
                near = zip(classes[row, label].tolist(), shares[row, label].tolist(), strict=True)
                one = (float(values[row, label]), int(places[row, label]), label, has, list(near))
                pairs.append(one)
        return surest(pairs)


def surest(pairs: Iterable[Pair]) -> list[Pair]:
    """The `SHOWN` pairs that are farthest off; ties go to the image that comes first."""
    return heapq.nsmallest(SHOWN, pairs, key=lambda one: (-one[0], *one[1:3]))


def lines_of(
    pair: Pair, truth: Any, thresholds: Sequence[float], classes: Sequence[str]
) -> list[str]:
    """A mistake in words: the class, and the labels that were given and are true.

    Args:
        truth: of the image, ``[C]`` of 0 and 1.
    """
    off, _, label, has, likeliest = pair
    share = 1 - off if has else off
    what = "has it, not given" if has else "given, lacks it"
    given = [
        f"{classes[index]} ({100 * value:.0f} %)"
        for index, value in likeliest
        if value >= thresholds[index]
    ]
    true = [name for name, of in zip(classes, truth, strict=True) if of]
    return [
        f"{classes[label]} ({100 * share:.0f} %): {what}",
        f"predicted: {and_more(given, 4) or 'no label'}",
        f"true: {and_more(true, 4) or 'no label'}",
    ]


def show_pairs(
    gallery: Gallery, dataset: Any, pairs: Sequence[tuple[int, list[str]]], epoch: int | None = None
) -> None:
    """Puts mistakes into the gallery: the place of each image and its lines.

    Args:
        dataset: as of `Notable.show`.
    """
    rows, about = [], []
    for place, lines in pairs:
        item = dataset[0, place]
        if item["valid"]:
            rows.append([tile_of_item(item["image"])])
            name = str(dataset.source.members[place])
            about.append({"name": name, "lines": lines, "tone": "bad"})
    gallery.add("mistakes", rows, about, note=NOTE, epoch=epoch)
