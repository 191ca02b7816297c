"""Names, tables and masks that mean something else than they say end in no result without a word:
an error of the plan, or a warning that names them."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mae_sdk import Plan, Skill
from mae_sdk.data import open_source
from mae_sdk.data.inspect import inspect_masks, inspect_source
from mae_sdk.data.reading import Reading
from mae_sdk.data.survey import measured, repeated_images, shared_images
from mae_skill.errors import DataError, MaeError, SpecError
from mae_skill.rules.seen import TRAIN
from onnx import TensorProto, helper
from PIL import Image

from tests.support.data_sets import (
    FINETUNE,
    FROM_ZERO,
    RNG,
    SMALL,
    classes,
    masked,
    picture,
    plan,
)
from tests.support.folders import write_own_checkpoint
from tests.support.images import make_tarball


def said(made: Plan) -> str:
    """What a plan warns of in the training data."""
    key = "dataset.train_data_sources"
    return "\n".join(str(item) for item in made.warnings if str(item).startswith(key))


def warned(root: Path, *names: str, packed: bool = False) -> str:
    """What a plan over these class folders warns of, in a folder or its archive."""
    source = classes(root / "d", *names)
    if packed:
        source = make_tarball(source, root / "d.tar")
    return said(plan(source, **{**FINETUNE, "num_classes": len(names)}))


# ------------------------------------------------------------------------------------------
# names of classes


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["Ant", "ant"], "in case alone, learned apart and perhaps one: Ant (3) and ant (3)"),
        (["red ant", "red_ant"], "red ant (3) and red_ant (3)"),
        (["ice cream", "icecream"], "ice cream (3) and icecream (3)"),
        (["\ufb01sh", "fish"], "forms of letters alone"),
        (["ant", "\u0430nt"], r"another alphabet alone, learned apart and perhaps one: 'ant' (3)"),
        (["ant", "ant - Copy", "ant (1)"], "ant (3), ant (1) (3), ant - Copy (3)"),
        (["ant", "Copy of ant", "bee"], "the mark of a copy alone"),
        (["0", "0.0", "1"], "how a number is written alone"),
        (["01", "1", "2"], "how a number is written alone"),
        (["1e3", "1000"], "1000 (3) and 1e3 (3)"),
        (["1,000", "1000"], "how a number is written alone"),
        (["elm", "fir", "elm;fir"], "names that hold other names, each learned as a class"),
        (["elm", "fir", "elm,fir"], "elm,fir (3)"),
        (["elm+fir", "fir+oak", "oak+elm"], "elm+fir (3), fir+oak (3), oak+elm (3)"),
        (["ant", "bee", "wasp", "thumbnails"], "learned as a class: thumbnails (3)"),
        (["ant", "bee", "masks"], "learned as a class: masks (3)"),
        (["A", "B", "a", "b"], "A (3) and a (3); B (3) and b (3)"),
        (["0", "1", "-1"], "named like a missing value, and learned as a class: -1 (3)"),
        (["1", "2", "3", "999"], "learned as a class: 999 (3)"),
        (["ant", "nan"], "named like a missing value, and learned as a class: nan (3)"),
    ],
)
def test_classes_that_may_be_one_are_named_with_their_counts(
    names: list[str], says: str, packed: bool, tmp_path: Path
) -> None:
    assert says in warned(tmp_path, *names, packed=packed)


@pytest.mark.parametrize(
    "names",
    [
        ["type (1)", "type (2)"],
        ["copy", "copying"],
        ["A", "A+", "A-"],
        ["1-1", "11"],
        ["1234567", "1234568"],
        ["-1", "1"],
        ["97", "98", "99"],
        ["cat", "catfish"],
        ["Portland, OR", "Portland, ME"],
        ["0,1", "0", "1"],
        ["A+", "A"],
        ["mask", "no_mask"],
        ["previews", "masks"],
    ],
)
def test_names_that_are_two_classes_pass_without_a_word(names: list[str], tmp_path: Path) -> None:
    assert warned(tmp_path, *names) == ""


@pytest.mark.parametrize("other", [" ant", "ant\u00a0", "a\u200bnt", "\ufeffant"])
def test_two_classes_whose_names_look_the_same_are_an_error(other: str, tmp_path: Path) -> None:
    source = classes(tmp_path, "ant", other)
    with pytest.raises(DataError, match="have names that look the same") as caught:
        plan(source, **FINETUNE)
    assert ascii(other) in caught.value.message
    assert not inspect_source(source)["verdict"]["usable"]


def test_a_class_of_validation_in_another_spelling_is_told_with_the_one_meant(
    tmp_path: Path,
) -> None:
    train = classes(tmp_path / "train", "ant", "bee")
    with pytest.raises(DataError, match="not among those that the model learns") as caught:
        plan(train, classes(tmp_path / "val", "Ant", "bee"), **FINETUNE)
    assert "'Ant' for 'ant'" in str(caught.value.hint)


@pytest.mark.parametrize(
    "names",
    [
        ["calibration", "holdout"],
        ["hold-out", "train"],
        ["query", "gallery"],
        ["known", "query"],
    ],
)
def test_parts_of_a_set_are_no_classes(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="named like parts of a data set") as caught:
        plan(classes(tmp_path, *names), **FINETUNE)
    assert all(name in caught.value.message for name in names)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ["siteA/train", "siteB/val"],
        ["ant/train", "ant/test", "bee/train", "bee/test"],
        ["2023/train/ant", "2023/train/bee", "2024/train/ant"],
        ["all/siteA/training", "all/siteB/validation"],
    ],
)
def test_parts_of_a_set_below_the_folders_that_would_be_classes_are_an_error(
    names: list[str], packed: bool, tmp_path: Path
) -> None:
    source = classes(tmp_path / "d", *names)
    if packed:
        source = make_tarball(source, tmp_path / "d.tar")
    with pytest.raises(DataError, match="the class folders hold parts of a data set") as caught:
        plan(source, **FINETUNE)
    assert names[0].removeprefix("all/")[:8] in caught.value.message
    assert not inspect_source(source)["verdict"]["usable"]
    pretrained = plan(source, **{**FINETUNE, "stage": "pretrain"})
    assert "are all trained on" in said(pretrained)


@pytest.mark.parametrize("names", [["ant/train", "bee/train"], ["bus/train/1", "bus/wheel", "car"]])
def test_a_single_part_below_every_class_is_no_doubt(names: list[str], tmp_path: Path) -> None:
    assert plan(classes(tmp_path, *names), **FINETUNE)


def test_one_part_of_every_class_is_named_by_the_pattern_of_the_hint(tmp_path: Path) -> None:
    source = classes(tmp_path, "ant/train", "ant/test", "bee/train", "bee/test")
    with pytest.raises(DataError) as caught:
        plan(source, **FINETUNE)
    assert f"{source}/*/test/**/*.png" in str(caught.value.hint)
    assert plan(f"{source}/*/train/**/*.png", **FINETUNE).sources[TRAIN]["images"] == 6


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["rgb", "depth", "ir"], "are the folders classes?"),
        (["batch_1", "batch_2"], "are the folders classes?"),
        (["part1", "part2", "set 3"], "are the folders classes?"),
        (["ants", "bees", "dev"], "named like a part of a data set, and learned as a class: dev"),
        (["bus", "car", "train"], ""),
        (["known", "unknowns"], ""),
        (["probe", "scalpel"], ""),
        (["class_1", "class_2"], ""),
    ],
)
def test_folders_that_may_be_parts_or_classes_are_warned_about(
    names: list[str], says: str, tmp_path: Path
) -> None:
    text = warned(tmp_path, *names)
    assert says in text and bool(says) == bool(text)


@pytest.mark.parametrize("packed", [False, True])
def test_class_folders_of_two_depths_say_which_class_the_deeper_images_have(
    packed: bool, tmp_path: Path
) -> None:
    source = classes(tmp_path / "d", "ant", "group/bee", "group/wasp")
    even = classes(tmp_path / "even", "ant/1", "bee/1", "bee/2")
    if packed:
        source = make_tarball(source, tmp_path / "d.tar")
    text = said(plan(source, **FINETUNE))
    assert "6 of 9 images are deeper" in text
    assert "group/bee (3) as group, group/wasp (3) as group" in text
    assert "deeper" not in said(plan(even, **FINETUNE))


def test_sources_with_numbers_and_with_names_for_classes_are_told_apart(tmp_path: Path) -> None:
    numbers = classes(tmp_path / "n", "0", "1")
    names = classes(tmp_path / "w", "ant", "bee")
    letters = classes(tmp_path / "l", "a", "b")
    four = {**FINETUNE, "num_classes": 4}
    assert "are numbers (0, 1), those of" in said(plan([numbers, names], **four))
    assert "numbers" not in said(plan([numbers, letters], **four))


def test_a_range_that_is_to_be_measured_of_two_depths_is_refused_before_the_run(
    tmp_path: Path,
) -> None:
    auto = {**FINETUNE, "dataset.value_range": "auto"}
    for name in ("ant", "bee"):
        picture(tmp_path / name / "deep.png", top=65535, kind=np.uint16)
        picture(tmp_path / name / "deep2.png", top=65535, kind=np.uint16)
    plan(tmp_path, **auto)
    classes(tmp_path, "ant", "bee")
    with pytest.raises(MaeError, match="different depths: 6 of uint8, 4 of uint16") as caught:
        plan(tmp_path, **auto)
    assert caught.value.field == "dataset.value_range" and caught.value.hint
    plan(tmp_path, **FINETUNE)


MIXED = {
    "floats up to 1": (np.float32, 1.0),
    "floats up to 255": (np.float32, 255.0),
    "12 bits": (np.uint16, 4095),
    "16 bits": (np.uint16, 65535),
    "8 bits in 16": (np.uint16, 255),
    "32 bits": (np.int32, 100_000),
    "floats below 0": (np.float32, -1.0),
}


@pytest.mark.parametrize("given", [None, "dtype", "auto", [0, 1], [0, 4095]])
@pytest.mark.parametrize("other", MIXED)
def test_what_is_said_of_the_range_of_several_types_leads_out(
    tmp_path: Path, other: str, given: Any
) -> None:
    kind, top = MIXED[other]
    root = classes(tmp_path / "d", "ant", "bee")
    arrays = {}
    for place in (root / "ant", root / "bee"):
        for number in range(3):
            low = min(top, 0)
            values = (low + RNG.random((16, 16)) * (abs(top) - low)).astype(kind)
            arrays[place / f"{number}.npy"] = values
            np.save(place / f"{number}.npy", values)

    def told(**settings: Any) -> tuple[bool, str]:
        """Whether a plan is made, and what it says of ranges."""
        try:
            made = plan(root, **FINETUNE, **settings)
        except MaeError as error:
            return False, f"{error.message}; {error.hint}"
        return True, "; ".join(text for text in said(made).splitlines() if "range" in text)

    settings = {} if given is None else {"dataset.value_range": given}
    accepted, text = told(**settings)
    if accepted and not text:
        return
    advised = re.findall(r"set (dataset\.value_range)(?:=| to )(dtype|auto|\[[^\]]*\])", text)
    if advised:
        values = {value for _, value in advised}
        assert len(values) == 1, text
        value = values.pop()
        again = json.loads(value) if value[0] == "[" else value
        assert told(**{"dataset.value_range": again}) == (True, "")
        return
    assert "no one range suits these types" in text
    formula = re.search(r"in numpy (.*?\)\.astype\('uint16'\))", text)
    assert formula is not None
    for place, array in arrays.items():
        np.save(place, eval(formula[1], {"x": array.astype(np.float64)}))
    assert told() == (True, "")


def test_a_range_for_validation_alone_is_not_advised(tmp_path: Path) -> None:
    train, val = classes(tmp_path / "train", "ant", "bee"), tmp_path / "val"
    for name in ("ant", "bee"):
        picture(val / name / "1.png", top=4095, kind=np.uint16)
    with pytest.raises(DataError, match="they look nearly black") as caught:
        plan(train, val, **FINETUNE)
    assert "no one range suits these types: save those of uint16" in str(caught.value.hint)
    assert "set dataset.value_range" not in str(caught.value)


def test_a_range_of_one_value_is_refused_before_the_run(tmp_path: Path) -> None:
    auto = {**FINETUNE, "dataset.value_range": "auto"}
    for number, name in enumerate(["ant", "bee"] * 3):
        values = np.zeros((64, 64), np.uint16)
        values[number, number] = 9  # one of 4,096 is no more than a hot pixel
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    with pytest.raises(MaeError, match=r"0 is both the 0\.1 and the 99\.9 percentile") as caught:
        plan(tmp_path, **auto)
    assert caught.value.field == "dataset.value_range"
    reading = Reading(value_range="auto")
    with pytest.raises(DataError, match=r"0 is both the 0\.1 and the 99\.9 percentile"):
        measured(open_source(tmp_path), reading)


def test_no_data_beyond_a_range_that_was_set_is_said(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(3):
            values = RNG.normal(300, 60, (32, 32)).astype(np.float32).clip(1, 599)
            values[:4] = -9999
            np.save(tmp_path / name / f"{number}.npy", values)
    one = {**FINETUNE, "dataset.channels": 1}
    told = said(plan(tmp_path, **one, **{"dataset.value_range": [0, 600]}))
    assert "-9999 stands for no data in 12.5% of the values of the 6 pictures of float32" in told
    assert "reads as 0 in dataset.value_range 0 … 600" in told
    within = said(plan(tmp_path, **one, **{"dataset.value_range": [-10000, 600]}))
    assert "stands for no data" not in within


@pytest.mark.parametrize(
    ("filled", "rows", "says"),
    [
        (5000, 4, "12.5% of the values of the 6 pictures of float32 are 5000, far from all others"),
        (-5000, 4, "far from all others, and read as 0 in dataset.value_range 0 … 600"),
        (700, 24, "75% of the values lie outside of dataset.value_range 0 … 600"),
        (700, 4, None),
        (300, 24, None),
    ],
)
def test_many_values_beyond_a_range_that_was_set_are_said(
    tmp_path: Path, filled: float, rows: int, says: str | None
) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(3):
            values = RNG.normal(300, 60, (32, 32)).astype(np.float32).clip(1, 599)
            values[:rows] = filled
            np.save(tmp_path / name / f"{number}.npy", values)
    settings = {"dataset.channels": 1, "dataset.value_range": [0, 600]}
    told = said(plan(tmp_path, **FINETUNE, **settings))
    assert says in told if says else "value_range 0" not in told


@pytest.mark.parametrize(
    ("mean", "std", "far"),
    [
        ([0.9, 0.9, 0.9], [0.05, 0.05, 0.05], True),
        ([0.5], [0.01], True),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], False),
        ([0.13], [0.31], False),
    ],
)
def test_statistics_far_from_those_of_the_pictures_are_doubted(
    tmp_path: Path, mean: list[float], std: list[float], far: bool
) -> None:
    source = classes(tmp_path, "ant", "bee")
    statistics = {"dataset.augmentation.mean": mean, "dataset.augmentation.std": std}
    made = plan(source, **FINETUNE, **statistics)
    told = [str(one) for one in made.warnings if "are not those of the pictures" in str(one)]
    assert bool(told) == far
    assert not far or told[0].startswith("dataset.augmentation.mean: mean ")
    assert not [one for one in plan(source, **FINETUNE).warnings if "are not those" in str(one)]


@pytest.mark.parametrize(("alpha", "channels"), [(0, None), (1, None), (255, None), (0, 4)])
def test_pictures_that_no_viewer_shows_are_named(
    tmp_path: Path, alpha: int, channels: int | None
) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(3):
            values = RNG.integers(0, 255, (16, 16, 4), dtype=np.uint8)
            values[..., 3] = 0
            values[0, 0, 3] = alpha
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    more = {"dataset.augmentation.auto_aug": None} if channels else {}
    told = said(plan(tmp_path, **FINETUNE, **more, **{"dataset.channels": channels}))
    hidden = alpha == 0 and channels is None
    assert ("6 of 6 pictures are transparent all over" in told) == hidden


def test_a_table_that_contradicts_the_folders_is_said_with_an_example(tmp_path: Path) -> None:
    source = classes(tmp_path / "d", "ant", "bee")
    paths = [f"{name}/{number}.png" for name in ("ant", "bee") for number in range(3)]

    def told(label: Any) -> str:
        table = tmp_path / "t.csv"
        table.write_text("path,label\n" + "".join(f"{one},{label(one)}\n" for one in paths))
        return said(plan(source, **FINETUNE, **{"dataset.labels.train": str(table)}))

    other = {"ant": "bee", "bee": "ant"}
    swapped = told(lambda one: other[one[:3]] if one == "ant/1.png" else one[:3])
    assert "1 of 6 pictures lie in the folder of another class than their row says" in swapped
    assert "(ant/1.png: bee)" in swapped
    assert "another class" not in told(lambda one: one[:3])
    assert "another class" not in told(lambda one: {"ant": "big", "bee": "small"}[one[:3]])


def test_one_class_that_is_chosen_is_an_error_of_the_choice(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="names one class alone, bee") as caught:
        plan(classes(tmp_path, "ant", "bee"), **{**FINETUNE, "dataset.classes": ["bee"]})
    assert caught.value.field == "dataset.classes"


def test_a_share_that_leaves_one_image_of_each_class_is_warned_of(tmp_path: Path) -> None:
    source, field = classes(tmp_path, "ant", "bee", count=6), "dataset.train_fraction"

    def warned_of(share: float, **settings: Any) -> list[str]:
        made = plan(source, **{**FINETUNE, **settings, "batch_size": 1, field: share})
        return [str(item) for item in made.warnings if str(item).startswith(field)]

    assert "leaves one image of each class" in str(warned_of(1e-6))
    assert "leaves 2 of the images" in str(warned_of(1e-6, stage="pretrain"))
    assert warned_of(0.5) == warned_of(1.0) == []


# ------------------------------------------------------------------------------------------
# tables of labels


def by_table(root: Path, name: str, text: str, **settings: Any) -> Plan:
    """A plan over six pictures and a table of their labels."""
    for number in range(6):
        picture(root / "images" / f"{number}.png")
    (root / name).write_text(text)
    more = {"dataset.labels.train": str(root / name), **settings}
    return plan(root / "images", **{**FINETUNE, **more})


FLAGS = (
    "path,a,b,c\n0.png,{},0,1\n1.png,1,1,0\n2.png,1,1,1\n3.png,0,0,0\n4.png,0,1,0\n5.png,0,1,1\n"
)
SEVERAL = {"model.multi_label": True, "num_classes": 3}


@pytest.mark.parametrize("cell", ["-1", "nan", "?"])
def test_a_column_of_flags_with_another_value_is_an_error_and_no_lost_class(
    cell: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="other values than 0 and 1") as caught:
        by_table(tmp_path, "t.csv", FLAGS.format(cell), **SEVERAL)
    assert f"the column a of {tmp_path / 't.csv'}" in caught.value.message
    assert "the first is row 1" in caught.value.message


def test_a_column_of_further_numbers_is_no_class_and_said_to_be_none(tmp_path: Path) -> None:
    two = {**SEVERAL, "num_classes": 2}
    made = by_table(tmp_path, "t.csv", FLAGS.format(2), **two)
    assert "the column a is no class: beside 0 and 1 it holds 2 in 1 of 6 rows" in said(made)
    with pytest.raises(DataError, match="other values than 0 and 1: 2 in 1"):
        named = {"dataset.labels.columns": ["a", "b"]}
        by_table(tmp_path, "t.csv", FLAGS.format(2), **two, **named)


def test_empty_cells_among_flags_are_counted(tmp_path: Path) -> None:
    made = by_table(tmp_path, "t.csv", FLAGS.format(""), **SEVERAL)
    assert "1 empty cells count as 0 in columns that hold 0 and 1: a in row 1" in said(made)
    marks = FLAGS.format(1).replace("0", "").replace(".png", "0.png")
    for number in range(6):
        marks = marks.replace(f"\n{number}0.png", f"\n{number}.png")
    assert "empty" not in said(by_table(tmp_path, "m.csv", marks, **SEVERAL))


def rows(header: str, line: str) -> str:
    return header + "\n" + "".join(line.format(i=i, c=i % 2) + "\n" for i in range(6))


def test_which_of_two_columns_is_read_is_said(tmp_path: Path) -> None:
    made = by_table(tmp_path, "t.csv", rows("path,class,label", "{i}.png,ant{c},bee{c}"))
    assert "the column label is read; class is there too" in said(made)
    alike = by_table(tmp_path, "u.csv", rows("path,class,label", "{i}.png,ant{c},ant{c}"))
    assert "is there too" not in said(alike)


@pytest.mark.parametrize("name", ["tabs.csv", "tabs.tsv", "semicolons.tsv", "bars.csv"])
def test_a_table_is_read_by_the_separator_that_it_has(name: str, tmp_path: Path) -> None:
    sign = {"t": "\t", "s": ";", "b": "|"}[name[0]]
    text = rows(sign.join(["path", "label"]), sign.join(["{i}.png", "ant{c}"]))
    assert said(by_table(tmp_path, name, text)) == ""  # of two classes, or the plan is refused


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", "path,label\n0.png,ant\n1.png,ant,bee\n", "line 3 has more values than"),
        (
            "t.jsonl",
            '{"path": "0.png", "label": "ant"}\n{"path": "1.png", "label": "a", "label": "b"}\n',
            "line 2: the key label is there more than once",
        ),
    ],
)
def test_values_that_would_be_lost_are_an_error_that_names_the_line(
    name: str, text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=says):
        by_table(tmp_path, name, text)


def test_a_label_that_every_picture_has_is_named(tmp_path: Path) -> None:
    every = rows("path,a,b", "{i}.png,1,{c}")
    two = {**SEVERAL, "num_classes": 2}
    assert "every picture has the label a: there is" in said(
        by_table(tmp_path, "t.csv", every, **two)
    )
    assert "every picture" not in said(by_table(tmp_path, "u.csv", FLAGS.format(1), **SEVERAL))


def test_a_column_that_is_named_like_a_part_is_told_as_a_class_or_as_not_read(
    tmp_path: Path,
) -> None:
    flags = FLAGS.format(1).replace(",c\n", ",is_valid\n")
    text = said(by_table(tmp_path, "t.csv", flags, **SEVERAL))
    assert "the column is_valid is named like a part of a data set, and learned" in text
    named = {**SEVERAL, "dataset.labels.columns": ["a", "b", "is_valid"]}
    assert "like a part" not in said(by_table(tmp_path, "u.csv", flags, **named))
    beside = rows("path,label,fold", "{i}.png,ant{c},{i}")
    assert "the column fold is named like a part of a data set, and not read" in said(
        by_table(tmp_path, "v.csv", beside)
    )
    split = rows("path,label,fold,split", "{i}.png,ant{c},{i},train")
    assert "fold" not in said(by_table(tmp_path, "w.csv", split))


def test_a_list_of_one_is_one_label(tmp_path: Path) -> None:
    lines = "".join(f'{{"path": "{i}.png", "label": ["ant{i % 2}"]}}\n' for i in range(6))
    assert said(by_table(tmp_path, "t.jsonl", lines)) == ""
    several = by_table(tmp_path, "t.jsonl", lines, **{"model.multi_label": True})
    assert "every picture of the table has one label" in "\n".join(map(str, several.warnings))
    with pytest.raises(DataError, match=r"row 1 of .* has several labels"):
        by_table(tmp_path, "u.jsonl", lines.replace('["ant0"]', '["ant0", "bee"]'))


@pytest.mark.parametrize("sign", [";", "|", ","])
def test_labels_that_are_joined_by_a_sign_are_told_with_the_way_to_part_them(
    sign: str, tmp_path: Path
) -> None:
    text = "path,label\n" + "".join(
        f'{i}.png,"{label}"\n'
        for i, label in enumerate(["elm", "fir", f"elm{sign}fir", "elm", "fir", f"elm{sign}fir"])
    )
    if sign == "|":
        with pytest.raises(DataError, match=r"several labels, with \| between them") as caught:
            by_table(tmp_path, "t.csv", text)
        assert "model.multi_label=true; where | belongs to a name" in str(caught.value.hint)
        return
    made = by_table(tmp_path, "t.csv", text, num_classes=3)
    assert f"elm{sign}fir (2)" in said(made) and "model.multi_label=true" in said(made)
    several = by_table(tmp_path, "t.csv", text, **{**SEVERAL, "num_classes": 2})
    assert f"labels are parted by {sign}, as in elm{sign}fir" in "\n".join(several.notices)


def by_name(root: Path, folder: str, *rows: str) -> Plan:
    """A plan over four pictures of a folder, and a table of these rows."""
    for number in range(4):
        picture(root / folder / f"{number}.png")
    (root / "t.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    more = {"dataset.labels.train": str(root / "t.csv")}
    return plan(root / folder, **{**FINETUNE, **more})


def test_rows_of_another_part_of_the_data_that_name_equal_files_are_named(tmp_path: Path) -> None:
    test = [f"set/test/{i}.png,{'ab'[i % 2]}" for i in range(4)]
    train = [row.replace("test", "train") for row in test]
    text = said(by_name(tmp_path / "1", "train", *test))
    assert "rows of folders that the source does not have, test (4), are taken" in text
    assert said(by_name(tmp_path / "2", "train", *train)) == ""
    moved = [row.replace("test", "pictures") for row in test]
    assert said(by_name(tmp_path / "3", "train", *moved)) == ""
    two = [row.replace("set/test/", f"{'xy'[i % 2]}/") for i, row in enumerate(test)]
    assert "x (2), y (2), are taken" in said(by_name(tmp_path / "4", "train", *two))


def test_rows_of_the_sources_own_folder_count_before_those_of_another(tmp_path: Path) -> None:
    train = [f"train/{i}.png,{'ab'[i % 2]}" for i in range(4)]
    test = [f"test/{i}.png,{'ba'[i % 2]}" for i in range(4)]
    made = by_name(tmp_path, "train", *test, *train)
    assert made.sources[TRAIN]["class_counts"] == {"a": 2, "b": 2}
    assert "4 rows name no picture of the source: test/0.png" in said(made)


def test_rows_that_label_a_training_and_a_validation_image_by_one_name_are_named(
    tmp_path: Path,
) -> None:
    for number in range(6):
        picture(tmp_path / "train" / f"{number}.png")
        picture(tmp_path / "val" / f"{number // 2 + 4}.png")
    table = tmp_path / "t.csv"
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(8)]
    table.write_text("path,label\n" + "\n".join(rows))
    both = {"dataset.labels.train": str(table), "dataset.labels.val": str(table)}

    def warned() -> str:
        made = plan(tmp_path / "train", tmp_path / "val", **FINETUNE, **both)
        return "\n".join(map(str, made.warnings))

    assert "2 rows give a training image and an image of this source their label" in warned()
    for number in (4, 5):
        (tmp_path / "train" / f"{number}.png").unlink()
    assert "give a training image" not in warned()


def test_labels_of_which_every_picture_has_one_know_no_picture_of_none(tmp_path: Path) -> None:
    labels = ["elm", "fir", "elm|oak", "elm", "fir", "fir|oak"]
    every = "path,label\n" + "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))

    def told(name: str, text: str) -> bool:
        notes = by_table(tmp_path, name, text, **SEVERAL).notices
        return any("rows of such pictures without a label" in str(note) for note in notes)

    assert told("t.csv", every)
    assert not told("u.csv", every.replace("0.png,elm", "0.png,"))


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_a_table_is_read_whatever_ends_its_lines(end: str, tmp_path: Path) -> None:
    text = rows("path,label", "{i}.png,ant{c}").replace("\n", end)
    made = by_table(tmp_path, "t.csv", text)
    assert made.sources[TRAIN]["class_counts"] == {"ant0": 3, "ant1": 3}


def test_labels_that_are_joined_by_a_blank_are_told(tmp_path: Path) -> None:
    labels = ["elm", "fir", "elm fir", "elm", "fir", "elm fir"]
    text = "path,label\n" + "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))
    assert "elm fir (2)" in said(by_table(tmp_path, "t.csv", text, **SEVERAL))
    named = text.replace("elm fir", "red fir")
    assert "red fir" not in said(by_table(tmp_path, "u.csv", named, **SEVERAL))


@pytest.mark.parametrize(
    ("one", "both", "none"),
    [
        ("['ant']", "['ant', 'bee']", "[]"),
        ('[""ant""]', '[""ant"", ""bee""]', "[ ]"),
        ("('ant',)", "('ant', 'bee')", ""),
        ("{'ant'}", "{'bee', 'ant'}", "[]"),
    ],
)
def test_a_list_that_is_written_as_a_text_is_its_labels(
    one: str, both: str, none: str, tmp_path: Path
) -> None:
    cells = [one, both, none, one, both, "bee"]
    text = "path,label\n" + "".join(f'{i}.png,"{cell}"\n' for i, cell in enumerate(cells))
    made = by_table(tmp_path, "t.csv", text, **{**SEVERAL, "num_classes": 2})
    assert made.sources[TRAIN]["class_counts"] == {"ant": 4, "bee": 3}
    with pytest.raises(DataError, match=r"row 2 of .* has several labels"):
        by_table(tmp_path, "t.csv", text)


@pytest.mark.parametrize("cell", ["['ant' 'bee']", "[ant, bee]", '[""ant, bee""]'])
def test_a_list_as_a_text_whose_labels_cannot_be_told_is_an_error(
    cell: str, tmp_path: Path
) -> None:
    text = rows("path,label", '{i}.png,"CELL"').replace("CELL", cell)
    with pytest.raises(DataError, match=r"row 1 of .* has a list whose labels cannot") as caught:
        by_table(tmp_path, "t.csv", text, **SEVERAL)
    assert "ant|bee" in str(caught.value.expected)


@pytest.mark.parametrize("name", ["[unk]", "(2)", "(a, b)", "{x}"])
def test_a_name_in_brackets_is_a_name(name: str, tmp_path: Path) -> None:
    text = "path,label\n" + "".join(
        f'{i}.png,"{label}"\n' for i, label in enumerate([name, "bee"] * 3)
    )
    made = by_table(tmp_path, "t.csv", text)
    assert made.sources[TRAIN]["class_counts"] == {name: 3, "bee": 3}


def test_columns_of_flags_beside_the_column_of_labels_that_is_read_are_named(
    tmp_path: Path,
) -> None:
    text = rows("path,label,a,b", "{i}.png,ant{c},1,{c}")
    two = {**SEVERAL, "num_classes": 2}
    assert "labels are read from one column, and a, b of 0 and 1" in said(
        by_table(tmp_path, "t.csv", text, **two)
    )
    assert "0 and 1" not in said(by_table(tmp_path, "u.csv", text))
    one = rows("path,label,crowd", "{i}.png,ant{c},{c}")
    assert "0 and 1" not in said(by_table(tmp_path, "v.csv", one, **two))


@pytest.mark.parametrize("label", ['{"name": "ant"}', '[{"name": "ant"}]'])
def test_an_object_as_a_label_is_called_so(label: str, tmp_path: Path) -> None:
    lines = "".join(f'{{"path": "{i}.png", "label": {label}}}\n' for i in range(6))
    for more in ({}, {"model.multi_label": True}):
        with pytest.raises(DataError, match=r"row 1 of .* has an object with fields for a label"):
            by_table(tmp_path, "t.jsonl", lines, **more)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('path,label\n0.png,ant\n1.png,"bee\n2.png,bee\n', "line 3 opens a quote that nothing"),
        ('path,"label\n0.png,ant\n', "line 1 opens a quote that nothing closes"),
        ('path,label\n0.png,"ant"s\n', "line 2: "),
    ],
)
def test_a_quote_that_nothing_closes_is_named_by_its_line(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=says):
        by_table(tmp_path, "t.csv", text)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("t.jsonl", '[{"path": "0.png", "label": "ant"}]\n', "an object of JSON on each line"),
        ("t.csv", 'path,"label\n0.png,ant\n', "a line of column names, and a row for each picture"),
        (
            "t.csv",
            "path,color,age\n0.png,red,3\n",
            "a column label or class or target or label_name",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_an_error_of_its_field(
    name: str, text: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        by_table(tmp_path, name, text)
    assert caught.value.field == "dataset.labels.train"
    assert str(caught.value.expected).startswith(expected[:20])


def test_commas_at_the_end_of_lines_hold_nothing(tmp_path: Path) -> None:
    assert by_table(tmp_path, "t.csv", rows("path,label", "{i}.png,ant{c},,"))


# ------------------------------------------------------------------------------------------
# masks


def palette_mask(path: Path, values: np.ndarray, colors: list[int]) -> None:
    mask = Image.fromarray(values.astype(np.uint8)).convert("P")
    mask.putdata(values.ravel().tolist())
    mask.putpalette(colors)
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path)


RED_IS_0, RED_IS_1 = [255, 0, 0, 0, 0, 0], [0, 0, 0, 255, 0, 0]


def test_a_color_that_is_another_number_in_other_masks_is_an_error(tmp_path: Path) -> None:
    source = masked(tmp_path / "d", [0, 1], count=4)
    values = RNG.integers(0, 2, (16, 16))
    for number in range(4):
        place = source / "annotations" / f"{number}.png"
        values = RNG.integers(0, 2, (16, 16))
        palette_mask(place, values, RED_IS_1 if number else RED_IS_0)
    with pytest.raises(DataError, match="1 of 4 masks use another number") as caught:
        plan(source, **FROM_ZERO)
    assert "#ff0000 is 1 and 0" in caught.value.message
    assert "annotations/0.png" in caught.value.message
    assert "use another number" in inspect_masks(source)["verdict"]["problems"][0]
    few = {**FROM_ZERO, "dataset.max_corrupt_fraction": 0.5}
    assert "use another number" in said(plan(source, **few))


def test_palettes_of_other_colors_for_the_same_numbers_pass(tmp_path: Path) -> None:
    source = masked(tmp_path / "d", [0, 1], count=3)
    for number, colors in enumerate(([0, 0, 0, 128, 0, 0], [0, 0, 0, 1, 1, 1])):
        values = RNG.integers(0, 2, (16, 16))
        palette_mask(source / "annotations" / f"{number}.png", values, colors)
    assert "number" not in said(plan(source, **FROM_ZERO))


def test_masks_of_two_images_and_masks_of_none_are_named(tmp_path: Path) -> None:
    source = masked(tmp_path / "d", [0, 1])
    assert said(plan(source, **FROM_ZERO)) == ""
    picture(source / "images" / "0.bmp")
    shutil.copy(source / "annotations" / "1.png", source / "annotations" / "2.png")
    shutil.copy(source / "annotations" / "1.png", source / "annotations" / "9.png")
    text = said(plan(source, **FROM_ZERO))
    assert "1 images have their mask in common" in text
    assert "images/0.bmp and " in text
    assert "1 of 4 masks are equal to that of another image: " in text
    assert "1 masks belong to no image: " in text and "annotations/9.png" in text
    assert len(inspect_masks(source)["verdict"]["warnings"]) >= 3


@pytest.mark.parametrize("suffix", [".tif", ".gif"])
def test_masks_of_several_pages_of_which_one_is_read_are_named(suffix: str, tmp_path: Path) -> None:
    source = masked(tmp_path / "d", [0, 1], count=3)
    place = source / "annotations" / "0.png"
    first = Image.open(place)
    first.save(place.with_suffix(suffix), save_all=True, append_images=[first.rotate(90)])
    place.unlink()
    text = "1 of 3 masks hold several pages or frames, and the first of each is read"
    assert text in said(plan(source, **FROM_ZERO))
    assert any(text in one for one in inspect_masks(source)["verdict"]["warnings"])


def test_pages_of_pictures_are_not_said_of_their_masks(tmp_path: Path) -> None:
    source = masked(tmp_path / "d", [0, 1], count=3)
    first = Image.open(source / "images" / "0.png")
    first.save(source / "images" / "0.tif", save_all=True, append_images=[first.rotate(90)])
    (source / "images" / "0.png").unlink()
    text = said(plan(source, **FROM_ZERO))
    assert "1 of 3 files hold several frames or pages" in text
    assert "masks hold" not in text


@pytest.mark.parametrize("masks", ["nowhere", "text.txt", "empty", "no.zip"])
def test_masks_that_cannot_be_read_are_an_error_of_their_field(masks: str, tmp_path: Path) -> None:
    source = masked(tmp_path / "d", [0, 1])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("masks")
    (tmp_path / "no.zip").write_bytes(b"PK")
    field = "dataset.segmentation.train_mask_sources"
    with pytest.raises(MaeError) as caught:
        plan(source / "images", **{**FROM_ZERO, field: str(tmp_path / masks)})
    assert caught.value.field == field


def zipped_classes(root: Path) -> Path:
    """``ant.zip`` and ``bee.zip``, with images and no folder inside."""
    source = classes(root / "d", "ant", "bee")
    for name in ("ant", "bee"):
        shutil.make_archive(str(root / "zips" / name), "zip", source / name)
    return root / "zips"


def test_archives_that_are_named_like_classes_are_told_to_be_none(tmp_path: Path) -> None:
    zips = zipped_classes(tmp_path)
    for given in ({"train": zips}, {"train": None, "dataset.train_data_sources": str(zips)}):
        with pytest.raises(DataError) as caught:
            Skill().plan(
                "train",
                train_datasets=given.pop("train") and str(zips),
                automl_policy="off",
                spec_overrides={**FINETUNE, **given},
            )
        assert f"all of them: {zips}/*.zip" in str(caught.value.hint)
        assert "Each is a source and none is a class" in str(caught.value.hint)
    with pytest.raises(DataError, match="have no labels") as caught:
        plan(sorted(zips.iterdir()), **FINETUNE)
    assert "the name of a source is no class" in str(caught.value.hint)


def test_an_archive_beside_class_folders_is_said_to_be_left_out(tmp_path: Path) -> None:
    zips = zipped_classes(tmp_path)
    (zips / "ant.zip").rename(tmp_path / "d" / "wasp.zip")
    said_now = said(plan(tmp_path / "d", **FINETUNE))
    assert "left out: 1 archives, which nothing unpacks" in said_now and "wasp.zip" in said_now


def test_masks_of_which_nearly_nothing_counts_are_named(tmp_path: Path) -> None:
    source = masked(tmp_path / "d", [0, 1, *[255] * 400])
    assert "of the pixels of the masks count as no class; 255 is ignore_index" in said(
        plan(source, **FROM_ZERO)
    )


def test_a_mask_of_floating_point_is_called_so(tmp_path: Path) -> None:
    source = masked(tmp_path / "d", [0, 1])
    for number in range(3):
        (source / "annotations" / f"{number}.png").unlink()
        np.save(source / "annotations" / f"{number}.npy", np.zeros((16, 16), np.float32))
    with pytest.raises(DataError, match="has floating-point values, not class numbers"):
        plan(source, **FROM_ZERO)


# ------------------------------------------------------------------------------------------
# pixels


def deep(root: Path, write: Any, values: Any) -> Path:
    """Two classes of three pictures each, of values that a function makes."""
    for name in ("ant", "bee"):
        for number in range(3):
            place = root / name / f"{number}.tif"
            place.parent.mkdir(parents=True, exist_ok=True)
            write(place, values())
    return root


@pytest.mark.parametrize(
    ("kind", "top", "value", "tag"),
    [
        ("float32", 1.0, -9999.0, None),
        ("float32", 3000.0, -9999.0, None),
        ("float32", 1.0, 1e38, None),
        ("float32", 40.0, -3.4028234663852886e38, None),
        ("float64", 1.0, 9.969209968386869e36, None),
        ("int16", 3000, -32768, None),
        ("uint16", 4095, 65535, None),
        ("int32", 9000, -2147483648, None),
        ("float32", 1.0, -7.0, "-7"),
        ("int16", 3000, 1500, "1500"),
    ],
)
def test_a_value_that_stands_for_no_data_does_not_count_in_a_measured_range(
    kind: str, top: float, value: float, tag: str | None, tmp_path: Path
) -> None:
    import tifffile

    def values() -> Any:
        made = (RNG.random((16, 16)) * top).astype(kind)
        made[:5] = value
        return made

    more = {"extratags": [(42113, "s", 0, tag, True)]} if tag else {}
    source = deep(tmp_path, lambda place, data: tifffile.imwrite(place, data, **more), values)
    reading = measured(open_source(str(source)), Reading(value_range="auto"))
    low, high = reading.value_range
    assert -0.1 * top <= float(low) and float(high) <= top
    text = said(plan(source, **{**FINETUNE, "dataset.value_range": "auto"}))
    assert f"{value:g} stands for no data in 31" in text
    verdict = inspect_source(source, reading=Reading(value_range="auto"))["verdict"]
    assert any("stands for no data" in line for line in verdict["warnings"])


def test_a_value_far_from_all_others_that_nothing_calls_no_data_is_named(tmp_path: Path) -> None:
    def values() -> Any:
        made = RNG.random((16, 16)).astype(np.float32)
        made[:5] = -8888
        return made

    def write(place: Path, data: Any) -> None:
        np.save(place.with_suffix(".npy"), data)

    source = deep(tmp_path, write, values)
    text = said(plan(source, **{**FINETUNE, "dataset.value_range": "auto"}))
    assert "are -8888, far from all others, and it counts as an end" in text


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_pictures_of_a_few_values_or_of_all_have_no_value_of_no_data(
    kind: str, tmp_path: Path
) -> None:
    top = 1.0 if kind == "float32" else np.iinfo(kind).max

    def two() -> Any:
        return (RNG.integers(0, 2, (16, 16)) * top).astype(kind)

    def every() -> Any:
        return (RNG.random((16, 16)) * top).astype(kind)

    def write(place: Path, data: Any) -> None:
        np.save(place.with_suffix(".npy"), data)

    for number, values in enumerate((two, every)):
        source = deep(tmp_path / str(number), write, values)
        text = said(plan(source, **{**FINETUNE, "dataset.value_range": "auto"}))
        assert "no data" not in text


@pytest.mark.parametrize("kind", ["uint16", "int16"])
@pytest.mark.parametrize("low", [0, 9000])
def test_values_in_a_small_part_of_the_range_of_their_type_are_an_error_signed_or_not(
    kind: str, low: int, tmp_path: Path
) -> None:
    import tifffile

    source = deep(
        tmp_path, tifffile.imwrite, lambda: RNG.integers(low, low + 3000, (16, 16)).astype(kind)
    )
    with pytest.raises(DataError, match=r"of the range .* that counts: they look nearly") as caught:
        plan(source, **FINETUNE)
    assert "dataset.value_range=auto" in str(caught.value.hint)
    assert "look nearly" in said(plan(source, **{**FINETUNE, "dataset.value_range": "dtype"}))


def stored_as(root: Path, name: str, how: str) -> None:
    """Three pictures of a class, stored in one way."""
    for number in range(3):
        place = root / name / f"{number}.png"
        if how == "jpeg":
            picture(place.with_suffix(".jpg"))
        elif how in ("uint16", "12 bits"):
            picture(place, top=4095 if how == "12 bits" else 65535, kind=np.uint16)
        elif how == "gray":
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RNG.integers(0, 256, (16, 16), np.uint8)).save(place)
        elif how in ("0 … 1", "0 … 255"):
            place.parent.mkdir(parents=True, exist_ok=True)
            values = RNG.random((16, 16, 3)) * (255 if how == "0 … 255" else 1)
            np.save(place.with_suffix(".npy"), values.astype(np.float32))
        else:
            picture(place)


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (
            "png",
            "jpeg",
            "by the file format alone, whatever the pictures show: PNG: ant; JPEG: bee",
        ),
        ("uint16", "12 bits", "the depth alone"),
        ("gray", "uint16", "the depth alone"),
        ("png", "gray", "gray or color alone"),
        ("0 … 1", "0 … 255", "float32 up to 1: ant; float32 beyond 1: bee"),
        ("png", "png", ""),
        ("uint16", "uint16", ""),
    ],
)
def test_classes_that_can_be_told_by_how_their_pictures_are_stored_are_named(
    one: str, other: str, says: str, tmp_path: Path
) -> None:
    stored_as(tmp_path, "ant", one)
    stored_as(tmp_path, "bee", other)
    more = {"dataset.value_range": [0, 255]} if "…" in one else {}
    text = said(plan(tmp_path, **{**FINETUNE, **more}))
    assert says in text and bool(says) == ("can be told by" in text)


def test_classes_of_two_sizes_are_named_and_photos_of_many_sizes_are_not(tmp_path: Path) -> None:
    for name, side in (("ant", 16), ("bee", 24)):
        classes(tmp_path / "two", name, side=side)
    assert "size of the file's picture alone, whatever the pictures show: 16 × 16: ant" in said(
        plan(tmp_path / "two", **FINETUNE)
    )
    for number in range(12):
        picture(tmp_path / "many" / "ab"[number % 2] / f"{number}.png", side=16 + number)
    assert "can be told by" not in said(plan(tmp_path / "many", **FINETUNE))


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ("png", "gray", "in gray or color: gray, where those are color"),
        ("uint16", "gray", "in the depth: uint8, where those are uint16"),
        ("uint16", "12 bits", "uint16 up to an eighth of its range, where those are uint16"),
        ("png", "jpeg", ""),
        ("gray", "gray", ""),
    ],
)
def test_validation_images_that_are_stored_otherwise_are_told(
    one: str, other: str, says: str, tmp_path: Path
) -> None:
    for root, how in (("train", one), ("val", other)):
        for name in ("ant", "bee"):
            stored_as(tmp_path / root, name, how)
    more = {"dataset.value_range": "dtype"} if other == "12 bits" else {}
    made = plan(tmp_path / "train", tmp_path / "val", **{**FINETUNE, **more})
    text = "\n".join(map(str, made.warnings))
    assert says in text and bool(says) == ("images differ from the training images" in text)


def test_formats_that_every_class_has_tell_none_from_another(tmp_path: Path) -> None:
    source = classes(classes(tmp_path, "ant", "bee"), "ant", "bee", suffix=".jpg")
    assert "can be told by" not in said(plan(source, **FINETUNE))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_values_that_are_no_numbers_are_counted_with_their_share(
    value: float, suffix: str, tmp_path: Path
) -> None:
    import tifffile

    source = classes(tmp_path, "ant", "bee")
    values = RNG.random((16, 16)).astype(np.float32)
    values[:8] = value
    place = source / "ant" / f"9{suffix}"
    np.save(place, values) if suffix == ".npy" else tifffile.imwrite(place, values)
    text = said(plan(source, **{**FINETUNE, "dataset.value_range": [0, 255]}))
    assert "1 of 7 pictures hold NaN or infinite values, in 50% of their pixels" in text
    assert place.name in text


def test_a_picture_without_a_number_is_unreadable(tmp_path: Path) -> None:
    source = classes(tmp_path, "ant", "bee")
    np.save(source / "ant" / "9.npy", np.full((16, 16), np.nan, np.float32))
    with pytest.raises(DataError, match="has no pixel with a number") as caught:
        plan(source, **{**FINETUNE, "dataset.value_range": [0, 255]})
    assert "1 of 7 images cannot be read" in caught.value.message


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_pictures_that_show_something_in_their_alpha_alone_are_told_so(
    mode: str, tmp_path: Path
) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(3):
            pixels = np.zeros((16, 16, 4), np.uint8)
            pixels[..., 3] = RNG.integers(0, 2, (16, 16)) * 255
            made = Image.fromarray(pixels).convert("LA" if mode == "LA" else "RGBA")
            if mode == "P":
                made = made.quantize(4)
            made.save(tmp_path / name / f"{number}.png")
    with pytest.raises(DataError, match="is of one color alone") as caught:
        plan(tmp_path, **FINETUNE)
    assert "6 of them show something in their alpha alone" in str(caught.value.hint)
    assert "dataset.channels=4" in str(caught.value.hint)
    picture(tmp_path / "ant" / "9.png")
    assert "6 of them show something in their alpha alone" in said(plan(tmp_path, **FINETUNE))


@pytest.mark.parametrize(
    ("shape", "kind", "settings", "hint"),
    [
        ((16, 16, 5), np.uint8, {}, "set dataset.channels to 5"),
        (
            (16, 16, 5),
            np.float32,
            {},
            "set dataset.channels to 5 and dataset.value_range to auto",
        ),
        ((16, 16, 3), np.float32, {}, "set dataset.value_range to auto"),
        (
            (16, 16, 3),
            np.uint8,
            {"dataset.augmentation.max_pixels": 200},
            "raise dataset.augmentation.max_pixels",
        ),
    ],
)
def test_files_that_a_setting_reads_are_refused_with_the_setting(
    shape: tuple[int, ...], kind: Any, settings: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    def write(place: Path, data: Any) -> None:
        np.save(place.with_suffix(".npy"), data)

    source = deep(tmp_path, write, lambda: (RNG.random(shape) * 200).astype(kind))
    with pytest.raises(DataError, match="cannot be read") as caught:
        plan(source, **{**FINETUNE, "stage": "pretrain", **settings})
    assert caught.value.hint is not None and caught.value.hint.startswith(hint)


def test_a_warning_of_pillow_reaches_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    source = classes(tmp_path, "ant", "bee")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(DataError, match="more than the 200 allowed"):
        plan(source, **{**FINETUNE, "stage": "pretrain", "dataset.augmentation.max_pixels": 200})
    assert not [one for one in recwarn if "pixels" in str(one.message)]


def test_a_wrong_number_of_classes_is_told_together_with_what_is_doubtful(tmp_path: Path) -> None:
    source = classes(tmp_path, "Ant", "ant", "bee")
    with pytest.raises(SpecError) as caught:
        plan(source, **FINETUNE)
    hint = str(caught.value.hint)
    assert hint.startswith("set model.num_classes=3; first look at what is doubtful: ")
    assert "Ant (3) and ant (3)" in hint
    plain = classes(tmp_path / "plain", "ant", "bee", "wasp")
    with pytest.raises(SpecError) as caught:
        plan(plain, **FINETUNE)
    assert caught.value.hint == "set model.num_classes=3"


def test_pictures_smaller_than_a_patch_are_named(tmp_path: Path) -> None:
    source = classes(tmp_path / "a", "ant", "bee")
    picture(source / "ant" / "9.png", side=8)
    text = said(plan(source, **FINETUNE))
    assert "1 of 7 pictures have a side of less than 16 pixels" in text
    assert "ant/9.png" in text
    assert said(plan(source, **{**FINETUNE, "model.patch_size": 8})) == ""
    with pytest.raises(DataError, match="is of one color alone"):
        plan(classes(tmp_path / "b", "ant", "bee", side=1), **FINETUNE)


# ------------------------------------------------------------------------------------------
# evaluation


def evaluate(checkpoint: Path, val: Path) -> Plan:
    return Skill().plan(
        "evaluate", eval_dataset=str(val), spec_overrides={"evaluate.checkpoint": str(checkpoint)}
    )


def test_an_evaluation_is_compared_with_the_classes_of_the_checkpoint_that_it_names(
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.pth"
    write_own_checkpoint(file, stage="finetune", classes=["ant", "bee"])
    with pytest.raises(DataError, match=r"not among those that the model learns: Ant \(3\)"):
        evaluate(file, classes(tmp_path / "a", "Ant", "bee"))
    every = classes(tmp_path / "b", "ant", "bee")
    assert evaluate(file, every)
    for number in range(3):
        shutil.copy(every / "ant" / f"{number}.png", every / "bee" / f"{number}.png")
    with pytest.raises(DataError, match="every image is in several classes at once"):
        evaluate(file, every)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_pictures_that_a_trained_model_does_not_read_are_not_to_be_mended_by_its_settings(
    kind: Any, tmp_path: Path
) -> None:
    """The settings are the model's own: to set one is an error of its own."""
    file, source = tmp_path / "model.pth", tmp_path / "deep"
    mean = [0.5, 0.5, 0.5]
    write_own_checkpoint(file, stage="finetune", classes=["ant", "bee"], mean=mean, std=mean)
    source.mkdir()
    for number in range(3):
        np.save(source / f"{number}.npy", (RNG.random((16, 16, 3)) * 4095).astype(kind))
    with pytest.raises(DataError) as caught:
        settings = {"inference.checkpoint": str(file), "dataset.batch_size": 1}
        Skill().plan("inference", inference_dataset=str(source), spec_overrides=settings)
    assert caught.value.field == "dataset.test_data_sources"
    assert "trained on pictures of 3 bands that use the range" in str(caught.value.hint)
    assert "auto" not in str(caught.value.hint) and "set dataset" not in caught.value.message
    if kind is np.float32:
        assert "does not say: the model takes pictures of 8 or 16 bits" in caught.value.message
        with pytest.raises(DataError, match="the model takes pictures") as caught:  # and no more
            settings["dataset.value_range"] = "auto"
            Skill().plan("inference", inference_dataset=str(source), spec_overrides=settings)


