"""Weights that this project did not train: evaluated, run and exported as the spec describes
them."""

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
from mae_runners.data.transforms import EvalTransform
from mae_runners.models import checkpoint
from mae_sdk import Skill
from mae_skill.errors import CheckpointError, MaeError
from mae_skill.spec import AugmentationSpec
from mae_skill.weights.config import misread, preparation
from PIL import Image

from tests.support.deploy import (
    CLASSES,
    make_context,
    make_model,
    make_spec,
    save_checkpoint,
    write_digits,
)
from tests.support.images import photo

DESCRIBED: dict[str, Any] = {
    "model__arch": "vit_tiny_patch16",
    "model__depth": 2,
    "model__num_classes": 4,
    "train__stage": "finetune",
    "dataset__augmentation__input_size": 64,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=6)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of ours, and its weights as other programs keep them."""
    folder = tmp_path_factory.mktemp("model")
    model = make_model("vit_tiny_patch16", "finetune", 64, depth=2)
    state = {f"module.{name}": value for name, value in model.encoder.state_dict().items()}
    torch.save({"model_ema": state, "epoch": 3}, folder / "published.bin")
    return save_checkpoint(model, folder / "own.pth"), folder / "published.bin"


def test_published_weights_evaluate_and_infer_as_our_own_checkpoint_does(
    digits: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    found = []
    for name, file in zip(("own", "published"), files, strict=True):
        context = make_context("evaluate", tmp_path / name)
        source = {"dataset__val_data_sources": str(digits)}
        evaluate.run(make_spec(evaluate__checkpoint=str(file), **source, **DESCRIBED), context)
        found.append(json.loads((tmp_path / name / "evaluate" / "metrics.json").read_text()))
        context = make_context("inference", tmp_path / name)
        source = {"dataset__test_data_sources": str(digits)}
        inference.run(make_spec(inference__checkpoint=str(file), **source, **DESCRIBED), context)
    own, published = found
    for metrics in found:
        metrics.pop("speed")
    assert published == own and 0.0 < own["ece"] < 1.0

    rows = [
        (tmp_path / name / "inference" / "results.csv").read_text().splitlines()
        for name in ("own", "published")
    ]
    places = [[line.split(",")[3] for line in lines[1:]] for lines in rows]
    assert places[0] == places[1] and len(places[0]) == 24


def test_outputs_without_names_are_said_to_be_taken_for_the_folders_in_their_order(
    digits: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    numbers = tmp_path / "numbers"
    for number, folder in enumerate(sorted(digits.iterdir())):
        shutil.copytree(folder, numbers / str(number))
    words = "evaluate.checkpoint: the model's file names no classes"
    for file, folder, warned in (
        (files[1], digits, True),
        (files[1], numbers, False),  # folders that are the numbers of the outputs
        (files[0], digits, False),  # our own checkpoint names them
    ):
        spec = make_spec(
            evaluate__checkpoint=str(file), dataset__val_data_sources=str(folder), **DESCRIBED
        )
        context = make_context("evaluate", tmp_path / f"{file.name}-{folder.name}")
        evaluate.run(spec, context)
        assert any(words in text for text in context.warnings) == warned
        assert not warned or any(f"0 = {min(CLASSES)}, 1 = " in text for text in context.warnings)

        overrides = {name.replace("__", "."): value for name, value in DESCRIBED.items()}
        plan = Skill().plan(
            "evaluate",
            eval_dataset=str(folder),
            spec_overrides={**overrides, "evaluate.checkpoint": str(file)},
        )
        assert any(words in str(warning) for warning in plan.warnings) == warned


def test_outputs_without_names_of_another_number_than_the_classes_are_refused_by_the_plan(
    digits: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    few = tmp_path / "few"
    for folder in sorted(digits.iterdir())[1:]:
        shutil.copytree(folder, few / folder.name)
    overrides = {name.replace("__", "."): value for name, value in DESCRIBED.items()}
    overrides["evaluate.checkpoint"] = str(files[1])
    with pytest.raises(MaeError, match="nobody can tell which output is which") as caught:
        Skill().plan("evaluate", eval_dataset=str(few), spec_overrides=overrides)
    assert "dataset.classes=[…]" in str(caught.value.hint)
    names = [folder.name for folder in sorted(digits.iterdir())]
    Skill().plan(
        "evaluate", eval_dataset=str(few), spec_overrides={**overrides, "dataset.classes": names}
    )


def test_published_weights_are_exported(files: tuple[Path, Path], tmp_path: Path) -> None:
    import onnxruntime

    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    outputs = []
    for name, file in zip(("own", "published"), files, strict=True):
        target = tmp_path / f"{name}.onnx"
        spec = make_spec(export__checkpoint=str(file), export__onnx_file=str(target), **DESCRIBED)
        export.run(spec, make_context("export", tmp_path / name))
        session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
        outputs += session.run(None, {"images": images})
    assert np.allclose(*outputs, atol=1e-6)


def test_a_description_that_does_not_fit_is_an_error_of_the_field(
    digits: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    for change, told in (
        ({"model__num_classes": 3}, "it has 4 classes, the model 3"),
        ({"model__global_pool": False}, "model.global_pool=true"),
    ):
        spec = make_spec(
            evaluate__checkpoint=str(files[1]),
            dataset__val_data_sources=str(digits),
            **{**DESCRIBED, **change},
        )
        with pytest.raises(CheckpointError, match="lacks a part") as caught:
            evaluate.run(spec, make_context("evaluate", tmp_path))
        assert caught.value.field == "evaluate.checkpoint" and told in caught.value.got


def test_an_encoder_alone_gives_features_and_no_reconstruction_loss(
    digits: Path, tmp_path: Path
) -> None:
    model = make_model("vit_tiny_patch16", "pretrain", 64, depth=2)
    torch.save({"model": model.encoder.state_dict()}, tmp_path / "encoder.pth")
    assert "mae" not in checkpoint.read(tmp_path / "encoder.pth")
    described = {**DESCRIBED, "train__stage": "pretrain"}
    spec = make_spec(
        evaluate__checkpoint=str(tmp_path / "encoder.pth"),
        dataset__val_data_sources=str(digits),
        **described,
    )
    evaluate.run(spec, make_context("evaluate", tmp_path))
    metrics = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert "reconstruction_loss" not in metrics and metrics["knn_acc"] > 0.25
    spec = make_spec(
        inference__checkpoint=str(tmp_path / "encoder.pth"),
        dataset__test_data_sources=str(digits),
        **described,
    )
    inference.run(spec, make_context("inference", tmp_path))
    assert not (tmp_path / "inference" / "reconstructions.png").exists()
    assert np.load(tmp_path / "inference" / "embeddings.npy").shape == (24, 192)


def _folder_of_timm(path: Path, name: str = "vit_tiny_patch16_224", **pretrained: Any) -> Path:
    import timm
    from safetensors.torch import save_file

    shape: dict[str, Any] = {"num_classes": 4, "img_size": 64}
    shape |= {"depth": 2, "global_pool": "avg"} if "vit" in name else {}
    torch.manual_seed(0)
    model = timm.create_model(name, **shape)
    with torch.no_grad():
        for weight in model.parameters():  # fresh ones answer alike to every picture
            weight.add_(torch.randn_like(weight) * 0.05)
    path.mkdir()
    save_file(model.state_dict(), path / "model.safetensors")
    config = {
        "architecture": name,
        "num_classes": 4,
        "model_args": shape,
        "pretrained_cfg": {"input_size": [3, 64, 64], **pretrained},
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


OPEN = {
    name.replace("__", "."): value
    for name, value in DESCRIBED.items()
    if name != "dataset__augmentation__input_size"
}
HALF = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "crop_pct": 0.95}
FILTER = "dataset.augmentation.eval_interpolation"


@pytest.mark.parametrize("action", ["evaluate", "inference", "export"])
def test_the_preparation_that_a_foreign_folder_says_is_taken(
    action: str, digits: Path, tmp_path: Path
) -> None:
    folder = _folder_of_timm(tmp_path / "model", **HALF, interpolation="lanczos")
    data = {"evaluate": "eval_dataset", "inference": "inference_dataset"}
    given: dict[str, Any] = {data[action]: str(digits)} if action in data else {}

    def plan(**more: Any) -> Any:
        overrides = {**OPEN, f"{action}.checkpoint": str(folder), **more}
        return Skill().plan(action, spec_overrides=overrides, **given)

    taken = plan()
    pictures = taken.spec["dataset"]["augmentation"]
    assert (pictures["input_size"], pictures["center_crop"]) == (64, 0.95)
    assert (pictures["mean"], pictures["std"]) == (HALF["mean"], HALF["std"])
    assert pictures["eval_interpolation"] == "lanczos"
    notes = {item.field: item.note for item in taken.inferred}
    assert "of the weights' config.json" in notes["dataset.augmentation.input_size"]

    own = {"input_size": 96, "center_crop": 0.5, "mean": [0.1] * 3}
    own |= {"eval_interpolation": "bilinear"}
    other = plan(**{f"dataset.augmentation.{word}": value for word, value in own.items()})
    assert other.spec["dataset"]["augmentation"]["input_size"] == 96
    said = " ".join(map(str, other.warnings))
    for text in (
        "pictures with [64, 64]",
        "pictures with 0.95",
        "pictures with lanczos",
        "trained with [0.5, 0.4, 0.3]",
    ):
        assert text in said


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("vit_tiny_patch16_224", None),
        ("hiera_tiny_224", "bicubic"),
        ("vit_tiny_patch16_224", "bilinear"),
        ("vit_tiny_patch16_224", "lanczos"),
    ],
)
def test_a_foreign_folder_answers_as_timm_does_with_its_own_transform(
    name: str, kernel: str | None, tmp_path: Path
) -> None:
    import timm
    from mae_runners.models.pretrained import load_described
    from mae_skill.spec import ExperimentSpec

    said = {"interpolation": kernel} if kernel else {}
    folder = _folder_of_timm(tmp_path / "model", name, **HALF, **said)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        photo(number, 130, 100).save(pictures / f"{number}.png")
    own = {**OPEN, "model.arch": name.replace("_224", "") if "vit" in name else name}
    own |= {} if "vit" in name else {"model.depth": None}
    job = Skill().plan(
        "inference",
        inference_dataset=str(pictures),
        spec_overrides={**own, "inference.checkpoint": str(folder)},
    )
    spec = ExperimentSpec.model_validate(job.spec)
    _, meta, _ = load_described(folder, None, spec, "inference.checkpoint")
    assert (list(meta.input_size), meta.center_crop) == ([64, 64], 0.95)
    assert list(meta.mean) == HALF["mean"]
    assert meta.eval_interpolation == kernel or (kernel is None and "bicubic")

    inference.run(spec, make_context("inference", tmp_path))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config({}, model=model), is_training=False
    )
    rows = csv.DictReader((tmp_path / "inference" / "results.csv").read_text().splitlines())
    seen = 0
    for row in rows:
        with torch.no_grad(), Image.open(row["path"]) as picture:
            wanted = model(transform(picture.convert("RGB"))[None]).softmax(-1)[0]
        assert int(row["class_index"]) == int(wanted.argmax())
        assert float(row["probability"]) == pytest.approx(float(wanted.max()), abs=1e-4)
        seen += 1
    assert seen == 3


@pytest.mark.parametrize(
    ("processor", "size", "crop", "squeezes"),
    [
        (
            {
                "size": {"shortest_edge": 80},
                "do_center_crop": True,
                "crop_size": {"height": 64, "width": 64},
            },
            [64, 64],
            0.8,
            False,
        ),
        ({"size": {"height": 64, "width": 64}}, [64, 64], 1.0, True),
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.875}, [64, 64], 0.875, False),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, [384, 384], 1.0, True),
        ({"size": 64}, [64, 64], 1.0, True),
        ({}, [96, 96], None, False),
    ],
)
def test_size_and_crop_of_an_image_processor_of_transformers_are_told(
    tmp_path: Path, processor: dict[str, Any], size: list[int], crop: float | None, squeezes: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hiera", "image_size": 96}))
    if processor:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = preparation(tmp_path)
    assert found["input_size"][0] == size
    assert found.get("center_crop", (None,))[0] == crop
    assert ("squeezes" in found) == squeezes
    (tmp_path / "config.json").write_text(json.dumps({"mae": {}, "image_size": 96}))
    assert preparation(tmp_path) == {}  # our own says it itself


def test_a_classifier_of_timm_is_run_by_its_folder_alone(digits: Path, tmp_path: Path) -> None:
    folder = _folder_of_timm(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["label_names"] = ["zero", "one", "two", "three"]
    (folder / "config.json").write_text(json.dumps(config))

    def settings(**given: Any) -> dict[str, Any]:
        overrides = {"evaluate.checkpoint": str(folder), **given}
        plan = Skill().plan("evaluate", eval_dataset=str(digits), spec_overrides=overrides)
        return {item.field: item.value for item in plan.inferred if "config.json" in item.note}

    wanted = {
        "model.arch": "vit_tiny_patch16",
        "model.depth": 2,
        "model.global_pool": True,
        "train.stage": "finetune",
        "model.num_classes": 4,
    }
    assert settings().items() >= wanted.items()
    del wanted["model.depth"]
    assert settings(**{"model.depth": 2}).items() >= wanted.items()
    with pytest.raises(MaeError):
        settings(**{"model.arch": "vit_small_patch16"})


@pytest.mark.parametrize(
    ("lie", "field"),
    [
        ({"input_size": "64"}, "dataset.augmentation.input_size"),
        ({"mean": "0.5"}, "dataset.augmentation.mean"),
        ({"std": [0.5, 0.5]}, "dataset.augmentation.std"),
        ({"crop_pct": -3}, "dataset.augmentation.center_crop"),
        ({"interpolation": "nearest"}, FILTER),
        ({"interpolation": 3}, FILTER),
    ],
)
def test_what_a_foreign_folder_says_and_cannot_be_taken_is_refused_and_not_left_to_the_default(
    digits: Path, tmp_path: Path, lie: dict[str, Any], field: str
) -> None:
    folder = _folder_of_timm(tmp_path / "model", **{**HALF, **lie})
    config = json.loads((folder / "config.json").read_text())
    del config["model_args"]["img_size"]
    (folder / "config.json").write_text(json.dumps(config))

    def plan(**more: Any) -> Any:
        overrides = {"evaluate.checkpoint": str(folder), **more}
        return Skill().plan("evaluate", eval_dataset=str(digits), spec_overrides=overrides)

    with pytest.raises(CheckpointError) as caught:
        plan()
    assert f"correct the file, or set {field}" in str(caught.value.hint)
    names = ("mean", "std") if field.endswith(("mean", "std")) else (field.rpartition(".")[2],)
    own = {"input_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "center_crop": 0.9}
    own |= {"eval_interpolation": "bicubic"}
    assert plan(**{f"dataset.augmentation.{name}": own[name] for name in names})


@pytest.mark.parametrize(
    ("processor", "kernel"),
    [
        ({"size": 64, "resample": 1}, "lanczos"),
        ({"size": 64, "resample": 2}, "bilinear"),
        ({"size": 64, "resample": 3}, "bicubic"),
        ({"size": 64, "image_processor_type": "ViTImageProcessorFast"}, "bilinear"),
        ({"size": 64, "image_processor_type": "BitImageProcessor"}, None),
        ({"size": 64, "resample": 0}, 0),
        ({"size": 64, "resample": True}, True),
        ({"size": 64, "resample": "cubic"}, "cubic"),
        ({"do_resize": False, "crop_size": 64, "resample": 0}, None),
    ],
)
def test_the_filter_of_an_image_processor_of_transformers_is_told_or_refused(
    tmp_path: Path, processor: dict[str, Any], kernel: Any
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "image_size": 64}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))

    said = preparation(tmp_path).get("eval_interpolation", (None, ""))[0]
    if kernel in ("lanczos", "bilinear", "bicubic", None):
        assert said == kernel and FILTER not in misread(tmp_path)
    else:
        assert said is None
        assert misread(tmp_path)[FILTER] == ("resample", kernel, "preprocessor_config.json")


@pytest.mark.parametrize("action", ["inference", "export"])
@pytest.mark.parametrize(("crop", "share"), [(0.1, "1%"), (0.4, "16%"), (0.05, None), (0.5, "")])
def test_a_crop_of_a_foreign_folder_that_leaves_little_is_told(
    digits: Path, tmp_path: Path, action: str, crop: float, share: str | None
) -> None:
    folder = _folder_of_timm(tmp_path / "model", **{**HALF, "crop_pct": crop})
    data = {"inference_dataset": str(digits)} if action == "inference" else {}

    def plan() -> Any:
        return Skill().plan(action, spec_overrides={f"{action}.checkpoint": str(folder)}, **data)

    if share is None:
        with pytest.raises(MaeError, match="too little to judge it by") as caught:
            plan()
        assert "correct its crop_pct" in str(caught.value.hint)
        return
    said = [str(one) for one in plan().warnings if "center_crop" in str(one)]
    assert bool(said) == bool(share) and all(f"the middle {share} of" in one for one in said)


def test_one_number_for_all_channels_names_that_do_not_fit_and_a_broken_description(
    digits: Path, tmp_path: Path
) -> None:
    folder = _folder_of_timm(tmp_path / "model", mean=[0.5], std=0.25)

    def plan(**more: Any) -> Any:
        overrides = {"evaluate.checkpoint": str(folder), **more}
        return Skill().plan("evaluate", eval_dataset=str(digits), spec_overrides=overrides)

    taken = plan().spec["dataset"]["augmentation"]
    assert (taken["mean"], taken["std"]) == ([0.5] * 3, [0.25] * 3)
    text = (folder / "config.json").read_text()
    for names in (["a", "b", "c"], ["a", "b", "c", "a"]):
        (folder / "config.json").write_text(json.dumps({**json.loads(text), "label_names": names}))
        with pytest.raises(CheckpointError) as caught:
            plan()
        assert caught.value.field == "dataset.classes" and "label_names" in caught.value.message
    (folder / "config.json").write_text(text)
    (folder / "preprocessor_config.json").write_text("{}")  # which says nothing, and is no fault
    assert plan()
    (folder / "config.json").write_text(text + "}")
    with pytest.raises(CheckpointError, match=r"config\.json of model is no JSON object"):
        plan()


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (
            {"architecture": "vit_base_patch32_384.augreg_in1k"},
            {"model.arch": "vit_base_patch16", "model.patch_size": 32, "model.global_pool": False},
        ),
        (
            {"architecture": "convnextv2_atto.fcmae", "num_classes": 0},
            {"model.arch": "convnextv2_atto"},
        ),
        ({"architecture": "hiera_tiny_224"}, {"model.arch": "hiera_tiny_224"}),
        ({"architecture": "resnet50"}, {}),
        (
            {
                "model_type": "vit",
                "architectures": ["ViTForImageClassification"],
                "hidden_size": 192,
                "num_hidden_layers": 4,
                "num_attention_heads": 3,
                "intermediate_size": 768,
                "patch_size": 8,
                "id2label": {"0": "a", "1": "b", "2": "c"},
            },
            {
                "model.arch": "vit_tiny_patch16",
                "model.patch_size": 8,
                "model.depth": 4,
                "model.global_pool": False,
                "train.stage": "finetune",
                "model.num_classes": 3,
            },
        ),
        (
            {
                "model_type": "convnextv2",
                "hidden_sizes": [40, 80, 160, 320],
                "depths": [2, 2, 6, 2],
            },
            {"model.arch": "convnextv2_atto"},
        ),
        (
            {"model_type": "hiera", "embed_dim": 96, "depths": [1, 2, 7, 2]},
            {"model.arch": "hiera_tiny_224"},
        ),
        ({"model_type": "bert", "hidden_size": 192}, {}),
        ({"mae": {"arch": "vit_tiny_patch16"}, "architecture": "vit_tiny_patch16_224"}, {}),
    ],
)
def test_the_folder_of_a_foreign_model_says_its_architecture(
    tmp_path: Path, config: dict[str, Any], settings: dict[str, Any]
) -> None:
    from mae_skill.weights.config import model_settings

    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_settings(tmp_path) == settings


def test_a_foreign_folder_that_is_opened_alone_names_the_fields_that_take_it(
    tmp_path: Path,
) -> None:
    from mae_runners import load_model

    with pytest.raises(CheckpointError) as caught:
        load_model(_folder_of_timm(tmp_path / "model"))
    assert "evaluate.checkpoint and inference.checkpoint" in str(caught.value.hint)


def test_an_index_of_weights_leads_to_its_folder(digits: Path, tmp_path: Path) -> None:
    index = _folder_of_timm(tmp_path / "model") / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    with pytest.raises(MaeError, match="holds no weights") as caught:
        Skill().plan("train", train_datasets=str(digits), ptm=str(index), spec_overrides=OPEN)
    assert f"name the folder: {tmp_path / 'model'}" in str(caught.value.hint)


def test_a_run_without_a_job_takes_the_preparation_of_the_folder_too(
    digits: Path, tmp_path: Path
) -> None:
    from mae_sdk.plan.layers import resolve_spec

    folder = _folder_of_timm(tmp_path / "model", **HALF)
    given = {
        **OPEN,
        "inference.checkpoint": str(folder),
        "dataset.test_data_sources": str(digits),
    }
    found, _ = resolve_spec(Skill().bundle, "inference", None, given)
    pictures = found.spec["dataset"]["augmentation"]
    assert (pictures["input_size"], pictures["center_crop"]) == (64, 0.95)
    assert pictures["mean"] == HALF["mean"]
    size = {"dataset.augmentation.input_size": 96}
    found, _ = resolve_spec(Skill().bundle, "inference", None, {**given, **size})
    assert found.spec["dataset"]["augmentation"]["input_size"] == 96
    found, _ = resolve_spec(Skill().bundle, "inference", None, given, looks=False)
    assert found.spec["dataset"]["augmentation"]["input_size"] == 224  # a job's spec says all


@pytest.mark.parametrize("bare", [False, True])
def test_a_foreign_model_of_several_labels_answers_with_a_sigmoid_for_each(
    bare: bool, tmp_path: Path
) -> None:
    """By the folder's ``problem_type``, or as the spec says of weights that say nothing."""
    from mae_skill.spec import ExperimentSpec
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        image_size=64,
        id2label={0: "red", 1: "round", 2: "big"},
        label2id={"red": 0, "round": 1, "big": 2},
        problem_type="multi_label_classification",
    )
    theirs = ViTForImageClassification(config).eval()
    theirs.classifier.weight.data.normal_(std=1.0)
    folder, size = tmp_path / "model", {"height": 64, "width": 64}
    theirs.save_pretrained(folder)
    ViTImageProcessor(size=size).save_pretrained(folder)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        photo(number, 64, 64).save(pictures / f"{number}.png")
    given: dict[str, Any] = {"inference.checkpoint": str(folder), "inference.top_k": 3}
    if bare:
        (folder / "config.json").unlink()
        own = {"embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "num_classes": 3}
        given |= {f"model.{name}": value for name, value in own.items()}
        given |= {"model.arch": "vit_tiny_patch16", "model.global_pool": False}
        given |= {"train.stage": "finetune", "model.multi_label": True}

    job = Skill().plan("inference", inference_dataset=str(pictures), spec_overrides=given)
    assert job.spec["model"]["multi_label"] is True
    spec = ExperimentSpec.model_validate(job.spec)
    inference.run(spec, make_context("inference", tmp_path))
    rows = list(csv.DictReader((tmp_path / "inference" / "results.csv").read_text().splitlines()))
    assert len(rows) == 3
    processor = ViTImageProcessor.from_pretrained(folder)
    names = ("0", "1", "2") if bare else ("red", "round", "big")  # a bare file has no names
    for row in rows:
        with torch.no_grad(), Image.open(row["path"]) as picture:
            inputs = processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
            wanted = theirs(inputs).logits.sigmoid()[0]
        found = {row[f"label_{i}"]: float(row[f"probability_{i}"]) for i in (1, 2, 3)}
        close = 2e-3 if bare else 1e-4  # nor does it say its epsilon
        expected = dict(zip(names, wanted.tolist(), strict=True))
        assert found == pytest.approx(expected, abs=close)


@pytest.mark.parametrize("edge", [64, 65, 66, 67, 68, 73])
@pytest.mark.parametrize(("width", "height"), [(97, 97), (97, 120), (121, 90), (134, 67)])
def test_the_cut_is_that_of_a_processor_of_transformers_but_where_it_is_told_to_be_one_off(
    tmp_path: Path, edge: int, width: int, height: int
) -> None:
    from transformers import BitImageProcessor

    processor = BitImageProcessor(
        size={"shortest_edge": edge}, crop_size=64, do_normalize=False, do_rescale=False
    )
    processor.save_pretrained(tmp_path)
    picture = photo(3, width, height).convert("RGB")
    theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0], np.float32)
    augmentation = AugmentationSpec(input_size=[64, 64], center_crop=64 / edge)
    ours = EvalTransform(augmentation).fit(np.asarray(picture)).astype(np.float32)
    off = np.abs(theirs.transpose(1, 2, 0) - ours).max()

    short = min(width, height)
    spare = [int(edge * side / short) - 64 for side in (width, height)]
    assert (off > 2) == any(over % 4 == 3 for over in spare), (off, spare)
    assert "floors" in preparation(tmp_path)


