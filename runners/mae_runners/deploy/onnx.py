"""Torch module → ONNX file: any batch or a fixed one, an opset that is checked in the file, the file's description of itself inside.

The TorchScript-based exporter is used on purpose: it keeps the opset asked for (the dynamo one turned 12 and 17 into 18 on every
family, and fails
on Hiera with fused attention). Attention is unfused while tracing: below opset 14 there is no operator for the fused form, and one
graph for every opset is one graph to test.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_skill.errors import CheckpointError, SpecError, UsageError
from torch import Tensor, nn

from mae_runners.deploy.meta import INPUT_NAME, ArtefactMeta

OPSETS = range(12, 21)  # 12: documented floor; 20: the last the exporter writes
EXTERNAL_DATA_BYTES = 2_000_000_000  # protobuf ends at 2^31 bytes; some room for the graph itself


class Normalise(nn.Module):
    """Raw pixels [B, 3, H, W] uint8 → the wrapped module's input: ``(x / 255 − mean) / std``, inside the graph."""

    def __init__(self, inner: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.inner((images.float() / 255.0 - self.mean) / self.std)
        return result


class Features(nn.Module):
    """A pretrained model's encoder: images [B, 3, H, W] → [B, D] (pooled) or [B, N, D] (tokens), unmasked and deterministic."""

    def __init__(self, model: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.model = model
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.model.encode(images, pool=self.pooled)  # type: ignore[operator]
        return result


def deployable(model: nn.Module, meta: ArtefactMeta) -> nn.Module:
    """The module whose outputs are the artefact's: logits or features, with the normalisation in front where `meta` says so; eval mode."""
    module: nn.Module = (
        model if meta.output == "logits" else Features(model, meta.output == "pooled")
    )
    if meta.preprocessing:
        module = Normalise(module, meta.mean, meta.std)
    return module.eval()


def example_input(meta: ArtefactMeta, batch: int = 2) -> Tensor:
    """A tensor to trace with, of the dtype that the artefact takes."""
    height, width = meta.input_size
    generator = torch.Generator().manual_seed(0)
    if meta.preprocessing:
        return torch.randint(
            0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator
        )
    return torch.randn(batch, 3, height, width, generator=generator)


@contextlib.contextmanager
def unfused_attention(module: nn.Module) -> Iterator[None]:
    """Attention in separate operators while inside, as it was afterwards."""
    changed = [(part, part.fused_attn) for part in module.modules() if hasattr(part, "fused_attn")]
    for part, _ in changed:
        part.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for part, value in changed:
            part.fused_attn = value


@contextlib.contextmanager
def plain_reshapes() -> Iterator[None]:
    """`Tensor.unflatten` traced as a reshape; the exporter has none below opset 13, and gets it wrong above."""

    def unflatten(self: Tensor, dim: int, sizes: Any) -> Tensor:
        dim %= self.dim()
        return self.reshape(*self.shape[:dim], *sizes, *self.shape[dim + 1 :])

    original = Tensor.unflatten
    Tensor.unflatten = unflatten  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Tensor.unflatten = original  # type: ignore[method-assign]


def to_onnx(module: nn.Module, meta: ArtefactMeta, *, verbose: bool = False) -> Any:
    """Traces `module` (from `deployable`) into an `onnx.ModelProto` with all weights loaded.

    Args:
        module: in eval mode; its device is where tracing happens.
        meta: says input size, batch (-1 = any), opset, names; is written into the model.

    Raises:
        SpecError: an opset outside `OPSETS`.
        CheckpointError: the exporter cannot translate the model, or wrote another opset than asked for.
    """
    import onnx

    if meta.opset not in OPSETS:
        raise SpecError(
            "this opset cannot be written",
            field="export.opset_version",
            got=meta.opset,
            expected=f"{OPSETS[0]} to {OPSETS[-1]}",
        )
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    images = example_input(meta, meta.batch if meta.batch > 0 else 2).to(device)
    dynamic = (
        {INPUT_NAME: {0: "batch"}, meta.output_name: {0: "batch"}} if meta.batch <= 0 else None
    )
    said = io.StringIO()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mae-export-"))
        for guard in (unfused_attention(module), warnings.catch_warnings(), torch.no_grad()):
            stack.enter_context(guard)
        stack.enter_context(plain_reshapes())
        warnings.simplefilter(
            "ignore"
        )  # tracer warnings about shapes that are constant here; the parity gate judges the result
        target = Path(folder) / "model.onnx"
        try:
            with contextlib.redirect_stdout(said):  # on failure the exporter prints whole graphs
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
            raise CheckpointError(
                f"the exporter cannot translate {meta.arch} at opset {meta.opset}: {str(error).strip().splitlines()[0]}",
                field="export.opset_version",
                got=meta.opset,
                hint="try opset 17",
            ) from error
        model = onnx.load(str(target))  # with external weights, where there were any
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


def describe(model: Any, meta: ArtefactMeta) -> None:
    """Writes `meta` into the model's metadata properties, replacing what was there."""
    kept = {prop.key: prop.value for prop in model.metadata_props}
    kept.update(meta.to_properties())
    del model.metadata_props[:]
    for key, value in kept.items():
        model.metadata_props.add(key=key, value=value)


def read_meta(model: Any, path: Path) -> ArtefactMeta:
    """The description inside an ONNX model."""
    return ArtefactMeta.from_properties(
        {prop.key: prop.value for prop in model.metadata_props}, path
    )


def fold_identities(model: Any) -> None:
    """Removes `Identity` nodes (the exporter shares equal weights through them), so that every weight is an initializer of the node
    that uses it."""
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


def attribute(node: Any, name: str, default: Any) -> Any:
    """A node's attribute, or `default`."""
    import onnx

    return next(
        (onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name),
        default,
    )


def save(
    model: Any, path: Path, *, overwrite: bool, limit: int = EXTERNAL_DATA_BYTES
) -> list[Path]:
    """Writes the model by temp-then-rename; weights over `limit` bytes go to ``<name>.data`` beside it, and both move together.

    Returns:
        The files written, the ONNX file first.

    Raises:
        UsageError: the file exists and `overwrite` is not set.
    """
    import onnx

    refuse_existing(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    data_name = path.name + ".data"
    size = sum(tensor_bytes(tensor) for tensor in model.graph.initializer)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        if size > limit:
            onnx.save_model(
                model,
                str(folder / path.name),
                save_as_external_data=True,
                all_tensors_to_one_file=True,
                location=data_name,
                size_threshold=1024,
            )
        else:
            onnx.save_model(model, str(folder / path.name))
        onnx.checker.check_model(str(folder / path.name))
        written = []
        # The data first: an ONNX file never stands there without what it points to.
        for name in (data_name, path.name):
            if (folder / name).exists():
                (folder / name).replace(path.parent / name)
                written.append(path.parent / name)
        if size <= limit:
            (path.parent / data_name).unlink(missing_ok=True)  # left by an overwritten larger model
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return written[::-1]


def refuse_existing(path: Path, overwrite: bool, field: str = "export.overwrite") -> None:
    """Raises `UsageError` when `path` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path} exists already",
            field=field,
            got=False,
            expected="a new path, or permission",
            hint=f"set {field}=true to replace it",
        )


def refuse_folder(path: Path, field: str) -> None:
    """Raises `UsageError` when a folder stands where a file is to be written."""
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder", field=field, got=str(path), expected="the path of a file"
        )


def tensor_bytes(tensor: Any) -> int:
    """The size of an initializer in bytes."""
    import onnx

    return (
        int(np.prod(tensor.dims)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    )


def session_of(model: Any, threads: int | None = None, optimise: bool = True) -> Any:
    """An ONNX Runtime session on the CPU for a model in memory (through a temporary file when it is too large for one message) or at a
    path."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads if threads is not None else torch.get_num_threads()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    if isinstance(model, (str, Path)):
        return onnxruntime.InferenceSession(str(model), options, providers=providers)
    if sum(tensor_bytes(tensor) for tensor in model.graph.initializer) <= EXTERNAL_DATA_BYTES:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    with tempfile.TemporaryDirectory(prefix="mae-session-") as folder:
        import onnx

        target = Path(folder) / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)  # saving moves the weights out of the message
        onnx.save_model(
            copy,
            str(target),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location="model.onnx.data",
        )
        del copy
        return onnxruntime.InferenceSession(str(target), options, providers=providers)
