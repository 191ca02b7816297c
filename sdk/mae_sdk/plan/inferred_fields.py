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
parent_model_or_ptm      the parent's model, else ``--ptm``
create_onnx_file         ``<this job>/<action>/model.onnx``
create_engine_file       ``<this job>/<action>/model.engine``
assign_const_value       its constant: ``assign_const_value,30``, ``{function: …, value: 30}``
=======================  ==========================================================================

A field that ends in a word with "engine" takes an engine, one with "onnx" an ONNX file, any other
a checkpoint; a checkpoint field takes an ONNX file too where the action has an engine field beside
it. So what the parent left decides which one field of an action is filled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_skill.errors import NotFoundError, UsageError
from mae_skill.weights import config

from mae_sdk import files
from mae_sdk.jobs.checkpoints import CheckpointIndex, parse_policy
from mae_sdk.jobs.outputs import CHECKPOINT, ENGINE, ONNX, ParentInfo
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
    "create_onnx_file",
    "create_engine_file",
    "assign_const_value",
)


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


def apply(
    action: str, spec_params: Mapping[str, Any], context: InferenceContext
) -> list[InferredField]:
    """Fill the fields of an action.

    Args:
        spec_params: dotted field → function of that action.

    Raises:
        UsageError: an unknown function or policy; a parent or ``--ptm`` that nothing takes; a
            parent of the wrong kind.
        NotFoundError, CheckpointError: the model that was asked for is not there, or damaged.
    """
    rows = {name: _parse(name, row) for name, row in spec_params.items()}
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
        function in OF_PARENT and _takes(name) == ENGINE for name, (function, _) in rows.items()
    )
    found: list[InferredField] = []
    from_parent = from_ptm = False
    for name, (function, constant) in open_rows.items():
        made, source = _value(name, function, constant, context, engine_beside)
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
    if context.parent is not None and not from_parent:
        if not functions & {*OF_PARENT, *OF_PTM}:
            raise UsageError(
                f"{action} takes no model from a parent job",
                field="parent_job_id",
                got=context.parent.id,
            )
        if waiting and not from_ptm and not resumed:
            raise _wrong_kind(action, context.parent, waiting, engine_beside)
    return found


def normalization(
    found: list[InferredField], given: Collection[str], fields: Collection[str]
) -> list[InferredField]:
    """Mean and deviation of the pictures that pretrained weights were trained on, where the folder
    of the weights says them.

    Args:
        given: dotted keys that are settled already.
        fields: dotted keys that the schema has.
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
        if word in values and key in fields and key not in given
    ]


def model_fields(spec_params: Mapping[str, Any]) -> set[str]:
    """The fields of which a parent's model fills one."""
    return {name for name, row in spec_params.items() if _parse(name, row)[0] in OF_PARENT}


def check_policy(policy: str | None, parent: ParentInfo | None) -> None:
    """Refuse a checkpoint policy, other than the default, that has nothing to choose among.

    Raises:
        UsageError: there is no parent, or it left no checkpoints; or the policy is unknown.
    """
    if (
        policy is None
        or parse_policy(policy)[0] == "best"
        or (parent is not None and parent.kind == CHECKPOINT)
    ):
        return
    message = "a checkpoint policy without a parent"
    if parent is not None:
        message = f"the parent did {parent.action}, and left no checkpoints to choose among"
    raise UsageError(message, field="checkpoint", got=policy, expected="a parent job that trained")


