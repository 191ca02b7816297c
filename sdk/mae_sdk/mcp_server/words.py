"""What a hint says in words of the command line, in those of the tools.

Errors and warnings are written once, for a person at a shell. Over MCP their options are arguments
of a tool (`ARGUMENTS`) and their commands tools (`COMMANDS`); what no tool takes is said to be of
the command line.
"""

from __future__ import annotations

import re
from typing import Any

ARGUMENTS = {
    "--parent": "parent_job_id",
    "--checkpoint": "checkpoint",
    "--foreign-parent": "foreign_parent",
    "--ptm": "ptm",
    "--train-datasets": "train_datasets",
    "--eval-dataset": "eval_dataset",
    "--inference-dataset": "inference_dataset",
    "--source": "sources",
    "--images": "images",
    "--on": "on",
    "--price": "price",
    "--recipe": "recipe",
    "--budget": "budget",
    "--request": "request",
    "--automl": "automl",
    "--automl-policy": "automl_policy",
    "--platform": "platform",
    "--platform-option": "platform_options",
    "--results-root": "results_root",
    "--idempotency-key": "idempotency_key",
    "--experiment_spec": "spec",
    "--no-count": "count",
    "--full": "full",
    "--lost": "lost",
    "--metric": "metric",
    "--direction": "direction",
    "--masks": "masks",
    "--other": "other",
    "--train": "train",
    "--eval": "eval",
    "--output": "output",
    "--chain": "chain",
    "--state": "state",
    "--action": "action",
    "--stage": "stage",
    "--arch": "arch",
    "--sort": "sort",
    "--reverse": "reverse",
    "--limit": "limit",
    "--lines": "lines",
    "--keep": "keep",
}
"""Option of the command line → argument of a tool."""

OF_THE_SHELL = frozenset(
    {
        *("--agent", "--all", "--check", "--contact-sheet", "--dest", "--env", "--follow"),
        *("--force", "--json", "--list-recipes", "--measure", "--older-than", "--open", "--out"),
        *("--port", "--python", "--serve", "--short", "--skill-dir", "--timeout", "--version"),
        *("--wait", "--yes"),
    }
)
"""Options of the command line that no tool takes."""

COMMANDS = {
    "plan": "plan action=",
    "run": "run action=",
    "inspect": "inspect source=",
    "explain": "explain key=",
    "report": "report job_id=",
    **{
        f"jobs {name}": f"{name} job_id="
        for name in ("status", "show", "logs", "metrics", "resume", "cancel", "delete")
    },
}
"""Command → the tool and the argument that the word behind it is."""

SHELL = "on the command line: "

_FLAGS = {"count": "false", **dict.fromkeys(("foreign_parent", "full", "lost", "chain"), "true")}
_FLAGS["reverse"] = "true"
_MAPPINGS = frozenset({"automl", "platform_options", "sources"})

# What stands behind an option as its value: something quoted, a placeholder in capitals, something
# with a digit or a sign in it, or one of the words that options take. Prose goes on in small words.
_END = r"(?:[^\s;,:.)'\"]|[,:.](?=[^\s'\"]))"
_WORDS = r"(?:auto|off|best|latest|beside|on(?= makes))\b"
_VALUE = rf"'[^']*'|[A-Z…{{]{_END}*|{_WORDS}|(?=\S*[\d=/|]){_END}+"
_OPTION = re.compile(rf"(?<![\w-])(--[a-z][a-z_-]*)(?:[ =]({_VALUE}))?")
# An action is a small word, which prose may be too: it is one in front of an option, or at an end.
_ACTION = r"[a-z][\w-]*(?= --|[`),.;]|$)"
_COMMAND = re.compile(
    rf"(?<![\w-])mae ({'|'.join(COMMANDS)}) ((?<=(?:plan|.run) ){_ACTION}|{_VALUE})"
)
_OTHER = re.compile(r"(?<![\w-])mae [a-z]| -e ")
_BEST = re.compile(r"(?<![\w-])mae jobs best(?= --)")


def in_arguments(text: str) -> str:
    """A hint in the words of the tools; what is of the command line alone says so."""
    return "; ".join(map(_clause, text.split("; ")))


def _clause(text: str) -> str:
    resumes = "mae jobs resume" in text  # the one tool with an environment
    known = {*ARGUMENTS, *({"--env"} if resumes else ())}
    named = {one[1] for one in _OPTION.finditer(text)}
    if (named & OF_THE_SHELL) - known:
        return text if text.startswith(SHELL) else SHELL + text
    said = _BEST.sub("best", _COMMAND.sub(lambda one: f"{COMMANDS[one[1]]}{one[2]}", text))
    if named & known and _OTHER.search(said):  # a command that is no tool
        return text if text.startswith(SHELL) else SHELL + text
    return _OPTION.sub(_argument, said)


def _argument(found: re.Match[str]) -> str:
    option, value = found.groups()
    name = ARGUMENTS.get(option) or {"--env": "env"}.get(option)
    if name is None:  # of another program, as a bundle's runner
        return found[0]
    if name in _FLAGS:
        return f"{name}={_FLAGS[name]}" + (f" {value}" if value else "")
    if value is None:
        return name
    if name in _MAPPINGS or name == "env":
        key, equals, item = value.strip("'").partition("=")
        return f'{name}={{"{key}": {_json(item)}}}' if equals else f"{name}={value}"
    return f"{name}={value}"


def _json(text: str) -> str:
    return text if text.startswith(("{", "[")) else f'"{text}"'


_TOLD = ("hint", "expected")
_LISTS = ("warnings", "notes", "notices", "problems")


def spoken(document: Any) -> Any:
    """An answer whose hints, warnings and notices are in the words of the tools. Values, commands,
    logs and the texts of other programs stay as they are."""
    if isinstance(document, list):
        return [spoken(item) for item in document]
    if not isinstance(document, dict):
        return document
    found: dict[str, Any] = {}
    for key, value in document.items():
        if key in _TOLD and isinstance(value, str):
            found[key] = in_arguments(value)
        elif key in _LISTS and isinstance(value, list):
            found[key] = [_told(item) for item in value]
        else:
            found[key] = value if key == "spec" else spoken(value)
    return found


def _told(item: Any) -> Any:
    if isinstance(item, str):
        return in_arguments(item)
    if isinstance(item, dict) and isinstance(item.get("message"), str):
        return {**spoken(item), "message": in_arguments(item["message"])}
    return spoken(item)
