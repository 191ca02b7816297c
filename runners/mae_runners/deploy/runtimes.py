"""One way to run a checkpoint, an ONNX file or an engine: normalized images in, outputs out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from mae_sdk.jobs.checkpoints import sha256_of
from mae_sdk.jobs.intervals import MIN_FOR_PERCENTILE
from mae_skill.errors import CheckpointError, DependencyError, NotFoundError
from mae_skill.spec import ExperimentSpec
from torch import Tensor, nn

from mae_runners.context import RunContext
from mae_runners.deploy.artifact import (
    INPUT_NAME,
    ArtifactMeta,
    check_agreement,
    choose_path,
    run_in_parts,
    sidecar,
    take_crop,
    take_masks,
)
from mae_runners.deploy.onnx import deployable, require, session_of
from mae_runners.deploy.tensorrt import load_backend
from mae_runners.models.pretrained import load_described

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
TORCH_SUFFIXES = (".ts", ".pt2")
MIN_REPEATS = 3
SECONDS = 0.25
WARM_UP = 2
BATCH_SIZES = (1, 4, 16, 64)


class Runtime(Protocol):
    """What an action needs of a model, whatever file it came from.

    Attributes:
        kind: ``torch`` | ``onnx`` | ``engine``.
        meta: the artifact's description.
        device: where `run` wants its input.
        largest_batch: the most images one call takes; None = any.
        smallest_batch: the fewest images one call takes.
        fixed_batch: the only batch size one call takes; None = any up to `largest_batch`.
    """

    kind: str
    meta: ArtifactMeta
    device: torch.device
    largest_batch: int | None
    smallest_batch: int
    fixed_batch: int | None

    def run(self, images: Tensor, *, stay: bool = False) -> Tensor:
        """Outputs for images, float32 on the CPU.

        Args:
            images: [B, C, H, W], float32 normalized; uint8 when `meta.preprocessing`.
            stay: leave the outputs where they were computed (a segmenter's are large).
        """
        ...


def described(runtime: Runtime) -> dict[str, Any]:
    """``kind, arch, stage, precision`` of a model, as a result says them."""
    meta = runtime.meta
    return {
        "kind": runtime.kind,
        "arch": meta.arch,
        "stage": meta.stage,
        "precision": meta.precision,
    }


class TorchRuntime:
    """A checkpoint on a torch device, in float32.

    ``decodes``: a pretrained one has its decoder.
    """

    kind = "torch"
    largest_batch: int | None = None
    smallest_batch = 1
    fixed_batch: int | None = None

    def __init__(
        self,
        module: nn.Module,
        meta: ArtifactMeta,
        device: torch.device,
        model: nn.Module,
        *,
        decodes: bool = True,
    ) -> None:
        self.module = module.to(device).eval()
        self.model = model
        self.decodes = decodes
        self.meta = meta
        self.device = device

    @torch.inference_mode()
    def run(self, images: Tensor, *, stay: bool = False) -> Tensor:
        result: Tensor = self.module(images.to(self.device, non_blocking=True)).float()
        return result if stay else result.cpu()


class OnnxRuntime:
    """An ONNX file in ONNX Runtime, on the CPU; on the GPU where one is asked for and the installed
    package has that provider."""

    kind = "onnx"
    largest_batch: int | None = None
    smallest_batch = 1

    def __init__(self, path: Path, device: torch.device) -> None:
        require("onnxruntime")
        import onnxruntime

        providers = ["CPUExecutionProvider"]
        gpu = "CUDAExecutionProvider"
        if device.type == "cuda" and gpu in onnxruntime.get_available_providers():
            providers.insert(0, gpu)
        try:
            self.session = session_of(path, providers=providers)
        except Exception as error:  # ONNX Runtime's own exception classes share no public base
            raise CheckpointError(
                f"{path.name} is not an ONNX file that ONNX Runtime can run",
                got=str(error).strip().splitlines()[0][:300],
            ) from error

        self.meta = ArtifactMeta.from_properties(
            self.session.get_modelmeta().custom_metadata_map, path
        )
        self.device = torch.device("cpu")
        self.fixed_batch: int | None = self.meta.batch if self.meta.batch > 0 else None

    def run(self, images: Tensor, *, stay: bool = False) -> Tensor:
        (output,) = self.session.run([self.meta.output_name], {INPUT_NAME: images.cpu().numpy()})
        return torch.from_numpy(output)


class EngineRuntime:
    """A TensorRT engine on an NVIDIA GPU."""

    kind = "engine"

    def __init__(self, path: Path, device: torch.device) -> None:
        self.description = read_engine_description(path)
        self.meta = ArtifactMeta.from_dict(self.description, path)
        targets = " or ".join(self.description.get("targets", ["the kind it was built on"]))
        if device.type != "cuda":
            raise DependencyError(
                "an engine runs on an NVIDIA GPU, and none is in use here",
                got=str(path),
                expected=f"a GPU of {targets}",
                hint="run on such a machine, or evaluate the .onnx file the engine was built from",
            )

        backend = str(self.description["backend"])
        trt = load_backend(backend)
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            version = self.description.get("library_version")
            raise CheckpointError(
                f"{path.name} does not load on this GPU",
                got=torch.cuda.get_device_name(device),
                expected=f"a GPU of {targets}",
                hint=f"build it again here ({backend} {version} built it)",
            )
        self.context = self.engine.create_execution_context()
        self.device = device

        profile = self.description.get("profile")
        self.largest_batch: int | None = int(profile["maximum"]) if profile else None
        self.smallest_batch = int(profile["minimum"]) if profile else 1
        self.fixed_batch: int | None = self.meta.batch if self.meta.batch > 0 else None

    def run(self, images: Tensor, *, stay: bool = False) -> Tensor:
        name = self.meta.output_name
        images = images.to(self.device).contiguous()
        self.context.set_input_shape(INPUT_NAME, tuple(images.shape))
        shape = tuple(self.context.get_tensor_shape(name))
        output = torch.empty(shape, dtype=torch.float32, device=self.device)
        self.context.set_tensor_address(INPUT_NAME, images.data_ptr())
        self.context.set_tensor_address(name, output.data_ptr())

        stream = torch.cuda.current_stream(self.device)
        self.context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return output if stay else output.cpu()


def read_engine_description(path: Path) -> dict[str, Any]:
    """The JSON beside an engine.

    Raises:
        NotFoundError: no such engine.
        CheckpointError: the description is missing, unreadable, or of another engine.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no engine at {path}", got=str(path))

    beside = sidecar(path)
    try:
        description: dict[str, Any] = json.loads(beside.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} has no readable description beside it",
            got=str(beside),
            expected="the .json file that gen_trt_engine writes with the engine",
            hint="copy both files together",
        ) from error
    if description.get("engine_sha256") != sha256_of(path):
        raise CheckpointError(
            f"{beside.name} describes another engine than {path.name}",
            hint="copy both files of one build together",
        )
    return description


