"""What a study leaves in ``automl/``: trials.csv, best_spec.yaml, best.json, importance, and pictures.

``best.json`` is written after every trial that ends, so that the best child can be asked for while the study runs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_sdk import files
from mae_sdk.automl.options import Objective
from mae_sdk.automl.space import SearchSpace
from mae_sdk.automl.study import FAILED, LOST
from mae_sdk.jobs.outputs import BEST_NAME

if TYPE_CHECKING:
    import optuna


def _complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _best(study: optuna.Study, objectives: Sequence[Objective]) -> optuna.trial.FrozenTrial | None:
    """The best complete trial, the earliest of equals."""
    if not _complete(study):
        return None
    front = study.best_trials if len(objectives) > 1 else _complete(study)
    sign = -1.0 if objectives[0].direction == "maximize" else 1.0
    return min(front, key=lambda trial: (sign * trial.values[0], trial.number))


def write(
    study: optuna.Study,
    folder: Path,
    space: SearchSpace,
    objectives: Sequence[Objective],
    root: Path,
) -> None:
    """Write the tables and the best child; cheap, called after every trial."""
    names = [knob.name for knob in space.knobs]
    front = (
        {trial.number for trial in study.best_trials}
        if len(objectives) > 1 and _complete(study)
        else set()
    )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "trial",
            "state",
            *(o.metric for o in objectives),
            "best_epoch",
            "epochs",
            "seconds",
            *names,
            "child",
            "reason",
        ]
        + (["pareto"] if len(objectives) > 1 else [])
    )
    for trial in study.get_trials(deepcopy=False):
        attrs = trial.user_attrs
        state = "LOST" if LOST in attrs else "FAILED" if FAILED in attrs else trial.state.name
        seconds = (
            (trial.datetime_complete - trial.datetime_start).total_seconds()
            if trial.datetime_complete and trial.datetime_start
            else ""
        )
        values = list(trial.values or [""] * len(objectives))
        params = {**trial.params, **attrs.get("exact", {})}
        row = [
            trial.number,
            state,
            *values,
            attrs.get("best_epoch", ""),
            attrs.get("epochs", ""),
            seconds,
            *(params.get(name, "") for name in names),
        ]
        table.writerow(
            [
                *row,
                attrs.get("child", ""),
                attrs.get(FAILED) or attrs.get(LOST, ""),
                *([trial.number in front] if len(objectives) > 1 else []),
            ]
        )
    files.write_text(folder / "trials.csv", text.getvalue())
    top = _best(study, objectives)
    if top is not None:
        files.write_json(
            folder / BEST_NAME,
            {
                "child": top.user_attrs.get("child"),
                "trial": top.number,
                "metrics": {
                    o.metric: value for o, value in zip(objectives, top.values, strict=True)
                },
                "directions": {o.metric: o.direction for o in objectives},
                "best_epoch": top.user_attrs.get("best_epoch"),
                "params": {**top.params, **top.user_attrs.get("exact", {})},
                "pareto": sorted(front),
            },
        )
        source = root / str(top.user_attrs.get("child")) / "spec.yaml"
        with contextlib.suppress(OSError):
            files.write_text(folder / "best_spec.yaml", source.read_text())


def finish(
    study: optuna.Study,
    folder: Path,
    space: SearchSpace,
    objectives: Sequence[Objective],
    root: Path,
    reason: str,
) -> dict[str, Any]:
    """Tables, importance and pictures at the end of a study; returns what ``result.json`` holds.

    Raises:
        JobFailedError: no trial succeeded.
    """
    from mae_skill.errors import JobFailedError

    write(study, folder, space, objectives, root)
    top = _best(study, objectives)
    if top is None:
        raise JobFailedError(
            f"AutoML ended ({reason}) without a successful trial",
            hint="see automl/trials.csv and the children's logs",
        )
    importance = _importance(study, objectives)
    files.write_json(folder / "importance.json", importance)
    lines = [
        "metric,knob,importance",
        *(
            f"{m},{knob},{value:.6g}"
            for m, row in importance.items()
            for knob, value in row.items()
        ),
    ]
    files.write_text(folder / "importance.csv", "\n".join(lines) + "\n")
    pictures: list[str] = []
    with contextlib.suppress(ImportError):
        from mae_sdk.automl.plots import draw

        pictures = draw(study, folder, space, objectives, importance)
    best = files.read_json(folder / BEST_NAME)
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    return {
        "ended": reason,
        "best_child": best["child"],
        "best_trial": best["trial"],
        "best_params": best["params"],
        "trials": len(trials),
        "kpi": best["metrics"],
        "pareto": best["pareto"],
        "artefacts": [
            "automl/trials.csv",
            "automl/best_spec.yaml",
            "automl/importance.csv",
            *(f"automl/{name}" for name in pictures),
        ],
    }


def _importance(
    study: optuna.Study, objectives: Sequence[Objective]
) -> dict[str, dict[str, float]]:
    """Importance of every knob for every metric; empty where there are too few trials to tell (fewer than four)."""
    import warnings

    import optuna

    if len(_complete(study)) < 4:
        return {}
    out = {}
    for index, objective in enumerate(objectives):

        def target(trial: optuna.trial.FrozenTrial, index: int = index) -> float:
            return float(trial.values[index]) * (
                -1.0 if objectives[index].direction == "maximize" else 1.0
            )

        with warnings.catch_warnings(), contextlib.suppress(ValueError, RuntimeError):
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(study, target=target)
            out[objective.metric] = {
                name: float(value) for name, value in found.items() if math.isfinite(value)
            }
    return out
