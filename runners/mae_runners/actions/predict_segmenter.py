"""What a segmenter says about images: label maps, colored masks, overlays, and a table of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mae_sdk.data.decode import as_shown
from mae_sdk.files import write_csv, write_json
from mae_skill.spec import ExperimentSpec
from mae_skill.spelling import one_line, spelled
from PIL import Image

from mae_runners.context import RunContext
from mae_runners.data import left_out
from mae_runners.deploy import artifact
from mae_runners.deploy.eval_pairs import EvalPairs, Pair, segmenter
from mae_runners.deploy.runtimes import Runtime
from mae_runners.distributed import connected
from mae_runners.metrics import colors, masks
from mae_runners.metrics.bootstrap import ImageScores
from mae_runners.metrics.gallery import Gallery, fitted
from mae_runners.metrics.iou import SegmentationMetrics, without_vacuous, write_table
from mae_runners.metrics.reconstruction import spread
from mae_runners.metrics.windows import classify_pixels

KINDS = ("labels", "masks", "overlays")
SCORES = ("mIoU", "mAcc", "aAcc")
TOP = 3
SHOWN, SIDE = 12, 256  # overlays of the report, and the pixels of their longer side
MAX_STEM = 251  # bytes of a file's name, without .png, that file systems take


@dataclass
class Row:
    """One image of the table: its place in the source, its size, the share of each class."""

    index: int
    width: int
    height: int
    shares: list[float]


def target_names(members: Sequence[str]) -> list[str]:
    """Relative paths for results, one per image: its own without the suffix.

    A number follows where two would be the same, or where a folder has the name of the file.
    """
    taken = {folder.removesuffix(".png") for folder in _folders(members) if folder.endswith(".png")}
    names = []
    for member in members:
        parts = [
            part
            for part in PurePosixPath(member.replace("\\", "/")).with_suffix("").parts
            if part not in ("/", "..", ".")
        ]
        stem = "/".join(parts) or "image"
        name, number = stem, 2
        while name in taken:
            suffix = f"_{number}"
            name, number = _cut(stem, MAX_STEM - len(suffix)) + suffix, number + 1
        taken.add(name)
        names.append(name)
    return names


def _folders(members: Sequence[str]) -> set[str]:
    """Every folder that holds one of the members, or a folder that does."""
    found: set[str] = set()
    for member in members:
        folder = member.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _cut(name: str, size: int) -> str:
    """A path whose last part has at most that many bytes."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + os.fsdecode(os.fsencode(last)[:size])


