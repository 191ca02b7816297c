"""What the schemas cannot say: rules between fields, sizes that fit, knobs set in vain. The bundle's ``validator:`` entry point."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_skill.archs import ARCHS, hw, nearest_sizes, num_units, size_fits
from mae_skill.classes import read_class_list
from mae_skill.conditions import acts
from mae_skill.dotted import field_nodes, get_dotted
from mae_skill.errors import DataError, DependencyError, MaeError, NotFoundError, SpecError
from mae_skill.recipes import recipe_of

READS_IMAGES = {
    "train": "dataset.train_data_sources",
    "evaluate": "dataset.val_data_sources",
    "inference": "dataset.test_data_sources",
}

ENGINE_PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}  # module → package


@dataclass(frozen=True)
class Notice:
    """A warning: nothing is refused, but the user should know. ``field`` is the dotted key, where there is one."""

    field: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def to_dict(self) -> dict[str, Any]:
        """``{"field", "message"}``."""
        return {"field": self.field, "message": self.message}


def check(
    action: str,
    spec: Mapping[str, Any],
    provenance: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[list[MaeError], list[Notice]]:
    """Errors and warnings of a spec that its schema already accepts.

    Args:
        provenance: dotted key → origin (``.kind``); fields that somebody set are warned about when they act nowhere.
        facts: what the caller knows of the world: ``classes`` (count found in the data of the action, None when unlabelled), ``images`` (count),
            ``effective_batch``, ``gpus``, ``here`` (it will run on this machine) … each optional; a rule whose fact is missing is not checked.
    """
    found = _Findings(spec, dict(provenance or {}), dict(facts or {}))
    _sizes(action, found)
    _devices(action, found)
    if action == "train":
        for rule in (_shape, _task, _data, _schedule, _papers, _recipe, _quality):
            rule(found)
    if action == "evaluate":
        _judged(found)
    if action == "export":
        _artefact(found)
    if action == "gen_trt_engine":
        _engine(found)
    elif found(f"{action}.trt_engine") and found.facts.get("gpus") == 0:
        found.warn(
            f"{action}.trt_engine",
            "an engine runs on an NVIDIA GPU and there is none here: the job would end with exit 7",
        )
    _required(action, found)
    if found.facts.get("here"):
        _named_files(action, found)
    _in_vain(action, found)
    return found.errors, found.warnings


class _Findings:
    def __init__(
        self, spec: Mapping[str, Any], provenance: dict[str, Any], facts: dict[str, Any]
    ) -> None:
        self.spec, self.provenance, self.facts = spec, provenance, facts
        self.errors: list[MaeError] = []
        self.warnings: list[Notice] = []

    def __call__(self, key: str, default: Any = None) -> Any:
        return get_dotted(self.spec, key, default)

    def given(self, key: str) -> bool:
        """Whether somebody set the field (its value is no default)."""
        origin = self.provenance.get(key)
        return origin is not None and str(getattr(origin, "kind", origin)).split(" ")[0] not in (
            "default",
            "template",
            "recipe",
            "inherited",
        )

    def known(self, action: str, key: str) -> bool:
        """Whether the spec's value is the one that counts: a trained model brings its own where this one is a mere default."""
        origin = self.provenance.get(key)
        return (
            action == "train"
            or origin is None
            or str(getattr(origin, "kind", origin)).split(" ")[0] not in ("default", "template")
        )

    def error(
        self,
        key: str,
        message: str,
        expected: str,
        hint: str | None = None,
        kind: Callable[..., MaeError] = SpecError,
    ) -> None:
        self.errors.append(kind(message, field=key, got=self(key), expected=expected, hint=hint))

    def warn(self, key: str | None, message: str) -> None:
        self.warnings.append(Notice(key, message))


