"""``--recipe auto``: what a spec leaves open, chosen for the data, the device and a budget of time.

One rule a value, in the order of `RULES`; each sees what the ones before it chose. Nothing is drawn
and nothing is measured here: the same task gives the same spec. What a person, a parent job or
pretrained weights settle is left alone.

The rules for small pictures and small models come from `benchmarks/quality.py`; those for large
ones from the papers that `references/recipes.md` lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mae_skill.archs import ARCHS, Arch, hw
from mae_skill.classes import read_class_list, sided
from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.errors import DataError, MaeError, UsageError
from mae_skill.estimate import estimate
from mae_skill.mask_meaning import CLASSES, IGNORE, REDUCE_ZERO, first_settings, held_in
from mae_skill.rules.base import Facts
from mae_skill.weights import header
from mae_skill.weights.config import own_settings
from mae_skill.weights.names import Ambiguous, flatten, guess_arch, translate

CPU_SECONDS, GPU_SECONDS = 600.0, 8 * 3600.0
"""The budget of a run where none is given: ten minutes without a GPU, else eight hours."""

SMALL_SIDE = 64
"""Pictures whose short side is at most this many pixels count as small."""

FEW_IMAGES, MANY_IMAGES = 20_000, 200_000
"""Below the first, mixing images teaches little in a short run; from the second on, nothing but
the papers' strong augmentation keeps a large model from learning them by heart."""

NARROW = 80
"""Channels of a ConvNeXt V2's first stage up to which the paper's deviation of 0.02 is near nothing
in a short run."""

MIRRORED = 2.0
"""Mean squared t of what a mirror changes, up to which pictures count as alike in the mirror: 1 is
chance."""

ENOUGH_STEPS = 1000
"""Optimizer steps that a model from scratch needs to learn anything of few images: 90 arrows at
48 pixels had 33 % (chance) after 504 steps, and 100 % at 32 pixels after 840, in the same time."""

UNIT = 8
"""Places a side that a ConvNeXt V2 or a Hiera brings together in its last stage."""

LEAST_PLACES = 16
"""Places a side of a ConvNeXt V2's or Hiera's first stage below which small things are lost."""

TOLD = 0.1
"""Share of what a mirror changes from which on it makes a picture of another class, though all
pictures together know no side."""


@dataclass(frozen=True)
class Look:
    """What pictures look like, from a sample. None: not known.

    Attributes:
        height, width: medians, in pixels.
        grey: whether all three channels are alike.
        mirror, flip: mean over pixels of the squared t statistic of a picture less its mirror image
            (left and right, or upside down); 1 where the data know no side.
        mirror_told, flip_told: the share of what a mirror changes that the classes tell.
        mean, std: of each channel, of pixels in 0 … 1.
    """

    height: int | None = None
    width: int | None = None
    grey: bool | None = None
    mirror: float | None = None
    flip: float | None = None
    mirror_told: float | None = None
    flip_told: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Choice:
    """A value, and the rule that it came from."""

    key: str
    value: Any
    rule: str


