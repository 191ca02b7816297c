"""What a plan knows of the data: images, classes, whether they are labelled; and of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.errors import DataError, MaeError, StorageError

from mae_sdk.platforms.devices import visible_gpus

SOURCE_KEY = {"train": "train_datasets"}


def count(value: Any, *, remote: bool) -> dict[str, Any]:
    """``{uri, images, classes, unlabelled, digest}`` of a source or list of them; ``{uri, counted: false, why}`` where it is remote.

    Args:
        remote: fetch what is behind a URL into the cache, and count it.

    Raises:
        DataError, StorageError: it is missing, empty, hostile, or cannot be read.
    """
    from mae_sdk.storage import urls

    names = [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
    shown = [urls.redact(name) for name in names]
    found: dict[str, Any] = {"uri": shown[0] if len(shown) == 1 else shown}
    if not remote and any(urls.is_remote(name) for name in names):
        return {**found, "counted": False, "why": "not counted: it is remote; the job counts it before anything runs"}
    from mae_sdk.data.sources import open_source

    source = open_source(names[0] if len(names) == 1 else names)
    unlabelled = int((source.labels < 0).sum())
    return {**found, "images": len(source), "classes": len(source.classes), "unlabelled": unlabelled, "digest": source.digest}


def count_all(keys: Mapping[str, Any], spec: Mapping[str, Any], problems: list[MaeError], *, remote: bool) -> dict[str, dict[str, Any]]:
    """Dotted key → count, for every data source field of an action that has a value. What cannot be read is added to `problems`."""
    from mae_skill.overrides import get_dotted

    found: dict[str, dict[str, Any]] = {}
    for key in keys:
        value = get_dotted(spec, key)
        if not value:
            continue
        try:
            found[key] = count(value, remote=remote)
        except (DataError, StorageError) as error:
            error.field = error.field or key
            problems.append(error)
    return found


def facts_of(info: Mapping[str, Any], action: str, counts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the bundle's validator is told: ``gpus``, and of counted training data ``images`` and ``classes`` (None = unlabelled)."""
    facts: dict[str, Any] = {"gpus": len(visible_gpus())}
    for key, entry in ((info.get("data_sources") or {}).get(action) or {}).items():
        seen = counts.get(key) or {}
        if isinstance(entry, Mapping) and entry.get("source") == SOURCE_KEY.get(action) and "images" in seen:
            facts["images"] = seen["images"]
            facts["classes"] = seen["classes"] or None
    return facts


def steps(images: int | None, batch: int | None, processes: int, accumulate: int) -> tuple[int | None, int | None]:
    """Optimiser steps an epoch, and the effective batch."""
    if not batch:
        return None, None
    effective = batch * processes * accumulate
    if images is None:
        return None, effective
    batches = -(-images // (batch * processes))
    return -(-batches // accumulate), effective
