"""Texts that no file, path or URL can be. The standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

_HOSTED = re.compile(r"(?i)(https?|s3a?|gs|gcs)://")


def no_text(value: Any) -> str | None:
    """The first text in ``value`` that UTF-8 or a path cannot hold."""
    return _first(value, lambda text: any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text))


def no_url(value: Any) -> str | None:
    """The first text in ``value`` that is meant as the URL of a host and is none.

    One that refers to a field (``${…}``) is looked at once it is whole.
    """
    return _first(value, lambda text: "${" not in text and _is_broken(text))


def _is_broken(text: str) -> bool:
    if not _HOSTED.match(text):
        return False
    try:
        parts = urlsplit(text)
        return not parts.hostname or parts.port == 0
    except ValueError:  # brackets that do not close, a port that is none
        return True


def _first(value: Any, is_wrong: Callable[[str], bool]) -> str | None:
    if isinstance(value, str):
        return value if is_wrong(value) else None
    inside: Iterable[Any] = value if isinstance(value, (list, tuple)) else ()
    if isinstance(value, Mapping):
        inside = (*value.keys(), *value.values())
    found = (_first(item, is_wrong) for item in inside)
    return next((text for text in found if text is not None), None)
