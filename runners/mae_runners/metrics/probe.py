"""How good are the features? kNN and a linear probe on frozen, unmasked, pooled features.

kNN: weighted by exp(cosine / 0.07), as in instance discrimination (arXiv 1805.01978) and DINO
(arXiv 2104.14294).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mae_runners.metrics.splits import stratified_folds

TEMPERATURE = 0.07
MAX_RANKED = 5000
"""Images from which `rankme` is computed during training; it needs no more."""
FOLDS = 5


def probe_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: int,
    linear: bool = True,
) -> dict[str, float]:
    """``knn_acc`` and ``linear_acc`` of the queries, learned from the bank.

    Args:
        bank: features ``[N, D]``; ``bank_labels``: int64 ``[N]``.
        queries: features ``[M, D]``; ``query_labels``: int64 ``[M]``.
        k: neighbors that vote.
        linear: also train the linear probe.
    """
    found = {"knn_acc": knn_accuracy(bank, bank_labels, queries, query_labels, k=k)}
    if linear:
        found["linear_acc"] = linear_probe_accuracy(bank, bank_labels, queries, query_labels)
    return found


def cross_validated(features: Tensor, labels: Tensor, *, k: int, seed: int) -> dict[str, Any]:
    """`probe_accuracy` of each of `FOLDS` stratified folds against the rest, as one mean.

    A class with fewer images than folds lowers the number of folds, which ``protocol`` states.
    """
    smallest = int(torch.bincount(labels)[torch.unique(labels)].min())
    folds = max(2, min(FOLDS, smallest))
    fold = stratified_folds(labels, folds, seed)

    sums = {"knn_acc": 0.0, "linear_acc": 0.0}
    for number in range(folds):
        own, rest = fold == number, fold != number
        found = probe_accuracy(features[rest], labels[rest], features[own], labels[own], k=k)
        for name, accuracy in found.items():
            sums[name] += accuracy * int(own.sum())
    means = {name: total / len(labels) for name, total in sums.items()}
    return {**means, "protocol": f"{folds} stratified folds, seed {seed}"}


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor | None,
    query_labels: Tensor | None,
    k: int = 20,
    chunk: int = 1024,
) -> float:
    """Top-1 accuracy of weighted k-nearest neighbors, in 0…1.

    Args:
        bank: ``[N, D]`` features; ``bank_labels``: ``[N]`` int64.
        queries: ``[M, D]``, or None: every bank entry is judged by the others (leave one out).
        k: neighbors, at most what the bank has.
    """
    leave_one_out = queries is None
    bank = F.normalize(bank.float(), dim=1)
    targets = bank_labels if query_labels is None else query_labels
    points = bank if queries is None else F.normalize(queries.float(), dim=1)
    classes = int(max(bank_labels.max(), targets.max())) + 1
    k = max(1, min(k, bank.shape[0] - int(leave_one_out)))

    right = 0
    for start in range(0, points.shape[0], chunk):
        similarity = points[start : start + chunk] @ bank.T
        if leave_one_out:
            rows = torch.arange(similarity.shape[0], device=bank.device)
            similarity[rows, rows + start] = -torch.inf
        near, index = similarity.topk(k, dim=1)
        votes = torch.zeros(near.shape[0], classes, device=bank.device)
        votes.scatter_add_(1, bank_labels[index], (near / TEMPERATURE).exp())
        right += int((votes.argmax(1) == targets[start : start + chunk]).sum())
    return right / max(1, points.shape[0])


def rankme(features: Tensor) -> float:
    """RankMe, the effective rank of features, from 1 to the smaller of N and D (arXiv 2210.02885,
    equation 3): the exponential of the entropy of the normalized singular values. It needs no
    labels; a collapse shows as a low value.

    Args:
        features: ``[N, D]``.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def linear_probe_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    steps: int = 100,
    weight_decay: float = 1e-3,
) -> float:
    """Top-1 accuracy of multinomial logistic regression on standardized features.

    L-BFGS from zero, so the result is deterministic. Shapes as in `knn_accuracy`.
    """
    mean, std = bank.float().mean(0), bank.float().std(0).clamp_min(1e-6)
    x, q = (bank.float() - mean) / std, (queries.float() - mean) / std
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            F.cross_entropy(x @ weight.T + bias, bank_labels) + weight_decay * weight.square().sum()
        )
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return float(((q @ weight.T + bias).argmax(1) == query_labels).float().mean())
