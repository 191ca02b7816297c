"""Canaries in the spec's key and every variable that holds a secret.

They reach the job, and no file, output, argv or exception.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from mae_sdk import Skill, mcp_server
from mae_sdk.cli.main import main
from mae_sdk.jobs import secrets
from mae_sdk.jobs.secrets import DATABASE_VARIABLE, redact, secret_values
from mae_sdk.storage import transfer, urls
from mae_skill.errors import JobFailedError, MaeError
from mae_skill.reader import dump_yaml
from mae_skill.secret_names import is_secret_name

from tests.support import canaries
from tests.support.canaries import MARK, NAMES, files_with_mark, watched_argv
from tests.support.images import write_imagefolder
from tests.support.toy_bundle.make import write_bundle
from tests.support.web import serving

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


def test_no_canary_of_any_place_is_seen_in_any_record_answer_or_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(canaries.PLACES) >= 35
    for name, value in canaries.VARIABLES.items():
        monkeypatch.setenv(name, value)
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    skill = Skill(write_bundle(tmp_path / "bundle"))
    sinks: dict[str, str] = {}
    common: dict[str, Any] = {
        "train_datasets": str(tmp_path / "data"),
        "env": canaries.SETTINGS,
        "spec": {"encryption_key": canaries.KEY},
    }

    # A job that prints its whole environment, and one that fails with it.
    with watched_argv() as argv:
        for fault in ("show", "leak"):
            job = skill.create_job(
                "train", automl_policy="off", spec_overrides={"train.fault": fault}, **common
            )
            with contextlib.suppress(JobFailedError):
                job.wait(60)
            sinks |= {f"log of {fault}": job.logs(), f"record of {fault}": str(job.record)}
    sinks["command lines"] = " ".join(argv)

    # URLs in a spec, as a file, an override and an option.
    for url in canaries.URLS:
        spec = {"train": {"fault": url}}
        plan = skill.plan("train", automl_policy="off", **{**common, "spec": spec})
        sinks |= {f"plan of {url}": f"{plan!r} {plan.to_dict()} {plan.to_python()}"}
    stored = skill.create_job(
        "train", automl_policy="off", **{**common, "spec": {"train": {"fault": canaries.URLS[0]}}}
    )
    stored.wait(60)
    with pytest.raises(MaeError) as caught:
        skill.plan("train", automl_policy="off", ptm=canaries.URLS[0], **common)
    sinks["error of a fetch"] = f"{caught.value!r} {caught.value} {caught.value.__cause__}"
    for storage in canaries.STORAGES:
        plan = skill.plan("train", automl={"storage": storage}, **common)
        sinks[f"study with {storage}"] = f"{plan.to_dict()} {plan.study} {plan.to_python()}"
    rooted = skill.plan("train", automl_policy="off", results_root=canaries.ROOT, **common)
    sinks["plan for a root"] = f"{rooted.to_dict()} {rooted.to_python()} {rooted.launch}"
    for field, value in canaries.WRONG_FIELDS.items():
        with pytest.raises(MaeError) as caught:
            skill.plan("train", **{**common, "spec": {field: value}})
        sinks[f"error of {field}"] = f"{caught.value} {caught.value!r} {caught.value.to_dict()}"

    # The same through the command line and MCP.
    settings = [
        w for name, value in canaries.SETTINGS.items() for w in ("--env", f"{name}={value}")
    ]
    data = ["--skill-dir", str(skill.path), "--train-datasets", str(tmp_path / "data"), *settings]
    file = tmp_path / "spec.yaml"
    calls = [
        ["plan", "train", *data, *more, *way]
        for more in (
            [f"train.fault={canaries.URLS[6]}"],
            ["--automl", f"storage={canaries.STORAGES[1]}"],
            ["--results-root", canaries.ROOT, "--automl-policy", "off"],
            ["encryption_key=" + canaries.KEY],
            ["-e", str(file)],
        )
        for way in ([], ["--json"], ["--python"])
    ]
    calls += [["inspect", canaries.URLS[5]], ["jobs", "list", "--results-root", canaries.ROOT]]
    calls += [["run", "train", *data, "--results-root", canaries.ROOT], ["cache"]]
    calls += [["jobs", "show", stored.id], ["jobs", "show", job.id, "--json"]]
    calls += [["diff", str(file), stored.id], ["jobs", "logs", job.id]]
    calls += [["validate", "train", "-e", str(file), "--skill-dir", str(skill.path)]]
    calls += [["train", "-e", canaries.URLS[0]], ["inspect", canaries.URLS[4]]]
    for field, value in canaries.WRONG_FIELDS.items():
        file.write_text(dump_yaml({field: value}))
        for number, words in enumerate(calls):
            if number and str(file) not in words and field != "encryption_keyy":
                continue  # once is enough
            with pytest.raises(SystemExit):
                main(words)
            printed = capsys.readouterr()
            sinks[f"{field} mae {' '.join(words[:3])} {number}"] = printed.out + printed.err
    offered = {tool.name: tool for tool in mcp_server.tools(skill)}
    for name, arguments in {
        "plan": {"action": "train", "spec": canaries.WRONG_FIELDS},
        "inspect": {"source": canaries.URLS[1]},
        "logs": {"job_id": job.id},
        "status": {"job_id": job.id, "results_root": canaries.ROOT},
    }.items():
        sinks[f"mcp {name}"] = str(mcp_server.answer(skill, offered[name], arguments))

    assert canaries.shown(sinks) == []
    assert files_with_mark(tmp_path / "results") == [] and files_with_mark(tmp_path / "cache") == []


def test_short_and_common_values_are_left_and_others_are_hidden_as_they_are_written() -> None:
    left = {"A_KEY": "abc", "B_TOKEN": "train", "C_PASS": "12345", "D_AUTH": "true"}
    assert secret_values(left) == []
    assert redact("train abc 12345 true", secret_values(left)) == "train abc 12345 true"
    # Under eight characters only as a word of its own.
    assert redact("hunt hunter hunt2", ["hunt"]) == "[redacted] hunter hunt2"
    awkward = 'p"w/d+\u00e9 x'
    for written in (awkward, json.dumps(awkward), quote_plus(awkward), quote(awkward, safe="")):
        assert "p" not in redact(written, [awkward]).replace("[redacted]", "")


def test_names_of_secrets_of_a_cluster_are_shown() -> None:
    settings = {"secrets": ["wandb-login"], "pull_secrets": ["registry"], "api_key": "9f8e7d6c5b"}
    secrets.note_call({"platform_options": settings})
    found = secrets.known()
    assert "9f8e7d6c5b" in found
    assert "wandb-login" not in found and "registry" not in found


def test_names_say_what_is_secret_by_whole_words() -> None:
    for name in (*NAMES, "apiKey", "X-Amz-Signature", "SLACK_WEBHOOK_URL", "AWSAccessKeyId"):
        assert is_secret_name(name), name
    for name in ("PWD", "TOKENIZERS_PARALLELISM", "GIT_AUTHOR_NAME", "SSH_AUTH_SOCK", "KEYBOARD"):
        assert not is_secret_name(name), name


def test_a_url_whose_credentials_were_taken_out_still_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as web:
        for name in ("api_key", "apikey", "password", "auth", "jwt", "sig", "token"):
            path = f"data.tar?part=1&{name}={MARK}"
            web.files[f"/{path}"] = name.encode()
            sealed = urls.seal(web.url(path))
            assert MARK not in sealed and "part=1" in sealed
            assert transfer.read_bytes(sealed) == name.encode()
            assert list(urls.held(sealed).values()) == [web.url(path)]
    for plain in ("s3://b/x.tar", "sftp://me@h/x", "abfs://box@acc.dfs/x", "github://o:r@main/x"):
        assert urls.seal(plain) == plain
