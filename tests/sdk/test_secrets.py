"""Canaries in the spec's key and every variable that holds a secret.

They reach the job, and no file, output, argv or exception.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.cli.main import main
from mae_sdk.jobs.secrets import DATABASE_VARIABLE, redact, secret_values
from mae_skill.errors import JobFailedError

from tests.support.canaries import MARK, NAMES, files_with_mark, watched_argv
from tests.support.images import write_imagefolder
from tests.support.toy_bundle.make import write_bundle

DATABASE = f"postgresql://user:{MARK}-in-url@localhost/db"


@pytest.fixture
def skill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Skill:
    for name in NAMES:
        monkeypatch.setenv(name, f"{MARK}-{name.lower()}")
    monkeypatch.setenv("DATABASE", DATABASE)
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    return Skill(write_bundle(tmp_path / "bundle"))


def options(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "train_datasets": str(tmp_path / "data"),
        "spec": {"encryption_key": f"{MARK}-in-spec"},
        "env": {"JOB_SECRET": f"{MARK}-for-the-job"},
        **more,
    }


def test_no_canary_of_the_chain_rests_or_shows_anywhere(skill: Skill, tmp_path: Path) -> None:
    with watched_argv() as argv:
        plan = skill.plan(
            "train",
            automl_policy="off",
            spec_overrides={"train.fault": "show"},
            **options(tmp_path),
        )
        job = skill.create_job(plan).wait(30)
        with pytest.raises(JobFailedError) as caught:
            skill.create_job(
                "check",
                parent_job_id=job.id,
                spec_overrides={"train.fault": "leak"},
                env={"A_TOKEN": f"{MARK}-b"},
            ).wait(30)
        automl = {"max_trials": 2, "pruner": "none"}
        study = skill.create_job(
            "train", automl=automl, spec_overrides={"train.fault": "show"}, **options(tmp_path)
        ).wait(90)
    assert argv == []
    # The job itself had them: the log shows the lines, each value replaced.
    log = job.logs()
    for name in (*NAMES, "MAE_ENCRYPTION_KEY", "JOB_SECRET"):
        assert f"{name}=[redacted]" in log, name
    assert "user:[redacted]@localhost" in log
    said = [
        repr(plan),
        str(plan.to_dict()),
        plan.to_python(),
        str(caught.value),
        repr(caught.value.to_dict()),
        str(job.record),
        study.logs(),
    ]
    assert [text for text in said if MARK in text] == []
    assert len(skill.jobs(all=True)) == 5
    assert files_with_mark(tmp_path / "results") == [] and files_with_mark(tmp_path / "cache") == []


def test_no_canary_in_what_commands_print(
    skill: Skill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"encryption_key: {MARK}-in-spec\ntrain: {{fault: leak}}\n")
    common = [
        "--skill-dir",
        str(skill.path),
        "--train-datasets",
        str(tmp_path / "data"),
        "-e",
        str(spec),
    ]
    for words in (
        ["plan", "train", *common, "--automl", f"storage={DATABASE}", "--json"],
        ["plan", "train", *common, "--automl", f"storage={DATABASE}", "--python"],
        ["plan", "train", *common, "--full", "train.shade=dark"],
        ["run", "train", *common, "--automl-policy", "off", "--wait"],
        ["run", "train", *common, "train.rounds=none"],
    ):
        with pytest.raises(SystemExit):
            main(words)
    printed = capsys.readouterr()
    assert MARK not in printed.out + printed.err
    assert "exit code 1" in printed.out + printed.err


def test_a_database_password_travels_in_the_environment_and_not_in_the_study(
    skill: Skill, tmp_path: Path
) -> None:
    plan = skill.plan("train", automl={"storage": DATABASE}, **options(tmp_path))
    assert plan.study is not None and plan.study["options"]["storage"] == f"env:{DATABASE_VARIABLE}"
    assert (
        plan.secrets[DATABASE_VARIABLE] == DATABASE
        and MARK not in str(plan.study) + plan.to_python()
    )


def test_a_password_inside_a_url_of_a_variable_is_hidden_wherever_it_is_printed_alone() -> None:
    values = secret_values({"DATABASE": DATABASE, "PLAIN": "http://host/path", "SHORT_KEY": "abc"})
    assert values == [f"{MARK}-in-url"]
    assert redact(f"FATAL: {MARK}-in-url is wrong for {DATABASE}", values).count(MARK) == 0
