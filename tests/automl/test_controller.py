"""A study over real child jobs: budget, pruning, faults, restart."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import files
from mae_sdk.automl import controller
from mae_sdk.automl.study import controller_lock, open_storage, repair_journal
from mae_sdk.automl.trials import Trials
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.jobs import resume as attempts
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.jobs.outputs import best_child
from mae_sdk.jobs.root import Root
from mae_sdk.run.process import identify
from mae_skill.errors import JobFailedError, NotFoundError, StorageError
from mae_skill.reader import read_spec

from tests.support.automl_toy import SPEC, children, make_job, start_controller


def _rows(job: Path) -> list[dict[str, str]]:
    with (job / "automl" / "trials.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(autouse=True)
def _signals() -> Any:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_study_runs_its_budget_starts_from_the_spec_as_given_and_leaves_its_results(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, max_trials=6, concurrency=2)
    with pytest.raises(NotFoundError):
        best_child(Root(job.parent), job.name)
    assert controller.main([str(job)]) == 0
    rows = _rows(job)
    assert [row["state"] for row in rows] == ["COMPLETE"] * 6
    assert (
        float(rows[0]["train.lr"]) == SPEC["train"]["lr"]
        and float(rows[0]["train.decay"]) == SPEC["train"]["decay"]
    )
    best = max(rows, key=lambda row: float(row["acc"]))
    assert best_child(Root(job.parent), job.name) == best["child"]
    # the curve falls in its last epoch: the best epoch counts
    assert int(best["best_epoch"]) == 4
    names = {path.name for path in (job / "automl").iterdir()}
    assert {
        "history.png",
        "slices.png",
        "parallel_coordinates.png",
        "importance.png",
        "importance.csv",
        "best_spec.yaml",
    } <= names
    assert files.read_json(job / "train" / "result.json")["best_child"] == best["child"]
    assert (job / "automl" / "best_spec.yaml").read_text() == (
        tmp_path / best["child"] / "spec.yaml"
    ).read_text()
    assert all(len((child / "starts.txt").read_text().splitlines()) == 1 for child in children(job))
    said = (
        job / "status.json"
    ).read_text()  # progress while it runs: trials, best so far, time left
    assert (
        re.search(r"3 of 6 trials; best acc 0\.\d+ \(trial \d\); about \d+ s left", said)
        and "6 of 6 trials; best acc" in said
    )
    # a second controller finds nothing left to do
    assert controller.main([str(job)]) == 0
    assert len(_rows(job)) == 6


def test_the_same_seed_gives_the_same_study_and_another_seed_another(tmp_path: Path) -> None:
    def params(name: str, seed: int) -> list[tuple[str, str]]:
        job = make_job(tmp_path, name, max_trials=5, seed=seed, spec={"num_epochs": 1})
        assert controller.main([str(job)]) == 0
        return [(row["train.lr"], row["train.decay"]) for row in _rows(job)]

    first = params("a", 1)
    assert first == params("b", 1)
    assert first[1:] != params("c", 2)[1:]
    assert len(set(first)) == 5


def test_the_log_of_a_study_names_the_values_that_a_trial_runs_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, max_trials=1, spec={"num_epochs": 1, "lr": 7.5})  # beyond its range
    assert controller.main([str(job)]) == 0
    (row,) = _rows(job)
    assert float(row["train.lr"]) == 7.5
    assert "lr=7.5" in capsys.readouterr().out


def test_a_pruned_trial_is_canceled_and_counts_its_epochs(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        max_trials=8,
        pruner="successive_halving",
        sampler="random",
        spec={"num_epochs": 8, "sleep": 0.08},
    )
    assert controller.main([str(job)]) == 0
    rows = _rows(job)
    pruned = [row for row in rows if row["state"] == "PRUNED"]
    assert len(rows) == 8 and pruned
    assert all(int(row["epochs"]) < 8 for row in pruned)
    assert all(
        records.state_of(records.read_record(tmp_path / row["child"])) == "CANCELED"
        for row in pruned
    )
    assert best_child(Root(job.parent), job.name) not in {row["child"] for row in pruned}
    for row in pruned:
        assert row["reason"].startswith("pruned after epoch")
        said = Job(tmp_path / row["child"]).status()["progress"]["message"]
        assert said == f"{row['reason']} (study {job.name})", "nobody has canceled it"


def test_a_killed_runner_is_started_again_and_spends_no_budget(tmp_path: Path) -> None:
    job = make_job(tmp_path, max_trials=2, spec={"fault": "flaky", "num_epochs": 1})
    assert controller.main([str(job)]) == 0
    assert [row["state"] for row in _rows(job)] == ["COMPLETE"] * 2
    assert [
        line.split()[0] for line in (children(job)[0] / "starts.txt").read_text().splitlines()
    ] == ["1", "2"]


def test_out_of_memory_halves_the_batch_once_and_doubles_the_accumulation(tmp_path: Path) -> None:
    job = make_job(tmp_path, max_trials=1, spec={"fault": "oom", "num_epochs": 1})
    assert controller.main([str(job)]) == 0
    child = children(job)[0]
    assert [line.split()[1] for line in (child / "starts.txt").read_text().splitlines()] == [
        "8",
        "4",
    ]
    assert "accum_grad_batches: 2" in (child / "spec.yaml").read_text()
    assert not (child / "train" / "model_epoch_000.pth").exists()
    assert "out of memory" in (job / "status.json").read_text()


def test_a_configuration_that_fails_is_recorded_and_the_study_goes_on(tmp_path: Path) -> None:
    job = make_job(
        tmp_path, max_trials=8, sampler="random", spec={"fault": "high", "num_epochs": 1}
    )
    assert controller.main([str(job)]) == 0
    rows = _rows(job)
    failed = [row for row in rows if row["state"] == "FAILED"]
    assert len(rows) == 8 and failed and len(failed) < 8
    assert all(float(row["train.lr"]) > 1e-3 and row["reason"] == "loss is nan" for row in failed)


@pytest.mark.parametrize(
    ("fault", "words", "trials"),
    [("data", "the spec as given fails: no images", 1), ("always", "none succeeded", 3)],
)
def test_a_study_that_cannot_succeed_ends_early_with_the_childs_reason(
    tmp_path: Path, fault: str, words: str, trials: int
) -> None:
    job = make_job(tmp_path, max_trials=9, spec={"fault": fault})
    with pytest.raises(JobFailedError, match=words):
        controller.control(job)
    assert len(children(job)) == trials


def test_a_metric_that_the_spec_as_given_does_not_report_ends_the_study_with_its_first_trial(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, max_trials=9, metric="accuracy:maximize", spec={"num_epochs": 1})
    with pytest.raises(
        JobFailedError, match="the spec as given fails: the trial reported no accuracy"
    ):
        controller.control(job)
    assert len(children(job)) == 1


def test_text_that_looks_like_a_number_reaches_every_trial_and_every_attempt_as_text(
    tmp_path: Path,
) -> None:
    words = {"name": "1e4", "tags": ["2e5", "on", "012", "0o17"], "rate": 1e-05}
    job = make_job(tmp_path, max_trials=1)
    child = Trials(job, files.read_json(job / "automl" / "study.json")).create(
        0, {"train": {"stage": "fine"}, "words": words}
    )
    assert read_spec(child / "spec.yaml")["words"] == words
    train = child / "train"
    train.mkdir()
    (train / "model.pth").write_bytes(b"x")
    CheckpointIndex(train).add(train / "model.pth", 0, 1, {})
    records.update_record(child, lambda record: record.update(resume_keys=["train.resume"]))
    attempts.prepare(child)
    again = read_spec(child / "spec.yaml")
    assert again["words"] == words and again["train"]["resume"] == str(train / "model.pth")


def test_a_plateau_and_a_timeout_end_a_study(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        "flat",
        max_trials=30,
        plateau=2,
        sampler="random",
        parameters=["train.decay"],
        spec={"num_epochs": 1, "decay": 0.2},
    )
    assert controller.main([str(job)]) == 0
    assert files.read_json(job / "train" / "result.json")["ended"] == "plateau"
    assert len(_rows(job)) == 3
    job = make_job(
        tmp_path, "slow", max_trials=30, timeout=1.0, spec={"num_epochs": 40, "sleep": 0.05}
    )
    begun = time.monotonic()
    with pytest.raises(
        JobFailedError, match="the time of the search was over before one of its trials had ended"
    ):
        controller.control(job)
    assert time.monotonic() - begun < 20


def test_max_epochs_bounds_every_trial(tmp_path: Path) -> None:
    job = make_job(tmp_path, max_trials=2, max_epochs=2)
    assert controller.main([str(job)]) == 0
    assert [row["epochs"] for row in _rows(job)] == ["2", "2"]


def test_several_metrics_give_a_pareto_front(tmp_path: Path) -> None:
    job = make_job(tmp_path, max_trials=8, metric=["acc", "cost"], spec={"num_epochs": 2})
    assert controller.main([str(job)]) == 0
    front = [row for row in _rows(job) if row["pareto"] == "True"]
    assert front
    for a in front:
        assert not any(
            float(b["acc"]) > float(a["acc"]) and float(b["cost"]) < float(a["cost"])
            for b in _rows(job)
        )
    assert (job / "automl" / "pareto.png").exists()


def test_a_grid_is_walked_once_without_repeating(tmp_path: Path) -> None:
    job = make_job(tmp_path, max_trials=50, sampler="grid", grid_points=2, spec={"num_epochs": 1})
    assert controller.main([str(job)]) == 0
    rows = _rows(job)
    assert len(rows) == 5
    assert len({(row["train.lr"], row["train.decay"]) for row in rows[1:]}) == 4


def test_a_killed_controller_goes_on_where_it_was_and_no_trial_runs_twice(tmp_path: Path) -> None:
    job = make_job(tmp_path, "killed", max_trials=5, spec={"num_epochs": 2, "sleep": 0.1})
    for pause in (0.9, 1.1, 1.3):
        process = start_controller(job)
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    with open(job / "automl" / "journal.log", "ab") as journal:
        journal.write(b'{"op_code":5,"torn')
    with contextlib.suppress(FileExistsError):  # it was killed while it held it
        (job / "automl" / "journal.log.lock").symlink_to("journal.log")
    assert controller.main([str(job)]) == 0
    calm = make_job(tmp_path, "calm", max_trials=5, spec={"num_epochs": 2})
    assert controller.main([str(calm)]) == 0

    def shape(path: Path) -> list[tuple[str, ...]]:
        return [
            (row["trial"], row["state"], row["acc"], row["train.lr"], row["train.decay"])
            for row in _rows(path)
        ]

    assert shape(job) == shape(calm)
    assert all(len((child / "starts.txt").read_text().splitlines()) == 1 for child in children(job))


def test_told_to_stop_it_leaves_its_trials_running_and_a_request_to_cancel_ends_them(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, max_trials=3, spec={"num_epochs": 100, "sleep": 0.05})
    process = start_controller(job)
    while not (children(job) and (children(job)[0] / "status.json").exists()):
        time.sleep(0.05)
    process.terminate()
    process.communicate()
    assert process.returncode == 75
    child = children(job)[0]
    assert records.state_of(records.read_record(child)) == "RUNNING"
    (job / records.CANCEL_NAME).touch()
    assert controller.main([str(job)]) == 6
    deadline = time.monotonic() + 10
    while records.state_of(records.read_record(child)) == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert records.state_of(records.read_record(child)) == "CANCELED"


def test_a_study_has_one_controller(tmp_path: Path) -> None:
    with (
        controller_lock(tmp_path),
        pytest.raises(StorageError, match="another controller"),
        controller_lock(tmp_path),
    ):
        pass


def test_a_torn_journal_line_is_cut_off_and_whole_lines_stay(tmp_path: Path) -> None:
    import optuna

    study = optuna.create_study(study_name="x", storage=open_storage(tmp_path, None))
    study.ask()
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_co')
    assert repair_journal(journal) == 7
    assert journal.read_bytes() == whole
    assert len(optuna.load_study(study_name="x", storage=open_storage(tmp_path, None)).trials) == 1


def test_a_supervisor_on_its_way_out_does_not_stand_in_for_the_next_attempt(tmp_path: Path) -> None:
    """Its last state is written before it ends: a retry in between starts the runner all the
    same."""
    job = make_job(tmp_path, max_trials=1, spec={"num_epochs": 1})
    trials = Trials(job, files.read_json(job / "automl" / "study.json"))
    trial = trials.create(0, {**SPEC, "train": {**SPEC["train"], "num_epochs": 1}})
    leaving = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(20)"])

    def end(record: records.JobRecord) -> None:
        records.advance(record, records.ERROR, "killed", process=identify(leaving.pid))

    records.update_record(trial, end)
    trials.retry(trial, None)
    deadline = time.monotonic() + 15
    while trials.status(trial).state != records.COMPLETE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [line.split()[0] for line in (trial / "starts.txt").read_text().splitlines()] == ["2"]
    assert leaving.poll() is None
    leaving.kill()
    leaving.wait()


def test_a_canceled_study_that_is_resumed_goes_on_with_the_trial_that_was_running(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, max_trials=2, spec={"num_epochs": 4, "sleep": 0.3})
    process = start_controller(job)
    while not (children(job) and (children(job)[0] / "status.json").exists()):
        time.sleep(0.02)
    (job / records.CANCEL_NAME).touch()
    process.communicate(timeout=60)
    assert process.returncode == 6
    (job / records.CANCEL_NAME).unlink()
    assert controller.main([str(job)]) == 0
    assert [row["state"] for row in _rows(job)] == ["COMPLETE"] * 2
    assert len(records.read_record(children(job)[0])["attempts"]) == 2


def test_a_trial_of_several_processes_is_pruned_as_one(tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        max_trials=6,
        pruner="successive_halving",
        sampler="random",
        spec={"num_epochs": 9, "sleep": 0.08},
        processes=2,
    )
    assert controller.main([str(job)]) == 0
    pruned = [tmp_path / row["child"] for row in _rows(job) if row["state"] == "PRUNED"]
    assert pruned
    assert all(
        len((child / "starts.txt").read_text().splitlines()) == 2 for child in pruned
    )  # both ranks started once, and both ended
    assert all(records.state_of(records.read_record(child)) == "CANCELED" for child in pruned)


def test_trials_at_a_time_share_the_cores_and_a_number_of_threads_that_was_given_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, expected in ((None, str(max(1, (os.cpu_count() or 1) // 2))), ("7", "7")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        job = make_job(tmp_path / str(given), max_trials=2, concurrency=2, spec={"num_epochs": 1})
        assert controller.main([str(job)]) == 0
        assert {(child / "threads.txt").read_text() for child in children(job)} == {expected}


def test_a_supervisor_that_nobody_wrote_down_is_found_and_not_started_twice(tmp_path: Path) -> None:
    """A controller can be killed between starting a supervisor and recording it."""
    job = make_job(tmp_path, max_trials=1, spec={"num_epochs": 2, "sleep": 0.5})
    trials = Trials(job, files.read_json(job / "automl" / "study.json"))
    trial = trials.create(0, {**SPEC, "train": {**SPEC["train"], "num_epochs": 2, "sleep": 0.5}})
    first = subprocess.Popen(
        [sys.executable, "-m", "mae_sdk.run.supervisor", str(trial)], start_new_session=True
    )
    while not (trial / "starts.txt").exists():
        time.sleep(0.02)
    trials.start(trial)
    process = records.last_attempt(records.read_record(trial))["process"]
    assert process is not None and process["pid"] == first.pid
    assert first.wait(60) == 0
    assert trials.status(trial).state == records.COMPLETE
    assert len((trial / "starts.txt").read_text().splitlines()) == 1


def test_a_trial_lost_with_its_controller_goes_on_and_spends_no_retry(tmp_path: Path) -> None:
    """A machine that goes down takes the controller, the supervisor and the runner with it."""
    job = make_job(tmp_path, max_trials=1, retries=0, spec={"num_epochs": 8, "sleep": 0.25})
    process = start_controller(job)
    while not (children(job) and (children(job)[0] / "status.json").exists()):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    attempt = records.last_attempt(records.read_record(children(job)[0]))
    assert attempt["process"] is not None
    os.killpg(attempt["process"]["pid"], signal.SIGKILL)

    assert controller.main([str(job)]) == 0
    assert [row["state"] for row in _rows(job)] == ["COMPLETE"]
    assert len(records.read_record(children(job)[0])["attempts"]) == 2


def test_a_trial_that_an_earlier_version_made_is_taken_up(tmp_path: Path) -> None:
    """Its command went through a warm client that has moved since, and files of its own were
    beside."""
    job = make_job(tmp_path, max_trials=1, spec={"num_epochs": 1})
    trials = Trials(job, files.read_json(job / "automl" / "study.json"))
    trial = trials.create(0, {**SPEC, "train": {**SPEC["train"], "num_epochs": 1}})

    def as_before(record: records.JobRecord) -> None:
        command = record["launch"]["command"]
        client = [sys.executable, "-m", "mae_sdk.automl.warm_client"]
        record["launch"]["command"] = [*client, *command]

    records.update_record(trial, as_before)
    gone = {**identify(), "pid": 2**22 - 3, "start_time": "1"}
    files.write_json(trial / "supervisor.json", {**gone, "slot": 0, "at": 0.0})
    (trial / ".start.lock").touch()

    assert controller.main([str(job)]) == 0
    assert [row["state"] for row in _rows(job)] == ["COMPLETE"]
    assert len((trial / "starts.txt").read_text().splitlines()) == 1


def test_only_the_placeholders_of_a_trials_template_are_filled(tmp_path: Path) -> None:
    """Braces in what the caller named, such as a folder, are its own."""
    root = tmp_path / "runs {job_id}"
    job = make_job(root, remote="memory://runs {python}")
    study = files.read_json(job / "automl" / "study.json")
    study["launch"] |= {
        "cwd": "/home/{job_dir}/work",
        "command": ["{python}", "{job_dir}/{job_id}"],
    }
    trials = Trials(job, study)
    launch = trials._launch(root / "study.t000")
    assert launch["cwd"] == "/home/{job_dir}/work"
    assert launch["remote"] == "memory://runs {python}/study.t000"
    assert launch["command"] == [sys.executable, f"{root}/study.t000/study.t000"]
