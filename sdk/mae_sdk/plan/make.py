"""Making a plan: steps over a draft, each of which knows what the ones before it found."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mae_skill.bundle import Bundle, words_of_args
from mae_skill.conditions import acts
from mae_skill.dotted import field_nodes, flatten, get_dotted, remove_dotted, set_dotted
from mae_skill.errors import DependencyError, MaeError, SpecError, StorageError, UsageError
from mae_skill.merge import accepted_types, holds_lists, merge
from mae_skill.origin import Origin, OriginKind
from mae_skill.placeholders import NOT_GIVEN
from mae_skill.resolve import (
    Layers,
    Resolution,
    entry_point,
    judge,
    nested,
    optional_fields,
    raise_all,
    require_functions,
    resolve,
)
from mae_skill.rules import Facts, Notice

from mae_sdk.automl import setup
from mae_sdk.automl.space import Judge
from mae_sdk.automl.study import check_storage
from mae_sdk.job import parent_info
from mae_sdk.jobs.outputs import ParentInfo
from mae_sdk.jobs.records import StudyRecord, read_record
from mae_sdk.jobs.root import Root
from mae_sdk.jobs.secrets import DATABASE_REFERENCE, DATABASE_VARIABLE, has_credentials, note
from mae_sdk.jobs.status import is_number
from mae_sdk.plan import cost, inferred_fields, inherit, input_files
from mae_sdk.plan.automl_policy import (
    Decision,
    decide,
    is_searched,
    plain_instead,
    require_optuna,
    searched_by_default,
    stated_metric,
)
from mae_sdk.plan.command import braces_left, fields_named, fields_told
from mae_sdk.plan.data import HIDDEN, STATED, VAL_FRACTION, Survey, said_of_model
from mae_sdk.plan.inferred_fields import InferenceContext, InferredField, value_of
from mae_sdk.plan.launch_record import (
    launch_record,
    machine_notes,
    nodes_of,
    only_one_node,
    shape,
    task_of_several,
    too_many_nodes,
)
from mae_sdk.plan.layers import read_layers, take_signatures
from mae_sdk.plan.machine import (
    Machine,
    count_of,
    describe,
    exchange,
    notes_of,
    notice_of_disk,
    pace_of,
    price_of,
)
from mae_sdk.plan.plan import ParentRef, Plan, is_counted
from mae_sdk.plan.recommend import AUTO, recommend, seconds_of
from mae_sdk.plan.request import Request
from mae_sdk.plan.sources import is_images, locate, no_match, taken_whole
from mae_sdk.run.options import name_site_file
from mae_sdk.run.platform import DEFAULT, Resources, platform
from mae_sdk.storage import urls

RUNS_OF_A_TRIAL = 0.6
"""Of a whole run, what a trial takes on average: the pruner ends most of them early."""

COMPARED = 0.25
"""The share of each run of a study that is to compare values of fields: four have to end."""

FIRST_RUN = 0.6
"""Of a study's budget, what the auto recipe's run may take where nobody said how many trials there
are to be: one good run, and the search with what is left."""


_ROUNDS = 4
"""Looks at what a budget holds, each with the step of the one before."""


FEW_JUDGED = 20
"""Validation images of which one is more than a twentieth of a study's metric."""


def job_id_for(action: str, idempotency_key: str) -> str:
    """``<action>-<12 hex digits>`` of the key."""
    return f"{action}-{hashlib.sha256(idempotency_key.encode()).hexdigest()[:12]}"


@dataclass
class Draft:
    """A plan in the making. Each step of `STEPS` sets some attributes, in this order.

    Attributes:
        remote: count data behind URLs too, which fetches it into the cache.
        owned: dotted keys that name the job's own folder.
        reasons: dotted key → the rule by which the auto recipe chose it.
        pace: how much longer a step takes than the auto recipe's estimate: by what was measured, or
            by the exchange of gradients.
        kept: what the auto recipe chose, dotted key → value, and chooses no more: the steps of
            these values were measured.
        problems: what is wrong so far; all of it is raised together.
        references: dotted key → what was written, of fields that refer to others.
        unseen: why the platform does not say what it has; the plan is not launched then.
    """

    bundle: Bundle
    request: Request
    remote: bool
    platform_options: dict[str, Any] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    decision: Decision = field(default_factory=lambda: Decision(False, "auto", ""))
    layers: Layers = field(default_factory=lambda: Layers({}))
    secrets: dict[str, str] = field(default_factory=dict)
    root: Root = field(default_factory=Root)
    parent: ParentInfo | None = None
    key: str = ""
    job_id: str = ""
    job_dir: Path = Path()
    owned: set[str] = field(default_factory=set)
    inferred: list[InferredField] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    pace: float = 1.0
    kept: dict[str, Any] = field(default_factory=dict)
    problems: list[MaeError] = field(default_factory=list)
    references: dict[str, Any] = field(default_factory=dict)
    unseen: MaeError | None = None

    @property
    def action(self) -> str:
        return self.request.action

    @property
    def spec_params(self) -> dict[str, str]:
        """Dotted field → inference function."""
        return self.bundle.spec_params.get(self.action) or {}

    def value_of(self, key: str) -> Any:
        """The value that the layers have for a field, by its dotted or shorthand key, so far."""
        return value_of(self.layers, self.bundle.shorthand.get(key, key))

    def takes_list(self, key: str) -> bool:
        """Whether a field may hold a list, by its schema, else by the value that it has so far."""
        types = accepted_types(field_nodes(self.layers.schema).get(key, {}))
        return "array" in types if types else isinstance(self.value_of(key), list)

    def is_list(self, key: str) -> bool:
        """Whether the schema says that a field holds a list and nothing else."""
        return holds_lists(self.layers.schema, key)

    @property
    def environment(self) -> dict[str, str]:
        """What the job will see."""
        settings = {name: str(value) for name, value in self.request.env.items()}
        inherited = dict(os.environ)
        if not self.resources.here:
            inherited.pop("WORLD_SIZE", None)  # of the nodes that the caller is on
        return {**inherited, **settings, **self.secrets}


def make_plan(bundle: Bundle, request: Request, *, remote: bool = False) -> Plan:
    """Plan a job.

    Args:
        remote: count data behind URLs too, which fetches it into the cache.

    Raises:
        MaeError: of one kind when all problems are of it, else a SpecError with all problems.
    """
    try:
        draft = drafted(bundle, request, remote=remote)
        plan = plan_of(draft)
    except MaeError as error:
        _name_misspelled(bundle, request.action, error)
        for one in (error, *getattr(error, "problems", ())):
            name_site_file(one, request.platform, request.platform_options)
            _name_images(request, one)
            if one.field is None and isinstance(one.got, str):  # of a store, which knows no fields
                one.field = request.field_of(one.got)
        too_many = error.field == bundle.info.get("gpu_spec_key") and error.field is not None
        if request.on is not None and too_many and isinstance(error, DependencyError):
            # Of a machine that is only named, nothing can be installed.
            fields = {"field": error.field, "got": error.got, "expected": error.expected}
            hint = f"{error.hint}, or name a larger machine with --on"
            raise UsageError(error.message, **fields, hint=hint) from None
        raise
    except OSError as error:
        raise request.unusable_path(error) from error
    if request.recipe != AUTO or (request.budget is None and request.on is None):
        return plan
    if _epochs_key(draft) in draft.layers.given and not draft.decision.automl:
        if request.budget is not None:
            plan.notices.append(f"budget={request.budget} is not used: the epochs are given")
        return plan
    return within_budget(draft, keep_to_budget(draft, plan))


def _name_images(request: Request, error: MaeError) -> None:
    """Say, where a store is out of reach whose data only the jobs of a platform need, how a plan
    does without it."""
    unread = isinstance(error, StorageError) and urls.is_remote(str(error.got or ""))
    if unread and request.images is None and request.on is None and request.action == "train":
        with contextlib.suppress(MaeError):
            if platform(request.platform).apart:
                more = "--images N states how many images there are, and the plan does without it"
                error.hint = f"{error.hint}; or {more}" if error.hint else more


def _name_misspelled(bundle: Bundle, action: str, error: MaeError) -> None:
    """Say the misspelled keys of the bundle with an error, whose cause one of them may be."""
    for key in bundle.misspelled(action):
        one = error.problems[0] if isinstance(error, SpecError) and error.problems else error
        said = f"in skill_info.yaml: {key}"
        one.hint = f"{one.hint}; {said}" if one.hint else said


def _epochs_key(draft: Draft) -> str | None:
    return draft.bundle.shorthand.get("num_epochs")


