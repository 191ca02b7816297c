"""Opening, turning and checking a picture with Pillow; `mae_sdk.data.decode` reads one.

Decisions: the orientation that a file states (EXIF of either byte order, or XMP) is applied
everywhere, so that the model sees what a person sees. Alpha is dropped (Pillow's
``convert("RGB")``, as torchvision does), and so are color profiles. Of animations and multi-page
files the first image counts.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from mae_skill.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

MAX_PIXELS = 89_478_485
"""Where Pillow warns of a bomb; checked on the header, before any pixel is decoded. Such an image
takes some 650 MB to decode. ``dataset.augmentation.max_pixels`` moves it."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "DIB", "JPEG2000")
"""What Pillow may take a file for, whatever its name says: never a format that starts a program
(PostScript) or follows references."""

_FRAME, _METADATA, _IMAGE, _FILL, _ALONE, _OTHER = range(1, 7)
"""Kinds of JPEG segments by their marker; 0 is one to step over."""

_KINDS = bytearray(256)
for _marker in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive: what libjpeg-turbo reads
    _KINDS[_marker] = _FRAME
for _marker in (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xD9):
    _KINDS[_marker] = _OTHER  # a frame of another kind, or the image ends
for _marker in (0x01, *range(0xD0, 0xD8)):
    _KINDS[_marker] = _ALONE
_KINDS[0xE1], _KINDS[0xDA], _KINDS[0xFF] = _METADATA, _IMAGE, _FILL
_DEFLATE = 1032  # the most that deflate expands
_HOLE = bytes(64)
_LARGE = 1 << 22
"""Pixels above which a picture is converted in strips."""

_MAX_TEXT = 64 << 20
"""Bytes of text, or of a color profile, that a PNG may carry; Pillow's bound is 1 MiB."""

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_HEADER = 1 << 18
"""Where a JPEG's metadata are looked for."""


@contextlib.contextmanager
def open_picture(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Iterator[Picture]:
    """A picture whose header was read, and whatever reading it raises as an error of the data.

    Raises:
        DataError: not an image, truncated, corrupt, empty or too large; the message begins with
            `name`.
    """
    from PIL import Image, PngImagePlugin, UnidentifiedImageError

    _quiet()
    PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, _MAX_TEXT)
    if max_pixels > (Image.MAX_IMAGE_PIXELS or max_pixels):
        Image.MAX_IMAGE_PIXELS = max_pixels  # its own bound must not be the lower one
    try:
        check_jpeg(data, name, max_pixels)
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            check_size(picture.width, picture.height, name, max_pixels)
            if picture.format == "PNG":
                _check_png(data, picture, name)
            yield picture
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name} has more than the {max_pixels} pixels allowed",
            got=name,
            hint="raise dataset.augmentation.max_pixels, or shrink the image",
        ) from error
    except Exception as error:
        # For damaged files Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error,
        # IndexError …
        detail = str(error)[:120] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            detail = "unknown format" if data else "it is empty"
        raise DataError(f"{name} cannot be read as an image: {detail}", got=name) from error


_PILLOW = re.compile(r"PIL\.")


