"""Members of a zip: its directory read entry by entry into arrays, and each member held against it.

``zipfile`` keeps an object of some 600 bytes for every member before the first is read, takes the
first of two directories that contradict each other, and cuts a member off at the size that its
directory claims. Here a member whose local header, size or checksum says otherwise is refused.

Names: the Unicode name of Info-ZIP's extra field 0x7075 where its checksum fits; else UTF-8 where
the bytes are valid, with or without the flag that says so; else, from a Unix system, the bytes as
its file system had them; else code page 437, as the format says. GBK, Shift-JIS and cp1252 cannot
be told from each other: such names are read as cp437, which maps every byte to one character, so
``name.encode("cp437")`` gives the bytes back.
"""

from __future__ import annotations

import bz2
import lzma
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from typing import Any

from mae_skill.errors import DataError
from mae_skill.spelling import shown

from mae_sdk.data.decompress import crc32
from mae_sdk.data.member import AGAIN, CHUNK, WHOLE, Limits, Member
from mae_sdk.data.names import folder_name, is_image, link_target, refused, safe_name

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = 24  # the most bytes that may stand between a member and the next one

_ENCRYPTED = 0x1 | 0x40 | 0x2000
_LATER = 0x8  # sizes and checksum follow the content
_UTF8 = 0x800
_DOS = (0, 10, 11, 14)  # FAT, NTFS, VFAT: systems whose separator is the backslash
_UNIX = (3, 19)
_MAX_LINK = 4096


class _Directory:
    """The entries of a zip in the order of their contents: some 60 bytes and the name for each."""

    def __init__(self) -> None:
        self._names = bytearray()
        self._raws = bytearray()
        self._name_ends, self._raw_ends = array("Q"), array("Q")
        self.offset, self.packed, self.size = array("Q"), array("Q"), array("Q")
        self.crc, self.mode = array("I"), array("I")
        self.method, self.flags = array("H"), array("H")
        self.order: Any = None

    def add(self, name: str, raw: bytes, numbers: tuple[int, ...]) -> None:
        self._names += name.encode("utf-8", "surrogateescape")
        self._raws += raw
        self._name_ends.append(len(self._names))
        self._raw_ends.append(len(self._raws))
        columns = (self.offset, self.packed, self.size, self.crc, self.mode)
        for column, number in zip((*columns, self.method, self.flags), numbers, strict=True):
            column.append(number)

    def __len__(self) -> int:
        return len(self.offset)

    def name(self, i: int) -> str:
        start = self._name_ends[i - 1] if i else 0
        return self._names[start : self._name_ends[i]].decode("utf-8", "surrogateescape")

    def raw(self, i: int) -> bytes:
        """The name as the directory has it."""
        return bytes(self._raws[self._raw_ends[i - 1] if i else 0 : self._raw_ends[i]])


def members(raw: Any, source: str, limits: Limits) -> Iterator[Member]:
    """Every regular file of a zip, in the order of their contents, every link to one, and every
    folder.

    Args:
        raw: a seekable binary file.

    Raises:
        DataError: hostile, corrupt or truncated.
    """
    import numpy as np

    start, end, count = _find_directory(raw, source)
    if count > limits.max_members:
        raise DataError(
            f"refused {source}: more than {limits.max_members} members",
            got=source,
            expected=f"at most {limits.max_members} members",
            hint="pack the files into several archives, and name all of them",
        )
    listed = _read_directory(raw, start, end, count, source)
    order = np.argsort(np.array(listed.offset, dtype=np.uint64), kind="stable")
    _judge(listed, order, start, source, limits)

    for place, number in enumerate(order):
        i = int(number)
        name = listed.name(i)
        behind = listed.offset[int(order[place + 1])] if place + 1 < len(order) else start
        content = _check_local(raw, listed, i, behind, source)
        if name.endswith("/") or stat.S_ISDIR(listed.mode[i]):
            if clean := folder_name(name, source):
                yield Member(clean, 0, iter(()), is_folder=True)
            continue

        clean = safe_name(name, source)
        problem, hint = _problem(listed, i)
        if problem:
            if is_image(clean):
                raise refused(name, problem, source, hint)
            continue
        if stat.S_ISLNK(listed.mode[i]):
            if listed.size[i] > _MAX_LINK:
                raise refused(name, "is a symbolic link of more than 4096 bytes", source)
            to = b"".join(_content(raw, listed, i, content, source))
            link = link_target(clean, to.decode("utf-8", "surrogateescape"))
            yield Member(clean, 0, iter(()), link=link or "")
            continue

        chunks = _content(raw, listed, i, content, source)
        yield Member(clean, listed.size[i], chunks)
        for _ in chunks:  # whatever the consumer left is checked too
            pass


