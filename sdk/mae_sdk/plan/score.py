"""How much of a bundle works here: each action, why not where it does not, and what of the bundle's
files nothing reads.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.dialect import unread_schema
from mae_skill.dotted import field_nodes, get_dotted, set_dotted
from mae_skill.errors import DataError, MaeError
from mae_skill.merge import accepted_types, holds_lists
from mae_skill.placeholders import NOT_GIVEN, OpenReferenceError
from mae_skill.resolve import (
    LEFT_OPEN,
    Resolution,
    layers_of,
    nested,
    optional_fields,
    require_functions,
    resolve,
)
from mae_skill.schema_check import UNKNOWN, check_schema

from mae_sdk.automl import setup
from mae_sdk.jobs.secrets import ENCRYPTION_VARIABLE
from mae_sdk.plan import inferred_fields, sources
from mae_sdk.plan.automl_policy import (
    NOTHING_LEFT,
    Decision,
    decide,
    plain_instead,
    searched_by_default,
    stated_metric,
)
from mae_sdk.plan.command import (
    braces_left,
    fields_named,
    fields_of_options,
    fields_told,
    unknown_places,
)
from mae_sdk.plan.inferred_fields import InferenceContext
from mae_sdk.plan.launch_record import device_key, prepared, shape
from mae_sdk.run.platform import Resources

MUST_BE_GIVEN = "must be given"
GIVEN = "given"
"""Stands for a value that is not known before a plan."""


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
    optional = optional_fields(bundle, action)
    needs = _needs_of_data(bundle, action, optional, problems)
    with contextlib.suppress(MaeError):  # told below
        models = inferred_fields.model_fields(bundle.spec_params.get(action) or {}) - optional
        if models:
            needs.add(f"--parent → {' or '.join(sorted(models))}")
    notices: list[str] = []
    spec: Mapping[str, Any] = {}
    filled: dict[str, Any] = {}
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
        _take_errors(bundle, action, found, filled, needs, problems)
        spec = found.spec or spec
        wrong, left_open = _of_what_is_filled(bundle, action, filled, optional)
        problems += wrong
        # What refers to a field that a plan fills is filled too.
        notices += [one for one in found.notices if not one.startswith(LEFT_OPEN)] + left_open
        problems += _unknown_to(layers.schema, [key for key in needs if "→" not in key])
    except MaeError as error:
        problems += getattr(error, "problems", None) or [error]
    searched = "no"
    try:
        stated_metric(bundle, action)
        _judge_launch(bundle, action, spec, filled, needs, notices)
        notices += braces_left(bundle, action)
        received = fields_told(bundle, action, spec)
        notices += inferred_fields.starts_anew(bundle, action, received)
        require_functions(bundle, action)
        decision = decide(bundle, action)
        if decision.automl and not problems:
            decision = _with_something_to_search(bundle, action, spec, decision)
        searched = decision.reason + (": a plain run" if decision.reason == NOTHING_LEFT else "")
    except MaeError as error:
        problems.append(error)
    told = [error.to_dict() for error in problems]
    return {
        "works": not problems,
        "problems": [one for at, one in enumerate(told) if one not in told[:at]],
        "needs": sorted(needs),
        "automl": searched,
        "notices": list(dict.fromkeys(notices)),
    }


def _with_something_to_search(
    bundle: Bundle, action: str, spec: Mapping[str, Any], decision: Decision
) -> Decision:
    """The decision to search, or that of a plain run where the bundle's own spec leaves nothing to
    vary."""
    has_words = bundle.action(action).get("mode") in ("args", "passthrough")
    told = fields_told(bundle, action, spec) if has_words else None
    schema, _ = searched_by_default(bundle.schema(action), told)
    others = {*bundle.actions} - {action}
    stated = stated_metric(bundle, action)
    try:
        setup.describe(schema, spec, None, {}, info=bundle.info, stated=stated, others=others)
    except setup.NothingToSearchError as error:
        return plain_instead(action, str(error.problems[0].got))
    except MaeError:  # what a plan would say depends on what is given to it
        return decision
    return decision


def _needs_of_data(
    bundle: Bundle, action: str, optional: Collection[str], problems: list[MaeError]
) -> set[str]:
    """What must be given for the fields of data; rows that nothing can fill join `problems`."""
    rows = bundle.data_rows(action)
    needs: set[str] = set()
    misspelled = bundle.misspelled_fields(action)
    for key, row in rows.items():
        try:
            sources.check_row(key, row)
        except MaeError as error:
            problems.append(error)
        if key in optional or not isinstance(row, Mapping):
            continue
        if not row.get("source"):  # it is filled by its key alone
            needs |= {key} if row.get("path") or row.get("mapping") else set()
            continue
        if key in misspelled:  # what a source gives for it is refused
            problems.append(misspelled[key])
        can_be, named = sources.asks_for(key, row, bundle.info.get("data_format"))
        needs.add(f"{row['source']} → {key}" if can_be else key)
        needs |= {f"{name} → {key}" for name in named if not _has(bundle, action, name)}
    return needs


def _take_errors(
    bundle: Bundle,
    action: str,
    found: Resolution,
    filled: Mapping[str, Any],
    needs: set[str],
    problems: list[MaeError],
) -> None:
    """Tell the errors of a bundle's own spec apart: those that a value mends join `needs`, all
    others `problems`."""
    optional = optional_fields(bundle, action)
    for one in found.errors:
        key = str(one.field)
        given = isinstance(one, DataError) or one.message.startswith(MUST_BE_GIVEN)
        if isinstance(one, OpenReferenceError):
            if not _is_told(bundle, action, one.target, filled, optional):
                needs.add(f"{one.target} → {key}")
        elif given and _is_key(bundle, action, key):
            needs.add(f"{ENCRYPTION_VARIABLE} → {key}")
        elif given and key not in filled:
            needs.add(key)
        elif not given and not (key in filled and get_dotted(found.spec, key) is None):
            problems.append(one)
        elif not given and not _is_told(bundle, action, key, filled, optional):
            needs.add(key)


def _is_key(bundle: Bundle, action: str, field: str) -> bool:
    """Whether a field is filled by the encryption key, which the environment has."""
    row = (bundle.spec_params.get(action) or {}).get(field)
    return row is not None and inferred_fields.function_of(row) == "key"


def _has(bundle: Bundle, action: str, key: str) -> bool:
    """Whether an action's own spec has a value for a field, by its dotted or shorthand key."""
    key = bundle.shorthand.get(key, key)
    for read in (bundle.template, lambda name: bundle.schema(name).get("default") or {}):
        with contextlib.suppress(MaeError):
            value = get_dotted(read(action), key)
            return isinstance(value, (str, int, float)) and value not in ("", NOT_GIVEN)
    return False