@dataclass
class Task:
    """A spec in the making.

    Attributes:
        spec: resolved without the recipe; chosen values are set in it.
        settled: dotted keys that are not to be chosen.
        facts: images, classes, device, cores, processes, nodes.
        seconds: the budget of a run; None: the default of the device.
        pace: how much longer a step takes than the estimate says, where it was measured, or
            gradients are exchanged.
    """

    spec: dict[str, Any]
    settled: Collection[str]
    facts: Facts
    look: Look = field(default_factory=Look)
    seconds: float | None = None
    pace: float = 1.0
    choices: list[Choice] = field(default_factory=list)

    def __call__(self, key: str, default: Any = None) -> Any:
        return get_dotted(self.spec, key, default)

    def choose(self, key: str, value: Any, rule: str) -> None:
        """Set a field, unless it is settled."""
        if key in self.settled:
            return
        set_dotted(self.spec, key, value)
        self.choices.append(Choice(key, value, rule))

    @property
    def world(self) -> int:
        """Processes of all nodes: so many batches make a step."""
        return max(1, self.facts.processes or 1) * max(1, self.facts.nodes)

    @property
    def pretrains(self) -> bool:
        return bool(self("train.stage") == "pretrain")

    @property
    def segments(self) -> bool:
        return not self.pretrains and self("model.task") == "segmentation"

    @property
    def class_names(self) -> list[str]:
        """The classes that are learned, as far as they are known."""
        if not self.segments:
            seen = self.facts.data.get("dataset.train_data_sources") or {}
            return list(seen.get("class_counts") or {})
        with suppress(DataError):  # a rule of the spec says it
            return read_class_list(self("dataset.segmentation.class_list") or []) or []
        return []

    @property
    def has_weights(self) -> bool:
        """Whether fine-tuning starts from a trained backbone."""
        return bool(self("train.pretrained_model_path"))

    @property
    def on_cpu(self) -> bool:
        return (self.facts.device or "cpu") == "cpu"

    @property
    def images(self) -> int:
        return self.facts.images or 1000

    @property
    def side(self) -> int:
        """The short side of the median picture, in pixels."""
        return min(self.look.height or 224, self.look.width or 224)

    @property
    def small(self) -> bool:
        return self.side <= SMALL_SIDE

    @property
    def narrow_convolutions(self) -> bool:
        """Whether a classifier is a ConvNeXt V2 of the small sizes, atto to nano."""
        narrow = self.arch.family == "convnextv2" and self.arch.dims[0] <= NARROW
        return narrow and not self.segments

    @property
    def arch(self) -> Arch:
        return ARCHS[str(self("model.arch"))]


def recommend(
    spec: Mapping[str, Any],
    settled: Collection[str],
    facts: Facts,
    look: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    pace: float = 1.0,
) -> list[Choice]:
    """The values of a train spec that are still open, each with its rule.

    Args:
        spec: resolved as if there were no recipe.
        settled: dotted keys that a person, a parent or the data gave.
        look: the fields of `Look` that are known, as JSON types.
        seconds: the budget of the run; None: `CPU_SECONDS` or `GPU_SECONDS`.
        pace: time of a step, measured or with its exchange of gradients, over the estimated one.

    Raises:
        UsageError: the budget does not hold one epoch.
    """
    known = {name: value for name, value in (look or {}).items() if value is not None}
    known |= {name: tuple(known[name]) for name in ("mean", "std") if name in known}
    task = Task(deepcopy(dict(spec)), frozenset(settled), facts, Look(**known), seconds, pace)
    for rule in RULES:
        rule(task)
    return task.choices


def pretrained(task: Task) -> None:
    """The architecture, patch and pictures of the pretrained weights, as far as their file says
    them: other models could not take them."""
    weights = task("train.pretrained_model_path")
    if not isinstance(weights, str) or not weights or "://" in weights:
        return
    values = facts_of(Path(weights).expanduser())
    arch = values.get("model.arch")
    if arch is None or (task("model.arch") != arch and "model.arch" in task.settled):
        return
    rule = "that of the pretrained weights"
    channels = task("dataset.channels") or 3
    for key, value in values.items():
        if key.endswith((".mean", ".std")) and len(value) not in (1, channels):
            continue
        if key not in task.settled and task(key) != value:
            task.choose(key, value, rule)
    task.settled = frozenset({*task.settled, *values})


def facts_of(path: Path) -> dict[str, Any]:
    """Dotted key → value of what a file of weights says of its model and of the pictures that it
    learned from; of a file of others the architecture, by its shapes. Nothing where it is not here.
    """
    try:
        contents = header.look(path) or {}
    except (MaeError, OSError):
        return {}  # the rules of the plan say what is wrong with it
    arch = _arch_by_shapes(contents)
    return own_settings(contents) or ({"model.arch": arch} if arch else {})


