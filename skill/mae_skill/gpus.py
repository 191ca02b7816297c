"""GPUs by name: memory, peak, compute capability. From the makers' data sheets, named beside each.

Peaks are dense, without sparsity. A card that comes with several sizes of memory lists them all;
the first is taken where none is named.
"""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """One model of GPU.

    Attributes:
        memory_gb: sizes that it comes with.
        fp32, bf16: peak in tera-operations per second: fp32 by tensor cores' TF32 or else plain;
            bf16 or fp16.
        capability: CUDA compute capability.
        link_gb: bandwidth to the other GPUs of the node, in GB per second and direction.
        source: the maker's document.
    """

    memory_gb: tuple[int, ...]
    fp32: float
    bf16: float
    capability: str
    link_gb: float
    source: str


GPUS = {
    "B200": Gpu((192,), 1100, 2250, "10.0", 900, "NVIDIA Blackwell architecture brief, 2024"),
    "GH200": Gpu((96, 144), 494, 989, "9.0", 450, "NVIDIA GH200 data sheet"),
    "H200": Gpu((141,), 494, 989, "9.0", 450, "NVIDIA H200 data sheet"),
    "H100": Gpu((80, 94), 494, 989, "9.0", 450, "NVIDIA H100 data sheet (SXM)"),
    "A100": Gpu((80, 40), 156, 312, "8.0", 300, "NVIDIA A100 data sheet"),
    "A40": Gpu((48,), 75, 150, "8.6", 28, "NVIDIA A40 data sheet"),
    "A10": Gpu((24,), 62, 125, "8.6", 28, "NVIDIA A10 data sheet"),
    "A6000": Gpu((48,), 77, 155, "8.6", 28, "NVIDIA RTX A6000 data sheet"),
    "L40S": Gpu((48,), 183, 366, "8.9", 28, "NVIDIA L40S data sheet"),
    "L40": Gpu((48,), 90, 181, "8.9", 28, "NVIDIA L40 data sheet"),
    "L4": Gpu((24,), 60, 121, "8.9", 28, "NVIDIA L4 data sheet"),
    "V100": Gpu((32, 16), 15.7, 125, "7.0", 150, "NVIDIA V100 data sheet"),
    "T4": Gpu((16,), 8.1, 65, "7.5", 14, "NVIDIA T4 data sheet"),
    "4090": Gpu((24,), 82.6, 165, "8.9", 28, "NVIDIA Ada GPU architecture paper"),
    "3090": Gpu((24,), 35.6, 71, "8.6", 28, "NVIDIA Ampere GA102 architecture paper"),
}


def gpu_of(device: str) -> str | None:
    """The name in `GPUS` of a device as a driver calls it; None for one that is not there."""
    words = device.upper().replace(" ", "-").split("-")
    return max((name for name in GPUS if name in words), key=len, default=None)
