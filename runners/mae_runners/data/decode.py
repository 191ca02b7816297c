"""Encoded bytes to uint8 RGB [H, W, 3].

JPEG (1 or 3 components, whole) goes through OpenCV's libjpeg-turbo, everything else through Pillow;
both give the same pixels where both can read. Decisions: EXIF orientation is applied, in training,
validation and inference alike, so that the model sees what a person sees. Alpha is dropped
(Pillow's ``convert("RGB")``, as torchvision does). 16-bit gray is scaled to 8 bits, not clipped. Of
animations and multi-page files the first image counts. A truncated file is an error, never a half
gray image.
"""

from __future__ import annotations

import io
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from mae_skill.errors import DataError
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

# Pillow's own bound, checked on the header at each call, before any pixel is decoded.
MAX_PIXELS = 178_956_970
_SOF = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what libjpeg-turbo reads
_REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}


def jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """``(width, height, components)`` as stored, from the frame header; ``None`` when this is not a
    JPEG of the common kinds."""
    if data[:2] != b"\xff\xd8":
        return None
    at, end = 2, len(data) - 9
    while at < end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        # A fill byte, or a marker without a segment.
        if marker == 0xFF or 0xD0 <= marker <= 0xD7 or marker == 0x01:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _SOF:
            return (
                (data[at + 7] << 8) | data[at + 8],
                (data[at + 5] << 8) | data[at + 6],
                data[at + 9],
            )
        # The image ends or its data begins without a frame header, or the frame is of another kind.
        if marker in (0xD9, 0xDA) or (0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return None
        at += 2 + ((data[at + 2] << 8) | data[at + 3])
    return None


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS, reduce: int = 1) -> Pixels:
    """Decode one image.

    Args:
        data: the file's bytes.
        name: what to call it in an error.
        max_pixels: reject larger images.
        reduce: 2, 4 or 8 asks the JPEG decoder for an image that many times smaller (other formats
            ignore it).

    Raises:
        DataError: not an image, truncated, corrupt, or too large.
    """
    shape = jpeg_shape(data)
    if shape is not None:
        _check_size(shape[0], shape[1], name, max_pixels)
        # A whole JPEG ends with its end marker. Without it OpenCV would return the part it got, the
        # rest gray; Pillow raises.
        if shape[2] in (1, 3) and data.endswith(b"\xff\xd9"):
            encoded = np.frombuffer(data, np.uint8)
            flag = _REDUCED.get(reduce)
            # OpenCV has no reduced RGB flag: reduced images come in BGR order.
            pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB if flag is None else flag)
            if pixels is not None:
                return cast(
                    Pixels, pixels if flag is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                )
    return _pillow(data, name, max_pixels)


def _pillow(data: bytes, name: str, max_pixels: int) -> Pixels:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            _check_size(picture.width, picture.height, name, max_pixels)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            return to_rgb(upright if upright is not None else picture)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} has more than {max_pixels} pixels", got=name) from error
    except MemoryError:
        raise
    except Exception as error:
        # For damaged files Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error,
        # IndexError …
        detail = str(error)[:120] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            detail = "unknown format"
        raise DataError(f"{name} cannot be read as an image: {detail}", got=name) from error


def to_rgb(picture: Image.Image) -> Pixels:
    """Any Pillow mode as RGB.

    Raises:
        DataError: floating-point pixels, or values outside the 16-bit range, whose scale only the
            user knows.
    """
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


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DataError(
            f"{name} has {width} × {height} pixels, more than the {max_pixels} allowed", got=name
        )
    if not width or not height:
        raise DataError(f"{name} has no pixels", got=name)
