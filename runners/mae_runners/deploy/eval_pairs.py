"""Images with masks for everything that is not training, and a segmenter applied to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mae_skill.errors import DataError
from mae_skill.spec import ExperimentSpec
from torch import Tensor

from mae_runners.data import (
    FunctionalSampler,
    build_loader,
    build_segmentation_dataset,
    to_input,
)
from mae_runners.deploy.artifact import ArtifactMeta, reading_for
from mae_runners.deploy.runtimes import Runtime, run_batch
from mae_runners.metrics.windows import (
    default_stride,
    fitted_size,
    pad_pixels,
    scale_pixels,
    slide,
    whole,
)

ROLES = {"train_data_sources": "train", "val_data_sources": "val", "test_data_sources": "test"}


def augmentation_of(spec: ExperimentSpec, meta: ArtifactMeta) -> Any:
    """``dataset.augmentation`` with what the artifact says of its images."""
    return spec.dataset.augmentation.model_copy(
        update={
            "input_size": list(meta.input_size),
            "mean": list(meta.mean),
            "std": list(meta.std),
            "center_crop": float(meta.center_crop),
            "eval_interpolation": meta.eval_interpolation,
        }
    )


def model_input(pixels: Tensor, meta: ArtifactMeta) -> Tensor:
    """Pixels ``[B, C, H, W]`` as the artifact takes them: as bytes where it normalizes itself."""
    if meta.preprocessing:
        return pixels if pixels.dtype == torch.uint8 else pixels.round().to(torch.uint8)
    return to_input(pixels, meta.mean, meta.std, torch.float32)


@dataclass
class Pair:
    """An image with its mask.

    Attributes:
        index: place in the data set.  image: uint8 or float32 ``[C, H, W]``.
        mask: ``[H, W]``, all ignored where there is none.
    """

    index: int
    image: Tensor
    mask: Tensor


class EvalPairs:
    """A source of images with masks at their own size.

    Args:
        spec: the whole spec (mask sources and their meaning, workers, seed, corrupt share).
        name: the source's field: ``train_data_sources``, ``val_data_sources`` or
            ``test_data_sources``; None with ``sources``.
        meta: gives input size, mean, classes; these come from the artifact, never from a default
            of the spec.
        labeled: whether every image needs a mask.
        sources: images without masks that no field of ``dataset`` names.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        name: str | None,
        meta: ArtifactMeta,
        *,
        labeled: bool,
        sources: Any = None,
    ) -> None:
        role = ROLES[name] if name else "test"
        self.spec, self.meta = spec, meta
        self.dataset = build_segmentation_dataset(
            sources or getattr(spec.dataset, str(name)),
            getattr(spec.dataset.segmentation, f"{role}_mask_sources") if name else None,
            role=role,
            train=False,
            dataset=spec.dataset.model_copy(update={"augmentation": augmentation_of(spec, meta)}),
            num_classes=int(meta.num_classes or 0),
            seed=spec.train.seed,
            classes=meta.classes,
            required=labeled,
            reading=reading_for(meta, spec.dataset.augmentation.max_pixels),
        )
        if not len(self.dataset):
            raise DataError("the data source holds no image", got=str(sources or name))
        self.window = (int(meta.input_size[0]), int(meta.input_size[1]))

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, size: int, *, rank: int = 0, world: int = 1) -> Iterator[list[Pair]]:
        """This rank's share in order, without fillers and stand-ins for unreadable images."""
        sampler = FunctionalSampler(
            len(self.dataset), self.spec.train.seed, rank, world, shuffle=False
        )
        workers = self.spec.dataset.num_workers_per_gpu
        for batch in build_loader(self.dataset, sampler, size, workers):
            yield [
                Pair(index, image[:, :height, :width], mask[:height, :width])
                for index, image, mask, (height, width), valid in zip(
                    batch["index"].tolist(),
                    batch["image"],
                    batch["mask"],
                    batch["size"].tolist(),
                    batch["valid"].tolist(),
                    strict=True,
                )
                if valid
            ]

    def at(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """``{"input", "kept"}`` of the images at these places, each fitted whole into the
        artifact's input; unreadable ones are left out, and ``kept`` has the places of the rest."""
        items = [self.dataset[0, position] for position in positions]
        self.dataset.check_corrupt()
        pixels = []
        for image in (item["image"] for item in items if item["valid"]):
            fitted = scale_pixels(image, fitted_size((image.shape[1], image.shape[2]), self.window))
            pixels.append(pad_pixels(fitted, self.window, self.meta.mean))
        return {
            "input": model_input(torch.stack(pixels), self.meta) if pixels else torch.empty(0),
            "kept": torch.tensor(
                [place for place, item in zip(positions, items, strict=True) if item["valid"]],
                dtype=torch.int64,
            ),
        }


def segmenter(
    runtime: Runtime, settings: Any, size: int
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A function from images ``[C, H_i, W_i]`` in 0 … 255 to logits ``[K, h_i, w_i]`` of their
    shape, for `classify_pixels`.

    Args:
        settings: ``window`` (whole or slide) and ``stride``, as ``evaluate.segmentation`` and
            ``inference.segmentation`` have them.
        size: windows per call when sliding.
    """
    meta = runtime.meta
    window = (int(meta.input_size[0]), int(meta.input_size[1]))

    def model(pixels: Tensor) -> Tensor:
        return run_batch(runtime, model_input(pixels.to(runtime.device), meta), stay=True)

    if settings.window == "whole":
        return lambda images: whole(model, images, window, meta.mean)
    stride = default_stride(window, settings.stride)
    return lambda images: [
        slide(model, image.to(runtime.device), window, stride, size) for image in images
    ]
