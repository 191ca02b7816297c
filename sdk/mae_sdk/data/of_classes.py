"""Some classes of a source, in an order that is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError
from mae_skill.spelling import shown

from mae_sdk.data.label_file import chosen_parts
from mae_sdk.data.labels import unknown_classes
from mae_sdk.data.names import same
from mae_sdk.data.source import Source

if TYPE_CHECKING:
    import numpy as np

FIELD = "dataset.classes"
NAMED = 10


class SourceOfClasses(Source):
    """The pictures of a source that are of some of its classes; the others are left out.

    Args:
        source: all pictures, with their labels.
        classes: those that stay, in the order of the labels.
        required: whether each of them must have a picture.

    Attributes:
        aside: ``{"images", "classes"}``: how many are left out.

    Raises:
        DataError: a class is not there, or none has a picture.
    """

    def __init__(self, source: Source, classes: Sequence[str], *, required: bool) -> None:
        import numpy as np

        if source.several:
            raise DataError(
                "pictures of several classes are not chosen by class",
                field=FIELD,
                got=list(classes)[:NAMED],
                expected="null with model.multi_label",
                hint="take the columns or rows out of the table of labels",
            )
        found, labels = source.label()
        place = {same(name): number for number, name in enumerate(classes)}
        if required and (unknown := [name for name in classes if same(name) not in found]):
            raise _unknown(unknown, found)
        table = np.array([*(place.get(name, -1) for name in found), -1], dtype=np.int64)
        values = table[labels]
        rows = np.flatnonzero(values >= 0)
        if not len(rows):
            raise _unknown(list(classes), found)

        super().__init__(chosen_parts(source, rows))
        self.digest = f"{self.digest[:32]}{_digest(classes, values)[:32]}"
        self._chosen, self._values = list(classes), values[rows]
        self._from, self._differ = source.labels_from, source.labels_differ()
        self._nested = source.nested()
        self.table: dict[str, Any] = getattr(source, "table", {})
        self.aside = {
            "images": len(source) - len(rows),
            "classes": len([name for name in found if name not in place]),
        }

    def label(self, known: Sequence[str] | None = None) -> tuple[list[str], np.ndarray[Any, Any]]:
        """As in `Source`; the classes are those that were asked for, in their order.

        Raises:
            DataError: one of them is not among `known`, whether it has pictures or not.
        """
        import numpy as np

        if known is None:
            return self._chosen, self._values
        if strange := self.unknown_classes(known):
            raise unknown_classes(strange, len(known))
        names = {same(name) for name in known}
        if lost := [name for name in self._chosen if same(name) not in names]:
            raise _unknown(lost, known, "the model has no such class", "classes of the model")
        place = {same(name): number for number, name in enumerate(known)}
        numbers = [place.get(same(name), -1) for name in self._chosen]
        return list(known), np.array(numbers, dtype=np.int64)[self._values]

    def unknown_classes(self, known: Sequence[str]) -> dict[str, int]:
        """Classes with pictures that are not among `known` → pictures of them."""
        import numpy as np

        names = {same(name) for name in known}
        counts = np.bincount(self._values, minlength=len(self._chosen))
        return {
            name: int(count)
            for name, count in zip(self._chosen, counts, strict=True)
            if count and same(name) not in names
        }

    @property
    def labels_from(self) -> dict[str, int]:
        """As in `Source`, of the whole."""
        return self._from

    def labels_differ(self) -> dict[str, Any]:
        """As in `Source`, of the whole."""
        return self._differ

    def nested(self) -> dict[str, Any]:
        """As in `Source`, of the whole."""
        return self._nested

    def missing_classes(self) -> dict[str, int]:
        """Which classes there are is asked for, not found."""
        return {}

    def same_folders(self) -> list[str]:
        """Which folders are classes is asked for, not found."""
        return []

    def classes_of_parts(self) -> dict[str, list[str]]:
        """Which classes there are is asked for, not found."""
        return {}


def of_classes(source: Source, classes: Sequence[str] | None, *, required: bool) -> Source:
    """The pictures of these classes; ``classes`` None: all.

    Raises:
        DataError: as `SourceOfClasses`.
    """
    return source if classes is None else SourceOfClasses(source, classes, required=required)


def _unknown(
    names: Sequence[str],
    found: Sequence[str],
    message: str = "the data have no such class",
    which: str = "classes of the data",
) -> DataError:
    near = {
        name: difflib.get_close_matches(same(name), found, n=3, cutoff=0.5) for name in names[:3]
    }
    meant = [
        f"{shown(name)}: did you mean {' or '.join(map(shown, close))}?"
        for name, close in near.items()
        if close
    ]
    there = ", ".join(map(shown, found[:NAMED])) + (", …" if len(found) > NAMED else "")
    return DataError(
        message,
        field=FIELD,
        got=list(names)[:NAMED],
        expected=f"{which}: {there}" if found else "data with classes",
        hint="; ".join(meant) or "take the name out, or add images of this class",
    )


def _digest(classes: Sequence[str], values: np.ndarray[Any, Any]) -> str:
    import hashlib

    found = hashlib.sha256("\n".join(classes).encode("utf-8", "surrogateescape"))
    found.update(values.tobytes())
    return found.hexdigest()
