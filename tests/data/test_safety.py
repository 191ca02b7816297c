"""Hostile archives are refused by name, and nothing is written outside the cache or left in it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mae_sdk.data import open_source
from mae_sdk.data.archive import members
from mae_sdk.data.member import Limits
from mae_sdk.data.names import safe_name
from mae_skill.errors import DataError, MaeError

from tests.support.hostile import CORPUS, PHOTO, READ, tar, zipped

LIMITS = Limits(max_ratio=100, ratio_from=8 << 20, max_members=5000)


@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_archive_is_refused_by_name_and_leaves_nothing_behind(
    case: str, tmp_path: Path
) -> None:
    name, make, named = CORPUS[case]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(make())
    before = sorted(tmp_path.rglob("*"))
    cache = tmp_path / "cache"
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / "in" / name, cache_dir=cache, limits=LIMITS)
    assert named in str(caught.value)
    assert not caught.value.retryable
    left = [
        path
        for path in tmp_path.rglob("*")
        if path not in before and path != cache and ".locks" not in path.parts
    ]
    assert left == []


@pytest.mark.parametrize("case", READ)
def test_what_a_folder_may_hold_is_read_from_an_archive_too(case: str, tmp_path: Path) -> None:
    name, make, images = READ[case]
    (tmp_path / name).write_bytes(make())
    source = open_source(tmp_path / name, cache_dir=tmp_path / "cache", limits=LIMITS)
    assert sorted(source.members) == images
    assert all(source.read(i) == PHOTO for i in range(len(images)))


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", "zst"])
@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_damage_deep_inside_a_large_archive_is_the_archives_error(
    kind: str, harm: str, tmp_path: Path
) -> None:
    import bz2
    import gzip
    import lzma
    import random

    import zstandard

    payload = random.Random(0).randbytes(2_500_000)
    pack = {
        "gz": gzip.compress,
        "xz": lambda data: lzma.compress(data, preset=0),
        "bz2": lambda data: bz2.compress(data, 1),
    }
    pack["zst"] = zstandard.ZstdCompressor(level=1, write_checksum=True).compress
    data = bytearray(pack[kind](tar(("a/1.jpg", payload), ("a/2.jpg", PHOTO))))
    middle = len(data) * 2 // 3
    if harm == "cut":
        del data[middle:]
    else:
        data[middle] ^= 0x55
    (tmp_path / f"x.tar.{kind}").write_bytes(data)
    with pytest.raises(DataError, match=f"x.tar.{kind} is (truncated|corrupt)"):
        open_source(tmp_path / f"x.tar.{kind}", cache_dir=tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]


def test_ordinary_oddities_are_read(tmp_path: Path) -> None:
    long = "deep/" * 30 + "picture.jpg"
    for name, data in {
        "pax.tar": tar(("./a/ä.jpg", PHOTO), (long, PHOTO)),
        "gnu.tar": tar(("a/ä.jpg", PHOTO), (long, PHOTO), format=1),
        "zip.zip": zipped(("a/ä.jpg", PHOTO), (long, PHOTO)),
    }.items():
        (tmp_path / name).write_bytes(data)
        source = open_source(tmp_path / name, cache_dir=tmp_path / "cache")
        assert list(source.members) == ["a/ä.jpg", long]
        assert source.read(0) == source.read(1) == PHOTO


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40))
def test_a_safe_name_never_leaves_its_folder(text: str) -> None:
    try:
        clean = safe_name(text, "source")
    except DataError:
        return
    root = Path("/somewhere/below")
    assert (root / clean).resolve().is_relative_to(root)
    assert safe_name(clean, "source") == clean


def read_all(data: bytes) -> list[tuple[str, bytes]]:
    return [
        (m.name, b"".join(m.chunks)) for m in members(io.BytesIO(data), len(data), "fuzz", LIMITS)
    ]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_tar_gz_gives_the_right_bytes_or_an_error(data: st.DataObject) -> None:
    import gzip

    good = [("a/1.jpg", PHOTO), ("b/2.jpg", PHOTO[::-1])]
    whole = gzip.compress(tar(*good), mtime=0)
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    broken = broken[: data.draw(st.integers(len(broken) // 2, len(broken)))]
    try:
        found = read_all(bytes(broken))
    except MaeError:
        return
    assert found == good
