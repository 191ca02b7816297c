"""Images and the masks that belong to them: one folder or archive with both, or a mask source for
every image source.

An image and its mask have the same path but for the suffix, relative to their sources (wrapper
folders around everything do not count); where no mask has the path of an image, all of them may
have one and the same word before or after the name of it (``a.jpg``, ``a_mask.png``).

Without mask sources there are two layouts: ``images/`` and ``annotations/`` inside one source,
either split into ``training/`` and ``validation/`` (ADE20K) or not; or a source
that is itself ``…/images[/…]``, its masks in ``…/annotations[/…]``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mae_skill.errors import DataError, MaeError
from mae_skill.spelling import and_more, one_line, shown, spelled

from mae_sdk.data.detection import as_boxes
from mae_sdk.data.label_file import chosen_parts
from mae_sdk.data.left_out import FEW, Some
from mae_sdk.data.names import same
from mae_sdk.data.patterns import expand
from mae_sdk.data.source import Source, open_source
from mae_sdk.data.survey import content_digest
from mae_sdk.storage import urls

if TYPE_CHECKING:
    import numpy as np

IMAGES, MASKS = "images", "annotations"
SPLITS = {"train": ("training", "train"), "val": ("validation", "val"), "test": ("testing", "test")}
ASKED = 20
"""Images whose masks are looked for by a word in their names."""
Given = str | os.PathLike[str] | Sequence[str]


class _Part(NamedTuple):
    """A source of images with its masks.

    Attributes:
        rows: int64 [n, 2]: image, mask (-1 = none).
        spare: masks that belong to no image.
        word: what masks have before or after the names of their images, as ``mask_*`` or
            ``*_mask``; empty: nothing.
    """

    images: Source
    masks: Source | None
    rows: np.ndarray[Any, Any]
    spare: list[int]
    word: str = ""


class Pairs(Sequence[str]):
    """Images with their masks, by index. Fork- and pickle-safe.

    Attributes:
        members: relative names of the images.
        masked: int, how many images have a mask.
        digest: sha256 that identifies images, masks and what belongs to what.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        import numpy as np

        self._parts = [(part.images, part.masks) for part in parts]
        self._spare = [part.spare for part in parts]
        self._words = list(dict.fromkeys(part.word for part in parts if part.word))
        rows = [np.insert(part.rows, 0, number, axis=1) for number, part in enumerate(parts)]
        self._rows: np.ndarray[Any, Any] = np.concatenate(rows)  # part, image, mask (-1 = none)
        self.masked = int((self._rows[:, 2] >= 0).sum())
        digests = [
            f"{images.digest} {masks.digest if masks else '-'}" for images, masks in self._parts
        ]
        digests.append(hashlib.sha256(self._rows.tobytes()).hexdigest())
        self.digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        images, image, _, _ = self._locate(index)
        return images.members[image]

    def _locate(self, index: int) -> tuple[Source, int, Source | None, int]:
        part, image, mask = (int(value) for value in self._rows[index])
        images, masks = self._parts[part]
        return images, image, None if mask < 0 else masks, mask

    @property
    def members(self) -> Sequence[str]:
        """Relative names of the images."""
        return self

    @property
    def sources(self) -> list[Source]:
        """Where the images come from."""
        return [images for images, _ in self._parts]

    @property
    def has_checksums(self) -> bool:
        """As `Source.has_checksums`."""
        return all(images.has_checksums for images in self.sources)

    @property
    def sizes(self) -> np.ndarray[Any, Any]:
        """int64 [len(self)]: bytes of each image."""
        return self._of_images([images.sizes for images in self.sources])

    @property
    def keys(self) -> np.ndarray[Any, Any]:
        """As `Source.keys`."""
        return self._of_images([images.keys for images in self.sources])

    def _of_images(self, columns: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        import numpy as np

        return np.array([columns[part][image] for part, image, _ in self._rows.tolist()])

    def read(self, index: int) -> bytes:
        """The encoded bytes of an image."""
        images, image, _, _ = self._locate(index)
        return images.read(image)

    def read_mask(self, index: int) -> bytes | None:
        """The encoded bytes of its mask; None where it has none."""
        _, _, masks, mask = self._locate(index)
        return None if masks is None else masks.read(mask)

    def mask_digest(self) -> str:
        """What tells these masks from others of the same names; see `content_digest`."""
        columns = [[] if masks is None else masks.sizes.tolist() for _, masks in self._parts]
        sizes = [-1 if mask < 0 else columns[part][mask] for part, _, mask in self._rows.tolist()]
        return content_digest(sizes, self.read_mask)

    def path(self, index: int) -> str:
        """``source/member`` of an image."""
        images, image, _, _ = self._locate(index)
        return images.path(image)

    def spare_masks(self) -> dict[str, Any]:
        """``{"count", "files"}`` of the masks that belong to no image; empty where there are
        none."""
        found = Some()
        for (_, masks), places in zip(self._parts, self._spare, strict=True):
            if masks is not None:
                for place in places:
                    found.add(masks.path(place))
        return found.to_dict() if found.count else {}

    def mask_names(self) -> list[str]:
        """How masks are named that have a word more than their image: ``*_mask``, ``mask_*``; empty
        where they are named as the images are."""
        return self._words

    def shared_masks(self) -> dict[str, Any]:
        """``{"count", "pairs"}`` of the images that have a mask in common with one before them;
        empty where there are none."""
        first: dict[tuple[int, int], int] = {}
        pairs: list[list[str]] = []
        count = 0
        for place, (part, _, mask) in enumerate(self._rows.tolist()):
            other = first.setdefault((part, mask), place) if mask >= 0 else place
            if other != place:
                count += 1
                if len(pairs) < FEW:
                    pairs.append([self.path(other), self.path(place)])
        return {"count": count, "pairs": pairs} if count else {}

    def mask_path(self, index: int) -> str | None:
        """``source/member`` of its mask; None where it has none."""
        _, _, masks, mask = self._locate(index)
        return None if masks is None else masks.path(mask)


def open_pairs(
    images: Given,
    masks: Given | None = None,
    *,
    role: str,
    required: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Pairs:
    """Open image sources with their masks.

    Args:
        images: what `open_source` takes, or a list.
        masks: as many mask sources as image sources, in the same order; None: beside the images
            (see the module's text).
        role: ``train``, ``val`` or ``test``: which split of an ADE20K layout.
        required: refuse images without a mask; else they are taken too.

    Raises:
        DataError: a source is missing or empty, no masks are found, an image has none, or the
            numbers of sources differ.
        StorageError: a source could not be read.
    """
    places, beside = _listed(images), None if masks is None else _listed(masks)
    field = f"dataset.segmentation.{role}_mask_sources"
    if beside is not None and len(beside) != len(places):
        raise DataError(
            f"{len(places)} image sources and {len(beside)} mask sources",
            field=field,
            got=[urls.redact(one) for one in beside],
            expected="one mask source for each image source, in the same order",
            hint="name the masks of every source, as a list in the order of the images",
        )

    parts: list[_Part] = []
    for number, place in enumerate(places):
        source = open_source(place, cache_dir)
        if beside is not None:
            try:
                found = open_source(beside[number], cache_dir)
            except MaeError as error:
                error.field = field
                raise
            images_there = _images(source, place, role)[0]
            parts.append(_paired(source, found, images_there, _stems(found.members), role))
        else:
            parts.append(_beside(source, place, role, required, cache_dir))

    pairs = Pairs(parts)
    if required and pairs.masked < len(pairs):
        raise _unpaired(pairs, role)
    return pairs


def images_of(source: Source, place: str, role: str = "train") -> Source:
    """The images alone of a source that holds their masks beside them; else the source itself.

    Raises:
        DataError: it has other splits than the role's.
    """
    import numpy as np

    images, masks = _images(source, place, role)
    return Source(chosen_parts(source, np.array(sorted(images)))) if masks else source


def _beside(source: Source, place: str, role: str, required: bool, cache_dir: Any) -> _Part:
    """A source that names no masks: its own layout, the folder beside it, or none."""
    images, masks = _images(source, place, role)
    if masks:
        return _paired(source, source, images, masks, role)
    sibling = _sibling(place)
    if sibling is not None:
        try:
            found = open_source(sibling, cache_dir)
        except DataError:  # there is no such folder, or it is empty
            found = None
        if found is not None:
            return _paired(source, found, images, _stems(found.members), role)

    if required:
        raise DataError(
            f"no masks belong to {urls.redact(place)}",
            field=f"dataset.segmentation.{role}_mask_sources",
            got="null",
            expected=f"masks under {MASKS}/ beside {IMAGES}/ in the same folder or archive, "
            "or mask sources",
            hint=f"set dataset.segmentation.{role}_mask_sources to the folder or archive of the "
            "masks"
            + ("" if sibling is None else f"; there is none at {urls.redact(sibling)} either")
            + (f"; {boxes}" if (boxes := as_boxes(source)) else ""),
        )

    return _Part(source, None, _rows(images, {})[0], [])


def _paired(
    source: Source, masks: Source, images: dict[int, str], stems: dict[int, str], role: str
) -> _Part:
    """Images with their masks; masks of another split are not counted as spare."""
    rows, word = _rows(images, stems)
    used = set(rows[:, 1].tolist())
    others = {name for kind, names in SPLITS.items() if kind != role for name in names}
    spare = [
        place
        for place, stem in stems.items()
        if place not in used and not others.intersection(stem.split("/")[:-1])
    ]
    return _Part(source, masks, rows, spare, word)


def _images(source: Source, place: str, role: str) -> tuple[dict[int, str], dict[int, str]]:
    """Index → path without suffix of the images and of the masks that a source holds beside them.

    Where it has ``images/`` and ``annotations/``, paths are relative to these, and images are those
    of the role's split where there are splits. Elsewhere every file is an image.
    """
    names = list(source.members)
    skip = len(_wrapper(names, stop=(IMAGES, MASKS)))
    if not {IMAGES, MASKS} <= {name[skip:].partition("/")[0] for name in names}:
        return _stems(names), {}
    images: dict[int, str] = {}
    masks: dict[int, str] = {}
    for i, name in enumerate(names):
        top, _, rest = name[skip:].partition("/")
        if rest and top in (IMAGES, MASKS):
            (images if top == IMAGES else masks)[i] = _stem(rest)

    folders = {stem.partition("/")[0] for stem in images.values() if "/" in stem}
    known = folders & {name for split in SPLITS.values() for name in split}
    own = known & set(SPLITS[role])
    if known and not own:
        raise DataError(
            f"{urls.redact(place)} has no "
            f"{' or '.join(name + '/' for name in SPLITS[role])} under {IMAGES}/",
            got=sorted(known),
            expected=f"{IMAGES}/{SPLITS[role][0]}, or a source that names the split itself",
            hint=f"name the folder or archive of that split, or call it {SPLITS[role][0]}",
        )

    return {
        i: stem for i, stem in images.items() if not known or stem.partition("/")[0] in own
    }, masks


def _sibling(place: str) -> str | None:
    """``…/images/…`` → ``…/annotations/…`` (the last such folder); None for archives and where
    there is none."""
    if urls.is_archive(place):
        return None
    head, mark, query = place.partition("?")
    words = head.split("/")
    at = next((i for i in range(len(words) - 1, -1, -1) if words[i] == IMAGES), None)
    return None if at is None else "/".join([*words[:at], MASKS, *words[at + 1 :]]) + mark + query


def _rows(images: dict[int, str], masks: dict[int, str]) -> tuple[np.ndarray[Any, Any], str]:
    """int64 [n, 2]: image, mask (-1 = none), and what masks have in their names beside those of the
    images (`_Part.word`). Paths as they stand, or without the folders around everything, whichever
    fits more; where none fits, with one and the same word in the name of each mask.

    Raises:
        DataError: two masks have an image's path.
    """
    import numpy as np

    found, word = _matches(list(images.values()), masks), ""
    if -1 in found:
        cut, short = len(_wrapper(list(images.values()))), len(_wrapper(list(masks.values())))
        plain, bare = [stem[cut:] for stem in images.values()], _cut(masks, short)
        again = _matches(plain, bare)
        found = again if again.count(-1) < found.count(-1) else found
        if masks and found.count(-1) == len(found) and len(words := _words(plain, bare)) == 1:
            word = words[0]
            found = _matches([_renamed(stem, word) for stem in plain], bare)

    return np.array([*zip(images, found, strict=True)], dtype=np.int64).reshape(-1, 2), word


def _cut(stems: dict[int, str], count: int) -> dict[int, str]:
    return {i: stem[count:] for i, stem in stems.items()}


def _words(images: Sequence[str], masks: dict[int, str]) -> list[str]:
    """The words that masks of most images have before or after their names; each as ``*_mask`` or
    ``mask_*``."""
    folders: dict[str, list[str]] = {}
    for stem in masks.values():
        folder, _, name = stem.rpartition("/")
        folders.setdefault(folder, []).append(name)
    words: dict[str, None] = {}
    for stem in images[:: -(-len(images) // ASKED)]:
        folder, _, name = stem.rpartition("/")
        for other in folders.get(folder, ()):
            before, among, after = other.partition(name)
            beside = before[-1:] or after[:1]
            if among and not (before and after) and beside and not beside.isdigit():
                words[f"{before}*{after}"] = None  # a digit beside is another picture: 1 and 10
    there = set(masks.values())
    return [
        word
        for word in words
        if 2 * sum(_renamed(stem, word) in there for stem in images) > len(images)
    ]


def _renamed(stem: str, word: str) -> str:
    """The path of an image with the word in its name."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + word.replace("*", name)


def _matches(images: list[str], masks: dict[int, str]) -> list[int]:
    """The mask of each image, -1 = none: that of its very path, else of the same path in another
    Unicode form (macOS writes NFD).

    Raises:
        DataError: two masks have an image's path, or two images a mask's in two forms.
    """
    exact: dict[str, list[int]] = {}
    alike: dict[str, list[int]] = {}
    for i, stem in masks.items():
        exact.setdefault(stem, []).append(i)
        alike.setdefault(same(stem), []).append(i)

    found = []
    taken: dict[int, str] = {}
    for stem in images:
        theirs = exact.get(stem) or alike.get(same(stem), [])
        if len(theirs) > 1:
            forms = len({masks[i] for i in theirs}) > 1
            raise DataError(
                f"two masks have the path {shown(stem)}, without the suffix"
                + (", written in two Unicode forms (NFC and NFD)" if forms else ""),
                got=spelled(stem),
                expected="one mask for an image",
                hint="delete or rename one of the two",
            )
        if theirs and taken.setdefault(theirs[0], stem) != stem:
            raise DataError(
                f"two images have the path {shown(stem)}, without the suffix, written in two "
                "Unicode forms (NFC and NFD), and one mask belongs to both",
                got=spelled(stem),
                expected="each image once",
                hint="delete or rename one of the two",
            )
        found.append(theirs[0] if theirs else -1)
    return found


def _wrapper(names: Sequence[str], stop: Sequence[str] = ()) -> str:
    """The folders around every name, with their ``/``; none of ``stop`` is among them."""
    common = ""
    while names:
        head, slash, _ = names[0][len(common) :].partition("/")
        longer = common + head + slash
        if not slash or head in stop or not all(name.startswith(longer) for name in names):
            break
        common = longer
    return common


def _stem(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.rpartition(".")[0]


def _stems(names: Sequence[str]) -> dict[int, str]:
    return {i: _stem(name) for i, name in enumerate(names)}


def _listed(given: Given) -> list[str]:
    listed = [given] if isinstance(given, (str, os.PathLike)) else given
    return [place for one in listed for place in expand(os.fspath(one))]


def _unpaired(pairs: Pairs, role: str) -> DataError:
    bare = [i for i in range(len(pairs)) if pairs.mask_path(i) is None]
    spare = pairs.spare_masks().get("files") or []
    near = (
        f"; masks that belong to no image are {and_more([one_line(one) for one in spare], 2)}: "
        "name each as its image"
        if spare
        else ""
    )
    listed = and_more([one_line(pairs.path(i)) for i in bare], 5)
    return DataError(
        f"{len(bare)} of {len(pairs)} images have no mask: {listed}",
        field=f"dataset.segmentation.{role}_mask_sources",
        got=len(bare),
        expected="a mask for each image: the same relative path, any suffix",
        hint=f"add the masks, or take these images out{near}",
    )
