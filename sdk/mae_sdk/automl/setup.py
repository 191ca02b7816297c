"""``<job>/automl/study.json``: what a controller needs, written once when the AutoML job is
created.

A launch calls `write`; the plan shows the same `describe`. Nothing here is secret: the environment
travels with the process.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill.dotted import MISSING, get_dotted, set_dotted
from mae_skill.errors import SpecError, UsageError
from mae_skill.origin import Origin, OriginKind
from mae_skill.placeholders import follow
from mae_skill.spelling import count_of

from mae_sdk import files
from mae_sdk.automl import upstream_settings
from mae_sdk.automl.objectives import incomparable, objectives, unchanged, unreported, with_stated
from mae_sdk.automl.space import Judge, SearchSpace, build
from mae_sdk.jobs.records import StudyRecord

if TYPE_CHECKING:
    from mae_sdk.automl.options import AutoMLOptions

STUDY_NAME = "study.json"


class NothingToSearchError(SpecError):
    """No parameter of a study is left that a trial could vary; ``reasons``: why."""

    reasons = ""


_DEFAULT_KEYS = {
    "accumulate": "train.accum_grad_batches",
    "epochs": "train.num_epochs",
    "batch": "dataset.batch_size",
    "keep": "train.keep_checkpoints",
}
_SHORTHAND = {"batch": "batch_size", "epochs": "num_epochs"}


def keys_of(info: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, str]:
    """The dotted keys that AutoML changes by itself, as far as the spec has them.

    ``batch``, ``accumulate``, ``epochs`` and ``keep`` (how many of the newest checkpoints stay),
    from the bundle's shorthand keys and its ``automl_keys``.
    """
    shorthand = info.get("spec_shorthand_keys") or {}
    keys = {
        **_DEFAULT_KEYS,
        **{word: str(shorthand[name]) for word, name in _SHORTHAND.items() if name in shorthand},
        **(info.get("automl_keys") or {}),
    }
    return {
        word: key for word, key in keys.items() if get_dotted(spec, key, MISSING) is not MISSING
    }


def describe(
    schema: Mapping[str, Any],
    spec: Mapping[str, Any],
    provenance: Mapping[str, Origin] | None,
    options: Mapping[str, Any] | None,
    *,
    info: Mapping[str, Any] | None = None,
    stated: tuple[str, str] | None = None,
    devices: Sequence[Any] | None = None,
    processes: int = 1,
    auto: Mapping[str, Any] | None = None,
    auto_first: bool = False,
    references: Mapping[str, Any] | None = None,
    judge: Judge | None = None,
    others: Collection[str] = (),
) -> StudyRecord:
    """The study as a plan shows it: ``options, objectives, space, keys, concurrency, spec``.

    ``spec``, that of trial 0, has its epochs bounded by ``max_epochs``; so has ``auto_spec``, that
    of every other trial, where there is one.

    Args:
        auto: dotted key → value of the auto recipe; none where it is not to be tried.
        auto_first: the auto recipe is trial 0, and the spec as given is none.
        references: dotted key → what was written, of fields of the spec that refer to others.
        judge: what the rules between fields refuse of a spec.
        others: sections of the spec that belong to other actions.
        stated: the metric and direction that the action's entry states, where its schema does not.

    Raises:
        SpecError: options, ranges or metric are wrong (all problems of one kind together).
        NothingToSearchError: there is nothing to search.
        UsageError: a grid is too large.
    """
    from mae_sdk.automl.options import parse

    parsed = parse(options)
    schema = with_stated(schema, stated)
    keys = keys_of(info or {}, spec)
    links = {"values": dict(references or {}), "aliases": dict(schema.get("x_aliases") or {})}
    bounded = followed(spec, _bounded(spec, keys, parsed), links)
    notes = upstream_settings.understood(options or {})[1]
    notes += _keep_few_checkpoints(bounded, keys, provenance or {})

    chosen = objectives(schema, bounded, parsed)
    metrics = [objective.metric for objective in chosen]
    auto_spec = _with(bounded, auto or {}, keys, parsed)
    if auto_spec is not None:
        auto_spec = followed(bounded, auto_spec, links, fixed=auto or {})
        if reason := _not_tried(bounded, auto_spec, schema, metrics, judge):
            notes.append(f"the auto recipe is not tried: {reason}")
            auto_spec = None
    if judge is not None and (wrong := judge(bounded)):
        raise SpecError("no trial can run this spec", problems=list(wrong))
    more = [str(key) for key in (info or {}).get("auto_recipe_parameters") or ()]
    more = more if auto_spec is not None else []
    if auto_spec is not None and auto_first:
        bounded, auto_spec = auto_spec, None
    space = build(schema, auto_spec or bounded, provenance, parsed, more or None, judge, others)
    if not space.parameters:
        raise _nothing_to_search(space, parsed)
    notes += _same_for_all(schema, metrics, space, auto_spec or bounded)
    notes += _not_stated(schema, bounded, parsed)
    notes += _without_effect(parsed, get_dotted(bounded, keys.get("epochs", "")))
    if parsed.sampler == "cmaes" and all(one.choices for one in space.parameters):
        notes.append("sampler=cmaes varies numbers, and every parameter has choices: random draws")
    notes += _size_of_grid(space, parsed, auto_spec is not None)

    fits = max(1, len(devices or ()) // max(1, processes))
    concurrency = fits if parsed.concurrency == "auto" else parsed.concurrency
    study: StudyRecord = {
        "options": parsed.to_dict(),
        "objectives": [asdict(objective) for objective in chosen],
        "space": {**space.to_dict(), "notes": [*space.notes, *notes]},
        "keys": keys,
        "concurrency": concurrency,
        "spec": bounded,
    }
    if auto_spec is not None:
        study["auto_spec"] = auto_spec
    if references:
        study["references"] = links
    return study


def _not_tried(
    spec: Mapping[str, Any],
    auto_spec: Mapping[str, Any],
    schema: Mapping[str, Any],
    metrics: Sequence[str],
    judge: Judge | None,
) -> str | None:
    """Why the auto recipe is no trial beside the spec as given; None where it is one."""
    if not _compare(spec, auto_spec, incomparable(schema, metrics, spec)):
        return (
            f"{metrics[0]} does not compare across what it changes; "
            "recipe auto makes it the spec of every trial"
        )
    if judge is not None and (wrong := judge(auto_spec)):
        return f"{wrong[0].field}: {wrong[0].message}"
    return None


def _not_stated(
    schema: Mapping[str, Any], spec: Mapping[str, Any], options: AutoMLOptions
) -> list[str]:
    """A note per metric that the bundle does not promise for this run."""
    if not schema.get("automl_metrics"):
        return []
    return [
        f"the bundle does not state {metric} for this run ({reason}); "
        "the study ends with trial 0 where that does not report it"
        for metric, reason in unreported(schema, spec, options).items()
    ]


def _compare(one: Mapping[str, Any], other: Mapping[str, Any], keys: Collection[str]) -> bool:
    """Whether the metrics of two specs compare: these fields are the same."""
    return all(get_dotted(one, key, None) == get_dotted(other, key, None) for key in keys)


def _same_for_all(
    schema: Mapping[str, Any],
    metrics: Sequence[str],
    space: SearchSpace,
    spec: Mapping[str, Any],
) -> list[str]:
    """Notes of the metrics, of several, that are the same for every trial.

    Raises:
        SpecError: all are.
    """
    keys = [parameter.key for parameter in space.parameters]
    found = unchanged(schema, metrics, keys, spec)
    if len(found) == len(metrics):
        problem = UsageError(
            "no field that is searched changes this metric: every trial would have the same value",
            field="automl.metric",
            got=", ".join(found),
            expected="another metric, or one of these among parameters= or range.NAME=: "
            + ", ".join(dict.fromkeys(name for names in found.values() for name in names)),
            hint="name parameters that do in --automl parameters=FIELD,FIELD, or another metric",
        )
        raise SpecError("the study would have nothing to compare", problems=[problem])
    return [
        f"{metric} is the same for every trial: no searched field changes it" for metric in found
    ]


def _size_of_grid(space: SearchSpace, options: AutoMLOptions, with_auto: bool) -> list[str]:
    """A note of how many trials a grid has.

    Raises:
        UsageError: it is too large.
    """
    if options.sampler != "grid":
        return []
    from mae_sdk.automl.proposals import grid_size

    size = grid_size(space, options, with_auto)
    return [
        (
            f"the grid has {count_of(size, 'trial')}, trial 0 included; "
            f"max_trials is {options.max_trials}"
        )
    ]


def followed(
    base: Mapping[str, Any],
    varied: Mapping[str, Any],
    links: Mapping[str, Any] | None,
    fixed: Collection[str] = (),
) -> dict[str, Any]:
    """`mae_skill.placeholders.follow` by what a study record holds of its references."""
    if not links:
        return dict(varied)
    aliases = links.get("aliases") or {}
    return follow(base, varied, links.get("values") or {}, aliases=aliases, fixed=fixed)


def spec_of_trials(study: Mapping[str, Any]) -> dict[str, Any]:
    """The spec that the trials after trial 0 vary: the auto recipe's where there is one."""
    return dict(study.get("auto_spec") or study["spec"])


