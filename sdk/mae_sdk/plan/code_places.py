"""Where a placeholder stands in a command: as an argument, or where its value could become code.

Which programs and words of a shell run what they are told is not known to an end. What is known to
be an argument is therefore named here; any other place takes only values of letters that mean
nothing to a shell or an interpreter (`mae_sdk.jobs.command_words.plain_only`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mae_skill.errors import SpecError

from mae_sdk.jobs.command_words import PLACE, UNPLAIN

_RUN_FILES: Mapping[str, str] = {
    **dict.fromkeys(("sh", "bash", "zsh", "dash", "ksh", "ash"), "euxfv"),
    "python": "uBOIsSE",
    "pypy": "uBOIsSE",
    "perl": "wW",
    "ruby": "w",
    "node": "",
    "nodejs": "",
    "php": "",
}
"""Programs that run a file, or else code: the letters of the options before that file."""

_RUN_CODE = frozenset(
    shlex.split("""
    awk gawk mawk nawk sed gsed ed ex vi vim emacs su sudoedit ssh slogin rsh autossh script
    flock xargs watch parallel entr fish csh tcsh busybox toybox lua luajit tclsh wish expect
    R Rscript julia octave matlab osascript pwsh powershell cmd gdb lldb m4 bc dc sqlite3 psql
    mysql make gmake cmake git rsync screen tmux at batch crontab runuser sg newgrp chroot nsenter
    unshare systemd-run start-stop-daemon strace ltrace socat nc ncat jq sshpass cscript deno bun
    ts-node groovy scala ghci erl elixir swift dash.exe bash.exe
    scp sftp mosh pdsh pssh parallel-ssh clush rpm rpmbuild bpftrace stap hyperfine redis-cli
    mongo mongosh ansible nix-shell
    """)
)
"""Programs that may take an argument for code, or hand it to a shell."""

_RUN_OPTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("tar", "gtar", "bsdtar"),
        (
            *("--to-command", "--checkpoint-action", "--use-compress-program", "--rsh-command"),
            *("--rmt-command", "--info-script", "--new-volume-script", "-I", "-F"),
        ),
    ),
    "cpio": ("--rsh-command",),
    "sort": ("--compress-program",),
    "gsort": ("--compress-program",),
    "find": ("-exec", "-execdir", "-ok", "-okdir"),
    "fd": ("--exec", "--exec-batch", "-x", "-X"),
    "fdfind": ("--exec", "--exec-batch", "-x", "-X"),
    "rg": ("--pre", "--hostname-bin"),
    "split": ("--filter",),
    "zip": ("--unzip-command", "-TT"),
    "wget": ("--use-askpass", "--execute", "-e"),
    **dict.fromkeys(("docker", "podman"), ("--entrypoint",)),
    "sbatch": ("--wrap",),
    "srun": ("--prolog", "--epilog", "--task-prolog", "--task-epilog"),
    **dict.fromkeys(("mpirun", "mpiexec"), ("--mca", "-mca", "--launch-agent", "-launch-agent")),
}
"""Programs, and those of their options whose value they run: ``tar --to-command=PROGRAM``."""

_OF_TWO_WORDS = ("--mca", "-mca")
"""Those whose value is the second word after them."""

_LAUNCHERS = frozenset(shlex.split("docker podman sbatch srun mpirun mpiexec"))
"""Those of them whose options end where another program's words begin."""

_SET_VARIABLES = frozenset(
    shlex.split("""
    let declare typeset local export readonly read mapfile readarray set shift getopts unset
    alias unalias bind complete compgen for select coproc enable fc history wait hash
    """)
)
"""Words of a shell that keep a value under a name, or calculate with it."""

_RUN_TEXT = frozenset(("eval", "trap", "source", "."))
"""Words of a shell that read their arguments as code: no value may stand there."""

