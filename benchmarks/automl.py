"""``python benchmarks/automl.py [overhead] [training] [concurrency] [quality] [real] [pruning]``: what AutoML costs and what it finds.

overhead      controller and job machinery a trial, over a runner that does nothing
training      a real fine-tuning trial through the warm runner, against the same run in a process that has everything imported
concurrency   four one-second trials at a time against one at a time, on waiting work
quality       trials to come within 1 % of the best known on analytic surrogates whose optimum lies on a log scale (two on which
              defaults were chosen, two held out): our search, random search on the same space, and TPE on a uniform scale over the schema's bounds
real          the same on real fine-tuning of digits: our search, random search, and TPE with uniform rates
pruning       epochs saved at equal trials, and what it costs in the best value (paired seeds)
"""

from __future__ import annotations

import json
import math
import shutil
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


def training() -> dict[str, Any]:
    """Seconds that a trial takes beyond its training: between two sizes of study, less the same run where torch is loaded already."""
    import contextlib
    import os

    from mae_runners.__main__ import main as runner
    from mae_sdk import Skill

    from tests.support.images import write_imagefolder

    small = {"model.arch": "vit_tiny_patch16", "model.embed_dim": 48, "model.depth": 2, "model.num_heads": 3}
    spec = {**small, "train.stage": "finetune", "train.num_epochs": 2, "model.num_classes": 4, "dataset.augmentation.input_size": 32}
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
                automl={"max_trials": trials, "pruner": "none", "concurrency": 1, "sampler": "random"},
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
                if runner(["train", "-e", str(child / "spec.yaml"), f"results_dir={root / f'alone{number}'}"]) != 0:
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


def _ridge(lr: float, decay: float) -> float:
    """Held out: a slanted ridge, on which lr and decay make up for each other; its top is at lr 1e-4 and decay 0.6."""
    along = math.log10(lr / 1e-4)
    return 0.9 - 0.12 * (along + 2 * (decay - 0.6)) ** 2 - 0.04 * along**2


def _shelf(lr: float, decay: float) -> float:
    """Held out: a shelf nearly everywhere, and a small basin above it at lr 2e-3 and decay 0.9."""
    return 0.75 + 0.15 * math.exp(-(math.log10(lr / 2e-3) ** 2) / 0.15 - (decay - 0.9) ** 2 / 0.04)


SURFACES = {"bowl": _bowl, "cliff": _cliff, "held_out_ridge": _ridge, "held_out_shelf": _shelf}
"""Defaults (start-up trials of TPE, the pruner) were chosen on the first two; on the held-out ones nothing was chosen."""


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
    for name, surface in SURFACES.items():
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


def _fine_tune(root: Path, spec: dict[str, Any], name: str) -> float:
    """Best validation accuracy of one real run, in this process."""
    from mae_runners.__main__ import main as runner
    from mae_sdk.automl.metrics import best, epochs
    from mae_sdk.jobfolder.status import read_status
    from mae_skill.reader import dump_yaml

    path = root / f"{name}.yaml"
    path.write_text(dump_yaml({**spec, "results_dir": str(root / name)}))
    if runner(["train", "-e", str(path)]) != 0:
        return 0.0  # a rate that diverges ends the run
    found = best(epochs(read_status(root / name / "status.json"), "ACC_all"), Objective("ACC_all", "maximize"))
    shutil.rmtree(root / name)
    return found[1] if found else 0.0


