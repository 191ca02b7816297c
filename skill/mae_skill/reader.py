"""The one reader for every spec value: files, overrides, Python arguments.

PyYAML resolves plain words by YAML 1.1, where ``2e-4`` is text, ``on`` a boolean, ``012`` ten and
``1:30`` ninety. This reader resolves them by YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema), so JSON is read as it means and numbers are numbers.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from mae_skill.errors import NotFoundError, SpecError, UsageError


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 core resolvers; no merge keys or dates, no duplicate keys."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(rf"^(?:{_pattern})$"),
        list(_first) + ([""] if _tag == "null" else []),
    )


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if text.startswith(("0o", "0x")):
        return int(text, 0)
    return int(text)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise SpecError(
            "a number must be finite",
            got=text,
            expected="a finite number",
            hint=f"line {node.start_mark.line + 1}",
        )
    return value


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        where = f"line {key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            raise SpecError("a key must be text", got=key, expected="a word", hint=where)
        if key in found:
            raise SpecError(
                "a key is given twice", field=key, got=key, expected="each key once", hint=where
            )
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str, source: str = "the text") -> Any:
    """The document in ``text`` (YAML 1.2 or JSON) as plain Python values.

    Raises:
        SpecError: it is not YAML, a key stands twice, or a number is not finite.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(
            f"{source} is not valid YAML{where}", got=str(problem), expected="YAML or JSON"
        ) from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise SpecError(
            f"{source} cannot be read",
            got=str(error)[:200],
            expected="YAML or JSON of ordinary size",
        ) from error


def parse_value(text: str) -> Any:
    """One value as a spec file would read it: ``2e-4`` → 0.0002, ``[1, 2]`` → list, ``on`` → text;
    text that is not YAML stays text.
    """
    try:
        return parse_yaml(text, "the value")
    except SpecError as error:
        if error.message.startswith(("a number", "a key")):
            raise
        return text


def parse_override(text: str) -> tuple[str, Any]:
    """``"a.b=c"`` → ``("a.b", value)``; the value is read as a spec file would read it.

    Raises:
        UsageError: there is no ``=``, or the key is empty.
    """
    key, found, value = text.partition("=")
    key = key.strip()
    if not found or not key or any(not part for part in key.split(".")):
        raise UsageError(
            "an override is not key=value",
            field="override",
            got=text,
            expected="a dotted key, =, a value: train.num_epochs=10",
        )
    return key, parse_value(value.strip())


def read_spec(path: str | Path) -> dict[str, Any]:
    """The spec in a YAML or JSON file; ``-`` reads standard input. An empty file is an empty spec.

    Raises:
        NotFoundError: there is no such file.  SpecError: it is not a mapping, or not YAML.
        UsageError: it cannot be read as text.
    """
    name = str(path)
    if name == "-":
        text, shown = sys.stdin.read(), "standard input"
    else:
        shown = name
        file = Path(name)
        if not file.is_file():
            raise NotFoundError(
                "there is no such spec file",
                field="experiment_spec",
                got=name,
                expected="a YAML or JSON file",
            )
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                "the spec file cannot be read as text",
                field="experiment_spec",
                got=name,
                expected="UTF-8",
                hint=str(error),
            ) from error
    found = parse_yaml(text, shown)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SpecError(
            f"{shown} is not a spec",
            got=type(found).__name__,
            expected="a mapping of sections, such as train: {num_epochs: 10}",
        )
    return found


def dump_yaml(document: Any) -> str:
    """``document`` as YAML that this reader and YAML 1.1 readers take alike; key order is kept."""
    return str(
        yaml.dump(
            document,
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=False,
            width=120,
        )
    )


class _Dumper(yaml.SafeDumper):
    """Floats always with a point (YAML 1.1 reads ``2e-4`` as text); short lists in one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e", 1)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _dump_list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    flat = all(not isinstance(item, (list, dict)) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flat)


def _dump_str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # Quoted where YAML 1.2 would read it as something else than text (YAML 1.1's own cases PyYAML
    # quotes by itself).
    # Line breaks of every kind survive only as escapes, in double quotes.
    style = '"' if not value.isprintable() else "'" if not isinstance(_plain(value), str) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _plain(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, SpecError):
        return text


_Dumper.add_representer(float, _dump_float)
_Dumper.add_representer(list, _dump_list)
_Dumper.add_representer(str, _dump_str)