def _sizes(action: str, s: _Findings) -> None:
    arch, size = s("model.arch"), s("dataset.augmentation.input_size")
    if arch not in ARCHS or size is None or not s.known(action, "model.arch"):
        return
    if not size_fits(arch, size):
        multiple = ARCHS[arch].size_multiple
        near = " × ".join(
            " or ".join(str(value) for value in nearest_sizes(arch, side)) for side in hw(size)
        )
        s.error(
            "dataset.augmentation.input_size",
            f"{arch} cannot take this size",
            f"multiples of {multiple} px",
            f"the nearest that fit: {near}",
        )
    elif s("train.stage") == "pretrain":
        units = num_units(arch, size)
        kept = round(units * (1 - float(s("train.mask_ratio", 0.75))))
        if units < 2 or not 0 < kept < units:
            hint = "choose a larger input_size or a mask_ratio nearer 0.5"
            s.error(
                "train.mask_ratio",
                f"of {units} mask units {kept} would stay visible",
                "at least one visible and one hidden unit",
                hint,
            )
    for side in ("height", "width"):
        value = s(f"export.input_{side}")
        if value is not None and not size_fits(arch, [value, value]):
            near = " or ".join(str(item) for item in nearest_sizes(arch, value))
            s.error(
                f"export.input_{side}",
                f"{arch} cannot take this size",
                f"a multiple of {ARCHS[arch].size_multiple} px",
                f"the nearest: {near}",
            )


def _devices(action: str, s: _Findings) -> None:
    gpus, ids = s(f"{action}.num_gpus"), s(f"{action}.gpu_ids")
    if isinstance(ids, list) and len(set(ids)) != len(ids):
        s.error(f"{action}.gpu_ids", "a device is named twice", "each index once")
    if (
        isinstance(gpus, int)
        and isinstance(ids, list)
        and gpus != len(ids)
        and s.given(f"{action}.num_gpus")
        and s.given(f"{action}.gpu_ids")
    ):
        s.warn(
            f"{action}.num_gpus",
            f"num_gpus={gpus} and gpu_ids={ids} differ: {max(gpus, len(ids))} devices are used, the larger setting",
        )
    if action != "train":
        return
    devices = s.facts.get("gpus")
    wanted = max(int(gpus or 1), len(ids or [0]))
    accelerator = s("train.accelerator", "auto")
    if devices == 0 and accelerator == "gpu":
        s.error("train.accelerator", "this machine has no GPU", "auto or cpu", kind=DependencyError)
    elif devices == 0 and accelerator == "auto" and wanted > 1:
        s.error(
            "train.num_gpus",
            "this machine has no GPU",
            "1, or train.accelerator=cpu, where it counts processes",
            kind=DependencyError,
        )
    elif devices == 0 and accelerator == "auto":
        s.warn("train.accelerator", "no GPU here: trains in one CPU process")
    elif devices and accelerator != "cpu" and wanted > devices:
        s.error(
            "train.num_gpus",
            f"this machine has {devices} GPU(s)",
            f"at most {devices}",
            kind=DependencyError,
        )
    if s("train.distributed_strategy") == "fsdp" and s("train.precision") == "fp32":
        s.warn(
            "train.precision",
            "fsdp trains in half precision: bf16 where the hardware has it, else fp16",
        )
    if wanted > 1 and not os.environ.get("OMP_NUM_THREADS"):
        s.warn(
            None, "several processes: if one dies of a segmentation fault, set OMP_NUM_THREADS=1"
        )


def _engine(s: _Findings) -> None:
    """What would end the job with exit 7: a library or a GPU that is not here."""
    backend = str(s("gen_trt_engine.backend"))
    if backend not in ENGINE_PACKAGES:
        return
    lacking, mend = None, f"pip install 'mae-skill[{ENGINE_PACKAGES[backend]}]'"
    if importlib.util.find_spec(backend) is None:
        lacking = f"{ENGINE_PACKAGES[backend]} is not installed here"
    elif backend == "tensorrt" and s.facts.get("gpus") == 0:
        lacking, mend = (
            "tensorrt needs the GPU it builds for, and there is none here",
            "run it where one is",
        )
    if lacking:
        other = (
            "; gen_trt_engine.backend=tensorrt_rtx builds without a GPU"
            if backend == "tensorrt"
            else ""
        )
        s.warn("gen_trt_engine.backend", f"{lacking}: the job would end with exit 7; {mend}{other}")


