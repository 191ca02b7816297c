"""Data and classes: labels, masks, validation, and the task that they are for."""

from __future__ import annotations

import json
import shlex
import unicodedata
from collections.abc import Sequence

from mae_skill.archs import arch_of, hw
from mae_skill.classes import CLASS_LISTS, read_class_list, sided
from mae_skill.errors import DataError, MaeError
from mae_skill.mask_meaning import MASK_VALUES, REDUCE_ZERO, other_number, set_for_run
from mae_skill.origin import OriginKind, is_explicit
from mae_skill.rules import samples
from mae_skill.rules.base import Case, Rule
from mae_skill.rules.masks import listed_values, nobody_counts, reduces
from mae_skill.rules.samples import unlabeled
from mae_skill.rules.seen import first_of
from mae_skill.rules.seen import segments as _segments

SEGMENTATION = "segmentation"
CLASS_LIST = "dataset.segmentation.class_list"
CHOSEN, COLUMNS = "dataset.classes", "dataset.labels.columns"
IGNORE = "dataset.segmentation.ignore_index"
VAL_MASKS = "dataset.segmentation.val_mask_sources"
JITTER = "dataset.augmentation.segmentation.scale_jitter"
MAGNIFIED = 4
"""Times by which pictures are magnified, or shrunk, that hardly show what validation shows."""
SMALL_CENTER = 0.1
"""Share of the sides below which less than a hundredth of a picture is judged."""
TURNED = 45
"""Degrees from which on a turn may make left of up."""
LOST_SCALE = 10
"""Times by which pictures are magnified or shrunk that show next to nothing of what is judged."""
SMALL_CROP = 0.05
"""Of a picture's area, what a random crop that trains should be able to see."""
FLAT = 1e-3
"""Pictures whose values deviate by less, a quarter of a level of 8 bits, are of one shade."""
FAR = 50.0
"""Of a normalized pixel of black or white, above which pictures of any contrast are far out."""


def crops(case: Case) -> None:
    """The bounds of a random crop are in order, and a crop is a part of its picture."""
    smallest = "dataset.augmentation.min_scale"
    beyond = float(case(smallest, 0.1)) > 1 and not _segments(case)
    if beyond:
        case.error(
            smallest,
            "no crop is larger than its picture: every one would be the middle of it",
            "a share of the picture's area, at most 1",
            "1 with max_scale=1 crops as little as the ratios allow; 0.2 to 0.8 is usual",
        )
    for low, high in (("min_scale", "max_scale"), ("min_ratio", "max_ratio")):
        low, high = f"dataset.augmentation.{low}", f"dataset.augmentation.{high}"
        if case(low, 0) > case(high, 1):
            _crossed(case, low, high)
    key = "dataset.augmentation.max_scale"
    share = float(case(key, 1.0))
    if share < SMALL_CROP:
        case.warn(
            key,
            f"a crop sees {share:.2g} of a picture's area at most, and validation all of it; 1 is "
            "usual",
        )


def _crossed(case: Case, low: str, high: str) -> None:
    """Refuse the bound that somebody set; where that is both or neither, the low one."""
    low_name, high_name = (key.rpartition(".")[2] for key in (low, high))
    if case.given(high) and not case.given(low):
        mend = f"set {low_name} too, or raise {high}"
        case.error(high, f"is below {low_name}={case(low)}", f"at least {low_name}", mend)
    else:
        mend = f"swap the two, or lower {low}"
        case.error(low, f"is above {high_name}={case(high)}", f"at most {high_name}", mend)


def erased(case: Case) -> None:
    """Some training pictures are whole, as those are that the model is judged by."""
    key = "dataset.augmentation.re_prob"
    labels = case("train.stage") == "finetune" and not _segments(case)
    if labels and float(case(key, 0.0)) >= 1:
        case.warn(
            key,
            "a part of every training picture is erased, and none is seen whole, as in validation; "
            "0.25 is usual",
        )


