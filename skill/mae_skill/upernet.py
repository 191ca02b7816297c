"""UperNet's parameters, work and stored values from the spec alone, for estimates (the head itself: arXiv:1807.10221)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mae_skill.archs import Arch, hw
from mae_skill.dotted import get_dotted


@dataclass
class Head:
    """Sums over the layers of a head, for one image.

    Attributes:
        parameters: learned ones. operations: of the forward pass. values: kept for the backward pass.
    """

    parameters: int = 0
    operations: float = 0.0
    values: float = 0.0

    def block(self, width_in: int, width: int, kernel: int, positions: int) -> None:
        """A convolution without bias, batch normalisation and ReLU: what goes into either of the last two is kept."""
        self.parameters += width_in * width * kernel**2 + 2 * width
        self.operations += 2.0 * width_in * width * kernel**2 * positions
        self.values += 2.0 * width * positions

    def doubling(self, width: int, positions: int) -> None:
        """A transposed 2 × 2 convolution with bias, from ``positions`` to four times as many."""
        self.parameters += 4 * width * width + width
        self.operations += 8.0 * width * width * positions
        self.values += 4.0 * width * positions

    def classifier(self, width: int, classes: int, positions: int, pixels: int) -> None:
        """A 1 × 1 convolution, its logits brought to the image's size, and their log-softmax."""
        self.parameters += (width + 1) * classes
        self.operations += 2.0 * width * classes * positions
        self.values += classes * (positions + 2.0 * pixels)


def is_segmentation(spec: Mapping[str, Any]) -> bool:
    """Whether the spec trains a segmenter."""
    return bool(
        get_dotted(spec, "train.stage") == "finetune"
        and get_dotted(spec, "model.task") == "segmentation"
    )


def head_costs(arch: Arch, spec: Mapping[str, Any]) -> Head:
    """Neck, UperNet and auxiliary head over the levels of ``arch``."""
    height, width_px = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    classes = int(get_dotted(spec, "model.num_classes", 0) or 0)
    section = "model.segmentation."
    channels, between = (
        int(get_dotted(spec, section + "channels", 512)),
        int(get_dotted(spec, section + "auxiliary_channels", 256)),
    )
    scales = [int(scale) for scale in get_dotted(spec, section + "pool_scales", [1, 2, 3, 6])]
    head = Head()
    dims: tuple[int, ...]
    if arch.family == "vit":
        dim = int(get_dotted(spec, "model.embed_dim") or arch.dims[0])
        rows, columns = height // arch.patch, width_px // arch.patch
        dims, cells = (
            (dim,) * 4,
            [16 * rows * columns, 4 * rows * columns, rows * columns, (rows // 2) * (columns // 2)],
        )
        head.doubling(dim, cells[2])
        head.doubling(dim, cells[1])
        head.doubling(dim, cells[2])
        head.parameters += 2 * dim  # of the normalisation between the two doublings
        head.values += 8.0 * dim * cells[2]
    else:
        dims, cells = (
            arch.dims,
            [(height // stride) * (width_px // stride) for stride in (4, 8, 16, 32)],
        )
        head.parameters += sum(2 * dim for dim in dims)
        head.values += sum(2.0 * dim * count for dim, count in zip(dims, cells, strict=True))
    for scale in scales:
        head.block(dims[3], channels, 1, scale * scale)
    joined = dims[3] + len(scales) * channels
    head.values += joined * cells[3]
    head.block(joined, channels, 3, cells[3])
    for dim, count in zip(dims[:3], cells[:3], strict=True):
        head.block(dim, channels, 1, count)
        head.block(channels, channels, 3, count)
    head.values += 4.0 * channels * cells[0]
    head.block(4 * channels, channels, 3, cells[0])
    head.classifier(channels, classes, cells[0], height * width_px)
    if float(get_dotted(spec, section + "auxiliary_weight", 0.4)) > 0:
        head.block(dims[2], between, 3, cells[2])
        head.classifier(between, classes, cells[2], height * width_px)
    return head
