"""Where an action's data is, and what is there: images, classes, labels, steps per epoch."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill.bundle import Bundle
from mae_skill.conditions import acts, holds
from mae_skill.dotted import field_nodes, get_dotted
from mae_skill.errors import (
    DataError,
    MaeError,
    NotFoundError,
    SpecError,
    UsageError,
)
from mae_skill.rules.base import Facts

from mae_sdk import files
from mae_sdk.automl.setup import keys_of
from mae_sdk.data import inspect
from mae_sdk.data.decode import DEFAULT
from mae_sdk.data.fetch import is_archive
from mae_sdk.data.reading import Reading
from mae_sdk.data.source import no_pattern
from mae_sdk.data.split import held_out
from mae_sdk.plan.inferred_fields import OF_PTM
from mae_sdk.plan.launch_record import nodes_of, shape
from mae_sdk.run.platform import Resources
from mae_sdk.storage import urls
from mae_sdk.storage.faults import as_data_error

if TYPE_CHECKING:
    from mae_sdk.data.pairs import Pairs
    from mae_sdk.data.source import Source

SOURCE_KEY = {"train": "train_datasets", "evaluate": "eval_dataset"}

VAL_FRACTION = "dataset.val_fraction"
"""The field that says which share of the training images is held out, in a bundle that has it."""

SourceArg = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None


def locate(
    action: str,
    info: Mapping[str, Any],
    sources: Mapping[str, SourceArg],
    given: Collection[str] = (),
) -> tuple[dict[str, Any], list[MaeError]]:
    """The data fields of an action that the named sources fill.

    An archive, by its name, is taken as given. Anything else is a place: ``<place>/<path of the
    bundle>`` when that is there, else the place itself when it is a folder or prefix that holds
    something.

    Args:
        sources: ``train_datasets``, ``eval_dataset`` … → a URI, a list of URIs, or None.
        given: dotted keys that the user set in the spec; they are left alone.

    Returns:
        Dotted key → URI or list of URIs (local paths made absolute), and every error: a source that
        does not exist, is empty, or is not read by the action.
    """
    rows: dict[str, Mapping[str, Any]] = {
        str(key): row
        for key, row in ((info.get("data_sources") or {}).get(action) or {}).items()
        if isinstance(row, Mapping)
    }
    values: dict[str, Any] = {}
    errors: list[MaeError] = []
    rows = {key: row for key, row in rows.items() if row.get("source")}
    taken = {str(row["source"]) for row in rows.values()}
    for name, source in sources.items():
        if source is not None and name not in taken:
            expected = ", ".join(sorted(taken)) if taken else "no data source"
            errors.append(
                UsageError(
                    f"{action} does not read this source",
                    field=name,
                    got=_shown(source),
                    expected=expected,
                )
            )
    for key, row in rows.items():
        name = str(row.get("source"))
        source = sources.get(name)
        if key in given or source is None:
            continue

        many = not isinstance(source, (str, os.PathLike))
        found = []
        for one in [source] if isinstance(source, (str, os.PathLike)) else source:
            try:
                found.append(_one(os.fspath(one), row.get("path"), name))
            except MaeError as error:
                error.field = error.field or name
                errors.append(error)
        if many and not source:
            errors.append(
                DataError(
                    "the list of sources is empty", field=name, got=[], expected="at least one URI"
                )
            )
        if found:
            values[key] = found if many else found[0]
    return values, errors


def _one(uri: str, path: Any, name: str) -> str:
    """One source.

    Raises:
        DataError: neither place holds anything.
    """
    if not uri.strip() or "\0" in uri:
        raise DataError("not a path or URL", field=name, got=uri, expected="a path or URL")
    urls.check(uri)
    local = not urls.is_remote(uri)
    try:
        base = str(urls.local_path(uri).absolute()) if local else uri
    except RuntimeError as error:  # ~nobody
        raise DataError(
            f"not a path or URL: {error}", field=name, got=uri, expected="a path or URL"
        ) from error
    where = urls.redact(uri)
    try:
        if urls.is_archive(uri):
            if _is_file(base) or (local and _holds_something(base)):
                return base
            raise as_data_error(NotFoundError(""), where)
        tried = [base]
        if isinstance(path, str) and path:
            below = urls.join(base, path)
            tried.insert(0, below)
            if _is_file(below) or (not urls.is_archive(path) and _holds_something(below)):
                return below
        if _holds_something(base) or is_archive(base):
            inside = _entries(base)
            archives = sorted(entry for entry in inside if urls.is_archive(entry))
            if archives and len(archives) == len(inside):
                raise _other_archives(where, base, tried[0], archives, str(path or "image"), name)
            return base
    except NotFoundError as error:
        raise as_data_error(error, where) from error
    raise DataError(
        "no data was found",
        field=name,
        got=where,
        expected="a file "
        + urls.redact(tried[0])
        + " or a folder that is not empty, "
        + urls.redact(base),
        hint=no_pattern(uri) or "name the archive itself, or the folder with the images",
    )


def find_source(uri: str, info: Mapping[str, Any]) -> str:
    """A source as plans find it, whatever the action: the first of the bundle's paths that is a
    file in the place, else the place.

    Raises:
        DataError: there is nothing.
    """
    rows = (info.get("data_sources") or {}).values()
    paths = {str(row["path"]): None for table in rows for row in table.values() if row.get("path")}
    for path in paths if not urls.is_archive(uri) and uri.strip() else ():
        with contextlib.suppress(MaeError):
            if found := _file_below(uri, path):
                return found
    return _one(uri, next(iter(paths), None), "source")


def _file_below(uri: str, path: str) -> str | None:
    base = uri if urls.is_remote(uri) else str(urls.local_path(uri).absolute())
    below = urls.join(base, path)
    return below if _is_file(below) else None


def _is_file(uri: str) -> bool:
    from mae_sdk.storage import transfer

    if not urls.is_remote(uri):
        try:
            return Path(uri).is_file()
        except OSError:  # a name too long
            return False
    return transfer.exists(uri) and transfer.info(uri)["type"] == "file"


def _holds_something(uri: str) -> bool:
    """Whether a folder or prefix holds anything; a web server cannot say."""
    from mae_sdk.storage import transfer

    if urls.is_remote(uri):
        return transfer.holds_something(uri)
    try:
        with os.scandir(uri) as entries:
            return any(not entry.name.startswith(".") for entry in entries)
    except OSError:
        return False


def _other_archives(
    where: str, base: str, tried: str, archives: Sequence[str], path: str, name: str
) -> DataError:
    """The error for a place that holds archives alone, none of them the one that is looked for."""
    return DataError(
        f"there is no {path} and no image here, but {', '.join(archives[:5])}",
        field=name,
        got=where,
        expected=f"a file {urls.redact(tried)} or a folder that is not empty, {urls.redact(base)}",
        hint=f"name the archive itself: {urls.redact(urls.join(base, archives[0]))}",
    )


def _entries(uri: str) -> list[str]:
    """The names in a folder or prefix, folders with their ``/``; none where there is nothing or, as
    on a web server, they cannot be had."""
    if not urls.is_remote(uri):
        try:
            with os.scandir(uri) as entries:
                return [
                    entry.name + ("/" if entry.is_dir() else "")
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        except OSError:
            return []
    if urls.scheme(uri) in ("http", "https"):
        return []
    from mae_sdk.storage.retry import attempt

    fs, inside = urls.filesystem(uri)

    def request() -> list[dict[str, Any]]:
        try:
            return list(fs.ls(inside, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []

    found = [
        (item["name"].rstrip("/"), item.get("type") == "directory")
        for item in attempt(request, uri, "list")
    ]
    return [
        name.rpartition("/")[2] + "/" * is_folder
        for name, is_folder in found
        if name != inside.rstrip("/")
    ]


def _shown(source: Any) -> Any:
    return (
        urls.redact(source)
        if isinstance(source, (str, os.PathLike))
        else [urls.redact(one) for one in source]
    )


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
    if not remote and any(urls.is_remote(name) for name in [*names, *others]):
        return {
            **found,
            "counted": False,
            "why": "not counted: it is remote; the job counts it before anything runs",
        }, None
    if role:
        from mae_sdk.data.pairs import open_pairs

        pairs = open_pairs(names, others or None, role=role, required=role != "test")
        return {**found, **_pairs_seen(pairs, share, reading)}, pairs
    from mae_sdk.data.source import open_source

    source = open_source(names[0] if len(names) == 1 else names)
    return {**found, **_images_seen(source, share, reading)}, source


def _pairs_seen(pairs: Pairs, share: float, reading: Reading) -> dict[str, Any]:
    from mae_sdk.data.survey import survey_images, survey_masks

    pictures, masks = survey_images(pairs, reading=reading), survey_masks(pairs, reading=reading)
    left: dict[str, Any] = {}
    for source in pairs.sources:
        left |= inspect.left_out(source)
    bad = {place for place, _ in pictures.bad} | masks.unusable
    return {
        "images": len(pairs),
        "masks": pairs.masked,
        **({"held_out": held_out([len(pairs)], share)} if share else {}),
        "digest": pairs.digest,
        **pictures.to_dict(pairs.path),
        "bad": len(bad),
        **({"left_out": left} if left else {}),
        **({"mask_values": masks.to_dict(lambda i: str(pairs.mask_path(i)))} if masks.read else {}),
    }


def _images_seen(source: Source, share: float, reading: Reading) -> dict[str, Any]:
    from mae_sdk.data.survey import survey_images

    classes = Counter(source.labels.tolist()).values()
    held = {"held_out": held_out(classes, share)} if share else {}
    return {**inspect.facts_of(source, survey_images(source, reading=reading)), **held}


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
    found = Reading.of(spec)
    said: Mapping[str, Any] = {}
    for name in ("checkpoint", "trt_engine"):
        path = get_dotted(spec, f"{action}.{name}")
        if path and not urls.is_remote(str(path)):
            with contextlib.suppress(MaeError, OSError, ValueError):
                said = said or _description(Path(str(path)))
    if not said:
        return found
    channels = said.get("channels") or (said.get("model") or {}).get("in_chans") or 3
    return Reading.from_values(
        None if channels == 3 else channels,
        said.get("value_range") or "dtype",
        said.get("exif_orientation"),
        found.max_pixels,
    )


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
    from mae_skill.weights import header

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
) -> dict[str, dict[str, Any]]:
    """Dotted key → what was seen, for every data source field of an action that has a value. What
    cannot be read is added to `problems`.

    Validation data are compared with training data, ``against`` and ``shared``, or with `classes`.

    Args:
        keys: the action's ``data_sources``: dotted key → its row.
        share: of the training images that the run holds out for validation.
        classes: those of the parent's model, where they are known.
    """

    reading = reading_of(action, spec)
    found: dict[str, dict[str, Any]] = {}
    opened: dict[str, tuple[str, Opened]] = {}
    for key, row in keys.items():
        value = get_dotted(spec, key)
        if not value or (isinstance(row, Mapping) and acts(row.get("when"), spec)):
            continue
        paired = row.get("masks") if isinstance(row, Mapping) else None
        paired = paired if isinstance(paired, Mapping) and holds(paired.get("when"), spec) else {}
        try:
            masks = get_dotted(spec, str(paired["field"])) if paired else None
            part = (
                share
                if isinstance(row, Mapping) and row.get("source") == SOURCE_KEY["train"]
                else 0.0
            )
            found[key], source = look_at(
                value,
                remote=remote,
                masks=masks,
                role=str(paired.get("role") or ""),
                share=part,
                reading=reading,
            )
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
    _compare(opened, found, classes)
    return found


def _compare(
    opened: Mapping[str, tuple[str, Opened]],
    found: dict[str, dict[str, Any]],
    classes: Sequence[str] | None,
) -> None:
    """Add what validation data have in common with training data."""
    from mae_sdk.data.source import Source
    from mae_sdk.data.survey import shared_images

    if SOURCE_KEY["evaluate"] not in opened:
        return
    key, theirs = opened[SOURCE_KEY["evaluate"]]
    _, ours = opened.get(SOURCE_KEY["train"], ("", None))
    if ours is not None:
        found[key]["shared"] = shared_images(ours, theirs)
        classes = ours.classes if isinstance(ours, Source) else classes
    if classes and isinstance(theirs, Source):
        found[key]["against"] = inspect.compare_classes(classes, theirs)


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
        seen: dotted key → what was seen there (`look_at`).
        sources: the same, with bounded lists.
        environment: in which an orchestrator counts the nodes.
    """

    bundle: Bundle
    action: str
    schema: Mapping[str, Any]
    resources: Resources
    remote: bool = False
    classes: Sequence[str] | None = None
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def look(self, spec: Mapping[str, Any], well_formed: bool) -> tuple[Facts, list[MaeError]]:
        """The facts of a spec, and what is wrong with its data and devices.

        Args:
            well_formed: whether the spec's schema accepts it; else nothing is computed from its
                values.
        """
        problems: list[MaeError] = []
        rows = (self.bundle.info.get("data_sources") or {}).get(self.action) or {}
        share = held_share(self.schema, spec)
        seen = look_at_all(
            self.action, rows, spec, problems, remote=self.remote, share=share, classes=self.classes
        )
        problems += self._lost_files(spec)
        self.seen = {**self.seen, **seen}
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
            local_files=self.resources.here,
            variables=frozenset(self.environment),
            data=self.seen,
        )
        return self.facts, problems

    def _lost_files(self, spec: Mapping[str, Any]) -> list[MaeError]:
        """Pretrained weights behind a URL where nothing is."""
        from mae_sdk.storage import transfer

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
                return seen["images"] - seen.get("held_out", 0), seen.get("classes")
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


def held_share(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> float:
    """The share of the training images that is held out for validation; 0 where none is."""
    node, value = field_nodes(schema).get(VAL_FRACTION), get_dotted(spec, VAL_FRACTION)
    if node is None or not isinstance(value, (int, float)) or not 0 < value < 1:
        return 0.0
    return 0.0 if acts(node.get("applies_when"), spec) else float(value)
