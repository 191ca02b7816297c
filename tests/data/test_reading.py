"""One way to read a picture, of any depth and any number of bands."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mae_runners.data.transforms import EvalTransform, TrainTransform
from mae_sdk.data import inspect_source, open_source
from mae_sdk.data.decode import decode, load
from mae_sdk.data.reading import Reading
from mae_sdk.data.survey import glance, measured, survey_images
from mae_skill.errors import DataError
from mae_skill.rules import depths
from mae_skill.spec import AugmentationSpec
from PIL import Image

from tests.support import odd_pictures as odd

CORPUS = odd.corpus()
READINGS = [
    Reading(),
    Reading(channels=1),
    Reading(channels=5),
    Reading(value_range=(0, 1000)),
    Reading(channels=5, value_range=(-1, 1)),
    Reading(exif=False, max_pixels=500),
]


def verdict(call: Any, *args: Any) -> str | None:
    try:
        call(*args)
    except DataError as error:
        return error.message
    return None


@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_what_inspect_says_of_a_file_is_what_the_run_does(reading: Reading) -> None:
    said = {name: verdict(glance, data, name, reading) for name, data in CORPUS.items()}
    done = {name: verdict(decode, data, name, reading) for name, data in CORPUS.items()}
    assert said == done
    assert all(message is None or message.startswith(name) for name, message in said.items())


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(CORPUS)),
    at=st.floats(0, 1),
    size=st.integers(0, 200),
    filling=st.sampled_from([b"\0", b"\xff", b"\x55", b""]),
    reading=st.sampled_from(READINGS),
)
def test_a_damaged_file_is_judged_alike_by_inspect_and_the_run(
    name: str, at: float, size: int, filling: bytes, reading: Reading
) -> None:
    data = CORPUS[name]
    start = int(at * len(data))
    broken = data[:start] + filling * size + data[start + size :]
    said, done = (verdict(call, broken, name, reading) for call in (glance, decode))
    assert (said is None) == (done is None), (said, done)


def test_a_jpeg_with_a_hole_of_noise_passes_neither_inspect_nor_the_run(tmp_path: Path) -> None:
    big = odd.saved(Image.fromarray(np.tile(odd.RGB, (12, 12, 1))), "JPEG")
    middle = len(big) // 2
    (tmp_path / "a.jpg").write_bytes(big[:middle] + b"\x55" * 900 + big[middle + 900 :])
    (tmp_path / "b.jpg").write_bytes(big)
    report = inspect_source(tmp_path)
    assert report["unreadable"]["count"] == 1
    assert "damaged inside" in next(iter(report["unreadable"]["reasons"].values()))


def scaled(values: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, Any]:
    return np.clip((values.astype(np.float64) - low) / (high - low) * 255, 0, 255)


DEEP = {
    "gray16.png": (0, 65535),
    "gray16.tif": (0, 65535),
    "signed.tif": (-32768, 32767),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_gray_keeps_every_level(name: str) -> None:
    with Image.open(io.BytesIO(CORPUS[name])) as picture:
        want = scaled(np.asarray(picture), *DEEP[name])
    for channels in (None, 1):
        pixels = decode(CORPUS[name], name, Reading(channels=channels))
        assert pixels.dtype == np.float32 and pixels.shape == (24, 40, channels or 3)
        np.testing.assert_allclose(pixels[..., 0], want, atol=1e-3)
        assert len(np.unique(pixels)) == len(np.unique(want)) > 900


@pytest.mark.parametrize("name", ["color16.png", "color16.tif"])
def test_deep_color_is_read_whole(name: str) -> None:
    want = scaled(odd.ramp(np.uint16, 0, 65535, 3), 0, 65535)
    np.testing.assert_allclose(decode(CORPUS[name], name), want, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("five.tif", 0, 9999), ("tiled.tif", 0, 9999), ("lzw.tif", 0, 9999), ("five.npy", 0, 1)],
)
def test_many_bands_come_in_their_order(name: str, low: float, high: float) -> None:
    kind = np.float32 if name.endswith("npy") else np.uint16
    want = scaled(odd.ramp(kind, low, high, 5), low, high)
    if name == "tiled.tif":
        want = np.tile(want, (2, 2, 1))
    pixels = decode(CORPUS[name], name, Reading(channels=5, value_range=(low, high)))
    np.testing.assert_allclose(pixels, want, atol=1e-3)


@pytest.mark.parametrize("name", ["planes.tif", "first.npy"])
def test_bands_that_come_first_are_moved(name: str) -> None:
    pixels = decode(CORPUS[name], name, Reading(channels=5))
    assert pixels.shape == (24, 40, 5)
    top = 255 if name == "planes.tif" else 65535
    kind = np.uint8 if name == "planes.tif" else np.uint16
    np.testing.assert_allclose(pixels, scaled(odd.ramp(kind, 0, top, 5), 0, top), atol=1e-3)


def test_pages_are_bands_where_that_many_channels_are_wanted() -> None:
    assert decode(CORPUS["pages.tif"], "a", Reading(channels=4)).shape == (24, 40, 4)
    assert decode(CORPUS["pages.tif"], "a").shape == (24, 40, 3)


def test_low_values_are_white_where_the_file_says_so() -> None:
    gray = decode(CORPUS["gray16.tif"], "a")
    np.testing.assert_allclose(decode(CORPUS["white.tif"], "a"), 255 - gray, atol=1e-3)
    xray = decode(CORPUS["xray.dcm"], "a.dcm")
    assert xray[0, 0, 0] == 255 and xray[-1, -1, 0] < 240


def test_dicom_is_in_hounsfield_units_and_its_window_is_the_range() -> None:
    data = CORPUS["ct.dcm"]
    stored = load(data, "a.dcm", Reading())
    assert stored.values.min() == -1024 and stored.values.max() == 1976
    ct = odd.dicom(odd.ramp(np.int16, -1000, 2000), WindowCenter=40, WindowWidth=400)
    pixels = decode(ct, "a.dcm")
    want = scaled(odd.ramp(np.int16, -1000, 2000), 39.5 - 199.5, 39.5 + 199.5)
    np.testing.assert_allclose(pixels[..., 0], want, atol=1e-3)
    several = odd.dicom(
        odd.ramp(np.int16, -1000, 2000), WindowCenter=[40, 500], WindowWidth=[400, 9]
    )
    np.testing.assert_array_equal(decode(several, "a.dcm"), pixels)
    wide = decode(ct, "a.dcm", Reading(value_range=(-1000, 2000)))
    assert (wide.min(), wide.max()) == (0, 255)


@pytest.mark.parametrize("name", ["gray.png", "color.png", "alpha.png", "palette.png", "cmyk.jpg"])
def test_one_channel_is_pillows_gray(name: str) -> None:
    with Image.open(io.BytesIO(CORPUS[name])) as picture:
        want = np.asarray(picture.convert("RGB").convert("L")).astype(int)
    pixels = decode(CORPUS[name], name, Reading(channels=1))
    assert pixels.dtype == np.uint8 and pixels.shape == (24, 40, 1)
    assert np.abs(pixels[..., 0].astype(int) - want).max() <= 1


def test_four_channels_take_alpha_as_it_is_stored() -> None:
    pixels = decode(CORPUS["alpha.png"], "a", Reading(channels=4))
    assert (pixels[..., 3] == 128).all() and np.array_equal(pixels[..., :3], odd.RGB)


@pytest.mark.parametrize(
    ("name", "reading", "says"),
    [
        ("five.tif", Reading(), r"has 5 bands .* not 3: set dataset.channels to 5"),
        ("color.png", Reading(channels=5), r"has 3 bands .* not 5: set dataset.channels to 3"),
        ("float.tif", Reading(), r"\(-1 … 1\), .* set dataset.value_range to auto"),
        ("deep.tif", Reading(), r"pixels of 32 bits \(0 … 4e\+09\)"),
        ("words.npy", Reading(), "an array"),
        ("color.png", Reading(max_pixels=500), "more than the 500 allowed"),
        ("five.tif", Reading(max_pixels=500), "more than the 500 allowed"),
        ("gray.npy", Reading(max_pixels=500), "more than the 500 allowed"),
        ("ct.dcm", Reading(max_pixels=500), "more than the 500 allowed"),
    ],
)
def test_a_refusal_names_the_file_what_was_found_and_the_setting(
    name: str, reading: Reading, says: str
) -> None:
    with pytest.raises(DataError, match=says) as caught:
        decode(CORPUS[name], name, reading)
    assert caught.value.message.startswith(name)


def test_numbers_that_are_none_and_ends_of_a_range_are_clipped() -> None:
    values = odd.ramp(np.float32, -1, 1)
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels = decode(odd.tiff(values), "a", Reading(channels=1, value_range=(-0.5, 0.5)))
    assert pixels[0, :3, 0].tolist() == [0, 255, 0]
    assert (pixels.min(), pixels.max()) == (0, 255) and np.isfinite(pixels).all()


# ---- what is measured ----------------------------------------------------------------------------


def folder(root: Path, **files: bytes) -> Path:
    root = root / "set"
    root.mkdir()
    for name, data in files.items():
        (root / name.replace("_", ".")).write_bytes(data)
    return root


def test_a_range_is_measured_and_one_hot_pixel_does_not_hide_12_bits(tmp_path: Path) -> None:
    values = odd.ramp(np.uint16, 0, 4095)
    hot = values.copy()
    hot[3, 3] = 65535
    where = folder(tmp_path, a_png=odd.saved(values, "PNG"), b_png=odd.saved(hot, "PNG"))
    source = open_source(where)
    reading = measured(source, Reading(value_range="auto"))
    assert reading.value_range[0] < 10 and 4080 < reading.value_range[1] <= 4095
    report = inspect_source(where)
    assert not report["verdict"]["usable"]
    assert "12-bit data" in str(report["verdict"]["problems"])
    assert "dataset.value_range=auto" in str(report["verdict"]["problems"])
    mended = inspect_source(where, reading=Reading(value_range="auto"))
    assert mended["verdict"] == {"usable": True, "problems": [], "warnings": []}
    assert mended["value_range"] == list(reading.value_range)
    assert abs(mended["mean"][0] - 0.5) < 0.01


@pytest.mark.parametrize(
    ("values", "reading", "says"),
    [
        (odd.ramp(np.uint8, 0, 20), Reading(), "they look nearly black; set"),
        (odd.ramp(np.uint16, 30_000, 44_000), Reading(), "they look dim; set"),
        (odd.ramp(np.uint16, 0, 60_000), Reading(value_range=(0, 9000)), "loses 85% of the levels"),
        (odd.ramp(np.uint16, 0, 60_000), Reading(), ""),
        (odd.ramp(np.uint8, 0, 255), Reading(), ""),
    ],
)
def test_ranges_that_do_not_fit_are_warned_about(
    values: np.ndarray[Any, Any], reading: Reading, says: str, tmp_path: Path
) -> None:
    found = inspect_source(folder(tmp_path, a_png=odd.saved(values, "PNG")), reading=reading)
    warned = [text for text in found["verdict"]["warnings"] if "range" in text]
    assert found["verdict"]["usable"]
    assert says in "".join(warned) and bool(says) == bool(warned)


def test_frames_and_unnamed_bands_are_warned_about(tmp_path: Path) -> None:
    four = odd.tiff(np.dstack([odd.RGB, odd.RGB[..., 0]]), photometric="rgb", extrasamples=[0])
    where = folder(
        tmp_path,
        a_gif=CORPUS["animated.gif"],
        b_webp=CORPUS["animated.webp"],
        c_png=CORPUS["apng.png"],
        d_tif=CORPUS["pages.tif"],
        e_tif=four,
        f_png=CORPUS["color.png"],
    )
    said = " ".join(inspect_source(where)["verdict"]["warnings"])
    assert "4 of 6 files hold several frames or pages; the first of each is read" in said
    assert "1 pictures have a band that the file does not name" in said


def test_several_depths_have_no_one_range(tmp_path: Path) -> None:
    where = folder(tmp_path, a_png=CORPUS["gray.png"], b_png=CORPUS["gray16.png"])
    with pytest.raises(DataError, match="different depths: 1 of uint8, 1 of uint16") as caught:
        measured(open_source(where), Reading(value_range="auto"))
    assert caught.value.field == "dataset.value_range"


def test_a_survey_of_another_reading_is_another_survey(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, a_png=CORPUS["gray16.png"]))
    assert survey_images(source, reading=Reading()).ranges == {"uint16": [0.0, 65535.0]}
    one = survey_images(source, reading=Reading(value_range=(0, 9)))
    assert one.ranges == {"uint16": [0.0, 9.0]}
    assert survey_images(source, reading=Reading(max_pixels=9)).bad


# ---- transforms ----------------------------------------------------------------------------------

AUGMENTED = {
    "input_size": 16,
    "color_jitter": 0.4,
    "rotation": 20.0,
    "vflip": 0.5,
    "re_prob": 1.0,
    "interpolation": "bicubic",
}


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m3-w3", "original", None])
@pytest.mark.parametrize(
    ("name", "reading", "kind"),
    [
        ("gray.jpg", Reading(channels=1), np.uint8),
        ("gray16.png", Reading(), np.float32),
        ("five.tif", Reading(channels=5, value_range=(0, 9999)), np.float32),
        ("planes.tif", Reading(channels=5), np.uint8),
        ("alpha.png", Reading(channels=4), np.uint8),
    ],
)
def test_every_augmentation_takes_every_depth_and_number_of_bands(
    name: str, reading: Reading, kind: Any, policy: str | None
) -> None:
    spec = AugmentationSpec.model_validate({**AUGMENTED, "auto_aug": policy})
    train = TrainTransform(spec, True, reading)
    for key in range(5):
        pixels = train(CORPUS[name], name, key)
        assert pixels.shape == (16, 16, reading.bands) and pixels.dtype == kind
        assert pixels.min() >= 0 and pixels.max() <= 255
        np.testing.assert_array_equal(pixels, train(CORPUS[name], name, key))
    shown = EvalTransform(spec, reading)(CORPUS[name], name)
    assert shown.shape == (16, 16, reading.bands) and shown.dtype == kind


def test_deep_pictures_go_the_way_of_their_8_bit_twins() -> None:
    """Crop, resize, flip and jitter differ by rounding alone."""
    spec = AugmentationSpec.model_validate({"input_size": 16, "color_jitter": 0.4, "rotation": 9.0})
    deep = odd.deep_png(odd.RGB.astype(np.uint16) * 257)
    twin = CORPUS["color.png"]
    for key in range(4):
        one, two = (TrainTransform(spec, False)(data, "x", key) for data in (twin, deep))
        assert np.abs(one.astype(float) - two).mean() < 3
    one, two = (EvalTransform(spec)(data, "x") for data in (twin, deep))
    assert np.abs(one.astype(float) - two).max() <= 1.5


def lut(bits: int, table: np.ndarray[Any, Any] | None, first: int = 0) -> list[Any]:
    """A DICOM sequence of one table; None: of an empty item."""
    from pydicom.dataset import Dataset

    item = Dataset()
    if table is not None:
        item.LUTDescriptor = [len(table) % 65536, first, bits]
        item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    return [item]


def test_the_range_of_a_modality_table_is_that_of_its_bits_for_every_picture() -> None:
    table = np.arange(256) * 100  # up to 25500 of 65535
    dark, bright = odd.ramp(np.uint8, 0, 10), odd.ramp(np.uint8, 200, 255)
    for values in (dark, bright):
        data = odd.dicom(values, ModalityLUTSequence=lut(16, table))
        want = scaled(table[values], 0, 65535)
        np.testing.assert_allclose(decode(data, "a.dcm")[..., 0], want, atol=1e-3)
    low = odd.dicom(dark, ModalityLUTSequence=lut(16, table, first=5))
    np.testing.assert_array_equal(
        load(low, "a.dcm").values[..., 0], table[np.clip(dark.astype(int) - 5, 0, 255)]
    )


@pytest.mark.parametrize(
    ("tags", "slope", "intercept"),
    [({"RescaleSlope": 2}, 2, 0), ({"RescaleIntercept": -100}, 1, -100)],
)
def test_a_slope_or_an_intercept_alone_is_applied(
    tags: dict[str, Any], slope: float, intercept: float
) -> None:
    values = odd.ramp(np.uint16, 0, 4095)
    found = load(odd.dicom(values, **tags), "a.dcm")
    np.testing.assert_array_equal(found.values[..., 0], values.astype(float) * slope + intercept)
    assert found.range == (intercept, 65535 * slope + intercept)


def test_a_view_of_a_dicom_is_applied_as_the_standard_says() -> None:
    values = odd.ramp(np.uint16, 0, 4095)
    x = values.astype(np.float64)

    def pixels(**tags: Any) -> np.ndarray[Any, Any]:
        return decode(odd.dicom(values, **tags), "a.dcm")[..., 0]

    window: dict[str, Any] = {"WindowCenter": 1000, "WindowWidth": 400}
    exact = np.clip((x - 1000) / 400 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(pixels(**window, VOILUTFunction="LINEAR_EXACT"), exact, atol=1e-2)
    linear = np.clip((x - 999.5) / 399 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(pixels(**window, VOILUTFunction="LINEAR"), linear, atol=1e-2)
    sigmoid = 255 / (1 + np.exp(-4 * (x - 1000) / 400))
    np.testing.assert_allclose(pixels(**window, VOILUTFunction="SIGMOID"), sigmoid, atol=1e-2)
    step = np.where(x > 999.5, 255, 0)
    np.testing.assert_array_equal(pixels(WindowCenter=1000, WindowWidth=1), step)

    table = (np.arange(4096) / 4095) ** 2 * 1023
    voi = lut(10, np.rint(table))
    np.testing.assert_allclose(
        pixels(VOILUTSequence=voi), np.rint(table)[values] * 255 / 1023, atol=1e-2
    )
    np.testing.assert_allclose(pixels(**window, VOILUTSequence=voi), linear, atol=1e-2)

    own = Reading(value_range=(0, 4095))  # a stated range takes the place of any view
    for tags in ({"VOILUTSequence": voi}, {**window, "VOILUTFunction": "SIGMOID"}):
        found = decode(odd.dicom(values, **tags), "a.dcm", own)[..., 0]
        np.testing.assert_allclose(found, x * 255 / 4095, atol=1e-2)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_dicom_that_says_so_once_or_twice_is_inverted_once(photometric: str) -> None:
    values = odd.ramp(np.uint16, 0, 65535)
    plain = decode(odd.dicom(values), "a.dcm")
    for shape in ("IDENTITY", "INVERSE"):
        tags = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape}
        found = decode(odd.dicom(values, **tags), "a.dcm")
        turns = "INVERSE" in shape or photometric == "MONOCHROME1"
        np.testing.assert_allclose(found, 255 - plain if turns else plain, atol=1e-3)


@pytest.mark.parametrize(
    ("word", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")]
)
def test_a_map_of_numbers_with_a_fraction_is_read_in_its_units(word: str, kind: str) -> None:
    values = np.linspace(-0.25, 3.5, 64 * 48).reshape(64, 48).astype(kind)
    data = odd.dicom_of_fractions(values, word)
    found = load(data, "a.dcm", Reading(value_range=(0.0, 2.0)))
    np.testing.assert_array_equal(found.values[..., 0], values.astype(np.float32))
    own = decode(data, "a.dcm", Reading(value_range=(0.0, 2.0)))[..., 0]
    np.testing.assert_allclose(own, np.clip(values, 0, 2) / 2 * 255, atol=1e-3)
    seen = decode(odd.dicom_of_fractions(values, word, WindowCenter=1, WindowWidth=2), "a.dcm")
    np.testing.assert_allclose(seen[..., 0], np.clip(values, 0, 1) * 255, atol=1e-2)
    with pytest.raises(DataError) as raised:
        decode(data, "a.dcm")
    assert "value_range" in str(raised.value.hint)


def test_what_a_dicom_says_of_its_frames_counts() -> None:
    from pydicom.dataset import Dataset

    change, group = Dataset(), Dataset()
    change.RescaleSlope, change.RescaleIntercept = 1, -1024
    group.PixelValueTransformationSequence = [change]
    values = odd.ramp(np.uint16, 0, 4095)
    data = odd.dicom(values, SharedFunctionalGroupsSequence=[group])
    assert load(data, "a.dcm").values.min() == -1024


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"PixelRepresentation": None}, r"without PixelRepresentation \(0028,0103\)"),
        ({"BitsStored": None}, r"without BitsStored \(0028,0101\)"),
        ({"PhotometricInterpretation": ""}, r"PhotometricInterpretation \(0028,0004\)"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, r"0 for RescaleSlope \(0028,1053\)"),
        ({"WindowCenter": 4, "WindowWidth": 0}, r"no width, WindowWidth \(0028,1051\)"),
        ({"WindowCenter": 4}, r"WindowCenter \(0028,1050\) without WindowWidth \(0028,1051\)"),
        ({"ModalityLUTSequence": lut(16, None)}, r"ModalityLUTSequence \(0028,3000\)"),
        ({"VOILUTSequence": lut(8, np.arange(4096))}, r"VOILUTSequence \(0028,3010\)"),
    ],
)
def test_an_element_of_a_dicom_that_cannot_be_used_is_named(
    tags: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says) as caught:
        decode(odd.dicom(odd.ramp(np.uint16, 0, 4095), **tags), "a.dcm")
    assert caught.value.message.startswith("a.dcm")


def test_a_compression_without_a_decoder_names_the_package(monkeypatch: Any) -> None:
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import JPEGLSLossless

    file = pydicom.dcmread(io.BytesIO(odd.dicom(odd.ramp(np.uint16, 0, 4095))))
    file.file_meta.TransferSyntaxUID = JPEGLSLossless
    file.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    out = io.BytesIO()
    file.save_as(out)
    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    with pytest.raises(DataError, match=r"JPEG-LS Lossless.* no package here decodes") as caught:
        decode(out.getvalue(), "a.dcm")
    assert "pip install pylibjpeg pylibjpeg-libjpeg" in str(caught.value.hint)
    assert "decompress" in str(caught.value.hint)


def test_deep_color_of_jpeg_2000_keeps_its_bright_values_and_its_low_bits() -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    values = odd.ramp(np.uint16, 0, 65535, 3)
    values[:2] = 65535 - np.arange(40)[None, :, None]
    data = imagecodecs.jpeg2k_encode(values, level=0, reversible=True, codecformat="jp2")
    found = load(data, "a.jp2")
    np.testing.assert_array_equal(found.values, values)
    assert (found.bits, found.range) == (16, (0.0, 65535.0))
    small = imagecodecs.jpeg2k_encode(values >> 4, level=0, bitspersample=12, codecformat="jp2")
    assert load(small, "a.jp2").range == (0.0, 4095.0)
    gray = values[..., 0].copy()
    data = imagecodecs.jpeg2k_encode(gray, level=0, reversible=True, codecformat="jp2")
    np.testing.assert_array_equal(load(data, "a.jp2").values[..., 0], gray)


def test_deep_color_of_jpeg_2000_without_the_package_is_refused_by_name(monkeypatch: Any) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    data = imagecodecs.jpeg2k_encode(odd.ramp(np.uint16, 0, 65535, 3), codecformat="jp2")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(DataError, match=r"a\.jp2 is JPEG 2000 with 16 bits of color"):
        load(data, "a.jp2")


@pytest.mark.parametrize("top", [65535, 4095])
def test_deep_ppm_keeps_all_its_bits(top: int) -> None:
    values = odd.ramp(np.uint16, 0, top, 3)
    header = b"P6\n# by a scanner\n40 24\n%d\n" % top
    found = load(header + values.astype(">u2").tobytes(), "a.ppm")
    assert found.bits == 16 and len(np.unique(found.values)) == len(np.unique(values))
    np.testing.assert_array_equal(found.values, np.rint(values * (65535 / top)))
    text = b"P3 40 24 %d\n" % top + b" ".join(b"%d" % value for value in values.ravel())
    np.testing.assert_array_equal(load(text, "a.ppm").values, found.values)
    with pytest.raises(DataError, match=r"a\.ppm cannot be read"):
        load(header + values.astype(">u2").tobytes()[:-2], "a.ppm")


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0, 2.5e-5, "floating point"), (3e5, 5.5e5, "floating point")]
)
def test_the_formula_for_pictures_of_another_depth_uses_the_range_and_never_wraps(
    low: float, high: float, kind: str
) -> None:
    kinds = {"uint8": {"low": 0, "high": 255, "own": [0, 255]}}
    advice = depths.mend({**kinds, kind: {"low": low, "high": high, "own": None}}, "dtype")
    formula = advice.partition("in numpy ")[2].partition(", and leave")[0]
    found = eval(formula, {"x": np.array([low, high, 3 * high], np.float64)})
    assert found.dtype == np.uint16 and found[0] == 0 and found[1] > 60000 and found[2] == 65535
