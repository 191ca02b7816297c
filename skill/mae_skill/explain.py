"""What a spec field is: read from the schema alone, so that it works for any bundle."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from mae_skill.conditions import never_searched
from mae_skill.dotted import field_nodes, get_dotted, split_index
from mae_skill.errors import UsageError
from mae_skill.schema_check import describe


def explain(schema: Mapping[str, Any], key: str, others: Collection[str] = ()) -> dict[str, Any]:
    """Everything the schema says of a field (or the fields of a section).

    Args:
        others: sections of the spec that belong to other actions.

    Returns ``key, type, accepted, default, unit, description, acts_when, neighbours, automl`` for a
    field; ``key, description, fields`` for a section. An alias is followed and named.

    Raises:
        UsageError: there is no such field; the error lists near ones.
    """
    alias = (schema.get("x_aliases") or {}).get(key)
    fields = field_nodes(schema)
    target = alias or key
    if target not in fields:
        matches = [name for name in fields if name.rpartition(".")[2] == target]
        if len(matches) == 1:
            target = matches[0]
    if target in fields:
        found = _field(target, fields[target], fields)
        found["automl"] = _automl(schema, target, fields[target], others)
        if alias:
            found["alias"] = f"{key} is read as {alias}"
        return found
    if (node := _in_list(schema, target)) is not None:
        return {**_field(target, node, {}), "automl": _automl(schema, target, node, others)}
    section = get_dotted(schema, "properties." + target.replace(".", ".properties."))
    if isinstance(section, Mapping):
        prefix = f"{target}."
        inside = {
            name: str(node.get("description", ""))
            for name, node in fields.items()
            if name.startswith(prefix)
        }
        return {"key": target, "description": section.get("description"), "fields": inside}
    near = difflib.get_close_matches(target, fields, n=3, cutoff=0.5)
    near += [
        name
        for name in fields
        if name.rpartition(".")[2] == target.rpartition(".")[2] and name not in near
    ][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else "mae explain train lists a section"
    raise UsageError(
        "there is no such field",
        field=key,
        got=key,
        expected="a dotted key of the spec, or a section",
        hint=hint,
    )


def _in_list(schema: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The node of a field in the items of a list, ``a[0].b``; None where there is none."""
    if "[" not in key:
        return None
    node: Mapping[str, Any] = schema
    for part in key.split("."):
        name, positions = split_index(part)
        for word, place in (("properties", name), *(("items", None) for _ in positions)):
            inside = node.get(word)
            if place is not None:
                inside = inside.get(place) if isinstance(inside, Mapping) else None
            if not isinstance(inside, Mapping):
                return None
            node = inside
    return node


def _field(
    key: str, node: Mapping[str, Any], fields: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    conditions = node.get("applies_when") or {}
    neighbors = dict.fromkeys(node.get("related") or (), "named by this field")
    neighbors |= dict.fromkeys(conditions, "decides whether this field acts")
    neighbors |= {
        other: "enabled or disabled by this field"
        for other, entry in fields.items()
        if key in (entry.get("applies_when") or {})
    }
    neighbors |= {
        other: "named with this field"
        for other, entry in fields.items()
        if key in (entry.get("related") or ())
    }
    return {
        "key": key,
        "description": node.get("description"),
        "accepted": describe(node),
        "default": node.get("default"),
        "default_from": "the schema of the bundle",
        "unit": node.get("unit"),
        "acts_when": dict(conditions) or "always",
        "neighbours": neighbors,
    }


def _automl(
    schema: Mapping[str, Any], key: str, node: Mapping[str, Any], others: Collection[str]
) -> dict[str, Any]:
    """Whether a search may vary the field, when it does, and how."""
    why = never_searched(schema, key, others)
    if why is not None:
        reasons = {"disabled": "the schema disables it", "elsewhere": "another action reads it"}
        return {"enabled": False, "searched": f"never: {reasons[why]}"}
    named = key not in (schema.get("automl_default_parameters") or ())
    names = ("search", "option_weights", "math_cond", "depends_on", "parent_param")
    return {
        "enabled": True,
        "searched": "where it is named: parameters= or ranges=" if named else "by default",
        **{name: node[name] for name in names if name in node},
    }
