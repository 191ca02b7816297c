"""A file that ``torch.save`` wrote, read without torch and without running code from it.

Its pickle, in a zip archive or, before PyTorch 1.6, bare, may name only what
``torch.load(weights_only=True)`` takes; any other class or function is an error that names it.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mae_skill.errors import CheckpointError

MAX_BYTES = 256 << 20
"""Bytes of a pickle or header that are read."""

_OLD_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # 0x1950A86A20F9469CFC6C, as a pickle


class Stub(NamedTuple):
    """A tensor's shape and the name of its type (``float32``; of one that holds its values in
    another form that too: ``float32, sparse``), without values."""

    shape: tuple[int, ...]
    dtype: str


class _Storage(NamedTuple):
    """Numbers in a file, of which tensors are views."""

    dtype: str


def read_zip(path: Path) -> Mapping[str, object] | None:
    """What the zip archive at ``path`` describes; None where it is too large to look at.

    Raises:
        CheckpointError: values of a tensor are missing, or it needs more than tensors and plain
            data.
    """
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if archive.getinfo(name).file_size > MAX_BYTES:
            return None
        reader = _Reader(io.BytesIO(archive.read(name)), path)
        found = reader.load()
        held = {item.filename: item.file_size for item in archive.infolist()}
    stem = name.removesuffix("data.pkl")
    for key, size in reader.sizes.items():
        if held.get(f"{stem}data/{key}", -1) < size:
            raise damaged(path, f"the values of {stem}data/{key} are not all there")
    return _mapping(found, path)


def is_old(path: Path) -> bool:
    """Whether a file begins as ``torch.save`` wrote before PyTorch 1.6."""
    with path.open("rb") as file:
        return _OLD_MAGIC in file.read(32)


def read_old(path: Path) -> Mapping[str, object]:
    """What a file of PyTorch before 1.6 describes.

    Raises:
        CheckpointError: as `read_zip`.
    """
    with path.open("rb") as file:
        try:
            for _ in range(3):  # magic number, protocol, the machine's sizes
                _Reader(file, path).load()
            reader = _Reader(file, path)
            found = reader.load()
            keys = _Reader(file, path).load()
        except (EOFError, pickle.UnpicklingError) as error:
            raise damaged(path, "it ends within its description") from error
        # Each storage is its length, eight bytes, and its values.
        told = file.tell() + sum(8 + reader.sizes.get(str(key), 0) for key in keys)
        there = file.seek(0, 2)
    if there < told:
        raise damaged(path, f"{there} bytes; its description says {told}")
    return _mapping(found, path)


def damaged(path: Path, got: str) -> CheckpointError:
    """The error of a file that lacks a part."""
    return CheckpointError(
        f"{path.name} is damaged",
        got=got,
        expected="a whole file that torch.save or safetensors wrote",
        hint="copy or download it again",
    )


def more_than_weights(path: Path, needs: str) -> CheckpointError:
    """The error of a file whose pickle needs a class or a function that is not loaded."""
    return CheckpointError(
        f"{path.name} holds more than weights; it is not loaded",
        got=f"it needs {needs}",
        expected="tensors and plain data, readable with weights_only=True",
        hint="save the bare state dict again with torch.save(model.state_dict(), …) "
        "where the file came from",
    )


def _mapping(found: object, path: Path) -> Mapping[str, object]:
    if isinstance(found, Mapping):
        return found
    raise CheckpointError(
        f"{path.name} holds no state dict",
        got="a tensor" if isinstance(found, Stub) else type(found).__name__.lstrip("_"),
        expected="a mapping of names to tensors",
    )


# ---- what a pickle may name ----------------------------------------------------------------------


class _Inert:
    """Stands in for a class, a function or what they would make."""

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __call__(self, *args: object, **options: object) -> _Inert:
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """An item of a list that is none here."""

    def extend(self, values: object) -> None:
        """Items of a list that is none here."""


def _tensor(storage: _Storage, offset: object, size: tuple[int, ...], *rest: object) -> Stub:
    typed = [item for item in rest if isinstance(item, _Storage)]  # a type that has no storage
    return Stub(tuple(int(side) for side in size), (typed or [storage])[0].dtype)


def _sparse(layout: object, data: tuple[object, ...]) -> Stub:
    values = next(item for item in data[::-1] if isinstance(item, Stub))
    size = next(item for item in data if isinstance(item, tuple) and not isinstance(item, Stub))
    return Stub(tuple(int(side) for side in size), f"{values.dtype}, sparse")


def _empty(dtype: _Storage, size: tuple[int, ...], *rest: object) -> Stub:
    return Stub(tuple(size), f"{dtype.dtype}, without values")


def _parameter(data: object, *rest: object) -> object:
    return data


def _typed(function: object, kind: object, arguments: tuple[object, ...], state: object) -> object:
    return function(*arguments) if callable(function) else _Inert()


#: the only names of a pickle that become something
_KNOWN: dict[str, object] = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _tensor,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _empty,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.Size": tuple,
}
#: names that stand for nothing here, and that the runner loads: PyTorch's own, and what scripts
#: keep beside their weights (`mae_runners.models.checkpoint`)
_HARMLESS = re.compile(
    r"torch\.(device|Tensor|\w+Tensor|per_(tensor|channel)_\w+)"
    r"|torch\.(cuda|sparse|cuda\.sparse)\.\w+(Tensor|Storage)"
    r"|torch\._utils\._rebuild_(device_tensor_from_numpy|wrapper_subclass)"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|argparse\.Namespace|pathlib\.PosixPath|(builtins|__builtin__)\.(set|bytearray|complex)"
    r"|_codecs\.encode|numpy\.(ndarray|dtype|(dtypes\.)?\w*(int|float|bool|complex)\w*)"
    r"|numpy\.dtypes\.\w+|numpy\._?core\.multiarray\.(scalar|_reconstruct)"
)
_TYPES = re.compile(r"bool|b?(float|complex)\d\w*|bcomplex32|q?u?int\d\w*|bits\w+")
_STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2}
_BYTES |= {"int16": 2, "int8": 1, "uint8": 1, "bool": 1, "untyped": 1}


class _Reader(pickle.Unpickler):
    """``sizes``: key of a storage → its bytes, of those that were named."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self.path = path
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> object:
        full = f"{module}.{name}"
        if full in _KNOWN:
            return _KNOWN[full]
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return _Storage(_STORAGES.get(name, name.removesuffix("Storage").lower()))
        if module == "torch" and _TYPES.fullmatch(name):
            return _Storage(name)
        if _HARMLESS.fullmatch(full):
            return _Inert
        raise more_than_weights(self.path, full)

    def persistent_load(self, reference: object) -> _Storage:
        match reference:
            case ("storage", _Storage() as storage, key, _, int(count), *_):
                size = count * _BYTES.get(storage.dtype, 0)
                self.sizes[str(key)] = max(size, self.sizes.get(str(key), 0))
                return storage
        raise more_than_weights(self.path, "a module of PyTorch's, not its weights")
