"""What a stage trains on and how it is judged: data sets, the model, the loss of a batch, validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mae_skill.archs import num_units
from mae_skill.errors import DataError, SpecError
from torch import Tensor, nn

from mae_runners.context import RunContext
from mae_runners.data import (
    FunctionalSampler,
    ImageDataset,
    Mixup,
    build_dataset,
    build_loader,
    soft_targets,
    to_input,
)
from mae_runners.models import LoadReport, build_classifier, build_mae, load_pretrained
from mae_runners.training.position import seed_all

Batch = dict[str, Tensor]


class SubsetSampler(FunctionalSampler):
    """A `FunctionalSampler` over some indices of a data set, int64 [n]."""

    def __init__(
        self, indices: np.ndarray, seed: int, rank: int, world: int, shuffle: bool
    ) -> None:
        super().__init__(len(indices), seed, rank, world, shuffle)
        self.indices = indices

    def __iter__(self) -> Iterator[tuple[int, int, bool]]:
        for epoch, index, valid in super().__iter__():
            yield epoch, int(self.indices[index]), valid


class Task(ABC):
    """One stage over one spec.

    Attributes:
        model: the bare module.  train, val: data sets (val may be None).  report: how the pretrained weights fitted, or None.
        between_batches: called after every batch of an evaluation, as often on every rank; what it raises ends the evaluation.

    Args:
        pretrained: start from ``train.pretrained_model_path``; not when a checkpoint of this run follows.
    """

    def __init__(self, spec: Any, context: RunContext, pretrained: bool = True) -> None:
        self.spec, self.context = spec, context
        self.between_batches: Callable[[], None] = lambda: None
        self.aug, self.seed = spec.dataset.augmentation, int(spec.train.seed)
        self.val: ImageDataset | None = None
        self.train_indices: np.ndarray
        self.val_indices: np.ndarray | None = None
        self.report: LoadReport | None = None
        self._make_data()
        seed_all(self.seed, 0)
        self.model: Any = self._build()
        if pretrained and spec.train.pretrained_model_path:
            path = local_copy(spec.train.pretrained_model_path, context)
            self.report = load_pretrained(self.model, path, context.encryption_key)
            context.log(f"pretrained weights: {self.report.summary()}")
        if spec.train.freeze:
            self.model.freeze(spec.train.freeze)
        self.model.set_grad_checkpointing(bool(spec.train.gradient_checkpointing))

    # ---- supplied by the stage ---------------------------------------------------------------------------------------------------
    stage = ""
    accuracy: str | None = (
        None  # the validation's figure that chooses the best checkpoint, where there is one
    )

    @abstractmethod
    def _build(self) -> nn.Module: ...

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        """The mean loss of a batch that is on the device; ``key`` = (seed, micro-batch since the start, rank)."""

    @abstractmethod
    def validate(
        self, module: nn.Module, reduce: Callable[[list[float]], list[float]]
    ) -> dict[str, float]:
        """Metrics over the validation set; ``reduce`` sums numbers over ranks."""

    def show(self, trackers: Any, step: int, epoch: int) -> None:  # noqa: B027 - most stages have none
        """Makes pictures of what the last validation saw, where the stage has any."""

    # ---- shared ------------------------------------------------------------------------------------------------------------------
    def _dataset(
        self,
        sources: Any,
        *,
        train: bool,
        classes: list[str] | None = None,
        labels: bool = False,
        units: bool = False,
    ) -> ImageDataset:
        count = num_units(self.spec.model.arch, self.aug.input_size) if units else None
        return build_dataset(
            sources,
            train=train,
            stage=self.stage,
            augmentation=self.aug,
            seed=self.seed,
            classes=classes,
            require_labels=labels,
            num_units=count,
            max_corrupt_fraction=self.spec.dataset.max_corrupt_fraction,
        )

    def _make_data(self) -> None:
        data, finetune = self.spec.dataset, self.stage == "finetune"
        if not data.train_data_sources:
            raise SpecError(
                "there are no training images",
                field="dataset.train_data_sources",
                expected="a folder, an archive or a URL of either",
            )
        self.train = self._dataset(
            data.train_data_sources, train=True, labels=finetune, units=not finetune
        )
        if finetune and len(self.train.classes) != self.spec.model.num_classes:
            raise SpecError(
                f"the training data has {len(self.train.classes)} classes",
                field="model.num_classes",
                got=self.spec.model.num_classes,
                expected=str(len(self.train.classes)),
                hint=f"set model.num_classes={len(self.train.classes)}",
            )
        self.train_indices = np.arange(len(self.train))
        classes = self.train.classes if finetune else None
        if data.val_data_sources:
            self.val = self._dataset(
                data.val_data_sources,
                train=False,
                classes=classes,
                labels=finetune,
                units=not finetune,
            )
            self.val_indices = np.arange(len(self.val))
        elif finetune and data.val_fraction:
            self.train_indices, self.val_indices = hold_out(
                np.asarray(self.train.labels), float(data.val_fraction), self.seed
            )
            self.val = self._dataset(
                data.train_data_sources, train=False, classes=classes, labels=True
            )
            held = len(self.val_indices)
            self.context.log(
                f"held out {held} of {len(self.train)} training images for validation (seed {self.seed}, by class)"
            )

    def train_loader(self, epoch: int, place: int, workers: int | None = None) -> Any:
        """The loader of this rank's epoch, after the first ``place`` samples of the order that all ranks share."""
        sampler = SubsetSampler(
            self.train_indices, self.seed, self.context.rank, self.context.world_size, shuffle=True
        )
        sampler.set_place(epoch, place)
        workers = int(self.spec.dataset.num_workers_per_gpu) if workers is None else workers
        return build_loader(
            self.train, sampler, int(self.spec.dataset.batch_size), workers, persistent=False
        )

    @staticmethod
    def counted(batch: Batch) -> tuple[Batch, int]:
        """The samples of a batch that count, and how many they are. Fillers, and stand-ins for unreadable images, do not count; where
        nothing else is there the batch stays whole, for every rank has to run as many passes, and its count is 0."""
        keep = batch["valid"]
        count = int(keep.sum())
        return (
            batch
            if count in (0, len(keep))
            else {name: value[keep] for name, value in batch.items()}
        ), count

    def batches(
        self, dataset: ImageDataset, indices: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Batch]]:
        """``(normalised images, batch)`` of this rank over a data set in evaluation order, on the device."""
        chosen = np.arange(len(dataset)) if indices is None else indices
        sampler = SubsetSampler(
            chosen, self.seed, self.context.rank, self.context.world_size, shuffle=False
        )
        workers = int(self.spec.dataset.num_workers_per_gpu)
        for batch in build_loader(
            dataset, sampler, int(self.spec.dataset.batch_size), workers, persistent=False
        ):
            batch = self.to_device(batch)
            yield self.inputs(batch), batch
            self.between_batches()

    def to_device(self, batch: Batch) -> Batch:
        return {
            name: tensor.to(self.context.device, non_blocking=True)
            for name, tensor in batch.items()
        }

    def inputs(self, batch: Batch) -> Tensor:
        return to_input(batch["image"], self.aug.mean, self.aug.std)


