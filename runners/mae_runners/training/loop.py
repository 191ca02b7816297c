"""The training loop: one optimiser step after another, a place that can be left and found again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mae_sdk.jobfolder.checkpoints import CheckpointIndex
from mae_skill.errors import NumericError, PreemptedError

from mae_runners import checkpoint
from mae_runners.context import RunContext
from mae_runners.training import quality, resume
from mae_runners.training.callbacks import Preemption, Trackers, WeightAverage
from mae_runners.training.optim import build_optimizer, layerwise_active, parameter_groups, plain_name, scaled_lr
from mae_runners.training.schedule import build_schedule
from mae_runners.training.task import Task
from mae_runners.training.wrap import full_states, has_unused, host_group, make_fabric, precision_of, restore_states


class Loop:
    """One run of one task, from its position to the end.

    Raises (from `run`):
        PreemptedError: a signal asked to stop; a checkpoint was written.
        NumericError: the loss is not finite; what is needed to replay the step was written.
    """

    def __init__(self, task: Task, spec: Any, context: RunContext) -> None:
        self.task, self.spec, self.context, self.train = task, spec, context, spec.train
        self.folder = context.action_dir
        self.plain_spec: dict[str, Any] = spec.model_dump(mode="json")
        self.preemption = Preemption()
        found = resume.find(self.folder, self.train.resume_training_checkpoint_path, self.plain_spec, context)
        self.micro_batches = task.batches_per_epoch()
        self.steps_per_epoch = math.ceil(self.micro_batches / self.train.accum_grad_batches)
        self.total_steps = self.steps_per_epoch * self.train.num_epochs
        self.effective_batch = int(spec.dataset.batch_size) * self.train.accum_grad_batches * context.world_size
        self._make_model(found)
        self.position = resume.restore_position(found, context) if found else resume.Position()
        if found:
            resume.warn_when_not_identical(found, context)
        self.index = CheckpointIndex(self.folder)
        if context.is_main:
            self.index.set_best_policy(*self.best_metric())
        self.trackers = Trackers(self.folder, spec.wandb, {**self.plain_spec, "encryption_key": None}, context, self.position.step)
        self._derived()

    def _make_model(self, found: dict[str, Any] | None) -> None:
        model, train, context = self.task.model, self.train, self.context
        model._shapes_before_wrapping = {name: tuple(p.shape) for name, p in model.named_parameters()}
        unused = context.world_size > 1 and train.distributed_strategy == "ddp" and has_unused(self.task)
        self.fabric = make_fabric(self.spec, context, model, unused)
        self.preemption.group = host_group(context)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = train.cudnn.benchmark, train.cudnn.deterministic
        if found:
            state = {k.removeprefix("model."): v for k, v in (found.get("live_state_dict") or found["state_dict"]).items()}
            model.load_state_dict(state)
        self.module: Any = self.fabric.setup_module(torch.compile(model) if train.compile else model)
        self.lr = scaled_lr(train.optim, self.effective_batch)
        # A resumed run was fine-tuned from pretrained weights when its first attempt was, whether or not the spec still names them.
        self.layerwise = bool(found["layerwise"]) if found else layerwise_active(train.stage, bool(train.pretrained_model_path))
        named = [(plain_name(name), parameter) for name, parameter in self.module.named_parameters()]
        groups = parameter_groups(model, train.optim, layerwise=self.layerwise, named=named)
        self.groups = [{"scale": g["scale"], "weight_decay": g["weight_decay"], "parameters": len(g["params"])} for g in groups]
        self.bare_optimizer = build_optimizer(groups, train.optim, stage=train.stage, lr=self.lr.value, device=context.device)
        self.optimizer: Any = self.fabric.setup_optimizers(self.bare_optimizer)
        self.schedule = build_schedule(train.optim, lr=self.lr.value, steps_per_epoch=self.steps_per_epoch, num_epochs=train.num_epochs)
        self.ema = WeightAverage(model, train.ema_decay) if train.ema_decay else None
        if found:
            restore_states(self.module, model, self.bare_optimizer, state, found["optimizer_states"][0])
            if self.ema is not None:
                averaged = {k.removeprefix("model."): v for k, v in found["state_dict"].items()}
                names = [name for name, p in model.named_parameters() if p.requires_grad]
                for name, shadow in zip(names, self.ema.shadow, strict=True):
                    shadow.copy_(averaged[name])

    def best_metric(self) -> tuple[str, str]:
        """(metric, direction) that chooses the best checkpoint: an accuracy where there is one, else the monitored loss."""
        if self.task.stage == "finetune" and self.task.val is not None:
            return "ACC_all", "maximize"
        if self.task.stage == "pretrain" and self.spec.dataset.probe_train_data_sources and self.train.probe.interval:
            return "knn_acc", "maximize"
        return str(self.train.optim.monitor_name), "minimize"

    def _derived(self) -> None:
        figures = {
            "images": len(self.task.train_indices),
            "steps_per_epoch": self.steps_per_epoch,
            "total_steps": self.total_steps,
            "effective_batch": self.effective_batch,
            "learning_rate": self.lr.value,
            "learning_rate_factor": self.lr.factor,
            "layerwise_rates": self.layerwise,
            "parameter_groups": self.groups,
            "precision": precision_of(self.train, self.context.device)[1].removeprefix("precision "),
            "device": str(self.context.device),
            "processes": self.context.world_size,
            "parameters": sum(p.numel() for p in self.task.model.parameters()),
            "best_checkpoint_by": " ".join(self.best_metric()),
            "pretrained": self.task.report.to_dict() if self.task.report else None,
        }
        if self.context.is_main:
            (self.folder / "derived.json").write_text(json.dumps(figures, indent=2) + "\n")
        shown = ("images", "steps_per_epoch", "effective_batch", "learning_rate", "precision", "device", "processes", "parameters")
        self.context.log("  ".join(f"{name} {figures[name]}" for name in shown))

    # ---- the run -----------------------------------------------------------------------------------------------------------------
    def run(self) -> dict[str, float]:
        """Trains to the end; returns the last epoch's metrics."""
        done = self.position.step
        with self.context.progress(self.total_steps, self.task.stage, initial=done) as progress:
            try:
                while self.position.epoch < self.train.num_epochs and not self._stale():
                    self._epoch(progress)
            finally:
                self.preemption.release()
                self.trackers.close()
        if self._stale():
            self.context.log(f"early stopping: {self.train.optim.monitor_name} has not fallen for {self.position.stale_epochs} epochs")
        return self.position.metrics

    def _epoch(self, progress: Any) -> None:
        position, started = self.position, time.monotonic()
        first_step = position.step
        self.module.train()
        self.optimizer.zero_grad()
        accumulate = self.train.accum_grad_batches
        for batch in self.task.train_loader(position.epoch, position.batch):
            number = position.batch
            resume.seed_all(self.task.seed, position.epoch, number, self.context.rank)
            batch = self.task.to_device(batch)
            last = number + 1 == self.micro_batches
            boundary = last or (number + 1) % accumulate == 0
            size = (
                (self.micro_batches - 1) % accumulate + 1 if number // accumulate == (self.micro_batches - 1) // accumulate else accumulate
            )
            key = (self.task.seed, position.epoch * self.micro_batches + number, self.context.rank)
            with self.fabric.no_backward_sync(self.module, enabled=not boundary and self.context.world_size > 1):
                loss = self.task.loss(self.module, batch, key)
                self.fabric.backward(loss / size)
            value = float(loss.detach())
            self._require_finite(value, batch)
            position.loss_sum += value * len(batch["index"])
            position.loss_count += len(batch["index"])
            position.batch += 1
            if boundary:
                self._step(progress, value, last)
        self._close_epoch(time.monotonic() - started, position.step - first_step)

    def _step(self, progress: Any, loss: float, last: bool) -> None:
        position = self.position
        values = {"train_loss_step": loss}
        if self.train.clip_grad_norm:
            norm = self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.train.clip_grad_norm, error_if_nonfinite=False)
            values["grad_norm"] = float(norm)  # type: ignore[arg-type]
        rate = self.schedule.apply(self.bare_optimizer, position.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update()
        position.step += 1
        self.trackers.log(position.step, position.epoch, {**values, "lr": rate})
        progress.advance(1, loss=loss, lr=rate)
        stop, _ = self.preemption.agree()
        by_step = self.train.checkpoint_interval_unit == "step" and position.step % self.train.checkpoint_interval == 0
        if stop or (by_step and not last):
            self.save(self.folder / f"model_epoch_{position.epoch:03d}_step_{position.step:05d}.pth")
        if stop:
            self.trackers.flush()
            raise PreemptedError(
                f"stopped by a signal after step {position.step}; a checkpoint was written",
                hint="resume the job, or run the same command again",
            )

    def _close_epoch(self, seconds: float, steps: int) -> None:
        position, epoch = self.position, self.position.epoch
        _, (total, count) = self.preemption.agree([position.loss_sum, position.loss_count])
        metrics: dict[str, float] = {"train_loss": total / max(count, 1)}
        final = epoch + 1 == self.train.num_epochs
        validated = final or (epoch + 1) % self.train.validation_interval == 0
        if validated:
            metrics |= self._judge(lambda: self.task.validate(self.module, lambda values: self.preemption.agree(values)[1]))
        self._watch(metrics)
        stopping = self._stale()
        if stopping and not validated:  # the last checkpoint must carry what chooses the best
            metrics |= self._judge(lambda: self.task.validate(self.module, lambda values: self.preemption.agree(values)[1]))
        metrics |= self._judge(lambda: quality.after_epoch(self.task, self.trackers, position.step, epoch, final or stopping))
        position.epoch, position.batch, position.loss_sum, position.loss_count, position.metrics = epoch + 1, 0, 0.0, 0.0, metrics
        by_epoch = self.train.checkpoint_interval_unit == "epoch" and (epoch + 1) % self.train.checkpoint_interval == 0
        by_step = self.train.checkpoint_interval_unit == "step" and position.step % self.train.checkpoint_interval == 0
        self.trackers.log(position.step, epoch, metrics)
        if by_epoch or by_step or final or stopping:
            self.save(self.folder / f"model_epoch_{epoch:03d}.pth", metrics)
        self.trackers.flush()
        self._report(epoch, metrics, seconds, steps)

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

    # ---- files -------------------------------------------------------------------------------------------------------------------
    def save(self, path: Path, metrics: dict[str, float] | None = None) -> None:
        """Writes a checkpoint of this position; every rank calls it, rank 0 writes."""
        self.trackers.flush()  # a checkpoint never stands without the rows that led to it
        live, optimizer_state = full_states(self.module, self.task.model, self.bare_optimizer)
        deployed = live
        if self.ema is not None:
            live = {name: tensor.clone() for name, tensor in live.items()}
            self.ema.swap()
            deployed, _ = full_states(self.module, self.task.model, self.bare_optimizer)
        try:
            sums = self.preemption.gather([self.position.loss_sum, self.position.loss_count])
            if self.context.is_main:
                self._write(path, live, deployed, optimizer_state, sums, metrics or {})
        finally:
            if self.ema is not None:
                self.ema.swap()

    def _write(self, path: Path, live: Any, deployed: Any, optimizer_state: Any, sums: Any, metrics: dict[str, float]) -> None:
        meta = checkpoint.CheckpointMeta.for_model(
            self.task.model,
            classes=self.task.train.classes if self.task.stage == "finetune" else None,
            mean=list(self.task.aug.mean),
            std=list(self.task.aug.std),
        )
        data: dict[str, Any] = {
            "state_dict": {f"model.{name}": tensor for name, tensor in deployed.items()},
            "optimizer_states": [optimizer_state],
            "epoch": self.position.epoch,
            "global_step": self.position.step,
            "position": resume.pack_position(self.position),
            "rank_sums": sums,
            "identity": resume.identity(self.plain_spec),
            "environment": resume.environment(self.context.world_size),
            "metrics": metrics,
            "layerwise": self.layerwise,
            "mae": meta.to_dict(),
        }
        if self.ema is not None:
            data["live_state_dict"] = {f"model.{name}": tensor for name, tensor in live.items()}
        checkpoint.save(data, path, self.context.encryption_key)
        epoch = self.position.epoch - (1 if self.position.batch == 0 else 0)
        size = list(self.task.model.input_size)
        self.index.add(path, epoch, self.position.step, metrics, stage=self.task.stage, arch=self.task.model.arch, input_size=size)
        resume.point_latest(self.folder, self.task.model.arch, path)

    def _require_finite(self, loss: float, batch: dict[str, Any]) -> None:
        if math.isfinite(loss):
            return
        norms = {name: float(p.grad.norm()) for name, p in self.task.model.named_parameters() if p.grad is not None}
        capsule = self.folder / f"nonfinite_step_{self.position.step:05d}_rank_{self.context.rank}.pth"
        checkpoint.save(
            {
                "batch": {name: tensor.cpu() for name, tensor in batch.items()},
                "seed_key": [self.task.seed, self.position.epoch, self.position.batch, self.context.rank],
                "step": self.position.step,
                "gradient_norms": norms,
                "state_dict": checkpoint.model_state(self.task.model),
            },
            capsule,
            self.context.encryption_key,
        )
        paths = [self.task.train.path(int(index)) for index in batch["index"][:8]]
        raise NumericError(
            f"the loss became {loss} at step {self.position.step}",
            field="train.optim.lr",
            got={"learning_rate": self.schedule(self.position.step), "images": paths},
            expected="a finite loss",
            hint=f"lower train.optim.lr, lengthen warmup_epochs, set train.clip_grad_norm=1.0 or precision=fp32; {capsule.name} replays the step",
        )
