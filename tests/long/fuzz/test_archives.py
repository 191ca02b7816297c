"""Wide fuzzing of the archive readers and decoders: right bytes or a clear error, whatever
comes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mae_sdk.data import cache
from mae_sdk.data.archive import members
from mae_sdk.data.decode import decode
from mae_sdk.data.member import Limits
from mae_sdk.data.names import is_image
from mae_sdk.data.reading import Reading
from mae_skill.errors import DataError, MaeError
from PIL import Image

from tests.support.hostile import CORPUS, PHOTO, tar, zipped

LIMITS = Limits(max_ratio=100, ratio_from=8 << 20, max_members=5000)
GOOD = [("a/1.jpg", PHOTO), ("b/2.jpg", PHOTO[::-1]), ("b/" + "long" * 40 + ".jpg", b"")]
WIDE = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))

# Checksums cover every byte of these; a plain tar and a zip's names have none, so there only
# crashes are looked for.
CHECKED = {
    "gzip": gzip.compress(tar(*GOOD), mtime=0),
    "xz": lzma.compress(tar(*GOOD)),
    "bzip2": bz2.compress(tar(*GOOD)),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(tar(*GOOD)),
}
UNCHECKED = {"tar": tar(*GOOD), "gnu": tar(*GOOD, format=tarfile.GNU_FORMAT), "zip": zipped(*GOOD)}


def read_all(data: bytes) -> list[tuple[str, bytes]]:
    return [
        (m.name, b"".join(m.chunks)) for m in members(io.BytesIO(data), len(data), "fuzz", LIMITS)
    ]


def broken(data: st.DataObject, whole: bytes) -> bytes:
    out = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(out) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "delete"]))
        if kind == "set":
            out[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            out = out[: max(1, at)]
        elif kind == "insert":
            out[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        elif len(out) > 30:
            del out[at : at + data.draw(st.integers(1, 20))]
    return bytes(out)


@WIDE
@given(st.data(), st.sampled_from(sorted(CHECKED)))
def test_checked_streams_give_the_right_bytes_or_an_error(data: st.DataObject, kind: str) -> None:
    try:
        found = read_all(broken(data, CHECKED[kind]))
    except MaeError:
        return
    assert found == GOOD


@WIDE
@given(st.data(), st.sampled_from(sorted(UNCHECKED)))
def test_unchecked_streams_never_crash_and_never_climb(data: st.DataObject, kind: str) -> None:
    try:
        found = read_all(broken(data, UNCHECKED[kind]))
    except MaeError:
        return
    assert all(".." not in name.split("/") and not name.startswith("/") for name, _ in found)


@WIDE
@given(st.binary(max_size=3000))
def test_noise_is_no_archive(noise: bytes) -> None:
    try:
        assert all(isinstance(chunk, bytes) for _, chunk in read_all(noise))
    except MaeError:
        return


@WIDE
@given(st.data(), st.sampled_from(sorted(CORPUS)))
def test_a_mutated_hostile_archive_raises_nothing_but_our_errors(
    data: st.DataObject, case: str
) -> None:
    if "bomb" in case:
        return
    payload = CORPUS[case][1]() or b"\0"
    try:
        read_all(broken(data, payload))
    except MaeError:
        return


@WIDE
@given(st.data(), st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF"]))
def test_a_damaged_picture_decodes_or_is_a_data_error(data: st.DataObject, kind: str) -> None:
    out = io.BytesIO()
    Image.open(io.BytesIO(PHOTO)).save(out, kind)
    try:
        pixels = decode(broken(data, out.getvalue()), "x", Reading(max_pixels=1 << 20))
    except DataError:
        return
    assert pixels.ndim == 3 and pixels.shape[2] == 3


PARTS = st.one_of(
    st.sampled_from(
        [
            "a",
            "b",
            "A",
            "..",
            ".",
            "",
            "a.jpg",
            "b.JPG",
            ".hidden",
            "\\",
            "C:",
            "ä",
            "a\u0308",
            "\udce4",
            "x" * 120,
            "\n",
        ]
    ),
    st.text(min_size=1, max_size=6),
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(
    [tarfile.REGTYPE] * 8
    + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
ENTRIES = st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=700)), min_size=1, max_size=6)
PACKERS = {
    "tar": bytes,
    "tar.gz": lambda data: gzip.compress(data, 1),
    "tar.zst": zstandard.compress,
    "tar.bz2": bz2.compress,
}


def made_up(entries: list[tuple[str, bytes, bytes]], form: int) -> bytes | None:
    """What the standard library writes of these entries as a tar, or as a zip (form -1); None where
    it cannot."""
    out = io.BytesIO()
    try:
        if form == -1:
            with (
                warnings.catch_warnings(),
                zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed,
            ):
                warnings.simplefilter("ignore")  # names that are there twice
                for name, kind, data in entries:
                    if name.endswith("/") or kind not in (tarfile.REGTYPE, tarfile.SYMTYPE):
                        return None
                    info = zipfile.ZipInfo(name)
                    if info.filename != name:
                        return None
                    info.create_system, info.external_attr = (
                        3,
                        (0o100644 if kind == tarfile.REGTYPE else 0o120777) << 16,
                    )
                    packed.writestr(info, data)
            return out.getvalue()
        with tarfile.open(
            fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            for name, kind, data in entries:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.size = (
                    kind,
                    "a",
                    len(data) if kind == tarfile.REGTYPE else 0,
                )
                archive.addfile(info, io.BytesIO(data))
    except (ValueError, UnicodeError):
        return None
    return out.getvalue()


@settings(WIDE, max_examples=3000)
@given(
    ENTRIES,
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, -1]),
    st.sampled_from(sorted(PACKERS)),
)
def test_an_archive_of_any_names_gives_what_is_in_it_or_is_refused_and_nothing_lands_elsewhere(
    entries: list[tuple[str, bytes, bytes]], form: int, kind: str
) -> None:
    data = made_up(entries, form)
    if data is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = root / (f"in.{kind}" if form != -1 else "in.zip")
        path.write_bytes(PACKERS[kind](data) if form != -1 else data)
        try:
            pack = cache.pack_of(str(path), root / "cache", limits=LIMITS)
        except MaeError as error:
            assert not error.retryable
            assert [left.name for left in (root / "cache").iterdir()] == [".locks"]
        else:
            found = {name: pack.read(i) for i, name in enumerate(pack.names)}
            files = [
                (name, payload)
                for name, entry, payload in entries
                if entry == tarfile.REGTYPE and not name.endswith("/")
            ]
            # Links are further names of these; of what is no image only one of a name is needed.
            contents = {payload for _, payload in files}
            assert set(found.values()) <= contents
            # The header of a tar ends a name at its first NUL.
            written = [name.partition("\0")[0] for name, _ in files]
            clean = {"/".join(p for p in name.split("/") if p not in ("", ".")) for name in written}
            assert clean <= found.keys()
            for name, entry, _ in entries:
                if entry not in (
                    tarfile.REGTYPE,
                    tarfile.DIRTYPE,
                    tarfile.SYMTYPE,
                    tarfile.LNKTYPE,
                ):
                    assert not is_image(name)
            out = cache.extracted_folder(str(path), root / "cache")
            for name, payload in found.items():
                assert (out / name).read_bytes() in (payload, *contents)
                assert (out / name).resolve().is_relative_to(out.resolve())
        assert sorted(left.name for left in root.iterdir()) == ["cache", path.name]
