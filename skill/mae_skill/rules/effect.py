"""Settings that have no effect under the spec that they are part of."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from mae_skill.archs import hw
from mae_skill.bundle import Bundle
from mae_skill.conditions import acts
from mae_skill.dotted import field_nodes
from mae_skill.origin import OriginKind
from mae_skill.rules.base import Case, Rule


def no_effect(case: Case) -> None:
    """Warn about fields that somebody set and that apply nowhere in this spec."""
    sections = {case.action, "model", "dataset", "train", "wandb", "mlflow"}
    of_the_model = {
        key for key in ("model.arch", "model.task", "train.stage") if not case.known(key)
    }
    for key, (conditions, default) in conditional_fields().items():
        section = key.split(".")[0]
        if section not in sections or not case.given(key) or case(key) == default:
            continue
        if case.action != "train" and section != case.action:
            continue  # other actions are handed whole specs on purpose
        why = acts(conditions, case.spec, of_the_model)
        if why:
            case.warn(key, f"has no effect: {why}")


def not_here(case: Case) -> None:
    """Warn about pictures that somebody chose on this command line for an action that does not;
    a spec file is handed to every action as it is."""
    fields = {
        "dataset.train_fraction": ("train",),
        "dataset.val_fraction": ("train",),
        "dataset.classes": ("train", "evaluate"),
    }
    for key, actions in fields.items():
        by_hand = case.origin(key) in (OriginKind.OVERRIDE, OriginKind.SHORTHAND)
        if case.action not in actions and by_hand and case(key) is not None:
            listed = " and ".join(actions)
            case.warn(key, f"has no effect in {case.action}: it acts in {listed}")


ONLY_TRAINING = (
    *("train.optim.", "train.early_stopping.", "train.num_epochs", "train.freeze", "train.loss"),
    *("train.class_weights", "train.clip_grad_norm", "train.ema_decay", "train.focal_gamma"),
    *("train.checkpoint_interval", "train.keep_checkpoints", "train.accum_grad_batches"),
)
"""How the names begin of fields that no other action reads."""


def of_training(case: Case) -> None:
    """Warn about settings of a training on the command line of another action."""
    for key in case.provenance:
        by_hand = case.origin(key) in (OriginKind.OVERRIDE, OriginKind.SHORTHAND)
        if case.action != "train" and by_hand and key.startswith(ONLY_TRAINING):
            case.warn(key, f"has no effect in {case.action}: it acts in train")


def wide_stride(case: Case) -> None:
    """A window slides by at most its size."""
    key = f"{case.action}.segmentation.stride"
    size = case.facts.model.get("input_size") or case("dataset.augmentation.input_size")
    asked, slides = case(key), case(f"{case.action}.segmentation.window") == "slide"
    if asked and size and slides and case.given(key) and asked > max(hw(size)):
        largest = max(hw(size))
        case.warn(key, f"{asked} is more than the window of {largest} pixels, and counts as that")


OPEN = {"min_cosine": 0.5, "min_top1_agreement": 0.5, "max_abs": 10.0}
"""Limits of a gate beyond which it lets through what is not the model any more."""


def open_gate(case: Case) -> None:
    """The gate between an export and its model keeps something out."""
    for name, limit in OPEN.items():
        key = f"{case.action}.parity.{name}"
        value = case(key)
        if value is not None and (value > limit if name == "max_abs" else value < limit):
            case.warn(
                key,
                f"{value:g} lets nearly any output pass: the gate does not tell a broken file from "
                "a good one; leave it out for the limit of the precision",
            )


@functools.cache
def conditional_fields() -> dict[str, tuple[Mapping[str, Any], Any]]:
    """Dotted key → (conditions, default) of every field that applies only sometimes."""
    fields = field_nodes(Bundle.load().schema("train"))
    return {
        key: (node["applies_when"], node.get("default"))
        for key, node in fields.items()
        if node.get("applies_when")
    }


RULES = [
    Rule(no_effect),
    Rule(not_here),
    Rule(of_training),
    Rule(wide_stride, ("evaluate", "inference")),
    Rule(open_gate, ("export", "gen_trt_engine")),
]
