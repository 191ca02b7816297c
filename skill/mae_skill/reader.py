"""The one reader for every spec value: files, overrides, Python arguments.

PyYAML resolves plain words by YAML 1.1, where ``2e-4`` is text, ``on`` a boolean, ``012`` ten and
``1:30`` ninety. This reader resolves them by YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema), so JSON is read as it means and numbers are numbers.
Of YAML 1.1 it keeps the merge key (https://yaml.org/type/merge.html), which spec files use.

PyYAML only composes the nodes; no constructor of its own runs. What a document may cost is bounded:
bytes, depth, and the number of values after aliases are written out.
"""

from __future__ import annotations

import math
import os
import re
import select
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mae_skill.dotted import once
from mae_skill.errors import REDACTED, NotFoundError, SpecError, UsageError, looks_secret

MAX_BYTES = 2 * 2**20
"""Of a spec. PyYAML takes some three seconds for a MiB."""

MAX_VALUES = 100_000
"""In a document, with every alias written out: nine lines of aliases can stand for 10^9."""

MAX_DEPTH = 64
"""Sections within sections."""

PIPE_SECONDS = 30.0
# Without O_NONBLOCK the open of a pipe waits for its writer, for ever. Windows lacks it, and
# translates the ends of lines unless told not to.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Silence after which nobody is taken to write into a pipe."""

_CORE = "tag:yaml.org,2002:"
_WORDS = {
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": re.compile(
        r"^(?:[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
}
_MAX_DIGITS = 400  # the largest float has 309


class _Loader(yaml.SafeLoader):
    """PyYAML's composer with the plain words of YAML 1.2.

    It stops where a document is nested too deeply: PyYAML's time grows with the square of that.
    """

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level > MAX_DEPTH:
            raise RecursionError
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > MAX_DEPTH:
            raise RecursionError
        return bool(super().add_indent(column))


_Loader.yaml_implicit_resolvers = {}
for _name, _first in (
    ("bool", [*"tTfF"]),
    ("null", [*"~nN", ""]),
    ("int", [*"-+0123456789"]),
    ("float", [*"-+.0123456789"]),
):
    _Loader.add_implicit_resolver(f"{_CORE}{_name}", _WORDS[_name], _first)


