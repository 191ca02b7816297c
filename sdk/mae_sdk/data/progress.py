"""Whoever waits for data may hear how far it is: `tell` where work is done, `heard` around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

INTERVAL_S = 2.0
_T = TypeVar("_T")
_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


@contextmanager
def heard(listener: Callable[[str], None] | None) -> Iterator[None]:
    """Give what is told inside to `listener`, a line at a time."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def say(line: str) -> None:
    """Tell one line at once, to whoever listens."""
    listener = _listener.get()
    if listener is not None:
        listener(line)


def told(items: Iterable[_T], text: Callable[[_T], str]) -> Iterator[_T]:
    """The items, with a line about the newest of them every few seconds.

    Args:
        text: of an item, the line; it is called for every item, so it may count.
    """
    listener, last = _listener.get(), time.monotonic()
    for item in items:
        line = text(item)
        if listener is not None and time.monotonic() - last >= INTERVAL_S:
            last = time.monotonic()
            listener(line)
        yield item
