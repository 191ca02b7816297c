"""One view over every data source: a folder, an archive, an object-store prefix, a pattern of
names, or a list of these.

Archives and remote sources are read from the local cache; a local folder is read in place. Member
names are sorted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mae_skill.errors import DataError, StorageError
from mae_skill.spelling import original, shown, spelled

from mae_sdk.data.fetch import is_archive
from mae_sdk.data.labels import (
    class_labels,
    missing_folders,
    nested_folders,
    parts_below,
    same_folders,
    strange_folders,
    wrapper_of,
    wrappers_of,
)
from mae_sdk.data.left_out import HEAD, MAX_LABELS, LeftOut, Some, detector_labels
from mae_sdk.data.member import Limits
from mae_sdk.data.names import (
    IMAGE_SUFFIXES,
    Names,
    encoded,
    ends_as_image,
    is_image,
    name_archives,
)
from mae_sdk.data.patterns import Chosen, expand, is_pattern, nothing
from mae_sdk.data.shards import Given, beside, read_classes
from mae_sdk.data.tables import tables_of
from mae_sdk.data.walk import alone, walk
from mae_sdk.storage import urls

if TYPE_CHECKING:
    import numpy as np


class _Part(Protocol):
    uri: str
    names: Names
    digest: str
    left_out: LeftOut
    sizes: np.ndarray[Any, Any]
    checksums: np.ndarray[Any, Any] | None

    @property
    def given(self) -> Given | None: ...

    def read(self, index: int) -> bytes: ...

    def size(self, index: int) -> int: ...


class Source:
    """The images of one or more sources, by index. Fork- and pickle-safe: it holds names, offsets
    and paths, no open connection.

    Attributes:
        uris: where it came from, redacted, as `mae_skill.spelling.spelled` writes it.
        members: relative names of the images as they are, sorted within each source.
        digest: sha256 that identifies the data: names, sizes and checksums (archives) or times of
            change (folders).
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        import numpy as np

        self._parts = list(parts)
        self._ends = np.cumsum([len(part.names) for part in parts], dtype=np.int64)
        self.uris = [spelled(part.uri) for part in parts]
        self.digest = hashlib.sha256("\n".join(part.digest for part in parts).encode()).hexdigest()
        self._labeled: tuple[list[str], np.ndarray[Any, Any]] | None = None
        self._classes_of_parts: list[list[str]] = []

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _locate(self, index: int) -> tuple[_Part, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(self._ends.searchsorted(index, side="right"))
        return self._parts[number], index - (int(self._ends[number - 1]) if number else 0)

    @property
    def members(self) -> Sequence[str]:
        """Relative names of the images."""
        return self._parts[0].names if len(self._parts) == 1 else _Joined(self)

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image.

        Raises:
            StorageError: it vanished or the cached copy is damaged.
        """
        part, inner = self._locate(index)
        return part.read(inner)

    def size(self, index: int) -> int:
        """Its length in bytes."""
        part, inner = self._locate(index)
        return part.size(inner)

    @property
    def sizes(self) -> np.ndarray[Any, Any]:
        """int64 [len(self)]: bytes of each image."""
        import numpy as np

        return np.concatenate([part.sizes for part in self._parts])

    @property
    def has_checksums(self) -> bool:
        """Whether every image's checksum is known without reading it."""
        return all(part.checksums is not None for part in self._parts)

    @property
    def keys(self) -> np.ndarray[Any, Any]:
        """uint64 [len(self)]: size and checksum of each image in one number, which tells images
        apart; of sources without checksums the sizes."""
        import numpy as np

        if not self.has_checksums:
            return self.sizes
        sums = np.concatenate(
            [part.checksums for part in self._parts if part.checksums is not None]
        )
        keys: np.ndarray[Any, Any] = self.sizes.astype(np.uint64) << np.uint64(32)
        return keys | sums.astype(np.uint64)

    def path(self, index: int) -> str:
        """A name a person can find it by: ``source/member``, as `mae_skill.spelling.spelled` writes
        it (`mae_skill.spelling.original` gives the name itself)."""
        part, inner = self._locate(index)
        return spelled(f"{part.uri.rstrip('/')}/{part.names[inner]}")

    several = False
    """Whether a picture may be of several classes, or of none."""

    def label(self, known: Sequence[str] | None = None) -> tuple[list[str], np.ndarray[Any, Any]]:
        """Classes (sorted, or ``known``) and int64 labels [len(self)], -1 = unlabeled; see
        `mae_sdk.data.labels.class_labels`.

        Raises:
            DataError: a folder is not among ``known``.
        """
        import numpy as np

        wrappers = wrappers_of(self._foldered, known or ())
        found = [
            part.given.label(known)
            if part.given
            else class_labels(part.names, known, wrapper=wrapper)
            for part, wrapper in zip(self._parts, wrappers, strict=True)
        ]
        if known is not None:
            return list(known), np.concatenate([labels for _, labels in found])

        self._classes_of_parts = [listed for listed, _ in found]
        classes = sorted({name for listed, _ in found for name in listed})
        place = {name: i for i, name in enumerate(classes)}
        labels = [
            np.array([*(place[n] for n in listed), -1], dtype=np.int64)[values]
            for listed, values in found
        ]
        return classes, np.concatenate(labels)

    def classes_of_parts(self) -> dict[str, list[str]]:
        """Source → the classes that it has, of a list of sources."""
        if len(self._parts) < 2 or not self.classes:
            return {}
        return dict(zip(self.uris, self._classes_of_parts, strict=True))

    @property
    def _foldered(self) -> list[Sequence[str]]:
        """The names of each part; none where its classes are not those of its folders."""
        return [() if part.given else part.names for part in self._parts]

    @property
    def labels_from(self) -> dict[str, int]:
        """Suffix of the files that give pictures their classes → pictures that have one so."""
        found: dict[str, int] = {}
        for part in self._parts:
            if part.given:
                count = int((part.given.values >= 0).sum())
                found[part.given.kind] = found.get(part.given.kind, 0) + count
        return found

    def labels_differ(self) -> dict[str, Any]:
        """What gives pictures another class than the files that are read, ``.json`` or ``folders``
        → ``{"count", "files"}``."""
        found: dict[str, Some] = {}
        first = 0
        for part in self._parts:
            for kind, places in (part.given.others if part.given else {}).items():
                for place in places:
                    found.setdefault(kind, Some()).add(self.path(first + place))
            first += len(part.names)
        return {kind: some.to_dict() for kind, some in found.items()}

    @property
    def wrapper(self) -> str:
        """The folders around every image, where there is one source."""
        return wrapper_of(self._parts[0].names) if len(self._parts) == 1 else ""

    def same_folders(self) -> list[str]:
        """The folders that every class holds; see `mae_sdk.data.labels.same_folders`."""
        names = self._foldered
        return same_folders(names[0], self.wrapper) if len(names) == 1 and len(names[0]) else []

    def nested(self) -> dict[str, Any]:
        """The images below the class folders; see `mae_sdk.data.labels.nested_folders`."""
        parts = zip(self._foldered, wrappers_of(self._foldered), strict=True)
        return nested_folders([(names, wrapper) for names, wrapper in parts if len(names)])

    def parts_below(self) -> dict[str, list[str]]:
        """Parts of a data set below the class folders; see `mae_sdk.data.labels.parts_below`."""
        parts = zip(self._foldered, wrappers_of(self._foldered), strict=True)
        return parts_below([(names, wrapper) for names, wrapper in parts if len(names)])

    def unknown_classes(self, known: Sequence[str]) -> dict[str, int]:
        """Class folders that are not among `known` → images in them."""
        found: dict[str, int] = {}
        names = self._foldered
        for number, wrapper in enumerate(wrappers_of(names, known)):
            given = self._parts[number].given
            strange = (
                given.unknown(known)
                if given
                else strange_folders(names[number], known, len(wrapper))
            )
            for folder, count in strange.items():
                found[folder] = found.get(folder, 0) + count
        return found

    def local_folders(self) -> list[tuple[Path, Sequence[str]]]:
        """The sources that are folders of this machine, each with the names of its images."""
        return [(part.root, part.names) for part in self._parts if isinstance(part, _Folder)]

    @property
    def left_out(self) -> list[LeftOut]:
        """What else there is, of each source."""
        return [part.left_out for part in self._parts]

    def missing_classes(self) -> dict[str, int]:
        """Folders beside the classes that hold no image that is read → pictures in them that are
        not."""
        found: dict[str, int] = {}
        for part, wrapper in zip(self._parts, wrappers_of(self._foldered), strict=True):
            if part.given:
                continue
            missing = missing_folders(part.left_out.folders, wrapper, self.classes)
            for name, count in missing.items():
                found[name] = found.get(name, 0) + count
        return found

    @property
    def classes(self) -> list[str]:
        """Class names that the folders spell, sorted; empty for flat sources."""
        return self._found()[0]

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        """int64 [len(self)], an index into `classes`, -1 = unlabeled."""
        return self._found()[1]

    def _found(self) -> tuple[list[str], np.ndarray[Any, Any]]:
        if self._labeled is None:
            self._labeled = self.label()
        return self._labeled


class _Joined(Sequence[str]):
    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, inner = self._source._locate(int(index) + (len(self) if index < 0 else 0))
        return part.names[inner]


class _Folder:
    """Images in a local folder, read in place.

    Args:
        root: the folder, or the one image in it that is meant.
        chosen: whether an image, by its name, is meant; None: all are.
    """

    given = None

    def __init__(self, root: Path, chosen: Callable[[str], bool] | None = None) -> None:
        import numpy as np

        walked = alone(root) if root.is_file() else walk(root)
        self.root = walked.root
        self.uri = str(self.root)
        self.left_out = walked.left_out
        if chosen is not None:  # what else is there was not asked for
            walked.files = [file for file in walked.files if chosen(file[0])]
            self.left_out = LeftOut()
        self.sizes = np.array([size for _, size, *_ in walked.files], dtype=np.int64)
        self.checksums: np.ndarray[Any, Any] | None = None
        self.names = Names.of(name for name, *_ in walked.files)
        digest = hashlib.sha256()
        for name, size, stamp, _ in walked.files:
            digest.update(f"{name}\0{size}\0{stamp}\n".encode("utf-8", "surrogateescape"))
        self.digest = digest.hexdigest()

    def read(self, index: int) -> bytes:
        path = self._path(index)
        try:
            with open(path, "rb") as stream:  # `Path` takes no bytes
                return stream.read()
        except (PermissionError, IsADirectoryError) as error:
            raise DataError(
                f"cannot be read: {error.strerror}",
                got=spelled(os.fsdecode(path)),
                expected="a file that this user may read",
                hint="mend its rights, or take it out of the source",
            ) from error
        except OSError as error:
            raise StorageError(
                f"cannot read {shown(os.fsdecode(path))}: {error.strerror}",
                got=spelled(os.fsdecode(path)),
            ) from error

    def size(self, index: int) -> int:
        return os.stat(self._path(index)).st_size  # noqa: PTH116

    def _path(self, index: int) -> bytes:
        """A file's path as the bytes that it is, whatever the locale."""
        return os.fsencode(self.root) + b"/" + encoded(self.names[index])


class _Packed:
    """Images of a cache entry; its other files are skipped."""

    def __init__(self, uri: str, pack: Any) -> None:
        import numpy as np

        self.uri = urls.redact(uri)
        self._pack = pack
        images = np.fromiter((is_image(name) for name in pack.names), bool, len(pack.names))
        self._beside: dict[str, list[int]] = {}
        if pack.is_archive:
            self._beside, parts = beside(pack.names, np.flatnonzero(images).tolist())
            if parts:
                kept = ~np.isin(np.flatnonzero(images), parts)
                self._beside = {
                    kind: np.array(rows)[kept].tolist() for kind, rows in self._beside.items()
                }
                images[parts] = False
            if self._are_boxes(self._beside.get(".txt", ())):
                del self._beside[".txt"]
        self._rows = np.flatnonzero(images)
        self.sizes = pack.sizes[self._rows].astype(np.int64)
        self.checksums: np.ndarray[Any, Any] | None = pack.checksums[self._rows]
        whole = len(self._rows) == len(pack.names)
        self.names = pack.names if whole else Names.of(pack.names[int(i)] for i in self._rows)
        self.digest = pack.index["digest"]
        used = {row for kind in self._beside.values() for row in kind}
        self.left_out = self._others([i for i in np.flatnonzero(~images).tolist() if i not in used])

    @cached_property
    def given(self) -> Given | None:
        """The classes that files beside the images give."""
        found = read_classes(self._beside, self._pack.read, self.names, self._pack.names)
        if found is not None and urls.is_table(self.uri):
            return replace(found, kind="table")
        return found

    def _are_boxes(self, rows: Sequence[int]) -> bool:
        """Whether files beside the images are lines of a detector, and no classes: all of the
        first ones that hold something."""
        heads = [self._head(i) for i in [row for row in rows if row >= 0][:MAX_LABELS]]
        kinds = [detector_labels("1.txt", head) for head in heads if head.strip()]
        return bool(kinds) and None not in kinds

    def _others(self, rows: list[int]) -> LeftOut:
        """The files that are no images: these rows of the pack, and those of a prefix that were not
        fetched."""
        left = LeftOut()
        for i in rows:
            left.add_file(self._pack.names[i], partial(self._head, i))
        for name in self._pack.not_fetched:
            left.add_file(name)
        for name in self._pack.index.get("dangling", ()):
            left.add_dangling(name)
        for name in self._pack.index.get("loops", ()):
            left.loops.add(name)
        for column in self._pack.index.get("unread", ()):
            left.columns.add(str(column))
        for column in self._pack.index.get("class_columns", ()):
            left.class_columns.add(str(column))
        for name in self._pack.index.get("empty", ()):
            left.folders.setdefault(original(name), 0)
        self._find_twins(left)
        if left.folders:
            for folder in {name.rpartition("/")[0] for name in self.names}:
                left.folders.pop(folder, None)
        return left

    def _find_twins(self, left: LeftOut) -> None:
        """Links to members are read as they are in a folder, and counted as there."""
        import numpy as np

        offsets, sizes = self._pack.offsets[self._rows], self._pack.sizes[self._rows]
        order = np.lexsort((np.arange(len(offsets)), offsets))
        order = order[sizes[order] > 0]
        first = 0
        for place in range(1, len(order)):
            if offsets[order[place]] != offsets[order[first]]:
                first = place
                continue
            left.twins.add(f"{self.names[order[place]]} = {self.names[order[first]]}")

    def _head(self, row: int) -> bytes:
        head: bytes = self._pack.head(row, HEAD)
        return head

    def read(self, index: int) -> bytes:
        data: bytes = self._pack.read(int(self._rows[index]))
        return data

    def size(self, index: int) -> int:
        return int(self._pack.sizes[self._rows[index]])


def open_source(
    uri: str | os.PathLike[str] | Sequence[str],
    cache_dir: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
) -> Source:
    """Open a data source, or a list of them as one.

    Args:
        uri: a folder, an archive (``.tar .tar.gz .tgz .tar.zst .tar.xz .tar.bz2 .zip``, any case),
            a table of pictures (``.parquet .arrow``) or a folder of them, any of these behind an
            fsspec URL, a pattern of these or of pictures (`mae_sdk.data.patterns`), or a list.
        cache_dir: where archives and remote sources are kept; see `mae_sdk.data.cache.cache_dir`.
        limits: bounds on what an archive may ask for.

    Raises:
        DataError: missing, empty, without images, hostile or corrupt. An empty source never means
            "everything".
        StorageError: the network or the store failed.
    """
    uris = (
        [os.fspath(uri)] if isinstance(uri, (str, os.PathLike)) else [os.fspath(one) for one in uri]
    )
    if not uris or not all(one.strip() for one in uris):
        raise DataError(
            "the data source is empty",
            got=uri if isinstance(uri, str) else list(uris),
            expected="a path or URL, or a list of them",
            hint="name a folder of images, an archive, or a pattern of them",
        )

    places = [place for one in uris for place in expand(one)]
    _allow_files(4 * len(places))
    return Source([part for one in places for part in _open_one(one, cache_dir, limits)])


def _allow_files(count: int) -> None:
    """Ask the system for so many more open files than by default, as far as it lets."""
    if count < 512:
        return
    try:
        import resource
    except ImportError:  # Windows, which has no such bound
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1024 if hard == resource.RLIM_INFINITY else min(hard, count + 1024)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open_one(uri: str, cache_dir: Any, limits: Limits | None) -> list[_Part]:
    """A source; of a folder or prefix of tables, each of them."""
    part: _Part
    where = urls.redact(uri)
    local = None if urls.is_remote(uri) else urls.local_path(uri)
    if is_pattern(uri):
        return [_open_chosen(uri, cache_dir, limits)]
    if local is not None and local.is_dir():
        part = _Folder(local)
    elif local is not None and not local.exists():
        raise DataError(
            f"there is no data source at {where}",
            got=where,
            expected="a folder, an archive, or a URL of one",
            hint="check the path",
        )
    elif local is not None and not local.is_file():
        raise DataError(
            f"{where} is a device or a pipe",
            got=where,
            expected="a folder, or an archive that is a file",
            hint="write what comes from it to a file, and name that",
        )
    elif local is not None and ends_as_image(uri):
        part = _Folder(local)
    elif local is not None and not is_archive(uri):
        raise DataError(
            f"{where} is neither a folder nor an archive",
            got=where,
            expected="a folder, .tar, .tar.gz, .tgz, .tar.zst, .tar.xz, .tar.bz2, .zip, .parquet "
            "or .arrow",
            hint="name the folder that the file lies in, or pack it into an archive",
        )
    else:
        from mae_sdk.data.cache import NoImages, pack_of

        try:
            part = _Packed(uri, pack_of(uri, cache_dir, limits, images_only=True))
        except NoImages as error:
            if tables := tables_of(uri, error.names):
                return [part for one in tables for part in _open_one(one, cache_dir, limits)]
            left = LeftOut()
            for name in error.names:
                left.add_file(name)
            raise DataError(
                error.message,
                got=left.there() or error.got,
                expected=error.expected,
                hint=error.hint or "name the folder or archive that holds the images",
            ) from None

    if not len(part.names) and local is not None and part.left_out.suffixes:
        names = [str(path.relative_to(local)) for path in local.rglob("*")]
        if tables := tables_of(uri, names):
            return [part for one in tables for part in _open_one(one, cache_dir, limits)]
    if not len(part.names):
        inside = (
            sorted(path.name for path in local.iterdir() if urls.is_archive(path.name))
            if local is not None and local.is_dir()
            else []
        )
        hint = "name the folder or archive that holds the images"
        if part.left_out.pictures.count and "no suffix" in part.left_out.suffixes:
            hint = "give pictures the suffix of their format (.png, .jpg), or " + hint
        if inside:
            hint = name_archives(where, inside)
        if not inside and (lost := part.left_out.dangling).count:
            hint = f"{lost.count} links lead nowhere: fetch what they point to: {lost.files[0]}"
        expected = f"files ending in {' '.join(IMAGE_SUFFIXES)}, in any case"
        got = part.left_out.there() or where
        raise DataError(f"{where} holds no images", got=got, expected=expected, hint=hint)

    return [part]


def _open_chosen(uri: str, cache_dir: Any, limits: Limits | None) -> _Part:
    """The pictures that a pattern stands for."""
    chosen = Chosen(uri)
    part: _Part
    if urls.is_remote(uri):
        from mae_sdk.data.cache import pack_of

        pack = pack_of(chosen.root, cache_dir, limits, images_only=True, chosen=chosen)
        part = _Packed(chosen.root.rstrip("/"), pack)
        part.left_out = LeftOut()
    else:
        part = _Folder(urls.local_path(chosen.root), chosen)
    if not len(part.names):
        raise nothing(uri)
    return part
