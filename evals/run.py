"""Run the evals with any agent command and grade what it leaves behind.

python evals/run.py tasks --agent "my-agent --print {prompt}"
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SKILL = "tao-train-mask-auto-encoder"
sys.path.insert(0, str(ROOT))


def prepare(task: dict[str, Any], folder: Path) -> None:
    """A clean folder with the installed bundle, the task's data (real digits) and its files."""
    from mae_sdk.cli.skill import install_bundle

    from tests.support.images import digits, write_imagefolder

    install_bundle(ROOT, folder / ".agents" / "skills")
    if "labelled" in task["data"]:
        write_imagefolder(folder / "labelled", classes=4, per_class=10, size=32)
    if "flat" in task["data"]:
        from PIL import Image

        (folder / "flat").mkdir()
        for number, pixels in enumerate(digits()[0][::200]):
            Image.fromarray(pixels).resize((32, 32)).convert("RGB").save(folder / "flat" / f"{number:03d}.png")
    for name, text in task.get("write", {}).items():
        (folder / name).write_text(text)


def ask(agent: str, prompt: str, folder: Path, timeout: float) -> str:
    """Run the agent in ``folder``; its output. ``{prompt}`` in the command is replaced, without a shell."""
    words = [word.replace("{prompt}", prompt) for word in shlex.split(agent)]
    environment = {key: value for key, value in os.environ.items() if key not in ("MAE_RESULTS_ROOT", "MAE_CACHE_DIR")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["MAE_CACHE_DIR"] = str(folder / ".cache")
    try:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return "timeout"
    return done.stdout + done.stderr


def jobs(folder: Path) -> list[dict[str, Any]]:
    """Every job record under the folder's results root; a job that is still running is observed, not guessed."""
    from mae_sdk import Skill

    root = folder / "mae-results"
    if not root.is_dir():
        return []
    return [
        {"id": job.id, "action": job.record.get("action"), "state": str(job.state)}
        for job in Skill().jobs(results_root=str(root), all=True)
    ]


def grade(expected: dict[str, Any], folder: Path) -> str | None:
    """What is wrong with one expectation, or None."""
    if "files" in expected:
        return None if any(path.stat().st_size for path in folder.glob(expected["files"])) else f"no file {expected['files']}"
    if "json" in expected:
        return _grade_json(expected, folder / expected["json"])
    if "text" in expected:
        path = folder / expected["text"]
        got = path.read_text().strip().lower().rstrip(".") if path.is_file() else None
        return None if got == expected["equals"] else f"{expected['text']}: {got!r}"
    if "number" in expected:
        path = folder / expected["number"]
        try:
            got_number = float(path.read_text())
        except (OSError, ValueError) as error:
            return f"{expected['number']}: {error}"
        return None if expected["min"] <= got_number <= expected["max"] else f"{expected['number']}: {got_number}"
    if "spec" in expected:
        return _grade_spec(expected, folder / expected["spec"])
    found = jobs(folder)
    if "no_state" in expected:
        bad = [job["id"] for job in found if job["state"] == expected["no_state"]]
        return f"jobs that should not be there: {bad}" if bad else None
    matching = [job for job in found if all(job[key] == expected[key] for key in ("action", "state") if key in expected)]
    if expected["jobs"] == 0:
        return f"jobs were started: {found}" if found else None
    return None if len(matching) >= expected["jobs"] else f"expected {expected['jobs']} of {expected}, found {found}"


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
    from mae_sdk.cli.spec import check_spec
    from mae_skill.bundle import Bundle
    from mae_skill.errors import MaeError
    from mae_skill.overrides import flatten
    from mae_skill.reader import read_spec

    try:
        spec = read_spec(str(path))
        errors, _ = check_spec(Bundle.load(None), expected["action"], spec, {})
    except (MaeError, OSError) as error:
        return f"{path.name}: {error}"
    if errors:
        return f"{path.name}: {errors[0]}"
    flat = flatten(spec)
    wrong = {key: flat.get(key) for key, value in expected["has"].items() if flat.get(key) != value}
    return f"{path.name}: {wrong}" if wrong else None


def run_tasks(agent: str, only: str | None, timeout: float, keep: bool) -> bool:
    tasks = [task for task in json.loads((HERE / "tasks.json").read_text()) if only in (None, task["id"])]
    good = 0
    for task in tasks:
        folder = Path(tempfile.mkdtemp(prefix=f"eval-{task['id']}-"))
        prepare(task, folder)
        (folder / ".agent-output.txt").write_text(ask(agent, task["prompt"], folder, timeout))
        wrong = [problem for expected in task["expect"] if (problem := grade(expected, folder))]
        good += not wrong
        print(f"{'pass' if not wrong else 'FAIL'}  {task['id']}" + "".join(f"\n      {problem}" for problem in wrong), flush=True)
        if keep:
            print(f"      {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{good} of {len(tasks)} tasks passed")
    return good == len(tasks) and good > 0


def run_triggers(agent: str, timeout: float) -> bool:
    from mae_sdk.cli.bundle_check import front_matter

    description = front_matter(ROOT / "SKILL.md")["description"]
    queries = json.loads((HERE / "triggers.json").read_text())
    good = 0
    for item in queries:
        prompt = (
            f"A skill named {SKILL} is installed. Its description: {description}\n"
            f"Would you load it for the request below? Answer with {SKILL} or with none, and nothing else.\n\nRequest: {item['query']}"
        )
        fired = SKILL in ask(agent, prompt, Path(tempfile.gettempdir()), timeout)
        good += fired == item["fires"]
        print(f"{'pass' if fired == item['fires'] else 'FAIL'}  {item['query']}", flush=True)
    print(f"{good} of {len(queries)} triggers right")
    return good == len(queries)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=["tasks", "triggers"])
    parser.add_argument("--agent", required=True, help="the agent's command; {prompt} is replaced")
    parser.add_argument("--only", help="one task by id")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds per task")
    parser.add_argument("--keep", action="store_true", help="leave the folders")
    given = parser.parse_args()
    fine = (
        run_tasks(given.agent, given.only, given.timeout, given.keep) if given.set == "tasks" else run_triggers(given.agent, given.timeout)
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
