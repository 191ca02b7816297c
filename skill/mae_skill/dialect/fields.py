"""The fields that a bundle's tables name and its template and schema do not have.

A runner may read a field that neither lists, so such a field is only named. One that is a slip of
the pen away from a field that is listed, and that its own table does not name beside it, is
misspelled: what goes there would be lost.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

SLIPS = 2
"""Letters that a misspelled word has wrong; a short one has one."""

SHORT = 4
"""Letters of a word below which a slip is a doubled letter alone: others are words as well."""

LONG = 8
"""Letters of a word that may have `SLIPS` of them."""


def is_slip(word: str, meant: str) -> bool:
    """Whether a word is another one with a letter or two wrong, missing, doubled or swapped.

    Words that differ in their numbers alone are different names: ``mean1``, ``mean2``.
    """
    if word == meant or re.sub(r"\d+", "0", word) == re.sub(r"\d+", "0", meant):
        return False
    if min(len(word), len(meant)) < SHORT:  # lr and lrr, but not lr and l2
        return _without_doubles(word) == _without_doubles(meant)
    return slips(word.lower(), meant.lower()) <= (SLIPS if len(meant) >= LONG else 1)


def _without_doubles(word: str) -> str:
    return re.sub(r"(.)\1+", r"\1", word.lower())


def slips(word: str, meant: str) -> int:
    """The changes that make one word of another: a letter put in, left out, replaced, or swapped
    with the next; `SLIPS` + 1 where the lengths alone say that there are more."""
    if abs(len(word) - len(meant)) > SLIPS:
        return SLIPS + 1
    before: list[int] = []
    row = list(range(len(meant) + 1))
    for at, letter in enumerate(word, 1):
        older, before, row = before, row, [at]
        for place, other in enumerate(meant, 1):
            cost = min(before[place] + 1, row[-1] + 1, before[place - 1] + (letter != other))
            if at > 1 and place > 1 and letter == meant[place - 2] and word[at - 2] == other:
                cost = min(cost, older[place - 2] + 1)
            row.append(cost)
    return row[-1]


def misspelled(key: str, listed: Iterable[str], taken: Collection[str]) -> str | None:
    """The field that a dotted key means, where one part of it has a slip; None where it has none.

    Args:
        listed: the fields that there are.
        taken: those that a table fills already: a field beside them is another one.
    """
    parts = key.split(".")
    for other in listed:
        there = other.split(".")
        if len(there) != len(parts) or other in taken:
            continue
        wrong = [(one, meant) for one, meant in zip(parts, there, strict=True) if one != meant]
        if len(wrong) == 1 and is_slip(*wrong[0]):
            return other
    return None


def unknown(
    tables: Mapping[str, Collection[str]], listed: Collection[str], has: Callable[[str], bool]
) -> dict[str, tuple[str, str | None]]:
    """Field → the table that names it, and the field that is meant, of those that are not there.

    Args:
        tables: key of a table → the fields that it names. A field of two tables is meant, unless it
            is misspelled and no table names the one that is there; a field of the table ``""``, of
            the command itself, always is.
        listed: the fields that there are.
        has: whether there may be a field.
    """
    found: dict[str, tuple[str, str | None]] = {}
    count = Counter(field for fields in tables.values() for field in set(fields))
    for table, fields in tables.items():
        for field in fields:
            if has(field) or field in found or field in tables.get("", ()):
                continue
            # What another table says of the right field, an input beside a mapping, is no reason.
            near = misspelled(field, listed, fields)
            if count[field] == 1 or (near is not None and near not in count):
                found[field] = (table, near)
    return found
