"""Pictures for the job's report: PNG sheets in ``<action>/pictures/``, and what they show.

A sheet is a grid of tiles of one size, without text. ``gallery.json`` names its columns and rows;
the report cuts the tiles out and puts the words beside them (`mae_sdk.report.gallery`). Few tiles,
small ones: a folder of pictures stays below some megabytes.
"""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mae_sdk.data.decode import as_shown
from mae_sdk.files import atomic_file, read_json, write_json
from mae_skill.spelling import spelled
from PIL import Image, ImageDraw, ImageFont

MAX_SIDE = 192  # pixels of a tile
ACROSS, LABELED_SIDE = 6, 128  # tiles in a row of a labeled sheet, and pixels of each at least
MAX_EPOCHS = 12  # sheets of one kind that show how something went over the epochs

Pixels = np.ndarray
"""uint8 ``[H, W, 3]``."""


class Gallery:
    """The pictures of one action; what an earlier attempt left there is kept.

    Args:
        folder: of the action.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pictures"
        self.index: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            self.index = read_json(self.folder / "gallery.json")

    def add(
        self,
        kind: str,
        rows: Sequence[Sequence[Pixels]],
        about: Sequence[dict[str, Any]],
        columns: Sequence[str] = (),
        *,
        note: str = "",
        epoch: int | None = None,
        over_epochs: bool = False,
        scale: dict[str, Any] | None = None,
    ) -> None:
        """A sheet. It takes the place of the one of its kind, or of its kind and epoch.

        Args:
            rows: tiles; all rows have as many. They are shrunk to `MAX_SIDE` and fitted into
                squares where their sizes differ.
            about: of each row, ``name`` and, as the kind wants it, ``lines``, ``note``, ``tone``.
            scale: of a map in colors: ``colors`` (uint8 ``[stops, 3]``), and what the first and the
                last of them stand for, ``low`` and ``high``.
            over_epochs: keep those of other epochs, of the oldest at most `MAX_EPOCHS`.
        """
        if not rows or not rows[0]:
            return
        size = _common_size([tile for row in rows for tile in row])
        fitted = [[_fitted(tile, size) for tile in row] for row in rows]
        grid = np.concatenate([np.concatenate(row, axis=1) for row in fitted], axis=0)
        name = f"{kind}_{epoch:04d}.png" if over_epochs and epoch is not None else f"{kind}.png"
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.folder / name) as temporary:
            temporary.write_bytes(png(grid))

        sheets = [
            one
            for one in self.index.get("sheets", [])
            if one["kind"] != kind or (over_epochs and one.get("epoch") != epoch)
        ]
        sheets.append(
            {
                "kind": kind,
                "file": name,
                "tile": list(size),
                "across": len(rows[0]),
                "columns": list(columns),
                "rows": [_valid(row) for row in about],
                "note": note,
                "epoch": epoch,
                **({} if scale is None else {"scale": scale}),
            }
        )
        self.index["sheets"] = self._thinned(sheets, kind) if over_epochs else sheets

    def _thinned(self, sheets: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
        """Every other one of a kind left out, where there are too many; first and last stay."""
        own = sorted((s for s in sheets if s["kind"] == kind), key=lambda s: s["epoch"] or 0)
        if len(own) <= MAX_EPOCHS:
            return sheets
        dropped = [one["file"] for one in own[1:-1:2]]
        for name in dropped:
            (self.folder / name).unlink(missing_ok=True)
        return [one for one in sheets if one["file"] not in dropped]

    def add_map(self, found: dict[str, Any]) -> None:
        """A map of features; it takes the place of the one by the same method."""
        kept = [m for m in self.index.get("maps", []) if m["method"] != found["method"]]
        self.index["maps"] = [*kept, _valid(found)]

    def set_legend(self, classes: Sequence[str], colors: np.ndarray) -> None:
        """The colors of classes in masks: uint8 ``[C, 3]``."""
        self.index["legend"] = [
            {"class": spelled(name), "color": color}
            for name, color in zip(classes, colors.tolist(), strict=True)
        ]

    def save(self) -> None:
        """Writes ``gallery.json``, last: it names no file that is not there."""
        if self.index:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "gallery.json", self.index)


def png(pixels: Pixels) -> bytes:
    """A PNG file of a picture, packed quickly: some tenths larger than by Pillow's default, in a
    fifth of its time. Of what a model predicts, runs are all that can be packed: looking for more
    took another third, and gave larger files."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return stream.getvalue()


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return spelled(value)
    if isinstance(value, dict):
        return {key: _valid(item) for key, item in value.items()}
    return [_valid(item) for item in value] if isinstance(value, list) else value


