"""Making a plan's job: a whole folder under its final name, or nothing; then the launch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_skill.dotted import get_dotted, set_dotted
from mae_skill.errors import StorageError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.root import Root
from mae_sdk.plan.plan import Plan

if TYPE_CHECKING:
    from mae_sdk.job import Job

RESUME = ("resume_model", "resume_model_or_ptm")
PRETRAINED = ("ptm_if_no_resume_model", "ptm")


def existing(action: str, results_root: Any, idempotency_key: str | None) -> Job | None:
    """The job that already has this idempotency key, or None."""
    if idempotency_key is None:
        return None
    from mae_skill.errors import NotFoundError

    from mae_sdk.job import open_job
    from mae_sdk.plan.make import job_id_for

    root = Root(results_root)
    job_id = job_id_for(action, idempotency_key)
    try:
        root.record(job_id)
    except NotFoundError:
        return None
    return open_job(root, job_id)


def create(bundle: Any, plan: Plan) -> Job:
    """Launch a plan; a plan that has been launched already gives the same job again.

    Raises:
        MaeError: remote data that does not fit the spec; the results root cannot be written.
    """
    from mae_sdk.job import open_job
    from mae_sdk.plan.make import recheck
    from mae_sdk.run.platform import submit

    root = Root(plan.results_root)
    job_dir = Path(plan.job_dir)
    if not (job_dir / records.RECORD_NAME).exists():
        recheck(bundle, plan)
        from mae_sdk.jobs.outputs import fetch

        fetch(plan.applied)
        _unpack(bundle, plan)
        record = record_of(bundle, plan)
        if root.remote:
            from mae_sdk.jobs.sync import claim

            if claim(root.job_url(plan.job_id), record) is not None:
                return open_job(root, plan.job_id)
        _write_folder(bundle, plan, job_dir, record)
    environment = {**{name: str(value) for name, value in plan.request.env.items()}, **plan.secrets}
    submit(job_dir, environment)
    return open_job(root, plan.job_id)


def _unpack(bundle: Any, plan: Plan) -> None:
    """Archives and prefixes that the bundle's runner wants as folders (``runtime: extracted_folder``) become folders of the cache.

    Raises:
        DataError, StorageError: one is hostile or corrupt, or cannot be fetched.
    """

    for key, row in ((bundle.info.get("data_sources") or {}).get(plan.action) or {}).items():
        value = get_dotted(plan.spec, key)
        if not isinstance(row, dict) or row.get("runtime") != "extracted_folder" or not value:
            continue
        from mae_sdk.data.cache import extracted_folder

        folders = [
            str(extracted_folder(one)) for one in ([value] if isinstance(value, str) else value)
        ]
        for spec in (plan.spec, *([plan.study["spec"]] if plan.study is not None else [])):
            set_dotted(spec, key, folders[0] if isinstance(value, str) else folders)


def record_of(bundle: Any, plan: Plan) -> records.JobRecord:
    """``job.json`` of a plan; it holds no secret."""
    from importlib.metadata import PackageNotFoundError, version

    from mae_skill.reader import dump_yaml

    from mae_sdk.storage import urls

    rows = bundle.spec_params.get(plan.action) or {}
    from mae_sdk.plan.cost import cost_key

    versions = {}
    for name in ("mae-skill", "torch", "timm", "optuna"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    launch = plan.launch.copy()
    if plan.study is not None:
        import sys

        launch |= {
            "command": [sys.executable, "-m", "mae_sdk.automl.controller", plan.job_dir],
            "processes": 1,
            "result": "train/result.json",
            "devices": [],
            "device_count": 0,
        }
    parent = plan.parent or {}
    record: records.JobRecord = {
        "schema_version": records.SCHEMA_VERSION,
        "id": plan.job_id,
        "action": plan.action,
        "kind": "automl" if plan.study is not None else "plain",
        "skill": str(bundle.info.get("name") or ""),
        "created_at": records.now(),
        "parent": parent.get("id"),
        "platform": plan.request.platform,
        "results_root": urls.redact(plan.results_root),
        "idempotency_key": None
        if plan.request.idempotency_key is None
        else _digest(plan.request.idempotency_key),
        "spec_digest": _digest(dump_yaml(plan.spec)),
        "data": plan.sources,
        "data_digest": _digest(json.dumps([seen.get("digest") for seen in plan.sources.values()])),
        "policy": plan.policy,
        "cost_key": None
        if plan.study is not None
        else cost_key(bundle.info, plan.action, plan.spec, plan.launch, plan.resources),
        "env_names": sorted({*plan.request.env, *plan.secrets}),
        "versions": versions,
        "resume_keys": [key for key, row in rows.items() if _function(row) in RESUME],
        "ptm_keys": [key for key, row in rows.items() if _function(row) in PRETRAINED],
        "launch": launch,
        "attempts": [],
    }
    if parent.get("best_child_of"):
        record["parent_automl"] = parent["best_child_of"]
    records.new_attempt(record)
    return record


def _function(row: Any) -> str:
    return str(row.get("function")) if isinstance(row, dict) else str(row).split(",", 1)[0].strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write_folder(bundle: Any, plan: Plan, job_dir: Path, record: records.JobRecord) -> None:
    """Build beside, then rename: the folder is there whole or not at all. Another caller's folder, come first, is left as it is."""
    from mae_skill.reader import dump_yaml

    from mae_sdk.plan.launch_record import gpu_ids_key

    launch = plan.launch
    key = gpu_ids_key(bundle.info, plan.action, plan.spec)
    if key and launch["devices"]:
        # The job sees only the devices that it is given, counted from 0.
        for spec in (plan.spec, *([plan.study["spec"]] if plan.study is not None else [])):
            set_dotted(spec, key, list(range(launch["device_count"])))
    try:
        with files.atomic_folder(job_dir) as temporary:
            files.write_text(temporary / "spec.yaml", dump_yaml(plan.spec))
            if plan.study is not None:
                _write_study(bundle, plan, temporary)
            files.write_json(temporary / records.RECORD_NAME, record)
    except OSError as error:
        if not (job_dir / records.RECORD_NAME).exists():
            raise _unwritable(job_dir, error) from None


def _unwritable(job_dir: Path, error: OSError) -> StorageError:
    hint = "choose another results root, or mend its permissions or its disk"
    return StorageError(
        f"the job's folder cannot be written: {error}",
        field="results_root",
        got=str(job_dir.parent),
        hint=hint,
    )


def _write_study(bundle: Any, plan: Plan, folder: Path) -> None:
    from mae_sdk.automl import setup
    from mae_sdk.plan.launch_record import words

    assert plan.study is not None
    command = words(bundle.info["actions"][plan.action] or {}, plan.action)
    launch = {**plan.launch, "command": command}
    if plan.launch.get("remote"):
        launch["remote"] = Root(plan.results_root).url + "/{job_id}"
    warm = str(bundle.info.get("warm_command") or "").split()
    setup.write(folder, plan.study, launch, action=plan.action, warm_command=warm)
