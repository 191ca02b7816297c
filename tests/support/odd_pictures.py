"""Pictures of many depths, bands and formats, as bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from tests.support.images import photo

HEIGHT, WIDTH = 24, 40
_RNG = np.random.default_rng(0)
RGB = np.asarray(photo(3, WIDTH, HEIGHT))


def ramp(kind: Any, low: float, high: float, bands: int = 1) -> np.ndarray[Any, Any]:
    """A smooth picture [H, W(, bands)] with values from low to high."""
    values = np.linspace(low, high, HEIGHT * WIDTH * bands)
    if np.dtype(kind).kind in "ui":
        values = values.round()
    shape = (HEIGHT, WIDTH, bands) if bands > 1 else (HEIGHT, WIDTH)
    return values.reshape(shape).astype(kind)


def saved(picture: Image.Image | np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    """A picture by Pillow."""
    out = io.BytesIO()
    made = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    made.save(out, kind, **options)
    return out.getvalue()


def tiff(values: np.ndarray[Any, Any], **options: Any) -> bytes:
    """A TIFF by tifffile; several bands beside each other."""
    out = io.BytesIO()
    if values.ndim == 3:
        options = {"photometric": "minisblack", "planarconfig": "contig", **options}
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def npy(values: np.ndarray[Any, Any]) -> bytes:
    """A ``.npy`` file."""
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def deep_png(values: np.ndarray[Any, Any]) -> bytes:
    """uint16 [H, W, 3 or 4] as PNG."""
    import cv2

    order = [2, 1, 0, 3][: values.shape[2]] if values.shape[2] == 4 else [2, 1, 0]
    done, data = cv2.imencode(".png", np.ascontiguousarray(values[..., order]))
    assert done
    return bytes(data.tobytes())


def dicom(values: np.ndarray[Any, Any], **tags: Any) -> bytes:
    """A DICOM file of one gray frame, or of several [F, H, W]."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    bits = 8 * values.dtype.itemsize
    file.Rows, file.Columns = values.shape[-2:]
    if values.ndim == 3:
        file.NumberOfFrames = len(values)
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = bits
    file.HighBit, file.PixelRepresentation = bits - 1, int(values.dtype.kind == "i")
    file.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def dicom_of_fractions(values: np.ndarray[Any, Any], word: str, **tags: Any) -> bytes:
    """A DICOM file of one frame of float32 or float64, as a parametric map has it (PS3.3 C.7.6.24):
    without bits and sign of whole numbers."""
    import pydicom

    whole = dicom(np.zeros(values.shape, np.uint16), **tags)
    file = pydicom.dcmread(io.BytesIO(whole))
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(file, name)
    file.BitsAllocated = 8 * values.dtype.itemsize
    setattr(file, word, values.tobytes())
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def corpus() -> dict[str, bytes]:
    """Name → bytes, of every kind that is told apart."""
    gray8, gray16 = ramp(np.uint8, 0, 255), ramp(np.uint16, 0, 65535)
    color16 = ramp(np.uint16, 0, 65535, 3)
    alpha = Image.fromarray(RGB)
    alpha.putalpha(128)
    palette = Image.fromarray(RGB).quantize(16)
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    return {
        "gray.jpg": saved(gray8, "JPEG"),
        "color.jpg": saved(RGB, "JPEG"),
        "cmyk.jpg": saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
        "gray.png": saved(gray8, "PNG"),
        "gray16.png": saved(gray16, "PNG"),
        "color.png": saved(RGB, "PNG"),
        "color16.png": deep_png(color16),
        "alpha.png": saved(alpha, "PNG"),
        "palette.png": saved(palette, "PNG", transparency=0),
        "bilevel.png": saved(Image.fromarray(RGB).convert("1"), "PNG"),
        "apng.png": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "gray.tif": tiff(gray8),
        "gray16.tif": tiff(gray16),
        "white.tif": tiff(gray16, photometric="miniswhite"),
        "signed.tif": tiff(ramp(np.int16, -1000, 3000)),
        "deep.tif": tiff(ramp(np.uint32, 0, 4e9)),
        "float.tif": tiff(ramp(np.float32, -1, 1)),
        "double.tif": tiff(ramp(np.float64, -1, 1)),
        "color.tif": tiff(RGB, photometric="rgb"),
        "color16.tif": tiff(color16, photometric="rgb"),
        "five.tif": tiff(ramp(np.uint16, 0, 9999, 5)),
        "planes.tif": tiff(
            ramp(np.uint8, 0, 255, 5).transpose(2, 0, 1).copy(), planarconfig="separate"
        ),
        "tiled.tif": tiff(np.tile(ramp(np.uint16, 0, 9999, 5), (2, 2, 1)), tile=(16, 16)),
        "lzw.tif": tiff(ramp(np.uint16, 0, 9999, 5), compression="lzw"),
        "pages.tif": tiff(np.stack([gray8] * 4), planarconfig=None),
        "animated.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": saved(
            frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True
        ),
        "gray.npy": npy(gray8),
        "five.npy": npy(ramp(np.float32, 0, 1, 5)),
        "first.npy": npy(ramp(np.uint16, 0, 65535, 5).transpose(2, 0, 1)),
        "words.npy": npy(np.array(["a", "b"])),
        "ct.dcm": dicom(ramp(np.int16, -1000, 2000), RescaleSlope=1, RescaleIntercept=-24),
        "xray.dcm": dicom(ramp(np.uint16, 0, 4095), PhotometricInterpretation="MONOCHROME1"),
        "video.dcm": dicom(np.stack([gray8] * 2)),
        "empty.png": b"",
        "text.jpg": b"no picture at all",
    }
