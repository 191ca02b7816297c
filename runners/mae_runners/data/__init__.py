"""Images and masks: from a source to batches on the device."""

from mae_runners.data.dataset import (
    NO_TABLE,
    ImageDataset,
    KeyedDataset,
    augmentation_of,
    build_dataset,
    collate,
    ends_of,
    left_out,
    reading_of,
    table_of,
)
from mae_runners.data.loader import build_loader, to_input
from mae_runners.data.mixup import Mixup, soft_targets
from mae_runners.data.sampler import BalancedSampler, FunctionalSampler, SubsetSampler
from mae_runners.data.segmentation_dataset import SegmentationDataset, build_segmentation_dataset
from mae_runners.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "NO_TABLE",
    "BalancedSampler",
    "EvalTransform",
    "FunctionalSampler",
    "ImageDataset",
    "KeyedDataset",
    "Mixup",
    "SegmentationDataset",
    "SubsetSampler",
    "TrainTransform",
    "augmentation_of",
    "build_dataset",
    "build_loader",
    "build_segmentation_dataset",
    "collate",
    "ends_of",
    "left_out",
    "reading_of",
    "soft_targets",
    "table_of",
    "to_input",
]
