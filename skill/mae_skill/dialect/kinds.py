"""What kind of value each key of a ``skill_info.yaml`` has.

A key that acts and holds another kind would be passed over, so it is an error of each action that
it is part of. Of one that changes no run here, that is only said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mae_skill.dotted import KEY

PATHS = {f"path_from_{word}" for word in ("format", "type", "intent", "source", "model_type")}


class Misread(NamedTuple):
    """A key whose value is of another kind, and the kind in words."""

    key: str
    got: Any
    expected: str


class _Kind(NamedTuple):
    words: str
    holds: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, (str, int, float)) for one in value)


def _are_options(value: Any) -> bool:
    return isinstance(value, list) and all(
        _is_table(one) and isinstance(one.get("name"), str) for one in value
    )


TEXT = _Kind("text", _is_text)
FLAG = _Kind("true or false", _is_flag)
SECONDS = _Kind(
    "a number of seconds",
    lambda value: isinstance(value, (int, float)) and not _is_flag(value) and value >= 0,
)
TABLE = _Kind("a mapping", _is_table)
TEXTS = _Kind("a list of text", _are_texts)
PATH = _Kind("text, or a list of text", lambda value: _is_text(value) or _are_texts(value))
LINE = _Kind("a line, or a list of words", lambda value: _is_text(value) or _are_words(value))
OPTIONS = _Kind("a mapping of options", lambda value: _is_table(value) or _are_options(value))
ARGS = _Kind(
    "words, or a mapping of options", lambda value: LINE.holds(value) or OPTIONS.holds(value)
)
FILES = _Kind("a mapping of fields, or a list of them, each once", _is_table)
TEXT_TABLE = _Kind(
    "a mapping of text", lambda value: _is_table(value) and all(map(_is_text, value.values()))
)
PLACE_TABLE = _Kind(
    "a mapping of paths", lambda value: _is_table(value) and all(map(PATH.holds, value.values()))
)

LISTS_OF_FIELDS = _Kind(
    "a mapping of actions, each with a list of fields",
    lambda value: _is_table(value) and all(map(_are_texts, value.values())),
)

TOP: dict[str, _Kind] = {
    **dict.fromkeys(
        (
            *("auto_recipe", "estimator", "gpu_spec_key", "network_arch", "validator"),
            "warm_command",
        ),
        TEXT,
    ),
    "automl_enabled": FLAG,
    "auto_recipe_parameters": TEXTS,
    "automl_keys": TEXT_TABLE,
    **dict.fromkeys(("cost_keys", "inherit"), LISTS_OF_FIELDS),
}
TOP_NOTED = {
    "container_image": TEXT,
    "data_format": TEXT,
    **dict.fromkeys(("dataset_intents", "dataset_type"), PATH),
    **dict.fromkeys(("description", "name", "title"), TEXT),
    "required_credentials": TEXTS,
    "spec_shorthand_keys": TEXT_TABLE,
}
ACTION_NOTED = {"container_image": TEXT, "upload_excludes": TEXTS}
ACTION: dict[str, _Kind] = {
    **dict.fromkeys(
        (
            *("config_format", "measure_command", "metric", "metric_direction"),
            *("metric_file", "mode", "result"),
        ),
        TEXT,
    ),
    **dict.fromkeys(("automl_enabled", "distributed", "shell"), FLAG),
    "flags": _Kind("a list of fields, such as [train.verbose]", _are_texts),
    **dict.fromkeys(("inputs", "outputs"), FILES),
    "args": ARGS,
    "command": LINE,
    "defaults": OPTIONS,
    "grace_seconds": SECONDS,
}
FILE: dict[str, _Kind] = {"type": TEXT, "optional": FLAG}
FUNCTION: dict[str, _Kind] = dict.fromkeys(("function", "link", "destination_path"), TEXT)
MAPPED: dict[str, _Kind] = {
    "path": PATH,
    "optional": FLAG,
    "runtime": TEXT,
    **dict.fromkeys(PATHS, PLACE_TABLE),
}
ROW: dict[str, _Kind] = {
    **MAPPED,
    **dict.fromkeys(("source", "data_kind"), TEXT),
    **dict.fromkeys(("list", "multiple_sources", "required"), FLAG),
    **dict.fromkeys(("mapping", "when"), TABLE),
}


def misread(info: Mapping[str, Any], action: str) -> Iterator[Misread]:
    """The keys of an action, and those that act on every action, whose values are of another kind.

    A key without a value is not given.
    """
    yield from _of(info, TOP, "")
    yield from _of(info.get("spec_templates") or {}, {action: TEXT}, "spec_templates.")
    entry = (info.get("actions") or {}).get(action) or {}
    where = f"actions.{action}."
    yield from _of(entry, ACTION, where)
    yield from _keys(entry, where)
    for key, row in ((info.get("spec_params") or {}).get(action) or {}).items():
        if isinstance(row, Mapping):
            yield from _of(row, FUNCTION, f"spec_params.{action}.{key}.")
    for name in ("inputs", "outputs"):
        table = entry.get(name)
        for key, row in table.items() if isinstance(table, Mapping) else ():
            if isinstance(row, Mapping):
                yield from _of(row, FILE, f"{where}{name}.{key}.")
            elif row is not None:
                yield Misread(f"{where}{name}.{key}", row, "a mapping: {type: file}")
    for key, row in ((info.get("data_sources") or {}).get(action) or {}).items():
        where = f"data_sources.{action}.{key}."
        if not isinstance(row, Mapping):
            continue
        yield from _of(row, ROW, where)
        if isinstance(row.get("mapping"), Mapping):
            yield from _inside(row["mapping"], f"{where}mapping.")


def _keys(entry: Mapping[str, Any], where: str) -> Iterator[Misread]:
    """The names of fields in an entry that are none."""
    for name in ("args", "defaults", "flags", "inputs", "outputs"):
        table = entry.get(name)
        if name == "args" and not OPTIONS.holds(table):
            continue
        for one in table if isinstance(table, (Mapping, list)) else ():
            key = one.get("name") if isinstance(one, Mapping) else one
            if isinstance(key, str) and not KEY.fullmatch(key.lstrip("-")):
                yield Misread(f"{where}{name}", key, "the dotted key of a field")


def passed_over(info: Mapping[str, Any]) -> Iterator[Misread]:
    """As `misread`, of the keys that change no run here."""
    yield from _of(info, TOP_NOTED, "")
    actions = info.get("actions")
    for action, entry in actions.items() if isinstance(actions, Mapping) else ():
        if isinstance(entry, Mapping):
            yield from _of(entry, ACTION_NOTED, f"actions.{action}.")


def _of(section: Mapping[str, Any], kinds: Mapping[str, _Kind], where: str) -> Iterator[Misread]:
    for name, kind in kinds.items():
        value = section.get(name)
        given = value is not None and value != ""
        if given and not kind.holds(value):
            yield Misread(f"{where}{name}", value, kind.words)


def _inside(mapping: Mapping[str, Any], where: str) -> Iterator[Misread]:
    """The rows of a ``mapping``."""
    for name, row in mapping.items():
        if not isinstance(row, Mapping):
            if row is not None:
                yield Misread(f"{where}{name}", row, "a mapping: {path: PATH} or {value: VALUE}")
        elif is_nested(row):
            yield from _inside(row, f"{where}{name}.")
        else:
            yield from _of(row, MAPPED, f"{where}{name}.")


def is_nested(row: Mapping[str, Any]) -> bool:
    """Whether what a ``mapping`` holds under a name is a mapping of further names, not a row."""
    is_row = any(str(word).startswith("path_from_") for word in row)
    return bool(row) and not is_row and all(isinstance(item, Mapping) for item in row.values())
