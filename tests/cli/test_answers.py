"""The command line and the MCP server give the same documents."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.answers import plain
from mae_sdk.automl.options import AutoMLOptions
from mae_sdk.cli.main import main
from mae_sdk.mcp_server import answer, tools
from mae_skill.bundle import Bundle

from tests.support.images import write_imagefolder
from tests.support.jobs import start
from tests.support.toy_bundle.make import write_bundle

LINE = r'{"status": "RUNNING", "epoch": 1, "kpi": {"loss": 0.5}}\n'


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What ``mae … --json`` prints, without the next commands."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([*words, "--json"])
    assert not left.value.code
    return without_next(json.loads(capsys.readouterr().out))


def returned(tool: str, **arguments: Any) -> dict[str, Any]:
    """What an MCP tool returns, without the next calls."""
    skill = Skill()
    offered = {one.name: one for one in tools(skill)}
    document, failed = answer(skill, offered[tool], arguments)
    assert not failed, document
    return without_next(document)


def without_next(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in ("next", "more")}


def test_a_job_is_shown_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path)
    script = f"echo one; echo two; printf '{LINE}' >> {tmp_path}/job/status.json"
    start(tmp_path, script).wait(20)
    where = ("--results-root", root)
    for command in ("status", "metrics", "logs"):
        shown = printed(capsys, "jobs", command, "job", *where)
        assert shown == returned(command, job_id="job", results_root=root), command
    assert printed(capsys, "jobs", "metrics", "job", *where)["metrics"] == {"loss": 0.5}
    assert printed(capsys, "jobs", "list", *where) == returned("jobs", results_root=root)


def test_fields_and_sources_are_shown_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write_imagefolder(tmp_path / "images", classes=2, per_class=3, size=32))
    assert printed(capsys, "inspect", folder) == returned("inspect", source=folder)
    key = "train.mask_ratio"
    assert printed(capsys, "explain", key) == returned("explain", key=key)


def test_the_tools_name_every_automl_option() -> None:
    (plan,) = (tool for tool in tools(Skill()) if tool.name == "plan")
    assert set(plan.properties["automl"]["properties"]) == set(AutoMLOptions.model_fields)


def test_a_document_has_only_what_json_has() -> None:
    document = {"a": float("nan"), "b": (1, True, None), 3: Path("x"), "c": [float("inf"), "é"]}
    assert plain(document) == {"a": None, "b": [1, True, None], "3": "x", "c": [None, "é"]}


def test_a_plan_names_the_job_that_it_launches_in_every_interface(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    bundle = str(write_bundle(tmp_path / "bundle"))
    options = {"train_datasets": str(tmp_path / "data"), "automl_policy": "off"}
    options["results_root"] = str(tmp_path / "results")

    plan = Skill(bundle).plan("train", **options)
    assert Skill(bundle).create_job(plan).id == plan.job_id

    skill = Skill(bundle)
    offered = {one.name: one for one in tools(skill)}
    planned, _ = answer(skill, offered["plan"], {"action": "train", **options})
    assert f"idempotency_key={planned['idempotency_key']} " in planned["next"][0]
    key = {"idempotency_key": planned["idempotency_key"], "confirmed": True}
    launched, _ = answer(skill, offered["run"], {"action": "train", **options, **key})
    assert launched["job_id"] == planned["job_id"] != plan.job_id

    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    words = ["train", *words, "--skill-dir", bundle, "train.rounds=2"]
    with pytest.raises(SystemExit):
        main(["plan", *words, "--json"])
    document = json.loads(capsys.readouterr().out)
    (command,) = document["next"]
    with pytest.raises(SystemExit):
        main([*shlex.split(command)[1:], "--wait", "--json"])
    ran = json.loads(capsys.readouterr().out)
    assert ran["job_id"] == document["job_id"] and ran["state"] == "COMPLETE"


def test_the_command_that_a_plan_prints_holds_no_secret_and_no_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    bundle = str(write_bundle(tmp_path / "bundle"))
    words = ["plan", "train", "--train-datasets", str(tmp_path / "data"), "--skill-dir", bundle]
    read, write = os.pipe()
    os.write(write, b"train: {rounds: 2}")
    os.close(write)
    for once in (
        ["--env", "API_TOKEN=hunter22hunter"],
        ["--env", "DB=ftp://me:hunter22@host/x"],
        ["-e", f"/dev/fd/{read}"],
    ):
        with pytest.raises(SystemExit):
            main([*words, "--automl-policy", "off", *once])
        shown = capsys.readouterr()
        assert "hunter22" not in shown.out + shown.err
        assert "mae run train … --idempotency-key" in shown.out


def test_only_fields_of_a_training_are_said_to_be_searched() -> None:
    key = "export.include_preprocessing"
    found = answers.explain(Bundle.load(), key, "export")["automl"]
    assert found == {"enabled": False, "searched": "never: a search varies trainings alone"}
    assert answers.explain(Bundle.load(), "train.optim.lr", "train")["automl"]["enabled"] is True
