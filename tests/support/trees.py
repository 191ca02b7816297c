"""Trees of files with odd names, and the same tree as a folder, as archives and as a prefix."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from hypothesis import strategies as st

from tests.support.images import jpeg

PHOTO = jpeg(0, 24, 24)
_ODD = [
    *(b"cat", b"Cat", b"dog", b"a b", b".hidden", b"__MACOSX", b"@eaDir", b"Thumbs.db"),
    *("café".encode(), "cafe\u0301".encode(), b"caf\xe9", b"\xb9\xb7", "狗".encode()),
    *(b"back\\slash", b"\\x41", b"\x1b[2J", b"new\nline", "\u202egpj".encode(), b"Icon\r"),
    *("\u2028".encode(), "\x9b1m".encode(), b"'quote'", b'"', b"x" * 200, b"%41", b"a,b", b"#?"),
]
_TEXT = [
    *(b"cat", b"Cat", b"dog", b"a b", b".hidden", b"__MACOSX", b"@eaDir", b"Thumbs.db", b"a,b"),
    *("café".encode(), "cafe\u0301".encode(), "狗".encode(), b"x" * 200, b"'quote'", b"#?", b"&+"),
]
_SUFFIXES = [b".jpg", b".JPG", b".jpeg", b".png", b".md", b"", b".jpg.txt", b".webp"]
_CONTENTS = [PHOTO, b"", b"no image", PHOTO[:300]]


@dataclass
class Tree:
    """Files, and names that stand for one of them.

    Attributes:
        files: path → content.  hard, soft: path → path of the file it stands for.
    """

    files: dict[bytes, bytes] = field(default_factory=dict)
    hard: dict[bytes, bytes] = field(default_factory=dict)
    soft: dict[bytes, bytes] = field(default_factory=dict)

    def target(self, path: bytes) -> bytes:
        """What a symbolic link at ``path`` holds."""
        return os.path.relpath(self.soft[path], path.rpartition(b"/")[0] or b".")


_PART = st.one_of(
    st.sampled_from(_ODD),
    st.binary(min_size=1, max_size=6).filter(
        lambda part: not set(part) & set(b"/\0:") and part.strip(b".")
    ),
)


@st.composite
def trees(draw: Any) -> Tree:
    """A tree of up to eight names, up to four folders deep; half of them fit an object store."""
    tree = Tree()
    part = draw(st.sampled_from([_PART, st.sampled_from(_TEXT)]))
    for _ in range(draw(st.integers(1, 8))):
        parts = draw(st.lists(part, min_size=1, max_size=4))
        path = b"/".join(parts)[:240].rstrip(b"/") + draw(st.sampled_from(_SUFFIXES))
        taken = {**tree.files, **tree.hard, **tree.soft}
        if any(p == path or p.startswith(path + b"/") or path.startswith(p + b"/") for p in taken):
            continue
        if max(map(len, path.split(b"/"))) > 255:
            continue
        kind = draw(st.sampled_from(["file", "file", "file", "hard", "soft"]))
        if kind == "file" or not tree.files:
            tree.files[path] = draw(st.sampled_from(_CONTENTS))
        else:
            links = tree.hard if kind == "hard" else tree.soft
            links[path] = draw(st.sampled_from(sorted(tree.files)))
    return tree


def write_folder(tree: Tree, root: Path, *, copies: bool = False) -> Path:
    """The tree on disk; with ``copies`` links are files of their own."""
    for path, content in tree.files.items():
        _place(root, path).write_bytes(content)
    for links in (tree.hard, tree.soft):
        for path, old in links.items():
            place = _place(root, path)
            if copies:
                place.write_bytes(tree.files[old])
            elif links is tree.soft:
                place.symlink_to(os.fsdecode(tree.target(path)))
            else:
                place.hardlink_to(_place(root, old))
    return root


def _place(root: Path, path: bytes) -> Path:
    place = root / os.fsdecode(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def packed(tree: Tree, form: int = tarfile.PAX_FORMAT) -> bytes:
    """The tree as a tar."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for path, content in tree.files.items():
            info = tarfile.TarInfo(os.fsdecode(path))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for links, kind in ((tree.hard, tarfile.LNKTYPE), (tree.soft, tarfile.SYMTYPE)):
            for path, old in links.items():
                info = tarfile.TarInfo(os.fsdecode(path))
                info.type = kind
                info.linkname = os.fsdecode(old if kind == tarfile.LNKTYPE else tree.target(path))
                archive.addfile(info)
    return out.getvalue()


class _Raw(zipfile.ZipInfo):
    """A member whose name is written as the bytes that it is, as ``zip`` does on Unix."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return os.fsencode(self.filename), self.flag_bits & ~0x800


def zipped(tree: Tree) -> bytes:
    """The tree as a zip: hard links are files, symbolic ones are stored as links."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        entries = {**tree.files, **{path: tree.files[old] for path, old in tree.hard.items()}}
        for mode, contents in (
            (0o100644, entries),
            (0o120777, {path: tree.target(path) for path in tree.soft}),
        ):
            for path, content in contents.items():
                info = _Raw("name")
                info.filename = os.fsdecode(path)
                info.create_system, info.external_attr = 3, mode << 16
                archive.writestr(info, content)
    return out.getvalue()


def write_archives(tree: Tree, root: Path) -> list[Path]:
    """The tree as ``.tar``, ``.tar.gz``, ``.tar.zst`` and ``.zip``."""
    contents = {
        "a.tar": packed(tree),
        "a.tar.gz": gzip.compress(packed(tree, tarfile.GNU_FORMAT)),
        "a.tar.zst": zstandard.compress(packed(tree)),
        "a.zip": zipped(tree),
    }
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return [root / name for name in contents]


def is_text(tree: Tree) -> bool:
    """Whether every name can be a key of an object store as it is: UTF-8 without the characters
    that the server of the tests spells otherwise."""
    for path in (*tree.files, *tree.hard, *tree.soft):
        try:
            text = path.decode("utf-8")
        except UnicodeDecodeError:
            return False
        if any(ord(c) < 32 or c in "\x7f\\%\ufffe\uffff" or 0x80 <= ord(c) < 0xA0 for c in text):
            return False
    return True
