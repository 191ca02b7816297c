"""What the tasks start from: real digits and photographs, some of them with a mistake in them."""

from __future__ import annotations

import csv
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.images import digits, jpeg, write_imagefolder
from tests.support.scenes import write_digit_scenes


def _labeled(folder: Path) -> None:
    write_imagefolder(folder / "labelled", classes=4, per_class=10, size=32)


def _flat(folder: Path) -> None:
    (folder / "flat").mkdir()
    for number, pixels in enumerate(digits()[0][::200]):
        Image.fromarray(pixels).resize((32, 32)).convert("RGB").save(
            folder / "flat" / f"{number:03d}.png"
        )


def _val(folder: Path) -> None:
    """Other digits of the same four classes."""
    write_imagefolder(folder / "val", classes=4, per_class=4, size=32, start=50)


def _twins(folder: Path) -> None:
    """A validation folder that holds three images of labelled/ under other names."""
    write_imagefolder(folder / "twins", classes=4, per_class=4, size=32, start=100)
    for label, number in (("0", "0001"), ("1", "0004"), ("3", "0007")):
        shutil.copy(
            folder / "labelled" / label / f"{number}.png", folder / "twins" / label / "copy.png"
        )


def _newcomers(folder: Path) -> None:
    """A validation folder with a class that labelled/ does not have."""
    write_imagefolder(folder / "newcomers", classes=5, per_class=3, size=32, start=200)


def _scans(folder: Path) -> None:
    """Gray pictures of 12 bits in files of 16, as detectors write them."""
    (folder / "scans").mkdir()
    for number, pixels in enumerate(digits()[0][::300]):
        levels = np.asarray(Image.fromarray(pixels).resize((32, 32)), np.uint16) * 16
        rng = np.random.default_rng(number)
        levels = np.minimum(levels + rng.integers(0, 16, levels.shape), 4095).astype(np.uint16)
        Image.fromarray(levels).save(folder / "scans" / f"{number:03d}.png")


def _table(folder: Path) -> None:
    """labels.csv beside flat/: two names for what is on each picture."""
    with (folder / "labels.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label"])
        for number, label in enumerate(digits()[1][::200]):
            rows.writerow([f"{number:03d}.png", "low" if label < 5 else "high"])


def _archives(folder: Path) -> None:
    """Two archives of unlabeled images: 14 and 11."""
    for name, part in (("first", slice(0, 14)), ("second", slice(14, 25))):
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            for path in sorted((folder / "flat").iterdir())[part]:
                archive.add(path, path.name)


def _damaged(folder: Path) -> None:
    """Twenty photographs, of which three end in the middle."""
    (folder / "damaged").mkdir()
    for number in range(20):
        data = jpeg(number, 64, 64)
        cut = len(data) // 3 if number in (4, 9, 15) else len(data)
        (folder / "damaged" / f"{number:02d}.jpg").write_bytes(data[:cut])


def _scenes(folder: Path) -> None:
    """Images and masks for segmentation, 12 classes."""
    write_digit_scenes(folder / "scenes", training=8, validation=4, size=48)


def _stranger(folder: Path) -> None:
    """Weights of some other network."""
    import torch

    weights = {f"block.{number}.conv.weight": torch.zeros(16, 16, 3, 3) for number in range(4)}
    torch.save({"state_dict": weights}, folder / "stranger.pth")


MAKERS: dict[str, Callable[[Path], None]] = {
    "labelled": _labeled,
    "flat": _flat,
    "val": _val,
    "twins": _twins,
    "newcomers": _newcomers,
    "scans": _scans,
    "table": _table,
    "archives": _archives,
    "damaged": _damaged,
    "scenes": _scenes,
    "stranger": _stranger,
}
"""In this order where a task names several: some take from others."""
