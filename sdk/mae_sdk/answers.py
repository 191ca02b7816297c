"""The JSON documents that the command line prints and the MCP server returns.

Each is built here, once. The command line renders it as text or prints it as it is with ``--json``;
both add ``next``, the sensible next calls in their own language.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shlex
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill import errors
from mae_skill.dotted import flatten
from mae_skill.errors import MaeError, NotFoundError, StorageError
from mae_skill.origin import OriginKind
from mae_skill.spelling import and_more, nearest, source_option, valid_text

if TYPE_CHECKING:
    from mae_skill.bundle import Bundle
    from mae_skill.errors import MaeError
    from mae_skill.resolve import Resolution

    from mae_sdk.job import Job
    from mae_sdk.jobs.records import JobRecord
    from mae_sdk.plan.plan import Plan

Document = dict[str, Any]


def plain(value: Any) -> Any:
    """A document in the types that JSON has: NaN and infinities as None, foreign values as text."""
    if isinstance(value, float):
        return value if float("-inf") < value < float("inf") else None
    if isinstance(value, str):
        return valid_text(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {valid_text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return valid_text(str(value))


_OUR_FAULTS = {errno.EBADF, errno.EFAULT, errno.ENOSYS, errno.EINVAL}


def system_error(error: Exception) -> MaeError | None:
    """What the system said, as an error that the user can fix; None where it is a bug of ours."""

    if not isinstance(error, OSError) or error.errno is None or error.errno in _OUR_FAULTS:
        return None
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and error.filename is not None:
        return NotFoundError("there is no such file or folder", got=str(error.filename))
    return StorageError(
        error.strerror or str(error),
        got=None if error.filename is None else str(error.filename),
        hint="fix the path, its permissions or its disk",
    )


def internal_error(error: Exception) -> Document:
    """A bug in this program, in the form of `MaeError.to_dict`."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return errors.internal_error(error, f"a bug in mae at {place}; please report it")


def plan(made: Plan, *, full: bool = True) -> Document:
    """A plan; without `full`, the origin of only those values that differ from the template's.

    ``submission`` is what the engine of its platform would be given, where that can be shown.

    Raises:
        UsageError: the platform cannot run such a job.
    """
    document = made.to_dict()
    if submission := _submission(made):
        document["submission"] = submission
    if not full:
        document["provenance"] = {
            key: value
            for key, value in document["provenance"].items()
            if value["origin"] != "template"
        }
    return document


def _submission(made: Plan) -> list[dict[str, Any]]:
    from mae_sdk.run.platform import DEFAULT, platform

    if made.request.platform == DEFAULT:
        return []
    from mae_skill.bundle import Bundle

    from mae_sdk.jobs.root import Root
    from mae_sdk.launch import record_of

    place = platform(made.request.platform)
    record, job_dir = record_of(Bundle.load(made.request.skill_dir), made), Path(made.job_dir)
    if made.study is not None and place.apart:  # the study runs here, and each of its trials there
        trial = f"{made.job_id}.t000"
        remote = Root(made.results_root).job_url(trial)
        record |= {"id": trial, "kind": "trial", "launch": {**made.launch, "remote": remote}}
        job_dir = job_dir.with_name(trial)
    return place.preview(job_dir, record)


@dataclass(frozen=True)
class Step:
    """A sensible next job, for the command line and MCP to put into their own words.

    Attributes:
        sources: the data that it needs: names of options of a plan.
        overrides: fields of its spec; a value in capitals is to be filled in.
        policy: of AutoML, where the person has chosen one: a training without it would search.
        recipe: ``auto`` where it made the training before: the template's settings are others.
        spec: that goes along: a file, or sections.
    """

    action: str
    parent: str | None = None
    sources: tuple[str, ...] = ()
    overrides: tuple[tuple[str, Any], ...] = ()
    skill_dir: str | None = None
    policy: str | None = None
    recipe: str | None = None
    spec: Mapping[str, Any] | str | None = None


def command_of(step: Step, root: str = "", *, verb: str = "run") -> str:
    """The command that launches a next job; what is to be filled in stands in capitals."""
    words = [f"mae {verb} {step.action}"]
    words += [f"--parent {step.parent}"] if step.parent else []
    words += [source_option(name) for name in step.sources]
    words += [f"--skill-dir {shlex.quote(step.skill_dir)}"] if step.skill_dir else []
    words += [f"--recipe {step.recipe}"] if step.recipe else []
    words += [f"--automl-policy {step.policy}"] if step.policy else []
    words += [f"-e {shlex.quote(step.spec)}"] if isinstance(step.spec, str) else []
    words += [shlex.quote(_as_override(key, value)) for key, value in step.overrides]
    return " ".join(words) + root


def _as_override(key: str, value: Any) -> str:
    """``key=value`` as a command line reads it back."""
    from mae_skill.reader import parse_value

    bare = isinstance(value, str) and value.strip() == value
    with contextlib.suppress(MaeError):
        if bare and parse_value(value) == value:
            return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def after(job: Job) -> list[Step]:
    """What may follow a job that is COMPLETE, the likeliest first. A training after one whose
    search was turned off is none either, and one after the auto recipe's is made by it too."""
    steps = _after(job)
    if not any(step.action == "train" for step in steps):
        return steps
    from mae_sdk.job import beside

    record = job.record
    judged = beside(job, str(record["parent"])) if record.get("parent") else None
    trained = judged.record if record["action"] != "train" and judged is not None else record
    policy = "off" if (trained.get("policy") or {}).get("policy") == "off" else None
    recipe = "auto" if _is_by_auto_recipe(trained) else None
    return [
        replace(one, policy=policy, recipe=recipe) if one.action == "train" else one
        for one in steps
    ]


def _is_by_auto_recipe(record: Mapping[str, Any]) -> bool:
    """Whether the auto recipe made a job: its values say the rules that they came from."""
    changed = (record.get("changed") or {}).values()
    return any(str((about or {}).get("origin")).startswith("recipe (") for about in changed)


