"""``python benchmarks/automl.py [overhead] [training] [concurrency] [quality] [real] [pruning]``:
what AutoML costs and what it finds.

overhead      controller and job machinery per trial, over a runner that does nothing
training      a real fine-tuning trial through the warm runner, against the same run in a process
              that has everything imported
concurrency   four one-second trials at a time against one at a time, on waiting work
quality       trials to come within 1 % of the best known on analytic surrogates whose optimum lies
              on a log scale (two on which defaults were chosen, two held out): our search, random
              search on the same space, and TPE on a uniform scale over the schema's bounds
real          the same on real fine-tuning of digits: our search, random search, and TPE with
              uniform rates (``automl_real.py``; 35 minutes)
pruning       epochs saved at equal trials, and what it costs in the best value (paired seeds), on
              the surfaces and on recorded real curves
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
from mae_sdk.automl.objectives import Objective
from mae_sdk.automl.options import parse
from mae_sdk.automl.space import Parameter, SearchSpace

from benchmarks import automl_real
from tests.support.automl_toy import make_job

SEEDS = 5
PAIRED = 24
"""Seeds of `pruning`; the goal speaks of 5, whose mean is shown beside."""


def _run(job: Path) -> float:
    """Seconds that the controller of a job takes."""
    begun = time.perf_counter()
    code = controller.main([str(job)])
    if code != 0:
        raise SystemExit(f"the study ended with {code}")
    return time.perf_counter() - begun


def overhead() -> dict[str, Any]:
    """Seconds a trial: between two sizes of study, so that the start and the pictures at the end
    cancel out."""
    with tempfile.TemporaryDirectory() as folder:
        few = _run(make_job(Path(folder), "few", max_trials=4, spec={"num_epochs": 1}))
        many = _run(make_job(Path(folder), "many", max_trials=24, spec={"num_epochs": 1}))
    return {
        "seconds_per_trial": round((many - few) / 20, 3),
        "goal": "<= 1 s",
        "fixed_seconds": round(few - 4 * (many - few) / 20, 2),
    }


def training() -> dict[str, Any]:
    """Seconds that a trial takes beyond its training: between two sizes of study, less the same run
    where torch is loaded already."""
    import contextlib
    import os

    from mae_runners.__main__ import main as runner
    from mae_sdk import Skill

    from tests.support.images import write_imagefolder

    small = {
        "model.arch": "vit_tiny_patch16",
        "model.embed_dim": 48,
        "model.depth": 2,
        "model.num_heads": 3,
    }
    spec = {
        **small,
        "train.stage": "finetune",
        "train.num_epochs": 2,
        "model.num_classes": 4,
        "dataset.augmentation.input_size": 32,
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_imagefolder(root / "train", classes=4, per_class=25, size=32)
        val = write_imagefolder(root / "val", classes=4, per_class=10, size=32, start=25)
        seconds = {}
        for trials in (2, 8):
            begun = time.perf_counter()
            job = Skill().create_job(
                "train",
                train_datasets=str(data),
                eval_dataset=str(val),
                results_root=str(root / f"results{trials}"),
                spec_overrides={**spec, "dataset.batch_size": 20, "dataset.num_workers_per_gpu": 0},
                automl={
                    "max_trials": trials,
                    "pruner": "none",
                    "concurrency": 1,
                    "sampler": "random",
                },
            )
            job.wait(600)
            seconds[trials] = time.perf_counter() - begun
        each = (seconds[8] - seconds[2]) / 6
        alone = []
        os.environ.pop("MAE_JOB_DIR", None)
        for number in range(7):  # the same trials; the first one pays for what is loaded once
            child = next(iter(sorted((root / "results8").glob(f"*.t{number + 1:03d}"))))
            begun = time.perf_counter()
            with contextlib.redirect_stdout(sys.stderr):
                if (
                    runner(
                        [
                            "train",
                            "-e",
                            str(child / "spec.yaml"),
                            f"results_dir={root / f'alone{number}'}",
                        ]
                    )
                    != 0
                ):
                    raise SystemExit("the run alone failed")
            alone.append(time.perf_counter() - begun)
    itself = statistics.mean(alone[1:])
    return {
        "trial_s": round(each, 2),
        "training_itself_s": round(itself, 2),
        "overhead_s": round(each - itself, 2),
        "goal": "<= 1 s",
        "first_result_s": round(seconds[2] - 2 * each, 2),
    }


def _span(job: Path) -> float:
    """Seconds from the start of a study's first trial to the end of its last."""
    import optuna

    _run(job)
    trials = optuna.load_study(
        study_name=job.name, storage=study.open_storage(job / "automl", None)
    ).trials
    starts, ends = (
        [t.datetime_start for t in trials if t.datetime_start],
        [t.datetime_complete for t in trials if t.datetime_complete],
    )
    return (max(ends) - min(starts)).total_seconds()


