"""The figures of a job: the last and the best value of every metric, and what is known about noise.

What a metric is comes from ``metrics`` of ``checkpoints.json``: ``direction``, and ``images`` where
the metric is the share of so many images for which something holds. Epochs count from 0, as in file
names and ``epoch:N``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mae_skill.errors import MaeError

from mae_sdk.jobs.checkpoint_names import CHECKPOINT, Judged, artifact_kind
from mae_sdk.jobs.checkpoints import TIE, choose, tie
from mae_sdk.jobs.intervals import difference, images_needed
from mae_sdk.jobs.status import is_number, metrics_of

Figures = dict[str, Any]

MANY_TRIALS = 2
"""From so many trials on, the best one was chosen by the very figure that is shown."""

HEADLINES = ("ACC_all", "mAP", "mIoU", "linear_acc", "knn_acc", "reconstruction_loss")
"""What an evaluation is judged by, everywhere: the first that is there; of another bundle what its
contract names before these."""


def described(
    index: Mapping[str, Any], stated: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Metric → ``direction`` and, for a share of images, ``images``, of a checkpoint index.

    Args:
        stated: the ``metric`` and ``direction`` that the job's bundle states, for a runner that
            keeps no index.
    """
    found = {name: dict(mapping(about)) for name, about in mapping(index.get("metrics")).items()}
    # All that an index of an earlier version knows.
    best = mapping(index.get("best")) or mapping(stated)
    if best.get("metric"):
        found.setdefault(str(best["metric"]), {}).setdefault("direction", best.get("direction"))
    return found


def last_and_best(
    lines: Sequence[Mapping[str, Any]], about: Mapping[str, Mapping[str, Any]]
) -> tuple[Figures, Figures]:
    """The last and the best value of every metric that an epoch reports, or a step where no epoch
    does; else the newest one, which is of the whole run.

    Args:
        lines: of ``status.json``, in order.
        about: as `described` gives it.

    Returns:
        Metric → ``value, epoch, step``, twice; of the whole run both are None. The best also holds
        ``direction`` and, for a share of images, ``images`` and ``standard_error``; metrics without
        a known direction have none. Of equals the one of the least validation loss is the best,
        then the first; values that are not finite never are.
    """
    reported = {**_of_run(lines), **by_step(lines), **by_epoch(lines)}
    last = {name: places[next(reversed(places))] for name, places in reported.items()}
    best: Figures = {}
    losses = reported.get(TIE, {})
    for name, epochs in reported.items():
        direction = about.get(name, {}).get("direction")
        finite = [epoch for epoch in sorted(epochs) if is_number(epochs[epoch]["value"])]
        if direction and finite:
            sign = -1.0 if direction == "maximize" else 1.0
            ranks = {
                epoch: (sign * epochs[epoch]["value"], tie(losses.get(epoch, {}).get("value")))
                for epoch in finite
            }
            top = epochs[min(finite, key=ranks.__getitem__)]
            known = noise(top["value"], about[name].get("images"))
            best[name] = {**top, "direction": direction, **known}
    return last, best


def _of_run(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Figures]]:
    """Metric → 0 → the newest value, whatever it is of."""
    kpis = metrics_of([line for line in lines if isinstance(line, dict)])
    return {
        str(name): {0: {"value": value, "epoch": None, "step": None}}
        for name, value in kpis.items()
    }


def by_epoch(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Figures]]:
    """Metric → epoch → ``value, epoch, step``, of the lines of ``status.json``.

    An epoch that was done again, after a resume, replaces its earlier values.
    """
    return _by("epoch", lines)


def by_step(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Figures]]:
    """As `by_epoch`, metric → step: of a runner that counts steps."""
    return _by("step", lines)


