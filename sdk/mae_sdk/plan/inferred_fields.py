"""Inferred fields: what ``spec_params`` of a bundle fills into a spec.

=======================  ==========================================================================
function                 gives
=======================  ==========================================================================
key                      a reference to the variable that holds the encryption key, when it is set
output_dir               the folder of this job
parent_model             the parent's model file, of the kind that the field's last word names
parent_model_folder      the folder that holds the parent's model
ptm                      ``--ptm``, else the checkpoint of the parent
resume_model             the newest checkpoint in the folder of *this* job
ptm_if_no_resume_model   as ``ptm``, but only while this job has no checkpoint
resume_model_or_ptm      the newest checkpoint of this job, else as ``ptm``
parent_model_or_ptm      the parent's model, or ``--ptm``; both are one too many
create_onnx_file         ``<this job>/<action>/model.onnx``
create_engine_file       ``<this job>/<action>/model.engine``; so ``create_pth_file``,
                         ``create_hdf5_file``, ``create_cal_cache``, result files and plots
output_dir_labels …      ``<this job>/<action>/labels``
resume_model_bool        whether this job has a checkpoint
assign_const_value       its constant: ``assign_const_value,30``, ``{function: …, value: 30}``
{link: URL, …}           the file behind the URL, fetched when the job is launched
=======================  ==========================================================================

Any other word, number or list is a constant of the bundle. A word such as ``guess_model``, which
is none of these and no option of the field, is taken for a function that is not known. It is
refused, but only where the action needs it: where nothing else gives the field a value. A word that
is a function but for its spelling (``outputdir``, ``create_ONNX_file``) is always refused.

What a constant says of an output is not used: a job writes into its own folder.

A field that ends in a word with "engine" takes an engine, one with "onnx" an ONNX file. Of any
other the bundle's files may say the kind (`kinds_taken`): a template that names ``model.onnx``
there, or another action that makes a field of that name with ``create_onnx_file``. Else it takes a
checkpoint; a checkpoint field takes an ONNX file too where the action has an engine field beside
it. So what the parent left decides which one field of an action is filled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.dialect import is_slip, slips
from mae_skill.dotted import field_nodes, flatten, get_dotted
from mae_skill.errors import MaeError, NotFoundError, SpecError, UsageError
from mae_skill.mask_meaning import CLASSES, MASK_VALUES
from mae_skill.merge import accepted_types
from mae_skill.placeholders import NOT_GIVEN, has_reference
from mae_skill.resolve import Layers, optional_fields
from mae_skill.rules.files import TAKES_WEIGHTS
from mae_skill.weights import config

from mae_sdk import files
from mae_sdk.jobs.checkpoint_names import CHECKPOINT, ENGINE, ONNX, artifact_kind, newest_in
from mae_sdk.jobs.checkpoints import CheckpointIndex, parse_policy
from mae_sdk.jobs.outputs import ParentInfo
from mae_sdk.jobs.secrets import ENCRYPTION_REFERENCE, ENCRYPTION_VARIABLE
from mae_sdk.storage import hub, urls

OF_PARENT = ("parent_model", "parent_model_folder", "parent_model_or_ptm")
OF_PTM = ("ptm", "ptm_if_no_resume_model", "resume_model_or_ptm")
OF_RESUME = ("resume_model", "resume_model_or_ptm")
_PICTURES = {"dataset.augmentation.mean": "mean", "dataset.augmentation.std": "std"}
FUNCTIONS = (
    "key",
    "output_dir",
    *OF_PARENT,
    *OF_PTM,
    "resume_model",
    "resume_model_bool",
    "assign_const_value",
    "from_csv",
    "verbose",
)
CREATE, LINK, CONSTANT, UNKNOWN = "create", "link", "constant", "unknown"
"""What a row is that names no function of `FUNCTIONS`."""

_SAME = {
    "parent_model_evaluate": "parent_model",
    "pruned_model": "parent_model",
    "automl_output_dir": "output_dir",
    "automl_resume_model": "resume_model",
    "automl_resume_model_bool": "resume_model_bool",
    "automl_assign_ptm": "ptm",
    "automl_ptm_if_no_resume_model": "ptm_if_no_resume_model",
}
"""Upstream's other words for a function."""

_FILES = {
    "create_cal_cache": "cal.bin",
    "create_cal_data_file": "calibration.tensorfile",
    "create_od_tfrecords": "tfrecords",
    "merged_json": "merged.json",
    "auto_label_output": "label.json",
    "output_dir_images_annotated": "images_annotated",
    "output_dir_inference_json": "annotations.json",
}
_CREATED = (
    (re.compile(r"create_(onnx|engine|pth|hdf5|tlt|weights_tlt|trt)_file(_\w+)?"), "model{1}.{0}"),
    (re.compile(r"create_(json|csv|txt|yaml)_file(_\w+)?"), "results{1}.{0}"),
    (re.compile(r"create_(\w+?_)?result_file(_\w+)?"), "{0}results.json"),
    (re.compile(r"create_(\w+_plot)(_\w+)?"), "{0}.png"),
    (re.compile(r"output_dir_(\w+)()"), "{0}"),
)
_USUAL = ("create_onnx_file", "create_engine_file", "create_pth_file", "create_json_file")
"""Words of `_CREATED` that a misspelled one is compared with."""

