"""Devices: how many GPUs a run asks for and finds, and what an engine needs."""

from __future__ import annotations

import importlib.util
import os

from mae_skill.errors import DependencyError
from mae_skill.rules.base import Case, Rule

ENGINE_PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}  # module → package

MOST_WORKERS, WORKERS_A_CORE = 32, 4
"""Processes that read pictures, in all and for each core, above which none was meant."""


def gpu_ids(case: Case) -> None:
    """Each device is named once, and as many as are asked for."""
    action = case.action
    count, ids = case(f"{action}.num_gpus"), case(f"{action}.gpu_ids")
    if not isinstance(ids, list):
        return

    if len(set(ids)) != len(ids):
        case.error(
            f"{action}.gpu_ids",
            "a device is named twice",
            "each index once",
            "name each index once, or set train.num_gpus alone",
        )
    chosen = case.given(f"{action}.num_gpus") and case.given(f"{action}.gpu_ids")
    if isinstance(count, int) and count != len(ids) and chosen:
        case.warn(
            f"{action}.num_gpus",
            f"num_gpus={count} and gpu_ids={ids} differ: {max(count, len(ids))} devices are used, "
            "the larger setting",
        )


def enough_gpus(case: Case) -> None:
    """The machine has the GPUs that training asks for."""
    present, wanted = case.facts.gpus, _wanted(case)
    accelerator, whose = case("train.accelerator", "auto"), case.facts.machine
    if present is None or accelerator == "cpu":
        return

    if present == 0 and accelerator == "gpu":
        case.error(
            "train.accelerator",
            f"{whose} has no GPU",
            "auto or cpu",
            "set train.accelerator=auto",
            kind=DependencyError,
        )
    elif present == 0 and accelerator == "auto" and wanted > 1:
        case.error(
            "train.num_gpus",
            f"{whose} has no GPU",
            "1, or train.accelerator=cpu, where it counts processes",
            "set train.num_gpus=1",
            kind=DependencyError,
        )
    elif present == 0 and accelerator == "auto":
        where = "here" if case.facts.local_files else f"on {whose}"
        case.warn("train.accelerator", f"no GPU {where}: trains in one CPU process")
    elif present and wanted > present:
        case.error(
            "train.num_gpus",
            f"{whose} has {present} GPU(s)",
            f"at most {present}",
            f"set train.num_gpus={present}",
            kind=DependencyError,
        )


def cores(case: Case) -> None:
    """The processes of a run have cores."""
    present, wanted, whose = case.facts.cores, _wanted(case), case.facts.machine
    if not present:
        return
    if _on_cpu(case) and wanted > present:
        case.warn(
            "train.num_gpus",
            f"{wanted} processes on the {present} cores of {whose}: each holds a model of its "
            f"own, and together they are no faster than {present}",
        )
    key = "dataset.num_workers_per_gpu"
    workers = int(case(key) or 0) * wanted
    if workers > max(MOST_WORKERS, WORKERS_A_CORE * present):
        case.warn(
            key,
            f"{workers} processes read pictures on the {present} cores of {whose}: more than "
            f"{present} are no faster, and each takes memory",
        )


def _on_cpu(case: Case) -> bool:
    """Whether the run computes on a CPU, as far as it is known."""
    accelerator = case("train.accelerator", "auto")
    return accelerator == "cpu" or (accelerator == "auto" and case.facts.gpus == 0)


def precision(case: Case) -> None:
    """Precisions that are not what they say, or slow."""
    on_cpu = _on_cpu(case)
    if case("train.distributed_strategy") == "fsdp" and not on_cpu:
        if case("train.precision") == "fp32":
            case.warn(
                "train.precision",
                "fsdp trains in half precision: bf16 where the hardware has it, else fp16",
            )
    elif case("train.distributed_strategy") == "fsdp" and _wanted(case) * case.facts.nodes == 1:
        case.warn(
            "train.distributed_strategy",
            "fsdp divides a model among processes, and this run has one: it has no effect",
        )
    if case("train.precision") == "fp16" and on_cpu:
        case.warn("train.precision", "fp16 is not for CPUs: the run uses bf16; fp32 is exact")


def optimizer(case: Case) -> None:
    """Muon takes whole matrices."""
    if case("train.optim.type") == "Muon" and case("train.distributed_strategy") == "fsdp":
        case.error(
            "train.optim.type",
            "Muon orthogonalizes whole matrices, and fsdp cuts them up",
            "AdamW, or train.distributed_strategy=ddp",
            "set train.optim.type=AdamW or train.distributed_strategy=ddp",
        )


def threads(case: Case) -> None:
    """Several processes that each start a thread per core have crashed in OpenMP."""
    if _wanted(case) > 1 and not os.environ.get("OMP_NUM_THREADS"):
        case.warn(
            None, "several processes: if one dies of a segmentation fault, set OMP_NUM_THREADS=1"
        )


def engine_builder(case: Case) -> None:
    """What would end the job with exit 7: a library or a GPU that is missing."""
    backend = str(case("gen_trt_engine.backend"))
    if backend not in ENGINE_PACKAGES:
        return

    if importlib.util.find_spec(backend) is None:
        lacking = f"{ENGINE_PACKAGES[backend]} is not installed here"
        fix = f"pip install 'mae-skill[{ENGINE_PACKAGES[backend]}]'"
    elif backend == "tensorrt" and case.facts.gpus == 0:
        lacking = "tensorrt needs the GPU it builds for, and there is none here"
        fix = "run it where one is"
    else:
        return

    if backend == "tensorrt":
        fix += "; gen_trt_engine.backend=tensorrt_rtx builds without a GPU"
    end = "the job would end with exit 7"
    case.warn("gen_trt_engine.backend", f"{lacking}: {end}; {fix}", serious=True)


def engine_runner(case: Case) -> None:
    """An engine runs on a GPU alone."""
    key = f"{case.action}.trt_engine"
    if case(key) and case.facts.gpus == 0:
        case.warn(
            key,
            "an engine runs on an NVIDIA GPU and there is none here: the job would end with exit 7",
            serious=True,
        )


def _wanted(case: Case) -> int:
    """Devices that training asks for: the larger of the two settings."""
    return max(int(case("train.num_gpus") or 1), len(case("train.gpu_ids") or [0]))


RULES = [
    Rule(gpu_ids),
    Rule(enough_gpus, ("train",)),
    Rule(cores, ("train",)),
    Rule(precision, ("train",)),
    Rule(optimizer, ("train",)),
    Rule(threads, ("train",)),
    Rule(engine_builder, ("gen_trt_engine",)),
    Rule(engine_runner, ("evaluate", "inference")),
]
