"""The caller's side works on a Python that lacks `fcntl`, `fork`, `pread`, `poll` and /proc."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.docs import ROOT
from tests.support.images import make_tarball, write_imagefolder
from tests.support.reports import write_job


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every command answers there."""
    place = tmp_path_factory.mktemp("windows")
    data = place / "images_train.tar.gz"
    make_tarball(write_imagefolder(place / "pictures", classes=2, per_class=3, size=32), data)
    write_job(place / "results", "train-1", result={"kpis": {"ACC_all": 0.5}}, epochs=2)
    spec = place / "spec.yaml"
    spec.write_text(f"dataset: {{train_data_sources: {data}}}\n")
    command = [sys.executable, "-m", "tests.support.no_posix"]
    command += [str(path) for path in (place / "results", data, spec)]
    environment = {"HOME": str(place), "MAE_CACHE_DIR": str(place / "cache"), "PATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    found["left"] = sorted(path.name for path in (place / "results").iterdir())
    return found


def test_plan_validate_and_inspect_work_without_what_windows_lacks(answers: dict[str, Any]) -> None:
    assert "fcntl" in answers["tried"]  # it was asked for, and not there
    plan = answers["plan"]
    assert plan["exit"] == 0 and plan["sources"]["dataset.train_data_sources"]["images"] == 6
    assert answers["inspect"]["exit"] == 0 and answers["inspect"]["verdict"]["usable"]
    assert answers["validate"]["exit"] == 0


def test_jobs_reports_and_tools_read_a_root_without_what_windows_lacks(
    answers: dict[str, Any],
) -> None:
    assert [row["id"] for row in answers["list"]["jobs"]] == ["train-1"]
    assert answers["status"]["state"] == "COMPLETE"
    assert answers["metrics"]["metrics"]["ACC_all"] == 0.5
    assert answers["logs"]["exit"] == answers["show"]["exit"] == answers["report"]["exit"] == 0
    assert not answers["mcp"]["failed"] and answers["mcp"]["total"] == 1


def test_a_local_launch_is_refused_there_before_anything_is_written(
    answers: dict[str, Any],
) -> None:
    refused = answers["run"]
    assert refused["exit"] == 7 and "WSL" in refused["hint"]
    assert answers["left"] == ["train-1"]
    (local,) = answers["platforms"]["platforms"]
    assert not local["ready"] and "Windows" in local["missing"][0]["what"]
    assert answers["doctor"]["exit"] == 0