_OF_FIELDS = {"key": "key", "ptm": "ptm|pretrain|weights|checkpoint", "verbose": "verbos"}
"""Short functions, and what the fields are called like that they fill."""

_SUFFIXES = {"weights_tlt": "tlt", "trt": "engine"}
_LIKE_A_FUNCTION = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+|framework")


@dataclass(frozen=True)
class InferredField:
    """A field that was filled.

    `needs`: what `fetch` must bring before the value can be read: ``(url, path, sha256 or None)``.
    """

    field: str
    function: str
    value: Any
    note: str
    needs: tuple[tuple[str, Path, str | None], ...] = ()


@dataclass(frozen=True)
class InferenceContext:
    """What the functions look at.

    Attributes:
        action: the action of the job to be.
        job_dir: its folder where it exists already (a resume).
        results_dir: its folder to be.
        parent: the parent job.
        ptm: path or URL of pretrained weights.
        checkpoint: ``best``, ``latest`` or ``epoch:N``.
        actions: the bundle's actions.
        given: dotted keys that the user set; they are left alone.
        env: the job's environment.
        value_of: the value that the spec has for a field so far.
        fields: the schema nodes of the fields.
        kinds: field → the kind of model that it takes, as `kinds_taken`.
        forms: field → ``file`` or ``folder``, as `Bundle.input_forms`.
        by_name: whether the runner may know weights by their name: no rules of the bundle judge.
        notices: what the user is told is added here.
    """

    action: str
    job_dir: Path | None
    results_dir: str
    parent: ParentInfo | None = None
    ptm: str | None = None
    checkpoint: str = "best"
    actions: Mapping[str, Any] = field(default_factory=dict)
    given: frozenset[str] | set[str] = frozenset()
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    value_of: Callable[[str], Any] = lambda key: None
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, str] = field(default_factory=dict)
    by_name: bool = False
    notices: list[str] = field(default_factory=list)


def apply(
    action: str, spec_params: Mapping[str, Any], context: InferenceContext
) -> list[InferredField]:
    """Fill the fields of an action.

    Args:
        spec_params: dotted field → function of that action.

    Raises:
        UsageError: an unknown function or policy; a parent or ``--ptm`` that nothing takes, or
            beside which the spec names other weights; a parent of the wrong kind.
        NotFoundError, CheckpointError: the model that was asked for is not there, or damaged.
    """
    rows = {name: _parse(name, row) for name, row in spec_params.items()}
    for name, parsed in rows.items():
        if name not in context.given:
            _refuse_misspelled(name, parsed, context)
    parse_policy(context.checkpoint)
    models = {
        name
        for name, (function, _) in rows.items()
        if function in ("parent_model", "parent_model_or_ptm")
    }
    closed = set(context.given) | (
        models if models & set(context.given) else set()
    )  # one model a job: naming one closes the other fields
    open_rows = {name: row for name, row in rows.items() if name not in closed}
    engine_beside = any(
        function in OF_PARENT and _takes(name, context.kinds) == ENGINE
        for name, (function, _) in rows.items()
    )
    found: list[InferredField] = []
    from_parent = from_ptm = False
    taken: set[str] = set()
    for name, (function, constant) in open_rows.items():
        made, source = _value(name, function, constant, context, engine_beside)
        if made is not None and function == CREATE:
            made = _apart(made, taken)
        if made is not None:
            found.append(made)
        from_parent |= source == "parent"
        from_ptm |= source == "ptm"
    functions = {function for function, _ in rows.values()}
    waiting = [
        name for name, (function, _) in open_rows.items() if function in (*OF_PARENT, *OF_PTM)
    ]
    resumed = any(item.function in OF_RESUME for item in found)
    if context.ptm and not functions & {*OF_PTM, "parent_model_or_ptm"}:
        raise UsageError(
            f"{action} takes no pretrained weights", field="ptm", got=urls.redact(context.ptm)
        )
    if context.ptm and not from_ptm and not resumed and _resume(context) is None:
        _refuse_other_weights(rows, context)
        _refuse_lost_weights(action, rows, context, found)
    if context.parent is not None and not from_parent:
        if not functions & {*OF_PARENT, *OF_PTM}:
            raise UsageError(
                f"{action} takes no model from a parent job",
                field="parent_job_id",
                got=context.parent.id,
            )
        if waiting and not from_ptm and not resumed:
            raise _wrong_kind(action, context, waiting, engine_beside)
        if not resumed:
            takers = {name for name, row in rows.items() if row[0] in (*OF_PARENT, *OF_PTM)}
            filled = sorted(takers & {*context.given, *(item.field for item in found)})
            context.notices.append(
                f"the model of {context.parent.id} is not used: {', '.join(filled)} is given"
            )
    return found


