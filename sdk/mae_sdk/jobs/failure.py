"""Why a run failed: a category, the first lines of the log that matter, and a hint."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path
from typing import Any

from mae_sdk.files import free_bytes, read_json
from mae_sdk.jobs.records import Failure

CATEGORIES = (
    "out_of_memory",
    "data",
    "spec",
    "numeric",
    "signal",
    "lost_process",
    "dependency",
    "storage",
    "checkpoint",
    "runner",
)

_OF_CODE = {
    "spec_invalid": "spec",
    "usage": "spec",
    "data": "data",
    "not_found": "data",
    "checkpoint": "checkpoint",
    "missing_dependency": "dependency",
    "storage": "storage",
    "numeric": "numeric",
    "out_of_memory": "out_of_memory",
}
_OF_EXIT = {2: "spec", 3: "data", 4: "data", 7: "dependency", 8: "storage", 127: "dependency"}
_PATTERNS = [
    (
        "out_of_memory",
        (
            r"out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|MemoryError"
            r"|Cannot allocate memory|std::bad_alloc"
        ),
    ),
    (
        "dependency",
        r"ModuleNotFoundError|ImportError|command not found|cannot open shared object file",
    ),
    (
        "numeric",
        (
            r"loss is (nan|inf)|non-finite|\bNaN\b.*(loss|grad)|(loss|grad).*\bNaN\b"
            r"|FloatingPointError"
        ),
    ),
    (
        "storage",
        r"No space left on device|EndpointConnectionError|NoSuchBucket|AccessDenied|ConnectTimeout",
    ),
    (
        "data",
        r"UnidentifiedImageError|truncated|FileNotFoundError|no images|No such file or directory",
    ),
    ("spec", r"spec_invalid|ValidationError"),
]
_HINTS = {
    "out_of_memory": "halve the batch size and double accum_grad_batches, or turn gradient "
    "checkpointing on",
    "dependency": "install the missing package or extra in the environment that runs the job",
    "numeric": "lower the learning rate, clip gradients, or use fp32/bf16 instead of fp16",
    "storage": "check space, credentials and endpoint, then resume the job",
    "data": "look at the source with `mae inspect SOURCE`",
    "spec": "check the spec with `mae validate`",
    "signal": "the runner was killed from outside; resume the job to go on from its last "
    "checkpoint",
    "lost_process": "the supervisor or its machine died; resume the job to go on from its last "
    "checkpoint",
    "checkpoint": "choose another checkpoint with --checkpoint, or another file with --ptm",
    "runner": "see the log",
}
_HINTS_ELSEWHERE = {
    "out_of_memory": "a smaller batch, or less of the model or the data at a time, in the words of "
    "its bundle; `mae explain` lists its fields",
    "numeric": "a lower learning rate, clipped gradients or another precision, in the words of its "
    "bundle",
}
"""Of runners of other makes, which may have no such fields."""

_NOT_FOUND = 127
"""What every shell says of a command that is not there; a runner's other codes are its own."""

_BROKEN_PIPE = 128 + 13
"""What a shell says of a command that SIGPIPE ended; with `pipefail` the pipeline says it too."""

_OWN_SIGNALS = frozenset(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
    if hasattr(signal, name)
)
"""Signals by which a process ends itself: nobody sent them."""
_CRASHED = (
    "a library crashed, nobody killed the runner: --env PYTHONFAULTHANDLER=1 shows where in the "
    "log; --env OMP_NUM_THREADS=1 mends crashes of several threads; resume the job to go on from "
    "its last checkpoint"
)
_WHOLE_PIPE = "read all of it in the bundle's command, as `sed -n 1,10p` does, or write to a file"
_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded|no room for", re.IGNORECASE)
_RAISED = re.compile(r"(?:\[rank \d+\] )?[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)(?::|$)")
"""The line that ends a Python traceback."""
_NOISE = re.compile(r"^\s*$|warning", re.IGNORECASE)


def category_of(code: str, exit_code: int | None = None) -> str:
    """The category of an error by its code, else by the exit code of the runner."""
    return _OF_CODE.get(code) or _OF_EXIT.get(exit_code or 1, "runner")


def failure(
    category: str,
    message: str,
    *,
    lines: list[str] | None = None,
    error: dict[str, Any] | None = None,
    hint: str | None = None,
) -> Failure:
    """The ``failure`` of an attempt: ``category, message, lines, hint, error``."""
    hint = hint or (error or {}).get("hint") or _HINTS[category]
    return {
        "category": category,
        "message": message,
        "lines": lines or [],
        "hint": hint,
        "error": error,
    }


