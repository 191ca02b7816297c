"""Rules between fields: each rule once where it speaks, and silence where it should be silent."""

from __future__ import annotations

import ast
import importlib.util
import json
import unicodedata
from pathlib import Path
from typing import Any

import onnx
import pytest
from mae_skill.bundle import Bundle
from mae_skill.classes import class_names, read_class_list
from mae_skill.errors import (
    CheckpointError,
    DataError,
    DependencyError,
    MaeError,
    NotFoundError,
    SpecError,
)
from mae_skill.recipes import RECIPES, Recipe
from mae_skill.resolve import layers_of, resolve
from mae_skill.rules import Facts, Notice, base

from tests.support.folders import write_own_checkpoint

BUNDLE = Bundle.load()
BASE = {
    "dataset.train_data_sources": "/data/train",
    "train.accelerator": "cpu",
    "model.arch": "vit_tiny_patch16",
    "model.decoder_depth": 8,
}
TUNE = {
    **BASE,
    "train.stage": "finetune",
    "train.pretrained_model_path": "/w.pth",
    "dataset.val_data_sources": "/data/val",
}

VIT = {"model.arch": "vit_base_patch16"}
SEGMENT = {**TUNE, "model.task": "segmentation", "model.num_classes": 3}


def run(
    action: str, settings: dict[str, Any], **facts: Any
) -> tuple[dict[str, MaeError], dict[str | None, Notice]]:
    """Errors and warnings of ``settings`` (dotted keys, all set by the user) over the defaults, by
    field.
    """
    layers = layers_of(BUNDLE, action, settings)
    found = resolve(BUNDLE, action, layers, look=lambda spec, well_formed: (Facts(**facts), []))
    return (
        {str(error.field): error for error in found.errors},
        {notice.field: notice for notice in found.warnings},
    )


ERRORS: list[tuple[str, dict[str, Any], dict[str, Any], str, str, type[MaeError]]] = [
    (
        "train",
        {**BASE, "dataset.augmentation.input_size": 100},
        {},
        "dataset.augmentation.input_size",
        "96 or 112",
        SpecError,
    ),
    (
        "train",
        {**BASE, "model.arch": "hiera_tiny_224", "dataset.augmentation.input_size": [224, 230]},
        {},
        "dataset.augmentation.input_size",
        "224 × 224 or 256",
        SpecError,
    ),
    (
        "train",
        {**BASE, "model.patch_size": 8, "dataset.augmentation.input_size": 28},
        {},
        "dataset.augmentation.input_size",
        "24 or 32 × 24 or 32; or model.patch_size=7",
        SpecError,
    ),
    (
        "train",
        {**BASE, "model.patch_size": 1},
        {},
        "model.patch_size",
        "the nearest: 2",
        SpecError,
    ),
    (
        "train",
        {**BASE, "model.arch": "hiera_tiny_224", "model.patch_size": 16},
        {},
        "model.patch_size",
        "the nearest: 4",
        SpecError,
    ),
    (
        "train",
        {**BASE, "dataset.augmentation.input_size": 16},
        {},
        "train.mask_ratio",
        "input_size or a smaller model.patch_size (here 16)",
        SpecError,
    ),
    (
        "train",
        {**BASE, "dataset.augmentation.input_size": 32, "train.mask_ratio": 0.95},
        {},
        "train.mask_ratio",
        "nearer 0.5",
        SpecError,
    ),
    (
        "train",
        {**BASE, "dataset.augmentation.mean": [123.7, 116.3, 103.5]},
        {},
        "dataset.augmentation.mean",
        "divide by 255",
        SpecError,
    ),
    (
        "train",
        {**BASE, "dataset.augmentation.std": [58.0]},
        {},
        "dataset.augmentation.std",
        "divide by 255",
        SpecError,
    ),
    (
        "train",
        {**BASE, "dataset.augmentation.std": [0.2, 1e-5, 0.2]},
        {},
        "dataset.augmentation.std",
        "at least 0.001",
        SpecError,
    ),
    ("train", {**BASE, "train.gpu_ids": [0, 0]}, {}, "train.gpu_ids", "each index once", SpecError),
    (
        "train",
        {**BASE, "train.accelerator": "gpu"},
        {"gpus": 0},
        "train.accelerator",
        "no GPU",
        DependencyError,
    ),
    (
        "train",
        {**BASE, "train.accelerator": "auto", "train.num_gpus": 2},
        {"gpus": 0},
        "train.num_gpus",
        "processes",
        DependencyError,
    ),
    (
        "train",
        {**BASE, "train.accelerator": "auto", "train.num_gpus": 3},
        {"gpus": 2},
        "train.num_gpus",
        "2 GPU",
        DependencyError,
    ),
    (
        "train",
        {**BASE, "model.decoder_num_heads": 7},
        {},
        "model.decoder_num_heads",
        "divisor",
        SpecError,
    ),
    (
        "train",
        {**BASE, "model.decoder_embed_dim": 66, "model.decoder_num_heads": 3},
        {},
        "model.decoder_embed_dim",
        "of 4",
        SpecError,
    ),
    (
        "train",
        {**BASE, "model.num_heads": 5},
        {},
        "model.num_heads",
        "not a multiple of 5",
        SpecError,
    ),
    ("train", {**BASE, "model.embed_dim": 30}, {}, "model.embed_dim", "multiple of 4", SpecError),
    (
        "train",
        {**BASE, "dataset.augmentation.min_scale": 3.0},
        {},
        "dataset.augmentation.min_scale",
        "max_scale",
        SpecError,
    ),
    (
        "train",
        {**BASE, "dataset.augmentation.min_ratio": 2.0},
        {},
        "dataset.augmentation.min_ratio",
        "max_ratio",
        SpecError,
    ),
    ("train", TUNE, {"classes": 0}, "dataset.train_data_sources", "no labels", DataError),
    (
        "evaluate",
        {**TUNE, "dataset.val_data_sources": "/val", "evaluate.checkpoint": "/a.pth"},
        {"classes": 0},
        "dataset.val_data_sources",
        "no labels",
        DataError,
    ),
    ("train", TUNE, {"classes": 10}, "model.num_classes", "num_classes=10", SpecError),
    (
        "train",
        {**BASE, "model.task": "segmentation"},
        {},
        "model.task",
        "train.stage=finetune",
        SpecError,
    ),
    (
        "train",
        {**SEGMENT, "dataset.segmentation.class_list": ["cat", "dog"]},
        {},
        "model.num_classes",
        "class_list names 2 classes",
        SpecError,
    ),
    (
        "train",
        {**SEGMENT, "dataset.segmentation.class_list": ["cat", "dog", "cat"]},
        {},
        "dataset.segmentation.class_list",
        "'cat' twice",
        DataError,
    ),
    (
        "train",  # 1 … 3 are the classes, and 0 is unlabeled
        {**SEGMENT, "dataset.segmentation.ignore_index": 3},
        {},
        "dataset.segmentation.ignore_index",
        "number of one of the 3",
        SpecError,
    ),
    (
        "train",
        {**SEGMENT, "dataset.segmentation.ignore_index": 2},
        {},
        "dataset.segmentation.ignore_index",
        "number of one of the 3",
        SpecError,
    ),
    (
        "train",
        {**SEGMENT, "dataset.augmentation.input_size": 16},
        {},
        "dataset.augmentation.input_size",
        "two patches per side",
        SpecError,
    ),
    (
        "train",
        {**SEGMENT, "dataset.augmentation.segmentation.scale_jitter": [2.0, 0.5]},
        {},
        "dataset.augmentation.segmentation.scale_jitter",
        "above the largest",
        SpecError,
    ),
    (
        "train",
        {**BASE, "train.optim.lr_scheduler": "cosine", "train.optim.min_lr": 1.0},
        {},
        "train.optim.min_lr",
        "at most",
        SpecError,
    ),
    (
        "train",
        {**BASE, "train.optim.monitor_name": "val_loss"},
        {},
        "train.optim.monitor_name",
        "validation data",
        SpecError,
    ),
    ("train", {}, {}, "dataset.train_data_sources", "a folder, an archive or a URL", DataError),
    (
        "evaluate",
        {"evaluate.checkpoint": "/a.pth"},
        {},
        "dataset.val_data_sources",
        "a folder, an archive or a URL",
        DataError,
    ),
    (
        "inference",
        {"inference.checkpoint": "/a.pth"},
        {},
        "dataset.test_data_sources",
        "a folder, an archive or a URL",
        DataError,
    ),
    (
        "evaluate",
        {"dataset.val_data_sources": "/v"},
        {},
        "evaluate.checkpoint",
        "parent",
        SpecError,
    ),
    ("export", {}, {}, "export.checkpoint", "parent", SpecError),
    ("gen_trt_engine", {}, {}, "gen_trt_engine.onnx_file", "parent", SpecError),
    (
        "inference",
        {
            "dataset.test_data_sources": "/t",
            "inference.checkpoint": "/a.pth",
            "inference.trt_engine": "/a.engine",
        },
        {},
        "inference.trt_engine",
        "one of the two",
        SpecError,
    ),
    (
        "export",
        {
            "model.arch": "vit_huge_patch14",
            "export.checkpoint": "/a.pth",
            "export.input_width": 224,
            "export.input_height": 230,
        },
        {},
        "export.input_height",
        "224 or 238",
        SpecError,
    ),
]


