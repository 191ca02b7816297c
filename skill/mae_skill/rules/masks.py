"""What was seen in the masks of a run: errors where its result would mean nothing, warnings where
it might."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from mae_skill.classes import read_class_list
from mae_skill.errors import DataError, MaeError
from mae_skill.mask_meaning import (
    CLASSES,
    IGNORE,
    MASK_VALUES,
    REDUCE_ZERO,
    MaskMeaning,
    are_numbers,
    as_setting,
    first_settings,
    held_in,
    levels,
    set_for_run,
)
from mae_skill.origin import OriginKind, is_explicit
from mae_skill.rules.base import Case, Notice
from mae_skill.rules.seen import TRAIN, VAL, Seen, files_of, first_of, masks_of, segments, sources

LIMIT = "dataset.max_corrupt_fraction"
CLASS_LIST = "dataset.segmentation.class_list"

SPARSE = 0.95
"""Share of ignored pixels that is worth a word."""


def masks(case: Case) -> None:
    """Masks hold the classes that the model learns, and two of them at least."""
    if not segments(case):
        return
    seen = [(key, found) for key, found in sources(case) if _values(found)]
    if nobody_counts(case):
        _unset(case, seen)
        return
    meaning = meaning_of(case)
    if meaning is None:
        return
    if not meaning.listed and meaning.ignored < meaning.classes + meaning.first:
        return  # it is the number of a class, which is an error of its own
    if meaning.listed and len(meaning.listed) != meaning.classes:
        return  # as above
    present: dict[str, set[int]] = {}
    held, taught = held_in(found for _, found in seen), _values({})
    for key, found in seen:
        values = _values(found)
        if case.action == "inference":
            continue
        strange = [value for value in values if meaning.is_strange(int(value))]
        _ignored(case, key, found, meaning)
        if strange:
            _strange(case, key, values, strange, held, meaning)
            if key == VAL and TRAIN in present:
                case.errors[-1].hint = (
                    f"the training masks hold the values {first_of(list(taught))}: number the "
                    "validation masks as these"
                )
            continue
        if key == TRAIN:
            taught = values
        numbers = {meaning.class_of(int(value)) for value in values}
        there = {number for number in numbers if number is not None}
        present[key] = there
        if len(there) < 2:
            _one_class(case, key, values, there, held, meaning)
        elif len(there) < meaning.classes:
            absent = [str(number) for number in range(meaning.classes) if number not in there]
            case.warn(
                key,
                f"{len(absent)} of {meaning.classes} classes "
                f"{'occurs' if len(absent) == 1 else 'occur'} in no mask{_looked(found)}: "
                f"{first_of(absent)}; their IoU is undefined and left out"
                + _swallowed(values, meaning),
            )
    both = present.get(TRAIN), present.get(VAL)
    if both[0] and both[1] and both[1] - both[0]:
        untaught = [str(number) for number in sorted(both[1] - both[0])]
        case.warn(VAL, f"classes that no training mask holds: {first_of(untaught)}")


def reduces(case: Case) -> bool:
    """Whether 0 is unlabeled: as somebody says, else as in the training of a model that says it."""
    said = case.facts.model.get("reduce_zero_label") if case.facts.model else None
    if said is None or is_explicit(case.provenance, REDUCE_ZERO):
        return bool(case(REDUCE_ZERO, True))
    return bool(said)


def listed_values(case: Case) -> tuple[int, ...]:
    """The value of each class: as somebody says for this run, else as in the training of the
    model."""
    said, asked = case.facts.model if case.action != "train" else {}, case(MASK_VALUES)
    own = bool(said) and said.get("reduce_zero_label") is not None
    if own and not (asked and set_for_run(case.provenance)):
        asked = said.get("mask_values")
    return tuple(int(value) for value in asked or ())


def meaning_of(case: Case) -> MaskMeaning | None:
    """What the values of the masks mean; None where the number of classes is not known."""
    classes = case(CLASSES)
    if classes is None or not case.known(CLASSES):
        return None
    return MaskMeaning(classes, case(IGNORE, 255), reduces(case), listed_values(case))


def nobody_counts(case: Case) -> bool:
    """Whether the masks were looked at, and nobody says how many classes they have."""
    if case.action != "train" or case.origin(CLASSES) not in OriginKind.unset():
        return False
    return segments(case) and any(_values(found) for _, found in sources(case))


def _values(found: Seen) -> Seen:
    """Value, as text → what was seen of it; empty where no mask was looked at."""
    values: Seen = (found.get("mask_values") or {}).get("values") or {}
    return values


def _unset(case: Case, seen: Sequence[tuple[str, Seen]]) -> None:
    """Nobody said how many classes there are, which the masks say nearly."""
    held = held_in(found for _, found in seen)
    case.errors.append(
        DataError(
            f"nobody has set it, and the masks hold the values {first_of(list(map(str, held)))}",
            field=CLASSES,
            got=f"{case(CLASSES)}, the default",
            expected="the number of classes in the masks",
            hint=settings_for(case, held),
        )
    )


def settings_for(case: Case, held: Mapping[int, float]) -> str:
    """How masks of these values are learned, where nobody says how many classes there are."""
    ignored, names, reduced = case(IGNORE, 255), _named(case), bool(case(REDUCE_ZERO, True))
    said = reduced and set_for_run(case.provenance, REDUCE_ZERO)
    found = first_settings(held, ignored, names=names, reduces=reduced)
    if listed := found.get(MASK_VALUES):
        return _listed(listed, ignored, reduced=said)
    if not found:
        return _unclear(held, ignored)
    if found.get(REDUCE_ZERO) is False:
        return f"set {CLASSES}={found[CLASSES]} {REDUCE_ZERO}=false"
    text = f"set {CLASSES}={found[CLASSES]}"
    if 0 in held and reduced and not said and not names:
        text += f"; or, if 0 is a class, {CLASSES}={found[CLASSES] + 1} {REDUCE_ZERO}=false"
    return text


def _named(case: Case) -> int | None:
    """How many classes somebody names."""
    with suppress(MaeError):  # which has an error of its own
        names = read_class_list(case(CLASS_LIST) or [])
        return len(names) if names else None
    return None


def readings(held: Mapping[int, float], ignored: int = 255) -> list[str]:
    """What is to be said of masks with these values, of which nobody says anything: the
    settings that a training needs; nothing where they are numbers of classes from 1."""
    shown = first_of(list(map(str, held)))
    found = first_settings(held, ignored)
    if listed := found.get(MASK_VALUES):
        also = f", and {ignored} is ignore_index by default" if ignored in held else ""
        return [f"the values are {shown}, no numbers of classes{also}: {_listed(listed, ignored)}"]
    if not found:
        return [_unclear(held, ignored)]
    if found.get(REDUCE_ZERO) is False:
        settings = f"{CLASSES}=2 {REDUCE_ZERO}=false"
        return [
            f"the values are {shown}, and 0 is unlabeled by default: for two classes set {settings}"
        ]
    return []


def _listed(listed: Sequence[int], ignored: int, *, reduced: bool = False) -> str:
    """The settings that list these values, and how a value is left out that is no class."""
    text = f"set {as_setting(listed, reduces=reduced)}"
    if len(listed) < 3:
        return text
    if ignored in listed:
        fewer = as_setting([value for value in listed if value != ignored])
        return f"{text}; or, if {ignored} means no class, {fewer}"
    return f"{text}; leave out a value that means no class, and set {IGNORE} to it"


def _unclear(held: Mapping[int, float], ignored: int) -> str:
    """What to do about masks of one value, or of the smoothed edges of a picture."""
    if len(held) < 2:
        return "masks of one value have nothing to learn: name those that hold two classes or more"
    ends = [min(held), max(held)]
    return (
        f"these are {len(held)} levels of gray, as of smoothed edges, no class numbers: map those "
        f"between the classes to {ignored}, which counts as no class, or to the nearest class; "
        f"then, of {ends[0]} and {ends[1]} alone, set {as_setting(ends)}"
        if ignored not in ends
        else f"these are {len(held)} levels of gray, as of smoothed edges, no class numbers: map "
        f"each to the nearest class in the masks; then, of {ends[0]} and {ends[1]} alone, set "
        f"{as_setting(ends)}"
    )


def _strange(
    case: Case,
    key: str,
    values: Seen,
    strange: list[str],
    held: Mapping[int, float],
    meaning: MaskMeaning,
) -> None:
    value = strange[0]
    case.error(
        CLASSES,
        f"masks hold values that are no class: {first_of(strange)}; "
        f"{values[value]['images']} hold {value}, the first is {values[value]['first']}",
        meaning.in_words(),
        _mended(case, held, meaning),
        kind=DataError,
    )


def _mended(case: Case, held: Mapping[int, float], meaning: MaskMeaning) -> str:
    """How masks of these values are learned: as they are where they number classes, else listed."""
    if listed := levels(held, meaning.ignored, meaning.classes, meaning.listed):
        return _list_hint(case, listed, meaning)
    if meaning.listed or not are_numbers(held, meaning.ignored):
        return _unclear(held, meaning.ignored)
    numbers = sorted(value for value in held if not meaning.is_nothing(value))
    most = numbers[-1] + 1 - meaning.first
    if case.action != "train":
        return f"the model has {meaning.classes} classes: name masks of these, or another model"
    return (
        f"set {CLASSES}={most}, or change {REDUCE_ZERO} or {IGNORE} where a value is meant as no "
        "class"
    )


def _list_hint(case: Case, listed: Sequence[int], meaning: MaskMeaning) -> str:
    """A list of values as a hint; a trained model has as many classes as it has."""
    reduced = bool(case(REDUCE_ZERO)) and set_for_run(case.provenance, REDUCE_ZERO)
    if case.action == "train":
        if len(listed) > max(meaning.classes, 2) and meaning.ignored not in listed:
            return (
                f"set {as_setting(listed, reduces=reduced)}; or, if {meaning.classes} of them are "
                f"classes, list these, and map the others to {meaning.ignored} in the masks"
            )
        return _listed(listed, meaning.ignored, reduced=reduced)
    if len(listed) == meaning.classes:
        text = as_setting(listed, classes=False)
        return f"set {text}, in the order of the model's classes"
    return (
        f"list the values of the model's {meaning.classes} classes, in their order: {MASK_VALUES}="
        "[…]; other values than these and ignore_index have to go from the masks"
    )


def _one_class(
    case: Case,
    key: str,
    values: Seen,
    there: set[int],
    held: Mapping[int, float],
    meaning: MaskMeaning,
) -> None:
    of_all = ", ".join(values)
    what = f"only class {there.pop()}" if there else "no class at all: no pixel has a label"
    text = f"the masks hold {what} (values {of_all}): a score over it means nothing" + _swallowed(
        values, meaning
    )
    case.error(
        key,
        text,
        f"masks with two classes or more: {meaning.in_words()}",
        _two_classes(case, held_in([{"mask_values": {"values": values}}]), held, meaning),
        kind=DataError,
    )


def _two_classes(
    case: Case, values: Mapping[int, float], held: Mapping[int, float], meaning: MaskMeaning
) -> str:
    """How masks of which a value is swallowed have two classes."""
    if len(values) < 2:
        return "name masks that hold two classes or more"
    if listed := levels(values, meaning.ignored, None, meaning.listed):
        listed = levels(held, meaning.ignored, None, meaning.listed) or listed
        return _list_hint(case, listed, meaning)
    if case.action == "train" and not meaning.listed and meaning.first:
        classes = max(value for value in held if value != meaning.ignored) + 1
        return f"if 0 is a class, set {REDUCE_ZERO}=false {CLASSES}={classes}"
    return f"set {MASK_VALUES} to the value of each class in the masks"


def _swallowed(values: Seen, meaning: MaskMeaning) -> str:
    """What of the values is ignored, for a class that is missing."""
    parts = []
    if str(meaning.ignored) in values and meaning.is_nothing(meaning.ignored):
        parts.append(f"{meaning.ignored} is ignore_index")
    reduced = not meaning.listed and meaning.first and "0" in values
    if reduced:
        parts.append("0 is unlabeled under reduce_zero_label")
    if not parts:
        return ""
    told = "; " + " and ".join(parts) + ", so these pixels count as no class"
    return told + (", and class 0 is value 1 of the masks" if reduced else "")


def _looked(found: Seen) -> str:
    return "" if found["read"] >= found["images"] else f" of the {found['read']} looked at"


def _ignored(case: Case, key: str, found: Seen, meaning: MaskMeaning) -> None:
    """Masks of which nearly nothing counts."""
    values = found["mask_values"]["values"]
    total = sum(one["pixels"] for one in values.values())
    kept = sum(one["pixels"] for value, one in values.items() if not meaning.is_nothing(int(value)))
    share = 1 - kept / max(total, 1)
    if kept and share > SPARSE:
        case.warn(
            key,
            f"{share:.1%} of the pixels of the masks count as no class"
            + _swallowed(values, meaning).partition(", so these pixels")[0],
        )


def files(case: Case) -> None:
    """What of mask files does not agree with other files."""
    if not segments(case):
        return
    for key, found in sources(case):
        if words := found.get("mask_names"):
            text = f"each mask has the name of its image in {' or '.join(words)}, and is taken so"
            case.warnings.append(Notice(masks_of(key), text, note=True))
        seen = found.get("mask_values")
        if not seen:
            continue
        problem, warnings = doubts({**found, **seen}, float(case(LIMIT, 0.01)))
        if problem:
            case.errors.append(
                DataError(
                    problem,
                    field=masks_of(key),
                    got=seen["permuted"]["colors"],
                    expected="one palette in all masks",
                    hint=ONE_PALETTE,
                )
            )
        for text in warnings:
            case.warn(key, text)


ONE_PALETTE = (
    "a mask is read by its numbers, not by its colors: save all masks with one palette, or without "
    "one where the numbers are right"
)


def doubts(seen: Seen, limit: float) -> tuple[str | None, list[str]]:
    """What is wrong with masks as they are, and what may be.

    Args:
        seen: ``read``, and of ``permuted, pages, same, shared_masks, spare_masks`` what there is.
        limit: the share of bad files that is tolerated.
    """
    problem, warnings = None, []
    if permuted := seen.get("permuted"):
        color = permuted["colors"][0]
        text = (
            f"{permuted['count']} of {seen['read']} masks use another number for a color of their "
            f"palette than the others: {color['color']} is {' and '.join(color['values'])}, as in "
            f"{' and '.join(permuted['files'])}"
        )
        if permuted["count"] > limit * seen["read"]:
            problem = text
        else:
            warnings.append(f"{text}; {ONE_PALETTE}")
    if pages := seen.get("pages"):
        warnings.append(
            f"{pages['count']} of {seen['read']} masks hold several pages or frames, and the first "
            f"of each is read: {files_of(pages)}; where each page is a class, save one mask of "
            "class numbers"
        )
    if shared := seen.get("shared_masks"):
        warnings.append(
            f"{shared['count']} images have their mask in common with another of the same name but "
            f"for the suffix: {' and '.join(shared['pairs'][0])}"
        )
    if same := seen.get("same"):
        warnings.append(
            f"{same['count']} of {seen['read']} masks are equal to that of another image: "
            f"{' = '.join(same['pairs'][0])}"
        )
    if spare := seen.get("spare_masks"):
        warnings.append(f"{spare['count']} masks belong to no image: {files_of(spare)}")
    return problem, warnings


RULES = [masks, files]