def _refuse_other_weights(rows: Mapping[str, tuple[str, Any]], context: InferenceContext) -> None:
    """Refuse ``--ptm`` beside a field of the spec that names other weights: nothing would take it.

    Raises:
        UsageError: there is one.
    """
    for name, (function, _) in rows.items():
        here = context.value_of(name) if name in context.given else None
        if here is None or function not in (*OF_PTM, "parent_model_or_ptm") or here == context.ptm:
            continue
        raise UsageError(
            "the pretrained weights are given twice",
            field=name,
            got={"ptm": urls.redact(str(context.ptm)), name: urls.redact(str(here))},
            expected="one of the two",
            hint="leave one of the two out",
        )


def _refuse_lost_weights(
    action: str,
    rows: Mapping[str, tuple[str, Any]],
    context: InferenceContext,
    found: Collection[InferredField],
) -> None:
    """Refuse ``--ptm`` that fills no field: the run would start without it.

    Raises:
        UsageError: no field has it.
    """
    takers = [name for name, row in rows.items() if row[0] in (*OF_PTM, "parent_model_or_ptm")]
    if any(context.value_of(name) == context.ptm for name in takers if name in context.given):
        return
    held = [
        f"{one.field} has the model of {one.note}" for one in found if one.function in OF_PARENT
    ]
    models = [name for name, row in rows.items() if row[0] in OF_PARENT and name in context.given]
    held += [f"{name} is given" for name in models]
    why = f": {', '.join(held)}" if held else ""
    raise UsageError(
        f"the pretrained weights reach no field of {action}{why}",
        field="ptm",
        got=urls.redact(str(context.ptm)),
        expected=f"a field that is open for them ({', '.join(takers)})",
        hint="leave --ptm out, or what is given beside it (--parent, the field of a model)",
    )


def starts_anew(bundle: Bundle, action: str, told: Collection[str] | None) -> list[str]:
    """A notice where the runner sees none of the fields of the checkpoint to go on from: a resumed
    job starts anew.

    Args:
        told: the fields that the command receives; None: all.
    """
    rows = bundle.spec_params.get(action) or {}
    fields = [key for key, row in rows.items() if function_of(row) in OF_RESUME]
    misspelled = bundle.misspelled_fields(action)
    lost = {key: str(misspelled[key].hint) for key in fields if key in misspelled}
    unseen = [key for key in fields if told is not None and key not in told and key not in lost]
    if not fields or {*lost, *unseen} != {*fields}:
        return []
    reasons = [
        f"spec_params.{action}.{key} names a field that is not there ({hint})"
        for key, hint in lost.items()
    ]
    reasons += [f"the command does not receive {key}" for key in unseen]
    return [f"a resumed job of {action} would start anew: {'; '.join(reasons)}"]


_NUMBERS = {"integer", "number", "boolean", "null"}
_NO_PATH = ("key", "verbose", "resume_model_bool", "from_csv", "assign_const_value")


def misplaced(
    action: str, bundle: Bundle, own: Mapping[str, Any], fields: Mapping[str, Any]
) -> list[MaeError]:
    """The fields of sections and of numbers that the bundle says to fill with a path or with data:
    the runner would lose them. A field with a type in the schema is judged there.

    Args:
        own: the bundle's own spec.
        fields: the schema nodes of the fields.
    """
    paths = {
        f"spec_params.{action}.{name}": name
        for name, row in (bundle.spec_params.get(action) or {}).items()
        if _parse(name, row)[0] in {*FUNCTIONS, CREATE, LINK} - {*_NO_PATH}
    }
    entry = bundle.action(action)
    for table in ("inputs", "outputs"):
        files_ = entry.get(table)
        for name in files_ if isinstance(files_, Mapping) else ():
            paths[f"actions.{action}.{table}.{name}"] = str(name)
    data = {f"data_sources.{action}.{name}": name for name in bundle.data_rows(action)}
    found: list[MaeError] = []
    for where, name in {**paths, **data}.items():
        here = get_dotted(own, name)
        is_section = isinstance(here, Mapping) and bool(here) and where in paths
        types = accepted_types(fields.get(name, {}))
        is_input = where.startswith(f"actions.{action}.inputs.")
        if is_input and (types or is_section):  # what is open in a section must be given
            if name not in bundle.data_rows(action) and types and {*types} <= _NUMBERS:
                found.append(
                    SpecError(
                        "an input is a file or a folder, and this field holds a number or a flag",
                        field=where,
                        got=here,
                        expected="the key of a field that holds a path",
                    )
                )
            continue
        if types or not (is_section or isinstance(here, (int, float))):
            continue
        kind = "true or false" if isinstance(here, bool) else "a number"
        kind = "a section" if is_section else kind
        found.append(
            SpecError(
                f"a path would replace {kind} of the bundle's own spec",
                field=where,
                got=dict(here) if is_section else here,
                expected="the key of a field that holds a path",
            )
        )
    return found


