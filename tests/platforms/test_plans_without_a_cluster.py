"""Plans and manifests of Kubernetes where no cluster is at hand, and data whose store is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.launch import not_launched
from mae_sdk.run.kubernetes import KubernetesPlatform
from mae_sdk.run.platform import Resources, platform
from mae_skill.errors import MaeError, StorageError, UsageError
from mae_skill.rules.base import Facts

from tests.support.images import write_imagefolder

LOST = """
apiVersion: v1
kind: Config
current-context: lost
contexts: [{name: lost, context: {cluster: lost, user: me}}]
clusters: [{name: lost, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: me, user: {}}]
"""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a plan for Kubernetes, from a machine without a kubeconfig and without credentials."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "scratch"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    spec = {"train.num_nodes": 2, "train.num_gpus": 4}
    return {
        "platform": "kubernetes",
        "platform_options": {"image": "registry/mae:1"},
        "results_root": "s3://bucket/results",
        "automl_policy": "off",
        "spec_overrides": spec,
    }


def test_a_store_that_is_out_of_reach_says_how_a_plan_does_without_it(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="--images N states"):
        Skill().plan("train", train_datasets="s3://bucket/train", **options)
    here = {**options, "platform": "local", "platform_options": {}}
    with pytest.raises(MaeError) as error:
        Skill().plan("train", train_datasets="s3://bucket/train", **here)
    assert "credentials" in str(error.value) and "--images N states" not in str(error.value)


@pytest.mark.parametrize("on", [None, "4xA100-80G,nodes=2"])
def test_manifests_need_neither_a_cluster_nor_the_store_of_data_that_are_stated(
    options: dict[str, Any], on: str | None
) -> None:
    sources = {"train_datasets": "s3://bucket/train", "eval_dataset": "s3://bucket/val"}
    made = Skill().plan("train", images="1e6", on=on, **sources, **options)
    service, job = answers.plan(made)["submission"]
    assert (service["kind"], job["kind"], job["spec"]["completions"]) == ("Service", "Job", 2)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert "s3://bucket/train" in made.spec["dataset"]["train_data_sources"]
    assert made.facts.images == 1_000_000
    said = [text for text in made.notices if "nodes of kubernetes are not known" in text]
    assert len(said) == (on is None)


@pytest.mark.parametrize(("config", "kind"), [("", UsageError), (LOST, StorageError)])
def test_a_job_is_refused_before_it_has_a_record_where_no_cluster_answers(
    options: dict[str, Any], tmp_path: Path, config: str, kind: type[MaeError]
) -> None:
    if config:
        (tmp_path / "kubeconfig").write_text(config)
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=2)
    made = Skill().plan("train", train_datasets=str(data), **options)
    assert [one for one in made.warnings if isinstance(one, kind)]
    with pytest.raises(kind, match="cluster"):
        Skill().create_job(made)
    assert not (tmp_path / "scratch").exists()


def test_a_context_that_was_named_and_is_not_there_is_an_error_of_the_plan(
    options: dict[str, Any],
) -> None:
    options["platform_options"]["context"] = "typo"
    with pytest.raises(UsageError, match="no cluster is named"):
        Skill().plan("train", images="1M", **options)


CLAIMS = {"image": "registry/mae:1", "claims": {"shared": "/mnt/of-the-pod"}}
HIDDEN = "/mnt/of-the-pod/train"


def test_data_on_a_claim_are_planned_unseen_with_a_warning(options: dict[str, Any]) -> None:
    asked = {**options, "platform_options": CLAIMS, "train_datasets": HIDDEN}
    made = Skill().plan("train", **asked)
    said = [str(one) for one in made.warnings if getattr(one, "field", "").endswith("sources")]
    assert said and "not looked at" in said[0] and "--images N" in said[0]
    assert HIDDEN in str(made.spec["dataset"]["train_data_sources"]) and made.facts.images is None

    stated = Skill().plan("train", images="1e6", **asked)
    assert stated.facts.images == 1_000_000 and stated.steps_per_epoch
    for other in ("/mnt/elsewhere", "/mnt/of-the-pod-not"):
        with pytest.raises(MaeError, match="no data was found"):
            Skill().plan("train", **{**asked, "train_datasets": other})
    with pytest.raises(MaeError, match="no data was found"):
        Skill().plan("train", train_datasets=HIDDEN, automl_policy="off")


@pytest.mark.parametrize("images", [None, "1000"])
def test_a_job_of_data_that_only_its_machine_sees_is_launched(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: str | None
) -> None:
    monkeypatch.setattr(KubernetesPlatform, "resources", lambda self, options: Resources(nodes=2))
    started: list[dict[str, Any]] = []

    def submit(self: Any, job_dir: Path, record: Any, env: Any) -> Any:
        started.append(record)
        return {"handle": {"job": "1", "namespace": "default"}}

    monkeypatch.setattr(KubernetesPlatform, "submit", submit)
    asked = {**options, "platform_options": CLAIMS, "train_datasets": HIDDEN}
    asked["results_root"] = f"memory://{tmp_path.name}"
    made = Skill().plan("train", images=images, **asked)
    assert not_launched(made) is None
    Skill().create_job(made)
    (record,) = started
    (seen,) = [one for one in record["data"].values() if "train" in str(one["uri"])]
    assert seen.get("images") == (None if images is None else 1000)


def test_images_that_are_here_are_not_stated_for_a_run(tmp_path: Path) -> None:
    data = write_imagefolder(tmp_path / "data", classes=2, per_class=2)
    more = {"automl_policy": "off", "results_root": str(tmp_path / "r")}
    made = Skill().plan("train", train_datasets=str(data), images="1M", **more)
    with pytest.raises(UsageError, match="where they are counted"):
        Skill().create_job(made)


def test_folders_of_a_container_are_those_after_the_colon() -> None:
    options = platform("docker").settings({"mounts": ["/host:/in/there:ro", "/a:/b"]})
    assert platform("docker").mounted(options) == ["/in/there", "/b"]
    facts = Facts(local_files=True, mounts=("/in/there",))
    assert facts.must_be_here("/in/other/w.pth") and not facts.must_be_here("/in/there/w.pth")
