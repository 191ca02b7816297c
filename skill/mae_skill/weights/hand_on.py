"""What timm and transformers cannot hold of a model, and which pictures they cannot prepare for it:
told from its description alone, so the plan says what the runner would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mae_skill.archs import ARCHS, hw, with_patch

FOLDERS = ("timm", "transformers", "mmseg")
"""Formats that are a folder in the layout of the model hub."""


class Refusal(NamedTuple):
    """Why a format cannot hold a model.

    Attributes:
        field: dotted key of what is in the way.
        reason: completes "FORMAT cannot hold this model: …".
        hint: what to do instead.
    """

    field: str
    reason: str
    hint: str


def why_not(format: str, model: Mapping[str, Any]) -> Refusal | None:
    """Why ``format`` cannot hold a model, or None.

    Args:
        model: the plain arguments that build it (``arch``, ``task``, ``patch_size``,
            ``global_pool``, ``input_size`` …); with ``mask_ratio`` it is a pretrained one.
    """
    if format not in FOLDERS:
        return None
    pretrained = "mask_ratio" in model
    family = ARCHS[str(model["arch"])].family
    if format == "mmseg":
        if family == "hiera":
            return Refusal(
                "model.arch",
                "OpenMMLab has no Hiera",
                "use export.format=timm or transformers, whose layers are Hiera's",
            )
        return None
    if not pretrained and model.get("task") == "segmentation":
        return Refusal(
            "model.task",
            f"{format} has no UperNet of this shape",
            "export.format=onnx holds a segmenter, and export.format=mmseg names it as mmseg does",
        )
    arch = with_patch(ARCHS[str(model["arch"])], model.get("patch_size"))
    if format == "timm":
        if arch.family == "convnextv2" and arch.patch == 2:
            return Refusal(
                "model.patch_size",
                "behind a stem of stride 2 timm's ConvNeXt halves its first stage too",
                "use export.format=transformers or onnx, or train with model.patch_size=1 or 4",
            )
        return None
    height, width = hw(model["input_size"])
    if height != width:
        return Refusal(
            "dataset.augmentation.input_size",
            f"its image processors cannot prepare pictures of {height}×{width} as training did",
            "use export.format=timm or onnx, or export a square input",
        )
    if arch.family == "vit" and not pretrained and model.get("global_pool", True):
        return Refusal(
            "model.global_pool",
            "ViTForImageClassification reads the class token, this model averages the patches",
            "use export.format=timm: AutoModelForImageClassification opens that folder as well",
        )
    if pretrained and model.get("decoder_type", "self") != "self":
        return Refusal(
            "model.decoder_type",
            "ViTMAEForPreTraining has no decoder of cross-attention",
            "use export.format=timm or onnx, which leave the decoder out",
        )
    if arch.family == "hiera" and pretrained and float(model.get("decoder_mlp_ratio", 4.0)) != 4.0:
        return Refusal(
            "model.decoder_mlp_ratio",
            "HieraForPreTraining has one MLP ratio for encoder and decoder, 4",
            "use export.format=timm or onnx, which leave the decoder out",
        )
    return None


def cannot_prepare(format: str, channels: int, value_range: Any) -> str | None:
    """What the image processors of ``format`` cannot do with a model's pictures, and what does it
    in their place; None where they prepare them as evaluation does.

    Args:
        channels: of a picture.
        value_range: ``dataset.value_range``, or what a checkpoint says of it; None: of bytes.
    """
    if format not in ("timm", "transformers"):
        return None
    if channels not in (1, 3):
        what = f"pictures of {channels} channels"
    elif value_range not in (None, "dtype"):
        what = "pictures of another value range than 0 … 255"
    else:
        return None
    return (
        f"{format} holds the model, but its image processors cannot prepare {what}: "
        "load_model(FOLDER).preprocess(pictures) makes its input"
    )
