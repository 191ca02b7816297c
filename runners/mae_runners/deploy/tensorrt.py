"""ONNX → TensorRT engine, by either library with one code path.

``tensorrt`` builds on, and for, the GPU at hand. ``tensorrt_rtx`` builds ahead of time for named
compute capabilities, also on a machine with no GPU; what is left to compile happens on the target
at first load. Networks are strongly typed: the precision is in the graph (`precision`, `int8`), so
a builder can neither ignore a requested type nor fall back to float32 in silence.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mae_sdk.files import temporary_folder, write_bytes, write_json
from mae_sdk.jobs.checkpoints import sha256_of
from mae_skill.errors import CheckpointError, DependencyError, SpecError

from mae_runners.deploy.artifact import INPUT_NAME, ArtifactMeta, check_target, sidecar
from mae_runners.deploy.onnx import EXTERNAL_DATA_BYTES, save_with_data, weight_bytes

if TYPE_CHECKING:
    import onnx

PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
CURRENT = "current"
# Before it float32 products do not build: Turing (7.5) is a target for fp16 alone, when named.
OLDEST_TARGET = "8.0"


def load_backend(backend: str) -> Any:
    """The library's Python module.

    Raises:
        DependencyError: it is not installed, or its native libraries do not load; says what to
            install.
        SpecError: an unknown backend.
    """
    if backend not in PACKAGES:
        raise SpecError(
            "unknown backend",
            field="gen_trt_engine.backend",
            got=backend,
            expected=" or ".join(PACKAGES),
        )

    package = PACKAGES[backend]
    try:
        return importlib.import_module(backend)
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        other = (
            "tensorrt_rtx (extra tensorrt-rtx) builds on machines without a GPU"
            if backend == "tensorrt"
            else "it needs Linux x86-64 or Windows"
        )
        raise DependencyError(
            f"{package} cannot be imported: {reason}",
            field="gen_trt_engine.backend",
            got=backend,
            expected=f"the package {package}",
            hint=f"pip install 'mae-skill[{package}]'; {other}",
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


def choose_targets(trt: Any, backend: str, wanted: Sequence[str]) -> list[str]:
    """The compute capabilities to build for, such as ``["8.6", "12.0"]``, or ``["current"]``.

    An empty list means the GPU at hand, and on a machine without one every capability from
    `OLDEST_TARGET` on that the library can name.

    Raises:
        SpecError: a capability that the library cannot build for.
        DependencyError: a library that needs a GPU, without a GPU.
    """
    gpu = torch.cuda.is_available()
    if backend == "tensorrt":
        if not gpu:
            raise DependencyError(
                "tensorrt builds engines on the GPU they are for, and there is none here",
                field="gen_trt_engine.backend",
                got=backend,
                expected="a machine with an NVIDIA GPU and driver",
                hint="run on one, or set gen_trt_engine.backend=tensorrt_rtx "
                "(pip install 'mae-skill[tensorrt-rtx]'), which needs none",
            )
        if wanted:
            raise SpecError(
                "tensorrt builds for the GPU at hand only",
                field="gen_trt_engine.targets",
                got=list(wanted),
                expected="an empty list",
                hint="set gen_trt_engine.backend=tensorrt_rtx for other targets",
            )
        return [CURRENT]

    known = known_targets(trt)
    if not wanted:
        if gpu:
            return [CURRENT]
        return [target for target in known if float(target) >= float(OLDEST_TARGET)]

    unknown = [target for target in wanted if target not in known]
    if unknown:
        raise SpecError(
            "the library cannot build for this compute capability",
            field="gen_trt_engine.targets",
            got=unknown[0],
            expected=", ".join(known),
        )
    return list(dict.fromkeys(wanted))


def known_targets(trt: Any) -> list[str]:
    """``SM86`` of the library's enum → ``8.6``; oldest first."""
    numbers = sorted(
        int(name[2:])
        for name in dir(trt.ComputeCapability)
        if name.startswith("SM") and name[2:].isdigit()
    )
    return [f"{number // 10}.{number % 10}" for number in numbers]


