"""The parity gate: an artefact exists only if it agrees with the model on real images; otherwise the job fails and says where it
departs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_skill.errors import JobFailedError
from torch import Tensor, nn

from mae_runners.deploy.meta import INPUT_NAME, ArtefactMeta
from mae_runners.deploy.onnx import session_of, unfused_attention
from mae_runners.deploy.parity import ParityReport, Thresholds, compare

BATCH = 8


@torch.no_grad()
def torch_outputs(module: nn.Module, images: Tensor) -> np.ndarray:
    """The model's answers, [N, …] float32, with the attention that training and evaluation use."""
    device = next(module.parameters()).device
    return torch.cat(
        [module(part.to(device)).float().cpu() for part in images.split(BATCH)]
    ).numpy()


def onnx_outputs(model: Any, meta: ArtefactMeta, images: Tensor) -> np.ndarray:
    """An ONNX model's (or file's) answers in ONNX Runtime on the CPU; short batches are filled up where the batch is fixed."""
    session = session_of(model)
    size = meta.batch if meta.batch > 0 else BATCH
    outputs = []
    for part in images.split(size):
        missing = size - len(part) if meta.batch > 0 else 0
        padded = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        outputs.append(
            session.run([meta.output_name], {INPUT_NAME: padded.numpy()})[0][: len(part)]
        )
    return np.concatenate(outputs)


def judge(
    reference: np.ndarray, candidate: np.ndarray, meta: ArtefactMeta, thresholds: Thresholds
) -> ParityReport:
    """`compare`, for an artefact's kind of output."""
    return compare(reference, candidate, thresholds, logits=meta.output == "logits")


def refuse(
    report: ParityReport, meta: ArtefactMeta, where: str | None = None, field: str = "export.parity"
) -> JobFailedError:
    """The error of an artefact that departs from its model."""
    place = f"; the first layer that departs is {where}" if where else ""
    return JobFailedError(
        f"the {meta.precision} artefact does not agree with the model: {'; '.join(report.failures)}{place}",
        field=field,
        got={
            "cosine_min": report.cosine_min,
            "max_abs": report.max_abs,
            "top1_agreement": report.top1_agreement,
        },
        expected="agreement within the thresholds; nothing was written",
        hint=("calibrate on more images, " if meta.precision == "int8" else "")
        + (
            "export in fp32, "
            if field == "export.parity"
            else "build in fp32, keep the layer in fp32 with layers_precision, "
        )
        + "or, knowing the cost, set looser thresholds",
    )


def first_departure(
    module: nn.Module, model: Any, meta: ArtefactMeta, images: Tensor, thresholds: Thresholds
) -> str | None:
    """The first submodule, in the order they run, whose output in the ONNX model differs from torch's; None when none can be told.

    The exporter names nodes by module path, so a module's output is the output of the last node below its path.
    """
    import onnx

    scopes = {
        f"/{_scope(name)}/": name
        for name, part in module.named_modules()
        if name and not isinstance(part, nn.ModuleList)
    }
    last: dict[str, str] = {}
    for node in model.graph.node:
        name = node.name
        for end in [match.end() for match in re.finditer("/", name)][1:]:
            if name[:end] in scopes:
                last[scopes[name[:end]]] = node.output[0]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    present = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        onnx.ValueInfoProto(name=name)
        for name in dict.fromkeys(last.values())
        if name not in present
    )
    few = images[: meta.batch if meta.batch > 0 else 2]
    session = session_of(probe, optimise=False)
    values = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {INPUT_NAME: few.numpy()}),
            strict=True,
        )
    )
    found: list[str] = []

    def hook(name: str) -> Any:
        def compare_output(_: nn.Module, __: Any, output: Any) -> None:
            other = values.get(last[name])
            if (
                found
                or not isinstance(output, Tensor)
                or other is None
                or other.shape != tuple(output.shape)
            ):
                return
            a, b = (
                output.double().cpu().flatten(1),
                torch.from_numpy(other.astype(np.float64)).flatten(1),
            )
            if (
                torch.nn.functional.cosine_similarity(a, b, dim=1).min() < thresholds.min_cosine
                or not torch.isfinite(b).all()
            ):
                found.append(name)

        return compare_output

    handles = [
        part.register_forward_hook(hook(name))
        for name, part in module.named_modules()
        if name in last
    ]
    try:
        with torch.no_grad(), unfused_attention(module):
            module(few.to(next(module.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _scope(name: str) -> str:
    """``encoder.blocks.0.attn`` → ``encoder/blocks/blocks.0/attn``: how the exporter writes a path (a list's element repeats its list)."""
    parts: list[str] = []
    pieces = name.split(".")
    for index, piece in enumerate(pieces):
        if piece.isdigit() and index:
            parts.append(f"{pieces[index - 1]}.{piece}")
        else:
            parts.append(piece)
    return "/".join(parts)


def artefact_outputs(path: Path, meta: ArtefactMeta, images: Tensor) -> np.ndarray:
    """The answers of an exported file by its format: ONNX, TorchScript (``.ts``) or a `torch.export` program (``.pt2``)."""
    if path.suffix == ".onnx":
        return onnx_outputs(path, meta, images)
    loaded: Any = (
        torch.jit.load(str(path)) if path.suffix == ".ts" else torch.export.load(str(path)).module()
    )
    size = meta.batch if meta.batch > 0 else BATCH
    with torch.no_grad():
        outputs = []
        for part in images.split(size):
            missing = size - len(part) if meta.batch > 0 else 0
            padded = (
                torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
            )
            outputs.append(loaded(padded)[: len(part)].numpy())
    return np.concatenate(outputs)