def own_folders(
    action: str, bundle: Bundle, spec_params: Mapping[str, Any] | None = None
) -> set[str]:
    """The fields of an action that hold a folder of its job's results, whatever is given."""
    rows = (bundle.spec_params.get(action) or {}) if spec_params is None else spec_params
    entry = bundle.action(action)
    outputs = entry.get("outputs") if entry.get("mode") != "passthrough" else None
    folders = (
        str(key)
        for key, row in (outputs.items() if isinstance(outputs, Mapping) else ())
        if not is_output_file(str(key), row)
    )
    return {*folders, *(key for key, function in rows.items() if function == "output_dir")}


def read_and_written(
    action: str, bundle: Bundle, folders: Collection[str], given: Collection[str]
) -> list[MaeError]:
    """The fields that hold a folder of results and are read as well: the job's own folder would
    stand where the data should.

    An input that nobody gives may be such a folder, and data that the action can do without. A
    file that is read and written is the person's.

    Args:
        folders: the fields that hold a folder of this job's results.
        given: the fields that a person or a source gives.
    """
    spared = optional_fields(bundle, action)
    rows = bundle.data_rows(action).items()
    data = {key: row for key, row in rows if isinstance(row, Mapping) and row.get("source")}
    entry = bundle.action(action)
    inputs, outputs = (
        table if isinstance(table := entry.get(name), Mapping) else {}
        for name in ("inputs", "outputs")
    )
    of_results = ("results_dir", "output_dir")
    read_too = {*data, *(key for key in inputs if key.rsplit(".", 1)[-1] not in of_results)}
    found: list[MaeError] = []
    for key in sorted(folders):
        is_needed = key in data and key not in spared and not data[key].get("when")
        if not is_needed and not (key in given and key in read_too):
            continue
        table = f"actions.{action}.outputs" if key in outputs else f"spec_params.{action}"
        read = f"data_sources.{action}" if key in data else f"actions.{action}.inputs"
        found.append(
            SpecError(
                "the bundle has this field as a folder of results and as something to read "
                f"({read}): the job's own folder would stand in the place of what is read",
                field=f"{table}.{key}",
                got=key,
                expected="one field for what is read and another for what is written",
                hint="mend the bundle: take the field out of one of the two tables",
            )
        )
    return found


def normalization(
    found: list[InferredField],
    given: Collection[str],
    fields: Collection[str],
    channels: int | None,
) -> list[InferredField]:
    """Mean and deviation of the pictures that pretrained weights were trained on, where the folder
    of the weights says them, for RGB or as many channels as the run's.

    Args:
        given: dotted keys that are settled already.
        fields: dotted keys that the schema has.
        channels: of the run's pictures; None: RGB.
    """
    weights = next((item for item in found if item.function in OF_PTM), None)
    if weights is None:
        return []
    values = config.normalization(Path(str(weights.value)))
    return [
        InferredField(
            key, weights.function, list(values[word]), f"of the weights' {values['file']}"
        )
        for key, word in _PICTURES.items()
        if len(values.get(word, ())) in (3, channels) and key in fields and key not in given
    ]


ARCH = "model.arch"


def preparation(
    action: str, layers: Layers, filled: Mapping[str, Any] | None = None
) -> list[InferredField]:
    """What follows from other fields where nobody says otherwise: the number of classes from a
    list of their values; what somebody else's model is, and how its pictures are prepared, where
    its folder says so.

    Args:
        filled: dotted keys that other functions filled → values.
    """
    return [*of_mask_values(action, layers), *_of_weights(action, layers, filled)]


def of_mask_values(action: str, layers: Layers) -> list[InferredField]:
    """As many classes as a list of their values in the masks, where nobody says how many."""
    listed = value_of(layers, MASK_VALUES) if action == "train" else None
    settled = layers.given | flatten(layers.recipe).keys() | flatten(layers.parent).keys()
    if not isinstance(listed, list) or len(listed) < 2 or CLASSES in settled:
        return []
    if value_of(layers, "model.task") != "segmentation":
        return []
    return [InferredField(CLASSES, "mask_values", len(listed), f"one for each of {MASK_VALUES}")]