def _quiet() -> None:
    """What Pillow warns of is judged here, and said of the picture; its own words name a line of
    Pillow."""
    if not any(item[0] == "ignore" and item[3] == _PILLOW for item in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def check_size(width: int, height: int, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture by its size.

    Raises:
        DataError: too many pixels, or none.
    """
    if width * height > max_pixels:
        raise DataError(
            f"{name} has {width} × {height} pixels, more than the {max_pixels} allowed",
            got=name,
            hint="cut it into tiles, save it smaller (training reads it at the input's size), or "
            "raise dataset.augmentation.max_pixels",
        )
    if not width or not height:
        raise DataError(f"{name} has no pixels", got=name)


def jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """``(width, height, components)`` as stored, from the frame header; ``None`` when this is not a
    JPEG of the common kinds."""
    header = jpeg_header(data)
    return None if header is None else header[:3]


def jpeg_header(data: bytes) -> tuple[int, int, int, bool] | None:
    """`jpeg_shape`, and whether a segment of metadata (APP1: EXIF, XMP) stands before the image
    data, or the segments cannot be followed so far."""
    if data[:2] != b"\xff\xd8":
        return None
    at, end = 2, len(data) - 9
    width = height = components = 0
    has_frame = may_be_turned = False
    while at < end and data[at] == 0xFF:
        kind = _KINDS[data[at + 1]]
        if kind == _FILL:
            at += 1
            continue
        if kind == _ALONE:
            may_be_turned = True
            at += 2
            continue
        if kind == _FRAME and not has_frame:
            has_frame = True
            height = (data[at + 5] << 8) | data[at + 6]
            width = (data[at + 7] << 8) | data[at + 8]
            components = data[at + 9]
        elif kind == _METADATA:
            may_be_turned = True
        elif kind == _IMAGE:
            return (width, height, components, may_be_turned) if has_frame else None
        elif kind == _OTHER and not has_frame:
            return None
        at += 2 + ((data[at + 2] << 8) | data[at + 3])
    return (width, height, components, True) if has_frame else None


def check_jpeg(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a JPEG that its header alone shows to be too large or cut, or that has a hole.

    Raises:
        DataError: it is one of these; other files pass.
    """
    shape = jpeg_shape(data)
    if shape is not None:
        check_frame(data, name, max_pixels, shape)
        check_hole(data, name, shape[2])


def check_frame(data: bytes, name: str, max_pixels: int, shape: tuple[int, int, int]) -> None:
    """Refuse a JPEG that its header shows to be too large or cut: every block of 8 × 8 pixels takes
    a bit at least, so a short file cannot hold many.

    Args:
        shape: what `jpeg_shape` says of it.

    Raises:
        DataError: it is one of these.
    """
    check_size(shape[0], shape[1], name, max_pixels)
    if -(-shape[0] // 8) * -(-shape[1] // 8) > 8 * len(data):
        raise DataError(
            f"{name} is cut: {len(data)} bytes cannot hold {shape[0]} × {shape[1]} pixels", got=name
        )


def check_hole(data: bytes, name: str, components: int) -> None:
    """Refuse a JPEG with a hole: a run of zero bytes in the image data, as broken downloads leave
    it. In a baseline JPEG, zero bits mean blocks that are over (a flat image may hold many) or, by
    other code tables, coefficients without end, which no image has.

    Args:
        components: of the frame.

    Raises:
        DataError: it has one.
    """
    at = data.find(_HOLE)
    if at >= 0:
        start = _scan(data, components)
        at = data.find(_HOLE, start) if start else -1
        if at >= 0 and data.rfind(b"\xff\xd9", start, at) < 0:
            end = at
            while end < len(data) and not data[end]:
                end += 1
            raise DataError(f"{name} has a hole: {end - at} zero bytes in the image data", got=name)


def _scan(data: bytes, components: int) -> int:
    """Where the image data of a baseline JPEG begin; 0: it is another kind, or zero bits may mean
    nothing but blocks that are over."""
    at, is_baseline, fills_blocks = 2, False, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], (data[at + 2] << 8) | data[at + 3]
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0xC0, 0xC1):
            is_baseline = True
        elif marker == 0xC4:
            table = at + 4
            while table + 17 < at + 2 + length:
                count = sum(data[table + 1 : table + 17])
                # The shortest code, all zeros, of a table for AC coefficients; 0 = end of block.
                if data[table] >> 4 and count and data[table + 17]:
                    fills_blocks = True
                table += 17 + count
        elif marker == 0xDA:
            # In one scan of all components some of the blocks are those of such a table.
            decides = is_baseline and fills_blocks and data[at + 4] == components
            return at + 2 + length if decides else 0
        at += 2 + length
    return 0


def _check_png(data: bytes, picture: Picture, name: str) -> None:
    """Refuse a PNG whose bytes cannot expand to its pixels."""
    channels = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4}.get(picture.mode, 1)
    stored = picture.width * picture.height * channels * (data[24] if len(data) > 24 else 8) // 8
    if stored > _DEFLATE * len(data):
        raise DataError(
            f"{name} is cut: {len(data)} bytes cannot hold "
            f"{picture.width} × {picture.height} pixels",
            got=name,
        )


def orientation(data: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """How a JPEG says that it is to be turned: 1 (as it is) … 8, as EXIF numbers them."""
    header = jpeg_header(data)
    if header is not None and not header[3]:
        return 1  # most files: saves searching them, and opening them a second time
    if b"Exif\0\0" not in data[:_HEADER] and b"Orientation" not in data[:_HEADER]:
        return 1
    try:
        with open_picture(data, "", max_pixels) as picture:
            return turned(picture)
    except DataError:
        return 1


def alpha_of(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """The lowest and the highest alpha of a picture, 0 … 255; None: it has none.

    What another library has read (NumPy, DICOM, some TIFF) has none that it would know of.
    """
    try:
        with open_picture(data, name, max_pixels) as picture:
            if "A" not in picture.getbands() and "transparency" not in picture.info:
                return None
            ends = picture.convert("RGBA").getchannel("A").getextrema()
    except DataError:
        return None
    return cast("tuple[int, int]", ends)


def turned(picture: Picture) -> int:
    """How an open picture says that it is to be turned; 1 where it says nothing that is sound."""
    try:
        value = int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata raise as many kinds as damaged pictures
        return 1
    return value if 1 <= value <= 8 else 1


def upright(values: np.ndarray[Any, Any], turn: int) -> np.ndarray[Any, Any]:
    """Pixels [H, W, …], turned and mirrored as EXIF's number says."""
    if turn in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if turn in (2, 3, 6, 7) else values


def to_rgb(picture: Picture) -> np.ndarray[Any, Any]:
    """A picture of 8 bits, in any Pillow mode, as uint8 RGB [H, W, 3], as it is stored."""
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return _in_strips(picture)


def _in_strips(picture: Picture) -> np.ndarray[Any, Any]:
    """``np.array(picture.convert("RGB"))`` without two more copies of a large picture."""
    import numpy as np

    if picture.width * picture.height < _LARGE:
        return np.array(picture.convert("RGB"))
    out = np.empty((picture.height, picture.width, 3), np.uint8)
    rows = max(1, _LARGE // picture.width)
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(picture.height, top + rows)))
        out[top : top + rows] = np.asarray(strip.convert("RGB"))
    return out


def bits(picture: Picture, data: bytes) -> int:
    """Bits of a channel as the file stores them; 8 where it does not say."""
    if picture.format == "PNG":
        return data[24]
    if picture.format == "TIFF":
        stored = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE) or (8,)
        return int(max(stored)) if isinstance(stored, tuple) else int(stored)
    return 16 if picture.mode.startswith("I") else 32 if picture.mode == "F" else 8
