"""The command of an action: its words, what stands in their placeholders, and its configuration.

=====================  ============================================================================
placeholder            is
=====================  ============================================================================
{config_path}          the file with the spec: YAML, JSON or TOML as ``config_format`` says
{job_dir}, {job_id}    the job's folder, and its name
{bundle_dir}           the folder of the bundle, which may bring its own scripts
{python}               this Python
{key}                  the value of a field of the spec, by its dotted or shorthand key
=====================  ============================================================================

No shell reads a command unless the bundle says so (``shell: true``, or a command such as ``bash -c
'…'``), and then the values of placeholders are arguments of the script, never part of its text.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_skill.bundle import Bundle, option_names
from mae_skill.dotted import flatten, get_dotted
from mae_skill.errors import SpecError
from mae_skill.placeholders import NOT_GIVEN

FORMATS = ("yaml", "json", "toml")
MODES = ("config", "args", "passthrough")
PLACES = ("config_path", "job_dir", "job_id", "bundle_dir", "python", "socket")

_PLACE = re.compile(r"\{([A-Za-z_][\w.\[\]]*)\}")
_SHELLS = ("sh", "bash", "zsh", "dash", "ksh")
_ASSIGNMENT = re.compile(r"\s*[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Command:
    """An action's command.

    Attributes:
        words: with placeholders of `PLACES` only; `fill` fills them.
        cwd: where it works; None: where its caller was.
        config: the file name of its spec.
        follows_spec: whether other words than the path of the spec depend on the spec's values.
    """

    words: tuple[str, ...]
    cwd: str | None
    config: str
    follows_spec: bool = False


def command_of(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> Command:
    """The command of an action for a spec.

    Raises:
        SpecError: there is none, it cannot be split, it needs a shell that the bundle does not ask
            for, or it names a field that is not given.
    """
    entry = bundle.action(action)
    where = f"actions.{action}"
    mode = _one_of(entry.get("mode") or "config", MODES, f"{where}.mode")
    execution = entry.get("execution")
    format_ = entry.get("config_format") or "yaml"
    if execution is not None:
        execution = _execution(execution, where)
        format_ = execution.get("config_format") or format_
        words, cwd = _script(bundle, execution, where)
    else:
        words, cwd = _words(entry.get("command"), entry.get("shell"), where), None
    config = f"spec.{_one_of(format_, FORMATS, f'{where}.config_format')}"

    words = [*words, *_more_words(entry, where)]
    if mode == "args":
        words += _flags(entry, spec)
    shorthand = bundle.shorthand
    filled = [_of_spec(word, spec, shorthand, where) for word in words]
    return Command(
        tuple(word.replace("{bundle_dir}", str(bundle.root.resolve())) for word in filled),
        cwd,
        config,
        follows_spec=mode == "args" or filled != words,
    )


def places(job_dir: Path, config: str = "spec.yaml") -> dict[str, str]:
    """What stands in the placeholders of a job's command."""
    return {
        "config_path": str(job_dir / config),
        "job_dir": str(job_dir),
        "job_id": job_dir.name,
        "python": sys.executable,
    }


def fill(word: str, values: Mapping[str, str]) -> str:
    """A word with its placeholders filled, in one pass; unknown ones stay."""
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), word)


def _one_of(value: Any, known: Sequence[str], key: str) -> str:
    if value not in known:
        raise SpecError("not known", field=key, got=value, expected=f"one of {', '.join(known)}")
    return str(value)


def _words(command: Any, shell: Any, where: str) -> list[str]:
    """The words of a command: a line of text, or a list of them, which no shell reads."""
    if isinstance(command, list) and command and shell is not True:
        return _texts(command, f"{where}.command")
    if command is not None and not isinstance(command, str):
        raise SpecError(
            "not a command",
            field=f"{where}.command",
            got=command,
            expected="a command line, or a list of words without a shell",
        )
    return _split(command or "", shell, where)


def _split(text: str, shell: Any, where: str) -> list[str]:
    """The words of a command line."""
    if not text.strip():
        raise SpecError(
            "the action names no command",
            field=f"{where}.command",
            expected="a command with {config_path}",
        )
    if shell is True:
        script, names = _positional(text.strip(), 1)
        return ["sh", "-c", script, "sh", *names]
    if (syntax := shell_syntax(text.strip())) is not None:
        raise SpecError(
            f"the command needs a shell: it holds {syntax}",
            field=f"{where}.command",
            got=text[:200],
            expected="words; a bundle that wants a shell says `shell: true` in the action's entry",
        )
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise SpecError(
            "the command cannot be split", field=f"{where}.command", got=text, hint=str(error)
        ) from None
    return _quoted_script(found, where)


def _quoted_script(words: list[str], where: str) -> list[str]:
    """A command such as ``bash -c SCRIPT``: placeholders in the script become its arguments."""
    if Path(words[0]).name not in _SHELLS:
        return words
    for at, word in enumerate(words[1:], start=1):
        if not word.startswith("-") or at + 1 == len(words):
            break
        if word.startswith("--") or not word.endswith("c"):
            continue
        if not _PLACE.search(words[at + 1]):
            return words
        script, names = _positional(words[at + 1], 1)
        if len(words) > at + 2:
            raise SpecError(
                "a script with placeholders cannot have arguments of its own",
                field=f"{where}.command",
                got=words[at + 2],
                expected="placeholders in the script, or as its arguments",
            )
        return [*words[: at + 1], script, "sh", *names]
    return words


