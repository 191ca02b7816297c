"""What a plan knows of the data: images, classes, whether they are labelled; and of the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mae_skill.conditions import holds
from mae_skill.dotted import get_dotted
from mae_skill.errors import DataError, MaeError, StorageError

SOURCE_KEY = {"train": "train_datasets", "evaluate": "eval_dataset"}


def count(
    value: Any, *, remote: bool, masks: Any = None, role: str = "", share: float = 0.0
) -> dict[str, Any]:
    """``{uri, images, classes, unlabelled, digest}`` of a source or list of them; ``{uri, counted: false, why}`` where it is remote.

    Args:
        remote: fetch what is behind a URL into the cache, and count it.
        masks: the mask sources of the images (None: beside them).
        role: count images with their masks, ``{uri, images, masks, digest}``, of this split (see `mae_sdk.data.pairs`); empty: images alone.
        share: of the images of each class that the run holds out; above 0, ``held_out`` says how many that are.

    Raises:
        DataError, StorageError: it is missing, empty, hostile, or cannot be read; or images have no masks that must.
    """
    from mae_sdk.data.split import held_out
    from mae_sdk.storage import urls

    names = [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
    shown = [urls.redact(name) for name in names]
    found: dict[str, Any] = {"uri": shown[0] if len(shown) == 1 else shown}
    others = (
        [str(item) for item in masks]
        if isinstance(masks, (list, tuple))
        else [str(masks)]
        if masks
        else []
    )
    if not remote and any(urls.is_remote(name) for name in [*names, *others]):
        return {
            **found,
            "counted": False,
            "why": "not counted: it is remote; the job counts it before anything runs",
        }
    if role:
        from mae_sdk.data.pairs import open_pairs

        pairs = open_pairs(names, others or None, role=role, required=role != "test")
        held = {"held_out": held_out([len(pairs)], share)} if share else {}
        return {
            **found,
            "images": len(pairs),
            "masks": pairs.masked,
            **held,
            "digest": pairs.digest,
        }
    from mae_sdk.data.source import open_source

    source = open_source(names[0] if len(names) == 1 else names)
    unlabelled = int((source.labels < 0).sum())
    held = {"held_out": held_out(Counter(source.labels.tolist()).values(), share)} if share else {}
    return {
        **found,
        "images": len(source),
        "classes": len(source.classes),
        "unlabelled": unlabelled,
        **held,
        "digest": source.digest,
    }


def count_all(
    keys: Mapping[str, Any],
    spec: Mapping[str, Any],
    problems: list[MaeError],
    *,
    remote: bool,
    share: float = 0.0,
) -> dict[str, dict[str, Any]]:
    """Dotted key → count, for every data source field of an action that has a value. What cannot be read is added to `problems`.

    Args:
        keys: the action's ``data_sources``: dotted key → its row.
        share: of the training images that the run holds out for validation.
    """

    found: dict[str, dict[str, Any]] = {}
    for key, row in keys.items():
        value = get_dotted(spec, key)
        if not value:
            continue
        paired = row.get("masks") if isinstance(row, Mapping) else None
        paired = paired if isinstance(paired, Mapping) and holds(paired.get("when"), spec) else {}
        try:
            masks = get_dotted(spec, str(paired["field"])) if paired else None
            part = (
                share
                if isinstance(row, Mapping) and row.get("source") == SOURCE_KEY["train"]
                else 0.0
            )
            found[key] = count(
                value, remote=remote, masks=masks, role=str(paired.get("role") or ""), share=part
            )
        except (DataError, StorageError) as error:
            error.field = error.field or key
            problems.append(error)
    return found


def facts_of(
    info: Mapping[str, Any],
    action: str,
    counts: Mapping[str, Mapping[str, Any]],
    gpus: int | None,
) -> dict[str, Any]:
    """What the bundle's validator is told: ``gpus`` of the platform (left out where it cannot tell), and of
    the counted data of the action ``images`` (less those held out) and ``classes`` (None = unlabelled; not
    there for images with masks)."""
    facts: dict[str, Any] = {} if gpus is None else {"gpus": gpus}
    for key, entry in ((info.get("data_sources") or {}).get(action) or {}).items():
        seen = counts.get(key) or {}
        if (
            isinstance(entry, Mapping)
            and entry.get("source") == SOURCE_KEY.get(action)
            and "images" in seen
        ):
            facts["images"] = seen["images"] - seen.get("held_out", 0)
            if "classes" in seen:
                facts["classes"] = seen["classes"] or None
    return facts


def steps(
    images: int | None, batch: int | None, processes: int, accumulate: int
) -> tuple[int | None, int | None]:
    """Optimiser steps an epoch, and the effective batch."""
    if not batch:
        return None, None
    effective = batch * processes * accumulate
    if images is None:
        return None, effective
    batches = -(-images // (batch * processes))
    return -(-batches // accumulate), effective