def test_bands_that_a_trained_model_does_not_take_are_said_in_its_terms(tmp_path: Path) -> None:
    file, source = tmp_path / "model.pth", tmp_path / "wide"
    mean = [0.5, 0.5, 0.5]
    write_own_checkpoint(file, stage="finetune", classes=["ant", "bee"], mean=mean, std=mean)
    source.mkdir()
    np.save(source / "0.npy", (RNG.random((16, 16, 5)) * 255).astype(np.uint8))
    with pytest.raises(DataError, match="the model takes pictures of 3") as caught:
        settings = {"inference.checkpoint": str(file)}
        Skill().plan("inference", inference_dataset=str(source), spec_overrides=settings)
    assert "set dataset" not in str(caught.value)


def described(root: Path, kind: str) -> tuple[str, Path]:
    """A model file that says that its classes are ant and bee, and the field that names it."""
    about = {"stage": "finetune", "classes": ["ant", "bee"], "num_classes": 2}
    if kind == "checkpoint":
        write_own_checkpoint(root / "model.pth", stage="finetune", classes=["ant", "bee"])
        return "checkpoint", root / "model.pth"
    if kind == "engine":
        (root / "model.engine").write_bytes(b"ftrt\0")
        (root / "model.engine.json").write_text(json.dumps({"arch": SMALL["arch"], **about}))
        return "trt_engine", root / "model.engine"
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 32, 32])
    node = helper.make_node("Identity", ["image"], ["logits"])
    model = helper.make_model(helper.make_graph([node], "graph", [value], [out]))
    said = {f"mae.{key}": json.dumps(value) for key, value in about.items()}
    helper.set_model_props(model, said)
    onnx.save(model, str(root / "model.onnx"))
    return "checkpoint", root / "model.onnx"


