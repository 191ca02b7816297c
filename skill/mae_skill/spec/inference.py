"""``inference``: predictions for images without labels."""

from __future__ import annotations

from mae_skill.spec.evaluate import DeviceIds
from mae_skill.spec.fields import Path, Positive, SpecModel, spec_field


class InferenceSpec(SpecModel):
    """Classes and probabilities from a fine-tuned model; embeddings and reconstructions from a pretrained one."""

    checkpoint: Path = spec_field(None, "What to run: a .pth checkpoint or an .onnx export.", popular=True)
    trt_engine: Path = spec_field(None, "A TensorRT engine to run instead of a checkpoint.")
    batch_size: int = spec_field(-1, "Images a device takes at a time; -1: dataset.batch_size.", unit="images", ge=-1)
    top_k: Positive = spec_field(5, "Classes listed for each image, most probable first.", applies_when={"train.stage": "finetune"})
    num_gpus: int = spec_field(1, "Devices a node; the larger of this and the length of gpu_ids holds.", gt=0)
    gpu_ids: DeviceIds = spec_field([0], "Device indices; the larger of num_gpus and this list holds.")
    num_nodes: int = spec_field(1, "Machines.", gt=0)
    results_dir: Path = spec_field(None, "Where inference writes. Null: <results_dir>/inference.")
