"""How good a model is: of an evaluation, class by class."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mae_skill.spelling import count_of

from mae_sdk.jobs.intervals import MIN_FOR_PERCENTILE, wilson
from mae_sdk.jobs.metrics import mapping
from mae_sdk.jobs.status import is_number
from mae_sdk.report import charts
from mae_sdk.report.blocks import Bar, Block, Figure, Matrix, Section, Table, Text
from mae_sdk.report.facts import Facts, as_list, rows_of
from mae_sdk.report.markup import number, percent

MATRIX_CLASSES = 30
"""Of more classes the largest confusions are listed instead of a matrix."""
MAX_CLASSES = 200


def sections(facts: Facts) -> list[Section]:
    """Classes, confusions, calibration and speed, as far as they were measured."""
    found = [classes(facts), confusions(facts), calibration(facts), answered(facts), speed(facts)]
    if facts.action == "train" and facts.judged:
        epoch = facts.judged.get("epoch")
        for section in found[:3]:
            if section is not None:
                section.title += f" of epoch {epoch}" if is_number(epoch) else ""
                section.lead = f"{_of_which(facts, epoch)} {section.lead}".strip()
    notes = [Text(str(note), "note") for note in as_list(facts.judged.get("notes"))]
    protocol = facts.judged.get("protocol")
    if protocol:
        k = facts.judged.get("k")
        notes.append(Text(f"Probe: {protocol}; the {k} nearest neighbors vote.", "note"))
        least = _smallest_class(facts)
        if is_number(k) and least is not None and least < k:
            text = (
                f"The smallest class has {least} images, fewer than the {k} that vote: others "
                "outvote it wherever it lies, which makes the k-NN figure low."
            )
            notes.append(Text(text, "note"))
    if notes:
        blocks: list[Block] = [*notes]
        found.insert(0, Section("How it was judged", blocks))
    return [one for one in found if one is not None]


def _smallest_class(facts: Facts) -> int | None:
    """Images of the smallest class among which neighbors are looked for: of the bank, where there
    is one; None where they were not counted."""
    for last in ("probe_train_data_sources", "probe_val_data_sources", "val_data_sources"):
        for key, seen in facts.sources.items():
            counts = [c for c in mapping(seen.get("class_counts")).values() if is_number(c)]
            if key.rsplit(".", 1)[-1] == last and counts:
                return int(min(counts))
    return None


def _of_which(facts: Facts, epoch: Any) -> str:
    """Which epoch's validation the blocks of a training are of."""
    if not is_number(epoch):
        return "At the last validation, which need not be that of the best checkpoint."
    kept = mapping(facts.figures.get("best_checkpoint"))
    if kept.get("epoch") == epoch:
        return f"The validation of epoch {epoch}, whose checkpoint is the best that is kept."
    return f"The validation of epoch {epoch}."


def classes(facts: Facts) -> Section | None:
    """A bar for every class with its count: recall of a classifier, IoU of a segmenter."""
    per_class = {str(k): mapping(v) for k, v in mapping(facts.judged.get("per_class")).items()}
    if not per_class:
        return _classes_of_training(facts)
    if any("AP" in one for one in per_class.values()):
        return _labels(facts, per_class)
    segments = any("IoU" in one for one in per_class.values())
    figure = "IoU" if segments else "recall"
    names = sorted(per_class, key=lambda name: _rank(per_class[name], figure))
    rows: list[list[Any]] = []
    for name in names[:MAX_CLASSES]:
        one = per_class[name]
        if segments:
            rows.append(
                [
                    name,
                    _bar(one.get("IoU")),
                    percent(one.get("accuracy")),
                    number(one.get("pixels")),
                ]
            )
            continue
        images = one.get("images")
        rows.append(
            [
                name,
                _bar(one.get("recall"), images if isinstance(images, int) else None),
                percent(one.get("precision")),
                percent(one.get("f1")),
                number(one.get("auroc"), 3),
                number(images),
            ]
        )
    if segments:
        head = ["class", "IoU", "accuracy", "pixels"]
        lead = "Worst first. IoU: overlap of truth and answer, over what either covers."
        numeric: tuple[int, ...] = (2, 3)
    else:
        head = ["class", "recall", "precision", "F1", "AUROC", "images"]
        lead = (
            "Worst first. Recall is the share of the class's images that were taken for it; the "
            "line across a bar is its 95 % interval (Wilson)."
        )
        numeric = (2, 3, 4, 5)
    if len(names) > MAX_CLASSES:
        lead += f" {_more(len(names))} in metrics.json."
    return Section("Classes", [Table(head, rows, "Every class", numeric, stacked=True)], lead)


