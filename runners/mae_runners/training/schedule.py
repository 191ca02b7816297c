"""Learning-rate schedules as functions of the optimiser step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up for every iteration, then MultiStep, or a half-cosine or a straight line (poly of power 1) down to `min_lr`.

    Attributes:
        kind: `MultiStep`, `cosine` or `poly`.
        lr: the peak rate, already scaled.
        min_lr: where cosine and poly end.
        warmup_steps, total_steps: in optimiser steps.
        milestones: optimiser steps at which MultiStep multiplies by `gamma`.
    """

    kind: str
    lr: float
    min_lr: float
    warmup_steps: int
    total_steps: int
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __call__(self, step: int) -> float:
        """The rate of optimiser step `step` (from 0). Warm-up starts from 0 and its first step is already above it."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.kind in ("cosine", "poly"):
            share = min(
                1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
            )
            left = 0.5 * (1.0 + math.cos(math.pi * share)) if self.kind == "cosine" else 1.0 - share
            return self.min_lr + (self.lr - self.min_lr) * left
        passed = sum(step >= milestone for milestone in self.milestones)
        return self.lr * self.gamma**passed

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Sets every group's `lr` to this step's rate times the group's `scale`; returns the unscaled rate."""
        rate = self(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        return rate


def build_schedule(optim: object, *, lr: float, steps_per_epoch: int, num_epochs: int) -> Schedule:
    """The schedule of `train.optim`, with epochs turned into optimiser steps."""
    return Schedule(
        kind=optim.lr_scheduler,  # type: ignore[attr-defined]
        lr=lr,
        min_lr=min(float(optim.min_lr), lr),  # type: ignore[attr-defined]
        warmup_steps=round(float(optim.warmup_epochs) * steps_per_epoch),  # type: ignore[attr-defined]
        total_steps=steps_per_epoch * num_epochs,
        milestones=tuple(int(epoch) * steps_per_epoch for epoch in optim.milestones),  # type: ignore[attr-defined]
        gamma=float(optim.gamma),  # type: ignore[attr-defined]
    )
