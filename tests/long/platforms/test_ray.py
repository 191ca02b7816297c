"""What only Ray has: an address, nodes as a placement group, a client killed in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.run import platform as platforms
from mae_sdk.run.platform import submit
from mae_skill.errors import StorageError, UsageError

from tests.long.platforms.test_training import losses, options
from tests.support.jobs import write
from tests.support.platforms import running
from tests.support.ray import RayPlace
from tests.support.s3 import free_port


@pytest.fixture
def cluster(ray_cluster: RayPlace, monkeypatch: pytest.MonkeyPatch) -> RayPlace:
    for name, value in ray_cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platforms, "_loaded", {})
    return ray_cluster


def test_two_nodes_are_one_job(cluster: RayPlace, tmp_path: Path) -> None:
    asked = options(tmp_path, train__num_nodes=2, train__num_epochs=2)
    job = Skill().create_job("train", platform="ray", **asked).wait(240)
    derived = json.loads((job.folder / "train" / "derived.json").read_text())
    assert derived["effective_batch"] == 4, derived

    two_ranks = {**asked, **options(tmp_path, train__num_gpus=2, train__num_epochs=2)}
    assert losses(Skill().create_job("train", **two_ranks).wait(240)) == losses(job)


def test_a_client_killed_after_the_submission_is_followed_by_one_that_finds_its_job(
    cluster: RayPlace, tmp_path: Path
) -> None:
    folder = write(tmp_path, f"touch {tmp_path}/up; sleep 100", platform="ray")
    first = platforms.platform("ray").submit(folder, records.read_record(folder), {})
    assert submit(folder)
    job = Job(folder)
    assert records.last_attempt(job.record)["handle"] == first["handle"]
    running(job, tmp_path / "up")
    assert job.cancel(30) == "CANCELED" and len(job.record["attempts"]) == 1


def test_a_job_that_waits_for_cpus_is_pending_and_can_be_canceled(
    cluster: RayPlace, tmp_path: Path
) -> None:
    folder = write(tmp_path, "true", platform="ray")
    settings = {"cpus": 1000.0}
    records.update_record(folder, lambda record: record.update(platform_options=settings))
    assert submit(folder)
    job = Job(folder)
    assert job.state == "PENDING" and job.cancel(60) == "CANCELED"


def test_no_address_and_no_cluster_are_errors_of_their_own(
    cluster: RayPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = cluster.start(tmp_path, f"touch {tmp_path}/up; sleep 2")
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StorageError, match="does not answer") as error:
        Skill().plan(
            "train", platform="ray", platform_options={"address": nowhere}, **options(tmp_path)
        )
    assert error.value.retryable

    def lose(record: records.JobRecord) -> None:
        records.last_attempt(record)["handle"]["address"] = nowhere

    running(job, tmp_path / "up")
    records.update_record(job.folder, lose)
    platforms.platform("ray").ask_again()  # type: ignore[attr-defined]
    assert job.state == "UNKNOWN"
    assert job.wait(60).state == "COMPLETE"  # it ran on, and its record says so

    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    with pytest.raises(UsageError, match="no address") as missing:
        Skill().plan("train", platform="ray", **options(tmp_path))
    assert missing.value.field == "platform_options.address" and missing.value.hint
