"""The first screen: what was run, on what, the result and how sure it is, and what to do next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mae_skill.spelling import and_more, count_of

from mae_sdk import answers
from mae_sdk.job import made_from
from mae_sdk.jobs import records
from mae_sdk.jobs.intervals import wilson
from mae_sdk.jobs.metrics import HEADLINES, mapping, trained_on
from mae_sdk.jobs.status import epochs_done, is_count, is_number
from mae_sdk.report import outcome, search
from mae_sdk.report.blocks import Card
from mae_sdk.report.facts import Facts, as_list, base, rows_of
from mae_sdk.report.markup import number, percent, seconds, size
from mae_sdk.report.words import named

_WORDS = {
    ("train", "pretrain"): "Pretraining",
    ("train", "finetune"): "Fine-tuning",
    ("evaluate", ""): "Evaluation",
    ("inference", ""): "Inference",
    ("export", ""): "Export",
    ("gen_trt_engine", ""): "Engine",
}
SOURCES = {
    "train_data_sources": "training",
    "val_data_sources": "validation",
    "test_data_sources": "test",
    "probe_train_data_sources": "probe bank",
    "probe_val_data_sources": "probe queries",
}
_REASONS = {
    "other": "not pictures",
    "pictures": "pictures of a kind that is not read",
    "dangling": "links to nothing",
    "loops": "linked folders that hold themselves",
    "locked": "folders that may not be read",
}
TABLE = "results.csv"
"""What an inference or an evaluation says of every image."""
MAX_INHERITED = 3
"""Doubts of the model that a job took, on its first screen."""
MAX_JUDGES = 3
"""Evaluations of what a job made, on its first screen."""
FALL = 0.1
"""The part of its best by which RankMe falls before the page says so."""
MAX_HEADLINE = 160
"""Characters of an error's headline; what it lists beyond is told in lines."""
MAX_LINES = 8
"""Warnings that the first screen shows; the rest is counted."""


def role(source: str, action: str) -> str:
    """What an action does with the images of a source, by the last part of its field."""
    if source == "val_data_sources" and action != "train":
        return {"evaluate": "evaluation", "export": "parity"}.get(action, "images")
    return SOURCES.get(source, source)


def word(action: str, stage: str = "") -> str:
    """An action, and of training its stage, in a word."""
    return _WORDS.get((action, stage if action == "train" else "")) or action.capitalize()


def heading(facts: Facts) -> str:
    """What was run, in a few words."""
    stage = facts.stage or "" if facts.action == "train" else ""
    name = word(facts.action, stage)
    if facts.segments and stage in ("", "finetune"):
        name = f"Segmentation {name.lower()}"
    elif facts.several and stage in ("", "finetune"):
        name = f"Multi-label {name.lower()}"
    name += _of_artifact(facts)
    if facts.is_study:
        name = f"Search for {name.lower()}" if stage else "Search"
    if facts.record.get("kind") == "trial":
        name = f"Trial {facts.record.get('trial')}: {name.lower()}"
    return " · ".join(part for part in (name, facts.arch) if part)


def _of_artifact(facts: Facts) -> str:
    """Of what is not the trained model itself but made of it: ``of ONNX``, ``of an engine``."""
    if facts.action not in ("evaluate", "inference"):
        return ""
    if facts.setting(f"{facts.action}.trt_engine"):
        return " of an engine"
    model = str(facts.setting(f"{facts.action}.checkpoint") or "")
    return " of ONNX" if model.lower().endswith(".onnx") else ""


def cards(facts: Facts) -> list[Card]:
    """The first screen of a job."""
    found = [result(facts), data(facts)]
    if left := left_out(facts):
        found.append(left)
    if warned := warnings(facts):
        found.append(warned)
    found.append(next_step(facts))
    return found


# ---------------------------------------------------------------------------------- the result


def result(facts: Facts) -> Card:
    """The result with its uncertainty; how far it is, or why it failed, where there is none."""
    if facts.state == records.ERROR:
        return _failed(facts)
    card = _result(facts)
    card.lines = [*card.lines, *_judged_since(facts)]
    if facts.inherited and facts.state == records.COMPLETE:
        card.lines = [*card.lines, *facts.inherited[:MAX_INHERITED]]
        card.tone, card.wide = "warning", True
    return card


def _judged_since(facts: Facts) -> list[str]:
    """What evaluations of what the job made have found, the newest of them."""
    found = []
    for judge in facts.judges[-MAX_JUDGES:]:
        if (measured := outcome.measured(judge)) is not None:
            span = f" (95 %: {measured.span})" if measured.span else ""
            where = f" on {base(measured.place)}" if measured.place else ""
            doubt = "; in doubt" if measured.doubts else ""
            name = named(measured.name)
            found.append(f"judged by {judge.id}: {name} {measured.text}{span}{where}{doubt}")
    return found


