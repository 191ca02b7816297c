"""Every architecture, as a table: family, patch, mask unit, widths, depths, admissible input sizes.

No third-party import: the schemas, the validator, the estimates and the runners all read
this one table. Widths and depths are those of the papers (ViT: arXiv 2010.11929, ConvNeXt V2:
2301.00808, Hiera: 2306.00989) and equal timm's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mae_skill.dotted import get_dotted

Family = Literal["vit", "convnextv2", "hiera"]


@dataclass(frozen=True)
class Arch:
    """One row of the table.

    Attributes:
        name: the value of ``model.arch``.
        family: ``vit`` (ViT-MAE), ``convnextv2`` (FCMAE) or ``hiera`` (Hiera-MAE).
        patch: side in pixels of one input token (ViT: the patch; ConvNeXt V2 and Hiera: the stem's
            stride, 4 in the papers). ``model.patch_size`` sets another: see `with_patch`.
        unit: side in pixels of one mask unit: what is masked or kept as a whole. Input sides must
            be multiples of it.
        target_patch: side in pixels of one prediction of the decoder.
        dims: width of each stage (ViT: one).
        depths: blocks in each stage (ViT: one).
        heads: attention heads of each stage; empty for convolutions.
        mlp_ratio: hidden width of a block's MLP over its width.
        paper_mask_ratio: the mask ratio of the family's paper.
        title: what the paper calls it.
    """

    name: str
    family: Family
    patch: int
    unit: int
    target_patch: int
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratio: float
    paper_mask_ratio: float
    title: str

    @property
    def feature_dim(self) -> int:
        """Width of the pooled feature vector."""
        return self.dims[-1]

    @property
    def depth(self) -> int:
        """Number of blocks over all stages."""
        return sum(self.depths)

    @property
    def size_multiple(self) -> int:
        """Input height and width must each be a multiple of this many pixels."""
        return self.unit


def _vit(name: str, patch: int, dim: int, depth: int, heads: int, title: str) -> Arch:
    return Arch(name, "vit", patch, patch, patch, (dim,), (depth,), (heads,), 4.0, 0.75, title)


def _convnextv2(name: str, dim: int, depths: tuple[int, int, int, int], title: str) -> Arch:
    dims = (dim, 2 * dim, 4 * dim, 8 * dim)
    return Arch(name, "convnextv2", 4, 32, 32, dims, depths, (), 4.0, 0.6, title)


def _hiera(name: str, dim: int, heads: int, depths: tuple[int, int, int, int], title: str) -> Arch:
    dims = (dim, 2 * dim, 4 * dim, 8 * dim)
    return Arch(
        name,
        "hiera",
        4,
        32,
        16,
        dims,
        depths,
        (heads, 2 * heads, 4 * heads, 8 * heads),
        4.0,
        0.6,
        title,
    )


_ROWS = (
    _convnextv2("convnextv2_atto", 40, (2, 2, 6, 2), "ConvNeXt V2-A"),
    _convnextv2("convnextv2_femto", 48, (2, 2, 6, 2), "ConvNeXt V2-F"),
    _convnextv2("convnextv2_pico", 64, (2, 2, 6, 2), "ConvNeXt V2-P"),
    _convnextv2("convnextv2_nano", 80, (2, 2, 8, 2), "ConvNeXt V2-N"),
    _convnextv2("convnextv2_tiny", 96, (3, 3, 9, 3), "ConvNeXt V2-T"),
    _convnextv2("convnextv2_base", 128, (3, 3, 27, 3), "ConvNeXt V2-B"),
    _convnextv2("convnextv2_large", 192, (3, 3, 27, 3), "ConvNeXt V2-L"),
    _convnextv2("convnextv2_huge", 352, (3, 3, 27, 3), "ConvNeXt V2-H"),
    _vit("vit_tiny_patch16", 16, 192, 12, 3, "ViT-Ti/16"),
    _vit("vit_small_patch16", 16, 384, 12, 6, "ViT-S/16"),
    _vit("vit_base_patch16", 16, 768, 12, 12, "ViT-B/16"),
    _vit("vit_large_patch16", 16, 1024, 24, 16, "ViT-L/16"),
    _vit("vit_huge_patch14", 14, 1280, 32, 16, "ViT-H/14"),
    _hiera("hiera_tiny_224", 96, 1, (1, 2, 7, 2), "Hiera-T"),
    _hiera("hiera_small_224", 96, 1, (1, 2, 11, 2), "Hiera-S"),
    _hiera("hiera_base_224", 96, 1, (2, 3, 16, 3), "Hiera-B"),
    _hiera("hiera_base_plus_224", 112, 2, (2, 3, 16, 3), "Hiera-B+"),
    _hiera("hiera_large_224", 144, 2, (2, 6, 36, 4), "Hiera-L"),
    _hiera("hiera_huge_224", 256, 4, (2, 6, 36, 4), "Hiera-H"),
)

ARCHS: dict[str, Arch] = {row.name: row for row in _ROWS}
"""Every architecture by name, in the order of the documentation."""


def arch_names(family: Family | None = None) -> list[str]:
    """Names of all architectures, or of one family."""
    return [row.name for row in _ROWS if family is None or row.family == family]


_FAMILIES: dict[str, Family] = {"convnext": "convnextv2", "hiera": "hiera", "vit": "vit"}
_SIZE_WORDS = ("atto", "femto", "pico", "nano", "tiny", "small", "base", "plus", "large", "huge")
_LETTERS = {word[0]: word for word in _SIZE_WORDS if word != "plus"} | {"ti": "tiny"}


def meant(name: str) -> tuple[list[Arch], dict[str, int]]:
    """What a name of other houses stands for: ``ViT-B/16``, ``facebook/vit-mae-base``,
    ``vit_small_patch8_384.augreg``.

    Returns:
        The architectures of that family and size (of the family, where it has no such size; none
        where the name is of no family), and the fields that the name sets besides:
        ``model.patch_size`` and ``dataset.augmentation.input_size``, in pixels.
    """
    plain, _, tag = name.lower().partition(".")
    words = re.findall(
        r"convnext|hiera|vit|patch|plus|[a-z]+|[0-9]+",
        re.sub(r"[0-9]+k", " ", plain.replace("+", " plus")),
    )
    family: Family | None = next((one for word, one in _FAMILIES.items() if word in words), None)
    if family is None:
        return [], {}

    sizes = {_LETTERS.get(word, word) for word in words}.intersection(_SIZE_WORDS)
    of_family = [ARCHS[one] for one in arch_names(family)]
    found = [
        arch for arch in of_family if sizes == {*arch.name.split("_")}.intersection(_SIZE_WORDS)
    ]
    if not found:
        return of_family, {}

    fields = {}
    numbers = [int(word) for word in words if word.isdigit()]
    patch = next((number for number in numbers if number in patch_sizes(family)), None)
    if family == "vit" and patch not in (None, found[0].patch):
        fields["model.patch_size"] = patch
    pixels = next((number for number in numbers if number > 32), None)
    pixels = int(at_end[0]) if (at_end := re.findall(r"_([0-9]{3})$", tag)) else pixels
    if pixels not in (None, 224):
        fields["dataset.augmentation.input_size"] = pixels
    return found, fields


def hw(input_size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """``(height, width)`` in pixels of a spec's ``input_size`` (a side, or ``[height, width]``)."""
    if isinstance(input_size, int):
        return input_size, input_size
    return int(input_size[0]), int(input_size[1])


