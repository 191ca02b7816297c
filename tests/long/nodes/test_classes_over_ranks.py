"""Labels, weights and balanced sampling over two ranks: the losses and figures of one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import PLAIN, command, digits_folder, spec, status_lines, values
from tests.training.test_imbalance import unequal
from tests.training.test_multi_label import joined, pictures

EXACT = {
    "dataset__augmentation__auto_aug": None,
    "train__class_weights": "balanced",
    **{key.replace(".", "__"): value for key, value in PLAIN.items()},
}


def ran(data: Path, job: Path, ranks: int, **options: Any) -> tuple[list[float], dict[str, float]]:
    """Losses of the steps, and the last validation, at the same global batch."""
    made = spec(
        data,
        job,
        "finetune",
        **EXACT,
        **options,
        dataset__batch_size=4 // ranks,
        train__num_gpus=ranks,
    )
    done = subprocess.run(command(made), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return values(job), [line["kpi"] for line in status_lines(job) if "kpi" in line][-1]


@pytest.mark.parametrize("kind", ["balanced", "several labels"])
def test_two_ranks_give_the_losses_and_figures_of_one(kind: str, tmp_path: Path) -> None:
    if kind == "balanced":
        data = unequal(tmp_path / "data")
        held = digits_folder(tmp_path / "held", per_class=3, start=20)
        options: dict[str, Any] = {
            "dataset__balanced_sampling": True,
            "dataset__val_data_sources": str(held),
        }
    else:
        data, rows = pictures(tmp_path, per_class=5)
        file = str(joined(tmp_path / "labels.csv", rows))
        options = {
            "model__multi_label": True,
            "dataset__labels__train": file,
            "dataset__labels__val": file,
            "dataset__val_data_sources": str(data),
        }
    one, two = (ran(data, tmp_path / f"job{ranks}", ranks, **options) for ranks in (1, 2))
    assert two[0] == pytest.approx(one[0], rel=2e-4)
    assert two[1] == pytest.approx(one[1], rel=2e-4)
