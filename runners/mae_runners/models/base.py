"""Services that the training loop asks of every model: layer ids, weight decay, freezing, gradient
checkpointing, fused attention."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from mae_skill.archs import ARCHS, Arch, with_patch
from mae_skill.errors import SpecError
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

#: plain JSON arguments that build a model, as checkpoints keep them
Config = Mapping[str, Any]


class Backbone(nn.Module, ABC):
    """An encoder with timm's parameter names.

    ``num_features``: width of its output. ``block_classes``: modules that FSDP and activation
        checkpointing may treat as units.
    """

    num_features: int
    grad_checkpointing: bool = False
    block_classes: tuple[type[nn.Module], ...] = ()

    @abstractmethod
    def layer_id(self, name: str) -> tuple[int, int]:
        """``(layer id, number of layers)`` of the parameter ``name`` for layer-wise decay: its rate
        is scaled by ``decay^(layers − id)``."""

    @abstractmethod
    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Four feature maps ``[B, C_i, h_i, w_i]``, finest first."""


def run_block(encoder: Any, block: Callable[..., T], *args: Any) -> T:
    """``block(*args)``, recomputed in the backward pass when ``encoder.grad_checkpointing`` is
    on."""
    if encoder.grad_checkpointing and encoder.training and torch.is_grad_enabled():
        result: T = checkpoint(block, *args, use_reentrant=False)
        return result
    return block(*args)


class Backboned(nn.Module, ABC):
    """A model around ``self.encoder``; ``config`` (plain JSON) is enough to build it again."""

    encoder: Any  # a Backbone, or a timm model with the same duties

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = dict(config)
        self.input_size: tuple[int, int] = (
            int(config["input_size"][0]),
            int(config["input_size"][1]),
        )

    @property
    def arch(self) -> str:
        """The name of the architecture, as in ``model.arch``."""
        return str(self.config["arch"])

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return int(self.config.get("in_chans", 3))

    @property
    def shape(self) -> Arch:
        """The architecture's row, with this model's patch."""
        return with_patch(ARCHS[self.arch], self.config.get("patch_size"))

    def set_norm_eps(self, eps: float) -> None:
        """Gives the norms this ε, and keeps it in ``config``: that of the weights that came in,
        where it is not the papers' 1e-6.

        It is that of all LayerNorms of a transformer and its decoder; ConvNeXt V2 reads it, as in
        transformers, for the norm before its classifier alone.
        """
        encoder = self.encoder
        inside = [encoder.head] if self.shape.family == "convnextv2" else [encoder]
        if "mask_ratio" in self.config and self.shape.family != "convnextv2":
            inside = [self]
        for part in inside:
            for module in part.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = eps
        self.config["norm_eps"] = eps

    @property
    def block_classes(self) -> tuple[type[nn.Module], ...]:
        """Classes of the repeated blocks: the units for FSDP."""
        return tuple({type(block) for block in self.encoder.blocks_in_order()})

    @abstractmethod
    def head_parameter_names(self) -> set[str]:
        """Names of the parameters that are not backbone."""

    def output_parameter_names(self) -> set[str]:
        """Names of the parameters of the layers that answer; Muon leaves these to AdamW."""
        return self.head_parameter_names()

    def layer_ids(self) -> dict[str, tuple[int, int]]:
        """Parameter name → ``(layer id, number of layers)``; what is not backbone has the last id,
        scale 1."""
        heads = self.head_parameter_names()
        last = self.encoder.layer_id("head.")[1]
        return {
            name: (last, last)
            if name in heads or not name.startswith("encoder.")
            else self.encoder.layer_id(name.removeprefix("encoder."))
            for name, _ in self.named_parameters()
        }

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay: one-dimensional ones (norms, biases, GRN), tokens and
        position embeddings."""
        tokens = ("pos_embed", "cls_token", "mask_token", "decoder_pos_embed")
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim <= 1 or name.rsplit(".", 1)[-1] in tokens
        }

    def freeze(self, names: Iterable[str]) -> list[str]:
        """Stop the gradients of modules or parameters by name; returns the frozen parameters.

        Args:
            names: the prefix ``encoder.`` may be left out. ``encoder`` itself is the backbone: a
                head inside it still learns.

        Raises:
            SpecError: a name is not in the model, or nothing trainable is left.
        """
        modules = [name for name, _ in self.named_modules() if name] + [
            name for name, _ in self.named_parameters()
        ]
        frozen: list[str] = []
        for wanted in names:
            full = next((name for name in (wanted, f"encoder.{wanted}") if name in modules), None)
            if full is None:
                close = difflib.get_close_matches(
                    wanted, [name.removeprefix("encoder.") for name in modules], n=3
                )
                raise SpecError(
                    "no module of the model has this name",
                    field="train.freeze",
                    got=wanted,
                    expected="names of modules or parameters of the model",
                    hint=f"did you mean {', '.join(close)}?"
                    if close
                    else f"top level: {', '.join(sorted({m.split('.')[0] for m in modules}))}",
                )
            spared = self.head_parameter_names() if full == "encoder" else set()
            frozen += [
                name
                for name, _ in self.named_parameters()
                if (name == full or name.startswith(f"{full}.")) and name not in spared
            ]
        parameters = dict(self.named_parameters())
        for name in frozen:
            parameters[name].requires_grad_(False)
        if frozen and not any(parameter.requires_grad for parameter in parameters.values()):
            raise SpecError(
                "every parameter of the model would be frozen",
                field="train.freeze",
                got=list(names),
                hint="leave at least the head out",
            )
        return sorted(set(frozen))

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Recompute activations of the encoder's blocks in the backward pass: less memory, about a
        third more time."""
        self.encoder.grad_checkpointing = enabled

    def set_fused_attention(self, enabled: bool) -> None:
        """Use the fused attention kernel (default) or plain matrix products (exports to opsets
        below 14 need these)."""
        for module in self.modules():
            if isinstance(module, _Attention):
                module.fused_attn = enabled


@runtime_checkable
class _Attention(Protocol):
    fused_attn: bool


def init_truncated(module: nn.Module, *kinds: type[nn.Conv2d] | type[nn.Linear]) -> None:
    """Layers of these kinds: weights of deviation 0.02, drawn within ±2, and zero biases."""
    for part in module.modules():
        if isinstance(part, kinds):
            trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def transformer_layer_id(name: str, depth: int) -> tuple[int, int]:
    """Layer ids of a transformer: embeddings 0, block i → i + 1, the rest ``depth + 1`` (BEiT's
    rule, as MAE fine-tunes)."""
    layers = depth + 1
    if name.startswith(("cls_token", "pos_embed", "patch_embed")):
        return 0, layers
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1, layers
    return layers, layers
