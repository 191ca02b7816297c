"""The training loop: one optimiser step after another, a place that can be left and found again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_skill.errors import PreemptedError

from mae_runners.context import RunContext
from mae_runners.tasks import probes as quality
from mae_runners.tasks.base import Task
from mae_runners.training import checkpointing as saving
from mae_runners.training import nonfinite as capsule
from mae_runners.training import position as resume
from mae_runners.training.fabric import (
    call,
    compiled,
    gradient_norm,
    has_unused,
    host_group,
    is_sharded,
    load_weights,
    make_fabric,
    precision_of,
    restore_optimizer,
)
from mae_runners.training.optim import (
    Traits,
    build_optimizer,
    layerwise_active,
    parameter_groups,
    plain_name,
    scaled_lr,
)
from mae_runners.training.preemption import Preemption
from mae_runners.training.schedule import build_schedule
from mae_runners.training.step_log import Ledger, Step
from mae_runners.training.trackers import Trackers, WeightAverage


class _Stop(Exception):
    """A signal was noticed in the middle of an evaluation."""


class Loop:
    """One run of one task, from its position to the end.

    Args:
        found: the checkpoint to continue from, as `resume.find` gives it, or None.

    Raises (from `run`):
        PreemptedError: a signal asked to stop; a checkpoint was written.
        NumericError: the loss or the gradient is not finite; what is needed to replay the step was written.
    """

    def __init__(
        self, task: Task, spec: Any, context: RunContext, found: dict[str, Any] | None = None
    ) -> None:
        self.task, self.spec, self.context, self.train = task, spec, context, spec.train
        self.folder = context.action_dir
        self.plain_spec: dict[str, Any] = spec.model_dump(mode="json")
        self.preemption = context.preemption or Preemption()
        self.images = len(task.train_indices)
        self.span = (
            int(spec.dataset.batch_size) * context.world_size
        )  # images of a micro-batch, over all ranks
        self.micro_batches = math.ceil(self.images / self.span)
        self.step_span = self.span * self.train.accum_grad_batches
        self.effective_batch = self.step_span
        self.steps_per_epoch = math.ceil(self.images / self.step_span)
        self.data = resume.data_identity(task)
        if found:
            resume.check_data(
                found, self.data, context, explicit=bool(self.train.resume_training_checkpoint_path)
            )
        self._make_model(found)
        self.position = resume.restore_position(found, self.data) if found else resume.Position()
        self.first_step = self.position.step
        self.total_steps = self.first_step + self._steps_left()
        if found:
            resume.warn_when_not_identical(found, self.environment(), context)
        deferred = bool(self.bare_optimizer.defaults.get("fused")) and not self.sharded
        self.ledger = Ledger(deferred, context.device, lambda sums: self.preemption.agree(sums)[1])
        self.shown: dict[str, float] = {}
        self.index = CheckpointIndex(self.folder)
        if context.is_main:
            self.index.set_best_policy(*self.best_metric())
        self.trackers = Trackers(
            self.folder,
            spec.wandb,
            {**self.plain_spec, "encryption_key": None},
            context,
            self.position.step,
        )
        self._derived()

    def _make_model(self, found: dict[str, Any] | None) -> None:
        model, train, context = self.task.model, self.train, self.context
        traits = Traits.of(model)
        self.parameters = sum(p.numel() for p in model.parameters())
        unused = (
            context.world_size > 1 and train.distributed_strategy == "ddp" and has_unused(self.task)
        )
        self.fabric = make_fabric(self.spec, context, model, unused)
        self.preemption.group = host_group(context)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = (
            train.cudnn.benchmark,
            train.cudnn.deterministic,
        )
        if found:
            state = {
                k.removeprefix("model."): v
                for k, v in (found.get("live_state_dict") or found["state_dict"]).items()
            }
            resume.fill(model, state)
        self.module: Any = self.fabric.setup_module(
            compiled(model, context.device) if train.compile else model
        )
        self.lr = scaled_lr(train.optim, self.effective_batch)
        # A resumed run was fine-tuned from pretrained weights when its first attempt was, whether or not the spec still names them.
        self.layerwise = (
            bool(found["layerwise"])
            if found
            else layerwise_active(train.stage, bool(train.pretrained_model_path))
        )
        named = [
            (plain_name(name), parameter) for name, parameter in self.module.named_parameters()
        ]
        groups = parameter_groups(traits, train.optim, layerwise=self.layerwise, named=named)
        self.groups = [
            {"scale": g["scale"], "weight_decay": g["weight_decay"], "parameters": len(g["params"])}
            for g in groups
        ]
        self.bare_optimizer = build_optimizer(
            groups, train.optim, stage=train.stage, lr=self.lr.value, device=context.device
        )
        self.optimizer: Any = self.fabric.setup_optimizers(self.bare_optimizer)
        self.schedule = build_schedule(
            train.optim,
            lr=self.lr.value,
            steps_per_epoch=self.steps_per_epoch,
            num_epochs=train.num_epochs,
        )
        self.ema = WeightAverage(model, train.ema_decay) if train.ema_decay else None
        self.sharded = is_sharded(model)
        self.scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        self.pretrained = found.get("pretrained") if found else task_report(self.task)
        if found:
            if self.ema is not None:
                load_weights(
                    model, {k.removeprefix("model."): v for k, v in found["state_dict"].items()}
                )
                self.ema.take()
                load_weights(model, state)
            restore_optimizer(
                model,
                self.bare_optimizer,
                found["optimizer_states"][0],
                found.get("optimizer_names"),
            )
            if found.get("precision_state"):
                self.fabric.strategy.precision.load_state_dict(found["precision_state"])

    def best_metric(self) -> tuple[str, str]:
        """(metric, direction) that chooses the best checkpoint: an accuracy where there is one, else the monitored loss."""
        if self.task.accuracy and self.task.val is not None:
            return self.task.accuracy, "maximize"
        if (
            self.task.stage == "pretrain"
            and self.spec.dataset.probe_train_data_sources
            and self.train.probe.interval
        ):
            return "knn_acc", "maximize"
        return str(self.train.optim.monitor_name), "minimize"

    def _derived(self) -> None:
        figures = {
            "images": self.images,
            "steps_per_epoch": self.steps_per_epoch,
            "total_steps": self.total_steps,
            "effective_batch": self.effective_batch,
            "learning_rate": self.lr.value,
            "learning_rate_factor": self.lr.factor,
            "layerwise_rates": self.layerwise,
            "parameter_groups": self.groups,
            "precision": precision_of(self.train, self.context.device)[1].removeprefix(
                "precision "
            ),
            "device": str(self.context.device),
            "processes": self.context.world_size,
            "parameters": self.parameters,
            "best_checkpoint_by": " ".join(self.best_metric()),
            "pretrained": self.pretrained,
        }
        if self.context.is_main:
            (self.folder / "derived.json").write_text(json.dumps(figures, indent=2) + "\n")
        shown = (
            "images",
            "steps_per_epoch",
            "effective_batch",
            "learning_rate",
            "precision",
            "device",
            "processes",
            "parameters",
        )
        self.context.log("  ".join(f"{name} {figures[name]}" for name in shown))

    # ---- the run -----------------------------------------------------------------------------------------------------------------
    def run(self) -> dict[str, float]:
        """Trains to the end; returns the last epoch's metrics."""
        self.preemption.begin()
        self.task.between_batches = self._look_for_signal
        with self.context.progress(
            self.total_steps, self.task.stage, initial=self.first_step
        ) as progress:
            try:
                while self.position.epoch < self.train.num_epochs and not self._stale():
                    if self.preemption.agree()[0]:
                        self._leave()
                    self._epoch(progress)
            finally:
                if (
                    self.context.preemption is None
                ):  # else whoever made it still needs it: the result is not written yet
                    self.preemption.release()
                self.trackers.close()
        if self._stale():
            self.context.log(
                f"early stopping: {self.train.optim.monitor_name} has not fallen for {self.position.stale_epochs} epochs"
            )
        return self.position.metrics

    def _steps_left(self) -> int:
        """Optimiser steps to the end of the last epoch."""
        epochs = self.train.num_epochs - self.position.epoch
        return (
            0
            if epochs <= 0
            else math.ceil((self.images - self.position.place) / self.step_span)
            + (epochs - 1) * self.steps_per_epoch
        )

    def _look_for_signal(self) -> None:
        if self.preemption.agree()[0]:
            raise _Stop

    def _leave(self) -> None:
        """Ends the run after a signal; saves where something was trained since the start."""
        position, what = self.position, "nothing was trained since the start"
        self._read()
        if position.step > self.first_step:
            whole = position.batch == 0
            name = (
                f"model_epoch_{position.epoch - whole:03d}"
                + ("" if whole else f"_step_{position.step:05d}")
                + ".pth"
            )
            if not (whole and (self.folder / name).exists()):
                saving.save(self, self.folder / name, position.metrics if whole else None)
            what = "a checkpoint was written"
        self.trackers.flush()
        raise PreemptedError(
            f"stopped by a signal after step {position.step}; {what}",
            hint="resume the job, or run the same command again",
        )

    def _epoch(self, progress: Any) -> None:
        position, started = self.position, time.monotonic()
        first_step, ranks = position.step, self.context.world_size
        self.module.train()
        self.optimizer.zero_grad()
        step = self._new_step()
        for batch in self.task.train_loader(position.epoch, position.place):
            resume.seed_all(self.task.seed, position.epoch, position.batch, self.context.rank)
            batch, count = self.task.counted(batch)
            batch = self.task.to_device(batch)
            last = position.place + self.span >= self.images
            boundary = last or len(step.losses) + 1 == self.train.accum_grad_batches
            key = (
                self.task.seed,
                position.epoch * self.micro_batches + position.batch,
                self.context.rank,
            )
            # Every image of the step weighs the same, wherever it lies; the ranks' gradients are averaged, hence their number.
            weight: Any = (
                count
                * ranks
                / self._images_of_step(step.places[0][0] if step.places else position.place)
            )
            if self.ledger.deferred and self.scaler is not None:
                weight = weight * self.ledger.poison()
            with self.fabric.no_backward_sync(self.module, enabled=not boundary and ranks > 1):
                loss = self.task.loss(self.module, batch, key)
                self.fabric.backward(loss * weight)
            step.places.append((position.place, position.batch))
            step.losses.append(loss.detach())
            step.counts.append(count)
            position.batch += 1
            position.place += self.span
            if boundary:
                self._step(progress, step, last)
                step = self._new_step()
        self._close_epoch(time.monotonic() - started, position.step - first_step)

    def _new_step(self) -> Step:
        position = self.position
        return Step(
            position.step + 1,
            position.epoch,
            0.0,
            [],
            [],
            [],
            torch.zeros(()),
            self.scaler is not None,
        )

    def _images_of_step(self, start: int) -> int:
        """Images of the optimiser step that begins at a place of the epoch's order, over all ranks."""
        return min(self.images, start + self.step_span) - start

    def _step(self, progress: Any, step: Step, last: bool) -> None:
        position = self.position
        stop, (valid,) = self.preemption.agree([float(sum(step.counts))])
        start = step.places[0][0]
        wanted = self._images_of_step(start)
        if 0 < valid < wanted:  # some images were unreadable: those that are left make up the mean
            torch._foreach_mul_(
                [p.grad for p in self.module.parameters() if p.grad is not None], wanted / valid
            )
        step.norm = gradient_norm(self.bare_optimizer, self.scaler, self.train.clip_grad_norm)
        step.rate = self.schedule.apply(
            self.bare_optimizer, position.epoch * self.steps_per_epoch + start // self.step_span
        )
        self.ledger.add(step)
        if not self.ledger.deferred:
            self._read()
        self.ledger.guard(self.bare_optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update()
        position.step += 1
        by_step = (
            self.train.checkpoint_interval_unit == "step"
            and position.step % self.train.checkpoint_interval == 0
        )
        if stop or last or by_step or self.ledger.full:
            self._read()
        progress.advance(1, **self.shown)
        if stop:
            self._leave()
        if by_step and not last:
            saving.save(
                self, self.folder / f"model_epoch_{position.epoch:03d}_step_{position.step:05d}.pth"
            )

    def _read(self) -> None:
        """Brings the numbers of the last steps from the device to the trackers; raises on one that is not finite."""
        for item in self.ledger.read():
            step = item.step
            if item.bad:
                capsule.fail(self, item)
            values = {"train_loss_step": item.loss, "lr": step.rate}
            if math.isfinite(item.norm):  # under an fp16 scaler others are met, and skipped
                values["grad_norm"] = item.norm
            self.trackers.log(step.number, step.epoch, values)
            self.position.loss_sum += item.loss_sum
            self.position.loss_count += item.count
            self.shown = {"loss": item.loss, "lr": step.rate}

    def _close_epoch(self, seconds: float, steps: int) -> None:
        position, epoch = self.position, self.position.epoch
        metrics: dict[str, float] = {"train_loss": position.loss_sum / max(position.loss_count, 1)}
        final = epoch + 1 == self.train.num_epochs
        validated = final or (epoch + 1) % self.train.validation_interval == 0
        watched = position.best, position.stale_epochs
        try:
            if validated:
                metrics |= self._judge(self._validate)
            self._watch(metrics)
            stopping = self._stale()
            if stopping and not validated:  # the last checkpoint must carry what chooses the best
                metrics |= self._judge(self._validate)
            metrics |= self._judge(
                lambda: quality.after_epoch(
                    self.task, self, self.trackers, position.step, epoch, final or stopping
                )
            )
        except _Stop:  # the epoch's evaluation starts over in the next attempt
            position.best, position.stale_epochs = watched
            self._leave()
        position.epoch, position.batch, position.place, position.metrics = epoch + 1, 0, 0, metrics
        position.loss_sum, position.loss_count = 0.0, 0.0
        by_epoch = (
            self.train.checkpoint_interval_unit == "epoch"
            and (epoch + 1) % self.train.checkpoint_interval == 0
        )
        by_step = (
            self.train.checkpoint_interval_unit == "step"
            and position.step % self.train.checkpoint_interval == 0
        )
        self.trackers.log(position.step, epoch, metrics)
        if by_epoch or by_step or final or stopping:
            saving.save(self, self.folder / f"model_epoch_{epoch:03d}.pth", metrics)
        self.trackers.flush()
        self._report(epoch, metrics, seconds, steps)

    def _validate(self) -> dict[str, float]:
        return self.task.validate(self.module, lambda values: self.preemption.agree(values)[1])

    # ---- what an evaluation needs of the ranks (quality.Ranks) -------------------------------------------------------------------
    def call(self, name: str, *args: Any, **options: Any) -> Any:
        """A method of the model; see `wrap.call`."""
        return call(self.task.model, name, *args, **options)

    def gather(self, value: Any) -> list[Any]:
        return self.preemption.gather(value)

    def _judge(self, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What `measure` finds with the model in evaluation mode and, where there is one, the average of weights in its place."""
        if self.ema is not None:
            self.ema.swap()
        try:
            self.module.eval()
            return measure()
        finally:
            if self.ema is not None:
                self.ema.swap()

    def _report(self, epoch: int, metrics: dict[str, float], seconds: float, steps: int) -> None:
        left = self.train.num_epochs - epoch - 1
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.context.log(f"epoch {epoch}: {shown}  ({seconds:.1f} s)")
        self.context.status.running(
            f"epoch {epoch} of {self.train.num_epochs}",
            epoch=epoch,
            step=self.position.step,
            max_epoch=self.train.num_epochs,
            max_step=self.total_steps,
            time_per_epoch=round(seconds, 3),
            time_per_step=round(seconds / max(steps, 1), 4),
            eta=round(left * seconds, 1),
            kpi=metrics,
        )

    def _watch(self, metrics: dict[str, float]) -> None:
        """What early stopping remembers."""
        stopping, value = self.train.early_stopping, metrics.get(str(self.train.optim.monitor_name))
        if stopping.patience is None or value is None:
            return
        if self.position.best is None or value < self.position.best - stopping.min_delta:
            self.position.best, self.position.stale_epochs = value, 0
        else:
            self.position.stale_epochs += 1

    def _stale(self) -> bool:
        patience = self.train.early_stopping.patience
        return patience is not None and self.position.stale_epochs >= patience

    def environment(self) -> dict[str, Any]:
        """What a bit-identical continuation depends on."""
        return resume.environment(self.context.world_size, self.effective_batch)


def task_report(task: Task) -> dict[str, Any] | None:
    """How the pretrained weights fitted, as plain JSON."""
    return task.report.to_dict() if task.report else None
