"""Moving bytes between local files and any fsspec store: verified, retried, in parallel, and never
half done.

Every failure is a `StorageError` (with ``retryable`` set by what failed) or a `NotFoundError`.
Requests are retried as `storage.retry` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mae_skill.errors import NotFoundError, StorageError

from mae_sdk.files import atomic_file
from mae_sdk.storage import urls
from mae_sdk.storage.retry import attempt, translate
from mae_sdk.storage.streams import StreamedFile, takes_ranges
from mae_sdk.storage.urls import join

__all__ = [
    "delete",
    "download",
    "download_many",
    "exists",
    "join",
    "list_files",
    "read_bytes",
    "upload",
    "upload_many",
    "write_bytes",
]

T = TypeVar("T")

PART = 8 << 20
PARALLEL = 8


def exists(url: str) -> bool:
    """Whether a file (or, on local disks, a folder) is there."""
    if not urls.is_remote(url):
        return urls.local_path(url).exists()
    try:
        info(url)
    except NotFoundError:
        return False
    return True


def info(url: str) -> dict[str, Any]:
    """``{"size": int | None, "etag": str | None, "mtime": float | None, "type": "file" |
    "directory"}`` of one object.

    Raises:
        NotFoundError: it does not exist.
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
        }

    def request() -> dict[str, Any]:
        fs, path = urls.filesystem(url)
        fs.invalidate_cache()
        found: dict[str, Any] = fs.info(path)
        return found

    found = attempt(request, url, "read")
    etag = found.get("ETag") or found.get("etag") or found.get("md5Hash")
    stamp: Any = (
        found.get("LastModified")
        or found.get("mtime")
        or found.get("updated")
        or found.get("created")
    )
    mtime = (
        stamp.timestamp()
        if hasattr(stamp, "timestamp")
        else (float(stamp) if isinstance(stamp, (int, float)) else None)
    )
    size = found.get("size")
    return {
        "size": None if size is None else int(size),
        "etag": str(etag) if etag else None,
        "mtime": mtime,
        "type": found.get("type", "file"),
    }


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes ``[start, end)``, retried until exactly that many arrive."""
    if start >= end:
        return b""

    def request() -> bytes:
        fs, path = urls.filesystem(url)
        data: bytes = fs.cat_file(path, start=start, end=end)
        if len(data) != end - start:
            raise EOFError(f"{len(data)} bytes came instead of {end - start}")
        return data

    return attempt(request, url, "read")


def read_bytes(url: str) -> bytes:
    """A whole small file."""
    if not urls.is_remote(url):
        return attempt(lambda: urls.local_path(url).read_bytes(), url, "read")
    size = info(url)["size"]
    if size is None:
        fs, path = urls.filesystem(url)
        whole: bytes = attempt(lambda: fs.cat_file(path), url, "read")
        return whole
    return read_range(url, 0, size)


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
        raise StorageError(
            f"cannot write {urls.redact(url)}: it exists already",
            got=urls.redact(url),
            retryable=False,
        )

    fs, inside = urls.filesystem(url)
    attempt(
        lambda: fs.pipe_file(inside, data, mode="create" if if_none_match else "overwrite"),
        url,
        "write",
    )


def list_files(url: str) -> list[str]:
    """Every file below a folder or prefix, as paths relative to it, sorted; an absent prefix gives
    ``[]``."""
    return sorted(list_details(url))


def list_details(url: str) -> dict[str, dict[str, Any]]:
    """Every file below a folder or prefix: relative path → ``{"size", "etag"}`` (the time of change
    where there is no ETag)."""
    if not urls.is_remote(url):
        root = urls.local_path(url)
        return {
            str(p.relative_to(root)): {"size": p.stat().st_size, "etag": None}
            for p in sorted(root.rglob("*"))
            if p.is_file()
        }

    def request() -> dict[str, dict[str, Any]]:
        fs, path = urls.filesystem(url)
        fs.invalidate_cache()
        prefix = path.rstrip("/") + "/"
        try:
            found = fs.find(path, detail=True)
        except FileNotFoundError:
            return {}

        result = {}
        for name, entry in found.items():
            if (
                name.startswith(prefix)
                and name != prefix
                and not name.endswith("/")
                and entry.get("type") != "directory"
            ):
                result[name[len(prefix) :]] = {
                    "size": int(entry.get("size") or 0),
                    "etag": _stamp(entry),
                }

        return result

    return attempt(request, url, "list")


def _stamp(entry: dict[str, Any]) -> str | None:
    """A listed object's ETag, or its time of change in stores without."""
    etag = str(entry.get("ETag") or entry.get("etag") or "")
    changed = entry.get("LastModified") or entry.get("mtime") or entry.get("created")
    return etag if etag.strip('"') else (str(changed) if changed else None)


def upload(path: str | os.PathLike[str], url: str) -> None:
    """A local file to ``url``; large ones in parallel parts. The size at the far end is checked."""
    source = Path(path)
    if not urls.is_remote(url):
        download(str(source), urls.local_path(url))
        return

    def put() -> None:
        if not source.is_file():
            raise NotFoundError(f"no such file to upload: {source}", got=str(source))
        size = source.stat().st_size
        fs, inside = urls.filesystem(url)
        fs.put_file(str(source), inside)
        arrived = fs.info(inside).get("size")
        if arrived is not None and int(arrived) != size:
            raise EOFError(f"{arrived} bytes arrived of {size}")

    attempt(put, url, "write")


def download(url: str, path: str | os.PathLike[str]) -> None:
    """``url`` to a local file in parallel ranges; the file appears only when it is whole.

    Raises:
        StorageError: a range failed for good, or the object changed while it was read.
    """
    target = Path(path)
    if not urls.is_remote(url):
        import shutil

        with atomic_file(target, sync=True) as temporary:
            attempt(
                lambda: shutil.copyfile(urls.local_path(url), temporary), url, "read", attempts=1
            )
        return

    before = info(url)
    with atomic_file(target, sync=True) as temporary, temporary.open("r+b") as handle:
        if before["size"] is None or not takes_ranges(url):
            import shutil

            with StreamedFile(url, before["size"]) as raw:
                shutil.copyfileobj(raw, handle, 1 << 20)
            check_unchanged(url, before)
            return
        size: int = before["size"]
        handle.truncate(size)

        def fetch(start: int) -> None:
            data = read_range(url, start, min(start + PART, size))
            attempt(
                lambda: os.pwrite(handle.fileno(), data, start), str(target), "write", attempts=1
            )

        with ThreadPoolExecutor(PARALLEL) as pool:
            for _ in pool.map(fetch, range(0, size, PART)):
                pass
        check_unchanged(url, before)


def check_unchanged(url: str, before: dict[str, Any]) -> None:
    """Refuse bytes that were read while their object was replaced."""
    after = info(url)
    if (after["etag"], after["size"]) != (before["etag"], before["size"]) or (
        after["etag"] is None and after["mtime"] != before["mtime"]
    ):
        raise StorageError(
            f"{urls.redact(url)} changed while it was read",
            got=urls.redact(url),
            hint="run the same command again",
        )


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
            fs, path = urls.filesystem(url)
            attempt(lambda: fs.rm_file(path), url, "delete")
        else:
            attempt(lambda: urls.local_path(url).unlink(), url, "delete", attempts=1)
    except NotFoundError:
        return
