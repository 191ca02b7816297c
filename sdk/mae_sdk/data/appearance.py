"""What the pictures of a source look like: size, color, mean and deviation, and whether their
mirror images are pictures of the same kind, and of the same class."""

from __future__ import annotations

import hashlib
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

OF_A_CLASS = 3
"""Pictures of a class below which it is left out where classes are compared."""

LAGS = (1, 2, 3)
"""Steps between the pixels of which the third moments are taken."""


def appearance(
    source: Source | Pairs, sample: int = SAMPLE, reading: Reading = DEFAULT
) -> dict[str, Any]:
    """The look of a source as a run reads it, from an evenly spaced sample.

    Returns:
        ``height, width`` (medians, pixels), ``grey`` (all channels alike), ``mean, std`` (of each
        channel, of pixels in 0 … 1), ``mirror, flip``: the squared t statistic, averaged over
        pixels, of a picture less its mirror image (left and right, upside down). 1 is chance: the
        pictures know no side. None where there are under `LEAST` pictures. ``mirror_told,
        flip_told``: the share of what a mirror changes that the classes tell, see `_told`; None
        too where pictures have no class, or several.

    Raises:
        DataError: a range of values is to be measured, and cannot be.
        StorageError: a picture could not be fetched.
    """
    reading = measured(source, reading)
    places = spread(len(source), sample)
    labels = _labels(source, places)

    def find() -> dict[str, Any]:
        seen = list(in_parallel(places, lambda i: _one(source, i, reading)))
        read = [one is not None for one in seen]
        of_classes = None if labels is None else labels[read]
        return {**_summary([one for one in seen if one is not None], of_classes), "bad": []}

    told = "" if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()
    found = kept(f"appearance 3 {reading.key()} {told}", source.digest, sample, find)
    return {name: value for name, value in found.items() if name != "bad"}


def _labels(source: Source | Pairs, places: list[int]) -> np.ndarray[Any, Any] | None:
    """The class of each picture, -1 = none; None where they have none, or several each."""
    from mae_sdk.data.source import Source

    if not isinstance(source, Source) or source.several or not source.classes:
        return None
    found: np.ndarray[Any, Any] = source.labels[places]
    return found


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


def _summary(seen: list[tuple[Any, ...]], labels: np.ndarray[Any, Any] | None) -> dict[str, Any]:
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
        "mirror_told": _told(pictures, labels),
        "flip_told": _told(pictures.transpose(0, 2, 1), labels),
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


def _told(pictures: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None) -> float | None:
    """The share of the variance of what changes its sign in the mirror that the classes explain.

    Arrows that point left or right anywhere in a picture are alike in the mirror as a whole, pixel
    by pixel; but a mirror makes one class of the other. So beside the pixels it takes third moments
    of neighbors along a row, which do not depend on where a thing is.

    Args:
        pictures: gray, ``[N, side, side]``; the mirror swaps the last axis.  labels: ``[N]``.

    Returns:
        Adjusted for chance (0), 0 too where an analysis of variance finds no more than chance does;
        None where that cannot be told.
    """
    import numpy as np

    if labels is None:
        return None
    sizes = np.bincount(labels[labels >= 0]) if (labels >= 0).any() else np.zeros(0, dtype=int)
    kept_ones = np.flatnonzero(sizes >= OF_A_CLASS)
    used = np.isin(labels, kept_ones)
    count, classes = int(used.sum()), len(kept_ones)
    if count < LEAST or classes < 2:
        return None
    pictures, labels = pictures[used], labels[used]

    odd = pictures - pictures[:, :, ::-1]
    sets = (odd.reshape(count, -1), _third_moments(pictures))
    likely = 1 + 3 * np.sqrt(2 / (classes - 1))  # three deviations of the statistic by chance
    shares = [0.0]
    for values in sets:
        between, within = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        for one in kept_ones:
            of_class = values[labels == one]
            between += len(of_class) * np.square(of_class.mean(0) - values.mean(0))
            within += np.square(of_class - of_class.mean(0)).sum(0)
        known = within > 0
        if not known.any():
            continue
        between, within = between[known] / (classes - 1), within[known] / (count - classes)
        total = (between * (classes - 1) + within * (count - classes)) / (count - 1)
        if (between / within).mean() > likely:
            shares.append(float((1 - within / total).mean()))
    return round(max(shares), 3)


def _third_moments(pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Moments ``[N, F]`` of a row's neighbors that change their sign in the mirror, at two sizes,
    of pictures of mean 0 and deviation 1."""
    import numpy as np

    halves = pictures[:, ::2] + pictures[:, 1::2]
    found = []
    for sized in (pictures, halves[:, :, ::2] + halves[:, :, 1::2]):
        plain = sized - sized.mean((1, 2), keepdims=True)
        plain /= np.maximum(plain.std((1, 2), keepdims=True), 1e-9)
        for lag in LAGS:
            wide = np.pad(plain, ((0, 0), (0, 0), (lag, lag)), mode="edge")
            right, left = wide[:, :, lag:], wide[:, :, :-lag]
            found.append((right * left * (right - left)).mean((1, 2)))
            found.append(((right - left) ** 3).mean((1, 2)))
    return np.stack(found, 1)
