"""The backbone in a checkpoint's contents, and its entries in this project's names: timm's for the
encoder, the papers' repositories' for the decoders.

A backbone is found by its patch embedding, wherever it lies: containers (``model``,
``state_dict``, ``model_ema``, ``checkpoint.model``) and modules around it (``module.``,
``backbone.``, ``teacher.backbone.``) are one prefix.

============================  ====================================================================
source                        what differs
============================  ====================================================================
facebookresearch/mae, timm    nothing
facebookresearch/ConvNeXt-V2  ``downsample_layers``, ``dwconv``, ``pwconv``, GRN ``[1, 1, 1, C]``
… FCMAE with sparse kernels   ``.kernel`` ``[k², in, out]``, ``.linear``, ``.ln``
facebookresearch/hiera        ``head.projection``, ``norm``
transformers 4 and 5          ViT, ViTMAE, ViTMSN, ConvNextV2, Hiera: queries, keys, values apart
mmpretrain                    ``layers.N.ln1``, ``ffn``, ``depthwise_conv``, ``pointwise_conv``
============================  ====================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from mae_skill.archs import ARCHS

Shape = tuple[int, ...]


class Array(Protocol):
    """What is known of an entry: a torch tensor, or `pytorch_file.Stub`."""

    @property
    def shape(self) -> Iterable[int]: ...

    @property
    def dtype(self) -> Any: ...


FLOATS = ("float32", "float16", "bfloat16", "float64")
"""The forms of weights that are taken."""


def form_of(array: Array) -> str:
    """How an array holds its values: ``float32``, or what is not its values (``int8``, ``float32,
    sparse``)."""
    form = str(array.dtype).removeprefix("torch.")
    if str(getattr(array, "layout", "torch.strided")) != "torch.strided":
        form += ", sparse"
    return form + (", without values" if getattr(array, "is_meta", False) else "")


class Recipe(NamedTuple):
    """How an entry of ours is made of the file's.

    Attributes:
        sources: names in the file.
        how: ``same`` · ``cat`` (queries, keys, values in one) · ``kernel`` (a sparse kernel, made
            dense) · ``flat`` (one dimension).
        shape: after that.
    """

    sources: tuple[str, ...]
    how: str
    shape: Shape


@dataclass
class Translation:
    """A file's backbone in our names.

    Attributes:
        entries: our name → how it is made; the backbone's, its head's and its decoder's.
        outside: full names that lie beside the backbone and belong to no head or decoder.
        where: the prefix of the backbone in the file, without a dot at the end.
        others: prefixes of further backbones of the file.
        raw: our name → the file's name under the backbone, as its authors wrote it.
    """

    entries: dict[str, Recipe] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    where: str = ""
    others: list[str] = field(default_factory=list)
    raw: dict[str, str] = field(default_factory=dict)


class Ambiguous(Exception):
    """A file holds several backbones, none of which is the one to take."""


def flatten(contents: Mapping[str, Any], depth: int = 6) -> dict[str, Array]:
    """The arrays of nested mappings, by their names joined with dots; lists are not looked into."""
    found: dict[str, Array] = {}
    for key, value in contents.items():
        if _is_array(value):
            found[str(key)] = value
        elif isinstance(value, Mapping) and depth:
            inner = flatten(value, depth - 1)
            found |= {f"{key}.{name}": array for name, array in inner.items()}
    return found


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def lists_of_arrays(contents: Mapping[str, Any], depth: int = 6) -> list[str]:
    """The lists of arrays among nested mappings, by their names joined with dots: weights whose
    names are not there, as ``shadow_params`` of some moving averages."""
    found: list[str] = []
    for key, value in contents.items():
        if isinstance(value, Mapping) and depth:
            found += [f"{key}.{name}" for name in lists_of_arrays(value, depth - 1)]
        elif isinstance(value, (list, tuple)) and len(value) > 1 and all(map(_is_array, value)):
            found.append(str(key))
    return found


# ---- finding the backbone ------------------------------------------------------------------------

#: parts of a name that torch.compile, DDP, FSDP and activation checkpointing put in
_WRAPPING = frozenset(
    ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")
)
_TIMM, _HF, _CONVNEXT, _MMPRETRAIN = "timm", "transformers", "convnext", "mmpretrain"
#: the patch embedding's weight → the layout of the names around it
_SIGNATURES = {
    "patch_embed.proj.weight": _TIMM,
    "stem.0.weight": _TIMM,
    "embeddings.patch_embeddings.projection.weight": _HF,
    "embeddings.patch_embeddings.weight": _HF,
    "downsample_layers.0.0.weight": _CONVNEXT,
    "patch_embed.projection.weight": _MMPRETRAIN,
}
#: of several backbones in a file: what its authors evaluate comes first
_RANKS = (
    (1, ("teacher",)),
    (2, ("ema", "swa", "target", "momentum", "mean", "average", "averaged", "avg")),
    (3, ("student", "online")),
    (4, ("live",)),
)
#: what belongs to a backbone although it lies beside the module that holds the patch embedding
_STRAY = re.compile(
    r"^(blocks|layers?|stages|cls_token|pos_embed\w*|reg_tokens?|register_tokens|storage_tokens"
    r"|dist_token|rope\w*|rel_pos\w*|relative_position\w*|norm_pre|ln_pre|prompt\w*|adapter\w*)"
    r"(\.|$)"
)


def clean(name: str) -> str:
    """``module._orig_mod.blocks.0…`` → ``blocks.0…``."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPING)


