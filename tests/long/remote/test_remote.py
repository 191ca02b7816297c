"""Jobs of an object-store results root, with real S3 servers: the scratch may go, the job stays."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.jobs import records
from mae_skill.errors import DataError, MaeError
from mae_skill.reader import read_spec

from tests.support.images import make_tarball, write_imagefolder
from tests.support.jobs import wait_until
from tests.support.s3 import MotoServer, S3Server, environment
from tests.support.toy_bundle.make import write_bundle


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture
def root(server: S3Server, tmp_path: Path) -> Iterator[str]:
    bucket = server.bucket(tmp_path.name.replace("_", "-").lower()[:40])
    with environment(
        {**server.env, "MAE_SCRATCH": str(tmp_path / "scratch"), "MAE_SYNC_SECONDS": "0.2"}
    ):
        yield f"s3://{bucket.name}/results"


@pytest.fixture
def skill(tmp_path: Path) -> Skill:
    return Skill(write_bundle(tmp_path / "bundle"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1).parent)


def test_a_job_on_s3_is_seen_and_is_a_parent_without_its_scratch(
    skill: Skill, data: str, root: str, tmp_path: Path
) -> None:
    job = skill.create_job(
        "train", train_datasets=data, automl_policy="off", results_root=root
    ).wait(90)
    while job.record["attempts"][-1]["state"] != "COMPLETE":
        time.sleep(0.05)
    time.sleep(0.5)  # the supervisor's last act is to copy its record
    shutil.rmtree(tmp_path / "scratch")
    seen = skill.job(job.id, results_root=root)
    assert (seen.state, seen.metrics()) == ("COMPLETE", {"score": 0.5})
    assert "rate 0.5" in seen.logs()
    assert [other.id for other in skill.jobs(results_root=root)] == [job.id]
    child = skill.create_job("check", parent_job_id=job.id, results_root=root).wait(90)
    model = Path(read_spec(child.folder / "spec.yaml")["check"]["model"])
    assert model.read_text() == "weights\n"


def test_a_failed_job_is_resumed_on_another_machine(
    skill: Skill, data: str, root: str, tmp_path: Path
) -> None:
    overrides = {"train.fault": "exit"}
    job = skill.create_job(
        "train",
        train_datasets=data,
        automl_policy="off",
        results_root=root,
        spec_overrides=overrides,
    )
    with pytest.raises(MaeError):
        job.wait(90)
    time.sleep(0.5)
    with environment({"MAE_SCRATCH": str(tmp_path / "elsewhere")}):
        shutil.rmtree(tmp_path / "scratch")
        seen = skill.job(job.id, results_root=root)
        assert seen.state == "ERROR" and "it broke" in seen.logs()
        again = seen.resume()
        with pytest.raises(MaeError):
            again.wait(90)
        assert again.folder.is_relative_to(tmp_path / "elsewhere")
        assert [attempt["state"] for attempt in again.record["attempts"]] == ["ERROR", "ERROR"]


def test_another_machine_sees_the_heartbeat_and_its_end_and_can_take_the_job_over(
    skill: Skill, data: str, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "STALE_SECONDS", 4.0)
    overrides = {"train.fault": "once"}
    job = skill.create_job(
        "train",
        train_datasets=data,
        automl_policy="off",
        results_root=root,
        spec_overrides=overrides,
    )
    wait_until(lambda: job.state == "RUNNING")
    with environment({"MAE_SCRATCH": str(tmp_path / "elsewhere")}):
        seen = skill.job(job.id, results_root=root)
        wait_until(lambda: seen.state == "RUNNING")
        until = time.monotonic() + 8
        while (
            time.monotonic() < until
        ):  # far longer than the patience: the supervisor shows itself through the store
            assert seen.state == "RUNNING"
            time.sleep(0.5)
        with pytest.raises(MaeError, match="cannot be resumed"):
            seen.resume()
        with pytest.raises(MaeError, match="another machine"):
            seen.cancel()
    process = records.last_attempt(records.read_record(job.folder))["process"]
    os.kill(process["pid"], signal.SIGKILL)
    shutil.rmtree(tmp_path / "scratch")
    with environment({"MAE_SCRATCH": str(tmp_path / "elsewhere")}):
        wait_until(lambda: seen.state == "UNKNOWN", 60)
        again = seen.resume().wait(90)
        assert again.state == "COMPLETE" and again.metrics() == {"score": 0.5}
        assert [attempt["state"] for attempt in again.record["attempts"]] == ["ERROR", "COMPLETE"]
        assert again.record["attempts"][0]["failure"]["category"] == "lost_process"


def test_automl_on_s3_runs_and_its_best_child_is_a_parent_without_the_scratch(
    skill: Skill, data: str, root: str, tmp_path: Path
) -> None:
    automl = {"max_trials": 3, "pruner": "none"}
    study = skill.create_job("train", train_datasets=data, results_root=root, automl=automl).wait(
        180
    )
    trials = [
        job for job in skill.jobs(results_root=root, all=True) if job.id.startswith(f"{study.id}.")
    ]
    best = max(trials, key=lambda job: job.metrics()["score"])
    assert len(trials) == 3
    time.sleep(0.5)
    with environment({"MAE_SCRATCH": str(tmp_path / "elsewhere")}):
        shutil.rmtree(tmp_path / "scratch")
        seen = skill.job(study.id, results_root=root)
        assert seen.state == "COMPLETE" and len(seen.frame()) == 3
        plan = skill.plan("check", parent_job_id=study.id, results_root=root)
        parent = plan.to_dict()["parent"]
        assert (parent["id"], parent["best_child_of"]) == (best.id, study.id)
        child = skill.create_job(plan).wait(90)
        assert (
            Path(read_spec(child.folder / "spec.yaml")["check"]["model"]).read_text() == "weights\n"
        )


def test_one_key_gives_one_job_on_a_store_that_enforces_conditional_writes(
    skill: Skill, data: str, tmp_path: Path
) -> None:
    import boto3

    with MotoServer() as moto, environment({**moto.env, "MAE_SYNC_SECONDS": "0.2"}):
        boto3.client("s3").create_bucket(Bucket="jobs")
        options = {
            "train_datasets": data,
            "automl_policy": "off",
            "results_root": "s3://jobs/r",
            "idempotency_key": "once",
        }
        with environment({"MAE_SCRATCH": str(tmp_path / "one")}):
            first = skill.create_job("train", **options).wait(90)
            time.sleep(0.5)
        with environment({"MAE_SCRATCH": str(tmp_path / "two")}):
            plan = skill.plan("train", **options)
            second = skill.create_job(plan)
            assert second.id == first.id and second.state == "COMPLETE"
            assert not (tmp_path / "two" / first.id / records.RECORD_NAME).exists()
            assert len(second.record["attempts"]) == 1


def test_remote_data_is_counted_by_a_plan_unless_told_not_to_and_checked_before_a_launch(
    server: S3Server, tmp_path: Path
) -> None:
    bucket = server.bucket("pictures")
    make_tarball(
        write_imagefolder(tmp_path / "f", classes=3, per_class=2),
        bucket / "d" / "images_train.tar.gz",
    )
    make_tarball(
        write_imagefolder(tmp_path / "g", classes=1, per_class=2) / "0",
        bucket / "flat" / "images_train.tar.gz",
    )
    overrides = {
        "arch": "vit_tiny_patch16",
        "image_size": 64,
        "stage": "finetune",
        "num_classes": 4,
    }
    options = {"train_datasets": "s3://pictures/d", "automl_policy": "off"}
    with environment(server.env):
        plan = Skill().plan("train", **options, spec_overrides=overrides, count=False)
        assert plan.sources["dataset.train_data_sources"]["counted"] is False
        assert not (tmp_path / "cache").exists()
        with pytest.raises(MaeError) as caught:
            Skill().create_job(plan)
        assert caught.value.field == "model.num_classes" and caught.value.expected == "3"
        with pytest.raises(MaeError) as planned:
            Skill().plan("train", **options, spec_overrides=overrides)
        assert planned.value.field == "model.num_classes" and planned.value.expected == "3"
        with pytest.raises(DataError, match="no labels"):
            Skill().create_job(
                "train",
                train_datasets="s3://pictures/flat",
                spec_overrides=overrides,
                automl_policy="off",
            )
    assert not (tmp_path / "results").exists()
