"""A corpus of hostile archives: name → (file name, bytes, what the refusal must name)."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable

from tests.support.images import jpeg


def tar(
    *entries: tuple[str, bytes | None] | tarfile.TarInfo, format: int = tarfile.PAX_FORMAT
) -> bytes:
    """A tar of ``(name, payload)`` files and bare headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1] or b"")
            archive.addfile(info, io.BytesIO(entry[1] or b""))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zipped(*entries: tuple[str, bytes], mode: int | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode is not None:
                info.external_attr = mode << 16
            archive.writestr(info, data)
    return out.getvalue()


def _pax(name: str, headers: dict[str, str], shared: dict[str, str] | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.pax_headers = len(PHOTO), headers
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=shared
    ) as archive:
        archive.addfile(info, io.BytesIO(PHOTO))
    return out.getvalue()


def _pax_record(digit: bytes) -> bytes:
    """A long name whose record begins with another digit than the hundreds of its length."""
    whole = bytearray(tar(("deep/" * 40 + "1.jpg", PHOTO)))
    at = whole.index(b" path=") - 3
    assert whole[at : at + 3].isdigit() and whole[at : at + 1] == b"2"
    whole[at : at + 1] = digit
    return bytes(whole)


def _huge_header() -> bytes:
    info = tarfile.TarInfo("a/1.jpg")
    info.type, info.size = tarfile.XHDTYPE, 400 << 20
    return gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * (2 << 20))


