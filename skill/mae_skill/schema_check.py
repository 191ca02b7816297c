"""A spec against its schema: every problem at once.

Each names its dotted key, the value, what is accepted and how to fix it.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from mae_skill import archs
from mae_skill.dotted import field_nodes, flatten
from mae_skill.errors import REDACTED, MaeError, SpecError, UsageError, looks_secret
from mae_skill.merge import accepted_types
from mae_skill.spelling import nearest

MAX_UNKNOWN = 20
"""Unknown keys of a section that are named; the rest is counted."""

MAX_ERRORS = 500

NO_KEY = "take it out: mae explain lists the fields"

UNKNOWN = "unknown key"
"""The message of a key that the schema does not have."""

INT_MAX = 2**31 - 1
"""The bound of whole numbers that have none of their own; not worth a word."""

_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section",
    "null": "null",
}


def check_schema(spec: Mapping[str, Any], schema: Mapping[str, Any]) -> list[MaeError]:
    """All problems of ``spec`` under ``schema`` (JSON Schema draft 2020-12), by key."""
    problems: dict[tuple[str | None, str], MaeError] = {}
    for error in sorted(
        islice(_iterate(spec, schema), MAX_ERRORS),
        key=lambda item: [str(part) for part in item.absolute_path],
    ):
        for problem in _problems(error, schema):
            problems.setdefault((problem.field, problem.message), problem)
    # What is of another type is none of the options either: said once.
    twice = [(field, _NO_OPTION) for field, message in problems if message == _WRONG_TYPE]
    for place in twice:
        problems.pop(place, None)
    return list(problems.values())


def _iterate(spec: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    """jsonschema's errors.

    Raises:
        UsageError: the bundle's schema cannot be used.
    """
    from jsonschema.exceptions import UnknownType
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        # An empty registry: nothing is ever fetched.
        yield from _validator()(schema, registry=Registry()).iter_errors(spec)
    except (UnknownType, Unresolvable, RecursionError, re.error, TypeError, ValueError) as error:
        raise UsageError(
            "the bundle's schema cannot be used",
            field="schemas",
            got=f"{type(error).__name__}: {error}"[:200],
            expected="JSON Schema draft 2020-12",
            hint="mae skill validate DIR",
        ) from error


def violated(value: Any, node: Mapping[str, Any]) -> set[str]:
    """The keywords of one schema node that a value breaks.

    Raises:
        UsageError: the node cannot be used.
    """
    return {str(error.absolute_schema_path[0]) for error in _iterate(value, node)}


@functools.cache
def _validator() -> Any:
    """Draft 2020-12, where 1.0 is not an integer.

    Merging has made whole numbers integers, and the runners' models are strict.
    """
    from jsonschema import Draft202012Validator, validators

    types = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    extend: Any = validators.extend
    return extend(Draft202012Validator, type_checker=types)


def _problems(error: Any, schema: Mapping[str, Any]) -> Iterator[MaeError]:
    """What one error of jsonschema says, in our words: a row for each key that it is about."""
    key = _dotted(error.absolute_path)
    if error.validator == "additionalProperties":
        yield from _unknown_keys(error, key, schema)
    elif error.validator == "required":
        yield from _missing_keys(error, key)
    else:
        yield _wrong_value(error, key)


def _unknown_keys(error: Any, key: str, schema: Mapping[str, Any]) -> Iterator[MaeError]:
    known = list((error.schema or {}).get("properties") or {})
    unknown = sorted(set(map(str, error.instance)) - set(known))
    if len(unknown) > MAX_UNKNOWN:
        yield SpecError(
            f"{len(unknown)} unknown keys in {key or 'the spec'}",
            field=key or None,
            expected=_listed(known),
            hint=f"the first {MAX_UNKNOWN} are named",
        )
    for name in unknown[:MAX_UNKNOWN]:
        full = f"{key}.{name}" if key else name
        value = error.instance[name]

        misplaced = _misplaced(name, value, schema)
        for leaf, (stated, targets) in misplaced.items():
            yield SpecError(
                UNKNOWN,
                field=f"{full}.{leaf}",
                got=stated,
                expected=_listed(known),
                hint=f"did you mean {' or '.join(targets[:3])}?" if targets else NO_KEY,
            )
        if misplaced:
            continue

        hint = did_you_mean(name, full, known, list(field_nodes(schema)))
        yield SpecError(
            UNKNOWN,
            field=full,
            # A misspelled secret is one too.
            got=REDACTED if looks_secret(hint) or _near_secret(name) else value,
            expected=_listed(known),
            hint=hint or NO_KEY,
        )


def _missing_keys(error: Any, key: str) -> Iterator[MaeError]:
    for name in error.validator_value:
        if name not in error.instance:
            yield SpecError(
                "a required key is missing",
                field=f"{key}.{name}" if key else name,
                expected="a value",
                hint="set it in the spec, or as KEY=VALUE",
            )


def _wrong_value(error: Any, key: str) -> MaeError:
    node = error.schema if isinstance(error.schema, Mapping) else {}
    expected = describe(node)
    if error.validator == "maximum" and error.validator_value == INT_MAX:
        expected += f", ≤ {INT_MAX}"  # which `describe` leaves out
    return SpecError(
        _MESSAGES.get(error.validator, "not an accepted value"),
        field=key or None,
        got=_got(error.instance),
        expected=expected,
        hint=_near_option(error, key)
        or _quoted(error, key, node)
        or _mend(key, node, error.instance),
    )


def _near_option(error: Any, key: str) -> str | None:
    """The option that a misspelled one is closest to, or that a name of other houses stands for."""
    if error.validator != "enum" or not isinstance(error.instance, str):
        return None
    if key == "model.arch":
        found, fields = archs.meant(error.instance)
        if found:
            besides = " ".join(f"{field}={value}" for field, value in fields.items())
            names = " or ".join(arch.name for arch in found)
            return f"did you mean {names}{f' with {besides}' if besides else ''}?"
    options = [str(option) for option in error.validator_value if option is not None]
    near = nearest(error.instance, options, 0.5)
    return f"did you mean {near}?" if near else None


def _quoted(error: Any, key: str, node: Mapping[str, Any]) -> str | None:
    """How a number or a boolean is written where a text is expected, and a text where a list is."""
    kinds = node.get("type")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds or ())
    if error.validator != "type" or not kinds & {"string", "array"}:
        return None
    if "array" in kinds:
        of_texts = (node.get("items") or {}).get("type") == "string"
        is_one = of_texts and isinstance(error.instance, str) and error.instance.strip()
        return f"as a list: {key}=[{error.instance}]" if is_one else None
    if not isinstance(error.instance, (bool, int, float)):
        return None
    text = json.dumps(json.dumps(error.instance))
    hint = f"in quotes it is a text: {text}"
    if key.endswith("]"):  # a shell leaves [2, 0] of ["2", "0"]
        hint += f"; in a shell, with quotes around the whole: '{key.partition('[')[0]}=[{text}]'"
    return hint


_WRONG_TYPE, _NO_OPTION = "wrong type", "not one of the options"
_MESSAGES = {
    "type": _WRONG_TYPE,
    "enum": _NO_OPTION,
    "minimum": "too small",
    "exclusiveMinimum": "too small",
    "maximum": "too large",
    "exclusiveMaximum": "too large",
    "minLength": "empty",
    "minItems": "too few items",
    "maxItems": "too many items",
    "anyOf": "not an accepted value",
}


def _mend(key: str, node: Mapping[str, Any], value: Any) -> str:
    """How to mend a value: one that a shell can take in its place, and what the field is."""
    if not key:
        return "write the spec as keys with values, a section for each dot of a key"
    usual = node.get("default")
    example = next((one for one in (usual, *(node.get("examples") or ())) if one is not None), None)
    if isinstance(example, (Mapping, list)) or "[" in key:
        example = None
    near = _nearest(node, value)
    ways = [f"{key}={near}, the nearest that is accepted"] if near is not None else []
    if example is not None and example != near:
        shown = json.dumps(example) if isinstance(example, bool) else example
        ways.append(f"{key}={shown}" + (", the default" if example == usual else ""))
    elif not ways and value is None and "[" not in key:
        ways.append("leave it out")
    text = f"set {'; or '.join(ways)}" if ways and ways != ["leave it out"] else "".join(ways)
    if "[" in key:
        return text or f"correct this item of {key.partition('[')[0]}, or take it out"
    about = node.get("description")
    known = key.rpartition(".")[0] or key  # a key of a mapping is no field, the mapping is one
    field = f"{about} (mae explain {key})" if isinstance(about, str) else f"see mae explain {known}"
    return f"{text}. {field}" if text else field


def _nearest(node: Mapping[str, Any], value: Any) -> Any:
    """The bound of a range that a number of its type is beyond; None where it is not a value
    itself."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    for name, beyond in (("minimum", value.__lt__), ("maximum", value.__gt__)):
        if (bound := node.get(name)) is not None and beyond(bound) is True:
            return _number(bound)
    return None


