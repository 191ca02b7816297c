"""The indexed pack: many files as one file of contents and a table of their offsets.

::

    <entry>/data.bin     the contents, one behind the other, in the archive's order; empty where an
                         uncompressed archive is read in place
    <entry>/names.bin    the names, sorted, one behind the other
    <entry>/table.npy    per name: end of its name, offset, size, crc32
    <entry>/index.json   source, counts, sizes and the digests of the other files; written last

Names are sorted in runs on disk: memory grows only by an eight-byte hash per file.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mae_skill.errors import DataError, StorageError

from mae_sdk.data.archive import Member
from mae_sdk.data.names import Names, fold, refused
from mae_sdk.files import share

if TYPE_CHECKING:
    import numpy as np

Row = tuple[bytes, int, int, int]  # name, offset, size, crc32
RUN = 50_000
_HEAD = struct.Struct("<IQQI")
_FIELDS = [("end", "<u8"), ("offset", "<u8"), ("size", "<u8"), ("crc", "<u4")]
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


def write_pack(
    folder: Path,
    members: Iterable[Member],
    source: str,
    meta: dict[str, Any],
    in_place: Path | None = None,
) -> None:
    """Stream ``members`` into ``folder`` (empty, private to the caller).

    Args:
        in_place: the uncompressed archive that the members' offsets point into: it is indexed, not
            copied.

    Raises:
        DataError: duplicate names, names that differ in case alone, a file that is also a folder,
            no file at all.
        StorageError: the disk is full.
    """
    rows: list[Row] = []
    runs: list[Path] = []
    hashes, folders = array("q"), _Folders()
    position = 0
    try:
        with (folder / "data.bin").open("wb", buffering=1 << 20) as out:
            for member in members:
                crc = _copy(member, None if in_place else out)
                offset = position if in_place is None else member.offset
                assert offset is not None, "only members of an uncompressed archive have an offset"
                rows.append(
                    (member.name.encode("utf-8", "surrogateescape"), offset, member.size, crc)
                )
                hashes.append(_hash(fold(member.name)))
                folders.add(member.name.rpartition("/")[0])
                position += member.size
                if len(rows) == RUN:
                    runs.append(folder / f"run{len(runs)}")
                    _write_run(runs[-1], rows)
                    rows = []
            out.flush()
            os.fsync(out.fileno())
        if not hashes:
            raise DataError(f"{source} holds no files", got=source)
        rows.sort()
        with contextlib.ExitStack() as stack:
            _write_table(
                folder, heapq.merge(*(_read_run(stack, run) for run in runs), rows), len(hashes)
            )
        del rows
        for run in runs:
            run.unlink()
    except OSError as error:
        if error.errno in (28, 122):
            hint = "set MAE_CACHE_DIR to a larger disk, or run: mae cache clear"
            raise StorageError(
                f"no room in the cache for {source}",
                got=str(folder.parent),
                retryable=False,
                hint=hint,
            ) from error
        raise

    _refuse_collisions(folder, hashes, folders.hashes, source)
    index = {
        "format": FORMAT,
        **meta,
        "files": len(hashes),
        "bytes": position,
        "digest": _digest(folder),
    }
    if in_place is not None:
        stat = in_place.stat()
        index["in_place"] = {
            "path": str(in_place),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }

    (folder / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True))


def _write_run(path: Path, rows: list[Row]) -> None:
    rows.sort()
    with path.open("wb", buffering=1 << 20) as out:
        for name, offset, size, crc in rows:
            out.write(_HEAD.pack(len(name), offset, size, crc) + name)


def _read_run(stack: contextlib.ExitStack, path: Path) -> Iterator[Row]:
    handle = stack.enter_context(path.open("rb", buffering=1 << 16))
    while head := handle.read(_HEAD.size):
        length, offset, size, crc = _HEAD.unpack(head)
        yield handle.read(length), offset, size, crc


def _write_table(folder: Path, rows: Iterator[Row], count: int) -> None:
    import itertools

    import numpy as np

    end = 0
    with (
        (folder / "names.bin").open("wb", buffering=1 << 20) as names,
        (folder / "table.npy").open("wb") as table,
    ):
        header = {"descr": _FIELDS, "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(table, header)
        while part := list(itertools.islice(rows, RUN)):
            block = np.zeros(len(part), dtype=_FIELDS)
            block["end"] = end + np.cumsum([len(name) for name, *_ in part])
            for place, field in enumerate(("offset", "size", "crc"), 1):
                block[field] = [row[place] for row in part]
            names.writelines(row[0] for row in part)
            table.write(block.tobytes())
            end = int(block["end"][-1])


class _Folders:
    """Hashes of every folder that holds a file, and of its parents; recent ones are not added
    again."""

    def __init__(self) -> None:
        self.hashes = array("q")
        self._lately: set[str] = set()

    def add(self, folder: str) -> None:
        if folder in self._lately:
            return
        if len(self._lately) >= RUN:
            self._lately.clear()
        self._lately.add(folder)
        self.hashes.extend(_hash(fold(ancestor)) for ancestor in _ancestors(folder))


def _copy(member: Member, out: IO[bytes] | None) -> int:
    crc = written = 0
    for chunk in member.chunks:
        if out is not None:
            out.write(chunk)
        crc = crc32(chunk, crc)
        written += len(chunk)
    if written != member.size:
        raise DataError(
            f"member {member.name!r} has {written} bytes instead of {member.size}", got=member.name
        )
    return crc


def _hash(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(),
        "little",
        signed=True,
    )


def _refuse_collisions(folder: Path, folded: array[int], folders: array[int], source: str) -> None:
    import numpy as np

    hashes = np.frombuffer(folded, dtype=np.int64)
    hashes.sort()  # in place: a copy would double what a large archive costs
    equal = np.flatnonzero(hashes[1:] == hashes[:-1])
    if len(equal):
        pair = _named(folder, int(hashes[equal[0]]))
        problem = (
            "occurs twice" if pair[0] == pair[1] else f"differs from {pair[0]!r} in case alone"
        )
        raise refused(pair[1], problem, source)

    if folders:
        ours = np.frombuffer(folders, dtype=np.int64)
        places = np.searchsorted(hashes, ours)
        clash = ours[hashes[np.minimum(places, len(hashes) - 1)] == ours]
        if len(clash):
            raise refused(_named(folder, int(clash[0]))[0], "is both a file and a folder", source)


def _named(folder: Path, wanted: int) -> list[str]:
    """The members whose folded name has this hash."""
    import numpy as np

    names = Names((folder / "names.bin").read_bytes(), np.load(folder / "table.npy")["end"])
    return [name for name in names if _hash(fold(name)) == wanted]


def _ancestors(name: str) -> list[str]:
    parts = name.split("/") if name else []
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _digest(folder: Path) -> str:
    """Names, sizes and checksums in name order: equal for equal content, however it was packed."""
    import numpy as np

    digest = hashlib.sha256()
    with (folder / "names.bin").open("rb") as names:
        while block := names.read(1 << 20):
            digest.update(block)

    for field in ("end", "size", "crc"):
        with (folder / "table.npy").open("rb") as table:
            np.lib.format.read_magic(table)
            np.lib.format.read_array_header_1_0(table)
            while block := table.read(np.dtype(_FIELDS).itemsize << 15):
                digest.update(
                    np.ascontiguousarray(np.frombuffer(block, dtype=_FIELDS)[field]).tobytes()
                )

    return digest.hexdigest()


class Pack:
    """An entry of the cache, open for reading.

    Reads use ``pread`` on one descriptor, so threads and forked workers share it; pickling carries
    the path alone. While it is open the entry is not evicted (a shared ``flock`` on ``data.bin``).
    An uncompressed local archive is read where it is: its size and time of change must be those
    that were indexed, and every member its checksum.

    Attributes:
        not_fetched: names of a prefix that are no images, as it was last listed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.not_fetched: list[str] = []
        self._open()

    def _open(self) -> None:
        import numpy as np

        try:
            self.index: dict[str, Any] = json.loads((self.folder / "index.json").read_text())
            self._lock = self._descriptor = os.open(
                self.folder / "data.bin", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
            )
            share(self._lock)
            elsewhere = self.index.get("in_place")
            if elsewhere:
                self._descriptor = os.open(
                    elsewhere["path"], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
                )
            stat = os.fstat(self._descriptor)
            self._table: np.ndarray[Any, Any] = np.load(self.folder / "table.npy", mmap_mode="r")
            with (self.folder / "names.bin").open("rb") as handle:
                blob = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _gone(self.folder) from error

        if elsewhere:
            whole = (stat.st_size, stat.st_mtime_ns) == (
                elsewhere.get("size"),
                elsewhere.get("mtime_ns"),
            )
        else:
            whole = stat.st_size == self.index.get("bytes")

        whole = whole and len(self._table) == self.index.get("files")
        if (
            self.index.get("format") != FORMAT
            or not whole
            or (len(self._table) and int(self._table["end"][-1]) != len(blob))
        ):
            raise _gone(self.folder)

        self.names = Names(blob, self._table["end"])
        self.sizes: np.ndarray[Any, Any] = self._table["size"]
        self.checksums: np.ndarray[Any, Any] = self._table["crc"]

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
        while len(data) < size and (
            more := os.pread(self._descriptor, size - len(data), offset + len(data))
        ):
            data += more

        if len(data) != size or crc32(data) != int(row["crc"]):
            if "in_place" in self.index:
                raise StorageError(
                    f"{self.names[index]!r} changed after its archive was indexed",
                    got=self.index["in_place"]["path"],
                    hint="the archive was changed while it was in use; run the same command again",
                )
            raise StorageError(
                f"the cached copy of {self.names[index]!r} is damaged",
                got=str(self.folder),
                hint="run mae cache clear; it is fetched again",
            )

        return data

    def close(self) -> None:
        """Release the descriptors and with them the lock."""
        for descriptor in {self._descriptor, self._lock} - {-1}:
            os.close(descriptor)
        self._descriptor = self._lock = -1

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Pack, (self.folder,))


def _gone(folder: Path) -> StorageError:
    return StorageError(
        "this cache entry is incomplete or damaged",
        got=str(folder),
        hint="run the same command again: the entry is fetched again",
    )
