"""Encoded bytes to uint8 RGB [H, W, 3].

JPEG (1 or 3 components, whole) goes through OpenCV's libjpeg-turbo, everything else through Pillow
(`mae_sdk.data.pictures`, which says what is decided); both give the same pixels where both can
read, and both are turned by the same function. A truncated file is an error, never a half gray
image.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from mae_sdk.data.pictures import (
    MAX_PIXELS,
    check_size,
    open_picture,
    orientation,
    read_rgb,
    upright,
)

Pixels = npt.NDArray[np.uint8]

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
        check_size(shape[0], shape[1], name, max_pixels)
        # A whole JPEG ends with its end marker. Without it OpenCV would return the part it got, the
        # rest gray; Pillow raises.
        if shape[2] in (1, 3) and data.endswith(b"\xff\xd9"):
            encoded = np.frombuffer(data, np.uint8)
            flag = _REDUCED.get(reduce)
            # OpenCV turns by EXIF of one byte order alone, so it is told not to.
            flags = cv2.IMREAD_COLOR_RGB if flag is None else flag
            pixels = cv2.imdecode(encoded, flags | cv2.IMREAD_IGNORE_ORIENTATION)
            if pixels is not None:
                # OpenCV has no reduced RGB flag: reduced images come in BGR order.
                rgb = pixels if flag is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                return cast(Pixels, np.ascontiguousarray(upright(rgb, orientation(data))))

    with open_picture(data, name, max_pixels) as picture:
        return cast(Pixels, read_rgb(picture))
