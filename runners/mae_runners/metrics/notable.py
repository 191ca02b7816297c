"""The images of an evaluation that are worth a look: where the model is surest and wrong, and where
it is least sure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from mae_runners.metrics.gallery import Gallery, tile_of_item

SHOWN = 12  # of each kind


class Answer(NamedTuple):
    """What a classifier said of one image.

    Attributes:
        place: of the image in its source.  label: its true class, -1 where there is none.
        chosen: the class it was taken for.  confidence: the probability of that.
        second: the runner-up.  margin: how far behind its probability is.
        of_label: the probability of the true class.
    """

    place: int
    label: int
    chosen: int
    confidence: float
    second: int
    margin: float
    of_label: float


def answers_of(logits: Tensor, labels: Tensor, indices: Tensor) -> list[Answer]:
    """The answers to a batch: ``logits [B, C]``, ``labels [B]``, ``indices [B]``."""
    if not len(labels):
        return []
    shares = logits.detach().float().softmax(dim=1).cpu()
    values, places = shares.topk(min(2, shares.shape[1]), dim=1)
    labels, found = labels.cpu(), []
    for row, (index, label) in enumerate(zip(indices.tolist(), labels.tolist(), strict=True)):
        chosen, second = int(places[row, 0]), int(places[row, -1])
        confidence = float(values[row, 0])
        of_label = float(shares[row, label]) if label >= 0 else 0.0
        margin = confidence - float(values[row, -1])
        found.append(Answer(index, label, chosen, confidence, second, margin, of_label))
    return found


class Notable:
    """Keeps the `SHOWN` most confident mistakes and the `SHOWN` least certain answers."""

    def __init__(self) -> None:
        self.mistakes: list[Answer] = []
        self.uncertain: list[Answer] = []

    def add(self, logits: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Looks at a batch, as `answers_of` takes it."""
        self.merge(answers_of(logits, labels, indices))

    def merge(self, found: Iterable[Answer]) -> None:
        """Looks at answers; ties go to the image that comes first in its source."""
        found = list(found)
        wrong = [one for one in found if one.chosen != one.label]
        self.mistakes = heapq.nsmallest(
            SHOWN, [*self.mistakes, *wrong], key=lambda one: (-one.confidence, one.place)
        )
        self.uncertain = heapq.nsmallest(
            SHOWN, [*self.uncertain, *found], key=lambda one: (one.margin, one.place)
        )

    def show(
        self, gallery: Gallery, dataset: Any, classes: Sequence[str], epoch: int | None = None
    ) -> None:
        """Puts both into the gallery, as the model saw the images.

        Args:
            dataset: ``dataset[0, index]`` has ``image`` uint8 ``[3, H, W]`` and ``valid``;
                ``dataset.source.members`` are the names.
            epoch: of the training, whose model gave the answers.
        """
        alike = " " + SAME_ANSWER if self._is_constant() else ""
        for kind, answers, note in (
            (
                "mistakes",
                self.mistakes,
                "Wrong answers, the surest first; images as the model saw them.",
            ),
            (
                "uncertain",
                self.uncertain,
                "Where the two likeliest classes are closest; images as the model saw them.",
            ),
        ):
            rows, about = [], []
            for one in answers:
                item = dataset[0, one.place]
                if not item["valid"]:
                    continue
                rows.append([tile_of_item(item["image"])])
                about.append(
                    {
                        "name": str(dataset.source.members[one.place]),
                        "lines": lines_of(one, classes),
                        "tone": "good" if one.chosen == one.label else "bad",
                    }
                )
            gallery.add(kind, rows, about, note=note + alike, epoch=epoch)

    def _is_constant(self) -> bool:
        """Whether the surest mistake and the least certain answer are one class, as sure."""
        both = [*self.mistakes, *self.uncertain]
        sure = [one.confidence for one in both]
        return len({one.chosen for one in both}) == 1 and max(sure) - min(sure) < SAME


SAME = 0.01
"""Confidences that are no further apart are shown as one."""
SAME_ANSWER = (
    "The model gives nearly the same answer, as sure, to every image: these are no worse than "
    "others."
)


def lines_of(one: Answer, classes: Sequence[str]) -> list[str]:
    """An answer in words: what was said, and what is true or was second."""
    said = f"{classes[one.chosen]} ({100 * one.confidence:.0f} %)"
    if one.label < 0:
        return [said]
    if one.chosen == one.label:
        second = one.confidence - one.margin
        return [said, f"right; then {classes[one.second]} ({100 * second:.0f} %)"]
    return [said, f"is {classes[one.label]} ({100 * one.of_label:.0f} %)"]
