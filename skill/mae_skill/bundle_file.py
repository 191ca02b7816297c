"""Reading a file of a bundle, whoever made it: a regular file of its folder, up to a size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mae_skill.errors import SpecError

MAX_BYTES = 16 * 2**20

# Without O_NONBLOCK the open of a pipe waits for its writer, for ever; Windows lacks it.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def require_inside(root: Path, path: Path) -> None:
    """Raises `SpecError` where a file, or what a link leads to, is not in the bundle's folder."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise SpecError(
            "a file of the bundle leads out of its folder",
            field=path.name,
            got=str(path.resolve()),
            expected="a file in the bundle's folder",
            hint="copy it into the bundle in the place of the link",
        )


def bundle_text(root: Path, path: Path) -> str:
    """The text of a file of a bundle.

    Raises:
        FileNotFoundError: there is none.
        SpecError: it is no regular file of the folder, is too large, or is not UTF-8.
    """
    require_inside(root, path)
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, str(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unreadable(path, "it is no regular file")
        try:
            data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise _unreadable(path, f"it has more than {MAX_BYTES // 2**20} MiB")
            return data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, why: str) -> SpecError:
    return SpecError(
        f"a file of the bundle cannot be read: {why}"[:300],
        field=path.name,
        got=str(path),
        expected="a text file in UTF-8",
    )
