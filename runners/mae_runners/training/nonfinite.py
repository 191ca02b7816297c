"""What is needed to look at a step that was not finite: its batch, its seed, the weights before it, the norms of its gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from mae_skill.errors import NumericError

from mae_runners.models import checkpoint
from mae_runners.training import position as resume
from mae_runners.training.fabric import full_states
from mae_runners.training.step_log import Reading, Step


def fail(loop: Any, reading: Reading) -> None:
    """Writes `nonfinite_step_N_rank_R.pth` on the ranks concerned and raises. Every rank must call it.

    Raises:
        NumericError: always, with the same text on every rank.
    """
    step, context = reading.step, loop.context
    sharded = loop.sharded
    own = not all(map(math.isfinite, reading.own_losses))
    anywhere = any(loop.preemption.gather(own))
    state: dict[str, Any] = {}
    if sharded:
        weights, _ = full_states(loop.task.model, loop.bare_optimizer)
        state = {f"model.{name}": tensor for name, tensor in weights.items()}
    told: dict[str, Any] | None = None
    if own or not anywhere or (sharded and context.is_main):
        found = replay(loop, step, reading.own_losses, sharded)
        name = f"nonfinite_step_{step.number - 1:05d}_rank_{context.rank}.pth"
        checkpoint.save(
            {
                **found,
                "step": step.number - 1,
                "gradient_norm": reading.norm,
                "state_dict": state or checkpoint.model_state(loop.task.model),
            },
            loop.folder / name,
            context.encryption_key,
        )
        images = [loop.task.train.path(int(index)) for index in found["batch"]["index"][:8]]
        told = {"name": name, "loss": found["loss"], "images": images}
    first = next(item for item in loop.preemption.gather(told) if item is not None)
    what = (
        f"the loss became {first['loss']} at step {step.number - 1}"
        if anywhere
        else f"the gradient became {reading.norm} at step {step.number - 1}, at a loss of {reading.loss:.6g}"
    )
    raise NumericError(
        what,
        field="train.optim.lr",
        got={"learning_rate": step.rate, "images": first["images"]},
        expected="a finite loss and a finite gradient",
        hint="lower train.optim.lr, lengthen warmup_epochs, set train.clip_grad_norm=1.0 or precision=fp32; "
        f"{first['name']} replays the step",
    )


def replay(loop: Any, step: Step, losses: list[float], sharded: bool) -> dict[str, Any]:
    """The micro-batch at fault (the first whose loss is not finite, else whose gradient is not, else the first) made again from its
    place, with the norm of every gradient. Sharded weights cannot be run by one rank: there the norms are those that are left."""
    chosen: dict[str, Any] | None = None
    suspects = [number for number, loss in enumerate(losses) if not math.isfinite(loss)] or range(
        len(losses)
    )
    for number in suspects:
        place, micro = step.places[number]
        batch = next(iter(loop.task.train_loader(step.epoch, place, workers=0)))
        batch, _ = loop.task.counted(batch)
        key = [loop.task.seed, step.epoch, micro, loop.context.rank]
        if sharded:
            norms = {
                name: float(p.grad.to_local().norm())
                for name, p in loop.task.model.named_parameters()
                if p.grad is not None
            }
        else:
            norms = gradient_norms(loop, batch, key)
        found = {"batch": batch, "seed_key": key, "loss": losses[number], "gradient_norms": norms}
        if not math.isfinite(losses[number]) or not all(map(math.isfinite, norms.values())):
            return found
        chosen = chosen or found
    assert chosen is not None
    return chosen


def gradient_norms(loop: Any, batch: dict[str, torch.Tensor], key: list[int]) -> dict[str, float]:
    """Parameter → norm of its gradient for one micro-batch, on the bare model, without any exchange between ranks."""
    task = loop.task
    task.model.train()
    task.model.zero_grad(set_to_none=True)
    seed, epoch, micro, rank = key
    resume.seed_all(seed, epoch, micro, rank)
    with loop.fabric.autocast():
        loss = task.loss(
            task.model, task.to_device(batch), (seed, epoch * loop.micro_batches + micro, rank)
        )
    loss.backward()
    return {
        name: float(p.grad.norm())
        for name, p in task.model.named_parameters()
        if p.grad is not None
    }
