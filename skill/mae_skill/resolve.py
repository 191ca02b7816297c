"""One way from what was asked to a spec: layers and facts in, values, origins, errors and notices
out.

``mae plan``, ``mae validate``, the foreground commands, MCP and the trials of a study all resolve
here, so the same input gets the same verdict everywhere.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from mae_skill.bundle import MAX_NAMED, Bundle, option_names
from mae_skill.conditions import acts
from mae_skill.dialect import misread, misspelled
from mae_skill.dotted import (
    MISSING,
    expand_shorthand,
    field_nodes,
    flatten,
    get_dotted,
    refuse_twice,
    set_dotted,
)
from mae_skill.errors import (
    DataError,
    MaeError,
    NotFoundError,
    SpecError,
    UsageError,
    unusable_path,
)
from mae_skill.merge import Layer, Resolved, accepted_types, coerce, merge, url_error
from mae_skill.origin import BY_AUTO_RECIPE, Origin, OriginKind
from mae_skill.placeholders import (
    NOT_GIVEN,
    OpenReferenceError,
    absent_items,
    follow,
    given_only,
    has_reference,
    opened,
    resolve_references,
)
from mae_skill.recipes import recipe_spec
from mae_skill.rules.base import Facts
from mae_skill.schema_check import UNKNOWN, check_schema, describe, did_you_mean
from mae_skill.spelling import and_more, nearest, source_option
from mae_skill.texts import no_url

FUNCTIONS = "mae_skill.bundle_functions"
"""The entry points of functions that bundles may name: ``validator``, ``estimator``."""

LEFT_OPEN = "left open (???)"
"""How a notice of fields begins that reach the runner without a value."""

ENCRYPTION_VARIABLE = "MAE_ENCRYPTION_KEY"

WHOLE = 0.9
"""A spec that sets this share of the template's fields is taken to be a template that was written
out.
"""

_PLACE = re.compile(r"\{([\w.\[\]]+)\}")
"""The name of a field in the words of a command."""

_PATHS = ("_dir", "_path", "_file", "_folder", "checkpoint")
"""How the last words of fields end that hold a path."""

Look = Callable[[Mapping[str, Any], bool], tuple[Facts, list[MaeError]]]
"""The spec, and whether its schema accepts it → what is known beside it, and what is wrong there.
"""


@dataclass
class Layers:
    """What was asked, by layer, as nested sections.

    Attributes:
        template: None where the bundle has none that can be read.
        parent: settings of the parent job.  data: fields that source arguments fill.
        inferred: fields that inference functions fill.
        given: dotted keys that the user set.
        optional: dotted keys that the run can do without, though the template has ``???`` there.
        by_auto_recipe: dotted keys of the spec file that the auto recipe chose.
    """

    schema: dict[str, Any]
    template: dict[str, Any] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    spec_file: dict[str, Any] = field(default_factory=dict)
    parent: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    shorthand: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    inferred: dict[str, Any] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    optional: set[str] = field(default_factory=set)
    by_auto_recipe: set[str] = field(default_factory=set)
    notices: list[str] = field(default_factory=list)

    def in_order(self) -> list[Layer]:
        """Lowest first: a later layer wins."""
        return [
            (OriginKind.TEMPLATE, self.template or {}),
            (OriginKind.RECIPE, self.recipe),
            (OriginKind.SPEC_FILE, self.spec_file),
            (OriginKind.PARENT, self.parent),
            (OriginKind.DATA, self.data),
            (OriginKind.SHORTHAND, self.shorthand),
            (OriginKind.OVERRIDE, self.overrides),
            (OriginKind.INFERRED, self.inferred),
        ]

    def written_out(self) -> bool:
        """Whether the spec repeats the template.

        Such a spec counts as set by the user only where it differs from the template.
        """
        template = flatten(self.template or {})
        both = template.keys() & flatten(self.spec_file).keys()
        return bool(template) and len(both) >= WHOLE * len(template)


@dataclass
class Resolution(Resolved):
    """A merged spec and the verdict on it. ``errors`` is empty when it can run.

    ``references``: dotted key → what was written, of fields that refer to others;
    ``open_references``: of those whose field has no value yet.
    """

    references: dict[str, Any] = field(default_factory=dict)
    open_references: dict[str, Any] = field(default_factory=dict)
    errors: list[MaeError] = field(default_factory=list)
    warnings: list[Any] = field(default_factory=list)


def layers_of(
    bundle: Bundle,
    action: str,
    spec: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    recipe: str | None = None,
) -> Layers:
    """The layers that a person writes.

    Args:
        spec: nested sections; dotted keys are sections too.
        overrides: dotted or shorthand key → value.

    Raises:
        UsageError: an unknown action, recipe or section; a field is given twice.
        SpecError: a key of the bundle's skill_info.yaml holds a value of another kind.
    """
    bundle.action(action)
    wrong = [
        SpecError(
            "not this kind of value in the bundle's skill_info.yaml",
            field=key,
            got=got,
            expected=expected,
        )
        for key, got, expected in misread(bundle.info, action)
    ]
    raise_all(wrong, action)
    raise_all(_both_ways(bundle, action), action)
    layers = Layers(_schema(bundle, action), optional=optional_fields(bundle, action))
    layers.notices += bundle.notices(action)
    _read_template(bundle, action, layers)
    layers.notices += _judge_constants(bundle, action, layers)
    if recipe:
        layers.recipe = recipe_spec(recipe)
    layers.spec_file = nested(spec or {})

    shorthand = bundle.shorthand
    refuse_twice(overrides or {})
    asked = flatten(overrides or {})
    words = {shorthand[word] for word in asked if word in shorthand} - asked.keys()
    for key, value in expand_shorthand(asked, shorthand).items():
        if value == NOT_GIVEN:
            continue
        set_dotted(layers.shorthand if key in words else layers.overrides, key, value)
        if value is not None:
            layers.given.add(key)

    template = flatten(layers.template or {}) if layers.written_out() else {}
    layers.given |= {
        key
        for key, value in flatten(given_only(layers.spec_file)[0]).items()
        if value is not None and not (key in template and template[key] == value)
    }
    return layers


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy in which dotted keys at the top are sections.

    Raises:
        UsageError: a part of a dotted key is a value, not a section.
    """
    refuse_twice(values)
    document: dict[str, Any] = {}
    for key, value in values.items():
        _put(document, str(key), copy.deepcopy(value))
    return document


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key; a section joins what is there, and a field is not given twice."""
    here = get_dotted(document, key, MISSING)
    if isinstance(here, dict) and isinstance(value, Mapping):
        for name, item in value.items():
            _put(document, f"{key}.{name}", item)
    elif here is MISSING or here == value:
        set_dotted(document, key, value)
    else:
        raise UsageError(
            f"{key} is given twice",
            field=key,
            got=[here, value],
            expected="one value, by its dotted key or in its section",
        )


def _schema(bundle: Bundle, action: str) -> dict[str, Any]:
    try:
        return dict(bundle.schema(action))
    except (NotFoundError, SpecError, OSError):
        return {}


def _read_template(bundle: Bundle, action: str, layers: Layers) -> None:
    """The template, which a bundle may lack.

    Raises:
        SpecError: there is one that cannot be read, and the schema has no defaults to start from.
        UsageError: it is outside the bundle.
    """
    try:
        layers.template = dict(bundle.template(action))
    except (NotFoundError, SpecError) as error:
        if isinstance(error, SpecError) and not layers.schema.get("default"):
            raise
        base = "the schema's defaults" if layers.schema.get("default") else "the overrides alone"
        reason = str(error).splitlines()[0]
        layers.notices.append(f"no template ({reason}): the spec starts from {base}")


_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "text"),
    (list, "a list"),
    (Mapping, "a mapping"),
)


def _kind(value: Any) -> str:
    """What kind of value it is; empty where it says nothing."""
    if value in (None, "", NOT_GIVEN) or has_reference(value):
        return ""
    return next((words for kind, words in _KINDS if isinstance(value, kind)), "")


def _judge_constants(bundle: Bundle, action: str, layers: Layers) -> list[str]:
    """Notices of constants and defaults of the bundle that do not look like their fields.

    Raises:
        SpecError: a field that holds a path is given something else.
    """
    entry = bundle.action(action)
    named = {str(one) for table in ("inputs", "outputs") for one in entry.get(table) or ()}
    values = {
        f"spec_params.{action}.{key}": (key, value) for key, value in bundle.constants(action)
    }
    own = layers.template or layers.schema.get("default") or {}
    wrong, odd = [], []
    for where, (key, value) in values.items():
        is_path = key in named or key.rpartition(".")[2].endswith(_PATHS)
        is_folder = key.rpartition(".")[2] in ("results_dir", "output_dir")
        texts = value if isinstance(value, list) and value and not is_folder else [value]
        if is_path and not all(isinstance(one, str) for one in texts):
            expected = "a path, or the word of an inference function, such as output_dir"
            wrong.append(SpecError("not a path", field=where, got=value, expected=expected))
        elif (there := _kind(get_dotted(own, key))) and _kind(value) not in ("", there):
            odd.append(f"{where} gives {_kind(value)} where the bundle's own spec has {there}")
    raise_all(wrong, action)
    return odd


def resolve(
    bundle: Bundle,
    action: str,
    layers: Layers,
    *,
    settle: Callable[[Resolution], None] | None = None,
    look: Look | None = None,
    problems: Iterable[MaeError] = (),
) -> Resolution:
    """The spec of a run, where each value comes from, and everything that is wrong with it.

    Args:
        settle: may change the merged spec before it is judged.
        look: tells what is known beside the spec.
        problems: what was wrong on the way here.

    Raises:
        SpecError: the layers cannot be merged.
    """
    merged = merge(layers.in_order(), layers.schema)
    found = Resolution(merged.spec, merged.provenance, notices=[*layers.notices, *merged.notices])
    if layers.written_out():
        _forget_what_nobody_chose(found, layers)
    for key in layers.by_auto_recipe & found.provenance.keys():
        if found.provenance[key].kind is OriginKind.SPEC_FILE:
            found.provenance[key] = Origin(OriginKind.SPEC_FILE, BY_AUTO_RECIPE)
    unresolved = _take_references(
        found, layers.schema, {*merged.absent, *_filled_by_tables(bundle, action)}
    )
    open_ = {str(one.field) for one in unresolved if isinstance(one, OpenReferenceError)}
    open_ -= _needed(bundle, action, open_, layers.optional)
    unresolved = [one for one in unresolved if one.field not in open_]
    merged.absent |= open_
    if settle is not None:
        before = copy.deepcopy(found.spec)
        settle(found)
        if found.references and found.spec != before:
            aliases = layers.schema.get("x_aliases")
            found.spec = follow(before, found.spec, found.references, aliases=aliases)
    found.absent = _needed(bundle, action, merged.absent, layers.optional)
    judge(bundle, action, layers.schema, found, look=look, problems=(*problems, *unresolved))
    _carry_what_is_open(bundle, action, found, merged.absent, layers.optional)
    found.notices += _contradictory(bundle, action, found.spec)
    found.notices += _strange_keys(bundle, action, layers, found.errors)
    found.notices += [*_nulls(layers, found.spec), *_of_another_kind(layers)]
    for key, where in bundle.default_keys(action).items():
        if found.provenance.get(key) == Origin(OriginKind.TEMPLATE):
            found.provenance[key] = Origin(OriginKind.TEMPLATE, where)
    return found


def _contradictory(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> list[str]:
    """A notice of the fields without a value that one table of the bundle says must be given, and
    another that they need not be."""
    rows, inputs = bundle.data_rows(action), _inputs(bundle.info, action)
    found = [
        key
        for key in rows.keys() & inputs.keys()
        if _is_optional(rows[key])
        and not _is_optional(inputs[key])
        and get_dotted(spec, key) in (None, "", [], NOT_GIVEN)
    ]
    said = (
        f"the inputs of {action} must be given by its entry, and are optional by data_sources: it "
        f"starts without {', '.join(sorted(found)[:MAX_NAMED])}"
    )
    return [said] if found else []


def _both_ways(bundle: Bundle, action: str) -> list[MaeError]:
    """The fields that one table says in words must be given, and another that they need not be. A
    table that says nothing of it gives way to the other one."""
    rows = bundle.data_rows(action)
    found: list[MaeError] = []
    for key, row in _inputs(bundle.info, action).items():
        of_input, of_data = _stated(row), _stated(rows.get(key))
        if of_input is None or of_data is None or of_input == of_data:
            continue
        found.append(
            SpecError(
                "two tables of the bundle contradict each other: one says that this field is "
                "optional, the other that it is not",
                field=f"actions.{action}.inputs.{key}.optional",
                got=of_input,
                expected=f"{str(of_data).lower()}, as data_sources.{action}.{key} says",
                hint="mend the bundle: say the same in both, or leave it out of one of them",
            )
        )
    return found


def _stated(row: Any) -> bool | None:
    """Whether a row says that its field is optional; None where it says nothing of it."""
    if not isinstance(row, Mapping):
        return None
    if isinstance(row.get("optional"), bool):
        return bool(row["optional"])
    return None if not isinstance(row.get("required"), bool) else not row["required"]


def _nulls(layers: Layers, spec: Mapping[str, Any]) -> list[str]:
    """A notice of each value that a person turned off with null."""
    found = []
    below = [layers.schema.get("default") or {}, *(document for _, document in layers.in_order())]
    for key, value in sorted({**flatten(layers.shorthand), **flatten(layers.overrides)}.items()):
        held = [one for document in below if (one := get_dotted(document, key)) is not None]
        if value is not None or not held or held[-1] in ("", {}, NOT_GIVEN):
            continue
        here = get_dotted(spec, key)
        if here is None:
            found.append(f"{key}=null: {_shown(held[-1])} is not used")
        elif isinstance(here, Mapping):
            found.append(f"{key}=null changes nothing: a section is turned off by its fields")
    return found


def _of_another_kind(layers: Layers) -> list[str]:
    """A notice of each value that is of another kind than the bundle's own, of fields whose type no
    schema says."""
    nodes, own = field_nodes(layers.schema), layers.template or {}
    found = []
    for key, value in sorted({**flatten(layers.shorthand), **flatten(layers.overrides)}.items()):
        kind, there = _kind(value), _kind(get_dotted(own, key))
        if kind and there and kind != there and not accepted_types(nodes.get(key, {})):
            found.append(f"{key} is given {kind}, and the bundle's own spec has {there} there")
    return found


def _shown(value: Any) -> str:
    return f"its section of {', '.join(value)}" if isinstance(value, Mapping) else repr(value)


def _strange_keys(
    bundle: Bundle, action: str, layers: Layers, errors: Sequence[MaeError]
) -> list[str]:
    """A notice of the fields that a person set and neither template nor schema knows; a schema that
    is closed has refused them."""
    defaults = layers.schema.get("default") or {}
    known = {*field_nodes(layers.schema), *flatten(layers.template or {}), *flatten(defaults)}
    if not known:
        return []
    entry = bundle.action(action)
    outputs = entry.get("outputs")
    named = {
        *known,
        *_PLACE.findall(f"{entry.get('command')} {entry.get('args')}"),
        *bundle.data_rows(action),
        *_inputs(bundle.info, action),
        *(bundle.spec_params.get(action) or {}),
        *(outputs if isinstance(outputs, Mapping) else ()),
        *(layers.schema.get("x_aliases") or {}),
        *(str(error.field) for error in errors),
    }
    sections = {part for one in named for part in _leading(str(one))}
    strange = [
        key
        for key in sorted(layers.given)
        if key not in sections
        and named.isdisjoint(_leading(key))
        # An empty section of a template may take any field.
        and get_dotted(layers.template or {}, key.rpartition(".")[0]) != {}
    ]
    if not strange:
        return []
    near = sorted(known)
    shown = [_with_what_was_meant(key, near) for key in strange[:MAX_NAMED]] + strange[MAX_NAMED:]
    some = and_more(shown, MAX_NAMED)
    return [f"set, though neither the template nor the schema of {action} knows it: {some}"]


def _leading(field: str) -> list[str]:
    """A field and what leads to it: ``a.b[0]``, ``a.b``, ``a``; of a text that is too long for a
    field, the beginning alone."""
    begin = field[:1000]
    return [field, *(begin[:at] for at, letter in enumerate(begin) if letter in ".[")]


def _with_what_was_meant(key: str, known: Sequence[str]) -> str:
    section, _, name = key.rpartition(".")
    beside = [one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == section]
    near = did_you_mean(name, key, beside, known)
    return key + (f" ({near})" if near else "")


def _take_references(
    found: Resolution, schema: Mapping[str, Any], absent: Collection[str]
) -> list[MaeError]:
    """Put values in the place of ``${…}``; what cannot be is returned, and left out of the spec."""
    resolved, problems = resolve_references(found.spec, schema, absent)
    nodes = field_nodes(schema)
    for key, (written, value) in resolved.items():
        try:
            taken, note = coerce(value, nodes.get(key, {}))
        except SpecError as error:
            problems.append(
                SpecError(error.message, field=key, got=written, expected=error.expected)
            )
            continue
        if (address := no_url(taken)) is not None:
            problems.append(url_error(address, key))
            continue
        found.references[key] = get_dotted(found.spec, key)
        set_dotted(found.spec, key, taken)
        origin = found.provenance.get(key)
        kind = origin.kind if origin is not None else OriginKind.SPEC_FILE
        found.provenance[key] = Origin(kind, f"= {written}" + (f"; {note}" if note else ""))
    for problem in problems:
        key, instead = str(problem.field), get_dotted(schema, f"default.{problem.field}")
        if isinstance(problem, OpenReferenceError):
            found.open_references[key] = get_dotted(found.spec, key)
            instead = opened(get_dotted(found.spec, key))
        set_dotted(found.spec, key, instead)
    return problems


def optional_fields(bundle: Bundle, action: str) -> set[str]:
    """The fields that the bundle calls optional, among an action's files."""
    tables = (bundle.data_rows(action), _inputs(bundle.info, action))
    return {str(key) for table in tables for key, row in table.items() if _is_optional(row)}


