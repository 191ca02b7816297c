"""Jobs through the real supervisor, with shell commands as runners."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.jobs.failure import analyze
from mae_sdk.plan.automl_policy import policy_word
from mae_sdk.run.platform import submit
from mae_sdk.run.process import identify, is_alive
from mae_skill.errors import JobFailedError, UsageError

from tests.support.jobs import start, wait_until, write


@pytest.mark.parametrize(
    ("command", "result", "category"),
    [
        ("true", "train/result.json", "runner"),
        ("echo CUDA out of memory; exit 1", None, "out_of_memory"),
        ("kill -9 $$", None, "signal"),
        ("exit 3", "train/result.json", "data"),
        ("exit 2", "train/result.json", "spec"),
        ("exit 7", "train/result.json", "dependency"),
        ("exit 8", "train/result.json", "storage"),
        ("echo step 3 loss is nan; exit 1", None, "numeric"),
        ("echo ModuleNotFoundError: no torch; exit 1", None, "dependency"),
        ("echo OSError: No space left on device; exit 1", None, "storage"),
        ("nothing-of-this-name; exit 127", None, "dependency"),
        (
            """echo '{"code": "checkpoint", "message": "cut"}' > $MAE_JOB_DIR/error.json; exit 2""",
            None,
            "checkpoint",
        ),
    ],
)
def test_a_failed_run_ends_in_error_with_its_category(
    tmp_path: Path, command: str, result: str | None, category: str
) -> None:
    job = start(tmp_path, command, result)
    with pytest.raises(JobFailedError):
        job.wait(20)
    assert job.record["error"]["category"] == category
    assert job.record["error"]["hint"] and job.record["error"]["message"]
    said = command.removeprefix("echo ").partition(";")[0]
    if command.startswith("echo ") and "error.json" not in command:
        assert said in job.record["error"]["lines"]


def test_a_runner_that_is_not_there_is_a_missing_dependency(tmp_path: Path) -> None:
    folder = write(tmp_path, "true")
    records.update_record(
        folder, lambda record: record["launch"].update(command=["/no/such/program"])
    )
    assert submit(folder)
    with pytest.raises(JobFailedError):
        Job(folder).wait(20)
    assert Job(folder).record["error"]["category"] == "dependency"


def test_a_preempted_run_goes_on_as_a_second_attempt(tmp_path: Path) -> None:
    job = start(tmp_path, "[ $MAE_ATTEMPT = 2 ] || exit 75").wait(20)
    assert [attempt["state"] for attempt in job.record["attempts"]] == ["PREEMPTED", "COMPLETE"]


@pytest.mark.parametrize(
    ("log", "code", "category", "says"),
    [
        (
            "WARNING: a.jpg is truncated\nTraceback:\nValueError: no such thing\nmore of it",
            1,
            "runner",
            "ValueError: no such thing",
        ),
        ("it went out of memory once and went on\nepoch 3\nKeyError: 'a'", 1, "runner", "KeyError"),
        (
            "[rank 1] ImportError: no 'x'\n[rank 0] torch.OutOfMemoryError: CUDA out of memory",
            1,
            "out_of_memory",
            "rank 0",
        ),
        ("terminate called: std::bad_alloc", -6, "out_of_memory", "bad_alloc"),
        ("warning: loss is nan", -9, "signal", "SIGKILL"),
    ],
)
def test_a_failure_is_told_by_what_ended_the_run_and_not_by_what_it_survived(
    tmp_path: Path, log: str, code: int, category: str, says: str
) -> None:
    (tmp_path / "log.txt").write_text(f"CUDA out of memory, in an earlier attempt\n{log}\n")
    found = analyze(tmp_path, code, log_start=len("CUDA out of memory, in an earlier attempt\n"))
    assert found["category"] == category and says in found["message"]


def test_an_attempt_is_not_explained_by_the_log_of_the_one_before(tmp_path: Path) -> None:
    job = start(
        tmp_path, "[ $MAE_ATTEMPT = 1 ] && { echo CUDA out of memory; exit 1; }; kill -9 $$"
    )
    with pytest.raises(JobFailedError):
        job.wait(20)
    with pytest.raises(JobFailedError):
        job.resume().wait(20)
    assert [attempt["failure"]["category"] for attempt in job.record["attempts"]] == [
        "out_of_memory",
        "signal",
    ]


def test_a_killed_supervisor_leaves_an_error_and_no_process(tmp_path: Path) -> None:
    job = start(tmp_path, "echo $$ > pid; exec sleep 100")
    pid_file = tmp_path / "job" / "pid"
    deadline = time.monotonic() + 10
    while not (pid_file.exists() and pid_file.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(job.record["attempts"][-1]["process"]["pid"], signal.SIGKILL)
    with pytest.raises(JobFailedError):
        job.wait(10)
    assert job.record["error"]["category"] == "lost_process"
    assert not is_alive(
        identify(int(pid_file.read_text()))
    )  # a zombie is dead, though init may not have collected it yet


def test_cancel_ends_a_run_that_ignores_sigterm(tmp_path: Path) -> None:
    job = start(tmp_path, "trap '' TERM; touch up; sleep 100", grace_seconds=0.5)
    deadline = time.monotonic() + 10
    while not (tmp_path / "job" / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert job.cancel(20) == "CANCELED"
    assert job.resume().record["attempts"][-1]["number"] == 2
    job.cancel(20)


def test_a_job_is_not_resumed_without_the_environment_it_was_given(tmp_path: Path) -> None:
    job = start(tmp_path, 'test "$SHADE" = light', env={"SHADE": "dark"})
    with pytest.raises(JobFailedError):
        job.wait(20)
    records.update_record(job.folder, lambda record: record.update(env_names=["SHADE"]))
    with pytest.raises(UsageError) as caught:
        job.resume()
    assert (
        caught.value.got == ["SHADE"]
        and len(job.record["attempts"]) == 1
        and "--env SHADE=" in str(caught.value.hint)
    )
    records.update_record(job.folder, lambda record: record.update(env_names=["NO_SUCH_TOKEN"]))
    with pytest.raises(UsageError) as caught:
        job.resume()
    assert caught.value.hint == "export them"  # a secret has no place on a command line
    records.update_record(job.folder, lambda record: record.update(env_names=["SHADE"]))
    assert job.resume({"SHADE": "light"}).wait(20).state == "COMPLETE"


def test_cancel_reaches_a_process_that_left_the_group(tmp_path: Path) -> None:
    job = start(tmp_path, "setsid sleep 100 & echo $! > pid; wait", cwd=str(tmp_path))
    escaped = int(
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    )
    identity = identify(escaped)
    assert job.cancel(30) == "CANCELED"
    wait_until(lambda: not is_alive(identity))


@pytest.mark.parametrize("left", ["setsid sh -c", "sh -c"])
def test_what_a_command_leaves_running_is_ended_and_said(tmp_path: Path, left: str) -> None:
    script = "trap 'echo told > told; exit' TERM; echo $$ > pid; while :; do sleep 0.05; done"
    command = f'{left} "$SCRIPT" & while [ ! -s pid ]; do sleep 0.02; done'
    job = start(tmp_path, command, cwd=str(tmp_path), env={"SCRIPT": script}).wait(30)
    pid = int((tmp_path / "pid").read_text())
    assert not is_alive(identify(pid))
    assert (tmp_path / "told").read_text() == "told\n"
    assert "ended what the command had left running" in job.logs() and str(pid) in job.logs()


def test_what_ignores_a_stop_is_killed_and_a_clean_end_says_nothing(tmp_path: Path) -> None:
    script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"
    command = 'setsid sh -c "$SCRIPT" & while [ ! -s pid ]; do sleep 0.02; done'
    start(tmp_path, command, cwd=str(tmp_path), env={"SCRIPT": script}).wait(30)
    assert not is_alive(identify(int((tmp_path / "pid").read_text())))
    assert "left running" not in start(tmp_path, "echo ok", name="clean").wait(20).logs()


def test_a_secret_in_the_environment_never_reaches_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_ENCRYPTION_KEY", "canary-4711")
    job = start(tmp_path, "echo key=$MAE_ENCRYPTION_KEY").wait(20)
    assert "canary-4711" not in job.logs() and "key=[redacted]" in job.logs()


def test_an_unknown_policy_word_is_refused() -> None:
    assert [policy_word(word) for word in ("auto", "on", True, "off", False)] == [
        "auto",
        "auto",
        "auto",
        "off",
        "off",
    ]
    with pytest.raises(UsageError):
        policy_word("maybe")


def test_a_wrong_argument_of_the_sdk_is_an_error_of_ours(tmp_path: Path) -> None:
    skill = Skill()
    with pytest.raises(UsageError, match="only the action is given without a name") as caught:
        skill.create_job("img:1", "python x", gpu_count=2)
    assert caught.value.got == ["python x"]
    assert "train.num_gpus" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no such option") as caught:
        skill.jobs(tmp_path, status="RUNNING")
    assert (caught.value.field, caught.value.hint) == ("status", "did you mean state=?")

    job = Job(write(tmp_path, "true"))
    with pytest.raises(UsageError, match="not a number") as caught:
        job.logs(tail="x")  # type: ignore[arg-type]
    assert caught.value.field == "tail"
    with pytest.raises(UsageError, match="not a number") as caught:
        job.wait("x")  # type: ignore[arg-type]
    assert caught.value.field == "timeout"