def keep_to_budget(draft: Draft, plan: Plan) -> Plan:
    """The plan with the epochs that its budget holds by the measured time of a step.

    The time is measured once for a model, its data and this machine, and kept. Where it cannot be,
    the estimate stands. Where the recipe then chooses steps of another cost, such as smaller
    pictures, they are measured too, and kept to.
    """
    if draft.request.on is not None:
        return keep_to_exchange(draft, plan, Machine.of(draft.request.on))
    for _ in range(2):
        estimated = plan.seconds.get("seconds_per_step")
        if not estimated or not plan.resources.here:
            return plan
        try:
            measured = cost.measured_once(draft.bundle.info, plan)
        except MaeError as error:
            plan = _planned_again(draft, None) if draft.kept else plan
            plan.warnings.append(error)
            return plan
        draft.pace = float(measured["seconds_per_step"]) / float(estimated)
        before, plan = _cost_key(draft, plan), _planned_again(draft, measured)
        keys = (draft.bundle.info.get("cost_keys") or {}).get(draft.action) or ()
        chosen = flatten(draft.layers.recipe)
        draft.kept = {str(key): chosen[key] for key in keys if key in chosen}
        if _cost_key(draft, plan) == before:
            break
    return plan


def _cost_key(draft: Draft, plan: Plan) -> str | None:
    return cost.cost_key(draft.bundle.info, plan.action, plan.spec, plan.launch, plan.resources)


def _planned_again(draft: Draft, measured: dict[str, Any] | None) -> Plan:
    """The plan of a draft whose pace has changed, with the time by what was measured."""
    choose_open_fields(draft)
    plan = plan_of(draft)
    if measured is not None:
        plan.estimates["measured"] = measured
        plan.estimates["time"] = cost.time_of(draft.bundle.info, plan, measured=measured)
    return plan


def within_budget(draft: Draft, plan: Plan) -> Plan:
    """The plan with so few epochs that the time it says is within the budget: what it knows better
    than the recipe, such as a measured start or the steps of a former job, comes from the epochs.

    A study shares its budget among its trials (`trials_in_a_row`).

    Raises:
        UsageError: not one epoch is.
    """
    if draft.request.budget is None or plan.study is not None:
        return plan
    seconds = _budget(draft)
    for _ in range(_ROUNDS):
        time = plan.estimates.get("time") or {}
        total, training = time.get("seconds_total"), (time.get("parts") or {}).get("training")
        if seconds is None or not total or not training or total <= seconds:
            break
        beside = total - training
        epochs = _epochs(draft, plan)
        if epochs <= 1:
            raise UsageError(
                "the budget does not hold one epoch",
                field="budget",
                got=draft.request.budget,
                expected=f"at least {math.ceil(total)} s for these images and this model",
                hint="give more time, fewer images, or a smaller model or input",
            )
        # An epoch fewer at the least; where the rest of the run takes all, one is tried.
        share = min((seconds - beside) / training, (epochs - 1) / epochs)
        draft.pace /= max(share, 1 / epochs)
        try:
            plan = _planned_again(draft, plan.estimates.get("measured"))
        except UsageError as error:
            if error.field == "budget":
                error.got, error.expected = draft.request.budget, f"more than {seconds:g} s"
            raise
    return plan


def _epochs(draft: Draft, plan: Plan) -> int:
    return int(get_dotted(plan.spec, _epochs_key(draft) or "") or 1)


def keep_to_exchange(draft: Draft, plan: Plan, there: Machine) -> Plan:
    """The plan with the epochs that its budget holds by the step that the plan itself has, with the
    exchange of gradients. A batch that follows from them changes that step: it is looked at again.
    """
    for _ in range(_ROUNDS):
        pace = pace_of(there, plan)
        if math.isclose(pace, draft.pace, rel_tol=0.01):
            break
        draft.pace = pace
        choose_open_fields(draft)
        plan = plan_of(draft)
    return plan


def drafted(bundle: Bundle, request: Request, *, remote: bool = False) -> Draft:
    """A plan up to its layers, which nothing has resolved yet.

    Raises:
        MaeError: as `make_plan`.
    """
    draft = Draft(bundle, request, remote)
    for step in STEPS:
        step(draft)
    return draft


def ask_platform(draft: Draft) -> None:
    """Where the job will run, and what it can have there."""
    draft.bundle.action(draft.action)
    require_functions(draft.bundle, draft.action)
    if draft.request.on is None and draft.request.price is not None:
        raise UsageError(
            "a price is of a machine",
            field="price",
            expected="with --on MACHINE",
            hint="name the machine with --on, or leave --price out",
        )
    place = platform(draft.request.platform)
    draft.platform_options = place.settings(draft.request.platform_options)
    if place.apart and not Root(draft.request.results_root).remote:
        raise UsageError(
            f"a job of {place.name} sees no folder of this machine",
            field="results_root",
            got=Root(draft.request.results_root).url,
            expected="a URL: --results-root s3://BUCKET/PREFIX",
        )
    if draft.request.on is not None:
        describe_machine(draft, draft.request.on)
        return
    try:
        draft.resources = place.resources(draft.platform_options)
    except MaeError as error:
        if not place.plans_without(error, draft.platform_options):
            raise
        draft.resources = Resources(nodes=None)
        draft.unseen = error


def describe_machine(draft: Draft, text: str) -> None:
    """Plan for a machine that is described: the run takes all its GPUs, unless the caller says.

    Raises:
        UsageError: it is no machine, or the action trains nothing.
    """
    key = draft.bundle.info.get("gpu_spec_key")
    if draft.action != "train" or not isinstance(key, str):
        raise UsageError(
            "only training is planned for another machine",
            field="on",
            got=text,
            hint="leave --on out",
            expected="a plan of train",
        )
    machine = Machine.of(text)
    if draft.request.price is not None:
        price_of(draft.request.price, machine)
    draft.resources = machine.resources()
    section = key.rpartition(".")[0]
    whole: dict[str, Any] = {key: machine.gpus, f"{section}.num_nodes": machine.nodes}
    whole[f"{section}.accelerator"] = "gpu"
    fields = field_nodes(draft.bundle.schema(draft.action))
    given = {name: value for name, value in whole.items() if name in fields}
    overrides = {**given, **draft.request.spec_overrides}
    draft.request = replace(draft.request, spec_overrides=overrides)


def mounts_of(name: str, options: Mapping[str, Any]) -> list[str]:
    """Folders that a platform mounts where a job with these settings runs."""
    return platform(name).mounted(options)


def decide_automl(draft: Draft) -> None:
    """Whether a study runs, and whether it can.

    Raises:
        UsageError, DependencyError: a search was asked for by name and cannot be; AutoML options
            without a search; Optuna is missing, or a storage cannot hold the study.
    """
    request, action = draft.request, draft.action
    draft.decision = decide(
        draft.bundle,
        action,
        request.automl_policy,
        request.request,
        metric_given="metric" in request.automl,
    )
    if draft.decision.automl:
        require_optuna()
        environment = {**os.environ, **request.env}
        check_storage(request.automl.get("storage"), environment, here=draft.resources.here)
    elif request.automl and not is_searched(draft.bundle, action):
        raise UsageError(
            f"{action} is never searched",
            field="automl",
            got=sorted(request.automl),
            expected="no AutoML options",
            hint="leave the AutoML options out",
        )
    elif str(request.automl_policy).strip().lower() == "on":
        raise UsageError(
            f"a search was asked for, and {action} cannot be searched: {draft.decision.reason}",
            field="automl_policy",
            got=request.automl_policy,
            expected="auto, which searches where it can, or off",
            hint=draft.decision.report,
        )


def seal_request(draft: Draft) -> None:
    """Passwords and signatures inside URLs leave the request before anything else reads it."""
    names = (
        *("spec", "train_datasets", "eval_dataset", "inference_dataset", "sources", "ptm"),
        *("spec_overrides", "results_root"),
    )
    sealed = {name: urls.seal_tree(getattr(draft.request, name)) for name in names}
    draft.request = replace(draft.request, **sealed)


def read_request(draft: Draft) -> None:
    """The layers that the caller wrote."""
    request = draft.request
    published = None if request.recipe == AUTO else request.recipe
    draft.layers, draft.secrets = read_layers(
        draft.bundle, draft.action, request.spec, request.spec_overrides, published
    )
    if request.automl and not draft.decision.automl:
        names = ", ".join(sorted(request.automl))
        draft.layers.notices.append(
            f"the AutoML options are not used ({names}): {draft.decision.reason}"
        )


