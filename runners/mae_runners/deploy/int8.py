"""Int8 by explicit quantize/dequantize pairs, calibrated on the user's images: one graph for ONNX
Runtime and for strongly typed TensorRT.

Quantized are the matrix products and convolutions that carry weights (nearly all of the
arithmetic): weights symmetric per output channel, activations symmetric per tensor, zero points 0
as TensorRT wants. Attention products, normalizations and depthwise convolutions stay float32: they
are a small part of the work and lose the most.

ONNX Runtime's quantizer writes the pairs. The scales are ours: an activation's scale is the one
that loses least in the mean square over the values of the calibration images, never simply their
maximum, where one outlier costs every other value its bits. ONNX Runtime's own calibration was as
exact on small models trained on photographs (1 − cosine of the worst of 64 images, 128 calibration
images: ViT 4.1e-6 ours, 3.6e-6 minimum-maximum, 2.3e-6 percentile; ConvNeXt V2 5.0e-6, 7.0e-6,
7.9e-6; Hiera 1.3e-5, 7.1e-6, 1.4e-5), but it is minimum-maximum that has no protection, and
percentile and entropy hold every tensor of every calibration image in memory and took two to eight
times as long.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from mae_sdk.files import read_json, write_json
from mae_skill.errors import CheckpointError, DataError, SpecError
from mae_skill.spelling import and_more

from mae_runners.deploy.onnx import opset_of, session_of

if TYPE_CHECKING:
    import onnx

Images = npt.NDArray[Any]

SAMPLES_PER_BATCH = 8192  # values kept of each tensor and batch; the largest is always among them
CACHE_FORMAT = 1
CACHE_FIELD = "gen_trt_engine.tensorrt.calibration.cal_cache_file"


def quantizable(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that int8 touches: MatMul and Gemm with a constant right side, convolutions that
    are not depthwise."""
    rank = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}

    def is_heavy(node: onnx.NodeProto) -> bool:
        if node.op_type in ("MatMul", "Gemm"):
            return rank.get(node.input[1]) == 2
        groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
        return node.op_type == "Conv" and node.input[1] in rank and groups == 1

    return [node for node in model.graph.node if is_heavy(node)]