def _result(facts: Facts) -> Card:
    if facts.is_study and facts.figures.get("study"):
        return search.headline(facts)
    if facts.is_pruned and facts.state == records.CANCELED:
        return _pruned(facts)
    if facts.state in (records.PENDING, records.RUNNING, records.CANCELED, records.UNKNOWN):
        return _progress(facts)
    if facts.action == "export":
        return _exported(facts)
    if facts.action == "gen_trt_engine":
        return _built(facts)
    if facts.action == "inference":
        return _predicted(facts)
    return measured(facts)


def _failed(facts: Facts) -> Card:
    problem = facts.failure
    message, more = _told_shortly(str(problem.get("message") or "the job ended in ERROR"))
    lines = [*more, *_bound(mapping(problem.get("error"))), *_problems(problem)]
    lines += [str(problem["hint"])] if problem.get("hint") else []
    lines += _how_far(facts)
    category = str(problem.get("category") or "")
    return Card(
        "What went wrong",
        message,
        [*([f"what kind of failure: {category.replace('_', ' ')}"] if category else []), *lines],
        tone="error",
        wide=True,
    )


def _told_shortly(message: str) -> tuple[str, list[str]]:
    """A message, and apart from it what it lists in brackets at its end, where that is long."""
    head, bracket, rest = message.partition(" (")
    if len(message) <= MAX_HEADLINE or not bracket or not rest.endswith(")"):
        return message, []
    return head, rest.removesuffix(")").split("; ")


def _bound(error: Mapping[str, Any]) -> list[str]:
    """What an error got and would have taken."""
    got, expected, field = (error.get(name) for name in ("got", "expected", "field"))
    if got in (None, "") or not expected or isinstance(got, (list, dict)):
        return []
    return [f"{f'{field}: ' if field else ''}got {number(got)}, expected {expected}"]


def _problems(problem: Mapping[str, Any]) -> list[str]:
    """What was wrong, where one error holds several, each with its field and how to mend it."""
    found = []
    for one in map(mapping, as_list(mapping(problem.get("error")).get("problems"))):
        field = f"{one['field']}: " if one.get("field") else ""
        hint = f" ({one['hint']})" if one.get("hint") else ""
        found.append(f"{field}{one.get('message')}{hint}")
    return found[:MAX_LINES]


def _how_far(facts: Facts) -> list[str]:
    """The epochs that a run had done when it failed, and its best figure until then."""
    if facts.action != "train" or not facts.marks:
        return []
    line = facts.marks[-1]
    of = line.get(f"max_{facts.unit}")
    done = f"it came to {facts.unit} {line[facts.unit]}" + (f" (of {of})" if of else "")
    card = measured(facts)
    best = f"; the best until then: {card.title.removeprefix('Result: ')} {card.figure}"
    return [done + (best if card.title.startswith("Result: ") else "")]


def _pruned(facts: Facts) -> Card:
    """A trial that its study ended early: how far it came, and its best until then."""
    study = records.study_of(facts.record)
    lines = [f"{study} ended it early: it was not among the better trials at that point"]
    if is_count(facts.marks[-1].get(facts.unit) if facts.marks else None):
        lines.insert(0, f"after {facts.unit} {facts.marks[-1][facts.unit]}")
    card = measured(facts)
    if card.title == "Result":
        return Card("Result", "pruned", lines)
    lines.append(f"the best until then: {card.title.removeprefix('Result: ')} {card.figure}")
    return Card("Result", "pruned", [*lines, *card.lines], tone=card.tone)


def _progress(facts: Facts) -> Card:
    words = {
        records.PENDING: "waiting to start",
        records.RUNNING: "running",
        records.CANCELED: "canceled",
        records.UNKNOWN: "out of sight",
    }
    lines, newest = [], []
    if facts.marks:
        line = facts.marks[-1]
        of, unit = line.get(f"max_{facts.unit}"), facts.unit
        done = line[unit] + (unit == "epoch")
        if unit == "epoch" and facts.record.get("skill_dir"):
            done = epochs_done(facts.marks)
        if done is None:  # whether it counts from 0 or from 1 is not known
            lines.append(f"epoch {line[unit]} of {of}" if of else f"epoch {line[unit]}")
        else:
            lines.append(f"{done} of {of} {unit}s done" if of else f"{done} {unit}s done")
        if is_number(line.get("eta")) and facts.is_running and line["eta"]:
            lines.append(f"about {seconds(line['eta'])} left")
        kpi = mapping(line.get("kpi"))
        newest = [
            f"{named(str(name))} {told(str(name), v, mapping(facts.about.get(name)).get('images'))}"
            for name, v in kpi.items()
        ]
        last = f"at the end of {facts.unit} {line[facts.unit]}, the newest:"
    elif facts.lines:
        lines.append(str(facts.lines[-1].get("message") or ""))
    card = measured(facts)
    if facts.state == records.CANCELED and card.title.startswith("Result: "):
        lines.append(f"the best until then: {card.title.removeprefix('Result: ')} {card.figure}")
        lines += card.lines
        lines += [f"{last} {' · '.join(newest)}"] if newest else []
        return Card("So far", "canceled", lines, tone=card.tone, wide=True)
    lines += [last, *newest] if newest else []
    return Card("So far", words.get(facts.state, facts.state), lines)