def leave_former_attempts(draft: Draft) -> None:
    """What a resume wrote into the spec of a job is of that job: another begins without its
    checkpoint, and is told of the weights that the resume took out."""
    layers, action = draft.layers, draft.action
    folder = get_dotted(layers.spec_file, "results_dir")
    if not isinstance(folder, str) or not folder or urls.is_remote(folder):
        return
    try:
        record = read_record(Path(folder))
    except (MaeError, OSError):
        return  # no job's spec
    if record["action"] != action or len(record["attempts"]) < 2:
        return

    for key in record.get("resume_keys") or ():
        value = get_dotted(layers.spec_file, key)
        if not isinstance(value, str) or not Path(value).is_relative_to(folder):
            continue
        if get_dotted(layers.overrides, key) is get_dotted(layers.shorthand, key) is None:
            remove_dotted(layers.spec_file, key)
            layers.given.discard(key)
            layers.notices.append(
                f"{key} of the spec is not used: {record['id']} was resumed from it; to go on with "
                f"that job: mae jobs resume {record['id']}"
            )
    for key in record.get("ptm_keys") or ():
        origin = (record.get("changed") or {}).get(key)
        filled = draft.request.ptm or draft.request.parent_job_id or key in layers.given
        if origin and not filled and get_dotted(layers.spec_file, key) is None:
            layers.notices.append(
                f"{key} is empty in the spec, since {record['id']} was resumed; it began with "
                f"weights [{origin.get('origin')}]: name them again with --parent or --ptm"
            )


def hide_database_password(draft: Draft) -> None:
    """A database password travels in the job's environment; no record holds it."""
    storage = draft.request.automl.get("storage")
    if not isinstance(storage, str) or not has_credentials(storage):
        return
    note(storage)
    draft.secrets[DATABASE_VARIABLE] = storage
    draft.layers.notices.append(
        f"automl.storage travels in the job's environment; the study holds {DATABASE_REFERENCE}"
    )
    automl = {**draft.request.automl, "storage": DATABASE_REFERENCE}
    draft.request = replace(draft.request, automl=automl)


def place_job(draft: Draft) -> None:
    """The job's id and folder to be.

    Every plan has an idempotency key, a new one where none is given: who repeats the call with it
    launches the job that the plan names.
    """
    draft.root = Root(draft.request.results_root)
    folder = None if draft.root.remote else Path(draft.root.url)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(
            "this is a file",
            field="results_root",
            got=draft.root.url,
            expected="a folder, or the path of one to make",
            hint="name the folder that jobs are kept in, or leave the option out",
        )
    draft.key = draft.request.idempotency_key or secrets.token_hex(6)
    draft.job_id = job_id_for(draft.action, draft.key)
    draft.secrets.update(urls.held(draft.root.url))
    draft.job_dir = draft.root.work_dir(draft.job_id)


def find_parent(draft: Draft) -> None:
    """The job whose model this one takes."""
    request = draft.request
    if request.parent_job_id:
        draft.parent = parent_info(request.parent_job_id, request.results_root)
        check_origin(draft, draft.parent)
    inferred_fields.check_policy(request.checkpoint, draft.parent)


def check_origin(draft: Draft, parent: ParentInfo) -> None:
    """A model of another bundle is taken only where the caller says so.

    Raises:
        UsageError: the caller does not.
    """
    bundle = draft.bundle
    ours = bundle.info.get("network_arch")
    related = parent.skill in ("", bundle.name) or (ours and parent.network_arch == ours)
    if related:
        return
    if not draft.request.foreign_parent:
        raise UsageError(
            "the parent job was made with another bundle",
            field="parent_job_id",
            got=parent.id,
            expected=f"a job of {bundle.name}, not of {parent.skill}",
            hint=f"if its {parent.kind} fits this bundle: --foreign-parent",
        )
    draft.layers.notices.append(
        f"the model is from {parent.id}, a job of {parent.skill}: that it fits is not checked"
    )


def locate_data(draft: Draft) -> None:
    """The fields that the data source arguments fill."""
    info, layers, request = draft.bundle.info, draft.layers, draft.request
    rows = draft.bundle.data_rows(draft.action)
    sources = request.all_sources
    unseen: dict[str, list[str]] = {}
    if request.images is not None:
        count_of(request.images)
        unseen = _behind_urls(rows, sources)
        sources = {name: value for name, value in sources.items() if name not in unseen}
        draft.remote = False
    of_arguments = {key for key, row in rows.items() if row.get("source") in sources}
    # An override wins over an argument, and an argument over the spec file.
    overridden = {
        key
        for key in rows
        if any(get_dotted(layer, key) is not None for layer in (layers.overrides, layers.shorthand))
    }
    settled = overridden | (layers.given - of_arguments)
    _refuse_other_data(draft, overridden & of_arguments)

    values, draft.problems = locate(
        draft.action,
        info,
        sources,
        settled,
        draft.value_of,
        draft.takes_list,
        draft.is_list,
        mounts_of(draft.request.platform, draft.platform_options),
    )
    if request.images is not None:
        for key, row in rows.items():
            if key in layers.given or key in values:
                continue
            if row.get("source") in unseen:
                uris = unseen[str(row["source"])]
                several = row.get("list") or row.get("multiple_sources") or draft.is_list(key)
                several = several or len(uris) > 1
                values[key] = uris if several else uris[0]
            elif row.get("source") == "train_datasets":
                values[key] = STATED
    layers.data = nested(values)
    layers.given |= set(values)
    layers.notices += taken_whole(rows, sources, values)
    _refuse_lost(draft, values)


def _behind_urls(
    rows: Mapping[str, Mapping[str, Any]], sources: Mapping[str, Any]
) -> dict[str, list[str]]:
    """The sources that are taken as they are where the caller states the data: images behind URLs,
    whose store a plan need not reach."""
    found = {}
    for name, value in sources.items():
        uris = [str(one) for one in (value if isinstance(value, (list, tuple)) else [value])]
        taken = [row for row in rows.values() if row.get("source") == name]
        if uris and taken and all(map(urls.is_remote, uris)) and all(map(is_images, taken)):
            found[name] = uris
    return found


def _refuse_other_data(draft: Draft, overridden: Collection[str]) -> None:
    """Refuse a source all of whose fields are overridden with other data: nothing would read it.

    Raises:
        UsageError: there is one.
    """
    rows, sources = draft.bundle.data_rows(draft.action), draft.request.all_sources
    for name in sorted({str(rows[key]["source"]) for key in overridden}):
        mine = [key for key in rows if rows[key].get("source") == name]
        own = {name: sources[name]}
        values, _ = locate(
            draft.action,
            draft.bundle.info,
            own,
            (),
            draft.value_of,
            draft.takes_list,
            mounts=mounts_of(draft.request.platform, draft.platform_options),
        )
        asked = {
            key: get_dotted(layer, key)
            for key in mine
            for layer in (draft.layers.shorthand, draft.layers.overrides)
            if get_dotted(layer, key) is not None
        }
        # A field beside them that the source fills, such as its masks, takes something of it.
        if not values.keys() <= asked.keys():
            continue
        for key, value in asked.items():
            if any(_same_data(value, one) for one in (sources[name], values.get(key))):
                continue
            raise UsageError(
                f"the data of {key} are given twice",
                field=key,
                got={name: sources[name], key: value},
                expected="one of the two",
                hint="leave one of the two out",
            )


def _same_data(one: Any, other: Any) -> bool:
    """Whether two values name the same files, as they are or from this folder."""

    def places(value: Any) -> list[str]:
        listed = value if isinstance(value, (list, tuple)) else [value]
        return [
            text if "://" in (text := str(one)) else str(Path(text).resolve()) for one in listed
        ]

    return places(one) == places(other)


def _refuse_lost(draft: Draft, fields: Iterable[str]) -> None:
    """Refuse what was given for misspelled fields of the bundle: its runner would not find it.

    Raises:
        SpecError: there is any.
    """
    wrong = draft.bundle.misspelled_fields(draft.action)
    raise_all([wrong[key] for key in fields if key in wrong], draft.action)


def take_over_settings(draft: Draft) -> None:
    """The settings that the job takes over from its parent."""
    settings = inherit.settings(draft.action, draft.bundle.info, draft.parent)
    draft.layers.parent = nested(
        {key: value for key, value in settings.items() if key not in draft.layers.given}
    )


def keep_own_folder(draft: Draft) -> None:
    """A folder in the spec is dropped: the job's results belong into the job's folder."""
    bundle, action, given = draft.bundle, draft.action, draft.layers.given
    draft.owned = inferred_fields.own_folders(action, bundle, draft.spec_params)
    raise_all(inferred_fields.read_and_written(action, bundle, draft.owned, given), action)
    draft.layers.notices += [
        f"{key} of the spec is not used: a job writes into its own folder"
        for key in sorted(draft.owned & given)
    ]


