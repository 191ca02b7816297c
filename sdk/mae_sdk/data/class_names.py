"""Class names that give reason to doubt: pairs that may be one class, and marks of a missing
value."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

MOST = 50
"""Groups of names that are kept."""

_HIDDEN = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
"""Characters without a width or a meaning of their own; joiners have one, in Persian and emoji."""

_BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d_])[\s_\-]+(?=[^\W\d_])")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:([,_' ])\d{3})(?:\1\d{3})*")
_SEVERAL = re.compile(r"[;|,+&/]")
_COPY = re.compile(
    r"^(?:copy|kopie|copie|copia) (?:of|von|de|di) (?=.)"
    r"|(?<=.)[\s_-]+(?:copy|kopie|copie|copia|копия|副本|コピー)[\s_-]*(?:\(?\d+\)?)?$"
    r"|(?<=.)\s*\(\d+\)$",
    re.IGNORECASE,
)
_LETTERS = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеѕіјорсухԁԛԝһ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαοιν",
    "ABESIJKMHOPCTYXaesijopcyxdqwh" + "ABEZHIKMNOPTYXaoiv",
)
"""Cyrillic and Greek letters → the Latin ones that look like them."""

_MISSING = frozenset(
    [
        *("nan", "n/a", "na", "#n/a", "<na>", "nat", "null", "none", "nil", "?", "-", "--"),
        *("unknown", "undefined", "missing", "no label", "no_label", "tbd", "todo"),
    ]
)

_MARKS = frozenset([-1, -9, -99, -100, -999, -9999, 99, 999, 9999])
"""Numbers that stand for a missing value, among classes that are counted from 0 or 1."""


def _seen(name: str) -> str:
    """A name as it looks: every white space one blank, nothing without a width."""
    return " ".join(_HIDDEN.sub("", name).split())


def _folded(name: str) -> str:
    """Without case, compatibility forms and what separates words."""
    plain = unicodedata.normalize("NFKC", _seen(name)).casefold()
    return _BETWEEN_LETTERS.sub("", " ".join(plain.split()))


def _latin(name: str) -> str:
    return _folded(unicodedata.normalize("NFKC", name).translate(_LETTERS))


def _value(name: str) -> str:
    """``0.0`` and ``00`` as 0, ``1e3`` and ``1,000`` as 1000; what is no number as it is."""
    if _THOUSANDS.fullmatch(name):
        name = re.sub(r"[,_' ]", "", name)
    return repr(float(name)) if _NUMBER.fullmatch(name) and len(name) < 16 else name


def _original(name: str) -> str:
    return _folded(_COPY.sub("", _seen(name)))


_ALIKE: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("case", str.lower),
    ("case, separators or forms of letters", _folded),
    ("letters of another alphabet", _latin),
    ("how a number is written", _value),
)


def doubtful_names(classes: Iterable[str]) -> dict[str, Any]:
    """What is doubtful about the names of classes.

    Returns:
        ``hidden``: groups of names that look the same, and differ in white space or characters
        without a width; ``twins``: in what they differ → groups of names that may be one class;
        ``missing``: names that mark a missing value; ``joined``: names that hold several others
        with a sign between them. Each where there are any, groups up to `MOST`.
    """
    listed = list(classes)
    hidden = _groups(listed, _seen)
    taken = [set(group) for group in hidden]
    twins: dict[str, list[list[str]]] = {}
    for differ, groups in (
        *((differ, _groups(listed, key)) for differ, key in _ALIKE),
        ("the mark of a copy", _copies(listed)),
    ):
        new = [group for group in groups if not any(set(group) <= known for known in taken)]
        taken += [set(group) for group in new]
        if new:
            twins[differ] = new[:MOST]
    found = {
        "hidden": hidden[:MOST],
        "twins": twins,
        "missing": [
            *(name for name in listed if _seen(name).casefold() in _MISSING),
            *_marks(listed),
        ],
        "joined": _joined(listed)[:MOST],
    }
    return {name: value for name, value in found.items() if value}


def _marks(names: Sequence[str]) -> list[str]:
    """The numbers that mark a missing value, where all other names count on from 0 or 1."""
    if not all(_NUMBER.fullmatch(name) and len(name) < 16 for name in names):
        return []
    values = {name: float(name) for name in names}
    rest = sorted(value for value in values.values() if value not in _MARKS)
    if len(rest) < 2 or rest[0] not in (0, 1) or rest != [rest[0] + at for at in range(len(rest))]:
        return []
    return [
        name for name, value in values.items() if value in _MARKS and not 0 <= value <= rest[-1] + 1
    ]


def _joined(names: Sequence[str]) -> list[str]:
    """The names that hold several labels, ``elm;fir``: by a sign that stands in few names one of
    these must be a class, or stand in another such name; by any other sign all of them; by a blank,
    which is common in names, all of them must be classes."""
    parts = {
        name: found
        for name in names
        if len(found := [part.strip() for part in _SEVERAL.split(name)]) > 1 and all(found)
    }
    holders = Counter(part for found in parts.values() for part in set(found))
    classes = set(names)
    known = classes | {part for part, count in holders.items() if count > 1}
    joined = {
        name: found
        for name, found in parts.items()
        if (any if set(name) & set(";|") else all)(part in known for part in found)
    }
    for name in names:
        if name not in parts and len(words := name.split()) > 1 and classes.issuperset(words):
            joined[name] = words
    return [
        name for name, found in joined.items() if not all(_NUMBER.fullmatch(part) for part in found)
    ]


def _groups(names: Sequence[str], key: Callable[[str], str]) -> list[list[str]]:
    """The names that have their key in common with another."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return [group for group in found.values() if len(group) > 1]


