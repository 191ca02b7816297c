"""Names, shapes and descriptions of a file of weights, read without torch and without running code
from it.

Tensors come back as `Stub`; a safetensors file has them in its header, a PyTorch file in a pickle
inside a zip archive, of which only plain data is built: a class or function that it names becomes
an inert stand-in, never an import.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mae_skill.errors import CheckpointError, NotFoundError
from mae_skill.weights.config import CONFIG

SEALED = b"MAESEAL"
_MAX_BYTES = 256 << 20  # bytes of a header or pickle that are read
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_FILES = ("model.safetensors", "pytorch_model.bin")

#: first bytes of files that are no weights → what they are
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer: the weights themselves were not downloaded"),
    (b"<", "a web page, not weights"),
    (b"\x89HDF", "an HDF5 file (Keras), not PyTorch's"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; unpack it first"),
)


class Stub(NamedTuple):
    """A tensor's shape and the name of its type (``float32``), without values."""

    shape: tuple[int, ...]
    dtype: str


def weight_files(path: Path) -> list[Path]:
    """The files of weights at ``path``: itself, or those of a folder that transformers or timm
    saved a model into.

    Raises:
        NotFoundError: there is nothing.
        CheckpointError: the folder holds no weights by a known name.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NotFoundError(f"no checkpoint at {path}", got=str(path), hint="check the path")
    for name in _INDEXES:
        if (path / name).is_file():
            try:
                table = json.loads((path / name).read_text())["weight_map"]
                shards = [path / Path(str(shard)).name for shard in sorted(set(table.values()))]
            except (ValueError, KeyError, AttributeError) as error:
                raise CheckpointError(f"{name} lists no files of weights", got=str(path)) from error
            if lost := [shard.name for shard in shards if not shard.is_file()]:
                raise NotFoundError(f"a part of the model is missing: {lost[0]}", got=str(path))
            return shards
    for name in _FILES:
        if (path / name).is_file():
            return [path / name]
    raise CheckpointError(
        f"{path.name} is a folder without a model",
        got=", ".join(sorted(item.name for item in path.iterdir())[:8]) or "an empty folder",
        expected=f"{' or '.join(_FILES)}, or a file of weights",
        hint="name the file of weights itself",
    )


def folder_config(path: Path) -> dict[str, Any]:
    """``{CONFIG: …}`` of the ``config.json`` that describes the model at ``path``, or nothing."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name not in _FILES:
        return {}
    try:
        found = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return {}
    return {CONFIG: found} if isinstance(found, dict) else {}


def is_safetensors(path: Path) -> bool:
    """Whether a file's content is that of safetensors, whatever its name."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= _MAX_BYTES


def not_weights(path: Path) -> str | None:
    """What a file is that PyTorch did not write, where its content tells."""
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        return "empty"
    for mark, what in _OTHERS:
        if start.startswith(mark):
            return what
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return "a TorchScript program, not a state dict"
        if not any(name.endswith("data.pkl") for name in names):
            what = "NumPy arrays (.npz)" if any(n.endswith(".npy") for n in names) else "a zip file"
            return f"{what}, not PyTorch's"
    return None


def look(path: Path) -> dict[str, Any] | None:
    """The contents of the weights at ``path`` with `Stub` for tensors; None where they cannot be
    read without torch (encrypted, of a very old PyTorch, or damaged).

    Raises:
        NotFoundError, CheckpointError: as `weight_files`.
    """
    contents: dict[str, Any] = {}
    for file in weight_files(path):
        part = _look(file)
        if part is None:
            return None
        contents |= part
    return contents | folder_config(path)


def _look(path: Path) -> dict[str, Any] | None:
    try:
        if is_safetensors(path):
            return _safetensors(path)
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if archive.getinfo(name).file_size > _MAX_BYTES:
                return None
            found = _Reader(io.BytesIO(archive.read(name))).load()
    except Exception:  # a pickle can fail in any way; the runner's reader says how
        return None
    return dict(found) if isinstance(found, Mapping) else None


def _safetensors(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return {
        name: Stub(tuple(entry["shape"]), names.get(entry["dtype"], entry["dtype"].lower()))
        for name, entry in header.items()
        if name != "__metadata__"
    }


class _Inert:
    """Stands in for a class, a function or what they would make."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __call__(self, *args: Any, **options: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """An item of a list that is none here."""

    def extend(self, values: Any) -> None:
        """Items of a list that is none here."""


def _tensor(storage: Any, offset: Any, size: Any, *rest: Any) -> Any:
    return Stub(tuple(int(side) for side in size), str(storage))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


#: the only names of a pickle that become something
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): tuple,
}
_STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return _STORAGES.get(name, name.removesuffix("Storage").lower())
        return _KNOWN.get((module, name), _Inert)

    def persistent_load(self, reference: Any) -> Any:
        return reference[1] if isinstance(reference, tuple) and len(reference) > 1 else ""
