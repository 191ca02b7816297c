"""The report of an AutoML study: its best trial against trial 0, and how it came about."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mae_skill.diff import diff_specs
from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError
from mae_skill.spelling import count_of

from mae_sdk.job import beside
from mae_sdk.jobs.intervals import wilson
from mae_sdk.jobs.metrics import mapping, verdict
from mae_sdk.jobs.metrics import number as cell
from mae_sdk.jobs.status import is_number
from mae_sdk.report import charts
from mae_sdk.report.blocks import Bar, Block, Card, Figure, Figures, Link, Section, Table, Text
from mae_sdk.report.charts import Axis, Dot, Options, Series
from mae_sdk.report.facts import Facts, as_list, facts_of, rows_of, shown
from mae_sdk.report.markup import number, percent, seconds
from mae_sdk.report.words import named

MAX_CURVES = 40
"""Trials whose learning curves are drawn: the best ones."""


def headline(facts: Facts) -> Card:
    """Best against trial 0 for the first screen."""
    study = mapping(facts.figures.get("study"))
    best, metric = mapping(study.get("best")), str(study.get("metric"))
    trials = mapping(study.get("trials"))
    counts = ", ".join(f"{n} {state}" for state, n in trials.items() if state != "of")
    if not is_number(best.get("value")):
        return Card("So far", "no trial has succeeded", [counts or "none has ended"])
    images = study.get("images")
    value = best["value"]
    lines, sure = [*facts.doubts, verdict(study)], ""
    if isinstance(images, int):
        low, high = wilson(value, images)
        sure = f"95 %: {percent(low)} to {percent(high)} (Wilson, {images:,} images)"
        lines.append(sure)
        shown = percent(value)
    else:
        shown = number(value)
    if "on others expect less" not in lines[-1] + verdict(study):
        lines.append(f"{best_of(trials)}{CHOSEN}")
    lines.append(f"trial {best.get('trial')}: {best.get('child')}")
    lines += _kept(facts, best, metric, isinstance(images, int))
    objectives = as_list(facts.document("automl/study.json").get("objectives"))
    names = [str(mapping(one).get("metric")) for one in objectives]
    front = as_list(facts.document("automl/best.json").get("pareto"))
    if len(names) > 1 and front:
        count = "1 trial" if len(front) == 1 else f"{len(front)} trials"
        both = " and ".join(map(named, names))
        lines.append(f"the best by {named(metric)}; the Pareto front of {both}: {count}")
    if facts.is_running:
        lines.append(f"trials: {counts}; of {trials.get('of', '?')}")
    title = f"{'So far' if facts.is_running else 'Result'}: {named(metric)}"
    tone = "warning" if facts.doubts else ""
    return Card(title, shown, lines, tone=tone, wide=bool(facts.doubts), sure=sure)


CHOSEN = "it was chosen on these images: on others expect less"


def best_of(trials: Mapping[str, Any]) -> str:
    """``the best of 4 trials (3 complete, 1 pruned); ``, where several were tried: a pruned one too
    was held against the others."""
    counts = {str(name): count for name, count in trials.items() if isinstance(count, int)}
    ended = {name: n for name, n in counts.items() if name not in ("of", "running", "pending")}
    if sum(ended.values()) < 2:
        return ""
    listed = ", ".join(f"{count} {name}" for name, count in ended.items())
    more = "" if list(ended) == ["complete"] else f" ({listed})"
    return f"the best of {sum(ended.values())} trials{more}; "


Target = Callable[[str], str]
"""Job id, or `TABLE` → where its page is; empty where it is not known to be anywhere."""

TABLE = "automl/trials.csv"
"""Every trial, in the job's folder."""


def trials(facts: Facts) -> list[str]:
    """The ids of the trials."""
    return [row["child"] for row in rows_of(facts.text(TABLE)) if row.get("child")]


def _kept(facts: Facts, best: Mapping[str, Any], metric: str, share: bool) -> list[str]:
    """The figure of the checkpoint that a next job takes, where the best epoch of the best trial
    left none."""
    child = beside(facts.job, str(best.get("child") or ""))
    kept = {} if child is None else mapping(child.figures().get("best_checkpoint"))
    same = kept.get("metric") == metric and is_number(kept.get("value"))
    if not same or kept["value"] == best.get("value"):
        return []
    value = percent(kept["value"]) if share else number(kept["value"])
    at = f"epoch {kept['epoch']}" if kept.get("epoch") is not None else f"step {kept.get('step')}"
    return [f"its best checkpoint that is kept, which a next job takes: {value}, {at}"]


