"""Images with masks as a torch data set: the rules of `KeyedDataset`, with joint transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mae_sdk.data import Pairs, open_pairs
from mae_sdk.data.decode import DEFAULT, check_turns, finish, load
from mae_sdk.data.reading import Reading
from mae_sdk.data.survey import measured
from mae_skill.classes import class_names
from mae_skill.errors import DataError, SpecError
from mae_skill.mask_meaning import CLASSES, MASK_VALUES, other_number
from mae_skill.spec import DatasetSpec
from mae_skill.spelling import one_line, shown

from mae_runners.data.dataset import KeyedDataset, alike, planes, reading_of, shared_zeros
from mae_runners.data.joint_transforms import JointTrainTransform
from mae_runners.data.masks import MaskReader

_LARGE = 1024  # side of an image whose size is not known yet, when memory is planned


class SegmentationDataset(KeyedDataset):
    """``dataset[epoch, index]`` → ``{"image": uint8 or float32 [C, H, W], "mask": uint8 or int32
    [H, W],
    "size": int64 [2], "index", "valid"}``.

    Mask values are 0 … num_classes - 1 and ``ignore_index``. In training H, W are the input size,
    in evaluation those of the image; a batch is padded at the right and bottom to its largest image
    (image 0, mask ``ignore_index``), and ``size`` [B, 2] is each one's (height, width). An
    unreadable image or mask, or a mask of another size than its image, is replaced as
    `KeyedDataset` replaces it. A mask value that is not a class stops the run (`check_corrupt`).
    Images without a mask (role ``test`` only) have one that is all ``ignore_index``.

    Attributes:
        classes: the names of the classes.
        ignore_index: what stands in a mask for pixels that do not count.
        has_masks: whether every image has a mask.
    """

    def __init__(
        self,
        source: Pairs,
        transform: JointTrainTransform | None,
        reader: MaskReader,
        *,
        seed: int,
        classes: list[str],
        max_corrupt_fraction: float,
        reading: Reading = DEFAULT,
    ) -> None:
        super().__init__(
            source,
            seed=seed,
            classes=classes,
            max_corrupt_fraction=max_corrupt_fraction,
            reading=reading,
        )
        self.pairs, self.transform, self.reader = source, transform, reader
        self.ignore_index = reader.ignored
        self.has_masks = source.masked == len(source)
        # The first value of a mask that is not a class, plus 1; shared as `_bad` is.
        self._strange = shared_zeros(len(source), torch.int32)

    @property
    def item_bytes(self) -> int:
        """About how much memory an item takes; untransformed images count as 1024 × 1024."""
        pixels = _LARGE * _LARGE
        if self.transform is not None:
            pixels = self.transform.height * self.transform.width
        return (self.pixel_bytes + np.dtype(self.reader.dtype).itemsize) * pixels

    def load(self, index: int, draw: int) -> dict[str, Any]:
        title = shown(self.pairs[index])
        stored = load(self.pairs.read(index), title, self.reading)
        pixels: Any = finish(stored, title, self.reading)
        data, name = self.pairs.read_mask(index), one_line(self.pairs.mask_path(index) or "")
        if data is None:
            mask: Any = np.full(pixels.shape[:2], self.ignore_index, dtype=self.reader.dtype)
        else:
            mask, strange, turn = self.reader(data, name, self.reading)
            size, shape = (stored.height, stored.width), (mask.shape[0], mask.shape[1])
            check_turns(size, stored.turn, title, (shape, turn), self.reading)
            if strange is not None:
                self._strange[index] = strange + 1
        if mask.shape != pixels.shape[:2]:
            raise DataError(
                f"the image has {pixels.shape[1]} × {pixels.shape[0]} pixels and its mask {name} "
                f"has {mask.shape[1]} × {mask.shape[0]}",
                got=list(mask.shape[::-1]),
                expected="a mask as large as its image",
            )

        if self.transform is not None:
            pixels, mask = self.transform(pixels, mask, draw)
        height, width = mask.shape
        return {
            "image": planes(pixels),
            "mask": torch.from_numpy(np.ascontiguousarray(mask)),
            "size": torch.tensor([height, width]),
        }

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Items as a batch: ``image`` uint8 or float32 [B, C, H, W], ``mask`` [B, H, W], ``size``
        int64 [B, 2], ``index`` int64 [B], ``valid`` bool [B]."""
        sizes = torch.stack([sample["size"] for sample in samples])
        height, width = (int(side) for side in sizes.amax(0))
        pictures = alike([sample["image"] for sample in samples])
        images = pictures[0].new_zeros(len(samples), pictures[0].shape[0], height, width)
        masks = torch.full(
            (len(samples), height, width), self.ignore_index, dtype=samples[0]["mask"].dtype
        )
        for i, (picture, sample) in enumerate(zip(pictures, samples, strict=True)):
            h, w = sample["mask"].shape
            images[i, :, :h, :w], masks[i, :h, :w] = picture, sample["mask"]
        return {
            "image": images,
            "mask": masks,
            "size": sizes,
            "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
            "valid": torch.tensor([sample["valid"] for sample in samples], dtype=torch.bool),
        }

    def check_corrupt(self) -> None:
        """Raise when a mask held a value that is not a class, or when too many images or masks were
        unreadable.

        Raises:
            DataError: either; the message names the first.
        """
        if self._strange.any():
            raise self._not_a_class()
        super().check_corrupt()

    def _not_a_class(self) -> DataError:
        index = int(torch.nonzero(self._strange)[0])
        value = int(self._strange[index]) - 1
        mask = one_line(str(self.pairs.mask_path(index)))
        return DataError(
            f"{mask} holds the value {value}, which is not a class",
            field="model.num_classes",
            got=value,
            expected=self.reader.meaning.in_words(),
            hint=f"set {MASK_VALUES} to the value of each class in the masks, and "
            f"{CLASSES} to how many they are",
        )


