"""Labels of a detector in a folder beside that of the pictures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.data.inspect import inspect_source
from mae_sdk.data.left_out import HEAD, detector_labels
from mae_skill.errors import DataError
from PIL import Image

BOX = "1 0.5 0.5 0.25 0.125\n"
OUTLINE = "0 0.1 0.1 0.5 0.1 0.5 0.5\n"
POSE = "0 0.5 0.5 0.25 0.125 0.1 0.2 2 0.3 0.4 1 0 0 0\n"
NAMES = "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"
DOCUMENT = Path(__file__).parents[2] / "references/data.md"


def _pictures(folder: Path, count: int = 4, suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.effect_noise((24, 24), 70 + i).save(folder / f"{i}{suffix}")


def _labels(folder: Path, text: str, count: int = 4, suffix: str = ".txt") -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i}{suffix}").write_text(text)


def _warnings(source: Path, stage: str = "pretrain") -> list[str]:
    plan = Skill().plan("train", train_datasets=str(source), spec_overrides={"train.stage": stage})
    return [str(warning) for warning in plan.warnings if "detector" in str(warning)]


@pytest.mark.parametrize(
    "text, kind", [(BOX, "YOLO boxes"), (OUTLINE, "YOLO polygons"), (POSE, "YOLO poses")]
)
@pytest.mark.parametrize(
    "pictures, labels",
    [("images/train", "labels/train"), ("train/images", "train/labels"), ("pics", "labels")],
)
def test_labels_in_a_folder_beside_are_told_by_inspect_and_plan(
    tmp_path: Path, text: str, kind: str, pictures: str, labels: str
) -> None:
    _pictures(tmp_path / pictures)
    _labels(tmp_path / labels, text)
    (tmp_path / "data.yaml").write_text(NAMES)

    found = inspect_source(str(tmp_path / pictures))

    seen = found["left_out"]["detection_labels"]
    assert seen["count"] == 4 and seen["kinds"] == [kind] and seen["classes"] == ["cat", "dog"]
    (said,) = [one for one in found["verdict"]["warnings"] if "detector" in one]
    assert kind in said and "2 classes (cat, dog)" in said and "model.multi_label=true" in said
    (planned,) = _warnings(tmp_path / pictures)
    assert kind in planned and "pretraining needs no labels" in planned


def test_the_error_of_a_training_without_classes_says_what_the_labels_are(tmp_path: Path) -> None:
    _pictures(tmp_path / "images/train")
    _labels(tmp_path / "labels/train", BOX)
    with pytest.raises(DataError, match="looks like YOLO boxes") as caught:
        Skill().plan(
            "train",
            train_datasets=str(tmp_path / "images/train"),
            spec_overrides={"train.stage": "finetune", "model.num_classes": 2},
        )
    assert "model.multi_label=true" in str(caught.value.hint)


def test_a_segmenter_is_told_that_polygons_are_no_masks(tmp_path: Path) -> None:
    _pictures(tmp_path / "images/train")
    _labels(tmp_path / "labels/train", OUTLINE)
    with pytest.raises(DataError, match="no masks belong to") as caught:
        Skill().plan(
            "train",
            train_datasets=str(tmp_path / "images/train"),
            spec_overrides={
                "train.stage": "finetune",
                "model.task": "segmentation",
                "model.num_classes": 2,
            },
        )
    assert "looks like YOLO polygons, which is no mask" in str(caught.value.hint)


def test_voc_and_coco_beside_the_pictures_are_told(tmp_path: Path) -> None:
    _pictures(tmp_path / "voc/JPEGImages")
    text = "<annotation><object><bndbox/></object></annotation>"
    _labels(tmp_path / "voc/Annotations", text, suffix=".xml")
    _pictures(tmp_path / "coco/train2017")
    (tmp_path / "coco/annotations").mkdir()
    listed = {"images": [{"file_name": "1.png", "id": 1}], "annotations": []}
    (tmp_path / "coco/annotations/instances.json").write_text(json.dumps(listed))

    for place, kind in (("voc/JPEGImages", "VOC"), ("coco/train2017", "COCO")):
        found = inspect_source(str(tmp_path / place))
        assert found["left_out"]["detection_labels"]["kinds"] == [kind]


def test_what_is_of_other_pictures_is_not_told(tmp_path: Path) -> None:
    _pictures(tmp_path / "images/train")
    _labels(tmp_path / "labels/val", BOX)
    (tmp_path / "labels/train").mkdir()
    (tmp_path / "labels/train/0.txt").write_text("a cat on a chair\n")
    (tmp_path / "annotations").mkdir()
    listed = {"images": [{"file_name": "another.png", "id": 1}]}
    (tmp_path / "annotations/a.json").write_text(json.dumps(listed))

    found = inspect_source(str(tmp_path / "images/train"))
    assert "detection_labels" not in found.get("left_out", {})
    assert not _warnings(tmp_path / "images/train")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0 0.5 0.5 0.2 0.3" + " 0.1 0.2 2.000000" * 17, "YOLO poses"),
        (POSE + "0 0.5 0.5 0.2 0.3 0 0 0 0.3 0.4 1 0.1 0.2 2", "YOLO poses"),
        ("0 0.5 0.5 0.2 0.3 0.1 0.2 1", "YOLO poses"),
        ("0 0.5 0.5 0.2 0.3 0.9", "YOLO boxes"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2", "YOLO polygons"),
        (OUTLINE + "0 0.5 0.5 0.2 0.3 0.1 0.2 1", "YOLO polygons"),
        ("0 0.5 0.5 0.2 0.3 0.1 0.2 3", None),
        (POSE * 400, "YOLO poses"),
    ],
)
def test_points_with_how_they_are_seen_are_poses(text: str, kind: str | None) -> None:
    assert detector_labels("a.txt", text.encode()[:HEAD]) == kind


@pytest.mark.parametrize("text", [BOX, OUTLINE, POSE])
@pytest.mark.parametrize("packed", [False, True])
def test_a_detectors_lines_beside_pictures_are_no_classes(
    tmp_path: Path, text: str, packed: bool
) -> None:
    source = tmp_path / "set"
    _pictures(source)
    for number, picture in enumerate(sorted(source.glob("*.png"))):
        picture.with_suffix(".txt").write_text(text.replace("0.5", f"0.{number + 3}"))
    if packed:
        source = Path(shutil.make_archive(str(source), "tar", source))
    found = inspect_source(str(source))
    assert not found["classes"] and found["left_out"]["detection_labels"]["count"] == 4


def test_an_outline_longer_than_what_is_read_of_a_file_is_a_polygon() -> None:
    line = b"0" + b" 0.123456 0.654321" * 400
    assert len(line) > HEAD
    assert detector_labels("a.txt", line[:HEAD]) == "YOLO polygons"


def test_a_description_as_the_source_says_where_its_pictures_are(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(NAMES)
    with pytest.raises(DataError, match="not a place of images") as caught:
        Skill().plan("train", train_datasets=str(tmp_path / "data.yaml"))
    assert "name its folder of pictures, images/train" in str(caught.value.hint)


def test_the_folders_of_yolo_for_classification_are_those_of_a_classifier(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            _pictures(tmp_path / part / name, suffix=".jpg")
    plan = Skill().plan(
        "train",
        train_datasets=str(tmp_path / "train"),
        eval_dataset=str(tmp_path / "val"),
        spec_overrides={"train.stage": "finetune", "model.num_classes": 2},
    )
    counts = plan.sources["dataset.train_data_sources"]["class_counts"]
    assert counts == {"cat": 4, "dog": 4}


def test_the_table_that_the_page_makes_of_boxes_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pictures(tmp_path / "set/images/train")
    _labels(tmp_path / "set/labels/train", BOX + "0 0.5 0.5 0.1 0.1\n", 2)
    (tmp_path / "set/labels/train/2.txt").write_text(BOX)  # and none of the last
    (tmp_path / "set/data.yaml").write_text(NAMES)
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    monkeypatch.chdir(tmp_path)

    exec(code, {})

    rows = (tmp_path / "labels.csv").read_text().splitlines()
    assert rows == ["path,labels", "0.png,cat|dog", "1.png,cat|dog", "2.png,dog", "3.png,"]
    plan = Skill().plan(
        "train",
        train_datasets=str(tmp_path / "set/images/train"),
        spec_overrides={
            "train.stage": "finetune",
            "model.num_classes": 2,
            "model.multi_label": True,
            "dataset.labels.train": str(tmp_path / "labels.csv"),
        },
    )
    counts = plan.sources["dataset.train_data_sources"]["class_counts"]
    assert counts == {"cat": 2, "dog": 3}
