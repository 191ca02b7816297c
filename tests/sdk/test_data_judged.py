"""A plan looks at classes, masks and pixels before anything trains: an error where the result would
mean nothing, a warning where it might."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_sdk import Plan, Skill
from mae_sdk.data.inspect import inspect_source
from mae_sdk.job import open_job, parent_info
from mae_sdk.jobs.failure import failure
from mae_sdk.jobs.root import Root
from mae_sdk.plan import inherit
from mae_sdk.plan.data import Taught, _beside_judged
from mae_skill.bundle import Bundle
from mae_skill.dotted import set_dotted
from mae_skill.errors import DataError, MaeError, SpecError, UsageError
from mae_skill.rules import files as rule_files
from mae_skill.rules.base import Case, Facts
from mae_skill.rules.samples import chose
from PIL import Image

from tests.support.data_sets import (
    FINETUNE,
    FROM_ZERO,
    SMALL,
    classes,
    masked,
    picture,
    plan,
    warnings,
)
from tests.support.folders import add_checkpoints, job_folder
from tests.support.images import make_tarball
from tests.support.s3 import S3Server, environment
from tests.support.scenes import write_digit_scenes

LIMIT = "dataset.max_corrupt_fraction"
BANK = "dataset.probe_train_data_sources"


# ------------------------------------------------------------------------------------------
# masks


@pytest.mark.parametrize(
    ("values", "settings", "says"),
    [
        ([0, 255], FROM_ZERO, "255 is ignore_index"),
        (
            [0, 1],
            {**FROM_ZERO, "dataset.segmentation.reduce_zero_label": True},
            "0 is unlabeled under reduce_zero_label",
        ),
        ([255], FROM_ZERO, "no class at all"),
        ([0], FROM_ZERO, "only class 0"),
        ([1], {**FROM_ZERO, "num_classes": 150}, "only class 1"),
        ([0, 1, 7], FROM_ZERO, "values that are no class: 7"),
        ([0, 1], {**FROM_ZERO, "num_classes": 1}, "values that are no class: 1"),
        ([0, 5], {**FROM_ZERO, "dataset.segmentation.ignore_index": 5}, "5 is ignore_index"),
    ],
)
def test_masks_that_teach_nothing_are_an_error_of_the_plan(
    values: list[int], settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        plan(masked(tmp_path, values), **settings)
    assert says in caught.value.message


def test_a_class_in_no_mask_is_named(tmp_path: Path) -> None:
    made = plan(masked(tmp_path, [0, 1, 255]), **{**FROM_ZERO, "num_classes": 3})
    assert "1 of 3 classes occurs in no mask: 2" in warnings(made)
    assert "255 is ignore_index" in warnings(made)
    assert "in no mask" not in warnings(plan(masked(tmp_path / "b", [0, 1]), **FROM_ZERO))

    # Of masks whose 0 is unlabeled the numbers of the classes are not the values.
    reduced = {**FROM_ZERO, "dataset.segmentation.reduce_zero_label": True, "num_classes": 4}
    said = warnings(plan(masked(tmp_path / "c", [0, 1, 2]), **reduced))
    assert "2 of 4 classes occur in no mask: 2, 3" in said
    assert "class 0 is value 1 of the masks" in said


def test_validation_masks_are_judged_as_training_masks_are(tmp_path: Path) -> None:
    train = masked(tmp_path / "train", [0, 1])
    with pytest.raises(DataError) as caught:
        plan(train, masked(tmp_path / "val", [0, 255]), **FROM_ZERO)
    assert caught.value.field == "dataset.val_data_sources"
    more = masked(tmp_path / "more", [0, 1, 2])
    made = plan(train, more, **{**FROM_ZERO, "num_classes": 3})
    assert "classes that no training mask holds: 2" in warnings(made)


def test_masks_of_several_channels_are_named_as_such(tmp_path: Path) -> None:
    root = masked(tmp_path, [0, 1])
    for path in (root / "annotations").iterdir():
        picture(path)
    with pytest.raises(DataError, match=r"3 of 3 masks have several channels \(RGB\)"):
        plan(root, **FROM_ZERO)


def test_masks_of_another_size_count_as_unreadable(tmp_path: Path) -> None:
    root = masked(tmp_path, [0, 1])
    Image.new("L", (4, 4)).save(root / "annotations" / "1.png")
    with pytest.raises(DataError, match=r"1 of 3 .*1\.png: not as large as its image"):
        plan(root, **FROM_ZERO)


# ------------------------------------------------------------------------------------------
# classes


def test_split_folders_are_no_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        classes(tmp_path / part, "ants", "bees")
    with pytest.raises(DataError, match="train, val are named like parts of a data set"):
        plan(tmp_path, **FINETUNE)
    assert "train, val of the data set are all trained on" in warnings(plan(tmp_path, **SMALL))
    made = plan(tmp_path / "train", tmp_path / "val", **FINETUNE)
    assert made.sources["dataset.train_data_sources"]["class_counts"] == {"ants": 3, "bees": 3}


def test_a_part_below_a_folder_is_named_where_it_lies(tmp_path: Path) -> None:
    for part in ("my_train", "my_val"):
        classes(tmp_path / "a" / part, "ants", "bees")
    with pytest.raises(DataError, match="my_train, my_val are named like parts") as caught:
        plan(tmp_path, **FINETUNE)
    assert str(caught.value.hint).endswith(f"{tmp_path}/a/my_train")
    tar = make_tarball(tmp_path / "a", tmp_path / "all.tar")
    with pytest.raises(DataError, match="my_train, my_val") as caught:
        plan(tar, **FINETUNE)
    assert "archive of one part alone, for example of its folder my_train" in str(caught.value.hint)


def test_images_and_masks_are_no_classes(tmp_path: Path) -> None:
    root = masked(tmp_path / "root", [0, 1])
    says = "images and annotations are named like images and their masks"
    with pytest.raises(DataError, match=says) as caught:
        plan(root, **FINETUNE)
    assert "model.task=segmentation" in str(caught.value.hint)
    assert "annotations are named like the masks of images" in warnings(plan(root, **SMALL))
    verdict = inspect_source(root)["verdict"]
    assert not verdict["usable"] and says in verdict["problems"][0]
    assert "named like" not in warnings(plan(root, **FROM_ZERO))
    for sample in ("a", "b"):
        masked(tmp_path / "samples" / sample, [0, 1])
    with pytest.raises(DataError, match=says):
        plan(tmp_path / "samples", **FINETUNE)


def test_images_with_and_without_labels_are_no_classes(tmp_path: Path) -> None:
    classes(tmp_path, "labeled", "unlabeled")
    with pytest.raises(DataError, match="labeled, unlabeled are named like images with and with"):
        plan(tmp_path, **FINETUNE)
    assert warnings(plan(tmp_path, **SMALL)) == ""
    (tmp_path / "labeled").rename(tmp_path / "cat")
    assert "unlabeled is named like images without labels" in warnings(plan(tmp_path, **FINETUNE))


def test_the_same_folders_in_the_classes_are_pointed_out(tmp_path: Path) -> None:
    for site in ("north", "south"):
        classes(tmp_path / site, "ants", "bees")
    says = "hold the same folders (ants, bees)"
    assert says in warnings(plan(tmp_path, **FINETUNE))
    classes(tmp_path, "north/flies", "west/owls", count=1)
    picture(tmp_path / "north" / "loose.png")
    settings = {**FINETUNE, "num_classes": 3}
    assert says in warnings(plan(tmp_path, **settings))
    classes(tmp_path, "west")
    assert "same folders" not in warnings(plan(tmp_path, **settings))


@pytest.mark.parametrize("number", [1, 2, 1000])
def test_one_class_alone_is_an_error_whatever_the_spec_says(number: int, tmp_path: Path) -> None:
    classes(tmp_path, "cat")
    picture(tmp_path / "loose.png")
    with pytest.raises(DataError, match="one class alone, cat") as caught:
        plan(tmp_path, **{**FINETUNE, "num_classes": number})
    assert "num_classes" not in str(caught.value.hint)


def test_a_lone_folder_says_what_it_was_taken_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        plan(classes(tmp_path, "a/cat"), **FINETUNE)
    assert "the one folder a/cat/" in str(caught.value.hint)


def test_an_archive_for_every_class_is_planned_with(tmp_path: Path) -> None:
    tars = []
    for name in ("cat", "dog"):
        classes(tmp_path / name, name)
        tars.append(make_tarball(tmp_path / name, tmp_path / f"{name}.tar"))
    made = plan(tars, **FINETUNE)
    assert made.sources["dataset.train_data_sources"]["class_counts"] == {"cat": 3, "dog": 3}


def test_images_in_no_class_folder_are_an_error_of_fine_tuning(tmp_path: Path) -> None:
    classes(tmp_path, "cat", "dog")
    picture(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"1 of 7 images are in no class folder: .*loose\.png"):
        plan(tmp_path, **FINETUNE)
    plan(tmp_path, **SMALL)


def test_images_without_labels_get_their_own_advice(tmp_path: Path) -> None:
    picture(tmp_path / "flat" / "a.png")
    with pytest.raises(DataError, match="have no labels") as caught:
        plan(tmp_path / "flat", **FINETUNE)
    assert "sort them into a folder for each class" in str(caught.value.hint)


@pytest.mark.parametrize("inside", [True, False])
def test_a_table_in_the_folder_of_the_images_or_beside_it_is_named_with_its_field(
    tmp_path: Path, inside: bool
) -> None:
    for name in "abcd":
        picture(tmp_path / "d" / "pictures" / f"{name}.png")
    table = tmp_path / "d" / "labels.csv"
    table.write_text("file,label\na.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n")
    source = tmp_path / "d" if inside else tmp_path / "d" / "pictures"
    with pytest.raises(DataError, match="have no labels") as caught:
        plan(source, **FINETUNE)
    assert f"set dataset.labels.train={table}; else" in str(caught.value.hint)
    assert plan(source, **FINETUNE, **{"dataset.labels.train": str(table)})
    (tmp_path / "d" / "more.csv").write_text("")
    with pytest.raises(DataError) as caught:
        plan(source, **FINETUNE)
    assert ".csv" not in str(caught.value.hint), "which of two is not known"


def test_a_batch_larger_than_the_data_is_a_warning_at_every_stage(tmp_path: Path) -> None:
    root = classes(tmp_path, "cat", "dog")
    for settings in (SMALL, FINETUNE):
        made = plan(root, **{**settings, "batch_size": 1_000_000_000})
        assert [item for item in made.warnings if "larger than the 6 training" in str(item)]


def test_a_wrong_number_of_classes_lists_the_classes(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"2 classes: cat \(3\), dog \(3\)"):
        plan(classes(tmp_path, "cat", "dog"), **{**FINETUNE, "num_classes": 7})


def test_a_class_that_vanishes_is_an_error(tmp_path: Path) -> None:
    classes(tmp_path, "cat", "dog")
    (tmp_path / "bird").mkdir()
    for number in range(3):
        (tmp_path / "bird" / f"{number}.heic").write_bytes(b"a picture that is not read")
    with pytest.raises(DataError, match=r"no image of a class is read: bird \(3 files\)"):
        plan(tmp_path, **FINETUNE)
    assert "bird/0.heic" in warnings(plan(tmp_path, **SMALL))
    shutil.rmtree(tmp_path / "bird")
    (tmp_path / "bird").mkdir()
    assert "folders without an image are no classes: bird" in warnings(plan(tmp_path, **FINETUNE))
    for path in classes(tmp_path, "bird").glob("bird/*"):
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="every image of a class is unreadable: bird"):
        plan(tmp_path, **{**FINETUNE, "num_classes": 3, LIMIT: 0.5})


def test_classes_of_validation_are_compared_with_those_of_training(tmp_path: Path) -> None:
    train = classes(tmp_path / "train", "ants", "bees", "owls")
    settings = {**FINETUNE, "num_classes": 3}
    with pytest.raises(DataError, match=r"wasps \(3\)") as caught:
        plan(train, classes(tmp_path / "a", "ants", "wasps"), **settings)
    assert caught.value.field == "dataset.val_data_sources"
    made = plan(train, classes(tmp_path / "b", "ants", "bees"), **settings)
    assert "no image of 1 of 3 classes: owls" in warnings(made)
    with pytest.raises(DataError, match="one class alone"):
        plan(train, classes(tmp_path / "c", "ants"), **settings)


def test_an_evaluation_is_compared_with_the_classes_of_its_parent(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    stored = {"train": {"stage": "finetune"}, "model": {"arch": SMALL["arch"], "num_classes": 2}}
    folder = job_folder(root, "t1", "train", spec=stored)
    names = ["ants", "bees"]
    about = {"arch": SMALL["arch"], "num_classes": 2, "classes": names}
    add_checkpoints(folder, [0.5], whole=True, **about)

    with pytest.raises(DataError, match="wasps"):
        evaluate(root, "t1", classes(tmp_path / "a", "ants", "wasps"))
    assert warnings(evaluate(root, "t1", classes(tmp_path / "c", *names))) == ""


def flat(root: Path, *names: str) -> Path:
    for name in names:
        for number in range(3):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (9, 9, 9)).save(root / name / f"{number}.png")
    return root


SIZED = {"arch": SMALL["arch"], "input_size": [32, 32]}
IGNORED, LISTED = "dataset.segmentation.ignore_index", "dataset.segmentation.class_list"
EVALUATED: dict[str, tuple[str, Any, Any, str, str]] = {
    # parent, its validation data, settings, field, what is said
    "one class": ("t1", lambda to: classes(to, "ants"), {}, "val", "one class alone"),
    "one class chosen": (
        *("t1", lambda to: classes(to, "ants", "bees"), {"dataset.classes": ["ants"]}),
        *("dataset.classes", "one class alone"),
    ),
    "one color": ("t1", lambda to: flat(to, "ants", "bees"), {}, "val", "one color alone"),
    "masks of one class": ("s1", lambda to: masked(to, [1]), {}, "val", "only class 1"),
    "no labeled pixel": ("s1", lambda to: masked(to, [255]), {}, "val", "no class at all"),
    "a class ignored": ("s1", lambda to: masked(to, [0, 1]), {IGNORED: 1}, IGNORED, "number of"),
    "names too many": (
        *("s1", lambda to: masked(to, [0, 1]), {LISTED: ["a", "b", "c"]}),
        *(LISTED, "names 3 classes, and the model has 2"),
    ),
    "the bank itself": (
        *("p1", lambda to: classes(to, "ants", "bees"), lambda to: {BANK: str(to)}),
        *("val", "6 of the 6 images that were compared are in"),
    ),
    "a bank of others": (
        *("p1", lambda to: classes(to, "ants", "bees")),
        lambda to: {BANK: str(classes(to.parent / "bank", "ants", "owls"))},
        *("val", "not among those of dataset.probe_train_data_sources: bees"),
    ),
    "no second image": ("p1", lambda to: classes(to, "a", "b", count=1), {}, "val", "two images"),
}


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier t1, a segmenter s1 and a pretrained model p1."""
    root = tmp_path_factory.mktemp("jobs")
    nowhere = root / "gone"
    trained(root, "t1", learned_from(nowhere), num_classes=2, classes=["ants", "bees"])
    spec = learned_from(nowhere, segmentation={"reduce_zero_label": False})
    spec["model"]["task"] = "segmentation"
    names = {"classes": ["road", "sky"], "reduce_zero_label": False}
    about = {"num_classes": 2, "task": "segmentation", **names}
    said = {**SIZED, "stage": "finetune", **about}
    trained(root, "s1", spec, said=said, **about)
    pretrained = {"train": {"stage": "pretrain"}, "model": {"arch": SMALL["arch"]}}
    said = {**SIZED, "stage": "pretrain"}
    trained(root, "p1", pretrained, stage="pretrain", said=said)
    return root