def _after(job: Job) -> list[Step]:
    """`after`, of the actions alone."""
    record = job.record
    skill_dir = record.get("skill_dir")
    if skill_dir:
        return _after_another(job, skill_dir)
    from mae_sdk.job import beside, doubts_of, setting

    action = record["action"]
    if action == "train":
        evaluate = evaluation(job)
        export = Step("export", job.id)
        if job.stage() != "pretrain":
            used = [Step("inference", job.id, ("inference_dataset",)), export]
            return [evaluate, *([] if doubts_of(job) else used)]
        counted = [seen.get("classes") for seen in (record.get("data") or {}).values()]
        return [fine_tuning(next((n for n in counted if n), None), job.id), evaluate, export]
    if action == "evaluate":
        parent = record.get("parent_automl") or record.get("parent")
        judged = str(setting(job, "evaluate.checkpoint") or "")
        exported = judged.endswith(".onnx") or setting(job, "evaluate.trt_engine")
        if not parent or exported or job.stage() == "pretrain":
            return []
        other_images = evaluation(job, parent)
        if doubts_of(job):
            trained = beside(job, parent)
            return [other_images if trained is None else _again(trained), other_images]
        if any({"chose", "taught"} & seen.keys() for seen in (record.get("data") or {}).values()):
            return [other_images]
        return [Step("export", parent)]
    measured = evaluation(job)
    if action != "export":
        return [measured] if action == "gen_trt_engine" else []
    # An engine is built of fp32 ONNX: anything else is the end of its way.
    whole = setting(job, "export.data_type") in (None, "fp32")
    builds = whole and setting(job, "export.format") in (None, "onnx")
    return [measured, Step("gen_trt_engine", job.id)] if builds else [measured]


_LIKE_BEFORE = (
    "model.",
    "dataset.classes",
    "dataset.labels.",
    "dataset.segmentation.",
    "dataset.augmentation.input_size",
)
"""Fields that make a training one of the same kind: what the model is, and what its data mean."""
_FILES = {"dataset.labels.train": "TABLE", "dataset.labels.val": "TABLE"}
_FILES |= {f"dataset.segmentation.{name}_mask_sources": "URI" for name in ("train", "val")}
"""Those that name files beside the images: those of other images are others."""


def _again(trained: Job) -> Step:
    """Training once more what has learned nothing: from the same start, on data to be named. What
    a person has said of the model and of its data is said again."""
    from mae_skill.mask_meaning import MASK_VALUES, REDUCE_ZERO

    from mae_sdk.job import setting

    classes = setting(trained, "model.num_classes")
    step = fine_tuning(classes if isinstance(classes, int) else None, trained.record.get("parent"))
    known = dict(step.overrides)
    if setting(trained, "model.task") == "segmentation":
        known["model.task"] = "segmentation"
        # Whoever chose them: without them the same masks would be read as others.
        if listed := setting(trained, MASK_VALUES):
            known[MASK_VALUES] = listed
        elif setting(trained, REDUCE_ZERO) is False:
            known[REDUCE_ZERO] = False
    if setting(trained, "model.multi_label") is True:
        known["model.multi_label"] = True
    for key, about in (trained.record.get("changed") or {}).items():
        by_person = str((about or {}).get("origin")).startswith(_WRITTEN)
        value = _FILES.get(key, setting(trained, key))
        if by_person and key.startswith(_LIKE_BEFORE) and value is not None:
            known.setdefault(key, value)
    return replace(step, overrides=tuple(known.items()))


_WRITTEN = tuple(map(str, OriginKind.written()))


def evaluation(job: Job, model: str | None = None) -> Step:
    """Judging what a job made, or the `model` of another, on images to be named: with the tables or
    masks beside them where the job names its own so."""
    from mae_sdk.job import setting

    beside_images: dict[str, Any] = {
        key: word
        for key, word in _FILES.items()
        if key.endswith((".val", ".val_mask_sources")) and setting(job, key) is not None
    }
    if setting(job, "model.multi_label") is True:  # folders give each picture one class
        beside_images["dataset.labels.val"] = "TABLE"
    return Step("evaluate", model or job.id, ("eval_dataset",), tuple(beside_images.items()))


def _after_another(job: Job, skill_dir: str) -> list[Step]:
    """What may follow a job of another bundle: its actions that take a parent's model, as its own
    files say.
    """
    from mae_skill.bundle import Bundle

    from mae_sdk.job import kind_left_by
    from mae_sdk.plan.inferred_fields import takes_model

    steps = []
    try:
        bundle = Bundle.load(skill_dir)
        kind = kind_left_by(job)
    except (MaeError, OSError):  # it was moved or removed
        return []
    for action in bundle.actions:
        fits = False
        with contextlib.suppress(MaeError):  # a row that cannot be read
            fits = takes_model(bundle, action, kind)
        if action == job.record["action"] or not fits:
            continue
        rows = bundle.data_rows(action).values()
        needed = dict.fromkeys(str(row.get("source")) for row in rows if not row.get("optional"))
        steps.append(Step(action, job.id, tuple(needed), skill_dir=skill_dir))
    return steps[:4]


def fine_tuning(classes: int | None, parent: str | None = None) -> Step:
    """Fine-tuning on labeled images of so many classes; None: not known."""
    overrides = (("train.stage", "finetune"), ("model.num_classes", classes or "CLASSES"))
    return Step("train", parent, ("train_datasets", "eval_dataset"), overrides)


def first_training(
    inspected: Mapping[str, Any],
    *,
    masks: str | None = None,
    spec: Mapping[str, Any] | str | None = None,
    spec_overrides: Mapping[str, Any] | None = None,
) -> Step:
    """What suits a source that was inspected: supervised where it has labels or masks.

    Args:
        masks, spec, spec_overrides: with which it was inspected. They go along, and what they say
            is not proposed otherwise: without them a plan would read other data.
    """
    from mae_skill.bundle import Bundle
    from mae_skill.classes import FIELD as CLASS_LIST
    from mae_skill.dotted import expand_shorthand
    from mae_skill.mask_meaning import CLASSES, IGNORE, REDUCE_ZERO
    from mae_skill.reader import read_spec

    from mae_sdk.storage import urls

    given = expand_shorthand(flatten(spec_overrides or {}), Bundle.load().shorthand)
    of_file = flatten((read_spec(spec) if isinstance(spec, str) else spec) or {})
    classes = inspected.get("classes") or ()
    if inspected.get("masks"):
        read = inspected["masks"].get("settings")
        if not read or {REDUCE_ZERO, IGNORE, CLASS_LIST} & {*given, *of_file}:
            read = {CLASSES: "CLASSES"}  # somebody says of some values what they mean
        overrides = (
            ("train.stage", "finetune"),
            ("model.task", "segmentation"),
            *read.items(),
        )
    elif len(classes) > 1 and not inspected.get("unlabelled"):
        overrides = fine_tuning(len(classes)).overrides
    else:
        overrides = (("train.stage", "pretrain"),)

    if masks and masks != "beside":
        given.setdefault("dataset.segmentation.train_mask_sources", masks)
    kept = [(key, value) for key, value in overrides if key not in {*given, *of_file}]
    if (of_file | given).get("train.stage") == "pretrain":  # it reads no classes
        kept = [(key, value) for key, value in kept if key != "model.num_classes"]
    return Step(
        "train",
        None,
        ("train_datasets",),
        (*kept, *urls.seal_tree(given).items()),
        spec=spec or None,
    )


