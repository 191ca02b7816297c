"""What every platform must do: `local`, and a third party's in a package of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.job import Job, observe_jobs
from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoints import CheckpointIndex
from mae_sdk.run import platform as platforms
from mae_sdk.run import registry
from mae_sdk.run.platform import submit
from mae_sdk.run.process import identify, is_alive
from mae_skill.errors import (
    JobCanceledError,
    JobFailedError,
    MaeError,
    PreemptedError,
    UsageError,
)

from tests.support.folders import add_checkpoints
from tests.support.images import write_imagefolder
from tests.support.jobs import wait_until, write
from tests.support.platforms import Place, QueuePlace, install_toy, running
from tests.support.toy_bundle.make import write_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def toy_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_toy(tmp_path_factory.mktemp("toy") / "venv")


@pytest.fixture
def queue(
    tmp_path: Path, toy_packages: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[QueuePlace]:
    place = QueuePlace(tmp_path / "spool", toy_packages)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(toy_packages))
    monkeypatch.setattr(platforms, "_loaded", {})
    with place.engine():
        yield place


@pytest.fixture(params=["local", "queue"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "local":
        return Place()
    found: Place = request.getfixturevalue("queue")
    return found


def test_a_job_is_started_once_though_it_is_submitted_by_many(place: Place, tmp_path: Path) -> None:
    folder = write(tmp_path, "echo started; sleep 0.3", platform=place.name)
    started: list[bool] = []
    callers = [threading.Thread(target=lambda: started.append(submit(folder))) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(started) == [False] * 5 + [True]
    job = Job(folder).wait(30)
    assert not submit(folder)
    assert job.logs().count("started") == 1 and len(job.record["attempts"]) == 1


def test_its_output_is_its_log_and_its_environment_is_in_no_file(
    place: Place, tmp_path: Path
) -> None:
    command = "echo shade $SHADE key $MAE_ENCRYPTION_KEY"
    env = {"SHADE": "dark", "MAE_ENCRYPTION_KEY": "canary-4711"}
    job = place.start(tmp_path / "r", command, env).wait(30)
    assert "shade dark key [redacted]" in job.logs()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"canary-4711" in path.read_bytes()]


def test_states_are_told_of_many_jobs_at_once(place: Place, tmp_path: Path) -> None:
    good = place.start(tmp_path, "true", name="good")
    bad = place.start(tmp_path, "exit 3", name="bad")
    long = place.start(tmp_path, f"touch {tmp_path}/up; sleep 100", name="long")
    running(long, tmp_path / "up")
    wait_until(lambda: (good.state, bad.state) == ("COMPLETE", "ERROR"))
    gone = Job(tmp_path / "gone")
    seen = observe_jobs([good, gone, bad, long])
    states = [None if one is None else one[1] for one in seen]
    assert states == ["COMPLETE", None, "ERROR", "RUNNING"]
    assert long.cancel(30) == "CANCELED"


def test_a_canceled_job_ends_with_all_its_processes(place: Place, tmp_path: Path) -> None:
    command = f"echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; sleep 100"
    job = place.start(tmp_path, command)
    running(job, tmp_path / "pid")
    process = identify(int((tmp_path / "pid").read_text()))
    assert is_alive(process)
    assert job.cancel(30) == "CANCELED"
    wait_until(lambda: not is_alive(process))
    with pytest.raises(JobCanceledError):
        job.wait(5)
    assert job.cancel() == "CANCELED"


def test_a_failed_run_is_analyzed(place: Place, tmp_path: Path) -> None:
    job = place.start(tmp_path, "echo RuntimeError: CUDA out of memory; exit 1")
    with pytest.raises(JobFailedError):
        job.wait(30)
    failure = job.record["error"]
    assert failure is not None and failure["category"] == "out_of_memory"
    assert "CUDA out of memory" in failure["message"] and failure["hint"]


def test_a_job_whose_supervisor_is_killed_is_an_error_and_is_resumed(
    place: Place, tmp_path: Path
) -> None:
    command = f"[ $MAE_ATTEMPT = 2 ] || {{ touch {tmp_path}/up; sleep 100; }}"
    job = place.start(tmp_path, command)
    running(job, tmp_path / "up")
    place.lose(job)
    with pytest.raises(JobFailedError):
        job.wait(30)
    failure = job.record["error"]
    assert failure is not None and failure["category"] == "lost_process"
    assert job.resume().wait(30).state == "COMPLETE"
    assert [attempt["state"] for attempt in job.record["attempts"]] == ["ERROR", "COMPLETE"]


def test_a_preempted_job_goes_on_from_its_newest_checkpoint(place: Place, tmp_path: Path) -> None:
    command = (
        f"grep -q 'resume: /' $MAE_JOB_DIR/spec.yaml && exit 0; trap 'exit 75' TERM; "
        f"touch {tmp_path}/up; sleep 100 & wait"
    )
    folder = write(tmp_path, command, platform=place.name)
    records.update_record(folder, lambda record: record.update({"resume_keys": ["train.resume"]}))
    (folder / "spec.yaml").write_text("train: {resume: null}\n")
    add_checkpoints(folder, [0.5])
    assert submit(folder)
    job = Job(folder)
    running(job, tmp_path / "up")
    place.preempt(job)
    if not place.starts_again:
        with pytest.raises(PreemptedError):
            job.wait(30)
        assert job.state == "PENDING" and job.preempted
        job.resume()
    assert job.wait(30).state == "COMPLETE"
    assert [attempt["state"] for attempt in job.record["attempts"]] == ["PREEMPTED", "COMPLETE"]
    newest = CheckpointIndex(folder / "train").select("latest")
    assert str(newest) in (folder / "spec.yaml").read_text()


def test_a_job_outlives_the_client_that_started_it(place: Place, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.support.jobs import start\n"
        f"start(Path(sys.argv[1]), 'touch up; sleep 1', platform={place.name!r}, cwd=sys.argv[1])\n"
        "time.sleep(100)"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **place.environment},
    )
    job = Job(tmp_path / "job")
    wait_until((tmp_path / "up").exists)
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert job.wait(30).state == "COMPLETE"


def test_a_bundle_is_trained_checked_and_listed_there(place: Place, tmp_path: Path) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    options: dict[str, Any] = {"platform": place.name, "automl_policy": "off"}
    parent = skill.create_job("train", train_datasets=str(data), **options).wait(30)
    child = skill.create_job("check", parent_job_id=parent.id, platform=place.name).wait(30)
    assert {job.record["platform"] for job in skill.jobs()} == {place.name}
    assert child.state == "COMPLETE" and parent.metrics() == {"score": 0.5}


def test_a_study_and_its_trials_run_there_with_the_settings_of_the_study(
    place: Place, tmp_path: Path
) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    study = skill.create_job(
        "train",
        train_datasets=str(data),
        platform=place.name,
        automl={"max_trials": 2, "pruner": "none"},
        env={"MAE_ENCRYPTION_KEY": "canary-4711"},
    ).wait(90)
    trials = [job for job in skill.jobs(all=True) if job.id.startswith(f"{study.id}.")]
    assert [job.state for job in trials] == ["COMPLETE"] * 2
    assert {job.record["platform"] for job in trials} == {place.name}
    assert all("secret [redacted]" in job.logs() for job in trials)
    assert study.best_checkpoint().is_file()


def test_a_job_that_the_engine_could_not_start_shows_what_the_engine_kept(
    queue: QueuePlace, tmp_path: Path
) -> None:
    job = queue.start(tmp_path, "true", {"QUEUE_NODE": "broken"})
    with pytest.raises(JobFailedError, match="the queue ended it: 127"):
        job.wait(30)
    assert "/no/python/on/this/node" in job.logs()


def test_a_list_of_jobs_asks_the_engine_once(
    queue: QueuePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [queue.start(tmp_path, "sleep 100", name=f"j{number}") for number in range(5)]
    engine = platforms.platform("queue")
    asked: list[int] = []
    state = engine.state
    with monkeypatch.context() as patch:
        patch.setattr(engine, "state", lambda jobs: asked.append(len(jobs)) or state(jobs))
        states = {observed[1] for observed in observe_jobs(jobs) if observed}
    assert states <= {"PENDING", "RUNNING"} and asked == [5]
    for job in jobs:
        job.cancel(30)


def test_a_job_that_waits_in_the_queue_is_pending_and_can_be_canceled(
    queue: QueuePlace, tmp_path: Path
) -> None:
    holders = [queue.start(tmp_path, "sleep 100", name=f"holder{n}") for n in range(4)]
    waiting = queue.start(tmp_path, "true", name="waiting")
    wait_until(lambda: {job.state for job in holders} == {"RUNNING"})
    assert waiting.state == "PENDING"
    assert waiting.cancel(30) == "CANCELED" and not waiting.logs()
    for job in holders:
        job.cancel(30)


def test_a_plan_counts_the_devices_of_its_platform_and_not_those_of_this_machine(
    queue: QueuePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=4)
    options: dict[str, Any] = {"train_datasets": str(data), "automl_policy": "off"}
    four = {**options, "spec_overrides": {"train.num_gpus": 4, "train.accelerator": "gpu"}}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(MaeError, match="2 GPU"):
        Skill().plan("train", platform="local", **four)

    plan = Skill().plan("train", platform="queue", **four)
    assert (plan.launch["processes"], plan.launch["device_count"]) == (4, 4)
    assert plan.launch["devices"] == []  # its engine allots them
    assert plan.facts.gpus == 8

    monkeypatch.setenv("QUEUE_GPUS", "0")
    with pytest.raises(MaeError, match="GPU"):
        Skill().plan("train", platform="queue", **four)


def test_steps_are_not_timed_here_for_a_job_that_runs_elsewhere(
    queue: QueuePlace, tmp_path: Path
) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    options: dict[str, Any] = {"train_datasets": str(data), "automl_policy": "off"}
    plan = skill.plan("train", measure=True, platform="queue", **options)
    assert [warning.field for warning in plan.warnings] == ["measure"]
    assert "measured" in skill.plan("train", measure=True, **options).estimates


def test_a_job_of_a_platform_that_is_not_installed_is_unknown_and_left_alone(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path, "true", platform="moon")
    assert Job(folder).state == "UNKNOWN"
    with pytest.raises(UsageError, match="no such platform"):
        Job(folder).cancel()
    with pytest.raises(UsageError, match="no such platform"):
        submit(folder)


def test_the_built_in_platforms_are_those_that_the_package_declares() -> None:
    import re

    text = (ROOT / "pyproject.toml").read_text()
    section = text.split(f'[project.entry-points."{registry.GROUP}"]\n')[1].split("\n[")[0]
    assert dict(re.findall(r'^(\w+) = "(.+)"$', section, re.MULTILINE)) == registry.BUILT_IN


def test_a_platform_of_an_installed_package_is_found_by_its_entry_point(
    toy_packages: Path, tmp_path: Path
) -> None:
    """In the environment it was installed into, by a program apart from these tests."""
    python = toy_packages.parents[2] / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = (
        "from mae_sdk.run.platform import platform; print(platform('queue').resources({}).gpus)"
    )
    done = subprocess.run(
        [str(python), "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr
