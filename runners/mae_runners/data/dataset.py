"""Images and labels of a source as a torch data set; every draw is a function of (seed, epoch,
index)."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from mae_sdk.data import Pairs, Source, open_source
from mae_sdk.data.decode import DEFAULT, decode
from mae_sdk.data.label_file import LabeledSource, LabelTable, labeled
from mae_sdk.data.of_classes import of_classes
from mae_sdk.data.reading import Reading
from mae_sdk.data.survey import measured
from mae_skill.archs import per_channel
from mae_skill.errors import DataError, MaeError, SpecError
from mae_skill.spec import AugmentationSpec, DatasetSpec
from mae_skill.spelling import and_more, one_line, shown
from torch.utils.data import Dataset

from mae_runners.data.transforms import EvalTransform, Pixels, TrainTransform, sample_key

log = logging.getLogger("mae.data")
MAX_REPLACEMENTS = 64
NO_TABLE = LabelTable(None, "")
LISTED = 20  # unreadable images that a result names


class KeyedDataset(Dataset[dict[str, Any]], ABC):
    """Items that a source and a key (epoch, index) determine, and that survive unreadable files.

    An unreadable item is named in the log, counted, and replaced by another one that (seed, epoch,
    index) chooses; the replacement carries ``valid`` false. `check_corrupt` raises once more than
    ``max_corrupt_fraction`` of the items are unreadable; the loader calls it after every batch.

    Attributes:
        classes: class names in the order of the labels; empty without labels.
        reading: how its pictures are read, with a range that is known.
        stand_ins: indices of the items that may replace an unreadable one; None: all.
    """

    def __init__(
        self,
        source: Source | Pairs,
        *,
        seed: int,
        classes: list[str],
        max_corrupt_fraction: float,
        reading: Reading,
    ) -> None:
        self.source: Source | Pairs = source
        self.reading = reading
        self.seed = seed
        self.classes = classes
        self.max_corrupt_fraction = max_corrupt_fraction
        self.stand_ins: npt.NDArray[np.int64] | None = None
        # One byte per item, in shared memory, so that workers' findings reach the main process.
        self._bad = shared_zeros(len(source), torch.uint8)

    @abstractmethod
    def load(self, index: int, draw: int) -> dict[str, Any]:
        """The part of an item that depends on the file.

        Raises:
            DataError: the file is unreadable.
        """

    @abstractmethod
    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Items as a batch."""

    @property
    @abstractmethod
    def item_bytes(self) -> int:
        """About how much memory an item takes."""

    @cached_property
    def pixel_bytes(self) -> int:
        """About how many bytes one pixel takes: of the first image that can be read."""
        for index in range(min(len(self), 4)):
            with contextlib.suppress(MaeError):
                pixels = decode(self.source.read(index), "", self.reading)
                return int(pixels.shape[2] * pixels.dtype.itemsize)
        return self.reading.bands

    def __len__(self) -> int:
        return len(self.source)

    @property
    def paths(self) -> list[str]:
        """``source/member`` of every image, in order."""
        return [self.source.path(i) for i in range(len(self))]

    def path(self, index: int) -> str:
        """``source/member`` of one image."""
        return self.source.path(index)

    def __getitem__(self, key: tuple[int, int] | tuple[int, int, bool] | int) -> dict[str, Any]:
        epoch, index, valid = (0, key, True) if isinstance(key, int) else (*key, True)[:3]
        draw = sample_key(self.seed, epoch, index)
        chosen = index
        for attempt in range(MAX_REPLACEMENTS):
            if not self._bad[chosen]:
                try:
                    item = self.load(chosen, draw)
                    break
                except DataError as error:
                    self._bad[chosen] = 1
                    path, why = one_line(self.source.path(chosen)), one_line(error.message)
                    log.warning("skipped an unreadable image: %s: %s", path, why)
            valid = False
            drawn = sample_key(self.seed, epoch, index, f"replacement {attempt}")
            pool = self.stand_ins
            chosen = drawn % len(self) if pool is None else int(pool[drawn % len(pool)])
        else:
            raise self._too_many()
        return item | {"index": index, "valid": bool(valid)}

    @property
    def corrupt(self) -> list[str]:
        """Images that are unreadable, as far as this process and its workers know."""
        return [self.source.path(int(i)) for i in torch.nonzero(self._bad).flatten()]

    def check_corrupt(self) -> None:
        """Raise when too many images were unreadable.

        Raises:
            DataError: more than ``max_corrupt_fraction`` of them; the message names the first.
        """
        count = int(self._bad.count_nonzero())
        if count and count > self.max_corrupt_fraction * len(self):
            raise self._too_many()

    def _why(self) -> str:
        """The reason why the first of them is unreadable, for an error."""
        try:
            self.load(int(torch.nonzero(self._bad)[0]), 0)
        except DataError as error:
            return f" ({error.message})"
        return ""

    def _too_many(self) -> DataError:
        names = self.corrupt
        listed = and_more([one_line(name) for name in names], 5)
        return DataError(
            f"{len(names)} of {len(self)} images cannot be read: {listed}{self._why()}",
            field="dataset.max_corrupt_fraction",
            got=len(names) / len(self),
            expected=f"at most {self.max_corrupt_fraction:g} of the images",
            hint="fix or remove these files (mae inspect lists them), "
            "or raise dataset.max_corrupt_fraction",
        )


