"""What the schemas cannot say: rules between fields, sizes that fit, settings without effect.

The bundle's ``validator:`` entry point is `check_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.errors import DataError, MaeError
from mae_skill.origin import Origin
from mae_skill.rules import (
    agreement,
    contents,
    data,
    devices,
    effect,
    engines,
    files,
    model,
    samples,
    schedule,
    sizes,
    tracking,
)
from mae_skill.rules.base import Case, Facts, Notice, Rule

__all__ = ["RULES", "Case", "Facts", "Notice", "Rule", "check_rules"]

RULES: list[Rule] = [
    *sizes.RULES,
    *model.RULES,
    *devices.RULES,
    *data.RULES,
    *samples.RULES,
    *schedule.RULES,
    *files.RULES,
    *contents.RULES,
    *agreement.RULES,
    *engines.RULES,
    *tracking.RULES,
    *effect.RULES,
]


def check_rules(
    action: str,
    spec: Mapping[str, Any],
    provenance: Mapping[str, Origin] | None = None,
    facts: Facts | None = None,
) -> tuple[list[MaeError], list[Notice]]:
    """Errors and warnings of a spec that its schema already accepts.

    Args:
        provenance: dotted key → origin; a field that somebody set is reported when it has no
            effect.
        facts: what the caller knows of data and machine.
    """
    case = Case(action, spec, provenance or {}, facts or Facts())
    for rule in RULES:
        rule(case)
    return causes_first(case.errors), case.warnings


def causes_first(errors: list[MaeError]) -> list[MaeError]:
    """Errors with the number of classes after those of the data that it is counted in: who mends
    the data may find it right."""
    errors = _once(errors)
    counts = [error for error in errors if error.field == "model.num_classes"]
    others = [error for error in errors if error.field != "model.num_classes"]
    if any(error.field == "dataset.classes" for error in others):
        return others  # how many classes there are follows from those that are named
    if any(isinstance(error, DataError) for error in others):
        for error in counts:
            error.hint = f"mend the data first, as said above; then: {error.hint}"
    return [*others, *counts]


def _once(errors: list[MaeError]) -> list[MaeError]:
    """The first error of each field: what is wrong with its value besides follows from it, or is
    said when that is mended. Data may have several faults at once."""
    seen: set[str] = set()
    kept = []
    for error in errors:
        if isinstance(error, DataError) or error.field is None:
            kept.append(error)
        elif error.field not in seen:
            seen.add(error.field)
            kept.append(error)
    return kept
