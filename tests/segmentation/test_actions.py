"""A segmenter in evaluate, inference and export: the same answers from a checkpoint and from ONNX,
at the size of each picture."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.actions import evaluate, export, inference
from mae_runners.actions.predict_segmenter import target_names
from mae_runners.deploy.artifact import ArtifactMeta
from mae_runners.deploy.eval_images import gate_count
from mae_runners.deploy.parity import Thresholds, compare
from mae_runners.models import build_from_config, checkpoint
from mae_sdk import Skill
from mae_skill.errors import DataError, JobFailedError, SpecError
from mae_skill.origin import Origin, OriginKind
from PIL import Image
from sklearn.metrics import jaccard_score

from tests.support.deploy import make_context, make_spec
from tests.support.models import disturb
from tests.support.scenes import CLASSES
from tests.support.segmentation import scenes, segmenter_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("data") / "scenes", training=3, validation=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers vary over a picture."""
    torch.manual_seed(0)
    config = segmenter_config(
        "vit_tiny_patch16", (64, 64), num_classes=len(CLASSES), embed_dim=32, num_heads=2, depth=3
    )
    module = build_from_config(config)
    disturb(module.parameters(), 0.2)
    module.train()
    with torch.no_grad():
        for _ in range(20):
            module(torch.randn(4, 3, 64, 64))
    meta = checkpoint.CheckpointMeta.for_model(module, classes=list(CLASSES))
    path = tmp_path_factory.mktemp("model") / "model.pth"
    checkpoint.save(
        {
            "state_dict": checkpoint.model_state(module),
            "epoch": 0,
            "global_step": 0,
            "mae": meta.to_dict(),
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def onnx_file(
    model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("export")
    spec = make_spec(export__checkpoint=str(model), dataset__val_data_sources=str(data))
    return folder / "export" / "model.onnx", export.run(spec, make_context("export", folder))


def evaluate_on(folder: Path, path: Path, data: Path, **values: Any) -> dict[str, Any]:
    spec = make_spec(evaluate__checkpoint=str(path), dataset__val_data_sources=str(data), **values)
    evaluate.run(spec, make_context("evaluate", folder))
    figures: dict[str, Any] = json.loads((folder / "evaluate" / "metrics.json").read_text())
    return figures


def test_evaluate_scores_what_inference_writes(model: Path, data: Path, tmp_path: Path) -> None:
    figures = evaluate_on(tmp_path, model, data, dataset__batch_size=2)
    source = data / "images" / "validation"
    spec = make_spec(
        inference__checkpoint=str(model),
        dataset__test_data_sources=str(source),
        dataset__batch_size=3,
    )
    result = inference.run(spec, make_context("inference", tmp_path))
    folder = tmp_path / "inference"
    truths, guesses = [], []
    with (folder / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [Path(row["path"]).name for row in rows] == [f"{i:05d}.jpg" for i in range(5)]
    for row in rows:
        labels = np.asarray(Image.open(folder / row["label_map"])).astype(int)
        mask = (
            np.asarray(
                Image.open(
                    data / "annotations" / "validation" / Path(row["path"]).with_suffix(".png").name
                )
            ).astype(int)
            - 1
        )
        picture = np.asarray(Image.open(row["path"]))
        assert labels.shape == mask.shape == (int(row["height"]), int(row["width"]))
        painted, overlay = (
            np.asarray(Image.open(folder / row[name])) for name in ("mask", "overlay")
        )
        assert np.abs(overlay.astype(float) - (picture / 2 + painted / 2.0)).max() <= 0.5
        assert len(np.unique(labels)) > 1, "the model says something"
        share = np.bincount(labels.flatten(), minlength=11) / labels.size
        assert row["class"] == CLASSES[int(share.argmax())] and float(
            row["share"]
        ) == pytest.approx(share.max(), abs=1e-6)
        truths.append(mask[mask >= 0])
        guesses.append(labels[mask >= 0])
        with (folder / "colours.csv").open() as table:
            color = {
                int(line["class_index"]): [int(line[part]) for part in ("red", "green", "blue")]
                for line in csv.DictReader(table)
            }
        assert all(
            painted[labels == label][0].tolist() == color[label] for label in np.unique(labels)
        )
    truth, guess = np.concatenate(truths), np.concatenate(guesses)
    wanted = jaccard_score(truth, guess, average="macro", labels=np.union1d(truth, guess))
    assert figures["mIoU"] == pytest.approx(wanted) == result["kpis"]["mIoU"]
    assert figures["images"] == result["kpis"]["images"] == 5 and figures["window"] == "whole"
    assert figures["per_class"]["background"]["pixels"] == int((truth == 0).sum())
    names = {path.name for path in (tmp_path / "evaluate").iterdir()}
    assert names >= {
        "metrics.json",
        "per_class_iou.csv",
        "segmentation.png",
        "colours.csv",
        "confusion_matrix.csv",
    }


def test_masks_are_read_as_those_that_the_model_learned_from_and_no_other_way(
    model: Path, data: Path, tmp_path: Path
) -> None:
    """Masks in which 0 is a class: by the default every class would be taken for the one below."""
    zero_based = Path(shutil.copytree(data, tmp_path / "zero"))
    for path in (zero_based / "annotations").rglob("*.png"):
        values = np.asarray(Image.open(path)).astype(int)
        Image.fromarray(np.where(values == 0, 255, values - 1).astype(np.uint8)).save(path)
    contents = checkpoint.read(model)
    contents["mae"]["reduce_zero_label"] = False
    own = tmp_path / "own.pth"
    checkpoint.save(contents, own)
    export.run(make_spec(export__checkpoint=str(own)), make_context("export", tmp_path / "onnx"))

    wanted = evaluate_on(tmp_path / "1", model, data)
    for number, path in enumerate((own, tmp_path / "onnx/export/model.onnx")):
        figures = evaluate_on(tmp_path / f"2{number}", path, zero_based)
        assert figures["mIoU"] == pytest.approx(wanted["mIoU"], abs=1e-6)
    field = "dataset.segmentation.reduce_zero_label"
    context = make_context("evaluate", tmp_path / "3", {field: Origin(OriginKind.OVERRIDE)})
    named = {"evaluate__checkpoint": str(own), "dataset__val_data_sources": str(data)}
    with pytest.raises(SpecError, match="made with another value") as caught:
        evaluate.run(make_spec(**named), context)
    assert (caught.value.field, caught.value.expected) == (field, "False")

    def planned(source: Path, checkpoint: Path = own, **settings: Any) -> list[str]:
        settings = {"evaluate.checkpoint": str(checkpoint), "dataset.batch_size": 1, **settings}
        made = Skill().plan("evaluate", eval_dataset=str(source), spec_overrides=settings)
        return [str(item) for item in made.warnings if "zero" in str(item)]

    assert planned(zero_based) == planned(zero_based, **{field: False}) == []
    assert planned(zero_based, model, **{field: False}) == []  # the model does not say
    with pytest.raises(SpecError, match="mask_values to the value of each class") as caught:
        planned(data, **{field: True})
    assert caught.value.field == field

    images = zero_based / "images" / "validation"  # whose masks are found beside them
    named = {"inference__checkpoint": str(own), "dataset__test_data_sources": str(images)}
    result = inference.run(make_spec(**named), make_context("inference", tmp_path / "4"))
    assert result["kpis"]["mIoU"] == pytest.approx(wanted["mIoU"], abs=1e-6)


def test_an_onnx_file_gives_the_figures_of_its_checkpoint_whole_and_sliding(
    model: Path, onnx_file: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
) -> None:
    path, result = onnx_file
    assert result["parity"]["top1_agreement"] >= 0.999 and result["parity"]["cosine_min"] > 0.9999
    assert (
        result["meta"]["task"] == "segmentation"
        and "dataset.val_data_sources" in result["parity"]["images_from"]
    )
    found = []
    for window in (
        {},
        {"evaluate__segmentation__window": "slide", "evaluate__segmentation__stride": 16},
    ):
        torch_figures = evaluate_on(tmp_path, model, data, **window)
        onnx_figures = evaluate_on(tmp_path, path, data, **window)
        assert onnx_figures["mIoU"] == pytest.approx(torch_figures["mIoU"], abs=2e-3)
        assert onnx_figures["val_loss"] == pytest.approx(torch_figures["val_loss"], rel=1e-4)
        found.append(torch_figures["val_loss"])
    assert found[0] != found[1], "the window acts"


def test_the_gate_refuses_an_artifact_whose_pixels_differ(
    onnx_file: tuple[Path, dict[str, Any]], model: Path, data: Path, tmp_path: Path
) -> None:
    reference = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    other = reference.copy()
    other[1, :, 2, 3] = -other[1, :, 2, 3]
    report = compare(reference, other, Thresholds(-1.0, 10.0, 0.98), logits=True)
    assert report.top1_agreement == 1 - 1 / 40 and not report.passed
    spec = make_spec(
        export__checkpoint=str(model),
        export__data_type="fp16",
        export__parity__max_abs=1e-9,
        dataset__val_data_sources=str(data),
    )
    with pytest.raises(JobFailedError, match="max_abs"):
        export.run(spec, make_context("export", tmp_path))
    assert not list((tmp_path / "export").iterdir())


def test_export_at_another_size_takes_the_statistics_along(
    model: Path, data: Path, tmp_path: Path
) -> None:
    spec = make_spec(
        export__checkpoint=str(model),
        export__input_height=96,
        export__input_width=64,
        export__batch_size=1,
        dataset__val_data_sources=str(data),
    )
    result = export.run(spec, make_context("export", tmp_path))
    assert result["kpis"]["parity_top1_agreement"] >= 0.999
    figures = evaluate_on(tmp_path, tmp_path / "export" / "model.onnx", data)
    assert figures["images"] == 5 and figures["mIoU"] > 0


def test_the_gate_looks_at_fewer_pictures_where_logits_are_large() -> None:
    meta = ArtifactMeta(
        "a",
        "finetune",
        [512, 512],
        [0.5] * 3,
        [0.5] * 3,
        "logits",
        num_classes=150,
        task="segmentation",
    )
    assert gate_count(meta) == 1
    meta.input_size = [64, 64]
    assert gate_count(meta) == 16


def test_pictures_of_one_name_do_not_overwrite_each_other() -> None:
    assert target_names(["a/1.jpg", "a/1.png", "b/1.jpg", "../x.png", "/y.png"]) == [
        "a/1",
        "a/1_2",
        "b/1",
        "x",
        "y",
    ]


def test_inference_with_masks_says_of_its_score_what_an_evaluation_says(
    model: Path, tmp_path: Path
) -> None:
    several = scenes(tmp_path / "scenes", training=1, validation=12)
    figures = evaluate_on(tmp_path, model, several)
    assert figures["intervals"]["mIoU"]["method"] == "bootstrap over 12 images"
    constant = figures["most_frequent"]
    pixels = {name: one["pixels"] for name, one in figures["per_class"].items()}
    assert pixels[constant["class"]] == max(pixels.values())
    assert constant["aAcc"] == pytest.approx(max(pixels.values()) / sum(pixels.values()))
    assert figures["doubts"], "a model that has learned nothing"

    source = several / "images" / "validation"
    spec = make_spec(inference__checkpoint=str(model), dataset__test_data_sources=str(source))
    context = make_context("inference", tmp_path)
    result = inference.run(spec, context)
    said = json.loads((tmp_path / "inference/metrics.json").read_text())
    for name in ("mIoU", "intervals", "most_frequent", "doubts", "per_class"):
        assert said[name] == figures[name], name
    assert result["doubts"] == figures["doubts"] and set(result["doubts"]) <= set(context.warnings)

    found = [np.asarray(Image.open(path)) for path in (tmp_path / "inference/labels").iterdir()]
    every = np.concatenate([one.flatten() for one in found])
    for number, name in enumerate(CLASSES):
        assert result["answered"][name] == sum((one == number).any() for one in found)
        assert result["answered_pixels"][name] == pytest.approx((every == number).mean())


def test_pictures_without_masks_can_be_segmented_but_not_scored(
    model: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.open(data / "images" / "validation" / "00000.jpg").save(folder / "a.png")
    spec = make_spec(inference__checkpoint=str(model), dataset__test_data_sources=str(folder))
    result = inference.run(spec, make_context("inference", tmp_path))
    assert result["kpis"] == {"images": 1, "unreadable": 0}
    with pytest.raises(DataError, match="masks"):
        evaluate_on(tmp_path, model, folder)


def test_a_spec_that_asks_for_another_task_is_refused(
    model: Path, data: Path, tmp_path: Path
) -> None:
    spec = make_spec(
        evaluate__checkpoint=str(model),
        dataset__val_data_sources=str(data),
        model__task="classification",
    )
    with pytest.raises(SpecError) as caught:
        evaluate.run(
            spec, make_context("evaluate", tmp_path, {"model.task": Origin(OriginKind.OVERRIDE)})
        )
    assert caught.value.field == "model.task"