def _filled_by_tables(bundle: Bundle, action: str) -> set[str]:
    """The fields that data, mappings and files of an action fill, and those that its command
    names: a reference to one that has no value yet is open."""
    outputs = bundle.action(action).get("outputs")
    return {*_read_by(bundle, action), *(outputs if isinstance(outputs, Mapping) else ())}


def _needed(bundle: Bundle, action: str, absent: set[str], optional: set[str]) -> set[str]:
    """The fields that nobody gave, of those that the action reads: not those of other actions."""
    named = bundle.manifest.get("actions")
    others = {*bundle.actions, *(named if isinstance(named, Mapping) else ())} - {action}
    open_ = {key for key in absent - optional if not _inside(key, optional)}
    own = _read_by(bundle, action)
    files_of_others = {
        key
        for name in bundle.actions
        if name != action
        for key in (*bundle.data_rows(name), *_inputs(bundle.info, name))
    }
    open_ = {key for key in open_ if _inside(key, own) or not _inside(key, files_of_others)}
    if isinstance(bundle.action(action).get("inputs"), Mapping):
        # A template with the fields of every action: what this one reads is declared.
        left = _left_open(bundle, action)
        return {
            key
            for key in open_
            if _inside(key, own) or (key not in left and key.split(".")[0] not in others)
        }
    return {key for key in open_ if key.split(".")[0] not in others}


