"""What a pretrained model makes of hidden patches, as one picture: a row for each image.

Under ``norm_pix_loss`` a model predicts the pattern of a patch, not its color and contrast. So the
picture shows two paintings of the same prediction, each under its name: `AS_PREDICTED`, with the
gray and the contrast of the visible patches, and `TRUE_COLORS`, with those of the hidden patch
itself, which the model never saw.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mae_sdk.data.decode import as_shown
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mae_runners.metrics.gallery import Gallery, shortened, tile_of

GRAY = 0.5  # of hidden pixels
SHOWN = 8  # images of a picture
SIDE = 160  # pixels: smaller images are enlarged to be legible

AS_PREDICTED, TRUE_COLORS = "as predicted", "colors of the true patch"
EXPLANATION = (
    f"The loss is on normalized pixels (norm_pix_loss), so a prediction has no color of its own. "
    f"{AS_PREDICTED!r}: with the mean gray and contrast of the visible patches. {TRUE_COLORS!r}: "
    "each hidden patch with its own true mean and deviation, which the model never saw."
)


class Reconstructions(NamedTuple):
    """Pictures of images.

    Attributes:
        pixels: in 0…1, ``[B, K (which), C, H, W]``.  titles: of the K.
    """

    pixels: Tensor
    titles: list[str]


def spread(labels: np.ndarray, seed: int, count: int = SHOWN) -> list[int]:
    """Places of some images, the same under the same seed, in order: as many classes as can be.

    Args:
        labels: of all images, int64 ``[N]``; those without labels are one class.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    order = rng.permutation(len(labels))
    taken: dict[int, int] = {}
    turns: list[tuple[int, int, int]] = []
    for place in order.tolist():  # the turn of an image: how many of its class came before it
        turns.append((taken.get(int(labels[place]), 0), len(turns), place))
        taken[int(labels[place])] = turns[-1][0] + 1
    return sorted(place for _, _, place in sorted(turns)[:count])


def reconstruction_images(
    model: Any,
    images: Tensor,
    noise: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    reconstruct: Callable[..., Tensor] | None = None,
) -> Reconstructions:
    """Original, masked and reconstructed image of each sample.

    Args:
        model: the bare MAE.
        images: normalized model input ``[B, C, H, W]``.
        noise: ``[B, L]``, which says what is hidden.
        mean, std: of the normalization.
        reconstruct: stands for ``model.reconstruct``, where its weights are sharded.
    """
    unit = model.unit
    rows, columns = images.shape[2] // unit, images.shape[3] // unit
    hidden = model.random_masking(noise).hidden_map.view(len(images), 1, rows, columns)
    hidden = hidden.repeat_interleave(unit, dim=2).repeat_interleave(unit, dim=3)

    shift, scale = (
        torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (mean, std)
    )
    original = images * scale + shift
    shown = {"original": original}
    shown["masked"] = torch.where(hidden, torch.full_like(images, GRAY), original)
    for title in (AS_PREDICTED, TRUE_COLORS) if model.norm_pix_loss else (AS_PREDICTED,):
        colored = title == TRUE_COLORS
        restored = (reconstruct or model.reconstruct)(images, noise, true_colors=colored)
        shown[title] = restored * scale + shift
    pixels = torch.stack(list(shown.values()), dim=1).clamp(0.0, 1.0)
    return Reconstructions(pixels, list(shown))


def with_losses(found: Reconstructions, losses: Tensor) -> tuple[Reconstructions, float]:
    """The pictures with a heat map of the loss of each patch ``[B, H, W]``, and the loss of its
    brightest color."""
    heat, top = heat_maps(losses)
    column = heat.to(found.pixels)[:, None]
    pixels = found.pixels
    if pixels.shape[2] != column.shape[2]:  # the heat is in color: the first band, or three
        pixels = (
            pixels[:, :, :3]
            if pixels.shape[2] > 3
            else pixels[:, :, :1].expand_as(
                pixels.new_empty(*pixels.shape[:2], 3, *pixels.shape[3:])
            )
        )
    both = torch.cat([pixels, column], dim=1)
    return Reconstructions(both, [*found.titles, LOSS]), top


LOSS = "loss of each patch"
HEAT = [[12, 8, 38], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]
"""Stops of a scale that rises in brightness (matplotlib's "inferno")."""
_UNSEEN = (70, 74, 80)


