"""One way to run a checkpoint, an ONNX file or an engine: normalised images in, outputs out, so that every action treats them alike."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from mae_skill.errors import CheckpointError, DependencyError, NotFoundError
from torch import Tensor, nn

from mae_runners.deploy.meta import INPUT_NAME, ArtefactMeta, file_digest, sidecar

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
TORCH_SUFFIXES = (".ts", ".pt2")


class Runtime(Protocol):
    """What an action needs of a model, whatever file it came from.

    Attributes:
        kind: ``torch`` | ``onnx`` | ``engine``.
        meta: the artefact's description.
        device: where `run` wants its input.
        largest_batch: the most images one call takes; None = any.
        smallest_batch: the fewest images one call takes.
        fixed_batch: the only batch size one call takes; None = any up to `largest_batch`.
    """

    kind: str
    meta: ArtefactMeta
    device: torch.device
    largest_batch: int | None
    smallest_batch: int
    fixed_batch: int | None

    def run(self, images: Tensor, *, stay: bool = False) -> Tensor:
        """Images [B, 3, H, W] (float32 normalised; uint8 when `meta.preprocessing`) → outputs, float32 on the CPU; with `stay` where
        they were computed (a segmenter's are large)."""
        ...


class TorchRuntime:
    """A checkpoint on a torch device, in float32."""

    kind = "torch"
    largest_batch: int | None = None
    smallest_batch = 1
    fixed_batch: int | None = None

    def __init__(
        self, module: nn.Module, meta: ArtefactMeta, device: torch.device, model: nn.Module
    ) -> None:
        self.module = module.to(device).eval()
        self.model = model
        self.meta = meta
        self.device = device

    @torch.inference_mode()
    def run(self, images: Tensor, *, stay: bool = False) -> Tensor:
        result: Tensor = self.module(images.to(self.device, non_blocking=True)).float()
        return result if stay else result.cpu()


class OnnxRuntime:
    """An ONNX file in ONNX Runtime on the CPU; on the GPU where the installed package has that provider and a GPU is asked for."""

    kind = "onnx"
    largest_batch: int | None = None
    smallest_batch = 1

    def __init__(self, path: Path, device: torch.device, threads: int | None = None) -> None:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        if device.type == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self.session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's own exception classes share no public base
            raise CheckpointError(
                f"{path.name} is not an ONNX file that ONNX Runtime can run",
                got=str(error).strip().splitlines()[0][:300],
            ) from error
        self.meta = ArtefactMeta.from_properties(
            dict(self.session.get_modelmeta().custom_metadata_map), path
        )
        self.device = torch.device("cpu")
        self.fixed_batch: int | None = self.meta.batch if self.meta.batch > 0 else None

    def run(self, images: Tensor, *, stay: bool = False) -> Tensor:
        return torch.from_numpy(
            self.session.run([self.meta.output_name], {INPUT_NAME: images.cpu().numpy()})[0]
        )


class EngineRuntime:
    """A TensorRT engine on an NVIDIA GPU."""

    kind = "engine"

    def __init__(self, path: Path, device: torch.device) -> None:
        from mae_runners.deploy.tensorrt import load_backend

        self.description = read_engine_description(path)
        self.meta = ArtefactMeta.from_properties(
            {f"mae.{key}": json.dumps(value) for key, value in self.description.items()}, path
        )
        if device.type != "cuda":
            raise DependencyError(
                "an engine runs on an NVIDIA GPU, and none is in use here",
                got=str(path),
                expected="a GPU of "
                + " or ".join(self.description.get("targets", ["the kind it was built on"])),
                hint="run on such a machine, or evaluate the .onnx file the engine was built from",
            )
        trt = load_backend(str(self.description["backend"]))
        logger = trt.Logger(trt.Logger.ERROR)
        self.trt = trt
        self._runtime = trt.Runtime(logger)
        self.engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise CheckpointError(
                f"{path.name} does not load on this GPU",
                got=torch.cuda.get_device_name(device),
                expected="a GPU of " + " or ".join(self.description.get("targets", [])),
                hint=f"build it again here ({self.description['backend']} {self.description.get('library_version')} built it)",
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
        output = torch.empty(
            tuple(self.context.get_tensor_shape(name)), dtype=torch.float32, device=self.device
        )
        self.context.set_tensor_address(INPUT_NAME, images.data_ptr())
        self.context.set_tensor_address(name, output.data_ptr())
        stream = torch.cuda.current_stream(self.device)
        self.context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return output if stay else output.cpu()


def read_engine_description(path: Path) -> dict[str, Any]:
    """The JSON beside an engine.

    Raises:
        NotFoundError: no such engine. CheckpointError: the description is missing, unreadable, or of another engine.
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
    if description.get("engine_sha256") != file_digest(path):
        raise CheckpointError(
            f"{beside.name} describes another engine than {path.name}",
            hint="copy both files of one build together",
        )
    return description


def open_checkpoint(
    path: Path, device: torch.device, key: str | None, *, output: str | None = None
) -> TorchRuntime:
    """A checkpoint of the train action as a runtime; `output` chooses ``pooled`` or ``tokens`` for a pretrained one."""
    from mae_runners.deploy.onnx import deployable
    from mae_runners.models.checkpoint import load_model

    model, saved = load_model(path, key)
    pretrain = saved.stage == "pretrain"
    meta = ArtefactMeta(
        arch=saved.arch,
        stage=saved.stage,
        input_size=[int(side) for side in saved.input_size],
        mean=[float(value) for value in saved.mean],
        std=[float(value) for value in saved.std],
        output=(output or "pooled") if pretrain else "logits",
        classes=saved.classes,
        num_classes=None if pretrain else saved.num_classes,
        checkpoint_sha256=file_digest(path),
        task=saved.task,
    )
    return TorchRuntime(deployable(model, meta), meta, device, model)


def open_runtime(path: str | Path, device: torch.device, key: str | None = None) -> Any:
    """Whatever `path` is: ``.onnx``, an engine (``.engine``, ``.plan``, ``.trt``, or any name with a description beside it), else a
    checkpoint.

    Raises:
        NotFoundError, CheckpointError, DependencyError: it is missing, unusable, or needs something that is not here.
    """
    path = Path(path)
    if not path.is_file():
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
    return open_checkpoint(path, device, key)


def run_batch(runtime: Any, images: Tensor, *, stay: bool = False) -> Tensor:
    """`runtime.run`, for any number of images: split where the artefact takes fewer, filled up where it takes more."""
    size = runtime.fixed_batch or runtime.largest_batch or len(images)
    outputs = []
    for part in images.split(size):
        missing = max(0, (runtime.fixed_batch or runtime.smallest_batch) - len(part))
        padded = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        outputs.append(runtime.run(padded, stay=stay)[: len(part)])
    return torch.cat(outputs)


def measure(
    runtime: Any, images: Tensor, *, seconds: float = 1.0, most: int = 200
) -> dict[str, Any]:
    """Latency of batch 1 and throughput by batch size, input already in memory, output back on the CPU.

    Args:
        images: at least one image as `Runtime.run` takes it; repeated to fill batches.
        seconds: time spent on each batch size.
        most: the most repetitions of each.

    Returns:
        ``{"batch_1": {"median_ms", "p95_ms", "images_per_s"}, "best": {"batch", …}, "batches": {size: …}}``.
    """
    if runtime.fixed_batch:
        sizes = [runtime.fixed_batch]
    else:
        least, most_images = runtime.smallest_batch, runtime.largest_batch or 64
        sizes = [size for size in (1, 4, 16, 64) if least <= size <= most_images] or [most_images]
    figures: dict[int, dict[str, float]] = {}
    for size in sizes:
        batch = images[torch.arange(size) % len(images)].contiguous()
        for _ in range(2):
            runtime.run(batch)
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < 3 or (len(times) < most and time.perf_counter() - begin < seconds):
            start = time.perf_counter()
            runtime.run(batch)
            times.append(time.perf_counter() - start)
        median, p95 = np.percentile(times, [50, 95])
        figures[size] = {
            "median_ms": round(float(median) * 1e3, 3),
            "p95_ms": round(float(p95) * 1e3, 3),
            "images_per_s": round(size / float(median), 2),
            "repetitions": len(times),
        }
        if median > seconds or figures[size]["images_per_s"] < 0.8 * max(
            figure["images_per_s"] for figure in figures.values()
        ):
            break  # larger batches would take long, or only cost memory, from here on
    best = max(figures, key=lambda size: figures[size]["images_per_s"])
    result: dict[str, Any] = {
        "batches": {str(size): figure for size, figure in figures.items()},
        "best": {"batch": best, **figures[best]},
    }
    if 1 in figures:
        result["batch_1"] = figures[1]
    return result


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "onnxruntime is not installed",
            expected="the package onnxruntime",
            hint="pip install 'mae-skill[export]'",
        ) from error
    return onnxruntime


def require_onnx() -> None:
    """Raises `DependencyError` unless onnx and onnxruntime are installed."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "onnx is not installed",
            expected="the packages onnx and onnxruntime",
            hint="pip install 'mae-skill[export]'",
        ) from error
    _onnxruntime()
