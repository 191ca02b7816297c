"""Moving bytes between local files and any fsspec store: verified, retried, in parallel, and never
half done.

Every failure is a `StorageError` (with ``retryable`` set by what failed) or a `NotFoundError`.
Requests are retried as `storage.retry` says.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mae_skill.errors import NotFoundError

from mae_sdk.files import atomic_file
from mae_sdk.storage import checksums, listing, objects, urls
from mae_sdk.storage.faults import (
    Missing,
    StoreFault,
    changed,
    damaged,
    fault,
    no_bucket,
    translate,
)
from mae_sdk.storage.retry import attempt
from mae_sdk.storage.streams import StreamedFile, takes_ranges
from mae_sdk.storage.urls import join

__all__ = [
    "delete",
    "download",
    "download_many",
    "exists",
    "holds_something",
    "join",
    "list_files",
    "list_folders",
    "read_bytes",
    "read_head",
    "upload",
    "upload_many",
    "write_bytes",
]

T = TypeVar("T")

PART = 8 << 20
PARALLEL = 8
S3 = ("s3", "s3a")
WEB = ("http", "https")
FOLDERS = ("ftp", "sftp", "ssh", "smb", "webhdfs")  # where a file needs its folder first
_one_at_a_time = threading.RLock()


def _turn(fs: Any) -> contextlib.AbstractContextManager[Any]:
    """A turn on a file system whose one connection takes one request at a time, as FTP's does."""
    return contextlib.nullcontext() if getattr(fs, "async_impl", False) else _one_at_a_time


def exists(url: str) -> bool:
    """Whether a file (or, on local disks, a folder) is there.

    Raises:
        NotFoundError: there is not even a bucket.
    """
    if not urls.is_remote(url):
        return urls.local_path(url).exists()
    try:
        info(url)
    except Missing as error:
        if error.cause == "bucket":
            raise
        return False
    return True


def info(url: str) -> dict[str, Any]:
    """What the store knows of one object.

    Returns:
        ``{"size": int | None, "etag": str | None, "mtime": float | None, "type": "file" |
        "directory", "checksum": "algorithm:hex" | None}``. The checksum is the store's own, of the
        whole.

    Raises:
        NotFoundError: it, or its bucket, does not exist.
    """
    if not urls.is_remote(url):
        path = urls.local_path(url)
        try:
            stat = path.stat()
        except OSError as error:
            raise translate(error, url, "read") or error from error
        return {
            "size": stat.st_size,
            "etag": None,
            "mtime": stat.st_mtime_ns / 1e9,
            "type": "directory" if path.is_dir() else "file",
            "checksum": None,
        }

    def request() -> dict[str, Any]:
        fs, path = urls.filesystem(url)
        if urls.scheme(url) in S3:
            return objects.run(fs, objects.look_s3, path)
        if urls.scheme(url) in WEB:
            return objects.run(fs, objects.look_web, path)
        with _turn(fs):
            fs.invalidate_cache()
            try:
                return _described(fs.info(path))
            except FileNotFoundError as error:
                _need_bucket(fs, path, url, error)
                raise

    return attempt(request, url, "read")


def _need_bucket(fs: Any, path: str, url: str, error: FileNotFoundError | None = None) -> None:
    """Nothing was found: raise what says why, if there is not even a bucket, container or
    repository."""
    if error is not None and error.__cause__ is not None and urls.scheme(url) == "hf":
        raise error  # from the hub's answer that there is no such repository or revision
    if urls.scheme(url) not in objects.STORES:
        return
    try:
        there = objects.has_bucket(fs, path)
    except Exception as refused:  # who may read the object need not be shown its bucket
        known = translate(refused, url, "read")
        if getattr(known, "cause", None) != "denied":
            raise
        return
    if not there:
        raise no_bucket(url)


_TIMES = (
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "modify",
    "modificationTime",
    "created",
)
"""What file systems of fsspec call the time of the last change."""


