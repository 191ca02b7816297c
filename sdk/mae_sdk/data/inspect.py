"""What a data source holds: counts, sizes, channels, classes, unreadable files, mean and std,
duplicates, a contact sheet."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_sdk.data.source import Source, open_source

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_PIXELS = 178_956_970
LISTED = 50
SHEET = (8, 6)
TILE = 96


def inspect_source(
    uri: str | os.PathLike[str] | Sequence[str],
    *,
    other: str | os.PathLike[str] | Sequence[str] | None = None,
    contact_sheet: str | os.PathLike[str] | None = None,
    statistics_from: int = 2000,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Read every image of a source once and report what it holds.

    Args:
        uri: what `open_source` takes.
        other: a second source (validation against training): images with the same bytes in both are
            reported as leaks.
        contact_sheet: where to write a PNG of up to 48 evenly spaced images; ``None`` = nowhere.
        statistics_from: mean and std come from at most this many evenly spaced images.

    Returns:
        JSON types: ``sources, digest, images, bytes, classes {name: count}, unlabelled, width and
        height {min, median, max}, formats, channels, unreadable {count, files}, mean, std (of RGB
        in 0–1, over pixels), duplicates {count, groups}, shared {count, pairs}, contact_sheet``.
        Lists of files are bounded to 50; the counts are not.

    Raises:
        DataError: the source is missing, empty or hostile.
        StorageError: it could not be read.
    """
    import numpy as np

    source = open_source(uri, cache_dir)
    chosen = set(
        np.unique(
            np.linspace(0, len(source) - 1, min(len(source), statistics_from)).astype(int)
        ).tolist()
    )
    widths, heights = [], []
    formats: Counter[str] = Counter()
    channels: Counter[str] = Counter()
    unreadable: list[str] = []
    hashes: dict[bytes, list[int]] = {}
    bytes_total, pixels = 0, 0
    total, squares = np.zeros(3), np.zeros(3)
    for i in range(len(source)):
        data = source.read(i)
        bytes_total += len(data)
        hashes.setdefault(_hash(data), []).append(i)
        try:
            with _open(data) as picture:
                formats[picture.format or "unknown"] += 1
                channels[picture.mode] += 1
                picture.load()
                widths.append(picture.width)
                heights.append(picture.height)
                if i in chosen:
                    values = _rgb(picture).reshape(-1, 3).astype(np.float64) / 255
                    total += values.sum(0)
                    squares += np.square(values).sum(0)
                    pixels += len(values)
        except MemoryError:
            raise
        except (
            Exception
        ):  # Pillow raises many kinds for damaged files; here they all mean: unreadable
            unreadable.append(source.path(i))

    mean = total / max(1, pixels)
    std = np.sqrt(np.maximum(squares / max(1, pixels) - np.square(mean), 0))
    classes = source.classes
    counts = np.bincount(source.labels[source.labels >= 0], minlength=len(classes))
    report: dict[str, Any] = {
        "sources": source.uris,
        "digest": source.digest,
        "images": len(source),
        "bytes": bytes_total,
        "classes": {name: int(count) for name, count in zip(classes, counts, strict=True)},
        "unlabelled": int((source.labels < 0).sum()),
        "width": _spread(widths),
        "height": _spread(heights),
        "formats": dict(formats.most_common()),
        "channels": dict(channels.most_common()),
        "unreadable": {"count": len(unreadable), "files": unreadable[:LISTED]},
        "mean": [round(float(value), 4) for value in mean] if pixels else None,
        "std": [round(float(value), 4) for value in std] if pixels else None,
        "duplicates": _duplicates(source, hashes),
    }
    if other is not None:
        report["shared"] = _shared(source, hashes, open_source(other, cache_dir))
    if contact_sheet is not None:
        report["contact_sheet"] = str(write_contact_sheet(source, contact_sheet))
    return report


def write_contact_sheet(source: Source, path: str | os.PathLike[str]) -> Path:
    """A PNG of up to 8 × 6 evenly spaced images; unreadable ones are crossed out."""
    import numpy as np
    from PIL import Image, ImageDraw

    columns = min(SHEET[0], len(source))
    places = np.unique(
        np.linspace(0, len(source) - 1, min(len(source), SHEET[0] * SHEET[1])).astype(int)
    ).tolist()
    rows = -(-len(places) // columns)
    sheet = Image.new("RGB", (columns * (TILE + 4) + 4, rows * (TILE + 4) + 4), "white")
    for number, i in enumerate(places):
        x, y = 4 + (number % columns) * (TILE + 4), 4 + (number // columns) * (TILE + 4)
        try:
            with _open(source.read(i)) as picture:
                tile = Image.fromarray(_rgb(picture))
            tile.thumbnail((TILE, TILE))
            sheet.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
        except MemoryError:
            raise
        except Exception:
            ImageDraw.Draw(sheet).line((x, y, x + TILE, y + TILE), "red", 3)
            ImageDraw.Draw(sheet).line((x + TILE, y, x, y + TILE), "red", 3)

    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, "PNG")
    return out


def _open(data: bytes) -> Picture:
    from PIL import Image

    picture = Image.open(io.BytesIO(data))
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError("too many pixels")
    return picture


def _rgb(picture: Picture) -> Any:
    """uint8 [H, W, 3], upright; 16-bit grey scaled to 8 bits, as the runners read it."""
    import numpy as np
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        grey = ((np.clip(np.asarray(upright).astype(np.int64), 0, 65535) + 128) // 257).astype(
            np.uint8
        )
        return np.repeat(grey[..., None], 3, axis=2)
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return np.asarray(upright.convert("RGB"))


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _spread(values: Iterable[int]) -> dict[str, int] | None:
    ordered = sorted(values)
    if not ordered:
        return None
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}


def _duplicates(source: Source, hashes: dict[bytes, list[int]]) -> dict[str, Any]:
    groups = [group for group in hashes.values() if len(group) > 1]
    return {
        "count": sum(len(group) - 1 for group in groups),
        "groups": [[source.path(i) for i in group[:5]] for group in groups[:LISTED]],
    }


def _shared(source: Source, hashes: dict[bytes, list[int]], other: Source) -> dict[str, Any]:
    count = 0
    pairs: list[list[str]] = []
    for i in range(len(other)):
        twins = hashes.get(_hash(other.read(i)))
        if twins:
            count += 1
            if len(pairs) < LISTED:
                pairs.append([source.path(twins[0]), other.path(i)])
    return {"count": count, "pairs": pairs}
