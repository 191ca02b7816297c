"""What is in an action's data: images, classes, labels, steps per epoch."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill.bundle import Bundle
from mae_skill.conditions import acts, holds
from mae_skill.dotted import field_nodes, get_dotted
from mae_skill.errors import MaeError, SpecError
from mae_skill.rules.agreement import channels_of
from mae_skill.rules.base import Facts
from mae_skill.weights import header

from mae_sdk import files
from mae_sdk.automl.setup import keys_of
from mae_sdk.data import inspect
from mae_sdk.data.decode import DEFAULT
from mae_sdk.data.label_file import LabeledSource, LabelTable
from mae_sdk.data.left_out import Some
from mae_sdk.data.patterns import is_pattern
from mae_sdk.data.reading import Reading
from mae_sdk.data.source import Source, open_source
from mae_sdk.data.split import held_out, share_of
from mae_sdk.data.survey import repeated_images, shared_images, survey_images
from mae_sdk.data.survey_masks import survey_masks
from mae_sdk.plan.inferred_fields import OF_PTM, own_folders
from mae_sdk.plan.launch_record import nodes_of, shape
from mae_sdk.plan.sources import (
    UNJUDGED,
    carried,
    hidden,
    is_images,
    labels_beside,
    paths_in,
)
from mae_sdk.run.platform import Resources
from mae_sdk.storage import transfer, urls

if TYPE_CHECKING:
    from mae_sdk.data.label_file import LabelTable
    from mae_sdk.data.pairs import Pairs
    from mae_sdk.data.source import Source

COUNTED_BY_CALLER = "counted by the caller"
STATED = "not here"
"""Stands in a spec for training data of which only the number is stated."""

SOURCE_KEY = {"train": "train_datasets", "evaluate": "eval_dataset"}

VAL_FRACTION = "dataset.val_fraction"
"""The field that says which share of the training images is held out, in a bundle that has it."""

TRAIN_FRACTION, CLASSES = "dataset.train_fraction", "dataset.classes"
"""The fields that say which of the images count, in a bundle that has them."""


@dataclass(frozen=True)
class Taught:
    """What a model was trained on: the job, its sources, and the share that it held out; and the
    images ``judged`` by which its checkpoint was chosen. A table of classes says which of the
    images of a source are meant."""

    job: str
    sources: tuple[str, ...]
    held_out: float = 0.0
    judged: tuple[str, ...] = ()
    table: LabelTable | None = None
    table_of_judged: LabelTable | None = None


Opened = Any
"""A `Source` or `Pairs` that was looked at; None where nothing was opened."""


def look_at(
    value: Any,
    *,
    remote: bool,
    masks: Any = None,
    role: str = "",
    share: float = 0.0,
    reading: Reading = DEFAULT,
    labels: LabelTable | None = None,
    classes: Sequence[str] | None = None,
    part: float = 1.0,
    trains: bool = False,
) -> tuple[dict[str, Any], Opened]:
    """What is in a source or list of them, as JSON types, and the opened source.

    ``{uri, images, classes, unlabelled, digest}`` and what was seen: ``class_counts`` (class →
    images), ``read`` (images that were read; all, or a sample), ``bad`` (of these unreadable),
    ``unreadable, constant, frames, values, dropped`` (`mae_sdk.data.survey.Findings`), ``left_out``
    and
    ``missing_classes`` (`mae_sdk.data.left_out`), ``split_classes``, ``unreadable_classes``,
    ``wrapper``. ``{uri, counted: false, why}`` where it is remote.

    Args:
        remote: fetch what is behind a URL into the cache, and count it.
        masks: the mask sources of the images (None: beside them).
        role: look at images with their masks of this split (see `mae_sdk.data.pairs`): instead of
            classes ``masks`` (how many) and ``mask_values`` (`MaskFindings`); empty: images alone.
        share: of the images of each class that the run holds out; above 0, ``held_out`` says how
            many that are.
        reading: how the run reads a picture.
        labels: the table of their classes.
        classes: look at the pictures of these classes alone; ``left_aside`` says how many others
            there are.
        part: of the images of each class that the run trains on; below 1, ``trained_on`` says how
            many that are, and `share` is of these.
        trains: whether they are trained on, so that each of `classes` must be there.

    Raises:
        DataError, StorageError: it is missing, empty, hostile, or cannot be read; or images have no
            masks that must.
    """
    names = [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
    for one in names:
        urls.check(one)
    shown = [urls.redact(name) for name in names]
    found: dict[str, Any] = {"uri": shown[0] if len(shown) == 1 else shown}
    others = (
        [str(item) for item in masks]
        if isinstance(masks, (list, tuple))
        else [str(masks)]
        if masks
        else []
    )
    others += [str(labels.file)] if labels else []
    if not remote and any(urls.is_remote(name) for name in [*names, *others]):
        return {
            **found,
            "counted": False,
            "why": "not counted: it is remote; the job counts it before anything runs",
        }, None
    if role:
        from mae_sdk.data.pairs import open_pairs

        pairs = open_pairs(names, others or None, role=role, required=role != "test")
        return {**found, **_pairs_seen(pairs, share, reading, part)}, pairs

    source = open_source(names[0] if len(names) == 1 else names)
    if len(source.uris) == 1 and source.uris[0].rstrip("/") != shown[0].rstrip("/"):
        found["root"] = source.uris[0]  # of a pattern of pictures, the folder that holds them
    if labels:
        from mae_sdk.data.label_file import labeled

        source = labeled(source, labels, keep=labels.split == "test")
    if classes:
        from mae_sdk.data.of_classes import SourceOfClasses

        source = SourceOfClasses(source, classes, required=trains)
        found["left_aside"] = source.aside
    return {**found, **_images_seen(source, share, reading, part)}, source


def _pairs_seen(pairs: Pairs, share: float, reading: Reading, part: float) -> dict[str, Any]:
    more = {
        "repeated": repeated_images(pairs),
        "shared_masks": pairs.shared_masks(),
        "spare_masks": pairs.spare_masks(),
        "mask_names": pairs.mask_names(),
    }
    pictures, masks = survey_images(pairs, reading=reading), survey_masks(pairs, reading=reading)
    left: dict[str, Any] = {}
    for source in pairs.sources:
        left |= inspect.left_out(source)
    bad = {place for place, _ in pictures.bad} | masks.unusable
    return {
        "images": len(pairs),
        "masks": pairs.masked,
        **_used([len(pairs)], share, part),
        "digest": pairs.digest,
        **pictures.to_dict(pairs.path),
        "bad": len(bad),
        **({"left_out": left} if left else {}),
        **{name: fact for name, fact in more.items() if fact},
        **({"mask_values": masks.to_dict(lambda i: str(pairs.mask_path(i)))} if masks.read else {}),
    }


def _images_seen(source: Source, share: float, reading: Reading, part: float) -> dict[str, Any]:

    sizes = Counter(source.labels.tolist())
    used = {**_used(sizes.values(), share, part), **_thin_classes(source, sizes, share, part)}
    return {**inspect.facts_of(source, survey_images(source, reading=reading)), **used}


def _thin_classes(
    source: Source, sizes: Mapping[int, int], share: float, part: float
) -> dict[str, list[str]]:
    """``untaught``: the classes that a held-out share leaves without a training image;
    ``unjudged``: those of one image, which it leaves without one to be judged by."""
    taken = {label: share_of(size, part) for label, size in sizes.items() if label >= 0 and share}
    untaught = [label for label, size in taken.items() if held_out([size], share) >= size]
    unjudged = [label for label, size in taken.items() if held_out([size], share) == 0]
    found = {"untaught": untaught, "unjudged": unjudged}
    return {
        name: sorted(source.classes[label] for label in labels)
        for name, labels in found.items()
        if labels
    }


def _used(classes: Iterable[int], share: float, part: float) -> dict[str, int]:
    """``trained_on`` and ``held_out``, where a part of classes of these sizes is."""
    sizes = [share_of(size, part) for size in classes]
    found = {} if part >= 1 else {"trained_on": sum(sizes)}
    return {**found, "held_out": held_out(sizes, share)} if share else found


MAX_CLASSES = 50
"""Classes of a source that a plan and a record list."""


def shown_of(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What was seen in a source as plans and records hold it: with a bounded list of classes."""
    found = dict(seen)
    for name in ("class_counts", "missing_classes"):
        table = found.get(name) or {}
        if len(table) > MAX_CLASSES:
            found[name] = dict(list(table.items())[:MAX_CLASSES])
            found[f"more_{name}"] = len(table) - MAX_CLASSES
    return found


