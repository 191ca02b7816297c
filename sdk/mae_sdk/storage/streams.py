"""An object read once, from front to back: for web servers that answer a request for a part with
the whole."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Any

from mae_sdk.storage import checksums, objects, urls
from mae_sdk.storage.faults import damaged
from mae_sdk.storage.retry import attempt


def takes_ranges(url: str) -> bool:
    """Whether the server answers a ranged request with that range. Object stores do; a web server
    is asked for one byte.

    Raises:
        StorageError: it cannot be asked.
    """
    if urls.scheme(url) not in ("http", "https"):
        return True
    fs, path = urls.filesystem(url)
    return attempt(lambda: objects.run(fs, objects.takes_ranges_web, path), url, "read")


class StreamedFile(io.RawIOBase):
    """A remote object as a forward-only file.

    Args:
        size: its length where known; an answer that ends before it is an error.
        seen: what `transfer.info` said of it; the answer must be of that object.

    Raises:
        StorageError: the connection broke, or the object is another one now. Nothing is tried again
            here: what was read is gone.
    """

    def __init__(self, url: str, size: int | None, seen: Mapping[str, Any] | None = None) -> None:
        self.url, self.size = url, size
        self._position = 0
        self._watch = objects.Watch()
        self._checksum: str | None = (seen or {}).get("checksum")
        self._running = checksums.running(self._checksum) if self._checksum else None
        self._web = urls.scheme(url) in ("http", "https")
        self._fs, path = urls.filesystem(url)
        self._raw: Any = attempt(lambda: self._open(path, seen or {}), url, "read")

    def _open(self, path: str, seen: Mapping[str, Any]) -> Any:
        if not self._web:
            return self._fs.open(path, "rb")
        answer = objects.run(self._fs, objects.open_web, path)
        then = {
            "etag": answer.headers.get("ETag"),
            "mtime": objects.seconds(answer.headers.get("Last-Modified")),
        }
        objects.check_same(seen, then, self.url)
        return answer

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = attempt(lambda: self._read(len(buffer)), self.url, "read", attempts=1)
        buffer[: len(data)] = data
        self._position += len(data)
        if self._running is not None:
            self._running.update(data)
        return len(data)

    def _read(self, length: int) -> bytes:
        data = self._some(length)
        self._watch.saw(len(data))
        if not data and self.size is not None and self._position < self.size:
            raise EOFError(f"the answer ended after {self._position} of {self.size} bytes")
        return data

    def _some(self, length: int) -> bytes:
        if not self._web:
            found: bytes = self._raw.read(length) or b""
            return found

        async def read(fs: Any) -> bytes:
            data: bytes = await asyncio.wait_for(
                self._raw.content.read(length), urls.timeout_seconds()
            )
            return data

        return objects.run(self._fs, read)

    def finish(self) -> None:
        """Read what a reader left, and compare the whole with the store's checksum.

        Raises:
            StorageError: it is another.
        """
        while self.read(1 << 20):
            pass
        if self._running is None or self._checksum is None:
            return
        algorithm = self._checksum.partition(":")[0]
        if f"{algorithm}:{self._running.hexdigest()}" != self._checksum:
            raise damaged(self.url, algorithm)

    def close(self) -> None:
        if not self.closed:
            if self._web:
                self._fs.loop.call_soon_threadsafe(self._raw.close)
            else:
                self._raw.close()
        super().close()