def _rank(prefix: str) -> int:
    words = set(re.split(r"[._]+", prefix.lower()))
    return next((rank for rank, marks in _RANKS if words.intersection(marks)), 0)


def find_backbones(names: Iterable[str]) -> dict[str, str]:
    """Prefix (``""`` or with a dot at its end) of each backbone among cleaned ``names`` → its
    layout."""
    found: dict[str, str] = {}
    for name in names:
        for signature, layout in _SIGNATURES.items():
            if name == signature or name.endswith(f".{signature}"):
                found[name.removesuffix(signature)] = layout
    return found


def lost_patch_embedding(names: Iterable[str]) -> str | None:
    """The patch embedding's weight, by its full name, of a file that has its bias alone."""
    for name in names:
        for signature in _SIGNATURES:
            bias = signature.removesuffix("weight") + "bias"
            if clean(name) == bias or clean(name).endswith(f".{bias}"):
                return name.removesuffix("bias") + "weight"
    return None


def translate(shapes: Mapping[str, Array]) -> Translation | None:
    """The backbone of a file in our names, or None where there is none of a layout known here.

    Raises:
        Ambiguous: there are several, and none is preferred.
    """
    cleaned: dict[str, str] = {}
    for name in shapes:
        if cleaned.setdefault(clean(name), name) != name:
            raise Ambiguous(f"{cleaned[clean(name)]}, {name}")
    backbones = find_backbones(cleaned)
    if not backbones:
        return None
    best = min(map(_rank, backbones))
    chosen = [prefix for prefix in backbones if _rank(prefix) == best]
    if len(chosen) > 1:
        raise Ambiguous(", ".join(prefix.rstrip(".") or "(top level)" for prefix in chosen))
    prefix = chosen[0]
    others = [other.rstrip(".") for other in backbones if other != prefix]
    result = Translation(where=prefix.rstrip("."), others=others)

    parents = _parents(prefix)
    inside: dict[str, str] = {}  # name under the backbone → full name
    beside: dict[str, str] = {}
    for name, full in cleaned.items():
        if name.startswith(prefix):
            inside[name.removeprefix(prefix)] = full
            continue
        if name.startswith(tuple(f"{other}." for other in others if other)):
            continue
        parent = next((parent for parent in parents if name.startswith(parent)), None)
        if parent is None:
            result.outside.append(full)
        else:
            beside[name.removeprefix(parent)] = full

    layout = backbones[prefix]
    rename = _RENAMERS[layout](inside)
    for relative, full in inside.items():
        _add(result, rename(relative), relative, full, shapes)
    for relative, full in beside.items():
        ours = rename(relative)
        # A head beside a backbone of timm's is a probe of somebody's, on features unknown here.
        known = (*DECODER, *SEGMENTER) if layout == _TIMM else (*DECODER, *SEGMENTER, *HEADS)
        belongs = ours.startswith(known) or _STRAY.match(ours) or _STRAY.match(relative)
        if belongs and ours not in result.entries:
            _add(result, ours, relative, full, shapes)
        else:
            result.outside.append(full)
    _join_queries(result)
    _name_hieras_norm(result)
    return result


