"""ONNX → TensorRT engine, by either library with one code path.

``tensorrt`` builds on, and for, the GPU at hand. ``tensorrt_rtx`` builds ahead of time for named compute capabilities, also on a
machine with no GPU;
what is left to compile happens on the target at first load. Networks are strongly typed: the precision is in the graph
(`precision`, `quantize`), so a builder can neither ignore a requested type nor fall back to float32 in silence.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mae_sdk.files import write_bytes, write_json
from mae_skill.errors import CheckpointError, DependencyError, SpecError

from mae_runners.deploy.meta import INPUT_NAME, ArtefactMeta, file_digest, sidecar
from mae_runners.deploy.onnx import refuse_existing, tensor_bytes

PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
DATA_TYPES = ("fp32", "fp16", "bf16", "int8")
CURRENT = "current"
FROM = "8.0"  # before it float32 products do not build: Turing (7.5) is a target for fp16 alone, and only when it is named


def load_backend(backend: str) -> Any:
    """The library's Python module.

    Raises:
        DependencyError: it is not installed, or its native libraries do not load; says what to install.
        SpecError: an unknown backend.
    """
    if backend not in PACKAGES:
        raise SpecError(
            "unknown backend",
            field="gen_trt_engine.backend",
            got=backend,
            expected=" or ".join(PACKAGES),
        )
    try:
        return importlib.import_module(backend)
    except (ImportError, OSError, RuntimeError) as error:
        other = (
            "tensorrt_rtx (extra tensorrt-rtx) builds on machines without a GPU"
            if backend == "tensorrt"
            else "it needs Linux x86-64 or Windows"
        )
        raise DependencyError(
            f"{PACKAGES[backend]} cannot be imported: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            field="gen_trt_engine.backend",
            got=backend,
            expected=f"the package {PACKAGES[backend]}",
            hint=f"pip install 'mae-skill[{PACKAGES[backend]}]'; {other}",
        ) from error


@dataclass(frozen=True)
class Profile:
    """Smallest, most usual and largest batch that an engine accepts."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise SpecError(
                "the batch profile is not ordered",
                field="gen_trt_engine.tensorrt.opt_batch_size",
                got=[self.minimum, self.optimum, self.maximum],
                expected="1 ≤ min_batch_size ≤ opt_batch_size ≤ max_batch_size",
            )


def choose_targets(trt: Any, backend: str, wanted: Sequence[str] | None) -> list[str]:
    """The compute capabilities to build for, such as ``["8.6", "12.0"]``, or ``["current"]``.

    An empty list means the GPU at hand, and on a machine without one every capability from `FROM` on that the library can name.

    Raises:
        SpecError: a capability that the library cannot build for.
        DependencyError: a library that needs a GPU, without a GPU.
    """
    gpu = torch.cuda.is_available()
    targets = [str(target) for target in wanted or []]
    if backend == "tensorrt":
        if not gpu:
            raise DependencyError(
                "tensorrt builds engines on the GPU they are for, and there is none here",
                field="gen_trt_engine.backend",
                got=backend,
                expected="a machine with an NVIDIA GPU and driver",
                hint="run on one, or set gen_trt_engine.backend=tensorrt_rtx (pip install 'mae-skill[tensorrt-rtx]'), which needs none",
            )
        if targets:
            raise SpecError(
                "tensorrt builds for the GPU at hand only",
                field="gen_trt_engine.targets",
                got=targets,
                expected="an empty list",
                hint="set gen_trt_engine.backend=tensorrt_rtx for other targets",
            )
        return [CURRENT]
    known = known_targets(trt)
    if not targets:
        return [CURRENT] if gpu else [target for target in known if float(target) >= float(FROM)]
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise SpecError(
            "the library cannot build for this compute capability",
            field="gen_trt_engine.targets",
            got=unknown[0],
            expected=", ".join(known),
        )
    return list(dict.fromkeys(targets))


def known_targets(trt: Any) -> list[str]:
    """``SM86`` of the library's enum → ``8.6``; oldest first."""
    numbers = sorted(
        int(name[2:])
        for name in dir(trt.ComputeCapability)
        if name.startswith("SM") and name[2:].isdigit()
    )
    return [f"{number // 10}.{number % 10}" for number in numbers]


