"""Seekable read-only files over blocks, and over the ranges of a remote object, read ahead."""

from __future__ import annotations

import io
import threading
import zlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mae_sdk.storage import checksums, transfer
from mae_sdk.storage.faults import changed, damaged

BLOCK = 3 << 20
AHEAD = 8


class BlockFile(io.RawIOBase):
    """Turns ``load(number)`` into a file. A subclass sets ``size`` (bytes in all) and ``block``
    (bytes per block) and overrides `load`."""

    size = 0
    block = 1
    _position = 0

    @abstractmethod
    def load(self, number: int) -> bytes:
        """The content of block ``number``, from 0; the last may be shorter."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as the file goes: no short reads before its end."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self.size - self._position))
        done = 0
        while done < wanted:
            number, skip = divmod(self._position, self.block)
            part = memoryview(self.load(number))[skip : skip + wanted - done]
            view[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done


class RangedFile(BlockFile):
    """Reads ``url`` in blocks of 3 MiB, eight of them in flight: at most some 30 MiB in memory,
    whatever the object's size.

    Args:
        seen: what `transfer.info` said of the object; every block must be of that one.

    Raises:
        StorageError: a range failed for good (each is retried on its own), or is of another object.
    """

    def __init__(
        self,
        url: str,
        size: int,
        block: int = BLOCK,
        ahead: int = AHEAD,
        *,
        seen: Mapping[str, Any] | None = None,
    ) -> None:
        self.url, self.size, self.block, self._ahead = url, size, block, ahead
        self._seen = seen
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="ranges")
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()
        # The whole's checksum grows while a reader goes forward; a block that is fetched again
        # must be what it was.
        self._checksum: str | None = (seen or {}).get("checksum")
        self._running = checksums.running(self._checksum) if self._checksum else None
        self._next = 0
        self._marks: dict[int, int] = {}
        self._lock = threading.Lock()

    def _fetch(self, number: int) -> bytes:
        start = number * self.block
        data = transfer.read_range(self.url, start, min(start + self.block, self.size), self._seen)
        mark = zlib.crc32(data)
        with self._lock:
            if self._marks.setdefault(number, mark) != mark:
                raise changed(self.url)
        return data

    def finish(self) -> None:
        """Fetch what a reader left out, and compare the whole with the store's checksum.

        Raises:
            StorageError: it is another.
        """
        if self._running is None or self._checksum is None:
            return
        for number in range(self._next, -(-self.size // self.block)):
            self.load(number)
        algorithm = self._checksum.partition(":")[0]
        if f"{algorithm}:{self._running.hexdigest()}" != self._checksum:
            raise damaged(self.url, algorithm)

    def load(self, number: int) -> bytes:
        last = (self.size - 1) // self.block
        # Read ahead for a forward reader only: a jump (a zip's directory) asks for its block alone.
        ahead = (
            self._ahead
            if number == 0 or number - 1 in self._blocks or number in self._blocks
            else 1
        )
        for wanted in range(number, min(number + ahead, last + 1)):
            if wanted not in self._blocks:
                self._blocks[wanted] = self._pool.submit(self._fetch, wanted)
        for stale in [n for n in self._blocks if n < number - 1 or n >= number + self._ahead]:
            self._blocks.pop(stale).cancel()
        data = self._blocks[number].result()
        if number == self._next and self._running is not None:
            self._running.update(data)
            self._next += 1
        return data

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._blocks.clear()
        super().close()
