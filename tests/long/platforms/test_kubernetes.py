"""Kubernetes, against an emulated API server and a real store: no cluster was at hand."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from mae_sdk import Skill, answers
from mae_sdk.job import Job, content_of, open_job, trials_of
from mae_sdk.jobs import records
from mae_sdk.jobs.outputs import outputs_of
from mae_sdk.jobs.root import Root
from mae_sdk.run import platform as platforms
from mae_sdk.run.platform import submit
from mae_sdk.storage import transfer
from mae_skill.errors import JobFailedError, MaeError, StorageError, UsageError

from tests.long.platforms.test_training import losses, options
from tests.support.automl_toy import make_job
from tests.support.callers import race
from tests.support.images import write_imagefolder
from tests.support.jobs import wait_until
from tests.support.kube import VERSION, Cluster
from tests.support.s3 import S3Server
from tests.support.toy_bundle.make import write_bundle

SETTINGS: dict[str, Any] = {"image": "registry/mae:1", "secrets": ["store"]}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    (tmp_path / "s3" / "b").mkdir(parents=True)
    (tmp_path / "kube").mkdir()
    with S3Server(tmp_path / "s3") as store, Cluster(tmp_path / "kube") as made:
        for name, value in {**store.env, "MAE_SYNC_SECONDS": "0.3", "MAE_REPORT": "off"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kube" / "kubeconfig"))
        monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "scratch"))
        monkeypatch.setattr(platforms, "_loaded", {})
        of_pods = {"MAE_SYNC_SECONDS": "MC4z", "MAE_REPORT": "b2Zm"}
        made.objects["secrets", "store"] = {"data": of_pods}
        yield made


def asked(tmp_path: Path, **more: Any) -> dict[str, Any]:
    data = tmp_path / "data" / "pictures"
    if not data.exists():
        write_imagefolder(data, classes=2, per_class=1)
    return {
        "train_datasets": str(data.parent),
        "automl_policy": "off",
        "platform": "kubernetes",
        "platform_options": SETTINGS,
        "results_root": "s3://b/results",
        **more,
    }


def slow(fault: str) -> dict[str, Any]:
    return {"spec_overrides": {"train.fault": fault}}


def test_a_job_runs_in_a_pod_and_its_results_are_behind_the_url(
    cluster: Cluster, tmp_path: Path
) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    env = {"MAE_ENCRYPTION_KEY": "canary-4711"}
    job = skill.create_job("train", **asked(tmp_path, env=env)).wait(90)
    assert job.metrics() == {"score": 0.5} and "secret [redacted]" in job.logs()
    assert cluster.created == ["secrets", "jobs"]
    (name,) = cluster.pods
    said = json.dumps(cluster.objects["jobs", name])
    assert "canary" not in said and "Y2FuYXJ5" not in said
    owner = cluster.objects["secrets", name]["metadata"]["ownerReferences"]
    assert owner[0]["kind"] == "Job" and owner[0]["uid"] == f"uid-{name}"
    assert not [
        p for p in (tmp_path / "s3").rglob("*") if p.is_file() and b"4711" in p.read_bytes()
    ]


def test_a_job_is_seen_and_canceled_from_any_machine(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    job = skill.create_job("train", **asked(tmp_path, **slow("sleep")))
    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "another machine"))
    there = skill.job(job.id, results_root="s3://b/results")
    wait_until(lambda: there.state == "RUNNING", 60)
    assert there.cancel(60) == "CANCELED"
    assert there.record["attempts"][-1]["transitions"][-1]["reason"] == "canceled on request"
    assert skill.job(job.id, results_root="s3://b/results").state == "CANCELED"


def test_the_same_key_makes_one_job_and_a_lost_node_costs_an_attempt(
    cluster: Cluster, tmp_path: Path
) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    call = asked(tmp_path, idempotency_key="k", **slow("once"))
    job = skill.create_job("train", **call)
    assert skill.create_job("train", **call).id == job.id
    wait_until(lambda: job.state == "RUNNING", 60)
    (name,) = cluster.pods
    cluster.lose(name)
    job.wait(90)
    assert [attempt["state"] for attempt in job.record["attempts"]] == ["PREEMPTED", "COMPLETE"]
    assert cluster.created.count("jobs") == 1


def test_a_supervisor_that_is_killed_is_an_error_and_the_job_is_resumed(
    cluster: Cluster, tmp_path: Path
) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    job = skill.create_job("train", **asked(tmp_path, **slow("once")))
    wait_until(lambda: job.state == "RUNNING", 60)
    (name,) = cluster.pods
    process = cluster.pods[name][0].process
    assert process is not None
    process.send_signal(signal.SIGKILL)
    with pytest.raises(JobFailedError, match="Kubernetes says BackoffLimitExceeded"):
        job.wait(60)
    job = skill.job(job.id, results_root="s3://b/results").resume().wait(60)
    assert [attempt["state"] for attempt in job.record["attempts"]] == ["ERROR", "COMPLETE"]
    assert cluster.created.count("jobs") == 2


def test_what_the_cluster_refuses_is_one_error_and_says_whether_to_try_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    cluster.quota = "jobs.batch is forbidden: exceeded quota: team"
    with pytest.raises(UsageError, match="exceeded quota") as error:
        skill.create_job("train", **asked(tmp_path, env={"LAMP": "on"}))
    assert error.value.retryable and error.value.field == "platform_options.namespace"
    assert "secrets" in cluster.created
    assert [name for kind, name in cluster.objects if kind == "secrets"] == ["store"]
    cluster.quota = None
    bad = {**SETTINGS, "memory": "64Gi", "service_account": "x" * 10, "image": "missing:1"}
    job = skill.create_job("train", **asked(tmp_path, platform_options=bad))
    with pytest.raises(JobFailedError, match=r"ErrImagePull: missing:1: not found"):
        job.wait(60)
    cluster.down = True
    with pytest.raises(StorageError) as down:
        skill.create_job("train", **asked(tmp_path))
    assert down.value.retryable


def test_what_cannot_run_there_is_an_error_of_the_plan(cluster: Cluster, tmp_path: Path) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"results_root": str(tmp_path / "r")}, "results_root"),
        ({"platform_options": {}}, "platform_options.image"),
    ]
    for changes, field in cases:
        with pytest.raises(MaeError) as error:
            answers.plan(skill.plan("train", **asked(tmp_path, **changes)))
        assert error.value.field == field
    assert cluster.created == []


def test_a_plan_shows_manifests_that_the_published_schemas_allow(
    cluster: Cluster, tmp_path: Path
) -> None:
    rich = {
        **SETTINGS,
        "node_selector": {"gpu": "a100"},
        "claims": {"shared": str(tmp_path / "data")},
        "cpus": "16",
        "memory": "128Gi",
        "scratch_size": "500Gi",
        "pull_secrets": ["registry"],
        "service_account": "trainer",
    }
    more = options(tmp_path, train__num_gpus=8, train__num_nodes=1, train__accelerator="gpu")
    more |= {"platform_options": rich, "results_root": "s3://b/results"}
    made = Skill().plan("train", platform="kubernetes", **more)
    assert not [one for one in made.warnings if "sees no folder" in str(one)]
    hidden = Skill().plan("train", platform="kubernetes", **{**more, "platform_options": SETTINGS})
    said = [str(one) for one in hidden.warnings if "sees no folder" in str(one)]
    assert said and said[0].startswith("dataset.train_data_sources: a job of kubernetes")
    shown = answers.plan(made)["submission"]
    assert [one["kind"] for one in shown] == ["Secret", "Job"]
    for one in shown:
        kubernetes_validate.validate(one, VERSION, strict=True)
    pod = shown[-1]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert pod["nodeSelector"] == {"gpu": "a100"} and cluster.created == []


def test_two_nodes_are_an_indexed_job_with_a_headless_service(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platforms.platform("kubernetes"), "resources", _two_nodes)
    more = options(tmp_path, train__num_nodes=2, train__num_epochs=2)
    more |= {"platform_options": SETTINGS, "results_root": "s3://b/results"}
    job: Job = Skill().create_job("train", platform="kubernetes", **more).wait(240)
    assert cluster.created == ["secrets", "services", "jobs"]
    (name,) = cluster.pods
    spec = cluster.objects["jobs", name]["spec"]
    assert (spec["completions"], spec["completionMode"]) == (2, "Indexed")
    assert cluster.objects["services", name]["spec"]["clusterIP"] == "None"

    alone = {**options(tmp_path, train__num_gpus=2, train__num_epochs=2)}
    assert losses(Skill().create_job("train", **alone).wait(240)) == losses(job)


def _two_nodes(options: Any) -> platforms.Resources:
    """The emulated cluster lists one node; two are asked for."""
    return platforms.Resources(gpus=0, device="cpu", nodes=2)


def the_study(max_trials: int = 4, **options: Any) -> Path:
    """A study that is ready to be submitted; its results are on S3."""
    scratch = Root("s3://b/results").work_dir("study").parent
    places = {"platform": "kubernetes", "remote": "s3://b/results"}
    study = make_job(scratch, **places, max_trials=max_trials, **options)
    records.update_record(study, lambda record: record.update(platform_options=SETTINGS))
    return study


def table(study: Path) -> list[dict[str, str]]:
    text = transfer.read_bytes(f"s3://b/results/{study.name}/automl/trials.csv").decode()
    return list(csv.DictReader(text.splitlines()))


def test_a_study_prunes_its_trials_that_are_jobs_of_the_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"sampler": "random", "pruner": "successive_halving", "concurrency": 2}
    study = the_study(**options, spec={"num_epochs": 8, "sleep": 0.8})
    assert submit(study)
    wait_until(lambda: transfer.exists("s3://b/results/study/job.json"))
    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "another machine"))
    root = Root("s3://b/results")
    there = open_job(root, "study")
    assert there.wait(300).state == "COMPLETE"

    rows = table(study)
    states = [row["state"] for row in rows]
    assert len(states) == 4 and "PRUNED" in states and "COMPLETE" in states
    assert cluster.created.count("jobs") == 4  # the study itself is none
    trials = trials_of(there)
    assert [trial.id for trial in trials] == [row["child"] for row in rows]
    ends = ["COMPLETE" if state == "COMPLETE" else "CANCELED" for state in states]
    assert [trial.state for trial in trials] == ends
    starts = [content_of(trial, "starts.txt") for trial in trials]
    assert [len((text or b"").splitlines()) for text in starts] == [1] * 4
    best = max((row for row in rows if row["acc"]), key=lambda row: float(row["acc"]))
    assert outputs_of("study", "s3://b/results").id == best["child"]


def starts(trial: Job) -> int:
    """How often the runner of a trial was started."""
    return len((content_of(trial, "starts.txt") or b"").splitlines())


def test_a_study_is_planned_and_run_like_any_other(cluster: Cluster, tmp_path: Path) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    more = {"automl_policy": "on", "automl": {"max_trials": 2, "pruner": "none"}}
    call = asked(tmp_path, env={"MAE_ENCRYPTION_KEY": "canary-4711"}, **more)
    made = skill.plan("train", **call)
    secret, job = answers.plan(made)["submission"]
    assert job["metadata"]["labels"]["mae.job"] == f"{made.job_id}.t000"
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][-1].endswith(".t000")
    for one in (secret, job):
        kubernetes_validate.validate(one, VERSION, strict=True)
    assert cluster.created == []

    study = skill.create_job("train", **call).wait(120)
    trials = [one for one in skill.jobs("s3://b/results", all=True) if one.id != study.id]
    assert [trial.state for trial in trials] == ["COMPLETE"] * 2
    assert all("secret [redacted]" in trial.logs() for trial in trials)
    assert study.best_checkpoint().read_text() == "weights\n"
    assert study.figures()["study"]["trials"]["complete"] == 2


def descendants(pid: int) -> list[int]:
    """A process and all that came from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in descendants(int(child)))]


