"""A further attempt that finds no checkpoint says so; what refers to a field that a launch or a
resume changes follows it.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.jobs import records
from mae_skill.errors import MaeError
from mae_skill.placeholders import follow
from mae_skill.reader import dump_yaml

Made = Callable[..., Skill]

RUNNER = r"""
import json, os, sys
spec = json.load(open(sys.argv[1]))
print("given", json.dumps(spec))
top = os.path.join(spec["results_dir"], "go")
for name in spec["leaves"]:
    os.makedirs(os.path.dirname(os.path.join(top, name)), exist_ok=True)
    open(os.path.join(top, name), "w").write("w")
raise SystemExit(spec["code"])
"""
TEMPLATE = {
    "results_dir": "???",
    "leaves": [],
    "code": 3,
    "train": {"resume": None, "ptm": ""},
    "copies": {"resume": "${train.resume}", "inside": "from:${data.items[0]}", "open": "${late}"},
    "late": "???",
    "data": {"items": [], "copy": "${data.items[0]}"},
}
INFO: dict[str, Any] = {
    "name": "resumed",
    "actions": {
        "go": {
            "command": "{python} {bundle_dir}/run.py {config_path}",
            "config_format": "json",
            "inputs": {"late": {"type": "file", "optional": True}},
        }
    },
    "data_sources": {
        "go": {
            "data.items": {
                "source": "train_datasets",
                "path": "a.tar.gz",
                "runtime": "extracted_folder",
                "list": True,
                "optional": True,
            }
        }
    },
    "spec_params": {
        "go": {"results_dir": "output_dir", "train.resume": "resume_model", "late": "resume_model"}
    },
}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def write(**more: Any) -> Skill:
        folder = tmp_path / "bundle"
        (folder / "references").mkdir(parents=True)
        (folder / "references" / "skill_info.yaml").write_text(dump_yaml({**INFO, **more}))
        (folder / "references" / "spec_template_go.yaml").write_text(dump_yaml(TEMPLATE))
        (folder / "run.py").write_text(RUNNER)
        return Skill(folder)

    return write


def failed(skill: Skill, **options: Any) -> Any:
    job = skill.create_job(skill.plan("go", **options))
    with pytest.raises(MaeError):
        job.wait(30)
    return job


def given(job: Any) -> list[dict[str, Any]]:
    """The spec of every attempt, as its runner read it."""
    said = [line for line in job.logs().splitlines() if line.startswith("given ")]
    return [json.loads(line.removeprefix("given ")) for line in said]


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        ([], "it left no checkpoint"),
        (["status.txt"], "it left no checkpoint"),
        (["one.keras", "two.keras"], "go/one.keras, go/two.keras"),
        (["red.pth", "blue.pth"], "go/blue.pth, go/red.pth"),
        (["deep/ckpt-1.index"], "go/deep/ckpt-1.index"),
    ],
    ids=str,
)
def test_a_resume_without_a_checkpoint_says_so_and_names_the_models_that_are_there(
    made: Made, leaves: list[str], said: str
) -> None:
    job = failed(made(), spec_overrides={"leaves": leaves})
    (notice,) = answers.resumed(job.resume())["notices"]
    assert notice.startswith("it starts anew") and said in notice
    with pytest.raises(MaeError):
        job.wait(30)
    assert f"--- {notice} ---" in job.logs()
    assert notice.endswith(records.last_attempt(job.record)["anew"])
    assert given(job)[1]["train"]["resume"] is None


def test_what_refers_to_the_field_of_the_checkpoint_follows_it(made: Made) -> None:
    job = failed(made(), spec_overrides={"leaves": ["model_epoch_001.pth"]})
    assert job.resume().notices == []
    with pytest.raises(MaeError):
        job.wait(30)
    first, second = given(job)
    place = f"{job.folder}/go/model_epoch_001.pth"
    assert first["copies"]["resume"] is None
    assert second["train"]["resume"] == second["copies"]["resume"] == place
    assert second["copies"]["open"] == place


def test_what_refers_to_an_archive_follows_it_to_its_folder(made: Made, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "one.txt").write_text("1")
    with tarfile.open(tmp_path / "data" / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "one.txt", "one.txt")
    job = failed(made(), train_datasets=str(tmp_path / "data"))
    (spec,) = given(job)
    (folder,) = spec["data"]["items"]
    assert (Path(folder) / "one.txt").is_file()
    assert spec["data"]["copy"] == folder
    assert spec["copies"]["inside"] == f"from:{folder}"


def test_a_field_that_something_else_has_set_since_follows_nothing() -> None:
    base = {"a": 1, "b": 1, "c": 1}
    links = {"b": "${a}", "c": "${a}"}
    assert follow(base, {"a": 2, "b": 1, "c": 5}, links) == {"a": 2, "b": 2, "c": 5}


def test_the_error_of_a_study_says_what_its_runner_said_of_its_trials(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    for name in ("references", "schemas"):
        (folder / name).mkdir(parents=True)
    entry = {
        "command": "{python} {bundle_dir}/run.py {config_path}",
        "metric": "acc",
        "metric_direction": "maximize",
    }
    info = {
        "name": "fails",
        "automl_enabled": True,
        "actions": {"train": entry},
        "spec_params": {"train": {"results_dir": "output_dir"}},
    }
    (folder / "references" / "skill_info.yaml").write_text(dump_yaml(info))
    template = {"results_dir": "???", "train": {"lr": 0.1}}
    (folder / "references" / "spec_template_train.yaml").write_text(dump_yaml(template))
    lr = {"type": "number", "minimum": 0.01, "maximum": 1, "automl_enabled": "TRUE"}
    properties = {"train": {"type": "object", "properties": {"lr": lr}}}
    schema = {"automl_default_parameters": ["train.lr"], "properties": properties}
    (folder / "schemas" / "train.schema.json").write_text(json.dumps(schema))
    (folder / "run.py").write_text(
        "import json, os, sys\n"
        "top = os.path.join(os.path.dirname(sys.argv[1]), 'train')\n"
        "os.makedirs(top, exist_ok=True)\n"
        "line = {'status': 'FAILURE', 'message': 'no labels in fold 3'}\n"
        "line |= {'date': '1/2/2026', 'time': '1:2:3'}\n"
        "open(os.path.join(top, 'status.json'), 'w').write(json.dumps(line))\n"
        "raise SystemExit(3)\n"
    )
    skill = Skill(folder)
    job = skill.create_job(skill.plan("train", automl={"max_trials": 2}))
    with pytest.raises(MaeError, match=r"2 of 2 failed for: .*no labels in fold 3"):
        job.wait(60)
    assert "no labels in fold 3" in (job.folder / "automl" / "trials.csv").read_text()


SHARDS = ["checkpoint-2/m-00001-of-00002.safetensors", "checkpoint-2/m-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    ("kind", "leaves", "value"),
    [
        ("folder", ["checkpoint-2/m.safetensors", "checkpoint-2/optimizer.pt"], "checkpoint-2"),
        ("file", ["checkpoint-2/m.safetensors"], "checkpoint-2/m.safetensors"),
        ("folder", SHARDS, "checkpoint-2"),
        (None, SHARDS, "checkpoint-2"),
        ("file", SHARDS, None),
    ],
)
def test_a_resume_gets_the_folder_of_a_checkpoint_where_it_is_declared(
    made: Made, kind: str | None, leaves: list[str], value: str | None
) -> None:
    inputs = {"train.resume": {"type": kind, "optional": True}} if kind else {}
    entry = {**INFO["actions"]["go"], "inputs": inputs}
    rows = {"go": {"results_dir": "output_dir", "train.resume": "resume_model"}}
    skill = made(actions={"go": entry}, spec_params=rows)
    job = failed(skill, spec_overrides={"leaves": leaves, "late": "x"})
    with pytest.raises(MaeError):
        job.resume().wait(30)
    expected = value and str(job.folder / "go" / value)
    assert given(job)[1]["train"]["resume"] == expected
    if value is None:
        assert "the bundle declares train.resume as one file" in job.logs()
