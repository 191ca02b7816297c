"""Sources to batches on the device."""

from mae_runners.data.dataset import ImageDataset, build_dataset
from mae_runners.data.loader import build_loader, collate, to_input
from mae_runners.data.mixup import Mixup, soft_targets
from mae_runners.data.sampler import FunctionalSampler
from mae_runners.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "EvalTransform",
    "FunctionalSampler",
    "ImageDataset",
    "Mixup",
    "TrainTransform",
    "build_dataset",
    "build_loader",
    "collate",
    "soft_targets",
    "to_input",
]
