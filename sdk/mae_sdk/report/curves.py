"""The curves of a training run, and its table of checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mae_sdk.jobs.metrics import mapping
from mae_sdk.jobs.status import is_count, is_number
from mae_sdk.report import charts
from mae_sdk.report.blocks import Block, Figure, Figures, Section, Table
from mae_sdk.report.charts import Marker, Options, Series
from mae_sdk.report.facts import Curve, Facts
from mae_sdk.report.markup import number, size
from mae_sdk.report.words import named

_LOSSES = ("train_loss", "val_loss")
_ERRORS = {"ece"}
"""In 0 … 1 like accuracies, but less is better."""
_WAYS = {"maximize": "more is better", "minimize": "less is better"}
_OF_STEPS = {"train_loss_step", "lr", "grad_norm"}
MAX_ROWS = 300
"""Rows of the numbers of a curve: more are thinned, and the table says so."""


def curves(facts: Facts) -> Section | None:
    """Loss, rate, gradient norm, quality, throughput and memory, as far as they are known."""
    drawn = [
        loss(facts),
        *quality(facts),
        rate(facts),
        norm(facts),
        throughput(facts),
        memory(facts),
    ]
    found = [one for one in drawn if one is not None]
    if not found:
        return None
    return Section("Curves", [Figures(found)])


def _axis(facts: Facts) -> str:
    """What the curves are drawn over: steps, or the epochs of a runner that names no steps."""
    named = any(is_count(line.get("step")) for line in facts.marks)
    return "step" if named or not facts.marks else "epoch"


def _step_of(facts: Facts) -> dict[int, float]:
    """Epoch → the step that it ended at, so that epochs and steps share an axis."""
    axis = _axis(facts)
    return {line[facts.unit]: line[axis] for line in facts.marks if is_count(line.get(axis))}


def _on_steps(facts: Facts, curve: Curve) -> Curve:
    ends = _step_of(facts)
    return [(ends[int(epoch)], value) for epoch, value in curve if int(epoch) in ends]


def loss(facts: Facts) -> Figure | None:
    """The loss of every step behind the means of the epochs."""
    steps = facts.steps.get("train_loss_step", [])
    means = {name: _on_steps(facts, facts.curve_of(name)) for name in _LOSSES}
    series = [Series("each step", steps, 0, faint=True)] if steps else []
    series += [
        Series(named(name), points, place, dots=len(points) <= 40)
        for place, (name, points) in enumerate(means.items())
        if points
    ]
    drawing = charts.lines(series, Options("Loss", x=_axis(facts), markers=_best_marker(facts)))
    if drawing is None:
        return None
    table = _epoch_table(facts, [name for name, points in means.items() if points], "Loss")
    both = all(means.values())
    return Figure("Loss", drawing, _measures(facts) if both else "", table)


def _measures(facts: Facts) -> str:
    """Why the two losses are not the same measure, where they are not: the gap between them then
    says nothing of overfitting."""
    found = []
    auxiliary = facts.setting("model.segmentation.auxiliary_weight")
    if facts.segments and is_number(auxiliary) and auxiliary > 0:
        found.append(f"the auxiliary head's loss, {number(auxiliary)} of it")
    mixing = ("dataset.augmentation.mixup", "dataset.augmentation.cutmix")
    mixed = any(is_number(facts.setting(key)) and facts.setting(key) > 0 for key in mixing)
    if mixed and not facts.segments:
        found.append("mixed images with mixed labels")
    if not found or facts.stage == "pretrain":
        return ""
    return (
        f"The training loss holds {' and '.join(found)}, which the validation loss does not: their "
        "distance says nothing of overfitting."
    )


def _best_marker(facts: Facts) -> list[Marker]:
    best = mapping(facts.figures.get("best_checkpoint"))
    ends = _step_of(facts)
    if best.get("epoch") in ends:
        return [Marker(ends[best["epoch"]], f"best {named(str(best.get('metric')))}")]
    return []


def quality(facts: Facts) -> list[Figure]:
    """Every other metric that an epoch reports: accuracies and IoU together, the rest apart."""
    names: list[str] = []
    for line in facts.marks:
        for name, value in mapping(line.get("kpi")).items():
            if is_number(value) and name not in (*_LOSSES, *names):
                names.append(str(name))
    shares = [
        name
        for name in names
        if name not in _ERRORS and all(0 <= v <= 1 for _, v in facts.curve_of(name))
    ]
    rest = [name for name in names if name not in shares]
    figures = []
    if shares:
        figures.append(_metric_figure(facts, "Quality", shares))
    figures += [_metric_figure(facts, name, [name]) for name in rest[:8]]
    return [one for one in figures if one is not None]


def _metric_figure(facts: Facts, title: str, names: Sequence[str]) -> Figure | None:
    series = [
        Series(named(name), _on_steps(facts, facts.curve_of(name)), place, dots=True)
        for place, name in enumerate(names[: charts.COLORS])
    ]
    shown = named(title)
    if len(names) == 1 and title not in names:
        shown += f": {named(names[0])}"
    drawing = charts.lines(series, Options(shown, x=_axis(facts), markers=_best_marker(facts)))
    if drawing is None:
        return None
    ways = {mapping(mapping(facts.figures.get("best")).get(n)).get("direction") for n in names}
    said = _WAYS.get(str(ways.pop()), "") if len(ways) == 1 else ""
    return Figure(shown, drawing, said, _epoch_table(facts, names, title))


def rate(facts: Facts) -> Figure | None:
    points = facts.steps.get("lr", [])
    drawing = charts.lines(
        [Series("learning rate", points, 2)], Options("Learning rate", zero=True, height=210)
    )
    if drawing is None:
        return None
    return Figure("Learning rate", drawing, "", _step_table(points, "learning rate"))


def norm(facts: Facts) -> Figure | None:
    points = facts.steps.get("grad_norm", [])
    positive = [value for _, value in points if is_number(value) and value > 0]
    log = bool(positive) and max(positive) > 30 * min(positive)
    drawing = charts.lines(
        [Series("gradient norm", points, 3)], Options("Gradient norm", log=log, height=210)
    )
    if drawing is None:
        return None
    clip = facts.setting("train.clip_grad_norm")
    caption = f"before clipping at {number(clip)}" if clip else "no clipping"
    return Figure("Gradient norm", drawing, caption, _step_table(points, "gradient norm"))


def throughput(facts: Facts) -> Figure | None:
    """Images per second of every epoch, from its time; what was validated does not count."""
    images = facts.derived.get("images")
    if not is_number(images):
        return None
    points = [
        (line["epoch"], float(images) / line["time_per_epoch"])
        for line in facts.marks
        if is_number(line.get("time_per_epoch")) and line["time_per_epoch"] > 0
    ]
    options = Options("Throughput", x="epoch", zero=True, height=210)
    drawing = charts.lines([Series("images per second", points, 4, dots=True)], options)
    if drawing is None:
        return None
    table = _numbers("epoch", "images per second", points, "Throughput")
    return Figure("Throughput", drawing, "training images per second, of each epoch", table)


def memory(facts: Facts) -> Figure | None:
    """The largest memory so far, at the end of every epoch."""
    points = [
        (line["epoch"], line["peak_memory_mb"])
        for line in facts.marks
        if is_number(line.get("peak_memory_mb"))
    ]
    options = Options("Memory", x="epoch", zero=True, height=210)
    drawing = charts.lines([Series("peak memory, MB", points, 6, dots=True)], options)
    if drawing is None:
        return None
    device = facts.derived.get("device")
    where = "of the process" if str(device) == "cpu" else f"of {device}"
    table = _numbers("epoch", "MB", points, "Memory")
    return Figure("Peak memory", drawing, f"MB {where}, rank 0", table)


def _epoch_table(facts: Facts, names: Sequence[str], title: str) -> Table:
    """The metrics of every epoch, that of the best checkpoint marked; of very many some."""
    columns = {name: dict(facts.curve_of(name)) for name in names}
    epochs = sorted({epoch for points in columns.values() for epoch in points})
    best = mapping(facts.figures.get("best_checkpoint"))
    judged = dict(facts.curve_of(str(best.get("metric"))))
    place = best.get("epoch")
    top = judged.get(place) if is_number(place) else None
    kept = {epoch for epoch, value in judged.items() if top is not None and value == top}  # ties
    kept |= {epoch for points in columns.values() for epoch in ends(points)}
    chosen, said = few(epochs, kept)
    rows = [[int(e), *(number(columns[name].get(e)) for name in names)] for e in chosen]
    marked = [place for place, e in enumerate(chosen) if e == place]
    head, numeric = [facts.unit, *map(named, names)], tuple(range(len(names) + 1))
    return Table(head, rows, f"{title}: numbers{said}", numeric, marked, collapsed=True)


def _step_table(points: Curve, name: str) -> Table:
    return _numbers("step", name, points, f"{name}: numbers")


def _numbers(unit: str, name: str, points: Curve, caption: str) -> Table:
    values = dict(points)
    chosen, said = few(sorted(values), ends(values))
    rows = [[int(at), number(values[at])] for at in chosen]
    return Table([unit, name], rows, f"{caption}{said}", (0, 1), collapsed=True)


def ends(values: Mapping[float, Any]) -> list[float]:
    """Where a curve is least and where it is most: one of them is its best."""
    known = {at: value for at, value in values.items() if is_number(value)}
    return [min(known, key=known.__getitem__), max(known, key=known.__getitem__)] if known else []


def few(places: Sequence[float], keep: Collection[float] = ()) -> tuple[list[float], str]:
    """The rows of the numbers of a curve: all of them up to `MAX_ROWS`, of more evenly some, the
    last one and those to keep among them; and in words that they are not all."""
    stride = -(-len(places) // MAX_ROWS) if places else 1
    if stride == 1:
        return list(places), ""
    last = len(places) - 1
    chosen = [at for i, at in enumerate(places) if (last - i) % stride == 0 or at in keep]
    said = f" (one row in {stride} of {len(places):,}, with the least, the most and the last)"
    return chosen, said


def checkpoints(facts: Facts) -> Section | None:
    """The checkpoints that are kept, the best one marked."""
    entries = [mapping(one) for one in facts.index.get("checkpoints") or ()]
    if not entries:
        return None
    best = mapping(facts.figures.get("best_checkpoint"))
    names = list(dict.fromkeys(n for one in entries for n in mapping(one.get("metrics"))))[:6]
    listed = entries if len(entries) <= 40 else [*entries[:5], *entries[-30:]]
    rows: list[list[Any]] = []
    marked = []
    for entry in listed:
        file = str(entry.get("file"))
        is_best = file == best.get("file")
        marked += [len(rows)] if is_best else []
        values = mapping(entry.get("metrics"))
        name = f"{file}  ★ best" if is_best else file
        rows.append(
            [
                name,
                entry.get("epoch"),
                entry.get("step"),
                *(number(values.get(metric)) for metric in names),
                size(entry.get("size")),
                str(entry.get("sha256") or "")[:12],
            ]
        )
    head = ["file", "epoch", "step", *map(named, names), "size", "SHA-256"]
    lead = ""
    if best:
        lead = f"Best by {named(str(best.get('metric')))}: {best.get('file')}. Epochs count from 0."
    keep = facts.setting("train.keep_checkpoints")
    if facts.action == "train" and isinstance(keep, int):
        newest = "the newest one" if keep == 1 else f"the newest {keep}"
        lead += f" train.keep_checkpoints={keep} keeps {newest} and the best, which may be another."
    if len(listed) < len(entries):
        lead += f" {len(entries) - len(listed)} of {len(entries)} are not listed."
    numeric = tuple(range(1, len(head) - 1))
    blocks: list[Block] = [Table(head, rows, "Checkpoints kept", numeric, marked)]
    return Section("Checkpoints", blocks, lead)