def reading_masks(inspected: Mapping[str, Any]) -> str:
    """The command that reads two folders of a source as images and their masks, where they look
    like these; else empty."""
    seen = inspected.get("mask_folders") or inspected.get("like_masks") or {}
    return "" if inspected.get("masks") else str(seen.get("command") or "")


def fails_again(record: JobRecord) -> bool:
    """Whether a further attempt would meet what the last one failed of: the same data, the same
    spec, or with them the same loss. What is guessed from a log is no reason to say so."""
    from mae_sdk.jobs import records

    last = records.last_attempt(record)
    failure = last["failure"]
    if failure is None or failure["category"] not in ("spec", "data", "numeric"):
        return False
    return bool(failure["error"]) or last["exit_code"] in (2, 3)


def suspects(record: JobRecord) -> list[str]:
    """The sources that a job failed of: those that its error names, else the first of all; none of
    another failure."""
    from mae_sdk.jobs import records

    failure = records.last_attempt(record)["failure"]
    if failure is None or failure["category"] != "data":
        return []
    error = failure["error"] or {}
    said = f"{error.get('field')} {failure['message']}"
    seen = {key: one for key, one in (record.get("data") or {}).items() if one.get("uri")}
    chosen = [one for key, one in seen.items() if key in said] or list(seen.values())
    named = [uri for one in chosen for uri in listed(one["uri"])]
    return list(dict.fromkeys(map(str, named)))[:2]


_HOW_DATA_ARE_READ = ("dataset.", "model.task", "model.num_classes")


def inspections(record: JobRecord, folder: Path) -> list[str]:
    """The commands that look again at what a job failed of (`suspects`), read as its run reads it:
    with the spec in its folder, where that says how data are read."""
    spec = folder / "spec.yaml"
    reads = [key for key in record.get("changed") or () if key.startswith(_HOW_DATA_ARE_READ)]
    own = reads and record["action"] == "train" and spec.is_file()
    with_spec = f" -e {shlex.quote(str(spec))}" if own else ""
    return [f"mae inspect {shlex.quote(uri)}{with_spec}" for uri in suspects(record)]


def listed(value: Any) -> list[Any]:
    """A list as it is; anything else as the one item of a list."""
    return value if isinstance(value, list) else [value]


def launched(job: Job) -> Document:
    """A job that was just created, or had the idempotency key: ``job_id, action, state, folder``,
    and ``notices`` where the call asked for another job."""
    document = {
        "job_id": job.id,
        "action": job.record["action"],
        "state": job.state,
        "folder": str(job.folder),
    }
    return {**document, "notices": job.notices} if job.notices else document


def ended(job: Job) -> Document:
    """What came of a job that was waited for: `launched`, its newest metrics and its figures
    (`Job.metrics`, `Job.figures`), what was said of its data, why it failed, and the files that it
    made."""
    failure = job.record["error"]
    return {
        **launched(job),
        **({"metrics": known} if (known := job.metrics()) else {}),
        **job.figures(),
        **_data(job),
        **({"error": failure} if failure else {}),
        **_files(job),
    }


def _files(job: Job) -> Document:
    """The first ``files`` that a job made, where there are any, and how many ``more_files`` there
    are; `show` has them all."""
    made = [str(path) for path in job.files()]
    more = len(made) - MAX_FILES
    found = {"files": made[:MAX_FILES]} if made else {}
    return {**found, "more_files": more} if more > 0 else found


def status(job: Job) -> Document:
    """``id, action, state, attempt, progress, error``, the ``best`` figures, those of a ``study``,
    the ``warnings`` of the run with its ``notes`` on settings that nobody has set, and the
    ``files`` that a result names."""
    document = {"id": job.id, "action": job.record["action"], **job.status()}
    figures = job.figures()
    told = ("best", "study", "notes", "warnings")
    document |= {name: figures[name] for name in told if name in figures}
    return {**document, **_files(job)}


def state(job: Job) -> Document:
    """``id`` and ``state``."""
    return {"id": job.id, "state": job.state}


def resumed(job: Job) -> Document:
    """``id, state, attempt``, and the ``notices`` of a job that starts anew."""
    said = {"notices": job.notices} if job.notices else {}
    return {**state(job), "attempt": len(job.record["attempts"]), **said}


def logs(job_id: str, text: str, lines: int) -> Document:
    """``id``, the last `lines` lines of the log (0: all) and ``total_lines``."""
    everything = text.splitlines()
    return {
        "id": job_id,
        "lines": everything[-lines:] if lines else everything,
        "total_lines": len(everything),
    }


def metrics(job: Job) -> Document:
    """``id``, the newest value of every metric under ``metrics`` (of an AutoML job those of its
    best trial), and `Job.figures`: ``last``, ``best``, ``best_checkpoint``, ``study``."""
    document = {"id": job.id, "metrics": job.metrics(), **job.figures()}
    return {**document, **_data(job)}


def _data(job: Job) -> Document:
    """What was said of a job's data: ``data_warnings``, where there is something."""
    said = job.data_warnings()
    return {"data_warnings": said} if said else {}


def show(job: Job) -> Document:
    """The whole record of a job, with its true state, its figures, its folder and what it made."""
    return {
        **job.record,
        "state": job.state,
        "figures": job.figures(),
        **_data(job),
        "folder": str(job.folder),
        "files": [str(path) for path in job.files()],
    }


def report(
    job: Job,
    output: str | Path | None = None,
    *,
    chain: bool = False,
    others: Sequence[Job] = (),
) -> Document:
    """``id, state, report`` (the file that was written) and its ``bytes``; of several jobs also
    ``outcome``: which is best, and whether the others are told apart from it."""
    found = job.report(output, chain=chain, others=others)
    said = {"outcome": found.outcome.replace("\N{NO-BREAK SPACE}", " ")} if found.outcome else {}
    size = found.path.stat().st_size
    return {**state(job), "report": str(found.path), "bytes": size, **said}


MAX_FILES = 20
"""Files that an answer names."""

