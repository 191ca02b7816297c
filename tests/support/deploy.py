"""Checkpoints with weights that matter, specs and contexts for the artifact actions, in process."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from mae_runners.context import RunContext
from mae_runners.models import build_classifier, build_mae, checkpoint
from mae_sdk.jobs.status import StatusWriter
from mae_skill.origin import Origin
from mae_skill.spec import ExperimentSpec

FAMILIES = {"vit_tiny_patch16": 64, "convnextv2_atto": 96, "hiera_tiny_224": 96}
CLASSES = ["eight", "five", "one", "zero"]


def make_spec(**values: Any) -> ExperimentSpec:
    """A spec with `values` over the defaults; two underscores are a dot: ``train__stage=…``."""
    given: dict[str, Any] = {}
    defaults = {
        "dataset.batch_size": 5,
        "dataset.num_workers_per_gpu": 0,
        "train.accelerator": "cpu",
    }
    for key, value in {
        **defaults,
        **{name.replace("__", "."): value for name, value in values.items()},
    }.items():
        *sections, name = key.split(".")
        section = given
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return ExperimentSpec.model_validate(given)


def make_context(
    action: str, folder: Path, provenance: dict[str, Origin] | None = None
) -> RunContext:
    """A one-process context that writes under ``folder/<action>``."""
    (folder / action).mkdir(parents=True, exist_ok=True)
    return RunContext(
        action,
        folder,
        folder / action,
        0,
        0,
        1,
        torch.device("cpu"),
        StatusWriter(None),
        provenance=provenance or {},
    )


def make_model(
    arch: str, stage: str, size: int | list[int], channels: int = 3, **model: Any
) -> Any:
    """A model whose every part matters: heads (almost zero when new) and GRN (zero) get seeded
    values."""
    return copy.deepcopy(_made(arch, stage, json.dumps(size), channels, json.dumps(model)))


@lru_cache(maxsize=8)
def _made(arch: str, stage: str, sides: str, channels: int, options: str) -> Any:
    torch.manual_seed(0)
    size, model = json.loads(sides), json.loads(options)
    small = {f"model__{name}": value for name, value in model.items()}
    decoder = {"model__decoder_embed_dim": 64, "model__decoder_num_heads": 4}
    spec = make_spec(
        model__arch=arch, model__num_classes=len(CLASSES), train__stage=stage, **decoder, **small
    )
    built = (
        build_classifier(spec.model, size, channels)
        if stage == "finetune"
        else build_mae(spec.model, spec.train, size, channels)
    )
    awaken(built)
    return built.eval()


def awaken(model: Any) -> None:
    """Random values of a useful size where initialization leaves zeros."""
    heads = model.head_parameter_names()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in heads and parameter.dim() > 1 and "pos_embed" not in name:
                parameter.normal_(std=0.2)
            elif "grn" in name:
                parameter.normal_(std=0.3)


def save_checkpoint(model: Any, path: Path, key: str | None = None, **more: Any) -> Path:
    """The model as a checkpoint of the train action; ``more`` are fields of its description."""
    details = {"classes": CLASSES} if hasattr(model, "num_classes") else {}
    meta = checkpoint.CheckpointMeta.for_model(model, **details, **more)
    checkpoint.save(
        {
            "state_dict": checkpoint.model_state(model),
            "epoch": 0,
            "global_step": 0,
            "mae": meta.to_dict(),
        },
        path,
        key,
    )
    return path


def write_digits(root: Path, per_class: int, size: int = 64) -> Path:
    """Real digits 8, 5, 1 and 0 in folders named by `CLASSES`."""
    import numpy as np
    from PIL import Image

    from tests.support.images import digits

    images, labels = digits()
    for name, digit in zip(CLASSES, (8, 5, 1, 0), strict=True):
        (root / name).mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(labels == digit)[:per_class]):
            Image.fromarray(images[index]).resize((size, size), Image.Resampling.BICUBIC).convert(
                "RGB"
            ).save(root / name / f"{number:03}.png")
    return root


def of_bands(digits: Path, channels: int) -> Path:
    """The digits as arrays whose bands differ: each is turned otherwise."""
    import numpy as np
    from PIL import Image

    root = digits.with_name(f"{digits.name}-{channels}")
    for path in digits.glob("*/*.png"):
        gray = np.asarray(Image.open(path).convert("L"))
        bands = [np.rot90(gray, turns) // (1 + turns // 4) for turns in range(channels)]
        target = root / path.parent.name / f"{path.stem}.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, np.stack(bands, axis=-1))
    return root


def scale_weight(model: Any, node_suffix: str, factor: float = -3.0) -> None:
    """Damages an ONNX model in place: multiplies the weight of the node whose name ends so. (Biases
    are shared while they are equal.)"""
    import numpy as np
    from onnx import numpy_helper

    node = next(node for node in model.graph.node if node.name.endswith(node_suffix))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    weight.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name)
    )
