"""The words of a command that follow the spec, made anew from the spec of each attempt.

A plan's spec is not yet the one that the runner gets: archives are unpacked, a trial has values of
its own, and a further attempt goes on from a checkpoint. A job's record therefore holds the words
with their placeholders beside the command.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mae_skill.dotted import flatten, get_dotted
from mae_skill.errors import SpecError
from mae_skill.placeholders import NOT_GIVEN
from mae_skill.spelling import nearest

from mae_sdk.jobs import records
from mae_sdk.jobs.config_file import SPEC
from mae_sdk.jobs.records import JobRecord, Launch, Words

PLACES = ("config_path", "job_dir", "job_id", "bundle_dir", "python", "socket")
PLACE = re.compile(r"\{([A-Za-z_][\w.\[\]]*)\}")


UNPLAIN = re.compile(r"[^\w./:=,@%+-]")
"""What a shell or an interpreter could read as more than a part of a name."""

_HELD = "\ue000"
"""Stands for an opening brace of a value, which is no placeholder, until these are filled."""

OPTIONS = "*"
"""In `Words.plain`: the options of ``mode: args``."""

_UNKNOWN = (
    "in a place that is not known: an earlier version recorded the job, and its bundle is gone or "
    "has another command now"
)

_OPTION = re.compile(r"-(?![\d.])")
"""How a word begins that a parser of options takes for one; a negative number is none."""


def command_for(launch: Launch, spec: Mapping[str, Any], job_dir: Path) -> list[str]:
    """The command of a job for the spec that its runner gets.

    Raises:
        SpecError: it names a field that is not given.
    """
    words = launch.get("words")
    if words is None:
        return launch["command"]
    values = places(job_dir, launch.get("config") or SPEC)
    plain_only(words, values)
    return [fill(word, values) for word in of_spec(words, spec)]


def follow_spec(job_dir: Path, spec: Mapping[str, Any]) -> list[str]:
    """Write the command for this spec into the job's record, and return it."""

    def change(record: JobRecord) -> None:
        record["launch"]["command"] = command_for(record["launch"], spec, job_dir)

    return records.update_record(job_dir, change)["launch"]["command"]


def places(job_dir: Path, config: str = SPEC) -> dict[str, str]:
    """What stands in the placeholders of a job's command."""
    return {
        "config_path": str(job_dir / config),
        "job_dir": str(job_dir),
        "job_id": job_dir.name,
        "python": sys.executable,
    }


def fill(word: str, values: Mapping[str, str]) -> str:
    """A word with its placeholders filled, in one pass; unknown ones stay, and what stands like one
    in a value of `of_spec`."""
    filled = PLACE.sub(lambda match: values.get(match[1], match[0]), word)
    return filled.replace(_HELD, "{")


def _held(value: str) -> str:
    """A value whose braces are its own."""
    return value.replace("{", _HELD)


def of_spec(words: Words, spec: Mapping[str, Any]) -> list[str]:
    """The words with the values of a spec; the placeholders of `PLACES` stay, for `fill`.

    Raises:
        SpecError: one names a field that is not given.
    """
    plain = plain_places(words)
    asked = [*plain, *words.get("leading", ())]
    fields = {name: get_dotted(spec, words["keys"].get(name, name)) for name in asked}
    plain_only(words, fields)
    filled = [_of_fields(word, spec, words) for word in words["command"]]
    options: list[str] = []
    if "flags" in words:
        fields_of_options, own = flatten(spec), set[str]()
        for option, text in words.get("texts", {}).items():
            # Another text is a person's, or a trial's: its braces are its own.
            held = fields_of_options.get(option)
            is_section = isinstance(get_dotted(spec, option), Mapping)
            if is_section or held is None or (isinstance(held, str) and PLACE.search(held)):
                fields_of_options[option] = _of_known_fields(text, spec, words)
                own.add(option)
        options = _options(words, fields_of_options, own)
    for one in options if OPTIONS in plain else ():
        _require_plain(words, OPTIONS, one)
    return filled + options


def plain_places(words: Words) -> Mapping[str, str]:
    """The placeholders that may have only plain values, with the reason. Where a job was recorded
    before these were, all of them: where they stand in a script is no longer seen.
    """
    if "plain" in words:
        return words["plain"]
    names = PLACE.findall(" ".join(words["command"]))
    return dict.fromkeys([*names, *([OPTIONS] if "flags" in words else [])], _UNKNOWN)


def plain_only(words: Words, values: Mapping[str, Any]) -> None:
    """Refuse values that could be read as code, of placeholders that stand where code may be.

    Raises:
        SpecError: one has other characters than those of a plain name, number or path.
    """
    for name in plain_places(words):
        if isinstance(value := values.get(name), (str, int, float)) and value != NOT_GIVEN:
            _require_plain(words, name, value)
    for name in words.get("leading", ()):
        value = values.get(name)
        if not isinstance(value, str) or value == "-" or not _OPTION.match(value):
            continue
        raise SpecError(
            f"the value would be read as an option: the command has {{{name}}} at the beginning "
            "of a word",
            field=words["keys"].get(name, name),
            got=value,
            expected="a value that does not begin with a hyphen there",
            hint=f"{_line(words)} may write it as --note={{{name}}}, or after --; or its program "
            "reads it from {config_path}",
        )


def _require_plain(words: Words, name: str, value: Any) -> None:
    if not UNPLAIN.search(str(value)):
        return
    options = name == OPTIONS
    shown = "options" if options else f"{{{name}}}"
    raise SpecError(
        f"the value could be read as code: the command has {shown} {plain_places(words)[name]}",
        field=_line(words) if options else words["keys"].get(name, name),
        got=value,
        expected="only letters, digits and _ . / : = , @ % + - there",
        hint=f"leave other characters out; or {_line(words)} gives it as an argument of "
        "its own (--note {note}), or its program reads it from {config_path}",
    )


