"""Every documented field exists, with the default, bounds and options that were decided."""

from __future__ import annotations

from typing import Any

import pytest
from mae_skill.archs import ARCHS
from mae_skill.bundle import Bundle
from mae_skill.dotted import field_nodes

FIELDS = field_nodes(Bundle.load().schema("train"))

ABOVE_ZERO = {"exclusiveMinimum": 0}
NOT_NEGATIVE = {"minimum": 0}
ONE_UP = {"minimum": 1}
UNIT = {"minimum": 0, "maximum": 1}

# key, default, what the schema must say beside it
TABLE: list[tuple[str, Any, dict[str, Any]]] = [
    ("model.arch", "convnextv2_base", {"enum": list(ARCHS)}),
    ("model.num_classes", 1000, ONE_UP),
    ("model.drop_path_rate", 0.1, NOT_NEGATIVE),
    ("model.global_pool", True, {}),
    ("model.decoder_depth", 1, ONE_UP),
    ("model.decoder_embed_dim", 512, ONE_UP),
    ("model.decoder_num_heads", None, {}),
    ("model.decoder_mlp_ratio", 4.0, ABOVE_ZERO),
    ("model.embed_dim", None, {}),
    ("model.depth", None, {}),
    ("model.num_heads", None, {}),
    ("model.mlp_ratio", None, {}),
    ("dataset.train_data_sources", None, {}),
    ("dataset.val_data_sources", None, {}),
    ("dataset.test_data_sources", None, {}),
    ("dataset.probe_train_data_sources", None, {}),
    ("dataset.probe_val_data_sources", None, {}),
    ("dataset.batch_size", 3, ONE_UP),
    ("dataset.num_workers_per_gpu", 2, NOT_NEGATIVE),
    ("dataset.max_corrupt_fraction", 0.01, UNIT),
    ("dataset.augmentation.input_size", 224, ONE_UP),
    ("dataset.augmentation.mean", [0.485, 0.456, 0.406], {"minItems": 1, "maxItems": 512}),
    ("dataset.augmentation.std", [0.229, 0.224, 0.225], {"minItems": 1, "maxItems": 512}),
    ("dataset.augmentation.min_scale", 0.1, ABOVE_ZERO),
    ("dataset.augmentation.max_scale", 2.0, ABOVE_ZERO),
    ("dataset.augmentation.min_ratio", 0.75, ABOVE_ZERO),
    ("dataset.augmentation.max_ratio", 1.33, ABOVE_ZERO),
    ("dataset.augmentation.smoothing", 0.1, NOT_NEGATIVE),
    ("dataset.augmentation.color_jitter", 0.0, NOT_NEGATIVE),
    ("dataset.augmentation.auto_aug", "rand-m9-mstd0.5-inc1", {}),
    ("dataset.augmentation.mixup", 0.8, NOT_NEGATIVE),
    ("dataset.augmentation.cutmix", 1.0, NOT_NEGATIVE),
    ("dataset.augmentation.mixup_prob", 1.0, UNIT),
    ("dataset.augmentation.mixup_switch_prob", 0.5, UNIT),
    ("dataset.augmentation.mixup_mode", "batch", {"enum": ["batch", "pair", "elem"]}),
    ("dataset.augmentation.interpolation", "random", {"enum": ["random", "bilinear", "bicubic"]}),
    ("dataset.augmentation.center_crop", 0.875, {"exclusiveMinimum": 0.0, "maximum": 1.0}),
    ("dataset.augmentation.hflip", 0.5, UNIT),
    ("dataset.augmentation.re_prob", 0.0, UNIT),
    ("train.stage", "pretrain", {"enum": ["pretrain", "finetune"]}),
    ("train.num_epochs", 10, ONE_UP),
    ("train.accum_grad_batches", 1, ONE_UP),
    ("train.precision", "fp32", {"enum": ["fp32", "bf16", "fp16"]}),
    ("train.accelerator", "auto", {"enum": ["auto", "gpu", "cpu"]}),
    ("train.distributed_strategy", "ddp", {"enum": ["ddp", "fsdp"]}),
    ("train.norm_pix_loss", True, {}),
    ("train.mask_ratio", 0.75, {"exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    ("train.num_gpus", 1, ONE_UP),
    ("train.gpu_ids", [0], {"minItems": 1}),
    ("train.num_nodes", 1, ONE_UP),
    ("train.seed", 1234, ONE_UP),
    ("train.cudnn.benchmark", False, {}),
    ("train.cudnn.deterministic", True, {}),
    ("train.checkpoint_interval", 1, ONE_UP),
    ("train.checkpoint_interval_unit", "epoch", {"enum": ["epoch", "step"]}),
    ("train.keep_checkpoints", None, ONE_UP),
    ("train.validation_interval", 1, ONE_UP),
    ("train.resume_training_checkpoint_path", None, {}),
    ("train.pretrained_model_path", None, {}),
    ("train.freeze", [], {}),
    ("train.results_dir", None, {}),
    ("train.clip_grad_norm", None, ABOVE_ZERO),
    ("train.ema_decay", None, {"exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    ("train.gradient_checkpointing", False, {}),
    ("train.compile", False, {}),
    ("train.early_stopping.patience", None, ONE_UP),
    ("train.early_stopping.min_delta", 0.0, NOT_NEGATIVE),
    ("train.probe.interval", 0, NOT_NEGATIVE),
    ("train.probe.k", 20, ONE_UP),
    ("train.optim.type", "AdamW", {"enum": ["AdamW", "Muon"]}),
    ("train.optim.monitor_name", "train_loss", {"enum": ["train_loss", "val_loss"]}),
    ("train.optim.lr", 2e-4, ABOVE_ZERO),
    ("train.optim.lr_scaling", "none", {"enum": ["none", "linear"]}),
    ("train.optim.min_lr", 0.0, NOT_NEGATIVE),
    ("train.optim.backbone_multiplier", 0.1, ABOVE_ZERO),
    ("train.optim.momentum", 0.9, ABOVE_ZERO),
    ("train.optim.beta2", None, ABOVE_ZERO),
    ("train.optim.weight_decay", 0.05, NOT_NEGATIVE),
    ("train.optim.layer_decay", 0.75, ABOVE_ZERO),
    ("train.optim.lr_scheduler", "MultiStep", {"enum": ["MultiStep", "cosine", "poly"]}),
    ("train.optim.milestones", [88, 96], {}),
    ("train.optim.gamma", 0.1, ABOVE_ZERO),
    ("train.optim.warmup_epochs", 1, NOT_NEGATIVE),
]
for _action in ("evaluate", "inference"):
    TABLE += [
        (f"{_action}.checkpoint", None, {}),
        (f"{_action}.trt_engine", None, {}),
        (f"{_action}.results_dir", None, {}),
        (f"{_action}.num_gpus", 1, ABOVE_ZERO),
        (f"{_action}.gpu_ids", [0], {"minItems": 1}),
        (f"{_action}.num_nodes", 1, ABOVE_ZERO),
        (f"{_action}.batch_size", -1, {"minimum": -1}),
    ]
TABLE += [
    ("export.checkpoint", None, {}),
    ("export.onnx_file", None, {}),
    ("export.on_cpu", True, {}),
    ("export.gpu_id", 0, NOT_NEGATIVE),
    ("export.opset_version", 17, {"minimum": 12}),
    ("export.input_channel", 3, {"minimum": 1, "maximum": 512}),
    ("export.input_width", None, {}),
    ("export.input_height", None, {}),
    ("export.batch_size", -1, {"minimum": -1}),
    ("export.features", "pooled", {"enum": ["pooled", "tokens"]}),
    ("export.include_preprocessing", False, {}),
    ("export.overwrite", False, {}),
    ("export.verbose", False, {}),
    ("export.format", "onnx", {}),
    ("export.results_dir", None, {}),
    ("export.parity.min_cosine", None, {}),
    ("export.parity.max_abs", None, {}),
    ("export.parity.min_top1_agreement", None, {}),
    ("gen_trt_engine.gpu_id", 0, NOT_NEGATIVE),
    ("gen_trt_engine.onnx_file", None, {}),
    ("gen_trt_engine.trt_engine", None, {}),
    ("gen_trt_engine.timing_cache", None, {}),
    ("gen_trt_engine.batch_size", -1, {"minimum": -1}),
    ("gen_trt_engine.verbose", False, {}),
    ("gen_trt_engine.results_dir", None, {}),
    ("gen_trt_engine.backend", "tensorrt", {"enum": ["tensorrt", "tensorrt_rtx"]}),
    ("gen_trt_engine.targets", [], {}),
    ("gen_trt_engine.tensorrt.data_type", "fp32", {}),
    ("gen_trt_engine.tensorrt.workspace_size", 1024, ONE_UP),
    ("gen_trt_engine.tensorrt.min_batch_size", 1, ONE_UP),
    ("gen_trt_engine.tensorrt.opt_batch_size", 1, ONE_UP),
    ("gen_trt_engine.tensorrt.max_batch_size", 1, ONE_UP),
    ("gen_trt_engine.tensorrt.layers_precision", [], {}),
    ("gen_trt_engine.tensorrt.calibration.cal_image_dir", None, {}),
    ("gen_trt_engine.tensorrt.calibration.cal_cache_file", None, {}),
    ("gen_trt_engine.tensorrt.calibration.cal_batch_size", 8, ONE_UP),
    ("results_dir", None, {}),
    ("encryption_key", None, {}),
    ("model_name", None, {}),
    *(
        (f"wandb.{name}", default, {})
        for name, default in [
            ("enable", False),
            ("project", "mae"),
            ("entity", None),
            ("group", None),
        ]
    ),
    *(
        (f"wandb.{name}", default, {})
        for name, default in [("tags", []), ("reinit", False), ("sync_tensorboard", False)]
    ),
    *(
        (f"wandb.{name}", default, {})
        for name, default in [("save_code", False), ("name", None), ("run_id", None)]
    ),
]


@pytest.mark.parametrize(("key", "default", "says"), TABLE, ids=[row[0] for row in TABLE])
def test_a_documented_field_has_its_decided_default_and_bounds(
    key: str, default: Any, says: dict[str, Any]
) -> None:
    node = FIELDS[key]
    assert node["default"] == default
    assert type(node["default"]) is type(default)
    assert {name: node.get(name) for name in says} == says


PRETRAIN_ONLY = (
    "train.mask_ratio",
    "train.norm_pix_loss",
    "model.decoder_depth",
    "model.decoder_embed_dim",
    "model.decoder_num_heads",
)
FINETUNE_ONLY = (
    *("model.drop_path_rate", "train.optim.layer_decay", "train.optim.backbone_multiplier"),
    *(
        f"dataset.augmentation.{name}"
        for name in (
            "mixup",
            "cutmix",
            "smoothing",
            "auto_aug",
            "mixup_prob",
            "mixup_mode",
            "re_prob",
        )
    ),
)


@pytest.mark.parametrize("key", PRETRAIN_ONLY + FINETUNE_ONLY)
def test_a_field_of_one_stage_says_so(key: str) -> None:
    assert FIELDS[key]["applies_when"]["train.stage"] == (
        "pretrain" if key in PRETRAIN_ONLY else "finetune"
    )


def test_all_nineteen_architectures_are_offered() -> None:
    families = {
        family: [name for name, arch in ARCHS.items() if arch.family == family]
        for family in ("convnextv2", "vit", "hiera")
    }
    assert families["convnextv2"] == [
        f"convnextv2_{size}"
        for size in ["atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"]
    ]
    assert families["vit"] == [
        *(f"vit_{size}_patch16" for size in ["tiny", "small", "base", "large"]),
        "vit_huge_patch14",
    ]
    assert families["hiera"] == [
        f"hiera_{size}_224" for size in ["tiny", "small", "base", "base_plus", "large", "huge"]
    ]