@pytest.mark.parametrize("kind", ["checkpoint", "onnx", "engine"])
def test_the_classes_that_a_model_file_names_are_compared_with_those_of_the_images(
    kind: str, tmp_path: Path
) -> None:
    field, file = described(tmp_path, kind)
    both = classes(tmp_path / "both", "ant", "wasp")
    with pytest.raises(DataError, match=r"not among those that the model learns: wasp \(3\)"):
        Skill().plan(
            "evaluate", eval_dataset=str(both), spec_overrides={f"evaluate.{field}": str(file)}
        )

    def infer(source: Path) -> str:
        made = Skill().plan(
            "inference",
            inference_dataset=str(source),
            spec_overrides={f"inference.{field}": str(file)},
        )
        return "\n".join(map(str, made.warnings))

    assert "labels that the model does not know" in infer(both) and "'wasp' (3)" in infer(both)
    assert "'Ant' for 'ant'" in infer(classes(tmp_path / "case", "Ant", "x"))
    assert "does not know" not in infer(classes(tmp_path / "dates", "2024-01", "2024-02"))
    assert "does not know" not in infer(classes(tmp_path / "same", "ant", "bee"))


def test_validation_images_of_several_classes_at_once_are_named(tmp_path: Path) -> None:
    train, val = classes(tmp_path / "t", "ant", "bee"), classes(tmp_path / "v", "ant", "bee")
    shutil.copy(val / "ant" / "0.png", val / "bee" / "0.png")
    made = plan(train, val, **FINETUNE)
    assert "1 images are in several classes at once" in "\n".join(map(str, made.warnings))