class PretrainTask(Task):
    """Reconstruction of hidden patches (MAE, arXiv 2111.06377; FCMAE, 2301.00808; Hiera, 2306.00989)."""

    stage = "pretrain"

    def _make_data(self) -> None:
        super()._make_data()
        data = self.spec.dataset
        if not (self.spec.train.probe.interval and data.probe_train_data_sources):
            return
        # Opened before training, so that what is wrong with them does not come up epochs later.
        bank = self._dataset(data.probe_train_data_sources, train=False, labels=True)
        queries = None
        if data.probe_val_data_sources:
            queries = self._dataset(
                data.probe_val_data_sources, train=False, classes=bank.classes, labels=True
            )
        elif np.bincount(bank.labels).max() < 2:
            raise DataError(
                "the probe has nothing to judge: every image of its bank is the only one of its class",
                field="dataset.probe_train_data_sources",
                expected="two images of a class, or more",
                hint="name dataset.probe_val_data_sources, or add images",
            )
        self.probe_sets = bank, queries

    def _build(self) -> nn.Module:
        return build_mae(self.spec.model, self.spec.train, self.aug.input_size)

    def loss(self, module: nn.Module, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        loss: Tensor = module(self.inputs(batch), batch["noise"]).loss
        return loss

    @torch.no_grad()
    def validate(
        self, module: nn.Module, reduce: Callable[[list[float]], list[float]]
    ) -> dict[str, float]:
        """``val_loss``: the reconstruction loss with masks that are the same at every epoch."""
        if self.val is None:
            return {}
        total, count = 0.0, 0.0
        for _, whole in self.batches(self.val, self.val_indices):
            batch, weight = self.counted(whole)
            loss = float(
                module(self.inputs(batch), batch["noise"]).loss
            )  # also for fillers alone: every rank runs as many passes
            total += loss * weight if weight else 0.0
            count += weight
        total, count = reduce([total, count])
        return {"val_loss": total / max(count, 1)}


class FinetuneTask(Task):
    """Classification with soft targets (mixup, CutMix, label smoothing)."""

    stage = "finetune"
    accuracy = "ACC_all"

    def _build(self) -> nn.Module:
        self.mixup = (
            Mixup(self.aug, self.spec.model.num_classes)
            if self.aug.mixup > 0 or self.aug.cutmix > 0
            else None
        )
        return build_classifier(self.spec.model, self.aug.input_size)

    def loss(self, module: nn.Module, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        images = self.inputs(batch)
        if self.mixup is not None:
            images, targets = self.mixup(images, batch["label"], key)
        else:
            targets = soft_targets(batch["label"], self.spec.model.num_classes, self.aug.smoothing)
        return F.cross_entropy(module(images).float(), targets)

    @torch.no_grad()
    def validate(
        self, module: nn.Module, reduce: Callable[[list[float]], list[float]]
    ) -> dict[str, float]:
        """``val_loss, ACC_all`` (top-1) and ``ACC_5`` where there are more than five classes; padding is not counted."""
        if self.val is None:
            return {}
        sums = [0.0] * 4
        for images, batch in self.batches(self.val, self.val_indices):
            keep = batch["valid"]
            logits, labels = module(images).float()[keep], batch["label"][keep]
            if not len(labels):
                continue
            order = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hits = order == labels[:, None]
            sums[0] += float(F.cross_entropy(logits, labels, reduction="sum"))
            sums[1] += float(hits[:, 0].sum())
            sums[2] += float(hits.sum())
            sums[3] += len(labels)
        loss, top1, top5, count = reduce(sums)
        if not count:
            raise DataError(
                "no validation image could be read",
                field="dataset.val_data_sources",
                got=self.spec.dataset.val_data_sources,
            )
        found = {"val_loss": loss / count, "ACC_all": top1 / count}
        return found | ({"ACC_5": top5 / count} if self.spec.model.num_classes > 5 else {})


def make_task(spec: Any, context: RunContext, pretrained: bool = True) -> Task:
    """The task of ``train.stage`` and, in fine-tuning, ``model.task``; ``pretrained`` as in `Task`."""
    if spec.train.stage == "finetune" and spec.model.task == "segmentation":
        from mae_runners.tasks.segment import SegmentationTask

        return SegmentationTask(spec, context, pretrained)
    return (PretrainTask if spec.train.stage == "pretrain" else FinetuneTask)(
        spec, context, pretrained
    )


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A seeded split by class: (kept, held out) indices, int64, sorted; a class of one image keeps it.

    Raises:
        DataError: every class has one image.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    held: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(share * len(members))) if len(members) > 1 else 0
        held += rng.permutation(members)[:count].tolist()
    if not held:
        raise DataError(
            "nothing can be held out for validation: every image is the only one of its class",
            field="dataset.val_fraction",
            got=share,
            expected="two images of a class, or more",
            hint="name dataset.val_data_sources; or train without validation: dataset.val_fraction=null, and no AutoML",
        )
    mask = np.ones(len(labels), dtype=bool)
    mask[held] = False
    return np.flatnonzero(mask), np.flatnonzero(~mask)


def local_copy(path: str, context: RunContext) -> str:
    """A local path of a weights file; a URL is downloaded into the action's folder once a rank."""
    if "://" not in path:
        return path
    from mae_sdk.storage.transfer import download

    target = (
        context.action_dir
        / f".pretrained-{context.rank}{'.safetensors' if path.endswith('.safetensors') else '.pth'}"
    )
    download(path, target)
    return str(target)
