"""A spec against the model that it names: what the model's file says of itself cannot be otherwise.

A model of this project says what it is; what the spec has as a mere default gives way to it, and
what somebody set must agree. The runner asks `disagreements` of the model that it has opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mae_skill.archs import ARCHS, Arch, hw, per_channel, with_patch
from mae_skill.dotted import get_dotted
from mae_skill.errors import SpecError
from mae_skill.mask_meaning import MASK_VALUES, REDUCE_ZERO, set_for_run
from mae_skill.origin import Origin, OriginKind, is_explicit
from mae_skill.rules.base import Case, Rule

PICTURES = "dataset.augmentation"
RANGE = "dataset.value_range"
CROP = f"{PICTURES}.center_crop"
FILTER = f"{PICTURES}.eval_interpolation"
HINTS = {
    REDUCE_ZERO: "leave it out: masks are read as in the training of the model; of masks that are "
    f"numbered otherwise, set {MASK_VALUES} to the value of each class in them"
}
"""How a contradiction is mended, where leaving the field out may not be enough."""

_FOLLOWS = {
    "model.task": ("dataset.segmentation", "model.num_classes"),
    "train.stage": ("dataset.segmentation", "model.num_classes", "model.task"),
    REDUCE_ZERO: ("model.num_classes", "dataset.segmentation.ignore_index"),
}
"""What is wrong too where a field is not what the model was made with: the data is read for it."""

_DECODER = (
    "decoder_depth",
    "decoder_embed_dim",
    "decoder_num_heads",
    "decoder_mlp_ratio",
    "decoder_type",
)


def disagreements(
    spec: Mapping[str, Any], provenance: Mapping[str, Origin], said: Mapping[str, Any], field: str
) -> list[SpecError]:
    """An error for every value that somebody set and that the model is not.

    Args:
        said: what the model says of itself, as the ``mae`` entry of a checkpoint and the
            description of an export do; what it leaves out is not judged.
        field: the field that names the model.
    """
    if said.get("arch") not in ARCHS:
        return []
    found = [
        SpecError(
            f"the model in {field} was made with another value",
            field=name,
            got=wanted,
            expected=str(actual),
            hint=_of_parent(provenance, name, field)
            or HINTS.get(name)
            or f"leave {name} out: it is taken from the model; or name another model",
        )
        for name, wanted, actual in pairs(spec, said)
        if wanted != actual and is_explicit(provenance, name)
    ]
    of_parent = [error for error in found if _of_parent(provenance, str(error.field), field)]
    found = [error for error in found if error not in of_parent[1:]]  # one is enough of two models
    for error in found:
        error.explains = _FOLLOWS.get(str(error.field), ())
    return found


def _of_parent(provenance: Mapping[str, Origin], name: str, field: str) -> str | None:
    """How a contradiction is mended that nobody wrote: a parent and another model are named."""
    origin = provenance.get(name)
    if origin is None or origin.kind is not OriginKind.PARENT:
        return None
    return f"the value is that of the parent job: leave out --parent, or {field}"


def channels_of(said: Mapping[str, Any]) -> int:
    """Channels of a picture, by what a model says of itself."""
    return int(said.get("channels") or (said.get("model") or {}).get("in_chans") or 3)


def pairs(spec: Mapping[str, Any], said: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Field, its value in the spec, the model's, of a model of a known architecture."""
    arch, channels = ARCHS[said["arch"]], channels_of(said)
    shape = said.get("model") or {}
    yield "model.arch", get_dotted(spec, "model.arch"), arch.name
    yield (
        "model.patch_size",
        with_patch(arch, get_dotted(spec, "model.patch_size")).patch,
        with_patch(arch, said.get("patch_size") or shape.get("patch_size")).patch,
    )
    yield from _shapes(spec, arch, said, shape)
    if "stage" in said:
        yield "train.stage", get_dotted(spec, "train.stage"), said["stage"]
    if said.get("stage") == "finetune":
        for name, default in (("task", "classification"), ("multi_label", False)):
            value = get_dotted(spec, f"model.{name}")
            yield f"model.{name}", value, said.get(name, default)
        if said.get("num_classes") is not None:
            yield "model.num_classes", get_dotted(spec, "model.num_classes"), said["num_classes"]

    size = get_dotted(spec, f"{PICTURES}.input_size")
    if said.get("input_size") and size is not None:
        yield f"{PICTURES}.input_size", list(hw(size)), list(said["input_size"])
    for name in ("mean", "std"):
        value = get_dotted(spec, f"{PICTURES}.{name}")
        if said.get(name) and value:
            yield f"{PICTURES}.{name}", per_channel(value, channels), list(said[name])
    yield "dataset.channels", get_dotted(spec, "dataset.channels") or 3, channels
    kept, value = said.get("value_range"), get_dotted(spec, RANGE)
    if "value_range" in said and (value != "auto" or not kept):  # auto: what the model brings
        yield RANGE, value, kept or "dtype"
    if "exif_orientation" in said:
        name = "dataset.exif_orientation"
        yield name, get_dotted(spec, name), said["exif_orientation"]
    listed = get_dotted(spec, MASK_VALUES)
    if said.get("reduce_zero_label") in (True, False) and not listed:
        # Else the same value is another class.
        yield REDUCE_ZERO, get_dotted(spec, REDUCE_ZERO), said["reduce_zero_label"]