@pytest.mark.parametrize("name", EVALUATED)
def test_an_evaluation_that_would_mean_nothing_is_refused_by_the_plan(
    name: str, parents: Path, tmp_path: Path
) -> None:
    parent, made, settings, field, said = EVALUATED[name]
    val = made(tmp_path / "val")
    given = settings(val) if callable(settings) else settings
    with pytest.raises(MaeError) as caught:
        evaluate(parents, parent, val, **given)
    assert caught.value.field == ("dataset.val_data_sources" if field == "val" else field)
    assert said in caught.value.message


def test_a_file_in_the_place_of_the_results_root_is_refused_by_the_plan(tmp_path: Path) -> None:
    (tmp_path / "ok.csv").write_text("path,label")
    with pytest.raises(UsageError, match="this is a file") as caught:
        Skill().plan(
            "train",
            train_datasets=str(classes(tmp_path / "a", "ants", "bees")),
            results_root=str(tmp_path / "ok.csv"),
            spec_overrides=FINETUNE,
        )
    assert caught.value.field == "results_root"


def tiny_pictures(root: Path, *names: str) -> Path:
    return classes(root, *names, side=1)


@pytest.mark.parametrize(
    ("made", "settings", "field", "said"),
    [
        (classes, {"dataset.value_range": [0, 1]}, "dataset.value_range", "reads as one value"),
        (classes, {"dataset.value_range": [-1e12, 1e12]}, "dataset.value_range", "as one value"),
        (tiny_pictures, {}, "dataset.train_data_sources", "a side of 1 pixel"),
    ],
)
def test_pictures_of_which_nothing_is_seen_are_an_error_of_the_plan(
    made: Any, settings: dict[str, Any], field: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(MaeError) as caught:
        plan(made(tmp_path, "ants", "bees"), **{**FINETUNE, **settings})
    assert caught.value.field == field and said in caught.value.message


def test_one_image_of_each_class_is_refused_unless_validation_shows_what_came_of_it(
    tmp_path: Path,
) -> None:
    lone = classes(tmp_path / "lone", "ants", "bees", count=1)
    with pytest.raises(DataError, match="every class has one image alone"):
        plan(lone, **FINETUNE)
    judged = plan(lone, classes(tmp_path / "val", "ants", "bees"), **FINETUNE)
    assert "every class has one image alone" in warnings(judged)


@pytest.mark.parametrize(
    ("parent", "made", "settings", "said"),
    [
        ("s1", lambda to: masked(to, [0, 1]), {LISTED: ["a", "b"]}, "has no effect: the model na"),
        ("s1", lambda to: masked(to, [0, 1]), {LISTED: ["road", "sky"]}, ""),
        (
            *("p1", lambda to: classes(to, "ants", "bees")),
            *(lambda to: {BANK: str(classes(to.parent / "bank", "ants", "bees", "owls"))}, ""),
        ),
        ("p1", lambda to: classes(to, "ants", "bees"), {}, ""),
        *(
            ("t1", lambda to: classes(to, "ants", "bees"), {field: 5}, "has no effect in evaluate")
            for field in ("train.optim.lr", "train.num_epochs", "num_epochs")
        ),
        (
            *("p1", lambda to: classes(to, "")),
            *(lambda to: {BANK: str(classes(to.parent / "bank", "ants", "owls"))}, "no probe"),
        ),
    ],
)
def test_an_evaluation_that_means_something_is_planned(
    parent: str, made: Any, settings: Any, said: str, parents: Path, tmp_path: Path
) -> None:
    val = made(tmp_path / "val")
    given = settings(val) if callable(settings) else settings
    text = "\n".join(map(str, evaluate(parents, parent, val, **given).warnings))
    assert said in text
    assert said or not ("class_list" in text or "probe_train" in text)


def trained(root: Path, job_id: str, spec: dict[str, Any], **about: Any) -> Path:
    """The folder of a job that has trained by this spec, with one checkpoint."""
    folder = job_folder(root, job_id, "train", spec=spec)
    add_checkpoints(folder, [0.5], whole=True, **{"arch": SMALL["arch"], **about})
    return folder


def evaluate(root: Path, parent: str, val: Path, **settings: Any) -> Plan:
    return Skill().plan(
        "evaluate",
        parent_job_id=parent,
        eval_dataset=str(val),
        results_root=str(root),
        spec_overrides=settings,
    )


def learned_from(source: Path, **dataset: Any) -> dict[str, Any]:
    return {
        "train": {"stage": "finetune"},
        "model": {"arch": SMALL["arch"], "num_classes": 2},
        "dataset": {"train_data_sources": str(source), **dataset},
    }


def test_images_of_one_folder_are_told_apart_by_their_tables(tmp_path: Path) -> None:
    root, source = tmp_path / "jobs", classes(tmp_path / "pictures", "ants", "bees")
    rows = [f"{name}/{at}.png,{name}" for name in ("ants", "bees") for at in range(3)]
    tables = {"learn": rows[0::3] + rows[1::3], "choose": rows[1::3], "judge": rows[2::3]}
    for name, listed in tables.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label", *listed]))
    read = {name: str(tmp_path / f"{name}.csv") for name in tables}

    spec = learned_from(
        source,
        val_data_sources=str(source),
        labels={"train": read["learn"], "val": read["choose"]},
    )
    spec["model"]["task"] = "classification"
    trained(root, "t1", spec, num_classes=2, classes=["ants", "bees"])

    def seen(name: str) -> dict[str, Any]:
        plan = evaluate(root, "t1", source, **{"dataset.labels.val": read[name]})
        found: dict[str, Any] = plan.sources["dataset.val_data_sources"]
        return {key: found[key]["count"] for key in ("taught", "chose") if key in found}

    assert seen("judge") == {}
    assert seen("choose") == {"taught": 2, "chose": 2}
    assert seen("learn") == {"taught": 4, "chose": 2}


def test_an_evaluation_on_the_images_that_were_trained_on_is_said(tmp_path: Path) -> None:
    root, names = tmp_path / "jobs", ["ants", "bees"]
    source = classes(tmp_path / "train", *names)
    trained(root, "t1", learned_from(source), num_classes=2, classes=names)
    shutil.copytree(source, tmp_path / "renamed")
    for val in (source, tmp_path / "renamed"):
        said = warnings(evaluate(root, "t1", val))
        assert "6 of the 6 images" in said and "t1 trained the model on; the scores" in said
    assert warnings(evaluate(root, "t1", classes(tmp_path / "new", *names))) == ""

    trained(root, "t2", learned_from(source, val_fraction=0.2), num_classes=2, classes=names)
    assert "t2 trained the model on, which held 0.2 of them out" in warnings(
        evaluate(root, "t2", source)
    )
    above = job_folder(root, "x1", "export", spec={"export": {}}, parent="t1")
    (above / "export/model.onnx").write_bytes(b"onnx")
    found = inherit.taught_by(Bundle.load(), parent_info("x1", root))
    assert found is not None and (found.job, found.sources) == ("t1", (str(source),))


def test_what_the_plan_alone_knew_stands_beside_what_the_run_saw(tmp_path: Path) -> None:
    said = ["the images that t1 trained on", "a class is small"]
    folder = job_folder(tmp_path, "e1", "evaluate", data_warnings=said)
    job = open_job(Root(tmp_path), "e1")
    assert job.data_warnings() == said
    line = {"status": "RUNNING", "data": {"warnings": ["a class is small"]}}
    (folder / "status.json").write_text(json.dumps(line) + "\n")
    assert job.data_warnings() == ["a class is small", "the images that t1 trained on"]


def test_an_evaluation_of_a_segmenter_on_its_training_images_is_said(tmp_path: Path) -> None:
    root, source = tmp_path / "jobs", masked(tmp_path / "train", [0, 1])
    spec = learned_from(source)
    spec["model"]["task"] = "segmentation"
    trained(root, "s1", spec, num_classes=2, task="segmentation")
    settings = {"dataset.segmentation.reduce_zero_label": False}
    assert "3 of the 3 images" in warnings(evaluate(root, "s1", source, **settings))
    other = masked(tmp_path / "new", [0, 1])
    assert "trained the model on" not in warnings(evaluate(root, "s1", other, **settings))

    # One folder with both splits, in ADE20K's layout: each job takes its own.
    both = write_digit_scenes(tmp_path / "ade", 3, 2, 32)
    spec = learned_from(both, segmentation={"class_list": str(both / "classes.txt")})
    spec["model"] |= {"task": "segmentation", "num_classes": 11}
    trained(root, "s2", spec, num_classes=11, task="segmentation")
    settings["dataset.segmentation.class_list"] = str(both / "classes.txt")
    assert "trained the model on" not in warnings(evaluate(root, "s2", both, **settings))


CROP = "dataset.augmentation.center_crop"
FILTER = "dataset.augmentation.eval_interpolation"
SAID = {
    "arch": SMALL["arch"],
    "stage": "finetune",
    "input_size": [32, 32],
    "model": {"arch": SMALL["arch"], "depth": 2, "global_pool": True},
    "num_classes": 2,
    "classes": ["ants", "bees"],
    "mean": [0.4, 0.4, 0.4],
    "std": [0.2, 0.2, 0.2],
    "value_range": None,
    "exif_orientation": True,
}


@pytest.mark.parametrize(
    ("action", "key", "value", "refused"),
    [
        ("evaluate", "dataset.augmentation.input_size", 64, True),
        ("evaluate", "dataset.augmentation.input_size", 32, False),
        ("evaluate", "dataset.augmentation.center_crop", 0.5, False),
        ("evaluate", "dataset.segmentation.reduce_zero_label", True, False),  # of no segmenter
        ("evaluate", "dataset.augmentation.mean", [0.5], True),
        ("evaluate", "dataset.augmentation.mean", [0.4], False),
        ("evaluate", "dataset.channels", 1, True),
        ("evaluate", "dataset.value_range", [0, 100], True),
        ("evaluate", "dataset.value_range", "auto", True),
        ("evaluate", "dataset.exif_orientation", False, True),
        ("evaluate", "model.patch_size", 4, True),
        ("evaluate", "model.depth", 3, True),
        ("evaluate", "model.depth", 2, False),
        ("evaluate", "model.num_heads", 6, True),
        ("evaluate", "model.mlp_ratio", 2.0, True),
        ("evaluate", "model.global_pool", False, True),
        ("evaluate", "model.num_classes", 3, True),
        ("evaluate", "model.arch", "vit_small_patch16", True),
        ("inference", "dataset.augmentation.input_size", 64, True),
        ("export", "dataset.augmentation.mean", [0.5] * 3, True),
        ("export", "model.patch_size", 4, True),
        ("export", "export.input_channel", 1, True),
        ("export", "export.input_channel", 3, False),
    ],
)
def test_what_contradicts_the_model_of_the_parent_is_an_error_of_the_plan(
    action: str, key: str, value: Any, refused: bool, tmp_path: Path
) -> None:
    root, about = tmp_path / "jobs", {**SAID}
    shape = about.pop("model")
    trained(root, "t1", learned_from(tmp_path), said={**about, "model": shape}, **about)
    source = str(classes(tmp_path / "new", "ants", "bees"))
    data = {"evaluate": "eval_dataset", "inference": "inference_dataset"}

    def made() -> Plan:
        return Skill().plan(
            action,
            parent_job_id="t1",
            checkpoint="latest",
            results_root=str(root),
            spec_overrides={key: value},
            **({data[action]: source} if action in data else {}),
        )

    if not refused:
        made()
        return
    with pytest.raises(SpecError) as caught:
        made()
    assert caught.value.field == key
    assert caught.value.expected and caught.value.hint


@pytest.mark.parametrize(
    ("action", "key", "value", "says"),
    [
        ("evaluate", CROP, 0.5, "0.5 here, and 0.9 in the validation of the model"),
        ("inference", CROP, 1.0, "1 here, and 0.9 in the validation of the model"),
        ("evaluate", CROP, 0.9, None),
        (
            "evaluate",
            FILTER,
            "lanczos",
            "lanczos here, and bilinear in the validation",
        ),
        ("inference", FILTER, "bilinear", None),
        ("evaluate", "dataset.batch_size", 2, None),
        ("export", "export.input_height", 64, "64 pixels, and 32 in the training of the model"),
        ("export", "export.input_height", 32, None),
        ("export", "export.batch_size", 0, None),
    ],
)
def test_a_model_that_is_to_see_pictures_otherwise_than_before_is_warned_of(
    action: str, key: str, value: Any, says: str | None, tmp_path: Path
) -> None:
    own = {"center_crop": 0.9, "eval_interpolation": "bilinear"}
    root, about = tmp_path / "jobs", {**SAID, **own}
    shape = about.pop("model")
    trained(root, "t1", learned_from(tmp_path), said={**about, "model": shape}, **about)
    source = str(classes(tmp_path / "new", "ants", "bees"))
    data = {"evaluate": "eval_dataset", "inference": "inference_dataset"}
    made = Skill().plan(
        action,
        parent_job_id="t1",
        checkpoint="latest",
        results_root=str(root),
        spec_overrides={key: value},
        **({data[action]: source} if action in data else {}),
    )
    told = [str(one) for one in made.warnings if "of the model: it" in str(one)]
    assert len(told) == (says is not None)
    assert says is None or told[0].startswith(f"{key}: {says}")
    pictures = made.spec["dataset"]["augmentation"]  # what nobody set is the parent's
    assert key == FILTER or pictures["eval_interpolation"] == "bilinear"


def test_pictures_of_another_kind_than_the_model_learned_from_are_said(tmp_path: Path) -> None:
    root, names = tmp_path / "jobs", ["ants", "bees"]
    source = classes(tmp_path / "train", *names)
    trained(root, "t1", learned_from(source), num_classes=2, classes=names)
    gray = classes(tmp_path / "gray", *names)
    for path in gray.glob("*/*.png"):
        Image.open(path).convert("L").save(path)
    deep = classes(tmp_path / "deep", *names, kind=np.uint16, top=65535)
    assert "gray, where those are color; the scores" in warnings(evaluate(root, "t1", gray))
    assert "in the depth" in warnings(evaluate(root, "t1", deep))
    assert warnings(evaluate(root, "t1", classes(tmp_path / "alike", *names))) == ""

    made = Skill().plan(
        "inference", parent_job_id="t1", inference_dataset=str(gray), results_root=str(root)
    )
    assert "gray, where those are color; the answers" in warnings(made)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("dataset.augmentation.mean", [0.1, 0.1, 0.1], "trained with [0.4, 0.4, 0.4]"),
        ("dataset.augmentation.std", [0.9], "trained with [0.2, 0.2, 0.2]"),
        ("dataset.augmentation.mean", [0.4], ""),
        ("dataset.value_range", [0, 100], "trained with dtype"),
        ("dataset.exif_orientation", False, "trained with True"),
    ],
)
def test_pictures_that_weights_of_our_own_did_not_learn_from_are_said(
    key: str, value: Any, said: str, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {"train": {"stage": "finetune"}}
    set_dotted(spec, key, value)
    found = Case("train", spec, {}, Facts())
    with_exif = {"dataset.exif_orientation": True, "dataset.value_range": "dtype"}
    for name, usual in with_exif.items():
        if name != key:
            set_dotted(spec, name, usual)
    rule_files._other_pictures(found, SAID, tmp_path / "model.pth")
    text = "; ".join(str(one) for one in found.warnings)
    assert (key in text and said in text) if said else text == ""


def test_a_fine_tuning_with_other_pictures_than_its_weights_had_is_said(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "support/old_jobs/train-whole/train/model_epoch_001.pth"
    shape = {"model.embed_dim": 8, "model.depth": 1, "model.num_heads": 1, "image_size": 32}
    settings = {**FINETUNE, **shape, "dataset.augmentation.mean": [0.1, 0.1, 0.1]}
    made = Skill().plan(
        "train",
        train_datasets=str(classes(tmp_path, "ants", "bees")),
        ptm=str(old),
        automl_policy="off",
        spec_overrides=settings,
    )
    said = [str(one) for one in made.warnings if "dataset.augmentation" in str(one)]
    assert any("[0.1, 0.1, 0.1] here" in one and "0.485" in one for one in said)


def test_images_and_masks_are_no_classes_of_an_evaluation(tmp_path: Path) -> None:
    root, names = tmp_path / "jobs", ["ants", "bees"]
    source = classes(tmp_path / "train", *names)
    trained(root, "t1", learned_from(source), num_classes=2, classes=names)
    with pytest.raises(DataError, match="annotations") as caught:
        evaluate(root, "t1", masked(tmp_path / "scenes", [0, 1]))
    assert caught.value.field == "dataset.val_data_sources"
    assert "2 classes of the validation images are not among" in caught.value.message


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(1, 1)] * 4, "every picture has each of the labels"),
        ([(0, 0)] * 4, "no picture has each of the labels"),
        ([(1, 0)] * 4, "either every or no picture"),
        ([(1, 0), (0, 1), (1, 1), (0, 0)], ""),
    ],
)
def test_labels_that_every_picture_has_or_none_teach_nothing(
    rows: list[tuple[int, int]], says: str, tmp_path: Path
) -> None:
    lines = ["filename,red,blue"]
    for number, row in enumerate(rows):
        picture(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number}.png,{row[0]},{row[1]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    settings = {
        **FINETUNE,
        "model.multi_label": True,
        "dataset.labels.train": str(tmp_path / "labels.csv"),
    }
    if not says:
        plan(tmp_path / "images", **settings)
        return
    with pytest.raises(DataError, match=says) as caught:
        plan(tmp_path / "images", **settings)
    assert caught.value.field == "dataset.labels.train"


def test_a_job_that_ended_for_several_values_names_them(tmp_path: Path) -> None:
    job_folder(tmp_path, "e1", "evaluate", state="ERROR")
    problems = [
        SpecError("another value", field=f"model.{name}", got=3, expected="2", hint="leave it out")
        for name in ("depth", "num_heads")
    ]
    error = SpecError("the evaluate spec has 2 problems", problems=problems).to_dict()
    failed = open_job(Root(tmp_path), "e1")._failed(failure("spec", error["message"], error=error))
    assert "model.depth=3: another value; model.num_heads=3: another value" in failed.message
    assert (failed.field, failed.got, failed.expected) == ("model.depth", 3, "2")
    assert failed.hint == "leave it out"


# ------------------------------------------------------------------------------------------
# files


def test_a_corrupt_share_above_the_limit_is_an_error_with_reasons(tmp_path: Path) -> None:
    classes(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "bad.jpg").write_bytes(b"\xff\xd8nothing")
    (tmp_path / "cat" / "none.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 8 images.*unknown format.*it is empty") as caught:
        plan(tmp_path, **FINETUNE)
    assert caught.value.exit_code == 3 and caught.value.field == LIMIT
    made = plan(tmp_path, **{**FINETUNE, LIMIT: 0.25})
    assert "2 of 8 images cannot be read" in warnings(made)
    seen = made.sources["dataset.train_data_sources"]
    assert (seen["images"], seen["read"], seen["bad"]) == (8, 8, 2)


def test_of_many_images_a_sample_is_looked_at_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mae_sdk.data import survey

    classes(tmp_path, "cat", "dog", count=30)
    for path in [*tmp_path.glob("*/1*.png"), *tmp_path.glob("*/2*.png")]:
        path.write_bytes(b"broken")
    monkeypatch.setattr(survey.survey_images, "__defaults__", (40, survey.DEFAULT))
    with pytest.raises(DataError, match="of the 40 images that were looked at"):
        plan(tmp_path, **FINETUNE)


def test_what_was_seen_is_found_again_without_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mae_sdk.data import survey

    classes(tmp_path, "cat", "dog")
    plan(tmp_path, **FINETUNE)
    reads: list[int] = []
    real = survey._glance_at
    monkeypatch.setattr(survey, "_glance_at", lambda *args: reads.append(1) or real(*args))
    plan(tmp_path, **FINETUNE)
    assert not reads
    picture(tmp_path / "cat" / "new.png")
    plan(tmp_path, **FINETUNE)
    assert len(reads) == 7


@pytest.mark.parametrize(
    ("kind", "top", "suffix", "says"),
    [
        (np.uint16, 4095, ".png", r"\d+ … \d+: 12-bit data, 6.2% of the range 0 … 65535"),
        (np.uint16, 4095, ".tif", "nearly black"),
        (np.uint16, 1023, ".png", "nearly black"),
        (np.int32, 255, ".tif", "set dataset.value_range to auto"),
        (np.float32, 1, ".tif", "floating-point pixels"),
        (np.int32, 200_000, ".tif", "pixels of 32 bits"),
        (np.uint8, 0, ".png", "of one color alone"),
    ],
)
def test_pictures_that_would_be_read_as_black_are_an_error(
    kind: Any, top: int, suffix: str, says: str, tmp_path: Path
) -> None:
    where = classes(tmp_path, "a", "b", kind=kind, top=top, suffix=suffix)
    with pytest.raises(DataError, match=says) as caught:
        plan(where, **FINETUNE)
    if kind in (np.int32, np.float32):  # which no reading guesses a range for
        assert caught.value.field == "dataset.value_range"


def test_pictures_of_the_whole_range_are_taken_and_dim_ones_warned_about(tmp_path: Path) -> None:
    whole = classes(tmp_path / "16", "a", "b", kind=np.uint16, top=65535)
    assert "range" not in warnings(plan(whole, **FINETUNE))
    dim = classes(tmp_path / "14", "a", "b", kind=np.uint16, top=16383)
    said = warnings(plan(dim, **FINETUNE))
    assert "14-bit data" in said and "they look dim; set dataset.value_range=auto" in said
    picture(whole / "a" / "dark.png", kind=np.uint16, top=4095)
    assert "range" not in warnings(plan(whole, **FINETUNE))
    Image.new("RGB", (8, 8)).save(whole / "a" / "black.png")
    assert "1 of 8 pictures are of one color alone" in warnings(plan(whole, **FINETUNE))


@pytest.mark.parametrize("packed", [False, True])
def test_images_of_both_training_and_validation_are_named(packed: bool, tmp_path: Path) -> None:
    train = classes(tmp_path / "train", "a", "b")
    val = classes(tmp_path / "val", "a", "b")
    assert "flatter" not in warnings(plan(train, val, **FINETUNE))
    shutil.copy(train / "a" / "0.png", val / "a" / "leak.png")
    if packed:
        train = make_tarball(train, tmp_path / "t.tar")
        val = make_tarball(val, tmp_path / "v.tar.gz")
    said = warnings(plan(train, val, **FINETUNE))
    assert "1 of the 7 images" in said and "a/0.png" in said and "a/leak.png" in said
    assert "flatter" in said


def test_training_images_that_validation_has_in_another_class_are_a_contradiction(
    tmp_path: Path,
) -> None:
    train = classes(tmp_path / "train", "a", "b")
    val = classes(tmp_path / "val", "a", "b")
    shutil.copy(train / "a" / "0.png", val / "b" / "moved.png")
    shutil.copy(train / "a" / "1.png", val / "a" / "leak.png")

    said = warnings(plan(train, val, **FINETUNE))

    assert "2 of the 8 images" in said and "1 of them with another class there" in said
    assert "b/moved.png" in said and "flatter" not in said
    assert "flatter" in warnings(plan(train, val, **SMALL)), "no class is learned there"


@pytest.mark.parametrize("packed", [False, True])
def test_one_picture_in_two_classes_is_named(packed: bool, tmp_path: Path) -> None:
    root = classes(tmp_path / "train", "a", "b")

    def source() -> Path:
        return make_tarball(root, tmp_path / "train.tar") if packed else root

    shutil.copy(root / "a/0.png", root / "b/again.png")
    made = plan(source(), **FINETUNE)
    assert "1 images are in several classes at once: " in warnings(made)
    assert "a/0.png = " in warnings(made) and "b/again.png" in warnings(made)
    assert "several classes" not in warnings(plan(source(), **{**SMALL, "stage": "pretrain"}))

    shutil.rmtree(root / "b")
    shutil.copytree(root / "a", root / "b")
    with pytest.raises(DataError, match="every image is in several classes at once"):
        plan(source(), **FINETUNE)


@pytest.mark.parametrize("packed", [False, True])
def test_copies_of_pictures_are_named_where_a_share_is_held_out(
    packed: bool, tmp_path: Path
) -> None:
    root = classes(tmp_path / "train", "a", "b")
    shutil.copy(root / "a/1.png", root / "a/9.png")
    source = make_tarball(root, tmp_path / "train.tar") if packed else root
    made = plan(source, **FINETUNE, **{"dataset.val_fraction": 0.3})
    assert "1 images are copies of others" in warnings(made) and "a/9.png" in warnings(made)
    assert "copies of others" not in warnings(plan(source, **FINETUNE))
    twice = plan([source, source], **FINETUNE, **{"dataset.val_fraction": 0.3})
    assert "8 images are copies of others" in warnings(twice), "7 of a second naming, and one"


def test_a_held_out_share_leaves_every_class_something_to_learn_from(tmp_path: Path) -> None:
    root = classes(tmp_path / "train", "a", "b")
    (root / "a/1.png").unlink()
    share = "dataset.val_fraction"
    with pytest.raises(DataError, match="no image is left to train on of a") as caught:
        plan(root, **FINETUNE, **{share: 0.8})  # two of a, two of the three of b
    assert caught.value.field == share
    with pytest.raises(DataError, match="all of the 5 images are held out"):
        plan(root, **FINETUNE, **{share: 0.99})

    (root / "a/2.png").unlink()
    made = plan(root, **FINETUNE, **{share: 0.3})
    assert any("a: one image each, which is trained on" in str(one) for one in made.warnings)
    made = plan(root, **FINETUNE)
    assert not any("one image each" in str(one) for one in made.warnings)


def test_nothing_can_be_held_out_of_classes_of_one_image(tmp_path: Path) -> None:
    root = classes(tmp_path / "train", "a", "b", "c", count=1)
    with pytest.raises(DataError, match="none of the 3 images can be held out") as caught:
        plan(root, **{**FINETUNE, "num_classes": 3, "dataset.val_fraction": 0.5})
    assert caught.value.field == "dataset.val_fraction"


def test_a_range_that_holds_none_of_the_values_is_refused(tmp_path: Path) -> None:
    root = classes(tmp_path / "train", "a", "b")
    with pytest.raises(DataError, match="every pixel reads as one value") as caught:
        plan(root, **FINETUNE, **{"dataset.value_range": [300, 400]})
    assert caught.value.field == "dataset.value_range"


def test_a_held_out_share_of_pictures_with_several_labels_is_not_judged_by_one_of_them(
    tmp_path: Path,
) -> None:
    root = classes(tmp_path / "train", "x", count=6)
    lines = [f"x/{number}.png,{'a' if number < 5 else 'a|b'}" for number in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["path,labels", *lines]) + "\n")
    several = {
        **FINETUNE,
        "model.multi_label": True,
        "dataset.labels.train": str(tmp_path / "t.csv"),
        "dataset.val_fraction": 0.3,
    }
    made = plan(root, **several)
    assert made.sources["dataset.train_data_sources"]["unjudged"] == ["b"]
    assert not any("one image each" in str(one) for one in made.warnings)