def reading_of(action: str, spec: Mapping[str, Any]) -> Reading:
    """How an action reads pictures: as the spec says, or as the model says that it takes."""
    found, said = Reading.of(spec), said_of_model(action, spec)
    if not said:
        return found
    channels = channels_of(said)
    return Reading.from_values(
        None if channels == 3 else channels,
        said.get("value_range") or "dtype",
        said.get("exif_orientation"),
        found.max_pixels,
        of_model=True,
    )


def said_of_model(action: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the model that an action takes says of itself; empty where it is not here."""
    said: Mapping[str, Any] = {}
    for name in ("checkpoint", "trt_engine"):
        path = get_dotted(spec, f"{action}.{name}")
        if path and not urls.is_remote(str(path)):
            with contextlib.suppress(MaeError, OSError, ValueError):
                said = said or _description(Path(str(path)))
    return said


def _classes_of_model(action: str, spec: Mapping[str, Any]) -> list[str] | None:
    """The classes of the classifier that an action takes, where it names them."""
    said = said_of_model(action, spec)
    found = said.get("classes")
    is_classifier = said.get("stage") == "finetune" and said.get("task") != "segmentation"
    return [str(name) for name in found] if is_classifier and isinstance(found, list) else None


def _description(path: Path) -> Mapping[str, Any]:
    """What a model's file says of itself; empty where it says nothing that is read here."""
    beside = path.with_name(path.name + ".json")  # of an engine
    if beside.is_file():
        return dict(files.read_json(beside))
    if path.suffix.lower() == ".onnx":
        from mae_skill.onnx_file import read_header

        return {
            key.removeprefix("mae."): value for key, value in read_header(path).properties.items()
        }

    contents = header.look(path) if path.exists() else None
    said = (contents or {}).get("mae")
    return said if isinstance(said, Mapping) else {}


def look_at_all(
    action: str,
    keys: Mapping[str, Any],
    spec: Mapping[str, Any],
    problems: list[MaeError],
    *,
    remote: bool,
    share: float = 0.0,
    classes: Sequence[str] | None = None,
    taught: Taught | None = None,
    mounts: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Dotted key → what was seen, for every data source field of an action that has a value. What
    cannot be read is added to `problems`.

    Validation data are compared with training data, ``against`` and ``shared``, or with `classes`;
    the images that a probe asks about with its bank.

    Args:
        keys: the action's ``data_sources``: dotted key → its row.
        share: of the training images that the run holds out for validation.
        classes: those of the parent's model, where they are known.
        taught: what that model was trained on; images to evaluate on are compared with it.
        mounts: folders of the machine that runs the job; what is hidden there is not looked at.
    """

    reading = reading_of(action, spec)
    classes = classes or _classes_of_model(action, spec)
    found: dict[str, dict[str, Any]] = {}
    opened: dict[str, tuple[str, Opened]] = {}
    for key, row in keys.items():
        value = get_dotted(spec, key)
        if not value or (isinstance(row, Mapping) and acts(row.get("when"), spec)):
            continue
        if (unseen := _hidden(row, value, spec, mounts)) is not None:
            found[key] = unseen
            continue
        if not is_images(row):
            found[key] = carried(key, row if isinstance(row, Mapping) else {}, value, problems)
            continue
        paired = row.get("masks") if isinstance(row, Mapping) else None
        paired = paired if isinstance(paired, Mapping) and holds(paired.get("when"), spec) else {}
        try:
            masks = get_dotted(spec, str(paired["field"])) if paired else None
            name = row.get("source") if isinstance(row, Mapping) else None
            trains = name == SOURCE_KEY["train"]
            fraction = get_dotted(spec, TRAIN_FRACTION) if trains else None
            filters = not paired and name != UNJUDGED
            found[key], source = look_at(
                value,
                remote=remote,
                masks=masks,
                role=str(paired.get("role") or ""),
                share=share if trains else 0.0,
                reading=reading,
                labels=labels_of(row, spec),
                classes=_classes_of(spec) if filters else None,
                part=_share(fraction) or 1.0,
                trains=trains,
            )
            if near := _labels_near(row, value, found[key], remote=remote):
                found[key]["labels_near"] = near
            if isinstance(row, Mapping) and row.get("use"):
                found[key]["use"] = str(row["use"])
        except MaeError as error:
            error.field = error.field or key
            problems.append(error)
            continue
        if source is not None and isinstance(row, Mapping):
            opened[str(row.get("source") or key)] = key, source
            against = opened.get(str(row.get("against")))
            if against is not None:
                found[key]["against"] = inspect.compare_classes(against[1].classes, source)
                found[key]["shared"] = shared_images(against[1], source)
    _compare(opened, found, classes)
    name = {**SOURCE_KEY, "inference": UNJUDGED}.get(action)
    if taught and action != "train" and name in opened:
        key, source = opened[name]
        found[key] |= _beside_taught(taught, source, reading, remote=remote)
        if action not in ("evaluate", "inference"):
            found[key].pop("taught", None)  # nothing is judged by them
    # Answers to images whose classes or masks are there are judged too.
    if taught and action in ("evaluate", "inference"):
        for key, row in keys.items():
            if key in found and isinstance(row, Mapping) and row.get("source") == name:
                source = opened.get(str(name), ("", None))[1]
                uri = found[key].get("uri")
                found[key] |= _beside_judged(taught, uri, source, remote=remote)
    return found


def _labels_near(row: Any, value: Any, seen: Mapping[str, Any], *, remote: bool) -> dict[str, str]:
    """`labels_beside` of pictures that lack labels, where a table could give them."""
    named = row.get("labels") if isinstance(row, Mapping) else None
    one = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    lacks = seen.get("unlabelled") or seen.get("classes", 2) < 2
    if not isinstance(named, Mapping) or not isinstance(one, str) or "label_file" in seen:
        return {}
    if not lacks or is_pattern(one) or (urls.is_remote(one) and not remote):
        return {}
    return labels_beside(one, str(named["role"]))


HIDDEN = "not looked at: it is where the platform mounts a folder, and not on this machine"
"""Why data were not counted that only the machine of the job sees."""


def _hidden(
    row: Any, value: Any, spec: Mapping[str, Any], mounts: Sequence[str]
) -> dict[str, Any] | None:
    """What is known of data that a job has mounted, or whose masks or labels it has; None where
    they are to be looked at here."""
    fields = row if isinstance(row, Mapping) else {}
    beside: list[Any] = []
    for name in ("masks", "labels"):
        named = fields.get(name)
        if isinstance(named, Mapping) and named.get("field") and holds(named.get("when"), spec):
            beside.append(get_dotted(spec, str(named["field"])))
    places = [*paths_in(fields, value), *paths_in({}, beside)]
    if not any(hidden(one, mounts) for one in places):
        return None
    shown = [urls.redact(one) for one in paths_in(fields, value)]
    return {"uri": shown[0] if len(shown) == 1 else shown, "counted": False, "why": HIDDEN}


def _read_by(
    names: Sequence[str], role: str, table: LabelTable | None, beside: Opened
) -> Source | Pairs:
    """The images that a training has read as its ``role`` (``train``, ``val``), to compare others
    with.

    A folder may hold the images to evaluate on too: of a segmenter those of its split alone are
    meant, where the layout has splits, and of a classifier those that its table names.

    Raises:
        MaeError: they cannot be opened.
    """
    from mae_sdk.data.label_file import labeled
    from mae_sdk.data.pairs import Pairs, open_pairs

    if isinstance(beside, Pairs):
        with contextlib.suppress(MaeError):  # its masks may be elsewhere
            return open_pairs(list(names), role=role, required=False)
    found = open_source(names[0] if len(names) == 1 else list(names))
    return labeled(found, table) if table else found


def _beside_taught(
    taught: Taught, source: Opened, reading: Reading, *, remote: bool
) -> dict[str, Any]:
    """What a source is beside the images that a model was trained on; empty where these cannot be
    looked at.

    ``taught``: those that are in both, as `shared_images` has them; ``taught_stored``: how those of
    the training are stored, of images without masks.
    """
    names = list(taught.sources)
    if not names or (not remote and any(urls.is_remote(name) for name in names)):
        return {}
    found: dict[str, Any] = {}
    with contextlib.suppress(MaeError, OSError):
        theirs = _read_by(names, "train", taught.table, source)
        twins = shared_images(theirs, source)
        if twins["count"]:
            found["taught"] = {**twins, "job": taught.job, "held_out": taught.held_out}
        if isinstance(source, Source):
            seen = survey_images(theirs, reading=reading).to_dict(theirs.path)
            found["taught_stored"] = seen.get("stored") or {}
    return found


def _beside_judged(taught: Taught, uri: Any, source: Opened, *, remote: bool) -> dict[str, Any]:
    """``chose``: images of a source that a training has chosen its checkpoint by. Where one of the
    two cannot be looked at, equal places are the same images."""
    theirs = list(taught.judged)
    if not theirs:
        return {}
    if source is None or (not remote and any(urls.is_remote(name) for name in theirs)):
        ours = uri if isinstance(uri, list) else [uri]
        same = {_place(name) for name in theirs} & {_place(name) for name in ours}
        return {"chose": {"count": None, "pairs": [], "job": taught.job}} if same else {}
    with contextlib.suppress(MaeError, OSError):
        judged = _read_by(theirs, "val", taught.table_of_judged, source)
        twins = shared_images(judged, source)
        if twins["count"]:
            return {"chose": {**twins, "job": taught.job}}
    return {}


def _place(name: Any) -> str:
    """Where a source is, without what does not tell places apart."""
    text = urls.redact(str(name)).rstrip("/")
    return text if urls.is_remote(text) else os.path.realpath(text)


def _classes_of(spec: Mapping[str, Any]) -> list[str] | None:
    """The classes that a spec asks for; None where it asks for none, or not in this form."""
    found = get_dotted(spec, CLASSES)
    is_list = isinstance(found, list) and found and all(isinstance(one, str) for one in found)
    return found if is_list else None


def _share(value: Any) -> float:
    """A share of images; 0 where it is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= 1 else 0.0


def labels_of(row: Any, spec: Mapping[str, Any]) -> LabelTable | None:
    """The table of classes of a source; None where its folders are the classes."""

    named = row.get("labels") if isinstance(row, Mapping) else None
    if not isinstance(named, Mapping) or not holds(named.get("when"), spec):
        return None
    file = get_dotted(spec, str(named["field"]))
    if not file:
        return None
    several = get_dotted(spec, str(named.get("several"))) is True
    columns = get_dotted(spec, str(named.get("columns")))
    listed = [str(name) for name in columns] if isinstance(columns, list) else None
    return LabelTable(str(file), str(named["role"]), several, listed)


def _compare(
    opened: Mapping[str, tuple[str, Opened]],
    found: dict[str, dict[str, Any]],
    classes: Sequence[str] | None,
) -> None:
    """Add what validation data have in common with training data, and how the labels of images to
    infer from differ from the classes of the model."""

    if classes and UNJUDGED in opened:
        key, source = opened[UNJUDGED]
        if isinstance(source, Source) and source.classes:
            found[key]["against"] = inspect.compare_classes(classes, source)
    if SOURCE_KEY["evaluate"] not in opened:
        return
    key, theirs = opened[SOURCE_KEY["evaluate"]]
    _, ours = opened.get(SOURCE_KEY["train"], ("", None))
    if ours is not None:
        found[key]["shared"] = shared_images(ours, theirs)
        if rows := _same_rows(ours, theirs):
            found[key]["same_rows"] = rows
        classes = ours.classes if isinstance(ours, Source) else classes
    if classes and isinstance(theirs, Source):
        found[key]["against"] = inspect.compare_classes(classes, theirs)


def _same_rows(ours: Opened, theirs: Opened) -> dict[str, Any]:
    """Rows of one table that name a picture of both sources."""
    if not isinstance(ours, LabeledSource) or not isinstance(theirs, LabeledSource):
        return {}
    if ours.table["file"] != theirs.table["file"]:
        return {}
    found = Some()
    for path in sorted(ours.row_paths & theirs.row_paths):
        found.add(path)
    return found.to_dict() if found.count else {}


def steps(
    images: int | None, batch: int | None, processes: int, accumulate: int
) -> tuple[int | None, int | None]:
    """Optimizer steps per epoch, and the effective batch."""
    if not batch:
        return None, None
    effective = batch * processes * accumulate
    if images is None:
        return None, effective
    batches = -(-images // (batch * processes))
    return -(-batches // accumulate), effective


@dataclass
class Survey:
    """What is known beside a spec: its data, counted, and the machine.

    Attributes:
        remote: fetch what is behind a URL into the cache, and count it.
        classes: those of the parent's model, where they are known.
        taught: what that model was trained on, where it is known.
        seen: dotted key → what was seen there (`look_at`).
        sources: the same, with bounded lists.
        environment: in which an orchestrator counts the nodes.
        images: of the training data, as the caller states them; they are not looked at then.
        mounts: folders that are mounted where the job runs.
    """

    bundle: Bundle
    action: str
    schema: Mapping[str, Any]
    resources: Resources
    remote: bool = False
    classes: Sequence[str] | None = None
    taught: Taught | None = None
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    images: int | None = None
    mounts: Sequence[str] = ()

    def look(self, spec: Mapping[str, Any], well_formed: bool) -> tuple[Facts, list[MaeError]]:
        """The facts of a spec, and what is wrong with its data and devices.

        Args:
            well_formed: whether the spec's schema accepts it; else nothing is computed from its
                values.
        """
        problems: list[MaeError] = []
        rows = (self.bundle.info.get("data_sources") or {}).get(self.action) or {}
        share = held_share(self.schema, spec)
        stated = self._stated(rows, spec, share)
        own = own_folders(self.action, self.bundle)  # what nobody gave, the run writes there
        rows = {key: row for key, row in rows.items() if key not in stated and key not in own}
        seen = look_at_all(
            self.action,
            rows,
            spec,
            problems,
            remote=self.remote,
            share=share,
            classes=self.classes,
            taught=self.taught,
            mounts=self.mounts,
        )
        problems += self._lost_files(spec)
        self.seen = {**self.seen, **seen, **stated}
        rows = {**rows, **{key: {"source": SOURCE_KEY["train"]} for key in stated}}
        self.sources = {key: shown_of(found) for key, found in self.seen.items()}

        images, classes = self._of_the_action(rows)
        steps, batch, processes = (None, None, None)
        if well_formed:
            try:
                steps, batch, processes = self._steps(spec, images)
            except SpecError as error:  # a device that is not there
                problems.append(error)
        self.facts = Facts(
            gpus=self.resources.gpus,
            images=images,
            classes=classes,
            effective_batch=batch,
            steps_per_epoch=steps,
            device=self.resources.device,
            cores=self.resources.cores,
            processes=processes,
            nodes=self._nodes(spec) if well_formed else 1,
            judged=self._judged(rows),
            machine=self.resources.machine,
            local_files=self.resources.here,
            mounts=tuple(self.mounts),
            variables=frozenset(self.environment),
            data=self.seen,
            model=said_of_model(self.action, spec),
        )
        return self.facts, problems

    def _stated(
        self, rows: Mapping[str, Any], spec: Mapping[str, Any], share: float
    ) -> dict[str, dict[str, Any]]:
        """The training data where the caller states their number: field → what is known."""
        if self.images is None:
            return {}
        told = {"images": self.images, "classes": None, "why": COUNTED_BY_CALLER}
        told |= {"held_out": held_out([self.images], share)} if share else {}
        return {
            key: {"uri": _shown_uri(get_dotted(spec, key)), **told}
            for key, row in rows.items()
            if isinstance(row, Mapping) and row.get("source") == SOURCE_KEY["train"]
        }

    def _lost_files(self, spec: Mapping[str, Any]) -> list[MaeError]:
        """Pretrained weights behind a URL where nothing is."""

        functions = self.bundle.spec_params.get(self.action) or {}
        nodes, problems = field_nodes(self.schema), list[MaeError]()
        for key, function in functions.items() if self.remote else ():
            value, node = get_dotted(spec, key), nodes.get(key) or {}
            if str(function).split(",")[0] not in OF_PTM or not isinstance(value, str):
                continue
            if not urls.is_remote(value) or acts(node.get("applies_when"), spec):
                continue
            try:
                transfer.info(value)
            except MaeError as error:
                error.field = error.field or key
                problems.append(error)
        return problems

    def _of_the_action(self, rows: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """Images (less those held out) and classes of the data that the action is about."""
        for key, row in rows.items():
            seen = self.seen.get(key) or {}
            if (
                isinstance(row, Mapping)
                and row.get("source") == SOURCE_KEY.get(self.action)
                and "images" in seen
            ):
                trained_on = seen.get("trained_on", seen["images"])
                return trained_on - seen.get("held_out", 0), seen.get("classes")
        return None, None

    def _judged(self, rows: Mapping[str, Any]) -> int | None:
        """Images that are read without training on them; None where they are not counted."""
        found = None
        for key, row in rows.items():
            seen = self.sources.get(key) or {}
            if not isinstance(row, Mapping) or "images" not in seen or not row.get("source"):
                continue
            trained_on = row.get("source") == SOURCE_KEY["train"]
            count = seen.get("held_out") if trained_on else seen["images"]
            found = (found or 0) + count if count else found
        return found

    def _steps(
        self, spec: Mapping[str, Any], images: int | None
    ) -> tuple[int | None, int | None, int]:
        """Optimizer steps per epoch and the effective batch, of a run that trains; the processes.

        Raises:
            SpecError: the spec names a device that is not there.
        """
        processes = shape(self.bundle.info, self.action, spec, self.resources).processes
        together = processes * self._nodes(spec)
        if self.action != "train":
            return None, None, processes
        keys = keys_of(self.bundle.info, spec)
        batch = get_dotted(spec, keys["batch"]) if "batch" in keys else None
        accumulate = get_dotted(spec, keys["accumulate"]) if "accumulate" in keys else 1
        if not isinstance(batch, int):
            return None, None, processes
        return *steps(images, batch, together, int(accumulate or 1)), processes

    def _nodes(self, spec: Mapping[str, Any]) -> int:
        return nodes_of(self.bundle.info, self.action, spec, self.environment)


def _shown_uri(value: Any) -> Any:
    """A source as a plan shows it: one, or several."""
    if isinstance(value, (list, tuple)):
        shown = [urls.redact(str(one)) for one in value]
        return shown[0] if len(shown) == 1 else shown
    return urls.redact(str(value))


def held_share(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> float:
    """The share of the training images that is held out for validation; 0 where none is."""
    node, value = field_nodes(schema).get(VAL_FRACTION), get_dotted(spec, VAL_FRACTION)
    if node is None or not isinstance(value, (int, float)) or not 0 < value < 1:
        return 0.0
    return 0.0 if acts(node.get("applies_when"), spec) else float(value)
