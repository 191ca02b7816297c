"""Reduced precision written into the graph itself, layer by layer, as strongly typed TensorRT
networks want it: fp16 and bf16.

Every node computes in one type. A `Cast` stands wherever a tensor crosses from one type to another,
so the graph is well typed for strict parsers too: a `LayerNormalization` whose scale is float16
gets a float16 input (the naive conversion leaves one of the two behind, and TensorRT rejects it).
Inputs and outputs of the graph stay float32. Operators whose sums or squares leave float16's range
keep float32.

Precisions are written in lower case; the reader of specs accepts either case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from mae_skill.errors import SpecError
from mae_skill.onnx_file import TYPED, matches_of

from mae_runners.deploy.onnx import opset_of

if TYPE_CHECKING:
    import onnx

# Sums of squares soon pass 65504 (GRN's norm over a whole feature map; the variance of a LayerNorm
# that opsets below 17 write out); Resize scales are float32 by definition.
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
PRECISIONS = (*TYPED, "int8")
"""What an artifact can compute in; int8 needs scales beside the types (see `int8`)."""


def match_rules(rules: Sequence[tuple[str, str]], model: onnx.ModelProto) -> dict[str, str]:
    """Node name → precision for every node that a rule matches.

    Raises:
        SpecError: a rule matches no node, so it would have no effect.
    """
    return matches_of(rules, [node.name for node in model.graph.node if node.name])


def convert(
    model: onnx.ModelProto, precision: str, rules: Sequence[tuple[str, str]] = ()
) -> onnx.ModelProto:
    """The model with its nodes computing in `precision` (except `KEEP_FP32`); `rules` come first.

    Args:
        model: in float32, weights loaded; it is changed in place.
        precision: ``fp32`` | ``fp16`` | ``bf16``.
        rules: from `parse_layers_precision`.

    Returns:
        The same model, nodes in topological order, typed throughout.

    Raises:
        SpecError: an unknown precision, a rule without a match, an opset without bf16, a subgraph.
    """
    if precision not in TYPED:
        raise SpecError("unknown precision", got=precision, expected=", ".join(TYPED))
    chosen = match_rules(rules, model)
    if {precision, *chosen.values()} == {"fp32"}:
        return model

    if "bf16" in (precision, *chosen.values()) and opset_of(model) < 13:
        raise SpecError(
            "bf16 needs a newer opset",
            field="export.opset_version",
            got=opset_of(model),
            expected="13 or above",
            hint="export again with 17",
        )

    between = between_kept(model.graph)
    rewriter = _Rewriter(model)
    for node in list(model.graph.node):
        keeps = node.op_type in KEEP_FP32 or node.output[0] in between
        rewriter.add(node, chosen.get(node.name, "fp32" if keeps else precision))
    rewriter.finish()
    return model


class _Rewriter:
    """Rebuilds a graph node by node, each in its own precision, with casts between them.

    Attributes:
        floats: tensors that are float32 in the model as it was.
        stored: tensor → the precision that it has in the new graph.
        casts: (tensor, precision) → the tensor cast to it.
        nodes, weights: of the new graph.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self.graph = model.graph
        self.old_weights = {tensor.name: tensor for tensor in self.graph.initializer}
        float32 = onnx.TensorProto.FLOAT
        inferred = onnx.shape_inference.infer_shapes(strip_weights(model)).graph
        self.floats = {
            value.name
            for value in [*inferred.value_info, *inferred.input, *inferred.output]
            if value.type.tensor_type.elem_type == float32
        }
        self.floats |= {
            name for name, tensor in self.old_weights.items() if tensor.data_type == float32
        }

        self.stored: dict[str, str] = {}
        self.casts: dict[tuple[str, str], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def add(self, node: onnx.NodeProto, precision: str) -> None:
        """Appends a node that computes in `precision`, after the casts that its inputs need."""
        import onnx

        if any(
            attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for attribute in node.attribute
        ):
            raise SpecError(
                f"node {node.name} holds a subgraph, which reduced precision does not support",
                got=node.op_type,
            )

        makes_float = any(name in self.floats for name in node.output)
        is_cast = node.op_type == "Cast" and makes_float
        if node.op_type in ("Constant", "ConstantOfShape") and makes_float:
            # Made in float32 and cast where used: one rule for weights and constants.
            precision = "fp32"
        elif is_cast:
            for attribute in node.attribute:
                if attribute.name == "to":
                    attribute.i = _tensor_type(precision)

        for index, name in enumerate(node.input):
            if name in self.floats and not is_cast:
                node.input[index] = self._as_type(name, precision)
            elif name in self.old_weights:
                self.weights[name] = self.old_weights[name]
        self.nodes.append(node)
        self.stored.update((name, precision) for name in node.output if name in self.floats)

    def _as_type(self, name: str, precision: str) -> str:
        """The name under which a float tensor is available in `precision`."""
        if name in self.old_weights:
            key = name if precision == "fp32" else f"{name}::{precision}"
            if key not in self.weights:
                self.weights[key] = low_tensor(self.old_weights[name], precision, key)
            return key

        if self.stored.get(name, "fp32") == precision:
            return name
        if (name, precision) not in self.casts:
            self.casts[name, precision] = f"{name}::{precision}"
            self.nodes.append(
                _cast(name, f"{name}::{precision}", precision, f"{name}::to_{precision}")
            )
        return self.casts[name, precision]

    def finish(self) -> None:
        """Casts the outputs back to float32 and puts the new nodes and weights into the graph."""
        for value in self.graph.output:
            stored = self.stored.get(value.name, "fp32")
            if stored == "fp32":
                continue
            inner = f"{value.name}::{stored}"
            for node in self.nodes:
                for names in (node.input, node.output):
                    for index, name in enumerate(names):
                        if name == value.name:
                            names[index] = inner
            self.nodes.append(_cast(inner, value.name, "fp32", f"{value.name}::to_fp32"))

        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.initializer[:]
        self.graph.initializer.extend(self.weights.values())
        del self.graph.value_info[:]


def _tensor_type(precision: str) -> int:
    """The number that ONNX gives to a precision of `TYPED`."""
    from onnx import TensorProto

    return {
        "fp32": int(TensorProto.FLOAT),
        "fp16": int(TensorProto.FLOAT16),
        "bf16": int(TensorProto.BFLOAT16),
    }[precision]


def _cast(source: str, target: str, precision: str, name: str) -> onnx.NodeProto:
    """A node that makes `target` of `source` in another precision."""
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=name, to=_tensor_type(precision))