def _of_what_is_filled(
    bundle: Bundle, action: str, filled: Mapping[str, Any], optional: Collection[str]
) -> tuple[list[MaeError], list[str]]:
    """What a plan refuses of the values that mappings, outputs and data fill: their fields are of
    another type, in no list, or unknown to a closed schema. And what it says of fields that are
    left open beside them.

    Raises:
        SpecError: they cannot be merged with the bundle's own spec.
    """
    layers = layers_of(bundle, action)
    rows = bundle.data_rows(action)
    values = {key: one for key, one in filled.items() if one is not None and key not in optional}
    layers.data = nested({key: one for key, one in values.items() if key in rows})
    layers.inferred = nested({key: one for key, one in values.items() if key not in rows})
    found = resolve(bundle, action, layers)
    wrong = [
        one
        for one in found.errors
        if not isinstance(one, (DataError, OpenReferenceError))
        and not one.message.startswith(MUST_BE_GIVEN)
        and (
            one.message.startswith("a reference inside text")
            or any(_leads(str(one.field), key) or _leads(key, str(one.field)) for key in values)
        )
    ]
    return wrong, [one for one in found.notices if one.startswith(LEFT_OPEN)]


def _unknown_to(schema: Mapping[str, Any], keys: Collection[str]) -> list[MaeError]:
    """The errors of fields that must be given, and that a closed schema has not."""
    asked: dict[str, Any] = {}
    for key in keys:
        with contextlib.suppress(MaeError):
            set_dotted(asked, key.partition("[")[0], GIVEN)
    found = check_schema(asked, schema) if schema and asked else []
    return [one for one in found if one.message == UNKNOWN]