def _by(unit: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Figures]]:
    reported: dict[str, dict[int, Figures]] = {}
    for line in lines:
        number, kpi = line.get(unit), line.get("kpi")
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(kpi, Mapping):
            continue
        for name, value in kpi.items():
            place = {"value": value, "epoch": line.get("epoch"), "step": line.get("step")}
            places = reported.setdefault(str(name), {})
            places.pop(number, None)  # the newest comes last
            places[number] = place
    return reported


def noise(value: Any, images: Any) -> Figures:
    """``images`` and the binomial ``standard_error``, √(p (1 − p) / n), of a share of n images."""
    if not is_number(value) or not isinstance(images, int) or images < 1 or not 0 <= value <= 1:
        return {}
    return {"images": images, "standard_error": math.sqrt(value * (1 - value) / images)}


def noise_of(result: Mapping[str, Any]) -> Figures:
    """Metric → `noise`, of the shares of images that a result names."""
    kpis, shares = mapping(result.get("kpis")), mapping(result.get("shares"))
    found = {name: noise(kpis.get(name), images) for name, images in shares.items()}
    return {name: known for name, known in found.items() if known}


def judged(lines: Sequence[Mapping[str, Any]], stated: Mapping[str, Any] | None) -> Judged | None:
    """How good each epoch of a job is, or each step, by the ``metric`` and ``direction`` that its
    record states; None where it states none."""
    if not stated:
        return None
    metric = str(stated.get("metric"))
    epochs, steps = (
        {number: at["value"] for number, at in places.items() if is_number(at["value"])}
        for places in (found(lines).get(metric, {}) for found in (by_epoch, by_step))
    )
    return Judged(metric, str(stated.get("direction")), epochs, steps)


def best_checkpoint(index: Mapping[str, Any]) -> Figures | None:
    """``file, epoch, metric, value`` of the best checkpoint that is kept; None without one."""

    try:
        entry = choose(index, "best", lambda entry: None).entry
    except (MaeError, KeyError, TypeError):
        return None
    metric = index["best"]["metric"]
    return {
        "file": entry["file"],
        "epoch": entry["epoch"],
        "metric": metric,
        "value": entry["metrics"][metric],
    }


def best_by_name(names: Sequence[str], judged: Judged | None) -> Figures | None:
    """As `best_checkpoint`, of a runner that keeps no index."""
    top = None
    if judged is not None:
        top = judged.best(name for name in names if artifact_kind(name) == CHECKPOINT)
    if judged is None or top is None:
        return None
    found = {"file": top.name, "epoch": top.epoch, "metric": judged.metric}
    if top.step is not None:
        found["step"] = top.step
    return {**found, "value": top.value}


def study(
    table: str,
    best: Mapping[str, Any],
    record: Mapping[str, Any],
    images: Mapping[str, Any],
    importance: str | None,
) -> Figures:
    """The figures of a study: its best trial beside trial 0, the spec as given.

    Args:
        table: ``trials.csv``.
        best: ``best.json``; empty before a trial succeeded.
        record: ``study.json``.
        images: metric → how many images it is a share of.
        importance: why there is none, where there is none.

    Returns:
        ``metric, direction, trials`` (state → count, and ``of``), ``best`` and ``trial_0`` (each
        ``trial, child, value, epoch, params``), ``gap`` (positive: the best trial is better),
        ``tied`` (trials with the very value of the best), ``noise``, ``verdict`` and
        ``importance_note``. What is not known is left out.
    """
    rows = [
        {name: number(text) for name, text in row.items() if name is not None}
        for row in csv.DictReader(table.splitlines())
    ]
    objective: Mapping[str, Any] = next(iter(record.get("objectives") or ()), {})
    metric, direction = objective.get("metric"), objective.get("direction")
    counts: dict[str, int] = {}
    for row in rows:
        state = str(row.get("state")).lower()
        counts[state] = counts.get(state, 0) + 1
    budget = (record.get("options") or {}).get("max_trials")
    found: Figures = {
        "metric": metric,
        "direction": direction,
        "trials": {**counts, **({"of": budget} if budget else {})},
    }

    parameters = [item["name"] for item in (record.get("space") or {}).get("knobs") or ()]
    by_number = {row.get("trial"): row for row in rows}
    for name, trial in (("best", best.get("trial")), ("trial_0", 0)):
        one = by_number.get(trial)
        if one is None:
            continue
        found[name] = {
            "trial": trial,
            "child": one.get("child"),
            "state": one.get("state"),
            "value": one.get(str(metric)),
            "epoch": one.get("best_epoch"),
            **({"step": one["best_step"]} if one.get("best_step") is not None else {}),
            "params": {key: one[key] for key in parameters if one.get(key) is not None},
        }
    found |= _gap(found, images.get(str(metric)))
    top = found.get("best", {}).get("value")
    same = [row for row in rows if is_number(top) and row.get(str(metric)) == top]
    if len(same) > 1:
        found["tied"] = len(same)
    if "best" in found or counts:
        found["verdict"] = verdict(found)
    if importance:
        found["importance_note"] = importance
    return found