def _described(entry: Mapping[str, Any]) -> dict[str, Any]:
    """`info`, from what the other file systems of fsspec say of a file, each in its own words."""
    stamps = (objects.seconds(entry.get(name)) for name in _TIMES)
    etag = next((entry[name] for name in ("ETag", "etag", "sha", "blob_id") if entry.get(name)), "")
    size = entry.get("size")
    return {
        "size": None if size is None else int(size),
        "etag": str(etag) or None,
        "mtime": next((stamp for stamp in stamps if stamp is not None), None),
        "type": "directory" if entry.get("type") == "directory" else "file",
        "checksum": checksums.of_web({"Content-MD5": _md5(entry)}),
    }


def _md5(entry: Mapping[str, Any]) -> str:
    """The MD5 sum that Google's or Azure's store keeps of an object, in base 64; else nothing."""
    get = getattr(entry.get("content_settings"), "get", None)
    found = get("content_md5") if callable(get) else None
    if found:
        return base64.b64encode(bytes(found)).decode()
    return str(entry.get("md5Hash") or "")


def read_range(url: str, start: int, end: int, seen: Mapping[str, Any] | None = None) -> bytes:
    """Bytes ``[start, end)``, retried until exactly that many arrive.

    Args:
        seen: what `info` or a list said of the object (``size, etag, mtime``); bytes of another one
            are refused. All of an object's bytes are compared with the store's checksum too.

    Raises:
        StorageError: the request failed for good, or the object changed.
    """
    if start >= end:
        return b""
    known = seen or {}

    def request() -> bytes:
        fs, path = urls.filesystem(url)
        if urls.scheme(url) in S3:
            return objects.run(fs, objects.read_s3, path, start, end, known, url)
        if urls.scheme(url) in WEB:
            return objects.run(fs, objects.read_web, path, start, end, known, url)
        with _turn(fs):
            data: bytes = fs.cat_file(path, start=start, end=end)
        objects.check_length(data, start, end)
        return data

    data = attempt(request, url, "read")
    checksum = known.get("checksum") if (start, end) == (0, known.get("size")) else None
    if not checksums.matches(checksum, data):
        raise damaged(url, str(checksum).partition(":")[0])
    return data


def read_head(url: str, length: int, seen: Mapping[str, Any]) -> bytes:
    """The first bytes of a file, at most ``length``.

    Args:
        seen: what `info` said of it.
    """
    if not urls.is_remote(url):
        with urls.local_path(url).open("rb") as handle:
            return handle.read(length)
    if seen["size"] is not None and takes_ranges(url):
        return read_range(url, 0, min(length, seen["size"]), seen)
    with StreamedFile(url, seen["size"]) as raw:
        data = b""
        while len(data) < length and (more := raw.read(length - len(data))):
            data += more
        return data


def read_bytes(url: str) -> bytes:
    """A whole small file."""
    if not urls.is_remote(url):
        return attempt(lambda: urls.local_path(url).read_bytes(), url, "read")

    def whole() -> bytes:
        seen = info(url)
        if seen["size"] is not None and takes_ranges(url):
            return read_range(url, 0, seen["size"], seen)
        with StreamedFile(url, seen["size"], seen) as raw:
            data: bytes = raw.read()
            raw.finish()
            return data

    # A record is replaced while it is read, now and then: the new one is as good.
    for _ in range(3):
        try:
            return whole()
        except StoreFault as error:
            if error.cause != "changed":
                raise
    return whole()


def write_bytes(url: str, data: bytes, if_none_match: bool = False) -> None:
    """Write a whole small file: atomically on disks, as one PUT on object stores.

    Args:
        if_none_match: create only; an existing file is an error and stays as it is.

    Raises:
        StorageError: it failed; with ``if_none_match`` also when the file exists (``retryable``
            false).
    """
    if not urls.is_remote(url):
        path = urls.local_path(url)

        def write() -> None:
            with atomic_file(path, exclusive=if_none_match, sync=True) as temporary:
                temporary.write_bytes(data)

        attempt(write, url, "write", attempts=1)
        return

    # Some stores ignore If-None-Match; asking first makes the ordinary case right there too (a race
    # is then the store's).
    if if_none_match and exists(url):
        raise _exists(url)

    def put() -> None:
        fs, inside = urls.filesystem(url)
        with _turn(fs):
            _make_folder(fs, inside, url)
            fs.pipe_file(inside, data, mode="create" if if_none_match else "overwrite")

    attempt(put, url, "write")


