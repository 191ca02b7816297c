"""Graphs in reduced precision as they should be, and as they go wrong: what the parity gate's
bounds must separate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from mae_runners.deploy.int8 import calibrate, quantizable, quantize
from mae_runners.deploy.precision import convert, emulate_low_precision
from onnx import numpy_helper


def copied(graph: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def edited(graph: Any, suffix: str, place: float, change: Any) -> Any:
    """The quantized graph with one of its weight tensors changed; ``place`` 0 = the first layer,
    1 = the last."""
    copy = copied(graph)
    names = {tensor.name for tensor in copy.graph.initializer}
    found = [
        t
        for t in copy.graph.initializer
        if t.name.endswith(suffix) and t.name[: -len(suffix)] + "_quantized" in names
    ]
    tensor = found[round(place * (len(found) - 1))]
    tensor.CopyFrom(
        numpy_helper.from_array(
            np.ascontiguousarray(change(numpy_helper.to_array(tensor))), tensor.name
        )
    )
    return copy


def sane_graphs(graph: Any, images: torch.Tensor) -> Iterator[tuple[str, str, Any]]:
    yield "fp16", "fp16", convert(copied(graph), "fp16")
    yield "bf16", "bf16", emulate_low_precision(convert(copied(graph), "bf16"))
    for count in (8, 128):
        scales = calibrate(graph, [images[i : i + 8].numpy() for i in range(0, count, 8)])
        yield "int8", f"int8, {count} calibration images", quantize(copied(graph), scales)


def broken_graphs(graph: Any, images: torch.Tensor) -> Iterator[tuple[str, Any]]:
    """What goes wrong with int8 in practice: wrong ranges, or the scale or weights of another
    layer."""
    order = [node.input[0] for node in quantizable(graph)]
    batches = [images[i : i + 8].numpy() for i in range(0, 128, 8)]
    scales = calibrate(graph, batches)
    good = quantize(copied(graph), scales)
    yield (
        "every range a quarter",
        quantize(copied(graph), {name: scale / 4 for name, scale in scales.items()}),
    )
    yield (
        "every range fifty times too large",
        quantize(copied(graph), {name: scale * 50 for name, scale in scales.items()}),
    )
    yield (
        "the head's range a tenth",
        quantize(copied(graph), {**scales, order[-1]: scales[order[-1]] / 10}),
    )
    yield (
        "the stem's weights of another channel",
        edited(good, "_quantized", 0, lambda values: np.roll(values, 1, axis=0)),
    )
    yield (
        "the head's weights of another class",
        edited(good, "_quantized", 1, lambda values: np.roll(values, 1, axis=0)),
    )
    yield "a negated layer", edited(good, "_quantized", 0.5, lambda values: -values)
