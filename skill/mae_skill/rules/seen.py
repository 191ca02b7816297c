"""What rules of data have in common: the sources that were looked at, and how names are listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mae_skill.rules.base import Case

TRAIN = "dataset.train_data_sources"
VAL = "dataset.val_data_sources"
SEGMENTATION = "segmentation"
FEW = 5

Seen = Mapping[str, Any]


def segments(case: Case) -> bool:
    """Whether the model gives each pixel a class: as the spec says, or the model's own file."""
    said = case.facts.model if case.action != "train" else {}
    if said.get("task") == SEGMENTATION and said.get("stage") == "finetune":
        return True
    return bool(case("model.task") == SEGMENTATION and case("train.stage") == "finetune")


def sources(case: Case) -> Iterator[tuple[str, Seen]]:
    """The sources of the action that were looked at."""
    for key, found in case.facts.data.items():
        if found.get("images"):
            yield key, found


def no_classes(found: Seen) -> bool:
    """Whether the folders were told apart from classes, and refused as such."""
    unlabeled = found.get("unlabeled_classes") or []
    names = ("split_classes", "split_below", "mask_folders")
    return any(found.get(name) for name in names) or len(unlabeled) > 1


def files_of(some: Seen) -> str:
    """The first of the files of ``{"count", "files"}``."""
    listed, count = list(some.get("files") or [])[:FEW], some.get("count", 0)
    return ", ".join(map(str, listed)) + (" …" if count > len(listed) else "")


def first_of(values: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(values[:FEW]) + (" …" if len(values) > FEW else "")


def masks_of(key: str) -> str:
    """The field of a source's masks."""
    role = key.rpartition(".")[2].removesuffix("_data_sources")
    return f"dataset.segmentation.{role}_mask_sources"