@pytest.mark.parametrize(
    ("action", "settings", "facts", "field", "says", "kind"),
    ERRORS,
    ids=[f"{row[3]}-{row[4]}" for row in ERRORS],
)
def test_a_broken_rule_is_one_error_at_its_field(
    action: str,
    settings: dict[str, Any],
    facts: dict[str, Any],
    field: str,
    says: str,
    kind: type[MaeError],
) -> None:
    errors, _ = run(action, settings, **facts)
    assert list(errors) == [field]
    assert type(errors[field]) is kind
    assert says in str(errors[field])


WARNINGS: list[tuple[dict[str, Any], dict[str, Any], str | None, str]] = [
    (
        {**BASE, "train.num_gpus": 1, "train.gpu_ids": [0, 1]},
        {},
        "train.num_gpus",
        "2 devices are used, the larger setting",
    ),
    ({**BASE, "train.accelerator": "auto"}, {"gpus": 0}, "train.accelerator", "one CPU process"),
    (
        {**BASE, "train.distributed_strategy": "fsdp", "train.accelerator": "gpu"},
        {},
        "train.precision",
        "half precision",
    ),
    (
        {**BASE, "train.distributed_strategy": "fsdp"},
        {},
        "train.distributed_strategy",
        "has no effect",
    ),
    (SEGMENT, {"effective_batch": 1}, "dataset.batch_size", "see 1 image at a time"),
    ({**BASE, "train.num_gpus": 2}, {}, None, "OMP_NUM_THREADS=1"),
    (
        {**TUNE, "dataset.val_data_sources": None},
        {},
        "dataset.val_data_sources",
        "chosen by train_loss",
    ),
    (
        {**TUNE, "train.pretrained_model_path": None},
        {},
        "train.pretrained_model_path",
        "from scratch",
    ),
    (
        {**BASE, "train.optim.warmup_epochs": 40, "train.num_epochs": 1},
        {},
        "train.optim.warmup_epochs",
        "never reaches its peak",
    ),
    (
        {**BASE, "train.optim.warmup_epochs": 5, "train.num_epochs": 10},
        {},
        "train.optim.warmup_epochs",
        "take half of the run of 10 or more",
    ),
    (
        {**TUNE, "dataset.augmentation.input_size": 384},
        {},
        "dataset.augmentation.center_crop",
        "0.875 at 384 pixels, where the published protocols evaluate at 1 above 224",
    ),
    (BASE, {}, "train.optim.milestones", "beyond the run of 10 epochs"),
    ({**BASE, "train.mask_ratio": 0.3}, {}, "train.mask_ratio", "the paper of ViT-Ti/16 uses 0.75"),
    ({**BASE, "model.decoder_depth": 1}, {}, "model.decoder_depth", "uses 8"),
    (
        {**BASE, "dataset.batch_size": 64},
        {"images": 10, "effective_batch": 64},
        "dataset.batch_size",
        "larger than the 10",
    ),
    ({**BASE, "train.precision": "fp16"}, {}, "train.precision", "the run uses bf16"),
    ({**BASE, "train.num_gpus": 512}, {"cores": 2}, "train.num_gpus", "512 processes on the 2"),
    (
        {**BASE, "dataset.num_workers_per_gpu": 1000},
        {"cores": 2},
        "dataset.num_workers_per_gpu",
        "1000 processes read pictures on the 2 cores",
    ),
    (
        {**BASE, **VIT, "train.optim.lr": 0.01},
        {"effective_batch": 256},
        "train.optim.lr",
        "vit_base_pretrain would be 0.00015 to 0.0006",
    ),
    (
        {**BASE, **VIT, "train.optim.lr": 1e-6},
        {"effective_batch": 4096},
        "train.optim.lr",
        "vit_base_pretrain would be 0.0024",
    ),
    (
        {**BASE, **VIT},
        {"effective_batch": 8},
        "dataset.batch_size",
        "an effective batch of 8 where mae_vit_base_pretrain trains with 4096",
    ),
    (
        {**BASE, "train.probe.interval": 1},
        {},
        "train.probe.interval",
        "only when dataset.probe_train_data_sources",
    ),
]

EARLY = {**TUNE, "train.early_stopping.patience": 3}
MONITOR = "train.optim.monitor_name"
LABELS = "dataset.labels."
UNEQUAL = {
    "dataset.train_data_sources": {"images": 209, "class_counts": {"a": 203, "b": 3, "c": 3}}
}
WARNINGS += [
    (EARLY, {}, MONITOR, "goes on falling while a model overfits"),
    ({**EARLY, "train.validation_interval": 2}, {}, MONITOR, f"{MONITOR}=val_loss"),
    (
        {**BASE, "dataset.val_data_sources": "/v", "train.early_stopping.patience": 3},
        {},
        MONITOR,
        "v",
    ),
    ({**TUNE, MONITOR: "val_loss"}, {}, MONITOR, "has no effect: the accuracy"),
    (
        {**EARLY, MONITOR: "val_loss", "train.validation_interval": 4},
        {},
        "train.early_stopping.patience",
        "3 validations without a better one do not come in a run of 10 epochs, with one every 4",
    ),
    (
        {**TUNE, "dataset.val_data_sources": None, LABELS + "val": "/t.csv"},
        {},
        LABELS + "val",
        "name dataset.val_data_sources, or leave it out",
    ),
    (
        {
            **TUNE,
            "dataset.val_data_sources": None,
            "dataset.val_fraction": 0.2,
            LABELS + "val": "/t.csv",
        },
        {},
        LABELS + "val",
        "a held-out share has those of the training images",
    ),
    (
        {
            **SEGMENT,
            "dataset.val_data_sources": None,
            "dataset.segmentation.val_mask_sources": "/m",
        },
        {},
        "dataset.segmentation.val_mask_sources",
        "has no effect",
    ),
    (
        {**TUNE, "dataset.augmentation.re_prob": 1.0},
        {},
        "dataset.augmentation.re_prob",
        "none is seen whole",
    ),
    (
        {**TUNE, "model.num_classes": 3},
        {"data": UNEQUAL},
        "dataset.train_data_sources",
        (
            "a (203) has 20 times as many images as b (3), c (3) or more (up to 68 times), so that "
            "always answering a gives an accuracy of 97%: judge by balanced_accuracy"
        ),
    ),
]


@pytest.mark.parametrize(
    ("settings", "facts", "field", "says"),
    WARNINGS,
    ids=[f"{row[2]}-{row[3][:20]}" for row in WARNINGS],
)
def test_a_doubtful_setting_is_a_warning_and_no_error(
    settings: dict[str, Any],
    facts: dict[str, Any],
    field: str | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    errors, warnings = run("train", settings, **facts)
    assert errors == {}
    assert says in str(warnings[field])


@pytest.mark.parametrize(
    ("settings", "data"),
    [
        ({**EARLY, MONITOR: "val_loss"}, {}),
        ({**EARLY, MONITOR: "train_loss"}, {}),  # somebody says so
        ({**EARLY, "dataset.val_data_sources": None}, {}),
        ({**BASE, "dataset.val_data_sources": "/v", MONITOR: "val_loss"}, {}),  # of the best one
        ({**TUNE, LABELS + "val": "/t.csv", LABELS + "train": "/t.csv"}, {}),
        ({**TUNE, "dataset.augmentation.re_prob": 0.5}, {}),
        ({**TUNE, "dataset.augmentation.min_scale": 1.0}, {}),
        ({**TUNE, "train.class_weights": "balanced"}, UNEQUAL),
        ({**TUNE, "dataset.balanced_sampling": True}, UNEQUAL),
        (BASE, UNEQUAL),
        (TUNE, {"dataset.train_data_sources": {"images": 22, "class_counts": {"a": 19, "b": 1}}}),
    ],
)
def test_a_setting_that_is_meant_is_not_doubted(
    settings: dict[str, Any], data: dict[str, Any]
) -> None:
    errors, warnings = run("train", settings, data=data)
    fields = (MONITOR, LABELS + "val", "dataset.augmentation.re_prob")
    assert errors == {} and not {*fields} & {*warnings}
    assert "unequal" not in str(warnings)


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        ({"max_scale": 0.01}, "max_scale", "is below min_scale=0.1"),
        ({"max_scale": 0.01, "min_scale": 0.1}, "min_scale", "is above max_scale=0.01"),
        ({"max_ratio": 0.5}, "max_ratio", "is below min_ratio=0.75"),
        ({"min_ratio": 2.0}, "min_ratio", "is above max_ratio"),
        ({"min_scale": 2.0}, "min_scale", "no crop is larger than its picture"),
        ({"min_scale": 2.0, "max_scale": 3.0}, "min_scale", "no crop is larger than its picture"),
    ],
)
def test_of_two_bounds_the_one_that_somebody_set_is_named(
    given: dict[str, float], field: str, says: str
) -> None:
    of = "dataset.augmentation."
    errors, _ = run("train", {**TUNE, **{of + name: value for name, value in given.items()}})
    assert list(errors) == [of + field]
    assert says in str(errors[of + field])