def concurrency() -> dict[str, Any]:
    """Speed-up of four trials at a time, each waiting one second, over twelve trials."""
    options: dict[str, Any] = {
        "max_trials": 12,
        "spec": {"num_epochs": 1, "sleep": 1.0},
        "sampler": "random",
    }
    with tempfile.TemporaryDirectory() as folder:
        one, four = (
            _span(make_job(Path(folder), f"by{width}", concurrency=width, **options))
            for width in (1, 4)
        )
    return {
        "one_at_a_time_s": round(one, 2),
        "four_at_a_time_s": round(four, 2),
        "speed_up": round(one / four, 2),
        "goal": ">= 3.5",
    }


def _bowl(lr: float, decay: float) -> float:
    """Accuracy of a smooth bowl: lr 3e-4 on a log scale, decay 0.75."""
    return 0.9 - 0.08 * math.log10(lr / 3e-4) ** 2 - 0.8 * (decay - 0.75) ** 2


def _cliff(lr: float, decay: float) -> float:
    """Accuracy that falls off a cliff above lr 2e-3 (divergence), and leans on decay more where lr
    is high."""
    if lr > 2e-3:
        return 0.1
    high = math.log10(lr / 8e-4)
    return 0.9 - 0.07 * high**2 - 0.6 * (decay - 0.8 + 0.08 * high) ** 2


def _ridge(lr: float, decay: float) -> float:
    """Held out: a slanted ridge, on which lr and decay make up for each other; its top is at lr
    1e-4 and decay 0.6."""
    along = math.log10(lr / 1e-4)
    return 0.9 - 0.12 * (along + 2 * (decay - 0.6)) ** 2 - 0.04 * along**2


def _shelf(lr: float, decay: float) -> float:
    """Held out: a shelf nearly everywhere, and a small basin above it at lr 2e-3 and decay 0.9."""
    return 0.75 + 0.15 * math.exp(-(math.log10(lr / 2e-3) ** 2) / 0.15 - (decay - 0.9) ** 2 / 0.04)


SURFACES = {"bowl": _bowl, "cliff": _cliff, "held_out_ridge": _ridge, "held_out_shelf": _shelf}
"""Defaults (start-up trials of TPE, the rungs) were chosen on the first two; on the held-out ones
only the share that passes the gate."""


def _space(log: bool) -> SearchSpace:
    lr = (
        (1e-5, 5e-3, True) if log else (1e-9, 1.0, False)
    )  # the uniform search takes the schema's bounds, as the peers do
    return SearchSpace(
        (
            Parameter("lr", "float", 1e-5, low=lr[0], high=lr[1], log=lr[2]),
            Parameter("decay", "float", 0.3, low=0.3, high=1.0),
        )
    )


def _study(
    space: SearchSpace, sampler: str, seed: int, trials: int, **options: Any
) -> tuple[Any, Any]:
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