def _of_weights(
    action: str, layers: Layers, filled: Mapping[str, Any] | None
) -> list[InferredField]:
    key, fields = TAKES_WEIGHTS.get(action, ""), field_nodes(layers.schema)
    path = (filled or {}).get(key) or value_of(layers, key)
    if key not in fields or not isinstance(path, str) or "://" in path:
        return []
    if not (file := Path(path).expanduser()).exists():
        return []
    settled = layers.given | set(flatten(layers.parent))
    channels = value_of(layers, "dataset.channels")
    found = []
    shape = {} if action == "train" else config.model_settings(file)
    arch = value_of(layers, ARCH) if ARCH in settled else None
    if arch not in (None, shape.get(ARCH)):  # who names another one describes its shape
        shape = {one: shape[one] for one in ("train.stage", "model.num_classes") if one in shape}
    found += [
        InferredField(field, "ptm", value, f"of the weights' {config.CONFIG} ({key})")
        for field, value in shape.items()
        if field in fields and field not in settled
    ]
    for word, (value, source) in config.preparation(file).items():
        field = f"dataset.augmentation.{word}"
        if field not in fields or field in settled:
            continue
        if word in ("mean", "std"):
            if len(value) not in (3, channels):
                continue
        elif action == "train":  # trained on, they may see pictures of another size
            continue
        if word == "input_size" and value[0] == value[1]:
            value = value[0]
        found.append(InferredField(field, "ptm", value, f"of the weights' {source} ({key})"))
    return found


def value_of(layers: Layers, key: str) -> Any:
    """The value that the layers have for a field, by its dotted key, so far."""
    stacked = (
        layers.overrides,
        layers.shorthand,
        layers.data,
        layers.spec_file,
        layers.template or layers.schema.get("default") or {},
    )
    found = (get_dotted(layer, key) for layer in stacked)
    return next((value for value in found if value is not None), None)


def _apart(made: InferredField, taken: set[str]) -> InferredField:
    """A file of its own for each field: two of one kind are named after their fields."""
    path = PurePosixPath(str(made.value))
    if str(path) in taken:
        last = made.field.rsplit(".", 1)[-1].removesuffix("_file")
        path = path.with_name(f"{last}{path.suffix}")
    taken.add(str(path))
    return replace(made, value=str(path))


def results_fields(
    action: str, outputs: Any, context: InferenceContext, filled: Collection[str]
) -> list[InferredField]:
    """The fields of an action's ``outputs``: what a run writes goes into the job's folder.

    A file that the user names is left alone, a folder is not: a job's results are in its folder.
    """
    found: list[InferredField] = []
    for key, row in outputs.items() if isinstance(outputs, Mapping) else ():
        name = str(key)
        last = name.rsplit(".", 1)[-1].replace("-", "_")
        is_file = is_output_file(name, row)
        if name in filled or (is_file and name in context.given):
            continue
        value = Path(context.results_dir)
        if is_file:
            value = value / action / _file_name(last, context.value_of(name))
        elif last not in ("results_dir", "output_dir") or "." in name:
            value = value / action
        found.append(InferredField(name, "output", str(value), "written by this job"))
    return found


def kept_inside(
    action: str, spec_params: Mapping[str, Any], outputs: Any, context: InferenceContext
) -> tuple[dict[str, Any], list[InferredField]]:
    """The mappings without the constants that would lead an output elsewhere, and the files among
    these in the job's folder; what is not used is said. A reference stays.
    """
    rows, found = dict(spec_params), []
    for key, row in outputs.items() if isinstance(outputs, Mapping) else ():
        name = str(key)
        function, constant = _parse(name, rows[name]) if name in rows else ("", None)
        if function not in (CONSTANT, "assign_const_value") or not isinstance(constant, str):
            continue
        if has_reference(constant) or name in context.given:
            continue
        if meant(constant) is not None:  # refused as what it is
            continue
        del rows[name]
        said = "a job writes into its own folder"
        context.notices.append(f"spec_params.{action}.{name}: {constant} is not used: {said}")
        if is_output_file(name, row) and (last := PurePosixPath(constant).name):
            value = str(Path(context.results_dir) / action / last)
            found.append(InferredField(name, "output", value, "written by this job"))
    return rows, found


def is_output_file(name: str, row: Any) -> bool:
    """Whether an output is a file: by its type, else by the last word of the field."""
    kind = row.get("type") if isinstance(row, Mapping) else None
    return kind == "file" or (kind is None and name.endswith("file"))


def _file_name(last: str, present: Any) -> str:
    """The name of an output file: what the template calls it, else by the field's last word."""
    if isinstance(present, str) and PurePosixPath(present).suffix and present != NOT_GIVEN:
        return PurePosixPath(present).name
    for word, name in (
        ("onnx", "model.onnx"),
        ("engine", "model.engine"),
        ("cal_cache", "cal.bin"),
        ("pruned", "model.pth"),
        ("checkpoint", "model.pth"),
        ("model", "model.pth"),
    ):
        if word in last:
            return name
    return last


def model_fields(spec_params: Mapping[str, Any]) -> set[str]:
    """The fields of which a parent's model fills one."""
    return {name for name, row in spec_params.items() if _parse(name, row)[0] in OF_PARENT}


def takes_model(bundle: Bundle, action: str, kind: str) -> bool:
    """Whether an action takes a parent that left a model of this kind."""
    rows = model_fields(bundle.spec_params.get(action) or {})
    kinds = kinds_taken(bundle, action)
    engine_beside = any(_takes(name, kinds) == ENGINE for name in rows)
    return any(_accepts(name, kind, kinds, engine_beside) for name in rows)


