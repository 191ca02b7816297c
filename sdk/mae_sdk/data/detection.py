"""A detector's labels in a folder beside that of the pictures: ``labels/train/1.txt`` beside
``images/train/1.jpg`` (ultralytics' YOLO), ``Annotations/1.xml`` beside ``JPEGImages/1.jpg`` (VOC),
``annotations/*.json`` beside a folder of pictures that it lists (COCO)."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml
from mae_skill.spelling import spelled

from mae_sdk.data.left_out import COCO, FEW, HEAD, MAX_LABELS, Some, detector_labels

if TYPE_CHECKING:
    from mae_sdk.data.source import Source

_LONG_HEAD = 64 << 10
"""First bytes of a COCO file: behind its licenses come its pictures."""

_MAX_DESCRIPTION = 1 << 20
"""Bytes of a ``data.yaml``; one of many thousand class names has fewer."""

_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def labels_beside(source: Source) -> dict[str, Any]:
    """The labels of a detector in folders beside the local folders of a source, by the first
    pictures.

    Returns:
        ``count, files`` (paths) and ``kinds`` (`mae_sdk.data.left_out.detector_labels`); empty
        where there are none.
    """
    found, kinds = Some(), set[str]()
    for root, names in source.local_folders():
        for path, kind in _found(Path(os.path.abspath(root)), names):  # noqa: PTH100
            found.add(str(path))
            kinds.add(kind)
    return {**found.to_dict(), "kinds": sorted(kinds)} if found.count else {}


def named_classes(source: Source) -> dict[str, list[str]]:
    """``classes``: those that a ``data.yaml`` in or above a local folder of a source names; empty
    where none does."""
    for root, _ in source.local_folders():
        names = description(Path(os.path.abspath(root))).get("names")  # noqa: PTH100
        listed = list(names.values()) if isinstance(names, dict) else names
        if isinstance(listed, list) and listed:
            return {"classes": [spelled(str(one)) for one in listed]}
    return {}


def as_boxes(source: Source) -> str:
    """What a source without masks has in their place, in words; empty where it is no detector's
    labels."""
    inside = [part.detection_labels.files for part in source.left_out]
    kinds = {kind for part in source.left_out for kind in part.detection_kinds}
    files = [name for names in inside for name in names]
    if not files and (found := labels_beside(source)):
        files, kinds = found["files"], set(found["kinds"])
    return f"{files[0]} looks like {', '.join(sorted(kinds))}, which is no mask" if files else ""


def _found(root: Path, names: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The files of labels that belong to the pictures of a folder, each with what it is."""
    step = max(1, len(names) // MAX_LABELS)
    for name in list(names[::step])[:MAX_LABELS]:
        for path in _of_picture(root, name):
            if kind := detector_labels(path.name, _head(path, HEAD)):
                yield path, kind
                break
    for path in _of_set(root):
        head = _head(path, _LONG_HEAD)
        if detector_labels(path.name, head) == COCO and _lists(head, names):
            yield path, COCO


def _of_picture(root: Path, name: str) -> Iterator[Path]:
    """Where the labels of one picture may be: ultralytics puts ``labels`` for the last ``images``
    of its path, VOC ``Annotations`` for ``JPEGImages``; else a folder ``labels`` beside its own."""
    path = root / name
    for images, labels, suffix in (
        ("images", "labels", ".txt"),
        ("JPEGImages", "Annotations", ".xml"),
        ("images", "annotations", ".xml"),
    ):
        folders = list(path.parts[:-1])
        if images in folders:
            at = len(folders) - 1 - folders[::-1].index(images)
            yield Path(*folders[:at], labels, *folders[at + 1 :], path.name).with_suffix(suffix)
    for folder in (root.parent / "labels" / root.name, root.parent / "labels"):
        yield (folder / name).with_suffix(".txt")


def _of_set(root: Path) -> list[Path]:
    """Files that may describe all pictures of a folder: JSON in ``annotations`` beside it, or
    beside the folder above it."""
    found: list[Path] = []
    for above in (root.parent, root.parent.parent):
        try:
            with os.scandir(above / "annotations") as entries:
                found += [Path(entry.path) for entry in entries if entry.name.endswith(".json")]
        except OSError:
            continue
    captions = ("captions", "image_info")  # they have no boxes
    return [path for path in sorted(found)[:MAX_LABELS] if not path.name.startswith(captions)]


def _lists(head: bytes, names: Sequence[str]) -> bool:
    """Whether one of the first pictures that a COCO file lists is there: else it is of another
    folder."""
    listed = set()
    for text in _FILE_NAME.findall(head)[:MAX_LABELS]:
        try:
            listed.add(PurePath(json.loads(text)).name)
        except ValueError:
            continue
    return any(PurePath(name).name in listed for name in names) if listed else False


def _head(path: Path, count: int) -> bytes:
    try:
        if not path.is_file():  # a pipe would not end
            return b""
        with path.open("rb") as stream:
            return stream.read(count)
    except (OSError, ValueError):
        return b""


def description(root: Path) -> dict[str, Any]:
    """What a YAML file in a folder, or up to two above it, says of a set for YOLO: its ``train``,
    ``val``, ``names`` …; empty where there is none."""
    for folder in (root, root.parent, root.parent.parent):
        with contextlib.suppress(OSError):  # a folder above may be closed
            for path in sorted(folder.glob("*.y*ml"))[:FEW]:
                if said := read_description(path):
                    return said
    return {}


def read_description(path: Path) -> dict[str, Any]:
    """A ``data.yaml`` of YOLO; empty where the file is none."""
    try:
        if path.stat().st_size > _MAX_DESCRIPTION:
            return {}
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    is_one = isinstance(said, dict) and "names" in said and ("train" in said or "val" in said)
    return said if is_one else {}