def _line(words: Words) -> str:
    """The key of the bundle that holds the words."""
    return words.get("line", f"{words['where']}.command")


def reads(words: Words) -> frozenset[str] | None:
    """The fields that the command receives; None: all of them."""
    text = " ".join(words["command"])
    if "{config_path}" in text or "{job_dir}" in text or words.get("options") == {}:
        return None
    options = {*(words.get("options") or ()), *words.get("flags", ())}
    texts = PLACE.findall(" ".join(words.get("texts", {}).values()))
    of_texts = {words["keys"].get(name, name) for name in texts}
    return frozenset({*named(words), *options, *words.get("names", {}).values(), *of_texts})


def named(words: Words) -> set[str]:
    """The fields whose values stand inside the words."""
    names = PLACE.findall(" ".join(words["command"]))
    return {words["keys"].get(name, name) for name in names if name not in PLACES}


def _options(words: Words, fields: Mapping[str, Any], own: Collection[str] = ()) -> list[str]:
    """A spec as options: ``--key value``; true is a flag, null and false are left out. A value that
    looks like an option is part of its word: ``--key=--value``; in a list, and behind a short
    option, it is refused.

    Where the entry's ``args`` are options, the fields that the entry names are all that there are.
    A flag that is no field is given; one that is a field, where that says true, and one with
    another value is refused.
    """
    options, flags = words.get("options") or {}, words.get("flags") or {}
    names = words.get("names") or {}
    always = words.get("given", {*options, *flags})  # of an earlier version: any without a field
    found: list[str] = []
    known = [key for key in fields if key in options or not options]
    for key in dict.fromkeys([*known, *options, *flags]):
        field = names.get(key, key)
        is_given = key in always and key not in names
        value = fields.get(field, True if is_given else None)
        if value in (None, "", [], NOT_GIVEN) or value is False or key in names.values():
            continue
        if value is not True and {key, field} & flags.keys():
            raise _flag_with_a_value(words, field, value)
        written = options.get(key, flags.get(key, key))
        found.append(written if written.startswith("-") else f"--{written}")
        if value is not True:
            more = [_word(one) for one in (value if isinstance(value, list) else [value])]
            # A text of the bundle has its values in it, and placeholders of a job beside them.
            more = more if {key, field} & {*own} else list(map(_held, more))
            if len(more) == 1 and found[-1].startswith("--") and _OPTION.match(more[0]):
                found[-1] += f"={more.pop()}"
            _refuse_options(field, more)
            found += more
    return found


def _flag_with_a_value(words: Words, field: str, value: Any) -> SpecError:
    """Why a flag cannot have a value: its option is a word alone, and the value would be lost."""
    where = words["where"]
    return SpecError(
        f"a flag has no value, and {where}.flags names this field: the value would be lost",
        field=field,
        got=value,
        expected="true, which gives the option, or false, which leaves it out",
        hint=f"{field}=true or {field}=false; an option with a value is one of {where}.args, and "
        "no flag",
    )


def _refuse_options(field: str, values: list[str]) -> None:
    """Refuse a value that stands as a word of its own and that a runner reads as an option."""
    for value in values:
        if value != "-" and _OPTION.match(value):
            raise SpecError(
                "the value would be read as an option of the runner",
                field=field,
                got=value,
                expected="a value that does not begin with a hyphen, where it is a word of its own",
                hint="leave it out, or write it otherwise, as ./-name for a file",
            )


def _word(value: Any) -> str:
    """A value as a word: what is nested as JSON, which every language reads."""
    return json.dumps(value) if isinstance(value, (list, Mapping)) else str(value)


def _of_fields(word: str, spec: Mapping[str, Any], words: Words) -> str:
    """A word with the fields that it names filled in."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in PLACES:
            return match[0]
        found = get_dotted(spec, words["keys"].get(name, name))
        if isinstance(found, (str, int, float)) and found not in ("", NOT_GIVEN):
            return _held(str(found))
        if isinstance(found, Mapping) and found:
            raise SpecError(
                "the command names a section, and a word holds one value",
                field=_line(words),
                got=match[0],
                expected="a field of it: "
                + ", ".join(f"{{{name}.{one}}}" for one in list(flatten(found))[:5]),
            )
        known = [*flatten(spec), *words["keys"], *PLACES]
        near = nearest(name, known, 0.8)
        raise SpecError(
            "the command names a field that is not given",
            field=_line(words),
            got=match[0],
            expected=f"{name}=VALUE, or one of {', '.join(f'{{{one}}}' for one in PLACES[:5])}",
            hint=f"did you mean {{{near}}}?" if near and near != name else None,
        )

    return PLACE.sub(value, word)


def _of_known_fields(text: str, spec: Mapping[str, Any], words: Words) -> str | None:
    """A text with the fields that it names filled in; what names none stays as it is. None where a
    field has no value: an option without one is left out.
    """
    known = words.get("fields", ())
    held = {name: get_dotted(spec, words["keys"].get(name, name)) for name in PLACE.findall(text)}
    if any(name in known and held[name] in (None, "", NOT_GIVEN) for name in held):
        return None

    def value(match: re.Match[str]) -> str:
        found = held[match[1]]
        is_given = isinstance(found, (str, int, float)) and found not in ("", NOT_GIVEN)
        return _held(str(found)) if is_given and match[1] not in PLACES else match[0]

    return PLACE.sub(value, text)
