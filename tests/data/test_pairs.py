"""Which mask belongs to which image: layouts, splits, separate sources, archives; and what is
refused."""

from __future__ import annotations

import json
import pickle
import shutil
import unicodedata
import uuid
from pathlib import Path

import numpy as np
import pytest
from mae_sdk.data import inspect_masks, open_pairs
from mae_sdk.data.masks import read_values
from mae_sdk.data.pairs import Pairs
from mae_skill.errors import DataError
from PIL import Image

from tests.support.images import make_tarball, photo
from tests.support.s3 import S3Server
from tests.support.scenes import write_digit_scenes


@pytest.fixture(scope="module")
def ade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ADE20K layout: three images to train on, two to validate with."""
    return write_digit_scenes(
        tmp_path_factory.mktemp("ade") / "scenes", training=3, validation=2, size=32
    )


def seen(pairs: object) -> list[tuple[str, str | None]]:
    """(image, mask) of every pair, the last two parts of their paths."""
    short = lambda path: None if path is None else "/".join(path.split("/")[-2:])  # noqa: E731
    return [(short(pairs.path(i)), short(pairs.mask_path(i))) for i in range(len(pairs))]  # type: ignore[attr-defined, arg-type]


TRAINING = [(f"training/{i:05d}.jpg", f"training/{i:05d}.png") for i in range(3)]
VALIDATION = [(f"validation/{i:05d}.jpg", f"validation/{i:05d}.png") for i in range(2)]


@pytest.mark.parametrize("kind", ["folder", "wrapped.tar", "plain.tar.gz", "plain.zip"])
def test_a_role_takes_its_split_of_the_ade20k_layout(ade: Path, tmp_path: Path, kind: str) -> None:
    source = str(ade)
    if kind != "folder":
        wrapper = "ADEChallengeData2016" if kind.startswith("wrapped") else None
        source = str(make_tarball(ade, tmp_path / kind, wrapper=wrapper))
    assert seen(open_pairs(source, role="train")) == TRAINING
    assert seen(open_pairs(source, role="val")) == VALIDATION


def test_masks_and_images_are_read_from_where_they_say(ade: Path, tmp_path: Path) -> None:
    pairs = open_pairs(str(make_tarball(ade, tmp_path / "set.tar")), role="val")
    again = pickle.loads(pickle.dumps(pairs))
    for one in (pairs, again):
        assert one.read(1) == (ade / "images/validation/00001.jpg").read_bytes()
        assert one.read_mask(1) == (ade / "annotations/validation/00001.png").read_bytes()
    assert pairs.digest == again.digest != open_pairs(str(ade), role="val").digest


def test_a_folder_of_images_finds_the_annotations_beside_it(ade: Path) -> None:
    assert seen(open_pairs(str(ade / "images" / "training"), role="train")) == TRAINING
    assert seen(open_pairs(str(ade / "images" / "training"), role="val")) == TRAINING, (
        "a named split is taken as it is"
    )


def test_separate_mask_sources_are_matched_by_relative_path_whatever_wraps_them(
    ade: Path, tmp_path: Path
) -> None:
    images = make_tarball(ade / "images" / "training", tmp_path / "a.tar", wrapper="pictures")
    masks = make_tarball(ade / "annotations" / "training", tmp_path / "b.zip")
    names = [(image.split("/")[1], mask.split("/")[1]) for image, mask in TRAINING]
    found = seen(open_pairs(str(images), str(masks), role="train"))
    assert [(a.split("/")[1], (b or "").split("/")[1]) for a, b in found] == names
    both = open_pairs(
        [str(images), str(ade / "images/validation")],
        [str(masks), str(ade / "annotations/validation")],
        role="train",
    )
    assert len(both) == both.masked == 5
    assert both.read_mask(4) == (ade / "annotations/validation/00001.png").read_bytes()


def test_mask_sources_replace_the_annotations_of_a_layout(ade: Path) -> None:
    pairs = open_pairs(str(ade), str(ade / "annotations"), role="val")
    assert seen(pairs) == VALIDATION
    pairs = open_pairs(str(ade), str(ade / "annotations" / "training"), role="val")
    assert seen(pairs) == [
        (image, mask) for (image, _), (_, mask) in zip(VALIDATION, TRAINING, strict=False)
    ]


def test_extra_masks_do_no_harm(ade: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    shutil.copy(ade / "images/training/00001.jpg", tmp_path / "images" / "00001.jpg")
    assert seen(
        open_pairs(str(tmp_path / "images"), str(ade / "annotations" / "training"), role="train")
    ) == [("images/00001.jpg", "training/00001.png")]


def test_an_image_without_mask_is_named_before_anything_starts(ade: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ade, tmp_path / "copy"))
    (copy / "annotations/training/00001.png").unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 images have no mask: .*training/00001\.jpg"
    ) as caught:
        open_pairs(str(copy), role="train")
    assert caught.value.field == "dataset.segmentation.train_mask_sources"
    assert open_pairs(str(copy), role="train", required=False).masked == 2


def test_two_masks_for_one_image_are_refused(ade: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ade, tmp_path / "copy"))
    Image.open(copy / "annotations/training/00001.png").save(
        copy / "annotations/training/00001.tif"
    )
    with pytest.raises(DataError, match="two masks have the path training/00001"):
        open_pairs(str(copy), role="train")
    assert len(open_pairs(str(copy), role="val")) == 2, "another split is no matter"


def test_a_pair_in_two_unicode_forms_fits_and_twins_are_refused(ade: Path, tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    picture = next((ade / "images" / "training").rglob("*.jpg"))
    mask = next((ade / "annotations" / "training").rglob("*.png"))

    def pairs(images: tuple[str, ...], masks: tuple[str, ...]) -> Pairs:
        root = tmp_path / uuid.uuid4().hex
        for folder, names, file in (("images", images, picture), ("annotations", masks, mask)):
            (root / folder).mkdir(parents=True)
            for name in names:
                shutil.copy(file, root / folder / (name + file.suffix))
        return open_pairs(root, role="train")

    assert pairs((composed,), (decomposed,)).masked == 1
    assert pairs((composed, decomposed), (composed, decomposed)).masked == 2
    with pytest.raises(DataError, match="one mask belongs to both"):
        pairs((composed, decomposed), (composed,))
    odd = "o\u0323\u0302"  # a third form of one letter
    with pytest.raises(
        DataError, match=r"two masks have the path .*, written in two Unicode forms"
    ):
        pairs((unicodedata.normalize("NFC", odd),), (odd, "o\u0302\u0323"))


def test_what_cannot_be_paired_says_what_is_expected(ade: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    photo(1, 20, 20).save(flat / "a.png")
    with pytest.raises(DataError, match="no masks belong to") as caught:
        open_pairs(str(flat), role="val")
    assert caught.value.field == "dataset.segmentation.val_mask_sources"
    assert seen(open_pairs(str(flat), role="test", required=False)) == [("flat/a.png", None)]
    with pytest.raises(DataError, match="2 image sources and 1 mask sources"):
        open_pairs([str(flat), str(flat)], str(flat), role="train")
    with pytest.raises(DataError, match="there is no data source"):
        open_pairs(str(flat), str(tmp_path / "nowhere"), role="train")
    with pytest.raises(DataError, match="no testing/ or test/ under images/"):
        open_pairs(str(ade), role="test", required=False)
    shutil.copytree(ade / "images", tmp_path / "alone" / "images")
    with pytest.raises(DataError, match="no masks belong to") as caught:
        open_pairs(str(tmp_path / "alone/images/training"), role="train")
    assert str(tmp_path / "alone/annotations/training") in str(caught.value.hint)


def test_annotations_are_no_images_for_inference(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
        photo(1, 20, 20).convert("L").save(tmp_path / folder / "a.png")
    assert seen(open_pairs(str(tmp_path), role="test", required=False)) == [
        ("images/a.png", "annotations/a.png")
    ]
    (tmp_path / "annotations/a.png").rename(tmp_path / "annotations/b.png")
    assert seen(open_pairs(str(tmp_path), role="test", required=False)) == [("images/a.png", None)]


def encoded(picture: Image.Image, suffix: str) -> bytes:
    import io

    buffer = io.BytesIO()
    picture.save(buffer, suffix)
    return buffer.getvalue()


def test_the_values_of_every_kind_of_mask_come_back_as_they_stand() -> None:
    values = np.array([[0, 1, 2], [3, 200, 255]], np.uint8)
    palette = Image.fromarray(values).convert("P")
    palette.putdata(list(values.ravel()))
    palette.putpalette([i * 7 % 256 for i in range(768)])
    for picture, suffix in (
        (Image.fromarray(values), "PNG"),
        (palette, "PNG"),
        (Image.fromarray(values), "TIFF"),
    ):
        assert np.array_equal(read_values(encoded(picture, suffix), "m"), values)
    deep = values.astype(np.uint16) * 257
    assert np.array_equal(read_values(encoded(Image.fromarray(deep), "PNG"), "m"), deep)
    two = Image.fromarray(values > 1)
    assert np.array_equal(read_values(encoded(two, "PNG"), "m"), (values > 1).astype(np.uint8))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (encoded(photo(1, 8, 8), "PNG"), "has the channels RGB, not class numbers"),
        (encoded(photo(1, 8, 8).convert("L"), "JPEG"), "changes class numbers"),
        (encoded(photo(1, 8, 8).convert("L"), "PNG")[:-30], "cannot be read as a mask"),
        (encoded(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"), "beyond 16 bits"),
        (encoded(Image.fromarray(np.full((2, 2), -1, np.int32)), "TIFF"), "the value -1, below 0"),
        (b"no picture", "cannot be read as a mask"),
    ],
    ids=["colors", "jpeg", "truncated", "32 bits", "below 0", "no picture"],
)
def test_what_is_no_mask_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_values(data, "set/annotations/a.png")
    assert "set/annotations/a.png" in caught.value.message


def test_inspect_tells_values_and_everything_that_does_not_fit(
    ade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mae_sdk.cli.main import main

    copy = Path(shutil.copytree(ade, tmp_path / "copy"))
    report = inspect_masks(str(copy), role="train")
    stored = [np.asarray(Image.open(copy / f"annotations/training/{i:05d}.png")) for i in range(3)]
    total = sum(mask.size for mask in stored)
    assert report["masks"] == 3 and set(report["values"]) == {
        str(value) for mask in stored for value in np.unique(mask)
    }
    ones = sum(int((mask == 1).sum()) for mask in stored)
    assert report["values"]["1"] == {"pixels": round(ones / total, 6), "images": 3}
    folder = copy / "annotations" / "training"
    (folder / "00000.png").unlink()
    (folder / "00001.png").write_bytes(b"broken")
    Image.fromarray(stored[0][:-1]).save(folder / "00002.png")
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(copy / "images" / "training"), "--masks", "beside", "--json"])
    assert ended.value.code == 3
    document = json.loads(capsys.readouterr().out)
    problems = document["verdict"]["problems"]
    assert any("1 of 3 images have no mask" in text and "00000.jpg" in text for text in problems)
    report = document["masks"]
    assert [report[key]["count"] for key in ("without_mask", "unreadable", "other_size")] == [
        1,
        1,
        1,
    ]
    assert report["other_size"]["files"] == [str(folder / "00002.png")]


def test_a_prefix_of_images_finds_the_annotations_beside_it_in_the_bucket(
    ade: Path, s3: S3Server, tmp_path: Path
) -> None:
    shutil.copytree(ade, s3.bucket("pairs") / "ade", dirs_exist_ok=True)
    pairs = open_pairs("s3://pairs/ade/images/training", role="train", cache_dir=tmp_path)
    assert seen(pairs) == TRAINING
    assert pairs.read_mask(0) == (ade / "annotations/training/00000.png").read_bytes()
    assert seen(open_pairs("s3://pairs/ade/", role="val", cache_dir=tmp_path)) == VALIDATION


def named(root: Path, images: list[str], masks: list[str]) -> tuple[str, str]:
    for folder, names, suffix in (("photos", images, ".jpg"), ("masks", masks, ".png")):
        (root / folder).mkdir(parents=True)
        for number, name in enumerate(names):
            values = np.full((8, 8), number, np.uint8)
            Image.fromarray(values).save(root / folder / (name + suffix))
    return str(root / "photos"), str(root / "masks")


@pytest.mark.parametrize(
    "word", ["*_mask", "*-mask", "*_seg", "*_label", "*_gt", "mask_*", "*_segmentation"]
)
def test_masks_with_one_word_more_in_their_names_belong_to_their_images(
    tmp_path: Path, word: str
) -> None:
    images = [f"p{number}" for number in range(12)]
    masks = [word.replace("*", name) for name in images]
    photos, beside = named(tmp_path, images, masks)
    pairs = open_pairs(photos, beside, role="train")
    assert seen(pairs) == [
        (f"photos/{name}.jpg", f"masks/{word.replace('*', name)}.png") for name in sorted(images)
    ]
    assert pairs.mask_names() == [word]
    assert inspect_masks(photos, beside)["mask_names"] == [word]
    Path(beside, word.replace("*", "p3") + ".png").unlink()
    with pytest.raises(DataError, match=r"1 of 12 images have no mask: .*p3"):
        open_pairs(photos, beside, role="train")


@pytest.mark.parametrize(
    "masks",
    [
        ["1_mask", "2_seg", "3_gt"],  # not one and the same
        ["1_inner", "1_outer", "2_inner", "2_outer", "3_inner", "3_outer"],  # two masks of each
        ["10", "20", "30"],  # other pictures
    ],
)
def test_masks_of_doubtful_names_are_not_guessed_but_named(
    tmp_path: Path, masks: list[str]
) -> None:
    photos, beside = named(tmp_path, ["1", "2", "3"], masks)
    with pytest.raises(DataError, match="3 of 3 images have no mask") as caught:
        open_pairs(photos, beside, role="train")
    assert masks[0] in str(caught.value.hint) and "name each as its image" in str(caught.value.hint)


def test_names_that_fit_are_taken_as_they_are(tmp_path: Path) -> None:
    photos, beside = named(tmp_path, ["1", "2"], ["1", "2", "1_mask", "2_mask"])
    pairs = open_pairs(photos, beside, role="train")
    assert [one for _, one in seen(pairs)] == ["masks/1.png", "masks/2.png"]
    assert pairs.mask_names() == []
