"""Members of tar and zip archives in one forward pass, with everything hostile refused by name.

The tar reader is our own: ``tarfile`` takes a damaged header in the middle for the end of the
archive. Here the end must be marked (zero blocks), nothing may follow it, every checksum must hold.
A subclass of ``TarInfo`` that raises instead was tried (CPython 3.11). It refuses damaged headers
and truncations too, but reads 60,000 members in 8.5 s instead of 2.1 s, takes a malformed pax
record for the end of the records (the file then gets a shortened name, without an error), keeps
every member in a list, and must override private methods to bound headers and to refuse sparse
files.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mae_skill.errors import DataError
from mae_skill.spelling import shown

from mae_sdk.data import decompress, zip_reader
from mae_sdk.data.member import AGAIN, ARCHIVES, CHUNK, WHOLE, Limits, Member
from mae_sdk.data.names import folder_name, is_image, link_target, refused, safe_name

BLOCK = 512
MAX_HEADER = 1 << 20
MAX_RECORDS = 10_000
"""Records in one extended header: sparse maps and extended attributes need some dozens."""


def members(
    raw: Any, size: int | None, source: str, limits: Limits, stored: int | None = None
) -> Iterator[Member]:
    """Every regular file of an archive, in its order, every link to one, and every folder.

    What is never read as an image (devices, sparse files) is passed over; what has the name of an
    image and cannot be read is refused.

    Args:
        raw: a binary file; seekable when it is a zip.
        size: its length in bytes where known.
        source: its redacted name, for errors.
        stored: the bytes it takes on disk where known: those of a file with holes are fewer.

    Raises:
        DataError: hostile, corrupt, truncated, or no archive at all.
    """
    head = raw.read(BLOCK) or b""
    while len(head) < BLOCK and (more := raw.read(BLOCK - len(head))):
        head += more
    kind = decompress.sniff(head)
    if kind == "zip":
        with _naming_damage(source, "zip"):
            for member in zip_reader.members(raw, source, limits):
                yield replace(member, chunks=_guarded(member.chunks, source, "zip"))
        return

    if not head.strip(b"\0") and kind == "none" and len(head) == 0:
        raise DataError(f"{source} is empty", got=source, expected=ARCHIVES, hint=AGAIN)
    if kind == "none" and head.strip(b"\0") and not _is_tar_header(head):
        raise DataError(
            f"{source} is not an archive (first bytes: {head[:12]!r})",
            got=source,
            expected=ARCHIVES,
            hint=_what_it_is(head),
        )

    counted = decompress.Counted(Prefixed(head, raw), stored)
    stream = decompress.open_stream(counted, kind)
    with _naming_damage(source, kind):
        for member in _TarReader(stream, counted, source, limits, kind).members():
            yield replace(member, chunks=_guarded(member.chunks, source, kind))


@contextlib.contextmanager
def _naming_damage(source: str, kind: str) -> Iterator[None]:
    """Turns what decoders raise into the data error that it means."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        known = decompress.damaged(error, source, kind)
        if known is None:
            raise
        raise known from error


def _guarded(chunks: Iterator[bytes], source: str, kind: str) -> Iterator[bytes]:
    """`_naming_damage` around a member's bytes, which are decoded while the caller reads them."""
    with _naming_damage(source, kind):
        yield from chunks


class Prefixed:
    """A stream with bytes put back in front."""

    def __init__(self, head: bytes, raw: Any) -> None:
        self._head, self._raw = head, raw

    def read(self, size: int = -1) -> bytes:
        if self._head:
            cut = len(self._head) if size < 0 else size
            out, self._head = self._head[:cut], self._head[cut:]
            return out
        data: bytes = self._raw.read(CHUNK if size < 0 else size) or b""
        return data


def looks_like_one(head: bytes) -> bool:
    """Whether a file that begins so is an archive; its name may say nothing."""
    tar = len(head) >= BLOCK and bool(head.strip(b"\0")) and _is_tar_header(head[:BLOCK])
    return tar or decompress.sniff(head) != "none"


def _is_tar_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _text(data: bytes) -> str:
    """A name as the file system would give it: bytes that are not UTF-8 stay what they are."""
    return data.decode("utf-8", "surrogateescape")


_FILES = (b"0", b"\0", b"7", b"S")
_LINKS = (b"1", b"2")
_DEVICES = (b"3", b"4", b"6")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@dataclass
class _Extended:
    """What headers in front of a member say of it: pax records, those of all members (``shared``),
    and a name and a link's target that are too long for a header."""

    pax: dict[str, bytes] = field(default_factory=dict)
    shared: dict[str, bytes] = field(default_factory=dict)
    name: bytes | None = None
    link: bytes | None = None