JOB_COLUMNS = (
    *("id", "action", "stage", "arch", "state", "metric", "best", "judged_on", "created", "parent"),
)
"""What a list of jobs says of each, and what it can be sorted by."""
_FILTERS = ("state", "action", "stage", "arch", "metric")


@dataclass(frozen=True)
class JobFilter:
    """Which jobs of a root are listed, and in which order.

    Attributes:
        state, action, stage, arch: only jobs that have these, in any case.
        metric: only jobs that report it, in any case; the column ``best`` is of this metric.
        sort: one of `JOB_COLUMNS`; ``created`` the newest first, ``best`` as `ranked`.
        reverse: the other way round.
    """

    state: str | None = None
    action: str | None = None
    stage: str | None = None
    arch: str | None = None
    metric: str | None = None
    sort: str = "created"
    reverse: bool = False

    @property
    def reads_all(self) -> bool:
        """Whether more jobs have to be read than are shown."""
        wanted = any(getattr(self, name) for name in _FILTERS)
        return wanted or self.sort != "created" or self.reverse

    def keeps(self, row: Document) -> bool:
        return all(
            not (wanted := getattr(self, name)) or _folded(row[name]) == _folded(wanted)
            for name in _FILTERS
        )

    def ordered(self, rows: list[Document]) -> list[Document]:
        """The rows in the asked order; those without a value come last."""
        if self.sort == "best":
            return ranked(rows, reverse=self.reverse)
        known = [row for row in rows if row[self.sort] is not None]
        down = (self.sort == "created") != self.reverse
        known.sort(
            key=lambda row: (_folded(row[self.sort]), str(row["created"] or "")), reverse=down
        )
        return [*known, *(row for row in rows if row[self.sort] is None)]


def _folded(value: Any) -> str:
    """A word by which filters and orders go: capitals make no difference."""
    return str(value or "").strip().casefold()


def ranked(rows: Sequence[Document], *, reverse: bool = False) -> list[Document]:
    """Rows by their best figure: each metric, of each stage and each set of images, by itself, the
    best first.

    Figures of two metrics have no common order, nor has a loss of two stages, nor a metric of two
    sets of images. Rows whose direction
    is not known keep their order, below those of the same metric; those without a figure are last.

    Args:
        reverse: the worst of each first.
    """

    def place(row: Document) -> tuple[Any, ...]:
        direction = row["direction"]
        sign = {"maximize": -1.0, "minimize": 1.0}.get(str(direction), 0.0)
        group = [_folded(row["metric"]), str(row["metric"]), _folded(row["stage"])]
        group += [_folded(row["judged_on"]), str(row["images_key"])]
        value = float(row["best"]) * sign
        return (*group, not direction, str(direction), -value if reverse else value)

    known = [row for row in rows if row["best"] is not None]
    return [*sorted(known, key=place), *(row for row in rows if row["best"] is None)]


def rank_of(row: Document) -> str:
    """Which rows a row of `ranked` is ordered among, in words: ``ACC_all (finetune) on d/val: more
    is better``."""
    if row["best"] is None:
        return "no figure"
    stage = f" ({row['stage']})" if row["stage"] else ""
    place = f" on {near(row['judged_on'])}" if row["judged_on"] else ""
    ways = {"maximize": "more is better", "minimize": "less is better"}
    way = ways.get(str(row["direction"]), "which way is better is not known, so not ranked")
    return f"{row['metric']}{stage}{place}: {way}"


def near(place: str) -> str:
    """The images that a job is judged on, in the width of a table: of a place its last two
    parts."""
    what, held, where = place.rpartition(" held out of ")
    short = []
    for one in where.split(", "):
        parts = [part for part in one.replace("\\", "/").split("/") if part]
        short.append("/".join(parts[-2:]))
    return what + held + ", ".join(short)


def in_doubt(row: Document) -> str:
    """What stands beside the figure of a model that is not told from chance: the figure itself is
    in doubt, or, where the job judges nothing of it (the parity of an export), the model alone."""
    from mae_sdk.job import OF_MODEL

    if not row["doubts"]:
        return ""
    of_model = all(one.startswith(OF_MODEL) for one in row["doubts"])
    if row["best"] is None:
        return "model in doubt" if of_model else "in doubt"
    return " (model in doubt)" if of_model else " in doubt"


Known = dict[tuple[str, str | None], tuple[Any, Document | None]]
"""Job id and metric → record and row of a job that has ended, which stay as they are."""


def jobs(
    listed: Sequence[Job],
    *,
    limit: int,
    only: JobFilter | None = None,
    known: Known | None = None,
) -> Document:
    """The first `limit` of the jobs of a root: ``jobs, total``, and ``unreadable`` where some are.

    Args:
        listed: newest first.
        only: a filter and an order. Without them no more jobs are read than are shown.
        known: what an earlier call has read of ended jobs; it is used, and filled.
    """
    from mae_sdk.job import observe_jobs

    only = only or JobFilter()
    read = listed if only.reads_all else listed[:limit]
    observed = list(zip(read, observe_jobs(read), strict=True))
    rows = [row for row in _concurrently(observed, only.metric, known) if row]

    unreadable = [row["id"] for row in rows if row["state"] is None]
    readable = [row for row in rows if row["state"] is not None and only.keeps(row)]
    if only.sort == "best":
        contracts = _Contracts({job.id: seen[0] for job, seen in observed if seen})
        readable = [_directed(row, contracts) for row in readable]
    if not readable and known is None:
        _refuse_unknown(only, rows)
    total = len(readable) if only.reads_all else len(listed) - len(unreadable)
    document = {"jobs": only.ordered(readable)[:limit], "total": total}
    return {**document, "unreadable": unreadable} if unreadable else document


def _refuse_unknown(only: JobFilter, rows: Sequence[Document]) -> None:
    """Refuse a filter by a word that no job of any root can have: it is misspelled.

    Raises:
        UsageError: it names the first of them.
    """
    from mae_skill.archs import ARCHS
    from mae_skill.bundle import Bundle

    words: dict[str, Sequence[str]] = {
        "state": ("PENDING", "RUNNING", "COMPLETE", "ERROR", "CANCELED", "UNKNOWN"),
        "action": Bundle.load().actions,
        "stage": ("pretrain", "finetune"),
        "arch": tuple(ARCHS),
    }
    for name, fixed in words.items():
        wanted = getattr(only, name)
        there = sorted({*fixed, *(str(row[name]) for row in rows if row.get(name))})
        if wanted and _folded(wanted) not in map(_folded, there):
            near = nearest(_folded(wanted), [_folded(one) for one in there])
            raise errors.UsageError(
                f"no job has this {name}",
                field=name,
                got=wanted,
                expected=", ".join(there),
                hint=f"did you mean {near}?" if near else f"leave {name} out to see all jobs",
            )


