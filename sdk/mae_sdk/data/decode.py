"""One way to read a picture, for inspect, plans, training and inference alike.

JPEG (1 or 3 components) goes through OpenCV's libjpeg-turbo where it is installed, everything else
as `mae_sdk.data.formats` says. What comes out has the wanted bands, is upright, and its values are
brought from the range that counts to 0 … 255: uint8 where the file has 8 bits and all of their
range counts, else float32, with no level lost. A file that is cut or has a hole is an error, never
a half gray image.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError
from mae_skill.spelling import TAKEN

from mae_sdk import files
from mae_sdk.data.formats import Stored, read_stored
from mae_sdk.data.pictures import (
    check_frame,
    check_hole,
    jpeg_header,
    open_picture,
    orientation,
    turned,
    upright,
)
from mae_sdk.data.reading import CHANNELS, EXIF, VALUE_RANGE, Reading

if TYPE_CHECKING:
    import numpy as np

    Pixels = np.ndarray[Any, Any]

TAIL = 1 << 20
"""Bytes at the end of a JPEG in which its end marker is looked for; some cameras add a preview."""

_END = b"\xff\xd9"
DEFAULT = Reading()
_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}


def decode(data: bytes, name: str, reading: Reading = DEFAULT, reduce: int = 1) -> Pixels:
    """One picture as a model sees it, uint8 or float32 [H, W, bands] on the scale of 0 … 255.

    Args:
        data: the file's bytes.
        name: what to call it in an error.
        reading: what the spec says of it; its range must be known.
        reduce: 2, 4 or 8 asks the JPEG decoder for an image that many times smaller (other formats
            ignore it).

    Raises:
        DataError: not an image, truncated, corrupt, too large, of other bands than wanted, or of a
            type whose range nobody stated.
    """
    return finish(load(data, name, reading, reduce), name, reading)


def load(data: bytes, name: str, reading: Reading = DEFAULT, reduce: int = 1) -> Stored:
    """One picture as its file stores it, with the wanted bands; `finish` does the rest.

    Raises:
        DataError: as `decode`, but for the range.
    """
    found = _jpeg(data, name, reading, reduce) or read_stored(data, name, reading)
    _check_pixels(found.values, name)
    found.values = with_bands(found, name, reading)
    return found


def _check_pixels(values: Pixels, name: str) -> None:
    """Refuse a picture without pixels, or of none with a number."""
    import numpy as np

    if not values.size:
        raise DataError(
            f"{name} has no pixels: {' × '.join(map(str, values.shape))}",
            got=name,
            expected="a picture of one pixel and more",
        )
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        raise DataError(
            f"{name} has no pixel with a number: all are NaN or infinite",
            got=name,
            expected="pictures of finite numbers",
            hint="take the picture out, or write it again",
        )


def decode_stored(found: Stored, name: str, reading: Reading = DEFAULT) -> Pixels:
    """`decode` of what is in memory already."""
    _check_pixels(found.values, name)
    found.values = with_bands(found, name, reading)
    return finish(found, name, reading)


def finish(found: Stored, name: str, reading: Reading) -> Pixels:
    """The pixels that a model sees; see `decode`."""
    import numpy as np

    low, high = range_of(found, name, reading)
    pixels: Pixels = found.values
    if pixels.dtype != np.uint8 or (low, high) != (0.0, 255.0):
        pixels = to_scale(pixels, low, high)
    if found.is_inverted:
        pixels = (255 - pixels).astype(pixels.dtype)
    return np.ascontiguousarray(upright(pixels, found.turn if reading.exif else 1))


def range_of(found: Stored, name: str, reading: Reading) -> tuple[float, float]:
    """The stored values that become 0 and 255.

    Raises:
        DataError: the type of the file says nothing of it.
    """
    if isinstance(reading.value_range, tuple):
        return reading.value_range
    assert reading.value_range == "dtype", "the range is to be measured first"
    if found.range is None:
        kind = "floating-point pixels" if found.values.dtype.kind == "f" else "pixels of 32 bits"
        low, high = ends(found.values)
        # Of one value alone no range can be measured.
        ways = "auto, or to [low, high]" if low < high else "[low, high]"
        unsaid = f"{name} has {kind} ({low:g} … {high:g}), whose range its type does not say"
        if reading.of_model:
            raise DataError(
                f"{unsaid}: {TAKEN} 8 or 16 bits",
                got=str(found.values.dtype),
                expected="8 or 16 bits",
                hint="save the picture so, with black and white at the ends of that type",
            )
        raise DataError(
            f"{unsaid}: set {VALUE_RANGE} to {ways}",
            got=str(found.values.dtype),
            expected="8 or 16 bits, or a stated range",
            hint=f"{VALUE_RANGE}=[0,1] says that 0 is black and 1 is white",
        )
    return found.range


def to_scale(values: Pixels, low: float, high: float) -> Pixels:
    """Values of any type as float32 with ``low … high`` at 0 … 255; beyond is clipped, NaN is
    0."""
    import numpy as np

    wide: Any = np.float64 if values.dtype.itemsize > 2 else np.float32
    scaled: Pixels = (values.astype(wide) - wide(low)) * wide(255.0 / (high - low))
    if values.dtype.kind == "f":
        scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    clipped: Pixels = np.clip(scaled, 0.0, 255.0).astype(np.float32)
    return clipped


def ends(values: Pixels) -> tuple[float, float]:
    """The smallest and the largest value that is a number."""
    import numpy as np

    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def with_bands(found: Stored, name: str, reading: Reading) -> Pixels:
    """The wanted bands of a picture, [H, W, `Reading.bands`].

    Without a number of channels everything becomes RGB: gray is repeated, alpha dropped. One
    channel takes gray, and the luma of color. Any other number must be the file's own.

    Raises:
        DataError: the file has other bands.
    """
    import numpy as np

    values, wanted = found.values, reading.bands
    bands = values.shape[2]
    if wanted in (1, 3) and found.has_alpha:
        values, bands = values[..., :-1], bands - 1
    if bands == wanted:
        return values
    if wanted == 3 and bands == 1:
        return np.repeat(values, 3, axis=2)
    if wanted == 1 and bands == 3 and found.is_color:
        return luma(values)
    if reading.of_model:
        raise DataError(
            f"{name} has {bands} bands ({found.format} {found.mode}): {TAKEN} {wanted}",
            got=bands,
            expected=f"{wanted} bands" + ("" if reading.channels else " (RGB), or gray"),
            hint="save the picture so",
        )
    measure = f" and {VALUE_RANGE} to auto" if _is_open(found, reading) else ""
    raise DataError(
        f"{name} has {bands} bands ({found.format} {found.mode}), not {wanted}: set {CHANNELS} to "
        f"{bands}{measure}, or save the picture with {wanted}",
        got=bands,
        expected=f"{wanted} bands" + ("" if reading.channels else " (RGB), or gray"),
    )


def _is_open(found: Stored, reading: Reading) -> bool:
    """Whether neither the file nor the spec says the range of its values."""
    return found.range is None and reading.value_range == "dtype"


def luma(values: Pixels) -> Pixels:
    """Gray of RGB [H, W, 3] → [H, W, 1], in the same type (ITU-R 601, as Pillow rounds it)."""
    import numpy as np

    if values.dtype.kind == "f":
        weighted: Pixels = values @ np.array([0.299, 0.587, 0.114], values.dtype)
        return weighted[..., None]
    red, green, blue = (values[..., i].astype(np.int64) for i in range(3))
    gray = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return gray.astype(values.dtype)[..., None]


def as_shown(pixels: Any) -> Any:
    """Pixels [H, W, C] on the scale of 0 … 255 as uint8 RGB: of more than three channels the first
    three, of two the first."""
    import numpy as np

    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels).astype(np.uint8)
    if pixels.shape[2] < 3:
        return np.repeat(pixels[..., :1], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


# ---- JPEG ---------------------------------------------------------------------------------------


def _jpeg(data: bytes, name: str, reading: Reading, reduce: int) -> Stored | None:
    """A JPEG of the common kinds; None: it is none, or OpenCV is not here or refuses it."""
    header = jpeg_header(data)
    if header is None:
        return None
    width, height, components, may_be_turned = header
    check_frame(data, name, reading.max_pixels, header[:3])
    # Without an end marker OpenCV would return the part it got, the rest gray; Pillow raises.
    if not data.endswith(_END) and data.rfind(_END, max(0, len(data) - TAIL)) < 0:
        return None
    try:
        import cv2
    except ImportError:
        return None
    if components not in (1, 3):  # Pillow reads its pixels; libjpeg's complaints are the same
        _imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8, name, components)
        return None
    gray = components == 1 and reading.channels == 1
    color = None
    if reduce > 1:
        color = {
            8: cv2.IMREAD_REDUCED_COLOR_8,
            4: cv2.IMREAD_REDUCED_COLOR_4,
            2: cv2.IMREAD_REDUCED_COLOR_2,
        }.get(reduce)
    # OpenCV turns by EXIF of one byte order alone, so it is told not to.
    flags = cv2.IMREAD_COLOR_RGB if color is None else color
    if gray:
        flags = cv2.IMREAD_GRAYSCALE
    pixels = _imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION, name, components)
    if pixels is None:
        return None
    if gray:
        pixels = pixels[..., None]
    elif color is not None:
        # OpenCV has no reduced RGB flag: reduced images come in BGR order.
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return Stored(
        pixels,
        "JPEG",
        _JPEG_MODES[components],
        8,
        (0.0, 255.0),
        width,
        height,
        orientation(data, reading.max_pixels) if may_be_turned else 1,
        is_color=not gray,
    )


def _imdecode(data: bytes, flags: int, name: str, components: int) -> Any:
    """`cv2.imdecode` of a JPEG; None where it cannot.

    libjpeg fills what is missing or damaged with gray and only says so on standard error, which
    neither OpenCV nor Pillow passes on: it is listened to here.

    Raises:
        DataError: libjpeg found the image data damaged, or they have a hole.
    """
    import cv2
    import numpy as np

    encoded = np.frombuffer(data, np.uint8)
    pixels, said = _listening.during(lambda: cv2.imdecode(encoded, flags))
    check_hole(data, name, components)  # after the decoder, which leaves the bytes in the cache
    for line in said.splitlines():
        found = _COMPLAINT.match(line)
        # Bytes between a header's segments harm no pixel.
        if found and (found[1] is None or int(found[1], 16) in _IN_THE_IMAGE):
            raise DataError(f"{name} is damaged inside: {line.partition(': ')[2]}", got=name)
    return pixels


_COMPLAINT = re.compile(
    r"Corrupt JPEG data: (?:\d+ extraneous bytes before marker (0x[0-9a-f]{2})|.)"
)
_IN_THE_IMAGE = frozenset([0xC4, *range(0xD0, 0xD8), 0xD9, 0xDA])


class _Listening:
    """Standard error of this process, into a file of its own for the time of one decoding."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = self._real = -1

    def forked(self) -> None:
        """In a child: it shares the parent's file, and its position, and whatever a thread of the
        parent had in hand."""
        if self._real >= 0:
            os.dup2(self._real, 2)
            os.close(self._real)
        self._lock = threading.Lock()
        self._file = self._real = -1

    def during(self, call: Callable[[], Any]) -> tuple[Any, str]:
        """What ``call`` returns, and libjpeg's complaints in the time that it took."""
        with self._lock:
            try:
                if self._file < 0:
                    with tempfile.TemporaryFile() as made:
                        self._file = os.dup(made.fileno())
                self._real = real = os.dup(2)
                os.dup2(self._file, 2)
            except OSError:  # no standard error, or no descriptor left
                return call(), ""
            try:
                result = call()
            finally:
                os.dup2(real, 2)
                # Only now, that no other thread adds to it.
                said = self._heard() if os.lseek(self._file, 0, os.SEEK_CUR) else ""
                self._real = -1
                os.close(real)
        return result, said

    def _heard(self) -> str:
        """What was written; all but libjpeg's complaints goes on to where it belongs."""
        said = files.pread(self._file, 1 << 16, 0)
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        lines = said.splitlines(keepends=True)
        others = b"".join(line for line in lines if not line.startswith(b"Corrupt JPEG data"))
        if others:
            os.write(2, others)
        return said.decode(errors="replace")


