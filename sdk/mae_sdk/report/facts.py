"""Everything that a report says of a job, read from its folder and nowhere else.

A folder may lack any of it, and other programs write such files too: what is not there, or is not
what it should be, is left out.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from mae_skill.classes import FIELD as CLASS_LIST
from mae_skill.classes import class_names
from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError
from mae_skill.mask_meaning import MASK_VALUES, MOST, REDUCE_ZERO, MaskMeaning

from mae_sdk.files import parse_json
from mae_sdk.job import (
    Job,
    RemoteJob,
    beside,
    content_of,
    doubts_of,
    lines_said_by,
    made_from,
    of_model,
    spec_of,
)
from mae_sdk.jobs import paired, records
from mae_sdk.jobs.checkpoints import INDEX_NAME
from mae_sdk.jobs.metrics import described, mapping
from mae_sdk.jobs.records import JobRecord
from mae_sdk.jobs.root import DEFAULT_ROOT, Root
from mae_sdk.jobs.status import is_count, is_number
from mae_sdk.storage import urls

IGNORED = "dataset.segmentation.ignore_index"
MAX_JOBS = 20
"""Of a chain."""
MAX_EVALUATIONS = 200
"""Of a root, among which those of a chain are looked for."""
MAX_CSV_BYTES = 24 << 20
"""Of a long run's ``metrics.csv``, read at most so much, in pieces spread over it."""
_PIECES = 256

Curve = list[tuple[float, float]]


