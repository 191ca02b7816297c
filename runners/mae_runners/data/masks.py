"""Encoded masks to class numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from mae_sdk.data.decode import DEFAULT
from mae_sdk.data.masks import read_mask
from mae_sdk.data.reading import Reading
from mae_skill.mask_meaning import MaskMeaning

Mask = npt.NDArray[np.uint8] | npt.NDArray[np.int32]
_OUTSIDE = -1


@dataclass(frozen=True)
class MaskReader:
    """Bytes → class numbers [H, W], 0 … ``num_classes`` - 1 and ``ignored``.

    Attributes:
        num_classes: how many classes.
        ignore_index: value of pixels that do not count, in the file.
        reduce_zero_label: 0 means unlabeled and becomes ``ignored``; v ≥ 1 is class v - 1.
            Otherwise v is class v.
        mask_values: the value of each class, in order, in place of the numbers; empty: the
            numbers.
    """

    num_classes: int
    ignore_index: int = 255
    reduce_zero_label: bool = True
    mask_values: tuple[int, ...] = ()

    @cached_property
    def meaning(self) -> MaskMeaning:
        """What a value means."""
        return MaskMeaning(
            self.num_classes, self.ignore_index, self.reduce_zero_label, self.mask_values
        )

    @property
    def ignored(self) -> int:
        """What comes out for pixels that do not count: ``ignore_index``, where it is no class."""
        return self.meaning.label_of_none

    @property
    def dtype(self) -> type[np.uint8] | type[np.int32]:
        """uint8 where every value fits."""
        return np.uint8 if max(self.num_classes - 1, self.ignored) <= 255 else np.int32

    def __call__(
        self, data: bytes, name: str, reading: Reading = DEFAULT
    ) -> tuple[Mask, int | None, int]:
        """One mask, the first value in it that is not a class (None: there is no such value), whose
        pixels become ``ignored``, and the orientation that the file states.

        Raises:
            DataError: unreadable, a JPEG, of several channels, or of values beyond 16 bits.
        """
        values, turn = read_mask(data, name, reading)
        numbers = self._table[values]
        outside = numbers == _OUTSIDE
        strange = int(values[outside].flat[0]) if outside.any() else None
        numbers[outside] = self.ignored
        return numbers.astype(self.dtype), strange, turn

    @cached_property
    def _table(self) -> npt.NDArray[np.int32]:
        """File value → class number, `_OUTSIDE` for values that are neither a class nor ignored."""
        table = np.full(1 << 16, _OUTSIDE, dtype=np.int32)
        values = np.asarray(self.meaning.values)
        table[values] = np.arange(len(values))
        for value in {0, self.ignore_index}:
            if self.meaning.is_nothing(value):
                table[value] = self.ignored
        return table
