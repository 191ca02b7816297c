"""What a study leaves in ``automl/``: trials.csv, best_spec.yaml, best.json, importance, plots.

``best.json`` is written after every trial that ends, so that the best trial can be asked for while
the study runs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill.errors import JobFailedError
from mae_skill.spelling import count_of

from mae_sdk import files
from mae_sdk.automl.objectives import Objective
from mae_sdk.automl.space import SearchSpace
from mae_sdk.automl.study import FAILED, LOST, PRUNED
from mae_sdk.jobs.outputs import BEST_NAME

if TYPE_CHECKING:
    import optuna

MIN_TRIALS_FOR_IMPORTANCE = 4
Reader = Callable[[str, str], "bytes | None"]


def write(
    study: optuna.Study,
    folder: Path,
    space: SearchSpace,
    objectives: Sequence[Objective],
    read: Reader,
) -> None:
    """Write the table of trials and the best trial; cheap, called after every trial.

    Args:
        folder: where to write.
        read: gives a file of a trial's job, by the job's id and the name in its folder.
    """
    several = len(objectives) > 1
    front = {t.number for t in study.best_trials} if several and _complete(study) else set()
    names = [parameter.name for parameter in space.parameters]
    files.write_text(folder / "trials.csv", _trial_table(study, names, objectives, front))

    top = _best(study, objectives)
    if top is None:
        return
    child = top.user_attrs.get("child")
    files.write_json(
        folder / BEST_NAME,
        {
            "child": child,
            "trial": top.number,
            "metrics": _by_metric(objectives, top.values),
            "directions": {objective.metric: objective.direction for objective in objectives},
            "best_epoch": top.user_attrs.get("best_epoch"),
            **({"best_step": step} if (step := top.user_attrs.get("best_step")) else {}),
            "params": _parameters(top),
            "pareto": sorted(front),
        },
    )
    spec = read(str(child), "spec.yaml")
    if spec is not None:
        files.write_text(folder / "best_spec.yaml", spec.decode())


def _why(study: optuna.Study, all_of: str | None = None) -> str:
    """The reason that most trials failed for, and how many, for the error of a study; empty where
    it is `all_of` of them.
    """
    reasons = Counter(
        str(one.user_attrs[FAILED])
        for one in study.get_trials(deepcopy=False)
        if one.user_attrs.get(FAILED)
    )
    if not reasons:
        return ""
    text, count = reasons.most_common(1)[0]
    if text == all_of:
        return ""
    return f": {count} of {sum(reasons.values())} failed for: {text}"


def finish(
    study: optuna.Study,
    folder: Path,
    space: SearchSpace,
    objectives: Sequence[Objective],
    read: Reader,
    reason: str,
) -> dict[str, Any]:
    """Write tables, importance and plots at the end of a study; returns what result.json holds.

    Raises:
        JobFailedError: no trial succeeded.
    """
    write(study, folder, space, objectives, read)
    if _best(study, objectives) is None and reason == "timeout":
        raise JobFailedError(
            "the time of the search was over before one of its trials had ended"
            + _why(study, all_of="timeout"),
            hint="give the search more time (automl.timeout, or the budget), or trials that take "
            "less: fewer epochs, a smaller model",
        )
    if _best(study, objectives) is None:
        raise JobFailedError(
            f"AutoML ended ({reason}) without a successful trial{_why(study)}",
            hint="see automl/trials.csv and the trials' logs",
        )

    importance, note = _importance(study, objectives)
    files.write_json(folder / "importance.json", importance)
    # The column is called "knob" since the first version: files that others read keep their names.
    rows = [
        f"{metric},{name},{share:.6g}"
        for metric, shares in importance.items()
        for name, share in shares.items()
    ]
    shares = folder / "importance.csv"
    if rows:
        files.write_text(shares, "\n".join(["metric,knob,importance", *rows]) + "\n")
    else:  # of a study that was resumed it may be there
        shares.unlink(missing_ok=True)
    plots: list[str] = []
    with contextlib.suppress(ImportError):
        plots = draw(study, folder, objectives, importance)

    best = files.read_json(folder / BEST_NAME)
    of_data = _data_of(read(str(best["child"]), "train/result.json"), folder.parent)
    if warned := _mostly_failed(study):
        of_data["warnings"] = [warned, *of_data.get("warnings", ())]
    said = {"importance_note": note} if note else {}
    tables = ["trials.csv", "best_spec.yaml", *(["importance.csv"] if rows else [])]
    return {
        "ended": reason,
        "best_child": best["child"],
        "best_trial": best["trial"],
        "best_params": best["params"],
        "trials": sum(t.state.is_finished() for t in study.get_trials(deepcopy=False)),
        "kpi": best["metrics"],
        "pareto": best["pareto"],
        **said,
        **of_data,
        "artefacts": [f"automl/{name}" for name in [*tables, *plots]],
    }


def _mostly_failed(study: optuna.Study) -> str | None:
    """What to say where as many trials failed as ended with a value, or more."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    reasons = [  # one that was canceled, as at the end of the time, has no category
        str(t.user_attrs[FAILED])
        for t in trials
        if FAILED in t.user_attrs and t.user_attrs.keys() & {"category", LOST}
    ]
    if not reasons or 2 * len(reasons) < len(trials):
        return None
    return (
        f"{len(reasons)} of {count_of(len(trials), 'trial')} failed, so that the search compared "
        f"only {len(trials) - len(reasons)}; the first: {reasons[0]}"
    )