def _trials_to_best(
    surface: Callable[[float, float], float],
    space: SearchSpace,
    sampler: str,
    seed: int,
    limit: int = 200,
) -> int:
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
    for name, surface in SURFACES.items():
        out[name] = {
            label: statistics.median(
                _trials_to_best(surface, _space(log), sampler, seed) for seed in range(15)
            )
            for label, log, sampler in (
                ("ours", True, "tpe"),
                ("cmaes", True, "cmaes"),
                ("random", True, "random"),
                ("uniform_tpe", False, "tpe"),
            )
        }
    return out


def _curve(
    surface: Callable[[float, float], float],
    lr: float,
    decay: float,
    epoch: int,
    epochs: int,
    seed: int,
) -> float:
    """A learning curve: accuracy rises to the surface's value; a low rate rises later; noise of
    half a point."""
    import random

    speed = 2.0 + 2.5 * max(0.0, min(1.0, math.log10(lr / 1e-5) / 2.7))
    noise = random.Random(f"{lr}{decay}{epoch}{seed}").gauss(0, 0.005)
    return max(0.05, surface(lr, decay)) * (1 - math.exp(-speed * epoch / epochs * 1.6)) + noise


def _learned(
    surface: Callable[[float, float], float], lr: float, decay: float, epochs: int
) -> float:
    """What `_curve` ends at without its noise: what training with these parameters gives."""
    speed = 2.0 + 2.5 * max(0.0, min(1.0, math.log10(lr / 1e-5) / 2.7))
    return max(0.05, surface(lr, decay)) * (1 - math.exp(-speed * 1.6))


PRUNED_BY = ("none", "successive_halving", "hyperband", "median")


def pruning(trials: int = 27, epochs: int = 27) -> dict[str, Any]:
    """Epochs saved at equal trials and what that costs, for every pruner on the same seeds; trials
    run one by one.

    ``change_of_best`` compares the best figure of a search, a maximum over noisy epochs, of which a
    search that prunes draws fewer. ``change_of_value`` compares what the winning parameters are
    worth without noise. Both with a 95 % interval over paired seeds.
    """
    out: dict[str, Any] = {
        "trials": trials,
        "epochs": epochs,
        "seeds": PAIRED,
        "goal": ">= 40 % saved, and a mean change of the best above -noise_of_best",
    }
    for name, surface in SURFACES.items():
        out[name] = _prune(surface, trials, epochs)
    out["real_curves"] = _replay()
    return out


def _prune(surface: Callable[[float, float], float], trials: int, epochs: int) -> dict[str, Any]:
    found = {
        pruner: [_pruned_search(surface, pruner, seed, trials, epochs) for seed in range(PAIRED)]
        for pruner in PRUNED_BY
    }
    whole = found["none"]
    out: dict[str, Any] = {
        "noise_of_best": round(statistics.stdev(best for _, best, _ in whole), 4)
    }
    for pruner in PRUNED_BY[1:]:
        pairs = list(zip(found[pruner], whole, strict=True))
        best = [a[1] - b[1] for a, b in pairs]
        saved = 1 - sum(spent for spent, _, _ in found[pruner]) / (PAIRED * trials * epochs)
        out[pruner] = {
            "meets_goal": saved >= 0.4 and statistics.mean(best) >= -out["noise_of_best"],
            "epochs_saved": f"{saved:.1%}",
            "change_of_best": _interval(best),
            "change_of_value": _interval([a[2] - b[2] for a, b in pairs]),
            "change_of_best_first_5_seeds": round(statistics.mean(best[:SEEDS]), 4),
        }
    return out


def _interval(values: list[float]) -> str:
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.4f} ± {half:.4f}"


