"""Where weights lie in a file, whose names they have, and which of a head's rows are taken."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from mae_runners.models import build_from_config, checkpoint, load_pretrained
from mae_runners.models.pretrained import fill, load_described, target_of
from mae_skill.errors import CheckpointError
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support.models import (
    SMALL,
    build,
    classifier_config,
    disturb,
    inputs,
    mae_config,
    relative,
)
from tests.support.segmentation import segmenter_config

SIDE = 64
VIT = "vit_tiny_patch16"
IMAGES = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def classifier(arch: str = VIT, **options: Any) -> Any:
    return build(classifier_config(arch, (SIDE, SIDE), **options), seed=9)


@pytest.fixture(scope="module")
def peer() -> Any:
    torch.manual_seed(5)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=SIDE).eval()
    disturb(model.parameters())
    return model


# ---- containers and prefixes ---------------------------------------------------------------------


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def wrapped_inside(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As FSDP and activation checkpointing name the parameters of wrapped blocks."""
    out = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            parts[2:2] = ["_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
        out["_fsdp_wrapped_module." + ".".join(parts)] = value
    return out


OTHER = {"projector.0.weight": torch.zeros(4, 192), "queue": torch.zeros(3, 5)}
CONTAINERS: dict[str, Any] = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s, "args": {"lr": 1.0}, "epoch": 3},
    "state_dict": lambda s: {"state_dict": s},
    "DeepSpeed": lambda s: {"module": s, "global_steps": 7, "optimizer": None},
    "model_ema": lambda s: {"model_ema": s},
    "state_dict_ema": lambda s: {"state_dict_ema": s},
    "ema": lambda s: {"ema": s},
    "ema_state_dict": lambda s: {"ema_state_dict": s, "epoch": 2},
    "shadow": lambda s: {"shadow": s, "decay": 0.999},
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(3), **prefixed(s, "module.")},
    "AveragedModel in a module": lambda s: {
        "state_dict": {"net.n_averaged": torch.tensor(3), **prefixed(s, "net.module.")}
    },
    "an average among callbacks": lambda s: {
        "state_dict": s,
        "callbacks": {"WeightAveraging": {"average_model_state": prefixed(zeros(s), "module.")}},
    },
    "an average without names beside": lambda s: {
        "model": s,
        "ema": {"shadow_params": [v * 0 for v in s.values()], "decay": 0.9},
    },
    "net": lambda s: {"net": s, "acc": 0.5},
    "checkpoint.model": lambda s: {"checkpoint": {"model": s}},
    "an unknown one": lambda s: {"weights_of_the_run": s},
    "torch.compile": lambda s: prefixed(s, "_orig_mod."),
    "DDP and compile": lambda s: {"model": prefixed(s, "module._orig_mod.")},
    "FSDP": wrapped_inside,
    "solo-learn": lambda s: {"state_dict": prefixed(s, "backbone.") | OTHER},
    "momentum beside": lambda s: {
        "state_dict": prefixed(s, "backbone.") | prefixed(zeros(s), "momentum_backbone.")
    },
    "lightly": lambda s: {"state_dict": prefixed(s, "model.backbone.vit.")},
    "mmpretrain": lambda s: {"state_dict": prefixed(mmpretrain(s), "backbone.")},
    "DINO": lambda s: {
        "student": prefixed(zeros(s), "module.backbone."),
        "teacher": prefixed(s, "backbone.") | {"head.mlp.0.weight": torch.zeros(3, 192)},
    },
    "plain and average": lambda s: {"state_dict": s, "state_dict_ema": zeros(s)},
    "numbers of NumPy": lambda s: {"model": s, "best": np.float64(0.5), "curve": np.zeros(3)},
    "parameters": lambda s: {"model": {k: nn.Parameter(v) for k, v in s.items()}},
}


def zeros(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in state.items()}


