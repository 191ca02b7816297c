"""Parameters, memory and time of a run before it starts. The bundle's ``estimator:`` entry point.

Parameter counts are exact; memory and time are stated models. Work and stored values are those of
one image, from the model's shape alone. A multiplication with its addition counts as two
operations; values are those that the forward pass keeps for the backward pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_skill.archs import Arch, arch_of, hiera_kernel, hw, num_units
from mae_skill.dotted import get_dotted
from mae_skill.errors import CheckpointError
from mae_skill.gpus import GPUS, gpu_of
from mae_skill.onnx_file import ONNX_FILE, read_header
from mae_skill.rules.base import Facts
from mae_skill.weights.parameters import matrices_of

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

_GPU_SHARE = 0.35  # of the peak, which well-tuned transformer training reaches
# GFLOP/s of one core in training: 48 to 98 were measured on a server's core with AVX-512.
_CPU_GIGA = 64.0
# Depthwise convolutions reach this share of it: 0.35 to 0.6 were measured.
_CPU_SHARE = {"vit": 1.0, "convnextv2": 0.4, "hiera": 1.0}
# Of a step, for each parameter: gradient norm and optimizer read and write main memory. It is most
# of the step where batch and images are small.
_CPU_PARAMETER_SECONDS, _GPU_PARAMETER_SECONDS = 4e-9, 3e-11
# Of a step: launching kernels, the optimizer's loop, the loader's hand-over.
_OVERHEAD_SECONDS = 0.004

# Start of a runner until its first step: imports, data, model; on a GPU its context too. Processes
# that start together on few cores wait for each other. Measured: 4 to 9 s on 2 cores.
_START_SECONDS, _START_GPU_SECONDS = 6.0, 10.0
# Decoding a photograph of half a megapixel and bringing it to 224 pixels, on one core; a policy of
# augmentation; both grow with the area. Larger photographs take up to ten times as long.
_LOAD_SECONDS, _POLICY_SECONDS = 0.003, 0.0015
WAITS = "the GPU waits for its images"
"""How the note of a slow loader begins."""
_WRITE_BYTES = 300e6  # of a checkpoint per second: serialize, write, SHA-256
_PICTURES_SECONDS = 0.4  # of a validation in pretraining
# After the images: tables and figures; several batch sizes timed, where the speed is measured.
_REST_SECONDS = {"evaluate": 5.0, "inference": 2.5, "export": 2.0}
# Values kept per channel and position of a block: fused attention keeps queries, keys, values, both
# norms and the MLP's hidden layer.
KEPT = {"vit": 17.0, "convnextv2": 20.0, "hiera": 19.0}


def estimate(action: str, spec: Mapping[str, Any], facts: Facts | None = None) -> dict[str, Any]:
    """What one device of a run needs.

    Args:
        facts: ``device``, ``cores``, ``processes``, ``judged`` and ``steps_per_epoch`` are used,
            where known.

    Returns:
        Of a train run ``parameters`` (learned ones: encoder, decoder or head, total; of a run that
        refines the whole encoder, and the heads of the contrast), ``mask_units``,
        ``memory_mb`` (weights, optimizer, activations, total) with ``basis``,
        ``disk_mb`` of the checkpoints that stay (each, number, total) and ``forward_gflops`` per
        image. Of other actions the least ``memory_mb`` (weights, pictures, total; of a graph that
        is written or read, attention too); ``memory_of`` is ``host`` where it is that of the
        machine whatever the device. Where the device is known, ``seconds_per_step`` of a train run,
        and of it and of other actions ``seconds`` beside the steps of the whole run: ``start,
        validation, reconstructions, checkpoints, rest``; with ``seconds_basis``. Of a step on a GPU
        ``step_parts``: ``work`` of the passes and what comes ``beside`` them, ``images`` by which
        its loader is busy meanwhile, and ``load``, one core's seconds for an image. ``exchange_mb``
        of several processes. ``notes`` for people.

    Memory is weights and gradients and AdamW's two moments (Muon's one) in fp32, and activations by
    a linear model (values per channel and position), without fragmentation or the framework's own
    300–600 MB. Under ``fsdp`` the processes divide weights, gradients and moments among themselves.
    """
    arch = arch_of(spec)
    facts = facts or Facts()
    if action == "gen_trt_engine":
        return _held_by_engine(spec, facts)
    if arch is None or action not in ("train", *_REST_SECONDS):
        return {}
    operations = forward_operations(arch, spec)
    if action != "train":
        exports = action == "export"
        held = _held_by_export(spec, facts) if exports else _held(action, arch, spec, facts)
        return {**held, **_seconds(action, arch, spec, operations, facts)}

    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    encoder = encoder_parameters(arch, spec) - untrained_encoder_parameters(arch, spec)
    part, count = "head", _head_parameters
    if is_pretraining(spec):
        part, count = "decoder", decoder_parameters
    if _refined_blocks(spec):
        part, count = "heads", _refiner_parameters
    rest = count(arch, spec)
    disk = _disk(spec, encoder + rest, facts)
    return {
        "parameters": {"encoder": encoder, part: rest, "total": encoder + rest},
        "mask_units": num_units(arch, size),
        **_memory(arch, spec, encoder + rest, facts.processes or 1, facts.nodes),
        **_exchange(spec, encoder + rest, facts),
        "disk_mb": disk,
        "forward_gflops": round(operations / 1e9, 4),
        **_seconds(action, arch, spec, operations, facts, encoder + rest, disk["checkpoint"]),
    }


def _held(action: str, arch: Arch, spec: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """``memory_mb`` that a run without training takes at the least, and its ``basis``."""
    mega = 4 / 2**20  # bytes of a value in fp32
    own = int(get_dotted(spec, f"{action}.batch_size") or -1)
    batch = own if own > 0 else int(get_dotted(spec, "dataset.batch_size") or 1)
    batch = min(batch, facts.judged or batch)
    height, width = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    channels = int(get_dotted(spec, "dataset.channels") or 3)
    weights = encoder_parameters(arch, spec) * mega
    pictures = batch * channels * height * width * mega
    found = {
        "weights": round(weights, 1),
        "pictures": round(pictures, 1),
        "total": round(weights + pictures, 1),
    }
    if (processes := facts.processes or 1) > 1:
        found["all_processes"] = round(processes * found["total"], 1)
    basis = "per process, at the least: the encoder's weights and a batch of pictures in fp32"
    return {"memory_mb": found, "basis": basis}


def _held_by_export(spec: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """As `_held`, of an export: the model and the file made of it, and the pictures on which they
    are compared."""
    batch = int(get_dotted(spec, "export.batch_size") or -1)
    graph = get_dotted(spec, "export.format", "onnx") in _GRAPHS
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    size = (
        int(get_dotted(spec, "export.input_height") or size[0]),
        int(get_dotted(spec, "export.input_width") or size[1]),
    )
    arch = arch_of(spec)
    assert arch is not None
    whole = _at_work(spec, size)
    found = _of_graph(
        weights=2 * 4 * encoder_parameters(arch, whole),
        picture=4.0 * int(get_dotted(spec, "dataset.channels") or 3) * size[0] * size[1],
        batch=batch if graph else -1,
        attention=attention_values(arch, whole) if graph else 0.0,
        calibration=_calibration(spec, facts, get_dotted(spec, "export.data_type")),
    )
    by_gpu = graph and get_dotted(spec, "export.on_cpu") is False
    basis = f"at the least: the weights of the model and of the file, {_GRAPH_BASIS}"
    return {"memory_mb": found, "basis": basis, **({} if by_gpu else {"memory_of": "host"})}


def _held_by_engine(spec: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """As `_held`, of the machine on which an engine is built: its ONNX file answers there first.
    Nothing of a file that is not here."""
    named = get_dotted(spec, ONNX_FILE)
    file = Path(str(named)).expanduser()
    if not named or not facts.local_files or not file.is_file():
        return {}
    try:
        header = read_header(file)
    except CheckpointError:
        return {}
    if len(header.dims) != 4 or not all(header.dims[1:]):
        return {}
    channels, height, width = (int(side or 0) for side in header.dims[1:])
    data = file.with_name(f"{file.name}.data")
    size = file.stat().st_size + (data.stat().st_size if data.is_file() else 0)
    told = {name: header.properties.get(f"mae.{name}") for name in ("arch", "patch_size")}
    model = _at_work({"model": told}, (height, width))
    arch = arch_of(model)
    data_type = get_dotted(spec, "gen_trt_engine.tensorrt.data_type")
    found = _of_graph(
        weights=2 * size,
        picture=4.0 * channels * height * width,
        batch=header.batch or -1,
        attention=attention_values(arch, model) if arch is not None else 0.0,
        calibration=_calibration(spec, facts, data_type),
    )
    basis = f"at the least: the ONNX file, read and run, {_GRAPH_BASIS}"
    return {"memory_mb": found, "basis": basis, "memory_of": "host"}


_GRAPHS = ("onnx", "triton", "torchscript", "torch_export")
_GRAPH_BASIS = "the pictures that answers are compared on, and one block's attention, in fp32"
_COMPARED, _AT_ONCE = 16, 8  # pictures that an export and its model answer, and at once


def _of_graph(
    *, weights: float, picture: float, batch: int, attention: float, calibration: int
) -> dict[str, float]:
    """``memory_mb`` of a graph and its pictures.

    Args:
        weights, picture: bytes of the weights, and of one picture.
        batch: that the graph is fixed to; -1: any.
        attention: values of one picture's attention, which a graph holds as it is.
        calibration: pictures that are held to choose the scales of int8.
    """
    mega = 1 / 2**20
    pictures = (max(batch, _COMPARED) + calibration) * picture * mega
    attending = (batch if batch > 0 else _AT_ONCE) * attention * 4 * mega
    return {
        "weights": round(weights * mega, 1),
        "pictures": round(pictures, 1),
        "attention": round(attending, 1),
        "total": round(weights * mega + pictures + attending, 1),
    }


def _at_work(spec: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A model as it answers: it sees every patch of an image of this size."""
    dataset = {"channels": get_dotted(spec, "dataset.channels"), "augmentation": {}}
    dataset["augmentation"] = {"input_size": list(size)}
    model = spec.get("model")
    return {"model": model, "dataset": dataset, "train": {"stage": "finetune"}}