def _directed(row: Document, contracts: _Contracts) -> Document:
    """A row with the direction of its metric, as the job says, else as its bundle does."""
    if row["best"] is None or row["direction"]:
        return row
    return {**row, "direction": contracts.direction(row)}


def _concurrently(
    observed: Sequence[tuple[Job, tuple[JobRecord, str] | None]],
    metric: str | None,
    known: Known | None = None,
) -> list[Document | None]:
    """`_row` of each; those behind a URL are read several at a time."""
    from mae_sdk.job import RemoteJob

    if not any(isinstance(job, RemoteJob) for job, _ in observed):
        return [_row_of(job, seen, metric, known) for job, seen in observed]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda pair: _row_of(pair[0], pair[1], metric, known), observed))


def _row_of(
    job: Job, seen: tuple[JobRecord, str] | None, metric: str | None, known: Known | None
) -> Document | None:
    """`_row`, or that of an earlier call."""
    from mae_sdk.jobs.records import is_terminal

    if known is None or seen is None or not is_terminal(seen[1]):
        return _row(job, seen, metric)
    held = known.get((job.id, metric))
    if held is None or held[0] != seen[0]:
        held = known[(job.id, metric)] = seen[0], _row(job, seen, metric)
    return held[1]


def _row(
    job: Job, seen: tuple[JobRecord, str] | None, metric: str | None = None
) -> Document | None:
    """A job in a list. Its state is None where the record cannot be read.

    None where the job was removed since the root was listed.
    """
    if seen is None:
        try:
            (job.folder / "job.json").lstat()
        except FileNotFoundError:
            return None
        except OSError:  # somebody else's private folder
            pass
        return {"id": job.id, "state": None, "created": None}
    from mae_sdk.jobs.judged_on import images_of

    record, state = seen
    # A trial of an earlier version has the time of its study under `created_at`.
    of_trial = record["attempts"][0]["transitions"][0]["at"] if "trial" in record else None
    name, best, direction, doubts = _judged_by(job, metric)
    images = images_of(record.get("data") or {}, name or "")
    return {
        "id": job.id,
        "action": record["action"],
        **_model(job, record),
        "state": state,
        "metric": name,
        "best": best,
        "direction": direction,
        "doubts": doubts,
        "judged_on": None if images is None else images.words,
        "images_key": None if images is None else images.key,
        "created": of_trial or record.get("created_at"),
        "parent": record.get("automl_parent") or record.get("parent"),
    }


def _model(job: Job, record: JobRecord) -> Document:
    """``stage`` and ``arch`` of a job's model."""
    from mae_sdk.job import setting

    if "model" in record:
        known = record["model"]
        return {"stage": known.get("stage"), "arch": known.get("arch")}
    found = {"stage": setting(job, "train.stage"), "arch": setting(job, "model.arch")}
    return {name: one if isinstance(one, str) else None for name, one in found.items()}


def _judged_by(
    job: Job, metric: str | None
) -> tuple[str | None, float | None, str | None, list[str]]:
    """The metric that a job is judged by, or the one that is asked for, its best value, its
    direction where the job itself knows it, and why its result is in doubt."""

    from mae_sdk.jobs.metrics import HEADLINES
    from mae_sdk.jobs.status import is_number

    try:
        found = job.figures()
        newest = job.metrics()
    except MaeError:
        return None, None, None, []
    study, kept = found.get("study") or {}, found.get("best_checkpoint") or {}
    about, doubts = found.get("best") or {}, found.get("doubts") or []
    best = {name: one.get("value") for name, one in about.items()}
    directions = {name: one.get("direction") for name, one in about.items()}
    if study.get("best"):
        best = {str(study["metric"]): study["best"].get("value"), **best}
        directions[str(study["metric"])] = study.get("direction")
    elif kept:
        # As its page: of the checkpoint that a next job takes, not of an epoch without one.
        first = str(kept["metric"])
        value = kept["value"] if is_number(kept["value"]) else best.get(first)
        best = {first: value, **{name: one for name, one in best.items() if name != first}}
    stated = job.record["launch"].get("best") or {}
    name = stated.get("metric")
    if metric is None and is_number(value := {**newest, **best}.get(name)):
        return name, value, directions.get(name, stated.get("direction")), doubts
    named = {**newest, **best}
    if metric:  # as it is spelled, else in any case
        asked = [metric] if metric in named else [n for n in named if _folded(n) == _folded(metric)]
    pairs = [*best.items(), *newest.items()]
    if job.record["action"] == "evaluate":  # the figure that its page is headed by
        pairs = [(one, named[one]) for one in HEADLINES if one in named] + pairs
    for name, value in [(name, named[name]) for name in asked] if metric else pairs:
        # Counts of images say nothing about a model.
        if is_number(value) and isinstance(value, float):
            return name, value, directions.get(name), doubts
    return None, None, None, doubts


