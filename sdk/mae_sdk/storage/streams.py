"""An object read once, from front to back: for web servers that answer a request for a part with
the whole."""

from __future__ import annotations

import io
from typing import Any

from mae_sdk.storage import urls
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

    async def ask() -> bool:
        session = await fs.set_session()
        options = {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), "Range": "bytes=0-0"}}
        async with session.get(fs.encode_url(path), **options) as answer:
            answer.raise_for_status()
            return bool(answer.status == 206)

    from fsspec.asyn import sync

    return attempt(lambda: bool(sync(fs.loop, ask)), url, "read")


class StreamedFile(io.RawIOBase):
    """A remote object as a forward-only file.

    Args:
        size: its length where known; an answer that ends before it is an error.

    Raises:
        StorageError: the connection broke. Nothing is tried again here: what was read is gone.
    """

    def __init__(self, url: str, size: int | None) -> None:
        self.url, self.size = url, size
        self._position = 0
        fs, path = urls.filesystem(url)
        whole = (
            {"block_size": 0} if urls.scheme(url) in ("http", "https") else {}
        )  # in fsspec: no ranges
        self._raw: Any = attempt(lambda: fs.open(path, "rb", **whole), url, "read")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = attempt(lambda: self._read(len(buffer)), self.url, "read", attempts=1)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _read(self, length: int) -> bytes:
        data: bytes = self._raw.read(length) or b""
        if not data and self.size is not None and self._position < self.size:
            raise EOFError(f"the answer ended after {self._position} of {self.size} bytes")
        return data

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
