"""Thirty steps of every family and stage give the losses that are checked in; a refactor must
reproduce them.

``MAE_UPDATE_GOLDEN=1`` writes the files anew: only for a change that is meant to change numbers,
and then said in the change log. The losses of a batch are compared at 1e-4, which holds under
``constraints.txt`` on any x86 CPU and any number of threads.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.training import FAMILIES, digits_folder, spec, train, values

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("arch", FAMILIES)
def test_thirty_steps_give_the_golden_losses(tmp_path: Path, arch: str, stage: str) -> None:
    data = digits_folder(tmp_path / "digits", per_class=2)
    changes = {
        "train__num_epochs": 10,
        "dataset__batch_size": 2,
        "train__checkpoint_interval": 10,
        "train__optim__lr": 1e-4,
    }
    changes |= {"train__optim__lr_scheduler": "cosine", "train__optim__warmup_epochs": 2}
    assert train(spec(data, tmp_path / "job", stage, arch, **changes)) == 0
    losses = values(tmp_path / "job")
    assert len(losses) == 30
    path = GOLDEN / f"{arch}_{stage}.json"
    if os.environ.get("MAE_UPDATE_GOLDEN"):
        path.write_text(
            json.dumps(
                {
                    "arch": arch,
                    "stage": stage,
                    "train_loss_step": [float(f"{loss:.8g}") for loss in losses],
                }
            )
            + "\n"
        )
    assert losses == pytest.approx(json.loads(path.read_text())["train_loss_step"], rel=1e-4)
    if arch.startswith("hiera"):
        assert sum(losses[-10:]) < 0.985 * sum(losses[:10]), "the loss falls"
