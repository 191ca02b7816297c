"""Jobs that ended in their engine without a word to us: canceled there, or forgotten by it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mae_sdk.job import Job, list_jobs, observe_jobs, open_job
from mae_sdk.jobs import records
from mae_sdk.jobs.root import Root
from mae_sdk.run import kubernetes, ray, slurm, supervisor
from mae_sdk.run import platform as platforms
from mae_sdk.run.platform import EngineState
from mae_sdk.run.process import identify, is_alive
from mae_sdk.storage import transfer
from mae_skill.errors import JobCanceledError, JobFailedError, PreemptedError

from tests.support.jobs import start, wait_until, write


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, EngineState]:
    """What SLURM's queue has, by number; Ray and Kubernetes answer that they have nothing."""
    known: dict[str, EngineState] = {}
    monkeypatch.setattr(platforms, "_loaded", {})
    monkeypatch.setattr(
        slurm, "_queue", lambda numbers: {n: known[n] for n in numbers if n in known}
    )
    monkeypatch.setattr(slurm, "_accounting", lambda numbers: {})
    monkeypatch.setattr(slurm, "_run", lambda *words, **more: "")

    @contextlib.contextmanager
    def nothing(settings: Any) -> Iterator[Any]:
        empty = SimpleNamespace(items=[])
        api = SimpleNamespace(
            list_namespaced_pod=lambda *a, **k: empty,
            list_namespaced_job=lambda *a, **k: empty,
            delete_namespaced_job=lambda *a, **k: None,
        )
        yield SimpleNamespace(
            list_jobs=list,
            stop_job=lambda name: None,
            CoreV1Api=lambda: api,
            BatchV1Api=lambda: api,
            ApiException=KeyError,
        )

    monkeypatch.setattr(ray, "_client", nothing)
    monkeypatch.setattr(kubernetes, "_api", nothing)
    return known


def made(root: Path, platform: str = "slurm", state: str = records.PENDING) -> Job:
    """A job that its platform has taken, and whose record says no more than this."""
    folder = write(root, "true", platform=platform)

    def change(record: records.JobRecord) -> None:
        attempt = records.last_attempt(record)
        attempt["handle"] = {"job": "7", "address": "http://head"}
        if state != records.PENDING:
            records.advance(record, records.RUNNING)
        if state == records.PREEMPTED:
            records.advance(record, state, "preempted after saving", told_to_stop=True)

    records.update_record(folder, change)
    return Job(folder)


def behind_a_url(root: Path, state: str) -> Job:
    """The same behind a URL, untouched for a while; nothing of it is on this machine."""
    there = made(root, "kubernetes", state)
    url = f"memory://{root.name}"
    transfer.write_bytes(f"{url}/job/job.json", (there.folder / "job.json").read_bytes())
    return open_job(Root(url), "job")