VAIN = [
    (BASE, "train.optim.layer_decay", 0.9, "train.pretrained_model_path is set (here: null)"),
    (
        BASE,
        "train.optim.backbone_multiplier",
        1.0,
        "train.pretrained_model_path is set (here: null)",
    ),
    (BASE, "model.drop_path_rate", 0.3, "(here: pretrain)"),
    (BASE, "model.global_pool", False, "(here: pretrain)"),
    (BASE, "dataset.augmentation.mixup", 0.2, "(here: pretrain)"),
    (TUNE, "train.mask_ratio", 0.6, "(here: finetune)"),
    (TUNE, "model.decoder_depth", 4, "(here: finetune)"),
    (
        {**TUNE, "train.pretrained_model_path": None},
        "train.optim.layer_decay",
        0.9,
        "train.pretrained_model_path",
    ),
    (BASE, "train.optim.min_lr", 1e-6, "(here: MultiStep)"),
    (
        {**BASE, "train.optim.lr_scheduler": "cosine"},
        "train.optim.gamma",
        0.5,
        "(here: cosine)",
    ),
    ({**BASE, "model.arch": "hiera_tiny_224"}, "model.depth", 4, "(here: hiera_tiny_224)"),
    (BASE, "wandb.project", "mine", "wandb.enable=true (here: false)"),
    (TUNE, "model.segmentation.channels", 64, "(here: classification)"),
    (TUNE, "dataset.segmentation.reduce_zero_label", False, "(here: classification)"),
    (SEGMENT, "dataset.augmentation.mixup", 0.2, "(here: segmentation)"),
    (SEGMENT, "dataset.augmentation.min_scale", 0.2, "(here: segmentation)"),
    (
        {**SEGMENT, "model.segmentation.auxiliary_weight": 0.0},
        "model.segmentation.auxiliary_channels",
        64,
        "is more than 0 (here: 0.0)",
    ),
]


@pytest.mark.parametrize(
    ("settings", "key", "value", "why"), VAIN, ids=[f"{row[1]}-{row[3]}" for row in VAIN]
)
def test_a_setting_without_effect_is_named_with_the_reason_and_a_default_is_not(
    settings: dict[str, Any], key: str, value: Any, why: str
) -> None:
    _, warnings = run("train", {**settings, key: value})
    assert "has no effect" in warnings[key].message
    assert why in warnings[key].message
    _, silent = run("train", {other: item for other, item in settings.items() if other != key})
    assert "has no effect" not in str(silent.get(key))


def test_warm_up_acts_with_every_scheduler_and_is_never_called_without_effect() -> None:
    for scheduler in ("MultiStep", "cosine", "poly"):
        _, warnings = run(
            "train", {**BASE, "train.optim.warmup_epochs": 3, "train.optim.lr_scheduler": scheduler}
        )
        assert "train.optim.warmup_epochs" not in warnings


def test_fields_of_other_stages_are_no_matter_for_actions_that_are_handed_whole_specs() -> None:
    settings = {
        "dataset.val_data_sources": "/v",
        "evaluate.checkpoint": "/a.pth",
        "train.optim.layer_decay": 0.9,
        "model.drop_path_rate": 0.3,
    }
    errors, warnings = run("evaluate", settings)
    assert errors == {}
    assert not any("no effect" in str(notice) for notice in warnings.values())


def test_a_fact_that_is_not_known_is_not_judged() -> None:
    errors, warnings = run("train", TUNE)
    assert errors == {}
    assert set(warnings) == {"train.optim.milestones", "model.decoder_depth"}


def test_data_that_was_named_but_not_found_is_reported_once() -> None:
    missing = DataError("no data was found", field="train_datasets")
    layers = layers_of(BUNDLE, "train", {"train.accelerator": "cpu"})
    assert resolve(BUNDLE, "train", layers, problems=[missing]).errors == [missing]


def test_a_notice_is_plain_data() -> None:
    assert Notice("train.seed", "why").to_dict() == {"field": "train.seed", "message": "why"}
    assert str(Notice(None, "why")) == "why"


def test_a_segmenter_needs_no_class_folders_and_its_default_number_of_classes_is_explained() -> (
    None
):
    errors, _ = run("train", SEGMENT, classes=7)
    assert errors == {}
    errors, _ = run(
        "train", {key: value for key, value in SEGMENT.items() if key != "model.num_classes"}
    )
    assert list(errors) == ["dataset.segmentation.ignore_index"]
    said = str(errors["dataset.segmentation.ignore_index"])
    assert "the default of model.num_classes, which nobody has set" in said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "cat\n\n dog \nbird\n"),
        ("names.yaml", "[cat, dog, bird]"),
        ("names.yml", "- cat\n- dog\n- bird\n"),
    ],
)
def test_a_class_list_is_text_or_yaml(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert read_class_list(str(path)) == class_names(str(path), 3) == ["cat", "dog", "bird"]
    errors, _ = run("train", {**SEGMENT, "dataset.segmentation.class_list": str(path)})
    assert errors == {}
    errors, _ = run(
        "train", {**SEGMENT, "dataset.segmentation.class_list": str(path), "model.num_classes": 4}
    )
    assert list(errors) == ["model.num_classes"] and "set model.num_classes=3" in str(
        errors["model.num_classes"]
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a list of names"),
        ("a: 1", "not a list of names"),
        ("[1, null]", "not a list"),
        ("[]", "empty"),
    ],
)
def test_a_file_that_lists_no_names_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(text)
    errors, _ = run("train", {**SEGMENT, "dataset.segmentation.class_list": str(path)})
    assert says in str(errors["dataset.segmentation.class_list"])


@pytest.mark.parametrize("twice", [["2", "0", "2"], ["caf\u00e9", "cafe\u0301"]])
def test_a_class_is_asked_for_once_for_its_place_is_its_label(twice: list[str]) -> None:
    field = "dataset.classes"
    for action in ("train", "evaluate"):
        error = run(action, {**TUNE, field: twice})[0][field]
        assert error.got == twice and "more than once" in error.message
        once = list(dict.fromkeys(unicodedata.normalize("NFC", name) for name in twice))
        assert error.hint == f"'{field}={json.dumps(once, ensure_ascii=False)}'"
        assert field not in run(action, {**TUNE, field: [*once, "other"]})[0]
    assert field not in run("inference", {**TUNE, field: twice})[0]  # which takes every picture
    columns = "dataset.labels.columns"
    several = {**TUNE, "model.multi_label": True, "dataset.labels.train": "/t.csv"}
    assert run("train", {**several, columns: twice})[0][columns].got == twice
    assert columns not in run("train", {**several, columns: once})[0]


@pytest.mark.parametrize(
    ("action", "field", "value", "acts"),
    [
        ("inference", "dataset.classes", ["a", "b"], False),
        ("evaluate", "dataset.classes", ["a", "b"], True),
        ("evaluate", "dataset.train_fraction", 0.1, False),
        ("export", "dataset.val_fraction", 0.1, False),
        ("train", "dataset.train_fraction", 0.1, True),
    ],
)
def test_pictures_that_are_chosen_for_an_action_that_reads_all_are_warned_of(
    action: str, field: str, value: Any, acts: bool
) -> None:
    def said(spec: dict[str, Any], overrides: dict[str, Any]) -> list[str]:
        layers = layers_of(BUNDLE, action, spec, overrides)
        found = resolve(BUNDLE, action, layers, look=lambda spec, well_formed: (Facts(), []))
        return [str(one) for one in found.warnings if one.field == field]

    assert bool(said({}, {field: value})) != acts
    assert all("has no effect" in text for text in said({}, {field: value}))
    assert said({field: value}, {}) == []  # a spec file is handed to every action as it is


