"""``python benchmarks/automl.py [overhead] [concurrency] [quality] [pruning]``: what AutoML costs and what it finds.

overhead      controller and job machinery a trial, over a runner that does nothing
concurrency   four one-second trials at a time against one at a time, on waiting work
quality       trials to come within 1 % of the best known on two analytic surrogates whose optimum lies on a log scale:
              our search, random search on the same space, and TPE on a uniform scale over the schema's bounds
pruning       epochs saved at equal trials, and what it costs in the best value (paired seeds)
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mae_sdk.automl import controller, study
from mae_sdk.automl.options import Objective, parse
from mae_sdk.automl.space import Knob, SearchSpace

from tests.support.automl_toy import make_job

SEEDS = 5


def _run(job: Path) -> float:
    """Seconds that the controller of a job takes."""
    begun = time.perf_counter()
    code = controller.main([str(job)])
    if code != 0:
        raise SystemExit(f"the study ended with {code}")
    return time.perf_counter() - begun


def overhead() -> dict[str, Any]:
    """Seconds a trial: between two sizes of study, so that the start and the pictures at the end cancel out."""
    with tempfile.TemporaryDirectory() as folder:
        few = _run(make_job(Path(folder), "few", max_trials=4, spec={"num_epochs": 1}))
        many = _run(make_job(Path(folder), "many", max_trials=24, spec={"num_epochs": 1}))
    return {"seconds_per_trial": round((many - few) / 20, 3), "goal": "<= 1 s", "fixed_seconds": round(few - 4 * (many - few) / 20, 2)}


def _span(job: Path) -> float:
    """Seconds from the start of a study's first trial to the end of its last."""
    import optuna

    _run(job)
    trials = optuna.load_study(study_name=job.name, storage=study.open_storage(job / "automl", None)).trials
    starts, ends = [t.datetime_start for t in trials if t.datetime_start], [t.datetime_complete for t in trials if t.datetime_complete]
    return (max(ends) - min(starts)).total_seconds()


def concurrency() -> dict[str, Any]:
    """Speed-up of four trials at a time, each waiting one second, over twelve trials."""
    options: dict[str, Any] = {"max_trials": 12, "spec": {"num_epochs": 1, "sleep": 1.0}, "sampler": "random"}
    with tempfile.TemporaryDirectory() as folder:
        one, four = (_span(make_job(Path(folder), f"by{width}", concurrency=width, **options)) for width in (1, 4))
    return {"one_at_a_time_s": round(one, 2), "four_at_a_time_s": round(four, 2), "speed_up": round(one / four, 2), "goal": ">= 3.5"}


def _bowl(lr: float, decay: float) -> float:
    """Accuracy of a smooth bowl: lr 3e-4 on a log scale, decay 0.75."""
    return 0.9 - 0.08 * math.log10(lr / 3e-4) ** 2 - 0.8 * (decay - 0.75) ** 2


def _cliff(lr: float, decay: float) -> float:
    """Accuracy that falls off a cliff above lr 2e-3 (divergence), and leans on decay more where lr is high."""
    if lr > 2e-3:
        return 0.1
    high = math.log10(lr / 8e-4)
    return 0.9 - 0.07 * high**2 - 0.6 * (decay - 0.8 + 0.08 * high) ** 2


def _space(log: bool) -> SearchSpace:
    lr = (1e-5, 5e-3, True) if log else (1e-9, 1.0, False)  # the uniform search takes the schema's bounds, as the peers do
    return SearchSpace(
        (
            Knob("lr", "float", 1e-5, low=lr[0], high=lr[1], log=lr[2]),
            Knob("decay", "float", 0.3, low=0.3, high=1.0),
        )
    )


def _study(space: SearchSpace, sampler: str, seed: int, trials: int, **options: Any) -> tuple[Any, Any]:
    import optuna

    parsed = parse({"sampler": sampler, "seed": seed, "max_trials": trials, **options})
    spec = {"lr": 1e-5, "decay": 0.3}
    opened = study.open_study(
        optuna.storages.InMemoryStorage(),
        f"s{seed}",
        [Objective("acc", "maximize")],
        space,
        spec,
        parsed,
        max_epochs=options.get("max_epochs"),
    )
    return opened, spec


