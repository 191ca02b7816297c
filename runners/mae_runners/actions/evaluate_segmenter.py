"""How good is a segmenter, whatever file it comes from? IoU from sums over the whole data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mae_skill.spec import ExperimentSpec
from PIL import Image

from mae_runners.context import RunContext
from mae_runners.deploy import artifact
from mae_runners.deploy.eval_pairs import EvalPairs, segmenter
from mae_runners.deploy.runtimes import Runtime
from mae_runners.distributed import Ranks
from mae_runners.metrics import colors, masks
from mae_runners.metrics.confusion import write_confusion
from mae_runners.metrics.gallery import Gallery
from mae_runners.metrics.iou import (
    SegmentationMetrics,
    judged_classes,
    without_vacuous,
    write_table,
)
from mae_runners.metrics.looks import Looks
from mae_runners.metrics.reconstruction import spread
from mae_runners.metrics.windows import default_stride

EXAMPLES = 8


def evaluate_segmenter(
    spec: ExperimentSpec, context: RunContext, runtime: Runtime, ranks: Ranks
) -> tuple[dict[str, Any], list[Path]]:
    """Metrics of a segmenter on ``dataset.val_data_sources``, and the files written.

    Files: ``per_class_iou.csv``, the confusion matrix, ``segmentation.png`` (rows of image, truth,
    prediction, and that over the image) and ``colours.csv``.
    """
    settings = spec.evaluate.segmentation
    source = artifact.need_source(spec, "val_data_sources", "evaluate")
    pairs = EvalPairs(spec, "val_data_sources", runtime.meta, labeled=True)
    classes = list(pairs.dataset.classes)

    size = artifact.batch_size(spec.evaluate, spec)
    predict = segmenter(runtime, settings, size)
    sums = SegmentationMetrics(len(classes), pairs.dataset.ignore_index)
    chosen = spread(np.full(len(pairs), -1), int(spec.train.seed), EXAMPLES)
    looks = Looks(len(classes), pairs.dataset, chosen, EXAMPLES)
    with context.progress(-(-len(pairs) // (size * context.world_size)), "evaluate") as progress:
        for batch in pairs.batches(size, rank=context.rank, world=context.world_size):
            answers = predict([pair.image for pair in batch]) if batch else []
            for pair, logits in zip(batch, answers, strict=True):
                labels = sums.add(logits, pair.mask)
                looks.add(pair.index, pair.image, pair.mask, labels, sums.newest)
            progress.advance()

    ranks.sum_over_ranks(sums.sums)
    unreadable = sorted({path for part in ranks.gather(pairs.dataset.corrupt) for path in part})
    looks.merge(ranks.gather_on_first((looks.examples, looks.worst, looks.scores.rows)))
    if not context.is_main:
        return {}, []
    found = without_vacuous(sums.summary(source))
    metrics = masks.judged(found, sums.confusion, classes, looks.scores, int(spec.train.seed))
    metrics["classes_in_masks"] = judged_classes(found)
    if found["mIoU"] is None:
        context.warn(
            "the masks hold one class alone: no mIoU and no mAcc, which would mean nothing"
        )
    metrics |= {"window": settings.window, "unreadable": unreadable}
    if settings.window == "slide":
        metrics["stride"] = list(default_stride(pairs.window, settings.stride))

    folder = context.action_dir
    looks.show(Gallery(folder), classes, "Chosen by the seed, whatever they score.")
    return metrics, [
        write_table(found, classes, folder / "per_class_iou.csv"),
        *write_confusion(sums.confusion.astype(np.int64), classes, folder),
        write_board(looks.boards, folder / "segmentation.png"),
        colors.write_legend(classes, folder / "colours.csv"),
    ]


def write_board(rows: list[list[np.ndarray]], path: Path) -> Path:
    """The rows as one image."""
    Image.fromarray(colors.board(rows)).save(path)
    return path
