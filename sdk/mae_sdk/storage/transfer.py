"""Moving bytes between local files and any fsspec store: verified, retried, in parallel, and never half done.

Every failure is a `StorageError` (with ``retryable`` set by what failed) or a `NotFoundError`. Requests are retried here and nowhere else.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mae_skill.errors import MaeError, NotFoundError, StorageError

from mae_sdk.files import atomic_file
from mae_sdk.storage import urls
from mae_sdk.storage.urls import join

__all__ = [
    "attempt",
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
Options = dict[str, Any] | None

PART = 8 << 20
PARALLEL = 8
ATTEMPTS = 5

# Codes after which the same request cannot succeed until a person acts …
_FINAL = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AllAccessDisabled",
    "AccountProblem",
    "NoSuchBucket",
    "403",
    "401",
}
# … and those that mean that credentials ran out: waiting alone does not help, new credentials do.
_EXPIRED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "RequestExpired",
    "InvalidToken",
}
_NETWORK_PACKAGES = {
    "botocore",
    "aiobotocore",
    "aiohttp",
    "s3fs",
    "fsspec",
    "urllib3",
    "gcsfs",
    "adlfs",
    "azure",
    "google",
}


def attempt(call: Callable[[], T], url: str, doing: str, attempts: int = ATTEMPTS) -> T:
    """``call()``, tried again after network faults with growing, jittered pauses (0.1 s doubling, 5 s at most).

    Args:
        call: one idempotent request.
        url: what it is about, redacted in the error.
        doing: the verb of the message, e.g. ``"read"``.

    Raises:
        NotFoundError: there is no such object.
        StorageError: the request failed for good, or ``attempts`` times.
    """
    for number in range(1, attempts + 1):
        try:
            return call()
        except Exception as error:
            known = translate(error, url, doing, tries=number)
            if known is None:
                raise
            if number == attempts or not known.retryable or getattr(known, "expired", False):
                raise known from error
            time.sleep(min(5.0, 0.1 * 2**number) * (0.5 + random.random() / 2))
    raise AssertionError("unreachable")


def translate(error: BaseException, url: str, doing: str, tries: int = 1) -> MaeError | None:
    """The storage error that an exception of a driver means; ``None`` for anything that is no storage fault."""
    if isinstance(error, MaeError):
        return error
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and _web_fault(cause):
        return translate(
            cause, url, doing, tries
        )  # fsspec's web client calls every failure "not found"
    where = urls.redact(url)
    code = _code(error)
    if code in _EXPIRED:
        urls.forget_filesystems()
        known: MaeError = StorageError(
            f"cannot {doing} {where}: the credentials have expired ({code})",
            got=where,
            hint="renew the credentials, then run the same command again",
        )
        known.expired = True  # type: ignore[attr-defined]
        return known
    if isinstance(error, FileNotFoundError) or code in {
        "NoSuchKey",
        "NoSuchBucket",
        "404",
        "NotFound",
    }:
        return NotFoundError(f"cannot {doing} {where}: there is no such file or bucket", got=where)
    if isinstance(error, FileExistsError) or code in {"PreconditionFailed", "412"}:
        return StorageError(
            f"cannot {doing} {where}: it exists already", got=where, retryable=False
        )
    if isinstance(error, PermissionError) or code in _FINAL:
        hint = (
            "check the credentials and the bucket's policy"
            if urls.is_remote(url)
            else "check the permissions of the file"
        )
        return StorageError(
            f"cannot {doing} {where}: access denied ({code or type(error).__name__})",
            got=where,
            retryable=False,
            hint=hint,
        )
    if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        return StorageError(
            f"cannot {doing} {where}: no usable credentials", got=where, retryable=False, hint=hint
        )
    if isinstance(error, OSError) and error.errno in (28, 122):
        return StorageError(
            f"cannot {doing} {where}: the disk is full",
            got=where,
            retryable=False,
            hint="free space or move the folder",
        )
    network = type(error).__module__.split(".")[0] in _NETWORK_PACKAGES
    if network or isinstance(error, (OSError, TimeoutError, EOFError)):
        detail = code or f"{type(error).__name__}: {str(error)[:160]}".rstrip(": ")
        times = f" after {tries} attempts" if tries > 1 else ""
        return StorageError(
            f"cannot {doing} {where}{times}: {detail}",
            got=where,
            hint="the fault looks passing; run the same command again",
        )
    return None


def _web_fault(error: BaseException) -> bool:
    """Whether a web client's failure is another one than a missing page."""
    network = type(error).__module__.split(".")[0] == "aiohttp" or isinstance(
        error, (ConnectionError, TimeoutError)
    )
    return network and getattr(error, "status", None) not in (404, 410)


