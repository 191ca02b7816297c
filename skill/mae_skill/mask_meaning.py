"""What the values of masks mean: which is which class, and which count as no class. Reading masks,
judging them and reporting them all ask here.

By default a value is a class by its number, shifted by one where 0 is unlabeled
(``reduce_zero_label``), and ``ignore_index`` is none. Where ``mask_values`` lists a value for each
class, a value of the list is its class, whatever ``ignore_index`` is; ``ignore_index``, where it
is not listed, is none; any other value is no class that a mask may hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mae_skill.errors import SpecError
from mae_skill.origin import Origin, OriginKind

MASK_VALUES = "dataset.segmentation.mask_values"
REDUCE_ZERO = "dataset.segmentation.reduce_zero_label"
IGNORE = "dataset.segmentation.ignore_index"
CLASSES = "model.num_classes"

MOST = 65535
"""The largest value of a mask."""

MOST_LEVELS = 12
"""Values up to which levels of gray are taken for classes; of more they are smoothed edges."""

EDGES, RARER = 3, 5
"""Levels at least, and how many times rarer than the classes they are, that are smoothed edges."""


@dataclass(frozen=True)
class MaskMeaning:
    """The meaning of a value of a mask.

    Attributes:
        classes: how many there are.
        ignored: the value of pixels that do not count, where it is no class.
        reduces: 0 is unlabeled and v is class v - 1, where no values are listed.
        listed: the value of each class, in order; empty: the numbers of the classes.
    """

    classes: int
    ignored: int = 255
    reduces: bool = True
    listed: tuple[int, ...] = ()

    @property
    def first(self) -> int:
        """The value of class 0, of numbered classes."""
        return int(self.reduces)

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {value: number for number, value in enumerate(self.listed)}

    def is_nothing(self, value: int) -> bool:
        """Whether pixels of a value count as no class, as is meant."""
        if value in self._numbers:
            return False
        return value == self.ignored or (not self.listed and value < self.first)

    def is_strange(self, value: int) -> bool:
        """Whether a value is neither a class nor meant as none."""
        if self.is_nothing(value):
            return False
        return value not in self._numbers if self.listed else value >= self.classes + self.first

    def class_of(self, value: int) -> int | None:
        """The number of the class that a value stands for; None: of none."""
        if self.is_nothing(value) or self.is_strange(value):
            return None
        return self._numbers[value] if self.listed else value - self.first

    @property
    def values(self) -> Sequence[int]:
        """The value of each class, in order; of numbers those that a mask can hold."""
        last = min(self.classes + self.first, MOST + 1)
        return self.listed or range(self.first, last)

    @property
    def label_of_none(self) -> int:
        """What stands for no class among the numbers of the classes: ``ignore_index``, where it is
        no such number."""
        if not self.listed or self.ignored >= self.classes:
            return self.ignored
        return max(255, self.classes)

    def in_words(self) -> str:
        """What a mask may hold, as what was expected."""
        if self.listed:
            more = "" if self.ignored in self._numbers else f", or ignore_index {self.ignored}"
            shown = ", ".join(map(str, self.listed[:8]))
            return f"{shown}{' …' if len(self.listed) > 8 else ''} (mask_values){more}"
        zero = "0 (unlabeled), " if self.reduces else ""
        return (
            f"{zero}{self.first} … {self.classes - 1 + self.first}, or ignore_index {self.ignored}"
        )


def set_for_run(provenance: Mapping[str, Origin], name: str = MASK_VALUES) -> bool:
    """Whether somebody set a field for this run, a parent and a recipe aside; of a list any of its
    items counts."""
    kinds = OriginKind.set_for_this_run()
    return any(
        origin.kind in kinds
        for key, origin in provenance.items()
        if key == name or key.startswith(f"{name}[")
    )


def other_number(listed: Sequence[int], classes: int) -> SpecError:
    """The error of a list that has not one value for each class of a model."""
    return SpecError(
        f"lists {len(listed)} values, and the model has {classes} classes",
        field=MASK_VALUES,
        got=list(listed),
        expected=f"{classes} values, in the order of the model's classes",
        hint="list the value of each class once",
    )


def as_setting(listed: Sequence[int], *, classes: bool = True, reduces: bool = False) -> str:
    """The settings by which masks of these values are read, as a command line takes them.

    Args:
        classes: say the number of classes too.
        reduces: ``reduce_zero_label=true`` was set, and has to go.
    """
    parts = [f"{MASK_VALUES}=[{','.join(map(str, listed))}]"]
    parts += [f"{CLASSES}={len(listed)}"] if classes else []
    parts += [f"{REDUCE_ZERO}=false"] if reduces else []
    return " ".join(parts)


def are_numbers(held: Mapping[int, float], ignored: int) -> bool:
    """Whether values of masks number classes, rather than being levels of gray."""
    numbers = sorted(value for value in held if value != ignored)
    if is_smoothed(held):
        return False
    if len([value for value in numbers if value]) < 2:  # 0 and 255, 0 and 2 are levels
        return numbers == [0, 1]
    return numbers[-1] + 1 <= 2 * len(numbers) + 1


def is_smoothed(held: Mapping[int, float]) -> bool:
    """Whether values of masks are two classes and the smoothed edges between them: several levels,
    each of far fewer pixels than either end, up to near the upper one."""
    first, *middle, last = sorted(held) if len(held) > 1 else (0, 0)
    if len(middle) < EDGES or 2 * middle[-1] <= last:
        return False
    return min(held[first], held[last]) >= RARER * max(held[value] for value in middle)


def levels(
    held: Mapping[int, float], ignored: int, wanted: int | None = None, listed: Sequence[int] = ()
) -> list[int]:
    """The value of each class, of masks of a few levels of gray; empty where they number classes,
    or are so many that they are smoothed edges.

    Args:
        held: value of the masks → its pixels, or their share.
        wanted: how many classes somebody says that there are: the ignored value is none of them
            where the others are as many.
        listed: the values that somebody lists, which come first.
    """
    if not 2 <= len(held) <= MOST_LEVELS or is_smoothed(held):
        return []
    if not listed and are_numbers(held, ignored):
        return []
    found = [*listed, *(value for value in sorted(held) if value not in listed)]
    if wanted is not None and len(found) == wanted + 1 and ignored not in listed:
        found = [value for value in found if value != ignored]
    return found if len(found) >= 2 else []


def first_settings(
    held: Mapping[int, float],
    ignored: int = 255,
    *,
    names: int | None = None,
    reduces: bool = True,
) -> dict[str, Any]:
    """Dotted key → value: the settings by which masks of these values are read, of a training that
    says nothing of how many classes there are; empty where that is not plain.

    Masks of 0 and 1 have two classes. Of other numbers 0 is taken to be unlabeled, as in ADE20K.

    Args:
        held: as of `levels`.
        names: how many classes somebody names.
        reduces: ``reduce_zero_label``, as it is.
    """
    if listed := levels(held, ignored, names):
        return {MASK_VALUES: listed, CLASSES: len(listed)}
    if not are_numbers(held, ignored):
        return {}
    last = max(value for value in held if value != ignored)
    from_zero = not reduces or last == 1 or bool(names and names > last and 0 in held)
    found: dict[str, Any] = {CLASSES: names or last + from_zero}
    return {**found, REDUCE_ZERO: False} if from_zero and reduces else found


def held_in(seen: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Value → pixels, of all masks of the sources that were looked at (`Facts.data`)."""
    found: dict[int, float] = {}
    for source in seen:
        for value, about in ((source.get("mask_values") or {}).get("values") or {}).items():
            found[int(value)] = found.get(int(value), 0) + about["pixels"]
    return dict(sorted(found.items()))
