"""Folders of images and of their masks, inspected as one source: they are told from classes, and
the next command reads them as what they are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from mae_sdk.cli.main import main
from mae_sdk.data import inspect_source
from PIL import Image

RNG = np.random.default_rng(0)


def folders(
    root: Path, one: str, other: str, *, values: tuple[int, ...] = (0, 255), shift: int = 0
) -> Path:
    """Five pictures in either folder; those of the second have few values."""
    for name in (one, other):
        (root / name).mkdir(parents=True)
    for number in range(5):
        Image.fromarray(RNG.integers(0, 256, (12, 12, 3), np.uint8)).save(
            root / one / f"{number}.png"
        )
        mask = RNG.choice(np.array(values, np.uint8), (12, 12))
        Image.fromarray(mask).save(root / other / f"{number + shift}.png")
    return root


def out_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(words)
    return capsys.readouterr().out


@pytest.mark.parametrize("other", ["outlines", "masks", "truth"])
def test_an_inspection_ends_with_the_command_that_reads_images_and_masks(
    tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folders(tmp_path / "a set", "photos", other)
    said = out_of(["inspect", str(source)], capsys)
    assert "images and their masks, not like" in said
    command = re.search(r"next: +mae (inspect .*)", said) or re.search(
        r"\n +mae (inspect .*)", said
    )
    assert command, said
    words = shlex.split(command[1])
    assert words == ["inspect", str(source / "photos"), "--masks", str(source / other)]
    said = out_of(words, capsys)
    assert "dataset.segmentation.mask_values=[0, 255]" in said and "mae plan train" in said


@pytest.mark.parametrize("case", ["other names", "gray", "both"])
def test_classes_are_not_taken_for_masks(tmp_path: Path, case: str) -> None:
    values = tuple(range(0, 250, 3)) if case == "gray" else (0, 255)
    source = folders(tmp_path, "cat", "dog", values=values, shift=9 if case == "other names" else 0)
    if case == "both":
        for path in (source / "cat").iterdir():
            Image.fromarray(RNG.choice(np.array([0, 255], np.uint8), (12, 12))).save(path)
    assert "like_masks" not in inspect_source(str(source))