def _read_by(bundle: Bundle, action: str) -> set[str]:
    """The fields that the bundle's files say an action reads."""
    shorthand = bundle.shorthand
    named = re.findall(r"\{([\w.\[\]]+)\}", str(bundle.action(action).get("command") or ""))
    return {
        *bundle.data_rows(action),
        *_inputs(bundle.info, action),
        *(bundle.spec_params.get(action) or {}),
        *(shorthand.get(name, name) for name in named),
        *([key] if isinstance(key := bundle.info.get("gpu_spec_key"), str) else ()),
    }


def _left_open(bundle: Bundle, action: str) -> set[str]:
    """The keys of ``???``, and of references, in an action's template."""
    try:
        template = bundle.template(action)
    except MaeError:
        return set()
    links = {key for key, value in flatten(template).items() if has_reference(value)}
    return {*absent_items(template), *links}


def _carry_what_is_open(
    bundle: Bundle, action: str, found: Resolution, absent: set[str], optional: set[str]
) -> None:
    """Put ``???`` back where the bundle's template has it and the action does not need a value, as
    its runner expects it; and say so."""
    open_ = (absent - found.absent - optional) & _left_open(bundle, action)
    kept = sorted(key for key in open_ if not _inside(key, optional))
    for key in kept:
        set_dotted(found.spec, key, opened(get_dotted(bundle.template(action), key)))
    others = set(bundle.actions) - {action}
    said = [key for key in kept if key.split(".")[0] not in others]
    if said:
        found.notices.append(
            f"{LEFT_OPEN}, since the bundle names them as no input of {action}: "
            f"{and_more(said, MAX_NAMED)}"
        )
    # A field can be left out; one inside an item of a list cannot, without changing the list.
    in_lists = sorted(key for key in absent if "[" in key and _inside(key, optional))
    if in_lists:
        found.notices.append(
            f"{LEFT_OPEN}, optional and in a list: {', '.join(in_lists[:MAX_NAMED])}; its "
            "runner gets ???, or null where a spec says so"
        )