def _pruned_search(
    surface: Callable[[float, float], float], pruner: str, seed: int, trials: int, epochs: int
) -> tuple[int, float, float]:
    """Epochs spent, the best figure of a trial that was not pruned, and what that trial's
    parameters are worth without noise."""
    opened, spec = _study(_space(True), "tpe", seed, trials, pruner=pruner, max_epochs=epochs)
    used, done = 0, []
    for _ in range(trials):
        trial = opened.ask()
        drawn = _space(True).suggest(trial, spec)
        high = -1.0
        for epoch in range(1, epochs + 1):
            high = max(high, _curve(surface, drawn["lr"], drawn["decay"], epoch, epochs, seed))
            used += 1
            trial.report(high, epoch)
            if epoch < epochs and trial.should_prune():
                opened.tell(trial, state=_pruned())
                break
        else:
            opened.tell(trial, high)
            done.append((high, _learned(surface, drawn["lr"], drawn["decay"], epochs)))
    return used, *max(done)


def _replay(draws: int = 200, trials: int = 20) -> dict[str, Any]:
    """Pruners over curves of real fine-tuning: the runs of each recorded random search in many
    orders, and TPE's as they came.

    A replay cannot gain: the best is among the same trials. ``best_kept``: how often it was the
    very one.
    """
    import random

    recorded = json.loads(automl_real.CURVES.read_text())
    pool = [trial["right"] for run in recorded["random"] for trial in run[1:]]
    given = recorded["random"][0][0]["right"]
    draw = random.Random(0)
    orders = {
        "random_orders": [[given, *draw.sample(pool, trials - 1)] for _ in range(draws)],
        "tpe_as_it_came": [[trial["right"] for trial in run] for run in recorded["ours"]],
    }
    out: dict[str, Any] = {
        "noise_of_best": round(
            statistics.stdev(
                max(max(right, default=0) for right in order) for order in orders["random_orders"]
            )
            / automl_real.JUDGED,
            4,
        )
    }
    for name, runs in orders.items():
        out[name] = {}
        for pruner in PRUNED_BY[1:]:
            spent, losses = 0, []
            for order in runs:
                used, best = _replayed(order, pruner)
                spent += used / sum(len(right) for right in order)
                losses.append(
                    (best - max(max(right) for right in order if len(right) == automl_real.EPOCHS))
                    / automl_real.JUDGED
                )
            out[name][pruner] = {
                "epochs_saved": f"{1 - spent / len(runs):.1%}",
                "change_of_best": _interval(losses),
                "best_kept": f"{sum(loss == 0 for loss in losses) / len(losses):.0%}",
            }
    return out


def _replayed(order: list[list[int]], pruner: str) -> tuple[int, int]:
    """Epochs spent and the best of the trials that were not pruned."""
    opened, spec = _study(
        _space(True), "random", 0, len(order), pruner=pruner, max_epochs=automl_real.EPOCHS
    )
    used, best = 0, 0
    for right in order:
        trial = opened.ask()
        _space(True).suggest(trial, spec)
        ended = len(right) < automl_real.EPOCHS
        for epoch in range(1, len(right) + 1):
            used += 1
            trial.report(max(right[:epoch]) / automl_real.JUDGED, epoch)
            if epoch < automl_real.EPOCHS and trial.should_prune():
                ended = True
                break
        if ended:
            opened.tell(trial, state=_pruned())
        else:
            opened.tell(trial, max(right) / automl_real.JUDGED)
            best = max(best, *right)
    return used, best


def _pruned() -> Any:
    from optuna.trial import TrialState

    return TrialState.PRUNED


def main() -> int:
    """Run the parts named on the command line, or all; print one JSON object.

    ``-o FILE`` writes the curves of ``real``, from which ``pruning`` is computed.
    """
    words = sys.argv[1:]
    output = None
    if "-o" in words:
        place = words.index("-o")
        output = Path(words[place + 1])
        del words[place : place + 2]
    parts = {
        "overhead": overhead,
        "training": training,
        "concurrency": concurrency,
        "quality": quality,
        "real": lambda: automl_real.real(output=output),
        "pruning": pruning,
    }
    wanted = words or list(parts)
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
