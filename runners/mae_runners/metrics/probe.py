"""How good are the features? kNN and a linear probe on frozen, unmasked, pooled features; an
attentive probe on those of the patches.

kNN: weighted by exp(cosine / 0.07), as in instance discrimination (arXiv 1805.01978) and DINO
(arXiv 2104.14294).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mae_runners.metrics.splits import stratified_folds

TEMPERATURE = 0.07
MAX_RANKED = 5000
"""Images from which `rankme` is computed during training; it needs no more."""
FOLDS = 5
QUERIES = 8
"""Of the attentive probe, at most."""


def probe_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: int,
    linear: bool = True,
    patches: tuple[Tensor, Tensor] | None = None,
) -> dict[str, float]:
    """``knn_acc`` and ``linear_acc`` of the queries, learned from the bank; ``attentive_acc`` too
    with ``patches``.

    Args:
        bank: features ``[N, D]``; ``bank_labels``: int64 ``[N]``.
        queries: features ``[M, D]``; ``query_labels``: int64 ``[M]``.
        k: neighbors that vote.
        linear: also train the linear probe.
        patches: features of the patches of bank and queries, ``[N, P, D]`` and ``[M, P, D]``.
    """
    found = {"knn_acc": knn_accuracy(bank, bank_labels, queries, query_labels, k=k)}
    if linear:
        found["linear_acc"] = linear_probe_accuracy(bank, bank_labels, queries, query_labels)
    if patches is not None:
        known, asked = patches
        found["attentive_acc"] = attentive_probe_accuracy(known, bank_labels, asked, query_labels)
    return found


def cross_validated(
    features: Tensor, labels: Tensor, *, k: int, seed: int, patches: Tensor | None = None
) -> dict[str, Any]:
    """`probe_accuracy` of each of `FOLDS` stratified folds against the rest, as one mean.

    A class with fewer images than folds lowers the number of folds, which ``protocol`` states.
    """
    smallest = int(torch.bincount(labels)[torch.unique(labels)].min())
    folds = max(2, min(FOLDS, smallest))
    fold = stratified_folds(labels, folds, seed)

    sums: dict[str, float] = {}
    for number in range(folds):
        own, rest = fold == number, fold != number
        found = probe_accuracy(
            features[rest],
            labels[rest],
            features[own],
            labels[own],
            k=k,
            patches=None if patches is None else (patches[rest], patches[own]),
        )
        for name, accuracy in found.items():
            sums[name] = sums.get(name, 0.0) + accuracy * int(own.sum())
    means = {name: total / len(labels) for name, total in sums.items()}
    return {
        **means,
        "protocol": f"taught and judged on {folds} stratified folds of these images, seed {seed}",
    }


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


def attend_to_patches(patches: Tensor, queries: Tensor) -> Tensor:
    """Cross-attention pooling ``[N, P, D]`` → ``[N, D]``: each of the ``queries [Q, D]`` weighs all
    patches and pools its own D / Q channels (efficient probing, arXiv 2506.10178, section 3: the
    attention of learned queries without the projections that they can absorb)."""
    scores = patches @ queries.T / math.sqrt(patches.shape[2])  # [N, P, Q]
    values = patches.unflatten(2, (len(queries), -1))  # [N, P, Q, D / Q]
    pooled: Tensor = torch.einsum("npq,npqd->nqd", scores.softmax(dim=1), values)
    return pooled.flatten(1)


def attentive_probe_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    steps: int = 200,
    batch: int = 128,
    weight_decay: float = 1e-3,
) -> float:
    """Top-1 accuracy of logistic regression on `attend_to_patches` of standardized features, the
    queries learned with it.

    Adam with a cosine, from zero: at first all patches weigh the same, as in the linear probe.
    Deterministic.

    Args:
        bank: features of patches ``[N, P, D]``; ``queries``: ``[M, P, D]``; labels as in
            `knn_accuracy`.
        steps, batch: of Adam; bank images of a step.
        weight_decay: the penalty of the linear probe.
    """
    width = bank.shape[2]
    flat = bank.float().flatten(0, 1)
    mean, std = flat.mean(0), flat.std(0).clamp_min(1e-6)
    heads = next(count for count in range(QUERIES, 0, -1) if width % count == 0)
    classes = int(max(bank_labels.max(), query_labels.max())) + 1

    learned = [
        torch.zeros(*shape, device=bank.device, requires_grad=True)
        for shape in ((heads, width), (classes, width), (classes,))
    ]
    asking, weight, bias = learned
    optimizer = torch.optim.Adam(learned)
    drawn = torch.Generator().manual_seed(0)
    order = torch.empty(0, dtype=torch.int64)
    with torch.enable_grad():
        for step in range(steps):
            if len(order) < min(batch, len(bank)):
                order = torch.cat([order, torch.randperm(len(bank), generator=drawn)])
            chosen, order = order[:batch].to(bank.device), order[batch:]
            for group in optimizer.param_groups:
                group["lr"] = 0.03 * 0.5 * (1.0 + math.cos(math.pi * step / steps))

            pooled = attend_to_patches((bank[chosen].float() - mean) / std, asking)
            loss = F.cross_entropy(pooled @ weight.T + bias, bank_labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss + weight_decay * weight.square().sum())
            optimizer.step()

    right = 0
    with torch.no_grad():
        for part, labels in zip(queries.split(batch), query_labels.split(batch), strict=True):
            pooled = attend_to_patches((part.float() - mean) / std, asking)
            right += int(((pooled @ weight.T + bias).argmax(1) == labels).sum())
    return right / max(1, len(queries))