def _arch_by_shapes(contents: Mapping[str, Any]) -> str | None:
    try:
        found = translate(flatten(contents))
    except Ambiguous:
        return None
    return guess_arch({name: one.shape for name, one in found.entries.items()}) if found else None


def stage(task: Task) -> None:
    """Labeled images beside a trained backbone are there to fine-tune it."""
    if task.has_weights and (task.facts.classes or 0) > 1:
        task.choose("train.stage", "finetune", "labeled images, and a trained backbone")


def classes(task: Task) -> None:
    """As many classes as the data have; of a segmenter those that are named, or that the values of
    its masks are."""
    if task.segments and CLASSES not in task.settled:
        names, seen = len(task.class_names) or None, task.facts.data.values()
        ignored, reduces = task(IGNORE, 255), bool(task(REDUCE_ZERO, True))
        found = first_settings(held_in(seen), ignored, names=names, reduces=reduces)
        if names and not found:
            found = {CLASSES: names}
        rule = "the names of the classes" if names else "the values of the masks"
        if 0 in held_in(seen) and found.keys() == {CLASSES} and reduces:
            rule += ", of which 0 is unlabeled"
        for key, value in found.items():
            task.choose(key, value, rule)
    if not task.pretrains and not task.segments and task.facts.classes:
        task.choose("model.num_classes", task.facts.classes, "the classes of the training data")


def architecture(task: Task) -> None:
    """A ViT that the data and the device can fill; from scratch on small pictures and a CPU
    ConvNeXt V2."""
    if "model.arch" in task.settled:
        return
    if task.on_cpu and task.small and not (task.pretrains or task.segments or task.has_weights):
        reason = "small pictures, no trained weights, a CPU: convolutions learn from few images"
        task.choose("model.arch", "convnextv2_atto", reason)
        return
    if task.on_cpu:
        reason = "the smallest ViT: the most images per minute on a CPU"
        task.choose("model.arch", "vit_tiny_patch16", reason)
        return
    for images, name in ((50_000, "vit_small_patch16"), (5_000_000, "vit_base_patch16")):
        if task.images < images:
            task.choose("model.arch", name, f"below {images:,} images")
            return
    task.choose("model.arch", "vit_large_patch16", "5,000,000 images and more")


def width(task: Task) -> None:
    """On a CPU a narrower, shallower ViT sees the data more often in the same time."""
    lean = {"model.embed_dim": 128, "model.depth": 6, "model.num_heads": 4}
    mine = {"model.arch", *lean}
    if not task.on_cpu or mine & set(task.settled) or task.has_weights:
        return
    if task.arch.family != "vit":
        return
    for key, value in lean.items():
        task.choose(key, value, "a lean ViT for a CPU: more epochs in the same time")


def head(task: Task) -> None:
    """On a CPU a narrow UperNet: at its usual width of 512 it takes nine tenths of a step beside a
    small backbone."""
    if not task.segments or not task.on_cpu:
        return
    rule = "a narrow head for a CPU: at 512 it would take most of a step"
    task.choose("model.segmentation.channels", 64, rule)
    task.choose("model.segmentation.auxiliary_channels", 64, rule)


def start(task: Task) -> None:
    """A ViT that starts from nothing starts as the MAE paper's, a narrow ConvNeXt V2 with weights
    in proportion to its layers: they learn sooner."""
    if task.pretrains or task.has_weights:
        return
    if task.arch.family == "vit":
        task.choose("model.init", "xavier", "no trained weights: as MAE starts")
    elif task.narrow_convolutions:
        rule = "no trained weights, narrow layers: in proportion to what a layer sums"
        task.choose("model.init", "xavier", rule)


