"""The range of one parameter, and the bounds and relations that a schema puts on it.

A range comes from the user (clamped to the schema, or refused), from the schema's annotation, or is
derived with a reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mae_skill.conditions import acts
from mae_skill.dotted import MISSING

from mae_sdk.automl.upstream_settings import RANGE_WORDS


@dataclass(frozen=True)
class Relation:
    """``parameter op value-of(key)`` in every trial; ``op`` is one of ``< <= > >=``."""

    op: str
    key: str

    def __str__(self) -> str:
        return f"{self.op} {self.key}"

    @classmethod
    def parse(cls, text: str) -> Relation:
        """The inverse of ``str``."""
        op, key = text.split(" ", 1)
        return cls(op, key)


@dataclass(frozen=True)
class Conditions:
    """``math_cond`` taken apart: exclusive/inclusive bounds, base of a power, divisor, relations to
    other fields."""

    low: float | None = None
    low_open: bool = False
    high: float | None = None
    high_open: bool = False
    base: int | None = None
    divisor: int | None = None
    relations: tuple[Relation, ...] = ()


def math_conditions(node: Mapping[str, Any], key: str, fields: Mapping[str, Any]) -> Conditions:
    """``math_cond`` and ``depends_on`` of a field.

    Unknown words are ignored: foreign bundles have dialects.
    """
    texts = node.get("math_cond") or ()
    parts = [
        part
        for text in ([texts] if isinstance(texts, str) else texts)
        for part in re.split(r"[,;]|\band\b", text)
    ]
    depends = [other for other in _listed(node.get("depends_on")) if other]
    found: dict[str, Any] = {}
    relations: list[Relation] = []
    for part in parts:
        match = re.fullmatch(r"\s*(<=|>=|<|>|\^|/)\s*(\S+)\s*", part)
        if not match:
            continue
        op, word = match.groups()
        try:
            number: float | None = float(word)
        except ValueError:
            number = None
        if op in ("<", "<=", ">", ">="):
            if number is not None:
                side = "low" if op[0] == ">" else "high"
                found[side], found[f"{side}_open"] = number, "=" not in op
            else:
                names = depends if word == "depends_on" else [word]
                relations += [
                    Relation(op, resolved)
                    for name in names
                    if (resolved := _resolve(name, key, fields))
                ]
        elif number is not None and number >= (2 if op == "^" else 1):
            found["base" if op == "^" else "divisor"] = int(number)
    return Conditions(**found, relations=tuple(relations))


def _listed(value: Any) -> list[str]:
    return (
        []
        if value is None
        else [value]
        if isinstance(value, str)
        else [str(item) for item in value]
    )


def _resolve(name: str, key: str, fields: Mapping[str, Any]) -> str | None:
    """A related field by its dotted key, or as a sibling of ``key``."""
    if name in fields:
        return name
    sibling = f"{key.rpartition('.')[0]}.{name}".lstrip(".")
    return sibling if sibling in fields else None


RANGE_FORMS = "[low, high], {low, high, log} or {choices: [...]}"


class RangeError(ValueError):
    """No usable range.

    ``leave_out``: not the user's mistake, the parameter is left out with this reason.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        hint: str | None = None,
        leave_out: bool = False,
    ) -> None:
        super().__init__(message)
        self.expected = expected
        self.hint = hint
        self.leave_out = leave_out


@dataclass(frozen=True)
class Range:
    """A parameter's range before it has a name."""

    kind: str
    low: Any = None
    high: Any = None
    log: bool = False
    step: int | None = None
    choices: tuple[Any, ...] = ()
    weights: tuple[float, ...] = ()
    source: str = "schema"
    notes: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class _Bounds:
    low: float | None
    high: float | None
    low_open: bool
    high_open: bool

    def __str__(self) -> str:
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        left = "(" if self.low_open or self.low is None else "["
        right = ")" if self.high_open or self.high is None else "]"
        return f"{left}{low}, {high}{right}"


def given_range(node: Mapping[str, Any], value: Any, given: Any, cond: Conditions) -> Range:
    """The user's range: ``[low, high]``, ``{low, high, log}``, ``{choices: [...]}`` or, for an
    enum, a list of its words."""
    options = _options(node)
    if isinstance(given, Mapping):
        given = _in_our_words(node, given, cond)
        unknown = set(given) - {"low", "high", "log", "choices", "weights"}
        if unknown:
            raise RangeError(
                f"unknown key in a range: {', '.join(sorted(unknown))}",
                expected="low, high, log or choices, weights",
            )
        if "choices" in given:
            if {"low", "high", "log"} & set(given):
                raise RangeError(
                    "choices and an interval at once",
                    expected="{low, high, log} or {choices: [...]}",
                )
            return _given_choices(node, options, given["choices"], given.get("weights"), cond)
        if not {"low", "high"} <= set(given):
            raise RangeError(
                "a range needs low and high", expected="{low, high, log} or {choices: [...]}"
            )
        return _given_interval(node, value, given["low"], given["high"], given.get("log"), cond)
    if isinstance(given, Sequence) and not isinstance(given, str):
        if options is None and len(given) == 2 and all(_is_number(item) for item in given):
            return _given_interval(node, value, given[0], given[1], None, cond)
        return _given_choices(node, options, given, None, cond)
    raise RangeError("not a range", expected="[low, high], {low, high, log} or {choices: [...]}")


