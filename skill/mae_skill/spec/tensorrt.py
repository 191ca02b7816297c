"""``gen_trt_engine``: a TensorRT engine from an ONNX file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mae_skill.spec.export import ParitySpec
from mae_skill.spec.fields import Index, NonEmpty, Path, Positive, Sources, SpecModel, spec_field

_INT8 = {"gen_trt_engine.tensorrt.data_type": "int8"}
ComputeCapability = Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")]


class CalibrationSpec(SpecModel):
    """Images that int8 ranges are measured on."""

    cal_image_dir: Sources = spec_field(
        None, "Images to calibrate on: a source, or a list of them.", applies_when=_INT8
    )
    cal_cache_file: Path = spec_field(
        None, "File that keeps the measured ranges between runs.", applies_when=_INT8
    )
    cal_batch_size: Positive = spec_field(
        8, "Images in one calibration batch.", applies_when=_INT8, unit="images"
    )
    cal_batches: Positive = spec_field(
        16,
        "Calibration batches, at most; the images are spread over the whole source.",
        applies_when=_INT8,
        unit="batches",
    )


class TensorRtSpec(SpecModel):
    """How the engine is built."""

    data_type: Literal["fp32", "fp16", "bf16", "int8"] = spec_field(
        "fp32",
        "Arithmetic of the engine. Upstream's fp32,fp16 (fp16, and fp32 where a layer needs it) "
        "is read as fp16; layers_precision names layers that stay fp32.",
        popular=True,
        option_aliases={"fp32,fp16": "fp16", "fp16,fp32": "fp16"},
    )
    workspace_size: Positive = spec_field(
        1024, "Scratch memory that the builder may use.", unit="MB"
    )
    min_batch_size: Positive = spec_field(1, "Smallest batch of the profile.", unit="images")
    opt_batch_size: Positive = spec_field(
        1,
        "Batch that the engine is tuned for; stays 1 when max_batch_size alone is raised.",
        unit="images",
    )
    max_batch_size: Positive = spec_field(
        1, "Largest batch of the profile.", unit="images", popular=True
    )
    layers_precision: list[NonEmpty] = spec_field(
        [], "Layers that keep another type, as name:type (the name may hold *), e.g. */norm*:fp32."
    )
    calibration: CalibrationSpec = spec_field(
        CalibrationSpec, "Images that int8 ranges are measured on."
    )


class GenTrtEngineSpec(SpecModel):
    """Configurable parameters of the TensorRT engine builder."""

    onnx_file: Path = spec_field(None, "The ONNX file to build from.", popular=True)
    trt_engine: Path = spec_field(
        None, "The engine to write; null = <results_dir>/gen_trt_engine/model.engine.", popular=True
    )
    backend: Literal["tensorrt", "tensorrt_rtx"] = spec_field(
        "tensorrt",
        "tensorrt: builds for the GPU at hand; tensorrt_rtx: TensorRT for RTX, which can "
        "build with no GPU for named targets.",
    )
    targets: list[ComputeCapability] = spec_field(
        [],
        "Compute capabilities to build for, e.g. 8.6; empty = the GPU at hand; without one, "
        "all from 8.0 on that the library can name.",
        applies_when={"gen_trt_engine.backend": "tensorrt_rtx"},
    )
    gpu_id: Index = spec_field(0, "The GPU to build on.")
    batch_size: int = spec_field(
        -1, "Batch size of the ONNX input; -1 or 0 = dynamic.", ge=-1, unit="images"
    )
    timing_cache: Path = spec_field(
        None, "File that keeps kernel timings between builds; tensorrt_rtx has none."
    )
    overwrite: bool = spec_field(False, "Replace an engine that exists.")
    parity: ParitySpec = spec_field(
        ParitySpec,
        "What the reduced graph must agree to, against fp32, before the engine is built.",
    )
    verbose: bool = spec_field(False, "Print the builder's log.")
    tensorrt: TensorRtSpec = spec_field(TensorRtSpec, "How the engine is built.")
    results_dir: Path = spec_field(None, "Where results go; null = <results_dir>/gen_trt_engine.")
