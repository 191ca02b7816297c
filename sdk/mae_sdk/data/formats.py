"""Pictures as their files store them: values of any depth, with what the format says of them.

Pillow reads what has 8 bits, and 16 bits of gray; `tifffile` the TIFFs beyond that (bands, signed,
32 bits, floating point); OpenCV PNGs of 16 bits of color; imagecodecs JPEG 2000 of such; numpy
PPMs of such, and ``.npy``; `pydicom` DICOM.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError, DependencyError

from mae_sdk.data.deep_color import deep_color
from mae_sdk.data.dicom import PIXELS, cannot_decode, check_elements, depth_of, is_inverted, shades
from mae_sdk.data.pictures import bits, check_size, open_picture, to_rgb, turned
from mae_sdk.data.reading import Reading

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

    Values = np.ndarray[Any, Any]

EXTRA = "pip install 'mae-skill[pictures]'"
_ORIENTATION = 274
_NO_DATA = 42113
"""GDAL's tag of a TIFF: the value that stands for no data, as text."""

_PLAIN = frozenset({0, 1, 2, 3, 5, 6, 8})
"""Photometric interpretations whose 8 bits Pillow reads: gray, RGB, palette, CMYK, YCbCr, Lab."""

_ALPHA = (1, 2)  # kinds of extra samples; 0 states no meaning


@dataclass
class Stored:
    """One picture as its file stores it.

    Attributes:
        values: [H, W, bands], not turned.
        format, mode: the file's format, and its bands in words.
        bits: of a value, as stored.
        range: the values that a display shows as black and white; None: the type does not say.
        width, height: as stored, whatever reduction it was decoded at.
        turn: the orientation that the file states, as EXIF numbers it.
        has_more: it holds further frames or pages.
        is_color: the first three bands are red, green, blue.
        has_alpha: the last band is alpha.
        has_extra: the last band is taken for alpha, though the file does not say what it is.
        is_inverted: low values are white.
        no_data: the value that stands for no data, where the file names one.
    """

    values: Values
    format: str
    mode: str
    bits: int
    range: tuple[float, float] | None
    width: int
    height: int
    turn: int = 1
    has_more: bool = False
    is_color: bool = False
    has_alpha: bool = False
    has_extra: bool = False
    is_inverted: bool = False
    no_data: float | None = None


def read_stored(data: bytes, name: str, reading: Reading) -> Stored:
    """One picture, by the format that its content has.

    Raises:
        DataError: not an image, truncated, corrupt, too large.
    """
    if data[:6] == b"\x93NUMPY":
        return _npy(data, name, reading)
    if data[128:132] == b"DICM" or (data and name.lower().endswith((".dcm", ".dicom"))):
        return _dicom(data, name, reading)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        with _as_data_error(name):
            found = _tiff(data, name, reading)
        if found is not None:
            return found
    with open_picture(data, name, reading.max_pixels) as picture:
        return _pillow(picture, data, name, reading)


@contextlib.contextmanager
def _as_data_error(name: str) -> Iterator[None]:
    """Whatever a library raises over a damaged file, as an error of the data."""
    try:
        yield
    except (DataError, DependencyError, MemoryError):
        raise
    except Exception as error:
        detail = str(error)[:120] or type(error).__name__
        raise DataError(f"{name} cannot be read as an image: {detail}", got=name) from error


def of_picture(picture: Picture, reading: Reading) -> Stored:
    """A Pillow image in memory, with the orientation that it states."""
    values = _bands(picture, reading.channels)
    found = of_array(values)
    found.mode, found.turn = picture.mode, turned(picture)
    found.has_alpha = values.shape[2] in (2, 4)
    return found


def of_array(values: Values) -> Stored:
    """An array [H, W, bands] in memory."""
    depth = 8 * values.dtype.itemsize
    height, width, bands = values.shape
    mode = f"{values.dtype} × {bands}"
    limits = type_range(values, depth)
    return Stored(values, "array", mode, depth, limits, width, height, is_color=bands >= 3)


def type_range(values: Values, depth: int) -> tuple[float, float] | None:
    """The range of whole numbers of up to 16 bits; other types have none that means anything."""
    if values.dtype.kind == "u" and depth <= 16:
        return 0.0, float(2**depth - 1)
    if values.dtype.kind == "i" and depth <= 16:
        return float(-(2 ** (depth - 1))), float(2 ** (depth - 1) - 1)
    return None


# ---- Pillow -------------------------------------------------------------------------------------