def _near_secret(name: str) -> bool:
    return nearest(name.lower(), _SECRETS, 0.7) is not None


_SECRETS = ("encryption_key", "api_key", "password", "passphrase", "secret", "token")


def _got(value: Any) -> Any:
    return "null" if value is None else value


def _dotted(path: Any) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _misplaced(
    name: str, value: Any, schema: Mapping[str, Any]
) -> dict[str, tuple[Any, list[str]]]:
    """Where a whole section is in the wrong place: key → (value, the dotted keys it may be meant
    for).
    """
    if not isinstance(value, Mapping) or not value:
        return {}
    fields = list(field_nodes(schema))
    if len(value) > MAX_UNKNOWN or not any(f".{name}." in f".{field}" for field in fields):
        return {}
    return {
        leaf: (item, [field for field in fields if f".{field}".endswith(f".{name}.{leaf}")])
        for leaf, item in flatten(value).items()
    }


def _listed(names: list[str], limit: int = 30) -> str:
    return (
        "one of " + ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
        if names
        else "no key here"
    )


def did_you_mean(
    name: str, full: str, siblings: Sequence[str], everywhere: Collection[str]
) -> str | None:
    """The field that was meant, of the dotted keys `everywhere`: the same word in another section,
    a like word beside it, one there that holds all of its words, a like word anywhere.
    """
    same = [key for key in everywhere if key.rpartition(".")[2] == name]
    near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    words_of = set(name.split("_"))
    near = near or [one for one in siblings if words_of <= set(one.split("_"))][:1]
    if near and not same:
        prefix = full.rpartition(".")[0]
        return f"did you mean {prefix + '.' if prefix else ''}{near[0]}?"

    if not same:
        words = {key.rpartition(".")[2] for key in everywhere}
        like = difflib.get_close_matches(name, words, n=1, cutoff=0.7)
        same = [key for key in everywhere if key.rpartition(".")[2] in like]
    return f"did you mean {' or '.join(same[:3])}?" if same else None


