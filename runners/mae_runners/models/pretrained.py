"""Weights into a model: all of a backbone in its place or an error, with an account of what was
taken; never by running code from the file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mae_skill.archs import per_channel
from mae_skill.spec import ExperimentSpec
from mae_skill.weights.config import is_own, own_description
from mae_skill.weights.fit import Fit, Resize, Target, fit, lack_of, only_decodes
from mae_skill.weights.names import flatten
from timm.layers.patch_embed import resample_patch_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from mae_runners.models.base import Backboned
from mae_runners.models.build import (
    build_classifier,
    build_from_config,
    build_mae,
    build_segmenter,
)
from mae_runners.models.checkpoint import (
    CheckpointMeta,
    check_values,
    model_of,
    read,
)
from mae_runners.models.conversion import realize
from mae_runners.models.heads import Classifier
from mae_runners.models.mae import MaskedAutoencoder
from mae_runners.models.position import resize_table, resize_windowed_table

FIELD = "train.pretrained_model_path"
_STATISTICS = (
    ".running_mean",
    ".running_var",
    ".num_batches_tracked",
)  # the buffers that training changes


@dataclass
class LoadReport:
    """What became of a file.

    ``matched`` and ``missing``: parameters of the model, filled or left at their initial values.
    ``unexpected``: entries of the file beside the backbone, its head and its decoder. ``ignored``:
    entries left out on purpose, with the reason. ``resized``: position tables brought to another
    grid. ``share``: the share of the backbone's values (encoder without head and final norm) that
    came from the file: always 1. ``head``: what became of the head, empty where there is none.
    ``line``: all of it in one line. ``warning``: what the user should know, or empty.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    share: float = 0.0
    head: str = ""
    line: str = ""
    warning: str = ""

    def summary(self) -> str:
        """One line for logs and records."""
        return self.line

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; long lists are kept whole."""
        return {**self.__dict__, "summary": self.summary()}


def load_pretrained(
    model: Backboned,
    path: str | os.PathLike[str],
    key: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    file_field: str = FIELD,
) -> LoadReport:
    """Fill ``model`` from a checkpoint of any of the sources in `mae_skill.weights.names`.

    Position tables are resized to the model's grid, and where ``model.patch_size`` was asked for,
    the patch convolution to its side (FlexiViT, arXiv 2212.08013). A stem of three channels is
    adapted to other numbers of them as timm does: summed to one, repeated and rescaled for more.

    A classifier takes the encoder, and of a head the rows of the classes that it has too; a masked
    autoencoder takes encoder and, where all of it fits, decoder; a segmenter takes the encoder and,
    from another segmenter, its head as a classifier does.

    Args:
        classes: the model's class names, in the order of its head; None: they are the file's own,
            and the head is taken as it lies.
        file_field: dotted key that names the file.

    Raises:
        NotFoundError: no such file.
        CheckpointError: the file cannot be read, or is another model's: an entry of its backbone
            has no place in the model, the model's lacks an entry, or a value is none that a
            training leaves.
    """
    return fill(model, read(path, key), Path(path).name, classes=classes, file_field=file_field)


def fill(
    model: Backboned,
    contents: Mapping[str, Any],
    name: str,
    *,
    classes: Sequence[str] | None = None,
    file_field: str = FIELD,
) -> LoadReport:
    """`load_pretrained` from the contents of the file ``name``."""
    result = _take(model, contents, name, file_field, classes)
    return LoadReport(
        matched=sorted(result.take),
        missing=list(result.fresh),
        unexpected=list(result.outside),
        ignored=dict(result.ignored),
        resized=result.adapted,
        share=result.share,
        head=result.head,
        line=result.summary(),
        warning=result.warning,
    )


def _take(
    model: Backboned,
    contents: Mapping[str, Any],
    name: str,
    file_field: str,
    classes: Sequence[str] | None = None,
) -> Fit:
    """Decides and copies."""
    target = target_of(model, classes)
    result = fit(contents, target, name, file_field, unnamed=imagenet_order(classes))
    if result.refusal is not None:
        raise result.refusal
    _fill(model, result, flatten(contents), name, file_field)
    if result.other_eps is not None:
        model.set_norm_eps(result.other_eps)
    return result


def load_described(
    path: str | os.PathLike[str],
    key: str | None,
    spec: ExperimentSpec | None,
    file_field: str | None,
) -> tuple[nn.Module, CheckpointMeta, bool]:
    """The module of a checkpoint in evaluation mode, its description, and whether it has its
    decoder, one that reads what the encoder says.

    A checkpoint of ours, and a folder that ``export`` wrote, are built from themselves alone; any
    other file holds the weights of the model that ``spec`` describes: architecture, stage, task,
    classes, input size.

    Raises:
        NotFoundError, CheckpointError: as `load_pretrained`; also when the file lacks something
            that the model's answers need.
    """
    contents, name = read(path, key), Path(path).name
    own = own_description(contents)
    if is_own(contents) or (own is None and spec is None):
        found, meta = model_of(contents, name, file_field)
        return found, meta, not _refined(meta)
    if own is not None:
        meta = CheckpointMeta.from_dict(own, name)
        model = build_from_config(meta.model)
    else:
        assert spec is not None
        model = _described(spec)
    result = _take(model, contents, name, file_field or FIELD)
    lack = lack_of(result, name, file_field, f"{_stage(model)} {model.arch}")
    if lack is not None:
        raise lack
    if own is None:
        assert spec is not None
        augmentation, channels = spec.dataset.augmentation, spec.dataset.channels or 3
        ends = spec.dataset.value_range
        meta = CheckpointMeta.for_model(
            model,
            classes=list(result.classes) if result.classes else None,
            mean=per_channel(augmentation.mean, channels),
            std=per_channel(augmentation.std, channels),
            center_crop=augmentation.center_crop,
            eval_interpolation=augmentation.eval_interpolation,
            value_range=ends if isinstance(ends, list) else None,
            exif_orientation=spec.dataset.exif_orientation,
            multi_label=isinstance(model, Classifier) and spec.model.multi_label,
        )
    decodes = not any(only_decodes(entry) for entry in result.fresh)
    return model.eval(), meta, decodes and not _refined(meta)


def _refined(meta: CheckpointMeta) -> bool:
    """Whether the encoder learned on after its decoder did, which therefore no longer reads it."""
    return bool(meta.model.get("refine"))


def _stage(model: Backboned) -> str:
    return "pretrain" if isinstance(model, MaskedAutoencoder) else "finetune"


def _described(spec: ExperimentSpec) -> Backboned:
    """The model that a spec describes."""
    size, channels = spec.dataset.augmentation.input_size, spec.dataset.channels or 3
    if spec.train.stage == "pretrain":
        return build_mae(spec.model, spec.train, size, channels)
    if spec.model.task == "segmentation":
        return build_segmenter(spec.model, size, channels)
    return build_classifier(spec.model, size, channels)


def targets(model: Backboned) -> dict[str, Tensor]:
    """The parameters of a model, and the buffers that training changes, by name."""
    statistics = {
        name: value for name, value in model.named_buffers() if name.endswith(_STATISTICS)
    }
    return dict(model.named_parameters()) | statistics


def target_of(model: Backboned, classes: Sequence[str] | None = None) -> Target:
    """What `fit` needs to know of a model."""
    kind = "classifier" if isinstance(model, Classifier) else "segmenter"
    if isinstance(model, MaskedAutoencoder):
        kind = "mae"
    heads = model.config.get("num_heads")
    return Target(
        row=model.shape,
        kind=kind,
        shapes={name: tuple(value.shape) for name, value in targets(model).items()},
        input_size=model.input_size,
        heads=(int(heads),) if heads is not None else model.shape.heads,
        token_pool=not model.config.get("global_pool", True),
        any_patch=model.config.get("patch_size") is not None,
        classes=classes,
    )


def imagenet_order(classes: Sequence[str] | None) -> list[str]:
    """The 1,000 classes of ImageNet-1k as published heads have them, where ``classes`` are of
    these; else nothing."""
    if not classes or not all(re.fullmatch(r"n\d{8}", label) for label in classes):
        return []
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    order: list[str] = info.label_names()
    return order if set(classes) <= set(order) else []


def _fill(
    model: Backboned, result: Fit, state: Mapping[str, Any], name: str, file_field: str
) -> None:
    """Copies what was decided, once all of it is known to be sound."""
    places, chosen = targets(model), {}
    for place, recipe in result.take.items():
        chosen[place] = realize(recipe, state)
    check_values(
        {result.take[place].sources[0]: value for place, value in chosen.items()}, name, file_field
    )
    with torch.no_grad():
        for place, value in chosen.items():
            target = places[place]
            if place in result.channels:
                value = adapt_input_conv(target.shape[1], value.float())
            if place in result.resampled:
                value = resample_patch_embed(value.float(), list(target.shape[2:]))
            if place in result.resized:
                value = _resized(value, result.resized[place])
            if place in result.rows:
                new, old = (list(column) for column in zip(*result.rows[place], strict=True))
                target[new] = value[old].reshape(len(old), *target.shape[1:]).to(target)
            else:
                target.copy_(value.reshape(target.shape))


def _resized(table: Tensor, change: Resize) -> Tensor:
    if change.window is not None:
        return resize_windowed_table(table, change.old, change.new, change.window)
    return resize_table(table, change.old, change.new, prefix=change.prefix)