_BEFORE_COMMANDS = frozenset(
    shlex.split("if then elif else while until do ! { time case in esac fi done } function")
)
_COMPOUNDS = frozenset(shlex.split("while until for if case select { ( [[ (("))
_PREFIXES = frozenset(
    shlex.split("""
    env exec command builtin timeout nice nohup sudo doas setsid stdbuf time chrt ionice taskset
    numactl unbuffer docker podman kubectl srun mpirun mpiexec find caffeinate chpst
    """)
)
"""Programs that run another, which is one of their arguments."""

_NO_OPTIONS = frozenset(("echo", "printf", "test", "[", "[[", "case", "for"))

_RUN_MODULES = frozenset(
    shlex.split("timeit pdb bdb code cProfile profile trace doctest IPython ipython runpy asyncio")
)
"""Modules of Python that take an argument for code, or run the file that it names."""

_FOLDERS = ("config_path", "job_dir", "bundle_dir", "python", "socket")
"""Placeholders of whole paths, which begin with a slash."""

_ASSIGNS = re.compile(r"[A-Za-z_]\w*(\[[^\]]*\])?\+?=")
_DEFINES = re.compile(r"(?:^|[\s;&|{(])(?:function\s+([\w.:-]+)|([\w.:-]+)\s*\(\s*\))")
_OWN_ARGUMENTS = re.compile(r"\$(?:[1-9@*_]|\{(?:[0-9@*_!][^}]*|!?BASH_ARG[^}]*)\}|BASH_ARG)")
_SINGLE = re.compile(r"'[^']*'")
_PRINTS = re.compile(r"-[nuErs]+|[\d,$]*[pdq]|s([/|#,])(?:(?!\1).)*\1(?:(?!\1).)*\1[gpiI\d]*")
"""The words of a ``sed`` that runs and writes nothing."""
_GLOB = re.compile(r"[*?\[]|~(?!/)|\{.*,")
_FOLDER = re.compile(r"\$(?:\w+|\{\w+\})/")
"""A variable as the folder of a program that is named."""


@dataclass
class Word:
    """A word of a simple command.

    Attributes:
        text: without its quotes; placeholders stay.
        raw: as it is written.
        at: where the placeholders in it stand in the script.
        inner: the places of those inside ``$(…)`` and the like.
    """

    text: str
    raw: str
    at: list[int] = field(default_factory=list)
    inner: set[int] = field(default_factory=set)
    fed: bool = False
    """Whether it is what a program reads: ``<<<``."""


@dataclass
class Simple:
    """A simple command: its words, and whether a pipe leads into it."""

    words: list[Word]
    piped: bool = False


def unsafe_places(script: str, where: str) -> dict[int, str]:
    """Where in a shell's script a placeholder may have only a plain value, and why.

    Raises:
        SpecError: one stands where no value may.
    """
    commands = list(_commands(script))
    bare = _SINGLE.sub("''", script)
    defined = {one or other for one, other in _DEFINES.findall(bare)}
    own = (
        "in a script that reads its own arguments ($1, $@, $_)"
        if _OWN_ARGUMENTS.search(PLACE.sub("", bare))
        else ""
    )
    own = own or _run_from_pipe(commands, defined)
    found: dict[int, str] = {}
    for command in commands:
        for index, word in enumerate(command.words):
            if not word.at:
                continue
            if runs := _runs_text(command.words[:index]):
                raise SpecError(
                    f"the value of a placeholder cannot be one argument of {runs}, which reads it "
                    "as code",
                    field=f"{where}.command",
                    got=word.text,
                    expected="a placeholder as an argument of a program",
                )
            reason = own or _reason(command.words, index, defined)
            for at in word.at:
                if at in word.inner:
                    found[at] = "inside $(…), `…`, ${…} or arithmetic"
                elif reason:
                    found[at] = reason
    return found


def leading(script: str) -> list[str]:
    """The placeholders of a script that begin an argument of a program, where a value with a hyphen
    would be an option of it; not those after ``--``, nor of what only prints or compares."""
    found: list[str] = []
    for command in _commands(script):
        found += leading_words([word.text for word in command.words])
    return found