def mmpretrain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, value in state.items():
        for ours, theirs in (
            ("patch_embed.proj.", "patch_embed.projection."), ("blocks.", "layers."),
            (".norm1.", ".ln1."), (".norm2.", ".ln2."), (".mlp.fc1.", ".ffn.layers.0.0."),
            (".mlp.fc2.", ".ffn.layers.1."),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        out["ln1." + name[5:] if name.startswith("norm.") else name] = value
    return out


@pytest.mark.parametrize("container", CONTAINERS)
def test_weights_are_found_in_their_container(container: str, peer: Any, tmp_path: Path) -> None:
    torch.save(CONTAINERS[container](dict(peer.state_dict())), tmp_path / "file.pth")
    model = build(mae_config(VIT, (SIDE, SIDE)), seed=9)
    report = load_pretrained(model, tmp_path / "file.pth")
    assert report.share == 1.0 and not any("encoder" in name for name in report.missing)
    state = model.encoder.state_dict()
    assert all(torch.equal(state[name], value) for name, value in peer.state_dict().items())


def test_weights_without_their_names_are_refused_as_such_and_left_out_aloud(
    peer: Any, tmp_path: Path
) -> None:
    average = {"shadow_params": list(peer.state_dict().values()), "decay": 0.99}
    torch.save(average, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="without their names") as caught:
        load_pretrained(classifier(), tmp_path / "file.pth")
    assert "shadow_params is a list" in caught.value.message
    assert "save its state dict" in str(caught.value.hint)

    both = {"model": dict(peer.state_dict()), "ema": average}
    torch.save(both, tmp_path / "file.pth")
    said = load_pretrained(classifier(), tmp_path / "file.pth").summary()
    assert "ema.shadow_params" in said


def test_two_backbones_of_equal_rank_are_an_error(peer: Any) -> None:
    state = dict(peer.state_dict())
    with pytest.raises(CheckpointError, match="several backbones") as caught:
        fill(classifier(), {"a": state, "b": state}, "file.pth")
    assert caught.value.got == "a, b"


def test_a_file_without_a_backbone_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"net": {"conv\x1b[31m.weight": torch.zeros(3)}, "epoch": 2}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no backbone") as caught:
        load_pretrained(classifier(), tmp_path / "x.pth")
    assert "top level: net, epoch" in caught.value.got and "conv" in caught.value.got
    assert "\x1b" not in str(caught.value)
    torch.save({"epoch": 2}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_pretrained(classifier(), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"", "empty"),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(classifier(), tmp_path / "x.pth")
    assert what in str(caught.value.got)


def test_the_content_says_what_a_file_is_not_its_name(peer: Any, tmp_path: Path) -> None:
    save_file(peer.state_dict(), tmp_path / "really_safetensors.pth")
    torch.save(peer.state_dict(), tmp_path / "really_torch.safetensors")
    for name in ("really_safetensors.pth", "really_torch.safetensors"):
        assert load_pretrained(classifier(), tmp_path / name).share == 1.0


def test_a_class_that_is_not_loaded_is_named_without_escape_codes(tmp_path: Path) -> None:
    torch.save({"model": {}, "when": __import__("datetime").datetime(2020, 1, 1)}, tmp_path / "x")
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(classifier(), tmp_path / "x")
    assert "datetime.datetime" in caught.value.got and "\x1b" not in str(caught.value)


# ---- transformers --------------------------------------------------------------------------------


VIT_SHAPE = {
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "image_size": SIDE,
    "layer_norm_eps": 1e-6,
}
HIERA_SHAPE = {
    "embed_dim": 96, "depths": [1, 2, 7, 2], "num_heads": [1, 2, 4, 8], "image_size": [SIDE, SIDE],
}  # fmt: skip
CONVNEXT_SHAPE = {
    "hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2], "layer_norm_eps": 1e-6,
}  # fmt: skip
LABELS = {
    "id2label": {0: "cat", 1: "dog", 2: "emu"},
    "label2id": {"cat": 0, "dog": 1, "emu": 2},
}


def theirs(kind: str, config: Any) -> Any:
    torch.manual_seed(1)
    model = getattr(transformers, kind)(config).eval()
    disturb(parameter for parameter in model.parameters() if parameter.requires_grad)
    return model


CLASSIFIERS = {
    "ViTForImageClassification": (VIT, lambda: transformers.ViTConfig(**VIT_SHAPE, **LABELS)),
    "ViTMSNForImageClassification": (
        VIT,
        lambda: transformers.ViTMSNConfig(**VIT_SHAPE, **LABELS),
    ),
    "ConvNextV2ForImageClassification": (
        "convnextv2_atto",
        lambda: transformers.ConvNextV2Config(**CONVNEXT_SHAPE, **LABELS),
    ),
    "HieraForImageClassification": (
        "hiera_tiny_224",
        lambda: transformers.HieraConfig(**HIERA_SHAPE, **LABELS),
    ),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
@torch.no_grad()
def test_a_folder_of_transformers_gives_its_logits_by_class_name(kind: str, tmp_path: Path) -> None:
    arch, config = CLASSIFIERS[kind]
    peer = theirs(kind, config())
    peer.save_pretrained(tmp_path / "folder")
    ours = classifier(arch, num_classes=4, global_pool=False)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    report = load_pretrained(ours, tmp_path / "folder", classes=["dog", "new", "emu", "cat"])
    expected = peer(IMAGES).logits
    assert relative(ours(IMAGES)[:, [3, 0, 2]], expected) < 1e-4
    assert "3 of 4 classes by name; fresh: new" in report.head
    weight, bias = target_of(ours).class_rows()
    assert torch.equal(ours.state_dict()[weight][1], before[weight][1])
    assert torch.equal(ours.state_dict()[bias][1], before[bias][1])


@pytest.mark.parametrize("kind", ["ViTModel", "ViTMAEModel", "ViTMSNModel"])
@torch.no_grad()
def test_a_bare_model_of_transformers_gives_its_features(kind: str) -> None:
    config = getattr(transformers, kind.replace("Model", "Config"))(**VIT_SHAPE)
    peer = theirs(kind, config)
    ours = build(mae_config(VIT, (SIDE, SIDE)), seed=9)
    fill(ours, peer.state_dict(), "file.pth")
    if kind == "ViTMAEModel":
        config.mask_ratio = 0.0
        order = torch.arange(16.0).expand(2, -1)
        expected = peer(IMAGES, noise=order).last_hidden_state
    else:
        expected = peer(IMAGES).last_hidden_state
    assert relative(ours.encoder.forward_features(IMAGES), expected) < 1e-4


@torch.no_grad()
def test_the_decoder_that_transformers_saves_is_taken(tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(
        **VIT_SHAPE, decoder_hidden_size=64, decoder_num_hidden_layers=2, mask_ratio=0.6,
        decoder_num_attention_heads=4, decoder_intermediate_size=256, norm_pix_loss=True,
    )  # fmt: skip
    peer = theirs("ViTMAEForPreTraining", config)
    peer.save_pretrained(tmp_path)
    ours = build(mae_config(VIT, (SIDE, SIDE)), seed=9)
    report = load_pretrained(ours, tmp_path)
    assert report.missing == [] and report.unexpected == []
    images, noise = inputs(ours)
    assert abs(float(ours(images, noise).loss - peer(images, noise=noise).loss)) < 1e-5


def test_hieras_decoder_of_transformers_is_taken() -> None:
    config = transformers.HieraConfig(
        **HIERA_SHAPE, num_query_pool=2, decoder_hidden_size=64, decoder_depth=2,
        decoder_num_heads=4,
    )  # fmt: skip
    peer = theirs("HieraForPreTraining", config)
    ours = build(mae_config("hiera_tiny_224", (SIDE, SIDE)), seed=9)
    report = fill(ours, peer.state_dict(), "file.pth")
    assert report.missing == [] and report.unexpected == [], report.line


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "quick_gelu"}, "its activation is quick_gelu"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "gelu_pytorch_tanh"),
        ({"num_attention_heads": 6}, "6 attention heads, the model 3"),
    ],
)
def test_what_names_cannot_show_is_read_from_the_folder(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    theirs("ViTModel", transformers.ViTConfig(**{**VIT_SHAPE, **change})).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(classifier(), tmp_path)
    assert named in caught.value.message


# ---- position tables -----------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [VIT, "hiera_tiny_224"])
def test_a_square_table_is_resized_to_a_size_of_as_many_tokens(arch: str) -> None:
    square = build(classifier_config(arch, (128, 128)))
    state = square.encoder.state_dict()
    long = build(classifier_config(arch, (64, 256)), seed=9)
    report = fill(long, state, "file.pth")
    old = {VIT: "8×8 → 4×16", "hiera_tiny_224": "32×32 → 16×64"}[arch]
    assert report.resized == [f"encoder.pos_embed {old}"]
    assert not torch.equal(long.encoder.pos_embed, square.encoder.pos_embed)
    # Ours says its size: a long table of ours is not taken for a square one.
    meta = checkpoint.CheckpointMeta.for_model(long).to_dict()
    again = build(classifier_config(arch, (64, 256)), seed=8)
    report = fill(again, {"mae": meta, "state_dict": checkpoint.model_state(long)}, "own.pth")
    assert report.resized == [] and torch.equal(again.encoder.pos_embed, long.encoder.pos_embed)


@pytest.mark.parametrize(
    ("arch", "patch", "told"),
    [
        (VIT, 8, "encoder.patch_embed.proj.weight 16×16 → 8×8"),
        ("convnextv2_atto", 2, "encoder.stem.0.weight 4×4 → 2×2"),
        ("hiera_tiny_224", 2, "encoder.patch_embed.proj.weight 7×7 → 3×3"),
    ],
)
def test_an_asked_for_patch_is_resampled_and_said(arch: str, patch: int, told: str) -> None:
    source = build(classifier_config(arch, (64, 64)))
    ours = build(classifier_config(arch, (32, 64), patch_size=patch), seed=9)
    meta = checkpoint.CheckpointMeta.for_model(source).to_dict()
    own = {"mae": meta, "state_dict": checkpoint.model_state(source)}
    for contents in (source.encoder.state_dict(), own):
        report = fill(ours, contents, "file.pth")
        assert told in report.resized and told in report.line
        old = {VIT: "4×4", "hiera_tiny_224": "16×16"}.get(arch)
        assert old is None or any(f"pos_embed {old} →" in item for item in report.resized)
    # Not asked for, another patch is another model; and the way back keeps its own size.
    with pytest.raises(CheckpointError, match="weight is") as caught:
        fill(classifier(arch), ours.encoder.state_dict(), "file.pth")
    assert "model.patch_size" in str(caught.value.hint)


# ---- heads ---------------------------------------------------------------------------------------


def own_file(model: Any, path: Path, classes: list[str] | None) -> Path:
    meta = checkpoint.CheckpointMeta.for_model(model, classes=classes)
    checkpoint.save({"state_dict": checkpoint.model_state(model), "mae": meta.to_dict()}, path)
    return path


@pytest.mark.parametrize("arch", SMALL)
def test_a_parents_head_moves_by_class_name(arch: str, tmp_path: Path) -> None:
    parent = build(classifier_config(arch, (SIDE, SIDE), num_classes=3))
    decomposed = unicodedata.normalize("NFD", "café")
    path = own_file(parent, tmp_path / "own.pth", ["ant", decomposed, "cow"])
    child = build_from_config(classifier_config(arch, (SIDE, SIDE), num_classes=3))
    before = {name: value.clone() for name, value in child.state_dict().items()}
    report = load_pretrained(child, path, classes=["café", "zebra", "ant"])
    for name in target_of(child).class_rows():
        new, old = child.state_dict()[name], parent.state_dict()[name]
        assert torch.equal(new[0], old[1]) and torch.equal(new[2], old[0])
        assert torch.equal(new[1], before[name][1])
    assert report.head == "2 of 3 classes by name; fresh: zebra" and report.head in report.line


@pytest.mark.parametrize("names", [None, ["x", "y", "z"]])
def test_a_head_of_other_or_unknown_classes_stays_fresh(
    names: list[str] | None, tmp_path: Path
) -> None:
    parent = classifier(num_classes=3)
    path = own_file(parent, tmp_path / "own.pth", names)
    child = build_from_config(classifier_config(VIT, (SIDE, SIDE), num_classes=3))
    before = child.encoder.head.weight.clone()
    report = load_pretrained(child, path, classes=["a", "b", "c"])
    assert torch.equal(child.encoder.head.weight, before)
    assert report.head.startswith("fresh: ") and ("file does not name" in report.warning) == (
        names is None
    )


def test_a_published_imagenet_head_has_a_known_order() -> None:
    from timm.data import ImageNetInfo

    order = ImageNetInfo("imagenet-1k").label_names()
    source = classifier(num_classes=1000)
    child = classifier(num_classes=2)
    wanted = [order[7], order[3]]
    report = fill(child, source.encoder.state_dict(), "file.pth", classes=wanted)
    assert torch.equal(child.encoder.head.weight, source.encoder.head.weight[[7, 3]])
    assert report.head.startswith("all 2 classes by name")


def test_a_head_is_not_taken_onto_other_features() -> None:
    state = classifier(global_pool=False).encoder.state_dict()
    report = fill(classifier(), state, "file.pth")
    assert "model.global_pool=false" in report.head and "encoder.head.weight" in report.missing


@pytest.mark.parametrize("names", [["road", "sky", "tree", "car", "sea"], list("01234")])
def test_a_segmenters_head_moves_by_class_name(names: list[str], tmp_path: Path) -> None:
    parent = build(segmenter_config(VIT, (SIDE, SIDE)))
    path = own_file(parent, tmp_path / "own.pth", names)
    child = build_from_config(segmenter_config(VIT, (SIDE, SIDE)))
    before = {name: value.clone() for name, value in child.state_dict().items()}
    wanted = [names[4], "new", names[0], names[1], names[2]]
    load_pretrained(child, path, classes=wanted)
    state, old = child.state_dict(), parent.state_dict()
    assert len(target_of(child).class_rows()) == 4
    for name in target_of(child).class_rows():
        assert torch.equal(state[name][1], before[name][1])
        named = names[0] == "road"  # numbers stand for mask values, not for classes
        assert torch.equal(state[name][0], old[name][4] if named else before[name][0])
    assert torch.equal(state["uper.fuse.0.weight"], old["uper.fuse.0.weight"])


def test_an_auxiliary_head_that_one_side_lacks_does_not_cost_the_rest() -> None:
    parent = build(segmenter_config(VIT, (SIDE, SIDE)))
    child = build_from_config(segmenter_config(VIT, (SIDE, SIDE), auxiliary_channels=0))
    report = fill(child, checkpoint.model_state(parent), "own.pth")
    assert report.missing == [] and all(name.startswith("auxiliary") for name in report.ignored)
    back = build_from_config(segmenter_config(VIT, (SIDE, SIDE)))
    report = fill(back, checkpoint.model_state(child), "own.pth")
    assert report.missing and all(name.startswith("auxiliary") for name in report.missing)


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused_by_name(
    value: float, peer: Any, tmp_path: Path
) -> None:
    state = {name: tensor.clone() for name, tensor in peer.state_dict().items()}
    state["blocks.3.mlp.fc1.bias"][5] = value
    model = classifier()
    before = model.encoder.blocks[0].norm1.weight.clone()
    with pytest.raises(CheckpointError, match="not finite") as caught:
        fill(model, state, "file.pth")
    assert caught.value.got == "blocks.3.mlp.fc1.bias"
    assert torch.equal(model.encoder.blocks[0].norm1.weight, before)
    own = classifier()
    with torch.no_grad():
        own.encoder.head.bias[0] = value
    with pytest.raises(CheckpointError, match="not finite") as caught:
        checkpoint.load_model(own_file(own, tmp_path / "own.pth", None))
    assert caught.value.got == "encoder.head.bias"


def test_a_part_of_a_model_is_told_by_what_is_not_there(peer: Any) -> None:
    state = dict(peer.state_dict())
    del state["patch_embed.proj.weight"]
    state = {f"model.encoder.{name}": value for name, value in state.items()}
    with pytest.raises(CheckpointError, match="holds a part of a model") as caught:
        fill(classifier(), state, "file.pth")
    assert "model.encoder.patch_embed.proj.weight is not there" in caught.value.message
    assert "take the whole file" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value * 0, "matrices of zeros"),
        (lambda value: value * 1e30, "weights as large as"),
        (lambda value: value * 1e6, "weights as large as"),
    ],
)
def test_a_matrix_that_no_training_leaves_is_refused_by_name_wherever_it_is_loaded(
    change: Callable[[Tensor], Tensor], said: str, peer: Any, tmp_path: Path
) -> None:
    from mae_runners.training.checkpointing import fill as resume

    entry = "blocks.3.mlp.fc1.weight"
    state = {name: tensor.clone() for name, tensor in peer.state_dict().items()}
    state[entry] = change(state[entry])
    own = classifier()
    with torch.no_grad():
        weight = own.encoder.blocks[3].mlp.fc1.weight
        weight.copy_(change(weight))
    saved = own_file(own, tmp_path / "own.pth", None)
    ways = {
        "train.pretrained_model_path": lambda: fill(classifier(), state, "file.pth"),
        "evaluate.checkpoint": lambda: load_described(saved, None, None, "evaluate.checkpoint"),
        "train.resume_training_checkpoint_path": lambda: resume(
            classifier(), {"state_dict": checkpoint.model_state(own)}
        ),
    }
    for field, load in ways.items():
        with pytest.raises(CheckpointError, match=said) as caught:
            load()
        assert str(caught.value.got).endswith(entry) and caught.value.field == field


