"""How good is a segmenter, whatever file it comes from? IoU from sums over the whole data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mae_skill.spec import ExperimentSpec
from PIL import Image

from mae_runners.context import RunContext
from mae_runners.deploy import artefact
from mae_runners.deploy.eval_pairs import EvalPairs, segmenter
from mae_runners.deploy.runtimes import Runtime
from mae_runners.distributed import Ranks
from mae_runners.metrics import colours
from mae_runners.metrics.confusion import write_confusion
from mae_runners.metrics.iou import (
    SegmentationMetrics,
    by_class,
    judged_classes,
    without_vacuous,
    write_table,
)
from mae_runners.metrics.windows import default_stride

EXAMPLES = 8


def evaluate_segmenter(
    spec: ExperimentSpec, context: RunContext, runtime: Runtime, ranks: Ranks
) -> tuple[dict[str, Any], list[Path]]:
    """Metrics of a segmenter on ``dataset.val_data_sources``, and the files written.

    Files: ``per_class_iou.csv``, the confusion matrix, ``segmentation.png`` (rows of image, truth,
    prediction) and ``colours.csv``.
    """
    settings = spec.evaluate.segmentation
    source = artefact.need_source(spec, "val_data_sources", "evaluate")
    pairs = EvalPairs(spec, "val_data_sources", runtime.meta, labelled=True)
    classes = list(pairs.dataset.classes)
    palette = colours.palette(len(classes))

    size = artefact.batch_size(spec.evaluate, spec)
    predict = segmenter(runtime, settings, size)
    sums = SegmentationMetrics(len(classes), pairs.dataset.ignore_index)
    examples: list[list[np.ndarray]] = []
    with context.progress(-(-len(pairs) // (size * context.world_size)), "evaluate") as progress:
        for batch in pairs.batches(size, rank=context.rank, world=context.world_size):
            answers = predict([pair.image for pair in batch]) if batch else []
            for pair, logits in zip(batch, answers, strict=True):
                labels = sums.add(logits, pair.mask)
                if context.is_main and len(examples) < EXAMPLES:
                    examples.append(colours.comparison(pair.image, pair.mask, labels, palette))
            progress.advance()

    ranks.sum_over_ranks(sums.sums)
    unreadable = sorted({path for part in ranks.gather(pairs.dataset.corrupt) for path in part})
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

    folder = context.action_dir
    return metrics, [
        write_table(found, classes, folder / "per_class_iou.csv"),
        *write_confusion(sums.confusion.astype(np.int64), classes, folder),
        write_board(examples, folder / "segmentation.png"),
        colours.write_legend(classes, folder / "colours.csv"),
    ]


def write_board(rows: list[list[np.ndarray]], path: Path) -> Path:
    """The rows as one image."""
    Image.fromarray(colours.board(rows)).save(path)
    return path
