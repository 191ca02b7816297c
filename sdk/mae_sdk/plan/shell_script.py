"""A script that a shell reads, in which placeholders become arguments: ``"${1}"``.

What a placeholder becomes depends on the quotes around it. Where these cannot be told, or another
program plainly reads its value as code, it is refused; where one may, its value must be plain
(`code_places`).
"""

from __future__ import annotations

import re

from mae_skill.errors import SpecError

from mae_sdk.jobs.command_words import PLACE
from mae_sdk.plan.code_places import unsafe_places

_TOKEN = re.compile(r"<<<|<<|\$'|\$\(|\$\{(?![A-Za-z_][\w.\[\]]*\})|['\"`#(){}]", re.DOTALL)
_CODE = re.compile(
    r"(?:(?<![\w.-])(?:sh|bash|zsh|dash|ksh|\{?python[\d.]*\}?)"
    r"(?:\s+(?:-\S+|pipefail|errexit|nounset))*\s+-\w*c|(?<![\w.-])eval(?:\s[^;&|\n]*)?)\s*$"
)
"""What stands before a word that a further shell or Python reads as code."""


def positional(script: str, first: int, where: str) -> tuple[str, list[str], dict[str, str]]:
    """A script in which each placeholder is an argument, the placeholders in that order, and those
    that may have only plain values, with the reason.

    Args:
        first: the number of the first argument.
        where: the entry, for errors.

    Raises:
        SpecError: the value of one could be read as code, or would not be one argument.
    """
    unsafe = unsafe_places(script, where) if PLACE.search(script) else {}
    plain: dict[str, str] = {}
    names: list[str] = []
    found: list[str] = []
    opened: list[tuple[str, int]] = []
    at = 0
    while at < len(script):
        if match := PLACE.match(script, at):
            if reason := _refused(script, at, opened):
                raise SpecError(
                    f"the value of a placeholder cannot be one argument {reason}",
                    field=f"{where}.command",
                    got=match[0],
                    expected="a placeholder as a word of the shell's own script",
                )
            if reason := unsafe.get(at, ""):
                plain.setdefault(match[1], reason)
            if match[0] not in names:
                names.append(match[0])
            number = f"${{{names.index(match[0]) + first}}}"
            quote = opened[-1][0] if opened else ""
            found.append({'"': number, "'": f"'\"{number}\"'"}.get(quote, f'"{number}"'))
            at = match.end()
            continue
        end = _step(script, at, opened)
        comment = script[at] == "#" and end > at + 1
        found.append("" if comment else script[at:end])
        at = end
    if match := PLACE.search("".join(found)):
        raise SpecError(
            "the value of a placeholder cannot be one argument after a backslash",
            field=f"{where}.command",
            got=match[0],
            expected="a placeholder without one",
        )
    return "".join(found), names, plain


def _refused(script: str, at: int, opened: list[tuple[str, int]]) -> str:
    """Why a placeholder cannot stand here; empty where it can."""
    kinds = "".join(kind for kind, _ in opened)
    if "<" in kinds:
        return "after a here-document begins"
    if "{" in kinds or "$'" in kinds:
        return "inside ${…} or $'…'"
    if '"`' in kinds or ('"(' in kinds and re.search(r"\besac\b", script)):
        return "inside a command inside double quotes"
    starts = [start for kind, start in opened if kind in ('"', "'")]
    if any(_CODE.search(script[:start]) for start in [*starts, at]):
        return "inside code that a further program reads"
    return ""


def _step(script: str, at: int, opened: list[tuple[str, int]]) -> int:
    """Go past the next piece of a script, and keep what is open there; where it ends."""
    inside = opened[-1][0] if opened else ""
    if inside == "'":
        if script[at] == "'":
            opened.pop()
        return at + 1
    if script[at] == "\\":
        return min(at + 2, len(script))
    match = _TOKEN.match(script, at)
    if match is None or inside == "<":
        return at + 1

    token = match[0]
    closes = {'"': '"', "$'": "'", "(": ")", "`": "`", "{": "}"}.get(inside)
    if token == closes:
        opened.pop()
    elif inside == "$'":
        return at + 1
    elif token == "${":
        opened.append(("{", at))
    elif token in ("$(", "`"):
        opened.append((token[-1], at))
    elif inside not in ('"', "{") and token in ("'", '"', "(", "$'"):
        opened.append((token, at))
    elif inside not in ('"', "{") and token == "<<":
        opened.append(("<", at))
    elif inside not in ('"', "{") and token == "#" and (at == 0 or script[at - 1] in " \t\n;&|("):
        end = script.find("\n", at)
        return len(script) if end < 0 else end
    return match.end()
