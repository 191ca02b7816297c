"""How good is a segmenter, whatever file it comes from: IoU from sums over the data set, over all ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mae_skill.errors import DataError
from PIL import Image
from torch import Tensor

from mae_runners import distributed as ranks
from mae_runners.deploy import artefact
from mae_runners.deploy.eval_pairs import Scenes, segmenter
from mae_runners.metrics import classification as metrics
from mae_runners.metrics import colours, iou
from mae_runners.metrics.windows import default_stride, judge_pixels

PICTURES = 8


class Tally:
    """Sums over pictures: confusion matrix, loss, labelled pixels, pictures."""

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        self.count, self.ignore = num_classes, ignore_index
        self.sums = torch.zeros(num_classes * num_classes + 3, dtype=torch.float64)

    def add(self, logits: Tensor, mask: Tensor) -> np.ndarray:
        """Counts one picture; returns the class of each of its pixels."""
        size = (int(mask.shape[0]), int(mask.shape[1]))
        mask = mask.to(logits.device)
        labels, loss, pixels = judge_pixels(logits, size, mask, self.ignore)
        self.sums[:-3] += iou.confusion(mask, labels, self.count, self.ignore).flatten().cpu()
        self.sums[-3:] += torch.tensor([loss, pixels, 1.0], dtype=torch.float64)
        return labels.cpu().numpy()

    def figures(self) -> dict[str, Any]:
        """See `iou.figures`; also ``val_loss`` and ``images``.

        Raises:
            DataError: no pixel has a label.
        """
        loss, pixels, images = self.sums[-3:].tolist()
        if not pixels:
            raise DataError(
                "no pixel has a label",
                expected="masks with classes other than dataset.segmentation.ignore_index",
            )
        return {**iou.figures(self.matrix), "val_loss": loss / pixels, "images": int(images)}

    @property
    def matrix(self) -> np.ndarray:
        return self.sums[:-3].reshape(self.count, self.count).numpy()


def by_class(found: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    """The figures with the lists by class folded into ``per_class``: name → IoU, accuracy, pixels."""
    lists = {name: found[name] for name in ("iou", "accuracy", "pixels")}
    rows = zip(*lists.values(), strict=True)
    table = {
        name: {"IoU": one, "accuracy": right, "pixels": size}
        for name, (one, right, size) in zip(classes, rows, strict=True)
    }
    return {
        **{name: value for name, value in found.items() if name not in lists},
        "per_class": table,
    }


def segment(spec: Any, context: Any, runtime: Any) -> tuple[dict[str, Any], list[Path]]:
    """Figures of a segmenter on ``dataset.val_data_sources`` and the files written: ``per_class_iou.csv``, the confusion matrix,
    ``segmentation.png`` (rows of image, truth, prediction) with ``colours.csv``."""
    meta, settings = runtime.meta, spec.evaluate.segmentation
    artefact.need_source(spec, "val_data_sources", "evaluate")
    scenes = Scenes(spec, "val_data_sources", meta, labelled=True)
    classes = list(scenes.dataset.classes)
    size = artefact.batch_size(spec.evaluate, spec)
    apply = segmenter(runtime, settings, size)
    tally = Tally(len(classes), scenes.dataset.ignore_index)
    palette = colours.palette(len(classes))
    rows: list[list[np.ndarray]] = []
    with context.progress(-(-len(scenes) // (size * context.world_size)), "evaluate") as progress:
        for batch in scenes.batches(size, rank=context.rank, world=context.world_size):
            for scene, logits in zip(
                batch, apply([scene.image for scene in batch]) if batch else [], strict=True
            ):
                labels = tally.add(logits, scene.mask)
                if context.is_main and len(rows) < PICTURES:
                    truth, guess = (
                        colours.paint(scene.mask.numpy(), palette),
                        colours.paint(labels, palette),
                    )
                    rows.append(
                        [np.ascontiguousarray(scene.image.permute(1, 2, 0).numpy()), truth, guess]
                    )
            progress.advance()
    tally.sums = ranks.add_up(context, tally.sums)
    if not context.is_main:
        return {}, []
    found = tally.figures()
    folder = context.action_dir
    files = [iou.write_table(found, classes, folder / "per_class_iou.csv")]
    files += metrics.write_confusion(tally.matrix.astype(np.int64), classes, folder)
    files += [
        write_board(rows, folder / "segmentation.png"),
        colours.write_legend(classes, folder / "colours.csv"),
    ]
    figures = by_class(found, classes)
    figures |= {"window": settings.window, "unreadable": scenes.dataset.corrupt}
    if settings.window == "slide":
        figures["stride"] = list(default_stride(scenes.window, settings.stride))
    return figures, files


def write_board(rows: list[list[np.ndarray]], path: Path) -> Path:
    """The rows as one picture."""
    Image.fromarray(colours.board(rows)).save(path)
    return path
