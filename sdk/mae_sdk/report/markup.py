"""Elements of HTML and SVG in which everything that a user named is escaped."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup, escape


def element(name: str, *content: Any, **attributes: Any) -> Markup:
    """An element; content and attribute values are escaped, unless they are elements themselves.

    Args:
        attributes: ``class_`` stands for ``class``, ``aria_label`` for ``aria-label``; None is left
            out.
    """
    words = [
        f' {escape(key.rstrip("_").replace("_", "-"))}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inner = Markup("").join(item for item in content if item is not None)
    return Markup(f"<{name}{''.join(words)}>{inner}</{name}>")


def _short(value: Any) -> Any:
    """Coordinates with a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def number(value: Any, digits: int = 4) -> str:
    """A figure for people: ``0.9123``, ``12,345``, ``3.2e-05``; ``–`` where there is none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if value != value or value in (float("inf"), float("-inf")):
        return "not finite"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(value: Any) -> str:
    """A share as ``91.2 %``."""
    if not isinstance(value, (int, float)) or value != value:
        return "–"
    return f"{math.floor(1000 * value + 0.5) / 10:.1f} %"  # half up: 5 of 16 and 3 of 16 alike


def together(text: str) -> str:
    """A text in which a figure and its sign stay in one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def seconds(value: Any) -> str:
    """``95`` → ``1 min 35 s``."""
    if not isinstance(value, (int, float)) or value != value or value < 0:
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    total = round(value)
    days, rest = divmod(total, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"


def size(count: Any) -> str:
    """Bytes as ``12.3 MB``."""
    if not isinstance(count, (int, float)):
        return "–"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