def _leads(key: str, of: str) -> bool:
    """Whether a key is another one, or leads into it."""
    return key == of or key.startswith((f"{of}.", f"{of}["))


def _is_told(
    bundle: Bundle,
    action: str,
    target: str,
    filled: Mapping[str, Any],
    optional: Collection[str],
) -> bool:
    """Whether a field has its value without more words: by a constant, an output, or what the
    score asks for anyway, data and the model of a parent."""
    models = inferred_fields.model_fields(bundle.spec_params.get(action) or {})
    return any(
        key not in optional and (value is not None or key in models) and _leads(target, key)
        for key, value in filled.items()
    )


def _judge_launch(
    bundle: Bundle,
    action: str,
    spec: Mapping[str, Any],
    filled: Mapping[str, Any],
    needs: set[str],
    notices: list[str],
) -> None:
    """Judge what a plan records of a launch as if the fields that the command names, and those that
    are `filled`, had their values; what must be given for it joins `needs`.

    Raises:
        MaeError: as `prepared` and `shape`: whatever is given, no plan gets beyond it.
    """
    whole = copy.deepcopy(dict(spec))
    optional, wanted = optional_fields(bundle, action), set[str]()
    for key, value in filled.items():
        with contextlib.suppress(MaeError):
            if value is not None and key not in optional:
                set_dotted(whole, key, value)
    for key in _nothing_but_words(bundle, action, fields_named(bundle, action, spec)):
        if key in optional:  # the action can do without it, its command cannot
            wanted.add(key)
        if get_dotted(whole, key) not in (None, "", NOT_GIVEN):
            continue
        with contextlib.suppress(MaeError):
            set_dotted(whole, key, GIVEN)
        if not _is_told(bundle, action, key, filled, optional):
            wanted.add(key)
    for key in fields_of_options(bundle, action):
        if get_dotted(whole, key) is None:
            set_dotted(whole, key, GIVEN)
            if not _is_told(bundle, action, key, filled, optional):
                wanted.add(key)
    prepared(bundle, action, whole, Path("/job"))
    needs |= wanted
    counted = device_key(bundle.info, action, whole)
    if counted is not None and get_dotted(whole, counted) in (GIVEN, NOT_GIVEN):
        set_dotted(whole, counted, 1)
    shape(bundle.info, action, whole, Resources())
    strange = unknown_places(bundle, action, spec)
    if strange:
        notices.append(
            "placeholders of the command that neither the template nor the schema of "
            f"{action} knows: {', '.join(strange)}"
        )


def _nothing_but_words(bundle: Bundle, action: str, keys: list[str]) -> list[str]:
    """Of fields that a command names, those that can hold a word: no lists, no sections."""
    nodes: Mapping[str, Any] = {}
    with contextlib.suppress(MaeError):
        nodes = field_nodes(bundle.schema(action))
    plain = {"string", "number", "integer", "boolean"}
    return [
        key
        for key in keys
        if not any(one.startswith(f"{key}.") for one in nodes)
        and plain & set(accepted_types(nodes.get(key, {})) or plain)
    ]


def _filled(
    bundle: Bundle, action: str, schema: Mapping[str, Any], problems: list[MaeError]
) -> dict[str, Any]:
    """The fields that mappings, outputs and data fill, with a value of the kind that they get;
    unknown functions are added to `problems`.
    """
    rows = bundle.spec_params.get(action) or {}
    entry = bundle.action(action)
    outputs = None if entry.get("mode") == "passthrough" else entry.get("outputs")
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
    found: dict[str, Any] = {
        key: sources.stand_in(row, get_dotted(template, key), holds_lists(schema, key))
        for key, row in bundle.data_rows(action).items()
        if isinstance(row, Mapping) and row.get("source")
    }
    found |= dict.fromkeys(map(str, outputs if isinstance(outputs, Mapping) else ()), "/job")
    for name, row in rows.items():
        try:
            made = inferred_fields.apply(action, {name: row}, context)
        except MaeError as error:
            problems.append(error)
        else:
            # What a constant says of an output is not used, where it is text.
            kept = [item for item in made if name not in found or not isinstance(item.value, str)]
            found |= {item.field: item.value for item in kept} or {name: found.get(name)}
    return found