def _calibration(spec: Mapping[str, Any], facts: Facts, data_type: Any) -> int:
    """Pictures that int8 is calibrated on, where it is known how many there are."""
    section = "gen_trt_engine.tensorrt.calibration."
    if data_type != "int8" or get_dotted(spec, f"{section}cal_image_dir"):
        return 0
    sources = ("dataset.train_data_sources", "dataset.val_data_sources")
    source = next((key for key in sources if get_dotted(spec, key)), "")
    there = int((facts.data.get(source) or {}).get("images") or 0)
    size = int(get_dotted(spec, f"{section}cal_batch_size") or 8)
    return min(there, size * int(get_dotted(spec, f"{section}cal_batches") or 16))


def attention_values(arch: Arch, spec: Mapping[str, Any]) -> float:
    """Values of the largest attention of one image, of every position to every other."""
    found = 0.0
    for stage, blocks in enumerate(encoder_blocks(arch, spec)):
        if blocks.window != blocks.tokens:  # of windows, or a convolution
            continue
        asked = get_dotted(spec, "model.num_heads") if arch.family == "vit" else None
        heads = int(asked or arch.heads[stage])
        found = max(found, heads * blocks.tokens * blocks.window)
    return found


def _memory(
    arch: Arch, spec: Mapping[str, Any], parameters: int, processes: int, nodes: int
) -> dict[str, Any]:
    """``memory_mb`` of one process and its ``basis``; ``all_processes`` are those of one node."""
    mega = 1 / 2**20
    batch = int(get_dotted(spec, "dataset.batch_size", 1))
    precision = str(get_dotted(spec, "train.precision", "fp32"))
    shards = get_dotted(spec, "train.distributed_strategy") == "fsdp" and processes * nodes > 1
    share = processes * nodes if shards else 1
    weights = parameters * 8 * mega / share
    optimizer = _moments(spec, parameters) * 4 * mega / share
    activations = kept_values(arch, spec) * batch * BYTES[precision] * mega
    found = {
        "weights": round(weights, 1),
        "optimizer": round(optimizer, 1),
        "activations": round(activations, 1),
        "total": round(weights + optimizer + activations, 1),
    }
    basis = (
        f"per process: weights and gradients fp32, {_optimizer(spec)} moments fp32, activations by "
        "a linear model; add about 0.5 GB for the framework"
    )
    if processes > 1:
        found["all_processes"] = round(processes * found["total"], 1)
    if processes * nodes > 1:
        how = "fsdp divides weights, gradients and moments among" if shards else "ddp: each of"
        basis += f"; {how} {processes * nodes} processes"
        basis += "" if shards else " holds all weights"
    if processes > 1 and nodes > 1:
        basis += f"; all_processes: the {processes} of one node"
    return {"memory_mb": found, "basis": basis}


