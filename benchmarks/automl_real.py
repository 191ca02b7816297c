"""Search over real fine-tuning, for ``benchmarks/automl.py``: digits, a small ViT, every trial a
real run of the packaged search space.

Five classes, 60 pictures each to train on and 200 each to judge by; the ViT is pretrained first on
1,000 others. The spec as given has a rate that is too low. A run is deterministic, and one that was
run before is not run again.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

EPOCHS = 9
CLASSES = 5
JUDGED = 200 * CLASSES
CURVES = Path(__file__).with_name("automl_curves.json")
"""The curves of the last recorded `search`es: ``search → seed → trial → {knobs, right}``; ``right``
counts the pictures of each epoch."""

_UNIFORM = {
    "train.optim.lr": {"low": 1e-9, "high": 1.0, "log": False},
    "train.optim.weight_decay": {"low": 0.0, "high": 1.0, "log": False},
}
SEARCHES: dict[str, dict[str, Any]] = {
    "ours": {"sampler": "tpe", "pruner": "none"},
    "ours_pruned": {"sampler": "tpe"},
    "random": {"sampler": "random", "pruner": "none"},
    "uniform_tpe": {"sampler": "tpe", "pruner": "none", "ranges": _UNIFORM},
}
"""ours: the packaged schema's space with TPE. ours_pruned: with the default pruner. random: the
same space, drawn at random.
uniform_tpe: TPE with the rate and the weight decay uniform over the schema's bounds."""


class Problem:
    """The data, the pretrained weights and the spec as given, in a folder of its own."""

    def __init__(self, root: Path) -> None:
        from mae_skill.bundle import Bundle
        from mae_skill.merge import merge

        from tests.support.images import write_imagefolder

        self.root, self.bundle, self.runs = root, Bundle.load(None), dict[str, list[int]]()
        data = write_imagefolder(root / "train", classes=CLASSES, per_class=60, size=32)
        val = write_imagefolder(
            root / "val", classes=CLASSES, per_class=JUDGED // CLASSES, size=32, start=100
        )
        more = write_imagefolder(
            root / "unlabelled", classes=CLASSES, per_class=200, size=32, start=300
        )
        augmentation = {
            "input_size": 32,
            "hflip": 0.0,
            "auto_aug": None,
            "min_scale": 0.8,
            "max_scale": 1.0,
        }
        spec: dict[str, Any] = {
            "model": {
                "arch": "vit_tiny_patch16",
                "embed_dim": 64,
                "depth": 3,
                "num_heads": 4,
                "decoder_embed_dim": 64,
                "num_classes": CLASSES,
            },
            "dataset": {
                "batch_size": 50,
                "num_workers_per_gpu": 0,
                "train_data_sources": str(more),
                "augmentation": augmentation,
            },
            "train": {"stage": "pretrain", "num_epochs": 5, "optim": {"lr": 2e-3}},
        }
        if self._run(spec, "pretrained") != 0:
            raise SystemExit("pretraining failed")
        weights = root / "pretrained" / "train" / "vit_tiny_patch16_latest.pth"
        spec["dataset"].update(
            train_data_sources=str(data), val_data_sources=str(val), batch_size=20
        )
        spec["train"] = {
            "stage": "finetune",
            "num_epochs": EPOCHS,
            "pretrained_model_path": str(weights),
            "optim": {"lr": 1e-4},
        }
        self.schema = self.bundle.schema("train")
        self.spec = merge(
            [("template", self.bundle.template("train")), ("spec file", spec)], self.schema
        ).spec

    def _run(self, spec: dict[str, Any], name: str) -> int:
        from mae_runners.__main__ import main as runner
        from mae_skill.reader import dump_yaml

        path = self.root / f"{name}.yaml"
        path.write_text(dump_yaml({**spec, "results_dir": str(self.root / name)}))
        return int(runner(["train", "-e", str(path)]))

    def curve(self, spec: dict[str, Any]) -> list[int]:
        """Pictures that a real run of ``spec`` gets right after each epoch; of one that diverges,
        up to there."""
        from mae_sdk.automl.objectives import course
        from mae_sdk.jobs.status import read_status

        key = json.dumps(spec, sort_keys=True)
        if key not in self.runs:
            self._run(spec, "trial")
            lines = read_status(self.root / "trial" / "status.json")
            found = course(lines, "ACC_all").values
            self.runs[key] = [round(value * JUDGED) for _, value in found if math.isfinite(value)]
            shutil.rmtree(self.root / "trial")
        return self.runs[key]


