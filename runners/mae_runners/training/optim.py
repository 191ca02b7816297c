"""The optimizer and its parameter groups.

Layer-wise rates are part of each group; biases, norms and tokens do not decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mae_skill.errors import SpecError
from mae_skill.spec import OptimSpec, TrainSpec
from torch import nn

from mae_runners.training.muon import MuonWithAdamW

WRAPPERS = ("_forward_module.", "_fsdp_wrapped_module.", "_orig_mod.", "module.")


@dataclass(frozen=True)
class LearningRate:
    """The rate after scaling, what the scaling multiplied it by, and why."""

    value: float
    factor: float
    why: str


def scaled_lr(optim: OptimSpec, effective_batch: int) -> LearningRate:
    """`lr` as given, or times effective batch / 256 with `lr_scaling=linear` (arXiv 1706.02677)."""
    if optim.lr_scaling == "linear":
        factor = effective_batch / 256
        why = f"lr {optim.lr:g} × effective batch {effective_batch} / 256"
        return LearningRate(optim.lr * factor, factor, why)
    return LearningRate(optim.lr, 1.0, "lr as given")


def beta2(optim: OptimSpec, stage: str) -> float:
    """AdamW's second β: as given, else 0.95 in pretraining (arXiv 2111.06377), 0.999 otherwise."""
    if optim.beta2 is not None:
        return float(optim.beta2)
    return 0.95 if stage == "pretrain" else 0.999


def layerwise_active(stage: str, pretrained: bool) -> bool:
    """Whether `layer_decay` and `backbone_multiplier` apply: in fine-tuning pretrained weights."""
    return stage == "finetune" and pretrained


def refines_encoder(train: TrainSpec) -> bool:
    """Whether a run refines a trained encoder by contrast."""
    return train.stage == "pretrain" and train.refine.blocks > 0


def plain_name(name: str) -> str:
    """A parameter's own name, without what DDP, FSDP, Fabric and compile add to it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "") if wrapper != "module." else name.removeprefix(wrapper)
    return name


@dataclass(frozen=True)
class Traits:
    """What the groups depend on, taken from the bare model.

    Once it is sharded, names and shapes say nothing any more.

    Attributes:
        layers: parameter → (layer id, number of layers).  no_decay, heads: names.
        matrices: names of the parameters that Muon updates.
    """

    layers: dict[str, tuple[int, int]]
    no_decay: set[str]
    heads: set[str]
    matrices: set[str]

    @classmethod
    def of(cls, model: Any) -> Traits:
        vectors = {
            name
            for name, p in model.named_parameters()
            if len([size for size in p.shape if size != 1]) <= 1
        }
        no_decay = set(model.no_weight_decay()) | vectors
        answers = model.output_parameter_names()
        return cls(
            model.layer_ids(),
            no_decay,
            set(model.head_parameter_names()),
            {
                name
                for name, p in model.named_parameters()
                if p.ndim == 2 and name not in no_decay and name not in answers
            },
        )


def parameter_groups(
    traits: Traits,
    optim: OptimSpec,
    *,
    layerwise: bool,
    named: list[tuple[str, nn.Parameter]],
    refine_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups, one for each (rate scale, weight decay), and with Muon for each part of it.

    Args:
        traits: of the bare model.
        optim: `train.optim` of the spec.
        layerwise: see `layerwise_active`.
        named: the parameters to group, wrapped or not.
        refine_decay: ``train.refine.layer_decay`` of a run that refines: layer-wise rates too, with
            no multiplier.

    Returns:
        Groups with `params, param_names, scale, weight_decay, muon`; `scale` = layer_decay^(n − id)
        (BEiT, arXiv 2106.08254), times `backbone_multiplier` outside the head; `muon`: of matrices
        that Muon updates. Frozen parameters are left out.

    Raises:
        SpecError: everything is frozen.
    """
    groups: dict[tuple[bool, float, float], dict[str, Any]] = {}
    for wrapped_name, parameter in named:
        if not parameter.requires_grad:
            continue
        name = plain_name(wrapped_name)
        scale = 1.0
        if layerwise:
            layer, total = traits.layers[name]
            multiplier = 1.0 if name in traits.heads else float(optim.backbone_multiplier)
            scale = float(optim.layer_decay) ** (total - layer) * multiplier
        elif refine_decay is not None:
            layer, total = traits.layers[name]
            scale = refine_decay ** (total - layer)
        exempt = name in traits.no_decay or name.endswith(".bias")
        decay = 0.0 if exempt else float(optim.weight_decay)

        muon = optim.type == "Muon" and name in traits.matrices

        group = groups.setdefault(
            (muon, scale, decay),
            {
                "params": [],
                "param_names": [],
                "scale": scale,
                "weight_decay": decay,
                "muon": muon,
            },
        )
        group["params"].append(parameter)
        group["param_names"].append(name)
    if not groups:
        raise SpecError(
            "train.freeze leaves nothing to train", field="train.freeze", hint="name fewer modules"
        )
    return [groups[key] for key in sorted(groups)]


def build_optimizer(
    groups: list[dict[str, Any]], optim: OptimSpec, *, stage: str, lr: float, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW with β1 = `momentum`, fused on a GPU, or Muon beside it, as `optim.type` says. Each
    group's `lr` carries its scale."""
    ready = [
        {
            "params": g["params"],
            "scale": g["scale"],
            "weight_decay": g["weight_decay"],
            "lr": lr * g["scale"],
        }
        for g in groups
    ]
    betas, fused = (float(optim.momentum), beta2(optim, stage)), device.type == "cuda"
    if optim.type == "Muon":
        for group, given in zip(ready, groups, strict=True):
            group["muon"] = given["muon"]
        return MuonWithAdamW(ready, lr=lr, betas=betas, fused=fused)
    return torch.optim.AdamW(ready, lr=lr, betas=betas, fused=fused)
