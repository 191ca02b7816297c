"""export: a checkpoint as ONNX (or TorchScript, a `torch.export` program, a Triton repository, a
folder that timm or transformers loads), proven against the model before it exists.

Steps: build the module from the checkpoint alone; trace it; reduce its precision if asked; run it
on real images in the runtime that users will run it in; compare with torch; only then move the file
to its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from mae_sdk.files import atomic_folder, temporary_folder
from mae_sdk.storage import hub
from mae_skill.errors import DependencyError, JobFailedError, SpecError
from mae_skill.origin import is_explicit
from mae_skill.spec import ExperimentSpec, ExportSpec
from mae_skill.weights.hand_on import FOLDERS, cannot_prepare, why_not
from torch import Tensor, nn

from mae_runners.context import RunContext
from mae_runners.deploy import hub_folder, int8, parity, triton
from mae_runners.deploy import onnx as onnx_format
from mae_runners.deploy.artifact import (
    ArtifactMeta,
    check_agreement,
    check_no_folder,
    check_target,
    take_crop,
)
from mae_runners.deploy.eval_images import calibration_batches, gate_images
from mae_runners.deploy.precision import convert
from mae_runners.deploy.torch_formats import SUFFIXES, save_torch
from mae_runners.deploy.usage import usage
from mae_runners.models import build_from_config, load_pretrained
from mae_runners.models.base import Backboned
from mae_runners.models.checkpoint import CheckpointMeta
from mae_runners.models.pretrained import load_described

if TYPE_CHECKING:
    import onnx


def run(spec: ExperimentSpec, context: RunContext) -> dict[str, Any]:
    """Exports and writes the artifact; returns ``{"kpis", "artefacts", "parity", "meta"}``, and
    ``usage`` of a file that other programs feed."""
    if not context.is_main:
        return {}

    section = spec.export
    target = target_path(section, context)
    check_request(section, target)
    model, meta = load(spec, context)
    if section.format == "triton":
        check_target(triton.model_folder(target, meta), section.overwrite)

    in_folder = section.format in FOLDERS
    module = (
        hub_folder.reference(section.format, cast(Backboned, model))
        if in_folder
        else onnx_format.deployable(model, meta).to(trace_device(section))
    )
    gate = gate_images(spec, meta)
    images = gate.pixels
    context.log(f"parity is judged on {gate.listed()}")
    reference = parity.torch_outputs(module, images)
    thresholds = parity.thresholds_for(meta.precision, section.parity, pixels=meta.segments)

    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".export-", target.parent) as draft:
        path = draft / (target.name if section.format != "triton" else "model.onnx")
        if in_folder:
            calibration = None
            hub_folder.write(section, cast(Backboned, model), meta, path)
            outputs = hub_folder.outputs(section.format, path, images)
        else:
            calibration = write(module, meta, spec, path)
            outputs = parity.artifact_outputs(path, meta, images)
        report = parity.compare(
            reference, outputs, thresholds, logits=meta.output == "logits", cuts=meta.cuts
        )
        if not report.passed:
            raise difference(report, module, path, meta, images, thresholds)
        files = move(draft, path, target, section, meta, list(reference.shape[1:]))

    figures = f"cosine {report.cosine_min:.7f}, largest difference {report.max_abs:.2e}"
    kpis = {
        "parity_cosine": report.cosine_min,
        "parity_max_abs": report.max_abs,
        "size_mb": sum(file.stat().st_size for file in files) / 1e6,
    }
    if report.top1_agreement is not None:
        figures += f", top-1 agreement {report.top1_agreement:.3f}"
        kpis["parity_top1_agreement"] = report.top1_agreement
    context.log(f"{target}: {figures}")
    pushed = {}
    if section.push_to_hub and in_folder:
        found = hub.push(target, section.push_to_hub, f"{meta.arch}, {section.format}")
        context.log(f"pushed to {found['url']}")
        pushed = {"pushed": found}
    return {
        "kpis": kpis,
        "artefacts": [str(file) for file in files],
        "parity": {
            **report.to_dict(),
            "images_from": str(gate),
            **gate.to_dict(),
            "calibration": calibration,
            "thresholds": vars(thresholds),
        },
        "meta": vars(meta),
        **({} if in_folder else {"usage": usage(meta, reference.shape[1:])}),
        **pushed,
    }


def target_path(section: ExportSpec, context: RunContext) -> Path:
    """``export.onnx_file``, with the suffix of the format; by default ``model.<suffix>``
    (``triton``: the folder ``model_repository``; ``timm``, ``transformers``: one of that name)."""
    path = Path(section.onnx_file) if section.onnx_file else context.action_dir / "model.onnx"
    if section.format in FOLDERS:
        return path.parent / section.format
    if section.format == "triton":
        return path.parent / "model_repository"
    return path if section.format == "onnx" else path.with_suffix(SUFFIXES[section.format])


def check_request(section: ExportSpec, target: Path) -> None:
    """Rejects, before any work, what cannot be written.

    Raises:
        DependencyError: a package is missing.
        UsageError: `target` is a folder, or exists and may not be replaced; or there is no token
            for the hub.
        SpecError: the format has no reduced precision.
    """
    if section.push_to_hub and section.format in FOLDERS:
        hub.need_token("export.push_to_hub", section.push_to_hub)
    if section.format in ("onnx", "triton"):
        onnx_format.require("onnx", "onnxruntime")
    elif section.format == "transformers":
        hub_folder.require_transformers()
    if section.format not in ("onnx", "triton") and section.data_type != "fp32":
        raise SpecError(
            "reduced precision is written into ONNX graphs only",
            field="export.data_type",
            got=section.data_type,
            expected="fp32",
            hint="set export.format=onnx",
        )
    if section.format != "triton":
        if section.format not in FOLDERS:
            check_no_folder(target, "export.onnx_file")
        check_target(target, section.overwrite)


def load(spec: ExperimentSpec, context: RunContext) -> tuple[nn.Module, ArtifactMeta]:
    """The model of `export.checkpoint` at the size the spec asks for, and the description its
    artifact will carry.

    Raises:
        SpecError: no checkpoint, one that the spec contradicts, or a size that does not fit.
    """
    section = spec.export
    if not section.checkpoint:
        raise SpecError(
            "no model given",
            field="export.checkpoint",
            expected="a .pth file",
            hint="set export.checkpoint, or pass --parent JOB",
        )
    path = Path(section.checkpoint)
    model, saved, _ = load_described(path, context.encryption_key, spec, "export.checkpoint")
    traced = section.format not in FOLDERS
    meta = ArtifactMeta.of_checkpoint(
        saved,
        path,
        features=section.features if traced else "tokens",
        preprocessing=section.include_preprocessing and traced,
        precision=section.data_type,
        batch=section.batch_size if section.batch_size > 0 and traced else -1,
        opset=section.opset_version if section.format in ("onnx", "triton") else 0,
    )
    check_agreement(spec, context.provenance, meta, "export.checkpoint", saved.model)
    if meta.preprocessing and meta.value_range:
        low, high = meta.value_range
        context.warn(
            f"export.include_preprocessing: the graph takes bytes; bring {low:g} … {high:g} to "
            "0 … 255 before it, as dataset.value_range did in training"
        )
    asked = section.input_channel
    if asked != meta.channels and is_explicit(context.provenance, "export.input_channel"):
        raise SpecError(
            "contradicts export.checkpoint",
            field="export.input_channel",
            got=asked,
            expected=str(meta.channels),
            hint="leave it out: it is taken from the model",
        )
    take_crop(spec, context.provenance, meta)

    height, width = saved.input_size
    meta.input_size = [section.input_height or height, section.input_width or width]
    check_format(section.format, {**saved.model, "input_size": meta.input_size})
    if unprepared := cannot_prepare(section.format, meta.channels, meta.value_range):
        context.warn(f"export.format: {unprepared}")
    if meta.input_size != list(saved.input_size):
        model = resize(saved, meta.input_size, section, context)
    return model, meta


def check_format(format: str, model: dict[str, Any]) -> None:
    """Raises `SpecError` for a model that the format cannot hold; the plan says the same where it
    knows the model."""
    refusal = why_not(format, model)
    if refusal is not None:
        raise SpecError(
            f"{format} cannot hold this model: {refusal.reason}",
            field="export.format",
            got=format,
            expected="a format that holds it",
            hint=refusal.hint,
        )


def resize(
    saved: CheckpointMeta, size: list[int], section: ExportSpec, context: RunContext
) -> nn.Module:
    """The checkpoint's model for another input size [height, width].

    Raises:
        SpecError: the architecture does not take the size.
    """
    try:
        model = build_from_config({**saved.model, "input_size": size})
    except SpecError as error:
        raise SpecError(
            error.message,
            field="export.input_width" if section.input_width else "export.input_height",
            got=size,
            expected=error.expected,
            hint=error.hint,
        ) from error

    report = load_pretrained(
        model, str(section.checkpoint), context.encryption_key, file_field="export.checkpoint"
    )
    context.log(f"input size {saved.input_size} → {size}: {report.summary()}")
    unfilled = [name for name in report.missing if name.startswith("encoder.")]
    assert not unfilled, f"a checkpoint of ours fills its own architecture: {unfilled}"
    return model.eval()


def trace_device(section: ExportSpec) -> torch.device:
    """Where tracing happens: the CPU, or with ``export.on_cpu=false`` the GPU ``export.gpu_id``.

    Raises:
        DependencyError: a GPU is asked for and there is none.
    """
    if section.on_cpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DependencyError(
            "there is no GPU to trace on",
            field="export.on_cpu",
            got=False,
            hint="set export.on_cpu=true",
        )
    return torch.device("cuda", section.gpu_id)


def write(module: nn.Module, meta: ArtifactMeta, spec: ExperimentSpec, path: Path) -> str | None:
    """Writes the module in the format of the spec; for int8 returns what it was calibrated on."""
    if spec.export.format not in ("onnx", "triton"):
        save_torch(module, meta, path, spec.export.format)
        return None

    graph = onnx_format.to_onnx(module, meta, verbose=spec.export.verbose)
    calibration = reduce_precision(graph, meta, spec)
    onnx_format.save(graph, path, overwrite=False)
    return calibration


def reduce_precision(
    graph: onnx.ModelProto, meta: ArtifactMeta, spec: ExperimentSpec
) -> str | None:
    """Brings the graph to `meta.precision` in place; for int8 returns what it was calibrated on."""
    if meta.precision != "int8":
        convert(graph, meta.precision)
        return None

    batches, origin = calibration_batches(spec, meta)
    int8.quantize(graph, int8.calibrate(graph, int8.batches_of(batches, meta.batch)))
    return origin


def difference(
    report: parity.ParityReport,
    module: nn.Module,
    path: Path,
    meta: ArtifactMeta,
    images: Tensor,
    thresholds: parity.Thresholds,
) -> JobFailedError:
    """The gate's error for the caller to raise, with the first layer that differs where the graph
    shows it."""
    layer = None
    if path.suffix == ".onnx":
        import onnx

        graph = onnx.load(str(path))
        layer = parity.first_differing_layer(module, graph, meta, images, thresholds)
    return parity.parity_error(report, meta, layer)


def move(
    draft: Path,
    path: Path,
    target: Path,
    section: ExportSpec,
    meta: ArtifactMeta,
    output_dims: list[int],
) -> list[Path]:
    """Moves what passed to its name: the data file before the file that refers to it."""
    files = sorted(draft.iterdir(), key=lambda file: file.name)
    if section.format in FOLDERS:
        with atomic_folder(target, replace=section.overwrite) as final:
            for file in path.iterdir():
                file.replace(final / file.name)
        return sorted(target.iterdir())
    if section.format == "triton":
        return triton.write_repository(
            target, meta, files, output_dims, overwrite=section.overwrite
        )

    for file in sorted(files, key=lambda file: file == path):
        file.replace(target.parent / file.name)
    stale = target.with_name(target.name + ".data")
    if stale.exists() and stale.name not in {file.name for file in files}:
        stale.unlink()  # weights of the larger model that was overwritten
    return [target.parent / file.name for file in files]
