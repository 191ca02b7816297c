"""Texts that no file, path or URL can be. The standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_HOSTED = re.compile(r"(?i)(https?|s3a?|gs|gcs)://")
_ONE_SLASH = re.compile(r"(?i)(https?|s3a?|gs|gcs|az|abfss?|hf|file|sftp|ssh|ftp):/(?!/)")
_DATA = re.compile(r"(?i)data:[\w.+-]+/[\w.+-]+[;,]")
_FILE = re.compile(r"(?is)(?:file|local)://(.*)")
_WRAPPER = re.compile(
    r"(?i)(zip|tar|libarchive|(?:simple|file|block)cache|cached|reference|dir)://"
)
_BRACKETS = re.compile(r"\[[^\]]*\]?")


def no_text(value: Any) -> str | None:
    """The first text in ``value`` that UTF-8 or a path cannot hold."""
    return _first(value, lambda text: any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text))


def no_url(value: Any) -> str | None:
    """The first text in ``value`` that is meant as a URL and is none.

    One that refers to a field (``${…}``) is looked at once it is whole.
    """
    return _first(value, lambda text: "${" not in text and url_problem(text) is not None)


def url_problem(text: str) -> tuple[str, str] | None:
    """What is wrong with the form of a text that is meant as a URL, and what is expected; None for
    a URL that may be one, and for any other text."""
    if match := _ONE_SLASH.match(text):
        scheme = match[1].lower()
        place = "/path" if scheme == "file" else "host/path"
        return "a URL has two slashes after its scheme", f"{scheme}://{place}"
    if _DATA.match(text):
        return "a data: URL is no place", "the path or URL of a file or folder"
    if match := _FILE.match(text):
        if not match[1].startswith(("/", "localhost/")):
            names = "a host" if match[1] else "no path"
            return f"the file URL names {names}", "file:///absolute/path, or the path alone"
        return None
    if _WRAPPER.match(text) or (_SCHEME.match(text) and "::" in _BRACKETS.sub("", text)):
        return "a URL inside another URL is not read", "the path or URL of the archive itself"
    return ("not a URL", "scheme://host/path") if _is_broken(text) else None


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
