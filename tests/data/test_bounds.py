"""What an archive or a folder may cost: each bomb ends soon, with one error that names it."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
from mae_sdk.data import open_source
from mae_sdk.data.archive import members
from mae_sdk.data.member import Limits
from mae_skill.errors import DataError

from tests.support.hostile import PHOTO, tar


def empty_zip(count: int) -> bytes:
    """A zip of this many empty members."""
    body, directory = io.BytesIO(), io.BytesIO()
    for i in range(count):
        name, at = b"a/%06d.jpg" % i, body.tell()
        body.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0))
        body.write(name)
        fields = (20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0o100644 << 16, at)
        directory.write(struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", *fields) + name)
    start, size = body.tell(), directory.tell()
    listed = min(count, 0xFFFF)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, listed, listed, size, start, 0)
    if count > 0xFFFF:
        at = start + size
        fields = (44, 45, 45, 0, 0, count, count, size, start)
        directory.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", *fields))
        directory.write(struct.pack("<4sLQL", b"PK\6\7", 0, at, 1))
    return body.getvalue() + directory.getvalue() + end


def test_a_zip_of_many_empty_members_stays_small_in_memory() -> None:
    data = empty_zip(10_000)
    found = members(io.BytesIO(data), len(data), "x.zip", Limits())
    tracemalloc.start()
    assert next(found).name == "a/000000.jpg"  # the whole directory is read by then
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20  # some 100 bytes for each; an object of zipfile takes 600


def test_a_zip_of_more_than_65535_members_is_read() -> None:
    data = empty_zip(66_000)
    assert sum(1 for _ in members(io.BytesIO(data), len(data), "x.zip", Limits())) == 66_000


@pytest.mark.parametrize("name", ["PK.jpg", "BZh.jpg", "BZh9.jpg"])
def test_a_tar_is_not_taken_for_what_its_first_name_begins_with(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(PHOTO)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / name, name)
    source = open_source(str(tmp_path / "a.tar"), cache_dir=tmp_path / "cache")
    assert [Path(source.path(index)).name for index in range(len(source))] == [name]
    assert source.read(0) == PHOTO


def _header(payload: bytes) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(payload)
    return info.tobuf(tarfile.USTAR_FORMAT) + payload + bytes(-len(payload) % 512)


@pytest.mark.parametrize(
    "records",
    [
        b"6 a=b\n" * 170_000,
        b"5 a=\n" * 200_000,
        bytes(1 << 20),
        b"1048576 a=" + b"x" * 1048565 + b"\n",
    ],
    ids=["many", "many empty", "zeros", "one"],
)
def test_a_large_pax_header_takes_no_time(records: bytes) -> None:
    data = _header(records[: 1 << 20]) + tar(("a/1.jpg", PHOTO))
    start = time.process_time()
    try:
        assert [m.name for m in members(io.BytesIO(data), len(data), "x.tar", Limits())] == [
            "a/1.jpg"
        ]
    except DataError as error:
        assert "extended header" in error.message
    assert time.process_time() - start < 2  # 15 s before


def test_a_gzip_header_may_hold_a_long_name(tmp_path: Path) -> None:
    whole = gzip.compress(tar(("a/1.jpg", PHOTO)), mtime=0)
    named = whole[:3] + b"\x08" + whole[4:10] + b"n" * 700_000 + b"\0" + whole[10:]
    (tmp_path / "x.tar.gz").write_bytes(named)
    source = open_source(tmp_path / "x.tar.gz", cache_dir=tmp_path / "cache")
    assert list(source.members) == ["a/1.jpg"]


@pytest.mark.parametrize("kind", ["zeros", "content"])
def test_a_tar_of_a_terabyte_of_holes_ends_soon(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    info = tarfile.TarInfo("a/huge.jpg")
    info.size = 1 << 40
    head = tar(("a/1.jpg", PHOTO)) if kind == "zeros" else info.tobuf(tarfile.GNU_FORMAT)
    with path.open("wb") as out:
        out.write(head)
        out.truncate(1 << 40)
    start = time.monotonic()
    with pytest.raises(DataError, match="decompression bomb") as caught:
        open_source(path, cache_dir=tmp_path / "cache")
    assert time.monotonic() - start < 20
    assert ("a/huge.jpg" if kind == "content" else "end marker") in caught.value.message


@pytest.mark.timeout(30)
def test_pipes_and_devices_are_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(DataError, match="device or a pipe"):
        open_source(tmp_path / "x.tar", cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match="device or a pipe"):
        open_source("/dev/zero", cache_dir=tmp_path / "cache")

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(PHOTO)
    os.mkfifo(folder / "notes")
    assert list(open_source(folder).members) == ["1.jpg"]
    os.mkfifo(folder / "2.jpg")
    with pytest.raises(DataError, match=r"'2.jpg' is a device or a pipe"):
        open_source(folder)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b"", None),
        (bytes(10_240), None),
        (b"junk", "data after the end of the gzip stream"),
        (gzip.compress(tar(("a/2.jpg", PHOTO))), "data after the end of the archive"),
    ],
    ids=["nothing", "zeros", "junk", "another"],
)
def test_bytes_behind_a_gzip_are_padding_or_an_exact_error(
    rest: bytes, said: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar(("a/1.jpg", PHOTO))) + rest)
    if said is None:
        assert len(open_source(path, cache_dir=tmp_path / "cache")) == 1
        return
    with pytest.raises(DataError, match=said):
        open_source(path, cache_dir=tmp_path / "cache")