def describe(node: Mapping[str, Any]) -> str:
    """What a schema node accepts, in words: ``a whole number ≥ 1``, ``one of a, b``."""
    if node.get("enum") is not None:
        return "one of " + ", ".join(
            "null" if option is None else str(option) for option in node["enum"]
        )
    if node.get("anyOf"):
        return " or ".join(dict.fromkeys(describe(branch) for branch in node["anyOf"]))
    words = []
    for kind in ("integer", "number", "string", "boolean", "array", "object", "null"):
        if kind in accepted_types(node):
            words.append(_WORDS[kind] + _bounds(node, kind))
    return " or ".join(words) or "a value that the schema accepts"


_WORDS_ALONE = re.compile(r"\^\(?(\w+(?:\|\w+)*)\)?\$")
"""A pattern that stands for some words."""


def _number(bound: float) -> str:
    return (
        str(bound)
        if isinstance(bound, int)
        else f"{bound:g}"
        if abs(bound) < 1e6 or not bound.is_integer()
        else str(int(bound))
    )


def _bounds(node: Mapping[str, Any], kind: str) -> str:
    """What the keywords for values of this kind add to its word."""
    parts = []
    if kind in ("integer", "number"):
        signs = (
            ("exclusiveMinimum", ">"),
            ("minimum", "≥"),
            ("exclusiveMaximum", "<"),
            ("maximum", "≤"),
        )
        parts = [
            f"{sign} {_number(node[name])}"
            for name, sign in signs
            if name in node and node[name] != INT_MAX
        ]
    if kind == "array" and ("minItems" in node or "maxItems" in node):
        low, high = node.get("minItems"), node.get("maxItems")
        parts.append(
            f"of {low} items"
            if low == high
            else f"of at least {low} items"
            if high is None
            else f"of at most {high} items"
        )
    if kind == "array" and isinstance(node.get("items"), Mapping) and accepted_types(node["items"]):
        parts.append(f"{'' if parts else 'of items, '}each {describe(node['items'])}")
    if kind == "string" and node.get("minLength"):
        parts.append("that is not empty")
    if kind == "string" and isinstance(pattern := node.get("pattern"), str):
        words = _WORDS_ALONE.fullmatch(pattern)
        parts.append(
            f"({words[1].replace('|', ', ')})" if words else f"of the form {pattern.strip('^$')}"
        )
    return (" " + ", ".join(parts)) if parts else ""
