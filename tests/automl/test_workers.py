"""Several workers on one study: a worker that goes silent costs the others time, never a trial."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import files
from mae_sdk.automl.study import LOST, SILENT, cut_torn_line, open_storage
from mae_sdk.jobs import records

from tests.support.automl_toy import children, make_job, start_controller


def _rows(job: Path) -> list[dict[str, str]]:
    with (job / "automl" / "trials.csv").open() as stream:
        return list(csv.DictReader(stream))


def _trials(storage: str, tmp_path: Path) -> list[Any]:
    import optuna

    return optuna.load_study(study_name="shared", storage=open_storage(tmp_path, storage)).trials


def _until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _finish(worker: subprocess.Popen[str]) -> str:
    out, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, out
    return out


def test_the_trials_of_a_worker_that_never_returns_run_again_elsewhere_and_cost_no_budget(
    tmp_path: Path,
) -> None:
    storage = str(tmp_path / "shared" / "study.log")
    options = {"storage": storage, "study": "shared", "max_trials": 4, "worker_timeout": 1.5}
    dead = make_job(tmp_path / "there", "dead", **options, spec={"num_epochs": 1, "sleep": 30})
    worker = start_controller(dead)
    _until(lambda: children(dead) and (children(dead)[0] / "starts.txt").exists())
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()
    (children(dead)[0] / records.CANCEL_NAME).touch()  # the machine is gone, and its child with it
    alive = make_job(tmp_path / "here", "alive", **options, spec={"num_epochs": 1})
    out = _finish(start_controller(alive))
    assert "dead has been silent" in out and "(trial 0 again): the spec as given" in out
    trials = _trials(storage, tmp_path)
    assert sum(trial.state.name == "COMPLETE" for trial in trials) == 4
    lost = [trial for trial in trials if trial.user_attrs.get(LOST) == SILENT]
    assert [trial.number for trial in lost] == [0]
    assert sum(trial.params == lost[0].params for trial in trials) == 2
    assert [row["state"] for row in _rows(alive)].count("LOST") == 1
    assert {row["reason"] for row in _rows(alive)} == {"", SILENT}


def test_a_worker_that_wakes_up_lets_go_of_the_trials_that_others_were_given(
    tmp_path: Path,
) -> None:
    storage = str(tmp_path / "study.log")
    options = {"storage": storage, "study": "shared", "max_trials": 3, "worker_timeout": 1.5}
    sleeper = make_job(
        tmp_path / "there", "sleeper", **options, spec={"num_epochs": 300, "sleep": 0.1}
    )
    first = start_controller(sleeper)
    _until(lambda: children(sleeper) and (children(sleeper)[0] / "status.json").exists())
    os.kill(first.pid, signal.SIGSTOP)
    try:
        out = _finish(
            start_controller(
                make_job(tmp_path / "here", "awake", **options, spec={"num_epochs": 1})
            )
        )
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert "sleeper has been silent" in out
    assert "given to another worker" in _finish(first)
    child = children(sleeper)[0]
    _until(lambda: records.state_of(records.read_record(child)) == "CANCELED")
    assert sum(trial.state.name == "COMPLETE" for trial in _trials(storage, tmp_path)) == 3


def test_workers_on_a_shared_journal_share_the_budget_and_end_with_the_same_study(
    tmp_path: Path,
) -> None:
    storage = str(tmp_path / "study.log")
    options = {
        "storage": storage,
        "study": "shared",
        "max_trials": 6,
        "spec": {"num_epochs": 2, "sleep": 0.05},
    }
    jobs = [make_job(tmp_path / name, name, **options) for name in ("a", "b")]
    for worker in [start_controller(job) for job in jobs]:
        _finish(worker)
    ran = [child for job in jobs for child in children(job)]
    assert sorted(child.name.rpartition(".t")[2] for child in ran) == [f"{i:03d}" for i in range(6)]
    one, other = (files.read_json(job / "train" / "result.json") for job in jobs)
    assert one["best_child"] == other["best_child"] and one["trials"] == other["trials"] == 6


def test_half_a_line_of_a_worker_that_died_while_writing_spoils_no_shared_journal(
    tmp_path: Path,
) -> None:
    import optuna

    path = tmp_path / "study.log"
    study = optuna.create_study(study_name="shared", storage=open_storage(tmp_path, str(path)))
    study.ask()
    with path.open("ab") as stream:
        stream.write(b'{"op_code":4,"half')
    study.ask()
    assert len(_trials(str(path), tmp_path)) == 2
    assert cut_torn_line(path) == 0


def test_a_worker_stopped_while_it_writes_goes_on_though_its_lock_was_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    path = tmp_path / "study.log"
    study = optuna.create_study(study_name="shared", storage=open_storage(tmp_path, str(path)))
    real = os.fsync

    def broken(descriptor: int) -> None:
        real(descriptor)
        next(tmp_path.glob("*.lock")).unlink()

    monkeypatch.setattr(os, "fsync", broken)
    study.ask()
    monkeypatch.undo()
    study.ask()
    assert len(_trials(str(path), tmp_path)) == 2
