"""Refining a trained encoder by contrast: its last blocks learn that two views are of one picture.

The objective is nearest-neighbor alignment (NNA) of MIM-Refiner (Alkin et al., arXiv 2402.10093):
that of NNCLR (Dwibedi et al., arXiv 2104.14548), which MAE-CT (Lehner et al., arXiv 2304.10520)
took for this stage, with neighbors in the place of the positive alone. Of the papers it leaves out
the heads at blocks before the last, the averaged encoder and the small crops.

B pictures of this process, G of all, D the width of the features, P that of a projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 256
"""Of a projection, as in the papers."""
MAX_HIDDEN = 2048
"""Of the heads' hidden layers: the papers'; narrow encoders have four times their own width."""


class RefineOutput(NamedTuple):
    """What a step returns: ``loss``, a scalar in fp32 or wider."""

    loss: Tensor


class Refiner(nn.Module):
    """The heads of the contrast, its loss, and the queue of neighbors.

    The heads standardize over the pictures of a process (batch normalization without running
    statistics: nothing of it outlives a step). Negatives and the queue are of all processes.

    Args:
        features: D.
        config: ``blocks`` that learn, ``temperature``, ``queue_size``, ``neighbors``.

    Attributes:
        queue: normalized projections of earlier pictures, newest first; zeros where none is yet.
        alone: one process makes a step without the others, and exchanges nothing with them.
    """

    queue: Tensor  # [Q, P]

    def __init__(self, features: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.temperature = float(config["temperature"])
        self.neighbors = int(config["neighbors"])
        hidden = min(MAX_HIDDEN, 4 * features)
        self.projector = nn.Sequential(*_layers(features, hidden, hidden, WIDTH))
        self.predictor = nn.Sequential(*_layers(WIDTH, hidden, WIDTH))
        self.register_buffer("queue", torch.zeros(int(config["queue_size"]), WIDTH))
        self.alone = False

    def forward(self, features: Tensor) -> Tensor:
        """The loss of features ``[2·B, D]``: the first views of B pictures, then the second.

        With p the predictions and z the projections, all of length 1, sg no gradient and τ the
        temperature (NNA, arXiv 2402.10093)::

            −log exp(nn(z_i) · p_i / τ) / (exp(nn(z_i) · p_i / τ) + Σ_{j≠i} exp(sg(z_j) · p_i / τ))

        where z is of one view and p of the other; the mean over both ways and all pictures.
        """
        projected = self.projector(features)
        predicted = self.predictor(projected)
        # Under mixed precision similarities and loss are still taken in fp32.
        wide = projected.dtype if projected.element_size() > 4 else torch.float32
        with torch.autocast(features.device.type, enabled=False):
            return self._loss(projected.detach().to(wide), predicted.to(wide))

    def _loss(self, projected: Tensor, predicted: Tensor) -> Tensor:
        """`forward` behind the heads, ``[2·B, P]`` each."""
        z, p = F.normalize(projected, dim=-1), F.normalize(predicted, dim=-1)
        count = len(z) // 2
        keys, drawn, first = self._keys(z.unflatten(0, (2, count)))
        own = torch.arange(first, first + count, device=z.device)
        ways = []
        for key, near, query in zip(keys, drawn, p.unflatten(0, (2, count)).flip(0), strict=True):
            logits = query @ key.T  # [B, G]
            positive = (query * near).sum(dim=-1)
            logits = logits.scatter(1, own.unsqueeze(1), positive.unsqueeze(1))
            ways.append(F.cross_entropy(logits / self.temperature, own))
        return torch.stack(ways).mean()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _keys(self, z: Tensor) -> tuple[Tensor, Tensor, int]:
        """Of this process's projections ``[2, B, P]`` those of all processes ``[2, G, P]``, a
        neighbor of each of its own ``[2, B, P]``, and the place of its first picture in G.

        The queue takes the first views of all, after neighbors were looked up in it.
        """
        nearest = self._neighbors(z.flatten(0, 1)).view_as(z)
        keys, first = z, 0
        if dist.is_available() and dist.is_initialized() and not self.alone:
            keys, first = _of_all_ranks(z)
        self.queue.copy_(torch.cat([keys[0].to(self.queue), self.queue])[: len(self.queue)])
        return keys, nearest, first

    def _neighbors(self, z: Tensor) -> Tensor:
        """One of the nearest of the queue to each of ``z [N, P]``, drawn evenly; as long as the
        queue holds too few, ``z`` itself."""
        similar = z @ self.queue.to(z).T  # [N, Q]
        filled = self.queue.any(dim=-1)
        similar = similar.masked_fill(~filled, -torch.inf)
        found = similar.topk(min(self.neighbors, len(self.queue)), dim=-1)
        chosen = torch.randint(found.indices.shape[1], (len(z), 1), device=z.device)
        places, values = (part.gather(1, chosen)[:, 0] for part in (found.indices, found.values))
        return torch.where(values.isfinite().unsqueeze(1), self.queue[places].to(z), z)


def _layers(width: int, *widths: int) -> list[nn.Module]:
    """Linear layers, all but the last followed by batch normalization and ReLU."""
    found: list[nn.Module] = []
    for number, out in enumerate(widths):
        found.append(nn.Linear(width, out))
        if number < len(widths) - 1:
            found += [nn.BatchNorm1d(out, track_running_stats=False), nn.ReLU()]
        width = out
    return found


def _of_all_ranks(z: Tensor) -> tuple[Tensor, int]:
    """``z [2, B, P]`` of every rank in their order, ``[2, G, P]``, and the place of this rank's
    first. B may differ between ranks."""
    counts = [
        torch.zeros(1, dtype=torch.int64, device=z.device) for _ in range(dist.get_world_size())
    ]
    dist.all_gather(counts, torch.tensor([z.shape[1]], device=z.device))
    sizes = [int(count) for count in counts]

    padded = F.pad(z, (0, 0, 0, max(sizes) - z.shape[1])).contiguous()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    joined = torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)
    return joined, sum(sizes[: dist.get_rank()])