def infer_fields(draft: Draft) -> None:
    """The fields that inference functions fill: models, folders, keys."""
    request = draft.request
    context = InferenceContext(
        action=draft.action,
        job_dir=None,
        results_dir=str(draft.job_dir),
        parent=draft.parent,
        ptm=request.ptm,
        checkpoint=request.checkpoint or "best",
        actions=draft.bundle.info["actions"],
        given=frozenset(draft.layers.given - draft.owned),
        env=draft.environment,
        value_of=draft.value_of,
        fields=field_nodes(draft.layers.schema),
        kinds=inferred_fields.kinds_taken(draft.bundle, draft.action),
        forms=draft.bundle.input_forms(draft.action),
        by_name=not draft.bundle.info.get("validator"),
        notices=draft.layers.notices,
    )
    own = draft.layers.template or draft.layers.schema.get("default") or {}
    wrong = inferred_fields.misplaced(draft.action, draft.bundle, own, context.fields)
    raise_all(wrong, draft.action)
    entry = draft.bundle.action(draft.action)
    outputs = None if entry.get("mode") == "passthrough" else entry.get("outputs")
    rows, files = inferred_fields.kept_inside(draft.action, draft.spec_params, outputs, context)
    draft.inferred = [*inferred_fields.apply(draft.action, rows, context), *files]
    models = (*inferred_fields.OF_PARENT, *inferred_fields.OF_PTM)
    _refuse_lost(draft, [item.field for item in draft.inferred if item.function in models])
    # Data that nobody gives is missing, though its file is an output too.
    data = set(draft.bundle.data_rows(draft.action)) - optional_fields(draft.bundle, draft.action)
    filled = {item.field for item in draft.inferred} | (data - draft.owned)
    draft.inferred += inferred_fields.results_fields(draft.action, outputs, context, filled)
    settled = draft.layers.given | set(flatten(draft.layers.parent))
    fields, channels = field_nodes(draft.layers.schema), draft.value_of("dataset.channels")
    if request.ptm:
        draft.inferred += inferred_fields.normalization(draft.inferred, settled, fields, channels)
    if not (request.ptm and draft.action == "train"):
        filled_in = {item.field: item.value for item in draft.inferred}
        draft.inferred += inferred_fields.preparation(draft.action, draft.layers, filled_in)
    else:
        draft.inferred += inferred_fields.of_mask_values(draft.action, draft.layers)
    draft.layers.inferred = nested({item.field: item.value for item in draft.inferred})
    if any(item.function in inferred_fields.OF_PARENT for item in draft.inferred):
        # One model a job: what the parent left fills one field, and the others stay empty.
        draft.layers.optional |= inferred_fields.model_fields(draft.spec_params)


def choose_open_fields(draft: Draft) -> None:
    """The auto recipe: what the person left open, fitted to the data, the device and the budget.

    Raises:
        UsageError: another action than training; the budget is no time, too small, or acts nowhere.
    """
    request = draft.request
    if request.recipe != AUTO:
        if request.budget is not None and not draft.decision.automl:
            raise UsageError(
                "a budget is what the auto recipe and AutoML work to",
                field="budget",
                got=request.budget,
                expected="--recipe auto beside it",
                hint="add --recipe auto, or leave the budget out and set train.num_epochs",
            )
        return
    if draft.action != "train":
        raise UsageError(
            f"{draft.action} takes its settings from the model",
            field="recipe",
            got=AUTO,
            expected="no recipe",
            hint="leave --recipe out",
        )
    survey = survey_of(draft)
    seconds = _budget(draft)
    if seconds is not None and draft.decision.automl:
        seconds = seconds_of_a_run(seconds, request.automl)
    draft.layers.recipe = nested(draft.kept)  # what is there is settled
    before = draft.reasons
    values, reasons = recommend(draft.bundle, draft.layers, survey, seconds, draft.pace)
    values = {**draft.kept, **values}
    draft.reasons = {**{key: before[key] for key in draft.kept if key in before}, **reasons}
    if not is_counted(survey.sources):
        raise UsageError(
            "the auto recipe looks at the images, and some are not looked at: those behind a URL "
            "are not to be fetched, or only the machine of the job sees them",
            field="recipe",
            got=AUTO,
            expected="a plan that counts them: without --no-count, or with --images N",
            hint="leave --no-count out, or name a published recipe: mae get-spec --list-recipes",
        )
    draft.layers.recipe = nested(values)


def trials_in_a_row(options: Mapping[str, Any]) -> float:
    """Whole runs that a study's time is shared among: what its pruner spares, and what runs beside
    each other, does not count."""
    from mae_sdk.automl.options import parse

    parsed = parse(options)
    together = parsed.concurrency if isinstance(parsed.concurrency, int) else 1
    return max(1.0, RUNS_OF_A_TRIAL * parsed.max_trials / together)


def seconds_of_a_run(budget: float, options: Mapping[str, Any]) -> float:
    """Of a study's budget in seconds, what its first run by the auto recipe may take."""
    from mae_sdk.automl.options import parse

    share = budget / trials_in_a_row(options)
    if "max_trials" in parse(options).model_fields_set:
        return share
    asks = any(name in ("parameters", "ranges") or name.startswith("range.") for name in options)
    return max(share, (COMPARED if asks else FIRST_RUN) * budget)


def _budget(draft: Draft) -> float | None:
    """The seconds of a run, or of a whole study."""
    if draft.request.budget is None:
        return None
    # The GPUs that the run takes may be named by any layer: by a spec file as by an override.
    spec = merge(draft.layers.in_order(), draft.layers.schema).spec
    try:
        processes = shape(draft.bundle.info, draft.action, spec, draft.resources).processes
    except MaeError:  # the plan says what is wrong with its devices
        processes = 1
    nodes = nodes_of(draft.bundle.info, draft.action, spec, draft.environment)
    gpus = processes * nodes
    if draft.request.on is not None:  # whose hours and price count all of its GPUs
        gpus = max(gpus, Machine.of(draft.request.on).world)
    return seconds_of(draft.request.budget, gpus, draft.resources.gpus)


STEPS: tuple[Callable[[Draft], None], ...] = (
    seal_request,
    ask_platform,
    decide_automl,
    read_request,
    leave_former_attempts,
    hide_database_password,
    place_job,
    find_parent,
    locate_data,
    take_over_settings,
    keep_own_folder,
    infer_fields,
    choose_open_fields,
)


def plan_of(draft: Draft) -> Plan:
    """Resolve the draft's spec, judge it, and work out launch, study and cost. Where a search that
    nobody asked for has nothing to vary, it is a plain run, and says so.

    Raises:
        MaeError: as `make_plan`.
    """
    try:
        return _plan_of(draft)
    except setup.NothingToSearchError as error:
        request = draft.request
        by_budget = request.budget is not None and request.recipe != AUTO
        if draft.decision.asked or request.automl or by_budget:
            raise
        why = error.reasons
    draft.decision = plain_instead(draft.action, why)
    choose_open_fields(draft)  # a budget is that of one run now
    return _plan_of(draft)


def _plan_of(draft: Draft) -> Plan:
    survey = survey_of(draft)
    found = _resolved(draft, survey)
    plan = _gathered(draft, survey, found)
    _say_what_a_run_would_not_do(draft, plan)
    take_nodes(draft, plan)
    estimate(draft.bundle, plan)
    plan.warnings += _too_large_for_memory(plan)
    there = None if draft.request.on is None else Machine.of(draft.request.on)
    if draft.decision.automl:
        describe_study(draft, plan, draft.layers.schema, survey, there)
    _say_what_it_costs(draft, plan, there)
    _take_options_out(draft.bundle, plan, draft.layers.schema)
    return plan


def _resolved(draft: Draft, survey: Survey) -> Resolution:
    """The spec of the draft, judged with its data and its files.

    Raises:
        MaeError: it cannot be run; all that is wrong is said.
    """
    found = resolve(
        draft.bundle,
        draft.action,
        draft.layers,
        settle=lambda merged: settle(draft, merged),
        look=survey.look,
        problems=draft.problems,
    )
    if draft.resources.here:
        errors, warnings = input_files.missing(
            draft.bundle,
            draft.action,
            found.spec,
            found.provenance,
            draft.layers.given - draft.owned,
            mounts_of(draft.request.platform, draft.platform_options),
        )
        known = {one.field for one in found.errors}
        found.errors += [one for one in errors if one.field not in known]
        found.warnings += warnings
    if found.errors:
        found.errors += _nodes_beside(draft, found.spec)
    raise_all(found.errors, draft.action)
    draft.references = found.references
    return found


def _gathered(draft: Draft, survey: Survey, found: Resolution) -> Plan:
    """The plan of what was resolved, with its launch; nothing is estimated yet."""
    bundle, said = draft.bundle, (draft.decision.report, draft.decision.understood)
    return Plan(
        request=draft.request,
        key=draft.key,
        job_id=draft.job_id,
        job_dir=str(draft.job_dir),
        results_root=draft.root.url,
        spec=found.spec,
        provenance=found.provenance,
        sources=survey.sources,
        inferred=draft.inferred,
        policy=draft.decision,
        launch=launch_record(
            bundle,
            draft.action,
            found.spec,
            draft.root,
            draft.job_id,
            draft.job_dir,
            draft.resources,
        ),
        facts=survey.facts,
        resources=draft.resources,
        platform_options=draft.platform_options,
        parent=ParentRef.of(draft.parent),
        warnings=found.warnings,
        notices=[*found.notices, *filter(None, said)],
        stage=_stage(bundle.info, found.spec),
        references={**found.references, **found.open_references},
        aliases=dict(draft.layers.schema.get("x_aliases") or {}),
        secrets=draft.secrets,
    )


