"""A plan becomes a job folder, whole under its final name or not at all, and is submitted."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.dialect import is_nested
from mae_skill.dotted import flatten, get_dotted, set_dotted
from mae_skill.errors import MaeError, NotFoundError, StorageError, UsageError
from mae_skill.placeholders import follow
from mae_skill.reader import dump_yaml

from mae_sdk import files
from mae_sdk.automl import setup
from mae_sdk.job import Job, awaits_launch, open_job, take_over
from mae_sdk.jobs import records
from mae_sdk.jobs.command_words import command_for
from mae_sdk.jobs.config_file import write_spec
from mae_sdk.jobs.outputs import fetch
from mae_sdk.jobs.records import Claimed, JobRecord
from mae_sdk.jobs.root import Root
from mae_sdk.jobs.secrets import known, redact_tree
from mae_sdk.plan.command import command_of
from mae_sdk.plan.cost import cost_key
from mae_sdk.plan.data import COUNTED_BY_CALLER, STATED
from mae_sdk.plan.inferred_fields import OF_PTM, OF_RESUME, function_of
from mae_sdk.plan.launch_record import gpu_ids_key
from mae_sdk.plan.make import job_id_for, mounts_of, recheck
from mae_sdk.plan.plan import Plan, is_counted
from mae_sdk.plan.repeat import notice_of_plan
from mae_sdk.plan.sources import hidden, is_images, names_files
from mae_sdk.run.options import name_site_file
from mae_sdk.run.platform import check_system, platform_for, submit, was_refused
from mae_sdk.run.process import identify
from mae_sdk.storage import transfer, urls

SLOW_SECONDS = 20.0
"""After this time between claim and start a caller looks again whether the job is still its own."""

_PACKAGES = ("mae-skill", "torch", "timm", "optuna")


def existing(action: str, results_root: Any, idempotency_key: str | None) -> Job | None:
    """The job that already has this idempotency key, or None.

    None too where its caller was lost before it had launched it: the same call launches it now.
    """
    if idempotency_key is None:
        return None
    root = Root(results_root)
    job = open_job(root, job_id_for(action, idempotency_key))
    try:
        return None if awaits_launch(job) else job
    except NotFoundError:
        return None


def launch(bundle: Bundle, plan: Plan) -> Job:
    """Launch a plan; a plan that has been launched already gives the same job again.

    Raises:
        UsageError: it is a run over several nodes, or of several tasks that nothing joins; or a
            plan for a machine or data that are not here.
        MaeError: remote data that does not fit the spec; the results root cannot be written; the
            platform did not take the job. Where it refused it for good nothing is left of the job;
            else its record says so, and `Job.resume` submits it again.
    """
    if (why_not := not_launched(plan)) is not None:
        raise why_not
    if plan.no_launch is not None:
        raise plan.no_launch
    check_system(platform_for(plan.request.platform, is_study=plan.study is not None))
    root, job_dir = Root(plan.results_root), Path(plan.job_dir)
    job = open_job(root, plan.job_id)
    if root.holds(plan.job_id):
        job.notices += notice_of_plan(bundle, plan, job)
    else:
        if not is_counted(plan.sources):
            recheck(bundle, plan)
        fetch(plan.inferred)
        _unpack(bundle, plan)
        _follow_spec(plan)
        if not _create(bundle, plan, root, job_dir):
            job.notices += notice_of_plan(bundle, plan, job)
            return job

    settings = {name: str(value) for name, value in plan.request.env.items()}
    try:
        submit(job_dir, {**settings, **plan.secrets})
    except MaeError as error:
        name_site_file(error, plan.request.platform, plan.request.platform_options)
        if was_refused(job_dir, error):
            with contextlib.suppress(MaeError, OSError):  # the first error tells more
                job.delete()
        elif root.remote:
            from mae_sdk.jobs import sync

            with contextlib.suppress(MaeError):
                sync.push(job_dir, root.job_url(plan.job_id))
        raise
    return job


def not_launched(plan: Plan) -> UsageError | None:
    """Why a plan for a machine or data that are not here is not launched; None where it is: the job
    finds images that their caller counted in a mounted folder, or behind a URL."""
    if plan.request.on is None and plan.request.images is None:
        return None
    if plan.request.on is None:
        told = [one for one in plan.sources.values() if one.get("why") == COUNTED_BY_CALLER]
        mounts = mounts_of(plan.request.platform, plan.platform_options)
        uris = [uri for one in told for uri in _listed(one["uri"])]
        if uris and all(urls.is_remote(uri) or hidden(uri, mounts) for uri in uris):
            return None
        if uris and STATED not in uris:
            return UsageError(
                "the images are here, where they are counted",
                field="images",
                got=plan.request.images,
                expected="images that only the machine of the job sees: behind a URL, or in a "
                "folder that the platform's options mount",
                hint="leave --images out",
            )
    return UsageError(
        "a plan for a machine or data that are not here is not launched",
        field="on" if plan.request.on is not None else "images",
        got=plan.request.on or plan.request.images,
        hint="plan it again where it is to run, without --on and --images; or name images that "
        "the job sees, behind a URL or in a folder that its platform mounts",
    )


def _listed(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _create(bundle: Bundle, plan: Plan, root: Root, job_dir: Path) -> bool:
    """Make the job; whether it is this call's to start.

    Behind a URL the claim is made while the folder stands ready beside its place: a scratch folder
    that cannot be written claims nothing, and what is claimed holds all that a launch needs.
    """
    files.remove_leftovers(job_dir.parent)
    record = record_of(bundle, plan)
    if not root.remote:
        with _folder(bundle, plan, job_dir, record):
            pass
        return True

    from mae_sdk.jobs import sync

    record["claim"] = sync.new_claim()
    url, ours = root.job_url(plan.job_id), False
    with _folder(bundle, plan, job_dir, record) as temporary:
        contents = {
            str(path.relative_to(temporary)): path.read_text(encoding="utf-8")
            for path in temporary.rglob("*")
            if path.is_file() and path.name != records.RECORD_NAME
        }
        me = identify()
        claimed: Claimed = {"process": me, "folder": str(job_dir), "files": contents}
        claimed_at = time.monotonic()
        first = sync.claim(url, {**record, "claimed": claimed})
        if first is not None:
            if not take_over(root, plan.job_id, first):
                raise _Another
            sync.replace_record(url, {**record, "claimed": claimed})
        ours = True

    # Whoever was stopped here for long may have been given up.
    if ours and time.monotonic() - claimed_at > SLOW_SECONDS:
        ours = Root(root.url).holds(plan.job_id)
    return ours


class _Another(Exception):
    """The job is another caller's."""


