"""What a segmenter says of pictures: label maps, coloured masks, overlays, and a table of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mae_sdk.files import atomic_file
from PIL import Image

from mae_runners import distributed as ranks
from mae_runners.actions.evaluate_segmenter import Tally
from mae_runners.deploy import artefact
from mae_runners.deploy.eval_pairs import Scene, Scenes, segmenter
from mae_runners.metrics import colours, iou
from mae_runners.metrics.windows import judge_pixels

KINDS = ("labels", "masks", "overlays")
TOP = 3
Row = tuple[int, int, int, list[float]]  # index, width, height, share of each class


def target_names(members: Sequence[str]) -> list[str]:
    """Relative paths for results, one a picture: the picture's own without its suffix; a number follows where two would be one."""
    taken: set[str] = set()
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
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def segment(spec: Any, context: Any, runtime: Any) -> dict[str, Any]:
    """Writes for every test picture, at its own size and under its own name: ``labels/`` (grey PNG, value = class), ``masks/`` (the
    classes in the colours of ``colours.csv``), ``overlays/`` (picture and mask); and ``results.csv``. With masks, scores too.

    Returns:
        ``{"kpis", "artefacts", "device"}``.
    """
    meta, settings = runtime.meta, spec.inference.segmentation
    artefact.need_source(spec, "test_data_sources", "inference")
    scenes = Scenes(spec, "test_data_sources", meta, labelled=False)
    classes = list(scenes.dataset.classes)
    names = target_names([str(scenes.dataset.source.members[i]) for i in range(len(scenes))])
    size = artefact.batch_size(spec.inference, spec)
    apply = segmenter(runtime, settings, size)
    tally = Tally(len(classes), scenes.dataset.ignore_index) if scenes.dataset.has_masks else None
    palette = colours.palette(len(classes))
    rows: list[Row] = []
    with ranks.process_group(context):
        with context.progress(
            -(-len(scenes) // (size * context.world_size)), "inference"
        ) as progress:
            for batch in scenes.batches(size, rank=context.rank, world=context.world_size):
                for scene, logits in zip(
                    batch, apply([scene.image for scene in batch]) if batch else [], strict=True
                ):
                    height, width = scene.mask.shape
                    labels = (
                        tally.add(logits, scene.mask)
                        if tally
                        else judge_pixels(logits, (height, width))[0].cpu().numpy()
                    )
                    write_pictures(context.action_dir, names[scene.index], scene, labels, palette)
                    shares = np.bincount(labels.flatten(), minlength=len(classes)) / labels.size
                    rows.append((scene.index, width, height, shares.tolist()))
                progress.advance()
        parts = ranks.gather(context, rows)
        if tally:
            tally.sums = ranks.add_up(context, tally.sums)
    if not context.is_main:
        return {}
    done = sorted((row for part in parts for row in part), key=lambda row: row[0])
    files = [
        write_results(
            context.action_dir, done, [scenes.dataset.path(row[0]) for row in done], names, classes
        )
    ]
    files.append(colours.write_legend(classes, context.action_dir / "colours.csv"))
    for path in scenes.dataset.corrupt:
        context.warn(f"unreadable, so not in the results: {path}")
    kpis: dict[str, Any] = {"images": len(done), "unreadable": len(scenes) - len(done)}
    if tally and not tally.sums[-2]:
        context.warn("the test masks label no pixel, so nothing is scored")
    elif tally:
        found = tally.figures()
        kpis |= {name: found[name] for name in ("mIoU", "mAcc", "aAcc")}
        files.append(iou.write_table(found, classes, context.action_dir / "per_class_iou.csv"))
    folders = [context.action_dir / kind for kind in KINDS]
    return {
        "kpis": kpis,
        "artefacts": [str(file) for file in [*files, *folders]],
        "device": str(runtime.device),
    }


def write_pictures(
    folder: Path, name: str, scene: Scene, labels: np.ndarray, palette: np.ndarray
) -> None:
    """The three pictures of one scene."""
    label_map, mask, overlay = (folder / kind / f"{name}.png" for kind in KINDS)
    for path in (label_map, mask, overlay):
        path.parent.mkdir(parents=True, exist_ok=True)
    colours.write_labels(labels, label_map)
    painted = colours.paint(labels, palette)
    Image.fromarray(painted).save(mask)
    Image.fromarray(colours.overlay(scene.image.permute(1, 2, 0).numpy(), painted)).save(overlay)


def write_results(
    folder: Path, rows: list[Row], paths: list[str], names: list[str], classes: list[str]
) -> Path:
    """``results.csv``: path, width, height, the files of the picture, and its largest classes with their shares of the pixels."""
    target = folder / "results.csv"
    top = min(TOP, len(classes))
    header = ["path", "width", "height", "label_map", "mask", "overlay"]
    header += [
        f"{name}{'' if rank == 1 else f'_{rank}'}"
        for rank in range(1, top + 1)
        for name in ("class", "share")
    ]
    with atomic_file(target) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for path, (index, width, height, shares) in zip(paths, rows, strict=True):
            order = np.argsort(shares)[::-1][:top]
            largest = [
                cell
                for i in order
                for cell in ((classes[i], f"{shares[i]:.6f}") if shares[i] else ("", ""))
            ]
            writer.writerow(
                [path, width, height, *(f"{kind}/{names[index]}.png" for kind in KINDS), *largest]
            )
    return target
