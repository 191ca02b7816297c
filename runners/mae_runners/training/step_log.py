"""Losses and gradient norms of the steps that were done: read from the device now and then, judged before anything relies on them.

Reading a number from a GPU waits for all the work queued there. So the numbers stay on the device for some steps; on a CPU, where nothing
is queued, they are read at every step. A step that is not finite never reaches the weights: on a CPU it is found before the optimiser
steps, on a GPU the optimiser's own kernel skips it and every step after it, until the ledger is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

READ_EVERY = 10  # steps, on a GPU


@dataclass
class Step:
    """One optimiser step of this rank.

    Attributes:
        number: steps done when it is done.
        epoch, rate: of the step.
        places: (place in the epoch's order, number of the micro-batch) of every micro-batch.
        losses: mean losses, scalars on the device.  counts: images behind each.
        norm: of the whole gradient, a scalar on the device.
        scaled: under an fp16 scaler, which skips non-finite gradients by itself.
    """

    number: int
    epoch: int
    rate: float
    places: list[tuple[int, int]]
    losses: list[Tensor]
    counts: list[int]
    norm: Tensor
    scaled: bool


@dataclass
class Reading:
    """A step as all ranks saw it. `loss` is the mean over its images; `bad` says on how many ranks something was not finite; `own_losses`
    are this rank's, one a micro-batch."""

    step: Step
    loss_sum: float
    count: float
    norm: float
    bad: int
    own_losses: list[float] = field(default_factory=list)

    @property
    def loss(self) -> float:
        return self.loss_sum / max(self.count, 1.0)


class Ledger:
    """The steps not read yet, and the flag on the device that says that one of them was not finite.

    Args:
        deferred: keep the numbers on the device for `READ_EVERY` steps; needs a fused optimiser, whose kernel heeds the flag.
        agree: sums a list of numbers over ranks.
    """

    def __init__(self, deferred: bool, device: torch.device, agree: Any) -> None:
        self.deferred, self.agree = deferred, agree
        self.steps: list[Step] = []
        self.flag = torch.zeros((), device=device)

    @property
    def full(self) -> bool:
        return len(self.steps) >= (READ_EVERY if self.deferred else 1)

    def add(self, step: Step) -> None:
        self.steps.append(step)
        if self.deferred:
            judged = step.losses if step.scaled else [*step.losses, step.norm]
            finite = torch.stack([value.detach().float() for value in judged]).isfinite().all()
            self.flag = torch.maximum(self.flag, (~finite).float())

    def poison(self) -> Tensor:
        """1, or NaN after a step that was not finite: a loss times this lets an fp16 scaler skip the step."""
        return torch.where(self.flag > 0, torch.nan, 1.0)

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Lets the fused kernel skip the update when the flag is up. (An fp16 scaler sets the same attribute by itself.)"""
        if self.deferred:
            optimizer.found_inf = self.flag  # type: ignore[attr-defined]

    def read(self) -> list[Reading]:
        """All steps since the last call, in order; every rank must call it at the same place."""
        steps, self.steps = self.steps, []
        if not steps:
            return []
        values = torch.stack(
            [value.detach().float() for step in steps for value in (*step.losses, step.norm)]
        ).tolist()
        found: list[Reading] = []
        for step in steps:
            losses = [values.pop(0) for _ in step.losses]
            norm = values.pop(0)
            bad = not all(map(math.isfinite, losses)) or not (step.scaled or math.isfinite(norm))
            total = sum(
                loss * count for loss, count in zip(losses, step.counts, strict=True) if count
            )
            found.append(Reading(step, total, sum(step.counts), norm, int(bad), losses))
        sums = self.agree(
            [number for item in found for number in (item.loss_sum, item.count, float(item.bad))]
        )
        for number, item in enumerate(found):
            item.loss_sum, item.count, item.bad = (
                sums[3 * number],
                sums[3 * number + 1],
                int(sums[3 * number + 2]),
            )
        return found
