"""What only SLURM has: nodes, a time limit, its refusals, a controller that goes away."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.run import platform as platforms
from mae_sdk.run.platform import submit
from mae_skill.errors import DependencyError, MaeError, UsageError

from tests.long.platforms.test_training import losses, options
from tests.support.jobs import wait_until, write
from tests.support.platforms import running
from tests.support.slurm import SlurmPlace


def test_two_nodes_are_one_job(cluster: SlurmPlace, tmp_path: Path) -> None:
    asked = options(tmp_path, train__num_nodes=2, train__num_epochs=2)
    job = Skill().create_job("train", platform="slurm", **asked).wait(240)
    derived = json.loads((job.folder / "train" / "derived.json").read_text())
    assert derived["effective_batch"] == 4, derived
    assert job.record["launch"]["nodes"] == 2

    two_ranks = {**asked, **options(tmp_path, train__num_gpus=2, train__num_epochs=2)}
    assert losses(Skill().create_job("train", **two_ranks).wait(240)) == losses(job)


def test_a_run_on_two_nodes_is_preempted_and_goes_on(cluster: SlurmPlace, tmp_path: Path) -> None:
    asked = options(tmp_path, train__num_nodes=2, train__num_epochs=12)
    job = Skill().create_job("train", platform="slurm", **asked)
    wait_until(lambda: len(losses(job)) >= 1, 120)
    cluster.call("scancel", "--batch", "--signal=USR1", cluster.number(job))
    job.wait(240)
    states = [attempt["state"] for attempt in job.record["attempts"]]
    assert states == ["PREEMPTED", "COMPLETE"] and len(losses(job)) == 12


def test_a_plan_asks_the_partition_and_refuses_more_nodes_than_it_has(
    cluster: SlurmPlace, tmp_path: Path
) -> None:
    plan = Skill().plan("train", platform="slurm", **options(tmp_path, train__num_nodes=2))
    assert plan.nodes == 2 and plan.effective_batch == 4 and plan.resources.cores == 8
    assert not [w for w in plan.warnings if getattr(w, "field", "") == "train.num_nodes"]
    with pytest.raises(MaeError, match="2 nodes for a job, not 3"):
        Skill().plan("train", platform="slurm", **options(tmp_path, train__num_nodes=3))
    with pytest.raises(MaeError, match="GPU"):
        gpus = options(tmp_path, train__num_gpus=4, train__accelerator="gpu")
        Skill().plan("train", platform="slurm", **gpus)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"partition": "nope"}, "platform_options.partition"),
        ({"constraint": "nope"}, "platform_options.constraint"),
        ({"arguments": ["--nodelist=nope"]}, "platform_options.arguments"),
        ({"arguments": ["--mem=1T"]}, "platform_options.arguments"),
        ({"arguments": ["--no-such-thing"]}, "platform_options.arguments"),
        ({"time": "soon", "grace": 60}, "platform_options.time"),
    ],
)
def test_what_slurm_refuses_is_one_error_and_is_in_no_queue(
    cluster: SlurmPlace, tmp_path: Path, settings: dict[str, object], field: str
) -> None:
    folder = write(tmp_path, "true", platform="slurm")
    records.update_record(folder, lambda record: record.update(platform_options=settings))
    with pytest.raises(UsageError, match="SLURM did not take the job") as refused:
        submit(folder)
    assert refused.value.field == field and not refused.value.retryable
    assert refused.value.expected and refused.value.hint
    (value,) = [one for name, one in settings.items() if name != "grace"]
    assert refused.value.got in (value, *(value if isinstance(value, list) else []))
    assert Job(folder).state == "ERROR"
    name = platforms.attempt_name(folder, records.read_record(folder))
    assert not cluster.call("squeue", "--noheader", f"--name={name}")


def test_without_sbatch_a_plan_says_what_is_missing(
    cluster: SlurmPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match="sinfo is not here"):
        Skill().plan("train", platform="slurm", **options(tmp_path))
    (missing,) = platforms.platform("slurm").missing({})
    assert "sbatch" in missing.what and missing.how


def test_a_client_killed_after_sbatch_is_followed_by_one_that_finds_its_job(
    cluster: SlurmPlace, tmp_path: Path
) -> None:
    folder = write(tmp_path, f"touch {tmp_path}/up; sleep 100", platform="slurm")
    record = records.read_record(folder)
    first = platforms.platform("slurm").submit(folder, record, dict(os.environ))
    assert not platforms.was_submitted(records.last_attempt(records.read_record(folder)))
    assert submit(folder)
    job = Job(folder)
    assert records.last_attempt(job.record)["handle"] == first["handle"]
    running(job, tmp_path / "up")
    assert job.cancel(30) == "CANCELED"


def test_a_job_goes_on_while_the_controller_is_away_and_is_unknown_so_long(
    cluster: SlurmPlace, tmp_path: Path
) -> None:
    job = cluster.start(tmp_path, f"touch {tmp_path}/up; sleep 3; touch {tmp_path}/done")
    running(job, tmp_path / "up")
    cluster.stop_controller()
    try:
        platforms.platform("slurm").ask_again()  # type: ignore[attr-defined]
        assert job.state == "UNKNOWN"
        other = write(tmp_path, "true", name="other", platform="slurm")
        with pytest.raises(MaeError, match="SLURM cannot be reached") as error:
            submit(other)
        assert error.value.retryable
        wait_until((tmp_path / "done").exists)
    finally:
        cluster.start_controller()
    assert job.wait(60).state == "COMPLETE"


def test_before_its_time_limit_a_job_saves_and_slurm_starts_it_again(
    cluster: SlurmPlace, tmp_path: Path
) -> None:
    command = (
        f"[ $MAE_ATTEMPT = 2 ] && exit 0; trap 'exit 75' TERM; touch {tmp_path}/up; "
        "sleep 200 & wait"
    )
    folder = write(tmp_path, command, platform="slurm")
    settings = {"time": "1", "grace": 50}
    records.update_record(folder, lambda record: record.update(platform_options=settings))
    (folder / "spec.yaml").write_text("train: {resume: null}\n")
    assert submit(folder)
    job = Job(folder).wait(200)
    states = [attempt["state"] for attempt in job.record["attempts"]]
    assert states == ["PREEMPTED", "COMPLETE"]


def test_scancel_cancels_a_job_that_runs_and_one_that_waits(
    cluster: SlurmPlace, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    command = f"trap 'exit 75' TERM; touch {up}; sleep 200 & wait"
    folder = write(tmp_path, command, platform="slurm")
    assert submit(folder)
    job = Job(folder)
    running(job, up)
    cluster.call("scancel", cluster.number(job))
    wait_until(lambda: job.state == "CANCELED", 60)
    # It may have saved, and said so, before the batch script knew why it was signaled.
    assert len([one for one in job.record["attempts"] if one["process"]]) == 1
    assert not cluster.call("squeue", "-hj", cluster.number(job), "-t", "PD,R")

    held = write(tmp_path / "held", "true", platform="slurm")
    settings = {"arguments": ["--hold"]}
    records.update_record(held, lambda record: record.update(platform_options=settings))
    assert submit(held)
    job = Job(held)
    assert job.status()["waits_for"] == "SLURM: JobHeldUser"
    cluster.call("scancel", cluster.number(job))
    wait_until(lambda: job.state == "CANCELED", 60)
    assert records.last_attempt(job.record)["transitions"][-1]["reason"] == (
        "it was canceled in SLURM"
    )


def test_a_job_that_slurm_is_queueing_again_can_be_canceled(
    cluster: SlurmPlace, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    # It takes some seconds to save, while SLURM shows it as COMPLETING.
    command = f"trap 'sleep 4; exit 75' TERM; touch {up}; sleep 200 & wait"
    folder = write(tmp_path, command, platform="slurm")
    assert submit(folder)
    job = Job(folder)
    running(job, up)
    number = cluster.number(job)
    cluster.call("scontrol", "requeue", number)
    wait_until(lambda: "COMPLETING" in cluster.call("squeue", "-hj", number, "-o", "%T"), 30)
    cluster.call("scancel", number)
    wait_until(lambda: "COMPLETING" not in cluster.call("squeue", "-hj", number, "-o", "%T"), 60)
    wait_until(lambda: not cluster.call("squeue", "-hj", number, "-t", "PD,R,CG"), 60)
    assert len(job.record["attempts"]) == 1
    wait_until(lambda: job.state == "CANCELED", 60)
    assert [one["state"] for one in job.record["attempts"]] == ["PREEMPTED", "CANCELED"]


@pytest.mark.parametrize("by", ["scancel", "mae", "mae, after SLURM"])
def test_a_job_that_waits_in_the_queue_after_a_preemption_can_be_canceled(
    cluster: SlurmPlace, tmp_path: Path, by: str
) -> None:
    up = tmp_path / "up"
    folder = write(tmp_path, f"trap 'exit 75' TERM; touch {up}; sleep 200 & wait", platform="slurm")
    assert submit(folder)
    job = Job(folder)
    running(job, up)
    number = cluster.number(job)
    # Held, it waits however soon SLURM would start it again.
    cluster.call("scontrol", "requeuehold", number)
    wait_until(lambda: "PENDING" in cluster.call("squeue", "-hj", number, "-o", "%T"), 60)
    wait_until(lambda: records.last_attempt(job.record)["state"] == "PREEMPTED", 60)
    assert job.state == "PENDING" and len(job.record["attempts"]) == 1 and not job.preempted
    if by != "mae":
        cluster.call("scancel", number)
    if by != "scancel":
        assert job.cancel(60) == "CANCELED"
    wait_until(lambda: job.state == "CANCELED", 60)
    assert [one["state"] for one in job.record["attempts"]] == ["PREEMPTED", "CANCELED"]
    assert not cluster.call("squeue", "-hj", number, "-t", "PD,R,CG")


@pytest.mark.parametrize("by", ["scancel", "mae"])
def test_a_job_that_slurm_has_forgotten_is_called_canceled_or_lost(
    cluster: SlurmPlace, tmp_path: Path, by: str
) -> None:
    held = write(tmp_path, "true", platform="slurm")
    settings = {"arguments": ["--hold"]}
    records.update_record(held, lambda record: record.update(platform_options=settings))
    assert submit(held)
    job = Job(held)
    number = cluster.number(job)
    with cluster.configured("MinJobAge", "2"):
        cluster.call("scancel", number)
        known = ("squeue", "-h", "-t", "all", "-o", "%i")
        wait_until(lambda: number not in cluster.call(*known).split(), 120)
        if by == "mae":
            assert job.cancel(20) == "CANCELED"
            return
        assert job.state == "ERROR"
    problem = job.record["error"]
    assert problem is not None and "it never started" in problem["message"]
    assert "canceled there or lost" in problem["message"] and "resume" in problem["hint"]
    # It can be submitted again, as the hint says.
    records.update_record(held, lambda record: record.update(platform_options={}))
    assert job.resume().wait(60).state == "COMPLETE"


def test_a_lost_node_costs_an_attempt_and_the_job_goes_on_elsewhere(
    cluster: SlurmPlace, tmp_path: Path
) -> None:
    command = f"[ $MAE_ATTEMPT = 2 ] && exit 0; touch {tmp_path}/up; sleep 200"
    folder = write(tmp_path, command, platform="slurm")
    (folder / "spec.yaml").write_text("train: {resume: null}\n")
    assert submit(folder)
    job = Job(folder)
    running(job, tmp_path / "up")
    (node,) = cluster.call("squeue", "-hj", cluster.number(job), "-o", "%N").split()
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
    try:
        job.wait(120)
    finally:
        # It may have reported for service again by itself.
        if cluster.call("sinfo", "-hn", node, "-o", "%T").startswith("down"):
            cluster.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert len(job.record["attempts"]) == 2 and job.state == "COMPLETE"


def test_what_the_batch_script_printed_is_shown_when_the_supervisor_never_started(
    cluster: SlurmPlace, tmp_path: Path
) -> None:
    folder = write(tmp_path, "true", platform="slurm")
    settings = {"python": "/no/python/on/this/node", "setup": ["echo prepared"]}
    records.update_record(folder, lambda record: record.update(platform_options=settings))
    assert submit(folder)
    job = Job(folder)
    with pytest.raises(MaeError, match="python=/no/python/on/this/node") as error:
        job.wait(60)
    assert "line" in str(error.value) and "No such file" in str(error.value)
    problem = job.record["error"]
    assert problem is not None and (problem["error"] or {})["field"] == "platform_options.python"
    assert "prepared" in job.logs() and "/no/python/on/this/node" in job.logs()
