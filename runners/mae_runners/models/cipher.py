"""Encryption of files at rest: AES-256-GCM in chunks, so that a file of any size streams through
constant memory and is read at any position. Format, threats and limits: ``docs/encryption.md``.

Layout: ``MAESEAL2 | log2 of the scrypt cost u8 | salt 16 | nonce prefix 7 | chunk size u32``, a key
check of 16 bytes, then the chunks, each with its 16-byte tag. The key is scrypt(passphrase, salt).
A chunk's nonce is prefix, chunk number (u32) and a last-chunk flag: the STREAM construction of
Hoang, Reyhanitabar, Rogaway and Vizár (2015). A chunk cannot be altered, moved, dropped or appended
unnoticed; the key check authenticates the header. ``MAESEAL1`` files lack the cost: it was 2^14.
"""

from __future__ import annotations

import io
import os
import struct
from typing import IO, TYPE_CHECKING, Any

from mae_sdk.storage.ranged_file import BlockFile
from mae_skill.errors import CheckpointError, DependencyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC, OLD_MAGIC = b"MAESEAL2", b"MAESEAL1"
CHUNK = 1 << 20
TAG = 16

# 128 MiB and under a second for each guess, as the OWASP cheat sheet on password storage asks.
COST = 17
OLD_COST = 14
MAX_COST = 20  # what a header may ask for (1 GiB), since it is read before it is authenticated

_HEADER, _OLD_HEADER = struct.Struct(">8sB16s7sI"), struct.Struct(">8s16s7sI")
_CHECK_NONCE = b"\xff" * 5  # chunk number 2**32 - 1 and flag 255: never a chunk's


def _aead(passphrase: str, salt: bytes, cost: int) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
    except ImportError as error:
        raise DependencyError(
            "encrypted checkpoints need the package cryptography",
            hint="pip install 'mae-skill[train]'",
        ) from error

    return AESGCM(Scrypt(salt=salt, length=32, n=1 << cost, r=8, p=1).derive(passphrase.encode()))


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + struct.pack(">IB", number, int(last))


class SealWriter(io.RawIOBase):
    """A write-only file that encrypts what it is given into ``target``; closing it writes the last
    chunk (and leaves ``target`` open)."""

    def __init__(self, target: IO[bytes], passphrase: str) -> None:
        salt, self._prefix = os.urandom(16), os.urandom(7)
        self._target, self._aead, self._number = target, _aead(passphrase, salt, COST), 0
        self._buffer = bytearray()

        header = _HEADER.pack(MAGIC, COST, salt, self._prefix, CHUNK)
        target.write(header + self._aead.encrypt(self._prefix + _CHECK_NONCE, b"", header))

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._buffer += view

        # The last chunk is only known at the end, so a full chunk waits until more follows it.
        while len(self._buffer) > CHUNK:
            self._emit(bytes(self._buffer[:CHUNK]), last=False)
            del self._buffer[:CHUNK]
        return len(view)

    def _emit(self, data: bytes, *, last: bool) -> None:
        self._target.write(self._aead.encrypt(_nonce(self._prefix, self._number, last), data, None))
        self._number += 1

    def close(self) -> None:
        if not self.closed:
            self._emit(bytes(self._buffer), last=True)
            self._buffer.clear()
        super().close()


class SealReader(BlockFile):
    """A seekable read-only view of an encrypted file; every byte it returns is authenticated.

    Raises:
        CheckpointError: wrong key, or a damaged or shortened file.
    """

    def __init__(self, source: IO[bytes], passphrase: str, name: str) -> None:
        self._source, self._name = source, name

        old = source.read(len(MAGIC)) == OLD_MAGIC
        layout = _OLD_HEADER if old else _HEADER
        source.seek(0)
        header, check = source.read(layout.size), source.read(TAG)
        if len(check) < TAG:
            raise self._damaged()

        fields = layout.unpack(header)
        cost = OLD_COST if old else fields[1]
        salt, self._prefix, self.block = fields[-3:]
        self._start = layout.size + TAG

        size = source.seek(0, os.SEEK_END) - self._start
        self._count = -(-size // (self.block + TAG)) if self.block else 0
        if self._count < 1 or not OLD_COST <= cost <= MAX_COST:
            raise self._damaged()
        self.size = size - self._count * TAG

        self._cached, self._data = -1, b""
        self._aead = _aead(passphrase, salt, cost)
        if not self._opens(self._prefix + _CHECK_NONCE, check, header):
            raise CheckpointError(
                f"the key does not open {name}",
                field="encryption_key",
                hint="set MAE_ENCRYPTION_KEY to the key that the checkpoint was written with",
            )

        self.load(self._count - 1)  # a shortened file ends in a chunk that is not marked last

    def _opens(self, nonce: bytes, sealed: bytes, extra: bytes | None) -> bool:
        from cryptography.exceptions import InvalidTag

        try:
            self._data = self._aead.decrypt(nonce, sealed, extra)
        except InvalidTag:
            return False
        return True

    def _damaged(self) -> CheckpointError:
        return CheckpointError(
            f"{self._name} is damaged or incomplete",
            hint="use another checkpoint: this one cannot be decrypted",
        )

    def load(self, number: int) -> bytes:
        """Chunk ``number``, decrypted; it is kept until another is asked for."""
        if number == self._cached:
            return self._data

        self._source.seek(self._start + number * (self.block + TAG))
        sealed = self._source.read(self.block + TAG)
        self._cached = -1
        if not self._opens(_nonce(self._prefix, number, number == self._count - 1), sealed, None):
            raise self._damaged()
        self._cached = number
        return self._data