def _say_what_a_run_would_not_do(draft: Draft, plan: Plan) -> None:
    """What its command does not receive, its results elsewhere, files that it would not see.

    Raises:
        MaeError: a model is named that the command does not receive.
    """
    bundle = draft.bundle
    plan.notices += [*not_told(draft, plan), *results_elsewhere(draft, plan)]
    plan.notices += braces_left(bundle, draft.action)
    told = _told(bundle, plan)
    received = fields_told(bundle, draft.action, plan.spec)
    plan.notices += inferred_fields.starts_anew(bundle, draft.action, received)
    _refuse_untold_model(draft, told)
    plan.warnings += machine_notes(bundle, plan.action, plan.launch, plan.resources)
    if draft.resources.here:
        plan.warnings += _empty_patterns(bundle, plan.action, plan.spec)
    plan.warnings += _out_of_sight(draft, plan)
    plan.warnings += _not_looked_at(draft, plan)
    plan.warnings += _among_the_images(plan)


def _say_what_it_costs(draft: Draft, plan: Plan, there: Machine | None) -> None:
    """Disk, time and price, here or on the machine that is named."""
    exchanged = {} if there is None else exchange(there, plan)
    if there is None:
        warn_of_disk(plan, draft.job_dir)
    else:
        plan.notices += notice_of_disk(plan)
    estimate_time(draft.bundle, plan)
    plan.warnings += too_little_time(plan)
    plan.notices += started_again(plan)
    if there is not None:
        plan.notices += filter(None, [there.assumed])
        estimate_machine(plan, there, exchanged)


def _take_options_out(bundle: Bundle, plan: Plan, schema: Mapping[str, Any]) -> None:
    """Take what the bundle's ``args`` say of their options out of the spec: the name of the field
    whose value an option has is no value of the runner's own spec."""
    words = plan.launch.get("words") or {}
    own = {*(words.get("names") or {}), *(words.get("texts") or {})} - field_nodes(schema).keys()
    said = words_of_args(bundle.action(plan.action).get("args"))
    own = {key for key in own if get_dotted(plan.spec, key) == said.get(key)}
    if not own:
        return
    from mae_sdk.automl.setup import specs_of

    for spec in [plan.spec, *(specs_of(plan.study) if plan.study is not None else [])]:
        for key in own:
            if isinstance(get_dotted(spec, key), str):
                remove_dotted(spec, key)
    for key in own:
        plan.provenance.pop(key, None)


def _among_the_images(plan: Plan) -> list[Notice]:
    """A warning where jobs are written into a folder of images: the pictures of their reports are
    images of the next run."""
    root = plan.results_root
    if urls.is_remote(root):
        return []
    place = Path(root).resolve()
    for seen in plan.facts.data.values():
        uris = seen.get("uri")
        for uri in uris if isinstance(uris, list) else [uris]:
            folder = Path(str(uri)) if uri and not urls.is_remote(str(uri)) else None
            if folder and folder.is_dir() and place.is_relative_to(folder.resolve()):
                text = (
                    f"{place} is inside {folder}, whose pictures are the images of this run: the "
                    "next run takes the pictures that this one writes for images too; choose a "
                    "folder outside of it"
                )
                return [Notice("results_root", text)]
    return []


def _out_of_sight(draft: Draft, plan: Plan) -> list[str]:
    """The data on this machine, where the job sees no folder of it."""
    place = platform(draft.request.platform)
    if not place.apart or draft.request.on is not None:
        return []
    mounted = [Path(path) for path in (draft.platform_options.get("claims") or {}).values()]
    hidden = {
        field: uri
        for field, seen in plan.facts.data.items()
        if (uri := str(seen.get("uri") or "")).startswith("/")
        and not any(Path(uri).is_relative_to(folder) for folder in mounted)
    }
    return [
        f"{field}: a job of {place.name} sees no folder of this machine: {uri} must be in its "
        "image, or name a URL, or mount a claim: --platform-option 'claims={CLAIM: /FOLDER}'"
        for field, uri in hidden.items()
    ]


def _not_looked_at(draft: Draft, plan: Plan) -> list[Notice]:
    """A warning of each source that only the machine of the job sees."""
    stated = plan.request.images is not None
    more = "" if stated else "; --images N states how many images there are to train on"
    found = []
    for key, seen in plan.sources.items():
        if seen.get("why") == HIDDEN:
            text = (
                f"{seen['uri']} is not on this machine, and {plan.request.platform} mounts a "
                "folder there: that it exists, how much it holds and whether it can be read were "
                f"not looked at, and the job ends in ERROR where it cannot{more}"
            )
            found.append(Notice(key, text))
    return found


def _nodes_beside(draft: Draft, spec: Mapping[str, Any]) -> list[MaeError]:
    """Too many nodes, beside what else is wrong: alone, `take_nodes` refuses them."""
    most = draft.resources.nodes
    is_here = draft.request.platform == DEFAULT and draft.request.on is None
    nodes = nodes_of(draft.bundle.info, draft.action, spec, draft.environment)
    if most is None or nodes <= most or is_here:
        return []
    return [too_many_nodes(draft.action, nodes, most)]


def take_nodes(draft: Draft, plan: Plan) -> None:
    """The nodes that the spec asks for, where the platform has several.

    Raises:
        UsageError: it has fewer.
    """
    most = draft.resources.nodes
    plan.no_launch = task_of_several(draft.request)
    is_here = draft.request.platform == DEFAULT and draft.request.on is None
    if plan.nodes > 1 and most == 1 and is_here:
        plan.no_launch = only_one_node(plan.action, plan.nodes)
    elif most is not None and plan.nodes > most:
        raise too_many_nodes(plan.action, plan.nodes, most)
    elif plan.nodes > 1:
        plan.launch["nodes"] = plan.nodes
    plan.no_launch = plan.no_launch or draft.unseen
    if plan.no_launch is not None:
        plan.warnings.append(plan.no_launch)
    if draft.unseen is not None:
        plan.notices.append(
            f"the nodes of {draft.request.platform} are not known: the plan takes the GPUs and "
            "nodes of the spec as they are, and is not launched"
        )

    per_node = draft.environment.get("NUM_GPU_PER_NODE", "")
    if per_node.isdigit() and int(per_node) > plan.launch["processes"]:
        plan.notices.append(
            f"NUM_GPU_PER_NODE={per_node} is not used: the number of GPUs of a job is in its spec"
        )


def estimate_machine(plan: Plan, machine: Machine, exchanged: dict[str, Any]) -> None:
    """What the run takes of a machine that is described, and whether it fits."""
    plan.estimates["machine"] = describe(machine, plan, exchanged, plan.request.price)
    plan.warnings += notes_of(machine, plan)
    if plan.estimates["machine"].get("fits") is False:
        plan.warnings.append(too_large(machine, plan.estimates["machine"], plan))


def not_told(draft: Draft, plan: Plan) -> list[str]:
    """The fields that were given and that a command without a spec has no option for."""
    told = _told(draft.bundle, plan)
    left = sorted(draft.layers.given - told) if told is not None else []
    known = [key for key in left if get_dotted(plan.spec, key) not in (None, "")]
    found = [f"the command of {plan.action} does not receive {', '.join(known)}"] if known else []
    if told is None and (unseen := _unseen(draft, plan)):
        found.append(
            f"the command of {plan.action} has no {{config_path}}: {', '.join(unseen)} acts only "
            "where its runner finds the spec by itself, in $MAE_JOB_DIR"
        )
    if off := _turned_off(draft, plan, told):
        found.append(
            f"the options of {plan.action} have no word for false and null: {', '.join(off)} is "
            "left out, and its runner uses its own default"
        )
    return found


def results_elsewhere(draft: Draft, plan: Plan) -> list[str]:
    """A notice of the folders of results in a spec of another bundle that are outside the job's,
    since no table of the bundle says that they are its outputs."""
    bundle, action = draft.bundle, plan.action
    if bundle.info.get("validator"):
        return []
    inputs = bundle.action(action).get("inputs")
    read = {*bundle.data_rows(action), *(inputs if isinstance(inputs, Mapping) else ())}
    found = [
        f"{key}={value}"
        for name in ("results_dir", "output_dir")
        for key in (name, f"{action}.{name}")
        if isinstance(value := get_dotted(plan.spec, key), str)
        and key not in read
        and value not in ("", NOT_GIVEN)
        and not Path(value).is_relative_to(draft.job_dir)
    ]
    said = (
        "outside the job's folder, where progress, metrics and models are not looked for: "
        f"{', '.join(found)}; {found[0].partition('=')[0] if found else ''}=output_dir in the "
        f"bundle's spec_params.{action}, or an output of the action, keeps it inside"
    )
    return [said] if found else []


