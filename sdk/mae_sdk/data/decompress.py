"""Streams of decompressed bytes, bounded in memory: gzip (through ISA-L), zstd, xz, bzip2 or none,
chosen by the first bytes."""

from __future__ import annotations

import bz2
import io
import lzma
import re
from typing import Any, Protocol, cast

from mae_skill.errors import DataError, DependencyError

from mae_sdk.data.member import AGAIN, WHOLE

XZ_MEMORY = 192 << 20
ZSTD_WINDOW = 128 << 20
CHUNK = 1 << 20


def crc32(data: bytes, value: int = 0) -> int:
    """ISA-L's crc32 (several GB/s) where it is installed, zlib's else: the same number."""
    global _crc
    if _crc is None:
        try:
            from isal import isal_zlib

            _crc = isal_zlib.crc32
        except ImportError:
            import zlib

            _crc = zlib.crc32
    result: int = _crc(data, value)
    return result


_crc: Any = None


class Reader(Protocol):
    """What the archive readers need of a stream."""

    def read(self, size: int = -1, /) -> bytes: ...


class Counted(io.RawIOBase):
    """A raw file that counts what was read from it: the denominator of the bomb ratio.

    Args:
        stored: the bytes it takes on disk where known. A file with holes yields more than it takes.
    """

    def __init__(self, raw: Any, stored: int | None = None) -> None:
        self._raw = raw
        self._stored = stored
        self._read = 0

    @property
    def consumed(self) -> int:
        """Bytes that came from it, of those that it takes."""
        return self._read if self._stored is None else min(self._read, max(1, self._stored))

    def readinto(self, buffer: Any) -> int:
        data: bytes = self._raw.read(len(buffer)) or b""
        self._read += len(data)
        buffer[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True


def sniff(head: bytes) -> str:
    """``gzip``, ``zstd``, ``xz``, ``bzip2``, ``zip`` or ``none``, from at least six bytes.

    A tar begins with the name of its first member, which may be ``PK.jpg`` or ``BZh.jpg``.
    """
    for magic, name in (
        (rb"\x1f\x8b", "gzip"),
        (rb"\x28\xb5\x2f\xfd", "zstd"),
        (rb"\xfd7zXZ\x00", "xz"),
        (rb"BZh[1-9](1A|\x17r)", "bzip2"),  # a first block, or the end of an empty stream
        (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "zip"),
    ):
        if re.match(magic, head):
            return name
    return "none"


def open_stream(raw: Counted, kind: str) -> Reader:
    """A reader of the decompressed bytes of ``raw``."""
    if kind == "gzip":
        return _Gzip(raw)

    if kind == "zstd":
        try:
            import zstandard
        except ImportError as error:
            raise DependencyError(
                "reading .zst needs zstandard", hint="pip install zstandard"
            ) from error
        return _Blocks(zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW), raw)

    if kind == "xz":
        return _Frames(raw, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY))
    if kind == "bzip2":
        return _Frames(raw, bz2.BZ2Decompressor)
    return cast(Reader, raw)


class TrailingData(ValueError):
    """Bytes behind the end of a compressed stream that are neither padding nor another stream."""


class _Gzip:
    """gzip: one stream or several, then zeros at most, as tapes pad; the checksums are checked.

    Other bytes behind the end are an error of their own: GNU gzip warns of them and goes on, but
    here nobody reads warnings, and they may be a second archive that was appended.
    """

    def __init__(self, raw: Counted) -> None:
        self._raw = raw
        self._decoder: Any = None
        self._ended = 0  # streams that were read to their end
        self._pending = b""

    def read(self, size: int = -1) -> bytes:
        size = CHUNK if size < 0 else size
        while True:
            if self._decoder is None and not self._begin():
                return b""
            data = self._pending or self._raw.read(1 << 16)
            if not data:
                raise EOFError("the compressed stream ends early")
            out: bytes = self._decoder.decompress(data, size)
            self._pending = self._decoder.unconsumed_tail
            if self._decoder.eof:
                self._pending = self._decoder.unused_data
                self._decoder = None
                self._ended += 1
            if out:
                return out

    def _begin(self) -> bool:
        """Make a decoder for the next stream; False: there is none."""
        rest = self._pending or self._raw.read(1 << 16)
        if self._ended:
            rest = rest.lstrip(b"\0")
            while not rest and (more := self._raw.read(1 << 16)):
                rest = more.lstrip(b"\0")
        if not rest:
            return False
        rest += self._raw.read(1) if len(rest) == 1 else b""
        if self._ended and not rest.startswith(b"\x1f\x8b"):
            raise TrailingData("data after the end of the gzip stream")
        self._pending, self._decoder = rest, _inflater()
        return True


