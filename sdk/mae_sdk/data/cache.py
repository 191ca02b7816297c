"""The archive cache: content-addressed, verified, atomic, locked across processes, evicted by size.

Location: `files.cache_home`. Size: ``MAE_CACHE_MAX_GB``, else four fifths of what its disk could
give it. An entry's key is the hash of the URL without credentials and the object's ETag, size, time
of change and checksum, as far as the store gives them. Neither index nor errors hold credentials.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mae_skill.errors import DataError, NotFoundError, StorageError

from mae_sdk import files
from mae_sdk.data.decompress import sniff
from mae_sdk.data.fetch import is_archive, reading
from mae_sdk.data.member import Limits, Member
from mae_sdk.data.names import IMAGE_SUFFIXES, ends_as_image, is_image, safe_name
from mae_sdk.data.pack import FORMAT, Pack, write_pack
from mae_sdk.data.progress import told
from mae_sdk.storage import transfer, urls
from mae_sdk.storage.faults import as_data_error, changed


class NoImages(DataError):
    """A prefix without images.

    Attributes:
        names: of the files that it holds.
    """

    def __init__(self, where: str, names: list[str]) -> None:
        super().__init__(
            f"{where} holds no images",
            got=where,
            expected=f"files ending in {' '.join(IMAGE_SUFFIXES)}, in any case",
        )
        self.names = names


@dataclass(frozen=True)
class Entry:
    """One entry as ``mae cache`` shows it."""

    key: str
    source: str
    files: int
    bytes: int
    last_used: float
    in_use: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def cache_dir(given: str | os.PathLike[str] | None = None) -> Path:
    """The cache's folder: the argument, or `files.cache_home`."""
    return Path(given).expanduser().absolute() if given else files.cache_home()


def max_bytes(root: Path) -> int:
    """How large the cache may grow."""
    given = os.environ.get("MAE_CACHE_MAX_GB")
    if given:
        return int(float(given) * 1e9)
    there = next(path for path in (root, *root.parents) if path.is_dir())
    return int(
        0.8 * (shutil.disk_usage(there).free + sum(entry.bytes for entry in list_entries(root)))
    )


def pack_of(
    uri: str,
    root: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    images_only: bool = False,
    chosen: Callable[[str], bool] | None = None,
) -> Pack:
    """The pack of an archive or an object-store prefix, fetched if it is missing.

    Args:
        images_only: of a prefix, skip what is not an image; an archive is read whole anyway.
        chosen: of a prefix, the names that are meant; None: all.

    Raises:
        DataError: the source is missing, empty, hostile or corrupt.
        StorageError: it could not be fetched, or does not fit.
    """
    folder = cache_dir(root)
    skipped: list[str] = []
    identity, details = _identify(uri, images_only, skipped, chosen)
    key = hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True).encode()).hexdigest()[:32]
    if not _is_trusted(folder, key):
        key += f"-{files.user_id()}"
    found = _open(folder / key)
    if found is None:
        with _locked(folder, key):
            found = _open(folder / key)  # another process may have been faster
            if found is None:
                _build(
                    folder,
                    key,
                    uri,
                    identity,
                    details,
                    limits or Limits(),
                    images_only,
                    chosen,
                )
                found = _open(folder / key)
        if found is None:
            raise StorageError(
                "the cache entry vanished while it was opened",
                got=str(folder / key),
                hint="run the same command again",
            )

    found.not_fetched = skipped
    return found


def _identify(
    uri: str,
    images_only: bool,
    skipped: list[str] | None = None,
    chosen: Callable[[str], bool] | None = None,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]] | None]:
    """What makes this source this one; for a prefix also its listing.

    Args:
        skipped: gets the names of a prefix that are no images.
    """
    where = urls.redact(uri)
    try:
        archive = is_archive(uri)
    except NotFoundError as error:
        raise as_data_error(error, where) from error
    if not archive and urls.scheme(uri) in transfer.WEB:
        if not transfer.exists(uri):
            raise as_data_error(NotFoundError(""), where)
        raise DataError(
            f"{where} is not an archive, and a web server has no folders to list",
            got=where,
            expected=".tar, .tar.gz, .tgz, .tar.zst, .tar.xz, .tar.bz2 or .zip",
            hint="name the archive itself, or fetch the files and name their folder",
        )
    if not archive:
        there = transfer.list_details(uri)
        if not there:
            raise DataError(
                f"no files at {where}",
                got=where,
                expected="an archive, or a folder or prefix of images",
                hint="check the bucket and the prefix: upper and lower case count",
            )
        details = {
            name: entry
            for name, entry in there.items()
            if chosen is None or chosen(name)
            if not images_only
            or (ends_as_image(name) and safe_name(name, where) and is_image(name))
        }
        if skipped is not None:
            skipped += sorted(there.keys() - details.keys())
        if not details:
            raise NoImages(where, sorted(there))
        return {"url": urls.unsigned(uri).rstrip("/"), "listing": _listing(details)}, details

    try:
        info = transfer.info(uri)
    except NotFoundError as error:
        raise as_data_error(error, where) from error

    url = urls.unsigned(uri) if urls.is_remote(uri) else str(urls.local_path(uri).resolve())
    return {
        "url": url,
        "etag": info["etag"],
        "size": info["size"],
        "mtime": info["mtime"],
        "checksum": info["checksum"],
    }, None


