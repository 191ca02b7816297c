"""A checkpoint in the names of OpenMMLab, for mmseg and mmdet: ``backbone.pth``.

Backbones are mmpretrain's ``VisionTransformer`` and ``ConvNeXt``, which mmseg takes by
``type="mmpretrain.…"``; a segmenter brings its UperNet, ViT's with mmseg's ``Feature2Pyramid``.
Their Hiera does not exist. OpenMMLab is not installed here, so the gate reads the file back by the
same table; a test holds the names against OpenMMLab's own.

detectron2's ViTDet has timm's names behind ``backbone.net.``: `to_detectron`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mae_skill.weights.config import DESCRIPTION
from torch import Tensor, nn

from mae_runners.models.base import Backboned
from mae_runners.models.build import build_from_config
from mae_runners.models.checkpoint import CheckpointMeta
from mae_runners.models.heads import Segmenter

FILE = "backbone.pth"

_VIT = (
    (r"^encoder\.patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^encoder\.blocks\.(\d+)\.norm([12])\.", r"backbone.layers.\1.ln\2."),
    (r"^encoder\.blocks\.(\d+)\.mlp\.fc1\.", r"backbone.layers.\1.ffn.layers.0.0."),
    (r"^encoder\.blocks\.(\d+)\.mlp\.fc2\.", r"backbone.layers.\1.ffn.layers.1."),
    (r"^encoder\.blocks\.(\d+)\.", r"backbone.layers.\1."),
    (r"^encoder\.norm\.", "backbone.ln1."),
    (r"^neck\.0\.(\d)\.", r"neck.upsample_4x.\1."),
    (r"^neck\.1\.", "neck.upsample_2x.0."),
)
_CONVNEXT = (
    (r"^encoder\.stem\.", "backbone.downsample_layers.0."),
    (r"^encoder\.stages\.(\d)\.downsample\.", r"backbone.downsample_layers.\1."),
    (r"^encoder\.stages\.(\d)\.blocks\.(\d+)\.", r"backbone.stages.\1.\2."),
    (r"\.conv_dw\.", ".depthwise_conv."),
    (r"\.mlp\.fc([12])\.", r".pointwise_conv\1."),
    (r"\.mlp\.grn\.weight$", ".grn.gamma"),
    (r"\.mlp\.grn\.bias$", ".grn.beta"),
    (r"^neck\.(\d)\.", r"backbone.norm\1."),
)
_UPERNET = (
    (r"^uper\.pooling\.branches\.(\d+)\.1\.", r"decode_head.psp_modules.\1.1."),
    (r"^uper\.pooling\.fuse\.", "decode_head.bottleneck."),
    (r"^uper\.lateral\.", "decode_head.lateral_convs."),
    (r"^uper\.smooth\.", "decode_head.fpn_convs."),
    (r"^uper\.fuse\.", "decode_head.fpn_bottleneck."),
    (r"^uper\.classify\.1\.", "decode_head.conv_seg."),
    (r"^auxiliary\.0\.", "auxiliary_head.convs.0."),
    (r"^auxiliary\.2\.", "auxiliary_head.conv_seg."),
    # a block of convolution and norm
    (r"^((?:decode|auxiliary)_head\.(?!conv_seg).*)\.0\.weight$", r"\1.conv.weight"),
    (r"^((?:decode|auxiliary)_head\.(?!conv_seg).*)\.1\.(\w+)$", r"\1.bn.\2"),
)
_LEFT_OUT = re.compile(r"^encoder\.(head|fc_norm)\.")


def to_mmseg(family: str, names: Mapping[str, Any]) -> dict[str, str]:
    """Our name → OpenMMLab's, of everything that goes along: backbone, neck and UperNet."""
    rules = (*(_VIT if family == "vit" else _CONVNEXT), *_UPERNET, (r"^encoder\.", "backbone."))
    found = {}
    for name in names:
        if _LEFT_OUT.match(name) or not name.startswith(("encoder.", "neck.", "uper.", "auxil")):
            continue
        theirs = name
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        found[name] = theirs
    return found