def build_engine(
    model: onnx.ModelProto,
    engine_path: Path,
    meta: ArtifactMeta,
    *,
    backend: str,
    targets: Sequence[str],
    profile: Profile,
    workspace_mb: int,
    timing_cache: Path | None = None,
    verbose: bool = False,
    overwrite: bool = False,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Builds an engine from a typed ONNX model and writes it with its description beside it, temp
    then rename.

    Args:
        model: already in its final precision.
        meta: described beside the engine; ``batch`` > 0 means the model has a fixed batch, which
            `profile` then is.
        targets: compute capabilities, as in the spec.
        workspace_mb: scratch memory a layer may use, in MB (2^20 bytes); 0 = the library's default.
        timing_cache: file of measured kernels, read when it exists and written afterward; only
            ``tensorrt`` has one.
        extra: more entries for the description.

    Returns:
        The description: precision, targets, profile, sizes, library version.

    Raises:
        DependencyError, SpecError: as `load_backend` and `choose_targets`.
        CheckpointError: the library cannot parse or build the model; its own words are in the
            message.
    """
    trt = load_backend(backend)
    chosen = choose_targets(trt, backend, targets)
    check_target(engine_path, overwrite)
    if backend != "tensorrt":
        timing_cache = None

    listener = _listener(trt, verbose)
    builder = _builder(trt, backend, listener)
    network = _typed_network(trt, builder)
    parser = trt.OnnxParser(network, listener)
    _parse(parser, model, engine_path.parent, PACKAGES[backend])

    config = _config(trt, builder, workspace_mb, verbose, timing_cache)
    _set_targets(trt, config, chosen)
    if meta.batch <= 0:
        config.add_optimization_profile(_batch_range(builder, profile, meta))

    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise _build_error(listener.last, PACKAGES[backend], chosen)
    content = bytes(serialized)
    if timing_cache is not None:
        write_bytes(timing_cache, bytes(config.get_timing_cache().serialize()))

    write_bytes(engine_path, content)
    description = {
        **dataclasses.asdict(meta),
        "backend": backend,
        "library_version": trt.__version__,
        "targets": chosen,
        "profile": dataclasses.asdict(profile),
        "workspace_mb": workspace_mb or None,
        "layers": network.num_layers,
        "engine_bytes": len(content),
        **(extra or {}),
        "engine_sha256": sha256_of(engine_path),
    }
    write_json(sidecar(engine_path), description)
    return description


def _builder(trt: Any, backend: str, listener: Any) -> Any:
    """The library's builder.

    Raises:
        DependencyError: it cannot start.
    """
    builder = trt.Builder(listener)
    if builder is None:
        raise DependencyError(
            f"{PACKAGES[backend]} cannot start: {listener.last}",
            field="gen_trt_engine.backend",
            got=backend,
        )
    return builder


def _config(
    trt: Any, builder: Any, workspace_mb: int, verbose: bool, timing_cache: Path | None
) -> Any:
    """How the library builds: scratch memory, what it notes of layers, measured kernels."""
    config = builder.create_builder_config()
    if workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    detail = trt.ProfilingVerbosity
    config.profiling_verbosity = detail.DETAILED if verbose else detail.LAYER_NAMES_ONLY
    if timing_cache is not None:
        stored = timing_cache.read_bytes() if timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False)
    return config


def _typed_network(trt: Any, builder: Any) -> Any:
    """An empty network whose types are those of the graph."""
    # The flag is gone in later major versions, where every network is strongly typed.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


def _parse(parser: Any, model: onnx.ModelProto, folder: Path, package: str) -> None:
    """Reads the graph from memory, or through a temporary file where the weights are too large for
    one message.

    Raises:
        CheckpointError: the library cannot parse the model.
    """
    if weight_bytes(model) <= EXTERNAL_DATA_BYTES:
        parsed = parser.parse(model.SerializeToString())
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(".engine-", folder) as temporary:
            target = temporary / "model.onnx"
            save_with_data(model, target)
            parsed = parser.parse_from_file(str(target))
    if parsed:
        return

    problems = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = "; ".join(
        f"{problem.node_name() or 'model'}: {problem.desc()}" for problem in problems[:3]
    )
    raise CheckpointError(
        f"{package} cannot parse the model: {reasons}", field="gen_trt_engine.onnx_file"
    )


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    if list(targets) == [CURRENT]:
        return
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = getattr(trt.ComputeCapability, "SM" + target.replace(".", ""))
        if not config.set_compute_capability(capability, index):
            raise SpecError(
                "the library rejects this compute capability",
                field="gen_trt_engine.targets",
                got=target,
            )


def _batch_range(builder: Any, profile: Profile, meta: ArtifactMeta) -> Any:
    """The library's optimization profile for the input's batch."""
    entry = builder.create_optimization_profile()
    sizes = (profile.minimum, profile.optimum, profile.maximum)
    entry.set_shape(INPUT_NAME, *((size, meta.channels, *meta.input_size) for size in sizes))
    return entry


def _build_error(reason: str, package: str, targets: Sequence[str]) -> CheckpointError:
    """The error of a build that gave nothing, for the caller to raise."""
    old = [
        target for target in targets if target != CURRENT and float(target) < float(OLDEST_TARGET)
    ]
    hint = None
    if old:
        hint = (
            f"for {', '.join(old)} set gen_trt_engine.tensorrt.data_type=fp16, "
            f"or name targets from {OLDEST_TARGET} on"
        )
    return CheckpointError(
        f"{package} cannot build the engine: {reason or 'no reason given'}",
        field="gen_trt_engine.onnx_file",
        hint=hint,
    )


def _listener(trt: Any, verbose: bool) -> Any:
    """A logger that remembers the last error and prints warnings (with `verbose` all) to stderr."""
    severities = trt.ILogger.Severity
    errors = (severities.ERROR, severities.INTERNAL_ERROR)

    class Listener(trt.ILogger):  # type: ignore[misc]  # the library is loaded by name
        def __init__(self) -> None:
            super().__init__()
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                self.last = message
            if verbose or severity == severities.WARNING:
                print(f"[{trt.__name__}] {message}", file=sys.stderr)

    return Listener()
