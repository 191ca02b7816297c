"""Classes and labels that the folders of a source spell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError
from mae_skill.spelling import shown, spelled

from mae_sdk.data.names import class_name, same
from mae_sdk.data.parts import split_of

if TYPE_CHECKING:
    import numpy as np


def wrapper_of(names: Sequence[str], known: Iterable[str] = ()) -> str:
    """The folders around every name, with their ``/``, down to where the names part; a known class
    ends them."""
    if not len(names):
        return ""
    stops, first, last = {same(name) for name in known}, names[0], names[-1]
    common = ""
    while True:
        head, slash, _ = first[len(common) :].partition("/")
        longer = common + head + slash
        # The names are sorted: what the first and the last share, all share.
        if not slash or class_name(head) in stops or not last.startswith(longer):
            break
        common = longer
    while common and not all(name.startswith(common) for name in names):
        common = common.rstrip("/").rpartition("/")[0]
        common += "/" if common else ""
    return common


def wrappers_of(parts: Sequence[Sequence[str]], known: Sequence[str] = ()) -> list[str]:
    """The wrapper of each part of a list of sources, which have one class list.

    A part whose images all lie in one folder spells a class where another part, or ``known``, says
    that it is one: an archive for every class is the common case.
    """
    found = [wrapper_of(names, known) for names in parts]
    if len(parts) < 2 or known:
        return found

    heads = [_heads(names, len(wrapper)) for names, wrapper in zip(parts, found, strict=True)]
    classes = set().union(*heads)
    last = [class_name(_last(wrapper)) for wrapper in found]
    if not classes:  # every part is one flat folder
        classes = set(last) if all(last) and len(set(last)) > 1 else set()
    return [
        wrapper[: len(wrapper) - len(_last(wrapper)) - 1]
        if name in classes and not own
        else wrapper
        for wrapper, name, own in zip(found, last, heads, strict=True)
    ]


def _heads(names: Sequence[str], skip: int) -> set[str]:
    """The classes that the top folders below a prefix of this length spell."""
    return {
        class_name(head)
        for name in names
        for head, slash, _ in (name[skip:].partition("/"),)
        if slash
    }


def _last(wrapper: str) -> str:
    return wrapper.rstrip("/").rpartition("/")[2]


def class_labels(
    names: Sequence[str], known: Sequence[str] | None = None, *, wrapper: str | None = None
) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Classes and labels that the folders of one source spell.

    The first folder of a path is its class, after the folders around everything are stripped. An
    image in no folder is unlabeled.

    Args:
        names: relative paths of the images, sorted.
        known: the class list to label with (a training set's); ``None`` finds the classes here.
        wrapper: the folders to strip; ``None``: those of `wrapper_of`.

    Returns:
        The class names, sorted (or ``known``), and int64 labels [len(names)], -1 = unlabeled.

    Raises:
        DataError: a folder is not among ``known``, or two folders spell one class.
    """
    import numpy as np

    skip = len(wrapper_of(names, known or ()) if wrapper is None else wrapper)
    table: dict[str, int] = {same(name): i for i, name in enumerate(known or ())}
    if known is not None and (strange := strange_folders(names, known, skip)):
        raise unknown_classes(strange, len(table))

    spelling: dict[str, str] = {}  # folder → class
    found = np.full(len(names), -1, dtype=np.int64)
    for i, path in enumerate(names):
        head, slash, _ = path[skip:].partition("/")
        if slash:
            name = spelling.get(head) or spelling.setdefault(head, class_name(head))
            found[i] = table.setdefault(name, len(table))

    _refuse_twins(spelling)

    if known is not None:
        return list(known), found
    order = sorted(table)
    place = {name: i for i, name in enumerate(order)}
    ranks = np.array(
        [*(place[name] for name in table), -1], dtype=np.int64
    )  # the last entry serves label -1
    return order, ranks[found]


def strange_folders(names: Sequence[str], known: Iterable[str], skip: int) -> dict[str, int]:
    """Class folders that are not among `known` → images in them.

    Args:
        skip: length of the wrapper of the names.
    """
    table = {same(name) for name in known}
    heads: dict[str, int] = {}
    for name in names:
        head, slash, _ = name[skip:].partition("/")
        if slash:
            heads[head] = heads.get(head, 0) + 1
    strange: dict[str, int] = {}
    for head, count in heads.items():
        if (name := class_name(head)) not in table:
            strange[name] = strange.get(name, 0) + count
    return strange


def _refuse_twins(spelling: Mapping[str, str]) -> None:
    """Two folders of one source whose names look alike and are one under NFC.

    Raises:
        DataError: there are such folders.
    """
    seen: dict[str, str] = {}
    for folder, name in spelling.items():
        other = seen.setdefault(name, folder)
        if other != folder:
            raise DataError(
                f"two class folders of this source have the name {shown(name)}, written in two "
                "Unicode forms (NFC and NFD)",
                got=[ascii(other), ascii(folder)],
                expected="each class once",
                hint="move the images of one into the other",
            )


