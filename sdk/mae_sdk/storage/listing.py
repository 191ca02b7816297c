"""Lists of an S3 bucket, page by page, that end: every page must bring a new token, and news."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from mae_sdk.storage import urls
from mae_sdk.storage.faults import StoreFault, fault
from mae_sdk.storage.objects import in_time, seconds

MOST_KEYS = 20_000_000
EMPTY_PAGES = 100
"""Pages in a row without a new key: a bucket with many deleted versions has some."""


async def keys(fs: Any, path: str, url: str) -> dict[str, dict[str, Any]]:
    """Every object below a prefix: relative key → ``{"size", "etag", "mtime"}``.

    Raises:
        StoreFault: the list does not end.
    """
    bucket, prefix = place(fs, path)
    found: dict[str, dict[str, Any]] = {}
    empty = 0
    async for page in _pages(fs, url, Bucket=bucket, Prefix=prefix):
        before = len(found)
        for entry in page.get("Contents") or ():
            name = str(entry["Key"])[len(prefix) :]
            if name and not name.endswith("/"):
                found[name] = {
                    "size": int(entry.get("Size") or 0),
                    "etag": entry.get("ETag") or None,
                    "mtime": seconds(entry.get("LastModified")),
                }
        empty = empty + 1 if len(found) == before else 0
        if empty > EMPTY_PAGES:
            raise _endless(url, f"{empty} pages in a row brought nothing new")
        if len(found) > MOST_KEYS:
            raise _endless(url, f"more than {MOST_KEYS:,} objects", retryable=False)
    return found


async def folders(fs: Any, path: str, url: str) -> list[str]:
    """The names one level below a prefix that hold something."""
    bucket, prefix = place(fs, path)
    found: dict[str, None] = {}
    empty = 0
    async for page in _pages(fs, url, Bucket=bucket, Prefix=prefix, Delimiter="/"):
        before = len(found)
        for entry in page.get("CommonPrefixes") or ():
            found[str(entry["Prefix"])[len(prefix) :].rstrip("/")] = None
        empty = empty + 1 if len(found) == before else 0
        if empty > EMPTY_PAGES:
            raise _endless(url, f"{empty} pages in a row brought nothing new")
    return list(found)


async def holds_something(fs: Any, path: str, url: str) -> bool:
    """Whether anything lies below a prefix, the mark of an empty folder aside."""
    bucket, prefix = place(fs, path)
    empty = 0
    async for page in _pages(fs, url, Bucket=bucket, Prefix=prefix, MaxKeys=2):
        if any(entry["Key"] != prefix for entry in page.get("Contents") or ()):
            return True
        empty += 1
        if empty > EMPTY_PAGES:
            raise _endless(url, f"{empty} pages in a row brought nothing new")
    return False


def place(fs: Any, path: str) -> tuple[str, str]:
    """Bucket and prefix, which ends with a slash or is empty."""
    bucket, key, _ = fs.split_path(path)
    key = key.rstrip("/")
    return bucket, f"{key}/" if key else ""


async def _pages(fs: Any, url: str, **request: Any) -> AsyncIterator[Mapping[str, Any]]:
    """The pages of a list.

    Raises:
        StoreFault: a token comes twice, or a page that is not the last has none.
    """
    await fs.set_session()
    tokens: set[str] = set()
    following: dict[str, str] = {}
    while True:
        page = await in_time(fs._call_s3("list_objects_v2", fs.kwargs, **request, **following))
        yield page
        if not page.get("IsTruncated"):
            return
        token = page.get("NextContinuationToken")
        if not token:
            raise _endless(url, "it goes on, but does not say where")
        if token in tokens:
            raise _endless(url, "it gives one place twice to go on from")
        tokens.add(token)
        following = {"ContinuationToken": token}


def _endless(url: str, why: str, retryable: bool = True) -> StoreFault:
    return fault(
        "listing",
        f"cannot list {urls.redact(url)}: the store's list does not end ({why})",
        url,
        retryable=retryable,
        hint="this is the store's fault; name fewer objects, or an archive",
    )