def _exists(url: str) -> StoreFault:
    message = f"cannot write {urls.redact(url)}: it exists already"
    return fault("exists", message, url, retryable=False, hint="")


def _make_folder(fs: Any, path: str, url: str) -> None:
    if urls.scheme(url) in FOLDERS:
        fs.makedirs(fs._parent(path), exist_ok=True)


def list_files(url: str) -> list[str]:
    """Every file below a folder or prefix, as paths relative to it, sorted; an absent prefix gives
    ``[]``.

    Raises:
        NotFoundError: there is no such bucket.
        StorageError: it cannot be listed, or the list does not end.
    """
    return sorted(list_details(url))


def list_details(url: str) -> dict[str, dict[str, Any]]:
    """Every file below a folder or prefix: relative path → ``{"size", "etag", "mtime"}``; raises as
    `list_files`."""
    if not urls.is_remote(url):
        root = urls.local_path(url)
        return {
            str(p.relative_to(root)): {"size": p.stat().st_size, "etag": None, "mtime": None}
            for p in sorted(root.rglob("*"))
            if p.is_file()
        }

    def request() -> dict[str, dict[str, Any]]:
        fs, path = urls.filesystem(url)
        if urls.scheme(url) in S3:
            return objects.run(fs, listing.keys, path, url)
        with _turn(fs):
            fs.invalidate_cache()
            prefix = path.rstrip("/") + "/"
            try:
                found = fs.find(path, detail=True)
            except FileNotFoundError as error:
                _need_bucket(fs, path, url, error)
                return {}
            if not found:
                _need_bucket(fs, path, url)

        return {
            name[len(prefix) :]: _described(entry)
            for name, entry in found.items()
            if name.startswith(prefix) and not name.endswith("/")
            if entry.get("type") != "directory"
        }

    return attempt(request, url, "list")


def list_folders(url: str) -> list[str]:
    """The names of the folders in a remote folder or prefix; an absent one gives ``[]``; raises as
    `list_files`."""

    def request() -> list[str]:
        fs, path = urls.filesystem(url)
        if urls.scheme(url) in S3:
            return objects.run(fs, listing.folders, path, url)
        with _turn(fs):
            fs.invalidate_cache()
            try:
                found = fs.ls(path, detail=True)
            except FileNotFoundError as error:
                _need_bucket(fs, path, url, error)
                return []
        return [
            entry["name"].rstrip("/").rsplit("/", 1)[-1]
            for entry in found
            if entry["type"] == "directory"
        ]

    return attempt(request, url, "list")


def holds_something(url: str) -> bool:
    """Whether anything lies in a remote folder or prefix; a web server cannot say, and its answer
    is no. Raises as `list_files`."""
    if urls.scheme(url) in WEB:
        return False

    def request() -> bool:
        fs, path = urls.filesystem(url)
        if urls.scheme(url) in S3:
            return objects.run(fs, listing.holds_something, path, url)
        with _turn(fs):
            fs.invalidate_cache()
            try:
                found = fs.ls(path, detail=False)
            except NotADirectoryError:
                return False
            except FileNotFoundError as error:
                _need_bucket(fs, path, url, error)
                return False
        return any(item.rstrip("/") != path.rstrip("/") for item in found)

    return attempt(request, url, "list")