def _unseen(draft: Draft, plan: Plan) -> list[str]:
    """The fields that were given, where nothing in the command leads to the spec."""
    if draft.bundle.action(plan.action).get("mode") in ("args", "passthrough"):
        return []
    told = fields_told(draft.bundle, plan.action, plan.spec)
    return [] if told is None else sorted(draft.layers.given - told)


def _turned_off(draft: Draft, plan: Plan, told: frozenset[str] | None) -> list[str]:
    """The options that were given as false or null, against a default that says otherwise."""
    entry = draft.bundle.action(plan.action)
    if entry.get("mode") != "args":
        return []
    default = draft.layers.template or draft.layers.schema.get("default") or {}
    written = {*fields_named(draft.bundle, plan.action, plan.spec)}
    written |= {str(one).lstrip("-") for one in entry.get("flags") or ()}
    return [
        key
        for key in sorted(draft.layers.given - written)
        if (told is None or key in told)
        and _is_off(get_dotted(plan.spec, key, 0))
        and not _is_off(get_dotted(default, key))
        and get_dotted(default, key) not in ("", NOT_GIVEN)
    ]


def _is_off(value: Any) -> bool:
    return value is None or value is False


def _told(bundle: Bundle, plan: Plan) -> frozenset[str] | None:
    if bundle.action(plan.action).get("mode") not in ("args", "passthrough"):
        return None
    return fields_told(bundle, plan.action, plan.spec)


def _refuse_untold(bundle: Bundle, plan: Plan, study: StudyRecord) -> None:
    """Refuse a search of what the trials' commands do not receive: all would be the same.

    Raises:
        SpecError: a parameter is none of their options.
    """
    told = _told(bundle, plan)
    names = [str(item["name"]) for item in study["space"]["knobs"]]
    left = [] if told is None else [name for name in names if name not in told]
    if told is not None and left:
        raise SpecError(
            "the command does not receive what the study searches",
            field="automl.parameters",
            got=left,
            expected=", ".join(name for name in names if name in told) or "an option in `args`",
        )


def _refuse_untold_model(draft: Draft, told: frozenset[str] | None) -> None:
    """Refuse weights, and the model of a parent, where the command receives no field of theirs.

    Raises:
        UsageError: it receives none.
    """
    of_models = (*inferred_fields.OF_PARENT, *inferred_fields.OF_PTM)
    filled = [item.field for item in draft.inferred if item.function in of_models]
    if told is None or not filled or told.intersection(filled):
        return
    by_ptm = bool(draft.request.ptm)
    raise UsageError(
        f"the command of {draft.action} does not receive the model: it has no place for "
        f"{' or '.join(filled)}",
        field="ptm" if by_ptm else "parent_job_id",
        got=urls.redact(str(draft.request.ptm)) if by_ptm else draft.request.parent_job_id,
        expected=f"{{{filled[0]}}} or {{config_path}} in actions.{draft.action}.command, or an "
        "option in its args",
        hint=f"mend the bundle, or leave {'--ptm' if by_ptm else '--parent'} out",
    )


def _empty_patterns(bundle: Bundle, action: str, spec: Mapping[str, Any]) -> list[MaeError]:
    """The patterns of files among an action's inputs that match nothing; data is judged apart."""
    inputs = bundle.action(action).get("inputs")
    found: list[MaeError] = []
    for key, row in inputs.items() if isinstance(inputs, Mapping) else ():
        if not isinstance(row, Mapping) or row.get("type") != "local_glob":
            continue
        value = get_dotted(spec, str(key))
        for pattern in value if isinstance(value, list) else [value]:
            if isinstance(pattern, str) and pattern and key not in bundle.data_rows(action):
                found += no_match(str(key), pattern)
    return found


LESS_MEMORY = (
    "a smaller batch with train.accum_grad_batches, a smaller input_size or architecture, or "
    "train.gradient_checkpointing=true takes less"
)


LESS_OF_GRAPH = "a smaller input, fewer pictures to calibrate on or a smaller model takes less"
HOST = "host"
"""`memory_of` of an estimate of the machine's memory, whatever the device."""


def _too_large_for_memory(plan: Plan) -> list[Notice]:
    """A warning where the run is estimated to take more than the machine's memory."""
    needs = _beyond_memory(plan, plan.spec, plan.estimates)
    if needs is None:
        return []
    own = get_dotted(plan.spec, f"{plan.action}.batch_size")  # of an action that trains nothing
    if plan.estimates.get("memory_of") == HOST and not (own and own > 0):
        sides = [f"{plan.action}.{side}" for side in ("input_height", "input_width")]
        asked = [key for key in sides if get_dotted(plan.spec, key)]
        return [Notice([*asked, "model.arch"][0], f"{needs}; {LESS_OF_GRAPH}", serious=True)]
    field = f"{plan.action}.batch_size" if own and own > 0 else "dataset.batch_size"
    less = LESS_MEMORY if own is None else "a smaller batch takes less"
    return [Notice(field, f"{needs}; {less}", serious=True)]


def _beyond_memory(plan: Plan, spec: Mapping[str, Any], estimates: Mapping[str, Any]) -> str | None:
    """What to say where a run in main memory is estimated to take more than the machine has."""
    memory = estimates.get("memory_mb") or {}
    needed = memory.get("all_processes") or memory.get("total")
    on_cpu = plan.facts.device == "cpu" or get_dotted(spec, "train.accelerator") == "cpu"
    on_cpu = on_cpu or estimates.get("memory_of") == HOST
    there = plan.resources.memory_mb
    if not on_cpu or not there or not needed or needed <= there:
        return None
    return (
        f"the run is estimated to take {needed / 1024:,.0f} GiB of the memory of "
        f"{plan.resources.machine}, "
        f"which has {there / 1024:,.0f} GiB"
    )


def too_large(machine: Machine, found: Mapping[str, Any], plan: Plan) -> UsageError:
    """The warning that a run does not fit the memory of the machine's GPUs, with what would help of
    what the spec does not do yet."""
    ways = ["a smaller batch with train.accum_grad_batches"]
    if not get_dotted(plan.spec, "train.gradient_checkpointing"):
        ways.append("train.gradient_checkpointing=true")
    if get_dotted(plan.spec, "train.precision") == "fp32":
        ways.append("train.precision=" + ("bf16" if machine.has_bf16 else "fp16"))
    if get_dotted(plan.spec, "train.distributed_strategy") != "fsdp" and machine.world > 1:
        ways.append("train.distributed_strategy=fsdp")
    return UsageError(
        "the run may not fit the memory of the GPU",
        field="dataset.batch_size",
        got=f"{found['memory_gb_per_gpu']} GB",
        expected=f"less than {machine.memory_gb} GB",
        hint=", or ".join(filter(None, (", ".join(ways[:-1]), ways[-1]))),
    )


def survey_of(draft: Draft) -> Survey:
    """A look at the draft's data and machine."""
    return Survey(
        draft.bundle,
        draft.action,
        draft.layers.schema,
        draft.resources,
        draft.remote,
        classes=_classes_of(draft.parent),
        taught=inherit.taught_by(draft.bundle, draft.parent),
        environment=draft.environment,
        images=None if draft.request.images is None else count_of(draft.request.images),
        mounts=mounts_of(draft.request.platform, draft.platform_options),
    )


def _classes_of(parent: ParentInfo | None) -> list[str] | None:
    """The classes of a parent's model, where they are known."""
    return (parent.checkpoint_meta or {}).get("classes") if parent else None


def settle(draft: Draft, found: Resolution) -> None:
    """What a job changes in a merged spec."""
    for key, rule in draft.reasons.items():
        if found.provenance[key].kind is OriginKind.RECIPE:
            found.provenance[key] = Origin(OriginKind.RECIPE, rule)

    # An action's own folder would put the results outside the job folder. Upstream's specs have
    # ${results_dir}/train, which is inside.
    foreign = not draft.bundle.info.get("validator")
    for key in (f"{draft.action}.{name}" for name in draft.owned):
        value = get_dotted(found.spec, key)
        if foreign and isinstance(value, str) and Path(value).is_relative_to(draft.job_dir):
            continue
        if key not in draft.owned and value:
            found.notices.append(f"{key} of the spec is not used: a job writes into its own folder")
            set_dotted(found.spec, key, None)

    take_signatures(found, draft.secrets)
    if draft.resources.here:
        input_files.take_from_here(draft.bundle, draft.action, found.spec, draft.layers.given)
    judged = draft.bundle.info.get("validator") and said_of_model(draft.action, found.spec)
    if not judged:  # else a rule judges by what the model's file says
        contrary = inherit.contradictions(
            draft.action, draft.bundle.info, draft.parent, found.spec, draft.layers.given
        )
        own = () if draft.request.ptm else inferred_fields.OF_PTM
        of_parent = (*inferred_fields.OF_PARENT, *own)
        models = tuple(item.field for item in draft.inferred if item.function in of_parent)
        for error in contrary:  # that the model does not fit either is the same said again
            error.explains = models
        draft.problems += contrary
    if draft.decision.automl:
        hold_out(draft, found)