class _TarReader:
    def __init__(
        self,
        stream: decompress.Reader,
        counted: decompress.Counted,
        source: str,
        limits: Limits,
        kind: str,
    ) -> None:
        self._stream, self._counted, self._source, self._limits, self._kind = (
            stream,
            counted,
            source,
            limits,
            kind,
        )
        self._total = 0
        self._ready = b""
        self._at = 0
        self._count = 0
        self._where = "the first header"

    def members(self) -> Iterator[Member]:
        extended = _Extended()
        while (block := self._exactly(BLOCK)).count(0) != BLOCK:
            info = self._header(block)
            if not self._extends(info, extended):
                yield from self._member(info, block, extended)
        self._finish()

    def _header(self, block: bytes) -> tarfile.TarInfo:
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DataError(
                f"{self._source} is corrupt: bad tar header after {self._where} ({error})",
                got=self._source,
                expected=WHOLE,
                hint=AGAIN,
            ) from error
        self._count += 1
        if self._count > self._limits.max_members:
            raise DataError(
                f"refused {self._source}: more than {self._limits.max_members} members",
                got=self._source,
                expected=f"at most {self._limits.max_members} members",
                hint="pack the files into several archives, and name all of them",
            )
        if info.size < 0:
            raise refused(info.name, "has a negative size", self._source)
        return info

    def _extends(self, info: tarfile.TarInfo, extended: _Extended) -> bool:
        """Whether a header only says more of the members after it, which is then noted."""
        if info.type == b"g":
            records = _pax_records(self._small(info), info.name, self._source)
            extended.shared.update(records)
            if {"path", "size", "linkpath"} & set(records):
                raise refused(info.name, "sets a path or size for all members", self._source)
        elif info.type in (b"x", b"X"):
            extended.pax = _pax_records(self._small(info), info.name, self._source)
        elif info.type == b"L":
            extended.name = self._small(info).rstrip(b"\0")
        elif info.type == b"K":
            extended.link = self._small(info).rstrip(b"\0")
        else:
            return False
        return True

    def _member(self, info: tarfile.TarInfo, block: bytes, extended: _Extended) -> Iterator[Member]:
        """The member of a header, unless nothing of it is read."""
        pax = extended.pax
        raw_name = pax.get("path") or extended.name or info.name.encode("utf-8", "surrogateescape")
        name = _text(raw_name)
        target = pax.get("linkpath") or extended.link or _encoded(info.linkname)
        size = info.size
        if "size" in pax:
            if not pax["size"].isdigit():
                raise refused(name, "has a size that is not a number", self._source)
            size = int(pax["size"])
        is_sparse = info.type == b"S" or any(
            key.startswith("GNU.sparse") for key in (*pax, *extended.shared)
        )
        name = _text(pax["GNU.sparse.name"]) if "GNU.sparse.name" in pax else name
        extended.pax, extended.name, extended.link = {}, None, None
        self._where = f"'{shown(name[:100])}'"

        if info.type == b"5" or (info.type in (b"0", b"\0") and raw_name.endswith(b"/")):
            clean = folder_name(name, self._source)
            self._skip(size, name)
            if clean:
                yield Member(clean, 0, iter(()), is_folder=True)
            return
        if info.type not in _FILES + _LINKS + _DEVICES:
            raise refused(name, f"is of an unknown type {info.type!r}", self._source)

        clean = safe_name(name, self._source)
        if info.type in _LINKS:
            # A header of a link may carry a size, but never content.
            link = self._link(clean, _text(target), hard=info.type == b"1")
            yield Member(clean, 0, iter(()), link=link)
        elif is_sparse or info.type in _DEVICES:
            if is_image(clean):
                problem = "is a sparse file" if is_sparse else "is a device or a pipe"
                hint = "pack again without --sparse" if is_sparse else "pack again without it"
                raise refused(name, problem, self._source, hint)
            if info.type == b"S":
                self._skip_sparse_map(block)
            self._skip(size if is_sparse else 0, name)
        else:
            chunks = self._payload(size, clean)
            offset = self._total - len(self._ready) + self._at if self._kind == "none" else None
            yield Member(clean, size, chunks, offset)
            for _ in chunks:  # whatever the consumer left
                pass

    def _link(self, name: str, target: str, *, hard: bool) -> str:
        """The member that a link stands for; empty: it leads out of the archive.

        Raises:
            DataError: an image that is a hard link out, which no folder has.
        """
        found = link_target("" if hard else name, target)
        if found is None and hard and is_image(name):
            raise refused(
                name,
                "is a hard link out of the archive",
                self._source,
                "pack it from the folder that holds what it is linked to",
            )
        return found or ""

    def _skip(self, size: int, name: str) -> None:
        for _ in self._payload(size, name):
            pass

    def _skip_sparse_map(self, header: bytes) -> None:
        """The blocks that follow the header of an old GNU sparse file and say where its holes
        are."""
        more = header[482]
        while more:
            more = self._exactly(BLOCK)[504]

    def _read(self, size: int, what: str) -> bytes:
        """Up to ``size`` bytes, at least one, or an error that the archive ends inside ``what``."""
        if self._at >= len(self._ready):
            self._ready, self._at = self._stream.read(CHUNK), 0
            self._total += len(self._ready)
            self._judge(what)
            if not self._ready:
                raise DataError(
                    f"{self._source} is truncated: it ends inside {what}",
                    got=self._source,
                    expected=WHOLE,
                    hint=AGAIN,
                )

        data = self._ready[self._at : self._at + size]
        self._at += len(data)
        return data

    def _judge(self, what: str) -> None:
        limits, consumed = self._limits, max(1, self._counted.consumed)
        if self._total > limits.ratio_from and self._total / consumed > limits.max_ratio:
            raise refused(
                what.strip("'"),
                f"makes the archive expand more than {limits.max_ratio:g} times: "
                "a decompression bomb",
                self._source,
                "unpack it by other means, if you trust it, and name the folder",
            )

        if limits.max_bytes is not None and self._total > limits.max_bytes:
            raise refused(
                what.strip("'"),
                f"makes the archive larger than the {limits.max_bytes} bytes allowed",
                self._source,
            )

    def _exactly(self, size: int) -> bytes:
        if self._at + size <= len(self._ready):
            data = self._ready[self._at : self._at + size]
            self._at += size
            return data
        parts, left = [], size
        while left:
            parts.append(self._read(left, f"the header after {self._where}"))
            left -= len(parts[-1])
        return b"".join(parts)

    def _small(self, info: tarfile.TarInfo) -> bytes:
        if info.size > MAX_HEADER:
            raise refused(info.name, "has an extended header of more than 1 MiB", self._source)
        return b"".join(self._payload(info.size, info.name))

    def _payload(self, size: int, name: str) -> Iterator[bytes]:
        left = size
        while left:
            data = self._read(min(left, CHUNK), f"'{shown(name[:200])}'")
            left -= len(data)
            yield data
        padding = -size % BLOCK
        while padding:
            padding -= len(self._read(padding, f"'{shown(name[:200])}'"))

    def _finish(self) -> None:
        """Only zeros may follow the end marker. Reading to the end also verifies the checksum of
        the compressed stream."""
        rest = self._ready[self._at :]
        while True:
            if rest.strip(b"\0"):
                raise DataError(
                    f"refused {self._source}: data after the end of the archive",
                    got=self._source,
                    hint="pack the images into one archive",
                )
            rest = self._stream.read(CHUNK)
            self._total += len(rest)
            self._judge("the end marker")
            if not rest:
                break

        if self._counted.read(1):
            raise DataError(
                f"refused {self._source}: data after the end of the {self._kind} stream",
                got=self._source,
                expected=WHOLE,
                hint=AGAIN,
            )


def _what_it_is(head: bytes) -> str:
    """How to mend a file that begins like this and is no archive."""
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, such as a log-in or an error: fetch the archive itself"
    if is_picture(head):
        return "it is a picture: name the folder that it lies in"
    return AGAIN


def is_picture(head: bytes) -> bool:
    """Whether bytes begin as a picture does."""
    return head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*"))


def _pax_records(data: bytes, name: str, source: str) -> dict[str, bytes]:
    """``b"30 path=…\\n"`` records; a malformed one is refused rather than guessed at."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        if data[position] == 0 and not data[position:].strip(b"\0"):
            break
        if len(records) >= MAX_RECORDS:
            raise refused(
                name, f"has an extended header of more than {MAX_RECORDS} records", source
            )
        digits, space, _ = data[position : position + 12].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = data[position : position + length]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if length < 5 or len(record) != length or not equals or not record.endswith(b"\n"):
            raise refused(name, "has a malformed extended header", source)
        records[_text(key)] = value[:-1]
        position += length

    return records
