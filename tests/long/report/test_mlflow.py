"""A run tells MLflow what it writes down itself."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import write_imagefolder
from tests.support.training import spec, train


def test_mlflow_holds_the_scalars_of_the_table_and_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    data = write_imagefolder(tmp_path / "data")
    made: dict[str, Any] = {"mlflow__enable": True, "mlflow__name": "small"}
    for epochs in (1, 2):  # the second attempt goes on in the run of the first
        assert train(spec(data, tmp_path / "job", train__num_epochs=epochs, **made)) == 0

    folder = tmp_path / "job/train"
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "mae"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "small" and run.info.status == "FINISHED"
    assert run.data.params["train.stage"] == "pretrain"
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for name in {row["name"] for row in rows}:
        held = {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
        assert held == {int(r["step"]): float(r["value"]) for r in rows if r["name"] == name}
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "pictures")]
    assert any("reconstruction" in path for path in pictures)
    assert any("neighbors" in path for path in pictures)
