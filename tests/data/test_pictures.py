"""One way to open and turn a picture, whoever reads it."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from mae_sdk.data.decode import decode
from mae_sdk.data.pictures import bits, open_picture
from mae_sdk.data.survey import glance
from mae_skill.errors import DataError
from PIL import Image, ImageOps, PngImagePlugin

from tests.support.images import photo

PICTURE = photo(3, 40, 24)


def exif(order: str, turn: int) -> bytes:
    mark, sign = (b"II", "<") if order == "little" else (b"MM", ">")
    entry = struct.pack(f"{sign}HHIHH", 0x0112, 3, 1, turn, 0)
    head = mark + struct.pack(f"{sign}HI", 42, 8) + struct.pack(f"{sign}H", 1)
    return b"Exif\0\0" + head + entry + struct.pack(f"{sign}I", 0)


def xmp(turn: int, *, attribute: bool) -> bytes:
    text = f'tiff:Orientation="{turn}"/>' if attribute else f"><tiff:Orientation>{turn}<"
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {text}</x:xmpmeta>'
    ).encode()


def stored(kind: str, how: str, turn: int) -> bytes:
    out = io.BytesIO()
    options: dict[str, Any] = {}
    if how in ("little", "big"):
        options["exif"] = exif(how, turn)
    elif kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp(turn, attribute=how == "xmp attribute").decode())
        options["pnginfo"] = text
    else:
        options["xmp"] = xmp(turn, attribute=how == "xmp attribute")
    quality = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    PICTURE.save(out, kind, **options, **quality)
    return out.getvalue()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("how", ["little", "big", "xmp attribute", "xmp element"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_as_its_file_says(kind: str, how: str, turn: int) -> None:
    data = stored(kind, how, turn)
    trained = decode(data, "a")

    with Image.open(io.BytesIO(stored(kind, "little", 1))) as plain:
        plain.load()
        plain.getexif()[0x0112] = turn
        wanted = np.asarray(ImageOps.exif_transpose(plain).convert("RGB")).astype(int)
    assert trained.shape == wanted.shape
    assert abs(trained.astype(int) - wanted).max() <= 1


def test_a_damaged_orientation_turns_nothing() -> None:
    for damage in (b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", exif("big", 77)):
        out = io.BytesIO()
        PICTURE.save(out, "JPEG", exif=damage)
        assert decode(out.getvalue(), "a").shape == (24, 40, 3)


def test_a_png_with_more_than_a_megabyte_of_text_or_profile_is_read() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "long " * 400_000, zip=True)
    out = io.BytesIO()
    PICTURE.save(out, "PNG", pnginfo=text, icc_profile=b"\0" * 3_000_000)
    assert np.array_equal(decode(out.getvalue(), "a"), np.asarray(PICTURE))


def deep_png() -> bytes:
    """16-bit RGB, which Pillow does not write."""
    rows = b"".join(b"\0" + struct.pack(">6H", *([4095, 100, 5] * 2)) for _ in range(2))

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    parts = [
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_the_depth_of_a_file_is_known() -> None:
    def saved(picture: Image.Image, kind: str) -> bytes:
        out = io.BytesIO()
        picture.save(out, kind)
        return out.getvalue()

    cases = [
        (saved(PICTURE, "PNG"), 8),
        (saved(PICTURE, "JPEG"), 8),
        (saved(PICTURE, "TIFF"), 8),
        (saved(Image.fromarray(np.ones((2, 2), np.uint16)), "PNG"), 16),
        (saved(Image.fromarray(np.ones((2, 2), np.uint16)), "TIFF"), 16),
        (saved(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF"), 32),
        (saved(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), 32),
        (deep_png(), 16),
    ]
    for data, depth in cases:
        with open_picture(data, "a") as picture:
            assert bits(picture, data) == depth


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"no picture", "unknown format"),
        (stored("PNG", "little", 1)[:-40], "cannot be read as an image"),
    ],
)
def test_an_unreadable_picture_has_a_reason(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode(data, "set/a.png")


def test_a_fine_pattern_and_a_tiny_picture_are_not_of_one_color() -> None:
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    tiny = np.array([[0, 255], [255, 0]])
    for pixels in (checks, tiny):
        out = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG", quality=95)
        assert not glance(out.getvalue(), "a").is_constant
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(out, "JPEG")
    assert glance(out.getvalue(), "a").is_constant


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_glance_sees_the_largest_value_of_either_byte_order(order: str) -> None:
    values = np.array([[0, 4095], [7, 9]], np.uint16)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    tags = [(256, 2), (257, 2), (258, 16), (259, 1), (262, 1), (273, 8), (278, 2), (279, 8)]
    body = struct.pack(f"{order}H", len(tags))
    for tag, value in tags:
        body += struct.pack(f"{order}HHII", tag, 4, 1, value)
    pixels = values.astype(f"{order}u2").tobytes()
    data = head + struct.pack(f"{order}I", 16) + pixels + body + b"\0\0\0\0"
    seen = glance(data, "a")
    assert (seen.bits, seen.values.max(), seen.range) == (16, 4095, (0.0, 65535.0))