def upload(path: str | os.PathLike[str], url: str) -> None:
    """A local file to ``url``; large ones in parallel parts. The size at the far end is checked."""
    source = Path(path)
    if not urls.is_remote(url):
        download(str(source), urls.local_path(url))
        return

    def put() -> None:
        if not source.is_file():
            raise NotFoundError(
                f"no such file to upload: {source}",
                got=str(source),
                hint="check the path",
                expected="a file that is there",
            )
        size = source.stat().st_size
        fs, inside = urls.filesystem(url)
        with _turn(fs):
            _make_folder(fs, inside, url)
            fs.put_file(str(source), inside)
        arrived = info(url)["size"]
        if arrived is not None and arrived != size:
            raise EOFError(f"{arrived} bytes arrived of {size}")

    attempt(put, url, "write")


def download(url: str, path: str | os.PathLike[str]) -> None:
    """``url`` to a local file in parallel ranges; the file appears only when it is whole.

    Raises:
        StorageError: a range failed for good, or the object changed while it was read.
    """
    target = Path(path)
    if not urls.is_remote(url):
        with atomic_file(target, sync=True) as temporary:
            attempt(
                lambda: shutil.copyfile(urls.local_path(url), temporary), url, "read", attempts=1
            )
        return

    before = info(url)
    with atomic_file(target, sync=True) as temporary, temporary.open("r+b") as handle:
        if before["size"] is None or not takes_ranges(url):
            with StreamedFile(url, before["size"], before) as raw:
                shutil.copyfileobj(raw, handle, 1 << 20)
                raw.finish()
            check_unchanged(url, before)
            return
        size: int = before["size"]
        handle.truncate(size)

        def fetch(start: int) -> None:
            data = read_range(url, start, min(start + PART, size), before)
            attempt(
                lambda: os.pwrite(handle.fileno(), data, start), str(target), "write", attempts=1
            )

        with ThreadPoolExecutor(PARALLEL) as pool:
            for _ in pool.map(fetch, range(0, size, PART)):
                pass
        check_unchanged(url, before)
        _check_file(url, temporary, before["checksum"])


def _check_file(url: str, path: Path, checksum: str | None) -> None:
    """Refuse a file that is not the one that the store has the checksum of."""
    if checksum is None:
        return
    algorithm = checksum.partition(":")[0]
    found = checksums.running(checksum)
    with path.open("rb") as handle:
        while data := handle.read(1 << 20):
            found.update(data)
    if f"{algorithm}:{found.hexdigest()}" != checksum:
        raise damaged(url, algorithm)


def check_unchanged(url: str, before: Mapping[str, Any]) -> None:
    """Refuse bytes that were read while their object was replaced.

    Args:
        before: what `info` said of it.

    Raises:
        StorageError: it was.
    """
    after = info(url)
    said = ("size", "etag", "mtime", "checksum")
    if any(before.get(name) != after[name] for name in said if before.get(name) is not None):
        raise changed(url)


def upload_many(pairs: list[tuple[str, str]]) -> None:
    """Upload ``(path, url)`` pairs, several at a time; the first failure is raised after the
    running ones end."""
    _many(lambda pair: upload(pair[0], pair[1]), pairs)


def download_many(pairs: list[tuple[str, str]]) -> None:
    """Download ``(url, path)`` pairs, several at a time; the first failure is raised after the
    running ones end."""
    _many(lambda pair: download(pair[0], pair[1]), pairs)


def _many(move: Callable[[tuple[str, str]], None], pairs: list[tuple[str, str]]) -> None:
    with ThreadPoolExecutor(min(16, max(1, len(pairs)))) as pool:
        for future in [pool.submit(move, pair) for pair in pairs]:
            future.result()


def delete(url: str) -> None:
    """Remove one file; one that is gone already is no error."""
    try:
        if urls.is_remote(url):
            attempt(lambda: _remove(url), url, "delete")
        else:
            attempt(lambda: urls.local_path(url).unlink(), url, "delete", attempts=1)
    except NotFoundError:
        return


def _remove(url: str) -> None:
    fs, path = urls.filesystem(url)
    fs.rm_file(path)
