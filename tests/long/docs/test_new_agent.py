"""A new agent: an empty folder, the installed bundle and the CLI, one sentence from a person, at
most eight commands."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import make_tarball, write_imagefolder

SMALL = "model.arch=vit_tiny_patch16 dataset.augmentation.input_size=32 train.num_epochs=1 dataset.batch_size=10"


class Agent:
    """Runs commands in one folder with nothing but the venv's programs on PATH, and counts them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[str] = []
        keep = ("HOME", "LANG", "OMP_NUM_THREADS")
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        self.environment = {
            **{k: os.environ[k] for k in keep if k in os.environ},
            "PATH": path,
            "MAE_CACHE_DIR": str(folder.parent / "cache"),
        }

    def __call__(self, command: str, expect: int = 0) -> Any:
        self.ran.append(command)
        words = shlex.split(command)
        assert words[0] == "mae"
        done = subprocess.run(
            [*words, "--json"],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment,
            timeout=900,
        )
        assert done.returncode == expect, f"{command}\n{done.stdout}\n{done.stderr[-4000:]}"
        return json.loads(done.stdout if expect == 0 else done.stderr)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Tarballs as a person has them, and an empty folder beside them."""
    make_tarball(
        write_imagefolder(tmp_path / "t", classes=4, per_class=12, size=32),
        tmp_path / "tarballs" / "train.tar.gz",
    )
    make_tarball(
        write_imagefolder(tmp_path / "e", classes=4, per_class=4, size=32, start=12),
        tmp_path / "tarballs" / "eval.tar.gz",
    )
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.mark.timeout(1800)
def test_pretrain_on_these_tarballs_and_fine_tune_without_hpo_then_give_me_an_onnx(
    place: Path,
) -> None:
    agent = Agent(place)
    agent("mae skill install --dest skills")
    skill = (place / "skills" / "tao-train-mask-auto-encoder" / "SKILL.md").read_text()
    assert (
        "mae inspect SOURCE" in skill
        and "--automl-policy off" in skill
        and "mae run export --parent FINETUNE_JOB --wait" in skill
    )

    seen = agent("mae inspect ../tarballs/train.tar.gz")
    classes = seen["classes"] if isinstance(seen["classes"], int) else len(seen["classes"])
    data, request = (
        "../tarballs/train.tar.gz",
        "--request 'pretrain and fine-tune without HPO: no HPO'",
    )
    planned = agent(
        f"mae plan train --train-datasets {data} {request} train.stage=pretrain {SMALL}"
    )
    assert planned["automl"] is None and not (place / "mae-results").exists()
    assert any(line.startswith("mae run train") for line in planned["next"])
    pretrained = agent(
        f"mae run train --train-datasets {data} {request} train.stage=pretrain {SMALL} --wait"
    )
    tuned = agent(
        f"mae run train --parent {pretrained['job_id']} --train-datasets {data} --eval-dataset ../tarballs/eval.tar.gz {request}"
        f" train.stage=finetune model.num_classes={classes} train.num_epochs=1 dataset.batch_size=10 --wait"
    )
    # What a model of one epoch answers is in doubt, and then it is not proposed to be exported.
    proposed = any("export" in line and tuned["job_id"] in line for line in tuned["next"])
    assert proposed != bool(tuned.get("doubts"))
    exported = agent(f"mae run export --parent {tuned['job_id']} --wait")
    shown = agent(f"mae jobs show {exported['job_id']}")

    assert len(agent.ran) <= 8
    import onnx

    model = onnx.load(str(place / "mae-results" / exported["job_id"] / "export" / "model.onnx"))
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim][-1] == 4
    assert "model.onnx" in json.dumps(shown)
    listed = agent("mae jobs list --all")
    assert sorted(job["action"] for job in listed["jobs"]) == ["export", "train", "train"]


@pytest.mark.timeout(1800)
def test_a_mistake_on_the_way_is_answered_with_the_way_out(place: Path) -> None:
    agent = Agent(place)
    call = f"mae run train --train-datasets ../tarballs/train.tar.gz --automl-policy off train.stage=finetune {SMALL} --wait"
    refused = agent(call, expect=2)
    assert refused["field"] == "model.num_classes" and refused["expected"] == "4"
    assert agent(f"{call} model.num_classes={refused['expected']}")["state"] == "COMPLETE"
