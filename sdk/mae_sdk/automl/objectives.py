"""The metric contract: what a study optimizes, in which direction, and where a trial's value is
read.

A bundle states it in the action's entry (``metric``, ``metric_direction``), or in its train schema
as ``automl_metrics``: a list of ``{when, metric, direction,
incomparable}``; the first whose conditions hold is the default, every entry makes its metric's
direction known, and ``incomparable`` names the fields across whose values the metric does not
compare. ``automl_metrics_complete`` says that no run reports another metric: then one that this run
cannot report is refused. In a bundle without the annotation the user names metric and direction. A
direction is stored with the study and never guessed from a name. The **best** value of a trial over
its epochs counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mae_skill.conditions import acts, holds
from mae_skill.errors import MaeError, SpecError, UsageError

from mae_sdk.jobs.checkpoints import tie
from mae_sdk.jobs.status import is_count

if TYPE_CHECKING:
    from mae_sdk.automl.options import AutoMLOptions


COMPLETE = "automl_metrics_complete"
"""The annotation of a schema whose ``automl_metrics`` are all that its runs report."""


@dataclass(frozen=True)
class Objective:
    """One metric of a study, its direction (``maximize`` or ``minimize``) and who chose it."""

    metric: str
    direction: str
    source: str = "given"

    def better(self, a: float, b: float) -> bool:
        """Whether ``a`` is strictly better than ``b``."""
        return a > b if self.direction == "maximize" else a < b


def objectives(
    schema: Mapping[str, Any],
    spec: Mapping[str, Any],
    options: AutoMLOptions,
) -> tuple[Objective, ...]:
    """The study's metrics with directions.

    Raises:
        SpecError: a metric has no known direction and none was given, the one that was given is not
            the bundle's, no run of this spec reports the metric, or the bundle states none for it.
    """
    contract = schema.get("automl_metrics") or ()
    known = {str(entry["metric"]): str(entry["direction"]) for entry in reversed(contract)}
    if options.metric is None:
        for entry in contract:
            if entry.get("otherwise") or (entry.get("when") and holds(entry["when"], spec)):
                metric = str(entry["metric"])
                if options.direction and (wrong := _contrary(metric, options.direction[0], known)):
                    raise SpecError("the study would look for the worst", problems=[wrong])
                return (Objective(metric, known[metric], "bundle"),)
        problem = UsageError(
            "the bundle states no metric for this spec",
            field="automl.metric",
            expected="metric=NAME direction=maximize|minimize",
            hint="name one: --automl metric=NAME:maximize or metric=NAME:minimize",
        )
        raise SpecError("AutoML has no metric", problems=[problem])
    found: list[Objective] = []
    problems: list[MaeError] = [
        UsageError(
            f"this run does not report the metric: {reason}",
            field="automl.metric",
            got=name,
            expected=", ".join(reported(schema, spec, options)),
            hint=_near(name, reported(schema, spec, options)),
        )
        for name, reason in unreported(schema, spec, options).items()
        if schema.get(COMPLETE)
    ]
    if problems:
        raise SpecError("the study would have nothing to compare", problems=problems)
    for position, name in enumerate(options.metric):
        direction = options.direction[position] if options.direction else known.get(name, "")
        if not direction:
            problems.append(
                UsageError(
                    "the direction of this metric is not known",
                    field="automl.direction",
                    got=name,
                    expected="maximize or minimize",
                    hint=_hint(name, known),
                )
            )
            continue
        if wrong := _contrary(name, direction, known):
            problems.append(wrong)
        found.append(Objective(name, direction, "given"))
    if problems:
        raise SpecError(
            "the metric's direction (maximize/minimize) is missing or wrong", problems=problems
        )
    return tuple(found)


def _contrary(metric: str, direction: str, known: Mapping[str, str]) -> UsageError | None:
    """The error of a direction against that of the bundle: the best trial would be the worst."""
    if known.get(metric, direction) == direction:
        return None
    return UsageError(
        "the study would look for the worst value of this metric",
        field="automl.direction",
        got=f"{metric}:{direction}",
        expected=known[metric],
        hint="give the other direction, or leave it out",
    )


def with_stated(schema: Mapping[str, Any], stated: tuple[str, str] | None) -> Mapping[str, Any]:
    """A schema whose metrics end with the one that the action's entry states."""
    if stated is None:
        return schema
    entry = {"metric": stated[0], "direction": stated[1], "otherwise": True}
    return {**schema, "automl_metrics": [*(schema.get("automl_metrics") or ()), entry]}


def _near(name: str, known: Mapping[str, str]) -> str | None:
    """The metrics whose names are like this one."""
    import difflib

    ends = [one for one in known if name.lower() in one.lower()]
    near = ends or difflib.get_close_matches(name, known, n=2)
    return f"did you mean metric={' or metric='.join(near[:2])}?" if near else None


def _hint(name: str, known: Mapping[str, str]) -> str:
    """How to say it: a metric that the bundle knows, or the direction of one's own."""
    own = f"metric={name}:minimize or metric={name}:maximize, if the trials report {name}"
    if not known:
        return own
    meant = f"{near} " if (near := _near(name, known)) else ""
    listed = ", ".join(f"{one} ({direction})" for one, direction in known.items())
    return f"{meant}metrics of this bundle: {listed}; {own}"


