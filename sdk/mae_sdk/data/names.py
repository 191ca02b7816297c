"""Names inside data sources: which are images, which are hostile, and many of them in one block."""

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
    """Whether a relative path ends as one of the nine image extensions (any case) and no part of it
    is hidden."""
    if not name.lower().endswith(IMAGE_SUFFIXES):
        return False
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def safe_name(name: str, source: str) -> str:
    """A member's name as a clean relative path.

    Args:
        name: as the archive or the store spells it.
        source: what it came from, for the error; already redacted.

    Raises:
        DataError: an absolute path, ``..``, a drive, a backslash, a control character, an empty or
            over-long name.
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
    """Refuse a hostile name of a folder. ``./`` and ``/``, which packers write for the root, pass.

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
        hint="pack the images again, for example: tar -czf images.tar.gz -C FOLDER .",
    )


def fold(name: str) -> str:
    """The form under which two names are one on file systems that ignore case."""
    return unicodedata.normalize("NFC", name).casefold()


class Names(Sequence[str]):
    """Many names in one block of bytes: without an object per name, forked workers share the memory
    and pickling is fast."""

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