def test_of_many_loose_files_of_one_size_some_are_compared_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = classes(tmp_path / "t", "ant", "bee", count=9, suffix=".bmp")
    val = classes(tmp_path / "v", "ant", "bee", count=9, suffix=".bmp")
    for number in range(9):
        shutil.copy(train / "ant" / f"{number}.bmp", val / "ant" / f"{number}.bmp")
    found = shared_images(open_source(str(train)), open_source(str(val)), sample=3)
    assert found["count"] and (found["with"], found["of"]) == (12, 18)
    monkeypatch.setattr(shared_images, "__defaults__", (3,))
    made = plan(train, val, **FINETUNE)
    notes = "\n".join(made.notices)
    assert "compared with 12 of the 18 training images of the same size alone" in notes


def test_copies_among_many_loose_files_of_one_size_are_looked_for_in_all_classes(
    tmp_path: Path,
) -> None:
    source = classes(tmp_path, "ant", "bee", count=9, suffix=".bmp")
    for number in range(9):
        shutil.copy(source / "ant" / f"{number}.bmp", source / "bee" / f"{number}.bmp")
    picture(source / "ant" / "large.bmp", side=20)
    shutil.copy(source / "ant" / "large.bmp", source / "bee" / "large.bmp")
    found = repeated_images(open_source(str(source)), sample=2)
    assert (found["with"], found["of"]) == (8, 20)
    assert found["torn"]["count"] == 4  # the large one, and three of the six that are read
    assert "of" not in repeated_images(open_source(str(source)))


