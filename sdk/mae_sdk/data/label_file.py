"""Classes of pictures from a table beside them, instead of from their folders.

A table is CSV, TSV, JSON lines or Parquet, here or behind a URL, with a column for the path of a
picture, one for its class, and where it serves several parts of a data set one for the part.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mae_skill.errors import DataError, MaeError
from mae_skill.spelling import spelled

from mae_sdk.data.labels import unknown_classes, wrapper_of
from mae_sdk.data.left_out import LeftOut, Some
from mae_sdk.data.names import Names, class_name, is_image, same
from mae_sdk.data.parts import split_of
from mae_sdk.data.source import Source
from mae_sdk.data.table_file import KEYS, PATH, read_rows
from mae_sdk.data.tables import MAY_BE_CLASS, SPLIT
from mae_sdk.storage import urls

if TYPE_CHECKING:
    import numpy as np

LABEL = ("label", "class", "class_name", "category", "target")
LABELS = ("labels", "classes", "class_names", "categories", "targets")
PART = frozenset(
    ["is_train", "is_training", "is_valid", "is_val", "is_validation", "is_test", "fold"]
)
"""Names of columns that tell the parts of a data set too, and are not read as such."""
BETWEEN = "|"
"""Between the labels of a picture that has several."""
OTHERS = (";", ",")
"""What stands between them too, in a table without `BETWEEN` that shows that it does."""

MOST_NUMBERS = 10
"""Different numbers up to which a column of any name may hold classes."""

Row = tuple[str, tuple[str, ...]]
"""Path of a picture, and its classes."""


class LabelTable(NamedTuple):
    """A table, and how it is read.

    Attributes:
        file: a path or URL; None: no table.
        split: ``train``, ``val`` or ``test``: the rows that count where the table has a column for
            it.
        several: a picture may be of several classes, or of none.
        columns: the columns of 0 and 1 that are the classes, or the one that holds them.
    """

    file: str | None
    split: str
    several: bool = False
    columns: Sequence[str] | None = None


def labeled(source: Source, table: LabelTable, *, keep: bool = False) -> LabeledSource:
    """Pictures with the classes of a table that has a file; see `LabeledSource`.

    What is wrong with the table is an error of its field.
    """
    file, split, several, columns = table
    assert file is not None
    try:
        return LabeledSource(source, file, split, several, columns, keep=keep)
    except MaeError as error:
        error.field = error.field or f"dataset.labels.{split}"
        raise


class LabeledSource(Source):
    """Pictures of a source with the classes that a table gives them.

    Args:
        source: all pictures.
        file: the table, a path or URL.
        split, several, columns: as of `LabelTable`.
        keep: keep pictures without a row, unlabeled; else they are left out. Pictures of another
            split are left out in any case.

    Attributes:
        table: ``{file, rows}``, and where there are any ``without_picture, without_row,
            without_label, without_split``, each ``{count, files}``: rows, pictures, rows and rows
            whose split is none that is known. ``by_name``: `_Elsewhere.by_name`. ``beside``:
            `Table.beside`. ``against_folders``: `_against_folders`. ``only_other``,
            ``part_by_values``, as of `Table`. With ``several``, ``labels``: the fewest and the most
            of a picture; ``empty`` cells that count as 0, ``no_flags``, ``unread``, ``odd_parts``
            and ``between``, as of `Table`;
            without it ``one_hot``.
        row_paths: the paths of the rows whose picture is there.
        several: a picture may be of several classes.

    Raises:
        DataError: the table is no table, lacks a column, is empty, gives a picture two classes, or
            no row of it matches a picture.
        StorageError: it could not be fetched.
    """

    def __init__(
        self,
        source: Source,
        file: str,
        split: str,
        several: bool = False,
        columns: Sequence[str] | None = None,
        *,
        keep: bool = False,
    ) -> None:
        import numpy as np

        where = spelled(urls.redact(file))
        self.several = several
        read = read_table(file, split, several, columns)
        self._named = read.classes
        matched = _matched(source, read, where, several)
        if not matched.labels and not (keep and read.rows and not matched.lost.count):
            if matched.bare.count and not matched.lost.count:
                raise DataError(
                    f"no row of {where} has a label",
                    got=f"{matched.bare.count} rows without one, such as {matched.bare.files[0]}",
                    expected=f"a class in the column {read.label}",
                    hint=f"fill in {read.label}, or leave out dataset.labels.{split} where the "
                    "folders are the classes",
                )
            raise DataError(
                f"no row of {where} names a picture of the source"
                + (
                    f" and has a label ({matched.bare.count} name one)"
                    if matched.bare.count
                    else ""
                ),
                got=matched.lost.files[:3],
                expected=f"paths such as {source.members[0]}, with a label",
                hint="write the paths as they are below the folder of pictures, or name the "
                "folder that they begin in as the source"
                + (
                    f"; they are those of the column {read.path}: call the one that names the "
                    f"pictures {PATH[0]}"
                    if read.path.strip().lower() in KEYS
                    else ""
                ),
            )

        found = matched.labels
        others = {place for path in read.others if (place := matched.find(path)) is not None}
        without = [i for i in range(len(source)) if i not in found and i not in others]
        unnamed = Some()
        for i in without:
            if i not in matched.bare_places:  # its row is there, and is counted as such
                unnamed.add(str(source.members[i]))
        chosen = sorted({*found, *without}) if keep else sorted(found)

        super().__init__(chosen_parts(source, np.array(chosen, dtype=np.int64)))
        self.row_paths = matched.row_paths
        self._given = [found.get(i, ()) for i in chosen]
        self.known = np.array([i in found for i in chosen], dtype=bool)
        self.digest = _digest(self.digest, self.members, map(BETWEEN.join, self._given))

        self.table = {"file": where, **_told(read, matched, unnamed, split)}
        if several:
            counts = [len(labels) for labels in found.values()]
            least, most = min(counts, default=0), max(counts, default=0)
            self.table["labels"] = {"min": least, "max": most, "none": counts.count(0)}
        elif against := _against_folders(source, found):
            self.table["against_folders"] = against

    def label(self, known: Sequence[str] | None = None) -> tuple[list[str], np.ndarray[Any, Any]]:
        """As in `Source`; the classes are those of the table. Of several labels it is the rarest
        that stands for the picture, where pictures are spread over classes or split by them."""
        import numpy as np

        if known is not None and (strange := self.unknown_classes(known)):
            raise unknown_classes(strange, len(known))
        counts = Counter(name for labels in self._given for name in labels)
        classes = sorted({*counts, *self._named}) if known is None else list(known)
        place = {same(name): i for i, name in enumerate(classes)}
        first = [
            place[min(labels, key=lambda name: (counts[name], name))] if labels else -1
            for labels in self._given
        ]
        return classes, np.array(first, dtype=np.int64)

    def targets(self, classes: Sequence[str]) -> np.ndarray[Any, Any]:
        """Whether a picture is of a class, 0 or 1: uint8 ``[len(self), len(classes)]``."""
        import numpy as np

        place = {same(name): i for i, name in enumerate(classes)}
        found = np.zeros((len(self), len(classes)), dtype=np.uint8)
        for row, labels in enumerate(self._given):
            found[row, [place[name] for name in labels]] = 1
        return found

    def unknown_classes(self, known: Sequence[str]) -> dict[str, int]:
        """Classes of the table that are not among `known` → pictures of them."""
        names = {same(name) for name in known}
        given = (name for labels in self._given for name in labels)
        return dict(Counter(name for name in given if name not in names))

    def missing_classes(self) -> dict[str, int]:
        """Folders are no classes here."""
        return {}

    def same_folders(self) -> list[str]:
        """Folders are no classes here."""
        return []

    def nested(self) -> dict[str, Any]:
        """Folders are no classes here."""
        return {}

    def labels_differ(self) -> dict[str, Any]:
        """Files beside the pictures give no classes here."""
        return {}

    def classes_of_parts(self) -> dict[str, list[str]]:
        """The table gives the classes of all parts."""
        return {}

    @property
    def labels_from(self) -> dict[str, int]:
        """Files beside the pictures give no classes here."""
        return {}

    @property
    def wrapper(self) -> str:
        """Folders are no classes here."""
        return ""


def _against_folders(source: Source, found: Mapping[int, tuple[str, ...]]) -> dict[str, Any]:
    """How many pictures lie in the folder of another class than their row says, where the classes
    of the rows are those of the folders; empty where none does."""
    try:
        folders, places = source.classes, source.labels
    except DataError:  # folders that give no classes contradict nothing
        return {}
    names = {same(name) for name in folders}
    if len(folders) < 2 or not {same(labels[0]) for labels in found.values() if labels} <= names:
        return {}
    others = [
        (place, labels[0])
        for place, labels in found.items()
        if labels and places[place] >= 0 and same(folders[places[place]]) != same(labels[0])
    ]
    if not others:
        return {}
    place, label = others[0]
    first = f"{source.members[place]}: {label}"
    return {"count": len(others), "of": len(found), "first": first}


class _Chosen:
    """Some pictures of a part, in their order."""

    def __init__(self, part: Any, rows: np.ndarray[Any, Any]) -> None:
        self._part, self._rows = part, rows
        self.uri: str = part.uri
        self.digest: str = part.digest
        self.left_out: LeftOut = part.left_out
        self.names = Names.of(part.names[int(i)] for i in rows)
        self.sizes = part.sizes[rows]
        self.checksums = None if part.checksums is None else part.checksums[rows]

    def read(self, index: int) -> bytes:
        data: bytes = self._part.read(int(self._rows[index]))
        return data

    def size(self, index: int) -> int:
        return int(self._part.size(int(self._rows[index])))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not there yet, while it is unpickled
            raise AttributeError(name)
        return getattr(self._part, name)


def chosen_parts(source: Source, rows: np.ndarray[Any, Any]) -> list[_Chosen]:
    """Some pictures of a source, int64 and sorted, as parts of another."""
    parts, first = [], 0
    for part in source._parts:
        last = first + len(part.names)
        mine = rows[(rows >= first) & (rows < last)] - first
        if len(mine):
            parts.append(_Chosen(part, mine))
        first = last
    return parts


class _Elsewhere(NamedTuple):
    """Rows whose path has folders in front that the source has not.

    Attributes:
        folders: the last of these folders → rows.
        left: paths of the rows that are of another folder than the source's own, where some are of
            it: their pictures have the same names, and are others.
    """

    folders: dict[str, int]
    left: set[str]

    def by_name(self, split: str) -> dict[str, int]:
        """Folder → rows, where pictures are found by the names of their files alone: the folders
        are several, or one that is named like another part of the data set than ``split``."""
        if self.left or not self.folders:
            return {}
        kinds = {split_of(folder) for folder in self.folders}
        other = kinds & {"train", "val", "test"} - {split}
        return self.folders if len(self.folders) > 1 or other else {}


@dataclass
class _Matched:
    """The rows of a table and the pictures that they name.

    Attributes:
        labels: place of a picture in its source → its labels.
        row_paths: the paths of the rows whose picture is there.
        lost: rows without a picture.
        bare: rows without a label; bare_places: the pictures that they name.
        by_name: `_Elsewhere.by_name` of a split.
        find: the place of a picture by its path.
    """

    find: Callable[[str], int | None]
    by_name: Callable[[str], dict[str, int]]
    labels: dict[int, tuple[str, ...]] = field(default_factory=dict)
    row_paths: set[str] = field(default_factory=set)
    lost: Some = field(default_factory=Some)
    bare: Some = field(default_factory=Some)
    bare_places: set[int] = field(default_factory=set)


def _matched(source: Source, read: Table, where: str, several: bool) -> _Matched:
    """The picture of each row; a picture whose rows contradict one another is an error."""
    index = _Index(source, where)
    places = [index.look(path) for path, _ in read.rows]
    paths = [path for path, _ in read.rows]
    elsewhere = _elsewhere(source, zip(paths, places, strict=True))
    matched = _Matched(index.find, elsewhere.by_name)
    found = matched.labels

    for (path, labels), (place, _) in zip(read.rows, places, strict=True):
        if place is None or path in elsewhere.left:
            matched.lost.add(path)
            continue
        matched.row_paths.add(path)
        if several and read.classes and found.setdefault(place, labels) != labels:
            raise DataError(
                "two rows of a picture say different labels",
                got=f"{path}: {_listed(found[place])}, and {_listed(labels)}",
                expected=f"one row for each picture in {where}, or rows that are alike",
                hint="delete the row that is wrong",
            )
        if several:
            found[place] = tuple(dict.fromkeys((*found.get(place, ()), *labels)))
        elif not labels:
            matched.bare.add(path)
            matched.bare_places.add(place)
        elif found.setdefault(place, labels) != labels:
            raise DataError(
                "a picture has two labels",
                got=f"{path}: {found[place][0]} and {labels[0]}",
                expected=f"one label for each picture in {where}",
                hint=SEVERAL,
            )
    return matched


def _told(read: Table, matched: _Matched, unnamed: Some, split: str) -> dict[str, Any]:
    """What `LabeledSource.table` says of the rows; a count of 0 is left out."""
    counts = {
        "without_picture": matched.lost,
        "without_label": matched.bare,
        "without_row": unnamed,
        "without_split": read.astray,
        "empty": read.empty,
    }
    others = {
        "by_name": matched.by_name(split),
        "beside": read.beside,
        "other_labels": read.other_labels,
        "no_flags": read.no_flags,
        "unread": read.unread,
        "one_hot": read.one_hot,
        "odd_parts": read.odd_parts,
        "only_other": read.only_other,
        "part_by_values": read.part_by_values,
        "between": read.between,
    }
    return {
        "rows": len(read.rows),
        **{name: some.to_dict() for name, some in counts.items() if some.count},
        **{name: told for name, told in others.items() if told},
    }


def _elsewhere(source: Source, found: Iterable[tuple[str, tuple[int | None, str]]]) -> _Elsewhere:
    """The rows that are found without some folders in front of their path."""
    own = {_name_of(part.uri) for part in source._parts}
    folder_of = {path: front.rpartition("/")[2] for path, (_, front) in found if front}
    if own.isdisjoint(folder_of.values()):
        return _Elsewhere(dict(Counter(folder_of.values())), set())
    return _Elsewhere({}, {path for path, folder in folder_of.items() if folder not in own})


def _name_of(uri: str) -> str:
    """What a folder or an archive is called."""
    name = same(str(uri).partition("?")[0].rstrip("/")).rpartition("/")[2]
    return name if "." not in name else name.partition(".")[0]


class _Index:
    """Where the picture is that a row names."""

    def __init__(self, source: Source, where: str) -> None:
        self._where = where
        self._places: dict[str, int] = {}
        self._twice: set[str] = set()
        for i, member in enumerate(source.members):
            self._add(same(member), i)
            self._add(same(member).rpartition(".")[0], i)
        wrapper = same(wrapper_of(source.members)) if len(source._parts) == 1 else ""
        for i, member in enumerate(source.members if wrapper else ()):
            short = same(member)[len(wrapper) :]
            self._add(short, i)
            self._add(short.rpartition(".")[0], i)

    def _add(self, name: str, place: int) -> None:
        if self._places.setdefault(name, place) != place:
            self._twice.add(name)

    def find(self, path: str) -> int | None:
        """As `look`, the place alone."""
        return self.look(path)[0]

    def look(self, path: str) -> tuple[int | None, str]:
        """The place of the picture with this path below the source, with or without its suffix; a
        row may have more folders in front, which are returned too.

        Raises:
            DataError: there are several.
        """
        rest = path
        while rest:
            if rest in self._places and (is_image(rest) or rest == path):
                if rest in self._twice:
                    raise DataError(
                        "a row names several pictures of the source",
                        got=path,
                        expected=f"a path in {self._where} that one picture has",
                        hint="write the path with its suffix and all its folders",
                    )
                return self._places[rest], path.removesuffix(rest).rstrip("/")
            rest = rest.partition("/")[2]
        return None, ""


SEVERAL = (
    "pictures of several classes need a model that is trained for them, with model.multi_label=true"
)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "none"


@dataclass
class Table:
    """What a table says of a split.

    Attributes:
        rows: those of the split.
        path: the column that names the pictures.
        label: the column of labels; empty where columns of 0 and 1 are the classes.
        others: the paths of all other rows.
        classes: those that columns name.
        astray: rows of no known split.
        beside: column that is not read → the one that is, where both have a name that is looked
            for a path, and rows with other values.
        other_labels: the same of columns of labels.
        empty: cells without a value in columns of 0 and 1.
        no_flags: column that is no class → the numbers that it holds beside 0 and 1.
        unread: columns of 0 and 1 that might be classes, beside the column of labels that is read.
        one_hot: columns of 0 and 1, one of them 1 in each row, that are read as the classes.
        odd_parts: column that is named like a part of a data set → whether it is a class; one that
            is neither a class nor needed is left out.
        only_other: the column of labels, where it is read for want of any other.
        part_by_values: the column that tells the parts by its values alone.
        between: ``{"sign", "first"}``: what labels are parted by where it is none of `BETWEEN`, and
            the first text that was.
    """

    rows: list[Row] = field(default_factory=list)
    path: str = ""
    label: str = ""
    others: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    astray: Some = field(default_factory=Some)
    beside: dict[str, str] = field(default_factory=dict)
    other_labels: dict[str, str] = field(default_factory=dict)
    empty: Some = field(default_factory=Some)
    no_flags: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    one_hot: list[str] = field(default_factory=list)
    odd_parts: dict[str, bool] = field(default_factory=dict)
    only_other: str = ""
    part_by_values: str = ""
    between: dict[str, str] = field(default_factory=dict)


def read_table(
    file: str, split: str, several: bool = False, columns: Sequence[str] | None = None
) -> Table:
    """The rows of a split, and what else a table says.

    Raises:
        DataError, StorageError: as `LabeledSource`.
    """
    where = spelled(urls.redact(file))
    names, rows = read_rows(file, where)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"{where} has the column {twice[0]} more than once",
            got=list(names)[:10],
            expected="a name of its own for each column",
            hint="rename or delete one of the columns",
        )
    there = {name.strip().lower() for name in names}
    path = _column(names, PATH if there.intersection(PATH) else (*PATH, *KEYS), where)
    part = next((name for name in names if name.strip().lower() in SPLIT), None)
    by_values = None if part else _part_by_values(names, rows, {path, *(columns or ())})
    part = part or by_values
    if not rows:
        raise DataError(
            f"{where} has no rows",
            got=names,
            expected="a row for each picture",
            hint=f"write a line such as cat/1.png,cat below {','.join(names[:5])}",
        )
    found = Table(path=path, part_by_values=by_values or "")
    _note_others(found.beside, rows, [n for n in names if n.strip().lower() in PATH], path)
    of_row = _labels_of(names, rows, where, several, columns, {path, part}, found)
    for name in names:
        learned = class_name(name) in found.classes
        if name.strip().lower() in PART and not (columns if learned else part):
            found.odd_parts[name] = learned

    parts: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        name = _path(row.get(path))
        if not name:
            raise DataError(
                f"row {number} of {where} has no {path}",
                got=str(dict(row))[:100],
                expected="the path of a picture in each row",
                hint=f"fill in {path}, or delete the row",
            )
        if part is not None:
            said = _text(row.get(part))
            kind = split_of(said) if said else None
            parts[said] += 1
            if kind not in ("train", "val", "test"):
                found.astray.add(f"{name} ({said or 'empty'})")
            if kind != split:
                found.others.append(name)
                continue
        found.rows.append((name, of_row(row, number)))
    if not found.rows:
        raise DataError(
            f"no row of {where} is of the {split} split",
            got=dict(parts.most_common(10)),
            expected=f"{split} in the column {part}",
            hint="a table without such a column counts whole",
        )
    return found


def _part_by_values(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], taken: set[str]
) -> str | None:
    """The one column, whatever it is called, that says of every row to which part of the data it
    belongs: each value is a word for one, and there are several."""
    found = [
        name
        for name in names
        if name not in taken
        and name.strip().lower() not in {*LABEL, *LABELS}
        and len({split_of(text) for row in rows if (text := _text(row.get(name)))}) > 1
        and all(split_of(_text(row.get(name))) in ("train", "val", "test") for row in rows)
    ]
    return found[0] if len(found) == 1 else None


def _note_others(
    noted: dict[str, str], rows: Sequence[Mapping[str, Any]], named: Sequence[str], used: str
) -> None:
    """Note the columns that might have been meant instead of one, where they say other things."""
    for column in named:
        if column != used and any(_text(row.get(column)) != _text(row.get(used)) for row in rows):
            noted[column] = used


def _labels_of(
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    where: str,
    several: bool,
    columns: Sequence[str] | None,
    taken: set[str | None],
    found: Table,
) -> Callable[[Mapping[str, Any], int], tuple[str, ...]]:
    """What gives the labels of a row."""
    there = {name.strip().lower(): name for name in reversed(names)}
    label = next((there[name] for name in (*LABEL, *LABELS) if name in there), None)
    chosen = _chosen_column(rows, several, columns, taken)
    if chosen:
        label, columns = chosen, None
    if label is None and not columns:
        label = _only_other(names, rows, several, taken)
        found.only_other = label or ""
    if several and (columns or label is None):
        return _flags_of(names, rows, where, columns, taken, found)
    if columns or label is None:
        return _one_hot_of(names, rows, where, columns, taken, found)
    column = found.label = label
    if not chosen:
        others = [name for name in names if MAY_BE_CLASS.fullmatch(name.strip())]
        others = [n for n in others if n not in taken and not (several and _is_flag(rows, n))]
        _note_others(found.other_labels, rows, others, column)

    if several:
        beside = [name for name in names if name not in {*taken, column, *found.other_labels}]
        flags = [name for name in beside if name.lower() not in PART and _is_flag(rows, name)]
        found.unread = flags if len(flags) > 1 else []  # one alone may be any fact of a picture

    texts = [value for row in rows if isinstance(value := row.get(column), str)]
    filled = [text for text in map(str.strip, texts) if text]
    # As pandas writes a column of whole numbers into CSV where some are missing.
    whole = len(filled) < len(rows) and all(re.fullmatch(r"-?\d+\.0", text) for text in filled)
    found.between = _between(texts) if several else {}
    sign = found.between.get("sign", BETWEEN)

    def one(row: Mapping[str, Any], number: int) -> tuple[str, ...]:
        value = row.get(column)
        if isinstance(value, str):
            value = value.strip().removesuffix(".0") if whole else value
            value = _as_list(value, f"row {number} of {where}", several)
        if isinstance(value, (list, tuple)) and len(value) < 2:  # as tools write one label
            value = value[0] if value else None
        listed = isinstance(value, (list, tuple))
        parts: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(part, dict) for part in parts):
            raise DataError(
                f"row {number} of {where} has an object with fields for a label",
                got=str(value)[:100],
                expected=f"a text or a number in the column {column}"
                + (", or a list of these" if several else ""),
                hint="write the value of the field that names the class into a column of its own",
            )
        if not several and (listed or BETWEEN in _text(value)):
            between = "" if listed else f", with {BETWEEN} between them"
            raise DataError(
                f"row {number} of {where} has several labels{between}",
                got=str(value)[:100],
                expected=f"one class in the column {column}",
                hint=SEVERAL
                + ("" if listed else f"; where {BETWEEN} belongs to a name, write another sign"),
            )
        if several and not listed:
            parts = _text(value).split(sign)
        return tuple(dict.fromkeys(name for part in parts if (name := class_name(_text(part)))))

    return one


def _one_hot_of(
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    where: str,
    columns: Sequence[str] | None,
    taken: set[str | None],
    found: Table,
) -> Callable[[Mapping[str, Any], int], tuple[str, ...]]:
    """What gives the label of a row by columns of 0 and 1, of which each row has a 1 in one.

    Raises:
        DataError: there are no such columns.
    """
    flags = [name for name in columns or names if name not in taken and _is_flag(rows, name)]
    classes = [name for name in flags if columns or name.lower() not in PART]
    if one_of := _one_hot(rows, classes if len(flags) == len(columns or flags) else ()):
        found.one_hot = list(one_of)

        def marked(row: Mapping[str, Any], number: int) -> tuple[str, ...]:
            return tuple(
                class_name(name) for name in one_of if _FLAGS[_text(row.get(name)).lower()]
            )

        return marked
    if columns:
        absent = [name for name in columns if name not in names]
        raise DataError(
            f"{', '.join(columns[:5])} of {where} are not columns of 0 and 1 of which each row "
            "has a 1 in one"
            if not absent
            else f"{where} has no column {', '.join(absent[:5])}",
            field="dataset.labels.columns",
            got=list(names)[:20],
            expected="the one column that holds the class of each picture, or such columns",
            hint=SEVERAL if len(flags) > 1 else "spell it as in the first line of the table",
        )
    raise DataError(
        f"{where} has no column {LABEL[0]}",
        got=list(names)[:20],
        expected=f"a column {' or '.join(LABEL)}",
        hint=SEVERAL
        if len(flags) > 1
        else "dataset.labels.columns=[NAME] names the column that holds the class",
    )


def _chosen_column(
    rows: Sequence[Mapping[str, Any]],
    several: bool,
    columns: Sequence[str] | None,
    taken: set[str | None],
) -> str | None:
    """The one column that was named and holds labels; None: there is none, or it is one of 0 and
    1, a class itself."""
    if not columns or len(columns) != 1 or columns[0] in taken or columns[0] not in rows[0]:
        return None
    if not several:
        return columns[0]
    cells = [cell for row in rows if (cell := _text(row.get(columns[0])).lower())]
    strange = [cell for cell in cells if cell not in _FLAGS and cell not in _NOT_SURE]
    return columns[0] if 2 * len(strange) > len(cells) else None


def _only_other(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], several: bool, taken: set[str | None]
) -> str | None:
    """The one column beside those that are read already, whatever it is called; None where there
    are more, or where it tells no classes: a key, a part, texts that differ nearly all, numbers of
    many values (an age, a price), and with ``several`` a column of 0 and 1, which is a class
    itself."""
    beside = [name for name in names if name not in taken]
    if len(beside) != 1 or beside[0].strip().lower() in {*PATH, *KEYS, *PART}:
        return None
    texts = [text for row in rows if (text := _text(row.get(beside[0])))]
    if several:
        return None if not texts or _is_flag(rows, beside[0]) else beside[0]
    distinct = set(texts)
    few = MOST_NUMBERS if all(map(_is_number, distinct)) else len(texts) / 2
    return beside[0] if distinct and len(distinct) <= min(few, len(texts) / 2) else None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _between(texts: Sequence[str]) -> dict[str, str]:
    """`Table.between` of the texts of a column. A sign stands between labels where one of them is
    there in other company too, and belongs to a name such as ``tench, Tinca tinca`` where not."""
    if any(BETWEEN in text or text.strip()[:1] in "[({" for text in texts if text.strip()):
        return {}
    for sign in OTHERS:
        company: dict[str, set[str]] = {}
        for text in texts:
            for part in filter(None, map(str.strip, text.split(sign))):
                company.setdefault(part, set()).add(text)
        parted = next(
            (
                text
                for text in texts
                if sign in text
                and any(len(company.get(p.strip(), ())) > 1 for p in text.split(sign))
            ),
            None,
        )
        if parted is not None:
            return {"sign": sign, "first": parted.strip()}
    return {}


_ITEM = re.compile(r"""\s*(?:'([^'"]*)'|"([^'"]*)"|(\d+(?:\.\d+)?))\s*""")
"""One label of a list that is written as a text."""


def _as_list(text: str, row: str, several: bool) -> str | list[str]:
    """The labels of a list that is written as a text, ``['ant', 'bee']`` as pandas writes one into
    a CSV; any other text as it is.

    Raises:
        DataError: it looks like a list, and its labels cannot be told.
    """
    bare = text.strip()
    if len(bare) < 2 or bare[0] + bare[-1] not in ("[]", "()", "{}"):
        return text
    inside = bare[1:-1].strip()
    items = [_ITEM.fullmatch(part) for part in inside.removesuffix(",").split(",")]
    labels = [next(filter(None, item.groups()), "") for item in items if item is not None]
    is_list = bare[0] == "[" or any(sign in inside for sign in "'\"")  # (2) is a name, as of a copy
    if is_list and (not inside or len(labels) == len(items)):
        return labels
    if bare[0] == "[" and (any(sign in inside for sign in "'\"") or (several and "," in inside)):
        raise DataError(
            f"{row} has a list whose labels cannot be told",
            got=text[:100],
            expected=f"the labels of a picture with {BETWEEN} between them: ant{BETWEEN}bee",
            hint="of a list in pandas: table[column].map('|'.join)",
        )
    return text


def _flags_of(
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    where: str,
    columns: Sequence[str] | None,
    taken: set[str | None],
    found: Table,
) -> Callable[[Mapping[str, Any], int], tuple[str, ...]]:
    """Labels from columns of 0 and 1."""
    _judge_near_flags(names, rows, where, columns, taken, found)
    missing = [name for name in columns or () if name not in names]
    flags = [
        name
        for name in (columns or names)
        if name not in taken and name in names and _is_flag(rows, name)
    ]
    if missing or not flags or (columns and len(flags) < len(columns)):
        others = [name for name in columns or names if name not in (*flags, *taken)]
        raise DataError(
            f"{where} has no column {', '.join(missing[:5])}"
            if missing
            else f"{where} has neither a column {LABELS[0]} nor columns of 0 and 1"
            if not columns
            else f"columns of {where} hold other values than 0 and 1",
            field="dataset.labels.columns" if columns else None,
            got=others[:10] if columns and not missing else list(names)[:20],
            expected="a column with the labels of each picture (a|b), or a column of 0 and 1 for "
            "each class",
            hint="dataset.labels.columns=[NAME] names the column that holds the labels"
            if not columns
            else "spell them as in the first line of the table"
            if missing
            else "write 1 where a picture is of the class and 0 where it is not"
            if flags
            else "name columns of 0 and 1, or the one column that holds the labels themselves",
        )

    for name in flags:
        cells = [_text(row.get(name)) for row in rows]
        if any(_FLAGS[cell.lower()] is False for cell in cells if cell):
            for number, cell in enumerate(cells, 1):
                if not cell:
                    found.empty.add(f"{name} in row {number}")
    found.classes = [class_name(name) for name in flags]

    def flagged(row: Mapping[str, Any], number: int) -> tuple[str, ...]:
        return tuple(class_name(name) for name in flags if _FLAGS[_text(row.get(name)).lower()])

    return flagged


def _judge_near_flags(
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    where: str,
    columns: Sequence[str] | None,
    taken: set[str | None],
    found: Table,
) -> None:
    """Refuse a column of 0 and 1 with other values, such as -1 for "not sure": it would be no
    class, or a wrong one. Without ``columns`` one that holds further numbers is noted alone.

    Raises:
        DataError: there is such a column.
    """
    for name in columns or [name for name in names if name not in taken]:
        cells = [_text(row.get(name)).lower() for row in rows]
        strange = [number for number, cell in enumerate(cells, 1) if cell not in _FLAGS]
        odd = sorted({cells[number - 1] for number in strange})
        flags = sum(cell in _FLAGS and cell != "" for cell in cells)
        if not strange or flags < len(strange):
            continue
        said = f"{', '.join(odd[:5])} in {len(strange)} of {len(rows)} rows"
        if columns or _NOT_SURE.issuperset(odd):
            raise DataError(
                f"the column {name} of {where} holds other values than 0 and 1: {said}, the first "
                f"is row {strange[0]}",
                field="dataset.labels.columns",
                got=odd[:10],
                expected="0 or 1 in each row of a column that is a class",
                hint="replace them, or take these rows out; where the column is no class, "
                "dataset.labels.columns=[…] names those that are",
            )
        if all(_NUMBER.fullmatch(value) for value in odd):
            found.no_flags[name] = said


_FLAGS = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
    **dict.fromkeys(("", "0", "0.0", "false", "no"), False),
}


_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_NOT_SURE = frozenset(["-1", "-1.0", "nan", "na", "n/a", "?", "none", "null", "u"])
"""What stands for "not sure" or "not known" in columns of 0 and 1."""


def _is_flag(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column holds only yes and no, and not nothing alone."""
    values = {_text(row.get(column)).lower() for row in rows}
    return values <= _FLAGS.keys() and values != {""}


def _one_hot(rows: Sequence[Mapping[str, Any]], flags: Sequence[str]) -> Sequence[str]:
    """Columns of 0 and 1 of which exactly one is 1 in each row: they are classes. Else none."""
    if len(flags) < 2:
        return ()
    ones = (sum(_FLAGS[_text(row.get(name)).lower()] for name in flags) for row in rows)
    return flags if all(count == 1 for count in ones) else ()


def _column(columns: Sequence[str], names: Sequence[str], where: str) -> str:
    for name in names:
        for column in columns:
            if column.strip().lower() == name:
                return column
    if any(is_image(column.strip()) for column in columns):
        raise DataError(
            f"{where} has no line of column names: its first line is a picture's",
            got=list(columns)[:20],
            expected=f"the names of the columns in the first line, {names[0]} and {LABEL[0]}",
            hint=f"write a line such as {names[0]},{LABEL[0]} above the first one",
        )
    raise DataError(
        f"{where} has no column {names[0]}",
        got=list(columns)[:20] or "an empty file",
        expected=f"a column {' or '.join(names)}",
        hint=f"rename the column that holds it to {names[0]}"
        if columns
        else "write the names of the columns as the first line: path,label",
    )


def _path(value: Any) -> str:
    name = same(_text(value)).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _text(value: Any) -> str:
    """A value as text; empty where there is none, also where it is NaN (of Parquet). A whole number
    is written as one: a column of them is of floating point where some are missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None or value != value else str(value).strip()


def _digest(pictures: str, members: Iterable[str], labels: Iterable[str]) -> str:
    import hashlib

    found = hashlib.sha256(pictures.encode())
    for member, label in zip(members, labels, strict=True):
        found.update(f"{member}\0{label}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()
