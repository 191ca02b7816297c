"""The model on its devices: Fabric gives precision, DDP and FSDP; the ranks are already there."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
from mae_skill.errors import DependencyError
from mae_skill.spec import ExperimentSpec, TrainSpec
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mae_runners.context import RunContext, device_ids
from mae_runners.distributed import Ranks, is_sharded
from mae_runners.tasks.base import Task
from mae_runners.training.lightning import (
    DDPStrategy,
    Fabric,
    LightningEnvironment,
    MixedPrecision,
    ModelParallelStrategy,
    TorchElasticEnvironment,
)
from mae_runners.training.lightning import Precision as FullPrecision

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def precision_of(train: TrainSpec, device: torch.device) -> tuple[str, str]:
    """Fabric's precision for ``train.precision``, and why where it is not what was asked for."""
    wanted = str(train.precision)
    if train.distributed_strategy == "fsdp" and wanted == "fp32" and device.type == "cuda":
        chosen = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return PRECISION[chosen], f"fsdp trains in half precision: {chosen}"
    if wanted == "fp16" and device.type == "cpu":
        return PRECISION["bf16"], "fp16 is not for CPUs: bf16 is used"
    return PRECISION[wanted], f"precision {wanted}"


class MixedInputs(MixedPrecision):
    """Mixed precision whose inputs stay as they are.

    Masking noise rounded to eight bits would tie, and targets would lose digits.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def shard(model: Any, mesh: Any) -> Any:
    """Fully sharded data parallel.

    Every block gathers its parameters for its own passes only; the rest of the model is one more
    unit.
    """
    # Nothing changes a loss in place, which is what the warning is about.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for part in model.modules():
        if isinstance(part, model.block_classes):
            fully_shard(part, mesh=mesh["data_parallel"])
    return fully_shard(model, mesh=mesh["data_parallel"], reshard_after_forward=True)


def compiled(model: nn.Module, device: torch.device) -> Any:
    """`torch.compile`. Needs a C++ compiler on CPU, a C compiler on GPU.

    Raises:
        DependencyError: there is no such compiler. PyTorch would say so in the first step, at
            length.
    """
    variable, usual = "CXX", ["clang++" if sys.platform == "darwin" else "g++"]
    if device.type == "cuda":
        variable, usual = "CC", ["gcc", "clang"]
    chosen = shlex.split(os.environ.get(variable, ""))[:1] or usual
    if not any(shutil.which(name) for name in chosen):
        raise DependencyError(
            "compiling needs a compiler, and there is none",
            field="train.compile",
            got=", ".join(chosen),
            expected=f"{' or '.join(usual)} on the path, or another one named by {variable}",
            hint="install one (apt-get install g++), or set train.compile=false",
        )
    return torch.compile(model)


def make_fabric(spec: ExperimentSpec, context: RunContext, model: Any, unused: bool) -> Fabric:
    """A launched Fabric for this rank. The cluster environment is passed, never detected.

    Args:
        unused: whether some parameter takes no part in the loss: only then DDP looks for such.
    """
    train = spec.train
    precision: Any = precision_of(train, context.device)[0]
    accelerator = "cuda" if context.device.type == "cuda" else "cpu"
    mixed = precision.endswith("-mixed")
    plugins: list[Any] = [MixedInputs(precision, accelerator) if mixed else FullPrecision()]

    if context.world_size == 1:
        devices: Any = [context.device.index] if accelerator == "cuda" else 1
        fabric = Fabric(
            accelerator=accelerator, devices=devices, plugins=[*plugins, LightningEnvironment()]
        )
        fabric.launch()
        return fabric

    local = int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size))
    if train.distributed_strategy == "fsdp":
        strategy: Any = ModelParallelStrategy(
            shard, data_parallel_size=context.world_size, tensor_parallel_size=1
        )
        strategy.cluster_environment = TorchElasticEnvironment()
        model.to(context.device)
    else:
        strategy = DDPStrategy(
            cluster_environment=TorchElasticEnvironment(), find_unused_parameters=unused
        )
    devices = device_ids(train, local)[:local] if accelerator == "cuda" else local
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=context.world_size // local,
        strategy=strategy,
        plugins=plugins,
    )
    fabric.launch()
    return fabric


def host_ranks(context: RunContext) -> Ranks:
    """The ranks of a launched Fabric, with a gloo group of their own on the host."""
    return Ranks(context, dist.new_group(backend="gloo") if context.world_size > 1 else None)


def has_unused(task: Task) -> bool:
    """Whether a trained parameter gets no gradient, by a small pass of the bare model."""
    model: Any = task.model
    device = task.context.device
    height, width = model.input_size
    model.to(device)
    statistics = [buffer.clone() for buffer in model.buffers()]

    images = torch.zeros(2, model.in_chans, height, width, device=device)
    if task.stage == "pretrain":
        views = None if model.refiner is None else images
        loss = model(images, torch.rand(2, model.num_units, device=device), views).loss
    else:
        outputs = model(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = torch.stack([output.float().sum() for output in outputs]).sum()
    loss.backward()
    unused = any(p.requires_grad and p.grad is None for p in model.parameters())

    model.zero_grad(set_to_none=True)
    for buffer, before in zip(model.buffers(), statistics, strict=True):
        buffer.copy_(before)
    return unused


def full_states(
    bare: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model state, optimizer state) as a single process has them. All ranks must call it.

    Where the weights are sharded, both are whole on rank 0, on the CPU, and empty elsewhere.
    """
    if not is_sharded(bare):
        return dict(bare.state_dict()), optimizer.state_dict()
    model_state, optimizer_state = get_state_dict(
        bare, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    named: dict[str, Any] = dict(optimizer_state)
    if not named:
        return dict(model_state), {}

    # Names become the numbers that a plain optimizer gives its parameters, in order of the groups.
    groups: list[dict[str, Any]] = []
    entries: dict[int, Any] = {}
    number = 0
    for group in named["param_groups"]:
        groups.append({**group, "params": list(range(number, number + len(group["params"])))})
        for name in group["params"]:
            if name in named["state"]:
                entries[number] = named["state"][name]
            number += 1
    return dict(model_state), {"state": entries, "param_groups": groups}


def optimizer_names(bare: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of an optimizer's parameters, in the order in which its state numbers them."""
    names = {id(parameter): name for name, parameter in bare.named_parameters()}
    return [
        names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]
    ]


def restore_optimizer(
    bare: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    saved: list[str] | None,
) -> None:
    """Loads a whole optimizer state of `full_states`, sharded or not; every rank must call it.

    Moments go to their parameters by name. All else (groups, weight decay, betas, which kernel does
    the update) is what this run's spec and machine say. A parameter that was not trained before, or
    by another rule, starts with no moments.

    Args:
        saved: `optimizer_names` of the run that wrote the state; None: those of this one.
    """
    ordered = optimizer_names(bare, optimizer)
    saved = saved or ordered
    entries = {saved[number]: entry for number, entry in state["state"].items()}
    groups = optimizer.state_dict()["param_groups"]
    moment = {
        ordered[number]: "momentum_buffer" if group.get("muon") else "exp_avg"
        for group in groups
        for number in group["params"]
    }
    entries = {name: entry for name, entry in entries.items() if moment.get(name) in entry}
    if not is_sharded(bare):
        own = {number: entries[name] for number, name in enumerate(ordered) if name in entries}
        optimizer.load_state_dict({"state": own, "param_groups": groups})
        return

    parameters = dict(bare.named_parameters())

    def fresh(name: str) -> dict[str, Tensor]:
        shape = parameters[name].shape
        return {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros(shape),
            "exp_avg_sq": torch.zeros(shape),
        }

    named: dict[str, Any] = {
        "state": {name: entries.get(name) or fresh(name) for name in ordered},
        "param_groups": [
            {**group, "params": [ordered[number] for number in group["params"]]} for group in groups
        ],
    }
    set_optimizer_state_dict(bare, optimizer, named, options=StateDictOptions(full_state_dict=True))


def load_weights(bare: nn.Module, state: dict[str, Any]) -> None:
    """Loads a whole model state, sharded or not; every rank must call it."""
    if is_sharded(bare):
        set_model_state_dict(bare, state, options=StateDictOptions(full_state_dict=True))
    else:
        bare.load_state_dict(state)


def gradient_norm(optimizer: torch.optim.Optimizer, scaler: Any, clip: float | None) -> Tensor:
    """The norm of the whole gradient, a scalar on the device; clipped to `clip` afterward.

    Under an fp16 scaler the gradients are unscaled first.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    parameters = [
        p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
