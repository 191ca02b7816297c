"""``${a.b}`` in the spec of a study: a field that refers to a searched one follows it in every
trial."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.placeholders import resolve_references


def follow(
    base: Mapping[str, Any],
    varied: Mapping[str, Any],
    references: Mapping[str, Any],
    *,
    aliases: Mapping[str, str] | None = None,
    fixed: Collection[str] = (),
) -> dict[str, Any]:
    """A copy of ``varied`` in which fields that refer to others have their values of now.

    A field follows where its reference gives the value that it has in ``base``: elsewhere something
    else has set it since.

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
        old, at_base = get_dotted(base, key), before.get(key)
        if key not in now or str(at_base) != str(old):
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