def _forget_what_nobody_chose(found: Resolution, layers: Layers) -> None:
    template = flatten(layers.template or {})
    for key, origin in found.provenance.items():
        if (
            origin.kind is OriginKind.SPEC_FILE
            and key in template
            and get_dotted(found.spec, key) == template[key]
        ):
            found.provenance[key] = Origin(OriginKind.TEMPLATE)


def judge(
    bundle: Bundle,
    action: str,
    schema: Mapping[str, Any],
    found: Resolution,
    *,
    look: Look | None = None,
    problems: Iterable[MaeError] = (),
) -> None:
    """Errors and warnings of a resolved spec: its schema's, its data's, and the bundle's rules'."""
    if not schema:
        found.notices.append(
            f"not checked: {action} has no schema that can be read; the runner still checks "
            "the spec"
        )
    shaped = check_schema(found.spec, schema) if schema else []
    shaped = [item for item in shaped if item.got != NOT_GIVEN]  # missing, or left open
    own_words, said = _words_of_options(bundle, action, found.spec, schema)
    shaped = [one for one in shaped if one.message != UNKNOWN or str(one.field) not in own_words]
    found.notices += said
    problems = list(problems)
    known_fields = {problem.field for problem in problems}
    missing = _not_given(bundle, action, found.absent, schema)
    # What a refused source would have filled is told with the source.
    refused = {key for key, row in bundle.data_rows(action).items() if _of(row, known_fields)}
    missing = [
        item
        for item in missing
        if item.field not in known_fields and not _inside(item.field, refused)
    ]
    absent = {str(problem.field) for problem in missing}
    shaped = _one_of_a_list(shaped)
    shaped = [*missing, *(problem for problem in shaped if problem.field not in absent)]
    unsettled = shaped or any(has_reference(problem.got) for problem in problems)
    try:
        facts, seen = look(found.spec, not unsettled) if look is not None else (Facts(), [])
    except OSError as error:  # of a path that the system cannot even look for
        facts, seen = Facts(), [unusable_path(error, flatten(found.spec))]
    known = [*problems, *seen]
    known += _missing_data(bundle.info, action, found, known)
    of_data = {str(problem.field) for problem in known}
    known += _missing_inputs(bundle, action, found.spec, absent | of_data)
    # What the missing data would fill is said once, as data.
    of_data = {str(problem.field) for problem in known}
    shaped = [
        item
        for item in shaped
        if not (
            _inside(item.field, of_data)
            and (item in missing or get_dotted(found.spec, str(item.field)) is None)
        )
    ]
    found.errors, found.warnings = [*shaped, *known], _unfilled_inputs(bundle, action, found.spec)
    if unsettled:
        return

    rules = bundle.info.get("validator")
    if not rules:
        found.notices.append("not checked: the bundle names no validator for rules between fields")
        return
    fields = {problem.field for problem in known}
    facts = replace(facts, refused=frozenset(str(field) for field in fields))
    try:
        errors, warnings = entry_point(rules)(action, found.spec, found.provenance, facts)
    except OSError as error:
        found.errors.append(unusable_path(error, flatten(found.spec)))
        return
    found.errors += [error for error in errors if error.field not in fields]
    found.warnings += [item for item in warnings if not getattr(item, "note", False)]
    found.notices += [str(item) for item in warnings if getattr(item, "note", False)]