# ------------------------------------------------------------------------------------------
# words


@pytest.mark.parametrize("kind", ["folder", "d.tar", "d.tar.gz", "d.zip"])
def test_a_class_folder_without_a_file_is_named_in_an_archive_as_in_a_folder(
    kind: str, tmp_path: Path
) -> None:
    source = classes(tmp_path / "d", "ant", "bee")
    (source / "wasp" / "more").mkdir(parents=True)
    if kind == "d.zip":
        shutil.make_archive(str(tmp_path / "d"), "zip", source)
    elif kind != "folder":
        with tarfile.open(tmp_path / kind, "w:gz" if kind.endswith("gz") else "w") as tar:
            tar.add(source, ".")
    made = plan(source if kind == "folder" else tmp_path / kind, **FINETUNE)
    assert "folders without an image are no classes: wasp" in said(made)


def packed_with_links(source: Path, kind: str) -> Path:
    """A folder as it is, or an archive of it that keeps links."""
    made = source.parent / kind
    if kind == "d.tar":
        with tarfile.open(made, "w") as tar:
            tar.add(source, ".")
    elif kind == "d.zip":
        with zipfile.ZipFile(made, "w") as packed:
            for path in sorted(source.rglob("*")):
                info = zipfile.ZipInfo(path.relative_to(source).as_posix())
                info.create_system = 3
                info.external_attr = (0o120777 if path.is_symlink() else 0o100644) << 16
                if path.is_symlink():
                    packed.writestr(info, str(path.readlink()))
                elif path.is_file():
                    packed.writestr(info, path.read_bytes())
    return made if made.exists() else source