def leading_words(words: list[str]) -> list[str]:
    """As `leading`, of the words of one program."""
    names: list[str] = []
    for at, word in enumerate(words):
        if word == "--" or (at == 0 and _name(word) in _NO_OPTIONS):
            break
        if at and (match := PLACE.match(word)) and match[1] not in _FOLDERS:
            names.append(match[1])
    return names


def _runs_text(words: list[Word]) -> str:
    """The word of a shell among these that reads what follows as code; empty without one."""
    names = [one.text for one in words]
    for at, name in enumerate(names):
        first = at == 0 or names[at - 1] in _BEFORE_COMMANDS | {"command", "builtin"}
        first = first or bool(_ASSIGNS.match(names[at - 1]))
        if name in _RUN_TEXT and (first or name != "."):
            return name
    return ""


def unsafe_word(words: list[str], index: int) -> str:
    """Why a placeholder in a word of a command that no shell reads must have a plain value."""
    if not _is_path(words[0]):
        name = "as the name of a program"
        return name if index == 0 else "as an argument of a program whose name is not known"
    return _of_program([Word(one, "'") for one in words], index)


def _reason(words: list[Word], index: int, defined: set[str]) -> str:
    """Why the placeholders of a word must have plain values; empty where any value is one
    argument."""
    word = words[index]
    if word.fed:
        return "as what a program reads (<<<)"
    if UNPLAIN.search(PLACE.sub("", word.text)):
        return "inside a text with other characters than those of a path"
    start = 0
    while start < len(words) and words[start].raw in _BEFORE_COMMANDS:
        start += 1
    while start < len(words) and _ASSIGNS.match(words[start].raw):
        start += 1
    if index < start:
        return "in an assignment"
    names = [one.text for one in words[start : index + 1]]
    if "[[" in names:
        return "inside [[ ]]"
    for name in names[:-1]:
        if name in defined:
            return f"as an argument of the function {name} of the script"
        if name in _SET_VARIABLES:
            return f"as an argument of {name}"
    if "case" in [one.raw for one in words[:start]]:
        return ""
    if {"[", "test"} & {*names[:-1]} and (
        PLACE.search(names[-2]) or "$" in names[-2] or names[-2] in ("-v", "-R")
    ):
        return "as an argument of test that may name a variable"
    if "printf" in names[:-1]:
        first = names.index("printf") + 1
        if first == len(names) - 1 or names[first].startswith("-") or PLACE.match(names[first]):
            return "as an argument of printf that may name a variable"
    if index == start and not _is_path(word.text):
        return "as the name of a program"
    if _is_variable(words[start]) or not _is_path(words[start].text):
        return "as an argument of a program whose name is not known"
    prefixed = any(_name(one) in _PREFIXES for one in names[:-1])
    if prefixed and any(_is_variable(one) for one in words[start:index]):
        return "as an argument of a program whose name is not known"
    if any(_open(one.raw) for one in words):
        return "beside a command in parentheses"
    return _of_program(words[start:], index - start)


def _of_program(words: list[Word], index: int) -> str:
    """Why the placeholders of a word are no mere arguments, by the programs before it."""
    for at, word in enumerate(words[:index]):
        name = _name(word.text)
        if name in _RUN_CODE:
            return f"as an argument of {name}, which may run it"
        if option := _run_option(name, [one.text for one in words[at + 1 : index + 1]]):
            return f"in {option} of {name}, which may run it"
        if name == "env" and not _after_file(words[at + 1 : index + 1], "i", assigns=True):
            return "as an argument of env before the program"
        if name in _RUN_FILES and not _after_file(words[at + 1 : index + 1], _RUN_FILES[name]):
            return f"as an argument of {name} before the file that it runs"
    return ""