def kinds_taken(bundle: Bundle, action: str) -> dict[str, str]:
    """Field → the kind of model that it takes from a parent, of those whose last word does not say
    it and the bundle's files do: the file that the action's template names there, a section of the
    field called ``onnx``, or what another action makes in a field of that name.
    """
    template: Mapping[str, Any] = {}
    with contextlib.suppress(MaeError):
        template = bundle.template(action)
    found: dict[str, str] = {}
    for name in model_fields(bundle.spec_params.get(action) or {}):
        if _takes(name, {}) != CHECKPOINT:
            continue
        *sections, last = name.split(".")
        named = artifact_kind(str(get_dotted(template, name) or ""))
        made = {kind for other in bundle.actions if (kind := _made_as(bundle, other, last))}
        if named is not None:
            found[name] = named
        elif "onnx" in (section.lower() for section in sections if section != action):
            found[name] = ONNX
        elif len(made) == 1:
            found[name] = made.pop()
    return found


def _made_as(bundle: Bundle, action: str, last: str) -> str | None:
    """The kind of model that an action makes in a field with this last word; None where it makes
    none there, or its files do not say which."""
    if action in bundle.broken:
        return None
    for name, row in (bundle.spec_params.get(action) or {}).items():
        made = _created(function_of(row)) if name.rsplit(".", 1)[-1] == last else None
        if made is not None:
            return artifact_kind(made)
    entry = bundle.action(action)
    outputs = entry.get("outputs")
    for name in outputs if isinstance(outputs, Mapping) else ():
        if str(name).rsplit(".", 1)[-1] == last:
            return artifact_kind(str(entry.get("result") or ""))
    return None


def check_policy(policy: str | None, parent: ParentInfo | None) -> None:
    """Refuse a checkpoint policy, other than the default, that has nothing to choose among.

    Raises:
        UsageError: there is no parent, or it left no checkpoints; or the policy is unknown.
    """
    if policy is None:
        return
    kind = parse_policy(policy)[0]
    if parent is not None and (kind == "best" or parent.kind == CHECKPOINT):
        return
    message = "a checkpoint policy without a parent"
    if parent is not None:
        message = f"the parent did {parent.action}, and left no checkpoints to choose among"
    raise UsageError(
        message,
        field="checkpoint",
        got=policy,
        expected="a parent job that trained",
        hint="leave it out, or name the job that trained: --parent JOB",
    )


def _parse(name: str, row: Any) -> tuple[str, Any]:
    """A row as (function, constant): ``"function"``, ``"function,constant"``, ``{function,
    value}``, ``{link, destination_path}``, or a constant alone.

    Raises:
        UsageError: a constant where none belongs.
    """
    constant: Any = None
    if isinstance(row, Mapping):
        if "link" in row:
            return LINK, dict(row)
        if "function" not in row:
            return CONSTANT, dict(row)
        function, constant = str(row.get("function")), row.get("value")
        has_constant = "value" in row
    elif not isinstance(row, str):
        return CONSTANT, row
    else:
        function, comma, text = (part.strip() for part in row.partition(","))
        has_constant = bool(comma)
        if has_constant:
            from mae_skill.reader import parse_value

            constant = parse_value(text)
    function = _SAME.get(function, function)
    if function not in FUNCTIONS:
        if (file := _created(function)) is not None:
            return CREATE, (function, file)
        known = function if has_constant or _LIKE_A_FUNCTION.fullmatch(function) else None
        return (UNKNOWN, known) if known is not None else (CONSTANT, row)
    if has_constant != (function == "assign_const_value"):
        hint = "write it as assign_const_value,VALUE" if not has_constant else None
        raise UsageError(
            f"{function} takes {'no' if has_constant else 'a'} constant",
            field=name,
            got=row,
            hint=hint,
        )
    return function, constant


def function_of(row: Any) -> str:
    """The inference function that a row of ``spec_params`` names."""
    word = str(row.get("function")) if isinstance(row, Mapping) else str(row).split(",", 1)[0]
    return _SAME.get(word.strip(), word.strip())


def _created(function: str) -> str | None:
    """The file that a function creates, by its name; None where it creates none."""
    if function in _FILES:
        return _FILES[function]
    for pattern, name in _CREATED:
        if match := pattern.fullmatch(function):
            kind = _SUFFIXES.get(match[1] or "", match[1] or "")
            return name.format(kind, match[2] or "")
    return None


def _takes(name: str, kinds: Mapping[str, str]) -> str:
    """The kind of artifact that a field takes, by its last word, else by what the bundle says."""
    last = name.rsplit(".", 1)[-1].lower()
    by_name = ENGINE if "engine" in last else ONNX if "onnx" in last else CHECKPOINT
    return kinds.get(name, by_name)