def test_links_are_named(tmp_path: Path) -> None:
    classes(tmp_path, "a", "b")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "b" / "twin.png").symlink_to(tmp_path / "a" / "0.png")
    said = warnings(plan(tmp_path, **FINETUNE))
    assert "1 links that lead nowhere: a/gone.png" in said
    assert "1 images are files that the source holds under another name" in said


def test_images_of_probes_are_judged_by_the_plan(tmp_path: Path) -> None:
    train, bank = classes(tmp_path / "t", "a"), classes(tmp_path / "bank", "ants", "bees")
    key = "dataset.probe_{}_data_sources"

    def probed(bank: Path, queries: Path | None = None, interval: int = 1) -> Plan:
        return plan(
            train,
            **{
                **SMALL,
                "train.probe.interval": interval,
                key.format("train"): str(bank),
                key.format("val"): str(queries) if queries else None,
            },
        )

    assert probed(bank).sources[key.format("train")]["images"] == 6
    for wrong, says in (
        ((tmp_path / "gone",), "no data source at"),
        ((train / "a",), "3 of 3 images are in no class folder"),
        ((bank, classes(tmp_path / "q", "wasps", "bees")), r"not among those .* wasps \(3\)"),
        ((classes(tmp_path / "lone", "x", "y", count=1),), "the only one of its class"),
        ((bank, bank), "6 of the 6 .* each its own nearest neighbor"),
    ):
        with pytest.raises(DataError, match=says):
            probed(*wrong)
    asked = classes(tmp_path / "asked", "ants", "bees")
    shutil.copy(bank / "ants/0.png", asked / "ants/9.png")
    assert "1 of the 7 images that were compared are in" in "\n".join(
        map(str, probed(bank, asked).warnings)
    )
    shutil.copy(bank / "ants/0.png", bank / "ants/9.png")
    assert "1 images are copies of others; the scores flatter" in warnings(probed(bank))
    assert probed(tmp_path / "gone", interval=0).sources.keys() == {"dataset.train_data_sources"}


