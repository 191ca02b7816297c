"""Foreign state dicts in this project's names: timm's for the encoder (no prefix), the papers'
repositories' for the decoders.

============================  ===============  ===================================================
source                        wrapper          what differs
============================  ===============  ===================================================
facebookresearch/mae          ``model``        nothing: encoder names equal timm's
facebookresearch/ConvNeXt-V2  ``model``        ``downsample_layers``, ``dwconv``, ``pwconv``, GRN
                                               ``[1, 1, 1, C]``
… FCMAE with sparse kernels   ``model``        ``encoder.`` prefix, ``.kernel`` ``[k², in, out]``,
                                               ``.linear``, ``.ln``
facebookresearch/hiera        ``model_state``  ``head.projection``, ``norm``
this project, TAO             ``state_dict``   ``model.``, ``encoder.`` prefixes
timm, safetensors             none             nothing
transformers ViTMAE           none             ``vit.`` and ``decoder.`` names; queries, keys and
                                               values apart
============================  ===============  ===================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from mae_skill.archs import ARCHS
from torch import Tensor

_WRAPPERS = ("state_dict", "model_state", "model")
_PREFIXES = ("module.", "model.", "encoder.")


def unwrap(data: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checkpoint's contents and the wrapper that they lay in (``""`` for none)."""
    for wrapper in _WRAPPERS:
        inner = data.get(wrapper)
        if isinstance(inner, Mapping) and any(
            isinstance(value, Tensor) for value in inner.values()
        ):
            return {
                name: value for name, value in inner.items() if isinstance(value, Tensor)
            }, wrapper
    return {name: value for name, value in data.items() if isinstance(value, Tensor)}, ""


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without wrapper prefixes, sparse kernels made dense, and in timm's names."""
    if any(name.startswith("vit.embeddings.") for name in state):
        return _transformers_names(state)
    plain = {strip_prefixes(name): value for name, value in state.items()}
    if any(name.startswith("downsample_layers.") for name in plain):
        plain = _convnext_names(
            {name: value for key, tensor in plain.items() for name, value in [_dense(key, tensor)]}
        )
    return {_hiera_name(name, plain): value for name, value in plain.items()}


def strip_prefixes(name: str) -> str:
    """``model.encoder.blocks.0…`` → ``blocks.0…``."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def _dense(name: str, value: Tensor) -> tuple[str, Tensor]:
    """A parameter of a sparse convolution or its wrappers as the dense layer holds it."""
    if name.endswith(".kernel"):
        side = round(value.shape[0] ** 0.5)
        # The sparse library numbers kernel cells column by column, hence the exchange of the last
        # two dimensions.
        if value.ndim == 3:
            dense = value.permute(2, 1, 0).reshape(value.shape[2], value.shape[1], side, side)
        else:
            dense = value.permute(1, 0).reshape(value.shape[1], 1, side, side)
        return f"{name.removesuffix('.kernel')}.weight", dense.transpose(2, 3).contiguous()
    name = re.sub(r"\.(linear|ln)\.(weight|bias)$", r".\2", name)
    if name.endswith(".bias"):
        value = value.reshape(-1)
    return name, value


def _convnext_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, value in state.items():
        name = name.replace("downsample_layers.0.", "stem.")
        name = re.sub(r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2.", name)
        name = re.sub(r"^downsample_layers\.(\d+)\.(\d+)\.", r"stages.\1.downsample.\2.", name)
        name = name.replace(".dwconv.", ".conv_dw.").replace(".pwconv", ".mlp.fc")
        name = name.replace(".grn.gamma", ".mlp.grn.weight").replace(".grn.beta", ".mlp.grn.bias")
        if ".grn." in name:
            value = value.reshape(-1)
        name = re.sub(r"^norm\.", "head.norm.", name)
        name = re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)
        out[name] = value
    return out


def _hiera_name(name: str, state: Mapping[str, Tensor]) -> str:
    if name.startswith("head.projection."):
        return name.replace("head.projection.", "head.fc.")
    # Only Hiera has a final norm and a projecting block; ViT keeps its norm's name.
    if name.startswith("norm.") and any(
        key.endswith(".proj.weight") and key.count(".") == 3
        for key in state
        if key.startswith("blocks.")
    ):
        return f"head.{name}"
    return name


_TRANSFORMERS = (
    # names up to transformers 4
    (r"^vit\.encoder\.layer\.", "vit.layers."),
    (
        r"\.attention\.attention\.(query|key|value)\.",
        lambda match: f".attention.{match.group(1)[0]}_proj.",
    ),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    # names from transformers 5 on
    (r"^vit\.embeddings\.cls_token$", "cls_token"),
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^vit\.layers\.", "blocks."),
    (r"^vit\.layernorm\.", "norm."),
    (r"^decoder\.", ""),
    (r"^decoder_layers\.", "decoder_blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
)


def _transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in _TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    for name in [name for name in out if ".attention.q_proj." in name]:
        parts = [out.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        out[name.replace(".attention.q_proj.", ".attn.qkv.")] = torch.cat(parts)
    return out


def guess_arch(state: Mapping[str, Tensor]) -> str | None:
    """The architecture whose widths and depths ``state`` (in our names) has, or None."""
    for arch in ARCHS.values():
        if arch.family == "convnextv2":
            stem = state.get("stem.0.weight")
            depths = tuple(
                _count(state, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(4)
            )
            if stem is not None and stem.shape[0] == arch.dims[0] and depths == arch.depths:
                return arch.name
            continue
        embed = state.get("patch_embed.proj.weight")
        same = (
            embed is not None
            and embed.shape[0] == arch.dims[0]
            and _count(state, r"blocks\.(\d+)\.") == sum(arch.depths)
        )
        if (
            embed is not None
            and same
            and (embed.shape[-1] == 7) == (arch.family == "hiera")
            and embed.shape[-1] in (7, arch.patch)
        ):
            return arch.name
    return None


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    found = {match.group(1) for name in state if (match := re.match(pattern, name))}
    return len(found)
