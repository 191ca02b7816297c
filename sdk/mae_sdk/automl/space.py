"""The search space of a train action, built from its packaged schema.

Only parameters that have an effect under the spec enter; everything that was left out is named with
its reason. Pure Python, so that a plan can show it.

Schema annotations read here: at the top ``automl_default_parameters`` and
``automl_disabled_parameters``; at a field ``search`` ({low, high, log, step}, or a list of these
with ``when``), ``option_weights``, ``math_cond`` (``> 0.0``, ``^ 2``, ``/ 8``, ``< depends_on``;
several joined by ``,``), ``depends_on``, ``parent_param`` (the parameter that this one depends on,
or a mark on that parameter: drawn first) and ``applies_when``.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from mae_skill.conditions import acts, holds, never_searched
from mae_skill.dotted import MISSING, field_nodes, get_dotted, set_dotted
from mae_skill.errors import MaeError, SpecError, UsageError
from mae_skill.origin import Origin, OriginKind

from mae_sdk.automl.objectives import incomparable, objectives
from mae_sdk.automl.ranges import (
    RANGE_FORMS,
    Conditions,
    RangeError,
    Relation,
    default_range,
    given_range,
    math_conditions,
    narrowed,
)

if TYPE_CHECKING:
    from mae_sdk.automl.options import AutoMLOptions

PINNED_BY = (OriginKind.OVERRIDE, OriginKind.SHORTHAND, OriginKind.DATA)
"""Origins that pin a field: the user named this one value for this one run."""


Judge = Callable[[Mapping[str, Any]], Sequence[MaeError]]


class Suggester(Protocol):
    """The part of an Optuna trial that a search space needs."""

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = ..., step: float | None = ...
    ) -> float: ...
    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = ..., log: bool = ...
    ) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Parameter:
    """One searched value.

    ``name`` is what the study calls it: the dotted spec key, with ``[i]`` for an element of a list.
    ``default`` is the value of the spec as given. ``relations`` bind it to another field in every
    trial; ``when`` states under which values of other *searched* fields it exists.
    """

    name: str
    kind: str  # float | int | categorical
    default: Any
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: int | None = None
    choices: tuple[Any, ...] = ()
    weights: tuple[float, ...] = ()
    relations: tuple[Relation, ...] = ()
    when: Mapping[str, Any] = field(default_factory=dict)
    source: str = "schema"

    @property
    def key(self) -> str:
        """The dotted spec key, without the list index."""
        return self.name.partition("[")[0]

    @property
    def index(self) -> int | None:
        """Position in a list-valued field."""
        return int(self.name.partition("[")[2][:-1]) if self.name.endswith("]") else None

    def refuses(self, value: Any) -> str | None:
        """Why ``value`` is outside this parameter, or None."""
        if self.kind == "categorical":
            return (
                None
                if any(
                    value == c and isinstance(value, bool) == isinstance(c, bool)
                    for c in self.choices
                )
                else "not among the choices"
            )
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            return "not a number"
        if self.kind == "int" and value != int(value):
            return "not a whole number"
        assert self.low is not None and self.high is not None
        if not self.low <= value <= self.high:
            return f"outside [{self.low:g}, {self.high:g}]"
        if self.step and (value - self.low) % self.step:
            return f"not a step of {self.step} from {self.low:g}"
        return None

    def nearest(self, value: Any) -> Any:
        """What the study records for `value`: the nearest value in range; None for no number."""
        if self.refuses(value) is None:
            return (
                int(value)
                if self.kind == "int"
                else float(value)
                if self.kind == "float"
                else value
            )
        if (
            self.kind == "categorical"
            or isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            return None
        assert self.low is not None and self.high is not None
        clipped = min(max(value, self.low), self.high)
        if self.kind == "float":
            return float(clipped)
        step = self.step or 1
        return int(min(self.low + round((clipped - self.low) / step) * step, self.high))

    def to_dict(self) -> dict[str, Any]:
        """For plans: name, kind, range or choices, default, and what binds it."""
        out: dict[str, Any] = {"name": self.name, "kind": self.kind, "default": self.default}
        if self.kind == "categorical":
            out["choices"] = list(self.choices)
            if self.weights:
                out["weights"] = list(self.weights)
        else:
            out.update(low=self.low, high=self.high, log=self.log)
            if self.step:
                out["step"] = self.step
        if self.relations:
            out["relations"] = [str(relation) for relation in self.relations]
        if self.when:
            out["when"] = dict(self.when)
        out["source"] = self.source
        return out


@dataclass(frozen=True)
class SearchSpace:
    """Parameters in the order they are drawn: each after those it depends on.

    ``left_out`` says why a field is not searched; ``notes`` are for the user. In study.json and in
    plans the parameters are called ``knobs``, as since the first version: others read those files.
    """

    parameters: tuple[Parameter, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For plans and the job folder."""
        return {
            "knobs": [parameter.to_dict() for parameter in self.parameters],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """The inverse of `to_dict`."""
        parameters = []
        for item in data["knobs"]:
            values = {
                **item,
                "choices": tuple(item.get("choices", ())),
                "weights": tuple(item.get("weights", ())),
            }
            values["relations"] = tuple(Relation.parse(text) for text in item.get("relations", ()))
            parameters.append(Parameter(**values))
        return cls(tuple(parameters), dict(data.get("left_out", {})), tuple(data.get("notes", ())))

    def given(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the study records for a trial that runs `spec` as it is, and exact values where it
        records the nearest.

        Optuna takes any enqueued value, so it is checked here. A value that has no nearest one in
        the range (null) is not recorded.
        """
        params, exact = {}, {}
        for parameter in self.parameters:
            if not holds(parameter.when, spec):
                continue
            value = _value(spec, parameter)
            low, high = bounds_in(parameter, spec)
            if low is not None and high is not None and low > high:
                exact[parameter.name] = value
                continue
            nearest = replace(parameter, low=low, high=high).nearest(value)
            if nearest is not None:
                params[parameter.name] = nearest
            if parameter.refuses(value) or nearest != value:
                exact[parameter.name] = value
        return params, exact

    def suggest(
        self, trial: Suggester, spec: Mapping[str, Any], skip: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Draw every parameter that exists in this trial; returns name → value.

        Args:
            skip: names of parameters not to draw.
        """
        drawn: dict[str, Any] = {}
        current = copy.deepcopy(dict(spec))
        for parameter in self.parameters:
            if parameter.name in skip or not holds(parameter.when, current):
                continue
            if parameter.kind == "categorical":
                value = trial.suggest_categorical(parameter.name, parameter.choices)
            else:
                low, high = bounds_in(parameter, current)
                assert low is not None and high is not None
                if low > high:  # a relation leaves no room: the field keeps the spec's value
                    continue
                if parameter.kind == "int":
                    value = trial.suggest_int(
                        parameter.name,
                        int(low),
                        int(high),
                        step=parameter.step or 1,
                        log=parameter.log,
                    )
                else:
                    value = trial.suggest_float(parameter.name, low, high, log=parameter.log)
            drawn[parameter.name] = value
            _place(current, parameter, value)
        return drawn

    def apply(self, spec: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of ``spec`` with ``params`` (name → value) in their places.

        A list that was ascending stays ascending.
        """
        out = copy.deepcopy(dict(spec))
        lists = set()
        for parameter in self.parameters:
            if parameter.name in params:
                _place(out, parameter, params[parameter.name])
                if parameter.index is not None:
                    lists.add(parameter.key)
        for key in lists:
            before = get_dotted(spec, key)
            if list(before) == sorted(before):
                set_dotted(out, key, sorted(get_dotted(out, key)))
        return out


def bounds_in(parameter: Parameter, spec: Mapping[str, Any]) -> tuple[Any, Any]:
    """The ends of a parameter's range that its relations leave in a spec."""
    low, high = parameter.low, parameter.high
    for relation in parameter.relations:
        other = get_dotted(spec, relation.key)
        if isinstance(other, bool) or not isinstance(other, (int, float)):
            continue
        gap = (
            (1 if parameter.kind == "int" else 1e-9 * max(1.0, abs(other)))
            if relation.op in "<>"
            else 0
        )
        if relation.op.startswith("<"):
            limit = math.ceil(other) - gap if parameter.kind == "int" and gap else other - gap
            high = min(high, limit) if high is not None else limit
        else:
            limit = math.floor(other) + gap if parameter.kind == "int" and gap else other + gap
            low = max(low, limit) if low is not None else limit
    if (
        parameter.kind == "int"
        and parameter.step
        and low is not None
        and parameter.low is not None
        and high is not None
    ):
        low = parameter.low + math.ceil((low - parameter.low) / parameter.step) * parameter.step
        high = low + (high - low) // parameter.step * parameter.step if high >= low else high
    return low, high


def _value(spec: Mapping[str, Any], parameter: Parameter) -> Any:
    """The value of a parameter in a spec; its default where the spec has none."""
    value = get_dotted(spec, parameter.key, MISSING)
    if parameter.index is None:
        return parameter.default if value is MISSING else value
    has_it = isinstance(value, list) and parameter.index < len(value)
    return value[parameter.index] if has_it else parameter.default


def _place(spec: dict[str, Any], parameter: Parameter, value: Any) -> None:
    if parameter.index is None:
        set_dotted(spec, parameter.key, value)
    else:
        items = list(get_dotted(spec, parameter.key))
        items[parameter.index] = value
        set_dotted(spec, parameter.key, items)


def build(
    schema: Mapping[str, Any],
    spec: Mapping[str, Any],
    provenance: Mapping[str, Origin] | None,
    options: AutoMLOptions,
    centered: Sequence[str] | None = None,
    judge: Judge | None = None,
    others: Collection[str] = (),
) -> SearchSpace:
    """The search space of ``spec`` under ``schema``.

    Args:
        schema: the packaged train schema with its annotations.
        spec: the resolved spec (trial 0).
        provenance: dotted key → origin; a value given by override for this run is not searched
            unless named.
        options: ``parameters`` replace ``automl_default_parameters``, a key in ``ranges`` is added;
            fields across whose values the study's metric does not compare are left out.
        centered: the spec is thought out for the task: ranges are narrowed to its neighborhood, and
            these keys are searched beside the schema's.  None: it is not.
        others: sections of the spec that belong to other actions, which no trial reads.
        judge: what the rules between fields refuse of a spec; a choice that they refuse is an error
            where the user named it, else it is left out.

    Raises:
        SpecError: unknown or disabled parameters, or ranges outside the schema; all together.
    """
    builder = _Builder(schema, spec, provenance or {}, options, centered, others)
    for name in builder.wanted:
        builder.add(name)
    builder.keep_what_relations_allow()
    if judge is not None:
        builder.keep_what_runs(judge)
    if builder.problems:
        raise SpecError("the search space is wrong", problems=builder.problems)

    parents = {
        key
        for key, node in builder.fields.items()
        if str(node.get("parent_param")).lower() == "true"
    }
    parents |= {
        str(node["parent_param"]) for node in builder.fields.values() if node.get("parent_param")
    }
    ordered = _order(sorted(builder.parameters, key=lambda item: item.key not in parents))

    notes = builder.notes
    for parameter in ordered:
        if parameter.default is not MISSING and (reason := parameter.refuses(parameter.default)):
            notes.append(
                f"{parameter.name}: the spec's value {parameter.default!r} is {reason}; "
                "trial 0 still runs it as given"
            )
    return SearchSpace(tuple(ordered), builder.left_out, tuple(notes))


class _Builder:
    """Takes fields into a search space one by one; collects problems, reasons and notes."""

    def __init__(
        self,
        schema: Mapping[str, Any],
        spec: Mapping[str, Any],
        provenance: Mapping[str, Origin],
        options: AutoMLOptions,
        centered: Sequence[str] | None,
        others: Collection[str],
    ) -> None:
        self.others = others
        self.spec, self.provenance = spec, provenance
        self.narrow = centered is not None
        self.fields = field_nodes(schema)
        self.schema = schema
        metrics = [objective.metric for objective in objectives(schema, spec, options)]
        self.incomparable = incomparable(schema, metrics, spec)
        self.ranges = dict(options.ranges)

        named = options.parameters
        default = [*(schema.get("automl_default_parameters") or ()), *(centered or ())]
        self.asked = set(named or ()) | set(self.ranges)
        self.wanted = list(dict.fromkeys([*(default if named is None else named), *self.ranges]))
        self.searched = {name.partition("[")[0] for name in self.wanted}

        self.parameters: list[Parameter] = []
        self.left_out: dict[str, str] = {}
        self.notes: list[str] = []
        self.problems: list[MaeError] = []

    def add(self, name: str) -> None:
        """Take in a field, or say why not: to the user's face only if the user asked for it."""
        key = name.partition("[")[0]
        node = self.fields.get(key)
        if node is None:
            self._refuse(
                name,
                "the schema names it for AutoML but has no such field",
                UsageError(
                    "no such field to search",
                    field=name,
                    got=name,
                    expected="a dotted key of the train spec",
                    hint=self._similar(key),
                ),
            )
        elif (why := never_searched(self.schema, key, self.others)) == "elsewhere":
            section = key.partition(".")[0]
            self._refuse(
                name,
                f"read by {section} alone",
                UsageError(
                    f"is read by the action {section} alone: every trial would be the same",
                    field=name,
                    got=name,
                    expected="a parameter of the action that is searched",
                    hint="take it out of the parameters",
                ),
            )
        elif why == "disabled":
            self._refuse(
                name,
                "disabled for AutoML by the schema",
                UsageError(
                    "is not searched: the schema disables AutoML for this field, since trials "
                    "that differ in it are not compared by how well they learn",
                    field=name,
                    got=name,
                    expected="another parameter",
                    hint="one value for every trial: set it in the spec",
                ),
            )
        elif reason := self._why_not(name, key, node):
            self._leave_out(name, reason)
        else:
            self._search(name, key, node)

    def keep_what_relations_allow(self) -> None:
        """Take out the parameters to which a field that is not searched leaves no value."""
        related, self.parameters = self.parameters, []
        for parameter in related:
            fixed = all(relation.key not in self.searched for relation in parameter.relations)
            low, high = bounds_in(parameter, self.spec)
            if low is None or high is None or not fixed or not parameter.relations or low < high:
                self.parameters.append(parameter)
                continue
            limits = " and ".join(
                f"{relation}={get_dotted(self.spec, relation.key)}"
                for relation in parameter.relations
            )
            left = "no value of the range is" if low > high else f"only {low:g} of the range is"
            reason = f"{left} {limits}"
            if parameter.source == "user":
                problem = UsageError(
                    reason,
                    field=parameter.name,
                    got=[parameter.low, parameter.high],
                    expected=f"several values {limits}",
                    hint="widen the range, or change the field that bounds it",
                )
                self.problems.append(problem)
            elif low > high:
                self.left_out[parameter.name] = reason
            else:
                self.parameters.append(parameter)

    def keep_what_runs(self, judge: Judge) -> None:
        """Take out the choices that the rules refuse beside the rest of the spec, refuse a range
        of which they refuse both ends and the middle, and say which ends of a range they refuse."""
        known = {(error.field, error.message) for error in judge(self.spec)}

        def refusal(parameter: Parameter, value: Any) -> MaeError | None:
            varied = copy.deepcopy(dict(self.spec))
            _place(varied, parameter, value)
            others = self.searched - {parameter.key}
            return next(
                (
                    error
                    for error in judge(varied)
                    if (error.field, error.message) not in known and error.field not in others
                ),
                None,
            )

        judged, self.parameters = self.parameters, []
        for parameter in judged:
            values = parameter.choices or (parameter.low, parameter.high)
            wrong = [
                (value, error)
                for value in values
                if value != parameter.default and (error := refusal(parameter, value)) is not None
            ]
            of_field = bool(wrong) and wrong[0][1].field == parameter.key
            whole = len(wrong) == len(values) and (
                bool(parameter.choices) or refusal(parameter, _middle(parameter)) is not None
            )
            if wrong and parameter.source == "user" and (of_field or whole):
                self.problems.append(_refused(parameter, *wrong[0]))
                continue
            if whole and not parameter.choices:
                self.left_out[parameter.name] = f"every value is refused: {_told(wrong[0][1])}"
                continue
            self.notes += [
                f"{parameter.name}={value} is refused ({_told(error)})"
                + ("; it is left out" if parameter.choices else "; a trial there fails")
                + self._fixed(parameter, error)
                for value, error in wrong
            ]
            kept = _without(parameter, [value for value, _ in wrong])
            if kept is None:
                refused = ", ".join(f"{value} is refused: {_told(error)}" for value, error in wrong)
                reason = f"one choice is left that can run ({refused})"
                self.left_out[parameter.name] = reason
                if parameter.source == "user":
                    self.notes.append(
                        f"{parameter.name} is not searched, though it is asked for: {reason}"
                    )
            else:
                self.parameters.append(kept)

    def _fixed(self, parameter: Parameter, error: MaeError) -> str:
        """The field beside a refused value that is the same in every trial."""
        key = str(error.field)
        if key == parameter.key or key not in self.fields:
            return ""
        return f": {key} stays {get_dotted(self.spec, key)} in every trial"

    def _refuse(self, name: str, reason: str, problem: MaeError) -> None:
        if name in self.asked:
            self.problems.append(problem)
        else:
            self.left_out[name] = reason

    def _similar(self, key: str) -> str:
        same_end = [field for field in self.fields if field.endswith(f".{key}")][:3]
        if same_end:
            return f"did you mean {' or '.join(same_end)}?"
        section, _, last = key.rpartition(".")
        near = [
            field
            for field in difflib.get_close_matches(key, list(self.fields), n=3)
            if difflib.get_close_matches(last, [field.rpartition(".")[2]], n=1)
        ][:1]  # an equal section alone makes no two fields near
        if near:
            return f"did you mean {near[0]}?"
        return f"`mae explain {section}` lists the fields" if section else "see `mae explain`"

    def _why_not(self, name: str, key: str, node: Mapping[str, Any]) -> str | None:
        """Why this run does not search a field that AutoML may search, or None."""
        inactive = acts(node.get("applies_when"), self.spec, searched=self.searched)
        if inactive:
            return f"has no effect here: {inactive}"
        if key in self.incomparable:
            return (
                f"{self.incomparable[key]} does not compare across its values; "
                "give a probe set, or search it against another metric"
            )
        origin = self.provenance.get(key)
        if name not in self.asked and origin is not None and origin.kind in PINNED_BY:
            return (
                f"set to {get_dotted(self.spec, key)!r} for this run; "
                "name it in parameters= to search it anyway"
            )
        return None

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        if name in self.asked:
            self.notes.append(f"{name} is not searched, though it is asked for: {reason}")

    def _search(self, name: str, key: str, node: Mapping[str, Any]) -> None:
        try:
            self.parameters += self._parameters(name, key, node)
        except RangeError as error:
            problem = UsageError(
                str(error),
                field=name,
                got=self.ranges.get(name),
                expected=error.expected or RANGE_FORMS,
                hint=error.hint
                or f"correct range.{name}, or take it out for the schema's own range",
            )
            if error.leave_out:
                self._leave_out(name, str(error))
            else:
                self._refuse(name, str(error), problem)

    def _parameters(self, name: str, key: str, node: Mapping[str, Any]) -> list[Parameter]:
        """The parameters of a field: one, or one per searched element of a list.

        Raises:
            RangeError: the field has no usable range.
        """
        value = get_dotted(self.spec, key, node.get("default"))
        conditions = math_conditions(node, key, self.fields)
        index = name[len(key) :].removeprefix("[").removesuffix("]")
        if name != key and (not index.isdecimal() or name != f"{key}[{index}]"):
            raise RangeError("not an element of a list", expected=f"{key} or {key}[0]")

        if "array" not in _types(node) and not isinstance(value, list):
            if index:
                raise RangeError("this field is not a list", expected=key)
            return [self._parameter(name, key, node, value, name, conditions)]

        if not isinstance(value, list) or not value:
            raise RangeError("the spec gives no list to search around", leave_out=True)
        chosen = range(len(value)) if not index else [int(index)]
        if any(i >= len(value) for i in chosen):
            raise RangeError(
                f"the list has {len(value)} elements", expected=f"an index below {len(value)}"
            )
        shared = {k: node[k] for k in ("search", "math_cond", "option_weights") if k in node}
        element = {**shared, **(node.get("items") or {})}
        return [
            self._parameter(f"{key}[{i}]", key, element, value[i], name, conditions) for i in chosen
        ]

    def _parameter(
        self,
        name: str,
        key: str,
        node: Mapping[str, Any],
        value: Any,
        asked_as: str,
        conditions: Conditions,
    ) -> Parameter:
        """One parameter; `asked_as` is the name under which the user may have given its range."""
        if asked_as in self.ranges:
            chosen = given_range(node, value, self.ranges[asked_as], conditions)
        else:
            chosen = default_range(node, value, self.spec, conditions)
            chosen = narrowed(chosen, value) if self.narrow else chosen
        self.notes += [f"{name}: {note}" for note in chosen.notes]

        needs = self.fields[key].get("applies_when") or {}
        return Parameter(
            name=name,
            kind=chosen.kind,
            default=value,
            low=chosen.low,
            high=chosen.high,
            log=chosen.log,
            step=chosen.step,
            choices=chosen.choices,
            weights=chosen.weights,
            relations=conditions.relations if chosen.kind != "categorical" else (),
            when={other: need for other, need in needs.items() if other in self.searched - {key}},
            source="user" if asked_as in self.ranges else chosen.source,
        )


def _middle(parameter: Parameter) -> Any:
    """A value in the middle of an interval, on its own scale."""
    assert parameter.low is not None and parameter.high is not None
    low, high = parameter.low, parameter.high
    middle = math.sqrt(low * high) if parameter.log else (low + high) / 2
    return parameter.nearest(middle)


def _told(error: MaeError) -> str:
    """What an error says of its field."""
    return f"{error.field}: {error.message}" if error.field else error.message


def _refused(parameter: Parameter, value: Any, error: MaeError) -> UsageError:
    own = error.field == parameter.key
    hint = error.hint
    if own and parameter.choices:
        hint = f"leave {value!r} out of range.{parameter.name}"
    elif own:  # how to mend the field itself mends no range
        hint = f"give range.{parameter.name} ends within what is expected"
    return UsageError(
        f"{value!r} is refused: {error.message if own else _told(error)}",
        field=parameter.name,
        got=list(parameter.choices) or [parameter.low, parameter.high],
        expected=error.expected,
        hint=hint,
    )


def _without(parameter: Parameter, refused: Sequence[Any]) -> Parameter | None:
    """The parameter with those of its choices that can run; None where fewer than two are left."""
    if not refused or not parameter.choices:
        return parameter
    weights = parameter.weights or (1.0,) * len(parameter.choices)
    kept = [
        (choice, weight)
        for choice, weight in zip(parameter.choices, weights, strict=True)
        if choice not in refused
    ]
    if len(kept) < 2:
        return None
    return replace(
        parameter,
        choices=tuple(choice for choice, _ in kept),
        weights=tuple(weight for _, weight in kept) if parameter.weights else (),
    )


def _types(node: Mapping[str, Any]) -> set[str]:
    kind = node.get("type")
    return set(kind) if isinstance(kind, list) else {kind} if kind else set()


def _order(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Parameters after those they depend on, else in the order they were named, as in a cycle."""
    ordered: list[Parameter] = []
    waiting = list(parameters)
    while waiting:
        names = {parameter.key for parameter in waiting}
        ready = [
            k for k in waiting if not ({r.key for r in k.relations} | set(k.when)) - {k.key} & names
        ] or waiting[:1]
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered
