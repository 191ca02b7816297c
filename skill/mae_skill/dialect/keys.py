"""The keys of a bundle's files that are read; each other one is named, so that none is ignored in
silence.

A key with a word of its own is read. ``PEOPLE`` holds keys that are meant for people and change
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mae_skill.dialect.fields import is_slip
from mae_skill.dialect.kinds import PATHS, is_nested, passed_over
from mae_skill.spelling import nearest

MEANT = "did you mean"
"""Before the near key that acts, where a key acts nowhere."""

SEARCHED_WORDS = {"accumulate", "batch", "epochs", "keep"}
"""What a study changes by itself: the words of ``automl_keys``."""

RUNTIMES = {"extracted_folder", "indexed_archive"}
DATA_KINDS = {"images", "file", "folder", "archive"}
FILE_TYPES = {"file", "folder", "local_glob"}
"""The words of ``runtime``, ``data_kind`` and ``type`` that mean something."""

SOURCES = ("train_datasets", "eval_dataset", "inference_dataset")
"""The sources with options of their own; a bundle may name others."""

PEOPLE = {
    "name",
    "title",
    "description",
    "notes",
    "note",
    "comment",
    "type",
    "version",
    "license",
    "tags",
    "huggingface_model_ids",
    "dataset_type",
    "dataset_intents",
    "popular",
    "failures",
    "references",
    "parent_skill",
}
TOP = {
    "actions",
    "automl_enabled",
    "auto_recipe",
    "auto_recipe_parameters",
    "automl_keys",
    "container_image",
    "cost_keys",
    "data_format",
    "data_sources",
    "estimator",
    "gpu_spec_key",
    "inherit",
    "key_defaults",
    "network_arch",
    "required_credentials",
    "spec_params",
    "spec_shorthand_keys",
    "spec_templates",
    "validator",
    "warm_command",
}
ACTION = {
    "args",
    "automl_enabled",
    "command",
    "config_format",
    "container_image",
    "defaults",
    "distributed",
    "execution",
    "flags",
    "grace_seconds",
    "inputs",
    "measure_command",
    "metric",
    "metric_direction",
    "metric_file",
    "mode",
    "outputs",
    "result",
    "shell",
    "upload_excludes",
}
EXECUTION = {"type", "script", "args", "script_args", "config_format", "cwd"}
ROW = {
    "against",
    "labels",
    "data_kind",
    "list",
    "mapping",
    "masks",
    "multiple_sources",
    "optional",
    "path",
    "required",
    "runtime",
    "source",
    "use",
    "value",
    "when",
}
MAPPED = {"optional", "path", "runtime", "value"}
FILE = {"type", "optional"}
OPTION = {"name", "default", "value", "required", "help"}
SCHEMA = {
    "$defs",
    "$id",
    "$ref",
    "$schema",
    "additionalProperties",
    "affects_training",
    "anyOf",
    "applies_when",
    "automl_default_parameters",
    "automl_disabled_parameters",
    "automl_enabled",
    "automl_metrics",
    "automl_metrics_complete",
    "default",
    "depends_on",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "items",
    "math_cond",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "oneOf",
    "automl_default",
    "automl_disabled",
    "option_aliases",
    "null_added",
    "hints",
    "related",
    "option_weights",
    "parent_param",
    "pattern",
    "properties",
    "required",
    "search",
    "unit",
    "valid_max",
    "valid_min",
    "valid_options",
    "x_aliases",
    "x_tao_schema",
    "const",
    "display_name",
    "examples",
    "source",
    "uniqueItems",
    "default_from",
}


def unread_info(info: Mapping[str, Any]) -> list[str]:
    """The dotted keys of a ``skill_info.yaml`` that nothing reads."""
    return sorted(set(_info_keys(info)))


def _info_keys(info: Mapping[str, Any]) -> Iterator[str]:
    yield from _strange(info, TOP, "")
    yield from (f"{key} (not {expected})" for key, _, expected in passed_over(info))
    words = info.get("automl_keys")
    yield from _strange(words if isinstance(words, Mapping) else {}, SEARCHED_WORDS, "automl_keys.")
    actions = info.get("actions")
    for table in ("data_sources", "spec_params", "spec_templates", "cost_keys", "inherit"):
        named, there = info.get(table), actions if isinstance(actions, Mapping) else {}
        for action in named if isinstance(named, Mapping) else ():
            if action not in there:
                yield f"{table}.{action} (no such action)"
    for action, entry in _sections(actions):
        where = f"actions.{action}."
        yield from _strange(entry, ACTION, where)
        if entry.get("flags") and entry.get("mode") != "args":
            yield f"{where}flags (of mode: args)"
        for name in ("command", "shell") if entry.get("execution") else ():
            if entry.get(name):
                yield f"{where}{name} (execution goes before it)"
        for one, other in (("metric", "metric_direction"), ("metric_direction", "metric")):
            if entry.get(one) and not entry.get(other):
                yield f"{where}{one} (it acts beside {other})"
        if isinstance(entry.get("execution"), Mapping):
            yield from _strange(entry["execution"], EXECUTION, f"{where}execution.")
        for table in ("args", "defaults"):
            listed = entry.get(table)
            options = listed.items() if isinstance(listed, Mapping) and table == "args" else ()
            for key, row in options or enumerate(listed if isinstance(listed, list) else ()):
                if isinstance(row, Mapping):
                    yield from _strange(row, OPTION, f"{where}{table}.{row.get('name', key)}.")
        for table in ("inputs", "outputs"):
            for key, row in _sections(entry.get(table)):
                yield from _strange(row, FILE, f"{where}{table}.{key}.")
                yield from _odd(row, "type", FILE_TYPES, f"{where}{table}.{key}.")
                if table == "outputs" and row.get("type") == "file" and _is_folder(key):
                    yield f"{where}outputs.{key}.type: file (by its name, a folder of results)"
    for action, rows in _sections(info.get("data_sources")):
        for key, row in _sections(rows):
            where = f"data_sources.{action}.{key}."
            yield from _strange(row, ROW | PATHS, where)
            yield from _passed_by(row, where)
            yield from _odd(row, "runtime", RUNTIMES, where)
            yield from _odd(row, "data_kind", DATA_KINDS, where)
            word = row.get("source")
            near = [one for one in SOURCES if isinstance(word, str) and is_slip(word, one)]
            if near:
                yield f"{where}source: {word} ({MEANT} {near[0]}?)"
            yield from _mapped(row.get("mapping"), f"{where}mapping.")


def _is_folder(key: str) -> bool:
    return key.rpartition(".")[2] in ("results_dir", "output_dir")


def _mapped(table: Any, where: str) -> Iterator[str]:
    for name, row in _sections(table):
        if is_nested(row):
            yield from _mapped(row, f"{where}{name}.")
        else:
            yield from _strange(row, MAPPED | PATHS, f"{where}{name}.")
            yield from _passed_by(row, f"{where}{name}.")
            yield from _odd(row, "runtime", RUNTIMES, f"{where}{name}.")


def _passed_by(row: Mapping[str, Any], where: str) -> Iterator[str]:
    """The ways to find the files of a row that another one in it goes before."""
    ways = [one for one in ("mapping", "value", "path", *sorted(PATHS)) if row.get(one) is not None]
    yield from (f"{where}{one} ({ways[0]} goes before it)" for one in ways[1:])


def _odd(row: Mapping[str, Any], name: str, known: set[str], where: str) -> Iterator[str]:
    """A key whose word is not known."""
    word = row.get(name)
    if isinstance(word, str) and word not in known:
        yield f"{where}{name}: {word}"


def _strange(section: Mapping[str, Any], known: set[str], where: str) -> Iterator[str]:
    for name in section:
        if name not in known and name not in PEOPLE:
            near = nearest(str(name), known - set(section), 0.75)
            yield f"{where}{name}" + (f" ({MEANT} {near}?)" if near else "")


def _sections(table: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(table, Mapping):
        for name, row in table.items():
            if isinstance(row, Mapping):
                yield str(name), row


def unread_schema(schema: Mapping[str, Any]) -> list[str]:
    """The keywords of a schema that nothing reads."""
    found: set[str] = set()
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        found |= {str(word) for word in node if word not in SCHEMA and word not in PEOPLE}
        children = node.get("properties")
        if isinstance(children, Mapping):
            waiting += [child for child in children.values() if isinstance(child, Mapping)]
        if isinstance(node.get("items"), Mapping):
            waiting.append(node["items"])
    return sorted(found)
