"""Images of a segmenter that are worth a look: some that the seed chooses, and the worst ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mae_runners.metrics import colors
from mae_runners.metrics.bootstrap import ImageScores
from mae_runners.metrics.gallery import Gallery, fitted

TILE = 256  # pixels of the longer side of a picture
WORST = (
    "The lowest mIoU of their own: the mean over the classes that the image or its answer holds. "
    "The mIoU of all images is over all classes, from the sums of their pixels, so that even the "
    "worst may lie above it."
)
COLUMNS = ["image", "truth", "answer", "answer over the image"]


class Look(NamedTuple):
    """An image to look at: its name, its own mIoU, and `COLUMNS` as pictures."""

    name: str
    score: float
    tiles: list[np.ndarray]


class Looks:
    """Some images of an evaluation and its worst ones, and every image's scores.

    Attributes:
        examples: place in the source → look.
        worst: the `count` with the lowest mIoU of their own, worst first: (score, place, look).

    Args:
        dataset: ``source.members`` are the names.
        chosen: places of the images to show whatever they score.
        count: of the worst ones.
    """

    def __init__(self, num_classes: int, dataset: Any, chosen: Iterable[int], count: int) -> None:
        self.dataset, self.chosen, self.count = dataset, set(chosen), count
        self.scores = ImageScores(num_classes)
        self.palette = colors.palette(num_classes)
        self.examples: dict[int, Look] = {}
        self.worst: list[tuple[float, int, Look]] = []

    def add(
        self, place: int, image: Tensor, mask: Tensor, labels: np.ndarray, confusion: np.ndarray
    ) -> None:
        """Looks at an image ``[C, H, W]`` in 0 … 255, its true classes and the answer, integer
        ``[H, W]`` each, and the confusion matrix of its pixels."""
        score = self.scores.add(place, confusion)
        is_bad = len(self.worst) < self.count or score < self.worst[-1][0]
        if not (is_bad or place in self.chosen):
            return
        tiles = [
            fitted(tile, TILE) for tile in colors.comparison(image, mask, labels, self.palette)
        ]
        look = Look(str(self.dataset.source.members[place]), score, tiles)
        if place in self.chosen:
            self.examples[place] = look
        if is_bad:
            worst = [*self.worst, (score, place, look)]
            self.worst = sorted(worst, key=lambda one: one[:2])[: self.count]

    def merge(self, parts: Sequence[tuple[Any, Any, dict[int, np.ndarray]]]) -> None:
        """Takes over what the ranks have seen; on rank 0."""
        for examples, worst, rows in parts:
            self.examples |= examples
            self.scores.rows |= rows
            both = {one[1]: one for one in [*self.worst, *worst]}
            self.worst = sorted(both.values(), key=lambda one: one[:2])[: self.count]

    @property
    def boards(self) -> list[list[np.ndarray]]:
        """The pictures of the chosen images, in the source's order."""
        return [look.tiles for _, look in sorted(self.examples.items())]

    def show(
        self, gallery: Gallery, classes: Sequence[str], note: str, epoch: int | None = None
    ) -> None:
        """Puts them into the report's gallery.

        Args:
            note: on the chosen images.
            epoch: of the training, whose model gave the answers.
        """
        chosen = [look for _, look in sorted(self.examples.items())]
        worst = [look for *_, look in self.worst]
        for kind, looks, said in (
            ("segmentation", chosen, note),
            ("worst", worst, WORST),
        ):
            about = [{"name": one.name, "note": f"mIoU {100 * one.score:.0f} %"} for one in looks]
            rows = [one.tiles for one in looks]
            gallery.add(kind, rows, about, COLUMNS, note=said, epoch=epoch)
        gallery.set_legend(classes, self.palette)
        gallery.save()
