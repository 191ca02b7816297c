"""Which folders are classes, and what of a source is no sample: counted and named."""

from __future__ import annotations

import io
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from mae_sdk import Skill
from mae_sdk.data import inspect_masks, inspect_source, open_source
from mae_sdk.data.class_names import words_of_files
from mae_sdk.data.labels import wrapper_of
from mae_sdk.data.names import is_image
from mae_sdk.data.parts import mask_folders, split_folders, split_of
from mae_skill.errors import DataError
from PIL import Image

from tests.support.data_sets import picture
from tests.support.images import make_tarball


def encoded(kind: str = "PNG", level: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 2 * level % 256, 7)).save(buffer, kind)
    return buffer.getvalue()


def tree(root: Path, *names: str) -> Path:
    """Files under `root`; one that ends as an image is one, all different."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(level=number % 256) if is_image(name) else b"text")
    return root


def labeled(source: object, **more: Path) -> dict[str, str | None]:
    """Member → class."""
    opened = open_source(source, **more)  # type: ignore[arg-type]
    classes, labels = opened.classes, opened.labels
    return {
        name: classes[label] if label >= 0 else None
        for name, label in zip(opened.members, labels.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["home/me/data/train/cat/1.png", "home/me/data/train/dog/1.png"], ["cat", "dog"]),
        (["w/cat/a/1.png", "w/cat/b/1.png", "w/dog/1.png"], ["cat", "dog"]),
        (["cat/1.png", "dog/1.png"], ["cat", "dog"]),
        (["a/b/1.png", "a/b/2.png"], []),
        (["cat/1.png", "catfish/1.png"], ["cat", "catfish"]),
        (["x/cat/1.png", "x/catfish/1.png"], ["cat", "catfish"]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_the_folders_around_everything_are_stripped_to_where_they_part(
    names: list[str], classes: list[str], packed: bool, tmp_path: Path
) -> None:
    where = tree(tmp_path / "d", *names)
    if packed:
        where = make_tarball(where, tmp_path / "d.tar.gz")
    assert open_source(where, cache_dir=tmp_path / "c").classes == classes


def test_a_known_class_ends_the_wrapper_at_any_depth() -> None:
    assert wrapper_of(["home/val/cat/a/1.png", "home/val/cat/b/2.png"], ["cat"]) == "home/val/"
    assert wrapper_of(["home/val/cat/1.png"]) == "home/val/cat/"


def test_an_archive_for_every_class_is_one_source_with_these_classes(tmp_path: Path) -> None:
    tars = [
        str(make_tarball(tree(tmp_path / name, "1.png", "2.png"), tmp_path / f"{name}.tar", name))
        for name in ("cat", "dog")
    ]
    assert set(labeled(tars, cache_dir=tmp_path / "c").values()) == {"cat", "dog"}

    # Beside a source that names the class itself, too.
    both = tree(tmp_path / "both", "cat/3.png", "owl/1.png")
    found = labeled([tars[0], str(both)], cache_dir=tmp_path / "c")
    assert sorted(set(found.values()) - {None}) == ["cat", "owl"] and None not in found.values()


def test_flat_sources_of_one_name_have_no_classes(tmp_path: Path) -> None:
    places = [str(tree(tmp_path / side, "images/1.png", "images/2.png")) for side in "ab"]
    assert set(labeled(places).values()) == {None}


@pytest.mark.parametrize(
    "folder",
    ["@eaDir", ".thumbnails", "__MACOSX", "lost+found", "$RECYCLE.BIN", "#recycle", "__pycache__"],
)
def test_folders_of_systems_are_no_classes(folder: str, tmp_path: Path) -> None:
    where = tree(tmp_path / "d", "cat/1.png", "dog/1.png", f"{folder}/1.png", f"cat/{folder}/x.png")
    assert open_source(where).classes == ["cat", "dog"] and len(open_source(where)) == 2
    packed = make_tarball(where, tmp_path / "d.tar")
    assert open_source(packed, cache_dir=tmp_path / "c").classes == ["cat", "dog"]
    assert open_source(where).left_out[0].hidden.count == 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train2017", "train"),
        ("seg_test", "test"),
        ("test_set", "test"),
        ("testset", "test"),
        ("VAL", "val"),
        ("validation-images", "val"),
        ("fold_3", "part"),
        ("shard-00001", "part"),
        ("fold", None),
        ("trains", None),
        ("training wheels", None),
        ("cat", None),
        ("0", None),
        ("images", None),
        ("data", None),
        ("part_1", None),
        ("imagesTr", "train"),
        ("imagesTs", "test"),
        ("ts", None),
        ("Entraînement", "train"),
        ("Validierungsdaten", "val"),
        ("prueba", "test"),
        ("测试集", "test"),
        ("テストデータ", "test"),
    ],
)
def test_names_of_splits_are_known(name: str, kind: str | None) -> None:
    assert split_of(name) == kind


@pytest.mark.parametrize(
    ("classes", "splits"),
    [
        (["train", "val"], ["train", "val"]),
        (["test", "train", "extra"], ["test", "train"]),
        (["bus", "car", "train"], []),
        (["bus", "test"], []),
        (["fold_1", "fold_2"], ["fold_1", "fold_2"]),
        (["0", "1"], []),
        ([], []),
        (["my_train", "my_val"], ["my_train", "my_val"]),
        (["train-clean-100", "dev-clean"], ["train-clean-100", "dev-clean"]),
        (["trainA", "trainB", "testA"], ["testA", "trainA", "trainB"]),
        (["train", "unlabeled"], ["train"]),
        (["train_station", "test_tube"], []),
        (["train_steam", "train_diesel"], []),
        (["dev kit", "test kit", "other kit", "phone", "case"], []),
    ],
)
def test_splits_are_told_from_a_class_that_is_called_train(
    classes: list[str], splits: list[str]
) -> None:
    assert split_folders(classes) == sorted(splits)


@pytest.mark.parametrize(
    ("folders", "masks"),
    [
        (["images", "masks"], ["masks"]),
        (["JPEGImages", "SegmentationClass"], ["SegmentationClass"]),
        (["imagesTr", "labelsTr"], ["labelsTr"]),
        (["img", "ground_truth"], ["ground_truth"]),
        (["label", "cat"], None),
        (["images", "annotations", "cat", "dog", "emu", "owl"], None),
    ],
)
def test_images_and_their_masks_are_told_from_classes(
    folders: list[str], masks: list[str] | None
) -> None:
    assert mask_folders(folders).get("masks") == masks


def test_a_validation_source_of_splits_says_which_to_name(tmp_path: Path) -> None:
    source = open_source(tree(tmp_path, "train/cat/1.png", "val/cat/1.png"))
    with pytest.raises(DataError) as caught:
        source.label(["cat", "dog"])
    assert "parts of a data set" in str(caught.value.hint)


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".pjpeg", ".dib", ".pnm"])
def test_other_names_of_the_read_formats_are_read(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(encoded("JPEG"))
    assert len(open_source(tmp_path)) == 1


def test_what_is_no_image_is_counted_by_reason_in_a_folder_and_in_its_archive(
    tmp_path: Path,
) -> None:
    where = tree(
        tmp_path / "d",
        *(
            "cat/1.png",
            "dog/1.png",
            "cat/notes.txt",
            "cat/labels.json",
            ".DS_Store",
            "cat/Thumbs.db",
        ),
        *("dog/x.heic", "dog/y.jpg_large", "dog/z.jpg.1"),
    )
    (where / "dog/nameless").write_bytes(encoded("JPEG"))
    (where / "dog/opaque").write_bytes(b"no picture at all")
    packed = make_tarball(where, tmp_path / "d.zip")
    for source in (open_source(where), open_source(packed, cache_dir=tmp_path / "c")):
        left = source.left_out[0]
        assert (left.hidden.count, left.other.count, left.pictures.count) == (2, 3, 4)
        assert left.suffixes[".heic"] == 1 and left.suffixes["no suffix"] == 2
        assert "dog/nameless" in left.pictures.files and "dog/opaque" in left.other.files


def test_a_class_of_nothing_but_unread_pictures_is_missed(tmp_path: Path) -> None:
    where = tree(
        tmp_path / "d", "cat/1.png", "dog/1.png", "bird/1.avif", "bird/2.heic", "docs/a.txt"
    )
    (where / "empty").mkdir()
    assert open_source(where).missing_classes() == {"bird": 2, "docs": 0, "empty": 0}
    packed = make_tarball(where, tmp_path / "d.tar")
    assert open_source(packed, cache_dir=tmp_path / "c").missing_classes() == {"bird": 2, "docs": 0}

    # One class alone is left: it would be taken for a wrapper.
    two = tree(tmp_path / "two", "w/cat/1.png", "w/dog/1.heic", "w/docs/a.txt")
    assert open_source(two).missing_classes() == {"dog": 1}


def test_links_to_nothing_and_to_files_that_are_there_already_are_named(tmp_path: Path) -> None:
    where = tree(tmp_path / "d", "cat/1.png", "cat/2.png", "dog/1.png")
    (where / "cat/gone.png").symlink_to("nowhere.png")
    (where / "bird").symlink_to(where / "missing")
    (where / "cat/again.png").symlink_to("1.png")
    os.link(where / "cat/2.png", where / "dog/hard.png")
    (where / "dog/loop.png").symlink_to("loop.png")
    source = open_source(where)
    (left,) = source.left_out
    assert sorted(left.dangling.files) == ["bird", "cat/gone.png", "dog/loop.png"]
    assert left.twins.files == ["cat/again.png = cat/1.png", "dog/hard.png = cat/2.png"]
    assert left.twins.count == 2 and len(source) == 5


def test_a_folder_that_is_linked_twice_is_read_as_its_archive_is(tmp_path: Path) -> None:
    raw = tree(tmp_path / "raw", "1.png", "2.png")
    where = tmp_path / "d"
    where.mkdir()
    for name in ("cat", "feline"):
        (where / name).symlink_to(raw)
    source = open_source(where)
    assert list(source.members) == ["cat/1.png", "cat/2.png", "feline/1.png", "feline/2.png"]
    assert source.left_out[0].twins.count == 2
    copied = shutil.copytree(where, tmp_path / "copy")
    assert list(open_source(copied).members) == list(source.members)


def test_circles_of_linked_folders_end(tmp_path: Path) -> None:
    where = tree(tmp_path / "d", "a/1.png", "b/2.png")
    (where / "a" / "up").symlink_to(where)
    (where / "a" / "b").symlink_to(where / "b")
    (where / "b" / "a").symlink_to(where / "a")
    source = open_source(where)
    assert {"a/1.png", "b/2.png"} <= set(source.members)
    assert source.left_out[0].loops.count


def test_many_folders_that_link_to_each_other_end_in_time(tmp_path: Path) -> None:
    names = [f"n{i}" for i in range(9)]
    tree(tmp_path, *(f"{name}/1.png" for name in names))
    for one in names:
        for other in names:
            if one != other:
                (tmp_path / one / other).symlink_to(tmp_path / other)
    assert len(open_source(tmp_path)) <= 8 * len(names)


def test_a_locked_folder_of_the_system_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tree(tmp_path, "cat/1.png", "dog/1.png")
    (where / "lost+found").mkdir()
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(open_source(where)) == 2


def test_a_file_that_may_not_be_read_is_an_unreadable_image(tmp_path: Path) -> None:
    source = open_source(tree(tmp_path, "1.png"))
    (tmp_path / "1.png").unlink()
    (tmp_path / "1.png").mkdir()  # root may read every file; a folder is what it cannot read either
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        source.read(0)


def test_two_folders_that_are_one_name_in_two_unicode_forms_are_refused(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    source = open_source(tree(tmp_path, f"{composed}/1.png", f"{decomposed}/2.png", "dog/1.png"))
    with pytest.raises(DataError, match=r"two class folders .* the name café") as no:
        source.label()
    assert sorted(no.value.got) == sorted([ascii(composed), ascii(decomposed)])
    one = open_source(tree(tmp_path / "one", f"{decomposed}/2.png", "dog/1.png"))
    assert one.classes == [composed, "dog"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["good_01.png", "broken_01.png"], ["broken", "good"]),
        (["cat (1).jpg", "Dog (2).jpg"], ["cat", "dog"]),
        (["0012_early_blight.jpg", "0400_healthy.jpg"], ["early_blight", "healthy"]),
        (["IMG_0001.jpg", "DSC_0001.jpg"], []),
        (["good.png", "broken_01.png"], []),
        (["a3f9.png", "b81c.png"], []),
    ],
)
def test_files_that_are_named_by_classes_are_told_and_no_cameras(
    names: list[str], words: list[str]
) -> None:
    files = [f"{i}{name}" if name[0] == "0" else name for name in names for i in range(4)]
    assert [*words_of_files(files)] == words


def test_pictures_without_folders_whose_names_say_classes_lead_to_a_training(
    tmp_path: Path,
) -> None:
    for number, word in enumerate(["good", "broken"] * 4):
        picture(tmp_path / "screws" / f"{word}_{number:02}.png")
    verdict = inspect_source(str(tmp_path / "screws"))["verdict"]
    assert verdict["usable"]
    assert any("broken (4), good (4)" in text for text in verdict["warnings"])
    with pytest.raises(DataError) as caught:
        Skill().plan(
            "train",
            train_datasets=str(tmp_path / "screws"),
            automl_policy="off",
            spec_overrides={"train.stage": "finetune", "model.num_classes": 2},
        )
    assert "broken (4), good (4)" in str(caught.value.hint)
    pretraining = Skill().plan(
        "train",
        train_datasets=str(tmp_path / "screws"),
        automl_policy="off",
        spec_overrides={"train.stage": "pretrain"},
    )
    assert not any("good (4)" in str(one) for one in pretraining.warnings)


def test_masks_beside_their_pictures_are_told_and_no_other_pairs(tmp_path: Path) -> None:
    for number in range(4):
        for word in ("", "_mask", "_left"):
            picture(tmp_path / word.strip("_") / f"p{number}{word}.png")
    both = tmp_path / "both"
    both.mkdir()
    for folder in ("", "mask"):
        for file in (tmp_path / folder).glob("p*.png"):
            shutil.copy(file, both / file.name)

    said = "4 of 8 images are named as masks of the others (p0_mask.png, p1_mask.png, p2_mask.png"
    assert said in str(inspect_source(str(both))["verdict"]["warnings"])
    plan = Skill().plan(
        "train",
        train_datasets=str(both),
        automl_policy="off",
        spec_overrides={"train.stage": "pretrain"},
    )
    assert said in str([str(one) for one in plan.warnings])

    for file in both.glob("*_mask.png"):
        file.rename(both / file.name.replace("mask", "left"))
    assert "named as masks" not in str(inspect_source(str(both))["verdict"]["warnings"])


def test_smoothed_masks_that_no_setting_reads_are_no_data_to_train_on(tmp_path: Path) -> None:
    values = [*[0] * 7, 31, 160, 201, *[255] * 6]
    for number in range(3):
        picture(tmp_path / "images" / f"{number}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask = np.array([values] * 16, np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    verdict = inspect_masks(str(tmp_path / "images"), str(tmp_path / "masks"))["verdict"]
    assert not verdict["usable"] and "smoothed edges" in str(verdict["problems"])