def sections(facts: Facts, target: Target = lambda name: "") -> list[Section]:
    """Everything below the first screen of a study, with links to the pages of its trials."""
    study = mapping(facts.figures.get("study"))
    rows = [{name: cell(text) for name, text in row.items()} for row in rows_of(facts.text(TABLE))]
    record = facts.document("automl/study.json")
    objectives = [mapping(one) for one in as_list(record.get("objectives"))]
    parameters = [mapping(one) for one in as_list(mapping(record.get("space")).get("knobs"))]
    found = [winner(facts, study, parameters, target)]
    if rows and objectives:
        found.append(how(facts, record, objectives, parameters))
        found.append(history(facts, rows, objectives, parameters))
        found.append(table(rows, objectives, parameters, study, target))
    return [one for one in found if one is not None]


def winner(
    facts: Facts,
    study: Mapping[str, Any],
    parameters: Sequence[Mapping[str, Any]],
    target: Target,
) -> Section | None:
    """The fields in which the best trial differs from the spec as given, and which of them the
    search has varied."""
    best, given = mapping(study.get("best")), mapping(study.get("trial_0"))
    title, said = "Best against the spec as given", Text(verdict(study))
    if not is_number(best.get("value")):
        return Section(title, [said]) if "verdict" in study else None
    metric = str(study.get("metric"))
    if best.get("trial") == 0:
        rows: list[list[Any]] = [
            [key, number(value)] for key, value in mapping(given.get("params")).items()
        ]
        rows.append([named(metric), number(best["value"])])
        head = ["parameter", "trial 0: the spec as given"]
        return Section(title, [said, Table(head, rows, "The best is the spec as given", (1,))])

    before, after = mapping(given.get("params")), mapping(best.get("params"))
    differing = {str(key): (before.get(key), value) for key, value in after.items()}
    differing |= _differences(facts, given, best)
    searched = {str(one.get("name")) for one in parameters}
    around = "the auto recipe" if _auto(facts) else "not searched"
    rows, marked = [], []
    for key, (one, other) in differing.items():
        marked += [len(rows)] if one != other else []
        why = "searched" if key in searched else around
        rows.append([key, _short(one), _short(other), why])
    if len(marked) == len(rows):  # what all rows have in common sets none apart
        marked = []
    shown_as = percent if isinstance(study.get("images"), int) else number
    rows.append([named(metric), shown_as(given.get("value")), shown_as(best.get("value")), ""])
    names = ["trial 0: the spec as given", f"trial {best.get('trial')}: the best"]
    head = ["field", *names, "set by"]
    blocks: list[Block] = [said]
    if around == "the auto recipe":
        goes_on = "the others search around it, so fields that are not searched differ too."
        blocks.append(Text(f"Trial 1 is the auto recipe; {goes_on}", "note"))
    caption = "The winning values beside the given ones"
    blocks.append(Table(head, rows, caption, (1, 2), marked, stacked=True))
    both = zip(names, (given, best), strict=True)
    told = {name: str(one.get("child") or "") for name, one in both}
    if _auto(facts) and best.get("trial") != 1:
        told["trial 1: the auto recipe"] = f"{facts.id}.t001"
    pages = [[name, _page(facts, child, target)] for name, child in told.items()]
    blocks.append(Table(["trial", "its page"], pages, "All else of these trials"))
    return Section(title, blocks)