def test_ade20k_has_its_150_names_in_order() -> None:
    names = class_names(None, 150)
    assert len(set(names)) == 150
    assert (names[0], names[12], names[149]) == ("wall", "person", "flag")
    assert class_names(None, 2) == ["0", "1"]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_a_recipe_at_its_papers_batch_is_near_itself(recipe: Recipe) -> None:
    _, warnings = run("train", {**BASE, **recipe.settings}, effective_batch=recipe.batch)
    assert not {"train.optim.lr", "dataset.batch_size"} & set(warnings)


def with_recipe(name: str, **settings: Any) -> dict[str | None, Notice]:
    """Warnings of a published recipe with some settings beside it, at a batch of 512."""
    given = {"dataset.train_data_sources": "/data/train", **settings}
    layers = layers_of(BUNDLE, "train", given, recipe=name)
    facts = Facts(effective_batch=512, images=1_200_000)
    found = resolve(BUNDLE, "train", layers, look=lambda spec, well_formed: (facts, []))
    return {notice.field: notice for notice in found.warnings}


def test_a_rate_of_a_recipe_that_does_not_follow_another_batch_is_warned_of() -> None:
    said = with_recipe("hiera_tiny_pretrain", **{"train.num_epochs": 100})
    batch = said["dataset.batch_size"]
    assert "hiera_tiny_pretrain 4096, and the rate does not follow it" in batch.message
    assert "train.accum_grad_batches=8" in batch.message and batch.serious
    assert "40 epochs of warm-up of the recipe" in said["train.optim.warmup_epochs"].message
    assert "train.optim.warmup_epochs=5" in said["train.optim.warmup_epochs"].message

    follows = with_recipe("mae_vit_base_pretrain")
    assert not {"dataset.batch_size", "train.optim.warmup_epochs"} & follows.keys()


def test_the_default_rate_is_near_the_recipe_at_a_batch_of_one_machine() -> None:
    assert "train.optim.lr" not in run("train", {**BASE, **VIT}, effective_batch=64)[1]


def test_files_that_are_named_for_this_machine_must_be_there(tmp_path: Path) -> None:
    settings = {"train.pretrained_model_path": "/nowhere/at/all"}
    for local, expected in (
        (False, []),
        (True, [("train.pretrained_model_path", "/nowhere/at/all")]),
    ):
        errors, _ = run("train", {**BASE, **settings}, local_files=local)
        assert [(error.field, error.got) for error in errors.values()] == expected
    url = {"train.resume_training_checkpoint_path": "s3://bucket/some.pth"}
    (error,) = run("train", {**BASE, **url})[0].values()
    assert "a URL is not read here" in error.message


RESUMED = "train.resume_training_checkpoint_path"
CALIBRATION = "gen_trt_engine.tensorrt.calibration.cal_cache_file"


def file_of(folder: Path, kind: str) -> Path:
    """A file, or a folder, of a kind."""
    path = folder / kind
    if kind == "folder":
        (path / "train").mkdir(parents=True)
        (path / "train/model_epoch_003.pth").touch()
    elif kind in ("pretrain", "finetune"):
        meta = {"arch": BASE["model.arch"], "stage": kind, "input_size": [224, 224]}
        write_own_checkpoint(path, position={}, **meta)
    elif kind == "no position":
        write_own_checkpoint(path, stage="pretrain", arch=BASE["model.arch"])
    else:
        path.write_bytes({"picture": b"\x89PNG\r\n\x1a\n\0\0", "bytes": b"\xfe\0\xff"}[kind])
    return path


