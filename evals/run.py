"""Run the evals with any agent command and grade what it leaves behind.

python evals/run.py tasks --agent "my-agent --print {prompt}"
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from mae_skill.dotted import flatten

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SKILL = "tao-train-mask-auto-encoder"
sys.path.insert(0, str(ROOT))


def prepare(task: dict[str, Any], folder: Path) -> None:
    """A clean folder with the installed bundle, the task's data (real digits) and its files."""
    from mae_sdk.cli.bundle import install_bundle

    from evals.data import MAKERS

    install_bundle(ROOT, folder / ".agents" / "skills")
    for name, make in MAKERS.items():
        if name in task["data"]:
            make(folder)
    for name, text in task.get("write", {}).items():
        (folder / name).write_text(text)


def ask(agent: str, prompt: str, folder: Path, timeout: float) -> str:
    """Run the agent in ``folder``; its output.

    ``{prompt}`` in the command is replaced, without a shell.
    """
    words = [word.replace("{prompt}", prompt) for word in shlex.split(agent)]
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("MAE_RESULTS_ROOT", "MAE_CACHE_DIR")
    }
    counted = _counting(folder)
    environment["PATH"] = f"{counted}:{Path(sys.executable).parent}:{environment['PATH']}"
    environment["MAE_CACHE_DIR"] = str(folder / ".cache")
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    return done.stdout + done.stderr


def _counting(folder: Path) -> Path:
    """A folder for PATH, whose ``mae`` notes each call's exit code and passes it on."""
    place = folder / ".eval"
    place.mkdir(exist_ok=True)
    real = Path(sys.executable).parent / "mae"
    shim = place / "mae"
    shim.write_text(
        f'#!/bin/sh\n{shlex.quote(str(real))} "$@"\ncode=$?\n'
        f'printf \'%s\\t%s\\n\' "$code" "$1" >> {shlex.quote(str(place / "calls"))}\nexit $code\n'
    )
    shim.chmod(0o755)
    return place


REFUSED = ("2", "3", "4")
"""Exit codes of a call that was refused: spec or usage, data, not found."""


def effort(task: dict[str, Any], folder: Path) -> dict[str, int]:
    """What the agent's way cost: ``mae`` calls, refused ones, and jobs started beyond those that
    the task needs. A call that was cut off before its end is not counted."""
    calls = folder / ".eval" / "calls"
    codes = (
        [line.split("\t")[0] for line in calls.read_text().splitlines()] if calls.exists() else []
    )
    started = sum(job.record.get("kind") != "trial" for job in jobs(folder))
    return {
        "commands": len(codes),
        "refused": sum(code in REFUSED for code in codes),
        "wrong_launches": max(0, started - task["launches"]),
    }


def jobs(folder: Path) -> list[Any]:
    """Every job under the folder's results root."""
    from mae_sdk import Skill

    root = folder / "mae-results"
    return list(Skill().jobs(results_root=str(root), all=True)) if root.is_dir() else []


def facts(job: Any) -> dict[str, Any]:
    """What an expectation may ask of a job; one that is still running is observed, not guessed."""
    from mae_skill.reader import read_spec

    record = job.record
    spec = flatten(read_spec(str(job.folder / "spec.yaml")))
    return {
        "id": job.id,
        "action": record.get("action"),
        "state": str(job.state),
        "kind": record.get("kind"),
        "spec": spec,
    }


def put_away(folder: Path) -> None:
    """End what the agent left running, then remove the folder."""
    for job in jobs(folder):
        if job.state in ("PENDING", "RUNNING"):
            job.cancel()
    shutil.rmtree(folder, ignore_errors=True)


