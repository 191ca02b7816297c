"""From the spec to a model: one place where the families are told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mae_skill.archs import (
    ARCHS,
    Arch,
    hw,
    nearest_sizes,
    num_units,
    patch_sizes,
    size_fits,
    with_patch,
)
from mae_skill.errors import SpecError

from mae_runners.models.base import Backboned
from mae_runners.models.fcmae import ConvNextBackbone, FcMae
from mae_runners.models.heads import Classifier, Segmenter
from mae_runners.models.hiera_mae import HieraBackbone, HieraMae
from mae_runners.models.kernels import speed_up
from mae_runners.models.mae import MaskedAutoencoder
from mae_runners.models.position import TEMPERATURE
from mae_runners.models.vit_mae import VitBackbone, VitMae

_MAE = {"vit": VitMae, "convnextv2": FcMae, "hiera": HieraMae}
DECODER_HEADS = 16  # the papers'
_SHAPE_FIELDS = ("embed_dim", "depth", "num_heads", "mlp_ratio")


def default_decoder_heads(width: int) -> int:
    """16, or the largest count below that divides the decoder's ``width``."""
    return next(heads for heads in range(DECODER_HEADS, 0, -1) if width % heads == 0)


def build_mae(
    model_spec: Any,
    train_spec: Any,
    input_size: int | Sequence[int],
    channels: int = 3,
    teacher: Mapping[str, Any] | None = None,
    refine: Mapping[str, Any] | None = None,
) -> MaskedAutoencoder:
    """The masked autoencoder of ``model`` and ``train`` of the spec, freshly initialized.

    Args:
        channels: of an image.
        teacher: see `VitMae`.
        refine: see `Refiner`.

    Raises:
        SpecError: the input size or the decoder's shape does not work.
    """
    config = {
        **_encoder_config(model_spec, input_size, channels),
        "mask_ratio": float(train_spec.mask_ratio),
        "norm_pix_loss": bool(train_spec.norm_pix_loss),
        "decoder_depth": int(model_spec.decoder_depth),
        "decoder_embed_dim": int(model_spec.decoder_embed_dim),
        "decoder_num_heads": int(
            model_spec.decoder_num_heads or default_decoder_heads(int(model_spec.decoder_embed_dim))
        ),
        "decoder_mlp_ratio": float(model_spec.decoder_mlp_ratio),
    }
    if getattr(model_spec, "decoder_type", "self") == "cross":
        config["decoder_type"] = "cross"
        config["decoder_prediction_share"] = float(model_spec.decoder_prediction_share)
    temperature = float(getattr(model_spec, "position_temperature", TEMPERATURE))
    if temperature != TEMPERATURE:
        config["position_temperature"] = temperature
    if teacher:
        config["teacher"] = dict(teacher)
    if refine:
        config["refine"] = dict(refine)
    model = build_from_config(config)
    assert isinstance(model, MaskedAutoencoder)
    return model


def build_classifier(
    model_spec: Any, input_size: int | Sequence[int], channels: int = 3
) -> Classifier:
    """The classifier of ``model`` of the spec, freshly initialized.

    Raises:
        SpecError: the input size or the shape does not work.
    """
    config = {
        **_encoder_config(model_spec, input_size, channels),
        "global_pool": bool(model_spec.global_pool),
        "num_classes": int(model_spec.num_classes),
        "drop_path_rate": float(model_spec.drop_path_rate),
    }
    model = build_from_config(config)
    assert isinstance(model, Classifier)
    _start(model, model_spec)
    return model


def build_segmenter(
    model_spec: Any, input_size: int | Sequence[int], channels: int = 3
) -> Segmenter:
    """The segmenter (UperNet) of ``model`` of the spec, freshly initialized.

    Raises:
        SpecError: the input size or the shape does not work.
    """
    head = model_spec.segmentation
    config = {
        **_encoder_config(model_spec, input_size, channels),
        "task": "segmentation",
        "num_classes": int(model_spec.num_classes),
        "drop_path_rate": float(model_spec.drop_path_rate),
        "channels": int(head.channels),
        "scales": [int(scale) for scale in head.pool_scales],
        "dropout": float(head.dropout),
        "auxiliary_channels": int(head.auxiliary_channels) if head.auxiliary_weight > 0 else 0,
    }
    model = build_from_config(config)
    assert isinstance(model, Segmenter)
    _start(model, model_spec)
    return model


def _start(model: Backboned, model_spec: Any) -> None:
    """What ``model.init`` says of the first weights; Hiera has one start."""
    if model_spec.init != "xavier":
        return
    if isinstance(model.encoder, VitBackbone):
        model.encoder.start_like_mae()
    elif isinstance(model.encoder, ConvNextBackbone):
        model.encoder.start_in_proportion()


def _encoder_config(
    model_spec: Any, input_size: int | Sequence[int], channels: int
) -> dict[str, Any]:
    shape = {name: getattr(model_spec, name, None) for name in ("patch_size", *_SHAPE_FIELDS)}
    return {
        "arch": str(model_spec.arch),
        "input_size": list(hw(input_size if isinstance(input_size, int) else list(input_size))),
        **{name: value for name, value in shape.items() if value is not None},
        **({"in_chans": channels} if channels != 3 else {}),
    }


