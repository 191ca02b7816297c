"""Files that appear whole or not at all, locks that end with their process, and the cache folder.

Standard library only. Everything that this project replaces on a local disk is replaced here, so
that a reader never meets half a file and a failure leaves nothing behind.

What Windows lacks is asked for by name here, once: without ``flock`` a file is locked by
``msvcrt``, and a temporary file is not held open, since an open file can neither be renamed nor
removed there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HAS_FLOCK = fcntl is not None
"""Whether this is a system that the supervisor of a job can run on: Linux or macOS."""

READ = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)  # the open of a pipe does not wait for its writer
    | getattr(os, "O_BINARY", 0)
)
"""The flags of `os.open` to read a file that may be anything."""
_READ_AND_WRITE = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_SEEKING = threading.Lock()
_POLL_SECONDS = 0.05

SMALL_BYTES = 32 << 20
"""More than any record of ours: a larger file under its name is not one."""

_MAKE_TRIES = 10
"""To make a temporary file that is gone before it is held: another process may take it for a
leftover once, not ten times in a row."""

_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part$")
_UNLOCKED_SECONDS = 24 * 3600.0
"""On a file system without locks, how long the last change of a temporary file must lie back
before its writer counts as gone."""

_LINK_SECONDS = 60.0
"""How long another machine's lock is waited for where the file system cannot tell that it died."""

NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
"""The errors of a file system without ``flock``."""


def user_id() -> int:
    """The user's number, as `os.stat` has it: 0 on Windows, which has none."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def pread(descriptor: int, size: int, offset: int) -> bytes:
    """Read at a place of an open file, whatever other threads read from it."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    with _SEEKING:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def _flock(descriptor: int, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file until it is closed.

    Raises:
        BlockingIOError: somebody else holds it, and `wait` is False.
        OSError: it cannot be locked.
    """
    if fcntl is not None:
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, how if wait else how | fcntl.LOCK_NB)
        return
    if shared:  # a lock of msvcrt has one holder
        raise OSError(errno.ENOSYS, "there are no shared locks")
    import msvcrt

    while True:
        try:
            # A byte far behind the end: locked bytes cannot be read by others.
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "locked") from None
        time.sleep(_POLL_SECONDS)


def _hold(descriptor: int) -> int:
    """Keep an open temporary file open, to show that it is in use; -1 where that would keep it
    from being renamed."""
    if HAS_FLOCK:
        return descriptor
    os.close(descriptor)
    return -1


def _open_folder(folder: Path) -> int:
    """A folder, open, to be held; -1 on Windows, which opens none."""
    return os.open(folder, READ) if HAS_FLOCK else -1


def _let_go(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)


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

    def make(temporary: Path) -> int:
        # `open` applies the umask; asking for the umask means setting it, for every thread at once.
        return _hold(os.open(temporary, _READ_AND_WRITE | os.O_CREAT | os.O_EXCL, mode))

    temporary, held = _made(lambda: _beside(path), make)
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
        _let_go(held)


@contextlib.contextmanager
def atomic_folder(path: Path, *, mode: int = 0o777, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name on success and vanishes on failure.

    Args:
        mode: permissions before the umask.
        replace: a folder already at `path` is removed first; otherwise it raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)

    def make(temporary: Path) -> int:
        temporary.mkdir(mode=mode)
        return _open_folder(temporary)

    temporary, held = _made(lambda: _beside(path), make)
    try:
        yield temporary

        if replace and path.exists():
            _remove_tree(path, ignore_errors=False)
        temporary.rename(path)
    finally:
        _remove_tree(temporary)
        _let_go(held)


def _beside(path: Path) -> Path:
    # Hidden, so that listings and syncs pass over it; it begins with the name, so that whoever
    # holds the lock of `path` can find what an interrupted writer left.
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")


def _made(name: Callable[[], Path], make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new temporary file or folder, and the open descriptor that shows that it is in use.

    Raises:
        OSError: it cannot be made, or was gone again after each of `_MAKE_TRIES` tries.
    """
    for left in reversed(range(_MAKE_TRIES)):
        path = name()
        try:
            descriptor = make(path)
        except FileNotFoundError:  # removed between its making and its opening
            # Where nothing can be made (/proc), a folder that is there answers the same for ever.
            if not left or not path.parent.is_dir():
                raise
            continue
        if descriptor >= 0:
            with contextlib.suppress(OSError):  # no locks: only its age shows that it is abandoned
                _flock(descriptor, shared=True)
        if os.path.lexists(path):
            return path, descriptor
        _let_go(descriptor)  # taken for a leftover in the moment before it was held
    raise FileNotFoundError(errno.ENOENT, "removed each time that it was made", str(path))


