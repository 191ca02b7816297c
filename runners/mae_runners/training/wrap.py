"""The model on its devices: Fabric gives precision, DDP and FSDP; the ranks are already there."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy
from torch import nn

from mae_runners.context import RunContext

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def precision_of(train: Any, device: torch.device) -> tuple[str, str]:
    """Fabric's precision for ``train.precision``, and why where it is not what was asked for."""
    wanted = str(train.precision)
    if train.distributed_strategy == "fsdp" and wanted == "fp32" and device.type == "cuda":
        chosen = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return PRECISION[chosen], f"fsdp trains in half precision: {chosen}"
    if wanted == "fp16" and device.type == "cpu":
        return PRECISION["bf16"], "fp16 is not for CPUs: bf16 is used"
    return PRECISION[wanted], f"precision {wanted}"


def make_fabric(spec: Any, context: RunContext, model: Any, unused: bool) -> Fabric:
    """A launched Fabric for this rank. The cluster environment is passed, never detected.

    Args:
        unused: whether some parameter takes no part in the loss: only then does DDP look for such.
    """
    train = spec.train
    precision, _ = precision_of(train, context.device)
    accelerator = "cuda" if context.device.type == "cuda" else "cpu"
    if context.world_size == 1:
        devices: Any = [context.device.index] if accelerator == "cuda" else 1
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, plugins=[LightningEnvironment()])  # type: ignore[arg-type]
        fabric.launch()
        return fabric
    local = int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size))
    if train.distributed_strategy == "fsdp":
        strategy: Any = FSDPStrategy(
            auto_wrap_policy=set(model.block_classes), cluster_environment=TorchElasticEnvironment(), use_orig_params=True
        )
    else:
        strategy = DDPStrategy(cluster_environment=TorchElasticEnvironment(), find_unused_parameters=unused)
    devices = _gpu_ids(train, local) if accelerator == "cuda" else local
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=context.world_size // local,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _gpu_ids(train: Any, local: int) -> list[int]:
    from mae_runners.context import device_ids

    return device_ids(train)[:local]


def host_group(context: RunContext) -> Any:
    """A gloo group for small agreements on the host, or None for one process."""
    if context.world_size == 1:
        return None
    return dist.new_group(backend="gloo")


def has_unused(task: Any) -> bool:
    """Whether a trained parameter gets no gradient: one small forward and backward pass of the bare model."""
    model = task.model
    height, width = model.input_size
    model.to(task.context.device)
    images = torch.zeros(2, 3, height, width, device=task.context.device)
    if task.stage == "pretrain":
        noise = torch.rand(2, model.num_units, device=task.context.device)
        loss = model(images, noise).loss
    else:
        loss = model(images).float().sum()
    loss.backward()
    unused = any(p.requires_grad and p.grad is None for p in model.parameters())
    model.zero_grad(set_to_none=True)
    return unused


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP holds the parameters."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    return any(isinstance(part, FullyShardedDataParallel) for part in module.modules())


def full_states(module: nn.Module, bare: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model state under the bare names, optimiser state), whole on rank 0, on the CPU where they are sharded. All ranks must call it."""
    if not is_sharded(module):
        return dict(bare.state_dict()), optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    from mae_runners.training.optim import plain_name

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model_state, optimizer_state = get_state_dict(module, optimizer, options=options)
    return {plain_name(name): tensor for name, tensor in model_state.items()}, dict(optimizer_state)


def restore_states(
    module: nn.Module, bare: nn.Module, optimizer: torch.optim.Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]
) -> None:
    """The inverse of `full_states`; the model's state is loaded into the bare module before wrapping where nothing is sharded."""
    if not is_sharded(module):
        bare.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    from mae_runners.training.optim import plain_name

    names = {plain_name(name): name for name, _ in module.named_parameters()}
    state = {names.get(name, name): tensor for name, tensor in model_state.items()}
    set_state_dict(
        module, optimizer, model_state_dict=state, optim_state_dict=optimizer_state, options=StateDictOptions(full_state_dict=True)
    )