def told(name: str, value: Any, images: Any = None) -> str:
    """The value of a metric: a share, of `images` or not, as percent, as everywhere on the page."""
    is_share = name in ("balanced_accuracy", "mAcc", "aAcc") or name.startswith("f1_")
    return percent(value) if is_share else figure(name, value, images)


def measured(facts: Facts) -> Card:
    """The metric that the job is judged by, with its interval."""
    name, value, images, where, epoch = _main(facts)
    known = taught(facts)
    tone = "warning" if facts.doubts or known else ""
    if name is None:
        return Card("Result", "finished", facts.doubts, tone=tone)
    sure = uncertainty(facts, name, value, images)
    if facts.doubts and sure.startswith("95 %"):  # a doubt may be of another figure
        sure = f"{named(name)}, {sure}"
    lines = [*facts.doubts, *known, sure, *where, *chose(facts)]
    if name == "mAP" and (chance := _prevalence(facts)) is not None:
        lines.append(
            "by chance mAP is the base rate, the share of the images that has a label: "
            f"{percent(chance)} in the mean of the labels"
        )
        lines += of_labels(facts)
    if name == "mIoU":
        lines += _of_masks(facts)
    lines += _of_a_probe(facts)
    if said := _no_better_than_a_mean(facts, name, value):
        lines.append(said)
    others = _others(facts, name, epoch)
    lines += _of_features(facts, epoch)
    if others:
        lines.append(" · ".join(others))
    shown = figure(name, value, images)
    wide = bool(facts.doubts)
    return Card(f"Result: {named(name)}", shown, lines, tone=tone, wide=wide, sure=sure)


def _of_a_probe(facts: Facts) -> list[str]:
    """How the probes of a pretrained model were taught, and what no features at all would give."""
    protocol, most = facts.judged.get("protocol"), mapping(facts.judged.get("most_frequent"))
    found = [f"a probe of the features: {protocol}"] if protocol else []
    told = any("always answers" in doubt for doubt in facts.doubts)
    if is_number(share := most.get("share")) and not told:
        found.append(f"who always answers {most.get('class')} has {percent(share)}")
    return found


def _of_masks(facts: Facts) -> list[str]:
    """What stands beside mIoU: which pixels counted, and what one answer for all of them has."""
    found, most = [], mapping(facts.judged.get("most_frequent"))
    share = facts.judged.get("labeled_share")
    if is_number(share) and share < 1:
        found.append(f"{percent(share)} of the pixels are labeled; the others do not count")
    if is_number(right := most.get("aAcc")) and is_number(mean := most.get("mIoU")):
        found.append(
            f"{most.get('class')} for every pixel, the most frequent class, would have a pixel "
            f"accuracy of {percent(right)} and an mIoU of {percent(mean)}"
        )
    return found


def _no_better_than_a_mean(facts: Facts, name: str, value: Any) -> str:
    """What to hold a reconstruction loss against: patches are scaled to mean 0 and deviation 1, so
    that their mean as the answer has a loss of 1, and of a flat patch none."""
    learns_pixels = facts.action == "train" and facts.setting("train.stage") == "pretrain"
    if not learns_pixels or name not in ("train_loss", "val_loss") or not is_number(value):
        return ""
    if not facts.setting("train.norm_pix_loss") or facts.setting("train.teacher.checkpoint"):
        return ""
    if facts.setting("train.refine.blocks"):  # no pixels are learned
        return ""
    known = "; this is no better" if value >= 1 else ""
    return f"the mean of each hidden patch as the answer has a loss of at most 1{known}"


def of_labels(facts: Facts) -> list[str]:
    """What stands beside macro F1 of several labels: what a constant answer has, and that the
    thresholds are of the same images."""
    found = []
    images = facts.judged.get("images")
    counts = [mapping(one).get("images") for one in mapping(facts.judged.get("per_class")).values()]
    known = [count for count in counts if is_number(count) and count]
    if known and is_number(images) and images:
        every = sum(2 * count / (images + count) for count in known) / len(known)
        found.append(f"all labels for every image would have a macro F1 of {percent(every)}")
    if facts.action == "train":
        found.append("F1 is at thresholds that were chosen on these same images, which flatters it")
    return found


def _prevalence(facts: Facts) -> float | None:
    """The mean share of the images that has a label: what average precision is by chance."""
    images = facts.judged.get("images")
    counts = [mapping(one).get("images") for one in mapping(facts.judged.get("per_class")).values()]
    known = [count for count in counts if is_number(count)]
    if not known or not is_number(images) or not images:
        return None
    return float(sum(known) / len(known) / images)


