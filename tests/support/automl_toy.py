"""An AutoML job over a runner that costs nothing: a real job folder, real supervisors, a script
that computes a known curve."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from mae_sdk import files
from mae_sdk.automl import setup
from mae_sdk.jobs import records

SCHEMA: dict[str, Any] = {
    "automl_default_parameters": ["train.lr", "train.decay"],
    "automl_metrics": [
        {"when": {"train.stage": "fine"}, "metric": "acc", "direction": "maximize"},
        {"metric": "cost", "direction": "minimize"},
    ],
    "properties": {
        "train": {
            "properties": {
                "stage": {"type": "string", "enum": ["fine"]},
                "lr": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": 1,
                    "search": {"low": 1e-6, "high": 1e-1, "log": True},
                },
                "decay": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 1,
                    "search": {"low": 0.0, "high": 1.0},
                },
                "num_epochs": {"type": "integer", "minimum": 1},
                "accum_grad_batches": {"type": "integer", "minimum": 1},
                "sleep": {"type": "number"},
                "fault": {"type": "string"},
            }
        },
        "dataset": {"properties": {"batch_size": {"type": "integer", "minimum": 1}}},
    },
}
SPEC: dict[str, Any] = {
    "train": {
        "stage": "fine",
        "lr": 1e-4,
        "decay": 0.5,
        "num_epochs": 6,
        "accum_grad_batches": 1,
        "sleep": 0.0,
        "fault": "",
    },
    "dataset": {"batch_size": 8},
}

# The accuracy peaks at lr 3e-3 and decay 0.2 and is best one epoch before the last. Every start
# leaves a line in starts.txt.
RUNNER = textwrap.dedent(
    """
    import json, math, os, pathlib, re, sys, time
    text = pathlib.Path(sys.argv[1]).read_text()
    spec = {k: v.strip("'") for k, v in re.findall(r"^ +(\\w+): (.*)$", text, re.M)}
    lr, decay, epochs, pause, fault = float(spec["lr"]), float(spec["decay"]), int(spec["num_epochs"]), float(spec["sleep"]), spec["fault"]
    job = pathlib.Path(os.environ["MAE_JOB_DIR"])
    with open(job / "starts.txt", "a") as f:
        f.write("%s %s\\n" % (os.environ["MAE_ATTEMPT"], spec["batch_size"]))
    (job / "threads.txt").write_text(os.environ.get("OMP_NUM_THREADS", ""))
    first = os.environ["MAE_ATTEMPT"] == "1"
    def fail(category, message, code):
        (job / "error.json").write_text(json.dumps({"category": category, "message": message})); sys.exit(code)
    if fault == "oom" and int(spec["batch_size"]) > 4:
        (job / "train").mkdir(); (job / "train" / "model_epoch_000.pth").write_text("of the larger batch")
        fail("out_of_memory", "out of memory", 1)
    if fault == "always": fail("runner", "it never works", 1)
    if fault == "data": fail("data", "no images", 3)
    if fault == "flaky" and first: os.kill(os.getpid(), 9)
    if fault == "high" and lr > 1e-3: fail("numeric", "loss is nan", 1)
    top = 1 / (1 + (math.log10(lr / 3e-3)) ** 2 / 4 + (decay - 0.2) ** 2)
    for epoch in range(epochs):
        time.sleep(pause)
        share = min(epoch + 1, epochs - 1) / max(1, epochs - 1) - (0.1 if epoch == epochs - 1 and epochs > 1 else 0)
        line = {"status": "RUNNING", "message": "", "epoch": epoch, "kpi": {"acc": top * share, "cost": lr}}
        with open(job / "status.json", "a") as f: f.write(json.dumps(line) + "\\n")
    (job / "train").mkdir(exist_ok=True)
    (job / "train" / "result.json").write_text("{}")
    """
)


def make_job(
    root: Path,
    name: str = "study",
    *,
    spec: dict[str, Any] | None = None,
    processes: int = 1,
    platform: str = "local",
    remote: str | None = None,
    **options: Any,
) -> Path:
    """An AutoML job folder, ready for its controller.

    ``spec`` holds changes of the train section, ``processes`` is that of a trial; ``remote`` is a
    results root behind a URL, of which ``root`` is then the scratch folder on this machine.
    """
    root.mkdir(parents=True, exist_ok=True)
    runner = root / "runner.py"
    if not runner.exists():
        runner.write_text(RUNNER)
    whole = {**SPEC, "train": {**SPEC["train"], **(spec or {})}}
    job = root / name
    job.mkdir()
    record: dict[str, Any] = {
        "id": name,
        "action": "train",
        "platform": platform,
        "launch": {"command": [sys.executable, "-m", "mae_sdk.automl.controller", str(job)]},
    }
    record["launch"]["result"] = "train/result.json"
    launch: dict[str, Any] = {"result": "train/result.json", "processes": processes}
    if remote is not None:
        record |= {"kind": "automl", "claim": "of a test"}
        record["launch"]["remote"] = f"{remote}/{name}"
        launch["remote"] = f"{remote}/{{job_id}}"
    records.new_attempt(record)
    files.write_json(job / records.RECORD_NAME, record)
    study = setup.describe(SCHEMA, whole, {}, {"seed": 1, "pruner": "none", **options})
    command = ["{python}", "-S", str(runner), "{config_path}"]
    setup.write(job, study, {"command": command, **launch})
    return job


def start_controller(job: Path, **environment: str) -> subprocess.Popen[str]:
    """The controller of a job as a process of its own."""
    command = [sys.executable, "-m", "mae_sdk.automl.controller", str(job)]
    env = {**os.environ, **environment}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        start_new_session=True,
    )


def children(job: Path) -> list[Path]:
    """The child jobs of a study, in order of trial."""
    return sorted(path for path in job.parent.glob(f"{job.name}.t*") if path.is_dir())
