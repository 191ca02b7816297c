"""Color of more than 8 bits in JPEG 2000 and PPM, of which Pillow keeps the high byte alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[Any, Any]

_CODESTREAM = b"\xff\x4f\xff\x51"
"""Markers that a JPEG 2000 codestream begins with: its start, and its size."""

_COMPONENTS = 40
"""Bytes from these markers to the number of components; three follow for each."""

_PNM = re.compile(rb"(P[36])" + rb"(?:\s|#[^\n\r]*[\n\r])+(\d+)" * 3 + rb"(?:#[^\n\r]*[\n\r])?\s")


def deep_color(data: bytes, format: str | None, name: str) -> tuple[Values, int] | None:
    """The pixels [H, W, bands] and the bits of a value; None: Pillow reads all of the file.

    Raises:
        DataError: the file is damaged, or a package that reads it is missing.
    """
    if format == "PPM" and data[:2] in (b"P3", b"P6"):
        return _ppm(data, name)
    if format == "JPEG2000":
        return _jpeg2000(data, name)
    return None


def _ppm(data: bytes, name: str) -> tuple[Values, int] | None:
    """Values of 0 … maxval at 0 … 65535, as Pillow has those of a PGM."""
    import numpy as np

    header = _PNM.match(data)
    if header is None or int(header[4]) <= 255:
        return None
    width, height, top = (int(header[i]) for i in (2, 3, 4))
    count = width * height * 3
    try:
        if header[1] == b"P6":
            flat = np.frombuffer(data, ">u2", count, header.end()).astype(np.int64)
        else:
            words = re.sub(rb"#[^\n\r]*", b"", data[header.end() :]).split()[:count]
            flat = np.array(words, dtype=np.int64)
    except ValueError:
        flat = np.zeros(0, dtype=np.int64)
    if len(flat) != count or top > 65535 or flat.max(initial=0) > top or flat.min(initial=0) < 0:
        raise DataError(
            f"{name} cannot be read as an image: its pixels are not what its header says", got=name
        )
    scaled = np.rint(flat * (65535 / top)) if top < 65535 else flat
    return scaled.astype(np.uint16).reshape(height, width, 3), 16


def _jpeg2000(data: bytes, name: str) -> tuple[Values, int] | None:
    import numpy as np

    at = data.find(_CODESTREAM)
    start = at + _COMPONENTS + 2
    count = int.from_bytes(data[at + _COMPONENTS : start], "big")
    sizes = {(byte & 0x7F) + 1 for byte in data[start : start + 3 * count : 3]}
    if at < 0 or count < 2 or not sizes or max(sizes) <= 8:
        return None
    try:
        import imagecodecs
    except ImportError as error:
        raise DataError(
            f"{name} is JPEG 2000 with {max(sizes)} bits of color, which need imagecodecs",
            got=name,
            hint="pip install 'mae-skill[pictures]'",
        ) from error
    try:
        values: Values = np.ascontiguousarray(imagecodecs.jpeg2k_decode(data))
    except Exception as error:  # of the library's own kinds
        raise DataError(
            f"{name} cannot be read as an image: {str(error)[:120]}", got=name
        ) from error
    if values.ndim != 3 or values.shape[2] != count:
        raise DataError(
            f"{name} has {count} components, read as {list(values.shape)}",
            got=list(values.shape),
            expected=f"[height, width, {count}]",
        )
    return values, max(sizes)