def how(
    facts: Facts,
    record: Mapping[str, Any],
    objectives: Sequence[Mapping[str, Any]],
    parameters: Sequence[Mapping[str, Any]],
) -> Section:
    """How the study searched: what it judged by, its sampler and pruner, and the ranges."""
    options = mapping(record.get("options"))
    ways = {"maximize": "more is better", "minimize": "less is better"}
    by = "; ".join(
        f"{named(str(one.get('metric')))}, {ways.get(str(one.get('direction')), 'no direction')}"
        for one in objectives
    )
    sampler = options.get("sampler") or ("nsga2" if len(objectives) > 1 else "tpe")
    rows: list[list[Any]] = [
        ["judged by", by],
        ["trials at most", number(options.get("max_trials"))],
        ["sampler", str(sampler)],
        ["pruner", _pruner(record, options, len(objectives))],
        ["seed", shown(options.get("seed"))],
        ["trials at a time", number(record.get("concurrency"))],
    ]
    for name, words in (("timeout", "seconds at most"), ("plateau", "trials without a better one")):
        rows += [[words, number(options[name])]] if options.get(name) is not None else []
    listed = [[str(one.get("name")), _range(one)] for one in parameters]
    blocks: list[Block] = [Table(["what", "value"], rows, "Settings of the search", stacked=True)]
    if listed:
        head = ["parameter", "from where to where"]
        blocks.append(Table(head, listed, "What was searched", stacked=True))
    return Section("How it searched", blocks)


def _pruner(record: Mapping[str, Any], options: Mapping[str, Any], metrics: int) -> str:
    """The pruner in the plan's words; of another version's options its name alone."""
    from mae_sdk.automl.options import parse
    from mae_sdk.automl.pruner import describe
    from mae_sdk.automl.setup import spec_of_trials

    epochs = None
    try:
        known = parse(dict(options))
        with contextlib.suppress(MaeError, KeyError, TypeError):
            key = str(mapping(record.get("keys")).get("epochs") or "")
            epochs = get_dotted(spec_of_trials(record), key) if key else None
    except (MaeError, ValueError, TypeError):
        return str(options.get("pruner") or "the default")
    return describe(known, metrics, epochs if isinstance(epochs, int) else None)


def _range(parameter: Mapping[str, Any]) -> str:
    """``1e-05 to 0.01, on a log scale``; of options the list of them."""
    options = as_list(parameter.get("choices"))
    if options:
        return ", ".join(shown(one, 40) for one in options[:12])
    if parameter.get("low") is None:
        return "–"
    scale = ", on a log scale" if parameter.get("log") else ""
    return f"{number(parameter['low'])} to {number(parameter.get('high'))}{scale}"


def _auto(facts: Facts) -> bool:
    """Whether trial 1 is the auto recipe, around which the others search."""
    return bool(mapping(facts.document("automl/study.json").get("auto_spec")))


def _page(facts: Facts, name: str, target: Target) -> Link | str:
    if not name:
        return "–"
    found = target(name)
    return Link("the page", found) if found else f"mae report {shlex.quote(name)}{facts.root_flag}"


