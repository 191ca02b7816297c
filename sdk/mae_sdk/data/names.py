"""Names inside data sources: which are images, which are hostile, and many of them in one block."""

from __future__ import annotations

import bisect
import mmap
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError
from mae_skill.spelling import shown, spelled

if TYPE_CHECKING:
    import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

ALIASES = (
    *(".jfif", ".jpe", ".jif", ".jfi", ".pjpeg", ".pjp", ".dib", ".pnm", ".pbm"),
    *(".gif", ".apng", ".npy", ".dcm", ".dicom"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
)
"""Other names of the same formats, and formats that are met less often; read as well."""

OTHER_FORMATS = (
    *(".avif", ".heic", ".heif", ".jxl", ".ico", ".tga"),
    *(".psd", ".svg", ".exr", ".hdr", ".pfm", ".pam", ".pcx", ".nii", ".mha"),
    *(".fits", ".npz", ".mat", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf"),
    *(".raf", ".rw2", ".mpo", ".jps"),
)
"""Pictures that are not read: they are counted, and a class of nothing else is missed."""

SIDECARS = (
    *(".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".md", ".html", ".htm"),
    *(".pdf", ".py", ".sh", ".log", ".db", ".ini", ".cfg", ".toml", ".lst", ".parquet", ".md5"),
    *(".sha256", ".zip", ".tar", ".gz", ".tgz", ".zst", ".xz", ".bz2", ".7z", ".rar", ".doc"),
    *(".docx", ".xls", ".xlsx", ".caption", ".label", ".labels"),
)
"""What lies beside images and is none."""

SYSTEM_FOLDERS = frozenset(
    [
        *("__macosx", "@eadir", "lost+found", "$recycle.bin", "recycler", "found.000"),
        *("system volume information", "#recycle", "@recycle", "#snapshot", "~snapshot"),
        *("@recently-snapshot", "@__thumb", "@tmp", "@sharebin", "network trash folder"),
        *("temporary items", "__pycache__"),
    ]
)
"""Folders that operating systems and storage boxes leave, in small letters; no class is one."""

SYSTEM_FILES = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "icon"])

_DRIVE = re.compile(r"^[A-Za-z]:")
MAX_NAME_BYTES = 4096


def is_image(name: str) -> bool:
    """Whether a relative path ends as an image (any case) and no part of it is hidden or a
    system's."""
    return ends_as_image(name) and not is_set_aside(name)


def ends_as_image(name: str) -> bool:
    """Whether a name has the suffix of an image, in any case."""
    return name.lower().endswith(IMAGE_SUFFIXES + ALIASES)


def is_set_aside(name: str) -> bool:
    """Whether a relative path is hidden, or lies in a folder that only a system needs."""
    *folders, last = name.split("/")
    if last.startswith(".") or last.lower() in SYSTEM_FILES:
        return True
    return any(is_system_folder(folder) for folder in folders)


def is_system_folder(part: str) -> bool:
    """Whether one part of a path names a hidden folder or a system's."""
    return part.startswith(".") or part.lower() in SYSTEM_FOLDERS


def suffix_of(name: str) -> str:
    """The suffix in small letters, with its dot; empty where there is none."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return (dot + suffix).lower() if stem and dot else ""


def may_be_picture(name: str) -> bool | None:
    """Of a file that is not read as an image, whether its name says that it is a picture; None
    where the name does not tell."""
    suffix = suffix_of(name)
    if suffix in SIDECARS:
        return False
    words = ("jpg", "jpeg", "png", "tif", "webp", "bmp")
    if suffix in OTHER_FORMATS or any(word in suffix for word in words):
        return True
    inner = name.lower().rpartition(".")[0]  # a.jpg.1, a.png.download
    return True if inner.endswith(IMAGE_SUFFIXES + ALIASES) else None


def looks_like_picture(head: bytes) -> bool:
    """Whether a file's first bytes (16 or more) are those of a common picture format."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"BM"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or head[4:12] in (b"ftypheic", b"ftypavif", b"jP  \r\n\x87\n")
    )


