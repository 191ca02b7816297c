"""Whether a model has learned anything at all: an answer that is always the same, or no better than
chance, ends no run, and must not pass for a result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mae_sdk.jobs.intervals import Z, wilson
from mae_sdk.jobs.metrics import HEADLINES
from mae_sdk.report.markup import percent
from mae_sdk.report.words import named
from mae_skill.spelling import and_more, one_line

from mae_runners.metrics.iou import one_answer

NAMED = 8
"""Classes that a doubt names; the others are counted."""


def of_classes(confusion: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Of a classifier, from its confusion matrix ``[C, C]`` (rows = true class): it takes every
    image for one class, or is right no more often than who always says the most frequent one.

    Nothing is said of images of one class alone, on which nothing can be told.
    """
    truths, guesses = confusion.sum(axis=1), confusion.sum(axis=0)
    images = int(truths.sum())
    if np.count_nonzero(truths) < 2:
        return []
    if np.count_nonzero(guesses) == 1:
        name = one_line(classes[int(guesses.argmax())])
        return [f"the model takes every one of the {images} images for {name}: it tells nothing"]
    recalls = (confusion.diagonal() / np.maximum(truths, 1))[truths > 0]
    more = (
        f"; the mean recall of the classes is {percent(float(recalls.mean()))}, by chance "
        f"{percent(1 / len(recalls))}"
    )
    hits = int(confusion.diagonal().sum())
    doubt = _at_chance("accuracy", hits / images, images, truths, classes)
    return [doubt + more] if doubt else []


def of_share(name: str, value: float, counts: np.ndarray, classes: Sequence[str]) -> list[str]:
    """As the second of `of_classes`, where only the share of right answers is known.

    Args:
        name: of the figure.  counts: images of each class.
    """
    if np.count_nonzero(counts) < 2:
        return []
    doubt = _at_chance(name, value, int(counts.sum()), counts, classes)
    return [doubt] if doubt else []


def of_probes(shares: Mapping[str, float], counts: np.ndarray, classes: Sequence[str]) -> list[str]:
    """As `of_share`, of the probe that an evaluation is judged by; the others stand beside it.

    Args:
        shares: name of each probe's accuracy → share of right answers.
    """
    first, *others = [name for name in dict.fromkeys((*HEADLINES, *shares)) if name in shares]
    rest = "".join(f"; {named(name)} is {percent(shares[name])}" for name in others)
    return [doubt + rest for doubt in of_share(named(first), shares[first], counts, classes)]


def _at_chance(
    name: str, value: float, images: int, counts: np.ndarray, classes: Sequence[str]
) -> str:
    largest = int(counts.argmax())
    share = float(counts[largest]) / images
    low, high = wilson(value, images)
    if low > share:
        return ""
    verdict = "no better than chance"
    if value > share:
        verdict = f"not told from chance by {images} images"
    name_of = one_line(classes[largest])
    ties = int(np.count_nonzero(counts == counts[largest]))
    rank = "the most frequent class" if ties == 1 else f"one of {ties} classes of equal size"
    return (
        f"{verdict}: {name} {percent(value)} (95 %: {percent(low)} to {percent(high)}), and who "
        f"always answers {name_of}, {rank}, has {percent(share)}"
    )


LEAST_SPREAD = 0.05
"""Of the probabilities of a class: below it they say nearly the same of all images."""


