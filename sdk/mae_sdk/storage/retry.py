"""Retries of storage requests. Requests are retried here and nowhere else."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from mae_sdk.storage import urls
from mae_sdk.storage.faults import translate

T = TypeVar("T")

ATTEMPTS = 5

# Fewer for what rarely passes: waiting renews no credentials, and two silences in a row are
# a minute of a person's time.
OF_CAUSE = {"expired": 1, "changed": 2, "damaged": 2, "listing": 2, "stalled": 2}


def attempt(call: Callable[[], T], url: str, doing: str, attempts: int = ATTEMPTS) -> T:
    """``call()``, tried again after network faults with growing, jittered pauses (0.1 s, doubling
    up to 5 s).

    Args:
        call: one idempotent request.
        url: what it is about, redacted in the error.
        doing: the verb of the message, e.g. ``"read"``.

    Raises:
        NotFoundError: there is no such object or bucket.
        StorageError: the request failed for good, or ``attempts`` times.
        UsageError: no request can be made of this URL.
    """
    causes: Counter[str] = Counter()
    for number in range(1, attempts + 1):
        try:
            return call()
        except Exception as error:
            known = translate(error, url, doing, tries=number)
            if known is None:
                raise
            cause = str(getattr(known, "cause", ""))
            causes[cause] += 1
            enough = causes[cause] >= OF_CAUSE.get(cause, attempts)
            if number == attempts or enough or not known.retryable:
                raise known from error
            urls.forget_connection(url)
            time.sleep(min(5.0, 0.1 * 2**number) * (0.5 + random.random() / 2))

    raise AssertionError("unreachable")
