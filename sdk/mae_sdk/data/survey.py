"""What the pictures of a source are, before anything is trained on them.

A survey reads the files themselves: all of them, or, where they are many, an evenly spaced sample,
and then it says so. It states facts; whether they are an error is for the rules of the bundle to
say. What it found is kept in the cache by the digest of the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mae_skill.errors import DataError
from mae_skill.rules import depths
from mae_skill.spelling import spelled

from mae_sdk import files
from mae_sdk.data.decode import DEFAULT, finish, load, range_of
from mae_sdk.data.left_out import FEW
from mae_sdk.data.pictures import alpha_of
from mae_sdk.data.progress import told
from mae_sdk.data.reading import VALUE_RANGE, Reading

if TYPE_CHECKING:
    import numpy as np

    from mae_sdk.data.pairs import Pairs
    from mae_sdk.data.source import Source

SAMPLE = 2000
"""Files of a source that a plan reads."""

FORMAT = 11
"""Of what is kept; a change of what a survey finds changes it."""

SMALL = 32
"""Pixels of a side from which a picture is not small, whatever the patch."""

SAMPLED = 4096
"""Pixels of a picture whose values are looked at."""

ENCODED = 100_000
"""Pictures whose encoding is kept."""

MAX_ENCODINGS = 64
"""Formats, depths and sizes that are told apart; photos of many cameras have no size of theirs."""

POOLED = 1 << 23
"""Values of a source above which half of them are let go."""

PERCENTILES = (0.1, 99.9)
"""Between these lie the values that count."""

NO_DATA = frozenset(
    [
        *(-99, -999, -9999, -99999, -999999, 999, 9999, 99999, 999999, -9998, -32767),
        *(-(2**15), 2**15 - 1, 2**16 - 1, -(2**31), 2**31 - 1, 2**32 - 1),
    ]
)
"""Values that stand for no data where they lie apart from all others; of floating point also those
beyond `VAST`, such as 1e38 or 9.96921e36."""

VAST = 1e20

MIN_LEVELS = 8
"""Values beside one that lies apart; pictures of a few values are drawn, not measured."""

NEARLY = 0.95
"""Of the pictures of a class, or of the classes, from which on it is all of them."""

_GRAY = frozenset(["1", "L", "LA", "La", "I", "F", "MONOCHROME1", "MONOCHROME2"])
"""Modes of one band of light, with and without alpha."""

_LOCKED = "cannot be read: "
"""How the reason of a file begins that may not be read."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Glance:
    """What one picture is.

    Attributes:
        format, mode: the file's format, and its bands in words.
        width, height: as stored.
        bits: of a value, as stored.
        drops: a band is left out whose meaning the file does not say.
        kind: the type of its values, ``uint8 … float32``.
        values: a spread sample of the stored values.
        range: the values that reading it brings to 0 and 255; None: not known yet.
        own: those that the file's type says; None: it says none.
        is_constant: all pixels are alike.
        shows_alpha: they are, and its alpha, which is dropped, is not.
        has_more: it has further frames or pages, which are not read.
        lost: the share of its values that are NaN or infinite.
        no_data: the value that stands for no data, where the file names one.
        is_transparent: its alpha, which is dropped, is 0 everywhere: nobody sees its colors.
        pixels: as a model sees it, where asked for.
    """

    format: str
    mode: str
    width: int
    height: int
    bits: int
    drops: bool
    kind: str
    values: np.ndarray[Any, Any]
    range: tuple[float, float] | None
    is_constant: bool
    has_more: bool
    lost: float
    no_data: float | None = None
    own: tuple[float, float] | None = None
    shows_alpha: bool = False
    is_transparent: bool = False
    pixels: np.ndarray[Any, Any] | None = None


