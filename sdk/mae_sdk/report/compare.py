"""Two jobs beside each other: what differs in their specs, their results, their curves.

Only figures that measure the same are subtracted, or drawn over each other; of the others the page
says in a sentence why they are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.conditions import holds
from mae_skill.diff import diff_specs
from mae_skill.errors import MaeError

from mae_sdk.job import beside
from mae_sdk.jobs.intervals import Gap, gap
from mae_sdk.jobs.judged_on import Images, images_of
from mae_sdk.jobs.metrics import mapping
from mae_sdk.jobs.paired import METRIC, pairs_of
from mae_sdk.jobs.status import is_number
from mae_sdk.report import charts, first_screen, page
from mae_sdk.report.blocks import Block, Figure, Figures, Section, Table, Text
from mae_sdk.report.charts import Options, Series
from mae_sdk.report.curves import ends, few
from mae_sdk.report.facts import Curve, Facts, as_list, base, facts_of, shown
from mae_sdk.report.markup import number
from mae_sdk.report.words import named

_ROUNDING = 1e-6
MAX_METRICS = 30
"""Metrics whose curves are drawn."""
_STEPS = (
    ("train_loss_step", "Training loss of each step"),
    ("lr", "Learning rate"),
    ("grad_norm", "Gradient norm"),
)
_SAME_AS = {"train_loss_step": "train_loss"}
"""Curve → the metric whose contract it has."""
_ANY = {"val_data_sources": {"uri": "any"}, "train_data_sources": {"uri": "any"}}
"""Sources of which any metric that is of images is."""


def render_compare(first: Facts, second: Facts) -> str:
    """The page of two jobs. Of a study, all of it is of its best trial."""
    pair = Pair(best_trial(first), best_trial(second))
    sections = [results(pair), spec(pair), curves(pair)]
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


def best_trial(facts: Facts) -> Facts:
    """The best trial of a study; of anything else, or where it is not there, the job itself."""
    best = mapping(mapping(facts.figures.get("study")).get("best"))
    child = beside(facts.job, str(best["child"])) if best.get("child") else None
    return facts if child is None else facts_of(child)


# ------------------------------------------------------------------ what compares


@dataclass
class Pair:
    """The two jobs."""

    first: Facts
    second: Facts

    @property
    def both(self) -> tuple[Facts, Facts]:
        return self.first, self.second

    @property
    def ids(self) -> list[str]:
        return [facts.id for facts in self.both]

    @cached_property
    def contract(self) -> list[Mapping[str, Any]]:
        """What the bundle of the first one says of its metrics."""
        try:
            bundle = Bundle.load(self.first.record.get("skill_dir") or None)
            found = bundle.schema("train").get("automl_metrics")
        except (MaeError, OSError):  # it was moved, or has no such action
            return []
        return [mapping(entry) for entry in as_list(found)]


def apart(pair: Pair) -> str:
    """Why no figure of the one measures what it measures of the other; empty where they do."""
    first, second = pair.both
    if any(first.record.get(key) != second.record.get(key) for key in ("skill", "skill_dir")):
        return "The two are jobs of different bundles, whose metrics need not be the same."
    for what, one, other in (
        ("stage", first.stage, second.stage),
        ("task", _task(first), _task(second)),
    ):
        if one and other and one != other:
            return (
                f"The {what} of {first.id} is {one}, that of {second.id} is {other}: "
                "a metric of the same name measures something else in each, so they are not "
                "compared."
            )
    return ""


def _task(facts: Facts) -> str | None:
    """What fine-tuning trains; None where that is not known, or no labels are learned."""
    if facts.stage == "pretrain":
        return None
    if facts.setting("model.multi_label") is True:
        return "classification of several labels"
    found = facts.setting("model.task")
    return found if isinstance(found, str) else None


def apart_in(pair: Pair, metric: str) -> str:
    """Why this metric does not compare: of all metrics (`apart`), since other images or classes
    are measured, or since a field differs that changes what it measures, as the contract of the
    bundle says; empty where it does."""
    name = _SAME_AS.get(metric, metric)
    if why := apart(pair) or _other_classes(pair, name) or _other_images(pair, name):
        return why
    is_same = pair.first.action == pair.second.action
    for key in _incomparable(pair, name):
        one, other = (facts.setting(key) for facts in pair.both)
        # An action of another kind has no such field.
        if one != other and (is_same or None not in (one, other)):
            return _changes(pair, key, one, other)
    return ""


def _changes(pair: Pair, key: str, one: Any, other: Any) -> str:
    return (
        f"{key} is {shown(one, 60)} in {pair.first.id} and {shown(other, 60)} in "
        f"{pair.second.id}, which changes what is measured."
    )


def of_images(metric: str) -> bool:
    """Whether a metric is of images at all, and not of the machine."""
    return images_of(_ANY, metric) is not None


def _other_classes(pair: Pair, metric: str) -> str:
    """That labels are told among other classes; empty of what no label is in."""
    if pair.first.stage == "pretrain" or not of_images(metric):
        return ""
    for key in ("model.num_classes", "dataset.classes"):
        one, other = (facts.setting(key) for facts in pair.both)
        if one != other and None not in (one, other):
            return _changes(pair, key, one, other)
    return ""


def _other_images(pair: Pair, metric: str) -> str:
    """That the metric is of other images; empty where it is of the same, or that is not known."""
    one, other = (images_of(facts.sources, metric) for facts in pair.both)
    if one is None or other is None:
        return ""
    seeds = [facts.setting("train.seed") for facts in pair.both]
    drawn = any("held out" in found.words for found in (one, other))
    if one.key == other.key and (not drawn or seeds[0] == seeds[1]):
        return ""
    if one.key == other.key:
        place = one.words.partition(" held out of ")[2]
        return f"train.seed differs, so that other images are held out of {place}."
    if one.words == other.words:
        return f"the images of {one.words} were others when the second of the two ran."
    verb = "trained" if metric.startswith("train_") else "judged"
    return (
        f"{pair.first.id} was {verb} on {place_of(one)}, {pair.second.id} on {place_of(other)}: a "
        "difference would be one of the images. Evaluate both models on one set."
    )


def place_of(images: Images) -> str:
    """Where images lie, in the width of a sentence."""
    what, held, place = images.words.partition(" held out of ")
    return f"{what}{held}{base(place)}" if held else base(what)


def _told(reasons: Sequence[tuple[str, str]], pair: Pair) -> list[Block]:
    """Why metrics are not compared, each reason once: of (metric, reason), empty: it is."""
    names: dict[str, list[str]] = {}
    for name, why in reasons:
        if why:
            names.setdefault(why, []).append(name)
    said = []
    for why, of in names.items():
        listed = ", ".join(of[:-1]) + " and " + of[-1] if len(of) > 1 else of[0]
        verb = "are" if len(of) > 1 else "is"
        said.append(why if why == apart(pair) else f"{listed} {verb} not compared: {why}")
    return [Text(one, "note") for one in said]


def _incomparable(pair: Pair, metric: str) -> list[str]:
    """The fields across whose values a metric of this stage does not compare."""
    found: list[str] = []
    for entry in pair.contract:
        of_training = {
            key: need
            for key, need in mapping(entry.get("when")).items()
            if str(key).startswith("train.")
        }
        if entry.get("metric") == metric and holds(of_training, pair.first.spec):
            found += [str(key) for key in as_list(entry.get("incomparable"))]
    return list(dict.fromkeys(found))


# ------------------------------------------------------------------ the sections


def results(pair: Pair) -> Section:
    """Every metric of either, and of those that compare the difference, with its interval where it
    is a share of images."""
    held_by = [measured(facts) for facts in pair.both]
    rows: list[list[Any]] = []
    notes: list[tuple[str, str]] = []
    for name in dict.fromkeys([*held_by[0].values, *held_by[1].values]):
        held = [one.values.get(name) for one in held_by]
        row = [
            named(name),
            *("–" if one is None else first_screen.told(name, *one) for one in held),
            "–",
            "–",
        ]
        if held[0] is not None and held[1] is not None:
            (one, images), (other, more) = held[0], held[1]
            if why := apart_in(pair, name):
                notes.append((named(name), why))
            else:
                # Two processes round the same figure apart.
                away = 0.0 if math.isclose(one, other, rel_tol=_ROUNDING) else other - one
                of_share = row[1].endswith("%")
                row[3] = f"{100 * away:+.1f} points" if of_share else f"{away:+.4g}"
                found = gap_of(Pair(pair.second, pair.first), name, (other, more), (one, images))
                if found is not None:
                    told = "told apart" if found.is_told else "cannot be told apart"
                    span = f"{100 * found.low:+.1f} to {100 * found.high:+.1f} points"
                    row[4] = f"{span}: {told} ({found.test})"
        rows.append(row)
    if not rows:
        return Section("Results", [Text("Neither of the two has reported a metric.", "note")])

    said = [*_doubted(pair), *_told(notes, pair)]
    if not notes and all(row[3] == "–" for row in rows):
        said.append(Text("The two have no metric in common.", "note"))
    head = ["metric", *pair.ids, "second − first", "95 % interval of the difference"]
    of = zip(pair.ids, held_by, strict=True)
    caption = "; ".join(f"{name}: {one.where}" for name, one in of)
    return Section("Results", [*said, Table(head, rows, caption, (1, 2, 3))])


Value = tuple[float, int | None]
"""A figure, and the images that it is a share of."""


def gap_of(pair: Pair, metric: str, first: Value, second: Value) -> Gap | None:
    """How far the first is from the second in a metric that compares (`apart_in`), by pairs where
    both have kept their answers to the same images; None where it is no share of images."""
    (one, images), (other, more) = first, second
    if not (images and more and 0 <= one <= 1 and 0 <= other <= 1):
        return None
    pairs = pairs_of(pair.first.answers, pair.second.answers) if metric == METRIC else None
    return gap(one, images, other, more, pairs)


def _doubted(pair: Pair) -> list[Block]:
    """Why the figures of either are in doubt, as on its own page."""
    doubts = [(facts.id, one) for facts in pair.both for one in (*facts.doubts, *facts.inherited)]
    return [Text(f"{name} is in doubt: {one}", "warning") for name, one in doubts]


@dataclass(frozen=True)
class Measured:
    """The figures of one model, all of one place.

    Attributes:
        values: metric → value, and the images that it is a share of.
        where: of what they are, in words.
    """

    values: Mapping[str, Value]
    where: str


def measured(facts: Facts) -> Measured:
    """What a job measures: a training that of its best checkpoint that is kept, which a next job
    takes and an evaluation judges; without one the newest values. The best value of each metric by
    itself would be of another epoch each, of which no model is there."""
    kept = mapping(facts.figures.get("best_checkpoint")) if facts.action == "train" else {}
    values, where = facts.kpis, "its result" if facts.result else "the newest values"
    unit = next((name for name in ("epoch", "step") if kept.get(name) is not None), None)
    if unit is not None:
        of_file = _entry(facts, kept.get("file"))
        lines = [mapping(one.get("kpi")) for one in facts.lines if one.get(unit) == kept[unit]]
        values = {}
        for one in (*lines, of_file):
            values.update(one)
        values.setdefault(str(kept.get("metric")), kept.get("value"))
        where = f"{unit} {kept[unit]}, of its best checkpoint that is kept"
    elif facts.action == "train":
        where = "the newest values, since no best checkpoint is kept"
    shares, best = mapping(facts.result.get("shares")), mapping(facts.figures.get("best"))
    found: dict[str, Value] = {}
    for name, value in values.items():
        images = mapping(best.get(name)).get("images") or shares.get(name)
        if is_number(value):
            found[str(name)] = (float(value), images if isinstance(images, int) else None)
    return Measured(found, where)


def _entry(facts: Facts, file: Any) -> Mapping[str, Any]:
    """What the checkpoint index says of a file."""
    entries = map(mapping, as_list(facts.index.get("checkpoints")))
    return mapping(next((one for one in entries if one.get("file") == file), {}).get("metrics"))


def spec(pair: Pair) -> Section:
    """What differs between the two specs, of the fields that act in both."""
    kinds = {facts.action for facts in pair.both}
    rows = [
        [str(one["key"]), shown(one["a"]), shown(one["b"])]
        for one in diff_specs(pair.first.spec, pair.second.spec)
        if one["key"] != "results_dir" and one["a"] != one["b"] and _acts(pair, one)
    ]
    note = "Fields that only one of the two actions reads are left out."
    more: list[Block] = [Text(note, "note")] if len(kinds) > 1 else []
    if not rows:
        return Section("Specs", [Text("The two specs are equal.", "note"), *more])
    differ = "1 field differs" if len(rows) == 1 else f"{len(rows)} fields differ"
    return Section("Specs", [Table(["field", *pair.ids], rows, differ), *more])


def _acts(pair: Pair, row: Mapping[str, Any]) -> bool:
    """Whether a field acts in both jobs: of two actions one has fields that the other lacks, leaves
    unset, or holds at the template's value without reading them (the epochs of an evaluation)."""
    actions = [facts.action for facts in pair.both]
    if actions[0] == actions[1]:
        return True
    if row["change"] != "changed" or None in (row["a"], row["b"]):
        return False
    section = str(row["key"]).partition(".")[0]
    return section not in ("train", *actions) or all(
        facts.action == section or row["key"] in mapping(facts.record.get("changed"))
        for facts in pair.both
    )


