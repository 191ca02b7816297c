"""UperNet (Xiao et al., "Unified Perceptual Parsing for Scene Understanding", arXiv 1807.10221) on
any of the encoders.

Four levels of strides 4, 8, 16, 32. The coarsest goes through pyramid pooling (Zhao et al., arXiv
1612.01105), the others are added to it from coarse to fine (Lin et al., arXiv 1612.03144); all four
are brought to stride 4, fused and classified. In training a small fully convolutional head on the
third level gives a second loss.

ViT has one stride: the outputs of blocks 3, 5, 7 and 11 of 12 are rescaled by 4, 2, 1 and ½, which
makes the same four levels. The maps of ConvNeXt V2 and Hiera are their stages, each with a
LayerNorm of its own, as these backbones have it in the published segmenters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mae_skill.errors import SpecError
from timm.layers import LayerNorm2d, trunc_normal_
from torch import Tensor, nn

from mae_runners.models.base import Backboned, Config
from mae_runners.models.kernels import sum_over_ranks

AUXILIARY_LEVEL = 2


class Classifier(Backboned):
    """Image classification on any of the encoders.

    Features are the mean over positions. ViT with ``global_pool`` false takes the class token
    instead (``norm``, not ``fc_norm``).
    """

    def __init__(self, encoder: Any, config: Config) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.num_classes = int(config["num_classes"])
        head: nn.Linear = encoder.head_layer()
        trunc_normal_(head.weight, std=2e-5)
        nn.init.zeros_(head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """``images [B, 3, H, W]`` normalized → logits ``[B, num_classes]``."""
        logits: Tensor = self.encoder(images)
        return logits

    def encode(self, images: Tensor, pool: bool = True) -> Tensor:
        """Features before the linear head ``[B, D]``; with ``pool=False`` the positions ``[B, N,
        D]`` in row-major order (no class token)."""
        if pool:
            x = self.encoder.forward_features(images)
            pooled: Tensor = self.encoder.forward_head(x, pre_logits=True)
            return pooled

        last: Tensor = self.encoder.pyramid(images)[-1]
        return last.flatten(2).transpose(1, 2)

    def head_parameter_names(self) -> set[str]:
        return {f"encoder.{name}" for name in self.encoder.head_names()}


class BatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with statistics over all ranks (`torch.nn.SyncBatchNorm` is for GPUs
    alone, and this is for processes on CPUs too).

    Segmentation trains with few images per device, and statistics of two images are noise: so they
    are summed over ranks, and n ranks of b images give what one rank of n·b gives. Gradient
    accumulation does not widen them. Where a channel has a single value (one image and a 1×1 map)
    there is no variance: there the running statistics stand in and are left as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if not self.training or x.numel() // x.shape[1] * ranks == 1:
            # Sharded training may hold weight and bias in half precision; the statistics never are.
            assert self.running_mean is not None
            weight, bias = (
                self.weight.to(self.running_mean.dtype),
                self.bias.to(self.running_mean.dtype),
            )
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, weight, bias, False, 0.0, self.eps
            )
        return super().forward(x) if ranks == 1 else self._over_ranks(x)

    def _over_ranks(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            own = values.new_tensor([values.numel() // values.shape[1]])
            total = sum_over_ranks(torch.cat([values.sum(dim=(0, 2, 3)), own]))
            count = total[-1].detach()
            mean = total[:-1] / count
            centered = values - mean[:, None, None]
            variance = sum_over_ranks(centered.square().sum(dim=(0, 2, 3))) / count
            scale = self.weight.float() * (variance + self.eps).rsqrt()
            with torch.no_grad():
                assert (
                    self.running_mean is not None
                    and self.running_var is not None
                    and self.num_batches_tracked is not None
                )
                momentum = float(self.momentum or 0.0)
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(
                    (variance * count / (count - 1)).to(self.running_var.dtype), momentum
                )
            return (centered * scale[:, None, None] + self.bias.float()[:, None, None]).to(x.dtype)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned: ``[B, C, h, w]`` → ``[B, C, *size]``."""
    return (
        x
        if tuple(x.shape[-2:]) == tuple(size)
        else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    )


def conv_block(width_in: int, width: int, kernel: int) -> nn.Sequential:
    """ "Same" convolution without bias, batch normalization, ReLU."""
    conv = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, BatchNorm(width), nn.ReLU())


