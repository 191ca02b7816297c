"""Masks as they are stored: their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError

from mae_sdk.data.pictures import MAX_PIXELS, open_picture, turned, upright

if TYPE_CHECKING:
    import numpy as np

ONE_CHANNEL = "one channel (or a palette) of class numbers"
"""What a mask of several channels should have been."""


def read_values(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray[Any, Any]:
    """The values of a mask file as they stand, uint8 or uint16 [H, W]; of a palette image the
    indices.

    Raises:
        DataError: unreadable, a JPEG, of several channels, or of values beyond 16 bits.
    """
    import numpy as np

    try:
        with open_picture(data, name, max_pixels) as picture:
            if picture.format == "JPEG":
                raise DataError(
                    f"{name} is a JPEG: its compression changes class numbers",
                    got=name,
                    expected="PNG or another exact format",
                )
            if picture.mode not in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
                raise DataError(
                    f"{name} has the channels {picture.mode}, not class numbers",
                    got=picture.mode,
                    expected=ONE_CHANNEL,
                    hint="map the colors to class numbers once, and save one channel",
                )
            picture.load()
            values = np.ascontiguousarray(upright(np.asarray(picture), turned(picture)))
    except DataError as error:
        error.message = error.message.replace("read as an image", "read as a mask")
        raise

    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise DataError(
            f"{name} holds values beyond 16 bits", got=name, expected="class numbers below 65536"
        )

    return values.astype(np.uint16)