def remove_leftovers(folder: Path, *, links: bool = False) -> list[Path]:
    """Remove what writers that were killed have left directly in a folder.

    Only what is provably of nobody goes: a writer holds its temporary file while it lives. Another
    user's is passed over.

    Args:
        links: temporary links too, however young: nobody else makes any in this folder.

    Returns:
        What was removed.
    """
    try:
        with os.scandir(folder) as entries:
            parts = [Path(entry.path) for entry in entries if _PART.fullmatch(entry.name)]
    except OSError:
        return []
    return [path for path in parts if _remove_abandoned(path, links)]


def _remove_abandoned(path: Path, links: bool) -> bool:
    """Remove a temporary file or folder of this user that no writer holds; whether it was."""
    try:
        status = path.lstat()
        if status.st_uid != user_id():
            return False
        if stat.S_ISLNK(status.st_mode):  # there is nothing to hold: it lives for a moment
            is_old = links or time.time() - status.st_mtime > _LINK_SECONDS
            return is_old and _remove(path)
        if not HAS_FLOCK:  # nobody holds one: its age is all there is
            return time.time() - status.st_mtime > _UNLOCKED_SECONDS and _remove(path)
        descriptor = os.open(path, READ)
    except OSError:
        return False
    try:
        _flock(descriptor, wait=False)
        return _remove(path)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - status.st_mtime > _UNLOCKED_SECONDS and _remove(path)
    finally:
        os.close(descriptor)


def free_bytes(place: Path) -> int:
    """Bytes free on the disk of a place.

    Raises:
        OSError: there is no such place.
    """
    import shutil

    return shutil.disk_usage(place).free


def _remove_tree(path: Path, *, ignore_errors: bool = True) -> None:
    import shutil  # a supervisor, whose start a person waits for, does without it

    shutil.rmtree(path, ignore_errors=ignore_errors)


def _remove(path: Path) -> bool:
    """Remove a file or a folder; whether it is gone."""
    if path.is_dir() and not path.is_symlink():
        _remove_tree(path)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    return not os.path.lexists(path)


@contextlib.contextmanager
def temporary_folder(prefix: str, base: Path | None = None) -> Iterator[Path]:
    """A folder of this user alone, gone afterward.

    Those that killed processes of this user have left there under the same prefix go too.

    Args:
        base: where; the system's place for temporary files.
    """
    import tempfile

    place = Path(tempfile.gettempdir()) if base is None else base
    with contextlib.suppress(OSError):
        for entry in list(place.iterdir()):
            if entry.name.startswith(prefix):
                _remove_abandoned(entry, False)

    def make(folder: Path) -> int:
        folder.mkdir(mode=0o700)
        return _open_folder(folder)

    folder, held = _made(lambda: place / f"{prefix}{os.urandom(6).hex()}", make)
    try:
        yield folder
    finally:
        _remove_tree(folder)
        _let_go(held)


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


