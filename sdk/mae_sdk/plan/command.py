"""The command of an action: its words, what stands in their placeholders, and its configuration.

=====================  ============================================================================
placeholder            is
=====================  ============================================================================
{config_path}          the file with the spec: YAML, JSON or TOML as ``config_format`` says
{job_dir}, {job_id}    the job's folder, and its name
{bundle_dir}           the folder of the bundle, which may bring its own scripts
{python}               this Python
{results_dir}          that field of the spec; where it has none, the job's folder
{key}                  the value of a field of the spec, by its dotted or shorthand key
=====================  ============================================================================

No shell reads a command unless the bundle says so (``shell: true``, or a command such as ``bash -c
'…'``), and then the values of placeholders are arguments of the script, never part of its text;
where a program could still read one as code, its value must be plain (`code_places`). A pipeline
fails where any of its commands does (``pipefail``).
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_skill.bundle import MAX_NAMED, Bundle, default_names, option_names, words_of_args
from mae_skill.dialect import is_slip
from mae_skill.dotted import field_nodes, flatten, get_dotted, set_dotted
from mae_skill.errors import MaeError, SpecError
from mae_skill.reader import read_spec
from mae_skill.schema_check import UNKNOWN, check_schema
from mae_skill.spelling import and_more, nearest

from mae_sdk.jobs.command_words import OPTIONS, PLACE, PLACES, named, of_spec, plain_only, reads
from mae_sdk.jobs.records import Launch, Words
from mae_sdk.plan.code_places import leading, leading_words, runs_options, unsafe_word
from mae_sdk.plan.shell_script import positional

FORMATS = ("yaml", "json", "toml")
MODES = ("config", "args", "passthrough")

_SHELLS = ("sh", "bash", "zsh", "dash", "ksh")
_ASSIGNMENT = re.compile(r"\s*[A-Za-z_]\w*=")
_LITERAL = re.compile(r"'[^']*'|\\.", re.DOTALL)
_PIPE = re.compile(r"(?<!\|)\|(?!\|)")
_BASH_IF_THERE = (
    'command -v bash >/dev/null 2>&1 && exec bash -o pipefail -c "$@"; '
    "echo 'no bash here: a command that fails inside a pipeline is not seen' >&2; "
    'exec sh -c "$@"'
)
"""POSIX's ``sh`` sees only the end of a pipeline; which shells there are is known where it runs."""


@dataclass(frozen=True)
class Command:
    """An action's command.

    Attributes:
        words: with the placeholders of a job's places only; `fill` fills them.
        cwd: where it works; None: where its caller was.
        config: the file name of its spec.
        made: the words before the spec's values are in them.
        of_spec: the same, where some follow the spec.
    """

    words: tuple[str, ...]
    cwd: str | None
    config: str
    made: Words
    of_spec: Words | None = None


