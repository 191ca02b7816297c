"""What an ONNX file says of itself, read from its head and tail: no ``onnx`` package, no weights.

An ONNX file is a protobuf message; its fields are numbered in ``onnx.proto``
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Only the few that are needed here are
read; everything else, the weights above all, is passed over by its length.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mae_skill.errors import CheckpointError, MaeError, SpecError
from mae_skill.origin import OriginKind

ONNX_FILE = "gen_trt_engine.onnx_file"
INPUT_SIZE = "dataset.augmentation.input_size"
PROFILE = ("min_batch_size", "opt_batch_size", "max_batch_size")

# ModelProto, GraphProto, ValueInfoProto, TypeProto, its Tensor, TensorShapeProto, its Dimension.
_GRAPH, _PROPERTIES = 7, 14
_INITIALIZER, _TENSOR_NAME, _INPUT = 5, 8, 11
_NODE, _NODE_NAME = 1, 3
_NAME, _TYPE, _TENSOR, _SHAPE, _DIM, _DIM_VALUE = 1, 2, 1, 2, 1, 1
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


@dataclass(frozen=True)
class OnnxHeader:
    """The images that an ONNX file takes, and its description.

    Attributes:
        dims: of the first input, [batch, channels, height, width]; None where any size goes.
        properties: ``mae.<field>`` → value, of a file that the export action wrote.
    """

    dims: tuple[int | None, ...]
    properties: dict[str, Any]

    @property
    def batch(self) -> int | None:
        """The batch size it is fixed to; None = any."""
        return self.dims[0] if self.dims else None

    @property
    def size(self) -> tuple[int | None, ...]:
        """Height and width."""
        return self.dims[2:4]


def read_header(path: Path) -> OnnxHeader:
    """The header of an ONNX file.

    Raises:
        CheckpointError: it is none.
    """
    dims: tuple[int | None, ...] | None = None
    properties: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            for number, end in _fields(file, path.stat().st_size):
                if number == _GRAPH and dims is None:
                    dims = _first_input(file, end)
                elif number == _PROPERTIES:
                    texts = {
                        key: file.read(last - file.tell()).decode()
                        for key, last in _fields(file, end)
                    }
                    if texts.get(1, "").startswith("mae."):
                        properties[texts[1]] = json.loads(texts.get(2, "null"))
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as ONNX",
            field=ONNX_FILE,
            got=str(path),
            expected="an ONNX file, as the export action writes",
            hint="mae run export --parent JOB makes one",
        ) from error
    if dims is None:
        raise CheckpointError(
            f"{path.name} holds no graph",
            field=ONNX_FILE,
            got=str(path),
            expected="an ONNX file, as the export action writes",
            hint="mae run export --parent JOB makes one",
        )
    return OnnxHeader(dims, properties)


def node_names(path: Path) -> list[str]:
    """The names of the nodes of an ONNX file, by which `layers_precision` speaks of layers.

    Raises:
        OSError, ValueError, EOFError: it cannot be read as ONNX.
    """
    names: list[str] = []
    with path.open("rb") as file:
        for number, end in _fields(file, path.stat().st_size):
            if number != _GRAPH:
                continue
            for inner, stop in _fields(file, end):
                if inner != _NODE:
                    continue
                for part, last in _fields(file, stop):
                    if part == _NODE_NAME:
                        names.append(file.read(last - file.tell()).decode())
    return [name for name in names if name]


TYPED = ("fp32", "fp16", "bf16")
"""What a layer can compute in by its type alone."""
LAYERS = "gen_trt_engine.tensorrt.layers_precision"


def parse_layers_precision(entries: Sequence[str]) -> list[tuple[str, str]]:
    """``["*/grn/*:fp32", …]`` → [(pattern, precision), …].

    Patterns are shell-style over ONNX node names, the last match wins; the precision is read in
    either case.

    Raises:
        SpecError: an entry has no precision, or an unknown one.
    """
    rules: list[tuple[str, str]] = []
    for entry in entries:
        pattern, _, word = entry.rpartition(":")
        precision = word.lower()
        if not pattern or precision not in TYPED:
            raise SpecError(
                "an entry is not PATTERN:PRECISION",
                field=LAYERS,
                got=entry,
                expected="a node name or pattern, a colon, and one of "
                f"{', '.join(TYPED)}; for example '*/grn/*:fp32'",
                hint="write each entry as the example",
            )
        rules.append((pattern, precision))
    return rules


def matches_of(rules: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[str, str]:
    """Name → precision for every node that a rule matches.

    Raises:
        SpecError: a rule matches no node, so it would have no effect.
    """
    chosen: dict[str, str] = {}
    for pattern, precision in rules:
        matches = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            examples = ", ".join(names[:: max(1, len(names) // 5)][:5])
            raise SpecError(
                f"no layer of the model matches {pattern!r}",
                field=LAYERS,
                got=f"{pattern}:{precision}",
                expected=f"a name or pattern of an ONNX node, such as {examples}",
                hint="take the entry out, or name a layer of the file",
            )
        chosen.update(dict.fromkeys(matches, precision))
    return chosen


def int8_layers_error(rules: Sequence[tuple[str, str]]) -> SpecError | None:
    """Why no int8 engine can be built by these rules; None where it can."""
    if all(kind == "fp32" for _, kind in rules):
        return None
    return SpecError(
        "in an int8 engine layers are int8 or fp32",
        field=LAYERS,
        got=[list(rule) for rule in rules],
        expected="PATTERN:fp32",
        hint="write fp32 in each entry, or take another data_type",
    )


def _first_input(file: BinaryIO, end: int) -> tuple[int | None, ...]:
    """The dimensions of the first input that is no weight."""
    weights: set[bytes] = set()
    found: dict[bytes, tuple[int | None, ...]] = {}
    for number, last in _fields(file, end):
        if number == _INITIALIZER:
            for inner, stop in _fields(file, last):
                if inner == _TENSOR_NAME:
                    weights.add(file.read(stop - file.tell()))
        if number == _INPUT:
            name = b""
            dims: tuple[int | None, ...] = ()
            for inner, stop in _fields(file, last):
                if inner == _NAME:
                    name = file.read(stop - file.tell())
                elif inner == _TYPE:
                    dims = _dims(file, stop)
            found[name] = dims
    return next((dims for name, dims in found.items() if name not in weights), ())


def _dims(file: BinaryIO, end: int) -> tuple[int | None, ...]:
    found: list[int | None] = []
    for tensor, tensor_end in _fields(file, end):
        if tensor != _TENSOR:
            continue
        for shape, shape_end in _fields(file, tensor_end):
            if shape != _SHAPE:
                continue
            for dim, dim_end in _fields(file, shape_end):
                if dim != _DIM:
                    continue
                value = None
                for kind, _ in _fields(file, dim_end):
                    if kind == _DIM_VALUE:
                        value = _varint(file)
                found.append(value if value and value > 0 else None)
    return tuple(found)


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """``(number, end)`` of each field up to ``end``; the file stands at its value, and goes on
    behind it however much of it was read."""
    while file.tell() < end:
        tag = _varint(file)
        kind = tag & 7
        if kind == _BYTES:
            length = _varint(file)
        elif kind == _VARINT:
            here = file.tell()
            _varint(file)
            length = file.tell() - here
            file.seek(here)
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"no protobuf: a field of kind {kind}")
        stop = file.tell() + length
        if stop > end:
            raise ValueError("no protobuf: a field that is longer than its message")
        yield tag >> 3, stop
        file.seek(stop)


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise EOFError("no protobuf: a number without an end")
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return value


def profile_errors(
    value: Callable[[str], Any], chosen: Callable[[str], bool], header: OnnxHeader | None
) -> list[MaeError]:
    """Why no engine can be built with the profile that a spec asks for.

    Args:
        value: a field of the spec, by its dotted key.
        chosen: whether somebody set a field; the input size only by a word of this command, for a
            spec may hold the size that the model was trained at, and an export may be of another.
        header: of the ONNX file; None where it is not known yet.
    """
    settings = {name: f"gen_trt_engine.tensorrt.{name}" for name in PROFILE}
    sizes = [int(value(key) or 1) for key in settings.values()]
    alone = int(value("gen_trt_engine.batch_size") or -1)
    problems: list[MaeError] = []
    if alone <= 0 and sizes != sorted(sizes):
        problems.append(
            SpecError(
                "the batch profile is not ordered",
                field="gen_trt_engine.tensorrt.opt_batch_size",
                got=sizes,
                expected="1 ≤ min_batch_size ≤ opt_batch_size ≤ max_batch_size",
            )
        )
    if header is None:
        return problems

    fixed = header.batch
    again = "export again with export.batch_size=-1 for any batch"
    if fixed is not None and alone > 0 and alone != fixed:
        problems.append(
            SpecError(
                "the ONNX file has another fixed batch",
                field="gen_trt_engine.batch_size",
                got=alone,
                expected=str(fixed),
                hint=again,
            )
        )
    if fixed is not None and alone <= 0:
        wrong = [
            key
            for key, size in zip(settings.values(), sizes, strict=True)
            if size != fixed and (size != 1 or chosen(key))
        ]
        if wrong:
            problems.append(
                SpecError(
                    f"the ONNX file has a fixed batch of {fixed}: no engine of it takes another",
                    field=wrong[-1],
                    got=value(wrong[-1]),
                    expected=str(fixed),
                    hint=again,
                )
            )

    return problems + _size_errors(value, chosen, header)


def _size_errors(
    value: Callable[[str], Any], chosen: Callable[[str], bool], header: OnnxHeader
) -> list[MaeError]:
    """Where a spec asks for another height or width than the file has."""
    asked: dict[str, tuple[int | None, int | None]] = {
        "export.input_height": (value("export.input_height"), None),
        "export.input_width": (None, value("export.input_width")),
    }
    if chosen(INPUT_SIZE) and value(INPUT_SIZE):
        both = value(INPUT_SIZE)
        asked[INPUT_SIZE] = (both, both) if isinstance(both, int) else (both[0], both[1])
    real = (*header.size, None, None)[:2]
    return [
        SpecError(
            "the ONNX file is made for another size",
            field=key,
            got=value(key),
            expected=" × ".join(map(str, real)),
            hint="leave it out, or export again at that size "
            "(export.input_height, export.input_width)",
        )
        for key, wanted in asked.items()
        if any(
            want is not None and has is not None and want != has
            for want, has in zip(wanted, real, strict=True)
        )
    ]


def said_now(kinds: Iterable[OriginKind | None]) -> bool:
    """Whether a field was set by a word of this command: not by a file, a parent or a default."""
    return any(kind in (OriginKind.SHORTHAND, OriginKind.OVERRIDE) for kind in kinds)


def precision_error(properties: Mapping[str, Any]) -> MaeError | None:
    """Why a file whose precision is reduced already is no start for an engine."""
    precision = properties.get("mae.precision", "fp32")
    if precision == "fp32":
        return None
    return SpecError(
        "the ONNX file is already reduced",
        field=ONNX_FILE,
        got=precision,
        expected="an fp32 export",
        hint="gen_trt_engine reduces precision itself; export with export.data_type=fp32",
    )
