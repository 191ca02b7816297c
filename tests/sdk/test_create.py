"""Jobs created from plans of a bundle whose runner is a shell script."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Job, Skill
from mae_sdk.cli.main import main
from mae_sdk.jobs import records
from mae_sdk.mcp_server import answer, tools
from mae_skill.errors import DependencyError, JobFailedError, StorageError, UsageError
from mae_skill.reader import read_spec

from tests.support.images import write_imagefolder
from tests.support.toy_bundle.make import write_bundle


@pytest.fixture
def skill(tmp_path: Path) -> Skill:
    return Skill(write_bundle(tmp_path / "bundle"))


@pytest.fixture
def train(skill: Skill, tmp_path: Path) -> Callable[..., Job]:
    folder = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)

    def create(**options: Any) -> Job:
        return skill.create_job(
            "train", train_datasets=str(folder.parent), **{"automl_policy": "off", **options}
        )

    return create


def test_another_bundle_goes_through_plan_job_and_chain(
    skill: Skill, train: Callable[..., Job]
) -> None:
    parent = train(spec_overrides={"learning_rate": 0.25, "train.shade": "dark"}).wait(20)
    assert parent.metrics() == {"score": 0.25}
    assert parent.best_checkpoint() == parent.folder / "train" / "model_epoch_000.pth"
    child = skill.create_job("check", parent_job_id=parent.id).wait(20)
    spec = read_spec(child.folder / "spec.yaml")
    assert spec["check"]["model"] == str(parent.best_checkpoint())
    assert spec["train"]["shade"] == "dark" and spec["out"] == str(child.folder)
    assert [job.id for job in skill.jobs()] == [child.id, parent.id]


def test_a_job_is_what_its_plan_showed_and_a_plan_is_launched_once(
    skill: Skill, tmp_path: Path
) -> None:
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    plan = skill.plan("train", train_datasets=str(tmp_path / "data"), automl_policy="off")
    assert not Path(plan.job_dir).exists()
    job = skill.create_job(plan).wait(20)
    assert (job.id, read_spec(job.folder / "spec.yaml")) == (plan.job_id, plan.spec)
    assert skill.create_job(plan).record["attempts"] == job.record["attempts"]
    with pytest.raises(UsageError):
        skill.create_job(plan, env={"A": "1"})


def test_the_same_key_returns_the_first_job_and_restarts_nothing(train: Callable[..., Job]) -> None:
    first = train(idempotency_key="monday", spec_overrides={"train.fault": "exit"})
    with pytest.raises(JobFailedError):
        first.wait(20)
    with pytest.warns(
        UserWarning, match=r"but this call asks for another job: train\.fault differ"
    ):
        again = train(idempotency_key="monday")
    assert again.id == first.id and again.state == "ERROR" and len(again.record["attempts"]) == 1


def test_a_call_that_asks_for_another_job_is_told_what_differs(
    skill: Skill, train: Callable[..., Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"idempotency_key": "once", "spec_overrides": {"train.rounds": 2}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(**asked).wait(20)
        assert train(**asked).notices == train(idempotency_key="other").notices == []
    asked["spec_overrides"] = {"train.rounds": 3, "learning_rate": 0.25}
    with pytest.warns(UserWarning, match=r"job: train\.rate, train\.rounds differ"):
        train(**asked)
    with pytest.warns(UserWarning, match="was not compared with it: "):
        train(idempotency_key="once", parent_job_id="none")

    options = {
        "train_datasets": str(tmp_path / "data"),
        "automl_policy": "off",
        "idempotency_key": "once",
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with pytest.raises(SystemExit):
        main(["run", "train", *words, "--skill-dir", str(skill.path), "train.rounds=3", "--json"])
    shown = capsys.readouterr()
    (notice,) = json.loads(shown.out)["notices"]
    assert "another job: train.rounds differ" in notice and f"notice: {notice}" in shown.err
    (run,) = (tool for tool in tools(skill) if tool.name == "run")
    returned, failed = answer(
        skill,
        run,
        {"action": "train", **options, "spec_overrides": {"train.rounds": 3}, "confirmed": True},
    )
    assert returned["notices"] == [notice] and not failed


def _race(bundle: str, data: str, root: str, barrier: Any, found: Any) -> None:
    skill = Skill(bundle)
    barrier.wait()
    found.put(
        skill.create_job(
            "train",
            train_datasets=data,
            automl_policy="off",
            idempotency_key="race",
            results_root=root,
        ).id
    )


def test_eight_callers_racing_with_one_key_make_one_job_that_runs_once(
    skill: Skill, tmp_path: Path
) -> None:
    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(8), context.Queue()
    arguments = (str(skill.path), str(data), str(tmp_path / "results"), barrier, found)
    callers = [context.Process(target=_race, args=arguments) for _ in range(8)]
    for caller in callers:
        caller.start()
    ids = {found.get(timeout=60) for _ in callers}
    for caller in callers:
        caller.join()
    assert len(ids) == 1
    job = skill.job(ids.pop(), results_root=tmp_path / "results").wait(20)
    assert job.logs().count("attempt") == 1 and len(job.record["attempts"]) == 1
    assert [path.name for path in (tmp_path / "results").iterdir()] == [job.id]


def test_the_environment_reaches_the_job_and_no_file(
    train: Callable[..., Job], tmp_path: Path
) -> None:
    job = train(env={"MAE_ENCRYPTION_KEY": "canary-4711"}).wait(20)
    assert "secret [redacted]" in job.logs()
    assert job.record["env_names"] == ["MAE_ENCRYPTION_KEY"]
    assert not [
        path
        for path in (tmp_path / "results").rglob("*")
        if path.is_file() and b"canary-4711" in path.read_bytes()
    ]


def test_a_failing_plan_leaves_nothing_behind(train: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"train\.rounds"):
        train(spec_overrides={"train.rounds": 0})
    assert not (tmp_path / "results").exists()


def test_a_file_as_the_results_root_is_refused_and_cannot_be_listed(
    skill: Skill, train: Callable[..., Job], tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(UsageError, match="this is a file") as caught:
        train(results_root=str(tmp_path / "a file"))
    assert caught.value.field == "results_root" and str(tmp_path) in str(caught.value.got)
    with pytest.raises(StorageError, match="cannot be listed"):
        skill.jobs(tmp_path / "a file")


def test_automl_is_a_job_whose_best_child_is_the_parent_of_the_next(
    skill: Skill, train: Callable[..., Job]
) -> None:
    job = train(automl_policy="auto", automl={"max_trials": 3, "pruner": "none"}).wait(60)
    assert job.record["kind"] == "automl"
    trials = [other for other in skill.jobs(all=True) if other.id.startswith(f"{job.id}.")]
    assert sorted(other.record["kind"] for other in trials) == ["trial"] * 3
    best = max(trials, key=lambda other: other.metrics()["score"])
    assert job.best_checkpoint() == best.best_checkpoint()
    plan = skill.plan("check", parent_job_id=job.id)
    assert plan.spec["check"]["model"] == str(best.best_checkpoint())
    assert plan.to_dict()["parent"] == {
        "id": best.id,
        "action": "train",
        "kind": "checkpoint",
        "best_child_of": job.id,
    }
    assert job.id in [other.id for other in skill.jobs()] and best.id not in [
        other.id for other in skill.jobs()
    ]


def test_automl_without_its_engine_is_refused_before_anything_starts(
    train: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util

    from mae_skill.errors import DependencyError

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "optuna" else real(name, *rest),
    )
    with pytest.raises(DependencyError):
        train(automl_policy="auto")
    assert not (tmp_path / "results").exists()


def test_a_resumed_job_starts_from_its_own_checkpoint(train: Callable[..., Job]) -> None:
    job = train(spec_overrides={"train.fault": "sleep", "train.start_from": "/elsewhere.pth"})
    while job.state == "PENDING":
        time.sleep(0.02)
    (job.folder / "train").mkdir()
    (job.folder / "train" / "model_epoch_000.pth").write_text("weights\n")
    from mae_sdk.jobs.checkpoints import CheckpointIndex

    CheckpointIndex(job.folder / "train").add(
        job.folder / "train" / "model_epoch_000.pth",
        epoch=0,
        step=1,
        metrics={"score": 0.1},
        stage="",
        arch="",
        input_size=[1, 1],
    )
    assert job.cancel() == "CANCELED"
    spec_file = job.folder / "spec.yaml"
    spec_file.write_text(spec_file.read_text().replace("sleep", "''"))
    job.resume().wait(20)
    spec = read_spec(job.folder / "spec.yaml")["train"]
    assert (
        spec["resume"] == str(job.folder / "train" / "model_epoch_000.pth")
        and spec["start_from"] is None
    )
    assert [attempt["state"] for attempt in job.record["attempts"]] == ["CANCELED", "COMPLETE"]


def test_the_list_of_five_thousand_jobs_takes_well_under_a_second(
    skill: Skill, tmp_path: Path
) -> None:
    root = tmp_path / "many"
    record: dict[str, Any] = {"action": "train", "launch": {}}
    records.new_attempt(record)
    records.advance(record, records.COMPLETE)
    text = json.dumps(record)
    for number in range(5000):
        (root / f"train-{number:05d}").mkdir(parents=True)
        (root / f"train-{number:05d}" / "job.json").write_text(text)
    began = time.perf_counter()
    found = skill.jobs(results_root=root)
    states = {job.state for job in found}
    assert (len(found), states) == (5000, {"COMPLETE"})
    assert (
        time.perf_counter() - began < 3.0
    )  # measured alone: see benchmarks/sdk.py; here other work may share the machine


def test_results_are_a_table_on_request(
    train: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train(spec_overrides={"train.rate": 0.25}).wait(20)
    assert job.history() == [{"epoch": 0, "step": None, "score": 0.25}]
    frame = job.frame()
    assert list(frame.columns) == ["epoch", "step", "score"] and frame["score"].tolist() == [0.25]
    study = train(automl_policy="auto", automl={"max_trials": 2, "pruner": "none"}).wait(60)
    trials = study.frame()
    assert trials["trial"].tolist() == [0, 1] and set(trials["state"]) == {"COMPLETE"}
    assert trials["score"].tolist() == trials["train.rate"].tolist()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DependencyError):
        job.frame()


def test_the_script_that_a_plan_prints_makes_the_planned_job(skill: Skill, tmp_path: Path) -> None:
    import subprocess

    data = write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent
    plan = skill.plan(
        "train",
        train_datasets=str(data),
        automl_policy="off",
        spec_overrides={"train.rate": 0.75},
        idempotency_key="script",
    )
    done = subprocess.run(
        [sys.executable, "-c", plan.to_python()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == [plan.job_id, "{'score': 0.75}"]
    assert read_spec(Path(plan.job_dir) / "spec.yaml") == plan.spec
