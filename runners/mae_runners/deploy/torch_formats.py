"""TorchScript files and `torch.export` programs, with the artifact's description inside."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from mae_skill.errors import CheckpointError
from torch import nn

from mae_runners.deploy.artifact import ArtifactMeta
from mae_runners.deploy.onnx import example_input, unfused_attention

SUFFIXES = {"onnx": ".onnx", "torchscript": ".ts", "torch_export": ".pt2", "triton": ".onnx"}
MAX_BATCH = 4096  # of a torch.export program that takes any batch


def save_torch(module: nn.Module, meta: ArtifactMeta, path: Path, kind: str) -> None:
    """Writes `module` as ``torchscript`` or ``torch_export`` to `path`; the description is the
    extra file ``mae.json`` inside.

    Raises:
        CheckpointError: torch cannot trace the module.
    """
    device = next(module.parameters()).device
    images = example_input(meta, meta.batch if meta.batch > 0 else 2).to(device)
    extra = {"mae.json": json.dumps(meta.to_properties())}
    try:
        with torch.no_grad(), warnings.catch_warnings(), unfused_attention(module):
            warnings.simplefilter("ignore")
            if kind == "torchscript":
                traced = torch.jit.trace(module, images, check_trace=False)
                torch.jit.save(traced, str(path), _extra_files=extra)
            else:
                batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
                program = torch.export.export(
                    module, (images,), dynamic_shapes=None if meta.batch > 0 else ({0: batch},)
                )
                torch.export.save(program, str(path), extra_files=extra)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{meta.arch} cannot be written as {kind}: {str(error).strip().splitlines()[0]}",
            field="export.format",
        ) from error
