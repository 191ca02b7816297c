"""The file that an option writes: refused where that would overwrite what is not ours to replace.

A person names it on a command line full of data, so a slip of the shell's completion is enough to
put a page into the place of a training picture. Each kind knows its own files by their content.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mae_skill.errors import UsageError

from mae_sdk import files

_HEAD_BYTES = 1 << 20
"""Read of a file to recognize it."""


@dataclass(frozen=True)
class OutputKind:
    """A kind of file that an option writes.

    Attributes:
        name: with its article, as a sentence has it: ``a report``.
        suffixes: those that fit, the usual one first; compared in lower case.
        is_ours: whether a file that begins like this (1 MiB at most) is of this kind.
    """

    name: str
    suffixes: tuple[str, ...]
    is_ours: Callable[[bytes], bool]


def output_file(path: str | os.PathLike[str], kind: OutputKind, field: str) -> Path:
    """The path that an option names, where a file of this kind may be written.

    Missing, empty, or a file of the same kind: that may be. Nothing is written here.

    Args:
        field: the option.

    Raises:
        UsageError: it is empty or a folder, its suffix does not fit, or there is a file of another
            kind.
    """
    text = os.fspath(path)
    usual = kind.suffixes[0]
    expected = f"a new file whose name ends in {' or '.join(kind.suffixes)}"
    if not text.strip() or "\0" in text:
        message = "must not be empty" if not text.strip() else "no file can have this name"
        raise UsageError(
            message, field=field, got=text, expected=expected, hint=f"name a file: NAME{usual}"
        )

    found = Path(text)
    if found.is_dir() or text.endswith(("/", os.sep)):
        raise UsageError(
            "this is a folder, not a file",
            field=field,
            got=text,
            expected=expected,
            hint=f"name a file in it: {found / f'NAME{usual}'}",
        )
    if found.suffix.lower() not in kind.suffixes:
        said = f"ends in {found.suffix}" if found.suffix else "has no suffix"
        raise UsageError(
            f"this is {kind.name}, but the name of the file {said}",
            field=field,
            got=text,
            expected=expected,
            hint=f"name it {found.with_suffix(usual)}",
        )
    if not _may_be_replaced(found, kind):
        raise UsageError(
            f"there is a file already, and it is not {kind.name} of this program",
            field=field,
            got=text,
            expected=f"{expected}, or {kind.name} that this program wrote",
            hint="name another file, or move this one away",
        )
    return found


def _may_be_replaced(path: Path, kind: OutputKind) -> bool:
    try:
        status = path.stat()
    except OSError:  # missing; or the writing says what is wrong with it
        return True
    if not stat.S_ISREG(status.st_mode):
        return False
    if status.st_size == 0:
        return True
    try:
        descriptor = os.open(path, files.READ)
        with os.fdopen(descriptor, "rb") as stream:
            return kind.is_ours(stream.read(_HEAD_BYTES))
    except OSError:
        return False