def _parents(prefix: str) -> list[str]:
    """Every prefix around ``prefix``, longest first."""
    parts = prefix.rstrip(".").split(".") if prefix else []
    return [
        ".".join(parts[:count]) + "." if count else "" for count in range(len(parts) - 1, -1, -1)
    ]


def _add(result: Translation, ours: str, raw: str, full: str, shapes: Mapping[str, Array]) -> None:
    ours, recipe = _dense(ours, full, tuple(int(size) for size in shapes[full].shape))
    result.entries[ours] = recipe
    result.raw[ours] = raw


#: classifiers and what leads to them, in our names
HEADS = ("head.", "fc_norm.", "head_dist.", "pre_logits.", "pooler.", "classifier.", "fc.")
#: Hiera's stages fused: of a decoder's file, but features too
FUSION = ("multi_scale_fusion_heads.", "encoder_norm.")
DECODER = ("decoder", "mask_token", "masked_embed", "proj.", "pred.", *FUSION)
SEGMENTER = ("neck.", "uper.", "auxiliary.")
#: parts of a training method that stand on a backbone and are none of it
METHOD = re.compile(
    r"^(\w+_)?(heads?|projectors?|projections?|predictors?|prototypes?|classifiers?|queue|center"
    r"|temperature|logit_scale|logit_bias|loss|criterion)(_\w+|\d+)?(\.|$)"
    r"|^n_averaged$"  # of torch's AveragedModel
)


# ---- renaming ------------------------------------------------------------------------------------

_Rename = Callable[[str], str]


def _substitute(rules: Iterable[tuple[str, str]]) -> _Rename:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rename


_OWN_RULES = (
    (r"^head\.projection\.", "head.fc."),  # facebookresearch/hiera
    (r"^head\.layers\.head\.", "head."),  # mmpretrain
)

_TRANSFORMERS_RULES = (
    # names up to transformers 4, which 5 still writes into files
    (r"^encoder\.layer\.", "layers."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    # names in memory from transformers 5 on
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layers\.", "blocks."),
    (r"^decoder\.(mask_token|decoder_)", r"\1"),
    (r"^decoder_layers\.", "decoder_blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    # Hiera
    (r"^decoder_embeddings\.", "decoder_embed."),
    (r"^decoder_position_embeddings$", "decoder_pos_embed"),
    (r"^decoder_block\.layers\.", "decoder_blocks."),
    (r"^multiscale_fusion\.", ""),
)

_CONVNEXT_RULES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^downsample_layers\.(\d+)\.(\d+)\.", r"stages.\1.downsample.\2."),
    (r"\.(dwconv|depthwise_conv)\.", ".conv_dw."),
    (r"\.(?:pwconv|pointwise_conv)(\d)", r".mlp.fc\1"),
    (r"\.grn\.(?:gamma|weight)$", ".mlp.grn.weight"),
    (r"\.grn\.(?:beta|bias)$", ".mlp.grn.bias"),
    (r"^norm([0-2])\.", r"neck.\1."),  # of the stages of a segmenter's backbone
    (r"^norm3?\.", "head.norm."),  # mmpretrain numbers the norms of the stages
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

_TRANSFORMERS_CONVNEXT_RULES = (
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1."),
    (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"downsample_layers.\1."),
    (r"\.layernorm\.", ".norm."),
    (r"^layernorm\.", "head.norm."),
    (r"^classifier\.", "head.fc."),
    *_CONVNEXT_RULES,
)

_MMPRETRAIN_RULES = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.", "blocks."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^ln1\.", "norm."),
    (r"^ln2\.", "fc_norm."),  # after averaging over the patches
    (r"^head\.(layers\.head|fc)\.", "head."),
)


def _timm(inside: Mapping[str, str]) -> _Rename:
    return _substitute(_OWN_RULES)


def _mmpretrain(inside: Mapping[str, str]) -> _Rename:
    return _substitute(_MMPRETRAIN_RULES)


def _convnext(inside: Mapping[str, str]) -> _Rename:
    return _substitute((*_OWN_RULES, (r"^head\.fc\.", "head."), *_CONVNEXT_RULES))