def to_detectron(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in timm's names, as ``export.format=timm`` writes a ViT's, in those of detectron2's
    ViTDet; the last norm and the head have no place there."""
    return {
        f"backbone.net.{name}": value
        for name, value in state.items()
        if not name.startswith(("norm.", "fc_norm.", "head."))
    }


def reference(model: Backboned) -> nn.Module:
    """The module whose outputs the file's must equal: a segmenter's logits, else the last level of
    the backbone ``[B, C, h, w]``."""
    return model.eval() if isinstance(model, Segmenter) else _LastLevel(model).eval()


class _LastLevel(nn.Module):
    def __init__(self, model: Backboned) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        level: Tensor = self.model.encoder.pyramid(images)[-1]
        return level


def write(model: Backboned, saved: CheckpointMeta, folder: Path, license: str | None) -> None:
    """Writes ``backbone.pth``, as mmengine reads it, into the new ``folder``."""
    folder.mkdir(parents=True)
    own = model.state_dict()
    state = {
        theirs: own[name].detach().cpu().contiguous()
        for name, theirs in to_mmseg(model.shape.family, own).items()
    }
    meta: dict[str, Any] = {DESCRIPTION: saved.to_dict()}
    if saved.classes:
        meta["dataset_meta"] = {"classes": list(saved.classes)}
    torch.save({"meta": meta, "state_dict": state}, folder / FILE)


def outputs(folder: Path, images: Tensor) -> Tensor:
    """What the file's weights answer, in the shape of `reference`'s outputs."""
    contents = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    saved = CheckpointMeta.from_dict(contents["meta"][DESCRIPTION], FILE)
    model = build_from_config(saved.model).eval()
    own, state = model.state_dict(), contents["state_dict"]
    table = to_mmseg(model.shape.family, own)
    model.load_state_dict({**own, **{name: state[theirs] for name, theirs in table.items()}})
    with torch.inference_mode():
        found: Tensor = reference(model)(images)
    return found


def words(model: Backboned, saved: CheckpointMeta) -> tuple[str, str]:
    """How the file is used, and what its reader must know."""
    arch, encoder = model.shape, model.encoder
    if arch.family == "vit":
        block = encoder.blocks[0]
        shape = (
            f"arch=dict(embed_dims={encoder.num_features}, num_layers={len(encoder.blocks)},\n"
            f"              num_heads={block.attn.num_heads},\n"
            f"              feedforward_channels={block.mlp.fc1.out_features}),\n"
            f"    img_size={tuple(model.input_size)}, patch_size={arch.patch}, "
            'out_type="featmap", final_norm=False,'
        )
        kind = "VisionTransformer"
    else:
        shape = (
            f"arch=dict(depths={list(arch.depths)}, channels={list(arch.dims)}),\n"
            f"    stem_patch_size={arch.patch}, use_grn=True, layer_scale_init_value=0.0,\n"
            "    gap_before_final_norm=False, out_indices=(0, 1, 2, 3),"
        )
        kind = "ConvNeXt"
    bands = f"in_channels={saved.channels}, " if saved.channels != 3 else ""
    use = (
        f'backbone = dict(\n    type="mmpretrain.{kind}",\n    {bands}{shape}\n    init_cfg=dict('
        f'type="Pretrained", checkpoint="FOLDER/{FILE}", prefix="backbone."),\n)\n'
    )
    notes = "The names are OpenMMLab's: `backbone.` is mmpretrain's."
    if isinstance(model, Segmenter):
        notes += " `decode_head.` and `auxiliary_head.` are mmseg's `UPerHead` and `FCNHead`"
        notes += ", `neck.` its `Feature2Pyramid`." if arch.family == "vit" else "."
    return use, notes
