"""What the masks of a source are, before anything is trained on them; see `mae_sdk.data.survey`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mae_skill.errors import DataError

from mae_sdk.data.decode import DEFAULT, check_turns, read_header
from mae_sdk.data.left_out import FEW
from mae_sdk.data.masks import ONE_CHANNEL, colors_of, has_pages, read_mask
from mae_sdk.data.progress import told
from mae_sdk.data.reading import Reading
from mae_sdk.data.survey import SAMPLE, in_parallel, kept, reason_of, some_of, spread

if TYPE_CHECKING:
    from mae_sdk.data.pairs import Pairs

MAX_COLORS = 4096
"""Colors of palettes that are kept."""


@dataclass
class MaskFindings:
    """What the masks of a source hold; places are indices into it.

    Attributes:
        read: how many were looked at.
        pixels, images, first: by value (as text): pixels, masks that hold it, the first of them.
        channels: [place, mode] of masks with several channels.
        bad: [place, reason] of masks or images that are unreadable otherwise.
        other_size: places of masks of another size than their image.
        without: places of images that have none.
        colors: color of a palette → value that it stands for → [masks, place of the first].
        frames: places of masks with further pages or frames, which are not read.
        same: [place, place of the first], of masks of two values or more that are equal to another.
    """

    read: int = 0
    pixels: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    channels: list[list[Any]] = field(default_factory=list)
    bad: list[list[Any]] = field(default_factory=list)
    other_size: list[int] = field(default_factory=list)
    without: list[int] = field(default_factory=list)
    colors: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    frames: list[int] = field(default_factory=list)
    same: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seen: dict[bytes, tuple[str, int]] = {}

    def add(self, place: int, seen: _Mask | DataError | None) -> None:
        """Count a mask, why it is none, or that there is none."""
        if seen is None:
            self.without.append(place)
            return
        self.read += 1
        if isinstance(seen, DataError):
            if seen.expected == ONE_CHANNEL:
                self.channels.append([place, str(seen.got)])
            else:
                self.bad.append([place, reason_of(seen)])
            return
        if not seen.fits:
            self.other_size.append(place)
        if seen.has_pages:
            self.frames.append(place)
        name, first = self._seen.setdefault(seen.digest, (seen.name, place))
        if name != seen.name and len(seen.counts) > 1:
            self.same.append([place, first])
        for number, pixels in seen.counts.items():
            value = str(number)
            self.pixels[value] = self.pixels.get(value, 0) + pixels
            self.images[value] = self.images.get(value, 0) + 1
            self.first.setdefault(value, place)
        self._add_colors(place, seen.colors)

    def _add_colors(self, place: int, colors: Mapping[str, str]) -> None:
        for color, value in colors.items():
            if color in self.colors or len(self.colors) < MAX_COLORS:
                masks = self.colors.setdefault(color, {}).setdefault(value, [0, place])
                masks[0] += 1

    def permuted(self) -> dict[str, Any]:
        """``{"count", "colors": [{color, values}], "pair"}``: masks in whose palettes a color
        stands for another value than in most; empty where there are none."""
        torn = {color: values for color, values in self.colors.items() if len(values) > 1}
        if not torn:
            return {}
        ranked = {
            color: sorted(values, key=lambda value: -values[value][0])
            for color, values in torn.items()
        }
        color = next(iter(torn))
        most, other = ranked[color][:2]
        count = max(
            sum(torn[color][value][0] for value in ranked[color][1:]) for color in torn
        )  # at the least: a mask may have several such colors
        return {
            "count": count,
            "colors": [{"color": one, "values": ranked[one][:FEW]} for one in list(torn)[:FEW]],
            "places": [torn[color][most][1], torn[color][other][1]],
        }

    @property
    def unusable(self) -> set[int]:
        """Places of masks that training cannot use."""
        return {place for place, _ in [*self.channels, *self.bad]} | set(self.other_size)

    def to_dict(self, path: Callable[[int], str]) -> dict[str, Any]:
        """As JSON types, a few files named by reason: ``read, values`` and what does not fit."""
        found: dict[str, Any] = {
            "read": self.read,
            "values": {
                value: {
                    "pixels": self.pixels[value],
                    "images": self.images[value],
                    "first": path(self.first[value]),
                }
                for value in sorted(self.pixels, key=int)
            },
        }
        if self.channels:
            found["several_channels"] = {
                **some_of([place for place, _ in self.channels], path),
                "channels": sorted({mode for _, mode in self.channels}),
            }
        if self.bad:
            found["unreadable"] = {
                **some_of([place for place, _ in self.bad], path),
                "reasons": {path(place): reason for place, reason in self.bad[:FEW]},
            }
        if self.other_size:
            found["other_size"] = some_of(self.other_size, path)
        if self.frames:
            found["pages"] = some_of(self.frames, path)
        if self.same:
            pairs = [[path(place) for place in reversed(pair)] for pair in self.same[:FEW]]
            found["same"] = {"count": len(self.same), "pairs": pairs}
        if permuted := self.permuted():
            permuted["files"] = [path(place) for place in permuted.pop("places")]
            found["permuted"] = permuted
        return found


def survey_masks(
    pairs: Pairs, sample: int | None = SAMPLE, reading: Reading = DEFAULT
) -> MaskFindings:
    """Read the masks of a source, or an evenly spaced `sample` of them.

    Raises:
        StorageError: one could not be fetched.
    """

    def find() -> dict[str, Any]:
        found = MaskFindings()
        places = spread(len(pairs), sample)
        work = in_parallel(places, lambda place: _look_at_mask(pairs, place, reading))
        for place, seen in told(
            zip(places, work, strict=True),
            lambda item: f"looking at masks: {item[0] + 1} of {len(pairs)}",
        ):
            found.add(place, seen)
        return asdict(found)

    return MaskFindings(**kept(f"masks {reading.key()}", pairs.digest, sample, find))


class _Mask(NamedTuple):
    """What one mask is.

    Attributes:
        name: of its file.
        counts: pixels by value.
        fits: it is as large as its image.
        digest: of its values.
        has_pages: it holds further pages or frames.
        colors: color → value, of the values that occur, where it has a palette in which a color
            stands for one of them alone.
    """

    name: str
    counts: dict[int, int]
    fits: bool
    digest: bytes
    has_pages: bool
    colors: dict[str, str]


def _look_at_mask(pairs: Pairs, place: int, reading: Reading) -> _Mask | DataError | None:
    """One mask, or why it is none; None: there is none."""
    import numpy as np

    name = pairs.mask_path(place)
    if name is None:
        return None
    try:
        data = pairs.read_mask(place)
        data = data or b""
        values, other = read_mask(data, name, reading)
        size, turn = read_header(pairs.read(place), pairs[place], reading)
        shape = (values.shape[0], values.shape[1])
        check_turns(size, turn, pairs[place], (shape, other), reading)
        fits = shape == (size[::-1] if turn > 4 and reading.exif else size)
    except DataError as error:
        return error
    numbers = np.bincount(values.ravel())
    counts = {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}
    digest = hashlib.blake2b(values.tobytes(), digest_size=16)
    digest.update(str(shape).encode())
    colors = _colors_used(colors_of(data) or {}, counts)
    return _Mask(name, counts, fits, digest.digest(), has_pages(data), colors)


def _colors_used(palette: Mapping[int, str], counts: Mapping[int, int]) -> dict[str, str]:
    used = [palette[value] for value in counts if value in palette]
    return {
        palette[value]: str(value)
        for value in counts
        if value in palette and used.count(palette[value]) == 1
    }