def how_sure(facts: Facts, card: Card) -> str:
    """The interval of a result, else its first line; that it or its model is in doubt, and that its
    images chose the model, where another line says."""
    first = card.sure or next(iter(card.lines), "")
    said = [first.removeprefix(f"{card.title.removeprefix('Result: ')}, ")]
    if facts.doubts and first not in facts.doubts:
        said.append(f"in doubt: {facts.doubts[0].partition(':')[0]}")
    elif facts.inherited and facts.state == records.COMPLETE:
        said.append("its model is in doubt")
    if search.CHOSEN not in first and any(search.CHOSEN in line for line in card.lines):
        said.append(search.CHOSEN)
    return "; ".join(said)


def figure(name: str, value: Any, images: int | None = None) -> str:
    """A metric's value; a share as percent."""
    shares = ("ACC", "knn", "linear", "attentive", "mIoU", "mAcc", "aAcc", "mAP")
    return percent(value) if images is not None or name.startswith(shares) else number(value)


def taught(facts: Facts) -> list[str]:
    """That every image which a model is judged by was one to learn from, in words."""
    for seen in mapping(facts.record.get("data")).values():
        about = mapping(mapping(seen).get("shared") or mapping(seen).get("taught"))
        count = about.get("count")
        if is_count(count) and count and count == about.get("compared"):
            which = f"the {count} images that were compared"
            return [f"all of {which} are training images: the figure says nothing of others"]
    return []


def chose(facts: Facts) -> list[str]:
    """That images which a model is judged by have chosen its checkpoint, in words."""
    found = []
    for seen in mapping(facts.record.get("data")).values():  # what the plan knew, the run does not
        about = mapping(mapping(seen).get("chose"))
        which = "these images"
        if about.get("count"):
            which = f"{about['count']} of the {about.get('compared')} images that were compared"
        if about:
            found.append(
                f"{which} chose the checkpoint, in {about.get('job')}: the figure is optimistic, "
                "on others expect less"
            )
    return found


def uncertainty(facts: Facts, name: str, value: Any, images: int | None) -> str:
    """The interval of a share in words; else why there is none."""
    given = mapping(mapping(facts.judged.get("intervals")).get(name))
    kept = mapping(facts.figures.get("best_checkpoint"))
    if facts.action == "train" and kept.get("epoch") != facts.judged.get("epoch"):
        given = {}  # of another epoch than the figure
    if is_number(given.get("low")) and is_number(given.get("high")):
        how = given.get("method") or "interval"
        return f"95 %: {percent(given['low'])} to {percent(given['high'])} ({how})"
    if images and is_number(value):
        low, high = wilson(value, images)
        return f"95 %: {percent(low)} to {percent(high)} (Wilson, {images:,} images)"
    if name == "mIoU":
        judged = facts.judged.get("images")
        if is_number(judged) and judged < 10:
            return f"no interval: of {number(judged)} images a bootstrap says nothing"
        if facts.action in ("train", "inference"):
            here = "training" if facts.action == "train" else "this inference"
            return f"no interval in {here}: an evaluation has one, a bootstrap over the images"
    return "no interval: it is no share of images; repeat with other seeds to see the spread"


def _main(facts: Facts) -> tuple[str | None, Any, int | None, list[str], Any]:
    """Metric, value, images that it is a share of, when it was reached in words, and the epoch."""
    if facts.action == "train":
        return _trained(facts)
    shares = mapping(facts.result.get("shares"))
    for name in HEADLINES:
        if is_number(facts.kpis.get(name)):
            images = shares.get(name)
            images = images if isinstance(images, int) else None
            return name, facts.kpis[name], images, [], None
    first = next((n for n, v in facts.kpis.items() if is_number(v)), None)
    return first, facts.kpis.get(first or ""), None, [], None


def _trained(facts: Facts) -> tuple[str | None, Any, int | None, list[str], Any]:
    """As `_main`, of a training: the figure of the checkpoint that is kept, which a next job takes;
    where an epoch without a checkpoint was better, that too."""
    best = mapping(facts.figures.get("best"))
    kept = mapping(facts.figures.get("best_checkpoint"))
    name = kept.get("metric") or next(iter(best), None)
    if name is None:
        return None, None, None, [], None
    top = mapping(best.get(name))
    images = top.get("images")
    images = images if isinstance(images, int) else None
    place = top
    if kept:
        place = {"epoch": kept.get("epoch"), "step": kept.get("step"), "value": kept.get("value")}
    unit = "step" if place.get("epoch") is None else "epoch"
    at = f"{unit} {place.get(unit)}"
    lines = [f"the best of all {unit}s, at {at}"]
    if kept:
        lines = [f"of the best checkpoint that is kept, of {at}: what a next job takes"]
        better = is_number(top.get("value")) and top["value"] != kept.get("value")
        if better and top.get(unit) != place.get(unit):
            value = figure(str(name), top["value"], images)
            lines.append(f"{unit} {top.get(unit)} had {value}; its weights are not kept")
    lines += _ties(facts, str(name), place.get("value"))
    if name != "train_loss":
        lines[0] += f"; {search.CHOSEN}"
    else:
        lines += _held_out(facts, place.get(facts.unit))
    return str(name), place.get("value"), images, lines, place.get(facts.unit)


