"""export: a checkpoint as ONNX (or TorchScript, a `torch.export` program, a Triton repository), proven against the model before it exists.

Steps: build the module from the checkpoint alone; trace it; reduce its precision if asked; run it in the runtime that users will run
it in, on
real images; compare with torch; only then move the file to its name.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from mae_skill.errors import DependencyError, JobFailedError, SpecError
from torch import Tensor, nn

from mae_runners.deploy import artefact, gate, triton
from mae_runners.deploy import onnx as onnx_export
from mae_runners.deploy.eval_images import calibration_batches, gate_images
from mae_runners.deploy.int8 import calibrate, quantizable, quantize
from mae_runners.deploy.meta import ArtefactMeta, file_digest
from mae_runners.deploy.parity import thresholds_for
from mae_runners.deploy.precision import convert
from mae_runners.deploy.runtimes import require_onnx
from mae_runners.deploy.torch_formats import SUFFIXES, save_torch


def run(spec: Any, context: Any) -> dict[str, Any]:
    """Exports and writes the artefact; returns ``{"kpis", "artefacts", "parity", "meta"}``."""
    if not context.is_main:
        return {}
    section = spec.export
    if section.format in ("onnx", "triton"):
        require_onnx()
    target = target_path(section, context)
    if section.format != "triton":
        onnx_export.refuse_folder(target, "export.onnx_file")
        onnx_export.refuse_existing(target, section.overwrite)
    model, meta = load(spec, context)
    if section.format == "triton":
        onnx_export.refuse_existing(triton.model_folder(target, meta), section.overwrite)
    if section.format not in ("onnx", "triton") and meta.precision != "fp32":
        raise SpecError(
            "reduced precision is written into ONNX graphs only",
            field="export.data_type",
            got=section.data_type,
            expected="FP32",
            hint="set export.format=onnx",
        )
    module = onnx_export.deployable(model, meta).to(trace_device(section))
    images, origin = gate_images(spec, meta)
    context.log(f"parity is judged on {origin}")
    reference = gate.torch_outputs(module, images)
    thresholds = thresholds_for(meta.precision, section.parity, pixels=meta.segments)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        path = draft / (target.name if section.format != "triton" else "model.onnx")
        calibration = None
        if section.format in ("onnx", "triton"):
            graph = onnx_export.to_onnx(module, meta, verbose=section.verbose)
            calibration = reduce(graph, meta, spec)
            onnx_export.save(graph, path, overwrite=False)
        else:
            save_torch(module, meta, path, section.format)
        report = gate.judge(reference, gate.artefact_outputs(path, meta, images), meta, thresholds)
        if not report.passed:
            raise departure(report, module, path, meta, images, thresholds)
        files = settle(draft, path, target, section, meta, list(reference.shape[1:]))
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    agreement = (
        "" if report.top1_agreement is None else f", top-1 agreement {report.top1_agreement:.3f}"
    )
    context.log(
        f"{target}: cosine {report.cosine_min:.7f}, largest difference {report.max_abs:.2e}{agreement}"
    )
    kpis = {
        "parity_cosine": report.cosine_min,
        "parity_max_abs": report.max_abs,
        "size_mb": sum(file.stat().st_size for file in files) / 1e6,
    }
    if report.top1_agreement is not None:
        kpis["parity_top1_agreement"] = report.top1_agreement
    return {
        "kpis": kpis,
        "artefacts": [str(file) for file in files],
        "parity": {
            **report.to_dict(),
            "images_from": origin,
            "calibration": calibration,
            "thresholds": vars(thresholds),
        },
        "meta": vars(meta),
    }


def target_path(section: Any, context: Any) -> Path:
    """``export.onnx_file``, with the suffix of the format; by default ``model.<suffix>`` (``triton``: the folder ``model_repository``)."""
    named = Path(section.onnx_file) if section.onnx_file else context.action_dir / "model.onnx"
    if section.format == "triton":
        return named.parent / "model_repository"
    return named if section.format == "onnx" else named.with_suffix(SUFFIXES[section.format])


def load(spec: Any, context: Any) -> tuple[nn.Module, ArtefactMeta]:
    """The model of `export.checkpoint` at the size the spec asks for, and the description its artefact will carry."""
    from mae_runners.models import build_from_config, load_pretrained
    from mae_runners.models.checkpoint import load_model

    section = spec.export
    if not section.checkpoint:
        raise SpecError(
            "there is no checkpoint to export",
            field="export.checkpoint",
            expected="a .pth file",
            hint="or give the job a parent",
        )
    path = Path(section.checkpoint)
    model, saved = load_model(path, context.encryption_key)
    pretrain = saved.stage == "pretrain"
    trained = [int(side) for side in saved.input_size]
    meta = ArtefactMeta(
        arch=saved.arch,
        stage=saved.stage,
        input_size=[
            int(section.input_height or trained[0]),
            int(section.input_width or trained[1]),
        ],
        mean=[float(value) for value in saved.mean],
        std=[float(value) for value in saved.std],
        output=section.features if pretrain else "logits",
        classes=saved.classes,
        num_classes=None if pretrain else saved.num_classes,
        preprocessing=section.include_preprocessing,
        precision=section.data_type.lower(),
        batch=section.batch_size if section.batch_size > 0 else -1,
        opset=section.opset_version if section.format in ("onnx", "triton") else 0,
        checkpoint_sha256=file_digest(path),
        task=saved.task,
    )
    described = ArtefactMeta(**{**vars(meta), "input_size": trained})
    artefact.check_agreement(spec, context.provenance, described, "export.checkpoint")
    if meta.input_size != trained:
        try:
            resized = build_from_config({**saved.model, "input_size": meta.input_size})
        except SpecError as error:
            field = "export.input_width" if section.input_width else "export.input_height"
            raise SpecError(
                error.message,
                field=field,
                got=meta.input_size,
                expected=error.expected,
                hint=error.hint,
            ) from error
        report = load_pretrained(resized, path, context.encryption_key)
        context.log(f"input size {trained} → {meta.input_size}: {report.summary()}")
        left = [name for name in report.missing if name.startswith("encoder.")]
        assert not left, f"a checkpoint of ours fills its own architecture: {left}"
        model = resized.eval()
    return model, meta


def trace_device(section: Any) -> torch.device:
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
    return torch.device("cuda", int(section.gpu_id))


def reduce(model: Any, meta: ArtefactMeta, spec: Any) -> str | None:
    """Brings the graph to `meta.precision` in place; for int8 returns what it was calibrated on."""
    if meta.precision == "int8":
        batches, origin = calibration_batches(spec, meta)
        names = sorted({node.input[0] for node in quantizable(model)})
        quantize(model, calibrate(model, sized(batches, meta), names))
        return origin
    convert(model, meta.precision)
    return None


def sized(batches: list[Any], meta: ArtefactMeta) -> list[Any]:
    """Calibration batches as a graph takes them: as they are, or cut to its fixed batch (a rest that does not fill one is left out).

    Raises:
        SpecError: there are fewer images than the fixed batch.
    """
    if meta.batch <= 0:
        return batches
    import numpy as np

    images = np.concatenate(batches)
    if len(images) < meta.batch:
        raise SpecError(
            "there are fewer calibration images than the fixed batch",
            field="gen_trt_engine.tensorrt.calibration.cal_batches",
            got=len(images),
            expected=f"at least {meta.batch} images",
        )
    return [
        images[start : start + meta.batch]
        for start in range(0, len(images) - meta.batch + 1, meta.batch)
    ]


def departure(
    report: Any, module: nn.Module, path: Path, meta: ArtefactMeta, images: Tensor, thresholds: Any
) -> JobFailedError:
    """The gate's error, with the first layer that departs where the graph can tell."""
    where = None
    if path.suffix == ".onnx":
        import onnx

        where = gate.first_departure(module, onnx.load(str(path)), meta, images, thresholds)
    return gate.refuse(report, meta, where)


def settle(
    draft: Path, path: Path, target: Path, section: Any, meta: ArtefactMeta, output_dims: list[int]
) -> list[Path]:
    """Moves what passed to its name: the data file before the file that refers to it."""
    files = sorted(draft.iterdir(), key=lambda file: file.name)
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
