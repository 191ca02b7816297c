"""How much of a bundle works here: each action, why not where it does not, and what of the bundle's
files nothing reads.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.dialect import unread_schema
from mae_skill.dotted import field_nodes, get_dotted, set_dotted
from mae_skill.errors import DataError, MaeError
from mae_skill.placeholders import NOT_GIVEN, OpenReferenceError
from mae_skill.resolve import layers_of, optional_fields, resolve

from mae_sdk.plan import inferred_fields, sources
from mae_sdk.plan.automl_policy import decide, stated_metric
from mae_sdk.plan.command import command_of, fields_named
from mae_sdk.plan.inferred_fields import InferenceContext

MUST_BE_GIVEN = "must be given"


def score(bundle: Bundle) -> dict[str, Any]:
    """``works, of, actions, unread``: action → ``works``, its ``problems``, what it ``needs`` from
    the user, ``notices``, and whether it is searched (``automl``).

    Nothing runs and nothing but the bundle's own files is opened.
    """
    actions = {name: of_action(bundle, name) for name in bundle.actions}
    unread: dict[str, list[str]] = {"skill_info": bundle.unread}
    for name in bundle.actions:
        try:
            unread[f"{name} schema"] = unread_schema(bundle.schema(name))
        except MaeError:
            continue
    return {
        "works": sum(one["works"] for one in actions.values()),
        "of": len(actions),
        "actions": actions,
        "unread": {name: keys for name, keys in unread.items() if keys},
    }


def of_action(bundle: Bundle, action: str) -> dict[str, Any]:
    """Whether an action can be planned, given its data and a parent."""
    if action in bundle.broken:
        error = bundle.broken[action]
        return {
            "works": False,
            "problems": [error.to_dict()],
            "needs": [],
            "automl": "no",
            "notices": [],
        }
    problems: list[MaeError] = []
    rows = bundle.data_rows(action)
    optional = optional_fields(bundle, action)
    needs: set[str] = {
        f"{row.get('source')} → {key}"
        for key, row in rows.items()
        if row.get("source") and key not in optional
    }
    for key, row in rows.items():
        try:
            sources.check_row(key, row)
        except MaeError as error:
            problems.append(error)
    with contextlib.suppress(MaeError):  # told below
        models = inferred_fields.model_fields(bundle.spec_params.get(action) or {}) - optional
        if models:
            needs.add(f"--parent → {' or '.join(sorted(models))}")
    notices: list[str] = []
    spec: Mapping[str, Any] = {}
    filled: set[str] = set()
    for read in (bundle.schema, bundle.template):
        try:
            read(action)
        except MaeError as error:
            notices.append(str(error).splitlines()[0])
    try:
        layers = layers_of(bundle, action)
        spec = layers.template or layers.schema.get("default") or {}
        filled = _filled(bundle, action, layers.schema, problems)
        nodes = field_nodes(layers.schema)
        problems += inferred_fields.misplaced(action, bundle, spec, nodes)
        folders = inferred_fields.own_folders(action, bundle)
        problems += inferred_fields.read_and_written(action, bundle, folders, ())
        found = resolve(bundle, action, layers)
        for one in found.errors:
            key = str(one.field)
            given = isinstance(one, DataError) or one.message.startswith(MUST_BE_GIVEN)
            if isinstance(one, OpenReferenceError):
                needs.add(f"{one.target} → {key}")
            elif given and key not in filled and key not in rows:
                needs.add(key)
            elif not given and not (key in filled and get_dotted(found.spec, key) is None):
                problems.append(one)
        notices += found.notices
        spec = found.spec or spec
    except MaeError as error:
        problems += getattr(error, "problems", None) or [error]
    searched = "no"
    try:
        stated_metric(bundle, action)
        _judge_command(bundle, action, spec, {*filled, *rows}, needs)
        decision = decide(bundle, action)
        searched = decision.reason
    except MaeError as error:
        problems.append(error)
    return {
        "works": not problems,
        "problems": [error.to_dict() for error in problems],
        "needs": sorted(needs),
        "automl": searched,
        "notices": list(dict.fromkeys(notices)),
    }


def _judge_command(
    bundle: Bundle, action: str, spec: Mapping[str, Any], filled: set[str], needs: set[str]
) -> None:
    """Judge a command as if the fields that it names were given; what must be joins `needs`.

    Raises:
        SpecError: as `command_of`.
    """
    whole = copy.deepcopy(dict(spec))
    for key in fields_named(bundle, action, spec):
        if get_dotted(whole, key) not in (None, "", NOT_GIVEN):
            continue
        with contextlib.suppress(MaeError):
            set_dotted(whole, key, "given")
        function = (bundle.spec_params.get(action) or {}).get(key)
        if key not in filled or inferred_fields.function_of(function) == "resume_model":
            needs.add(key)
    command_of(bundle, action, whole)


def _filled(
    bundle: Bundle, action: str, schema: Mapping[str, Any], problems: list[MaeError]
) -> set[str]:
    """The fields that mappings and outputs fill; unknown functions are added to `problems`."""
    rows = bundle.spec_params.get(action) or {}
    outputs = bundle.action(action).get("outputs")
    try:
        template = bundle.template(action)
    except MaeError:
        template = {}
    context = InferenceContext(
        action=action,
        job_dir=None,
        results_dir="/job",
        env={},
        value_of=lambda key: get_dotted(template, key),
        fields=field_nodes(schema),
    )
    for name, row in rows.items():
        try:
            inferred_fields.apply(action, {name: row}, context)
        except MaeError as error:
            problems.append(error)
    return {*rows, *(outputs if isinstance(outputs, Mapping) else ())}