def patch_and_size(task: Task) -> None:
    """Seven to fourteen tokens a side: the input as large as the pictures, the patch to match."""
    size_key, patch_key = "dataset.augmentation.input_size", "model.patch_size"
    if task.has_weights and patch_key not in task.settled and size_key not in task.settled:
        return  # the weights' own: 224 pixels in the published ones
    family, side = task.arch.family, task.side
    if size_key in task.settled:
        side = min(hw(task(size_key)))

    if task.segments:
        side = min(side, 256 if task.on_cpu else 512)
    else:
        side = min(side, 128 if task.on_cpu else 224)
    if size_key not in task.settled:
        side = max(side, 28)  # tinier pictures are enlarged
    if family == "vit":
        tokens = 8 if task.on_cpu else 14
        patch = next(p for p in (16, 14, 12, 8, 7, 6, 4, 2) if p * tokens <= max(side + p - 1, 28))
        if side <= 40:
            patch = 4 if task.on_cpu or side > 32 else 2
        if task.segments:  # UperNet's finest level has four places a side for each patch
            patch = max(4, patch)
        if task.arch.patch == 14 and patch >= 14:
            patch = 14
        unit = patch
    else:
        fine, middle = (0, 48) if task.on_cpu and not task.pretrains else (40, 96)
        patch = 1 if side <= fine else 2 if side <= middle else 4
        unit = UNIT * patch
    rule = f"pictures of some {task.side} pixels, as tokens of {patch}"
    if patch != task.arch.patch or patch_key in task.settled:
        if size_key in task.settled and side % unit:
            return
        task.choose(patch_key, patch, rule)
    unit = unit if task(patch_key) in (None, patch) else int(task(patch_key))
    task.choose(size_key, max(unit, round(side / unit) * unit), rule)