def _ties(facts: Facts, name: str, value: Any) -> list[str]:
    """That other epochs had the very figure of the best one: it chose none of them."""
    of_name = [line for line in facts.marks if is_number(mapping(line.get("kpi")).get(name))]
    same = [line[facts.unit] for line in of_name if mapping(line["kpi"])[name] == value]
    if len(same) < 2:
        return []
    if len(same) == len(of_name):
        return [f"every {facts.unit} has this figure ({len(same)}): it tells none from another"]
    return [f"{facts.unit}s {and_more(same)} have the same figure"]


def _held_out(facts: Facts, epoch: Any) -> list[str]:
    """Beside a loss of training that of the validation images, where there is one."""
    line = next((line for line in facts.marks if line[facts.unit] == epoch), {})
    loss = mapping(line.get("kpi")).get("val_loss")
    if not is_number(loss):
        return []
    return [f"of images that it learned from; on the validation images it is {number(loss)}"]


def _others(facts: Facts, main: str, epoch: Any = None) -> list[str]:
    """Other metrics, of the same epoch or step where there is one."""
    line = next((line for line in facts.marks if line[facts.unit] == epoch), None)
    kpis = facts.kpis if line is None else mapping(line.get("kpi"))
    shown = (
        "ACC_top5",
        "balanced_accuracy",
        "f1_macro",
        "f1_micro",
        "auroc",
        "mAcc",
        "aAcc",
        "knn_acc",
        "linear_acc",
        "attentive_acc",
        "val_loss",
        "reconstruction_loss",
        "ece",
        "rankme",
    )
    found = []
    for name in shown:
        value = kpis.get(name)
        if (main, name) == ("train_loss", "val_loss") and line is not None:
            continue  # it stands beside the training loss
        if name != main and is_number(value):
            plain = "loss" in name or name in ("auroc", "ece", "rankme")
            of = _of_rank(facts) if name == "rankme" else ""
            what = named(name)
            if name == "val_loss" and facts.action != "train":
                what = "loss on these images (val_loss)"
            found.append(f"{what} {number(value) if plain else percent(value)}{of}")
    return found[:6]


def _of_features(facts: Facts, epoch: Any) -> list[str]:
    """That the rank of the features fell while the loss did: they use fewer directions."""
    curve = dict(facts.curve_of("rankme"))
    if len(curve) < 2 or epoch not in curve:
        return []
    top = max(curve, key=lambda at: curve[at])
    if top >= epoch or curve[epoch] > (1 - FALL) * curve[top]:
        return []
    fell = (
        f"RankMe fell from {number(curve[top])} ({facts.unit} {int(top)}) to "
        f"{number(curve[epoch])}: the features use fewer directions than they did; more is better, "
        "and a probe tells whether it matters"
    )
    return [fell]


def _of_rank(facts: Facts) -> str:
    """Of RankMe: what it could be at most, and on which images it was measured."""
    most, images = facts.judged.get("rankme_max"), facts.judged.get("rankme_images")
    if not is_number(most):
        return ""
    which = "validation images" if facts.action == "train" else "images of the evaluation"
    return f" of at most {number(most)}, on {number(images)} {which}"


def _exported(facts: Facts) -> Card:
    parity = mapping(facts.result.get("parity"))
    passed = parity.get("passed")
    meta = mapping(facts.result.get("meta"))
    words = "same answers as the model" if passed else "written"
    cosine, largest = number(parity.get("cosine_min"), 8), number(parity.get("max_abs"), 3)
    compared = parity.get("images")
    count = f"{compared} inputs: " if isinstance(compared, int) else ""
    words = f"{words} on {compared} inputs" if passed and count else words
    lines = [
        f"largest difference of an output {largest}, lowest cosine {cosine}",
        f"compared on {count}{parity.get('images_from') or 'images'}",
        f"{meta.get('precision')} · {_megabytes(facts.kpis.get('size_mb'))}",
    ]
    agreement = parity.get("top1_agreement")
    images = parity.get("images")
    if is_number(agreement) and isinstance(images, int) and meta.get("task") != "segmentation":
        # Crops of one picture are no sample of pictures, so no interval is theirs.
        crops = "crops of" in str(parity.get("images_from"))
        sure = "" if crops else f" (95 %: at least {percent(wilson(agreement, images)[0])})"
        what = "crops of one picture" if crops else "images"
        lines.append(f"same class for {percent(agreement)} of {images} {what}{sure}")
    return Card("Result", words, lines, tone="good" if passed else "")