def _exchange(spec: Mapping[str, Any], parameters: int, facts: Facts) -> dict[str, Any]:
    """``exchange_mb``: what several processes add up in a step, as if it were gradients alone.

    Under fsdp weights are gathered for the forward and for the backward pass, and gradients
    scattered: half as much again (ZeRO stage 3, arXiv:1910.02054). That would be less where weights
    are gathered in bf16; the runner keeps and gathers them in fp32, as ddp does, and computes in
    half precision by autocast.
    """
    if (facts.processes or 1) * facts.nodes == 1:
        return {}
    more = 1.5 if get_dotted(spec, "train.distributed_strategy") == "fsdp" else 1.0
    return {"exchange_mb": round(parameters * 4 * more / 2**20, 1)}


def _optimizer(spec: Mapping[str, Any]) -> str:
    return str(get_dotted(spec, "train.optim.type", "AdamW"))


def _moments(spec: Mapping[str, Any], parameters: int) -> int:
    """Numbers that the optimizer keeps: two for each parameter, one where Muon updates it."""
    if _optimizer(spec) != "Muon":
        return 2 * parameters
    return 2 * parameters - sum(math.prod(shape) for shape in matrices_of(spec).values())


def _muon_operations(spec: Mapping[str, Any]) -> float:
    """Of a step of Muon: five Newton-Schulz iterations of three products for each matrix."""
    if _optimizer(spec) != "Muon":
        return 0.0
    sides = [sorted(shape) for shape in matrices_of(spec).values()]
    return float(sum(5 * (4 * short**2 * long + 2 * short**3) for short, long in sides))


