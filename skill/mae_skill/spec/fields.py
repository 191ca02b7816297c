"""How a spec field is declared: type and bounds for pydantic, and the annotations of its schema.

A field says everything about itself here, once: default, bounds, unit, description, the condition
under which it applies, and what AutoML may do with it. Schemas, templates, parameter tables, ``mae
explain`` and the search space are all derived from it.

Annotations (JSON Schema keywords of our own; validators ignore them):

====================  ============================================================================
``unit``              unit of the value, in words (``pixels``, ``epochs``, ``MB``)
``applies_when``      ``{dotted key: condition}``: the field applies only where every condition
                      holds. A condition is a value, a list of values, or ``{"set": true}`` (not
                      null), ``{"gt": n}``
``search``            ``{low, high, log}`` and optionally ``step``: the range that AutoML searches;
                      or a list of these, each with ``when`` (conditions as in ``applies_when``), of
                      which the first that holds is taken
``automl_enabled``    whether AutoML may search the field at all
``popular``           whether people set it often
``option_weights``    weight of each enum value when AutoML samples it
``math_cond``         relation that a sampled value must satisfy: ``"> 0.0"``, ``"/ 8"`` (multiple
                      of), ``"^ 2"`` (power of), ``"< depends_on"``
``depends_on``        dotted key that ``math_cond`` refers to
``option_aliases``    other spellings of an enum value, as upstream writes them: ``{"a,b": "a"}``
``parent_param``      dotted key of the parameter that switches this one on
``affects_training``  false where the field (or the section, with all in it) may change between two
                      attempts at one training run: it does not decide what is trained
====================  ============================================================================
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Condition = Any
PRETRAIN: dict[str, Condition] = {"train.stage": "pretrain"}
FINETUNE: dict[str, Condition] = {"train.stage": "finetune"}
CLASSIFICATION: dict[str, Condition] = {"model.task": "classification"}
SEGMENTATION: dict[str, Condition] = {"model.task": "segmentation"}

NonEmpty = Annotated[str, Field(min_length=1)]
Path = NonEmpty | None
"""A path or URL; null = not given. (The reader turns an empty string into null.)"""
Sources = NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)] | None
"""One data source, a list of them, or none."""
INT_MAX = 2**31 - 1
"""The bound of a whole number that has none of its own: libraries in C count no further."""

Positive = Annotated[int, Field(ge=1, le=INT_MAX)]
Index = Annotated[int, Field(ge=0, le=INT_MAX)]


class SpecModel(BaseModel):
    """Base of every section: strict types, no unknown key, no infinity or NaN."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )


def search(
    low: float,
    high: float,
    *,
    log: bool = False,
    step: float | None = None,
    when: Mapping[str, Condition] | None = None,
) -> dict[str, Any]:
    """The range that AutoML searches, both ends included; ``log`` for rates; ``step`` for a grid;
    ``when``: where it holds.
    """
    found: dict[str, Any] = {"low": low, "high": high, "log": log}
    if step is not None:
        found["step"] = step
    if when is not None:
        found["when"] = dict(when)
    return found


def free_between_attempts(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of the fields and sections that are declared with ``affects_training=False``."""
    for name, field in model.model_fields.items():
        notes = field.json_schema_extra
        if isinstance(notes, dict) and notes.get("affects_training") is False:
            yield prefix + name
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from free_between_attempts(field.annotation, f"{prefix}{name}.")


def spec_field(
    default: Any,
    description: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    unit: str | None = None,
    applies_when: Mapping[str, Condition] | None = None,
    search: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    automl_enabled: bool = False,
    automl_default: bool = False,
    automl_disabled: bool = False,
    popular: bool = False,
    option_weights: Sequence[float] | None = None,
    option_aliases: Mapping[str, str] | None = None,
    math_cond: str | None = None,
    depends_on: str | None = None,
    parent_param: str | None = None,
    related: Sequence[str] = (),
    affects_training: bool = True,
) -> Any:
    """Declare one field.

    Args:
        default: the default value; lists are copied for every instance.
        description: one or two sentences; shown by ``mae explain`` and in the tables.
        gt, ge, lt, le: bounds. min_length, max_length: of a string or list.
        unit: unit of the value, in words.
        applies_when: conditions under which the field acts (see the module's text).
        search: range for AutoML, or a list of ranges with ``when``; implies ``automl_enabled``.
        automl_enabled: AutoML may search it (an enum or a boolean needs no range).
        automl_default: AutoML searches it unless told otherwise.
        automl_disabled: AutoML must never search it, even when asked.
        popular: people set it often.
        option_weights, option_aliases, math_cond, depends_on, parent_param: see the module's text.
        related: dotted keys of neighbors that it acts together with.
        affects_training: whether a run must keep its value when it resumes (see the module's text).
    """
    notes: dict[str, Any] = {
        "unit": unit,
        "applies_when": dict(applies_when or {}),
        "automl_enabled": search is not None or automl_enabled or automl_default,
        "search": dict(search)
        if isinstance(search, Mapping)
        else [dict(one) for one in search or ()],
        "automl_default": automl_default,
        "automl_disabled": automl_disabled,
        "popular": popular,
        "option_weights": list(option_weights or ()),
        "option_aliases": dict(option_aliases or {}),
        "math_cond": math_cond,
        "depends_on": depends_on,
        "parent_param": parent_param,
        "related": list(related),
    }
    notes = {name: note for name, note in notes.items() if note}
    if not affects_training:
        notes["affects_training"] = False
    bounds = {
        "gt": gt,
        "ge": ge,
        "lt": lt,
        "le": le,
        "min_length": min_length,
        "max_length": max_length,
    }
    given: dict[str, Any] = {name: bound for name, bound in bounds.items() if bound is not None}
    if isinstance(default, type) and issubclass(default, BaseModel):
        return Field(
            default_factory=default, description=description, json_schema_extra=notes, **given
        )
    if isinstance(default, (list, dict)):
        return Field(
            default_factory=lambda: copy.deepcopy(default),
            description=description,
            json_schema_extra=notes,
            **given,
        )
    return Field(default, description=description, json_schema_extra=notes, **given)