def left_out(names: Sequence[str]) -> dict[str, Any]:
    """What a result says of images that could not be read: how many, and the first of them."""
    return {"unreadable": {"count": len(names), "files": list(names[:LISTED])}}


class ImageDataset(KeyedDataset):
    """``dataset[epoch, index]`` → ``{"image": uint8 or float32 [C, H, W], "label": int64,
    "index": int64, "valid": bool, "noise": float32 [L]}``.

    ``label`` is -1 for unlabeled images, and with ``targets`` float32 [C], 1 for each class that
    the image is of; ``noise`` is there when ``num_units`` is given (units with
    the smallest noise stay visible). With ``two_views`` an item has ``view`` too, the same picture
    as ``image`` by other draws.

    Attributes:
        labels: int64 [n].
        targets: uint8 [n, C] where an image may be of several classes, else None.
    """

    def __init__(
        self,
        source: Source,
        transform: TrainTransform | EvalTransform,
        *,
        seed: int,
        classes: list[str],
        labels: npt.NDArray[np.int64],
        targets: npt.NDArray[np.uint8] | None = None,
        num_units: int | None,
        max_corrupt_fraction: float,
        two_views: bool = False,
    ) -> None:
        super().__init__(
            source,
            seed=seed,
            classes=classes,
            max_corrupt_fraction=max_corrupt_fraction,
            reading=transform.reading,
        )
        self.transform, self.labels, self.num_units = transform, labels, num_units
        self.targets, self.two_views = targets, two_views

    @property
    def item_bytes(self) -> int:
        return (
            self.pixel_bytes * self.transform.height * self.transform.width * (1 + self.two_views)
            + 4 * (self.num_units or 0)
            + 64
        )

    def __getitem__(self, key: tuple[int, int] | tuple[int, int, bool] | int) -> dict[str, Any]:
        item = super().__getitem__(key)
        if self.num_units is not None:
            epoch = 0 if isinstance(key, int) else key[0]
            bits = np.random.Philox(key=sample_key(self.seed, epoch, item["index"], "mask"))
            noise = np.random.Generator(bits).random(self.num_units, dtype=np.float32)
            item["noise"] = torch.from_numpy(noise)
        return item

    def load(self, index: int, draw: int) -> dict[str, Any]:
        data, name = self.source.read(index), shown(self.source.members[index])
        label: Any = int(self.labels[index])
        if self.targets is not None:
            label = torch.from_numpy(self.targets[index].astype(np.float32))
        item = {"image": planes(self.transform(data, name, draw)), "label": label}
        if self.two_views:
            item["view"] = planes(self.transform(data, name, sample_key(draw, 0, index, "view")))
        return item

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Items as a batch; see the function `collate`."""
        return collate(samples)


def shared_zeros(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros [count] in memory that this process shares with those it forks."""
    zeros = torch.zeros(count, dtype=dtype)
    shared: torch.Tensor = zeros.share_memory_()
    return shared


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """``image`` uint8 or float32 [B, C, H, W], ``label`` (float32 [B, C] of several each) and
    ``index`` int64 [B], ``valid`` bool [B]; ``noise`` float32 [B, L], and ``view`` as ``image``,
    where there are any. Where one image is float32, all are."""
    labels = [sample["label"] for sample in samples]
    several = isinstance(labels[0], torch.Tensor)
    batch = {
        "image": torch.stack(alike([sample["image"] for sample in samples])),
        "label": torch.stack(labels) if several else torch.tensor(labels, dtype=torch.int64),
        "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
        "valid": torch.tensor([sample["valid"] for sample in samples], dtype=torch.bool),
    }
    if "noise" in samples[0]:
        batch["noise"] = torch.stack([sample["noise"] for sample in samples])
    if "view" in samples[0]:
        batch["view"] = torch.stack(alike([sample["view"] for sample in samples]))
    return batch


