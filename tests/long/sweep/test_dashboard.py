"""optuna-dashboard opens the storage of a study as it is."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from mae_sdk.automl import controller

from tests.support.automl_toy import make_job


def _get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("kind", ["journal", "rdb"])
def test_the_dashboard_shows_the_study_with_its_trials_direction_and_metric(
    tmp_path: Path, kind: str
) -> None:
    storage = None if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    job = make_job(tmp_path, "shown", max_trials=4, storage=storage)
    assert controller.main([str(job)]) == 0
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = storage or str(job / "automl" / "journal.log")
    command = [
        str(Path(sys.executable).with_name("optuna-dashboard")),
        place,
        "--port",
        str(port),
        "--server",
        "wsgiref",
    ]
    with (
        (tmp_path / "dashboard.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as dashboard,
    ):
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    studies = _get(port, "studies")["study_summaries"]
                    break
                except OSError:
                    assert dashboard.poll() is None, (tmp_path / "dashboard.log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            assert [study["study_name"] for study in studies] == ["shown"]
            number = studies[0]["study_id"]
            study = _get(port, f"studies/{number}?after=0")
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/csv/{number}", timeout=30
            ) as answer:
                header = answer.read().decode().splitlines()[0]
        finally:
            dashboard.terminate()
    assert "acc" in header.split(",")
    assert study["directions"] == ["maximize"]
    assert [trial["state"] for trial in study["trials"]] == ["Complete"] * 4
    assert {param["name"] for trial in study["trials"] for param in trial["params"]} == {
        "train.lr",
        "train.decay",
    }