def _accepts(name: str, kind: str, kinds: Mapping[str, str], engine_beside: bool) -> bool:
    wanted = _takes(name, kinds)
    return kind == wanted or (wanted == CHECKPOINT and kind == ONNX and engine_beside)


def _wrong_kind(
    action: str, context: InferenceContext, waiting: list[str], engine_beside: bool
) -> UsageError:
    parent = context.parent
    assert parent is not None
    kinds = [
        kind
        for kind in (CHECKPOINT, ONNX, ENGINE)
        if any(
            _accepts(name, kind, context.kinds, engine_beside) or name.endswith("folder")
            for name in waiting
        )
    ]
    left = f"leaves a model of kind {parent.kind}"
    if parent.kind == "none":
        left = "leaves no file that is known as a model, and its bundle states none as its result"
    return UsageError(
        f"{action} cannot start from a job that did {parent.action}: it {left}",
        field="parent_job_id",
        got=parent.id,
        expected="a job that leaves " + " or ".join(kinds),
        hint=_maker(kinds, parent.id, parent.kind) or f"it would fill {', '.join(waiting)}",
    )


def _maker(kinds: list[str], parent: str, kind: str) -> str | None:
    """How a job that leaves one of these kinds comes from a trained one; None where it does not."""
    if kind == CHECKPOINT and kinds == [ONNX]:
        return f"export it first: mae run export --parent {parent}; then name that job as --parent"
    if kinds == [CHECKPOINT]:
        return "name the job that trained the model as --parent"
    return None


def _value(
    name: str, function: str, constant: Any, context: InferenceContext, engine_beside: bool
) -> tuple[InferredField | None, str]:
    """The field as filled, or None, and where its value is from: ``parent``, ``ptm`` or ``""``."""

    def plain(value: Any, note: str) -> tuple[InferredField, str]:
        return InferredField(name, function, value, note), ""

    if function == "key":
        if not context.env.get(ENCRYPTION_VARIABLE):
            return None, ""
        return plain(ENCRYPTION_REFERENCE, f"the variable {ENCRYPTION_VARIABLE}, which is set")
    if function == "output_dir":
        return plain(context.results_dir, "the folder of this job")
    if function == CREATE:
        path = Path(context.results_dir) / context.action / constant[1]
        return InferredField(name, constant[0], str(path), "written by this job"), ""
    if function in ("assign_const_value", CONSTANT):
        return plain(constant, "a constant of the bundle")
    if function == "verbose":
        return plain(True, "a constant of the bundle")
    if function == LINK:
        return _linked(name, constant), ""
    if function == UNKNOWN and constant in (context.fields.get(name, {}).get("enum") or ()):
        return plain(constant, "a constant of the bundle")
    if function == UNKNOWN:
        _refuse_if_needed(name, str(constant), context)
        return None, ""
    if function == "from_csv":
        return None, ""
    if function == "resume_model_bool":
        return plain(_resume(context) is not None, "whether this job has a checkpoint")
    resumed = _resume(context) if function in (*OF_RESUME, "ptm_if_no_resume_model") else None
    if resumed is not None:
        return plain(*resumed) if function in OF_RESUME else (None, "")
    if function == "resume_model":
        return None, ""
    if function in OF_PARENT and context.parent is not None:
        return _from_parent(name, function, context, engine_beside)
    if context.ptm and function != "parent_model" and function != "parent_model_folder":
        return _from_ptm(name, function, context), "ptm"
    if function in OF_PTM and context.parent is not None and context.parent.kind == CHECKPOINT:
        return _from_parent(name, function, context, engine_beside)
    return None, ""


def _refuse_misspelled(name: str, row: tuple[str, Any], context: InferenceContext) -> None:
    """Refuse a word that is an inference function but for its spelling.

    Raises:
        SpecError: it is one.
    """
    function, word = row
    if function not in (CONSTANT, UNKNOWN) or not isinstance(word, str):
        return
    near = meant(word, name)
    if near is None or word in (context.fields.get(name, {}).get("enum") or ()):
        return
    raise SpecError(
        "a misspelled inference function would be taken for the value itself",
        field=f"spec_params.{context.action}.{name}",
        got=word,
        expected=f"the word of an inference function, such as {near}, or a constant",
        hint=f"did you mean {near}? A constant is written as assign_const_value,{word}",
    )