def build_segmentation_dataset(
    sources: str | Sequence[str],
    masks: str | Sequence[str] | None,
    *,
    role: str,
    train: bool,
    dataset: DatasetSpec,
    num_classes: int,
    seed: int,
    classes: Sequence[str] | None = None,
    required: bool = True,
    reading: Reading | None = None,
) -> SegmentationDataset:
    """Open images with their masks and put a transform on them.

    Args:
        sources: the images: a path or URL, or a list of them.
        masks: their masks likewise, in the same order; None: beside the images (see
            `mae_sdk.data.pairs`).
        role: ``train``, ``val`` or ``test``: which split of an ADE20K layout; in ``test`` images
            may lack a mask.
        train: random augmentation, else image and mask as they are.
        dataset: the spec's ``dataset``.
        num_classes: how many classes.
        seed: of every draw.
        classes: names that a checkpoint knows; None: those of ``dataset.segmentation.class_list``.
        required: whether images of the other roles must have one.
        reading: how a picture is read; None: as ``dataset`` says.

    Raises:
        DataError: a source is missing or empty, images lack masks, or the class list does not fit.
        SpecError: ``ignore_index`` is the number of a class, or ``mask_values`` are not as many
            as the classes.
        StorageError: a source could not be fetched.
    """
    meaning = dataset.segmentation
    listed = tuple(meaning.mask_values or ())
    if listed and len(listed) != num_classes:
        raise other_number(listed, num_classes)
    least = num_classes + int(meaning.reduce_zero_label)  # 1 … N where 0 is unlabeled
    if not listed and meaning.ignore_index < least:
        raise SpecError(
            f"is the number of one of the {num_classes} classes",
            field="dataset.segmentation.ignore_index",
            got=meaning.ignore_index,
            expected=f"at least {least}",
        )
    names = list(classes) if classes else class_names(meaning.class_list, num_classes)
    pairs = open_pairs(sources, masks, role=role, required=required and role != "test")
    reading = measured(pairs, reading or reading_of(dataset))
    reader = MaskReader(num_classes, meaning.ignore_index, meaning.reduce_zero_label, listed)
    joint = JointTrainTransform(dataset.augmentation, reader.ignored, reading.bands)
    return SegmentationDataset(
        pairs,
        joint if train else None,
        reader,
        seed=seed,
        classes=names,
        max_corrupt_fraction=dataset.max_corrupt_fraction,
        reading=reading,
    )
