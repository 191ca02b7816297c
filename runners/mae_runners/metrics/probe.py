"""How good are the features? kNN and a linear probe on frozen, unmasked, pooled features.

kNN: weighted by exp(cosine / 0.07), as in instance discrimination (arXiv 1805.01978) and DINO (arXiv 2104.14294).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.07


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor | None,
    query_labels: Tensor | None,
    k: int = 20,
    chunk: int = 1024,
) -> float:
    """Top-1 accuracy of weighted k-nearest neighbours.

    Args:
        bank: [N, D] features; `bank_labels`: [N] int64.
        queries: [M, D], or None: every bank entry is judged by the others (leave one out).
        k: neighbours, at most what the bank has.

    Returns:
        A share in 0…1.
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


def linear_probe_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    steps: int = 100,
    weight_decay: float = 1e-3,
) -> float:
    """Top-1 accuracy of multinomial logistic regression on standardised features (L-BFGS from zero: deterministic). Shapes as `knn_accuracy`."""
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
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[arg-type]
    return float(((q @ weight.T + bias).argmax(1) == query_labels).float().mean())


def split_bank(labels: Tensor, seed: int, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """A seeded split, stratified by class, of a bank that has no test half: indices (train, held out)."""
    generator = torch.Generator().manual_seed(seed)
    held: list[Tensor] = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        count = max(1, round(share * len(members))) if len(members) > 1 else 0
        held.append(members[torch.randperm(len(members), generator=generator)[:count]])
    out = torch.cat(held) if held else torch.empty(0, dtype=torch.int64)
    mask = torch.ones(len(labels), dtype=torch.bool)
    mask[out] = False
    return mask.nonzero().flatten(), out.sort().values