def mirrored(case: Case) -> None:
    """Some training pictures stand as those do that the model is judged by and used on."""
    for key, how in (("hflip", "mirrored"), ("vflip", "upside down")):
        key = f"dataset.augmentation.{key}"
        if float(case(key, 0.0)) >= 1:
            case.warn(
                key,
                f"every training picture is {how}, and none is seen as it is, as in validation; "
                "0.5 shows both",
            )


def sides(case: Case) -> None:
    """A mirror image of a class that is named by a side is of another class."""
    if case("train.stage") != "finetune":
        return
    names = samples.known_classes(case)
    for mirror, how in (("hflip", "left and right"), ("vflip", "up and down")):
        key = f"dataset.augmentation.{mirror}"
        if float(case(key, 0.0)) > 0 and (named := sided(names, mirror)):
            case.warn(
                key,
                f"training swaps {how} in some of the pictures, and classes are named by a side: "
                f"{first_of(named)}; if a mirror image is of another class, set {key}=0",
                serious=True,
            )

    key = "dataset.augmentation.rotation"
    named = list(dict.fromkeys([*sided(names, "hflip"), *sided(names, "vflip")]))
    if float(case(key, 0.0)) > TURNED and named:
        case.warn(
            key,
            f"training turns pictures by up to {case(key):g} degrees, and classes are named by a "
            f"side: {first_of(named)}; if a turned image is of another class, 15 is enough",
            serious=True,
        )


def center(case: Case) -> None:
    """What is judged is most of a picture."""
    key = "dataset.augmentation.center_crop"
    share = float(case(key, 1.0))
    if share >= 0.5 or not case.known(key) or case("model.task") == SEGMENTATION:
        return
    text = (
        f"validation and inference see the middle {100 * share**2:.2g}% of the area of a square "
        "picture"
    )
    if share < SMALL_CENTER and case.origin(key) is not OriginKind.PARENT:
        usual = "0.875 to 1 is usual"
        mend = f"leave {key} out, or set 1"
        if case.origin(key) is OriginKind.INFERRED:
            mend = f"the weights' folder says so: correct its crop_pct, or set {key}"
        case.error(key, f"{text}: too little to judge it by", usual, mend)
    else:
        case.warn(key, f"{text}; 0.875 to 1 is usual")


def value_range(case: Case) -> None:
    """The ends of a range are in order."""
    ends = case(samples.RANGE)
    if isinstance(ends, list) and len(ends) == 2 and not ends[0] < ends[1]:
        case.error(
            samples.RANGE,
            "the low end is not below the high one",
            "[low, high]",
            "swap the two ends",
        )


def statistics(case: Case) -> None:
    """A mean and a deviation for each channel."""
    count = case(samples.CHANNELS) or 3
    for name in ("mean", "std"):
        key = f"dataset.augmentation.{name}"
        values = case(key)
        if values is None or len(values) in (1, count):
            continue
        if case.given(key) or case.origin(key) is None or len(values) != 3:
            case.error(
                key,
                f"has {len(values)} values for {count} channels",
                f"{count} values, or one for all",
                "mae inspect SOURCE prints those of the data",
            )


def units(case: Case) -> None:
    """Mean and deviation are of pixels in 0 … 1; those of 0 … 255 make every picture one shade."""
    for name in ("mean", "std"):
        key = f"dataset.augmentation.{name}"
        values = case(key) or []
        if case.origin(key) is OriginKind.PARENT:
            continue
        if min(values, default=0) >= 0 and max(values, default=0) <= 1:
            continue
        case.error(
            key,
            "is of other pixels than those in 0 … 1 that are normalized",
            "values from 0 to 1",
            "divide by 255; mae inspect SOURCE prints those of the data",
        )
    key = "dataset.augmentation.std"
    if case.origin(key) is OriginKind.PARENT or min(case(key) or [1.0]) >= FLAT:
        _far_out(case)
        return
    text = "makes a quarter of a level of 8 bits a whole deviation"
    if case.given(samples.RANGE) or case.given(samples.CHANNELS):  # a band may be as flat
        case.warn(key, f"{text}; mae inspect SOURCE prints those of the data")
        return
    case.error(
        key,
        text,
        f"values of at least {FLAT:g}, of pixels in 0 … 1",
        "mae inspect SOURCE prints those of the data",
    )