def per_channel(values: Sequence[float], count: int) -> list[float]:
    """A mean or deviation for each of `count` channels: of one value, or of three where there are
    not three channels (those of RGB), all get the average."""
    if len(values) == count:
        return list(values)
    return [sum(values) / len(values)] * count


def patch_sizes(family: Family) -> tuple[int, ...]:
    """The values of ``model.patch_size`` that a family takes, in pixels."""
    return tuple(range(2, 33)) if family == "vit" else (1, 2, 4)


def with_patch(arch: Arch, patch_size: int | None) -> Arch:
    """``arch`` with input tokens of ``patch_size`` pixels per side; None leaves the paper's.

    A mask unit, and what the decoder predicts, keeps its size in tokens. So a ConvNeXt V2 or a
    Hiera with a stem of stride 1 has mask units of 8 pixels where the paper's has 32.
    """
    if patch_size is None or patch_size == arch.patch:
        return arch
    unit = arch.unit // arch.patch * patch_size
    target = arch.target_patch // arch.patch * patch_size
    return replace(arch, patch=patch_size, unit=unit, target_patch=target)


def hiera_kernel(patch: int) -> int:
    """Side of Hiera's overlapping patch convolution for a stride of ``patch`` pixels.

    7 at the paper's stride of 4. Below it 3, the smallest that still overlaps.
    """
    return 7 if patch == 4 else 3


def arch_of(spec: Mapping[str, Any]) -> Arch | None:
    """The architecture that ``model.arch`` and ``model.patch_size`` of a spec name.

    None where the name is not in the table, or its family takes no such patch.
    """
    arch = ARCHS.get(str(get_dotted(spec, "model.arch")))
    patch = get_dotted(spec, "model.patch_size")
    if arch is None or (patch is not None and patch not in patch_sizes(arch.family)):
        return None
    return with_patch(arch, patch)


def patches_that_fit(
    family: Family, input_size: int | list[int] | tuple[int, int], near: int
) -> list[int]:
    """The patch sizes of a family that divide this input size, the nearest to ``near`` first."""
    height, width = hw(input_size)
    per_patch = 1 if family == "vit" else 8  # tokens a side of a mask unit
    fitting = [
        patch
        for patch in patch_sizes(family)
        if height % (patch * per_patch) == width % (patch * per_patch) == 0
    ]
    return sorted(fitting, key=lambda patch: (abs(patch - near), patch))


def size_fits(arch: Arch, input_size: int | list[int] | tuple[int, int]) -> bool:
    """Whether both sides are positive multiples of the architecture's unit."""
    return all(side > 0 and side % arch.size_multiple == 0 for side in hw(input_size))


def nearest_sizes(arch: Arch, side: int) -> list[int]:
    """The admissible sides just below and just above ``side`` (pixels); one value where there is
    nothing below.
    """
    multiple = arch.size_multiple
    below = side // multiple * multiple
    return [
        value
        for value in dict.fromkeys((below, below if below == side else below + multiple))
        if value > 0
    ]


def num_units(arch: Arch, input_size: int | list[int] | tuple[int, int]) -> int:
    """Mask units in one image: what ``mask_ratio`` is a share of."""
    height, width = hw(input_size)
    return (height // arch.unit) * (width // arch.unit)