def _disk(spec: Mapping[str, Any], parameters: int, facts: Facts) -> dict[str, Any]:
    """Checkpoints: weights, their moving average where there is one, and the optimizer's moments,
    all in fp32.
    """
    copies = 2 if get_dotted(spec, "train.ema_decay") is not None else 1
    each = 4 * (copies * parameters + _moments(spec, parameters)) / 2**20
    number = _written(spec, facts)
    keep = get_dotted(spec, "train.keep_checkpoints")
    if keep is not None:
        number = min(number, int(keep) + 1)  # the best one may be older than the newest ones
    return {"checkpoint": round(each, 1), "checkpoints": number, "total": round(each * number, 1)}


def _written(spec: Mapping[str, Any], facts: Facts) -> int:
    """Checkpoints that a run writes."""
    epochs = int(get_dotted(spec, "train.num_epochs", 1))
    interval = int(get_dotted(spec, "train.checkpoint_interval", 1) or 1)
    if get_dotted(spec, "train.checkpoint_interval_unit") == "step":
        return epochs * int(facts.steps_per_epoch or 1) // interval + 1
    return -(-epochs // interval)


def _rate(arch: Arch, spec: Mapping[str, Any], facts: Facts) -> tuple[float, str] | None:
    """Operations per second of one process, and where that is from; None on an unknown device."""
    device, cores, processes = facts.device or "", facts.cores, facts.processes or 1
    if device == "cpu" and cores:
        shared = f" shared by {processes} processes" if processes > 1 else ""
        giga = _CPU_GIGA * _CPU_SHARE[arch.family]
        words = f"{cores} cores at {giga:g} GFLOP/s{shared}"
        return giga * 1e9 * int(cores) / processes, words
    name = gpu_of(device)
    if name is None:
        return None
    is_fp32 = get_dotted(spec, "train.precision", "fp32") == "fp32"
    peak = GPUS[name].fp32 if is_fp32 else GPUS[name].bf16
    return peak * 1e12 * _GPU_SHARE, f"{_GPU_SHARE:.0%} of {name}'s {peak:g} TFLOP/s"


def _seconds(
    action: str,
    arch: Arch,
    spec: Mapping[str, Any],
    operations: float,
    facts: Facts,
    parameters: int = 0,
    checkpoint_mb: float = 0.0,
) -> dict[str, Any]:
    """``seconds`` of a run; empty on an unknown device.

    Args:
        operations: of the forward pass of one image.
    """
    found = _rate(arch, spec, facts)
    if found is None:
        return {}
    rate, words = found
    on_cpu = facts.device == "cpu"
    processes = facts.processes or 1
    cores = facts.cores / processes if facts.cores else None  # of one process
    crowd = max(1.0, 1 / cores) if cores else 1.0
    load = _load(spec, trains=action == "train") * crowd

    judging = 0.0
    if facts.judged:
        read = _load(spec, trains=False) * crowd
        judging = facts.judged / (processes * facts.nodes) * (operations / rate + read)
    seconds: dict[str, Any] = {
        "start": (_START_SECONDS if on_cpu else _START_GPU_SECONDS) * crowd,
        "rest": _REST_SECONDS.get(action, 0.5) + (0.0 if action == "train" else judging),
    }
    of_step: dict[str, Any] = {}
    if action == "train":
        each = _CPU_PARAMETER_SECONDS * processes if on_cpu else _GPU_PARAMETER_SECONDS
        beside = _OVERHEAD_SECONDS + each * parameters + _muon_operations(spec) / rate
        share = refined_share(arch, spec)
        # The backward pass takes two forward passes' work, in the blocks that learn.
        passes = 1 + 2 * (share or 1.0)
        work = passes * operations / rate * _images_of_step(spec)
        workers = int(get_dotted(spec, "dataset.num_workers_per_gpu", 0) or 0)
        # Loader processes work beside a GPU, as many as have a core, and on a CPU take their share
        # of its cores.
        at_work = min(workers, max(1.0, cores)) if cores and not on_cpu else workers
        reading = load * _images_of_step(spec) / max(1.0, at_work)
        in_turn = on_cpu or workers == 0
        step = work + beside + reading if in_turn else max(work + beside, reading)
        validations = _validations(spec)
        seconds["validation"] = validations * judging
        if is_pretraining(spec):  # of validation images, else of training images
            seconds["reconstructions"] = validations * _PICTURES_SECONDS
        seconds["checkpoints"] = _written(spec, facts) * checkpoint_mb * 2**20 / _WRITE_BYTES
        words = f"{passes:.3g} forward passes' work, {words}, and {beside * 1e3:.1f} ms beside it"
        if not in_turn and reading > work + beside:
            words += f"; its loader takes {reading * 1e3:.0f} ms"
        of_step["seconds_per_step"] = round(step, 5)
        if not on_cpu:
            parts = {"work": work, "beside": beside, "images": reading, "load": load}
            if in_turn:  # no process reads beside the step
                parts |= {"beside": beside + reading, "images": 0.0}
            of_step["step_parts"] = parts
            of_step |= _notes(spec, work + beside, load, facts)
    rounded = {name: round(value, 5) for name, value in seconds.items()}
    return {**of_step, "seconds": rounded, "seconds_basis": f"analytic: {words}"}


def _notes(spec: Mapping[str, Any], step: float, load: float, facts: Facts) -> dict[str, list[str]]:
    """Whether the loader of a GPU is slower than the GPU.

    Args:
        step: seconds of a step without its loader.  load: of one core for an image.
    """
    workers = int(get_dotted(spec, "dataset.num_workers_per_gpu", 0) or 0)
    need = math.ceil(load * _images_of_step(spec) / step)
    processes = facts.processes or 1
    most = facts.cores // processes if facts.cores else need
    if min(workers, most) >= need:
        return {}
    text = f"{WAITS}: dataset.num_workers_per_gpu={workers} load more slowly than it trains, "
    text += f"and {need} would keep up"
    if need > most:
        text += (
            f", which takes {need * processes} cores of a node that has {facts.cores}: pictures "
            "stored at the size they are used decode faster, and a larger model needs fewer"
        )
    else:
        text += "" if facts.cores else " where it has as many cores"
    return {"notes": [text]}


def _load(spec: Mapping[str, Any], *, trains: bool) -> float:
    """Seconds of one core to read an image and prepare it."""
    height, width = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    area = height * width / 224**2
    policy = get_dotted(spec, "dataset.augmentation.auto_aug")
    acts = trains and policy and get_dotted(spec, "train.stage") == "finetune"
    views = 2 if trains and _refined_blocks(spec) else 1
    return views * _LOAD_SECONDS * (0.2 + 0.8 * area) + (_POLICY_SECONDS * area if acts else 0.0)


def _images_of_step(spec: Mapping[str, Any]) -> int:
    """That one process trains on."""
    images = int(get_dotted(spec, "dataset.batch_size", 1))
    return images * int(get_dotted(spec, "train.accum_grad_batches", 1) or 1)


def _validations(spec: Mapping[str, Any]) -> int:
    """How many times a run validates, or draws what it would validate by."""
    epochs = int(get_dotted(spec, "train.num_epochs", 1))
    return -(-epochs // int(get_dotted(spec, "train.validation_interval", 1) or 1))


def is_pretraining(spec: Mapping[str, Any]) -> bool:
    """Whether a decoder follows the encoder and masked units are left out."""
    return bool(get_dotted(spec, "train.stage") == "pretrain")


def _refined_blocks(spec: Mapping[str, Any]) -> int:
    """How many blocks learn by contrast; 0 of another run."""
    return int(get_dotted(spec, "train.refine.blocks") or 0) if is_pretraining(spec) else 0


def refined_share(arch: Arch, spec: Mapping[str, Any]) -> float:
    """Of the encoder's blocks the share that learns by contrast; 0 of another run."""
    own = get_dotted(spec, "model.depth") if arch.family == "vit" else None
    return min(1.0, _refined_blocks(spec) / int(own or arch.depth))


def _refiner_parameters(arch: Arch, spec: Mapping[str, Any]) -> int:
    """Of the projector and the predictor: linear layers, all but the last with a norm."""
    width = _width(arch, spec)
    hidden, out = min(2048, 4 * width), 256
    first = (width + 1) * hidden + (hidden + 1) * hidden + 4 * hidden + (hidden + 1) * out
    return first + (out + 1) * hidden + 2 * hidden + (hidden + 1) * out


def is_segmentation(spec: Mapping[str, Any]) -> bool:
    """Whether the spec trains a segmenter."""
    return bool(
        get_dotted(spec, "train.stage") == "finetune"
        and get_dotted(spec, "model.task") == "segmentation"
    )


def _channels(spec: Mapping[str, Any]) -> int:
    """Of an image."""
    return int(get_dotted(spec, "dataset.channels") or 3)


def _width(arch: Arch, spec: Mapping[str, Any]) -> int:
    """Width of the encoder's features."""
    return (
        int(get_dotted(spec, "model.embed_dim") or arch.dims[0])
        if arch.family == "vit"
        else arch.feature_dim
    )


def encoder_parameters(arch: Arch, spec: Mapping[str, Any] | None = None) -> int:
    """Parameters of the encoder without head; ViT position embeddings are counted at the spec's
    input size.
    """
    spec = spec or {}
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    if arch.family == "vit":
        dim = _width(arch, spec)
        depth = int(get_dotted(spec, "model.depth") or arch.depths[0])
        hidden = int(dim * float(get_dotted(spec, "model.mlp_ratio") or arch.mlp_ratio))
        tokens = (size[0] // arch.patch) * (size[1] // arch.patch) + 1
        block = (
            4 * dim
            + (3 * dim * dim + 3 * dim)
            + (dim * dim + dim)
            + (2 * dim * hidden + hidden + dim)
        )
        return (
            _channels(spec) * arch.patch**2 * dim
            + dim
            + dim
            + tokens * dim
            + depth * block
            + 2 * dim
        )
    if arch.family == "convnextv2":
        total = _channels(spec) * arch.patch**2 * arch.dims[0] + 3 * arch.dims[0]
        for stage, (dim, depth) in enumerate(zip(arch.dims, arch.depths, strict=True)):
            if stage:
                before = arch.dims[stage - 1]
                total += 2 * before + 4 * before * dim + dim
            total += depth * (49 * dim + dim + 2 * dim + 8 * dim * dim + 4 * dim + dim + 8 * dim)
        return total + 2 * arch.dims[-1]
    return _hiera_parameters(arch, size, _channels(spec))


def _hiera_parameters(arch: Arch, size: tuple[int, int], channels: int) -> int:
    kernel, tokens = hiera_kernel(arch.patch), (size[0] // arch.patch) * (size[1] // arch.patch)
    total = channels * kernel**2 * arch.dims[0] + arch.dims[0] + tokens * arch.dims[0]
    before = arch.dims[0]
    for stage, (dim, depth) in enumerate(zip(arch.dims, arch.depths, strict=True)):
        for block in range(depth):
            source = before if block == 0 and stage else dim
            hidden = int(dim * arch.mlp_ratio)
            total += (
                2 * source
                + 3 * source * dim
                + 3 * dim
                + dim * dim
                + dim
                + 2 * dim
                + 2 * dim * hidden
                + hidden
                + dim
            )
            if source != dim:
                total += source * dim + dim
        before = dim
    return total + 2 * arch.dims[-1]


def untrained_encoder_parameters(arch: Arch, spec: Mapping[str, Any]) -> int:
    """Encoder parameters this model lacks or does not train.

    In pretraining ViT's position table is fixed and ConvNeXt's last norm is the head's; a segmenter
    has no last norm.
    """
    width = _width(arch, spec)
    if is_segmentation(spec):
        return 2 * width
    if not is_pretraining(spec):
        return 0
    if arch.family == "convnextv2":
        return 2 * width
    if arch.family == "vit":
        height, width_px = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
        return width * ((height // arch.patch) * (width_px // arch.patch) + 1)
    return 0


def decoder_parameters(arch: Arch, spec: Mapping[str, Any]) -> int:
    """Weights between the encoder and the predicted pixels, learned ones only; 0 in fine-tuning."""
    blocks = decoder_blocks(arch, spec)
    if blocks is None:
        return 0
    width, hidden = blocks.dim, int(blocks.dim * blocks.ratio)
    features = _width(arch, spec)
    pixels = _channels(spec) * arch.target_patch**2
    if blocks.source:
        # Queries and projection, keys and values, MLP, two norms; mask token, last norm, answer.
        block = 2 * (width + 1) * width + 2 * (features + 1) * width + 4 * width
        block += 2 * width * hidden + hidden + width
        return blocks.depth * block + 3 * width + pixels * (width + 1)
    # Embedding, mask token, prediction.
    around = features * width + width + width + pixels * (width + 1)
    if arch.family == "convnextv2":
        return around + blocks.depth * (
            49 * width + width + 2 * width + 2 * width * hidden + hidden + width + 2 * hidden
        )
    block = (
        4 * width
        + (3 * width * width + 3 * width)
        + (width * width + width)
        + (2 * width * hidden + hidden + width)
    )
    total = around + 2 * width + blocks.depth * block
    if arch.family == "hiera":
        fusing = sum(
            features * dim * (4 // 2**stage) ** 2 + features
            for stage, dim in enumerate(arch.dims[:2])
        )
        total += int(blocks.tokens) * width + fusing
    return total


def _head_parameters(arch: Arch, spec: Mapping[str, Any]) -> int:
    """A linear classifier, or a segmenter's neck, UperNet and auxiliary head."""
    if is_segmentation(spec):
        return head_costs(arch, spec).parameters
    return (_width(arch, spec) + 1) * int(get_dotted(spec, "model.num_classes", 0) or 0)


@dataclass(frozen=True)
class Blocks:
    """Equal blocks: ``depth`` of width ``dim`` over ``tokens`` positions.

    Each position attends to ``window`` others (0: a convolution). With a ``source`` these are not
    of its kind: they have that width, and each block makes keys and values of them.
    """

    dim: int
    depth: int
    tokens: float
    window: float
    ratio: float
    kept: float
    source: int = 0

    @property
    def operations(self) -> float:
        """Of the forward pass of one image."""
        if self.source:
            own = self.tokens * (4 + 4 * self.ratio) * self.dim**2
            pairs = 4 * self.tokens * self.window * self.dim
            return self.depth * (own + pairs + 4 * self.window * self.source * self.dim)
        attention = 8 * self.dim**2 + 4 * self.window * self.dim if self.window else 98 * self.dim
        return self.depth * self.tokens * (attention + 4 * self.ratio * self.dim**2)

    @property
    def values(self) -> float:
        """Kept for the backward pass of one image."""
        if self.source:
            return self.dim * self.depth * ((self.kept - 2) * self.tokens + 2 * self.window)
        return self.kept * self.dim * self.depth * self.tokens


def encoder_blocks(arch: Arch, spec: Mapping[str, Any]) -> list[Blocks]:
    """The encoder's stages over what it sees: all positions, or in pretraining the visible ones."""
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    pretrain = is_pretraining(spec)
    masks = pretrain and not _refined_blocks(spec)
    visible = 1.0 - float(get_dotted(spec, "train.mask_ratio", 0.75)) if masks else 1.0
    positions = visible * (size[0] // arch.patch) * (size[1] // arch.patch)
    kept = KEPT[arch.family]
    if arch.family == "vit":
        dim = _width(arch, spec)
        depth = int(get_dotted(spec, "model.depth") or arch.depths[0])
        ratio = float(get_dotted(spec, "model.mlp_ratio") or arch.mlp_ratio)
        return [Blocks(dim, depth, positions + 1, positions + 1, ratio, kept)]
    found = []
    for stage, (dim, depth) in enumerate(zip(arch.dims, arch.depths, strict=True)):
        # Hiera pools twice in pretraining, so that its last stage keeps the third's resolution.
        halvings = min(stage, 2) if arch.family == "hiera" and pretrain else stage
        tokens = positions / 4.0**halvings
        window = 0.0 if arch.family == "convnextv2" else 64.0 / 4.0**stage if stage < 2 else tokens
        found.append(Blocks(dim, depth, tokens, window, arch.mlp_ratio, kept))
    return found


def decoder_blocks(arch: Arch, spec: Mapping[str, Any]) -> Blocks | None:
    """The decoder over all positions, or that of cross-attention over those that it predicts; None
    in fine-tuning and refining."""
    if not is_pretraining(spec) or _refined_blocks(spec):
        return None
    size = hw(get_dotted(spec, "dataset.augmentation.input_size", 224))
    tokens = float((size[0] // arch.target_patch) * (size[1] // arch.target_patch))
    width, depth = (
        int(get_dotted(spec, "model.decoder_embed_dim", 512)),
        int(get_dotted(spec, "model.decoder_depth", 1)),
    )
    ratio = float(get_dotted(spec, "model.decoder_mlp_ratio") or 4.0)
    if arch.family == "vit" and get_dotted(spec, "model.decoder_type") == "cross":
        hidden = tokens * float(get_dotted(spec, "train.mask_ratio", 0.75))
        share = float(get_dotted(spec, "model.decoder_prediction_share", 1.0))
        return Blocks(
            width,
            depth,
            hidden * share,
            tokens - hidden + 1,
            ratio,
            KEPT["vit"],
            _width(arch, spec),
        )
    return Blocks(
        width,
        depth,
        tokens,
        0.0 if arch.family == "convnextv2" else tokens,
        ratio,
        KEPT[arch.family],
    )


def forward_operations(arch: Arch, spec: Mapping[str, Any]) -> float:
    """Of one image through encoder and, in pretraining, decoder; or a segmenter's head. A picture
    that refines goes through the encoder twice."""
    encoder = encoder_blocks(arch, spec)
    found = sum(stage.operations for stage in encoder)
    first = encoder[0]
    kernel = hiera_kernel(arch.patch) if arch.family == "hiera" else arch.patch
    found += 2 * first.tokens * _channels(spec) * kernel**2 * first.dim
    # Between stages: a 2×2 convolution, or a wider projection.
    cells = 4 if arch.family == "convnextv2" else 1
    for before, stage in itertools.pairwise(encoder):
        found += 2 * stage.tokens * before.dim * stage.dim * cells
    if _refined_blocks(spec):
        return 2 * found
    decoder = decoder_blocks(arch, spec)
    if decoder is None:
        return found + (head_costs(arch, spec).operations if is_segmentation(spec) else 0.0)
    if decoder.source:
        answers = 2 * decoder.tokens * decoder.dim * _channels(spec) * arch.target_patch**2
        return found + decoder.operations + answers
    hidden = decoder.tokens * float(get_dotted(spec, "train.mask_ratio", 0.75))
    return (
        found
        + decoder.operations
        + 2
        * decoder.dim
        * (encoder[-1].tokens * encoder[-1].dim + hidden * _channels(spec) * arch.target_patch**2)
    )


def kept_values(arch: Arch, spec: Mapping[str, Any]) -> float:
    """Values that one image's forward pass keeps for the backward pass.

    With gradient checkpointing about a fifth of the encoder's.
    """
    encoder = sum(stage.values for stage in encoder_blocks(arch, spec))
    if get_dotted(spec, "train.gradient_checkpointing"):
        encoder *= 0.2
    if _refined_blocks(spec):
        return 2 * encoder * refined_share(arch, spec)
    if is_segmentation(spec):
        return encoder + head_costs(arch, spec).values
    decoder = decoder_blocks(arch, spec)
    return encoder + (decoder.values if decoder else 0.0)


@dataclass
class Head:
    """Sums over the layers of a segmenter's head, for one image.

    Attributes:
        parameters: learned ones.
        operations: of the forward pass.
        values: kept for the backward pass.
    """

    parameters: int = 0
    operations: float = 0.0
    values: float = 0.0

    def block(self, width_in: int, width: int, kernel: int, positions: int) -> None:
        """A convolution without bias, batch normalization and ReLU; the inputs of the last two are
        kept.
        """
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


def head_costs(arch: Arch, spec: Mapping[str, Any]) -> Head:
    """Neck, UperNet (arXiv:1807.10221) and auxiliary head over the levels of ``arch``."""
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
        dim = _width(arch, spec)
        rows, columns = height // arch.patch, width_px // arch.patch
        dims, cells = (
            (dim,) * 4,
            [16 * rows * columns, 4 * rows * columns, rows * columns, (rows // 2) * (columns // 2)],
        )
        head.doubling(dim, cells[2])
        head.doubling(dim, cells[1])
        head.doubling(dim, cells[2])
        head.parameters += 2 * dim  # of the normalization between the two doublings
        head.values += 8.0 * dim * cells[2]
    else:
        dims, strides = arch.dims, [arch.patch * 2**level for level in range(4)]
        cells = [(height // stride) * (width_px // stride) for stride in strides]
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