def best(
    bundle: Bundle,
    listed: Sequence[Job],
    *,
    limit: int,
    only: JobFilter | None = None,
    direction: str | None = None,
) -> Document:
    """The best jobs by what they are judged by, those of each bundle apart: ``best`` and
    ``notices``.

    Each is a row of `jobs` with ``of``, how many jobs it is the best of, and ``judged_on``, the
    data. With a metric in `only` the `limit` best by it; without one the best of every action,
    stage and metric.

    Args:
        direction: ``maximize`` or ``minimize``: of the metric in `only`, for the jobs that do not
            know it themselves.

    Raises:
        UsageError: the direction of the metric is not known, or is another one; or a direction is
            given without a metric.
        NotFoundError: no job reports a figure, or none that is asked for.
    """
    only = only or JobFilter()
    if direction and not only.metric:
        raise errors.UsageError(
            "a direction is that of one metric",
            field="direction",
            got=direction,
            expected="its metric beside it: --metric NAME",
        )
    rows = jobs(listed, limit=len(listed), only=replace(only, sort="created", reverse=False))
    groups: dict[tuple[Any, ...], list[Document]] = {}
    places = {job.id: job for job in listed}
    for row in rows["jobs"]:
        if row["best"] is not None:
            skill = places[row["id"]].record.get("skill")
            # Who names a metric compares by it, whatever the bundle.
            key = (row["action"], row["stage"], row["metric"], None if only.metric else skill)
            groups.setdefault(key, []).append({**row, "skill": skill})
    without = [
        row["id"]
        for row in rows["jobs"]
        if row["best"] is None and places[row["id"]].record.get("kind") == "automl"
    ]
    said = f"no trial of {and_more(without, 5)} has succeeded"
    if not groups:
        raise errors.NotFoundError(
            "no job has a figure to judge it by",
            field="metric",
            got=only.metric,
            expected="the metric of a job that has reported one",
            hint="mae jobs list shows the metric of each" + (f"; {said}" if without else ""),
        )

    found: list[Document] = []
    notices = [f"{said}: left out"] if without and not only.metric else []
    ranking = {row["id"] for group in groups.values() for row in group}
    contracts = _Contracts({name: places[name].record for name in ranking})
    for (action, stage, metric, _), group in groups.items():
        members, left_out = _of_one_direction(group, contracts, places, direction)
        notices += left_out
        shown = [
            {**row, "of": len(members), "judged_on": _judged_on(bundle, row, places)}
            for row in members[: limit if only.metric else 1]
        ]
        found += shown
        skills = sorted({str(row["skill"]) for row in members})
        if len(skills) > 1:
            notices.append(f"the jobs are of several bundles: {', '.join(skills[:5])}")
        data = {row["images_key"] or _judged_on(bundle, row, places) for row in members}
        if len(data) > 1:
            name = " ".join(filter(None, (action, stage)))
            notices.append(
                f"the {len(members)} jobs ({name}, {metric}) were judged on different data, so "
                "their metrics do not compare: evaluate them on one"
            )
    if not found:
        metrics = sorted({str(key[2]) for key in groups})
        raise errors.UsageError(
            "the jobs themselves state the other direction of this metric"
            if direction
            else "the direction of this metric is not known",
            field="direction",
            got=direction or only.metric or ", ".join(metrics),
            expected="minimize or maximize",
            hint=None if direction else how_to_direct(metrics[0]),
        )
    return {"best": found, "notices": notices}


def on_the_same_images(rows: Sequence[Document]) -> list[str]:
    """Of rows of `best` by one metric the ids of those that were judged as the first was, with it;
    none where there is no other."""
    first = rows[0]
    same = [
        row["id"]
        for row in rows
        if row["images_key"] and all(row[k] == first[k] for k in ("images_key", "metric", "stage"))
    ]
    return same if len(same) > 1 else []


def how_to_direct(metric: str) -> str:
    """How a person says whether more of a metric is better."""
    return (
        f"mae jobs best --metric {metric} --direction minimize|maximize; a bundle says it for its "
        "jobs: metric and metric_direction of the action's entry"
    )


class _Contracts:
    """What the bundles of jobs say of the directions of their metrics.

    Args:
        recorded: job id → its record.
    """

    def __init__(self, recorded: Mapping[str, JobRecord]) -> None:
        self.recorded = recorded
        self.known: dict[str, dict[str, str]] = {}

    def bundle_of(self, row: Document) -> str:
        """The folder of a job's bundle; empty for the bundled skill."""
        return str(self.recorded[row["id"]].get("skill_dir") or "")

    def direction(self, row: Document) -> str | None:
        """The direction of a job's metric: as the job says, else as its bundle does."""
        if row["direction"]:
            return str(row["direction"])
        name = self.bundle_of(row)
        if name not in self.known:
            self.known[name] = self._read(name)
        return self.known[name].get(row["metric"])

    def _read(self, name: str) -> dict[str, str]:
        from mae_skill.bundle import Bundle

        try:
            contract = Bundle.load(name or None).schema("train").get("automl_metrics")
        except (MaeError, OSError):  # it was moved, or has no such action
            return {}
        entries = [one for one in contract or () if isinstance(one, Mapping)]
        found = {str(one.get("metric")): str(one.get("direction")) for one in reversed(entries)}
        return {name: word for name, word in found.items() if word in ("minimize", "maximize")}


def _of_one_direction(
    group: Sequence[Document],
    contracts: _Contracts,
    places: Mapping[str, Job],
    given: str | None,
) -> tuple[list[Document], list[str]]:
    """The jobs of one metric that can be compared, the best first, each with its ``direction``;
    and what is to be said of the others.

    A job that does not say whether more is better is taken where another of its bundle does.
    """
    stated = {row["id"]: contracts.direction(row) for row in group}
    words = {word for word in stated.values() if word}
    chosen = given or (next(iter(words)) if len(words) == 1 else None)
    metric, hint = group[0]["metric"], how_to_direct(group[0]["metric"])
    if chosen is None and words:
        return [], [f"jobs state both directions of {metric} and are left out: {hint}"]

    of_bundles = {contracts.bundle_of(row) for row in group if stated[row["id"]]}
    members = [
        {**row, "direction": chosen, "best": _best_value(places[row["id"]], row, chosen)}
        for row in group
        if chosen
        and (stated[row["id"]] or chosen) == chosen
        and (given or stated[row["id"]] or contracts.bundle_of(row) in of_bundles)
    ]
    members.sort(key=lambda row: row["best"], reverse=chosen == "maximize")
    left = len(group) - len(members)
    said = []
    if left and given:
        said.append(f"the other direction of {metric} is that of {left} jobs: they are left out")
    elif left:
        said.append(
            f"whether more {metric} is better is not known of {left} jobs, which are left out: "
            f"{hint}"
        )
    return members, said


def _best_value(job: Job, row: Document, direction: str | None) -> float:
    """The best value of a job's metric; of one that does not know the direction, over all of its
    epochs, since its row holds the newest."""
    from mae_sdk.jobs.status import is_number

    newest = float(row["best"])
    if row["direction"]:
        return newest
    try:
        values = [one.get(row["metric"]) for one in job.history()]
    except MaeError:
        return newest
    pick = max if direction == "maximize" else min
    return pick((float(one) for one in values if is_number(one)), default=newest)


def _judged_on(bundle: Bundle, row: Document, places: Mapping[str, Job]) -> str | None:
    """The data whose figures a job reports; None where it had none to judge by."""
    from mae_sdk.jobs.judged_on import words_of

    if str(row["metric"]).startswith("train_"):  # of the images that it was trained on
        return str(row["judged_on"]) if row["judged_on"] else None
    record = places[row["id"]].record
    seen = record.get("data") or {}
    fields = bundle.data_rows(row["action"]) if row["action"] in bundle.actions else {}
    for field, about in fields.items():
        words = words_of(seen.get(field) or {})
        if about.get("source") == "eval_dataset" and words:
            return words
    for one in seen.values():
        if one.get("held_out"):
            return f"{one['held_out']} images held out of {words_of(one)}"
    return None