def between_kept(graph: onnx.GraphProto) -> set[str]:
    """First outputs of the nodes between `KEEP_FP32` nodes, such as the ε added to a variance.

    All their inputs (constants aside) come from such nodes and all their outputs go to such nodes:
    what they pass on needs the range of both ends.
    """
    kept = {name for node in graph.node if node.op_type in KEEP_FP32 for name in node.output}
    fixed = {tensor.name for tensor in graph.initializer} | {
        node.output[0] for node in graph.node if node.op_type == "Constant"
    }
    used_elsewhere = {value.name for value in graph.output}
    used_elsewhere |= {
        name for node in graph.node if node.op_type not in KEEP_FP32 for name in node.input
    }

    between: set[str] = set()
    for node in graph.node:
        inputs = [name for name in node.input if name and name not in fixed]
        if inputs and kept.issuperset(inputs) and not used_elsewhere.intersection(node.output):
            between.add(node.output[0])
    return between


def emulate_low_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrites a bf16 graph in place for runtimes with no bf16 kernels: every bf16 tensor is
    rounded to bf16, and computed on in float32.

    ONNX Runtime's CPU provider has few bf16 kernels, yet the parity gate must run there; storage
    rounding, which dominates bf16's error, is kept.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            graph.initializer[index].CopyFrom(numpy_helper.from_array(values, tensor.name))

    nodes: list[onnx.NodeProto] = []
    rounded: set[str] = set()

    def round_and_back(name: str) -> None:
        nodes.append(_cast(f"{name}::rounded", name, "fp32", f"{name}::back"))
        rounded.add(name)

    for node in graph.node:
        to_bf16 = node.op_type == "Cast" and any(
            attribute.name == "to" and attribute.i == TensorProto.BFLOAT16
            for attribute in node.attribute
        )
        if to_bf16:
            name = node.output[0]
            node.output[0] = f"{name}::rounded"
            nodes.append(node)
            round_and_back(name)
            continue

        nodes.append(node)
        low = any(name in rounded or name.endswith("::bf16") for name in node.input)
        if low and node.op_type not in ("Cast", "Shape"):
            for index, name in enumerate(node.output):
                node.output[index] = f"{name}::exact"
                nodes.append(_cast(f"{name}::exact", f"{name}::rounded", "bf16", f"{name}::round"))
                round_and_back(name)

    del graph.node[:]
    graph.node.extend(nodes)
    return model


def low_tensor(tensor: onnx.TensorProto, precision: str, name: str) -> onnx.TensorProto:
    """A float32 weight in another precision; float16 is clipped to its range."""
    from onnx import helper, numpy_helper

    if precision == "fp32":
        return tensor
    values = numpy_helper.to_array(tensor)
    if precision == "fp16":
        return numpy_helper.from_array(np.clip(values, -65504.0, 65504.0).astype(np.float16), name)

    import ml_dtypes

    content = values.astype(ml_dtypes.bfloat16).tobytes()
    return helper.make_tensor(name, _tensor_type(precision), values.shape, content, raw=True)


def strip_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A light copy for shape inference, which serializes the model and stops at 2 GB: large float
    weights become graph inputs."""
    import onnx
    from onnx import helper

    graph = model.graph
    light = helper.make_model(
        helper.make_graph(list(graph.node), graph.name, list(graph.input), list(graph.output)),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and int(np.prod(tensor.dims)) > 64:
            light.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        else:
            light.graph.initializer.append(tensor)
    return light