def classifier(width: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Whole channels dropped, then a 1×1 convolution to the classes."""
    layer = nn.Conv2d(width, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Dropout2d(dropout), layer)


def pooling_weights(length: int, bins: int) -> Tensor:
    """``[bins, length]``: row i averages the cells ⌊i·length/bins⌋ … ⌈(i+1)·length/bins⌉, as
    adaptive average pooling does."""
    weights = torch.zeros(bins, length)
    for i in range(bins):
        start, end = i * length // bins, -(-(i + 1) * length // bins)
        weights[i, start:end] = 1.0 / (end - start)
    return weights


class AveragePool(nn.Module):
    """Adaptive average pooling of maps of one known size to ``bins × bins``, as two matrix
    products.

    ONNX has no such operator for sizes that ``bins`` does not divide, and on GPUs its backward pass
    is not deterministic; a product is both.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int], bins: int) -> None:
        super().__init__()
        self.register_buffer("rows", pooling_weights(size[0], bins), persistent=False)
        self.register_buffer(
            "columns", pooling_weights(size[1], bins).T.contiguous(), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.to(x.dtype) @ x @ self.columns.to(x.dtype)


class PyramidPooling(nn.Module):
    """The map beside its averages over 1, 2², 3², 6² regions, fused: ``[B, C, h, w]`` → ``[B,
    width, h, w]``."""

    def __init__(
        self, width_in: int, width: int, scales: Sequence[int], size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.size = size
        self.branches = nn.ModuleList(
            nn.Sequential(AveragePool(size, scale), conv_block(width_in, width, 1))
            for scale in scales
        )
        self.fuse = conv_block(width_in + len(scales) * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x, *[resize(branch(x), self.size) for branch in self.branches]]
        result: Tensor = self.fuse(torch.cat(parts, dim=1))
        return result


class UperHead(nn.Module):
    """Four maps of the widths ``widths`` and the sizes ``sizes``, finest first → logits ``[B,
    num_classes, *sizes[0]]``."""

    def __init__(
        self,
        widths: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        num_classes: int,
        *,
        channels: int = 512,
        scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.pooling = PyramidPooling(widths[-1], channels, scales, sizes[-1])
        self.lateral = nn.ModuleList(conv_block(width, channels, 1) for width in widths[:-1])
        self.smooth = nn.ModuleList(conv_block(channels, channels, 3) for _ in widths[:-1])
        self.fuse = conv_block(len(widths) * channels, channels, 3)
        self.classify = classifier(channels, num_classes, dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps[:-1], strict=True)] + [
            self.pooling(maps[-1])
        ]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], self.sizes[i - 1])
        smoothed = [smooth(x) for smooth, x in zip(self.smooth, levels[:-1], strict=True)] + [
            levels[-1]
        ]
        fused = self.fuse(torch.cat([resize(x, self.sizes[0]) for x in smoothed], dim=1))
        result: Tensor = self.classify(fused)
        return result


class Double(nn.ConvTranspose2d):
    """A transposed 2×2 convolution of stride 2, whose windows do not overlap: a 1×1 convolution to
    four times the channels and a shuffle.

    Engines are built from it in every precision (TensorRT-RTX has no transposed convolution in
    bf16), and int8 reaches it.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert self.bias is not None
        kernel = self.weight.permute(1, 2, 3, 0).reshape(
            4 * self.out_channels, self.in_channels, 1, 1
        )
        return F.pixel_shuffle(F.conv2d(x, kernel), 2) + self.bias[:, None, None]


def rescaling(width: int) -> nn.ModuleList:
    """ViT's neck: ×4, ×2, ×1, ×½ (as BEiT and MAE are fine-tuned for segmentation)."""
    four = nn.Sequential(Double(width), BatchNorm(width), nn.GELU(), Double(width))
    return nn.ModuleList([four, Double(width), nn.Identity(), nn.MaxPool2d(2)])


class Segmenter(Backboned):
    """An encoder, its levels in pyramid order, UperNet, and in training the auxiliary head.

    ``config`` beside the encoder's: ``num_classes, channels, scales, dropout, auxiliary_channels``
    (0 = no auxiliary head).
    """

    def __init__(self, encoder: Any, config: Config) -> None:
        super().__init__(config)
        self.encoder = encoder
        self.num_classes = int(config["num_classes"])
        arch, (height, width) = self.shape, self.input_size
        dims: tuple[int, ...]
        if arch.family == "vit":
            dims = (encoder.num_features,) * 4
            rows, columns = encoder.grid
            if min(rows, columns) < 2:
                raise SpecError(
                    "a pyramid needs two patches a side",
                    field="dataset.augmentation.input_size",
                    got=list(self.input_size),
                    expected=f"at least {2 * arch.patch} pixels",
                )
            sizes = [
                (4 * rows, 4 * columns),
                (2 * rows, 2 * columns),
                (rows, columns),
                (rows // 2, columns // 2),
            ]
            encoder.norm, encoder.fc_norm = (
                nn.Identity(),
                nn.Identity(),
            )  # the levels come from before the last norm
            self.neck = rescaling(dims[0])
        else:
            dims = arch.dims
            strides = [arch.patch * 2**level for level in range(len(dims))]
            sizes = [(height // stride, width // stride) for stride in strides]
            self.neck = nn.ModuleList(LayerNorm2d(dim) for dim in dims)
        dropout = float(config["dropout"])
        self.uper = UperHead(
            dims,
            sizes,
            self.num_classes,
            channels=int(config["channels"]),
            scales=list(config["scales"]),
            dropout=dropout,
        )
        self.auxiliary: nn.Sequential | None = None
        if config["auxiliary_channels"]:
            between = int(config["auxiliary_channels"])
            self.auxiliary = nn.Sequential(
                conv_block(dims[AUXILIARY_LEVEL], between, 3),
                *classifier(between, self.num_classes, dropout),
            )

    def levels(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps in pyramid order, strides 4, 8, 16, 32 (of a 16-pixel patch)."""
        return [scale(x) for scale, x in zip(self.neck, self.encoder.pyramid(images), strict=True)]

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """``images [B, 3, H, W]`` normalized, of the model's size → logits ``[B, num_classes, H,
        W]``; in training a tuple of these and, where there is an auxiliary head, of its logits."""
        maps = self.levels(images)
        logits = resize(self.uper(maps), self.input_size)
        if not self.training:
            return logits
        if self.auxiliary is None:
            return (logits,)
        return logits, resize(self.auxiliary(maps[AUXILIARY_LEVEL]), self.input_size)

    def head_parameter_names(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if not name.startswith("encoder.")}
