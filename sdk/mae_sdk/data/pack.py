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
import errno
import hashlib
import heapq
import json
import mmap
import os
import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mae_skill.errors import DataError, StorageError
from mae_skill.spelling import shown, spelled

from mae_sdk import files
from mae_sdk.data.decompress import crc32
from mae_sdk.data.member import AGAIN, Member
from mae_sdk.data.names import Names, encoded, is_image, is_set_aside, refused
from mae_sdk.data.walk import MAX_VISITS
from mae_sdk.files import share
from mae_sdk.storage.urls import is_archive

if TYPE_CHECKING:
    import numpy as np

Row = tuple[bytes, int, int, int]  # name, offset, size, crc32
RUN = 50_000
_HEAD = struct.Struct("<IQQI")
_FIELDS = [("end", "<u8"), ("offset", "<u8"), ("size", "<u8"), ("crc", "<u4")]
FORMAT = 2
MAX_LINKS = 1_000_000
MAX_FOLDERS = 100_000
MAX_EMPTY = 1000
MAX_HOPS = 40  # links that lead to links, as Linux bounds them


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
        DataError: an image that is there twice, a file that is also a folder, no file at all.
        StorageError: the disk is full.
    """
    rows: list[Row] = []
    runs: list[Path] = []
    links: list[tuple[str, str]] = []
    hashes, folders = array("q"), _Folders()
    listed = _Listed()
    position = 0
    unread: tuple[str, ...] = ()
    class_columns: tuple[str, ...] = ()
    with _room(folder, source):
        with (folder / "data.bin").open("wb", buffering=1 << 20) as out:
            for member in members:
                if member.is_folder:
                    listed.add(member.name)
                    continue
                if member.link is not None:
                    links.append((member.name, member.link))
                    if len(links) > MAX_LINKS:
                        raise refused(member.name, f"is one of more than {MAX_LINKS} links", source)
                    continue
                unread = unread or member.unread
                class_columns = class_columns or member.class_columns
                crc = _copy(member, None if in_place else out)
                offset = position if in_place is None else member.offset
                assert offset is not None, "only members of an uncompressed archive have an offset"
                rows.append((encoded(member.name), offset, member.size, crc))
                hashes.append(_hash(member.name))
                folders.add(member.name.rpartition("/")[0])
                position += member.size
                if len(rows) == RUN:
                    runs.append(folder / f"run{len(runs)}")
                    _write_run(runs[-1], rows)
                    rows = []
            out.flush()
            os.fsync(out.fileno())
        if not hashes:
            lost = [shown(name) for name, _ in links[:3]]
            raise DataError(
                f"{source} holds no files" + (f", only links: {', '.join(lost)}" if lost else ""),
                got=source,
                expected="an archive with images in it",
                hint="pack what the links point to: tar --dereference"
                if lost
                else "pack it again, and see that it is whole",
            )
        rows.sort()
        _merge(folder, runs, rows, len(hashes))
        if links:
            followed = _Links(folder, links, source)
            for name, *_ in followed.found:
                hashes.append(_hash(name.decode("utf-8", "surrogateescape")))
                folders.add(name.decode("utf-8", "surrogateescape").rpartition("/")[0])
            rows = sorted(rows + followed.found)
            _merge(folder, runs, rows, len(hashes))
            meta = {**meta, "dangling": followed.dangling, "loops": followed.loops}
        del rows
        for run in runs:
            run.unlink()

    _refuse_collisions(folder, hashes, folders.hashes, source)
    if empty := listed.without(folders.hashes):
        meta = {**meta, "empty": empty}
    if unread:
        meta = {**meta, "unread": list(unread)}
    if class_columns:
        meta = {**meta, "class_columns": list(class_columns)}
    _write_index(folder, meta, len(hashes), position, in_place)


@contextlib.contextmanager
def _room(folder: Path, source: str) -> Iterator[None]:
    """A full disk, or a full quota, is an error of the cache.

    Raises:
        StorageError: there is no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(
            f"no room in the cache for {source}",
            got=str(folder.parent),
            retryable=False,
            hint="set MAE_CACHE_DIR to a larger disk, or run: mae cache clear",
        ) from error


def _write_index(
    folder: Path, meta: Mapping[str, Any], count: int, size: int, in_place: Path | None
) -> None:
    """``index.json``, the last file: an entry that has one is whole."""
    index = {"format": FORMAT, **meta, "files": count, "bytes": size, "digest": _digest(folder)}
    if in_place is not None:
        stat = in_place.stat()
        index["in_place"] = {
            "path": str(in_place),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }

    (folder / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True))


def _merge(folder: Path, runs: list[Path], rows: list[Row], count: int) -> None:
    with contextlib.ExitStack() as stack:
        merged = heapq.merge(*(_read_run(stack, run) for run in runs), rows)
        _write_table(folder, merged, count)