def search(problem: Problem, label: str, seed: int, trials: int) -> list[dict[str, Any]]:
    """One search: its trials as ``{knobs, right}``.

    A pruned trial's curve ends where the pruner ended it.
    """
    import optuna
    from mae_sdk.automl import setup, study
    from mae_sdk.automl.objectives import Objective
    from mae_sdk.automl.options import parse
    from mae_sdk.automl.space import SearchSpace
    from optuna.trial import TrialState

    options = parse({"seed": seed, "max_trials": trials, **SEARCHES[label]})
    space = SearchSpace.from_dict(
        setup.describe(problem.schema, problem.spec, {}, options, info=problem.bundle.info)["space"]
    )
    storage, objective = optuna.storages.InMemoryStorage(), Objective("ACC_all", "maximize")
    opened = study.open_study(
        storage, "real", [objective], space, problem.spec, options, max_epochs=EPOCHS
    )
    out = []
    for _ in range(trials):
        trial = opened.ask()
        parameters = space.suggest(trial, problem.spec)
        right, seen = problem.curve(space.apply(problem.spec, parameters)), 0
        pruned = False
        for epoch, count in enumerate(right, 1):
            seen = max(seen, count)
            trial.report(seen / JUDGED, epoch)
            if epoch < EPOCHS and trial.should_prune():
                right, pruned = right[:epoch], True
                break
        if (
            pruned or len(right) < EPOCHS
        ):  # a rate that diverges ends the run; the sampler learns to avoid it
            opened.tell(trial, state=TrialState.PRUNED)
        else:
            opened.tell(trial, seen / JUDGED)
        shown = {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in parameters.items()
        }
        out.append({"knobs": shown, "right": right})
    return out


def summary(found: dict[str, list[list[dict[str, Any]]]], trials: int) -> dict[str, Any]:
    """What the searches reached.

    Only trials that ran all their epochs count; differences carry a 95 % interval (Welch, normal).
    """

    def tops(run: list[dict[str, Any]]) -> list[int]:
        best, out = 0, []
        for trial in run:
            best = max(best, max(trial["right"])) if len(trial["right"]) == EPOCHS else best
            out.append(best)
        return out

    curves = {label: [tops(run) for run in runs] for label, runs in found.items()}
    known = max(curve[-1] for runs in curves.values() for curve in runs)
    seeds = max(len(runs) for runs in curves.values())
    out: dict[str, Any] = {
        "best_known": known / JUDGED,
        "trials": trials,
        "seeds": seeds,
        "epochs": EPOCHS,
        "judged_pictures": JUDGED,
    }
    for label, runs in curves.items():
        reached = [
            next((i + 1 for i, value in enumerate(curve) if value >= 0.99 * known), trials + 1)
            for curve in runs
        ]
        middle = statistics.median(reached)
        spent = sum(len(trial["right"]) for run in found[label] for trial in run)
        out[label] = {
            "trials_to_1_percent": middle if middle <= trials else f"> {trials}",
            "reached": f"{sum(number <= trials for number in reached)} of {len(runs)}",
            "best": round(statistics.mean(curve[-1] for curve in runs) / JUDGED, 4),
            "spread_of_best": round(statistics.stdev(curve[-1] for curve in runs) / JUDGED, 4),
            "best_after_half": round(
                statistics.mean(curve[trials // 2 - 1] for curve in runs) / JUDGED, 4
            ),
            "epochs": f"{spent / (len(runs) * trials * EPOCHS):.0%}",
        }
        if label != "ours" and "ours" in curves:
            for name, at in (
                ("ours_is_better_by", -1),
                ("ours_is_better_by_after_half", trials // 2 - 1),
            ):
                a, b = (
                    [curve[at] / JUDGED for curve in curves[which]] for which in ("ours", label)
                )
                error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
                out[label][name] = (
                    f"{statistics.mean(a) - statistics.mean(b):+.4f} ± {1.96 * error:.4f}"
                )
    return out


def real(trials: int = 20, seeds: int = 5, *, output: Path | None = None) -> dict[str, Any]:
    """All searches; the curves are written to `output`, as `CURVES` keeps them."""
    with tempfile.TemporaryDirectory() as folder:
        problem = Problem(Path(folder))
        found = {
            label: [search(problem, label, seed, trials) for seed in range(seeds)]
            for label in SEARCHES
        }
    if output:
        record(found, output)
    return summary(found, trials)


def record(found: dict[str, list[list[dict[str, Any]]]], output: Path) -> None:
    """Write the curves down, one trial a line."""
    runs = []
    for label, searches in found.items():
        inner = ",\n".join(
            "[\n" + ",\n".join(json.dumps(trial, separators=(",", ":")) for trial in run) + "]"
            for run in searches
        )
        runs.append(f"{json.dumps(label)}: [\n{inner}]")
    output.write_text("{\n" + ",\n".join(runs) + "\n}\n")
