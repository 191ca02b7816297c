"""Images for everything that is not training.

evaluate, inference, the parity gate and calibration all read and preprocess them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_sdk.data.label_file import LabelTable
from mae_skill.errors import DataError, SpecError
from mae_skill.spec import ExperimentSpec
from mae_skill.spelling import and_more
from torch import Tensor

from mae_runners.data import NO_TABLE, FunctionalSampler, build_dataset, build_loader, collate
from mae_runners.deploy.artifact import ArtifactMeta, reading_for
from mae_runners.deploy.eval_pairs import EvalPairs, augmentation_of, model_input

SAMPLE = "sample photograph"
GATE_IMAGES = 16
GATE_IMAGES_INT8 = 64  # rounding differs between images: more images catch more wrong scales
# Output elements compared at most: a segmenter's logits are as large as its images, per class.
GATE_ELEMENTS = 2**26


def gate_count(meta: ArtifactMeta, precision: str | None = None) -> int:
    """How many images the parity gate compares, for that precision (default: the artifact's)."""
    wanted = GATE_IMAGES_INT8 if (precision or meta.precision) == "int8" else GATE_IMAGES
    pixels = meta.input_size[0] * meta.input_size[1]
    elements = int(meta.num_classes or 1) * pixels if meta.segments else 1
    return max(1, min(wanted, GATE_ELEMENTS // elements))


class EvalImages:
    """A data source, seen as an artifact wants its input.

    Args:
        spec: the whole spec (augmentation, workers, seed, corrupt share).
        sources: URI or list of URIs.
        meta: gives input size, mean, std; these come from the artifact, never from a default of
            the spec.
        labeled: whether labels are needed.
        classes: class names in label order; None = the source's own.
        labels: as `build_dataset` takes them.
        num_units: mask units, when reconstruction noise is wanted.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        sources: Any,
        meta: ArtifactMeta,
        *,
        labeled: bool,
        classes: list[str] | None = None,
        labels: LabelTable = NO_TABLE,
        num_units: int | None = None,
    ) -> None:
        self.spec, self.meta = spec, meta
        self.dataset = build_dataset(
            sources,
            train=False,
            stage=meta.stage,
            augmentation=augmentation_of(spec, meta),
            seed=spec.train.seed,
            classes=classes,
            require_labels=labeled,
            chosen=spec.dataset.classes if labeled else None,
            labels=labels,
            num_units=num_units,
            max_corrupt_fraction=spec.dataset.max_corrupt_fraction,
            reading=reading_for(meta, spec.dataset.augmentation.max_pixels),
        )
        if not len(self.dataset):
            raise DataError("the data source holds no image", got=str(sources))

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def paths(self) -> list[str]:
        return [str(path) for path in self.dataset.paths]

    def batches(
        self, size: int, *, rank: int = 0, world: int = 1, device: torch.device | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Batches ``{"input", "image", "label", "index"[, "noise"]}`` of this rank, in order.

        Fillers and stand-ins for unreadable images are left out. ``input`` is what `Runtime.run`
        takes: float32, normalized; or raw pixels where the artifact normalizes itself.
        """
        sampler = FunctionalSampler(
            len(self.dataset), self.spec.train.seed, rank, world, shuffle=False
        )
        workers = self.spec.dataset.num_workers_per_gpu
        for batch in build_loader(self.dataset, sampler, size, workers):
            batch = {name: value[batch["valid"]] for name, value in batch.items()}
            if not len(batch["image"]):
                continue
            pixels = batch["image"].to(device or torch.device("cpu"), non_blocking=True)
            batch["input"] = model_input(pixels, self.meta)
            yield batch

    def at(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The batch of the images at these places; ``input`` lacks the unreadable ones, and
        ``kept`` has the places of the rest."""
        batch = collate([self.dataset[0, position] for position in positions])
        self.dataset.check_corrupt()
        batch["input"] = model_input(batch["image"][batch["valid"]], self.meta)
        batch["kept"] = torch.tensor(positions, dtype=torch.int64)[batch["valid"]]
        return batch


def source_images(
    spec: ExperimentSpec, meta: ArtifactMeta, name: str | None, sources: Any = None
) -> EvalImages | EvalPairs:
    """A source of ``dataset``, or ``sources``, without labels, for the artifact's task."""
    if meta.segments:
        return EvalPairs(spec, name, meta, labeled=False, sources=sources)
    return EvalImages(spec, sources or getattr(spec.dataset, str(name)), meta, labeled=False)


@dataclass(frozen=True)
class GateImages:
    """Real images that an artifact is compared with its model on.

    Attributes:
        pixels: ``[N, C, H, W]`` as `Runtime.run` takes them.
        source: ``dataset.<field>``, or ``sample photograph``.
        names: of each image, where it lies.
    """

    pixels: Tensor
    source: str
    names: list[str]

    def __str__(self) -> str:
        if self.source == SAMPLE:
            return (
                f"{len(self.names)} crops of matplotlib's sample photograph "
                "(the spec names no data source)"
            )
        return f"{len(self.names)} images of {self.source}"

    def listed(self, most: int = 4) -> str:
        """The origin in words, with the first names."""
        return f"{self}: {and_more(self.names, most)}"

    def to_dict(self) -> dict[str, Any]:
        """``images`` (how many), ``source``, ``names``."""
        return {"images": len(self.names), "source": self.source, "names": self.names}


def gate_images(spec: ExperimentSpec, meta: ArtifactMeta, count: int | None = None) -> GateImages:
    """The images of the parity gate.

    The first of val, test, train data that the spec names, spread over it; when it names none,
    crops of the photograph that matplotlib installs (``grace_hopper.jpg``, public domain), and the
    result says so. Random noise is never used: it drives a network where no image does.
    """
    count = count or gate_count(meta)
    for name in ("val_data_sources", "test_data_sources", "train_data_sources"):
        if getattr(spec.dataset, name):
            images = source_images(spec, meta, name)
            batch = next(_spread(images, count, count))
            names = [str(images.dataset.path(place)) for place in batch["kept"].tolist()]
            return GateImages(batch["input"], f"dataset.{name}", names)
    return GateImages(sample_photograph(meta, count), SAMPLE, ["grace_hopper.jpg"] * count)


def calibration_batches(spec: ExperimentSpec, meta: ArtifactMeta) -> tuple[list[np.ndarray], str]:
    """The images to choose int8 scales on, and where they came from.

    ``cal_batch_size`` × ``cal_batches`` images of ``cal_image_dir``, else of the spec's train or
    val data.

    Raises:
        SpecError: no source is named: scales from other images would be wrong without notice.
    """
    section = spec.gen_trt_engine.tensorrt.calibration
    fields = [
        name for name in ("train_data_sources", "val_data_sources") if getattr(spec.dataset, name)
    ]
    field = "gen_trt_engine.tensorrt.calibration.cal_image_dir"
    if section.cal_image_dir:
        images, origin = source_images(spec, meta, None, section.cal_image_dir), field
    elif fields:
        images, origin = source_images(spec, meta, fields[0]), f"dataset.{fields[0]}"
    else:
        raise SpecError(
            "int8 needs calibration images",
            field=field,
            expected="a folder or archive with images like those the model will see",
        )
    size = int(section.cal_batch_size)
    spread = _spread(images, size, size * int(section.cal_batches))
    batches = [batch["input"].numpy() for batch in spread if len(batch["input"])]
    return batches, f"{sum(map(len, batches))} images of {origin}"


def _spread(images: EvalImages | EvalPairs, size: int, wanted: int) -> Iterator[dict[str, Tensor]]:
    """Batches spread over the whole source.

    Sources are sorted by class: the first images alone would show one class.
    """
    total = min(wanted, len(images))
    positions = [int(i) for i in np.linspace(0, len(images) - 1, total).round()]
    for start in range(0, total, size):
        yield images.at(positions[start : start + size])


def sample_photograph(meta: ArtifactMeta, count: int) -> Tensor:
    """Crops of matplotlib's photograph, ``[count, C, H, W]`` as `Runtime.run` takes them;
    where these are not three channels, each is the photograph's luma."""
    from matplotlib import get_data_path
    from PIL import Image

    path = Path(get_data_path()) / "sample_data" / "grace_hopper.jpg"
    photograph = Image.open(path, formats=["JPEG"]).convert("RGB")
    height, width = meta.input_size
    rng = np.random.default_rng(0)
    crops = []
    for _ in range(count):
        share = float(rng.uniform(0.3, 0.9))
        w, h = int(photograph.width * share), int(photograph.height * share)
        x = int(rng.integers(0, photograph.width - w + 1))
        y = int(rng.integers(0, photograph.height - h + 1))
        box = (x, y, x + w, y + h)
        crop = photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)
        if meta.channels != 3:
            crops.append(np.repeat(np.asarray(crop.convert("L"))[None], meta.channels, axis=0))
            continue
        crops.append(np.asarray(crop).transpose(2, 0, 1))

    pixels = torch.from_numpy(np.stack(crops))
    if meta.preprocessing:
        return pixels
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (meta.mean, meta.std))
    return (pixels.float() / 255.0 - mean) / std