def _shape(s: _Findings) -> None:
    arch = ARCHS.get(str(s("model.arch")))
    width, heads = s("model.decoder_embed_dim"), s("model.decoder_num_heads")
    if arch is None:
        return
    if s("train.stage") == "pretrain" and arch.family != "convnextv2" and heads and width % heads:
        s.error(
            "model.decoder_num_heads",
            f"does not divide model.decoder_embed_dim={width}",
            "a divisor of the decoder's width",
        )
    if s("train.stage") == "pretrain" and arch.family == "vit" and width % 4:
        s.error(
            "model.decoder_embed_dim",
            "sin-cos position embeddings need a multiple of 4",
            "a multiple of 4",
        )
    if arch.family == "vit":
        dim, count = s("model.embed_dim") or arch.dims[0], s("model.num_heads") or arch.heads[0]
        if dim % count:
            key = "model.num_heads" if s("model.num_heads") else "model.embed_dim"
            s.error(
                key,
                f"width {dim} is not a multiple of {count} heads",
                "a width that the heads divide",
            )
        elif dim % 4:
            s.error(
                "model.embed_dim",
                "sin-cos position embeddings need a multiple of 4",
                "a multiple of 4",
            )


def _unlabelled(s: _Findings, key: str, message: str, hint: str | None = None) -> None:
    s.error(key, message, "one folder of images a class", hint, kind=DataError)


def _judged(s: _Findings) -> None:
    """A classifier that is known to be one (from its parent, or as somebody said) is judged on labelled images."""
    known = s.given("train.stage") or str(
        getattr(s.provenance.get("train.stage"), "kind", "")
    ).startswith("inherited")
    if (
        known
        and s("train.stage") == "finetune"
        and s("model.task") != "segmentation"
        and s.facts.get("classes", 0) is None
    ):
        _unlabelled(
            s,
            "dataset.val_data_sources",
            "these images have no labels to compare with",
            "the inference action takes unlabelled images",
        )


def _data(s: _Findings) -> None:
    for low, high in (("min_scale", "max_scale"), ("min_ratio", "max_ratio")):
        if s(f"dataset.augmentation.{low}", 0) > s(f"dataset.augmentation.{high}", 1):
            s.error(
                f"dataset.augmentation.{low}",
                f"is above {high}={s(f'dataset.augmentation.{high}')}",
                f"at most {high}",
            )
    if s("train.stage") != "finetune":
        return
    if s("model.task") == "segmentation":
        _masks(s)
    elif "classes" in s.facts:
        classes, wanted = s.facts["classes"], s("model.num_classes")
        if classes is None:
            _unlabelled(s, "dataset.train_data_sources", "the training images have no labels")
        elif classes != wanted:
            s.error(
                "model.num_classes",
                f"the training data has {classes} classes",
                str(classes),
                f"set model.num_classes={classes}",
            )
    if not s("dataset.val_data_sources") and not s("dataset.val_fraction"):
        s.warn(
            "dataset.val_data_sources",
            "no validation data: the best checkpoint is chosen by train_loss, and no accuracy is known",
        )
    if not s("train.pretrained_model_path") and not s("train.resume_training_checkpoint_path"):
        s.warn(
            "train.pretrained_model_path",
            "fine-tuning without pretrained weights trains from scratch",
        )


def _task(s: _Findings) -> None:
    if s("model.task") != "segmentation" or s("train.stage") == "finetune":
        return
    s.error(
        "model.task",
        "pretraining knows no task",
        "classification (the default), or train.stage=finetune",
        "pretrain on the images alone, then fine-tune with model.task=segmentation and train.pretrained_model_path",
    )