@dataclass
class Facts:
    """One job.

    Attributes:
        record, state: as they are now, or as they will be in a moment (see `page.Ending`).
    """

    job: Job
    record: JobRecord
    state: str
    _documents: dict[str, dict[str, Any]] = field(default_factory=dict)

    # ------------------------------------------------------------------ files

    def text(self, relative: str) -> str:
        """A file as text; empty where there is none."""
        content = content_of(self.job, relative)
        return "" if content is None else content.decode(errors="replace")

    def document(self, relative: str) -> dict[str, Any]:
        """A JSON file; empty where there is none that can be read."""
        if relative not in self._documents:
            try:
                found = parse_json(self.text(relative) or "{}")
            except ValueError:
                found = {}
            self._documents[relative] = found if isinstance(found, dict) else {}
        return self._documents[relative]

    # ------------------------------------------------------------------ what it is

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def action(self) -> str:
        return self.record["action"]

    @cached_property
    def root_flag(self) -> str:
        """`` --results-root X`` for a command that names the job, where it would not be found
        without: its root is neither of the default name nor the one that the environment names."""
        where = str(self.record["launch"].get("remote") or "").rpartition("/")[0]
        where = where or str(self.job.folder.parent)
        if isinstance(self.job, RemoteJob):
            where = self.job.root.url
        named = os.environ.get("MAE_RESULTS_ROOT")
        with contextlib.suppress(MaeError):
            if named and Root(named).url == where:
                return ""
        if not urls.is_remote(where) and Path(where).name == DEFAULT_ROOT:
            return ""
        return f" --results-root {shlex.quote(urls.redact(where))}"

    @property
    def is_study(self) -> bool:
        return self.record.get("kind") == "automl"

    @cached_property
    def study(self) -> Facts | None:
        """Of a trial its study; None of another job, and where the study is not there."""
        study = beside(self.job, records.study_of(self.record) or "")
        return None if study is None else facts_of(study, study.record, "")

    @cached_property
    def row(self) -> dict[str, str]:
        """Of a trial what its study's table says of it; empty without one."""
        table = "" if self.study is None else self.study.text("automl/trials.csv")
        return next((row for row in rows_of(table) if row.get("child") == self.id), {})

    @property
    def is_pruned(self) -> bool:
        """Whether its study ended it early, as one that was not among the better ones."""
        return self.row.get("state") == "PRUNED"

    @property
    def state_word(self) -> str:
        """What stands in its badge: nobody canceled a trial that was pruned."""
        return "PRUNED" if self.is_pruned and self.state == records.CANCELED else self.state

    @property
    def is_running(self) -> bool:
        return self.state in (records.PENDING, records.RUNNING)

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        try:
            return spec_of(self.job)
        except MaeError:
            return {}

    def setting(self, key: str) -> Any:
        """A field of the spec by its dotted key; None where there is none."""
        try:
            return get_dotted(self.spec, key)
        except MaeError:
            return None

    @cached_property
    def stage(self) -> str | None:
        """Of the model: of training its own, else that of what it took."""
        model = mapping(self.result.get("model")) or mapping(self.result.get("meta"))
        found = model.get("stage") or self.setting("train.stage")
        return found if isinstance(found, str) else None

    @cached_property
    def arch(self) -> str | None:
        model = mapping(self.result.get("model")) or mapping(self.result.get("meta"))
        found = model.get("arch") or self.setting("model.arch")
        return found if isinstance(found, str) else None

    # ------------------------------------------------------------------ what it did

    @cached_property
    def result(self) -> dict[str, Any]:
        return self.document(f"{self.action}/result.json")

    @cached_property
    def kpis(self) -> dict[str, Any]:
        """The newest value of every metric: of the result, before that of the last lines."""
        found: dict[str, Any] = {}
        for line in self.lines:
            found.update(mapping(line.get("kpi")))
        return {**found, **mapping(self.result.get("kpis"))}

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """``status.json``, and what its runner says in files of its own."""
        try:
            return lines_said_by(self.job)
        except MaeError:
            return []

    @cached_property
    def figures(self) -> dict[str, Any]:
        try:
            return self.job.figures()
        except MaeError:
            return {}

    @cached_property
    def index(self) -> dict[str, Any]:
        """``checkpoints.json``."""
        return self.document(f"{self.action}/{INDEX_NAME}")

    @cached_property
    def about(self) -> dict[str, dict[str, Any]]:
        """Metric → ``direction`` and, of a share of images, ``images``."""
        try:
            return described(self.index, self.record["launch"].get("best"))
        except (TypeError, ValueError, AttributeError):
            return {}

    @cached_property
    def answers(self) -> paired.Answers | None:
        """What an evaluation has answered to each image; None where that is not known."""
        share = self.kpis.get(paired.METRIC)
        images = mapping(self.result.get("shares")).get(paired.METRIC)
        if self.action != "evaluate" or not is_number(share) or not isinstance(images, int):
            return None
        return paired.answers_of(self.text("evaluate/results.csv"), float(share), images)

    @cached_property
    def derived(self) -> dict[str, Any]:
        return self.document(f"{self.action}/derived.json")

    @property
    def segments(self) -> bool:
        """Whether the model is a segmenter."""
        if "mIoU" in self.kpis:
            return True
        model = mapping(self.result.get("model")) or mapping(self.result.get("meta"))
        return bool((model.get("task") or self.setting("model.task")) == "segmentation")

    @cached_property
    def several(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        if self.setting("model.multi_label") is True and self.action == "train":
            return True
        if any("AP" in mapping(one) for one in mapping(self.judged.get("per_class")).values()):
            return True  # of an evaluation
        return self.result.get("multi_label") is True  # of an inference

    @cached_property
    def doubts(self) -> list[str]:
        """As the lists of jobs have them (`doubts_of`)."""
        return doubts_of(self.job)

    @cached_property
    def doubts_of_model(self) -> dict[str, list[str]]:
        """Doubt → the jobs that found it in the model that this one took, its training and its
        evaluations: of a job that judges nothing itself."""
        if self.action in ("train", "evaluate"):
            return {}
        line = {job.id: job for job in made_from(self.job)}
        judges = evaluations(self.job) if line else []
        line |= {
            job.id: job
            for job in judges
            if {job.record.get("parent"), job.record.get("parent_automl")} & {self.id, *line}
        }
        found: dict[str, list[str]] = {}
        for job in line.values():
            for doubt in facts_of(job, job.record, "").doubts:
                if doubt not in self.doubts:
                    found.setdefault(doubt, []).append(job.id)
        return found

    @cached_property
    def judges(self) -> list[Facts]:
        """The evaluations of what this job made that have ended with figures, oldest first."""
        if self.action not in ("train", "export", "gen_trt_engine"):
            return []
        if self.state != records.COMPLETE or self.record.get("kind") == "trial":
            return []
        of_it = [
            facts_of(job, job.record, "")
            for job in evaluations(self.job)
            if self.id in (job.record.get("parent"), job.record.get("parent_automl"))
        ]
        return [one for one in of_it if mapping(one.result.get("kpis"))]

    @property
    def inherited(self) -> list[str]:
        """`doubts_of_model` in words."""
        return [of_model(doubt, names) for doubt, names in self.doubts_of_model.items()]

    @cached_property
    def judged(self) -> dict[str, Any]:
        """``metrics.json`` of an evaluation; of training the validation of its best checkpoint
        (``epoch``; of older jobs, without it, the last one)."""
        if self.action == "train":
            return self.document("train/validation.json")
        return self.document(f"{self.action}/metrics.json")

    @cached_property
    def unit(self) -> str:
        """What its runner counts by: ``epoch``, or ``step`` where no line names an epoch."""
        return "epoch" if any(is_count(line.get("epoch")) for line in self.lines) else "step"

    @cached_property
    def marks(self) -> list[dict[str, Any]]:
        """The newest status line of every epoch, or of every step, in order."""
        found = {line[self.unit]: line for line in self.lines if is_count(line.get(self.unit))}
        return [found[number] for number in sorted(found)]

    @cached_property
    def steps(self) -> dict[str, Curve]:
        """Name → (step, value) of ``metrics.csv``; a step that was done again counts once."""
        curves: dict[str, dict[int, float]] = {}
        table = _sampled(content_of(self.job, f"{self.action}/metrics.csv"))
        for row in csv.reader(io.StringIO(table)):
            if len(row) != 4 or not row[0].isdigit():
                continue
            try:
                curves.setdefault(row[2], {})[int(row[0])] = float(row[3])
            except ValueError:
                continue
        return {name: sorted(points.items()) for name, points in curves.items()}

    def curve_of(self, metric: str) -> Curve:
        """(epoch or step, value) of a metric."""
        return [
            (line[self.unit], value)
            for line in self.marks
            if is_number(value := mapping(line.get("kpi")).get(metric))
        ]

    @cached_property
    def notes(self) -> list[str]:
        """What the plan said of settings that nobody has set."""
        return [str(one) for one in as_list(self.record.get("notes"))]

    @cached_property
    def warnings(self) -> list[str]:
        """What the plan, the data and the run warned of, each once, without `notes`."""
        said: list[str] = []
        of_run = self.figures.get("warnings")
        planned = self.record.get("warnings")
        for part in (planned, of_run, self._data_warnings()):
            if isinstance(part, list):
                said += [str(one) for one in part]
        return [one for one in dict.fromkeys(said) if one not in self.notes]

    def _data_warnings(self) -> list[str]:
        try:
            return self.job.data_warnings()
        except MaeError:
            return []

    @cached_property
    def left_out(self) -> dict[str, Any]:
        return mapping(self.figures.get("left_out"))  # type: ignore[return-value]

    @cached_property
    def sources(self) -> dict[str, Mapping[str, Any]]:
        """Field of a data source → what was counted there."""
        found = dict(mapping(self.record.get("data")))
        found |= mapping(mapping(self.result.get("data")).get("sources"))
        return {str(key): mapping(seen) for key, seen in found.items()}

    def classes_of_masks(self, seen: Mapping[str, Any]) -> list[tuple[str, int, int]]:
        """Of a source with masks each class that they hold, the most frequent first: its name, its
        pixels, the images that hold it. Of many masks those that were looked at."""
        if not (values := mapping(mapping(seen.get("mask_values")).get("values"))):
            return []
        reduces = mapping(self.record.get("model")).get("reduce_zero_label")
        if reduces is None or REDUCE_ZERO in mapping(self.record.get("changed")):
            reduces = self.setting(REDUCE_ZERO)
        classes = self.setting("model.num_classes")
        meaning = MaskMeaning(
            classes if is_count(classes) else MOST,
            self.setting(IGNORED),
            reduces is not False,
            tuple(self.setting(MASK_VALUES) or ()),
        )
        names: list[str] = []
        with contextlib.suppress(MaeError, OSError, TypeError):
            names = class_names(self.setting(CLASS_LIST), self.setting("model.num_classes"))
        found: list[tuple[str, int, int]] = []
        for value, about in values.items():
            place = meaning.class_of(int(value)) if str(value).isdigit() else None
            pixels, images = mapping(about).get("pixels"), mapping(about).get("images")
            if place is None or not (is_count(pixels) and is_count(images)):
                continue  # it stands for no class
            name = names[place] if place < len(names) else str(place)
            found.append((name, int(pixels), int(images)))
        return sorted(found, key=lambda one: -one[1])

    @property
    def place(self) -> str:
        """Where its folder is."""
        if isinstance(self.job, RemoteJob):
            return urls.redact(self.job.root.job_url(self.id))
        return str(self.job.folder)

    @property
    def failure(self) -> Mapping[str, Any]:
        """Why it failed; empty where it did not."""
        return mapping(records.last_attempt(self.record)["failure"])

    # ------------------------------------------------------------------ time

    @cached_property
    def created(self) -> str:
        return str(self.record.get("created_at") or "")

    @cached_property
    def spans(self) -> list[tuple[int, str, str, float | None]]:
        """Of every attempt: number, state, when it began to run, seconds that it ran."""
        found = []
        for attempt in self.record["attempts"]:
            times = {one["state"]: _when(one.get("at")) for one in attempt["transitions"]}
            began = times.get(records.RUNNING)
            ended = _when(attempt["transitions"][-1].get("at")) if attempt["transitions"] else None
            if records.is_terminal(attempt["state"]):
                span = None if began is None or ended is None else (ended - began).total_seconds()
            else:
                now = datetime.now(timezone.utc)
                span = None if began is None else (now - began).total_seconds()
            shown = "" if began is None else began.strftime("%Y-%m-%d %H:%M UTC")
            found.append((attempt["number"], attempt["state"], shown, span))
        return found

    @property
    def seconds(self) -> float | None:
        """How long all attempts ran together."""
        known = [span for *_, span in self.spans if span is not None]
        return sum(known) if known else None


def _when(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _sampled(content: bytes | None) -> str:
    """A table as text; of a very long one, whole lines from places spread over it."""
    if content is None:
        return ""
    if len(content) <= MAX_CSV_BYTES:
        return content.decode(errors="replace")
    size = MAX_CSV_BYTES // _PIECES
    kept = []
    for piece in range(_PIECES):
        start = piece * (len(content) - size) // (_PIECES - 1)
        part = content[start : start + size]
        kept.append(part[part.find(b"\n") + 1 : part.rfind(b"\n") + 1])
    return b"".join(kept).decode(errors="replace")


def facts_of(job: Job, record: JobRecord | None = None, state: str | None = None) -> Facts:
    """The facts of a job; `record` and `state` where they are known better than its folder says.

    Raises:
        NotFoundError, DataError: there is no such job, or its record cannot be read.
    """
    if record is None or state is None:
        seen, observed = job.observe()
        record, state = record or seen, state or observed
    return Facts(job, record, state)


def rows_of(text: str) -> Iterator[dict[str, str]]:
    """The rows of a table with a header."""
    for row in csv.DictReader(io.StringIO(text)):
        yield {str(name): value or "" for name, value in row.items() if name is not None}


def shown(value: Any, limit: int = 200) -> str:
    """A value of a spec for people, at most so many characters of it."""
    if value is None:
        return "null"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text or '""'
    return text if len(text) <= limit else text[: limit - 1] + "…"


def base(name: Any) -> str:
    """The last two parts of a path: the class folder and the file."""
    parts = [part for part in str(name).replace("\\", "/").split("/") if part]
    return "/".join(parts[-2:])


def as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def parents(job: Job) -> list[Job]:
    """The jobs that a job came from, oldest first, then the job itself.

    A model that a study chose comes from the study, not from its best trial.
    """
    line, seen = [job], {job.id}
    while len(line) < MAX_JOBS:
        try:
            record = line[0].record
        except MaeError:
            break
        name = record.get("parent_automl") or record.get("parent")
        before = beside(line[0], str(name)) if name else None
        if before is None or before.id in seen:
            break
        seen.add(before.id)
        line.insert(0, before)
    return line


def evaluations(job: Job) -> list[Job]:
    """The evaluations in the same root, oldest first; their ids begin with the action."""
    if isinstance(job, RemoteJob):
        ids = [name for name in job.root.ids() if name.startswith("evaluate-")]
    else:
        ids = [folder.name for folder in job.folder.parent.glob("evaluate-*")]
    found = []
    for name in sorted(ids)[:MAX_EVALUATIONS]:
        try:
            other = beside(job, name)
            if other is not None:
                found.append((str(other.record.get("created_at")), other))
        except MaeError:
            continue
    return [other for _, other in sorted(found, key=lambda pair: pair[0])]
