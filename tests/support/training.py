"""Training runs of a second: a tiny ViT, a few digits, in this process or in one of its own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mae_runners.__main__ import main
from mae_skill.dotted import set_dotted

from tests.support.images import write_imagefolder

#: the smallest size of each family that leaves several mask units
FAMILIES = {"vit_tiny_patch16": 64, "convnextv2_atto": 64, "hiera_tiny_224": 64}
PLAIN = {
    "dataset.augmentation.mixup": 0.0,
    "dataset.augmentation.cutmix": 0.0,
    "model.drop_path_rate": 0.0,
}


def spec(
    data: Path,
    results: Path,
    stage: str = "pretrain",
    arch: str = "vit_tiny_patch16",
    **changes: Any,
) -> dict[str, Any]:
    """A small train spec; ``changes`` are dotted keys with ``__`` for the dot, such as
    ``train__num_epochs=3``."""
    flat: dict[str, Any] = {
        "model.arch": arch,
        "dataset.train_data_sources": str(data),
        "dataset.batch_size": 4,
        "dataset.num_workers_per_gpu": 0,
        "dataset.augmentation.input_size": FAMILIES.get(arch, 64),
        "train.stage": stage,
        "train.num_epochs": 2,
        "train.accelerator": "cpu",
        "results_dir": str(results),
    }
    if arch == "vit_tiny_patch16":
        flat |= {"model.embed_dim": 32, "model.depth": 2, "model.num_heads": 2}
    if stage == "pretrain":
        flat |= {"model.decoder_embed_dim": 32, "train.mask_ratio": 0.5}
        flat |= {} if arch.startswith("convnext") else {"model.decoder_num_heads": 2}
    else:
        flat |= {"model.num_classes": 3}
    flat |= {key.replace("__", "."): value for key, value in changes.items()}
    made: dict[str, Any] = {}
    for key, value in flat.items():
        set_dotted(made, key, value)
    return made


def digits_folder(
    root: Path, per_class: int = 4, size: int = 32, start: int = 0, classes: int = 3
) -> Path:
    return write_imagefolder(root, classes=classes, per_class=per_class, size=size, start=start)


def write_spec(made: dict[str, Any], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made))
    return path


def train(made: dict[str, Any], *overrides: str) -> int:
    """Run the train action in this process as the command line would; its exit code."""
    folder = Path(made["results_dir"])
    return main(
        [
            "train",
            "-e",
            str(write_spec(made, folder.parent / f"{folder.name}.spec.json")),
            *overrides,
        ]
    )


def command(made: dict[str, Any], *overrides: str) -> list[str]:
    folder = Path(made["results_dir"])
    path = write_spec(made, folder.parent / f"{folder.name}.spec.json")
    return [sys.executable, "-m", "mae_runners", "train", "-e", str(path), *overrides]


def start(made: dict[str, Any], *overrides: str, **env: str) -> subprocess.Popen[str]:
    """A train action in a process of its own, output captured."""
    return subprocess.Popen(
        command(made, *overrides),
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def curve(results: Path, name: str = "train_loss_step") -> dict[int, str]:
    """step → value as written (bit for bit) of one series of ``metrics.csv``."""
    with (results / "train" / "metrics.csv").open() as file:
        return {
            int(row["step"]): row["value"] for row in csv.DictReader(file) if row["name"] == name
        }


def values(results: Path, name: str = "train_loss_step") -> list[float]:
    return [float(value) for _, value in sorted(curve(results, name).items())]


def read(results: Path, name: str) -> Any:
    """A JSON file under the job folder."""
    return json.loads((results / name).read_text())


def status_lines(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / "status.json").read_text().splitlines()]