def _encrypted_flag() -> bytes:
    data = bytearray(zipped(("a/1.jpg", PHOTO)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(signature) + offset
        data[at : at + 2] = struct.pack("<H", 1)
    return bytes(data)


def _overlapping() -> bytes:
    """Two directory entries on one local header: the trick behind zip bombs without recursion."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.jpg", PHOTO)
        archive.writestr("a/2.jpg", PHOTO)
        archive.infolist()[1].header_offset = 0
    return out.getvalue()


PHOTO = jpeg(0, 32, 32)
_GOOD = ("a/1.jpg", PHOTO)


def _bomb() -> bytes:
    return gzip.compress(tar(("a/bomb.jpg", b"\0" * (24 << 20))))


CORPUS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "an absolute path": ("x.tar", lambda: tar(("/etc/evil.jpg", PHOTO)), "/etc/evil.jpg"),
    "a climbing path": (
        "x.tar.gz",
        lambda: gzip.compress(tar(("a/../../evil.jpg", PHOTO))),
        "evil.jpg",
    ),
    "the folder above": (
        "x.tar",
        lambda: tar(special("..", tarfile.DIRTYPE), _GOOD),
        "climbs with '..'",
    ),
    "a climbing folder": (
        "x.tar",
        lambda: tar(special("../evil", tarfile.DIRTYPE), _GOOD),
        "../evil",
    ),
    "a character device": (
        "x.tar",
        lambda: tar(_GOOD, special("a/null.jpg", tarfile.CHRTYPE)),
        "a/null.jpg",
    ),
    "a block device": (
        "x.tar",
        lambda: tar(_GOOD, special("a/disk.jpg", tarfile.BLKTYPE)),
        "a/disk.jpg",
    ),
    "a pipe": ("x.tar", lambda: tar(_GOOD, special("a/pipe.jpg", tarfile.FIFOTYPE)), "a/pipe.jpg"),
    "a duplicate name": ("x.tar", lambda: tar(_GOOD, _GOOD), "a/1.jpg"),
    "a duplicate under another spelling": (
        "x.tar",
        lambda: tar(_GOOD, ("./a//1.jpg", PHOTO)),
        "a/1.jpg",
    ),
    "a file that is also a folder": (
        "x.tar",
        lambda: tar(("a", PHOTO), _GOOD),
        "both a file and a folder",
    ),
    "a drive": ("x.tar", lambda: tar(("C:evil.jpg", PHOTO)), "C:evil.jpg"),
    "an over-long component": ("x.tar", lambda: tar(("a/" + "n" * 300 + ".jpg", PHOTO)), "nnn"),
    "a bomb by ratio": ("x.tar.gz", _bomb, "bomb"),
    "a bomb by count": (
        "x.tar",
        lambda: tar(*((f"a/{i}.jpg", b"") for i in range(5001))),
        "5000 members",
    ),
    "a truncated gzip": (
        "x.tar.gz",
        lambda: gzip.compress(tar(*((f"a/{i}.jpg", jpeg(i, 64, 64)) for i in range(20))))[:-4000],
        "truncated",
    ),
    "a gzip without its checksum": (
        "x.tar.gz",
        lambda: gzip.compress(tar(_GOOD))[:-8],
        "truncated",
    ),
    "a flipped bit in a gzip": (
        "x.tar.gz",
        lambda: _flip(gzip.compress(tar(_GOOD, ("a/2.jpg", jpeg(3, 200, 200))))),
        "corrupt",
    ),
    "a truncated tar": ("x.tar", lambda: tar(_GOOD)[:700], "a/1.jpg"),
    "a tar cut between members": (
        "x.tar",
        lambda: tar(_GOOD, ("a/2.jpg", PHOTO))[: 512 + len(PHOTO) + -len(PHOTO) % 512],
        "truncated",
    ),
    "trailing junk after a tar": ("x.tar", lambda: tar(_GOOD) + b"junk", "after the end"),
    "trailing junk after a gzip": (
        "x.tar.gz",
        lambda: gzip.compress(tar(_GOOD)) + b"junk" * 9,
        "x.tar.gz",
    ),
    "a damaged header in the middle": (
        "x.tar",
        lambda: _damage(tar(_GOOD, ("a/2.jpg", PHOTO))),
        "a/1.jpg",
    ),
    "an old sparse file": (
        "x.tar",
        lambda: tar(special("a/sparse.jpg", tarfile.GNUTYPE_SPARSE), _GOOD),
        "a/sparse.jpg",
    ),
    "a pax sparse file": (
        "x.tar",
        lambda: _pax("a/1.jpg", {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
        "a/1.jpg",
    ),
    "a pax path that climbs": (
        "x.tar",
        lambda: _pax("a/1.jpg", {"path": "../../evil.jpg"}),
        "evil.jpg",
    ),
    "a pax path for all members": (
        "x.tar",
        lambda: _pax("a/1.jpg", {}, shared={"path": "../evil.jpg"}),
        "for all members",
    ),
    "a pax header of 400 MB": ("x.tar.gz", _huge_header, "more than 1 MiB"),
    "a pax record with a letter in its length": (
        "x.tar",
        lambda: _pax_record(b"x"),
        "malformed extended header",
    ),
    "a pax record that is too short": ("x.tar", lambda: _pax_record(b"1"), "malformed"),
    "a pax record that is too long": ("x.tar", lambda: _pax_record(b"9"), "malformed"),
    "two tars in one": (
        "x.tar",
        lambda: tar(_GOOD) + tar(("a/2.jpg", PHOTO)),
        "after the end",
    ),
    "a volume label": ("x.tar", lambda: tar(special("label", b"V"), _GOOD), "label"),
    "a zip that climbs": ("x.zip", lambda: zipped(("../evil.jpg", PHOTO)), "evil.jpg"),
    "a zip of the folder above": (
        "x.zip",
        lambda: zipped(("..", PHOTO), _GOOD),
        "climbs with '..'",
    ),
    "a zip with a nameless file": ("x.zip", lambda: zipped(("", PHOTO), _GOOD), "is empty"),
    "a zip with a climbing folder": (
        "x.zip",
        lambda: zipped(("../", b""), _GOOD),
        "climbs with '..'",
    ),
    "a zip with an absolute path": (
        "x.zip",
        lambda: zipped(("/etc/evil.jpg", PHOTO)),
        "/etc/evil.jpg",
    ),
    "a zip with a link": (
        "x.zip",
        lambda: zipped(("a/link.jpg", b"/etc/passwd"), mode=0o120777),
        "a/link.jpg",
    ),
    "an encrypted zip": ("x.zip", _encrypted_flag, "a/1.jpg"),
    "an overlapping zip": ("x.zip", _overlapping, "x.zip"),
    "a truncated zip": ("x.zip", lambda: zipped(_GOOD)[:-30], "x.zip"),
    "trailing junk after a zip": ("x.zip", lambda: zipped(_GOOD) + b"junk", "after the end"),
    "a zip with another name inside": ("x.zip", lambda: _lying("name"), "a/1.jpg"),
    "a zip with more than it says": ("x.zip", lambda: _lying("size"), "a/1.jpg"),
    "a zip with another size inside": ("x.zip", lambda: _lying("local size"), "a/1.jpg"),
    "a zip with a wrong checksum": ("x.zip", lambda: _lying("checksum"), "a/1.jpg"),
    "a zip with another method inside": ("x.zip", lambda: _lying("method"), "a/1.jpg"),
    "a zip with a member that is not listed": (
        "x.zip",
        lambda: _lying("hidden"),
        "before the first",
    ),
    "a zip that miscounts": ("x.zip", lambda: _lying("count"), "x.zip"),
    "a zip with two directories": ("x.zip", lambda: _lying("two directories"), "two directories"),
    "a hard link out": (
        "x.tar",
        lambda: tar(_GOOD, special("a/2.jpg", tarfile.LNKTYPE, "/etc/passwd")),
        "a/2.jpg",
    ),
    "a pax header of many records": (
        "x.tar",
        lambda: _pax("a/1.jpg", {f"k{i}": "" for i in range(20_000)}),
        "records",
    ),
    "a zip bomb": ("x.zip", lambda: zipped(("a/bomb.jpg", b"\0" * (24 << 20))), "a/bomb.jpg"),
    "a page of HTML": ("x.tar.gz", lambda: b"<html>" + b"not found " * 100, "not an archive"),
    "an empty file": ("x.tar.gz", lambda: b"", "x.tar.gz"),
    "an empty tar": ("x.tar", lambda: tar(), "no files"),
}


# What a folder may hold as well is read as in a folder: name → (file name, bytes, the images).
READ: dict[str, tuple[str, Callable[[], bytes], list[str]]] = {
    "a symbolic link in": (
        "x.tar",
        lambda: tar(_GOOD, special("a/2.jpg", tarfile.SYMTYPE, "1.jpg")),
        ["a/1.jpg", "a/2.jpg"],
    ),
    "a link to a link": (
        "x.tar",
        lambda: tar(
            special("b/3.jpg", tarfile.SYMTYPE, "../a/2.jpg"),
            special("a/2.jpg", tarfile.SYMTYPE, "1.jpg"),
            _GOOD,
        ),
        ["a/1.jpg", "a/2.jpg", "b/3.jpg"],
    ),
    "a link to a folder": (
        "x.tar",
        lambda: tar(special("b", tarfile.SYMTYPE, "a"), _GOOD),
        ["a/1.jpg", "b/1.jpg"],
    ),
    "links through linked folders": (
        "x.tar",
        lambda: tar(
            _GOOD,
            special("b", tarfile.SYMTYPE, "a"),
            special("a/more", tarfile.SYMTYPE, "../c"),
            special("c/2.jpg", tarfile.SYMTYPE, "../b/1.jpg"),
        ),
        ["a/1.jpg", "a/more/2.jpg", "b/1.jpg", "b/more/2.jpg", "c/2.jpg"],
    ),
    "folders linked into themselves": (
        "x.tar",
        lambda: tar(
            ("c/a/1.jpg", PHOTO),
            special("c/a/up", tarfile.SYMTYPE, "../a"),
            special("b", tarfile.SYMTYPE, "c/a"),
            special("out", tarfile.SYMTYPE, "../elsewhere"),
        ),
        ["b/1.jpg", "c/a/1.jpg"],
    ),
    "a dangling link": (
        "x.tar",
        lambda: tar(_GOOD, special("a/2.jpg", tarfile.SYMTYPE, "gone.jpg")),
        ["a/1.jpg"],
    ),
    "links in a circle": (
        "x.tar",
        lambda: tar(
            _GOOD,
            special("a/2.jpg", tarfile.SYMTYPE, "3.jpg"),
            special("a/3.jpg", tarfile.SYMTYPE, "2.jpg"),
        ),
        ["a/1.jpg"],
    ),
    "a symbolic link out": (
        "x.tar",
        lambda: tar(
            special("a/link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            special("b/link.jpg", tarfile.SYMTYPE, "../../a/1.jpg"),
            _GOOD,
        ),
        ["a/1.jpg"],
    ),
    "a link out that is no image": (
        "x.tar",
        lambda: tar(_GOOD, special("a/passwd", tarfile.SYMTYPE, "/etc/passwd")),
        ["a/1.jpg"],
    ),
    "a hard link": (
        "x.tar",
        lambda: tar(_GOOD, special("a/2.jpg", tarfile.LNKTYPE, "a/1.jpg")),
        ["a/1.jpg", "a/2.jpg"],
    ),
    "a case collision": (
        "x.tar",
        lambda: tar(_GOOD, ("A/1.JPG", PHOTO)),
        ["A/1.JPG", "a/1.jpg"],
    ),
    "a backslash": (
        "x.tar",
        lambda: tar(("a\\..\\evil.jpg", PHOTO)),
        ["a\\..\\evil.jpg"],
    ),
    "a control character": (
        "x.tar",
        lambda: tar(("a/\x1b[2Jevil.jpg", PHOTO)),
        ["a/\x1b[2Jevil.jpg"],
    ),
    "the icon of a folder": (
        "x.tar.gz",
        lambda: gzip.compress(tar(_GOOD, ("a/Icon\r", b""), ("._1.jpg", b"\0\5\x16\7"))),
        ["a/1.jpg"],
    ),
    "a duplicate that is no image": (
        "x.tar",
        lambda: tar(("README", b"old"), _GOOD, ("README", b"new")),
        ["a/1.jpg"],
    ),
    "devices that are no images": (
        "x.tar",
        lambda: tar(_GOOD, special("dev/null", tarfile.CHRTYPE), special("p", tarfile.FIFOTYPE)),
        ["a/1.jpg"],
    ),
    "a sparse file that is no image": (
        "x.tar",
        lambda: tar(special("core", tarfile.GNUTYPE_SPARSE), _GOOD),
        ["a/1.jpg"],
    ),
    "a zip with a link in": (
        "x.zip",
        lambda: _zip_link("a/2.jpg", "./1.jpg"),
        ["a/1.jpg", "a/2.jpg"],
    ),
    "a zip of Windows with its separators": (
        "x.zip",
        lambda: _made_by(0, zipped(("cat\\1.jpg", PHOTO), ("dog\\2.jpg", PHOTO))),
        ["cat/1.jpg", "dog/2.jpg"],
    ),
    "a zip of Unix with a backslash": (
        "x.zip",
        lambda: zipped(("a\\1.jpg", PHOTO)),
        ["a\\1.jpg"],
    ),
}


def _zip_link(name: str, target: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(*_GOOD)
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, target)
    return out.getvalue()


def _made_by(system: int, data: bytes) -> bytes:
    """A zip whose directory says that this system made it."""
    made = bytearray(data)
    at = made.find(b"PK\x01\x02")
    while at >= 0:
        made[at + 5] = system
        at = made.find(b"PK\x01\x02", at + 1)
    return bytes(made)


def _lying(field: str) -> bytes:
    """A zip whose members contradict its directory."""
    data = bytearray(zipped(_GOOD, ("a/2.jpg", PHOTO)))
    entry, local = data.index(b"PK\x01\x02"), 0
    if field == "name":
        data[local + 30 : local + 37] = b"b/9.jpg"
    elif field == "size":
        data[entry + 24 : entry + 28] = struct.pack("<L", len(PHOTO) - 9)
        data[local + 22 : local + 26] = struct.pack("<L", len(PHOTO) - 9)
    elif field == "local size":
        data[local + 22 : local + 26] = struct.pack("<L", 5)
    elif field == "checksum":
        for at in (entry + 16, local + 14):
            data[at] ^= 0xFF
    elif field == "method":
        data[local + 8] = 0
    elif field == "hidden":  # the first member is no longer listed
        second = data.index(b"PK\x01\x02", entry + 4)
        del data[entry:second]
        end = data.index(b"PK\x05\x06")
        data[end + 8 : end + 12] = struct.pack("<HH", 1, 1)
        data[end + 12 : end + 16] = struct.pack("<L", end - entry)
    elif field == "count":
        end = data.index(b"PK\x05\x06")
        data[end + 8 : end + 12] = struct.pack("<HH", 1, 1)
    elif field == "two directories":
        end = data.index(b"PK\x05\x06")
        again = bytearray(data[end:])
        data[end + 20 : end + 22] = struct.pack("<H", len(again))
        data += again
    return bytes(data)


def _flip(data: bytes) -> bytes:
    broken = bytearray(data)
    broken[len(broken) // 2] ^= 0x10
    return bytes(broken)


def _damage(data: bytes) -> bytes:
    broken = bytearray(data)
    at = 512 + len(PHOTO) + -len(PHOTO) % 512
    broken[at + 10] ^= 0xFF
    return bytes(broken)
