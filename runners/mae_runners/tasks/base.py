"""What a run learns and how it is judged: data sets, the model, the loss of a batch, validation."""

from __future__ import annotations

import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from mae_sdk.files import read_json
from mae_sdk.storage import hub
from mae_sdk.storage.transfer import download
from mae_skill.errors import SpecError
from mae_skill.rules.samples import balanced_masks, unknown_weights
from mae_skill.spec import ExperimentSpec
from mae_skill.spelling import one_line
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mae_runners.context import RunContext
from mae_runners.data import (
    KeyedDataset,
    SubsetSampler,
    augmentation_of,
    build_loader,
    reading_of,
    to_input,
)
from mae_runners.distributed import Ranks
from mae_runners.metrics.splits import hold_out, take_share
from mae_runners.models import LoadReport, load_pretrained
from mae_runners.models.base import Backboned
from mae_runners.models.pretrained import target_of

Batch = dict[str, Tensor]

VALIDATION = "validation.json"
"""The validation of the best checkpoint that is kept, class by class; in the action's folder."""


class Metrics(Protocol):
    """What a validation adds up.

    Attributes:
        sums: float64 ``[N]``, which add up over batches and ranks.
    """

    sums: Tensor

    def summary(self, source: object) -> dict[str, Any]:
        """Name → value; ``source`` is the data set that an error names."""


class Images(Protocol):
    """Where a task shows images."""

    def image(self, step: int, name: str, pixels: np.ndarray, path: Path) -> None:
        """An RGB picture, uint8 ``[H, W, 3]``."""


def seed_all(*key: int) -> None:
    """Reseeds `random`, numpy and torch (all devices) from a tuple of integers."""
    value = zlib.crc32(np.asarray(key, dtype=np.int64).tobytes())
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def refuse_random_head(
    model: Backboned, frozen: Sequence[str], report: LoadReport | None, names: Sequence[str]
) -> None:
    """A head that is frozen has the values of weights, for every class.

    Raises:
        SpecError: it would stay as it was drawn, in whole or in part.
    """
    rows = target_of(model).class_rows()
    if not rows or rows[0] not in frozen:
        return
    if report is not None and rows[0] not in report.missing and "fresh: " not in report.head:
        return
    raise SpecError(
        "the head would stay at its random initial weights: it never learns what to answer"
        + (f" (of the weights: {report.head})" if report is not None and report.head else ""),
        field="train.freeze",
        got=list(names),
        expected="a head that learns, or weights with a head for these classes",
        hint="take the head out of train.freeze; train.freeze=[encoder] trains the head alone",
    )


