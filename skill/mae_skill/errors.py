"""Every error a user can cause.

::

    MaeError                 code               exit
    ├── SpecError            spec_invalid          2  fields of a spec are wrong, reported together
    ├── UsageError           usage                 2  the call is wrong: unknown action or option
    ├── DataError            data                  3  a data source is missing, empty or corrupt
    ├── NotFoundError        not_found             4  a job, checkpoint, bundle or file is missing
    ├── CheckpointError      checkpoint            4  a checkpoint that cannot be used
    ├── JobFailedError       job_failed            5  the job ended in ERROR
    ├── NumericError         numeric               5  a loss or gradient that is not finite
    ├── JobCanceledError     job_canceled          6  the job was canceled
    ├── DependencyError      missing_dependency    7  a missing optional package, library or device
    ├── StorageError         storage               8  storage or network failed (retryable)
    │   └── StillRunningError  still_running       9  the time to wait is over; the job goes on
    └── PreemptedError       preempted            75  stopped after saving; resumable

Anything else that reaches the command line is a bug of mae: exit 1.
An interrupt (Ctrl-C) is exit 130.
Codes are stable: agents may match on them.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mae_skill.secret_names import is_secret_name

MAX_PROBLEMS = 50
"""Shown of one error; the rest is counted."""

MAX_TEXT = 2000
"""Characters of a value or of a sentence that an error shows, in JSON."""

REDACTED = "[redacted]"

_TABLES = ("key_defaults", "spec_shorthand_keys", "cost_keys", "automl_keys", "gpu_spec_key")
"""Keys of a bundle that are named for the keys of fields, which are no secrets."""

_USERINFO = re.compile(r"(?<=://)(?!env:)[^/\s@\"']+(?=@)")


def looks_secret(field: str | None) -> bool:
    """Whether a field of this name may hold a secret: its value is in no error."""
    if not field or field == "idempotency_key":
        return False
    table, _, rest = field.partition(".")
    return is_secret_name(rest if table in _TABLES else field)


class MaeError(Exception):
    """An error that the user can fix.

    Args:
        message: one sentence that says what is wrong.
        field: dotted spec key or option name, where there is one.
        got: the offending value.
        expected: what would have been accepted.
        hint: how to fix it.
        retryable: whether the same call may succeed later unchanged.

    Attributes:
        explains: fields and sections whose own errors follow from this one: beside it they are
            not told.
    """

    explains: tuple[str, ...] = ()
    code: ClassVar[str] = "error"
    exit_code: int = 1
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        got: Any = None,
        expected: str | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.got = got
        self.expected = expected
        self.hint = hint
        self.retryable = self.default_retryable if retryable is None else retryable

    def to_dict(self) -> dict[str, Any]:
        """The error as plain JSON types: ``code, message, field, got, expected, hint, retryable,
        exit_code``.
        """
        return {
            "code": self.code,
            "message": _cut(self.message),
            "field": _cut(self.field),
            "got": _bounded(self._shown()),
            "expected": _cut(self.expected),
            "hint": _cut(self.hint),
            "retryable": self.retryable,
            "exit_code": self.exit_code,
        }

    def _shown(self) -> Any:
        """``got`` without what looks secret."""
        if self.got is not None and looks_secret(self.field):
            return REDACTED
        return _without_secrets(self.got)

    def __str__(self) -> str:
        field, message = _cut(self.field, 200), _cut(self.message)
        lines = [f"{field}: {message}" if field else str(message)]
        if self.got is not None:
            lines.append(f"  got:      {_short(self._shown())}")
        if self.expected:
            lines.append(f"  expected: {_cut(self.expected)}")
        if self.hint:
            lines.append(f"  hint:     {_cut(self.hint)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword-only arguments do not pickle by default; loader workers and pools
        # need them to.
        return (_rebuild, (type(self), self.__dict__, self.args))


def _rebuild(cls: type[MaeError], state: dict[str, Any], args: tuple[Any, ...]) -> MaeError:
    error = cls.__new__(cls)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class SpecError(MaeError):
    """One or more fields of a spec are wrong.

    ``problems`` holds one `MaeError` a field; all are reported at once, up to `MAX_PROBLEMS`.
    """

    code = "spec_invalid"
    exit_code = 2

    def __init__(self, message: str, *, problems: Sequence[MaeError] = (), **details: Any) -> None:
        super().__init__(message, **details)
        self.problems: list[MaeError] = list(problems)

    def to_dict(self) -> dict[str, Any]:
        shown = [problem.to_dict() for problem in self.problems[:MAX_PROBLEMS]]
        left = len(self.problems) - len(shown)
        return {
            **super().to_dict(),
            "problems": shown,
            **({"problems_left_out": left} if left else {}),
        }

    def __str__(self) -> str:
        if not self.problems:
            return super().__str__()
        count, left = len(self.problems), len(self.problems) - MAX_PROBLEMS
        return "\n".join(
            [
                f"{count} error{'s' if count != 1 else ''} in the spec",
                *(str(problem) for problem in self.problems[:MAX_PROBLEMS]),
                *([f"… and {left} more"] if left > 0 else []),
            ]
        )


class UsageError(MaeError):
    """The call itself is wrong: an unknown action, option or policy word."""

    code = "usage"
    exit_code = 2


class DataError(MaeError):
    """A data source is missing, empty, hostile or corrupt."""

    code = "data"
    exit_code = 3


class NotFoundError(MaeError):
    """A job, checkpoint, bundle or file does not exist."""

    code = "not_found"
    exit_code = 4


class CheckpointError(MaeError):
    """A checkpoint exists but cannot be used: wrong architecture, wrong key, unreadable, too little
    of it matched.
    """

    code = "checkpoint"
    exit_code = 4


class JobFailedError(MaeError):
    """The job ended in ERROR."""

    code = "job_failed"
    exit_code = 5


class NumericError(MaeError):
    """Training met a loss that is not a finite number."""

    code = "numeric"
    exit_code = 5


class JobCanceledError(MaeError):
    """The job was canceled."""

    code = "job_canceled"
    exit_code = 6


class DependencyError(MaeError):
    """An optional package, a library or a device that the request needs is missing."""

    code = "missing_dependency"
    exit_code = 7


class StorageError(MaeError):
    """Storage or network failed; the same call may succeed later."""

    code = "storage"
    exit_code = 8
    default_retryable = True


class StillRunningError(StorageError):
    """The time to wait was over before the job had ended; the job goes on."""

    code = "still_running"
    exit_code = 9


class PreemptedError(MaeError):
    """Stopped by the scheduler after saving; a new attempt resumes."""

    code = "preempted"
    exit_code = 75
    default_retryable = True


def unusable_path(error: OSError, values: Mapping[str, Any]) -> MaeError:
    """What the system said of a path, with the field that holds it.

    Args:
        values: field → its value or values; the first whose text is in the path is named.
    """
    name = "" if error.filename is None else os.fsdecode(error.filename)
    field_of = next(
        (
            key
            for key, value in values.items()
            for one in (value if isinstance(value, (list, tuple)) else [value])
            if isinstance(one, str) and one and one.rstrip("/") in name
        ),
        None,
    )
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return UsageError(
            f"no file can be there: {os.strerror(error.errno).lower()}",
            field=field_of,
            got=name if len(name) <= 200 else f"{name[:200]}… ({len(name)} characters)",
            expected="a path whose names have at most 255 bytes each, and no links in a circle",
            hint="is it a list or a text in the place of a path?"
            if error.errno == errno.ENAMETOOLONG
            else "name the folder or file itself",
        )
    return StorageError(
        error.strerror or str(error),
        field=field_of,
        got=name or None,
        hint="fix the path, its permissions or its disk",
        expected="a place that can be read and written",
    )


def internal_error(error: Exception, hint: str) -> dict[str, Any]:
    """An exception that nobody foresaw, in the form of `MaeError.to_dict`."""
    return {
        "code": "internal",
        "message": f"{type(error).__name__}: {error}",
        "field": None,
        "got": None,
        "expected": None,
        "hint": hint,
        "retryable": False,
        "exit_code": 1,
    }


def shortened(value: int) -> int | str:
    """A whole number of many digits as its first ones and their count, which Python itself may
    refuse to write out; others as they are."""
    if value.bit_length() <= 128:
        return value
    digits = int((value.bit_length() - 1) * math.log10(2)) + 1
    digits += abs(value) >= 10**digits
    sign = "-" if value < 0 else ""
    return f"{sign}{abs(value) // 10 ** (digits - 6)}… ({digits} digits)"


def _without_secrets(value: Any) -> Any:
    """A copy in which no field that looks secret, and no user of a URL, is shown, and no number of
    many digits."""
    if isinstance(value, int):
        return shortened(value)
    if isinstance(value, str):
        return _USERINFO.sub(REDACTED, value) if "://" in value else value
    if isinstance(value, Mapping):
        return {
            name: REDACTED if looks_secret(str(name)) else _without_secrets(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_without_secrets(item) for item in value]
    return value


def _bounded(value: Any) -> Any:
    """A JSON value of bounded size: what is longer is text that ends in an ellipsis."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError):
        return _cut(repr(value))
    return value if len(text) <= MAX_TEXT else _cut(value if isinstance(value, str) else text)


def _cut(text: str | None, limit: int = MAX_TEXT) -> str | None:
    return text if text is None or len(text) <= limit else text[: limit - 1] + "…"


def _short(value: Any, limit: int = 200) -> str:
    try:
        text = (
            json.dumps(value, ensure_ascii=False)
            if isinstance(value, (str, int, float, bool, list, dict))
            else repr(value)
        )
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