def _code(error: BaseException | None) -> str | None:
    """The store's own error code, however deep the driver wrapped it."""
    seen = 0
    while error is not None and seen < 6:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and isinstance(response.get("Error"), dict):
            return str(response["Error"].get("Code", "")) or None
        status = getattr(error, "status", None)
        if isinstance(status, int) and status >= 400:
            return str(status)
        error = error.__cause__ or error.__context__
        seen += 1
    return None


def exists(url: str, storage_options: Options = None) -> bool:
    """Whether a file (or, on local disks, a folder) is there."""
    if not urls.is_remote(url):
        return urls.local_path(url).exists()
    try:
        info(url, storage_options)
    except NotFoundError:
        return False
    return True


def info(url: str, storage_options: Options = None) -> dict[str, Any]:
    """``{"size": int | None, "etag": str | None, "mtime": float | None, "type": "file" | "directory"}`` of one object.

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
        fs, path = urls.filesystem(url, storage_options)
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


def read_range(url: str, start: int, end: int, storage_options: Options = None) -> bytes:
    """Bytes ``[start, end)``, retried until exactly that many arrive."""
    if start >= end:
        return b""

    def request() -> bytes:
        fs, path = urls.filesystem(url, storage_options)
        data: bytes = fs.cat_file(path, start=start, end=end)
        if len(data) != end - start:
            raise EOFError(f"{len(data)} bytes came instead of {end - start}")
        return data

    return attempt(request, url, "read")


def read_bytes(url: str, storage_options: Options = None) -> bytes:
    """A whole small file."""
    if not urls.is_remote(url):
        return attempt(lambda: urls.local_path(url).read_bytes(), url, "read")
    size = info(url, storage_options)["size"]
    if size is None:
        fs, path = urls.filesystem(url, storage_options)
        whole: bytes = attempt(lambda: fs.cat_file(path), url, "read")
        return whole
    return read_range(url, 0, size, storage_options)


def write_bytes(
    url: str, data: bytes, if_none_match: bool = False, storage_options: Options = None
) -> None:
    """Write a whole small file: atomically on disks, as one PUT on object stores.

    Args:
        if_none_match: create only; an existing file is an error and stays as it is.

    Raises:
        StorageError: it failed; with ``if_none_match`` also when the file exists (``retryable`` false).
    """
    if not urls.is_remote(url):
        path = urls.local_path(url)

        def write() -> None:
            with atomic_file(path, exclusive=if_none_match, sync=True) as temporary:
                temporary.write_bytes(data)

        attempt(write, url, "write", attempts=1)
        return
    # Some stores ignore If-None-Match; asking first makes the ordinary case right there too (a race is then the store's).
    if if_none_match and exists(url, storage_options):
        raise StorageError(
            f"cannot write {urls.redact(url)}: it exists already",
            got=urls.redact(url),
            retryable=False,
        )
    fs, inside = urls.filesystem(url, storage_options)
    attempt(
        lambda: fs.pipe_file(inside, data, mode="create" if if_none_match else "overwrite"),
        url,
        "write",
    )


def list_files(url: str, storage_options: Options = None) -> list[str]:
    """Every file below a folder or prefix, as paths relative to it, sorted; an absent prefix gives ``[]``."""
    return sorted(list_details(url, storage_options))


def list_details(url: str, storage_options: Options = None) -> dict[str, dict[str, Any]]:
    """Every file below a folder or prefix: relative path → ``{"size", "etag"}`` (the time of change where there is no ETag)."""
    if not urls.is_remote(url):
        root = urls.local_path(url)
        return {
            str(p.relative_to(root)): {"size": p.stat().st_size, "etag": None}
            for p in sorted(root.rglob("*"))
            if p.is_file()
        }

    def request() -> dict[str, dict[str, Any]]:
        fs, path = urls.filesystem(url, storage_options)
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


def upload(path: str | os.PathLike[str], url: str, storage_options: Options = None) -> None:
    """A local file to ``url``; large ones in parallel parts. The size at the far end is checked."""
    source = Path(path)
    if not urls.is_remote(url):
        download(str(source), urls.local_path(url))
        return

    def put() -> None:
        if not source.is_file():
            raise NotFoundError(f"no such file to upload: {source}", got=str(source))
        size = source.stat().st_size
        fs, inside = urls.filesystem(url, storage_options)
        fs.put_file(str(source), inside)
        arrived = fs.info(inside).get("size")
        if arrived is not None and int(arrived) != size:
            raise EOFError(f"{arrived} bytes arrived of {size}")

    attempt(put, url, "write")


def download(url: str, path: str | os.PathLike[str], storage_options: Options = None) -> None:
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
    from mae_sdk.storage import streams

    before = info(url, storage_options)
    with atomic_file(target, sync=True) as temporary, temporary.open("r+b") as handle:
        if before["size"] is None or not streams.takes_ranges(url, storage_options):
            import shutil

            with streams.StreamedFile(url, before["size"], storage_options) as raw:
                shutil.copyfileobj(raw, handle, 1 << 20)
            check_unchanged(url, before, storage_options)
            return
        size: int = before["size"]
        handle.truncate(size)

        def fetch(start: int) -> None:
            data = read_range(url, start, min(start + PART, size), storage_options)
            attempt(
                lambda: os.pwrite(handle.fileno(), data, start), str(target), "write", attempts=1
            )

        with ThreadPoolExecutor(PARALLEL) as pool:
            for _ in pool.map(fetch, range(0, size, PART)):
                pass
        check_unchanged(url, before, storage_options)


def check_unchanged(url: str, before: dict[str, Any], storage_options: Options = None) -> None:
    """Refuse bytes that were read while their object was replaced."""
    after = info(url, storage_options)
    if (after["etag"], after["size"]) != (before["etag"], before["size"]) or (
        after["etag"] is None and after["mtime"] != before["mtime"]
    ):
        raise StorageError(
            f"{urls.redact(url)} changed while it was read",
            got=urls.redact(url),
            hint="run the same command again",
        )


def upload_many(pairs: list[tuple[str, str]], storage_options: Options = None) -> None:
    """Upload ``(path, url)`` pairs, several at a time; the first failure is raised after the running ones end."""
    _many(lambda pair: upload(pair[0], pair[1], storage_options), pairs)


def download_many(pairs: list[tuple[str, str]], storage_options: Options = None) -> None:
    """Download ``(url, path)`` pairs, several at a time; the first failure is raised after the running ones end."""
    _many(lambda pair: download(pair[0], pair[1], storage_options), pairs)


def _many(move: Callable[[tuple[str, str]], None], pairs: list[tuple[str, str]]) -> None:
    with ThreadPoolExecutor(min(16, max(1, len(pairs)))) as pool:
        for future in [pool.submit(move, pair) for pair in pairs]:
            future.result()


def delete(url: str, storage_options: Options = None) -> None:
    """Remove one file; one that is gone already is no error."""
    try:
        if urls.is_remote(url):
            fs, path = urls.filesystem(url, storage_options)
            attempt(lambda: fs.rm_file(path), url, "delete")
        else:
            attempt(lambda: urls.local_path(url).unlink(), url, "delete", attempts=1)
    except NotFoundError:
        return
