"""Epochs, rates and batches, among themselves and against the papers' recipes."""

from __future__ import annotations

import math

from mae_skill.archs import ARCHS
from mae_skill.origin import OriginKind
from mae_skill.recipes import recipe_of
from mae_skill.rules.base import Case, Notice, Rule

UNTRAINED, HARDLY = 0.5, 0.05
"""Of a moving average, the part of the initial weights at the end of the run: from the first on it
is an untrained model, from the second on the user should know."""

STILL, HARDLY_MOVED = 1e-7, 1e-5
"""What all steps together move a weight by at most (a step of Adam, by about the rate): weights
start some hundredths large. Of less than the first nothing is learned, of less than the second
little."""

WILD, BOLD = 1.0, 0.03
"""Peak rates by which a step of Adam moves each weight, of some hundredths, by many times itself,
or by about itself. The papers' are at most 0.004."""

SHRINK, SHRINK_MUCH, GROW = 0.01, 0.1, 2.0
"""The part of each weight that weight decay takes at every step at the peak rate; the papers' is
below 0.001. Of more than twice itself a weight grows, until the run ends by itself."""

MOST_REACH, USUAL_MOMENTUM = 1000, 0.99
"""Gradients that momentum averages over at most in any run, and a momentum that is in use."""

HASTY = 0.5
"""A second β below which the last gradient outweighs all before it."""

MONITOR = "train.optim.monitor_name"

IDLE = 10
"""Times the loss at its start, which no run improves by; of a tenth of it, few."""

NO_MOVE = 1e-12
"""At less, weights of some hundredths stay as they are over any number of steps."""

LOST = 1e-6
"""Fallen to less of its start, a rate teaches nothing more."""

NO_CLIP = 1e-6
"""Clipped to less, gradients vanish beside the ε of Adam, 1e-8 for each weight."""

FEW_NORMALIZED = 4
"""Images of a batch below which the batch norms of a head have no statistics."""

NEVER = 1000
"""A warm-up this many times as long as the run reaches a thousandth of the peak rate."""


def steps_of(case: Case) -> int | None:
    """Optimizer steps of the run, where they are known."""
    per_epoch = case.facts.steps_per_epoch
    return per_epoch * int(case("train.num_epochs")) if per_epoch else None


def peak_rate(case: Case) -> float | None:
    """The peak learning rate as it is applied, where the batch is known or does not count."""
    rate, batch = float(case("train.optim.lr")), case.facts.effective_batch
    if case("train.optim.lr_scaling") != "linear":
        return rate
    return rate * batch / 256 if batch else None


def averaged(case: Case) -> None:
    """The moving average that is judged and saved has left the initial weights behind."""
    key = "train.ema_decay"
    decay, steps = case(key), steps_of(case)
    if not decay or not steps:
        return
    left = float(decay) ** steps
    if left < HARDLY:
        return
    text = (
        f"after the {steps} steps of this run {left:.0%} of the average of the weights, which is "
        "judged and saved, are still the initial weights"
    )
    fits = math.floor(1e4 * (1 - 5 / steps)) / 1e4 if steps > 10 else 0.0
    mend = f"at most {fits:g} for {steps} steps, or null" if fits else "null for so few steps"
    if left >= UNTRAINED:
        case.error(key, text, mend, "or train longer")
    else:
        case.warn(key, f"{text}; {mend}", serious=True)


def still(case: Case) -> None:
    """The steps of the run together move the weights at all."""
    rate, steps, key = peak_rate(case), steps_of(case), "train.optim.lr"
    if rate is not None and steps and rate * steps < HARDLY_MOVED:
        text = f"{steps} steps of at most {rate:.1e} move no weight by more than {rate * steps:.1e}"
        if rate * steps < STILL:
            case.error(key, f"{text}: nothing is learned", "1e-5 to 1e-3, say", f"set {key}=1e-4")
        else:
            case.warn(
                key,
                f"{text}, and weights are some hundredths large: hardly anything is learned; train "
                "longer, or at 1e-5 to 1e-3",
                serious=True,
            )
    clip = case("train.clip_grad_norm")
    if clip is not None and clip < NO_CLIP:
        case.error(
            "train.clip_grad_norm",
            "gradients so small vanish in the optimizer: nothing is learned",
            f"at least {NO_CLIP:g}; 1 is usual",
            "set train.clip_grad_norm=1, or null for none",
        )


