"""``mae jobs``: logs that follow, bars for people, lines for machines, exit codes of ended jobs."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mae_sdk.cli.main import main

from tests.support.jobs import start, wait_until

EPOCHS = """
for epoch in 0 1 2; do
  echo "line $epoch"; printf 'half '; sleep 0.3; echo whole
  printf '{{"status": "RUNNING", "epoch": %s, "max_epoch": 3, "kpi": {{"loss": 0.5}}}}\\n' \
    $epoch >> {folder}/job/status.json
done
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "results"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["jobs", *words])
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


def test_logs_follow_a_job_to_its_end_line_by_line(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(root, EPOCHS.format(folder=root))
    code, out, _ = call(capsys, "logs", "job", "-f", "--results-root", str(root))
    assert (code, out.split("\n")) == (
        0,
        [line for n in range(3) for line in (f"line {n}", "half whole")] + [""],
    )
    code, out, _ = call(capsys, "logs", "job", "-f", "--json", "--results-root", str(root))
    assert [json.loads(line)["line"] for line in out.splitlines()][:2] == ["line 0", "half whole"]
    code, out, err = call(capsys, "logs", "jo", "-n", "2", "--results-root", str(root))
    assert out == "line 2\nhalf whole\n" and "4 earlier lines" in err


def test_machines_get_progress_as_json_lines_and_one_document_at_the_end(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(root, EPOCHS.format(folder=root))
    code, out, err = call(capsys, "wait", "job", "--json", "--results-root", str(root))
    assert code == 0 and json.loads(out)["state"] == "COMPLETE"
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines and all(line["id"] == "job" for line in lines)
    epochs = [line["epoch"] for line in lines if "epoch" in line]
    assert epochs == sorted(epochs) and epochs


def test_a_terminal_shows_a_bar_and_a_plain_pipe_nothing(root: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mae_sdk.cli.main",
        "jobs",
        "wait",
        "job",
        "--results-root",
        str(root),
    ]
    shown: dict[str, Any] = {}
    for kind in ("terminal", "pipe"):
        # It has to outlast the start of the command on a busy machine.
        start(root / kind, EPOCHS.format(folder=root / kind).replace("sleep 0.3", "sleep 0.8"))
        words = [*command[:-1], str(root / kind)]
        if kind == "pipe":
            shown[kind] = subprocess.run(words, capture_output=True, text=True, timeout=120).stderr
            continue
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        seen = bytearray()
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:  # the other end has closed
                break
            if not block:
                break
            seen += block
        assert (
            process.stdout is not None
            and b"COMPLETE" in process.stdout.read()
            and process.wait(60) == 0
        )
        os.close(ours)
        shown[kind] = seen.decode(errors="replace")
    assert "/3" in shown["terminal"] and "loss 0.5" in shown["terminal"]
    assert shown["pipe"] == ""


def test_commands_leave_with_the_jobs_own_exit_code(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--results-root", str(root))
    start(root, "echo it broke; exit 1", name="broken")
    code, out, _ = call(capsys, "wait", "broken", *where)
    assert code == 5 and "ERROR" in out and "it broke" in out
    sleeper = start(root, "exec sleep 100", name="sleeper")
    assert call(capsys, "wait", "sleeper", "--timeout", "0.1", *where)[0] == 9
    canceler = threading.Thread(target=lambda: (time.sleep(0.5), sleeper.cancel()))
    canceler.start()
    assert call(capsys, "wait", "sleeper", *where)[0] == 6
    canceler.join()
    assert json.loads(call(capsys, "cancel", "sleeper", "--json", *where)[1])["state"] == "CANCELED"
    code, out, _ = call(capsys, "resume", "broken", "--wait", "--json", *where)
    assert code == 5 and json.loads(out)["attempt"] == 2
    assert "it broke" in str(json.loads(out)["error"]), "it ends as `run --wait` does"
    code, out, _ = call(capsys, "list", "--json", *where)
    assert {row["id"]: row["state"] for row in json.loads(out)["jobs"]} == {
        "broken": "ERROR",
        "sleeper": "CANCELED",
    }
    assert call(capsys, "status", "nothing", *where)[0] == 4
    assert (
        json.loads(call(capsys, "show", "broken", "--json", *where)[1])["attempts"][1]["state"]
        == "ERROR"
    )


def test_resume_takes_the_environment_marks_its_attempt_and_the_list_knows_its_states(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(root, 'test "$SHADE" = light', env={"SHADE": "dark"})
    assert call(capsys, "wait", "job", "--results-root", str(root))[0] == 5
    assert (
        call(
            capsys, "resume", "job", "--env", "SHADE=light", "--wait", "--results-root", str(root)
        )[0]
        == 0
    )
    marks = (root / "job" / "log.txt").read_text(), (root / "job" / "status.json").read_text()
    assert re.search(r"^--- attempt 2, 20\d\d-\S+ ---$", marks[0], re.MULTILINE)
    attempts = [line.get("attempt") for line in map(json.loads, marks[1].splitlines())]
    assert [number for number in attempts if number] == [2]
    assert "attempt 1" not in "".join(marks)
    code, out, _ = call(
        capsys, "list", "--state", "complete", "--json", "--results-root", str(root)
    )
    assert code == 0 and [row["id"] for row in json.loads(out)["jobs"]] == ["job"]
    assert call(capsys, "list", "--state", "done", "--results-root", str(root))[0] == 2
    assert call(capsys, "list", "--limit", "0", "--results-root", str(root))[0] == 2


def test_a_damaged_record_hides_no_other_job_and_is_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(root, "true").wait(20)
    for name, text in (("torn", "{"), ("other", "[]"), ("short", '{"id": "short"}')):
        (root / name).mkdir()
        (root / name / "job.json").write_text(text)
    code, out, err = call(capsys, "list", "--json", "--results-root", str(root))
    assert code == 0 and [row["id"] for row in json.loads(out)["jobs"]] == ["job"]
    assert all(name in err for name in ("torn", "other", "short"))
    assert call(capsys, "status", "short", "--results-root", str(root))[0] == 3


@pytest.mark.parametrize(("code", "again"), [(3, "show"), (2, "show"), (1, "resume")])
def test_no_attempt_is_proposed_that_would_meet_the_same_data_or_spec(
    root: Path, capsys: pytest.CaptureFixture[str], code: int, again: str
) -> None:
    job = start(root, f"exit {code}", "train/result.json")
    wait_until(lambda: job.state == "ERROR")
    _, out, err = call(capsys, "status", "job", "--results-root", str(root))
    assert f"mae jobs {again} job" in out and err == ""
