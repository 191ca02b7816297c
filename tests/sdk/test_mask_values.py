"""Masks whose values are no numbers of classes: what is said of them is a setting that a plan then
accepts, and the setting itself is judged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_sdk import Skill
from mae_sdk.cli.main import main
from mae_sdk.data.inspect import inspect_masks
from mae_skill.dotted import get_dotted
from mae_skill.errors import DataError, MaeError
from mae_skill.reader import parse_overrides
from PIL import Image

from tests.support.data_sets import masked, picture, plan, warnings

VALUES = "dataset.segmentation.mask_values"
REDUCE = "dataset.segmentation.reduce_zero_label"
IGNORE = "dataset.segmentation.ignore_index"
CLASSES = "model.num_classes"
SEGMENTS = {
    "train.stage": "finetune",
    "model.task": "segmentation",
    "dataset.batch_size": 1,
    "model.arch": "vit_tiny_patch16",
    "dataset.augmentation.input_size": 64,
}
HELD = [[0, 255], [0, 128, 255], [0, 100, 200], [1, 255], [0, 2], [0, 1], [0, 1, 255], [0, 1, 2]]


def problems(source: Path, val: Path | None = None, **settings: Any) -> list[MaeError]:
    with pytest.raises(MaeError) as caught:
        plan(source, val, **{**SEGMENTS, **settings})
    return getattr(caught.value, "problems", None) or [caught.value]


def settings_in(text: str) -> dict[str, Any]:
    """The first settings that a text says to set."""
    said = re.search(r"\bset ((?:[\w.]+=[^\s;]+ ?)+)", text)
    assert said, text
    return parse_overrides([word.rstrip(",") for word in said[1].split()])


@pytest.mark.parametrize("held", HELD, ids=str)
@pytest.mark.parametrize(
    "said", [{}, {CLASSES: 3}, {CLASSES: 2, REDUCE: True}, {CLASSES: 2, REDUCE: False}], ids=str
)
def test_a_hint_of_the_plan_is_a_setting_that_it_accepts_in_one_step(
    tmp_path: Path, held: list[int], said: dict[str, Any]
) -> None:
    source = masked(tmp_path, held)
    try:
        plan(source, **SEGMENTS, **said)
    except MaeError as error:
        found = getattr(error, "problems", None) or [error]
    else:
        assert said  # who says nothing is asked
        return
    assert len(found) == 1, [str(one) for one in found]
    made = plan(source, **{**SEGMENTS, **said, **settings_in(str(found[0].hint))})
    assert made.spec["model"]["num_classes"] >= 2
    assert "1000 classes" not in str(found[0])


def test_black_and_white_masks_get_the_exact_setting(tmp_path: Path) -> None:
    (error,) = problems(masked(tmp_path, [0, 255]))
    assert error.field == CLASSES and "the masks hold the values 0, 255" in error.message
    assert error.hint == f"set {VALUES}=[0,255] {CLASSES}=2"
    (error,) = problems(tmp_path, **{CLASSES: 2, REDUCE: False})
    assert error.hint == f"set {VALUES}=[0,255] {CLASSES}=2"
    (error,) = problems(tmp_path, **{CLASSES: 2, REDUCE: True})
    assert error.hint == f"set {VALUES}=[0,255] {CLASSES}=2 {REDUCE}=false"


def test_levels_without_the_ignored_one_are_named_too(tmp_path: Path) -> None:
    source = masked(tmp_path, [0, 128, 255])
    (error,) = problems(source)
    assert f"or, if 255 means no class, {VALUES}=[0,128] {CLASSES}=2" in str(error.hint)
    made = plan(source, **SEGMENTS, **{VALUES: [0, 128]})
    assert made.spec["model"]["num_classes"] == 2
    (error,) = problems(source, **{CLASSES: 2})  # as many as there are without it
    assert settings_in(str(error.hint)) == {VALUES: [0, 128], CLASSES: 2}


def smoothed(root: Path) -> Path:
    for number in range(2):
        picture(root / "images" / f"{number}.png")
        mask = np.zeros((16, 16), np.uint8)
        mask[8:] = 255
        mask[7] = np.linspace(10, 240, 16)
        (root / "annotations").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "annotations" / f"{number}.png")
    return root


def test_smoothed_edges_are_not_taken_for_classes(tmp_path: Path) -> None:
    (error,) = problems(smoothed(tmp_path))
    assert "smoothed edges" in str(error.hint) and f"{VALUES}=[0,255]" in str(error.hint)
    said = inspect_masks(tmp_path)
    assert any("smoothed edges" in one for one in said["verdict"]["problems"])
    assert not said["verdict"]["usable"] and "settings" not in said
    found = problems(tmp_path, **{VALUES: [0, 255]})
    assert "values that are no class: 10" in found[0].message
    assert found[0].expected == "0, 255 (mask_values)"


def test_the_number_of_classes_follows_the_list_where_nobody_sets_it(tmp_path: Path) -> None:
    source = masked(tmp_path, [0, 255])
    made = plan(source, **SEGMENTS, **{VALUES: [0, 255]})
    assert made.spec["model"]["num_classes"] == 2
    assert (
        plan(source, **SEGMENTS, **{VALUES: [255, 0], CLASSES: 2}).spec["model"]["num_classes"] == 2
    )
    (error,) = problems(source, **{VALUES: [0, 255], CLASSES: 3})
    assert error.field == CLASSES and error.hint.startswith(f"set {CLASSES}=2")


@pytest.mark.parametrize(
    ("settings", "field", "says"),
    [
        ({VALUES: [0, 255, 0]}, VALUES, "lists 0 more than once"),
        ({VALUES: [0, 70000]}, f"{VALUES}[1]", "65535"),
        ({VALUES: [-1, 255]}, f"{VALUES}[0]", "0"),
        ({VALUES: [0]}, VALUES, "too few"),
        ({VALUES: [0, 255], REDUCE: True}, REDUCE, "says which value is which class"),
        (
            {VALUES: [0, 255], "dataset.segmentation.class_list": ["a", "b", "c"]},
            "dataset.segmentation.class_list",
            "names 3 classes",
        ),
    ],
)
def test_a_list_that_cannot_be_is_one_clear_error(
    tmp_path: Path, settings: dict[str, Any], field: str, says: str
) -> None:
    (error,) = problems(masked(tmp_path, [0, 255]), **settings)
    assert error.field == field and says in str(error)


def test_a_listed_value_is_its_class_whatever_is_ignored(tmp_path: Path) -> None:
    source = masked(tmp_path, [0, 7, 255])
    made = plan(source, **SEGMENTS, **{VALUES: [0, 255], IGNORE: 7})
    assert "count as no class" not in warnings(made)
    made = plan(source, **SEGMENTS, **{VALUES: [7, 255], IGNORE: 0})
    assert made.spec["model"]["num_classes"] == 2
    made = plan(source, **SEGMENTS, **{VALUES: [0, 7, 255], IGNORE: 255})
    assert any("255 is class 2" in str(one) for one in made.warnings)
    found = problems(source, **{VALUES: [0, 255], IGNORE: 9})
    assert "values that are no class: 7" in found[0].message


@pytest.mark.parametrize("held", [[0, 255], [0, 128, 255], [0, 1], [0, 1, 2], [1, 2, 3]], ids=str)
def test_an_inspection_ends_in_a_plan_that_is_accepted(
    tmp_path: Path, held: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    source = masked(tmp_path, held)
    with pytest.raises(SystemExit):
        main(["inspect", str(source / "images"), "--masks", str(source / "annotations")])
    said = capsys.readouterr().out
    command = re.search(r"mae (plan train .*)", said)
    assert command, said
    if held in ([0, 255], [0, 128, 255]):
        setting = f"set {VALUES}=[{','.join(map(str, held))}] {CLASSES}={len(held)}"
        assert setting in said
    words = [*shlex.split(command[1]), "--automl-policy", "off", "dataset.batch_size=1"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "model.arch=vit_tiny_patch16", "dataset.augmentation.input_size=64"])
    assert ended.value.code in (0, None), capsys.readouterr()


def test_an_inspection_with_the_list_judges_by_it(tmp_path: Path) -> None:
    from mae_sdk import answers

    source = masked(tmp_path, [0, 255])
    read = {"spec_overrides": {VALUES: [0, 255]}, "masks": "beside"}
    said = answers.inspect(str(source), **read)["verdict"]
    assert said == {"usable": True, "problems": [], "warnings": said["warnings"]}
    assert not any("255" in one for one in said["warnings"])
    other = masked(tmp_path / "other", [0, 128, 255])
    said = answers.inspect(str(other), **read)["verdict"]
    assert not said["usable"] and "values that are no class: 128" in said["problems"][0]


def test_validation_masks_of_other_values_are_named(tmp_path: Path) -> None:
    train, val = masked(tmp_path / "a", [0, 255]), masked(tmp_path / "b", [0, 1])
    found = problems(train, val, **{VALUES: [0, 255]})
    assert "values that are no class: 1" in found[0].message
    assert isinstance(found[0], DataError)
    assert found[0].hint == (
        "the training masks hold the values 0, 255: number the validation masks as these"
    )


def test_a_plan_says_by_what_word_masks_were_found(tmp_path: Path) -> None:
    source = masked(tmp_path, [0, 255])
    for path in (source / "annotations").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    made = plan(source, **SEGMENTS, **{VALUES: [0, 255]})
    assert any("in *_mask, and is taken so" in str(one) for one in made.notices)


@pytest.mark.parametrize(
    ("held", "settings", "wanted"),
    [
        ([0, 255], {}, {VALUES: [0, 255], CLASSES: 2}),
        ([0, 1], {}, {CLASSES: 2, REDUCE: False}),
        ([0, 1, 2, 3], {}, {CLASSES: 3, REDUCE: True}),
        ([0, 1, 2, 3], {REDUCE: False}, {CLASSES: 4}),
        ([0, 1, 2], {"dataset.segmentation.class_list": ["a", "b", "c"]}, {CLASSES: 3}),
        ([0, 7, 9], {VALUES: [0, 7, 9]}, {CLASSES: 3}),
    ],
)
def test_the_auto_recipe_counts_the_classes_of_masks(
    tmp_path: Path, held: list[int], settings: dict[str, Any], wanted: dict[str, Any]
) -> None:
    made = Skill().plan(
        "train",
        train_datasets=str(masked(tmp_path, held, count=8)),
        recipe="auto",
        automl_policy="off",
        spec_overrides={"stage": "finetune", "task": "segmentation", **settings},
    )
    found = {key: get_dotted(made.spec, key) for key in wanted}
    assert found == wanted
