"""``evaluate``: how good a checkpoint or an artefact is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mae_skill.spec.fields import Index, Path, SpecModel, spec_field

DeviceIds = Annotated[list[Index], Field(min_length=1)]


class EvaluateSpec(SpecModel):
    """Accuracy of a fine-tuned model; kNN, linear probe and reconstruction loss of a pretrained one."""

    checkpoint: Path = spec_field(None, "What to evaluate: a .pth checkpoint or an .onnx export.", popular=True)
    trt_engine: Path = spec_field(None, "A TensorRT engine to evaluate instead of a checkpoint.")
    batch_size: int = spec_field(-1, "Images a device takes at a time; -1: dataset.batch_size.", unit="images", ge=-1)
    num_gpus: int = spec_field(1, "Devices a node; the larger of this and the length of gpu_ids holds.", gt=0)
    gpu_ids: DeviceIds = spec_field([0], "Device indices; the larger of num_gpus and this list holds.")
    num_nodes: int = spec_field(1, "Machines.", gt=0)
    results_dir: Path = spec_field(None, "Where evaluation writes. Null: <results_dir>/evaluate.")
