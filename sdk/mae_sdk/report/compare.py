"""Two jobs beside each other: what differs in their specs, their results, their curves."""

from __future__ import annotations

from typing import Any

from mae_skill.diff import diff_specs

from mae_sdk.job import beside
from mae_sdk.jobs.intervals import difference
from mae_sdk.jobs.metrics import mapping
from mae_sdk.jobs.status import is_number
from mae_sdk.report import charts, first_screen, page
from mae_sdk.report.blocks import Block, Figure, Figures, Section, Table, Text
from mae_sdk.report.charts import Options, Series
from mae_sdk.report.facts import Facts, facts_of, shown
from mae_sdk.report.markup import number


def render_compare(first: Facts, second: Facts) -> str:
    """The page of two jobs. Of a study, spec and curves are those of its best trial."""
    models = [_best_trial(facts) for facts in (first, second)]
    sections = [results(first, second), spec(*models), curves(*models)]
    return page.fill(
        "compare.html.j2",
        f"{first.id} and {second.id}",
        jobs=[
            {
                "id": facts.id,
                "heading": first_screen.heading(facts),
                "state": facts.state,
                "color": color,
            }
            for color, facts in enumerate((first, second))
        ],
        sections=[one for one in sections if one is not None],
    )


def _best_trial(facts: Facts) -> Facts:
    """The best trial of a study; of anything else, or where it is not there, the job itself."""
    best = mapping(mapping(facts.figures.get("study")).get("best"))
    child = beside(facts.job, str(best["child"])) if best.get("child") else None
    return facts if child is None else facts_of(child)


def results(first: Facts, second: Facts) -> Section:
    """Every metric that both have, with the difference, and its interval where it is a share."""
    best = [_best(facts) for facts in (first, second)]
    rows: list[list[Any]] = []
    for name in best[0]:
        if name not in best[1]:
            continue
        (one, images), (other, more) = best[0][name], best[1][name]
        span = "–"
        if images and more and 0 <= one <= 1 and 0 <= other <= 1:
            low, high = difference(other, more, one, images)
            told = "told apart" if low > 0 or high < 0 else "cannot be told apart"
            span = f"{100 * low:+.1f} to {100 * high:+.1f} points: {told}"
        rows.append([name, number(one), number(other), f"{other - one:+.4g}", span])
    blocks: list[Block] = []
    if rows:
        head = ["metric", first.id, second.id, "difference", "95 %"]
        blocks.append(Table(head, rows, "The best value of every metric that both have", (1, 2, 3)))
    else:
        blocks.append(Text("The two have no metric in common.", "note"))
    return Section("Results", blocks)


def _best(facts: Facts) -> dict[str, tuple[float, int | None]]:
    """Metric → best value, and the images that it is a share of."""
    found: dict[str, tuple[float, int | None]] = {}
    shares = mapping(facts.result.get("shares"))
    for name, value in facts.kpis.items():
        if is_number(value):
            images = shares.get(name)
            found[name] = (float(value), images if isinstance(images, int) else None)
    for name, top in mapping(facts.figures.get("best")).items():
        value, images = mapping(top).get("value"), mapping(top).get("images")
        if is_number(value):
            found[name] = (float(value), images if isinstance(images, int) else None)
    study = mapping(facts.figures.get("study"))
    value, images = mapping(study.get("best")).get("value"), study.get("images")
    if is_number(value):
        found[str(study["metric"])] = (value, images if isinstance(images, int) else None)
    return found


def spec(first: Facts, second: Facts) -> Section:
    """What differs between the two specs."""
    rows = [
        [str(one["key"]), shown(one["a"]), shown(one["b"])]
        for one in diff_specs(first.spec, second.spec)
        if one["key"] != "results_dir"
    ]
    if not rows:
        return Section("Specs", [Text("The two specs are equal.", "note")])
    head = ["field", first.id, second.id]
    differ = "1 field differs" if len(rows) == 1 else f"{len(rows)} fields differ"
    return Section("Specs", [Table(head, rows, differ)])


def curves(first: Facts, second: Facts) -> Section | None:
    """The curves of both over each other."""
    figures = []
    both = (first, second)
    for name, title in (
        ("train_loss_step", "Loss of each step"),
        ("lr", "Learning rate"),
        ("grad_norm", "Gradient norm"),
    ):
        series = [
            Series(facts.id, facts.steps.get(name, []), color) for color, facts in enumerate(both)
        ]
        figures.append(_figure(title, series, "step"))
    names = dict.fromkeys(
        str(name) for facts in both for line in facts.marks for name in mapping(line.get("kpi"))
    )
    for name in names:
        series = [
            Series(facts.id, facts.curve_of(name), color, dots=True)
            for color, facts in enumerate(both)
        ]
        figures.append(_figure(name, series, first.unit))
    drawn = [one for one in figures if one is not None]
    return Section("Curves", [Figures(drawn)]) if drawn else None


def _figure(title: str, series: list[Series], x: str) -> Figure | None:
    drawing = charts.lines(series, Options(title, x=x))
    return None if drawing is None else Figure(title, drawing)
