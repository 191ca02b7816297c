"""``model.init``: how a network that is fine-tuned from nothing starts."""

from __future__ import annotations

import math

import pytest
import torch
from mae_runners.models import build_classifier, build_from_config, build_mae, build_segmenter
from mae_runners.models.position import sincos_2d

from tests.support.deploy import make_spec


def started(init: str, arch: str = "vit_tiny_patch16", **model: object) -> torch.nn.Module:
    spec = make_spec(
        model__arch=arch,
        model__init=init,
        model__num_classes=3,
        train__stage="finetune",
        **{f"model__{name}": value for name, value in model.items()},
    )
    torch.manual_seed(0)
    build = build_segmenter if model.get("task") == "segmentation" else build_classifier
    return build(spec.model, 32)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_xavier_is_the_start_of_the_mae_paper(task: str) -> None:
    encoder = started("xavier", patch_size=8, task=task).encoder

    assert torch.equal(encoder.pos_embed, sincos_2d(192, (4, 4), class_token=True))
    assert encoder.pos_embed.requires_grad
    weight = encoder.blocks[0].mlp.fc1.weight  # [768, 192], uniform
    bound = math.sqrt(6 / (768 + 192))
    assert 0.99 * bound < weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_the_usual_start_is_what_it_was() -> None:
    encoder = started("truncated", patch_size=8).encoder

    assert encoder.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert encoder.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_convolutions_start_by_what_they_sum(task: str) -> None:
    encoder = started("xavier", "convnextv2_atto", task=task).encoder

    block = encoder.stages[2].blocks[0]
    for weight, summed in (
        (encoder.stem[0].weight, 4 * 4 * 3),
        (encoder.stages[3].downsample[1].weight, 2 * 2 * 160),
        (block.conv_dw.weight, 7 * 7),
    ):
        assert weight.std().item() == pytest.approx(summed**-0.5, rel=0.05)
    bound = math.sqrt(6 / (640 + 160))
    for layer in (block.mlp.fc1, block.mlp.fc2):
        assert 0.99 * bound < layer.weight.abs().max().item() <= bound
        assert not layer.bias.any()


def test_the_usual_start_of_convolutions_is_what_it_was() -> None:
    block = started("truncated", "convnextv2_atto").encoder.stages[2].blocks[0]

    for weight in (block.conv_dw.weight, block.mlp.fc1.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("init", ["truncated", "xavier"])
@pytest.mark.parametrize("arch", ["vit_tiny_patch16", "convnextv2_atto"])
def test_a_new_head_starts_small_either_way(arch: str, init: str) -> None:
    assert started(init, arch).encoder.head_layer().weight.abs().max() < 1e-3


def test_hiera_has_one_start() -> None:
    one, other = (started(init, "hiera_tiny_224") for init in ("truncated", "xavier"))

    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_temperature_of_the_positions_is_that_of_both_tables_and_of_the_checkpoint() -> None:
    fields = {"model__patch_size": 8, "model__decoder_embed_dim": 64}
    spec = make_spec(model__arch="vit_tiny_patch16", model__position_temperature=20.0, **fields)
    model = build_mae(spec.model, spec.train, 32)
    for table, width in ((model.encoder.pos_embed, 192), (model.decoder_pos_embed, 64)):
        quarter = width // 4
        waves = [20.0 ** (-i / quarter) for i in range(quarter)]
        rows = [
            [
                f(at * w)
                for at in (place % 4, place // 4)
                for f in (math.sin, math.cos)
                for w in waves
            ]
            for place in range(16)
        ]
        mean = [sum(column) / 16 for column in zip(*rows, strict=True)]
        for place, row in enumerate(rows):
            wanted = [value - alike for value, alike in zip(row, mean, strict=True)]
            assert table[0, 1 + place].tolist() == pytest.approx(wanted, abs=1e-6)
        assert not table[0, 0].any()  # the class token has no place
        assert not table.requires_grad
    again = build_from_config(model.config)
    assert torch.equal(again.encoder.pos_embed, model.encoder.pos_embed)

    plain = make_spec(model__arch="vit_tiny_patch16", **fields)
    papers = build_mae(plain.model, plain.train, 32)
    assert "position_temperature" not in papers.config
    assert torch.equal(papers.encoder.pos_embed, sincos_2d(192, (4, 4), class_token=True))
