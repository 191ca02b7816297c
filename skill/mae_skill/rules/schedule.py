"""Epochs, rates and batches, among themselves and against the papers' recipes."""

from __future__ import annotations

from mae_skill.archs import ARCHS
from mae_skill.recipes import recipe_of
from mae_skill.rules.base import Case, Rule


def warmup(case: Case) -> None:
    """The rate reaches its peak in the first half of the run."""
    epochs, warm = case("train.num_epochs"), case("train.optim.warmup_epochs", 0)
    if warm and warm >= epochs:
        case.warn(
            "train.optim.warmup_epochs",
            f"{warm} epochs of warm-up in a run of {epochs}: the rate never reaches its peak",
        )
    elif warm and 2 * warm >= epochs:
        case.warn(
            "train.optim.warmup_epochs",
            f"{warm} epochs of warm-up take half of the run of {epochs} or more: most of it learns "
            "below the peak rate",
        )


def milestones(case: Case) -> None:
    """The rate falls within the run."""
    if case("train.optim.lr_scheduler") != "MultiStep":
        return
    epochs = case("train.num_epochs")
    late = [item for item in case("train.optim.milestones", []) if item >= epochs]
    if late:
        case.warn(
            "train.optim.milestones",
            f"milestones {late} are beyond the run of {epochs} epochs: "
            "the rate does not fall there",
        )


def lowest_rate(case: Case) -> None:
    """A schedule falls from the peak rate to the lowest."""
    falls = case("train.optim.lr_scheduler") in ("cosine", "poly")
    if falls and case("train.optim.min_lr", 0.0) > case("train.optim.lr"):
        case.error(
            "train.optim.min_lr",
            f"is above train.optim.lr={case('train.optim.lr')}",
            "at most train.optim.lr",
        )


def papers(case: Case) -> None:
    """Mask ratio and decoder of pretraining, where the papers chose otherwise."""
    arch = ARCHS.get(str(case("model.arch")))
    if arch is None or case("train.stage") != "pretrain":
        return

    ratio = case("train.mask_ratio")
    if abs(ratio - arch.paper_mask_ratio) > 0.1:
        case.warn(
            "train.mask_ratio",
            f"mask_ratio is {ratio}; the paper of {arch.title} uses {arch.paper_mask_ratio}",
        )
    if arch.family != "convnextv2" and case("model.decoder_depth") == 1:
        paper = "the MAE paper" if arch.family == "vit" else "the Hiera paper"
        case.warn("model.decoder_depth", f"decoder_depth is 1; {paper} uses 8")


def full_batch(case: Case) -> None:
    """An epoch holds a whole batch."""
    images, batch = case.facts.images, case.facts.effective_batch
    if images is not None and batch and images < batch:
        case.warn(
            "dataset.batch_size",
            f"the effective batch of {batch} is larger than the {images} training images: "
            "one partial step per epoch",
        )


def recipe(case: Case) -> None:
    """Batch and rate against the published recipe.

    A rate may follow the batch linearly (SGD's rule) or by its root (Adam's).
    """
    batch, rate = case.facts.effective_batch, case("train.optim.lr")
    published = recipe_of(
        str(case("model.arch")), str(case("train.stage")), str(case("model.task"))
    )
    if published is None or not batch or not rate:
        return

    share = batch / published.batch
    if not 1 / 64 <= share <= 4:
        case.warn(
            "dataset.batch_size",
            f"an effective batch of {batch} where {published.name} trains with {published.batch}",
        )

    peak = rate * (batch / 256 if case("train.optim.lr_scaling") == "linear" else 1.0)
    expected = sorted((published.rate * share, published.rate * share**0.5))
    if not expected[0] / 4 <= peak <= expected[1] * 4:
        text = " to ".join(dict.fromkeys(f"{value:.2g}" for value in expected))
        case.warn(
            "train.optim.lr",
            f"a peak rate of {peak:.2g} at a batch of {batch}, "
            f"where that of {published.name} would be {text}",
        )


RULES = [
    Rule(warmup, ("train",)),
    Rule(milestones, ("train",)),
    Rule(lowest_rate, ("train",)),
    Rule(papers, ("train",)),
    Rule(full_batch, ("train",)),
    Rule(recipe, ("train",)),
]