def analyze(
    job_dir: Path,
    exit_code: int,
    *,
    rank: int | None = None,
    log_start: int = 0,
    is_own: bool = True,
    said: str | None = None,
) -> Failure:
    """Explain an exit code from the error that the runner left, else from what it reported, else
    from the log.

    Args:
        job_dir: the job folder.
        exit_code: of the rank that failed first; negative for a signal, as in `subprocess`.
        rank: which one it was.
        log_start: where in the log the attempt begins, in bytes; earlier attempts explain nothing.
        is_own: whether the runner has our exit codes; those of another make are its own.
        said: the message of the failure that ends its status file.
    """
    found = _analyzed(job_dir, exit_code, rank, log_start, is_own, said)
    category = found["category"]
    if not is_own and found["error"] is None and found["hint"] == _HINTS[category]:
        found["hint"] = _HINTS_ELSEWHERE.get(category, found["hint"])
    return found


def _analyzed(
    job_dir: Path,
    exit_code: int,
    rank: int | None,
    log_start: int,
    is_own: bool,
    said: str | None,
) -> Failure:
    who = "the runner" if not rank else f"rank {rank} of the runner"
    try:
        error = read_json(job_dir / "error.json")
        category = category_of(str(error.get("category") or error.get("code")), exit_code)
        return failure(
            category,
            str(error.get("message", "")) or f"{who} ended with exit code {exit_code}",
            error=error,
        )
    except (OSError, ValueError, AttributeError):
        pass

    tail = _tail(job_dir / "log.txt", log_start)
    if said and exit_code > 0:
        category = next((name for name, found in _PATTERNS if re.search(found, said)), "runner")
        message = f"{who} ended with exit code {exit_code}: {said}"
        return failure(category, message, lines=_last(tail))
    if exit_code == _BROKEN_PIPE:
        message = (
            f"{who} ended with exit code {exit_code}: a command of its pipeline wrote to one that "
            "had stopped reading, as before `head`"
        )
        return failure("runner", message, lines=_last(tail), hint=_WHOLE_PIPE)
    telling = [index for index, line in enumerate(tail) if not _NOISE.search(line)]
    raised = [index for index in telling if _RAISED.match(tail[index])]
    if raised:  # the exception that ended it tells more than anything before
        telling = raised[-1:]
    for category, pattern in _PATTERNS:
        found = [index for index in telling if re.search(pattern, tail[index])]
        if found:
            line = tail[found[-1]].strip()
            return failure(
                category,
                f"{who} ended with exit code {exit_code}: {line[:300]}",
                lines=_around(tail, found[-1]),
            )

    if exit_code < 0:
        name = _signal_name(-exit_code)
        if -exit_code in _OWN_SIGNALS:
            message = f"{who} crashed in native code: {name}"
            return failure("signal", message, lines=_last(tail), hint=_CRASHED)
        message = f"{who} was killed by {name}"
        if -exit_code == signal.SIGKILL:
            message += "; on Linux the kernel also ends a process so when memory runs out"
        return failure("signal", message, lines=_last(tail))

    lines = _around(tail, raised[-1]) if raised else _last(tail)
    last = tail[raised[-1]] if raised else lines[-1] if lines else ""
    message = f"{who} ended with exit code {exit_code}"
    if last:
        message += f": {last.strip()[:300]}"
    is_known = is_own or exit_code == _NOT_FOUND
    category = _OF_EXIT.get(exit_code, "runner") if is_known else "runner"
    return failure(category, message, lines=lines)


def explain_loss(job_dir: Path, problem: Failure) -> Failure:
    """The failure of a run whose supervisor is gone, with the true reason where one was left.

    A full disk ends a supervisor that cannot write what it has to say.
    """
    tail = _tail(job_dir / "log.txt", 0, size=8192)
    with contextlib.suppress(OSError, ValueError):
        error = read_json(job_dir / "error.json")
        tail.append(str(error.get("message") or ""))
    full = [index for index, line in enumerate(tail) if _NO_ROOM.search(line)]
    if full:
        message = f"{problem['message']}: {tail[full[-1]].strip()[:300]}"
        return failure("storage", message, lines=_around(tail, full[-1]))
    try:
        is_full = free_bytes(job_dir) == 0
    except OSError:
        is_full = False
    if is_full:
        return failure("storage", f"{problem['message']}: no space left on its disk")
    return problem


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(path: Path, start: int, size: int = 65536) -> list[str]:
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, start, stream.tell() - size))
            return stream.read(size).decode(errors="replace").splitlines()
    except OSError:
        return []


def _around(lines: list[str], index: int, span: int = 4) -> list[str]:
    return [line.rstrip()[:300] for line in lines[max(0, index - span) : index + 2] if line.strip()]


def _last(lines: list[str], count: int = 8) -> list[str]:
    return [line.rstrip()[:300] for line in lines if not _NOISE.search(line)][-count:]