def _unpack(bundle: Bundle, plan: Plan) -> None:
    """Bring data for a runner that reads files and folders of this machine: archives are extracted
    (``runtime: extracted_folder``, or an input of type folder), and what is carried from behind a
    URL is fetched.

    Raises:
        DataError, StorageError: one is hostile or corrupt, or cannot be fetched.
    """
    inputs = bundle.action(plan.action).get("inputs")
    declared = inputs if isinstance(inputs, dict) else {}
    for key, row in bundle.data_rows(plan.action).items():
        value = get_dotted(plan.spec, key)
        images = is_images(row) and row.get("runtime") != "extracted_folder"
        if not value or images or not isinstance(row, dict):
            continue
        unpacked = row.get("runtime") == "extracted_folder" or _type(declared, key) == "folder"
        brought = _brought(row, value, declared, key, unpacked)
        if brought != value:
            _set(plan, key, brought)


def _type(declared: Mapping[str, Any], key: str) -> Any:
    row = declared.get(key)
    return row.get("type") if isinstance(row, Mapping) else None


def _brought(
    row: Mapping[str, Any], value: Any, declared: Mapping[str, Any], key: str, unpacked: bool
) -> Any:
    """A value of carried data with its paths on this machine."""
    mapping = row.get("mapping")
    if isinstance(value, list):
        return [
            _brought(row, one, declared, f"{key}[{at}]", unpacked) for at, one in enumerate(value)
        ]
    if isinstance(value, Mapping) and isinstance(mapping, Mapping):
        found = dict(value)
        for name, inner in mapping.items():
            if not isinstance(inner, Mapping) or not found.get(name):
                continue
            nested = is_nested(inner)
            part = {"mapping": inner} if nested else inner
            if nested or names_files(inner):
                # Of a list, the declaration names the first item.
                first = f"{key.partition('[')[0]}[0].{name}" if "[" in key else f"{key}.{name}"
                folder = (
                    unpacked
                    or inner.get("runtime") == "extracted_folder"
                    or _type(declared, first) == "folder"
                )
                found[name] = _brought(part, found[name], declared, f"{key}.{name}", folder)
        return found
    return _local(value, unpacked) if isinstance(value, str) else value