def test_a_study_whose_machine_is_lost_goes_on_elsewhere_and_no_trial_runs_twice(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = the_study(3, spec={"num_epochs": 6, "sleep": 0.8})
    assert submit(study)
    first = open_job(Root("s3://b/results"), "study.t001")
    wait_until(lambda: first.root.files(first.id) and starts(first), 150)
    process = records.last_attempt(records.read_record(study))["process"]
    assert process is not None
    for pid in descendants(process["pid"]):
        os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(records, "STALE_SECONDS", 3.0)
    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "another machine"))
    there = open_job(Root("s3://b/results"), "study")
    wait_until(lambda: there.state == "UNKNOWN")
    assert there.resume(lost=True).wait(120).state == "COMPLETE"
    assert [row["state"] for row in table(study)] == ["COMPLETE"] * 3
    assert [starts(trial) for trial in trials_of(there)] == [1] * 3
    assert (there.folder / "automl" / "best_spec.yaml").is_file()


def test_a_study_that_was_canceled_goes_on_with_the_trial_that_was_running(
    cluster: Cluster, tmp_path: Path
) -> None:
    study = the_study(2, spec={"num_epochs": 4, "sleep": 0.8})
    assert submit(study)
    job = open_job(Root("s3://b/results"), "study")
    first = open_job(Root("s3://b/results"), "study.t000")
    wait_until(lambda: first.root.files(first.id) and starts(first), 150)
    assert job.cancel(60) == "CANCELED"
    wait_until(lambda: first.state == "CANCELED", 60)
    assert job.resume().wait(120).state == "COMPLETE"
    assert [row["state"] for row in table(study)] == ["COMPLETE"] * 2
    assert [starts(trial) for trial in trials_of(job)] == [2, 1]


