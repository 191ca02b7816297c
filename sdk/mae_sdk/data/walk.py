"""A local folder, walked: its images, and what else was met."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mae_skill.errors import StorageError
from mae_skill.spelling import shown, spelled

from mae_sdk.data.left_out import HEAD, LeftOut
from mae_sdk.data.names import encoded, is_image, is_system_folder, refused, text_of

MAX_VISITS = 8
"""Paths by which one folder is read; links to each other could make more of them than atoms."""

_Identity = tuple[int, int]


@dataclass
class Walk:
    """What a folder holds.

    Attributes:
        files: ``(name, size, mtime_ns, identity)`` of every image, sorted.
        left_out: everything else.
    """

    root: Path

    files: list[tuple[str, int, int, int]] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def walk(root: Path) -> Walk:
    """Every image below a folder.

    Links are followed, so a folder reads as its archive does. A link to nothing, and a folder that
    is linked into itself, are left out; a file that is reached by several paths is read by each,
    and counted among the twins. What is deleted during the walk is ignored.

    Raises:
        DataError: a device or a pipe has the name of an image.
        StorageError: a folder may not be read, and it is not a system's.
    """
    found = Walk(root)
    visits: Counter[_Identity] = Counter()
    stack: list[tuple[str, Path, tuple[_Identity, ...]]] = [("", root, ())]
    while stack:
        prefix, folder, above = stack.pop()
        try:
            stat = folder.stat()
            identity = (stat.st_dev, stat.st_ino)
            if identity in above or visits[identity] >= MAX_VISITS:
                found.left_out.loops.add(prefix)
                continue
            visits[identity] += 1
            with os.scandir(folder) as entries:
                below = _read(entries, prefix, found)
        except FileNotFoundError:
            continue
        except OSError as error:
            if is_system_folder(folder.name):
                found.left_out.locked.add(prefix)
                continue
            raise StorageError(
                f"cannot read {shown(str(folder))}: {error.strerror}",
                got=spelled(str(folder)),
                retryable=False,
            ) from error
        stack += [(name, path, (*above, identity)) for name, path in below]

    found.files.sort(key=lambda file: encoded(file[0]))  # as an archive's names are sorted
    _find_twins(found)
    return found


def alone(picture: Path) -> Walk:
    """One image as if it were all that its folder holds."""
    found, info = Walk(picture.parent), picture.stat()
    identity = hash((info.st_dev, info.st_ino))
    found.files.append((text_of(picture.name), info.st_size, info.st_mtime_ns, identity))
    return found


def _read(entries: Iterable[os.DirEntry[str]], prefix: str, found: Walk) -> list[tuple[str, Path]]:
    """Take over the files of one folder; returns its folders, as ``(prefix, path)``."""
    left, below, images = found.left_out, [], 0
    for entry in entries:
        name = prefix + text_of(entry.name)
        if is_system_folder(entry.name):
            left.hidden.add(name)
            continue
        try:
            if entry.is_dir():
                below.append((name + "/", Path(entry.path)))
                continue
            info = entry.stat()
        except FileNotFoundError:
            if entry.is_symlink():
                left.add_dangling(name)
            continue
        except OSError:  # a link into a circle of links, or into a folder that may not be read
            left.add_dangling(name)
            continue
        if is_image(name) and entry.is_file():
            images += 1
            identity = hash((info.st_dev, info.st_ino))
            found.files.append((name, info.st_size, info.st_mtime_ns, identity))
        elif is_image(name):
            raise refused(
                name,
                "is a device or a pipe",
                shown(str(found.root)),
                "remove it from the folder",
            )
        elif entry.is_file():
            left.add_file(name, _head_of(Path(entry.path)))
    folder = prefix.rstrip("/")
    if images:
        left.folders.pop(folder, None)
    elif not below and prefix:
        left.folders.setdefault(folder, 0)
    return below


def _head_of(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with path.open("rb") as stream:
                return stream.read(HEAD)
        except OSError:
            return b""

    return read


def _find_twins(found: Walk) -> None:
    """Images that are the same file as one that is named before them."""
    times = Counter(identity for *_, identity in found.files)
    first: dict[int, str] = {}
    for name, _, _, identity in found.files:
        if times[identity] > 1:
            if identity in first:
                found.left_out.twins.add(f"{name} = {first[identity]}")
            first.setdefault(identity, name)