def _local(uri: str, unpacked: bool) -> str:
    """A path on this machine: an archive as a folder where that is wanted, a URL as what it names.

    Raises:
        DataError, StorageError: it is hostile or corrupt, or cannot be fetched.
    """
    from mae_sdk.data.cache import extracted_folder

    if not urls.is_remote(uri):
        folder = unpacked and urls.is_archive(uri) and urls.local_path(uri).is_file()
        return str(extracted_folder(uri)) if folder else uri
    is_file = transfer.exists(uri) and transfer.info(uri)["type"] == "file"
    if not is_file or (unpacked and urls.is_archive(uri)):
        return str(extracted_folder(uri))
    seen = transfer.info(uri)
    mark = f"{urls.unsigned(uri)}\0{seen['etag']}\0{seen['size']}\0{seen['mtime']}"
    place = files.cache_home() / "carried" / hashlib.sha256(mark.encode()).hexdigest()[:16]
    path = place.resolve() / urls.name_of(uri)
    if not path.is_file():
        transfer.download(uri, path)
    return str(path)


def _set(plan: Plan, key: str, value: Any) -> None:
    """Set a field of the plan's spec, and of its trials' spec; what refers to it follows."""
    specs = [plan.spec]
    if plan.study is not None:
        from mae_sdk.automl.setup import specs_of

        specs += specs_of(plan.study)
    for spec in specs:
        before = copy.deepcopy(spec)
        set_dotted(spec, key, value)
        if plan.references:
            made = follow(before, spec, plan.references, aliases=plan.aliases, fixed={key})
            spec.clear()
            spec.update(made)


def _follow_spec(plan: Plan) -> None:
    """Bring the words of the command that follow the spec to what the runner gets."""
    plan.launch["command"] = command_for(plan.launch, plan.spec, Path(plan.job_dir))


def record_of(bundle: Bundle, plan: Plan) -> JobRecord:
    """``job.json`` of a plan; it holds no secret."""
    rows = bundle.spec_params.get(plan.action) or {}
    functions = {key: function_of(row) for key, row in rows.items()}
    lost = bundle.misspelled_fields(plan.action)  # a runner finds no checkpoint there
    resume_keys = [key for key in _of(functions, OF_RESUME) if key not in lost]
    digests = [counted.get("digest") for counted in plan.sources.values()]
    key = plan.request.idempotency_key
    record: JobRecord = {
        "schema_version": records.SCHEMA_VERSION,
        "id": plan.job_id,
        "action": plan.action,
        "kind": "plain",
        "skill": bundle.name,
        "network_arch": bundle.info.get("network_arch"),
        "created_at": records.now(),
        "parent": plan.parent.id if plan.parent is not None else None,
        "platform": plan.request.platform,
        "platform_options": plan.platform_options,
        "results_root": urls.redact(plan.results_root),
        "idempotency_key": None if key is None else _digest(key),
        "spec_digest": _digest(dump_yaml(plan.spec)),
        "data": redact_tree(plan.sources, known()),
        "data_digest": _digest(json.dumps(digests)),
        "data_warnings": [
            str(item) for item in plan.warnings if getattr(item, "field", None) in plan.sources
        ],
        "warnings": redact_tree([str(item) for item in plan.warnings], known()),
        "notes": redact_tree([str(item) for item in plan.notes], known()),
        "changed": redact_tree(_changed(bundle, plan), known()),
        "model": redact_tree(_model(bundle, plan), known()),
        "policy": redact_tree(plan.policy.to_dict(), known()),
        "cost_key": cost_key(bundle.info, plan.action, plan.spec, plan.launch, plan.resources),
        "env_names": sorted({*plan.request.env, *plan.secrets}),
        "versions": dict(_versions()),
        "resume_keys": resume_keys,
        "ptm_keys": [key for key in _of(functions, OF_PTM) if key not in resume_keys],
        "launch": plan.launch,
        "attempts": [],
    }
    forms = bundle.input_forms(plan.action)
    if declared := {key: forms[key] for key in resume_keys if key in forms}:
        record["resume_forms"] = declared
    if lost_fields := [key for key in _of(functions, OF_RESUME) if key in lost]:
        record["resume_lost"] = lost_fields
    if plan.references:
        record["references"] = redact_tree(plan.references, known())
        record["aliases"] = plan.aliases
    if plan.request.skill_dir:
        record["skill_dir"] = str(Path(plan.request.skill_dir).resolve())
    if plan.parent is not None and plan.parent.best_child_of:
        record["parent_automl"] = plan.parent.best_child_of
    if plan.study is not None:
        record |= {"kind": "automl", "cost_key": None}
        record["launch"] = plan.launch | {
            "command": [sys.executable, "-m", "mae_sdk.automl.controller", plan.job_dir],
            "processes": 1,
            "result": f"{plan.action}/result.json",
            "devices": [],
            "device_count": 0,
        }
        record["launch"].pop("words", None)  # of its trials
    records.new_attempt(record)
    return record


