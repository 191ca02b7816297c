"""Images for everything that is not training: evaluate, inference, the parity gate and calibration all read and preprocess them here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_skill.errors import DataError, SpecError
from torch import Tensor

from mae_runners.deploy.artefact import ArtefactMeta

GATE_IMAGES = 16
GATE_IMAGES_INT8 = 64  # rounding errors differ from image to image; the more that look, the fewer wrong scales pass
GATE_ELEMENTS = (
    2**26
)  # output elements that are compared at most: a segmenter's logits are as large as its images, once a class


def gate_count(meta: ArtefactMeta, precision: str | None = None) -> int:
    """How many images the parity gate looks at, for an artefact of that precision (its own, where none is said)."""
    wanted = GATE_IMAGES_INT8 if (precision or meta.precision) == "int8" else GATE_IMAGES
    one = (
        int(meta.num_classes or 1) * meta.input_size[0] * meta.input_size[1] if meta.segments else 1
    )
    return max(1, min(wanted, GATE_ELEMENTS // one))


class Images:
    """A data source, seen as an artefact wants its input.

    Args:
        spec: the whole spec (augmentation, workers, seed, corrupt share).
        sources: URI or list of URIs.
        meta: gives input size, mean, std; these come from the artefact, never from a default of the spec.
        labelled: whether labels are needed.
        classes: class names in label order; None = the source's own.
        num_units: mask units, when reconstruction noise is wanted.
    """

    def __init__(
        self,
        spec: Any,
        sources: Any,
        meta: ArtefactMeta,
        *,
        labelled: bool,
        classes: list[str] | None = None,
        num_units: int | None = None,
    ) -> None:
        from mae_runners.data import build_dataset

        augmentation = spec.dataset.augmentation.model_copy(
            update={
                "input_size": list(meta.input_size),
                "mean": list(meta.mean),
                "std": list(meta.std),
            }
        )
        self.spec = spec
        self.meta = meta
        self.dataset = build_dataset(
            sources,
            train=False,
            stage=meta.stage,
            augmentation=augmentation,
            seed=spec.train.seed,
            classes=classes,
            require_labels=labelled,
            num_units=num_units,
            max_corrupt_fraction=spec.dataset.max_corrupt_fraction,
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
        """Batches ``{"input", "image", "label", "index"[, "noise"]}`` of this rank's share, padding left out, in order.

        ``input`` is what `Runtime.run` takes: float32 normalised, or raw uint8 when the artefact normalises itself.
        """
        from mae_runners.data import FunctionalSampler, build_loader, to_input

        sampler = FunctionalSampler(
            len(self.dataset), self.spec.train.seed, rank, world, shuffle=False
        )
        loader = build_loader(self.dataset, sampler, size, self.spec.dataset.num_workers_per_gpu)
        for batch in loader:
            batch = {
                name: value[batch["valid"]] for name, value in batch.items()
            }  # fillers and stand-ins of unreadable images
            if not len(batch["image"]):
                continue
            pixels = batch["image"].to(device or torch.device("cpu"), non_blocking=True)
            batch["input"] = (
                pixels
                if self.meta.preprocessing
                else to_input(pixels, self.meta.mean, self.meta.std, torch.float32)
            )
            yield batch

    def at(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """The batch, ``input`` included, of the images at these places; unreadable ones left out of ``input``."""
        from mae_runners.data import collate, to_input

        batch = collate([self.dataset[0, position] for position in positions])
        self.dataset.check_corrupt()
        pixels = batch["image"][batch["valid"]]
        batch["input"] = (
            pixels
            if self.meta.preprocessing
            else to_input(pixels, self.meta.mean, self.meta.std, torch.float32)
        )
        return batch


def source_images(spec: Any, meta: ArtefactMeta, name: str | None, sources: Any = None) -> Any:
    """The unlabelled view of a source of ``dataset`` (or of ``sources``), as the artefact's task sees it."""
    if meta.segments:
        from mae_runners.deploy.eval_pairs import Scenes

        return Scenes(spec, name, meta, labelled=False, sources=sources)
    return Images(spec, sources or getattr(spec.dataset, str(name)), meta, labelled=False)


def gate_images(spec: Any, meta: ArtefactMeta, count: int | None = None) -> tuple[Tensor, str]:
    """Real images to compare an artefact with its model on, [N, 3, H, W] as `Runtime.run` takes them, and where they came from.

    The first of val, test, train data that the spec names; when it names none, crops of the photograph that matplotlib installs
    (``grace_hopper.jpg``, public domain), and the result says so. Random noise is never used: it drives a network where no image does.
    """
    count = count or gate_count(meta)
    for name in ("val_data_sources", "test_data_sources", "train_data_sources"):
        if getattr(spec.dataset, name):
            picked = _first(source_images(spec, meta, name), count)
            return picked, f"{len(picked)} images of dataset.{name}"
    return sample_photograph(
        meta, count
    ), f"{count} crops of matplotlib's sample photograph (the spec names no data source)"


def calibration_batches(spec: Any, meta: ArtefactMeta) -> tuple[list[np.ndarray], str]:
    """The images to choose int8 scales on: ``cal_image_dir``, else val or train data of the spec; ``cal_batch_size`` × ``cal_batches``
    of them.

    Raises:
        SpecError: no source is named: scales from anything but the user's images would be wrong in silence.
    """
    section = spec.gen_trt_engine.tensorrt.calibration
    fields = [
        name for name in ("train_data_sources", "val_data_sources") if getattr(spec.dataset, name)
    ]
    if section.cal_image_dir:
        images, origin = (
            source_images(spec, meta, None, section.cal_image_dir),
            "gen_trt_engine.tensorrt.calibration.cal_image_dir",
        )
    elif fields:
        images, origin = source_images(spec, meta, fields[0]), f"dataset.{fields[0]}"
    else:
        raise SpecError(
            "int8 needs calibration images",
            field="gen_trt_engine.tensorrt.calibration.cal_image_dir",
            expected="a folder or archive with images like those the model will see",
        )
    size = int(section.cal_batch_size)
    spread = _spread(images, size, size * int(section.cal_batches))
    batches = [batch["input"].numpy() for batch in spread if len(batch["input"])]
    return batches, f"{sum(map(len, batches))} images of {origin}"


def _spread(images: Any, size: int, wanted: int) -> Iterator[dict[str, Tensor]]:
    """Batches spread over the whole source: sources are sorted by class, and the first ones alone would show one class."""
    total = min(wanted, len(images))
    positions = [int(i) for i in np.linspace(0, len(images) - 1, total).round()]
    for start in range(0, total, size):
        yield images.at(positions[start : start + size])


def _first(images: Any, count: int) -> Tensor:
    return torch.cat([batch["input"] for batch in _spread(images, count, count)])


def sample_photograph(meta: ArtefactMeta, count: int) -> Tensor:
    from matplotlib import get_data_path
    from PIL import Image

    picture = Image.open(Path(get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    height, width = meta.input_size
    rng = np.random.default_rng(0)
    crops = []
    for _ in range(count):
        share = float(rng.uniform(0.3, 0.9))
        w, h = int(picture.width * share), int(picture.height * share)
        x, y = (
            int(rng.integers(0, picture.width - w + 1)),
            int(rng.integers(0, picture.height - h + 1)),
        )
        crops.append(
            np.asarray(
                picture.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
            ).transpose(2, 0, 1)
        )
    pixels = torch.from_numpy(np.stack(crops))
    if meta.preprocessing:
        return pixels
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (meta.mean, meta.std))
    return (pixels.float() / 255.0 - mean) / std