class Task(ABC):
    """One stage of training over one spec.

    A kind of task supplies `open_source`, `build_model`, `training_step`, `new_metrics` and
    `validation_step`, and may add what follows an epoch (`after_epoch`).

    Attributes:
        stage: ``pretrain`` or ``finetune``.
        model: the bare module.
        aug: ``dataset.augmentation`` with a mean and a deviation for every channel.
        reading: how pictures are read; once the training data are open, with a range that is known.
        train, val: data sets (val may be None); the run reads ``train_indices`` of one and
            ``val_indices`` of the other.
        report: how the pretrained weights fitted, or None.
        thresholds: of a multi-label model, the probability of each class from which an image is
            taken to be of it, as last chosen.
        between_batches: called after every batch of an evaluation, as often on every rank; what it
            raises ends the evaluation.

    Args:
        pretrained: start from ``train.pretrained_model_path``; not when a checkpoint of this run
            follows.
    """

    stage = ""
    thresholds: list[float] | None = None

    def __init__(self, spec: ExperimentSpec, context: RunContext, pretrained: bool = True) -> None:
        self.spec, self.context = spec, context
        self.between_batches: Callable[[], None] = lambda: None
        self.aug, self.seed = augmentation_of(spec.dataset), int(spec.train.seed)
        self.reading = reading_of(spec.dataset)
        self.open_data()

        seed_all(self.seed, 0)
        self.model = self.build_model()
        self.report: LoadReport | None = None
        if pretrained and spec.train.pretrained_model_path:
            path = local_copy(spec.train.pretrained_model_path, context)
            self.report = load_pretrained(
                self.model,
                path,
                context.encryption_key,
                classes=self.train.classes if self.stage == "finetune" else None,
            )
            context.log(f"pretrained weights: {self.report.summary()}")
            if self.report.warning:
                context.warn(self.report.warning)
        if spec.train.freeze:
            frozen = self.model.freeze(spec.train.freeze)
            if pretrained:
                refuse_random_head(self.model, frozen, self.report, spec.train.freeze)
        self.model.set_grad_checkpointing(bool(spec.train.gradient_checkpointing))

    # ------------------------------------------------------------------------------------------
    # supplied by each kind of task

    @abstractmethod
    def open_source(self, role: str, *, train: bool) -> KeyedDataset:
        """The data set of ``dataset.<role>_data_sources``; ``train``: with random augmentation."""

    @abstractmethod
    def build_model(self) -> Backboned:
        """The bare model, with seeded initial weights."""

    @abstractmethod
    def training_step(self, module: nn.Module, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        """The mean loss of a batch that is on the device.

        Args:
            key: (seed, micro-batch since the start of the run, rank): all that its draws depend on.
        """

    @abstractmethod
    def new_metrics(self) -> Metrics:
        """Empty sums for one validation."""

    @abstractmethod
    def validation_step(self, module: nn.Module, batch: Batch, metrics: Any) -> None:
        """Counts a batch. Its fillers go through the model too: every rank makes as many passes."""

    def join(self, metrics: Any, ranks: Ranks) -> None:
        """Adds what the other ranks counted; every rank calls it."""
        ranks.sum_over_ranks(metrics.sums)

    def validation_metrics(self, metrics: Any) -> dict[str, float]:
        """What a validation reports, from the sums over all ranks; every rank calls it."""
        found: dict[str, float] = metrics.summary(self.spec.dataset.val_data_sources)
        return found

    def keep_details(self, ranks: Ranks, epoch: int, *, best: bool) -> None:
        """Writes what the report shows of the validation that has just ended, where it is the
        `best`; every rank calls it after every validation, and rank 0 knows."""
        return

    def doubts(self) -> list[str]:
        """Why the validation of the best checkpoint says that nothing was learned; on rank 0."""
        if self.val is None:
            return []
        try:
            found = read_json(self.context.action_dir / VALIDATION)
        except (OSError, ValueError):
            return []
        return [str(one) for one in found.get("doubts") or ()]

    def after_epoch(
        self, ranks: Ranks, images: Images, *, step: int, epoch: int, final: bool
    ) -> dict[str, float]:
        """Further metrics of a finished epoch, and its images; every rank calls it, with the model
        in evaluation mode."""
        return {}

    @property
    def accuracy(self) -> str | None:
        """The metric of this run that chooses the best checkpoint; None = the monitored loss."""
        return None

    def datasets(self) -> dict[str, list[KeyedDataset]]:
        """The data sets that the run reads, by the field that names their source; a part that is
        held out for validation is a data set of its own, of the training images."""
        found = {"dataset.train_data_sources": [self.train]}
        if self.val is not None:
            named = bool(self.spec.dataset.val_data_sources)
            field = f"dataset.{'val' if named else 'train'}_data_sources"
            found.setdefault(field, []).append(self.val)
        return found

    def metrics_about(self) -> dict[str, dict[str, Any]]:
        """Metric → ``direction`` and, where it is a share of images, ``images``: of how many."""
        return {"train_loss": {"direction": "minimize"}, "val_loss": {"direction": "minimize"}}

    def strata(self) -> np.ndarray:
        """The class of each training image, ``[N]``, of each of which a part is held out."""
        return np.zeros(len(self.train))

    def class_weights(self) -> Tensor | None:
        """``train.class_weights`` of each class, float32 ``[C]`` on the device; None = all alike.

        Raises:
            SpecError: a class is named that the training data do not have.
        """
        given, classes = self.spec.train.class_weights, self.train.classes
        if given is None:
            return None
        if given == "balanced":
            found = self.balanced_weights()
        else:
            assert isinstance(given, dict)
            several = bool(self.spec.model.multi_label)
            if unknown := unknown_weights(given, classes, several=several):
                raise unknown
            found = np.array([given.get(name, 1.0) for name in classes])
        pairs = zip(classes, found.tolist(), strict=True)
        shown = ", ".join(f"{one_line(name)} {weight:.4g}" for name, weight in pairs)
        self.context.log(f"train.class_weights: {shown[:500]}")
        return torch.tensor(found, dtype=torch.float32, device=self.context.device)

    def balanced_weights(self) -> np.ndarray:
        """``train.class_weights=balanced``, float ``[C]``.

        Raises:
            SpecError: nothing is counted here.
        """
        raise balanced_masks()

    # ------------------------------------------------------------------------------------------
    # data

    def open_data(self) -> None:
        """Opens the training and validation data.

        Raises:
            SpecError: there is no training data.
        """
        data = self.spec.dataset
        if not data.train_data_sources:
            raise SpecError(
                "there are no training images",
                field="dataset.train_data_sources",
                expected="a folder, an archive or a URL of either",
            )
        self.train = self.open_source("train", train=True)
        self.reading = self.train.reading  # with the range that was measured
        if self.spec.dataset.value_range == "auto":
            low, high = cast("tuple[float, float]", self.reading.value_range)
            self.context.log(f"dataset.value_range auto: {low:g} … {high:g} of the training images")
        self.train_indices = np.arange(len(self.train))
        if data.train_fraction is not None:
            share = float(data.train_fraction)
            self.train_indices = take_share(self.strata(), share, self.seed)
            self.context.log(
                f"dataset.train_fraction: {len(self.train_indices)} of {len(self.train)} training "
                f"images (seed {self.seed})"
            )
        self.val: KeyedDataset | None = None
        self.val_indices: np.ndarray | None = None

        if data.val_data_sources:
            self.val = self.open_source("val", train=False)
            self.val_indices = np.arange(len(self.val))
        elif self.stage == "finetune" and data.val_fraction:
            chosen = self.train_indices
            kept, held = hold_out(self.strata()[chosen], float(data.val_fraction), self.seed)
            self.train_indices, self.val_indices = chosen[kept], chosen[held]
            self.val = self.open_source("train", train=False)
            self.context.log(
                f"held out {len(self.val_indices)} of {len(chosen)} training images "
                f"for validation (seed {self.seed})"
            )
        self.train.stand_ins = self.train_indices

    def train_sampler(self) -> SubsetSampler:
        """The order in which this rank sees training images."""
        return SubsetSampler(
            self.train_indices, self.seed, self.context.rank, self.context.world_size, shuffle=True
        )

    def train_loader(
        self, epoch: int, place: int, workers: int | None = None
    ) -> DataLoader[dict[str, Tensor]]:
        """This rank's batches of an epoch.

        Args:
            place: how many images of the order that all ranks share were trained on before.
            workers: of the loader; None = ``dataset.num_workers_per_gpu``.
        """
        sampler = self.train_sampler()
        sampler.set_place(epoch, place)
        data = self.spec.dataset
        workers = data.num_workers_per_gpu if workers is None else workers
        return build_loader(self.train, sampler, data.batch_size, workers, persistent=False)

    def eval_batches(
        self, dataset: KeyedDataset, indices: np.ndarray | None = None, *, size: int | None = None
    ) -> Iterator[Batch]:
        """Batches of this rank over a data set in evaluation order, on the device."""
        chosen = np.arange(len(dataset)) if indices is None else indices
        sampler = SubsetSampler(
            chosen, self.seed, self.context.rank, self.context.world_size, shuffle=False
        )
        data = self.spec.dataset
        for batch in build_loader(
            dataset, sampler, size or data.batch_size, data.num_workers_per_gpu, persistent=False
        ):
            yield self.to_device(batch)
            self.between_batches()

    def to_device(self, batch: Batch) -> Batch:
        return {
            name: tensor.to(self.context.device, non_blocking=True)
            for name, tensor in batch.items()
        }

    def inputs(self, batch: Batch) -> Tensor:
        """The batch's images, normalized: float32 ``[B, C, H, W]``."""
        return to_input(batch["image"], self.aug.mean, self.aug.std)

    # ------------------------------------------------------------------------------------------
    # validation

    @torch.no_grad()
    def validate(self, module: nn.Module, ranks: Ranks) -> dict[str, float]:
        """Metrics over the validation set, from sums over all ranks; empty without one."""
        if self.val is None:
            return {}
        metrics = self.new_metrics()
        for batch in self.eval_batches(self.val, self.val_indices):
            self.validation_step(module, batch, metrics)
        self.join(metrics, ranks)
        return self.validation_metrics(metrics)


def counted(batch: Batch) -> tuple[Batch, int]:
    """The samples of a batch that count, and how many they are.

    Fillers, and stand-ins for unreadable images, do not count. Where there is nothing else the
    batch stays whole, for every rank has to make as many passes, and its count is 0.
    """
    keep = batch["valid"]
    count = int(keep.sum())
    if count in (0, len(keep)):
        return batch, count
    return {name: value[keep] for name, value in batch.items()}, count


def local_copy(path: str, context: RunContext, role: str = "pretrained") -> str:
    """A local path of a weights file; a URL is downloaded into the action's folder by each rank,
    under a name for its ``role``, a model of the hub into its cache."""
    from mae_sdk.jobs.outputs import fetch

    if hub.is_reference(path):
        model = hub.locate(path)
        fetch([model])
        return str(model.path)
    if "://" not in path:
        return path

    suffix = ".safetensors" if path.endswith(".safetensors") else ".pth"
    target = context.action_dir / f".{role}-{context.rank}{suffix}"
    download(path, target)
    return str(target)