def _more(count: int) -> str:
    """How many classes are left out, with their verb."""
    rest = count - MAX_CLASSES
    return f"{rest} more classes are" if rest > 1 else "1 more class is"


def answered(facts: Facts) -> Section | None:
    """How many images an inference took for each class, or for each label."""
    if facts.action != "inference":
        return None
    counts = mapping(facts.result.get("answered"))
    known = [(str(name), count) for name, count in counts.items() if is_number(count)]
    if not known:
        return None
    if shares := mapping(facts.result.get("answered_pixels")):
        return _pixels_answered(facts, shares, dict(known))
    known.sort(key=lambda one: -one[1])
    total = facts.kpis.get("images")
    images = total if is_number(total) and total else max(sum(count for _, count in known), 1)
    rows = [
        [name, Bar(min(count / images, 1.0), percent(count / images)), number(count)]
        for name, count in known[:MAX_CLASSES]
    ]
    unit = "images whose largest class it is" if facts.segments else "images taken for it"
    table = Table(["class", "share", unit], rows, f"Of {count_of(images, 'image')}", (2,))
    lead = f"Every answer is in {facts.place}/{facts.action}/results.csv."
    if len(known) > MAX_CLASSES:
        lead += f" {_more(len(known))} there."
    return Section("Answers by class", [table], lead)


def _pixels_answered(
    facts: Facts, shares: Mapping[str, Any], counts: Mapping[str, Any]
) -> Section | None:
    """How many pixels a segmenter took for each class, and how many images hold one of it."""
    known = sorted(((s, str(n)) for n, s in shares.items() if is_number(s)), reverse=True)
    rows = [
        [name, Bar(share, percent(share)), number(counts.get(name))]
        for share, name in known[:MAX_CLASSES]
    ]
    if not rows:
        return None
    head = ["class", "share of the pixels", "images that hold it"]
    table = Table(head, rows, f"Of {count_of(facts.kpis.get('images'), 'image')}", (2,))
    lead = (
        "As the model answered; the largest classes of each image are in "
        f"{facts.place}/{facts.action}/results.csv."
    )
    if len(known) > MAX_CLASSES:
        lead += f" {_more(len(known))} not shown."
    return Section("Answers by class", [table], lead)


def _labels(facts: Facts, per_class: Mapping[str, Mapping[str, Any]]) -> Section:
    """A bar for every class of a model whose images may be of several: average precision."""
    rows: list[list[Any]] = []
    for name in sorted(per_class, key=lambda name: _rank(per_class[name], "AP")):
        one = per_class[name]
        shares = [percent(one.get(key)) for key in ("precision", "recall", "f1")]
        figures = [number(one.get(key), 3) for key in ("auroc", "threshold")]
        has, images = one.get("images"), facts.judged.get("images")
        rate = has / images if is_number(has) and is_number(images) and images else None
        bar = _bar(one.get("AP"), mark=rate)
        rows.append([name, bar, percent(rate), *shares, *figures, number(has)])
    head = ["class", "AP", "base rate", "precision", "recall", "F1", "AUROC", "threshold", "images"]
    chosen = (
        "on these same images, which flatters them."
        if facts.action == "train"
        else "on the validation images of its training: where these are the same, they flatter."
    )
    lead = (
        "Worst first. AP: average precision, over all thresholds; by chance it is the base rate, "
        "the share of the images that have the label: the line across a bar. Precision, recall and "
        f"F1 are at the class's own threshold, which was chosen {chosen}"
    )
    guessed = [
        name
        for name, one in sorted(per_class.items())
        if is_number(one.get("auroc")) and one["auroc"] <= 0.5
    ]
    if guessed:
        named_ones = ", ".join(guessed[:8]) + (" …" if len(guessed) > 8 else "")
        lead += f" An AUROC of 0.5 is that of a coin, and not more have: {named_ones}."
    if len(rows) > MAX_CLASSES:
        lead += f" {_more(len(rows))} in metrics.json."
    return Section(
        "Classes",
        [Table(head, rows[:MAX_CLASSES], "Every class", tuple(range(2, 9)), stacked=True)],
        lead,
    )


