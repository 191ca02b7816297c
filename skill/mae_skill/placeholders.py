"""The two notations that specs share with OmegaConf: ``???`` and ``${…}``.

``???`` means not given: the layer that holds it says nothing of the field, and a lower layer, a
default or an inferred value fills it. ``${a.b}`` is another field's value: alone it keeps its type,
inside text it is spliced in as text. Dots in front lead from the field's own section upward
(``${.b}`` beside it, ``${..b}`` one section up), ``[0]`` or ``.0`` into a list, and a reference may
name its target by another one (``${a.${b}}``); as in
https://omegaconf.readthedocs.io/en/2.3_branch/grammar.html.

Resolvers (``${oc.env:X}``) are refused: a spec that is written down must not depend on where it is
read. So are escapes (``\\${``): a written spec is read again, and would be resolved again.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mae_skill.dotted import MISSING, field_nodes, get_dotted, set_dotted
from mae_skill.errors import MaeError, SpecError
from mae_skill.spelling import nearest

NOT_GIVEN = "???"
MAX_TEXT = 2**16
MAX_VALUES = 20_000
"""That all references of a spec may copy; a chain of doublings stands for any number."""

MAX_CHAIN = 50

Path = tuple[str | int, ...]

_KEY = re.compile(r"^(\.*)([^.\[\]]+(?:\.[^.\[\]]+|\[[^.\[\]]+\])*|)$")
_PART = re.compile(r"[^.\[\]]+")


def given_only(document: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], set[str]]:
    """``document`` without what is ``???``, and the dotted keys that were.

    Lists stay as they are: an item cannot be left out.
    """
    found: dict[str, Any] = {}
    absent: set[str] = set()
    for name, value in document.items():
        if value == NOT_GIVEN and isinstance(value, str):
            absent.add(f"{prefix}{name}")
        elif isinstance(value, Mapping):
            found[name], inside = given_only(value, f"{prefix}{name}.")
            absent |= inside
        else:
            found[name] = value
    return found, absent


def absent_items(value: Any, key: str = "") -> Iterator[str]:
    """The keys of ``???`` that are left, as those inside lists: ``a.b[1]``, ``a.b[1].c``."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from absent_items(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from absent_items(item, f"{key}[{at}]")
    elif isinstance(value, str) and value == NOT_GIVEN:
        yield key