def real(trials: int = 12, seeds: int = 3) -> dict[str, Any]:
    """Search on real fine-tuning: digits, a small ViT pretrained first, every trial a real run of the default search space.

    ours: the packaged schema's space with TPE. random: the same space. uniform_tpe: TPE with lr and weight decay uniform on [0, 1].
    ``trials_to_1_percent``: median trials until within 1 % of the best accuracy that any run of any search reached.
    """
    from mae_sdk.automl import setup
    from mae_sdk.automl.space import SearchSpace as Space
    from mae_skill.bundle import Bundle
    from mae_skill.merge import merge

    from tests.support.images import write_imagefolder

    bundle = Bundle.load(None)
    schema = bundle.schema("train")
    uniform = {
        "train.optim.lr": {"low": 1e-9, "high": 1.0, "log": False},
        "train.optim.weight_decay": {"low": 0.0, "high": 1.0, "log": False},
    }
    searches = {
        "ours": {"sampler": "tpe"},
        "random": {"sampler": "random"},
        "uniform_tpe": {"sampler": "tpe", "ranges": uniform},
    }
    curves: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_imagefolder(root / "train", classes=10, per_class=30, size=32)
        val = write_imagefolder(root / "val", classes=10, per_class=40, size=32, start=100)
        more = write_imagefolder(root / "unlabelled", classes=10, per_class=100, size=32, start=200)
        small: dict[str, Any] = {
            "model": {"arch": "vit_tiny_patch16", "embed_dim": 64, "depth": 4, "num_heads": 4, "decoder_embed_dim": 64, "num_classes": 10},
            "dataset": {"batch_size": 25, "num_workers_per_gpu": 0, "train_data_sources": str(more)},
            "train": {"stage": "pretrain", "num_epochs": 8, "optim": {"lr": 1e-3}},
        }
        small["dataset"]["augmentation"] = {"input_size": 32, "hflip": 0.0, "auto_aug": None, "min_scale": 0.6, "max_scale": 1.0}
        path = root / "pretrain.yaml"
        from mae_runners.__main__ import main as runner
        from mae_skill.reader import dump_yaml

        path.write_text(dump_yaml({**small, "results_dir": str(root / "pretrained")}))
        if runner(["train", "-e", str(path)]) != 0:
            raise SystemExit("pretraining failed")
        weights = root / "pretrained" / "train" / "vit_tiny_patch16_latest.pth"
        small["dataset"].update(train_data_sources=str(data), val_data_sources=str(val))
        small["train"] = {"stage": "finetune", "num_epochs": 4, "pretrained_model_path": str(weights), "optim": {"lr": 2e-4}}
        spec = merge([("template", bundle.template("train")), ("spec file", small)], schema).spec
        for label, options in searches.items():
            curves[label] = []
            for seed in range(seeds):
                parsed = parse({"seed": seed, "max_trials": trials, "pruner": "none", **options})
                space = Space.from_dict(setup.describe(schema, spec, {}, parsed, info=bundle.info)["space"])
                import optuna

                storage = optuna.storages.InMemoryStorage()
                opened = study.open_study(storage, "real", [Objective("ACC_all", "maximize")], space, spec, parsed, max_epochs=None)
                top, curve = 0.0, []
                for number in range(trials):
                    trial = opened.ask()
                    value = _fine_tune(root, space.apply(spec, space.suggest(trial, spec)), f"{label}{seed}-{number}")
                    opened.tell(trial, value)
                    top = max(top, value)
                    curve.append(top)
                curves[label].append(curve)
    known = max(curve[-1] for found in curves.values() for curve in found)
    out: dict[str, Any] = {"best_known": round(known, 4), "trials": trials, "seeds": seeds}
    for label, found in curves.items():
        reached = [next((i + 1 for i, value in enumerate(curve) if value >= 0.99 * known), trials + 1) for curve in found]
        out[label] = {
            "trials_to_1_percent": statistics.median(reached),
            "reached": f"{sum(number <= trials for number in reached)} of {seeds}",
            "best": round(statistics.mean(curve[-1] for curve in found), 4),
        }
    return out


def _curve(surface: Callable[[float, float], float], lr: float, decay: float, epoch: int, epochs: int, seed: int) -> float:
    """A learning curve: accuracy rises to the surface's value; a low rate rises later; noise of half a point."""
    import random

    speed = 2.0 + 2.5 * max(0.0, min(1.0, math.log10(lr / 1e-5) / 2.7))
    noise = random.Random(f"{lr}{decay}{epoch}{seed}").gauss(0, 0.005)
    return max(0.05, surface(lr, decay)) * (1 - math.exp(-speed * epoch / epochs * 1.6)) + noise


def pruning(trials: int = 27, epochs: int = 27) -> dict[str, Any]:
    """Epochs saved and change of the best, for every pruner, on the same seeds. Trials run one by one, best-so-far is what is compared."""
    return {name: _prune(surface, trials, epochs) for name, surface in SURFACES.items() if surface in (_bowl, _ridge)}


def _prune(surface: Callable[[float, float], float], trials: int, epochs: int) -> dict[str, Any]:
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
                    high = max(high, _curve(surface, drawn["lr"], drawn["decay"], epoch, epochs, seed))
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
    parts = {"overhead": overhead, "training": training, "concurrency": concurrency, "quality": quality, "real": real, "pruning": pruning}
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