def _masks(s: _Findings) -> None:
    wanted = s("model.num_classes")
    arch, size = ARCHS.get(str(s("model.arch"))), s("dataset.augmentation.input_size")
    if (
        arch is not None
        and arch.family == "vit"
        and size is not None
        and min(hw(size)) < 2 * arch.patch
    ):
        s.error(
            "dataset.augmentation.input_size",
            "UperNet's pyramid needs two patches a side",
            f"at least {2 * arch.patch} px",
        )
    listed = s("dataset.segmentation.class_list")
    if listed:
        try:
            names = read_class_list(listed)
        except MaeError as error:
            s.errors.append(error)
        else:
            if names is not None and len(names) != wanted:
                s.error(
                    "model.num_classes",
                    f"dataset.segmentation.class_list names {len(names)} classes",
                    str(len(names)),
                    f"set model.num_classes={len(names)}",
                )
    ignored = s("dataset.segmentation.ignore_index")
    if ignored is not None and wanted is not None and ignored < wanted:
        s.error(
            "dataset.segmentation.ignore_index",
            f"is the number of one of the {wanted} classes",
            f"at least {wanted}",
            None
            if s.given("model.num_classes")
            else "model.num_classes is at its default: set it to the number of classes in the masks",
        )
    low, high = s("dataset.augmentation.segmentation.scale_jitter", [1.0, 1.0])
    if low > high:
        s.error(
            "dataset.augmentation.segmentation.scale_jitter",
            "the smallest factor is above the largest",
            "[smallest, largest]",
        )


def _schedule(s: _Findings) -> None:
    epochs = s("train.num_epochs")
    warmup = s("train.optim.warmup_epochs", 0)
    if warmup and warmup >= epochs:
        s.warn(
            "train.optim.warmup_epochs",
            f"{warmup} epochs of warm-up in a run of {epochs}: the rate never reaches its peak",
        )
    if s("train.optim.lr_scheduler") == "MultiStep":
        late = [item for item in s("train.optim.milestones", []) if item >= epochs]
        if late:
            s.warn(
                "train.optim.milestones",
                f"milestones {late} are beyond the run of {epochs} epochs: the rate does not fall there",
            )
    if s("train.optim.lr_scheduler") in ("cosine", "poly") and s("train.optim.min_lr", 0.0) > s(
        "train.optim.lr"
    ):
        s.error(
            "train.optim.min_lr",
            f"is above train.optim.lr={s('train.optim.lr')}",
            "at most train.optim.lr",
        )
    if (
        s("train.optim.monitor_name") == "val_loss"
        and not s("dataset.val_data_sources")
        and not s("dataset.val_fraction")
    ):
        s.error(
            "train.optim.monitor_name",
            "val_loss needs validation data",
            "train_loss, or dataset.val_data_sources",
        )


def _papers(s: _Findings) -> None:
    arch = ARCHS.get(str(s("model.arch")))
    if arch is None or s("train.stage") != "pretrain":
        return
    ratio = s("train.mask_ratio")
    if abs(ratio - arch.paper_mask_ratio) > 0.1:
        s.warn(
            "train.mask_ratio",
            f"{ratio} where the paper of {arch.title} uses {arch.paper_mask_ratio}",
        )
    if arch.family != "convnextv2" and s("model.decoder_depth") == 1:
        s.warn("model.decoder_depth", f"1 block where the paper of {arch.title} uses 8")
    images = s.facts.get("images")
    batch = s.facts.get("effective_batch")
    if images is not None and batch and images < batch:
        s.warn(
            "dataset.batch_size",
            f"the effective batch of {batch} is larger than the {images} training images: one partial step an epoch",
        )


def _recipe(s: _Findings) -> None:
    """Batch and rate against the published recipe. A rate may follow the batch linearly (SGD's rule) or by its root (Adam's)."""
    batch, rate = s.facts.get("effective_batch"), s("train.optim.lr")
    recipe = recipe_of(str(s("model.arch")), str(s("train.stage")), str(s("model.task")))
    if recipe is None or not batch or not rate:
        return
    share = batch / recipe.batch
    if not 1 / 64 <= share <= 4:
        s.warn(
            "dataset.batch_size",
            f"an effective batch of {batch} where {recipe.name} trains with {recipe.batch}",
        )
    rate = rate * (batch / 256 if s("train.optim.lr_scaling") == "linear" else 1.0)
    expected = sorted((recipe.rate * share, recipe.rate * share**0.5))
    if not expected[0] / 4 <= rate <= expected[1] * 4:
        text = " to ".join(dict.fromkeys(f"{value:.2g}" for value in expected))
        s.warn(
            "train.optim.lr",
            f"a peak rate of {rate:.2g} at a batch of {batch}, where that of {recipe.name} would be {text}",
        )


