"""The command that `mae inspect` ends with: it reads the data as the inspection has read them."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_sdk import Skill
from mae_sdk.cli.common import next_for
from mae_sdk.cli.main import main
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.mcp_server import answer, tools
from mae_skill.errors import UsageError
from PIL import Image

from tests.support.images import write_imagefolder
from tests.support.reports import write_job
from tests.support.scenes import write_digit_scenes


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*words, "--json"])
    printed = capsys.readouterr()
    return int(end.value.code or 0), json.loads(printed.out or printed.err)


def followed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, dict[str, Any]]:
    """The command that an inspection ends with, and the spec of the plan that it makes."""
    code, found = call(capsys, "inspect", *words)
    assert code == 0, found
    (command,) = found["next"]
    small = ["model.arch=vit_tiny_patch16", "--automl-policy", "off"]
    code, plan = call(capsys, *shlex.split(command)[1:], *small)
    assert code == 0, (command, plan)
    return command, plan["spec"]


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, Path]:
    """Pictures without classes, and a table of them whose name needs quotes."""
    pictures = write_imagefolder(tmp_path / "raw", classes=1, per_class=6) / "0"
    rows = [f"{path.name},{'ab'[i % 2]}" for i, path in enumerate(sorted(pictures.iterdir()))]
    file = tmp_path / "my labels.csv"
    file.write_text("\n".join(["file,label", *rows]))
    return pictures, file


def test_the_table_of_labels_goes_along(
    table: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, file = table
    _, spec = followed(capsys, str(pictures), f"dataset.labels.train={file}")
    assert spec["dataset"]["labels"]["train"] == str(file)
    assert spec["model"]["num_classes"] == 2 and spec["train"]["stage"] == "finetune"


def write_deep(folder: Path, seed: int) -> Path:
    """Two classes of 16-bit pictures whose values are far from those of 8 bits."""
    random = np.random.default_rng(seed)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(500, 3000, (24, 24)).astype(np.uint16)
            Image.fromarray(pixels).save(folder / name / f"{name}{i}.png")
    return folder


def test_what_says_how_pictures_are_read_goes_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, val = write_deep(tmp_path / "train", 1), write_deep(tmp_path / "val", 2)
    words = ("dataset.value_range=auto", "dataset.channels=1")

    command, spec = followed(capsys, str(train), *words, "dataset.classes=[a, b]")
    assert all(word in command for word in words)
    assert spec["dataset"]["channels"] == 1 and spec["dataset"]["classes"] == ["a", "b"]

    command, _ = followed(capsys, "--train", str(train), "--eval", str(val), *words)
    assert all(word in command for word in words) and "--eval-dataset" in command


def test_what_a_person_says_is_not_proposed_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=3)
    command, spec = followed(capsys, str(data), "stage=pretrain")
    assert "num_classes" not in command and spec["train"]["stage"] == "pretrain"

    file = tmp_path / "mine.yaml"
    file.write_text("train: {stage: finetune}\nmodel: {num_classes: 2}\ndataset: {channels: 1}\n")
    command, spec = followed(capsys, str(data), "-e", str(file))
    assert command.count("num_classes") == 0 and spec["dataset"]["channels"] == 1


@pytest.mark.parametrize("how", ["option", "setting"])
def test_masks_count_however_they_are_given_and_go_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    scenes = write_digit_scenes(tmp_path / "scenes", training=3, validation=1, size=32)
    photos = shutil.copytree(scenes / "images" / "training", tmp_path / "photos")
    masks = shutil.copytree(scenes / "annotations" / "training", tmp_path / "masks")
    given = {
        "option": ["--masks", str(masks)],
        "setting": [f"dataset.segmentation.train_mask_sources={masks}"],
    }[how]

    command, spec = followed(capsys, str(photos), *given, "task=segmentation", "num_classes=12")
    assert "CLASSES" not in command and command.count("num_classes") == 1
    assert spec["dataset"]["segmentation"]["train_mask_sources"] == str(masks)
    assert spec["model"]["task"] == "segmentation" and spec["train"]["stage"] == "finetune"

    _, found = call(capsys, "inspect", str(photos), *given)
    assert found["masks"]["masks"] == 3
    assert "model.task=segmentation" in found["next"][0]


def test_a_segmenter_without_masks_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_imagefolder(tmp_path / "photos", classes=1, per_class=3) / "0"
    code, error = call(capsys, "inspect", str(photos), "task=segmentation", "num_classes=2")
    assert code == 3 and error["field"] == "dataset.segmentation.train_mask_sources"


def test_mcp_carries_them_too(table: tuple[Path, Path]) -> None:
    pictures, file = table
    skill = Skill()
    tool = next(tool for tool in tools(skill) if tool.name == "inspect")
    settings = {"dataset.labels.train": str(file)}
    found, failed = answer(skill, tool, {"source": str(pictures), "spec_overrides": settings})
    assert not failed and f'"dataset.labels.train": "{file}"' in found["next"][0]


def test_a_launch_says_what_its_plan_says_of_the_data(
    table: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_launched(*_: object) -> None:
        raise UsageError("stopped before the launch")

    monkeypatch.setattr(Skill, "create_job", not_launched)
    pictures, file = table
    file.write_text(file.read_text().replace("file,label", "file,diagnosis"))
    words = ["--train-datasets", str(pictures), f"dataset.labels.train={file}", "stage=finetune"]
    small = ["num_classes=2", "arch=vit_tiny_patch16", "--automl-policy", "off"]
    with pytest.raises(SystemExit):
        main(["run", "train", *words, *small])
    said = capsys.readouterr().err
    assert "stopped before the launch" in said
    assert "notice: " in said and "the labels are those of diagnosis" in said


def test_after_a_failure_the_data_are_read_again_as_the_run_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_deep(tmp_path / "deep pictures", 4)
    read = {"train_data_sources": str(pictures), "value_range": [500, 3000], "channels": 1}
    spec = {"model": {"arch": "vit_tiny_patch16"}, "dataset": read}
    failure = {"category": "data", "message": "unreadable", "lines": [], "hint": "", "error": None}
    about = {
        "data": {"dataset.train_data_sources": {"uri": str(pictures)}},
        "state": records.ERROR,
        "spec": spec,
        "failure": {**failure, "error": {"code": "data", "message": "unreadable"}},
    }
    changed = {"changed": {"dataset.value_range": {"value": [500, 3000], "default": "dtype"}}}
    plain = Job(write_job(tmp_path, "train-1", **about))
    job = Job(write_job(tmp_path, "train-2", **about, **changed))

    assert not any(" -e " in one for one in next_for(plain, records.ERROR, None))
    (command,) = [one for one in next_for(job, records.ERROR, None) if "inspect" in one]
    code, found = call(capsys, *shlex.split(command)[1:])
    assert code == 0 and found["value_range"] == [500, 3000], found


def test_a_limit_of_unreadable_files_counts_as_in_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=3)
    first = min((data / "0").iterdir())
    first.write_bytes(b"no picture")
    limit = "dataset.max_corrupt_fraction=0.2"
    code, found = call(capsys, "inspect", str(data))
    assert code == 3 and "raise dataset.max_corrupt_fraction" in str(found["verdict"]["problems"])
    followed(capsys, str(data), limit)
    _, found = call(capsys, "inspect", str(data), limit)
    assert "they are left out" in str(found["verdict"]["warnings"])
    code, _ = call(capsys, "inspect", "--train", str(data), "--eval", str(data), limit)
    assert code == 0


def test_a_limit_of_unreadable_masks_counts_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = write_digit_scenes(tmp_path / "scenes", training=3, validation=1, size=32)
    masks = scenes / "annotations" / "training"
    min(masks.iterdir()).write_bytes(b"no picture")
    words = (str(scenes / "images" / "training"), "--masks", str(masks))
    code, found = call(capsys, "inspect", *words)
    assert code == 3 and "1 of 3 masks are unreadable" in str(found["verdict"]["problems"])
    code, found = call(capsys, "inspect", *words, "dataset.max_corrupt_fraction=0.4")
    assert code == 0 and "1 of 3 masks are unreadable" in str(found["verdict"]["warnings"])


def test_masks_are_judged_by_what_is_said_of_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    for folder in (photos, masks):
        folder.mkdir()
    for i in range(3):
        rows = np.random.default_rng(i).integers(0, 255, (16, 16)).astype(np.uint8)
        Image.fromarray(rows).save(photos / f"{i}.png")
        Image.fromarray((rows > 99).astype(np.uint8)).save(masks / f"{i}.png")
    words = (str(photos), "--masks", str(masks))
    _, found = call(capsys, "inspect", *words)
    (advised,) = [text for text in found["verdict"]["warnings"] if "reduce_zero_label" in text]
    setting = advised.rpartition(" set ")[2]
    _, found = call(capsys, "inspect", *words, *setting.split())
    assert "reduce_zero_label" not in str(found["verdict"]["warnings"])


def test_a_range_that_was_set_is_judged_as_by_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_deep(tmp_path / "deep", 3)
    code, found = call(capsys, "inspect", str(data), "dataset.value_range=[0,65535]")
    assert code == 0 and "dataset.value_range=auto" in str(found["verdict"]["warnings"])
    followed(capsys, str(data), "dataset.value_range=[0,65535]")


def test_a_setting_that_an_inspection_does_not_read_is_said_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=3)
    code, found = call(capsys, "inspect", str(data), "dataset.val_fraction=0.3")
    assert code == 0 and "dataset.val_fraction" in found["next"][0]
    assert "dataset.val_fraction: not read here" in str(found["verdict"]["warnings"])
    for field in ("dataset.train_data_sources", "dataset.val_data_sources"):
        code, error = call(capsys, "inspect", str(data), f"{field}={data}")
        assert code == 2 and error["field"] == field and "--eval" in error["hint"]
    _, found = call(capsys, "inspect", str(data), "stage=finetune", "dataset.channels=3")
    assert "not read here" not in str(found["verdict"]["warnings"])


@pytest.mark.parametrize(
    ("stage", "usable"), [(None, True), ("pretrain", True), ("finetune", False)]
)
def test_images_beside_the_class_folders_are_judged_as_by_the_plan_of_that_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str | None, usable: bool
) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=3)
    shutil.copy(min((data / "0").iterdir()), data / "loose.png")
    words = [] if stage is None else [f"stage={stage}"]
    code, found = call(capsys, "inspect", str(data), *words)
    assert (code == 0) == usable == found["verdict"]["usable"]
    said = "1 of 7 images are in no class folder"
    assert (said in str(found["verdict"]["warnings"])) == (stage is None)
    assert (said in str(found["verdict"]["problems"])) == (stage == "finetune")

    planned = ["plan", "train", "--train-datasets", str(data), *(words or ["stage=pretrain"])]
    counted = ["num_classes=2"] if stage == "finetune" else []
    code, _ = call(capsys, *planned, *counted, "arch=vit_tiny_patch16", "--automl-policy", "off")
    assert (code == 0) == usable


def test_an_inference_leads_to_its_page_where_pictures_have_their_names(tmp_path: Path) -> None:
    folder = write_job(tmp_path, "inference-1", "inference", result={"kpis": {"images": 4}})
    assert "mae report inference-1 --results-root R" in next_for(Job(folder), "COMPLETE", "R")