def _inflater() -> Any:
    """A decoder of one gzip stream, header and checksum included."""
    try:
        from isal import isal_zlib
    except ImportError:  # a platform without ISA-L wheels: the same bytes, slower
        import zlib

        return zlib.decompressobj(31)
    return isal_zlib.decompressobj(31)


class _Frames:
    """xz and bzip2: concatenated frames; an unfinished one is an `EOFError`, junk after one is the
    decoder's error."""

    def __init__(self, raw: Counted, make: Any) -> None:
        self._raw, self._make = raw, make
        self._decoder = make()
        self._started = False

    def read(self, size: int = -1) -> bytes:
        size = CHUNK if size < 0 else size
        while True:
            if self._decoder.eof:
                rest = (self._decoder.unused_data or self._raw.read(CHUNK)).lstrip(b"\0")
                while not rest and (more := self._raw.read(CHUNK)):
                    rest = more.lstrip(b"\0")  # xz allows zero padding between streams
                if not rest:
                    return b""
                self._decoder, data = self._make(), rest
            else:
                data = self._raw.read(CHUNK) if self._decoder.needs_input else b""
                if self._decoder.needs_input and not data:
                    raise EOFError("the compressed stream ends early")
            out: bytes = self._decoder.decompress(data, max_length=size)
            if out:
                return out


class _Blocks:
    """zstd: every frame must end where its own header or checksum says."""

    def __init__(self, decompressor: Any, raw: Counted) -> None:
        self._decompressor, self._raw = decompressor, raw
        self._decoder: Any = None
        self._pending = b""
        self._out = io.BytesIO()

    def read(self, size: int = -1) -> bytes:
        size = CHUNK if size < 0 else size
        while not (data := self._out.read(size)):
            # Small inputs bound what one call returns: a zstd block decompresses to at most
            # 128 KiB, whatever its size on disk.
            block = self._pending[:4096] or self._raw.read(4096)
            self._pending = self._pending[4096:]
            if not block:
                if self._decoder is not None:
                    raise EOFError("the compressed stream ends early")
                return b""
            if self._decoder is None:
                self._decoder = self._decompressor.decompressobj()
            self._out = io.BytesIO(self._decoder.decompress(block))
            if self._decoder.eof:
                self._pending = self._decoder.unused_data + self._pending
                self._decoder = None

        return data


def damaged(error: BaseException, source: str, compressed: str) -> DataError | None:
    """The data error that a decoder's exception means; ``None`` when it is not the archive's
    fault."""
    import zipfile
    import zlib

    kinds: tuple[Any, ...] = (EOFError, zlib.error, lzma.LZMAError, ValueError, zipfile.BadZipFile)
    if compressed == "zip":
        kinds = (*kinds, NotImplementedError, RuntimeError)  # methods it does not know, passwords
    try:
        from isal import igzip_lib, isal_zlib

        kinds = (*kinds, isal_zlib.error, igzip_lib.error)
    except ImportError:
        pass

    name = type(error).__name__
    if isinstance(error, TrailingData):
        return DataError(
            f"refused {source}: {error}",
            got=source,
            expected=WHOLE,
            hint="cut them off, or pack the images into one archive",
        )
    if isinstance(error, EOFError):
        return DataError(
            f"{source} is truncated: the {compressed} stream ends before its end",
            got=source,
            expected=WHOLE,
            hint=AGAIN,
        )

    # bz2 and gzip raise plain OSError without errno for bad data
    if (
        isinstance(error, kinds)
        or name in ("ZstdError", "BadGzipFile")
        or (type(error) is OSError and error.errno is None)
    ):
        return DataError(
            f"{source} is corrupt: {str(error)[:160] or name}",
            got=source,
            expected=WHOLE,
            hint=AGAIN,
        )

    return None