def cancel_all(listed: Sequence[Job]) -> tuple[Document, MaeError | None]:
    """Cancel every job that is pending or running, all at once.

    Returns:
        ``canceled`` (``id, state`` and, where it could not be, ``error``), and the first such
        error.
    """
    from concurrent.futures import ThreadPoolExecutor

    from mae_sdk.job import observe_jobs

    observed = zip(listed, observe_jobs(listed), strict=True)
    running = [job for job, seen in observed if seen and seen[1] in ("PENDING", "RUNNING")]

    def stop(job: Job) -> tuple[Document, MaeError | None]:
        try:
            job.cancel()
        except errors.MaeError as error:
            return {**state(job), "error": error.message}, error
        return state(job), None

    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(stop, running))
    failed = next((error for _, error in done if error is not None), None)
    return {"canceled": [row for row, _ in done]}, failed


def remove(listed: Sequence[Job], found: Document) -> list[str]:
    """Delete what `prunable` names; the ids of those that are gone."""
    places = {job.id: job for job in listed}
    removed = []
    for row in found["prune"]:
        places[row["id"]].delete()
        removed.append(row["id"])
    return removed


PRUNED = ("ERROR", "CANCELED")
"""The states of the jobs that are pruned unless others are asked for."""


def prunable(
    listed: Sequence[Job],
    *,
    states: Sequence[str] | None = None,
    older_than: float = 0.0,
    keep: Sequence[str] = (),
) -> Document:
    """The jobs that a prune would remove, and nothing is: ``prune`` (``id, state, created,
    bytes``), their ``bytes`` together, and ``kept``: id → why it stays although it was asked for.

    A job whose model another job took stays as long as that one does.

    Args:
        states: only jobs that ended in one of them; None: in `PRUNED`, and beside `keep` in any.
        older_than: only jobs that were created so many seconds ago.
        keep: ids of jobs that stay, with those whose model they took.
    """
    import datetime

    from mae_sdk.job import size_of
    from mae_sdk.jobs.records import TERMINAL

    states = states or (sorted(TERMINAL) if keep else PRUNED)
    staying = {name.partition(".")[0] for name in keep}  # a trial stays with its study
    rows = jobs(listed, limit=len(listed))["jobs"]
    places = {job.id: job for job in listed}
    now = datetime.datetime.now(datetime.timezone.utc)

    def age(row: Document) -> float:
        try:
            return (now - datetime.datetime.fromisoformat(row["created"])).total_seconds()
        except (TypeError, ValueError):
            return 0.0

    doomed = {row["id"]: row for row in rows if row["state"] in states and age(row) >= older_than}
    kept = {name: "asked to stay" for name in doomed if name in staying}
    doomed = {name: row for name, row in doomed.items() if name not in staying}
    while True:  # a job that stays keeps its parent
        held = {
            str(row["parent"]).partition(".")[0]: row["id"]
            for row in rows
            if row["id"] not in doomed
        }
        spared = [name for name in doomed if name in held]
        if not spared:
            break
        for name in spared:
            kept[name] = f"{held[name]} took its model"
            del doomed[name]
    chosen = [
        {**{key: row[key] for key in ("id", "state", "created")}, "bytes": size_of(places[name])}
        for name, row in doomed.items()
    ]
    return {"prune": chosen, "bytes": sum(one["bytes"] or 0 for one in chosen), "kept": kept}


def recipes() -> Document:
    """The published recipes."""
    from mae_skill.recipes import list_recipes

    return {"recipes": list_recipes()}


def valid(found: Resolution, sources: Collection[str]) -> Document:
    """The answer to a spec without an error: ``valid``, its ``warnings``, and apart from them, as
    in a plan, the ``notes`` on settings that nobody has set. A bundle's rules may warn by a plain
    text.

    Args:
        sources: the fields of the action's data.
    """
    from mae_sdk.plan.plan import is_note

    kinds: dict[str, list[Any]] = {"notes": [], "warnings": []}
    for item in found.warnings:
        kind = "notes" if is_note(item, found.spec, found.provenance, sources) else "warnings"
        kinds[kind].append(item if isinstance(item, str) else item.to_dict())
    return {"valid": True, **kinds}


def explain(bundle: Bundle, key: str, action: str) -> Document:
    """What the schema of `action` says of a field or of a section."""
    from mae_skill.explain import explain as explain_field

    found = explain_field(bundle.schema(action), key, {*bundle.actions} - {action})
    if action != "train" and "automl" in found:
        found["automl"] = {"enabled": False, "searched": "never: a search varies trainings alone"}
    return found


def diff(first: Mapping[str, Any], second: Mapping[str, Any]) -> Document:
    """``changes``: what differs between two specs."""
    from mae_skill.diff import diff_specs

    return {"changes": diff_specs(first, second)}


def inspect(
    source: str,
    *,
    other: str | None = None,
    contact_sheet: str | None = None,
    masks: str | Sequence[str] | None = None,
    spec: Mapping[str, Any] | str | None = None,
    spec_overrides: Mapping[str, Any] | None = None,
) -> Document:
    """What a data source holds, and whether it can be trained on; with ``masks="beside"`` those of
    ``annotations/`` too. A folder is looked for as a plan looks for it.

    Args:
        spec, spec_overrides: of a run; how it reads pictures counts, its table of labels, the
            classes that it takes and, of a segmenter, its masks.

    Raises:
        SpecError: a field that counts is wrong.
    """
    from mae_skill.bundle import Bundle

    from mae_sdk.data import inspect_masks, inspect_source
    from mae_sdk.plan.layers import (
        read_asked,
        read_classes,
        read_labels,
        read_masks,
        read_reading,
        read_segmenter,
    )
    from mae_sdk.plan.sources import find_source

    bundle = Bundle.load()
    info = bundle.info
    given = flatten(spec_overrides or {})
    task = given.get("model.task", given.get("task"))
    if task == "segmentation" and not {"train.stage", "stage"} & set(given):
        spec_overrides = {**given, "train.stage": "finetune"}  # the one stage that has this task
    reading = read_reading(bundle, spec, spec_overrides)
    asked = read_asked(bundle, spec, spec_overrides)
    idle = _idle_settings(given, INSPECTED)
    masks = masks or read_masks(bundle, spec, spec_overrides)
    place = find_source(source, info)
    beside = None if other is None else find_source(other, info)
    document: Document = inspect_source(
        place,
        other=beside,
        contact_sheet=contact_sheet,
        reading=reading,
        labels=read_labels(bundle, spec, spec_overrides),
        classes=read_classes(bundle, spec, spec_overrides),
        with_masks=bool(masks),
        asked=asked,
    )
    document["verdict"]["warnings"] += idle
    if masks:
        others = None if masks == "beside" else masks
        segmenter = read_segmenter(bundle, spec, spec_overrides)
        found = inspect_masks(place, others, reading=reading, spec=segmenter, asked=asked)
        of_masks = found.pop("verdict")
        verdict = document["verdict"]
        document["verdict"] = {
            "usable": verdict["usable"] and of_masks["usable"],
            "problems": [*verdict["problems"], *of_masks["problems"]],
            "warnings": [*verdict["warnings"], *of_masks["warnings"]],
        }
        document["masks"] = found
    return document


