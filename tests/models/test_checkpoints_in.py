"""Checkpoints of every public source load, and give the outputs of the model that they were made
with."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path, PosixPath
from typing import Any

import pytest
import timm
import torch
from mae_runners.models import build_from_config, checkpoint, load_pretrained
from mae_skill.errors import CheckpointError
from safetensors.torch import save_file

from tests.support.models import (
    SMALL,
    build,
    classifier_config,
    disturb,
    inputs,
    mae_config,
    relative,
)

SIZE = (96, 96)
TIMM = {
    "vit_tiny_patch16": "vit_tiny_patch16_224",
    "convnextv2_atto": "convnextv2_atto",
    "hiera_tiny_224": "hiera_tiny_224",
}


def timm_model(arch: str, size: tuple[int, int] = SIZE, **options: Any) -> Any:
    torch.manual_seed(5)
    if not arch.startswith("convnextv2"):
        options["img_size"] = size
    model = timm.create_model(TIMM[arch], pretrained=False, num_classes=5, **options).eval()
    disturb(model.parameters(), 0.02)
    return model


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("mean_pool", [True, False])
def test_a_timm_file_gives_timms_logits(arch: str, mean_pool: bool, tmp_path: Path) -> None:
    pool = "avg" if mean_pool or not arch.startswith("vit") else "token"
    peer = timm_model(arch, global_pool=pool)
    save_file(peer.state_dict(), tmp_path / "timm.safetensors")
    ours = build(classifier_config(arch, SIZE, global_pool=mean_pool))
    report = load_pretrained(ours, tmp_path / "timm.safetensors")
    assert report.missing == [] and report.unexpected == [] and report.share == 1.0
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative(ours(images), peer(images)) < 1e-5
        ours.set_fused_attention(False)
        assert relative(ours(images), peer(images)) < 1e-5


@pytest.mark.parametrize("arch", SMALL)
def test_unmasked_features_equal_timms(arch: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"q_pool": 2} if arch.startswith("hiera") else {}
    peer = timm_model(arch, **options)
    torch.save(peer.state_dict(), tmp_path / "timm.pth")
    ours = build(mae_config(arch, SIZE))
    load_pretrained(ours, tmp_path / "timm.pth")
    ours, peer = ours.double(), peer.double()
    images, _ = inputs(ours, dtype=torch.float64)
    with torch.no_grad():
        theirs = peer.forward_features(images)
        if arch.startswith(
            "hiera"
        ):  # timm has no fusion of stages: compare what goes into it, in picture order
            last = peer.forward_intermediates(images, intermediates_only=True)[-1]
            assert relative(ours.encoder.pyramid(images)[-1], last) < 1e-10
        elif arch.startswith("vit"):
            assert relative(ours.encode(images, pool=False), theirs[:, 1:]) < 1e-10
            assert relative(ours.encode(images), theirs[:, 1:].mean(1)) < 1e-10
        else:
            assert relative(ours.encode(images), theirs.mean((2, 3))) < 1e-10


def vit_pretrain_file(path: Path, *, decoder: bool) -> Any:
    """A facebookresearch/mae file: names of timm, wrapper ``model``, the training arguments pickled
    beside them."""
    source = build(mae_config("vit_tiny_patch16", SIZE))
    state = {
        k.removeprefix("encoder."): v
        for k, v in source.state_dict().items()
        if decoder or k.startswith("encoder.")
    }
    torch.save(
        {"model": state, "args": Namespace(lr=0.1, output_dir=PosixPath("out")), "epoch": 3}, path
    )
    return source


@pytest.mark.parametrize("decoder", [True, False])
def test_a_mae_pretraining_file_continues_and_finetunes(decoder: bool, tmp_path: Path) -> None:
    source = vit_pretrain_file(tmp_path / "mae.pth", decoder=decoder)
    again = build(mae_config("vit_tiny_patch16", SIZE), seed=9)
    report = load_pretrained(again, tmp_path / "mae.pth")
    assert report.share == 1.0 and report.unexpected == []
    assert (report.missing == []) == decoder
    images, noise = inputs(again)
    with torch.no_grad():
        assert torch.equal(again.encode(images), source.encode(images))
        if decoder:
            assert torch.equal(again(images, noise).loss, source(images, noise).loss)
    tuned = build(classifier_config("vit_tiny_patch16", SIZE), seed=9)
    report = load_pretrained(tuned, tmp_path / "mae.pth")
    assert sorted(report.missing) == [
        f"encoder.{part}.{kind}" for part in ("fc_norm", "head") for kind in ("bias", "weight")
    ]
    assert report.unexpected == [] and "norm.weight" in report.ignored
    assert torch.equal(
        tuned.encoder.blocks[3].mlp.fc1.weight, source.encoder.blocks[3].mlp.fc1.weight
    )


def facebook_convnext(state: dict[str, torch.Tensor], *, sparse: bool) -> dict[str, torch.Tensor]:
    """Our encoder's state in the layout of facebookresearch/ConvNeXt-V2, dense or as its sparse
    library keeps it."""
    import re

    out = {}
    for name, value in state.items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", name)
        name = re.sub(r"^stages\.(\d)\.blocks\.(\d+)", r"stages.\1.\2", name)
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
        name = name.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        in_stage = name.startswith("stages.") or (
            name.startswith("downsample_layers.") and not name.startswith("downsample_layers.0")
        )
        if "grn." in name:
            value = value.view(1, -1) if sparse else value.view(1, 1, 1, -1)
        elif sparse and in_stage and value.ndim == 4:
            # kernel cells are numbered column by column: [k², C] for depthwise, [k², in, out]
            # otherwise
            cells = value.transpose(2, 3).flatten(2)
            value = cells[:, 0].T if value.shape[1] == 1 else cells.permute(2, 1, 0)
            name = name.replace(".weight", ".kernel")
        elif sparse and in_stage and "pwconv" in name:
            name = re.sub(r"\.(weight|bias)$", r".linear.\1", name)
        elif (
            sparse and in_stage and ("norm." in name or re.match(r"downsample_layers\.\d\.0", name))
        ):
            name = re.sub(r"\.(weight|bias)$", r".ln.\1", name)
        elif sparse and in_stage and name.endswith("bias"):
            value = value.view(1, -1)
        out[f"encoder.{name}" if sparse else name] = value
    return out


@pytest.mark.parametrize("sparse", [False, True])
def test_convnext_files_load_dense_and_sparse(sparse: bool, tmp_path: Path) -> None:
    peer = timm_model("convnextv2_atto")
    state = dict(peer.state_dict())
    for name in [name for name in state if ".mlp.fc" in name and name.endswith("weight")]:
        state[name] = state[name].flatten(1)  # upstream keeps pointwise layers as linear
    kept = {k: v for k, v in state.items() if not (sparse and k.startswith("head."))}
    torch.save({"model": facebook_convnext(kept, sparse=sparse)}, tmp_path / "file.pth")
    ours = build(classifier_config("convnextv2_atto", SIZE), seed=9)
    report = load_pretrained(ours, tmp_path / "file.pth")
    assert report.share == 1.0 and report.unexpected == []
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative(ours.encoder.forward_features(images), peer.forward_features(images)) < 1e-5
        if not sparse:
            assert report.missing == []
            assert relative(ours(images), peer(images)) < 1e-5


@pytest.mark.parametrize("arch", SMALL)
def test_our_own_pretraining_hands_over_to_finetuning_at_another_size(
    arch: str, tmp_path: Path
) -> None:
    source = build(mae_config(arch, (64, 96)))
    meta = checkpoint.CheckpointMeta.for_model(source)
    checkpoint.save(
        {"state_dict": checkpoint.model_state(source), "mae": meta.to_dict()}, tmp_path / "own.pth"
    )
    same = build(classifier_config(arch, (64, 96)), seed=9)
    report = load_pretrained(same, tmp_path / "own.pth")
    assert report.share == 1.0 and report.resized == [] and report.unexpected == []
    encoder = {
        k: v
        for k, v in source.state_dict().items()
        if k.startswith("encoder.") and not k.startswith("encoder.norm.")
    }
    assert all(torch.equal(same.state_dict()[name], value) for name, value in encoder.items())
    # The transposed grid has the same number of tokens: only the size kept in the file tells them
    # apart.
    turned = build(classifier_config(arch, (96, 64)), seed=9)
    report = load_pretrained(turned, tmp_path / "own.pth")
    assert report.share == 1.0
    assert bool(report.resized) == (not arch.startswith("convnext"))
    assert torch.isfinite(turned(torch.randn(1, 3, 96, 64))).all()


def test_resizing_hieras_positions_keeps_the_window_pattern() -> None:
    from mae_runners.models.position import resize_windowed_table

    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(8, 8, 3, generator=generator)
    table = pattern.repeat(2, 2, 1).view(1, 256, 3)
    resized = resize_windowed_table(table, (16, 16), (24, 32), 8).view(24, 32, 3)
    assert torch.allclose(resized, pattern.repeat(3, 4, 1), atol=1e-5)
    smooth = torch.linspace(0, 1, 16).view(1, 16, 1).expand(16, 16, 1).reshape(1, 256, 1)
    wider = resize_windowed_table(smooth, (16, 16), (16, 32), 8).view(16, 32)
    assert wider[:, 0].mean() < 0.1 and wider[:, -1].mean() > 0.9


@pytest.mark.parametrize(
    ("arch", "other"),
    [
        ("vit_small_patch16", "vit_tiny_patch16"),
        ("convnextv2_pico", "convnextv2_atto"),
        ("hiera_small_224", "hiera_tiny_224"),
    ],
)
def test_a_file_of_another_architecture_is_refused_and_named(
    arch: str, other: str, tmp_path: Path
) -> None:
    torch.save(timm_model(other).state_dict(), tmp_path / "other.pth")
    model = build(classifier_config(arch, SIZE))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(model, tmp_path / "other.pth")
    assert caught.value.got == other and caught.value.field == "train.pretrained_model_path"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_file_that_lacks_two_blocks_is_refused_by_their_names(tmp_path: Path) -> None:
    state = timm_model("vit_tiny_patch16").state_dict()
    torch.save(
        {k: v for k, v in state.items() if not k.startswith(("blocks.10", "blocks.11"))},
        tmp_path / "part.pth",
    )
    model = build_from_config(classifier_config("vit_tiny_patch16", SIZE))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="of the backbone matched") as caught:
        load_pretrained(model, tmp_path / "part.pth")
    assert "without blocks.10.norm1.weight" in caught.value.message
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_head_of_another_class_count_is_left_out_with_the_reason(tmp_path: Path) -> None:
    torch.save(
        timm_model("vit_tiny_patch16", global_pool="avg").state_dict(), tmp_path / "five.pth"
    )
    model = build(classifier_config("vit_tiny_patch16", SIZE, num_classes=7))
    report = load_pretrained(model, tmp_path / "five.pth")
    assert report.ignored["head.weight"] == "it has 5 classes, the model 7"
    assert "encoder.head.weight" in report.missing
