"""Decoding agrees with Pillow wherever both read, and nothing damaged passes for a picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from mae_sdk.data.decode import decode
from mae_sdk.data.pictures import jpeg_header, jpeg_shape
from mae_sdk.data.reading import Reading
from mae_skill.errors import DataError
from PIL import Image

from tests.support.images import jpeg, photo


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


PHOTO = photo(1, 97, 61)
LOSSLESS = {"png": "PNG", "ppm": "PPM", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_come_back_exactly(suffix: str) -> None:
    data = saved(PHOTO, LOSSLESS[suffix], **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(decode(data, f"a.{suffix}"), np.asarray(PHOTO))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_equals_pillow_within_one_level(options: dict[str, object], mode: str) -> None:
    data = saved(PHOTO.convert(mode), "JPEG", **options)
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data, "a.jpg").astype(int) - want).max() <= 1


def test_gray_comes_back_as_three_equal_channels_from_pgm_and_png() -> None:
    gray = PHOTO.convert("L")
    for kind in ("PPM", "PNG"):
        pixels = decode(saved(gray, kind), "a")
        assert np.array_equal(pixels, np.repeat(np.asarray(gray)[..., None], 3, axis=2))


def test_sixteen_bit_gray_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        pixels = decode(saved(Image.fromarray(ramp), kind), "a")
        assert np.abs(pixels[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_cmyk_palette_bilevel_and_alpha_equal_pillow() -> None:
    alpha = PHOTO.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(97, dtype=np.uint8), (61, 1))))
    cases = {
        "cmyk": saved(PHOTO.convert("CMYK"), "JPEG"),
        "palette": saved(PHOTO.quantize(32), "PNG"),
        "bilevel": saved(PHOTO.convert("1"), "PNG"),
        "alpha": saved(alpha, "PNG"),
        "gray alpha": saved(alpha.convert("LA"), "PNG"),
    }
    for name, data in cases.items():
        assert np.array_equal(
            decode(data, name), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        ), name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("reduce", [1, 2])
def test_exif_orientation_is_applied_at_every_reduction(orientation: int, reduce: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photo(2, 96, 64), "JPEG", exif=exif, quality=95)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert want is not None
    pixels = decode(data, "a.jpg", reduce=reduce)
    assert (pixels.shape[1] * reduce, pixels.shape[0] * reduce) == want.size
    small = np.asarray(
        want.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BOX)
    ).astype(int)
    assert np.abs(pixels.astype(int) - small).mean() < 3


@pytest.mark.parametrize("keep", [0, 1, 20, 300, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF"])
def test_a_truncated_file_is_an_error_with_its_name(kind: str, keep: float) -> None:
    data = saved(PHOTO, kind)
    cut = int(len(data) * keep) if 0 < keep < 1 else int(keep)
    with pytest.raises(DataError, match="holiday"):
        decode(data[:cut], "holiday")


def test_a_picture_beyond_the_pixel_limit_is_refused_before_decoding() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    for kind in ("JPEG", "PNG"):
        with pytest.raises(DataError, match="more than the 5000 allowed"):
            decode(saved(PHOTO, kind), "big", Reading(max_pixels=5000))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_jpeg_header_reader_knows_size_and_components() -> None:
    assert jpeg_shape(jpeg(0, 123, 45)) == (123, 45, 3)
    assert jpeg_shape(saved(PHOTO.convert("CMYK"), "JPEG", progressive=True)) == (97, 61, 4)
    assert jpeg_shape(saved(PHOTO, "PNG")) is None


def test_one_pass_over_a_header_says_whether_metadata_may_turn_the_picture():
    plain, app1 = jpeg(0, 123, 45), b"\xff\xe1\x00\x04ab"
    frame = plain.index(b"\xff\xc0")
    after = frame + 2 + int.from_bytes(plain[frame + 2 : frame + 4], "big")
    assert jpeg_header(plain) == (123, 45, 3, False)
    for at in (2, frame, after):
        assert jpeg_header(plain[:at] + app1 + plain[at:]) == (123, 45, 3, True)
    assert jpeg_header(plain[: after + 20]) == (123, 45, 3, True)  # not followed to the image