def _differences(
    facts: Facts, given: Mapping[str, Any], best: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Field → both values, where the specs of the two trials differ: a recipe changes fields that
    are not searched."""
    specs = []
    for one in (given, best):
        child = beside(facts.job, str(one.get("child")))
        if child is None:
            return {}
        specs.append(facts_of(child, child.record, "").spec)
    rows = diff_specs(*specs)
    return {row["key"]: (row["a"], row["b"]) for row in rows if row["key"] != "results_dir"}


def _short(value: Any) -> str:
    return number(value) if is_number(value) else shown(value, 60)


def history(
    facts: Facts,
    rows: Sequence[Mapping[str, Any]],
    objectives: Sequence[Mapping[str, Any]],
    parameters: Sequence[Mapping[str, Any]],
) -> Section:
    """How the study went: history, learning curves, importance, parallel coordinates, front."""
    metric = str(objectives[0].get("metric"))
    up = objectives[0].get("direction") == "maximize"
    figures = [_history(rows, metric, up), _learning_curves(facts, rows, metric, up)]
    blocks: list[Block] = [Figures([one for one in figures if one is not None])]
    blocks += importance(facts, metric)
    drawing = _parallel(rows, parameters, metric, up)
    if drawing is not None:
        blocks.append(drawing)
    if len(objectives) > 1:
        front = _front(rows, objectives)
        blocks += [front] if front is not None else []
    return Section("The search", blocks)


def _values(rows: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, float, str]]:
    return [
        (int(row["trial"]), float(row[metric]), str(row.get("state")))
        for row in rows
        if is_number(row.get("trial")) and is_number(row.get(metric))
    ]


def _history(rows: Sequence[Mapping[str, Any]], metric: str, up: bool) -> Figure | None:
    known = _values(rows, metric)
    if not known:
        return None
    best: list[tuple[float, float]] = []  # as stairs: it holds until a better one is there
    for trial, value, state in known:
        top = value if not best else (max if up else min)(best[-1][1], value)
        if state == "COMPLETE":
            best += [(trial, best[-1][1])] if best else []
            best.append((trial, top))
    if best:
        best.append((known[-1][0], best[-1][1]))
    places = {"COMPLETE": 0, "PRUNED": 1}
    groups = ["complete", "pruned"]
    groups += ["other"] if any(state not in places for *_, state in known) else []
    dots = [
        Dot(trial, value, places.get(state, 2), f"trial {trial}: {number(value)}, {state.lower()}")
        for trial, value, state in known
    ]
    groups = groups[: 1 + max(dot.group or 0 for dot in dots)]
    drawing = charts.scatter(
        dots, groups, f"{named(metric)} of every trial", x="trial", height=260, line=best, color=0
    )
    if drawing is None:
        return None
    note = f"{named(metric)} of every trial; the line is the best so far"
    return Figure("History", drawing, note)


def _learning_curves(
    facts: Facts, rows: Sequence[Mapping[str, Any]], metric: str, up: bool
) -> Figure | None:
    """The metric of each trial over its epochs or steps; a pruned one is dashed where it ended.
    The best one and trial 0 have colors of their own."""
    series, unit = [], "epoch"
    best = mapping(mapping(facts.figures.get("study")).get("best")).get("trial")
    for row in rows[:200]:
        child = beside(facts.job, str(row.get("child")))
        if child is None:
            continue
        trial = facts_of(child, child.record, "")
        points = trial.curve_of(metric)
        if points:
            unit = trial.unit
            pruned, number_of = str(row.get("state")) == "PRUNED", row.get("trial")
            color = 2 if number_of == best else 3 if number_of == 0 else 1 if pruned else 0
            words = {2: f"trial {best}: the best", 3: "trial 0: the spec as given"}
            curve = Series(words.get(color, ""), points, color, dashed=pruned)
            series.append((color in words, points[-1][1] if up else -points[-1][1], curve))
    series.sort(key=lambda one: one[:2])
    drawn = [curve for *_, curve in series[-MAX_CURVES:]]
    if drawn:  # the legend, once for each kind
        for color, word in ((0, "complete"), (1, "pruned")):  # of the others
            first = next((one for one in drawn if one.color == color), None)
            if first is not None:
                first.label = word
    drawing = charts.lines(drawn, Options(f"{named(metric)} over {unit}s", x=unit, height=260))
    if drawing is None:
        return None
    note = f"{named(metric)} of {count_of(len(drawn), 'trial')} over the {unit}s"
    return Figure("Learning curves", drawing, note)


def importance(facts: Facts, metric: str) -> list[Block]:
    """How much each parameter mattered, or why that is not known."""
    try:
        shares = mapping(json.loads(facts.text("automl/importance.json") or "{}")).get(metric)
    except ValueError:
        shares = None
    known = [(str(n), float(v)) for n, v in mapping(shares).items() if is_number(v)]
    if not known:
        note = mapping(facts.figures.get("study")).get("importance_note")
        return [
            Text(
                str(note or "no importance of parameters: no study with a best trial ended"), "note"
            )
        ]
    known.sort(key=lambda pair: -pair[1])
    rows = [[name, Bar(min(max(share, 0.0), 1.0), percent(share))] for name, share in known]
    return [
        Table(["parameter", "importance"], rows, f"Importance of parameters for {named(metric)}")
    ]


def _parallel(
    rows: Sequence[Mapping[str, Any]],
    parameters: Sequence[Mapping[str, Any]],
    metric: str,
    up: bool,
) -> Figure | None:
    known = [row for row in rows if is_number(row.get("trial"))]
    values = [row.get(metric) if is_number(row.get(metric)) else None for row in known]
    numbers = [v for v in values if v is not None]
    if not numbers:
        return None
    low, high = min(numbers), max(numbers)
    span = (high - low) or 1.0
    good = [None if v is None else ((v - low) / span if up else (high - v) / span) for v in values]
    complete = [
        place
        for place, row in enumerate(known)
        if row.get("state") == "COMPLETE" and good[place] is not None
    ]
    best = max(complete, key=lambda place: good[place] or 0.0) if complete else None
    names = [str(parameter.get("name")) for parameter in parameters][:9]
    logs = {str(parameter.get("name")): bool(parameter.get("log")) for parameter in parameters}
    held = {name: [row.get(name) for row in known] for name in names}
    same = [name for name in names if len(set(map(str, held[name]))) == 1]
    names = [name for name in names if name not in same]  # such an axis tells no trial apart
    columns = [Axis(name + " (log)" * logs[name], held[name], logs[name]) for name in names]
    columns.append(Axis(named(metric), values))
    drawing = charts.parallel(columns, good, best, "Parallel coordinates")
    if drawing is None:
        return None
    note = "one line for each trial, darker where better; the thick one is the best"
    full = "; ".join(names)
    if same:
        alike = ", ".join(f"{name} {_short(held[name][0])}" for name in same)
        full += f". The same in every trial: {alike}"
    return Figure("Parallel coordinates", drawing, f"{note}. Columns: {full}.")


def _front(
    rows: Sequence[Mapping[str, Any]], objectives: Sequence[Mapping[str, Any]]
) -> Figure | None:
    first, second = (str(one.get("metric")) for one in objectives[:2])
    dots, line = [], []
    for row in rows:
        x, y = row.get(first), row.get(second)
        if not (is_number(x) and is_number(y)):
            continue
        on = str(row.get("pareto")) == "True"
        said = f"trial {row.get('trial')}: {first} {number(x)}, {second} {number(y)}"
        dots.append(Dot(float(x), float(y), 1 if on else 0, said, strong=on))
        line += [(float(x), float(y))] if on else []
    groups = ["trial", "on the Pareto front"]
    across, up = named(first), named(second)
    drawing = charts.scatter(
        dots, groups, f"{up} over {across}", x=across, y=up, height=320, line=sorted(line)
    )
    if drawing is None:
        return None
    ways = " and ".join(
        f"{named(str(one.get('metric')))}, to {one.get('direction')}," for one in objectives[:2]
    )
    return Figure(
        "Pareto front", drawing, f"{ways}: no trial is better in both than one on the front"
    )


def table(
    rows: Sequence[Mapping[str, Any]],
    objectives: Sequence[Mapping[str, Any]],
    parameters: Sequence[Mapping[str, Any]],
    study: Mapping[str, Any],
    target: Target = lambda name: "",
) -> Section:
    """Every trial with its parameters, and a link to its page where that is known."""
    metrics = [str(one.get("metric")) for one in objectives]
    names = [str(parameter.get("name")) for parameter in parameters][:9]
    best = mapping(study.get("best")).get("trial")
    listed: list[list[Any]] = []
    marked = []
    is_share = isinstance(study.get("images"), int)
    for row in rows[:200]:
        marked += [len(listed)] if row.get("trial") == best else []
        values = [
            (percent if is_share and name == study.get("metric") else number)(row.get(name))
            for name in metrics
        ]
        chosen = [number(row.get(name)) for name in names]
        took = seconds(row.get("seconds"))
        reason = str(row.get("reason") or "")[:120]
        state = str(row.get("state") or "").lower()
        if reason:  # that of a pruned trial begins with the word
            state = reason if reason.startswith(state) else f"{state}: {reason}"
        there = target(str(row.get("child") or ""))
        trial = Link(str(row.get("trial")), there) if there else row.get("trial")
        listed.append([trial, state, *values, row.get("best_epoch"), took, *chosen])
    short = [name.rsplit(".", 1)[-1] for name in names]
    head = ["trial", "state", *map(named, metrics), "best epoch", "time, start included", *short]
    numeric = tuple(range(2, len(head)))
    lead = f"{len(rows) - 200} more are in {TABLE}" if len(rows) > 200 else ""
    there = target(TABLE)
    what = "state, metrics, every searched parameter, job and seconds of every trial"
    whole = [Link(TABLE, there) if there else f"{TABLE}, in the job's folder", what]
    tables: list[Block] = [
        Table(head, listed, "All trials", numeric, marked),
        Table(["file", "holds"], [whole], "As a table"),
    ]
    return Section("Trials", tables, lead)
