"""Pictures of a study, as PNG: history, importance, slices, parallel coordinates, intermediate values or the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_sdk.automl.options import Objective
from mae_sdk.automl.space import Knob, SearchSpace

if TYPE_CHECKING:
    import optuna


def draw(
    study: optuna.Study,
    folder: Path,
    space: SearchSpace,
    objectives: Sequence[Objective],
    importance: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """Draw every picture that the study has data for; returns the file names. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    written: list[str] = []

    def save(figure: Figure, name: str) -> None:
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
        written.append(f"{name}.png")

    figure = Figure(figsize=(6.4, 3.2 * len(objectives)))
    for row, objective in enumerate(objectives):
        axis = figure.add_subplot(len(objectives), 1, row + 1)
        values = [trial.values[row] for trial in done]
        best: list[float] = []
        for value in values:
            best.append(value if not best or objective.better(value, best[-1]) else best[-1])
        axis.plot([trial.number for trial in done], values, "o", label="trial")
        if len(objectives) == 1:
            axis.step([trial.number for trial in done], best, where="post", label="best so far")
        axis.set(xlabel="trial", ylabel=f"{objective.metric} ({objective.direction})")
        axis.legend()
    save(figure, "history")

    for metric, shares in importance.items():
        figure = Figure(figsize=(6.4, 0.5 + 0.4 * max(1, len(shares))))
        axis = figure.add_subplot()
        names = list(shares)[::-1]
        axis.barh(names, [shares[name] for name in names])
        axis.set(xlabel=f"importance for {metric}")
        save(figure, "importance" if len(objectives) == 1 else f"importance_{metric}")

    knobs = [knob for knob in space.knobs if any(knob.name in trial.params for trial in done)]
    if knobs:
        save(_slices(Figure(figsize=(3.2 * len(knobs), 3.0)), done, knobs, objectives[0]), "slices")
        save(
            _parallel(Figure(figsize=(1.8 * (len(knobs) + 1), 3.6)), done, knobs, objectives[0]),
            "parallel_coordinates",
        )
    if len(objectives) > 1:
        figure = Figure(figsize=(5.0, 4.0))
        axis = figure.add_subplot()
        axis.plot([t.values[0] for t in done], [t.values[1] for t in done], "o", label="trial")
        front = sorted(study.best_trials, key=lambda trial: trial.values[0])
        axis.plot(
            [t.values[0] for t in front], [t.values[1] for t in front], "-o", label="Pareto front"
        )
        axis.set(xlabel=objectives[0].metric, ylabel=objectives[1].metric)
        axis.legend()
        save(figure, "pareto")
    else:
        figure = Figure(figsize=(6.4, 3.2))
        axis = figure.add_subplot()
        for trial in study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        ):
            steps = sorted(trial.intermediate_values)
            style = "-" if trial.state == TrialState.COMPLETE else ":"
            axis.plot(
                steps,
                [trial.intermediate_values[step] for step in steps],
                style,
                marker=".",
                linewidth=1,
            )
        axis.set(xlabel="epochs", ylabel=f"best {objectives[0].metric} so far (dotted: pruned)")
        save(figure, "intermediate_values")
    return written


def _slices(
    figure: Any,
    done: Sequence[optuna.trial.FrozenTrial],
    knobs: Sequence[Knob],
    objective: Objective,
) -> Any:
    for column, knob in enumerate(knobs):
        axis = figure.add_subplot(1, len(knobs), column + 1)
        points = [
            (trial.params[knob.name], trial.values[0])
            for trial in done
            if knob.name in trial.params
        ]
        axis.plot(
            [str(x) if knob.kind == "categorical" else x for x, _ in points],
            [y for _, y in points],
            "o",
        )
        if knob.log:
            axis.set_xscale("log")
        axis.set(
            xlabel=knob.name.rpartition(".")[2], ylabel=objective.metric if column == 0 else ""
        )
    figure.tight_layout()
    return figure


def _parallel(
    figure: Any,
    done: Sequence[optuna.trial.FrozenTrial],
    knobs: Sequence[Knob],
    objective: Objective,
) -> Any:
    import math

    from matplotlib import colormaps

    def place(knob: Knob, value: Any) -> float:
        if knob.kind == "categorical":
            return knob.choices.index(value) / max(1, len(knob.choices) - 1)
        assert knob.low is not None and knob.high is not None
        if knob.log:
            return (math.log(value) - math.log(knob.low)) / (
                math.log(knob.high) - math.log(knob.low)
            )
        return float((value - knob.low) / (knob.high - knob.low))

    axis = figure.add_subplot()
    values = [trial.values[0] for trial in done]
    low, high = min(values), max(values)
    for trial in done:
        share = (trial.values[0] - low) / (high - low) if high > low else 0.5
        heights = [
            share,
            *(
                place(knob, trial.params[knob.name]) if knob.name in trial.params else math.nan
                for knob in knobs
            ),
        ]
        axis.plot(range(len(heights)), heights, "-", color=colormaps["viridis"](share), alpha=0.8)
    labels = [f"{objective.metric}\n{low:.4g} to {high:.4g}"]
    for knob in knobs:
        span = (
            "/".join(str(choice) for choice in knob.choices)
            if knob.kind == "categorical"
            else f"{knob.low:.3g} to {knob.high:.3g}"
        )
        labels.append(f"{knob.name.rpartition('.')[2]}\n{span}")
    axis.set_xticks(range(len(labels)), labels, fontsize=8)
    axis.set_yticks([])
    return figure
