"""The standard streams of a process: open, honest about a closed pipe, free of secrets and of what
a terminal would obey."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from mae_skill.spelling import printable, write_anything

from mae_sdk.jobs.secrets import known, redact

CLOSED_PIPE_EXIT = 141
"""As a shell reports a program that SIGPIPE ended: ``mae … | head`` is no fault of anybody."""


def whole_streams() -> None:
    """Have all three standard streams open, whatever the caller closed.

    Else the first file that is opened gets the number of a closed one (``mae train >&-``), and what
    any library prints goes into that file. A character that the encoding of a stream lacks is
    printed as an escape.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            hole = os.open(os.devnull, os.O_RDWR)
            if hole != number:  # `dup2` makes it inheritable, as a standard stream has to be
                os.dup2(hole, number)
                os.close(hole)
            os.set_inheritable(number, True)

        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        elif mode == "w" and hasattr(getattr(sys, name), "reconfigure"):
            write_anything(getattr(sys, name))


def is_closed() -> bool:
    """Whether the reader of stdout or stderr has gone; False where the system cannot tell."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)  # errors are reported unasked
    return any(state & select.POLLERR for _, state in poll.poll(0))


def drop_output() -> None:
    """Nothing more is printed: what waits in the streams cannot be written, at the end neither."""
    hole = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(hole, number)
    os.close(hole)


class _CleanBytes(io.RawIOBase):
    """The binary side of `_Clean`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, block: Any) -> int:
        content = bytes(block)
        text = printable(redact(content.decode("utf-8", "surrogateescape"), known()))
        self.stream.flush()
        self.stream.buffer.write(text.encode("utf-8"))
        self.stream.buffer.flush()
        return len(content)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.stream.fileno()


class _Clean(io.TextIOBase):
    """A text stream that takes the known secrets out of what is written, and spells what a terminal
    would obey.

    Attributes:
        stream: the stream behind it, for bars that draw by such commands.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(redact(text, known())))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def buffer(self) -> _CleanBytes:
        """For who writes bytes, as click does where the encoding of the stream is ASCII."""
        if not hasattr(self.stream, "buffer"):  # text alone, such as io.StringIO
            raise AttributeError("buffer")
        return _CleanBytes(self.stream)

    def reconfigure(self, **options: object) -> None:
        """As of the stream behind it, where that can be."""
        change = getattr(self.stream, "reconfigure", None)
        if change is not None:
            change(**options)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.stream.errors


def drawn_on(stream: TextIO) -> TextIO:
    """The stream behind a clean one, for a progress bar: it draws by commands to the terminal, and
    shows words and numbers of ours alone."""
    return stream.stream if isinstance(stream, _Clean) else stream


@contextlib.contextmanager
def clean_output() -> Iterator[None]:
    """What the block prints holds no known secret and no command to a terminal, tracebacks and what
    libraries say included."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Clean(before[0]), _Clean(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
