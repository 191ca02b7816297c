"""Focal and Dice losses, beside a computation by hand and two libraries."""

from __future__ import annotations

import pytest
import torch
from mae_runners.tasks.losses import PixelLoss, class_loss, dice_loss, pixel_loss
from mae_sdk import Skill
from mae_skill.errors import SpecError
from torch.nn import functional as F
from torchmetrics.functional.segmentation import dice_score
from torchvision.ops import sigmoid_focal_loss


def scene(classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and masks of three images: of all classes, of two with pixels unlabeled, of none."""
    torch.manual_seed(0)
    logits = torch.randn(3, classes, 6, 5)
    masks = torch.randint(0, classes, (3, 6, 5))
    masks[1] = masks[1] % 2
    masks[1, :2], masks[2] = 255, 255
    return logits, masks


def test_the_dice_loss_is_the_one_computed_class_by_class() -> None:
    logits, masks = scene()
    shares, losses = logits.softmax(dim=1), []
    for share, mask in zip(shares, masks, strict=True):
        scores = []
        for name in sorted({*mask[mask != 255].tolist()}):
            truth = (mask == name).float()
            area = share[name][mask != 255].sum() + truth.sum()
            scores.append(2 * (share[name] * truth).sum() / area)
        losses.append(1 - torch.stack(scores).mean() if scores else torch.tensor(0.0))
    assert float(dice_loss(logits, masks, 255)) == pytest.approx(float(sum(losses) / 3))


def test_the_dice_loss_of_certain_answers_is_torchmetrics_score() -> None:
    torch.manual_seed(1)
    said, masks = torch.randint(0, 3, (2, 8, 8)), torch.randint(0, 3, (2, 8, 8))
    logits = 1e3 * F.one_hot(said, 3).movedim(-1, 1).float()
    score = dice_score(said, masks, num_classes=3, average="macro", input_format="index")
    assert float(dice_loss(logits, masks, 255)) == pytest.approx(1 - float(score.mean()))


def test_the_focal_loss_is_by_hand_and_torchvisions_for_two_classes() -> None:
    logits, masks = scene()
    p = logits.softmax(dim=1)
    by_hand = sum(
        float(-((1 - p[b, masks[b, y, x], y, x]) ** 2) * p[b, masks[b, y, x], y, x].log())
        for b, y, x in (masks != 255).nonzero().tolist()
    )
    assert float(pixel_loss(logits, masks, 255, 2.0)) == pytest.approx(by_hand / masks.numel())
    assert float(pixel_loss(logits, masks, 255, 0.0)) == pytest.approx(
        float(F.cross_entropy(logits, masks, ignore_index=255, reduction="sum")) / masks.numel()
    )

    # Two classes: the difference of their logits is that of a sigmoid.
    two, labels = torch.randn(9, 2), torch.randint(0, 2, (9,))
    theirs = sigmoid_focal_loss(
        two[:, 1] - two[:, 0], labels.float(), alpha=-1, gamma=1.5, reduction="mean"
    )
    ours = class_loss(two, F.one_hot(labels, 2).float(), gamma=1.5)
    assert float(ours) == pytest.approx(float(theirs))
    weights = torch.tensor([1.0, 3.0])
    plain = F.cross_entropy(two, labels, reduction="none") * weights[labels]
    assert float(class_loss(two, F.one_hot(labels, 2).float(), weights)) == pytest.approx(
        float(plain.mean())
    )


def test_weights_of_classes_are_those_of_torchs_cross_entropy_pixel_by_pixel() -> None:
    logits, masks = scene()
    weights = torch.tensor([1.0, 0.0, 3.0, 0.5])
    each = F.cross_entropy(logits, masks, weight=weights, ignore_index=255, reduction="none")
    assert torch.equal(
        pixel_loss(logits, masks, 255, weights=weights),
        F.cross_entropy(logits, masks, weight=weights, ignore_index=255, reduction="sum")
        / masks.numel(),
    )
    assert float(each.mean()) == pytest.approx(
        float(pixel_loss(logits, masks, 255, weights=weights))
    )

    p = (-F.cross_entropy(logits, masks, ignore_index=255, reduction="none")).exp()
    assert float(pixel_loss(logits, masks, 255, 2.0, weights)) == pytest.approx(
        float(((1 - p) ** 2 * each).mean())
    )
    both = PixelLoss(255, weights=weights, auxiliary_weight=0.4, dice_weight=0.5)
    parts = pixel_loss(logits, masks, 255, weights=weights) + 0.5 * dice_loss(logits, masks, 255)
    assert float(both((logits, logits), masks)) == pytest.approx(1.4 * float(parts))


@pytest.mark.parametrize("loss", [PixelLoss(255, "dice"), PixelLoss(255, "focal", 0.5, 1.0)])
def test_what_an_image_adds_does_not_depend_on_its_batch_and_no_gradient_is_lost(
    loss: PixelLoss,
) -> None:
    logits, masks = scene()
    logits[0, :, 0, 0] = torch.tensor([200.0, 0.0, 0.0, 0.0])
    masks[0, 0, 0] = 0  # certain and right
    logits.requires_grad_()
    whole = loss.of(logits, masks)
    parts = [loss.of(logits[i : i + 1], masks[i : i + 1]) for i in range(3)]
    assert float(whole.detach()) == pytest.approx(float(sum(parts).detach()) / 3)  # type: ignore[union-attr]
    whole.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert not logits.grad[2].any() and logits.grad[0].any()


def test_a_classifier_with_the_dice_loss_is_an_error_of_the_plan() -> None:
    settings = {"train.stage": "finetune", "train.loss": "dice"}
    with pytest.raises(SpecError) as caught:
        Skill().plan("train", spec_overrides=settings, automl_policy="off")
    assert "Dice loss is for segmentation alone" in str(caught.value)
