"""Names of classes.

Of a segmenter a list in the spec, a text file with one per line, a YAML list, or those of ADE20K;
of a classifier its folders, unless its file names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mae_skill.errors import DataError

FIELD = "dataset.segmentation.class_list"
CLASS_LISTS = "a text file with one name per line, a YAML list, or a list of names"
"""What the field may hold."""


_SIDES = {
    "hflip": "left right leftward leftwards rightward rightwards clockwise counterclockwise "
    "anticlockwise ccw cw mirrored links rechts gauche droite izquierda derecha esquerda direita "
    "sinistra destra",
    "vflip": "up down top bottom upper lower upward upwards downward downwards above below "
    "clockwise counterclockwise anticlockwise ccw cw upside oben unten haut bas arriba abajo",
}


def sided(names: Iterable[str], mirror: str) -> list[str]:
    """The classes whose names say a side that a mirror changes.

    Args:
        mirror: ``hflip``, left and right; ``vflip``, up and down.
    """
    words = set(_SIDES[mirror].split())
    return [
        name
        for name in names
        if words & set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))
    ]


def class_names(class_list: str | Sequence[str] | None, num_classes: int) -> list[str]:
    """The names of ``num_classes`` classes; without a list those of ADE20K where there are 150,
    else the numbers as text.

    Raises:
        DataError: the list cannot be read, names a class twice, or has another length.
    """
    if not class_list:
        from mae_skill.ade20k import ADE20K

        return list(ADE20K) if num_classes == len(ADE20K) else [str(i) for i in range(num_classes)]
    names = read_class_list(class_list)
    if names is None:
        raise DataError(
            "there is no class list",
            field=FIELD,
            got=class_list,
            expected=CLASS_LISTS,
            hint="check the path, or write the names themselves as a list",
        )
    if len(names) != num_classes:
        raise DataError(
            f"the class list names {len(names)} classes",
            field=FIELD,
            got=len(names),
            expected=f"model.num_classes={num_classes} names",
            hint=f"set model.num_classes={len(names)}, or correct the list",
        )
    return names


def read_class_list(class_list: str | Sequence[str]) -> list[str] | None:
    """The names in order; None where a path names no local file (it may lie elsewhere).

    Raises:
        DataError: the file is not a list of names, is empty, or a name stands twice.
    """
    if not isinstance(class_list, str):
        return _judged([str(name) for name in class_list], class_list)
    path = Path(class_list).expanduser()
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise DataError(
            f"cannot read the class list: {why}",
            field=FIELD,
            got=class_list,
            expected=CLASS_LISTS,
            hint="save the list as text in UTF-8, one name a line",
        ) from error
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        return _judged(_listed(text, class_list), class_list)
    return _judged([line.strip() for line in text.splitlines() if line.strip()], class_list)


def _listed(text: str, where: str) -> list[str]:
    from mae_skill.reader import parse_yaml

    found: Any = parse_yaml(text)
    if not isinstance(found, list) or not all(
        isinstance(name, (str, int)) and not isinstance(name, bool) for name in found
    ):
        raise DataError(
            "not a list of names",
            field=FIELD,
            got=where,
            expected="a YAML list, one name per class",
            hint="write - before each name, and nothing else on the line",
        )
    return [str(name) for name in found]


def _judged(names: list[str], where: Any) -> list[str]:
    if not names:
        raise DataError(
            "the class list is empty",
            field=FIELD,
            got=where or "[]",
            expected="one name per line",
            hint="write the names in the order of the classes, or take the list out",
        )
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(
            f"the class list names {twice!r} twice",
            field=FIELD,
            got=where,
            expected="each class once",
            hint="take one of the two out, or call it otherwise",
        )
    return names


def by_position(folders: Sequence[str]) -> str | None:
    """What to say of the outputs of a model that names no classes, judged on these folders; None
    for all 1,000 classes of ImageNet-1k, which published models have in the order of their names,
    and for folders that are the numbers of the outputs."""
    if len(folders) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in folders):
        return None
    if list(folders) == [str(number) for number in range(len(folders))]:
        return None
    some = ", ".join(f"{number} = {name}" for number, name in enumerate(folders[:5]))
    more = " …" if len(folders) > 5 else ""
    return (
        "the model's file names no classes: its outputs are taken for the folders in the order of "
        f"their names ({some}{more})"
    )
