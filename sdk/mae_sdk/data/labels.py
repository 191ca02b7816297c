"""Classes and labels that the folders of a source spell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError

if TYPE_CHECKING:
    import numpy as np


def wrapper_of(names: Sequence[str], known: Iterable[str] = ()) -> str:
    """The single folder that holds every name, with its ``/``; empty when there is none or it is a
    known class."""
    if not len(names):
        return ""
    first, slash, _ = names[0].partition("/")
    if not slash or first in set(known):
        return ""
    prefix = first + "/"
    return prefix if all(name.startswith(prefix) for name in names) else ""


def class_labels(
    names: Sequence[str], known: Sequence[str] | None = None
) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Classes and labels that the folders of one source spell.

    The first folder of a path is its class, after one wrapper folder around everything is stripped.
    An image in no folder is unlabeled.

    Args:
        names: relative paths of the images.
        known: the class list to label with (a training set's); ``None`` finds the classes here.

    Returns:
        The class names, sorted (or ``known``), and int64 labels [len(names)], -1 = unlabeled.

    Raises:
        DataError: a folder is not among ``known``.
    """
    import numpy as np

    skip = len(wrapper_of(names, known or ()))
    table: dict[str, int] = {name: i for i, name in enumerate(known or ())}
    found = np.full(len(names), -1, dtype=np.int64)
    strange: dict[str, int] = {}
    for i, name in enumerate(names):
        head, slash, _ = name[skip:].partition("/")
        if not slash:
            continue
        if known is not None and head not in table:
            strange[head] = strange.get(head, 0) + 1
            continue
        found[i] = table.setdefault(head, len(table))

    if strange:
        listed = ", ".join(sorted(strange)[:5]) + (", …" if len(strange) > 5 else "")
        raise DataError(
            f"{len(strange)} class folder{'s' if len(strange) > 1 else ''} of this source "
            f"are not among the model's classes: {listed}",
            got=sorted(strange)[:20],
            expected=f"folders among the {len(table)} classes of the training data",
        )

    if known is not None:
        return list(known), found
    order = sorted(table)
    place = {name: i for i, name in enumerate(order)}
    ranks = np.array(
        [*(place[name] for name in table), -1], dtype=np.int64
    )  # the last entry serves label -1
    return order, ranks[found]