def _far_out(case: Case) -> None:
    """Pictures that are not as flat as their deviation says reach far beyond what a network is made
    for: a pixel of 0 or of 1 would be tens of deviations from the mean."""
    key = "dataset.augmentation.std"
    means, deviations = (case(f"dataset.augmentation.{name}") or [] for name in ("mean", "std"))
    if not means or not deviations or case.origin(key) is OriginKind.PARENT:
        return
    count = max(len(means), len(deviations))
    if {len(means), len(deviations)} - {1, count}:
        return  # they are not of one number of channels: that is an error by itself
    both = zip(_spread(means, count), _spread(deviations, count), strict=True)
    reach, mean, deviation = max((max(m, 1 - m) / std, m, std) for m, std in both)
    if reach > FAR:
        case.warn(
            key,
            f"with a mean of {mean:g} and a deviation of {deviation:g} black or white becomes a "
            f"value {reach:,.0f} from 0, far from the 1 to 3 that networks are made for, unless "
            "all pictures are as flat; mae inspect SOURCE prints mean and std of the data",
        )


def _spread(values: Sequence[float], count: int) -> Sequence[float]:
    """One value for each of ``count`` channels."""
    return list(values) * count if len(values) == 1 else values


def task(case: Case) -> None:
    """A task belongs to fine-tuning."""
    if case("model.task") != SEGMENTATION or case("train.stage") == "finetune":
        return
    case.error(
        "model.task",
        "model.task applies only to fine-tuning",
        "classification (the default), or train.stage=finetune",
        "pretrain on the images alone, then fine-tune with model.task=segmentation and "
        "train.pretrained_model_path",
    )


def labels_to_compare(case: Case) -> None:
    """A classifier that is known to be one is evaluated on labeled images."""
    stage = "train.stage"
    known = case.given(stage) or case.origin(stage) is OriginKind.PARENT
    classifies = case(stage) == "finetune" and case("model.task") != SEGMENTATION
    compared = (case.facts.data.get("dataset.val_data_sources") or {}).get("against")
    if known and classifies and case.facts.classes == 0 and not compared:
        unlabeled(
            case,
            "dataset.val_data_sources",
            "these images have no labels to compare with",
            "the inference action takes unlabeled images",
        )


def validation(case: Case) -> None:
    """What fine-tuning is without validation images, or without pretrained weights."""
    if case("train.stage") != "finetune":
        return
    if not _validates(case):
        case.warn(
            "dataset.val_data_sources",
            "no validation data: the best checkpoint is chosen by train_loss, "
            "and no accuracy is known",
        )
    if not case("train.pretrained_model_path") and not case(
        "train.resume_training_checkpoint_path"
    ):
        case.warn(
            "train.pretrained_model_path",
            "fine-tuning without pretrained weights trains from scratch",
        )


def monitor(case: Case) -> None:
    """A validation loss needs validation images."""
    if case("train.optim.monitor_name") == "val_loss" and not _validates(case):
        case.error(
            "train.optim.monitor_name",
            "val_loss needs validation data",
            "train_loss, or dataset.val_data_sources",
            "set train.optim.monitor_name=train_loss, or name validation data",
        )


def without_data(case: Case) -> None:
    """Labels and masks of validation images that are not there."""
    if case("dataset.val_data_sources"):
        return
    mend = "name dataset.val_data_sources, or leave it out"
    if case("dataset.val_fraction"):
        mend = "a held-out share has those of the training images"
    fields = {"dataset.labels.val": not _segments(case), VAL_MASKS: _segments(case)}
    for key, acts in fields.items():
        if acts and case(key) and case.given(key):
            case.warn(key, f"has no effect: there are no validation data of their own; {mend}")


