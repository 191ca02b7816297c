"""The layers of a plan's spec: template, recipe, file, what the parent settles, data sources, overrides, inference functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mae_skill.dotted import expand_shorthand, flatten, get_dotted, set_dotted
from mae_skill.errors import MaeError, UsageError

from mae_sdk.jobs.secrets import ENCRYPTION_REFERENCE, ENCRYPTION_VARIABLE
from mae_sdk.plan.request import Request
from mae_sdk.storage.urls import seal_tree

Layer = tuple[str, dict[str, Any]]


@dataclass
class Layers:
    """The given layers, lowest first, and what was learned on the way.

    Attributes:
        below, above: of the layers under and over the parent's settings.  given: dotted keys that the user set.
        secrets: variables for the job's environment, never written.
    """

    schema: dict[str, Any]
    below: list[Layer] = field(default_factory=list)
    above: list[Layer] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    secrets: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    report: str | None = None


def given_layers(bundle: Any, request: Request) -> Layers:
    """The template, recipe and file layers, and the overrides.

    Raises:
        SpecError, UsageError, NotFoundError: a file, recipe or override cannot be read.
    """
    from mae_skill.reader import read_spec

    action = request.action
    layers = Layers(_schema(bundle, action))
    template = _template(bundle, action, layers)
    if template:
        layers.below.append(("template", template))
    if request.recipe:
        from mae_skill.recipes import recipe_spec

        recipe = recipe_spec(request.recipe)
        layers.below.append(("recipe", recipe))
    spec = read_spec(request.spec) if isinstance(request.spec, str) else request.spec
    if spec is not None and not isinstance(spec, Mapping):
        raise UsageError(
            "a spec is a mapping of sections or a file", field="spec", got=type(spec).__name__
        )
    document = seal_tree(_copy(spec or {}))
    _take_key(bundle, action, document, layers, refuse=False)
    layers.below.append(("spec file", document))
    flat = flatten(document)
    defaults = flatten(template or {})
    # A written-out template is handed back with a few changes: the rest of it was not chosen by anybody.
    whole = bool(defaults) and len(defaults.keys() & flat.keys()) >= 0.9 * len(defaults)
    layers.given |= {
        key
        for key, value in flat.items()
        if value is not None and not (whole and defaults.get(key) == value)
    }
    shorthand = bundle.info.get("spec_shorthand_keys") or {}
    short: dict[str, Any] = {}
    dotted: dict[str, Any] = {}
    for key, value in expand_shorthand(flatten(request.spec_overrides), shorthand).items():
        named = (
            any(shorthand.get(name) == key for name in request.spec_overrides)
            and key not in request.spec_overrides
        )
        set_dotted(short if named else dotted, key, value)
        if value is not None:
            layers.given.add(key)
    _take_key(bundle, action, dotted, layers, refuse=True)
    layers.above += [("shorthand", short), ("override", dotted)]
    return layers


def _schema(bundle: Any, action: str) -> dict[str, Any]:
    bundle.action(action)
    try:
        return dict(bundle.schema(action))
    except (MaeError, OSError):
        return {}


def _template(bundle: Any, action: str, layers: Layers) -> dict[str, Any] | None:
    try:
        return dict(bundle.template(action))
    except (MaeError, OSError) as error:
        base = "the schema's defaults" if layers.schema.get("default") else "the overrides alone"
        layers.notices.append(
            f"no template ({str(error).splitlines()[0]}): the spec starts from {base}"
        )
        return None


def _copy(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of mappings; dotted keys at the top become sections."""
    import copy

    out: dict[str, Any] = {}
    for key, value in spec.items():
        if "." in str(key):
            set_dotted(out, str(key), copy.deepcopy(value))
        else:
            out[str(key)] = copy.deepcopy(value)
    return out


def _take_key(
    bundle: Any, action: str, document: dict[str, Any], layers: Layers, *, refuse: bool
) -> None:
    """Move a literal secret of a field that maps to ``key`` out of the document, into the job's environment.

    Raises:
        UsageError: it is literal among the overrides (`refuse`), which a command line shows to everybody.
    """

    fields = {
        key for key, function in (bundle.spec_params.get(action) or {}).items() if function == "key"
    } | {"encryption_key"}
    for key in sorted(fields):
        value = get_dotted(document, key)
        if not value or str(value).startswith("env:"):
            continue
        if refuse:
            raise UsageError(
                "a literal key among the overrides is visible to everybody on the machine",
                field=key,
                expected=ENCRYPTION_REFERENCE,
                hint=f"export {ENCRYPTION_VARIABLE}, or put the key in a spec file",
            )
        layers.secrets[ENCRYPTION_VARIABLE] = str(value)
        set_dotted(document, key, ENCRYPTION_REFERENCE)
        layers.notices.append(
            f"{key} travels in the job's environment; the written spec holds {ENCRYPTION_REFERENCE}"
        )
