"""Names, shapes and descriptions of a file of weights, read without torch and without running code
from it: what the plan decides by, and what the runner asks before it opens a file.

Tensors come back as `Stub`; a safetensors file has them in its header, a PyTorch file in a pickle.
"""

from __future__ import annotations

import json
import math
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from mae_skill.errors import CheckpointError, NotFoundError
from mae_skill.weights.config import CONFIG
from mae_skill.weights.pytorch_file import MAX_BYTES, Stub, damaged, is_old, read_old, read_zip

TEXT = "text"
"""What `kind_of` calls a file of characters."""

_UNKNOWN = "a file of an unknown kind"
_SEALED = (b"MAESEAL1", b"MAESEAL2")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_FILES = ("model.safetensors", "pytorch_model.bin")

#: first bytes of files that are no weights → what they are
_OTHERS = (
    (b"\x89PNG", "a picture (PNG), not weights"),
    (b"\xff\xd8\xff", "a picture (JPEG), not weights"),
    (b"GIF8", "a picture (GIF), not weights"),
    (b"II*\0", "a picture (TIFF), not weights"),
    (b"MM\0*", "a picture (TIFF), not weights"),
    (b"version https://git-lfs", "a Git LFS pointer: the weights themselves were not downloaded"),
    (b"<", "a web page, not weights"),
    (b"\x89HDF", "an HDF5 file (Keras), not PyTorch's"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; unpack it first"),
)


def weight_files(path: Path) -> list[Path]:
    """The files of weights at ``path``: itself, or those of a folder that transformers or timm
    saved a model into.

    Raises:
        NotFoundError: there is nothing.
        CheckpointError: the folder holds no weights by a known name.
    """
    if path.is_file() and path.name.endswith(".index.json"):
        raise CheckpointError(
            f"{path.name} lists the files of a model; it holds no weights",
            got=str(path),
            expected="the folder that the files lie in",
            hint=f"name the folder: {path.parent}",
        )
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
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= MAX_BYTES


def is_sealed(path: Path) -> bool:
    """Whether the file at ``path`` is one of ours, encrypted."""
    with path.open("rb") as file:
        return file.read(len(_SEALED[0])) in _SEALED


def encrypted(path: Path) -> CheckpointError:
    """The error of a file of ours without its key."""
    return CheckpointError(
        f"{path.name} is encrypted",
        field="encryption_key",
        hint="set MAE_ENCRYPTION_KEY to its key",
    )


def not_weights(path: Path) -> str | None:
    """What a file is that PyTorch did not write, where its content tells.

    Raises:
        CheckpointError: it ends within a zip archive.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty"
    for mark, what in _OTHERS:
        if start.lstrip().startswith(mark):
            return what
    if start.startswith(b"PK"):
        return _other_zip(path)
    if is_old(path):
        return None
    if tarfile.is_tarfile(path):
        return "a tar archive; unpack it first"
    if start[:1] == b"\x80":
        return "a pickle that torch.save did not write"
    if all(byte in b"\t\n\r" or 32 <= byte != 127 for byte in start):
        try:
            start[:500].decode()
        except UnicodeDecodeError as error:
            if error.start < 490:  # else a character lies across the end
                return _UNKNOWN
        return f"{TEXT}, not weights"
    return _UNKNOWN


def is_pytorch(path: Path) -> bool:
    """Whether a file's content is that of ``torch.save``."""
    with path.open("rb") as file:
        return file.read(2) == b"PK" or is_old(path)


def kind_of(path: Path) -> str | None:
    """What a file is, where its content tells and it is no weights; None for others."""
    if is_safetensors(path) or is_sealed(path):
        return None
    try:
        found = not_weights(path)
    except CheckpointError:
        return "a damaged zip archive"
    return None if found in (None, _UNKNOWN) else found.partition(", not ")[0].partition(";")[0]


def _other_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise damaged(path, "a zip archive without its end") from None
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, not a state dict"
    if sum(name.endswith("data.pkl") for name in names) != 1:
        what = "NumPy arrays (.npz)" if any(n.endswith(".npy") for n in names) else "a zip file"
        return f"{what}, not PyTorch's"
    return None


def look(path: Path, *, key: bool = True) -> dict[str, Any] | None:
    """The contents of the weights at ``path`` with `Stub` for tensors; None where they cannot be
    seen without torch: encrypted, or described by more than 256 MiB.

    Args:
        key: the run will have a key for encrypted files.

    Raises:
        NotFoundError, CheckpointError: as `weight_files` and `look_at`; or it is encrypted and
            there is no key.
    """
    contents: dict[str, Any] = {}
    for file in weight_files(path):
        if not key and is_sealed(file):
            raise encrypted(file)
        part = look_at(file)
        if part is None:
            return None
        contents |= part
    return contents | folder_config(path)


def look_at(file: Path) -> dict[str, Any] | None:
    """`look` at one file.

    Raises:
        CheckpointError: it is empty, damaged, no file of weights, or holds more than weights.
    """
    if is_safetensors(file):
        return _safetensors(file)
    if is_sealed(file):
        return None
    if what := not_weights(file):
        raise CheckpointError(
            f"{file.name} holds no weights",
            got=what,
            expected="a file that torch.save or safetensors wrote",
            hint="fetch the weights again, from the link to the file itself",
        )
    try:
        found = read_zip(file) if zipfile.is_zipfile(file) else read_old(file)
    except CheckpointError:
        raise
    except Exception:  # a pickle can fail in any way; PyTorch's own reader says how
        return None
    return dict(found) if found is not None else None


#: a type of safetensors → PyTorch's name of it, and the bytes of a value
_TYPES = {
    **{f"F{bits}": (f"float{bits}", bits // 8) for bits in (16, 32, 64)},
    **{f"I{bits}": (f"int{bits}", bits // 8) for bits in (8, 16, 32, 64)},
    **{f"U{bits}": (f"uint{bits}", bits // 8) for bits in (8, 16, 32, 64)},
    "BF16": ("bfloat16", 2),
    "BOOL": ("bool", 1),
}


def _safetensors(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, whose values must fill the file to its end.

    Raises:
        CheckpointError: it is damaged.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        text = file.read(length)
        there = file.seek(0, 2) - 8 - length
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        stubs, end = {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            (start, stop), shape = entry["data_offsets"], tuple(map(int, entry["shape"]))
            kind, each = _TYPES.get(entry["dtype"], (str(entry["dtype"]).lower(), None))
            size = stop - start if each is None else math.prod(shape) * each
            if start != end or stop - start != size:
                raise damaged(path, f"{name} is declared at bytes {start} to {stop}")
            stubs[name], end = Stub(shape, kind), stop
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, "its header cannot be read") from error
    if end != there:
        raise damaged(path, f"{there} bytes of values; its header says {end}")
    return stubs
