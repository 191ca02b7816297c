"""Labels beside the pictures of an archive: WebDataset shards, ``KEY.jpg`` with ``KEY.cls``,
``KEY.json`` or ``KEY.txt``.

An archive is such a shard by its pairs. ``.cls`` holds a class, whatever folders there are.
Where the pictures lie in no folders that part them, ``.json`` holds one in one of its `FIELDS`,
and ``.txt`` is one. Texts of which most stand once are captions, and no classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mae_skill.errors import DataError
from mae_skill.spelling import spelled

from mae_sdk.data.labels import unknown_classes, wrapper_of
from mae_sdk.data.names import class_name, same

if TYPE_CHECKING:
    import numpy as np

FIELDS = ("label", "class", "class_name", "category", "target", "cls", "label_name", "class_id")
"""Fields of ``.json`` that hold a class, in the order in which they are looked for."""

KINDS = (".cls", ".json", ".txt")
LONGEST = 200
"""Characters of a text that may be a class."""

COMPARED = 2000
"""Pictures of which two sources of a class are compared."""

CAPTIONS_FROM = 10
"""Texts below which they are not taken for captions."""


@dataclass(frozen=True)
class Given:
    """Classes of pictures that files beside them give.

    Attributes:
        kind: suffix of these files.
        classes: sorted.
        values: int64 [n], an index into `classes`, -1 = none.
        others: what else gives classes, ``.json`` or ``folders`` → places of pictures to which it
            gives another, of those that were compared.
    """

    kind: str
    classes: list[str]
    values: np.ndarray[Any, Any]
    others: Mapping[str, list[int]] = field(default_factory=dict)

    def label(self, known: Sequence[str] | None) -> tuple[list[str], np.ndarray[Any, Any]]:
        """As `mae_sdk.data.labels.class_labels`.

        Raises:
            DataError: a class is not among ``known``.
        """
        import numpy as np

        if known is None:
            return self.classes, self.values
        if strange := self.unknown(known):
            raise unknown_classes(strange, len(known))
        place = {same(name): number for number, name in enumerate(known)}
        numbers = [*(place[name] for name in self.classes), -1]
        return list(known), np.array(numbers, dtype=np.int64)[self.values]

    def unknown(self, known: Sequence[str]) -> dict[str, int]:
        """Classes that are not among ``known`` → pictures of them."""
        import numpy as np

        names = {same(name) for name in known}
        counts = np.bincount(self.values[self.values >= 0], minlength=len(self.classes))
        return {
            name: int(count)
            for name, count in zip(self.classes, counts, strict=True)
            if name not in names
        }


def beside(names: Sequence[str], images: Sequence[int]) -> tuple[dict[str, list[int]], list[int]]:
    """The files that belong to pictures, by their names alone.

    Args:
        names: of all files of an archive.
        images: which of them are pictures.

    Returns:
        Suffix → for each picture the file of that suffix, -1 = none; of those suffixes that any
        has. And the pictures that are parts of a sample: ``KEY.seg.png`` beside ``KEY.jpg``.
    """
    files: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    for number, name in enumerate(names):
        kind = name[name.rfind(".") :].lower()
        if kind in files:
            files[kind][name[: -len(kind)]] = number
    if not any(files.values()):
        return {}, []

    stems = [names[place].rpartition(".")[0] for place in images]
    whole = set(stems)
    found: dict[str, list[int]] = {}
    parts: list[int] = []
    for place, stem in zip(images, stems, strict=True):
        key = _key(stem)
        mine = {kind: table.get(stem, table.get(key, -1)) for kind, table in files.items()}
        if key != stem and key in whole and not any(stem in table for table in files.values()):
            parts.append(place)
            mine = dict.fromkeys(mine, -1)
        for kind, file in mine.items():
            found.setdefault(kind, []).append(file)
    return {kind: rows for kind, rows in found.items() if max(rows) >= 0}, parts


def _key(stem: str) -> str:
    """A path up to the first dot of its last part, as WebDataset takes it."""
    folder, slash, last = stem.rpartition("/")
    return folder + slash + last.partition(".")[0]


def read_classes(
    rows: dict[str, list[int]],
    read: Callable[[int], bytes],
    pictures: Sequence[str],
    names: Sequence[str],
) -> Given | None:
    """The classes that files beside pictures give; None where they give none.

    Args:
        rows: as `beside` gives them, for each of ``pictures``.
        read: the content of a file, by its number.
        pictures: the names of the pictures.
        names: the names of all files.

    Raises:
        DataError: a ``.cls`` holds no class.
    """
    wrapper = len(wrapper_of(pictures))
    if ".cls" in rows:
        found = [_class(read(i), names[i]) if i >= 0 else "" for i in rows[".cls"]]
        step = max(1, len(found) // COMPARED)
        json_rows = rows.get(".json", [])
        looked = range(0, len(found), step)
        others = {
            ".json": {
                i: _field(read(json_rows[i])) for i in looked if json_rows and json_rows[i] >= 0
            },
            "folders": {i: _folder(pictures[i][wrapper:]) for i in looked},
        }
        differ = {kind: _contradictions(found, named) for kind, named in others.items()}
        return replace(_given(".cls", found), others={k: v for k, v in differ.items() if v})
    if any("/" in name[wrapper:] for name in pictures):
        return None
    if ".json" in rows:
        found = [_field(read(i)) if i >= 0 else "" for i in rows[".json"]]
        if any(found):
            return _given(".json", found)
    if ".txt" in rows:
        found = [_line(read(i)) if i >= 0 else "" for i in rows[".txt"]]
        times = Counter(text for text in found if text)
        if times and (len(times) < CAPTIONS_FROM or 2 * len(times) <= sum(times.values())):
            return _given(".txt", found)
    return None


def _folder(path: str) -> str:
    """The class that the folder of a picture spells; empty where it is in none."""
    head, slash, _ = path.partition("/")
    return class_name(head) if slash else ""


def _contradictions(found: Sequence[str], named: Mapping[int, str]) -> list[int]:
    """The places to which something else gives another class.

    The names count where both have some in common; else what each name mostly stands for, since one
    may number what the other names. Where that holds for no half of the pictures, it is no class.
    """
    pairs = [(i, found[i], name) for i, name in named.items() if found[i] and name]
    if {mine for _, mine, _ in pairs} & {other for *_, other in pairs}:
        return [i for i, mine, other in pairs if mine != other]
    times: dict[str, Counter[str]] = {}
    for _, mine, other in pairs:
        times.setdefault(mine, Counter())[other] += 1
    meant = {mine: counts.most_common(1)[0][0] for mine, counts in times.items()}
    wrong = [i for i, mine, other in pairs if meant[mine] != other]
    return wrong if len(set(meant.values())) == len(meant) and 2 * len(wrong) < len(pairs) else []


def _given(kind: str, found: list[str]) -> Given:
    import numpy as np

    classes = sorted({*found} - {""})
    place = {name: number for number, name in enumerate(classes)} | {"": -1}
    return Given(kind, classes, np.array([place[name] for name in found], dtype=np.int64))


def _class(data: bytes, name: str) -> str:
    text = _line(data)
    if not text:
        raise DataError(
            "a .cls file holds no class",
            got=f"{spelled(name)}: {data[:40]!r}",
            expected="one line: the class, or its number",
        )
    return text


def _line(data: bytes) -> str:
    """A text of one line as a class; empty where it is none."""
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return ""
    return "" if len(text) > LONGEST or len(text.splitlines()) > 1 else class_name(text)


def _field(data: bytes) -> str:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    value = next((found[name] for name in FIELDS if found.get(name) is not None), None)
    return class_name(str(value).strip()) if isinstance(value, (str, int)) else ""