def decoder(task: Task) -> None:
    """A decoder in proportion to the encoder: a small one is enough where the encoder is small."""
    if not task.pretrains:
        return
    width = int(task("model.embed_dim") or task.arch.dims[0])
    if task.arch.family == "convnextv2":
        task.choose("model.decoder_depth", 1, "the FCMAE paper")
        task.choose(
            "model.decoder_embed_dim", 512 if width >= 96 else 256, "as wide as its paper's"
        )
        return
    if task.arch.family == "hiera":
        width *= 2
    depth, dim = (2, 96) if width <= 128 else (2, 128) if width <= 192 else (4, 256)
    if width >= 768:
        depth, dim = 8, 512
    rule = f"for an encoder of width {width}"
    task.choose("model.decoder_depth", depth, rule)
    task.choose("model.decoder_embed_dim", dim, rule)
    task.choose("model.decoder_num_heads", max(1, dim // 32), "32 channels a head")


def masking(task: Task) -> None:
    """The mask ratio of the family's paper."""
    if not task.pretrains:
        return
    ratio = task.arch.paper_mask_ratio
    task.choose("train.mask_ratio", ratio, f"the paper of {task.arch.title}")


def normalization(task: Task) -> None:
    """Mean and deviation of the data's own pixels; those of ImageNet beside published weights."""
    if task.has_weights:
        return
    if task.look.mean is not None and task.look.std is not None:
        rule = "measured on the training images"
        task.choose("dataset.augmentation.mean", list(task.look.mean), rule)
        task.choose("dataset.augmentation.std", [max(0.05, value) for value in task.look.std], rule)


def mirrors(task: Task) -> None:
    """A mirror image is another picture of the same kind and class, or it is not: the names of the
    classes and the pictures tell."""
    look, classes = task.look, [] if task.pretrains else task.class_names
    for mirror, seen, told, what in (
        ("hflip", look.mirror, look.mirror_told, "left and right"),
        ("vflip", look.flip, look.flip_told, "top and bottom"),
    ):
        key = f"dataset.augmentation.{mirror}"
        if named := sided(classes, mirror):
            listed = ", ".join(repr(name) for name in named[:3])
            task.choose(key, 0.0, f"the classes tell {what}: {listed}")
        elif not task.pretrains and (told or 0) > TOLD:
            share = f"{100 * (told or 0):.0f} % of what a mirror changes"
            task.choose(key, 0.0, f"the classes tell {what} of the pictures apart ({share})")
        elif seen is not None:
            alike = seen <= MIRRORED
            how = "alike" if alike else "not alike"
            rule = f"{what} of the pictures are {how} (t² {seen:.1f}, 1 is chance)"
            task.choose(key, 0.5 if alike else 0.0, rule)


def geometry(task: Task) -> None:
    """Crops for photographs; for small and for gray pictures small affine changes instead."""
    name = "dataset.augmentation."
    if task.segments:
        return
    if task.small or task.look.grey:
        rule = "small or gray pictures: turn, shear, scale and shift a little"
        task.choose(f"{name}min_scale", 0.8, rule)
        for key, value in (("rotation", 15.0), ("shear", 10.0), ("zoom", 0.15), ("shift", 0.1)):
            task.choose(f"{name}{key}", value, rule)
    else:
        share = 0.2 if task.pretrains else 0.35 if task.images < MANY_IMAGES else 0.08
        paper = "the MAE paper" if task.pretrains else "by the number of images"
        task.choose(f"{name}min_scale", share, paper)
    task.choose(f"{name}max_scale", 1.0, "a crop is inside the picture")
    task.choose(f"{name}interpolation", "bicubic", "the MAE paper")
    rule = "small pictures are used whole" if task.small else "the MAE paper"
    task.choose(f"{name}center_crop", 1.0 if task.small else 0.875, rule)


def regularization(task: Task) -> None:
    """Mixing, policies and dropped paths, where there are images and epochs enough for them."""
    if task.pretrains:
        return
    name, many = "dataset.augmentation.", task.images >= FEW_IMAGES
    large = int(task("model.embed_dim") or task.arch.feature_dim) >= 768
    task.choose("model.drop_path_rate", 0.1 if large else 0.0, "0.1 from a width of 768 on")
    if task.segments:
        return
    rule = f"{'from' if many else 'below'} {FEW_IMAGES:,} images"
    task.choose(f"{name}mixup", 0.8 if many else 0.0, rule)
    task.choose(f"{name}cutmix", 1.0 if many else 0.0, rule)
    policy = "rand-m9-mstd0.5-inc1" if many else "rand-m6-mstd0.5-inc1"
    plain = task.small or task.look.grey
    rule = "small or gray pictures take none" if plain else "photographs take a policy"
    task.choose(f"{name}auto_aug", None if plain else policy, rule)
    task.choose(f"{name}smoothing", 0.1, "the MAE paper")


def batch(task: Task) -> None:
    """Ten to sixty steps per epoch, within what the device computes at once."""
    if task.pretrains:
        low, high, steps = (32, 128, 30) if task.on_cpu else (64, 512, 60)
    else:
        low, high, steps = (8, 64, 10) if task.on_cpu else (16, 128, 30)
    if task.segments:
        low, high = (2, 8) if task.on_cpu else (4, 16)
    wanted = max(1, task.images // (steps * task.world))
    value = min(high, max(low, 2 ** round(math.log2(wanted))))
    rule = f"some {steps} steps per epoch"
    if value in (low, high):
        rule = f"{'at least' if value == low else 'at most'} {value} on this device"
    task.choose("dataset.batch_size", value, rule)


def optimizer(task: Task) -> None:
    """AdamW at a rate that follows the root of the batch; the head and the backbone alike."""
    size = int(task("dataset.batch_size")) * task.world
    width = int(task("model.embed_dim") or task.arch.feature_dim)
    if task.pretrains:
        base = 1e-3 if width <= 384 else 6e-4
        rate = base * math.sqrt(size / 128)
    else:
        base = 1e-3 if width <= 384 else 5e-4
        if task.narrow_convolutions and not task.has_weights:
            base = 2e-3
        rate = base * math.sqrt(size / 64)
    if task.segments:
        rate = 3e-4
    rate = float(f"{rate:.2g}")
    task.choose("train.optim.lr", rate, f"{base:g}, by the root of the batch")
    task.choose("train.optim.lr_scaling", "none", "the rate is that of this batch")
    task.choose("train.optim.weight_decay", 0.05, "the MAE paper")
    task.choose("train.optim.beta2", 0.95 if task.pretrains else 0.999, "the MAE paper")
    if task.has_weights:
        task.choose("train.optim.backbone_multiplier", 1.0, "layer decay is enough")
        task.choose("train.optim.layer_decay", 0.8, "short fine-tuning")


def machine(task: Task) -> None:
    """Arithmetic and loader processes that suit the device."""
    if not task.on_cpu:
        task.choose("train.precision", "bf16", "a GPU computes it at twice the speed and more")
    cores = task.facts.cores or 1
    few = task.images < 2000
    workers = 0 if task.on_cpu and few else min(1 if task.on_cpu else 8, cores)
    task.choose("dataset.num_workers_per_gpu", workers, "by images, device and cores")


def validation(task: Task) -> None:
    """Something to choose the best epoch by."""
    labeled = not task.pretrains and not task("dataset.val_data_sources")
    if labeled and task.images >= 100:
        rule = "no validation data: a tenth is held out to choose the best epoch"
        task.choose("dataset.val_fraction", 0.1, rule)


def more_steps(task: Task) -> None:
    """Smaller pictures where a budget would else hold too few steps to learn anything from
    scratch."""
    size_key, patch_key = "dataset.augmentation.input_size", "model.patch_size"
    if task.pretrains or task.segments or task.has_weights or task.arch.family == "vit":
        return
    if any(key in task.settled for key in (size_key, patch_key, "train.num_epochs")):
        return
    patch = int(task(patch_key) or task.arch.patch)
    places = min(hw(task(size_key))) // patch
    held = _steps_held(task)
    if held is None or held >= ENOUGH_STEPS or places <= LEAST_PLACES:
        return
    fewer = places
    while fewer > LEAST_PLACES:
        fewer -= UNIT
        set_dotted(task.spec, size_key, fewer * patch)
        if (_steps_held(task) or 0) >= ENOUGH_STEPS:
            break
    task.choose(
        size_key,
        fewer * patch,
        f"at {places * patch} pixels the budget holds {held} steps, too few from scratch",
    )


def _steps_held(task: Task) -> int | None:
    """Optimizer steps that the budget holds; None where the time of a step is not known."""
    found = _seconds_of(task, 1)
    if found is None:
        return None
    per_epoch, beside = found
    return int(max(0.0, _budget(task) - beside) / per_epoch * _steps_per_epoch(task))


def duration(task: Task) -> None:
    """As many epochs as the budget holds by the step of the plan, with the start, the validations
    and the checkpoints of so many, and no more than the data repay.

    Raises:
        UsageError: the budget does not hold one epoch.
    """
    key = "train.num_epochs"
    most, seconds = _most_epochs(task), _budget(task)
    said = "the default budget" if task.seconds is None else "the budget"
    found = _seconds_of(task, 1)
    if found is None:
        task.choose(key, min(most, 100), "the time of a step is not known here")
        return

    per_epoch, beside = found
    if per_epoch + beside > seconds and task.seconds is not None and key not in task.settled:
        raise UsageError(
            "the budget does not hold one epoch",
            field="budget",
            got=f"{seconds:g} s",
            expected=f"at least {math.ceil(per_epoch + beside)} s for these images and this model",
            hint="give more time, fewer images, or a smaller model or input",
        )
    value = _round_number(min(most, max(1, int(seconds / per_epoch))))
    while value > 1:
        total = per_epoch * value + (_seconds_of(task, value) or found)[1]
        if total <= seconds:
            break
        value = max(1, _round_number(min(value - 1, int(value * seconds / total))))
    why = (
        f"{said} of {_span(seconds)}" if value < _round_number(most) else "more would repay little"
    )
    task.choose(key, value, f"{why}; an epoch takes some {_span(per_epoch)}")


def _most_epochs(task: Task) -> int:
    """Where more epochs were not worth their time: by the number of images."""
    if task.pretrains:
        return 1600 if task.images >= FEW_IMAGES else 800
    if task.has_weights:
        return 100
    if task.images < 1000:  # of very few images an epoch is a few steps
        return max(200, -(-ENOUGH_STEPS // _steps_per_epoch(task)))
    return 300


def _budget(task: Task) -> float:
    """Seconds that a run may take."""
    return task.seconds or (CPU_SECONDS if task.on_cpu else GPU_SECONDS)


def _steps_per_epoch(task: Task) -> int:
    effective = int(task("dataset.batch_size")) * task.world
    effective *= int(task("train.accum_grad_batches", 1) or 1)
    return -(-task.images // effective)


def _seconds_of(task: Task, epochs: int) -> tuple[float, float] | None:
    """Seconds of an epoch, and of a run of so many beside its epochs."""
    task_facts = task.facts
    steps = _steps_per_epoch(task)
    trial = replace(task, spec=deepcopy(task.spec), choices=[])
    trial.choose("train.num_epochs", epochs, "")
    intervals(trial)
    found = estimate("train", trial.spec, replace(task_facts, steps_per_epoch=steps))
    if "seconds_per_step" not in found:
        return None
    per_epoch = float(found["seconds_per_step"]) * task.pace * steps
    beside = sum(float(value) for value in found["seconds"].values())
    return per_epoch, beside


def schedule(task: Task) -> None:
    """Warm-up over a tenth, in long runs less, then half a cosine to nothing."""
    epochs = int(task("train.num_epochs"))
    task.choose("train.optim.lr_scheduler", "cosine", "falls to 0 by the end of the run")
    most = 40 if task.pretrains else 20
    tenth = max(1 if epochs > 2 else 0, round(epochs / 10))
    rule = "a tenth of the epochs" if tenth <= most else f"a tenth of the epochs, at most {most}"
    task.choose("train.optim.warmup_epochs", min(most, tenth), rule)
    task.choose("train.optim.min_lr", 0.0, "falls to 0 by the end of the run")


def averaging(task: Task) -> None:
    """A moving average of the weights in long fine-tuning."""
    steps = int(task("train.num_epochs")) * -(-task.images // int(task("dataset.batch_size")))
    if not task.pretrains and steps >= 20_000:
        task.choose("train.ema_decay", 0.9999 if steps >= 200_000 else 0.999, "a long run")


def intervals(task: Task) -> None:
    """Some ten validations and a few checkpoints a run."""
    every = max(1, round(int(task("train.num_epochs")) / 10))
    rule = "some ten times a run"
    task.choose("train.validation_interval", every, rule)
    task.choose("train.checkpoint_interval", every, rule)
    task.choose("train.keep_checkpoints", 2, "the newest two and the best")


def _round_number(value: int) -> int:
    """Two leading digits, so that a little noise in the time of a step changes nothing."""
    if value < 20:
        return value
    scale = 10 ** (len(str(value)) - 2)
    step = 5 * scale if value >= 50 * scale else 2 * scale
    return int(value // step * step)


def _span(seconds: float) -> str:
    """Seconds in words."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


RULES: tuple[Callable[[Task], None], ...] = (
    pretrained,
    stage,
    classes,
    architecture,
    width,
    head,
    start,
    patch_and_size,
    decoder,
    masking,
    normalization,
    mirrors,
    geometry,
    regularization,
    batch,
    optimizer,
    machine,
    validation,
    more_steps,
    duration,
    schedule,
    averaging,
    intervals,
)
