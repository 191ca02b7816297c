"""What the pictures and masks of a source are, before anything is trained on them.

A survey reads the files themselves: all of them, or, where they are many, an evenly spaced sample,
and then it says so. It states facts; whether they are an error is for the rules of the bundle to
say. What it found is kept in the cache by the digest of the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mae_skill.errors import DataError
from mae_skill.spelling import spelled

from mae_sdk import files
from mae_sdk.data.left_out import FEW
from mae_sdk.data.masks import ONE_CHANNEL, read_values
from mae_sdk.data.pictures import bits, open_picture, read_rgb, to_rgb, turned
from mae_sdk.data.progress import told

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

    from mae_sdk.data.pairs import Pairs
    from mae_sdk.data.source import Source

SAMPLE = 2000
"""Files of a source that a plan reads."""

FORMAT = 1
"""Of what is kept; a change of what a survey finds changes it."""

_LOCKED = "cannot be read: "
"""How the reason of a file begins that may not be read."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Glance:
    """What one picture is.

    Attributes:
        width, height: as stored.
        bits: of a channel, as stored.
        brightest: the largest value that reading it gives, 0 … 255.
        levels: different values that reading it gives; 0 where that was not counted.
        largest: the largest stored value, where it is deeper than 8 bits and can be told.
        is_constant: all pixels are alike.
        pixels: uint8 RGB [H, W, 3], upright, where asked for.
    """

    format: str
    mode: str
    width: int
    height: int
    bits: int
    brightest: int
    levels: int
    largest: int | None
    is_constant: bool
    pixels: np.ndarray[Any, Any] | None = None

    @property
    def is_deep(self) -> bool:
        return self.bits > 8