def meant(word: str, field: str = "") -> str | None:
    """The inference function that a word means, which is none itself; None where it is like none.

    A word in capitals, with other marks between its parts or none, or with a letter or two wrong. A
    word of three letters is like many: it means what its field is called like.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", word):
        return None
    plain = re.sub(r"[\W_]+", "_", word.lower())
    if plain != word and _created(plain) is not None:
        return plain
    last = field.rpartition(".")[2].lower()
    for function, called in _OF_FIELDS.items():
        if word != function and slips(plain, function) <= 1 and re.search(called, last):
            return function
    known = [one for one in (*FUNCTIONS, *_SAME, *_FILES, *_USUAL) if "_" in one]
    joined = plain.replace("_", "")
    same = (one for one in known if one.replace("_", "") == joined)
    return next(same, None) or next((one for one in known if is_slip(plain, one)), None)


def _refuse_if_needed(name: str, function: str, context: InferenceContext) -> None:
    """Refuse an unknown function whose field has no value yet.

    Raises:
        UsageError: it has none.
    """
    value = context.value_of(name)
    if value in (None, "", NOT_GIVEN):
        raise UsageError(
            "unknown inference function",
            field=name,
            got=function,
            expected=f"{name}=VALUE, or one of {', '.join(sorted(FUNCTIONS))}",
        )
    context.notices.append(f"{name} keeps {value!r}: the inference function {function} is unknown")


def _linked(name: str, row: Mapping[str, Any]) -> InferredField:
    """A file behind a URL of the bundle; nothing is asked of the URL before a launch.

    Raises:
        UsageError: it is no URL.
    """
    link = str(row.get("link"))
    if not urls.is_remote(link):
        raise UsageError("not a URL", field=name, got=link, expected="https://… or s3://…")
    urls.check(link)
    file = PurePosixPath(str(row.get("destination_path") or "")).name or urls.name_of(link)
    mark = hashlib.sha256(urls.unsigned(link).encode()).hexdigest()[:16]
    path = (files.cache_home() / "pretrained").resolve() / mark / file
    needs: tuple[tuple[str, Path, str | None], ...] = (
        () if path.is_file() else ((link, path, None),)
    )
    note = (
        f"{urls.redact(link)}, fetched at the launch" if needs else f"{urls.redact(link)}, cached"
    )
    return InferredField(name, LINK, str(path), note, needs)


def _from_parent(
    name: str, function: str, context: InferenceContext, engine_beside: bool
) -> tuple[InferredField | None, str]:
    parent = context.parent
    assert parent is not None
    if function == "parent_model_folder":
        if parent.kind == "none":
            return None, ""
        made = parent.folder()
    else:
        kind = CHECKPOINT if function in OF_PTM else parent.kind
        if parent.kind != kind or not _accepts(name, kind, context.kinds, engine_beside):
            return None, ""
        made = parent.model(context.checkpoint, context.forms.get(name))
    of = f"job {parent.id}" + (
        f", the best child of {parent.resolved_from}" if parent.resolved_from else ""
    )
    return InferredField(
        name, function, str(made.path), f"{of}: {made.reason}", made.needs
    ), "parent"


def _resume(context: InferenceContext) -> tuple[str, str] | None:
    """The newest checkpoint of the current job, and what was passed over to get there; None while
    there is none.
    """
    if context.job_dir is None:
        return None
    index = CheckpointIndex(context.job_dir / context.action)
    if not index.read()["checkpoints"]:
        newest = newest_in(context.job_dir, context.action)
        return None if newest is None else (str(newest), "this job's own checkpoint, by its name")
    choice = index.choose("latest")
    note = "; ".join([f"this job's own checkpoint ({choice.reason})", *choice.notices])
    return str(index.train_dir / str(choice.entry["file"])), note


def _from_ptm(name: str, function: str, context: InferenceContext) -> InferredField:
    """Pretrained weights by path or URL, or of the model hub; of another bundle by a name that its
    runner may know.

    Raises:
        NotFoundError: there is no such file.
        MaeError: as `hub.locate`.
    """
    ptm = str(context.ptm)
    if hub.is_reference(ptm):
        model = hub.locate(ptm)
        note = f"the weights of {model.repo} on the model hub, commit {model.commit[:12]}"
        return InferredField(name, function, str(model.path), note, model.needs)
    if not urls.is_remote(ptm):
        path = urls.local_path(ptm).absolute()
        if not path.exists() and context.by_name and re.fullmatch(r"[\w-]+", ptm):
            context.notices.append(
                f"there is no file {ptm}: {name} gets it as a name of pretrained weights, which "
                "its runner must know"
            )
            return InferredField(name, function, ptm, "the name of pretrained weights")
        if not path.exists():
            raise NotFoundError(
                "the pretrained model does not exist",
                field="ptm",
                got=ptm,
                expected="a file, a folder that holds one, a URL of a file, or hf://ORG/NAME",
                hint="check the path: a relative one begins where the command runs",
            )
        return InferredField(name, function, str(path), "the pretrained weights that were named")
    from mae_sdk.storage import transfer

    found = transfer.info(ptm)
    mark = f"{urls.unsigned(ptm)}\0{found['etag']}\0{found['size']}\0{found['mtime']}"
    base = files.cache_home() / "pretrained"
    path = base.resolve() / hashlib.sha256(mark.encode()).hexdigest()[:16] / urls.name_of(ptm)
    needs: tuple[tuple[str, Path, str | None], ...] = () if path.is_file() else ((ptm, path, None),)
    return InferredField(
        name, function, str(path), f"the pretrained weights at {urls.redact(ptm)}", needs
    )