@pytest.mark.parametrize("kind", ["folder", "d.tar", "d.zip"])
@pytest.mark.parametrize("target", ["gone.png", "/nowhere/gone.png", "../../../gone.png"])
def test_a_link_that_leads_nowhere_reads_alike_in_folders_and_archives(
    kind: str, target: str, tmp_path: Path
) -> None:
    source = classes(tmp_path / "d", "ant", "bee", "wasp")
    (source / "ant" / "link.png").symlink_to(target)
    made = plan(packed_with_links(source, kind), **{**FINETUNE, "num_classes": 3})
    seen = made.sources[TRAIN]
    assert seen["class_counts"] == {"ant": 3, "bee": 3, "wasp": 3}
    assert "1 links that lead nowhere: ant/link.png" in said(made)

    for number in range(3):
        (source / "wasp" / f"{number}.png").unlink()
        (source / "wasp" / f"{number}.png").symlink_to(target)
    with pytest.raises(DataError, match=r"no image of a class is read: wasp \(3 files\)") as caught:
        plan(packed_with_links(source, kind), **FINETUNE)
    assert "lead nowhere: fetch what the links point to" in str(caught.value.hint)
    for number in range(5):
        (source / "bee" / f"more{number}.png").symlink_to(target)
    with pytest.raises(DataError, match="9 links lead nowhere, and 6 images are there"):
        plan(packed_with_links(source, kind), **{**FINETUNE, "stage": "pretrain"})


