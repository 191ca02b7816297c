"""One way to open, turn and read a picture with Pillow: for inspect, plans, training and inference.

Decisions: the orientation that a file states (EXIF of either byte order, or XMP) is applied
everywhere, so that the model sees what a person sees. Alpha is dropped (Pillow's
``convert("RGB")``, as torchvision does). 16-bit gray is scaled to 8 bits, not clipped. Of
animations and multi-page files the first image counts.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

MAX_PIXELS = 178_956_970
"""Pillow's own bound, checked on the header at each call, before any pixel is decoded."""

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

    PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, _MAX_TEXT)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            check_size(picture.width, picture.height, name, max_pixels)
            yield picture
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} has more than {max_pixels} pixels", got=name) from error
    except Exception as error:
        # For damaged files Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error,
        # IndexError …
        detail = str(error)[:120] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            detail = "unknown format" if data else "it is empty"
        raise DataError(f"{name} cannot be read as an image: {detail}", got=name) from error


def check_size(width: int, height: int, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture by its size.

    Raises:
        DataError: too many pixels, or none.
    """
    if width * height > max_pixels:
        raise DataError(
            f"{name} has {width} × {height} pixels, more than the {max_pixels} allowed",
            got=name,
            hint="cut it into tiles, or save it smaller: training reads it at the input's size",
        )
    if not width or not height:
        raise DataError(f"{name} has no pixels", got=name)


def orientation(data: bytes) -> int:
    """How a JPEG says that it is to be turned: 1 (as it is) … 8, as EXIF numbers them."""
    if b"Exif\0\0" not in data[:_HEADER] and b"Orientation" not in data[:_HEADER]:
        return 1  # most files: saves opening them a second time
    try:
        with open_picture(data, "") as picture:
            return turned(picture)
    except DataError:
        return 1


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


def read_rgb(picture: Picture) -> np.ndarray[Any, Any]:
    """An open picture as uint8 RGB [H, W, 3], upright.

    Raises:
        DataError: as `to_rgb`.
    """
    import numpy as np

    picture.load()
    return np.ascontiguousarray(upright(to_rgb(picture), turned(picture)))


def to_rgb(picture: Picture) -> np.ndarray[Any, Any]:
    """Any Pillow mode as uint8 RGB [H, W, 3], as it is stored.

    Raises:
        DataError: floating-point pixels, or values outside the 16-bit range, whose scale only the
            user knows.
    """
    import numpy as np

    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise DataError(
                "pixels of 32 bits: convert them to 8 or 16 bits first", got=picture.mode
            )
        gray = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if picture.mode == "F":
        raise DataError(
            "floating-point pixels: convert them to 8 or 16 bits first", got=picture.mode
        )
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"))


def bits(picture: Picture, data: bytes) -> int:
    """Bits of a channel as the file stores them; 8 where it does not say."""
    if picture.format == "PNG":
        return data[24]
    if picture.format == "TIFF":
        stored = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE) or (8,)
        return int(max(stored)) if isinstance(stored, tuple) else int(stored)
    return 16 if picture.mode.startswith("I") else 32 if picture.mode == "F" else 8
