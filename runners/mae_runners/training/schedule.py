"""Learning-rate schedules as functions of the optimizer step: nothing to save or restore."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from mae_skill.spec import OptimSpec


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then MultiStep, or a half-cosine or a straight line (poly of power 1) down to
    `min_lr`.

    Attributes:
        kind: `MultiStep`, `cosine` or `poly`.
        lr: the peak rate, already scaled.
        min_lr: where cosine and poly end.
        warmup_steps, total_steps: in optimizer steps.
        milestones: optimizer steps at which MultiStep multiplies by `gamma`.
    """

    kind: str
    lr: float
    min_lr: float
    warmup_steps: int
    total_steps: int
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __call__(self, step: int) -> float:
        """The rate of optimizer step `step` (from 0).

        Warm-up starts from 0, and its first step is already above it.
        """
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.kind in ("cosine", "poly"):
            decaying = max(1, self.total_steps - self.warmup_steps)
            share = min(1.0, (step - self.warmup_steps) / decaying)
            left = 0.5 * (1.0 + math.cos(math.pi * share)) if self.kind == "cosine" else 1.0 - share
            return self.min_lr + (self.lr - self.min_lr) * left
        passed = sum(step >= milestone for milestone in self.milestones)
        return self.lr * self.gamma**passed

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Sets every group's `lr` to this step's rate times the group's `scale`; returns the
        unscaled rate."""
        rate = self(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        return rate


def build_schedule(
    optim: OptimSpec, *, lr: float, steps_per_epoch: int, num_epochs: int
) -> Schedule:
    """The schedule of `train.optim`, with epochs turned into optimizer steps."""
    return Schedule(
        kind=optim.lr_scheduler,
        lr=lr,
        min_lr=min(float(optim.min_lr), lr),
        warmup_steps=round(float(optim.warmup_epochs) * steps_per_epoch),
        total_steps=steps_per_epoch * num_epochs,
        milestones=tuple(int(epoch) * steps_per_epoch for epoch in optim.milestones),
        gamma=float(optim.gamma),
    )
