"""Names inside data sources: which are images, which are hostile, and which classes they spell."""

from __future__ import annotations

import mmap
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError

if TYPE_CHECKING:
    import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_DRIVE = re.compile(r"^[A-Za-z]:")
MAX_NAME_BYTES = 4096


def is_image(name: str) -> bool:
    """Whether a relative path ends as one of the nine image extensions (any case) and no part of it is hidden."""
    if not name.lower().endswith(IMAGE_SUFFIXES):
        return False
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def safe_name(name: str, source: str) -> str:
    """A member's name as a clean relative path.

    Args:
        name: as the archive or the store spells it.
        source: what it came from, for the error; already redacted.

    Raises:
        DataError: an absolute path, ``..``, a drive, a backslash, a control character, an empty or over-long name.
    """
    problem = None
    if name.startswith("/"):
        problem = "is an absolute path"
    elif _DRIVE.match(name):
        problem = "names a drive"
    elif "\\" in name:
        problem = "holds a backslash"
    elif any(ord(c) < 32 or ord(c) == 127 for c in name):
        problem = "holds a control character"
    elif ".." in name.split("/"):
        problem = "climbs with '..'"
    elif len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES or any(
        len(p.encode("utf-8", "surrogatepass")) > 255 for p in name.split("/")
    ):
        problem = "is too long for a file system"
    clean = "/".join(part for part in name.split("/") if part not in ("", "."))
    if not clean and problem is None:
        problem = "is empty"
    if problem:
        raise refused(name, problem, source)
    return clean


def check_folder(name: str, source: str) -> None:
    """Refuse a hostile name of a folder; ``./`` and ``/``, which packers write for the place itself, are none.

    Raises:
        DataError: as `safe_name`.
    """
    if set(name.split("/")) - {"", "."}:
        safe_name(name, source)


def refused(name: str, problem: str, source: str) -> DataError:
    """The error for one hostile member."""
    return DataError(
        f"refused {source}: member {name[:200]!r} {problem}",
        got=name[:200],
        expected="regular files and folders with plain relative names, each once",
        hint="pack the images anew, for example: tar -czf images.tar.gz -C FOLDER .",
    )


def fold(name: str) -> str:
    """The form under which two names are one on file systems that ignore case."""
    return unicodedata.normalize("NFC", name).casefold()


class Names(Sequence[str]):
    """Many names in one block of bytes: no object per name, so forked workers share it and it pickles fast."""

    def __init__(self, blob: bytes | mmap.mmap, ends: np.ndarray[Any, Any]) -> None:
        self._blob = blob
        self._ends = ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Pack an iterable of names."""
        import numpy as np

        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        return cls(b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = int(index)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._ends[index - 1]) if index else 0
        return bytes(self._blob[start : int(self._ends[index])]).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for index in range(len(self)):
            yield self[index]

    def __reduce__(self) -> tuple[Any, ...]:
        import numpy as np

        return (Names, (bytes(self._blob[:]), np.array(self._ends)))


def wrapper_of(names: Sequence[str], known: Iterable[str] = ()) -> str:
    """The single folder that holds every name, with its ``/``; empty when there is none or it is a known class."""
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

    The first folder of a path is its class, after one wrapper folder around everything is stripped. A picture in no folder is unlabelled.

    Args:
        names: relative paths of the images.
        known: the class list to label with (a training set's); ``None`` finds the classes here.

    Returns:
        The class names, sorted (or ``known``), and int64 labels [len(names)], -1 = unlabelled.

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
            f"{len(strange)} class folder{'s' if len(strange) > 1 else ''} of this source are not among the model's classes: {listed}",
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
