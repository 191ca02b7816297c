"""Pictures that are cut, have holes, or ask for more than they are: refused, cheaply, with the
reason."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from mae_sdk.data import inspect_source
from mae_sdk.data.decode import decode
from mae_sdk.data.pictures import MAX_PIXELS, open_picture
from mae_sdk.data.reading import Reading
from mae_skill.errors import DataError
from PIL import Image, PngImagePlugin

from tests.support.images import jpeg, photo

WHOLE = jpeg(0, 500, 375)


def saved(picture: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", **options)
    return out.getvalue()


def header_of(width: int, height: int) -> bytes:
    """A JPEG of some 600 bytes whose frame header claims this size."""
    data = bytearray(saved(Image.new("L", (8, 8))))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


KINDS = {
    "baseline": WHOLE,
    "progressive": saved(photo(0, 500, 375), progressive=True),
    "gray": saved(photo(0, 500, 375).convert("L")),
    "cmyk": saved(photo(0, 500, 375).convert("CMYK")),
    "restarts": saved(photo(0, 500, 375), restart_marker_rows=2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_cut_jpeg_with_an_end_marker_is_refused(kind: str, share: float) -> None:
    data = KINDS[kind]
    decode(data, "whole")
    with pytest.raises(DataError, match=r"^photo is damaged inside"):
        decode(data[: int(len(data) * share)] + b"\xff\xd9", "photo")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filling", ["zeros", "noise", "ones", "gone"])
def test_a_jpeg_with_a_hole_is_refused(kind: str, filling: str) -> None:
    data, size = KINDS[kind], 3000
    at = len(data) // 2
    hole = {
        "zeros": bytes(size),
        "noise": random.Random(1).randbytes(size),
        "ones": b"\x55" * size,
        "gone": b"",
    }[filling]
    with pytest.raises(DataError, match=r"^photo "):
        decode(data[:at] + hole + data[at + size :], "photo")


def test_a_jpeg_that_ends_in_zeros_is_refused() -> None:
    """A download that stopped, into a file that was made large enough before."""
    with pytest.raises(DataError, match=r"hole: \d+ zero bytes"):
        decode(WHOLE[:9000] + bytes(len(WHOLE) - 9000), "photo")
    with (
        pytest.raises(DataError, match=r"hole: \d+ zero bytes"),
        open_picture(WHOLE[:9000] + bytes(len(WHOLE) - 9002) + b"\xff\xd9", "photo"),
    ):
        pass


def test_sound_jpegs_of_every_kind_are_read() -> None:
    black = Image.new("RGB", (400, 400))
    for data in (
        *KINDS.values(),
        saved(black, optimize=True),
        saved(black),
        saved(Image.new("RGB", (400, 400), "white"), optimize=True, progressive=True),
        WHOLE + bytes(300),  # padding behind the end
        WHOLE + b"\r\n",
        saved(photo(0, 99, 99), exif=b"Exif\0\0" + bytes(500)),
    ):
        want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(decode(data, "x"), want)


def test_what_libjpeg_says_of_a_header_is_no_damage_and_other_output_is_not_lost(
    capfd: pytest.CaptureFixture[str],
) -> None:
    at = WHOLE.index(b"\xff\xdb")
    decode(WHOLE[:at] + b"abc" + WHOLE[at:], "x")
    decode(WHOLE, "x")
    with pytest.raises(DataError):
        decode(WHOLE[:9000] + b"\xff\xd9", "x")
    print("still here", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "still here\n"


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">L", zlib.crc32(kind + body))
        return struct.pack(">L", len(body)) + kind + body + crc

    head = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    ends = chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + ends


BOMBS = {
    "a JPEG header of 13376 x 13376": header_of(13376, 13376),
    "a JPEG header of 9000 x 9000": header_of(9000, 9000),
    "a PNG header of 9000 x 9000": png(9000, 9000, zlib.compress(b"")),
    "a PNG of 13000 x 13000": png(13000, 13000, b""),
    "a GIF header": b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20),
    "a BMP header": b"BM" + bytes(12) + struct.pack("<LLLHH", 40, 30000, 30000, 1, 24) + bytes(24),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_header_that_promises_too_much_costs_nothing(bomb: str, tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(DataError, match=r"^photo "):
        decode(BOMBS[bomb], "photo")
    suffix = bomb.split()[1].lower()
    (tmp_path / f"bomb.{suffix}").write_bytes(BOMBS[bomb])
    (tmp_path / "sound.jpg").write_bytes(WHOLE)
    report = inspect_source(tmp_path, contact_sheet=tmp_path / "out" / "sheet.png")
    assert report["images"] == 2
    assert report["unreadable"]["count"] == report["images"] - 1
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


def test_the_error_of_a_large_picture_names_the_field_that_moves_the_limit() -> None:
    with pytest.raises(DataError, match="allowed") as caught:
        decode(WHOLE, "photo", Reading(max_pixels=1000))
    assert "dataset.augmentation.max_pixels" in str(caught.value)
    assert MAX_PIXELS == 89_478_485


def test_postscript_under_another_name_starts_no_program(tmp_path: Path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(script)
    (tmp_path / "b.jpg").write_bytes(WHOLE)
    code = (
        "import subprocess, sys\n"
        "def never(*a, **k): print('STARTED', a); raise SystemExit(3)\n"
        "from mae_sdk.data import inspect_source\n"
        "from mae_sdk.data.decode import decode\n"
        "from mae_skill.errors import DataError\n"
        "subprocess.Popen = subprocess.check_call = never\n"
        f"print(inspect_source({str(tmp_path)!r})['unreadable']['count'])\n"
        "try: decode(open(sys.argv[1], 'rb').read(), 'a.png')\n"
        "except DataError as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["1", "a.png cannot be read as an image: unknown format"]


@pytest.mark.parametrize("where", ["text", "compressed text", "profile"])
def test_a_png_with_much_text_or_a_large_profile_is_read(where: str) -> None:
    out, much = io.BytesIO(), "much text " * 200_000
    info = PngImagePlugin.PngInfo()
    if where != "profile":
        info.add_text("Comment", much, zip=where == "compressed text")
    profile = much.encode() if where == "profile" else None
    photo(0, 50, 40).save(out, "PNG", pnginfo=info, icc_profile=profile)
    assert np.array_equal(decode(out.getvalue(), "x"), np.asarray(photo(0, 50, 40)))