def build_from_config(config: Mapping[str, Any]) -> Backboned:
    """A model from plain arguments, as checkpoints keep them: a masked autoencoder where there is a
    ``mask_ratio``, else what ``task`` says, else a classifier."""
    arch = _arch(config)
    size = hw(config["input_size"])
    _check_size(arch, size)
    config = {**config, "input_size": list(size)}
    model: Backboned
    if "mask_ratio" in config:
        _check_decoder(arch, config)
        model = autoencoder = _MAE[arch.family](build_encoder(config, pretraining=True), config)
        if config.get("refine"):  # last, so that the rest starts as it does without
            autoencoder.refine(config["refine"])
    elif config.get("task") == "segmentation":
        model = Segmenter(build_encoder({**config, "num_classes": 0}, pretraining=False), config)
    else:
        model = Classifier(build_encoder(config, pretraining=False), config)
    if config.get("norm_eps") is not None:
        model.set_norm_eps(float(config["norm_eps"]))
    speed_up(model)
    return model


def build_encoder(config: Mapping[str, Any], *, pretraining: bool) -> Any:
    """The encoder alone; ``pretraining`` leaves out head and drop path, and pools Hiera twice
    instead of three times."""
    arch = _arch(config)
    size = hw(config["input_size"])
    classes = 0 if pretraining else int(config["num_classes"])
    drop_path = 0.0 if pretraining else float(config.get("drop_path_rate", 0.0))
    channels = int(config.get("in_chans", 3))
    overrides = {name: config[name] for name in _SHAPE_FIELDS if config.get(name) is not None}
    if arch.family == "vit":
        dim, heads = (
            int(overrides.get("embed_dim", arch.dims[0])),
            int(overrides.get("num_heads", arch.heads[0])),
        )
        if dim % heads or dim % 4:
            raise SpecError(
                "the width must be a multiple of 4 and of the number of heads",
                field="model.embed_dim",
                got=dim,
                expected=f"a multiple of {math.lcm(4, heads)}",
            )
        return VitBackbone(
            size,
            patch=arch.patch,
            embed_dim=dim,
            depth=int(overrides.get("depth", arch.depths[0])),
            num_heads=heads,
            mlp_ratio=float(overrides.get("mlp_ratio", arch.mlp_ratio)),
            num_classes=classes,
            # The autoencoder needs the final norm on all tokens, which timm keeps under token
            # pooling.
            pool="avg" if not pretraining and config.get("global_pool", True) else "token",
            drop_path=drop_path,
            channels=channels,
        )
    if overrides:
        raise SpecError(
            "only ViT architectures take shape overrides",
            field=f"model.{min(overrides)}",
            got=arch.name,
            hint="leave the field null",
        )
    if arch.family == "convnextv2":
        return ConvNextBackbone(
            patch=arch.patch,
            depths=arch.depths,
            dims=arch.dims,
            num_classes=classes,
            drop_path=drop_path,
            channels=channels,
        )
    return HieraBackbone(
        size,
        patch=arch.patch,
        embed_dim=arch.dims[0],
        num_heads=arch.heads[0],
        stages=arch.depths,
        q_pool=2 if pretraining else 3,
        num_classes=classes,
        drop_path=drop_path,
        channels=channels,
    )


def _arch(config: Mapping[str, Any]) -> Arch:
    name, patch = config["arch"], config.get("patch_size")
    if name not in ARCHS:
        raise SpecError(
            "unknown architecture", field="model.arch", got=name, expected=", ".join(ARCHS)
        )
    allowed = patch_sizes(ARCHS[name].family)
    if patch is not None and patch not in allowed:
        raise SpecError(
            f"{name} takes no such patch",
            field="model.patch_size",
            got=patch,
            expected=f"one of {', '.join(str(value) for value in allowed)}",
        )
    return with_patch(ARCHS[name], patch)


def _check_size(arch: Arch, size: tuple[int, int]) -> None:
    if not size_fits(arch, size):
        near = [nearest_sizes(arch, side) for side in size]
        raise SpecError(
            f"{arch.name} cannot take this input size",
            field="dataset.augmentation.input_size",
            got=list(size),
            expected=f"height and width as multiples of {arch.size_multiple}",
            hint=f"nearest heights: {near[0]}, widths: {near[1]}",
        )


def _check_decoder(arch: Arch, config: Mapping[str, Any]) -> None:
    if arch.family != "vit" and config.get("teacher"):
        raise SpecError(
            "only a ViT learns from a teacher",
            field="train.teacher.checkpoint",
            got=arch.name,
            expected="null, or a ViT in model.arch",
        )
    if arch.family != "vit" and config.get("decoder_type", "self") != "self":
        raise SpecError(
            "only a ViT has a decoder of cross-attention",
            field="model.decoder_type",
            got=config["decoder_type"],
            expected=f"self for {arch.name}",
        )
    if num_units(arch, hw(config["input_size"])) < 2:
        raise SpecError(
            "one mask unit cannot be both seen and predicted",
            field="dataset.augmentation.input_size",
            got=config["input_size"],
            expected=f"at least two units of {arch.unit} pixels",
        )
    width, heads = config["decoder_embed_dim"], config["decoder_num_heads"]
    if arch.family != "convnextv2" and (width % heads or width % 4):
        raise SpecError(
            "the decoder's width must be a multiple of 4 and of its number of heads",
            field="model.decoder_embed_dim",
            got=width,
            expected=f"a multiple of {math.lcm(4, heads)}",
            hint="change model.decoder_embed_dim or model.decoder_num_heads",
        )
