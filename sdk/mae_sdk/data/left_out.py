"""What a source holds beside the images that are read: counted by reason, a few of each named."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mae_skill.spelling import spelled

from mae_sdk.data.names import is_image, is_set_aside, looks_like_picture, may_be_picture, suffix_of
from mae_sdk.storage import urls

FEW = 5
"""Names that are kept for each reason."""

MAX_SNIFFED = 200
"""Files without a telling name whose first bytes are looked at."""

MAX_LABELS = 20
"""Files that may hold a detector's labels whose first bytes are looked at."""

HEAD = 4096
"""First bytes that are read of a file."""

_NUMBER = rb"[ \t]+(?:0|1|[01]?\.\d+(?:e-?\d+)?)"
_YOLO = re.compile(rb"\d+((?:" + _NUMBER + rb"){4,})[ \t]*")

_POSE = re.compile(
    rb"\d+(?:" + _NUMBER + rb"){4}((?:(?:" + _NUMBER + rb"){2}[ \t]+[012](?:\.0+)?)+)[ \t]*"
)

BOXES, POLYGONS, POSES, COCO, VOC = "YOLO boxes", "YOLO polygons", "YOLO poses", "COCO", "VOC"
"""Whose labels of a detector, or of an instance segmenter, a file holds."""


def detector_labels(name: str, head: bytes) -> str | None:
    """What a file looks like that holds a detector's labels: COCO's JSON, YOLO's lines of a class
    and a box (a class and the corners of an outline are polygons; points with 0, 1 or 2 for how
    they are seen behind the box are poses), VOC's XML; else None.

    Args:
        head: its first bytes.
    """
    suffix = suffix_of(name)
    if suffix == ".json":
        is_coco = b'"bbox"' in head or (b'"images"' in head and b'"file_name"' in head)
        return COCO if is_coco else None
    if suffix == ".xml":
        is_voc = b"<annotation" in head and (b"<object" in head or b"<bndbox" in head)
        return VOC if is_voc else None
    return _yolo(head) if suffix == ".txt" else None


def _yolo(head: bytes) -> str | None:
    """Boxes where each line has four numbers, or a certainty behind them; polygons where one has
    more; poses where each has a box and as many points, each with how it is seen."""
    lines = head.splitlines()
    if len(head) >= HEAD and lines:  # cut off within a number: of one long line all before it
        lines = lines[:-1] or [lines[0].rpartition(b" ")[0]]
    lines = [line.strip() for line in lines if line.strip()]
    poses = [_POSE.fullmatch(line) for line in lines]
    points = {len(one[1].split()) for one in poses if one}
    if None not in poses and len(points) == 1:  # a polygon may look so where it meets the edges
        return POSES
    found = [_YOLO.fullmatch(line) for line in lines]
    if not found or None in found:
        return None
    most = max(len(one[1].split()) for one in found if one)
    return BOXES if most <= 5 else POLYGONS


@dataclass
class Some:
    """How many there are, and the first few."""

    count: int = 0
    files: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.files) < FEW:
            self.files.append(spelled(name))

    def to_dict(self) -> dict[str, Any]:
        """``{"count", "files"}``."""
        return {"count": self.count, "files": list(self.files)}


@dataclass
class LeftOut:
    """What was met on the way to the images of a source, and is none of them.

    Attributes:
        hidden: hidden files and folders, and those of operating systems.
        other: files that are no pictures.
        archives: archives among the images, which nothing unpacks.
        pictures: pictures in formats, or under names, that are not read.
        suffixes: suffix → count, of ``other``, ``archives`` and ``pictures``.
        dangling: links to nothing.  loops: linked folders that hold themselves.
        locked: system folders that may not be read.
        detection_labels: of ``other``, files that look like a detector's labels, among the first.
        detection_kinds: what these look like (`detector_labels`).
        columns: of a table of pictures without one of classes, those that are not read.
        class_columns: of a table of pictures with several columns that may be its classes, the one
            that is read, then the others.
        twins: images that are the same file as another of the source; they are read, each time.
        folders: folder → pictures in it that are not read, of folders without an image in them.
    """

    hidden: Some = field(default_factory=Some)
    other: Some = field(default_factory=Some)
    archives: Some = field(default_factory=Some)
    pictures: Some = field(default_factory=Some)
    suffixes: Counter[str] = field(default_factory=Counter)
    dangling: Some = field(default_factory=Some)
    loops: Some = field(default_factory=Some)
    locked: Some = field(default_factory=Some)
    detection_labels: Some = field(default_factory=Some)
    detection_kinds: set[str] = field(default_factory=set)
    columns: Some = field(default_factory=Some)
    class_columns: Some = field(default_factory=Some)
    twins: Some = field(default_factory=Some)
    folders: dict[str, int] = field(default_factory=dict)
    _sniffed: int = 0
    _looked: int = 0

    def add_file(self, name: str, head: Any = None) -> None:
        """Count a file that is not read as an image.

        Args:
            head: a function that gives its first bytes; None where they cannot be had.
        """
        if is_set_aside(name):
            self.hidden.add(name)
            return
        is_picture = may_be_picture(name)
        if is_picture is None and head is not None and self._sniffed < MAX_SNIFFED:
            self._sniffed += 1
            is_picture = looks_like_picture(head())
        may_label = not is_picture and suffix_of(name) in (".json", ".txt", ".xml")
        if may_label and head is not None and self._looked < MAX_LABELS:
            self._looked += 1
            if kind := detector_labels(name, head()):
                self.detection_labels.add(name)
                self.detection_kinds.add(kind)
        packed = self.archives if urls.is_archive(name) else self.other
        (self.pictures if is_picture else packed).add(name)
        self.suffixes[suffix_of(name) or "no suffix"] += 1
        folder = name.rpartition("/")[0]
        self.folders[folder] = self.folders.get(folder, 0) + bool(is_picture)

    def add_dangling(self, name: str) -> None:
        """Count a link to nothing; one that is named like an image is a picture that is not
        read."""
        self.dangling.add(name)
        if is_image(name):
            folder = name.rpartition("/")[0]
            self.folders[folder] = self.folders.get(folder, 0) + 1

    def there(self) -> str:
        """The files that are no images, by kind, with their number and the first names; empty where
        there is none."""
        kinds = {
            "pictures that are not read": self.pictures,
            "archives": self.archives,
            "other files": self.other,
            "hidden": self.hidden,
        }
        return "; ".join(
            f"{some.count} {kind}: {', '.join(some.files)}" + (" …" if some.count > FEW else "")
            for kind, some in kinds.items()
            if some.count
        )

    def to_dict(self) -> dict[str, Any]:
        """Reason → ``{"count", "files"}``, of the reasons that there are; ``suffixes`` beside."""
        reasons = (
            "hidden",
            "other",
            "archives",
            "pictures",
            "dangling",
            "loops",
            "locked",
            "detection_labels",
            "columns",
            "class_columns",
            "twins",
        )
        found: dict[str, Any] = {
            name: some.to_dict() for name in reasons if (some := getattr(self, name)).count
        }
        if self.detection_kinds:
            found["detection_labels"]["kinds"] = sorted(self.detection_kinds)
        if self.suffixes:
            found["suffixes"] = dict(self.suffixes.most_common(20))
        return found