def _changed(bundle: Bundle, plan: Plan) -> dict[str, dict[str, Any]]:
    """Every field whose value is not the template's: where it comes from, and the template's."""
    try:
        template = flatten(bundle.template(plan.action))
    except MaeError:  # a bundle without one runs plainly
        template = {}
    return {
        key: {"origin": str(plan.provenance.get(key, "default")), "default": template.get(key)}
        for key, value in flatten(plan.spec).items()
        if key != "results_dir" and value != template.get(key)
    }


def _model(bundle: Bundle, plan: Plan) -> dict[str, str | None]:
    """Stage and architecture, by the shorthand keys of the bundle."""
    keys = bundle.shorthand
    found: dict[str, str | None] = {}
    for name in ("stage", "arch"):
        key = keys.get(name) if isinstance(keys, dict) else None
        value = get_dotted(plan.spec, str(key)) if key else None
        found[name] = value if isinstance(value, str) else None
    return {**found, "stage": found["stage"] or plan.stage}


def _of(functions: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """The fields that one of these functions fills."""
    return [key for key, function in functions.items() if function in names]


@cache
def _versions() -> dict[str, str]:
    """The versions of what trains; an installation does not change under a running program."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _folder(bundle: Bundle, plan: Plan, job_dir: Path, record: JobRecord) -> Iterator[Path]:
    """The job's folder, whole beside its place; it is given its name afterward.

    If another caller created the folder first, it is kept.
    """
    key = gpu_ids_key(bundle.info, plan.action, plan.spec)
    if key and plan.launch["device_count"]:
        # The job sees only the devices that it is given, counted from 0.
        _set(plan, key, list(range(plan.launch["device_count"])))
        _follow_spec(plan)

    # What a copy of a job has left on this machine is in the way of the job itself.
    replace = "claim" in record
    try:
        with files.atomic_folder(job_dir, replace=replace) as temporary:
            write_spec(temporary, plan.spec, plan.launch.get("config"))
            if plan.study is not None:
                _write_study(bundle, plan, temporary)
            files.write_json(temporary / records.RECORD_NAME, record)
            yield temporary
    except _Another:
        pass
    except OSError as error:
        if replace or not (job_dir / records.RECORD_NAME).exists():
            raise StorageError(
                f"the job's folder cannot be written: {error}",
                field="results_root",
                got=str(job_dir.parent),
                hint="choose another results root, or fix its permissions or its disk",
            ) from None


def _write_study(bundle: Bundle, plan: Plan, folder: Path) -> None:

    assert plan.study is not None
    command = command_of(bundle, plan.action, plan.spec)
    launch = {**plan.launch, "command": list(command.words)}
    if plan.launch.get("remote"):
        launch["remote"] = Root(plan.results_root).url + "/{job_id}"
    warm = str(bundle.info.get("warm_command") or "").split()
    setup.write(folder, plan.study, launch, action=plan.action, warm_command=warm)