class _Links:
    """Links inside an archive, as a folder on disk would have them: further names of files, and of
    folders with all that is in these.

    Attributes:
        found: a row for every further name of a file.
        dangling: links that lead to nothing, or out.
        loops: names of folders, with their ``/``, that hold themselves, or are reached by more than
            `MAX_VISITS` paths.
    """

    def __init__(self, folder: Path, links: list[tuple[str, str]], source: str) -> None:
        import numpy as np

        self._table = np.load(folder / "table.npy")
        self._names = Names((folder / "names.bin").read_bytes(), self._table["end"])
        self._targets, self._source = dict(links), source
        self._sorted = Names.of(sorted(self._targets, key=encoded))
        self._visits: Counter[str] = Counter()
        self.found: list[Row] = []
        self.dangling: list[str] = []
        self.loops: list[str] = []
        for name, _ in links:
            self._add(name, name, tuple(_ancestors(name.rpartition("/")[0])), 1)

    def _add(self, name: str, link: str, above: tuple[str, ...], hops: int) -> None:
        """What the link at ``link`` stands for, under ``name``.

        Args:
            above: the folders that hold it, by their own names.
            hops: links to folders that lead here, this one among them.
        """
        real = self._followed(link)
        place = self._names.find(real) if real else None
        if place is not None:
            self._name(name, place)
        elif not real or not (self._names.has_folder(real) or self._sorted.has_folder(real)):
            self.dangling.append(name)
        elif real in above or hops > MAX_HOPS or self._visits[real] >= MAX_VISITS - 1:
            self.loops.append(f"{name}/")
        else:
            self._visits[real] += 1
            for place in self._names.below(real):
                self._name(name + self._names[place][len(real) :], place)
            for place in self._sorted.below(real):
                inner = str(self._sorted[place])
                holders = _ancestors(inner.rpartition("/")[0])
                here = [one for one in holders if len(one) >= len(real)]
                self._add(name + inner[len(real) :], inner, (*above, *here), hops + 1)

    def _name(self, name: str, place: int) -> None:
        if len(self.found) >= MAX_LINKS:
            raise refused(name, f"is one of more than {MAX_LINKS} links", self._source)
        row = self._table[place]
        self.found.append((encoded(name), int(row["offset"]), int(row["size"]), int(row["crc"])))

    def _followed(self, path: str) -> str:
        """Where a path leads through links; empty: out of the archive, or in a circle."""
        for _ in range(MAX_HOPS):
            parts = path.split("/")
            heads = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
            head = next((one for one in heads if one in self._targets), None)
            if head is None:
                return path
            if not self._targets[head]:
                return ""
            path = self._targets[head] + path[len(head) :]
        return ""


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
        self.hashes.extend(_hash(ancestor) for ancestor in _ancestors(folder))


class _Listed:
    """Folders that an archive lists, of the first `MAX_FOLDERS`."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        if not is_set_aside(name) and len(self._names) < MAX_FOLDERS:
            self._names[name] = None

    def without(self, hashes: array[int]) -> list[str]:
        """Those that hold nothing: no file, as `_Folders` hashed those that do, and no folder."""
        above = {ancestor for name in self._names for ancestor in _ancestors(name)[:-1]}
        bare = [name for name in self._names if name not in above]
        held = set(hashes) if bare else set()
        return [spelled(name) for name in bare if _hash(name) not in held][:MAX_EMPTY]


def _copy(member: Member, out: IO[bytes] | None) -> int:
    crc = written = 0
    for chunk in member.chunks:
        if out is not None:
            out.write(chunk)
        crc = crc32(chunk, crc)
        written += len(chunk)
    if written != member.size:
        raise DataError(
            f"member '{shown(member.name)}' has {written} bytes instead of {member.size}",
            got=spelled(member.name),
            expected="as many bytes as its header says",
            hint=AGAIN,
        )
    return crc


def _hash(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(encoded(text), digest_size=8).digest(), "little", signed=True
    )


def _refuse_collisions(folder: Path, folded: array[int], folders: array[int], source: str) -> None:
    import numpy as np

    hashes = np.frombuffer(folded, dtype=np.int64)
    hashes.sort()  # in place: a copy would double what a large archive costs
    equal = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(equal):
        twice = [name for name in _named(folder, set(equal.tolist())) if is_image(name)]
        if twice:
            raise refused(twice[0], "occurs twice", source, _ONCE)

    if folders:
        ours = np.frombuffer(folders, dtype=np.int64)
        places = np.searchsorted(hashes, ours)
        clash = ours[hashes[np.minimum(places, len(hashes) - 1)] == ours]
        if len(clash):
            name = _named(folder, {int(clash[0])})[0]
            raise refused(name, "is both a file and a folder", source, _ONCE)


_ONCE = "extract the archive and pack the folder: the last one stays"


def _named(folder: Path, wanted: set[int]) -> list[str]:
    """The members whose name has one of these hashes."""
    import numpy as np

    names = Names((folder / "names.bin").read_bytes(), np.load(folder / "table.npy")["end"])
    return [name for name in names if _hash(name) in wanted]


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
            self._lock = self._descriptor = os.open(self.folder / "data.bin", files.READ)
            share(self._lock)
            elsewhere = self.index.get("in_place")
            if elsewhere:
                self._descriptor = os.open(elsewhere["path"], files.READ)
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
        self.offsets: np.ndarray[Any, Any] = self._table["offset"]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_archive(self) -> bool:
        """Whether it holds an archive, and not the objects of a prefix."""
        kind = self.index.get("kind")  # older entries have none
        return bool(kind == "archive" if kind else is_archive(self.index["source"]))

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
        data = files.pread(self._descriptor, size, offset)
        while len(data) < size and (
            more := files.pread(self._descriptor, size - len(data), offset + len(data))
        ):
            data += more

        if len(data) != size or crc32(data) != int(row["crc"]):
            if "in_place" in self.index:
                raise StorageError(
                    f"'{shown(self.names[index])}' changed after its archive was indexed",
                    got=self.index["in_place"]["path"],
                    hint="the archive was changed while it was in use; run the same command again",
                )
            raise StorageError(
                f"the cached copy of '{shown(self.names[index])}' is damaged",
                got=str(self.folder),
                hint="run mae cache clear; it is fetched again",
            )

        return data

    def head(self, index: int, size: int) -> bytes:
        """The first bytes of one file, unchecked."""
        row = self._table[index]
        return files.pread(self._descriptor, min(size, int(row["size"])), int(row["offset"]))

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
