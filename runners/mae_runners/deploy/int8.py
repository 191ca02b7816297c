"""Int8 by explicit quantise/dequantise pairs, calibrated on the user's images: one graph for ONNX Runtime and for strongly typed TensorRT.

Quantised are the matrix products and convolutions that carry weights (nearly all of the arithmetic): weights symmetric per output channel,
activations symmetric per tensor, zero points 0 as TensorRT wants. Attention products, normalisations and depthwise convolutions stay
float32:
they are a small part of the work and lose the most. The scale of an activation is the one that loses least (mean square) over the
values the
calibration images gave, never simply their maximum: a single outlier would cost every other value its bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mae_sdk.files import write_json
from mae_skill.errors import CheckpointError, DataError, SpecError

SAMPLES_PER_BATCH = 8192  # values kept of each tensor and batch; the largest is always among them
CACHE_FORMAT = 1


def quantizable(model: Any) -> list[Any]:
    """The nodes that int8 touches: MatMul and Gemm with a constant right side, convolutions that are not depthwise."""
    from mae_runners.deploy.onnx import attribute

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    chosen = []
    for node in model.graph.node:
        if (
            node.op_type in ("MatMul", "Gemm")
            and node.input[1] in weights
            and len(weights[node.input[1]].dims) == 2
        ) or (
            node.op_type == "Conv" and node.input[1] in weights and attribute(node, "group", 1) == 1
        ):
            chosen.append(node)
    return chosen


def calibrate(model: Any, batches: Iterable[np.ndarray], names: Sequence[str]) -> dict[str, float]:
    """Runs the float32 model in ONNX Runtime over `batches` and chooses each tensor's scale.

    Args:
        model: `onnx.ModelProto`.
        batches: arrays [B, 3, H, W] in the dtype of the model's input.
        names: tensors whose scale is wanted.

    Returns:
        tensor name → scale, so that a value is about ``scale × int8``.

    Raises:
        DataError: there was no batch.
    """
    import onnx

    from mae_runners.deploy.onnx import session_of

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    present = {value.name for value in [*probe.graph.output, *probe.graph.input]}
    for name in names:
        if name not in present:
            probe.graph.output.append(onnx.ValueInfoProto(name=name))
    session = session_of(probe)
    input_name = probe.graph.input[0].name
    wanted = [name for name in names if name != input_name]
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    count = 0
    for batch in batches:
        count += len(batch)
        for name, value in zip(
            [*wanted, input_name], [*session.run(wanted, {input_name: batch}), batch], strict=True
        ):
            if name in samples:
                flat = np.abs(np.asarray(value, dtype=np.float32).ravel())
                kept = (
                    flat
                    if flat.size <= SAMPLES_PER_BATCH
                    else flat[rng.integers(0, flat.size, SAMPLES_PER_BATCH)]
                )
                samples[name].append(np.append(kept, flat.max()))
    if not count:
        raise DataError(
            "there is no calibration image",
            field="gen_trt_engine.tensorrt.calibration.cal_image_dir",
            hint="name a folder or archive with images like those the model will see",
        )
    return {name: best_scale(np.concatenate(values)) for name, values in samples.items()}


def best_scale(magnitudes: np.ndarray) -> float:
    """The scale whose rounding and clipping of `magnitudes` (≥ 0) loses least in the mean square; 48 candidates from 20 % of the
    maximum up."""
    top = float(magnitudes.max())
    if top == 0.0:
        return 1.0 / 127.0
    best, least = top / 127.0, np.inf
    for share in np.linspace(0.2, 1.0, 48):
        scale = top * float(share) / 127.0
        loss = float(
            np.mean((np.minimum(np.rint(magnitudes / scale), 127.0) * scale - magnitudes) ** 2)
        )
        if loss < least:
            best, least = scale, loss
    return best


def quantize(model: Any, scales: dict[str, float], exclude: Sequence[str] = ()) -> Any:
    """Puts quantise/dequantise pairs before every node of `quantizable` (but those named in `exclude`) and stores its weights as int8.

    Args:
        model: a float32 `onnx.ModelProto`, opset 13 or above; changed in place.
        scales: activation scales from `calibrate`.
        exclude: node names that stay float32.

    Raises:
        SpecError: the opset has no per-channel dequantisation.
        CheckpointError: a scale is missing (a cache of another model).
    """
    from onnx import numpy_helper

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 13:
        raise SpecError(
            "int8 needs per-channel scales, which opsets below 13 do not have",
            field="export.opset_version",
            got=opset,
            expected="13 or above",
            hint="export again with export.opset_version=17",
        )
    graph = model.graph
    targets = {node.name: node for node in quantizable(model) if node.name not in set(exclude)}
    missing = sorted({node.input[0] for node in targets.values()} - set(scales))
    if missing:
        raise CheckpointError(
            "the calibration does not cover this model",
            field="gen_trt_engine.tensorrt.calibration.cal_cache_file",
            got=f"no scale for {missing[0]} and {len(missing) - 1} more"
            if len(missing) > 1
            else f"no scale for {missing[0]}",
            hint="delete the cache file, or name another, to calibrate again",
        )
    weights = {tensor.name: tensor for tensor in graph.initializer}
    added: dict[str, Any] = {
        "qdq::zero": numpy_helper.from_array(np.zeros((), np.int8), "qdq::zero")
    }
    pairs: dict[str, str] = {}
    nodes: list[Any] = []
    for node in graph.node:
        if node.name in targets:
            node.input[0] = _quantize_activation(node.input[0], scales, pairs, added, nodes)
            node.input[1] = _quantize_weight(weights[node.input[1]], node, added, nodes)
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend([*kept, *added.values()])
    del graph.value_info[:]
    return model


def _quantize_activation(
    name: str,
    scales: dict[str, float],
    pairs: dict[str, str],
    added: dict[str, Any],
    nodes: list[Any],
) -> str:
    from onnx import helper, numpy_helper

    if name not in pairs:
        scale = f"{name}::scale"
        added[scale] = numpy_helper.from_array(np.asarray(scales[name], np.float32), scale)
        nodes.append(
            helper.make_node(
                "QuantizeLinear",
                [name, scale, "qdq::zero"],
                [f"{name}::int8"],
                name=f"{name}::quantize",
            )
        )
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{name}::int8", scale, "qdq::zero"],
                [f"{name}::dq"],
                name=f"{name}::dequantize",
            )
        )
        pairs[name] = f"{name}::dq"
    return pairs[name]


def _quantize_weight(tensor: Any, node: Any, added: dict[str, Any], nodes: list[Any]) -> str:
    from onnx import helper, numpy_helper

    from mae_runners.deploy.onnx import attribute

    # Output channels: last axis of MatMul and Gemm (first when Gemm transposes its right side), first axis of Conv.
    axis = (
        0
        if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0))
        else 1
    )
    name = f"{tensor.name}::axis{axis}"
    if f"{name}::int8" not in added:
        values = numpy_helper.to_array(tensor)
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.maximum(np.abs(values).max(axis=others), 1e-8).astype(np.float32) / np.float32(
            127.0
        )
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        int8 = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
        added[f"{name}::int8"] = numpy_helper.from_array(int8, f"{name}::int8")
        added[f"{name}::scale"] = numpy_helper.from_array(scale, f"{name}::scale")
        added[f"{name}::zero"] = numpy_helper.from_array(
            np.zeros(len(scale), np.int8), f"{name}::zero"
        )
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{name}::int8", f"{name}::scale", f"{name}::zero"],
                [f"{name}::dq"],
                name=f"{name}::dequantize",
                axis=axis,
            )
        )
    return f"{name}::dq"


def write_cache(path: Path, scales: dict[str, float], digest: str, images: int) -> None:
    """Writes scales as JSON, with the digest of the ONNX file they belong to."""
    write_json(
        path, {"format": CACHE_FORMAT, "onnx_sha256": digest, "images": images, "scales": scales}
    )


def read_cache(path: Path, digest: str) -> dict[str, float]:
    """The scales in a cache file.

    Raises:
        CheckpointError: it is not a calibration cache, or belongs to another ONNX file.
    """
    field = "gen_trt_engine.tensorrt.calibration.cal_cache_file"
    try:
        content = json.loads(path.read_text())
        scales = {str(name): float(value) for name, value in content["scales"].items()}
        owner = content["onnx_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            "not a calibration cache of this program",
            field=field,
            got=str(path),
            hint="delete it to calibrate again",
        ) from error
    if owner != digest:
        raise CheckpointError(
            "the calibration cache was made for another ONNX file",
            field=field,
            got=str(path),
            hint="delete it, or name another file, to calibrate again",
        )
    return scales