def _data_of(result: bytes | None, job_dir: Path) -> dict[str, Any]:
    """``data, left_out, warnings`` of the best trial's result; where it has none of these, or
    cannot be read, what the plan of the study warned of."""
    found: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        run = files.parse_json((result or b"{}").decode(errors="replace"))
        found = {name: run[name] for name in ("data", "left_out", "warnings") if run.get(name)}
    with contextlib.suppress(OSError, ValueError):
        warned = files.read_json(job_dir / "job.json").get("data_warnings")
        if warned and not found.get("warnings"):
            found["warnings"] = warned
    return found


def draw(
    study: optuna.Study,
    folder: Path,
    objectives: Sequence[Objective],
    importance: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """Draw Optuna's plots of the study as PNG; returns the file names.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    several = len(objectives) > 1
    drawn: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks these plots experimental
        for index, objective in enumerate(objectives):
            metric = objective.metric
            suffix = f"_{metric}" if several else ""
            target = _value_of(index) if several else None
            drawn[f"history{suffix}"] = plots.plot_optimization_history(
                study, target=target, target_name=metric
            )
            if importance.get(metric):
                drawn[f"importance{suffix}"] = plots.plot_param_importances(
                    study, target=target, target_name=metric
                )

        first, name = _value_of(0) if several else None, objectives[0].metric
        drawn["slices"] = plots.plot_slice(study, target=first, target_name=name)
        drawn["parallel_coordinates"] = plots.plot_parallel_coordinate(
            study, target=first, target_name=name
        )
        if several:
            drawn["pareto"] = plots.plot_pareto_front(
                study,
                target_names=[objective.metric for objective in objectives[:2]],
                targets=lambda trial: trial.values[:2],
            )
        else:
            drawn["intermediate_values"] = plots.plot_intermediate_values(study)

        for name, axes in drawn.items():
            figure = getattr(axes, "figure", None) or axes.flat[0].figure
            figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
            pyplot.close(figure)
    return [f"{name}.png" for name in drawn]


def _complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _best(study: optuna.Study, objectives: Sequence[Objective]) -> optuna.trial.FrozenTrial | None:
    """The best complete trial, the earliest of equals; on a Pareto front, by the first metric."""
    complete = _complete(study)
    if not complete:
        return None
    candidates = study.best_trials if len(objectives) > 1 else complete
    sign = -1.0 if objectives[0].direction == "maximize" else 1.0
    return min(candidates, key=lambda trial: (sign * trial.values[0], trial.number))


def _parameters(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """The values that a trial ran with, which its study may only know nearly."""
    return {**trial.params, **trial.user_attrs.get("exact", {})}


def _by_metric(objectives: Sequence[Objective], values: Sequence[float]) -> dict[str, float]:
    return {o.metric: value for o, value in zip(objectives, values, strict=True)}


def _trial_table(
    study: optuna.Study,
    names: Sequence[str],
    objectives: Sequence[Objective],
    front: set[int],
) -> str:
    """trials.csv: one row per trial; with steps where a runner counts by them alone."""
    by_step = any("steps" in one.user_attrs for one in study.get_trials(deepcopy=False))
    counted = ["best_epoch", "epochs", *(["best_step", "steps"] if by_step else [])]

    def rows() -> Iterator[dict[str, Any]]:
        for trial in study.get_trials(deepcopy=False):
            attrs, parameters = trial.user_attrs, _parameters(trial)
            values = list(trial.values or [""] * len(objectives))
            row: dict[str, Any] = {"trial": trial.number, "state": trial.state.name}
            if FAILED in attrs or LOST in attrs:
                # What was stopped, by the end of the time or by a person, has no category.
                ended = "FAILED" if "category" in attrs else "CANCELED"
                row["state"] = "LOST" if LOST in attrs else ended
            row |= _by_metric(objectives, values)
            row |= {name: attrs.get(name, "") for name in counted}
            row["seconds"] = "" if trial.duration is None else trial.duration.total_seconds()
            row |= {name: parameters.get(name, "") for name in names}
            why = attrs.get(FAILED) or attrs.get(LOST) or attrs.get(PRUNED)
            row |= {"child": attrs.get("child", ""), "reason": why}
            yield row | ({"pareto": trial.number in front} if len(objectives) > 1 else {})

    metrics = [objective.metric for objective in objectives]
    columns = ["trial", "state", *metrics, *counted, "seconds", *names, "child"]
    columns += ["reason"] + (["pareto"] if len(objectives) > 1 else [])
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows())
    return text.getvalue()


def _value_of(index: int) -> Callable[[optuna.trial.FrozenTrial], float]:
    return lambda trial: float(trial.values[index])


def _importance(
    study: optuna.Study, objectives: Sequence[Objective]
) -> tuple[dict[str, dict[str, float]], str | None]:
    """Metric → parameter → importance; and why there is none where there is none."""
    import optuna

    complete = len(_complete(study))
    if complete < MIN_TRIALS_FOR_IMPORTANCE:
        return {}, (
            f"no importance of parameters: {count_of(complete, 'trial')} "
            f"{'is' if complete == 1 else 'are'} complete, "
            f"and fewer than {MIN_TRIALS_FOR_IMPORTANCE} tell nothing (pruned ones do not count)"
        )
    shares: dict[str, dict[str, float]] = {}
    reasons: list[str] = []
    for index, objective in enumerate(objectives):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                raw = optuna.importance.get_param_importances(study, target=_value_of(index))
            except (ValueError, RuntimeError) as error:
                reasons.append(f"{objective.metric}: {error}")
                continue
        finite = {name: float(share) for name, share in raw.items() if math.isfinite(share)}
        shares[objective.metric] = finite
        if not finite:
            reasons.append(f"{objective.metric}: every complete trial has the same value")
    return shares, f"no importance of parameters: {'; '.join(reasons)}" if reasons else None