def _gap(found: Figures, images: Any) -> Figures:
    top, given = (found.get(name, {}).get("value") for name in ("best", "trial_0"))
    if not is_number(top):
        return {}
    gap: Figures = {}
    sign = 1.0 if found["direction"] == "maximize" else -1.0
    if is_number(given):
        gap["gap"] = sign * (top - given)

    known = noise(top, images)
    if not known:
        gap["noise"] = "not known: repeat a trial with other seeds to see it"
        return gap
    error = known["standard_error"]
    text = f"±{error:.2g}: binomial standard error of {found['metric']} on {images} images"
    if is_number(given):
        both = math.hypot(error, noise(given, images).get("standard_error", 0.0))
        text += f"; ±{both:.2g} for the gap, as if the two were judged on different images"
    if found["trials"].get("complete", 0) >= MANY_TRIALS:
        text += "; the best trial was chosen on these images: on others expect less"
    return {**gap, "noise": text, **known}


def verdict(study: Mapping[str, Any]) -> str:
    """Whether the data can tell the best trial and the spec as given apart, as a sentence."""
    best, given = mapping(study.get("best")), mapping(study.get("trial_0"))
    metric, images = study.get("metric"), study.get("images")
    top, first = best.get("value"), given.get("value")
    if not is_number(top):
        counts = dict(mapping(study.get("trials")))
        counts.pop("of", None)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        return f"No trial has succeeded{f' ({states})' if states else ''}: there is no best one."
    if best.get("trial") == 0 and mapping(study.get("trials")).get("of") == 1:
        return "The study had one trial, the spec as given: nothing was searched."
    ended = mapping(study.get("trials"))
    if best.get("trial") == 0 and ended.get("complete") == 1 and not ended.get("pruned"):
        return (
            "Of the trials the spec as given (trial 0) alone came to its end: nothing was compared."
        )
    if best.get("trial") == 0:
        tied = study.get("tied")
        more = f" {tied} trials have the same {metric}: it tells them not apart." if tied else ""
        return f"No trial is better than the spec as given (trial 0): nothing was gained.{more}"
    if not is_number(first):
        state = str(given.get("state") or "without a value").lower()
        return f"Trial 0, the spec as given, is {state}: there is nothing to compare with."
    gap = float(study.get("gap", top - first))
    if not isinstance(images, int) or not (0 <= top <= 1 and 0 <= first <= 1):
        return (
            f"Better than trial 0 by {_short(abs(gap))} {metric}. Whether that is more than chance "
            "is not known: repeat both with other seeds."
        )
    low, high = difference(top, images, first, images)
    if study.get("direction") == "minimize":
        low, high = -high, -low
    points = (
        f"{100 * gap:+.1f} points against trial 0 (95 %: {100 * low:+.1f} to {100 * high:+.1f})"
    )
    if low > 0:
        return (
            f"{points}: the data can tell them apart. The best was chosen on these images, so on "
            "others expect less."
        )
    needed = images_needed(top, first)
    more = ""
    if needed and needed > images:
        more = f"; were the gap real, about {needed:,} would in 4 of 5 repetitions"
    return f"{points}: {images:,} images cannot tell the two apart{more}."