def test_a_trial_without_memory_is_started_again_on_the_cluster_without_its_old_results(
    cluster: Cluster, tmp_path: Path
) -> None:
    study = the_study(1, spec={"num_epochs": 1, "fault": "oom"})
    assert submit(study)
    job = open_job(Root("s3://b/results"), "study").wait(120)
    (trial,) = trials_of(job)
    assert (content_of(trial, "starts.txt") or b"").decode().split() == ["1", "8", "2", "4"]
    assert content_of(trial, "train/model_epoch_000.pth") is None
    assert content_of(trial, "train/result.json") is not None


def test_clients_of_two_machines_with_one_key_make_one_job(
    cluster: Cluster, tmp_path: Path
) -> None:
    call = asked(tmp_path, idempotency_key="k")
    scratch = [{"MAE_SCRATCH": str(tmp_path / f"machine {number}")} for number in range(4)]
    ids = race(write_bundle(tmp_path / "bundle"), call, scratch)
    assert len(set(ids)) == 1 and cluster.created.count("jobs") == 1
    job = open_job(Root("s3://b/results"), ids[0])
    assert job.wait(90).logs().count("attempt") == 1 and len(job.record["attempts"]) == 1


def test_what_the_cluster_refused_is_in_the_record_behind_the_url(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill = Skill(write_bundle(tmp_path / "bundle"))
    cluster.quota = "jobs.batch is forbidden: exceeded quota: team"
    with pytest.raises(UsageError, match="exceeded quota"):
        skill.create_job("train", **asked(tmp_path, idempotency_key="k"))
    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "another machine"))
    (job,) = skill.jobs("s3://b/results")
    assert job.state == "ERROR" and "exceeded quota" in str(job.record["error"])
    cluster.quota = None
    assert job.resume().wait(60).state == "COMPLETE"
