"""Plans of segmentation: images with masks are counted, the metric is mIoU, classes inherited."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Plan, Skill
from mae_sdk.jobs.outputs import ParentInfo
from mae_sdk.jobs.root import Root
from mae_sdk.plan.inherit import contradictions, settings
from mae_skill.errors import DataError, MaeError, SpecError

from tests.support.images import make_tarball
from tests.support.models import write_vit_tiny
from tests.support.scenes import write_digit_scenes

TUNE = {
    "arch": "vit_tiny_patch16",
    "image_size": 64,
    "stage": "finetune",
    "task": "segmentation",
    "num_classes": 11,
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_scenes(
        tmp_path_factory.mktemp("scenes") / "set", training=5, validation=3, size=32
    )


def plan(source: Path, *, eval_dataset: Any = None, **changes: Any) -> Plan:
    options = {key: changes.pop(key) for key in ("automl_policy", "spec") if key in changes}
    return Skill().plan(
        "train",
        train_datasets=str(source),
        eval_dataset=eval_dataset,
        spec_overrides={**TUNE, **changes},
        **options,
    )


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_a_plan_counts_images_with_their_masks_of_each_split(
    scenes: Path, tmp_path: Path, packed: bool
) -> None:
    source = scenes
    if packed:
        make_tarball(scenes, tmp_path / "data" / "images_train.tar.gz")
        source = tmp_path / "data"
    made = plan(source, eval_dataset=str(scenes), batch_size=2)
    seen = made.sources["dataset.train_data_sources"]
    assert (seen["images"], seen["masks"]) == (5, 5) and "classes" not in seen
    assert (made.sources["dataset.val_data_sources"]["images"], made.steps_per_epoch) == (3, 3)
    assert made.estimates["parameters"]["head"] > 1_000_000


def test_automl_of_a_segmenter_maximizes_miou_over_knobs_that_act(
    scenes: Path, tmp_path: Path
) -> None:
    shown = plan(scenes, eval_dataset=str(scenes)).to_dict()
    assert shown["automl"]["metric"] == "mIoU (maximize)"
    knobs = set(shown["automl"]["knobs"])
    assert {"train.optim.lr", "train.optim.weight_decay", "model.drop_path_rate"} <= knobs
    assert "dataset.augmentation.mixup" not in knobs
    path = str(write_vit_tiny(tmp_path / "weights.pth"))
    weights = plan(
        scenes, eval_dataset=str(scenes), **{"train.pretrained_model_path": path}
    ).to_dict()
    assert "train.optim.layer_decay" in weights["automl"]["knobs"]


def test_automl_without_validation_data_holds_out_a_share(scenes: Path) -> None:
    assert plan(scenes).spec["dataset"]["val_fraction"] == 0.1


def test_mask_sources_of_the_spec_are_counted_with_the_images(scenes: Path) -> None:
    images, masks = str(scenes / "images" / "training"), str(scenes / "annotations")
    made = plan(
        Path(images),
        **{"dataset.segmentation.train_mask_sources": masks + "/training"},
        automl_policy="off",
    )
    assert made.sources["dataset.train_data_sources"]["masks"] == 5
    with pytest.raises(DataError, match="2 of 5 images have no mask"):
        plan(
            Path(images),
            **{"dataset.segmentation.train_mask_sources": str(scenes / "images" / "validation")},
            automl_policy="off",
        )


def refused(field: str, source: Path, **changes: Any) -> MaeError:
    with pytest.raises(MaeError) as caught:
        plan(source, automl_policy="off", **changes)
    problems = getattr(caught.value, "problems", []) or [caught.value]
    return next(problem for problem in problems if problem.field == field)


def test_what_is_wrong_is_said_before_anything_starts(scenes: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scenes, tmp_path / "copy"))
    (copy / "annotations/training/00003.png").unlink()
    assert "00003.jpg" in refused("dataset.segmentation.train_mask_sources", copy).message
    assert "applies only to fine-tuning" in refused("model.task", scenes, stage="pretrain").message
    listed = {"dataset.segmentation.class_list": str(scenes / "classes.txt"), "num_classes": 12}
    assert "names 11 classes" in refused("model.num_classes", scenes, **listed).message
    shutil.rmtree(copy / "annotations")
    assert "no masks belong to" in refused("dataset.segmentation.train_mask_sources", copy).message


def test_the_page_of_a_plan_says_how_many_masks(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mae_sdk.cli.main import main

    words = [
        "plan",
        "train",
        "--train-datasets",
        str(scenes),
        "--automl-policy",
        "off",
        "val_fraction=0.2",
    ]
    words = [
        *words[:-1],
        "dataset.val_fraction=0.2",
        *(f"{key}={value}" for key, value in TUNE.items()),
    ]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, None)
    assert "5 images, 5 masks; 1 held out" in capsys.readouterr().out


def parent(tmp_path: Path, meta: dict[str, Any] | None) -> ParentInfo:
    spec = {
        "model": {"arch": "vit_tiny_patch16", "task": "segmentation", "num_classes": 3},
        "dataset": {
            "segmentation": {
                "class_list": ["a", "b", "c"],
                "ignore_index": 9,
                "reduce_zero_label": False,
            }
        },
        "train": {"stage": "finetune"},
    }
    return ParentInfo("p1", tmp_path, "train", "checkpoint", spec, meta, None, Root(tmp_path))


@pytest.mark.parametrize("action", ["evaluate", "inference", "export", "gen_trt_engine"])
def test_children_inherit_the_task_and_what_the_masks_mean(tmp_path: Path, action: str) -> None:
    info = Skill().bundle.info
    found = settings(
        action,
        info,
        parent(tmp_path, {"arch": "vit_tiny_patch16", "num_classes": 3, "task": "segmentation"}),
    )
    assert found["model.task"] == "segmentation"
    meaning = [
        found[f"dataset.segmentation.{key}"]
        for key in ("class_list", "ignore_index", "reduce_zero_label")
    ]
    assert meaning == [["a", "b", "c"], 9, False]


def test_a_task_against_the_checkpoint_is_an_error(tmp_path: Path) -> None:
    spec = {"model": {"task": "classification"}}
    (error,) = contradictions(
        "evaluate",
        Skill().bundle.info,
        parent(tmp_path, {"task": "segmentation"}),
        spec,
        ["model.task"],
    )
    assert (
        isinstance(error, SpecError)
        and error.field == "model.task"
        and error.expected == "segmentation"
    )


@pytest.mark.parametrize(
    ("frozen", "told"),
    [("neck", True), ("uper.fuse", True), ("auxiliary.0", True), ("encoder", False)],
)
def test_a_frozen_part_of_a_segmenter_that_no_weights_fill_is_told(
    scenes: Path, tmp_path: Path, frozen: str, told: bool
) -> None:
    fills = {"train.pretrained_model_path": str(write_vit_tiny(tmp_path / "vit.pth"))}
    for weights in ({}, fills) if told else (fills,):
        made = plan(scenes, automl_policy="off", **{"train.freeze": [frozen], **weights})
        said = [str(one) for one in made.warnings if "train.freeze" in str(one)]
        assert [f"{frozen} would stay at random initial weights" in one for one in said] == [
            True
        ] * told