NARROW_FACTOR, NARROW_SHARE = 5.0, 0.25
"""How far a narrowed range goes from its center: by a factor on a log scale, else by a share of the
whole range."""


def narrowed(found: Range, value: Any) -> Range:
    """The part of a range around `value`; the whole range where that is no number in it."""
    low, high = found.low, found.high
    if found.kind == "categorical" or low is None or high is None:
        return found
    if not _is_number(value) or not low <= value <= high:
        return found
    if found.log:
        below, above = value / NARROW_FACTOR, value * NARROW_FACTOR
    else:
        reach = NARROW_SHARE * (high - low)
        below, above = value - reach, value + reach
    if found.kind == "int":
        step = found.step or 1
        # The steps stay those of the whole range.
        below = low + max(0, math.ceil((below - low) / step)) * step
        above = low + math.floor((above - low) / step) * step
    new_low, new_high = max(low, below), min(high, above)
    return replace(found, low=new_low, high=new_high) if new_low < new_high else found


def _in_our_words(
    node: Mapping[str, Any], given: Mapping[str, Any], cond: Conditions
) -> dict[str, Any]:
    """A range in which upstream's words are ours; of ``valid_min`` and ``valid_max`` alone, the
    other end is the schema's.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        word = RANGE_WORDS.get(str(name), name)
        if word in found:
            raise RangeError(f"{word} is given twice", expected="one of its words")
        found[word] = value
    if found.keys() & {"low", "high"} and set(given) & RANGE_WORDS.keys():
        bounds = _bounds(node, cond)
        if "low" not in found and bounds.low is not None:
            found["low"] = bounds.low
        if "high" not in found and bounds.high is not None:
            found["high"] = bounds.high
    return found


def default_range(
    node: Mapping[str, Any], value: Any, spec: Mapping[str, Any], cond: Conditions
) -> Range:
    """The schema's ``search`` (the first whose ``when`` holds), its enum, or a range derived from
    bounds and default."""
    options = _options(node)
    if options is not None:
        weights = _weights(node, options)
        kept = [
            (o, w) for o, w in zip(options, weights or [1.0] * len(options), strict=True) if w > 0
        ]
        if len(kept) < 2:
            raise RangeError("only one option has a weight above zero", leave_out=True)
        return Range(
            "categorical",
            choices=tuple(o for o, _ in kept),
            weights=tuple(w for _, w in kept) if weights else (),
        )
    kind = _kind(node, value)
    search = node.get("search")
    for entry in [search] if isinstance(search, Mapping) else search or []:
        if acts(entry.get("when"), spec) is None:
            if "choices" in entry:
                return Range(
                    "categorical",
                    choices=tuple(entry["choices"]),
                    weights=tuple(entry.get("weights", ())),
                )
            step = entry.get("step")
            if (
                kind == "int"
                and isinstance(step, int)
                and step > 1
                and not (cond.divisor and step % cond.divisor)
            ):
                cond = replace(cond, divisor=step)
            return _finish(
                node, kind, entry["low"], entry["high"], bool(entry.get("log")), cond, value
            )
    if cond.base and kind == "int":
        bounds = _bounds(node, cond)
        return _finish(
            node,
            kind,
            bounds.low or 1,
            bounds.high or max(4 * int(value or 1), cond.base),
            False,
            cond,
            value,
        )
    return replace(_derived(node, kind, value, cond), source="derived")


def _derived(node: Mapping[str, Any], kind: str, value: Any, cond: Conditions) -> Range:
    """Bounds alone rarely make a range: a default two decades under the upper bound is a rate,
    searched on a log scale around it."""
    bounds = _bounds(node, cond)
    number: float | None = float(value) if _is_number(value) else None
    low, high = bounds.low, bounds.high
    if (
        kind == "float"
        and number is not None
        and number > 0
        and (high is None or number < high / 100)
        and (low is None or low <= number / 100)
    ):
        found = _finish(
            node,
            kind,
            number / 100,
            min(number * 100, high if high is not None else math.inf),
            True,
            cond,
            value,
        )
        return replace(
            found,
            notes=(
                *found.notes,
                "no search range in the schema: two decades around the spec's value, log scale",
            ),
        )
    if low is None or high is None:
        if number is None or number <= 0:
            raise RangeError(
                "the schema gives it no range",
                hint="give one: range.KEY=[low, high]",
                leave_out=True,
            )
        low = number / 4 if low is None else max(low, number / 4)
        high = number * 4 if high is None else min(high, number * 4)
        found = _finish(node, kind, low, high, False, cond, value)
        return replace(
            found,
            notes=(
                *found.notes,
                "no search range in the schema: a quarter to four times the spec's value",
            ),
        )
    log = low > 0 and high / low >= 1000
    return _finish(node, kind, low, high, log, cond, value)


def _is_log(node: Mapping[str, Any], value: Any, cond: Conditions) -> bool:
    """Whether the field would be searched on a log scale without a range of the user's."""
    try:
        return _derived(node, _kind(node, value), value, cond).log
    except RangeError:
        return False