def glance(data: bytes, name: str, reading: Reading = DEFAULT, *, pixels: bool = False) -> Glance:
    """Read one picture as training reads it.

    Args:
        pixels: keep them; else a JPEG is read at an eighth of its size, which finds the same
            damage.

    Raises:
        DataError: it is unreadable; the message says why.
    """
    found = load(data, name, reading, 1 if pixels else 8)
    values = found.values
    single = _is_constant(values)
    if single and values.shape[:2] != (found.height, found.width):
        single = _is_constant(load(data, name, reading).values)  # a fine pattern is one color there
    drops_alpha = reading.bands in (1, 3) and (single or "A" in found.mode)
    alpha = alpha_of(data, name, reading.max_pixels) if drops_alpha else None
    measured = reading.value_range == "auto"
    return Glance(
        format=found.format,
        mode=found.mode,
        width=found.width,
        height=found.height,
        bits=found.bits,
        drops=found.has_extra and reading.bands in (1, 3),
        kind=str(values.dtype),
        values=_spread_values(values),
        range=None if measured else range_of(found, name, reading),
        is_constant=single,
        has_more=found.has_more,
        lost=_lost(values),
        no_data=found.no_data,
        own=found.range,
        shows_alpha=single and alpha is not None and alpha[0] != alpha[1],
        is_transparent=alpha is not None and alpha[1] == 0,
        pixels=finish(found, name, reading) if pixels else None,
    )


def _is_constant(values: np.ndarray[Any, Any]) -> bool:
    return bool((values == values[0, 0]).all())


def _lost(values: np.ndarray[Any, Any]) -> float:
    """The share of values that are no numbers."""
    import numpy as np

    return 1.0 - float(np.isfinite(values).mean()) if values.dtype.kind == "f" else 0.0