def left_out(data: Mapping[str, Any], result: Mapping[str, Any]) -> Figures:
    """Field of a data source → reason → ``count`` and the first ``files`` that were not used.

    Args:
        data: what the plan counted, as the job's record holds it.
        result: ``result.json``: what the run itself saw there (``data``), and what it could not
            read (``left_out``).
    """
    found: Figures = {}
    of_run = mapping(result.get("left_out"))
    data = {**data, **mapping(mapping(result.get("data")).get("sources"))}
    for key, seen in {**dict.fromkeys(of_run), **data}.items():
        reasons = mapping(mapping(seen).get("left_out"))
        for reason, about in [*reasons.items(), *mapping(of_run.get(key)).items()]:
            if mapping(about).get("count") and reason != "twins":  # which are read, each time
                found.setdefault(key, {})[reason] = dict(about)
    return found


def images(data: Mapping[str, Any], result: Mapping[str, Any]) -> Figures:
    """Field of a data source → its ``images`` and, where known, ``classes``, ``trained_on`` (a
    share of them was), ``held_out`` and ``unreadable``, which are left out of the others.
    Arguments as of `left_out`."""
    names = ("images", "classes", "trained_on", "held_out", "unreadable")
    of_run = mapping(result.get("left_out"))
    counted = mapping(mapping(result.get("data")).get("sources"))
    found: Figures = {}
    for key in dict.fromkeys([*data, *counted]):
        seen = {**mapping(data.get(key)), **mapping(counted.get(key))}
        seen["trained_on"] = trained_on(seen)
        seen["unreadable"] = mapping(mapping(of_run.get(key)).get("unreadable")).get("count")
        known = {name: number for name in names if (number := seen.get(name))}
        if "images" in known:
            found[key] = known
    return found


def trained_on(seen: Mapping[str, Any]) -> int | None:
    """How many images of a source were trained on, where it is not all: a share, less what was held
    out of it. What a plan counts as ``trained_on`` has those held out in it."""
    share, held = seen.get("trained_on"), seen.get("held_out")
    if not isinstance(held, int):
        return share if isinstance(share, int) else None
    whole = share if isinstance(share, int) else seen.get("images")
    return whole - held if isinstance(whole, int) else None


def _images_line(key: str, known: Mapping[str, int]) -> str:
    classes = f" of {known['classes']:,} classes" if "classes" in known else ""
    words = {"trained_on": "trained on", "held_out": "held out", "unreadable": "of them unreadable"}
    parts = [f"{known[name]:,} {said}" for name, said in words.items() if name in known]
    more = f" ({', '.join(parts)})" if parts else ""
    return f"{key}: {known['images']:,} images{classes}{more}"


def _spread(error: float, images: int, value: Any) -> str:
    """How far a share may be off. Where it is all images or none its standard error is 0, and says
    nothing: by the rule of three (Hanley & Lippman-Hand 1983) it is within 3/n, at 95 %."""
    if error:
        return f"±{error:.2g} (binomial, {images} images)"
    most = min(1.0, 3 / images)
    bound = f"{most:.2g} or less" if value == 0 else f"{1 - most:.2g} or more"
    which = "none" if value == 0 else "all"
    if not is_number(value):
        which, bound = "all or none", f"within {most:.2g} of it"
    return f"{which} of {images} images: of many more it would be {bound} (95 %)"


