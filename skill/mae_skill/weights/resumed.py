"""What a checkpoint must be for a run to go on from it, decided alike by the plan and the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.dotted import get_dotted
from mae_skill.errors import CheckpointError
from mae_skill.weights.config import DESCRIPTION

FIELD = "train.resume_training_checkpoint_path"
_START = "train.pretrained_model_path"


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
    return None
