"""The chain that SKILL.md prints runs as printed: only URIs, job ids and sizes are put in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.docs import ROOT, fences
from tests.support.images import write_imagefolder

SMALL = [
    "model.arch=vit_tiny_patch16",
    "dataset.augmentation.input_size=32",
    "train.num_epochs=1",
    "dataset.batch_size=10",
]


@pytest.mark.timeout(1800)
def test_the_chain_in_the_skill_runs_as_printed(tmp_path: Path) -> None:
    write_imagefolder(tmp_path / "train", classes=10, per_class=4, size=32)
    write_imagefolder(tmp_path / "eval", classes=10, per_class=2, size=32, start=4)
    chain = next(body for body in fences(ROOT / "SKILL.md", "bash") if "PRETRAIN_JOB" in body)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MAE_RESULTS_ROOT": str(tmp_path / "results"),
    }
    ids: dict[str, str] = {}
    names = iter(["PRETRAIN_JOB", "FINETUNE_JOB", "EVALUATE_JOB", "INFERENCE_JOB", "EXPORT_JOB"])
    ran = 0
    for line in chain.splitlines():
        if "gen_trt_engine" in line:
            continue  # needs an NVIDIA GPU; tests/long/rtx builds engines
        words = line.replace("s3://bucket/data/", f"{tmp_path}/").split()
        words = [ids.get(word, word) for word in words]
        if words[2] == "train":
            words += SMALL
        if "train.stage=finetune" in words:
            words += ["--automl", "max_trials=2"]
        done = subprocess.run(
            [*words, "--json"], capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr[-4000:]}"
        document = json.loads(done.stdout)
        assert document["state"] == "COMPLETE"
        assert document["next"]
        ids[next(names)] = document["job_id"]
        ran += 1
    assert ran == 5
    assert list((tmp_path / "results").glob("*/export/*.onnx"))
