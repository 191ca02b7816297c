"""How far a mean IoU can be trusted: resampling the images that it was taken over."""

from __future__ import annotations

from typing import Any

import numpy as np

RESAMPLES = 1000
MIN_IMAGES = 10  # of fewer an interval says nothing
MAX_CELLS = 1 << 26  # numbers kept for it


class ImageScores:
    """Intersection and union of every class in every image.

    Attributes:
        rows: place of the image → float32 ``[2, C]``.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.rows: dict[int, np.ndarray] = {}

    def add(self, place: int, confusion: np.ndarray) -> float:
        """Counts an image by its confusion matrix of pixels ``[C, C]``; returns its own mIoU over
        the classes that occur in it, 1 where nothing is labeled."""
        hits = confusion.diagonal()
        union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
        if (len(self.rows) + 1) * 2 * self.num_classes <= MAX_CELLS:
            self.rows[place] = np.stack([hits, union]).astype(np.float32)
        present = union > 0
        return float((hits[present] / union[present]).mean()) if present.any() else 1.0

    def interval(self, images: int, seed: int) -> dict[str, Any] | None:
        """``low, high, method`` of the mIoU at 95 %, by the percentile bootstrap over images
        (Efron 1979); None where not every image was kept, or they are too few."""
        if images < MIN_IMAGES or len(self.rows) < images:
            return None
        stacked = np.stack([self.rows[place] for place in sorted(self.rows)]).astype(np.float64)
        flat = stacked.reshape(len(stacked), -1)
        rng = np.random.Generator(np.random.Philox(key=seed))
        weights = rng.multinomial(len(flat), np.full(len(flat), 1 / len(flat)), RESAMPLES)
        hits, union = (weights @ flat).reshape(RESAMPLES, 2, -1).transpose(1, 0, 2)
        present = union > 0
        iou = np.where(present, hits / np.where(present, union, 1.0), 0.0)
        scores = iou.sum(axis=1) / np.maximum(present.sum(axis=1), 1)
        low, high = np.quantile(scores, [0.025, 0.975])
        method = f"bootstrap over {images:,} images"
        return {"low": float(low), "high": float(high), "method": method}
