"""gen_trt_engine: an exported ONNX file as a TensorRT engine, for the GPU at hand or, with tensorrt_rtx, ahead of time for named targets.

The precision is written into the graph first (`tensorrt.data_type`, `tensorrt.layers_precision`), and that graph is compared with the
float32 one
in ONNX Runtime on real images, so that what goes into the builder is known to be right. Engines themselves need their GPU to run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mae_skill.errors import CheckpointError, NotFoundError, SpecError

from mae_runners.actions.export import sized
from mae_runners.deploy import gate
from mae_runners.deploy import onnx as onnx_export
from mae_runners.deploy import tensorrt as tensorrt_build
from mae_runners.deploy.eval_images import calibration_batches, gate_count, gate_images
from mae_runners.deploy.int8 import calibrate, quantizable, quantize, read_cache, write_cache
from mae_runners.deploy.meta import ArtefactMeta, file_digest, sidecar
from mae_runners.deploy.parity import thresholds_for
from mae_runners.deploy.precision import (
    convert,
    emulate_low_precision,
    match_rules,
    parse_layers_precision,
)
from mae_runners.deploy.runtimes import require_onnx


def run(spec: Any, context: Any) -> dict[str, Any]:
    """Builds the engine and its description; returns ``{"kpis", "artefacts", "parity", "engine"}``."""
    if not context.is_main:
        return {}
    section = spec.gen_trt_engine
    settings = section.tensorrt
    data_type = str(settings.data_type).lower()
    if data_type not in tensorrt_build.DATA_TYPES:
        raise SpecError(
            "unknown data type",
            field="gen_trt_engine.tensorrt.data_type",
            got=settings.data_type,
            expected=", ".join(tensorrt_build.DATA_TYPES),
        )
    rules = parse_layers_precision(settings.layers_precision)
    library = tensorrt_build.load_backend(section.backend)  # before any work: exit 7 comes at once
    tensorrt_build.choose_targets(library, section.backend, section.targets)
    require_onnx()
    target = Path(section.trt_engine) if section.trt_engine else context.action_dir / "model.engine"
    onnx_export.refuse_folder(target, "gen_trt_engine.trt_engine")
    onnx_export.refuse_existing(target, bool(section.overwrite), "gen_trt_engine.overwrite")
    model, meta, digest = read_graph(section)
    if meta.precision != "fp32":
        raise SpecError(
            "the ONNX file is already reduced",
            field="gen_trt_engine.onnx_file",
            got=meta.precision,
            expected="an fp32 export",
            hint="gen_trt_engine reduces precision itself; export with export.data_type=FP32",
        )
    profile = batch_profile(section, meta)
    images, origin = gate_images(spec, meta, gate_count(meta, data_type))
    reference = gate.onnx_outputs(model, meta, images)
    meta.precision = data_type
    calibration = reduce(model, meta, rules, spec, digest, context)
    parity: dict[str, Any] | None = None
    if data_type != "fp32" or rules:
        parity = check(model, meta, images, reference, spec)
        parity["images_from"] = origin
        figures = f"cosine {parity['cosine_min']:.6f}, largest difference {parity['max_abs']:.2e}"
        context.log(f"{data_type} graph against fp32 on {origin}: {figures}")
    onnx_export.describe(model, meta)
    timing_cache = Path(section.timing_cache) if section.timing_cache else None
    if timing_cache and section.backend == "tensorrt_rtx":
        context.warn(
            "gen_trt_engine.timing_cache does nothing with tensorrt_rtx, which times no kernels when it builds"
        )
    description = tensorrt_build.build_engine(
        model,
        target,
        meta,
        backend=section.backend,
        targets=section.targets,
        profile=profile,
        workspace_mb=int(settings.workspace_size),
        timing_cache=timing_cache,
        verbose=bool(section.verbose),
        overwrite=bool(section.overwrite),
        extra={
            "onnx_sha256": digest,
            "calibration": calibration,
            "layers_precision": [f"{pattern}:{kind}" for pattern, kind in rules],
        },
    )
    context.log(
        f"{target}: {description['engine_bytes'] / 1e6:.1f} MB for {', '.join(description['targets'])}"
    )
    kpis = {"engine_mb": description["engine_bytes"] / 1e6, "layers": description["layers"]}
    if parity:
        kpis["parity_cosine"] = parity["cosine_min"]
    return {
        "kpis": kpis,
        "artefacts": [str(target), str(sidecar(target))],
        "parity": parity,
        "engine": description,
    }


def read_graph(section: Any) -> tuple[Any, ArtefactMeta, str]:
    """The ONNX model of `gen_trt_engine.onnx_file` with its weights, its description, and the file's digest.

    Raises:
        SpecError, NotFoundError, CheckpointError: none is named, it does not exist, or it is no export of ours.
    """
    import onnx

    if not section.onnx_file:
        raise SpecError(
            "there is no ONNX file to build from",
            field="gen_trt_engine.onnx_file",
            expected="an .onnx file of the export action",
            hint="or give the job an export parent",
        )
    path = Path(section.onnx_file)
    if not path.is_file():
        raise NotFoundError(
            f"there is no file {path}", field="gen_trt_engine.onnx_file", got=str(path)
        )
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise unrelated classes for a damaged file
        raise CheckpointError(
            f"{path.name} cannot be read as ONNX",
            field="gen_trt_engine.onnx_file",
            got=str(error)[:200],
        ) from error
    return model, onnx_export.read_meta(model, path), file_digest(path)


def batch_profile(section: Any, meta: ArtefactMeta) -> tensorrt_build.Profile:
    """The batch sizes the engine accepts; ``gen_trt_engine.batch_size`` > 0 asks for that one alone.

    Raises:
        SpecError: the ONNX file has another fixed batch.
    """
    settings, wanted = section.tensorrt, int(section.batch_size)
    if meta.batch > 0:
        if wanted > 0 and wanted != meta.batch:
            raise SpecError(
                "the ONNX file has another fixed batch",
                field="gen_trt_engine.batch_size",
                got=wanted,
                expected=str(meta.batch),
                hint="export with export.batch_size=-1 for any batch",
            )
        return tensorrt_build.Profile(meta.batch, meta.batch, meta.batch)
    if wanted > 0:
        return tensorrt_build.Profile(wanted, wanted, wanted)
    return tensorrt_build.Profile(
        int(settings.min_batch_size), int(settings.opt_batch_size), int(settings.max_batch_size)
    )


def reduce(
    model: Any,
    meta: ArtefactMeta,
    rules: list[tuple[str, str]],
    spec: Any,
    digest: str,
    context: Any,
) -> str | None:
    """Writes the precision into the graph; for int8 calibrates, or takes the cache. Returns where the scales came from."""
    if meta.precision != "int8":
        convert(model, meta.precision, rules)
        return None
    chosen = match_rules(rules, [node.name for node in model.graph.node if node.name])
    if any(kind != "fp32" for kind in chosen.values()):
        raise SpecError(
            "in an int8 engine layers are int8 or fp32",
            field="gen_trt_engine.tensorrt.layers_precision",
            got=[list(rule) for rule in rules],
            expected="PATTERN:fp32",
        )
    cache = spec.gen_trt_engine.tensorrt.calibration.cal_cache_file
    path = Path(cache) if cache else None
    if path and path.exists():
        scales, origin = read_cache(path, digest), f"the cache {path.name}"
    else:
        batches, origin = calibration_batches(spec, meta)
        scales = calibrate(
            model, sized(batches, meta), sorted({node.input[0] for node in quantizable(model)})
        )
        if path:
            write_cache(path, scales, digest, sum(map(len, batches)))
    context.log(f"int8 scales from {origin}")
    quantize(model, scales, exclude=[name for name, kind in chosen.items() if kind == "fp32"])
    return origin


def check(
    model: Any, meta: ArtefactMeta, images: Any, reference: np.ndarray, spec: Any
) -> dict[str, Any]:
    """The parity figures of the reduced graph in ONNX Runtime.

    Raises:
        JobFailedError: it departs from the float32 graph.
    """
    import onnx

    runnable = model
    if any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in model.graph.initializer):
        runnable = onnx.ModelProto()
        runnable.CopyFrom(model)
        emulate_low_precision(runnable)
    thresholds = thresholds_for(meta.precision, spec.gen_trt_engine.parity, pixels=meta.segments)
    report = gate.judge(reference, gate.onnx_outputs(runnable, meta, images), meta, thresholds)
    if not report.passed:
        raise gate.refuse(report, meta, field="gen_trt_engine.parity")
    return report.to_dict()