def _built(facts: Facts) -> Card:
    engine = mapping(facts.result.get("engine"))
    library = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
    backend = str(engine.get("backend") or "")
    made_by = f"{library.get(backend, backend)} {engine.get('library_version') or ''}"
    lines = [" · ".join(word for word in (str(engine.get("precision") or ""), made_by) if word)]
    targets, profile = engine.get("targets"), mapping(engine.get("profile"))
    if isinstance(targets, list):
        ends = dict.fromkeys(str(profile[end]) for end in ("minimum", "maximum") if end in profile)
        batches = f", batches of {' to '.join(ends)}" if ends else ""
        lines.append(f"for compute capability {', '.join(map(str, targets))}{batches}")
    parity = mapping(facts.result.get("parity"))
    if parity:
        lines.append(
            f"its graph against fp32: lowest cosine {number(parity.get('cosine_min'), 8)} on "
            f"{parity.get('images_from') or 'images'}"
        )
    lines.append("the build does not run the engine: an evaluation on its GPU shows how it answers")
    return Card("Result", f"{_megabytes(facts.kpis.get('engine_mb'))} engine", lines)


def _megabytes(value: Any) -> str:
    return size(1e6 * value) if is_number(value) else "–"


def _predicted(facts: Facts) -> Card:
    images = facts.kpis.get("images")
    lines = _answers(facts)
    table = facts.text(f"{facts.action}/{TABLE}")
    scored = right(table)
    if is_number(value := facts.kpis.get("mIoU")):
        sure = uncertainty(facts, "mIoU", value, None)
        scored = [f"mean IoU (mIoU) {percent(value)} on the masks beside them; {sure}"]
        scored += _of_masks(facts)
    if scored:
        scored += [*taught(facts), *chose(facts)]
    lines += scored
    if table:
        lines.append(f"every answer is in {facts.action}/{TABLE}, in the job's folder")
    tone = "warning" if facts.doubts or (scored and taught(facts)) else ""
    shown = f"{count_of(images, 'image')} answered"
    sure = scored[0] if scored else ""
    return Card("Result", shown, [*facts.doubts, *lines], tone=tone, sure=sure)


def _answers(facts: Facts) -> list[str]:
    """What an inference answered, in a line: the classes of the most images; of a segmenter those
    of the most pixels."""
    counts = mapping(facts.result.get("answered"))
    shares = mapping(facts.result.get("answered_pixels"))
    if not counts:
        return []

    def rank(name: str) -> tuple[float, float]:
        both = (shares.get(name), counts[name])
        share, count = (float(one) if is_number(one) else 0.0 for one in both)
        return -share, -count

    def said(name: str) -> str:
        if not is_number(shares.get(name)):
            return f"{name}: {number(counts[name])}"
        if not counts[name]:
            return f"{name}: none"
        images = count_of(counts[name], "image")
        return f"{name}: {percent(shares[name])} of the pixels, in {images}"

    ordered = sorted(counts, key=rank)
    first = ordered[: 4 if len(ordered) == 4 else 3]  # one that is left has a name too
    rest = len(ordered) - len(first)
    between = "; " if shares else ", "
    line = between.join(map(said, first)) + (f" and {rest} more classes" if rest else "")
    if facts.segments and not shares:  # of an older version
        line = f"the largest class of each image: {line}"
    return [line]


def right(table: str) -> list[str]:
    """How many of the answers of ``results.csv`` are those of its ``true_label``, of the images
    that have one, and what the most frequent one would reach; nothing where none is known."""
    pairs = []
    for row in rows_of(table):
        if "true_labels" in row:  # of several classes; none at all is an answer too
            pairs.append((row.get("labels"), row["true_labels"]))
        elif row.get("true_label"):
            pairs.append((row.get("label"), row["true_label"]))
    if not pairs:
        return []
    hits, images = sum(one == other for one, other in pairs), len(pairs)
    (most, count), *_ = Counter(true for _, true in pairs).most_common(1)
    low, high = wilson(hits / images, images)
    several = "true_labels" in table.partition("\n")[0]
    what = "have exactly their labels" if several else "are right"
    share = f"{percent(hits / images)} (95 %: {percent(low)} to {percent(high)})"
    one = f"{most or 'no label'} for every image would be right for {percent(count / images)}"
    return [f"{hits:,} of the {images:,} images whose class is known {what}: {share}; {one}"]


# ---------------------------------------------------------------------------------- the rest