def _words_of_options(
    bundle: Bundle, action: str, spec: Mapping[str, Any], schema: Mapping[str, Any]
) -> tuple[set[str], list[str]]:
    """The options of ``mode: args`` that are no field of the schema, with the sections that are
    theirs alone; and a notice of those whose value names no field either.
    """
    entry, nodes = bundle.action(action), field_nodes(schema)
    if entry.get("mode") != "args":
        return set(), []
    said = _unfilled_options(bundle, entry, spec, nodes)
    said += _misspelled_flags(entry, {*nodes, *flatten(spec)})
    if not nodes:
        return set(), [*said, *_misspelled_values(entry, spec)]
    own = [key for one in option_names(entry.get("args")) if (key := one.lstrip("-")) not in nodes]
    sections = {part for one in nodes for part in _leading(one)}
    words = {part for one in own for part in _leading(one) if part not in sections}
    fields = {*nodes, "results_dir", *bundle.shorthand}
    left = [
        key
        for key in own
        if key in words
        and get_dotted(spec, key) not in (*nodes, None)
        # A text whose placeholders are all fields is filled in.
        and not (fields.issuperset(places := _PLACE.findall(str(get_dotted(spec, key)))) and places)
    ]
    known = sorted(nodes)
    shown = ", ".join(
        f"{key}: {value} (did you mean the field {near}?)"
        if isinstance(value := get_dotted(spec, key), str) and (near := nearest(value, known, 0.85))
        else _with_what_was_meant(key, known)
        for key in left[:MAX_NAMED]
    )
    notice = f"options in args that are no field of the schema of {action}: {shown}"
    return words, [*said, notice] if left else said


