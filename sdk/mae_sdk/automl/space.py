"""The search space of a train action, built from its packaged schema.

Only knobs that act under the spec enter; everything that was left out is named with its reason. Pure Python, so a plan can show it.

Schema annotations read here: at the top ``automl_default_parameters`` and ``automl_disabled_parameters``; at a field ``search``
({low, high, log, step}, or a list of these with ``when``), ``option_weights``, ``math_cond`` (``> 0.0``, ``^ 2``, ``/ 8``,
``< depends_on``; several joined by ``,``), ``depends_on``, ``parent_param`` (the knob that this one hangs on, or a mark on that knob:
drawn first) and ``applies_when``.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mae_skill.conditions import acts, holds
from mae_skill.dotted import MISSING, field_nodes, get_dotted, set_dotted
from mae_skill.errors import MaeError, SpecError, UsageError
from mae_skill.origin import Origin, OriginKind

from mae_sdk.automl.fields import Relation, math_conditions
from mae_sdk.automl.metrics import incomparable, objectives
from mae_sdk.automl.options import AutoMLOptions, parse
from mae_sdk.automl.ranges import Range, RangeError, default_range, given_range

PINNED_BY = (OriginKind.OVERRIDE, OriginKind.SHORTHAND, OriginKind.DATA)
"""Origins that pin a field: the user named this one value for this one run."""


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
class Knob:
    """One searched value.

    ``name`` is what the study calls it: the dotted spec key, with ``[i]`` for an element of a list. ``default`` is the value of the spec as
    given. ``relations`` bind it to another field in every trial; ``when`` tells under which values of other *searched* fields it exists.
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
        """Why ``value`` is outside this knob, or None."""
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
        """The value of this knob that stands for ``value`` in the study; None when nothing does."""
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
    """Knobs in the order they are drawn (a knob after those it depends on), what was left out and why, and notes for the user."""

    knobs: tuple[Knob, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For plans and the job folder."""
        return {
            "knobs": [knob.to_dict() for knob in self.knobs],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """The inverse of `to_dict`."""
        knobs = []
        for item in data["knobs"]:
            values = {
                **item,
                "choices": tuple(item.get("choices", ())),
                "weights": tuple(item.get("weights", ())),
            }
            values["relations"] = tuple(Relation.parse(text) for text in item.get("relations", ()))
            knobs.append(Knob(**values))
        return cls(tuple(knobs), dict(data.get("left_out", {})), tuple(data.get("notes", ())))

    def given(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the study records for trial 0, and the exact values where it can only record the nearest.

        Optuna takes any enqueued value, so it is checked here. A value that nothing in the range stands for (null) is not recorded.
        """
        params, exact = {}, {}
        for knob in self.knobs:
            if not holds(knob.when, spec):
                continue
            low, high = self._bounds(knob, spec)
            if low is not None and high is not None and low > high:
                exact[knob.name] = knob.default
                continue
            nearest = replace(knob, low=low, high=high).nearest(knob.default)
            if nearest is not None:
                params[knob.name] = nearest
            if knob.refuses(knob.default) or nearest != knob.default:
                exact[knob.name] = knob.default
        return params, exact

    def suggest(
        self, trial: Suggester, spec: Mapping[str, Any], skip: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Draw every knob that exists in this trial from ``trial``; returns name → value. ``skip`` names knobs not to draw."""
        drawn: dict[str, Any] = {}
        current = copy.deepcopy(dict(spec))
        for knob in self.knobs:
            if knob.name in skip or not holds(knob.when, current):
                continue
            if knob.kind == "categorical":
                value = trial.suggest_categorical(knob.name, knob.choices)
            else:
                low, high = self._bounds(knob, current)
                assert low is not None and high is not None
                if (
                    low > high
                ):  # the relation leaves no room in this trial: the field keeps the spec's value
                    continue
                if knob.kind == "int":
                    value = trial.suggest_int(
                        knob.name, int(low), int(high), step=knob.step or 1, log=knob.log
                    )
                else:
                    value = trial.suggest_float(knob.name, low, high, log=knob.log)
            drawn[knob.name] = value
            _place(current, knob, value)
        return drawn

    def apply(self, spec: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of ``spec`` with ``params`` (name → value) in their places. A list that was ascending stays ascending."""
        out = copy.deepcopy(dict(spec))
        lists = set()
        for knob in self.knobs:
            if knob.name in params:
                _place(out, knob, params[knob.name])
                if knob.index is not None:
                    lists.add(knob.key)
        for key in lists:
            before = get_dotted(spec, key)
            if list(before) == sorted(before):
                set_dotted(out, key, sorted(get_dotted(out, key)))
        return out

    def _bounds(self, knob: Knob, spec: Mapping[str, Any]) -> tuple[Any, Any]:
        low, high = knob.low, knob.high
        for relation in knob.relations:
            other = get_dotted(spec, relation.key)
            if isinstance(other, bool) or not isinstance(other, (int, float)):
                continue
            gap = (
                (1 if knob.kind == "int" else 1e-9 * max(1.0, abs(other)))
                if relation.op in "<>"
                else 0
            )
            if relation.op.startswith("<"):
                limit = math.ceil(other) - gap if knob.kind == "int" and gap else other - gap
                high = min(high, limit) if high is not None else limit
            else:
                limit = math.floor(other) + gap if knob.kind == "int" and gap else other + gap
                low = max(low, limit) if low is not None else limit
        if (
            knob.kind == "int"
            and knob.step
            and low is not None
            and knob.low is not None
            and high is not None
        ):
            low = knob.low + math.ceil((low - knob.low) / knob.step) * knob.step
            high = low + (high - low) // knob.step * knob.step if high >= low else high
        return low, high


def _place(spec: dict[str, Any], knob: Knob, value: Any) -> None:
    if knob.index is None:
        set_dotted(spec, knob.key, value)
    else:
        items = list(get_dotted(spec, knob.key))
        items[knob.index] = value
        set_dotted(spec, knob.key, items)


def build(
    schema: Mapping[str, Any],
    spec: Mapping[str, Any],
    provenance: Mapping[str, Origin] | None = None,
    options: AutoMLOptions | Mapping[str, Any] | None = None,
) -> SearchSpace:
    """The search space of ``spec`` under ``schema``.

    Args:
        schema: the packaged train schema with its annotations.
        spec: the resolved spec (trial 0).
        provenance: dotted key → origin; a value given by override for this run is not searched unless named.
        options: the ``--automl`` options, parsed or not: ``parameters`` replace ``automl_default_parameters``, a key in ``ranges`` is
            added; fields across whose values the study's metric does not compare are left out.

    Raises:
        SpecError: unknown or disabled parameters, or ranges outside the schema; all problems together.
    """
    if not isinstance(options, AutoMLOptions):
        options = parse(options)
    clashes = incomparable(
        schema, [objective.metric for objective in objectives(schema, spec, options)]
    )
    parameters = options.parameters
    ranges = dict(options.ranges)
    fields = field_nodes(schema)
    disabled = set(schema.get("automl_disabled_parameters") or ())
    asked = list(dict.fromkeys([*(parameters or ()), *ranges]))
    wanted = list(
        dict.fromkeys(
            [
                *(
                    parameters
                    if parameters is not None
                    else schema.get("automl_default_parameters") or ()
                ),
                *ranges,
            ]
        )
    )
    problems: list[MaeError] = []
    left_out: dict[str, str] = {}
    notes: list[str] = []
    knobs: list[Knob] = []
    for name in wanted:
        key = name.partition("[")[0]
        node = fields.get(key)
        if node is None:
            if name not in asked:
                left_out[name] = "the schema names it for AutoML but has no such field"
                continue
            near = [field for field in fields if field.endswith(f".{key}")][
                :3
            ] or difflib.get_close_matches(key, list(fields), n=1)
            hint = f"did you mean {' or '.join(near)}?" if near else "see `mae explain`"
            problems.append(
                UsageError(
                    "no such field to search",
                    field=name,
                    got=name,
                    expected="a dotted key of the train spec",
                    hint=hint,
                )
            )
            continue
        if key in disabled or node.get("automl_enabled") is False:
            if name in asked:
                problems.append(
                    UsageError(
                        "the schema disables AutoML for this field",
                        field=name,
                        got=name,
                        expected="another parameter",
                    )
                )
            else:
                left_out[name] = "disabled for AutoML by the schema"
            continue
        reason = _why_not(name, key, node, spec, provenance or {}, wanted, asked, clashes)
        if reason:
            left_out[name] = reason
            continue
        try:
            knobs.extend(_knobs(name, key, node, spec, wanted, fields, ranges, notes))
        except RangeError as error:
            if name in asked and not error.leave_out:
                problems.append(
                    UsageError(
                        str(error),
                        field=name,
                        got=ranges.get(name),
                        expected=error.expected,
                        hint=error.hint,
                    )
                )
            else:
                left_out[name] = str(error)
    if problems:
        raise SpecError("the search space is wrong", problems=problems)
    parents = {
        key for key, node in fields.items() if str(node.get("parent_param")).lower() == "true"
    }
    parents |= {str(node["parent_param"]) for node in fields.values() if node.get("parent_param")}
    ordered = _order(sorted(knobs, key=lambda knob: knob.key not in parents))
    for knob in ordered:
        if knob.default is not MISSING and knob.refuses(knob.default):
            notes.append(
                f"{knob.name}: the spec's value {knob.default!r} is {knob.refuses(knob.default)}; trial 0 still runs it as given"
            )
    return SearchSpace(tuple(ordered), left_out, tuple(notes))


def _why_not(
    name: str,
    key: str,
    node: Mapping[str, Any],
    spec: Mapping[str, Any],
    provenance: Mapping[str, Origin],
    wanted: Sequence[str],
    asked: Sequence[str],
    clashes: Mapping[str, str],
) -> str | None:
    inactive = acts(
        node.get("applies_when"), spec, searched={item.partition("[")[0] for item in wanted}
    )
    if inactive:
        return f"has no effect here: {inactive}"
    if key in clashes:
        return f"{clashes[key]} does not compare across its values; give a probe set, or search it against another metric"
    origin = provenance.get(key)
    if name not in asked and origin is not None and origin.kind in PINNED_BY:
        return f"set to {get_dotted(spec, key)!r} for this run; name it in parameters= to search it anyway"
    return None


def _knobs(
    name: str,
    key: str,
    node: Mapping[str, Any],
    spec: Mapping[str, Any],
    wanted: Sequence[str],
    fields: Mapping[str, Mapping[str, Any]],
    ranges: Mapping[str, Any],
    notes: list[str],
) -> list[Knob]:
    value = get_dotted(spec, key, node.get("default"))
    given = ranges.get(name, MISSING)
    cond = math_conditions(node, key, fields)
    conditions = node.get("applies_when") or {}
    searched = {item.partition("[")[0] for item in wanted} - {key}
    when = {other: need for other, need in conditions.items() if other in searched}
    index = name[len(key) :].removeprefix("[").removesuffix("]")
    if name != key and (not index.isdecimal() or name != f"{key}[{index}]"):
        raise RangeError("not an element of a list", expected=f"{key} or {key}[0]")
    if "array" in _types(node) or isinstance(value, list):
        if not isinstance(value, list) or not value:
            raise RangeError("the spec gives no list to search around", leave_out=True)
        items = node.get("items") or {}
        chosen = range(len(value)) if not index else [int(index)]
        if any(i >= len(value) for i in chosen):
            raise RangeError(
                f"the list has {len(value)} elements", expected=f"an index below {len(value)}"
            )
        wide = {
            **{k: v for k, v in node.items() if k in ("search", "math_cond", "option_weights")},
            **items,
        }
        return [
            _knob(f"{key}[{i}]", wide, value[i], given, spec, cond, when, notes) for i in chosen
        ]
    if index:
        raise RangeError("this field is no list", expected=key)
    return [_knob(name, node, value, given, spec, cond, when, notes)]


def _knob(
    name: str,
    node: Mapping[str, Any],
    value: Any,
    given: Any,
    spec: Mapping[str, Any],
    cond: Any,
    when: Mapping[str, Any],
    notes: list[str],
) -> Knob:
    found: Range = (
        given_range(node, value, given, cond)
        if given is not MISSING
        else default_range(node, value, spec, cond)
    )
    notes.extend(f"{name}: {note}" for note in found.notes)
    return Knob(
        name=name,
        kind=found.kind,
        default=value,
        low=found.low,
        high=found.high,
        log=found.log,
        step=found.step,
        choices=found.choices,
        weights=found.weights,
        relations=cond.relations if found.kind != "categorical" else (),
        when=when,
        source="user" if given is not MISSING else found.source,
    )


def _types(node: Mapping[str, Any]) -> set[str]:
    kind = node.get("type")
    return set(kind) if isinstance(kind, list) else {kind} if kind else set()


def _order(knobs: Sequence[Knob]) -> list[Knob]:
    """Knobs after those they depend on; otherwise in the order they were named. A cycle keeps that order."""
    ordered: list[Knob] = []
    waiting = list(knobs)
    while waiting:
        names = {knob.key for knob in waiting}
        ready = [
            k for k in waiting if not ({r.key for r in k.relations} | set(k.when)) - {k.key} & names
        ] or waiting[:1]
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered
