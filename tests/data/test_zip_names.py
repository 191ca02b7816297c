"""The names that a zip spells: by its Unicode field, as UTF-8, as bytes, or in code page 437."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from mae_sdk.data import open_source
from PIL import Image

DOS, UNIX = 0, 3


class Member(zipfile.ZipInfo):
    """A member whose name is these bytes."""

    raw: bytes

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.raw, self.flag_bits & ~0x800


def unicode_field(name: str, raw: bytes) -> bytes:
    """Info-ZIP's extra field for a name whose stored bytes are ``raw``."""
    text = name.encode()
    return struct.pack("<HHBL", 0x7075, 5 + len(text), 1, zlib.crc32(raw)) + text


@pytest.mark.parametrize(
    ("raw", "system", "extra", "name"),
    [
        (b"caf\x82.png", DOS, b"", "café.png"),
        (b"caf\x82.png", UNIX, b"", "caf\udc82.png"),
        ("café.png".encode(), DOS, b"", "café.png"),
        (b"x.png", DOS, unicode_field("日本.png", b"x.png"), "日本.png"),
        (b"x.png", UNIX, unicode_field("日本.png", b"x.png"), "日本.png"),
        (b"x.png", DOS, unicode_field("日本.png", b"another.png"), "x.png"),
        (b"a\\b.png", DOS, b"", "a/b.png"),
        (b"a\\b.png", UNIX, b"", "a\\b.png"),
    ],
)
def test_a_name_is_read_as_its_packer_wrote_it(
    raw: bytes, system: int, extra: bytes, name: str, tmp_path: Path
) -> None:
    data = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(data, "PNG")
    member = Member("a.png")
    member.raw, member.create_system, member.extra = raw, system, extra
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, data.getvalue())
    source = open_source(tmp_path / "a.zip", cache_dir=tmp_path / "cache")
    assert list(source.members) == [name]
    assert source.read(0) == data.getvalue()