def _run_option(name: str, words: list[str]) -> str:
    """The option of a program in whose value the last of the words after its name stands, where
    the program runs that value; empty where it is no such option's.

    A long option may be shortened, as GNU's are, and a short one be the last of several. An option
    whose name a placeholder makes may be any.
    """
    options = _RUN_OPTIONS.get(name)
    if not options or "--" in words[:-1]:
        return ""
    begin = PLACE.split(words[-1], maxsplit=1)[0]
    short = [one for one in options if len(one) == 2 and begin.startswith(one)]
    if short or re.fullmatch(r"-+[\w-]*", begin):
        return short[0] if short else "an option"
    is_inside = begin.startswith("-")  # --option=VALUE, else --option VALUE
    given = begin.partition("=")[0] if is_inside else words[-2] if words[1:] else ""
    for option in options:
        if given == option or _shortens(given, option):
            return option
        if option in _OF_TWO_WORDS and option in words[-3:-1]:
            return option
        if not is_inside and _ends(given, option):
            return option
    return ""


def runs_options(words: list[str]) -> str:
    """Why the options that follow the words of a command must have plain values: a program among
    them runs the values of some."""
    names = {_name(word) for word in words} & _RUN_OPTIONS.keys() - _LAUNCHERS
    return f"as options of {min(names)}, which may run them" if names else ""


def _shortens(given: str, option: str) -> bool:
    """Whether a word is the beginning of a long option."""
    return option.startswith("--") and len(given) > 3 and option.startswith(given)


def _ends(given: str, option: str) -> bool:
    """Whether a cluster of short options ends in one that takes the next word."""
    is_short = len(option) == 2 and re.fullmatch(r"-[A-Za-z]+", given) is not None
    return is_short and given.endswith(option[1])


def _after_file(words: list[Word], options: str, assigns: bool = False) -> bool:
    """Whether the last of the words after a program's name is the file that it runs, or comes
    after it."""
    is_module = False
    for word in words:
        text = word.text
        if is_module and text in _RUN_MODULES:
            return False
        if text == "--" or (assigns and re.match(r"\w+=", text)):
            continue
        if not text.startswith("-"):
            literal = not PLACE.match(text) or _is_path(text)
            return literal and ("$" not in text or word.raw == "'") and "`" not in text
        if text == "-m" and "u" in options and "B" in options:
            is_module = True
            continue
        if not re.fullmatch(rf"-[{options or '-'}]+", text):
            return False
    return False


def _run_from_pipe(commands: list[Simple], defined: set[str]) -> str:
    """Which command of a script may run what another writes to it; empty without one."""
    for command in commands:
        for word in command.words:
            if word.raw.startswith((">(", "<(")):
                inner = list(_commands(word.raw[2:-1]))
                for one in inner:
                    one.piped = one.piped or word.raw.startswith(">(")
                if reason := _run_from_pipe(inner, defined):
                    return reason
        names = [word.text for word in command.words]
        if not command.piped or _filters(names):
            continue
        first = names[0] if names else "("
        sets = {*names} & (_SET_VARIABLES | defined)
        words = [*command.words, Word("{input}", "{input}")]
        if first in _COMPOUNDS or sets or _runs_text(words) or _is_variable(words[0]):
            return f"in a script with a pipe into {first}"
        if reason := _of_program(words, len(words) - 1):
            return f"in a script with a pipe into {first}"
    return ""


def _filters(names: list[str]) -> bool:
    """Whether a command is an ``awk``, ``sed`` or ``jq`` that only reads lines and prints some."""
    if names[:1] == ["sed"]:
        return all(_PRINTS.fullmatch(one) for one in names[1:])
    if names[:1] == ["awk"]:
        return not any(word in one for word in ("system", "|", "$(", "`") for one in names)
    return names[:1] == ["jq"]


def _name(text: str) -> str:
    """The name of a program without its folder and version."""
    if text == "{python}":
        return "python"
    name = text.rpartition("/")[2]
    bare = re.sub(r"[\d.]+$", "", name)
    return bare if bare in _RUN_FILES else name


def _is_path(text: str) -> bool:
    """Whether a word begins with something that is known to be a path."""
    match = PLACE.match(text)
    return match is None or match[1] in _FOLDERS