def test_links_to_folders_are_followed_in_archives_as_in_folders(tmp_path: Path) -> None:
    source = classes(tmp_path / "d", "ant", "bee")
    (source / "wasp").symlink_to("bee")
    (source / "ant" / "more").symlink_to("../bee")
    (source / "ant" / "self").symlink_to("../ant")
    (source / "bee" / "old").symlink_to("../../elsewhere")
    found = []
    for kind in ("folder", "d.tar", "d.zip"):
        made = plan(packed_with_links(source, kind), **{**FINETUNE, "num_classes": 3})
        found.append((made.sources[TRAIN]["class_counts"], said(made).replace(str(tmp_path), "")))
    assert found[0][0] == {"ant": 6, "bee": 3, "wasp": 3}
    assert "1 linked folders that hold themselves: ant/self/" in found[0][1]
    assert found[1][0] == found[2][0] == found[0][0]
    for _, text in found[1:]:
        assert "1 linked folders that hold themselves: ant/self/" in text
        assert "6 images are files that the source holds under another name too" in text


@pytest.mark.parametrize("kind", ["folder", "d.tar", "d.zip"])
def test_a_source_of_links_to_nothing_alone_says_so(kind: str, tmp_path: Path) -> None:
    source = classes(tmp_path / "d", "ant", "bee", count=1)
    for name in ("ant", "bee"):
        (source / name / "0.png").unlink()
        (source / name / "0.png").symlink_to("../.git/annex/0.png")
    with pytest.raises(DataError) as caught:
        open_source(packed_with_links(source, kind))
    assert "link" in str(caught.value) and "point to" in str(caught.value.hint)


