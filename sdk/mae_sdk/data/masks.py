"""Masks as they are stored: their values."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError

from mae_sdk.data.formats import read_array
from mae_sdk.data.pictures import open_picture, turned, upright
from mae_sdk.data.reading import Reading

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

ONE_CHANNEL = "one channel (or a palette) of class numbers"
"""What a mask of several channels should have been."""

_ONE_BAND = Reading(channels=1)


def read_values(data: bytes, name: str, reading: Reading = _ONE_BAND) -> np.ndarray[Any, Any]:
    """The values of a mask file as they stand, uint8 or uint16 [H, W]; of a palette image the
    indices.

    Raises:
        DataError: unreadable, a JPEG, of several channels, or of values below 0 or beyond 16 bits.
    """
    return read_mask(data, name, reading)[0]


def read_mask(
    data: bytes, name: str, reading: Reading = _ONE_BAND
) -> tuple[np.ndarray[Any, Any], int]:
    """`read_values`, and the orientation that the file states.

    Raises:
        DataError: as `read_values`.
    """
    import numpy as np

    try:
        if data[:6] == b"\x93NUMPY":
            array = read_array(data, name, _ONE_BAND)
            if array.shape[2] != 1:
                raise _channels(name, f"{array.dtype} × {array.shape[2]}")
            if array.dtype.kind == "f":
                raise _floats(name)
            return _numbers(array[..., 0], name), 1
        with open_picture(data, name, reading.max_pixels) as picture:
            if picture.format == "JPEG":
                raise DataError(
                    f"{name} is a JPEG: its compression changes class numbers",
                    got=name,
                    expected="PNG or another exact format",
                    hint="write the masks as PNG where they are made: saving a JPEG again does "
                    "not mend its numbers",
                )
            if picture.mode == "F":
                raise _floats(name)
            if picture.mode not in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
                raise _channels(name, picture.mode)
            picture.load()
            turn = turned(picture)
            values = upright(np.asarray(picture), turn if reading.exif else 1)
            values = np.ascontiguousarray(values)
    except DataError as error:
        error.message = error.message.replace("read as an image", "read as a mask")
        raise
    return _numbers(values, name), turn


def _channels(name: str, mode: str) -> DataError:
    return DataError(
        f"{name} has the channels {mode}, not class numbers",
        got=mode,
        expected=ONE_CHANNEL,
        hint="map the colors to class numbers once, and save one channel",
    )


def _floats(name: str) -> DataError:
    return DataError(
        f"{name} has floating-point values, not class numbers",
        got=name,
        expected="whole numbers of 8 or 16 bits",
        hint="save the class numbers as whole numbers",
    )


def colors_of(data: bytes) -> dict[int, str] | None:
    """Value → color, of the palette of a mask; None where it has none."""
    try:
        with _opened(data) as picture:
            palette = picture.getpalette("RGB") if picture.mode == "P" else None
    except Exception:  # what cannot be read is said by who reads the values
        return None
    if not palette:
        return None
    colors = (palette[at : at + 3] for at in range(0, len(palette), 3))
    return {number: "#" + bytes(color).hex() for number, color in enumerate(colors)}


def has_pages(data: bytes) -> bool:
    """Whether a mask file holds further pages or frames, which are not read."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"GIF8", b"RIFF", b"\x89PNG"):
        return False
    try:
        with _opened(data) as picture:
            return bool(getattr(picture, "is_animated", False))
    except Exception:  # what cannot be read is said by who reads the values
        return False


def _opened(data: bytes) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=["PNG", "GIF", "TIFF", "BMP", "WEBP"])


def _numbers(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """As uint8 or uint16.

    Raises:
        DataError: values below 0, or beyond 16 bits.
    """
    import numpy as np

    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    if values.size and (values.min() < 0 or values.max() > 65535):
        below = values.min() < 0
        what = f"the value {values.min()}, below 0" if below else "values beyond 16 bits"
        raise DataError(
            f"{name} holds {what}",
            got=name,
            expected="class numbers from 0 to 65535",
            hint="where it marks pixels that do not count, save 255 (ignore_index) in its place"
            if below
            else None,
        )

    return values.astype(np.uint16)
