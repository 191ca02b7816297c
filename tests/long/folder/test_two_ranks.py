"""A foreground run on two ranks in a folder of shadowing modules."""

from __future__ import annotations

import json
from pathlib import Path

from tests.sdk.test_working_folder import MAE, executed, hostile, run
from tests.support.training import digits_folder, spec, write_spec

__all__ = ["hostile"]


def test_a_command_line_and_a_foreground_run_on_two_ranks_import_nothing_of_it(
    hostile: Path, tmp_path: Path
) -> None:
    data = digits_folder(tmp_path / "data", per_class=3)
    made = spec(
        data,
        tmp_path / "out",
        train__num_epochs=1,
        train__num_gpus=2,
        dataset__batch_size=2,
        dataset__num_workers_per_gpu=1,
    )
    path = str(write_spec(made, tmp_path / "spec.json"))
    # With its standard streams closed too: what it prints lands in no file of the run.
    line = f"{MAE} train -e {path} >&- <&-"
    done = run(hostile, "sh", "-c", line, OMP_NUM_THREADS="1", PYTHONOPTIMIZE="2")
    assert done.returncode == 0, done.stderr
    assert executed(tmp_path) == ""
    assert json.loads((tmp_path / "out" / "train" / "result.json").read_text())["kpis"]
