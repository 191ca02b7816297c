"""What is said of a segmenter on images with masks, alike by training, evaluate and inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mae_runners.metrics import doubts
from mae_runners.metrics.bootstrap import ImageScores
from mae_runners.metrics.iou import by_class, one_answer


def judged(
    found: dict[str, Any],
    confusion: np.ndarray,
    classes: Sequence[str],
    scores: ImageScores | None,
    seed: int,
) -> dict[str, Any]:
    """The metrics by class, and what they are worth.

    Args:
        found: of `SegmentationMetrics.summary`.
        confusion: pixels ``[C, C]``, rows = true class.
        scores: of every image; None: no interval is wanted.

    Returns:
        `by_class`; ``most_frequent`` (`one_answer`), ``intervals`` of ``mIoU``, as far as there are
        any; ``doubts``.
    """
    known = scores is not None and found["mIoU"] is not None
    interval = scores.interval(int(found["images"]), seed) if scores is not None and known else None
    constant = one_answer(confusion, classes)
    return {
        **by_class(found, classes),
        **({} if constant is None else {"most_frequent": constant}),
        **({} if interval is None else {"intervals": {"mIoU": interval}}),
        "doubts": doubts.of_masks(confusion, classes, interval),
    }