def command_of(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> Command:
    """The command of an action for a spec.

    Raises:
        SpecError: there is none, it cannot be split, it needs a shell that the bundle does not ask
            for, a placeholder is misspelled, or it names a field that is not given.
    """
    made, cwd, config = _made(bundle, action, spec)
    _refuse_unknown(bundle, action, made, spec)
    filled = of_spec(made, spec)
    follows = "flags" in made or filled != made["command"]
    return Command(tuple(filled), cwd, config, made, made if follows else None)


def unknown_places(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> list[str]:
    """The placeholders of a command that are neither places of a job nor fields that the bundle's
    files know.

    Raises:
        SpecError: as `command_of`.
    """
    return _unknown(bundle, action, _made(bundle, action, spec)[0])


def _known_names(bundle: Bundle, action: str) -> set[str]:
    """What a placeholder may name: the places of a job, and the fields that the bundle's files
    know."""
    entry = bundle.action(action)
    known = {*PLACES, "results_dir"}
    known |= {*(bundle.spec_params.get(action) or {}), *bundle.data_rows(action)}
    for name in ("inputs", "outputs"):
        known |= set(option_names(entry.get(name)))
    with contextlib.suppress(MaeError):
        known |= set(_fields_of_template(bundle.template(action)))
    with contextlib.suppress(MaeError):
        schema = bundle.schema(action)
        known |= {*field_nodes(schema), *_fields_of_template(schema.get("default") or {})}
        known |= set(schema.get("x_aliases") or {})
    return known


def _own_fields(bundle: Bundle, action: str) -> set[str]:
    """The fields of an action's schema, and of its template without what its entry adds."""
    found: set[str] = set()
    with contextlib.suppress(MaeError):
        found |= field_nodes(bundle.schema(action)).keys()
    with contextlib.suppress(MaeError, OSError):
        path = bundle.template_path(action)
        found |= flatten(read_spec(path)).keys() if path.is_file() else set()
    return found


def _texts_of_options(entry: Mapping[str, Any]) -> dict[str, str]:
    """Option → its text, of the options in an entry's ``args``, or its default there."""
    args = entry.get("args")
    if entry.get("mode") != "args":
        return {}
    rows = args if isinstance(args, list) else []
    if isinstance(args, Mapping):
        rows = [{"name": name, **row} for name, row in args.items() if isinstance(row, Mapping)]
    found = words_of_args(args)
    for row in rows:
        text = row.get("default", row.get("value")) if isinstance(row, Mapping) else None
        if isinstance(text, str) and isinstance(row.get("name"), str):
            found[row["name"].lstrip("-")] = text
    return found


def _unknown(bundle: Bundle, action: str, made: Words) -> list[str]:
    known = _known_names(bundle, action)
    texts = _texts_of_options(bundle.action(action)).values()
    found = PLACE.findall(" ".join([*made["command"], *texts]))
    keys = bundle.shorthand
    return [
        name for name in dict.fromkeys(found) if keys.get(name, name).partition("[")[0] not in known
    ]


def fields_of_options(bundle: Bundle, action: str) -> list[str]:
    """The fields that the texts of options name, of a bundle that lists no field at all: these must
    be given, and then they are there."""
    if bundle.template_path(action).is_file():
        return []
    with contextlib.suppress(MaeError):
        if bundle.schema(action):
            return []
    entry, keys = bundle.action(action), bundle.shorthand
    options = {one.lstrip("-") for one in option_names(entry.get("args"))}
    names = PLACE.findall(" ".join(_texts_of_options(entry).values()))
    fields = dict.fromkeys(keys.get(name, name) for name in names)
    return [one for one in fields if one not in {*PLACES, "results_dir", *options}]


def _fields_of_template(template: Mapping[str, Any]) -> list[str]:
    """The fields of a template, those in the items of its lists too, and its sections."""
    found: list[str] = []

    def walk(value: Any, key: str) -> None:
        if key:
            found.append(key)
        if isinstance(value, Mapping):
            for name, item in value.items():
                walk(item, f"{key}.{name}" if key else str(name))
        elif isinstance(value, list):
            for at, item in enumerate(value):
                walk(item, f"{key}[{at}]")

    walk(template, "")
    return found


_CONVERTED = re.compile(r"\{([A-Za-z_][\w.\[\]]*)(?:![a-z]|:[^{}\s]*)\}")
_UNCLOSED = re.compile(r"\{(\w+)(?![\w.\[\],]*[}!:])")
_FORMAT = re.compile(r"\{\w*[:!][^{}]*\}")
_DOUBLED = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_NOT_PLACES = (_CONVERTED, _UNCLOSED, _DOUBLED)
_NUMBERED = re.compile(r"(?<!\$)\{\d+\}")


def _refuse_nul(words: Sequence[str], where: str) -> None:
    """Refuse a word that no program can be given.

    Raises:
        SpecError: it holds the character NUL.
    """
    for word in words:
        if "\0" in word:
            raise SpecError(
                "the command holds the character NUL, which no word can",
                field=f"{where}.command",
                got=word.replace("\0", "\\0"),
                expected="words of text",
            )


def braces_left(bundle: Bundle, action: str) -> list[str]:
    """A notice of the numbered braces in a command, which are no placeholders.

    Raises:
        SpecError: one is a place of the job but for its end, or what follows its name.
    """
    entry = bundle.action(action)
    lines = {"command": entry.get("command")}
    if isinstance(execution := entry.get("execution"), Mapping):
        lines = {"execution.args": execution.get("args", execution.get("script_args"))}
    found: list[str] = []
    for name, line in lines.items():
        for word in line if isinstance(line, list) else [line or ""]:
            text = str(word)
            for match in (one for form in _NOT_PLACES for one in form.finditer(text)):
                if match[1] in (*PLACES, "results_dir"):
                    raise SpecError(
                        "the command has a placeholder that is not written as one",
                        field=f"actions.{action}.{name}",
                        got=match[0],
                        expected=f"{{{match[1]}}}",
                    )
            found += _NUMBERED.findall(text)
    said = f"braces in the command of {action} that are no placeholders stay as they are: "
    notices = [said + ", ".join(dict.fromkeys(found))] if found else []
    return [*notices, *_places_in_values(bundle, action)]


def _places_in_values(bundle: Bundle, action: str) -> list[str]:
    """A notice of the values of a bundle's own spec that name a place of the job: placeholders are
    filled in commands and in the options of ``args`` alone."""
    values: dict[str, Any] = {}
    with contextlib.suppress(MaeError):
        values = flatten(bundle.template(action))
    values |= dict(bundle.constants(action))
    options = _texts_of_options(bundle.action(action))
    left = [
        f"{key}: {value}"
        for key, value in values.items()
        if isinstance(value, str)
        and key not in options
        and {*PLACE.findall(value.replace("${", "$"))} & {*PLACES, "results_dir"}
    ]
    said = (
        f"values of {action} with a placeholder of a command, which no spec fills: "
        f"{and_more(left, MAX_NAMED)}; ${{results_dir}} refers to that field"
    )
    return [said] if left else []


def _refuse_unknown(bundle: Bundle, action: str, made: Words, spec: Mapping[str, Any]) -> None:
    """Refuse a placeholder that is one of a job's places but for a letter or two, or a field that
    a closed schema has not: nothing that is given fills it. One in the text of an option that no
    field of the bundle has is refused too, unless the spec has it: the runner would get its braces.

    Raises:
        SpecError: the first such one.
    """
    schema: Mapping[str, Any] = {}
    with contextlib.suppress(MaeError):
        schema = bundle.schema(action)
    for name in _unknown(bundle, action, made):
        near = next((one for one in (*PLACES, "results_dir") if is_slip(name, one)), None)
        asked: dict[str, Any] = {}
        set_dotted(asked, bundle.shorthand.get(name, name), "given")
        inside = any(f"{{{name}}}" in word for word in made["command"])
        if near is None and not (inside and _is_refused(asked, schema)):
            continue
        fields = list(field_nodes(schema))
        places = ", ".join(f"{{{one}}}" for one in PLACES[:5])
        said = f"{{{name}}}" in str(bundle.action(action).get("command"))
        near = near or nearest(name, fields)
        raise SpecError(
            "the command has a placeholder that is neither a place of the job nor a field",
            field=made.get("line", f"{made['where']}.{'command' if said else 'args'}"),
            got=f"{{{name}}}",
            expected=f"a field of the schema, or one of {places}",
            hint=f"did you mean {{{near}}}?" if near else None,
        )
    _refuse_unknown_of_options(bundle, action, spec)


def _refuse_unknown_of_options(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> None:
    """Refuse a placeholder in the text of an option that nothing fills. A text with a format in it,
    ``{epoch:02d}-{loss}``, is the runner's own.

    Raises:
        SpecError: the first such one.
    """
    entry = bundle.action(action)
    texts = _texts_of_options(entry)
    if not PLACE.search(" ".join(texts.values())):
        return
    written = {one.lstrip("-"): one for one in option_names(entry.get("args"))}
    keys, known = bundle.shorthand, _known_names(bundle, action)
    names = sorted(({*known, *keys, *flatten(spec)} - written.keys()) | _own_fields(bundle, action))
    for option, text in texts.items():
        for name in PLACE.findall(text) if not _FORMAT.search(text) else ():
            field = keys.get(name, name)
            held = get_dotted(spec, field)
            # The text of an option that has placeholders itself is no value of a field.
            is_text = field in texts and held == texts[field] and PLACE.search(str(held))
            if not is_text and (field.partition("[")[0] in known or held is not None):
                continue
            near = next((one for one in names if is_slip(name, one)), None)
            near = near or nearest(name, names)
            raise SpecError(
                f"the option has a placeholder that no field of {action} fills: its runner would "
                "get the braces",
                field=f"actions.{action}.args.{written[option]}",
                got=f"{{{name}}}",
                expected="a field of the template or the schema, or one of "
                + ", ".join(f"{{{one}}}" for one in PLACES[:5]),
                hint=(f"did you mean {{{near}}}? " if near else "")
                + f"mend the bundle: name a field that is there, or give its template {name}; "
                f"{{{name}:}} is a format of the runner's own",
            )


def _is_refused(asked: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether a schema refuses a field as unknown."""
    return any(one.message == UNKNOWN for one in check_schema(asked, schema)) if schema else False


def know_places(launch: Launch, action: str, skill_dir: str | None, spec: Path) -> bool:
    """Look up in its bundle where the placeholders of a job stand that was recorded before that
    was; whether the launch was changed. Not where the bundle is gone, or has another command now.

    Args:
        skill_dir: the bundle; None: the bundled skill.
        spec: the file of the job's spec.
    """
    words = launch.get("words")
    if words is None or "plain" in words:
        return False
    try:
        made, _, _ = _made(Bundle.load(skill_dir), action, read_spec(spec))
    except (MaeError, OSError):
        return False
    if made["command"] != words["command"]:
        return False
    words["plain"] = made["plain"]
    return True


def fields_told(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> frozenset[str] | None:
    """The fields that the words of a command hold; None where its runner reads them all.

    Raises:
        SpecError: as `command_of`.
    """
    return reads(_made(bundle, action, spec)[0])


def fields_named(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> list[str]:
    """The fields whose values stand inside the words of a command, which must be given.

    Raises:
        SpecError: as `command_of`.
    """
    return sorted(named(_made(bundle, action, spec)[0]))


def _made(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> tuple[Words, str | None, str]:
    """The words of a command before the spec's values are in them, where it works, and the file
    name of its spec."""
    entry = bundle.action(action)
    where = f"actions.{action}"
    mode = _one_of(entry.get("mode") or "config", MODES, f"{where}.mode")
    execution = entry.get("execution")
    format_ = entry.get("config_format") or "yaml"
    if execution is not None:
        execution = _execution(execution, where)
        format_ = execution.get("config_format") or format_
        words, cwd = _script(bundle, execution, where)
        plain = _unsafe(words)
    else:
        words, plain = _words(entry.get("command"), entry.get("shell"), where)
        cwd = None
    config = f"spec.{_one_of(format_, FORMATS, f'{where}.config_format')}"

    more = _more_words(entry, where)
    if entry.get("shell") is True and execution is None and (more or mode == "args"):
        raise SpecError(
            "a shell's script gets no further words: where in it they belong is not known",
            field=f"{where}.{'args' if more else 'mode'}",
            got=more or mode,
            expected="placeholders in the script ({config_path}, {field}), or no `shell: true`",
        )
    plain = {**_unsafe([*words, *more], len(words)), **plain}
    words = [*words, *more]
    if mode == "args" and (
        reason := unsafe_word([*words, "{option}"], len(words)) or runs_options(words)
    ):
        plain[OPTIONS] = reason

    bundle_dir = str(bundle.root.resolve())
    made: Words = {"command": words, "keys": bundle.shorthand, "where": where, "plain": plain}
    if begun := _leading(entry, words if execution is not None else None, more):
        made["leading"] = begun
    if execution is not None:
        made["line"] = f"{where}.execution.args"
    plain_only(made, {"bundle_dir": bundle_dir})
    words = [word.replace("{bundle_dir}", bundle_dir) for word in words]
    if get_dotted(spec, "results_dir") in (None, "") and "results_dir" not in bundle.shorthand:
        words = [word.replace("{results_dir}", "{job_dir}") for word in words]
        if "results_dir" in plain:
            plain["job_dir"] = plain.pop("results_dir")
    made["command"] = words
    _refuse_nul(words, where)
    if mode == "args":
        made = made | _options(bundle, action, spec)
    return made, cwd, config


def _unsafe(words: list[str], start: int = 0) -> dict[str, str]:
    """The placeholders in words that no shell reads, from one on, that may have only plain values,
    with the reason."""
    found: dict[str, str] = {}
    for index in range(start, len(words)):
        names = PLACE.findall(words[index])
        if names and (reason := unsafe_word(words, index)):
            found |= dict.fromkeys(names, reason)
    return found


def _leading(entry: Mapping[str, Any], script: list[str] | None, more: list[str]) -> list[str]:
    """The placeholders of a command that begin an argument of a program.

    Args:
        script: the words of ``execution``; None: the command counts.
    """
    command = entry.get("command")
    if script is not None:
        found = leading_words([*script, *more])
    elif entry.get("shell") is True:
        found = leading(str(command))
    else:
        words = (
            shlex.split(command)
            if isinstance(command, str)
            else [str(one) for one in command or ()]
        )
        at = next((at for at, one in enumerate(words) if re.fullmatch(r"-\w*c", one)), 0)
        if at and Path(words[0]).name in _SHELLS and at + 1 < len(words):
            found = leading(words[at + 1])
        else:
            found = leading_words([*words, *more])
    return list(dict.fromkeys(found))


def _one_of(value: Any, known: Sequence[str], key: str) -> str:
    if value not in known:
        raise SpecError("not known", field=key, got=value, expected=f"one of {', '.join(known)}")
    return str(value)


def _words(command: Any, shell: Any, where: str) -> tuple[list[str], dict[str, str]]:
    """The words of a command (a line of text, or a list of them, which no shell reads), and its
    placeholders that may have only plain values."""
    if isinstance(command, list) and command and shell is not True:
        return _quoted_script(_texts(command, f"{where}.command"), where)
    if command is not None and not isinstance(command, str):
        raise SpecError(
            "not a command",
            field=f"{where}.command",
            got=command,
            expected="a command line, or a list of words without a shell",
        )
    return _split(command or "", shell, where)


def _split(text: str, shell: Any, where: str) -> tuple[list[str], dict[str, str]]:
    """The words of a command line, as `_words`."""
    if not text.strip():
        raise SpecError(
            "the action names no command",
            field=f"{where}.command",
            expected="a command with {config_path}",
        )
    if shell is True:
        script, names, plain = positional(text.strip(), 1, where)
        return _piped(["sh", "-c", script, "sh", *names], 1), plain
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


def _quoted_script(words: list[str], where: str) -> tuple[list[str], dict[str, str]]:
    """A command such as ``bash -c SCRIPT``: placeholders in the script become its arguments."""
    if Path(words[0]).name not in _SHELLS:
        return words, _unsafe(words)
    for at, word in enumerate(words[1:], start=1):
        if not word.startswith("-") or at + 1 == len(words):
            break
        if word.startswith("--") or not word.endswith("c"):
            continue
        if not PLACE.search(words[at + 1]):
            return _piped(words, at), _unsafe(words)
        script, names, plain = positional(words[at + 1], 1, where)
        if len(words) > at + 2:
            raise SpecError(
                "a script with placeholders cannot have arguments of its own",
                field=f"{where}.command",
                got=words[at + 2],
                expected="placeholders in the script, or as its arguments",
            )
        return _piped([*words[: at + 1], script, "sh", *names], at), plain
    return words, _unsafe(words)


def _piped(words: list[str], at: int) -> list[str]:
    """The words of a shell that reads a script, so that a failure inside a pipeline is one.

    Args:
        at: the place of the option ``-c``, which the script follows.
    """
    if not _PIPE.search(_LITERAL.sub("", words[at + 1])):
        return words
    if Path(words[0]).name != "sh":
        return [words[0], "-o", "pipefail", *words[1:]]
    script = words[at + 1 :]
    return ["sh", "-c", _BASH_IF_THERE, "sh", *script] if words[1:at] == [] else words


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
    if not cwd.is_relative_to(bundle.root.resolve()):
        raise SpecError(
            "the working folder is outside the bundle's folder",
            field=f"{where}.execution.cwd",
            got=execution.get("cwd"),
            expected="a folder of the bundle",
        )
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


def _options(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> Words:
    """The options of ``mode: args``, as they are written in the entry.

    Where its ``args`` are options, these, its ``flags`` and the fields of its ``defaults``,
    ``inputs`` and ``outputs`` are all that there are; else every field of the spec is one. Where
    the value of one in ``args`` names another field of the action, it has that field's; the
    placeholders of fields in such a text are filled in, and those of no field stay; without a value
    for one, the option is left out.
    """
    entry = bundle.action(action)
    options = {one.lstrip("-"): one for one in _names(option_names(entry.get("args")))}
    fields = flatten(spec)
    known = {*fields, *(bundle.spec_params.get(action) or {}), *bundle.data_rows(action)}
    with contextlib.suppress(MaeError):
        known |= set(field_nodes(bundle.schema(action)))
    words = words_of_args(entry.get("args"))
    held = {key: fields.get(key, words.get(key)) for key in options}
    of_bundle = _texts_of_bundle(bundle, action)
    texts = {
        key: text
        for key, text in held.items()
        # What a caller wrote into the field has braces of its own.
        if isinstance(text, str) and (key not in fields or text in of_bundle.get(key, ()))
    }
    sections = {key for key in words if isinstance(get_dotted(spec, key), Mapping)}
    texts |= {key: words[key] for key in sections}
    names = {key: name for key, name in texts.items() if name != key and name in known}
    keys = bundle.shorthand
    own = "results_dir" in keys or get_dotted(spec, "results_dir") not in (None, "")
    filled: dict[str, str] = {}
    to_fill = {*known, *PLACES, "results_dir"}
    for key, text in texts.items() if PLACE.search(str(texts)) else ():
        whole = PLACE.fullmatch(text)
        field = keys.get(whole[1], whole[1]) if whole else ""
        if field in known and field != key and field not in PLACES:
            names[key] = field
        elif any(keys.get(one, one) in to_fill for one in PLACE.findall(text)):
            filled[key] = text if own else text.replace("{results_dir}", "{job_dir}")
    filled |= {key: words[key] for key in sections - names.keys() - filled.keys()}
    bundle_dir = str(bundle.root.resolve())
    filled = {key: text.replace("{bundle_dir}", bundle_dir) for key, text in filled.items()}
    flags = {one.lstrip("-"): one for one in _names(entry.get("flags"))}
    for table in ("defaults", "inputs", "outputs") if options else ():
        names_of = default_names if table == "defaults" else option_names
        more = names_of(entry.get(table))
        options |= {key: flags.get(key, key) for key in more if key not in options}
    given = sorted(flags.keys() - known)
    made: Words = {"options": options, "names": names, "flags": flags, "given": given}
    named_there = PLACE.findall(" ".join(filled.values()))
    listed = sorted({one for one in named_there if keys.get(one, one) in known})
    return made | {"texts": filled, "fields": listed} if filled else made


def _texts_of_bundle(bundle: Bundle, action: str) -> dict[str, list[Any]]:
    """What the bundle itself says for a field: in its template, its defaults and its schema."""
    found: dict[str, list[Any]] = {}
    entry = bundle.action(action)
    tables: list[Any] = [words_of_args(entry.get("args")), entry.get("defaults")]
    with contextlib.suppress(MaeError):
        tables.append(bundle.template(action))
    with contextlib.suppress(MaeError):
        tables.append(bundle.schema(action).get("default"))
        nodes = field_nodes(bundle.schema(action))
        tables.append({key: node.get("default") for key, node in nodes.items()})
    for table in tables:
        for key, value in flatten(table).items() if isinstance(table, Mapping) else ():
            found.setdefault(key, []).append(value)
    return found


def _names(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else []
