"""One remote object: what its store says of it, and its bytes, each answer checked against that.

A ranged answer counts only if it is of the object that was looked at (``If-Match`` on S3,
``If-Range`` on the web, and the answer's own ETag, time and total size), is the range that was
asked for, and came at no less than `FLOOR` bytes per second.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from mae_sdk.storage import checksums, urls
from mae_sdk.storage.faults import TooSlow, changed, damaged

T = TypeVar("T")

STORES = ("gs", "gcs", "az", "abfs", "abfss")
"""Object stores whose driver does not tell a bucket that is missing from an object that is."""
FLOOR = 1024
"""Bytes per second, over `urls.timeout_seconds`, below which an answer counts as stalled."""

CHUNK = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def run(fs: Any, function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """``await function(fs, *args)`` on the file system's own loop."""
    from fsspec.asyn import sync

    result: T = sync(fs.loop, function, fs, *args)
    return result


async def in_time(call: Awaitable[T]) -> T:
    """One answer's head, however slowly its bytes trickle in."""
    return await asyncio.wait_for(call, urls.timeout_seconds() + 5)


async def drain(read: Callable[[int], Awaitable[bytes]], most: int) -> bytes:
    """The rest of an answer, up to one byte more than ``most``.

    Raises:
        TooSlow: a window brought fewer bytes than the floor.
    """
    parts: list[bytes] = []
    watch, length = Watch(), 0
    while length <= most:
        data = await asyncio.wait_for(read(CHUNK), urls.timeout_seconds())
        if not data:
            break
        parts.append(data)
        length += len(data)
        watch.saw(len(data))
    return b"".join(parts)


class Watch:
    """Holds a stream of bytes to the floor, window by window."""

    def __init__(self) -> None:
        self._began, self._bytes = time.monotonic(), 0

    def saw(self, count: int) -> None:
        """So many bytes came.

        Raises:
            TooSlow: a window is over, and brought fewer than the floor.
        """
        self._bytes += count
        passed, window = time.monotonic() - self._began, urls.timeout_seconds()
        if passed < window:
            return
        if self._bytes < FLOOR * passed:
            raise TooSlow(
                f"only {self._bytes} bytes came in {passed:.0f} s; "
                f"below {FLOOR} bytes per second an answer counts as stalled"
            )
        self._began, self._bytes = time.monotonic(), 0


async def look_s3(fs: Any, path: str) -> dict[str, Any]:
    """`transfer.info` of an S3 object, with the checksum that the store gives."""
    bucket, key, version = fs.split_path(path)
    await fs.set_session()
    if not key:
        await in_time(fs._call_s3("head_bucket", Bucket=bucket))
        return _directory()

    which = {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}
    try:
        found = await in_time(
            fs._call_s3("head_object", fs.kwargs, ChecksumMode="ENABLED", **which)
        )
    except FileNotFoundError:
        # Its answer has no words for what is missing, and a prefix is no object; a list tells.
        listed = await in_time(
            fs._call_s3(
                "list_objects_v2",
                fs.kwargs,
                Bucket=bucket,
                Prefix=key.rstrip("/") + "/",
                Delimiter="/",
                MaxKeys=1,
            )
        )
        if listed.get("Contents") or listed.get("CommonPrefixes"):
            return _directory()
        raise
    except (PermissionError, OSError):
        # Nor for why it was refused: an answer with a body tells.
        await in_time(fs._call_s3("get_object", fs.kwargs, Range="bytes=0-0", **which))
        raise
    return {
        "size": int(found["ContentLength"]),
        "etag": found.get("ETag") if str(found.get("ETag") or "").strip('"') else None,
        "mtime": seconds(found.get("LastModified")),
        "type": "file",
        "checksum": checksums.of_s3(found),
    }


async def read_s3(
    fs: Any, path: str, start: int, end: int, seen: Mapping[str, Any], url: str
) -> bytes:
    """Bytes ``[start, end)`` of an S3 object that is still the one that was seen."""
    bucket, key, version = fs.split_path(path)
    request: dict[str, Any] = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}
    if version:
        request["VersionId"] = version
    whole = start == 0 and end == seen.get("size")
    if whole:
        request["ChecksumMode"] = "ENABLED"
    if seen.get("etag"):
        request["IfMatch"] = seen["etag"]
    elif seen.get("mtime"):
        request["IfUnmodifiedSince"] = datetime.fromtimestamp(seen["mtime"]).astimezone()

    await fs.set_session()
    answer = await in_time(fs._call_s3("get_object", fs.kwargs, **request))
    body = answer["Body"]
    try:
        then = {"etag": answer.get("ETag"), "mtime": seconds(answer.get("LastModified"))}
        check_same(seen, then, url)
        check_range(answer.get("ContentRange"), start, end, seen.get("size"), url)
        data = await drain(body.read, end - start)
    finally:
        body.close()

    check_length(data, start, end)
    checksum = checksums.of_s3(answer) if whole else None
    if not checksums.matches(checksum, data):
        raise damaged(url, str(checksum).partition(":")[0])
    return data