def curves(pair: Pair) -> Section | None:
    """The curves of both: over each other where they compare, else each by itself."""
    figures: list[Figure] = []
    notes: list[tuple[str, str]] = []
    for name, title in _STEPS:
        points = [facts.steps.get(name, []) for facts in pair.both]
        why = apart_in(pair, name) if all(points) else ""
        figures += _figures(title, pair.ids, points, ("step", "step"), why)
        notes.append((title, why))
    names = dict.fromkeys(
        str(name)
        for facts in pair.both
        for line in facts.marks
        for name in mapping(line.get("kpi"))
    )
    units = (pair.first.unit, pair.second.unit)
    for name in list(names)[:MAX_METRICS]:
        points = [facts.curve_of(name) for facts in pair.both]
        why = apart_in(pair, name) if all(points) else ""
        if all(points) and not why and units[0] != units[1]:
            why = (
                f"{pair.first.id} reports by {units[0]}, {pair.second.id} by {units[1]}: their "
                "curves have no common axis."
            )
        figures += _figures(named(name), pair.ids, points, units, why, dots=True)
        notes.append((named(name), why))
    if not figures:
        return None
    return Section("Curves", [*_told(notes, pair), Figures(figures)])


def _figures(
    title: str,
    ids: Sequence[str],
    points: Sequence[Curve],
    units: Sequence[str],
    why: str,
    *,
    dots: bool = False,
) -> list[Figure]:
    """One chart of the curves that are there; where there is a reason against that, one of each."""
    # The second one is dashed: colors alone do not tell them apart for everybody.
    series = [
        Series(name, curve, color, dots=dots, dashed=color == 1)
        for color, (name, curve) in enumerate(zip(ids, points, strict=True))
    ]
    drawn = [(one, unit) for one, unit in zip(series, units, strict=True) if one.points]
    if why:
        found = [_figure(f"{title}: {one.label}", [one], unit) for one, unit in drawn]
    else:
        found = [_figure(title, [one for one, _ in drawn], drawn[0][1])] if drawn else []
    return [one for one in found if one is not None]


def _figure(title: str, series: Sequence[Series], x: str) -> Figure | None:
    drawing = charts.lines(series, Options(title, x=x, legend=True))
    if drawing is None:
        return None
    values: list[Mapping[float, float]] = [dict(charts.finite(one.points)) for one in series]
    kept = {at for one in values if one for at in (*ends(one), max(one))}
    chosen, said = few(sorted({at for one in values for at in one}), kept)
    rows = [[number(at), *(number(one.get(at)) for one in values)] for at in chosen]
    head = [x, *(one.label for one in series)]
    table = Table(head, rows, f"{title}: numbers{said}", tuple(range(len(head))), collapsed=True)
    return Figure(title, drawing, "", table)