def safe_name(name: str, source: str) -> str:
    """A member's name as a clean relative path, whatever else its characters are.

    Args:
        name: as the archive or the store spells it.
        source: what it came from, for the error; already redacted.

    Raises:
        DataError: an absolute path, ``..``, a drive, a zero byte, an empty or over-long name.
    """
    problem, hint = None, _FROM_INSIDE
    if name.startswith("/"):
        problem = "is an absolute path"
    elif _DRIVE.match(name):
        problem = "names a drive"
    elif "\0" in name:
        problem, hint = "holds a zero byte", "no file system has such a name: rename it"
    elif ".." in name.split("/"):
        problem = "climbs with '..'"
    elif len(encoded(name)) > MAX_NAME_BYTES or any(len(encoded(p)) > 255 for p in name.split("/")):
        problem, hint = "is too long for a file system", "rename it and pack the images again"

    clean = "/".join(part for part in name.split("/") if part not in ("", "."))
    if not clean and problem is None:
        problem = "is empty"
    if problem:
        raise refused(name, problem, source, hint)
    return clean


def folder_name(name: str, source: str) -> str:
    """A folder's name as a clean relative path; empty for ``./`` and ``/``, which packers write for
    the root.

    Raises:
        DataError: as `safe_name`.
    """
    return safe_name(name, source) if set(name.split("/")) - {"", "."} else ""


def link_target(name: str, target: str) -> str | None:
    """Where a symbolic link inside an archive leads, as a clean path; None: out of the archive."""
    if target.startswith("/") or not target:
        return None
    parts = name.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


_FROM_INSIDE = "pack the images from inside their folder: tar -czf images.tar.gz -C FOLDER ."


def refused(name: str, problem: str, source: str, hint: str | None = None) -> DataError:
    """The error for one member that is not read.

    Args:
        hint: what fixes this problem, where another packing does not.
    """
    return DataError(
        f"refused {source}: member '{shown(name[:200])}' {problem}",
        got=spelled(name[:200]),
        expected="regular files and folders with plain relative names, each once",
        hint=hint or "pack the archive again without this member",
    )


def same(name: str) -> str:
    """The form under which two spellings of one name are one: NFC. macOS writes NFD."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def class_name(folder: str) -> str:
    """The class that a folder spells: its name in NFC, valid Unicode in every file."""
    return spelled(same(folder))


def encoded(name: str) -> bytes:
    """A name's bytes: those of the file system, and of any text a form that tells texts apart."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def text_of(name: str) -> str:
    """A name that the system gave in the encoding of this process's locale, as UTF-8 spells it."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


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

        listed = [encoded(name) for name in names]
        return cls(b"".join(listed), np.cumsum([len(name) for name in listed], dtype=np.int64))

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

    def find(self, name: str) -> int | None:
        """Where a name stands among sorted ones; None: nowhere."""
        place = self._place(name)
        return place if place < len(self) and self[place] == name else None

    def has_folder(self, name: str) -> bool:
        """Whether one of the names, which are sorted, lies below this folder."""
        prefix = name + "/" if name else ""
        place = self._place(prefix)
        return place < len(self) and str(self[place]).startswith(prefix)

    def below(self, folder: str) -> range:
        """The places of the names, which are sorted, below a folder."""
        return range(self._place(f"{folder}/"), self._place(f"{folder}0"))  # 0 comes after /

    def _place(self, name: str) -> int:
        return bisect.bisect_left(range(len(self)), encoded(name), key=lambda i: encoded(self[i]))

    def __iter__(self) -> Iterator[str]:
        for index in range(len(self)):
            yield self[index]

    def __reduce__(self) -> tuple[Any, ...]:
        import numpy as np

        return (Names, (bytes(self._blob[:]), np.array(self._ends)))


def name_archives(folder: str, archives: Sequence[str]) -> str:
    """The hint for a folder of archives, none of which is read because it lies there."""
    folder = folder.rstrip("/")
    hint = f"name the archive itself: {folder}/{archives[0]}"
    if len(archives) == 1:
        return hint
    ends = {name.partition(".")[2] for name in archives}
    every = f"{folder}/*.{ends.pop()}" if len(ends) == 1 else "a list of them"
    return (
        f"{hint}; or all of them: {every}. Each is a source and none is a class: a classifier's "
        "have a folder for each class inside"
    )
