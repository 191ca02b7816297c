"""The training loop: one optimizer step after another, from a position that can be left and found
again."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Iterator
from typing import Any

import torch
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.metrics import best_checkpoint
from mae_skill.errors import PreemptedError
from mae_skill.spec import ExperimentSpec

from mae_runners.context import Progress, RunContext
from mae_runners.data import left_out
from mae_runners.distributed import is_sharded, meet
from mae_runners.tasks.base import VALIDATION, Batch, Task, counted, seed_all
from mae_runners.training.checkpointing import CheckpointWriter, fill, restore
from mae_runners.training.ema import WeightAverage, averaged
from mae_runners.training.fabric import (
    compiled,
    gradient_norm,
    has_unused,
    host_ranks,
    make_fabric,
    precision_of,
)
from mae_runners.training.nonfinite import StepReplay
from mae_runners.training.optim import (
    Traits,
    build_optimizer,
    layerwise_active,
    parameter_groups,
    plain_name,
    refines_encoder,
    scaled_lr,
)
from mae_runners.training.position import (
    Position,
    check_classes,
    check_data,
    check_teacher,
    data_identity,
    environment,
    identity,
    is_of_another_run,
    restore_position,
    warn_of_changes,
    warn_when_not_identical,
)
from mae_runners.training.preemption import Preemption
from mae_runners.training.schedule import build_schedule
from mae_runners.training.step_log import StepLog, StepRecord
from mae_runners.training.trackers import Trackers


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that this process has held so far: of the device, on a CPU of itself."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


class _StopEvaluation(Exception):
    """A signal was noticed in the middle of an evaluation."""


class TrainLoop:
    """One run of one task, from its position to the end.

    Args:
        stored: the checkpoint to continue from, as `position.find` gives it, or None.

    Raises (from `run`):
        PreemptedError: a signal asked to stop; a checkpoint was written.
        NumericError: the loss or the gradient is not finite; what is needed to replay the step was
            written.
    """

    def __init__(
        self,
        task: Task,
        spec: ExperimentSpec,
        context: RunContext,
        stored: dict[str, Any] | None = None,
    ) -> None:
        self.task, self.spec, self.context, self.train = task, spec, context, spec.train
        self.folder = context.action_dir
        self.preemption = context.preemption or Preemption()
        plain_spec: dict[str, Any] = spec.model_dump(mode="json")

        # ---------------------------------------------------------------------------- sizes
        self.images = len(task.train_indices)
        # Images of a micro-batch, and of an optimizer step, over all ranks.
        self.span = int(spec.dataset.batch_size) * context.world_size
        self.step_span = self.span * self.train.accum_grad_batches
        self.micro_batches = math.ceil(self.images / self.span)
        self.steps_per_epoch = math.ceil(self.images / self.step_span)

        # ---------------------------------------------------------------------------- data
        data = data_identity(task)
        if stored:
            task.thresholds = stored["mae"].get("thresholds")
            named = self.train.resume_training_checkpoint_path
            explicit = is_of_another_run(named, self.folder)
            check_data(stored, data, context, explicit=explicit, spec=spec)
            check_classes(stored, task)
            warn_of_changes(stored, plain_spec, context)
            check_teacher(stored, task.model.config, context, explicit=explicit)

        # ---------------------------------------------------------------------------- model
        self._make_model(stored)
        conditions = environment(context.world_size, self.step_span)
        if stored:
            warn_when_not_identical(stored, conditions, context)

        # ---------------------------------------------------------------------------- position
        self.position = restore_position(stored, data) if stored else Position()
        self.first_step = self.position.step
        self.total_steps = self.first_step + self._steps_left()
        if stored:
            self._restore_rate()

        # ---------------------------------------------------------------------------- records
        fused = bool(self.bare_optimizer.defaults.get("fused"))
        deferred = fused and not is_sharded(task.model)
        self.step_log = StepLog(deferred, context.device, self.ranks)
        self.shown: dict[str, float] = {}
        index = CheckpointIndex(self.folder)
        self.checkpoints = CheckpointWriter(
            task,
            self.fabric,
            self.bare_optimizer,
            self.ema,
            index,
            constant={
                "identity": identity(plain_spec),
                "data": data,
                "environment": conditions,
                "layerwise": self.layerwise,
                "pretrained": self.pretrained,
            },
        )
        if context.is_main:
            self.checkpoints.adopt()
            index.set_best_policy(*self._best_metric())
            self.described = task.metrics_about()
            index.describe_metrics(self.described)
        self.replay = StepReplay(
            task, self.ranks, self.fabric, self.bare_optimizer, self.folder, self.micro_batches
        )
        config = {**plain_spec, "encryption_key": None}
        self.trackers = Trackers(self.folder, spec, config, context, self.position.step)
        self._report_derived()

    def _describe_metrics(self) -> None:
        """Of how many images a share is, once a validation has met those that cannot be read."""
        if self.context.is_main and (about := self.task.metrics_about()) != self.described:
            self.checkpoints.index.describe_metrics(about)
            self.described = about

    def _make_model(self, stored: dict[str, Any] | None) -> None:
        """The model on its devices, the optimizer and the schedule; with the states of `stored`."""
        model, train, context = self.task.model, self.train, self.context
        traits = Traits.of(model)
        self.parameters = sum(p.numel() for p in model.parameters())

        several = context.world_size > 1
        unused = several and train.distributed_strategy == "ddp" and has_unused(self.task)
        meet(context, "nccl" if context.device.type == "cuda" else "gloo")
        self.fabric = make_fabric(self.spec, context, model, unused)
        self.ranks = host_ranks(context)
        torch.backends.cudnn.benchmark = train.cudnn.benchmark
        torch.backends.cudnn.deterministic = train.cudnn.deterministic
        if stored:
            fill(model, stored)
        self.module: Any = self.fabric.setup_module(
            compiled(model, context.device) if train.compile else model
        )

        # A resumed run was fine-tuned from pretrained weights when its first attempt was, whether
        # or not the spec still names them.
        self.layerwise = (
            bool(stored["layerwise"])
            if stored
            else layerwise_active(train.stage, bool(train.pretrained_model_path))
        )
        report = self.task.report
        self.pretrained: dict[str, Any] | None = (
            stored.get("pretrained") if stored else report.to_dict() if report else None
        )
        self.lr = scaled_lr(train.optim, self.step_span)
        named = [(plain_name(name), p) for name, p in self.module.named_parameters()]
        groups = parameter_groups(
            traits,
            train.optim,
            layerwise=self.layerwise,
            named=named,
            refine_decay=train.refine.layer_decay if refines_encoder(train) else None,
        )
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
        self.scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if stored:
            restore(stored, model, self.bare_optimizer, self.ema, self.fabric)

    def _steps_left(self) -> int:
        """Optimizer steps to the end of the last epoch."""
        epochs = self.train.num_epochs - self.position.epoch
        if epochs <= 0:
            return 0
        of_this_epoch = math.ceil((self.images - self.position.place) / self.step_span)
        return of_this_epoch + (epochs - 1) * self.steps_per_epoch

    def _restore_rate(self) -> None:
        """Sets the rate of the last step that was done: no further one may come to do it."""
        of_this_epoch = math.ceil(self.position.place / self.step_span)
        last = self.position.epoch * self.steps_per_epoch + of_this_epoch - 1
        if last >= 0:
            self.schedule.apply(self.bare_optimizer, last)

    def _best_metric(self) -> tuple[str, str]:
        """(metric, direction) that chooses the best checkpoint: an accuracy where there is one,
        else the monitored loss."""
        if self.task.accuracy:
            return self.task.accuracy, "maximize"
        return str(self.train.optim.monitor_name), "minimize"

    def _report_derived(self) -> None:
        """Prints what follows from the spec, with its reason, and writes ``derived.json``."""
        train, ranks = self.train, self.context.world_size
        why_precision = precision_of(train, self.context.device)[1]
        if not why_precision.startswith("precision "):  # it is not what was asked for
            self.context.warn(f"train.precision={train.precision}: {why_precision}")
        derived = {
            "images": self.images,
            "steps_per_epoch": self.steps_per_epoch,
            "total_steps": self.total_steps,
            "effective_batch": self.step_span,
            "learning_rate": self.lr.value,
            "learning_rate_factor": self.lr.factor,
            "layerwise_rates": self.layerwise or refines_encoder(train),
            "parameter_groups": self.groups,
            "precision": why_precision.removeprefix("precision "),
            "device": str(self.context.device),
            "processes": ranks,
            "parameters": self.parameters,
            "best_checkpoint_by": " ".join(self._best_metric()),
            "pretrained": self.pretrained,
        }
        if self.context.is_main:
            (self.folder / "derived.json").write_text(json.dumps(derived, indent=2) + "\n")

        batch, accumulated = self.spec.dataset.batch_size, train.accum_grad_batches
        reasons = {
            "images": "",
            "effective_batch": f"batch_size {batch} × processes {ranks} "
            f"× accum_grad_batches {accumulated}",
            "steps_per_epoch": f"{self.images} images / {self.step_span}, rounded up",
            "learning_rate": self.lr.why,
            "precision": "",
            "device": "",
            "parameters": "",
            "best_checkpoint_by": "",
        }
        for name, reason in reasons.items():
            self.context.log(f"{name} {derived[name]}" + (f"  ({reason})" if reason else ""))

    # ------------------------------------------------------------------------------------------
    # the run

    def run(self) -> dict[str, float]:
        """Trains to the end; returns the last epoch's metrics."""
        position = self.position
        if position.step:
            done = {"epoch": position.epoch - 1} if position.epoch else {}  # the last that is done
            self.context.status.running(
                f"goes on at step {position.step} of {self.total_steps}, in epoch {position.epoch}",
                **done,
                step=position.step,
                max_epoch=self.train.num_epochs,
                max_step=self.total_steps,
            )
        self.preemption.begin()
        self.task.between_batches = self._stop_evaluation
        with self.context.progress(
            self.total_steps, self.task.stage, initial=self.first_step
        ) as progress:
            try:
                while position.epoch < self.train.num_epochs and not self._stale():
                    if self._stop_wanted():
                        self._leave()
                    started, first = time.monotonic(), position.step
                    self._train_epoch(progress)
                    self._end_epoch(time.monotonic() - started, position.step - first)
            finally:
                # A watch that was handed in is still needed: the result is not written yet.
                if self.context.preemption is None:
                    self.preemption.release()
                self.trackers.close()
        if self._stale():
            self.context.log(
                f"early stopping: {self.train.optim.monitor_name} has not fallen "
                f"for {position.stale_epochs} epochs"
            )
        return position.metrics

    def _train_epoch(self, progress: Progress) -> None:
        self.module.train()
        self.optimizer.zero_grad()
        batches = iter(self.task.train_loader(self.position.epoch, self.position.place))
        while self.position.place < self.images:
            self._train_step(batches, progress)

    def _train_step(self, batches: Iterator[Batch], progress: Progress) -> None:
        """One optimizer step; every rank makes the same calls in the same order."""
        position, train, task = self.position, self.train, self.task
        ranks, deferred = self.context.world_size, self.step_log.deferred
        start = position.place
        wanted = min(self.images - start, self.step_span)  # images of the step, over all ranks
        step = StepRecord(position.step + 1, position.epoch, scaled=self.scaler is not None)

        # ------------------------------------------------------------ data, forward, backward
        micro_batches = math.ceil(wanted / self.span)
        for number in range(1, micro_batches + 1):
            batch = next(batches)
            seed_all(task.seed, position.epoch, position.batch, self.context.rank)
            batch, count = counted(batch)
            batch = task.to_device(batch)

            # DDP averages gradients over ranks, so multiply by world size to weight every image
            # of the step equally.
            weight: Any = count * ranks / wanted
            if deferred and self.scaler is not None:
                weight = weight * self.step_log.poison()
            done = position.epoch * self.micro_batches + position.batch
            syncs = number == micro_batches
            with self.fabric.no_backward_sync(self.module, enabled=not syncs and ranks > 1):
                loss = task.training_step(self.module, batch, (task.seed, done, self.context.rank))
                self.fabric.backward(loss * weight)

            step.places.append((position.place, position.batch))
            step.losses.append(loss.detach())
            step.counts.append(count)
            position.batch += 1
            position.place += self.span

        # ------------------------------------------------------------ agree on stop, on finite
        stop, (valid,) = self.ranks.agree_to_stop(self.preemption.flag, [float(sum(step.counts))])
        if 0 < valid < wanted:  # some images were unreadable: those that are left make up the mean
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, wanted / valid)
        step.norm = gradient_norm(self.bare_optimizer, self.scaler, train.clip_grad_norm)
        step_of_epoch = start // self.step_span
        step.lr = self.schedule.apply(
            self.bare_optimizer, position.epoch * self.steps_per_epoch + step_of_epoch
        )
        self.step_log.add(step)
        if not deferred:
            self._read_steps()

        # ------------------------------------------------------------ optimizer step
        self.step_log.guard(self.bare_optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update()
        position.step += 1

        # ------------------------------------------------------------ log
        last = position.place >= self.images
        due = self._checkpoint_due("step", position.step)
        if stop or last or due or self.step_log.full:
            self._read_steps()
        progress.advance(1, **self.shown)

        # ------------------------------------------------------------ leave or save
        if stop:
            self._leave()
        if due and not last:  # the end of an epoch has its own checkpoint, with its metrics
            self._save(f"model_epoch_{position.epoch:03d}_step_{position.step:05d}.pth")

    def _end_epoch(self, seconds: float, steps: int) -> None:
        """Judges a finished epoch, saves and reports it, and moves on to the next."""
        position, train, epoch = self.position, self.train, self.position.epoch
        final = epoch + 1 == train.num_epochs
        metrics = {"train_loss": position.loss_sum / max(position.loss_count, 1)}
        remembered = position.best, position.stale_epochs

        due = self._checkpoint_due("epoch", epoch + 1)
        due = due or self._checkpoint_due("step", position.step)

        # ------------------------------------------------------------ validate
        try:
            validated = final or (epoch + 1) % train.validation_interval == 0
            if validated:
                metrics |= self._validate()
            self._remember_best(metrics)
            stopping = self._stale()
            if stopping and not validated:  # the last checkpoint must carry what chooses the best
                metrics |= self._validate()
            if self.task.val is not None and (validated or stopping):
                best = self._is_shown(metrics, saved=due or final or stopping)
                self.task.keep_details(self.ranks, epoch, best=best)
                self._describe_metrics()
            with averaged(self.ema):
                self.module.eval()
                metrics |= self.task.after_epoch(
                    self.ranks,
                    self.trackers,
                    step=position.step,
                    epoch=epoch,
                    final=final or stopping,
                )
        except _StopEvaluation:  # the epoch's evaluation starts over in the next attempt
            position.best, position.stale_epochs = remembered
            self._leave()

        # ------------------------------------------------------------ move on
        position.epoch, position.batch, position.place = epoch + 1, 0, 0
        position.loss_sum, position.loss_count, position.metrics = 0.0, 0.0, metrics

        # ------------------------------------------------------------ log, report
        # Before the checkpoint: a run that is killed in between repeats the epoch and its line; the
        # other way round it would go on after the epoch and never report it.
        memory = peak_memory_mb(self.context.device)
        pace = self.images * steps / max(self.steps_per_epoch, 1) / max(seconds, 1e-9)
        self.trackers.log(position.step, epoch, metrics)
        self.trackers.machine(position.step, {"images_per_second": pace, "peak_memory_mb": memory})
        if final or stopping:
            self.trackers.gallery(position.step, self.folder)
        self.trackers.flush()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.context.log(f"epoch {epoch}: {shown}  ({seconds:.1f} s)")
        per_step = seconds / max(steps, 1)
        # Of the first epoch of a further attempt only the rest was trained here.
        whole = per_step * self.steps_per_epoch if steps else seconds
        self.context.status.running(
            f"epoch {epoch}: {epoch + 1} of {train.num_epochs} epochs done",
            epoch=epoch,
            step=position.step,
            max_epoch=train.num_epochs,
            max_step=self.total_steps,
            time_per_epoch=round(whole, 3),
            time_per_step=round(per_step, 4),
            eta=round((train.num_epochs - epoch - 1) * whole, 1),
            peak_memory_mb=memory,
            kpi=metrics,
        )

        # ------------------------------------------------------------ save
        if due or final or stopping:
            self._save(f"model_epoch_{epoch:03d}.pth", metrics)
        self.trackers.flush()
        self.context.report()

    def left_out(self) -> dict[str, Any]:
        """Field → ``{"unreadable": {"count", "files"}}`` of the sources of which this run could not
        read every image; every rank calls it."""
        found = {}
        for key, datasets in self.task.datasets().items():
            parts = self.ranks.gather([name for one in datasets for name in one.corrupt])
            if names := sorted({name for part in parts for name in part}):
                found[key] = left_out(names)
        return found

    # ------------------------------------------------------------------------------------------
    # parts that several places share

    def _read_steps(self) -> None:
        """Brings the numbers of the last steps from the device to the trackers.

        Raises:
            NumericError: one is not finite.
        """
        for step in self.step_log.read():
            if step.bad:
                self.replay.fail(step)
            values = {"train_loss_step": step.loss, "lr": step.lr}
            # Under an fp16 scaler, gradients that are not finite are met, and skipped.
            if math.isfinite(step.gradient_norm):
                values["grad_norm"] = step.gradient_norm
            self.trackers.log(step.number, step.epoch, values)
            self.position.loss_sum += step.loss_sum
            self.position.loss_count += step.count
            self.shown = {"loss": step.loss, "lr": step.lr}

    def _is_shown(self, metrics: dict[str, float], *, saved: bool) -> bool:
        """Whether the report shows this validation: the best so far of those whose checkpoint is
        kept, so that all of it is of one model; before there is one, the newest. On rank 0."""
        if not self.context.is_main:
            return False
        kept = best_checkpoint(self.checkpoints.index.read())
        if kept is None or not (self.folder / VALIDATION).is_file():
            return True
        metric, direction = self._best_metric()
        value = metrics.get(metric)
        if not saved or value is None:
            return False
        return bool(value > kept["value"] if direction == "maximize" else value < kept["value"])

    def _validate(self) -> dict[str, float]:
        with averaged(self.ema):
            self.module.eval()
            return self.task.validate(self.module, self.ranks)

    def _checkpoint_due(self, unit: str, done: int) -> bool:
        train = self.train
        return train.checkpoint_interval_unit == unit and done % train.checkpoint_interval == 0

    def _save(self, name: str, metrics: dict[str, float] | None = None) -> None:
        self.trackers.flush()  # a checkpoint never stands without the rows that led to it
        self.checkpoints.save(name, self.position, metrics)

    def _stop_wanted(self) -> bool:
        return self.ranks.agree_to_stop(self.preemption.flag)[0]

    def _stop_evaluation(self) -> None:
        if self._stop_wanted():
            raise _StopEvaluation

    def _leave(self) -> None:
        """Ends the run after a signal; saves where something was trained since the start.

        Raises:
            PreemptedError: always.
        """
        position, what = self.position, "nothing was trained since the start"
        self._read_steps()
        if position.step > self.first_step:
            what = "a checkpoint was written"
            whole = position.batch == 0
            name = f"model_epoch_{position.epoch - whole:03d}"
            name += ".pth" if whole else f"_step_{position.step:05d}.pth"
            if not (whole and (self.folder / name).exists()):
                self._save(name, position.metrics if whole else None)
        self.trackers.flush()
        raise PreemptedError(
            f"stopped by a signal after step {position.step}; {what}",
            hint="resume the job, or run the same command again",
        )

    def _remember_best(self, metrics: dict[str, float]) -> None:
        """Updates what early stopping remembers."""
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