def _transformers(inside: Mapping[str, str]) -> _Rename:
    if "embeddings.patch_embeddings.weight" in inside:
        return _substitute(_TRANSFORMERS_CONVNEXT_RULES)
    depths: dict[int, int] = {}
    for name in inside:
        if match := re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.", name):
            stage, layer = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), layer + 1)
    if not depths:
        classifier = [(r"^layernorm\.", "norm."), (r"^classifier\.", "head.")]
        return _substitute((*_TRANSFORMERS_RULES, *classifier))
    plain = _substitute(_TRANSFORMERS_RULES)
    norms = _substitute(((r"^pooler\.layernorm\.", "head.norm."), (r"^classifier\.", "head.fc.")))

    def rename(name: str) -> str:
        if match := re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.", name):
            before = sum(count for stage, count in depths.items() if stage < int(match[1]))
            name = f"blocks.{before + int(match[2])}.{name[match.end() :]}"
        return norms(plain(name))

    return rename


_RENAMERS: dict[str, Callable[[Mapping[str, str]], _Rename]] = {
    _TIMM: _timm,
    _HF: _transformers,
    _CONVNEXT: _convnext,
    _MMPRETRAIN: _mmpretrain,
}


# ---- shapes --------------------------------------------------------------------------------------


def _dense(name: str, full: str, shape: Shape) -> tuple[str, Recipe]:
    """An entry of a sparse convolution or its wrappers as the dense layer holds it."""
    if name.endswith(".kernel") and len(shape) in (2, 3):
        side = round(shape[0] ** 0.5)
        made = (shape[-1], shape[1] if len(shape) == 3 else 1, side, side)
        return f"{name.removesuffix('.kernel')}.weight", Recipe((full,), "kernel", made)
    if name.startswith(("stages.", "decoder.", "downsample_layers.")):
        name = re.sub(r"\.(linear|ln)\.(weight|bias)$", r".\2", name)
        if ".grn." in name or name.endswith(".bias"):
            return name, Recipe((full,), "flat", (math.prod(shape),))
    return name, Recipe((full,), "same", shape)


def _join_queries(result: Translation) -> None:
    """One entry ``attn.qkv`` of the three that some files keep; what is incomplete stays apart."""
    for name in [name for name in result.entries if ".attention.q_proj." in name]:
        parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if not all(part in result.entries for part in parts):
            continue
        raw = result.raw[name]
        recipes = [result.entries.pop(part) for part in parts]
        for part in parts:
            result.raw.pop(part)
        shape = (sum(recipe.shape[0] for recipe in recipes), *recipes[0].shape[1:])
        ours = name.replace(".attention.q_proj.", ".attn.qkv.")
        sources = tuple(source for recipe in recipes for source in recipe.sources)
        result.entries[ours], result.raw[ours] = Recipe(sources, "cat", shape), raw


def _name_hieras_norm(result: Translation) -> None:
    """Only Hiera has a final norm and a projecting block; ViT keeps its norm's name."""
    if not any(re.fullmatch(r"blocks\.\d+\.proj\.weight", name) for name in result.entries):
        return
    for kind in ("weight", "bias"):
        old, new = f"norm.{kind}", f"head.norm.{kind}"
        if old in result.entries and new not in result.entries:
            result.entries[new] = result.entries.pop(old)
            result.raw[new] = result.raw.pop(old)


# ---- whose widths --------------------------------------------------------------------------------


def guess_arch(shapes: Mapping[str, Shape], *, any_patch: bool = False) -> str | None:
    """The architecture whose widths and depths ``shapes`` (in our names) have, or None.

    Args:
        any_patch: whatever the size of its patches.
    """
    for arch in ARCHS.values():
        if arch.family == "convnextv2":
            stem = shapes.get("stem.0.weight")
            depths = tuple(
                _count(shapes, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(4)
            )
            if stem is not None and stem[0] == arch.dims[0] and depths == arch.depths:
                return arch.name
            continue
        embed = shapes.get("patch_embed.proj.weight")
        if (
            embed is not None
            and embed[0] == arch.dims[0]
            and _count(shapes, r"blocks\.(\d+)\.") == sum(arch.depths)
            and (any_patch or embed[-1] == (7 if arch.family == "hiera" else arch.patch))
        ):
            return arch.name
    return None


def _count(names: Iterable[str], pattern: str) -> int:
    return len({match[1] for name in names if (match := re.match(pattern, name))})