# ------------------------------------------------------------------------------------------
# behind a URL


def test_weights_behind_a_url_of_the_spec_must_be_there(tmp_path: Path) -> None:
    root = classes(tmp_path, "cat", "dog")
    with pytest.raises(MaeError, match="no such file") as caught:
        plan(root, **{**SMALL, "train.pretrained_model_path": "memory://none/w.pth"})
    assert caught.value.field == "train.pretrained_model_path"
    with pytest.raises(SpecError, match="a URL is not read here"):
        Skill().plan("export", spec_overrides={"export.checkpoint": "memory://none/w.pth"})


def test_a_plan_counts_and_judges_what_is_behind_a_url(tmp_path: Path) -> None:
    train = classes(tmp_path / "train", "ants", "bees")
    val = classes(tmp_path / "val", "ants", "wasps")
    with S3Server(tmp_path / "s3") as server, environment(server.env):
        bucket = server.bucket("b")
        make_tarball(train, bucket / "data/train/images_train.tar.gz")
        make_tarball(val, bucket / "data/val/images_val.tar.gz")
        options: dict[str, Any] = {
            "train_datasets": "s3://b/data/train",
            "automl_policy": "off",
            "spec_overrides": FINETUNE,
        }
        seen = Skill().plan("train", **options).sources["dataset.train_data_sources"]
        assert seen["class_counts"] == {"ants": 3, "bees": 3}
        with pytest.raises(DataError, match="wasps"):
            Skill().plan("train", eval_dataset="s3://b/data/val", **options)
        left = Skill().plan("train", count=False, eval_dataset="s3://b/data/val", **options)
        assert left.sources["dataset.val_data_sources"]["counted"] is False
        with pytest.raises(DataError, match="wasps"):
            Skill().create_job(left)