def _pillow(picture: Picture, data: bytes, name: str, reading: Reading) -> Stored:
    import numpy as np

    more = bool(getattr(picture, "is_animated", False))
    depth, mode = bits(picture, data), picture.mode
    if picture.format == "PNG" and depth > 8 and mode in ("RGB", "RGBA", "LA"):
        picture.load()  # a cut file is an error here, half a picture in OpenCV
        values = _deep_png(data, name, mode)
    elif deep := deep_color(data, picture.format, name):
        values, depth = deep
    else:
        picture.load()
        values = _bands(picture, reading.channels)
    if (
        values.dtype.kind == "i" and mode.startswith("I") and depth <= 16
    ):  # Pillow's mode I of 16-bit PGM and PNG
        values = values.astype(np.uint16)
    if values.dtype == np.uint8:
        depth = 8
    return Stored(
        values,
        picture.format or "unknown",
        mode,
        depth,
        type_range(values, depth),
        picture.width,
        picture.height,
        turned(picture),
        more,
        is_color=values.shape[2] >= 3,
        has_alpha=values.shape[2] in (2, 4),
        no_data=_no_data(dict(getattr(picture, "tag_v2", None) or {}).get(_NO_DATA)),
    )


def _no_data(tag: Any) -> float | None:
    """The value of GDAL's tag; None: there is none, or NaN, which is no number anyway."""
    if tag is None:
        return None
    text = tag.decode("ascii", "replace") if isinstance(tag, bytes) else str(tag)
    try:
        value = float(text.strip("\0 "))
    except ValueError:
        return None
    return None if value != value else value


def _bands(picture: Picture, channels: int | None) -> Values:
    """The bands of an open picture, [H, W, B]; as RGB where three are wanted."""
    import numpy as np

    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        return np.asarray(picture)[..., None]
    if channels in (None, 3):
        return to_rgb(picture)
    if mode in ("1", "L", "LA", "La") and channels == 1:
        return np.array(picture.convert("L"))[..., None]
    if mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif mode in ("1", "L"):
        picture = picture.convert("L")
    elif mode not in ("LA", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    values = np.array(picture)
    return values if values.ndim == 3 else values[..., None]


def _deep_png(data: bytes, name: str, mode: str) -> Values:
    """16 bits of color, of which Pillow keeps the high byte."""
    import numpy as np

    try:
        import cv2
    except ImportError as error:
        raise DataError(
            f"{name} has 16 bits of color, which need OpenCV",
            got=name,
            hint="pip install 'mae-skill[train]'",
        ) from error
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise DataError(f"{name} cannot be read as an image: OpenCV refuses it", got=name)
    if mode == "LA":
        return np.ascontiguousarray(values[..., [0, 3]])
    order = [2, 1, 0] if values.shape[2] == 3 else [2, 1, 0, 3]
    return np.ascontiguousarray(values[..., order])


# ---- TIFF ---------------------------------------------------------------------------------------


class _MissingCodec(DataError):
    """A compression that needs an optional package."""


def _tiff(data: bytes, name: str, reading: Reading) -> Stored | None:
    """A TIFF by `tifffile`; None where Pillow reads all of it."""
    import numpy as np
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is raised
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        check_size(page.imagewidth, page.imagelength, name, reading.max_pixels)
        photometric, samples = int(page.photometric), int(page.samplesperpixel)
        depth, dtype = int(page.bitspersample), page.dtype
        extra = len(page.extrasamples)
        if dtype is None:
            raise DataError(
                f"{name} cannot be read as an image: {depth} bits of an unknown type", got=name
            )
        pages = len(file.pages)
        stack = samples == 1 and reading.channels not in (None, 1) and pages == reading.channels
        plain = depth <= 8 and dtype.kind in "ub" and photometric in _PLAIN
        plain = plain and (samples - extra <= 1 or photometric not in (0, 1)) and not stack
        plain = plain and (not extra or (reading.channels in (None, 1, 3) and samples <= 4))
        if plain and all(int(one) in _ALPHA for one in page.extrasamples):
            return None
        if dtype == np.uint16 and samples == 1 and photometric == 1 and not stack and depth == 16:
            return None

        try:
            parts = [_page(one, name) for one in (file.pages if stack else [page])]
        except _MissingCodec:
            if plain:
                return None  # Pillow has its own
            raise
        values = np.concatenate(parts, axis=2)
        turn, no_data = page.tags.get(_ORIENTATION), page.tags.get(_NO_DATA)
        is_color = photometric == 2 and values.shape[2] >= 3
        has_alpha = values.shape[2] == (4 if is_color else 2) and extra == 1
        return Stored(
            values,
            "TIFF",
            f"{values.dtype} × {values.shape[2]}",
            depth,
            type_range(values, depth),
            page.imagewidth,
            page.imagelength,
            int(turn.value) if turn is not None and 1 <= int(turn.value) <= 8 else 1,
            pages > 1 and not stack,
            is_color=is_color,
            has_alpha=has_alpha,
            has_extra=has_alpha and int(page.extrasamples[0]) not in _ALPHA,
            is_inverted=photometric == 0,
            no_data=_no_data(no_data.value if no_data is not None else None),
        )


def _page(page: Any, name: str) -> Values:
    """A page as [H, W, bands]."""
    import numpy as np

    try:
        values = page.asarray(maxworkers=1)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        compression = getattr(page.compression, "name", page.compression)
        raise _MissingCodec(
            f"{name} is compressed by {compression}, which needs imagecodecs ({EXTRA})",
            got=name,
        ) from error
    if page.axes not in ("YX", "YXS", "SYX"):
        raise DataError(
            f"{name} has the axes {page.axes}", got=page.axes, expected="height, width, bands"
        )
    if page.axes == "SYX":
        values = values.transpose(1, 2, 0)
    values = values if values.ndim == 3 else values[..., None]
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))


