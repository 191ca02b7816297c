"""What ``mae inspect`` says is what is there."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_sdk import Skill
from mae_sdk.data import inspect_source
from mae_skill.errors import DataError
from PIL import Image

from tests.support.images import make_tarball, write_imagefolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = write_imagefolder(tmp_path / "train", 2, 3, size=40)
    Image.new("L", (80, 20), 128).save(root / "1" / "gray.PGM", "PPM")
    shutil.copy(root / "0" / "0000.png", root / "1" / "twin.png")
    (root / "0" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    Image.new("RGB", (30, 90)).save(root / "top.bmp")
    return root


def test_the_report_counts_what_is_there_and_names_what_is_broken(
    folder: Path, tmp_path: Path
) -> None:
    report = inspect_source(folder)
    json.dumps(report, allow_nan=False)
    assert report["images"] == 10
    assert report["bytes"] == sum(path.stat().st_size for path in folder.rglob("*.*"))
    assert report["classes"] == {"0": 4, "1": 5} and report["unlabelled"] == 1
    assert report["width"] == {"min": 30, "median": 40, "max": 80} and report["height"] == {
        "min": 20,
        "median": 40,
        "max": 90,
    }
    assert report["channels"] == {"RGB": 8, "L": 1}
    assert report["formats"] == {"PNG": 7, "PPM": 1, "BMP": 1}
    broken = str(folder / "0" / "broken.jpg")
    assert report["unreadable"] == {
        "count": 1,
        "files": [broken],
        "reasons": {broken: "cannot be read as an image: unknown format"},
    }
    assert report["duplicates"]["groups"] == [
        [str(folder / "0" / "0000.png"), str(folder / "1" / "twin.png")]
    ]
    packed = inspect_source(
        make_tarball(folder, tmp_path / "a.tar.gz"), cache_dir=tmp_path / "cache"
    )
    assert {key: packed[key] for key in ("classes", "mean", "std", "width", "channels")} == {
        key: report[key] for key in ("classes", "mean", "std", "width", "channels")
    }


def test_mean_and_std_are_those_of_the_pixels(tmp_path: Path) -> None:
    root = write_imagefolder(tmp_path, 2, 4, size=24, kind="photos", suffix=".png")
    pixels = (
        np.concatenate(
            [np.asarray(Image.open(path)).reshape(-1, 3) for path in sorted(root.rglob("*.png"))]
        )
        / 255
    )
    report = inspect_source(root)
    assert np.allclose(report["mean"], pixels.mean(0), atol=1e-4) and np.allclose(
        report["std"], pixels.std(0), atol=1e-4
    )


def test_a_picture_in_both_train_and_val_is_reported(folder: Path, tmp_path: Path) -> None:
    val = write_imagefolder(tmp_path / "val", 2, 2, size=40, start=10)
    assert inspect_source(folder, other=val)["shared"] == {"count": 0, "pairs": []}
    shutil.copy(folder / "1" / "0001.png", val / "0" / "leak.png")
    shared = inspect_source(folder, other=val)["shared"]
    assert shared == {
        "count": 1,
        "pairs": [[str(folder / "1" / "0001.png"), str(val / "0" / "leak.png")]],
    }


def test_the_contact_sheet_is_a_picture_of_the_pictures(folder: Path, tmp_path: Path) -> None:
    report = inspect_source(folder, contact_sheet=tmp_path / "out" / "sheet.png")
    with Image.open(report["contact_sheet"]) as sheet:
        assert sheet.format == "PNG" and sheet.size == (8 * 100 + 4, 2 * 100 + 4)
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)
    assert red.any()  # the unreadable one is crossed out
    assert pixels.std() > 20


def test_the_command_compares_two_sources_and_draws_the_sheet(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mae_sdk.cli.main import main

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["inspect", *words])
        assert ended.value.code == 3  # one of ten images is broken
        return capsys.readouterr().out

    val = write_imagefolder(tmp_path / "val", 1, 2, size=40, start=10)
    shutil.copy(folder / "1" / "0001.png", val / "0" / "leak.png")
    sheet = tmp_path / "sheet.png"
    report = json.loads(
        run(str(folder), "--other", str(val), "--contact-sheet", str(sheet), "--json")
    )
    assert report["shared"] == {
        "count": 1,
        "pairs": [[str(folder / "1" / "0001.png"), str(val / "0" / "leak.png")]],
    }
    assert report["duplicates"]["count"] == 1
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    (folder / "top.bmp").unlink()  # its warning would take a line of a short answer
    text = run(str(folder), "--other", str(val))
    assert (
        f"    {folder / '1' / '0001.png'} = {val / '0' / 'leak.png'}\n" in text and "mean" in text
    )
    assert "shared" not in run(str(folder))


def inspected(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, document and stderr of ``mae inspect … --json``."""
    from mae_sdk.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["inspect", *words, "--json"])
    said = capsys.readouterr()
    return int(ended.value.code or 0), json.loads(said.out or "{}"), said.err


