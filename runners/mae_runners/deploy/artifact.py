"""What an artifact says about itself, and whether the spec agrees with it.

The description is enough to preprocess for the artifact and to name its outputs with no checkpoint
at hand. In an ONNX file its fields are metadata properties named ``mae.<field>`` (JSON values); an
engine, which has no room for them, gets ``<engine>.json`` beside it. Input and output names are
fixed: ``images`` [B, C, H, W]; ``logits`` [B, classes] for a classifier, [B, classes, H, W] for a
segmenter; ``features`` [B, D] (pooled) or [B, N, D] (tokens) for a backbone.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mae_sdk.data.pictures import MAX_PIXELS
from mae_sdk.data.reading import Reading
from mae_skill.errors import CheckpointError, SpecError, UsageError
from mae_skill.mask_meaning import set_for_run
from mae_skill.origin import Origin, is_explicit
from mae_skill.resolve import raise_all
from mae_skill.rules.agreement import disagreements
from mae_skill.spec import EvaluateSpec, ExperimentSpec, InferenceSpec
from torch import Tensor

from mae_runners.models.checkpoint import CheckpointMeta, digest

PREFIX = "mae."
INPUT_NAME = "images"
FORMAT_VERSION = 1


@dataclasses.dataclass
class ArtifactMeta:
    """The description of an ONNX file or engine.

    Attributes:
        arch, stage, task: as in the checkpoint; ``task`` is ``classification`` or ``segmentation``.
        input_size: [height, width] in pixels.
        patch_size: as in the checkpoint; None = the architecture's.
        mean, std: per channel, of pixels in [0, 1].
        center_crop, eval_interpolation: of `EvalTransform`.
        output: ``logits`` | ``pooled`` | ``tokens``.
        classes: class names in output order, or None.
        num_classes: width of the logits, or None for features.
        channels: of an image.
        value_range: the stored values that become 0 and 255; None: those of the file's type.
        exif_orientation: whether a picture is turned as its file says.
        preprocessing: True when the graph takes raw uint8 pixels and normalizes them itself.
        precision: ``fp32`` | ``fp16`` | ``bf16`` | ``int8``: what the heavy layers compute in.
            Inputs and outputs stay float32.
        batch: -1 = any, else the fixed batch size.
        opset: ONNX opset, 0 for other formats.
        checkpoint_sha256: digest of the checkpoint file it was made from.
        multi_label: an image may be of several classes: a sigmoid of each logit is its probability.
        thresholds: of each class, the probability from which an image is taken to be of it; None:
            0.5.
        reduce_zero_label, mask_values: as in the checkpoint.
    """

    arch: str
    stage: str
    input_size: list[int]
    mean: list[float]
    std: list[float]
    output: str
    classes: list[str] | None = None
    num_classes: int | None = None
    preprocessing: bool = False
    precision: str = "fp32"
    batch: int = -1
    opset: int = 17
    checkpoint_sha256: str | None = None
    task: str = "classification"
    center_crop: float = 0.875
    eval_interpolation: str = "bicubic"
    patch_size: int | None = None
    channels: int = 3
    value_range: list[float] | None = None
    exif_orientation: bool = True
    multi_label: bool = False
    thresholds: list[float] | None = None
    reduce_zero_label: bool | None = None
    mask_values: list[int] | None = None
    format: int = FORMAT_VERSION

    @property
    def segments(self) -> bool:
        """Whether the output is a class for every pixel."""
        return self.output == "logits" and self.task == "segmentation"

    @property
    def cuts(self) -> list[float] | None:
        """Of a multi-label model the logit of each class from which an image is taken to be of it;
        else None."""
        if not self.multi_label or not self.num_classes:
            return None
        return [math.log(t / (1 - t)) for t in self.thresholds or [0.5] * self.num_classes]

    @property
    def output_name(self) -> str:
        return "logits" if self.output == "logits" else "features"

    def to_properties(self) -> dict[str, str]:
        """``mae.<field>`` → JSON text."""
        return {
            PREFIX + name: json.dumps(value) for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def of_checkpoint(
        cls, saved: CheckpointMeta, path: Path, *, features: str, **more: Any
    ) -> ArtifactMeta:
        """The description of what is made of a checkpoint.

        Args:
            features: what a pretrained model gives: ``pooled`` or ``tokens``.
            more: what the artifact says of itself beside that.
        """
        pretrain = saved.stage == "pretrain"
        return cls(
            arch=saved.arch,
            stage=saved.stage,
            input_size=list(saved.input_size),
            mean=list(saved.mean),
            std=list(saved.std),
            output=features if pretrain else "logits",
            classes=saved.classes,
            num_classes=None if pretrain else saved.num_classes,
            checkpoint_sha256=digest(path),
            task=saved.task,
            center_crop=saved.center_crop,
            eval_interpolation=saved.eval_interpolation,
            patch_size=saved.model.get("patch_size"),
            channels=saved.channels,
            value_range=saved.value_range,
            exif_orientation=saved.exif_orientation,
            multi_label=saved.multi_label,
            thresholds=saved.thresholds,
            reduce_zero_label=saved.reduce_zero_label,
            mask_values=saved.mask_values,
            **more,
        )

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], path: Path) -> ArtifactMeta:
        """The inverse of `to_properties`; other properties are ignored.

        Raises:
            CheckpointError: the description is missing, so nothing can be preprocessed for it.
        """
        values: dict[str, Any] = {
            key[len(PREFIX) :]: json.loads(text)
            for key, text in properties.items()
            if key.startswith(PREFIX)
        }
        return cls.from_dict(values, path)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], path: Path) -> ArtifactMeta:
        """A description from its fields; entries of other names are ignored.

        Raises:
            CheckpointError: a field without a default is missing.
        """
        fields = dataclasses.fields(cls)
        missing = [
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.name not in values
        ]
        if missing:
            raise CheckpointError(
                f"{path.name} carries no description of itself",
                got=f"without {', '.join(PREFIX + name for name in missing)}",
                expected="an artifact written by the export or gen_trt_engine action",
                hint="export the checkpoint again with the export action",
            )
        return cls(**{field.name: values[field.name] for field in fields if field.name in values})


def sidecar(path: Path) -> Path:
    """The description beside an engine: ``model.engine`` → ``model.engine.json``."""
    return path.with_name(path.name + ".json")


def check_target(path: Path, overwrite: bool, field: str = "export.overwrite") -> None:
    """Raises `UsageError` when `path` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path} exists already",
            field=field,
            got=False,
            expected="a new path, or permission",
            hint=f"set {field}=true to replace it",
        )