def has_reference(value: Any) -> bool:
    """Whether a text, or a text inside, holds ``${``."""
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, Mapping):
        return any(has_reference(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(has_reference(item) for item in value)


def opened(value: Any) -> Any:
    """A value with ``???`` in the place of its references."""
    if isinstance(value, Mapping):
        return {name: opened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [opened(item) for item in value]
    return NOT_GIVEN if has_reference(value) else value


class OpenReferenceError(SpecError):
    """A reference that leads to a field which is not given, the ``target``."""

    target = ""


class References:
    """The references of a merged spec.

    Args:
        spec: merged sections.  schema: gives defaults of fields that the spec leaves out.
        absent: the dotted keys that may be filled later: those of ``???``, which `spec` is without
            but for the items of lists, and what the tables of a bundle fill.
    """

    def __init__(
        self, spec: Mapping[str, Any], schema: Mapping[str, Any], absent: Collection[str] = ()
    ) -> None:
        self.spec = spec
        self.absent = absent
        self.aliases: Mapping[str, str] = schema.get("x_aliases") or {}
        self.fields = field_nodes(schema)
        self.values = 0

    def value(self, key: str) -> Any:
        """The value of a field with its references resolved.

        Raises:
            SpecError: a reference leads nowhere, in a circle, or cannot be resolved.
        """
        path: Path = tuple(key.split("."))
        return self._resolved(get_dotted(self.spec, key), path, (path,))

    def _resolved(self, value: Any, path: Path, chain: tuple[Path, ...]) -> Any:
        self.values += 1
        if self.values > MAX_VALUES:
            raise SpecError("its references copy too much", expected=f"at most {MAX_VALUES} values")
        if isinstance(value, str):
            return self._text(value, path, chain)
        if isinstance(value, Mapping):
            return {
                name: self._resolved(item, (*path, str(name)), chain)
                for name, item in value.items()
            }
        if isinstance(value, list):
            return [self._resolved(item, (*path, at), chain) for at, item in enumerate(value)]
        return value

    def _text(self, text: str, path: Path, chain: tuple[Path, ...]) -> Any:
        pieces: list[Any] = []
        rest = text
        while "${" in rest:
            before, _, after = rest.partition("${")
            if before.endswith("\\"):
                raise SpecError(
                    "an escaped ${ cannot be kept: the written spec is read again",
                    expected="text without ${",
                )
            inner, rest = _closed(after)
            pieces += [before, self._target(inner, path, chain)]
        pieces = [piece for piece in [*pieces, rest] if piece != ""]
        if len(pieces) == 1:
            return pieces[0]
        for piece in pieces:
            if piece is None or isinstance(piece, (list, dict)):
                raise SpecError(
                    "a reference inside text gives no text",
                    expected="a text, a number or a boolean there",
                )
        spliced = "".join(map(str, pieces))
        if len(spliced) > MAX_TEXT:
            raise SpecError("its references give a text that is too long", expected="a short text")
        return spliced

    def _target(self, inner: str, path: Path, chain: tuple[Path, ...]) -> Any:
        if "${" in inner:
            inner = str(self._text(inner, path, chain))
        name = inner.strip()
        if ":" in name:
            raise SpecError(
                f"the resolver {name.partition(':')[0]} is not supported",
                expected="${a.b}: another field of the spec",
                hint='write the value, or give it as an override: key="$NAME"',
            )
        match = _KEY.match(name)
        if not match or not (match[1] or match[2]):
            raise SpecError("not a reference", expected="${a.b}: another field of the spec")
        up = len(match[1])
        if up > len(path):
            raise SpecError("a reference leads above the spec", expected="fewer dots")
        start: Path = path[: len(path) - up] if up else ()
        parts = _PART.findall(match[2])
        target: Path = (*start, *(_index(part) for part in parts))
        dotted = ".".join(map(str, target))
        if dotted in self.aliases:
            dotted = self.aliases[dotted]
            target = tuple(dotted.split("."))
        if len(chain) > MAX_CHAIN:
            raise SpecError("its references are nested too deeply", expected="a shorter chain")
        if any(link[: len(target)] == target or target == link for link in chain):
            raise SpecError(
                "a reference leads in a circle",
                expected=" → ".join(".".join(map(str, link)) for link in (*chain, target)),
            )
        return self._resolved(self._at(target, name), target, (*chain, target))

    def _at(self, target: Path, name: str) -> Any:
        here: Any = self.spec
        for part in target:
            if isinstance(here, Mapping):
                here = here.get(str(part), MISSING)
            elif isinstance(here, list) and isinstance(part, int) and part < len(here):
                here = here[part]
            else:
                here = MISSING
            if here is MISSING:
                break
        if here == NOT_GIVEN:
            here = MISSING
        if here is MISSING:
            dotted = _dotted(target)
            default = self.fields.get(dotted, {}).get("default")
            if default not in (None, NOT_GIVEN):
                return default
            near = nearest(dotted, self.fields)
            known = dotted in self.fields
            if any(_is_part(dotted, key) or _is_part(key, dotted) for key in self.absent):
                error = OpenReferenceError(
                    "a reference names a field that has no value", expected=f"{dotted}=VALUE"
                )
                error.target = dotted
                raise error
            raise SpecError(
                f"a reference names a field that {'has no value' if known else 'is missing'}",
                expected="a field of the spec that is given",
                hint=f"did you mean ${{{near}}}?" if near and not known else None,
            )
        return here


def _dotted(target: Path) -> str:
    """A path as a dotted key: ``a.b[0].c``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in target)
    return text.removeprefix(".")


def _is_part(key: str, of: str) -> bool:
    """Whether a key is another one, or leads into it."""
    return key == of or key.startswith((f"{of}.", f"{of}["))


def _index(part: str) -> str | int:
    return int(part) if re.fullmatch(r"[0-9]{1,9}", part) else part


def _closed(text: str) -> tuple[str, str]:
    """What stands before the brace that closes a reference, and what stands after it."""
    depth, at = 1, 0
    while at < len(text):
        if text.startswith("${", at):
            depth, at = depth + 1, at + 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return text[:at], text[at + 1 :]
        at += 1
    raise SpecError("a reference is not closed", expected="${a.b}")


def resolve_references(
    spec: Mapping[str, Any], schema: Mapping[str, Any], absent: Collection[str] = ()
) -> tuple[dict[str, tuple[str, Any]], list[MaeError]]:
    """The fields of ``spec`` that refer to others: dotted key → (what is written, its value); and
    one error for each that cannot be resolved, an `OpenReferenceError` where it leads to one of
    ``absent``.
    """
    references = References(spec, schema, absent)
    found: dict[str, tuple[str, Any]] = {}
    problems: list[MaeError] = []
    for key, value in _leaves(spec):
        if not has_reference(value) or get_dotted(spec, key) is not value:
            continue
        try:
            found[key] = (value if isinstance(value, str) else "${…}", references.value(key))
        except SpecError as error:
            error.field, error.got = key, value
            problems.append(error)
        except RecursionError:
            problems.append(
                SpecError("its references are nested too deeply", field=key, expected="fewer")
            )
    return found, problems


def _leaves(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in spec.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def follow(
    base: Mapping[str, Any],
    varied: Mapping[str, Any],
    references: Mapping[str, Any],
    *,
    aliases: Mapping[str, str] | None = None,
    fixed: Collection[str] = (),
) -> dict[str, Any]:
    """A copy of ``varied`` in which fields that refer to others have their values of now.

    A field follows where its reference gives the value that it has in ``base``, or where both are
    open: elsewhere something else has set it since.

    Args:
        base: the resolved spec that ``varied`` was made of.
        references: dotted key → what was written there.
        aliases: other names of fields, which references may use.
        fixed: keys whose values in ``varied`` stay.
    """
    made = copy.deepcopy(dict(varied))
    free = {key: text for key, text in references.items() if key not in fixed}
    before, now = (_values(spec, free, aliases or {}) for spec in (base, varied))
    for key in free:
        old = get_dotted(base, key)
        if get_dotted(varied, key) != old:
            continue
        was_open = key not in before and (old is None or NOT_GIVEN in str(old))
        if key not in now or not (was_open or str(before.get(key)) == str(old)):
            continue
        value = now[key]
        if isinstance(value, str) and isinstance(old, (int, float)):  # "${a}${b}" of a number
            value = type(old)(value)
        set_dotted(made, key, value)
    return made


def _values(
    spec: Mapping[str, Any], references: Mapping[str, Any], aliases: Mapping[str, str]
) -> dict[str, Any]:
    written = copy.deepcopy(dict(spec))
    for key, text in references.items():
        set_dotted(written, key, text)
    resolved, _ = resolve_references(written, {"x_aliases": aliases})
    return {key: value for key, (_, value) in resolved.items()}
