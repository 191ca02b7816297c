"""What a checkpoint must be for a run to go on from it, decided alike by the plan and the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mae_skill.dotted import MISSING, get_dotted
from mae_skill.errors import CheckpointError
from mae_skill.spelling import and_more
from mae_skill.weights.config import DESCRIPTION

FIELD = "train.resume_training_checkpoint_path"
_START = "train.pretrained_model_path"
REFINE = "train.refine.blocks"


def other_run(
    contents: Mapping[str, Any], spec: Mapping[str, Any], name: str
) -> CheckpointError | None:
    """Why no run of ``spec`` can go on from a checkpoint: it holds no position, or is of another
    stage or architecture; None where it can.

    Args:
        contents: of the file, with or without values.
        name: of the file.
    """
    if "position" not in contents:
        return CheckpointError(
            "this checkpoint holds no training position",
            field=FIELD,
            got=name,
            expected="a checkpoint that a run of this project wrote as it trained",
            hint=f"use {_START} to start a new run from its weights",
        )
    found = contents.get(DESCRIPTION)
    meta = found if isinstance(found, Mapping) else {}
    for key, field in (("arch", "model.arch"), ("stage", "train.stage")):
        wanted = get_dotted(spec, field)
        if meta.get(key) != wanted:
            return CheckpointError(
                f"{name} was trained with another {key}",
                field=field,
                got=wanted,
                expected=str(meta.get(key)),
                hint=f"use another results_dir, or start from its weights with {_START}",
            )
    model = meta.get("model")
    refined = bool(isinstance(model, Mapping) and model.get("refine"))
    wanted = get_dotted(spec, REFINE, 0)
    if refined != bool(wanted) and get_dotted(spec, "train.stage") == "pretrain":
        return CheckpointError(
            f"{name} is of a run that {'refined' if refined else 'did not refine'} its encoder",
            field=REFINE,
            got=wanted,
            expected="the blocks that the run was started with" if refined else "0",
            hint=f"use another results_dir, or start from its weights with {_START}",
        )
    return None


def other_classes(contents: Mapping[str, Any], classes: Sequence[str]) -> CheckpointError | None:
    """Why no classifier of `classes` can go on from a checkpoint: its outputs are of other classes,
    or of these in another order; None where they are these, or it names none."""
    found = contents.get(DESCRIPTION)
    before = list((found if isinstance(found, Mapping) else {}).get("classes") or classes)
    if before == list(classes):
        return None
    same = sorted(before) == sorted(classes)
    place = next(
        (at for at, pair in enumerate(zip(before, classes, strict=False)) if pair[0] != pair[1]),
        min(len(before), len(classes)),
    )
    what = "in another order" if same else f"others from output {place} on"
    shown = json.dumps(before, ensure_ascii=False)
    hint = f"start a new run from its weights with {_START}"
    return CheckpointError(
        f"the classes of the training data are not those of the checkpoint: {what}",
        field=FIELD,
        got=list(classes)[:_SHOWN],
        expected=", ".join(before[:_SHOWN]) + (" …" if len(before) > _SHOWN else ""),
        hint=f"dataset.classes={shown} gives this order; or {hint}" if same else hint,
    )


def changed(contents: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key → (value of the checkpoint's run, value now), of what decides what is trained."""
    identity = contents.get("identity")
    before = identity if isinstance(identity, Mapping) else {}
    now = {key: get_dotted(spec, str(key), MISSING) for key in before}
    return {
        str(key): (value, now[key])
        for key, value in sorted(before.items())
        if now[key] is not MISSING and now[key] != value
    }


def said_of(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """The warning that a run goes on under other settings."""
    shown = [
        f"{key} {json.dumps(then, default=str)} → {json.dumps(now, default=str)}"
        for key, (then, now) in changes.items()
    ]
    return f"goes on under other settings than the checkpoint's run: {and_more(shown, _SHOWN)}"


def is_over(contents: Mapping[str, Any], epochs: Any) -> bool:
    """Whether a run of so many epochs has nothing left to train."""
    position = contents.get("position")
    done = position.get("epoch") if isinstance(position, Mapping) else None
    return isinstance(done, int) and isinstance(epochs, int) and done >= epochs


_SHOWN = 8
