"""The auto recipe of a plan: what the bundle's ``auto_recipe`` function chooses of open fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.conditions import holds
from mae_skill.dotted import flatten, get_dotted
from mae_skill.errors import MaeError, UsageError
from mae_skill.merge import merge
from mae_skill.placeholders import resolve_references
from mae_skill.resolve import Layers, entry_point
from mae_skill.rules.base import Facts
from mae_skill.schema_check import check_schema

from mae_sdk.data.appearance import appearance
from mae_sdk.data.label_file import labeled
from mae_sdk.data.pairs import open_pairs
from mae_sdk.data.reading import Reading
from mae_sdk.data.source import open_source
from mae_sdk.plan.data import SOURCE_KEY, Survey, labels_of
from mae_sdk.plan.launch_record import nodes_of, shape

AUTO = "auto"
"""The name of the recipe that is made for the task."""

_BUDGET = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d|gpuh)\s*", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "gpuh": 3600}


MOST_SECONDS = 1e9


def seconds_of(budget: str, processes: int, gpus: int | None) -> float:
    """A budget such as ``10m``, ``2h`` or ``8gpuh`` in seconds of the run.

    Args:
        processes: of the run, among which hours of GPUs are divided.  gpus: that are there.

    Raises:
        UsageError: it is no time, or counts GPUs where there are none.
    """
    match = _BUDGET.fullmatch(budget)
    seconds = float(match[1]) * _SECONDS[match[2].lower()] if match else 0.0
    if seconds > MOST_SECONDS:
        raise UsageError(
            "too long a time",
            field="budget",
            got=budget,
            expected=f"at most {MOST_SECONDS / 3600:.0f}h",
            hint="give a shorter time, or leave the budget out",
        )
    if match is None or not seconds:
        raise UsageError(
            "not a time",
            field="budget",
            got=budget,
            expected="a number above 0 with s, m, h, d or gpuh: 10m, 2h, 8gpuh",
            hint="one number and one unit: 90m for an hour and a half, 600s for ten minutes",
        )
    if match[2].lower() != "gpuh":
        return seconds
    if not gpus:
        raise UsageError(
            "hours of a GPU, and no GPU is here",
            field="budget",
            got=budget,
            expected="a time, such as 2h",
            hint="give the time on the clock, such as 2h, or plan where the GPU is",
        )
    return seconds / max(1, processes)


def recommend(
    bundle: Bundle,
    layers: Layers,
    survey: Survey,
    seconds: float | None,
    pace: float = 1.0,
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the bundle's ``auto_recipe`` function chooses of the fields that are open.

    Args:
        seconds: the budget of a run; None: the function's default.
        pace: how much longer a step takes than the function's estimate: by what was measured, or
            by the exchange of gradients.

    Returns:
        Dotted key → value, and dotted key → the rule that it came from. Both are empty where the
        spec or its data are so wrong that nothing can be chosen: the plan says what is.

    Raises:
        UsageError: the bundle has no such function, or the budget is too small.
    """
    name = bundle.info.get("auto_recipe")
    if not name:
        raise UsageError(
            "this bundle has no recipe that is made for the task",
            field="recipe",
            got=AUTO,
            expected="a skill_info with auto_recipe: module:function",
            hint="leave --recipe auto out, and set the fields of the training",
        )
    merged = merge(layers.in_order(), layers.schema)
    spec = merged.spec
    resolve_references(spec, layers.schema)
    facts, problems = survey.look(spec, False)
    if problems or not _well_formed(spec, layers):
        return {}, {}

    settled = layers.given | {
        key
        for layer in (layers.recipe, layers.parent, layers.data, layers.inferred)
        for key, value in flatten(layer).items()
        if value is not None
    }
    facts = _of_training(facts, survey, spec)
    choices = entry_point(name)(spec, settled, facts, _look(survey, spec), seconds, pace)
    values = {choice.key: choice.value for choice in choices}
    return values, {choice.key: choice.rule for choice in choices}


def _well_formed(spec: Mapping[str, Any], layers: Layers) -> bool:
    return not (layers.schema and check_schema(spec, layers.schema))


def _of_training(facts: Facts, survey: Survey, spec: Mapping[str, Any]) -> Facts:
    """The facts with the processes and nodes, which a look at an unjudged spec leaves out."""
    info, action = survey.bundle.info, survey.action
    nodes = nodes_of(info, action, spec, survey.environment)
    try:
        processes = shape(info, action, spec, survey.resources).processes
    except MaeError:
        processes = 1
    return replace(facts, processes=processes, nodes=nodes)


def _look(survey: Survey, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the training images look like; empty where that cannot be told here."""

    rows = (survey.bundle.info.get("data_sources") or {}).get(survey.action) or {}
    reading = Reading.of(spec)
    for key, row in rows.items():
        value = get_dotted(spec, key)
        if not isinstance(row, Mapping) or row.get("source") != SOURCE_KEY["train"] or not value:
            continue
        if "images" not in survey.seen.get(key, {}):
            continue  # behind a URL, and not to be fetched
        masks = row.get("masks") or {}
        try:
            if masks and holds(masks.get("when"), spec):
                beside = get_dotted(spec, str(masks["field"]))
                pairs = open_pairs(value, beside or None, role=str(masks.get("role") or "train"))
                return appearance(pairs, reading=reading)
            source, table = open_source(value), labels_of(row, spec)
            if table is not None:
                source = labeled(source, table)
            return appearance(source, reading=reading)
        except MaeError:
            return {}
    return {}
