"""A folder that transformers loads: ``AutoModel….from_pretrained("FOLDER")``.

=================  ===============================  ============================
model              pretrained                       fine-tuned
=================  ===============================  ============================
ViT                ``ViTMAEForPreTraining``         ``ViTForImageClassification``
ConvNeXt V2        ``ConvNextV2Model`` (encoder)    ``ConvNextV2ForImageClassification``
Hiera              ``HieraForPreTraining``          ``HieraForImageClassification``
=================  ===============================  ============================

Which of our tensors becomes which of theirs says the table that reads their files,
`mae_skill.weights.names`, taken the other way round.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mae_skill.archs import hiera_kernel
from mae_skill.weights.config import DESCRIPTION
from mae_skill.weights.hand_on import cannot_prepare
from mae_skill.weights.names import translate
from PIL import Image
from torch import Tensor, nn

from mae_runners.deploy.onnx import Features
from mae_runners.models.base import Backboned
from mae_runners.models.checkpoint import CheckpointMeta
from mae_runners.models.mae import MaskedAutoencoder

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_EPS = 1e-6  # of every norm here, but where weights came in with another


def reference(model: Backboned) -> nn.Module:
    """The module whose outputs transformers' must equal: logits ``[B, classes]``; the predicted
    patches ``[B, M, p·p·C]`` of an autoencoder under one mask; ConvNeXt V2's features
    ``[B, N, D]``, of which transformers has no decoder."""
    if not isinstance(model, MaskedAutoencoder):
        return model.eval()
    if model.shape.family == "convnextv2":
        return Features(model, pooled=False).eval()
    return _Predictions(model).eval()


def mask_noise(units: int, images: Tensor) -> Tensor:
    """The noise ``[B, units]`` that the gate's mask is drawn from, the same for every image."""
    row = torch.rand(units, generator=torch.Generator().manual_seed(0))
    return row.to(images.device).expand(len(images), -1)


class _Predictions(nn.Module):
    """What an autoencoder predicts under the gate's mask, in row-major order."""

    def __init__(self, model: MaskedAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        model = self.model
        mask = model.random_masking(mask_noise(model.num_units, images))
        pred = model.forward_decoder(model.forward_encoder(images, mask), mask)
        order = model.hidden_patches(mask).argsort(dim=1)
        return pred.gather(1, order.unsqueeze(2).expand_as(pred))


def write(model: Backboned, saved: CheckpointMeta, folder: Path, license: str | None) -> None:
    """Writes ``config.json``, ``model.safetensors`` and ``preprocessor_config.json`` into the new
    ``folder``."""
    folder.mkdir(parents=True)
    theirs = _empty(model, saved)
    theirs.load_state_dict(_state(theirs, model))
    with _quiet():
        theirs.save_pretrained(folder)

    config = json.loads((folder / CONFIG).read_text())
    config[DESCRIPTION] = saved.to_dict()
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / PREPROCESSOR).write_text(json.dumps(preprocessor(saved), indent=2) + "\n")


def _state(theirs: nn.Module, model: Backboned) -> dict[str, Tensor]:
    """Our weights under their names and in their shapes."""
    own, places = model.state_dict(), theirs.state_dict()
    found = translate(places)
    assert found is not None, "a layout of transformers that is known here"
    state = {}
    for name, recipe in found.entries.items():
        value = own.get(f"encoder.{name}", own.get(name))
        if value is None:  # the norm behind the pooling, which pretraining has none of
            assert name in ("head.norm.weight", "head.norm.bias"), name
            value = torch.full(recipe.shape, float(name.endswith("weight")))
        parts = (
            value.split([places[source].shape[0] for source in recipe.sources])
            if recipe.how == "cat"
            else [value]
        )
        for source, part in zip(recipe.sources, parts, strict=True):
            state[source] = part.detach().cpu().reshape(places[source].shape)
    return state


def _empty(model: Backboned, saved: CheckpointMeta) -> Any:
    """Their model of this shape, freshly initialized."""
    import transformers

    family, pretrained = model.shape.family, isinstance(model, MaskedAutoencoder)
    labels: dict[str, Any] = {}
    if not pretrained:
        names = saved.classes or [f"LABEL_{row}" for row in range(int(saved.num_classes or 0))]
        labels["id2label"] = dict(enumerate(names))
        labels["label2id"] = {name: row for row, name in enumerate(names)}
        if saved.multi_label:
            labels["problem_type"] = "multi_label_classification"
    shape = {"vit": _vit, "convnextv2": _convnext, "hiera": _hiera}[family](model)
    prefix = {"vit": "ViT", "convnextv2": "ConvNextV2", "hiera": "Hiera"}[family]
    kind = "ForImageClassification"
    if pretrained:
        prefix = "ViTMAE" if family == "vit" else prefix
        kind = "Model" if family == "convnextv2" else "ForPreTraining"
    eps = float(model.config.get("norm_eps") or _EPS)
    config = getattr(transformers, f"{prefix}Config")(
        **shape, **labels, layer_norm_eps=eps, num_channels=saved.channels
    )
    return getattr(transformers, f"{prefix}{kind}")(config)


