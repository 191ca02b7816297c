"""Loss, figures and windows: against independent libraries, and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mae_runners.metrics.colors import board, overlay, paint, palette, write_labels
from mae_runners.metrics.confusion import count_pairs
from mae_runners.metrics.iou import iou_metrics, write_table
from mae_runners.metrics.windows import (
    classify_pixels,
    covering_size,
    default_stride,
    fitted_size,
    slide,
    starts,
    whole,
)
from mae_runners.tasks.losses import PixelLoss, pixel_loss
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)


def toy_model(images: Tensor) -> Tensor:
    """Three logits a pixel that see their neighbors: blurred channels."""
    x = images.float() / 255
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1) * torch.tensor(
        [1.0, -2.0, 3.0]
    ).view(1, 3, 1, 1)


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(
        0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_those_of_scikit_learn_summed_over_images(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    total, truths, guesses = torch.zeros(7, 7, dtype=torch.float64), [], []
    for size in ((5, 9), (40, 30), (1, 1)):
        truth = torch.randint(
            0, 6, size, generator=generator
        )  # class 6 occurs in predictions alone
        truth[torch.rand(size, generator=generator) < 0.2] = 255
        guess = torch.where(
            torch.rand(size, generator=generator) < 0.5,
            truth,
            torch.randint(0, 7, size, generator=generator),
        ).clamp(max=6)
        total += count_pairs(truth, guess, 7, 255)
        kept = truth != 255
        truths.append(truth[kept].numpy())
        guesses.append(guess[kept].numpy())
    y, p = np.concatenate(truths), np.concatenate(guesses)
    assert np.array_equal(total.numpy(), confusion_matrix(y, p, labels=range(7)))
    found = iou_metrics(total)
    assert found["mIoU"] == pytest.approx(
        jaccard_score(y, p, average="macro", labels=np.union1d(y, p))
    )
    assert [iou for iou in found["iou"] if iou is not None] == pytest.approx(
        list(jaccard_score(y, p, average=None))
    )
    assert found["aAcc"] == pytest.approx(accuracy_score(y, p))
    assert found["mAcc"] == pytest.approx(balanced_accuracy_score(y, p))


def test_a_class_that_occurs_nowhere_has_no_figure_and_no_part_in_the_mean(tmp_path: Path) -> None:
    found = iou_metrics(
        count_pairs(torch.tensor([0, 0, 1, 255]), torch.tensor([0, 1, 1, 2]), 4, 255)
    )
    assert found["iou"] == [0.5, 0.5, None, None] and found["mIoU"] == 0.5, (
        "the guess on an ignored pixel counts nowhere"
    )
    assert found["accuracy"] == [0.5, 1.0, None, None] and found["pixels"] == [2, 1, 0, 0]
    lines = write_table(found, ["a", "b", "c", "d"], tmp_path / "t.csv").read_text().splitlines()
    assert lines[1] == "a,0.500000,0.500000,2" and lines[3] == "c,,,0"
    assert iou_metrics(np.zeros((2, 2)))["mIoU"] == 0.0


def test_the_loss_sums_labeled_pixels_over_all_of_them_and_the_second_weighs_four_tenths() -> None:
    logits, extra = torch.randn(2, 4, 5, 6, requires_grad=True), torch.randn(2, 4, 5, 6)
    masks = torch.randint(0, 4, (2, 5, 6))
    masks[0, :3] = 255
    kept = masks != 255
    wanted = (
        -torch.log_softmax(logits, 1).gather(1, masks.clamp(max=3)[:, None])[:, 0][kept].sum() / 60
    )
    second = (
        -torch.log_softmax(extra, 1).gather(1, masks.clamp(max=3)[:, None])[:, 0][kept].sum() / 60
    )
    assert torch.allclose(pixel_loss(logits, masks.to(torch.uint8), 255), wanted)
    loss = PixelLoss(255, auxiliary_weight=0.4)((logits, extra), masks)
    assert torch.allclose(loss, wanted + 0.4 * second)
    halves = [pixel_loss(logits[i : i + 1], masks[i : i + 1], 255) for i in range(2)]
    assert torch.allclose(sum(halves) / 2, wanted), "a batch in two parts"
    nothing = pixel_loss(logits, torch.full_like(masks, 255), 255)
    nothing.backward()
    assert float(nothing.detach()) == 0.0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 96)])
def test_a_window_that_covers_the_image_gives_what_the_whole_gives(height: int, width: int) -> None:
    image = photo(height, width)
    one = slide(toy_model, image, (32, 48), (10, 20), batch=2)
    assert torch.equal(one, whole(toy_model, [image], (32, 48), MEAN)[0])


def test_overlapping_logits_are_averaged() -> None:
    image = photo(8, 20)

    def by_window(windows: Tensor) -> Tensor:  # every window answers with its own first red value
        return windows[:, :1, :1, :1].float().expand(-1, 2, 8, 8)

    logits = slide(by_window, image, (8, 8), (8, 5), batch=3)
    corners = starts(20, 8, 5)
    assert corners == [0, 5, 10, 12]
    for x in range(20):
        values = [float(image[0, 0, c]) for c in corners if c <= x < c + 8]
        assert torch.allclose(logits[:, :, x], torch.tensor(sum(values) / len(values)))


def test_every_pixel_lies_in_a_window() -> None:
    for length in range(1, 40):
        for stride in range(1, 9):
            hits = np.zeros(max(length, 8))
            for start in starts(length, 8, stride):
                hits[start : start + 8] += 1
            assert hits.min() >= 1 and len(hits) == max(length, 8)
    assert default_stride((96, 48), None) == (64, 32) and default_stride((96, 48), 60) == (60, 48)


def test_a_image_is_fitted_with_its_shape_and_the_rest_is_the_mean_color() -> None:
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch)
        return toy_model(batch)

    wide, tall = photo(20, 80, 1), photo(64, 16, 2)
    logits = whole(model, [wide, tall], (32, 32), MEAN)
    assert (
        [tuple(x.shape) for x in logits]
        == [(3, 8, 32), (3, 32, 8)]
        == [(3, *fitted_size((20, 80), (32, 32))), (3, 32, 8)]
    )
    assert seen[0].shape == (2, 3, 32, 32)
    assert seen[0][0, :, 8:].flatten(1).unique(dim=1).flatten().tolist() == [124, 116, 104]
    assert covering_size((20, 80), (32, 32)) == (32, 128)


@pytest.mark.parametrize("classes", [3, 40])
def test_reading_off_in_parts_is_reading_off_at_once(classes: int) -> None:
    logits = torch.randn(classes, 6, 7)
    mask = torch.randint(0, classes, (17, 23))
    mask[:4] = 255
    labels, loss, count = classify_pixels(logits, (17, 23), mask)
    full = F.interpolate(logits[None], size=(17, 23), mode="bilinear", align_corners=False)
    assert torch.equal(labels.long(), full[0].argmax(0)) and count == 13 * 23
    assert loss == pytest.approx(
        float(F.cross_entropy(full, mask[None], ignore_index=255, reduction="sum")), rel=1e-5
    )


def test_colors_differ_and_what_is_no_class_is_black(tmp_path: Path) -> None:
    colors = palette(150)
    assert len({tuple(color) for color in colors.tolist()}) == 150 and colors.any(axis=1).all()
    labels = np.array([[0, 1], [149, 255]])
    painted = paint(labels, colors)
    assert painted[1, 1].tolist() == [0, 0, 0] and np.array_equal(painted[1, 0], colors[149])
    assert overlay(
        np.full((1, 1, 3), 100, np.uint8), np.full((1, 1, 3), 200, np.uint8)
    ).tolist() == [[[150, 150, 150]]]
    for top in (149, 300):
        again = np.asarray(Image.open(write_labels(np.array([[0, top]]), tmp_path / f"{top}.png")))
        assert again.tolist() == [[0, top]]
    assert board([[painted, painted], [painted]], side=10).shape == (22, 22, 3)
