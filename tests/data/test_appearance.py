"""What the auto recipe is told of pictures and their mirror images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mae_sdk.data.appearance import appearance
from mae_sdk.data.label_file import LabelTable, labeled
from mae_sdk.data.source import open_source
from PIL import Image, ImageDraw

SIDE = 48


def arrow(rng: np.random.Generator, turns: int) -> Image.Image:
    """An arrow somewhere, to the right, up, to the left or down, in any color on any other."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in rng.integers(0, 90, 3)))
    draw, color = ImageDraw.Draw(image), tuple(int(v) for v in rng.integers(150, 255, 3))
    x, y = (int(v) for v in rng.integers(18, 30, 2))
    draw.line([(x - 12, y), (x + 12, y)], fill=color, width=4)
    draw.polygon([(x + 12, y), (x + 4, y - 8), (x + 4, y + 8)], fill=color)
    return image.rotate(90 * turns)


def square(rng: np.random.Generator, turns: int) -> Image.Image:
    """A square of a size that the class names, anywhere."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in rng.integers(0, 90, 3)))
    size = 8 + 6 * turns
    x, y = (int(v) for v in rng.integers(1, SIDE - size - 1, 2))
    color = tuple(int(v) for v in rng.integers(150, 255, 3))
    ImageDraw.Draw(image).rectangle([x, y, x + size, y + size], fill=color)
    return image


@pytest.mark.parametrize(
    ("draw", "turns", "told"),
    [
        (arrow, (0, 2), (True, False)),
        (arrow, (1, 3), (False, True)),
        (arrow, (0, 1), (True, True)),
        (square, (0, 1), (False, False)),
    ],
)
def test_classes_that_a_mirror_makes_of_each_other_are_found_wherever_the_thing_is(
    draw, turns, told, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for turn in turns:
        (tmp_path / f"class {turn}").mkdir()
        for number in range(40):
            draw(rng, turn).save(tmp_path / f"class {turn}" / f"{number}.png")

    found = appearance(open_source(str(tmp_path)))
    assert tuple(found[name] > 0.1 for name in ("mirror_told", "flip_told")) == told, found
    if draw is arrow and set(turns) == {0, 2}:
        assert found["mirror"] < 2  # all together know no side


def test_the_classes_of_a_table_tell_too_and_several_labels_or_few_pictures_do_not(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(1)
    data = tmp_path / "data"
    data.mkdir()
    lines = ["file,label"]
    for number in range(60):
        arrow(rng, 2 * (number % 2)).save(data / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))

    source = open_source(str(data))
    assert appearance(source)["mirror_told"] is None
    table = LabelTable(str(tmp_path / "labels.csv"), "train", False, None)
    assert appearance(labeled(source, table))["mirror_told"] > 0.1
    assert appearance(labeled(source, table), sample=20)["mirror_told"] is None
