"""Making a plan: layers merged, functions applied, data counted, everything checked at once."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from mae_skill.conditions import acts
from mae_skill.dotted import field_nodes, flatten, get_dotted, set_dotted
from mae_skill.errors import DataError, MaeError, SpecError, StorageError, UsageError

from mae_sdk.automl.options import require_variable
from mae_sdk.jobs.root import Root
from mae_sdk.plan import data as counting
from mae_sdk.plan.automl_policy import Decision, decide, require_optuna
from mae_sdk.plan.launch_record import launch_record, shape
from mae_sdk.plan.layers import Layers, given_layers
from mae_sdk.plan.plan import Plan
from mae_sdk.plan.request import Request
from mae_sdk.storage import urls

VAL_FRACTION = "dataset.val_fraction"
"""The field that says which share of the training images is held out, in a bundle that has it."""


def job_id_for(action: str, idempotency_key: str | None) -> str:
    """``<action>-<12 hex digits>``: of the key where one is given, else random."""
    tail = (
        secrets.token_hex(6)
        if idempotency_key is None
        else hashlib.sha256(idempotency_key.encode()).hexdigest()[:12]
    )
    return f"{action}-{tail}"


def make_plan(bundle: Any, request: Request, *, remote: bool = False) -> Plan:
    """Plan a job.

    Args:
        remote: count data behind URLs too, which fetches it into the cache.

    Raises:
        MaeError: of one kind when all problems are of it, else a SpecError with all problems.
    """
    from mae_skill.merge import merge

    from mae_sdk.plan import inferred_fields as mappings
    from mae_sdk.plan import inherit, sources
    from mae_sdk.run.platform import platform

    action = request.action
    bundle.action(action)
    resources = platform(request.platform).resources()
    decision = decide(bundle, action, request.automl_policy, request.request)
    if decision.automl:
        require_optuna()
        require_variable(request.automl.get("storage"), {**os.environ, **request.env})
    elif request.automl and action != "train":
        raise UsageError(
            f"{action} is never searched",
            field="automl",
            got=sorted(request.automl),
            expected="no AutoML options",
        )
    request = _sealed(request)
    layers = given_layers(bundle, request)
    if request.automl and not decision.automl:
        layers.notices.append(
            f"the AutoML options are not used ({', '.join(sorted(request.automl))}): {decision.reason}"
        )
    request = _hide_password(request, layers)
    root = Root(request.results_root)
    parent = None
    if request.parent_job_id:
        from mae_sdk.job import parent_info

        parent = parent_info(request.parent_job_id, request.results_root)
    mappings.check_policy(request.checkpoint, parent)
    job_id = job_id_for(action, request.idempotency_key)
    job_dir = root.work_dir(job_id)

    problems: list[MaeError] = []
    found, missing = sources.resolve(
        action, bundle.info, request.sources, _settled(bundle.info, request, layers)
    )
    inherited = {
        key: value
        for key, value in inherit.settings(action, bundle.info, parent).items()
        if key not in layers.given
    }
    argued = dict(found)
    layers.given |= set(argued)
    rows = bundle.spec_params.get(action) or {}
    owned = {key for key, function in rows.items() if function == "output_dir"}
    for key in sorted(owned & layers.given):
        layers.notices.append(f"{key} of the spec is not used: a job writes into its own folder")
    environment = {**os.environ, **request.env, **layers.secrets}
    context = mappings.MappingContext(
        action=action,
        job_dir=None,
        results_dir=str(job_dir),
        parent=parent,
        ptm=request.ptm,
        checkpoint=request.checkpoint or "best",
        actions=bundle.info["actions"],
        given=frozenset(layers.given - owned),
        env=environment,
    )
    applied = mappings.apply(action, rows, context)

    nested: list[tuple[str, dict[str, Any]]] = []
    for kind, values in (
        ("inherited", inherited),
        ("argument", argued),
        ("inferred", {item.field: item.value for item in applied}),
    ):
        section: dict[str, Any] = {}
        for key, value in values.items():
            set_dotted(section, key, value)
        nested.append((kind, section))
    order = [*layers.below, nested[0], nested[1], *layers.above, nested[2]]
    resolved = merge(order, layers.schema)
    for key in (
        f"{action}.{name}" for name in owned
    ):  # an action's own folder, which would part the results from the job's record
        if get_dotted(resolved.spec, key):
            layers.notices.append(
                f"{key} of the spec is not used: a job writes into its own folder"
            )
            set_dotted(resolved.spec, key, None)
    signed = urls.held(resolved.spec)
    layers.secrets.update(signed)
    for name in signed:
        layers.notices.append(
            f"the credentials of a URL travel in the job's environment, as {name}; the written spec names the variable"
        )
    problems += inherit.contradictions(action, bundle.info, parent, resolved.spec, layers.given)
    problems += [
        item for item in missing if not (item.field and get_dotted(resolved.spec, item.field))
    ]
    _hold_out(bundle, action, decision, resolved, layers)

    keys = (bundle.info.get("data_sources") or {}).get(action) or {}
    plan = Plan(
        request=request,
        job_id=job_id,
        job_dir=str(job_dir),
        results_root=root.url,
        spec=resolved.spec,
        provenance=resolved.provenance,
        sources=counting.count_all(
            keys,
            resolved.spec,
            problems,
            remote=remote,
            share=_held_share(layers.schema, resolved.spec),
        ),
        mappings=[
            {"field": item.field, "function": item.function, "value": item.value, "note": item.note}
            for item in applied
        ],
        policy=decision.to_dict(),
        launch={"command": [], "result": None},
        facts={},
        resources=resources,
        parent=_parent_dict(parent),
        notices=[
            *layers.notices,
            *resolved.notices,
            *([decision.report] if decision.report else []),
        ],
        stage=_stage(bundle.info, action, resolved.spec),
        secrets=layers.secrets,
        applied=applied,
    )
    _check(bundle, plan, layers.schema, problems)
    finish(bundle, plan, layers.schema, decision, root, job_dir)
    return plan


def _sealed(request: Request) -> Request:
    """Passwords and signatures inside URLs leave the request before anything else reads it."""
    names = ("spec", "train_datasets", "eval_dataset", "inference_dataset", "ptm", "spec_overrides")
    return replace(request, **{name: urls.seal_tree(getattr(request, name)) for name in names})


def _hide_password(request: Request, layers: Layers) -> Request:
    """A database password travels in the job's environment; no record holds it."""
    from mae_sdk.jobs.secrets import DATABASE_REFERENCE, DATABASE_VARIABLE, has_password

    storage = request.automl.get("storage")
    if not isinstance(storage, str) or not has_password(storage):
        return request
    layers.secrets[DATABASE_VARIABLE] = storage
    layers.notices.append(
        f"automl.storage travels in the job's environment; the study holds {DATABASE_REFERENCE}"
    )
    return replace(request, automl={**request.automl, "storage": DATABASE_REFERENCE})


