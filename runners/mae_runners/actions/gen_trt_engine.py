"""gen_trt_engine: an exported ONNX file as a TensorRT engine, for the GPU at hand or, with
tensorrt_rtx, ahead of time for named targets.

The precision is written into the graph first (`tensorrt.data_type`, `tensorrt.layers_precision`),
and that graph is compared with the float32 one in ONNX Runtime on real images, so that what goes
into the builder is known to be right. Engines themselves need their GPU to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_sdk.jobs.checkpoints import sha256_of
from mae_skill.dotted import get_dotted
from mae_skill.errors import CheckpointError, NotFoundError, SpecError
from mae_skill.onnx_file import (
    INPUT_SIZE,
    OnnxHeader,
    int8_layers_error,
    parse_layers_precision,
    precision_error,
    profile_errors,
    said_now,
)
from mae_skill.origin import Origin, is_explicit
from mae_skill.spec import ExperimentSpec, GenTrtEngineSpec
from torch import Tensor

from mae_runners.context import RunContext
from mae_runners.deploy import int8, parity, tensorrt
from mae_runners.deploy import onnx as onnx_format
from mae_runners.deploy.artifact import (
    ArtifactMeta,
    check_no_folder,
    check_target,
    sidecar,
)
from mae_runners.deploy.eval_images import calibration_batches, gate_count, gate_images
from mae_runners.deploy.precision import (
    PRECISIONS,
    convert,
    emulate_low_precision,
    match_rules,
)

if TYPE_CHECKING:
    import onnx


def run(spec: ExperimentSpec, context: RunContext) -> dict[str, Any]:
    """Builds the engine and its description.

    Returns:
        ``{"kpis", "artefacts", "parity", "engine"}``.
    """
    if not context.is_main:
        return {}

    section = spec.gen_trt_engine
    settings = section.tensorrt
    rules = parse_layers_precision(settings.layers_precision)
    target = Path(section.trt_engine) if section.trt_engine else context.action_dir / "model.engine"
    check_request(section, target)
    model, meta, digest = read_graph(section)
    check_profile(spec, context.provenance, model)
    profile = batch_profile(section, meta)

    gate = gate_images(spec, meta, gate_count(meta, settings.data_type))
    images = gate.pixels
    reference = parity.onnx_outputs(model, meta, images)
    meta.precision = settings.data_type
    calibration = reduce_precision(model, meta, rules, spec, digest, context)
    report: dict[str, Any] | None = None
    if meta.precision != "fp32" or rules:
        report = {
            **check_graph(model, meta, images, reference, spec),
            "images_from": str(gate),
            **gate.to_dict(),
        }
        figures = f"cosine {report['cosine_min']:.6f}, largest difference {report['max_abs']:.2e}"
        context.log(f"{meta.precision} graph against fp32 on {gate.listed()}: {figures}")
    onnx_format.describe(model, meta)

    if section.timing_cache and section.backend == "tensorrt_rtx":
        context.warn(
            "gen_trt_engine.timing_cache has no effect: "
            "tensorrt_rtx times no kernels when it builds"
        )
    description = tensorrt.build_engine(
        model,
        target,
        meta,
        backend=section.backend,
        targets=section.targets,
        profile=profile,
        workspace_mb=settings.workspace_size,
        timing_cache=Path(section.timing_cache) if section.timing_cache else None,
        verbose=section.verbose,
        overwrite=section.overwrite,
        extra={
            "onnx_sha256": digest,
            "calibration": calibration,
            "layers_precision": [f"{pattern}:{kind}" for pattern, kind in rules],
        },
    )

    size_mb = description["engine_bytes"] / 1e6
    context.log(f"{target}: {size_mb:.1f} MB for {', '.join(description['targets'])}")
    kpis = {"engine_mb": size_mb, "layers": description["layers"]}
    if report:
        kpis["parity_cosine"] = report["cosine_min"]
    return {
        "kpis": kpis,
        "artefacts": [str(target), str(sidecar(target))],
        "parity": report,
        "engine": description,
    }


def check_request(section: GenTrtEngineSpec, target: Path) -> None:
    """Rejects, before any work, what cannot be built here.

    Raises:
        DependencyError: a package or GPU is missing.
        SpecError: an unknown precision or target.
        UsageError: `target` is a folder, or exists and may not be replaced.
    """
    data_type = section.tensorrt.data_type
    if data_type not in PRECISIONS:
        raise SpecError(
            "unknown data type",
            field="gen_trt_engine.tensorrt.data_type",
            got=data_type,
            expected=", ".join(PRECISIONS),
        )
    library = tensorrt.load_backend(section.backend)
    tensorrt.choose_targets(library, section.backend, section.targets)
    onnx_format.require("onnx", "onnxruntime")
    check_no_folder(target, "gen_trt_engine.trt_engine")
    check_target(target, section.overwrite, "gen_trt_engine.overwrite")


def read_graph(section: GenTrtEngineSpec) -> tuple[onnx.ModelProto, ArtifactMeta, str]:
    """The ONNX model of `gen_trt_engine.onnx_file` with its weights, its description, and the
    digest of the file.

    Raises:
        SpecError: no file is named, or its precision is reduced already.
        NotFoundError, CheckpointError: it does not exist, or is no export of ours.
    """
    import onnx

    field = "gen_trt_engine.onnx_file"
    if not section.onnx_file:
        raise SpecError(
            "no ONNX file given",
            field=field,
            expected="an .onnx file of the export action",
            hint=f"set {field}, or pass --parent JOB with an export job",
        )
    path = Path(section.onnx_file)
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}", field=field, got=str(path))
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise unrelated classes for a damaged file
        raise CheckpointError(
            f"{path.name} cannot be read as ONNX",
            field=field,
            got=str(error)[:200],
            expected="an ONNX file, as the export action writes",
            hint="mae run export --parent JOB makes one",
        ) from error

    meta = onnx_format.read_meta(model, path)
    reduced = precision_error({"mae.precision": meta.precision})
    if reduced is not None:
        raise reduced
    header = header_of(model)
    described = [meta.batch if meta.batch > 0 else None, *meta.input_size]
    if described != [header.batch, *header.size]:
        raise CheckpointError(
            "the ONNX file takes other images than it says of itself",
            field=field,
            got=f"[batch, height, width] {[header.batch, *header.size]}",
            expected=str(described),
            hint="export the checkpoint again with the export action",
        )
    return model, meta, sha256_of(path)


def header_of(model: onnx.ModelProto) -> OnnxHeader:
    """What the graph takes."""
    shape = model.graph.input[0].type.tensor_type.shape.dim
    return OnnxHeader(tuple(dim.dim_value or None for dim in shape), {})


def check_profile(
    spec: ExperimentSpec, provenance: Mapping[str, Origin], model: onnx.ModelProto
) -> None:
    """Refuses a profile that the graph cannot serve; a plan does so where the file is at hand.

    Raises:
        SpecError: batch sizes out of order, another batch than a fixed one, or another size.
    """
    document = spec.model_dump()
    defaults = ExperimentSpec().model_dump()

    def chosen(key: str) -> bool:
        if key == INPUT_SIZE:
            return said_now(
                origin.kind for name, origin in provenance.items() if name.startswith(key)
            )
        return is_explicit(provenance, key) or get_dotted(document, key) != get_dotted(
            defaults, key
        )

    problems = profile_errors(lambda key: get_dotted(document, key), chosen, header_of(model))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SpecError("the ONNX file cannot serve this profile", problems=problems)


def batch_profile(section: GenTrtEngineSpec, meta: ArtifactMeta) -> tensorrt.Profile:
    """The batch sizes the engine accepts; ``gen_trt_engine.batch_size`` > 0 asks for one alone."""
    settings, wanted = section.tensorrt, section.batch_size
    if meta.batch > 0 or wanted > 0:
        alone = meta.batch if meta.batch > 0 else wanted
        return tensorrt.Profile(alone, alone, alone)
    return tensorrt.Profile(
        settings.min_batch_size, settings.opt_batch_size, settings.max_batch_size
    )


def reduce_precision(
    model: onnx.ModelProto,
    meta: ArtifactMeta,
    rules: list[tuple[str, str]],
    spec: ExperimentSpec,
    digest: str,
    context: RunContext,
) -> str | None:
    """Writes the precision into the graph; for int8 calibrates, or takes the cache.

    Returns:
        Where the scales of int8 came from.

    Raises:
        SpecError: a rule gives a layer of an int8 engine anything but fp32.
    """
    if meta.precision != "int8":
        convert(model, meta.precision, rules)
        return None

    chosen = match_rules(rules, model)
    if refused := int8_layers_error(rules):
        raise refused

    cache = spec.gen_trt_engine.tensorrt.calibration.cal_cache_file
    path = Path(cache) if cache else None
    if path and path.exists():
        scales, origin = int8.read_cache(path, digest), f"the cache {path.name}"
    else:
        batches, origin = calibration_batches(spec, meta)
        scales = int8.calibrate(model, int8.batches_of(batches, meta.batch))
        if path:
            int8.write_cache(path, scales, digest, sum(map(len, batches)))
    context.log(f"int8 scales from {origin}")
    int8.quantize(model, scales, exclude=chosen)
    return origin


def check_graph(
    model: onnx.ModelProto,
    meta: ArtifactMeta,
    images: Tensor,
    reference: parity.Floats,
    spec: ExperimentSpec,
) -> dict[str, Any]:
    """The parity figures of the reduced graph in ONNX Runtime.

    Raises:
        JobFailedError: it differs from the float32 graph.
    """
    import onnx

    runnable = model
    if any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in model.graph.initializer):
        runnable = onnx.ModelProto()
        runnable.CopyFrom(model)
        emulate_low_precision(runnable)

    thresholds = parity.thresholds_for(
        meta.precision, spec.gen_trt_engine.parity, pixels=meta.segments
    )
    outputs = parity.onnx_outputs(runnable, meta, images)
    report = parity.compare(
        reference, outputs, thresholds, logits=meta.output == "logits", cuts=meta.cuts
    )
    if not report.passed:
        raise parity.parity_error(report, meta, field="gen_trt_engine.parity")
    return {**report.to_dict(), "thresholds": vars(thresholds)}
