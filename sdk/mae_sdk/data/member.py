"""One file or folder of an archive or a prefix, and what an archive may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CHUNK = 1 << 20

ARCHIVES = "an archive: .tar, .tar.gz, .tgz, .tar.zst, .tar.xz, .tar.bz2 or .zip"
WHOLE = "a whole archive, as tar, zip and others write it"
"""What is expected of an archive."""

AGAIN = "fetch or pack the archive again"
"""What mends a damaged one."""


@dataclass(frozen=True)
class Limits:
    """What an archive may ask for. Images hardly compress, so a huge ratio is a bomb.

    Attributes:
        max_ratio: decompressed over compressed bytes, once ``ratio_from`` bytes came out.
        ratio_from: bytes below which the ratio is not judged.
        max_members: files and folders together.
        max_bytes: decompressed bytes; ``None`` = what the disk holds.
    """

    max_ratio: float = 200.0
    ratio_from: int = 256 << 20
    max_members: int = 20_000_000
    max_bytes: int | None = None


@dataclass(frozen=True)
class Member:
    """One regular file of an archive, another name of one, or a folder.

    Attributes:
        name: its clean relative path.
        size: bytes.
        chunks: its content, to be read before the next member.
        offset: where the content begins in an uncompressed tar; else None.
        link: the path of the member whose content it is another name of; empty: it leads out of
            the archive, to nothing that is here; else None.
        is_folder: a folder, without content.
        unread: of the first picture of a table without a column of classes, the columns that are
            not read.
        class_columns: of the first picture of a table with several columns that may be its
            classes, the one that is read, then the others.
    """

    name: str
    size: int
    chunks: Iterator[bytes]
    offset: int | None = None
    link: str | None = None
    is_folder: bool = False
    unread: tuple[str, ...] = ()
    class_columns: tuple[str, ...] = ()