def build_engine(
    model: Any,
    engine_path: Path,
    meta: ArtefactMeta,
    *,
    backend: str,
    targets: Sequence[str] | None,
    profile: Profile,
    workspace_mb: int,
    timing_cache: Path | None = None,
    verbose: bool = False,
    overwrite: bool = False,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Builds an engine from a typed ONNX model and writes it with its description beside it, temp then rename.

    Args:
        model: `onnx.ModelProto`, already in its final precision.
        meta: described beside the engine; ``batch`` > 0 means the model has a fixed batch, and `profile` is not used.
        workspace_mb: the most scratch memory a layer may use, in MB (2^20 bytes); 0 = the library's default.
        timing_cache: file of measured kernels, read when it exists and written afterwards; only ``tensorrt`` has one.
        extra: more entries for the description.

    Returns:
        The description: precision, targets, profile, sizes, library version.

    Raises:
        DependencyError, SpecError: as `load_backend` and `choose_targets`.
        CheckpointError: the library cannot parse or build the model; its own words are in the message.
    """
    trt = load_backend(backend)
    chosen = choose_targets(trt, backend, targets)
    refuse_existing(engine_path, overwrite)
    listener = _listener(trt, verbose)
    builder = trt.Builder(listener)
    if builder is None:
        raise DependencyError(
            f"{PACKAGES[backend]} cannot start: {listener.last}",
            field="gen_trt_engine.backend",
            got=backend,
        )
    strongly_typed = getattr(
        trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None
    )  # later majors have no other kind of network
    network = builder.create_network(1 << int(strongly_typed) if strongly_typed is not None else 0)
    parser = trt.OnnxParser(network, listener)
    if not _parse(parser, model, engine_path.parent):
        problems = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(
            f"{problem.node_name() or 'model'}: {problem.desc()}" for problem in problems[:3]
        )
        raise CheckpointError(
            f"{PACKAGES[backend]} cannot parse the model: {said}", field="gen_trt_engine.onnx_file"
        )
    config = builder.create_builder_config()
    if workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    config.profiling_verbosity = (
        trt.ProfilingVerbosity.DETAILED if verbose else trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    )
    if chosen != [CURRENT]:
        config.num_compute_capabilities = len(chosen)
        for index, target in enumerate(chosen):
            if not config.set_compute_capability(
                getattr(trt.ComputeCapability, "SM" + target.replace(".", "")), index
            ):
                raise SpecError(
                    "the library refuses this compute capability",
                    field="gen_trt_engine.targets",
                    got=target,
                )
    if meta.batch <= 0:
        shape = (3, *meta.input_size)
        entry = builder.create_optimization_profile()
        entry.set_shape(
            INPUT_NAME,
            *((batch, *shape) for batch in (profile.minimum, profile.optimum, profile.maximum)),
        )
        config.add_optimization_profile(entry)
    caches = timing_cache is not None and backend == "tensorrt"
    if timing_cache is not None and caches:
        stored = timing_cache.read_bytes() if timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        old = [target for target in chosen if target != CURRENT and float(target) < float(FROM)]
        raise CheckpointError(
            f"{PACKAGES[backend]} cannot build the engine: {listener.last or 'no reason given'}",
            field="gen_trt_engine.onnx_file",
            hint=f"for {', '.join(old)} set gen_trt_engine.tensorrt.data_type=FP16, or name targets from {FROM} on"
            if old
            else None,
        )
    content = bytes(plan)
    if timing_cache is not None and caches:
        write_bytes(timing_cache, bytes(config.get_timing_cache().serialize()))
    description = {
        **dataclasses.asdict(meta),
        "backend": backend,
        "library_version": trt.__version__,
        "targets": chosen,
        "profile": dataclasses.asdict(profile) if meta.batch <= 0 else None,
        "workspace_mb": workspace_mb or None,
        "layers": network.num_layers,
        "engine_bytes": len(content),
        **(extra or {}),
    }
    engine_path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(engine_path, content)
    description["engine_sha256"] = file_digest(engine_path)
    write_json(sidecar(engine_path), description)
    return description


def _parse(parser: Any, model: Any, folder: Path) -> bool:
    """Parses from memory, or through a temporary file when the weights are too large for one message."""
    import tempfile

    import onnx

    from mae_runners.deploy.onnx import EXTERNAL_DATA_BYTES

    if sum(tensor_bytes(tensor) for tensor in model.graph.initializer) <= EXTERNAL_DATA_BYTES:
        return bool(parser.parse(model.SerializeToString()))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".engine-", dir=folder) as temporary:
        target = Path(temporary) / "model.onnx"
        onnx.save_model(
            model,
            str(target),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location="model.onnx.data",
        )
        return bool(parser.parse_from_file(str(target)))


def _listener(trt: Any, verbose: bool) -> Any:
    """A logger that remembers the last error, prints warnings to stderr, and everything when `verbose`."""
    import sys

    base: Any = trt.ILogger

    class Listener(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = message
            if verbose or severity == trt.ILogger.Severity.WARNING:
                print(f"[{trt.__name__}] {message}", file=sys.stderr)

    return Listener()