INSPECTED = (
    "dataset.channels",
    "dataset.value_range",
    "dataset.exif_orientation",
    "dataset.augmentation.max_pixels",
    "dataset.augmentation.input_size",
    "dataset.max_corrupt_fraction",
    "dataset.labels.train",
    "dataset.labels.columns",
    "dataset.classes",
    "dataset.segmentation.train_mask_sources",
    "dataset.segmentation.ignore_index",
    "dataset.segmentation.reduce_zero_label",
    "dataset.segmentation.mask_values",
)
"""The fields of ``dataset`` that count in an inspection."""


def _idle_settings(given: Mapping[str, Any], counting: Collection[str]) -> list[str]:
    """What to say of settings of ``dataset`` that an inspection does not read.

    Raises:
        SpecError: one names the data that are inspected as an argument.
    """
    from mae_skill.errors import SpecError

    for field in ("dataset.train_data_sources", "dataset.val_data_sources"):
        if field in given:
            raise SpecError(
                "the data to inspect are no setting",
                field=field,
                got=given[field],
                expected="SOURCE, or --train SOURCE --eval SOURCE",
                hint="mae inspect --train SOURCE --eval SOURCE judges and compares both",
            )
    idle = [
        key for key in given if key.startswith("dataset.") and key.partition("[")[0] not in counting
    ]
    return [f"{', '.join(idle)}: not read here; mae plan judges the data with it"] if idle else []


def inspect_splits(
    train: str,
    evaluation: str,
    *,
    spec: Mapping[str, Any] | str | None = None,
    spec_overrides: Mapping[str, Any] | None = None,
) -> Document:
    """The parts of a data set that are used together: ``verdict``, the two compared, and the report
    of each.

    Returns:
        ``verdict``; ``compared`` (``shared`` images, ``missing`` and ``unknown`` classes of the
        validation data, ``share`` of all images that validate); ``splits``: ``train`` and ``eval``,
        each as `inspect` reports it.
    """
    from mae_skill.bundle import Bundle

    from mae_sdk.data import inspect_source
    from mae_sdk.plan.layers import read_asked, read_classes, read_labels, read_reading
    from mae_sdk.plan.sources import find_source

    bundle = Bundle.load()
    reading = read_reading(bundle, spec, spec_overrides)
    idle = _idle_settings(flatten(spec_overrides or {}), (*INSPECTED, "dataset.labels.val"))
    places = [find_source(one, bundle.info) for one in (train, evaluation)]
    report = inspect_source(
        places[0],
        other=places[1],
        read_other=True,
        reading=reading,
        labels=read_labels(bundle, spec, spec_overrides),
        other_labels=read_labels(bundle, spec, spec_overrides, "val"),
        classes=read_classes(bundle, spec, spec_overrides),
        asked=read_asked(bundle, spec, spec_overrides),
    )
    report["verdict"]["warnings"] += idle
    theirs, classes = report.pop("other"), report.pop("other_classes")
    images = report["images"] + theirs["images"]
    return {
        "verdict": report.pop("verdict"),
        "compared": {
            "shared": report.pop("shared"),
            "missing": classes["absent"],
            "unknown": classes["unknown"],
            "share": round(theirs["images"] / images, 4) if images else None,
        },
        "splits": {"train": report, "eval": theirs},
    }


def cache() -> Document:
    """Where the archive cache is and what it holds; ``working_copies_bytes`` of the jobs whose
    results root is behind a URL."""
    from mae_sdk.data.cache import cache_info
    from mae_sdk.jobs.working_copies import used_bytes

    return {**cache_info(), "working_copies_bytes": used_bytes()}


def clear_cache() -> Document:
    """Remove every cached archive that no process is using, and the working copies of complete
    jobs that are whole behind their URL; ``freed_bytes``."""
    from mae_sdk.data.cache import clear_cache as clear
    from mae_sdk.jobs import working_copies

    return {"freed_bytes": clear() + working_copies.clear()}


def platforms(name: str | None = None) -> Document:
    """Where jobs can run from here: ``platforms``, each with what is missing or what a job has.

    Raises:
        UsageError: there is no platform of that name.
    """
    from mae_sdk.run import registry
    from mae_sdk.run.options import settings_file

    if name is not None:
        registry.find(name)
    rows = [_platform(one) for one in ([name] if name is not None else registry.names())]
    return {"platforms": rows, "settings_file": str(settings_file())}


def _platform(name: str) -> Document:

    from mae_sdk.run.platform import Missing, platform

    row: Document = {"name": name, "about": "", "ready": False, "missing": [], "resources": {}}
    row["options"] = {}
    try:
        place = platform(name)
        row["about"] = place.about
        row["options"] = {
            key: {"help": one.help, "type": one.kind.__name__, "value": one.default}
            for key, one in place.options.items()
        }
        settings = place.settings({})
        for key, value in settings.items():
            row["options"][key]["value"] = value
        missing = place.missing(settings)
        has = None if missing else place.resources(settings)
    except MaeError as error:
        missing, has = [Missing(error.message, error.hint or error.expected or "")], None

    row["missing"] = [one._asdict() for one in missing]
    row["ready"] = has is not None
    if has is not None:
        shown = {"gpus": has.gpus, "device": has.device, "cores": has.cores}
        shown |= {"memory_mb": has.memory_mb, "nodes": has.nodes}
        row["resources"] = {key: value for key, value in shown.items() if value is not None}
    return row