def incomparable(
    schema: Mapping[str, Any], metrics: Iterable[str], spec: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Dotted key → the metric of ``metrics`` that does not compare across its values; in ``spec``,
    where there is one."""
    wanted = set(metrics)
    entries = [
        entry
        for entry in schema.get("automl_metrics") or ()
        if entry["metric"] in wanted and (spec is None or holds(entry.get("when"), spec))
    ]
    return {key: str(entry["metric"]) for entry in entries for key in entry.get("incomparable", ())}


def unchanged(
    schema: Mapping[str, Any],
    metrics: Iterable[str],
    searched: Iterable[str],
    spec: Mapping[str, Any],
) -> dict[str, list[str]]:
    """Those of ``metrics`` that no searched field changes → how the names of those begin that
    would. Metrics of which the bundle does not state it for this spec may change by any."""
    keys = list(searched)
    changed_by: dict[str, list[str]] = {}
    for entry in schema.get("automl_metrics") or ():
        if holds(entry.get("when"), spec):
            changed_by.setdefault(str(entry["metric"]), list(entry.get("changed_by") or ()))
    return {
        metric: names
        for metric in metrics
        if (names := changed_by.get(metric))
        and not any(key.startswith(tuple(names)) for key in keys)
    }


def reported(
    schema: Mapping[str, Any], spec: Mapping[str, Any], options: AutoMLOptions
) -> dict[str, str]:
    """Metric → direction, of those that the bundle states for runs of this spec."""
    return {
        str(entry["metric"]): str(entry["direction"])
        for entry in schema.get("automl_metrics") or ()
        if acts(entry.get("when"), spec, _searched(options)) is None
    }


def unreported(
    schema: Mapping[str, Any], spec: Mapping[str, Any], options: AutoMLOptions
) -> dict[str, str]:
    """Metric → why, of those asked for that the bundle states for other runs only, or for none."""
    found = {}
    known = reported(schema, spec, options)
    for metric in options.metric or ():
        if metric in known:
            continue
        entries = [
            entry.get("when") or {}
            for entry in schema.get("automl_metrics") or ()
            if entry["metric"] == metric
        ]
        nearest = max(entries, key=lambda when: _met(when, spec), default=None)
        reason = acts(nearest, spec, _searched(options))
        found[metric] = reason or "there is none of this name"
    return found


def _met(when: Mapping[str, Any], spec: Mapping[str, Any]) -> int:
    """How many of the conditions hold."""
    return sum(holds({key: need}, spec) for key, need in when.items())


def _searched(options: AutoMLOptions) -> set[str]:
    """The fields whose values may differ between trials, as far as they were named."""
    return {name.partition("[")[0] for name in (*(options.parameters or ()), *options.ranges)}


def reports(record: Mapping[str, Any], metric: str) -> bool:
    """Whether a status record names the metric, with a number or, if not finite, without one."""
    kpi = record.get("kpi")
    return metric in (kpi if isinstance(kpi, Mapping) else {}) or metric in record


EPOCH, STEP, WHOLE = "epoch", "step", ""
"""What the values of a metric are counted by; `WHOLE`: they are of the run, as a metric file's."""


class Course(NamedTuple):
    """The values of a metric in a run.

    Attributes:
        unit: `EPOCH`, `STEP` or `WHOLE`.
        values: ``(epoch or step, value)`` in order; of the whole run, one at place 0.
    """

    unit: str
    values: list[tuple[int, float]]


def course(records: Iterable[Mapping[str, Any]], metric: str) -> Course:
    """The values of the status records that report ``metric`` (in ``kpi`` or beside ``epoch``): one
    per epoch, the last one wins; where no record names an epoch, one per step; where none names a
    step either, the last one.
    """
    found: dict[str, dict[int, float]] = {EPOCH: {}, STEP: {}, WHOLE: {}}
    for record in records:
        kpi = record.get("kpi")
        value = (kpi if isinstance(kpi, Mapping) else {}).get(metric, record.get(metric))
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        unit = next((one for one in (EPOCH, STEP) if is_count(record.get(one))), WHOLE)
        found[unit][record[unit] if unit else 0] = float(value)
    unit = next((one for one in (EPOCH, STEP) if found[one]), WHOLE)
    return Course(unit, sorted(found[unit].items()))


def spread(values: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """The values of a run by steps that a pruner is told of: each is a twentieth further on than
    the one before it, so that a run of a million steps tells some three hundred.
    """
    last = -1
    for step, value in values:
        if step >= last + max(1, last // 20):
            yield step, value
            last = step


def best(
    values: Sequence[tuple[int, float]],
    objective: Objective,
    losses: Sequence[tuple[int, float]] = (),
) -> tuple[int, float] | None:
    """The best ``(epoch, value)``; of equals the one of the least validation loss, then the first,
    as checkpoints are chosen; values that are not finite never win."""
    of_epoch = dict(losses)
    finite = [(epoch, value) for epoch, value in values if math.isfinite(value)]
    if not finite:
        return None
    sign = -1.0 if objective.direction == "maximize" else 1.0
    return min(finite, key=lambda item: (sign * item[1], tie(of_epoch.get(item[0])), item[0]))


def better_so_far(
    values: Sequence[tuple[int, float]], objective: Objective
) -> list[tuple[int, float]]:
    """The best value up to each epoch: what pruners compare, since the best of a trial counts."""
    out: list[tuple[int, float]] = []
    for epoch, value in values:
        if math.isfinite(value) and (not out or objective.better(value, out[-1][1])):
            out.append((epoch, value))
        elif out:
            out.append((epoch, out[-1][1]))
    return out