def check_no_folder(path: Path, field: str) -> None:
    """Raises `UsageError` when a folder is in the place of a file that is to be written."""
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder", field=field, got=str(path), expected="the path of a file"
        )


def run_in_parts(
    call: Callable[[Tensor], Tensor], images: Tensor, largest: int, smallest: int = 1
) -> Tensor:
    """`call` on images [N, C, H, W] in parts of at most `largest`; outputs [N, …].

    A last part below `smallest` is filled with copies of its last image, whose outputs are dropped.
    """
    outputs = []
    for start in range(0, len(images), largest):
        part = images[start : start + largest]
        count = len(part)
        if count < smallest:
            part = torch.cat([part, part[-1:].expand(smallest - count, *part.shape[1:])])
        outputs.append(call(part)[:count])
    return torch.cat(outputs)


def choose_path(section: EvaluateSpec | InferenceSpec, action: str) -> Path:
    """``<action>.trt_engine`` or ``<action>.checkpoint``, whichever is set.

    Raises:
        SpecError: neither is set, or both are.
    """
    engine, checkpoint = section.trt_engine, section.checkpoint
    if engine and checkpoint:
        raise SpecError(
            "a checkpoint and an engine are both named",
            field=f"{action}.trt_engine",
            got=str(engine),
            expected="one of the two",
            hint=f"clear {action}.checkpoint or {action}.trt_engine",
        )

    path = engine or checkpoint
    if not path:
        raise SpecError(
            "no model given",
            field=f"{action}.checkpoint",
            expected="a .pth checkpoint or an .onnx file; or an engine in trt_engine",
            hint=f"set {action}.checkpoint, or pass --parent JOB",
        )
    return Path(path)


