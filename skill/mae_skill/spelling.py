"""How names and messages are spelled where not every character can stand: in files, on terminals.

Two spellings, one way back (`original`):

`spelled`, for files (JSON, CSV, records): every text becomes valid Unicode. A byte of a file name
that is not UTF-8 (Python keeps it as a lone surrogate, PEP 383) becomes ``\\xe9``, another lone
surrogate ``\\ud83d``. A backslash of the name itself is doubled where it would read as the
beginning of such an escape. All other names stay as they are.

`printable`, for terminals and logs: what a terminal would obey or hide (control characters, the C1
set, marks that turn the direction of text, separators of lines, invisible marks) becomes
``\\u001b`` as well. It is meant for whole messages, so backslashes are not doubled.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Collection, Iterable
from typing import Any, TextIO

# C0 and C1 with DEL, invisible and direction marks, line separators, lone surrogates, annotation
# marks, the byte order mark.
_MARKS = "\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[\\x00-\\x1f\\x7f-\\x9f{_MARKS}]")
_OF_A_MESSAGE = re.compile(f"[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f{_MARKS}]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_AMBIGUOUS = re.compile(
    f"\\\\(?=\\\\|x[0-9a-f]{{2}}|u[0-9a-f]{{4}}|[\\x00-\\x1f\\x7f-\\x9f{_MARKS}])"
)
_ESCAPE = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4}))")


def spelled(name: str) -> str:
    """A name as valid Unicode that tells names apart, for files; `original` gives the name back."""
    return _SURROGATE.sub(_escape, _AMBIGUOUS.sub(r"\\\\", name))


def shown(name: str) -> str:
    """A name on one line of a terminal or a log; `original` gives the name back."""
    return _UNPRINTABLE.sub(_escape, _AMBIGUOUS.sub(r"\\\\", name))


def valid_text(text: str) -> str:
    """A text as valid Unicode: that of `spelled` names it is already, and stays as it is."""
    return _SURROGATE.sub(_escape, text)


def printable(text: str) -> str:
    """A message without anything that a terminal obeys or hides, but for ends of lines and tabs."""
    return _OF_A_MESSAGE.sub(_escape, text)


def one_line(text: str) -> str:
    """`printable`, with ends of lines and tabs escaped too: for what must not add a line."""
    return _UNPRINTABLE.sub(_escape, text)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `known` that `name` may be a misspelling of.

    Args:
        cutoff: the least likeness, 0 to 1, as of `difflib.get_close_matches`.
    """
    import difflib  # a supervisor needs it for errors alone

    return next(iter(difflib.get_close_matches(name, list(known), 1, cutoff)), None)


def count_of(count: Any, what: str) -> str:
    """``1 image``, ``1,200 images``, ``2 pairs of image and class``; ``– images`` of none known."""
    first, _, rest = what.partition(" ")
    number = f"{count:,}" if isinstance(count, int) else "–"
    return " ".join(word for word in (number, first if count == 1 else f"{first}s", rest) if word)


def and_more(names: Collection[Any], most: int = 8) -> str:
    """The first names, and how many more there are: ``a, b and 3 more``."""
    shown = ", ".join(map(str, itertools.islice(names, most)))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def json_printable(text: str) -> str:
    """A JSON text with the same characters as JSON's own escapes: the same document."""
    return _OF_A_MESSAGE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def original(text: str) -> str:
    """The name that `spelled` or `shown` made this of; what is no escape stays as it is.

    The name's bytes are ``os.fsencode(original(text))``.
    """
    return _ESCAPE.sub(_unescape, text)


def write_anything(stream: TextIO) -> None:
    """Let a stream of a narrow encoding (ASCII, Latin-1) write what that lacks as escapes, instead
    of failing."""
    codecs.register_error("mae.spelled", _encode)
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="mae.spelled")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _unescape(found: re.Match[str]) -> str:
    backslash, byte, code = found.groups()
    if backslash:
        return "\\"
    if code:
        return chr(int(code, 16))
    number = int(byte, 16)
    return chr(0xDC00 + number) if number >= 0x80 else found[0]


def _encode(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(_escape(match) for code in codes if (match := _ANY.match(chr(code)))), error.end


_ANY = re.compile(".", re.DOTALL)


def source_option(name: Any) -> str:
    """The option of the command line that gives a source."""
    if name in ("train_datasets", "eval_dataset", "inference_dataset"):
        return f"--{name.replace('_', '-')} URI"
    return f"--source {name}=URI"


TAKEN = "the model takes pictures of"
"""How a picture is refused that is read as a trained model says: no setting changes it."""