def ended(job: Job) -> tuple[str, list[str], str]:
    """Its state, those of its attempts, and the reason of the last change."""
    record, state = job.observe()
    last = records.last_attempt(record)
    said = last["transitions"][-1]["reason"]
    return state, [attempt["state"] for attempt in record["attempts"]], said


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is behind a URL has been so for long."""
    monkeypatch.setattr("mae_sdk.job.RemoteJob._silent_seconds", lambda self: 60.0)


def test_a_job_that_waits_to_go_on_and_is_canceled_in_slurm_is_canceled(
    engine: dict[str, EngineState], tmp_path: Path
) -> None:
    job = made(tmp_path, state=records.PREEMPTED)
    engine["7"] = slurm._state("PENDING", "BeginTime")
    assert job.state == "PENDING" and not job.preempted
    engine["7"] = slurm._state("CANCELLED", "")
    platforms.platform("slurm").ask_again()  # type: ignore[attr-defined]
    assert ended(job) == ("CANCELED", ["PREEMPTED", "CANCELED"], "it was canceled in SLURM")
    with pytest.raises(JobCanceledError):
        job.wait(5)


@pytest.mark.parametrize("word", ["PENDING", "CANCELLED", None])
@pytest.mark.parametrize("state", [records.PENDING, records.RUNNING, records.PREEMPTED])
def test_to_cancel_ends_a_job_in_canceled_whatever_slurm_knows_of_it(
    engine: dict[str, EngineState],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    word: str | None,
) -> None:
    def scancel(*words: Any, **more: Any) -> str:
        if "scancel" in words[0]:
            engine.pop("7", None)
        return ""

    monkeypatch.setattr(slurm, "_run", scancel)
    job = made(tmp_path, state=state)
    if word is not None:
        engine["7"] = slurm._state(word, "")
    assert job.cancel(10) == "CANCELED"
    assert ended(job)[0] == "CANCELED" and job.record["error"] is None
    assert not (job.folder / records.CANCEL_NAME).exists()


@pytest.mark.parametrize("platform", ["slurm", "ray"])
def test_a_job_that_never_started_and_is_forgotten_is_called_canceled_or_lost(
    engine: dict[str, EngineState], tmp_path: Path, platform: str
) -> None:
    job = made(tmp_path, platform)
    with pytest.raises(JobFailedError, match=r"it never started, and .* knows it no longer: it"):
        job.wait(5)
    problem = job.record["error"]
    assert problem is not None and problem["category"] == "lost_process"
    assert "canceled there or lost" in problem["message"] and "supervisor" not in problem["message"]
    assert "mae jobs resume job submits it again" in problem["hint"]


def test_a_job_that_had_started_and_is_forgotten_has_lost_its_supervisor(
    engine: dict[str, EngineState], tmp_path: Path
) -> None:
    assert "its supervisor is gone" in ended(made(tmp_path, state=records.RUNNING))[2]


def test_a_preempted_job_that_slurm_has_forgotten_waits_for_nothing(
    engine: dict[str, EngineState], tmp_path: Path
) -> None:
    job = made(tmp_path, state=records.PREEMPTED)
    state, attempts, said = ended(job)
    assert (state, attempts) == ("ERROR", ["PREEMPTED", "ERROR"])
    assert said == "it was preempted, and SLURM knows it no longer: it was canceled there or lost"
    assert "goes on from its newest checkpoint" in str((job.record["error"] or {})["hint"])


def test_a_preempted_job_of_an_engine_that_starts_nothing_again_waits_to_be_resumed(
    engine: dict[str, EngineState], tmp_path: Path
) -> None:
    job = made(tmp_path, "ray", records.PREEMPTED)
    assert job.state == "PENDING" and job.preempted
    with pytest.raises(PreemptedError):
        job.wait(5)
    assert job.cancel(5) == "CANCELED"
    assert ended(job)[1] == ["PREEMPTED", "CANCELED"]


def test_a_preempted_job_of_this_machine_can_be_canceled_and_resumed(tmp_path: Path) -> None:
    command = (
        f"[ $MAE_ATTEMPT = 3 ] && exit 0; trap 'exit 75' TERM; touch {tmp_path}/up; sleep 99 & wait"
    )
    job = start(tmp_path, command)
    (job.folder / "spec.yaml").write_text("{}")
    wait_until((tmp_path / "up").exists)
    process = records.last_attempt(job.record)["process"]
    assert process is not None
    os.kill(process["pid"], signal.SIGTERM)
    with pytest.raises(PreemptedError):
        job.wait(20)
    assert job.cancel() == "CANCELED" and ended(job)[1] == ["PREEMPTED", "CANCELED"]
    assert job.resume().wait(20).state == "COMPLETE"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (records.PENDING, "it never started, and Kubernetes knows it no longer"),
        (records.RUNNING, "its supervisor is gone, and Kubernetes knows it no longer"),
        (records.PREEMPTED, "it was preempted, and Kubernetes knows it no longer"),
    ],
)
def test_a_job_of_kubernetes_whose_job_is_gone_is_told_so_and_can_be_canceled(
    engine: dict[str, EngineState], silent: None, tmp_path: Path, state: str, said: str
) -> None:
    job = behind_a_url(tmp_path, state)
    seen, _, reason = ended(job)
    assert seen == "ERROR" and reason.startswith(said)
    assert job.cancel(5) == "CANCELED"
    assert ended(job)[0] == "CANCELED"


def test_a_preempted_pod_that_is_made_again_is_waited_for(
    engine: dict[str, EngineState], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        kubernetes.KubernetesPlatform, "poll", lambda self, jobs: [EngineState(records.PENDING)]
    )
    job = behind_a_url(tmp_path, records.PREEMPTED)
    assert job.state == "PENDING" and not job.preempted


def test_a_list_tells_the_same_of_jobs_of_every_kind(
    engine: dict[str, EngineState], tmp_path: Path
) -> None:
    for state in (records.PENDING, records.PREEMPTED, records.RUNNING):
        job = made(tmp_path / state, state=state)
        job.folder.rename(tmp_path / f"job-{state.lower()}")
    engine["7"] = slurm._state("CANCELLED", "")
    jobs = list_jobs(Root(tmp_path))
    assert [seen and seen[1] for seen in observe_jobs(jobs)] == ["CANCELED"] * 3


def test_signals_that_come_again_and_again_do_not_keep_a_run_from_being_written_down(
    tmp_path: Path,
) -> None:
    """SLURM signals every process of a job, and its batch script the supervisor once more."""
    runner = f"trap 'exit 75' TERM; echo $$ > {tmp_path}/pid; touch {tmp_path}/up; sleep 99 & wait"
    job = start(tmp_path, runner)
    wait_until((tmp_path / "up").exists)
    process = records.last_attempt(job.record)["process"]
    assert process is not None
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)  # it has saved by itself
    with contextlib.suppress(ProcessLookupError):
        deadline = time.monotonic() + 5
        while records.last_attempt(job.record)["state"] == records.RUNNING:
            assert time.monotonic() < deadline, "its supervisor is gone"
            os.kill(process["pid"], signal.SIGTERM)
    last = records.last_attempt(job.record)
    assert (last["state"], last.get("told_to_stop")) == (records.PREEMPTED, True)
    assert job.preempted and len(job.record["attempts"]) == 1


def test_a_job_that_is_canceled_while_its_supervisor_still_saves_stays_canceled(
    tmp_path: Path,
) -> None:
    job = start(
        tmp_path, f"touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 75"
    )
    wait_until((tmp_path / "up").exists)
    process = records.last_attempt(job.record)["process"]
    assert process is not None
    records.update_record(
        job.folder, lambda record: records.advance(record, records.CANCELED, "it was canceled")
    )
    (tmp_path / "go").touch()
    wait_until(lambda: not is_alive(process))
    assert ended(job) == ("CANCELED", ["CANCELED"], "it was canceled")


def test_a_start_on_another_node_waits_until_the_supervisor_of_the_lost_one_has_saved(
    tmp_path: Path,
) -> None:
    runner = (
        f"test -e {tmp_path}/again && exit 0; touch {tmp_path}/up {tmp_path}/again; "
        "trap 'sleep 1; exit 75' TERM; sleep 99 & wait"
    )
    job = start(tmp_path, runner)
    wait_until((tmp_path / "up").exists)

    def take(record: records.JobRecord) -> None:
        records.last_attempt(record)["handle"] = {"job": "7"}

    records.update_record(job.folder, take)
    process = records.last_attempt(job.record)["process"]
    assert process is not None
    command = [sys.executable, "-m", "mae_sdk.run.supervisor", str(job.folder)]
    with subprocess.Popen(command) as second:
        time.sleep(1)
        assert second.poll() is None and len(job.record["attempts"]) == 1
        os.kill(process["pid"], signal.SIGTERM)
        assert second.wait(30) == 0
    states = [attempt["state"] for attempt in job.record["attempts"]]
    assert states == [records.PREEMPTED, records.COMPLETE]


def test_a_supervisor_on_another_host_is_waited_for_as_long_as_its_heart_beats(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path, "true")

    def run_elsewhere(record: records.JobRecord) -> None:
        attempt = records.last_attempt(record)
        attempt["handle"] = {"job": "7"}
        records.advance(record, records.RUNNING, process={**identify(), "host": "n1"})

    records.update_record(folder, run_elsewhere)
    heart = folder / records.HEARTBEAT_NAME
    heart.touch()
    with pytest.raises(supervisor._StillRunsError):
        supervisor._claimed(folder)
    assert len(records.read_record(folder)["attempts"]) == 1

    silent = time.time() - 2 * supervisor._SILENT_SECONDS
    os.utime(heart, (silent, silent))
    assert supervisor.supervise(folder) == 0
    states = [attempt["state"] for attempt in records.read_record(folder)["attempts"]]
    assert states == [records.PREEMPTED, records.COMPLETE]


def test_a_supervisor_that_comes_back_writes_nothing_of_the_attempt_that_another_has_opened(
    tmp_path: Path,
) -> None:
    job = start(
        tmp_path, f"touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 3"
    )
    wait_until((tmp_path / "up").exists)
    process = records.last_attempt(job.record)["process"]
    assert process is not None

    def take_over(record: records.JobRecord) -> None:
        records.advance(record, records.PREEMPTED, "started again by its platform")
        records.new_attempt(record, records.AFTER_PREEMPTION)
        elsewhere = {**identify(), "host": "n2"}
        records.advance(record, records.RUNNING, process=elsewhere)

    records.update_record(job.folder, take_over)
    (tmp_path / "go").touch()
    wait_until(lambda: not is_alive(process))
    states = [attempt["state"] for attempt in records.read_record(job.folder)["attempts"]]
    assert states == [records.PREEMPTED, records.RUNNING]
