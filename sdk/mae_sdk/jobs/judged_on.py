"""On which images a job's figures are measured: figures of other images do not compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mae_sdk.jobs.metrics import mapping

_OF_THE_MACHINE = ("latency_", "time_per_", "peak_memory_", "images_per_s", "best_images_per_s")
_OF_NO_IMAGES = frozenset({"lr", "grad_norm", "parameters", "seconds"})


class Images(NamedTuple):
    """The images that a figure is of.

    Attributes:
        key: equal where they are the same ones.
        words: for people, with the whole place, and with the table that chooses images of it.
    """

    key: str
    words: str


def images_of(data: Mapping[str, Any], metric: str = "") -> Images | None:
    """The images that a metric of a job is measured on; None where that is not known.

    Args:
        data: field of a source → what was counted there (``uri, digest, held_out``).
        metric: ``train_…`` is of the training images; what times the machine is of none; anything
            else, and an empty name, is of those that the job is judged on.
    """
    if metric in _OF_NO_IMAGES or metric.startswith(_OF_THE_MACHINE):
        return None
    sources = {str(key): mapping(seen) for key, seen in data.items()}
    trained = _source(sources, "train_data_sources")
    if metric.startswith("train_"):
        return _all_of(trained)

    judged = _all_of(_source(sources, "val_data_sources"))
    if judged is not None:
        return judged
    for seen in (trained, *sources.values()):
        whole = _all_of(seen)
        if whole is not None and (count := seen.get("held_out")):
            return Images(f"{count} of {whole.key}", f"{count} images held out of {whole.words}")
    return None


def _source(sources: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next((seen for key, seen in sources.items() if key.rsplit(".", 1)[-1] == name), {})


def _all_of(seen: Mapping[str, Any]) -> Images | None:
    if not (words := words_of(seen)):
        return None
    # The same folder may have held other images; two folders may hold the same.
    return Images(str(seen.get("digest") or json.dumps(seen.get("uri"))), words)


def words_of(seen: Mapping[str, Any]) -> str:
    """A source for people: its place, and the table that says which of its images are meant:
    ``/d/all (rows of test.csv)``; empty where it has none."""
    uri = seen.get("uri")
    if not uri:
        return ""
    words = ", ".join(map(str, uri)) if isinstance(uri, list) else str(uri)
    table = str(mapping(seen.get("label_file")).get("file") or "").replace("\\", "/")
    return f"{words} (rows of {table.rpartition('/')[2]})" if table else words