@pytest.mark.parametrize(
    ("action", "field", "kind", "says"),
    [
        ("train", RESUMED, "picture", "a picture (PNG)"),
        ("train", RESUMED, "folder", "the newest there is train/model_epoch_003.pth"),
        ("train", RESUMED, "bytes", "a file of an unknown kind"),
        ("train", RESUMED, "finetune", "expected finetune"),
        ("train", RESUMED, "no position", "holds no training position"),
        ("train", "dataset.segmentation.class_list", "folder", "there is no such file"),
        ("train", "dataset.segmentation.class_list", "nothing", "there is no such file"),
        ("train", "dataset.segmentation.class_list", "bytes", "it is no text in UTF-8"),
        ("evaluate", "evaluate.checkpoint", "picture.onnx", "a picture (PNG)"),
        ("inference", "inference.checkpoint", "picture.engine", "is no engine"),
        ("evaluate", "evaluate.trt_engine", "folder", "is no engine"),
        ("inference", "inference.trt_engine", "finetune", "weights of PyTorch"),
        ("export", "export.checkpoint", "picture.onnx", "no model that can be exported"),
        ("gen_trt_engine", "gen_trt_engine.onnx_file", "picture", "a picture (PNG)"),
        ("gen_trt_engine", "gen_trt_engine.onnx_file", "folder", "this is a folder"),
        ("gen_trt_engine", "gen_trt_engine.timing_cache", "picture", "it is a picture (PNG)"),
        ("gen_trt_engine", CALIBRATION, "finetune", "it is weights of PyTorch"),
    ],
)
def test_a_file_of_another_kind_than_its_field_wants_is_an_error_of_the_plan(
    action: str, field: str, kind: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "nothing"
    if kind != "nothing":
        path = file_of(tmp_path, kind.partition(".")[0])
        path = path.rename(path.with_name(kind))
    base = (SEGMENT if "class_list" in field else BASE) if action == "train" else {}
    errors, _ = run(action, {**base, field: str(path)}, local_files=True)
    found = errors["train.stage" if kind == "finetune" and action == "train" else field]
    text = f"{found.message}; got {found.got}; expected {found.expected}; {found.hint}"
    assert says in text
    elsewhere, _ = run(action, {**base, field: str(path)}, local_files=False)
    assert field not in elsewhere or "UTF-8" in says  # a list that is here is read in any case


@pytest.mark.parametrize(("asked", "fits"), [(0, True), (39, True), (40, False), (41, False)])
def test_no_more_neighbors_are_listed_than_there_are_other_images(asked: int, fits: bool) -> None:
    settings = {"inference.neighbors": asked, "inference.checkpoint": "/m.pth"}
    errors, _ = run("inference", settings, judged=40)
    assert ("inference.neighbors" not in errors) == fits
    if not fits:
        assert errors["inference.neighbors"].expected == "at most 39, of 40 images; 0 = none"


def test_a_run_goes_on_from_a_checkpoint_of_its_stage_and_architecture(tmp_path: Path) -> None:
    settings = {**BASE, RESUMED: str(file_of(tmp_path, "pretrain"))}
    assert run("train", settings, local_files=True)[0] == {}


@pytest.mark.parametrize(
    ("action", "key", "place", "says"),
    [
        ("train", "results_dir", "s3://bucket/results", "--results-root URL"),
        ("train", "train.results_dir", "file:///data/out", "written to a URL"),
        ("train", "results_dir", "$HOME/out", "variable of the environment"),
        ("inference", "inference.results_dir", "%USERPROFILE%", "variable of the environment"),
        ("export", "export.onnx_file", "gs://bucket/model.onnx", "mae run export"),
        ("gen_trt_engine", "gen_trt_engine.trt_engine", "$OUT/m.engine", "variable"),
    ],
)
def test_results_go_to_a_path_and_never_into_a_folder_named_like_a_url(
    action: str, key: str, place: str, says: str
) -> None:
    settings = BASE if action == "train" else {}
    errors, _ = run(action, {**settings, key: place})
    assert says in str(errors[key])
    for path in ("/data/out", "out/$1", "~/out"):
        found = run(action, {**settings, key: path})[0].get(key)
        assert found is None or found.message == "must end in .onnx"


@pytest.mark.parametrize(
    ("arch", "settings", "field", "said"),
    [
        ("hiera_tiny_224", {"model.depth": 2}, "model.depth", "only ViT"),
        ("convnextv2_atto", {"model.embed_dim": 64}, "model.embed_dim", "only ViT"),
        ("convnextv2_atto", {"model.mlp_ratio": 2.0}, "model.mlp_ratio", "only ViT"),
        ("hiera_tiny_224", {"model.num_heads": 2}, "model.num_heads", "only ViT"),
        (
            "vit_tiny_patch16",
            {"model.embed_dim": 32_768, "model.depth": 256, "model.num_heads": 64},
            "model.embed_dim",
            "weights",
        ),
        (
            "vit_tiny_patch16",
            {"model.decoder_embed_dim": 32_768, "model.decoder_depth": 256},
            "model.decoder_embed_dim",
            "weights",
        ),
        ("vit_tiny_patch16", {"train.freeze": ["block"]}, "train.freeze", "no module"),
        ("vit_tiny_patch16", {"train.freeze": ["blocks.12"]}, "train.freeze", "no module"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_in_the_plan(
    arch: str, settings: dict[str, Any], field: str, said: str
) -> None:
    errors, _ = run("train", {**BASE, "model.arch": arch, **settings})
    assert list(errors) == [field]
    assert said in str(errors[field])


POLICIES = ["rand-m9-mstd0.5-inc1", "rand", "rand-n3-p0.5-mmax10-tweights", "rand-mstd101-t3a"]
POLICIES += [
    "augmix-m3-w3",
    "augmix-d2-b1-a0.5",
    "original",
    "originalr-mstd0.5",
    "v0",
    "v0r",
    "3a",
]
NO_POLICIES = [
    "rando",
    "rand-m9.5",
    "rand-x9",
    "rand-mstdx",
    "rand-m",
    "rand-n0",
    "rand m9",
    "auto",
]
NO_POLICIES += [
    "augmix-w0",
    "v1",
    "original-m9",
    "rand-p2",
    "rand-",
    "Rand-m9",
    "rand-m²",
    "-",
    " ",
]


@pytest.mark.parametrize("text", POLICIES + NO_POLICIES)
def test_a_policy_of_augmentation_is_judged_as_timm_reads_it(text: str) -> None:
    errors, _ = run("train", {**BASE, "dataset.augmentation.auto_aug": text})
    assert list(errors) == ([] if text in POLICIES else ["dataset.augmentation.auto_aug"])


def test_upstreams_two_types_of_an_engine_are_read_as_half_precision() -> None:
    layers = layers_of(BUNDLE, "gen_trt_engine", {"gen_trt_engine.tensorrt.data_type": "fp32,fp16"})
    found = resolve(BUNDLE, "gen_trt_engine", layers)
    assert found.spec["gen_trt_engine"]["tensorrt"]["data_type"] == "fp16"
    assert "'fp32,fp16' is 'fp16'" in str(found.provenance["gen_trt_engine.tensorrt.data_type"])


def test_logging_without_a_key_is_a_warning_and_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))

    def said(**facts: Any) -> bool:
        errors, warnings = run("train", {**BASE, "wandb.enable": True}, **facts)
        assert errors == {}
        return "wandb.enable" in warnings

    assert said()
    assert said(variables=frozenset(), local_files=True)
    if importlib.util.find_spec("wandb"):
        assert not said(variables=frozenset({"WANDB_API_KEY"}), local_files=True)
        monkeypatch.setenv("WANDB_MODE", "offline")
        assert not said()


SHORT = {"steps_per_epoch": 5, "effective_batch": 8, "images": 40}
"""Fifty steps in the ten epochs of `BASE`."""
AUG, AUTO_AUG = "dataset.augmentation.", "dataset.augmentation.auto_aug"
OF_WEIGHTS = {"train.stage": "finetune", "train.pretrained_model_path": "/w.pth"}
COUNTS = {"data": {"dataset.train_data_sources": {"class_counts": dict.fromkeys("abc", 5)}}}


@pytest.mark.parametrize(
    ("settings", "field", "said"),
    [
        ({"train.ema_decay": 0.9999}, "train.ema_decay", "after the 50 steps of this run 100%"),
        ({"train.ema_decay": 0.99}, "train.ema_decay", "at most 0.9 for 50 steps"),
        ({"train.optim.lr": 1e-10}, "train.optim.lr", "nothing is learned"),
        ({"train.optim.lr": 1e-9}, "train.optim.lr", "nothing is learned"),
        ({"train.optim.lr": 5, "train.optim.weight_decay": 0}, "train.optim.lr", "rate of 5 moves"),
        ({"train.optim.lr": 1e4}, "train.optim.lr", "nothing that is learned stays"),
        (
            {"train.optim.lr": 40, "train.optim.lr_scaling": "linear"},
            "train.optim.lr",
            "1.2 (after lr_scaling) moves",
        ),
        (
            {"train.optim.lr": 0.5, "train.optim.weight_decay": 0.2},
            "train.optim.lr",
            "0.1 of every",
        ),
        (
            {"train.optim.lr": 1e-3, "train.optim.weight_decay": 500},
            "train.optim.weight_decay",
            "takes 0.5 of every weight",
        ),
        ({"dataset.augmentation.color_jitter": 100}, f"{AUG}color_jitter", "one shade"),
        ({f"{AUG}center_crop": 0.01}, f"{AUG}center_crop", "the middle 0.01% of the area"),
        ({f"{AUG}min_ratio": 500, f"{AUG}max_ratio": 1000}, f"{AUG}min_ratio", "squeezed"),
        ({f"{AUG}min_ratio": 0.001, f"{AUG}max_ratio": 0.01}, f"{AUG}max_ratio", "squeezed"),
        ({**OF_WEIGHTS, f"{AUG}smoothing": 0.99}, f"{AUG}smoothing", "hardly tell"),
        ({**OF_WEIGHTS, "model.drop_path_rate": 0.999999}, "model.drop_path_rate", "skipped"),
        (
            {**SEGMENT, f"{AUG}segmentation.scale_jitter": [0.01, 0.01]},
            f"{AUG}segmentation.scale_jitter",
            "shrunk to 0.01",
        ),
        (
            {**SEGMENT, f"{AUG}segmentation.scale_jitter": [50, 100]},
            f"{AUG}segmentation.scale_jitter",
            "a crop sees 0.0004 of it",
        ),
        ({"train.clip_grad_norm": 1e-9}, "train.clip_grad_norm", "vanish in the optimizer"),
        ({"model.mlp_ratio": 1e-9}, "model.mlp_ratio", "leaves no hidden unit"),
        ({"train.optim.warmup_epochs": 10**5}, "train.optim.warmup_epochs", "a thousandth"),
        (
            {"train.early_stopping.min_delta": 100, "train.early_stopping.patience": 2},
            "train.early_stopping.min_delta",
            "ends after 3 epochs whatever it learns",
        ),
        (
            {"dataset.augmentation.mean": [-1e6]},
            "dataset.augmentation.mean",
            "is of other pixels than those in 0",
        ),
        (
            {**OF_WEIGHTS, "train.optim.backbone_multiplier": 1e4},
            "train.optim.backbone_multiplier",
            "what was pretrained is lost",
        ),
        (
            {**OF_WEIGHTS, "train.optim.layer_decay": 3},
            "train.optim.layer_decay",
            "what was pretrained is lost",
        ),
        ({"train.freeze": ["encoder"]}, "train.freeze", "random initial weights"),
        ({"train.freeze": ["patch_embed", "blocks"]}, "train.freeze", "random initial weights"),
        (
            {"train.freeze": [f"blocks.{at}" for at in range(12)]},
            "train.freeze",
            "random initial weights",
        ),
        (
            {"train.freeze": ["stages"], "model.arch": "convnextv2_atto"},
            "train.freeze",
            "random initial weights",
        ),
        (
            {"train.freeze": ["encoder.blocks"], "train.stage": "finetune"},
            "train.freeze",
            "from scratch would leave all blocks",
        ),
    ],
)
def test_settings_that_leave_the_model_untrained_are_refused(
    settings: dict[str, Any], field: str, said: str
) -> None:
    errors, _ = run("train", {**BASE, **settings}, **SHORT)
    assert list(errors) == [field]
    assert said in str(errors[field])


def test_a_baseline_of_random_features_is_trained_by_who_says_that_there_are_no_weights() -> None:
    settings = {**BASE, "train.stage": "finetune", "train.freeze": ["encoder"]}
    errors, _ = run("train", settings)
    assert "train.pretrained_model_path=null says" in str(errors["train.freeze"].hint)
    meant = {**settings, "train.pretrained_model_path": None}
    errors, warnings = run("train", meant)
    assert errors == {} and "a baseline of random features" in str(warnings["train.freeze"])
    errors, _ = run("train", {**meant, "train.stage": "pretrain"})
    assert "random features" not in str(errors["train.freeze"].hint)


@pytest.mark.parametrize(
    ("base", "settings", "field", "said"),
    [
        (BASE, {"train.ema_decay": 0.95}, "train.ema_decay", "8% of the average"),
        (
            BASE,
            {"dataset.augmentation.mean": [1, 1, 1], "dataset.augmentation.std": [0.001]},
            "dataset.augmentation.std",
            "becomes a value 1,000 from 0",
        ),
        (BASE, {"train.optim.weight_decay": 100}, "train.optim.weight_decay", "0.02 of every"),
        (
            BASE,
            {"train.optim.weight_decay": 900, "train.optim.lr": 5e-3},
            "train.optim.weight_decay",
            "until the run ends with an error",
        ),
        (BASE, {"train.optim.lr": 0.05}, "train.optim.lr", "or never fall"),
        (BASE, {"train.freeze": ["decoder_blocks"]}, "train.freeze", "random initial weights"),
        (
            BASE,
            {"train.early_stopping.patience": 50},
            "train.early_stopping.patience",
            "never stops early",
        ),
        (
            BASE,
            {"dataset.augmentation.min_ratio": 5, "dataset.augmentation.max_ratio": 9},
            "dataset.augmentation.min_ratio",
            "squeezed",
        ),
        (
            TUNE,
            {"dataset.augmentation.mixup": 0.8, "dataset.batch_size": 1},
            "dataset.augmentation.mixup",
            "no other picture",
        ),
        (
            TUNE,
            {"dataset.augmentation.mixup": 0.8, "dataset.augmentation.mixup_prob": 0},
            "dataset.augmentation.mixup",
            "mixup_prob is 0",
        ),
        (
            TUNE,
            {"dataset.val_data_sources": ["/v", "/v"]},
            "dataset.val_data_sources",
            "named twice",
        ),
        (BASE, {"train.optim.lr": 1e-8}, "train.optim.lr", "hardly anything is learned"),
        (
            BASE,
            {"train.optim.gamma": 10, "train.optim.milestones": [5]},
            "train.optim.gamma",
            "rises to 10 times",
        ),
        (TUNE, {"train.optim.layer_decay": 1.1}, "train.optim.layer_decay", "first layers"),
        (TUNE, {"train.optim.layer_decay": 2.0}, "train.optim.layer_decay", "in the first block"),
        (
            TUNE,
            {"train.optim.backbone_multiplier": 1000},
            "train.optim.backbone_multiplier",
            "what was pretrained may be lost",
        ),
        (
            TUNE,
            {"train.optim.backbone_multiplier": 1e-11},
            "train.optim.backbone_multiplier",
            "the backbone hardly moves",
        ),
        (TUNE, {"train.optim.layer_decay": 1e-10}, "train.optim.layer_decay", "the backbone"),
        (TUNE, {"train.optim.layer_decay": 0.1}, "train.optim.layer_decay", "first blocks"),
        (
            BASE,
            {"train.optim.gamma": 1e-12, "train.optim.milestones": [1]},
            "train.optim.gamma",
            "the rest of it learns nothing",
        ),
        (
            BASE,
            {"train.optim.gamma": 1e-4, "train.optim.milestones": [1, 2, 3]},
            "train.optim.milestones",
            "by 3 times 0.0001",
        ),
        (
            BASE,
            {"train.optim.gamma": 1e-7, "train.optim.milestones": [1]},
            "train.optim.gamma",
            "learns nothing",
        ),
        (TUNE, {"model.drop_path_rate": 0.95}, "model.drop_path_rate", "skipped"),
        (
            TUNE,
            {"dataset.augmentation.smoothing": 0.9},
            "dataset.augmentation.smoothing",
            "hardly tell",
        ),
        (TUNE, {"dataset.augmentation.center_crop": 0.1}, "dataset.augmentation.center_crop", "1%"),
        (BASE, {"dataset.augmentation.color_jitter": 5}, "dataset.augmentation.color_jitter", ""),
        (
            BASE,
            {"dataset.augmentation.auto_aug": "rand-m9-n50", "train.stage": "finetune"},
            "dataset.augmentation.auto_aug",
            "50 changes one after another",
        ),
        (TUNE, {"dataset.augmentation.auto_aug": "rand-m99"}, AUTO_AUG, "m99 is above 10"),
        (BASE, {"dataset.augmentation.zoom": 4}, "dataset.augmentation.zoom", "far above"),
        (BASE, {"model.decoder_embed_dim": 8}, "model.decoder_embed_dim", "can hardly paint"),
        (BASE, {"model.decoder_depth": 200}, "model.decoder_depth", "stay in the decoder"),
        (
            {**BASE, "model.arch": "vit_tiny_patch16"},
            {"model.embed_dim": 8, "model.num_heads": 8},
            "model.num_heads",
            "8 heads over a width of 8 compare 1 value each",
        ),
        (
            {**BASE, "model.arch": "vit_tiny_patch16"},
            {"model.decoder_embed_dim": 64, "model.decoder_num_heads": 16},
            "model.decoder_num_heads",
            "compare 4 values each",
        ),
        (
            {**TUNE, "model.task": "segmentation", "model.num_classes": 2},
            {"model.segmentation.channels": 1},
            "model.segmentation.channels",
            "can hardly tell",
        ),
        (
            {**TUNE, "model.task": "segmentation", "model.num_classes": 2},
            {"train.dice_weight": 1000.0},
            "train.dice_weight",
            "counts for nothing",
        ),
        (
            {**TUNE, "model.task": "segmentation", "model.num_classes": 2},
            {"dataset.augmentation.segmentation.max_class_share": 0.4},
            "dataset.augmentation.segmentation.max_class_share",
            "of 2 classes one always covers 50% or more",
        ),
        (
            {**BASE, "train.teacher.checkpoint": "/t.pth"},
            {"train.teacher.weight": 1e4},
            "train.teacher.weight",
            "counts for nothing",
        ),
        (BASE, {"train.optim.beta2": 1e-5}, "train.optim.beta2", "the last gradient alone"),
        (
            BASE,
            {"dataset.augmentation.max_scale": 0.02, "dataset.augmentation.min_scale": 0.01},
            "dataset.augmentation.max_scale",
            "a crop sees 0.02 of a picture's area at most",
        ),
        (
            SEGMENT,
            {"model.segmentation.dropout": 0.95},
            "model.segmentation.dropout",
            "hardly sees",
        ),
        (TUNE, {"train.loss": "focal", "train.focal_gamma": 10}, "train.focal_gamma", "the worst"),
        (TUNE, {"dataset.augmentation.mixup": 1000}, "dataset.augmentation.mixup", "half and half"),
        (TUNE, {"dataset.augmentation.cutmix": 50}, "dataset.augmentation.cutmix", "half and half"),
        (
            SEGMENT,
            {"dataset.augmentation.segmentation.scale_jitter": [5, 10]},
            "dataset.augmentation.segmentation.scale_jitter",
            "magnified 5 times or more: a crop sees 0.04 of it",
        ),
        (
            SEGMENT,
            {"dataset.augmentation.segmentation.scale_jitter": [0.02, 0.1]},
            "dataset.augmentation.segmentation.scale_jitter",
            "shrunk to 0.1",
        ),
        (BASE, {"train.optim.momentum": 0.999999}, "train.optim.momentum", "1000000 gradients"),
        (BASE, {"train.optim.momentum": 0.995}, "train.optim.momentum", "and the run has 50"),
        (
            TUNE,
            {"train.early_stopping.min_delta": 1, "train.early_stopping.patience": 2},
            "train.early_stopping.min_delta",
            "it may end while it learns",
        ),
        (
            {**TUNE, **VIT},
            {"dataset.augmentation.input_size": 16},
            "dataset.augmentation.input_size",
            "is 1 patch of 16",
        ),
        (
            BASE,
            {"dataset.augmentation.std": [1e-4], "dataset.value_range": [0, 65535]},
            "dataset.augmentation.std",
            "a whole deviation",
        ),
    ],
)
def test_settings_that_leave_little_to_learn_are_warned_of(
    base: dict[str, Any], settings: dict[str, Any], field: str, said: str
) -> None:
    errors, warnings = run("train", {**base, **settings}, **SHORT)
    assert errors == {}
    assert said in str(warnings[field])


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        (BASE, {"train.ema_decay": 0.9}),
        (TUNE, {"train.freeze": ["encoder"]}),
        (BASE, {"train.freeze": ["patch_embed", "blocks.0"]}),
        (BASE, {"train.freeze": ["encoder"], "train.pretrained_model_path": "/w.pth"}),
        (BASE, {"train.optim.gamma": 10, "train.optim.milestones": [88]}),
        (TUNE, {"train.optim.layer_decay": 0.5, "train.optim.backbone_multiplier": 0.01}),
        (BASE, {"train.optim.weight_decay": 0.3, "train.optim.lr": 5e-3}),
        (TUNE, {"dataset.augmentation.mixup": 1.0, "dataset.augmentation.cutmix": 0.0}),
        (SEGMENT, {"dataset.augmentation.segmentation.scale_jitter": [0.5, 4.0]}),
        (BASE, {"train.optim.momentum": 0.95}),
        (
            TUNE,
            {"train.early_stopping.min_delta": 1e-3, "train.early_stopping.patience": 2},
        ),
        ({**TUNE, **VIT}, {"dataset.augmentation.input_size": 32}),
    ],
)
def test_settings_that_can_learn_are_let_be(base: dict[str, Any], settings: dict[str, Any]) -> None:
    errors, warnings = run("train", {**base, **settings}, **SHORT)
    assert errors == {}
    assert not set(settings) & (set(warnings) - {"train.optim.lr", "train.optim.milestones"})