def of_labels(
    per_class: Mapping[str, Mapping[str, Any]],
    images: int,
    spreads: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """Of a model of several labels: the mean AUROC of its classes is that of a coin; else which
    classes' own is, or is below it. And the classes whose probability is nearly the same for every
    image, which no ranking shows.

    Args:
        images: that were judged.
        spreads: `MultiLabelMetrics.spreads`, in the order of `per_class`.
    """
    return _rankings(per_class, images) + _constant(per_class, images, spreads)


def _constant(
    per_class: Mapping[str, Mapping[str, Any]],
    images: int,
    spreads: Sequence[tuple[float, float]],
) -> list[str]:
    same = [
        f"{one_line(name)} ({low:.3f} to {high:.3f})"
        for name, (low, high) in zip(per_class, spreads, strict=False)
        if high - low < LEAST_SPREAD and 0 < int(per_class[name]["images"]) < images
    ]
    if not same:
        return []
    of = f"{len(same)} of {len(per_class)} classes"
    return [f"the probabilities of {of} hardly vary from image to image: {and_more(same, NAMED)}"]


def _rankings(per_class: Mapping[str, Mapping[str, Any]], images: int) -> list[str]:
    """By chance the area of a class varies as the statistic of Mann and Whitney (1947) does."""
    areas, variance = [], 0.0
    guessed: list[str] = []
    reversed_: list[str] = []
    for name, one in per_class.items():
        of_class = int(one["images"])
        others = images - of_class
        if one.get("auroc") is not None and of_class and others:
            areas.append(float(one["auroc"]))
            own = (images + 1) / (12 * of_class * others)
            variance += own
            if areas[-1] + Z * math.sqrt(own) < 0.5:
                reversed_.append(f"{one_line(name)} ({areas[-1]:.3f})")
            elif areas[-1] - Z * math.sqrt(own) <= 0.5:
                guessed.append(f"{one_line(name)} ({areas[-1]:.3f})")
    if not areas:
        return []
    mean, error = sum(areas) / len(areas), math.sqrt(variance) / len(areas)
    if mean - Z * error > 0.5:
        found = []
        if guessed:
            found.append(
                f"{len(guessed)} of {len(areas)} classes not told from chance by {images} images: "
                f"an AUROC of 0.5 is that of a coin; {and_more(guessed, NAMED)}"
            )
        if reversed_:
            found.append(
                f"{len(reversed_)} of {len(areas)} classes ranked the wrong way round: the images "
                "that have one are given lower probabilities than those that have not (an AUROC "
                f"below 0.5); {and_more(reversed_, NAMED)}"
            )
        return found
    verdict = "no better than chance" if mean <= 0.5 else f"not told from chance by {images} images"
    text = f"{verdict}: the mean AUROC of the classes is {mean:.3f}, and by chance it "
    return [f"{text}is 0.5 ± {Z * error:.2g}"]


def of_masks(
    confusion: np.ndarray,
    classes: Sequence[str],
    interval: Mapping[str, Any] | None = None,
) -> list[str]:
    """Of a segmenter, from its confusion matrix of pixels ``[C, C]``: it answers one class alone,
    hits no pixel of all classes but one, or has no higher mean IoU, or fewer pixels right, than the
    most frequent class for every pixel; or the interval of its mean IoU holds that one's.

    Args:
        interval: ``low, high, method`` of the mean IoU, where there is one.
    """
    hits, truths, guesses = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    there = truths > 0
    constant = one_answer(confusion, classes)
    if constant is None:
        return []
    if np.count_nonzero(guesses) == 1:
        name = one_line(classes[int(guesses.argmax())])
        return [f"the model answers {name} for every pixel: it tells nothing"]
    missed = int(np.count_nonzero(hits[there] == 0))
    if missed >= np.count_nonzero(there) - 1:
        of = f"{missed} of the {np.count_nonzero(there)} classes of the masks"
        return [f"the IoU is 0 for {of}: the model hits at most one of them"]

    union = truths + guesses - hits
    mean = float((hits[union > 0] / union[union > 0]).mean())
    least, right = constant["mIoU"], float(hits.sum() / truths.sum())
    name = one_line(constant["class"])
    sure = ""
    if interval is not None:
        sure = f" (95 %: {percent(interval['low'])} to {percent(interval['high'])})"
    beside = f"mIoU {percent(mean)}{sure}, and {name} for every pixel has {percent(least)}"
    if mean <= least:
        return [f"no better than one answer: {beside}"]
    if interval is not None and interval["low"] <= least:
        return [f"not told from one answer, by a {interval['method']}: {beside}"]
    if right < constant["aAcc"]:
        one = f"with {name} for every pixel {percent(constant['aAcc'])} would be"
        return [
            f"{percent(right)} of the pixels are right, and {one}, at an mIoU of " + percent(least)
        ]
    return []
