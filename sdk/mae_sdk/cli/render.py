"""What commands print: data on stdout, talk on stderr, bounded, with the next sensible commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mae_skill.errors import MaeError

MAX_LINES = 60
"""Lines that a person or an agent gets unasked; every cut says how to see the rest."""


def json_option(command: Any) -> Any:
    """``--json``, on every command."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="One JSON document on stdout, errors as one JSON object on stderr.",
    )(command)


def results_root_option(command: Any) -> Any:
    """``--results-root``, where jobs live."""
    return click.option(
        "--results-root",
        metavar="URI",
        default=None,
        help="Where jobs live: a folder or a URL. Default: $MAE_RESULTS_ROOT, else ./mae-results.",
    )(command)


def emit(
    document: Any, *, as_json: bool, text: str | None = None, next_commands: Sequence[str] = ()
) -> None:
    """Print one response.

    Args:
        document: what ``--json`` prints; a mapping gains ``next`` (list of commands) unless it has
            one.
        text: what a person reads; the document as indented JSON when None.
        next_commands: the sensible next commands, on stderr for people.
    """
    if as_json:
        if isinstance(document, Mapping) and next_commands and "next" not in document:
            document = {**document, "next": list(next_commands)}
        click.echo(dumps(document))
        return
    click.echo(text if text is not None else dumps(document))
    suggest(next_commands)


def suggest(commands: Sequence[str]) -> None:
    """The next sensible commands, on stderr."""
    if commands:
        click.echo("\nnext:\n" + "\n".join(f"  {command}" for command in commands), err=True)


def say(text: str) -> None:
    """Talk: to stderr, never among the data."""
    click.echo(text, err=True)


def dumps(document: Any) -> str:
    """Strict JSON (no NaN), indented; paths and other foreign values as text."""
    return json.dumps(_finite(document), indent=2, default=str, allow_nan=False, ensure_ascii=False)


def one_line(document: Any) -> str:
    """Strict JSON on one line, also for readers who take Unicode's own line separators for line
    ends."""
    text = json.dumps(_finite(document), default=str, allow_nan=False, ensure_ascii=False)
    return text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def print_error(error: MaeError, *, as_json: bool) -> None:
    """One error with all its problems on stderr: text for people, a line of JSON for machines."""
    if as_json:
        sys.stderr.write(one_line(error.to_dict()) + "\n")
    else:
        sys.stderr.write(f"error [{error.code}] {error}\n")


def bounded(lines: Sequence[str], *, more: str, limit: int = MAX_LINES) -> str:
    """At most ``limit`` lines, then how to get the rest."""
    if len(lines) <= limit:
        return "\n".join(lines)
    return "\n".join([*lines[:limit], f"… {len(lines) - limit} more: {more}"])


def table(rows: Iterable[Sequence[Any]], head: Sequence[str]) -> str:
    """Plain aligned columns: readable in a terminal, a log and a model's context alike."""
    cells = [[str(cell) if cell is not None else "-" for cell in row] for row in rows]
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(head)]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(head), *cells]
    ]
    return "\n".join(lines)


def pairs(items: Mapping[str, Any], indent: str = "") -> str:
    """``key  value`` lines, aligned."""
    width = max((len(key) for key in items), default=0)
    return "\n".join(f"{indent}{key.ljust(width)}  {show(value)}" for key, value in items.items())


def show(value: Any, limit: int = 160) -> str:
    """A value on one line."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = json.dumps(value, default=str, ensure_ascii=False)
    text = text.replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def seconds(value: float | None) -> str:
    """``95`` → ``1m35s``."""
    if value is None:
        return "unknown"
    total = round(value)
    if total < 60:
        return (
            f"{value * 1000:.0f}ms"
            if 0 < value < 1
            else f"{value:.1f}s"
            if value < 10
            else f"{total}s"
        )
    hours, rest = divmod(total, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{left:02d}s"


def size(count: float | None) -> str:
    """Bytes in binary units."""
    if count is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
