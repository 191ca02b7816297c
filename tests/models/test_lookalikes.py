"""Files of other models: each is loaded exactly, or refused by what sets it apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import timm
import torch
from mae_runners.models.pretrained import fill
from mae_skill.errors import CheckpointError
from mae_skill.weights.fit import fit
from mae_skill.weights.parameters import target_of
from timm.layers import GluMlp, RmsNorm, SwiGLU
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.hiera import Hiera
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ResPostBlock,
    VisionTransformer,
)
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

from tests.support.models import build, mae_config, relative

SIDE = 64
VIT, CONVNEXT, HIERA = "vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224"
IMAGES = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def randomized(model: nn.Module) -> Any:
    """No value is one that hides a difference: LayerScale, biases and tables are all on."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            norm = value.ndim == 1 and ("norm" in name or "gamma" in name or "ls" in name)
            value.copy_(noise * 0.3 + 1.0 if norm else noise * (0.5 if value.ndim < 2 else 0.08))
    return model.eval()


def vit(**options: Any) -> Any:
    shape = {"img_size": SIDE, "embed_dim": 192, "depth": 12, "num_heads": 3, "num_classes": 0}
    return VisionTransformer(**{**shape, **options})


def relpos(**options: Any) -> Any:
    shape = {"img_size": SIDE, "embed_dim": 192, "depth": 12, "num_heads": 3, "num_classes": 0}
    return VisionTransformerRelPos(**{**shape, **options})


def eva(**options: Any) -> Any:
    shape = {"img_size": SIDE, "embed_dim": 192, "depth": 12, "num_heads": 3, "num_classes": 0}
    return Eva(**{**shape, **options})


def beit(name: str) -> Any:
    return timm.create_model(
        name, pretrained=False, num_classes=0, img_size=SIDE, embed_dim=192, num_heads=3
    )


def convnext(**options: Any) -> Any:
    shape: dict[str, Any] = {"depths": (2, 2, 6, 2), "dims": (40, 80, 160, 320), "num_classes": 0}
    return ConvNeXt(**{**shape, "use_grn": True, "ls_init_value": None, **options})


def hiera(**options: Any) -> Any:
    shape: dict[str, Any] = {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2)}
    return Hiera(**{**shape, "img_size": (SIDE, SIDE), "num_classes": 0, "q_pool": 2, **options})


@cache
def ours(arch: str) -> Any:
    return build(mae_config(arch, (SIDE, SIDE)))


def features(model: Any, arch: str) -> tuple[Tensor, Tensor]:
    """Our features of the images, and those of ``model``, before any pooling."""
    mine = ours(arch)
    if arch == HIERA:
        theirs = model.forward_intermediates(IMAGES, intermediates_only=True)[-1]
        return mine.encoder.pyramid(IMAGES)[-1], theirs
    return mine.encoder.forward_features(IMAGES), model.forward_features(IMAGES)


#: what is in a file → the model that it is made from: exactly ours
SAME: dict[str, tuple[str, Callable[[], Any]]] = {
    "AugReg, DINO, iBOT, MSN": (VIT, vit),
    "with an ImageNet head": (VIT, partial(vit, num_classes=7)),
    "at another dynamic size": (VIT, partial(vit, dynamic_img_size=True)),
    "ConvNeXt V2": (CONVNEXT, convnext),
    "ConvNeXt V2 with 1×1 convolutions": (CONVNEXT, partial(convnext, conv_mlp=True)),
    "Hiera": (HIERA, hiera),
}