def check_agreement(
    spec: ExperimentSpec,
    provenance: Mapping[str, Origin],
    meta: ArtifactMeta,
    field: str,
    shape: Mapping[str, Any] | None = None,
) -> None:
    """Rejects a spec whose explicit values contradict the artifact; defaults give way to it.

    Args:
        shape: the arguments that build a checkpoint's model.

    Raises:
        SpecError: all contradictions, together.
    """
    said = {**dataclasses.asdict(meta), "model": shape or {}}
    raise_all(
        disagreements(spec.model_dump(mode="json"), provenance, said, field),
        field.partition(".")[0],
    )


def reading_for(meta: ArtifactMeta, max_pixels: int = MAX_PIXELS) -> Reading:
    """How pictures are read for an artifact: as the model was trained."""
    return Reading.from_values(
        None if meta.channels == 3 else meta.channels,
        meta.value_range or "dtype",
        meta.exif_orientation,
        max_pixels,
        of_model=True,
    )


def take_crop(spec: ExperimentSpec, provenance: Mapping[str, Origin], meta: ArtifactMeta) -> None:
    """A crop, and a filter of resizing, that somebody set are taken; else those that the model was
    validated with stay."""
    if is_explicit(provenance, "dataset.augmentation.center_crop"):
        meta.center_crop = float(spec.dataset.augmentation.center_crop)
    if is_explicit(provenance, "dataset.augmentation.eval_interpolation"):
        meta.eval_interpolation = str(spec.dataset.augmentation.eval_interpolation)


def take_masks(spec: ExperimentSpec, provenance: Mapping[str, Origin], meta: ArtifactMeta) -> None:
    """Masks are read as those that the model learned from, where it says how: a class too many
    below would exchange all of them. Only ``mask_values`` that somebody set, which say it of each
    class, are taken instead; `check_agreement` has refused anything else."""
    masks = spec.dataset.segmentation
    if masks.mask_values and set_for_run(provenance):
        return
    if meta.segments and meta.reduce_zero_label is not None:
        masks.reduce_zero_label = meta.reduce_zero_label
        masks.mask_values = meta.mask_values


def need_source(spec: ExperimentSpec, name: str, action: str) -> str | list[str]:
    """A data source of the spec.

    Raises:
        SpecError: it is empty; an empty source never means everything.
    """
    sources: str | list[str] | None = getattr(spec.dataset, name)
    if not sources:
        raise SpecError(
            f"{action} needs images",
            field=f"dataset.{name}",
            got=sources,
            expected="a folder or an archive, local or remote, or a list",
        )
    return sources


def batch_size(section: EvaluateSpec | InferenceSpec, spec: ExperimentSpec) -> int:
    """The action's batch size; -1 = ``dataset.batch_size``."""
    return section.batch_size if section.batch_size > 0 else spec.dataset.batch_size


def class_names(meta: ArtifactMeta, dataset_classes: list[str] | None) -> list[str]:
    """Class names in the order of the logits: the artifact's own, else the data's.

    Raises:
        UsageError: the data has another number of classes than the logits.
    """
    if meta.classes:
        return list(meta.classes)

    count = int(meta.num_classes or 0)
    names = list(dataset_classes or [])
    if names and len(names) != count:
        raise UsageError(
            "the data has another number of classes than the model",
            field="model.num_classes",
            got=len(names),
            expected=str(count),
        )
    return names or [str(index) for index in range(count)]