def alike(images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Images of one type: bytes, or float32 on the same scale where one of them is."""
    if all(image.dtype == torch.uint8 for image in images):
        return list(images)
    return [image.float() for image in images]


def planes(pixels: Pixels) -> torch.Tensor:
    """[H, W, C] → [C, H, W] of the same type."""
    out = np.empty((pixels.shape[2], *pixels.shape[:2]), pixels.dtype)
    # A quarter of the time of a transposed copy.
    cv2.split(np.ascontiguousarray(pixels), list(out))
    return torch.from_numpy(out)


def reading_of(dataset: DatasetSpec) -> Reading:
    """How the spec's ``dataset`` reads pictures."""
    return Reading.from_values(
        dataset.channels,
        dataset.value_range,
        dataset.exif_orientation,
        dataset.augmentation.max_pixels,
    )


def ends_of(reading: Reading) -> list[float] | None:
    """The range of a reading as a model's description keeps it; None: that of each file's type."""
    return list(reading.value_range) if isinstance(reading.value_range, tuple) else None


def table_of(dataset: DatasetSpec, role: str, *, several: bool) -> LabelTable:
    """The spec's table of labels of a role, ``train``, ``val`` or ``test``."""
    labels = dataset.labels
    return LabelTable(getattr(labels, role), role, several, labels.columns)


def augmentation_of(dataset: DatasetSpec) -> AugmentationSpec:
    """``dataset.augmentation`` with a mean and a deviation for every channel."""
    found, count = dataset.augmentation, dataset.channels or 3
    return found.model_copy(
        update={"mean": per_channel(found.mean, count), "std": per_channel(found.std, count)}
    )


def build_dataset(
    sources: str | Sequence[str],
    *,
    train: bool,
    stage: str,
    augmentation: AugmentationSpec,
    seed: int,
    classes: list[str] | None = None,
    require_labels: bool = False,
    chosen: Sequence[str] | None = None,
    labels: LabelTable = NO_TABLE,
    num_units: int | None = None,
    two_views: bool = False,
    max_corrupt_fraction: float = 0.01,
    reading: Reading = DEFAULT,
) -> ImageDataset:
    """Open ``sources`` and put a transform on them.

    Args:
        sources: a path or URL, or a list of them.
        train: random augmentation, else the evaluation transform.
        stage: ``pretrain`` or ``finetune``; in fine-tuning ``auto_aug`` and ``re_prob`` act.
        augmentation: the spec's ``dataset.augmentation``.
        seed: of every draw.
        classes: label with these (a training set's); ``None`` finds them in the source.
        require_labels: refuse images outside class folders.
        chosen: take the pictures of these classes alone; None: all.
        labels: the table of their classes; without labels being required, pictures that no row
            names stay. Without a file the folders are the classes.
        num_units: length of the masking noise; ``None`` = none.
        two_views: each item has a second view of its picture.
        max_corrupt_fraction: share of unreadable images that is tolerated.
        reading: how a picture is read; a range that is to be measured is measured in ``sources``.

    Raises:
        DataError: the source is missing, empty, hostile, unlabeled where labels are needed, or
            holds unknown classes.
        StorageError: it could not be fetched.
    """
    source = open_source(sources)
    if labels.file:
        source = labeled(source, labels, keep=not require_labels)
    elif labels.several and require_labels:
        raise SpecError(
            "model.multi_label needs a table: folders give each picture one class",
            field=f"dataset.labels.{labels.split}",
            expected="a CSV, TSV, JSON lines or Parquet file with the labels of each picture",
        )
    source = of_classes(source, chosen, required=train)
    names, found = source.label(classes)
    unlabeled = np.flatnonzero(found < 0)
    if require_labels and len(unlabeled) and not source.several:
        first = source.path(int(unlabeled[0]))
        raise DataError(
            f"{len(unlabeled)} of {len(found)} images are in no class folder, the first is {first}",
            got=first,
            expected="one folder per class: <source>/<class>/<image>",
            hint="images without labels serve pretraining (train.stage=pretrain) and the inference "
            "action",
        )

    reading = measured(source, reading)
    transform: TrainTransform | EvalTransform = EvalTransform(augmentation, reading)
    if train:
        transform = TrainTransform(augmentation, stage == "finetune", reading)
    return ImageDataset(
        source,
        transform,
        seed=seed,
        classes=names,
        labels=found,
        targets=source.targets(names)
        if isinstance(source, LabeledSource) and source.several
        else None,
        num_units=num_units,
        two_views=two_views,
        max_corrupt_fraction=max_corrupt_fraction,
    )