def _settled(info: Mapping[str, Any], request: Request, layers: Layers) -> set[str]:
    """Data fields that no source argument fills: set by an override, or by the file where the argument is not given."""

    rows = (info.get("data_sources") or {}).get(request.action) or {}
    overridden = {key for _, document in layers.above for key in flatten(document)}
    named = {
        key
        for key, row in rows.items()
        if isinstance(row, Mapping) and row.get("source") in request.sources
    }
    return overridden | (layers.given - named)


def _hold_out(bundle: Any, action: str, decision: Decision, resolved: Any, layers: Layers) -> None:
    """AutoML of a labelled stage needs a metric: without validation data a share of the training data is held out."""
    from mae_skill.merge import Origin

    if not decision.automl:
        return
    node = field_nodes(layers.schema).get(VAL_FRACTION)
    held = [
        key
        for key, entry in ((bundle.info.get("data_sources") or {}).get(action) or {}).items()
        if isinstance(entry, Mapping) and entry.get("source") == "eval_dataset"
    ]
    if (
        node is None
        or get_dotted(resolved.spec, VAL_FRACTION) is not None
        or any(get_dotted(resolved.spec, key) for key in held)
    ):
        return
    if acts(node.get("applies_when"), resolved.spec):
        return
    set_dotted(resolved.spec, VAL_FRACTION, 0.1)
    resolved.provenance[VAL_FRACTION] = Origin(
        "inferred", "AutoML needs a metric and there is no validation data"
    )
    layers.notices.append(
        "no validation data: a seeded 10 % of the training images is held out for the metric"
    )


