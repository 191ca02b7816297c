"""Colors of classes, and images painted with them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mae_sdk.data.decode import as_shown
from mae_sdk.files import write_csv
from PIL import Image
from torch import Tensor

GOLDEN = 0.6180339887498949  # hues a golden section apart never come close to each other
IGNORED = (0, 0, 0)


def palette(count: int) -> np.ndarray:
    """uint8 ``[count, 3]``: colors that differ in hue, then in brightness; always the same."""
    colors = []
    for index in range(count):
        value, saturation = ((0.95, 0.75), (0.65, 0.85), (0.85, 0.45))[index % 3]
        colors.append(
            [
                round(255 * part)
                for part in colorsys.hsv_to_rgb((index * GOLDEN) % 1.0, saturation, value)
            ]
        )
    return np.asarray(colors, np.uint8).reshape(count, 3)


def paint(labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Labels, integer ``[H, W]`` → uint8 ``[H, W, 3]``; ignored pixels are black."""
    known = labels < len(colors)
    painted = colors[np.where(known, labels, 0)]
    return np.where(known[..., None], painted, np.asarray(IGNORED, np.uint8)).astype(np.uint8)


def overlay(image: np.ndarray, painted: np.ndarray, share: float = 0.5) -> np.ndarray:
    """The image, uint8 ``[H, W, 3]``, seen through the colors, which weigh ``share``."""
    mixed: np.ndarray = (1.0 - share) * image + share * painted.astype(np.float64)
    rounded: np.ndarray = np.rint(mixed).astype(np.uint8)
    return rounded


def comparison(
    image: Tensor, mask: Tensor, labels: np.ndarray, colors: np.ndarray
) -> list[np.ndarray]:
    """Image, truth, prediction, and the prediction over the image, uint8 ``[H, W, 3]`` each.

    Args:
        image: ``[C, H, W]`` in 0 … 255; mask: true classes ``[H, W]``; labels: predicted ones.
        colors: of the classes, as `palette` gives them.
    """
    pixels = as_shown(image.permute(1, 2, 0).cpu().numpy())
    painted = paint(labels, colors)
    return [pixels, paint(mask.cpu().numpy(), colors), painted, overlay(pixels, painted)]


def write_labels(labels: np.ndarray, path: Path) -> Path:
    """Labels as a gray PNG whose values are the classes: 8 bits where they fit, else 16."""
    Image.fromarray(labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)).save(
        path
    )
    return path


def write_legend(classes: Sequence[str], path: Path) -> Path:
    """``class_index, class, red, green, blue``."""
    colors = palette(len(classes)).tolist()
    rows = ([index, name, *colors[index]] for index, name in enumerate(classes))
    return write_csv(path, ["class_index", "class", "red", "green", "blue"], rows)


def board(rows: Sequence[Sequence[np.ndarray]], side: int = 256, gap: int = 2) -> np.ndarray:
    """Images uint8 ``[H, W, 3]`` in rows and columns on white, each fitted into a square.

    Args:
        side: of the squares, in pixels; gap: of white between them.
    """
    height, width = len(rows) * (side + gap) - gap, max(map(len, rows)) * (side + gap) - gap
    canvas = np.full((height, width, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            factor = side / max(pixels.shape[:2])
            size = (
                max(1, round(pixels.shape[1] * factor)),
                max(1, round(pixels.shape[0] * factor)),
            )
            small = np.asarray(
                Image.fromarray(pixels).resize(
                    size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
                )
            )
            canvas[
                y * (side + gap) : y * (side + gap) + small.shape[0],
                x * (side + gap) : x * (side + gap) + small.shape[1],
            ] = small
    return canvas
