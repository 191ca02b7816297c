"""What was seen in the masks of a run: errors where its result would mean nothing, warnings where
it might."""

from __future__ import annotations

from mae_skill.errors import DataError
from mae_skill.origin import is_explicit
from mae_skill.rules.agreement import REDUCE_ZERO
from mae_skill.rules.base import Case
from mae_skill.rules.seen import TRAIN, VAL, Seen, files_of, first_of, masks_of, segments, sources

LIMIT = "dataset.max_corrupt_fraction"
IGNORE = "dataset.segmentation.ignore_index"

SPARSE = 0.95
"""Share of ignored pixels that is worth a word."""


def masks(case: Case) -> None:
    """Masks hold the classes that the model learns, and two of them at least."""
    classes = case("model.num_classes")
    if not segments(case) or classes is None or not case.known("model.num_classes"):
        return
    first = int(reduces(case))
    ignored = case(IGNORE, 255)
    if ignored < classes + first:
        return  # it is the number of a class, which is an error of its own
    present: dict[str, set[int]] = {}
    for key, found in sources(case):
        values = (found.get("mask_values") or {}).get("values")
        if not values or case.action == "inference":
            continue
        strange = [value for value in values if not _is_meant(int(value), classes, ignored, first)]
        _ignored(case, key, found, ignored, first)
        if strange:
            _strange(case, key, values, strange, classes, ignored, first)
            continue
        there = {int(value) - first for value in values if _is_class(int(value), ignored, first)}
        present[key] = there
        if len(there) < 2:
            _one_class(case, key, values, there, classes, ignored, first)
        elif len(there) < classes:
            absent = [str(number) for number in range(classes) if number not in there]
            case.warn(
                key,
                f"{len(absent)} of {classes} classes {'occurs' if len(absent) == 1 else 'occur'} "
                f"in no mask{_looked(found)}: "
                f"{first_of(absent)}; their IoU is undefined and left out"
                + _swallowed(values, ignored, first),
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


def _is_class(value: int, ignored: int, first: int) -> bool:
    return value != ignored and value >= first


def _is_meant(value: int, classes: int, ignored: int, first: int) -> bool:
    return value == ignored or value < classes + first


def _meaning(classes: int, ignored: int, first: int) -> str:
    zero = "0 (unlabeled), " if first else ""
    return f"{zero}{first} … {classes - 1 + first}, or ignore_index {ignored}"


def _strange(
    case: Case, key: str, values: Seen, strange: list[str], classes: int, ignored: int, first: int
) -> None:
    value = strange[0]
    case.error(
        "model.num_classes",
        f"masks hold values that are no class: {first_of(strange)}; "
        f"{values[value]['images']} hold {value}, the first is {values[value]['first']}",
        _meaning(classes, ignored, first),
        _mended(sorted(int(one) for one in values), classes, ignored, first),
        kind=DataError,
    )


def _mended(held: list[int], classes: int, ignored: int, first: int) -> str:
    """How masks of these values are learned: as they are where they number classes, else mapped."""
    numbers = [value for value in held if value != ignored and value >= first]
    most = numbers[-1] + 1 - first
    if most <= 2 * len(numbers) + 1:
        return (
            f"set model.num_classes={most}, or change dataset.segmentation.reduce_zero_label or "
            "dataset.segmentation.ignore_index where a value is meant as no class"
        )
    if len(numbers) > classes:
        return (
            f"these are levels of gray, no class numbers: map those that are classes to {first} … "
            f"{classes - 1 + first} in the masks, and smoothed edges between them to {ignored}, "
            "which counts as no class"
        )
    pairs = [f"{value} to {number + first}" for number, value in enumerate(numbers)]
    if ignored in held:  # black and white masks have 255 for a class
        pairs.append(f"{ignored} to {len(numbers) + first}, if it is a class")
    return f"these are levels of gray, no class numbers: map {', '.join(pairs[:8])} in the masks"


def _one_class(
    case: Case, key: str, values: Seen, there: set[int], classes: int, ignored: int, first: int
) -> None:
    held = ", ".join(values)
    what = f"only class {there.pop()}" if there else "no class at all: no pixel has a label"
    text = f"the masks hold {what} (values {held}): a score over it means nothing" + _swallowed(
        values, ignored, first
    )
    ways = ["map the values of the masks to class numbers"]
    if str(ignored) in values:
        ways = [f"if {ignored} is a class, map it to 1 in the masks"]
    if case.action == "train" and first:  # a trained model brings it
        ways.append("if 0 is a class, set dataset.segmentation.reduce_zero_label=false")
    elif str(ignored) in values:
        ways.append("or set dataset.segmentation.ignore_index to a value that means no class")
    case.error(
        key,
        text,
        f"masks with two classes or more: {_meaning(classes, ignored, first)}",
        "; ".join(ways),
        kind=DataError,
    )


def _swallowed(values: Seen, ignored: int, first: int) -> str:
    """What of the values is ignored, for a class that is missing."""
    parts = []
    if str(ignored) in values:
        parts.append(f"{ignored} is ignore_index")
    if first and "0" in values:
        parts.append("0 is unlabeled under reduce_zero_label")
    if not parts:
        return ""
    told = "; " + " and ".join(parts) + ", so these pixels count as no class"
    return told + (", and class 0 is value 1 of the masks" if first and "0" in values else "")


def _looked(found: Seen) -> str:
    return "" if found["read"] >= found["images"] else f" of the {found['read']} looked at"


def _ignored(case: Case, key: str, found: Seen, ignored: int, first: int) -> None:
    """Masks of which nearly nothing counts."""
    values = found["mask_values"]["values"]
    total = sum(one["pixels"] for one in values.values())
    kept = sum(
        one["pixels"] for value, one in values.items() if _is_class(int(value), ignored, first)
    )
    share = 1 - kept / max(total, 1)
    if kept and share > SPARSE:
        case.warn(
            key,
            f"{share:.1%} of the pixels of the masks count as no class"
            + _swallowed(values, ignored, first).partition(", so these pixels")[0],
        )


def files(case: Case) -> None:
    """What of mask files does not agree with other files."""
    if not segments(case):
        return
    for key, found in sources(case):
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