async def look_web(fs: Any, path: str) -> dict[str, Any]:
    """`transfer.info` of a file on a web server: asked by HEAD, and where that gives no size (or is
    forbidden, as by a signature for GET) by a GET whose body is not read."""
    session = await fs.set_session()
    found: dict[str, Any] = {}
    for method in ("HEAD", "GET"):
        options = _web_options(fs, {"Accept-Encoding": "identity"})
        answer = await in_time(session.request(method, fs.encode_url(path), **options))
        async with answer:
            if answer.status >= 400 and method == "HEAD":
                continue
            answer.raise_for_status()
            headers = answer.headers
            plain = headers.get("Content-Encoding", "identity") in ("identity", "")
            found = {
                "size": int(headers["Content-Length"])
                if plain and "Content-Length" in headers
                else None,
                "etag": headers.get("ETag") or None,
                "mtime": seconds(headers.get("Last-Modified")),
                "type": "file",
                "checksum": checksums.of_web(headers) if plain else None,
            }
        if found["size"] is not None:
            break
    return found


async def takes_ranges_web(fs: Any, path: str) -> bool:
    """Whether a web server answers a ranged request with that range: it is asked for one byte."""
    session = await fs.set_session()
    options = _web_options(fs, {"Range": "bytes=0-0", "Accept-Encoding": "identity"})
    answer = await in_time(session.get(fs.encode_url(path), **options))
    async with answer:
        answer.raise_for_status()
        return bool(answer.status == 206)


async def read_web(
    fs: Any, path: str, start: int, end: int, seen: Mapping[str, Any], url: str
) -> bytes:
    """Bytes ``[start, end)`` of a file on a web server that is still the one that was seen."""
    session = await fs.set_session()
    wanted = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    etag = str(seen.get("etag") or "")
    if etag.startswith('"'):  # a weak one may stand for other bytes, and is never sent back
        wanted["If-Range"] = etag
    options = _web_options(fs, wanted)
    answer = await in_time(session.get(fs.encode_url(path), **options))
    async with answer:
        answer.raise_for_status()
        headers = answer.headers
        check_same(
            seen,
            {"etag": headers.get("ETag"), "mtime": seconds(headers.get("Last-Modified"))},
            url,
        )
        if answer.status != 206:  # the whole of another file, as If-Range asks for
            raise changed(url)
        check_range(headers.get("Content-Range"), start, end, seen.get("size"), url)
        data = await drain(answer.content.read, end - start)
    check_length(data, start, end)
    return data


async def open_web(fs: Any, path: str) -> Any:
    """The whole file as an answer that is still to be read."""
    session = await fs.set_session()
    options = _web_options(fs, {"Accept-Encoding": "identity"})
    answer = await in_time(session.get(fs.encode_url(path), **options))
    answer.raise_for_status()
    return answer


def _web_options(fs: Any, headers: Mapping[str, str]) -> dict[str, Any]:
    return {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), **headers}}


def check_same(seen: Mapping[str, Any], then: Mapping[str, Any], url: str) -> None:
    """Refuse the answer of another object than the one that was seen; what either does not say is
    not compared.

    Raises:
        StoreFault: it changed.
    """
    before, after = (str(one.get("etag") or "").strip('"') for one in (seen, then))
    if before and after and before.removeprefix('W/"') != after.removeprefix('W/"'):
        raise changed(url)
    # Headers give whole seconds, and lists of some stores more.
    if seen.get("mtime") and then.get("mtime") and abs(seen["mtime"] - then["mtime"]) > 1:
        raise changed(url)


def check_range(given: str | None, start: int, end: int, size: Any, url: str) -> None:
    """Refuse the answer to another question than the one that was asked.

    Raises:
        StoreFault: the object has another size now.
        EOFError: it is another range.
    """
    found = _RANGE.match(given or "")
    if not found:
        return
    if size is not None and found[3] != "*" and int(found[3]) != size:
        raise changed(url)
    if (int(found[1]), int(found[2])) != (start, end - 1):
        raise EOFError(f"{given} came instead of bytes {start}-{end - 1}")


def check_length(data: bytes, start: int, end: int) -> None:
    """Refuse an answer that is too short or too long.

    Raises:
        EOFError: it is.
    """
    if len(data) != end - start:
        more = "more than " if len(data) > end - start else ""
        raise EOFError(f"{more}{min(len(data), end - start)} bytes came instead of {end - start}")


def has_bucket(fs: Any, path: str) -> bool:
    """Whether the bucket or container that a path begins with is there, in one of `STORES`."""
    bucket = path.partition("/")[0]
    try:
        if hasattr(fs, "service_client"):  # Azure
            fs.info(bucket)
        else:
            # What its file system asks of a bucket itself needs a right that readers seldom have.
            run(fs, lambda store: store._call("GET", "b/{}/o", bucket, maxResults=1))
    except FileNotFoundError:
        return False
    return True


def seconds(stamp: Any) -> float | None:
    """A time of change, as any driver spells it, in seconds since 1970."""
    if hasattr(stamp, "timestamp"):
        return float(stamp.timestamp())
    if isinstance(stamp, (int, float)):
        return float(stamp)
    if not isinstance(stamp, str) or not stamp:
        return None
    try:
        if stamp.isdigit() and len(stamp) == 14:  # FTP: 20261231235959
            return datetime.strptime(f"{stamp}+0000", "%Y%m%d%H%M%S%z").timestamp()
        return parsedate_to_datetime(stamp).timestamp()
    except (ValueError, TypeError):
        try:
            return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
        except ValueError:
            return None


def _directory() -> dict[str, Any]:
    return {"size": 0, "etag": None, "mtime": None, "type": "directory", "checksum": None}
