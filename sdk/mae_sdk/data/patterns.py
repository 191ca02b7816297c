"""Patterns of names as data sources, local and remote: what they match, and as what it is read.

A pattern holds ``*``, ``?`` or ``[ab]`` (within one part of a path), ``**`` (any number of parts),
or braces: ``{000..015}``, ``{a,b}``. It stands for a list: of pictures, which are one source below
the folder in front of the first mark, or of archives and tables, or of folders, each a source of
its own. A place that has the very name is no pattern. A web server lists nothing: there braces
alone are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mae_skill.errors import DataError, NotFoundError
from mae_skill.spelling import shown

from mae_sdk.data.names import ends_as_image, is_set_aside, text_of
from mae_sdk.storage import transfer, urls
from mae_sdk.storage.faults import as_data_error

MOST = 100_000
"""Names that the braces of one pattern may stand for."""

_MARKS = re.compile(r"[*?\[{]")
_FEW = 5
_KINDS = {"pictures": "pictures", "packed": "archives", "folders": "folders"}


@dataclass
class _Matches:
    """Texts by what they name; ``other`` are files that are never read."""

    pictures: list[str] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)


class Chosen:
    """Whether the pictures below a folder are among those that a pattern stands for.

    Attributes:
        root: the folder, or prefix, in front of the first mark.
    """

    def __init__(self, pattern: str) -> None:
        self.root, _ = _divided(pattern)
        rules = (_rule(text.removeprefix(self.root)) for text in _alternatives(pattern))
        self._rule = re.compile("|".join(rules))

    def __call__(self, name: str) -> bool:
        """Whether a path relative to `root` is one of them."""
        return self._rule.match(name) is not None


def is_pattern(uri: str) -> bool:
    """Whether a source is meant as a pattern: it has a mark of one, and nothing has the very name.

    Raises:
        DataError: there is not even a bucket.
        StorageError: the store cannot be asked.
    """
    if not _MARKS.search(_path_of(uri)):
        return False
    if not urls.is_remote(uri):
        try:
            return not os.path.lexists(urls.local_path(uri))
        except (OSError, RuntimeError, ValueError):  # ~nobody, or a name that no system has
            return False
    if urls.scheme(uri) in transfer.WEB:
        return True
    try:
        return not transfer.exists(uri)
    except NotFoundError as error:
        raise as_data_error(error, urls.redact(uri)) from error


def expand(uri: str) -> list[str]:
    """The sources that a source stands for: itself, where it is no pattern or one of pictures, else
    what it matches, sorted; those of braces in their order.

    Raises:
        DataError: nothing matches, or things of several kinds do.
        StorageError: the store cannot be asked.
    """
    if not is_pattern(uri):
        return [uri]
    texts = _alternatives(uri)
    if all(ends_as_image(text) for text in texts):
        if urls.scheme(uri) in transfer.WEB:
            raise nothing(uri, texts)
        return [uri]
    found = _Matches()
    for text in texts:
        for name, is_folder in _matches(text):
            _sort_in(found, name, is_folder)
    files = [*found.pictures, *found.packed]
    above = {folder for name in files for folder in _parents(name)}
    found.folders = [
        name for name in found.folders if not (files and "**" in uri) and name not in above
    ]
    kinds = [kind for kind in _KINDS if getattr(found, kind)]
    if len(kinds) > 1:
        named = [f"{getattr(found, kind)[0]} ({_KINDS[kind]})" for kind in kinds]
        raise DataError(
            "a pattern matches things of several kinds",
            got=[urls.redact(name) for name in named],
            expected="pictures, or archives, or folders",
            hint="end it as the ones you mean: *.jpg, *.tar",
        )
    if not kinds:
        raise nothing(uri, found.other)
    return [uri] if kinds == ["pictures"] else list(dict.fromkeys(getattr(found, kinds[0])))


def nothing(uri: str, other: Iterable[str] = ()) -> DataError:
    """The error for a pattern that nothing matches.

    Args:
        other: files that match, and are never read.
    """
    root, rest = _divided(uri)
    where, files = urls.redact(uri), list(other)[:_FEW]
    if files and urls.scheme(uri) in transfer.WEB:
        hint = "pictures are not fetched from a web server one by one: name an archive of them"
    elif files:
        hint = "it matches files that are no pictures: " + ", ".join(map(_last, files))
    else:
        depth = rest.count("/") + 1 if "**" not in rest else 1
        there = [
            name + "/" * folder for name, folder in _entries(root, 1) if not is_set_aside(name)
        ]
        holds = ", ".join(shown(name) for name in sorted(there)[:_FEW]) or "nothing"
        hint = f"{urls.redact(root)} holds {holds}" + (", …" if len(there) > _FEW else "")
        hint += f"; the pattern looks {depth} levels below it" if depth > 1 and there else ""
    return DataError(
        f"nothing matches the pattern {where}",
        got=where,
        expected="pictures, archives or folders that it matches: * is any text within a name, "
        "** any folders",
        hint=hint,
    )


def _sort_in(found: _Matches, name: str, is_folder: bool) -> None:
    if is_folder:
        found.folders.append(name)
    elif ends_as_image(name):
        found.pictures.append(name)
    elif urls.is_archive(name) or urls.is_table(name):
        found.packed.append(name)
    else:
        found.other.append(name)


def _matches(text: str) -> Iterator[tuple[str, bool]]:
    """What a text without braces matches, and whether that is a folder. A text without any mark
    stands for itself, whether it is there or not."""
    if not _MARKS.search(_path_of(text)):
        yield text, not urls.is_archive(text) and not urls.is_table(text)
        return
    root, rest = _divided(text)
    rule, deep = re.compile(_rule(rest)), "**" in rest
    for name, is_folder in sorted(_entries(root, 0 if deep else rest.rstrip("/").count("/") + 1)):
        if rule.match(name) and not is_set_aside(name):
            yield root + name, is_folder


def _entries(root: str, depth: int) -> Iterator[tuple[str, bool]]:
    """Relative names of files and folders below a folder or prefix, and whether each is a folder.

    Args:
        depth: how far down; 0 = to the end.
    """
    if urls.is_remote(root):
        folders: dict[str, None] = {}
        for name in transfer.list_details(root):
            for folder in _parents(name):
                if not depth or folder.count("/") < depth:
                    folders[folder] = None
            if not depth or name.count("/") < depth:
                yield name, False
        yield from ((name, True) for name in folders)
        return

    waiting: list[tuple[str, Path, frozenset[tuple[int, int]]]] = [
        ("", urls.local_path(root), frozenset())
    ]
    while waiting:
        prefix, place, above = waiting.pop()
        try:
            stat = place.stat()
            identity = (stat.st_dev, stat.st_ino)
            if identity in above:  # linked into itself
                continue
            with os.scandir(place) as entries:
                there = [(text_of(one.name), one.path, one.is_dir()) for one in entries]
        except OSError:  # gone, or not to be read: whoever opens what matches says so
            continue
        for name, path, is_folder in there:
            yield prefix + name, is_folder
            if is_folder and (not depth or prefix.count("/") + 1 < depth):
                waiting.append((f"{prefix}{name}/", Path(path), above | {identity}))


def _alternatives(uri: str) -> list[str]:
    """The texts that the braces of a pattern stand for.

    Raises:
        DataError: there are too many.
    """
    root, rest = _divided(uri)
    if "{" not in rest:
        return [root + rest]
    import bracex

    try:
        return [root + str(text) for text in bracex.expand(rest, keep_escapes=True, limit=MOST)]
    except bracex.ExpansionLimitException as error:
        raise DataError(
            f"the braces of this pattern stand for more than {MOST:,} names",
            got=urls.redact(uri),
            expected="fewer, or * instead",
        ) from error


def _divided(uri: str) -> tuple[str, str]:
    """The folder in front of the first part with a mark, with its ``/``, and the rest."""
    path = _path_of(uri)
    first = _MARKS.search(uri, uri.rindex(path)) if path else None
    if first is None:
        return uri, ""
    end = uri.rfind("/", 0, first.start()) + 1
    while not urls.is_remote(uri):  # a folder may be called set[1]
        part, slash, _ = uri[end:].partition("/")
        if not slash or not os.path.lexists(urls.local_path(uri[:end] + part)):
            break
        end += len(part) + 1
    return uri[:end] or "./", uri[end:]


def _rule(rest: str) -> str:
    """A glob as a regular expression of whole names.

    Raises:
        DataError: ``**`` is not a whole part.
    """
    from fsspec.utils import glob_translate

    try:
        return str(glob_translate(rest.rstrip("/")))
    except ValueError as error:
        raise DataError(
            "** stands for whole folders", got=rest, expected="** between slashes: images/**/*.png"
        ) from error


def _path_of(uri: str) -> str:
    """The part of a source in which marks are read: of a URL what follows its bucket, and no
    query."""
    if not urls.is_remote(uri):
        return uri
    path = uri.partition("://")[2].partition("/")[2]
    if urls.scheme(uri) in transfer.WEB:
        # There * and [ may be parts of a name.
        path = path.partition("?")[0]
        return path if "{" in path else ""
    return "" if "?versionId=" in path else path


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _last(name: str) -> str:
    return shown(name.rstrip("/").rpartition("/")[2])
