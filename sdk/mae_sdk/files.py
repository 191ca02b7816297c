"""Files that appear whole or not at all, locks that end with their process, and the cache folder.

Standard library only. Everything that this project replaces on a local disk is replaced here, so
that a reader never meets half a file and a failure leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cache_home() -> Path:
    """The folder of every cache: ``MAE_CACHE_DIR``, else ``$XDG_CACHE_HOME/mae``, else
    ``~/.cache/mae``.

    Raises:
        OSError: there is no such folder to be named: the user has no home.
    """
    if given := os.environ.get("MAE_CACHE_DIR"):
        return Path(given).expanduser().absolute()

    base = os.environ.get("XDG_CACHE_HOME")
    try:
        base = base or str(Path.home() / ".cache")
    except RuntimeError:
        message = "this user has no home folder: set MAE_CACHE_DIR to a folder for the cache"
        raise OSError(errno.ENXIO, message) from None
    return Path(base).absolute() / "mae"


@contextlib.contextmanager
def atomic_file(
    path: Path, *, mode: int = 0o666, sync: bool = False, exclusive: bool = False
) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place on success and vanishes on failure.

    Args:
        mode: permissions before the umask.
        sync: have the disk confirm the content before the rename.
        exclusive: an existing `path` raises `FileExistsError` and is left alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    # `open` applies the umask; asking for the umask means setting it, for every thread at once.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))

    try:
        yield temporary

        if sync:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())

        if exclusive:
            os.link(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, *, mode: int = 0o777, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name on success and vanishes on failure.

    Args:
        mode: permissions before the umask.
        replace: a folder already at `path` is removed first; otherwise it raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir(mode=mode)

    try:
        yield temporary

        if replace and path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    # Hidden, so that listings and syncs pass over it; it begins with the name, so that whoever
    # holds the lock of `path` can find what an interrupted writer left.
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file whole."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replace a file whole, in UTF-8, line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Replace a file whole with JSON.

    Raises:
        ValueError: the content holds NaN or infinity, which JSON lacks.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that is only ever replaced whole."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def lock(path: Path, *, wait: bool = True) -> int:
    """Lock a file, made if it is missing, against other processes.

    Returns:
        The descriptor that holds the lock, until it is closed or its process ends.

    Raises:
        BlockingIOError: somebody else holds it, and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:  # another user's: it can be locked without being written
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the `lock` of a file."""
    descriptor = lock(path, wait=wait)
    try:
        yield
    finally:
        os.close(descriptor)


def share(descriptor: int) -> None:
    """Hold an open file together with others, so that `in_use` reports it. A file system without
    locks is passed over."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def in_use(path: Path) -> bool:
    """Whether a process holds the file; False if it is missing or its file system has no locks."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
