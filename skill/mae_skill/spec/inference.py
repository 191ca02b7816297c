"""``inference``: predictions for images without labels."""

from __future__ import annotations

from typing import Literal

from mae_skill.spec.evaluate import STRIDE, DeviceIds, WindowSpec
from mae_skill.spec.fields import (
    CLASSIFICATION,
    FINETUNE,
    SEGMENTATION,
    Path,
    Positive,
    SpecModel,
    spec_field,
)


class InferenceWindowSpec(WindowSpec):
    """How a segmenter sees images of another size than its input's."""

    stride: Positive | None = spec_field(
        None,
        STRIDE,
        unit="pixels",
        applies_when={**SEGMENTATION, "inference.segmentation.window": "slide"},
    )


class InferenceSpec(SpecModel):
    """Classes and probabilities from a classifier; label maps and pictures from a segmenter;
    embeddings and reconstructions from a pretrained one.
    """

    checkpoint: Path = spec_field(
        None, "What to run: a checkpoint, published weights or an .onnx export.", popular=True
    )
    trt_engine: Path = spec_field(None, "A TensorRT engine to run instead of a checkpoint.")
    batch_size: int = spec_field(
        -1, "Images a device takes at a time; -1 or 0: dataset.batch_size.", unit="images", ge=-1
    )
    top_k: Positive = spec_field(
        5,
        "Classes listed for each image, most probable first.",
        applies_when={**FINETUNE, **CLASSIFICATION},
    )
    sort: Literal["source", "uncertainty"] = spec_field(
        "source",
        "Order of results.csv: the source's, or the least certain first, by the lead of the most "
        "probable class over the next.",
        applies_when={**FINETUNE, **CLASSIFICATION},
    )
    features: Literal["none", "pooled", "tokens", "patches"] | None = spec_field(
        None,
        "Embeddings to write: none, one vector an image, all tokens (a ViT's class token first), "
        "or one vector a patch on its grid; null = pooled from a pretrained model, none from a "
        "fine-tuned one.",
    )
    neighbors: int = spec_field(
        0,
        "The nearest other images to list for each image, exactly, by the cosine of their pooled "
        "embeddings; 0 = none. With a picture of some.",
        ge=0,
        le=1000,
    )
    num_gpus: int = spec_field(
        1, "Devices a node; the larger of this and the length of gpu_ids holds.", gt=0
    )
    gpu_ids: DeviceIds = spec_field(
        [0], "Device indices; the larger of num_gpus and this list holds."
    )
    num_nodes: int = spec_field(1, "Machines.", gt=0)
    results_dir: Path = spec_field(None, "Where inference writes. Null: <results_dir>/inference.")
    segmentation: InferenceWindowSpec = spec_field(
        InferenceWindowSpec, "How a segmenter sees images of another size than its input's."
    )
