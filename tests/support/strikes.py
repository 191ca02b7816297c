"""``python -m tests.support.strikes BASE RUNS SEED``: training runs that are struck at random.

This process only imports; every run is a fork of it, so that a run costs half a second. A strike
is SIGKILL or SIGTERM at a random moment, or at the moment when a file of a checkpoint appears. A
run is taken up again until it is done, and compared with one that was left alone. The last line of
the output is a JSON object: ``runs, strikes`` (place and signal → how many hit), ``different``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.training import curve, digits_folder, read, spec, status_lines, train

STRIKES = 6
"""A run at most; then it may finish."""

PRETRAIN: dict[str, Any] = {
    "train__num_epochs": 3,
    "train__ema_decay": 0.9,
    "train__clip_grad_norm": 1.0,
    "train__optim__lr_scheduler": "cosine",
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "epochs": ("pretrain", PRETRAIN),
    "steps": (
        "finetune",
        {
            "train__num_epochs": 3,
            "train__checkpoint_interval": 2,
            "train__checkpoint_interval_unit": "step",
            "train__optim__lr_scheduler": "cosine",
            "model__drop_path_rate": 0.2,
        },
    ),
    "few": ("pretrain", {**PRETRAIN, "train__keep_checkpoints": 1}),
}


def fork(made: dict[str, Any]) -> int:
    """Start a run; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        with (Path(made["results_dir"]).parent / "log.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            code = train(made)
    finally:
        os._exit(code)


def parts(folder: Path) -> set[str]:
    """The names that a strike can wait for."""
    try:
        return {path.name for path in (folder / "train").iterdir()}
    except OSError:
        return set()


def _appears(folder: Path, pid: int, wanted: Callable[[str], bool], count: int) -> bool:
    """Wait until so many new names have appeared; False where the run ended first."""
    known = parts(folder)
    while True:
        new = {name for name in parts(folder) - known if wanted(name)}
        known |= new
        count -= len(new)
        if count <= 0:
            return True
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.0003)


PLACES: dict[str, Callable[[str], bool]] = {
    "writing": lambda name: name.startswith(".model_epoch"),
    "written": lambda name: name.startswith("model_epoch"),
    "listing": lambda name: name.startswith(".checkpoints.json"),
    "pointing": lambda name: "_latest" in name,
}


def strike(made: dict[str, Any], chance: random.Random, seconds: float) -> tuple[str | None, int]:
    """Start the run and strike it once; the place that was hit, or None, and the exit code."""
    folder = Path(made["results_dir"])
    place = chance.choice(["anywhere", *PLACES])
    number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    count, delay = chance.choice([1, 1, 2]), chance.choice([0.0, 0.0, chance.random() * 0.004])
    moment = (0.2 + 0.8 * chance.random()) * seconds
    pid = fork(made)
    if place == "anywhere":
        time.sleep(moment)
        struck = True
    else:
        struck = _appears(folder, pid, PLACES[place], count)
        time.sleep(delay)
    if struck:
        os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    hit = struck and code in (-signal.SIGKILL, -signal.SIGTERM, 75)
    return (f"{place} {signal.Signals(number).name}" if hit else None), code


def difference(one: Path, other: Path) -> str | None:
    """What tells two finished runs apart: nothing, if every field is equal to the bit."""
    from mae_runners.models import checkpoint

    from tests.training.test_killed import assert_equal

    def epochs(folder: Path) -> dict[int, Any]:
        lines = (line for line in status_lines(folder) if "kpi" in line and "epoch" in line)
        return {line["epoch"]: line["kpi"] for line in lines}

    def listed(folder: Path) -> list[tuple[Any, ...]]:
        found = read(folder, "train/checkpoints.json")["checkpoints"]
        return [(e["epoch"], e["step"], e["metrics"]) for e in found if "_step_" not in e["file"]]

    try:
        for name in ("train_loss_step", "lr", "grad_norm", "train_loss"):
            assert curve(one, name) == curve(other, name), name
        assert epochs(one) == epochs(other), "epochs of status.json"
        assert listed(one) == listed(other), "checkpoints.json"
        final = "train/model_epoch_002.pth"
        assert_equal(checkpoint.read(one / final), checkpoint.read(other / final))
        left = [str(path) for path in other.rglob(".*") if path.name.endswith(".part")]
        assert not left, left
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None


def main(base: Path, runs: int, seed: int) -> dict[str, Any]:
    """Strike `runs` runs."""
    data = digits_folder(base / "digits", per_class=4)
    chance, hits, different = random.Random(seed), Counter[str](), []
    calm: dict[str, tuple[Path, float]] = {}
    for kind, (stage, changes) in KINDS.items():
        made = spec(data, base / f"calm-{kind}" / "job", stage, **changes)
        Path(made["results_dir"]).parent.mkdir(parents=True)
        begun = time.monotonic()
        assert os.waitstatus_to_exitcode(os.waitpid(fork(made), 0)[1]) == 0
        calm[kind] = Path(made["results_dir"]), time.monotonic() - begun

    for number in range(runs):
        kind = list(KINDS)[number % len(KINDS)]
        stage, changes = KINDS[kind]
        made = spec(data, base / f"run-{number}" / "job", stage, **changes)
        Path(made["results_dir"]).parent.mkdir(parents=True)
        code, struck = 1, []
        for _ in range(STRIKES):
            place, code = strike(made, chance, calm[kind][1])
            struck += [place] if place else []
            if code == 0:
                break
        if code != 0:
            code = os.waitstatus_to_exitcode(os.waitpid(fork(made), 0)[1])
        hits.update(struck)
        problem: str | None = f"exit {code}"
        if code == 0:
            problem = difference(calm[kind][0], Path(made["results_dir"]))
        if problem is not None:
            different.append({"run": number, "kind": kind, "struck": struck, "problem": problem})
        print(f"run {number} ({kind}): {struck}, {problem or 'equal'}", file=sys.stderr, flush=True)
    return {"runs": runs, "strikes": dict(hits), "different": different}


if __name__ == "__main__":
    import importlib

    import torch
    from mae_runners.warm import PRELOAD

    for name in PRELOAD:
        importlib.import_module(name)
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