def _copies(names: Sequence[str]) -> list[list[str]]:
    """A name, and those that are it with the mark of a copy."""
    originals = {_folded(name): name for name in names}
    found: dict[str, list[str]] = {}
    for name in names:
        original = originals.get(_original(name))
        if original is not None and original != name:
            found.setdefault(original, [original]).append(name)
    return list(found.values())


def near_names(strange: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Names that are not known → the known one that may be meant."""
    listed = list(known)
    found: dict[str, str] = {}
    for name in strange:
        for key in (_seen, *(key for _, key in _ALIKE), _original):
            near = next((one for one in listed if key(one) == key(name)), None)
            if near is not None:
                found[name] = near
                break
    return found


def numbers_and_names(parts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """A source whose classes are numbers, and one whose classes are names, where every source has
    one of the two alone and two classes or more; empty elsewhere.

    Args:
        parts: source → its classes. Names of one letter are none here: digits and letters are one
            alphabet.
    """
    found: dict[str, list[str]] = {}
    for where, classes in parts.items():
        numbers = [name for name in classes if _NUMBER.fullmatch(name)]
        names = [name for name in classes if len(name) > 1 and name not in numbers]
        if len(classes) < 2 or len(classes) not in (len(numbers), len(names)):
            return {}
        found.setdefault("numbers" if numbers else "names", [where, *classes])
    return found if len(found) == 2 else {}


_WORD_AND_NUMBER = re.compile(r"([^\W\d_]+(?:[ _-][^\W\d_]+)*)[ _.-]*\(?\d+\)?")
_NUMBER_AND_WORD = re.compile(r"\d+[ _.-]+([^\W\d_]+(?:[ _-][^\W\d_]+)*)")
_CAMERAS = frozenset(
    (
        *("image", "images", "img", "im", "pic", "picture", "photo", "photos", "screenshot"),
        *("dsc", "dscn", "dscf", "imgp", "mvi", "pxl", "gopr"),
        *("scan", "page", "slide", "sample", "frame", "frames", "tile", "patch", "crop"),
        *("file", "copy", "train", "val", "valid", "test"),
    )
)
"""What cameras, scanners and scripts begin a name with."""
_FEWEST, _MOST_WORDS, _SHARE = 3, 20, 0.9


def words_of_files(names: Iterable[str]) -> dict[str, int]:
    """Word → how many files it names, of files whose names seem to hold classes: ``good_01.png``,
    ``broken_01.png``, ``cat (3).jpg``, ``0012_dog.jpg``; empty where they do not seem so.

    Nearly all files have one of a few words beside their number, and each word names several.
    """
    words: Counter[str] = Counter()
    total = 0
    for name in names:
        total += 1
        stem = name.rpartition("/")[2].rpartition(".")[0]
        found = _WORD_AND_NUMBER.fullmatch(stem) or _NUMBER_AND_WORD.fullmatch(stem)
        if found:
            words[found[1].casefold()] += 1

    enough = {word: count for word, count in words.items() if count >= _FEWEST}
    if not 2 <= len(enough) <= _MOST_WORDS or _CAMERAS & {*enough}:
        return {}
    return dict(sorted(enough.items())) if sum(enough.values()) >= _SHARE * total else {}