def _positional(script: str, first: int) -> tuple[str, list[str]]:
    """A script in which each placeholder is an argument, and the placeholders in that order."""
    names: list[str] = []

    def place(match: re.Match[str]) -> str:
        if match[0] not in names:
            names.append(match[0])
        return f'"${{{names.index(match[0]) + first}}}"'

    return _PLACE.sub(place, script), names


def shell_syntax(text: str) -> str | None:
    """The first thing in a command line that only a shell understands; None without one."""
    if match := _ASSIGNMENT.match(text):
        return f"the assignment {match[0].strip()}"
    quote, at = "", 0
    while at < len(text):
        character = text[at]
        if character == "\\" and quote != "'":
            at += 2
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        if quote != "'" and (character == "`" or text[at : at + 2] in ("$(", "${")):
            return text[at : at + 2].strip()
        if quote != "'" and character == "$" and re.match(r"\$[A-Za-z_@*#?0-9]", text[at:]):
            return text[at : at + 12].split()[0]
        if not quote and character in "|&;<>\n*?":
            return "a line break" if character == "\n" else character
        if not quote and character in "()":
            return character
        at += 1
    return None


def _execution(execution: Any, where: str) -> dict[str, Any]:
    """The ``execution`` of an entry, which must be a script.

    Raises:
        SpecError: it is something else.
    """
    kind = execution.get("type") if isinstance(execution, Mapping) else execution
    if kind != "python_script":
        raise SpecError(
            "not known", field=f"{where}.execution.type", got=kind, expected="python_script"
        )
    return dict(execution) if isinstance(execution, Mapping) else {}


def _script(
    bundle: Bundle, execution: Mapping[str, Any], where: str
) -> tuple[list[str], str | None]:
    """A Python script of the bundle: its words and where it works."""
    named = execution.get("script")
    if not isinstance(named, str) or not named.strip():
        raise SpecError("the script is missing", field=f"{where}.execution.script", got=named)
    script = (bundle.root / named).resolve()
    if not script.is_relative_to(bundle.root.resolve()):
        raise SpecError(
            "the script is outside the bundle's folder",
            field=f"{where}.execution.script",
            got=named,
            expected="a script of the bundle; another program is a `command`",
        )
    if not script.is_file():
        raise SpecError(
            "the bundle has no such script", field=f"{where}.execution.script", got=named
        )
    cwd = (bundle.root / str(execution.get("cwd") or ".")).resolve()
    if not cwd.is_dir():
        raise SpecError(
            "the bundle has no such folder",
            field=f"{where}.execution.cwd",
            got=execution.get("cwd"),
        )
    words = execution.get("args", execution.get("script_args", ["--config", "{config_path}"]))
    return ["{python}", str(script), *_texts(words, f"{where}.execution.args")], str(cwd)


def _texts(value: Any, key: str) -> list[str]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(one, (str, int, float)) for one in value
    ):
        raise SpecError("not a list of words", field=key, got=value, expected="a list of text")
    return [str(one) for one in value]


def _more_words(entry: Mapping[str, Any], where: str) -> list[str]:
    """The ``args`` of an entry, where they are words; mappings are options of ``mode: args``."""
    found = entry.get("args")
    if found is None or isinstance(found, Mapping):
        return []
    if isinstance(found, list) and all(isinstance(one, Mapping) for one in found):
        return []
    return shlex.split(found) if isinstance(found, str) else _texts(found, f"{where}.args")


def _flags(entry: Mapping[str, Any], spec: Mapping[str, Any]) -> list[str]:
    """A spec as options: ``--key value``; true is a flag, null and false are left out.

    The ``flags`` of an entry have no value: each is given once, unless its field says false. An
    option of ``args`` is written as it is there; where its value names another field of the spec,
    it has that field's.
    """
    fields = flatten(spec)
    flags = {one.lstrip("-"): one for one in _names(entry.get("flags"))}
    options = {one.lstrip("-"): one for one in _names(option_names(entry.get("args")))}
    named = {
        key: str(fields[key])
        for key in options.keys() & fields.keys()
        if isinstance(fields[key], str) and fields[key] != key and fields[key] in fields
    }
    words: list[str] = []
    for key in [*fields, *(key for key in flags if key not in fields)]:
        value = fields.get(named.get(key, key), True)
        if value in (None, "", NOT_GIVEN) or value is False or key in named.values():
            continue
        written = options.get(key, flags.get(key, key))
        words.append(written if written.startswith("-") else f"--{written}")
        if value is not True and key not in flags:
            words += [str(one) for one in (value if isinstance(value, list) else [value])]
    return words


def _names(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else []


def _of_spec(word: str, spec: Mapping[str, Any], shorthand: Mapping[str, str], where: str) -> str:
    """A word with the fields that it names filled in."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in PLACES:
            return match[0]
        found = get_dotted(spec, shorthand.get(name, name))
        if isinstance(found, (str, int, float)) and found not in ("", NOT_GIVEN):
            return str(found)
        raise SpecError(
            "the command names a field that is not given",
            field=f"{where}.command",
            got=match[0],
            expected=f"{name}=VALUE, or one of {', '.join(f'{{{one}}}' for one in PLACES[:5])}",
        )

    return _PLACE.sub(value, word)