# ---- arrays -------------------------------------------------------------------------------------


def read_array(data: bytes, name: str, reading: Reading) -> Values:
    """A ``.npy`` file as [H, W, bands]: ``[H, W]``, ``[H, W, bands]``, or ``[bands, H, W]`` where
    only the first axis has as many as are wanted.

    Raises:
        DataError: another shape, too many pixels, or values that are no numbers.
    """
    import numpy as np

    with _as_data_error(name):
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        header: Any = np.lib.format
        read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
        shape, _, dtype = read(stream)
        what = f"an array {list(shape)} of {dtype}"
        if dtype.kind not in "uifb" or len(shape) not in (2, 3):
            raise DataError(
                f"{name} holds {what}",
                got=what,
                expected="numbers [height, width] or [height, width, bands]",
            )
        wanted = reading.bands
        first = len(shape) == 3 and shape[2] != wanted and shape[0] in (wanted, 1)
        height, width = shape[1:] if first else shape[:2]
        check_size(width, height, name, reading.max_pixels)
        values: Values = np.load(io.BytesIO(data), allow_pickle=False)
    if first:
        values = values.transpose(1, 2, 0)
    values = values if values.ndim == 3 else values[..., None]
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))


def _npy(data: bytes, name: str, reading: Reading) -> Stored:
    import numpy as np

    values = read_array(data, name, reading)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8) * 255
    height, width, bands = values.shape
    depth = 8 * values.dtype.itemsize
    return Stored(
        values,
        "NPY",
        f"{values.dtype} × {bands}",
        depth,
        type_range(values, depth),
        width,
        height,
        is_color=bands == 3,
    )


# ---- DICOM --------------------------------------------------------------------------------------


def _dicom(data: bytes, name: str, reading: Reading) -> Stored:
    """The first frame, in the units of the modality (Hounsfield units of a CT), with the range that
    a display would show; see `mae_sdk.data.dicom`."""
    import numpy as np

    try:
        import pydicom
        from pydicom import pixels as dicom
    except ImportError as error:
        raise DataError(f"{name} is DICOM, which needs pydicom ({EXTRA})", got=name) from error

    # Bytes of a damaged file do not belong on a terminal; what is wrong with one is raised.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    pixels: Any = dicom
    with _as_data_error(name):
        file: Any = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
        if "Rows" not in file or not any(word in file for word in PIXELS):
            raise DataError(f"{name} is a DICOM file without a picture", got=name)
        check_elements(file, name)
        check_size(int(file.Columns), int(file.Rows), name, reading.max_pixels)
        photometric = str(file.PhotometricInterpretation)
        frames = int(file.get("NumberOfFrames") or 1)
        try:
            values = pixels.pixel_array(file, index=0)
        except (RuntimeError, NotImplementedError, AttributeError, ValueError) as error:
            raise cannot_decode(file, name, error) from error
        depth = depth_of(file)
        if photometric == "PALETTE COLOR":
            values = pixels.apply_color_lut(values, file)
            values = (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values
            depth = 8
        limits = type_range(values, depth)
        if values.ndim == 2:
            # A range that the person states, or that is measured, takes the place of the file's.
            view = reading.value_range == "dtype"
            values, limits = shades(values, file, limits, name, view=view)
    values = values if values.ndim == 3 else values[..., None]
    return Stored(
        np.ascontiguousarray(values),
        "DICOM",
        photometric,
        depth,
        limits,
        int(file.Columns),
        int(file.Rows),
        has_more=frames > 1,
        is_color=values.shape[2] == 3,
        is_inverted=values.shape[2] == 1 and is_inverted(file),
    )