def _parse(name: str, row: Any) -> tuple[str, Any]:
    """``"function"``, ``"function,constant"`` or ``{function, value}`` as (function, constant).

    Raises:
        UsageError: an unknown function, or a constant where none belongs.
    """
    constant: Any = None
    if isinstance(row, Mapping):
        function, constant = str(row.get("function")), row.get("value")
        has_constant = "value" in row
    else:
        function, comma, text = (part.strip() for part in str(row).partition(","))
        has_constant = bool(comma)
        if has_constant:
            from mae_skill.reader import parse_value

            constant = parse_value(text)
    if function not in FUNCTIONS:
        raise UsageError(
            "unknown inference function",
            field=name,
            got=function,
            expected="one of " + ", ".join(sorted(FUNCTIONS)),
        )
    if has_constant != (function == "assign_const_value"):
        hint = "write it as assign_const_value,VALUE" if not has_constant else None
        raise UsageError(
            f"{function} takes {'no' if has_constant else 'a'} constant",
            field=name,
            got=row,
            hint=hint,
        )
    return function, constant


def _takes(name: str) -> str:
    """The kind of artefact that a field takes, by its last word."""
    last = name.rsplit(".", 1)[-1].lower()
    return ENGINE if "engine" in last else ONNX if "onnx" in last else CHECKPOINT


def _accepts(name: str, kind: str, engine_beside: bool) -> bool:
    wanted = _takes(name)
    return kind == wanted or (wanted == CHECKPOINT and kind == ONNX and engine_beside)


def _wrong_kind(
    action: str, parent: ParentInfo, waiting: list[str], engine_beside: bool
) -> UsageError:
    kinds = [
        kind
        for kind in (CHECKPOINT, ONNX, ENGINE)
        if any(_accepts(name, kind, engine_beside) or name.endswith("folder") for name in waiting)
    ]
    left = "leaves no model" if parent.kind == "none" else f"leaves a model of kind {parent.kind}"
    return UsageError(
        f"{action} cannot start from a job that did {parent.action}: it {left}",
        field="parent_job_id",
        got=parent.id,
        expected="a job that leaves " + " or ".join(kinds),
        hint=f"it would fill {', '.join(waiting)}",
    )


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
    if function == "create_onnx_file":
        return plain(
            str(Path(context.results_dir) / context.action / "model.onnx"), "written by this job"
        )
    if function == "create_engine_file":
        return plain(
            str(Path(context.results_dir) / context.action / "model.engine"), "written by this job"
        )
    if function == "assign_const_value":
        return plain(constant, "a constant of the bundle")
    resumed = _resume(context) if function in (*OF_RESUME, "ptm_if_no_resume_model") else None
    if resumed is not None:
        return plain(*resumed) if function in OF_RESUME else (None, "")
    if function == "resume_model":
        return None, ""
    if function in OF_PARENT and context.parent is not None:
        return _from_parent(name, function, context, engine_beside)
    if context.ptm and function != "parent_model" and function != "parent_model_folder":
        return _from_ptm(name, function, context.ptm), "ptm"
    if function in OF_PTM and context.parent is not None and context.parent.kind == CHECKPOINT:
        return _from_parent(name, function, context, engine_beside)
    return None, ""


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
        if parent.kind != kind or not _accepts(name, kind, engine_beside):
            return None, ""
        made = parent.model(context.checkpoint)
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
        return None
    choice = index.choose("latest")
    note = "; ".join([f"this job's own checkpoint ({choice.reason})", *choice.notices])
    return str(index.train_dir / str(choice.entry["file"])), note


def _from_ptm(name: str, function: str, ptm: str) -> InferredField:
    """Pretrained weights by path or URL, or of the model hub.

    Raises:
        NotFoundError: there is no such file.
        MaeError: as `hub.locate`.
    """
    if hub.is_reference(ptm):
        model = hub.locate(ptm)
        note = f"the weights of {model.repo} on the model hub, commit {model.commit[:12]}"
        return InferredField(name, function, str(model.path), note, model.needs)
    if not urls.is_remote(ptm):
        path = urls.local_path(ptm).absolute()
        if not path.exists():
            raise NotFoundError(
                "the pretrained model does not exist",
                field="ptm",
                got=ptm,
                expected="a file, a folder that holds one, a URL of a file, or hf://ORG/NAME",
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
