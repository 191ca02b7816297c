"""Retries of storage requests, and the error that a driver's exception means.

Requests are retried here and nowhere else. Every failure is a `StorageError` (``retryable`` is set
by what failed) or a `NotFoundError`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from mae_skill.errors import MaeError, NotFoundError, StorageError

from mae_sdk.storage import urls

T = TypeVar("T")

ATTEMPTS = 5

# Codes after which the same request cannot succeed until a person acts …
_FINAL = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AllAccessDisabled",
    "AccountProblem",
    "NoSuchBucket",
    "403",
    "401",
}
# … and those that mean that credentials ran out: waiting alone does not help, new credentials do.
_EXPIRED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "RequestExpired",
    "InvalidToken",
}
_NETWORK_PACKAGES = {
    "botocore",
    "aiobotocore",
    "aiohttp",
    "s3fs",
    "fsspec",
    "urllib3",
    "gcsfs",
    "adlfs",
    "azure",
    "google",
}


def attempt(call: Callable[[], T], url: str, doing: str, attempts: int = ATTEMPTS) -> T:
    """``call()``, tried again after network faults with growing, jittered pauses (0.1 s, doubling
    up to 5 s).

    Args:
        call: one idempotent request.
        url: what it is about, redacted in the error.
        doing: the verb of the message, e.g. ``"read"``.

    Raises:
        NotFoundError: there is no such object.
        StorageError: the request failed for good, or ``attempts`` times.
    """
    for number in range(1, attempts + 1):
        try:
            return call()
        except Exception as error:
            known = translate(error, url, doing, tries=number)
            if known is None:
                raise
            if number == attempts or not known.retryable or getattr(known, "expired", False):
                raise known from error
            time.sleep(min(5.0, 0.1 * 2**number) * (0.5 + random.random() / 2))

    raise AssertionError("unreachable")


def translate(error: BaseException, url: str, doing: str, tries: int = 1) -> MaeError | None:
    """The storage error that an exception of a driver means; ``None`` for anything that is no
    storage fault."""
    if isinstance(error, MaeError):
        return error
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and _web_fault(cause):
        return translate(
            cause, url, doing, tries
        )  # fsspec's web client calls every failure "not found"

    where = urls.redact(url)
    code = _code(error)
    if code in _EXPIRED:
        urls.forget_filesystems()
        known: MaeError = StorageError(
            f"cannot {doing} {where}: the credentials have expired ({code})",
            got=where,
            hint="renew the credentials, then run the same command again",
        )
        known.expired = True  # type: ignore[attr-defined]
        return known

    if isinstance(error, FileNotFoundError) or code in {
        "NoSuchKey",
        "NoSuchBucket",
        "404",
        "NotFound",
    }:
        return NotFoundError(f"cannot {doing} {where}: there is no such file or bucket", got=where)

    if isinstance(error, FileExistsError) or code in {"PreconditionFailed", "412"}:
        return StorageError(
            f"cannot {doing} {where}: it exists already", got=where, retryable=False
        )

    if isinstance(error, PermissionError) or code in _FINAL:
        hint = (
            "check the credentials and the bucket's policy"
            if urls.is_remote(url)
            else "check the permissions of the file"
        )
        return StorageError(
            f"cannot {doing} {where}: access denied ({code or type(error).__name__})",
            got=where,
            retryable=False,
            hint=hint,
        )

    if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        return StorageError(
            f"cannot {doing} {where}: no usable credentials", got=where, retryable=False, hint=hint
        )

    if isinstance(error, OSError) and error.errno in (28, 122):
        return StorageError(
            f"cannot {doing} {where}: the disk is full",
            got=where,
            retryable=False,
            hint="free space or move the folder",
        )

    network = type(error).__module__.split(".")[0] in _NETWORK_PACKAGES
    if network or isinstance(error, (OSError, TimeoutError, EOFError)):
        detail = code or f"{type(error).__name__}: {str(error)[:160]}".rstrip(": ")
        times = f" after {tries} attempts" if tries > 1 else ""
        return StorageError(
            f"cannot {doing} {where}{times}: {detail}",
            got=where,
            hint="this looks temporary; run the command again",
        )

    return None


def _web_fault(error: BaseException) -> bool:
    """Whether a web client's failure is another one than a missing page."""
    network = type(error).__module__.split(".")[0] == "aiohttp" or isinstance(
        error, (ConnectionError, TimeoutError)
    )
    return network and getattr(error, "status", None) not in (404, 410)


def _code(error: BaseException | None) -> str | None:
    """The store's own error code, however deep the driver wrapped it."""
    seen = 0
    while error is not None and seen < 6:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and isinstance(response.get("Error"), dict):
            return str(response["Error"].get("Code", "")) or None
        status = getattr(error, "status", None)
        if isinstance(status, int) and status >= 400:
            return str(status)
        error = error.__cause__ or error.__context__
        seen += 1
    return None
