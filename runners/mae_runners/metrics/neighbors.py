"""The nearest pictures of each picture, exactly, in parts that fit into memory."""

from __future__ import annotations

import torch
from torch import Tensor

QUERIES, BANK = 1024, 65_536  # rows compared at a time: 256 MB of similarities


def nearest(
    features: Tensor, k: int, *, queries: int = QUERIES, bank: int = BANK
) -> tuple[Tensor, Tensor]:
    """The ``k`` rows most similar to each row by cosine, itself left out, most similar first.

    Args:
        features: ``[N, D]``, N > k.
        queries, bank: rows compared at a time.

    Returns:
        Rows, int64 ``[N, k]``, and cosines, float32 ``[N, k]``.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    rows, cosines = [], []
    for start in range(0, len(unit), queries):
        asked = unit[start : start + queries]
        best = asked.new_full((len(asked), k), -2.0)  # below any cosine
        place = torch.zeros((len(asked), k), dtype=torch.int64, device=unit.device)
        for first in range(0, len(unit), bank):
            part = unit[first : first + bank]
            similarity = asked @ part.T
            own = torch.arange(start, start + len(asked), device=unit.device) - first
            inside = (own >= 0) & (own < len(part))
            similarity[inside.nonzero().squeeze(1), own[inside]] = -2.0

            values = torch.cat([best, similarity], dim=1)
            numbers = torch.arange(first, first + len(part), device=unit.device)
            numbers = torch.cat([place, numbers.expand(len(asked), -1)], dim=1)
            best, found = values.topk(k, dim=1)
            place = numbers.gather(1, found)
        rows.append(place)
        cosines.append(best.clamp(-1.0, 1.0))
    return torch.cat(rows), torch.cat(cosines)
