"""Encoded masks to class numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from mae_sdk.data.decode import DEFAULT
from mae_sdk.data.masks import read_mask
from mae_sdk.data.reading import Reading

Mask = npt.NDArray[np.uint8] | npt.NDArray[np.int32]
_OUTSIDE = -1


@dataclass(frozen=True)
class MaskReader:
    """Bytes → class numbers [H, W], 0 … ``num_classes`` - 1 and ``ignore_index``.

    Attributes:
        num_classes: how many classes.
        ignore_index: value of pixels that do not count, in the file and in what comes out.
        reduce_zero_label: 0 means unlabeled and becomes ``ignore_index``; v ≥ 1 is class v - 1.
            Otherwise v is class v.
    """

    num_classes: int
    ignore_index: int = 255
    reduce_zero_label: bool = True

    @property
    def dtype(self) -> type[np.uint8] | type[np.int32]:
        """uint8 where every value fits."""
        return np.uint8 if max(self.num_classes - 1, self.ignore_index) <= 255 else np.int32

    def __call__(
        self, data: bytes, name: str, reading: Reading = DEFAULT
    ) -> tuple[Mask, int | None, int]:
        """One mask, the first value in it that is not a class (None: there is no such value), whose
        pixels become ``ignore_index``, and the orientation that the file states.

        Raises:
            DataError: unreadable, a JPEG, of several channels, or of values beyond 16 bits.
        """
        values, turn = read_mask(data, name, reading)
        numbers = self._table[values]
        outside = numbers == _OUTSIDE
        strange = int(values[outside].flat[0]) if outside.any() else None
        numbers[outside] = self.ignore_index
        return numbers.astype(self.dtype), strange, turn

    @cached_property
    def _table(self) -> npt.NDArray[np.int32]:
        """File value → class number, `_OUTSIDE` for values that are neither a class nor ignored."""
        table = np.full(1 << 16, _OUTSIDE, dtype=np.int32)
        first = int(self.reduce_zero_label)
        table[first : first + self.num_classes] = np.arange(
            min(self.num_classes, len(table) - first)
        )
        table[self.ignore_index] = self.ignore_index
        if self.reduce_zero_label:
            table[0] = self.ignore_index
        return table