def _quality(s: _Findings) -> None:
    if s("train.precision") == "fp16" and s("train.accelerator") == "cpu":
        s.warn("train.precision", "fp16 on a CPU is slow and loses precision; use bf16 or fp32")


def _artefact(s: _Findings) -> None:
    path = s("export.onnx_file")
    if path and s("export.format") == "onnx" and not str(path).endswith(".onnx"):
        s.error(
            "export.onnx_file",
            "the name does not say what the file is",
            "a path that ends in .onnx",
        )


def _named_files(action: str, s: _Findings) -> None:
    """Files that somebody named for this run must be there, where it is known that it runs on this machine."""
    names = (
        [f"{action}.{name}" for name in ("checkpoint", "trt_engine", "onnx_file")]
        if action != "train"
        else []
    )
    if action == "train":
        names = ["train.pretrained_model_path", "train.resume_training_checkpoint_path"]
        if s("train.stage") == "pretrain" and s("train.probe.interval"):
            names += ["dataset.probe_train_data_sources", "dataset.probe_val_data_sources"]
    for key in names:
        origin = str(getattr(s.provenance.get(key), "kind", ""))
        value = s(key)
        if key == "export.onnx_file" or origin not in ("spec file", "shorthand", "override"):
            continue
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str) and "://" not in path and not Path(path).expanduser().exists():
                kind = DataError if key.endswith("sources") else NotFoundError
                s.errors.append(
                    kind(
                        "there is no such file or folder",
                        field=key,
                        got=path,
                        expected="a path that exists, or a URL",
                    )
                )


def _required(action: str, s: _Findings) -> None:
    key = READS_IMAGES.get(action)
    if key and not s(key) and not s.facts.get("sources_later"):
        s.error(
            key,
            f"{action} reads images and none are named",
            "a folder, an archive or a URL of either",
            "an empty source never means everything",
        )
    wanted = {
        "evaluate": "checkpoint",
        "inference": "checkpoint",
        "export": "checkpoint",
        "gen_trt_engine": "onnx_file",
    }.get(action)
    if (wanted and not s(f"{action}.{wanted}") and not s(f"{action}.trt_engine")) or (
        action == "gen_trt_engine" and not s("gen_trt_engine.onnx_file")
    ):
        if not s.facts.get("parent_later"):
            s.error(
                f"{action}.{wanted}",
                "there is no model to work on",
                "a file",
                "or give the job a parent",
            )
    elif (
        action in ("evaluate", "inference")
        and s(f"{action}.checkpoint")
        and s(f"{action}.trt_engine")
    ):
        s.error(f"{action}.trt_engine", f"{action}.checkpoint is given too", "one of the two")


def _in_vain(action: str, s: _Findings) -> None:
    """Warn about fields that somebody set and that act nowhere under this spec."""
    sections = {action, "model", "dataset", "train", "wandb"}
    brought = {
        key for key in ("model.arch", "model.task", "train.stage") if not s.known(action, key)
    }  # by the model
    for key, (conditions, default) in applies().items():
        if key.split(".")[0] not in sections or not s.given(key) or s(key) == default:
            continue
        if action != "train" and key.split(".")[0] != action:
            continue  # other actions are handed whole specs on purpose
        why = acts(conditions, s.spec, brought)
        if why:
            s.warn(key, f"is set in vain: {why}")


@functools.cache
def applies() -> dict[str, tuple[Mapping[str, Any], Any]]:
    """Dotted key → (conditions, default) of every field that acts only sometimes, from the packaged train schema."""
    from mae_skill.bundle import Bundle

    fields = field_nodes(Bundle.load().schema("train"))
    return {
        key: (node["applies_when"], node.get("default"))
        for key, node in fields.items()
        if node.get("applies_when")
    }
