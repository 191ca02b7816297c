"""Where the numbers and images of a run go: CSV, TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mae_sdk.files import atomic_file
from mae_skill.spec import ExperimentSpec

from mae_runners.context import RunContext
from mae_runners.metrics.gallery import Gallery, png
from mae_runners.training.services import Service, start_mlflow, start_wandb


def _event_writer(folder: Path, step: int) -> Any:
    """A TensorBoard writer that goes on behind a step.

    TensorBoard's own CRC-32C takes a picture byte by byte in Python, on the interpreter that
    trains: some 50 ns a byte. anycrc gives the same sums at the speed of memory.
    """
    from anycrc import Model
    from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
    from torch.utils.tensorboard import SummaryWriter

    pywrap_tensorflow.crc32c = Model("CRC32C").calc
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


class Trackers:
    """CSV and TensorBoard always, services by the blocks ``wandb`` and ``mlflow``; rank 0 only.

    Rows past the resumed step are dropped first.
    """

    COLUMNS = ("step", "epoch", "name", "value")
    _shown_in_epochs = ("reconstruction", "progress", "segmentation")
    """Sheets that `image` has shown as boards, with their words."""

    def __init__(
        self,
        folder: Path,
        spec: ExperimentSpec,
        config: dict[str, Any],
        context: RunContext,
        step: int,
    ) -> None:
        self.enabled, self._context = context.is_main, context
        if not self.enabled:
            return
        self.csv_path = folder / "metrics.csv"
        self._keep_rows_up_to(step)
        self._file = self.csv_path.open("a", newline="", encoding="utf-8")
        self._csv = csv.writer(self._file)
        if self.csv_path.stat().st_size == 0:
            self._csv.writerow(self.COLUMNS)

        self._board = _event_writer(folder / "tensorboard", step)
        started = [
            start_wandb(folder, spec.wandb, config, context) if spec.wandb.enable else None,
            start_mlflow(folder, spec.mlflow, config, context) if spec.mlflow.enable else None,
        ]
        self._services = [one for one in started if one is not None]

    def _keep_rows_up_to(self, step: int) -> None:
        if not self.csv_path.exists():
            return
        with self.csv_path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(self.COLUMNS)]
        kept = [
            row for row in rows if row[0] == "step" or (row[0].isdigit() and int(row[0]) <= step)
        ]
        with (
            atomic_file(self.csv_path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows(kept if kept else [self.COLUMNS])

    def log(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """One row per value; numbers are written so that they read back bit for bit."""
        if not self.enabled:
            return
        for name, value in values.items():
            self._csv.writerow((step, epoch, name, repr(float(value))))
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._tell(lambda service: service.scalars(step, {**finite, "epoch": epoch}))

    def machine(self, step: int, values: dict[str, float]) -> None:
        """What belongs to the machine, not to the run: no table holds it, for no two runs are alike
        in it."""
        if not self.enabled:
            return
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._tell(lambda service: service.scalars(step, values))

    def gallery(self, step: int, folder: Path) -> None:
        """The sheets of the report (`mae_runners.metrics.gallery`) that no tracker has seen yet."""
        if not self.enabled:
            return
        from PIL import Image

        for sheet in Gallery(folder).index.get("sheets", []):
            name = sheet["kind"]
            if name in self._shown_in_epochs:
                continue
            path = folder / "pictures" / sheet["file"]
            with Image.open(path) as opened:
                self._show(step, name, np.asarray(opened.convert("RGB")), path.read_bytes())

    def _show(self, step: int, name: str, pixels: np.ndarray, encoded: bytes) -> None:
        """Into the trackers: a picture, and the same as the bytes of a PNG file."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width, colors = pixels.shape
        image = Summary.Image(
            height=height, width=width, colorspace=colors, encoded_image_string=encoded
        )
        # `add_image` would encode it once more, which takes longer than all the rest of a board.
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._board.file_writer.add_summary(summary, step)
        self._tell(lambda service: service.picture(step, name, pixels))

    def _tell(self, act: Callable[[Service], object]) -> None:
        for service in self._services:
            service.tell(act)

    def image(self, step: int, name: str, pixels: np.ndarray, path: Path) -> None:
        """An RGB picture, uint8 ``[H, W, 3]``: into the folder as PNG, and the trackers."""
        if not self.enabled:
            return
        encoded = png(pixels)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        self._show(step, name, pixels, encoded)

    def flush(self) -> None:
        if self.enabled:
            self._file.flush()
            self._board.flush()
            self._tell(lambda service: service.flush())

    def close(self) -> None:
        if self.enabled:
            self._file.close()
            self._board.close()
            self._tell(lambda service: service.close())
