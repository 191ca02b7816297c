"""The gray values of a DICOM file as a display would show them (DICOM PS3.3 C.11.1 and C.11.2).

First the modality: a table, or slope and intercept. Then the view: a window (linear, exactly
linear, sigmoid), or a table. Each is looked for at the top and among what the file says of its
frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[Any, Any]
    Limits = tuple[float, float]

_REQUIRED = {
    "TransferSyntaxUID": "0002,0010",
    "SamplesPerPixel": "0028,0002",
    "PhotometricInterpretation": "0028,0004",
    "Rows": "0028,0010",
    "Columns": "0028,0011",
    "BitsAllocated": "0028,0100",
}
_OF_WHOLE_NUMBERS = {"BitsStored": "0028,0101", "PixelRepresentation": "0028,0103"}
_TAGS = {
    **_REQUIRED,
    **_OF_WHOLE_NUMBERS,
    "WindowCenter": "0028,1050",
    "WindowWidth": "0028,1051",
    "RescaleIntercept": "0028,1052",
    "RescaleSlope": "0028,1053",
    "VOILUTFunction": "0028,1056",
    "ModalityLUTSequence": "0028,3000",
    "LUTDescriptor": "0028,3002",
    "LUTData": "0028,3006",
    "VOILUTSequence": "0028,3010",
    "PresentationLUTShape": "2050,0020",
}
_OF_FRAMES = {
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
"""Where the values of a picture are."""
RANGE = "dataset.value_range=[low, high] takes the place of what the file says of its view"


def check_elements(file: Any, name: str) -> None:
    """Refuse a file without an element that its picture needs.

    Raises:
        DataError: it lacks one, or one is empty.
    """
    for word in (*_REQUIRED, *(_OF_WHOLE_NUMBERS if "PixelData" in file else ())):
        holder = file.file_meta if word == "TransferSyntaxUID" else file
        value = holder.get(word) if holder is not None else None
        if value is None or value == "":
            raise DataError(
                f"{name} is a DICOM file without {_tag(word)}",
                got=name,
                expected="the elements that every picture has",
                hint="write the file again with the element, or take it out",
            )


def depth_of(file: Any) -> int:
    """Bits of a stored value."""
    return int(file.BitsStored if "PixelData" in file else file.BitsAllocated)


def is_inverted(file: Any) -> bool:
    """Whether low values are white; of what says so twice, once."""
    shape = str(file.get("PresentationLUTShape") or "").strip().upper()
    return str(file.PhotometricInterpretation) == "MONOCHROME1" or shape == "INVERSE"


def cannot_decode(file: Any, name: str, error: Exception) -> DataError:
    """What to say of pixels that pydicom did not decode: the package that would, where none of
    those that can is here."""
    from pydicom import pixels

    lib: Any = pixels
    uid = file.file_meta.get("TransferSyntaxUID")
    syntax = getattr(uid, "name", "") or "DICOM"
    missing: list[str] = []
    try:
        decoder = lib.get_decoder(uid)
        if not decoder.is_available:
            missing = list(decoder.missing_dependencies)
    except (NotImplementedError, ValueError):
        missing = []
    if not missing:
        return DataError(f"{name} ({syntax}) cannot be decoded: {str(error)[:200]}", got=name)
    plugin = next((line for line in missing if "pylibjpeg-" in line), missing[0])
    words = [word.partition(">")[0] for word in plugin.partition("requires ")[2].split(" and ")]
    return DataError(
        f"{name} is compressed as {syntax}, which no package here decodes",
        got=syntax,
        expected="a syntax that is not compressed, JPEG, JPEG 2000 or RLE",
        hint=f"pip install {' '.join(words)}, or decompress the files first, such as by "
        "gdcmconv --raw IN OUT",
    )


def shades(
    values: Values, file: Any, limits: Limits | None, name: str, *, view: bool
) -> tuple[Values, Limits | None]:
    """Gray values [H, W] in the units of the modality, and those that are black and white.

    Args:
        values: as stored.
        limits: the range of what can be stored; None of numbers with a fraction.
        view: apply the file's window or table; else nobody asks for it.

    Returns:
        The values, which are the output of the view where it is a table or no straight line, and
        the ends of the range: those of the window or table, else of the modality.

    Raises:
        DataError: an element says what nothing can be computed with.
    """
    import numpy as np

    said = _said(file)
    values, limits = _modality(values, file, said, limits, name)
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    return _view(values, limits, file, said, name) if view else (values, limits)


def _said(file: Any) -> dict[str, Any]:
    """What the file says of its gray values: for the first frame, for all, or at the top."""
    stored = _REQUIRED | _OF_WHOLE_NUMBERS
    found = {word: file.get(word) for word in _TAGS if word not in stored}
    for group in _GROUPS:
        for frames in list(file.get(group) or ())[:1]:
            for sequence, names in _OF_FRAMES.items():
                for item in list(frames.get(sequence) or ())[:1]:
                    found.update({word: item.get(word) for word in names if word in item})
    empty = {word for word in found if word.endswith("Sequence") and not found[word]}
    return {word: value for word, value in found.items() if value is not None and word not in empty}


def _modality(
    values: Values, file: Any, said: Mapping[str, Any], limits: Limits | None, name: str
) -> tuple[Values, Limits | None]:
    import numpy as np

    if "ModalityLUTSequence" in said:
        return _looked_up(values, file, said["ModalityLUTSequence"], "ModalityLUTSequence", name)
    slope = _number(said, "RescaleSlope", name)
    intercept = _number(said, "RescaleIntercept", name)
    if slope is None and intercept is None:
        return values, limits
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0:
        raise DataError(
            f"{name} has the value 0 for {_tag('RescaleSlope')}: all pixels would become one",
            got=0,
            expected="another number than 0",
            hint="correct the element, or take it out together with RescaleIntercept",
        )
    values = values.astype(np.float64) * slope + intercept
    if limits is None:
        return values, None
    low, high = sorted(end * slope + intercept for end in limits)
    return values, (low, high)


def _view(
    values: Values, limits: Limits | None, file: Any, said: Mapping[str, Any], name: str
) -> tuple[Values, Limits | None]:
    """Values and range of the first window, else of the first table, else as they are."""
    import numpy as np

    center, width = (_number(said, word, name) for word in ("WindowCenter", "WindowWidth"))
    if (center is None) != (width is None):
        have, lack = ("WindowCenter", "WindowWidth")[:: 1 if width is None else -1]
        raise DataError(
            f"{name} has {_tag(have)} without {_tag(lack)}", got=name, expected="both", hint=RANGE
        )
    if center is None or width is None:
        if "VOILUTSequence" in said:
            return _looked_up(values, file, said["VOILUTSequence"], "VOILUTSequence", name)
        return values, limits

    kind = str(said.get("VOILUTFunction") or "LINEAR").strip().upper()
    if kind not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise DataError(
            f"{name} has an unknown {_tag('VOILUTFunction')}",
            got=kind,
            expected="LINEAR, LINEAR_EXACT or SIGMOID",
            hint=RANGE,
        )
    if width <= 0 or (kind == "LINEAR" and width < 1):
        raise DataError(
            f"{name} has a window of no width, {_tag('WindowWidth')}",
            got=width,
            expected="at least 1" if kind == "LINEAR" else "more than 0",
            hint=RANGE,
        )
    if kind == "SIGMOID":
        steep = np.clip(-4.0 * (values.astype(np.float64) - center) / width, -700, 700)
        return (1.0 / (1.0 + np.exp(steep))).astype(np.float32), (0.0, 1.0)
    if kind == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:  # black up to the center, white beyond
        return (values > center).astype(np.float32), (0.0, 1.0)
    return values, (center - width / 2, center + width / 2)


def _looked_up(
    values: Values, file: Any, items: Any, sequence: str, name: str
) -> tuple[Values, Limits]:
    """Values after the first table of a sequence, and the range of its bits: that of the table,
    whatever a picture holds of it."""
    import numpy as np

    descriptor, data = (items[0].get(word) for word in ("LUTDescriptor", "LUTData"))
    try:
        entries, first, depth = (int(number) for number in descriptor or ())
        entries = entries or 1 << 16
        if isinstance(data, bytes):
            order = "<" if file.original_encoding[1] is not False else ">"
            narrow = depth <= 8 and len(data) in (entries, entries + 1)
            table = np.frombuffer(data, np.uint8 if narrow else f"{order}u2")[:entries]
        else:
            table = np.atleast_1d(np.asarray([] if data is None else data, dtype=np.int64))
    except (TypeError, ValueError):
        entries, first, depth, table = 0, 0, 0, np.zeros(0)
    top = 2**depth - 1
    if not 0 < depth <= 16 or len(table) != entries or table.max() > top or table.min() < 0:
        raise DataError(
            f"{name} has a table that cannot be applied, {_tag(sequence)}: {_tag('LUTData')} is "
            f"not what {_tag('LUTDescriptor')} says",
            got=f"{len(table)} entries, descriptor {_listed(descriptor)}",
            expected="as many entries, of as many bits, as the descriptor says",
            hint=RANGE if sequence == "VOILUTSequence" else "correct the table, or take it out",
        )
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return table.astype(np.uint8 if depth <= 8 else np.uint16)[index], (0.0, float(top))


def _listed(value: Any) -> list[Any]:
    return list(value) if hasattr(value, "__iter__") else []


def _number(said: Mapping[str, Any], word: str, name: str) -> float | None:
    """The first of one or several numbers; None: the file has none.

    Raises:
        DataError: it is no number.
    """
    value = said.get(word)
    if value is None or value == "":
        return None
    if hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        value = value[0]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number - number != 0:  # NaN or infinite
        raise DataError(
            f"{name} has no number in {_tag(word)}", got=str(value)[:40], expected="a number"
        )
    return number


def _tag(word: str) -> str:
    """An element by its name and number: ``RescaleSlope (0028,1053)``."""
    return f"{word} ({_TAGS[word]})"