@pytest.mark.parametrize("cuts", [False, True])
def test_a_processor_that_resizes_nothing_is_told_as_such(tmp_path: Path, cuts: bool) -> None:
    found = {"do_resize": False, "size": {"height": 64, "width": 64}}
    if cuts:
        found |= {"do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "image_size": 64}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(found))
    said = preparation(tmp_path)
    assert said["keeps"] and said["input_size"][0] == [64, 64]
    assert "squeezes" not in said and "center_crop" not in said


@pytest.mark.parametrize(
    ("processor", "word"),
    [
        ({"do_resize": False, "size": 64}, "does not resize pictures (do_resize=false)"),
        ({"size": {"height": 64, "width": 64}}, "squeezes whole pictures"),
        (
            {"size": {"shortest_edge": 72}, "do_center_crop": True, "crop_size": 64},
            "it is one pixel off",
        ),
    ],
)
def test_a_plan_says_what_a_processor_of_transformers_does_otherwise(
    tmp_path: Path, processor: dict[str, Any], word: str
) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**shape, intermediate_size=128, image_size=64, id2label={0: "a", 1: "b"})
    ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "pictures").mkdir()
    photo(1, 80, 64).save(tmp_path / "pictures" / "1.png")
    made = Skill().plan(
        "inference",
        inference_dataset=str(tmp_path / "pictures"),
        spec_overrides={"inference.checkpoint": str(tmp_path / "model")},
    )
    told = "\n".join(map(str, [*made.warnings, *made.notices]))
    words = ("does not resize pictures", "squeezes whole pictures", "it is one pixel off")
    assert [one for one in words if one in told] == [one for one in words if one in word]


def test_a_size_that_nobody_set_and_other_ways_to_make_a_square_are_told(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    photo(1, 80, 64).save(pictures / "1.png")

    def warned(folder: Path, word: str, **given: Any) -> list[str]:
        values = {**OPEN, "inference.checkpoint": str(folder), **given}
        made = Skill().plan("inference", inference_dataset=str(pictures), spec_overrides=values)
        return [str(one) for one in made.warnings if word in str(one)]

    padded = _folder_of_timm(tmp_path / "padded", **HALF, crop_mode="border")
    assert warned(padded, "pads pictures that are not square")
    bare = _folder_of_timm(tmp_path / "bare", **HALF)
    assert not warned(bare, "pads pictures") and not warned(bare, "which nobody set")
    (bare / "config.json").unlink()
    file = bare / "model.safetensors"
    size = "dataset.augmentation.input_size"
    (said,) = warned(file, "which nobody set", **{"model.num_classes": 4})
    assert f"set {size}=64" in said
    assert not warned(file, "which nobody set", **{"model.num_classes": 4, size: 64})
