"""Many workers on one PostgreSQL."""

from __future__ import annotations

import csv
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mae_sdk.automl import controller
from mae_sdk.automl.study import LOST, SILENT, open_storage
from mae_sdk.jobs import records
from mae_skill.errors import StorageError, UsageError

from tests.support.automl_toy import children, make_job, start_controller
from tests.support.postgres import missing, postgres

pytest.importorskip("psycopg", reason="needs the PostgreSQL driver psycopg")
pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres() as url:
        yield url


def test_workers_share_one_budget_and_no_trial_runs_twice(tmp_path: Path, url: str) -> None:
    jobs = [
        make_job(
            tmp_path,
            f"w{i}",
            storage=url,
            study="shared",
            max_trials=12,
            spec={"num_epochs": 2, "sleep": 0.05},
        )
        for i in range(3)
    ]
    workers = [start_controller(job) for job in jobs]
    for worker in workers:
        out, _ = worker.communicate(timeout=180)
        assert worker.returncode == 0, out
    ran = [child for job in jobs for child in children(job)]
    numbers = Counter(child.name.rpartition(".t")[2] for child in ran)
    assert sorted(numbers) == [f"{i:03d}" for i in range(12)] and set(numbers.values()) == {1}
    assert all(len((child / "starts.txt").read_text().splitlines()) == 1 for child in ran)
    assert sum(bool(children(job)) for job in jobs) >= 2
    import optuna

    study = optuna.load_study(study_name="shared", storage=open_storage(tmp_path, url))
    assert [direction.name for direction in study.directions] == [
        "MAXIMIZE"
    ] and study.metric_names == ["acc"]
    assert sum(trial.state.name == "COMPLETE" for trial in study.trials) == 12


def test_a_killed_worker_takes_up_its_own_trials_and_leaves_the_others_alone(
    tmp_path: Path, url: str
) -> None:
    options = {
        "storage": url,
        "study": "killed",
        "max_trials": 8,
        "spec": {"num_epochs": 4, "sleep": 0.15},
    }
    first, second = make_job(tmp_path, "k0", **options), make_job(tmp_path, "k1", **options)
    a, b = start_controller(first), start_controller(second)
    while not (children(first) and (children(first)[-1] / "starts.txt").exists()):
        time.sleep(0.05)
    os.killpg(a.pid, signal.SIGKILL)
    a.communicate()
    again = start_controller(first)
    for worker in (again, b):
        out, _ = worker.communicate(timeout=180)
        assert worker.returncode == 0, out
    ran = [*children(first), *children(second)]
    assert sorted(child.name.rpartition(".t")[2] for child in ran) == [f"{i:03d}" for i in range(8)]
    assert all(len((child / "starts.txt").read_text().splitlines()) == 1 for child in ran)
    with (first / "automl" / "trials.csv").open() as stream:
        assert {row["state"] for row in csv.DictReader(stream)} <= {"COMPLETE", "LOST", "RUNNING"}


def test_a_worker_that_never_returns_costs_the_others_time_and_no_trial(
    tmp_path: Path, url: str
) -> None:
    options = {"storage": url, "study": "silent", "max_trials": 5, "worker_timeout": 2}
    gone = make_job(
        tmp_path / "gone", "gone", **options, concurrency=2, spec={"num_epochs": 1, "sleep": 60}
    )
    worker = start_controller(gone)
    while len(children(gone)) < 2 or not (children(gone)[1] / "starts.txt").exists():
        time.sleep(0.05)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()
    for child in children(gone):  # the machine is gone, and its trials with it
        (child / records.CANCEL_NAME).touch()
    others = [
        start_controller(make_job(tmp_path / f"o{i}", f"o{i}", **options, spec={"num_epochs": 2}))
        for i in range(2)
    ]
    for other in others:
        out, _ = other.communicate(timeout=180)
        assert other.returncode == 0, out
    import optuna

    trials = optuna.load_study(study_name="silent", storage=open_storage(tmp_path, url)).trials
    lost = [trial for trial in trials if trial.user_attrs.get(LOST) == SILENT]
    assert [trial.number for trial in lost] == [0, 1]
    done = [trial.params for trial in trials if trial.state.name == "COMPLETE"]
    assert len(done) == 5 and all(trial.params in done for trial in lost)


def test_a_study_of_other_metrics_under_the_same_name_is_refused(tmp_path: Path, url: str) -> None:
    assert (
        controller.main([str(make_job(tmp_path, "m0", storage=url, study="metric", max_trials=1))])
        == 0
    )
    with pytest.raises(UsageError, match="other metrics"):
        controller.control(
            make_job(tmp_path, "m1", storage=url, study="metric", max_trials=1, metric="cost")
        )


def test_a_database_that_does_not_answer_is_a_storage_error_without_its_password(
    tmp_path: Path,
) -> None:
    with pytest.raises(StorageError) as caught:
        open_storage(tmp_path, "postgresql://mae:hunter2@127.0.0.1:9/none")
    assert "hunter2" not in str(caught.value)