def _given_interval(
    node: Mapping[str, Any], value: Any, low: Any, high: Any, log: Any, cond: Conditions
) -> Range:
    if _options(node) is not None:
        raise RangeError(
            "this field has options, not an interval", expected=f"some of {_options(node)}"
        )
    if not (_is_number(low) and _is_number(high)):
        raise RangeError("low and high must be finite numbers", expected="[low, high]")
    if low > high:
        raise RangeError("low is above high", expected="[low, high] with low below high")
    if log is not None and not isinstance(log, bool):
        raise RangeError("log is true or false")
    kind = _kind(node, value)
    bounds = _bounds(node, cond)
    above = bounds.high is not None and (
        low > bounds.high or (low == bounds.high and bounds.high_open)
    )
    below = bounds.low is not None and (
        high < bounds.low or (high == bounds.low and bounds.low_open)
    )
    if above or below:
        raise RangeError("the range is outside what the schema allows", expected=str(bounds))
    if low == high:
        raise RangeError(
            "the range holds one value",
            expected="[low, high] with low below high",
            hint="to fix the field, set it in the spec",
        )
    if log is None:
        search = node.get("search")
        hints = [search] if isinstance(search, Mapping) else list(search or ())
        own = any(entry.get("log") for entry in hints) if hints else _is_log(node, value, cond)
        log = low > 0 and (own or high / low >= 1000)
    if log and low <= 0 and not (bounds.low is not None and bounds.low > 0):
        raise RangeError(
            "a log scale needs a lower end above zero", expected="low > 0, or log: false"
        )
    found = _finish(node, kind, low, high, bool(log), cond, value)
    if found.kind != "categorical" and (found.low > low or found.high < high) and not found.notes:
        clamped = f"[{low:g}, {high:g}] clamped to [{found.low:g}, {found.high:g}]"
        found = replace(found, notes=(f"{clamped}: the schema allows {bounds}",))
    return replace(found, source="user")


def _given_choices(
    node: Mapping[str, Any], options: list[Any] | None, given: Any, weights: Any, cond: Conditions
) -> Range:
    if not isinstance(given, (list, tuple)) or not given:
        raise RangeError("choices must be a list that is not empty")
    if weights is not None and (
        not isinstance(weights, (list, tuple))
        or len(weights) != len(given)
        or not all(_is_number(w) and w >= 0 for w in weights)
        or not any(w > 0 for w in weights)
    ):
        raise RangeError(
            "weights must be as many numbers of at least 0 as there are choices,"
            " one of them above 0"
        )
    for choice in given:
        _judge_choice(node, options, choice, cond)
    if twice := [item for at, item in enumerate(given) if _is_among(item, given[:at])]:
        raise RangeError(f"{twice[0]!r} is named twice", expected="different choices")
    chances = weights if weights is not None else [1.0] * len(given)
    if sum(chance > 0 for chance in chances) < 2:
        raise RangeError(
            "the choices hold one value",
            expected="two choices or more with a weight above 0",
            hint="to fix the field, set it in the spec",
        )
    return Range(
        "categorical",
        choices=tuple(given),
        weights=tuple(float(w) for w in weights or ()),
        source="user",
    )


def _judge_choice(
    node: Mapping[str, Any], options: list[Any] | None, choice: Any, cond: Conditions
) -> None:
    """Refuse a choice that the field cannot take.

    Raises:
        RangeError: it is no option, of another type, or outside the bounds.
    """
    if options is not None and not _is_among(choice, options):
        if choice is None and "null" in _types_of(node):
            return
        raise RangeError(
            f"{choice!r} is not an option of the schema", expected=f"some of {options}"
        )
    if not isinstance(choice, (str, int, float, bool, type(None))):
        raise RangeError(
            f"{choice!r} cannot be a choice", expected="text, numbers, true, false or null"
        )
    types = _types_of(node)
    if choice is None and types and "null" not in types:
        raise RangeError("null is no value of this field", expected=f"{' or '.join(types)}")
    numeric = bool({"number", "integer"} & set(types))
    if numeric and choice is not None and not _is_number(choice) and "string" not in types:
        raise RangeError(f"{choice!r} is not a number")
    if not isinstance(choice, (int, float)) or not _is_number(choice):
        return
    if numeric and "number" not in types and choice != int(choice):
        raise RangeError(f"{choice!r} is not a whole number")
    bounds = _bounds(node, cond)
    if not _inside(float(choice), bounds):
        raise RangeError(f"{choice!r} is outside what the schema allows", expected=str(bounds))


