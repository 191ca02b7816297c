"""What the pictures of a source look like: size, color, mean and deviation, and whether their
mirror images are pictures of the same kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError

from mae_sdk.data.decode import DEFAULT, as_shown, decode
from mae_sdk.data.reading import Reading
from mae_sdk.data.survey import in_parallel, kept, measured, spread

if TYPE_CHECKING:
    import numpy as np

    from mae_sdk.data.pairs import Pairs
    from mae_sdk.data.source import Source

SAMPLE = 400
"""Evenly spaced pictures that are looked at."""

SIDE = 16
"""Pixels of a side at which a picture is compared with its mirror image."""

LEAST = 30
"""Pictures below which that comparison tells nothing."""


def appearance(
    source: Source | Pairs, sample: int = SAMPLE, reading: Reading = DEFAULT
) -> dict[str, Any]:
    """The look of a source as a run reads it, from an evenly spaced sample.

    Returns:
        ``height, width`` (medians, pixels), ``grey`` (all channels alike), ``mean, std`` (of each
        channel, of pixels in 0 … 1), ``mirror, flip``: the squared t statistic, averaged over
        pixels, of a picture less its mirror image (left and right, upside down). 1 is chance: the
        pictures know no side. None where there are under `LEAST` pictures.

    Raises:
        DataError: a range of values is to be measured, and cannot be.
        StorageError: a picture could not be fetched.
    """
    reading = measured(source, reading)
    places = spread(len(source), sample)

    def find() -> dict[str, Any]:
        seen = [
            one
            for one in in_parallel(places, lambda i: _one(source, i, reading))
            if one is not None
        ]
        return {**_summary(seen), "bad": []}

    found = kept(f"appearance {reading.key()}", source.digest, sample, find)
    return {name: value for name, value in found.items() if name != "bad"}


def _one(source: Source | Pairs, place: int, reading: Reading) -> tuple[Any, ...] | None:
    """Height, width, whether it is gray, mean and mean square of channels, and a small gray copy;
    None of a picture that cannot be read."""
    import numpy as np
    from PIL import Image

    try:
        pixels = decode(source.read(place), source.members[place], reading)
    except DataError:
        return None
    height, width = pixels.shape[:2]
    flat = pixels.reshape(-1, pixels.shape[2])
    gray = bool((flat[:, :1] == flat).all())
    values = flat.astype(np.float32) / 255
    picture: Any = Image.fromarray(as_shown(pixels))
    small = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
    moments = values.mean(0, dtype=np.float64), np.square(values).mean(0, dtype=np.float64)
    return height, width, gray, *moments, small.astype(np.float64)


def _summary(seen: list[tuple[Any, ...]]) -> dict[str, Any]:
    import numpy as np

    if not seen:
        return {}
    heights, widths, grays, means, squares, small = zip(*seen, strict=True)
    mean = np.mean(means, axis=0)
    std = np.sqrt(np.maximum(np.mean(squares, axis=0) - mean**2, 0))
    pictures = np.stack(small)
    return {
        "height": int(np.median(heights)),
        "width": int(np.median(widths)),
        "grey": all(grays),
        "mean": [round(float(value), 4) for value in mean],
        "std": [round(float(value), 4) for value in std],
        "mirror": _asymmetry(pictures, pictures[:, :, ::-1]),
        "flip": _asymmetry(pictures, pictures[:, ::-1]),
    }


def _asymmetry(pictures: np.ndarray[Any, Any], mirrored: np.ndarray[Any, Any]) -> float | None:
    """Mean over pixels of the squared t statistic of the difference [N, side, side]."""
    import numpy as np

    if len(pictures) < LEAST:
        return None
    difference = pictures - mirrored
    error = difference.std(0, ddof=1) / np.sqrt(len(pictures))
    known = error > 0
    if not known.any():
        return None
    return round(float(np.square(difference.mean(0)[known] / error[known]).mean()), 2)
