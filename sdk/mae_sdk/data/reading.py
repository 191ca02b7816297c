"""What a spec says of reading pictures: bands, the range of their values, orientation, size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mae_skill.dotted import get_dotted

from mae_sdk.data.pictures import MAX_PIXELS

CHANNELS = "dataset.channels"
VALUE_RANGE = "dataset.value_range"
EXIF = "dataset.exif_orientation"
PIXELS = "dataset.augmentation.max_pixels"


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Attributes:
        channels: bands of a picture; None: RGB, whatever a file holds of gray, palette or alpha.
        value_range: the stored values that become 0 and 255: ``dtype`` (those of the file's
            type), ``auto`` (to be measured), or (low, high).
        exif: turn a picture as its file says.
        max_pixels: larger ones are refused.
        of_model: a trained model reads them so, and no setting changes it.
    """

    channels: int | None = None
    value_range: str | tuple[float, float] = "dtype"
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    of_model: bool = False

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Reading:
        """That of a resolved spec; a bundle without these fields reads by the defaults."""
        return cls.from_values(
            get_dotted(spec, CHANNELS),
            get_dotted(spec, VALUE_RANGE),
            get_dotted(spec, EXIF),
            get_dotted(spec, PIXELS),
        )

    @classmethod
    def from_values(
        cls,
        channels: Any,
        value_range: Any,
        exif: Any = None,
        max_pixels: Any = None,
        *,
        of_model: bool = False,
    ) -> Reading:
        """From the values of the fields; None or a value of another type: the default."""
        ends = value_range if isinstance(value_range, Sequence) else ()
        found: str | tuple[float, float] = "auto" if value_range == "auto" else "dtype"
        if not isinstance(ends, str) and len(ends) == 2 and float(ends[0]) < float(ends[1]):
            found = (float(ends[0]), float(ends[1]))
        return cls(
            channels=channels if isinstance(channels, int) else None,
            value_range=found,
            exif=exif is not False,
            max_pixels=max_pixels if isinstance(max_pixels, int) else MAX_PIXELS,
            of_model=of_model,
        )

    @property
    def bands(self) -> int:
        """Bands of a picture that was read."""
        return self.channels or 3

    def between(self, low: float, high: float) -> Reading:
        """The same with the values that were measured."""
        return replace(self, value_range=(low, high))

    def key(self) -> str:
        """A text that differs where a picture may be read, or refused, differently."""
        whose = " of the model" if self.of_model else ""
        return f"{self.bands} {self.value_range} {self.exif} {self.max_pixels}{whose}"
