"""What came out at the end of a chain, in a few sentences: the figure, how sure it is, on which
images; of what was made of a model also whether it answers as the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mae_sdk import answers
from mae_sdk.jobs import records
from mae_sdk.jobs.intervals import gap, wilson
from mae_sdk.jobs.metrics import HEADLINES, mapping
from mae_sdk.jobs.paired import METRIC, Answers, pairs_of
from mae_sdk.jobs.status import is_number
from mae_sdk.report.facts import Facts, base
from mae_sdk.report.markup import number, percent, together
from mae_sdk.report.words import named

_SHARES = ("ACC", "mAP", "mIoU", "linear", "knn")
_STATES = {
    records.ERROR: "failed",
    records.CANCELED: "was canceled",
    records.RUNNING: "is running",
    records.PENDING: "waits to start",
    records.UNKNOWN: "is out of sight",
}
_MADE = ("export", "gen_trt_engine")


@dataclass(frozen=True)
class Measured:
    """A figure that a job reports.

    Attributes:
        images: that it is a share of; None: of none, or not known.
        span: its interval at 95 %, in words; empty where there is none.
        place: of the images, as it was given; empty where it is not known.
        doubts: why it says that nothing was learned.
        answers: to each image, where it is a share of those.
    """

    name: str
    value: float
    images: int | None
    span: str
    place: str
    doubts: tuple[str, ...] = ()
    answers: Answers | None = None

    @property
    def is_share(self) -> bool:
        return self.images is not None or self.name.startswith(_SHARES)

    @property
    def text(self) -> str:
        return percent(self.value) if self.is_share else number(self.value)


def outcome(last: Facts, line: Sequence[Facts]) -> str:
    """The sentences.

    Args:
        last: the job that the chain leads to.
        line: that and what it came from, oldest first, with the evaluations of each.
    """
    return together(_sentences(last, line))


def _sentences(last: Facts, line: Sequence[Facts]) -> str:
    said = []
    if last.state != records.COMPLETE:
        word = _STATES.get(last.state, "has not ended")
        said.append(f"The last job {word}, so nothing came out of it.")
        models = [facts for facts in _ancestors(last, line)[:-1] if facts.action != "evaluate"]
        if not models:
            return said[0]
        return " ".join([*said, *_of_model(models[-1], line)])
    if last.action == "evaluate":
        return _of_evaluation(last, line)
    if last.action == "inference":
        return _of_inference(last, line)
    return " ".join(_of_model(last, line))


def _ancestors(last: Facts, line: Sequence[Facts]) -> list[Facts]:
    """The jobs that the last one came from, and itself, without the evaluations beside them."""
    known = {facts.id: facts for facts in line}
    found = [last]
    while (parent := known.get(_parent(found[0]))) is not None and parent not in found:
        found.insert(0, parent)
    return found


def _parent(facts: Facts) -> str:
    return str(facts.record.get("parent_automl") or facts.record.get("parent"))


def _of_evaluation(facts: Facts, line: Sequence[Facts]) -> str:
    found = measured(facts)
    judged = next((one for one in line if one.id == _parent(facts)), None)
    what = f"The {_name(judged)}" if judged is not None else "The model"
    if found is None:
        return f"{what} was judged, but no figure of it is known."
    return " ".join([f"{what} gives {_told(found, line)}.", *_beside(found, judged, line)])


def _of_inference(facts: Facts, line: Sequence[Facts]) -> str:
    images = facts.kpis.get("images")
    answered = f"{number(images)} images were answered" if is_number(images) else "It has answered"
    if is_number(facts.kpis.get("mIoU")):
        found = measured(facts)
        assert found is not None
        span = f" (95 %: {found.span})" if found.span else ""
        iou = f"{percent(facts.kpis['mIoU'])}{span}{_doubted(found.doubts)}"
        return f"{answered}; on the masks beside them mIoU is {iou}."
    ancestors = _ancestors(facts, line)[:-1]
    known = " ".join(_of_model(ancestors[-1], line)) if ancestors else ""
    return f"{answered}; how many of the answers are right was not measured. {known}".strip()


def _of_model(facts: Facts, line: Sequence[Facts]) -> list[str]:
    """What is known of what a job made: by evaluations of it, else by its own validation."""
    name = _name(facts)
    found = next((one for one in _judgments(facts, line)), None)
    if found is not None:
        return [f"The {name} gives {_told(found, line)}.", *_beside(found, facts, line)]

    if facts.action == "train":
        own = _of_training(facts)
        if own is None:
            return [f"The {name} was not measured: {_how(facts)}"]
        return [f"The {name} gives {own}. It was not evaluated: {_how(facts)}"]

    said = [f"The {name} itself was not measured on labeled images: {_how(facts)}"]
    model = _model_of(facts, line)
    if model is not None:
        known = next((one for one in _judgments(model, line)), None)
        if known is not None:
            said.append(f"Its {_name(model)} gives {_told(known, line)}.")
        elif (own := _of_training(model)) is not None:
            said.append(f"Its {_name(model)} gives {own}.")
    return said


def _how(facts: Facts) -> str:
    return f"{answers.command_of(answers.evaluation(facts.job))} does it."


def _name(facts: Facts) -> str:
    """What a job made, in a word or two."""
    if facts.action == "gen_trt_engine":
        return "engine"
    if facts.action == "export":
        kind = facts.setting("export.format")
        return "ONNX model" if kind in (None, "onnx") else f"exported model ({kind})"
    if facts.is_study:
        return "checkpoint of the best trial"
    if facts.action == "train":
        words = {"pretrain": "pretrained checkpoint", "finetune": "fine-tuned checkpoint"}
        return words.get(facts.stage or "", "trained model")
    return "model"


# ------------------------------------------------------------------ figures


def measured(facts: Facts) -> Measured | None:
    """The figure that an evaluation is judged by; None where it has none."""
    stated = str(mapping(facts.record["launch"].get("best")).get("metric") or "")
    names = [stated, *HEADLINES, *map(str, facts.kpis)]
    name = next((one for one in names if is_number(facts.kpis.get(one))), None)
    if name is None:
        return None
    value = float(facts.kpis[name])
    images = mapping(facts.result.get("shares")).get(name)
    images = images if isinstance(images, int) else None
    given = mapping(mapping(facts.judged.get("intervals")).get(name))
    span = ""
    if is_number(given.get("low")) and is_number(given.get("high")):
        span = f"{percent(given['low'])} to {percent(given['high'])}"
    elif images:
        span = " to ".join(map(percent, wilson(value, images)))
    doubts = tuple(facts.doubts)
    answers = facts.answers if name == METRIC else None
    return Measured(name, value, images, span, _place(facts, "val_data_sources"), doubts, answers)


def _judgments(facts: Facts, line: Sequence[Facts]) -> list[Measured]:
    """What evaluations of a job's model have measured, the newest first."""
    found = [
        measured(one)
        for one in reversed(line)
        if one.action == "evaluate" and one.state == records.COMPLETE and _parent(one) == facts.id
    ]
    return [one for one in found if one is not None]