#: another model → what the refusal names
OTHERS: dict[str, tuple[str, Callable[[], Any], str]] = {
    "DINOv2": (VIT, partial(vit, init_values=1e-5), "LayerScale"),
    "DINOv2 giant": (
        VIT,
        partial(vit, init_values=1e-5, mlp_layer=SwiGLU, mlp_ratio=8 / 3),
        "DINOv2",
    ),
    "DINOv2 with registers": (
        VIT,
        partial(vit, init_values=1e-5, reg_tokens=4, no_embed_class=True),
        "DINOv2 with registers",
    ),
    "DINOv3": (
        VIT,
        partial(
            eva, num_reg_tokens=4, use_rot_pos_emb=True, rope_type="dinov3", use_abs_pos_emb=False,
            init_values=1e-5, qkv_bias=False,
        ),
        "DINOv3",
    ),
    "DeiT III": (VIT, partial(vit, init_values=1e-6, no_embed_class=True), "DeiT III"),
    "class token without position": (VIT, partial(vit, no_embed_class=True), "class token"),
    "DeiT distilled": (
        VIT,
        lambda: timm.create_model(
            "deit_tiny_distilled_patch16_224", pretrained=False, num_classes=0, img_size=SIDE
        ),
        "a distilled DeiT",
    ),
    "BEiT": (VIT, partial(beit, "beit_base_patch16_224"), "BEiT"),
    "BEiT v2": (VIT, partial(beit, "beitv2_base_patch16_224"), "BEiT"),
    "CLIP": (VIT, partial(vit, pre_norm=True), "CLIP"),
    "SigLIP": (VIT, partial(vit, class_token=False, global_pool="map"), "SigLIP"),
    "no class token": (
        VIT, partial(vit, class_token=False, global_pool="avg"), "without a class token",
    ),
    "EVA": (VIT, partial(eva, use_rot_pos_emb=False), "EVA"),
    "EVA-02": (
        VIT,
        partial(
            eva, mlp_ratio=8 / 3, swiglu_mlp=True, use_rot_pos_emb=True, scale_mlp=True,
            qkv_fused=False,
        ),
        "a gated MLP",
    ),
    "rotary": (
        VIT,
        partial(eva, use_rot_pos_emb=True, rope_type="mixed", use_abs_pos_emb=False),
        "rotary embeddings",
    ),
    "qk-norm": (VIT, partial(vit, qk_norm=True), "a ViT with qk-norm"),
    "registers": (VIT, partial(vit, reg_tokens=4), "register"),
    "post-norm": (VIT, partial(vit, block_fn=ResPostBlock), "post-norm"),
    "post-norm with scales": (VIT, partial(vit, block_fn=ResPostBlock, init_values=1), "post-norm"),
    "parallel blocks": (VIT, partial(vit, block_fn=ParallelScalingBlock), "no place for"),
    "scaled attention": (VIT, partial(vit, scale_attn_norm=True), "norms inside attention"),
    "RMSNorm": (VIT, partial(vit, norm_layer=RmsNorm), "without blocks.0.norm1.bias"),
    "no query bias": (VIT, partial(vit, qkv_bias=False), "without blocks.0.attn.qkv.bias"),
    "no projection bias": (VIT, partial(vit, proj_bias=False), "without blocks.0.attn.proj.bias"),
    "gated MLP in one layer": (VIT, partial(vit, mlp_layer=GluMlp), "mlp.fc2.weight is"),
    "MLP ratio": (VIT, partial(vit, mlp_ratio=3.0), "mlp.fc1.weight is [576, 192]"),
    "patch 8": (VIT, partial(vit, patch_size=8), "patch_embed.proj.weight is [192, 3, 8, 8]"),
    "one channel": (VIT, partial(vit, in_chans=1), "patch_embed.proj.weight is [192, 1, 16, 16]"),
    "deeper": (VIT, partial(vit, depth=13), "no place for blocks.12.norm1.weight"),
    "shallower": (VIT, partial(vit, depth=11), "without blocks.11.norm1.weight"),
    "no positions": (VIT, partial(vit, pos_embed="none"), "without pos_embed"),
    "relative positions": (VIT, relpos, "relative position biases"),
    "shared relative positions": (
        VIT, partial(relpos, shared_rel_pos=True), "relative position biases",
    ),
    "relative positions by MLP": (VIT, partial(relpos, rel_pos_type="mlp"), "rel_pos"),
    "NaFlex": (
        VIT,
        lambda: timm.create_model("naflexvit_base_patch16_gap", pretrained=False, num_classes=0),
        "NaFlex",
    ),
    "ConvNeXt V1": (CONVNEXT, partial(convnext, use_grn=False, ls_init_value=1e-6), "ConvNeXt V1"),
    "ConvNeXt V2 with LayerScale": (
        CONVNEXT, partial(convnext, ls_init_value=1e-6), "a ConvNeXt with GRN and LayerScale",
    ),
    "ConvNeXt without either": (CONVNEXT, partial(convnext, use_grn=False), "no GRN"),
    "ConvNeXt, overlapping stem": (CONVNEXT, partial(convnext, stem_type="overlap"), "stem.0"),
    "ConvNeXt, kernel 5": (CONVNEXT, partial(convnext, kernel_sizes=5), "conv_dw.weight is"),
    "ConvNeXt without biases": (CONVNEXT, partial(convnext, conv_bias=False), "conv_dw.bias"),
    "ConvNeXt, norm first": (
        CONVNEXT, partial(convnext, head_norm_first=True, num_classes=5),
        "a norm before the pooling: this looks like a ConvNeXt of timm with head_norm_first",
    ),
    "ConvNeXt, RMSNorm": (CONVNEXT, partial(convnext, norm_layer="rmsnorm2d"), "norm.bias"),
    "Hiera, absolute windows": (
        HIERA, partial(hiera, abs_win_pos_embed=True), "absolute window positions",
    ),
    "Hiera without projections": (
        HIERA, partial(hiera, use_expand_proj=False), "without blocks.1.proj.weight",
    ),
    "Hiera with LayerScale": (
        HIERA, partial(hiera, init_values=1e-5), "a Hiera with LayerScale",
    ),
    "another Hiera": (HIERA, partial(hiera, stages=(1, 2, 11, 2)), "no place for blocks.12"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
@torch.no_grad()
def test_a_file_of_the_same_model_gives_its_features(name: str) -> None:
    arch, make = SAME[name]
    peer = randomized(make())
    report = fill(ours(arch), peer.state_dict(), "file.pth")
    mine, theirs = features(peer, arch)
    assert report.share == 1.0 and report.unexpected == []
    assert relative(mine, theirs) < 1e-4


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_a_file_of_another_model_is_refused_by_what_sets_it_apart(name: str) -> None:
    arch, make, named = OTHERS[name]
    peer = randomized(make())
    before = {key: value.clone() for key, value in ours(arch).state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        fill(ours(arch), peer.state_dict(), "file.pth")
    assert named.lower() in f"{caught.value.message} {caught.value.got}".lower()
    assert caught.value.got != arch
    others = {VIT: (), CONVNEXT: ("CLIP", "DINO"), HIERA: ("CLIP", "DINO")}[arch]
    assert not any(other in str(caught.value) for other in others), "not the name of a ViT"
    after = ours(arch).state_dict()
    assert all(torch.equal(before[key], value) for key, value in after.items())


def whole(arch: str) -> dict[str, Tensor]:
    return dict(ours(arch).state_dict())


def blocks(count: int) -> dict[str, Tensor]:
    """The file of a ViT of so many blocks."""
    kept = {k: v for k, v in whole(VIT).items() if not k.startswith("encoder.blocks.")}
    of_one = {k: v for k, v in whole(VIT).items() if k.startswith("encoder.blocks.0.")}
    for number in range(count):
        kept |= {k.replace("blocks.0.", f"blocks.{number}."): v for k, v in of_one.items()}
    return kept


GRN = "stages.1.blocks.1.mlp.grn.weight"

#: a file, the model's fields → what it is called, and the hint
OF_OURS: list[tuple[Callable[[], dict[str, Tensor]], dict[str, Any], str, str]] = [
    (partial(whole, CONVNEXT), {"arch": "convnextv2_base"}, CONVNEXT, f"model.arch to {CONVNEXT}"),
    (partial(whole, CONVNEXT), {"arch": "convnextv2_femto"}, CONVNEXT, f"arch to {CONVNEXT}"),
    (partial(whole, CONVNEXT), {"arch": VIT}, CONVNEXT, f"model.arch to {CONVNEXT}"),
    (partial(whole, CONVNEXT), {"arch": HIERA}, CONVNEXT, f"model.arch to {CONVNEXT}"),
    (partial(whole, VIT), {"arch": CONVNEXT}, VIT, f"model.arch to {VIT}"),
    (partial(whole, HIERA), {"arch": CONVNEXT}, HIERA, f"model.arch to {HIERA}"),
    (
        lambda: {k: v for k, v in whole(CONVNEXT).items() if not k.endswith(GRN)},
        {"arch": CONVNEXT},
        f"{CONVNEXT} without {GRN}",
        "incomplete",
    ),
    (partial(whole, VIT), {"arch": VIT, "depth": 6}, "model.depth 12", "leave out model.depth"),
    (partial(whole, VIT), {"arch": VIT, "depth": 14}, "model.depth 12", "leave out model.depth"),
    (partial(whole, VIT), {"arch": VIT, "embed_dim": 96}, "model.embed_dim 192", "leave out"),
    (partial(blocks, 13), {"arch": VIT}, "model.depth 13", "set model.depth=13"),
    (partial(blocks, 5), {"arch": VIT, "depth": 4}, "model.depth 5", "set model.depth=5"),
]


@pytest.mark.parametrize(("make", "model", "got", "hint"), OF_OURS)
def test_a_file_of_an_architecture_of_ours_is_called_by_its_name_and_the_field_to_set(
    make: Callable[[], dict[str, Tensor]], model: dict[str, Any], got: str, hint: str
) -> None:
    spec = {
        "model": {"num_classes": 3, "task": "classification", "global_pool": True, **model},
        "train": {"stage": "finetune"},
        "dataset": {"augmentation": {"input_size": SIDE}},
    }
    refusal = fit(make(), target_of(spec), "file.pth", "evaluate.checkpoint").refusal
    assert refusal is not None
    assert got in str(refusal.got) and hint in str(refusal.hint)
    assert "not supported" not in str(refusal) and "not ours" not in str(refusal)