def _find_directory(raw: Any, source: str) -> tuple[int, int, int]:
    """Where the directory begins and ends, and how many entries it has."""
    length = raw.seek(0, 2)
    tail_at = max(0, length - _END.size - 0xFFFF)
    tail = _bytes_at(raw, tail_at, length - tail_at)
    fits, later = [], False
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        if at + _END.size <= len(tail):
            comment = _END.unpack_from(tail, at)[7]
            if at + _END.size + comment == len(tail):
                fits.append(at)
            later = later or at + _END.size + comment < len(tail)
        at = tail.rfind(b"PK\x05\x06", 0, at)

    if not fits and later:
        raise DataError(
            f"refused {source}: data after the end of the archive",
            got=source,
            expected=WHOLE,
            hint=AGAIN,
        )
    if not fits:
        raise DataError(
            f"{source} is truncated: the directory at its end is missing",
            got=source,
            expected=WHOLE,
            hint=AGAIN,
        )
    if len(fits) > 1:
        raise DataError(
            f"refused {source}: it has two directories", got=source, expected=WHOLE, hint=AGAIN
        )

    at = tail_at + fits[0]
    fields = _END.unpack_from(tail, fits[0])
    disk, first_disk, here, count, size, start = fields[1:7]
    end = at
    if 0xFFFF in (disk, first_disk, here, count) or 0xFFFFFFFF in (size, start):
        found = _find_zip64(raw, at)
        if found is not None:
            disk, first_disk, here, count, size, start, end = found
    if disk or first_disk or here != count:
        raise DataError(
            f"refused {source}: it is one part of an archive in parts",
            got=source,
            expected=WHOLE,
            hint="join the parts (zip -s 0 PART.zip --out WHOLE.zip), and name the whole",
        )
    if start + size != end:
        where = "before the first member" if start + size < end else "missing before its directory"
        raise DataError(f"refused {source}: data {where}", got=source, expected=WHOLE, hint=AGAIN)
    return start, end, count


def _find_zip64(raw: Any, at: int) -> tuple[int, int, int, int, int, int, int] | None:
    if at < _LOCATOR.size:
        return None
    magic, _, where, _ = _LOCATOR.unpack(_bytes_at(raw, at - _LOCATOR.size, _LOCATOR.size))
    if magic != b"PK\x06\x07" or where + _END64.size > at:
        return None
    fields = _END64.unpack(_bytes_at(raw, where, _END64.size))
    if fields[0] != b"PK\x06\x06":
        return None
    _, _, _, _, disk, first_disk, here, count, size, start = fields
    return disk, first_disk, here, count, size, start, where


def _read_directory(raw: Any, start: int, end: int, count: int, source: str) -> _Directory:
    listed = _Directory()
    raw.seek(start)
    ready, at, left = b"", 0, end - start

    def take(size: int) -> bytes:
        nonlocal ready, at, left
        while len(ready) - at < size and left:
            more = raw.read(min(left, CHUNK))
            if not more:
                break
            left -= len(more)
            ready, at = ready[at:] + more, 0
        data = ready[at : at + size]
        at += size
        if len(data) < size:
            raise EOFError("the directory ends early")
        return data

    while at < len(ready) or left:
        fields = _ENTRY.unpack(take(_ENTRY.size))
        if fields[0] != b"PK\x01\x02" or len(listed) >= count:
            raise ValueError("its directory is damaged")
        host, flags, method = fields[2], fields[5], fields[6]
        crc, packed, size = fields[9:12]
        name_length, extra_length, comment_length = fields[12:15]
        external, offset = fields[17:19]
        raw_name = take(name_length)
        extra = _extra_fields(take(extra_length))
        take(comment_length)
        size, packed, offset = _zip64_sizes(extra.get(1, b""), size, packed, offset)
        name = _name(raw_name, flags, host, extra.get(0x7075))
        mode = external >> 16 if host in _UNIX else 0
        listed.add(name, raw_name, (offset, packed, size, crc, mode, method, flags))

    if len(listed) != count:
        raise DataError(
            f"refused {source}: its directory says {count} members and lists {len(listed)}",
            got=source,
            expected=WHOLE,
            hint=AGAIN,
        )
    return listed