def hold_out(draft: Draft, found: Resolution) -> None:
    """A study needs a metric: without validation data a share of the training data is held out."""
    rows = (draft.bundle.info.get("data_sources") or {}).get(draft.action) or {}
    validation = [
        key
        for key, row in rows.items()
        if isinstance(row, Mapping) and row.get("source") == "eval_dataset"
    ]
    node = field_nodes(draft.layers.schema).get(VAL_FRACTION)
    if (
        node is None
        or get_dotted(found.spec, VAL_FRACTION) is not None
        or any(get_dotted(found.spec, key) for key in validation)
        or acts(node.get("applies_when"), found.spec)
    ):
        return

    set_dotted(found.spec, VAL_FRACTION, 0.1)
    found.provenance[VAL_FRACTION] = Origin(
        OriginKind.INFERRED, "AutoML needs a metric and there is no validation data"
    )
    found.notices.append(
        "no validation data: a seeded 10 % of the training images is held out for the metric"
    )


def _stage(info: Mapping[str, Any], spec: Mapping[str, Any]) -> str | None:
    key = (info.get("spec_shorthand_keys") or {}).get("stage")
    value = get_dotted(spec, key) if isinstance(key, str) else None
    return str(value) if value is not None else None


def estimate(bundle: Bundle, plan: Plan) -> None:
    """What the bundle's estimator says of the run."""
    if bundle.info.get("estimator"):
        function = entry_point(bundle.info["estimator"])
        plan.estimates = dict(function(plan.action, plan.spec, plan.facts) or {})
        plan.notices += plan.estimates.pop("notes", [])
        _keep_seconds(plan, plan.estimates)


def _keep_seconds(plan: Plan, estimates: dict[str, Any]) -> None:
    """Take what an estimator says of time out of its answer: `cost.time_of` makes one of it."""
    for name in ("seconds_per_step", "step_parts", "seconds_basis", "seconds"):
        if name in estimates:
            plan.seconds[name] = estimates.pop(name)


def describe_study(
    draft: Draft,
    plan: Plan,
    schema: Mapping[str, Any],
    survey: Survey,
    machine: Machine | None,
) -> None:
    """The study, and the disk that all its trials take.

    Trial 1 is the auto recipe, in a bundle that has one; a budget is that of the whole study.
    Where the spec as given takes more than that run leaves of it, the auto recipe is trial 0.
    """
    from mae_sdk.automl.options import parse

    bundle, launch = draft.bundle, plan.launch
    options = dict(plan.request.automl)
    seconds = _budget(draft)
    if seconds is not None:
        options.setdefault("timeout", seconds)
    auto, too_long = _auto_beside(draft, plan, survey, machine, seconds)
    there = range(plan.resources.gpus or 0) if launch["device_count"] else []
    untold: list[str] = []
    if parse(options).parameters is None:
        schema, untold = searched_by_default(schema, _told(bundle, plan))
    study = setup.describe(
        schema,
        plan.spec,
        plan.provenance,
        options,
        info=bundle.info,
        stated=stated_metric(bundle, plan.action),
        devices=launch["devices"] or there,
        processes=launch["processes"],
        auto=auto,
        auto_first=too_long is not None,
        references=draft.references,
        judge=_judge_of(bundle, plan),
        others={*bundle.actions} - {plan.action},
    )
    _refuse_untold(bundle, plan, study)
    if untold:
        plan.notices.append(
            f"not searched, since the command of {plan.action} does not receive "
            f"{'it' if len(untold) == 1 else 'them'}: {', '.join(untold)}"
        )
    plan.study = study
    first = study["objectives"][0]
    launch["best"] = {name: str(first[name]) for name in ("metric", "direction")}
    _say_of_study(draft, plan, study, auto, too_long)
    _estimate_trials(plan, study, bundle)


def _auto_beside(
    draft: Draft, plan: Plan, survey: Survey, machine: Machine | None, seconds: float | None
) -> tuple[dict[str, Any], str | None]:
    """What the auto recipe chooses for a trial of its own, and why the spec as given is not tried
    before it, if it is not."""
    info = draft.bundle.info
    if plan.request.recipe == AUTO or not info.get("auto_recipe") or not is_counted(plan.sources):
        return {}, None
    share = seconds and seconds_of_a_run(seconds, plan.request.automl)
    pace = draft.pace if machine is None else pace_of(machine, plan)
    auto, _ = recommend(draft.bundle, draft.layers, survey, share, pace)
    if machine is not None and "seconds_per_step" in plan.seconds:
        plan.seconds["seconds_per_step"] *= pace
    given = cost.time_of(info, plan).get("seconds_total")
    if seconds and share and given and given > seconds - share:
        return auto, f"it would take some {given:.0f} s of the budget of {seconds:.0f} s"
    return auto, None


def _say_of_study(
    draft: Draft,
    plan: Plan,
    study: StudyRecord,
    auto: Mapping[str, Any],
    too_long: str | None,
) -> None:
    """What a person should know of a search before it begins."""
    bundle = draft.bundle
    plan.warnings += _few_to_compare_by(plan.facts)
    plan.warnings += _whole_sets(bundle, plan, study)
    if _budget(draft) is not None and "timeout" in plan.request.automl:
        plan.notices.append(
            f"the study ends by automl.timeout={study['options']['timeout']:g} s; "
            f"budget={plan.request.budget} sizes the run of the auto recipe alone"
        )
    only = int(study["options"]["max_trials"]) == 1
    if only:
        what = "the auto recipe" if too_long else "the spec as given"
        text = f"1 trial runs {what} and searches nothing; 10 are the default"
        plan.warnings.append(Notice("automl.max_trials", text))
    plan.warnings += _idle_options(study["options"], plan, bundle)
    plan.notices += list(study["space"].get("notes") or [])
    plan.notices += _doubtful_ends(bundle, plan, study)
    if "auto_spec" in study and not only:
        plan.notices.append(_auto_trial(auto, 1))
    elif too_long and study["spec"] != plan.spec:
        plan.notices.append(f"the spec as given is not tried: {too_long}")
        plan.notices.append(_auto_trial(auto, 0))


def _estimate_trials(plan: Plan, study: StudyRecord, bundle: Bundle) -> None:
    """Time and disk of the trials, where the bundle can estimate them."""
    if not bundle.info.get("estimator"):
        return

    # A trial's spec is not quite the plan's: it may run shorter and keeps fewer checkpoints.
    function = entry_point(bundle.info["estimator"])
    facts = replace(plan.facts, steps_per_epoch=cost.steps_of_a_trial(bundle.info, plan))
    of_trial = dict(function(plan.action, setup.spec_of_trials(study), facts) or {})
    _keep_seconds(plan, of_trial)
    disk = of_trial.get("disk_mb")
    if disk:
        trials = int(study["options"]["max_trials"])
        total = round(disk["total"] * trials, 1)
        plan.estimates["disk_mb"] = {**disk, "trials": trials, "total": total}


def _few_to_compare_by(facts: Facts) -> list[Notice]:
    """A warning where the metric of the trials is that of few pictures."""
    judged = facts.judged
    if not judged or judged >= FEW_JUDGED:
        return []
    text = (
        f"the trials are compared by {judged} validation images, of which one is "
        f"{1 / judged:.0%}: the best of them is the luckiest; hold out more, or name more "
        "validation data"
    )
    return [Notice("automl", text)]


def _judge_of(bundle: Bundle, plan: Plan) -> Judge | None:
    """What the bundle's rules between fields refuse of a spec beside the plan's facts."""
    if not bundle.info.get("validator"):
        return None
    rules = entry_point(bundle.info["validator"])

    def refused(spec: Mapping[str, Any]) -> list[MaeError]:
        errors, _ = rules(plan.action, spec, plan.provenance, _facts_of_trial(bundle, plan, spec))
        return list(errors)

    return refused