def _unfilled_options(
    bundle: Bundle, entry: Mapping[str, Any], spec: Mapping[str, Any], fields: Collection[str]
) -> list[str]:
    """Notices of the options in ``args`` whose text has a placeholder that is not filled: of a
    field without a value, or of a section.
    """
    known, found = {*fields, *flatten(spec)}, []
    for option in option_names(entry.get("args")):
        text = get_dotted(spec, option.lstrip("-"))
        for name in _PLACE.findall(text) if isinstance(text, str) else ():
            key = bundle.shorthand.get(name, name)
            held = get_dotted(spec, key)
            if isinstance(held, Mapping) and held:
                found.append(
                    f"{option}: {{{name}}} is a section and no field: it is handed on as it stands"
                )
            elif key in known and held in (None, "", NOT_GIVEN):
                found.append(f"{option} is left out: {key} has no value")
    return found[:MAX_NAMED]


def _misspelled_flags(entry: Mapping[str, Any], fields: Collection[str]) -> list[str]:
    """A notice of the flags that are a field but for their spelling: their option is always given,
    whatever the field says."""
    flags = [str(one).lstrip("-") for one in entry.get("flags") or ()]
    found = [
        f"{flag} (did you mean {near}?)"
        for flag in flags
        if flag not in fields and (near := misspelled(flag, fields, flags))
    ]
    said = f"flags that name no field are always given: {', '.join(found[:MAX_NAMED])}"
    return [said] if found else []


def _misspelled_values(entry: Mapping[str, Any], spec: Mapping[str, Any]) -> list[str]:
    """A notice of the options whose text is a field of the spec but for its spelling, where no
    schema says what the fields are."""
    options = [one.lstrip("-") for one in option_names(entry.get("args"))]
    fields = [key for key in flatten(spec) if key not in options]
    texts = {key: text for key in options if isinstance(text := get_dotted(spec, key), str)}
    said = [
        f"{key}: {text} (did you mean {near}?)"
        for key, text in texts.items()
        for name in [text, *re.findall(r"\{([\w.]+)\}", text)]
        if name not in fields and (near := misspelled(name, fields, ()))
    ]
    return [f"options in args that name no field: {', '.join(said[:MAX_NAMED])}"] if said else []


def _inside(field: Any, keys: Collection[str]) -> bool:
    """Whether a field is one of these, or a part of one."""
    return any(field == key or str(field).startswith((f"{key}.", f"{key}[")) for key in keys)


def _not_given(
    bundle: Bundle, action: str, absent: set[str], schema: Mapping[str, Any]
) -> list[MaeError]:
    """One error for each ``???`` that is still there."""
    nodes = field_nodes(schema)
    functions = bundle.spec_params.get(action) or {}
    keys = {key for key, word in functions.items() if word == "key"}
    return [
        SpecError(
            "must be given: it is still ???",
            field=key,
            expected=describe(nodes[key]) if key in nodes else "a value",
            # A secret has no place on a command line or in a file.
            hint=f"set the variable {ENCRYPTION_VARIABLE}"
            if key in keys
            else f"{key}=VALUE, or the field in the spec file" + _or_parent(bundle, action, key),
        )
        for key in sorted(absent)
    ]