def data(facts: Facts) -> Card:
    """What it read: counts and places."""
    lines, total, trained = [], 0, 0
    for key, seen in facts.sources.items():
        last = key.rsplit(".", 1)[-1]
        images, classes = seen.get("images"), seen.get("classes")
        classes = len(facts.classes_of_masks(seen)) or classes
        counts = [count_of(images, "image")] if isinstance(images, int) else ["not counted"]
        counts += [f"{classes} classes"] if isinstance(classes, int) and classes > 1 else []
        if (used := trained_on(seen)) is not None:
            counts.append(f"{used:,} trained on")
        if isinstance(seen.get("held_out"), int):
            counts.append(f"{seen['held_out']:,} held out for validation")
        without = mapping(mapping(seen.get("label_file")).get("labels")).get("none")
        if is_count(without) and without:
            counts.append(f"{without:,} of them without a label")
        uris = seen.get("uri")
        place = ", ".join(base(one) for one in (uris if isinstance(uris, list) else [uris]) if one)
        if table := mapping(seen.get("label_file")).get("file"):
            place = f"{place or 'unnamed'}; labels from {base(str(table))}"
        which = role(last, facts.action)
        lines.append(f"{which}: {', '.join(counts)} ({place or 'unnamed'})")
        total += images if isinstance(images, int) else 0
        trained += images if isinstance(images, int) and last == "train_data_sources" else 0
    derived = facts.derived
    if is_number(derived.get("images")) and facts.action == "train":
        total = int(derived["images"])
    elif facts.action == "train" and trained:
        total = trained
    model = facts.setting("export.checkpoint") or facts.setting("gen_trt_engine.onnx_file")
    if not lines and model:
        place = f"from {facts.record.get('parent') or 'a file'}"
        return Card("Model", facts.arch or "", [base(model), place])
    if facts.record.get("parent"):
        kind = mapping(facts.judged.get("model"))
        what = f" ({kind.get('kind')}, {kind.get('precision')})" if kind.get("kind") else ""
        lines.append(f"model from {facts.record['parent']}{what}")
    shown = count_of(total, "image") if total else "no data was counted"
    bad = facts.kpis.get("unreadable") if facts.action == "inference" else None
    if is_count(bad) and 0 < bad < total:
        shown = f"{total - bad:,} of {total:,} images"
        lines.insert(0, f"{bad:,} could not be read")
    if facts.state == records.ERROR and total:  # since then it may have gone
        lines.append("as counted when the job was launched")
    return Card("Data", shown, lines)


def left_out(facts: Facts) -> Card | None:
    """Files that were not used, by reason; None where no source was read.

    What cannot be read is known for certain at the end of the run alone.
    """
    lines, total, alarming = [], 0, False
    for key, reasons in facts.left_out.items():
        for reason, about in mapping(reasons).items():
            count = mapping(about).get("count")
            named = mapping(about).get("files")
            files = [base(one) for one in named][:3] if isinstance(named, list) else []
            more = " …" if is_number(count) and count > len(files) else ""
            total += int(count) if is_number(count) else 0
            alarming |= reason not in ("hidden", "other")
            where, last = _REASONS.get(reason, reason), key.rsplit(".", 1)[-1]
            which = role(last, facts.action)
            lines.append(f"{which}: {count} {where} ({', '.join(files)}{more})")
    ended = facts.state == records.COMPLETE
    if not lines and facts.action in ("export", "gen_trt_engine"):
        return None  # it takes as many images as it compares on, and says so
    if not lines:
        read = any(isinstance(seen.get("images"), int) for seen in facts.sources.values())
        if not read:
            return None
        if not ended:
            return _not_known(facts)
        return Card("Left out", "nothing", ["every file of the sources was used"])
    if not ended:
        lines.append("what could not be read is known when the run has ended")
    shown = f"{total:,} file{'s' if total != 1 else ''}"
    return Card("Left out", shown, lines[:MAX_LINES], tone="warning" if alarming else "")


def _not_known(facts: Facts) -> Card:
    """Of a run that wrote no result: how much could be read when it was launched."""
    error = mapping(facts.failure.get("error"))
    if error.get("field") == "dataset.max_corrupt_fraction":
        head, _ = _told_shortly(str(facts.failure.get("message")))
        return Card("Left out", "too much", [f"the run ended of it: {head}"], tone="warning")
    seen = [one for one in facts.sources.values() if isinstance(one.get("images"), int)]
    if all(one.get("read") == one["images"] and one.get("bad") == 0 for one in seen):
        said = "every image could be read when the job was launched; what the run itself left out"
        return Card("Left out", "nothing known", [f"{said} is said at its end"])
    return Card("Left out", "not known", ["what could not be read is said at the end of a run"])


CHOSE = "chose the model's checkpoint: the scores are optimistic"
"""Of the plan's warning that says the same as `chose`."""


def warned_of(facts: Facts) -> list[str]:
    """The warnings that do not stand with the result."""
    with_result = (*facts.doubts, *facts.doubts_of_model)
    said = [one for one in facts.warnings if not one.endswith(with_result or "\0")]
    if chose(facts):
        said = [one for one in said if CHOSE not in one]
    return said