def unknown_classes(strange: Mapping[str, int], known: int) -> DataError:
    """The error for class folders that the model does not know.

    Args:
        strange: folder → images in it.
        known: how many classes the model has.
    """
    listed = ", ".join(sorted(strange)[:5]) + (", …" if len(strange) > 5 else "")
    splits = [name for name in strange if split_of(name)]
    hint = "they are named like parts of a data set: name one of them as the source"
    return DataError(
        f"{len(strange)} class folder{'s' if len(strange) > 1 else ''} of this source "
        f"are not among the model's classes: {listed}",
        got=sorted(strange)[:20],
        expected=f"folders among the {known} classes of the training data",
        hint=hint if len(splits) == len(strange) else None,
    )


MOST_NESTED = 20
"""Folders below the classes that are named."""

MAX_LOOKED = 20_000
"""Names of a source in which folders below the classes are looked for."""


def same_folders(names: Sequence[str], wrapper: str) -> list[str]:
    """The folders that half of the classes or more have in common, two or more of them: they may be
    the classes, and the folders above them something else. None where a tenth of the images lie
    beside such folders."""
    below: dict[str, set[str]] = {}
    step = max(1, len(names) // MAX_LOOKED)
    looked, loose = range(0, len(names), step), 0
    for number in looked:
        head, _, rest = names[number][len(wrapper) :].partition("/")
        folder, slash, _ = rest.partition("/")
        below.setdefault(head, set())
        if slash:
            below[head].add(folder)
        else:
            loose += 1
    most = max(2, (len(below) + 1) // 2)
    holders = Counter(folder for found in below.values() for folder in found)
    shared = {folder for folder, count in holders.items() if count >= most}
    many = sum(len(found & shared) > 1 for found in below.values()) >= most
    return sorted(shared) if many and 10 * loose < len(looked) else []


def nested_folders(parts: Sequence[tuple[Sequence[str], str]]) -> dict[str, Any]:
    """The images that lie deeper than a class folder, where others lie right in one.

    Args:
        parts: the names of the images of each source, and the folders around all of them.

    Returns:
        ``{"count", "folders": {folder: images}}``, the first few folders; empty where all images
        lie equally deep.
    """
    deeper: Counter[str] = Counter()
    plain = 0
    for names, wrapper in parts:
        for name in names:
            folders = name[len(wrapper) :].rpartition("/")[0]
            if "/" in folders:
                deeper["/".join(folders.split("/")[:2])] += 1
            else:
                plain += bool(folders)
    if not deeper or not plain:
        return {}
    first = {spelled(folder): deeper[folder] for folder in sorted(deeper)[:MOST_NESTED]}
    return {"count": deeper.total(), "folders": first}


def parts_below(parts: Sequence[tuple[Sequence[str], str]]) -> dict[str, list[str]]:
    """Folders right below those of the classes that are named like parts of a data set, such as
    ``siteA/train`` and ``siteB/val``: of two kinds, or with folders below them that may be the
    classes.

    Args:
        parts: the names of the images of each source, and the folders around all of them.

    Returns:
        ``{"parts", "folders"}``: their names alone, and with the folders above; empty where a tenth
        of the images lie elsewhere.
    """
    below: Counter[tuple[str, str]] = Counter()
    deeper: set[str] = set()
    count = 0
    for names, wrapper in parts:
        step = max(1, len(names) // MAX_LOOKED)
        for number in range(0, len(names), step):
            count += 1
            folders = names[number][len(wrapper) :].split("/")[:-1]
            if len(folders) > 1 and split_of(folders[1]):
                below[folders[0], folders[1]] += 1
                deeper.update(folders[2:3])
    found = sorted({part for _, part in below})
    kinds = {split_of(part) for part in found}
    if 10 * below.total() < 9 * count or len({above for above, _ in below}) < 2:
        return {}
    if len(kinds) < 2 and len(deeper) < 2:
        return {}
    listed = [spelled(f"{above}/{part}") for above, part in sorted(below)[:MOST_NESTED]]
    return {"parts": [spelled(part) for part in found], "folders": listed}


def missing_folders(
    folders: Mapping[str, int], wrapper: str, classes: Iterable[str]
) -> dict[str, int]:
    """Folders beside the classes that hold no image that is read → pictures in them that are not.

    Args:
        folders: `LeftOut.folders`.
        wrapper: the folders that were stripped.
    """
    known, found = {same(name) for name in classes}, dict[str, int]()
    for folder, pictures in folders.items():
        if folder.startswith(wrapper):
            head = class_name(folder[len(wrapper) :].partition("/")[0])
            if head and head not in known:
                found[head] = found.get(head, 0) + pictures
        elif pictures and wrapper.startswith("".join(folder.rpartition("/")[:2])):
            # Beside a folder that was taken for a wrapper because it alone holds images.
            name = class_name(folder.rpartition("/")[2])
            found[name] = found.get(name, 0) + pictures
    return found
