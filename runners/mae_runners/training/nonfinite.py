"""What is needed to look at a step that was not finite: its batch, its seed, the weights before it,
the norms of its gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from mae_skill.errors import NumericError

from mae_runners.distributed import Ranks, is_sharded
from mae_runners.models import checkpoint
from mae_runners.models.refine import Refiner
from mae_runners.tasks.base import Batch, Task, counted, seed_all
from mae_runners.training.fabric import full_states
from mae_runners.training.lightning import Fabric
from mae_runners.training.step_log import StepRecord


@dataclass
class StepReplay:
    """Makes a step of a run again, and ends the run with what it found.

    Attributes:
        fabric: for its arithmetic (autocast).  optimizer: the bare one.
        folder: the action's.  micro_batches: of an epoch.
    """

    task: Task
    ranks: Ranks
    fabric: Fabric
    optimizer: torch.optim.Optimizer
    folder: Path
    micro_batches: int

    def fail(self, step: StepRecord) -> NoReturn:
        """Writes `nonfinite_step_N_rank_R.pth` on the ranks concerned and raises.

        Every rank must call it.

        Raises:
            NumericError: always, with the same text on every rank.
        """
        context, model = self.task.context, self.task.model
        sharded, number = is_sharded(model), step.number - 1
        own = not all(map(math.isfinite, step.own_losses))
        anywhere = any(self.ranks.gather(own))
        state = checkpoint.model_state(model) if not sharded else {}
        if sharded:
            weights, _ = full_states(model, self.optimizer)
            state = {f"model.{name}": tensor for name, tensor in weights.items()}

        report: dict[str, Any] | None = None
        if own or not anywhere or (sharded and context.is_main):
            found = self.replay(step)
            name = f"nonfinite_step_{number:05d}_rank_{context.rank}.pth"
            checkpoint.save(
                {
                    **found,
                    "step": number,
                    "gradient_norm": step.gradient_norm,
                    "state_dict": state,
                },
                self.folder / name,
                context.encryption_key,
            )
            images = [self.task.train.path(int(i)) for i in found["batch"]["index"][:8]]
            report = {"name": name, "loss": found["loss"], "images": images}

        first = next(item for item in self.ranks.gather(report) if item is not None)
        what = (
            f"the loss became {first['loss']} at step {number}"
            if anywhere
            else f"the gradient became {step.gradient_norm} at step {number}, "
            f"at a loss of {step.loss:.6g}"
        )
        raise NumericError(
            what,
            field="train.optim.lr",
            got={"learning_rate": step.lr, "images": first["images"]},
            expected="a finite loss and a finite gradient",
            hint="lower train.optim.lr, lengthen warmup_epochs, set train.clip_grad_norm=1.0 or "
            f"precision=fp32; {first['name']} replays the step",
        )

    def replay(self, step: StepRecord) -> dict[str, Any]:
        """The micro-batch at fault, made again from its place, and the norm of every gradient.

        At fault is the first whose loss is not finite, else the first whose gradient is not, else
        the first. Sharded weights cannot be run by one rank: there the norms are those of the
        gradients that are left.
        """
        model: Any = self.task.model
        losses = step.own_losses
        chosen: dict[str, Any] | None = None
        suspects = [i for i, loss in enumerate(losses) if not math.isfinite(loss)]
        for number in suspects or range(len(losses)):
            place, micro = step.places[number]
            batch, _ = counted(next(iter(self.task.train_loader(step.epoch, place, workers=0))))
            key = [self.task.seed, step.epoch, micro, self.ranks.rank]
            if is_sharded(model):
                norms = {
                    name: float(p.grad.to_local().norm())
                    for name, p in model.named_parameters()
                    if p.grad is not None
                }
            else:
                norms = self.gradient_norms(batch, key)
            found = {
                "batch": batch,
                "seed_key": key,
                "loss": losses[number],
                "gradient_norms": norms,
            }
            if not math.isfinite(losses[number]) or not all(map(math.isfinite, norms.values())):
                return found
            chosen = chosen or found
        assert chosen is not None
        return chosen

    def gradient_norms(self, batch: Batch, key: list[int]) -> dict[str, float]:
        """Parameter → norm of its gradient for one micro-batch, by the bare model of this rank."""
        task, model = self.task, self.task.model
        for part in model.modules():
            if isinstance(part, Refiner):
                part.alone = True  # the other ranks may not replay theirs
        model.train()
        model.zero_grad(set_to_none=True)
        seed, epoch, micro, rank = key
        seed_all(seed, epoch, micro, rank)
        with self.fabric.autocast():
            loss = task.training_step(
                model, task.to_device(batch), (seed, epoch * self.micro_batches + micro, rank)
            )
        loss.backward()
        return {
            name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None
        }
