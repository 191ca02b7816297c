"""Whose layout a file has that is not ours, told by the names of its entries."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

#: what an entry's name gives away → its pattern, searched in the names under the backbone
_MARKS = (
    ("LayerScale", r"(^|\.)(gamma(_[12])?$|ls[12]\.|layer_scale|lambda_?[12]$)"),
    ("rotary embeddings", r"(^|[._])rope|inv_freq|freqs(_cis)?$|(^|\.)periods$"),
    ("relative position biases", r"relative_position|rel_pos"),
    ("register tokens", r"(^|\.)(reg_token|register_token|storage_token)s?$"),
    ("normalized queries and keys", r"\.(q_norm|k_norm|q_ln|k_ln|query_norm|key_norm)\."),
    ("a norm before the blocks", r"^(norm_pre|ln_pre|pre_layr?norm|pre_norm)\."),
    ("a distillation token", r"(^|\.)(dist_token|distillation_token)$"),
    (
        "a gated MLP (SwiGLU)",
        r"\.mlp\.(fc1_[gx]|w12|w1|w2|w3|gate_proj|up_proj)\.|\.(weights_in|gate_proj)\.",
    ),
    ("query and value biases apart", r"\.(q_bias|v_bias)$"),
    ("attention pooling", r"(^|\.)attn_?pool|^head\.(probe|attention)"),
    ("a window position table", r"pos_embed_win"),
    ("separate tables for time and space", r"pos_embed_(spatial|temporal)"),
    ("low-rank adapters (LoRA)", r"\.lora_|\.base_layer\."),
    ("norms inside attention or MLP", r"\.attn\.(norm|inner_attn_ln)|\.mlp\.(norm|ffn_ln)\."),
)

#: marks and family (all must be there) → the model that has them; the first that fits
_MODELS = (
    (("low-rank adapters (LoRA)",), "a model whose adapters are not merged"),
    (("a gated MLP (SwiGLU)", "rotary embeddings"), "EVA-02"),
    (("rotary embeddings", "LayerScale"), "DINOv3"),
    (("register tokens", "LayerScale", "no position table"), "DINOv3"),
    (("LayerScale", "no position table", "query and value biases apart"), "BEiT"),
    (("rotary embeddings",), "a ViT with rotary embeddings"),
    (("LayerScale", "relative position biases"), "BEiT"),
    (("query and value biases apart",), "BEiT or EVA"),
    (("relative position biases",), "a ViT with relative positions"),
    (("attention pooling",), "SigLIP"),
    (("LayerScale", "no GRN"), "ConvNeXt V1"),
    (("no GRN",), "a ConvNeXt without GRN"),
    (("convnextv2", "LayerScale"), "a ConvNeXt with GRN and LayerScale"),
    (("a norm before the pooling",), "a ConvNeXt of timm with head_norm_first"),
    (("hiera", "LayerScale"), "a Hiera with LayerScale"),
    (("register tokens", "LayerScale"), "DINOv2 with registers"),
    (("LayerScale", "no position of the class token"), "DeiT III"),
    (("LayerScale", "a gated MLP (SwiGLU)"), "DINOv2"),
    (("LayerScale",), "DINOv2, DeiT III or another model with LayerScale"),
    (("register tokens",), "a ViT with registers"),
    (("a norm before the blocks",), "CLIP"),
    (("a distillation token",), "a distilled DeiT"),
    (("normalized queries and keys",), "a ViT with qk-norm"),
    (("a gated MLP (SwiGLU)",), "a ViT with gated MLPs"),
    (("a window position table",), "Hiera with absolute window positions"),
    (("separate tables for time and space",), "Hiera for video"),
    (("no class token",), "a ViT without a class token, such as SigLIP"),
)

#: names by which a file of no layout known here is told
_FOREIGN = (
    (r"(^|\.)vision_model\.embeddings\.patch_embedding\.", "CLIP or SigLIP of transformers"),
    (r"(^|\.)visual\.(conv1|transformer)\.", "CLIP"),
    (r"(^|\.)encoder_layer_\d+\.ln_1\.", "torchvision's ViT"),
    (r"(^|\.)embeds\.proj\.", "NaFlex ViT of timm"),
    (r"(^|\.)layer[1-4]\.\d+\.(conv|bn)1\.", "a ResNet"),
    (r"(^|\.)layers\.\d+\.blocks\.\d+\.attn\.relative_position", "Swin"),
    (r"(^|\.)features\.\d+\.\d+\.block\.", "torchvision's ConvNeXt"),
    (r"(^|\.)embeddings\.word_embeddings\.", "a language model"),
)


def marks(names: Iterable[str], absent: Collection[str] = (), *, family: str = "") -> list[str]:
    """What sets a file's backbone apart: from its names, and from what it lacks of ours.

    Args:
        absent: names of ours that the file does not have.
        family: of the file; in a ConvNeXt ``norm_pre`` comes before the pooling.
    """
    names = list(names)
    found = [mark for mark, pattern in _MARKS if any(re.search(pattern, name) for name in names)]
    if family == "convnextv2":
        moved = {"a norm before the blocks": "a norm before the pooling"}
        found = [moved.get(mark, mark) for mark in found]
    if "cls_token" in absent:
        found.append("no class token")
    if "pos_embed" in absent:
        found.append("no position table")
    if any(name.endswith(".mlp.grn.weight") for name in absent):
        found.append("no GRN")
    return found


def model_of(found: Collection[str], *, family: str = "") -> str | None:
    """The model of a family that has these marks."""
    there = {*found, family}
    return next((model for needed, model in _MODELS if set(needed) <= there), None)


def foreign(names: Iterable[str]) -> str | None:
    """The model that a file without any backbone known here looks like."""
    names = list(names)
    return next(
        (model for pattern, model in _FOREIGN if any(re.search(pattern, name) for name in names)),
        None,
    )