def _missing_data(
    info: Mapping[str, Any], action: str, found: Resolution, known: Sequence[MaeError]
) -> list[MaeError]:
    """Data that the action cannot do without: an empty source never means everything."""
    spec = found.spec
    reported = {problem.field for problem in known}
    optional = {key for key, row in _inputs(info, action).items() if _is_optional(row)}
    return [
        DataError(
            f"{action} needs data",
            field=str(key),
            got="null" if (given := get_dotted(spec, str(key))) is None else given,
            expected=f"a file, a folder, an archive or a URL: {key} in the spec"
            + (f", or {source_option(row['source'])}" if row.get("source") else ""),
            hint=_for_data(str(key), row, found),
        )
        for key, row in ((info.get("data_sources") or {}).get(action) or {}).items()
        if isinstance(row, Mapping)
        and (row.get("source") or row.get("path") or row.get("mapping"))
        and not _is_optional(row)
        and key not in optional
        and acts(row.get("when"), spec) is None
        and (not get_dotted(spec, str(key)) or any(_inside(one, {key}) for one in found.absent))
        and not reported & {str(key), row.get("source")}
    ]


def _for_data(key: str, row: Mapping[str, Any], found: Resolution) -> str:
    """How data is given; where a person emptied its field, that stands before any source."""
    origin = found.provenance.get(key)
    if origin is not None and origin.kind in OriginKind.written():
        return f"leave {key} out, which is set to nothing here, or give it a value"
    return f"add {source_option(row['source'])}" if row.get("source") else f"set {key}"


def _of(row: Any, sources: Collection[Any]) -> bool:
    """Whether a row of data is filled from one of these sources."""
    return isinstance(row, Mapping) and row.get("source") in sources


def _inputs(info: Mapping[str, Any], action: str) -> dict[str, Any]:
    """The files that an action reads, as its entry declares them: field → its row."""
    found = (info["actions"][action] or {}).get("inputs")
    return dict(found) if isinstance(found, Mapping) else {}


def _is_optional(row: Any) -> bool:
    return isinstance(row, Mapping) and (bool(row.get("optional")) or row.get("required") is False)


def _missing_inputs(
    bundle: Bundle, action: str, spec: Mapping[str, Any], known: set[str]
) -> list[MaeError]:
    """The declared inputs that have no value; data and `known` fields have errors of their own."""
    functions = bundle.spec_params.get(action) or {}
    models = {key for key, one in functions.items() if str(one).startswith("parent_model")}
    if any(get_dotted(spec, key) for key in models):  # one model is enough for a run
        known = known | models
    misspelled = bundle.misspelled_fields(action)  # no value would reach the runner there
    return [
        misspelled[key]
        if key in misspelled
        else DataError(
            f"{action} needs this input",
            field=key,
            expected=f"a {row.get('type') or 'path' if isinstance(row, Mapping) else 'path'}",
            hint=f"{key}=PATH{_or_parent(bundle, action, key)}",
        )
        for key, row in _empty_inputs(bundle, action, spec).items()
        if not _inside(key, known) and (key in models or not _is_weights(functions.get(key)))
    ]