@pytest.mark.parametrize("remote", [False, True])
def test_an_archive_of_another_split_is_named_with_the_one_looked_for(
    remote: bool, tmp_path: Path
) -> None:
    with S3Server(tmp_path / "s3") as server, environment(server.env):
        bucket = server.bucket("b")
        make_tarball(classes(tmp_path / "d", "a", "b"), bucket / "data/images_val.tar.gz")
        with pytest.raises(MaeError) as caught:
            Skill().plan(
                "inference",
                inference_dataset="s3://b/data" if remote else str(bucket / "data"),
                spec_overrides={"inference.checkpoint": "x.pth"},
            )
    assert "images_test.tar.gz" in str(caught.value) and "images_val.tar.gz" in str(caught.value)


def test_an_evaluation_on_the_images_that_chose_the_checkpoint_is_said(tmp_path: Path) -> None:
    root, names = tmp_path / "jobs", ["ants", "bees"]
    source, val = classes(tmp_path / "train", *names), classes(tmp_path / "val", *names)
    spec = learned_from(source, val_data_sources=str(val))
    trained(root, "t1", spec, num_classes=2, classes=names)
    shutil.copytree(val, tmp_path / "renamed")
    for judged in (val, tmp_path / "renamed"):
        said = warnings(evaluate(root, "t1", judged))
        assert "6 of the 6 images" in said and "t1 chose the model's checkpoint" in said
        seen = evaluate(root, "t1", judged).sources["dataset.val_data_sources"]
        assert seen["chose"]["count"] == 6 and seen["chose"]["job"] == "t1"
    assert warnings(evaluate(root, "t1", classes(tmp_path / "new", *names))) == ""

    # Answers to images of known classes or with masks are judged too; there is no warning of it,
    # for most have neither.
    for place, name in ((val, "chose"), (source, "taught")):
        plan = Skill().plan(
            "inference", parent_job_id="t1", inference_dataset=str(place), results_root=str(root)
        )
        assert plan.sources["dataset.test_data_sources"][name]["count"] == 6
        assert not any("optimistic" in one.message for one in plan.warnings)

    there = Taught("t2", (), judged=("s3://bucket/val/",))  # not looked at: by its place alone
    for uri, known in (("s3://bucket/val", True), ("s3://bucket/other", False)):
        found = _beside_judged(there, uri, None, remote=False)
        assert bool(found) is known
    facts = Facts(data={"dataset.val_data_sources": {"chose": {"job": "t2"}}})
    unseen = Case("evaluate", {}, {}, facts)
    chose(unseen)
    assert "these are the images by which t2 chose the model's" in unseen.warnings[0].message
    spec["train"]["stage"] = "pretrain"
    trained(root, "t3", {**spec, "dataset": {"val_data_sources": str(val)}})
    pretrained = inherit.taught_by(Bundle.load(), parent_info("t3", root))
    assert pretrained is not None and pretrained.judged == ()
