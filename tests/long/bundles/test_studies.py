"""Studies over bundles of upstream's dialect: their metrics are found where their runners write
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill

from tests.support.upstream_bundle.make import write_bundle, write_data


@pytest.fixture
def skill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Skill:
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    write_data(tmp_path / "data")
    return Skill(write_bundle(tmp_path / "bundle"))


@pytest.mark.parametrize(("action", "metric"), [("train", "val_acc"), ("tune", "cost")])
def test_any_action_that_states_its_metric_is_searched(
    action: str, metric: str, skill: Skill, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "automl": {"max_trials": 3, "pruner": "none"},
    }
    if action == "train":
        options["train_datasets"] = str(tmp_path / "data")
    if action == "tune":
        options["spec_overrides"] = {"tune.checkpoint": str(tmp_path / "data" / "labels.json")}
    made = skill.plan(action, **options)
    assert made.study["objectives"][0]["metric"] == metric
    job = skill.create_job(made).wait(60)
    assert job.figures()["study"]["trials"]["complete"] == 3
    rows = job.history()
    name = "train.lr" if action == "train" else "tune.alpha"
    expected = [row[name] * 2 if action == "train" else row[name] ** 2 for row in rows]
    assert [row[metric] for row in rows] == pytest.approx(expected)
