"""Encoded bytes to uint8 RGB [H, W, 3].

JPEG (1 or 3 components) goes through OpenCV's libjpeg-turbo, everything else through Pillow
(`mae_sdk.data.pictures`, which says what is decided); both give the same pixels where both can
read, and both are turned by the same function. A file that is cut or has a hole is an error,
never a half gray image.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from mae_sdk.data.pictures import (
    MAX_PIXELS,
    check_jpeg,
    jpeg_shape,
    open_picture,
    orientation,
    read_rgb,
    upright,
)
from mae_skill.errors import DataError

__all__ = ["MAX_PIXELS", "Pixels", "decode", "jpeg_shape"]

Pixels = npt.NDArray[np.uint8]

TAIL = 1 << 20
"""Bytes at the end of a JPEG in which its end marker is looked for; some cameras add a preview."""

_REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}


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
        check_jpeg(data, name, max_pixels)
        # Without an end marker OpenCV would return the part it got, the rest gray; Pillow raises.
        if b"\xff\xd9" in data[-TAIL:]:
            encoded = np.frombuffer(data, np.uint8)
            if shape[2] not in (1, 3):  # Pillow reads its pixels; libjpeg's complaints are the same
                _imdecode(encoded, cv2.IMREAD_REDUCED_GRAYSCALE_8, name)
                return _pillow(data, name, max_pixels)
            flag = _REDUCED.get(reduce)
            # OpenCV turns by EXIF of one byte order alone, so it is told not to.
            flags = cv2.IMREAD_COLOR_RGB if flag is None else flag
            pixels = _imdecode(encoded, flags | cv2.IMREAD_IGNORE_ORIENTATION, name)
            if pixels is not None:
                # OpenCV has no reduced RGB flag: reduced images come in BGR order.
                rgb = pixels if flag is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                return cast(Pixels, np.ascontiguousarray(upright(rgb, orientation(data))))

    return _pillow(data, name, max_pixels)


def _pillow(data: bytes, name: str, max_pixels: int) -> Pixels:
    with open_picture(data, name, max_pixels) as picture:
        return cast(Pixels, read_rgb(picture))


def _imdecode(encoded: npt.NDArray[np.uint8], flags: int, name: str) -> Pixels | None:
    """`cv2.imdecode`; None where it cannot.

    libjpeg fills what is missing or damaged with gray and only says so on standard error, which
    neither OpenCV nor Pillow passes on: it is listened to here.

    Raises:
        DataError: libjpeg found the image data damaged.
    """
    with _listening:
        pixels = cv2.imdecode(encoded, flags)
        said = _listening.heard()
    for line in said.splitlines():
        found = _COMPLAINT.match(line)
        # Bytes between a header's segments harm no pixel.
        if found and (found[1] is None or int(found[1], 16) in _IN_THE_IMAGE):
            raise DataError(f"{name} is damaged inside: {line.partition(': ')[2]}", got=name)
    return cast("Pixels | None", pixels)


_COMPLAINT = re.compile(
    r"Corrupt JPEG data: (?:\d+ extraneous bytes before marker (0x[0-9a-f]{2})|.)"
)
_IN_THE_IMAGE = frozenset([0xC4, *range(0xD0, 0xD8), 0xD9, 0xDA])


class _Listening:
    """Standard error of this process, into a file of its own for the time of one decoding."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = self._file = -1
        self._real = -1

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if self._process != os.getpid():  # a fork shares the file and its position
                with tempfile.TemporaryFile() as made:
                    self._file = os.dup(made.fileno())
                self._process = os.getpid()
            self._real = os.dup(2)
            os.dup2(self._file, 2)
        except OSError:  # no standard error, or no descriptor left
            self._real = -1

    def heard(self) -> str:
        """What was written so far; all but libjpeg's complaints goes on to where it belongs."""
        if self._real < 0 or not os.fstat(self._file).st_size:
            return ""
        said = os.pread(self._file, 1 << 16, 0)
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        lines = said.splitlines(keepends=True)
        others = b"".join(line for line in lines if not line.startswith(b"Corrupt JPEG data"))
        if others:
            os.write(self._real, others)
        return said.decode(errors="replace")

    def __exit__(self, *exc: object) -> None:
        if self._real >= 0:
            os.dup2(self._real, 2)
            os.close(self._real)
            self._real = -1
        self._lock.release()


_listening = _Listening()