def predict_segmenter(
    spec: ExperimentSpec, context: RunContext, runtime: Runtime
) -> dict[str, Any]:
    """Writes the class of every pixel of every test image, at its own size, under its own name.

    Folders: ``labels/`` (gray PNG, value = class), ``masks/`` (classes in the colors of
    ``colours.csv``), ``overlays/`` (image and mask). ``results.csv`` beside them. Where there are
    masks, ``metrics.json`` and ``per_class_iou.csv`` too.

    Returns:
        ``{"kpis", "artefacts", "device"}``; ``answered``: of each class, how many images hold it;
        ``answered_pixels``: its share of all pixels; ``doubts`` of the metrics, where there are
        some.
    """
    source = artifact.need_source(spec, "test_data_sources", "inference")
    pairs = EvalPairs(spec, "test_data_sources", runtime.meta, labeled=False)
    dataset = pairs.dataset
    classes = list(dataset.classes)
    names = target_names([str(dataset.source.members[i]) for i in range(len(pairs))])
    palette = colors.palette(len(classes))

    size = artifact.batch_size(spec.inference, spec)
    predict = segmenter(runtime, spec.inference.segmentation, size)
    sums = SegmentationMetrics(len(classes), dataset.ignore_index) if dataset.has_masks else None
    rows: list[Row] = []
    scores = ImageScores(len(classes))
    with connected(context) as ranks:
        batches = -(-len(pairs) // (size * context.world_size))
        with context.progress(batches, "inference") as progress:
            for batch in pairs.batches(size, rank=context.rank, world=context.world_size):
                answers = predict([pair.image for pair in batch]) if batch else []
                for pair, logits in zip(batch, answers, strict=True):
                    height, width = pair.mask.shape
                    if sums is not None:
                        labels = sums.add(logits, pair.mask)
                        scores.add(pair.index, sums.newest)
                    else:
                        labels = classify_pixels(logits, (height, width))[0].cpu().numpy()
                    write_images(context.action_dir, names[pair.index], pair, labels, palette)
                    shares = np.bincount(labels.flatten(), minlength=len(classes)) / labels.size
                    rows.append(Row(pair.index, width, height, shares.tolist()))
                progress.advance()
        parts = ranks.gather_on_first(rows)
        bad = ranks.gather_on_first(dataset.corrupt)
        if sums is not None:
            ranks.sum_over_ranks(sums.sums)
            for part in ranks.gather_on_first(scores.rows):
                scores.rows |= part
    if not context.is_main:
        return {}

    folder = context.action_dir
    done = sorted((row for part in parts for row in part), key=lambda row: row.index)
    paths = [dataset.path(row.index) for row in done]
    show_overlays(folder, done, dataset, names, classes, palette, int(spec.train.seed))
    files = [
        write_results(folder, done, paths, names, classes),
        colors.write_legend(classes, folder / "colours.csv"),
    ]
    unreadable = sorted({path for part in bad for path in part})
    for path in unreadable:
        context.log(f"warning: unreadable, so not in the results: {one_line(path)}")
    left = {"dataset.test_data_sources": left_out(unreadable)}

    shares = np.asarray([row.shares for row in done]).reshape(-1, len(classes))
    pixels = np.asarray([row.width * row.height for row in done], np.float64)
    answered = dict(zip(classes, (shares > 0).sum(axis=0).tolist(), strict=True))
    of_all = (pixels @ shares / max(float(pixels.sum()), 1.0)).tolist()
    kpis: dict[str, Any] = {"images": len(done), "unreadable": len(pairs) - len(done)}
    doubted: list[str] = []
    if sums is not None and sums.labeled_pixels:
        found = without_vacuous(sums.summary(source))
        said = masks.judged(found, sums.confusion, classes, scores, int(spec.train.seed))
        kpis |= {name: found[name] for name in SCORES if found[name] is not None}
        doubted = said["doubts"]
        files += write_judgment(context, found, said, classes)
    elif sums is not None:
        context.warn("the test masks label no pixel, so there are no metrics")
    return {
        "kpis": kpis,
        "artefacts": [str(file) for file in [*files, *(folder / kind for kind in KINDS)]],
        "device": str(runtime.device),
        "answered": answered,
        "answered_pixels": dict(zip(classes, of_all, strict=True)),
        **({"doubts": doubted} if doubted else {}),
        **({"left_out": left} if unreadable else {}),
    }


def write_judgment(
    context: RunContext, found: dict[str, Any], said: dict[str, Any], classes: list[str]
) -> list[Path]:
    """``metrics.json`` and ``per_class_iou.csv`` of images with masks; their doubts are warnings.

    Args:
        found: of `SegmentationMetrics.summary`.  said: of `masks.judged`.
    """
    for one in said["doubts"]:
        context.warn(one)
    folder = context.action_dir
    write_json(folder / "metrics.json", said)
    return [
        folder / "metrics.json",
        write_table(found, classes, folder / "per_class_iou.csv"),
    ]


def show_overlays(
    folder: Path,
    rows: list[Row],
    dataset: Any,
    names: list[str],
    classes: list[str],
    palette: np.ndarray,
    seed: int,
) -> None:
    """Puts some of the overlays into the report's gallery, spread over the largest class of each
    image."""
    largest = np.asarray([int(np.argmax(row.shares)) for row in rows])
    tiles, about = [], []
    for place in spread(largest, seed, SHOWN):
        row = rows[place]
        with Image.open(folder / "overlays" / f"{names[row.index]}.png") as opened:
            tiles.append([fitted(np.asarray(opened.convert("RGB")), SIDE)])
        top = np.argsort(row.shares)[::-1][:2]
        lines = [f"{classes[i]} ({100 * row.shares[i]:.0f} %)" for i in top if row.shares[i]]
        about.append({"name": str(dataset.source.members[row.index]), "lines": lines})
    gallery = Gallery(folder)
    note = f"{len(tiles)} of {len(rows)} overlays; the largest classes by their share of pixels."
    gallery.add("answers", tiles, about, note=note)
    gallery.set_legend(classes, palette)
    gallery.save()


def write_images(
    folder: Path, name: str, pair: Pair, labels: np.ndarray, palette: np.ndarray
) -> None:
    """Label map, colored mask and overlay of one image."""
    label_map, mask, overlay = (folder / kind / f"{name}.png" for kind in KINDS)
    for path in (label_map, mask, overlay):
        path.parent.mkdir(parents=True, exist_ok=True)
    colors.write_labels(labels, label_map)
    painted = colors.paint(labels, palette)
    Image.fromarray(painted).save(mask)
    Image.fromarray(colors.overlay(as_shown(pair.image.permute(1, 2, 0).numpy()), painted)).save(
        overlay
    )


def write_results(
    folder: Path, rows: list[Row], paths: list[str], names: list[str], classes: list[str]
) -> Path:
    """``results.csv``: path, width, height, the files written for the image, and its largest
    classes with their shares of the pixels."""
    top = min(TOP, len(classes))
    header = ["path", "width", "height", "label_map", "mask", "overlay"]
    for place in range(1, top + 1):
        header += ["class", "share"] if place == 1 else [f"class_{place}", f"share_{place}"]

    def cells(path: str, row: Row) -> list[object]:
        files = [spelled(f"{kind}/{names[row.index]}.png") for kind in KINDS]
        largest: list[str] = []
        for i in np.argsort(row.shares)[::-1][:top]:
            share = row.shares[i]
            largest += (classes[i], f"{share:.6f}") if share else ("", "")
        return [path, row.width, row.height, *files, *largest]

    return write_csv(folder / "results.csv", header, map(cells, paths, rows))
