"""Plans and manifests of Kubernetes where no cluster is at hand, and data whose store is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_skill.errors import MaeError, StorageError, UsageError

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