def _extra_fields(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        kind, length = struct.unpack_from("<HH", data, at)
        found.setdefault(kind, data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _zip64_sizes(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The three numbers, those that do not fit in 32 bits taken from the extra field."""
    numbers = [size, packed, offset]
    at = 0
    for place, number in enumerate(numbers):
        if number == 0xFFFFFFFF and at + 8 <= len(extra):
            numbers[place] = struct.unpack_from("<Q", extra, at)[0]
            at += 8
    return numbers[0], numbers[1], numbers[2]


def _name(raw: bytes, flags: int, host: int, unicode_field: bytes | None) -> str:
    """A member's name, as the module's text says; ``/`` between folders."""
    if unicode_field and len(unicode_field) > 5 and unicode_field[0] == 1:
        (checksum,) = struct.unpack_from("<L", unicode_field, 1)
        if checksum == zlib.crc32(raw):
            return unicode_field[5:].decode("utf-8", "surrogateescape")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        as_bytes = flags & _UTF8 or host in _UNIX
        name = raw.decode("utf-8", "surrogateescape") if as_bytes else raw.decode("cp437")
    # On Windows some packers write their own separator, against the format.
    return name.replace("\\", "/") if host in _DOS and "/" not in name else name


def _judge(listed: _Directory, order: Any, start: int, source: str, limits: Limits) -> None:
    """What can be said before anything is read: overlaps and bombs."""
    if len(order) and listed.offset[int(order[0])] != 0:
        raise DataError(
            f"refused {source}: data before the first member",
            got=source,
            expected=WHOLE,
            hint=AGAIN,
        )
    total = 0
    taken = 0  # the first byte behind the members so far: shared bytes make a small file a huge one
    for number in order:
        i = int(number)
        if listed.offset[i] < taken:
            raise refused(listed.name(i), "overlaps another member", source)
        taken = listed.offset[i] + _LOCAL.size + listed.packed[i]
        size = listed.size[i]
        total += size
        ratio = size / max(1, listed.packed[i])
        if size > limits.ratio_from and ratio > limits.max_ratio:
            raise refused(
                listed.name(i), f"expands {ratio:.0f} times: a decompression bomb", source
            )
        if limits.max_bytes is not None and total > limits.max_bytes:
            raise refused(
                listed.name(i),
                f"makes the archive larger than the {limits.max_bytes} bytes allowed",
                source,
            )

    if taken > start:
        raise refused(listed.name(int(order[-1])), "reaches into the directory", source)
    if total > limits.ratio_from and total / max(1, start) > limits.max_ratio:
        raise DataError(
            f"refused {source}: it expands {total / max(1, start):.0f} times: a decompression bomb",
            got=source,
            expected=f"at most {limits.max_ratio:g} times the bytes of the archive",
            hint="unpack it yourself where you trust it, and name the folder",
        )


def _check_local(raw: Any, listed: _Directory, i: int, behind: int, source: str) -> int:
    """Hold a member's own header against the directory; returns where its content begins.

    Args:
        behind: where the next member, or the directory, begins.
    """
    at = listed.offset[i]
    fields = _LOCAL.unpack(_bytes_at(raw, at, _LOCAL.size))
    magic, _, flags, method = fields[:4]
    crc, packed, size, name_length, extra_length = fields[6:]
    rest = _bytes_at(raw, at + _LOCAL.size, name_length + extra_length)
    name = rest[:name_length]
    size, packed, _ = _zip64_sizes(_extra_fields(rest[name_length:]).get(1, b""), size, packed, 0)
    said = None
    if magic != b"PK\x03\x04":
        said = "no header"
    elif name != listed.raw(i):
        said = f"the name '{shown(name[:200].decode('utf-8', 'surrogateescape'))}'"
    elif method != listed.method[i] or (flags ^ listed.flags[i]) & _ENCRYPTED:
        said = "another method"
    elif not flags & _LATER and (crc, packed, size) != (
        listed.crc[i],
        listed.packed[i],
        listed.size[i],
    ):
        said = "another size or checksum"
    if said:
        raise refused(
            listed.name(i), f"contradicts the directory: there it has {said}", source, _DAMAGED
        )

    content = at + _LOCAL.size + name_length + extra_length
    gap = behind - content - listed.packed[i]
    if gap < 0:
        raise refused(listed.name(i), "overlaps another member", source)
    if gap > _DESCRIPTOR and _bytes_at(raw, behind - gap, 4) == b"PK\x03\x04":
        raise refused(listed.name(i), "is followed by one that the directory lacks", source)
    return int(content)


_DAMAGED = "fetch the archive again, or extract it and pack the folder"


def _problem(listed: _Directory, i: int) -> tuple[str | None, str | None]:
    """Why a member cannot be read, and what fixes it."""
    kind = stat.S_IFMT(listed.mode[i])
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return "is a device or a pipe", "pack again without it"
    if listed.flags[i] & _ENCRYPTED:
        return "is encrypted", "extract it with its password and pack the folder"
    if listed.method[i] not in (0, 8, 12, 14):
        return (
            f"is compressed by a method ({listed.method[i]}) that is not read",
            "pack it again with zip, or as .tar",
        )
    return None, None


def _content(raw: Any, listed: _Directory, i: int, start: int, source: str) -> Iterator[bytes]:
    """A member's content; what it holds must be what the directory says, to the last byte."""
    name, want = listed.name(i), listed.size[i]
    decoder = _decoder(listed.method[i])
    left, done, crc, position = listed.packed[i], 0, 0, start
    held = b""
    while True:
        if not held and left:
            raw.seek(position)
            held = raw.read(min(left, 1 << 16))
            if not held:
                raise EOFError("the archive ends inside a member")
            left -= len(held)
            position += len(held)
        if decoder is None:
            out, held = held, b""
        else:
            out, held = decoder(held)
        done += len(out)
        if done > want:
            raise refused(name, f"holds more than the {want} bytes of its header", source, _DAMAGED)
        crc = crc32(out, crc)
        if out:
            yield out
        elif not held and not left:
            break

    ended = decoder is None or decoder(None)[0] == b"end"
    if done != want or crc != listed.crc[i] or not ended:
        raise refused(
            name,
            f"is damaged: it has {done} of {want} bytes"
            if done != want
            else "is damaged: its checksum does not fit",
            source,
            _DAMAGED,
        )


def _decoder(method: int) -> Any:
    """A function: compressed bytes → at most 1 MiB of content, and the bytes that it left. Asked
    with None it says whether the stream has ended (``b"end"``)."""
    if method == 0:
        return None
    if method == 8:
        inflate = zlib.decompressobj(-15)

        def step(data: bytes | None) -> tuple[bytes, bytes]:
            if data is None:
                return (b"end" if inflate.eof and not inflate.unused_data else b""), b""
            return inflate.decompress(data, CHUNK), inflate.unconsumed_tail

        return step

    made: Any = bz2.BZ2Decompressor() if method == 12 else None
    head = bytearray()
    is_over = False

    def other(data: bytes | None) -> tuple[bytes, bytes]:
        nonlocal made, is_over
        if data is None:
            # LZMA need not mark its end; size and checksum are held against it anyway.
            ended = made is not None and (made.eof or method == 14)
            return (b"end" if ended and not is_over and not made.unused_data else b""), b""
        if made is None:  # LZMA: version, length of the properties, properties
            head.extend(data)
            if len(head) < 4 or len(head) < 4 + head[2]:
                return b"", b""
            made, data = _lzma(bytes(head[4 : 4 + head[2]])), bytes(head[4 + head[2] :])
        if made.eof:
            is_over = is_over or bool(data)
            return b"", b""
        if not made.needs_input:
            return made.decompress(b"", CHUNK), data
        return made.decompress(data, CHUNK), b""

    return other


def _lzma(properties: bytes) -> Any:
    first, window = properties[0], int.from_bytes(properties[1:5], "little")
    if len(properties) < 5 or first >= 225 or window > 192 << 20:
        raise ValueError("LZMA properties that are not read")
    chain: list[dict[str, int]] = [
        {
            "id": lzma.FILTER_LZMA1,
            "lc": first % 9,
            "lp": first // 9 % 5,
            "pb": first // 45,
            "dict_size": max(4096, window),
        }
    ]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain)


def _bytes_at(raw: Any, at: int, size: int) -> bytes:
    raw.seek(at)
    data: bytes = raw.read(size)
    if len(data) != size:
        raise EOFError("the archive ends early")
    return data