def warnings(facts: Facts) -> Card | None:
    """What the plan and the run warned of."""
    said = warned_of(facts)
    if not said:
        return None
    lines = said[:MAX_LINES]
    if len(said) > MAX_LINES:
        lines.append(f"and {len(said) - MAX_LINES} more below")
    title = "Warning" if len(said) == 1 else f"{len(said)} warnings"
    if facts.is_study and set(said) & set(map(str, as_list(facts.record.get("warnings")))):
        title += " (what the plan says of fields is of the spec as given, trial 0 alone)"
    return Card(title, "", lines, tone="warning", wide=len(said) > 2, listed=True)


def next_step(facts: Facts) -> Card:
    """The command that is likely next."""
    job = shlex.quote(facts.id) + facts.root_flag
    study = records.study_of(facts.record)
    if study and facts.state in (records.ERROR, records.CANCELED):
        lines = ["its study starts and ends it; it is not resumed by itself"]
        return Card("Next", "", lines, f"mae jobs status {shlex.quote(study)}{facts.root_flag}")
    if facts.state == records.ERROR:
        if answers.fails_again(facts.record):
            same = "another attempt at this one meets the same data and spec"
            lines = [f"read the log, fix the cause and launch a new job: {same}"]
            commands = [f"mae jobs logs {job}", f"mae jobs show {job}"]
            commands += answers.inspections(facts.record, facts.job.folder)
            return Card("Next", "", lines, "\n".join(commands))
        then = "go on from the newest checkpoint" if _sizes(facts) else "run it again"
        lines = [f"read the log and fix the cause; then {then}"]
        return Card("Next", "", lines, f"mae jobs logs {job}\nmae jobs resume {job}")
    if facts.state == records.CANCELED:
        then = "go on from the newest checkpoint" if _sizes(facts) else "it saved none: start again"
        return Card("Next", "", [then], f"mae jobs resume {job}")
    if facts.state != records.COMPLETE:
        return Card("Next", "", ["wait for its end"], f"mae jobs wait {job}")
    steps = answers.after(facts.job)
    if facts.judges and facts.inherited:
        more = "its model is in doubt: train that longer or on more images; its files:"
        return Card("Next", "", [more], f"mae jobs show {job}")
    if facts.judges and not any(judge.doubts for judge in (facts, *facts.judges)):
        steps = [step for step in steps if step.action != "evaluate"]  # that was done
    if not steps and facts.doubts and facts.action == "evaluate":
        more = "its result is in doubt: train the model longer or on more images; its files:"
        return Card("Next", "", [more], f"mae jobs show {job}")
    if not steps:
        return Card("Next", "", ["nothing has to follow; its files:"], f"mae jobs show {job}")
    words = {
        "train": "fine-tune it on labeled images",
        "evaluate": "judge it on images that it has not seen",
        "inference": "let it answer images",
        "export": "export it",
        "gen_trt_engine": "build an engine of it",
    }
    if facts.doubts:
        longer = "train longer, on more images or from a pretrained model"
        models = [mapping(job.record.get("model")) for job in made_from(facts.job)]
        if any(model.get("stage") == "pretrain" for model in models):
            longer = "train longer or on more images"
        words["train"] = f"its result is in doubt: {longer}, before it is exported"
        words["evaluate"] = f"its result is in doubt: judge it on other images, or {longer}"
    lines = [words.get(steps[0].action, steps[0].action)]
    return Card("Next", "", lines, answers.command_of(steps[0], facts.root_flag))


_SIDE = "dataset.augmentation.input_size"


def chips(facts: Facts) -> Mapping[str, str]:
    """The small facts below the heading."""
    found = {"created": facts.created[:16].replace("T", " ") + " UTC" if facts.created else ""}
    if facts.seconds is not None:
        found["ran"] = seconds(facts.seconds)
    if facts.action == "train":
        epochs, side = (facts.setting(k) for k in ("train.num_epochs", _SIDE))
        found["epochs"] = f"{epochs}" if is_count(epochs) else ""
        found["input"] = f"{side} × {side} pixels" if is_count(side) else ""
    words = {
        "patch_size": "patches of",
        "embed_dim": "width",
        "depth": "depth",
        "num_heads": "heads",
    }
    own = {word: facts.setting(f"model.{key}") for key, word in words.items()}
    pixels = {"patches of": " pixels"}
    found["model with"] = ", ".join(
        f"{word} {value}{pixels.get(word, '')}" for word, value in own.items() if value
    )
    parameters = facts.derived.get("parameters")
    if is_number(parameters):
        found["parameters"] = f"{parameters / 1e6:.1f} M"
    found["checkpoints"] = size(sum(_sizes(facts))) if _sizes(facts) else ""
    return {name: text for name, text in found.items() if text}


def _sizes(facts: Facts) -> list[float]:
    entries = facts.index.get("checkpoints")
    if not isinstance(entries, list):
        return []
    return [mapping(e)["size"] for e in entries if is_number(mapping(e).get("size"))]
