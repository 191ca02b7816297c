"""Settings that a job takes over from its parent, as ``inherit`` of the bundle lists them.

A checkpoint knows best what it is: what ``checkpoints.json`` says of it comes before what the
parent's spec says. Explicit values win, but
not over what cannot be otherwise: a value that contradicts the checkpoint is an error. How pictures
are read, their size and normalization, and the values of the masks, may differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError, SpecError

from mae_sdk.jobs.outputs import ParentInfo, outputs_of
from mae_sdk.plan.data import SOURCE_KEY, VAL_FRACTION, Taught, labels_of

TRAINS = SOURCE_KEY["train"]
CHANNELS = "dataset.channels"
MOST_ABOVE = 8
"""Jobs that are looked at above one another: of an engine, its export and its training."""

_MAY_DIFFER = (
    *("channels", "value_range", "exif_orientation"),
    *("input_size", "mean", "std", "center_crop", "eval_interpolation"),
    "mask_values",  # of other masks, whose values are others
)


def settings(action: str, info: Mapping[str, Any], parent: ParentInfo | None) -> dict[str, Any]:
    """Dotted key → inherited value, for the keys that the parent knows anything about."""
    if parent is None:
        return {}
    found = {}
    for key in _keys(action, info):
        value = _of_checkpoint(key, parent)
        stated = _of_spec(key, parent)
        if value is None or _same(value, stated) or (key == CHANNELS and value == 3):
            value = stated  # the same, in the words of the spec
        if value is not None:
            found[key] = _single(value) if key.endswith("input_size") else value
    return found


def contradictions(
    action: str,
    info: Mapping[str, Any],
    parent: ParentInfo | None,
    spec: Mapping[str, Any],
    given: Collection[str],
) -> list[MaeError]:
    """One error for every value that the user set against what the parent's checkpoint is.

    Args:
        spec: the resolved spec of the job to be.  given: the dotted keys that the user set.
    """

    if parent is None:
        return []
    errors: list[MaeError] = []
    for key in _keys(action, info):
        if key not in given or _word(key) in _MAY_DIFFER:
            continue
        value, theirs = get_dotted(spec, key), _of_checkpoint(key, parent)
        if value is not None and theirs is not None and not _same(value, theirs):
            errors.append(
                SpecError(
                    f"the parent job {parent.id} was made with another value",
                    field=key,
                    got=value,
                    expected=str(theirs),
                    hint="leave it out, or take another parent",
                )
            )
    return errors


def taught_by(bundle: Bundle, parent: ParentInfo | None) -> Taught | None:
    """The images that the model of a parent was trained on, where a job that is there says so: the
    parent, or the one that it was exported from."""
    rows = bundle.data_rows("train")
    key = next((key for key, row in rows.items() if row.get("source") == TRAINS), None)
    of_judged = (key for key, row in rows.items() if row.get("source") == SOURCE_KEY["evaluate"])
    judges = next(of_judged, None)
    for _ in range(MOST_ABOVE):
        if key is None or parent is None:
            return None
        if parent.action == "train":
            held_out = get_dotted(parent.spec, VAL_FRACTION) or 0.0
            # A pretraining is judged by its loss, or by probes on images of their own.
            chooses = judges and get_dotted(parent.spec, "train.stage") != "pretrain"
            judged = _named(parent.spec, str(judges)) if chooses else ()
            return Taught(
                parent.id,
                _named(parent.spec, key),
                held_out,
                judged,
                labels_of(rows[key], parent.spec),
                labels_of(rows[judges], parent.spec) if judges else None,
            )
        try:
            parent = outputs_of(parent.above, parent.root.url) if parent.above else None
        except MaeError:
            return None
    return None


def _named(spec: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = get_dotted(spec, key)
    names = value if isinstance(value, list) else [value]
    return tuple(str(name) for name in names if name)


def _keys(action: str, info: Mapping[str, Any]) -> list[str]:
    return [str(key) for key in (info.get("inherit") or {}).get(action) or []]


def _word(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _of_checkpoint(key: str, parent: ParentInfo) -> Any:
    return (parent.checkpoint_meta or {}).get(_word(key))


def _of_spec(key: str, parent: ParentInfo) -> Any:

    return get_dotted(parent.spec, key)


def _same(one: Any, other: Any) -> bool:
    """Equal, where a single side means a square."""
    if isinstance(one, list) != isinstance(other, list):
        one, other = _single(one), _single(other)
    return bool(one == other)


def _single(value: Any) -> Any:
    """``[a, a]`` as ``a``."""
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value