def _doubted(doubts: Sequence[str]) -> str:
    """The verdict of a doubt, without its figures, which stand before it."""
    return f"; it is in doubt: {doubts[0].partition(':')[0]}" if doubts else ""


def _told(found: Measured, line: Sequence[Facts]) -> str:
    """A figure on its images, and why it is in doubt."""
    return _on_images(found, line) + _doubted(found.doubts)


def _on_images(found: Measured, line: Sequence[Facts]) -> str:
    """``accuracy (ACC_all) 93.2 % (95 %: 90.6 % to 95.1 %) on 500 held-out images (d/test)``."""
    text = f"{named(found.name)} {found.text}"
    text += f" (95 %: {found.span})" if found.span else ""
    text += f" on {found.images:,}" if found.images else " on"
    trained = [one for one in line if one.action == "train"]
    where = f" ({base(found.place)})" if found.place else ""
    if taught := next(filter(None, (_taught(one, found.place) for one in line)), ""):
        return f"{text} images{where}; {taught}, so that this flatters"
    if found.place and any(_place(one, "train_data_sources") == found.place for one in trained):
        return f"{text} images{where} that it was trained on, which says little of others"
    if found.place and any(_place(one, "val_data_sources") == found.place for one in trained):
        return f"{text} images{where} that its training was watched on: on others expect less"
    return f"{text} {'held-out ' if found.place and trained else ''}images{where}"