def heat_maps(losses: Tensor) -> tuple[Tensor, float]:
    """Losses ``[B, H, W]`` as colors ``[B, 3, H, W]`` in 0…1, gray where they are NaN.

    Returns:
        The colors, and the loss of the brightest: the 98th percentile of all, so that one patch
        does not darken the rest.
    """
    values = losses.float().cpu().numpy()
    known = np.isfinite(values)
    top = float(np.quantile(values[known], 0.98)) if known.any() else 0.0
    return heat_colors(torch.from_numpy(values / (top or 1.0))), top


def heat_colors(strength: Tensor) -> Tensor:
    """Values in 0…1 ``[B, H, W]`` as `HEAT`, ``[B, 3, H, W]`` in 0…1, gray where they are NaN."""
    values, stops = strength.float().cpu().numpy(), np.array(HEAT, np.float64)
    known = np.isfinite(values)
    place = np.clip(np.where(known, values, 0.0), 0.0, 1.0) * (len(stops) - 1)
    low = np.minimum(place.astype(int), len(stops) - 2)
    part = (place - low)[..., None]
    colors = stops[low] * (1.0 - part) + stops[low + 1] * part
    colors[~known] = _UNSEEN
    return torch.from_numpy(colors / 255.0).permute(0, 3, 1, 2).float()


def show_reconstructions(
    gallery: Gallery,
    found: Reconstructions,
    names: Sequence[str],
    top: float,
    epoch: int | None,
    whose: str = "",
) -> None:
    """Puts reconstructions into the gallery; with an epoch, the predictions alone too, so that the
    report can show how they went.

    Args:
        top: the loss of the brightest color of `heat_maps`.
        whose: the images, in words: ``validation images``; empty where the page has no others.
    """
    rows = [[tile_of(pixels) for pixels in row] for row in found.pixels]
    about = [{"name": name} for name in names]
    notes = [f"{len(names)} {whose}."] if whose else []
    notes += [EXPLANATION] if TRUE_COLORS in found.titles else []
    if LOSS in found.titles:
        notes.append(
            f"{LOSS!r}: the brighter, the larger, up to {top:.3g}; gray patches were visible."
        )
    scale = {"colors": HEAT, "low": "loss 0", "high": f"{top:.3g} or more"}
    gallery.add(
        "reconstruction",
        rows,
        about,
        found.titles,
        note=" ".join(notes),
        epoch=epoch,
        scale=scale if LOSS in found.titles else None,
    )
    if epoch is not None:
        place = found.titles.index(AS_PREDICTED)
        single = [[row[place]] for row in rows[:4]]
        note = f"Each {AS_PREDICTED!r}, with the same hidden patches."
        note += f" Of {whose}." if whose else ""
        gallery.add("progress", single, about[:4], note=note, epoch=epoch, over_epochs=True)


def board(found: Reconstructions, names: Sequence[str]) -> np.ndarray:
    """One picture, uint8 ``[height, width, 3]``: titles, a row for each image under its name, and
    an explanation where two paintings of the prediction are shown.

    Pixels of the images are copied, or repeated where these are small; ``names`` are of the images.
    """
    count, kinds, _, height, width = found.pixels.shape
    factor = max(1, -(-SIDE // max(height, width)))
    height, width = height * factor, width * factor
    font = ImageFont.load_default(12)
    line, gap = 16, 2

    across = kinds * (width + gap) - gap
    note = EXPLANATION if TRUE_COLORS in found.titles else ""
    notes = textwrap.wrap(note, max(20, across // 7))
    down = line + count * (line + height + gap) + line * len(notes)
    canvas = Image.new("RGB", (across, down), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(found.titles):
        draw.text((column * (width + gap), 1), title, "black", font)
    for row, name in enumerate(names):
        top = line + row * (line + height + gap)
        draw.text((0, top + 1), shortened(name, across, font), "black", font)
        for column in range(kinds):
            pixels = found.pixels[row, column].float().permute(1, 2, 0).cpu().numpy()
            cell = Image.fromarray(as_shown(pixels * 255.0))
            cell = cell.resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(cell, (column * (width + gap), top + line))
    for number, text in enumerate(notes):
        draw.text((0, down - line * (len(notes) - number)), text, "black", font)
    return np.asarray(canvas)


class MeanLoss:
    """The mean loss over images.

    Attributes:
        sums: float64 ``[2]``: loss, images. Add those of other ranks before reading the mean.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64)

    def add(self, loss: Tensor, count: int) -> None:
        """Counts a batch of `count` images with this mean loss."""
        value = float(loss)  # of fillers alone it may be anything
        self.sums += torch.tensor([value * count if count else 0.0, count], dtype=torch.float64)

    def summary(self, source: object) -> dict[str, float]:
        """``val_loss``."""
        total, count = self.sums.tolist()
        return {"val_loss": total / max(count, 1)}
