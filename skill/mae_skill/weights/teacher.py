"""What ViT a teacher's file holds: told from names, shapes and descriptions, so that the plan and
the runner decide by the same function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mae_skill.archs import ARCHS, arch_names, hw, with_patch
from mae_skill.dotted import get_dotted
from mae_skill.errors import CheckpointError, SpecError
from mae_skill.weights.config import describe, own_description
from mae_skill.weights.fit import fit
from mae_skill.weights.names import flatten, guess_arch, translate
from mae_skill.weights.parameters import target_of

FIELD = "train.teacher.checkpoint"
SHARE = 0.75
"""Where in its depth a teacher's features are taken, if nothing else is said: DMAE's."""


class Teacher(NamedTuple):
    """The teacher of a run.

    Attributes:
        model: plain arguments that build it, for the pictures of the run.
        layer: the block whose output is learned, from 1.
        student_layer: the student's block that learns it, from 1.
        summary: what the file gives, in one line.
    """

    model: dict[str, Any]
    layer: int
    student_layer: int
    summary: str

    @property
    def width(self) -> int:
        """Of its features."""
        return int(self.model["embed_dim"])


def teacher_of(contents: Mapping[str, Any], name: str, spec: Mapping[str, Any]) -> Teacher:
    """The teacher in the file ``name`` for the model of a resolved spec.

    Args:
        contents: of the file, with tensors or stubs.

    Raises:
        CheckpointError: it is no ViT with the student's patch and channels, or damaged.
        SpecError: it has no such layer.
    """
    shape = _shape(contents, name)
    arch = with_patch(
        ARCHS[str(get_dotted(spec, "model.arch"))], get_dotted(spec, "model.patch_size")
    )
    channels = int(get_dotted(spec, "dataset.channels") or 3)
    for what, theirs, ours, hint in (
        ("patch", shape["patch_size"], arch.patch, "the grids must agree: set model.patch_size"),
        ("number of channels", shape["in_chans"], channels, "set dataset.channels"),
    ):
        if theirs != ours:
            raise CheckpointError(
                f"the teacher {name} has another {what} than the model that learns from it",
                field=FIELD,
                got=theirs,
                expected=str(ours),
                hint=f"{hint}, or take another teacher",
            )
    depth, layer = int(shape["depth"]), get_dotted(spec, "train.teacher.layer")
    if layer is not None and int(layer) > depth:
        raise SpecError(
            "the teacher has no such block",
            field="train.teacher.layer",
            got=layer,
            expected=f"1 to {depth}",
        )
    layer = int(layer or max(1, round(SHARE * depth)))
    own_depth = int(get_dotted(spec, "model.depth") or arch.depth)
    student_layer = max(1, round(layer / depth * own_depth))

    model = {
        **shape,
        "input_size": list(hw(get_dotted(spec, "dataset.augmentation.input_size"))),
        "num_classes": 1,
        "global_pool": False,
        "drop_path_rate": 0.0,
    }
    found = fit(contents, target_of(_as_spec(model)), name, FIELD)
    if found.refusal is not None:
        raise found.refusal
    taken = f"teacher: ViT of width {shape['embed_dim']}, block {layer} of {depth}"
    taken += f" to block {student_layer} of {own_depth}"
    adapted = f"; adapted: {', '.join(found.adapted)}" if found.adapted else ""
    return Teacher(model, layer, student_layer, taken + adapted)


def _shape(contents: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Architecture, width, depth, heads, patch and channels of the ViT in a file."""
    state = flatten(contents)
    found = translate(state)
    entries = found.entries if found is not None else {}
    embed = entries.get("patch_embed.proj.weight")
    blocks = {key.split(".")[1] for key in entries if key.startswith("blocks.")}
    hidden = entries.get("blocks.0.mlp.fc1.weight")
    square = embed is not None and len(embed.shape) == 4 and "cls_token" in entries
    if found is None or embed is None or hidden is None or not square:
        raise CheckpointError(
            f"{name} is no teacher: it holds no ViT with a class token",
            field=FIELD,
            got=", ".join(sorted({key.split(".")[0] for key in entries})[:8]) or "no backbone",
            expected="the weights of a ViT, one token for each patch",
            hint="take a ViT's weights; the other families mix their patches",
        )
    width, channels, patch = embed.shape[0], embed.shape[1], embed.shape[-1]
    own = (own_description(contents) or {}).get("model")
    own = own if isinstance(own, Mapping) else {}
    said = describe(contents, found.where, width).heads
    guessed = guess_arch({key: recipe.shape for key, recipe in entries.items()})
    arch = own.get("arch") or guessed or _like(width)
    if arch is None or ARCHS[str(arch)].family != "vit":
        arch = "vit_base_patch16"
    heads = own.get("num_heads") or (said[0] if len(said) == 1 else None)
    if heads is None and (own or ARCHS[str(arch)].dims[0] == width):
        heads = ARCHS[str(arch)].heads[0]
    if heads is None:
        raise CheckpointError(
            f"{name} does not say how many attention heads it has",
            field=FIELD,
            got=f"a ViT of width {width}",
            expected="a checkpoint of this project, a folder with a config.json, or a width of "
            + ", ".join(str(ARCHS[one].dims[0]) for one in arch_names("vit")),
        )
    return {
        "arch": str(arch),
        "patch_size": int(patch),
        "in_chans": int(channels),
        "embed_dim": int(width),
        "depth": len(blocks),
        "num_heads": int(heads),
        "mlp_ratio": hidden.shape[0] / width,
    }


def _like(width: int) -> str | None:
    """The ViT of this width: its number of heads is everybody's."""
    return next((name for name in arch_names("vit") if ARCHS[name].dims[0] == width), None)


def _as_spec(model: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a classifier with the teacher's encoder."""
    return {
        "model": {**model, "task": "classification"},
        "train": {"stage": "finetune"},
        "dataset": {
            "channels": model["in_chans"],
            "augmentation": {"input_size": model["input_size"]},
        },
    }
