"""The indexed pack: many files as one file of payloads and a table of where each lies.

::

    <entry>/data.bin     the payloads, one behind the other, in the archive's order
    <entry>/names.bin    the names, sorted, one behind the other
    <entry>/table.npy    per name: end of its name, offset, size, crc32
    <entry>/index.json   source, counts, sizes and the digests of the other files; written last
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mae_skill.errors import DataError, StorageError

from mae_sdk.data.archive import Member
from mae_sdk.data.names import Names, fold, refused

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1


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


def write_pack(folder: Path, members: Iterable[Member], source: str, meta: dict[str, Any]) -> None:
    """Stream ``members`` into ``folder`` (empty, private to the caller).

    Raises:
        DataError: duplicate names, names that differ in case alone, a file that is also a folder, no file at all.
        StorageError: the disk is full.
    """
    import numpy as np

    names: list[bytes] = []
    offsets, sizes, crcs, folded = array("Q"), array("Q"), array("L"), array("q")
    parents: dict[str, None] = {}
    position = 0
    try:
        with (folder / "data.bin").open("wb", buffering=1 << 20) as out:
            for member in members:
                crc = _copy(member, out)
                names.append(member.name.encode("utf-8", "surrogateescape"))
                offsets.append(position)
                sizes.append(member.size)
                crcs.append(crc)
                folded.append(_hash(fold(member.name)))
                parents.setdefault(member.name.rpartition("/")[0])
                position += member.size
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        if error.errno in (28, 122):
            hint = "set MAE_CACHE_DIR to a larger disk, or run: mae cache clear"
            raise StorageError(f"no room in the cache for {source}", got=str(folder.parent), retryable=False, hint=hint) from error
        raise
    _refuse_collisions(names, folded, parents, source)
    if not names:
        raise DataError(f"{source} holds no files", got=source)
    order = sorted(range(len(names)), key=names.__getitem__)
    table = np.zeros(len(names), dtype=[("end", "<u8"), ("offset", "<u8"), ("size", "<u8"), ("crc", "<u4")])
    table["end"] = np.cumsum([len(names[i]) for i in order])
    for field, values in (("offset", offsets), ("size", sizes), ("crc", crcs)):
        table[field] = np.frombuffer(values, dtype=f"u{values.itemsize}")[order]
    (folder / "names.bin").write_bytes(b"".join(names[i] for i in order))
    np.save(folder / "table.npy", table)
    index = {
        "format": FORMAT,
        **meta,
        "files": len(names),
        "bytes": position,
        "digest": _digest(folder),
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True))


def _copy(member: Member, out: IO[bytes]) -> int:
    crc = written = 0
    for chunk in member.chunks:
        out.write(chunk)
        crc = crc32(chunk, crc)
        written += len(chunk)
    if written != member.size:
        raise DataError(f"member {member.name!r} has {written} bytes instead of {member.size}", got=member.name)
    return crc


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little", signed=True)


def _refuse_collisions(names: list[bytes], folded: array[int], parents: dict[str, None], source: str) -> None:
    import numpy as np

    hashes = np.frombuffer(folded, dtype=np.int64)
    unique, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    if len(unique) != len(hashes):
        double = unique[np.argmax(counts > 1)]
        pair = [names[i].decode("utf-8", "surrogateescape") for i in np.flatnonzero(hashes == double)[:2]]
        problem = "is there twice" if pair[0] == pair[1] else f"differs from {pair[0]!r} in case alone"
        raise refused(pair[1], problem, source)
    folders = {p for name in parents for p in _ancestors(name)}
    if folders:
        ours = np.array([_hash(fold(p)) for p in folders], dtype=np.int64)
        clash = np.isin(unique, ours)
        if clash.any():
            name = names[int(first[np.argmax(clash)])].decode("utf-8", "surrogateescape")
            raise refused(name, "is both a file and a folder", source)


def _ancestors(name: str) -> list[str]:
    parts = name.split("/") if name else []
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _digest(folder: Path) -> str:
    """Names, sizes and checksums in name order: equal for equal content, however it was packed."""
    import numpy as np

    table = np.load(folder / "table.npy", mmap_mode="r")
    digest = hashlib.sha256((folder / "names.bin").read_bytes())
    for field in ("end", "size", "crc"):
        digest.update(np.ascontiguousarray(table[field]).tobytes())
    return digest.hexdigest()


class Pack:
    """An entry of the cache, open for reading.

    Reads use ``pread`` on one descriptor, so threads and forked workers share it; pickling carries the path alone. While it is open the
    entry is not evicted (a shared ``flock`` on ``data.bin``).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._open()

    def _open(self) -> None:
        import numpy as np

        try:
            self.index: dict[str, Any] = json.loads((self.folder / "index.json").read_text())
            self._descriptor = os.open(self.folder / "data.bin", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            _flock_shared(self._descriptor)
            self._table: np.ndarray[Any, Any] = np.load(self.folder / "table.npy", mmap_mode="r")
            with (self.folder / "names.bin").open("rb") as handle:
                blob = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise _gone(self.folder) from error
        whole = os.fstat(self._descriptor).st_size == self.index.get("bytes") and len(self._table) == self.index.get("files")
        if self.index.get("format") != FORMAT or not whole or (len(self._table) and int(self._table["end"][-1]) != len(blob)):
            raise _gone(self.folder)
        self.names = Names(blob, self._table["end"])
        self.sizes: np.ndarray[Any, Any] = self._table["size"]

    def __len__(self) -> int:
        return len(self.names)

    def verify(self) -> None:
        """Compare the index with its own digest.

        Raises:
            StorageError: it was changed after it was written.
        """
        if _digest(self.folder) != self.index["digest"]:
            raise _gone(self.folder)

    def read(self, index: int) -> bytes:
        """The bytes of one file, checked against its crc32.

        Raises:
            StorageError: the cache's file was changed or damaged.
        """
        row = self._table[index]
        size, offset = int(row["size"]), int(row["offset"])
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
            data += more
        if len(data) != size or crc32(data) != int(row["crc"]):
            raise StorageError(
                f"the cached copy of {self.names[index]!r} is damaged",
                got=str(self.folder),
                hint="run mae cache clear; it is fetched anew",
            )
        return data

    def close(self) -> None:
        """Release the descriptor and with it the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Pack, (self.folder,))


def _gone(folder: Path) -> StorageError:
    return StorageError(
        "this cache entry is incomplete or damaged", got=str(folder), hint="run the same command again: the entry is fetched anew"
    )


def _flock_shared(descriptor: int) -> None:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return  # file systems without locks: eviction there goes by last use alone