def _types_of(node: Mapping[str, Any]) -> list[str]:
    types = node.get("type")
    return [str(one) for one in (types if isinstance(types, list) else [types]) if one]


def _is_among(value: Any, others: Sequence[Any]) -> bool:
    """Whether a value is one of others; ``true`` is no 1."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in others)


def _finish(
    node: Mapping[str, Any], kind: str, low: Any, high: Any, log: bool, cond: Conditions, value: Any
) -> Range:
    """Clamp to the schema, step inside open ends, apply powers and divisors."""
    bounds = _bounds(node, cond)
    if bounds.low is not None:
        low = max(low, bounds.low)
    if bounds.high is not None:
        high = min(high, bounds.high)
    if kind == "int":
        low, high = math.ceil(low), math.floor(high)
        low += bounds.low_open and low == bounds.low
        high -= bounds.high_open and high == bounds.high
        if cond.base:
            powers = [cond.base**k for k in range(64) if low <= cond.base**k <= high]
            if len(powers) < 2:
                raise RangeError(
                    f"fewer than two powers of {cond.base} between {low} and {high}", leave_out=True
                )
            return Range("categorical", choices=tuple(powers))
        step = None
        if cond.divisor and cond.divisor > 1:
            step = cond.divisor
            low, high = math.ceil(low / step) * step, math.floor(high / step) * step
    else:
        step = None
        if bounds.low_open and low == bounds.low:
            low = high / 1000 if log else low + (high - low) * 1e-3
        if bounds.high_open and high == bounds.high:
            high = high - (high - low) * 1e-3
        low, high = float(low), float(high)
    if low > high:
        raise RangeError("no value is left inside the schema's bounds", expected=str(bounds))
    if low == high:
        raise RangeError(f"only {low:g} is left to choose", leave_out=True)
    if log and (low <= 0 or step):
        log = False
    return Range(kind, low=low, high=high, log=log, step=step)


def _options(node: Mapping[str, Any]) -> list[Any] | None:
    if node.get("enum"):
        return [
            option
            for option in node["enum"]
            if isinstance(option, (str, int, float, bool, type(None)))
            and not (option is None and node.get("null_added"))
        ]
    types = node.get("type")
    return [False, True] if "boolean" in (types if isinstance(types, list) else [types]) else None


def _weights(node: Mapping[str, Any], options: list[Any]) -> list[float]:
    weights = node.get("option_weights")
    if isinstance(weights, Mapping):
        return [float(weights.get(str(option), 0.0)) for option in options]
    if isinstance(weights, list) and len(weights) == len(options):
        return [float(weight) for weight in weights]
    return []


def _kind(node: Mapping[str, Any], value: Any) -> str:
    types = node.get("type")
    names = set(types if isinstance(types, list) else [types])
    if "number" in names:
        return "float"
    if "integer" in names:
        return "int"
    if not names - {None} and _is_number(value):
        return "int" if isinstance(value, int) else "float"
    raise RangeError(
        "only numbers, booleans and fields with options can be searched",
        hint="give {choices: [...]}",
        leave_out=True,
    )


def _bounds(node: Mapping[str, Any], cond: Conditions) -> _Bounds:
    lows: list[tuple[float, bool]] = [(cond.low, cond.low_open)] if cond.low is not None else []
    highs: list[tuple[float, bool]] = [(cond.high, cond.high_open)] if cond.high is not None else []
    for word, side, is_open in (
        ("minimum", lows, False),
        ("exclusiveMinimum", lows, True),
        ("maximum", highs, False),
        ("exclusiveMaximum", highs, True),
    ):
        number = node.get(word, MISSING)
        if _is_number(number):
            side.append((float(number), is_open))
    # An exclusive bound is tighter than an equal inclusive one.
    low = max(lows, default=None)
    high = min(highs, default=None, key=lambda item: (item[0], not item[1]))
    return _Bounds(low and low[0], high and high[0], bool(low and low[1]), bool(high and high[1]))


def _inside(number: float, bounds: _Bounds) -> bool:
    above = (
        bounds.low is None or number > bounds.low or (number == bounds.low and not bounds.low_open)
    )
    return above and (
        bounds.high is None
        or number < bounds.high
        or (number == bounds.high and not bounds.high_open)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
