"""The pictures that a run left in its folder, cut out of their sheets and laid on the page.

The runner writes ``<action>/pictures/gallery.json`` and PNG sheets beside it; a sheet is a grid of
tiles of one size. A page has a budget: where the tiles would pass it, large ones become JPEG, and
what still does not fit is left out and counted.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mae_sdk.job import content_of
from mae_sdk.jobs.metrics import mapping
from mae_sdk.jobs.status import is_number
from mae_sdk.report import charts, judged
from mae_sdk.report.blocks import (
    Block,
    Board,
    Figure,
    Legend,
    Scale,
    Section,
    Sheet,
    Strip,
    Text,
    Tile,
)
from mae_sdk.report.charts import Dot
from mae_sdk.report.facts import Facts, as_list, base
from mae_sdk.report.markup import percent

INDEX = "pictures/gallery.json"
BUDGET = 3 << 20
"""Bytes of pictures on a page, before they are written as text."""
PLAIN_BYTES = 24 << 10
"""Of a tile as PNG; a larger one becomes JPEG."""
MAX_TILE = 256
MAX_NAMES = 60
"""Of a legend."""


@dataclass
class Gallery:
    """The pictures of one job, taken from a common budget."""

    facts: Facts
    left: int = BUDGET
    dropped: int = 0

    @property
    def index(self) -> Mapping[str, Any]:
        return self.facts.document(f"{self.facts.action}/{INDEX}")

    def sheets(self, kind: str) -> list[Mapping[str, Any]]:
        """The sheets of a kind, oldest first."""
        listed = [mapping(one) for one in as_list(self.index.get("sheets"))]
        return [one for one in listed if one.get("kind") == kind]

    def tiles(self, sheet: Mapping[str, Any]) -> list[list[str]]:
        """Data URIs of a sheet's tiles, row by row; empty where it cannot be read."""
        from PIL import Image

        name = PurePosixPath(str(sheet.get("file"))).name
        content = content_of(self.facts.job, f"{self.facts.action}/pictures/{name}")
        size = as_list(sheet.get("tile"))
        columns, rows = sheet.get("across"), as_list(sheet.get("rows"))
        if content is None or len(size) != 2 or not isinstance(columns, int):
            return []
        height, width = size
        if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
            return []
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
                picture = opened.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError):
            return []
        found = []
        for row in range(min(len(rows), picture.height // height)):
            cut = []
            for column in range(min(columns, picture.width // width)):
                corner = (column * width, row * height)
                box = (*corner, corner[0] + width, corner[1] + height)
                cut.append(self._uri(picture.crop(box)))
            found.append(cut)
        return found

    def _uri(self, tile: Any) -> str:
        """The tile as a data URI; empty where the page has no room left."""
        if max(tile.size) > MAX_TILE:
            tile.thumbnail((MAX_TILE, MAX_TILE))
        stream, kind = io.BytesIO(), "png"
        tile.save(stream, "PNG", optimize=False)
        if stream.tell() > PLAIN_BYTES:
            stream, kind = io.BytesIO(), "jpeg"
            tile.save(stream, "JPEG", quality=85)
        content = stream.getvalue()
        if len(content) > self.left:
            self.dropped += 1
            return ""
        self.left -= len(content)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


NEARLY_ALL = 0.9
"""Of the variance of features in two axes: then they are nearly flat, and the page says so."""


def sections(facts: Facts, budget: int = BUDGET) -> list[Section]:
    """Everything that the run left to look at, in so many bytes."""
    gallery = Gallery(facts, budget)
    found = [
        reconstructions(gallery),
        progress(gallery),
        overlays(gallery),
        mistakes(gallery),
        listed(gallery, "answers", "Answers"),
        listed(gallery, "uncertain", "Least certain images"),
        neighbors(gallery),
        attention(gallery),
        embedding(gallery),
    ]
    shown = [one for one in found if one is not None]
    if gallery.dropped and shown:
        shown[-1].blocks.append(
            Text(f"{gallery.dropped} pictures did not fit; they are in the job's folder.", "note")
        )
    return shown


def _of_epoch(sheet: Mapping[str, Any]) -> str:
    """`` of epoch 3`` where the sheet says which."""
    epoch = sheet.get("epoch")
    return f" of epoch {epoch}" if isinstance(epoch, int) else ""


def scale(sheet: Mapping[str, Any]) -> list[Block]:
    """What the colors of a sheet's maps stand for."""
    about = mapping(sheet.get("scale"))
    stops = [_hex(one) for one in as_list(about.get("colors"))]
    known = [stop for stop in stops if stop]
    if len(known) < 2:
        return []
    return [Scale(known, str(about.get("low") or ""), str(about.get("high") or ""))]


def _hex(color: Any) -> str:
    """``#rrggbb`` of ``[r, g, b]``; empty where it is none."""
    parts = as_list(color)
    if len(parts) != 3 or not all(isinstance(one, int) and 0 <= one < 256 for one in parts):
        return ""
    return "#{:02x}{:02x}{:02x}".format(*parts)


def _board(gallery: Gallery, sheet: Mapping[str, Any]) -> Board | None:
    """A sheet with its column titles and row names."""
    titles = [str(title) for title in as_list(sheet.get("columns"))]
    strips = []
    for row, sources in zip(as_list(sheet.get("rows")), gallery.tiles(sheet), strict=False):
        about = mapping(row)
        name = str(about.get("name") or "")
        tiles = [
            Tile(source, f"{title}: {name}")
            for source, title in zip(sources, titles, strict=False)
            if source
        ]
        if tiles:
            strips.append(Strip(name, tiles, str(about.get("note") or "")))
    if not strips:
        return None
    return Board(titles, strips, str(sheet.get("note") or ""))


def reconstructions(gallery: Gallery) -> Section | None:
    """The newest reconstructions."""
    sheets = gallery.sheets("reconstruction")
    board = _board(gallery, sheets[-1]) if sheets else None
    if board is None:
        return None
    epoch = sheets[-1].get("epoch")
    when = f" after epoch {epoch}" if isinstance(epoch, int) else ""
    kept = mapping(gallery.facts.figures.get("best_checkpoint")).get("epoch")
    if when and isinstance(kept, int) and kept != epoch:
        when += f", the newest; the best checkpoint that is kept is of epoch {kept}"
    lead = f"What the model makes of hidden patches{when}."
    return Section("Reconstructions", [board, *scale(sheets[-1])], lead)


def progress(gallery: Gallery) -> Section | None:
    """The same images over the epochs: the prediction of each epoch that was kept."""
    sheets = gallery.sheets("progress")
    if len(sheets) < 2:
        return None
    shown = sheets if len(sheets) <= 6 else [sheets[i * (len(sheets) - 1) // 5] for i in range(6)]
    cut = [gallery.tiles(sheet) for sheet in shown]
    titles = [f"epoch {sheet.get('epoch')}" for sheet in shown]
    strips = []
    for place, row in enumerate(as_list(shown[-1].get("rows"))[:4]):
        name = str(mapping(row).get("name") or "")
        tiles = [
            Tile(rows[place][0], f"{title}: {name}")
            for rows, title in zip(cut, titles, strict=True)
            if place < len(rows) and rows[place] and rows[place][0]
        ]
        if len(tiles) == len(titles):
            strips.append(Strip(name, tiles))
    if not strips:
        return None
    note = str(shown[-1].get("note") or "")
    return Section("Over the epochs", [Board(titles, strips, note)])


def overlays(gallery: Gallery) -> Section | None:
    """Image, truth and answer of a segmenter, and its worst images."""
    blocks: list[Block] = []
    when = ""
    shown: set[str] = set()
    for kind, title in (("segmentation", ""), ("worst", "Worst images")):
        sheets = gallery.sheets(kind)
        when = when or (_of_epoch(sheets[-1]) if sheets else "")
        board = _board(gallery, sheets[-1]) if sheets else None
        names = {strip.name for strip in board.strips} if board is not None else set()
        if board is not None and not names <= shown:  # of few images the worst are those above
            shown |= names
            if title:
                blocks.append(Text(f"{title}, by their own mIoU:"))
            blocks.append(board)
    if not blocks:
        return None
    unlabeled = Text("Black pixels of the truth are not labeled, and do not count.", "note")
    return Section(f"Masks{when}", [*legend(gallery), unlabeled, *blocks])


def legend(gallery: Gallery) -> list[Block]:
    """The colors of the classes in masks; none without masks."""
    entries = []
    for row in as_list(gallery.index.get("legend"))[:MAX_NAMES]:
        if color := _hex(mapping(row).get("color")):
            entries.append((str(mapping(row).get("class")), color))
    return [Legend(entries)] if entries else []


def listed(gallery: Gallery, kind: str, title: str) -> Section | None:
    """Pictures that flow, with their lines: mistakes, uncertain images, answers."""
    sheets = gallery.sheets(kind)
    if not sheets:
        return None
    sheet, tiles = sheets[-1], []
    for row, sources in zip(as_list(sheet.get("rows")), gallery.tiles(sheet), strict=False):
        about = mapping(row)
        lines = [str(line) for line in as_list(about.get("lines"))]
        name = str(about.get("name") or "")
        if sources and sources[0]:
            tone = str(about.get("tone") or "")
            alt = f"{base(name)}: {', '.join(lines)}"
            tone = tone if tone in ("good", "bad") else ""
            tiles.append(Tile(sources[0], alt, [*lines, base(name)], tone))
    if not tiles:
        return None
    title += _of_epoch(sheet)
    return Section(title, [*legend(gallery), Sheet(tiles, str(sheet.get("note") or ""))])


def mistakes(gallery: Gallery) -> Section | None:
    """The surest wrong answers; of a model that always answers the same none is surer than another
    by anything in its image."""
    section = listed(gallery, "mistakes", "Most confident mistakes")
    only = judged.only_answer(gallery.facts)
    if section is None or only is None:
        return section
    text = f"Left out: every image is taken for {only}, so that its mistakes are all the others."
    return Section(section.title, [Text(text, "note")])


def neighbors(gallery: Gallery) -> Section | None:
    """A few images and what lies nearest to them in the space of features."""
    sheets = gallery.sheets("neighbors")
    board = _board(gallery, sheets[-1]) if sheets else None
    return None if board is None else Section(f"Nearest neighbors{_of_epoch(sheets[-1])}", [board])


def attention(gallery: Gallery) -> Section | None:
    """Where the answer comes from."""
    sheets = gallery.sheets("attention")
    board = _board(gallery, sheets[-1]) if sheets else None
    return None if board is None else Section("Where it looks", [board, *scale(sheets[-1])])


def embedding(gallery: Gallery) -> Section | None:
    """The map of features in two dimensions."""
    maps = [mapping(one) for one in as_list(gallery.index.get("maps"))]
    figures: list[Block] = []
    for one in maps:
        classes = [str(name) for name in as_list(one.get("classes"))]
        names = as_list(one.get("names"))
        dots = []
        for place, point in enumerate(as_list(one.get("points"))):
            if not (isinstance(point, list) and len(point) == 3):
                continue
            x, y, label = point
            known = isinstance(label, int) and 0 <= label < len(classes)
            name = base(names[place]) if place < len(names) else ""
            title = f"{classes[label]}: {name}" if known else name
            if is_number(x) and is_number(y):
                dots.append(Dot(float(x), float(y), label if known else None, title))
        method = str(one.get("method") or "")
        drawing = charts.scatter(dots, classes, f"Map of features ({method})", axes=False)
        if drawing is not None:
            note = str(one.get("note") or "")
            explained = one.get("explained")
            if is_number(explained):
                note += f" The two axes hold {percent(explained)} of the variance."
                if explained > NEARLY_ALL:
                    note += " In all others the features of these images hardly differ."
            figures.append(Figure(method, drawing, note.strip()))
    when = _of_epoch(maps[-1]) if maps else ""
    return Section(f"Map of features{when}", figures) if figures else None