def glance(data: bytes, name: str, *, pixels: bool = False) -> Glance:
    """Read one picture as training reads it.

    Args:
        pixels: keep them; else a JPEG is read at an eighth of its size, which finds the same
            damage.

    Raises:
        DataError: it is unreadable; the message says why.
    """
    import numpy as np

    with open_picture(data, name) as picture:
        width, height, depth = picture.width, picture.height, bits(picture, data)
        shrinks = not pixels and picture.format == "JPEG"
        if shrinks:
            picture.draft(None, (max(1, width // 8), max(1, height // 8)))
        picture.load()
        bands = _extrema(picture)
        single = all(low == high for low, high in bands)
        largest, levels, brightest = None, 0, 255
        rgb = None
        if depth > 8:
            rgb = to_rgb(picture)
            brightest, levels = int(rgb.max()), len(np.unique(rgb))
            largest = int(bands[0][1]) if picture.mode.startswith("I") else None
        if single and shrinks:  # a fine pattern is one color at an eighth of its size
            single = all(low == high for low, high in _extrema(_whole(data)))
        return Glance(
            format=picture.format or "unknown",
            mode=picture.mode,
            width=width,
            height=height,
            bits=depth,
            brightest=brightest,
            levels=levels,
            largest=largest,
            is_constant=single and width * height > 1,
            pixels=read_rgb(picture) if pixels else None,
        )


def _extrema(picture: Picture) -> list[tuple[float, float]]:
    """The smallest and the largest value of each band, alpha apart."""
    import numpy as np

    if picture.mode.startswith("I"):  # Pillow tells them of one byte order alone
        values = np.asarray(picture)
        return [(int(values.min()), int(values.max()))]
    found: Any = picture.getextrema()
    bands = list(found) if isinstance(found[0], tuple) else [found]
    return bands[:-1] if picture.mode in ("RGBA", "LA", "PA") else bands


def _whole(data: bytes) -> Picture:
    """The picture at its own size."""
    with open_picture(data, "") as picture:
        picture.load()
        return picture


@dataclass
class Findings:
    """What the pictures of a source are; places are indices into it.

    Attributes:
        read: how many were read.
        bad: [place, reason] of each that is unreadable.
        constant: places of pictures of one color.
        deep: how many have more than 8 bits.
        dark: places of deep ones that come out as nearly black.
        brightest: the largest value that a deep one comes out with.
        largest: the largest value stored in a deep one.
        levels: the most values that a deep one comes out with.
    """

    read: int = 0
    bad: list[list[Any]] = field(default_factory=list)
    constant: list[int] = field(default_factory=list)
    deep: int = 0
    dark: list[int] = field(default_factory=list)
    brightest: int = 0
    largest: int = 0
    levels: int = 0

    DARK = 32
    """A deep picture that comes out no brighter than this, of 255, is nearly black."""

    def add(self, place: int, seen: Glance | DataError) -> None:
        """Count a picture, or why there is none."""
        self.read += 1
        if isinstance(seen, DataError):
            self.bad.append([place, reason_of(seen)])
            return
        if seen.is_constant:
            self.constant.append(place)
        elif seen.is_deep:
            self.deep += 1
            self.brightest = max(self.brightest, seen.brightest)
            self.largest = max(self.largest, seen.largest or 0)
            self.levels = max(self.levels, seen.levels)
            if seen.brightest <= self.DARK:
                self.dark.append(place)

    def to_dict(
        self, path: Callable[[int], str], labels: Sequence[int] | np.ndarray[Any, Any] = ()
    ) -> dict[str, Any]:
        """As JSON types, a few files named by reason: ``read, unreadable, constant, deep``.

        Args:
            path: the name of a place.
            labels: class numbers by place; with them ``unreadable`` has ``by_label`` too.
        """
        some = self.bad[:FEW]
        found: dict[str, Any] = {"read": self.read}
        if self.bad:
            found["unreadable"] = {
                "count": len(self.bad),
                "files": [path(place) for place, _ in some],
                "reasons": {path(place): reason for place, reason in some},
            }
            if len(labels):
                numbers: dict[int, int] = {}
                for place, _ in self.bad:
                    label = int(labels[place])
                    numbers[label] = numbers.get(label, 0) + 1
                found["unreadable"]["by_label"] = numbers
        if self.constant:
            found["constant"] = _some(self.constant, path)
        if self.deep:
            found["deep"] = {
                "count": self.deep,
                "brightest": self.brightest,
                "largest": self.largest or None,
                "levels": self.levels,
            }
            if self.dark:
                found["deep"]["dark"] = _some(self.dark, path)
        return found


def reason_of(error: DataError) -> str:
    """Why a file is unreadable, without its name."""
    return error.message.removeprefix(f"{error.got} ")


def _some(places: Sequence[int], path: Callable[[int], str]) -> dict[str, Any]:
    return {"count": len(places), "files": [path(place) for place in places[:FEW]]}


def survey_images(source: Source | Pairs, sample: int | None = SAMPLE) -> Findings:
    """Read the pictures of a source, or an evenly spaced `sample` of them.

    Raises:
        StorageError: one could not be fetched.
    """
    where = source.path(0).removesuffix("/" + spelled(str(source.members[0])))

    def find() -> dict[str, Any]:
        found = Findings()
        places = spread(len(source), sample)
        work = in_parallel(places, lambda place: _glance_at(source, place))
        for place, seen in told(
            zip(places, work, strict=True),
            lambda item: f"looking at {where}: {item[0] + 1} of {len(source)} images",
        ):
            found.add(place, seen)
        return asdict(found)

    return Findings(**kept("images", source.digest, sample, find))


def _glance_at(source: Source | Pairs, place: int) -> Glance | DataError:
    try:
        return glance(source.read(place), source.members[place])
    except DataError as error:
        return error


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
    """

    read: int = 0
    pixels: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    channels: list[list[Any]] = field(default_factory=list)
    bad: list[list[Any]] = field(default_factory=list)
    other_size: list[int] = field(default_factory=list)
    without: list[int] = field(default_factory=list)

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
                **_some([place for place, _ in self.channels], path),
                "channels": sorted({mode for _, mode in self.channels}),
            }
        if self.bad:
            found["unreadable"] = {
                **_some([place for place, _ in self.bad], path),
                "reasons": {path(place): reason for place, reason in self.bad[:FEW]},
            }
        if self.other_size:
            found["other_size"] = _some(self.other_size, path)
        return found


def survey_masks(pairs: Pairs, sample: int | None = SAMPLE) -> MaskFindings:
    """Read the masks of a source, or an evenly spaced `sample` of them.

    Raises:
        StorageError: one could not be fetched.
    """

    def find() -> dict[str, Any]:
        found = MaskFindings()
        places = spread(len(pairs), sample)
        work = in_parallel(places, lambda place: _counts(pairs, place))
        for place, seen in told(
            zip(places, work, strict=True),
            lambda item: f"looking at masks: {item[0] + 1} of {len(pairs)}",
        ):
            _add_mask(found, place, seen)
        return asdict(found)

    return MaskFindings(**kept("masks", pairs.digest, sample, find))


_Counted = tuple[dict[int, int], bool] | DataError | None


def _counts(pairs: Pairs, place: int) -> _Counted:
    """Pixels by value of one mask, and whether it is as large as its image; None: there is none."""
    import numpy as np

    name = pairs.mask_path(place)
    if name is None:
        return None
    try:
        data = pairs.read_mask(place)
        values = read_values(data or b"", name)
        with open_picture(pairs.read(place), pairs[place]) as picture:
            size = (picture.height, picture.width)
            fits = values.shape == (size[::-1] if turned(picture) > 4 else size)
    except DataError as error:
        return error
    counts = np.bincount(values.ravel())
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}, fits


def _add_mask(found: MaskFindings, place: int, seen: _Counted) -> None:
    if seen is None:
        found.without.append(place)
        return
    found.read += 1
    if isinstance(seen, DataError):
        if seen.expected == ONE_CHANNEL:
            found.channels.append([place, str(seen.got)])
        else:
            found.bad.append([place, reason_of(seen)])
        return
    counts, fits = seen
    if not fits:
        found.other_size.append(place)
    for number, pixels in counts.items():
        value = str(number)
        found.pixels[value] = found.pixels.get(value, 0) + pixels
        found.images[value] = found.images.get(value, 0) + 1
        found.first.setdefault(value, place)


def shared_images(
    one: Source | Pairs, other: Source | Pairs, sample: int = SAMPLE
) -> dict[str, Any]:
    """Images of `other` whose bytes are an image of `one` too.

    Returns:
        ``{"count", "pairs", "compared"}``: a few pairs of names, and how many images of `other`
        were compared, all of them or an evenly spaced sample.
    """
    import numpy as np

    found: list[list[str]] = []
    count = 0
    theirs = np.asarray(spread(len(other), sample), dtype=np.int64)
    keys, wanted = one.keys, other.keys[theirs]
    exact = one.has_checksums and other.has_checksums
    if not exact:  # sizes alone
        keys, wanted = one.sizes, other.sizes[theirs]
    both = np.intersect1d(keys, wanted)
    mine = np.flatnonzero(np.isin(keys, both))
    candidates = theirs[np.isin(wanted, both)]
    if not exact and len(mine) > 4 * sample:
        return {"count": 0, "pairs": [], "compared": 0}

    place: dict[Any, int] = {}
    for i in mine.tolist():
        place.setdefault(int(keys[i]) if exact else _hash(one, i), i)
    for i in candidates.tolist():
        twin = place.get(int(other.keys[i]) if exact else _hash(other, i))
        if twin is not None:
            count += 1
            if len(found) < FEW:
                found.append([one.path(twin), other.path(i)])
    return {"count": count, "pairs": found, "compared": len(theirs)}


def _hash(source: Source | Pairs, place: int) -> bytes:
    try:
        data = source.read(place)
    except DataError:
        data = os.urandom(16)  # an unreadable file equals nothing
    return hashlib.blake2b(data, digest_size=16).digest()


def spread(count: int, sample: int | None) -> list[int]:
    """At most `sample` evenly spaced places out of `count`."""
    if sample is None or count <= sample:
        return list(range(count))
    return [place * count // sample for place in range(sample)]


def in_parallel(places: Sequence[int], work: Callable[[int], _Item]) -> Iterator[_Item]:
    """The work of each place, in order; decoders let go of Python's lock."""
    count = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    with ThreadPoolExecutor(count, thread_name_prefix="survey") as pool:
        for start in range(0, len(places), 256):  # so that little is held at once
            yield from pool.map(work, places[start : start + 256])


def kept(
    kind: str,
    digest: str,
    sample: int | None,
    find: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What was found before in the same data, else what `find` finds now.

    Files that may not be read are looked at again: permissions change without the data.
    """
    key = hashlib.sha256(f"{FORMAT} {kind} {digest} {sample}".encode()).hexdigest()[:32]
    path = files.cache_home() / "surveys" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError):
        return files.read_json(path)

    found = find()
    if not any(_LOCKED in reason for _, reason in found["bad"]):
        with contextlib.suppress(OSError):  # a cache that cannot be written serves as well
            files.write_json(path, found)
    return found