def wild(case: Case) -> None:
    """A step leaves of the weights what the steps before it taught."""
    rate, key = peak_rate(case), "train.optim.lr"
    if rate is None or rate < BOLD:
        return
    decay = float(case("train.optim.weight_decay", 0.0))
    if decay > 1 and rate * decay > GROW:  # which `shrinking` tells of: no such run ends COMPLETE
        return
    scaled = "" if rate == float(case(key)) else " (after lr_scaling)"
    text = (
        f"each step at the peak rate of {rate:.2g}{scaled} moves every weight by about that much, "
        "and weights are some hundredths large"
    )
    if rate >= WILD:
        case.error(
            key, f"{text}: nothing that is learned stays", "1e-5 to 1e-3, say", f"set {key}=1e-4"
        )
    else:
        usual = "1e-5 to 1e-3 is usual"
        case.warn(key, f"{text}: the loss may rise or never fall; {usual}", serious=True)


def slow_momentum(case: Case) -> None:
    """The average of gradients that a step follows is of the last of them."""
    key = "train.optim.momentum"
    momentum, steps = float(case(key, 0.9)), steps_of(case)
    reach = 1 / (1 - momentum)
    if reach > MOST_REACH or (steps and momentum > USUAL_MOMENTUM and reach > steps):
        of_run = f", and the run has {steps}" if steps else ""
        case.warn(
            key,
            f"each step follows the average of some {reach:.0f} gradients{of_run}: it lags behind "
            "the weights, and the run learns little or diverges; 0.9 is usual",
            serious=True,
        )


def hasty_scale(case: Case) -> None:
    """A step is divided by an average of squared gradients, not by the last one alone."""
    key, value = "train.optim.beta2", case("train.optim.beta2")
    if value is not None and value < HASTY:
        case.warn(
            key,
            f"{value:g} divides each step by nearly the last gradient alone, so that all weights "
            "move by the full rate whatever it says; 0.95 to 0.999 is usual",
        )


def watched_loss(case: Case) -> None:
    """Early stopping watches what it is there for, and a loss that is named is watched."""
    watched, patience = case(MONITOR), case("train.early_stopping.patience")
    if not case("dataset.val_data_sources") and not case("dataset.val_fraction"):
        return
    if watched == "train_loss" and patience is not None and not case.given(MONITOR):
        case.warn(
            MONITOR,
            "early stopping watches train_loss, which goes on falling while a model overfits, "
            f"though there are validation data: {MONITOR}=val_loss",
        )
    finetunes = case("train.stage") == "finetune"  # whose accuracy chooses the best checkpoint
    if watched == "val_loss" and patience is None and finetunes and case.given(MONITOR):
        case.warn(
            MONITOR,
            "has no effect: the accuracy of the validation chooses the best checkpoint, and "
            "nothing stops early; train.early_stopping.patience=N does",
        )


