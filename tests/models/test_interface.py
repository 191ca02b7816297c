"""What training, evaluation and export ask of a model, for one architecture a family."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mae_runners.models import build_classifier, build_from_config, build_mae
from mae_runners.models.masking import (
    Mask,
    put_patches,
    random_masking,
    take_patches,
    visible_count,
)
from mae_skill.errors import SpecError

from tests.support.models import SMALL, build, classifier_config, inputs, mae_config, relative


def test_the_visible_count_is_the_papers_and_never_none_or_all() -> None:
    assert [visible_count(196, 0.75), visible_count(49, 0.6), visible_count(10, 0.9)] == [49, 19, 1]
    assert visible_count(4, 0.99) == 1 and visible_count(4, 0.01) == 3


def test_the_units_with_the_smallest_noise_stay_visible() -> None:
    mask = random_masking(torch.tensor([[0.3, 0.1, 0.9, 0.2], [0.5, 0.5, 0.5, 0.5]]), 0.5)
    assert mask.visible.tolist() == [[1, 3], [0, 1]]
    assert mask.hidden.tolist() == [[0, 2], [2, 3]]
    assert mask.hidden_map.tolist() == [[True, False, True, False], [False, False, True, True]]


def test_patches_put_back_give_the_image() -> None:
    images = torch.randn(2, 3, 64, 96)
    index = torch.stack([torch.randperm(24), torch.randperm(24)])
    assert torch.equal(
        put_patches(torch.zeros_like(images), index, take_patches(images, index, 16)), images
    )


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("norm_pix", [True, False])
def test_reconstruction_keeps_what_was_seen_and_has_the_contrast_of_what_was_not(
    arch: str, norm_pix: bool
) -> None:
    model = build(mae_config(arch, (64, 96), norm_pix_loss=norm_pix))
    images, noise = inputs(model)
    images = images * 0.01 + 3.0  # far from the statistics of a normalized patch
    mask = random_masking(noise, 0.6)
    with torch.no_grad():
        picture = model.reconstruct(images, noise)
    seen = take_patches(picture, mask.visible, model.unit)
    assert torch.equal(seen, take_patches(images, mask.visible, model.unit))
    unseen = take_patches(picture, mask.hidden, model.unit)
    assert not torch.equal(unseen, take_patches(images, mask.hidden, model.unit))
    if norm_pix:
        assert abs(unseen.mean().item() - 3.0) < 0.2


@pytest.mark.parametrize("arch", SMALL)
def test_a_perfect_prediction_reconstructs_the_image(arch: str) -> None:
    model = build(mae_config(arch, (64, 64)))
    images, noise = inputs(model)

    def oracle(latent: torch.Tensor, mask: Mask) -> torch.Tensor:
        target = model.patchify(images, model.hidden_patches(mask))
        mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        return (target - mean) / (variance + 1e-6).sqrt()

    model.forward_decoder = oracle
    with torch.no_grad():
        assert relative(model.reconstruct(images, noise), images) < 1e-5
        assert model(images, noise).loss < 1e-10


@pytest.mark.parametrize("arch", SMALL)
def test_encode_is_deterministic_and_pools_its_own_tokens(arch: str) -> None:
    model = build(mae_config(arch, (64, 96))).train()
    images, _ = inputs(model)
    with torch.no_grad():
        tokens, pooled = model.encode(images, pool=False), model.encode(images)
        assert torch.equal(pooled, model.encode(images))
    assert relative(tokens.mean(dim=1), pooled) < 1e-5


@pytest.mark.parametrize("arch", SMALL)
def test_every_trainable_parameter_of_pretraining_and_finetuning_gets_a_gradient(arch: str) -> None:
    model = build_from_config(mae_config(arch, (64, 96)))
    images, noise = inputs(model)
    model(images, noise).loss.backward()
    assert [
        name for name, p in model.named_parameters() if p.requires_grad and p.grad is None
    ] == []
    classifier = build_from_config(classifier_config(arch, (64, 96)))
    classifier(images).sum().backward()
    assert [name for name, p in classifier.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("arch", SMALL)
def test_gradient_checkpointing_changes_memory_not_numbers(arch: str) -> None:
    model = build(mae_config(arch, (64, 64))).train()
    images, noise = inputs(model)
    model(images, noise).loss.backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.set_grad_checkpointing(True)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (saved.append(t.numel()), t)[1], lambda t: t
    ):
        loss = model(images, noise).loss
    with_checkpoints = sum(saved)
    loss.backward()
    assert all(torch.equal(model.get_parameter(name).grad, grad) for name, grad in plain.items())
    model.set_grad_checkpointing(False)
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (saved.append(t.numel()), t)[1], lambda t: t
    ):
        model(images, noise)
    assert with_checkpoints < sum(saved)


@pytest.mark.parametrize("arch", SMALL)
def test_drop_path_acts_in_training_only(arch: str) -> None:
    model = build_from_config(classifier_config(arch, (64, 64), drop_path_rate=0.9))
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        model.train()
        features = [model.encoder.forward_features(images) for _ in range(2)]
        assert not torch.equal(*features)
        model.eval()
        assert torch.equal(model(images), model(images))


def test_a_fresh_head_is_nearly_zero() -> None:
    for arch in SMALL:
        head = build_from_config(classifier_config(arch, (64, 64))).encoder.head_layer()
        assert 0 < head.weight.abs().max() < 1e-4 and head.bias.abs().max() == 0


def test_layer_ids_follow_the_published_rules() -> None:
    ids = build_from_config(classifier_config("vit_tiny_patch16", (64, 64))).layer_ids()
    assert ids["encoder.pos_embed"] == (0, 13) and ids["encoder.blocks.11.norm1.weight"] == (12, 13)
    assert ids["encoder.head.weight"] == ids["encoder.fc_norm.weight"] == (13, 13)
    ids = build_from_config(classifier_config("hiera_tiny_224", (64, 64))).layer_ids()
    assert ids["encoder.blocks.0.attn.qkv.weight"] == (1, 13) and ids[
        "encoder.head.norm.weight"
    ] == (13, 13)
    ids = build_from_config(
        classifier_config("convnextv2_atto", (64, 64))
    ).layer_ids()  # one id a block: 2 + 2 + 6 + 2
    assert ids["encoder.stem.0.weight"] == (1, 13) and ids[
        "encoder.stages.2.blocks.5.norm.weight"
    ] == (10, 13)
    assert ids["encoder.stages.3.downsample.1.weight"] == (11, 13)
    with torch.device("meta"):
        encoder = build_from_config(classifier_config("convnextv2_base", (64, 64))).encoder
    names = (
        "stem.0.weight",
        "stages.0.blocks.2.x",
        "stages.1.downsample.1.x",
        "stages.2.blocks.0.x",
        "stages.2.blocks.26.x",
    )
    assert [encoder.layer_id(name)[0] for name in names] == [0, 1, 2, 3, 11]
    assert encoder.layer_id("stages.2.downsample.0.x") == (3, 13) and encoder.layer_id(
        "stages.3.blocks.1.x"
    ) == (12, 13)
    assert encoder.layer_id("head.fc.weight") == (13, 13)


@pytest.mark.parametrize("arch", SMALL)
def test_no_weight_decay_spares_norms_biases_tokens_and_nothing_else(arch: str) -> None:
    model = build_from_config(mae_config(arch, (64, 64)))
    spared = model.no_weight_decay()
    assert "mask_token" in spared
    for name, parameter in model.named_parameters():
        token = name.rsplit(".", 1)[-1] in (
            "pos_embed",
            "cls_token",
            "mask_token",
            "decoder_pos_embed",
        )
        assert (name in spared) == (parameter.ndim <= 1 or token), name


def test_freeze_stops_what_it_names_and_refuses_what_is_not_there() -> None:
    model = build_from_config(classifier_config("vit_tiny_patch16", (64, 64)))
    frozen = model.freeze(["patch_embed", "encoder.blocks.0"])
    assert "encoder.patch_embed.proj.weight" in frozen and "encoder.blocks.0.mlp.fc1.bias" in frozen
    assert not any(name.startswith("encoder.blocks.1") for name in frozen)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == set(frozen)
    with pytest.raises(SpecError) as caught:
        model.freeze(["patch_embd"])
    assert caught.value.field == "train.freeze" and "patch_embed" in (caught.value.hint or "")
    model.freeze(["encoder"])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "encoder.head.weight",
        "encoder.head.bias",
    }
    with pytest.raises(SpecError, match="every parameter"):
        model.freeze(["encoder", "head"])


def test_pyramids_have_four_levels_of_the_families_strides() -> None:
    images = torch.randn(1, 3, 64, 96)
    for arch, sides in (
        (SMALL[0], [16] * 4),
        (SMALL[1], [4, 8, 16, 32]),
        (SMALL[2], [4, 8, 16, 32]),
    ):
        maps = build_from_config(classifier_config(arch, (64, 96))).encoder.pyramid(images)
        assert [tuple(level.shape[2:]) for level in maps] == [
            (64 // side, 96 // side) for side in sides
        ], arch


def test_global_pool_decides_which_tokens_a_vit_classifies() -> None:
    torch.manual_seed(0)
    for pool in (True, False):
        model = build(classifier_config("vit_tiny_patch16", (64, 64), global_pool=pool))
        seen: list[torch.Tensor] = []
        model.encoder.head.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        )
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            model(images)
            tokens = model.encoder.forward_features(images)
            expected = model.encoder.fc_norm(tokens[:, 1:].mean(1)) if pool else tokens[:, 0]
        assert relative(seen[0], expected) < 1e-5


def spec(**changes: object) -> SimpleNamespace:
    base = {
        "arch": "vit_tiny_patch16",
        "num_classes": 5,
        "drop_path_rate": 0.1,
        "global_pool": True,
        "decoder_depth": 1,
        "decoder_embed_dim": 512,
        "init": "truncated",
    }
    shape = {
        "decoder_num_heads": None,
        "decoder_mlp_ratio": 4.0,
        "embed_dim": None,
        "depth": None,
        "num_heads": None,
        "mlp_ratio": None,
    }
    return SimpleNamespace(**{**base, **shape, **changes})


TRAIN = SimpleNamespace(mask_ratio=0.75, norm_pix_loss=True)


def test_every_shape_field_of_the_spec_reaches_the_model() -> None:
    model = build_mae(
        spec(decoder_depth=3, decoder_embed_dim=96, decoder_num_heads=6, decoder_mlp_ratio=2.0),
        TRAIN,
        [48, 80],
    )
    assert len(model.decoder_blocks) == 3 and model.decoder_blocks[0].attn.num_heads == 6
    assert tuple(model.decoder_blocks[0].mlp.fc1.weight.shape) == (192, 96)
    model = build_classifier(spec(embed_dim=64, depth=2, num_heads=4, mlp_ratio=3.0), 48)
    assert len(model.encoder.blocks) == 2 and tuple(
        model.encoder.blocks[0].mlp.fc1.weight.shape
    ) == (192, 64)
    assert build_mae(spec(decoder_embed_dim=40), TRAIN, 48).decoder_blocks[0].attn.num_heads == 10


@pytest.mark.parametrize(
    ("changes", "size", "field"),
    [
        ({}, 100, "dataset.augmentation.input_size"),
        ({"arch": "hiera_tiny_224"}, [64, 48], "dataset.augmentation.input_size"),
        ({"arch": "convnextv2_atto"}, 32, "dataset.augmentation.input_size"),
        ({"decoder_embed_dim": 100, "decoder_num_heads": 16}, 64, "model.decoder_embed_dim"),
        ({"embed_dim": 100}, 64, "model.embed_dim"),
        ({"arch": "hiera_tiny_224", "depth": 3}, 64, "model.depth"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_field(
    changes: dict[str, object], size: object, field: str
) -> None:
    with pytest.raises(SpecError) as caught:
        build_mae(spec(**changes), TRAIN, size)
    assert (caught.value.field == field and caught.value.expected) or caught.value.hint
