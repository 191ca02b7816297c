"""The pictures of a report are the images and what the model made of them, pixel for pixel."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.actions.evaluate import gradient_tiles
from mae_runners.metrics.feature_map import principal_axes, show_features
from mae_runners.metrics.gallery import ACROSS, LABELED_SIDE, MAX_EPOCHS, Gallery, labeled_sheet
from mae_runners.metrics.notable import Notable
from mae_runners.metrics.reconstruction import (
    HEAT,
    LOSS,
    reconstruction_images,
    show_reconstructions,
    with_losses,
)
from mae_runners.metrics.saliency import gradient_map
from mae_runners.models.masking import take_patches
from mae_sdk.job import Job
from mae_sdk.report.facts import facts_of
from mae_sdk.report.gallery import Gallery as Shown
from PIL import Image

from tests.support.models import SMALL, build, inputs, mae_config
from tests.support.reports import HOSTILE, json_of, read_page, write_job

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
NAMES = [f"{HOSTILE}/a.png", "b/\udcff.png"]


def reconstructed(folder: Path, model: Any, images: torch.Tensor, noise: torch.Tensor) -> Any:
    """Reconstructions written by the runner and read back by the report: uint8 ``[B, K, H, W,
    3]``, and the titles."""
    with torch.no_grad():
        found = reconstruction_images(model, images, noise, MEAN, STD)
        shown, top = with_losses(found, model.patch_losses(images, noise))
    gallery = Gallery(folder / "train")
    show_reconstructions(gallery, shown, NAMES, top, 0)
    gallery.save()
    reader = Shown(facts_of(Job(folder)))
    tiles = reader.tiles(reader.sheets("reconstruction")[-1])
    return np.array([[pixels_of(uri) for uri in row] for row in tiles]), shown.titles


def pixels_of(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.mark.parametrize("arch", SMALL)
def test_visible_patches_are_the_originals_pixels_in_every_painting(
    arch: str, tmp_path: Path
) -> None:
    model = build(mae_config(arch, (64, 96), norm_pix_loss=True)).eval()
    images, noise = inputs(model)
    images = images * 0.3
    folder = write_job(tmp_path, "train-1", result={"kpis": {}})
    tiles, titles = reconstructed(folder, model, images[:2], noise[:2])

    mask = model.random_masking(noise[:2])
    cut = {
        title: take_patches(
            torch.from_numpy(tiles[:, place].copy()).permute(0, 3, 1, 2), mask.visible, model.unit
        )
        for place, title in enumerate(titles)
    }
    for title in titles:
        if title != LOSS:
            assert torch.equal(cut[title], cut["original"]), title
    page = read_page(Job(folder).report().path)
    assert [a["alt"] for a in page.all("img")][: len(titles)] == [
        f"{title}: {HOSTILE}/a.png" for title in titles
    ]
    assert page.all("script") == [] and "b/\\xff.png" in page.text


def test_with_almost_nothing_hidden_the_picture_is_the_original(tmp_path: Path) -> None:
    config = mae_config("vit_tiny_patch16", (64, 96), norm_pix_loss=False)
    model = build({**config, "mask_ratio": 0.01}).eval()
    images, noise = inputs(model)
    hidden = int(model.random_masking(noise).hidden.shape[1])
    folder = write_job(tmp_path, "train-1", result={"kpis": {}})
    tiles, titles = reconstructed(folder, model, images[:2] * 0.3, noise[:2])
    original, predicted = (tiles[:, titles.index(name)] for name in ("original", "as predicted"))
    differing = (original != predicted).any(axis=-1).mean()
    assert hidden <= 1 and differing <= hidden * 16 * 16 / (64 * 96)


@pytest.mark.parametrize("arch", SMALL)
def test_the_losses_of_the_patches_are_the_loss_of_the_batch(arch: str) -> None:
    model = build(mae_config(arch, (64, 96), norm_pix_loss=True)).eval()
    images, noise = inputs(model)
    with torch.no_grad():
        losses, loss = model.patch_losses(images, noise), model(images, noise).loss
    hidden = model.random_masking(noise).hidden_map.view(len(images), -1)
    assert losses.isnan().sum() == (~hidden).sum() * model.unit**2
    torch.testing.assert_close(losses.nanmean(), loss)


class Source:
    """Two classes of flat images."""

    def __init__(self, count: int) -> None:
        self.source = SimpleNamespace(members=[f"{HOSTILE}/{i}.png" for i in range(count)])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {"image": torch.full((3, 8, 8), key[1], dtype=torch.uint8), "valid": True}


def test_the_surest_mistakes_and_the_closest_calls_are_shown(tmp_path: Path) -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 1.0], [0.1, 0.0], [0.0, 5.0]])
    labels = torch.tensor([1, 0, 0, 1])
    notable = Notable()
    notable.add(logits[:2], labels[:2], torch.tensor([0, 1]))
    notable.add(logits[2:], labels[2:], torch.tensor([2, 3]))
    assert [one.place for one in notable.mistakes] == [0, 1]
    assert [one.place for one in notable.uncertain][:2] == [2, 1]

    folder = write_job(tmp_path, "evaluate-1", "evaluate", result={"kpis": {}})
    gallery = Gallery(folder / "evaluate")
    notable.show(gallery, Source(4), [HOSTILE, "dog"])
    gallery.save()
    page = read_page(Job(folder).report().path)
    assert f"{HOSTILE} (100 %) is dog (0 %)" in page.text and page.all("script") == []
    assert "Least certain images" in page.text


def test_the_surest_mistakes_of_a_model_of_one_answer_are_told_to_be_no_worse_than_others(
    tmp_path: Path,
) -> None:
    for name, first in (("alike", 1.0), ("sure", 9.0)):
        notable, gallery = Notable(), Gallery(tmp_path / name)
        logits = torch.tensor([[first, 0.0], [1.001, 0.0], [0.999, 0.0]])
        notable.add(logits, torch.tensor([1, 0, 1]), torch.arange(3))
        notable.show(gallery, Source(3), ["cat", "dog"])
        notes = {sheet["kind"]: sheet["note"] for sheet in gallery.index["sheets"]}
        alike = "these are no worse than others"
        assert [alike in notes[kind] for kind in ("mistakes", "uncertain")] == 2 * [name == "alike"]


def test_a_map_and_neighbors_come_from_the_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = torch.arange(40) % 2
    features = torch.randn(40, 6) * 0.1 + labels[:, None] * torch.tensor([5.0, 0, 0, 0, 0, 0])
    places, share = principal_axes(features)
    assert (share > 0.9 and (places[labels == 0, 0].max() - places[labels == 1, 0].min()) < 0) or (
        places[labels == 1, 0].max() - places[labels == 0, 0].min()
    ) < 0

    folder = write_job(tmp_path, "train-1", result={"kpis": {}})
    gallery = Gallery(folder / "train")
    told = (gallery, features, labels, range(40), ["cat", "dog"], Source(40), 0)
    show_features(*told, umap=False, epoch=6)
    gallery.save()
    page = read_page(Job(folder).report().path)
    assert "5 of 5 are of its class" in page.text and "Map of features of epoch 6" in page.text
    assert "Nearest neighbors of epoch 6" in page.text
    dots = [a for a in page.all("circle") if "dot" in a.get("class", "")]
    assert len(dots) == 40 and {a["class"] for a in dots} == {"dot f0", "dot f1"}


def test_a_folder_of_pictures_stays_small_over_many_epochs(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    tile = np.zeros((400, 300, 3), np.uint8)
    for epoch in range(60):
        gallery.add("progress", [[tile]], [{"name": "a"}], epoch=epoch, over_epochs=True)
    gallery.save()
    index = json_of(tmp_path / "pictures/gallery.json")
    epochs = [sheet["epoch"] for sheet in index["sheets"]]
    assert epochs[0] == 0 and epochs[-1] == 59 and len(epochs) <= MAX_EPOCHS
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(epochs)
    assert index["sheets"][0]["tile"] == [192, 144]


def test_a_gradient_map_is_bright_where_the_class_is_decided() -> None:
    weights = torch.zeros(2, 3, 16, 16)
    weights[1, :, 4:8, 10:14] = 1.0

    def model(images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,kchw->bk", images, weights)

    found = gradient_map(model, torch.rand(3, 16, 16), 1)
    assert found[5:7, 11:13].min() == 1.0 and found[:3].max() == 0.0 and found[9:].max() == 0.0
    assert gradient_map(model, torch.rand(3, 16, 16), 0).max() == 0.0


def test_a_gradient_map_stands_alone_with_a_scale_and_bright_pixels_are_not_important(
    tmp_path: Path,
) -> None:
    strength = torch.zeros(1, 8, 8)
    strength[0, 2:4, 2:4] = 1.0
    bright = np.full((8, 8, 3), 255, np.uint8)
    alone, over = gradient_tiles(bright, strength[0])
    important, other = (2, 2), (6, 6)
    for tile in (alone, over):
        assert tile[important].tolist() == HEAT[-1]
    assert alone[other].tolist() == HEAT[0]
    assert over[other].max() <= 128, "a bright pixel without influence stays dark"

    folder = write_job(tmp_path, "evaluate-1", "evaluate", result={"kpis": {}})
    gallery = Gallery(folder / "evaluate")
    scale = {"colors": HEAT, "low": "no influence", "high": "the most"}
    columns = ["image", "gradient of the answer", "over the image"]
    gallery.add("attention", [[bright, alone, over]], [{"name": "a"}], columns, scale=scale)
    gallery.save()
    page = read_page(Job(folder).report().path)
    assert "no influence the most" in page.text and len(page.all("img")) == 3
    assert "linear-gradient(90deg, #0c0826" in page.html


def test_a_sheet_with_words_has_every_picture_whole_and_its_words_below_it() -> None:
    tiles = [np.full((32, 32, 3), 40 + number, np.uint8) for number in range(ACROSS + 1)]
    about = [{"name": f"{number}.png", "lines": ["a (50 %)"]} for number in range(len(tiles))]
    about[0] = {"name": "/long/" * 90, "lines": ["\udcff" * 90, "then b"]}
    sheet = labeled_sheet(tiles, about)
    rows, columns = np.where((sheet == 40 + ACROSS).all(axis=2))
    assert len(rows) >= LABELED_SIDE**2, "the last is in a second row, repeated to the least side"
    assert columns.min() == 0 and rows.min() > LABELED_SIDE
    below = sheet[LABELED_SIDE : rows.min()]
    assert (below < 100).any() and (below == 255).any()
    gap = below[:, LABELED_SIDE : LABELED_SIDE + 8]
    assert (gap == 255).all(), "long words end before the next picture"
