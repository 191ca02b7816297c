"""``export``: a checkpoint becomes a file or folder that is proven to give the same answers."""

from __future__ import annotations

from typing import Literal

from mae_skill.spec.dataset import Channels
from mae_skill.spec.fields import Index, NonEmpty, Path, Positive, SpecModel, spec_field

Format = Literal["onnx", "timm", "transformers", "mmseg", "torchscript", "torch_export", "triton"]

_GRAPH = {"export.format": ["onnx", "torchscript", "torch_export", "triton"]}
_ONNX = {"export.format": ["onnx", "triton"]}
_HUB = {"export.format": ["timm", "transformers", "mmseg"]}


class ParitySpec(SpecModel):
    """What the artifact must agree to, against its model on real images, before it may exist.

    Null = by precision.
    """

    min_cosine: float | None = spec_field(
        None,
        "Least cosine between the outputs of any image; null = 0.9999 (fp32), 0.999 (fp16), "
        "0.99 (bf16 and int8).",
        ge=-1.0,
        le=1.0,
    )
    max_abs: float | None = spec_field(
        None,
        "Largest difference of any output, relative to the largest output where that exceeds "
        "1; null = 0.001 (fp32), 0.05 (fp16), "
        "0.2 (bf16), 0.15 (int8).",
        gt=0.0,
    )
    min_top1_agreement: float | None = spec_field(
        None,
        "Least share of images with the same most likely class (fine-tuned models); null = "
        "1.0 (fp32), 0.95 (fp16), 0.9 (bf16 and int8).",
        ge=0.0,
        le=1.0,
    )


class ExportSpec(SpecModel):
    """Configurable parameters of export."""

    checkpoint: Path = spec_field(
        None, "The checkpoint, or published weights, to export.", popular=True
    )
    onnx_file: Path = spec_field(
        None,
        "The file to write; null = <results_dir>/export/model.onnx. A folder is written beside "
        "it, named by its format.",
        popular=True,
    )
    format: Format = spec_field(
        "onnx",
        "onnx; timm or transformers (a folder that the library loads, with a model card); mmseg (a "
        "checkpoint in OpenMMLab's names); torchscript; torch_export (a torch.export program); "
        "triton (a Triton model repository around the ONNX file).",
        popular=True,
    )
    license: NonEmpty | None = spec_field(
        None,
        "The license that the model card states, as the model hub writes it (apache-2.0, "
        "cc-by-nc-4.0 …); null = unknown. That of pretrained weights goes on holding.",
        applies_when=_HUB,
    )
    push_to_hub: NonEmpty | None = spec_field(
        None,
        "ORG/NAME on the Hugging Face hub to put the folder under, once it exists here; a new one "
        "is private. The token is read from HF_TOKEN.",
        applies_when=_HUB,
        related=["export.license"],
    )
    on_cpu: bool = spec_field(
        True,
        "Trace on the CPU; false traces on the GPU. These models need no plugin.",
        applies_when=_GRAPH,
    )
    gpu_id: Index = spec_field(
        0, "The GPU to trace on.", applies_when={**_GRAPH, "export.on_cpu": False}
    )
    opset_version: int = spec_field(
        17,
        "ONNX opset of the file. Attention is written unfused.",
        ge=12,
        le=20,
        applies_when=_ONNX,
    )
    input_channel: Channels = spec_field(
        3,
        "Channels of the input: those that the model was trained on; another number is refused.",
        related=["dataset.channels"],
    )
    input_width: Positive | None = spec_field(
        None,
        "Width of the input; null = the size that the checkpoint was trained at.",
        unit="pixels",
        related=["export.input_height"],
    )
    input_height: Positive | None = spec_field(
        None,
        "Height of the input; null = the size that the checkpoint was trained at.",
        unit="pixels",
        related=["export.input_width"],
    )
    batch_size: int = spec_field(
        -1, "Batch size of the file; -1 or 0 = dynamic.", ge=-1, unit="images", applies_when=_GRAPH
    )
    features: Literal["pooled", "tokens"] = spec_field(
        "pooled",
        "Output of a pretrained backbone: one pooled vector an image, or one vector a patch.",
        applies_when={**_GRAPH, "train.stage": "pretrain"},
    )
    data_type: Literal["fp32", "fp16", "int8"] = spec_field(
        "fp32",
        "Arithmetic of an ONNX file, for ONNX Runtime; int8 is calibrated on "
        "gen_trt_engine.tensorrt.calibration.cal_image_dir, else on "
        "the data sources. Export fp32 for gen_trt_engine, which reduces precision itself.",
        related=["gen_trt_engine.tensorrt.data_type"],
    )
    include_preprocessing: bool = spec_field(
        False,
        "Put normalization into the graph: the input is then uint8 RGB.",
        applies_when=_GRAPH,
    )
    overwrite: bool = spec_field(False, "Replace files that exist.")
    parity: ParitySpec = spec_field(
        ParitySpec, "What the exported model must agree to before it may exist."
    )
    verbose: bool = spec_field(False, "Print the graph.", applies_when=_ONNX)
    results_dir: Path = spec_field(None, "Where results go; null = <results_dir>/export.")