def _shapes(
    spec: Mapping[str, Any], arch: Arch, said: Mapping[str, Any], shape: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """The shape of encoder, head and decoder, where the model says it: an export does not."""
    known: dict[str, Any] = {}
    if shape and arch.family == "vit":
        own = {"embed_dim": arch.dims[0], "depth": arch.depths[0], "num_heads": arch.heads[0]}
        known = {**own, "mlp_ratio": arch.mlp_ratio, **_of(shape, *own, "mlp_ratio")}
        if said.get("stage") == "finetune" and said.get("task") != "segmentation":
            known |= _of(shape, "global_pool")
    if said.get("stage") == "pretrain":
        known |= _of(shape, *_DECODER)
    for name, actual in known.items():
        value = get_dotted(spec, f"model.{name}")
        if value is not None:  # null: what the architecture has
            yield f"model.{name}", value, actual


def _otherwise(case: Case, said: Mapping[str, Any]) -> None:
    """Warn where a model is to see pictures otherwise than those that it was validated with."""
    own, asked = said.get("center_crop"), case(CROP)
    classifies = said.get("task") != "segmentation"
    judges = case.action in ("evaluate", "inference") and classifies
    if judges and own and asked and is_explicit(case.provenance, CROP) and asked != own:
        case.warn(
            CROP,
            f"{asked:g} here, and {own:g} in the validation of the model: it sees another part of "
            "each picture, and its figures are others; leave it out for the model's own",
        )
    values, listed = said.get("mask_values"), case(MASK_VALUES)
    if listed and list(listed) != list(values or ()) and set_for_run(case.provenance):
        learned = f"{values} in its training" if values else "the numbers in its training"
        case.warn(
            MASK_VALUES,
            f"the masks of this {case.action} have {list(listed)} for the classes of the model, in "
            f"this order, and {learned}",
        )
    kept, filter = said.get("eval_interpolation") or (own and "bicubic"), case(FILTER)
    if judges and kept and filter and is_explicit(case.provenance, FILTER) and filter != kept:
        case.warn(
            FILTER,
            f"{filter} here, and {kept} in the validation of the model: its figures are others; "
            "leave it out for the model's own",
        )
    size = said.get("input_size")
    if case.action != "export" or not size:
        return
    for side, trained in zip(("height", "width"), hw(size), strict=True):
        key = f"export.input_{side}"
        if case(key) and case(key) != trained:
            case.warn(
                key,
                f"{case(key)} pixels, and {trained} in the training of the model: its figures are "
                f"of {trained}, and may fall at another size; leave it out for the model's own",
            )


def _of(shape: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: shape[name] for name in names if shape.get(name) is not None}


def agrees(case: Case) -> None:
    """What was set agrees with the model that the action takes, where its file is here."""
    said = case.facts.model
    if not said:
        return
    field = f"{case.action}.checkpoint"
    if not case(field) and case(f"{case.action}.trt_engine"):
        field = f"{case.action}.trt_engine"
    case.errors += disagreements(case.spec, case.provenance, said, field)
    _otherwise(case, said)
    name, asked, channels = "export.input_channel", case("export.input_channel"), channels_of(said)
    if case.action == "export" and asked != channels and is_explicit(case.provenance, name):
        case.error(
            name, f"the model in {field} takes other pictures", str(channels), "leave it out"
        )


RULES = [Rule(agrees, ("evaluate", "inference", "export"))]
