"""The calibration error of a classifier."""

from __future__ import annotations

import numpy as np
import torch
from mae_runners.metrics.classification import BINS, ClassificationMetrics
from torchmetrics.functional.classification import multiclass_calibration_error


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Guo et al., "On Calibration of Modern Neural Networks", equations 2 and 3."""
    probabilities = logits.double().softmax(1).numpy()
    confidence, best = probabilities.max(1), probabilities.argmax(1)
    hits, error = best == labels.numpy(), 0.0
    for m in range(1, BINS + 1):
        inside = (confidence > (m - 1) / BINS) & (confidence <= m / BINS)
        if inside.any():
            gap = abs(hits[inside].mean() - confidence[inside].mean())
            error += inside.sum() / len(labels) * gap
    return float(error)


def test_the_calibration_error_is_the_papers_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    for classes, scale in ((2, 0.3), (7, 1.0), (7, 6.0), (30, 3.0)):
        logits = torch.randn(500, classes, generator=generator) * scale
        labels = torch.randint(classes, (500,), generator=generator)
        one, other = (ClassificationMetrics(classes, confusion=True) for _ in range(2))
        for part in range(0, 400, 64):
            one.add(logits[part : min(part + 64, 400)], labels[part : min(part + 64, 400)])
        other.add(logits[400:], labels[400:])
        one.sums += other.sums  # as over ranks
        assert abs(one.calibration_error - by_hand(logits, labels)) < 1e-9
        peer = multiclass_calibration_error(logits.softmax(1), labels, classes, n_bins=BINS)
        assert abs(one.calibration_error - float(peer)) < 1e-5
        pairs = np.stack([labels.numpy(), logits.argmax(1).numpy()])
        wanted = np.zeros((classes, classes), np.int64)
        np.add.at(wanted, tuple(pairs), 1)
        assert (one.confusion == wanted).all()


def test_a_sure_and_right_model_has_no_calibration_error() -> None:
    metrics = ClassificationMetrics(3, confusion=True)
    metrics.add(torch.eye(3) * 1000, torch.arange(3))  # a confidence of exactly 1
    assert metrics.calibration_error == 0.0
    metrics.add(torch.eye(3) * 1000, torch.tensor([1, 2, 0]))
    assert metrics.calibration_error == 0.5
