"""How good are frozen features, with a bank of labelled images or by stratified folds? The probes are those that training runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mae_runners.metrics.probe import knn_accuracy, linear_probe_accuracy

FOLDS = 5


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Fold of each sample [N], every class spread evenly; a function of (labels, seed)."""
    fold = torch.empty(len(labels), dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    offset = 0
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        fold[members] = (torch.arange(len(members)) + offset) % folds
        offset += len(members)
    return fold


def probe(
    features: Tensor,
    labels: Tensor,
    *,
    k: int,
    seed: int,
    bank: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Any]:
    """kNN and linear-probe accuracy of `features` [N, D] with `labels` [N].

    With `bank` = (features, labels) those are learnt from and all of `features` are judged. Without, each of `FOLDS` stratified folds is
    judged by the rest; a class with fewer samples than folds lowers the number of folds.

    Returns:
        ``knn_acc, linear_acc`` in [0, 1], ``k``, ``protocol`` in words.
    """
    if bank is not None:
        pairs = [(bank[0], bank[1], features, labels)]
        protocol = f"bank of {len(bank[0])} labelled images"
    else:
        smallest = int(torch.bincount(labels)[labels.unique()].min())
        folds = max(2, min(FOLDS, smallest))
        fold = stratified_folds(labels, folds, seed)
        pairs = [
            (features[fold != n], labels[fold != n], features[fold == n], labels[fold == n])
            for n in range(folds)
        ]
        protocol = f"{folds} stratified folds, seed {seed}"
    knn = sum(knn_accuracy(*pair, k=k) * len(pair[3]) for pair in pairs) / len(labels)
    linear = sum(linear_probe_accuracy(*pair) * len(pair[3]) for pair in pairs) / len(labels)
    return {"knn_acc": knn, "linear_acc": linear, "k": k, "protocol": protocol}