def calibrate(model: onnx.ModelProto, batches: Iterable[Images]) -> dict[str, float]:
    """Runs the float32 model over images and chooses a scale for each tensor that is quantized.

    Args:
        batches: arrays [B, C, H, W] in the dtype of the model's input.

    Returns:
        tensor name → scale, so that a value is about ``scale × int8``.

    Raises:
        DataError: there was no batch.
    """
    import onnx

    names = sorted({node.input[0] for node in quantizable(model)})
    image_name = model.graph.input[0].name
    inner = [name for name in names if name != image_name]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    present = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in inner if name not in present
    )
    session = session_of(probe)

    samples: dict[str, list[Images]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    count = 0
    for batch in batches:
        count += len(batch)
        outputs = session.run(inner, {image_name: batch})
        for name, value in zip([*inner, image_name], [*outputs, batch], strict=True):
            if name not in samples:
                continue
            magnitudes = np.abs(np.asarray(value, dtype=np.float32).ravel())
            largest = magnitudes.max()
            if magnitudes.size > SAMPLES_PER_BATCH:
                magnitudes = magnitudes[rng.integers(0, magnitudes.size, SAMPLES_PER_BATCH)]
            samples[name].append(np.append(magnitudes, largest))

    if not count:
        raise DataError(
            "there is no calibration image",
            field="gen_trt_engine.tensorrt.calibration.cal_image_dir",
            hint="name a folder or archive with images like those the model will see",
        )
    return {name: best_scale(np.concatenate(kept)) for name, kept in samples.items()}


def batches_of(batches: list[Images], size: int) -> list[Images]:
    """Calibration batches as a graph with the fixed batch `size` takes them; unchanged when `size`
    is -1 (any). A rest that fills no batch is left out.

    Raises:
        SpecError: there are fewer images than the fixed batch.
    """
    if size <= 0:
        return batches

    images = np.concatenate(batches)
    if len(images) < size:
        raise SpecError(
            "there are fewer calibration images than the fixed batch",
            field="gen_trt_engine.tensorrt.calibration.cal_batches",
            got=len(images),
            expected=f"at least {size} images",
        )
    return [images[start : start + size] for start in range(0, len(images) - size + 1, size)]


def best_scale(magnitudes: Images) -> float:
    """The scale whose rounding and clipping of `magnitudes` (≥ 0) loses least in the mean square;
    48 candidates from 20 % of the maximum up."""
    top = float(magnitudes.max())
    if top == 0.0:
        return 1.0 / 127.0

    def loss(scale: float) -> float:
        rounded = np.minimum(np.rint(magnitudes / scale), 127.0) * scale
        return float(np.mean((rounded - magnitudes) ** 2))

    return min((top * float(share) / 127.0 for share in np.linspace(0.2, 1.0, 48)), key=loss)


def quantize(
    model: onnx.ModelProto, scales: Mapping[str, float], exclude: Collection[str] = ()
) -> onnx.ModelProto:
    """Puts quantize/dequantize pairs before every node of `quantizable` and stores its weights as
    int8.

    Args:
        model: in float32, opset 13 or above; changed in place.
        scales: activation scales from `calibrate`.
        exclude: node names that stay float32.

    Raises:
        SpecError: the opset has no per-channel dequantization.
        CheckpointError: a scale is missing (a cache of another model).
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    if opset_of(model) < 13:
        raise SpecError(
            "int8 needs per-channel scales, which opsets below 13 do not have",
            field="export.opset_version",
            got=opset_of(model),
            expected="13 or above",
            hint="export again with export.opset_version=17",
        )
    targets = [node for node in quantizable(model) if node.name not in exclude]
    missing = sorted({node.input[0] for node in targets} - set(scales))
    if missing:
        raise CheckpointError(
            "the calibration does not cover this model",
            field=CACHE_FIELD,
            got=f"no scale for {and_more(missing, 1)}",
            hint="delete the cache file, or name another, to calibrate again",
        )
    if not targets:
        return model

    kinds = ["Conv", "Gemm", "MatMul"]
    ends = {name: np.float32(127.0 * scale) for name, scale in scales.items()}
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax, {name: (-end, end) for name, end in ends.items()}
        ),
        nodes_to_quantize=[node.name for node in targets],
        nodes_to_exclude=[],
        op_types_to_quantize=kinds,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            # TensorRT takes biases in float32 alone.
            "QuantizeBias": False,
            # What a product gives stays float32, unless the next product takes it.
            "OpTypesToExcludeOutputQuantization": kinds,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()

    # The quantizer works on a copy, and signs it.
    model.graph.CopyFrom(quantizer.model.model.graph)
    del model.graph.value_info[:]
    return model


def write_cache(path: Path, scales: Mapping[str, float], digest: str, images: int) -> None:
    """Writes scales as JSON, with the digest of the ONNX file they belong to."""
    content = {"format": CACHE_FORMAT, "onnx_sha256": digest, "images": images}
    write_json(path, {**content, "scales": dict(scales)})


def read_cache(path: Path, digest: str) -> dict[str, float]:
    """The scales in a cache file.

    Raises:
        CheckpointError: it is not a calibration cache, or belongs to another ONNX file.
    """
    try:
        content = read_json(path)
        scales = {str(name): float(value) for name, value in content["scales"].items()}
        owner = content["onnx_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "not a calibration cache of this program",
            field=CACHE_FIELD,
            got=str(path),
            hint="delete it to calibrate again",
        ) from error
    if owner != digest:
        raise CheckpointError(
            "the calibration cache was made for another ONNX file",
            field=CACHE_FIELD,
            got=str(path),
            hint="delete it, or name another file, to calibrate again",
        )
    return scales
