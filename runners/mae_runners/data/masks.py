"""Encoded masks to class numbers: what a value means, and what is no mask."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from mae_skill.errors import DataError
from PIL import Image, ImageOps

from mae_runners.data.decode import MAX_PIXELS

Mask = npt.NDArray[np.uint8] | npt.NDArray[np.int32]
_OUTSIDE = -1


@dataclass(frozen=True)
class MaskReader:
    """Bytes → class numbers [H, W], 0 … ``num_classes`` - 1 and ``ignore_index``.

    Attributes:
        num_classes: how many classes.
        ignore_index: value of pixels that do not count, in the file and in what comes out.
        reduce_zero_label: 0 means unlabelled and becomes ``ignore_index``; v ≥ 1 is class v - 1. Otherwise v is class v.
    """

    num_classes: int
    ignore_index: int = 255
    reduce_zero_label: bool = True

    @property
    def dtype(self) -> type[np.uint8] | type[np.int32]:
        """uint8 where every value fits."""
        return np.uint8 if max(self.num_classes - 1, self.ignore_index) <= 255 else np.int32

    def __call__(self, data: bytes, name: str) -> tuple[Mask, int | None]:
        """One mask, and the first value in it that is no class (None: there is none; such pixels come out as ``ignore_index``).

        Raises:
            DataError: unreadable, a JPEG, of several channels, or of values beyond 16 bits.
        """
        values = read_values(data, name)
        numbers = self._table[values]
        outside = numbers == _OUTSIDE
        strange = int(values[outside].flat[0]) if outside.any() else None
        numbers[outside] = self.ignore_index
        return numbers.astype(self.dtype), strange

    @cached_property
    def _table(self) -> npt.NDArray[np.int32]:
        """File value → class number, `_OUTSIDE` for values that are neither a class nor ignored."""
        table = np.full(1 << 16, _OUTSIDE, dtype=np.int32)
        first = int(self.reduce_zero_label)
        table[first : first + self.num_classes] = np.arange(min(self.num_classes, len(table) - first))
        table[self.ignore_index] = self.ignore_index
        if self.reduce_zero_label:
            table[0] = self.ignore_index
        return table


def read_values(data: bytes, name: str) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """The values of a mask file as they stand, [H, W]; of a palette picture the indices.

    Raises:
        DataError: unreadable, a JPEG, of several channels, or of values beyond 16 bits.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{name} has more than {MAX_PIXELS} pixels", got=name)
            if picture.format == "JPEG":
                raise DataError(
                    f"{name} is a JPEG: its compression changes class numbers", got=name, expected="PNG or another exact format"
                )
            if picture.mode not in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
                raise DataError(
                    f"{name} has the channels {picture.mode}, not class numbers",
                    got=picture.mode,
                    expected="one channel (or a palette) of class numbers",
                    hint="map the colours to class numbers once, and save one channel",
                )
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            values = np.asarray(upright if upright is not None else picture)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error … for damaged files
        raise DataError(f"{name} cannot be read as a mask: {str(error)[:120] or type(error).__name__}", got=name) from error
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise DataError(f"{name} holds values beyond 16 bits", got=name, expected="class numbers below 65536")
    return values.astype(np.uint16)