def _trials_to_best(surface: Callable[[float, float], float], space: SearchSpace, sampler: str, seed: int, limit: int = 200) -> int:
    """Trials until the best is within 1 % of 0.9; ``limit`` where it never is."""
    opened, spec = _study(space, sampler, seed, 40)
    for count in range(1, limit + 1):
        trial = opened.ask()
        drawn = space.suggest(trial, spec)
        value = surface(drawn["lr"], drawn["decay"])
        opened.tell(trial, value)
        if value >= 0.9 * 0.99:
            return count
    return limit


def quality() -> dict[str, Any]:
    """Median trials over the seeds; the spec as given is a bad one."""
    out: dict[str, Any] = {}
    for name, surface in (("bowl", _bowl), ("cliff", _cliff)):
        out[name] = {
            label: statistics.median(_trials_to_best(surface, _space(log), sampler, seed) for seed in range(15))
            for label, log, sampler in (
                ("ours", True, "tpe"),
                ("cmaes", True, "cmaes"),
                ("random", True, "random"),
                ("uniform_tpe", False, "tpe"),
            )
        }
    return out


def _curve(lr: float, decay: float, epoch: int, epochs: int, seed: int) -> float:
    """A learning curve: accuracy rises to the bowl's value; a low rate rises later; noise of half a point."""
    import random

    speed = 2.0 + 2.5 * max(0.0, min(1.0, math.log10(lr / 1e-5) / 2.7))
    noise = random.Random(f"{lr}{decay}{epoch}{seed}").gauss(0, 0.005)
    return max(0.05, _bowl(lr, decay)) * (1 - math.exp(-speed * epoch / epochs * 1.6)) + noise


def pruning(trials: int = 27, epochs: int = 27) -> dict[str, Any]:
    """Epochs saved and change of the best, for every pruner, on the same seeds. Trials run one by one, best-so-far is what is compared."""
    out: dict[str, Any] = {}
    best: dict[str, list[float]] = {}
    for pruner in ("none", "successive_halving", "hyperband", "median"):
        spent, tops = [], []
        for seed in range(SEEDS):
            opened, spec = _study(_space(True), "tpe", seed, trials, pruner=pruner, max_epochs=epochs)
            used, top = 0, 0.0
            for _ in range(trials):
                trial = opened.ask()
                drawn = _space(True).suggest(trial, spec)
                high = -1.0
                for epoch in range(1, epochs + 1):
                    high = max(high, _curve(drawn["lr"], drawn["decay"], epoch, epochs, seed))
                    used += 1
                    trial.report(high, epoch)
                    if epoch < epochs and trial.should_prune():
                        opened.tell(trial, state=_pruned())
                        break
                else:
                    opened.tell(trial, high)
                top = max(top, high)
            spent.append(used)
            tops.append(top)
        best[pruner] = tops
        out[pruner] = {
            "epochs_saved": f"{1 - sum(spent) / (SEEDS * trials * epochs):.0%}",
            "best": round(statistics.mean(tops), 4),
            "change_of_best": round(statistics.mean(a - b for a, b in zip(tops, best["none"], strict=True)), 4),
        }
    out["noise_of_best"] = round(statistics.stdev(best["none"]), 4)
    return out


def _pruned() -> Any:
    from optuna.trial import TrialState

    return TrialState.PRUNED


def main() -> int:
    """Run the parts named on the command line, or all; print one JSON object."""
    parts = {"overhead": overhead, "concurrency": concurrency, "quality": quality, "pruning": pruning}
    wanted = sys.argv[1:] or list(parts)
    figures: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import contextlib

        with contextlib.redirect_stdout(sys.stderr):
            for name in wanted:
                figures[name] = parts[name]()
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
