"""Reduced precision written into the graph itself, as strongly typed TensorRT networks want it: fp16 and bf16, layer by layer.

Every node computes in one type. A `Cast` stands wherever a tensor crosses from one type to another, so the graph is well typed for
strict parsers
too: a `LayerNormalization` whose scale is float16 gets a float16 input (the naive conversion leaves one of the two behind, and
TensorRT refuses
it). Inputs and outputs of the graph stay float32. Operators whose sums or squares leave float16's range keep float32.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
from mae_skill.errors import SpecError

# Sums of squares pass 65504 quickly (GRN's norm over a whole feature map; the variance of a LayerNorm that opsets below 17 write out);
# Resize scales are float32 by definition.
KEEP_FP32 = frozenset(
    {
        "ReduceL2",
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "Pow",
        "Sqrt",
        "Resize",
        "QuantizeLinear",
        "DequantizeLinear",
    }
)
PRECISIONS = ("fp32", "fp16", "bf16")


def parse_layers_precision(entries: Sequence[str] | str | None) -> list[tuple[str, str]]:
    """``["*/grn/*:fp32", …]`` → [(pattern, precision), …]; patterns are shell-style over ONNX node names, the last match wins.

    Raises:
        SpecError: an entry has no precision, or one we do not know.
    """
    rules: list[tuple[str, str]] = []
    for entry in [entries] if isinstance(entries, str) else entries or []:
        pattern, _, precision = str(entry).rpartition(":")
        precision = precision.lower()
        if not pattern or precision not in PRECISIONS:
            raise SpecError(
                "an entry is not PATTERN:PRECISION",
                field="gen_trt_engine.tensorrt.layers_precision",
                got=entry,
                expected=f"a node name or pattern, a colon, and one of {', '.join(PRECISIONS)}; for example '*/grn/*:fp32'",
            )
        rules.append((pattern, precision))
    return rules


def match_rules(rules: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[str, str]:
    """Node name → precision for every name a rule matches.

    Raises:
        SpecError: a rule matches no node, so it would be silently dead.
    """
    chosen: dict[str, str] = {}
    for pattern, precision in rules:
        hits = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not hits:
            examples = ", ".join(list(names)[:: max(1, len(names) // 5)][:5])
            raise SpecError(
                f"no layer of the model matches {pattern!r}",
                field="gen_trt_engine.tensorrt.layers_precision",
                got=f"{pattern}:{precision}",
                expected=f"a name or pattern of an ONNX node, such as {examples}",
            )
        chosen.update(dict.fromkeys(hits, precision))
    return chosen


def convert(model: Any, precision: str, rules: Sequence[tuple[str, str]] = ()) -> Any:
    """The model with its nodes computing in `precision` (except `KEEP_FP32`), `rules` winning over both.

    Args:
        model: an `onnx.ModelProto` in float32, weights loaded; it is changed in place.
        precision: ``fp32`` | ``fp16`` | ``bf16``.
        rules: from `parse_layers_precision`.

    Returns:
        The same model, nodes in topological order, typed throughout.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    types = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    if precision not in types:
        raise SpecError("unknown precision", got=precision, expected=", ".join(types))
    chosen = match_rules(rules, [node.name for node in model.graph.node if node.name])
    if precision == "fp32" and not any(value != "fp32" for value in chosen.values()):
        return model
    if precision == "bf16" or "bf16" in chosen.values():
        opset = next(
            entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")
        )
        if opset < 13:
            raise SpecError(
                "bf16 needs a newer opset",
                field="export.opset_version",
                got=opset,
                expected="13 or above",
                hint="export again with 17",
            )
    inferred = onnx.shape_inference.infer_shapes(strip_weights(model))
    floats = {
        value.name
        for value in [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    floats |= {name for name, tensor in weights.items() if tensor.data_type == TensorProto.FLOAT}
    stored: dict[str, int] = {
        value.name: TensorProto.FLOAT for value in graph.input if value.name in floats
    }
    casts: dict[tuple[str, int], str] = {}
    nodes: list[Any] = []
    new_weights: dict[str, Any] = {}
    short = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}

    between = between_kept(graph)

    def as_type(name: str, wanted: int) -> str:
        """The name under which tensor `name` is available in `wanted`."""
        if name in weights:
            key = name if wanted == TensorProto.FLOAT else f"{name}::{short[wanted]}"
            if key not in new_weights:
                new_weights[key] = (
                    weights[name]
                    if wanted == TensorProto.FLOAT
                    else low_tensor(weights[name], wanted, key)
                )
            return key
        if stored.get(name, TensorProto.FLOAT) == wanted:
            return name
        if (name, wanted) not in casts:
            casts[name, wanted] = f"{name}::{short[wanted]}"
            nodes.append(
                helper.make_node(
                    "Cast",
                    [name],
                    [casts[name, wanted]],
                    name=f"{name}::to_{short[wanted]}",
                    to=wanted,
                )
            )
        return casts[name, wanted]

    for node in graph.node:
        if any(
            attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for attribute in node.attribute
        ):
            raise SpecError(
                f"node {node.name} holds a subgraph, which reduced precision does not support",
                got=node.op_type,
            )
        default = (
            TensorProto.FLOAT
            if node.op_type in KEEP_FP32 or node.output[0] in between
            else types[precision]
        )
        kind = types[chosen[node.name]] if node.name in chosen else default
        produces_float = any(name in floats for name in node.output)
        if node.op_type in ("Constant", "ConstantOfShape") and produces_float:
            kind = (
                TensorProto.FLOAT
            )  # made in float32 and cast where used: one rule for weights and constants
        elif node.op_type == "Cast" and produces_float:
            for attribute in node.attribute:
                if attribute.name == "to":
                    attribute.i = kind
        if not (node.op_type == "Cast" and produces_float):
            for index, name in enumerate(node.input):
                if name in weights and name not in floats:
                    new_weights[name] = weights[name]
                elif name in floats:
                    node.input[index] = as_type(name, kind)
        else:
            for name in node.input:
                if name in weights:
                    new_weights[name] = weights[name]
        nodes.append(node)
        for name in node.output:
            if name in floats:
                stored[name] = kind
    for value in graph.output:
        if stored.get(value.name, TensorProto.FLOAT) != TensorProto.FLOAT:
            inner = f"{value.name}::{short[stored[value.name]]}"
            for node in nodes:
                for names in (node.input, node.output):
                    for index, name in enumerate(names):
                        if name == value.name:
                            names[index] = inner
            nodes.append(
                helper.make_node(
                    "Cast",
                    [inner],
                    [value.name],
                    name=f"{value.name}::to_fp32",
                    to=TensorProto.FLOAT,
                )
            )
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(new_weights.values())
    del graph.value_info[:]
    assert all(
        isinstance(numpy_helper.to_array(t), np.ndarray) for t in list(graph.initializer)[:1]
    )
    return model


def between_kept(graph: Any) -> set[str]:
    """First outputs of the nodes all of whose inputs come from, and all of whose outputs go to, nodes of `KEEP_FP32` (constants aside):
    such as the ε that is added to a variance. What they pass on needs the range of both ends."""
    kept = {name for node in graph.node if node.op_type in KEEP_FP32 for name in node.output}
    fixed = {tensor.name for tensor in graph.initializer} | {
        node.output[0] for node in graph.node if node.op_type == "Constant"
    }
    goes_elsewhere = {value.name for value in graph.output}
    goes_elsewhere |= {
        name for node in graph.node if node.op_type not in KEEP_FP32 for name in node.input
    }
    found: set[str] = set()
    for node in graph.node:
        given = [name for name in node.input if name and name not in fixed]
        if given and kept.issuperset(given) and not goes_elsewhere.intersection(node.output):
            found.add(node.output[0])
    return found


def emulate_low_precision(model: Any) -> Any:
    """A copy-free rewrite of a bf16 graph for runtimes with no bf16 kernels: every bf16 tensor is rounded to bf16, and computed on in
    float32.

    ONNX Runtime's CPU provider has few bf16 kernels, yet the parity gate must run there; storage rounding, which dominates bf16's
    error, is kept.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            graph.initializer[index].CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes: list[Any] = []
    inputs_low: set[str] = set()
    for node in graph.node:
        if node.op_type == "Cast" and any(
            a.name == "to" and a.i == TensorProto.BFLOAT16 for a in node.attribute
        ):
            rounded = node.output[0] + "::rounded"
            name = node.output[0]
            node.output[0] = rounded
            nodes += [
                node,
                helper.make_node(
                    "Cast", [rounded], [name], name=f"{node.name}::back", to=TensorProto.FLOAT
                ),
            ]
            inputs_low.add(name)
            continue
        nodes.append(node)
        if any(
            name in inputs_low or name.endswith("::bf16") for name in node.input
        ) and node.op_type not in ("Cast", "Shape"):
            for index, name in enumerate(node.output):
                node.output[index] = f"{name}::exact"
                nodes.append(
                    helper.make_node(
                        "Cast",
                        [f"{name}::exact"],
                        [f"{name}::rounded"],
                        name=f"{name}::round",
                        to=TensorProto.BFLOAT16,
                    )
                )
                nodes.append(
                    helper.make_node(
                        "Cast",
                        [f"{name}::rounded"],
                        [name],
                        name=f"{name}::back",
                        to=TensorProto.FLOAT,
                    )
                )
                inputs_low.add(name)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def low_tensor(tensor: Any, kind: int, name: str) -> Any:
    """A float32 weight as float16 (clipped to its range) or bfloat16."""
    from onnx import TensorProto, helper, numpy_helper

    values = numpy_helper.to_array(tensor)
    if kind == TensorProto.FLOAT16:
        return numpy_helper.from_array(np.clip(values, -65504.0, 65504.0).astype(np.float16), name)
    import ml_dtypes

    return helper.make_tensor(
        name, kind, values.shape, values.astype(ml_dtypes.bfloat16).tobytes(), raw=True
    )


def strip_weights(model: Any) -> Any:
    """A light copy for shape inference: large float weights become graph inputs (shape inference serialises, and stops at 2 GB)."""
    import onnx
    from onnx import helper

    light = onnx.ModelProto()
    light.CopyFrom(_without_initializers(model))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and int(np.prod(tensor.dims)) > 64:
            light.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        else:
            light.graph.initializer.append(tensor)
    return light


def _without_initializers(model: Any) -> Any:
    from onnx import helper

    graph = helper.make_graph(
        list(model.graph.node), model.graph.name, list(model.graph.input), list(model.graph.output)
    )
    return helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
