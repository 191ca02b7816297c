"""How good is a segmenter, whatever file it comes from? IoU from sums over the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mae_skill.spec import ExperimentSpec
from PIL import Image

from mae_runners.context import RunContext
from mae_runners.deploy import artifact
from mae_runners.deploy.eval_pairs import EvalPairs, Pair, segmenter
from mae_runners.deploy.runtimes import Runtime
from mae_runners.distributed import Ranks
from mae_runners.metrics import colors
from mae_runners.metrics.bootstrap import ImageScores
from mae_runners.metrics.confusion import write_confusion
from mae_runners.metrics.gallery import Gallery, fitted
from mae_runners.metrics.iou import (
    SegmentationMetrics,
    by_class,
    judged_classes,
    without_vacuous,
    write_table,
)
from mae_runners.metrics.reconstruction import spread
from mae_runners.metrics.windows import default_stride

EXAMPLES = 8
TILE = 256  # pixels of the longer side of a picture


def evaluate_segmenter(
    spec: ExperimentSpec, context: RunContext, runtime: Runtime, ranks: Ranks
) -> tuple[dict[str, Any], list[Path]]:
    """Metrics of a segmenter on ``dataset.val_data_sources``, and the files written.

    Files: ``per_class_iou.csv``, the confusion matrix, ``segmentation.png`` (rows of image, truth,
    prediction) and ``colours.csv``.
    """
    settings = spec.evaluate.segmentation
    source = artifact.need_source(spec, "val_data_sources", "evaluate")
    pairs = EvalPairs(spec, "val_data_sources", runtime.meta, labeled=True)
    classes = list(pairs.dataset.classes)
    palette = colors.palette(len(classes))

    size = artifact.batch_size(spec.evaluate, spec)
    predict = segmenter(runtime, settings, size)
    sums = SegmentationMetrics(len(classes), pairs.dataset.ignore_index)
    looks = Looks(len(classes), pairs, int(spec.train.seed))
    with context.progress(-(-len(pairs) // (size * context.world_size)), "evaluate") as progress:
        for batch in pairs.batches(size, rank=context.rank, world=context.world_size):
            answers = predict([pair.image for pair in batch]) if batch else []
            for pair, logits in zip(batch, answers, strict=True):
                looks.add(pair, sums.add(logits, pair.mask), palette)
            progress.advance()

    ranks.sum_over_ranks(sums.sums)
    unreadable = sorted({path for part in ranks.gather(pairs.dataset.corrupt) for path in part})
    looks.merge(ranks.gather_on_first((looks.examples, looks.worst, looks.scores.rows)))
    if not context.is_main:
        return {}, []
    found = without_vacuous(sums.summary(source))
    metrics = by_class(found, classes)
    metrics["classes_in_masks"] = judged_classes(found)
    if found["mIoU"] is None:
        context.warn(
            "the masks hold one class alone: no mIoU and no mAcc, which would mean nothing"
        )
    metrics |= {"window": settings.window, "unreadable": unreadable}
    if settings.window == "slide":
        metrics["stride"] = list(default_stride(pairs.window, settings.stride))

    interval = looks.scores.interval(int(found["images"]), int(spec.train.seed))
    if interval is not None and found["mIoU"] is not None:
        metrics["intervals"] = {"mIoU": interval}

    folder = context.action_dir
    looks.show(Gallery(folder), classes, palette)
    examples = [example.tiles for _, example in sorted(looks.examples.items())]
    return metrics, [
        write_table(found, classes, folder / "per_class_iou.csv"),
        *write_confusion(sums.confusion.astype(np.int64), classes, folder),
        write_board(examples, folder / "segmentation.png"),
        colors.write_legend(classes, folder / "colours.csv"),
    ]


class Look(NamedTuple):
    """An image to look at: its name, its own mIoU, and image, truth and answer as pictures."""

    name: str
    score: float
    tiles: list[np.ndarray]


class Looks:
    """Some images of an evaluation, chosen by the seed, the worst ones, and every image's scores.

    Attributes:
        examples: place in the source → look.
        worst: the `EXAMPLES` with the lowest mIoU of their own, worst first: (score, place, look).
    """

    def __init__(self, num_classes: int, pairs: EvalPairs, seed: int) -> None:
        self.pairs = pairs
        self.chosen = set(spread(np.full(len(pairs), -1), seed, EXAMPLES))
        self.scores = ImageScores(num_classes)
        self.examples: dict[int, Look] = {}
        self.worst: list[tuple[float, int, Look]] = []

    def add(self, pair: Pair, labels: np.ndarray, palette: np.ndarray) -> None:
        """Looks at an image and its answer, integer ``[H, W]``."""
        truth = pair.mask.cpu().numpy()
        score = self.scores.add(pair.index, truth, labels, self.pairs.dataset.ignore_index)
        is_bad = len(self.worst) < EXAMPLES or score < self.worst[-1][0]
        if not (is_bad or pair.index in self.chosen):
            return
        tiles = [
            fitted(tile, TILE) for tile in colors.comparison(pair.image, pair.mask, labels, palette)
        ]
        look = Look(str(self.pairs.dataset.source.members[pair.index]), score, tiles)
        if pair.index in self.chosen:
            self.examples[pair.index] = look
        if is_bad:
            worst = [*self.worst, (score, pair.index, look)]
            self.worst = sorted(worst, key=lambda one: one[:2])[:EXAMPLES]

    def merge(self, parts: Sequence[tuple[Any, Any, dict[int, np.ndarray]]]) -> None:
        """Takes over what the ranks have seen; on rank 0."""
        for examples, worst, rows in parts:
            self.examples |= examples
            self.scores.rows |= rows
            both = {one[1]: one for one in [*self.worst, *worst]}
            self.worst = sorted(both.values(), key=lambda one: one[:2])[:EXAMPLES]

    def show(self, gallery: Gallery, classes: list[str], palette: np.ndarray) -> None:
        """Puts them into the report's gallery."""
        columns = ["image", "truth", "answer"]
        chosen = [look for _, look in sorted(self.examples.items())]
        worst = [look for *_, look in self.worst]
        notes = ("Chosen by the seed, whatever they score.", "The lowest mIoU of their own.")
        for kind, looks, note in zip(
            ("segmentation", "worst"), (chosen, worst), notes, strict=True
        ):
            about = [{"name": one.name, "note": f"mIoU {100 * one.score:.0f} %"} for one in looks]
            gallery.add(kind, [one.tiles for one in looks], about, columns, note=note)
        gallery.set_legend(classes, palette)
        gallery.save()


def write_board(rows: list[list[np.ndarray]], path: Path) -> Path:
    """The rows as one image."""
    Image.fromarray(colors.board(rows)).save(path)
    return path