def _common_size(tiles: Sequence[Pixels]) -> tuple[int, int]:
    sizes = {tile.shape[:2] for tile in tiles}
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    if len(sizes) > 1:
        height = width = max(height, width)
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _fitted(tile: Pixels, size: tuple[int, int]) -> Pixels:
    """The tile itself where it has the size; else scaled into it, on gray, which
    stands out neither on a light page nor on a dark one."""
    if tile.shape[:2] == size:
        return tile
    height, width = tile.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    inner = (
        max(1, min(size[1], round(width * scale))),
        max(1, min(size[0], round(height * scale))),
    )
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    small = np.asarray(Image.fromarray(tile).resize(inner, way))
    canvas = np.full((*size, 3), 128, np.uint8)
    top, left = (size[0] - inner[1]) // 2, (size[1] - inner[0]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = small
    return canvas


def labeled_sheet(tiles: Sequence[Pixels], about: Sequence[dict[str, Any]]) -> Pixels:
    """One picture to look at by itself: tiles in rows of `ACROSS`, each with its name and its lines
    below it. The report writes its words itself, and takes sheets without."""
    size = _common_size(tiles)
    factor = max(1, -(-LABELED_SIDE // max(size)))  # small ones are repeated, not blurred
    height, width = factor * size[0], factor * size[1]
    font, line, gap = ImageFont.load_default(12), 15, 8
    room = max(width, LABELED_SIDE)
    words = [[str(one.get("name") or ""), *map(str, one.get("lines") or ())] for one in about]
    down = height + line * max(map(len, words)) + gap
    rows = -(-len(tiles) // ACROSS)

    across = min(len(tiles), ACROSS)
    canvas = Image.new("RGB", (across * (room + gap) - gap, rows * down - gap), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (tile, said) in enumerate(zip(tiles, words, strict=True)):
        left, top = place % ACROSS * (room + gap), place // ACROSS * down
        cell = Image.fromarray(_fitted(tile, size))
        canvas.paste(cell.resize((width, height), Image.Resampling.NEAREST), (left, top))
        for number, text in enumerate(said):
            at = left, top + height + line * number
            draw.text(at, shortened(text, room, font, start=number == 0), "black", font)
    return np.asarray(canvas)


def shortened(text: str, width: int, font: Any, *, start: bool = True) -> str:
    """What of a text fits, in characters that can be printed: without its start, as of the path of
    a file, or without its end."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    text = text.encode("utf-8", "replace").decode("utf-8")
    while len(text) > 1 and font.getlength(text) > width:
        text = "…" + text[2:] if start else text[:-2] + "…"
    return text


def fitted(tile: Pixels, side: int) -> Pixels:
    """The tile, shrunk so that its longer side has at most `side` pixels."""
    scale = min(1.0, side / max(tile.shape[:2]))
    size = (max(1, round(tile.shape[0] * scale)), max(1, round(tile.shape[1] * scale)))
    return _fitted(tile, size)


def tile_of(image: Any) -> Pixels:
    """A tensor as a tile: uint8 or float in 0…1, ``[C, H, W]``."""
    if image.is_floating_point():
        image = (image.clamp(0.0, 1.0) * 255.0).round().byte()
    return tile_of_item(image)


def tile_of_item(image: Any) -> Pixels:
    """An image of a data set as a tile: uint8 or float in 0…255, ``[C, H, W]``."""
    pixels: Pixels = as_shown(image.permute(1, 2, 0).cpu().numpy())
    return pixels
