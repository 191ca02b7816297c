"""Losses and gradient norms of the steps done, read from the device before anything relies on them.

Reading a number from a GPU waits for all the work queued there. So the numbers stay on the device
for some steps; on a CPU, where nothing is queued, they are read at every step. A step that is not
finite never reaches the weights: on a CPU it is found before the optimizer steps; on a GPU the
optimizer's own kernel skips it, and every step after it, until the log is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mae_runners.distributed import Ranks

READ_EVERY = 10  # steps, on a GPU


@dataclass
class StepRecord:
    """One optimizer step: first as this rank did it, then, once read, as all ranks saw it.

    Attributes:
        number: steps done when it is done.
        epoch, lr: of the step.
        scaled: under an fp16 scaler, which skips non-finite gradients by itself.
        places: (place in the epoch's order, number of the micro-batch) of every micro-batch.
        losses: mean losses, scalars on the device.  counts: images behind each.
        norm: of the whole gradient, a scalar on the device.

        own_losses: `losses`, as numbers.
        loss_sum, count: summed loss and number of the images of all ranks.
        gradient_norm: `norm`, as a number.
        bad: the number of ranks on which something was not finite.
    """

    number: int
    epoch: int
    scaled: bool
    lr: float = 0.0
    places: list[tuple[int, int]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    norm: Tensor = field(default_factory=lambda: torch.zeros(()))

    own_losses: list[float] = field(default_factory=list)
    loss_sum: float = 0.0
    count: float = 0.0
    gradient_norm: float = 0.0
    bad: int = 0

    @property
    def loss(self) -> float:
        """The mean over the step's images."""
        return self.loss_sum / max(self.count, 1.0)

    def read(self, values: list[float]) -> None:
        """Takes the numbers of this rank: the losses, then the gradient's norm."""
        *self.own_losses, self.gradient_norm = values
        finite = all(map(math.isfinite, self.own_losses))
        self.bad = int(not finite or not (self.scaled or math.isfinite(self.gradient_norm)))
        losses = zip(self.own_losses, self.counts, strict=True)
        self.loss_sum = sum(loss * count for loss, count in losses if count)
        self.count = sum(self.counts)


class StepLog:
    """The steps not read yet, and the flag on the device that says that one was not finite.

    Args:
        deferred: keep the numbers on the device for `READ_EVERY` steps; needs a fused optimizer,
            whose kernel heeds the flag.
    """

    def __init__(self, deferred: bool, device: torch.device, ranks: Ranks) -> None:
        self.deferred, self.ranks = deferred, ranks
        self.steps: list[StepRecord] = []
        self.flag = torch.zeros((), device=device)

    @property
    def full(self) -> bool:
        return len(self.steps) >= (READ_EVERY if self.deferred else 1)

    def add(self, step: StepRecord) -> None:
        self.steps.append(step)
        if self.deferred:
            watched = step.losses if step.scaled else [*step.losses, step.norm]
            finite = torch.stack([value.detach().float() for value in watched]).isfinite().all()
            self.flag = torch.maximum(self.flag, (~finite).float())

    def poison(self) -> Tensor:
        """1, or NaN after a step that was not finite.

        A loss times this lets an fp16 scaler skip the step.
        """
        return torch.where(self.flag > 0, torch.nan, 1.0)

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Lets the fused kernel skip the update when the flag is up.

        An fp16 scaler sets the same attribute by itself.
        """
        if self.deferred:
            optimizer.found_inf = self.flag  # type: ignore[attr-defined]

    def read(self) -> list[StepRecord]:
        """All steps since the last call, in order; every rank must call it at the same place."""
        steps, self.steps = self.steps, []
        if not steps:
            return []
        values: list[float] = torch.stack(
            [value.detach().float() for step in steps for value in (*step.losses, step.norm)]
        ).tolist()
        for step in steps:
            count = len(step.losses) + 1
            step.read(values[:count])
            values = values[count:]

        sums = torch.tensor([(s.loss_sum, s.count, s.bad) for s in steps], dtype=torch.float64)
        for step, (loss_sum, count, bad) in zip(
            steps, self.ranks.sum_over_ranks(sums).tolist(), strict=True
        ):
            step.loss_sum, step.count, step.bad = loss_sum, count, int(bad)
        return steps
