"""The losses of fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def class_loss(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Cross-entropy with soft targets, the mean over images; with ``gamma`` the focal loss.

    Args:
        logits: ``[B, C]``.
        targets: probabilities ``[B, C]``.
        weights: of the classes, ``[C]``.
        gamma: exponent of 1 - p (Lin et al., arXiv 1708.02002), of each class by its own p.
    """
    logits = logits.float()
    if not gamma:
        return F.cross_entropy(logits, targets, weight=weights)
    logs = logits.log_softmax(dim=1)
    each = -targets * others(logs.exp()) ** gamma * logs
    return (each if weights is None else each * weights).sum(dim=1).mean()


def label_loss(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Binary cross-entropy of each class, the mean over images and classes; with ``gamma`` the
    focal loss.

    Args:
        logits: ``[B, C]``.
        targets: of each class a probability, ``[B, C]``.
        weights: of the images that a class has, ``[C]``.
        gamma: exponent of 1 - p, p the probability of the truth (arXiv 1708.02002).
    """
    logits = logits.float()
    each = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none")
    if gamma:
        p = logits.sigmoid()
        each = each * others(p * targets + (1 - p) * (1 - targets)) ** gamma
    return each.mean()


def others(probabilities: Tensor) -> Tensor:
    """1 - p, a little above 0: a power below 1 has no gradient there."""
    return (1 - probabilities).clamp(min=1e-6)


@dataclass(frozen=True)
class PixelLoss:
    """The loss of a segmenter's logits.

    Attributes:
        ignore_index: label of pixels that do not count.
        kind: ``cross_entropy``, ``focal`` or ``dice``.
        gamma: of the focal loss.
        dice_weight: adds this × the Dice loss to the others.
        auxiliary_weight: of the loss of the auxiliary head, if there is one.
        weights: of the classes, ``[C]``, in cross-entropy and focal loss; None = all alike.
    """

    ignore_index: int
    kind: str = "cross_entropy"
    gamma: float = 2.0
    dice_weight: float = 0.0
    auxiliary_weight: float = 0.4
    weights: Tensor | None = None

    def __call__(self, outputs: Sequence[Tensor], masks: Tensor) -> Tensor:
        """The loss of the head, plus that of the auxiliary head.

        Args:
            outputs: logits ``[B, C, H, W]`` of the head and of the auxiliary head.
            masks: ``[B, H, W]`` class of each pixel, or ``ignore_index``.
        """
        loss = self.of(outputs[0], masks)
        for extra in outputs[1:]:
            loss = loss + self.auxiliary_weight * self.of(extra, masks)
        return loss

    def of(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss of one head."""
        if self.kind == "dice":
            return dice_loss(logits, masks, self.ignore_index)
        gamma = self.gamma if self.kind == "focal" else 0.0
        loss = pixel_loss(logits, masks, self.ignore_index, gamma, self.weights)
        if self.dice_weight:
            loss = loss + self.dice_weight * dice_loss(logits, masks, self.ignore_index)
        return loss


def pixel_loss(
    logits: Tensor,
    masks: Tensor,
    ignore_index: int,
    gamma: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy summed over the labeled pixels, divided by the number of all pixels; with
    ``gamma`` the focal loss.

    Published segmenters are trained like this (MMSegmentation's default): an ignored pixel adds
    nothing, and what an image adds does not depend on which others share its batch, so that
    splitting a batch over ranks or accumulating it changes nothing.

    Args:
        logits: ``[B, C, H, W]``.
        masks: ``[B, H, W]`` class of each pixel, or ``ignore_index``.
        gamma: exponent of 1 - p, p the probability of the pixel's class (arXiv 1708.02002).
        weights: of the classes, ``[C]``; each pixel counts by that of its class.
    """
    if not gamma:
        total = F.cross_entropy(
            logits.float(), masks.long(), weights, ignore_index=ignore_index, reduction="sum"
        )
        return total / masks.numel()
    each = F.cross_entropy(
        logits.float(), masks.long(), ignore_index=ignore_index, reduction="none"
    )
    each = others((-each).exp()) ** gamma * each
    if weights is not None:  # an ignored pixel adds 0, whatever its weight
        each = each * weights[torch.where(masks != ignore_index, masks.long(), 0)]
    return each.sum() / masks.numel()


def dice_loss(logits: Tensor, masks: Tensor, ignore_index: int) -> Tensor:
    """1 - the mean soft Dice, 2 |p · t| / (|p| + |t|), of the classes that an image's mask holds;
    the mean over images (V-Net, arXiv 1606.04797, for several classes).

    Areas are those of each image alone, so that what an image adds does not depend on its batch.
    Pixels without a label are in no area; an image without any adds nothing.

    Args:
        logits: ``[B, C, H, W]``.
        masks: ``[B, H, W]`` class of each pixel, or ``ignore_index``.
    """
    counts = (masks != ignore_index)[:, None]
    labels = torch.where(counts[:, 0], masks.long(), 0)
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1) * counts
    shares = logits.float().softmax(dim=1) * counts
    both = (shares * truth).flatten(2).sum(dim=2)
    areas = (shares + truth).flatten(2).sum(dim=2)
    there = truth.flatten(2).sum(dim=2) > 0
    scores = torch.where(there, 2 * both / areas.clamp(min=1e-6), 0.0)
    held = there.sum(dim=1)
    return ((held > 0).float() - scores.sum(dim=1) / held.clamp(min=1)).mean()