def idle_stopping(case: Case) -> None:
    """An improvement that early stopping asks for can happen."""
    key, patience = "train.early_stopping.min_delta", case("train.early_stopping.patience")
    delta, epochs = float(case(key, 0.0)), case("train.num_epochs")
    watched = case(MONITOR)
    every = int(case("train.validation_interval", 1)) if watched == "val_loss" else 1
    validations = -(-epochs // every)  # the last epoch is validated in any case
    if patience is not None and patience >= validations:
        text = f"{patience} epochs without a better one do not come in a run of {epochs}"
        if every > 1:
            text = (
                f"{patience} validations without a better one do not come in a run of {epochs} "
                f"epochs, with one every {every} (train.validation_interval)"
            )
        case.warn("train.early_stopping.patience", f"{text}: it never stops early")
    if patience is None or not delta:
        return
    classes = case("model.num_classes") or 2
    start = 1.0  # of normalized pixels
    if case("train.stage") == "finetune":
        start = math.log(max(2, 2 if case("model.multi_label") else classes))
    text = (
        f"the loss, which starts near {start:.2g}, is to fall by more than {delta:g} in {patience} "
        "epochs"
    )
    if delta >= IDLE * start:
        usual = "0 to 0.01, say"
        case.error(
            key,
            f"{text}: the run ends after {patience + 1} epochs whatever it learns",
            usual,
            "raise the patience, or lower the least change that counts",
        )
    elif delta > start / IDLE:
        case.warn(key, f"{text}: it may end while it learns; 0 to 0.01 is usual")


def shrinking(case: Case) -> None:
    """Weight decay leaves the weights time to learn."""
    rate, decay = peak_rate(case), float(case("train.optim.weight_decay", 0.0))
    part = (rate or 0.0) * decay
    if part < SHRINK or (decay <= 1 and (rate or 0.0) >= WILD):  # which `wild` refuses
        return
    key = "train.optim.lr" if decay <= 1 else "train.optim.weight_decay"
    text = f"a rate of {rate:.2g} with a weight decay of {decay:g} takes {part:.3g} of every weight"
    if part > GROW:
        end = "they grow until the run ends with an error"
        case.warn(key, f"{text} at each step: {end}", serious=True)
    elif part >= SHRINK_MUCH:
        usual = "1e-5 to 1e-3, say" if decay <= 1 else "0.05, say; 0 is none"
        case.error(
            key,
            f"{text} at each step: nothing that is learned stays",
            usual,
            f"lower {key}, or set 0",
        )
    else:
        case.warn(key, f"{text} at each step; the papers' recipes take less than 0.001")


def rising(case: Case) -> None:
    """Factors of the rate that are meant to lower it."""
    epochs = case("train.num_epochs")
    falls = [item for item in case("train.optim.milestones", []) if item < epochs]
    gamma = case("train.optim.gamma", 0.1)
    if case("train.optim.lr_scheduler") == "MultiStep" and falls and gamma > 1:
        case.warn("train.optim.gamma", f"the rate rises to {gamma:g} times at each milestone")


def fallen(case: Case) -> None:
    """The rate counts in the first half of the run."""
    epochs, gamma = case("train.num_epochs"), case("train.optim.gamma", 0.1)
    early = [item for item in case("train.optim.milestones", []) if 2 * item < epochs]
    if case("train.optim.lr_scheduler") == "MultiStep" and min(gamma, 1) ** len(early) < LOST:
        case.warn(
            "train.optim.gamma" if len(early) == 1 else "train.optim.milestones",
            f"in the first half of the run the rate falls to {gamma ** len(early):.1e} of its "
            f"start, by {len(early)} times {gamma:g}: the rest of it learns nothing",
            serious=True,
        )


def _of_backbone(case: Case) -> tuple[float, float, float] | None:
    """The rate of the backbone, and of its first and its last block with the layer decay; None
    where no pretrained weights are fine-tuned, or the architecture is not known."""
    arch, decay = ARCHS.get(str(case("model.arch"))), float(case("train.optim.layer_decay", 1.0))
    if arch is None or case("train.stage") != "finetune" or not case("train.pretrained_model_path"):
        return None
    grouped = arch.family == "convnextv2" and arch.depths[2] >= 27  # as their recipe groups them
    layers = 13 if grouped else (case("model.depth") or sum(arch.depths)) + 1
    multiplier = float(case("train.optim.backbone_multiplier", 1.0))
    rate = (peak_rate(case) or float(case("train.optim.lr"))) * multiplier
    return rate, rate * decay**layers, rate * decay


def bold_backbone(case: Case) -> None:
    """The multiplier and the layer decay make of a usual rate none that wipes the weights out."""
    rates, peak = _of_backbone(case), peak_rate(case) or float(case("train.optim.lr"))
    if rates is None or "encoder" in (case("train.freeze") or []):
        return
    rate, first, last = rates
    highest, decay = max(first, last), float(case("train.optim.layer_decay", 1.0))
    above = f"{decay:g} is above 1: the first layers get the highest rate" if decay > 1 else ""
    if highest < BOLD or highest <= peak:  # a peak rate that is too high alone `wild` tells of
        if above:
            case.warn("train.optim.layer_decay", above)
        return
    key = "train.optim.backbone_multiplier" if rate >= BOLD else "train.optim.layer_decay"
    text = (
        "with train.optim.lr, backbone_multiplier and layer_decay the rate of the backbone is "
        f"{first:.2g} in the first block and {last:.2g} in the last: each step moves every weight "
        "by about that much, and weights are some hundredths large"
    )
    if key.endswith("layer_decay"):
        text = f"{above}; {text}"
    if highest >= WILD:
        usual = "at most 1: the backbone learns no faster than the head"
        case.error(key, f"{text}; what was pretrained is lost", usual, f"set {key}=1")
    else:
        case.warn(key, f"{text}: what was pretrained may be lost; at most 1 is usual")


def unmoved(case: Case) -> None:
    """The backbone that is fine-tuned gets a rate that moves it."""
    rates = _of_backbone(case)
    if rates is None or min(rates) >= NO_MOVE:
        return
    rate, first, last = rates
    key = "backbone_multiplier" if rate < NO_MOVE else "layer_decay"
    which = "the backbone hardly moves" if last < NO_MOVE else "its first blocks hardly move"
    case.warn(
        f"train.optim.{key}",
        f"{which}: the rate of the backbone is {first:.1e} in the first block and {last:.1e} in "
        "the last; train.freeze=[encoder] says so, and is faster",
        serious=True,
    )


def few_steps(case: Case) -> None:
    """A network without weights learns for some time before it answers better than chance; a recipe
    cuts the run where the budget ends."""
    epochs, per_epoch = case("train.num_epochs"), case.facts.steps_per_epoch
    starts = any(
        case(f"train.{name}")
        for name in ("pretrained_model_path", "resume_training_checkpoint_path")
    )
    if case("train.stage") != "finetune" or starts or not epochs or not per_epoch:
        return
    if case.origin("train.num_epochs") is OriginKind.RECIPE and epochs * per_epoch < FEW_STEPS:
        case.warn(
            "train.num_epochs",
            f"{epochs * per_epoch} steps are few for a network without weights, which may answer "
            f"no better than chance after them: {FEW_STEPS} and more are usual, for which the "
            f"budget would be {FEW_STEPS / (epochs * per_epoch):.1f} times as long; or start from "
            "pretrained weights",
            serious=True,
        )


FEW_STEPS = 600
"""Of 96 pictures of four shapes a ConvNeXt V2-A of random weights knew 55 % of others after 220
steps, 80 % after 480 and all after 960."""


def warmup(case: Case) -> None:
    """The rate reaches its peak in the first half of the run."""
    epochs, warm = case("train.num_epochs"), case("train.optim.warmup_epochs", 0)
    warming = f"{warm} epoch{'' if warm == 1 else 's'} of warm-up"
    if warm and warm >= NEVER * epochs:
        case.error(
            "train.optim.warmup_epochs",
            f"{warming} in a run of {epochs}: the rate stays below a thousandth of "
            "its peak, and nothing is learned",
            f"fewer than the {epochs} epochs of the run",
            "lower train.optim.warmup_epochs, or train for more epochs",
        )
    elif warm and warm >= epochs:
        case.warn(
            "train.optim.warmup_epochs",
            f"{warming} in a run of {epochs}: the rate never reaches its peak",
            serious=True,
        )
    elif warm and 2 * warm >= epochs:
        case.warn(
            "train.optim.warmup_epochs",
            f"{warming} {'takes' if warm == 1 else 'take'} half of the run of {epochs} or more: "
            "most of it learns below the peak rate",
        )
    elif warm and 4 * warm >= epochs and _is_shortened(case):
        case.warn(
            "train.optim.warmup_epochs",
            f"{warming} of the recipe in a run of train.num_epochs={epochs}, which is shorter than "
            f"its: train.optim.warmup_epochs={max(1, epochs // 20)} leaves it more to learn",
        )


def _is_shortened(case: Case) -> bool:
    """Whether the warm-up is a recipe's, and the epochs of the run are not."""
    keys = ("train.optim.warmup_epochs", "train.num_epochs")
    return [case.origin(key) is OriginKind.RECIPE for key in keys] == [True, False]


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
            "lower train.optim.min_lr: 0 lets the rate fall to nothing",
        )


