"""``evaluate``: how good a checkpoint or an artifact is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mae_skill.spec.fields import SEGMENTATION, Index, Path, Positive, SpecModel, spec_field

DeviceIds = Annotated[list[Index], Field(min_length=1)]


class WindowSpec(SpecModel):
    """How a segmenter sees images of another size than its input's."""

    window: Literal["whole", "slide"] = spec_field(
        "whole",
        "whole: the image scaled until it fits the input size, the rest filled with the mean "
        "color. slide: the image scaled until it just "
        "covers the input size, overlapping windows over all of it, their logits averaged. "
        "Either way the prediction has the image's size.",
        applies_when=SEGMENTATION,
    )


STRIDE = "Step of the sliding window, at most its size; null = two thirds of it."


class EvaluateWindowSpec(WindowSpec):
    """How a segmenter sees images of another size than its input's."""

    stride: Positive | None = spec_field(
        None,
        STRIDE,
        unit="pixels",
        applies_when={**SEGMENTATION, "evaluate.segmentation.window": "slide"},
    )


class EvaluateSpec(SpecModel):
    """Accuracy of a fine-tuned model, IoU of a segmenter; kNN, linear probe and reconstruction loss
    of a pretrained one.
    """

    checkpoint: Path = spec_field(
        None, "What to evaluate: a checkpoint, published weights or an .onnx export.", popular=True
    )
    trt_engine: Path = spec_field(None, "A TensorRT engine to evaluate instead of a checkpoint.")
    batch_size: int = spec_field(
        -1, "Images a device takes at a time; -1 or 0: dataset.batch_size.", unit="images", ge=-1
    )
    num_gpus: int = spec_field(
        1, "Devices a node; the larger of this and the length of gpu_ids holds.", gt=0
    )
    gpu_ids: DeviceIds = spec_field(
        [0], "Device indices; the larger of num_gpus and this list holds."
    )
    num_nodes: int = spec_field(1, "Machines.", gt=0)
    results_dir: Path = spec_field(None, "Where evaluation writes. Null: <results_dir>/evaluate.")
    gradient_maps: int = spec_field(
        0,
        "Images of which the report shows where the answer of a classifier comes from: gradients "
        "of the chosen class by the pixels. Needs a checkpoint.",
        unit="images",
        ge=0,
        le=64,
    )
    segmentation: EvaluateWindowSpec = spec_field(
        EvaluateWindowSpec, "How a segmenter sees images of another size than its input's."
    )