_listening = _Listening()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_listening.forked)


def check_turns(
    size: tuple[int, int], turn: int, name: str, mask: tuple[tuple[int, int], int], reading: Reading
) -> None:
    """Refuse a picture that its file turns with a mask that is not turned with it.

    Args:
        size: the picture's height and width as stored.
        turn: the orientation that its file states.
        mask: the mask's height and width upright, and the orientation that its file states.

    Raises:
        DataError: they are turned differently, or it cannot be told.
    """
    shape, other = mask
    if not reading.exif or turn == other:
        return
    shown = size[::-1] if turn > 4 else size
    if size != shown and shape == shown:
        return  # drawn on the picture as it is shown
    raise DataError(
        f"{name} is turned by its EXIF orientation ({turn}), its mask ({other}) is not alike: set "
        f"{EXIF}=false if the mask fits the stored pixels, else save the picture upright",
        got=turn,
        expected="an image and a mask that are turned alike",
    )


def read_header(data: bytes, name: str, reading: Reading) -> tuple[tuple[int, int], int]:
    """(height, width) as stored, and the orientation that the file states."""
    if data[:2] in (b"II", b"MM", b"\x93N") or data[128:132] == b"DICM":
        found = read_stored(data, name, reading)
        return (found.height, found.width), found.turn
    with open_picture(data, name, reading.max_pixels) as picture:
        return (picture.height, picture.width), turned(picture)
