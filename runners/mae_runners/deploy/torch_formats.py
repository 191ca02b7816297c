"""TorchScript files and `torch.export` programs, with the artefact's description inside."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from mae_skill.errors import CheckpointError
from torch import nn

from mae_runners.deploy.meta import ArtefactMeta
from mae_runners.deploy.onnx import example_input, unfused_attention

SUFFIXES = {"onnx": ".onnx", "torchscript": ".ts", "torch_export": ".pt2", "triton": ".onnx"}


def save_torch(module: nn.Module, meta: ArtefactMeta, path: Path, kind: str) -> None:
    """Writes `module` as ``torchscript`` or ``torch_export`` to `path`; the description is the extra file ``mae.json`` inside.

    Raises:
        CheckpointError: torch cannot trace the module.
    """
    images = example_input(meta, meta.batch if meta.batch > 0 else 2).to(
        next(module.parameters()).device
    )
    extra = {"mae.json": json.dumps(meta.to_properties())}
    try:
        with torch.no_grad(), warnings.catch_warnings(), unfused_attention(module):
            warnings.simplefilter("ignore")
            if kind == "torchscript":
                torch.jit.save(
                    torch.jit.trace(module, images, check_trace=False),
                    str(path),
                    _extra_files=extra,
                )
            else:
                dynamic = (
                    None if meta.batch > 0 else ({0: torch.export.Dim("batch", min=1, max=4096)},)
                )
                torch.export.save(
                    torch.export.export(module, (images,), dynamic_shapes=dynamic),
                    str(path),
                    extra_files=extra,
                )
    except (RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{meta.arch} cannot be written as {kind}: {str(error).strip().splitlines()[0]}",
            field="export.format",
        ) from error
