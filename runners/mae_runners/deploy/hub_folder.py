"""Folders in the layout of the model hub (``model.safetensors``, ``config.json``, ``README.md``),
whichever library loads them."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
from mae_skill.errors import DependencyError
from mae_skill.spec import ExportSpec
from torch import Tensor, nn

from mae_runners.deploy import mmseg_format, timm_format
from mae_runners.deploy.artifact import ArtifactMeta
from mae_runners.deploy.card import card
from mae_runners.models.base import Backboned
from mae_runners.models.checkpoint import CheckpointMeta

CARD = "README.md"


def _format(name: str) -> ModuleType:
    if name in ("timm", "mmseg"):
        return timm_format if name == "timm" else mmseg_format
    return importlib.import_module("mae_runners.deploy.transformers_format")


def reference(format: str, model: Backboned) -> nn.Module:
    """The module whose outputs the library's must equal."""
    module: nn.Module = _format(format).reference(model)
    return module


def write(section: ExportSpec, model: Backboned, meta: ArtifactMeta, folder: Path) -> None:
    """Writes weights, configuration and model card into the new ``folder``."""
    saved = CheckpointMeta.for_model(
        model,
        classes=meta.classes,
        mean=meta.mean,
        std=meta.std,
        center_crop=meta.center_crop,
        eval_interpolation=meta.eval_interpolation,
        value_range=meta.value_range,
        exif_orientation=meta.exif_orientation,
        multi_label=meta.multi_label,
        thresholds=meta.thresholds,
        reduce_zero_label=meta.reduce_zero_label,
        mask_values=meta.mask_values,
    )
    module = _format(section.format)
    module.write(model, saved, folder, section.license)
    use, notes = module.words(model, saved)
    text = card(section.format, saved, Path(str(section.checkpoint)), use, notes, section.license)
    (folder / CARD).write_text(text, encoding="utf-8")


def outputs(format: str, folder: Path, images: Tensor) -> npt.NDArray[np.float32]:
    """What the library answers from the folder, float32."""
    found: Tensor = _format(format).outputs(folder, images)
    return found.float().numpy()


def require_transformers() -> None:
    """Raises `DependencyError` unless transformers is installed."""
    try:
        importlib.import_module("transformers")
    except ImportError as error:
        raise DependencyError(
            "transformers is not installed",
            field="export.format",
            expected="the package transformers",
            hint="pip install 'mae-skill[transformers]', or set export.format=timm",
        ) from error