def _facts_of_trial(bundle: Bundle, plan: Plan, spec: Mapping[str, Any]) -> Facts:
    """The plan's facts for a spec of another batch: that of a trial."""
    keys = setup.keys_of(bundle.info, spec)
    factor = 1.0
    for word in ("batch", "accumulate"):
        before, now = (get_dotted(one, keys.get(word, "")) for one in (plan.spec, spec))
        if isinstance(before, int) and isinstance(now, (int, float)) and before > 0 and now > 0:
            factor *= now / before
    batch, images = plan.facts.effective_batch, plan.facts.images
    if factor == 1.0 or batch is None:
        return plan.facts
    batch = max(1, round(batch * factor))
    steps = plan.facts.steps_per_epoch
    if steps is not None and images is not None:
        steps = -(-images // batch)
    return replace(plan.facts, effective_batch=batch, steps_per_epoch=steps)


def _whole_sets(bundle: Bundle, plan: Plan, study: Mapping[str, Any]) -> list[Notice]:
    """A warning where every searched size of a batch takes in all the images at once."""
    key = setup.keys_of(bundle.info, plan.spec).get("batch")
    images, processes = plan.facts.images, (plan.facts.processes or 1) * plan.facts.nodes
    for knob in study["space"]["knobs"]:
        values = knob.get("choices") or [knob.get("low"), knob.get("high")]
        if knob["name"] != key or not images or not all(is_number(one) for one in values):
            continue
        least = min(values)
        if least * processes >= images:
            text = (
                f"every value that is searched ({_spelled(values)}) holds all {images} training "
                "images at once: every trial takes the same one step an epoch, and differs at most "
                f"in a rate that is scaled by the batch; search below {-(-images // processes)}"
            )
            return [Notice(str(key), text)]
    return []


def _spelled(values: list[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values[:4]) + (" …" if len(values) > 4 else "")


def _doubtful_ends(bundle: Bundle, plan: Plan, study: Mapping[str, Any]) -> list[str]:
    """What the bundle's rules warn of at the ends of the ranges that the user gave, and the values
    of any range that the memory of the machine does not hold."""
    found = _too_large_values(bundle, plan, study)
    if not bundle.info.get("validator"):
        return found
    rules = entry_point(bundle.info["validator"])
    for knob in study["space"]["knobs"]:
        name = str(knob["name"])
        if name not in study["options"]["ranges"] or "low" not in knob or "[" in name:
            continue
        for end in (knob["low"], knob["high"]):
            spec = copy.deepcopy(setup.spec_of_trials(study))
            set_dotted(spec, name, end)
            facts = _facts_of_trial(bundle, plan, spec)
            _, warned = rules(plan.action, spec, plan.provenance, facts)
            found += [
                f"{name}={end:g}, an end of the range: {notice.message}"
                for notice in warned
                if notice.field == name
            ]
    return found


def _too_large_values(bundle: Bundle, plan: Plan, study: Mapping[str, Any]) -> list[str]:
    """The upper ends and the choices that are estimated to take more than the machine's memory,
    where the spec as given does not."""
    base = setup.spec_of_trials(study)
    if not bundle.info.get("estimator"):
        return []
    function = entry_point(bundle.info["estimator"])

    def said(spec: Mapping[str, Any]) -> str | None:
        return _beyond_memory(plan, spec, function(plan.action, spec, plan.facts) or {})

    found = []
    if said(base):
        return []
    for knob in study["space"]["knobs"]:
        name = str(knob["name"])
        for value in knob.get("choices") or [knob.get("high")]:
            spec = copy.deepcopy(dict(base))
            if "[" in name:
                continue
            set_dotted(spec, name, value)
            if needs := said(spec):
                found.append(f"{name}={value}, of the range that is searched: {needs}")
    return found


def _auto_trial(auto: Mapping[str, Any], number: int) -> str:
    """What the trial of the auto recipe is, with as many of its values as a line holds."""
    shown = [f"{key.rpartition('.')[2]}={value}" for key, value in auto.items()]
    few = ", ".join(shown[:12])
    return (
        f"trial {number} is the auto recipe ({few} …), and the search goes on around it; "
        "--recipe auto makes it the spec, automl.auto_recipe=false leaves it out"
    )


def warn_of_disk(plan: Plan, job_dir: Path) -> None:
    """Warn where the estimated checkpoints of all trials are more than the disk has free."""
    total = (plan.estimates.get("disk_mb") or {}).get("total")
    place = next((folder for folder in job_dir.parents if folder.is_dir()), None)
    if total is None or place is None:
        return
    free = shutil.disk_usage(place).free / 2**20
    if total <= free:
        return
    plan.warnings.append(
        StorageError(
            "the checkpoints may not fit",
            field="results_root",
            got=f"{free:,.0f} MiB free at {place}",
            expected=f"{total:,.0f} MiB",
            hint="make room, keep fewer checkpoints (train.keep_checkpoints, "
            "train.checkpoint_interval), or choose another results root",
        )
    )


def estimate_time(bundle: Bundle, plan: Plan) -> None:
    """The time of the run; what the estimator says of it is part of that."""
    trains = plan.action in (bundle.info.get("cost_keys") or {})
    if not trains and plan.parent is None:
        return  # nothing is known of the model that it will open
    if plan.estimates or plan.seconds or trains:
        plan.estimates["time"] = cost.time_of(bundle.info, plan)


def started_again(plan: Plan) -> list[str]:
    """A notice where the platform ends a run before its end, and starts it again."""
    stretch = platform(plan.request.platform).stretch(plan.platform_options)
    name = "seconds_total" if plan.study is None else "seconds_study"
    total = (plan.estimates.get("time") or {}).get(name)
    if stretch is None or stretch <= 0 or not total or total <= stretch:
        return []
    hours, times = total / 3600, math.ceil(total / stretch) - 1
    often = "once" if times == 1 else f"about {times:,} times"
    what = "run" if plan.study is None else "study"
    text = (
        f"the {what} is estimated to take {hours:,.1f} h, and {plan.request.platform} has it save "
        f"after {stretch / 3600:,.2g} h: it is started again {often} and goes on; a longer time "
        "limit needs fewer"
    )
    return [text]


def _idle_options(
    options: Mapping[str, Any], plan: Plan, bundle: Bundle
) -> list[MaeError | Notice | str]:
    """Warnings of options of a study that do nothing beside the others."""
    from mae_sdk.automl.setup import keys_of

    trials, found = int(options["max_trials"]), list[MaeError | Notice | str]()
    plateau, most = options.get("plateau"), options.get("max_epochs")
    if plateau and trials > 1 and plateau >= trials:
        text = f"{plateau} trials without a better one do not come in a study of {trials}"
        found.append(Notice("automl.plateau", f"{text}: it never ends early"))
    key = keys_of(bundle.info, plan.spec).get("epochs")
    epochs = get_dotted(plan.spec, key) if key else None
    if most and isinstance(epochs, int) and most > epochs:
        text = f"has no effect: {key}={epochs} is less; raise that one for longer trials"
        found.append(Notice("automl.max_epochs", text))
    if options.get("study") and not options.get("storage"):
        text = "has no effect: a name is of a study in a shared storage (automl.storage)"
        found.append(Notice("automl.study", text))
    return found


def too_little_time(plan: Plan) -> list[Notice]:
    """A warning where a study ends before one of its trials does."""
    timeout = plan.study and plan.study["options"].get("timeout")
    of_trial = (plan.estimates.get("time") or {}).get("seconds_total")
    if not timeout or not of_trial or timeout >= of_trial:
        return []
    text = (
        f"the study ends after {timeout:g} s, and one trial is estimated to take {of_trial:.0f} s: "
        "without a trial that ends, the job fails; give it the time of several trials, or fewer "
        "epochs (max_epochs)"
    )
    return [Notice("automl.timeout", text)]


def measure(bundle: Bundle, plan: Plan) -> None:
    """Time some steps of the planned run for its estimates; a run that fails is a warning."""
    try:
        found = cost.measure(bundle.info, plan)
    except MaeError as error:
        plan.warnings.append(error)
        return
    plan.estimates["measured"] = found
    plan.estimates["time"] = cost.time_of(bundle.info, plan, measured=found)


def recheck(bundle: Bundle, plan: Plan) -> None:
    """Before a launch: count the remote data that the plan left uncounted, and judge the spec
    again.

    Raises:
        MaeError: as `make_plan`; the data is missing, empty, or does not fit the spec.
    """
    try:
        schema = bundle.schema(plan.action)
    except MaeError:
        schema = {}
    parent = None if plan.parent is None else parent_info(plan.parent.id, plan.results_root)
    survey = Survey(
        bundle,
        plan.action,
        schema,
        plan.resources,
        remote=True,
        classes=_classes_of(parent),
        taught=inherit.taught_by(bundle, parent),
        environment={**os.environ, **{k: str(v) for k, v in plan.request.env.items()}},
        images=None if plan.request.images is None else count_of(plan.request.images),
        mounts=mounts_of(plan.request.platform, plan.platform_options),
    )
    found = Resolution(plan.spec, plan.provenance)
    judge(bundle, plan.action, schema, found, look=survey.look)
    plan.sources, plan.facts, plan.warnings = survey.sources, survey.facts, found.warnings
    raise_all(found.errors, plan.action)
