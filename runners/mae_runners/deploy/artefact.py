"""Which artefact an action is about, and whether the spec and the artefact agree on what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mae_skill.errors import MaeError, SpecError, UsageError

from mae_runners.deploy.runtimes import open_runtime


def choose_path(section: Any, action: str) -> Path:
    """``<action>.trt_engine`` or ``<action>.checkpoint``, whichever is set.

    Raises:
        SpecError: neither is set, or both are.
    """
    engine, checkpoint = section.trt_engine, section.checkpoint
    if engine and checkpoint:
        raise SpecError(
            "a checkpoint and an engine are both named",
            field=f"{action}.trt_engine",
            got=str(engine),
            expected="one of the two",
            hint=f"clear {action}.checkpoint or {action}.trt_engine",
        )
    if not engine and not checkpoint:
        raise SpecError(
            "there is no model to run",
            field=f"{action}.checkpoint",
            expected="a .pth checkpoint or an .onnx file; or an engine in trt_engine",
            hint=f"set {action}.checkpoint=PATH, or give the job a parent",
        )
    return Path(engine or checkpoint)


def open_artefact(spec: Any, context: Any, action: str) -> Any:
    """The runtime for an action's artefact, checked against what the spec says of it."""
    runtime = open_runtime(
        choose_path(getattr(spec, action), action), context.device, context.encryption_key
    )
    check_agreement(spec, context.provenance, runtime.meta, f"{action}.checkpoint")
    return runtime


def check_agreement(spec: Any, provenance: dict[str, Any], meta: Any, field: str) -> None:
    """Refuses a spec whose explicit values contradict the artefact; defaults give way to it.

    Raises:
        SpecError: all contradictions, together.
    """
    size = spec.dataset.augmentation.input_size
    pairs: list[tuple[str, Any, Any]] = [
        ("model.arch", spec.model.arch, meta.arch),
        ("train.stage", spec.train.stage, meta.stage),
        (
            "dataset.augmentation.input_size",
            [size, size] if isinstance(size, int) else list(size),
            list(meta.input_size),
        ),
        ("dataset.augmentation.mean", list(spec.dataset.augmentation.mean), list(meta.mean)),
        ("dataset.augmentation.std", list(spec.dataset.augmentation.std), list(meta.std)),
    ]
    if meta.stage == "finetune":
        pairs.append(("model.task", spec.model.task, meta.task))
    if meta.num_classes is not None:
        pairs.append(("model.num_classes", spec.model.num_classes, meta.num_classes))
    problems: list[MaeError] = [
        SpecError(
            f"contradicts {field}",
            field=name,
            got=wanted,
            expected=str(actual),
            hint="leave it out: it is taken from the artefact itself",
        )
        for name, wanted, actual in pairs
        if wanted != actual and is_explicit(provenance, name)
    ]
    if problems:
        raise SpecError("the spec contradicts the artefact", problems=problems)


def is_explicit(provenance: dict[str, Any], name: str) -> bool:
    """Whether somebody asked for the value of a field; a list or section is explicit when any part of it is."""
    origins = [
        origin
        for key, origin in provenance.items()
        if key == name or key.startswith((f"{name}.", f"{name}["))
    ]
    return any(origin_name(origin) not in ("default", "template") for origin in origins)


def origin_name(origin: Any) -> str:
    """The kind of an entry of provenance, which is a word or an object with ``origin``, ``kind`` or ``source``."""
    for attribute in ("origin", "kind", "source", "name"):
        if hasattr(origin, attribute):
            return str(getattr(origin, attribute))
    if isinstance(origin, dict):
        return str(origin.get("origin", origin.get("kind", "")))
    return str(origin)


def need_source(spec: Any, name: str, action: str) -> Any:
    """A data source of the spec.

    Raises:
        SpecError: it is empty; an empty source never means everything.
    """
    sources = getattr(spec.dataset, name)
    if not sources:
        raise SpecError(
            f"{action} needs images",
            field=f"dataset.{name}",
            got=sources,
            expected="a folder or an archive, local or remote, or a list",
        )
    return sources


def batch_size(section: Any, spec: Any) -> int:
    """The action's batch size; -1 = ``dataset.batch_size``."""
    return int(section.batch_size) if int(section.batch_size) > 0 else int(spec.dataset.batch_size)


def class_names(meta: Any, dataset_classes: list[str] | None) -> list[str]:
    """Class names in the order of the logits: the artefact's own, else the data's.

    Raises:
        UsageError: the data's classes are not as many as the logits.
    """
    if meta.classes:
        return list(meta.classes)
    names = list(dataset_classes or [])
    if names and len(names) != meta.num_classes:
        raise UsageError(
            "the data has another number of classes than the model",
            field="model.num_classes",
            got=len(names),
            expected=str(meta.num_classes),
        )
    return names or [str(index) for index in range(meta.num_classes)]
