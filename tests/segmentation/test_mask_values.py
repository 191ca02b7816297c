"""Black and white masks, read by the list of their values, are the same masks as numbers: for
training, evaluation, inference and an export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.actions import evaluate, export, inference
from mae_runners.data.masks import MaskReader
from mae_runners.models import checkpoint
from mae_skill.errors import SpecError
from mae_skill.origin import Origin, OriginKind
from PIL import Image

from tests.data.test_pairs import encoded
from tests.support.deploy import make_context, make_spec
from tests.support.segmentation import scenes, seg_spec
from tests.support.training import train

VALUES = "dataset.segmentation.mask_values"
LEAN = {"model__embed_dim": 32, "model__num_heads": 2, "model__depth": 3}


def repainted(data: Path, to: Path, black: int, white: int) -> Path:
    """The set with masks of two values: the background, and every digit."""
    copy = Path(shutil.copytree(data, to))
    for path in (copy / "annotations").rglob("*.png"):
        is_digit = np.asarray(Image.open(path)) > 1
        Image.fromarray(np.where(is_digit, white, black).astype(np.uint8)).save(path)
    return copy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("data") / "scenes", training=4, validation=2, size=32)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``listed`` learned from masks of 0 and 255, ``numbered`` from the same as 0 and 1."""
    root = tmp_path_factory.mktemp("trained")
    both: dict[str, tuple[Path, dict[str, Any]]] = {
        "listed": (
            repainted(data, root / "gray", 0, 255),
            {"dataset__segmentation__mask_values": [0, 255]},
        ),
        "numbered": (
            repainted(data, root / "numbers", 0, 1),
            {"dataset__segmentation__reduce_zero_label": False},
        ),
    }
    for name, (source, more) in both.items():
        more = {**LEAN, "model__num_classes": 2, "train__num_epochs": 1, **more}
        more |= {"dataset__segmentation__class_list": ["ground", "digit"]}
        assert train(seg_spec(source, root / name, **more)) == 0
    return {name: next((root / name / "train").glob("model_epoch_*.pth")) for name in both} | {
        "gray": root / "gray",
        "numbers": root / "numbers",
    }


def figures(folder: Path, path: Path, data: Path, **values: Any) -> dict[str, Any]:
    spec = make_spec(evaluate__checkpoint=str(path), dataset__val_data_sources=str(data), **values)
    given = {VALUES: Origin(OriginKind.OVERRIDE)} if values else {}
    evaluate.run(spec, make_context("evaluate", folder, given))
    found: dict[str, Any] = json.loads((folder / "evaluate" / "metrics.json").read_text())
    return {key: found[key] for key in ("mIoU", "mAcc", "aAcc", "val_loss", "per_class")}


def test_listed_values_train_the_weights_that_numbers_train_bit_for_bit(
    trained: dict[str, Path],
) -> None:
    listed, numbered = (checkpoint.read(trained[name]) for name in ("listed", "numbered"))
    assert listed["state_dict"].keys() == numbered["state_dict"].keys()
    for name, tensor in listed["state_dict"].items():
        assert torch.equal(tensor, numbered["state_dict"][name]), name
    assert listed["metrics"] == numbered["metrics"]
    assert (listed["mae"]["mask_values"], listed["mae"]["reduce_zero_label"]) == ([0, 255], False)
    assert numbered["mae"]["mask_values"] is None
    index = json.loads((trained["listed"].parent / "checkpoints.json").read_text())
    assert index["checkpoints"][0]["mask_values"] == [0, 255]


def test_an_evaluation_and_an_export_take_the_list_from_the_model(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    wanted = figures(tmp_path / "1", trained["numbered"], trained["numbers"])
    assert figures(tmp_path / "2", trained["listed"], trained["gray"]) == wanted
    spec = make_spec(export__checkpoint=str(trained["listed"]))
    export.run(spec, make_context("export", tmp_path / "onnx"))
    found = figures(tmp_path / "3", tmp_path / "onnx/export/model.onnx", trained["gray"])
    assert found["mIoU"] == pytest.approx(wanted["mIoU"], abs=1e-6)
    # Masks of other values than those of the training: a list of their own says it.
    own = {"dataset__segmentation__mask_values": [0, 1]}
    assert figures(tmp_path / "4", trained["listed"], trained["numbers"], **own) == wanted
    own = {"dataset__segmentation__mask_values": [0, 255]}
    assert figures(tmp_path / "5", trained["numbered"], trained["gray"], **own) == wanted
    own = {"dataset__segmentation__mask_values": [0, 1, 2]}
    with pytest.raises(SpecError, match="lists 3 values, and the model has 2 classes") as caught:
        figures(tmp_path / "6", trained["numbered"], trained["gray"], **own)
    assert caught.value.field == VALUES


def test_an_inference_writes_the_numbers_of_the_classes_and_scores_by_the_list(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    wanted = figures(tmp_path / "1", trained["listed"], trained["gray"])
    images = trained["gray"] / "images" / "validation"
    spec = make_spec(
        inference__checkpoint=str(trained["listed"]), dataset__test_data_sources=str(images)
    )
    result = inference.run(spec, make_context("inference", tmp_path / "2"))
    assert result["kpis"]["mIoU"] == pytest.approx(wanted["mIoU"])
    held = {
        int(value)
        for path in (tmp_path / "2/inference/labels").rglob("*.png")
        for value in np.unique(np.asarray(Image.open(path)))
    }
    assert held <= {0, 1}


@pytest.mark.parametrize(
    ("ignored", "listed", "label"),
    [(255, (0, 255), 255), (7, (0, 255), 7), (0, (7, 255), 255), (0, tuple(range(1, 301)), 300)],
)
def test_what_is_ignored_is_no_number_of_a_class(
    ignored: int, listed: tuple[int, ...], label: int
) -> None:
    reader = MaskReader(len(listed), ignored, True, listed)
    assert reader.ignored == label and label not in range(len(listed))
    values = np.array([[0, 7, 255]], np.uint8)
    mask, strange, _ = reader(encoded(Image.fromarray(values), "PNG"), "mask.png")
    for value, number in zip(values[0].tolist(), mask[0].tolist(), strict=True):
        assert number == (listed.index(value) if value in listed else label)
    stranger = {value for value in values[0].tolist() if value not in (*listed, ignored)}
    assert ({strange} if strange is not None else set()) == stranger