def test_a_cache_entry_of_an_older_version_reads_as_a_new_one_but_for_empty_folders(
    tmp_path: Path,
) -> None:
    source = classes(tmp_path / "d", "ant", "bee")
    (source / "wasp").mkdir()
    (source / "ant" / "link.png").symlink_to("gone.png")
    archive, cache = packed_with_links(source, "d.tar"), tmp_path / "cache"
    new = open_source(str(archive), cache_dir=cache)
    for index in cache.rglob("index.json"):
        kept = json.loads(index.read_text())
        assert kept.pop("empty") and kept.pop("dangling")
        index.write_text(json.dumps(kept))
    old = open_source(str(archive), cache_dir=cache)
    assert new.missing_classes() == {"wasp": 0} and old.missing_classes() == {}
    assert (list(old.members), old.classes, old.digest) == (
        list(new.members),
        new.classes,
        new.digest,
    )


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (("turn left", "turn right"), ["hflip"]),
        (("up", "down"), ["vflip"]),
        (("rotatedClockwise", "not"), ["hflip", "vflip"]),
        (("leftover", "bright"), []),
    ],
)
def test_a_mirror_image_of_a_class_that_is_named_by_a_side_is_told(
    names: tuple[str, ...], warned: list[str], tmp_path: Path
) -> None:
    flips = {f"dataset.augmentation.{name}": 0.5 for name in ("hflip", "vflip")}
    made = plan(classes(tmp_path / "d", *names), **FINETUNE, **flips)
    found = [one for one in made.warnings if "named by a side" in str(one)]
    assert [str(one.field).rpartition(".")[2] for one in found] == warned

    turned = {"dataset.augmentation.rotation": 180}
    made = plan(tmp_path / "d", **FINETUNE, **turned)
    assert any("turns pictures by up to 180" in str(one) for one in made.warnings) is bool(warned)


def test_the_part_to_name_below_a_pattern_is_a_folder(tmp_path: Path) -> None:
    source = classes(tmp_path / "d", "train/ant", "val/ant")
    with pytest.raises(DataError) as caught:
        plan(f"{source}/**/*.png", **FINETUNE)
    assert f"for example {source}/train" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"dataset.augmentation.vflip": 1.0}, "dataset.augmentation.vflip", "is upside down"),
        ({"dataset.augmentation.hflip": 1.0}, "dataset.augmentation.hflip", "is mirrored"),
        ({"dataset.probe_train_data_sources": "{data}"}, "dataset.probe_train", "interval is 0"),
        ({"dataset.augmentation.vflip": 0.5, "dataset.augmentation.hflip": 0.5}, "", ""),
    ],
)
def test_settings_that_keep_a_run_from_what_is_meant_are_said(
    changes: dict[str, Any], field: str, said: str, tmp_path: Path
) -> None:
    data = classes(tmp_path / "d", "ant", "bee")
    given = {key: str(data) if value == "{data}" else value for key, value in changes.items()}
    made = Skill().plan(
        "train",
        train_datasets=str(data),
        spec_overrides={**SMALL, "train.stage": "pretrain", **given},
        automl_policy="off",
    )
    found = [str(one) for one in made.warnings if "flip" in str(one) or "probe" in str(one)]
    assert len(found) == bool(said) and all(field in one and said in one for one in found)


def test_masks_beside_pictures_are_said_where_they_are_predicted(tmp_path: Path) -> None:
    file, mean = tmp_path / "model.pth", [0.5, 0.5, 0.5]
    write_own_checkpoint(file, stage="finetune", classes=["ant", "bee"], mean=mean, std=mean)
    source = classes(tmp_path / "set", "images", "annotations")
    made = Skill().plan(
        "inference",
        inference_dataset=str(source),
        spec_overrides={"inference.checkpoint": str(file)},
    )
    (said,) = [str(one) for one in made.warnings if "named like the masks" in str(one)]
    assert "dataset.test_data_sources" in said and "are taken as pictures" in said


def test_jobs_among_the_images_are_said(tmp_path: Path) -> None:
    data = classes(tmp_path / "d", "ant", "bee")

    def told(root: Path) -> list[str]:
        made = Skill().plan(
            "train",
            train_datasets=str(data),
            results_root=str(root),
            spec_overrides={**SMALL, "train.stage": "pretrain"},
            automl_policy="off",
        )
        return [str(one) for one in made.warnings if "results_root" in str(one)]

    assert told(tmp_path / "jobs") == []
    (said,) = told(data / "jobs")
    assert "the next run takes the pictures that this one writes for images too" in said
