"""Masks as they are stored: their values, and what a set of them holds."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError, StorageError

from mae_sdk.data.inspect import LISTED, MAX_PIXELS
from mae_sdk.data.pairs import open_pairs

if TYPE_CHECKING:
    import numpy as np


def read_values(data: bytes, name: str) -> np.ndarray[Any, Any]:
    """The values of a mask file as they stand, uint8 or uint16 [H, W]; of a palette image the
    indices.

    Raises:
        DataError: unreadable, a JPEG, of several channels, or of values beyond 16 bits.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{name} has more than {MAX_PIXELS} pixels", got=name)
            if picture.format == "JPEG":
                raise DataError(
                    f"{name} is a JPEG: its compression changes class numbers",
                    got=name,
                    expected="PNG or another exact format",
                )
            if picture.mode not in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
                raise DataError(
                    f"{name} has the channels {picture.mode}, not class numbers",
                    got=picture.mode,
                    expected="one channel (or a palette) of class numbers",
                    hint="map the colors to class numbers once, and save one channel",
                )
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            values = np.asarray(upright if upright is not None else picture)
    except (DataError, MemoryError):
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error … for damaged files.
    except Exception as error:
        raise DataError(
            f"{name} cannot be read as a mask: {str(error)[:120] or type(error).__name__}", got=name
        ) from error

    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.uint8:
        return values
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise DataError(
            f"{name} holds values beyond 16 bits", got=name, expected="class numbers below 65536"
        )

    return values.astype(np.uint16)


def inspect_masks(
    images: str | os.PathLike[str] | Sequence[str],
    masks: str | os.PathLike[str] | Sequence[str] | None = None,
    *,
    role: str = "train",
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Read every mask of a source once and report what it holds.

    Args:
        images, masks, role: what `open_pairs` takes.

    Returns:
        JSON types: ``digest, images, masks, values {value: {"pixels": share of all, "images":
        count}}, without_mask, unreadable, other_size {count, files}``; lists of files are bounded
        to 50, the counts are not.

    Raises:
        DataError: a source is missing, empty or hostile, or there are no masks at all.
        StorageError: it could not be read.
    """
    import numpy as np
    from PIL import Image

    try:
        pairs = open_pairs(images, masks, role=role, required=True, cache_dir=cache_dir)
    except DataError as error:
        pairs = open_pairs(images, masks, role=role, required=False, cache_dir=cache_dir)
        if not pairs.masked:
            raise error

    pixels: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    bare, unreadable, other = [], [], []
    for i in range(len(pairs)):
        data, name = pairs.read_mask(i), pairs.mask_path(i)
        if data is None or name is None:
            bare.append(pairs.path(i))
            continue
        try:
            values = read_values(data, name)
            with Image.open(io.BytesIO(pairs.read(i))) as picture:
                size = picture.size[::-1]
                turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except (DataError, StorageError, OSError, SyntaxError, ValueError) as error:
            unreadable.append(f"{name}: {getattr(error, 'message', error)}")
            continue
        if values.shape != (size[::-1] if turned else size):
            other.append(name)
        counts = np.bincount(values.ravel())
        for value in np.flatnonzero(counts):
            pixels[int(value)] += int(counts[value])
            seen[int(value)] += 1

    total = sum(pixels.values())
    return {
        "digest": pairs.digest,
        "images": len(pairs),
        "masks": pairs.masked,
        "values": {
            str(value): {"pixels": round(pixels[value] / total, 6), "images": seen[value]}
            for value in sorted(pixels)
        },
        "without_mask": {"count": len(bare), "files": bare[:LISTED]},
        "unreadable": {"count": len(unreadable), "files": unreadable[:LISTED]},
        "other_size": {"count": len(other), "files": other[:LISTED]},
    }