def test_the_verdict_comes_first_and_every_image_is_in_one_bin(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = folder / "0" / "0001.png"
    picture.write_bytes(picture.read_bytes()[:-30])  # readable header, truncated pixels
    code, report, _ = inspected(str(folder), capsys=capsys)
    assert code == 3 and next(iter(report)) == "verdict" and "next" not in report
    assert "2 of 10 images cannot be read" in report["verdict"]["problems"][0]
    assert sum(report["formats"].values()) + report["unreadable"]["count"] == report["images"]
    assert set(report["unreadable"]["reasons"]) == set(report["unreadable"]["files"])

    sound = write_imagefolder(tmp_path / "sound", 2, 3)
    code, report, _ = inspected(str(sound), capsys=capsys)
    assert code == 0 and report["verdict"] == {"usable": True, "problems": [], "warnings": []}
    assert "stage=finetune model.num_classes=2" in report["next"][0]


def test_inspect_judges_the_classes_of_two_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_imagefolder(tmp_path / "train", 2, 3)
    val = write_imagefolder(tmp_path / "val", 3, 2, start=10)
    code, report, _ = inspected(str(train), "--other", str(val), capsys=capsys)
    assert code == 3 and report["other_classes"]["unknown"] == {"2": 2}
    code, report, _ = inspected(str(val), "--other", str(train), capsys=capsys)
    assert code == 0 and "no image of 1 of 3 classes: 2" in report["verdict"]["warnings"]
    code, report, _ = inspected(str(tmp_path), capsys=capsys)
    assert code == 3 and "train, val are named like parts" in report["verdict"]["problems"][0]


def test_a_folder_is_found_as_a_plan_finds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_imagefolder(tmp_path / "pictures", 2, 3)
    made = make_tarball(data, tmp_path / "data" / "images_train.tar.gz")
    code, report, _ = inspected(str(tmp_path / "data"), capsys=capsys)
    assert (code, report["sources"]) == (0, [str(made)])
    made.rename(made.with_name("images_val.tar.gz"))
    code, report, _ = inspected(str(tmp_path / "data"), capsys=capsys)
    assert (code, report["sources"]) == (0, [str(made.with_name("images_val.tar.gz"))])
    made.with_name("images_val.tar.gz").rename(made.with_name("photos.tar.gz"))
    code, _, err = inspected(str(tmp_path / "data"), capsys=capsys)
    assert code == 3 and "images_train.tar.gz" in err and "photos.tar.gz" in err


def test_a_set_of_masks_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    values = {"a": [0, 255], "b": [0, 1], "c": [3, 3]}
    for name, pair in values.items():
        where = root / name
        for folder in ("images", "annotations"):
            (where / folder).mkdir(parents=True)
        write_imagefolder(tmp_path / "p", 1, 1)
        shutil.copy(tmp_path / "p/0/0000.png", where / "images" / "x.png")
        mask = np.resize(np.array(pair, np.uint8), (32, 32))
        Image.fromarray(mask).save(where / "annotations" / "x.png")

    def verdict(name: str) -> tuple[int, dict[str, Any]]:
        code, report, _ = inspected(str(root / name / "images"), "--masks", "beside", capsys=capsys)
        again, whole, _ = inspected(str(root / name), "--masks", "beside", capsys=capsys)
        assert (again, whole["verdict"]) == (code, report["verdict"])  # the folder of both, too
        assert whole["images"] == report["images"] == 1
        return code, report["verdict"]

    code, found = verdict("a")
    assert code == 0 and "255 is ignore_index by default" in found["warnings"][0]
    code, found = verdict("b")
    assert code == 0 and "reduce_zero_label=false" in found["warnings"][0]
    code, found = verdict("c")
    assert code == 3 and "the one value 3" in found["problems"][0]
    mask = root / "b" / "annotations" / "x.png"
    Image.open(mask).convert("RGB").save(mask)
    code, found = verdict("b")
    assert code == 3 and "several channels (RGB)" in found["problems"][0]


def test_inspect_takes_the_classes_and_the_tables_that_a_run_with_these_settings_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_imagefolder(tmp_path / "data", classes=3, per_class=2))
    names = sorted(path.name for path in Path(data).iterdir())
    two = "dataset.classes=" + json.dumps([names[2], names[0]])
    code, found, _ = inspected(data, two, capsys=capsys)
    assert code == 0 and list(found["classes"]) == [names[2], names[0]] and found["images"] == 4
    for wrong, said in ((["none"], "the data have no such class"), ([2, 0], "wrong type")):
        given = f"dataset.classes={json.dumps(wrong)}"
        code, _, error = inspected(data, given, capsys=capsys)
        assert code and said in error

    rows = [path.relative_to(data) for path in Path(data).rglob("*.png")]
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{row},c{i % 2}\n" for i, row in enumerate(rows)))
    tables = [f"dataset.labels.{role}={table}" for role in ("train", "val")]
    _, found, _ = inspected("--train", data, "--eval", data, *tables, capsys=capsys)
    for role in ("train", "eval"):
        assert found["splits"][role]["classes"] == {"c0": 3, "c1": 3}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("instances.json", '{"info": {}, "images": [{"file_name": "a.png", "id": 1}]}', "COCO"),
        ("labels/a.txt", "0 0.5 0.5 0.25 0.125\n3 0.1 .2 1 0\n", "YOLO boxes"),
        ("a.xml", "<annotation><size/><object><bndbox/></object></annotation>", "VOC"),
        ("notes.txt", "0 pictures of cats\n", ""),
        ("classes.txt", "0\n1\n", ""),
        ("settings.json", '{"images": 3}', ""),
        ("meta.xml", "<note><object/></note>", ""),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_labels_of_a_detector_are_said_not_to_be_read(
    tmp_path: Path, name: str, text: str, told: str, packed: bool
) -> None:
    folder = tmp_path / "data"
    (folder / name).parent.mkdir(parents=True)
    for i in range(3):
        Image.effect_noise((16, 16), 80 + i).save(folder / f"{i}.png")
    (folder / name).write_text(text)
    source = folder
    if packed:
        source = tmp_path / "data.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder))
    found = inspect_source(str(source))
    assert ("detection_labels" in found["left_out"]) == bool(told)
    plan = Skill().plan(
        "train", train_datasets=str(source), spec_overrides={"train.stage": "pretrain"}
    )
    words = f"labels of a detector ({told}) is not read: {name}"
    assert any(words in str(warning) for warning in plan.warnings) == bool(told)


