"""What goes along with a run: the average of weights, the trackers."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import torch
from mae_sdk.files import atomic_file
from mae_skill.errors import DependencyError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mae_runners.context import RunContext


class WeightAverage:
    """Exponential moving average of the trained parameters: ema ← decay · ema + (1 − decay) · live. The running statistics of batch
    normalisation go with the weights that made them, so they are averaged too."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        parameters = [p.detach() for p in module.parameters() if p.requires_grad]
        self.live: list[Tensor] = [
            p.to_local() if isinstance(p, DTensor) else p for p in parameters
        ]  # a rank averages its own shards
        self.live += [
            b
            for name, b in module.named_buffers()
            if name.endswith((".running_mean", ".running_var"))
        ]
        self.shadow = [p.clone() for p in self.live]

    @torch.no_grad()
    def take(self) -> None:
        """Starts anew from the live values."""
        for live, shadow in zip(self.live, self.shadow, strict=True):
            shadow.copy_(live)

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self.shadow, self.live, 1.0 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges live and averaged values in place; called twice it is the identity."""
        for live, shadow in zip(self.live, self.shadow, strict=True):
            kept = live.clone()
            live.copy_(shadow)
            shadow.copy_(kept)


class Trackers:
    """CSV and TensorBoard always, W&B by the `wandb` block; rank 0 only. Rows past the resumed step are dropped first."""

    COLUMNS = ("step", "epoch", "name", "value")

    def __init__(
        self, folder: Path, wandb_spec: Any, config: dict[str, Any], context: RunContext, step: int
    ) -> None:
        self.enabled = context.is_main
        if not self.enabled:
            return
        self.csv_path = folder / "metrics.csv"
        self._keep_rows_up_to(step)
        self._file = self.csv_path.open("a", newline="")
        self._csv = csv.writer(self._file)
        if self.csv_path.stat().st_size == 0:
            self._csv.writerow(self.COLUMNS)
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=step + 1 if step else None
        )
        self._wandb = (
            self._start_wandb(folder, wandb_spec, config)
            if getattr(wandb_spec, "enable", False)
            else None
        )

    @staticmethod
    def _start_wandb(folder: Path, block: Any, config: dict[str, Any]) -> Any:
        try:
            import wandb
        except ImportError as error:
            raise DependencyError(
                "wandb.enable is set and the package wandb is not installed",
                field="wandb.enable",
                hint="pip install 'mae-skill[wandb]'",
            ) from error
        identity = {"id": block.run_id, "resume": "allow"} if block.run_id else {}
        settings = wandb.Settings(save_code=bool(block.save_code))
        return wandb.init(
            project=block.project or None,
            entity=block.entity or None,
            group=block.group or None,
            tags=list(block.tags or []),
            name=block.name or None,
            reinit=bool(block.reinit) or None,
            sync_tensorboard=bool(block.sync_tensorboard),
            dir=str(folder),
            config=config,
            settings=settings,
            **identity,
        )

    def _keep_rows_up_to(self, step: int) -> None:
        if not self.csv_path.exists():
            return
        with self.csv_path.open(newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == 4]
        kept = [
            row for row in rows if row[0] == "step" or (row[0].isdigit() and int(row[0]) <= step)
        ]
        with (
            atomic_file(self.csv_path) as temporary,
            temporary.open("w", newline="") as file,
        ):
            csv.writer(file).writerows(kept if kept else [self.COLUMNS])

    def log(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """One row a value; numbers are written so that they read back bit for bit."""
        if not self.enabled:
            return
        for name, value in values.items():
            self._csv.writerow((step, epoch, name, repr(float(value))))
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({**values, "epoch": epoch}, step=step)

    def flush(self) -> None:
        if self.enabled:
            self._file.flush()
            self._board.flush()

    def picture(self, step: int, name: str, image: Tensor, path: Path) -> None:
        """An RGB picture, float [3, H, W] in 0…1: into the folder as PNG, and into the trackers."""
        if not self.enabled:
            return
        from PIL import Image

        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        self._board.add_image(name, pixels, step, dataformats="HWC")
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        if self.enabled:
            self._file.close()
            self._board.close()
            if self._wandb is not None:
                self._wandb.finish()