def pyramid(case: Case) -> None:
    """UperNet's coarsest level halves the patches of a ViT."""
    arch, size = arch_of(case.spec), case("dataset.augmentation.input_size")
    if not _segments(case) or arch is None or arch.family != "vit" or size is None:
        return
    if min(hw(size)) < 2 * arch.patch:
        case.error(
            "dataset.augmentation.input_size",
            "UperNet's pyramid needs two patches per side",
            f"at least {2 * arch.patch} px",
            f"set dataset.augmentation.input_size={2 * arch.patch} or more",
        )


def class_list(case: Case) -> None:
    """A list of class names is there, and has one name per class."""
    listed, wanted = case(CLASS_LIST), _classes_of(case)
    if not _segments(case) or not listed:
        return
    if case.action != "train" and not is_explicit(case.provenance, CLASS_LIST):
        return  # what the parent was trained with, which need not be here any more
    try:
        names = read_class_list(listed)
    except MaeError as error:
        case.errors.append(error)
        return
    remote = isinstance(listed, str) and "://" in listed
    if names is None and (remote or case.facts.must_be_here(str(listed))):
        said = "a URL is not read here" if remote else "there is no such file"
        hint = "fetch it first" if remote else f'names themselves are a list: {CLASS_LIST}=["…"]'
        case.error(CLASS_LIST, said, CLASS_LISTS, hint, kind=DataError)
    elif names is not None and case.action != "train":
        _class_list_of_model(case, names, wanted)
    elif names is not None and (values := case(MASK_VALUES)) and len(names) != len(values):
        case.error(
            CLASS_LIST,
            f"names {len(names)} classes, and {MASK_VALUES} lists {len(values)} values",
            f"{len(values)} names, in the order of the values",
            "name each value of the list once",
        )
    elif names is not None and len(names) != wanted and not nobody_counts(case):
        case.error(
            "model.num_classes",
            f"{CLASS_LIST} names {len(names)} classes",
            str(len(names)),
            f"set model.num_classes={len(names)}",
        )


def _class_list_of_model(case: Case, names: Sequence[str], count: int | None) -> None:
    """A list beside a trained model, which has as many classes and may name them itself."""
    own = case.facts.model.get("classes")
    if count is not None and len(names) != count:
        case.error(
            CLASS_LIST,
            f"names {len(names)} classes, and the model has {count}",
            f"{count} names, in the order of the model's classes",
            "leave it out: the model names its classes" if own else "correct the list",
            kind=DataError,
        )
    elif own and list(own) != list(names):
        case.warn(CLASS_LIST, f"has no effect: the model names its classes: {first_of(own)}")


def _classes_of(case: Case) -> int | None:
    """How many classes the model has, where that is known."""
    own = case.facts.model.get("num_classes") if case.action != "train" else None
    return own or (case("model.num_classes") if case.known("model.num_classes") else None)


def named_classes(case: Case) -> None:
    """Each of the classes that are asked for stands once: its place is its label."""
    for key in () if _segments(case) else (CHOSEN, COLUMNS):
        names = case(key)
        if not isinstance(names, list):
            continue
        # Two spellings of one name in Unicode are one class, as of folders.
        forms = [unicodedata.normalize("NFC", str(name)) for name in names]
        once = list(dict.fromkeys(forms))
        if len(once) == len(forms):
            continue
        twice = [name for name in once if forms.count(name) > 1]
        as_json = json.dumps(once, ensure_ascii=False)
        case.error(
            key,
            f"names {first_of(twice)} more than once: a class has one label",
            "each class once, in the order of the labels",
            f"take {first_of(twice)} out where it stands again"
            if len(once) > 10
            else shlex.quote(f"{key}={as_json}"),
        )