def _rank(one: Any, figure: str) -> float:
    value = one.get(figure)
    return float(value) if is_number(value) else 2.0


def _bar(value: Any, images: int | None = None, mark: float | None = None) -> Any:
    if not is_number(value):
        return "–"
    low, high = wilson(value, images) if images else (None, None)
    return Bar(min(max(float(value), 0.0), 1.0), percent(value), low, high, mark)


def _classes_of_training(facts: Facts) -> Section | None:
    """IoU of the last validation of a segmenter's training."""

    rows: list[list[Any]] = []
    for row in rows_of(facts.text(f"{facts.action}/per_class_iou.csv")):
        share = row.get("IoU") or ""
        value = float(share) if share.replace(".", "", 1).isdigit() else None
        rows.append([row.get("class"), _bar(value), number(int(row.get("pixels") or 0))])
    if not rows:
        return None
    rows.sort(key=lambda row: row[1].share if isinstance(row[1], Bar) else 2.0)
    table = Table(["class", "IoU", "pixels"], rows[:MAX_CLASSES], "Every class", (2,))
    where = "At the last validation" if facts.action == "train" else "On the masks of the images"
    return Section("Classes", [table], f"{where}; worst first.")


def confusion_of(facts: Facts) -> tuple[list[str], list[list[int]]] | None:
    """Class names and counts of ``confusion_matrix.csv``; None without one."""
    rows = list(csv.reader(io.StringIO(facts.text(f"{facts.action}/confusion_matrix.csv"))))
    if len(rows) < 3:
        return None
    names = rows[0][1:]
    try:
        counts = [[int(float(cell)) for cell in row[1:]] for row in rows[1:]]
    except ValueError:
        return None
    if len(counts) != len(names) or any(len(row) != len(names) for row in counts):
        return None
    return names, counts


def only_answer(facts: Facts) -> str | None:
    """The class that every one of the images was taken for, of several classes; else None."""
    names, counts = confusion_of(facts) or ([], [])
    answered = [name for place, name in enumerate(names) if any(row[place] for row in counts)]
    several = sum(any(row) for row in counts) > 1
    return answered[0] if several and len(answered) == 1 else None


def confusions(facts: Facts) -> Section | None:
    """The confusion matrix, and the largest confusions as a list."""
    found = confusion_of(facts)
    if found is None:
        return None
    names, counts = found
    pairs = [
        (counts[i][j], counts[i][j] / max(sum(counts[i]), 1), names[i], names[j])
        for i in range(len(names))
        for j in range(len(names))
        if i != j and counts[i][j]
    ]
    pairs.sort(key=lambda pair: -pair[0])
    blocks: list[Block] = []
    if len(names) <= MATRIX_CLASSES:
        unit = "pixels" if facts.segments else "images"
        caption = (
            f"Counts of {unit}. Rows are true classes, columns the answers; shaded by the share of "
            "the row."
        )
        blocks.append(Matrix(names, counts, caption))
    rows = [[true, said, number(count), percent(share)] for count, share, true, said in pairs[:12]]
    if rows:
        head = ["true class", "taken for", "count", "share of the class"]
        blocks.append(Table(head, rows, "Largest confusions", (2, 3)))
    return Section("Confusions", blocks) if blocks else None


