"""What the names of classes and of their folders say against them: errors where two classes are one
to every eye, warnings where they may be.

`Facts.data` holds what was seen; see `mae_sdk.data.class_names` and `mae_sdk.data.parts`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mae_skill.errors import DataError
from mae_skill.rules.base import Case
from mae_skill.rules.seen import (
    FEW,
    TRAIN,
    VAL,
    Seen,
    files_of,
    first_of,
    no_classes,
    segments,
    sources,
)

MERGE = "rename them to one name, or give the classes by a table (dataset.labels.train)"


def _training(case: Case) -> Seen:
    """What was seen in the images that a classifier learns from; empty where there is none, or
    where their folders were refused as classes."""
    found = case.facts.data.get(TRAIN) or {}
    if case("train.stage") != "finetune" or segments(case) or no_classes(found):
        return {}
    return found


def twins(case: Case) -> None:
    """Names that may be one class. Those that differ in nothing that can be seen are an error; in
    case or alphabet they may be letters that a model is to read, so that is a warning."""
    found = _training(case)
    doubtful = found.get("doubtful_names") or {}
    for group in doubtful.get("hidden", [])[:FEW]:
        case.error(
            TRAIN,
            f"the classes {_with_counts(found, group, exact=True)} have names that look the same",
            "each class once",
            "they differ in white space, or in characters that are not seen: " + MERGE,
            kind=DataError,
        )
    for differ, groups in (doubtful.get("twins") or {}).items():
        alike = "alphabet" in differ  # to be told apart by their numbers alone
        pairs = "; ".join(_with_counts(found, group, exact=alike) for group in groups[:FEW])
        more = f"; and {len(groups) - FEW} more such groups" if len(groups) > FEW else ""
        case.warn(
            TRAIN,
            f"classes that differ in {differ} alone, learned apart and perhaps one: {pairs}{more}; "
            f"where they are one, {MERGE}",
        )
    if missing := doubtful.get("missing"):
        case.warn(
            TRAIN,
            f"named like a missing value, and learned as a class: {_with_counts(found, missing)}; "
            "where it means that there is no label, take these pictures out",
        )


def joined(case: Case) -> None:
    """Names that are several labels of one picture, learned as one class more."""
    found = _training(case)
    names = (found.get("doubtful_names") or {}).get("joined") or []
    if not names:
        return
    several = bool(case("model.multi_label"))
    way = "write | between them" if several else "model.multi_label=true, and | between them"
    case.warn(
        TRAIN,
        f"names that hold other names, each learned as a class of its own: "
        f"{_with_counts(found, names)}; where they are several labels of one picture, a table of "
        f"labels gives each of them ({way})",
    )


def made(case: Case) -> None:
    """Folders of what programs make of pictures, beside the classes."""
    found = _training(case)
    if names := found.get("made_folders"):
        case.warn(
            TRAIN,
            "named like what programs make of pictures or leave beside them, and learned as a "
            f"class: {_with_counts(found, names)}; where it is none, move it out of the source",
        )


def _with_counts(found: Seen, names: Sequence[str], *, exact: bool = False) -> str:
    """``Ant (3) and ant (2)``; exact: with every odd character spelled out."""
    counts = found.get("class_counts") or {}
    shown = [f"{ascii(name) if exact else name} ({counts.get(name, 0)})" for name in names[:FEW]]
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return " and ".join(shown) + more if len(shown) < 3 else ", ".join(shown) + more


def parts_of_a_set(case: Case) -> None:
    """Folders that may be parts of a data set, and may be classes."""
    found = _training(case)
    if lone := found.get("lone_splits"):
        case.warn(
            TRAIN,
            f"named like a part of a data set, and learned as a class: {_with_counts(found, lone)}",
        )
    if odd := found.get("odd_parts"):
        case.warn(
            TRAIN,
            f"the classes {first_of(odd)} are named like pieces of one data set, or like several "
            "pictures of one scene: are the folders classes?",
        )


def nested(case: Case) -> None:
    """Images below the folders of the classes, where others lie right in them."""
    found = _training(case)
    below = found.get("nested")
    if not below:
        return
    folders = below["folders"]
    shown = ", ".join(
        f"{folder} ({count}) as {folder.partition('/')[0]}"
        for folder, count in list(folders.items())[:FEW]
    )
    more = ", …" if len(folders) > FEW else ""
    case.warn(
        TRAIN,
        f"{below['count']} of {found['images']} images are deeper than the others, in folders "
        f"below that of their class, and are learned as: {shown}{more}; where these folders are "
        "the classes, move them up",
    )


def numbers_and_names(case: Case) -> None:
    """Sources whose classes are numbers, beside sources whose classes are names."""
    found = _training(case)
    both = found.get("numbers_and_names")
    if both:
        (where, *numbers), (other, *names) = both["numbers"], both["names"]
        case.warn(
            TRAIN,
            f"the classes of {where} are numbers ({first_of(numbers)}), those of {other} names "
            f"({first_of(names)}): where both are one list, they are learned as two",
        )


def labels_differ(case: Case) -> None:
    """Two sources of a class that contradict each other."""
    found = _training(case)
    for other, some in (found.get("labels_differ") or {}).items():
        case.warn(
            TRAIN,
            f"{some['count']} images have another class by {other} than by .cls, which is read: "
            f"{files_of(some)}",
        )


_ENCODED = {
    "format": "the file format",
    "depth": "the depth",
    "color": "gray or color",
    "size": "the size of the file's picture",
}


def told_by_encoding(case: Case) -> None:
    """Classes that differ in how their pictures are stored: that is easier to learn than what they
    show."""
    found = _training(case)
    for aspect, values in (found.get("encoded") or {}).items():
        listed = "; ".join(
            f"{value}: {first_of(names)}" for value, names in list(values.items())[:FEW]
        )
        case.warn(
            TRAIN,
            f"the classes can be told by {_ENCODED.get(aspect, aspect)} alone, whatever the "
            f"pictures show: {listed}; save all of them alike",
        )


def stored_otherwise(case: Case) -> None:
    """Validation images that are stored otherwise than training images."""
    found = case.facts.data
    ours = (found.get(TRAIN) or {}).get("stored") or {}
    _stored_otherwise(case, VAL, ours, "the scores are of another kind of picture")


def stored_unlike_training(case: Case) -> None:
    """Images for a model that are stored otherwise than those that it was trained on."""
    what = "scores" if case.action == "evaluate" else "answers"
    for key, found in sources(case):
        ours = found.get("taught_stored") or {}
        _stored_otherwise(case, key, ours, f"the {what} are of another kind of picture")


def _stored_otherwise(case: Case, key: str, ours: Seen, so: str) -> None:
    theirs = (case.facts.data.get(key) or {}).get("stored") or {}
    for aspect in ours:
        if aspect in theirs and ours[aspect] != theirs[aspect]:
            case.warn(
                key,
                f"the images differ from the training images in {_ENCODED[aspect]}: "
                f"{theirs[aspect]}, where those are {ours[aspect]}; {so}",
            )


def near(case: Case) -> str:
    """Which known classes the unknown ones of the validation images are perhaps; else what to do
    about them."""
    against = (case.facts.data.get(VAL) or {}).get("against") or {}
    pairs = [f"{name!a} for {known!a}" for name, known in (against.get("near") or {}).items()]
    if pairs:
        return f"perhaps another spelling: {first_of(pairs)}"
    also = ", add training images of them" if case.action == "train" else ""
    if case("model.multi_label"):  # whose classes are those of its table
        return (
            f"correct these labels{also}; of a table with columns of 0 and 1 name those that count "
            "in dataset.labels.columns"
        )
    return f"rename these classes{also}, or name those that count in dataset.classes"


INSPECTED = [
    twins,
    joined,
    made,
    parts_of_a_set,
    nested,
    numbers_and_names,
    labels_differ,
    told_by_encoding,
    stored_otherwise,
]
