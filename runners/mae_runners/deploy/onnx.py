"""Torch module → ONNX file: any batch or a fixed one, the opset that was asked for, and the file's
description of itself inside.

The TorchScript-based exporter is used on purpose: it keeps the opset asked for (the dynamo one
turned 12 and 17 into 18 on every family, and fails on Hiera with fused attention). Attention is
unfused while tracing: below opset 14 there is no operator for the fused form, and one graph for
every opset is one graph to test.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mae_sdk.files import temporary_folder
from mae_skill.errors import CheckpointError, DependencyError, SpecError
from torch import Tensor, nn

from mae_runners.deploy.artifact import INPUT_NAME, ArtifactMeta, check_target

if TYPE_CHECKING:
    import onnx

OPSETS = range(12, 21)  # 12: documented floor; 20: the last the exporter writes
EXTERNAL_DATA_BYTES = 2_000_000_000  # protobuf ends at 2^31 bytes; some room for the graph itself


class Normalize(nn.Module):
    """Raw pixels [B, C, H, W] uint8 → the inner module's input: ``(x / 255 − mean) / std``."""

    mean: Tensor
    std: Tensor

    def __init__(self, inner: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.inner((images.float() / 255.0 - self.mean) / self.std)
        return result


class Features(nn.Module):
    """A pretrained model's encoder, unmasked and deterministic.

    Images [B, C, H, W] → [B, D] (pooled) or [B, N, D] (tokens).
    """

    def __init__(self, model: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.model: Any = model  # one of ours: `encode` is not part of nn.Module
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.model.encode(images, pool=self.pooled)
        return result


def deployable(model: nn.Module, meta: ArtifactMeta) -> nn.Module:
    """The module whose outputs are the artifact's, in eval mode: logits or features, with the
    normalization in front where `meta` says so."""
    module: nn.Module = (
        model if meta.output == "logits" else Features(model, meta.output == "pooled")
    )
    if meta.preprocessing:
        module = Normalize(module, meta.mean, meta.std)
    return module.eval()


def example_input(meta: ArtifactMeta, batch: int = 2) -> Tensor:
    """A tensor [batch, C, H, W] to trace with, of the dtype that the artifact takes."""
    shape = (batch, meta.channels, *meta.input_size)
    generator = torch.Generator().manual_seed(0)
    if meta.preprocessing:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(shape, generator=generator)


@contextlib.contextmanager
def unfused_attention(module: nn.Module) -> Iterator[None]:
    """Attention in separate operators inside the block, as it was afterward."""
    parts: list[Any] = [part for part in module.modules() if hasattr(part, "fused_attn")]
    before = [part.fused_attn for part in parts]
    for part in parts:
        part.fused_attn = False
    try:
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            part.fused_attn = value


@contextlib.contextmanager
def plain_reshapes() -> Iterator[None]:
    """`Tensor.unflatten` is traced as a reshape inside the block; the exporter has no operator for
    it below opset 13, and gets it wrong above."""

    def unflatten(self: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        dim %= self.dim()
        return self.reshape(*self.shape[:dim], *sizes, *self.shape[dim + 1 :])

    original = Tensor.unflatten
    Tensor.unflatten = unflatten  # type: ignore[method-assign]  # patched on purpose
    try:
        yield
    finally:
        Tensor.unflatten = original  # type: ignore[method-assign]


def to_onnx(module: nn.Module, meta: ArtifactMeta, *, verbose: bool = False) -> onnx.ModelProto:
    """Traces `module` (from `deployable`) into an ONNX model with all weights loaded.

    Args:
        module: in eval mode; its device is where tracing happens.
        meta: input size, batch (-1 = any), opset, names; it is written into the model.

    Raises:
        SpecError: an opset outside `OPSETS`.
        CheckpointError: the exporter cannot translate the model, or wrote another opset.
    """
    if meta.opset not in OPSETS:
        raise SpecError(
            "this opset cannot be written",
            field="export.opset_version",
            got=meta.opset,
            expected=f"{OPSETS[0]} to {OPSETS[-1]}",
        )

    model = _trace(module, meta, verbose)
    written = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if written != {"ai.onnx": meta.opset}:
        raise CheckpointError(
            "the exporter wrote another opset than asked for",
            field="export.opset_version",
            got=written,
            expected=str(meta.opset),
        )

    fold_identities(model)
    model.graph.name = f"{meta.arch}_{meta.stage}"
    model.producer_name = "mae_runners"
    describe(model, meta)
    return model


def _trace(module: nn.Module, meta: ArtifactMeta, verbose: bool) -> onnx.ModelProto:
    import onnx

    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    fixed = meta.batch > 0
    images = example_input(meta, meta.batch if fixed else 2).to(device)
    dynamic = None if fixed else {INPUT_NAME: {0: "batch"}, meta.output_name: {0: "batch"}}

    with (
        temporary_folder("mae-export-") as folder,
        torch.no_grad(),
        unfused_attention(module),
        plain_reshapes(),
        warnings.catch_warnings(),
        # On failure the exporter prints whole graphs to standard output.
        contextlib.redirect_stdout(io.StringIO()),
    ):
        # Tracer warnings about shapes that are constant here; the parity gate judges the result.
        warnings.simplefilter("ignore")
        target = folder / "model.onnx"
        try:
            torch.onnx.export(
                module,
                (images,),
                str(target),
                input_names=[INPUT_NAME],
                output_names=[meta.output_name],
                opset_version=meta.opset,
                dynamic_axes=dynamic,
                do_constant_folding=True,
                verbose=verbose,
                dynamo=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"the exporter cannot translate {meta.arch} at opset {meta.opset}: {reason}",
                field="export.opset_version",
                got=meta.opset,
                hint="try opset 17",
            ) from error
        return onnx.load(str(target))  # with external weights, where there were any


def describe(model: onnx.ModelProto, meta: ArtifactMeta) -> None:
    """Writes `meta` into the model's metadata properties, replacing what was there."""
    properties = {prop.key: prop.value for prop in model.metadata_props} | meta.to_properties()
    del model.metadata_props[:]
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)


def read_meta(model: onnx.ModelProto, path: Path) -> ArtifactMeta:
    """The description inside an ONNX model."""
    return ArtifactMeta.from_properties(
        {prop.key: prop.value for prop in model.metadata_props}, path
    )


def fold_identities(model: onnx.ModelProto) -> None:
    """Removes `Identity` nodes, through which the exporter shares equal weights, so that every
    weight is an initializer of the node that uses it."""
    outputs = {value.name for value in model.graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)

    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.graph.value_info[:]


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model uses."""
    domains = ("", "ai.onnx")
    return int(next(entry.version for entry in model.opset_import if entry.domain in domains))


def weight_bytes(model: onnx.ModelProto) -> int:
    """The size of all initializers in bytes."""
    import onnx

    def width(tensor: onnx.TensorProto) -> int:
        return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)

    return sum(int(np.prod(tensor.dims)) * width(tensor) for tensor in model.graph.initializer)


def save(
    model: onnx.ModelProto, path: Path, *, overwrite: bool, limit: int = EXTERNAL_DATA_BYTES
) -> list[Path]:
    """Writes the model by temp-then-rename; weights over `limit` bytes go to ``<name>.data`` beside
    it, and both move together.

    Returns:
        The files written, the ONNX file first.

    Raises:
        UsageError: the file exists and `overwrite` is not set.
    """
    import onnx

    check_target(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    data_name = path.name + ".data"
    large = weight_bytes(model) > limit
    with temporary_folder(f".{path.name}.draft-", path.parent) as folder:
        if large:
            save_with_data(model, folder / path.name)
        else:
            onnx.save_model(model, str(folder / path.name))
        onnx.checker.check_model(str(folder / path.name))

        # The data first: an ONNX file is never there without the file it refers to.
        if large:
            (folder / data_name).replace(path.parent / data_name)
        (folder / path.name).replace(path)
        if not large:
            (path.parent / data_name).unlink(missing_ok=True)  # of an overwritten larger model
    return [path, path.with_name(data_name)] if large else [path]


def save_with_data(model: onnx.ModelProto, path: Path) -> None:
    """Writes the graph to `path` and moves the weights out of `model` into ``<name>.data``."""
    import onnx

    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=path.name + ".data",
    )


def session_of(
    model: onnx.ModelProto | Path,
    *,
    optimize: bool = True,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> Any:
    """An ONNX Runtime session for a model in memory or a file; on the CPU unless told otherwise."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

    def open_session(source: str | bytes) -> Any:
        return onnxruntime.InferenceSession(source, options, providers=list(providers))

    if isinstance(model, Path):
        return open_session(str(model))
    if weight_bytes(model) <= EXTERNAL_DATA_BYTES:
        return open_session(model.SerializeToString())

    import onnx

    with temporary_folder("mae-session-") as folder:
        target = folder / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)  # saving moves the weights out of the message
        save_with_data(copy, target)
        del copy
        return open_session(str(target))


def require(*packages: str) -> None:
    """Raises `DependencyError` unless these packages (``onnx``, ``onnxruntime``) are installed."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise DependencyError(
                f"{package} is not installed",
                expected="the packages onnx and onnxruntime",
                hint="pip install 'mae-skill[export]'",
            ) from error