def _unfilled_inputs(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> list[Any]:
    """A warning for the declared inputs that hold weights to start from: a run may do without."""
    functions = bundle.spec_params.get(action) or {}
    missing = [
        key for key in _empty_inputs(bundle, action, spec) if _is_weights(functions.get(key))
    ]
    if not missing:
        return []
    return [
        UsageError(
            "the bundle lists inputs that nothing gives",
            field=missing[0],
            got=missing,
            expected="a path each: KEY=PATH, --ptm, or a parent job",
            hint="the run may fail at its start",
        )
    ]


def _empty_inputs(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The declared inputs that are not optional and have no value, without those that data and
    outputs fill."""
    if bundle.info.get("validator"):  # its own rules judge its models and weights
        return {}
    if bundle.action(action).get("mode") == "passthrough":  # its command reads no spec
        return {}
    outputs = bundle.action(action).get("outputs")
    others = {*bundle.data_rows(action), *(outputs if isinstance(outputs, Mapping) else ())}
    return {
        key: row
        for key, row in _inputs(bundle.info, action).items()
        if not _is_optional(row)
        and not (_inside(key, others) and not _beyond(key, spec))
        and get_dotted(spec, key) in (None, "", [], [""], NOT_GIVEN)
    }


def _beyond(key: str, spec: Mapping[str, Any]) -> bool:
    """Whether a field is of an item behind the end of its list, which data have filled."""
    name, _, rest = key.partition("[")
    held = get_dotted(spec, name)
    position = rest.partition("]")[0]
    is_filled = isinstance(held, list) and bool(held) and not any(absent_items(held))
    return is_filled and position.isdigit() and int(position) >= len(held)


def _is_weights(function: Any) -> bool:
    """Whether a field takes a checkpoint of its own job, or pretrained weights."""
    word = str(function)
    return not word.startswith("parent_model") and ("resume" in word or "ptm" in word)


def _or_parent(bundle: Bundle, action: str, key: str) -> str:
    """The other way to fill a field that takes the model of a parent."""
    function = str((bundle.spec_params.get(action) or {}).get(key))
    return ", or --parent JOB" if function.startswith("parent_model") else ""


def entry_point(text: str) -> Any:
    """The function that ``module:function`` names: one of this package, or one that an installed
    package declares under the entry points of the group `FUNCTIONS`. A bundle's file alone makes
    nothing run.

    Raises:
        UsageError: there is none, or it is not declared.
    """
    module, _, name = str(text).partition(":")
    declared = module.split(".")[0] == __package__ or any(
        one.value == text for one in entry_points(group=FUNCTIONS)
    )
    if not declared:
        raise UsageError(
            "the bundle names a function that no installed package declares",
            field="skill_info",
            got=text,
            expected=f"an entry point of the group {FUNCTIONS}",
        )
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            "the bundle names a function that cannot be loaded",
            field="skill_info",
            got=text,
            hint=str(error),
        ) from error


def _causes(problems: Sequence[MaeError]) -> list[MaeError]:
    """The errors that explain others first, and without those that they explain."""
    causes = [problem for problem in problems if problem.explains]
    follow = {field for cause in causes for field in cause.explains}
    others = [problem for problem in problems if not problem.explains]
    return [*causes, *(one for one in others if not _inside(one.field, follow))]


def _once(problems: Sequence[MaeError]) -> list[MaeError]:
    """One error for each cause: what is said of the same value of several fields is said once, with
    all of them."""
    first: dict[tuple[type[MaeError], str, str], MaeError] = {}
    also: dict[int, list[str]] = {}
    kept: list[MaeError] = []
    for problem in problems:
        place = (type(problem), problem.message, str(problem.got))
        known = first.setdefault(place, problem) if _is_place(problem.got) else problem
        if known is problem:
            kept.append(problem)
        elif problem.field and problem.field != known.field:
            also.setdefault(id(known), []).append(problem.field)
    for problem in kept:
        if fields := also.get(id(problem)):
            problem.message = f"{problem.message} (of {', '.join(dict.fromkeys(fields))} too)"
    return kept


def _is_place(value: Any) -> bool:
    """Whether a value looks like a path or a URL: what is wrong with it is so for all who name
    it."""
    return isinstance(value, str) and "/" in value


def require_functions(bundle: Bundle, action: str) -> None:
    """Refuse functions that cannot be loaded, and a warm start that no job could reach.

    Raises:
        UsageError, SpecError: the first such one.
    """
    for name in ("validator", "estimator", "auto_recipe"):
        function = bundle.info.get(name)
        if function and isinstance(function, str) and (name != "auto_recipe" or action == "train"):
            entry_point(function)
    warm = bundle.info.get("warm_command")
    if warm and isinstance(warm, str) and "{socket}" not in warm.split():
        raise SpecError(
            "the bundle's warm start does not say where it listens",
            field="warm_command",
            got=warm,
            expected="a command line with {socket} as a word, as in {python} -m PACKAGE {socket}",
        )
    measure = bundle.action(action).get("measure_command")
    for field_, line, known in (
        ("warm_command", warm, ("python", "socket")),
        (f"actions.{action}.measure_command", measure, ("python", "config_path", "job_dir")),
    ):
        for name in _PLACE.findall(line) if isinstance(line, str) else ():
            if name in known:
                continue
            near = nearest(name, known)
            raise SpecError(
                "the command has a placeholder that nothing fills",
                field=field_,
                got=f"{{{name}}}",
                expected="one of " + ", ".join(f"{{{one}}}" for one in known),
                hint=f"did you mean {{{near}}}?" if near else "no field of the spec stands here",
            )


def raise_all(problems: Sequence[MaeError], action: str) -> None:
    """Raise what there is: nothing, one problem as it is, or several together.

    Several of one kind are raised as that kind, mixed ones as a `SpecError`.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]

    problems = _once(_causes(problems))
    if len(problems) == 1:
        raise problems[0]
    kinds = {type(problem) for problem in problems}
    if len(kinds) > 1 or issubclass(next(iter(kinds)), SpecError):
        raise SpecError(f"the {action} spec has {len(problems)} problems", problems=problems)
    first, *others = problems
    lines = [f"{item.field}: {item.message}" if item.field else item.message for item in others]
    expected, hints = (
        "; ".join(dict.fromkeys(getattr(item, word) for item in problems if getattr(item, word)))
        for word in ("expected", "hint")
    )
    raise kinds.pop()(
        "; ".join([first.message, *lines]),
        field=first.field,
        got=first.got,
        expected=expected or None,
        hint=hints or None,
    )


def _one_of_a_list(errors: list[MaeError]) -> list[MaeError]:
    """Errors of which those of several items of one list, for the same reason, are one."""
    first: dict[tuple[str, str, str], MaeError] = {}
    others: dict[int, list[str]] = {}
    kept = []
    for error in errors:
        item = re.fullmatch(r"(.*)\[(\d+)\]", str(error.field))
        of = (item[1] if item else "", error.message, str(error.expected))
        if item and of in first:
            others.setdefault(id(first[of]), []).append(item[2])
            continue
        if item:
            first[of] = error
        kept.append(error)
    for error in kept:
        if more := others.get(id(error)):
            items = ", ".join(more[:8]) + (", …" if len(more) > 8 else "")
            error.message += f"; so {'are items' if len(more) > 1 else 'is item'} {items}"
    return kept