@pytest.mark.parametrize(
    ("base", "data", "field", "said"),
    [
        (BASE, {"dataset.train_data_sources": {"images": 1}}, None, "one picture alone"),
        (
            {
                **BASE,
                "train.probe.k": 500,
                "train.probe.interval": 1,
                "dataset.probe_train_data_sources": "/b",
            },
            {"dataset.probe_train_data_sources": {"images": 36}},
            "train.probe.k",
            "a bank of 36 images",
        ),
        (
            {**TUNE, "dataset.val_data_sources": None, "dataset.val_fraction": 0.0001},
            {"dataset.train_data_sources": {"images": 30, "held_out": 3}},
            "dataset.val_fraction",
            "0.0001 holds 3 of 30 images out, 10%",
        ),
        (
            TUNE,
            {
                "dataset.train_data_sources": {
                    "images": 9,
                    "classes": 2,
                    "class_counts": {"a": 8, "b": 1},
                }
            },
            None,
            "one training image each of b",
        ),
    ],
)
def test_data_that_teach_little_are_warned_of(
    base: dict[str, Any], data: dict[str, Any], field: str | None, said: str
) -> None:
    _, warnings = run("train", base, data=data)
    assert said in str(warnings[field or "dataset.train_data_sources"])


@pytest.mark.parametrize(
    ("action", "settings", "field", "said"),
    [
        ("export", {"export.parity.min_cosine": -1}, "export.parity.min_cosine", "nearly any"),
        ("export", {"export.parity.max_abs": 1e6}, "export.parity.max_abs", "nearly any"),
        ("export", {"export.parity.min_cosine": 0.9}, "export.parity.min_cosine", None),
        (
            *("gen_trt_engine", {"gen_trt_engine.parity.min_cosine": -1}),
            *("gen_trt_engine.parity.min_cosine", "nearly any"),
        ),
        ("evaluate", {"train.seed": 5, "train.probe.k": 3}, "train.seed", None),
        ("evaluate", {"evaluate.segmentation.stride": 300}, "evaluate.segmentation.stride", "224"),
        ("evaluate", {"evaluate.segmentation.stride": 224}, "evaluate.segmentation.stride", None),
    ],
)
def test_settings_of_other_actions_that_do_nothing_or_judge_nothing_are_warned_of(
    action: str, settings: dict[str, Any], field: str, said: str | None
) -> None:
    slide = {"evaluate.segmentation.window": "slide"} if action == "evaluate" else {}
    task = {"model.task": "segmentation", "train.stage": "finetune"} if slide else {}
    _, warnings = run(action, {**task, **slide, **settings})
    assert (field in warnings) == (said is not None)
    assert (said or "") in str(warnings.get(field, ""))