def grade(expected: dict[str, Any], folder: Path) -> str | None:
    """What is wrong with one expectation, or None."""
    if "files" in expected:
        return (
            None
            if any(path.stat().st_size for path in folder.glob(expected["files"]))
            else f"no file {expected['files']}"
        )
    if "nowhere" in expected:
        return _grade_nowhere(expected["nowhere"], folder)
    if "best" in expected:
        return _grade_best(expected, folder)
    if "array" in expected:
        return _grade_array(expected, folder / expected["array"])
    if "json" in expected:
        return _grade_json(expected, folder / expected["json"])
    if "text" in expected:
        path = folder / expected["text"]
        got = path.read_text().strip().lower().rstrip(".") if path.is_file() else None
        return None if got == expected["equals"] else f"{expected['text']}: {got!r}"
    if "number" in expected:
        return _grade_number(expected, folder)
    if "rows" in expected:
        return _grade_rows(expected, folder / expected["csv"])
    if "onnx" in expected:
        return _grade_onnx(expected, folder / expected["onnx"])
    if "jobs" not in expected and "no_state" not in expected:
        return _grade_spec(expected, folder / expected["spec"])
    found = [facts(job) for job in jobs(folder)]
    if "no_state" in expected:
        bad = [job["id"] for job in found if job["state"] == expected["no_state"]]
        return f"jobs that should not be there: {bad}" if bad else None
    matching = [job for job in found if _fits(job, expected)]
    shown = [{key: value for key, value in job.items() if key != "spec"} for job in found]
    if expected["jobs"] == 0:
        return (
            f"jobs that should not be there: {[job['id'] for job in matching]}"
            if matching
            else None
        )
    return None if len(matching) >= expected["jobs"] else f"expected {expected}, found {shown}"


def _fits(job: dict[str, Any], expected: dict[str, Any]) -> bool:
    plain = all(job[key] == expected[key] for key in ("action", "state", "kind") if key in expected)
    return plain and all(
        job["spec"].get(key) == value for key, value in expected.get("spec", {}).items()
    )


def _grade_number(expected: dict[str, Any], folder: Path) -> str | None:
    """A number in a file: that of a finished job's metric, to the digits that people round to."""
    try:
        got = float((folder / expected["number"]).read_text())
    except (OSError, ValueError) as error:
        return f"{expected['number']}: {error}"
    true = [
        job.metrics().get(expected["metric"])
        for job in jobs(folder)
        if (job.record["action"], job.state) == (expected["of"], "COMPLETE")
    ]
    fits = any(isinstance(value, (int, float)) and abs(value - got) < 0.006 for value in true)
    return None if fits else f"{expected['number']}: {got}, and {expected['metric']} is {true}"


def _grade_nowhere(secret: str, folder: Path) -> str | None:
    """A text that no file of the results may hold."""
    files = (path for path in (folder / "mae-results").rglob("*") if path.is_file())
    held = [path.name for path in files if secret.encode() in path.read_bytes()]
    return f"the secret is in {held}" if held else None


def _grade_best(expected: dict[str, Any], folder: Path) -> str | None:
    """The id of the finished job that is best by a metric; equals count alike."""
    known = {
        job.id: job.figures()["best"][expected["metric"]]["value"]
        for job in jobs(folder)
        if job.record["action"] == "train" and job.state == "COMPLETE"
    }
    path = folder / expected["best"]
    got = path.read_text().strip() if path.is_file() else None
    fits = got in known and known[got] == max(known.values()) and len(known) >= expected["of"]
    return None if fits else f"{expected['best']}: {got!r} of {known}"


def _grade_array(expected: dict[str, Any], path: Path) -> str | None:
    import numpy as np

    try:
        found = np.load(path)
    except (OSError, ValueError) as error:
        return f"{path.name}: {error}"
    fits = len(found) == expected["rows"] and bool(np.isfinite(found).all())
    return None if fits else f"{path.name}: {found.shape}"


def _grade_rows(expected: dict[str, Any], path: Path) -> str | None:
    try:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        return f"{path.name}: {error}"
    return (
        None
        if len(rows) == expected["rows"]
        else f"{path.name}: {len(rows)} rows, not {expected['rows']}"
    )


def _grade_onnx(expected: dict[str, Any], path: Path) -> str | None:
    import onnx

    try:
        outputs = onnx.load(str(path), load_external_data=False).graph.output
    except Exception as error:  # whatever a broken file makes of the parser
        return f"{path.name}: {error}"
    widths = {
        output.name: [dim.dim_value for dim in output.type.tensor_type.shape.dim][-1]
        for output in outputs
    }
    return None if widths == expected["outputs"] else f"{path.name}: outputs {widths}"


def _grade_json(expected: dict[str, Any], path: Path) -> str | None:
    try:
        got = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return f"{path.name}: {error}"
    if "equals" in expected:
        return None if got == expected["equals"] else f"{path.name}: {got}"
    missing = [key for key in expected["contains"] if key not in got]
    return f"{path.name}: lacks {missing}" if missing else None