def _held_share(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> float:
    """The share of the training images that the run holds out for validation; 0 where it does not."""

    node, value = field_nodes(schema).get(VAL_FRACTION), get_dotted(spec, VAL_FRACTION)
    held = (
        node is not None
        and isinstance(value, (int, float))
        and 0 < value < 1
        and not acts(node.get("applies_when"), spec)
    )
    return float(value) if held else 0.0


def _stage(info: Mapping[str, Any], action: str, spec: Mapping[str, Any]) -> str | None:

    key = (info.get("spec_shorthand_keys") or {}).get("stage")
    value = get_dotted(spec, key) if key else None
    return str(value) if value is not None else None


def _parent_dict(parent: Any) -> dict[str, Any] | None:
    if parent is None:
        return None
    found = {"id": parent.id, "action": parent.action, "kind": parent.kind}
    return {**found, **({"best_child_of": parent.resolved_from} if parent.resolved_from else {})}


def _check(bundle: Any, plan: Plan, schema: Mapping[str, Any], problems: list[MaeError]) -> None:
    """Schema, then the bundle's validator, told what was counted; all problems are raised together."""
    action, info = plan.action, bundle.info
    if schema:
        from mae_skill.schema_check import validate

        shaped = validate(plan.spec, schema)
    else:
        shaped = []
        plan.notices.append(
            f"not checked: {action} has no schema that can be read; the runner still checks the spec"
        )
    plan.facts = counting.facts_of(info, action, plan.sources, plan.resources.gpus)
    plan.steps_per_epoch, plan.effective_batch = None, None
    if not shaped:
        _figures(bundle, plan)
        entry = info.get("validator")
        if entry:
            facts = {
                **plan.facts,
                "effective_batch": plan.effective_batch,
                "here": plan.resources.here,
                "sources_later": any(isinstance(p, DataError) for p in problems),
            }
            errors, warnings = entry_point(entry)(action, plan.spec, plan.provenance, facts)
            known = {problem.field for problem in problems}
            problems += [error for error in errors if error.field not in known]
            plan.warnings = list(warnings)
        else:
            plan.notices.append(
                "not checked: the bundle names no validator for rules between fields"
            )
    raise_all([*shaped, *problems], action)


def _figures(bundle: Any, plan: Plan) -> None:

    from mae_sdk.automl.setup import keys_of

    if plan.action != "train":
        return
    keys = keys_of(bundle.info, plan.spec)
    batch = get_dotted(plan.spec, keys["batch"]) if "batch" in keys else None
    accumulate = get_dotted(plan.spec, keys["accumulate"]) if "accumulate" in keys else 1
    processes = shape(bundle.info, plan.action, plan.spec, plan.resources).processes
    if isinstance(batch, int):
        plan.steps_per_epoch, plan.effective_batch = counting.steps(
            plan.facts.get("images"), batch, processes, int(accumulate or 1)
        )


def entry_point(text: str) -> Any:
    """The function that ``module:function`` names.

    Raises:
        UsageError: there is none.
    """
    module, _, name = str(text).partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            "the bundle names a function that cannot be loaded",
            field="skill_info",
            got=text,
            hint=str(error),
        ) from error


def raise_all(problems: Sequence[MaeError], action: str) -> None:
    """Raise what there is: one problem as it is, several of one kind as that kind, mixed ones as a `SpecError`; nothing when none."""
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    kinds = {type(problem) for problem in problems}
    if len(kinds) == 1 and SpecError not in kinds:
        kind = kinds.pop()
        lines = "; ".join(
            f"{item.field}: {item.message}" if item.field else item.message for item in problems
        )
        raise kind(
            lines,
            field=problems[0].field,
            got=problems[0].got,
            expected=problems[0].expected,
            hint=problems[0].hint,
        )
    raise SpecError(f"the {action} spec has {len(problems)} problems", problems=problems)