def _listing(details: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(
        json.dumps(
            sorted((n, d["size"], d["etag"], d["mtime"]) for n, d in details.items())
        ).encode()
    ).hexdigest()


def _in_place(uri: str) -> Path | None:
    """The local archive that needs no copy because nothing in it is compressed: a plain tar."""
    if urls.is_remote(uri):
        return None
    path = urls.local_path(uri).resolve()
    with path.open("rb") as raw:
        head = raw.read(6)
    return path if path.name.lower().endswith(".tar") and sniff(head) == "none" else None


def _is_trusted(root: Path, key: str) -> bool:
    """Whether an entry, where there is one, may be read.

    Whoever may write to the cache's folder could put anything under the key of a source. So the
    entries of other users are read where their number was chosen: where not everybody may write to
    the folder. In one as ``/tmp``, those of this user and of root alone are; the source is then
    fetched again, beside the other's.
    """
    try:
        owner = (root / key).lstat().st_uid
    except OSError:
        return True
    if owner == files.user_id():
        return True
    is_open = os.access(root / key, os.R_OK | os.X_OK)
    return is_open and (owner == 0 or not root.stat().st_mode & stat.S_IWOTH)


def _open(folder: Path) -> Pack | None:
    if not (folder / "index.json").exists():
        return None
    try:
        pack = Pack(folder)
        pack.verify()
    except StorageError:
        return None
    with contextlib.suppress(OSError):  # a read-only cache serves as well
        os.utime(folder / "index.json")
    return pack


def _share_locks(root: Path) -> None:
    """Whoever may make entries may make their locks."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        (root / ".locks").mkdir()
    except FileExistsError:
        return
    (root / ".locks").chmod(stat.S_IMODE(root.stat().st_mode))


@contextlib.contextmanager
def _locked(root: Path, key: str) -> Iterator[None]:
    try:
        _share_locks(root)
        held = files.lock(root / ".locks" / key)
    except OSError as error:
        hint = "set MAE_CACHE_DIR to a folder that can be written"
        if error.errno in files.NO_LOCKS:
            hint = "set MAE_CACHE_DIR to a folder of a file system that has locks"
        raise StorageError(
            f"the cache folder cannot be used: {error.strerror}",
            got=str(root),
            retryable=False,
            hint=hint,
        ) from error

    try:
        yield
    finally:
        held.close()


def _build(
    root: Path,
    key: str,
    uri: str,
    identity: dict[str, Any],
    details: dict[str, dict[str, Any]] | None,
    limits: Limits,
    images_only: bool,
    chosen: Callable[[str], bool] | None,
) -> None:
    for stale in root.glob(
        f".{key}.*"
    ):  # an interrupted fetch; we hold its lock, so nobody is writing it
        shutil.rmtree(stale, ignore_errors=True)

    in_place = _in_place(uri)
    expected = sum(d["size"] for d in details.values()) if details else identity.get("size") or 0
    expected = 0 if in_place else expected
    make_room(root, expected)
    if expected > shutil.disk_usage(root).free:
        hint = "set MAE_CACHE_DIR to a larger disk, or run: mae cache clear"
        raise StorageError(
            f"no room in the cache for {urls.redact(uri)} ({expected} bytes)",
            got=str(root),
            retryable=False,
            hint=hint,
        )

    # As private as the umask says: a cache may be shared.
    with files.atomic_folder(root / key, replace=True) as temporary:
        meta: dict[str, Any] = {"source": urls.redact(uri), "created": time.time()}
        meta["kind"] = "archive" if details is None else "objects"
        if limits.max_bytes is None and in_place is None:
            from dataclasses import replace

            limits = replace(limits, max_bytes=shutil.disk_usage(root).free)
        with reading(uri, identity, details, limits, root) as found:
            write_pack(temporary, _told(found, uri), urls.redact(uri), meta, in_place)
        if details is None:
            transfer.check_unchanged(uri, identity)
        elif _identify(uri, images_only, None, chosen)[0] != identity:
            raise changed(uri)

    make_room(root, 0, keep=key)


def _told(found: Iterator[Member], uri: str) -> Iterator[Member]:
    """The members, with a line about how far the fetch is every few seconds."""
    where, done = urls.redact(uri), 0

    def line(member: Member) -> str:
        nonlocal done
        done += member.size
        return f"reading {where}: {done / 2**20:,.0f} MiB so far"

    return told(found, line)


def extracted_folder(uri: str, root: str | os.PathLike[str] | None = None) -> Path:
    """A real folder with the files of an archive or prefix, made once, inside the cache entry.

    It may be evicted while it is read: of a full cache the least recently used entry goes first.
    """
    if not urls.is_remote(uri) and urls.local_path(uri).is_dir():
        return urls.local_path(uri)
    pack = pack_of(uri, root)
    target = pack.folder / "folder"
    if target.is_dir():
        return target
    with _locked(pack.folder.parent, pack.folder.name):
        if target.is_dir():
            return target
        with files.atomic_folder(target) as temporary:
            for i, name in enumerate(pack.names):
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(pack.read(i))

    return target


def list_entries(root: str | os.PathLike[str] | None = None) -> list[Entry]:
    """Every complete entry, the most recently used first."""
    found = []
    folder = cache_dir(root)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        try:  # an entry may be another user's, who keeps it private
            if not (path / "index.json").is_file():
                continue
            index = json.loads((path / "index.json").read_text())
            used = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
            found.append(
                Entry(
                    path.name,
                    index["source"],
                    index["files"],
                    used,
                    (path / "index.json").stat().st_mtime,
                    files.in_use(path / "data.bin"),
                )
            )
        except (OSError, ValueError, KeyError):
            continue

    return sorted(found, key=lambda entry: -entry.last_used)


def cache_info(root: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What ``mae cache`` shows: ``path, used_bytes, max_bytes, entries`` (each as
    `Entry.to_dict`)."""
    folder = cache_dir(root)
    entries = list_entries(folder)
    return {
        "path": str(folder),
        "used_bytes": sum(entry.bytes for entry in entries),
        "max_bytes": max_bytes(folder),
        "entries": [entry.to_dict() for entry in entries],
    }


def clear_cache(root: str | os.PathLike[str] | None = None) -> int:
    """Remove every entry that no process reads; returns the bytes freed."""
    return sum(entry.bytes for entry in clear(None, root))


def clear(key: str | None = None, root: str | os.PathLike[str] | None = None) -> list[Entry]:
    """Remove one entry (by key or an unambiguous prefix of it) or all; entries in use stay.

    Returns:
        What was removed.

    Raises:
        NotFoundError: no entry, or several, begin with ``key``.
    """
    folder = cache_dir(root)
    entries = [entry for entry in list_entries(folder) if key is None or entry.key.startswith(key)]
    if key is not None and len(entries) != 1:
        raise NotFoundError(
            f"{len(entries) or 'no'} cache entries begin with {key!r}",
            got=key,
            hint="mae cache lists them",
        )

    removed = [entry for entry in entries if _remove(folder, entry.key)]
    if key is None and folder.is_dir():
        for leftover in folder.iterdir():  # parts of interrupted fetches whose writer is gone
            if leftover.name.startswith(".") and leftover.name != ".locks":
                with (
                    contextlib.suppress(BlockingIOError),
                    files.locked(folder / ".locks" / leftover.name.split(".")[1], wait=False),
                ):
                    shutil.rmtree(leftover, ignore_errors=True)

    return removed


def make_room(root: Path, wanted: int, keep: str | None = None) -> None:
    """Evict the least recently used entries until ``wanted`` more bytes fit under the limit;
    entries in use stay."""
    root.mkdir(parents=True, exist_ok=True)
    limit = max_bytes(root)
    entries = list_entries(root)
    total = sum(entry.bytes for entry in entries) + wanted
    for entry in reversed(entries):
        if total <= limit:
            return
        if entry.key != keep and _remove(root, entry.key):
            total -= entry.bytes


def _remove(root: Path, key: str) -> bool:
    path = root / key
    try:
        with files.locked(root / ".locks" / key, wait=False):
            if files.in_use(path / "data.bin"):
                return False
            doomed = root / f".{key}.gone-{os.getpid()}-{time.monotonic_ns()}"
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
            return True
    except OSError:
        return False
