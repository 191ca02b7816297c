"""``status.json``: progress as JSON lines, appended as a whole line at a time.

Each line holds ``date, time, status, verbosity, message`` and, where they apply, ``kpi`` and on
epoch lines ``epoch, step, max_epoch, max_step, time_per_epoch, time_per_step, eta,
peak_memory_mb``. A number that
is not finite is written as null.
"""

from __future__ import annotations

import json
import math
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeGuard

from mae_sdk.files import parse_json, read_small
from mae_sdk.jobs.secrets import known, redact, redact_tree

_MAX_BYTES = 1 << 30

STARTED, RUNNING, SUCCESS, FAILURE, SKIPPED = "STARTED", "RUNNING", "SUCCESS", "FAILURE", "SKIPPED"


def finite(value: Any) -> Any:
    """`value` as JSON types: a number that is not finite becomes None, an unknown type its text."""
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    try:  # numpy scalars and zero-dimensional tensors
        return finite(value.item())
    except (AttributeError, ValueError, RuntimeError, TypeError):
        return str(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    try:
        is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_real and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


class StatusWriter:
    """Appends to a status file. One `write` call per line: concurrent readers see whole lines.

    Args:
        path: the ``status.json`` of the job; its folder is created. None writes nowhere (for ranks
            above 0).
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def started(self, message: str, **fields: Any) -> None:
        self._write(STARTED, message, "INFO", fields)

    def running(self, message: str, **fields: Any) -> None:
        """Progress; `fields` are the documented epoch fields and ``kpi``."""
        self._write(RUNNING, message, "INFO", fields)

    def success(self, message: str, kpi: dict[str, Any] | None = None, **fields: Any) -> None:
        self._write(SUCCESS, message, "INFO", {**fields, **({"kpi": kpi} if kpi else {})})

    def skipped(self, message: str, **fields: Any) -> None:
        self._write(SKIPPED, message, "WARNING", fields)

    def failure(self, message: str, error: dict[str, Any] | None = None, **fields: Any) -> None:
        self._write(FAILURE, message, "ERROR", {**fields, **({"error": error} if error else {})})

    def _write(self, status: str, message: str, verbosity: str, fields: dict[str, Any]) -> None:
        if self.path is None:
            return
        now = datetime.now(timezone.utc)
        line = {
            "date": now.strftime("%m/%d/%Y"),
            "time": now.strftime("%H:%M:%S"),
            "status": status,
            "verbosity": verbosity,
            "message": redact(message, known()),
        }
        if "error" in fields:
            fields = {**fields, "error": redact_tree(fields["error"], known())}
        text = json.dumps({**line, **finite(fields)}, allow_nan=False) + "\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if (
                size and os.pread(descriptor, 1, size - 1) != b"\n"
            ):  # a writer died in the middle of a line: close it off
                text = "\n" + text
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def parse_status(text: str) -> list[dict[str, Any]]:
    """The whole lines of a status file; torn ones are left out."""
    lines = []
    for raw in text.splitlines():
        try:
            line = parse_json(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def read_status(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a status file, oldest first, without torn ones; none of a file that cannot be
    read."""
    try:
        return parse_status(read_small(Path(path), _MAX_BYTES))
    except OSError:
        return []


def metrics_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest value of every kpi."""
    latest: dict[str, Any] = {}
    for line in lines:
        kpi = line.get("kpi")
        if isinstance(kpi, dict):
            latest.update(kpi)
    return latest
