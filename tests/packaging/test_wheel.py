"""The wheel carries the bundle, and works in a clean environment that has no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_carries_the_bundle_and_the_three_rooms(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "SKILL.md",
        "schemas/manifest.json",
        "schemas/train.schema.json",
        "references/skill_info.yaml",
        "references/train.md",
    ):
        assert f"mae_skill/_bundle/{name}" in names
    assert {
        "mae_skill/errors.py",
        "mae_sdk/cli/main.py",
        "mae_runners/__main__.py",
        "mae_sdk/py.typed",
    } <= names
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


def test_the_wheel_plans_and_validates_in_a_clean_venv_without_torch(
    wheel: Path, tmp_path: Path
) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--prefer-binary",
        str(wheel),
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    subprocess.run(install, check=True, capture_output=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{home / 'bin'}:{environment['PATH']}"

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment
        )

    program = (
        "import importlib.util as u, json\nfrom mae_sdk import Skill\nskill = Skill()\n"
        "has_torch = u.find_spec('torch') is not None\n"
        "print(json.dumps({'torch': has_torch, 'root': str(skill.bundle.root)}))"
    )
    done = call(str(python), "-c", program)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["torch"] is False
    assert found["root"].startswith(str(home)), "the bundle is the installed one, not the checkout"

    mae = str(home / "bin" / "mae")
    done = call(mae, "get-spec", "train", "-o", "spec.yaml")
    assert done.returncode == 0, done.stderr
    assert call(mae, "skill", "validate").returncode == 0
    done = call(mae, "train", "-e", "spec.yaml", "--json")
    assert done.returncode == 7
    assert json.loads(done.stderr)["hint"] == "pip install 'mae-skill[train]'"

    done = call(mae, "doctor", "--json")
    found = json.loads(done.stdout)
    assert found["verdict"]["can_train"] is False and "torch" in found["extras"]["train"]["missing"]
    assert found["extras"]["quickstart"]["get"] == "pip install 'mae-skill[quickstart]'"
    done = call(mae, "quickstart", "--json")
    assert done.returncode == 7 and not (tmp_path / "quickstart-out").exists()
    assert json.loads(done.stderr)["hint"] == "pip install 'mae-skill[train,quickstart]'"
