"""Kubernetes, against an emulated API server and a real store: no cluster was at hand."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from mae_sdk import Skill, answers
from mae_sdk.job import Job
from mae_sdk.run import platform as platforms
from mae_skill.errors import JobFailedError, MaeError, StorageError, UsageError

from tests.long.platforms.test_training import losses, options
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
        for name, value in {**store.env, "MAE_SYNC_SECONDS": "0.3"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kube" / "kubeconfig"))
        monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "scratch"))
        monkeypatch.setattr(platforms, "_loaded", {})
        made.objects["secrets", "store"] = {"data": {"MAE_SYNC_SECONDS": "MC4z"}}
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
        skill.create_job("train", **asked(tmp_path))
    assert error.value.retryable and error.value.field == "platform_options.namespace"
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
        ({"automl_policy": "on", "automl": {"max_trials": 2}}, "automl_policy"),
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
        "claims": {"shared": "/data"},
        "cpus": "16",
        "memory": "128Gi",
        "scratch_size": "500Gi",
        "pull_secrets": ["registry"],
        "service_account": "trainer",
    }
    more = options(tmp_path, train__num_gpus=8, train__num_nodes=1, train__accelerator="gpu")
    more |= {"platform_options": rich, "results_root": "s3://b/results"}
    made = Skill().plan("train", platform="kubernetes", **more)
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
