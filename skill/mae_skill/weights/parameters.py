"""The parameters that a spec's model has, by name and shape, without building it: what the runner's
models hold, and a test holds the two equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.archs import ARCHS, Arch, hiera_kernel, hw, num_units, with_patch
from mae_skill.dotted import get_dotted
from mae_skill.weights.fit import Target
from mae_skill.weights.names import Shape

Shapes = dict[str, Shape]


def target_of(spec: Mapping[str, Any], *, by_name: bool = False) -> Target:
    """What `fit` needs to know of the model that a resolved spec describes.

    Args:
        by_name: the rows of a head go by class names.
    """
    patch = get_dotted(spec, "model.patch_size")
    arch = with_patch(ARCHS[str(get_dotted(spec, "model.arch"))], patch)
    kind = "classifier"
    if get_dotted(spec, "train.stage") == "pretrain":
        kind = "mae"
    elif get_dotted(spec, "model.task") == "segmentation":
        kind = "segmenter"
    size = hw(get_dotted(spec, "dataset.augmentation.input_size"))
    token_pool = kind == "classifier" and not get_dotted(spec, "model.global_pool", True)
    shapes = _encoder(arch, spec, size, kind, token_pool)
    if kind == "mae":
        shapes |= _decoder(arch, spec, size)
    elif kind == "segmenter":
        shapes |= _uper(arch, spec)
    heads = get_dotted(spec, "model.num_heads")
    return Target(
        row=arch,
        kind=kind,
        shapes=shapes,
        input_size=size,
        heads=arch.heads if heads is None else (int(heads),),
        token_pool=token_pool,
        any_patch=patch is not None,
        by_name=by_name,
    )


def matrices_of(spec: Mapping[str, Any]) -> Shapes:
    """The parameters of a resolved spec's model that Muon updates."""
    answers = ("encoder.head.", "decoder_pred.", "pred.")
    return {
        name: shape
        for name, shape in target_of(spec).shapes.items()
        if len(shape) == 2 and not name.startswith(answers)
    }


def _layer(name: str, *shape: int) -> Shapes:
    """A linear layer or convolution, output first."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block(name: str, dim: int, dim_out: int, hidden: int) -> Shapes:
    """A transformer block."""
    shapes = _norm(f"{name}.norm1", dim)
    if dim != dim_out:
        shapes |= _layer(f"{name}.proj", dim_out, dim)
    return (
        shapes
        | _layer(f"{name}.attn.qkv", 3 * dim_out, dim)
        | _layer(f"{name}.attn.proj", dim_out, dim_out)
        | _norm(f"{name}.norm2", dim_out)
        | _layer(f"{name}.mlp.fc1", hidden, dim_out)
        | _layer(f"{name}.mlp.fc2", dim_out, hidden)
    )


def _cross_block(name: str, dim: int, source: int, hidden: int) -> Shapes:
    """A decoder block that attends to an encoder's output of width ``source``."""
    return (
        _norm(f"{name}.norm1", dim)
        | _layer(f"{name}.attn.q", dim, dim)
        | _layer(f"{name}.attn.kv", 2 * dim, source)
        | _layer(f"{name}.attn.proj", dim, dim)
        | _norm(f"{name}.norm2", dim)
        | _layer(f"{name}.mlp.fc1", hidden, dim)
        | _layer(f"{name}.mlp.fc2", dim, hidden)
    )


def _convolution_block(name: str, dim: int, hidden: int) -> Shapes:
    """A ConvNeXt V2 block."""
    return (
        _layer(f"{name}.conv_dw", dim, 1, 7, 7)
        | _norm(f"{name}.norm", dim)
        | _layer(f"{name}.mlp.fc1", hidden, dim)
        | _norm(f"{name}.mlp.grn", hidden)
        | _layer(f"{name}.mlp.fc2", dim, hidden)
    )


def _encoder(
    arch: Arch, spec: Mapping[str, Any], size: tuple[int, int], kind: str, token_pool: bool
) -> Shapes:
    build = {"vit": _vit, "convnextv2": _convnext, "hiera": _hiera}[arch.family]
    shapes = build(arch, spec, size)
    width = _width(arch, spec)
    classes = int(get_dotted(spec, "model.num_classes", 0) or 0)
    if arch.family == "vit":
        if kind == "mae" or token_pool:
            shapes |= _norm("norm", width)
        elif kind == "classifier":
            shapes |= _norm("fc_norm", width)
        if kind == "classifier":
            shapes |= _layer("head", classes, width)
    elif kind == "classifier":
        shapes |= _norm("head.norm", width) | _layer("head.fc", classes, width)
    return {f"encoder.{name}": shape for name, shape in shapes.items()}


def _channels(spec: Mapping[str, Any]) -> int:
    return int(get_dotted(spec, "dataset.channels") or 3)


def _width(arch: Arch, spec: Mapping[str, Any]) -> int:
    own = get_dotted(spec, "model.embed_dim") if arch.family == "vit" else None
    return int(own or arch.feature_dim)


def _vit(arch: Arch, spec: Mapping[str, Any], size: tuple[int, int]) -> Shapes:
    dim = _width(arch, spec)
    hidden = int(dim * float(get_dotted(spec, "model.mlp_ratio") or arch.mlp_ratio))
    shapes: Shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + num_units(arch, size), dim),
        **_layer("patch_embed.proj", dim, _channels(spec), arch.patch, arch.patch),
    }
    for i in range(int(get_dotted(spec, "model.depth") or arch.depth)):
        shapes |= _block(f"blocks.{i}", dim, dim, hidden)
    return shapes