def lines(found: Mapping[str, Any]) -> list[str]:
    """The figures of `Job.figures` as lines for people: the study first, then every metric."""
    shown = study_lines(found["study"]) if "study" in found else []
    last = {name: now for name, now in found.get("last", {}).items() if is_placed(now)}
    best = found.get("best", {})
    units = ("epoch", "step")
    unit = next((u for u in units if any(now.get(u) is not None for now in last.values())), "epoch")
    rows = [["METRIC", "LAST", unit.upper(), "BEST", "EPOCH", "STEP", ""]]
    for name, now in last.items():
        top = best.get(name, {})
        error = top.get("standard_error")
        note = "" if error is None else _spread(error, top["images"], top["value"])
        places = [_short(top.get("epoch")), "-" if top.get("step") is None else top["step"]]
        rows.append(
            [name, _short(now["value"]), _short(now.get(unit)), _short(top.get("value")), *places]
        )
        rows[-1].append(note)
    if last:
        texts = [[str(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in texts) for column in range(len(rows[0]))]
        shown += [
            "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
            for row in texts
        ]
    if kept := found.get("best_checkpoint"):
        value = f"{kept['metric']} {_short(kept['value'])}"
        at = f"epoch {kept['epoch']}" if kept["epoch"] is not None else f"step {kept.get('step')}"
        shown.append(f"best checkpoint kept: {kept['file']} ({value}, {at})")
    for name, known in found.get("noise", {}).items():
        error, images = known["standard_error"], known["images"]
        value = found.get("last", {}).get(name, {}).get("value")
        shown.append(f"noise of {name}: {_spread(error, images, value)}")
    shown += [_images_line(key, known) for key, known in found.get("images", {}).items()]
    for key, reasons in found.get("left_out", {}).items():
        for reason, about in reasons.items():
            names = ", ".join(map(str, about.get("files") or ()))
            more = " …" if about["count"] > len(about.get("files") or ()) else ""
            shown.append(f"left out of {key}: {about['count']} {reason} ({names}{more})")
    shown += [f"{name}: {text}" for name, text in found.get("usage", {}).items()]
    shown += [f"note: {note}" for note in found.get("notes", ())]
    shown += [f"warning: {warning}" for warning in found.get("warnings", ())]
    return shown


def is_placed(figure: Mapping[str, Any]) -> bool:
    """Whether a figure is of an epoch or a step, not of the whole run."""
    return figure.get("epoch") is not None or figure.get("step") is not None


def study_lines(found: Mapping[str, Any]) -> list[str]:
    """The figures of a study as lines for people; none of no study."""
    if not found:
        return []
    metric = found["metric"]
    trials = dict(found["trials"])
    budget = trials.pop("of", "?")
    counts = ", ".join(f"{count} {state}" for state, count in trials.items()) or "none has ended"
    shown = [f"trials   {counts}; of {budget}"]
    for name, words in (("best", "best"), ("trial_0", "trial 0")):
        one = found.get(name)
        if one is None:
            continue
        text = f"{metric} {_short(one['value'])}"
        place = next((word for word in ("epoch", "step") if one.get(word) is not None), None)
        if place is not None:
            text += f" at {place} {one[place]}"
        if not is_number(one["value"]):
            text = f"no {metric}: {str(one['state']).lower()}"
        who = f"trial {one['trial']}, {one['child']}" if name == "best" else "the spec as given"
        shown.append(f"{words:<7}  {text} ({who})")
    if "gap" in found:
        is_given = found["best"]["trial"] == 0
        better = "no trial is better than the spec as given" if is_given else "best over trial 0"
        shown.append(f"gap      {found['gap']:+.4g} ({better})")
    if "verdict" in found:
        shown.append(f"verdict  {found['verdict']}")
    if "noise" in found:
        shown.append(f"noise    {found['noise']}")
    given = found.get("trial_0", {}).get("params", {})
    for key, value in found.get("best", {}).get("params", {}).items():
        shown.append(f"  {key}  {_short(value)}  (trial 0: {_short(given.get(key))})")
    if "importance_note" in found:
        shown.append(found["importance_note"])
    return shown


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one: other programs write such files too."""
    return value if isinstance(value, Mapping) else {}


def number(text: Any) -> Any:
    """A cell of a table: a number where it is one, None where it is empty."""
    if text in ("", None):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
