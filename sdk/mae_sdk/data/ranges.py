"""A remote object as a seekable file that reads ahead in parallel ranges."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mae_sdk.storage import transfer
from mae_sdk.storage.blocks import BlockFile

BLOCK = 3 << 20
AHEAD = 8


class RangedFile(BlockFile):
    """Reads ``url`` in blocks of 3 MiB, eight of them in flight: at most some 30 MiB in memory, whatever the object's size.

    Raises:
        StorageError: a range failed for good (each is retried on its own).
    """

    def __init__(
        self,
        url: str,
        size: int,
        storage_options: dict[str, Any] | None = None,
        block: int = BLOCK,
        ahead: int = AHEAD,
    ) -> None:
        self.url, self.size, self._options, self.block, self._ahead = (
            url,
            size,
            storage_options,
            block,
            ahead,
        )
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="ranges")
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()

    def _fetch(self, number: int) -> bytes:
        start = number * self.block
        return transfer.read_range(
            self.url, start, min(start + self.block, self.size), self._options
        )

    def load(self, number: int) -> bytes:
        last = (self.size - 1) // self.block
        # Only a forward reader is worth reading ahead for: a jump (a zip's directory) asks for its block alone.
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
        return self._blocks[number].result()

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._blocks.clear()
        super().close()