class _Document:
    """A composed document as plain values.

    Args:
        source: what errors call the document.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.values = 0
        self._open: set[int] = set()
        self._merged: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = {}

    def value(self, node: yaml.Node, path: tuple[str | int, ...] = ()) -> Any:
        """The value of a node; ``path`` leads to it from the top."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise SpecError(
                f"{self.source} holds too much",
                got=f"more than {MAX_VALUES:,} values with its aliases written out",
                expected=f"at most {MAX_VALUES:,}",
                hint=_line(node),
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if len(path) >= MAX_DEPTH:
            raise _too_deep(self.source, _line(node))
        if id(node) in self._open:
            raise SpecError(
                f"{self.source} holds a value that contains itself",
                field=_dotted(path),
                expected="an alias to an earlier value",
                hint=_line(node),
            )

        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_CORE}seq":
                return [self.value(item, (*path, at)) for at, item in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_CORE}map":
                pairs = self._pairs(node, path)
                return {key: self.value(item, (*path, key)) for key, (_, item) in pairs.items()}
        finally:
            self._open.discard(id(node))
        raise self._tag(node, path)

    def _pairs(
        self, node: yaml.MappingNode, path: tuple[str | int, ...]
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key → (its node, its value's node): what the mapping says itself, over what it merges."""
        if id(node) in self._merged:
            return self._merged[id(node)]
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merges: tuple[yaml.Node, yaml.Node] | None = None
        for key_node, item in node.value:
            if _is_merge(key_node):
                if merges is not None:
                    raise _twice("<<", path, merges[0], key_node)
                merges = key_node, item
                continue
            key = self.value(key_node, (*path, "a key"))
            if not isinstance(key, str):
                raise SpecError(
                    "a key must be text",
                    field=_dotted(path),
                    got=key,
                    expected="a word",
                    hint=_line(key_node),
                )
            if key in own:
                raise _twice(key, path, own[key][0], key_node)
            own[key] = key_node, item
        found = {**self._merge(*merges, path), **own} if merges else own
        self._merged[id(node)] = found
        return found

    def _merge(
        self, key: yaml.Node, node: yaml.Node, path: tuple[str | int, ...]
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """What ``<<`` brings: of several mappings the earlier ones win."""
        listed = isinstance(node, yaml.SequenceNode) and node.tag == f"{_CORE}seq"
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for item in reversed(node.value if listed else [node]):
            if not isinstance(item, yaml.MappingNode) or item.tag != f"{_CORE}map":
                raise SpecError(
                    "<< merges something that is no section",
                    field=_dotted(path),
                    expected="an alias of a section, or a list of them",
                    hint=_line(key),
                )
            if id(item) in self._open:
                raise SpecError(
                    "<< merges a section into itself",
                    field=_dotted(path),
                    expected="an alias of another section",
                    hint=_line(key),
                )
            self._open.add(id(item))
            pairs = self._pairs(item, path)
            self._open.discard(id(item))
            self.values += len(pairs)
            found = {**found, **pairs}
        return found

    def _scalar(self, node: yaml.ScalarNode, path: tuple[str | int, ...]) -> Any:
        kind, text = node.tag.removeprefix(_CORE), str(node.value)
        if kind == "str" and node.tag != kind:
            return self._text(node, path)
        word = _WORDS.get(kind) if node.tag != kind else None
        if word is None:
            raise self._tag(node, path)
        whole = kind == "float" and _WORDS["int"].match(text)  # "!!float 3" is a float too
        if not word.match(text) and not whole:
            raise self._tag(node, path)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        value = _number(text, kind)
        if value is None:
            raise SpecError(
                "a number must be finite",
                field=_dotted(path),
                got=text if len(text) < 40 else f"{text[:30]}… ({len(text)} characters)",
                expected="a finite number",
                hint=_line(node),
            )
        return value

    def _text(self, node: yaml.ScalarNode, path: tuple[str | int, ...]) -> str:
        text = str(node.value)
        if not any("\ud800" <= letter <= "\udfff" for letter in text):
            return text
        try:
            # JSON writes a character above U+FFFF as two escapes.
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise SpecError(
                "half a character: one surrogate of a pair",
                field=_dotted(path),
                got=ascii(text[:80]),
                expected="text that UTF-8 can hold",
                hint=_line(node),
            ) from None

    def _tag(self, node: yaml.Node, path: tuple[str | int, ...]) -> SpecError:
        tag = str(node.tag)
        shown = f"!!{tag.removeprefix(_CORE)}" if tag.startswith(_CORE) else tag
        return SpecError(
            f"{self.source} has a tag that cannot be read",
            field=_dotted(path),
            got=shown[:80],
            expected="plain values; of tags !!str, !!int, !!float, !!bool, !!null before a value "
            "that is one",
            hint=f"{_line(node)}: leave the tag out, or quote a text that starts with !",
        )


def _number(text: str, kind: str) -> int | float | None:
    """The number, or None where it is not finite."""
    if kind == "int" or _WORDS["int"].match(text):
        if len(text) > _MAX_DIGITS:
            return None
        whole = int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        return whole if kind == "int" else float(whole)
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return value if math.isfinite(value) else None


def _is_merge(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "<<" and node.style is None


def _twice(key: str, path: tuple[str | int, ...], first: yaml.Node, second: yaml.Node) -> SpecError:
    return SpecError(
        f"a key is given twice, on lines {_number_of(first)} and {_number_of(second)}",
        field=_dotted((*path, key)),
        got=key,
        expected="each key once",
        hint=_line(second),
    )


def _too_deep(source: str, hint: str | None = None) -> SpecError:
    return SpecError(
        f"{source} is nested too deeply",
        expected=f"at most {MAX_DEPTH} sections or lists within each other",
        hint=hint,
    )


def _number_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _line(node: yaml.Node) -> str:
    return f"line {_number_of(node)}"


def _dotted(path: tuple[str | int, ...]) -> str | None:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or None


def parse_yaml(text: str, source: str = "the text") -> Any:
    """The document in ``text`` (YAML 1.2 or JSON) as plain Python values.

    Raises:
        SpecError: it is not YAML, a key stands twice, a number is not finite, a tag asks for
            something else than a plain value, or it is too large or too deep.
    """
    try:
        return _parsed(text, source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(
            f"{source} is not valid YAML{where}",
            got=str(problem),
            expected="YAML or JSON",
            hint=_mended(str(problem), getattr(error, "context", None)),
        ) from error


def _parsed(text: str, source: str) -> Any:
    """As `parse_yaml`, but text that is not YAML is a ``yaml.YAMLError``."""
    if len(text) > MAX_BYTES:
        raise _too_large(source)
    try:
        node = yaml.compose(text.removeprefix("\ufeff"), Loader=_Loader)
        return None if node is None else _Document(source).value(node)
    except RecursionError:
        raise _too_deep(source) from None
    except (ValueError, OverflowError) as error:
        raise SpecError(
            f"{source} cannot be read", got=str(error)[:200], expected="YAML or JSON"
        ) from error


_OTHERWISE = re.compile(
    r"(?:yes|no|on|off|[-+]?(?:0[0-7]+|0b[01]+|[0-9][0-9_]*_[0-9_.]*|[0-9]+(?::[0-5]?[0-9])+))",
    re.IGNORECASE,
)
"""Plain words that are a boolean, or another number, by YAML 1.1."""

_MAY_BE = re.compile(rf"(?:^|[\s:,\[-]){_OTHERWISE.pattern}(?=$|[\s,\]}}])", re.I | re.M)


class Otherwise(NamedTuple):
    """A plain word of a YAML document that two readers take for different values.

    Attributes:
        here: its value by YAML 1.2, as this reader takes it.  there: by YAML 1.1.
    """

    path: tuple[str | int, ...]
    word: str
    here: Any
    there: Any

    def __str__(self) -> str:
        here = "text" if isinstance(self.here, str) else f"{self.here}"
        return f"{_dotted(self.path)}: {self.word} ({here} here, {self.there} there)"


def _by_yaml_1_1(word: str) -> str:
    """A word of `_OTHERWISE` as YAML 1.1 reads it, written as YAML 1.2 does."""
    if word.lower() in ("yes", "on", "no", "off"):
        return "true" if word.lower() in ("yes", "on") else "false"
    sign, plain = ("-" if word.startswith("-") else ""), word.lstrip("+-").replace("_", "")
    if ":" in plain:
        total = 0
        for part in plain.split(":"):
            total = total * 60 + int(part)
        return f"{sign}{total}"
    if plain.lower().startswith("0b"):
        return f"{sign}{int(plain[2:] or '0', 2)}"
    is_octal = re.fullmatch(r"0[0-7]+", plain) is not None
    return f"{sign}{int(plain, 8) if is_octal else plain}"


def read_otherwise(text: str) -> list[Otherwise]:
    """The fields of a YAML document that a reader of YAML 1.1 (PyYAML, OmegaConf) takes for
    something else, each with its word: ``train.amp: no``, ``port: 010``. None of what is no YAML.
    """
    if not _MAY_BE.search(text):
        return []
    try:
        top = yaml.compose(text.removeprefix("\ufeff"), Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return []
    found: list[Otherwise] = []
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), top)]
    seen: set[int] = set()
    while waiting:
        path, node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            waiting += [((*path, str(key.value)), item) for key, item in reversed(node.value)]
        elif isinstance(node, yaml.SequenceNode):
            waiting += reversed([((*path, at), item) for at, item in enumerate(node.value)])
        elif node.style is None and _OTHERWISE.fullmatch(node.value):
            word = str(node.value)
            found.append(Otherwise(path, word, parse_value(word), _by_yaml_1_1(word)))
    return found


def _mended(problem: str, context: Any) -> str | None:
    if "'\\t'" in problem:
        return "indent with spaces: YAML has no tabs there"
    if problem.endswith("found '?'"):
        return 'inside { } and [ ] YAML needs quotes: "???"'
    if "single document" in str(context):
        return "one document in a file: leave out what follows the second ---"
    if "special characters" in problem:
        return "the text holds a control character"
    return None


def _too_large(source: str) -> SpecError:
    return SpecError(
        f"{source} is too large",
        got=f"more than {MAX_BYTES // 2**20} MiB",
        expected="a spec",
    )


def parse_value(text: str) -> Any:
    """One value as a spec file would read it: ``2e-4`` → 0.0002, ``[1, 2]`` → list, ``on`` → text;
    text that is not YAML stays text.

    Raises:
        SpecError: it is YAML that no spec may hold.
    """
    try:
        return _parsed(text, "the value")
    except yaml.YAMLError:
        return text


def parse_override(text: str, section: str = "") -> tuple[str, Any]:
    """``"a.b=c"`` → ``("a.b", value)``; the value is read as a spec file would read it.

    Args:
        section: what the keys are of, for errors: ``platform_options.``; empty: fields of a spec.

    Raises:
        UsageError: there is no ``=``, or the key is empty.
        SpecError: the value is YAML that no spec may hold.
    """
    key, found, value = text.partition("=")
    key = key.strip()
    if not found or not key or any(not part for part in key.split(".")):
        example = "train.num_epochs=10" if not section else f"{key or 'NAME'}=VALUE"
        raise UsageError(
            "a setting is not key=value" if section else "an override is not key=value",
            field=section.rstrip(".") or "override",
            got=REDACTED if looks_secret(text) else text,
            expected=f"a {'' if section else 'dotted '}key, =, a value: {example}",
            hint="write an = between the two, without blanks",
        )
    try:
        return key, parse_value(value.strip())
    except SpecError as error:
        error.field = f"{key}.{error.field}" if error.field else key
        raise


def parse_overrides(texts: Iterable[str], section: str = "") -> dict[str, Any]:
    """The ``key=value`` texts of one command line, as `parse_override` reads them.

    Raises:
        UsageError, SpecError: as `parse_override`; or a key has two values.
    """
    return once((parse_override(text, section) for text in texts), section)


def read_spec(path: str | Path) -> dict[str, Any]:
    """The spec in a YAML or JSON file or pipe; ``-`` reads standard input. An empty file is an
    empty spec.

    Raises:
        NotFoundError: there is no such file.  SpecError: it is not a mapping, or not YAML.
        UsageError: it cannot be read as text, or nobody writes into the pipe.
    """
    name = str(path)
    shown = "standard input" if name == "-" else name
    found = parse_yaml(_standard_input() if name == "-" else _file(name), shown)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SpecError(
            f"{shown} is not a spec",
            got=_KINDS.get(type(found), "a text"),
            expected="a mapping of sections, such as train: {num_epochs: 10}",
        )
    return found


_KINDS = {list: "a list", int: "a number", float: "a number", bool: "a boolean"}


def _standard_input() -> str:
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError(
            "standard input is closed", field="experiment_spec", got="-", expected="a spec"
        )
    binary = getattr(sys.stdin, "buffer", None)
    if binary is None:
        return sys.stdin.read(MAX_BYTES + 1)
    return _decoded(binary.read(MAX_BYTES + 1), "standard input")


def _file(name: str) -> str:
    """The text of a file, or of a pipe, which is read once (``-e <(…)``)."""
    try:
        descriptor = os.open(name, _READ)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise _no_file(name) from None
    except OSError as error:
        raise _unreadable(name, str(error)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise _no_file(name)
        waits = not stat.S_ISREG(mode)
        return _decoded(b"".join(_chunks(descriptor, name, waits)), name)
    except OSError as error:
        raise _unreadable(name, str(error)) from error
    finally:
        os.close(descriptor)


def _chunks(descriptor: int, name: str, waits: bool) -> Iterator[bytes]:
    """What comes, until its end or one byte too many.

    Raises:
        UsageError: nothing comes for `PIPE_SECONDS`.
    """
    waits = waits and hasattr(select, "poll")  # Windows: the pipe is waited for as long as it takes
    if waits:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    size, last = 0, time.monotonic()
    while size <= MAX_BYTES:
        if waits and not poll.poll(200):
            if time.monotonic() - last > PIPE_SECONDS:
                raise UsageError(
                    "nothing comes through the pipe",
                    field="experiment_spec",
                    got=name,
                    expected=f"a spec, within {PIPE_SECONDS:g} s",
                    hint="something has to write into it: cat spec.yaml > the pipe",
                )
            continue
        chunk = os.read(descriptor, 2**16)
        if not chunk:
            return
        size, last = size + len(chunk), time.monotonic()
        yield chunk


def _decoded(data: bytes, name: str) -> str:
    if len(data) > MAX_BYTES:
        raise _too_large(name)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        raise _unreadable(name, "it is UTF-16 or UTF-32: iconv -f UTF-16 -t UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _unreadable(
            name, f"byte {data[error.start]:#04x} on line {line} is not UTF-8: save it as UTF-8"
        ) from error


def _no_file(name: str) -> NotFoundError:
    return NotFoundError(
        "there is no such spec file",
        field="experiment_spec",
        got=name,
        expected="a YAML or JSON file",
        hint="check the path; mae get-spec ACTION -o spec.yaml writes a spec",
    )


def _unreadable(name: str, why: str) -> UsageError:
    return UsageError(
        "the spec file cannot be read as text",
        field="experiment_spec",
        got=name,
        expected="UTF-8",
        hint=why,
    )


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
        return parse_value(text)
    except SpecError:
        return None  # YAML that no spec may hold: quoted, it is text


_Dumper.add_representer(float, _dump_float)
_Dumper.add_representer(list, _dump_list)
_Dumper.add_representer(str, _dump_str)