def write(
    job_dir: Path,
    study: Mapping[str, Any],
    launch: Mapping[str, Any],
    *,
    action: str = "train",
    warm_command: Sequence[str] = (),
) -> Path:
    """Write what `describe` gave, with the trials' ``launch`` record.

    Args:
        launch: as in job.json; ``{config_path} {job_dir} {job_id} {python}`` are filled in for
            every trial in ``command`` (a list) and in every text, such as ``remote``.
        warm_command: the bundle's warm start, with ``{socket}``; empty: trials start cold.
    """
    path = job_dir / "automl" / STUDY_NAME
    more = {"launch": dict(launch), "action": action, "warm_command": list(warm_command)}
    files.write_json(path, {**study, **more})
    return path


def _bounded(
    spec: Mapping[str, Any], keys: Mapping[str, str], options: AutoMLOptions
) -> dict[str, Any]:
    """A copy of the spec with at most ``max_epochs`` epochs."""
    bounded = copy.deepcopy(dict(spec))
    epochs = get_dotted(bounded, keys.get("epochs", ""))
    if options.max_epochs is not None and isinstance(epochs, int) and epochs > options.max_epochs:
        set_dotted(bounded, keys["epochs"], options.max_epochs)
    return bounded


def _with(
    spec: Mapping[str, Any],
    auto: Mapping[str, Any],
    keys: Mapping[str, str],
    options: AutoMLOptions,
) -> dict[str, Any] | None:
    """A copy of the spec with the values of the auto recipe; None where that changes nothing."""
    if not options.auto_recipe:
        return None
    made = copy.deepcopy(dict(spec))
    for key, value in auto.items():
        if key != keys.get("keep"):
            set_dotted(made, key, copy.deepcopy(value))
    made = _bounded(made, keys, options)
    return None if made == spec else made