def _vit(model: Backboned) -> dict[str, Any]:
    encoder, config = model.encoder, model.config
    block = encoder.blocks[0]
    shape: dict[str, Any] = {
        "hidden_size": int(encoder.num_features),
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": int(block.attn.num_heads),
        "intermediate_size": int(block.mlp.fc1.out_features),
        "image_size": model.input_size[0],
        "patch_size": model.shape.patch,
    }
    if isinstance(model, MaskedAutoencoder):
        width = int(config["decoder_embed_dim"])
        shape |= {
            "decoder_hidden_size": width,
            "decoder_num_hidden_layers": int(config["decoder_depth"]),
            "decoder_num_attention_heads": int(config["decoder_num_heads"]),
            "decoder_intermediate_size": int(width * float(config["decoder_mlp_ratio"])),
            "mask_ratio": float(config["mask_ratio"]),
            "norm_pix_loss": bool(config["norm_pix_loss"]),
        }
    return shape


def _convnext(model: Backboned) -> dict[str, Any]:
    arch = model.shape
    return {
        "patch_size": arch.patch,
        "hidden_sizes": list(arch.dims),
        "depths": list(arch.depths),
        "image_size": model.input_size[0],
    }


def _hiera(model: Backboned) -> dict[str, Any]:
    arch, config = model.shape, model.config
    kernel = hiera_kernel(arch.patch)
    shape: dict[str, Any] = {
        "embed_dim": arch.dims[0],
        "image_size": list(model.input_size),
        "patch_size": [kernel, kernel],
        "patch_stride": [arch.patch, arch.patch],
        "patch_padding": [kernel // 2, kernel // 2],
        "depths": list(arch.depths),
        "num_heads": list(arch.heads),
        "num_query_pool": int(model.encoder.q_pool),
    }
    if isinstance(model, MaskedAutoencoder):
        shape |= {
            "decoder_hidden_size": int(config["decoder_embed_dim"]),
            "decoder_depth": int(config["decoder_depth"]),
            "decoder_num_heads": int(config["decoder_num_heads"]),
            "mask_ratio": float(config["mask_ratio"]),
            "normalize_pixel_loss": bool(config["norm_pix_loss"]),
        }
    return shape


def preprocessor(saved: CheckpointMeta) -> dict[str, Any]:
    """The ``preprocessor_config.json`` that prepares pictures as evaluation does, but for those
    that `cannot_prepare` names."""
    height, width = saved.input_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": saved.channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": math.floor(height / saved.center_crop)},
        "resample": int(Image.Resampling[saved.eval_interpolation.upper()]),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(saved.mean),
        "image_std": list(saved.std),
    }


def outputs(folder: Path, images: Tensor) -> Tensor:
    """What transformers answers from the folder, in the shape of `reference`'s outputs."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    name = config.architectures[0]
    with _quiet():
        model = getattr(transformers, name).from_pretrained(folder).eval()
    with torch.inference_mode():
        if name.endswith("ForImageClassification"):
            logits: Tensor = model(images).logits
            return logits
        if name.endswith("Model"):
            features: Tensor = model(images).last_hidden_state
            return features.flatten(2).transpose(1, 2)
        units = _units(config)
        found = model(images, noise=mask_noise(units, images))
        shown = getattr(found, "bool_masked_pos", None)  # of Hiera; true where a patch is seen
        hidden = found.mask.bool() if shown is None else ~shown.bool()
        predicted: Tensor = found.logits[hidden].unflatten(0, (len(images), -1))
        return predicted


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars inside the block."""
    from transformers.utils import logging as theirs

    logging: Any = theirs  # untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _units(config: Any) -> int:
    """Mask units of one image."""
    if config.model_type == "vit_mae":
        return int((config.image_size // config.patch_size) ** 2)
    unit = config.patch_stride[0] * config.masked_unit_size[0]
    return int((config.image_size[0] // unit) * (config.image_size[1] // unit))


def words(model: Backboned, saved: CheckpointMeta) -> tuple[str, str]:
    """How the folder is used, and what its reader must know."""
    pretrained, family = isinstance(model, MaskedAutoencoder), model.shape.family
    kind, output = "AutoModelForImageClassification", "logits"
    if pretrained:
        kind = "AutoModel" if family == "convnextv2" else "AutoModelForPreTraining"
        output = "pooler_output" if family == "convnextv2" else "logits"
    create = f'model = {kind}.from_pretrained("FOLDER").eval()\n'
    if cannot_prepare("transformers", saved.channels, saved.value_range):
        use = (
            f"from mae_runners import load_model\nfrom transformers import {kind}\n\n{create}"
            'images = load_model("FOLDER").preprocess(pictures)  # paths or arrays [H, W, C]\n'
            f"output = model(images).{output}\n"
        )
    else:
        colors = "an RGB" if saved.channels == 3 else "a gray"
        use = (
            f"from transformers import AutoImageProcessor, {kind}\n\n{create}"
            'processor = AutoImageProcessor.from_pretrained("FOLDER", backend="pil")\n'
            'inputs = processor(picture, return_tensors="pt")'
            f"  # {colors} picture\noutput = model(**inputs).{output}\n"
        )
    if not pretrained:
        return use, "The output is one logit a class; `model.config.id2label` names them."
    if family == "convnextv2":
        return use, (
            "The encoder alone: transformers has no decoder of FCMAE. It has a norm behind the "
            "pooling, which pretraining has none of: it is here with weight 1 and bias 0. "
            "`last_hidden_state` is from before it."
        )
    stale = ""
    if model.config.get("refine"):
        stale = "The encoder was refined after its decoder had learned, which reads it no longer. "
    what = "HieraModel" if family == "hiera" else "ViTMAEModel"
    return use, (
        f"Encoder and decoder. {stale}`AutoModel` loads the encoder alone (`{what}`), which masks "
        "as well: `mask_ratio=0.0` shows it the whole picture."
    )