def _convnext(arch: Arch, spec: Mapping[str, Any], size: tuple[int, int]) -> Shapes:
    shapes = _layer("stem.0", arch.dims[0], _channels(spec), arch.patch, arch.patch) | _norm(
        "stem.1", arch.dims[0]
    )
    for stage, (dim, depth) in enumerate(zip(arch.dims, arch.depths, strict=True)):
        if stage:
            before = arch.dims[stage - 1]
            shapes |= _norm(f"stages.{stage}.downsample.0", before)
            shapes |= _layer(f"stages.{stage}.downsample.1", dim, before, 2, 2)
        for i in range(depth):
            shapes |= _convolution_block(f"stages.{stage}.blocks.{i}", dim, 4 * dim)
    return shapes


def _hiera(arch: Arch, spec: Mapping[str, Any], size: tuple[int, int]) -> Shapes:
    dim, tokens = arch.dims[0], (size[0] // arch.patch) * (size[1] // arch.patch)
    kernel = hiera_kernel(arch.patch)
    shapes: Shapes = {
        "pos_embed": (1, tokens, dim),
        **_layer("patch_embed.proj", dim, _channels(spec), kernel, kernel),
    }
    widths = [dim for dim, depth in zip(arch.dims, arch.depths, strict=True) for _ in range(depth)]
    for i, (before, after) in enumerate(zip([dim, *widths], widths, strict=False)):
        shapes |= _block(f"blocks.{i}", before, after, 4 * after)
    return shapes


def _decoder(arch: Arch, spec: Mapping[str, Any], size: tuple[int, int]) -> Shapes:
    width, features = int(get_dotted(spec, "model.decoder_embed_dim")), _width(arch, spec)
    depth = int(get_dotted(spec, "model.decoder_depth"))
    hidden = int(width * float(get_dotted(spec, "model.decoder_mlp_ratio")))
    pixels = arch.target_patch**2 * _channels(spec)
    shapes: Shapes = {"mask_token": (1, 1, width)}
    if arch.family == "convnextv2":
        shapes |= _layer("proj", width, features) | _layer("pred", pixels, width)
        for i in range(depth):
            shapes |= _convolution_block(f"decoder.{i}", width, hidden)
        return shapes
    units = num_units(arch, size)
    tokens = 1 + units if arch.family == "vit" else units * (arch.unit // arch.target_patch) ** 2
    shapes |= {"decoder_pos_embed": (1, tokens, width)}
    if get_dotted(spec, "model.decoder_type") == "cross":
        for i in range(depth):
            shapes |= _cross_block(f"decoder_blocks.{i}", width, features, hidden)
        return shapes | _norm("decoder_norm", width) | _layer("decoder_pred", pixels, width)
    shapes |= _layer("decoder_embed", width, features)
    for i in range(depth):
        shapes |= _block(f"decoder_blocks.{i}", width, width, hidden)
    shapes |= _norm("decoder_norm", width) | _layer("decoder_pred", pixels, width)
    if arch.family == "hiera":
        shapes |= _norm("encoder_norm", features)
        final = arch.unit // arch.target_patch
        for stage in range(2):
            kernel = arch.unit // arch.patch // 2**stage // final
            name = f"multi_scale_fusion_heads.{stage}"
            shapes |= _layer(name, features, arch.dims[stage], kernel, kernel)
    return shapes


def _uper(arch: Arch, spec: Mapping[str, Any]) -> Shapes:
    """UperNet's neck, head and auxiliary head."""
    head = "model.segmentation"
    channels = int(get_dotted(spec, f"{head}.channels"))
    scales = list(get_dotted(spec, f"{head}.pool_scales"))
    classes = int(get_dotted(spec, "model.num_classes"))
    if arch.family == "vit":
        width = _width(arch, spec)
        dims: tuple[int, ...] = (width,) * 4
        doubles = [_layer(name, width, width, 2, 2) for name in ("neck.0.0", "neck.0.3", "neck.1")]
        shapes = doubles[0] | _batch_norm("neck.0.1", width) | doubles[1] | doubles[2]
    else:
        dims, shapes = arch.dims, {}
        for level, dim in enumerate(dims):
            shapes |= _norm(f"neck.{level}", dim)
    for i in range(len(scales)):
        shapes |= _conv_block(f"uper.pooling.branches.{i}.1", channels, dims[-1], 1)
    width_in = dims[-1] + len(scales) * channels
    shapes |= _conv_block("uper.pooling.fuse", channels, width_in, 3)
    for level, dim in enumerate(dims[:-1]):
        shapes |= _conv_block(f"uper.lateral.{level}", channels, dim, 1)
        shapes |= _conv_block(f"uper.smooth.{level}", channels, channels, 3)
    shapes |= _conv_block("uper.fuse", channels, len(dims) * channels, 3)
    shapes |= _layer("uper.classify.1", classes, channels, 1, 1)
    if float(get_dotted(spec, f"{head}.auxiliary_weight", 0.0)) > 0:
        between = int(get_dotted(spec, f"{head}.auxiliary_channels"))
        shapes |= _conv_block("auxiliary.0", between, dims[2], 3)
        shapes |= _layer("auxiliary.2", classes, between, 1, 1)
    return shapes


def _conv_block(name: str, width: int, width_in: int, kernel: int) -> Shapes:
    return {
        f"{name}.0.weight": (width, width_in, kernel, kernel),
        **_batch_norm(f"{name}.1", width),
    }


def _batch_norm(name: str, width: int) -> Shapes:
    statistics: Shapes = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
    return _norm(name, width) | statistics | {f"{name}.num_batches_tracked": ()}
