"""The files of a source in one forward pass: of a local archive, of a remote one (in ranges or as a
stream), or of a prefix of loose objects."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mae_skill.errors import DataError

from mae_sdk.data import tables
from mae_sdk.data.archive import BLOCK, Prefixed, looks_like_one, members
from mae_sdk.data.decompress import sniff
from mae_sdk.data.member import Limits, Member
from mae_sdk.data.names import safe_name
from mae_sdk.storage import streams, transfer, urls
from mae_sdk.storage.faults import Missing
from mae_sdk.storage.objects import check_same
from mae_sdk.storage.ranged_file import RangedFile

OBJECTS_AT_ONCE = 48
OBJECT_WINDOW = 48 << 20
CHECKED_ANYWAY = 256 << 20


def is_archive(uri: str) -> bool:
    """Whether a source is an archive, or a table: by its name, or, where that has no suffix of
    one, by the first bytes of the file that it names.

    Raises:
        NotFoundError: there is not even a bucket.
        StorageError: it cannot be asked.
    """
    if urls.is_archive(uri) or urls.is_table(uri):
        return True
    if not urls.is_remote(uri) and not urls.local_path(uri).is_file():
        return False
    try:
        seen = transfer.info(uri)
    except Missing as error:
        if error.cause == "bucket":
            raise
        return False
    if seen["type"] != "file" or seen["size"] == 0:
        return False
    return looks_like_one(transfer.read_head(uri, BLOCK, seen))


@contextlib.contextmanager
def reading(
    uri: str,
    identity: dict[str, Any],
    details: dict[str, dict[str, Any]] | None,
    limits: Limits,
    root: Path,
) -> Iterator[Iterator[Member]]:
    """The files of an archive, or of a prefix, in one pass.

    Args:
        details: the listing of a prefix; None for an archive.
        root: folder for a temporary copy of a zip.
    """
    where = urls.redact(uri)
    if details is not None:
        yield _objects(uri, details)
    elif not urls.is_remote(uri):
        with urls.local_path(uri).open("rb") as raw:
            stored = os.fstat(raw.fileno()).st_blocks * 512  # less than its size where it has holes
            if urls.is_table(uri):
                yield tables.members(raw, where)
            else:
                yield members(raw, identity["size"], where, limits, stored)
    elif identity["size"] is None or not streams.takes_ranges(uri):
        with (
            streams.StreamedFile(uri, identity["size"], identity) as raw,
            tempfile.TemporaryFile(dir=root) as whole,
        ):
            head = raw.read(BLOCK)
            with _blamed_rightly(raw, identity["size"]):
                table = urls.is_table(uri)
                if table or sniff(head) == "zip":  # its directory is at its end
                    whole.write(head)
                    shutil.copyfileobj(raw, whole, 1 << 20)
                    size = whole.tell()
                    whole.seek(0)
                    yield (
                        tables.members(whole, where)
                        if table
                        else members(whole, size, where, limits)
                    )
                else:
                    yield members(Prefixed(head, raw), identity["size"], where, limits)
            raw.finish()
    else:
        with RangedFile(uri, identity["size"], seen=identity) as raw:
            with _blamed_rightly(raw, identity["size"]):
                yield (
                    tables.members(raw, where)
                    if urls.is_table(uri)
                    else members(raw, identity["size"], where, limits)
                )
            raw.finish()


@contextlib.contextmanager
def _blamed_rightly(raw: RangedFile | streams.StreamedFile, size: int | None) -> Iterator[None]:
    """An archive that cannot be read because its bytes were damaged on the way is an error of the
    store, which a second try fixes. The rest of a large one is not fetched to find that out."""
    try:
        yield
    except DataError:
        if (size or 0) <= CHECKED_ANYWAY:
            raw.finish()
        raise


def _objects(uri: str, details: dict[str, dict[str, Any]]) -> Iterator[Member]:
    """The objects of a prefix, many requests in flight, a bounded number of bytes in memory."""
    where = urls.redact(uri)
    base = uri.rstrip("/")
    names = sorted(name for name in details if safe_name(name, where))
    waiting: deque[tuple[str, int, Future[bytes] | None]] = deque()
    held = 0

    def first() -> Member:
        nonlocal held
        name, size, future = waiting.popleft()
        if future is None:
            large = _large(f"{base}/{name}", size, details[name])
            return Member(safe_name(name, where), size, large)
        held -= size
        return Member(safe_name(name, where), size, iter((future.result(),)))

    with ThreadPoolExecutor(OBJECTS_AT_ONCE, thread_name_prefix="objects") as pool:
        try:
            for name in names:
                size = details[name]["size"]
                large = size > OBJECT_WINDOW // 4
                while waiting and (
                    len(waiting) >= 4 * OBJECTS_AT_ONCE
                    or (not large and held + size > OBJECT_WINDOW)
                ):
                    yield first()
                if large:
                    waiting.append((name, size, None))
                    continue
                waiting.append(
                    (
                        name,
                        size,
                        pool.submit(transfer.read_range, f"{base}/{name}", 0, size, details[name]),
                    )
                )
                held += size
            while waiting:
                yield first()
        finally:
            for _, _, future in waiting:
                if future is not None:
                    future.cancel()


def _large(url: str, size: int, listed: dict[str, Any]) -> Iterator[bytes]:
    seen = transfer.info(url)  # a list gives no checksums
    check_same(listed, seen, url)
    with RangedFile(url, size, seen=seen) as raw:
        while data := raw.read(1 << 20):
            yield data
        raw.finish()
