"""A folder that timm loads: ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

A fine-tuned model is a timm model, head and all. Of a pretrained one timm holds the encoder:

* ViT: ``model(x)`` is the mean over the patches after the last norm, as `MaskedAutoencoder.encode`.
* ConvNeXt V2 and Hiera end in a norm behind the pooling, which pretraining has none of. It is
  written with weight 1 and bias 0, so that timm's strict load passes;
  ``model.reset_classifier(0, reset_other=True)`` takes it off. ``forward_features`` is unaffected.
* Hiera is given its third pooling, as fine-tuning uses it and as the hub's own ``.mae`` weights
  have it. The fusion of its stages, which our pooled features come from, is of the decoder's side
  and is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mae_skill.archs import Arch, hiera_kernel
from mae_skill.weights.config import DESCRIPTION
from mae_skill.weights.hand_on import cannot_prepare
from safetensors.torch import save_file
from torch import Tensor, nn

from mae_runners.deploy.onnx import Features
from mae_runners.models.base import Backboned
from mae_runners.models.build import build_encoder
from mae_runners.models.checkpoint import CheckpointMeta
from mae_runners.models.mae import MaskedAutoencoder

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_FIRST_CONV = {
    "vit": "patch_embed.proj",
    "convnextv2": "stem.0",
    "hiera": "patch_embed.proj",
}


def reference(model: Backboned) -> nn.Module:
    """The module whose outputs timm's must equal: logits, or the features before any pooling.

    ``[B, classes]``, or ``[B, N, D]`` without a class token.
    """
    if not isinstance(model, MaskedAutoencoder):
        return model.eval()
    if model.shape.family != "hiera":
        return Features(model, pooled=False).eval()
    encoder = build_encoder({**model.config, "num_classes": 0}, pretraining=False)
    encoder.load_state_dict(model.encoder.state_dict())
    return _Backbone(encoder).eval()


class _Backbone(nn.Module):
    """An encoder's last tokens."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = encoder

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.encoder.forward_features(images)
        return result


def write(model: Backboned, saved: CheckpointMeta, folder: Path, license: str | None) -> None:
    """Writes ``config.json`` and ``model.safetensors`` into the new ``folder``."""
    import timm

    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(configuration(model, saved, license), indent=2) + "\n")

    empty = timm.create_model(f"local-dir:{folder}")
    own = model.encoder.state_dict()
    weights = {}
    for name, place in empty.state_dict().items():
        if name in own:
            weights[name] = own[name].detach().cpu().reshape(place.shape).contiguous()
        else:  # the norm that pretraining has none of
            assert name in ("head.norm.weight", "head.norm.bias"), name
            fill = torch.ones_like if name.endswith("weight") else torch.zeros_like
            weights[name] = fill(place)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def configuration(model: Backboned, saved: CheckpointMeta, license: str | None) -> dict[str, Any]:
    """The ``config.json``: timm's fields, and the checkpoint's own description."""
    arch, pretrained = model.shape, isinstance(model, MaskedAutoencoder)
    classes = 0 if pretrained else int(model.config["num_classes"])
    pool = "avg" if pretrained or model.config.get("global_pool", True) else "token"
    config: dict[str, Any] = {
        "architecture": f"{arch.name}_224" if arch.family == "vit" else arch.name,
        "num_classes": classes,
        "num_features": int(model.encoder.num_features),
        "global_pool": pool,
    }
    if saved.classes:
        config["label_names"] = list(saved.classes)
    config["model_args"] = arguments(arch, model.config, pretrained, pool)
    config["pretrained_cfg"] = {
        "num_classes": classes,
        "input_size": [saved.channels, *saved.input_size],
        "fixed_input_size": arch.family != "convnextv2",
        "pool_size": None,
        "interpolation": saved.eval_interpolation,
        "crop_pct": saved.center_crop,
        "crop_mode": "center",
        "mean": list(saved.mean),
        "std": list(saved.std),
        # Older timm takes any stem that it adapts for one of three channels, or drops it.
        "first_conv": None if saved.channels != 3 else _FIRST_CONV[arch.family],
        "classifier": "head" if arch.family == "vit" else "head.fc",
        **({"license": license} if license else {}),
    }
    config[DESCRIPTION] = saved.to_dict()
    return config


def arguments(arch: Arch, config: Mapping[str, Any], pretrained: bool, pool: str) -> dict[str, Any]:
    """What timm's model of this name must be told to be this one."""
    channels = {name: config[name] for name in ("in_chans",) if config.get(name, 3) != 3}
    if arch.family == "convnextv2":
        return {"patch_size": arch.patch, **channels}
    # transformers' wrapper reads the size here alone
    size = {"img_size": list(config["input_size"]), **channels}
    if arch.family == "hiera":
        kernel = hiera_kernel(arch.patch)
        return {
            **size,
            "patch_kernel": [kernel, kernel],
            "patch_stride": [arch.patch, arch.patch],
            "patch_padding": [kernel // 2, kernel // 2],
        }
    given = {
        name: config[name]
        for name in ("embed_dim", "depth", "num_heads", "mlp_ratio")
        if config.get(name) is not None
    }
    # Pretraining's norm is on every token, before the mean: timm's `norm`, not its `fc_norm`.
    norm = {"fc_norm": False} if pretrained else {}
    return {**size, "patch_size": arch.patch, "global_pool": pool, **norm, **given}


def outputs(folder: Path, images: Tensor) -> Tensor:
    """What timm answers from the folder, in the shape of `reference`'s outputs."""
    import timm

    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        if model.num_classes:
            logits: Tensor = model(images)
            return logits
        features: Tensor = model.forward_features(images)
        if features.ndim == 4:
            return features.flatten(2).transpose(1, 2)
        return features[:, getattr(model, "num_prefix_tokens", 0) :]


def words(model: Backboned, saved: CheckpointMeta) -> tuple[str, str]:
    """How the folder is used, and what its reader must know."""
    create = 'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
    if cannot_prepare("timm", saved.channels, saved.value_range):
        use = (
            f"import timm\nfrom mae_runners import load_model\n\n{create}"
            'images = load_model("FOLDER").preprocess(pictures)  # paths or arrays [H, W, C]\n'
            "output = model(images)\n"
        )
    else:
        kind = "an RGB" if saved.channels == 3 else "a gray"
        use = (
            f"import timm\n\n{create}"
            "config = timm.data.resolve_model_data_config(model)\n"
            "transform = timm.data.create_transform(**config, is_training=False)\n"
            f"output = model(transform(picture)[None])  # picture: {kind} PIL image\n"
        )
    if not isinstance(model, MaskedAutoencoder):
        return use, "The output is one logit a class, in the order of `label_names`."
    notes = (
        "The output is one vector a picture. `num_classes=N` puts a fresh classifier on it, to "
        "fine-tune."
    )
    if model.shape.family == "vit":
        return use, f"{notes} It is the mean over the patches, after the last norm."
    notes += (
        " timm has a norm behind the pooling, which pretraining has none of: it is here with "
        "weight 1 and bias 0. `model.reset_classifier(0, reset_other=True)` takes it off."
    )
    if model.shape.family == "hiera":
        notes += (
            " The features are those of the last stage, pooled three times as in fine-tuning; the "
            "fusion of the stages that pretraining adds is left out."
        )
    return use, notes