def _spread_values(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values of up to `SAMPLED` spread pixels, in a copy, those that are numbers."""
    import numpy as np

    rows = values.reshape(-1, values.shape[2])
    step = max(1, len(rows) // SAMPLED)
    if step > 1 and values.shape[1] % step == 0:
        step += 1  # else all from the same columns
    chosen = np.array(rows[::step]).ravel()
    return chosen[np.isfinite(chosen)] if chosen.dtype.kind == "f" else chosen


@dataclass
class Findings:
    """What the pictures of a source are; places are indices into it.

    Attributes:
        read: how many were read.
        bad: [place, reason] of each that is unreadable.
        constant: places of pictures of one color.
        alpha: places of those whose alpha, which is dropped, shows something.
        frames: places of pictures with further frames or pages.
        kinds: type of the values → how many pictures have it.
        dropped: places of pictures of which a band is left out.
        transparent: places of pictures whose alpha, which is dropped, is 0 everywhere.
        lost: [place, share] of pictures with values that are NaN or infinite.
        sides: the shorter side of small pictures → [pictures, place of the first].
        ranges: type → the range that reading it brings to 0 and 255; where the files differ, the
            widest.
        own: type → the range that the files themselves say, widest as well.
        values: type → what a sample of its values is like, once all are read (`close`).
        encodings: aspect (``format``, ``depth``, ``color``, ``size``) → what it is → places, of up
            to `MAX_ENCODINGS`.
    """

    read: int = 0
    bad: list[list[Any]] = field(default_factory=list)
    constant: list[int] = field(default_factory=list)
    alpha: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    dropped: list[int] = field(default_factory=list)
    transparent: list[int] = field(default_factory=list)
    lost: list[list[Any]] = field(default_factory=list)
    sides: dict[str, list[int]] = field(default_factory=dict)
    ranges: dict[str, list[float]] = field(default_factory=dict)
    own: dict[str, list[float]] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    encodings: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pools: dict[str, list[np.ndarray[Any, Any]]] = {}
        self._no_data: dict[str, set[float]] = {}

    def add(self, place: int, seen: Glance | DataError) -> None:
        """Count a picture, or why there is none."""
        self.read += 1
        if isinstance(seen, DataError):
            self.bad.append([place, reason_of(seen)])
            return
        if seen.is_constant:
            self.constant.append(place)
        if seen.shows_alpha:
            self.alpha.append(place)
        if seen.has_more:
            self.frames.append(place)
        self.kinds[seen.kind] = self.kinds.get(seen.kind, 0) + 1
        if seen.drops:
            self.dropped.append(place)
        if seen.is_transparent:
            self.transparent.append(place)
        if seen.lost:
            self.lost.append([place, seen.lost])
        side = min(seen.width, seen.height)
        if side < SMALL:
            self.sides.setdefault(str(side), [0, place])[0] += 1
        for ends, widest in ((seen.range, self.ranges), (seen.own, self.own)):
            if ends is not None:
                low, high = widest.get(seen.kind, ends)
                widest[seen.kind] = [min(low, ends[0]), max(high, ends[1])]
        if self.read <= ENCODED:
            for aspect, value in _encoding(seen).items():
                kept = self.encodings.setdefault(aspect, {})
                if value in kept or len(kept) < MAX_ENCODINGS:
                    kept.setdefault(value, []).append(place)
        if seen.no_data is not None:
            self._no_data.setdefault(seen.kind, set()).add(seen.no_data)
        if not seen.is_constant:
            self._pool(seen.kind, seen.values)

    def _pool(self, kind: str, values: np.ndarray[Any, Any]) -> None:
        """Keep values, of very many every second one."""
        import numpy as np

        pool = self._pools.setdefault(kind, [])
        pool.append(values)
        if len(pool) > 1 and sum(map(len, pool)) > POOLED:
            self._pools[kind] = [np.concatenate(pool)[::2]]

    def _stored(self) -> dict[str, str]:
        """How nearly all pictures are stored, where that changes what a model sees."""
        found = {}
        for aspect in ("depth", "color"):
            values = {key: len(places) for key, places in self.encodings.get(aspect, {}).items()}
            most = max(values, key=lambda key: values[key], default="")
            if values and values[most] >= NEARLY * sum(values.values()):
                found[aspect] = most
        return found

    def _told_by(
        self, labels: Sequence[int] | np.ndarray[Any, Any]
    ) -> dict[str, dict[str, list[int]]]:
        """Aspect → what it is → the labels of which nearly all pictures are so, where that tells
        nearly every label that has two pictures or more from some other."""
        found: dict[str, dict[str, list[int]]] = {}
        for aspect, values in self.encodings.items():
            if not 1 < len(values) < MAX_ENCODINGS:
                continue
            numbers: dict[int, Counter[str]] = {}
            for value, places in values.items():
                for place in places:
                    numbers.setdefault(int(labels[place]), Counter())[value] += 1
            numbers.pop(-1, None)
            pure: dict[str, list[int]] = {}
            for label, counts in sorted(numbers.items()):
                (value, most), every = counts.most_common(1)[0], counts.total()
                if every > 1 and most >= NEARLY * every:
                    pure.setdefault(value, []).append(label)
            told_apart = sum(map(len, pure.values()))
            if len(pure) > 1 and told_apart >= NEARLY * len(numbers):
                found[aspect] = pure
        return found

    def close(self) -> Findings:
        """Sum up the values, when all pictures are added."""
        import numpy as np

        for kind, pool in self._pools.items():
            values = np.concatenate(pool)
            if not len(values):
                continue
            every, counts = np.unique(values, return_counts=True)
            apart = without_data(every, self._no_data.get(kind, ()))
            values = values[~np.isin(values, every[apart])] if apart.any() else values
            # Ten digits: what binary fractions add after them is of no picture.
            low, high = (float(f"{end:.10g}") for end in np.percentile(values, PERCENTILES))
            levels = every[~apart]
            inside = (levels >= low) & (levels <= high)
            ends = self.ranges.get(kind) or [low, high]
            kept = inside & (levels >= ends[0]) & (levels <= ends[1])
            self.values[kind] = {
                "min": float(levels[0]),
                "max": float(levels[-1]),
                "low": low,
                "high": high,
                "levels": int(inside.sum()),
                "clipped": round(1 - float(kept.sum()) / max(1, int(inside.sum())), 4),
            }
            if ends[0] < ends[1]:  # as a model sees them, but for what no file of few values says
                shades = (np.clip(values, ends[0], ends[1]) - ends[0]) / (ends[1] - ends[0])
                self.values[kind]["mean"] = round(float(shades.mean()), 4)
                self.values[kind]["deviation"] = round(float(shades.std()), 4)
            share = float(((values < ends[0]) | (values > ends[1])).mean())
            self.values[kind]["outside"] = round(share, 4)
            one = _apart(levels.astype(np.float64))
            if one is not None and levels[one] in (low, high):
                share = float(counts[~apart][one] / counts.sum())
                self.values[kind]["alone"] = {"value": float(levels[one]), "share": share}
            apart &= 100 * counts > PERCENTILES[0] * counts.sum()  # fewer are hot pixels
            if apart.any():
                share = float(counts[apart].sum() / counts.sum())
                self.values[kind]["no_data"] = {
                    "values": [float(value) for value in every[apart]][:FEW],
                    "share": round(share, 4),
                }
        self._pools, self._no_data = {}, {}
        return self

    def to_dict(
        self, path: Callable[[int], str], labels: Sequence[int] | np.ndarray[Any, Any] = ()
    ) -> dict[str, Any]:
        """As JSON types, a few files named by reason: ``read, unreadable, constant, frames,
        values, dropped, transparent, lost, small``.

        Args:
            path: the name of a place.
            labels: class numbers by place; with them ``unreadable`` has ``by_label`` too, and
                ``encoded`` says by what the labels are told (`_told_by`).
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
        if stored := self._stored():
            found["stored"] = stored
        if len(labels) and (told_by := self._told_by(labels)):
            found["encoded"] = told_by
        if self.constant:
            found["constant"] = some_of(self.constant, path)
        if self.alpha:
            found["constant"]["alpha"] = len(self.alpha)
        if self.frames:
            found["frames"] = some_of(self.frames, path)
        if self.values:
            found["values"] = {
                kind: {
                    "count": self.kinds[kind],
                    **facts,
                    "range": self.ranges.get(kind),
                    "own": self.own.get(kind),
                }
                for kind, facts in self.values.items()
            }
        if self.dropped:
            found["dropped"] = some_of(self.dropped, path)
        if self.transparent:
            found["transparent"] = some_of(self.transparent, path)
        if self.lost:
            share = sum(share for _, share in self.lost) / len(self.lost)
            places = some_of([place for place, _ in self.lost], path)
            found["lost"] = {**places, "share": round(share, 4)}
        if self.sides:
            found["small"] = {
                side: {"count": count, "first": path(first)}
                for side, (count, first) in sorted(
                    self.sides.items(), key=lambda item: int(item[0])
                )
            }
        return found


def _encoding(seen: Glance) -> dict[str, str]:
    """What tells a picture from others before anything in it is looked at."""
    kind, depth = seen.values.dtype, seen.kind
    top = float(seen.values.max()) if len(seen.values) else 0.0
    if kind.kind == "f":
        depth += " up to 1" if top <= 1 else " beyond 1"
    elif seen.bits > 8:
        import numpy as np

        depth += " up to an eighth of its range" if top <= np.iinfo(kind).max / 8 else ""
    gray = seen.mode.partition(";")[0] in _GRAY or seen.mode.endswith("× 1")
    return {
        "format": seen.format,
        "depth": depth,
        "color": "gray" if gray else "color",
        "size": f"{seen.width} × {seen.height}",
    }


def without_data(levels: np.ndarray[Any, Any], named: Iterable[float] = ()) -> np.ndarray[Any, Any]:
    """Which of the values of pictures, each once and sorted, stand for no data: those that a file
    names so, and those of `NO_DATA` that lie apart from all others."""
    import numpy as np

    wide = levels.astype(np.float64)
    apart = np.isin(wide, [float(levels.dtype.type(one)) for one in named if _fits(one, levels)])
    if apart.all():
        return np.zeros_like(apart)
    while (place := _apart(wide[~apart])) is not None:
        value = float(wide[~apart][place])
        few = (~apart).sum() <= (2 if value < 0 or value >= VAST else MIN_LEVELS)
        if few or not (value in NO_DATA or abs(value) >= VAST):
            return apart
        apart |= wide == value
    return apart


def _apart(levels: np.ndarray[Any, Any]) -> int | None:
    """The place of the lowest or highest value, 0 or -1, where it is further from the next than
    half of what lies between all others; None: neither is."""
    if len(levels) < 3:
        return None
    below, above = float(levels[1] - levels[0]), float(levels[-1] - levels[-2])
    if below > (levels[-1] - levels[1]) / 2 and below >= above:
        return 0
    return -1 if above > (levels[-2] - levels[0]) / 2 else None


def _fits(value: float, levels: np.ndarray[Any, Any]) -> bool:
    """Whether a type can hold a value."""
    import numpy as np

    if levels.dtype.kind == "f":
        return abs(value) <= float(np.finfo(levels.dtype).max)
    limits = np.iinfo(levels.dtype)
    return bool(limits.min <= value <= limits.max) and value == int(value)


def reason_of(error: DataError) -> str:
    """Why a file is unreadable, without its name."""
    return error.message.removeprefix(f"{error.got} ")


def some_of(places: Sequence[int], path: Callable[[int], str]) -> dict[str, Any]:
    """``{"count", "files"}`` of places, the first few by name."""
    return {"count": len(places), "files": [path(place) for place in places[:FEW]]}


def survey_images(
    source: Source | Pairs, sample: int | None = SAMPLE, reading: Reading = DEFAULT
) -> Findings:
    """Read the pictures of a source, or an evenly spaced `sample` of them.

    Raises:
        StorageError: one could not be fetched.
    """
    where = source.path(0).removesuffix("/" + spelled(str(source.members[0])))

    def find() -> dict[str, Any]:
        found = Findings()
        places = spread(len(source), sample)
        work = in_parallel(places, lambda place: _glance_at(source, place, reading))
        for place, seen in told(
            zip(places, work, strict=True),
            lambda item: f"looking at {where}: {item[0] + 1} of {len(source)} images",
        ):
            found.add(place, seen)
        return asdict(found.close())

    return Findings(**kept(f"images {reading.key()}", source.digest, sample, find))


def measured(source: Source | Pairs, reading: Reading, sample: int | None = SAMPLE) -> Reading:
    """The same reading with the values of `source` that become 0 and 255, where it is to be
    measured: the 0.1 and 99.9 percentiles, so that a few hot pixels do not count.

    Raises:
        DataError: the pictures have different types, or nearly all their values are one.
        StorageError: one could not be fetched.
    """
    if reading.value_range != "auto":
        return reading
    found = survey_images(source, sample, reading)
    if len(found.values) > 1:
        kinds = ", ".join(f"{found.kinds[kind]} of {kind}" for kind in found.values)
        raise DataError(
            f"the pictures have different depths: {kinds}",
            field=VALUE_RANGE,
            got="auto",
            expected="one depth, of which a range can be measured",
            hint=depths.mend(depths.of_all([found.to_dict(source.path)]), "auto"),
        )
    facts = next(iter(found.values.values()), None)
    if facts is None or not facts["low"] < facts["high"]:
        why = f" ({found.bad[0][1]})" if found.bad else ""
        which = "no picture has a value"
        if facts is not None:
            which = f"{facts['low']:g} is both the 0.1 and the 99.9 percentile of the values"
        raise DataError(
            f"no range can be measured: {which}{why}",
            field=VALUE_RANGE,
            got="auto",
            expected="pictures whose values differ, or [low, high]",
            hint=f"set {VALUE_RANGE} to the lowest and the highest value that the pictures can "
            "have, such as [0, 1]",
        )
    return reading.between(facts["low"], facts["high"])


def _glance_at(source: Source | Pairs, place: int, reading: Reading) -> Glance | DataError:
    try:
        return glance(source.read(place), source.members[place], reading)
    except DataError as error:
        return error


def shared_images(
    one: Source | Pairs, other: Source | Pairs, sample: int = SAMPLE
) -> dict[str, Any]:
    """Images of `other` whose bytes are an image of `one` too.

    Returns:
        ``{"count", "pairs", "compared"}``: a few pairs of names, and how many images of `other`
        were compared, all of them or an evenly spaced sample; ``with`` and ``of``: how many images
        of `one` of the same sizes, where not all of these were read; ``apart``: count and first
        pair of those that are of one class here and of another there.
    """
    import numpy as np

    found: list[list[str]] = []
    apart: dict[str, Any] = {}
    count = 0
    theirs = np.asarray(spread(len(other), sample), dtype=np.int64)
    keys, wanted = one.keys, other.keys[theirs]
    exact = one.has_checksums and other.has_checksums
    if not exact:  # sizes alone
        keys, wanted = one.sizes, other.sizes[theirs]
    both = np.intersect1d(keys, wanted)
    mine = np.flatnonzero(np.isin(keys, both))
    candidates = theirs[np.isin(wanted, both)]
    every = len(mine)
    if not exact:  # each is read
        mine = mine[spread(every, 4 * sample)]

    place: dict[Any, int] = {}
    for i in mine.tolist():
        place.setdefault(int(keys[i]) if exact else _hash(one, i), i)
    for i in candidates.tolist():
        twin = place.get(int(other.keys[i]) if exact else _hash(other, i))
        if twin is not None:
            count += 1
            pair = [one.path(twin), other.path(i)]
            if len(found) < FEW:
                found.append(pair)
            if _class_at(one, twin) != _class_at(other, i):
                apart = {"count": apart.get("count", 0) + 1, "pair": apart.get("pair", pair)}
    some: dict[str, Any] = {"with": len(mine), "of": every} if len(mine) < every else {}
    if apart:
        some["apart"] = apart
    return {"count": count, "pairs": found, "compared": len(theirs), **some}


def _class_at(source: Source | Pairs, index: int) -> str | None:
    """The class of an image that has just one."""
    labels = getattr(source, "labels", None)
    if labels is None or getattr(source, "several", False) or labels[index] < 0:
        return None
    return str(getattr(source, "classes", ())[labels[index]])


def repeated_images(source: Source | Pairs, sample: int = SAMPLE) -> dict[str, Any]:
    """Images of a source whose bytes are those of another image of it.

    Of sources without checksums those of one size are read, at most four samples of them.

    Returns:
        ``{"count", "pair"}``: how many are copies, and the names of the first two; ``torn``, as
        such a table, of the images that lie in several classes at once, and ``images`` of those;
        ``with`` and ``of``: how many images of a common size there are, where not all of these were
        read. Empty where there are none.
    """
    import numpy as np

    places, same = _grouped(np.arange(len(source)), source.keys)
    some: dict[str, int] = {}
    if len(places) and not source.has_checksums:
        every = len(places)
        places = _to_read(places, same, 4 * sample)
        some = {"with": len(places), "of": every} if len(places) < every else {}

        def find() -> dict[str, Any]:
            numbers: dict[bytes, int] = {}
            hashes = in_parallel(places.tolist(), lambda place: _hash(source, place))
            return {"same": [numbers.setdefault(one, len(numbers)) for one in hashes], "bad": []}

        same = np.asarray(kept("copies", source.digest, sample, find)["same"], np.int64)
        places, same = _grouped(places, same)
    if not len(places):
        return {"count": 0, **some} if some else {}

    starts = np.flatnonzero(np.diff(same, prepend=-1))
    found: dict[str, Any] = {
        "count": len(places) - len(starts),
        "pair": [source.path(int(place)) for place in places[:2]],
        **some,
    }
    labels = getattr(source, "labels", None)
    if labels is None or getattr(source, "several", False):  # masks, or several classes on purpose
        return found
    low = np.minimum.reduceat(labels[places], starts)
    torn = np.flatnonzero(low != np.maximum.reduceat(labels[places], starts))
    if len(torn):
        ends = np.append(starts, len(places))
        group = places[starts[torn[0]] : ends[torn[0] + 1]].tolist()
        other = next(place for place in group if labels[place] != labels[group[0]])
        found["torn"] = {
            "count": len(torn),
            "images": int((ends[torn + 1] - starts[torn]).sum()),
            "pair": [source.path(group[0]), source.path(other)],
        }
    return found


def _to_read(
    places: np.ndarray[Any, Any], group: np.ndarray[Any, Any], most: int
) -> np.ndarray[Any, Any]:
    """At most so many places: whole groups, the small ones first, and an even spread of the next,
    which may be all of one class after another."""
    import numpy as np

    if len(places) <= most:
        return places
    order = np.lexsort((np.arange(len(places)), group, np.bincount(group)[group]))
    places, group = places[order], group[order]
    next_one = np.flatnonzero(group == group[most])
    first, rest = int(next_one[0]), places[next_one]
    return np.concatenate([places[:first], rest[spread(len(rest), most - first)]])


def _grouped(
    places: np.ndarray[Any, Any], keys: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The places that share their key with another, group by group, and the group of each."""
    import numpy as np

    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    alike = np.flatnonzero(counts[group] > 1)
    order = alike[np.argsort(group[alike], kind="stable")]
    return places[order], group[order]


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


def content_digest(sizes: Sequence[int], read: Callable[[int], bytes | None]) -> str:
    """What tells files from others of the same names: a sha256 of the number of bytes of each, and
    of the content of 64 of them, so that a large set costs no more than a small one.

    It is the same wherever the files lie, and of an archive that of its folder.

    Args:
        sizes: bytes of each file, -1 where there is none.
        read: the content of one, by its place; None where there is none.
    """
    found = hashlib.sha256(json.dumps(sizes).encode())
    for place in spread(len(sizes), 64):
        with contextlib.suppress(DataError):  # unreadable, as it was, or another than it was
            found.update(hashlib.sha256(read(place) or b"").digest())
    return found.hexdigest()


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