def _place(facts: Facts, source: str) -> str:
    for key, seen in facts.sources.items():
        uri = seen.get("uri")
        if key.rsplit(".", 1)[-1] == source and uri:
            return ", ".join(map(str, uri)) if isinstance(uri, list) else str(uri)
    return ""


def _taught(facts: Facts, place: str) -> str:
    """How many images of a place the plan of a job has found among those that the model was
    trained on, in words; empty where it found none."""
    for seen in map(mapping, mapping(facts.record.get("data")).values()):
        twins = mapping(seen.get("taught"))
        if place and seen.get("uri") == place and twins.get("count"):
            compared = twins.get("compared")
            of = f" of the {compared:,} that were compared" if isinstance(compared, int) else ""
            return f"the model was trained on {twins['count']:,}{of}"
    return ""


def _of_training(facts: Facts) -> str | None:
    """The best figure of a training's own validation, in words."""
    best = mapping(facts.figures.get("best"))
    study = mapping(facts.figures.get("study"))
    name: Any = mapping(facts.figures.get("best_checkpoint")).get("metric")
    name = study.get("metric") or name or next(iter(best), None)
    top = mapping(study.get("best")) or mapping(best.get(name))
    images = study.get("images") or top.get("images")
    if name is None or not is_number(top.get("value")):
        return None
    value = float(top["value"])
    if isinstance(images, int):
        low, high = map(percent, wilson(value, images))
        where = f"on {images:,} validation images, by which it was chosen: on others expect less"
        text = f"{name} {percent(value)} (95 %: {low} to {high}) {where}"
        return text + _doubted(facts.doubts)
    watched = "in training" if str(name).startswith("train") else "in validation"
    found = Measured(str(name), value, None, "", "")
    return f"{name} {found.text} {watched}, by which it was chosen{_doubted(facts.doubts)}"


def _model_of(facts: Facts, line: Sequence[Facts]) -> Facts | None:
    """The training that an export or an engine was made of."""
    trained = [one for one in _ancestors(facts, line) if one.action == "train"]
    return trained[-1] if trained else None


def _beside(found: Measured, made: Facts | None, line: Sequence[Facts]) -> list[str]:
    """How what was made of a model answers beside it; nothing of the model itself."""
    model = _model_of(made, line) if made is not None and made.action in _MADE else None
    if model is None:
        return []
    name = _name(model)
    known = [
        one
        for one in _judgments(model, line)
        if (one.name, one.place, one.images) == (found.name, found.place, found.images)
    ]
    if not known:
        return [f"The {name} was not judged on these images, so the two are not compared."]
    other = known[0]
    if found.text == other.text:
        return [f"That is the same as the {name}."]
    if not found.is_share:
        return [f"The {name} gives {other.text} there."]
    away = 100 * (found.value - other.value)
    text = f"That is {abs(away):.1f} points {'above' if away > 0 else 'below'} the {name} "
    text += f"({other.text})"
    if found.images and other.images:
        pairs = pairs_of(found.answers, other.answers)
        between = gap(found.value, found.images, other.value, other.images, pairs)
        text += "" if between.is_told else ", which so many images cannot tell apart"
    return [f"{text}."]