def write_csv(path: Path, header: Sequence[object], rows: Iterable[Iterable[object]]) -> Path:
    """Replace a file whole with a table, in UTF-8; returns `path`."""
    import csv

    with (
        atomic_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def read_small(path: str | Path, limit: int = SMALL_BYTES) -> str:
    """`read_small_bytes` as text."""
    return read_small_bytes(path, limit).decode(errors="replace")


def read_small_bytes(path: str | Path, limit: int = SMALL_BYTES) -> bytes:
    """The content of a file of ours that may have been replaced by anything.

    Raises:
        OSError: it cannot be read, is no regular file (a pipe would never end), or is larger than
            `limit` bytes.
    """
    descriptor = os.open(path, READ)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, more than {limit}", str(path))
        # A file may grow meanwhile; a buffer of the whole limit costs more than the reading.
        return stream.read(min(limit, status.st_size + (64 << 10)) + 1)


def parse_json(text: str) -> Any:
    """JSON as the standard has it.

    Raises:
        ValueError: it is not JSON, holds NaN or infinity, or is nested too deeply to be read.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that is only ever replaced whole.

    Raises:
        OSError: it cannot be read.  ValueError: it holds no JSON object.
    """
    content = parse_json(read_small(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


class Lock:
    """A lock that is held until `close`, or until its process ends.

    Attributes:
        descriptor: of the locked file, open.
    """

    def __init__(self, descriptor: int, link: Path | None = None, proof: Any = None) -> None:
        self.descriptor = descriptor
        self._link, self._proof = link, proof

    def close(self) -> None:
        """Give it back."""
        if self._link is not None:
            self._link.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """In a fork: leave it to the process that took it."""
        if self._proof is not None:
            self._proof.close()
        os.close(self.descriptor)


def lock(path: Path, *, wait: bool = True) -> Lock:
    """Lock a file, made if it is missing, against other processes.

    By ``flock``. On a file system without it (some Lustre, FUSE and network mounts) by a link
    beside the file that names its holder: as safe, though what a machine that died has left must be
    removed by hand.

    Raises:
        BlockingIOError: somebody else holds it, and `wait` is False.
        OSError: it cannot be locked at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, _READ_AND_WRITE | os.O_CREAT, 0o666)
    except PermissionError:  # another user's, which can be locked all the same
        descriptor = os.open(path, READ)
    try:
        _flock(descriptor, wait=wait)
        return Lock(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise
    except BaseException:
        os.close(descriptor)
        raise

    try:
        link, proof = _link_lock(path, wait)
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor, link, proof)


def _link_lock(path: Path, wait: bool) -> tuple[Path, socket.socket]:
    """Make the link that locks `path`, and the socket that proves its holder alive.

    A link is made once, whoever else tries, and its target says whose it is. The kernel frees the
    holder's socket when the holder ends; whoever can then take the socket's name may remove the
    link, and nobody else.
    """
    link = _link_of(path)
    token = f"mae-{os.urandom(8).hex()}"
    proof = _taken(token)
    if proof is None:
        raise OSError(errno.ENOLCK, "the file system has no locks (flock)", str(path))

    pause = 0.01
    patience = time.monotonic() + _LINK_SECONDS
    try:
        while True:
            try:
                link.symlink_to(f"{_this_host()}:{os.getpid()}:{token}")
                return link, proof
            except FileExistsError:
                pass
            except OSError as error:
                what = "the file system has neither locks (flock) nor links"
                raise OSError(errno.ENOLCK, what, str(path)) from error

            host, pid = _clear_dead_link(link)
            if not wait:
                raise BlockingIOError(errno.EAGAIN, "locked", str(path))
            if host and host != _this_host() and time.monotonic() > patience:
                where = host.partition("/")[0]
                what = (
                    f"the file system has no locks (flock), and process {pid} on {where} has held "
                    f"its place for {_LINK_SECONDS:.0f} s; if it is gone, remove {link}"
                )
                raise OSError(errno.ENOLCK, what, str(path))
            time.sleep(pause)
            pause = min(0.2, pause * 1.5)
    except BaseException:
        proof.close()
        raise


def _clear_dead_link(link: Path) -> tuple[str, str]:
    """Remove a link whose holder on this machine has ended; else the host and pid of the holder."""
    try:
        target = str(link.readlink())
    except OSError:
        return "", ""
    host, pid, token = [*target.split(":"), "", ""][:3]
    if host != _this_host():
        return host, pid

    dead = _taken(token)
    if dead is None:
        return host, pid
    with dead, contextlib.suppress(OSError):
        if str(link.readlink()) == target:
            link.unlink()
    return "", ""


def _link_of(path: Path) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.holder")


def _taken(token: str) -> socket.socket | None:
    """The socket of this name, of which there is one on a machine; None where it cannot be had."""
    import socket

    place = socket.socket(socket.AF_UNIX)
    try:
        place.bind(f"\0{token}")
    except OSError:
        place.close()
        return None
    return place


def host_name() -> str:
    """The name of this machine."""
    if hasattr(os, "uname"):
        return os.uname().nodename  # as `socket.gethostname`, without the import of its module
    import socket

    return socket.gethostname()


def _this_host() -> str:
    """What sees the same sockets: the machine, since it was started, and its network namespace."""
    parts = [host_name()]
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/net"):
        with contextlib.suppress(OSError):
            path = Path(name)
            parts.append(str(path.readlink()) if path.is_symlink() else path.read_text().strip())
    return "/".join(parts).replace(":", "")


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the `lock` of a file."""
    held = lock(path, wait=wait)
    try:
        yield
    finally:
        held.close()


def share(descriptor: int) -> None:
    """Hold an open file together with others, so that `in_use` reports it. A file system without
    locks is passed over."""
    with contextlib.suppress(OSError):
        _flock(descriptor, shared=True, wait=False)


def in_use(path: Path) -> bool:
    """Whether a process holds the file.

    On a file system without locks only the holder of its `lock` is seen, none that shares it.
    """
    try:
        with path.open("rb") as stream:
            _flock(stream.fileno(), wait=False)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in NO_LOCKS and bool(_clear_dead_link(_link_of(path))[0])
    return False