def _grade_spec(expected: dict[str, Any], path: Path) -> str | None:
    from mae_sdk.plan.layers import resolve_spec
    from mae_skill.bundle import Bundle
    from mae_skill.errors import MaeError
    from mae_skill.reader import read_spec

    try:
        spec = read_spec(str(path))
        found, _ = resolve_spec(Bundle.load(None), expected["action"], spec, {}, looks=False)
    except (MaeError, OSError) as error:
        return f"{path.name}: {error}"
    if found.errors:
        return f"{path.name}: {found.errors[0]}"
    flat = flatten(spec)
    wrong = {key: flat.get(key) for key, value in expected["has"].items() if flat.get(key) != value}
    return f"{path.name}: {wrong}" if wrong else None


def run_tasks(
    agent: str, only: str | None, timeout: float, keep: bool, output: Path | None = None
) -> bool:
    """Run the tasks, print how each came out and what it cost; whether all passed.

    Args:
        output: a JSON file for the outcomes: date, agent, tasks, summary.
    """
    tasks = [
        task for task in json.loads((HERE / "tasks.json").read_text()) if only in (None, task["id"])
    ]
    rows = []
    for task in tasks:
        folder = Path(tempfile.mkdtemp(prefix=f"eval-{task['id']}-"))
        prepare(task, folder)
        (folder / ".agent-output.txt").write_text(ask(agent, task["prompt"], folder, timeout))
        row = judge(task, folder)
        rows.append(row)
        print(
            f"{'pass' if row['passed'] else 'FAIL'}  {task['id']}  {row['commands']} commands"
            + "".join(f"\n      {problem}" for problem in row["problems"]),
            flush=True,
        )
        if keep:
            print(f"      {folder}")
        else:
            put_away(folder)
    print(summary(rows))
    if output is not None:
        report = {"date": date.today().isoformat(), "agent": agent, "summary": summary(rows)}
        output.write_text(json.dumps({**report, "tasks": rows}, indent=1) + "\n")
    return bool(rows) and all(row["passed"] for row in rows)


def judge(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """How a task came out: ``task, passed, problems, commands, refused, wrong_launches``."""
    wrong = [problem for expected in task["expect"] if (problem := grade(expected, folder))]
    return {
        "task": task["id"],
        "passed": not wrong,
        "problems": wrong,
        **effort(task, folder),
    }


def summary(rows: list[dict[str, Any]]) -> str:
    """One line over all tasks."""
    if not rows:
        return "0 of 0 tasks passed"
    commands = statistics.median(row["commands"] for row in rows)
    refused = sum(row["refused"] for row in rows)
    wrong = sum(row["wrong_launches"] for row in rows)
    return (
        f"{sum(row['passed'] for row in rows)} of {len(rows)} tasks passed; "
        f"{commands:g} commands in the median (goal: 6), {refused} refused, "
        f"{wrong} wrong launches"
    )


def run_triggers(agent: str, timeout: float) -> bool:
    from mae_sdk.cli.bundle import front_matter

    description = front_matter(ROOT / "SKILL.md")["description"]
    queries = json.loads((HERE / "triggers.json").read_text())
    good = 0
    for item in queries:
        prompt = (
            f"A skill named {SKILL} is installed. Its description: {description}\n"
            f"Would you load it for the request below? Answer with {SKILL} or with none, and "
            f"nothing else.\n\nRequest: {item['query']}"
        )
        fired = SKILL in ask(agent, prompt, Path(tempfile.gettempdir()), timeout)
        good += fired == item["fires"]
        print(f"{'pass' if fired == item['fires'] else 'FAIL'}  {item['query']}", flush=True)
    print(f"{good} of {len(queries)} triggers right")
    return good == len(queries)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=["tasks", "triggers"])
    parser.add_argument("--agent", required=True, help="the agent's command; {prompt} is replaced")
    parser.add_argument("--only", help="one task by id")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds per task")
    parser.add_argument("-o", "--output", type=Path, help="write the tasks' outcomes here, as JSON")
    parser.add_argument("--keep", action="store_true", help="leave the folders")
    given = parser.parse_args()
    fine = (
        run_tasks(given.agent, given.only, given.timeout, given.keep, given.output)
        if given.set == "tasks"
        else run_triggers(given.agent, given.timeout)
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
