"""What a page is made of. The templates draw each kind of block in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup


@dataclass
class Text:
    """A paragraph; `tone` is ``""``, ``note``, ``warning`` or ``error``."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = ""


@dataclass
class Code:
    """Lines that are shown as they are: a command, the end of a log."""

    kind: ClassVar[str] = "code"
    text: str
    label: str = ""


@dataclass
class Table:
    """A table; `collapsed` hides it behind its caption, as the numbers of a chart.

    Attributes:
        numeric: columns that are aligned right.
        marked: rows that stand out.
        stacked: on a narrow screen the cells of a row are below each other, with their headings.
    """

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    numeric: Sequence[int] = ()
    marked: Sequence[int] = ()
    collapsed: bool = False
    stacked: bool = False


@dataclass
class Bar:
    """A cell of a table that is drawn as a bar: `share` in 0…1, an interval in 0…1, and a `mark`
    in 0…1 to hold it against."""

    share: float
    text: str
    low: float | None = None
    high: float | None = None
    mark: float | None = None


@dataclass
class Figure:
    """A chart with its title, a caption and its numbers."""

    kind: ClassVar[str] = "figure"
    title: str
    drawing: Markup
    caption: str = ""
    table: Table | None = None


@dataclass
class Figures:
    """Charts side by side where there is room."""

    kind: ClassVar[str] = "figures"
    items: Sequence[Figure]


@dataclass
class Matrix:
    """Counts of true against predicted classes, shaded by the share of the row."""

    kind: ClassVar[str] = "matrix"
    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    caption: str = ""


@dataclass
class Tile:
    """A picture: `source` is a data URI, `alt` what it shows in words."""

    source: str
    alt: str
    lines: Sequence[str] = ()
    tone: str = ""


@dataclass
class Strip:
    """A row of pictures with its name."""

    name: str
    tiles: Sequence[Tile]
    note: str = ""


@dataclass
class Board:
    """Rows of pictures under common titles."""

    kind: ClassVar[str] = "board"
    titles: Sequence[str]
    strips: Sequence[Strip]
    caption: str = ""
    side: int = 150


@dataclass
class Sheet:
    """Pictures that flow, each with its lines of text."""

    kind: ClassVar[str] = "sheet"
    tiles: Sequence[Tile]
    caption: str = ""


@dataclass
class Legend:
    """Names beside their colors, ``#rrggbb``."""

    kind: ClassVar[str] = "legend"
    entries: Sequence[tuple[str, str]]


@dataclass
class Scale:
    """What the colors of a map stand for: the stops of the scale, ``#rrggbb``, and what its ends
    mean."""

    kind: ClassVar[str] = "scale"
    colors: Sequence[str]
    low: str
    high: str


Block = Text | Code | Table | Figure | Figures | Matrix | Board | Sheet | Legend | Scale


@dataclass
class Section:
    """A part of the page with a heading."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    lead: str = ""
    prefix: str = ""

    @property
    def anchor(self) -> str:
        """Its place in the page; `prefix` tells the sections of several jobs apart."""
        text = f"{self.prefix} {self.title}".lower()
        letters = "".join(one if one.isalnum() else "-" for one in text)
        return "-".join(part for part in letters.split("-") if part)


@dataclass
class Card:
    """A part of the first screen.

    Attributes:
        figure: the large text.  lines: below it.  code: a command.
        tone: ``""``, ``good``, ``warning`` or ``error``.
        sure: of a result the one line of `lines` that holds its own interval.
    """

    title: str
    figure: str = ""
    lines: Sequence[str] = ()
    code: str = ""
    tone: str = ""
    wide: bool = False
    listed: bool = False
    sure: str = ""


@dataclass
class Link:
    """A link to another page, in words."""

    text: str
    target: str