def test_a_head_of_zeros_and_vectors_of_zeros_may_be_as_they_began() -> None:
    names = ("head.weight", "encoder.head.weight", "blocks.0.attn.rel_pos_h", "pos_embed")
    vectors = {"cls_token": torch.zeros(1, 1, 8), "grn.gamma": torch.zeros(1, 1, 1, 8)}
    checkpoint.check_values({name: torch.zeros(4, 8) for name in names} | vectors, "file.pth")
    with pytest.raises(CheckpointError, match="zeros"):
        checkpoint.check_values({"header.weight": torch.zeros(4, 8)}, "file.pth")


def test_a_run_is_not_resumed_from_values_that_are_no_numbers() -> None:
    from mae_runners.training.checkpointing import fill as resume

    model = classifier()
    state = {name: value.clone() for name, value in checkpoint.model_state(model).items()}
    state["model.encoder.cls_token"][0, 0, 3] = torch.nan
    with pytest.raises(CheckpointError, match="not finite") as caught:
        resume(model, {"state_dict": state})
    assert caught.value.got == "encoder.cls_token"


def test_quantized_and_sparse_weights_are_refused_by_name(peer: Any) -> None:
    for change in (lambda t: t.to(torch.int8), lambda t: t.to_sparse()):
        state = dict(peer.state_dict())
        state["blocks.1.attn.qkv.weight"] = change(state["blocks.1.attn.qkv.weight"])
        with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.weight"):
            fill(classifier(), state, "file.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_taken(dtype: torch.dtype, peer: Any) -> None:
    model = classifier()
    fill(model, {name: value.to(dtype) for name, value in peer.state_dict().items()}, "file.pth")
    weight = model.encoder.blocks[2].mlp.fc2.weight
    assert torch.equal(weight, peer.blocks[2].mlp.fc2.weight.to(dtype).float())


# ---- the line ------------------------------------------------------------------------------------


def test_one_line_says_what_was_taken_adapted_left_out_and_fresh() -> None:
    source = build(mae_config(VIT, (96, 96)))
    state = {name.removeprefix("encoder."): value for name, value in source.state_dict().items()}
    report = fill(classifier(), {"model": state}, "file.pth", classes=list("abcde"))
    backbone = 3 + 1 + 12 * 12
    assert report.summary() == (
        f"100.0% of the backbone ({backbone} entries, from model); "
        "adapted: encoder.pos_embed 6×6 → 4×4; "
        "left out: 34 entries: mask_token, decoder_pos_embed, norm.* (2), decoder_embed.* (2), "
        "decoder_blocks.* (24), decoder_norm.* (2), decoder_pred.* (2); "
        "fresh: encoder.fc_norm.bias, encoder.fc_norm.weight, encoder.head.bias, "
        "encoder.head.weight"
    )


# ---- evaluate, inference, export -----------------------------------------------------------------


def test_published_weights_are_run_as_the_spec_describes_them(tmp_path: Path) -> None:
    from mae_skill.spec import ExperimentSpec

    torch.manual_seed(2)
    peer = timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, img_size=SIDE, global_pool="avg"
    ).eval()
    disturb(peer.parameters())
    torch.save({"model": peer.state_dict()}, tmp_path / "published.pth")
    values: dict[str, Any] = {
        "model": {"arch": VIT, "num_classes": 3},
        "train": {"stage": "finetune"},
        "dataset": {"augmentation": {"input_size": SIDE}},
    }
    spec = ExperimentSpec.model_validate(values)
    model, meta, _ = load_described(tmp_path / "published.pth", None, spec, "evaluate.checkpoint")
    with torch.no_grad():
        assert relative(model(IMAGES), peer(IMAGES)) < 1e-5
    assert meta.stage == "finetune" and meta.num_classes == 3 and meta.input_size == [SIDE, SIDE]

    values["model"]["num_classes"] = 4
    with pytest.raises(CheckpointError, match="lacks a part") as caught:
        load_described(
            tmp_path / "published.pth",
            None,
            ExperimentSpec.model_validate(values),
            "evaluate.checkpoint",
        )
    assert caught.value.field == "evaluate.checkpoint"
    assert "it has 3 classes, the model 4" in caught.value.got

    values = {**values, "train": {"stage": "pretrain"}}
    torch.save(peer.state_dict(), tmp_path / "published.pth")
    with pytest.raises(CheckpointError, match="lacks a part"):  # its final norm is another one
        load_described(tmp_path / "published.pth", None, ExperimentSpec.model_validate(values), "x")


def test_a_config_of_timm_tells_the_activation(peer: Any, tmp_path: Path) -> None:
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_clip_quickgelu_224", "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quick_gelu"):
        load_pretrained(classifier(), tmp_path)
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_pretrained(classifier(), tmp_path).share == 1.0
