"""Peak memory above idle while an archive becomes readable: at most 200 MB, for 50 MB and for 600
MB, for few files and for a million."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support.s3 import S3Server

ROOT = Path(__file__).parents[3]
SIZES = {"50 MB": 50, "600 MB": 600}
KINDS = ["tar.gz", "tar.zst", "tar.xz", "zip", "tar"]
BOUND = 200.0
# The whole way to the first picture, in a process of its own; what the imports cost is idle.
FETCH = """
import sys
import isal.igzip, lzma, numpy, s3fs, zipfile, zstandard
from benchmarks.data import PeakMemory
from mae_sdk.data import cache, fetch, open_source, pack
with PeakMemory() as peak:
    source = open_source(sys.argv[1], cache_dir=sys.argv[2])
    size = len(source.read(len(source) // 2))
print(len(source), size, round(peak.above, 1))
"""


def write_xz(path: Path, megabytes: int) -> int:
    """As dear as xz gets to read, a full dictionary of 64 MiB, then one block again and again as a
    stream of its own: random bytes take the compressor seconds a megabyte."""

    def stream(data: bytes) -> bytes:
        packer = lzma.LZMACompressor(
            lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 << 20}]
        )
        return packer.compress(data) + packer.flush()

    first, block = os.urandom(min(megabytes // 2, 70) << 20), os.urandom(1 << 18)
    packed, count = stream(block), 1
    with path.open("wb") as raw:
        large = tarfile.TarInfo("a/large.jpg")
        large.size = len(first)
        raw.write(stream(large.tobuf() + first))
        while raw.tell() < megabytes * 1_040_000:
            info = tarfile.TarInfo(f"b/{count:06d}.jpg")
            info.size = len(block)
            raw.write(stream(info.tobuf()) + packed)
            count += 1
        raw.write(stream(bytes(1024)))
    return count


def payloads(megabytes: int) -> Iterator[tuple[str, bytes]]:
    """Random bytes, as pictures look to a compressor; one large file among the small ones."""
    yield "a/large.jpg", os.urandom((megabytes // 3) << 20)
    for i in range((megabytes - megabytes // 3) * 4):
        yield f"b/{i:06d}.jpg", os.urandom(1 << 18)


def write(path: Path, kind: str, megabytes: int) -> int:
    """An archive of that many MB; returns the number of its files."""
    if kind == "tar.xz":
        return write_xz(path, megabytes)
    count = 0
    with path.open("wb") as raw:
        if kind == "zip":
            with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name, data in payloads(megabytes):
                    archive.writestr(name, data)
                    count += 1
            return count
        stream: Any = raw
        if kind == "tar.gz":
            stream = gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1)
        elif kind == "tar.zst":  # the largest window that is read
            parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
            stream = zstandard.ZstdCompressor(compression_params=parameters).stream_writer(
                raw, closefd=False
            )
        with tarfile.open(fileobj=stream, mode="w|") as tar:
            for name, data in payloads(megabytes):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                count += 1
        if stream is not raw:
            stream.close()
    return count


def fetch(url: str, cache: Path, env: dict[str, str]) -> tuple[int, int, float]:
    done = subprocess.run(
        [sys.executable, "-c", FETCH, url, str(cache)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    count, size, above = done.stdout.split()[-3:]
    return int(count), int(size), float(above)


@pytest.mark.parametrize("kind", KINDS)
def test_peak_memory_is_bounded_whatever_the_size(kind: str, tmp_path: Path) -> None:
    above = {}
    with S3Server(tmp_path / "s3", etag=False) as server:
        bucket = server.bucket("memory")
        for name, megabytes in SIZES.items():
            path = bucket / f"{megabytes}.{kind}"
            count = write(path, kind, megabytes)
            assert path.stat().st_size > megabytes * 1_000_000
            for where, url in (("s3", f"s3://memory/{path.name}"), ("local", str(path))):
                found, size, above[name, where] = fetch(url, tmp_path / "cache", server.env)
                assert (found, size) == (count, 1 << 18)
                shutil.rmtree(tmp_path / "cache")
            path.unlink()
    print(f"{kind}: MB above idle {above}")
    assert max(above.values()) <= BOUND


MANY = """
import hashlib, sys
import numpy
from pathlib import Path
from benchmarks.data import PeakMemory
from mae_sdk.data.member import Member
from mae_sdk.data.pack import Pack, write_pack
def members(count):
    for i in range(count):  # in no order, as archives are
        number = i * 7_368_787 % count
        folder = f"n{number % 1000:08d}"
        content = iter((number.to_bytes(8, "big"),))
        yield Member(f"train/{folder}/{folder}_{number:08d}.JPEG", 8, content)
count, folder = int(sys.argv[1]), Path(sys.argv[2])
with PeakMemory() as peak:
    write_pack(folder, members(count), "many", {})
    pack = Pack(folder)
    pack.verify()
for i in (0, count // 2, count - 1):
    assert int.from_bytes(pack.read(i), "big") == int(pack.names[i][-13:-5])
assert list(pack.names[:3]) == sorted(pack.names[:3]) and len(pack) == count
print(round(peak.above, 1))
"""


def test_a_million_files_cost_no_more_than_a_few(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY, "1300000", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    above = float(done.stdout.split()[-1])
    print(f"1.3 million files: {above} MB above idle")
    assert above <= BOUND
