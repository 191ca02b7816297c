"""Nothing of the folder that a command is called in is ever imported, by whatever way it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.plan.input_files import take_from_here
from mae_sdk.run.process_group import safe_path
from mae_skill.bundle import Bundle
from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.reader import dump_yaml, read_spec

from tests.support.images import write_imagefolder
from tests.support.toy_bundle.make import write_bundle
from tests.support.training import digits_folder

MAE = str(Path(sys.executable).with_name("mae"))
MODULES = ("yaml", "queue", "numpy", "json", "click", "jsonschema", "socket", "tempfile", "pickle")
PACKAGES = ("timm", "torch", "mae_sdk", "mae_skill", "optuna", "fsspec", "mcp", "anyio")

SCRIPT = """
import sys, json, queue, helper, multiprocessing, subprocess, pathlib
import yaml, numpy
job = pathlib.Path(sys.argv[2])
def work(): pass
if __name__ == "__main__":
    for way in ("spawn", "forkserver"):
        child = multiprocessing.get_context(way).Process(target=work)
        child.start(); child.join(); assert child.exitcode == 0
    subprocess.run([sys.executable, "-c", "import yaml, json, queue"], check=True)
    (job / "train").mkdir(exist_ok=True)
    (job / "train" / "result.json").write_text(json.dumps({"helper": helper.NAME}))
    line = {"status": "SUCCESS", "message": "", "kpi": {"score": 0.5}}
    (job / "status.json").write_text(json.dumps(line) + chr(10))
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose files bear the names of libraries and leave a mark when they are executed."""
    folder = tmp_path / "untrusted"
    content = f"import os; open({str(tmp_path / 'mark')!r}, 'a').write(__name__ + ' ')\n"
    for name in (*PACKAGES, "mae_runners"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(content)
    for name in MODULES:
        (folder / f"{name}.py").write_text(content)
    return folder


def test_every_path_of_the_folder_that_a_plan_was_made_in_is_absolute_in_its_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    for name in ("val.csv", "w.pth"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    given = [
        "dataset.train_data_sources=[train]",
        "dataset.val_data_sources=./val",
        "dataset.labels.val=val.csv",
        "train.teacher.checkpoint=w.pth",
        "train.pretrained_model_path=none.pth",
        "train.stage=pretrain",
    ]
    spec: dict[str, Any] = {}
    for one in given:
        key, _, value = one.partition("=")
        set_dotted(spec, key, [value[1:-1]] if value.startswith("[") else value)
    take_from_here(Bundle.load(), "train", spec, {one.partition("=")[0] for one in given})
    here = str(tmp_path)
    assert get_dotted(spec, "dataset.train_data_sources") == [f"{here}/train"]
    assert get_dotted(spec, "dataset.val_data_sources") == f"{here}/val"
    assert get_dotted(spec, "dataset.labels.val") == f"{here}/val.csv"
    assert get_dotted(spec, "train.teacher.checkpoint") == f"{here}/w.pth"
    assert get_dotted(spec, "train.pretrained_model_path") == "none.pth", (
        "not there: a rule says so"
    )
    assert get_dotted(spec, "train.stage") == "pretrain"


def executed(tmp_path: Path) -> str:
    mark = tmp_path / "mark"
    return mark.read_text() if mark.exists() else ""


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | more
    return subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def script_bundle(tmp_path: Path) -> Path:
    """A bundle whose command is a Python script with a module of its own beside it."""
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "helper.py").write_text("NAME = 'of the bundle'\n")
    (bundle / "entry.py").write_text(SCRIPT)
    info = bundle / "references" / "skill_info.yaml"
    made = read_spec(str(info))
    made["actions"]["train"]["command"] = (
        f"{{python}} {bundle}/entry.py {{config_path}} {{job_dir}}"
    )
    info.write_text(dump_yaml(made))
    return bundle


def test_a_job_a_study_and_their_children_import_nothing_of_it(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = script_bundle(tmp_path)
    write_imagefolder(tmp_path / "data" / "pictures", classes=2, per_class=1)
    # The one odd entry that `PYTHONPATH=$PYTHONPATH:/x` makes, and one of the user's own.
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path / 'own'}")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.chdir(hostile)  # as a notebook's kernel that works there
    skill = Skill(bundle)
    plain = skill.create_job("train", train_datasets=str(tmp_path / "data"), automl_policy="off")
    plain.wait(60)
    study = skill.create_job(
        "train",
        train_datasets=str(tmp_path / "data"),
        automl={"max_trials": 1, "pruner": "none", "metric": "score", "direction": "maximize"},
    )
    study.wait(90)
    assert executed(tmp_path) == ""
    results = [
        path.read_text() for path in (tmp_path / "results").glob("train-*/train/result.json")
    ]
    assert any("of the bundle" in text for text in results)


@pytest.mark.parametrize(
    "words",
    [
        (MAE, "plan", "train", "-e", "spec.json"),
        (MAE, "validate", "train", "-e", "spec.json"),
        (MAE, "mcp"),
        (sys.executable, "-m", "mae_sdk.run.supervisor", "nothing"),
        (sys.executable, "-m", "mae_sdk.cli.main", "explain", "train.seed"),
        (sys.executable, "-m", "mae_sdk.automl.controller", "nothing"),
        (sys.executable, "-m", "mae_sdk.run.warm_client", "true"),
        (sys.executable, "-m", "mae_runners", "train", "-e", "spec.json"),
    ],
    ids=lambda words: " ".join(Path(word).name for word in words[:4]),
)
def test_every_program_imports_nothing_of_the_folder_it_is_called_in(
    words: tuple[str, ...], hostile: Path, tmp_path: Path
) -> None:
    (hostile / "spec.json").write_text('{"train": {"num_epochs": "many"}}')
    if "-m" in words:  # its own package is Python's business: `-P` or `mae` where that matters
        for name in ("__init__.py", ""):
            own = hostile / words[2].split(".")[0] / name
            own.unlink() if name else own.rmdir()
    run(hostile, *words)
    assert executed(tmp_path) == ""


def test_an_empty_entry_of_pythonpath_does_not_name_the_folder(
    hostile: Path, tmp_path: Path
) -> None:
    # What Python itself loads to find `mae` is decided before `mae` runs.
    for name in ("mae_sdk", "mae_skill"):
        (hostile / name / "__init__.py").unlink()
        (hostile / name).rmdir()
    data = digits_folder(tmp_path / "data", per_class=2)
    words = ("plan", "train", "--train-datasets", str(data), "--automl-policy", "off")
    done = run(hostile, MAE, *words, "arch=vit_tiny_patch16", PYTHONPATH=":")
    assert (done.returncode, executed(tmp_path)) == (0, ""), done.stderr


def test_a_users_own_pythonpath_holds_and_a_script_finds_its_neighbors(tmp_path: Path) -> None:
    there = str(tmp_path)
    assert safe_path({"PYTHONPATH": f":{there}::"})["PYTHONPATH"] == there
    assert "PYTHONPATH" not in safe_path({"PYTHONPATH": ""}, ["python3", "-m", "x"])
    found = safe_path(
        {"PYTHONPATH": there}, ["/usr/bin/python3.11", "-u", "-W", "error", "/b/x.py"]
    )
    assert found["PYTHONPATH"] == os.pathsep.join(["/b", there])
    for other in (["sh", "x.py"], ["python", "-c", "x.py"], ["python"], ["python", "-Im", "x"]):
        assert "PYTHONPATH" not in safe_path({}, other)