def _is_variable(word: Word) -> bool:
    """Whether only the shell knows what a word names."""
    if word.raw in ("[", "[["):
        return False
    text = _FOLDER.sub("", PLACE.sub("", word.text))
    return "$" in text or "`" in text or bool(_GLOB.search(PLACE.sub("", word.raw)))


def _open(raw: str) -> bool:
    return raw.startswith(("<(", ">("))


def _commands(script: str) -> Iterator[Simple]:
    """The simple commands of a script, one after another; those inside ``$(…)`` are words."""
    words: list[Word] = []
    at, piped, fed = 0, False, False
    while at < len(script):
        two = script[at : at + 2]
        if script.startswith("\\\n", at):
            at += 2
        elif script[at] in " \t":
            at += 1
        elif script[at] == "#":
            end = script.find("\n", at)
            at = len(script) if end < 0 else end
        elif script.startswith("<<<", at):
            at, fed = at + 3, True
        elif _redirects(script, at):
            at += 1
        elif script[at] in ";&|\n()" and two != "((":
            operator = two if two in ("||", "&&", ";;", "|&") else script[at]
            if words or (piped and operator == "("):
                yield Simple(words, piped)
                words, piped = [], False
            piped = operator in ("|", "|&") or (piped and operator == "\n")
            at += len(operator)
        else:
            word, at = _word(script, at)
            word.fed, fed = fed, False
            words.append(word)
    if words:
        yield Simple(words, piped)


def _redirects(script: str, at: int) -> bool:
    """Whether a sign is part of a redirection: ``>``, ``2>&1``, ``&>``, ``>|``."""
    two = script[at : at + 2]
    if script[at] in "<>":
        return two not in ("<(", ">(")
    after = script[max(0, at - 1) : at] in ("<", ">")
    return (script[at] == "&" and (two == "&>" or after)) or (script[at] == "|" and after)


def _word(script: str, start: int) -> tuple[Word, int]:
    """The word that begins here, and where it ends."""
    text, at, quoted = "", start, False
    placed: list[int] = []
    inner: set[int] = set()
    single = False
    while at < len(script):
        if match := PLACE.match(script, at):
            placed.append(at)
            text, at = text + match[0], match.end()
            continue
        letter = script[at]
        if single:
            single = letter != "'"
            text += letter if single else ""
            at += 1
        elif letter == "\\":
            text += script[at + 1 : at + 2].replace("\n", "")
            at += 2
        elif letter == '"':
            quoted = not quoted
            at += 1
        elif letter == "'" and not quoted:
            single = True
            at += 1
        elif letter == "`" or script[at : at + 2] in ("$(", "${", "<(", ">(", "(("):
            end = _end(script, at)
            for match in PLACE.finditer(script, at + 1, end):
                placed.append(match.start())
                inner.add(match.start())
            text, at = text + script[at:end], end
        elif not quoted and letter in " \t\n;&|<>()":
            if text.endswith("=") and letter == "(":  # an array
                end = _end(script, at)
                placed += [one.start() for one in PLACE.finditer(script, at, end)]
                text, at = text + script[at:end], end
                continue
            break
        else:
            text, at = text + letter, at + 1
    return Word(text, script[start:at], placed, inner), max(at, start + 1)


def _end(script: str, start: int) -> int:
    """Where what opens here closes; the script's end where it does not, so that all of it counts
    as inside."""
    if script[start] == "`":
        end = script.find("`", start + 1)
        return len(script) if end < 0 else end + 1
    depth, quote = 0, ""
    at = start
    while at < len(script):
        letter = script[at]
        if letter == "\\" and quote != "'":
            at += 2
            continue
        if quote == "'" or (letter == "'" and not quote):
            quote = "" if letter == quote else "'"
        elif letter == '"':
            quote = "" if quote else '"'
        elif letter in "({" and not quote:
            depth += 1
        elif letter in ")}" and not quote:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return len(script)