def test_a_folder_without_an_image_says_what_lies_there(tmp_path: Path) -> None:
    for name in ("scan.heic", "a.zip", "b.zip", "notes.txt"):
        (tmp_path / name).write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(DataError, match="holds no images") as caught:
        inspect_source(tmp_path)
    got = str(caught.value.got)
    assert "1 pictures that are not read: scan.heic" in got
    assert "2 archives: " in got and "a.zip" in got and "b.zip" in got
    assert "1 other files: notes.txt" in got


@pytest.mark.parametrize("name", ["a.jp2", "a.J2K"])
def test_jpeg_2000_is_an_image_by_its_suffix(tmp_path: Path, name: str) -> None:
    Image.effect_noise((16, 16), 80).convert("RGB").save(tmp_path / name, "JPEG2000")
    report = inspect_source(tmp_path)
    assert report["images"] == 1 and report["formats"] == {"JPEG2000": 1}


def test_pictures_without_a_suffix_are_told_to_need_one(tmp_path: Path) -> None:
    for number in range(2):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{number}", "PNG")
    with pytest.raises(DataError, match="holds no images") as caught:
        inspect_source(str(tmp_path))
    assert "2 pictures that are not read" in str(caught.value.got)
    assert "give pictures the suffix of their format" in str(caught.value.hint)


def test_an_image_beside_the_class_folders_is_said_with_what_comes_of_it(tmp_path: Path) -> None:
    data = Path(write_imagefolder(tmp_path / "d", classes=2, per_class=4, size=32))
    first = next(data.rglob("*.png"))
    Image.open(first).rotate(90).save(data / "odd.png")
    (said,) = inspect_source(str(data))["verdict"]["warnings"]
    assert said.startswith("1 of 9 images are in no class folder: ")
    assert said.endswith("a fine-tuning refuses that, a pretraining takes all")
