"""A call with the idempotency key of a job that is there gets that job: what else it asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.diff import diff_specs
from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError
from mae_skill.resolve import resolve
from mae_skill.spelling import and_more

from mae_sdk.job import Job, spec_of, study_options
from mae_sdk.jobs import records
from mae_sdk.plan.launch_record import gpu_ids_key
from mae_sdk.plan.make import drafted, settle
from mae_sdk.plan.plan import Plan
from mae_sdk.plan.request import Request
from mae_sdk.storage import urls

MOST_KEYS = 12
"""Differing keys that a notice names."""

#: what these give lies in the job's own folder, wherever that is on a machine
_PLACED = ("output_dir", "create_onnx_file", "create_engine_file")


def notice_of_plan(bundle: Bundle, plan: Plan, job: Job) -> list[str]:
    """What `plan` asks for otherwise than the job that has its key, in one sentence, or nothing."""
    parent = plan.parent.id if plan.parent is not None else None
    try:
        return _notice(
            job, _differing(bundle, job, plan.request, plan.spec, plan.policy.automl, parent)
        )
    except MaeError as error:
        return _not_compared(job, error)


def notice_of_call(bundle: Bundle, action: str, options: Mapping[str, Any], job: Job) -> list[str]:
    """`notice_of_plan` of a call that nobody has planned; its data is not counted."""
    try:
        draft = drafted(bundle, Request.of(action, options))
        merged = resolve(
            bundle, action, draft.layers, settle=lambda spec: settle(draft, spec), look=None
        )
        parent = draft.parent.id if draft.parent is not None else None
        searches = draft.decision.automl
        return _notice(job, _differing(bundle, job, draft.request, merged.spec, searches, parent))
    except MaeError as error:
        return _not_compared(job, error)


def _not_compared(job: Job, error: MaeError) -> list[str]:
    text = f"{job.id} has this idempotency key and is returned as it is; what this call asks for "
    return [f"{text}was not compared with it: {error.message}"]


def _notice(job: Job, keys: list[str]) -> list[str]:
    if not keys:
        return []
    named = and_more(keys, MOST_KEYS)
    text = f"{job.id} has this idempotency key and is returned as it is, but this call asks for "
    return [f"{text}another job: {named} differ (another key makes another job)"]


def _differing(
    bundle: Bundle,
    job: Job,
    request: Request,
    spec: Mapping[str, Any],
    searches: bool,
    parent: str | None,
) -> list[str]:
    """The fields of the spec and the options that differ.

    Raises:
        MaeError: the job's spec cannot be read.
    """
    record, action, found = job.record, request.action, []
    if record.get("platform") != request.platform:
        found.append("platform")
    if record.get("parent") != parent:
        found.append("parent_job_id")
    if (record.get("kind") == "automl") != searches:
        found.append("automl_policy")
    elif searches:
        found += [f"automl.{name}" for name in _options(job, request)]

    theirs = spec_of(job)
    if not theirs:  # of a job behind a URL that is being launched elsewhere
        return found
    extracted, set_by_launch = _sources(bundle, action), _set_by_jobs(bundle, action, spec, record)
    for row in diff_specs(theirs, spec):
        key = row["key"]
        if key not in set_by_launch and key not in extracted:
            found.append(key)
    seen = record.get("data") or {}
    found += [
        key
        for key in extracted
        if (seen.get(key) or {}).get("uri") != _shown(get_dotted(spec, key))
    ]
    return found


def _options(job: Job, request: Request) -> list[str]:
    from mae_sdk.automl.options import parse

    theirs, ours = study_options(job), parse(request.automl).to_dict()
    return [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]


def _sources(bundle: Bundle, action: str) -> list[str]:
    """The sources that a job's spec names by the folder that they were extracted into."""
    rows = (bundle.info.get("data_sources") or {}).get(action) or {}
    return [
        str(key)
        for key, row in rows.items()
        if isinstance(row, Mapping) and row.get("runtime") == "extracted_folder"
    ]


def _shown(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        shown = [urls.redact(str(one)) for one in value]
        return shown[0] if len(shown) == 1 else shown
    return urls.redact(str(value)) if value else None


def _set_by_jobs(
    bundle: Bundle, action: str, spec: Mapping[str, Any], record: records.ShownRecord
) -> set[str]:
    """The fields that a launch or a resume sets by itself."""
    rows = bundle.spec_params.get(action) or {}
    placed = {key for key, row in rows.items() if str(row).split(",")[0].strip() in _PLACED}
    gpu_ids = gpu_ids_key(bundle.info, action, spec)
    resumed = set(record.get("resume_keys") or ())
    if len(record["attempts"]) > 1:
        resumed |= set(record.get("ptm_keys") or ())
    return placed | resumed | ({gpu_ids} if gpu_ids else set())