INT8, LAYERS = "gen_trt_engine.tensorrt.data_type", "gen_trt_engine.tensorrt.layers_precision"
TARGETS, RTX = "gen_trt_engine.targets", {"gen_trt_engine.backend": "tensorrt_rtx"}
IMAGES = "gen_trt_engine.tensorrt.calibration.cal_image_dir"


@pytest.mark.parametrize(
    ("action", "settings", "field", "said"),
    [
        ("export", {"export.data_type": "int8"}, "dataset.val_data_sources", "none are named"),
        (
            *("export", {"export.data_type": "int8", "export.opset_version": 12}),
            *("export.opset_version", "int8 needs"),
        ),
        ("export", {"export.on_cpu": False}, "export.on_cpu", "has no GPU"),
        ("export", {"export.onnx_file": "{here}/there.onnx"}, "export.onnx_file", "exists already"),
        ("export", {"encryption_key": "env:NOPE_KEY"}, "encryption_key", "NOPE_KEY is not set"),
        ("gen_trt_engine", {LAYERS: ["*/norm*:fp8"]}, LAYERS, "not PATTERN:PRECISION"),
        ("gen_trt_engine", {LAYERS: ["nocolon"]}, LAYERS, "not PATTERN:PRECISION"),
        ("gen_trt_engine", {LAYERS: ["nothing*:fp32"]}, LAYERS, "no layer of the model matches"),
        ("gen_trt_engine", {INT8: "int8", LAYERS: ["*norm*:fp16"]}, LAYERS, "int8 or fp32"),
        ("gen_trt_engine", {INT8: "int8"}, IMAGES, "none are named"),
        ("gen_trt_engine", {INT8: "int8", IMAGES: "{here}/empty"}, IMAGES, "is empty"),
        ("gen_trt_engine", {TARGETS: ["8.6"]}, TARGETS, "for the GPU at hand only"),
    ],
)
def test_a_job_that_could_not_end_is_refused_by_the_plan(
    action: str, settings: dict[str, Any], field: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "there.onnx").write_bytes(b"graph")
    (tmp_path / "empty").mkdir()
    node = onnx.helper.make_node("Relu", ["x"], ["y"], name="/blocks.0/norm1/Relu")
    sizes = [onnx.helper.make_tensor_value_info(name, 1, ["N", 3, 8, 8]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", sizes[:1], sizes[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    given = json.loads(json.dumps(settings).replace("{here}", str(tmp_path)))
    if action == "gen_trt_engine":
        given["gen_trt_engine.onnx_file"] = str(tmp_path / "model.onnx")
    facts = {"local_files": True, "gpus": 0, "variables": frozenset({"HOME"})}
    errors, _ = run(action, given, **facts)
    assert said in str(errors[field]), {key: str(error) for key, error in errors.items()}
    assert errors[field].hint

    kept = {key: value for key, value in given.items() if key not in settings}
    assert field not in run(action, kept, **facts)[0], "without it there is no such error"


@pytest.mark.parametrize(
    ("settings", "field", "said"),
    [
        ({**RTX, TARGETS: ["99.9"]}, TARGETS, "99.9: no GPU"),
        ({**RTX, TARGETS: ["7.0"]}, TARGETS, "7.0: no GPU"),
        ({**RTX, TARGETS: ["8.6"]}, TARGETS, None),
        (
            {"gen_trt_engine.batch_size": 4, "gen_trt_engine.tensorrt.max_batch_size": 8},
            *("gen_trt_engine.tensorrt.max_batch_size", "has no effect: gen_trt_engine.batch_siz"),
        ),
    ],
)
def test_an_engine_of_other_targets_and_batches_is_warned_of(
    settings: dict[str, Any], field: str, said: str | None
) -> None:
    _, warnings = run("gen_trt_engine", settings)
    assert (field in warnings) == (said is not None)
    assert (said or "") in str(warnings.get(field, ""))


def test_a_number_above_the_largest_is_told_the_largest() -> None:
    errors, _ = run("train", {**BASE, "train.num_epochs": 10**12})
    assert errors["train.num_epochs"].expected == "a whole number ≥ 1, ≤ 2147483647"


def test_a_long_run_may_average_slowly_and_an_unknown_one_is_not_judged() -> None:
    slow = {**BASE, "train.ema_decay": 0.9999}
    assert run("train", slow, steps_per_epoch=5000)[0] == {}
    assert run("train", slow)[0] == {}


@pytest.mark.parametrize(
    ("weights", "more", "said"),
    [
        ({"a": 0, "b": 0, "c": 0}, {}, "all weights are 0"),
        ({"a": 0, "b": 0}, {}, "c alone counts"),
        ({"a": 0}, {}, None),
        ({"a": 0, "b": 0}, {"model.multi_label": True, "dataset.labels.train": "l.csv"}, None),
    ],
)
def test_a_class_of_weight_0_is_named_and_one_that_counts_alone_is_refused(
    weights: dict[str, float], more: dict[str, Any], said: str | None
) -> None:
    given = {**TUNE, "model.num_classes": 3, "train.class_weights": weights, **more}
    errors, warnings = run("train", given, **COUNTS)
    if said is None:
        assert "train.class_weights" not in errors
        assert "a" in str(warnings["train.class_weights"])
        assert "not learned" in str(warnings["train.class_weights"])
    else:
        assert said in str(errors["train.class_weights"])


@pytest.mark.parametrize(
    ("weights", "more", "said", "refused"),
    [
        (dict.fromkeys("abc", 1e-9), {}, "scale the loss to nothing", True),
        ({"a": 1e-9, "b": 1e-9}, {}, "c alone counts", True),
        ({"a": 1e-9}, {}, "weight next to 0 beside the others: a is not learned", False),
        (dict.fromkeys("abc", 1), {}, "has no effect: every class has the weight 1", False),
        ({"a": 1.0}, {}, "has no effect: every class has the weight 1", False),
        (dict.fromkeys("abc", 5), {}, "which scales the loss alone", False),
        ({"a": 1000, "b": 2000, "c": 500}, {}, "scale the loss to 1166.67 times itself", False),
        ({"a": 1e-4, "b": 2e-4, "c": 1e-4}, {}, "times itself", False),
        (dict.fromkeys("abc", 5), {"model.multi_label": True}, None, False),
        (dict.fromkeys("abc", 1), {"model.multi_label": True}, "has no effect", False),
        ({"a": 3, "b": 0.5}, {}, None, False),
    ],
)
def test_weights_of_classes_that_do_nothing_or_scale_the_loss_away_are_told(
    weights: dict[str, float], more: dict[str, Any], said: str | None, refused: bool
) -> None:
    more = {**more, "dataset.labels.train": "l.csv"} if more else {}
    given = {**TUNE, "model.num_classes": 3, "train.class_weights": weights, **more}
    errors, warnings = run("train", given, **COUNTS)
    table = errors if refused else warnings
    assert ("train.class_weights" in errors) == refused
    assert (said or "") in str(table.get("train.class_weights", ""))
    assert said is not None or "train.class_weights" not in warnings


def test_every_error_of_the_rules_and_of_class_lists_has_a_hint_where_it_is_made() -> None:
    folder = Path(base.__file__).parent
    kinds = {kind.__name__ for kind in (DataError, SpecError, CheckpointError, NotFoundError)}
    seen = 0
    for file in (*folder.glob("*.py"), folder.parent / "classes.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            given = {word.arg for word in call.keywords}
            if call.func.id in kinds and None not in given:
                seen += 1
                lacking = {"field", "got", "expected", "hint"} - given
                assert not lacking, f"{file.name}:{call.lineno} {lacking}"
    assert seen > 12


MANY = {**TUNE, "model.multi_label": True}
SOURCE = "dataset.train_data_sources"


def masks_of_values(*values: int) -> dict[str, Any]:
    seen = {str(value): {"images": 4, "first": "0.png", "pixels": 99} for value in values}
    return {SOURCE: {"images": 4, "read": 4, "mask_values": {"values": seen}}}


def classes_of(**counts: int) -> dict[str, Any]:
    return {
        "classes": len(counts),
        "data": {SOURCE: {"images": sum(counts.values()), "class_counts": counts}},
    }


THREE = classes_of(a=10, b=10, c=10)

# settings, facts → the one field that is named, words of the error
CAUSES: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({**BASE, "dataset.augmentation.std": [0, 0, 0]}, {}, "dataset.augmentation.std[0]", "1, 2"),
    (
        {**BASE, "dataset.augmentation.min_scale": 2, "dataset.augmentation.max_scale": 0.5},
        {},
        "dataset.augmentation.min_scale",
        "no crop is larger",
    ),
    ({**TUNE, "dataset.classes": ["a", "a", "b"]}, THREE, "dataset.classes", "more than once"),
    ({**TUNE, "dataset.classes": [1, 2]}, THREE, "dataset.classes[0]", "so is item 1"),
    ({**BASE, "train.gpu_ids": [0, 0]}, {"gpus": 2}, "train.gpu_ids", "twice"),
    ({**TUNE, "train.freeze": ["encoder", "head"]}, {}, "train.freeze", "frozen"),
    (
        {**BASE, "model.arch": "convnextv2_atto", "dataset.augmentation.input_size": 32},
        {},
        "train.mask_ratio",
        "for a classifier train.stage=finetune",
    ),
]


@pytest.mark.parametrize(("settings", "facts", "field", "said"), CAUSES)
def test_one_cause_is_one_error(
    settings: dict[str, Any], facts: dict[str, Any], field: str, said: str
) -> None:
    layers = layers_of(BUNDLE, "train", settings)
    found = resolve(BUNDLE, "train", layers, look=lambda spec, well_formed: (Facts(**facts), []))
    assert [error.field for error in found.errors] == [field]
    assert said in str(found.errors[0])


# action, settings, facts, field of the error → words of its hint, words that would be refused
HINTS: list[tuple[str, dict[str, Any], dict[str, Any], str, str, str]] = [
    ("train", MANY, {}, "dataset.labels.train", "model.multi_label=false", "trained on"),
    (
        "evaluate",
        {"train.stage": "finetune", "model.multi_label": True, "dataset.val_data_sources": "/v"},
        {},
        "dataset.labels.val",
        "name the table",
        "multi_label=false",
    ),
    *(
        (
            "train",
            {**BASE, f"dataset.augmentation.{name}": 1e-6},
            {},
            "",
            "0.001 or more",
            "set 0 to",
        )
        for name in ("min_scale", "max_scale", "min_ratio", "max_ratio")
    ),
    ("train", {**TUNE, "dataset.augmentation.mixup": 1e-6}, {}, "", "set 0", "or more"),
    (
        "train",
        {**TUNE, "train.class_weights": {"a": -1}},
        {},
        "train.class_weights.a",
        "mae explain train.class_weights",
        "mae explain train.class_weights.a",
    ),
    (
        "train",
        {**SEGMENT, "model.num_classes": 2, "dataset.segmentation.reduce_zero_label": False},
        {"data": masks_of_values(0, 127, 255)},
        "model.num_classes",
        "set dataset.segmentation.mask_values=[0,127] model.num_classes=2",
        "map",
    ),
    (
        "train",
        {**SEGMENT, "model.num_classes": 2, "dataset.segmentation.reduce_zero_label": False},
        {"data": masks_of_values(0, 1, 2, 3)},
        "model.num_classes",
        "set model.num_classes=4",
        "map",
    ),
    (
        "train",
        {**SEGMENT, "model.num_classes": 2},
        {"data": masks_of_values(0, 37, 100, 200)},
        "model.num_classes",
        "mask_values=[0,37,100,200] model.num_classes=4; or, if 2 of them are classes, list these",
        "37 to 1",
    ),
    (
        "train",
        {**SEGMENT, "model.num_classes": 2},
        {"data": masks_of_values(0, 1)},
        "dataset.train_data_sources",
        "if 0 is a class, set dataset.segmentation.reduce_zero_label=false",
        "255",
    ),
    (
        "train",
        {**SEGMENT, "model.num_classes": 2},
        {"data": masks_of_values(0, 255)},
        "dataset.train_data_sources",
        "set dataset.segmentation.mask_values=[0,255] model.num_classes=2",
        "ignore_index",
    ),
    (
        "train",
        {
            **BASE,
            "model.arch": "convnextv2_atto",
            "train.mask_ratio": 0.01,
            "dataset.augmentation.input_size": 32,
        },
        {},
        "train.mask_ratio",
        "0.01 is far from the usual 0.6 to 0.75",
        "nearer 0.5",
    ),
    (
        "train",
        {**TUNE, "model.num_classes": 3},
        classes_of(a=10, b=10, c=9, aa=1),
        "model.num_classes",
        "correct what one picture alone has, and may be misspelled: aa (a); else set",
        "aaa",
    ),
    (
        "train",
        {**TUNE, "model.num_classes": 3},
        classes_of(a=10, b=10, c=9, zebra=1),
        "model.num_classes",
        "set model.num_classes=4",
        "misspelled",
    ),
    (
        "train",
        {**TUNE, "dataset.labels.train": "/t.csv"},
        {
            "classes": 1,
            "data": {
                SOURCE: {
                    "images": 9,
                    "class_counts": {"a": 9},
                    "label_file": {"file": "t.csv", "rows": 9},
                }
            },
        },
        SOURCE,
        "the class of each picture into t.csv",
        "class folders",
    ),
]


def test_a_class_of_one_image_that_is_named_nearly_like_another_is_doubted() -> None:
    settings = {**TUNE, "model.num_classes": 4}
    for lone, doubted in (("catt", True), ("zebra", False), ("cat2", False)):
        _, warnings = run("train", settings, **classes_of(cat=10, dog=10, cow=9, **{lone: 1}))
        said = " ".join(notice.message for notice in warnings.values())
        assert f"one training image each of {lone}" in said
        assert (f"misspelled, perhaps: {lone} (cat)" in said) == doubted


@pytest.mark.parametrize(("action", "settings", "facts", "field", "hint", "never"), HINTS)
def test_a_hint_names_a_mend_that_is_accepted(
    action: str, settings: dict[str, Any], facts: dict[str, Any], field: str, hint: str, never: str
) -> None:
    errors, _ = run(action, settings, **facts)
    found = str(errors[field or next(name for name in settings if "augmentation" in name)].hint)
    assert hint in found and never not in found