def mask_values(case: Case) -> None:
    """The values of the classes are each listed once, one for each class, and nothing beside them
    says otherwise."""
    listed = case(MASK_VALUES)
    if not _segments(case) or not listed:
        return
    once = list(dict.fromkeys(listed))
    if len(once) < len(listed):
        twice = [str(value) for value in once if listed.count(value) > 1]
        case.error(
            MASK_VALUES,
            f"lists {first_of(twice)} more than once: a value is one class",
            "distinct values, one for each class",
            f"{MASK_VALUES}={json.dumps(once, separators=(',', ':'))}"
            if 2 <= len(once) <= 10
            else f"take {first_of(twice)} out where it stands again",
        )
        return
    classes = _classes_of(case)
    if classes is not None and classes != len(listed) and case.action == "train":
        case.error(
            "model.num_classes",
            f"{MASK_VALUES} lists {len(listed)} values",
            str(len(listed)),
            f"set model.num_classes={len(listed)}, or list one value for each class",
        )
    elif classes is not None and classes != len(listed_values(case)):
        case.errors.append(other_number(listed, classes))
    if case(REDUCE_ZERO) and set_for_run(case.provenance, REDUCE_ZERO):
        case.error(
            REDUCE_ZERO,
            f"{MASK_VALUES} says which value is which class, so that 0 is a class or none by it",
            f"false, or no {MASK_VALUES}",
            f"leave {REDUCE_ZERO} out, or set it to false",
        )
    if case(IGNORE) in listed and set_for_run(case.provenance, IGNORE):
        number = listed.index(case(IGNORE))
        case.warn(IGNORE, f"has no effect: {case(IGNORE)} is class {number} by {MASK_VALUES}")


def ignored_value(case: Case) -> None:
    """The mask value that is ignored is no class."""
    value, classes = case(IGNORE), _classes_of(case)
    if not _segments(case) or value is None or classes is None or listed_values(case):
        return
    if nobody_counts(case):
        return  # which is said by the masks, with what they hold
    if case.action != "train" and not case.facts.model and not case.given("model.num_classes"):
        return  # the default says nothing of a model that was not looked at
    least = classes + int(reduces(case))  # 1 … N where 0 is unlabeled
    if value >= least:
        return
    given = case.action != "train" or case.given("model.num_classes")
    hint = "set model.num_classes to the number of classes in the masks"
    case.error(
        IGNORE,
        f"is the number of one of the {classes} classes"
        if given
        else f"is the number of one of {classes} classes, the default of model.num_classes, which "
        "nobody has set",
        f"at least {least}",
        f"set {IGNORE} to a value that no class has, such as 255" if given else hint,
    )


def scale_jitter(case: Case) -> None:
    """The bounds of a random scale are in order."""
    low, high = case(JITTER, [1.0, 1.0])
    if _segments(case) and low > high:
        case.error(
            JITTER,
            "the smallest factor is above the largest",
            "[smallest, largest]",
            "swap the two",
        )
    elif _segments(case) and (low > MAGNIFIED or high < 1 / MAGNIFIED):
        text = (
            f"every picture is magnified {low:g} times or more: a crop sees {1 / low**2:.2g} of it"
        )
        if high < 1 / MAGNIFIED:
            text = f"every picture is shrunk to {high:g} of its sides or less, and the rest filled"
        if low > LOST_SCALE or high < 1 / LOST_SCALE:
            case.error(
                JITTER,
                f"{text}: nothing of what validation shows is learned",
                "factors around 1",
                "the default is [0.5, 2]",
            )
        else:
            case.warn(JITTER, f"{text}; the default is [0.5, 2]")


def _validates(case: Case) -> bool:
    return bool(case("dataset.val_data_sources") or case("dataset.val_fraction"))


RULES = [
    Rule(crops, ("train",)),
    Rule(erased, ("train",)),
    Rule(mirrored, ("train",)),
    Rule(sides, ("train",)),
    Rule(center, ("train", "evaluate", "inference", "export")),
    Rule(value_range),
    Rule(statistics, ("train",)),
    Rule(units),
    Rule(task, ("train",)),
    Rule(labels_to_compare, ("evaluate",)),
    Rule(validation, ("train",)),
    Rule(monitor, ("train",)),
    Rule(without_data, ("train",)),
    Rule(pyramid, ("train",)),
    Rule(class_list, ("train", "evaluate", "inference", "export")),
    Rule(named_classes, ("train", "evaluate")),
    Rule(mask_values, ("train", "evaluate", "inference", "export")),
    Rule(ignored_value, ("train", "evaluate", "inference")),
    Rule(scale_jitter, ("train",)),
]
