"""Pictures of reconstructions: which images, what they show, and under which names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.metrics.reconstruction import (
    AS_PREDICTED,
    TRUE_COLORS,
    Reconstructions,
    board,
    reconstruction_images,
    spread,
)
from mae_runners.models.masking import put_patches, take_patches

from tests.support.models import SMALL, build, inputs, mae_config

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def pictures(model: Any, images: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = reconstruction_images(model, images, noise, MEAN, STD)
    return {title: found.pixels[:, number] for number, title in enumerate(found.titles)}


@pytest.mark.parametrize("arch", SMALL)
def test_what_is_shown_as_predicted_owes_nothing_to_the_hidden_pixels(arch: str) -> None:
    model = build(mae_config(arch, (64, 96), norm_pix_loss=True)).eval()
    images, noise = inputs(model)
    images = images * 0.2
    mask = model.random_masking(noise)
    darker = take_patches(images, mask.hidden, model.unit) - 0.5
    changed = put_patches(images, mask.hidden, darker)

    before, after = pictures(model, images, noise), pictures(model, changed, noise)
    assert list(before) == ["original", "masked", AS_PREDICTED, TRUE_COLORS]
    assert torch.equal(before[AS_PREDICTED], after[AS_PREDICTED])
    assert torch.equal(before["masked"], after["masked"])
    assert not torch.allclose(before[TRUE_COLORS], after[TRUE_COLORS], atol=0.05)
    seen = take_patches(before[AS_PREDICTED], mask.visible, model.unit)
    assert torch.equal(seen, take_patches(before["original"], mask.visible, model.unit))


@pytest.mark.parametrize("arch", SMALL)
def test_without_normalized_pixels_there_is_one_painting(arch: str) -> None:
    model = build(mae_config(arch, (64, 96), norm_pix_loss=False)).eval()
    assert list(pictures(model, *inputs(model))) == ["original", "masked", AS_PREDICTED]


def test_the_images_are_spread_over_the_classes_of_a_sorted_archive() -> None:
    labels = np.repeat(np.arange(4), 100)
    chosen = spread(labels, seed=3)
    assert sorted(labels[chosen]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert chosen == spread(labels, seed=3) == sorted(set(chosen))
    assert chosen != spread(labels, seed=4)
    many = spread(np.repeat(np.arange(50), 10), seed=0)
    assert len({place // 10 for place in many}) == 8
    assert spread(np.full(3, -1), seed=0) == [0, 1, 2]
    unlabeled = spread(np.full(1000, -1), seed=0)
    assert len(unlabeled) == 8 and max(unlabeled) > 100  # not the first eight
    rare = np.array([0] * 999 + [1])
    assert 999 in spread(rare, seed=0)


def test_a_picture_holds_titles_names_and_the_images_themselves() -> None:
    pixels = torch.rand(2, 4, 3, 48, 32)
    titles = ["original", "masked", AS_PREDICTED, TRUE_COLORS]
    picture = board(Reconstructions(pixels, titles), ["cat/1.png", "x" * 400 + "/2.png"])
    height, width = 48 * 4, 32 * 4
    assert picture.dtype == np.uint8 and picture.shape[1] == 4 * (width + 2) - 2
    assert (picture[:16] < 128).any() and (picture[16:32] < 128).any()  # text, dark on white
    cell = picture[32 : 32 + height : 4, :width:4]
    expected = (pixels[0, 0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(cell, expected)
    plain = board(Reconstructions(pixels[:, :3], titles[:3]), ["a", "b"])
    assert plain.shape[0] < picture.shape[0]  # no explanation is needed there


def test_a_name_that_no_font_can_print_makes_a_picture_all_the_same() -> None:
    pixels = torch.rand(1, 3, 3, 32, 32)
    titles = ["original", "masked", AS_PREDICTED]
    for name in ("\x1b[31mred\udcff", "日本語.png", ""):
        assert board(Reconstructions(pixels, titles), [name]).shape[1] == 3 * (160 + 2) - 2