def open_checkpoint(
    path: Path,
    device: torch.device,
    key: str | None,
    spec: ExperimentSpec | None = None,
    file_field: str | None = None,
) -> TorchRuntime:
    """A checkpoint as a runtime; a pretrained one gives pooled features.

    Weights that this project's training did not write are those of the model that ``spec``
    describes.
    """
    model, saved, decodes = load_described(path, key, spec, file_field)
    meta = ArtifactMeta.of_checkpoint(saved, path, features="pooled")
    return TorchRuntime(deployable(model, meta), meta, device, model, decodes=decodes)


def open_runtime(
    path: str | Path,
    device: torch.device,
    key: str | None = None,
    spec: ExperimentSpec | None = None,
    file_field: str | None = None,
) -> Runtime:
    """The runtime of a file: ``.onnx``, an engine (``.engine``, ``.plan``, ``.trt``, or any name
    with a description beside it), else a checkpoint.

    Raises:
        NotFoundError, CheckpointError: the file is missing or unusable.
        DependencyError: it needs a package or a GPU that is missing here.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(
            f"there is no model at {path}", got=str(path), hint="name a .pth, .onnx or .engine file"
        )
    if path.suffix == ".onnx":
        return OnnxRuntime(path, device)
    if path.suffix in ENGINE_SUFFIXES or sidecar(path).is_file():
        return EngineRuntime(path, device)
    if path.suffix in TORCH_SUFFIXES:
        raise CheckpointError(
            f"{path.name} is made for other programs; no action here runs it",
            got=str(path),
            expected="a .pth checkpoint, an .onnx export or an engine",
            hint="run the checkpoint that it was exported from; the export itself compared the two",
        )
    return open_checkpoint(path, device, key, spec, file_field)


def open_artifact(spec: ExperimentSpec, context: RunContext, action: str) -> Runtime:
    """The runtime for an action's artifact, checked against what the spec says of it.

    Raises:
        SpecError: no artifact or two are named, or the spec contradicts it.
        MaeError: as `open_runtime`.
    """
    path = choose_path(getattr(spec, action), action)
    runtime = open_runtime(
        path, context.device, context.encryption_key, spec, f"{action}.checkpoint"
    )
    model = getattr(runtime, "model", None)  # of a checkpoint
    check_agreement(
        spec,
        context.provenance,
        runtime.meta,
        f"{action}.checkpoint",
        getattr(model, "config", None),
    )
    take_crop(spec, context.provenance, runtime.meta)
    take_masks(spec, context.provenance, runtime.meta)
    return runtime


def run_batch(runtime: Runtime, images: Tensor, *, stay: bool = False) -> Tensor:
    """`runtime.run`, for any number of images: split where the artifact takes fewer, filled up
    where it takes more."""
    return run_in_parts(
        lambda part: runtime.run(part, stay=stay),
        images,
        runtime.fixed_batch or runtime.largest_batch or len(images),
        runtime.fixed_batch or runtime.smallest_batch,
    )


def measure(
    runtime: Runtime, images: Tensor, *, seconds: float | None = None, max_repeats: int = 50
) -> dict[str, Any]:
    """Latency of batch 1 and throughput by batch size, input in memory, output on the CPU.

    Args:
        images: at least one image as `Runtime.run` takes it; repeated to fill batches.
        seconds: time spent on each batch size, `SECONDS` unless it is given. Where a batch takes
            twice that, it is the largest.
        max_repeats: repetitions of each, at most.

    Returns:
        ``{"batch_1": {"median_ms", "p95_ms", "min_ms", "max_ms", "images_per_s", "repetitions"},
        "best": {"batch", …}, "batches": {size: …}}``; ``p95_ms`` of `MIN_FOR_PERCENTILE`
        repetitions or more.
    """
    seconds = SECONDS if seconds is None else seconds
    if runtime.fixed_batch:
        sizes = [runtime.fixed_batch]
    else:
        largest = runtime.largest_batch or BATCH_SIZES[-1]
        sizes = [size for size in BATCH_SIZES if runtime.smallest_batch <= size <= largest]
        sizes = sizes or [largest]

    figures: dict[int, dict[str, float]] = {}
    for size in sizes:
        batch = images[torch.arange(size) % len(images)].contiguous()
        times = _time(runtime, batch, seconds, max_repeats)
        median, p95 = np.percentile(times, [50, 95])
        several = len(times) >= MIN_FOR_PERCENTILE
        figures[size] = {
            "median_ms": round(float(median) * 1e3, 3),
            **({"p95_ms": round(float(p95) * 1e3, 3)} if several else {}),
            "min_ms": round(min(times) * 1e3, 3),
            "max_ms": round(max(times) * 1e3, 3),
            "images_per_s": round(size / float(median), 2),
            "repetitions": len(times),
        }
        fastest = max(figure["images_per_s"] for figure in figures.values())
        if median > 2 * seconds or figures[size]["images_per_s"] < 0.8 * fastest:
            break  # larger batches would take long, or only cost memory, from here on

    best = max(figures, key=lambda size: figures[size]["images_per_s"])
    result: dict[str, Any] = {
        "batches": {str(size): figure for size, figure in figures.items()},
        "best": {"batch": best, **figures[best]},
    }
    if 1 in figures:
        result["batch_1"] = figures[1]
    return result


def _time(runtime: Runtime, batch: Tensor, seconds: float, max_repeats: int) -> list[float]:
    """Seconds that each run of a batch took, after a warm-up."""
    for _ in range(WARM_UP):
        runtime.run(batch)

    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < MIN_REPEATS or (
        len(times) < max_repeats and time.perf_counter() - begin < seconds
    ):
        start = time.perf_counter()
        runtime.run(batch)
        times.append(time.perf_counter() - start)
    return times