def calibration(facts: Facts) -> Section | None:
    """Whether the model is as sure as it is right."""
    bins = [mapping(one) for one in as_list(facts.judged.get("reliability"))]
    # Of several labels each image is asked of every class: a bin counts such pairs.
    several = any("AP" in mapping(one) for one in mapping(facts.judged.get("per_class")).values())
    unit = "pairs of image and class" if several else "images"
    one = "pair of image and class" if several else "image"
    drawing = charts.reliability(bins, unit=one, several=several)
    if drawing is None:
        return None
    rows = [
        [number(one.get("confidence"), 3), percent(one.get("accuracy")), number(one.get("images"))]
        for one in bins
        if one.get("images")
    ]
    right = "share that has the label" if several else "accuracy"
    head = ["mean probability" if several else "mean confidence", right, unit]
    table = Table(head, rows, "Numbers of each bin", (0, 1, 2), collapsed=True)
    ece = facts.judged.get("ece")
    below = "the probability is above the share" if several else "surer than right"
    caption = f"Bars below the dashed line: {below}. Stronger bars hold more {unit}."
    lead = (
        f"Expected calibration error (ECE) {number(ece)}: the mean distance of {right} and "
        f"{head[0].removeprefix('mean ')}; 0 is perfect."
    )
    return Section("Confidence", [Figure("Reliability", drawing, caption, table)], lead)


def speed(facts: Facts) -> Section | None:
    """Latency and throughput by batch, where they were measured."""
    measured = mapping(facts.judged.get("speed"))
    rows = speed_rows(measured)
    if not rows:
        return None
    model = mapping(facts.judged.get("model"))
    where = f"{model.get('kind')}, {model.get('precision')}, on {measured.get('device')}"
    threads = measured.get("threads")
    if threads and str(measured.get("device")) == "cpu":
        where += f", {threads} thread{'s' if threads != 1 else ''}"
    head = ["batch", *SPEED_HEAD]
    blocks: list[Block] = [Table(head, rows, where, tuple(range(len(head))))]
    blocks += [Text(note, "warning") for note in speed_notes(measured)]
    return Section("Speed", blocks)


SPEED_HEAD = ("median", "least to most", "95th percentile", "images per second", "repetitions")
WIDE = 1.5
"""Median over least time, from which times are said to spread."""


def speed_rows(measured: Any) -> Sequence[Sequence[Any]]:
    """Rows of a table of latencies: the batch, then `SPEED_HEAD`."""
    rows = []
    for batch, about in mapping(mapping(measured).get("batches")).items():
        one = mapping(about)
        count, ends = one.get("repetitions"), (one.get("min_ms"), one.get("max_ms"))
        several = is_number(count) and count >= MIN_FOR_PERCENTILE
        rows.append(
            [
                batch,
                f"{number(one.get('median_ms'))} ms",
                f"{number(ends[0])} to {number(ends[1])} ms" if all(map(is_number, ends)) else "–",
                f"{number(one.get('p95_ms'))} ms" if several else "–",
                number(one.get("images_per_s")),
                number(count),
            ]
        )
    return rows


def speed_notes(measured: Any) -> list[str]:
    """What makes the times doubtful: a busy machine, or repetitions that differ much."""
    found, about = [], mapping(measured)
    load, cores = about.get("load"), about.get("cores")
    if is_number(load) and is_number(cores) and load > cores:
        found.append(
            f"The machine was busy: a load of {number(load)} on {number(cores)} cores. On an idle "
            "one it is faster."
        )
    wide = []
    for batch, one in mapping(about.get("batches")).items():
        least, median = mapping(one).get("min_ms"), mapping(one).get("median_ms")
        if is_number(least) and is_number(median) and least > 0 and median > WIDE * least:
            wide.append(str(batch))
    if wide:
        found.append(
            f"The repetitions differ much (batch {', '.join(wide)}): half of them took more than "
            f"{WIDE} times the least time. Measure again when nothing else runs."
        )
    return found
