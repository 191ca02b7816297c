"""A seekable read-only file over blocks of equal size, whoever brings them."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import Any


class BlockFile(io.RawIOBase):
    """Turns ``load(number)`` into a file. A subclass sets ``size`` (bytes in all) and ``block`` (bytes a block) and overrides `load`."""

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
        """Fills the buffer as far as the file goes, so that a reader need not reckon with short reads."""
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
