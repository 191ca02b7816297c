"""Settings that have no effect under the spec that they are part of."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

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


@functools.cache
def conditional_fields() -> dict[str, tuple[Mapping[str, Any], Any]]:
    """Dotted key → (conditions, default) of every field that applies only sometimes."""
    fields = field_nodes(Bundle.load().schema("train"))
    return {
        key: (node["applies_when"], node.get("default"))
        for key, node in fields.items()
        if node.get("applies_when")
    }


RULES = [Rule(no_effect), Rule(not_here)]