def finish(
    bundle: Any,
    plan: Plan,
    schema: Mapping[str, Any],
    decision: Decision,
    root: Root,
    job_dir: Path,
) -> None:
    """The launch, the study of an AutoML run, and the estimates."""
    from mae_sdk.plan import cost as timing

    info, action = bundle.info, plan.action
    plan.launch = launch_record(info, action, plan.spec, root, plan.job_id, job_dir, plan.resources)
    entry = info.get("estimator")
    if entry:
        plan.estimates = entry_point(entry)(action, plan.spec, _estimator_facts(plan)) or {}
    if decision.automl:
        _study(info, plan, schema, entry)
    _disk(plan, root, job_dir)
    if plan.estimates or action in (info.get("cost_keys") or {}):
        plan.estimates["time"] = timing.time_of(info, plan)
        for name in (
            "seconds_per_step",
            "seconds_basis",
        ):  # the estimator's guess, which `time` has taken or bettered
            plan.estimates.pop(name, None)


def measure(bundle: Any, plan: Plan) -> None:
    """Time some steps of the planned run and say so in its estimates; a run that fails doing so is a warning."""
    from mae_sdk.plan import cost as timing

    try:
        found = timing.measure(bundle.info, plan)
    except MaeError as error:
        plan.warnings.append(error)
        return
    plan.estimates["measured"] = found
    plan.estimates["time"] = timing.time_of(bundle.info, plan, measured=found)


def _estimator_facts(plan: Plan) -> dict[str, Any]:
    from mae_sdk.plan import cost as timing

    return {
        **plan.facts,
        **timing.device_facts(plan.resources),
        "steps_per_epoch": plan.steps_per_epoch,
    }


def _disk(plan: Plan, root: Root, job_dir: Path) -> None:
    """Warn where the estimated checkpoints of all trials are more than the disk has free."""
    total = (plan.estimates.get("disk_mb") or {}).get("total")
    place = next((folder for folder in job_dir.parents if folder.is_dir()), None)
    if total is None or place is None:
        return
    free = shutil.disk_usage(place).free / 2**20
    if total > free:
        hint = "make room, keep fewer checkpoints (train.keep_checkpoints, train.checkpoint_interval), or choose another results root"
        plan.warnings.append(
            StorageError(
                "the checkpoints may not fit",
                field="results_root",
                got=f"{free:,.0f} MiB free at {place}",
                expected=f"{total:,.0f} MiB",
                hint=hint,
            )
        )


def _study(
    info: Mapping[str, Any], plan: Plan, schema: Mapping[str, Any], estimator: str | None
) -> None:
    from mae_sdk.automl import setup

    launch = plan.launch
    there = range(plan.resources.gpus or 0) if launch["device_count"] else []
    devices = launch["devices"] or there
    plan.study = setup.describe(
        schema,
        plan.spec,
        plan.provenance,
        dict(plan.request.automl),
        info=info,
        devices=devices,
        processes=launch["processes"],
    )
    plan.notices += list(plan.study["space"].get("notes") or [])
    if (
        estimator
    ):  # a trial's spec is not quite the plan's: it may run shorter and keeps fewer checkpoints
        disk = (
            entry_point(estimator)(plan.action, plan.study["spec"], _estimator_facts(plan)) or {}
        ).get("disk_mb")
        if disk:
            trials = int(plan.study["options"]["max_trials"])
            plan.estimates["disk_mb"] = {
                **disk,
                "trials": trials,
                "total": round(disk["total"] * trials, 1),
            }


def recheck(bundle: Any, plan: Plan) -> None:
    """Before a launch: count what a plan left uncounted because it is remote, and check again with what was found.

    Raises:
        MaeError: as `make_plan`; the data is missing, empty, or does not fit the spec.
    """
    if all(seen.get("counted", True) for seen in plan.sources.values()):
        return
    problems: list[MaeError] = []
    notices = list(plan.notices)
    try:
        schema = bundle.schema(plan.action)
    except MaeError:
        schema = {}
    rows = (bundle.info.get("data_sources") or {}).get(plan.action) or {}
    again = {key: rows.get(key) or {} for key in plan.sources}
    plan.sources = {
        **plan.sources,
        **counting.count_all(
            again, plan.spec, problems, remote=True, share=_held_share(schema, plan.spec)
        ),
    }
    _check(bundle, plan, schema, problems)
    plan.notices = notices