def papers(case: Case) -> None:
    """Mask ratio and decoder of pretraining, where the papers chose otherwise."""
    arch = ARCHS.get(str(case("model.arch")))
    if arch is None or case("train.stage") != "pretrain" or case("train.refine.blocks"):
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


def normalized_batch(case: Case) -> None:
    """The batch norms of a segmenter's head see several images."""
    batch = case.facts.effective_batch
    if case("train.stage") != "finetune" or case("model.task") != "segmentation" or not batch:
        return
    together = batch // max(1, int(case("train.accum_grad_batches", 1)))
    if together < FEW_NORMALIZED:
        case.warn(
            "dataset.batch_size",
            f"the batch norms of the head see {together} image{'s' if together > 1 else ''} at a "
            "time, over all processes: too few for their statistics, so that the mIoU of the "
            "trained model may be far below that of its training; 8 or more",
            serious=True,
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
    is_fitted = case.origin("train.optim.lr") is OriginKind.RECIPE
    follows = case("train.optim.lr_scaling") != "none"
    if case.by_auto_recipe("train.optim.lr") and not follows:
        return  # for a run far shorter than the paper's

    share = batch / published.batch
    if is_fitted and 1 / 64 <= share < 1:
        more = int(case("train.accum_grad_batches", 1)) * published.batch // batch
        note = (
            f"the effective batch is {batch}, that of {published.name} {published.batch}, and the "
            f"rate {'follows' if follows else 'does not follow'} it; "
            f"train.accum_grad_batches={more} gives as many, at the same cost"
        )
        if not follows:
            note += f", or train.optim.lr={rate * share**0.5:.2g} suits this one"
        case.warnings.append(Notice("dataset.batch_size", note, note=follows, serious=not follows))
    if not 1 / 64 <= share <= 4:
        case.warn(
            "dataset.batch_size",
            f"an effective batch of {batch} where {published.name} trains with {published.batch}",
        )

    peak = peak_rate(case) or rate
    expected = sorted((published.rate * share, published.rate * share**0.5))
    if not expected[0] / 4 <= peak <= expected[1] * 4:
        text = " to ".join(dict.fromkeys(f"{value:.2g}" for value in expected))
        case.warn(
            "train.optim.lr",
            f"a peak rate of {peak:.2g} at a batch of {batch}, "
            f"where that of {published.name} would be {text}",
        )


RULES = [
    Rule(averaged, ("train",)),
    Rule(still, ("train",)),
    Rule(wild, ("train",)),
    Rule(slow_momentum, ("train",)),
    Rule(hasty_scale, ("train",)),
    Rule(watched_loss, ("train",)),
    Rule(idle_stopping, ("train",)),
    Rule(shrinking, ("train",)),
    Rule(rising, ("train",)),
    Rule(fallen, ("train",)),
    Rule(bold_backbone, ("train",)),
    Rule(unmoved, ("train",)),
    Rule(few_steps, ("train",)),
    Rule(warmup, ("train",)),
    Rule(milestones, ("train",)),
    Rule(lowest_rate, ("train",)),
    Rule(papers, ("train",)),
    Rule(full_batch, ("train",)),
    Rule(normalized_batch, ("train",)),
    Rule(recipe, ("train",)),
]