def specs_of(study: StudyRecord) -> list[dict[str, Any]]:
    """The specs of a study: trial 0's, and that of the others where they have one."""
    return [study["spec"], *([study["auto_spec"]] if "auto_spec" in study else [])]


def _keep_few_checkpoints(
    spec: dict[str, Any], keys: Mapping[str, str], provenance: Mapping[str, Origin]
) -> list[str]:
    """Have trials keep one newest checkpoint, unless the user chose; returns a note about it."""
    key = keys.get("keep")
    if key is None or get_dotted(spec, key) is not None:
        return []
    origin = provenance.get(key)
    if origin is not None and origin.kind not in OriginKind.unset():
        return []
    set_dotted(spec, key, 1)
    return [f"every trial keeps its best and its newest checkpoint alone; {key} changes this"]


def _nothing_to_search(space: SearchSpace, options: AutoMLOptions) -> NothingToSearchError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in space.left_out.items())
    named = list(options.parameters or ())
    empty = "an empty list" if options.parameters == () else "the schema names no parameter"
    problem = UsageError(
        "nothing is left to search" + (f": {reasons}" if reasons else ""),
        field="automl.parameters",
        got=named or empty,
        expected="one parameter at least that acts in this run",
        hint="name others than these in parameters=, or use automl_policy=off"
        if named
        else "name parameters=, or use automl_policy=off",
    )
    error = NothingToSearchError("AutoML has no search space", problems=[problem])
    error.reasons = reasons or empty
    return error


def _without_effect(options: AutoMLOptions, epochs: Any) -> list[str]:
    """A note per option that was given and changes nothing beside the others."""
    several = len(options.metric or ()) > 1
    pruner = "none" if several else options.pruner or "successive_halving"
    applies = {
        "grid_points": (options.sampler == "grid", "sampler=grid"),
        "study": (options.storage is not None, "a shared storage"),
        "worker_timeout": (options.storage is not None, "a shared storage"),
        "reduction_factor": (
            pruner in ("successive_halving", "hyperband"),
            "a halving pruner",
        ),
        "min_epochs": (pruner != "none", "a pruner"),
        "plateau": (not several, "one metric"),
    }
    notes = [
        f"{name} has no effect: it applies only with {need}"
        for name, (acts, need) in applies.items()
        if not acts and getattr(options, name) != type(options).model_fields[name].default
    ]
    least = options.min_epochs
    if pruner != "none" and least is not None and isinstance(epochs, int) and least >= epochs:
        notes.append(f"min_epochs={least} leaves no room for pruning in runs of {epochs} epochs")
    return notes
