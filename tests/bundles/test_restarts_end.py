"""A runner that asks to be started again, with exit code 75, and gets no further ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.jobs import progress, records
from mae_sdk.jobs.records import AFTER_PREEMPTION, JobRecord
from mae_skill.errors import JobFailedError
from mae_skill.reader import dump_yaml

AGAIN = """
import json, os, sys, time
job, attempt = os.environ["MAE_JOB_DIR"], int(os.environ["MAE_ATTEMPT"])
names = {names}
os.makedirs(job + "/train", exist_ok=True)
open(job + "/train/" + names.format(attempt=attempt, now=time.time_ns()), "w").write(str(attempt))
with open(job + "/train/status.json", "a") as file:
    if {epoch!r}:
        line = {{"date": "1/2/2026", "time": "1:2:3", "status": "RUNNING"}}
        line["epoch"] = eval({epoch!r})
        file.write(json.dumps(line) + "\\n")
raise SystemExit(0 if attempt > 9 else 75)
"""


@pytest.mark.parametrize(
    ("names", "epoch", "most", "attempts", "reason"),
    [
        ("model_epoch_001.pth", "", None, 5, "preempted 4 times without progress, at epoch 1"),
        ("model_epoch_1_{now}.pth", "", None, 5, "preempted 4 times without progress, at epoch 1"),
        ("last.pth", "2", None, 5, "preempted 4 times without progress"),
        ("notes.txt", "attempt", None, 5, "without progress, and without a checkpoint"),
        ("model_epoch_{attempt}.pth", "", None, 10, ""),
        ("last.pth", "attempt", None, 10, ""),
        ("last.pth", "", None, 10, ""),  # nothing says how far it is
        ("ckpt_{now}.pth", "", "6", 7, "preempted 6 times in a row, which are the most"),
        ("model_epoch_{attempt}.pth", "", "nonsense", 10, ""),
    ],
)
def test_a_runner_that_asks_to_be_started_again_ends_where_it_gets_no_further(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: str,
    epoch: str,
    most: str | None,
    attempts: int,
    reason: str,
) -> None:
    if most is not None:
        monkeypatch.setenv(progress.MOST, most)
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    (tmp_path / "bundle" / "references").mkdir(parents=True)
    entry = {"command": "{python} {bundle_dir}/run.py"}
    (tmp_path / "bundle" / "references" / "skill_info.yaml").write_text(
        dump_yaml({"name": "again", "actions": {"train": entry}})
    )
    skill = Skill(tmp_path / "bundle")
    (tmp_path / "bundle" / "run.py").write_text(AGAIN.format(names=repr(names), epoch=epoch))
    job = skill.create_job(skill.plan("train"))
    if not reason:
        assert job.wait(60).state == "COMPLETE"
    else:
        with pytest.raises(JobFailedError) as caught:
            job.wait(60)
        assert reason in str(caught.value)
    assert len(job.record["attempts"]) == attempts
    assert ("nonsense is not used: expected a whole" in job.logs()) == (most == "nonsense")
    assert job.state == ("ERROR" if reason else "COMPLETE")


def record(*attempts: tuple[str, list[list[int]]]) -> JobRecord:
    """A record of attempts: the reason of each, and how far it got."""
    made: JobRecord = {
        "id": "j",
        "action": "train",
        "launch": {"command": [], "result": None},
        "attempts": [],
    }
    for number, (reason, reached) in enumerate(attempts):
        records.new_attempt(made, reason)
        marks = [["train/last.pth", number]]
        records.advance(made, records.PREEMPTED, checkpoints=marks, progress=reached)
    return made


AT_1, AT_2 = [[1, -1], [-1, -1]], [[2, -1], [-1, -1]]


def test_progress_once_lets_a_job_go_on_and_a_person_begins_anew() -> None:
    again = AFTER_PREEMPTION
    idle = [("", AT_1), *[(again, AT_1)] * 3]
    assert "preempted 4 times" in str(progress.why_no_more(record(*idle)))
    assert progress.why_no_more(record(*idle, (again, AT_2))) is None
    assert progress.why_no_more(record(*idle, ("resumed", AT_1))) is None
    # A step back and forth is none: the highest that any had counts.
    forth = [("", AT_2), (again, AT_1), (again, AT_2), (again, AT_1)]
    assert "without progress" in str(progress.why_no_more(record(*forth)))


def test_a_study_gets_further_by_its_trials(tmp_path: Path) -> None:
    study, trial = tmp_path / "s", tmp_path / "s.t001" / "train"
    (study / "automl").mkdir(parents=True)
    made = record(("", AT_1))
    made["kind"] = "automl"

    def there() -> Any:
        return progress.reached(study, made)["progress"]

    assert there() == [[-1, -1], [-1, -1]]
    trial.mkdir(parents=True)
    (trial / "model_epoch_002.pth").write_text("w")
    assert there() == [[-1, -1], [1, 2, -1]]
    (study / "automl" / "trials.csv").write_text("number\n0\n")
    assert there()[0] == [2, -1]
